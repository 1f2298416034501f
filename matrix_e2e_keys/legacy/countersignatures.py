"""What servers signed of device keys: the client's half of the audit trail of the draft of 2015.

Specification: the draft "End to End Encryption" of July 2015.

Facts:

* No trust derives from a server's signature: a server that lies about keys signs its lie. It is good for one thing, to
  show later what a server said; see :class:`~matrix_e2e_keys.legacy.audit_trail.AuditEntry`.
* Where the server of the owner and that of who asks are one, one signature serves.
* Only the signatures of the two servers are looked at, and of these only those by keys that are known.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeAlias

from attrs import frozen

from matrix_e2e_keys.endpoints.members import instances, map_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError, quoted, raised_as
from matrix_e2e_keys.identifiers import ServerName, parse_server_name, server_name_of
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.server_keys import VerifiedServerKeys
from matrix_e2e_keys.signing.signed_json import ask
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["Countersignature", "Countersignatures", "KnownServerKeys", "check_countersignatures"]

KnownServerKeys: TypeAlias = VerifiedServerKeys | Mapping[str, Ed25519PublicKey]
"""The keys of a server: its list, or key id to key. Keys that it used before may stand in the latter."""


class Countersignature(enum.StrEnum):
    """What is to be said of a server's signature on device keys."""

    GOOD = "good"
    """There is one, and all that are there by keys that are known are good."""
    MISSING = "missing"
    """There is none."""
    BAD = "bad"
    """One by a key that is known is not good; or the server signed as the owner's, and the device is not its user's."""
    UNKNOWN_KEY = "unknown-key"
    """There are some, none of them by a key that is known."""


_REASONS = {
    Countersignature.MISSING: (Reason.MISSING_SIGNATURE, "has not signed the device keys"),
    Countersignature.BAD: (Reason.INVALID_SIGNATURE, "has not signed these device keys"),
    Countersignature.UNKNOWN_KEY: (Reason.MISSING_KEY, "has signed the device keys with keys that are not known"),
}


@frozen(kw_only=True)
class Countersignatures:
    """What two servers signed of the keys of one device. It says nothing of whether the keys are the device's.

    Attributes:
        device_server: the server of the owner.
        querying_server: the server of who asked.
        by_device_server: what is to be said of the signature of ``device_server``.
        by_querying_server: what is to be said of the signature of ``querying_server``.
    """

    device_server: str
    querying_server: str
    by_device_server: Countersignature
    by_querying_server: Countersignature

    def require(self) -> None:
        """Insist that both servers have signed.

        Raises:
            VerificationError: one of them has not, its signature is not good, or its keys are not known.
        """
        for server_name, verdict in (
            (self.device_server, self.by_device_server),
            (self.querying_server, self.by_querying_server),
        ):
            if verdict is not Countersignature.GOOD:
                reason, what = _REASONS[verdict]
                raise VerificationError(reason, f"{quoted(server_name)} {what}")


def check_countersignatures(
    device: DeviceKeys,
    *,
    device_server: str,
    device_server_keys: KnownServerKeys,
    querying_server: str,
    querying_server_keys: KnownServerKeys,
    verifier: Verifier = LIBSODIUM,
) -> Countersignatures:
    """Find out what two servers signed of the keys of a device. Nothing that was served raises an error.

    Args:
        device: the device keys as they were served.
        device_server: the server of the user who was asked about.
        device_server_keys: its keys.
        querying_server: the server of who asked: one's own.
        querying_server_keys: its keys.
        verifier: who checks.

    Raises:
        LocalProtocolError: an argument has the wrong type, or keys are another server's.
    """
    if type(device) is not DeviceKeys:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the device must be DeviceKeys", path="/device")
    check_verifier(verifier)
    with raised_as(LocalProtocolError, "device_server"):
        owners = parse_server_name(device_server)
    with raised_as(LocalProtocolError, "querying_server"):
        askers = parse_server_name(querying_server)
    owners_keys = _keys_of(owners, device_server_keys, "device_server_keys")
    askers_keys = _keys_of(askers, querying_server_keys, "querying_server_keys")
    by_owners = _verdict(device, owners, owners_keys, verifier)
    if by_owners is Countersignature.GOOD and server_name_of(device.user_id) != owners:
        by_owners = Countersignature.BAD
    return Countersignatures(
        device_server=owners,
        querying_server=askers,
        by_device_server=by_owners,
        by_querying_server=_verdict(device, askers, askers_keys, verifier),
    )


def _keys_of(server_name: ServerName, keys: object, argument: str) -> Mapping[str, Ed25519PublicKey]:
    if type(keys) is not VerifiedServerKeys:
        with raised_as(LocalProtocolError):
            return map_of(instances(Ed25519PublicKey))(keys, argument)
    if keys.server_name != server_name:
        raise LocalProtocolError(
            Reason.SERVER_NAME_MISMATCH,
            f"these are the keys of {quoted(keys.server_name)}, not of {quoted(server_name)}",
            path=f"/{argument}",
        )
    return keys.verify_keys


def _verdict(
    device: DeviceKeys, server_name: ServerName, keys: Mapping[str, Ed25519PublicKey], verifier: Verifier
) -> Countersignature:
    signed = device.signed
    signatures = signed.signatures.get(server_name)
    if not signatures:
        return Countersignature.MISSING
    questions = [
        (signed.canonical, signatures[key_id], key.raw) for key_id, key in keys.items() if key_id in signatures
    ]
    if not questions:
        return Countersignature.UNKNOWN_KEY
    return Countersignature.GOOD if all(ask(questions, verifier)) else Countersignature.BAD
