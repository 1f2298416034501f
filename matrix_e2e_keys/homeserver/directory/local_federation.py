"""Several directories wired to each other, without a network: a federation in one process.

Fact: everything goes through the same requests and answers as between real servers, signatures of requests included.
Servers can be taken off the net, and be brought back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define

from matrix_e2e_keys.back_off import check_now
from matrix_e2e_keys.endpoints.http_values import HttpRequest, HttpResponse
from matrix_e2e_keys.endpoints.members import instances
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted, raised_as
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.directory.key_directory import KeyDirectory
from matrix_e2e_keys.homeserver.directory.values import Exchange, ServerRequest

__all__ = ["LocalFederation"]

_MAX_DEPTH: Final = 8
_MAX_REQUESTS: Final = 100_000


@define(init=False)
class LocalFederation:
    """Some homeservers, and the wires between them.

    Attributes:
        down: the names of servers that cannot be reached at the moment.
    """

    _directories: dict[str, KeyDirectory]
    down: set[str]

    def __init__(self, directories: Iterable[KeyDirectory]) -> None:
        """Wire some directories.

        Raises:
            LocalProtocolError: they are none, or two have one name.
        """
        self._directories = {}
        self.down = set()
        if not isinstance(directories, Iterable):
            raise LocalProtocolError(Reason.WRONG_TYPE, "KeyDirectories are needed", path="/directories")
        for directory in directories:
            if type(directory) is not KeyDirectory:
                raise LocalProtocolError(Reason.WRONG_TYPE, "KeyDirectories are needed", path="/directories")
            if directory.server_name in self._directories:
                raise LocalProtocolError(
                    Reason.INVALID_VALUE, f"two servers are called {quoted(directory.server_name)}", path="/directories"
                )
            self._directories[directory.server_name] = directory

    def __getitem__(self, server_name: str) -> KeyDirectory:
        """Return the directory of a server.

        Raises:
            LocalProtocolError: there is none of that name.
        """
        if type(server_name) is not str or server_name not in self._directories:
            raise LocalProtocolError(
                Reason.INVALID_VALUE, f"there is no server {quoted(server_name)}", path="/server_name"
            )
        return self._directories[server_name]

    def replace(self, directory: KeyDirectory) -> None:
        """Put another directory in the place of the one of the same name, for example one that was restored.

        Raises:
            LocalProtocolError: it is none, or there was none of that name.
        """
        if type(directory) is not KeyDirectory:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a KeyDirectory is needed", path="/directory")
        self[directory.server_name]  # must be there
        self._directories[directory.server_name] = directory

    def exchange(self, server_name: str, request: HttpRequest, *, requester: Requester, now: int) -> HttpResponse:
        """Ask a server as one of its users, and return the answer.

        Args:
            server_name: the user's server.
            request: what to ask.
            requester: who asks.
            now: milliseconds since the epoch.

        Raises:
            LocalProtocolError: there is no such server, or an argument has the wrong type.
        """
        exchange = self[server_name].receive_client_request(request, requester=requester, now=now)
        return self._finished(exchange, now, _MAX_DEPTH)

    def send(self, request: ServerRequest, *, now: int) -> HttpResponse | None:
        """Send a request to another server, and return the answer, ``None`` if it cannot be reached.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        with raised_as(LocalProtocolError):
            instances(ServerRequest)(request, "request")
        check_now(now)
        return self._sent(request, now, _MAX_DEPTH)

    def settle(self, *, now: int) -> int:
        """Send everything that the servers have for each other now, until nothing is left. Return how much it was."""
        check_now(now)
        sent = 0
        while sent < _MAX_REQUESTS:
            before = sent
            for name, directory in list(self._directories.items()):
                request = None if name in self.down else directory.next_request(now=now)
                if request is not None:
                    sent += 1
                    directory.receive_answer(request, self.send(request, now=now), now=now)
            if sent == before:
                break
        return sent

    def _sent(self, request: ServerRequest, now: int, room: int) -> HttpResponse | None:
        directory = self._directories.get(request.server_name)
        if directory is None or request.server_name in self.down or not room:
            return None
        exchange = directory.receive_server_request(request.request, authorization=request.authorization, now=now)
        return self._finished(exchange, now, room - 1)

    def _finished(self, exchange: Exchange, now: int, room: int) -> HttpResponse:
        while exchange.response is None:
            answers = {request.server_name: self._sent(request, now, room) for request in exchange.requests}
            exchange = exchange.proceed(answers, now=now)
        return exchange.response
