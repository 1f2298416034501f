"""HTTP requests and answers as values, for any transport to carry.

Specification: client-server API, "API Standards"; RFC 3986 (URIs), RFC 9110 (HTTP).

Facts:

* A path and a query are kept as they stand on the wire, percent-encoded. A parameter is encoded once, when it is put
  in, and decoded once, when it is taken out, so a ``/`` or ``%`` inside a device id keeps its place. A server must
  therefore hand over the *raw* path (``raw_path`` in ASGI, ``self.path`` in ``http.server``).
* An empty query is no query: the ``?`` of ``/path?`` is lost, and a signature over it will not be found good.
* Only a parameter is decoded. The fixed parts of a path match as they are written in the specification.
* The segments ``.`` and ``..`` cannot be sent: percent-encoded or not, HTTP clients and proxies resolve them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from attrs import field, frozen

from matrix_e2e_keys.canonical_json import encode_tree
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, json_pointer, quoted
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.json_trees import FULL_STACK

__all__ = [
    "HttpRequest",
    "HttpResponse",
    "encode_body",
    "fill_template",
    "http_status",
    "join_query",
    "match_template",
    "parameters_of",
    "split_query",
]

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|#")  # what comes after a # is never sent
_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")


def _text(name: str, value: object) -> str:
    if type(value) is bytes:
        return value.decode("latin-1")
    if type(value) is str:
        return value
    raise LocalProtocolError(Reason.WRONG_TYPE, f"the {name} must be str or bytes", path=f"/{name}")


def _path(value: str | bytes) -> str:
    return _text("path", value)


def _query(value: str | bytes) -> str:
    return _text("query", value)


def _body(value: bytes) -> bytes:
    if type(value) is not bytes:
        raise LocalProtocolError(Reason.WRONG_TYPE, f"a body must be bytes, not {type(value).__name__}", path="/body")
    return value


def _method(value: str) -> str:
    return _text("method", value)


def http_status(value: object, lowest: int) -> int:
    """Take a status of three digits from ``lowest`` on; a member of ``http.HTTPStatus`` is one.

    Servers send whatever they like: what is beyond 599 is read as a 5xx (RFC 9110, section 15).
    """
    if not isinstance(value, int) or not lowest <= value <= 999:
        raise LocalProtocolError(Reason.INVALID_VALUE, f"a status is an integer from {lowest} to 999", path="/status")
    return int(value)


def _status(value: int) -> int:
    return http_status(value, 100)


def _headers(value: Mapping[str, str]) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    try:
        pairs: list[tuple[object, object]] = [(name, text) for name, text in value.items()]
    except (AttributeError, TypeError, ValueError):  # some transports have headers that are no Mapping, but have items
        raise LocalProtocolError(Reason.WRONG_TYPE, "headers must be a mapping", path="/headers") from None
    for name, text in pairs:
        if not isinstance(name, str) or not isinstance(text, str):
            raise LocalProtocolError(Reason.WRONG_TYPE, "names and values of headers must be str", path="/headers")
        headers[str(name).lower()] = str(text)  # some transports have a str of their own
    return FrozenMap(headers)


@frozen(kw_only=True)
class HttpRequest:
    """A request, without host, authorization and transport.

    One that was received may hold anything: whether there is such an endpoint is found out when it is read.

    Attributes:
        method: as it stands on the wire, in capitals.
        path: percent-encoded, without the query; ``bytes`` are taken too.
        query: percent-encoded, without the ``?``; empty if there is none.
        body: empty if there is none. It is JSON: send it as ``Content-Type: application/json``.
    """

    method: str = field(converter=_method)
    path: str = field(converter=_path)
    query: str = field(default="", converter=_query)
    body: bytes = field(default=b"", converter=_body, repr=False)

    @property
    def target(self) -> str:
        """Path and query as they stand on the wire, which is also what X-Matrix signs as ``uri``.

        Some HTTP libraries encode once more, or less: with aiohttp, send ``yarl.URL(base + target, encoded=True)``.
        """
        return f"{self.path}?{self.query}" if self.query else self.path

    @classmethod
    def from_target(cls, *, method: str, target: str | bytes, body: bytes = b"") -> HttpRequest:
        """Take over a request whose path and query are still one.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        path, _, query = _text("target", target).partition("?")
        return cls(method=method, path=path, query=query, body=body)


@frozen(kw_only=True)
class HttpResponse:
    """An answer.

    Attributes:
        status: three digits.
        body: as it came, decompressed. It is JSON: send it as ``Content-Type: application/json``.
        headers: name in lower case to value. Only ``retry-after`` is ever looked at, or written.
    """

    status: int = field(converter=_status)
    body: bytes = field(default=b"", converter=_body, repr=False)
    headers: Mapping[str, str] = field(factory=dict, converter=_headers, repr=False)


