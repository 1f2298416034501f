"""What an encrypted event of a room is worth, once a ratchet has decrypted it: every check around the ratchet.

Specification: client-server API, "m.megolm.v1.aes-sha2", "Recommended client behaviour" of cross-signing (bridges).

Facts:

* Sessions are looked up by room and session id, and by nothing else: clients "MUST NOT store or look up sessions using
  the sender_key or device_id", which whoever sent the event may have made up.
* "Clients should confirm that the user who sent the message corresponds to the user the message was expected to come
  from": for a session whose creator sent its key, this is the creator, whose device is looked at again for each event.
  For one whose key was handed on nobody can say, and the result has no sender. But if the device that is said to have
  made the session is known, an event of another user is refused.
* The room stands inside of the encryption, so that no server can move a message. One without a room is refused.
* What comes out is rebuilt from what was checked. A ``state_key`` is refused: no encrypted event sets the state of a
  room.
* "If an encrypted event contains an m.relates_to in its payload, it should be ignored and instead favour the cleartext
  m.relates_to copy (including when there is no cleartext copy)."
* A guard against replays is told of an event that passed all checks, and of no other.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeVar

from attrs import define

from matrix_e2e_keys.client.receive.handed_in import check_sender_verifier, known_user
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession
from matrix_e2e_keys.client.receive.megolm_judgments import (
    MegolmCheck,
    MegolmJudgment,
    new_decrypted_room_event,
)
from matrix_e2e_keys.client.receive.message_index import message_index_of
from matrix_e2e_keys.client.receive.replay_guard import ReplayGuard, ReplayVerdict
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust
from matrix_e2e_keys.client.receive.senders import owner_of_keys, reassess_sender
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.endpoints.members import json_object
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    VerificationError,
    quoted,
    raised_as,
)
from matrix_e2e_keys.events.contents import Member
from matrix_e2e_keys.events.encrypted import (
    ENCRYPTED,
    MegolmEncryptedContent,
    OlmEncryptedContent,
    read_encrypted_content,
)
from matrix_e2e_keys.events.judgments import Inspection
from matrix_e2e_keys.events.payloads import MegolmPayload
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import object_in
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = ["SenderPolicy", "check_megolm_event", "open_megolm_event"]

T = TypeVar("T")

_RELATES_TO: Final = "m.relates_to"


class SenderPolicy(enum.StrEnum):
    """Whether the creator of a session must have sent the event. The values are stable."""

    SAME_USER = "same-user"
    """He must."""
    ALLOW_IMPERSONATION = "allow-impersonation"
    """Another user may have, as users of a bridge do whose bot encrypts for all of them. "Clients MAY accept such
    messages, provided the session creator's device is cross-signed", by an identity that has not changed. "However, the
    client MUST annotate the message with a warning": :attr:`DecryptedRoomEvent.has_impersonated_sender`."""


def open_megolm_event(event: RoomEvent) -> MegolmEncryptedContent:
    """Return the content of an encrypted event of a room, for a ratchet to decrypt.

    ``content.ciphertext`` is what to decrypt, with the session that is held for the pair of ``event.room_id`` and
    ``content.session_id``.

    Args:
        event: the event.

    Raises:
        RemoteProtocolError: it is no ``m.room.encrypted``, or a state event, or not of Megolm. ``path`` points into the
            content.
        LocalProtocolError: it is no RoomEvent.
    """
    _check_event(event)
    if event.type != ENCRYPTED:
        raise RemoteProtocolError(Reason.NOT_ENCRYPTED, f"{quoted(event.type)} is not an encrypted event")
    if event.state_key is not None:
        raise RemoteProtocolError(Reason.STATE_EVENT, "state events are not encrypted")
    content = read_encrypted_content(event.content)
    if isinstance(content, OlmEncryptedContent):
        # An Olm message is for devices, and its sender is judged by other rules.
        detail = "what is sent to a room is not encrypted for single devices"
        raise RemoteProtocolError(Reason.WRONG_ALGORITHM, detail, path="/algorithm")
    if not isinstance(content, MegolmEncryptedContent):
        detail = f"the algorithm {quoted(content.algorithm)} is not known"
        raise RemoteProtocolError(Reason.UNSUPPORTED_ALGORITHM, detail, path="/algorithm")
    return content


