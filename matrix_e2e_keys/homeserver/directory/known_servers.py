"""The published keys of other servers, as long as they may be used.

Specification: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from matrix_e2e_keys.endpoints.federation.server_keys import ServerKeysRequest
from matrix_e2e_keys.endpoints.http_values import HttpResponse
from matrix_e2e_keys.homeserver.federation_auth.authorization import XMatrixClaim
from matrix_e2e_keys.models.server_keys import VerifiedServerKeys
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = ["KnownServers"]

_REMEMBERED: Final = 10_000


@define
class KnownServers:
    """The keys of servers that have asked, each with the time when they were received. Not worth storing."""

    _verifier: Verifier = field(default=LIBSODIUM, alias="verifier")
    _keys: dict[str, tuple[VerifiedServerKeys, int]] = field(factory=dict, init=False)

    def keys_for(self, claim: XMatrixClaim, *, now: int) -> tuple[VerifiedServerKeys, int] | None:
        """Return the keys that a claim can be judged by and when they were received, ``None`` if they must be fetched.

        Keys must be fetched if they are not known or may not be used any more, or if the claim names others.
        """
        known = self._keys.get(claim.origin)
        if known is None or now > known[0].usable_until(known[1]):
            return None
        return known if any(key_id in known[0].verify_keys for key_id in claim.key_ids) else None

    def receive(self, server_name: str, response: HttpResponse, *, now: int) -> None:
        """Take over the answer of a server that was asked for its keys.

        Raises:
            MatrixError, RemoteProtocolError, VerificationError: it is none, or not to be believed.
        """
        document = ServerKeysRequest().read_answer(response).server_keys
        keys = document.verify(server_name=server_name, verifier=self._verifier)
        self._keys.pop(server_name, None)
        self._keys[server_name] = (keys, now)
        if len(self._keys) > _REMEMBERED:
            del self._keys[next(iter(self._keys))]
