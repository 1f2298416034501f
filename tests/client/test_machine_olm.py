"""A key machine and messages between devices: what it sends along, and what it notes of what comes."""

from __future__ import annotations

import itertools
import json
from typing import Any, Final

import attrs
import pytest

from client.fake_server import FakeServer
from client.receive.olm_people import (
    BOB,
    BOBS_TABLET,
    EVE,
    LAPTOP,
    PHONE,
    Letter,
    Person,
    known,
    learned,
    letter,
    person,
    without_keys,
)
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.machine.key_machine import KeyMachine
from matrix_e2e_keys.client.receive.olm_judgments import OlmCheck
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.supply.values import KeyUse
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key


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


HOUR = 3_600_000


@pytest.fixture
def server() -> FakeServer:
    """A server that has the phone and Bob's device."""
    server = FakeServer(passwords={})
    machine_of(PHONE, server)
    return server


def claimable(server: FakeServer, person: Person) -> None:
    """Have a device upload a one-time key."""
    key = OneTimeKey.build(
        key_id="signed_curve25519:A",
        key=sample_curve25519_key("one-time"),
        user_id=person.user_id,
        signer=person.signer,
    )
    server.exchange(person.user_id, person.device_id, KeysUploadRequest.for_keys(one_time_keys=[key]))


NAME = (PHONE.user_id, PHONE.device_id)


