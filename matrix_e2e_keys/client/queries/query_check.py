"""One judgment of a ``/keys/query`` answer under way: entry by entry, in batches.

The checks are those of ``docs/checks.md``. :func:`~matrix_e2e_keys.check_query` is the way in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from typing import Any, Final

from attrs import define, field

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryResponse
from matrix_e2e_keys.endpoints.entries import raw_of
from matrix_e2e_keys.endpoints.key_maps import KeyMap
from matrix_e2e_keys.errors import Reason, Refusal, json_pointer, quoted
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice, verify_devices
from matrix_e2e_keys.models.user_identity import UserIdentity, verify_identities
from matrix_e2e_keys.outcome import Notice, Rejection, file_rejection, rejected
from matrix_e2e_keys.signing.verifiers import Verifier

__all__ = ["KEY_MAP_PATHS", "QueryCheck"]

_ROLES: Final[tuple[tuple[Usage, str], ...]] = (
    ("master", "master_keys"),
    ("self_signing", "self_signing_keys"),
    ("user_signing", "user_signing_keys"),
)
KEY_MAP_PATHS: Final = frozenset(f"/{name}" for _, name in _ROLES)
_KEY_TEXT: Final = 43
# Batches are small so that what is needed for one only is gone before the garbage collector looks at it.
_BATCH: Final = 128


@define(kw_only=True)
class QueryCheck:
    """One judgment under way."""

    asked: Mapping[str, tuple[str, ...]]
    response: KeysQueryResponse
    verifier: Verifier
    own_user_id: str | None
    known: Mapping[str, KnownUser]
    own_device: DeviceKeys | None
    blocked: dict[str, str] = field(factory=dict)
    identities: dict[str, UserIdentity] = field(factory=dict)
    rejected_keys: list[Rejection] = field(factory=list)
    unsupported_keys: list[Rejection] = field(factory=list)
    devices: dict[str, dict[str, VerifiedDevice]] = field(factory=dict)
    rejected_devices: list[Rejection] = field(factory=list)
    unsupported_devices: list[Rejection] = field(factory=list)
    notices: list[Notice] = field(factory=list)
    changed: dict[str, dict[str, VerifiedDevice]] = field(factory=dict)
    key_maps: list[tuple[Usage, str, KeyMap]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        maps: list[tuple[Usage, str, KeyMap]] = [(role, name, getattr(self.response, name)) for role, name in _ROLES]
        self.key_maps = [each for each in maps if each[2]]  # often some are empty

    def find_collisions(self) -> None:
        """Find users with a device whose id can be taken for one of their cross-signing keys.

        Refused keys and devices count too: whoever resolves a key id by name finds them all the same. So do those that
        are known and stay so: an answer may hold one of the two only. What decides is what the most lenient decoder
        makes of the device id.
        """
        for user_id, devices in self.response.device_keys.items():
            if not isinstance(devices, Rejection):
                self._find_collision(user_id, [it for it in devices if len(it) >= _KEY_TEXT])
        for user_id in self.asked if self.known else ():
            self._find_collision(user_id, self._remembered_device_ids(user_id))

    def _find_collision(self, user_id: str, device_ids: list[str]) -> None:
        raws = self._cross_signing_bytes(user_id) if device_ids else frozenset()  # once a user: keys may be many
        for device_id in device_ids if raws else ():
            if unpadded_base64.decode_loosely(device_id) in raws:
                self.blocked[user_id] = device_id

    def _remembered_device_ids(self, user_id: str) -> list[str]:
        """Return the ids of known devices that could not stand in the answer, if they are long enough for a key."""
        user = self.known.get(user_id)
        if user is None:
            return []
        is_answered = not isinstance(self.response.device_keys.get(user_id), Rejection | None)
        asked = self.asked[user_id]
        known = (*user.devices, *([] if user.collision is None else [user.collision]))
        return [it for it in known if len(it) >= _KEY_TEXT and not (is_answered and (not asked or it in asked))]

    def _cross_signing_bytes(self, user_id: str) -> AbstractSet[bytes | None]:
        """Return the cross-signing keys of a user, known, refused and malformed ones included."""
        user = self.known.get(user_id)
        raws: set[bytes | None] = set() if user is None or user.identity is None else set(user.identity.raw_keys)
        for _, _, key_map in self.key_maps:
            key = key_map.get(user_id)
            if isinstance(key, Rejection):
                raws.update(_anything_like_a_key(key.raw))
            elif key is not None:
                raws.add(key.raw)
        raws.discard(None)
        return raws

    def judge_identities(self, require_prime_order: bool) -> None:
        """Judge all cross-signing keys of the answer."""
        user_ids = iter(dict.fromkeys(chain.from_iterable(key_map for _, _, key_map in self.key_maps)))
        while batch := list(islice(user_ids, _BATCH)):
            given = [(user_id, self._given_keys(user_id)) for user_id in batch]
            verdicts = verify_identities(given, self.verifier, require_prime_order=require_prime_order)
            for user_id, (identity, refusals) in zip(batch, verdicts, strict=True):
                for role, name, key_map in self.key_maps if refusals else ():
                    refusal = refusals.get(role)
                    if refusal is None:
                        continue
                    key = key_map[user_id]
                    rejection = key if isinstance(key, Rejection) else self._rejection(refusal, name, user_id)
                    file_rejection(rejection, self.rejected_keys, self.unsupported_keys)
                if identity is not None:
                    self.identities[user_id] = identity
        self.rejected_keys += [rejection for rejection in self.response.malformed if rejection.path in KEY_MAP_PATHS]

    def _given_keys(self, user_id: str) -> dict[Usage, CrossSigningKey | Refusal]:
        """Return what is offered as the keys of a user; a refusal where a key is out of the question."""
        given: dict[Usage, CrossSigningKey | Refusal] = {}
        of_user = self._user_refusal(user_id)
        for role, _, key_map in self.key_maps:
            if user_id not in key_map:
                continue
            key = key_map[user_id]
            if isinstance(key, Rejection):
                given[role] = Refusal(key.reason, key.detail)
            else:
                given[role] = of_user or self._role_refusal(user_id, role) or key
        return given

    def judge_devices(self) -> None:
        """Judge all devices of the answer."""
        candidates = self._candidates()
        memory = bool(self.known) or self.own_device is not None
        while batch := list(islice(candidates, _BATCH)):
            identities = [self.identities.get(device.user_id) for device in batch]
            for device, (verdict, doubt) in zip(batch, verify_devices(batch, identities, self.verifier), strict=True):
                user_id, device_id = device.user_id, device.device_id
                if memory and not isinstance(verdict, Refusal):
                    verdict = self._unless_changed(verdict)  # noqa: PLW2901 - the last word about this device
                if isinstance(verdict, Refusal):
                    self.rejected_devices.append(self._rejection(verdict, "device_keys", user_id, device_id))
                    continue
                self.devices.setdefault(user_id, {})[device_id] = verdict
                if doubt is not None:
                    path = json_pointer(("device_keys", user_id, device_id, *doubt.at))
                    self.notices.append(Notice(path=path, reason=doubt.reason, detail=doubt.detail))
        for rejection in self.response.malformed:
            if rejection.path == "/device_keys":
                self.rejected_devices.append(rejection)
            elif rejection.path == "/failures":
                self.notices.append(Notice(path=rejection.path, reason=rejection.reason, detail=rejection.detail))

    def _unless_changed(self, device: VerifiedDevice) -> VerifiedDevice | Refusal:
        """Refuse a device that is not the one that is known under its id."""
        user_id, device_id, own = device.user_id, device.device_id, self.own_device
        user = self.known.get(user_id)
        before = None if user is None else user.devices.get(device_id)
        if own is not None and (own.user_id, own.device_id) == (user_id, device_id):
            if own.keys == device.keys.keys:
                return device
            refusal = Refusal(Reason.OWN_DEVICE_ALTERED, "these are not the keys of this device", "keys")
        elif before is not None and before.keys.raw_ed25519 != device.keys.raw_ed25519:
            detail = f"the device {quoted(device_id)} of {quoted(user_id)} had another signing key before"
            refusal = Refusal(Reason.SIGNING_KEY_CHANGED, detail, "keys", f"{ED25519}:{device_id}")
        else:
            return device
        self.changed.setdefault(user_id, {})[device_id] = device
        return refusal

    def _candidates(self) -> Iterator[DeviceKeys]:
        """Yield the devices whose signatures are worth looking at; refuse the others."""
        for user_id, devices in self.response.device_keys.items():
            refusal = self._user_refusal(user_id)
            if isinstance(devices, Rejection):
                self.rejected_devices.append(devices)
                continue
            if refusal is not None:
                self._reject_all(user_id, devices, refusal)
                continue
            asked = self.asked[user_id]
            taken = self._cross_signing_bytes(user_id)
            for device_id, device in devices.items():
                if isinstance(device, Rejection):
                    self.rejected_devices.append(device)
                    continue
                if (
                    device.user_id == user_id
                    and device.device_id == device_id
                    and device.raw_ed25519 is not None
                    and not asked
                    and (not taken or taken.isdisjoint((device.raw_ed25519, device.raw_curve25519)))
                ):
                    yield device  # the usual case, decided at once
                elif (fault := _device_fault(user_id, device_id, device, asked, taken)) is None:
                    yield device
                else:
                    rejection = self._rejection(fault, "device_keys", user_id, device_id)
                    file_rejection(rejection, self.rejected_devices, self.unsupported_devices)

    def in_answer_order(self, rejections: list[Rejection]) -> tuple[Rejection, ...]:
        """Return rejections of devices in the order in which the devices stand in the answer."""
        if not rejections:
            return ()
        order: dict[tuple[str | None, str | None], int] = {}
        for user_id, devices in self.response.device_keys.items():
            order[user_id, None] = len(order)
            for device_id in () if isinstance(devices, Rejection) else devices:
                order[user_id, device_id] = len(order)
        return tuple(sorted(rejections, key=lambda it: order.get((it.user_id, it.device_id), -1)))

    def _user_refusal(self, user_id: str) -> Refusal | None:
        """Return what speaks against everything that stands under a user's name."""
        if user_id not in self.asked:
            return Refusal(Reason.UNREQUESTED, f"nobody asked about {quoted(user_id)}")
        if user_id in self.blocked:
            return Refusal(
                Reason.IDENTIFIER_COLLISION,
                f"the device id {quoted(self.blocked[user_id])} is also a cross-signing key of {quoted(user_id)}",
            )
        return None

    def _role_refusal(self, user_id: str, role: Usage) -> Refusal | None:
        if role == "user_signing" and self.own_user_id not in (None, user_id):
            return Refusal(Reason.NOT_OWN_USER, "a user-signing key is shown to its owner only")
        return None

    def _reject_all(self, user_id: str, devices: Mapping[str, DeviceKeys | Rejection], refusal: Refusal) -> None:
        if not devices:
            # An empty entry is refused as one, or nobody would see that it was there.
            path = json_pointer(("device_keys", user_id))
            self.rejected_devices.append(
                Rejection(path=path, reason=refusal.reason, detail=refusal.detail, raw={}, user_id=user_id)
            )
        for device_id, device in devices.items():
            if isinstance(device, Rejection) and refusal.reason is not Reason.IDENTIFIER_COLLISION:
                self.rejected_devices.append(device)
            else:
                self.rejected_devices.append(self._rejection(refusal, "device_keys", user_id, device_id))

    def note_reuse(self) -> None:
        """Note keys that stand in more than one accepted place."""
        devices = [device.keys for of_user in self.devices.values() for device in of_user.values()]
        raws = [device.raw_ed25519 for device in devices]
        raws += [device.raw_curve25519 for device in devices if device.raw_curve25519 is not None]
        raws += [raw for identity in self.identities.values() for raw in identity.raw_keys]
        if len(set(raws)) == len(raws):
            return
        seen: dict[bytes, str] = {}
        for raw, path in self._accepted_keys():
            before = seen.setdefault(raw, path)
            if before is not path:
                detail = f"the same key also stands at {before}"
                self.notices.append(Notice(path=path, reason=Reason.KEY_REUSED, detail=detail))

    def _accepted_keys(self) -> Iterator[tuple[bytes, str]]:
        """Yield every key of an accepted entry, and the path of the entry."""
        for user_id, identity in self.identities.items():
            raws = identity.raw_keys
            for (_, name), raw in zip(_ROLES[: len(raws)], raws, strict=True):
                yield raw, json_pointer((name, user_id))
        for user_id, devices in self.devices.items():
            for device_id, device in devices.items():
                path = json_pointer(("device_keys", user_id, device_id))
                for raw in device.keys.raw_keys:
                    yield raw, path

    def _rejection(self, refusal: Refusal, member: str, user_id: str, device_id: str | None = None) -> Rejection:
        """Return the rejection of an entry of the answer."""
        entry: Any = getattr(self.response, member)[user_id]
        if device_id is None:
            return rejected(refusal, raw_of(entry), (member, user_id), user_id=user_id)
        raw = raw_of(entry[device_id])
        return rejected(refusal, raw, (member, user_id, device_id), user_id=user_id, device_id=device_id)


