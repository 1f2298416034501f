"""Which server is to be asked for which users, how much may be asked, and for how long one waits.

Specification: appendices, "User Identifiers"; client-server API, "Key management API".

Fact: server names are compared exactly. A port, another case or a trailing dot makes another server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import Check, instances, map_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, printable, raised_as
from matrix_e2e_keys.homeserver.policies import Limits
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.identifiers import home_of
from matrix_e2e_keys.outcome import Rejection

__all__ = [
    "by_server",
    "first_foreigner",
    "invalid_name",
    "refused_size",
    "user_views",
    "waiting_time",
]

T = TypeVar("T")

_DEFAULT_MS: Final = 10_000
_LONGEST_MS: Final = 20_000


def by_server(asked: Mapping[str, T], own_name: str) -> tuple[dict[str, T], dict[str, dict[str, T]]]:
    """Return what is asked of this server's users, and server name to what is asked of the users of others."""
    local: dict[str, T] = {}
    remote: dict[str, dict[str, T]] = {}
    for user_id, of_user in asked.items():
        home = home_of(user_id)
        (local if home == own_name else remote.setdefault(home, {}))[user_id] = of_user
    return local, remote


def invalid_name(asked: Mapping[str, Any]) -> MatrixError | None:
    """Return the refusal of a request about a name that is no user id."""
    for of_user in asked.values():
        if isinstance(of_user, Rejection):
            return MatrixError(status=400, errcode="M_INVALID_PARAM", error=printable(of_user.detail))
    return None


def first_foreigner(asked: Mapping[str, Any], own_name: str) -> MatrixError | None:
    """Return the refusal of a request by another server that is not all about this server's users.

    Args:
        asked: name to what is asked; a rejection where the name is no user id.
        own_name: this server.
    """
    refusal = invalid_name(asked)
    if refusal is not None:
        return refusal
    # "Requested users must be local to the receiving homeserver."
    if any(home_of(user_id) != own_name for user_id in asked):
        return MatrixError(status=400, errcode="M_UNKNOWN", error="User is not hosted on this homeserver")
    return None


def refused_size(asked: Mapping[str, Any], limits: Limits) -> MatrixError | None:
    """Return the refusal of a request about too many users or devices."""
    if len(asked) > limits.users_per_request:
        return _too_large(len(asked), "users", limits.users_per_request)
    devices = sum(len(of_user) for of_user in asked.values() if not isinstance(of_user, Rejection))
    if devices > limits.devices_per_request:
        return _too_large(devices, "devices", limits.devices_per_request)
    return None


def _too_large(asked: int, what: str, most: int) -> MatrixError:
    return MatrixError(status=400, errcode="M_TOO_LARGE", error=f"The request is about {asked} {what}, at most {most}")


def waiting_time(timeout: int | None) -> int:
    """Return how many milliseconds to wait for other servers."""
    # "10 seconds is the recommended default."
    return _DEFAULT_MS if timeout is None else min(timeout, _LONGEST_MS)


def user_views(views: object, name: str) -> Mapping[str, UserKeys]:
    """Take user id to what is stored of that user, which our caller gives as the argument ``name``.

    Raises:
        LocalProtocolError: it is something else, or a user stands under another name.
    """
    check: Check[Mapping[str, UserKeys]] = map_of(instances(UserKeys))
    with raised_as(LocalProtocolError):
        checked = check(views, name)
        for user_id, keys in checked.items():
            if keys.user_id != user_id:
                raise Refusal(Reason.USER_ID_MISMATCH, "a user stands under another name", name, user_id)
    return checked
