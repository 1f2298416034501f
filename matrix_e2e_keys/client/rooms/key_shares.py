"""That a device may have the key of an outbound Megolm session, and from which message on.

Specification: client-server API, "Messaging Algorithms" (``m.megolm.v1.aes-sha2``), "Key requests"; Megolm, "The Megolm
ratchet algorithm".

Facts:

* The device is the one with these two keys, whatever its name.
* The counter of the ratchet has 32 bits.
* A device that has the key as a part of the room's history has not got the message that brings it (``m.room_key``).
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from matrix_e2e_keys.client.rooms.arguments import check_device
from matrix_e2e_keys.endpoints.members import boolean, integer
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, raised_as
from matrix_e2e_keys.json_trees import JsonObject, wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.stored import Stored

__all__ = ["ENDED", "KeyShare", "check_index"]

ENDED: Final = 2**32
"""After how many messages a ratchet has come to its end."""


def check_index(value: object, *at: str | int) -> int:
    """Take a message index."""
    index = integer(value, *at)
    if not 0 <= index < ENDED:
        raise Refusal(Reason.INVALID_VALUE, "a message index is an unsigned integer of 32 bits", *at)
    return index


@frozen(kw_only=True)
class KeyShare:
    """That a device may have the key of a session.

    Attributes:
        curve25519_key: the Olm identity key that the key was encrypted for.
        ed25519_key: the signing key of the device at that time.
        message_index: the first message that the device can decrypt.
        is_confirmed: whether the server has taken the ``m.room_key``, so that it need not be sent again.
        is_history_only: whether the device may have the key as a part of the room's history, and no ``m.room_key`` was
            ever about to be sent.
    """

    curve25519_key: Curve25519PublicKey
    ed25519_key: Ed25519PublicKey
    message_index: int
    is_confirmed: bool = False
    is_history_only: bool = False

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError):
            if type(self.curve25519_key) is not Curve25519PublicKey:
                raise wrong_type("curve25519_key must be a Curve25519PublicKey", self.curve25519_key, "curve25519_key")
            if type(self.ed25519_key) is not Ed25519PublicKey:
                raise wrong_type("ed25519_key must be an Ed25519PublicKey", self.ed25519_key, "ed25519_key")
            check_index(self.message_index, "message_index")
            boolean(self.is_confirmed, "is_confirmed")
            if boolean(self.is_history_only, "is_history_only") and self.is_confirmed:
                raise Refusal(Reason.INVALID_VALUE, "no m.room_key was sent that could be confirmed", "is_history_only")

    def is_with(self, device: VerifiedDevice) -> bool:
        """Tell whether a device has the keys that the session was shared with.

        Raises:
            LocalProtocolError: it is no :class:`~matrix_e2e_keys.VerifiedDevice`.
        """
        keys = check_device(device).keys
        return (keys.raw_curve25519, keys.raw_ed25519) == (self.curve25519_key.raw, self.ed25519_key.raw)

    def to_json(self) -> JsonObject:
        """Internal: return the share as a part of what its session stores."""
        return {
            "curve25519_key": self.curve25519_key.to_base64(),
            "ed25519_key": self.ed25519_key.to_base64(),
            "message_index": self.message_index,
            "is_confirmed": self.is_confirmed,
            "is_history_only": self.is_history_only,
        }

    @classmethod
    def restore(cls, stored: Stored) -> KeyShare:
        """Internal: restore what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is not that.
        """
        keys = {name: stored.member(name, str) for name in ("curve25519_key", "ed25519_key")}
        message_index = stored.member("message_index", int)
        is_confirmed = stored.member("is_confirmed", bool)
        is_history_only = stored.member("is_history_only", bool)
        with stored.reading("curve25519_key"):
            curve25519_key = Curve25519PublicKey.from_base64(keys["curve25519_key"])
        with stored.reading("ed25519_key"):
            ed25519_key = Ed25519PublicKey.from_base64(keys["ed25519_key"])
        with stored.reading():
            return cls(
                curve25519_key=curve25519_key,
                ed25519_key=ed25519_key,
                message_index=message_index,
                is_confirmed=is_confirmed,
                is_history_only=is_history_only,
            )
