"""What a client knows of one user's keys, from one answer to the next, and over restarts.

Specification: client-server API, "Tracking the device list for a user".

Facts:

* A value, and the same whoever made it: devices that signed themselves, an identity that is consistent, and devices
  that are cross-signed by *that* identity. What is restored is verified again; storage is not trusted with that.
* What stands beside what is signed is anybody's. What is stored of it, canonical JSON can hold.
* A device that is gone is remembered with its signing key. If its id comes back with another key, that shows.
* What the user decided about a device belongs to the device's signing key, not to its id.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import evolve, field, frozen

from matrix_e2e_keys.client.users.identity import IdentityPin
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, json_pointer, quoted, raised_as
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import parse_user_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice, verify_devices
from matrix_e2e_keys.models.stored_forms import stored_form
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["KnownUser", "LocalTrust", "check_known_users"]

_IDENTITY_KEYS: Final = ("master_key", "self_signing_key", "user_signing_key")


class LocalTrust(enum.StrEnum):
    """What the user decided about a single device, whoever has signed it."""

    UNSET = "unset"
    """Nothing. Trust follows from signatures."""
    VERIFIED = "verified"
    """Its keys were compared, on the device itself."""
    BLACKLISTED = "blacklisted"
    """Nothing is sent to it."""
    IGNORED = "ignored"
    """It is sent to like a verified one, though nobody has verified it."""


@frozen(kw_only=True, repr=False)
class KnownUser:
    """What is known of one user's keys.

    Attributes:
        user_id: the user.
        devices: device id to device. Each signed itself, and is marked as cross-signed if ``identity`` signed it.
        removed_devices: device id to the signing key of a device that was there once.
        identity: the identity that was seen last.
        pin: what one makes of that identity.
        local_trust: what the user decided about single devices, by their signing key; see :meth:`trust_of`.
        has_refused_identity: whether the last answer held cross-signing keys of the user that were refused.
        collision: a device id that is also one of the user's cross-signing keys. Nobody must verify this user.
    """

    user_id: str
    devices: Mapping[str, VerifiedDevice] = field(factory=dict)
    removed_devices: Mapping[str, Ed25519PublicKey] = field(factory=dict)
    identity: UserIdentity | None = None
    pin: IdentityPin = field(factory=IdentityPin)
    local_trust: Mapping[Ed25519PublicKey, LocalTrust] = field(factory=dict)
    has_refused_identity: bool = False
    collision: str | None = None

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError, "user_id"):
            parse_user_id(self.user_id)
        identity = self.identity
        if identity is not None and (type(identity) is not UserIdentity or identity.user_id != self.user_id):
            raise LocalProtocolError(Reason.WRONG_TYPE, "the identity must be one of this user", path="/identity")
        if type(self.pin) is not IdentityPin or self.pin.current != (identity and identity.master_public_key):
            raise LocalProtocolError(Reason.INVALID_VALUE, "the pin is not that of this identity", path="/pin")
        if type(self.has_refused_identity) is not bool:
            raise LocalProtocolError(Reason.WRONG_TYPE, "an identity is refused or not", path="/has_refused_identity")
        if self.collision is not None and type(self.collision) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a device id must be a string", path="/collision")
        signer = None if identity is None else identity.self_signing_public_key
        for device_id, device in _items(self.devices, "devices", str, VerifiedDevice):
            if (device.user_id, device.device_id) != (self.user_id, device_id):
                detail = f"{device!r} stands under the name of another device"
                raise LocalProtocolError(Reason.DEVICE_ID_MISMATCH, detail, path=json_pointer(["devices", device_id]))
            if device.cross_signed_by not in (None, signer):
                detail = "the device is cross-signed by another identity than that of this user"
                raise LocalProtocolError(Reason.INVALID_VALUE, detail, path=json_pointer(["devices", device_id]))
        for name, kinds in (
            ("devices", (str, VerifiedDevice)),
            ("removed_devices", (str, Ed25519PublicKey)),
            ("local_trust", (Ed25519PublicKey, LocalTrust)),
        ):
            value = dict(_items(getattr(self, name), name, *kinds))
            object.__setattr__(self, name, FrozenMap(value))

    @property
    def cross_signed_devices(self) -> frozenset[str]:
        """The ids of the devices that the identity signed."""
        return frozenset([device_id for device_id, device in self.devices.items() if device.is_cross_signed])

    def trust_of(self, device_id: str) -> LocalTrust:
        """Return what the user decided about a device.

        Raises:
            LocalProtocolError: the device id is not a string.
        """
        _check_device_id(device_id)
        device = self.devices.get(device_id)
        return LocalTrust.UNSET if device is None else self.local_trust.get(device.ed25519_key, LocalTrust.UNSET)

    def device_with(self, curve25519_key: Curve25519PublicKey) -> VerifiedDevice | None:
        """Return the device whose Olm identity key this is; ``None`` if there is none, or more than one.

        A key that two devices claim names neither: one of them has it from the other.
        """
        found = [device for device in self.devices.values() if device.curve25519_key == curve25519_key]
        return found[0] if len(found) == 1 else None

    def with_trust(self, ed25519_key: Ed25519PublicKey, trust: LocalTrust) -> KnownUser:
        """Return the user with a decision about the device that has this signing key, now or later.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(ed25519_key) is not Ed25519PublicKey or type(trust) is not LocalTrust:
            raise LocalProtocolError(Reason.WRONG_TYPE, "an Ed25519PublicKey and a LocalTrust are needed")
        others = {key: of for key, of in self.local_trust.items() if key != ed25519_key}
        return evolve(self, local_trust=others if trust is LocalTrust.UNSET else {**others, ed25519_key: trust})

    def with_pin(self, pin: IdentityPin) -> KnownUser:
        """Return the user with another pin."""
        return self if pin == self.pin else evolve(self, pin=pin)

    def without_device(self, device_id: str) -> KnownUser:
        """Return the user as if the device had never been there; what was decided about its key stays.

        After its signing key changed, its new key is refused for as long as the old one is known. If the user says that
        the change is right (an app was installed anew under the old device id), this makes room for the new one.

        Raises:
            LocalProtocolError: the device id is not a string.
        """
        _check_device_id(device_id)
        return evolve(
            self,
            devices={name: device for name, device in self.devices.items() if name != device_id},
            removed_devices={name: key for name, key in self.removed_devices.items() if name != device_id},
        )

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. Everything in it is public but the decisions.

        Of what stands beside what is signed, only signatures by users are in it, and the display names of devices.
        """
        return {
            "user_id": self.user_id,
            "devices": {device_id: stored_form(device.keys) for device_id, device in self.devices.items()},
            "removed_devices": {device_id: key.to_base64() for device_id, key in self.removed_devices.items()},
            "identity": None if self.identity is None else _identity_to_json(self.identity),
            "pin": self.pin.to_json(),
            "local_trust": {key.to_base64(): str(trust) for key, trust in self.local_trust.items()},
            "has_refused_identity": self.has_refused_identity,
            "collision": self.collision,
        }

    @classmethod
    def from_json(cls, obj: object, *, verifier: Verifier = LIBSODIUM) -> KnownUser:
        """Restore what was known. All signatures are checked again.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        return cls.restore(Stored(obj), verifier)

    @classmethod
    def restore(cls, stored: Stored, verifier: Verifier) -> KnownUser:
        """Internal: :meth:`from_json` for a user who is part of something."""
        check_verifier(verifier)
        user_id = stored.member("user_id", str)
        kept = stored.optional("identity")
        identity = None if kept is None else _restore_identity(kept, verifier)
        devices = _restore_devices(stored, identity, verifier)
        removed: dict[str, Ed25519PublicKey] = {}
        for device_id, text in stored.items("removed_devices", str):
            with stored.reading("removed_devices", device_id):
                removed[device_id] = Ed25519PublicKey.from_base64(text)
        local_trust: dict[Ed25519PublicKey, LocalTrust] = {}
        for text, trust in stored.items("local_trust", str):
            with stored.reading("local_trust", text):
                local_trust[Ed25519PublicKey.from_base64(text)] = _local_trust(trust)
        pin = IdentityPin.restore(stored.object("pin"))
        has_refused_identity = stored.member("has_refused_identity", bool)
        collision = stored.member("collision", str, type(None))
        with stored.reading():
            return cls(
                user_id=user_id,
                devices=devices,
                removed_devices=removed,
                identity=identity,
                pin=pin,
                local_trust=local_trust,
                has_refused_identity=has_refused_identity,
                collision=collision,
            )

    def __repr__(self) -> str:
        return f"<KnownUser {quoted(self.user_id)}, {len(self.devices)} devices, identity {self.pin.state}>"


