"""What /sync says about keys, and what it leaves unsaid."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    DeviceLists,
    E2EKeysError,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    SyncKeys,
)
from matrix_e2e_keys.testing.strategies import json_like_values

COUNTS = "device_one_time_keys_count"
TYPES = "device_unused_fallback_key_types"


def sliding(e2ee: Any) -> dict[str, Any]:
    return {"pos": "1", "extensions": {"e2ee": e2ee, "to_device": {"next_batch": "2"}}}


def rejection(path: str, raw: object = None) -> Rejection:
    return Rejection(path=path, reason=Reason.WRONG_TYPE, detail="", raw=raw)


class TestUnsaidAndNone:
    """An absent count is zero in one kind of sync, and nothing at all in the other."""

    @pytest.mark.parametrize(
        ("members", "v2", "sliding_sync"),
        [
            ({}, {}, None),
            ({COUNTS: {}}, {}, {}),
            ({COUNTS: {"signed_curve25519": 0}}, {"signed_curve25519": 0}, {"signed_curve25519": 0}),
            (
                {COUNTS: {"signed_curve25519": 50, "x": 1}},
                {"signed_curve25519": 50, "x": 1},
                {"signed_curve25519": 50, "x": 1},
            ),
        ],
        ids=["absent", "empty", "zero", "listed"],
    )
    def test_counts(self, members: dict[str, Any], v2: Any, sliding_sync: Any) -> None:
        assert SyncKeys.from_sync_v2(members).one_time_key_counts == v2
        assert SyncKeys.from_sliding_sync(sliding(members)).one_time_key_counts == sliding_sync

    @pytest.mark.parametrize(
        ("members", "types"), [({}, None), ({TYPES: []}, ()), ({TYPES: ["signed_curve25519"]}, ("signed_curve25519",))]
    )
    def test_fallback_keys(self, members: dict[str, Any], types: Any) -> None:
        assert SyncKeys.from_sync_v2(members).unused_fallback_key_types == types
        assert SyncKeys.from_sliding_sync(sliding(members)).unused_fallback_key_types == types

    @pytest.mark.parametrize(
        ("members", "lists"),
        [
            ({}, None),
            ({"device_lists": {}}, DeviceLists()),
            ({"device_lists": {"changed": ["@a:b"]}}, DeviceLists(changed=("@a:b",))),
            ({"device_lists": {"left": ["@a:b"], "x": 1}}, DeviceLists(left=("@a:b",), extra={"x": 1})),
        ],
    )
    def test_device_lists(self, members: dict[str, Any], lists: Any) -> None:
        assert SyncKeys.from_sync_v2(members).device_lists == lists
        assert SyncKeys.from_sliding_sync(sliding(members)).device_lists == lists

    def test_the_name_in_the_answer_to_an_upload_is_another(self) -> None:
        assert SyncKeys.from_sync_v2({"one_time_key_counts": {"x": 1}}).one_time_key_counts == {}

    @pytest.mark.parametrize("body", [{}, {"extensions": {}}, {"extensions": {"e2ee": {}}}, {"pos": "1"}])
    def test_a_sliding_sync_that_says_nothing(self, body: Any) -> None:
        assert SyncKeys.from_sliding_sync(body) == SyncKeys()

    def test_a_sliding_sync_does_not_look_elsewhere(self) -> None:
        assert SyncKeys.from_sliding_sync({COUNTS: {"x": 1}, "e2ee": {COUNTS: {"x": 1}}}) == SyncKeys()
        assert SyncKeys.from_sync_v2(sliding({COUNTS: {"x": 1}})) == SyncKeys(one_time_key_counts={})


class TestWriting:
    @pytest.mark.parametrize(
        ("keys", "e2ee"),
        [
            (SyncKeys(), {}),
            (SyncKeys(one_time_key_counts={}), {COUNTS: {}}),
            (SyncKeys(unused_fallback_key_types=()), {TYPES: []}),
            (SyncKeys(device_lists=DeviceLists()), {"device_lists": {"changed": [], "left": []}}),
            (
                SyncKeys(
                    device_lists=DeviceLists(changed=("@a:b",), left=("@c:d",), extra={"x": [1.5]}),
                    one_time_key_counts={"signed_curve25519": 5},
                    unused_fallback_key_types=("signed_curve25519",),
                ),
                {
                    "device_lists": {"changed": ["@a:b"], "left": ["@c:d"], "x": [1.5]},
                    COUNTS: {"signed_curve25519": 5},
                    TYPES: ["signed_curve25519"],
                },
            ),
        ],
    )
    def test_both_kinds(self, keys: SyncKeys, e2ee: dict[str, Any]) -> None:
        assert keys.to_sliding_sync() == e2ee
        assert SyncKeys.from_sliding_sync(sliding(e2ee)) == keys
        if COUNTS in e2ee:
            assert keys.to_sync_v2() == e2ee
            assert SyncKeys.from_sync_v2(e2ee) == keys
        else:
            with pytest.raises(LocalProtocolError) as caught:
                keys.to_sync_v2()
            assert (caught.value.path, caught.value.reason) == ("/one_time_key_counts", Reason.INVALID_VALUE)

    def test_from_one_kind_to_the_other(self) -> None:
        assert SyncKeys.from_sync_v2({}).to_sliding_sync() == {COUNTS: {}}
        with pytest.raises(LocalProtocolError):
            SyncKeys.from_sliding_sync({}).to_sync_v2()

    def test_malformed_counts_are_no_unsaid_ones(self) -> None:
        assert SyncKeys.from_sync_v2({COUNTS: [5]}).to_sync_v2() == {COUNTS: [5]}
        assert SyncKeys.from_sync_v2({COUNTS: 1.5}).to_sync_v2() == {COUNTS: None}


class TestMalformed:
    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            (COUNTS, None, Reason.WRONG_TYPE),
            (COUNTS, [], Reason.WRONG_TYPE),
            (COUNTS, 5, Reason.WRONG_TYPE),
            (COUNTS, {"x": "5"}, Reason.WRONG_TYPE),
            (COUNTS, {"x": True}, Reason.WRONG_TYPE),
            (COUNTS, {"x": None, "y": 1}, Reason.WRONG_TYPE),
            (COUNTS, {"x": -1}, Reason.INVALID_VALUE),
            (COUNTS, {"x": 5.0}, Reason.NOT_AN_INTEGER),
            (COUNTS, {"x": float("nan")}, Reason.NOT_AN_INTEGER),
            (COUNTS, {"x": 2**53}, Reason.INTEGER_OUT_OF_RANGE),
            (TYPES, None, Reason.WRONG_TYPE),
            (TYPES, {}, Reason.WRONG_TYPE),
            (TYPES, "signed_curve25519", Reason.WRONG_TYPE),
            (TYPES, ["x", None], Reason.WRONG_TYPE),
            (TYPES, ["\ud800"], Reason.LONE_SURROGATE),
            (TYPES, [1.5], Reason.NOT_AN_INTEGER),
            ("device_lists", None, Reason.WRONG_TYPE),
            ("device_lists", [], Reason.WRONG_TYPE),
            ("device_lists", "x", Reason.WRONG_TYPE),
            ("device_lists", 1.5, Reason.NOT_AN_INTEGER),
        ],
        ids=repr,
    )
    def test_by_a_member_of_the_wrong_type_nothing_is_said(self, name: str, value: Any, reason: Reason) -> None:
        good = {"device_lists": {"changed": ["@a:b"]}, COUNTS: {"x": 1}, TYPES: ["x"]}
        body = {**good, name: value}
        expected = {
            "device_lists": DeviceLists(changed=("@a:b",)),
            COUNTS: {"x": 1},
            TYPES: ("x",),
            name: None,
        }
        for keys in (SyncKeys.from_sync_v2(body), SyncKeys.from_sliding_sync(sliding(body))):
            assert keys.device_lists == expected["device_lists"]
            assert keys.one_time_key_counts == expected[COUNTS]
            assert keys.unused_fallback_key_types == expected[TYPES]
            (found,) = keys.malformed
            assert (found.path, found.reason) == (f"/{name}", reason)
            assert repr(found.raw) == repr({"x": "nan"} if repr(value) == "{'x': nan}" else value)
            written = keys.to_sync_v2()
            assert written.keys() == body.keys()
            not_canonical = reason not in (Reason.WRONG_TYPE, Reason.INVALID_VALUE)
            assert written[name] == (None if not_canonical else value)

    def test_lists_and_entries_of_device_lists_cost_only_themselves(self) -> None:
        body: dict[str, Any] = {"changed": ["bob", "@a:b", None, 1.5], "left": {}, "x": 1}
        keys = SyncKeys.from_sync_v2({"device_lists": body})
        assert keys.malformed == ()
        lists = keys.device_lists
        assert lists is not None
        assert (lists.changed, lists.left, lists.extra) == (("@a:b",), (), {"x": 1})
        assert [(found.path, found.reason, found.raw) for found in lists.malformed] == [
            ("/left", Reason.WRONG_TYPE, {}),
            ("/changed/0", Reason.INVALID_IDENTIFIER, "bob"),
            ("/changed/2", Reason.WRONG_TYPE, None),
            ("/changed/3", Reason.NOT_AN_INTEGER, 1.5),
        ]
        assert lists.to_json() == {"changed": ["bob", "@a:b", None, None], "left": {}, "x": 1}

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            ([], Reason.WRONG_TYPE),
            (5, Reason.WRONG_TYPE),
            (1.5, Reason.WRONG_TYPE),
            (object(), Reason.WRONG_TYPE),
            ("x", Reason.NOT_JSON),
            ("", Reason.NOT_JSON),
            (b"", Reason.NOT_JSON),
            (b"{", Reason.NOT_JSON),
            (b"<html>", Reason.NOT_JSON),
            (b"{}{}", Reason.NOT_JSON),
            (b"\xff", Reason.NOT_UTF8),
            ('"x"', Reason.WRONG_TYPE),
            (b"[]", Reason.WRONG_TYPE),
            (b"null", Reason.WRONG_TYPE),
            (b"1.5", Reason.NOT_AN_INTEGER),
        ],
        ids=lambda value: repr(value)[:12],
    )
    def test_what_is_no_answer(self, body: Any, reason: Reason) -> None:
        for read in (SyncKeys.from_sync_v2, SyncKeys.from_sliding_sync):
            with pytest.raises(RemoteProtocolError) as caught:
                read(body)
            assert (caught.value.path, caught.value.reason) == ("", reason)

    @pytest.mark.parametrize(
        ("body", "path"),
        [
            ({"extensions": None}, "/extensions"),
            ({"extensions": []}, "/extensions"),
            ({"extensions": {"e2ee": None}}, "/extensions/e2ee"),
            ({"extensions": {"e2ee": "x"}}, "/extensions/e2ee"),
        ],
    )
    def test_a_sliding_sync_that_is_none_on_the_way(self, body: Any, path: str) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            SyncKeys.from_sliding_sync(body)
        assert (caught.value.path, caught.value.reason) == (path, Reason.WRONG_TYPE)

    def test_the_rest_of_the_answer_is_not_looked_at(self) -> None:
        body: dict[str, Any] = {"next_batch": object(), "rooms": 1.5, COUNTS: {"x": 1}}
        body["self"] = body
        assert SyncKeys.from_sync_v2(body) == SyncKeys(one_time_key_counts={"x": 1})

    @pytest.mark.parametrize(
        "form", [str, str.encode, lambda text: bytearray(text.encode())], ids=["str", "bytes", "bytearray"]
    )
    @pytest.mark.parametrize(
        "elsewhere",
        [
            '"f": 1.5',
            '"f": [NaN, 1e400, -0, 9007199254740992]',
            '"f": {"a": 1, "a": 2}',
            '"f": "\\ud800"',
            '"f": ' + "[" * 130 + "]" * 130,
            '"f": ' + "1" * 40,
            '"f": 1, "f": 2',
            '"device_lists ": 1.5',
        ],
        ids=lambda text: text[:20],
    )
    def test_bytes_and_text(self, form: Any, elsewhere: str) -> None:
        expected = SyncKeys(
            device_lists=DeviceLists(changed=("@a:b",), left=("@ü:b",)),
            one_time_key_counts={"signed_curve25519": 5},
            unused_fallback_key_types=("signed_curve25519",),
        )
        keys = (
            '"device_lists": {"changed": ["@a:b"], "left": ["@ü:b"]}, '
            '"device_one_time_keys_count": {"signed_curve25519": 5}, '
            '"device_unused_fallback_key_types": ["signed_curve25519"]'
        )
        v2 = "{" + elsewhere + ", " + keys + "}"
        assert SyncKeys.from_sync_v2(form(v2)) == expected
        e2ee = "{" + elsewhere + ', "extensions": {' + elsewhere + ', "e2ee": {' + elsewhere + ", " + keys + "}}}"
        assert SyncKeys.from_sliding_sync(form(e2ee)) == expected

    def test_empty_bytes_of_an_object(self) -> None:
        assert SyncKeys.from_sync_v2(b"{}") == SyncKeys(one_time_key_counts={})
        assert SyncKeys.from_sliding_sync("{}") == SyncKeys()

    @pytest.mark.parametrize(
        ("member", "name", "reason"),
        [
            ('"device_one_time_keys_count": {"x": 1.5}', COUNTS, Reason.NOT_AN_INTEGER),
            ('"device_one_time_keys_count": {"x": 1, "x": 2}', COUNTS, Reason.DUPLICATE_MEMBER),
            ('"device_one_time_keys_count": {}, "device_one_time_keys_count": {}', COUNTS, Reason.DUPLICATE_MEMBER),
            ('"device_unused_fallback_key_types": ["\\ud800"]', TYPES, Reason.LONE_SURROGATE),
            ('"device_lists": -0', "device_lists", Reason.NEGATIVE_ZERO),
        ],
        ids=lambda value: str(value)[:50],
    )
    def test_a_fault_of_the_bytes_costs_only_the_member_it_stands_in(
        self, member: str, name: str, reason: Reason
    ) -> None:
        for keys in (
            SyncKeys.from_sync_v2(b"{" + member.encode() + b"}"),
            SyncKeys.from_sliding_sync('{"extensions": {"e2ee": {' + member + "}}}"),
        ):
            (found,) = keys.malformed
            assert (found.path, found.reason) == (f"/{name}", reason)
            assert keys.to_sliding_sync()[name] is None

    def test_a_sliding_sync_whose_bytes_are_none_on_the_way(self) -> None:
        for body, path, reason in (
            (b'{"extensions": 1.5}', "/extensions", Reason.NOT_AN_INTEGER),
            (b'{"extensions": {"e2ee": {}, "e2ee": {}}}', "/extensions/e2ee", Reason.DUPLICATE_MEMBER),
            (b'{"extensions": {}, "extensions": {}}', "/extensions", Reason.DUPLICATE_MEMBER),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                SyncKeys.from_sliding_sync(body)
            assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_later_changes_by_the_caller_do_not_show(self) -> None:
        body: dict[str, Any] = {
            "device_lists": {"changed": ["@a:b", {"x": []}], "x": {"y": 1}},
            COUNTS: {"x": 1},
            TYPES: ["x", None],
        }
        before = copy.deepcopy(body)
        keys = SyncKeys.from_sync_v2(body)
        assert body == before
        body["device_lists"]["changed"][1]["x"].append(1)
        body["device_lists"]["x"]["y"] = 2
        body[COUNTS]["x"] = 2
        body[TYPES].append(5)
        assert SyncKeys.from_sync_v2(before) == keys
        assert keys.to_sync_v2() == {**before, "device_lists": {**before["device_lists"], "left": []}}


class TestBadCallers:
    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"device_lists": {}}, "/device_lists", Reason.WRONG_TYPE),
            ({"one_time_key_counts": []}, "/one_time_key_counts", Reason.WRONG_TYPE),
            ({"one_time_key_counts": {"x": -1}}, "/one_time_key_counts/x", Reason.INVALID_VALUE),
            ({"one_time_key_counts": {"x": 1.0}}, "/one_time_key_counts/x", Reason.WRONG_TYPE),
            ({"one_time_key_counts": {5: 1}}, "/one_time_key_counts", Reason.WRONG_TYPE),
            ({"unused_fallback_key_types": "x"}, "/unused_fallback_key_types", Reason.WRONG_TYPE),
            ({"unused_fallback_key_types": ["x", 5]}, "/unused_fallback_key_types/1", Reason.WRONG_TYPE),
            ({"malformed": None}, "/malformed", Reason.WRONG_TYPE),
            ({"malformed": [rejection("/one_time_key_counts")]}, "/malformed/0", Reason.INVALID_VALUE),
            ({"malformed": [rejection("/device_lists/changed")]}, "/malformed/0", Reason.INVALID_VALUE),
            (
                {"unused_fallback_key_types": ("x",), "malformed": [rejection(f"/{TYPES}")]},
                "/malformed/0",
                Reason.INVALID_VALUE,
            ),
            (
                {"one_time_key_counts": {"x": 1}, "malformed": [rejection(f"/{COUNTS}")]},
                "/malformed/0",
                Reason.INVALID_VALUE,
            ),
            (
                {"device_lists": DeviceLists(), "malformed": [rejection("/device_lists")]},
                "/malformed/0",
                Reason.INVALID_VALUE,
            ),
        ],
        ids=repr,
    )
    def test_sync_keys(self, members: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SyncKeys(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"changed": "@a:b"}, "/changed", Reason.WRONG_TYPE),
            ({"changed": ["bob"]}, "/changed/0", Reason.INVALID_IDENTIFIER),
            ({"left": [None]}, "/left/0", Reason.WRONG_TYPE),
            ({"malformed": [5]}, "/malformed/0", Reason.WRONG_TYPE),
            ({"malformed": [rejection("/device_lists/changed/0")]}, "/malformed/0", Reason.INVALID_VALUE),
        ],
        ids=repr,
    )
    def test_device_lists(self, members: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            DeviceLists(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize("name", ["device_lists", COUNTS, TYPES])
    def test_a_malformed_member_of_which_nothing_is_said(self, name: str) -> None:
        keys = SyncKeys(malformed=[rejection(f"/{name}", 5)])  # type: ignore[arg-type]
        assert keys.to_sliding_sync() == {name: 5}

    def test_a_list_and_an_entry_of_it_cannot_both_be_malformed(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            DeviceLists(malformed=(rejection("/left", 5), rejection("/left/0", 5))).to_json()
        assert caught.value.path.startswith("/malformed")

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        members = ({COUNTS: value}, {TYPES: value}, {"device_lists": value}, {"device_lists": {"changed": value}})
        for place in (value, *members):
            for body in (place, sliding(place), {"extensions": place}):
                before = repr(body)
                for read in (SyncKeys.from_sync_v2, SyncKeys.from_sliding_sync):
                    with contextlib.suppress(E2EKeysError):
                        read(body).to_sync_v2()
                assert repr(body) == before
