"""The keys of a homeserver's users, in memory: what a database has to do, in as few words as possible.

Facts:

* :meth:`MemoryStore.apply` does all effects or none. An effect whose precondition does not hold refuses the whole.
* Views are made anew at each call; nobody can change the store through one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, Final, Self

from attrs import define, field

from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.homeserver.admission.keys_upload import UploadView
from matrix_e2e_keys.homeserver.claims.local_claims import DeviceKeyPool, PooledKey
from matrix_e2e_keys.homeserver.effects import (
    NOTICES,
    DeleteDevice,
    DropCrossSigningKey,
    DropSignaturesBy,
    DropSignaturesOn,
    Effect,
    ForgetOneTimeKeys,
    IfUnchanged,
    MarkFallbackKeyUsed,
    StoreCrossSigningKey,
    StoreDevice,
    StoreDeviceKeys,
    StoreFallbackKey,
    StoreOneTimeKeys,
    StoreSignature,
    TakeOneTimeKey,
)
from matrix_e2e_keys.homeserver.stored_keys import (
    USAGES,
    DeviceRecord,
    FallbackKeyRecord,
    StoredKey,
    UserKeys,
    UserSignature,
    algorithm_of,
    is_called_like,
    key_digest,
)
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.stored import Stored

__all__ = ["MemoryStore"]

_VERSION: Final = 1
_CHANGES: Final = (StoreDevice, DeleteDevice, StoreDeviceKeys, StoreCrossSigningKey, DropCrossSigningKey)
"""What a decision may depend on that was made before."""
_OF_USERS: Final = (StoreDevice, DeleteDevice, DropSignaturesBy, StoreCrossSigningKey, DropCrossSigningKey)
_OF_DEVICES: Final = (
    StoreDeviceKeys,
    StoreOneTimeKeys,
    ForgetOneTimeKeys,
    StoreFallbackKey,
    TakeOneTimeKey,
    MarkFallbackKeyUsed,
)


@define
class _Device:
    display_name: str | None = None
    keys: SignedJson | None = None
    pool: dict[str, PooledKey] = field(factory=dict)
    given: dict[str, str] = field(factory=dict)
    """Digest to id of what was given away; no id if the device began anew since."""
    fallback_keys: dict[str, FallbackKeyRecord] = field(factory=dict)

    def __deepcopy__(self, memo: object) -> _Device:
        """Return a copy that can be changed; the values in it cannot."""
        return _Device(self.display_name, self.keys, dict(self.pool), dict(self.given), dict(self.fallback_keys))


@define
class _User:
    devices: dict[str, _Device] = field(factory=dict)
    keys: dict[str, CrossSigningKey] = field(factory=dict)
    earlier: set[str] = field(factory=set)
    signatures: dict[str, UserSignature] = field(factory=dict)
    """Signed user to signature."""
    revision: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _User:
        """Return a copy that can be changed; the values in it cannot."""
        devices = {name: deepcopy(device, memo) for name, device in self.devices.items()}
        return _User(devices, dict(self.keys), set(self.earlier), dict(self.signatures), self.revision)

    def view(self, user_id: str) -> UserKeys:
        return UserKeys(
            user_id=user_id,
            devices={
                name: DeviceRecord(device_id=name, keys=device.keys, display_name=device.display_name)
                for name, device in self.devices.items()
            },
            master_key=self.keys.get("master"),
            self_signing_key=self.keys.get("self_signing"),
            user_signing_key=self.keys.get("user_signing"),
            earlier_keys=frozenset(self.earlier),
            signatures=tuple(self.signatures.values()),
            revision=self.revision,
        )


def _conflict(detail: str) -> LocalProtocolError:
    return LocalProtocolError(Reason.WRONG_STATE, detail, path="/effects")


@define
class MemoryStore:
    """The store. Made empty, or by :meth:`from_json`."""

    _users: dict[str, _User] = field(factory=dict, init=False)
    _uploads: int = field(default=0, init=False)
    """How many uploads of one-time keys there were."""

    # ----------------------------------------------------------------------------------------------------------
    # Views
    # ----------------------------------------------------------------------------------------------------------

    @property
    def user_ids(self) -> frozenset[str]:
        """Everybody who has logged in."""
        return frozenset(self._users)

    def user(self, user_id: str) -> UserKeys | None:
        """Return the devices and the identity of a user, ``None`` if nobody has logged in under that name."""
        user = self._users.get(user_id)
        return None if user is None else user.view(user_id)

    def users(self, user_ids: Iterable[str]) -> dict[str, UserKeys]:
        """Return those of some users who have logged in."""
        return {user_id: self._users[user_id].view(user_id) for user_id in user_ids if user_id in self._users}

    def upload_view(self, user_id: str, device_id: str | None) -> UploadView:
        """Return what an upload of keys is decided on."""
        user = self._users.get(user_id, _User())
        device = user.devices.get(device_id or "", _Device())
        held = {key_digest(pooled.key): key_id for key_id, pooled in device.pool.items()}
        return UploadView(
            user=user.view(user_id),
            one_time_keys={key_id: pooled.key for key_id, pooled in device.pool.items()},
            counts=_counts(device),
            claimed={key_id: digest for digest, key_id in device.given.items() if key_id},
            digests={**device.given, **held},
            fallback_keys=device.fallback_keys,
        )

    def pool(self, user_id: str, device_id: str) -> DeviceKeyPool | None:
        """Return what a claim is decided on, ``None`` if there is no such device."""
        device = self._device(user_id, device_id)
        if device is None:
            return None
        return DeviceKeyPool(one_time_keys=tuple(device.pool.values()), fallback_keys=device.fallback_keys)

    def counts(self, user_id: str, device_id: str) -> Mapping[str, int]:
        """Return algorithm to number of unclaimed one-time keys."""
        device = self._device(user_id, device_id)
        return {} if device is None else _counts(device)

    def fallback_keys(self, user_id: str, device_id: str) -> Mapping[str, FallbackKeyRecord]:
        """Return algorithm to fallback key."""
        device = self._device(user_id, device_id)
        return {} if device is None else dict(device.fallback_keys)

    def _device(self, user_id: str, device_id: str) -> _Device | None:
        user = self._users.get(user_id)
        return None if user is None else user.devices.get(device_id)

    # ----------------------------------------------------------------------------------------------------------
    # Effects
    # ----------------------------------------------------------------------------------------------------------

    def apply(self, effects: Iterable[Effect]) -> None:
        """Do all of some effects, in order. Notices are for others.

        Raises:
            LocalProtocolError: one of them does not hold, or is none. Nothing is changed.
        """
        if not isinstance(effects, Iterable):
            raise LocalProtocolError(Reason.WRONG_TYPE, "effects are needed", path="/effects")
        touched: dict[str, _User] = {}
        changed: set[str] = set()
        """Those of whom something changed that other decisions depend on."""
        uploads = self._uploads
        for effect in effects:
            if isinstance(effect, NOTICES):
                continue
            if isinstance(effect, _CHANGES):
                changed.add(effect.user_id)
            if isinstance(effect, _OF_DEVICES):
                device = self._to_change(effect.user_id, touched).devices.get(effect.device_id)
                if device is None:
                    raise _conflict(f"there is no device {quoted(effect.device_id)} of {quoted(effect.user_id)}")
                uploads += 1
                _change_device(device, effect, uploads)
            elif isinstance(effect, IfUnchanged):
                if self._users.get(effect.user_id, _User()).revision != effect.revision:
                    raise _conflict(f"{quoted(effect.user_id)} is not as he was")
            elif isinstance(effect, StoreSignature):
                signature = effect.signature
                signed = touched.get(signature.user_id, self._users.get(signature.user_id, _User()))
                _store_signature(self._to_change(signature.signer_id, touched), signature, signed.keys.get("master"))
            elif isinstance(effect, DropSignaturesOn):
                for user_id, user in self._users.items():
                    if effect.user_id in touched.get(user_id, user).signatures:
                        self._to_change(user_id, touched).signatures.pop(effect.user_id)
            elif isinstance(effect, _OF_USERS):
                _change_user(self._to_change(effect.user_id, touched), effect)
            else:
                raise LocalProtocolError(Reason.WRONG_TYPE, "effects are needed", path="/effects")
        for user_id in touched.keys() & changed:
            touched[user_id].revision += 1
        self._users.update(touched)
        self._uploads = uploads

    def _to_change(self, user_id: str, touched: dict[str, _User]) -> _User:
        if user_id not in touched:
            touched[user_id] = deepcopy(self._users.get(user_id, _User()))
        return touched[user_id]

    # ----------------------------------------------------------------------------------------------------------
    # Storing
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return everything, as plain JSON values."""
        return {
            "version": _VERSION,
            "uploads": self._uploads,
            "users": {user_id: _write_user(user) for user_id, user in self._users.items()},
        }

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read back what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is damaged; ``path`` says where.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        store = cls()
        store._uploads = stored.member("uploads", int)
        store._users = {user_id: _read_user(user) for user_id, user in stored.objects("users")}
        for user_id, user in store._users.items():
            with stored.reading("users", user_id):
                _check_user(user, user_id, store._uploads)
        return store