def check_known_users(known: object) -> Mapping[str, KnownUser]:
    """Internal: take what a caller knows of users.

    Raises:
        LocalProtocolError: it is not a mapping of user ids to :class:`KnownUser`, each under its own name.
    """
    for user_id, user in _items(known, "known", str, KnownUser):
        if user.user_id != user_id:
            detail = f"{user!r} stands under the name of another user"
            raise LocalProtocolError(Reason.USER_ID_MISMATCH, detail, path=json_pointer(["known", user_id]))
    return known  # type: ignore[return-value]  # that is what has just been checked


def _items(value: object, name: str, key_kind: type, value_kind: type) -> Iterable[tuple[Any, Any]]:
    """Yield the items of a mapping, once it is known to hold nothing else than what it should."""
    if not isinstance(value, Mapping):
        raise LocalProtocolError(Reason.WRONG_TYPE, f"{name} must be a mapping", path=json_pointer([name]))
    for key, item in value.items():
        if type(key) is not key_kind or type(item) is not value_kind:
            detail = f"{name} is a mapping of {key_kind.__name__} to {value_kind.__name__}"
            raise LocalProtocolError(Reason.WRONG_TYPE, detail, path=json_pointer([name]))
    return value.items()


def _check_device_id(device_id: object) -> None:
    if type(device_id) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a device id must be a string", path="/device_id")