class TestUndecryptable:
    """Messages that no ratchet decrypts: the session is broken, and whoever has sent them cannot know."""

    def test_a_new_session_with_a_device_that_is_known(self, server: FakeServer) -> None:
        machine = machine_of(BOB, server)
        machine.lists.track([PHONE.user_id])
        settle(machine, server)
        event = letter(PHONE).received
        assert machine.receive_undecryptable(event, 0)
        assert machine.sessions.wanted == {NAME}
        assert machine.lists.outdated == set()
        assert not machine.receive_undecryptable(event, 1)
        claimable(server, PHONE)
        [asked] = machine.outgoing_requests(2)
        answer = server.exchange(BOB.user_id, BOB.device_id, asked.request)
        [[key]] = [list(of.values()) for of in machine.receive_response(asked.request_id, answer, 2).sessions.values()]
        assert key.device == machine.users.users[PHONE.user_id].devices[PHONE.device_id]
        machine.sessions.session_opened(key.device)
        assert not machine.receive_undecryptable(event, 1 + HOUR)
        assert machine.receive_undecryptable(event, 2 + HOUR)

    @pytest.mark.parametrize("is_restarted", [False, True])
    def test_one_that_is_not_known_is_asked_for_first(self, server: FakeServer, is_restarted: bool) -> None:
        machine = machine_of(BOB, server)
        server.log_out(*NAME)
        machine.lists.track([PHONE.user_id, EVE.user_id])
        server.log_in(EVE.user_id, EVE.device_id)
        settle(machine, server)
        assert not machine.receive_undecryptable(letter(PHONE).received, 0)
        assert machine.sessions.wanted == frozenset()
        assert machine.lists.outdated == {PHONE.user_id}
        machine_of(PHONE, server)
        if is_restarted:
            machine = restarted(machine, BOB)
        machine.lists.mark_outdated([EVE.user_id])
        settle(machine, server)
        assert machine.sessions.wanted == {NAME}
        assert machine.to_json()["unknown_senders"] == {}
        assert not machine.receive_undecryptable(letter(PHONE).received, HOUR), "it is wanted already"

    def test_an_answer_that_was_on_its_way_does_not_say_that_there_is_no_such_device(self, server: FakeServer) -> None:
        machine = machine_of(BOB, server)
        server.log_out(*NAME)
        machine.lists.track([PHONE.user_id])
        [query] = machine.outgoing_requests(0)
        answer = server.exchange(BOB.user_id, BOB.device_id, query.request)
        machine.receive_undecryptable(letter(PHONE).received, 0)
        machine.receive_response(query.request_id, answer, 0)
        machine_of(PHONE, server)
        settle(machine, server)
        assert machine.sessions.wanted == {NAME}

    def test_one_that_nobody_has_is_forgotten(self, server: FakeServer) -> None:
        machine = machine_of(BOB, server)
        server.log_out(*NAME)
        machine.lists.track([PHONE.user_id])
        machine.receive_undecryptable(letter(PHONE).received, 0)
        assert machine.to_json()["unknown_senders"] == {PHONE.user_id: [PHONE.curve25519_key.to_base64()]}
        settle(machine, server)
        assert machine.to_json()["unknown_senders"] == {}
        machine_of(PHONE, server)
        machine.lists.mark_outdated([PHONE.user_id])
        settle(machine, server)
        assert machine.sessions.wanted == frozenset()

    def test_of_users_who_are_not_tracked_nobody_is_asked_for(self, server: FakeServer) -> None:
        machine = machine_of(BOB, server)
        before = machine.to_json()
        assert not machine.receive_undecryptable(letter(PHONE).received, 0)
        assert machine.to_json() == before

    def test_a_key_that_two_devices_claim_names_neither(self, server: FakeServer) -> None:
        machine = machine_of(BOB, server)
        other = PHONE.user.device("OTHER", cross_signed=False)
        twin = DeviceKeys.build(
            user_id=PHONE.user_id,
            device_id="OTHER",
            curve25519_key=PHONE.curve25519_key,
            signer=PHONE.user.device_signer("OTHER"),
        )
        assert other.ed25519_key == twin.ed25519_key
        server.log_in(PHONE.user_id, "OTHER")
        server.exchange(PHONE.user_id, "OTHER", KeysUploadRequest.for_keys(device_keys=twin))
        machine.lists.track([PHONE.user_id])
        settle(machine, server)
        assert not machine.receive_undecryptable(letter(PHONE).received, 0)
        settle(machine, server)
        assert machine.sessions.wanted == frozenset()

    @pytest.mark.parametrize("is_known", [False, True])
    def test_a_device_that_only_receives_sends_nothing(self, server: FakeServer, is_known: bool) -> None:
        machine = machine_of(BOB, server)
        dehydrated = LAPTOP.keys(extra={"dehydrated": True})
        machine.lists.track([PHONE.user_id])
        server.log_in(PHONE.user_id, LAPTOP.device_id)
        settle(machine, server)
        server.exchange(PHONE.user_id, LAPTOP.device_id, KeysUploadRequest.for_keys(device_keys=dehydrated))
        machine.lists.mark_outdated([PHONE.user_id])
        for _ in range(2):
            if is_known:
                settle(machine, server)
            assert not machine.receive_undecryptable(letter(LAPTOP).received, 0)
            settle(machine, server)
        assert LAPTOP.device_id in machine.users.users[PHONE.user_id].devices
        assert machine.sessions.wanted == frozenset()

    def test_this_device_sends_nothing_to_itself(self, server: FakeServer) -> None:
        """Otherwise it would claim one of its own keys."""
        machine = machine_of(BOB, server)
        event = letter(BOBS_TABLET).event
        event["content"]["sender_key"] = BOB.curve25519_key.to_base64()
        event["content"]["ciphertext"] = {BOB.curve25519_key.to_base64(): NORMAL}
        before = machine.to_json()
        assert BOB.device_id in machine.users.users[BOB.user_id].devices
        assert not machine.receive_undecryptable(ToDeviceEvent.from_json(event), 0)
        assert machine.to_json() == before

    @pytest.mark.parametrize(
        "change",
        [
            {"type": "m.dummy"},
            {"content": {}},
            {"content": {"algorithm": "m.megolm.v1.aes-sha2"}},
            {"content": {"algorithm": "org.example.olm"}},
            "for another device",
            "another sender than the message says",
        ],
        ids=str,
    )
    @pytest.mark.parametrize("is_known", [False, True])
    def test_what_is_no_message_for_this_device_renews_nothing(
        self, server: FakeServer, change: Any, is_known: bool
    ) -> None:
        machine = machine_of(BOB, server)
        machine.lists.track([PHONE.user_id])
        if is_known:
            settle(machine, server)
        event = letter(PHONE).event
        if change == "for another device":
            event["content"]["ciphertext"] = {EVE.curve25519_key.to_base64(): NORMAL}
        elif isinstance(change, str):
            event["content"]["sender_key"] = EVE.curve25519_key.to_base64()
        else:
            event.update(change)
        before = machine.to_json()
        assert not machine.receive_undecryptable(ToDeviceEvent.from_json(event), 0)
        assert machine.to_json() == before

    @pytest.mark.parametrize("value", [None, b"", "event", [], 1.5, True])
    def test_arguments(self, value: Any) -> None:
        machine, event = machine_of(BOB), letter(PHONE).received
        machine.lists.track([PHONE.user_id])
        before = machine.to_json()
        for arguments, path in (((value, 0), "/event"), ((event, value), "/now")):
            with pytest.raises(LocalProtocolError) as caught:
                machine.receive_undecryptable(*arguments)
            assert caught.value.path == path
        assert machine.to_json() == before


