"""The endpoints and the dialects they are spoken in, as a table.

Specification: client-server API and server-server API of each version; for ``v2_alpha`` the draft of July 2015.

Facts:

* A dialect is a prefix of paths and a list of what it lacks. What a dialect lacks is refused when one speaks it, and
  kept as it is when one hears it.
* ``docs/endpoints.md`` is made of this table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import field, frozen

from matrix_e2e_keys.endpoints.http_values import HttpRequest, match_template, parameters_of
from matrix_e2e_keys.endpoints.members import instances, map_of, opaque_string, settle
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, quoted

__all__ = [
    "CLIENT_R0",
    "CLIENT_V2_ALPHA",
    "CLIENT_V3",
    "ENDPOINTS",
    "FEDERATION_V1",
    "KEY_V2",
    "Authentication",
    "Dialect",
    "Endpoint",
    "Match",
    "find_endpoint",
]


class Authentication(enum.StrEnum):
    """What a request has to prove. It is the transport that puts it there."""

    ACCESS_TOKEN = "access-token"  # noqa: S105 - the name of a kind
    """``Authorization: Bearer <access token>``."""
    SERVER = "server"
    """``Authorization: X-Matrix``, a signature by the asking homeserver."""
    NONE = "none"
    """Anybody may ask."""


@frozen(kw_only=True)
class Dialect:
    """One version of one API.

    Attributes:
        name: the version as it stands in the path.
        prefix: what every path begins with.
        lacks: members of bodies that this dialect does not know. An empty one is left out, any other is refused.
        bare_one_time_keys: whether one-time keys are bare strings only, never signed objects.
    """

    name: str
    prefix: str
    lacks: frozenset[str] = frozenset()
    bare_one_time_keys: bool = False


CLIENT_V3: Final = Dialect(name="v3", prefix="/_matrix/client/v3")
"""The client-server API since v1.1."""

CLIENT_R0: Final = Dialect(name="r0", prefix="/_matrix/client/r0")
"""The client-server API up to r0.6.1."""

CLIENT_V2_ALPHA: Final = Dialect(
    name="v2_alpha",
    prefix="/_matrix/client/v2_alpha",
    lacks=frozenset({"fallback_keys", "failures", "timeout", "master_keys", "self_signing_keys", "user_signing_keys"}),
    bare_one_time_keys=True,
)
"""The draft of 2015: one-time keys are bare strings, "for deniability", and there is nothing to fall back on."""

FEDERATION_V1: Final = Dialect(name="v1", prefix="/_matrix/federation/v1")
"""The server-server API."""

KEY_V2: Final = Dialect(name="key v2", prefix="/_matrix/key/v2")
"""The keys of servers."""


@frozen(kw_only=True, eq=False)
class Endpoint:
    """One thing that can be asked.

    Attributes:
        name: as in the names of the modules.
        method: the HTTP method.
        paths: dialect to the path below its prefix; ``{name}`` stands for a parameter. The first one is spoken unless
            another is asked for.
        query: the names of the parameters in the query.
        authentication: what a request has to prove.
    """

    name: str
    method: str
    paths: Mapping[Dialect, str] = field(converter=MappingProxyType[Dialect, str])
    query: tuple[str, ...] = ()
    authentication: Authentication = Authentication.ACCESS_TOKEN

    def template(self, dialect: Dialect | None = None) -> str:
        """Return the whole path, with ``{name}`` for parameters.

        Raises:
            LocalProtocolError: the dialect does not have this endpoint.
        """
        spoken = self.dialect(dialect)
        return spoken.prefix + self.paths[spoken]

    def dialect(self, dialect: Dialect | None = None) -> Dialect:
        """Return ``dialect`` if it has this endpoint; for ``None``, the one that is spoken by default.

        Raises:
            LocalProtocolError: it does not.
        """
        if dialect is None:
            return next(iter(self.paths))
        if type(dialect) is not Dialect:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the dialect must be a Dialect", path="/dialect")
        if dialect not in self.paths:
            raise LocalProtocolError(Reason.NOT_IN_DIALECT, f"{dialect.name} has no {self.name}", path="/dialect")
        return dialect

    @property
    def parameters(self) -> tuple[frozenset[str], frozenset[str]]:
        """The parameters that the path has in every dialect, and those that it has in any."""
        names = [parameters_of(path) for path in self.paths.values()]
        return frozenset.intersection(*names), frozenset.union(*names)

    def match(self, request: HttpRequest) -> Match | None:
        """Return how ``request`` asks for this endpoint, ``None`` if its path is another.

        Raises:
            RemoteProtocolError: the path is the right one, but the method is not, or a parameter is not encoded.
        """
        for dialect, path in self.paths.items():
            parameters = match_template(dialect.prefix + path, request.path)
            if parameters is not None:
                if request.method != self.method:
                    raise RemoteProtocolError(
                        Reason.WRONG_METHOD,
                        f"{self.name} is asked with {self.method}, not with {quoted(request.method)}",
                    )
                return Match(endpoint=self, dialect=dialect, parameters=parameters)
        return None


@frozen(kw_only=True)
class Match:
    """How a request asks for an endpoint.

    Attributes:
        endpoint: what is asked for.
        dialect: the dialect it is spoken in. Answer in the same.
        parameters: the parameters in the path, decoded.
    """

    endpoint: Endpoint
    dialect: Dialect
    parameters: Mapping[str, str]

    def __attrs_post_init__(self) -> None:
        settle(self, endpoint=instances(Endpoint), dialect=instances(Dialect), parameters=map_of(opaque_string))
        if self.parameters.keys() != parameters_of(self.endpoint.template(self.dialect)):
            raise LocalProtocolError(
                Reason.MISSING_PARAMETER, "a match holds the parameters of the path", path="/parameters"
            )


def _client(name: str, method: str, path: str, *, query: tuple[str, ...] = ()) -> Endpoint:
    return Endpoint(name=name, method=method, paths={CLIENT_V3: path, CLIENT_R0: path}, query=query)


def _client_since_2015(name: str, path: str, path_of_2015: str) -> Endpoint:
    paths = {CLIENT_V3: path, CLIENT_R0: path, CLIENT_V2_ALPHA: path_of_2015}
    return Endpoint(name=name, method="POST", paths=paths)


def _client_since_v1_1(name: str, path: str) -> Endpoint:
    return Endpoint(name=name, method="POST", paths={CLIENT_V3: path})


def _federation(name: str, method: str, path: str) -> Endpoint:
    return Endpoint(name=name, method=method, paths={FEDERATION_V1: path}, authentication=Authentication.SERVER)


ENDPOINTS: Final[Mapping[str, Endpoint]] = MappingProxyType(
    {
        endpoint.name: endpoint
        for endpoint in (
            _client_since_2015("keys_upload", "/keys/upload", "/keys/upload/{device_id}"),
            _client_since_2015("keys_query", "/keys/query", "/keys/query"),
            _client_since_2015("keys_claim", "/keys/claim", "/keys/claim"),
            _client("keys_changes", "GET", "/keys/changes", query=("from", "to")),
            _client_since_v1_1("device_signing_upload", "/keys/device_signing/upload"),
            _client_since_v1_1("signatures_upload", "/keys/signatures/upload"),
            _client("send_to_device", "PUT", "/sendToDevice/{event_type}/{txn_id}"),
            _federation("user_keys_query", "POST", "/user/keys/query"),
            _federation("user_keys_claim", "POST", "/user/keys/claim"),
            _federation("user_devices", "GET", "/user/devices/{user_id}"),
            _federation("send_transaction", "PUT", "/send/{txn_id}"),
            Endpoint(name="server_keys", method="GET", paths={KEY_V2: "/server"}, authentication=Authentication.NONE),
        )
    }
)
"""Every endpoint, by name."""


def find_endpoint(request: HttpRequest) -> Match:
    """Return what ``request`` asks for.

    Raises:
        RemoteProtocolError: nothing that stands in the table (404, ``M_UNRECOGNIZED``), or with another method (405).
    """
    if type(request) is not HttpRequest:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the request must be an HttpRequest")
    for endpoint in ENDPOINTS.values():
        match = endpoint.match(request)
        if match is not None:
            return match
    raise RemoteProtocolError(Reason.UNRECOGNIZED_ENDPOINT, f"there is no endpoint at {quoted(request.path)}")
