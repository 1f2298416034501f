"""Who claims how many one-time keys, and who has had enough.

Specification: client-server API, "Rate limiting" and "One-time and fallback keys". The draft of 2015 says of claims
that homeservers should limit their rate by user and by server.

Facts:

* A claimant is a user of this server, by user id, or another server, by name: what a server claims is counted together,
  since it can make up as many users as it likes.
* Of one device a claimant is granted so many one-time keys in a while; after that it gets the fallback key, if there is
  one. So nobody can use up the one-time keys of a device by claiming, and others still get some.
* In all, a claimant is granted so many keys in a while; after that it is told to wait. The whole request is refused
  then, and costs nothing.
* What is granted counts, whether or not there was a key. A refund would tell nothing that matters, and could be forged.
* A claimant's window begins with the first claim after the one before has ended. Around the end of a window, twice as
  much can be granted in a short time.
* If the clock is set back by less than a window, what was counted still counts; the wait grows by as much. If it is set
  back by more, counting begins anew. So nobody waits longer than two windows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

from attrs import define, evolve, field, frozen

from matrix_e2e_keys.back_off import check_now
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import instances, list_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, json_pointer, quoted, raised_as
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.homeserver.claims.local_claims import KeyWanted
from matrix_e2e_keys.identifiers import is_device_id, is_user_id, parse_server_name
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.stored import Stored

__all__ = ["ClaimLedger", "ClaimsSpent"]

_VERSION: Final = 1
_KEYS_PER_DEVICE: Final = 10
_KEYS_PER_WINDOW: Final = 10_000
_AN_HOUR_MS: Final = 3_600_000
_LONGEST_WINDOW_MS: Final = 2**52  # twice as long is still an integer that JSON can represent


@frozen(kw_only=True)
class ClaimsSpent:
    """What one claimant was granted in its current window.

    Attributes:
        keys: how many keys in all, fallback keys included.
        one_time_keys: user id and device id to how many one-time keys of that device.
        ends_at: when the window ends, in milliseconds; ``None`` if there is none: nothing was granted.
    """

    keys: int = 0
    one_time_keys: Mapping[tuple[str, str], int] = field(factory=lambda: FrozenMap({}))
    ends_at: int | None = None


@define
class _Window:
    began: int
    keys: int = 0
    one_time_keys: Counter[tuple[str, str]] = field(factory=Counter)


@define(kw_only=True)
class ClaimLedger:
    """How much each claimant may still claim. A state machine without input or output.

    Attributes:
        keys_per_device: how many one-time keys of one device a claimant is granted in a window.
        keys_per_window: how many keys a claimant is granted in a window, and so at once.
        window_ms: how long a window is, in milliseconds.
    """

    keys_per_device: int = _KEYS_PER_DEVICE
    keys_per_window: int = _KEYS_PER_WINDOW
    window_ms: int = _AN_HOUR_MS
    _windows: OrderedDict[str, _Window] = field(factory=OrderedDict, init=False, repr=False)
    """By claimant, the one that began first at the beginning. In a dict, each look at it passes what is gone."""

    def __attrs_post_init__(self) -> None:
        for name, value, least in (
            ("keys_per_device", self.keys_per_device, 0),
            ("keys_per_window", self.keys_per_window, 1),
            ("window_ms", self.window_ms, 1),
        ):
            if type(value) is not int:
                raise LocalProtocolError(Reason.WRONG_TYPE, f"{name} is an integer", path=f"/{name}")
            if value < least:
                raise LocalProtocolError(Reason.INVALID_VALUE, f"{name} is {least} or more", path=f"/{name}")
        if self.window_ms > _LONGEST_WINDOW_MS:
            raise LocalProtocolError(Reason.INVALID_VALUE, "the window is too long", path="/window_ms")

    def grant(self, claimant: str, wanted: Iterable[KeyWanted], now: int) -> tuple[KeyWanted, ...]:
        """Count what a claimant claims in one request, and return what it may have.

        Args:
            claimant: the user id of a user of this server, or the name of another server.
            wanted: the keys that are claimed, all of this server's own devices.
            now: the caller's time in milliseconds.

        Returns:
            The same keys in the same order. Those of a device that the claimant has had enough one-time keys of do not
            allow a one-time key.

        Raises:
            MatrixError: with all of these keys it would be too many; nothing was counted. 429, and when to try again;
                400 if they are more than are ever granted at once.
            LocalProtocolError: an argument has the wrong type.
        """
        name = _checked_claimant(claimant, "claimant")
        with raised_as(LocalProtocolError):
            keys: tuple[KeyWanted, ...] = list_of(instances(KeyWanted))(wanted, "wanted")
        now = check_now(now)
        if not keys:
            return ()
        if len(keys) > self.keys_per_window:
            error = f"More than {self.keys_per_window} keys cannot be claimed at once"
            raise MatrixError(status=400, errcode="M_TOO_LARGE", error=error)
        window = self._window(name, now)
        running = _Window(now) if window is None else window
        if running.keys + len(keys) > self.keys_per_window:
            raise MatrixError(
                status=429,
                errcode="M_LIMIT_EXCEEDED",
                error="Too many keys claimed",
                retry_after_ms=running.began + self.window_ms - now,
            )
        if window is None:
            self._forget_ended(now)
            self._windows.pop(name, None)  # it goes to the end
            self._windows[name] = running
        running.keys += len(keys)
        return tuple(self._granted(key, running) for key in keys)

    def spent(self, claimant: str, now: int) -> ClaimsSpent:
        """Return what a claimant was granted in its current window.

        Args:
            claimant: the user id of a user of this server, or the name of another server.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        window = self._window(_checked_claimant(claimant, "claimant"), check_now(now))
        if window is None:
            return ClaimsSpent()
        return ClaimsSpent(
            keys=window.keys,
            one_time_keys=FrozenMap(dict(window.one_time_keys)),
            ends_at=window.began + self.window_ms,
        )

    def _granted(self, key: KeyWanted, window: _Window) -> KeyWanted:
        if not key.allows_one_time_key:
            return key
        device = (key.user_id, key.device_id)
        if window.one_time_keys[device] >= self.keys_per_device:
            return evolve(key, allows_one_time_key=False)
        if is_device_id(key.device_id):
            window.one_time_keys[device] += 1
        return key

    def _window(self, claimant: str, now: int) -> _Window | None:
        window = self._windows.get(claimant)
        return None if window is None or self._has_ended(window, now) else window

    def _has_ended(self, window: _Window, now: int) -> bool:
        return abs(now - window.began) >= self.window_ms

    def _forget_ended(self, now: int) -> None:
        while self._windows:
            claimant = next(iter(self._windows))
            if not self._has_ended(self._windows[claimant], now):
                return
            del self._windows[claimant]

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what was counted. How much is too much is not in it."""
        return {"version": _VERSION, "claimants": {name: _written(window) for name, window in self._windows.items()}}

    @classmethod
    def from_json(
        cls,
        obj: object,
        *,
        keys_per_device: int = _KEYS_PER_DEVICE,
        keys_per_window: int = _KEYS_PER_WINDOW,
        window_ms: int = _AN_HOUR_MS,
    ) -> Self:
        """Restore a ledger.

        Args:
            obj: what :meth:`to_json` returned.
            keys_per_device: see the class; from now on.
            keys_per_window: see the class; from now on.
            window_ms: see the class; from now on.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned, or an argument is out of range.
        """
        ledger = cls(keys_per_device=keys_per_device, keys_per_window=keys_per_window, window_ms=window_ms)
        stored = Stored(obj)
        stored.require_version(_VERSION)
        windows = {
            _checked_claimant(name, "claimants", name): _read(window, "claimants", name)
            for name, window in stored.objects("claimants")
        }
        # A database may have put them into another order.
        ledger._windows = OrderedDict(sorted(windows.items(), key=lambda item: item[1].began))
        return ledger


def _written(window: _Window) -> dict[str, Any]:
    one_time_keys: dict[str, dict[str, int]] = {}
    for (user_id, device_id), number in window.one_time_keys.items():
        one_time_keys.setdefault(user_id, {})[device_id] = number
    return {"began": window.began, "keys": window.keys, "one_time_keys": one_time_keys}


def _read(stored: Stored, *at: str) -> _Window:
    window = _Window(stored.member("began", int), stored.member("keys", int))
    by_user = stored.object("one_time_keys")
    for user_id in stored.member("one_time_keys"):
        if not is_user_id(user_id):
            raise _damaged(f"{quoted(user_id)} is not a user id", *at, "one_time_keys", user_id)
        for device_id, number in by_user.items(user_id, int):
            if not is_device_id(device_id) or number < 1:
                raise _damaged("a device id and a number are needed", *at, "one_time_keys", user_id, device_id)
            window.one_time_keys[user_id, device_id] = number
    if window.keys < max(1, window.one_time_keys.total()):
        raise _damaged("there are fewer keys than one-time keys", *at, "keys")
    return window


def _damaged(detail: str, *at: str) -> LocalProtocolError:
    return LocalProtocolError(Reason.INVALID_VALUE, detail, path=json_pointer(at))


def _checked_claimant(claimant: object, *at: str) -> str:
    if type(claimant) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a claimant is a string", path=json_pointer(at))
    if not is_user_id(claimant):
        with raised_as(LocalProtocolError, *at):
            parse_server_name(claimant)
    return claimant
