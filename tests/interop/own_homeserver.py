"""A homeserver made of the standard library: bytes in, bytes out, over TLS. What they mean is left to a function."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from interop.certificates import Certificates
from interop.ports import free_port
from matrix_e2e_keys import HttpRequest, HttpResponse, MatrixError

STOP_SECONDS = 10.0

Handle: TypeAlias = Callable[[HttpRequest, str | None], HttpResponse]
"""``handle(request, authorization)`` returns the answer. It is called in threads."""


class _Server(ThreadingHTTPServer):
    """Shakes hands in the thread of a connection, and knows the connections that are open."""

    daemon_threads = True

    def __init__(self, port: int, context: ssl.SSLContext, handle: Handle) -> None:
        self.handle = handle
        self.errors: list[Exception] = []
        self._context = context
        self._open: set[socket.socket] = set()
        self._none_open = threading.Condition()
        super().__init__(("127.0.0.1", port), _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = self.socket.accept()
        connection = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with self._none_open:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._none_open:
            self._open.discard(request)
            self._none_open.notify_all()

    def hang_up(self) -> None:
        """End every connection: those that idle would outlive the server, since peers keep them for later."""
        with self._none_open:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # beneath TLS: the reader sees the end
            self._none_open.wait_for(lambda: not self._open, STOP_SECONDS)

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that went away is the test's business, and errors of the handler do not come here."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the answer is sent in one piece, and at once: two pieces would wait for an acknowledgment
    disable_nagle_algorithm = True
    server: _Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            request = HttpRequest.from_target(method=self.command, target=self.path, body=body)
            answer = self.server.handle(request, self.headers.get("Authorization"))
        except Exception as error:  # noqa: BLE001 - raised in the test's thread, by stop()
            self.server.errors.append(error)
            answer = MatrixError(status=500, error="the handler failed").to_http()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class OwnHomeserver:
    """A server that has its name from the beginning, and answers between :meth:`start` and :meth:`stop`."""

    def __init__(self, certificates: Certificates) -> None:
        self._port = free_port()
        self.server_name = f"localhost:{self._port}"
        self._context = certificates.server_context()
        self._server: _Server | None = None

    def start(self, handle: Handle) -> None:
        """Listen, and answer what ``handle`` says. Works again after a stop, under the same name."""
        assert self._server is None
        self._server = _Server(self._port, self._context, handle)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening and hang up. To stop twice is fine.

        Raises:
            ExceptionGroup: what ``handle`` raised, if it did. The peer got a status 500.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        server.hang_up()
        if server.errors:
            raise ExceptionGroup("the handler failed", server.errors)


MakeOwnHomeserver: TypeAlias = Callable[[], OwnHomeserver]
"""A fixture: ``new_own_homeserver()`` makes a server, which is to be started."""
