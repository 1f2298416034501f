"""Two users of a Synapse hold an encrypted conversation: a device of ours, and an OlmMachine.

Everything goes over HTTP: who is in the room and which devices there are, one-time keys, room keys, messages, and what
is withheld. Our device is a ``KeyMachine``, a vodozemac account, and this library; it does what an app would have to do.
"""

from __future__ import annotations

import itertools
import json
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from interop.encrypted_peers import MESSAGE, OutboundRatchet, Ratchets, RoomReader, text_message
from interop.machines import Device
from interop.matrix_http import V3, Client, Http, Sync
from interop.olm_devices import OlmDevice
from interop.olm_machine import ALL_DEVICES, MakeOlmMachine, OlmMachine, OlmRoomEvent
from interop.synapse_server import SynapseServer
from matrix_e2e_keys import HttpRequest, JsonObject, SendToDeviceResponse, SyncKeys, parse_json
from matrix_e2e_keys.client.receive.megolm_events import open_megolm_event
from matrix_e2e_keys.client.receive.megolm_judgments import DecryptedRoomEvent
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent
from matrix_e2e_keys.client.receive.replay_guard import ReplayVerdict
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.rooms.room_encryption import HistoryVisibility, RoomEncryption, shares_history
from matrix_e2e_keys.client.rooms.rotation import RotationKind, rotation_reasons
from matrix_e2e_keys.client.rooms.sharing import NoOlmMemory, SharingPlan, plan_sharing
from matrix_e2e_keys.client.supply.values import KeyUse
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.events.contents import EventContent
from matrix_e2e_keys.events.encrypted import ENCRYPTED
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent, ToDeviceEvents
from matrix_e2e_keys.events.room_keys import RoomKeyContent
from matrix_e2e_keys.events.to_device_batches import to_device_requests
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent, WithheldCode
from matrix_e2e_keys.models.one_time_keys import VerifiedOneTimeKey

pytestmark = pytest.mark.interop

ENCRYPTION = {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 2}
ROUNDS = 5


class RoomClient(Client):
    """A client of a homeserver that is in one room.

    Attributes:
        to_device: the messages to the device that came with answers to ``/sync``.
        timeline: the encrypted events of the room that came with them, by event id.
    """

    def __init__(self, base_url: str, login: Mapping[str, Any]) -> None:
        super().__init__(base_url, login)
        self.to_device: list[ToDeviceEvent] = []
        self.timeline: dict[str, RoomEvent] = {}
        self._numbers = itertools.count()

    @classmethod
    def of_a_fresh_user(cls, server: SynapseServer, device_id: str) -> RoomClient:
        """Register a fresh user with one device."""
        client = cls.register(server.base_url, device_id, None)
        assert isinstance(client, RoomClient)
        return client

    def sync(self, since: Sync | None = None, *, wait: bool = False) -> Sync:
        """Return what is new, at once; or with ``wait`` as soon as there is something."""
        query = {"timeout": "10000" if wait else "0", **({} if since is None else {"since": since.next_batch})}
        request = HttpRequest(method="GET", path=f"{V3}/sync", query=urllib.parse.urlencode(query))
        answer = self.http.send(request)
        assert answer.status == 200, answer.body
        body: Any = parse_json(answer.body)
        received = ToDeviceEvents.from_sync_v2(body)
        assert received.rejected == ()
        self.to_device += received.accepted
        for room_id, room in body.get("rooms", {}).get("join", {}).items():
            events = [RoomEvent.from_json(event, room_id=room_id) for event in room["timeline"]["events"]]
            self.timeline.update({event.event_id: event for event in events if event.type == ENCRYPTED})
        return Sync(body["next_batch"], SyncKeys.from_sync_v2(body), [it.to_json() for it in received.accepted])

    def another_device(self, device_id: str) -> RoomClient:
        """Log the same user in on another device."""
        body = {"type": "m.login.password", **self.credentials(), "device_id": device_id}
        return RoomClient(self.base_url, Http(self.base_url).post("/login", body))

    def take_to_device(self) -> list[ToDeviceEvent]:
        """Return the messages to the device, each once."""
        taken, self.to_device = self.to_device, []
        return taken

    def state(self, room_id: str, event_type: str) -> Any:
        """Return the content of a state event of the room."""
        path = f"{V3}/rooms/{urllib.parse.quote(room_id)}/state/{event_type}"
        answer = self.http.send(HttpRequest(method="GET", path=path))
        assert answer.status == 200, answer.body
        return parse_json(answer.body)

    def say(self, room_id: str, content: JsonObject) -> str:
        """Send an encrypted event to the room; return its id."""
        path = f"{V3}/rooms/{urllib.parse.quote(room_id)}/send/{ENCRYPTED}/{self.device_id}-{next(self._numbers)}"
        answer = self.http.send(HttpRequest(method="PUT", path=path, body=json.dumps(content).encode()))
        assert answer.status == 200, answer.body
        found: Any = parse_json(answer.body)
        event_id: str = found["event_id"]
        return event_id


