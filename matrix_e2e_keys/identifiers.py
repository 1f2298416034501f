"""Identifiers: user ids, device ids, server names, room ids.

Specification: appendices, "Identifier Grammar".

Facts:

* Identifiers are plain strings with a name for the type checker, since they are keys of JSON objects. The functions
  ``parse_*`` are the only ones that mint them.
* Historical user ids: "clients and servers MUST accept user IDs with localparts consisting of any legal non-surrogate
  Unicode code points except for : and NUL". :func:`is_strict_user_id` tells whether one follows today's grammar.
* A user id is cut at its *first* colon; everything after it is the server name, which may hold a port or an IPv6
  literal. Server names are compared case-sensitively.
* Device ids have no grammar. A base64 key with ``/`` and ``+`` in it is a real one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Final, NewType, TypeVar

from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    printable,
    quoted,
    raised_as,
)
from matrix_e2e_keys.json_trees import wrong_type

__all__ = [
    "DeviceId",
    "RoomId",
    "ServerName",
    "UserId",
    "check_server_name",
    "check_user_ids",
    "home_of",
    "is_device_id",
    "is_strict_user_id",
    "is_user_id",
    "parse_device_id",
    "parse_room_id",
    "parse_server_name",
    "parse_user_id",
    "read_identifier",
    "server_name_of",
]

UserId = NewType("UserId", str)
DeviceId = NewType("DeviceId", str)
ServerName = NewType("ServerName", str)
RoomId = NewType("RoomId", str)

T = TypeVar("T")

_MAX_BYTES: Final = 255
_MAX_DEVICE_ID_BYTES: Final = 512

_DNS_NAME: Final = re.compile(r"[0-9A-Za-z.-]{1,255}")
_IPV6_CHARS: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_DOTTED_QUAD: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_PORT: Final = re.compile(r"[0-9]{1,5}")
# Decides at once for nearly every user id there is: no address literal, printable ASCII.
_USUAL_USER_ID: Final = re.compile(r"@[!-9;-~]*:[0-9A-Za-z.-]*[A-Za-z-](?::[0-9]{1,4})?")
_STRICT_LOCALPART: Final = re.compile(r"[a-z0-9._=/+-]+")


def parse_user_id(value: object) -> UserId:
    """Return ``value`` as a user id, by the historical grammar.

    Raises:
        RemoteProtocolError: it is not a string, has no ``@`` or server name, or exceeds 255 bytes.
    """
    if not is_user_id(value):
        raise _invalid(value, "a user id")
    return UserId(value)  # type: ignore[arg-type]  # is_user_id has checked


def read_identifier(parse: Callable[[object], T], value: object, *at: str | int) -> T:
    """Return ``parse(value)``; what it raises becomes a :class:`Refusal` of the place ``at``."""
    if type(value) is not str:
        raise wrong_type(f"{at[-1]} must be a string", value, *at)
    try:
        return parse(value)
    except RemoteProtocolError as error:
        raise Refusal(error.reason, error.detail, *at) from None


def is_user_id(value: object) -> bool:
    """Tell whether ``value`` is a user id by the historical grammar."""
    if type(value) is not str:
        return False
    if _USUAL_USER_ID.fullmatch(value):
        return len(value) <= _MAX_BYTES
    if value[:1] != "@" or not _fits(value, _MAX_BYTES):
        return False
    localpart, colon, server_name = value[1:].partition(":")
    return bool(colon) and "\x00" not in localpart and _is_server_name(server_name)


def is_strict_user_id(value: object) -> bool:
    """Tell whether ``value`` is a user id by today's grammar: a localpart of ``a-z 0-9 . _ = - / +``, not empty."""
    return is_user_id(value) and bool(_STRICT_LOCALPART.fullmatch(str(value)[1:].partition(":")[0]))


def server_name_of(identifier: UserId | RoomId) -> ServerName:
    """Return the server name in a user id or room id: what stands after the first colon.

    Raises:
        RemoteProtocolError: it holds no server name (room ids of newer room versions hold none).
    """
    if type(identifier) is not str:
        raise _invalid(identifier, "a user id or room id")
    return parse_server_name(identifier.partition(":")[2])