def _counts(device: _Device) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key_id in device.pool:
        algorithm = algorithm_of(key_id)
        counts[algorithm] = counts.get(algorithm, 0) + 1
    return counts


def _change_user(
    user: _User, effect: StoreDevice | DeleteDevice | DropSignaturesBy | StoreCrossSigningKey | DropCrossSigningKey
) -> None:
    if isinstance(effect, StoreDevice):
        if user.view(effect.user_id).has_key_called(effect.device_id):
            raise _conflict(f"{quoted(effect.device_id)} is a cross-signing key")
        user.devices.setdefault(effect.device_id, _Device()).display_name = effect.display_name
    elif isinstance(effect, DeleteDevice):
        user.devices.pop(effect.device_id, None)
    elif isinstance(effect, DropSignaturesBy):
        user.signatures.clear()
    else:
        _change_identity(user, effect)


def _store_signature(signer: _User, signature: UserSignature, signed: CrossSigningKey | None) -> None:
    key = signer.keys.get("user_signing")
    if key is None or key.key_name != signature.signer_key_id:
        raise _conflict(f"the user-signing key of {quoted(signature.signer_id)} is another")
    if signed is not None and signed.key_name != signature.master_key_id:
        raise _conflict(f"the master key of {quoted(signature.user_id)} is another")
    signer.signatures[signature.user_id] = signature


