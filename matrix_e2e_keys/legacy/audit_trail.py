"""What a server said of a device, to be shown later: one entry of the audit trail of the draft of 2015.

Specification: the draft "End to End Encryption" of July 2015.

Facts:

* An entry holds all that is needed to show it to others: the signed object, the signatures, and the public keys.
  Servers change their keys; that a key was the server's own is for others to find out.
* Signatures are checked when an entry is made, and again when it is read back.
* No trust derives from an entry. It says what a server said, and not that it is true.
* ``unsigned`` is left out, since nobody signed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.endpoints.members import count, instances, map_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError, json_pointer, quoted, raised_as
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import DeviceId, UserId, parse_server_name
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["AuditEntry"]

_VERSION: Final = 1


@frozen(eq=False, repr=False)
class AuditEntry(metaclass=Sealed):
    """What some servers said of one device at one time. Made by :meth:`build` and :meth:`from_json`.

    Attributes:
        device: the device keys with all signatures, without ``unsigned``.
        seen_ts: when they were seen, in milliseconds since the epoch.
    """

    device: DeviceKeys
    seen_ts: int
    _witnesses: dict[str, Mapping[str, Ed25519PublicKey]]

    @classmethod
    def build(
        cls,
        device: DeviceKeys,
        *,
        witnesses: Mapping[str, Mapping[str, Ed25519PublicKey]],
        seen_ts: int,
        verifier: Verifier = LIBSODIUM,
    ) -> AuditEntry:
        """Record what servers signed.

        Args:
            device: the device keys as they were served.
            witnesses: server name to key id to key. Each of these keys must have signed the device keys.
            seen_ts: when they were seen, in milliseconds since the epoch.
            verifier: who checks.

        Raises:
            VerificationError: one of the keys has not signed.
            LocalProtocolError: an argument has the wrong type, or there is no key.
        """
        if type(device) is not DeviceKeys:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the device must be DeviceKeys", path="/device")
        with raised_as(LocalProtocolError):
            count(seen_ts, "seen_ts")
            keys = map_of(map_of(instances(Ed25519PublicKey)))(witnesses, "witnesses")
        for server_name, by_key_id in keys.items():
            with raised_as(LocalProtocolError, "witnesses", server_name):
                parse_server_name(server_name)
            if not by_key_id:
                raise _nobody("witnesses", server_name)
            for key_id, key in by_key_id.items():
                device.signed.verify(entity=server_name, key_id=key_id, key=key, verifier=verifier)
        if not keys:
            raise _nobody("witnesses")
        return _new(device.with_signed(device.signed.with_unsigned(None)), seen_ts, dict(keys))

    @property
    def user_id(self) -> UserId:
        """The owner of the device, according to the servers."""
        return self.device.user_id

    @property
    def device_id(self) -> DeviceId:
        """The device, according to the servers."""
        return self.device.device_id

    @property
    def digest(self) -> str:
        """The SHA-256 of the signed bytes, in unpadded base64."""
        return unpadded_base64.encode(hashlib.sha256(self.device.signed.canonical).digest())

    @property
    def witnesses(self) -> Mapping[str, Mapping[str, Ed25519PublicKey]]:
        """Server name to key id to the key that signed."""
        return FrozenMap(self._witnesses)

    def contradicts(self, other: AuditEntry) -> bool:
        """Return whether one server has said different things of one device, here and there.

        It may have had a reason: a device can be deleted, and its id be used again.

        Raises:
            LocalProtocolError: the other is no entry.
        """
        if type(other) is not AuditEntry:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the other must be an AuditEntry", path="/other")
        return (
            (self.user_id, self.device_id) == (other.user_id, other.device_id)
            and self.device != other.device
            and not self._witnesses.keys().isdisjoint(other._witnesses)
        )

    def to_json(self) -> JsonObject:
        """Return the entry as plain values, to store it or to show it."""
        return {
            "version": _VERSION,
            "device_keys": self.device.to_json(),
            "seen_ts": self.seen_ts,
            "witnesses": {
                server_name: {key_id: key.to_base64() for key_id, key in by_key_id.items()}
                for server_name, by_key_id in self._witnesses.items()
            },
        }

    @classmethod
    def from_json(cls, obj: object, *, verifier: Verifier = LIBSODIUM) -> AuditEntry:
        """Read an entry back. All signatures in it are checked again.

        Raises:
            LocalProtocolError: it is none, or a signature is not good; ``path`` says where.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        keys_as_stored = stored.member("device_keys", dict)
        with stored.reading("device_keys"):
            device = DeviceKeys.from_json(keys_as_stored)
        witnesses: dict[str, dict[str, Any]] = {}
        for server_name, keys in stored.objects("witnesses"):
            witnesses[server_name] = {}
            for key_id, text in stored.object("witnesses").items(server_name, str):
                with keys.reading(key_id):
                    witnesses[server_name][key_id] = Ed25519PublicKey.from_base64(text)
        seen_ts = stored.member("seen_ts", int)
        try:
            return cls.build(device, witnesses=witnesses, seen_ts=seen_ts, verifier=verifier)
        except VerificationError as error:
            raise LocalProtocolError(error.reason, error.detail, path=f"/device_keys{error.path}") from None

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if type(other) is AuditEntry else NotImplemented

    def __hash__(self) -> int:
        return hash((self.device, self.seen_ts))

    def __repr__(self) -> str:
        return f"<AuditEntry of {quoted(self.user_id)} {quoted(self.device_id)}, signed by {sorted(self._witnesses)}>"


_new: Final = constructor_of(AuditEntry)


def _nobody(*at: str) -> LocalProtocolError:
    return LocalProtocolError(Reason.MISSING_KEY, "without a signature, nobody said anything", path=json_pointer(at))
