"""Which one-time keys of this server's own devices are handed out.

Specification: client-server API, "Key management API", "Claiming one-time keys"; server-server API, "End-to-End
Encryption"; client-server API, "One-time and fallback keys".

Facts:

* A one-time key is handed out once, ever. The decision names the keys to take away; what makes it true is that the
  store takes them in the same transaction, and remembers them: see
  :class:`~matrix_e2e_keys.homeserver.effects.TakeOneTimeKey`. A key that stands in the pool under a second id is taken
  away with the first, and not handed out again.
* The oldest upload comes first. The specification leaves the order within one upload open; here it is that of the key
  ids, so that two servers, or two stores, hand out the same keys.
* A device without one-time keys of the algorithm hands out its fallback key, as often as it is asked for. It is marked
  as used the first time. One that was used before may be replaced while it is handed out; its device still knows it.
* What there is no key for is left out. That is no failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from attrs import define, field, frozen

from matrix_e2e_keys.endpoints.members import boolean, instances, list_of, map_of, opaque_string, settle, user_id
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted, raised_as
from matrix_e2e_keys.homeserver.effects import Effect, MarkFallbackKeyUsed, TakeOneTimeKey
from matrix_e2e_keys.homeserver.stored_keys import FallbackKeyRecord, StoredKey, key_digest, stored_key
from matrix_e2e_keys.json_trees import wrong_type

__all__ = [
    "DeviceKeyPool",
    "HandedOutKey",
    "KeyWanted",
    "LocalClaims",
    "PooledKey",
    "claim_order",
    "decide_claims",
]

_Device: TypeAlias = tuple[str, str]
"""User id and device id."""


def _text(value: object, *at: str | int) -> str:
    if type(value) is not str:
        raise wrong_type(f"{at[-1]} must be a string", value, *at)
    return value


@frozen(kw_only=True)
class KeyWanted:
    """One key that somebody claims.

    Attributes:
        user_id: whose.
        device_id: of which device. Any string: what is no device id is a device that nobody has.
        algorithm: of which algorithm. Any string.
        allows_one_time_key: whether a one-time key may be handed out; if not, only the fallback key, since the claimant
            takes too many (:class:`~matrix_e2e_keys.homeserver.ClaimLedger`).
    """

    user_id: str
    device_id: str
    algorithm: str
    allows_one_time_key: bool = True

    def __attrs_post_init__(self) -> None:
        settle(self, user_id=user_id, device_id=_text, algorithm=_text, allows_one_time_key=boolean)


@frozen(kw_only=True)
class HandedOutKey:
    """One key that is handed out.

    Attributes:
        wanted: what was claimed.
        key_id: the id of the key, ``<algorithm>:<name>``.
        key: the key.
        is_fallback: whether it is the fallback key, and others get it too.
    """

    wanted: KeyWanted
    key_id: str
    key: StoredKey
    is_fallback: bool

    def __attrs_post_init__(self) -> None:
        settle(self, wanted=instances(KeyWanted), key_id=opaque_string, key=stored_key, is_fallback=boolean)


def _number(value: object, *at: str | int) -> int:
    if type(value) is not int:
        raise wrong_type(f"{at[-1]} must be an integer", value, *at)
    return value


@frozen(kw_only=True)
class PooledKey:
    """A one-time key that nobody has claimed yet.

    Attributes:
        key_id: its id, ``<algorithm>:<name>``. A key with an id of another form is never handed out.
        key: the key.
        uploaded: any number that grows with each upload, and is the same for all keys of one upload.
    """

    key_id: str
    key: StoredKey
    uploaded: int

    def __attrs_post_init__(self) -> None:
        settle(self, key_id=opaque_string, key=stored_key, uploaded=_number)


def _pooled_keys(value: object, *at: str | int) -> tuple[PooledKey, ...]:
    pooled: tuple[PooledKey, ...] = list_of(instances(PooledKey))(value, *at)
    seen: set[str] = set()
    for place, key in enumerate(pooled):
        if key.key_id in seen:
            raise Refusal(Reason.INVALID_VALUE, f"two keys are called {quoted(key.key_id)}", *at, place)
        seen.add(key.key_id)
    return pooled


@frozen(kw_only=True)
class DeviceKeyPool:
    """What a device has to hand out.

    Attributes:
        one_time_keys: its unclaimed one-time keys, in any order. It may be fewer than there are: so many of the oldest
            ones (:func:`claim_order`) of each algorithm as are wanted.
        fallback_keys: algorithm to fallback key. A key whose id names another algorithm is never handed out.
    """

    one_time_keys: tuple[PooledKey, ...] = ()
    fallback_keys: Mapping[str, FallbackKeyRecord] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, one_time_keys=_pooled_keys, fallback_keys=map_of(instances(FallbackKeyRecord)))


def claim_order(key: PooledKey) -> tuple[int, str]:
    """Return by what one-time keys are sorted: those that come first are handed out first.

    It is the number of the upload, then the key id. Key ids are compared by code points, as binary collations of
    databases do.

    Raises:
        LocalProtocolError: it is no :class:`PooledKey`.
    """
    if type(key) is not PooledKey:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a PooledKey is needed", path="/key")
    return key.uploaded, key.key_id


@frozen(kw_only=True)
class LocalClaims:
    """What is handed out.

    Attributes:
        effects: what to do in one transaction. If one of them does not hold, nothing of ``keys`` may be answered: read
            the pools again and decide again.
        keys: the keys, in the order in which they are wanted, without those that there are no keys for.
    """

    effects: tuple[Effect, ...] = ()
    keys: tuple[HandedOutKey, ...] = ()


def decide_claims(wanted: Iterable[KeyWanted], *, pools: Mapping[tuple[str, str], DeviceKeyPool]) -> LocalClaims:
    """Decide which keys are handed out.

    Args:
        wanted: the keys that are claimed, all of this server's own devices. What is wanted twice is two keys.
        pools: user id and device id to what is there to hand out. A device that is not there has nothing.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    with raised_as(LocalProtocolError):
        claimed: tuple[KeyWanted, ...] = list_of(instances(KeyWanted))(wanted, "wanted")
        checked = _checked_pools(pools, "pools")
    open_pools: dict[_Device, _OpenPool] = {}
    effects: list[Effect] = []
    keys: list[HandedOutKey] = []
    for want in claimed:
        device = (want.user_id, want.device_id)
        if device not in open_pools:
            open_pools[device] = _OpenPool(checked.get(device, _EMPTY))
        pool = open_pools[device]
        # It "is a one-time key if one is available, and otherwise a fallback key".
        key = pool.take(want, effects) if want.allows_one_time_key else None
        if key is None:
            key = pool.fall_back(want, effects)
        if key is not None:
            keys.append(key)
    return LocalClaims(effects=tuple(effects), keys=tuple(keys))


