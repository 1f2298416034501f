"""When to try again: a delay that doubles with every failure in a row.

The clock is the caller's: times are milliseconds since any moment, as long as it is always the same one. A clock
that is set back makes what waits wait longer; one that never goes back is best.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field

from matrix_e2e_keys.errors import LocalProtocolError, Reason

__all__ = ["AFTER_THE_OTHERS_MS", "BackOff", "BatchSize", "check_now", "earliest", "granted"]

_FIRST_MS: Final = 15_000
_LONGEST_MS: Final = 900_000
_LONGEST_WISH_MS: Final = 3_600_000
AFTER_THE_OTHERS_MS: Final = 60_000
"""How much later than everybody else somebody is asked again who fails even alone."""


def check_now(now: object) -> int:
    """Take a time.

    Raises:
        LocalProtocolError: it is no integer.
    """
    if type(now) is not int:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a time is an integer of milliseconds", path="/now")
    return now


def granted(retry_after_ms: int | None) -> int:
    """Return how long to wait because a server wishes so: an hour at most. A number must silence nobody for good."""
    return min(retry_after_ms or 0, _LONGEST_WISH_MS)


def earliest(times: Iterable[int | None]) -> int | None:
    """Return the first of some times; ``None`` if none of them is one."""
    return min((time for time in times if time is not None), default=None)


@define
class BatchSize:
    """How many to ask about at once: half as many after each failure, twice as many after each success.

    It may be one of them that the server cannot digest: that must not cost the others anything for good.
    """

    limit: int
    size: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.size = self.limit

    def failed(self, asked: int) -> None:
        """Note that a request about so many failed."""
        self.size = max(1, asked // 2)

    def succeeded(self, asked: int) -> None:
        """Note that a request about so many was answered."""
        self.size = min(self.limit, 2 * max(self.size, asked))


@define
class BackOff:
    """Failures in a row, by name: of servers, or of users.

    The first failure delays by 15 seconds, each further one twice as long, up to 15 minutes.
    """

    _failures: dict[str, int] = field(factory=dict)
    _until: dict[str, int] = field(factory=dict)

    def failed(self, name: str, now: int, *, at_least_ms: int = 0) -> None:
        """Note a failure. A failure while one waits anyway belongs to the one before, and counts no further."""
        if now >= self.ready_at(name):
            self._failures[name] = self._failures.get(name, 0) + 1
        doublings = min(self._failures[name] - 1, 10)
        delay = max(at_least_ms, min(_FIRST_MS << doublings, _LONGEST_MS))
        self._until[name] = max(now + delay, self._until.get(name, now))

    def succeeded(self, name: str) -> None:
        """Forget the failures of ``name``."""
        self._failures.pop(name, None)
        self._until.pop(name, None)

    def ready_at(self, name: str) -> int:
        """Return when to try again; zero or less if nothing failed."""
        return self._until.get(name, -(2**62))
