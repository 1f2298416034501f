"""An OlmMachine lives on the homeserver of docs/examples, alone, with others of its kind, and with a machine of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from interop.asgi_rig import AsgiClient, AsgiHomeserver, running_homeservers
from interop.certificates import Certificates
from interop.machines import MINUTE, Device
from interop.matrix_http import Sync
from interop.olm_devices import MakeOlmDevice, OlmDevice, OlmTrust, olm_devices_of
from interop.olm_machine import MakeOlmMachine, OlmMachine
from matrix_e2e_keys import (
    DeviceSigningUploadRequest,
    KeysQueryRequest,
    MatrixError,
    OneTimeKey,
)
from matrix_e2e_keys.client.supply.values import KeyUse
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust, explain_device
from matrix_e2e_keys.client.users.changes import ChangeKind
from matrix_e2e_keys.client.users.identity import IdentityState

pytestmark = pytest.mark.interop

ALGORITHM = "signed_curve25519"
KEYS_OF_A_MACHINE = 50


@pytest.fixture
def new_server(certificates: Certificates) -> Iterator[Callable[[], AsgiHomeserver]]:
    yield from running_homeservers(certificates)


@pytest.fixture
def server(new_server: Callable[[], AsgiHomeserver]) -> AsgiHomeserver:
    return new_server()


@pytest.fixture
def new_olm_device(new_olm_machine: MakeOlmMachine) -> MakeOlmDevice:
    return olm_devices_of(new_olm_machine)


def feed(machine: OlmMachine, sync: Sync) -> None:
    """Hand an answer of our /sync over to a machine."""
    counts, unused = sync.keys.one_time_key_counts, sync.keys.unused_fallback_key_types
    assert counts is not None
    assert unused is not None
    machine.call("receive_counts", counts=dict(counts), unused_fallback=list(unused))
    if sync.keys.device_lists is not None and sync.keys.device_lists.changed:
        machine.call("receive_changed", users=list(sync.keys.device_lists.changed), counts=dict(counts))


def counts_of(sync: Sync) -> dict[str, int]:
    return dict(sync.keys.one_time_key_counts or {})


def changed_in(sync: Sync) -> set[str]:
    return set() if sync.keys.device_lists is None else set(sync.keys.device_lists.changed)


def bodies(keys: list[OneTimeKey]) -> list[str]:
    return [key.public_key.to_base64() for key in keys if key.public_key is not None]


# --------------------------------------------------------------------------------------------------------------
# One machine
# --------------------------------------------------------------------------------------------------------------


def test_a_machine_uploads_fifty_keys_and_after_a_sync_a_fallback_key(
    server: AsgiHomeserver, new_olm_machine: MakeOlmMachine
) -> None:
    client = server.new_client()
    machine = new_olm_machine(client.user_id, client.device_id)

    machine.flush(client)

    sync = client.sync()
    assert counts_of(sync) == {ALGORITHM: KEYS_OF_A_MACHINE}
    assert sync.keys.unused_fallback_key_types == ()
    feed(machine, sync)
    machine.flush(client)
    after = client.sync(sync)
    assert (counts_of(after), after.keys.unused_fallback_key_types) == ({ALGORITHM: KEYS_OF_A_MACHINE}, (ALGORITHM,))
    feed(machine, after)
    assert machine.outgoing() == []  # it has nothing to wish for


def test_every_key_of_a_machine_is_claimed_once_then_the_fallback_key_and_then_it_makes_new_ones(
    server: AsgiHomeserver, new_olm_machine: MakeOlmMachine
) -> None:
    """Attack 46."""
    theirs, claimers = server.new_client(), [server.new_client() for _ in range(6)]
    machine = new_olm_machine(theirs.user_id, theirs.device_id)
    machine.flush(theirs)
    sync = theirs.sync()
    feed(machine, sync)
    machine.flush(theirs)
    looked_up = claimers[0].query(KeysQueryRequest.for_users([theirs.user_id]))
    device = looked_up.devices.accepted[theirs.user_id][theirs.device_id]

    claimed = [claimers[number % 6].claim_one(theirs.user_id, theirs.device_id) for number in range(KEYS_OF_A_MACHINE)]
    fallback = [claimer.claim_one(theirs.user_id, theirs.device_id) for claimer in claimers]

    for key in [*claimed, *fallback]:
        key.verify(device=device)
    assert [key.fallback for key in [*claimed, *fallback]] == [False] * KEYS_OF_A_MACHINE + [True] * 6
    assert len({*bodies(claimed)}) == KEYS_OF_A_MACHINE
    assert len({*bodies(fallback)}) == 1
    sync = theirs.sync(sync)
    assert (counts_of(sync), sync.keys.unused_fallback_key_types) == ({ALGORITHM: 0}, ())
    feed(machine, sync)
    machine.flush(theirs)
    assert counts_of(theirs.sync(sync)) == {ALGORITHM: KEYS_OF_A_MACHINE}
    other = server.new_client()  # those who have claimed so many are given no more for a while
    fresh = other.claim_one(theirs.user_id, theirs.device_id)
    assert not fresh.fallback
    assert not {*bodies([fresh])} & {*bodies(claimed + fallback)}


def test_a_machine_that_sends_its_upload_once_more_holds_the_same_keys(
    server: AsgiHomeserver, new_olm_machine: MakeOlmMachine
) -> None:
    client = server.new_client()
    machine = new_olm_machine(client.user_id, client.device_id)
    (upload,) = [request for request in machine.outgoing() if request.kind == "KeysUpload"]
    machine.send(client, upload._replace(id=None))  # the answer is lost

    machine.flush(client)

    assert client.upload() == {ALGORITHM: KEYS_OF_A_MACHINE}


# --------------------------------------------------------------------------------------------------------------
# Two machines
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def alice(server: AsgiHomeserver, new_olm_device: MakeOlmDevice) -> OlmDevice:
    device = new_olm_device(server.new_client(device_id="ALICE", display_name="A phone"))
    device.bootstrap()
    return device


@pytest.fixture
def bob(server: AsgiHomeserver, new_olm_device: MakeOlmDevice) -> OlmDevice:
    device = new_olm_device(server.new_client(device_id="BOB"))
    device.bootstrap()
    return device


def test_a_room_key_goes_from_one_machine_to_the_device_of_another(alice: OlmDevice, bob: OlmDevice) -> None:
    since = bob.client.sync()
    alice.look_at(bob.user_id)

    alice.open_sessions(bob.user_id)
    alice.send_room_key(bob.user_id)

    sync = bob.client.sync(since, wait=True)
    (event,) = sync.to_device
    assert (event["sender"], event["type"]) == (alice.user_id, "m.room.encrypted")
    content: Any = event["content"]
    assert content["sender_key"] == alice.machine.keys["curve25519"]
    assert [*content["ciphertext"]] == [bob.machine.keys["curve25519"]]
    assert bob.client.upload() == {ALGORITHM: KEYS_OF_A_MACHINE - 1}
    assert bob.client.sync(since).to_device == [event]  # not acknowledged yet
    assert bob.client.sync(sync).to_device == []


def test_machines_see_each_others_devices_names_and_identities(alice: OlmDevice, bob: OlmDevice) -> None:
    bob.look_at(alice.user_id)

    assert bob.machine.call("devices", user_id=alice.user_id) == [
        {
            "device_id": "ALICE",
            "ed25519": alice.machine.keys["ed25519"],
            "curve25519": alice.machine.keys["curve25519"],
            "display_name": "A phone",
            "by_owner": True,
        }
    ]
    assert bob.master_key_of(alice.user_id) == alice.master_key
    assert bob.trust(alice.user_id) == OlmTrust(False, False, False, frozenset())


def test_whom_a_machine_has_verified_only_its_own_user_sees(alice: OlmDevice, bob: OlmDevice) -> None:
    """Attack 53."""
    alice.look_at(bob.user_id)

    alice.verify_user(bob.user_id)

    assert alice.trust(bob.user_id) == OlmTrust(True, False, False, frozenset({"BOB"}))
    query = KeysQueryRequest.for_users([bob.user_id])
    for client, signers in ((alice.client, {alice.user_id, bob.user_id}), (bob.client, {bob.user_id})):
        seen = client.query(query).identities.accepted[bob.user_id].master_key
        assert {*seen.signed.signatures} == signers


def test_a_machine_replaces_its_identity_with_the_password_only(alice: OlmDevice, bob: OlmDevice) -> None:
    """Attacks 33 and 41."""
    bob.look_at(alice.user_id)
    bob.verify_user(alice.user_id)
    before = alice.master_key
    made = alice.machine.call("bootstrap")
    keys = DeviceSigningUploadRequest.from_bytes(made["signing_keys"])
    question = alice.client.refused(keys.to_http())
    assert question.status == 401
    assert question.user_interactive is not None
    for password, name in (("wrong", alice.user_id), ("correct horse", bob.user_id)):
        proof = {"identifier": {"type": "m.id.user", "user": name}, "password": password}
        auth = question.user_interactive.auth("m.login.password", proof)
        assert alice.client.refused(keys.with_auth(auth).to_http()).status == 401
    bob.look_at(alice.user_id)
    assert bob.master_key_of(alice.user_id) == before

    alice.client.replace_cross_signing(keys)
    alice.upload_signatures(made["signatures"])
    bob.look_at(alice.user_id)

    assert bob.master_key_of(alice.user_id) != before
    assert (bob.trust(alice.user_id).verified, bob.trust(alice.user_id).violation) == (False, True)
    alice.client.upload_cross_signing(keys)  # the same once more: nothing is new


def test_a_second_machine_of_a_user_is_signed_and_its_peers_are_told(
    server: AsgiHomeserver, alice: OlmDevice, bob: OlmDevice, new_olm_device: MakeOlmDevice
) -> None:
    server.share_a_room(alice.user_id, bob.user_id)
    since = bob.client.sync()
    second = new_olm_device(alice.client.another_device("SECOND"))
    since = bob.client.sync(since)
    assert alice.user_id in changed_in(since)
    feed(bob.machine, since)
    bob.machine.flush(bob.client)
    bob.look_at(alice.user_id)
    assert bob.devices_by_owner(alice.user_id) == {"ALICE"}
    alice.look_at(alice.user_id)

    alice.verify_device("SECOND")

    since = bob.client.sync(since)
    assert changed_in(since) == {alice.user_id}
    bob.look_at(alice.user_id)
    assert bob.devices_by_owner(alice.user_id) == {"ALICE", "SECOND"}
    second.look_at(alice.user_id)
    assert second.devices_by_owner(alice.user_id) == {"ALICE", "SECOND"}


def test_a_device_that_logs_out_is_gone_for_machines_and_comes_back_unsigned(
    server: AsgiHomeserver, alice: OlmDevice, bob: OlmDevice, new_olm_device: MakeOlmDevice
) -> None:
    """Attack 36."""
    server.share_a_room(alice.user_id, bob.user_id)
    second = alice.client.another_device("SECOND")
    new_olm_device(second)
    alice.look_at(alice.user_id)
    alice.verify_device("SECOND")
    bob.look_at(alice.user_id)
    assert bob.devices_by_owner(alice.user_id) == {"ALICE", "SECOND"}
    since = bob.client.sync()
    assert isinstance(second, AsgiClient)

    server.log_out(second)

    with pytest.raises(MatrixError) as caught:
        second.upload()
    assert (caught.value.status, caught.value.errcode) == (401, "M_UNKNOWN_TOKEN")
    since = bob.client.sync(since)
    assert changed_in(since) == {alice.user_id}
    bob.look_at(alice.user_id)
    assert bob.devices_by_owner(alice.user_id) == {"ALICE"}
    assert bob.client.claim(alice.user_id, "SECOND") == {}
    again = new_olm_device(alice.client.another_device("SECOND"))
    carol = new_olm_device(server.new_client())
    carol.look_at(alice.user_id)
    assert carol.devices_by_owner(alice.user_id) == {"ALICE"}
    assert again.client.upload() == {ALGORITHM: KEYS_OF_A_MACHINE}


# --------------------------------------------------------------------------------------------------------------
# A machine of ours and one of theirs
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ours(server: AsgiHomeserver) -> Device:
    device = Device(server.new_client(device_id="OURS"), forgetful=True)
    device.catch_up()
    device.bootstrap()
    return device


def test_a_machine_of_ours_and_one_of_theirs_verify_each_other(ours: Device, alice: OlmDevice) -> None:
    ours.look_at(alice.user_id)
    alice.look_at(ours.user_id)

    ours.machine.signing.verify_user(alice.user_id, alice.master_key)
    ours.flush()
    assert alice.master_key_of(ours.user_id) == ours.master_key
    alice.verify_user(ours.user_id)

    assert ours.machine.signing.queue.unconfirmed == frozenset()
    assert ours.state_of(alice.user_id) is IdentityState.VERIFIED
    proof = explain_device(ours.user(alice.user_id), "ALICE", own=ours.machine.users.own)
    assert (proof.verdict, proof.broken) == (DeviceTrust.VERIFIED, ())
    assert alice.trust(ours.user_id) == OlmTrust(True, False, False, frozenset({"OURS"}))


def test_a_room_key_of_theirs_is_decrypted_by_ours_and_ours_makes_a_new_key(ours: Device, alice: OlmDevice) -> None:
    alice.look_at(ours.user_id)

    alice.open_sessions(ours.user_id)
    alice.send_room_key(ours.user_id)

    (message,) = ours.read()
    plaintext = json.loads(message.plaintext)
    assert (plaintext["type"], plaintext["sender"]) == ("m.room_key", alice.user_id)
    assert plaintext["recipient_keys"] == {"ed25519": ours.ed25519_key.to_base64()}
    assert message.used is KeyUse.ONE_TIME
    ours.now += 2 * MINUTE
    ours.flush()
    assert ours.client.upload() == {ALGORITHM: 5}


def test_ours_hears_in_sync_that_their_identity_is_another(
    server: AsgiHomeserver, ours: Device, alice: OlmDevice
) -> None:
    """Attack 33."""
    server.share_a_room(ours.user_id, alice.user_id)
    ours.look_at(alice.user_id)
    ours.machine.signing.verify_user(alice.user_id, alice.master_key)
    ours.flush()
    ours.catch_up()
    before, device = alice.master_key, ours.user(alice.user_id).devices["ALICE"]
    ours.open_sessions([device])
    assert ours.machine.sessions.wanted == frozenset()
    ours.forget_news()

    alice.bootstrap(reset=True)
    ours.catch_up(wait=True)

    assert ours.user(alice.user_id).pin.current == alice.master_key != before
    assert ours.state_of(alice.user_id) is IdentityState.VERIFICATION_VIOLATION
    assert ChangeKind.MASTER_KEY_CHANGED in ours.kinds(alice.user_id)


def test_ours_gets_their_users_keys_and_signs_a_device_that_theirs_accepts(alice: OlmDevice) -> None:
    ours = Device(alice.client.another_device("OURS"), forgetful=True)
    ours.use_seeds(alice.export_seeds())
    ours.catch_up()
    alice.look_at(alice.user_id)

    assert ours.master_key == alice.master_key
    assert alice.trust(alice.user_id).verified_devices == {"ALICE", "OURS"}
    for device_id in ("ALICE", "OURS"):
        assert device_trust(ours.user(ours.user_id), device_id) is DeviceTrust.VERIFIED


def test_the_server_remembers_all_of_it_over_a_restart(server: AsgiHomeserver, ours: Device, alice: OlmDevice) -> None:
    ours.look_at(alice.user_id)
    ours.machine.signing.verify_user(alice.user_id, alice.master_key)
    ours.flush()
    since = alice.client.sync()
    alice.look_at(ours.user_id)
    alice.open_sessions(ours.user_id)

    server.stop()
    server.start()

    alice.send_room_key(ours.user_id)
    assert len(ours.read()) == 1
    ours.look_at(alice.user_id)
    assert ours.state_of(alice.user_id) is IdentityState.VERIFIED
    assert counts_of(alice.client.sync(since)) == {ALGORITHM: KEYS_OF_A_MACHINE}
