"""What an event of the draft of 2015 is worth, once a ratchet has decrypted it: every check around the ratchet.

Specification: the draft "End to End Encryption" of July 2015, "Sending a Message", "Using Olm".

Facts:

* All checks are made, and all that failed are named, also where the first was enough.
* "Clients must confirm that the ``sender_key`` actually belongs to the device that sent the message." Nothing inside
  names a user or a signing key, so that is all there is to go by; see :func:`check_room_payload`.
* An encrypted event is an ``m.room.encrypted``. An earlier text of the draft wrote ``m.room.message`` in the example
  for Olm, against its own general form; a later one mended that. Such events are not taken.
* A ratchet takes a message once. Beyond that, nothing here says when an event was sent, or in which order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, TypeVar

from attrs import define

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.endpoints.members import json_object, opaque_string
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    quoted,
)
from matrix_e2e_keys.events.contents import Member, passed_on
from matrix_e2e_keys.events.encrypted import (
    ENCRYPTED,
    MegolmEncryptedContent,
    OlmCiphertext,
    OlmEncryptedContent,
    read_encrypted_content,
)
from matrix_e2e_keys.events.judgments import Inspection
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import object_in
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.legacy.fingerprints import (
    FingerprintState,
    KnownDevices,
    Participant,
    ParticipantReport,
    compare_participants,
    named,
)
from matrix_e2e_keys.legacy.room_judgments import (
    RoomPayloadCheck,
    RoomPayloadJudgment,
    new_checked_payload,
)
from matrix_e2e_keys.legacy.room_payloads import NO_STATE, STATE_KEY, LegacyRoomPayload
from matrix_e2e_keys.models.device_keys import VerifiedDevice

__all__ = ["check_room_payload"]

T = TypeVar("T")

_DIGEST_BYTES: Final = 32


def check_room_payload(
    event: RoomEvent,
    plaintext: bytes,
    *,
    own: VerifiedDevice,
    expected: Iterable[VerifiedDevice],
    known: Iterable[VerifiedDevice] = (),
) -> RoomPayloadJudgment:
    """Check what came out of an event of a room that was encrypted with Olm.

    Whoever publishes device keys can write another device's Olm identity key into them. They are signed, but that
    does not show that he has the private half; and the payload of the draft names neither a user nor a signing key. So
    a message is refused if two of the devices handed in here claim its ``sender_key``, be it under one name with
    different signing keys. So whoever publishes another's Olm identity key as his own silences her, for receivers who
    hand in all devices that they know: they get nothing of hers, rather than taking it for his. If only the thief's is
    handed in, his server can pass off messages as his that somebody else wrote: hand in as ``known`` whatever devices
    you know. What devices say to each other today, :class:`~matrix_e2e_keys.OlmPayload`, names sender, recipient and
    their signing keys inside, and so binds what is only inferred here.

    Args:
        event: the event as the server delivered it. A ratchet has decrypted its message for this device, with a session
            of its ``sender_key``.
        plaintext: what came out.
        own: this device. It is expected in any case.
        expected: all devices that should take part: those of all members of the room, one's own others included. Those
            without an Olm identity key are passed over.
        known: other devices that are known. They are not expected; if one of them takes part, it can be named.

    Returns:
        The event, with the device that has sent it; or every check that failed. Either way, who takes part.

    Raises:
        LocalProtocolError: an argument has the wrong type, this device has no Olm identity key, or two expected devices
            have one name and different keys.
    """
    if type(event) is not RoomEvent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a RoomEvent is needed", path="/event")
    if type(plaintext) not in (bytes, bytearray):
        raise LocalProtocolError(Reason.WRONG_TYPE, "the plaintext must be bytes", path="/plaintext")
    if type(own) is not VerifiedDevice:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path="/own")
    key = own.curve25519_key
    if key is None:
        raise LocalProtocolError(Reason.MISSING_KEY, "this device has no Olm identity key", path="/own")
    devices = KnownDevices.of(own, expected, known)
    return _Inspection(event=event, own_key=key, devices=devices).judge(plaintext)


@define(kw_only=True)
class _Inspection(Inspection[RoomPayloadCheck]):
    """One event under inspection."""

    members: ClassVar[Mapping[str, Member]] = LegacyRoomPayload.members
    plaintext_at: ClassVar[tuple[str, ...]] = ("plaintext",)

    event: RoomEvent
    own_key: Curve25519PublicKey
    devices: KnownDevices

    def judge(self, plaintext: bytes) -> RoomPayloadJudgment:
        """Make every check that can be made."""
        if self.event.state_key is not None:
            self.fail(RoomPayloadCheck.STATE, Reason.STATE_EVENT, NO_STATE, "event", STATE_KEY)
        envelope = self._envelope()
        message = None if envelope is None else self._message(envelope)
        sender = None if envelope is None else self._sender(envelope.sender_key)
        tree = self.trying(
            RoomPayloadCheck.PLAINTEXT, lambda: object_in(parse_frame(plaintext), "the plaintext"), "plaintext"
        )
        if tree is None:
            return self._refused(None)
        event_type = self.member(tree, "type", RoomPayloadCheck.PLAINTEXT)
        content = self.member(tree, "content", RoomPayloadCheck.PLAINTEXT)
        room_id = self.member(tree, "room_id", RoomPayloadCheck.ROOM)
        others = {name: value for name, value in tree.items() if name not in LegacyRoomPayload.members}
        extra = self.trying(
            RoomPayloadCheck.PLAINTEXT, lambda: json_object(passed_on(others), "the plaintext"), "plaintext"
        )
        self._check_inside(tree, event_type, room_id)
        report = self._participants(envelope, self._fingerprint(tree))
        if message is None or sender is None or self.failed:
            return self._refused(report)
        header = message.pre_key_header
        one_time_key = None if header is None else header.one_time_key
        payload = new_checked_payload(event_type, content, room_id, sender, report, one_time_key, extra)
        return RoomPayloadJudgment(event=payload, participants=report)

    def _envelope(self) -> OlmEncryptedContent | None:
        """Return the content around the message."""

        def read() -> OlmEncryptedContent:
            content = read_encrypted_content(dict(self.event.content))
            if isinstance(content, OlmEncryptedContent):
                return content
            if isinstance(content, MegolmEncryptedContent):
                raise Refusal(Reason.WRONG_ALGORITHM, "the draft of 2015 does not know Megolm", "algorithm")
            detail = f"the algorithm {quoted(content.algorithm)} is not known"
            raise Refusal(Reason.UNSUPPORTED_ALGORITHM, detail, "algorithm")

        if self.event.type != ENCRYPTED:
            detail = f"{quoted(self.event.type)} is not an encrypted event"
            self.fail(RoomPayloadCheck.ENVELOPE, Reason.NOT_ENCRYPTED, detail, "event", "type")
            return None
        return self.trying(RoomPayloadCheck.ENVELOPE, read, "event", "content")

    def _message(self, envelope: OlmEncryptedContent) -> OlmCiphertext | None:
        """Return the message for this device."""

        def read() -> OlmCiphertext:
            message = envelope.my_ciphertext(self.own_key)
            header = message.pre_key_header
            if header is not None and header.identity_key != envelope.sender_key:
                detail = "the message is from another identity key than the content says"
                raise Refusal(Reason.SENDER_KEY_MISMATCH, detail, "sender_key")
            return message

        return self.trying(RoomPayloadCheck.ENVELOPE, read, "event", "content")

    def _sender(self, sender_key: Curve25519PublicKey) -> VerifiedDevice | None:
        """Return the device that has sent it."""
        check, at = RoomPayloadCheck.SENDER_DEVICE, ("event", "content", "sender_key")
        if sender_key == self.own_key:
            # This device sends nothing to itself, and nobody else has its key.
            detail = "the message is from this device itself, or from one that claims its key"
            self.fail(check, Reason.KEY_REUSED, detail, *at)
            return None
        text = sender_key.to_base64()
        claiming = Participant(key=text, devices=self.devices.every.get(text, ()))
        if text not in self.devices.expected:
            detail = f"nobody expected the device with this sender_key: {claiming.label}"
            self.fail(check, Reason.UNEXPECTED_PARTICIPANT, detail, *at)
        if len(claiming.devices) > 1:
            detail = f"more than one device claims the sender_key: {claiming.label}"
            self.fail(check, Reason.KEY_REUSED, detail, *at)
        if claiming.devices and all(device.user_id != self.event.sender for device in claiming.devices):
            detail = f"the sender_key is that of {claiming.label}, the event from {quoted(self.event.sender)}"
            self.fail(check, Reason.SENDER_MISMATCH, detail, "event", "sender")
        return claiming.devices[0] if claiming.devices else None

    def _check_inside(self, tree: dict[str, Any], event_type: str | None, room_id: str | None) -> None:
        if room_id is not None and room_id != self.event.room_id:
            detail = f"the message was sent in {quoted(room_id)}, and delivered in {quoted(self.event.room_id)}"
            self.fail(RoomPayloadCheck.ROOM, Reason.ROOM_MISMATCH, detail, "plaintext", "room_id")
        if STATE_KEY in tree:
            self.fail(RoomPayloadCheck.STATE, Reason.STATE_EVENT, NO_STATE, "plaintext", STATE_KEY)
        if event_type == ENCRYPTED:
            detail = "it is encrypted once more"
            self.fail(RoomPayloadCheck.INSIDE, Reason.NESTED_ENCRYPTION, detail, "plaintext", "type")

    def _fingerprint(self, tree: dict[str, Any]) -> bytes | None:
        """Return the bytes of the fingerprint, ``None`` if none is stated, nothing in them if it is malformed."""

        def read() -> bytes:
            raw = unpadded_base64.decode(opaque_string(stated, "fingerprint"))
            if raw is None:
                raise Refusal(Reason.INVALID_BASE64, "the fingerprint is not unpadded base64", "fingerprint")
            if len(raw) != _DIGEST_BYTES:
                detail = f"a fingerprint has {_DIGEST_BYTES} bytes, not {len(raw)}"
                raise Refusal(Reason.WRONG_LENGTH, detail, "fingerprint")
            return raw

        stated = tree.get("fingerprint", "")
        if type(stated) is str and not stated:
            return None
        return self.trying(RoomPayloadCheck.FINGERPRINT, read, "plaintext") or b""

    def _participants(
        self, envelope: OlmEncryptedContent | None, fingerprint: bytes | None
    ) -> ParticipantReport | None:
        """Return who takes part."""
        if envelope is None:
            return None
        report = compare_participants(envelope, fingerprint, self.devices)
        if report.fingerprint is FingerprintState.MISMATCH and fingerprint:
            detail = f"the fingerprint is not that of the expected participants{_difference(report)}"
            self.fail(RoomPayloadCheck.FINGERPRINT, Reason.UNEXPECTED_PARTICIPANT, detail, "plaintext", "fingerprint")
        if report.delivered.unexpected and report.fingerprint is not FingerprintState.MATCH:
            detail = f"nobody expected {named(report.delivered.unexpected)} to take part"
            self.fail(RoomPayloadCheck.PARTICIPANTS, Reason.UNEXPECTED_PARTICIPANT, detail, "event", "content")
        return report

    def _refused(self, report: ParticipantReport | None) -> RoomPayloadJudgment:
        return RoomPayloadJudgment(event=None, failed=self.in_order(), participants=report)


def _difference(report: ParticipantReport) -> str:
    """Return how the fingerprint is explained, as the rest of a sentence."""
    if report.stated is None:
        return ""
    sides = {"with": report.stated.unexpected, "without": report.stated.missing}
    return "; it is, " + " and ".join([f"{word} {named(who)}" for word, who in sides.items() if who])
