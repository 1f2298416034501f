"""What the set-up of cross-signing uploads: everything that is signed, and nothing that signs.

Facts:

* It is the same whenever it is asked for, to the byte.
* There is no plan whose signatures are not good, whether it was just made or read back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Final, TypeVar

from attrs import frozen

from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.client.cross_signing.device_signing import check_apart, check_own_signer
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningKeys, CrossSigningSecrets
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError, json_pointer
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.signing.signed_json import new_signed_json, parts_of
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.stored import Stored

__all__ = ["BootstrapPlan"]

_KEYS: Final = ("master_key", "self_signing_key", "user_signing_key")

Key = TypeVar("Key", DeviceKeys, CrossSigningKey)


@frozen(kw_only=True)
class BootstrapPlan:
    """The keys and signatures of one set-up.

    Attributes:
        keys: the master key, signed by the device; the two others, signed by the master key.
        identity: the identity that they make.
        device: the device, signed by itself and by the self-signing key.
    """

    keys: CrossSigningKeys
    identity: UserIdentity
    device: VerifiedDevice

    @classmethod
    def make(cls, secrets: CrossSigningSecrets, device: VerifiedDevice, device_signer: Signer) -> BootstrapPlan:
        """Sign everything there is to sign.

        Raises:
            LocalProtocolError: see :meth:`CrossSigningBootstrap.start <matrix_e2e_keys.CrossSigningBootstrap.start>`.
        """
        if type(secrets) is not CrossSigningSecrets:
            raise LocalProtocolError(Reason.WRONG_TYPE, "CrossSigningSecrets are needed", path="/secrets")
        check_own_signer(device, device_signer, "device_signer")
        signed = merge_signatures(device.keys, secrets.sign_device(device))
        return cls._checked(secrets.public_keys(device_signer), signed)

    @classmethod
    def _checked(cls, keys: CrossSigningKeys, device: DeviceKeys) -> BootstrapPlan:
        """Return a plan, once everything in it has been checked.

        Raises:
            VerificationError: a signature is missing or not good.
            LocalProtocolError: the device can be taken for one of the keys.
        """
        identity = keys.identity()
        user_id, device_key_id = identity.user_id, f"{ED25519}:{device.device_id}"
        check_apart(device, frozenset(identity.raw_keys))
        device = _with_only(device, user_id, device_key_id, identity.self_signing_key.key_name)
        with _found_at("device"):
            verified = device.verify(identity=identity)
            device.signed.verify(
                entity=user_id, key_id=identity.self_signing_key.key_name, key=identity.self_signing_public_key
            )
        with _found_at("master_key"):
            keys.master_key.signed.verify(entity=user_id, key_id=device_key_id, key=verified.ed25519_key)
        master_key_id = keys.master_key.key_name
        return cls(
            keys=CrossSigningKeys(
                master_key=_with_only(keys.master_key, user_id, device_key_id),
                self_signing_key=_with_only(keys.self_signing_key, user_id, master_key_id),
                user_signing_key=_with_only(keys.user_signing_key, user_id, master_key_id),
            ),
            identity=identity,
            device=verified,
        )

    def signatures_request(self) -> SignaturesUploadRequest:
        """Return the upload of the signatures that the server can only take once it has the keys.

        The one on the master key is sent once more: a server may have kept the key without it.
        """
        return SignaturesUploadRequest.for_keys([self.keys.master_key, self._signed_device()])

    def everything(self) -> SignaturesUploadRequest:
        """Return all four signatures of the set-up. This is to compare with, and not to send."""
        keys = self.keys
        return SignaturesUploadRequest.for_keys(
            [keys.master_key, keys.self_signing_key, keys.user_signing_key, self._signed_device()]
        )

    def _signed_device(self) -> DeviceKeys:
        """Return the device with the signature of the self-signing key alone."""
        return _with_only(self.device.keys, self.identity.user_id, self.identity.self_signing_key.key_name)

    def to_json(self) -> JsonObject:
        """Return the plan as members of what is stored."""
        return {
            **{name: getattr(self.keys, name).to_json() for name in _KEYS},
            "device": self.device.keys.to_json(),
        }

    @classmethod
    def from_stored(cls, stored: Stored) -> BootstrapPlan:
        """Read a plan back. Its signatures are checked anew.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        keys: dict[str, CrossSigningKey] = {}
        for name in _KEYS:
            obj = stored.member(name)
            with stored.reading(name):
                keys[name] = CrossSigningKey.from_json(obj)
        obj = stored.member("device")
        with stored.reading("device"):
            device = DeviceKeys.from_json(obj)
        with stored.reading():
            return cls._checked(CrossSigningKeys(**keys), device)


@contextlib.contextmanager
def _found_at(name: str) -> Generator[None, None, None]:
    try:
        yield
    except VerificationError as error:
        raise VerificationError(error.reason, error.detail, path=json_pointer([name]) + error.path) from None


def _with_only(key: Key, user_id: str, *key_ids: str) -> Key:
    """Return ``key`` with the signatures of a user under ``key_ids`` and nothing else beside what is signed."""
    parts = parts_of(key.signed)
    by_user = (parts.signatures or {}).get(user_id, {})
    signatures = {user_id: {key_id: by_user[key_id] for key_id in key_ids if key_id in by_user}}
    return key.with_signed(new_signed_json(parts._replace(signatures=signatures)).with_unsigned(None))
