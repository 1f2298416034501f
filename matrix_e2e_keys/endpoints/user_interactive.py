"""The question that a homeserver answers with: prove that it is you.

Specification: client-server API, "User-Interactive Authentication API".

Facts:

* The answer has status 401 and a list of ``flows``. It is no failure yet: the client sends the same request again, with
  ``auth`` in it, until the server is content.
* ``errcode`` and ``error`` are there if a stage was tried and failed, and absent otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

from matrix_e2e_keys.endpoints.members import (
    extra_beside,
    instances,
    json_object,
    list_of,
    opaque_string,
    optional,
    settle,
    strings,
)
from matrix_e2e_keys.errors import LocalProtocolError, printable, raised_as
from matrix_e2e_keys.json_trees import JsonObject, thaw

__all__ = ["AUTH_MEMBERS", "AuthenticationFlow", "UserInteractiveAuth", "read_user_interactive_auth"]


@frozen(kw_only=True)
class AuthenticationFlow:
    """One way to authenticate.

    Attributes:
        stages: the types of authentication to complete, in order.
        extra: members that the specification does not name.
    """

    stages: tuple[str, ...]
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, stages=strings, extra=extra_beside("stages"))

    def to_json(self) -> JsonObject:
        """Return the flow as JSON."""
        return {**thaw(dict(self.extra)), "stages": list(self.stages)}


@frozen(kw_only=True)
class UserInteractiveAuth:
    """What has to be proved, and what has been.

    Attributes:
        flows: any one of them will do.
        session: to be handed back in ``auth``, ``None`` if the server gave none.
        params: type of authentication to what the client needs to know for it.
        completed: the stages that are done.
    """

    flows: tuple[AuthenticationFlow, ...]
    session: str | None = None
    params: Mapping[str, Any] = field(factory=dict)
    completed: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            flows=list_of(instances(AuthenticationFlow)),
            session=optional(opaque_string),
            params=json_object,
            completed=strings,
        )

    def auth(self, stage: str, credentials: Mapping[str, object] | None = None) -> JsonObject:
        """Return what to send as ``auth`` in order to complete ``stage``.

        Args:
            stage: the type of authentication, for example ``"m.login.password"``.
            credentials: members that the type asks for.

        Raises:
            LocalProtocolError: the credentials are not JSON.
        """
        with raised_as(LocalProtocolError):
            auth: JsonObject = thaw(dict(json_object({} if credentials is None else credentials, "credentials")))
            auth["type"] = opaque_string(stage, "stage")
        if self.session is not None:
            auth["session"] = self.session
        return auth

    def to_json(self) -> JsonObject:
        """Return the members of the answer's body that say this."""
        body: JsonObject = {"flows": [flow.to_json() for flow in self.flows], "params": thaw(dict(self.params))}
        if self.session is not None:
            body["session"] = self.session
        if self.completed:
            body["completed"] = list(self.completed)
        return body


AUTH_MEMBERS: Final = ("flows", "session", "params", "completed")


def read_user_interactive_auth(body: dict[str, Any]) -> UserInteractiveAuth | None:
    """Return what the ``body`` of a 401 answer asks for, ``None`` if that is not to be understood."""
    flows = body.get("flows")
    readable = [flow for flow in map(_read_flow, flows) if flow is not None] if type(flows) is list else []
    if type(flows) is not list or (flows and not readable):
        return None
    session, params, completed = (body.get(name) for name in AUTH_MEMBERS[1:])
    return UserInteractiveAuth(
        flows=tuple(readable),
        session=printable(session) if type(session) is str else None,
        params=params if type(params) is dict else {},
        completed=tuple(printable(stage) for stage in completed if type(stage) is str)
        if type(completed) is list
        else (),
    )


def _read_flow(flow: Any) -> AuthenticationFlow | None:
    """Return one way to authenticate, ``None`` if it is malformed. There may be others."""
    stages = flow.get("stages") if type(flow) is dict else None
    if type(stages) is not list or any(type(stage) is not str or stage != printable(stage) for stage in stages):
        return None
    return AuthenticationFlow(
        stages=tuple(stages), extra={name: member for name, member in flow.items() if name != "stages"}
    )