def _change_identity(user: _User, effect: StoreCrossSigningKey | DropCrossSigningKey) -> None:
    before = user.keys.pop(effect.usage, None)
    if before is not None:
        user.earlier.add(before.key_id.name)
    if isinstance(effect, StoreCrossSigningKey):
        user.earlier.discard(effect.key.key_id.name)
        if any(is_called_like(name, effect.key.key_id.name) for name in user.devices):
            raise _conflict(f"a device is called {quoted(effect.key.key_id.name)}")
        user.keys[effect.usage] = effect.key


def _change_device(
    device: _Device,
    effect: StoreDeviceKeys
    | StoreOneTimeKeys
    | ForgetOneTimeKeys
    | StoreFallbackKey
    | TakeOneTimeKey
    | MarkFallbackKeyUsed,
    upload: int,
) -> None:
    if isinstance(effect, StoreDeviceKeys):
        device.keys = effect.keys
    elif isinstance(effect, StoreOneTimeKeys):
        known = {key_digest(held.key) for held in device.pool.values()} | device.given.keys()
        for key_id, key in effect.keys.items():
            digest = key_digest(key)
            if key_id in device.pool or digest in known:
                raise _conflict(f"{quoted(key_id)} is held, or its key is known")
            known.add(digest)
            device.pool[key_id] = PooledKey(key_id=key_id, key=key, uploaded=upload)
    elif isinstance(effect, ForgetOneTimeKeys):
        device.pool.clear()
        device.fallback_keys.clear()
        device.given = dict.fromkeys(device.given, "")
    elif isinstance(effect, StoreFallbackKey):
        algorithm = algorithm_of(effect.key_id)
        record = device.fallback_keys.get(algorithm)
        if record is None or key_digest(record.key) != key_digest(effect.key):
            device.fallback_keys[algorithm] = FallbackKeyRecord(key_id=effect.key_id, key=effect.key)
    elif isinstance(effect, TakeOneTimeKey):
        held_key = device.pool.get(effect.key_id)
        if held_key is None or key_digest(held_key.key) != effect.digest:
            raise _conflict(f"{quoted(effect.key_id)} is not held any more")
        del device.pool[effect.key_id]
        device.given[effect.digest] = effect.key_id
    else:
        algorithm = algorithm_of(effect.key_id)
        held = device.fallback_keys.get(algorithm)
        if held is None or held.key_id != effect.key_id or key_digest(held.key) != effect.digest:
            raise _conflict(f"{quoted(effect.key_id)} is not the fallback key any more")
        device.fallback_keys[algorithm] = FallbackKeyRecord(key_id=held.key_id, key=held.key, is_used=True)


