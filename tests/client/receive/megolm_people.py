"""A Megolm session of Alice's phone, for tests: a real ratchet, its key in every form, and what was said with it.

Bob is oneself, as in ``olm_people``. ``GROUP`` is a session in ``ROOM``::

    said = GROUP.say("hello")                # an event of the room, with what is inside
    said.inside["room_id"] = "!other:b"      # change one thing of it, or of said.event around it
    said.judged(session)                     # a MegolmJudgment

The ratchet is not turned again for what was changed inside: whoever has made a session can put anything there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import vodozemac
from attrs import define, field

from client.receive.olm_people import (
    ALICE_USER,
    BOB,
    BOB_USER,
    BOBS_TABLET,
    EVE,
    EVE_USER,
    PHONE,
    Person,
    known,
    letter,
)
from matrix_e2e_keys.client.receive.accepted_answers import AcceptedForward
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession, SessionSource
from matrix_e2e_keys.client.receive.key_requests import KeyRequests
from matrix_e2e_keys.client.receive.megolm_events import SenderPolicy, check_megolm_event
from matrix_e2e_keys.client.receive.megolm_judgments import MegolmJudgment
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent
from matrix_e2e_keys.client.receive.received_sessions import (
    judge_room_key,
    session_from_forward,
    session_from_import,
    sessions_from_bundle,
)
from matrix_e2e_keys.client.receive.replay_guard import ReplayGuard
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyDecision
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.events.encrypted import MegolmEncryptedContent
from matrix_e2e_keys.events.key_bundles import HistoricRoomKey, RoomKeyBundle
from matrix_e2e_keys.events.olm_formats import MegolmSessionKey
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent
from matrix_e2e_keys.models.device_keys import DeviceKeys

ROOM, OTHER_ROOM = "!room:a.example", "!other:a.example"
VERIFIED_ALICE = known(ALICE_USER, PHONE.signed_keys, verified=True)
KNOWN_ALICE = known(ALICE_USER, PHONE.signed_keys)


@define
class Said:
    """An event of a room, and what the ratchet brings out of it. All of it may be changed."""

    event: dict[str, Any]
    inside: dict[str, Any]
    index: int

    @property
    def received(self) -> RoomEvent:
        return RoomEvent.from_json(self.event)

    @property
    def content(self) -> dict[str, Any]:
        """What stands around the message."""
        content: dict[str, Any] = self.event["content"]
        return content

    @property
    def plaintext(self) -> bytes:
        return json.dumps(self.inside, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def judged(
        self,
        session: InboundSession,
        *,
        guard: ReplayGuard | None = None,
        policy: SenderPolicy = SenderPolicy.SAME_USER,
        known: Mapping[str, KnownUser] | None = None,
    ) -> MegolmJudgment:
        return check_megolm_event(
            self.received,
            self.plaintext,
            message_index=self.index,
            session=session,
            known={} if known is None else known,
            guard=guard,
            sender_policy=policy,
        )


@define
class Group:
    """An outbound session, and the ratchet of somebody who had its key from the beginning."""

    group: vodozemac.GroupSession = field(factory=vodozemac.GroupSession)
    inbound: vodozemac.InboundGroupSession = field(init=False)
    first_key: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.first_key = self.key
        self.inbound = vodozemac.InboundGroupSession(self.group.session_key)

    @property
    def session_id(self) -> str:
        return str(self.group.session_id)

    @property
    def key(self) -> str:
        """The key in the sharing format, from the next message on."""
        return str(self.group.session_key.to_base64())

    def exported(self, index: int = 0) -> str:
        """The key in the export format, from any message on."""
        exported = vodozemac.InboundGroupSession(vodozemac.SessionKey(self.first_key)).export_at(index)
        assert exported is not None
        return str(exported.to_base64())

    def turned_to(self, index: int) -> Group:
        """The same session, once so many messages were sent."""
        while self.group.message_index < index:
            self.group.encrypt(b"")
        return self

    def say(self, body: str, *, sender: Person = PHONE, room_id: str = ROOM, event_id: str | None = None) -> Said:
        inside = {"type": "m.room.message", "content": {"msgtype": "m.text", "body": body}, "room_id": room_id}
        message = self.group.encrypt(json.dumps(inside).encode())
        decrypted = self.inbound.decrypt(message)
        assert json.loads(decrypted.plaintext) == inside
        content = MegolmEncryptedContent.build(
            session_id=self.session_id,
            ciphertext=message.to_base64(),
            relates_to=None,
            sender_key=sender.curve25519_key,
            sender_device_id=sender.device_id,
        )
        event = {
            "type": "m.room.encrypted",
            "sender": sender.user_id,
            "content": content.to_json(),
            "room_id": room_id,
            "event_id": event_id or f"${decrypted.message_index}",
            "origin_server_ts": 1_700_000_000_000 + decrypted.message_index,
            "unsigned": {"age": 5},
        }
        return Said(event, inside, decrypted.message_index)


def room_key_content(
    group: Group, key: str | None = None, *, room_id: str = ROOM, shared: bool = False
) -> dict[str, Any]:
    """What an ``m.room_key`` says; ``key`` is the present one by default."""
    made = RoomKeyContent.build(room_id=room_id, session_key=key or group.key, shared_history=shared)
    return made.to_json()


def room_key(
    content: Mapping[str, Any],
    *,
    sender: Person = PHONE,
    users: Mapping[str, KnownUser] = VERIFIED_ALICE,
    event_type: str = "m.room_key",
) -> DecryptedOlmEvent:
    """An ``m.room_key`` that came through Olm and passed every check."""
    return letter(sender, event_type=event_type, content=content).judged(known=users).require()


def sender_of(person: Person, users: Mapping[str, KnownUser], *, keys: DeviceKeys | None = None) -> OlmSender:
    return letter(person, keys=keys).judged(known=users).require().sender


BOBS_OWN = known(BOB_USER, BOBS_TABLET.signed_keys, verified=True)
TABLET = sender_of(BOBS_TABLET, BOBS_OWN)
CAROL = sender_of(EVE, known(EVE_USER, EVE.signed_keys))
STRANGER = sender_of(EVE, known(EVE_USER, EVE.keys()), keys=EVE.keys())
assert TABLET.trust is SenderTrust.VERIFIED
assert (CAROL.trust, STRANGER.trust) == (SenderTrust.UNVERIFIED, SenderTrust.DEVICE_KNOWN)
assert BOB.user_id == BOBS_TABLET.user_id


def forward(group: Group, index: int = 0, *, room_id: str = ROOM, maker: Person = PHONE, **more: Any) -> Any:
    return ForwardedRoomKeyContent.build(
        room_id=room_id,
        session_key=group.exported(index),
        sender_key=maker.curve25519_key,
        sender_claimed_ed25519_key=maker.ed25519_key,
        **more,
    )


def accepted(content: ForwardedRoomKeyContent) -> AcceptedForward:
    """A forwarded key that this device has asked the tablet for."""
    own, requests = BOBS_OWN[BOB.user_id], KeyRequests(own_user_id=BOB.user_id, own_device_id=BOB.device_id)
    requests.ask_for_key(content.room_id, content.session_id, request_id="1", own=own)
    event = room_key(content.to_json(), sender=BOBS_TABLET, users=BOBS_OWN, event_type=content.event_type)
    return requests.check_forward(event, own=own)


def historic(group: Group, index: int = 0, *, room_id: str = ROOM, maker: Person = PHONE) -> HistoricRoomKey:
    return HistoricRoomKey.build(
        room_id=room_id,
        session_key=group.exported(index),
        sender_key=maker.curve25519_key,
        sender_claimed_ed25519_key=maker.ed25519_key,
    )


Connects = Callable[[MegolmSessionKey], bool] | None


def yes(_: MegolmSessionKey) -> bool:
    return True


def no(_: MegolmSessionKey) -> bool:
    return False


def offered(
    source: SessionSource,
    group: Group,
    index: int = 0,
    *,
    held: InboundSession | None = None,
    connects: Connects = None,
    room_id: str = ROOM,
    maker: Person = PHONE,
    shared: bool = False,
    users: Mapping[str, KnownUser] = VERIFIED_ALICE,
) -> RoomKeyDecision:
    """What becomes of a key from this source, which opens the session from some message on."""
    if source is SessionSource.ROOM_KEY:
        content = room_key_content(group, signed_at(group, index), room_id=room_id, shared=shared)
        return judge_room_key(room_key(content, sender=maker, users=users), held=held, connects=connects)
    if source is SessionSource.FORWARDED:
        forwarded = accepted(forward(group, index, room_id=room_id, maker=maker))
        return session_from_forward(forwarded, held=held, connects=connects)
    key = historic(group, index, room_id=room_id, maker=maker)
    if source is not SessionSource.HISTORY_BUNDLE:
        return session_from_import(key, source=source, shared_history=shared, held=held, connects=connects)
    judged = sessions_from_bundle(
        RoomKeyBundle.build(room_id=room_id, room_keys=[key]),
        room_id=room_id,
        inviter=CAROL.user_id,
        forwarder=CAROL,
        held={} if held is None else {group.session_id: held},
        connects=connects,
    )
    return judged.accepted[group.session_id]


def session(source: SessionSource, group: Group, index: int = 0, **more: Any) -> InboundSession:
    """What is remembered of a session whose key came from this source."""
    return offered(source, group, index, **more).require()


_SIGNED: dict[tuple[str, int], str] = {}


def signed_at(group: Group, index: int) -> str:
    """The key in the sharing format as it is once so many messages were sent. Ratchets turn one way: ask in order."""
    if (group.session_id, index) not in _SIGNED:
        assert group.group.message_index <= index
        _SIGNED[group.session_id, index] = group.turned_to(index).key
    return _SIGNED[group.session_id, index]
