"""/keys/upload as values: what is uploaded, what is set aside, and how many keys are left."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    CLIENT_V3,
    FEDERATION_V1,
    DeviceKeys,
    E2EKeysError,
    HttpRequest,
    HttpResponse,
    KeysUploadRequest,
    KeysUploadResponse,
    LocalProtocolError,
    MatrixError,
    OneTimeKey,
    Reason,
    Rejection,
    RemoteProtocolError,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
DEVICE = ALICE.device("PHONE")
KEY = ALICE.one_time_key("PHONE", "AAAAAQ")
FALLBACK = ALICE.one_time_key("PHONE", "AAAAAg", fallback=True)
BARE = sample_curve25519_key("bare").to_base64()
BARE_KEY = OneTimeKey.from_json("curve25519:AAAAAw", BARE)
OTHER_BARE = OneTimeKey.from_json("curve25519:AAAABA", BARE)
ID = "signed_curve25519:AAAAAQ"
FALLBACK_ID = "signed_curve25519:AAAAAg"


def body() -> dict[str, Any]:
    return {
        "device_keys": DEVICE.to_json(),
        "one_time_keys": {ID: KEY.to_json(), "curve25519:AAAAAw": BARE},
        "fallback_keys": {FALLBACK_ID: FALLBACK.to_json()},
    }


class TestRequest:
    def test_both_directions(self) -> None:
        request = KeysUploadRequest(
            device_keys=DEVICE,
            one_time_keys={ID: KEY, "curve25519:AAAAAw": OneTimeKey.from_json("curve25519:AAAAAw", BARE)},
            fallback_keys={FALLBACK_ID: FALLBACK},
        )
        assert request.to_json() == body()
        sent = request.to_http()
        assert (sent.method, sent.target) == ("POST", "/_matrix/client/v3/keys/upload")
        assert json.loads(sent.body) == body()
        assert request.to_http(CLIENT_R0).target == "/_matrix/client/r0/keys/upload"
        read = KeysUploadRequest.from_bytes(json.dumps(body()))
        assert read == request
        assert type(read.device_keys) is DeviceKeys
        assert read.one_time_keys[ID] == KEY
        fallback = read.fallback_keys[FALLBACK_ID]
        assert isinstance(fallback, OneTimeKey)
        assert fallback.fallback is True

    def test_for_keys(self) -> None:
        bare = OneTimeKey.from_json("curve25519:AAAAAw", BARE)
        request = KeysUploadRequest.for_keys(
            device_keys=DEVICE, one_time_keys=[KEY, bare], fallback_keys=iter([FALLBACK])
        )
        assert request == KeysUploadRequest(
            device_keys=DEVICE,
            one_time_keys={ID: KEY, "curve25519:AAAAAw": bare},
            fallback_keys={FALLBACK_ID: FALLBACK},
        )
        assert request.to_json() == body()
        assert KeysUploadRequest.for_keys() == KeysUploadRequest()
        assert KeysUploadRequest.for_keys(one_time_keys=(KEY,)).to_json() == {"one_time_keys": {ID: KEY.to_json()}}

    def test_one_id_in_both_maps(self) -> None:
        fallback = ALICE.one_time_key("PHONE", "AAAAAQ", fallback=True)
        request = KeysUploadRequest.for_keys(one_time_keys=[KEY], fallback_keys=[fallback])
        assert request == KeysUploadRequest(one_time_keys={ID: KEY}, fallback_keys={ID: fallback})

    @pytest.mark.parametrize(
        ("arguments", "path", "reason", "detail"),
        [
            (
                {"one_time_keys": [KEY, FALLBACK]},
                "/one_time_keys/1",
                Reason.INVALID_VALUE,
                "a fallback key says so, and a one-time key does not",
            ),
            (
                {"fallback_keys": (key for key in [KEY])},
                "/fallback_keys/0",
                Reason.INVALID_VALUE,
                "a fallback key says so, and a one-time key does not",
            ),
            (
                {"one_time_keys": [KEY], "fallback_keys": [OTHER_BARE, KEY, FALLBACK, FALLBACK]},
                "/fallback_keys/1",
                Reason.INVALID_VALUE,
                "a fallback key says so, and a one-time key does not",
            ),
            (
                {"fallback_keys": [FALLBACK, BARE_KEY, ALICE.one_time_key("PHONE", "X", fallback=True)]},
                "/fallback_keys/2",
                Reason.TOO_MANY_KEYS,
                "there can be one 'signed_curve25519' fallback key",
            ),
            (
                {"fallback_keys": [BARE_KEY, FALLBACK, OTHER_BARE]},
                "/fallback_keys/2",
                Reason.TOO_MANY_KEYS,
                "there can be one 'curve25519' fallback key",
            ),
            (
                {"fallback_keys": iter([FALLBACK, FALLBACK])},
                "/fallback_keys/1",
                Reason.TOO_MANY_KEYS,
                "there can be one 'signed_curve25519' fallback key",
            ),
        ],
    )
    def test_keys_in_the_wrong_place(self, arguments: dict[str, Any], path: str, reason: Reason, detail: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest.for_keys(**arguments)
        assert (caught.value.path, caught.value.reason, caught.value.detail) == (path, reason, detail)

    def test_a_bare_key_does_not_say_which_it_is(self) -> None:
        request = KeysUploadRequest.for_keys(one_time_keys=[BARE_KEY, OTHER_BARE], fallback_keys=[FALLBACK, BARE_KEY])
        assert request.to_json() == {
            "one_time_keys": {"curve25519:AAAAAw": BARE, "curve25519:AAAABA": BARE},
            "fallback_keys": {FALLBACK_ID: FALLBACK.to_json(), "curve25519:AAAAAw": BARE},
        }

    def test_what_was_received_may_stand_anywhere(self) -> None:
        sent = {"one_time_keys": {FALLBACK_ID: FALLBACK.to_json()}, "fallback_keys": {ID: KEY.to_json()}}
        request = KeysUploadRequest.from_json(sent)
        assert (request.one_time_keys, request.fallback_keys) == ({FALLBACK_ID: FALLBACK}, {ID: KEY})
        assert request.to_json() == sent

    def test_one_key_twice(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest.for_keys(one_time_keys=[KEY, KEY])
        assert (caught.value.path, caught.value.reason) == ("/one_time_keys/1", Reason.INVALID_KEY_ID)

    def test_two_keys_of_one_id(self) -> None:
        other = ALICE.one_time_key("LAPTOP", "AAAAAQ")
        assert other.key_id == KEY.key_id
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest.for_keys(one_time_keys=[KEY, BARE_KEY, other])
        assert (caught.value.path, caught.value.reason) == ("/one_time_keys/2", Reason.INVALID_KEY_ID)
        assert caught.value.detail == "two keys are called 'signed_curve25519:AAAAAQ'"

    @pytest.mark.parametrize(
        ("arguments", "path"),
        [
            ({"device_keys": KEY}, "/device_keys"),
            ({"device_keys": DEVICE.to_json()}, "/device_keys"),
            ({"one_time_keys": None}, "/one_time_keys"),
            ({"one_time_keys": KEY}, "/one_time_keys"),
            ({"one_time_keys": {ID: KEY}}, "/one_time_keys"),
            ({"one_time_keys": "x"}, "/one_time_keys"),
            ({"one_time_keys": [DEVICE]}, "/one_time_keys/0"),
            ({"one_time_keys": [KEY, None]}, "/one_time_keys/1"),
            ({"one_time_keys": [KEY.to_json()]}, "/one_time_keys/0"),
            ({"fallback_keys": 5}, "/fallback_keys"),
            ({"fallback_keys": [FALLBACK, BARE]}, "/fallback_keys/1"),
            (
                {"fallback_keys": [Rejection(path="/fallback_keys/x", reason=Reason.WRONG_TYPE, detail="")]},
                "/fallback_keys/0",
            ),
        ],
        ids=repr,
    )
    def test_for_what_are_no_keys(self, arguments: dict[str, Any], path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest.for_keys(**arguments)
        assert (caught.value.path, caught.value.reason) == (path, Reason.WRONG_TYPE)

    def test_nothing_is_uploaded_in_order_to_ask_for_the_counts(self) -> None:
        assert KeysUploadRequest().to_json() == {}
        assert KeysUploadRequest().to_http().body == b"{}"
        assert KeysUploadRequest.from_bytes(b"{}") == KeysUploadRequest()
        assert KeysUploadRequest.from_json({"one_time_keys": {}, "fallback_keys": {}}) == KeysUploadRequest()

    def test_the_draft_of_2015(self) -> None:
        bare = OneTimeKey.from_json("curve25519:AAAAAQ", BARE)
        request = KeysUploadRequest(device_id="a/b", one_time_keys={"curve25519:AAAAAQ": bare})
        sent = request.to_http(CLIENT_V2_ALPHA)
        assert sent.target == "/_matrix/client/v2_alpha/keys/upload/a%2Fb"
        assert json.loads(sent.body) == {"one_time_keys": {"curve25519:AAAAAQ": BARE}}
        assert KeysUploadRequest.from_http(sent) == request
        assert KeysUploadRequest.from_json({}, device_id="a/b").device_id == "a/b"

    @pytest.mark.parametrize(
        ("request_", "path", "reason"),
        [
            (KeysUploadRequest(), "/device_id", Reason.MISSING_PARAMETER),
            (
                KeysUploadRequest(device_id="D", fallback_keys={FALLBACK_ID: FALLBACK}),
                "/fallback_keys",
                Reason.NOT_IN_DIALECT,
            ),
            (
                KeysUploadRequest(device_id="D", one_time_keys={ID: KEY}),
                "/one_time_keys/signed_curve25519:AAAAAQ",
                Reason.NOT_IN_DIALECT,
            ),
            (KeysUploadRequest(device_id=".."), "/device_id", Reason.INVALID_IDENTIFIER),
        ],
    )
    def test_what_the_draft_of_2015_cannot_say(self, request_: KeysUploadRequest, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            request_.to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_a_device_id_is_said_in_the_draft_of_2015_only(self) -> None:
        for dialect in (None, CLIENT_V3, CLIENT_R0):
            with pytest.raises(LocalProtocolError) as caught:
                KeysUploadRequest(device_id="D").to_http(dialect)
            assert (caught.value.path, caught.value.reason) == ("/device_id", Reason.NOT_IN_DIALECT)

    def test_a_member_of_another_endpoint_is_none_here(self) -> None:
        # v2_alpha lacks "timeout" where it would be a member; in an upload it never was one.
        request = KeysUploadRequest(device_id="D", extra={"timeout": 0})
        assert KeysUploadRequest.from_http(request.to_http(CLIENT_V2_ALPHA)) == request

    def test_a_dialect_that_has_no_such_endpoint(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest().to_http(FEDERATION_V1)
        assert (caught.value.path, caught.value.reason) == ("/dialect", Reason.NOT_IN_DIALECT)

    @pytest.mark.parametrize(
        ("sent", "reason", "errcode", "status"),
        [
            (b"[]", Reason.WRONG_TYPE, "M_BAD_JSON", 400),
            (b'"x"', Reason.WRONG_TYPE, "M_BAD_JSON", 400),
            (b"null", Reason.WRONG_TYPE, "M_BAD_JSON", 400),
            (b"1.5", Reason.NOT_AN_INTEGER, "M_BAD_JSON", 400),
            (b"", Reason.NOT_JSON, "M_NOT_JSON", 400),
            (b"{", Reason.NOT_JSON, "M_NOT_JSON", 400),
            (b"\xff", Reason.NOT_UTF8, "M_NOT_JSON", 400),
        ],
    )
    def test_what_is_no_frame(self, sent: bytes, reason: Reason, errcode: str, status: int) -> None:
        for read in (
            lambda: KeysUploadRequest.from_bytes(sent),
            lambda: KeysUploadRequest.from_http(
                HttpRequest(method="POST", path="/_matrix/client/v3/keys/upload", body=sent)
            ),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                read()
            error = caught.value
            assert (error.path, error.reason, error.errcode, error.http_status) == ("", reason, errcode, status)

    @pytest.mark.parametrize(
        ("entry", "inside", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            ("x", "", Reason.WRONG_TYPE),
            (5, "", Reason.WRONG_TYPE),
            ({}, "/user_id", Reason.MISSING_MEMBER),
            ({**DEVICE.to_json(), "user_id": "alice"}, "/user_id", Reason.INVALID_IDENTIFIER),
            ({**DEVICE.to_json(), "device_id": ""}, "/device_id", Reason.INVALID_IDENTIFIER),
            ({**DEVICE.to_json(), "device_id": "X"}, "/keys/curve25519:PHONE", Reason.KEY_ID_NOT_DEVICE),
            ({**DEVICE.to_json(), "signatures": None}, "/signatures", Reason.WRONG_TYPE),
            ({**DEVICE.to_json(), "added": [1.5]}, "/added/0", Reason.NOT_AN_INTEGER),
        ],
        ids=repr,
    )
    def test_malformed_device_keys_are_set_aside(self, entry: Any, inside: str, reason: Reason) -> None:
        request = KeysUploadRequest.from_json({**body(), "device_keys": entry})
        rejection = request.device_keys
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == (f"/device_keys{inside}", reason)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == (None, None, entry)
        assert request.one_time_keys[ID] == KEY
        expected = None if reason is Reason.NOT_AN_INTEGER else entry
        assert request.to_json() == {**body(), "device_keys": expected}

    @pytest.mark.parametrize("name", ["one_time_keys", "fallback_keys"])
    @pytest.mark.parametrize(
        ("key_id", "entry", "inside", "reason"),
        [
            ("signed_curve25519:X", None, "", Reason.WRONG_TYPE),
            ("signed_curve25519:X", 5, "", Reason.WRONG_TYPE),
            ("signed_curve25519:X", [], "", Reason.WRONG_TYPE),
            ("signed_curve25519:X", BARE, "", Reason.WRONG_TYPE),
            ("signed_curve25519:X", {}, "/key", Reason.MISSING_MEMBER),
            ("signed_curve25519:X", {"key": None}, "/key", Reason.WRONG_TYPE),
            ("signed_curve25519:X", {"key": "?"}, "/key", Reason.INVALID_BASE64),
            ("signed_curve25519:X", {"key": "AAAA"}, "/key", Reason.WRONG_LENGTH),
            ("signed_curve25519:X", {"key": "A" * 43}, "/key", Reason.WEAK_KEY),
            ("signed_curve25519:X", {"key": BARE, "fallback": None}, "/fallback", Reason.WRONG_TYPE),
            ("signed_curve25519:X", {"key": BARE, "fallback": 1}, "/fallback", Reason.WRONG_TYPE),
            ("signed_curve25519:X", {"key": BARE, "signatures": []}, "/signatures", Reason.WRONG_TYPE),
            (
                "signed_curve25519:X",
                {"key": BARE, "signatures": {"@a:b": {"ed25519:D": 5}}},
                "/signatures/@a:b/ed25519:D",
                Reason.WRONG_TYPE,
            ),
            ("curve25519:X", "?", "", Reason.INVALID_BASE64),
            ("nocolon", {"key": BARE}, "", Reason.INVALID_KEY_ID),
            (":", BARE, "", Reason.INVALID_KEY_ID),
            ("", BARE, "", Reason.INVALID_KEY_ID),
        ],
        ids=repr,
    )
    def test_a_malformed_key_is_set_aside(
        self, name: str, key_id: str, entry: Any, inside: str, reason: Reason
    ) -> None:
        sent = body()
        sent[name][key_id] = entry
        request = KeysUploadRequest.from_json(sent)
        rejection = getattr(request, name)[key_id]
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == (f"/{name}/{key_id}{inside}", reason)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == (None, None, entry)
        assert request.one_time_keys[ID] == KEY
        assert request.fallback_keys[FALLBACK_ID] == FALLBACK
        assert request.device_keys == DEVICE
        assert request.malformed == ()
        assert request.to_json() == sent

    @pytest.mark.parametrize("name", ["one_time_keys", "fallback_keys"])
    @pytest.mark.parametrize("value", [None, [], "x", 5, True, 1.5], ids=repr)
    def test_a_map_that_is_none_costs_only_itself(self, name: str, value: Any) -> None:
        request = KeysUploadRequest.from_json({**body(), name: value})
        (rejection,) = request.malformed
        reason = Reason.NOT_AN_INTEGER if value == 1.5 else Reason.WRONG_TYPE
        assert (rejection.path, rejection.reason, rejection.raw) == (f"/{name}", reason, value)
        assert getattr(request, name) == {}
        assert request.device_keys == DEVICE
        assert request.to_json() == {**body(), name: None if value == 1.5 else value}

    @pytest.mark.parametrize(
        ("entry", "path", "reason"),
        [
            ('{"key": "x", "key": "y"}', "/key", Reason.DUPLICATE_MEMBER),
            ('{"key": "x", "a": 1.0}', "/a", Reason.NOT_AN_INTEGER),
            ('{"key": "x", "a": [NaN]}', "/a/0", Reason.NOT_AN_INTEGER),
            ('{"key": "x", "a": -0}', "/a", Reason.NEGATIVE_ZERO),
            ('{"key": "x", "a": 9007199254740992}', "/a", Reason.INTEGER_OUT_OF_RANGE),
            ('{"key": "x", "a": ' + "9" * 33 + "}", "/a", Reason.TOO_MANY_DIGITS),
            ('{"key": "x", "a": "\\ud800"}', "/a", Reason.LONE_SURROGATE),
            ('{"key": "x", "a": ' + "[" * 200 + "]" * 200 + "}", "/a" + "/0" * 125, Reason.TOO_DEEP),
        ],
    )
    def test_a_fault_of_the_bytes_costs_only_the_key_it_stands_in(self, entry: str, path: str, reason: Reason) -> None:
        text = json.dumps(body()).replace('"curve25519:AAAAAw": "' + BARE + '"', '"signed_curve25519:X": ' + entry)
        request = KeysUploadRequest.from_bytes(text)
        rejection = request.one_time_keys["signed_curve25519:X"]
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == ("/one_time_keys/signed_curve25519:X" + path, reason)
        assert (request.device_keys, request.one_time_keys[ID]) == (DEVICE, KEY)
        written = request.to_json()["one_time_keys"]
        assert isinstance(written, dict)
        assert written["signed_curve25519:X"] is None

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ('{"device_keys": {}, "device_keys": {}}', "/device_keys"),
            ('{"one_time_keys": {"curve25519:A": "x", "curve25519:A": "y"}}', "/one_time_keys/curve25519:A"),
            ('{"one_time_keys": {}, "one_time_keys": {}}', "/one_time_keys"),
        ],
    )
    def test_a_member_that_stands_there_twice(self, text: str, path: str) -> None:
        request = KeysUploadRequest.from_bytes(text)
        (rejection,) = [
            found
            for found in (request.device_keys, *request.one_time_keys.values(), *request.malformed)
            if found is not None
        ]
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == (path, Reason.DUPLICATE_MEMBER)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"device_keys": {}}, "/device_keys", Reason.WRONG_TYPE),
            ({"device_keys": DEVICE.to_json()}, "/device_keys", Reason.WRONG_TYPE),
            ({"device_keys": KEY}, "/device_keys", Reason.WRONG_TYPE),
            ({"one_time_keys": None}, "/one_time_keys", Reason.WRONG_TYPE),
            ({"one_time_keys": [KEY]}, "/one_time_keys", Reason.WRONG_TYPE),
            ({"one_time_keys": {ID: None}}, f"/one_time_keys/{ID}", Reason.WRONG_TYPE),
            ({"one_time_keys": {ID: KEY.to_json()}}, f"/one_time_keys/{ID}", Reason.WRONG_TYPE),
            ({"one_time_keys": {"a/b:c": KEY}}, "/one_time_keys/a~1b:c", Reason.INVALID_KEY_ID),
            ({"fallback_keys": {ID: FALLBACK}}, f"/fallback_keys/{ID}", Reason.INVALID_KEY_ID),
            ({"fallback_keys": {5: FALLBACK}}, "/fallback_keys", Reason.WRONG_TYPE),
            ({"device_id": ""}, "/device_id", Reason.INVALID_IDENTIFIER),
            ({"device_id": 5}, "/device_id", Reason.WRONG_TYPE),
            ({"malformed": 5}, "/malformed", Reason.WRONG_TYPE),
            ({"malformed": [None]}, "/malformed/0", Reason.WRONG_TYPE),
            (
                {"malformed": [Rejection(path="/device_keys", reason=Reason.WRONG_TYPE, detail="")]},
                "/malformed/0",
                Reason.INVALID_VALUE,
            ),
            (
                {"malformed": [Rejection(path="/one_time_keys/0", reason=Reason.WRONG_TYPE, detail="")]},
                "/malformed/0",
                Reason.INVALID_VALUE,
            ),
        ],
        ids=repr,
    )
    def test_bad_callers(self, members: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_bad_parameters(self) -> None:
        for parameters in ({"device": "D"}, {"device_id": "D", "user_id": "@a:b"}):
            with pytest.raises(LocalProtocolError) as caught:
                KeysUploadRequest.from_bytes(b"{}", **parameters)
            assert caught.value.reason is Reason.INVALID_VALUE
        with pytest.raises(RemoteProtocolError) as remote:
            KeysUploadRequest.from_json({}, device_id="x" * 513)
        assert (remote.value.path, remote.value.reason) == ("/device_id", Reason.INVALID_IDENTIFIER)
        assert remote.value.errcode == "M_INVALID_PARAM"

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for place in (
            value,
            {**body(), "device_keys": value},
            {**body(), "one_time_keys": value},
            {**body(), "fallback_keys": {ID: value}},
            {**body(), "x": value},
        ):
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                KeysUploadRequest.from_json(place).to_http()
            assert repr(place) == before


class TestResponse:
    def test_both_directions(self) -> None:
        response = KeysUploadResponse(one_time_key_counts={"signed_curve25519": 50, "curve25519": 0})
        sent = {"one_time_key_counts": {"signed_curve25519": 50, "curve25519": 0}}
        assert response.to_json() == sent
        assert KeysUploadResponse.from_json(sent) == response
        assert KeysUploadResponse.from_bytes(b'{"one_time_key_counts": {}}').one_time_key_counts == {}
        for dialect in (CLIENT_V3, CLIENT_R0, CLIENT_V2_ALPHA):
            assert KeysUploadResponse.from_http(response.to_http(dialect)) == response

    @pytest.mark.parametrize(
        ("sent", "path", "reason"),
        [
            ([], "", Reason.WRONG_TYPE),
            ({}, "/one_time_key_counts", Reason.MISSING_MEMBER),
            ({"device_one_time_keys_count": {}}, "/one_time_key_counts", Reason.MISSING_MEMBER),
            ({"one_time_key_counts": None}, "/one_time_key_counts", Reason.WRONG_TYPE),
            ({"one_time_key_counts": [1]}, "/one_time_key_counts", Reason.WRONG_TYPE),
            ({"one_time_key_counts": {"a/b": "1"}}, "/one_time_key_counts/a~1b", Reason.WRONG_TYPE),
            ({"one_time_key_counts": {"a": True}}, "/one_time_key_counts/a", Reason.WRONG_TYPE),
            ({"one_time_key_counts": {"a": None}}, "/one_time_key_counts/a", Reason.WRONG_TYPE),
            ({"one_time_key_counts": {"a": -1}}, "/one_time_key_counts/a", Reason.INVALID_VALUE),
            ({"one_time_key_counts": {"a": 1.0}}, "/one_time_key_counts/a", Reason.NOT_AN_INTEGER),
            ({"one_time_key_counts": {"a": 2**53}}, "/one_time_key_counts/a", Reason.INTEGER_OUT_OF_RANGE),
        ],
        ids=repr,
    )
    def test_bad_bodies(self, sent: Any, path: str, reason: Reason) -> None:
        for read in (
            lambda: KeysUploadResponse.from_json(sent),
            lambda: KeysUploadResponse.from_bytes(json.dumps(sent)),
            lambda: KeysUploadResponse.from_http(HttpResponse(status=200, body=json.dumps(sent).encode())),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                read()
            assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_a_count_that_stands_there_twice(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysUploadResponse.from_bytes(b'{"one_time_key_counts": {"a": 1, "a": 2}}')
        assert (caught.value.path, caught.value.reason) == ("/one_time_key_counts/a", Reason.DUPLICATE_MEMBER)

    @pytest.mark.parametrize(
        ("counts", "path"),
        [
            (None, ""),
            ([], ""),
            ({"a": -1}, "/a"),
            ({"a": True}, "/a"),
            ({"a": 2**53}, "/a"),
            ({"a": 1.5}, "/a"),
            ({1: 1}, ""),
        ],
        ids=repr,
    )
    def test_bad_callers(self, counts: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadResponse(one_time_key_counts=counts)
        assert caught.value.path == f"/one_time_key_counts{path}"

    def test_a_refusal_is_raised(self) -> None:
        refusal = MatrixError(status=400, errcode="M_UNKNOWN", error="One time key already exists")
        with pytest.raises(MatrixError) as caught:
            KeysUploadResponse.from_http(refusal.to_http())
        assert caught.value == refusal
        for status in (100, 302):
            with pytest.raises(RemoteProtocolError) as remote:
                KeysUploadResponse.from_http(HttpResponse(status=status, body=b'{"one_time_key_counts": {}}'))
            assert remote.value.reason is Reason.UNEXPECTED_STATUS
