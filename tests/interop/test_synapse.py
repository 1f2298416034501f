"""What this library builds, uploaded to a real homeserver, and what the homeserver makes of it, judged here."""

from __future__ import annotations

import socket

import pytest

from interop.matrix_http import Client, MakeClient
from interop.people import USAGES, Person, person_of, with_identity
from interop.synapse_server import SynapseServer
from matrix_e2e_keys import (
    DeviceKeys,
    Ed25519SecretKey,
    KeysQueryRequest,
    KeysQueryResponse,
    OneTimeKey,
    OwnIdentity,
    QueryResult,
    Reason,
    UserAnswer,
    UserId,
    VerificationError,
    VerifiedDevice,
    parse_json,
)

pytestmark = pytest.mark.interop


def device_in(result: QueryResult, client: Client) -> VerifiedDevice:
    return result.devices.accepted[client.user_id][client.device_id]


def test_a_device_is_accepted_as_it_was_uploaded(new_client: MakeClient) -> None:
    client = new_client(display_name="A phone")
    person = person_of(client)
    device_keys = person.device_keys()
    client.upload(device_keys=device_keys)

    result = client.query(KeysQueryRequest.for_users([client.user_id]))

    device = device_in(result, client)
    assert device.keys == device_keys
    assert device.keys.signed.canonical == device_keys.signed.canonical
    assert device.ed25519_key.to_base64() == person.account.ed25519_key.to_base64()
    assert device.curve25519_key == person.curve25519_key
    assert device.supports_olm
    assert not device.is_cross_signed
    assert result.devices.rejected == result.devices.unsupported == ()
    assert result.identities.accepted == {}
    assert result.identities.rejected == result.identities.unsupported == ()
    assert result.users == {client.user_id: UserAnswer.DEVICES}
    assert result.missing_devices == result.failures == {}
    assert result.notices == ()


def test_the_display_name_is_in_the_untrusted_accessor_and_nowhere_else(new_client: MakeClient) -> None:
    client = new_client(display_name="A phone")
    person = person_of(client)
    client.upload(device_keys=person.device_keys())

    keys = device_in(client.query(KeysQueryRequest.for_users([client.user_id])), client).keys

    assert keys.untrusted_display_name == "A phone"
    assert keys.signed.untrusted_unsigned == {"device_display_name": "A phone"}
    assert b"A phone" not in keys.signed.canonical
    assert person.device_keys().untrusted_display_name is None


def test_an_identity_is_accepted_and_its_device_is_cross_signed(new_client: MakeClient) -> None:
    client, observer = new_client(), new_client()
    person = with_identity(client)

    own_view = client.query(KeysQueryRequest.for_users([client.user_id]))
    other_view = observer.query(KeysQueryRequest.for_users([client.user_id]))

    for result in (own_view, other_view):
        identity = result.identities.accepted[client.user_id]
        assert identity.master_key == person.cross_signing_key("master")
        assert identity.self_signing_key == person.cross_signing_key("self_signing")
        assert device_in(result, client).cross_signed_by == person.secrets["self_signing"].public_key
        assert list(result.cross_signed_devices) == [device_in(result, client)]
        assert result.devices.rejected == result.identities.rejected == ()
        assert result.notices == ()
    assert own_view.identities.accepted[client.user_id].user_signing_key == person.cross_signing_key("user_signing")
    assert other_view.identities.accepted[client.user_id].user_signing_key is None


def test_only_the_devices_that_the_owner_signed_are_cross_signed(new_client: MakeClient) -> None:
    first = new_client(device_id="FIRST")
    second = first.another_device("SECOND")
    with_identity(first)
    second.upload(device_keys=person_of(second).device_keys())

    result = first.query(KeysQueryRequest.for_users([first.user_id]))

    assert device_in(result, first).is_cross_signed
    assert not device_in(result, second).is_cross_signed