def _anything_like_a_key(raw: Any) -> Iterator[bytes | None]:
    """Yield whatever somebody may take for the key of a malformed cross-signing key."""
    keys = raw.get("keys") if type(raw) is dict else None
    for name, value in keys.items() if type(keys) is dict else ():
        for text in (name.partition(":")[2], value):
            if type(text) is str:
                yield unpadded_base64.decode_loosely(text)


def _device_fault(
    user_id: str, device_id: str, device: DeviceKeys, asked: tuple[str, ...], taken: AbstractSet[bytes | None]
) -> Refusal | None:
    """Return what speaks against a device before any signature is looked at."""
    if asked and device_id not in asked:
        return Refusal(Reason.UNREQUESTED, f"nobody asked about the device {quoted(device_id)}")
    if device.user_id != user_id:
        detail = f"the device of {quoted(user_id)} says it belongs to {quoted(device.user_id)}"
        return Refusal(Reason.USER_ID_MISMATCH, detail, "user_id")
    if device.device_id != device_id:
        detail = f"the device {quoted(device_id)} says it is {quoted(device.device_id)}"
        return Refusal(Reason.DEVICE_ID_MISMATCH, detail, "device_id")
    if device.keys and not device.raw_keys:
        return Refusal(Reason.UNSUPPORTED_ALGORITHM, "the device has no key of an algorithm this library knows", "keys")
    if not taken.isdisjoint(device.raw_keys):
        return Refusal(Reason.KEY_REUSED, "a key of the device is also a cross-signing key of its owner", "keys")
    return None
