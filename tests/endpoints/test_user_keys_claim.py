"""user/keys/claim as values: both directions, and what happens to entries that are no entries."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_pointers import changed, check_pointer, rejections_in
from matrix_e2e_keys import (
    FEDERATION_V1,
    E2EKeysError,
    JsonLimits,
    LocalProtocolError,
    OneTimeKey,
    Reason,
    Rejection,
    RemoteProtocolError,
    UserKeysClaimRequest,
    UserKeysClaimResponse,
    read_request,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:a.example")
BARE = sample_curve25519_key("bare").to_base64()


class TestRequest:
    def test_for_devices(self) -> None:
        request = UserKeysClaimRequest.for_devices({"@a:b": ["PHONE", "a/b"], "@c:d": iter(["X", "X"]), "@e:f": ()})
        assert request == UserKeysClaimRequest(
            one_time_keys={
                "@a:b": {"PHONE": "signed_curve25519", "a/b": "signed_curve25519"},
                "@c:d": {"X": "signed_curve25519"},
                "@e:f": {},
            }
        )
        assert request.asked["@a:b"] == {"PHONE": "signed_curve25519", "a/b": "signed_curve25519"}
        assert UserKeysClaimRequest.for_devices({}).to_json() == {"one_time_keys": {}}

    def test_another_algorithm(self) -> None:
        request = UserKeysClaimRequest.for_devices({"@a:b": ["D"]}, algorithm="org.example")
        assert request.to_json() == {"one_time_keys": {"@a:b": {"D": "org.example"}}}

    @pytest.mark.parametrize(
        ("devices", "options", "path", "reason"),
        [
            (None, {}, "/one_time_keys", Reason.WRONG_TYPE),
            (["@a:b"], {}, "/one_time_keys", Reason.WRONG_TYPE),
            ({5: ["D"]}, {}, "/one_time_keys", Reason.WRONG_TYPE),
            ({"bob": ["D"]}, {}, "/one_time_keys/bob", Reason.INVALID_IDENTIFIER),
            ({"@a:b": "D"}, {}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": None}, {}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": {"D": "x"}}, {}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": ["D", 5]}, {}, "/one_time_keys/@a:b/1", Reason.WRONG_TYPE),
            ({"@a:b": ["D", "\ud800"]}, {}, "/one_time_keys/@a:b/1", Reason.LONE_SURROGATE),
            ({"@a:b": ["a/b"]}, {"algorithm": 5}, "/one_time_keys/@a:b/a~1b", Reason.WRONG_TYPE),
            ({"@a:b": ["a/b"]}, {"algorithm": None}, "/one_time_keys/@a:b/a~1b", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_callers_by_device(self, devices: Any, options: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserKeysClaimRequest.for_devices(devices, **options)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_a_name_that_is_no_device_id_is_asked_for_in_vain(self) -> None:
        body = {"one_time_keys": {"@a:b": {"": "signed_curve25519", "x" * 513: "signed_curve25519"}}}
        request = UserKeysClaimRequest.from_json(body)
        assert request == UserKeysClaimRequest.for_devices({"@a:b": ["", "x" * 513]})
        assert request.to_json() == body

    def test_both_directions(self) -> None:
        request = UserKeysClaimRequest(
            one_time_keys={ALICE.user_id: {"PHONE": "signed_curve25519", "a/b": "m.future"}, BOB.user_id: {}},
            extra={"timeout": 5},
        )
        body = {
            "one_time_keys": {ALICE.user_id: {"PHONE": "signed_curve25519", "a/b": "m.future"}, BOB.user_id: {}},
            "timeout": 5,
        }
        assert request.to_json() == body
        assert UserKeysClaimRequest.from_json(body) == request
        assert UserKeysClaimRequest.from_bytes(json.dumps(body)) == request
        assert request.asked == body["one_time_keys"]
        sent = request.to_http()
        assert (sent.method, sent.target) == ("POST", "/_matrix/federation/v1/user/keys/claim")
        received = read_request(sent)
        assert (received.request, received.dialect) == (request, FEDERATION_V1)

    @pytest.mark.parametrize(
        ("body", "path", "reason", "errcode"),
        [
            ([], "", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({}, "/one_time_keys", Reason.MISSING_MEMBER, "M_BAD_JSON"),
            ({"one_time_keys": None}, "/one_time_keys", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": [["@a:b"]]}, "/one_time_keys", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": 1.5}, "/one_time_keys", Reason.NOT_AN_INTEGER, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": None}}, "/one_time_keys/@a:b", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": ["D"]}}, "/one_time_keys/@a:b", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": {"D": None}}}, "/one_time_keys/@a:b/D", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": {"D": ["x"]}}}, "/one_time_keys/@a:b/D", Reason.WRONG_TYPE, "M_BAD_JSON"),
            (
                {"one_time_keys": {"@a/b:c": {"x/y": {"signed_curve25519": 1}}}},
                "/one_time_keys/@a~1b:c/x~1y",
                Reason.WRONG_TYPE,
                "M_BAD_JSON",
            ),
            (
                {"one_time_keys": {"@a:b": {"D": "\ud800"}}},
                "/one_time_keys/@a:b/D",
                Reason.LONE_SURROGATE,
                "M_BAD_JSON",
            ),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_bad_bodies(self, body: Any, path: str, reason: Reason, errcode: str) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserKeysClaimRequest.from_json(body)
        assert (caught.value.path, caught.value.reason) == (path, reason)
        assert (caught.value.errcode, caught.value.http_status) == (errcode, 400)
        check_pointer(body, caught.value)

    @pytest.mark.parametrize(
        ("body", "reason", "errcode", "status"),
        [
            (b"{", Reason.NOT_JSON, "M_NOT_JSON", 400),
            (b"\xff", Reason.NOT_UTF8, "M_NOT_JSON", 400),
            (b" " * 101, Reason.TOO_LARGE, "M_TOO_LARGE", 413),
            (b'{"one_time_keys": {}, "one_time_keys": {}}', Reason.DUPLICATE_MEMBER, "M_BAD_JSON", 400),
        ],
    )
    def test_bad_bytes(self, body: bytes, reason: Reason, errcode: str, status: int) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserKeysClaimRequest.from_bytes(body, limits=JsonLimits(max_bytes=100))
        assert (caught.value.reason, caught.value.errcode) == (reason, errcode)
        assert caught.value.http_status == status

    def test_a_name_that_is_no_user_id_is_set_aside(self) -> None:
        body = {"one_time_keys": {"a/b": [5], "@a:b": {"D": "signed_curve25519"}}}
        request = UserKeysClaimRequest.from_json(body)
        assert request.asked == {"@a:b": {"D": "signed_curve25519"}}
        set_aside = request.one_time_keys["a/b"]
        assert type(set_aside) is Rejection
        assert (set_aside.path, set_aside.reason) == ("/one_time_keys/a~1b", Reason.INVALID_IDENTIFIER)
        assert (set_aside.user_id, set_aside.device_id, set_aside.raw) == ("a/b", None, [5])
        check_pointer(body, set_aside)
        assert request.to_json() == body

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"one_time_keys": None}, "/one_time_keys", Reason.WRONG_TYPE),
            ({"one_time_keys": {"bob": {}}}, "/one_time_keys/bob", Reason.INVALID_IDENTIFIER),
            ({"one_time_keys": {"@a:b": ["D"]}}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"one_time_keys": {"@a:b": {"D": 1}}}, "/one_time_keys/@a:b/D", Reason.WRONG_TYPE),
            ({"one_time_keys": {"@a:b": {"": None}}}, "/one_time_keys/@a:b/", Reason.WRONG_TYPE),
            (
                {"one_time_keys": {}, "extra": {"one_time_keys": {}}},
                "/extra/one_time_keys",
                Reason.INVALID_VALUE,
            ),
        ],
        ids=repr,
    )
    def test_bad_callers(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserKeysClaimRequest(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for place in (
            value,
            {"one_time_keys": value},
            {"one_time_keys": {"@a:b": value}},
            {"one_time_keys": {"@a:b": {"D": value}}},
            {"one_time_keys": {}, "x": value},
        ):
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                UserKeysClaimRequest.from_json(place).to_json()
            assert repr(place) == before


ONE = ALICE.one_time_key("PHONE", "AAAAHg")
SPARE = ALICE.one_time_key("a/b", "AAAAHQ", fallback=True)


def answer() -> dict[str, Any]:
    return {
        "one_time_keys": {
            ALICE.user_id: {
                "PHONE": {"signed_curve25519:AAAAHg": ONE.to_json()},
                "a/b": {"signed_curve25519:AAAAHQ": SPARE.to_json(), "curve25519:x/y": BARE},
            },
            BOB.user_id: {},
        },
        "org.example.hint": [0.5],
    }


def with_key(entry: Any, key_id: str = "signed_curve25519:AAAAHg") -> dict[str, Any]:
    body = answer()
    body["one_time_keys"][ALICE.user_id]["PHONE"] = {key_id: entry}
    return body


def key(**changes: Any) -> dict[str, Any]:
    return {**ONE.to_json(), **changes}  # type: ignore[dict-item]


class TestResponse:
    def test_both_directions(self) -> None:
        built = UserKeysClaimResponse(
            one_time_keys={
                ALICE.user_id: {
                    "PHONE": {"signed_curve25519:AAAAHg": ONE},
                    "a/b": {
                        "signed_curve25519:AAAAHQ": SPARE,
                        "curve25519:x/y": OneTimeKey.from_json("curve25519:x/y", BARE),
                    },
                },
                BOB.user_id: {},
            },
            extra={"org.example.hint": [0.5]},
        )
        assert built.to_json() == answer()
        assert UserKeysClaimResponse.from_json(answer()) == built
        assert UserKeysClaimResponse.from_bytes(json.dumps(answer())) == built
        assert UserKeysClaimResponse.from_http(built.to_http()) == built
        assert UserKeysClaimRequest.answer_type() is UserKeysClaimResponse
        assert UserKeysClaimRequest(one_time_keys={}).read_answer(built.to_http()) == built

    def test_types_of_what_is_read(self) -> None:
        response = UserKeysClaimResponse.from_json(answer())
        odd: Any = response.one_time_keys[ALICE.user_id]["a/b"]  # type: ignore[index]
        assert {name: type(entry) for name, entry in odd.items()} == {
            "signed_curve25519:AAAAHQ": OneTimeKey,
            "curve25519:x/y": OneTimeKey,
        }
        assert (odd["signed_curve25519:AAAAHQ"].fallback, odd["curve25519:x/y"].signed) == (True, None)
        assert response.malformed == ()
        assert UserKeysClaimResponse.from_json({"one_time_keys": {}}) == UserKeysClaimResponse()

    def test_failures_are_a_member_nobody_knows(self) -> None:
        response = UserKeysClaimResponse.from_json({"one_time_keys": {}, "failures": {"a": {"status": 503}}})
        assert response.extra == {"failures": {"a": {"status": 503}}}
        assert not hasattr(response, "failures")

    @pytest.mark.parametrize(
        ("body", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            ({}, "/one_time_keys", Reason.MISSING_MEMBER),
            ({"errcode": "M_UNKNOWN"}, "/one_time_keys", Reason.MISSING_MEMBER),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_frame_errors(self, body: Any, path: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserKeysClaimResponse.from_json(body)
        assert (caught.value.path, caught.value.reason) == (path, reason)
        check_pointer(body, caught.value)

    @pytest.mark.parametrize("value", [None, [], "x", 5, True, 1.5], ids=repr)
    def test_a_map_that_is_none_is_set_aside(self, value: Any) -> None:
        body = {**answer(), "one_time_keys": value}
        response = UserKeysClaimResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert response.malformed == (rejection,)
        assert rejection.path == "/one_time_keys"
        assert rejection.reason is (Reason.NOT_AN_INTEGER if value == 1.5 else Reason.WRONG_TYPE)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == (None, None, value)
        assert response.one_time_keys == {}
        assert response.to_json() == {**body, "one_time_keys": None if value == 1.5 else value}

    @pytest.mark.parametrize(
        ("place", "entry", "path", "reason", "user_id", "device_id"),
        [
            ((ALICE.user_id,), None, "", Reason.WRONG_TYPE, ALICE.user_id, None),
            ((ALICE.user_id,), ["PHONE"], "", Reason.WRONG_TYPE, ALICE.user_id, None),
            (("a/b",), {"PHONE": {}}, "", Reason.INVALID_IDENTIFIER, "a/b", None),
            ((ALICE.user_id, "a/b"), None, "", Reason.WRONG_TYPE, ALICE.user_id, "a/b"),
            ((ALICE.user_id, "a/b"), "x", "", Reason.WRONG_TYPE, ALICE.user_id, "a/b"),
            ((ALICE.user_id, "a/b"), 1.5, "", Reason.NOT_AN_INTEGER, ALICE.user_id, "a/b"),
            ((ALICE.user_id, "a/b", "curve25519:x/y"), None, "", Reason.WRONG_TYPE, ALICE.user_id, "a/b"),
            ((ALICE.user_id, "a/b", "curve25519:x/y"), "!", "", Reason.INVALID_BASE64, ALICE.user_id, "a/b"),
            ((ALICE.user_id, "a/b", "curve25519:x/y"), 1.5, "", Reason.NOT_AN_INTEGER, ALICE.user_id, "a/b"),
            ((ALICE.user_id, "a/b", "nocolon"), BARE, "", Reason.INVALID_KEY_ID, ALICE.user_id, "a/b"),
            ((ALICE.user_id, "a/b", "signed_curve25519:AAAAHQ"), BARE, "", Reason.WRONG_TYPE, ALICE.user_id, "a/b"),
            (
                (ALICE.user_id, "a/b", "signed_curve25519:AAAAHQ"),
                {"signatures": {}},
                "/key",
                Reason.MISSING_MEMBER,
                ALICE.user_id,
                "a/b",
            ),
            (
                (ALICE.user_id, "a/b", "signed_curve25519:AAAAHQ"),
                key(key="!"),
                "/key",
                Reason.INVALID_BASE64,
                ALICE.user_id,
                "a/b",
            ),
            (
                (ALICE.user_id, "a/b", "signed_curve25519:AAAAHQ"),
                key(fallback=1),
                "/fallback",
                Reason.WRONG_TYPE,
                ALICE.user_id,
                "a/b",
            ),
            (
                (ALICE.user_id, "a/b", "signed_curve25519:AAAAHQ"),
                key(signatures={"@a/b:c": {"x/y": 1}}),
                "/signatures/@a~1b:c/x~1y",
                Reason.WRONG_TYPE,
                ALICE.user_id,
                "a/b",
            ),
            (
                (ALICE.user_id, "a/b", "signed_curve25519:AAAAHQ"),
                key(added=[0.5]),
                "/added/0",
                Reason.NOT_AN_INTEGER,
                ALICE.user_id,
                "a/b",
            ),
        ],
        ids=lambda value: f"{value}"[-40:],
    )
    def test_an_entry_that_is_none_costs_only_itself(
        self,
        place: tuple[str, ...],
        entry: Any,
        path: str,
        reason: Reason,
        user_id: str,
        device_id: str | None,
    ) -> None:
        body = answer()
        container = body["one_time_keys"]
        for name in place[:-1]:
            container = container[name]
        container[place[-1]] = entry
        response = UserKeysClaimResponse.from_json(body)
        (rejection,) = rejections_in(response)
        found: Any = response.one_time_keys
        for name in place:
            found = found[name]
        assert found is rejection
        assert rejection.path == "/one_time_keys/" + "/".join(name.replace("/", "~1") for name in place) + path
        assert (rejection.reason, rejection.raw) == (reason, entry)
        assert (rejection.user_id, rejection.device_id) == (user_id, device_id)
        check_pointer(body, rejection)
        assert response.one_time_keys[BOB.user_id] == {}
        if place != (ALICE.user_id,):
            assert response.one_time_keys[ALICE.user_id]["PHONE"] == {"signed_curve25519:AAAAHg": ONE}  # type: ignore[index]
        assert len(list(rejections_in(UserKeysClaimResponse.from_json(response.to_json())))) == 1

    def test_a_member_twice(self) -> None:
        text = '{"one_time_keys": {"@a:b": {"D": {"x:y": "z", "x:y": "z"}, "E": {}, "E": {}}}}'
        response = UserKeysClaimResponse.from_bytes(text)
        assert [(found.path, found.reason, found.device_id) for found in rejections_in(response)] == [
            ("/one_time_keys/@a:b/D/x:y", Reason.DUPLICATE_MEMBER, "D"),
            ("/one_time_keys/@a:b/E", Reason.DUPLICATE_MEMBER, "E"),
        ]
        assert response.to_json() == {"one_time_keys": {"@a:b": {"D": {"x:y": None}, "E": None}}}

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"one_time_keys": []}, "/one_time_keys", Reason.WRONG_TYPE),
            ({"one_time_keys": {"bob": {}}}, "/one_time_keys/bob", Reason.INVALID_IDENTIFIER),
            ({"one_time_keys": {"@a:b": {"D": None}}}, "/one_time_keys/@a:b/D", Reason.WRONG_TYPE),
            ({"one_time_keys": {"@a:b": {"D": {"x:y": "z"}}}}, "/one_time_keys/@a:b/D/x:y", Reason.WRONG_TYPE),
            ({"one_time_keys": {"@a:b": {"D": {"x:y": ONE}}}}, "/one_time_keys/@a:b/D/x:y", Reason.INVALID_KEY_ID),
            ({"extra": {"one_time_keys": {}}}, "/extra/one_time_keys", Reason.INVALID_VALUE),
            ({"malformed": [5]}, "/malformed/0", Reason.WRONG_TYPE),
            (
                {"malformed": [Rejection(path="/failures", reason=Reason.WRONG_TYPE, detail="")]},
                "/malformed/0",
                Reason.INVALID_VALUE,
            ),
        ],
        ids=lambda value: f"{value}"[:60],
    )
    def test_the_constructor_checks_too(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserKeysClaimResponse(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_the_caller_keeps_his_object(self) -> None:
        body = with_key(key(added=0.5))
        before = copy.deepcopy(body)
        response = UserKeysClaimResponse.from_json(body)
        assert body == before
        body["one_time_keys"].clear()
        body["org.example.hint"].clear()
        assert list(response.one_time_keys) == [ALICE.user_id, BOB.user_id]
        assert response.extra == {"org.example.hint": [0.5]}

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for place in (
            value,
            {**answer(), "one_time_keys": value},
            {**answer(), "one_time_keys": {ALICE.user_id: value}},
            {**answer(), "one_time_keys": {ALICE.user_id: {"PHONE": value}}},
            with_key(value),
            with_key(value, "x:y"),
            with_key(key(added=value)),
            {**answer(), "new": value},
        ):
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                UserKeysClaimResponse.from_json(place).to_json()
            assert repr(place) == before

    @given(st.data())
    def test_every_path_leads_to_the_place_it_names(self, data: st.DataObject) -> None:
        body = changed(data.draw, answer())
        try:
            found = list(rejections_in(UserKeysClaimResponse.from_json(body)))
        except RemoteProtocolError as error:
            check_pointer(body, error)
        else:
            for rejection in found:
                check_pointer(body, rejection)
