"""What comes of an Olm message after it was decrypted: an event, or the checks that it did not pass.

Specification: client-server API, "Validation of incoming decrypted events".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from attrs import frozen

from matrix_e2e_keys.client.receive.sender_values import OlmSender
from matrix_e2e_keys.errors import quoted
from matrix_e2e_keys.events.judgments import Judgment
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.sealed import Sealed, constructor_of

__all__ = ["DecryptedOlmEvent", "OlmCheck", "OlmJudgment", "new_decrypted_event"]


class OlmCheck(enum.StrEnum):
    """A check of a decrypted Olm event. Those with a number are numbered in the specification."""

    ENVELOPE = "envelope"
    """It is an ``m.room.encrypted`` of Olm, with a message for this device, whose pre-key names the ``sender_key``."""
    PLAINTEXT = "plaintext"
    """What came out is an event, an object with a type and a content."""
    SENDER = "sender"
    """``sender`` is the sender of the event around it (check 1 of the specification)."""
    KEYS = "keys"
    """``keys.ed25519`` is the signing key of the sending device (check 2 of the specification)."""
    RECIPIENT = "recipient"
    """``recipient`` is this user (check 3 of the specification)."""
    RECIPIENT_KEYS = "recipient-keys"
    """``recipient_keys.ed25519`` is the signing key of this device (check 4 of the specification)."""
    DEVICE_KEYS = "sender-device-keys"
    """``sender_device_keys`` are device keys, if they are there; and they are where they have to be (check 5 of the
    specification)."""
    DEVICE_KEYS_USER = "sender-device-keys-user"
    """``sender_device_keys`` are those of the sender of the event (check 5.1 of the specification)."""
    DEVICE_KEYS_CURVE25519 = "sender-device-keys-curve25519"
    """Their Olm identity key is the ``sender_key`` of the event (check 5.2 of the specification)."""
    DEVICE_KEYS_ED25519 = "sender-device-keys-ed25519"
    """Their signing key is ``keys.ed25519`` (check 5.3 of the specification)."""
    DEVICE_KEYS_SIGNATURE = "sender-device-keys-signature"
    """The device signed ``sender_device_keys`` (check 5.4 of the specification)."""
    SENDER_DEVICE = "sender-device"
    """The device is not this one, and not one that only receives; and it does not go by the name of another one."""
    INSIDE = "inside"
    """What is inside is no state event, and not encrypted once more."""


@frozen(repr=False)
class DecryptedOlmEvent(metaclass=Sealed):
    """An event that came out of an Olm message and passed every check. Only :func:`check_olm_event` makes one.

    Attributes:
        type: the type of the event inside.
        content: its content, as the sender wrote it.
        sender: who has sent it, and how sure one is.
        one_time_key: which of one's own one-time or fallback keys a pre-key message was made with; ``None`` if it is a
            normal message. Tell :meth:`~matrix_e2e_keys.KeySupply.receive_use`.
        extra: what else stood in the plaintext. Nothing of it was checked.
    """

    type: str
    content: Mapping[str, Any]
    sender: OlmSender
    one_time_key: Curve25519PublicKey | None
    extra: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<DecryptedOlmEvent {quoted(self.type)} of {self.sender!r}>"


new_decrypted_event: Final = constructor_of(DecryptedOlmEvent)


@frozen(kw_only=True)
class OlmJudgment(Judgment[DecryptedOlmEvent, OlmCheck]):
    """What the checks of an Olm event said.

    Attributes:
        event: the event, if it passed all of them.
        failed: the checks that it did not pass, in the order of :class:`OlmCheck`. Paths lead into the plaintext; with
            :attr:`OlmCheck.ENVELOPE` into the content around it.
    """

    event_kind: ClassVar[type] = DecryptedOlmEvent
