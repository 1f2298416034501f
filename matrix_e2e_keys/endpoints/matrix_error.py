"""An answer that says no.

Specification: client-server API, "Standard error response" and "Rate limiting".

Facts:

* Whatever has a status of 400 or more is one of these, be its body JSON, a web page or nothing: the status always says
  something, and a client must be able to go by it.
* "Errors are generally best expressed by their error code rather than the HTTP status code returned"; for ``M_UNKNOWN``
  the other way round.
* An answer that asks for user-interactive authentication (401) comes as one of these too; see
  :attr:`MatrixError.user_interactive`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import evolve

from matrix_e2e_keys.endpoints.http_values import HttpResponse, encode_body, http_status
from matrix_e2e_keys.endpoints.members import count, extra_beside, instances, opaque_string, optional
from matrix_e2e_keys.endpoints.user_interactive import AUTH_MEMBERS, UserInteractiveAuth, read_user_interactive_auth
from matrix_e2e_keys.errors import (
    E2EKeysError,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    VerificationError,
    printable,
    raised_as,
)
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import DEFAULT_LIMITS, MAX_SAFE_INTEGER, JsonLimits, JsonObject, check_limits, thaw

__all__ = ["MatrixError"]

_MEMBERS: Final = ("errcode", "error", "retry_after_ms")
_UNAUTHORIZED: Final = 401
_SECONDS: Final = re.compile(r"[0-9]{1,10}")


class MatrixError(E2EKeysError):
    """A server refused: raised where a client reads its answer, and made by a homeserver in order to answer.

    Two of them are equal if status, error code, text, delay, authentication and further members are.

    Attributes:
        status: the HTTP status, 400 or more.
        errcode: the error code, ``None`` if the answer names none.
        error: the text for people. Untrusted.
        retry_after_ms: how many milliseconds to wait, ``None`` if the answer does not say. It is the member of the body
            or, if there is none, the seconds in the header ``Retry-After``. A date there is left to those who have a
            clock: it stands in the headers of the answer.
        user_interactive: what has to be proved first, ``None`` if the answer does not ask for that.
        extra: all other members of the body, for example ``soft_logout``.
        body: the body as it was received, empty for an error made here.
        in_answer: whether it was read off an answer, and not made here. Left out of equality.
    """

    status: int
    errcode: str | None
    error: str
    retry_after_ms: int | None
    user_interactive: UserInteractiveAuth | None
    extra: Mapping[str, Any]
    body: bytes
    in_answer: bool = False

    def __init__(
        self,
        *,
        status: int,
        errcode: str | None = "M_UNKNOWN",
        error: str = "",
        retry_after_ms: int | None = None,
        user_interactive: UserInteractiveAuth | None = None,
        extra: Mapping[str, Any] | None = None,
        body: bytes = b"",
    ) -> None:
        known = _MEMBERS if user_interactive is None else (*_MEMBERS, *AUTH_MEMBERS)
        with raised_as(LocalProtocolError):
            self.errcode = optional(opaque_string)(errcode, "errcode")
            self.error = opaque_string(error, "error")
            self.retry_after_ms = optional(count)(retry_after_ms, "retry_after_ms")
            self.user_interactive = optional(instances(UserInteractiveAuth))(user_interactive, "user_interactive")
            self.extra = extra_beside(*known)({} if extra is None else extra, "extra")
        if type(body) is not bytes:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the body of an answer must be bytes", path="/body")
        self.status = http_status(status, 400)
        if user_interactive is not None and self.status != _UNAUTHORIZED:
            raise LocalProtocolError(
                Reason.INVALID_VALUE, "authentication is asked for with status 401", path="/status"
            )
        if user_interactive is None and self.status == _UNAUTHORIZED and read_user_interactive_auth(dict(self.extra)):
            raise LocalProtocolError(
                Reason.INVALID_VALUE, "flows in an answer of status 401 ask for authentication", path="/extra/flows"
            )
        self.body = body
        named = " ".join(part for part in (str(self.status), self.errcode) if part)
        super().__init__(Reason.ANSWERED_WITH_ERROR, f"the answer is {named}: {self.error or 'no text'}")

    @classmethod
    def from_http(cls, response: HttpResponse, *, limits: JsonLimits = DEFAULT_LIMITS) -> MatrixError:
        """Read an answer with a status of 400 or more. Every such answer can be read.

        Args:
            response: the answer.
            limits: size and digits of a body that is looked into. A larger one is kept unread.

        Raises:
            LocalProtocolError: the answer has another status.
            RemoteProtocolError: the stack is too full to read it.
        """
        check_limits(limits)
        if type(response) is not HttpResponse:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the answer must be an HttpResponse")
        http_status(response.status, 400)
        shallow = evolve(limits, max_depth=min(limits.max_depth, DEFAULT_LIMITS.max_depth))
        tree = _body_as_object(response.body, shallow)
        errcode, error, delay = (tree.get(name) for name in _MEMBERS)
        with raised_as(RemoteProtocolError):
            auth = read_user_interactive_auth(tree) if response.status == _UNAUTHORIZED else None
            known = _MEMBERS if auth is None else (*_MEMBERS, *AUTH_MEMBERS)
            error_in_answer = cls(
                status=response.status,
                errcode=printable(errcode) if type(errcode) is str else None,
                error=printable(error) if type(error) is str else "",
                retry_after_ms=_delay(delay, response.headers.get("retry-after", "")),
                user_interactive=auth,
                extra={name: member for name, member in tree.items() if name not in known},
                body=response.body,
            )
        error_in_answer.in_answer = True
        return error_in_answer

    @classmethod
    def answering(cls, error: E2EKeysError) -> MatrixError:
        """Return what a homeserver answers when ``error`` was raised while it worked on a request.

        A request that could not be read is answered with the error's own code, a signature that is none with
        ``M_INVALID_SIGNATURE``. A :class:`MatrixError` made by the homeserver is the answer already. What another
        server answered, be it a refusal or nonsense, is not passed on, since it was not meant for who asks now: 502. A
        :class:`~matrix_e2e_keys.LocalProtocolError` is the homeserver's own fault: 500, and nothing is told.
        """
        if isinstance(error, MatrixError):
            return cls(status=502, error="Another server refused") if error.in_answer else error
        if isinstance(error, RemoteProtocolError):
            return cls(status=error.http_status, errcode=error.errcode, error=printable(str(error)))
        if isinstance(error, VerificationError):
            return cls(status=400, errcode="M_INVALID_SIGNATURE", error=printable(str(error)))
        return cls(status=500, error="Internal server error")

    def to_json(self) -> JsonObject:
        """Return the body of the answer."""
        body: JsonObject = thaw(dict(self.extra))
        if self.user_interactive is not None:
            body.update(self.user_interactive.to_json())
        if self.errcode is not None:
            body["errcode"] = self.errcode
        if self.errcode is not None or self.error:
            body["error"] = self.error
        if self.retry_after_ms is not None:
            body["retry_after_ms"] = self.retry_after_ms
        return body

    def to_http(self) -> HttpResponse:
        """Return the answer."""
        headers = {} if self.retry_after_ms is None else {"retry-after": str(-(-self.retry_after_ms // 1000))}
        return HttpResponse(status=self.status, body=encode_body(self.to_json()), headers=headers)

    def _values(self) -> tuple[object, ...]:
        return (
            self.status,
            self.errcode,
            self.error,
            self.retry_after_ms,
            self.user_interactive,
            dict(self.extra),
        )

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is MatrixError else NotImplemented

    def __repr__(self) -> str:
        return f"<MatrixError {self.status} {self.errcode}: {self.error!r}>"

    def __hash__(self) -> int:
        return hash((self.status, self.errcode, self.error))

    def __reduce__(self) -> tuple[object, ...]:
        auth = None if self.user_interactive is None else self.user_interactive.to_json()
        members = {
            "status": self.status,
            "errcode": self.errcode,
            "error": self.error,
            "retry_after_ms": self.retry_after_ms,
            "extra": dict(self.extra),
            "body": self.body,
        }
        return _rebuild, (members, auth, self.in_answer)


def _rebuild(members: dict[str, Any], auth: dict[str, Any] | None, in_answer: bool) -> MatrixError:
    error = MatrixError(**members, user_interactive=None if auth is None else read_user_interactive_auth(auth))
    error.in_answer = in_answer
    return error


def _body_as_object(body: bytes, limits: JsonLimits) -> dict[str, Any]:
    try:
        tree = thaw(parse_frame(body, limits=limits))
    except (RemoteProtocolError, LocalProtocolError):
        return {}
    return tree if type(tree) is dict else {}


def _delay(member: object, header: str) -> int | None:
    if type(member) is int and 0 <= member <= MAX_SAFE_INTEGER:
        return member
    return int(header) * 1000 if _SECONDS.fullmatch(header) else None