class OurSide(Device):
    """A device of ours that writes and reads in a room."""

    client: RoomClient

    def __init__(self, client: RoomClient) -> None:
        super().__init__(client)
        self.ratchets = Ratchets(self.account, self.machine.device)
        self.rooms = RoomReader()
        self.withheld: list[RoomKeyWithheldContent] = []
        self.used: list[KeyUse] = []
        self.plans: list[SharingPlan] = []
        self.rotations: list[tuple[RotationKind, ...]] = []
        self.memory = NoOlmMemory()
        self.settings = RoomEncryption(algorithm=None)
        self.visibility: HistoryVisibility | None = None
        self._outbound: tuple[OutboundRatchet, OutboundSession] | None = None
        self._numbers = itertools.count()

    def _open_session(self, key: VerifiedOneTimeKey) -> None:
        self.ratchets.open_session(key.device, key.public_key)
        self.machine.sessions.session_opened(key.device)
        self.memory.forget([(key.device.user_id, key.device.device_id)])

    def enter(self, room_id: str, members: list[str]) -> None:
        """Look how the room is encrypted, and whose devices there are."""
        self.settings = RoomEncryption.from_content(self.client.state(room_id, "m.room.encryption"))
        visibility = self.client.state(room_id, "m.room.history_visibility")
        self.visibility = HistoryVisibility.from_content(visibility)
        self.machine.lists.track(members)
        self.catch_up()

    # ----------------------------------------------------------------------------------------------------------
    # Writing
    # ----------------------------------------------------------------------------------------------------------

    def say(self, room_id: str, members: list[str], body: str) -> str:
        """Say something in the room; return the id of the event."""
        ratchet, session = self._session(room_id, members)
        self._share_key(ratchet, session, members)
        session.mark_encrypted(message_index=ratchet.message_index, now=self.now)
        content = ratchet.encrypt(MESSAGE, text_message(body), named_sender=self.machine.device)
        return self.client.say(room_id, content.to_json())

    def _session(self, room_id: str, members: list[str]) -> tuple[OutboundRatchet, OutboundSession]:
        """Return the session to encrypt with: a new one if there is none, or that has to go."""
        if self._outbound is not None:
            reasons = rotation_reasons(
                self._outbound[1],
                settings=self.settings,
                visibility=self.visibility,
                members=members,
                recipients=self.machine.devices_for(members, RecipientPolicy.ALL_DEVICES),
                message_index=self._outbound[0].message_index,
                now=self.now,
            )
            if not reasons:
                return self._outbound
            self.rotations.append(tuple(it.kind for it in reasons))
        ratchet = OutboundRatchet(room_id)
        session = OutboundSession(
            room_id=room_id,
            session_id=ratchet.session_id,
            created_at=self.now,
            shared_history=shares_history(self.visibility),
        )
        self._outbound = ratchet, session
        return self._outbound

    def _share_key(self, ratchet: OutboundRatchet, session: OutboundSession, members: list[str]) -> None:
        """Send the key to whoever needs it, and say why to whoever does not get it."""
        plan = self._plan(session, members)
        if plan.claim:
            self.open_sessions([device for of in plan.claim.values() for device in of.values()])
            plan = self._plan(session, members)
        self.plans.append(plan)
        devices = [device for of in plan.share.values() for device in of.values()]
        session.start_sharing(devices, message_index=ratchet.message_index)
        key = ratchet.key(shared_history=session.shared_history)
        self._send(
            ENCRYPTED,
            {
                user_id: {it.device_id: self.ratchets.write(key, it) for it in of.values()}
                for user_id, of in plan.share.items()
            },
        )
        session.confirm_sharing((it.user_id, it.device_id) for it in devices)
        self._send(RoomKeyWithheldContent.event_type, plan.withheld_contents(self.curve25519_key))
        session.mark_told(plan.withheld)
        self.memory.mark_told(plan)

    def _plan(self, session: OutboundSession, members: list[str]) -> SharingPlan:
        recipients = self.machine.devices_for(members, RecipientPolicy.ALL_DEVICES)
        assert recipients.unknown == recipients.outdated == frozenset()
        devices = [device for of in recipients.devices.values() for device in of.values()]
        return plan_sharing(
            session,
            recipients,
            without_olm=[(it.user_id, it.device_id) for it in devices if not self.ratchets.sessions_with(it)],
            unreachable=self.machine.sessions.without_session,
            memory=self.memory,
        )

    def _send(self, event_type: str, messages: Mapping[str, Mapping[str, EventContent | JsonObject]]) -> None:
        txn_id = f"{self.device_id}-{next(self._numbers)}"
        for request in to_device_requests(event_type=event_type, messages=messages, txn_id=txn_id):
            assert self.client.ask(request) == SendToDeviceResponse()

    def restart_rooms(self) -> None:
        """Write down what this library remembers of rooms, and begin with what was written."""
        self.rooms.restart()
        written = json.dumps([self.memory.to_json(), self.settings.to_json()])
        memory, settings = json.loads(written)
        self.memory, self.settings = NoOlmMemory.from_json(memory), RoomEncryption.from_json(settings)
        if self._outbound is not None:
            ratchet, session = self._outbound
            self._outbound = ratchet, OutboundSession.from_json(json.loads(json.dumps(session.to_json())))

    # ----------------------------------------------------------------------------------------------------------
    # Reading
    # ----------------------------------------------------------------------------------------------------------

    def hear(self, event_id: str) -> DecryptedRoomEvent:
        """Wait for a message, and for its key; return it as it is read."""
        self.catch_up_until(lambda: self._is_there(event_id) and self.can_read(event_id))
        judgment = self.rooms.read(self.client.timeline[event_id])
        assert judgment is not None
        return judgment.require()

    def hear_why_not(self, event_id: str) -> RoomKeyWithheldContent:
        """Wait for a message, and for the notice why its key is withheld; return the notice."""
        self.catch_up_until(lambda: self._is_there(event_id) and bool(self.withheld))
        (notice,) = self.withheld
        return notice

    def can_read(self, event_id: str) -> bool:
        """Tell whether the key of a message is there."""
        return open_megolm_event(self.client.timeline[event_id]).session_id in self.rooms.sessions

    def _is_there(self, event_id: str) -> bool:
        for event in self.client.take_to_device():
            if event.type == RoomKeyWithheldContent.event_type:
                self.withheld.append(RoomKeyWithheldContent.from_json(event.content))
            else:
                self._open(self.ratchets.read(event, self.machine.users.users).require())
        self.store()
        return event_id in self.client.timeline

    def _open(self, event: DecryptedOlmEvent) -> None:
        if event.one_time_key is not None:
            self.used.append(self.machine.supply.receive_use(event.one_time_key, self.now))
        if event.sender.device is not None:
            self.machine.sessions.session_opened(event.sender.device)
        if event.type == RoomKeyContent.event_type:
            self.rooms.take_room_key(event)