def restarted(machine: KeyMachine, person: Person) -> KeyMachine:
    return KeyMachine.from_json(json.loads(json.dumps(machine.to_json())), signer=person.signer)


class TestSecretsAreForOneself:
    """Whoever gets a secret can be the user, or read all that was ever said to them."""

    @staticmethod
    def machine(*devices: DeviceKeys, verified: bool = True) -> KeyMachine:
        machine = machine_of(BOB)
        machine.users._users[BOB.user_id] = known(BOB.user, BOB.signed_keys, *devices, verified=verified)[BOB.user_id]
        return machine

    CONTENT: Final = {"request_id": "1", "secret": "SECRETSECRET"}

    def refused(self, machine: KeyMachine, recipient: VerifiedDevice, content: Any = CONTENT) -> tuple[str, Reason]:
        with pytest.raises(LocalProtocolError) as caught:
            machine.olm_payload("m.secret.send", content, recipient)
        assert "SECRETSECRET" not in repr(caught.value) + str(caught.value)
        assert machine.olm_payload("m.dummy", {}, recipient).type == "m.dummy"
        assert machine.olm_payload("m.forwarded_room_key", {}, recipient).content == {}
        return caught.value.path, caught.value.reason

    def test_a_verified_device_of_ones_own_gets_them(self) -> None:
        machine = self.machine(BOBS_TABLET.signed_keys)
        recipient = BOBS_TABLET.signed_keys.verify()
        assert machine.olm_payload("m.secret.send", self.CONTENT, recipient).content == self.CONTENT
        compared = self.machine(BOBS_TABLET.keys())
        compared.set_trust(BOB.user_id, "TABLET", BOBS_TABLET.ed25519_key, LocalTrust.VERIFIED)
        assert compared.olm_payload("m.secret.send", self.CONTENT, recipient).type == "m.secret.send"

    def test_nobody_else_does(self) -> None:
        """Even a user whom one has verified."""
        machine = self.machine()
        machine.users._users.update(learned({}, PHONE.user, [PHONE.signed_keys], verified=True))
        assert device_trust(machine.users.users[PHONE.user_id], PHONE.device_id) is DeviceTrust.VERIFIED
        assert self.refused(machine, PHONE.device) == ("/recipient", Reason.NOT_OWN_USER)

    def test_no_device_that_is_not_verified(self) -> None:
        blocked = self.machine(BOBS_TABLET.signed_keys)
        blocked.set_trust(BOB.user_id, "TABLET", BOBS_TABLET.ed25519_key, LocalTrust.BLACKLISTED)
        machines = [
            machine_of(BOB),
            self.machine(),
            self.machine(BOBS_TABLET.keys()),
            self.machine(BOBS_TABLET.signed_keys, verified=False),
            self.machine(person(BOB.user, "TABLET").signed_keys),
            self.machine(BOBS_TABLET.keys(cross_signed_by=BOB.user, curve25519_key=PHONE.curve25519_key)),
            blocked,
        ]
        for machine in machines:
            assert self.refused(machine, BOBS_TABLET.device) == ("/recipient", Reason.UNVERIFIED_DEVICE)


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


def queries(machine: KeyMachine, now: int) -> list[Any]:
    return [it for it in machine.outgoing_requests(now) if isinstance(it.request, KeysQueryRequest)]


OTHER = person(PHONE.user, "OTHER")


