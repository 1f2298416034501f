"""When to claim again: the delays after claims that failed.

Facts:

* A claim without an answer delays every other one. A server that cannot be reached delays its own users. A device that
  has no key left, or whose key was refused, delays itself.
* A server that answers for one of its users and not for another cannot be reached.
* A device's failures are forgotten when a session with it is opened, not when a key for it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field

from matrix_e2e_keys.back_off import AFTER_THE_OTHERS_MS, BackOff
from matrix_e2e_keys.client.claims.claim import ClaimResult
from matrix_e2e_keys.client.claims.claim_memory import DeviceName
from matrix_e2e_keys.errors import json_pointer

__all__ = ["ClaimDelays"]

_ALL_SERVERS: Final = ""


@define
class ClaimDelays:
    """Failures of servers, and of devices."""

    _servers: BackOff = field(factory=BackOff, init=False)
    _devices: BackOff = field(factory=BackOff, init=False)

    def ready_at(self, name: DeviceName) -> int:
        """Return when to claim a key of a device; zero or less if nothing failed."""
        return max(
            self._servers.ready_at(_ALL_SERVERS),
            self._servers.ready_at(_server_of(name)),
            self._devices.ready_at(json_pointer(name)),
        )

    def no_answer(self, now: int, retry_after_ms: int) -> None:
        """Note that a claim got no answer."""
        self._servers.failed(_ALL_SERVERS, now, at_least_ms=retry_after_ms)

    def answered(self, asked: Iterable[DeviceName], result: ClaimResult, now: int) -> None:
        """Note what an answer says of the servers of those it was asked about."""
        reached: set[str] = set()
        unreachable: set[str] = set()
        for user_id, device_id in asked:
            server = _server_of((user_id, device_id))
            if device_id in result.unreachable.get(user_id, ()):
                unreachable.add(server)
            elif any(device_id in of.get(user_id, ()) for of in (result.keys.accepted, result.exhausted)):
                reached.add(server)
        self._servers.succeeded(_ALL_SERVERS)
        for server in unreachable:
            self._servers.failed(server, now)
        for server in reached - unreachable:
            self._servers.succeeded(server)

    def device_failed(self, name: DeviceName, now: int) -> None:
        """Note that there was no key of a device, or that nothing came of it."""
        self._devices.failed(json_pointer(name), now)

    def failed_alone(self, name: DeviceName, now: int) -> None:
        """Note that a claim for this device and no other got no answer: the others come first."""
        after_all = self._servers.ready_at(_ALL_SERVERS) - now + AFTER_THE_OTHERS_MS
        self._devices.failed(json_pointer(name), now, at_least_ms=after_all)

    def forget_device(self, name: DeviceName) -> None:
        """Forget the failures of a device."""
        self._devices.succeeded(json_pointer(name))


def _server_of(name: DeviceName) -> str:
    return name[0].partition(":")[2]