# --------------------------------------------------------------------------------------------------------------
# Paths and queries
# --------------------------------------------------------------------------------------------------------------


def parameters_of(template: str) -> frozenset[str]:
    """Return the names of the parameters in a path."""
    return frozenset(_PARAMETER.findall(template))


def fill_template(template: str, parameters: Mapping[str, str | None]) -> str:
    """Return the path that ``template`` makes with ``parameters``, each of them percent-encoded.

    Raises:
        LocalProtocolError: a parameter cannot be a segment of a path.
    """
    return _PARAMETER.sub(lambda match: _quoted_segment(match[1], parameters[match[1]]), template)


def _quoted_segment(name: str, value: str | None) -> str:
    if value is None:
        raise LocalProtocolError(Reason.MISSING_PARAMETER, f"{name} must be in the path", path=json_pointer([name]))
    if value in ("", ".", ".."):
        raise LocalProtocolError(
            Reason.INVALID_IDENTIFIER, f"{quoted(value)} cannot be a segment of a path", path=json_pointer([name])
        )
    return _percent_encoded(name, value)


def _percent_encoded(name: str, value: str) -> str:
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise LocalProtocolError(
            Reason.LONE_SURROGATE, "the string holds a lone surrogate", path=json_pointer([name])
        ) from None


def match_template(template: str, path: str) -> dict[str, str] | None:
    """Return the decoded parameters in ``path``, ``None`` if it is not of the form of ``template``.

    Raises:
        RemoteProtocolError: it is, but a parameter is not percent-encoded UTF-8.
    """
    wanted, segments = template.split("/"), path.split("/")
    if len(wanted) != len(segments) or "?" in path or "#" in path:
        return None  # with a ? or # in it, it is more than a path
    found: list[tuple[str, str]] = []
    for literal, segment in zip(wanted, segments, strict=True):
        parameter = _PARAMETER.fullmatch(literal)
        if parameter is not None and segment:
            found.append((parameter[1], segment))
        elif literal != segment:
            return None
    return {name: _percent_decoded(name, segment) for name, segment in found}


def _percent_decoded(name: str, text: str) -> str:
    at = json_pointer([name])
    if not text.isascii() or _BAD_ESCAPE.search(text):
        raise RemoteProtocolError(Reason.INVALID_ENCODING, f"{name} is not percent-encoded", path=at)
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError(Reason.INVALID_ENCODING, f"{name} is not UTF-8", path=at) from None


def join_query(parameters: Mapping[str, str | None]) -> str:
    """Return ``parameters`` as a query, those that are ``None`` left out.

    Raises:
        LocalProtocolError: a value holds a lone surrogate.
    """
    pairs = [(name, value) for name, value in parameters.items() if value is not None]
    return "&".join(f"{name}={_percent_encoded(name, value)}" for name, value in pairs)


def split_query(query: str, names: Iterable[str]) -> dict[str, str]:
    """Return those parameters of a query that are called by ``names``. All others are left alone.

    A ``+`` is a space, as in forms (WHATWG URL, "application/x-www-form-urlencoded").

    Raises:
        RemoteProtocolError: one of them appears twice or is not percent-encoded UTF-8.
    """
    wanted = frozenset(names)
    found: dict[str, str] = {}
    for pair in query.split("&"):
        encoded_name, _, value = pair.partition("=")
        name = _name(encoded_name)
        if name not in wanted:
            continue
        if name in found:
            raise RemoteProtocolError(
                Reason.REPEATED_PARAMETER, f"{name} appears twice in the query", path=json_pointer([name])
            )
        found[name] = _percent_decoded(name, value.replace("+", " "))
    return found


def _name(encoded: str) -> str:
    """Return the name of a parameter, decoded if it can be. Whatever cannot is nobody's name."""
    return unquote_to_bytes(encoded.replace("+", " ")).decode("utf-8", "replace") if encoded.isascii() else encoded


# --------------------------------------------------------------------------------------------------------------
# Bodies
# --------------------------------------------------------------------------------------------------------------


def encode_body(value: Any) -> bytes:
    """Return a JSON body: canonical wherever canonical JSON can represent it.

    What others said (failures, unknown members) may hold fractions and lone surrogates; it is passed on as it is.

    Raises:
        LocalProtocolError: the stack is too full, or an integer longer than this interpreter is set up to write.
    """
    try:
        encoded = encode_tree(value)
        # In ASCII, a lone surrogate is an escape.
        return json.dumps(value, separators=(",", ":")).encode() if encoded is None else encoded
    except RecursionError:
        raise LocalProtocolError(Reason.TOO_DEEP, FULL_STACK) from None
    except ValueError:
        raise LocalProtocolError(Reason.TOO_MANY_DIGITS, "an integer is too long to be written") from None
