"""The keys that homeservers publish of themselves: our own to show, those of others to fetch."""

from __future__ import annotations

import time

from interop.certificates import Certificates
from interop.federation_http import send_over_tls
from interop.matrix_http import HttpFailure
from matrix_e2e_keys import (
    E2EKeysError,
    HttpRequest,
    MatrixError,
    ServerKeys,
    ServerKeysRequest,
    ServerKeysResponse,
    Signer,
    VerifiedServerKeys,
)
from matrix_e2e_keys.homeserver.federation_auth.authorization import read_authorization

VALID_MILLISECONDS = 3_600_000


def now_ms() -> int:
    """Return the time as Matrix counts it."""
    return time.time_ns() // 1_000_000


def published_keys(server_name: str, signer: Signer) -> ServerKeysResponse:
    """Return the answer of a server whose one key is that of ``signer``."""
    valid_until_ts = now_ms() + VALID_MILLISECONDS
    keys = ServerKeys.build(server_name=server_name, signers=[signer], valid_until_ts=valid_until_ts)
    return ServerKeysResponse(server_keys=keys)


class KnownServers:
    """Fetches the keys of servers, each server's once."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._known: dict[str, tuple[VerifiedServerKeys, int]] = {}

    def origin_of(self, request: HttpRequest, authorization: str | None, *, asked: str) -> str:
        """Return the name of the server that signed a request which came to the server ``asked``.

        Raises:
            MatrixError: nobody did, or the keys of who says so cannot be had.
        """
        claim = read_authorization([] if authorization is None else [authorization], server_name=asked)
        keys, received_ts = self.keys_of(claim.origin)
        return claim.verify(request, keys=keys, received_ts=received_ts, now=now_ms())

    def keys_of(self, server_name: str) -> tuple[VerifiedServerKeys, int]:
        """Return the keys of a server, and when they were received.

        Raises:
            MatrixError: the server does not answer, or did not sign its answer.
        """
        if server_name not in self._known:
            self._known[server_name] = self._fetched(server_name), now_ms()
        return self._known[server_name]

    def _fetched(self, server_name: str) -> VerifiedServerKeys:
        try:
            answer = send_over_tls(server_name, self._certificates, ServerKeysRequest().to_http())
            return ServerKeysResponse.from_http(answer).server_keys.verify(server_name=server_name)
        except (HttpFailure, E2EKeysError) as error:
            detail = f"no keys of {server_name}: {error}"
            raise MatrixError(status=401, errcode="M_UNAUTHORIZED", error=detail) from error