def check_megolm_event(
    event: RoomEvent,
    plaintext: bytes,
    *,
    message_index: int,
    session: InboundSession,
    known: Mapping[str, KnownUser],
    guard: ReplayGuard | None,
    sender_policy: SenderPolicy = SenderPolicy.SAME_USER,
    verifier: Verifier = LIBSODIUM,
) -> MegolmJudgment:
    """Check what came out of a Megolm message.

    Args:
        event: the event as the server delivered it. The ratchet of ``session`` has decrypted its message.
        plaintext: what came out.
        message_index: the index that the ratchet returned with it.
        session: what is remembered of the session.
        known: user id to what is known of users. How sure one is of the sender follows from it, and not from what was
            known when the key came.
        guard: knows which messages were seen before. It is told of this one if it passes all checks. With ``None``,
            somebody else has to guard against replays.
        sender_policy: whether the creator of the session must have sent the event.
        verifier: who checks signatures.

    Returns:
        The event; or every check that failed.

    Raises:
        LocalProtocolError: an argument has the wrong type, the index cannot be one, or the verifier has not answered.
    """
    _check_event(event)
    if type(plaintext) not in (bytes, bytearray):
        raise LocalProtocolError(Reason.WRONG_TYPE, "the plaintext must be bytes", path="/plaintext")
    with raised_as(LocalProtocolError):
        index = message_index_of(message_index, "message_index")
    if type(session) is not InboundSession:
        raise LocalProtocolError(Reason.WRONG_TYPE, "an InboundSession is needed", path="/session")
    if guard is not None and type(guard) is not ReplayGuard:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a ReplayGuard is needed", path="/guard")
    if type(sender_policy) is not SenderPolicy:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a SenderPolicy is needed", path="/sender_policy")
    check_sender_verifier(verifier)
    known_user(known, event.sender)
    inspection = _Inspection(
        event=event,
        session=session,
        index=index,
        known=known,
        guard=guard,
        policy=sender_policy,
        verifier=verifier,
    )
    return inspection.judge(bytes(plaintext))


def _check_event(event: object) -> None:
    if type(event) is not RoomEvent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a RoomEvent is needed", path="/event")


