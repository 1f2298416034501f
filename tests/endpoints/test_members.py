"""What may stand in a field of a request or answer: checked when it is made, whoever makes it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given

from json_strategies import nested, with_frames_left
from matrix_e2e_keys import (
    DeviceListUpdate,
    E2EKeysError,
    KeysChangesRequest,
    KeysChangesResponse,
    KeysClaimRequest,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    KeysUploadResponse,
    LocalProtocolError,
    Reason,
    SendToDeviceRequest,
    SendToDeviceResponse,
    UserDevicesRequest,
)
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")


def refusal(make: Callable[[], object]) -> tuple[str, Reason]:
    with pytest.raises(LocalProtocolError) as caught:
        make()
    return caught.value.path, caught.value.reason


def update(**members: Any) -> DeviceListUpdate:
    return DeviceListUpdate(**{"user_id": "@a:b", "device_id": "D", "stream_id": 1, **members})


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Names(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, **members: Any) -> None:
        self._members = members

    def __getitem__(self, name: str) -> Any:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class TestSingleValues:
    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            (5, Reason.WRONG_TYPE),
            (b"x", Reason.WRONG_TYPE),
            (["x"], Reason.WRONG_TYPE),
            (Text("x"), Reason.WRONG_TYPE),
            ("\ud800", Reason.LONE_SURROGATE),
            ("a\udfffü", Reason.LONE_SURROGATE),
        ],
        ids=repr,
    )
    def test_strings(self, value: Any, reason: Reason) -> None:
        make = lambda: SendToDeviceRequest(event_type=value, txn_id="1", messages={})  # noqa: E731
        assert refusal(make) == ("/event_type", reason)

    @pytest.mark.parametrize("value", ["", ".", "..", "x", "ü\N{PILE OF POO}", "\x00", "/"])
    def test_strings_that_are_good(self, value: str) -> None:
        assert KeysChangesRequest(from_token=value, to_token=value).to_token == value

    @pytest.mark.parametrize("value", ["...", ". ", "./", "x", "ü\N{PILE OF POO}", "\x00", "/", "%2E"])
    def test_segments_of_paths_that_are_good(self, value: str) -> None:
        request = SendToDeviceRequest(event_type=value, txn_id=value, messages={})
        assert (request.event_type, request.txn_id) == (value, value)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("", Reason.INVALID_IDENTIFIER),
            (".", Reason.INVALID_IDENTIFIER),
            ("..", Reason.INVALID_IDENTIFIER),
            (None, Reason.WRONG_TYPE),
            (Text(".x"), Reason.WRONG_TYPE),
            ("..\ud800", Reason.LONE_SURROGATE),
        ],
        ids=repr,
    )
    def test_segments_of_paths(self, value: Any, reason: Reason) -> None:
        assert refusal(lambda: SendToDeviceRequest(event_type=value, txn_id="1", messages={})) == (
            "/event_type",
            reason,
        )
        assert refusal(lambda: SendToDeviceRequest(event_type="m", txn_id=value, messages={})) == ("/txn_id", reason)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            (5, Reason.WRONG_TYPE),
            (b"@a:b", Reason.WRONG_TYPE),
            ("", Reason.INVALID_IDENTIFIER),
            ("alice", Reason.INVALID_IDENTIFIER),
            ("@a:b:c:d", Reason.INVALID_IDENTIFIER),
            ("@\ud800:b", Reason.INVALID_IDENTIFIER),
        ],
        ids=repr,
    )
    def test_user_ids(self, value: Any, reason: Reason) -> None:
        assert refusal(lambda: UserDevicesRequest(user_id=value)) == ("/user_id", reason)
        assert refusal(lambda: KeysChangesResponse(changed=("@a:b", value))) == ("/changed/1", reason)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (5, Reason.WRONG_TYPE),
            (b"D", Reason.WRONG_TYPE),
            ("", Reason.INVALID_IDENTIFIER),
            ("x" * 513, Reason.INVALID_IDENTIFIER),
            ("\ud800", Reason.INVALID_IDENTIFIER),
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_device_ids(self, value: Any, reason: Reason) -> None:
        assert refusal(lambda: KeysUploadRequest(device_id=value)) == ("/device_id", reason)

    def test_what_is_not_there(self) -> None:
        assert KeysUploadRequest(device_id=None).device_id is None
        assert KeysQueryRequest(device_keys={}, timeout=None).timeout is None

    @pytest.mark.parametrize("value", [None, 0, 1, "true", Number(1)], ids=repr)
    def test_booleans(self, value: Any) -> None:
        assert refusal(lambda: update(deleted=value)) == ("/deleted", Reason.WRONG_TYPE)
        assert update(deleted=True).deleted is True

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            (True, Reason.WRONG_TYPE),
            (1.0, Reason.WRONG_TYPE),
            ("1", Reason.WRONG_TYPE),
            (Number(1), Reason.WRONG_TYPE),
            (2**53, Reason.INTEGER_OUT_OF_RANGE),
            (-(2**53), Reason.INTEGER_OUT_OF_RANGE),
            (2**100_000, Reason.INTEGER_OUT_OF_RANGE),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_integers(self, value: Any, reason: Reason) -> None:
        assert refusal(lambda: update(stream_id=value)) == ("/stream_id", reason)
        if value is not None:
            assert refusal(lambda: KeysQueryRequest(device_keys={}, timeout=value)) == ("/timeout", reason)

    @pytest.mark.parametrize("value", [0, -1, 2**53 - 1, -(2**53) + 1])
    def test_integers_that_are_good(self, value: int) -> None:
        assert update(stream_id=value).stream_id == value

    @pytest.mark.parametrize("value", [-1, -(2**53) + 1])
    def test_counts_are_not_negative(self, value: int) -> None:
        expected = ("/one_time_key_counts/signed_curve25519", Reason.INVALID_VALUE)
        make = lambda: KeysUploadResponse(one_time_key_counts={"signed_curve25519": value})  # noqa: E731
        assert refusal(make) == expected
        assert refusal(lambda: KeysQueryRequest(device_keys={}, timeout=value)) == ("/timeout", Reason.INVALID_VALUE)
        assert KeysUploadResponse(one_time_key_counts={"x": 0, "": 2**53 - 1}).one_time_key_counts["x"] == 0


class TestPassedOn:
    @pytest.mark.parametrize(
        ("value", "path", "reason"),
        [
            (object(), "", Reason.NOT_A_JSON_VALUE),
            (b"x", "", Reason.NOT_A_JSON_VALUE),
            ((1,), "", Reason.NOT_A_JSON_VALUE),
            ({1}, "", Reason.NOT_A_JSON_VALUE),
            (Text("x"), "", Reason.NOT_A_JSON_VALUE),
            (Number(1), "", Reason.NOT_A_JSON_VALUE),
            (Names(a=1), "", Reason.NOT_A_JSON_VALUE),
            ([0, {"a/b": 1j}], "/1/a~1b", Reason.NOT_A_JSON_VALUE),
            ([{1.5: 1}, object()], "/0/<float>", Reason.NOT_A_JSON_VALUE),
            ({5: 1}, "/<int>", Reason.NOT_A_JSON_VALUE),
            ({"a": 1, Text("b"): 1}, "/<Text>", Reason.NOT_A_JSON_VALUE),
            ([{None: {}}], "/0/<NoneType>", Reason.NOT_A_JSON_VALUE),
            (float("nan"), "", Reason.NOT_AN_INTEGER),
            ([1, float("inf")], "/1", Reason.NOT_AN_INTEGER),
            ({"a": [{"b": float("-inf")}]}, "/a/0/b", Reason.NOT_AN_INTEGER),
            ([[1], [[2], [3, float("nan"), object()]]], "/1/1/1", Reason.NOT_AN_INTEGER),
            ({"a/b": {"c~d": {"": [[], object()]}}}, "/a~1b/c~0d//1", Reason.NOT_A_JSON_VALUE),
            (2**100_000, "", Reason.INTEGER_OUT_OF_RANGE),
            (2**13_289, "", Reason.INTEGER_OUT_OF_RANGE),
            ([-(2**100_000)], "/0", Reason.INTEGER_OUT_OF_RANGE),
            ({"a": [0, {"b": 2**13_289}]}, "/a/1/b", Reason.INTEGER_OUT_OF_RANGE),
            (nested(5000), "/0" * 384, Reason.TOO_DEEP),
            (nested(385), "/0" * 384, Reason.TOO_DEEP),
            ([0, nested(384)], "/1" + "/0" * 383, Reason.TOO_DEEP),
            ({"a": nested(384, of="dict", core={})}, "/a" + "/a" * 383, Reason.TOO_DEEP),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_is_no_json(self, value: Any, path: str, reason: Reason) -> None:
        found, why = refusal(lambda: SendToDeviceResponse(extra={"x": value}))
        assert (found, why) == ("/extra/x" + path, reason)
        assert refusal(lambda: KeysClaimRequest(one_time_keys={}, extra={"x": value})) == ("/extra/x" + path, reason)

    def test_as_deep_as_it_may_be(self) -> None:
        value = nested(384)
        assert SendToDeviceResponse(extra={"x": value}).extra == {"x": value}
        assert KeysQueryResponse(failures={"x": value}).failures == {"x": value}
        inside: Any = SendToDeviceResponse(extra={"x": value}).extra["x"]
        for _ in range(383):
            (inside,) = inside
        assert inside == [None]

    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            (2**53, 9007199254740992),
            (-(10**3999), -(10**3999)),
            (2**100_000, "an integer of about 30103 digits"),
            (-(2**100_000), "an integer of about 30103 digits"),
            (10**5000, "an integer of about 5000 digits"),
        ],
        ids=["just too large", "as long as can be", "huge", "huge and negative", "ten to the 5000th"],
    )
    def test_an_integer_that_was_received_is_kept(self, value: int, kept: int | str) -> None:
        response = SendToDeviceResponse.from_json({"x": value, "y": [{"z": value}]})
        assert response.extra == {"x": kept, "y": [{"z": kept}]}
        assert response.to_json() == {"x": kept, "y": [{"z": kept}]}
        assert SendToDeviceResponse.from_json(response.to_json()) == response
        assert KeysQueryResponse.from_json({"failures": {"c.example": value}}).failures == {"c.example": kept}

    def test_what_contains_itself(self) -> None:
        value: list[Any] = []
        value.append(value)
        assert refusal(lambda: SendToDeviceResponse(extra={"x": value})) == ("/extra/x" + "/0" * 384, Reason.TOO_DEEP)
        named: dict[str, Any] = {"a": 1}
        named["b/"] = [0, named]
        path = "/extra/x" + "/b~1/1" * 192
        assert refusal(lambda: SendToDeviceResponse(extra={"x": named})) == (path, Reason.TOO_DEEP)

    def test_what_stands_there_twice_does_not_contain_itself(self) -> None:
        shared: list[Any] = [1]
        assert SendToDeviceResponse(extra={"x": [shared, {"y": shared}]}).extra == {"x": [[1], {"y": [1]}]}

    @pytest.mark.parametrize(
        "value", [1.5, -0.0, 1e300, 2**53, -(10**600), "\ud800", {"\udfff": [None]}, [True, {"a": {}}]], ids=repr
    )
    def test_what_canonical_json_does_not_know(self, value: Any) -> None:
        response = SendToDeviceResponse(extra={"x": value})
        assert repr(response.extra["x"]) == repr(value)
        assert repr(response.to_json()["x"]) == repr(value)

    @pytest.mark.parametrize(
        ("value", "path"),
        [(None, ""), (5, ""), ("x", ""), ([], ""), ([("a", 1)], ""), ({1: 2}, ""), ({"a": 1, None: 2}, "")],
        ids=repr,
    )
    def test_what_is_no_object(self, value: Any, path: str) -> None:
        assert refusal(lambda: SendToDeviceResponse(extra=value)) == ("/extra" + path, Reason.WRONG_TYPE)
        assert refusal(lambda: KeysQueryResponse(failures=value)) == ("/failures" + path, Reason.WRONG_TYPE)

    @pytest.mark.parametrize(
        "value", [Names(a=1), MappingProxyType({"a": 1}), {"a": 1}], ids=lambda v: type(v).__name__
    )
    def test_any_mapping_will_do(self, value: Mapping[str, Any]) -> None:
        assert SendToDeviceResponse(extra=value).extra == {"a": 1}

    def test_a_member_that_the_specification_names(self) -> None:
        assert refusal(lambda: KeysQueryRequest(device_keys={}, extra={"x": 1, "timeout": 5})) == (
            "/extra/timeout",
            Reason.INVALID_VALUE,
        )
        assert KeysQueryRequest(device_keys={}, extra={"Timeout": 5, "": 1}).to_json() == {
            "device_keys": {},
            "Timeout": 5,
            "": 1,
        }

    def test_later_changes_by_the_caller_do_not_show(self) -> None:
        inner: dict[str, Any] = {"a": [{"b": 1}]}
        response = SendToDeviceResponse(extra=inner)
        inner["a"][0]["b"] = 2
        inner["c"] = 3
        assert response.extra == {"a": [{"b": 1}]}
        body: Any = response.to_json()
        body["a"][0]["b"] = 4
        assert response.extra == {"a": [{"b": 1}]}
        with pytest.raises(TypeError):
            response.extra["a"] = 5  # type: ignore[index]
        response.extra["a"][0]["b"] = 6
        next(iter(response.extra.values())).clear()
        assert response.extra == {"a": [{"b": 1}]}

    def test_it_is_a_mapping(self) -> None:
        extra = SendToDeviceResponse(extra={"a": [1], "b": None}).extra
        assert (list(extra), len(extra), "b" in extra, "c" in extra) == (["a", "b"], 2, True, False)
        assert extra == SendToDeviceResponse(extra={"b": None, "a": [1]}).extra
        assert extra != SendToDeviceResponse(extra={"a": [1]}).extra
        assert repr(extra) == "<JsonView with the members ['a', 'b']>"
        with pytest.raises(KeyError):
            extra["c"]

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        before = repr(value)
        for make in (
            lambda: SendToDeviceResponse(extra={"x": value}),
            lambda: SendToDeviceResponse(extra=value),
            lambda: KeysUploadResponse(one_time_key_counts=value),
            lambda: KeysChangesResponse(changed=value),
            lambda: update(stream_id=value, prev_ids=value),
            lambda: update(prev_ids=value),
            lambda: update(deleted=value),
        ):
            try:
                made: Any = make()
            except LocalProtocolError:
                continue
            made.to_json()
        assert repr(value) == before

    @pytest.mark.parametrize("of", ["list", "dict"])
    def test_near_the_recursion_limit(self, of: str) -> None:
        """attack 9: a value or one of our errors, however little of the stack is left."""
        value = nested(110, of=of)
        outcomes = set()
        for left in range(60, 420, 3):
            try:
                with_frames_left(left, lambda: SendToDeviceResponse(extra={"x": value}))
            except E2EKeysError as error:
                outcomes.add(str(error.reason))
            except (RecursionError, AssertionError) as error:
                outcomes.add(type(error).__name__)
            else:
                outcomes.add("good")
        assert outcomes == {"good", "too-deep"}


class TestSeveral:
    @pytest.mark.parametrize(
        "value", [None, 5, "@a:b", b"@a:b", {"@a:b": 1}, Names(a=1), object()], ids=lambda value: type(value).__name__
    )
    def test_what_is_no_list(self, value: Any) -> None:
        assert refusal(lambda: KeysChangesResponse(changed=value)) == ("/changed", Reason.WRONG_TYPE)
        assert refusal(lambda: update(prev_ids=value)) == ("/prev_id", Reason.WRONG_TYPE)
        assert refusal(lambda: KeysQueryRequest.for_users(5)) == ("/device_keys", Reason.WRONG_TYPE)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "value",
        [("@a:b", "@c:d"), ["@a:b", "@c:d"], iter(["@a:b", "@c:d"]), dict.fromkeys(["@a:b", "@c:d"]).keys()],
        ids=lambda value: type(value).__name__,
    )
    def test_anything_that_can_be_gone_through(self, value: Any) -> None:
        assert KeysChangesResponse(left=value).left == ("@a:b", "@c:d")

    def test_their_places(self) -> None:
        assert refusal(lambda: update(prev_ids=[1, 2, "3"])) == ("/prev_id/2", Reason.WRONG_TYPE)
        assert refusal(lambda: KeysQueryRequest(device_keys={"@a:b": ["D", 5]})) == (  # type: ignore[dict-item]
            "/device_keys/@a:b/1",
            Reason.WRONG_TYPE,
        )
        assert refusal(lambda: KeysClaimRequest(one_time_keys={"@a:b": {"a/b": 5}})) == (  # type: ignore[dict-item]
            "/one_time_keys/@a:b/a~1b",
            Reason.WRONG_TYPE,
        )

    def test_maps(self) -> None:
        counts = {"x": 1}
        response = KeysUploadResponse(one_time_key_counts=counts)
        counts["x"] = 2
        assert response.one_time_key_counts == {"x": 1}
        with pytest.raises(TypeError):
            response.one_time_key_counts["x"] = 5  # type: ignore[index]
        assert refusal(lambda: KeysUploadResponse(one_time_key_counts={"x": True})) == (
            "/one_time_key_counts/x",
            Reason.WRONG_TYPE,
        )
        assert refusal(lambda: KeysUploadResponse(one_time_key_counts={5: 1})) == (  # type: ignore[dict-item]
            "/one_time_key_counts",
            Reason.WRONG_TYPE,
        )

    def test_maps_of_values_of_this_library(self) -> None:
        keys = {"signed_curve25519:AAAAAQ": ALICE.one_time_key("PHONE", "AAAAAQ")}
        request = KeysUploadRequest(one_time_keys=keys)
        keys.clear()
        assert list(request.one_time_keys) == ["signed_curve25519:AAAAAQ"]
        with pytest.raises(TypeError):
            request.one_time_keys["x"] = None  # type: ignore[index]

    @pytest.mark.parametrize("value", [5, {}, "x", ALICE, ALICE.master_key], ids=lambda value: type(value).__name__)
    def test_values_of_this_library(self, value: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest(device_keys=value)
        assert (caught.value.path, caught.value.reason) == ("/device_keys", Reason.WRONG_TYPE)
        assert caught.value.detail.startswith("device_keys must be DeviceKeys or Rejection, not ")
        assert KeysUploadRequest(device_keys=ALICE.device("PHONE")).device_keys == ALICE.device("PHONE")

    def test_a_value_is_not_checked_in_place(self) -> None:
        asked = {"@a:b": ["D"]}
        before = copy.deepcopy(asked)
        KeysQueryRequest.for_devices(asked)
        assert asked == before
