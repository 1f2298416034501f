"""What goes in and out of a directory.

Fact: an exchange is one request that came in, on its way to an answer. It may take requests to other servers first;
whoever has the transport sends them, in whatever order and at the same time, and goes on with what came back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from attrs import field, frozen

from matrix_e2e_keys.back_off import check_now
from matrix_e2e_keys.endpoints.client_server.sync import SyncKeys
from matrix_e2e_keys.endpoints.http_values import HttpRequest, HttpResponse
from matrix_e2e_keys.endpoints.members import instances, map_of, optional
from matrix_e2e_keys.errors import LocalProtocolError, Reason, raised_as
from matrix_e2e_keys.json_trees import JsonObject, thaw

__all__ = ["Answers", "Exchange", "ServerRequest", "SyncAnswer"]

Answers: TypeAlias = Mapping[str, HttpResponse | None]
"""Server name to its answer, ``None`` if none came in time. A server that is not named did not answer either."""


@frozen(kw_only=True, eq=False)
class ServerRequest:
    """A request to another homeserver. Each is equal to itself only: the same may be asked twice, at two times.

    Attributes:
        server_name: the server to ask.
        request: what to send.
        authorization: the values of the ``Authorization`` headers, one header each.
        timeout_ms: how long to wait for the answer, in milliseconds.
    """

    server_name: str
    request: HttpRequest
    authorization: tuple[str, ...] = ()
    timeout_ms: int = 10_000


Step: TypeAlias = Callable[[Answers, int], "Exchange"]


@frozen(kw_only=True)
class Exchange:
    """A request that came in, on its way to an answer.

    Attributes:
        requests: what to ask other servers now, one request each; empty once there is an answer.
        response: the answer, ``None`` as long as there are requests.
    """

    requests: tuple[ServerRequest, ...] = ()
    response: HttpResponse | None = None
    _step: Step | None = field(default=None, repr=False, eq=False, alias="step")

    def proceed(self, answers: Answers, *, now: int) -> Exchange:
        """Go on with the answers of other servers. Each exchange is gone on with once.

        Args:
            answers: what came back.
            now: milliseconds since the epoch.

        Raises:
            LocalProtocolError: there is an answer already, or the answers are none.
        """
        if self._step is None:
            raise LocalProtocolError(Reason.WRONG_STATE, "the exchange is over")
        check_now(now)
        with raised_as(LocalProtocolError):
            checked = map_of(optional(instances(HttpResponse)))(answers, "answers")
        return self._step(checked, now)


@frozen(kw_only=True)
class SyncAnswer:
    """What ``/sync`` says to a device.

    Attributes:
        next_batch: the token to come back with.
        keys: what it says about keys.
        to_device: events sent to the device, oldest first.
    """

    next_batch: str
    keys: SyncKeys
    to_device: tuple[JsonObject, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the body of the answer, with nothing in it about rooms."""
        return {
            **self.keys.to_sync_v2(),
            "next_batch": self.next_batch,
            "to_device": {"events": [thaw(event) for event in self.to_device]},
        }