@define(kw_only=True)
class _Inspection(Inspection[MegolmCheck]):
    """One event under inspection."""

    members: ClassVar[Mapping[str, Member]] = MegolmPayload.members

    event: RoomEvent
    session: InboundSession
    index: int
    known: Mapping[str, KnownUser]
    guard: ReplayGuard | None
    policy: SenderPolicy
    verifier: Verifier

    def judge(self, plaintext: bytes) -> MegolmJudgment:
        """Make every check that can be made."""
        envelope = self.trying(MegolmCheck.ENVELOPE, lambda: open_megolm_event(self.event))
        tree = self.trying(MegolmCheck.PLAINTEXT, lambda: object_in(parse_frame(plaintext), "the plaintext"))
        self._check_rooms()
        if envelope is not None:
            self._check_message(envelope)
        creator = self._creator()
        has_impersonated_sender = self._check_sender(creator)
        replay = self._check_replay()
        if tree is None:
            return self._refused()
        event_type: str | None = self.member(tree, "type", MegolmCheck.PLAINTEXT)
        inside = self.member(tree, "content", MegolmCheck.PLAINTEXT)
        room_id: str | None = self.member(tree, "room_id", MegolmCheck.ROOM)
        if room_id is not None and room_id != self.event.room_id:
            detail = f"the message is for {quoted(room_id)}, the event is in {quoted(self.event.room_id)}"
            self.fail(MegolmCheck.ROOM, Reason.ROOM_MISMATCH, detail, "room_id")
        self._check_inside(tree, event_type)
        content = None
        if envelope is not None and inside is not None:
            relation = envelope.relates_to
            content = self.trying(MegolmCheck.PLAINTEXT, lambda: _content(inside, relation))
        if event_type is None or content is None or self.failed:
            return self._refused()
        session = self.session
        if session.sender is not None and creator is not None and creator is not session.sender:
            session = session.with_sender(creator)
        if self.guard is not None:
            self.guard.record(**self._message())
        return MegolmJudgment(
            event=new_decrypted_room_event(
                event_type,
                content,
                self.event.room_id,
                self.event.event_id,
                self.event.sender,
                self.event.origin_server_ts,
                session,
                session.sender,
                self.index,
                has_impersonated_sender,
                replay,
                _unsigned(self.event),
            )
        )

    def _check_rooms(self) -> None:
        if self.event.room_id != self.session.room_id:
            detail = (
                f"the session is one of {quoted(self.session.room_id)}, the event is in {quoted(self.event.room_id)}"
            )
            self.fail(MegolmCheck.ROOM, Reason.ROOM_MISMATCH, detail)

    def _check_message(self, envelope: MegolmEncryptedContent) -> None:
        """Check that the event is about this session, and a message that it opens."""
        if envelope.session_id != self.session.session_id:
            detail = "the event names another session than the one that has decrypted it"
            self.fail(MegolmCheck.SESSION, Reason.SESSION_MISMATCH, detail, "session_id")
        if self.index != envelope.message_index:
            detail = f"the ratchet says that this is message {self.index}; it states {envelope.message_index}"
            self.fail(MegolmCheck.INDEX, Reason.INVALID_VALUE, detail, "ciphertext")
        if self.index < self.session.first_index:
            detail = f"this is message {self.index}; the session opens those from {self.session.first_index} on"
            self.fail(MegolmCheck.INDEX, Reason.LATER_INDEX, detail, "ciphertext")

    def _creator(self) -> OlmSender | None:
        """Return who made the session, or is said to have, as one sees him now; ``None`` if nobody can say."""
        sender = self.session.sender
        if sender is not None:
            try:
                return reassess_sender(sender, known=self.known, verifier=self.verifier)
            except VerificationError as error:
                self.file(MegolmCheck.SENDER, error)
                return sender
        keys: tuple[Any, Any] = self.session.claimed_curve25519_key, self.session.claimed_ed25519_key
        return owner_of_keys(self.event.sender, *keys, known=self.known)

    def _check_sender(self, creator: OlmSender | None) -> bool:
        """Check whether the creator of the session has sent the event; return whether somebody else may have."""
        if creator is None or creator.user_id == self.event.sender:
            return False
        names = f"the session is one of {quoted(creator.user_id)}, the event is from {quoted(self.event.sender)}"
        if self.policy is SenderPolicy.SAME_USER:
            # "the event's sender, room_id, and the recorded session_id match a trusted session"
            self.fail(MegolmCheck.SENDER, Reason.SENDER_MISMATCH, names)
        elif not creator.trust.is_at_least(SenderTrust.UNVERIFIED):
            # "provided the session creator's device is cross-signed"
            self.fail(MegolmCheck.SENDER, Reason.UNTRUSTED_SENDER, f"{names}, and nobody vouches for its device")
        return True

    def _check_replay(self) -> ReplayVerdict | None:
        if self.guard is None:
            return None
        verdict = self.guard.check(**self._message())
        if verdict is ReplayVerdict.REPLAYED:
            # "They should reject messages with a ratchet index that they have already decrypted."
            detail = "another event of the sender had this message, or this event had another timestamp"
            self.fail(MegolmCheck.REPLAY, Reason.REPLAYED, detail)
        return verdict

    def _message(self) -> dict[str, Any]:
        """Return what a guard asks for."""
        return {
            "room_id": self.session.room_id,
            "session_id": self.session.session_id,
            "message_index": self.index,
            "sender": self.event.sender,
            "event_id": self.event.event_id,
            "origin_server_ts": self.event.origin_server_ts,
        }

    def _check_inside(self, tree: dict[str, Any], event_type: str | None) -> None:
        if event_type == ENCRYPTED:
            self.fail(MegolmCheck.INSIDE, Reason.NESTED_ENCRYPTION, "it is encrypted once more", "type")
        if "state_key" in tree:
            self.fail(MegolmCheck.INSIDE, Reason.STATE_EVENT, "state events are not encrypted", "state_key")

    def _refused(self) -> MegolmJudgment:
        return MegolmJudgment(event=None, failed=self.in_order())


def _content(inside: Mapping[str, Any], relation: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the content, with the relation that stands in the open."""
    content = {name: value for name, value in inside.items() if name != _RELATES_TO}
    if relation is not None:
        content[_RELATES_TO] = dict(relation)
    return json_object(content, "content")


def _unsigned(event: RoomEvent) -> Mapping[str, Any] | None:
    unsigned = event.extra.get("unsigned")
    return json_object(unsigned, "unsigned") if type(unsigned) is dict else None