class TestMadeUpDevices:
    """Anybody can make up devices, and so make one ask: ever more seldom, and never instead of sending."""

    @pytest.mark.parametrize("is_decrypted", [True, False])
    def test_they_cause_few_queries(self, server: FakeServer, is_decrypted: bool) -> None:
        machine = machine_of(BOB, server)
        machine.lists.track([PHONE.user_id])
        machine_of(OTHER, server)
        server.log_out(*NAME)
        settle(machine, server)
        asked_at = []
        it = without_keys(letter(PHONE))
        for now in range(0, HOUR, 5_000):
            if is_decrypted:
                ours(it, machine, now)
            else:
                machine.receive_undecryptable(it.received, now)
            for asked in queries(machine, now):
                asked_at.append(now)
                answer = server.exchange(BOB.user_id, BOB.device_id, asked.request)
                machine.receive_response(asked.request_id, answer, now)
            assert machine.lists.outdated == set()
        assert asked_at[0] == 0
        assert 3 < len(asked_at) < 16
        assert max(later - at for at, later in itertools.pairwise(asked_at)) <= 15 * 60_000

    def test_a_server_that_does_not_answer_is_given_its_time(self, server: FakeServer) -> None:
        machine = machine_of(BOB, server)
        machine.lists.track([PHONE.user_id])
        [asked] = queries(machine, 0)
        machine.receive_response(asked.request_id, KeysQueryResponse.from_json({"device_keys": {}}), 0)
        waits_until = machine.next_request_at()
        assert waits_until is not None
        assert waits_until > 0
        for _ in range(5):
            ours(without_keys(letter(PHONE)), machine, 0)
            assert queries(machine, 0) == []
        assert machine.next_request_at() == waits_until

    def test_what_is_found_makes_up_for_it(self, server: FakeServer) -> None:
        machine = machine_of(BOB, server)
        machine.lists.track([PHONE.user_id])
        machine_of(OTHER, server)
        server.log_out(*NAME)
        settle(machine, server)
        for is_found in (False, True):
            machine.receive_undecryptable(letter(PHONE).received, 0 if is_found else -LONG)
            if is_found:
                machine_of(PHONE, server)
            settle(machine, server)
        machine.receive_undecryptable(letter(person(PHONE.user, "NEW")).received, 1)
        assert len(queries(machine, 1)) == 1

    def test_it_does_not_matter_who_is_not_tracked(self, server: FakeServer) -> None:
        machine = machine_of(BOB, server)
        ours(without_keys(letter(PHONE)), machine)
        assert machine.next_request_at() is None


LONG = 10**9


class TestHistory:
    """Whole histories go to devices that their owner has signed, while the owner is who it was."""

    @pytest.fixture
    def machine(self) -> KeyMachine:
        return machine_of(BOB)

    def bundle(self, machine: KeyMachine, recipient: Any) -> Any:
        return machine.olm_payload("m.room_key_bundle", {}, recipient)

    def test_to_a_device_that_is_signed(self, machine: KeyMachine) -> None:
        machine.users._users.update(known(PHONE.user, PHONE.signed_keys))
        device = machine.users.users[PHONE.user_id].devices[PHONE.device_id]
        assert self.bundle(machine, device).type == "m.room_key_bundle"

    @pytest.mark.parametrize("case", ["changed", "blacklisted", "collision", "unknown", "other keys", "by hand"])
    def test_to_nobody_else(self, machine: KeyMachine, case: str) -> None:
        before = known(PHONE.user, PHONE.signed_keys)
        device = before[PHONE.user_id].devices[PHONE.device_id]
        if case == "changed":
            reset = SampleUser(PHONE.user_id, 1)
            evil = person(reset, "EVIL")
            before = learned(before, reset, [evil.signed_keys])
            device = before[PHONE.user_id].devices["EVIL"]
            assert device.is_cross_signed
        elif case == "blacklisted":
            user = before[PHONE.user_id].with_trust(device.ed25519_key, LocalTrust.BLACKLISTED)
            before = {PHONE.user_id: user}
        elif case == "collision":
            before = {PHONE.user_id: attrs.evolve(before[PHONE.user_id], collision=PHONE.device_id)}
        elif case == "unknown":
            before = {}
        elif case == "other keys":
            before = known(PHONE.user, person(PHONE.user, PHONE.device_id).signed_keys)
        else:
            user = known(PHONE.user, PHONE.keys())[PHONE.user_id]
            before = {PHONE.user_id: user.with_trust(device.ed25519_key, LocalTrust.VERIFIED)}
        machine.users._users.update(before)
        with pytest.raises(LocalProtocolError) as error:
            self.bundle(machine, device)
        assert (error.value.path, error.value.reason) == ("/recipient", Reason.UNVERIFIED_DEVICE)
