"""A key machine and messages between devices: what it sends along, and what it notes of what comes."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from client.fake_server import FakeServer
from client.receive.olm_people import BOB, EVE, PHONE, Letter, Person, letter, without_keys
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.machine.key_machine import KeyMachine
from matrix_e2e_keys.client.receive.olm_judgments import OlmCheck
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.supply.values import KeyUse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError
from matrix_e2e_keys.keys import Curve25519PublicKey


def machine_of(person: Person, server: FakeServer | None = None) -> KeyMachine:
    """The machine of a device; if there is a server, with its keys uploaded."""
    machine = KeyMachine.create(person.keys(), signer=person.signer)
    if server is not None:
        server.log_in(person.user_id, person.device_id)
        settle(machine, server)
    return machine


def settle(machine: KeyMachine, server: FakeServer) -> None:
    machine.mark_stored(machine.to_json())
    while asked := machine.outgoing_requests(0):
        for outgoing in asked:
            answer = server.exchange(machine.device.user_id, machine.device.device_id, outgoing.request)
            machine.receive_response(outgoing.request_id, answer, 0)


def ours(it: Letter, machine: KeyMachine, now: int = 0) -> Any:
    return machine.receive_olm_event(it.received, it.plaintext, now)


class TestReceiving:
    def test_the_judgment_is_that_of_the_checks(self) -> None:
        it = letter(PHONE)
        received = ours(it, machine_of(BOB))
        assert received.judgment.event.sender.trust is SenderTrust.DEVICE_KNOWN
        assert received.judgment.event.sender.user_id == PHONE.user_id
        it.payload["recipient"] = EVE.user_id
        assert [failed.check for failed in ours(it, machine_of(BOB)).judgment.failed] == [OlmCheck.RECIPIENT]

    def test_who_is_known_counts(self) -> None:
        server = FakeServer(passwords={})
        machine_of(PHONE, server)
        machine = machine_of(BOB, server)
        assert ours(without_keys(letter(PHONE)), machine).judgment.event.sender.trust is SenderTrust.UNKNOWN_DEVICE
        machine.lists.track([PHONE.user_id])
        settle(machine, server)
        assert ours(without_keys(letter(PHONE)), machine).judgment.event.sender.trust is SenderTrust.DEVICE_KNOWN

    def test_the_devices_of_an_unknown_sender_are_asked_for(self) -> None:
        server = FakeServer(passwords={})
        machine = machine_of(BOB, server)
        machine.lists.track([PHONE.user_id, EVE.user_id])
        server.log_in(PHONE.user_id, PHONE.device_id)
        settle(machine, server)
        assert machine.lists.outdated == set()
        ours(letter(PHONE), machine)  # the message names its device itself
        refused = without_keys(letter(EVE))
        refused.payload["recipient"] = EVE.user_id
        ours(refused, machine)
        assert machine.lists.outdated == set()
        ours(without_keys(letter(PHONE)), machine)
        assert machine.lists.outdated == {PHONE.user_id}

    def test_the_one_time_key_of_a_first_message_is_used_up_whatever_comes_of_the_event(self) -> None:
        for is_changed in (False, True):
            it = letter(PHONE)
            header = ours(it, machine_of(BOB)).judgment.event.one_time_key
            machine = machine_of(BOB)
            machine.add_one_time_keys({"AAAA": header})
            machine.mark_stored(machine.to_json())
            if is_changed:
                it.payload["recipient"] = EVE.user_id
            received = ours(it, machine)
            assert (received.judgment.event is None) is is_changed
            assert received.key_use is KeyUse.ONE_TIME
            uploads = [outgoing.request for outgoing in machine.outgoing_requests(0)]
            [upload] = [request for request in uploads if isinstance(request, KeysUploadRequest)]
            assert upload.one_time_keys == {}
            assert ours(it, machine).key_use is KeyUse.ONE_TIME  # until it is answered, more messages name it

    def test_a_use_of_the_fallback_key_is_told(self) -> None:
        it = letter(PHONE)
        key = ours(it, machine_of(BOB)).judgment.event.one_time_key
        machine = machine_of(BOB)
        machine.add_fallback_key("F", key, 0)
        assert ours(it, machine, 7).key_use is KeyUse.FALLBACK

    def test_an_event_without_a_first_message_uses_no_key(self) -> None:
        it = letter(PHONE)
        received = machine_of(EVE).receive_olm_event(it.received, it.plaintext, 0)
        assert received.key_use is None
        assert received.judgment.failed[0].check is OlmCheck.ENVELOPE
        it.event["content"]["ciphertext"] = {BOB.curve25519_key.to_base64(): NORMAL}
        received = ours(it, machine_of(BOB))
        assert received.key_use is None
        assert received.judgment.event.type == "m.dummy"

    @pytest.mark.parametrize("value", [None, 5, b"", "event", [], 1.5, True])
    def test_arguments(self, value: Any) -> None:
        it, machine = letter(PHONE), machine_of(BOB)
        before = machine.to_json()
        with pytest.raises(LocalProtocolError):
            machine.receive_olm_event(value, it.plaintext, 0)
        if value != b"":
            with pytest.raises(LocalProtocolError):
                machine.receive_olm_event(it.received, value, 0)
        if value != 5:
            with pytest.raises(LocalProtocolError):
                machine.receive_olm_event(it.received, it.plaintext, value)
        assert machine.to_json() == before


NORMAL = {"type": 1, "body": "AwogaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWkQACIBeHh4eHh4eHh4"}
"""A message in a session that is there already."""


class TestSending:
    def test_the_payload_is_from_this_device(self) -> None:
        payload = machine_of(PHONE).olm_payload("m.dummy", {"x": 1}, BOB.device)
        assert (payload.type, payload.content) == ("m.dummy", {"x": 1})
        assert (payload.sender, payload.keys) == (PHONE.user_id, PHONE.ed25519_key)
        assert (payload.recipient, payload.recipient_keys) == (BOB.user_id, BOB.ed25519_key)
        assert payload.sender_device_keys is not None
        assert payload.sender_device_keys.to_json() == PHONE.keys().to_json()

    def test_the_signature_of_the_identity_goes_along_once_the_server_has_it(self) -> None:
        server = FakeServer(passwords={})
        machine = machine_of(PHONE, server)
        roles = ("master", "self_signing", "user_signing")
        secrets = CrossSigningSecrets(user_id=PHONE.user_id, **{role: PHONE.user.secret(role) for role in roles})
        machine.start_bootstrap(secrets)
        assert signers(machine) == {f"ed25519:{PHONE.device_id}"}
        settle(machine, server)
        assert signers(machine) == {
            f"ed25519:{PHONE.device_id}",
            f"ed25519:{PHONE.user.secret('self_signing').public_key.to_base64()}",
        }

    def test_other_keys_under_the_name_of_this_device_do_not(self) -> None:
        server = FakeServer(passwords={})
        machine = machine_of(PHONE, server)
        other = PHONE.user.device(PHONE.device_id)
        oneself = machine.users.users[PHONE.user_id]
        identity = attrs.evolve(oneself, devices={PHONE.device_id: other.verify()}, identity=None, pin=oneself.pin)
        machine.users._users[PHONE.user_id] = identity
        assert signers(machine) == {f"ed25519:{PHONE.device_id}"}
        sent = machine.olm_payload("m.dummy", {}, BOB.device).sender_device_keys
        assert sent is not None
        assert sent.curve25519_key == PHONE.curve25519_key

    @pytest.mark.parametrize("value", [None, 5, [], "x", PHONE.keys(), Curve25519PublicKey])
    def test_arguments(self, value: Any) -> None:
        machine = machine_of(PHONE)
        with pytest.raises(E2EKeysError):
            machine.olm_payload("m.dummy", {}, value)
        with pytest.raises(E2EKeysError):
            machine.olm_payload("m.dummy", value, BOB.device)


def signers(machine: KeyMachine) -> set[str]:
    keys = machine.olm_payload("m.dummy", {}, BOB.device).sender_device_keys
    assert keys is not None
    assert set(keys.signed.signatures) == {PHONE.user_id}
    return set(keys.signed.signatures[PHONE.user_id])
