r"""The ``Authorization`` header of the scheme ``X-Matrix``, as text and as a value.

Specification: server-server API, "Request Authentication"; RFC 9110, sections 5.6 and 11.4.

Facts:

* ``X-Matrix``, "followed by one or more spaces, followed by a comma-separated list of parameters written as name=value
  pairs". Names in any case and order, each at most once; elements of the list may be empty.
* A quoted value may hold commas, and ``\x`` in it stands for ``x``.
* "For compatibility with older servers, the recipient should allow colons to be included in values without requiring
  the value to be enclosed in quotes."
* The text of the specification calls the last parameter ``signature``, its example ``sig``. Everybody sends ``sig``;
  both are read.
* A header is bytes on the wire. As ``str`` it is those bytes in ISO 8859-1.
* Nothing is tried twice: the time to read a header is linear in its length, which is bounded too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

from matrix_e2e_keys.endpoints.members import frozen_map, optional, settle
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, quoted
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.json_trees import wrong_type

__all__ = ["XMatrixHeader", "is_x_matrix", "parse_authorization"]

_MAX_CHARACTERS: Final = 8192

_TCHAR: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_SCHEME: Final = re.compile(rf"[ \t]*X-Matrix(?!{_TCHAR})", re.ASCII | re.IGNORECASE)
_SPACES: Final = re.compile(r" +|\Z")
_PARAMETER: Final = re.compile(
    rf"({_TCHAR}++)[ \t]*+=[ \t]*+"
    r'(?:"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+)"'
    rf"|((?:{_TCHAR}|:)++))"
)
_COMMA: Final = re.compile(r"[ \t]*+,[ \t]*+")
_ESCAPED: Final = re.compile(r"\\(.)")
_TO_ESCAPE: Final = re.compile(r'["\\]')
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
_NAME: Final = re.compile(rf"(?![^A-Z]*[A-Z]){_TCHAR}+")
_KNOWN: Final = ("origin", "destination", "key", "sig", "signature")


def _value(value: object, *at: str | int) -> str:
    """Take what can stand between quotes in a header."""
    if type(value) is not str:
        raise wrong_type(f"{at[-1]} must be a string", value, *at)
    if not _VALUE.fullmatch(value):
        raise Refusal(Reason.INVALID_VALUE, f"{quoted(value)} cannot stand in a header", *at)
    return value


def _extra(value: object, *at: str | int) -> Mapping[str, str]:
    extra: dict[str, str] = {}
    for name, text in frozen_map(value, *at).items():
        if not _NAME.fullmatch(name) or name in _KNOWN:
            raise Refusal(Reason.INVALID_VALUE, f"{quoted(name)} cannot be a further parameter", *at, name)
        extra[name] = _value(text, *at, name)
    return FrozenMap(extra)


@frozen(kw_only=True)
class XMatrixHeader:
    """The parameters of one header, which stands for one signature. Nothing about them has been verified.

    Attributes:
        origin: the server that says it asks. Whether it is a server name at all is not looked at here.
        key_id: the key it says it signed with, ``ed25519:<version>``.
        signature: the signature, in unpadded base64.
        destination: the server that is asked; ``None`` if an older server left it out.
        extra: all other parameters, names in lower case.
    """

    origin: str
    key_id: str
    signature: str
    destination: str | None = None
    extra: Mapping[str, str] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, origin=_value, key_id=_value, signature=_value, destination=optional(_value), extra=_extra)

    def to_header(self) -> str:
        """Return the header, in the form that older servers read as well.

        Every value is quoted. There is a backslash only where a value holds a quote or a backslash.

        Raises:
            LocalProtocolError: it is longer than what :func:`parse_authorization` reads.
        """
        destination = {} if self.destination is None else {"destination": self.destination}
        parameters = {"origin": self.origin, **destination, "key": self.key_id, "sig": self.signature, **self.extra}
        # "only include one space after X-Matrix", "avoid including whitespace around the commas"
        listed = ",".join(f'{name}="{_TO_ESCAPE.sub(_escape, value)}"' for name, value in parameters.items())
        header = f"X-Matrix {listed}"
        if len(header) > _MAX_CHARACTERS:
            raise LocalProtocolError(Reason.TOO_LARGE, _too_long(header))
        return header


def _escape(match: re.Match[str]) -> str:
    return "\\" + match[0]


def is_x_matrix(header: str) -> bool:
    """Return whether a header is of the scheme ``X-Matrix``, well formed or not."""
    return bool(_SCHEME.match(header))


def parse_authorization(header: str | bytes) -> XMatrixHeader:
    """Read a header.

    Args:
        header: the value of one ``Authorization`` header; ``str`` as from ISO 8859-1.

    Raises:
        RemoteProtocolError: it is of another scheme, malformed or longer than 8192 characters, or a parameter is
            missing or there twice.
        LocalProtocolError: it is neither ``str`` nor ``bytes``.
    """
    text = header_text(header)
    if len(text) > _MAX_CHARACTERS:
        raise RemoteProtocolError(Reason.TOO_LARGE, _too_long(text))
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise RemoteProtocolError(Reason.INVALID_VALUE, "the scheme of the authorization is not X-Matrix")
    text = text.rstrip(" \t")
    spaces = _SPACES.match(text, scheme.end())
    if spaces is None:
        raise _malformed(scheme.end())
    parameters = _parameters(text, spaces.end())
    return XMatrixHeader(
        origin=_taken(parameters, "origin"),
        key_id=_taken(parameters, "key"),
        signature=_signature(parameters),
        destination=parameters.pop("destination", None),
        extra=parameters,
    )


def header_text(header: Any) -> str:
    """Take a header as it comes out of a transport.

    Raises:
        LocalProtocolError: it is neither ``str`` nor ``bytes``.
    """
    if type(header) is bytes:
        return header.decode("latin-1")
    if type(header) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a header must be str or bytes", path="/header")
    return header


def _parameters(text: str, position: int) -> dict[str, str]:
    found: dict[str, str] = {}
    while True:
        parameter = _PARAMETER.match(text, position)
        if parameter is not None:
            name, in_quotes, plain = parameter.groups()
            name = name.lower()
            if name in found:
                raise RemoteProtocolError(Reason.REPEATED_PARAMETER, f"{quoted(name)} is there twice")
            found[name] = plain if in_quotes is None else _ESCAPED.sub(r"\1", in_quotes)
            position = parameter.end()
        if position == len(text):
            return found
        comma = _COMMA.match(text, position)
        if comma is None:
            raise _malformed(position)
        position = comma.end()


def _taken(parameters: dict[str, str], name: str) -> str:
    try:
        return parameters.pop(name)
    except KeyError:
        raise RemoteProtocolError(Reason.MISSING_PARAMETER, f"the authorization has no {name}") from None


def _signature(parameters: dict[str, str]) -> str:
    in_prose = parameters.pop("signature", None)
    if in_prose is None or "sig" not in parameters:
        return _taken(parameters, "sig") if in_prose is None else in_prose
    if parameters.pop("sig") != in_prose:
        raise RemoteProtocolError(Reason.REPEATED_PARAMETER, "the authorization has two signatures")
    return in_prose


def _malformed(position: int) -> RemoteProtocolError:
    return RemoteProtocolError(Reason.INVALID_VALUE, f"the authorization is malformed from character {position} on")


def _too_long(text: str) -> str:
    return f"an authorization of {len(text)} characters, over the limit of {_MAX_CHARACTERS}"