def home_of(user_id: str) -> ServerName:
    """Internal: return the server of a user whose id has been checked."""
    return ServerName(user_id.partition(":")[2])


def parse_device_id(value: object) -> DeviceId:
    """Return ``value`` as a device id: any non-empty string of at most 512 bytes.

    Raises:
        RemoteProtocolError: it is none.
    """
    if not is_device_id(value):
        raise _invalid(value, "a device id")
    return DeviceId(value)  # type: ignore[arg-type]  # is_device_id has checked


def is_device_id(value: object) -> bool:
    """Internal: tell whether ``value`` is a device id."""
    return type(value) is str and bool(value) and _fits(value, _MAX_DEVICE_ID_BYTES)


def check_server_name(value: object, name: str) -> ServerName:
    """Internal: take a server name that a caller gives as the argument ``name``.

    Raises:
        LocalProtocolError: it is none.
    """
    with raised_as(LocalProtocolError, name):
        return parse_server_name(value)


def check_user_ids(user_ids: Iterable[str]) -> list[str]:
    """Internal: return the user ids that a caller gives, each once, in their order.

    Raises:
        LocalProtocolError: they are not several, or one of them is no user id.
    """
    if isinstance(user_ids, str) or not isinstance(user_ids, Iterable):
        raise LocalProtocolError(Reason.WRONG_TYPE, "several user ids are needed", path="/user_ids")
    listed = list(user_ids)
    for place, user_id in enumerate(listed):
        if not is_user_id(user_id):
            raise LocalProtocolError(
                Reason.INVALID_IDENTIFIER, f"{quoted(user_id)} is not a user id", path=f"/user_ids/{place}"
            )
    return list(dict.fromkeys(listed))


def parse_server_name(value: object) -> ServerName:
    """Return ``value`` as a server name: a DNS name, an IPv4 literal or a bracketed IPv6 literal, and maybe a port.

    Raises:
        RemoteProtocolError: it is none.
    """
    if type(value) is not str or not _is_server_name(value):
        raise _invalid(value, "a server name")
    return ServerName(value)


def parse_room_id(value: object) -> RoomId:
    """Return ``value`` as a room id: ``!`` and an opaque part, of at most 255 bytes.

    Room versions up to 11 put a server name after a colon, version 12 does not; both are opaque here.

    Raises:
        RemoteProtocolError: it is none.
    """
    if type(value) is not str or len(value) < 2 or value[0] != "!" or "\x00" in value or not _fits(value, _MAX_BYTES):
        raise _invalid(value, "a room id")
    return RoomId(value)


def _fits(value: str, limit: int) -> bool:
    """Tell whether ``value`` has a UTF-8 encoding of at most ``limit`` bytes."""
    if value.isascii():
        return len(value) <= limit
    return len(value) <= limit and value == printable(value) and len(value.encode()) <= limit


def _is_server_name(value: str) -> bool:
    if value[:1] == "[":
        host, bracket, rest = value[1:].partition("]")
        return bool(bracket) and _is_ipv6(host) and (not rest or (rest[0] == ":" and _is_port(rest[1:])))
    host, colon, port = value.partition(":")
    if not _DNS_NAME.fullmatch(host) or (colon and not _is_port(port)):
        return False
    return not _DOTTED_QUAD.fullmatch(host) or all(int(part) <= 255 for part in host.split("."))


def _is_port(text: str) -> bool:
    return bool(_PORT.fullmatch(text)) and int(text) <= 65535


def _is_ipv6(text: str) -> bool:
    if not _IPV6_CHARS.fullmatch(text):
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _invalid(value: object, what: str) -> RemoteProtocolError:
    if type(value) is not str:
        return RemoteProtocolError(Reason.WRONG_TYPE, f"{what} must be a string, not {type(value).__name__}")
    return RemoteProtocolError(Reason.INVALID_IDENTIFIER, f"{quoted(value)} is not {what}")
