"""What checks say of a decrypted event: what it is, or every check that it did not pass.

Facts:

* All checks are made that can be made, and all that failed are named, in the order of their list: somebody will have to
  find out what is wrong.
* A judgment has no truth value. ``if judgment:`` would be a guess about what the reader meant, so it raises.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from attrs import define, field, frozen

from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    VerificationError,
    json_pointer,
    raised_as,
)
from matrix_e2e_keys.events.contents import Member

__all__ = ["FailedCheck", "Inspection", "Judgment"]

T = TypeVar("T")
Check = TypeVar("Check", bound=enum.StrEnum)
Event = TypeVar("Event")


@frozen(kw_only=True)
class FailedCheck(Generic[Check]):
    """A check that failed.

    Attributes:
        check: which one.
        reason: why, for programs.
        detail: one sentence for people. It quotes no secret and no text of a message; a name of a member it may quote,
            such as one that stands twice in the plaintext.
        path: JSON Pointer into what was judged; the list of the checks says into what.
    """

    check: Check
    reason: Reason
    detail: str
    path: str


@frozen(kw_only=True)
class Judgment(Generic[Event, Check]):
    """What the checks said. This is what all judgments have in common; each is of a kind of its own.

    Attributes:
        event: the event, if it passed all of them.
        failed: the checks that it did not pass, in the order of their list; none if there is an event, and at least one
            if there is none.
    """

    event_kind: ClassVar[type]
    """What the event is."""

    event: Event | None
    failed: tuple[FailedCheck[Check], ...] = ()

    def __attrs_post_init__(self) -> None:
        if not hasattr(self, "event_kind"):
            detail = f"{type(self).__name__} does not say what it judges: use one of the judgments that do"
            raise LocalProtocolError(Reason.WRONG_TYPE, detail)
        if type(self.failed) is not tuple or any(type(check) is not FailedCheck for check in self.failed):
            raise LocalProtocolError(Reason.WRONG_TYPE, "failed must be a tuple of FailedChecks", path="/failed")
        if type(self.event) is not (NoneType if self.failed else self.event_kind):
            raise LocalProtocolError(Reason.INVALID_VALUE, "there is an event, or a failed check", path="/event")

    def require(self) -> Event:
        """Return the event.

        Raises:
            VerificationError: for the first check that it did not pass.
        """
        if self.event is None:
            first = self.failed[0]
            raise VerificationError(first.reason, first.detail, path=first.path)
        return self.event

    def __bool__(self) -> NoReturn:
        detail = f"a judgment ({type(self).__name__}) has no truth value: ask for .event or .failed"
        raise LocalProtocolError(Reason.INVALID_VALUE, detail)


@define(kw_only=True)
class Inspection(Generic[Check]):
    """Internal: an event under inspection, and the checks that it has not passed so far."""

    members: ClassVar[Mapping[str, Member]]
    """The members of the plaintext."""

    plaintext_at: ClassVar[tuple[str, ...]] = ()
    """Where the plaintext stands in what is judged."""

    failed: list[FailedCheck[Check]] = field(factory=list, init=False)

    def fail(self, check: Check, reason: Reason, detail: str, *at: str | int) -> None:
        """Note that a check failed, because of what stands at a place."""
        self.file(check, RemoteProtocolError(reason, detail, path=json_pointer(at)))

    def file(self, check: Check, error: RemoteProtocolError | VerificationError) -> None:
        """Note that a check failed with an error."""
        self.failed.append(FailedCheck(check=check, reason=error.reason, detail=error.detail, path=error.path))

    def trying(self, check: Check, made: Callable[[], T], *above: str) -> T | None:
        """Return what is made of what stands at ``above``; if it is refused, the check failed."""
        try:
            with raised_as(RemoteProtocolError, *above):
                return made()
        except RemoteProtocolError as error:
            self.file(check, error)
        return None

    def member(self, tree: dict[str, Any], name: str, check: Check) -> Any:
        """Return a member of the plaintext that has to be there."""
        member = self.members[name]
        if name not in tree:
            self.fail(check, Reason.MISSING_MEMBER, f"there is no {name}", *self.plaintext_at)
            return None
        return self.trying(check, lambda: member.check(member.read(tree[name], name), name), *self.plaintext_at)

    def in_order(self) -> tuple[FailedCheck[Check], ...]:
        """Return the checks that failed, in the order of their list."""
        order = {check: place for failed in self.failed for place, check in enumerate(type(failed.check))}
        return tuple(sorted(self.failed, key=lambda failed: order[failed.check]))