class TheirSide(OlmDevice):
    """An OlmMachine that writes and reads in a room."""

    client: RoomClient

    def __init__(self, client: RoomClient, machine: OlmMachine) -> None:
        super().__init__(client, machine)
        self._since: Sync | None = None

    def catch_up(self, *, wait: bool = False) -> None:
        """Ask what is new, and do what follows from it."""
        self._since = self.client.sync(self._since, wait=wait)
        keys = self._since.keys
        assert keys.one_time_key_counts is not None
        assert keys.unused_fallback_key_types is not None
        self.machine.receive_sync(
            self._since.to_device,
            changed=() if keys.device_lists is None else keys.device_lists.changed,
            left=() if keys.device_lists is None else keys.device_lists.left,
            counts=keys.one_time_key_counts,
            unused_fallback=keys.unused_fallback_key_types,
        )
        self.machine.flush(self.client)

    def say(self, room_id: str, members: list[str], body: str, *, strategy: str = ALL_DEVICES) -> str:
        """Say something in the room; return the id of the event."""
        self.open_sessions(*members)
        for request in self.machine.share_room_key(room_id, *members, strategy=strategy):
            self.machine.send(self.client, request)
        return self.client.say(room_id, self.machine.encrypt_room_event(room_id, MESSAGE, text_message(body)))

    def hear(self, event_id: str) -> OlmRoomEvent:
        """Wait for a message, and for its key; return it as it is read."""
        return self._hear(event_id, lambda found: found.event is not None)

    def hear_why_not(self, event_id: str) -> OlmRoomEvent:
        """Wait for a message, and for the notice why its key is withheld; return what the machine makes of both."""
        return self._hear(event_id, lambda found: found.withheld is not None)

    def _hear(self, event_id: str, is_there: Callable[[OlmRoomEvent], bool]) -> OlmRoomEvent:
        self.catch_up()
        for _ in range(ROUNDS):
            event = self.client.timeline.get(event_id)
            if event is not None:
                found = self.machine.decrypt_room_event(event.room_id, event.to_json(), trust="CrossSigned")
                if is_there(found):
                    return found
            self.catch_up(wait=True)
        pytest.fail(f"{self.device_id} does not get to read {event_id}")


