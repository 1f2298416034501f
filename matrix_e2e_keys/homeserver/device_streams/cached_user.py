"""The copy of the devices and the identity of one user of another server, and how far it goes.

Facts:

* The extremity is the number of the newest update in the copy. The numbers in ``seen`` are of updates that are in the
  copy too, or will be once all devices were asked for: whoever told them had them.
* An update that is applied names updates before it, all of which are in the copy, and is newer than the extremity. So
  one that was long on its way cannot undo what came after it.
* Keys that are malformed, or those of another device, are not stored. The device is there all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import define, evolve, field

from matrix_e2e_keys.endpoints.entries import read_cross_signing_key, read_device
from matrix_e2e_keys.endpoints.federation.edus import DeviceListUpdate
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevice, UserDevicesResponse
from matrix_e2e_keys.errors import Reason, Refusal, quoted
from matrix_e2e_keys.homeserver.device_streams.remote_values import EduReason, ListNotice
from matrix_e2e_keys.homeserver.effects import DeviceChanged, IdentityChanged
from matrix_e2e_keys.homeserver.remote_identity import signed_by_owner, verified_identity
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.json_trees import JsonObject, snapshot
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.outcome import Rejection, rejected
from matrix_e2e_keys.signing.signed_json import SignedJson, parts_of
from matrix_e2e_keys.signing.verifiers import Verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["MAX_DEVICES", "CachedUser", "judged_keys"]

MAX_DEVICES: Final = 1000
_SEEN_MS: Final = 1_800_000
_MAX_SEEN: Final = 256


@define
class CachedUser:
    """The copy.

    Attributes:
        keys: the devices, the master key and the self-signing key.
        extremity: the number of the newest update, ``None`` before the first answer.
        is_stale: whether all devices are to be asked for, or were and the answer is awaited.
        is_overtaken: whether more was told since they were asked for.
    """

    keys: UserKeys
    extremity: int | None = None
    is_stale: bool = True
    is_overtaken: bool = False
    _seen: dict[int, int] = field(factory=dict, init=False)

    # ----------------------------------------------------------------------------------------------------------
    # The chain
    # ----------------------------------------------------------------------------------------------------------

    def objection(self, edu: DeviceListUpdate, now: int) -> EduReason | None:
        """Return why an update cannot be applied, ``None`` if it can."""
        self._seen = {stream_id: since for stream_id, since in self._seen.items() if abs(now - since) < _SEEN_MS}
        if not edu.prev_ids:
            # Some servers number all their updates alike, and name none before: each of them is news.
            return EduReason.NO_PREDECESSOR
        if self._knows(edu.stream_id):
            return EduReason.ALREADY_SEEN
        if self.is_stale or self.extremity is None:
            return EduReason.RESYNC_DUE
        if not all(map(self._knows, edu.prev_ids)):
            # "If a server receives an EDU which refers to a prev_id it does not recognise, it must resynchronise"
            return EduReason.GAP
        return EduReason.OUT_OF_ORDER if edu.stream_id < self.extremity else None

    def _knows(self, stream_id: int) -> bool:
        return stream_id == self.extremity or stream_id in self._seen

    def see(self, stream_id: int, now: int) -> None:
        """Remember the number of an update."""
        self._seen.pop(stream_id, None)
        self._seen[stream_id] = now
        if len(self._seen) > _MAX_SEEN:
            del self._seen[next(iter(self._seen))]

    def forget_seen(self) -> None:
        """Forget all numbers but the newest."""
        self._seen.clear()

    # ----------------------------------------------------------------------------------------------------------
    # What is told
    # ----------------------------------------------------------------------------------------------------------

    def put_device(self, edu: DeviceListUpdate, keys: SignedJson | None) -> tuple[ListNotice, ...]:
        """Take over one device, or that it is gone."""
        devices = dict(self.keys.devices)
        devices.pop(edu.device_id, None)
        if not edu.deleted:
            devices[edu.device_id] = DeviceRecord(
                device_id=edu.device_id, keys=keys, display_name=edu.device_display_name
            )
        self.extremity = edu.stream_id
        return self._take(evolve(self.keys, devices=devices))

    def put_identity(self, master: CrossSigningKey | None, self_signing: CrossSigningKey | None) -> bool:
        """Take over an identity; tell whether it is another."""
        return bool(self._take(evolve(self.keys, master_key=master, self_signing_key=self_signing)))

    def judged_answer(
        self, response: UserDevicesResponse, verifier: Verifier
    ) -> tuple[UserKeys, tuple[Rejection, ...]]:
        """Return all devices and the identity as an answer tells them, and what in it is refused."""
        user_id = self.keys.user_id
        devices, refused = _devices(user_id, response.devices)
        identity = verified_identity(
            user_id,
            master_key=response.master_key,
            self_signing_key=response.self_signing_key,
            known=self.keys,
            verifier=verifier,
        )
        # What is refused leaves what was known in place. What is not there is gone, and nothing stands without a
        # master key.
        master = None if response.master_key is None else identity.master_key
        is_signed = master is not None and response.self_signing_key is not None
        keys = UserKeys(
            user_id=user_id,
            devices=devices,
            master_key=master,
            self_signing_key=identity.self_signing_key if is_signed else None,
        )
        return keys, (*refused, *identity.refused)

    def put_answer(self, keys: UserKeys, stream_id: int) -> tuple[ListNotice, ...]:
        """Take over all devices and the identity."""
        self.extremity = stream_id
        self.is_stale, self.is_overtaken = self.is_overtaken, False
        return self._take(keys)

    def _take(self, keys: UserKeys) -> tuple[ListNotice, ...]:
        """Put other keys in the place of those here, and return what is different."""
        before, self.keys = self.keys, keys
        changed: list[ListNotice] = [
            DeviceChanged(user_id=keys.user_id, device_id=device_id)
            for device_id in {**before.devices, **keys.devices}
            if not _same_device(before.devices.get(device_id), keys.devices.get(device_id))
        ]
        if not (
            _same_key(before.master_key, keys.master_key) and _same_key(before.self_signing_key, keys.self_signing_key)
        ):
            changed.append(IdentityChanged(user_id=keys.user_id))
        return tuple(changed)

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return the copy. Of the numbers, the extremity; what is on its way is to be asked again."""
        master, self_signing = self.keys.master_key, self.keys.self_signing_key
        return {
            "extremity": self.extremity,
            "is_stale": self.is_stale,
            "devices": {
                device_id: {
                    "keys": None if device.keys is None else device.keys.to_json(),
                    "display_name": device.display_name,
                }
                for device_id, device in self.keys.devices.items()
            },
            "master_key": None if master is None else master.to_json(),
            "self_signing_key": None if self_signing is None else self_signing.to_json(),
        }

    @classmethod
    def from_stored(cls, stored: Stored, user_id: str, verifier: Verifier) -> CachedUser:
        """Restore a copy.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        extremity = stored.member("extremity", int, type(None))
        is_stale = stored.member("is_stale", bool) or extremity is None
        devices: dict[str, DeviceRecord] = {}
        for device_id, device in stored.objects("devices"):
            tree, name = device.member("keys", dict, type(None)), device.member("display_name", str, type(None))
            with stored.reading("devices", device_id, "keys"):
                keys = None if tree is None else judged_keys(user_id, device_id, read_device(snapshot(tree)))
                if isinstance(keys, Rejection):
                    raise keys.to_error()
            with stored.reading("devices", device_id):
                devices[device_id] = DeviceRecord(device_id=device_id, keys=keys, display_name=name)
        told: dict[str, CrossSigningKey | None] = {}
        for usage in ("master_key", "self_signing_key"):
            tree = stored.member(usage, dict, type(None))
            with stored.reading(usage):
                told[usage] = None if tree is None else read_cross_signing_key(snapshot(tree))
        identity = verified_identity(
            user_id, master_key=told["master_key"], self_signing_key=told["self_signing_key"], verifier=verifier
        )
        with stored.reading():
            for rejection in identity.refused:
                raise rejection.to_error()
            keys_of_user = UserKeys(
                user_id=user_id,
                devices=devices,
                master_key=identity.master_key,
                self_signing_key=identity.self_signing_key,
            )
        return cls(keys_of_user, extremity, is_stale)


def judged_keys(
    user_id: str, device_id: str, keys: DeviceKeys | Rejection | None, *at: str | int
) -> SignedJson | Rejection | None:
    """Return the keys of a device as they are stored, a rejection if they are not its keys."""
    if keys is None:
        return None
    if isinstance(keys, Rejection):
        refusal, tree = Refusal(keys.reason, keys.detail), keys.raw
    elif keys.user_id != user_id:
        refusal = Refusal(Reason.USER_ID_MISMATCH, f"the keys are those of {quoted(keys.user_id)}", "user_id")
        tree = keys.to_json()
    elif keys.device_id != device_id:
        refusal = Refusal(Reason.DEVICE_ID_MISMATCH, f"the keys are those of {quoted(keys.device_id)}", "device_id")
        tree = keys.to_json()
    else:
        return signed_by_owner(keys.signed, user_id)
    return rejected(refusal, tree, at, user_id=user_id, device_id=device_id)


def _devices(
    user_id: str, told: Iterable[UserDevice | Rejection]
) -> tuple[Mapping[str, DeviceRecord], list[Rejection]]:
    devices: dict[str, DeviceRecord] = {}
    refused: list[Rejection] = []
    for place, device in enumerate(told):
        if isinstance(device, Rejection):
            refused.append(device)
            continue
        if device.device_id in devices:
            refusal = Refusal(Reason.IDENTIFIER_COLLISION, f"{quoted(device.device_id)} is there already", "device_id")
            refused.append(rejected(refusal, device.to_json(), ("devices", place), user_id=user_id))
            continue
        keys = judged_keys(user_id, device.device_id, device.keys, "devices", place, "keys")
        if isinstance(keys, Rejection):
            refused.append(keys)
            keys = None
        name = device.device_display_name
        devices[device.device_id] = DeviceRecord(device_id=device.device_id, keys=keys, display_name=name)
    return devices, refused


def _same_device(one: DeviceRecord | None, other: DeviceRecord | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.display_name == other.display_name and _same_object(one.keys, other.keys)


def _same_key(one: CrossSigningKey | None, other: CrossSigningKey | None) -> bool:
    return _same_object(None if one is None else one.signed, None if other is None else other.signed)


def _same_object(one: SignedJson | None, other: SignedJson | None) -> bool:
    """Tell whether two objects are the same, signatures included."""
    if one is None or other is None:
        return one is other
    return parts_of(one) == parts_of(other)
