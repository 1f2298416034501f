"""Servers sign the device keys they hand out: the homeserver's half of the audit trail of the draft of 2015.

Specification: the draft "End to End Encryption" of July 2015.

Facts:

* The draft wants three signatures on device keys: by the device, by the server of its owner, and by the server of who
  asks. All sign the same bytes, so their order is of no matter, and where both servers are one, one signature serves.
* A server signs objects of many kinds with one key, and nothing in an object says of which kind it is. Who uploads
  device keys must not be able to have, say, a list of server keys signed. So a server signs only members that are
  known to be those of device keys.

Deviation: device keys with any other signed member are handed out without the server's signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from attrs import evolve

from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryResponse
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryResponse
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted
from matrix_e2e_keys.identifiers import check_server_name
from matrix_e2e_keys.models.device_keys import DeviceKeys, read_device_keys
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson, new_signed_json, parts_of
from matrix_e2e_keys.signing.signers import Signer, add_signature, check_signer

__all__ = ["KeysAnswer", "check_answer", "countersign_answer", "countersign_device", "countersigned_by"]

KeysAnswer = TypeVar("KeysAnswer", KeysQueryResponse, UserKeysQueryResponse)
"""An answer that holds device keys, of either API."""

_MEMBERS: Final = frozenset({"user_id", "device_id", "algorithms", "keys", "valid_after_ts", "valid_until_ts"})


def countersign_device(keys: SignedJson, *, server_name: str, signer: Signer) -> SignedJson:
    """Return device keys with the signature of a server beside all others.

    Args:
        keys: the device keys, as they are stored or as another server sent them.
        server_name: one's own server.
        signer: a key of it, under a key id ``ed25519:<version>``.

    Raises:
        LocalProtocolError: these are no device keys, they hold a signed member that the draft does not name, or the
            signer cannot sign.
    """
    if type(keys) is not SignedJson:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the device keys must be SignedJson", path="/keys")
    _check_server(server_name, signer)
    (device,) = read_device_keys([keys.to_json()])
    if isinstance(device, Refusal):
        raise device.to_error(LocalProtocolError, "keys")
    for name in sorted(keys.content.keys() - _MEMBERS):
        raise LocalProtocolError(
            Reason.INVALID_VALUE, f"a server does not sign a member {quoted(name)} of device keys", path="/keys"
        )
    return add_signature(keys, entity=server_name, signer=signer)


def countersign_answer(response: KeysAnswer, *, server_name: str, signer: Signer) -> KeysAnswer:
    """Return an answer whose device keys the server has signed.

    The server of the owner does so before it answers another server, that of who asks before it answers him. What is
    malformed, and device keys with a signed member that the draft does not name, stay as they are.

    Args:
        response: an answer to a client or to a server.
        server_name: one's own server.
        signer: a key of it, under a key id ``ed25519:<version>``.

    Raises:
        LocalProtocolError: it is another answer, or the signer cannot sign.
    """
    check_answer(response)
    _check_server(server_name, signer)

    def countersigned(entry: Any) -> Any:
        if isinstance(entry, Mapping):
            return {device_id: countersigned(device) for device_id, device in entry.items()}
        if type(entry) is Rejection or not entry.signed.content.keys() <= _MEMBERS:
            return entry
        return entry.with_signed(add_signature(entry.signed, entity=server_name, signer=signer))

    return evolve(response, device_keys=countersigned(response.device_keys))


def countersigned_by(device: DeviceKeys, server_name: str, signatures: Mapping[str, str]) -> DeviceKeys:
    """Internal: return device keys with signatures that a server has made, be they good or not."""
    parts = parts_of(device.signed)
    of_all = {**(parts.signatures or {}), server_name: dict(signatures)}
    return device.with_signed(new_signed_json(parts._replace(signatures=of_all)))


def check_answer(response: object) -> None:
    """Refuse what is no answer that holds device keys.

    Raises:
        LocalProtocolError: it is none.
    """
    if type(response) not in (KeysQueryResponse, UserKeysQueryResponse):
        raise LocalProtocolError(
            Reason.WRONG_TYPE, "a KeysQueryResponse or UserKeysQueryResponse is needed", path="/response"
        )


def _check_server(server_name: object, signer: object) -> None:
    check_server_name(server_name, "server_name")
    check_signer(signer)
