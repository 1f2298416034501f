"""Keys and signatures, uploaded to a real homeserver and asked of it, in every dialect that it speaks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from attrs import evolve

from interop.matrix_http import PASSWORD, MakeClient
from interop.people import Person, person_of, with_device
from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V3,
    CrossSigningKey,
    DeviceKeys,
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
    Dialect,
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    KeysUploadResponse,
    MatrixError,
    OneTimeKey,
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    SignedJson,
)

pytestmark = pytest.mark.interop

in_every_dialect = pytest.mark.parametrize("dialect", [CLIENT_V3, CLIENT_R0], ids=lambda dialect: dialect.name)


# --------------------------------------------------------------------------------------------------------------
# /keys/upload, /keys/query, /keys/claim
# --------------------------------------------------------------------------------------------------------------


@in_every_dialect
def test_keys_are_uploaded_queried_and_claimed(new_client: MakeClient, dialect: Dialect) -> None:
    client, other = new_client(), new_client()
    person = person_of(client)
    keys, fallback = person.one_time_keys(2), person.fallback_key()

    empty = client.ask(KeysUploadRequest(), dialect)
    assert empty.one_time_key_counts.get("signed_curve25519", 0) == 0
    request = KeysUploadRequest(device_keys=person.device_keys(), one_time_keys=keys, fallback_keys=fallback)
    for _ in range(2):  # what is there already is no other key
        uploaded = client.ask(request, dialect)
        assert uploaded == KeysUploadResponse(one_time_key_counts={"signed_curve25519": 2})

    nobody = client.user_id.replace("@", "@not")
    query = KeysQueryRequest(device_keys={client.user_id: (), nobody: ()}, timeout=5000)
    answer = other.ask(query, dialect)
    assert answer.device_keys == {client.user_id: {"DEVICE": person.device_keys()}, nobody: {}}
    assert answer == KeysQueryResponse(device_keys=answer.device_keys)

    claim = KeysClaimRequest.for_devices({client.user_id: ["DEVICE", "NONE"], nobody: ["DEVICE"]}, timeout=5000)
    answers = [other.ask(claim, dialect) for _ in range(4)]
    expected = [*({key_id: key} for key_id, key in keys.items()), fallback, fallback]
    got = [answer.one_time_keys[client.user_id]["DEVICE"] for answer in answers]  # type: ignore[index]  # maps
    assert sorted(got[:2], key=str) == sorted(expected[:2], key=str)
    assert got[2:] == expected[2:]
    assert answers == [KeysClaimResponse(one_time_keys={client.user_id: {"DEVICE": keys}}) for keys in got]


def test_what_is_not_there_is_not_claimed(new_client: MakeClient) -> None:
    client = new_client()
    person = with_device(client)
    client.upload(one_time_keys=person.one_time_keys(1))
    for request in (
        KeysClaimRequest(one_time_keys={}),
        KeysClaimRequest.for_devices({client.user_id: ["DEVICE"]}, algorithm="m.unknown"),
        KeysClaimRequest.for_devices({client.user_id: ["NONE"]}),
    ):
        assert client.ask(request) == KeysClaimResponse()
    assert client.upload() == {"signed_curve25519": 1}


def test_a_key_with_another_signature_is_the_same_key(new_client: MakeClient) -> None:
    client = new_client()
    person = with_device(client)
    ((key_id, key),) = person.one_time_keys(1).items()
    assert isinstance(key.signed, SignedJson)
    unsigned = key.signed.without_signatures().to_json()
    again = OneTimeKey.from_json(key_id, person.sign(unsigned, "self_signing"))
    assert client.upload(one_time_keys={key_id: key}) == {"signed_curve25519": 1}
    assert client.upload(one_time_keys={key_id: again}) == {"signed_curve25519": 1}


def test_the_id_of_a_claimed_key_is_free_again(new_client: MakeClient) -> None:
    client = new_client()
    person = with_device(client)
    first, second = person.one_time_keys(2).values()
    renamed = OneTimeKey.build(key_id=first.key_id, key=second.public_key, user_id=person.user_id, signer=person.signer)  # type: ignore[arg-type]  # a signed_curve25519 key has a public key
    for key in (first, renamed):
        assert client.upload(one_time_keys={str(key.key_id): key}) == {"signed_curve25519": 1}
        assert client.claim_one(client.user_id, "DEVICE") == key


def test_keys_of_every_form_are_stored_as_they_are(new_client: MakeClient) -> None:
    client = new_client()
    person = with_device(client)
    bare = OneTimeKey.from_json("curve25519:AAAA", person.curve25519_key.to_base64())
    unknown = OneTimeKey.from_json("m.unknown:AAAA", {"key": "!!", "more": [1], "signatures": {}})
    for key in (bare, unknown):
        assert client.upload(one_time_keys={str(key.key_id): key})[key.key_id.algorithm] == 1
        request = KeysClaimRequest.for_devices({client.user_id: ["DEVICE"]}, algorithm=key.key_id.algorithm)
        claimed = {client.user_id: {"DEVICE": {str(key.key_id): key}}}
        assert client.ask(request) == KeysClaimResponse(one_time_keys=claimed)


def test_fallback_keys_are_replaced_whatever_they_say_of_themselves(new_client: MakeClient) -> None:
    client = new_client()
    person = with_device(client)
    silent, fallback = person.one_time_keys(1), person.fallback_key()
    for keys in (silent, fallback):
        client.upload(fallback_keys=keys)
        assert client.claim(client.user_id, "DEVICE") == keys


def test_a_device_that_changed_its_identity_keys_is_what_it_is_now(new_client: MakeClient) -> None:
    client = new_client()
    before, after = with_device(client), with_device(client)
    result = client.query(KeysQueryRequest.for_users([client.user_id]))
    assert result.devices.accepted[client.user_id]["DEVICE"].keys == after.device_keys() != before.device_keys()


# --------------------------------------------------------------------------------------------------------------
# /keys/device_signing/upload
# --------------------------------------------------------------------------------------------------------------


def test_cross_signing_keys_are_uploaded_and_replaced_with_a_password(new_client: MakeClient) -> None:
    client, other = new_client(), new_client()
    first, second = (person_of(client) for _ in range(2))

    for _ in range(2):  # the same keys again are no other keys
        client.upload_cross_signing(first.cross_signing_upload())

    request = second.cross_signing_upload()
    error = client.refused(request.to_http())
    question = error.user_interactive
    assert question is not None
    assert (error.status, error.errcode, error.error, question.completed) == (401, None, "", ())
    assert ("m.login.password",) in [flow.stages for flow in question.flows]
    assert question.session is not None

    def try_password(credentials: dict[str, object]) -> MatrixError:
        return client.refused(request.with_auth(question.auth("m.login.password", credentials)).to_http())

    wrong = try_password({**client.credentials(), "password": "wrong"})
    assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
    assert wrong.user_interactive == question
    assert wrong.error != ""

    foreign = try_password(other.credentials())
    assert (foreign.status, foreign.errcode, foreign.user_interactive) == (403, "M_FORBIDDEN", None)

    signed = request.with_auth(question.auth("m.login.password", client.credentials()))
    assert PASSWORD not in repr(signed)
    assert client.ask(signed) == DeviceSigningUploadResponse()
    identity = client.query(KeysQueryRequest.for_users([client.user_id])).identities.accepted[client.user_id]
    assert identity.master_key == second.cross_signing_key("master")


def test_a_key_alone_asks_for_a_password_too(new_client: MakeClient) -> None:
    client = new_client()
    first, second = (person_of(client) for _ in range(2))
    client.upload_cross_signing(first.cross_signing_upload())
    second.secrets["master"] = first.secrets["master"]
    client.replace_cross_signing(DeviceSigningUploadRequest(self_signing_key=second.cross_signing_key("self_signing")))
    identity = client.query(KeysQueryRequest.for_users([client.user_id])).identities.accepted[client.user_id]
    assert identity.master_key == first.cross_signing_key("master")
    assert identity.self_signing_key == second.cross_signing_key("self_signing")
    assert identity.user_signing_key == first.cross_signing_key("user_signing")


# --------------------------------------------------------------------------------------------------------------
# /keys/signatures/upload
# --------------------------------------------------------------------------------------------------------------


def test_signatures_that_are_good_are_stored_beside_those_that_are_not(new_client: MakeClient) -> None:
    alice, bob, carol = new_client(), new_client(), new_client()
    person, bobs = with_device(alice), with_device(bob)
    alice.upload_cross_signing(person.cross_signing_upload())
    bob.upload_cross_signing(bobs.cross_signing_upload())

    good = person.signed_device_upload()
    bobs_master = person.signed_user_upload(bobs.cross_signing_key("master"))
    carols = Person(carol.user_id, "DEVICE")
    carols_master = person.signed_user_upload(carols.cross_signing_key("master"))  # which she has not uploaded
    bobs_device = SignaturesUploadRequest.for_keys([bobs.device_keys()])  # which is not Alice's to sign
    missing = SignaturesUploadRequest.for_keys([evolve_device(person, "MISSING")])
    objects: dict[str, dict[str, SignedJson]] = {}
    for request in (good, bobs_master, carols_master, bobs_device, missing):
        for user_id, signed in request.to_json().items():
            for name, obj in signed.items():  # type: ignore[union-attr]  # a map of objects
                objects.setdefault(user_id, {})[name] = SignedJson.from_json(obj)

    answer = alice.ask(SignaturesUploadRequest(signed_objects=objects))

    failures = flat(answer)
    assert {place: (failure.status, failure.errcode) for place, failure in failures.items()} == {
        (alice.user_id, "MISSING"): (404, "M_NOT_FOUND"),
        (bob.user_id, "DEVICE"): (404, "M_NOT_FOUND"),
        (carol.user_id, carols.public_text("master")): (404, "M_NOT_FOUND"),
    }
    assert all(failure.text == failure.message != "" for failure in failures.values())
    result = alice.query(KeysQueryRequest.for_users([alice.user_id, bob.user_id]))
    assert result.devices.accepted[alice.user_id]["DEVICE"].is_cross_signed
    own = result.identities.accepted[alice.user_id].confirm_as_own(master_key=person.secrets["master"].public_key)
    own.verify_user(result.identities.accepted[bob.user_id])


def evolve_device(person: Person, device_id: str) -> DeviceKeys:
    """Return a device of the same person under another id."""
    other = Person(person.user_id, device_id)
    other.secrets = person.secrets
    return other.cross_signed_device()


def flat(answer: SignaturesUploadResponse) -> dict[tuple[str, str], SignatureFailure]:
    """Return the failures by user and key, all of which must be well formed."""
    assert answer.malformed == ()
    found: dict[tuple[str, str], SignatureFailure] = {}
    for user_id, failures in answer.failures.items():
        assert isinstance(failures, Mapping)
        for name, failure in failures.items():
            assert isinstance(failure, SignatureFailure)
            found[user_id, name] = failure
    return found


@pytest.mark.parametrize(
    ("case", "errcode"),
    [
        ("a signature over something else", "M_INVALID_SIGNATURE"),
        ("a signature of another length", "M_INVALID_SIGNATURE"),
        ("no signature", "M_INVALID_SIGNATURE"),
        ("another content", "M_UNKNOWN"),
    ],
)
def test_a_signature_that_is_none_is_a_failure(new_client: MakeClient, case: str, errcode: str) -> None:
    client = new_client()
    person = with_device(client)
    client.upload_cross_signing(person.cross_signing_upload())
    device = person.device_keys().signed
    key_id = f"ed25519:{person.public_text('self_signing')}"
    signature = person.secrets["self_signing"].cross_signer().sign(b"something else")
    changed = person.sign({**device.content, "more": 1}, "self_signing")
    signed = {
        "a signature over something else": device.without_signatures().with_signature(
            client.user_id, key_id, signature
        ),
        "a signature of another length": SignedJson.from_json(
            {**device.content, "signatures": {client.user_id: {key_id: "AAAA"}}}
        ),
        "no signature": SignedJson.from_json({**device.content, "signatures": {}}),
        "another content": SignedJson.from_json(changed),
    }[case]

    request = SignaturesUploadRequest(signed_objects={client.user_id: {"DEVICE": signed}})
    answer = client.ask(request)

    (failure,) = flat(answer).values()
    assert failure == SignatureFailure(status=400, errcode=errcode, message=failure.text)
    assert failure.text != ""
    result = client.query(KeysQueryRequest.for_users([client.user_id]))
    assert not result.devices.accepted[client.user_id]["DEVICE"].is_cross_signed


def test_a_signature_that_is_there_already_is_none_the_worse(new_client: MakeClient) -> None:
    client = new_client()
    person = with_device(client)
    client.upload_cross_signing(person.cross_signing_upload())
    for _ in range(2):
        client.upload_signatures(person.signed_device_upload())
    result = client.query(KeysQueryRequest.for_users([client.user_id]))
    assert result.devices.accepted[client.user_id]["DEVICE"].is_cross_signed


def test_the_device_signs_the_master_key(new_client: MakeClient) -> None:
    client = new_client()
    person = with_device(client)
    unsigned = evolve(
        person.cross_signing_upload(),
        master_key=CrossSigningKey.from_json(person.cross_signing_key("master").signed.without_signatures().to_json()),
    )
    client.upload_cross_signing(unsigned)
    client.upload_signatures(SignaturesUploadRequest.for_keys([person.cross_signing_key("master")]))
    answer = client.ask(KeysQueryRequest.for_users([client.user_id]))
    stored = answer.master_keys[client.user_id]
    assert isinstance(stored, CrossSigningKey)
    stored.signed.verify(entity=client.user_id, key_id="ed25519:DEVICE", key=person.signer.public_key)
