"""The outcome of judging many people's data at once: one bad entry never costs the others.

Facts:

* :class:`Rejection` names one refused entry: where it stood, why it was refused, and the entry itself.
* :class:`Partition` sorts entries into accepted, rejected and unsupported. A rejected entry is still *present*: a
  malformed device must not look like a deleted one.
* Results have no truth value. ``if result:`` would be a guess about what the reader meant, so it raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NoReturn, TypeVar

from attrs import field, frozen

from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, json_pointer
from matrix_e2e_keys.json_trees import Segments, thaw

__all__ = ["Notice", "Partition", "Rejection", "file_rejection", "rejected"]

T = TypeVar("T")


@frozen(kw_only=True)
class Rejection:
    """One entry that was refused.

    Attributes:
        path: JSON Pointer into the answer that was judged.
        reason: a :class:`~matrix_e2e_keys.Reason`, for programs.
        detail: one sentence for people.
        user_id: the user under whose name the entry stood, if it stood under one.
        device_id: the device under whose id the entry stood, if it stood under one.
    """

    path: str
    reason: Reason
    detail: str
    _raw: object = field(default=None, eq=False, repr=False, alias="raw")
    user_id: str | None = None
    device_id: str | None = None

    @property
    def raw(self) -> object:
        """A copy of the entry as it was received, as plain JSON values. It is untrusted, and left out of equality."""
        return thaw(self._raw)

    def to_error(self) -> RemoteProtocolError:
        """Return the same finding as an exception, for callers that want to stop at it."""
        return RemoteProtocolError(self.reason, self.detail, path=self.path)


def rejected(
    refusal: Refusal, tree: object, at: Segments, *, user_id: str | None = None, device_id: str | None = None
) -> Rejection:
    """Internal: return the rejection of the entry ``tree``, which stands at ``at``."""
    return Rejection(
        path=json_pointer((*at, *refusal.at)),
        reason=refusal.reason,
        detail=refusal.detail,
        raw=thaw(tree),
        user_id=user_id,
        device_id=device_id,
    )


def file_rejection(rejection: Rejection, refused: list[Rejection], unsupported: list[Rejection]) -> None:
    """Internal: put a rejection where a :class:`Partition` has it."""
    (unsupported if rejection.reason is Reason.UNSUPPORTED_ALGORITHM else refused).append(rejection)


@frozen(kw_only=True)
class Notice:
    """Something worth knowing about an entry that was accepted all the same.

    Attributes:
        path: JSON Pointer into the answer that was judged.
        reason: a :class:`~matrix_e2e_keys.Reason`, for programs.
        detail: one sentence for people.
    """

    path: str
    reason: Reason
    detail: str


@frozen(kw_only=True)
class Partition(Generic[T]):
    """Entries sorted into three.

    Attributes:
        accepted: what may be used, keyed as the answer keys it.
        rejected: every refused entry, in the order of the answer.
        unsupported: entries that are well formed but use an algorithm this library does not know. Clients skip
            them, homeservers keep them.
    """

    accepted: Mapping[str, T]
    rejected: tuple[Rejection, ...] = ()
    unsupported: tuple[Rejection, ...] = ()

    def __bool__(self) -> NoReturn:
        raise LocalProtocolError(
            Reason.INVALID_VALUE,
            "a Partition has no truth value: ask for .accepted, .rejected or .unsupported",
        )

    def require_all(self) -> Mapping[str, T]:
        """Return ``accepted`` if nothing was rejected.

        Raises:
            RemoteProtocolError: for the first rejected entry.
        """
        for rejection in self.rejected:
            raise rejection.to_error()
        return self.accepted
