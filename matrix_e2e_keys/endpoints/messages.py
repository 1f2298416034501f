"""What all requests and all answers have in common: they become HTTP, and are made of HTTP.

Facts:

* A request class and a response class stand for one endpoint, whoever sends and whoever receives.
* ``decode(encode(x)) == x`` in both directions. Nothing is verified here, and nobody is asked whether an answer fits
  its question.
* What is wrong with a request that was received is a :class:`~matrix_e2e_keys.RemoteProtocolError`, which carries the
  error code and status to answer with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from attrs import evolve, field, frozen

from matrix_e2e_keys.endpoints.dialects import Dialect, Endpoint, Match
from matrix_e2e_keys.endpoints.http_values import (
    HttpRequest,
    HttpResponse,
    encode_body,
    fill_template,
    join_query,
    parameters_of,
    split_query,
)
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import extra_beside, settle
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, quoted, raised_as
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import DEFAULT_LIMITS, JsonLimits, JsonObject, check_limits, object_in, snapshot, thaw

__all__ = ["BodyRequest", "EmptyResponse", "Request", "Response", "others", "refuse_error", "required"]


Answer = TypeVar("Answer", bound="Response")


def _in_dialect(body: JsonObject, dialect: Dialect, message: object) -> JsonObject:
    """Return ``body`` without the members that the dialect lacks, which must be empty.

    A member that nobody knows in such a message is none of them, whatever its name.
    """
    malformed = {rejection.path for rejection in getattr(message, "malformed", ())}
    for name in sorted((dialect.lacks & body.keys()).difference(getattr(message, "extra", ()))):
        if body[name] != {} or f"/{name}" in malformed:
            raise LocalProtocolError(Reason.NOT_IN_DIALECT, f"{dialect.name} has no {name}", path=f"/{name}")
        del body[name]
    return body


def required(tree: dict[str, Any], name: str) -> Any:
    """Return the member ``name``, which must be there."""
    if name not in tree:
        raise Refusal(Reason.MISSING_MEMBER, f"there is no {name}", name)
    return tree[name]


def refuse_error(tree: dict[str, Any], *known: str) -> None:
    """Refuse what calls itself an answer, and is an error: it names an error code, and nothing of an answer."""
    if "errcode" in tree and not any(name in tree for name in known):
        raise Refusal(Reason.NOT_AN_ANSWER, "an error with the status of an answer", "errcode")


def others(tree: dict[str, Any], *known: str) -> dict[str, Any]:
    """Return the members that are not ``known``."""
    return {name: member for name, member in tree.items() if name not in known}


class Request(Generic[Answer]):
    """What is asked, without a body.

    Attributes:
        endpoint: the row of the table.
    """

    __slots__ = ()
    endpoint: ClassVar[Endpoint]

    def to_http(self, dialect: Dialect | None = None) -> HttpRequest:
        """Return the request as HTTP.

        Args:
            dialect: the dialect to speak; by default the newest.

        Raises:
            LocalProtocolError: the dialect does not have the endpoint, or lacks what is asked.
        """
        endpoint = self.endpoint
        spoken = endpoint.dialect(dialect)
        with raised_as(LocalProtocolError):
            self._check_dialect(spoken)
        body, parameters, template = self._body(), self._parameters(), endpoint.template(spoken)
        for name in parameters.keys() - parameters_of(template) - set(endpoint.query):
            if parameters[name] is not None:
                raise LocalProtocolError(Reason.NOT_IN_DIALECT, f"{spoken.name} has no {name}", path=f"/{name}")
        return HttpRequest(
            method=endpoint.method,
            path=fill_template(template, parameters),
            query=join_query({name: parameters[name] for name in endpoint.query}),
            body=b"" if body is None else encode_body(_in_dialect(body, spoken, self)),
        )

    @classmethod
    def answer_type(cls) -> type[Answer]:
        """Return the class of the answers."""
        raise NotImplementedError

    def read_answer(self, response: HttpResponse, *, limits: JsonLimits = DEFAULT_LIMITS) -> Answer:
        """Read the answer to this request; see :meth:`Response.from_http`.

        Raises:
            MatrixError: the server refused (4xx, 5xx).
            RemoteProtocolError: the body is not the frame of an answer. A malformed entry in it is no error.
        """
        return self.answer_type().from_http(response, limits=limits)

    @classmethod
    def from_http(cls, request: HttpRequest, *, limits: JsonLimits = DEFAULT_LIMITS) -> Self:
        """Read a request, in whatever dialect it comes.

        Args:
            request: as it was received, its path still percent-encoded.
            limits: depth, size and digits of the body.

        Raises:
            RemoteProtocolError: it is another request, or none. A homeserver answers with ``errcode`` and
                ``http_status``; see :meth:`MatrixError.answering`.
        """
        if type(request) is not HttpRequest:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the request must be an HttpRequest")
        check_limits(limits)
        match = cls.endpoint.match(request)
        if match is None:
            raise RemoteProtocolError(
                Reason.UNRECOGNIZED_ENDPOINT, f"{cls.endpoint.name} is not asked for at {quoted(request.path)}"
            )
        return cls.from_match(match, request, limits=limits)

    @classmethod
    def from_match(cls, match: Match, request: HttpRequest, *, limits: JsonLimits = DEFAULT_LIMITS) -> Self:
        """Read a request whose endpoint :func:`find_endpoint` has found already.

        Raises:
            RemoteProtocolError: it is malformed.
        """
        if type(match) is not Match or match.endpoint is not cls.endpoint:
            raise LocalProtocolError(Reason.WRONG_TYPE, f"a Match of {cls.endpoint.name} is needed", path="/match")
        if type(request) is not HttpRequest:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the request must be an HttpRequest")
        check_limits(limits)
        parameters = {**match.parameters, **split_query(request.query, cls.endpoint.query)}
        for name in cls.endpoint.query:
            if name not in parameters:
                raise RemoteProtocolError(Reason.MISSING_PARAMETER, f"there is no {name} in the query", path=f"/{name}")
        return cls._read(request.body, parameters, limits)

    def _parameters(self) -> Mapping[str, str | None]:
        """Return the parameters in path and query."""
        return {}

    def _body(self) -> JsonObject | None:
        """Return the body, ``None`` if the request has none."""
        return None

    def _check_dialect(self, dialect: Dialect) -> None:
        """Refuse what the dialect cannot say beyond the members that it lacks."""

    @classmethod
    def _read(cls, body: bytes | str, parameters: Mapping[str, str], limits: JsonLimits) -> Self:  # noqa: ARG003
        """Make the request of its body and parameters."""
        with raised_as(RemoteProtocolError):
            return cls._of(parameters)

    @classmethod
    def _of(cls, parameters: Mapping[str, str]) -> Self:
        """Make a request without a body of its parameters, which are its fields unless a subclass says otherwise."""
        return cls(**parameters)


class BodyRequest(Request[Answer]):
    """What is asked, with a body.

    Where a request has parameters in its path, the methods that read a body take them by name, decoded: a server that
    has its own router knows them.
    """

    __slots__ = ()

    def to_json(self) -> JsonObject:
        """Return the request body."""
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, body: bytes | str, *, limits: JsonLimits = DEFAULT_LIMITS, **parameters: str) -> Self:
        """Read a request body.

        Raises:
            RemoteProtocolError: it is not a request. A homeserver answers with its ``errcode`` and ``http_status``.
            LocalProtocolError: a parameter is missing or unknown.
        """
        cls._check_parameters(parameters)
        return cls._read(body, parameters, limits)

    @classmethod
    def from_json(cls, obj: object, **parameters: str) -> Self:
        """Read a request body that has been parsed already; the value given is copied.

        Raises:
            RemoteProtocolError: it is not a request.
            LocalProtocolError: a parameter is missing or unknown.
        """
        cls._check_parameters(parameters)
        with raised_as(RemoteProtocolError):
            return cls._read_tree(snapshot(obj), parameters)

    @classmethod
    def _check_parameters(cls, parameters: Mapping[str, str]) -> None:
        needed, known = cls.endpoint.parameters
        for name in sorted(needed - parameters.keys()):
            raise LocalProtocolError(Reason.MISSING_PARAMETER, f"the parameter {name} is needed", path=f"/{name}")
        for name in sorted(parameters.keys() - known):
            raise LocalProtocolError(Reason.INVALID_VALUE, f"there is no parameter {quoted(name)}")
        for name, value in parameters.items():
            if type(value) is not str:
                raise LocalProtocolError(Reason.WRONG_TYPE, f"the parameter {name} must be a string", path=f"/{name}")

    def _body(self) -> JsonObject | None:
        return self.to_json()

    @classmethod
    def _read(cls, body: bytes | str, parameters: Mapping[str, str], limits: JsonLimits) -> Self:
        tree = parse_frame(body, limits=limits)
        with raised_as(RemoteProtocolError):
            return cls._read_tree(tree, parameters)

    @classmethod
    def _read_tree(cls, tree: Any, parameters: Mapping[str, str]) -> Self:  # noqa: ARG003 - most have none
        """Make the request of a tree and parameters, or refuse to."""
        return cls._read_body(object_in(tree, "the request"))

    @classmethod
    def _read_body(cls, body: dict[str, Any]) -> Self:
        """Make a request that has no parameters, or refuse to."""
        raise NotImplementedError


class Response:
    """What is answered.

    Attributes:
        endpoint: the row of the table.
    """

    __slots__ = ()
    endpoint: ClassVar[Endpoint]

    def to_json(self) -> JsonObject:
        """Return the response body."""
        raise NotImplementedError

    def as_in(self, dialect: Dialect | None = None) -> Self:
        """Return the same answer without the members that a dialect lacks, to be answered in that dialect.

        Args:
            dialect: the dialect of the request; by default the newest.

        Raises:
            LocalProtocolError: the dialect does not have the endpoint.
        """
        lacks = self.endpoint.dialect(dialect).lacks
        empty: dict[str, Any] = {name: {} for name in lacks if hasattr(self, name)}
        return evolve(self, **empty)  # type: ignore[misc]  # every response is an attrs class

    def to_http(self, dialect: Dialect | None = None) -> HttpResponse:
        """Return the answer as HTTP, with status 200.

        Args:
            dialect: the dialect of the request; by default the newest.

        Raises:
            LocalProtocolError: the dialect does not have the endpoint, or lacks what is answered; see :meth:`as_in`.
        """
        spoken = self.endpoint.dialect(dialect)
        with raised_as(LocalProtocolError):
            self._check_dialect(spoken)
        return HttpResponse(status=200, body=encode_body(_in_dialect(self.to_json(), spoken, self)))

    @classmethod
    def from_http(cls, response: HttpResponse, *, limits: JsonLimits = DEFAULT_LIMITS) -> Self:
        """Read an answer.

        Raises:
            MatrixError: the server refused (4xx, 5xx).
            RemoteProtocolError: the body is not the frame of an answer. A malformed entry in it is no error.
        """
        if type(response) is not HttpResponse:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the answer must be an HttpResponse")
        check_limits(limits)
        if response.status >= 400:
            raise MatrixError.from_http(response, limits=limits)
        try:
            if not 200 <= response.status <= 299:
                raise RemoteProtocolError(Reason.UNEXPECTED_STATUS, f"an answer has no status {response.status}")
            return cls.from_bytes(response.body, limits=limits)
        except RemoteProtocolError as error:
            error.in_answer = True
            raise

    @classmethod
    def from_bytes(cls, body: bytes | str, *, limits: JsonLimits = DEFAULT_LIMITS) -> Self:
        """Read a response body.

        Raises:
            RemoteProtocolError: it is not the frame of an answer. A malformed entry in it is no error.
        """
        tree = parse_frame(body, limits=limits)
        with raised_as(RemoteProtocolError):
            return cls._read_tree(object_in(tree, "the answer"))

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read a response body that has been parsed already; the value given is copied.

        A parser that keeps the last of two members of the same name has dropped the other by now. Only
        :meth:`from_bytes` sees that.

        Raises:
            RemoteProtocolError: it is not the frame of an answer. A malformed entry in it is no error.
        """
        with raised_as(RemoteProtocolError):
            return cls._read_tree(object_in(snapshot(obj), "the answer"))

    def _check_dialect(self, dialect: Dialect) -> None:
        """Refuse what the dialect cannot say beyond the members that it lacks."""

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        """Make the answer of a tree, or refuse to."""
        raise NotImplementedError


@frozen(kw_only=True)
class EmptyResponse(Response):
    """An answer that says nothing but yes.

    Attributes:
        extra: members that the specification does not name.
    """

    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, extra=extra_beside("errcode"))  # with an error code, it would be no answer

    def to_json(self) -> JsonObject:
        """Return the response body."""
        body: JsonObject = thaw(dict(self.extra))
        return body

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        refuse_error(tree)
        return cls(extra=thaw(tree))
