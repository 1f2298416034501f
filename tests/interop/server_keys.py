"""The keys that homeservers publish of themselves: our own to show, those of others to fetch."""

from __future__ import annotations

import time

from interop.certificates import Certificates
from interop.federation_http import send_over_tls
from interop.matrix_http import HttpFailure
from interop.x_matrix import XMatrixError
from matrix_e2e_keys import (
    E2EKeysError,
    Ed25519PublicKey,
    ServerKeys,
    ServerKeysRequest,
    ServerKeysResponse,
    Signer,
    VerifiedServerKeys,
)

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
        self._known: dict[str, VerifiedServerKeys] = {}

    def key_of(self, server_name: str, key_id: str) -> Ed25519PublicKey:
        """Return a key that is valid now.

        Raises:
            XMatrixError: the server does not answer, has no such key, or did not sign its answer with it.
        """
        if server_name not in self._known:
            self._known[server_name] = self._fetched(server_name)
        try:
            return self._known[server_name].verify_keys[key_id]
        except KeyError:
            raise XMatrixError(f"no key {key_id} of {server_name}") from None

    def _fetched(self, server_name: str) -> VerifiedServerKeys:
        try:
            answer = send_over_tls(server_name, self._certificates, ServerKeysRequest().to_http())
            keys = ServerKeysResponse.from_http(answer).server_keys.verify(server_name=server_name)
        except (HttpFailure, E2EKeysError) as error:
            raise XMatrixError(f"no keys of {server_name}: {error}") from error
        if keys.usable_until(now_ms()) <= now_ms():
            raise XMatrixError(f"the keys of {server_name} are not valid any more")
        return keys
