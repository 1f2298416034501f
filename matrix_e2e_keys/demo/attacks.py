"""What an attack is, and what becomes of one.

Fact: an attack counts as refused if it is refused for the reason and at the place that stand in its table. Whatever
else happens is a failure, and is told as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from attrs import frozen

from matrix_e2e_keys.endpoints.http_values import HttpResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import E2EKeysError

__all__ = ["Attack", "Refusal", "Refused", "Scene", "answered", "first"]

Scene = TypeVar("Scene")


class Refused(Protocol):
    """What the library returns for what it refuses: a rejection, a failed check, an error."""

    @property
    def reason(self) -> str | None:
        """Why, for programs."""
        ...  # pragma: no cover

    @property
    def path(self) -> str:
        """Where: a JSON Pointer."""
        ...  # pragma: no cover


@frozen(kw_only=True)
class Refusal:
    """A :class:`Refused` of one's own: the error code of a server, or of a message that withholds a key."""

    reason: str
    path: str = ""


@frozen(kw_only=True)
class Attack(Generic[Scene]):
    """Something that must not succeed.

    Attributes:
        what: what the attacker does.
        how: what stands against it.
        reason: why it is refused.
        path: where the refusal points to; the beginning of it.
        carry_out: does it, with the objects of the story. Returns what the library says, or raises it.
    """

    what: str
    how: str
    reason: str
    path: str = ""
    carry_out: Callable[[Scene], Refused | None]

    def attempt(self, scene: Scene) -> Refused | None:
        """Carry it out, and return what is said against it; ``None`` if it succeeds."""
        try:
            return self.carry_out(scene)
        except MatrixError as error:
            return Refusal(reason=f"{error.status} {error.errcode}")
        except E2EKeysError as error:
            return error

    def is_refused(self, refused: Refused | None) -> bool:
        """Tell whether what was said against it is what should be."""
        return refused is not None and refused.reason == self.reason and refused.path.startswith(self.path)


def first(refused: Iterable[Refused]) -> Refused | None:
    """Return the first of what was refused; ``None`` if nothing was."""
    return next(iter(refused), None)


def answered(response: HttpResponse | None) -> None:
    """Raise what a server answers, if it refuses.

    Raises:
        MatrixError: it does.
    """
    if response is not None and response.status >= 400:
        raise MatrixError.from_http(response)