# --------------------------------------------------------------------------------------------------------------
# The room
# --------------------------------------------------------------------------------------------------------------


class Conversation:
    """A room with two users, each of whom knows the other.

    Attributes:
        ours: our device.
        theirs: the other device.
        room_id: the room.
        members: both users.
    """

    def __init__(self, ours: OurSide, theirs: TheirSide) -> None:
        self.ours, self.theirs = ours, theirs
        self.members = [ours.user_id, theirs.user_id]
        encryption = {"type": "m.room.encryption", "state_key": "", "content": ENCRYPTION}
        body = {"preset": "public_chat", "initial_state": [encryption]}
        self.room_id: str = ours.client.http.post("/createRoom", body)["room_id"]
        theirs.client.http.post(f"/join/{urllib.parse.quote(self.room_id)}", {})
        ours.enter(self.room_id, self.members)
        assert ours.settings.require_supported().rotation_period_msgs == ENCRYPTION["rotation_period_msgs"]
        assert ours.visibility is HistoryVisibility.SHARED
        theirs.machine.call("track", users=self.members)
        theirs.catch_up()

    def we_say(self, body: str) -> str:
        """Let our device say something; return the id of the event."""
        return self.ours.say(self.room_id, self.members, body)

    def they_say(self, body: str, **how: str) -> str:
        """Let the other device say something; return the id of the event."""
        return self.theirs.say(self.room_id, self.members, body, **how)


@pytest.fixture
def conversation(synapse: SynapseServer, new_olm_machine: MakeOlmMachine) -> Conversation:
    ours = OurSide(RoomClient.of_a_fresh_user(synapse, "OURS"))
    ours.catch_up()
    ours.bootstrap()
    client = RoomClient.of_a_fresh_user(synapse, "THEIRS")
    theirs = TheirSide(client, new_olm_machine(client.user_id, client.device_id))
    theirs.bootstrap()
    return Conversation(ours, theirs)


def body_of(found: OlmRoomEvent) -> str:
    """Return what was said, which must be by our device."""
    assert found.event is not None
    body: str = found.event["content"]["body"]
    return body


