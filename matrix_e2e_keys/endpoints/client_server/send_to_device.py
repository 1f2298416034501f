"""``PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}``: messages to devices.

Specification: client-server API, "Send-to-Device messaging".

Facts:

* The transaction id is the caller's: "Clients should generate an ID unique across requests with the same access token".
* A content that canonical JSON cannot represent cannot be signed by a server that passes it on, and is set aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import malformed_members, read_member, write_members
from matrix_e2e_keys.endpoints.members import extra_beside, path_segment, settle
from matrix_e2e_keys.endpoints.messages import BodyRequest, EmptyResponse, others, required
from matrix_e2e_keys.endpoints.to_device_messages import ToDeviceMessages, read_messages, to_device_messages
from matrix_e2e_keys.json_trees import JsonObject, object_in, thaw
from matrix_e2e_keys.outcome import Rejection

__all__ = ["SendToDeviceRequest", "SendToDeviceResponse"]

_MEMBERS: Final = ("messages",)


@frozen(kw_only=True)
class SendToDeviceRequest(BodyRequest["SendToDeviceResponse"]):
    """What is sent.

    Attributes:
        event_type: the type of all the messages.
        txn_id: the transaction id.
        messages: user id to device id to content. ``*`` stands for all devices of the user.
        extra: members that the specification does not name.
        malformed: ``messages`` if it is no map.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["send_to_device"]

    event_type: str
    txn_id: str
    messages: ToDeviceMessages
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            event_type=path_segment,
            txn_id=path_segment,
            messages=to_device_messages,
            extra=extra_beside(*_MEMBERS),
            malformed=malformed_members(self, *_MEMBERS),
        )

    def to_json(self) -> JsonObject:
        """Return the request body. What was malformed stands in it as it was received, or as ``null``."""
        return write_members(thaw(dict(self.extra)), self, *_MEMBERS)

    def _parameters(self) -> Mapping[str, str | None]:
        return {"event_type": self.event_type, "txn_id": self.txn_id}

    @classmethod
    def _read_tree(cls, tree: Any, parameters: Mapping[str, str]) -> Self:
        body = object_in(tree, "the request")
        required(body, "messages")
        malformed: list[Rejection] = []
        return cls(
            event_type=parameters["event_type"],
            txn_id=parameters["txn_id"],
            messages=read_member(body, "messages", read_messages, malformed),
            extra=thaw(others(body, *_MEMBERS)),
            malformed=tuple(malformed),
        )

    @classmethod
    def answer_type(cls) -> type[SendToDeviceResponse]:
        """Return the class of the answers."""
        return SendToDeviceResponse


@frozen(kw_only=True)
class SendToDeviceResponse(EmptyResponse):
    """The server has taken the messages.

    Attributes:
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["send_to_device"]
