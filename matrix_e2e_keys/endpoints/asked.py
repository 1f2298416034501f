"""What is asked for in ``/keys/query`` and ``/keys/claim``, in both APIs.

Facts:

* A name that is no user id cannot belong to anybody: it is set aside as a :class:`~matrix_e2e_keys.Rejection`, and the
  rest of the request stands. Whatever else is wrong refuses the request.
* What is no device id is a device that nobody has: it is asked for in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from matrix_e2e_keys.endpoints.entries import read_users, user_entries, write_entries
from matrix_e2e_keys.endpoints.members import Check, frozen_map, map_of, opaque_string, strings
from matrix_e2e_keys.endpoints.messages import required
from matrix_e2e_keys.json_trees import JsonObject, object_in, wrong_type
from matrix_e2e_keys.outcome import Rejection

__all__ = [
    "AskedDevices",
    "AskedKeys",
    "all_of_each",
    "asked_devices",
    "asked_keys",
    "asked_of",
    "one_of_each",
    "read_asked",
    "read_timeout",
    "write_asked",
]

AskedDevices: TypeAlias = Mapping[str, tuple[str, ...] | Rejection]
"""User id to device ids, none of which means all; a rejection where the name is no user id."""

AskedKeys: TypeAlias = Mapping[str, Mapping[str, str] | Rejection]
"""User id to device id to algorithm; a rejection where the name is no user id."""


T = TypeVar("T")

asked_devices: Check[AskedDevices] = user_entries(strings)
asked_keys: Check[AskedKeys] = user_entries(map_of(opaque_string))


def all_of_each(user_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return what is asked if all devices of some users are asked for.

    Raises:
        Refusal: there are no several strings.
    """
    users = strings(list(user_ids) if isinstance(user_ids, Mapping) else user_ids, "device_keys")
    return dict.fromkeys(users, ())


def one_of_each(device_ids: Mapping[str, Iterable[str]], algorithm: str) -> dict[str, dict[str, str]]:
    """Return what is to be claimed if one key is claimed of each device.

    Raises:
        Refusal: a user has no list of device ids.
    """
    users = frozen_map(device_ids, "one_time_keys")
    return {user: dict.fromkeys(strings(of, "one_time_keys", user), algorithm) for user, of in users.items()}


def read_asked(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the member ``name`` with what is asked of nobody set aside.

    Raises:
        Refusal: it is not there, or no object.
    """
    asked = object_in(required(body, name), name, name)
    return read_users(asked, lambda of_user, user: of_user, name)  # noqa: ARG005 - whoever it is


def read_timeout(body: dict[str, Any]) -> Any:
    """Return the member ``timeout``, ``None`` if it is not there.

    Raises:
        Refusal: it is ``null``.
    """
    if "timeout" in body and body["timeout"] is None:
        raise wrong_type("timeout must be an integer", None, "timeout")
    return body.get("timeout")


def asked_of(asked: Mapping[str, T | Rejection]) -> Mapping[str, T]:
    """Return what is asked of users, without the names that are no user ids."""
    return {user: of_user for user, of_user in asked.items() if not isinstance(of_user, Rejection)}


def write_asked(asked: Mapping[str, Any]) -> JsonObject:
    """Return what is asked as JSON."""
    return {
        user: list(of_user) if type(of_user) is tuple else write_entries(of_user) for user, of_user in asked.items()
    }
