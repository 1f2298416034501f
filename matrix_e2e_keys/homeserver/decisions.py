"""What a homeserver decides: effects for its store, and an answer.

Facts:

* A decision is made from a request and a view of what is stored. It changes nothing. Either everything it says is done,
  in one transaction, or nothing: a refusal has no effects at all.
* Effects are plain values; see :mod:`~matrix_e2e_keys.homeserver.effects`.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from attrs import frozen

from matrix_e2e_keys.endpoints.dialects import Dialect
from matrix_e2e_keys.endpoints.http_values import HttpResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import boolean, device_id, optional, settle, user_id
from matrix_e2e_keys.endpoints.messages import Response
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.effects import Effect

__all__ = ["Decision", "Requester", "check_requester", "refuse"]


@frozen(kw_only=True)
class Requester:
    """Who asks, as the access token says.

    Attributes:
        user_id: the user.
        device_id: the device, ``None`` if the token belongs to none.
        has_authenticated: whether user-interactive authentication was completed for this very request.
        is_application_service: whether it is an application service that acts for the user.
    """

    user_id: str
    device_id: str | None = None
    has_authenticated: bool = False
    is_application_service: bool = False

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            user_id=user_id,
            device_id=optional(device_id),
            has_authenticated=boolean,
            is_application_service=boolean,
        )


Answer_co = TypeVar("Answer_co", bound=Response, covariant=True)


@frozen(kw_only=True)
class Decision(Generic[Answer_co]):
    """What to store, and what to answer.

    Attributes:
        effects: what to do, in order and in one transaction; nothing if the request is refused.
        answer: the answer, or the error.
    """

    answer: Answer_co | MatrixError
    effects: tuple[Effect, ...] = ()

    @property
    def is_refusal(self) -> bool:
        """Whether the answer is an error."""
        return self.refusal is not None

    @property
    def refusal(self) -> MatrixError | None:
        """The error, ``None`` if the answer is none."""
        return self.answer if isinstance(self.answer, MatrixError) else None

    def require(self) -> Answer_co:
        """Return the answer.

        Raises:
            MatrixError: the request is refused.
        """
        if isinstance(self.answer, MatrixError):
            raise self.answer
        return self.answer

    def to_http(self, dialect: Dialect | None = None) -> HttpResponse:
        """Return what to send.

        Raises:
            LocalProtocolError: the dialect cannot say it.
        """
        return self.answer.to_http() if isinstance(self.answer, MatrixError) else self.answer.to_http(dialect)


def refuse(status: int, errcode: str, error: str) -> Decision[Any]:
    """Return the decision to answer with an error."""
    return Decision(answer=MatrixError(status=status, errcode=errcode, error=error))


def check_requester(requester: object) -> Requester:
    """Take a requester.

    Raises:
        LocalProtocolError: it is none.
    """
    if type(requester) is not Requester:
        raise LocalProtocolError(Reason.WRONG_TYPE, "who asks must be a Requester", path="/requester")
    return requester
