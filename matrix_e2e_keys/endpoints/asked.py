"""What is asked for in ``/keys/query`` and ``/keys/claim``, in both APIs.

Facts:

* A name that is no user id cannot belong to anybody: it is set aside as a :class:`~matrix_e2e_keys.Rejection`, and the
  rest of the request stands. Whatever else is wrong refuses the request.
* What is no device id is a device that nobody has: it is asked for in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from matrix_e2e_keys.endpoints.entries import user_entries, write_entries
from matrix_e2e_keys.endpoints.members import Check, frozen_map, items, map_of, opaque_string, strings
from matrix_e2e_keys.endpoints.messages import required
from matrix_e2e_keys.errors import Reason, Refusal, quoted
from matrix_e2e_keys.identifiers import is_user_id
from matrix_e2e_keys.json_trees import JsonObject, wrong_type
from matrix_e2e_keys.outcome import Rejection, rejected

__all__ = [
    "AskedDevices",
    "AskedKeys",
    "all_of_each",
    "asked_devices",
    "asked_keys",
    "one_of_each",
    "read_asked",
    "read_timeout",
    "write_asked",
]

AskedDevices: TypeAlias = Mapping[str, tuple[str, ...] | Rejection]
"""User id to device ids, none of which means all; a rejection where the name is no user id."""

AskedKeys: TypeAlias = Mapping[str, Mapping[str, str] | Rejection]
"""User id to device id to algorithm; a rejection where the name is no user id."""


def _device_ids(value: object, *at: str | int) -> tuple[str, ...]:
    return tuple(opaque_string(item, *at, place) for place, item in enumerate(items(value, *at)))


def _algorithms(value: object, *at: str | int) -> Mapping[str, str]:
    return map_of(opaque_string)(value, *at)


asked_devices: Check[AskedDevices] = user_entries(_device_ids)
asked_keys: Check[AskedKeys] = user_entries(_algorithms)


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
    asked = required(body, name)
    if type(asked) is not dict:
        raise wrong_type(f"{name} must be an object", asked, name)
    return {user: of_user if is_user_id(user) else _of_nobody(user, of_user, name) for user, of_user in asked.items()}


def _of_nobody(user: str, of_user: Any, name: str) -> Rejection:
    refusal = Refusal(Reason.INVALID_IDENTIFIER, f"{quoted(user)} is not a user id")
    return rejected(refusal, of_user, (name, user), user_id=user)


def read_timeout(body: dict[str, Any]) -> Any:
    """Return the member ``timeout``, ``None`` if it is not there.

    Raises:
        Refusal: it is ``null``.
    """
    if "timeout" in body and body["timeout"] is None:
        raise wrong_type("timeout must be an integer", None, "timeout")
    return body.get("timeout")


def write_asked(asked: Mapping[str, Any]) -> JsonObject:
    """Return what is asked as JSON."""
    return {
        user: list(of_user) if type(of_user) is tuple else write_entries(of_user) for user, of_user in asked.items()
    }
