"""/keys/claim as values: what is claimed, what is handed out, and what is set aside."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    E2EKeysError,
    HttpRequest,
    KeysClaimRequest,
    KeysClaimResponse,
    LocalProtocolError,
    OneTimeKey,
    Reason,
    Rejection,
    RemoteProtocolError,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
KEY = ALICE.one_time_key("PHONE", "AAAAAQ")
BOBS = BOB.one_time_key("X", "AAAAAg", fallback=True)
BARE = sample_curve25519_key("bare").to_base64()
ID = "signed_curve25519:AAAAAQ"
BOBS_ID = "signed_curve25519:AAAAAg"


class TestRequest:
    def test_for_devices(self) -> None:
        request = KeysClaimRequest.for_devices({"@a:b": ["PHONE", "a/b"], "@c:d": []}, timeout=1000)
        sent = {
            "one_time_keys": {"@a:b": {"PHONE": "signed_curve25519", "a/b": "signed_curve25519"}, "@c:d": {}},
            "timeout": 1000,
        }
        assert request.to_json() == sent
        assert KeysClaimRequest.from_json(sent) == request
        http = request.to_http()
        assert (http.method, http.target) == ("POST", "/_matrix/client/v3/keys/claim")
        assert request.to_http(CLIENT_R0).target == "/_matrix/client/r0/keys/claim"

    def test_another_algorithm(self) -> None:
        request = KeysClaimRequest.for_devices({"@a:b": iter(["PHONE"])}, algorithm="curve25519")
        assert request.one_time_keys == {"@a:b": {"PHONE": "curve25519"}}
        assert request.timeout is None

    def test_the_draft_of_2015(self) -> None:
        request = KeysClaimRequest.for_devices({"@a:b": ["PHONE"]}, algorithm="curve25519")
        http = request.to_http(CLIENT_V2_ALPHA)
        assert (http.target, http.body) == (
            "/_matrix/client/v2_alpha/keys/claim",
            b'{"one_time_keys":{"@a:b":{"PHONE":"curve25519"}}}',
        )

    def test_the_draft_of_2015_has_bare_keys_only(self) -> None:
        asked = {"@a:b": {"D": "curve25519"}, "@c/~:d": {"X": "org.example", "a/b": "signed_curve25519"}}
        request = KeysClaimRequest(one_time_keys=asked)
        with pytest.raises(LocalProtocolError) as caught:
            request.to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == ("/one_time_keys/@c~1~0:d/a~1b", Reason.NOT_IN_DIALECT)
        assert caught.value.detail == "v2_alpha has bare one-time keys only"
        for dialect in (None, CLIENT_R0):
            assert json.loads(request.to_http(dialect).body) == {"one_time_keys": asked}
        path = "/_matrix/client/v2_alpha/keys/claim"
        body = json.dumps({"one_time_keys": asked}).encode()
        assert KeysClaimRequest.from_http(HttpRequest(method="POST", path=path, body=body)) == request

    def test_what_is_asked_of_nobody_is_said_in_the_draft_of_2015_too(self) -> None:
        body = {"one_time_keys": {"nobody": {"D": "signed_curve25519"}, "@a:b": {}}}
        assert json.loads(KeysClaimRequest.from_json(body).to_http(CLIENT_V2_ALPHA).body) == body

    def test_a_name_that_is_no_device_id_is_asked_for_in_vain(self) -> None:
        names = ["", "x" * 513, "ü" * 400, "a/b~", "\x00"]
        body = {"one_time_keys": {"@a:b": dict.fromkeys(names, "signed_curve25519")}}
        request = KeysClaimRequest.from_json(body)
        assert request == KeysClaimRequest.for_devices({"@a:b": names})
        assert list(request.asked["@a:b"]) == names
        assert request.to_json() == body
        assert KeysClaimRequest.from_http(request.to_http()) == request

    @pytest.mark.parametrize("timeout", [0, 1])
    def test_the_draft_of_2015_has_no_timeout(self, timeout: int) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysClaimRequest(one_time_keys={}, timeout=timeout).to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == ("/timeout", Reason.NOT_IN_DIALECT)

    @pytest.mark.parametrize(
        ("body", "path", "reason", "errcode"),
        [
            ([], "", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({}, "/one_time_keys", Reason.MISSING_MEMBER, "M_BAD_JSON"),
            ({"one_time_keys": None}, "/one_time_keys", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": []}, "/one_time_keys", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": None}}, "/one_time_keys/@a:b", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": ["D"]}}, "/one_time_keys/@a:b", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": {"D": None}}}, "/one_time_keys/@a:b/D", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": {"D": ["x"]}}}, "/one_time_keys/@a:b/D", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {"@a:b": {"D": 1.5}}}, "/one_time_keys/@a:b/D", Reason.NOT_AN_INTEGER, "M_BAD_JSON"),
            (
                {"one_time_keys": {"@a:b": {"D": "\ud800"}}},
                "/one_time_keys/@a:b/D",
                Reason.LONE_SURROGATE,
                "M_BAD_JSON",
            ),
            ({"one_time_keys": {}, "timeout": None}, "/timeout", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {}, "timeout": "1"}, "/timeout", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"one_time_keys": {}, "timeout": -1}, "/timeout", Reason.INVALID_VALUE, "M_BAD_JSON"),
            ({"one_time_keys": {}, "timeout": 0.5}, "/timeout", Reason.NOT_AN_INTEGER, "M_BAD_JSON"),
            ({"one_time_keys": {}, "timeout": 2**53}, "/timeout", Reason.INTEGER_OUT_OF_RANGE, "M_BAD_JSON"),
        ],
    )
    def test_bad_bodies(self, body: Any, path: str, reason: Reason, errcode: str) -> None:
        for read in (
            lambda: KeysClaimRequest.from_json(body),
            lambda: KeysClaimRequest.from_bytes(json.dumps(body)),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                read()
            error = caught.value
            assert (error.path, error.reason, error.errcode, error.http_status) == (path, reason, errcode, 400)

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ('{"one_time_keys": {"@a:b": {}, "@a:b": {}}}', "/one_time_keys/@a:b"),
            ('{"one_time_keys": {"@a:b": {"D": "x", "D": "x"}}}', "/one_time_keys/@a:b/D"),
            ('{"one_time_keys": {}, "one_time_keys": {}}', "/one_time_keys"),
            ('{"one_time_keys": {}, "timeout": 1, "timeout": 1}', "/timeout"),
        ],
    )
    def test_a_member_that_stands_there_twice(self, text: str, path: str) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysClaimRequest.from_bytes(text)
        assert (caught.value.path, caught.value.reason) == (path, Reason.DUPLICATE_MEMBER)

    @pytest.mark.parametrize("entry", [None, {"D": "signed_curve25519"}, 5, []], ids=repr)
    def test_a_name_that_is_no_user_id_is_set_aside(self, entry: Any) -> None:
        body = {"one_time_keys": {"bob/~": entry, "@a:b": {"D": "x"}}}
        request = KeysClaimRequest.from_json(body)
        assert request.asked == {"@a:b": {"D": "x"}}
        rejection = request.one_time_keys["bob/~"]
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == ("/one_time_keys/bob~1~0", Reason.INVALID_IDENTIFIER)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == ("bob/~", None, entry)
        assert request.to_json() == body

    @pytest.mark.parametrize(
        ("devices", "path", "reason"),
        [
            (None, "/one_time_keys", Reason.WRONG_TYPE),
            ([], "/one_time_keys", Reason.WRONG_TYPE),
            ({5: ["D"]}, "/one_time_keys", Reason.WRONG_TYPE),
            ({"bob": ["D"]}, "/one_time_keys/bob", Reason.INVALID_IDENTIFIER),
            ({"@a:b": None}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": "D"}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": {"D": "x"}}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": ["D", 1]}, "/one_time_keys/@a:b/1", Reason.WRONG_TYPE),
            ({"@a:b": [[]]}, "/one_time_keys/@a:b/0", Reason.WRONG_TYPE),
            ({"@a:b": ["D", "\ud800"]}, "/one_time_keys/@a:b/1", Reason.LONE_SURROGATE),
        ],
        ids=repr,
    )
    def test_bad_callers_by_device(self, devices: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysClaimRequest.for_devices(devices)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        ("members", "path"),
        [
            ({"algorithm": None}, "/one_time_keys/@a:b/D"),
            ({"algorithm": 5}, "/one_time_keys/@a:b/D"),
            ({"timeout": "1"}, "/timeout"),
            ({"timeout": True}, "/timeout"),
            ({"timeout": -1}, "/timeout"),
        ],
        ids=repr,
    )
    def test_bad_callers_by_option(self, members: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysClaimRequest.for_devices({"@a:b": ["D"]}, **members)
        assert caught.value.path == path

    @pytest.mark.parametrize(
        ("asked", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ({"@a:b": ("D",)}, "/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": {"D": None}}, "/@a:b/D", Reason.WRONG_TYPE),
            ({"@a:b": {"D": ("x",)}}, "/@a:b/D", Reason.WRONG_TYPE),
            ({"bob": {}}, "/bob", Reason.INVALID_IDENTIFIER),
        ],
        ids=repr,
    )
    def test_the_constructor_checks_too(self, asked: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysClaimRequest(one_time_keys=asked)
        assert (caught.value.path, caught.value.reason) == (f"/one_time_keys{path}", reason)


def answer() -> dict[str, Any]:
    return {
        "one_time_keys": {
            ALICE.user_id: {"PHONE": {ID: KEY.to_json()}, "a/b~c": {}},
            BOB.user_id: {"X": {BOBS_ID: BOBS.to_json(), "curve25519:A": BARE, "org.example:A": "any text"}},
        },
        "failures": {"c.example": {"status": 503}, "d.example": None, "e.example": "down", "f": [], "g": 1.5},
    }


def key_of(response: KeysClaimResponse, user: str, device: str, key_id: str) -> OneTimeKey | Rejection:
    devices = response.one_time_keys[user]
    assert not isinstance(devices, Rejection)
    keys = devices[device]
    assert not isinstance(keys, Rejection)
    return keys[key_id]


class TestResponse:
    def test_decoding(self) -> None:
        response = KeysClaimResponse.from_json(answer())
        assert key_of(response, ALICE.user_id, "PHONE", ID) == KEY
        assert key_of(response, BOB.user_id, "X", BOBS_ID) == BOBS
        bare = key_of(response, BOB.user_id, "X", "curve25519:A")
        assert isinstance(bare, OneTimeKey)
        assert (bare.signed, bare.public_key) == (None, sample_curve25519_key("bare"))
        unknown = key_of(response, BOB.user_id, "X", "org.example:A")
        assert isinstance(unknown, OneTimeKey)
        assert (unknown.public_key, unknown.key) == (None, "any text")
        assert response.malformed == ()
        assert response.to_json() == answer()

    def test_a_failure_that_is_no_object_is_a_failure(self) -> None:
        response = KeysClaimResponse.from_json(answer())
        assert response.failures == {
            "c.example": {"status": 503},
            "d.example": None,
            "e.example": "down",
            "f": [],
            "g": 1.5,
        }

    @pytest.mark.parametrize(
        "name", ["", "x" * 513, "ü" * 257, "\ud800"], ids=["empty", "long", "long in bytes", "half"]
    )
    @pytest.mark.parametrize(
        "keys", [{ID: KEY.to_json(), BOBS_ID: None, "x": 5}, {}, None, []], ids=["three", "none", "null", "array"]
    )
    def test_a_name_that_is_no_device_id_is_one_rejection(self, name: str, keys: Any) -> None:
        body: dict[str, Any] = {"one_time_keys": {ALICE.user_id: {name: keys, "PHONE": {ID: KEY.to_json()}}}}
        response = KeysClaimResponse.from_json(body)
        devices = response.one_time_keys[ALICE.user_id]
        assert not isinstance(devices, Rejection)
        rejection = devices[name]
        assert isinstance(rejection, Rejection)
        shown = name if name.isprintable() else "\\ud800"
        path = f"/one_time_keys/@alice:a.example/{shown}"
        assert (rejection.path, rejection.reason) == (path, Reason.INVALID_IDENTIFIER)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == (ALICE.user_id, name, keys)
        assert key_of(response, ALICE.user_id, "PHONE", ID) == KEY
        assert response.to_json() == {**body, "failures": {}}

    def test_a_name_of_512_bytes_is_a_device_id(self) -> None:
        name = "ü" * 256
        response = KeysClaimResponse.from_json({"one_time_keys": {ALICE.user_id: {name: {ID: KEY.to_json()}}}})
        assert key_of(response, ALICE.user_id, name, ID) == KEY

    def test_a_homeserver_builds_one_from_models(self) -> None:
        built = KeysClaimResponse(
            one_time_keys={ALICE.user_id: {"PHONE": {ID: KEY}}}, failures={"b.example": {}}, extra={"x": 1}
        )
        assert built.to_json() == {
            "one_time_keys": {"@alice:a.example": {"PHONE": {ID: KEY.to_json()}}},
            "failures": {"b.example": {}},
            "x": 1,
        }
        assert KeysClaimResponse().to_json() == {"one_time_keys": {}, "failures": {}}
        assert KeysClaimResponse.from_json({"one_time_keys": {}}) == KeysClaimResponse()

    @pytest.mark.parametrize(
        ("body", "path", "reason"),
        [
            ([], "", Reason.WRONG_TYPE),
            (None, "", Reason.WRONG_TYPE),
            ({}, "/one_time_keys", Reason.MISSING_MEMBER),
            ({"failures": {}}, "/one_time_keys", Reason.MISSING_MEMBER),
            ({"errcode": "M_UNKNOWN", "error": ""}, "/one_time_keys", Reason.MISSING_MEMBER),
        ],
    )
    def test_what_is_no_answer(self, body: Any, path: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysClaimResponse.from_json(body)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize("name", ["one_time_keys", "failures"])
    @pytest.mark.parametrize("value", [None, 5, "x", [], True, 1.5], ids=repr)
    def test_a_map_that_is_none_costs_only_itself(self, name: str, value: Any) -> None:
        body = {**answer(), name: value}
        response = KeysClaimResponse.from_json(body)
        (rejection,) = response.malformed
        reason = Reason.NOT_AN_INTEGER if value == 1.5 else Reason.WRONG_TYPE
        assert (rejection.path, rejection.reason, rejection.raw) == (f"/{name}", reason, value)
        assert (rejection.user_id, rejection.device_id) == (None, None)
        assert getattr(response, name) == {}
        assert len(response.one_time_keys) + len(response.failures) == {"one_time_keys": 5, "failures": 2}[name]
        assert response.to_json() == {**body, name: None if value == 1.5 else value}

    @pytest.mark.parametrize(
        ("place", "entry", "path", "reason", "device"),
        [
            ((BOB.user_id,), None, "/@bob:b.example", Reason.WRONG_TYPE, None),
            ((BOB.user_id,), [], "/@bob:b.example", Reason.WRONG_TYPE, None),
            ((BOB.user_id, "X"), None, "/@bob:b.example/X", Reason.WRONG_TYPE, "X"),
            ((BOB.user_id, "X"), "x", "/@bob:b.example/X", Reason.WRONG_TYPE, "X"),
            ((BOB.user_id, "a/b~c"), [], "/@bob:b.example/a~1b~0c", Reason.WRONG_TYPE, "a/b~c"),
            ((BOB.user_id, "X", BOBS_ID), None, f"/@bob:b.example/X/{BOBS_ID}", Reason.WRONG_TYPE, "X"),
            ((BOB.user_id, "X", BOBS_ID), {}, f"/@bob:b.example/X/{BOBS_ID}/key", Reason.MISSING_MEMBER, "X"),
            ((BOB.user_id, "X", "nocolon"), "x", "/@bob:b.example/X/nocolon", Reason.INVALID_KEY_ID, "X"),
            ((BOB.user_id, "X", "curve25519:B"), "x", "/@bob:b.example/X/curve25519:B", Reason.INVALID_BASE64, "X"),
            (("bob",), {"X": {}}, "/bob", Reason.INVALID_IDENTIFIER, None),
            (("",), None, "/", Reason.INVALID_IDENTIFIER, None),
        ],
        ids=repr,
    )
    def test_an_entry_that_is_none_costs_only_itself(
        self, place: tuple[str, ...], entry: Any, path: str, reason: Reason, device: str | None
    ) -> None:
        body = answer()
        at = body["one_time_keys"]
        for name in place[:-1]:
            at = at[name]
        at[place[-1]] = entry
        response = KeysClaimResponse.from_json(body)
        found: Any = response.one_time_keys
        for name in place:
            found = found[name]
        assert isinstance(found, Rejection)
        assert (found.path, found.reason) == (f"/one_time_keys{path}", reason)
        assert (found.user_id, found.device_id, found.raw) == (place[0], device, entry)
        assert key_of(response, ALICE.user_id, "PHONE", ID) == KEY
        assert response.malformed == ()
        assert response.to_json() == body
        assert KeysClaimResponse.from_bytes(json.dumps(body)) == response

    @pytest.mark.parametrize(
        ("entry", "path", "reason"),
        [
            ('{"key": "x", "key": "y"}', "/key", Reason.DUPLICATE_MEMBER),
            ('{"key": "x", "fallback": 1.0}', "/fallback", Reason.NOT_AN_INTEGER),
            ('{"key": "x", "a": NaN}', "/a", Reason.NOT_AN_INTEGER),
            ('{"key": "x", "\\ud800": 1}', "/\\ud800", Reason.LONE_SURROGATE),
            ('{"key": "x", "a": ' + "[" * 200 + "]" * 200 + "}", "/a" + "/0" * 123, Reason.TOO_DEEP),
        ],
    )
    def test_a_fault_of_the_bytes_costs_only_the_key_it_stands_in(self, entry: str, path: str, reason: Reason) -> None:
        body = answer()
        body["one_time_keys"][BOB.user_id]["X"][BOBS_ID] = "HERE"
        response = KeysClaimResponse.from_bytes(json.dumps(body).replace('"HERE"', entry))
        rejection = key_of(response, BOB.user_id, "X", BOBS_ID)
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == (f"/one_time_keys/@bob:b.example/X/{BOBS_ID}{path}", reason)
        assert isinstance(key_of(response, BOB.user_id, "X", "curve25519:A"), OneTimeKey)
        body["one_time_keys"][BOB.user_id]["X"][BOBS_ID] = None
        assert response.to_json() == body

    def test_a_user_who_stands_there_twice(self) -> None:
        response = KeysClaimResponse.from_bytes(b'{"one_time_keys": {"@a:b": {}, "@a:b": {}, "@c:d": {}}}')
        rejection = response.one_time_keys["@a:b"]
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == ("/one_time_keys/@a:b", Reason.DUPLICATE_MEMBER)
        assert response.to_json()["one_time_keys"] == {"@a:b": None, "@c:d": {}}

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"one_time_keys": None}, "/one_time_keys", Reason.WRONG_TYPE),
            ({"one_time_keys": {"@a:b": None}}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"one_time_keys": {"@a:b": {"D": None}}}, "/one_time_keys/@a:b/D", Reason.WRONG_TYPE),
            ({"one_time_keys": {"@a:b": {"D": {ID: {}}}}}, f"/one_time_keys/@a:b/D/{ID}", Reason.WRONG_TYPE),
            (
                {"one_time_keys": {"@a:b": {"D": {BOBS_ID: KEY}}}},
                f"/one_time_keys/@a:b/D/{BOBS_ID}",
                Reason.INVALID_KEY_ID,
            ),
            ({"one_time_keys": {"bob": {}}}, "/one_time_keys/bob", Reason.INVALID_IDENTIFIER),
            ({"one_time_keys": {"@a:b": {5: {}}}}, "/one_time_keys/@a:b", Reason.WRONG_TYPE),
            ({"failures": None}, "/failures", Reason.WRONG_TYPE),
            ({"failures": {"x": b""}}, "/failures/x", Reason.NOT_A_JSON_VALUE),
            ({"failures": {"x": [float("inf")]}}, "/failures/x/0", Reason.NOT_AN_INTEGER),
            ({"malformed": KEY}, "/malformed", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_callers(self, members: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysClaimResponse(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        ("members", "path"),
        [
            ({"one_time_keys": {"@a:b": {"D": {ID: KEY}}}}, f"/one_time_keys/@a:b/D/{ID}"),
            ({"failures": {"c.example": None}}, "/failures"),
        ],
    )
    def test_what_the_draft_of_2015_cannot_say(self, members: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysClaimResponse(**members).to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == (path, Reason.NOT_IN_DIALECT)

    @pytest.mark.parametrize("value", [None, [], "", 0])
    def test_malformed_failures_are_not_dropped_in_the_draft_of_2015(self, value: Any) -> None:
        response = KeysClaimResponse.from_json({"one_time_keys": {}, "failures": value})
        with pytest.raises(LocalProtocolError) as caught:
            response.to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == ("/failures", Reason.NOT_IN_DIALECT)

    def test_what_the_draft_of_2015_can_say(self) -> None:
        bare = OneTimeKey.from_json("curve25519:A", BARE)
        response = KeysClaimResponse(one_time_keys={"@a:b": {"D": {"curve25519:A": bare}}})
        http = response.to_http(CLIENT_V2_ALPHA)
        assert json.loads(http.body) == {"one_time_keys": {"@a:b": {"D": {"curve25519:A": BARE}}}}

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        body = answer()
        for place in (
            value,
            {**body, "failures": value},
            {**body, "one_time_keys": value},
            {**body, "one_time_keys": {ALICE.user_id: value}},
            {**body, "one_time_keys": {ALICE.user_id: {"PHONE": value}}},
            {**body, "one_time_keys": {ALICE.user_id: {"PHONE": {ID: value}}}},
            {**body, "added": value},
        ):
            before = repr(place)
            for kind in (KeysClaimRequest, KeysClaimResponse):
                with contextlib.suppress(E2EKeysError):
                    kind.from_json(place).to_http()
            assert repr(place) == before