def _local_trust(text: str) -> LocalTrust:
    if text not in list(LocalTrust):
        raise LocalProtocolError(Reason.INVALID_VALUE, "this is no decision about a device")
    return LocalTrust(text)


def _identity_to_json(identity: UserIdentity) -> JsonObject:
    keys = {name: getattr(identity, name) for name in _IDENTITY_KEYS}
    return {name: None if key is None else stored_form(key) for name, key in keys.items()}


def _restore_identity(stored: Stored, verifier: Verifier) -> UserIdentity:
    keys: dict[str, Any] = {}
    for name in _IDENTITY_KEYS:
        kept = stored.member(name, dict, *([type(None)] if name == "user_signing_key" else []))
        with stored.reading(name):
            keys[name] = None if kept is None else CrossSigningKey.from_json(kept)
    with stored.reading():
        return UserIdentity.verify(**keys, verifier=verifier)


def _restore_devices(stored: Stored, identity: UserIdentity | None, verifier: Verifier) -> dict[str, VerifiedDevice]:
    read: dict[str, DeviceKeys] = {}
    for device_id, obj in stored.items("devices", dict):
        with stored.reading("devices", device_id):
            read[device_id] = DeviceKeys.from_json(obj)
    verdicts = verify_devices(list(read.values()), [identity] * len(read), verifier)
    devices: dict[str, VerifiedDevice] = {}
    for device_id, (verdict, _) in zip(read, verdicts, strict=True):
        with stored.reading("devices", device_id):
            if isinstance(verdict, Refusal):
                raise verdict
            devices[device_id] = verdict
    return devices
