"""``GET /_matrix/key/v2/server``: the signing keys of the server that is asked.

Specification: server-server API, "Publishing Keys".

Facts:

* The answer is one signed document (:class:`~matrix_e2e_keys.ServerKeys`), and nothing stands beside it. It is one
  server's data, so what is malformed in it refuses the whole.
* The request is not signed: keys must be known before a signature can be checked.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from attrs import frozen

from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.members import instances, settle
from matrix_e2e_keys.endpoints.messages import Request, Response
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.models.server_keys import ServerKeys, read_server_keys

__all__ = ["ServerKeysRequest", "ServerKeysResponse"]


@frozen(kw_only=True)
class ServerKeysRequest(Request["ServerKeysResponse"]):
    """What is asked: the keys of whom one asks."""

    endpoint: ClassVar[Endpoint] = ENDPOINTS["server_keys"]

    @classmethod
    def answer_type(cls) -> type[ServerKeysResponse]:
        """Return the class of the answers."""
        return ServerKeysResponse


@frozen(kw_only=True)
class ServerKeysResponse(Response):
    """What is answered.

    Attributes:
        server_keys: the document. Nothing about it has been verified; see :meth:`ServerKeys.verify`.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["server_keys"]

    server_keys: ServerKeys

    def __attrs_post_init__(self) -> None:
        settle(self, server_keys=instances(ServerKeys))

    def to_json(self) -> JsonObject:
        """Return the response body."""
        return self.server_keys.to_json()

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        return cls(server_keys=read_server_keys(tree))
