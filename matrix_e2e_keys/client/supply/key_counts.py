"""How many of one's one-time keys the server holds, as far as one can tell.

Specification: client-server API, "Extensions to /sync", "Key management API".

Facts:

* An answer to an upload is newer than the upload. What ``/sync`` says may be older, and some servers say nonsense.
* If keys are gone as soon as they are uploaded, they may have been claimed, or the server may keep no more of them. So
  more are made, but not at once.
* What ``/sync`` says soon after an answer, or after it was wrong the last time, is a reason to ask, and no more.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from matrix_e2e_keys.back_off import BackOff

__all__ = ["DOUBTFUL_MS", "KeyCount", "longer"]

DOUBTFUL_MS: Final = 60_000
"""How long after an answer a ``/sync`` may still say what was true before it, in milliseconds."""

_QUESTION: Final = "question"
_MORE: Final = "more"


def longer(times: int) -> int:
    """Return how long to wait after something has happened ``times`` times: a minute, then twice as long each time."""
    return DOUBTFUL_MS << min(times, 10)


@define(kw_only=True)
class KeyCount:
    """Internal: the number of unclaimed one-time keys.

    Attributes:
        known: the number to go by, ``None`` before anything was said.
        is_in_question: whether the answer to an upload has to tell first, be it an upload of nothing.
    """

    known: int | None = None
    is_in_question: bool = False
    _untested: int | None = None
    _is_distrusted: bool = False
    _answered_at: int | None = None
    _lost: int = 0
    _delays: BackOff = field(factory=BackOff, repr=False)

    def hear(self, said: int, *, target: int, now: int) -> None:
        """Take over what ``/sync`` says."""
        if said >= target or (self.known is not None and said >= self.known):
            self.known, self._untested, self.is_in_question = said, None, False
        elif self._is_distrusted or (self._answered_at is not None and now - self._answered_at < DOUBTFUL_MS):
            self._untested, self.is_in_question = said, True
        else:
            self.known = self._untested = said

    def receive_answer(self, said: int, *, uploaded: int, now: int) -> None:
        """Take over what the answer to an upload of so many one-time keys says."""
        if self._untested is not None:
            self._is_distrusted = said > self._untested + uploaded
            if self._is_distrusted:
                self._delays.failed(_QUESTION, now)
            else:
                self._delays.succeeded(_QUESTION)
        kept = said - (self.known or 0)
        if uploaded and 2 * kept < uploaded:
            self._delays.failed(_MORE, now, at_least_ms=longer(self._lost))
            self._lost += 1
        elif uploaded:
            self._delays.succeeded(_MORE)
            self._lost = 0
        self.known, self._untested, self.is_in_question, self._answered_at = said, None, False, now

    @property
    def question_at(self) -> int:
        """From when on the server may be asked."""
        return self._delays.ready_at(_QUESTION)

    @property
    def more_at(self) -> int:
        """From when on more keys may be made. A server that had less than half of the last ones must wait for more."""
        return self._delays.ready_at(_MORE)

    def forget_delays(self) -> None:
        """Begin with the delays anew, since the clock was set back."""
        self._delays = BackOff()
        self._answered_at = None
