"""``GET /_matrix/client/v3/keys/changes``: whose devices changed between two points of ``/sync``.

Specification: client-server API, "Tracking the device list for a user".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Protocol, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import malformed_members, read_user_ids, write_malformed
from matrix_e2e_keys.endpoints.members import called, extra_beside, opaque_string, settle, user_ids
from matrix_e2e_keys.endpoints.messages import Request, Response, others, refuse_error
from matrix_e2e_keys.json_trees import JsonObject, thaw
from matrix_e2e_keys.outcome import Rejection

__all__ = ["KeysChangesRequest", "KeysChangesResponse", "read_lists", "settle_lists", "write_lists"]

_LISTS: Final = ("changed", "left")


@frozen(kw_only=True)
class KeysChangesRequest(Request["KeysChangesResponse"]):
    """What is asked.

    Attributes:
        from_token: the ``next_batch`` of an earlier ``/sync``. Changes since then are asked for.
        to_token: the ``next_batch`` of a recent one.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["keys_changes"]

    from_token: str
    to_token: str

    def __attrs_post_init__(self) -> None:
        settle(self, from_token=called("from", opaque_string), to_token=called("to", opaque_string))

    def _parameters(self) -> Mapping[str, str | None]:
        return {"from": self.from_token, "to": self.to_token}

    @classmethod
    def _of(cls, parameters: Mapping[str, str]) -> Self:
        return cls(from_token=parameters["from"], to_token=parameters["to"])

    @classmethod
    def answer_type(cls) -> type[KeysChangesResponse]:
        """Return the class of the answers."""
        return KeysChangesResponse


@frozen(kw_only=True)
class KeysChangesResponse(Response):
    """What is answered.

    Attributes:
        changed: users whose devices or identity may have changed.
        left: users with whom one may share no encrypted room any more.
        extra: members that the specification does not name.
        malformed: lists that are none, and entries of lists that are no user ids.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["keys_changes"]

    changed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle_lists(self)

    def to_json(self) -> JsonObject:
        """Return the response body. What was malformed stands in it as it was received, or as ``null``."""
        return write_lists(self)

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        refuse_error(tree, *_LISTS)
        return cls(**read_lists(tree))


# --------------------------------------------------------------------------------------------------------------
# What stands in /sync in the same form
# --------------------------------------------------------------------------------------------------------------


class ChangedAndLeft(Protocol):
    """Internal: two lists of users, what stands beside them, and what was malformed."""

    @property
    def changed(self) -> tuple[str, ...]: ...
    @property
    def left(self) -> tuple[str, ...]: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...
    @property
    def malformed(self) -> tuple[Rejection, ...]: ...


def settle_lists(lists: ChangedAndLeft) -> None:
    """Check the fields of lists that are being made; see :func:`~matrix_e2e_keys.endpoints.members.settle`."""
    settle(
        lists,
        changed=user_ids,
        left=user_ids,
        extra=extra_beside(*_LISTS),
        malformed=malformed_members(lists, *_LISTS, lists=_LISTS),
    )


def read_lists(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that lists are made of."""
    malformed: list[Rejection] = []
    changed, left = (read_user_ids(tree, name, malformed) for name in _LISTS)
    return {
        "changed": changed,
        "left": left,
        "extra": thaw(others(tree, *_LISTS)),
        "malformed": tuple(malformed),
    }


def write_lists(lists: ChangedAndLeft) -> JsonObject:
    """Return lists as JSON. What was malformed stands in them as it was received, or as ``null``."""
    body: JsonObject = thaw(dict(lists.extra))
    body.update(changed=list(lists.changed), left=list(lists.left))
    return write_malformed(body, lists.malformed)
