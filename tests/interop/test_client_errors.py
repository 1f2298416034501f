"""What a real homeserver refuses of what our types can say, what it takes though we refuse it, and what we make of both."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from interop.matrix_http import Http, MakeClient
from interop.people import Person, person_of
from interop.synapse_server import SynapseServer
from matrix_e2e_keys import (
    CrossSigningKey,
    Curve25519PublicKey,
    DeviceKeys,
    DeviceSigningUploadRequest,
    KeysChangesRequest,
    KeysClaimRequest,
    KeysQueryRequest,
    KeysUploadRequest,
    KeysUploadResponse,
    MatrixError,
    OneTimeKey,
    Reason,
    Rejection,
    RemoteProtocolError,
    Request,
    SendToDeviceRequest,
    SignaturesUploadRequest,
    VerificationError,
    one_time_key_conflict,
    read_request,
)

pytestmark = pytest.mark.interop

MALFORMED = {"M_BAD_JSON", "M_INVALID_PARAM", "M_MISSING_PARAM"}
"""Which of them it is differs between versions of the peer."""


def signed_key(person: Person, name: str) -> dict[str, OneTimeKey]:
    """Return a fresh one-time key under an id of our choice."""
    key_id, key = f"signed_curve25519:{name}", Curve25519PublicKey(os.urandom(31) + b"\0")
    return {key_id: OneTimeKey.build(key_id=key_id, key=key, user_id=person.user_id, signer=person.signer)}


# --------------------------------------------------------------------------------------------------------------
# What our types can say
# --------------------------------------------------------------------------------------------------------------

Make: TypeAlias = Callable[[Person], Request[Any]]


def unsigned_device(person: Person) -> DeviceKeys:
    return DeviceKeys.from_json(person.device_keys().signed.content)


def cross_signing_key(person: Person, usage: Any, **changes: object) -> CrossSigningKey:
    """Return a key with changes, made before it was signed by the master key."""
    content = person.cross_signing_key(usage).signed.content
    return CrossSigningKey.from_json(person.sign({**content, **changes}, "master"))


def badly_signed_self_signing_key(person: Person) -> CrossSigningKey:
    stranger = Person(person.user_id, person.device_id)
    key = cross_signing_key(person, "self_signing").signed.without_signatures()
    key_id = f"ed25519:{person.public_text('master')}"
    signature = stranger.secrets["master"].cross_signer().sign(key.canonical)
    return CrossSigningKey.from_json(key.with_signature(person.user_id, key_id, signature).to_json())


def unsigned_self_signing_key(person: Person) -> CrossSigningKey:
    return CrossSigningKey.from_json(person.cross_signing_key("self_signing").signed.content)


REFUSED: list[tuple[str, Make, set[str]]] = [
    (
        "the device of another user",
        lambda person: KeysUploadRequest(device_keys=Person("@a:b", person.device_id).device_keys()),
        MALFORMED,
    ),
    (
        "another device",
        lambda person: KeysUploadRequest(device_keys=Person(person.user_id, "OTHER").device_keys()),
        MALFORMED,
    ),
    (
        "a device without signatures",
        lambda person: KeysUploadRequest(device_keys=unsigned_device(person)),
        MALFORMED,
    ),
    (
        "a one-time key without signatures",
        lambda person: KeysUploadRequest(
            one_time_keys={
                "signed_curve25519:AAAA": OneTimeKey.from_json(
                    "signed_curve25519:AAAA", {"key": person.curve25519_key.to_base64()}
                )
            }
        ),
        MALFORMED,
    ),
    (
        "a self-signing key without a master key",
        lambda person: DeviceSigningUploadRequest(self_signing_key=person.cross_signing_key("self_signing")),
        {"M_MISSING_PARAM"},
    ),
    (
        "a self-signing key that the master key did not sign",
        lambda person: DeviceSigningUploadRequest(
            master_key=person.cross_signing_key("master"), self_signing_key=badly_signed_self_signing_key(person)
        ),
        {"M_INVALID_SIGNATURE"},
    ),
    (
        "a self-signing key without signatures",
        lambda person: DeviceSigningUploadRequest(
            master_key=person.cross_signing_key("master"), self_signing_key=unsigned_self_signing_key(person)
        ),
        {"M_INVALID_SIGNATURE"},
    ),
    (
        "the master key of another user",
        lambda person: DeviceSigningUploadRequest(master_key=cross_signing_key(person, "master", user_id="@a:b")),
        {"M_INVALID_PARAM"},
    ),
    (
        "a master key for another purpose",
        lambda person: DeviceSigningUploadRequest(master_key=person.cross_signing_key("self_signing")),
        {"M_INVALID_PARAM"},
    ),
    ("changes since nonsense", lambda _: KeysChangesRequest(from_token="nonsense", to_token="s1"), {"M_UNKNOWN"}),
]


@pytest.mark.parametrize(("make", "errcodes"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_the_server_refuses(new_client: MakeClient, make: Make, errcodes: set[str]) -> None:
    client = new_client()
    request = make(person_of(client))
    http = request.to_http()
    assert read_request(http).request == request

    error = client.refused(http)

    assert error.status == 400
    assert error.errcode in errcodes
    assert error.error != ""
    assert (error.user_interactive, error.retry_after_ms) == (None, None)
    assert client.upload().get("signed_curve25519", 0) == 0
    result = client.query(KeysQueryRequest.for_users([client.user_id]))
    assert (result.devices.accepted, result.identities.accepted) == ({}, {})


def test_a_one_time_key_is_not_replaced_by_another(new_client: MakeClient) -> None:
    client = new_client()
    person = person_of(client)
    first = signed_key(person, "AAAA")
    ((key_id, key),) = first.items()
    assert key.signed is not None
    more = OneTimeKey.from_json(key_id, person.sign({**key.signed.content, "more": 1}, device=True))
    client.upload(device_keys=person.device_keys(), one_time_keys=first)

    for keys, is_same in (
        (signed_key(person, "AAAA"), False),
        ({key_id: more}, True),
        ({**signed_key(person, "AAAA"), **signed_key(person, "B")}, False),
    ):
        request = KeysUploadRequest(one_time_keys=keys)
        error = client.refused(request.to_http())
        assert (error.status, error.errcode) == (400, "M_UNKNOWN")
        conflict = one_time_key_conflict(request, error)
        assert conflict is not None
        assert (conflict.key_id, conflict.held, conflict.is_same_key) == (key_id, key, is_same)

    assert client.upload() == {"signed_curve25519": 1}
    assert client.claim(client.user_id, "DEVICE") == first


def test_a_device_holds_so_many_one_time_keys_and_no_more(new_client: MakeClient) -> None:
    client = new_client()
    person = person_of(client)
    client.upload(one_time_keys={k: v for n in range(500) for k, v in signed_key(person, f"{n:04}").items()})
    answer = client.http.send(KeysUploadRequest(one_time_keys=signed_key(person, "0500")).to_http())
    if answer.status == 200:
        pytest.skip("this Synapse takes any number of one-time keys")
    with pytest.raises(MatrixError) as refused:
        KeysUploadResponse.from_http(answer)
    assert (refused.value.status, refused.value.errcode) == (400, "M_TOO_LARGE")
    assert client.upload() == {"signed_curve25519": 500}


def test_a_master_key_of_earlier_days_is_taken_back_or_refused(new_client: MakeClient) -> None:
    client = new_client()
    first, second = person_of(client), person_of(client)
    client.upload_cross_signing(first.cross_signing_upload())
    client.replace_cross_signing(second.cross_signing_upload())
    request = first.cross_signing_upload()
    question = client.refused(request.to_http()).user_interactive
    assert question is not None
    signed = request.with_auth(question.auth("m.login.password", client.credentials()))
    expected = first
    try:
        client.ask(signed)
    except MatrixError as error:
        expected = second
        assert error.errcode == "M_UNKNOWN"  # noqa: PT017 - both are fine
    identity = client.query(KeysQueryRequest.for_users([client.user_id])).identities.accepted[client.user_id]
    assert identity.master_key == expected.cross_signing_key("master")


# --------------------------------------------------------------------------------------------------------------
# What the server takes, and we refuse
# --------------------------------------------------------------------------------------------------------------


def test_a_device_without_its_own_signature_is_stored_and_refused_by_whoever_looks(new_client: MakeClient) -> None:
    client = new_client()
    person = person_of(client)
    empty = DeviceKeys.from_json({**person.device_keys().signed.content, "signatures": {}})
    client.upload(device_keys=empty)
    (rejection,) = client.query(KeysQueryRequest.for_users([client.user_id])).devices.rejected
    assert (rejection.reason, rejection.device_id) == (Reason.MISSING_SIGNATURE, "DEVICE")


def test_a_one_time_key_with_a_wrong_signature_is_handed_out_and_does_not_verify(new_client: MakeClient) -> None:
    client = new_client()
    person, stranger = person_of(client), person_of(client)
    client.upload(device_keys=person.device_keys(), one_time_keys=signed_key(stranger, "AAAA"))
    device = client.query(KeysQueryRequest.for_users([client.user_id])).devices.accepted[client.user_id]["DEVICE"]
    with pytest.raises(VerificationError) as error:
        client.claim_one(client.user_id, "DEVICE").verify(device=device)
    assert error.value.reason is Reason.INVALID_SIGNATURE


def test_a_one_time_key_that_is_no_key_is_handed_out_and_set_aside(new_client: MakeClient) -> None:
    client = new_client()
    body = {"one_time_keys": {"signed_curve25519:AAAA": {"key": "!!", "signatures": {}}}}
    with pytest.raises(RemoteProtocolError):
        OneTimeKey.from_json("signed_curve25519:AAAA", body["one_time_keys"]["signed_curve25519:AAAA"])
    request = KeysUploadRequest.from_json(body)
    assert client.ask(request).one_time_key_counts == {"signed_curve25519": 1}
    (rejection,) = client.claim(client.user_id, "DEVICE").values()
    assert isinstance(rejection, Rejection)
    assert rejection.reason is Reason.INVALID_BASE64
    assert rejection.path == f"/one_time_keys/{client.user_id}/DEVICE/signed_curve25519:AAAA/key"
    assert rejection.raw == {"key": "!!", "signatures": {}}


def test_a_master_key_under_the_name_of_another_is_stored_and_refused_by_whoever_looks(new_client: MakeClient) -> None:
    client = new_client()
    person, other = person_of(client), person_of(client)
    keys = {f"ed25519:{person.public_text('master')}": other.public_text("master")}
    content = {**person.cross_signing_key("master").signed.content, "keys": keys}
    with pytest.raises(RemoteProtocolError) as refused:
        CrossSigningKey.from_json(content)
    assert refused.value.reason is Reason.KEY_ID_NOT_KEY
    client.ask(DeviceSigningUploadRequest.from_json({"master_key": content}))

    result = client.query(KeysQueryRequest.for_users([client.user_id]))

    assert result.identities.accepted == {}
    (rejection,) = result.identities.rejected
    assert (rejection.user_id, rejection.reason) == (client.user_id, Reason.KEY_ID_NOT_KEY)


# --------------------------------------------------------------------------------------------------------------
# Who asks
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        KeysUploadRequest(),
        KeysQueryRequest(device_keys={}),
        KeysClaimRequest(one_time_keys={}),
        KeysChangesRequest(from_token="s1", to_token="s2"),
        DeviceSigningUploadRequest(),
        SignaturesUploadRequest(signed_objects={}),
        SendToDeviceRequest(event_type="m.dummy", txn_id="1", messages={}),
    ],
    ids=lambda request: request.endpoint.name,
)
def test_who_does_not_say_who_asks_is_not_answered(synapse: SynapseServer, request_: Request[Any]) -> None:
    missing = MatrixError.from_http(Http(synapse.base_url).send(request_.to_http()))
    assert (missing.status, missing.errcode, missing.extra) == (401, "M_MISSING_TOKEN", {})
    unknown = MatrixError.from_http(Http(synapse.base_url, "nonsense").send(request_.to_http()))
    assert (unknown.status, unknown.errcode, unknown.extra) == (401, "M_UNKNOWN_TOKEN", {"soft_logout": False})
    assert missing.user_interactive is unknown.user_interactive is None