def test_a_user_is_verified_once_our_user_signing_key_signed_his_master_key(new_client: MakeClient) -> None:
    alice, bob = new_client(), new_client()
    alice_keys, bob_keys = with_identity(alice), with_identity(bob)
    both = KeysQueryRequest.for_users([alice.user_id, bob.user_id])

    own = own_identity(alice, alice_keys)
    before = alice.query(both, own=own)
    bobs_identity = before.identities.accepted[bob.user_id]
    with pytest.raises(VerificationError) as missing:
        own.verify_user(bobs_identity)
    assert missing.value.reason is Reason.MISSING_SIGNATURE
    assert bob.user_id not in before.verified_users

    alice.upload_signatures(alice_keys.signed_user_upload(bobs_identity.master_key))

    after = alice.query(both, own=own)
    own.verify_user(after.identities.accepted[bob.user_id])
    assert UserId(bob.user_id) in after.verified_users

    # The signature is Alice's alone to see, so to Bob nothing has changed.
    bobs_own = own_identity(bob, bob_keys)
    bobs_view = bob.query(both, own=bobs_own)
    assert alice.user_id not in bobs_view.verified_users


def own_identity(client: Client, person: Person) -> OwnIdentity:
    result = client.query(KeysQueryRequest.for_users([client.user_id]))
    identity = result.identities.accepted[client.user_id]
    with pytest.raises(VerificationError):
        identity.confirm_as_own(master_key=Ed25519SecretKey.generate().public_key)
    return identity.confirm_as_own(master_key=person.secrets["master"].public_key)


def test_a_replaced_identity_is_another_one_and_has_nobodys_signature(new_client: MakeClient) -> None:
    client = new_client()
    before, after = with_identity(client), person_of(client)
    after.account, after.signer = before.account, before.signer  # the device stays
    client.replace_cross_signing(after.cross_signing_upload())
    request = KeysQueryRequest.for_users([client.user_id])

    replaced = client.query(request)
    identity = replaced.identities.accepted[client.user_id]
    assert identity.master_key == after.cross_signing_key("master")
    with pytest.raises(VerificationError) as other:
        identity.confirm_as_own(master_key=before.secrets["master"].public_key)
    assert other.value.reason is Reason.KEY_ID_NOT_KEY
    assert not device_in(replaced, client).is_cross_signed

    client.upload_signatures(after.signed_device_upload())
    signed_again = client.query(request)
    assert device_in(signed_again, client).cross_signed_by == after.secrets["self_signing"].public_key


def test_one_time_keys_can_be_claimed_and_verified_until_only_the_fallback_key_is_left(new_client: MakeClient) -> None:
    client, observer = new_client(), new_client()
    person = person_of(client)
    one_time_keys, fallback_key = person.one_time_keys(2), person.fallback_key()
    counts = client.upload(device_keys=person.device_keys(), one_time_keys=one_time_keys, fallback_keys=fallback_key)
    assert counts == {"signed_curve25519": 2}
    device = device_in(observer.query(KeysQueryRequest.for_users([client.user_id])), client)

    def claim() -> tuple[str, OneTimeKey]:
        key = observer.claim_one(client.user_id, client.device_id)
        key.verify(device=device)
        return str(key.key_id), key

    claimed = dict([claim(), claim()])
    assert claimed == one_time_keys
    assert not any(key.fallback for key in claimed.values())
    for _ in range(2):
        key_id, key = claim()
        assert {key_id: key} == fallback_key
        assert key.fallback


def test_a_one_time_key_of_another_device_does_not_verify(new_client: MakeClient) -> None:
    first = new_client(device_id="FIRST")
    second = first.another_device("SECOND")
    for client in (first, second):
        person = person_of(client)
        client.upload(device_keys=person.device_keys(), one_time_keys=person.one_time_keys(1))
    result = first.query(KeysQueryRequest.for_users([first.user_id]))

    key = first.claim_one(first.user_id, "FIRST")
    key.verify(device=device_in(result, first))
    with pytest.raises(VerificationError) as error:
        key.verify(device=device_in(result, second))
    assert error.value.reason is Reason.MISSING_SIGNATURE


