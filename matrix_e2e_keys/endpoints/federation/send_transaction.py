"""``PUT /_matrix/federation/v1/send/{txnId}``: what one server tells another without being asked.

Specification: server-server API, "Transactions".

Facts:

* A transaction carries EDUs, some of which are about keys, and PDUs, the events of rooms, which are none of this
  library's business: they are passed on as they are.
* A malformed EDU is set aside, and the others stand. So is an event that could not be passed on as it is.
* ``null`` for a list is an empty one: some encoders write it so.
* "The sending server must wait and retry for a 200 OK response before sending a transaction with a different
  ``txnId``". Who has sent it is known from the signature of the request; ``origin`` in it is only what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import or_rejection, read_entry, write_entries, write_entry
from matrix_e2e_keys.endpoints.federation.edus import EDU_TYPES, Edu, read_edu_trees
from matrix_e2e_keys.endpoints.members import (
    extra_beside,
    instances,
    integer,
    items,
    json_object,
    json_value,
    path_segment,
    server_name,
    settle,
)
from matrix_e2e_keys.endpoints.messages import BodyRequest, Response, others, required
from matrix_e2e_keys.errors import Reason, Refusal
from matrix_e2e_keys.json_trees import JsonObject, object_in, refused_nodes, thaw, wrong_type
from matrix_e2e_keys.outcome import Rejection

__all__ = ["SendTransactionRequest", "SendTransactionResponse"]

_MEMBERS: Final = ("origin", "origin_server_ts", "pdus", "edus")
_MAX_EDUS: Final = 100
_MAX_PDUS: Final = 50


def _edus(value: object, *at: str | int) -> tuple[Edu | Rejection, ...]:
    """Take EDUs. A transaction "must not include more than 100"."""
    check = or_rejection(instances(*EDU_TYPES))
    return tuple(check(item, *at, place) for place, item in enumerate(_at_most(_MAX_EDUS, value, *at)))


def _at_most(most: int, value: object, *at: str | int) -> tuple[Any, ...]:
    units = items(value, *at)
    if len(units) > most:
        raise Refusal(Reason.TOO_LARGE, f"a transaction holds at most {most} {at[-1]}, not {len(units)}", *at)
    return units


def _pdus(value: object, *at: str | int) -> tuple[Mapping[str, Any] | Rejection, ...]:
    """Take events. A transaction "must not include more than 50"."""
    check = or_rejection(json_object)
    return tuple(check(item, *at, place) for place, item in enumerate(_at_most(_MAX_PDUS, value, *at)))


def _read_pdu(tree: Any) -> dict[str, Any]:
    """Read an event, which is passed on as it is, or not at all."""
    event = object_in(tree, "an event")
    for place, refused in refused_nodes(event):
        is_kept = refused.reason is Reason.LONE_SURROGATE or type(refused.value) in (int, float)
        if refused.reason is Reason.DUPLICATE_MEMBER or not is_kept:
            raise Refusal(refused.reason, refused.detail, *place)
    copied: dict[str, Any] = json_value(thaw(event))
    return copied


@frozen(kw_only=True)
class SendTransactionRequest(BodyRequest["SendTransactionResponse"]):
    """What is sent.

    Attributes:
        txn_id: the transaction id.
        origin: the sending server, according to the transaction.
        origin_server_ts: when it was made, in milliseconds since the epoch, by the sender's clock.
        edus: what is told about keys and other things, at most 100; a rejection where an EDU is malformed.
        pdus: the events of rooms, as they are, at most 50; a rejection where one is no object, or cannot be passed on
            as it is: a member stands twice in it, or it is beyond the limits.
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["send_transaction"]

    txn_id: str
    origin: str
    origin_server_ts: int
    edus: tuple[Edu | Rejection, ...] = ()
    pdus: tuple[Mapping[str, Any] | Rejection, ...] = ()
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            txn_id=path_segment,
            origin=server_name,
            origin_server_ts=integer,
            edus=_edus,
            pdus=_pdus,
            extra=extra_beside(*_MEMBERS),
        )

    def to_json(self) -> JsonObject:
        """Return the request body. What was malformed stands in it as it was received, or as ``null``."""
        body: JsonObject = thaw(dict(self.extra))
        body.update(origin=self.origin, origin_server_ts=self.origin_server_ts)
        body["pdus"] = [write_entries(pdu) for pdu in self.pdus]
        body["edus"] = [write_entry(edu) for edu in self.edus]
        return body

    def _parameters(self) -> Mapping[str, str | None]:
        return {"txn_id": self.txn_id}

    @classmethod
    def _read_tree(cls, tree: Any, parameters: Mapping[str, str]) -> Self:
        body = object_in(tree, "the request")
        pdus, edus = required(body, "pdus"), body.get("edus")
        for name, units, most in (("pdus", pdus, _MAX_PDUS), ("edus", edus, _MAX_EDUS)):
            if type(units) not in (list, type(None)):
                raise wrong_type(f"{name} must be an array", units, name)
            _at_most(most, units or (), name)
        return cls(
            txn_id=parameters["txn_id"],
            origin=required(body, "origin"),
            origin_server_ts=required(body, "origin_server_ts"),
            edus=read_edu_trees(edus or []),
            pdus=tuple(read_entry(_read_pdu, pdu, "pdus", place) for place, pdu in enumerate(pdus or ())),
            extra=thaw(others(body, *_MEMBERS)),
        )

    @classmethod
    def answer_type(cls) -> type[SendTransactionResponse]:
        """Return the class of the answers."""
        return SendTransactionResponse


@frozen(kw_only=True)
class SendTransactionResponse(Response):
    """The transaction was taken.

    Attributes:
        pdus: event id to what became of the event.
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["send_transaction"]

    pdus: Mapping[str, Any] = field(factory=dict)
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, pdus=json_object, extra=extra_beside("pdus"))

    def to_json(self) -> JsonObject:
        """Return the response body."""
        return {**thaw(dict(self.extra)), "pdus": thaw(dict(self.pdus))}

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        pdus = required(tree, "pdus")
        object_in(pdus, "pdus", "pdus")
        return cls(pdus=thaw(pdus), extra=thaw(others(tree, "pdus")))
