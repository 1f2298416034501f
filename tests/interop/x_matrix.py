"""Requests between homeservers, signed and checked: the ``Authorization`` header of the scheme ``X-Matrix``.

Enough for the servers of a test run, made of the public names of the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from matrix_e2e_keys import (
    E2EKeysError,
    Ed25519PublicKey,
    HttpRequest,
    JsonObject,
    Signer,
    parse_json,
    sign_json,
    verify_json,
)

KeyOf: TypeAlias = Callable[[str, str], Ed25519PublicKey]
"""``key_of(server_name, key_id)`` returns the key of a server. Raises :class:`XMatrixError` if there is none."""

PARAMETER = re.compile(r'([A-Za-z0-9_-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))')
SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)+")


class XMatrixError(Exception):
    """The request is not signed by the server it says it is from."""


class XMatrix(NamedTuple):
    """The parameters of a header."""

    origin: str
    key: str
    sig: str
    destination: str | None = None


def authorization(request: HttpRequest, *, origin: str, destination: str, signer: Signer) -> str:
    """Return the header for a request.

    Args:
        request: what is sent.
        origin: the name of the server that asks.
        destination: the name of the server that is asked.
        signer: a key of ``origin``, as ``secret_key.signer("ed25519:name")``.
    """
    signed: Any = sign_json(_signed_part(request, origin, destination), entity=origin, signer=signer)
    signature = signed["signatures"][origin][str(signer.key_id)]
    return f'X-Matrix origin="{origin}",destination="{destination}",key="{signer.key_id}",sig="{signature}"'


def parse(header: str) -> XMatrix:
    """Read a header: names in any case, values quoted or not, parameters in any order, unknown ones ignored.

    Raises:
        XMatrixError: it is malformed, or one of the parameters is missing or there twice.
    """
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "x-matrix":
        raise XMatrixError(f"the scheme is {scheme!r}")
    found: dict[str, str] = {}
    position, rest = 0, rest.strip(" \t")
    while match := PARAMETER.match(rest, position):
        name, quoted, plain = match.groups()
        if name.lower() in found:
            raise XMatrixError(f"{name} is there twice")
        found[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = match.end()
        if not (comma := SEPARATOR.match(rest, position)):
            break
        position = comma.end()
    if position != len(rest):
        raise XMatrixError(f"malformed from character {position} on: {header!r}")
    try:
        return XMatrix(found["origin"], found["key"], found["sig"], found.get("destination"))
    except KeyError as missing:
        raise XMatrixError(f"no {missing} in {header!r}") from None


def verify(request: HttpRequest, header: str | None, *, destination: str, key_of: KeyOf) -> str:
    """Return the name of the server that signed a request which came to ``destination``.

    Raises:
        XMatrixError: nobody did.
    """
    if header is None:
        raise XMatrixError("the request is not signed")
    claim = parse(header)
    if claim.destination not in (None, destination):
        raise XMatrixError(f"the request is for {claim.destination}")
    try:
        signed = _signed_part(request, claim.origin, destination)
        signed["signatures"] = {claim.origin: {claim.key: claim.sig}}
        verify_json(signed, entity=claim.origin, key_id=claim.key, key=key_of(claim.origin, claim.key))
    except E2EKeysError as error:
        raise XMatrixError(str(error)) from error
    return claim.origin


def _signed_part(request: HttpRequest, origin: str, destination: str) -> JsonObject:
    """Return what stands for a request where it is signed."""
    signed: JsonObject = {
        "method": request.method,
        "uri": request.target,
        "origin": origin,
        "destination": destination,
    }
    if request.body:
        signed["content"] = parse_json(request.body)
    return signed
