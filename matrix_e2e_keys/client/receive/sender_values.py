"""A sender of Olm messages as a value, and the scale of how sure one is of it.

Facts:

* A sender is sealed, and survives a restart. What is restored is checked again, and has to be of one piece; by whom the
  device was cross-signed is not kept, since that is for what is known by then to say.
* A device that one has blacklisted is no verified sender, whoever has signed it.
"""

from __future__ import annotations

import enum
from typing import Final, TypeVar

from attrs import frozen

from matrix_e2e_keys.client.receive.handed_in import check_sender_verifier, verify_device
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted
from matrix_e2e_keys.identifiers import UserId, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.stored_forms import stored_form
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["ONLY_RECEIVES", "OlmSender", "SenderTrust", "names_of", "new_sender"]

AnyEnum = TypeVar("AnyEnum", bound=enum.StrEnum)

ONLY_RECEIVES: Final = "the device of the sender is one that only receives"


class SenderTrust(enum.StrEnum):
    """How sure one is who has sent something. Each is surer than those before, and ``<`` says so; values are stable."""

    UNKNOWN_DEVICE = "unknown-device"
    """One key sent it, and neither the message nor an answer of the server said whose it is. Ask for
    the devices of the sender, and look again."""
    DEVICE_KNOWN = "device-known"
    """A device of that name sent it. Its owner's identity did not sign it, so the server may have made it up; or one
    has blacklisted it."""
    OWNER_CHANGED = "owner-changed"
    """An identity of the sender signed the device; but it is not the one there was, or not the one there is. Or it is
    one that nobody must verify, since a device has the name of one of its keys."""
    UNVERIFIED = "unverified"
    """The identity of the sender signed the device. Nobody has verified that identity, or one's own identity does not
    vouch for it any more; it was trusted on first use."""
    VERIFIED = "verified"
    """The sender is who it says, since one has verified the identity that signed the device, or the device itself."""

    @property
    def level(self) -> int:
        """The place on the scale, 0 for the least sure."""
        return _SCALE.index(self)

    def is_at_least(self, other: SenderTrust) -> bool:
        """Tell whether this is at least as sure as another.

        Raises:
            LocalProtocolError: the other is no SenderTrust.
        """
        return self.level >= _level(other)

    # As strings they would stand in the order of the alphabet.
    def __lt__(self, other: str) -> bool:
        return self.level < _level(other)

    def __le__(self, other: str) -> bool:
        return self.level <= _level(other)

    def __gt__(self, other: str) -> bool:
        return self.level > _level(other)

    def __ge__(self, other: str) -> bool:
        return self.level >= _level(other)


_SCALE: Final = tuple(SenderTrust)


def _level(other: object) -> int:
    if type(other) is not SenderTrust:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a SenderTrust is needed", path="/other")
    return other.level


