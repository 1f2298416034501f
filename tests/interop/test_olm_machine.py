"""An OlmMachine and this library, two clients of one homeserver: each accepts what the other made."""

from __future__ import annotations

import json

import pytest

from interop.matrix_http import Client, MakeClient
from interop.olm_machine import MakeOlmMachine, OlmMachine, OlmRequest
from interop.people import with_identity
from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceSigningUploadRequest,
    KeysQueryRequest,
    OwnIdentity,
    QueryResult,
    SignaturesUploadRequest,
    VerificationError,
)

pytestmark = pytest.mark.interop


def machine_of(new_olm_machine: MakeOlmMachine, client: Client) -> OlmMachine:
    """Return a machine that has uploaded its device keys, one-time keys and cross-signing keys."""
    machine = new_olm_machine(client.user_id, client.device_id)
    machine.flush(client)
    bootstrap = machine.call("bootstrap")
    client.upload_cross_signing(DeviceSigningUploadRequest.from_bytes(bootstrap["signing_keys"]))
    client.upload_signatures(SignaturesUploadRequest.from_bytes(bootstrap["signatures"]))
    return machine


def query(client: Client, *user_ids: str, own: OwnIdentity | None = None) -> QueryResult:
    return client.query(KeysQueryRequest.for_users(user_ids), own=own)


def test_we_accept_the_device_and_the_identity_of_an_olm_machine(
    new_client: MakeClient, new_olm_machine: MakeOlmMachine
) -> None:
    theirs, ours = new_client(), new_client()
    machine = machine_of(new_olm_machine, theirs)

    result = query(ours, theirs.user_id)

    device = result.devices.accepted[theirs.user_id][theirs.device_id]
    assert device.ed25519_key.to_base64() == machine.keys["ed25519"]
    assert device.curve25519_key is not None
    assert device.curve25519_key.to_base64() == machine.keys["curve25519"]
    assert device.supports_olm
    identity = result.identities.accepted[theirs.user_id]
    assert device.cross_signed_by == identity.self_signing_public_key
    assert result.devices.rejected == result.identities.rejected == ()
    assert result.notices == ()

    own_view = query(theirs, theirs.user_id).identities.accepted[theirs.user_id]
    assert own_view.user_signing_key is not None
    shown = CrossSigningKey.from_json(json.loads(machine.call("identity", user_id=theirs.user_id)["master_key"]))
    assert own_view.master_key == shown


def test_we_verify_the_one_time_and_fallback_keys_of_an_olm_machine(
    new_client: MakeClient, new_olm_machine: MakeOlmMachine
) -> None:
    theirs, ours = new_client(), new_client()
    machine = machine_of(new_olm_machine, theirs)
    machine.call("receive_counts", counts={"signed_curve25519": 50}, unused_fallback=[])
    machine.flush(theirs)
    device = query(ours, theirs.user_id).devices.accepted[theirs.user_id][theirs.device_id]
    count = theirs.upload()["signed_curve25519"]

    keys = [ours.claim_one(theirs.user_id, theirs.device_id) for _ in range(count + 1)]

    for key in keys:
        key.verify(device=device)
    assert [key.fallback for key in keys] == [False] * count + [True]


def test_an_olm_machine_accepts_our_device_and_our_identity(
    new_client: MakeClient, new_olm_machine: MakeOlmMachine
) -> None:
    theirs, ours = new_client(), new_client(display_name="A phone")
    machine, person = machine_of(new_olm_machine, theirs), with_identity(ours, one_time_keys=2)

    machine.look_up(theirs, ours.user_id)

    assert machine.call("devices", user_id=ours.user_id) == [
        {
            "device_id": ours.device_id,
            "ed25519": person.account.ed25519_key.to_base64(),
            "curve25519": person.account.curve25519_key.to_base64(),
            "display_name": "A phone",
            "by_owner": True,
        }
    ]
    identity = machine.call("identity", user_id=ours.user_id)
    assert CrossSigningKey.from_json(json.loads(identity["master_key"])) == person.cross_signing_key("master")


def test_an_olm_machine_makes_a_session_with_our_one_time_key(
    new_client: MakeClient, new_olm_machine: MakeOlmMachine
) -> None:
    theirs, ours = new_client(), new_client()
    machine, person = machine_of(new_olm_machine, theirs), with_identity(ours, one_time_keys=2)
    machine.look_up(theirs, person.user_id)

    claim = machine.call("missing_sessions", users=[person.user_id])
    machine.send(theirs, OlmRequest(**claim))

    shared = machine.call("share_room_key", room_id="!room:example.org", users=[person.user_id])
    assert shared == ["m.room.encrypted"]  # and not m.room_key.withheld
    assert ours.upload() == {"signed_curve25519": 1}


def test_we_see_that_an_olm_machine_verified_our_user(new_client: MakeClient, new_olm_machine: MakeOlmMachine) -> None:
    theirs, ours = new_client(), new_client()
    machine, person = machine_of(new_olm_machine, theirs), with_identity(ours, one_time_keys=2)
    machine.look_up(theirs, person.user_id)
    identity = query(theirs, theirs.user_id).identities.accepted[theirs.user_id]
    master_key = identity.master_key.public_key
    assert master_key is not None
    own = identity.confirm_as_own(master_key=master_key)
    with pytest.raises(VerificationError):
        own.verify_user(query(theirs, person.user_id).identities.accepted[person.user_id])

    theirs.upload_signatures(SignaturesUploadRequest.from_bytes(machine.call("verify_user", user_id=person.user_id)))

    result = query(theirs, person.user_id, own=own)
    own.verify_user(result.identities.accepted[person.user_id])
    assert result.verified_users == {person.user_id}


def test_an_olm_machine_with_our_private_keys_sees_whom_we_verified(
    new_client: MakeClient, new_olm_machine: MakeOlmMachine
) -> None:
    """Another device of our user, which is given the seeds that this library exports."""
    ours, other = new_client(device_id="OURS"), new_client()
    person, other_person = with_identity(ours, one_time_keys=2), with_identity(other, one_time_keys=2)
    second = ours.another_device("SECOND")
    machine = new_olm_machine(second.user_id, second.device_id)
    machine.look_up(second, person.user_id)
    seeds = {usage: secret.export_base64() for usage, secret in person.secrets.items()}
    assert machine.call("import_cross_signing", **seeds)
    machine.look_up(second, other.user_id)
    assert not machine.call("identity", user_id=other.user_id)["verified"]

    ours.upload_signatures(person.signed_user_upload(other_person.cross_signing_key("master")))

    look_again = new_olm_machine(second.user_id, second.device_id)
    look_again.call("track", users=[person.user_id, other.user_id])
    for request in look_again.outgoing():
        if request.kind == "KeysQuery":  # the device keys of this second machine are of no interest
            look_again.send(second, request)
    assert look_again.call("import_cross_signing", **seeds)
    assert look_again.call("identity", user_id=other.user_id)["verified"]
