"""Requests between homeservers: signed by the one that asks, checked by the one that is asked.

Specification: server-server API, "Request Authentication"; appendices, "Signing JSON".

Facts:

* "The request method, target and body are signed by wrapping them in a JSON object", with the names of both servers,
  as they are before delegation. An empty body is left out.
* "the target field should include the full path starting with /_matrix/..., including the ? and any query parameters",
  exactly as on the wire. See :attr:`HttpRequest.target <matrix_e2e_keys.HttpRequest.target>`.
* One header for each key that signs. A signature by an unknown key is passed over, one by a known key must be good,
  and there must be one.
* Only the keys that a server signs with now may sign a request, never its old ones.
* What is verified is what is read: a body without canonical encoding (a duplicate member, a fraction) is refused.
* Checking has two stages, since keys are fetched in between: :func:`read_authorization` says whose, and
  :meth:`XMatrixClaim.verify` takes them.
* A signature is good for ever and says nothing about when. Whether a request came before is for those to know who
  handle it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys.back_off import check_now
from matrix_e2e_keys.endpoints.http_values import HttpRequest
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import instances, map_of, opaque_string, server_name, settle
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    VerificationError,
    quoted,
    raised_as,
)
from matrix_e2e_keys.homeserver.federation_auth.header import (
    XMatrixHeader,
    header_text,
    is_x_matrix,
    parse_authorization,
)
from matrix_e2e_keys.identifiers import ServerName, check_server_name, parse_server_name
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import DEFAULT_LIMITS, JsonLimits, check_limits
from matrix_e2e_keys.keys import Ed25519PublicKey, KeyId
from matrix_e2e_keys.models.server_keys import VerifiedServerKeys
from matrix_e2e_keys.signing.signed_json import SignedJson, local_key_id, new_signed_json, read_signed_objects
from matrix_e2e_keys.signing.signers import Signer, add_signature, check_signer
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["XMatrixClaim", "read_authorization", "sign_request"]

_MAX_SIGNATURES: Final = 64
# Older servers cut at every comma, quoted or not, and some do not know backslashes.
_PLAIN: Final = re.compile(r"[!#-+\--\[\]-~]+")

_UNAUTHORIZED: Final = "M_UNAUTHORIZED"
_MISSING: Final = "Missing Authorization headers"
_MALFORMED: Final = "Malformed Authorization header"


# --------------------------------------------------------------------------------------------------------------
# Signing
# --------------------------------------------------------------------------------------------------------------


def sign_request(
    request: HttpRequest, *, origin: str, destination: str, signers: Signer | Iterable[Signer]
) -> tuple[str, ...]:
    """Sign a request to another homeserver.

    Args:
        request: what will be sent, exactly as it will be sent.
        origin: one's own server name.
        destination: the name of the server that is asked, as it stands in user ids: before delegation.
        signers: the keys that one's server publishes, under key ids ``ed25519:<version>``.

    Returns:
        The values of the ``Authorization`` headers to send, one for each key.

    Raises:
        LocalProtocolError: an argument is not what it should be, the body has no canonical encoding, or a key id
            cannot stand in a header that everybody reads.
    """
    _check_request(request)
    check_server_name(origin, "origin")
    check_server_name(destination, "destination")
    all_signers = _signers(signers)
    with raised_as(LocalProtocolError):
        signed = _signed_part(request, origin, destination, {}, DEFAULT_LIMITS)
    for signer in all_signers.values():
        signed = add_signature(signed, entity=origin, signer=signer)
    return tuple(
        XMatrixHeader(
            origin=origin, destination=destination, key_id=key_id, signature=signed.signatures[origin][key_id]
        ).to_header()
        for key_id in all_signers
    )


def _signers(signers: object) -> dict[str, Signer]:
    listed: Iterable[Any] = [signers] if hasattr(signers, "sign") or not isinstance(signers, Iterable) else signers
    by_key_id: dict[str, Signer] = {}
    for signer in listed:
        check_signer(signer)
        key_id = str(local_key_id(signer.key_id))
        if not _PLAIN.fullmatch(key_id):
            raise LocalProtocolError(
                Reason.INVALID_KEY_ID,
                f"{quoted(key_id)} cannot stand in a header that everybody reads",
                path="/signers",
            )
        if key_id in by_key_id:
            raise LocalProtocolError(Reason.INVALID_KEY_ID, f"two signers are called {quoted(key_id)}", path="/signers")
        by_key_id[key_id] = signer
        if len(by_key_id) > _MAX_SIGNATURES:
            raise LocalProtocolError(
                Reason.TOO_MANY_KEYS, f"a request is signed with at most {_MAX_SIGNATURES} keys", path="/signers"
            )
    if not by_key_id:
        raise LocalProtocolError(Reason.MISSING_KEY, "somebody must sign", path="/signers")
    return by_key_id


# --------------------------------------------------------------------------------------------------------------
# Checking
# --------------------------------------------------------------------------------------------------------------


def read_authorization(headers: Iterable[str | bytes], *, server_name: str) -> XMatrixClaim:
    """Read who says that a request is his. Nothing is proved by that; see :meth:`XMatrixClaim.verify`.

    Args:
        headers: the values of all ``Authorization`` headers of the request. Those of other schemes are left alone.
        server_name: one's own server name.

    Raises:
        MatrixError: what to answer: 401 if no header is there, or if one is meant for another server; 400 if one is
            malformed, they do not agree on the origin, two are for one key, or there are more than 64.
        LocalProtocolError: an argument has the wrong type.
    """
    own_name = check_server_name(server_name, "server_name")
    if isinstance(headers, str | bytes) or not isinstance(headers, Iterable):
        raise LocalProtocolError(Reason.WRONG_TYPE, "several headers are needed", path="/headers")
    texts = [text for text in map(header_text, headers) if is_x_matrix(text)]
    if not texts:
        raise MatrixError(status=401, errcode=_UNAUTHORIZED, error=_MISSING)
    try:
        return _claim(texts, own_name)
    except RemoteProtocolError:
        raise MatrixError(status=400, errcode=_UNAUTHORIZED, error=_MALFORMED) from None


def _claim(texts: list[str], own_name: ServerName) -> XMatrixClaim:
    if len(texts) > _MAX_SIGNATURES:
        raise RemoteProtocolError(Reason.TOO_MANY_KEYS, f"more than {_MAX_SIGNATURES} signatures")
    headers = [parse_authorization(text) for text in texts]
    origin = parse_server_name(headers[0].origin)
    signatures: dict[str, str] = {}
    for header in headers:
        key_id = str(KeyId.parse(header.key_id))
        if header.origin != origin:
            raise RemoteProtocolError(Reason.SERVER_NAME_MISMATCH, "the headers do not agree on who asks")
        if key_id in signatures:
            raise RemoteProtocolError(Reason.REPEATED_PARAMETER, "two headers are for one key")
        signatures[key_id] = header.signature
    for header in headers:
        # "recipients should accept requests without this parameter", but "If this property is included, but the value
        # does not match the receiving server's name, the receiving server must deny the request with [...] 401"
        if header.destination not in (None, own_name):
            raise _denied(f"The request is for {quoted(header.destination)}, not for this server")
    return XMatrixClaim(origin=origin, server_name=own_name, signatures=signatures)


@frozen(kw_only=True)
class XMatrixClaim:
    """Who says that a request is his, with signatures that nobody has checked.

    Attributes:
        origin: the server that says so.
        server_name: one's own server, for which the request is meant.
        signatures: key id to signature, in unpadded base64.
    """

    origin: str
    server_name: str
    signatures: Mapping[str, str]

    def __attrs_post_init__(self) -> None:
        settle(self, origin=server_name, server_name=server_name, signatures=map_of(opaque_string))

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The keys of ``origin`` that would have to be known."""
        return tuple(self.signatures)

    def verify(
        self,
        request: HttpRequest,
        *,
        keys: VerifiedServerKeys | Mapping[str, Ed25519PublicKey],
        received_ts: int,
        now: int,
        verifier: Verifier = LIBSODIUM,
        limits: JsonLimits = DEFAULT_LIMITS,
    ) -> ServerName:
        """Check that ``origin`` signed a request.

        The body of a stranger is not even parsed if none of the keys is known.

        Args:
            request: as it was received, its path still percent-encoded.
            keys: the keys that ``origin`` publishes; or key id to key, of keys that are valid now. Mind that they are
                those of :attr:`origin`.
            received_ts: when the keys were received, in milliseconds since the epoch. Not looked at for a mapping.
            now: the time, in milliseconds since the epoch.
            verifier: who checks.
            limits: depth, size and digits of the body. Read the request with the same.

        Returns:
            The name of the server that asks.

        Raises:
            MatrixError: what to answer: 401 if none of the keys is known, they are not valid any more, or a signature
                by one of them is not good; 400 if the body has no canonical encoding (413 if it is too large).
            LocalProtocolError: an argument has the wrong type, or the keys are another server's.
        """
        _check_request(request)
        check_verifier(verifier)
        check_limits(limits)
        known = self._known_keys(keys, received_ts, check_now(now))
        try:
            with raised_as(RemoteProtocolError):
                signed = _signed_part(request, self.origin, self.server_name, self.signatures, limits)
        except RemoteProtocolError as error:
            raise MatrixError.answering(error) from None
        for key_id, key in known.items():
            try:
                signed.verify(entity=self.origin, key_id=key_id, key=key, verifier=verifier)
            except VerificationError:
                raise _denied(f"Invalid signature by {self.origin} with key {quoted(key_id)}") from None
        return parse_server_name(self.origin)

    def _known_keys(self, keys: object, received_ts: int, now: int) -> dict[str, Ed25519PublicKey]:
        """Return those of the keys that are said to have signed, at least one."""
        if type(keys) is VerifiedServerKeys:
            if keys.server_name != self.origin:
                raise LocalProtocolError(
                    Reason.SERVER_NAME_MISMATCH,
                    f"these are the keys of {quoted(keys.server_name)}, not of {quoted(self.origin)}",
                    path="/keys",
                )
            if now > keys.usable_until(received_ts):  # "Keys used beyond this timestamp MUST be considered invalid"
                raise _denied(f"The keys of {self.origin} are not valid any more")
            by_key_id = keys.verify_keys
        else:
            with raised_as(LocalProtocolError):
                by_key_id = map_of(instances(Ed25519PublicKey))(keys, "keys")
        known = {key_id: by_key_id[key_id] for key_id in self.signatures if key_id in by_key_id}
        if not known:
            raise _denied(f"No key of {self.origin} is known that signed the request")
        return known


# --------------------------------------------------------------------------------------------------------------
# Both
# --------------------------------------------------------------------------------------------------------------


def _signed_part(
    request: HttpRequest, origin: str, destination: str, signatures: Mapping[str, str], limits: JsonLimits
) -> SignedJson:
    """Return what stands for a request where it is signed.

    Raises:
        Refusal: it has no canonical encoding.
        RemoteProtocolError: the body is not JSON at all.
    """
    tree: dict[str, Any] = {
        "method": request.method,
        "uri": request.target,
        "origin": origin,
        "destination": destination,
        "signatures": {origin: dict(signatures)},
    }
    if request.body:
        tree["content"] = parse_frame(request.body, limits=limits)
    (parts,) = read_signed_objects([tree])
    if isinstance(parts, Refusal):
        raise parts
    return new_signed_json(parts)


def _check_request(request: object) -> None:
    if type(request) is not HttpRequest:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the request must be an HttpRequest", path="/request")


def _denied(error: str) -> MatrixError:
    return MatrixError(status=401, errcode=_UNAUTHORIZED, error=error)
