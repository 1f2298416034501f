"""Requests from server to server, over TLS: bytes out, bytes in."""

from __future__ import annotations

import http.client

from interop.certificates import Certificates
from interop.matrix_http import exchange
from matrix_e2e_keys import HttpRequest, HttpResponse


def send_over_tls(
    server_name: str,
    certificates: Certificates,
    request: HttpRequest,
    authorization: str | None = None,
    *,
    timeout: float = 30,
) -> HttpResponse:
    """Send a request to ``localhost:<port>``.

    Raises:
        HttpFailure: there was no answer, or the server is not one of ``certificates``.
    """
    connection = http.client.HTTPSConnection(server_name, context=certificates.client_context(), timeout=timeout)
    return exchange(connection, request, {} if authorization is None else {"Authorization": authorization})