@frozen(repr=False)
class OlmSender(metaclass=Sealed):
    """Who has sent something through an Olm session. Only a check makes one.

    Attributes:
        user_id: the user, as the plaintext and the event around it say alike.
        curve25519_key: the Olm identity key that the session belongs to.
        ed25519_key: the signing key that the plaintext names.
        trust: how sure one is that this user has sent it.
        device: the device that has both keys, by its own signature; ``None`` if it is not known.
        local_trust: what the user decided about that device.
    """

    user_id: UserId
    curve25519_key: Curve25519PublicKey
    ed25519_key: Ed25519PublicKey
    trust: SenderTrust
    device: VerifiedDevice | None
    local_trust: LocalTrust

    def is_the_same_device_as(self, other: OlmSender) -> bool:
        """Tell whether two senders have the same user and the same two keys, however sure one is of either.

        Raises:
            LocalProtocolError: the other is no OlmSender.
        """
        if type(other) is not OlmSender:
            raise LocalProtocolError(Reason.WRONG_TYPE, "an OlmSender is needed", path="/other")
        return names_of(self) == names_of(other)

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. Everything in it is public."""
        return {
            "user_id": self.user_id,
            "curve25519_key": self.curve25519_key.to_base64(),
            "ed25519_key": self.ed25519_key.to_base64(),
            "trust": str(self.trust),
            "device": None if self.device is None else stored_form(self.device.keys),
            "local_trust": str(self.local_trust),
        }

    @classmethod
    def from_json(cls, obj: object, *, verifier: Verifier = LIBSODIUM) -> OlmSender:
        """Restore what :meth:`to_json` returned. The device's signature is checked again; its owner's is not.

        Raises:
            LocalProtocolError: it is not that, or the verifier has not answered.
        """
        check_sender_verifier(verifier)
        return cls.restore(Stored(obj), verifier)

    @classmethod
    def restore(cls, stored: Stored, verifier: Verifier = LIBSODIUM) -> OlmSender:
        """Internal: restore a sender that is part of something. Whether its owner signed the device is not restored."""
        names = ("user_id", "curve25519_key", "ed25519_key", "trust", "local_trust")
        texts: dict[str, str] = {name: stored.member(name, str) for name in names}
        with stored.reading("user_id"):
            user_id = parse_user_id(texts["user_id"])
        with stored.reading("curve25519_key"):
            curve25519_key = Curve25519PublicKey.from_base64(texts["curve25519_key"])
        with stored.reading("ed25519_key"):
            ed25519_key = Ed25519PublicKey.from_base64(texts["ed25519_key"])
        with stored.reading("trust"):
            trust = _one_of(SenderTrust, texts["trust"], "trust in a sender")
        with stored.reading("local_trust"):
            local_trust = _one_of(LocalTrust, texts["local_trust"], "decision about a device")
        kept = stored.member("device", dict, type(None))
        device: VerifiedDevice | None = None
        if kept is not None:
            with stored.reading("device"):
                device = verify_device(DeviceKeys.from_json(kept), verifier=verifier)
        sender = new_sender(user_id, curve25519_key, ed25519_key, trust, device, local_trust)
        with stored.reading():
            _check_consistent(sender)
        return sender

    def __repr__(self) -> str:
        device = "unknown device" if self.device is None else quoted(self.device.device_id)
        return f"<OlmSender {quoted(self.user_id)}, {device}, {self.trust}>"


new_sender: Final = constructor_of(OlmSender)


def _one_of(kind: type[AnyEnum], text: str, what: str) -> AnyEnum:
    for value in kind:
        if value == text:
            return value
    raise Refusal(Reason.INVALID_VALUE, f"this is no {what}")


def _check_consistent(sender: OlmSender) -> None:
    """Check that a sender could have come out of :func:`identify_sender`, or :func:`reassess_sender`.

    Raises:
        Refusal: it could not.
    """
    device, trust, local_trust = sender.device, sender.trust, sender.local_trust
    if (device is None) is not (trust is SenderTrust.UNKNOWN_DEVICE):
        raise Refusal(Reason.INVALID_VALUE, "only a sender without a device is of an unknown device", "trust")
    if device is None:
        fits = local_trust is LocalTrust.UNSET
    elif local_trust is LocalTrust.VERIFIED:
        fits = trust is SenderTrust.VERIFIED
    else:
        fits = local_trust is not LocalTrust.BLACKLISTED or trust is SenderTrust.DEVICE_KNOWN
    if not fits:
        raise Refusal(Reason.INVALID_VALUE, "this cannot have been decided about this sender", "local_trust")
    if device is not None:
        if (device.user_id, device.curve25519_key, device.ed25519_key) != names_of(sender):
            raise Refusal(Reason.INVALID_VALUE, "the device is not the one that has sent this", "device")
        if device.keys.is_dehydrated:
            raise Refusal(Reason.DEHYDRATED_SENDER, ONLY_RECEIVES, "device")


def names_of(sender: OlmSender) -> tuple[UserId, Curve25519PublicKey | None, Ed25519PublicKey]:
    """Internal: return what makes a sender the same one."""
    return sender.user_id, sender.curve25519_key, sender.ed25519_key