def test_two_users_write_to_each_other_and_read_on_after_a_new_room_key(conversation: Conversation) -> None:
    ours, theirs = conversation.ours, conversation.theirs

    first = theirs.hear(conversation.we_say("Hello"))
    assert (body_of(first), first.sender, first.device_id) == ("Hello", ours.user_id, "OURS")
    assert first.curve25519 == ours.curve25519_key.to_base64()

    answer = ours.hear(conversation.they_say("Hello yourself"))
    assert answer.content["body"] == "Hello yourself"
    assert answer.sender is not None
    assert (answer.sender.user_id, answer.sender.ed25519_key) == (theirs.user_id, theirs.ed25519_key)
    assert answer.sender.trust is SenderTrust.UNVERIFIED
    assert ours.used == []  # the session is the one that we have opened

    ours.machine.signing.verify_user(theirs.user_id, theirs.master_key)
    ours.flush()
    ours.rooms.look_again(ours.machine.users.users)
    again = ours.hear(conversation.they_say("Is it you?"))
    assert again.sender is not None
    assert (again.message_index, again.sender.trust) == (1, SenderTrust.VERIFIED)

    for body in ("second", "third", "fourth", "fifth"):
        ours.restart_rooms()
        assert body_of(theirs.hear(conversation.we_say(body))) == body
    assert ours.rotations == [(RotationKind.TOO_MANY_MESSAGES,)] * 2
    to_theirs = {theirs.user_id: {"THEIRS"}}
    shared = [{user_id: set(of_user) for user_id, of_user in plan.share.items()} for plan in ours.plans]
    assert shared == [to_theirs, {}, to_theirs, {}, to_theirs]
    assert all(plan.withheld == {} for plan in ours.plans)

    ours.restart_rooms()
    ours.rooms.look_again(ours.machine.users.users)
    judgment = ours.rooms.read(ours.client.timeline[again.event_id])
    assert judgment is not None
    read = judgment.require()
    assert (read.content, read.sender, read.replay) == (again.content, again.sender, ReplayVerdict.SAME_EVENT)


def test_we_answer_in_the_session_that_they_have_opened(conversation: Conversation) -> None:
    ours = conversation.ours

    assert ours.hear(conversation.they_say("Hello")).content["body"] == "Hello"
    assert ours.used == [KeyUse.ONE_TIME]
    assert body_of(conversation.theirs.hear(conversation.we_say("Hello yourself"))) == "Hello yourself"
    assert not any(it.claim for it in ours.received)


def test_a_device_that_comes_later_reads_from_then_on_and_not_after_it_has_gone(
    conversation: Conversation, new_olm_machine: MakeOlmMachine
) -> None:
    ours, theirs = conversation.ours, conversation.theirs
    before = conversation.we_say("before")
    assert body_of(theirs.hear(before)) == "before"

    client = theirs.client.another_device("SECOND")
    second = TheirSide(client, new_olm_machine(client.user_id, client.device_id))
    ours.catch_up_until(lambda: "SECOND" in ours.user(theirs.user_id).devices)
    meanwhile = conversation.we_say("meanwhile")
    second.look_at(ours.user_id)
    assert body_of(second.hear(meanwhile)) == body_of(theirs.hear(meanwhile)) == "meanwhile"
    assert second.machine.decrypt_room_event(conversation.room_id, client.timeline[before].to_json()).event is None
    assert {user_id: set(of_user) for user_id, of_user in ours.plans[-1].share.items()} == {theirs.user_id: {"SECOND"}}

    client.http.post("/logout", {})
    ours.catch_up_until(lambda: "SECOND" not in ours.user(theirs.user_id).devices)
    assert body_of(theirs.hear(conversation.we_say("after"))) == "after"
    assert ours.rotations == [(RotationKind.TOO_MANY_MESSAGES, RotationKind.DEVICE_REMOVED)]


def test_each_is_told_that_a_key_is_withheld(conversation: Conversation) -> None:
    ours, theirs = conversation.ours, conversation.theirs
    assert body_of(theirs.hear(conversation.we_say("Hello"))) == "Hello"
    assert ours.hear(conversation.they_say("Hello yourself")).message_index == 0

    ours.machine.set_trust(theirs.user_id, "THEIRS", theirs.ed25519_key, LocalTrust.BLACKLISTED)
    missed = theirs.hear_why_not(conversation.we_say("Not for everybody"))
    assert (missed.event, missed.refused) == (None, "MissingRoomKey")
    assert ours.rotations == [(RotationKind.DEVICE_REMOVED,)]
    assert ours.plans[-1].withheld == {theirs.user_id: {"THEIRS": WithheldCode.BLACKLISTED}}

    theirs.machine.call("discard_room_key", room_id=conversation.room_id)
    event_id = conversation.they_say("Nor this", strategy="onlyTrustedDevices")
    notice = ours.hear_why_not(event_id)
    assert not ours.can_read(event_id)
    assert notice.known_code is WithheldCode.UNVERIFIED
    assert notice.room_id == conversation.room_id
    assert notice.session_id == open_megolm_event(ours.client.timeline[event_id]).session_id
