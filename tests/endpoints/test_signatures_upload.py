"""/keys/signatures/upload as values: signed objects, and both forms of what is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    CLIENT_R0,
    CrossSigningKey,
    E2EKeysError,
    Ed25519PublicKey,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    SignedJson,
)
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
DEVICE = ALICE.device("PHONE")
VERIFIED = ALICE.verified(BOB.master_key)
ALICES_MASTER = ALICE.master_public_key.to_base64()
BOBS_MASTER = BOB.master_public_key.to_base64()


def body() -> dict[str, Any]:
    return {
        "@alice:a.example": {"PHONE": DEVICE.to_json(), ALICES_MASTER: ALICE.master_key.to_json()},
        "@bob:b.example": {BOBS_MASTER: VERIFIED.to_json()},
    }


class TestRequest:
    def test_for_keys(self) -> None:
        request = SignaturesUploadRequest.for_keys(iter([DEVICE, VERIFIED, ALICE.master_key]))
        assert request.to_json() == body()
        read = SignaturesUploadRequest.from_json(body())
        assert read == request
        # Equality of signed objects leaves the signatures out; they are what this is about.
        assert read.to_json() == SignaturesUploadRequest.from_bytes(json.dumps(body())).to_json() == body()
        sent = request.to_http()
        assert (sent.method, sent.target) == ("POST", "/_matrix/client/v3/keys/signatures/upload")
        assert json.loads(sent.body) == body()
        with pytest.raises(LocalProtocolError) as caught:
            request.to_http(CLIENT_R0)
        assert (caught.value.path, caught.value.reason) == ("/dialect", Reason.NOT_IN_DIALECT)

    def test_of_two_keys_of_one_name_the_last_is_uploaded(self) -> None:
        unsigned = ALICE.device("PHONE", cross_signed=False)
        request = SignaturesUploadRequest.for_keys([unsigned, DEVICE])
        assert request.to_json() == {"@alice:a.example": {"PHONE": DEVICE.to_json()}}

    def test_a_key_of_an_algorithm_that_nobody_knows(self) -> None:
        key = CrossSigningKey.from_json({"user_id": "@a:b", "usage": ["master"], "keys": {"x:y/z": "y/z"}})
        assert list(SignaturesUploadRequest.for_keys([key]).signed_objects["@a:b"]) == ["y/z"]

    def test_nothing(self) -> None:
        assert SignaturesUploadRequest.for_keys([]).to_json() == {}
        assert SignaturesUploadRequest.from_bytes(b"{}") == SignaturesUploadRequest(signed_objects={})

    @pytest.mark.parametrize("keys", [None, 5, [None], [DEVICE, {}], DEVICE, "x", [DEVICE.signed]], ids=repr)
    def test_bad_callers_by_key(self, keys: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SignaturesUploadRequest.for_keys(keys)
        assert (caught.value.path, caught.value.reason) == ("/keys", Reason.WRONG_TYPE)

    @pytest.mark.parametrize(
        ("objects", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            ({"alice": {}}, "/alice", Reason.INVALID_IDENTIFIER),
            ({"@a:b": None}, "/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": {"D": {}}}, "/@a:b/D", Reason.WRONG_TYPE),
            ({"@a:b": {"a/b": DEVICE}}, "/@a:b/a~1b", Reason.WRONG_TYPE),
            ({"@a:b": {5: DEVICE.signed}}, "/@a:b", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_callers(self, objects: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SignaturesUploadRequest(signed_objects=objects)
        assert (caught.value.path, caught.value.reason) == (f"/signed_objects{path}", reason)

    @pytest.mark.parametrize("sent", [[], None, "x", 5, True], ids=repr)
    def test_what_is_no_frame(self, sent: Any) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            SignaturesUploadRequest.from_json(sent)
        error = caught.value
        assert (error.path, error.reason, error.errcode) == ("", Reason.WRONG_TYPE, "M_BAD_JSON")

    @pytest.mark.parametrize(
        ("place", "entry", "path", "reason"),
        [
            (("@bob:b.example",), None, "/@bob:b.example", Reason.WRONG_TYPE),
            (("@bob:b.example",), [], "/@bob:b.example", Reason.WRONG_TYPE),
            (("bob",), {"X": {}}, "/bob", Reason.INVALID_IDENTIFIER),
            (("@bob:b.example", "a/b~c"), None, "/@bob:b.example/a~1b~0c", Reason.WRONG_TYPE),
            (("@bob:b.example", "X"), "x", "/@bob:b.example/X", Reason.WRONG_TYPE),
            (("@bob:b.example", "X"), {"signatures": None}, "/@bob:b.example/X/signatures", Reason.WRONG_TYPE),
            (
                ("@bob:b.example", "X"),
                {"signatures": {"@a:b": {"ed25519:D": None}}},
                "/@bob:b.example/X/signatures/@a:b/ed25519:D",
                Reason.WRONG_TYPE,
            ),
        ],
        ids=repr,
    )
    def test_an_entry_that_is_none_costs_only_itself(
        self, place: tuple[str, ...], entry: Any, path: str, reason: Reason
    ) -> None:
        sent = body()
        at = sent
        for name in place[:-1]:
            at = at[name]
        at[place[-1]] = entry
        request = SignaturesUploadRequest.from_json(sent)
        found: Any = request.signed_objects
        for name in place:
            found = found[name]
        assert isinstance(found, Rejection)
        assert (found.path, found.reason) == (path, reason)
        assert (found.user_id, found.device_id, found.raw) == (place[0], None, entry)
        assert request.signed_objects["@alice:a.example"]["PHONE"] == DEVICE.signed  # type: ignore[index]
        assert request.to_json() == sent

    @pytest.mark.parametrize(
        ("entry", "inside", "reason"),
        [
            ('{"a": 1, "a": 2}', "/a", Reason.DUPLICATE_MEMBER),
            ('{"a": 1.0}', "/a", Reason.NOT_AN_INTEGER),
            ('{"a": Infinity}', "/a", Reason.NOT_AN_INTEGER),
            ('{"\\ud800": 1}', "/\\ud800", Reason.LONE_SURROGATE),
            ('{"a": ' + "[" * 200 + "]" * 200 + "}", "/a" + "/0" * 125, Reason.TOO_DEEP),
        ],
    )
    def test_a_fault_of_the_bytes_costs_only_the_object_it_stands_in(
        self, entry: str, inside: str, reason: Reason
    ) -> None:
        sent = body()
        sent["@bob:b.example"]["X"] = "HERE"
        request = SignaturesUploadRequest.from_bytes(json.dumps(sent).replace('"HERE"', entry))
        bobs: Any = request.signed_objects["@bob:b.example"]
        assert (bobs["X"].path, bobs["X"].reason) == (f"/@bob:b.example/X{inside}", reason)
        assert type(bobs[BOBS_MASTER]) is SignedJson
        assert bobs[BOBS_MASTER].signatures == VERIFIED.signed.signatures
        sent["@bob:b.example"]["X"] = None
        assert request.to_json() == sent

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for place in (value, {"@a:b": value}, {"@a:b": {"D": value}}, {"failures": {"@a:b": {"D": value}}}):
            before = repr(place)
            for kind in (SignaturesUploadRequest, SignaturesUploadResponse):
                with contextlib.suppress(E2EKeysError):
                    kind.from_json(place).to_http()
            assert repr(place) == before


SPECIFIED = {"errcode": "M_INVALID_SIGNATURE", "error": "Invalid signature"}
OTHER_FORM = {"status": 400, "errcode": "M_INVALID_SIGNATURE", "message": "400: Invalid signature"}


def failure_of(response: SignaturesUploadResponse, user: str, name: str) -> SignatureFailure | Rejection:
    failures = response.failures[user]
    assert not isinstance(failures, Rejection)
    return failures[name]


class TestResponse:
    def test_nothing_was_refused(self) -> None:
        for sent in (b"{}", b'{"failures": {}}'):
            assert SignaturesUploadResponse.from_bytes(sent) == SignaturesUploadResponse()
        assert SignaturesUploadResponse().to_json() == {"failures": {}}

    def test_failed(self) -> None:
        response = SignaturesUploadResponse.from_json(
            {
                "failures": {
                    "@bob:b.example": {"X": {"errcode": "M_X"}, "a/b": None},
                    "@carol:c.example": [],
                    "@dave:d.example": {},
                    "nobody": {"X": {}},
                }
            }
        )
        failed = list(response.failed)
        assert [(user, key) for user, key, _ in failed] == [
            ("@bob:b.example", "X"),
            ("@bob:b.example", "a/b"),
            ("@carol:c.example", None),
            ("nobody", None),
        ]
        found = [failure for _, _, failure in failed]
        assert found[0] == SignatureFailure(errcode="M_X")
        assert [(type(failure), getattr(failure, "path", None)) for failure in found[1:]] == [
            (Rejection, "/failures/@bob:b.example/a~1b"),
            (Rejection, "/failures/@carol:c.example"),
            (Rejection, "/failures/nobody"),
        ]
        assert list(response.failed) == failed
        assert list(SignaturesUploadResponse().failed) == []

    def test_both_forms_are_read_and_written_as_they_were(self) -> None:
        sent = {"failures": {"@a:b": {"PHONE": SPECIFIED, "a/b": OTHER_FORM, "X": {}, "Y": {"x": 1.5}}}}
        response = SignaturesUploadResponse.from_json(sent)
        assert failure_of(response, "@a:b", "PHONE") == SignatureFailure(
            errcode="M_INVALID_SIGNATURE", error="Invalid signature"
        )
        assert failure_of(response, "@a:b", "a/b") == SignatureFailure(
            errcode="M_INVALID_SIGNATURE", message="400: Invalid signature", status=400
        )
        assert failure_of(response, "@a:b", "X") == SignatureFailure()
        assert failure_of(response, "@a:b", "Y") == SignatureFailure(extra={"x": 1.5})
        assert response.to_json() == sent

    @pytest.mark.parametrize(
        ("failure", "text"),
        [
            (SignatureFailure(), ""),
            (SignatureFailure(error="a"), "a"),
            (SignatureFailure(message="b"), "b"),
            (SignatureFailure(error="a", message="b"), "a"),
            (SignatureFailure(error="", message="b"), ""),
        ],
    )
    def test_the_text(self, failure: SignatureFailure, text: str) -> None:
        assert failure.text == text

    @pytest.mark.parametrize(
        ("entry", "inside", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ("refused", "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            (5, "", Reason.WRONG_TYPE),
            (1.5, "", Reason.NOT_AN_INTEGER),
            ({"errcode": 5}, "/errcode", Reason.WRONG_TYPE),
            ({"errcode": "M_X", "error": {}}, "/error", Reason.WRONG_TYPE),
            ({"message": []}, "/message", Reason.WRONG_TYPE),
            ({"error": "\ud800"}, "/error", Reason.LONE_SURROGATE),
            ({"status": "400"}, "/status", Reason.WRONG_TYPE),
            ({"status": True}, "/status", Reason.WRONG_TYPE),
            ({"status": 400.0}, "/status", Reason.NOT_AN_INTEGER),
            ({"status": 2**53}, "/status", Reason.INTEGER_OUT_OF_RANGE),
        ],
        ids=repr,
    )
    def test_what_is_no_well_formed_failure_is_a_failure_all_the_same(
        self, entry: Any, inside: str, reason: Reason
    ) -> None:
        sent = {"failures": {"@a:b": {"a/b": entry, "PHONE": SPECIFIED}, "@c:d": {}}}
        response = SignaturesUploadResponse.from_json(sent)
        rejection = failure_of(response, "@a:b", "a/b")
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == (f"/failures/@a:b/a~1b{inside}", reason)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == ("@a:b", None, entry)
        assert isinstance(failure_of(response, "@a:b", "PHONE"), SignatureFailure)
        assert response.malformed == ()
        not_canonical = (Reason.NOT_AN_INTEGER, Reason.INTEGER_OUT_OF_RANGE, Reason.LONE_SURROGATE)
        if reason in not_canonical:
            sent["failures"]["@a:b"]["a/b"] = None
        assert response.to_json() == sent

    @pytest.mark.parametrize(
        ("user", "entry", "reason"),
        [
            ("@c:d", None, Reason.WRONG_TYPE),
            ("@c:d", "x", Reason.WRONG_TYPE),
            ("bob", {"PHONE": SPECIFIED}, Reason.INVALID_IDENTIFIER),
            ("", None, Reason.INVALID_IDENTIFIER),
        ],
    )
    def test_a_user_whose_failures_are_none(self, user: str, entry: Any, reason: Reason) -> None:
        sent = {"failures": {"@a:b": {"PHONE": SPECIFIED}, user: entry}}
        response = SignaturesUploadResponse.from_json(sent)
        rejection = response.failures[user]
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason, rejection.user_id) == (f"/failures/{user}", reason, user)
        assert isinstance(failure_of(response, "@a:b", "PHONE"), SignatureFailure)
        assert response.to_json() == sent

    @pytest.mark.parametrize("value", [None, [], "x", 5, True], ids=repr)
    def test_failures_that_are_no_map_leave_one_in_the_dark(self, value: Any) -> None:
        response = SignaturesUploadResponse.from_json({"failures": value, "x": 1})
        (rejection,) = response.malformed
        assert (rejection.path, rejection.reason, rejection.raw) == ("/failures", Reason.WRONG_TYPE, value)
        assert response.failures == {}
        assert response.to_json() == {"failures": value, "x": 1}

    def test_a_failure_that_stands_there_twice(self) -> None:
        response = SignaturesUploadResponse.from_bytes(b'{"failures": {"@a:b": {"D": {}, "D": {}, "E": {}}}}')
        rejection = failure_of(response, "@a:b", "D")
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == ("/failures/@a:b/D", Reason.DUPLICATE_MEMBER)
        assert failure_of(response, "@a:b", "E") == SignatureFailure()
        assert response.to_json() == {"failures": {"@a:b": {"D": None, "E": {}}}}

    @pytest.mark.parametrize("sent", [[], None, "x"], ids=repr)
    def test_what_is_no_answer(self, sent: Any) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            SignaturesUploadResponse.from_json(sent)
        assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_TYPE)

    @pytest.mark.parametrize(
        ("failures", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ({"bob": {}}, "/bob", Reason.INVALID_IDENTIFIER),
            ({"@a:b": None}, "/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": {"D": SPECIFIED}}, "/@a:b/D", Reason.WRONG_TYPE),
            ({"@a:b": {"D": None}}, "/@a:b/D", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_callers(self, failures: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SignaturesUploadResponse(failures=failures)
        assert (caught.value.path, caught.value.reason) == (f"/failures{path}", reason)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"errcode": 5}, "/errcode", Reason.WRONG_TYPE),
            ({"error": b"x"}, "/error", Reason.WRONG_TYPE),
            ({"message": "\ud800"}, "/message", Reason.LONE_SURROGATE),
            ({"status": "400"}, "/status", Reason.WRONG_TYPE),
            ({"status": 2**53}, "/status", Reason.INTEGER_OUT_OF_RANGE),
        ],
        ids=repr,
    )
    def test_bad_callers_by_failure(self, members: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SignatureFailure(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)


def test_the_keys_of_these_tests_are_what_they_should_be() -> None:
    assert Ed25519PublicKey.from_base64(BOBS_MASTER) == BOB.master_public_key
    assert set(VERIFIED.signed.signatures) == {"@alice:a.example"}