_EMPTY: Final = DeviceKeyPool()


@define
class _OpenPool:
    """What is left of a pool while a decision is made."""

    _pool: DeviceKeyPool
    _queues: dict[str | None, list[PooledKey]] | None = field(default=None, init=False)
    _named: dict[str, list[str]] = field(factory=dict, init=False)
    """Digest to the ids that a key has, mostly one."""
    _taken: set[str] = field(factory=set, init=False)
    _marked: set[str] = field(factory=set, init=False)

    def take(self, want: KeyWanted, effects: list[Effect]) -> HandedOutKey | None:
        """Take the next one-time key, ``None`` if there is none."""
        queue = self._opened().get(want.algorithm, [])
        while queue:
            next_key = queue.pop()
            digest = key_digest(next_key.key)
            if digest in self._taken:
                continue
            self._taken.add(digest)
            effects.extend(
                TakeOneTimeKey(user_id=want.user_id, device_id=want.device_id, key_id=key_id, digest=digest)
                for key_id in self._named[digest]
            )
            return HandedOutKey(wanted=want, key_id=next_key.key_id, key=next_key.key, is_fallback=False)
        return None

    def fall_back(self, want: KeyWanted, effects: list[Effect]) -> HandedOutKey | None:
        """Hand out the fallback key, ``None`` if there is none."""
        record = self._pool.fallback_keys.get(want.algorithm)
        if record is None or _algorithm_of(record.key_id) != want.algorithm:
            return None
        if not record.is_used and want.algorithm not in self._marked:
            self._marked.add(want.algorithm)
            effects.append(
                MarkFallbackKeyUsed(
                    user_id=want.user_id,
                    device_id=want.device_id,
                    key_id=record.key_id,
                    digest=key_digest(record.key),
                )
            )
        return HandedOutKey(wanted=want, key_id=record.key_id, key=record.key, is_fallback=True)

    def _opened(self) -> dict[str | None, list[PooledKey]]:
        """Return algorithm to keys, those to be handed out first at the end. Nobody wants the algorithm ``None``."""
        if self._queues is None:
            self._queues = {}
            # "One-time keys are given out in the order that they were uploaded"
            for key in sorted(self._pool.one_time_keys, key=claim_order, reverse=True):
                self._named.setdefault(key_digest(key.key), []).append(key.key_id)
                self._queues.setdefault(_algorithm_of(key.key_id), []).append(key)
        return self._queues


def _algorithm_of(key_id: str) -> str | None:
    """Return the algorithm that a key id names, ``None`` if it has another form."""
    algorithm, _, name = key_id.partition(":")
    return algorithm if algorithm and name else None


def _checked_pools(pools: Any, *at: str) -> dict[_Device, DeviceKeyPool]:
    if not isinstance(pools, Mapping):
        raise wrong_type("pools must be a mapping", pools, *at)
    checked = dict(pools)
    for device, pool in checked.items():
        if type(device) is not tuple or len(device) != 2 or any(type(part) is not str for part in device):
            raise wrong_type("a pool is named by user id and device id", device, *at)
        if type(pool) is not DeviceKeyPool:
            raise wrong_type("a pool must be a DeviceKeyPool", pool, *at, *device)
    return checked
