"""What is said of a server that could not be asked.

Specification: client-server API, "Key management API": ``failures``.

Facts:

* "If any remote homeservers could not be reached, they are recorded here": a server that answers, but knows nothing of
  a user or device, has not failed.
* The specification leaves open what is said. Here it is an HTTP status, an error code if there is one, and a text.
* Nothing that another server says is passed on but the status: it was not meant for who asks.
"""

from __future__ import annotations

from typing import TypeVar

from attrs import frozen

from matrix_e2e_keys.endpoints.federation.user_keys_claim import UserKeysClaimResponse
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryResponse
from matrix_e2e_keys.endpoints.http_values import http_status
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import opaque_string, optional, settle
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.json_trees import JsonObject

__all__ = ["ServerFailure", "usable"]


def _status(value: object, *_at: str | int) -> int:
    return http_status(value, 400)


@frozen(kw_only=True)
class ServerFailure:
    """A server that did not answer, or not to the point.

    Attributes:
        status: an HTTP status, 400 or more: its own if it refused, else one that says what happened.
        errcode: the error code, ``None`` if there is none.
        message: a text for people.
    """

    status: int = 503
    errcode: str | None = None
    message: str = ""

    def __attrs_post_init__(self) -> None:
        settle(self, status=_status, errcode=optional(opaque_string), message=opaque_string)

    @classmethod
    def timed_out(cls) -> ServerFailure:
        """Return what to say of a server that has not answered in time, or was not asked because it is known to be
        down.
        """
        return cls(status=503, message="The server has not answered")

    @classmethod
    def of(cls, error: E2EKeysError) -> ServerFailure:
        """Return what to say of a server when ``error`` came of asking it.

        Of a refusal, the status is passed on, and of an answer that could not be read, why. A fault of this server
        itself is nobody's business.

        Raises:
            LocalProtocolError: it is no error of this library.
        """
        if not isinstance(error, E2EKeysError):
            raise LocalProtocolError(Reason.WRONG_TYPE, "an E2EKeysError is needed", path="/error")
        if isinstance(error, MatrixError):
            if error.in_answer:
                return cls(status=error.status, message="The server has refused")
            return cls(status=error.status, errcode=error.errcode, message=error.error)
        if isinstance(error, RemoteProtocolError):
            return cls(status=502, message=f"The answer cannot be read ({error.reason})")
        return cls(status=500, message="Internal server error")

    def to_json(self) -> JsonObject:
        """Return what stands in ``failures``."""
        body: JsonObject = {"status": self.status}
        if self.errcode is not None:
            body["errcode"] = self.errcode
        body["message"] = self.message
        return body


Answer = TypeVar("Answer", UserKeysQueryResponse, UserKeysClaimResponse)


def usable(answer: Answer | ServerFailure | None, entries: str) -> Answer | ServerFailure:
    """Return an answer if it can be looked into, else why not.

    Args:
        answer: what a server answered, ``None`` if it has not.
        entries: the member without which there is no answer.
    """
    if answer is None:
        return ServerFailure.timed_out()
    if isinstance(answer, ServerFailure):
        return answer
    for rejection in answer.malformed:
        # Taken for an answer that tells nothing, it would look as if nobody had any devices.
        if rejection.path == f"/{entries}":
            return ServerFailure.of(rejection.to_error())
    return answer
