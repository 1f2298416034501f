"""People in a room of 2015, for tests: Alice writes from her phone, Bob reads at his desk, Mallory should not be there.

``said()`` is an event that is as it should be, with what came out of it for Bob::

    it = said()
    it.payload["room_id"] = "!other:a.example"   # change one thing of what is inside, or of it.event around it
    it.judged()                                  # a RoomPayloadJudgment

The messages are empty shells. tests/legacy/test_room_payload_checks.py has real ones, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from attrs import define

from matrix_e2e_keys.events.encrypted import OlmCiphertext, OlmEncryptedContent
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.legacy.room_judgments import RoomPayloadJudgment
from matrix_e2e_keys.legacy.room_payload_checks import check_room_payload
from matrix_e2e_keys.legacy.room_payloads import LegacyRoomPayload
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.signing.signers import sign_json
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key

ROOM = "!room:a.example"
ALICE, BOB, MALLORY = (SampleUser(name) for name in ("@alice:a.example", "@bob:b.example", "@mallory:m.example"))


def device(user: SampleUser, device_id: str, *, key: Curve25519PublicKey | None = None) -> VerifiedDevice:
    """A device; with the Olm identity key of another one, if told."""
    built = DeviceKeys.build(
        user_id=user.user_id,
        device_id=device_id,
        curve25519_key=key or sample_curve25519_key(f"{user.user_id} {device_id}"),
        signer=user.device_signer(device_id),
    )
    return built.verify()


def without_olm(user: SampleUser, device_id: str) -> VerifiedDevice:
    signer = user.device_signer(device_id)
    obj: dict[str, Any] = {
        "user_id": user.user_id,
        "device_id": device_id,
        "algorithms": [],
        "keys": {f"ed25519:{device_id}": signer.public_key.to_base64()},
    }
    return DeviceKeys.from_json(sign_json(obj, entity=user.user_id, signer=signer)).verify()


PHONE, LAPTOP = device(ALICE, "PHONE"), device(ALICE, "LAPTOP")
DESK, TABLET = device(BOB, "DESK"), device(BOB, "TABLET")
EVIL = device(MALLORY, "EVIL")


def key_of(of: VerifiedDevice) -> Curve25519PublicKey:
    assert of.curve25519_key is not None
    return of.curve25519_key


def text_of(of: VerifiedDevice) -> str:
    return key_of(of).to_base64()


def shell(message_type: int = 1, identity_key: Curve25519PublicKey | None = None) -> OlmCiphertext:
    """A message of the right form, with nothing in it."""

    def field(tag: int, value: bytes) -> bytes:
        return bytes([tag, len(value)]) + value

    normal = b"\x03" + field(0x0A, b"r" * 32) + b"\x10\x00" + field(0x22, b"c" * 16) + b"m" * 8
    if message_type == 1:
        return OlmCiphertext.from_parts(1, normal)
    assert identity_key is not None
    keys = (sample_curve25519_key("one-time"), sample_curve25519_key("base"), identity_key)
    opening = b"".join(field(tag, key.raw) for tag, key in zip((0x0A, 0x12, 0x1A), keys, strict=True))
    return OlmCiphertext.from_parts(0, b"\x03" + opening + field(0x22, normal))


def envelope(sender: VerifiedDevice, recipients: Iterable[VerifiedDevice]) -> OlmEncryptedContent:
    return OlmEncryptedContent.build(
        sender_key=key_of(sender), messages={key_of(recipient): shell() for recipient in recipients}
    )


@define
class Said:
    """An event for Bob's desk, and what came out of it."""

    event: dict[str, Any]
    payload: dict[str, Any]

    def judged(
        self,
        *,
        plaintext: bytes | bytearray | None = None,
        own: VerifiedDevice = DESK,
        expected: Iterable[VerifiedDevice] = (PHONE, DESK, TABLET),
        known: Iterable[VerifiedDevice] = (),
    ) -> RoomPayloadJudgment:
        inside = json.dumps(self.payload).encode() if plaintext is None else plaintext
        return check_room_payload(
            RoomEvent.from_json(self.event), cast("bytes", inside), own=own, expected=expected, known=known
        )


def said(
    *,
    to: Iterable[VerifiedDevice] = (DESK, TABLET),
    hashed: Iterable[VerifiedDevice] = (PHONE, DESK, TABLET),
    sender: VerifiedDevice = PHONE,
) -> Said:
    """What a device says: for whom it is, and whom it states in the fingerprint."""
    payload = LegacyRoomPayload.build(
        event_type="m.room.message",
        content={"body": "hello"},
        room_id=ROOM,
        participants=[key_of(it) for it in hashed],
    )
    event: dict[str, Any] = {
        "type": "m.room.encrypted",
        "sender": sender.user_id,
        "content": envelope(sender, to).to_json(),
        "room_id": ROOM,
        "event_id": "$1",
        "origin_server_ts": 1,
    }
    return Said(event, payload.to_json())
