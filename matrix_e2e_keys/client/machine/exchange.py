"""Requests that are under way, and who wants to know what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field, frozen

from matrix_e2e_keys.client.machine.values import MachineRequest, MachineResponse, OutgoingRequest, Received
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason

__all__ = ["Exchange", "Question", "wait"]


@frozen
class Question:
    """A request to send.

    Attributes:
        kind: which part asks.
        request: what it asks.
        answered: takes the answer, of the class that belongs to the request, and the caller's time.
        failed: takes what the server said instead, ``None`` if nothing, and the caller's time.
    """

    kind: str
    request: MachineRequest
    answered: Callable[[Any, int], Received]
    failed: Callable[[MatrixError | None, int], Received]


@define
class Exchange:
    """What is under way."""

    _last_request: int = field(default=0, init=False)
    _under_way: dict[str, Question] = field(factory=dict, init=False)

    def send(self, question: Question, now: int) -> OutgoingRequest:
        """Take note of a request that is sent now."""
        self._last_request += 1
        request_id = f"{question.kind}-{self._last_request}-{now}"  # another one after a restart
        self._under_way[request_id] = question
        return OutgoingRequest(request_id=request_id, request=question.request)

    def is_under_way(self, kind: str) -> bool:
        """Whether some part waits for an answer."""
        return any(question.kind == kind for question in self._under_way.values())

    def receive_response(self, request_id: str, response: MachineResponse, now: int) -> Received:
        """Hand an answer to whoever asked. Nothing comes of an answer to nothing.

        Raises:
            LocalProtocolError: it is the answer to another kind of request, or the id is none.
        """
        question = self._under_way.get(_checked_id(request_id))
        if question is None:
            return Received()
        if type(response) is not question.request.answer_type():
            raise LocalProtocolError(Reason.WRONG_TYPE, "this is no answer to that request", path="/response")
        del self._under_way[request_id]
        return question.answered(response, now)

    def receive_error(self, request_id: str, error: E2EKeysError | None, now: int) -> Received:
        """Hand a failure to whoever asked. Nothing comes of the failure of nothing.

        Raises:
            LocalProtocolError: it is no error of this library, or the id is none.
        """
        if error is not None and not isinstance(error, E2EKeysError):
            raise LocalProtocolError(Reason.WRONG_TYPE, "a MatrixError is needed", path="/error")
        question = self._under_way.pop(_checked_id(request_id), None)
        if question is None:
            return Received()
        # What cannot be read says no more than no answer.
        refusal = error if isinstance(error, MatrixError) else None
        return evolve(question.failed(refusal, now), error=error)


def wait(error: MatrixError | None) -> int | None:
    """Return how long a server wants one to wait, in milliseconds, if it says so."""
    return None if error is None else error.retry_after_ms


def _checked_id(request_id: object) -> str:
    if type(request_id) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the id of a request is a string", path="/request_id")
    return request_id