def test_a_device_that_did_not_sign_itself_is_refused_and_costs_nobody_else(new_client: MakeClient) -> None:
    """The signature belongs to other bytes. Whoever uses a device has to check it himself."""
    good = new_client(device_id="GOOD")
    bad = good.another_device("BAD")
    good.upload(device_keys=person_of(good).device_keys())
    forged = person_of(bad).device_keys().to_json()
    forged["algorithms"] = ["m.olm.v1.curve25519-aes-sha2"]  # signed with two
    bad.upload(device_keys=DeviceKeys.from_json(forged))

    result = good.query(KeysQueryRequest.for_users([good.user_id]))

    (rejection,) = result.devices.rejected
    assert rejection.reason is Reason.INVALID_SIGNATURE
    assert (rejection.user_id, rejection.device_id) == (bad.user_id, "BAD")
    assert rejection.path.startswith("/device_keys/")
    assert list(result.devices.accepted[good.user_id]) == ["GOOD"]
    assert result.present_device_ids(good.user_id) == {"GOOD", "BAD"}


def test_a_user_that_does_not_exist_has_no_devices(new_client: MakeClient, synapse: SynapseServer) -> None:
    nobody = f"@nobody:{synapse.server_name}"
    result = new_client().query(KeysQueryRequest.for_users([nobody]))
    assert result.users == {nobody: UserAnswer.NO_DEVICES}
    assert result.devices.accepted == result.failures == {}
    assert result.devices.rejected == ()


def test_a_device_that_does_not_exist_is_missing(new_client: MakeClient) -> None:
    client = new_client(device_id="THERE")
    client.upload(device_keys=person_of(client).device_keys())
    result = client.query(KeysQueryRequest.for_devices({client.user_id: ["THERE", "NOT_THERE"]}))
    assert result.users == {client.user_id: UserAnswer.DEVICES}
    assert list(result.devices.accepted[client.user_id]) == ["THERE"]
    assert result.missing_devices == {client.user_id: {"NOT_THERE"}}


def test_only_the_devices_asked_for_are_answered(new_client: MakeClient) -> None:
    first = new_client(device_id="FIRST")
    second = first.another_device("SECOND")
    for client in (first, second):
        client.upload(device_keys=person_of(client).device_keys())
    result = first.query(KeysQueryRequest.for_devices({first.user_id: ["SECOND"]}))
    assert list(result.devices.accepted[first.user_id]) == ["SECOND"]
    assert result.devices.rejected == ()
    assert result.missing_devices == {}


def test_a_server_that_cannot_be_reached_fails_and_costs_nobody_else(new_client: MakeClient) -> None:
    client = new_client()
    client.upload(device_keys=person_of(client).device_keys())
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        server_name = f"localhost:{nobody_listens.getsockname()[1]}"
        remote = f"@remote:{server_name}"
        result = client.query(KeysQueryRequest.for_users([client.user_id, remote], timeout=2000))
    assert result.users == {client.user_id: UserAnswer.DEVICES, remote: UserAnswer.SERVER_FAILED}
    assert set(result.failures) == {server_name}
    assert list(result.devices.accepted) == [client.user_id]


def test_what_we_decode_we_encode_again(new_client: MakeClient) -> None:
    """A homeserver that hands on an answer loses nothing of it."""
    client = new_client(display_name="A phone")
    with_identity(client)
    answer = client.http.send(KeysQueryRequest.for_users([client.user_id]).to_http()).body
    assert KeysQueryResponse.from_bytes(answer).to_json() == parse_json(answer)
    assert all(f"{usage}_keys" in parse_json(answer) for usage in USAGES)  # type: ignore[operator]  # an object