# --------------------------------------------------------------------------------------------------------------
# Storing
# --------------------------------------------------------------------------------------------------------------


def _write_key(key: StoredKey) -> Any:
    return key if isinstance(key, str) else key.to_json()


def _read_key(value: Any) -> StoredKey:
    return value if type(value) is str else SignedJson.from_json(value)


def _write_user(user: _User) -> dict[str, Any]:
    return {
        "devices": {name: _write_device(device) for name, device in user.devices.items()},
        "keys": {usage: key.to_json() for usage, key in user.keys.items()},
        "earlier": sorted(user.earlier),
        "revision": user.revision,
        "signatures": {
            name: [signed.signer_id, signed.signer_key_id, signed.master_key_id, signed.signature]
            for name, signed in user.signatures.items()
        },
    }


def _read_user(stored: Stored) -> _User:
    user = _User(earlier=set(stored.values("earlier", str)), revision=stored.member("revision", int))
    for name, device in stored.objects("devices"):
        user.devices[name] = _read_device(device)
    for usage, key in stored.items("keys", dict):
        with stored.reading("keys", usage):
            user.keys[usage] = CrossSigningKey.from_json(key)
            if usage not in USAGES or user.keys[usage].usage != usage:
                raise LocalProtocolError(Reason.WRONG_USAGE, "the key has another usage")
    for name, parts in stored.items("signatures", list):
        with stored.reading("signatures", name):
            if len(parts) != 4:
                raise LocalProtocolError(Reason.INVALID_VALUE, "a signature is stored as four strings")
            user.signatures[name] = UserSignature(
                signer_id=parts[0], signer_key_id=parts[1], user_id=name, master_key_id=parts[2], signature=parts[3]
            )
    return user


def _check_user(user: _User, user_id: str, uploads: int) -> None:
    """Refuse what cannot have come about.

    Raises:
        LocalProtocolError: something does not fit.
    """
    view = user.view(user_id)
    for signature in user.signatures.values():
        if signature.signer_id != user_id:
            raise LocalProtocolError(Reason.USER_ID_MISMATCH, "a signature is somebody else's", path="/signatures")
    for name, device in user.devices.items():
        if view.has_key_called(name):
            raise LocalProtocolError(
                Reason.IDENTIFIER_COLLISION, f"{quoted(name)} is a cross-signing key", path="/devices"
            )
        if any(held.uploaded > uploads for held in device.pool.values()):
            raise LocalProtocolError(Reason.INVALID_VALUE, "an upload is later than the last", path="/devices")
        if any(algorithm_of(held.key_id) != algorithm for algorithm, held in device.fallback_keys.items()):
            raise LocalProtocolError(Reason.INVALID_KEY_ID, "a fallback key is of another algorithm", path="/devices")


def _write_device(device: _Device) -> dict[str, Any]:
    return {
        "display_name": device.display_name,
        "keys": None if device.keys is None else device.keys.to_json(),
        "one_time_keys": {key_id: [held.uploaded, _write_key(held.key)] for key_id, held in device.pool.items()},
        "given": dict(device.given),
        "fallback_keys": {
            algorithm: {"key_id": held.key_id, "key": _write_key(held.key), "is_used": held.is_used}
            for algorithm, held in device.fallback_keys.items()
        },
    }


def _read_device(stored: Stored) -> _Device:
    device = _Device(
        display_name=stored.member("display_name", str, type(None)), given=dict(stored.items("given", str))
    )
    keys = stored.member("keys", dict, type(None))
    if keys is not None:
        with stored.reading("keys"):
            device.keys = SignedJson.from_json(keys)
    for key_id, parts in stored.items("one_time_keys", list):
        with stored.reading("one_time_keys", key_id):
            if len(parts) != 2:
                raise LocalProtocolError(Reason.INVALID_VALUE, "a key is stored with the number of its upload")
            device.pool[key_id] = PooledKey(key_id=key_id, uploaded=parts[0], key=_read_key(parts[1]))
    for algorithm, record in stored.objects("fallback_keys"):
        with stored.reading("fallback_keys", algorithm):
            device.fallback_keys[algorithm] = FallbackKeyRecord(
                key_id=record.member("key_id", str),
                key=_read_key(record.member("key")),
                is_used=record.member("is_used", bool),
            )
    return device
