"""Sample users with fixed keys: the same name gives the same keys, on every machine and at every time.

The private keys are derived from public names. Never use them for anything but tests and examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import nacl.bindings
from attrs import frozen

from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.signing.signers import Ed25519SecretKey, SecretKeySigner, add_signature

__all__ = ["SampleUser", "keys_query_answer", "sample_curve25519_key", "sample_secret_key"]


def sample_secret_key(name: str) -> Ed25519SecretKey:
    """Return the private Ed25519 key that belongs to ``name``."""
    return Ed25519SecretKey(_derive("ed25519", name))


def sample_curve25519_key(name: str) -> Curve25519PublicKey:
    """Return the public Curve25519 key that belongs to ``name``."""
    return Curve25519PublicKey(nacl.bindings.crypto_scalarmult_base(_derive("curve25519", name)))


def _derive(algorithm: str, name: str) -> bytes:
    return hashlib.sha256(f"matrix-e2e-keys sample {algorithm} {name}".encode()).digest()


@frozen
class SampleUser:
    """A user with as many devices as one asks for, and a cross-signing identity.

    Attributes:
        user_id: the user.
        generation: another number gives the same user another identity, as after a reset.
    """

    user_id: str
    generation: int = 0

    def device_signer(self, device_id: str) -> SecretKeySigner:
        """Return the signer of a device."""
        return sample_secret_key(f"{self.user_id} {device_id}").signer(f"ed25519:{device_id}")

    def secret(self, usage: str) -> Ed25519SecretKey:
        """Return the private key for ``"master"``, ``"self_signing"`` or ``"user_signing"``."""
        return sample_secret_key(f"{self.user_id} {usage} {self.generation}")

    @property
    def master_public_key(self) -> Ed25519PublicKey:
        """The public half of the master key."""
        return self.secret("master").public_key

    @property
    def master_key(self) -> CrossSigningKey:
        """The master key, unsigned."""
        return CrossSigningKey.build(user_id=self.user_id, usage="master", public_key=self.master_public_key)

    @property
    def self_signing_key(self) -> CrossSigningKey:
        """The self-signing key, signed by the master key."""
        return CrossSigningKey.build(
            user_id=self.user_id,
            usage="self_signing",
            public_key=self.secret("self_signing").public_key,
            signer=self.secret("master").cross_signer(),
        )

    @property
    def user_signing_key(self) -> CrossSigningKey:
        """The user-signing key, signed by the master key."""
        return CrossSigningKey.build(
            user_id=self.user_id,
            usage="user_signing",
            public_key=self.secret("user_signing").public_key,
            signer=self.secret("master").cross_signer(),
        )

    def device(
        self, device_id: str, *, cross_signed: bool = True, extra: dict[str, object] | None = None
    ) -> DeviceKeys:
        """Return the keys of a device, signed by itself and by the self-signing key."""
        device = DeviceKeys.build(
            user_id=self.user_id,
            device_id=device_id,
            curve25519_key=sample_curve25519_key(f"{self.user_id} {device_id}"),
            signer=self.device_signer(device_id),
            extra=extra,
        )
        if not cross_signed:
            return device
        signer = self.secret("self_signing").cross_signer()
        return device.with_signed(add_signature(device.signed, entity=self.user_id, signer=signer))

    def one_time_key(self, device_id: str, name: str, *, fallback: bool = False) -> OneTimeKey:
        """Return a one-time key of a device, or a fallback key."""
        return OneTimeKey.build(
            key_id=f"signed_curve25519:{name}",
            key=sample_curve25519_key(f"{self.user_id} {device_id} {name}"),
            user_id=self.user_id,
            signer=self.device_signer(device_id),
            fallback=fallback,
        )

    def verified(self, other: CrossSigningKey) -> CrossSigningKey:
        """Return the master key of another user with this user's signature, as after a verification."""
        signer = self.secret("user_signing").cross_signer()
        return other.with_signed(add_signature(other.signed, entity=self.user_id, signer=signer))


def keys_query_answer(
    users: Iterable[tuple[SampleUser, Iterable[DeviceKeys]]], *, viewer: str = ""
) -> dict[str, object]:
    """Return the body of a ``/keys/query`` answer about users and their devices.

    Args:
        users: the users, each with the devices to name.
        viewer: who asks, and so is shown his own user-signing key.
    """
    users = list(users)
    return {
        "device_keys": {
            user.user_id: {device.device_id: device.to_json() for device in devices} for user, devices in users
        },
        "failures": {},
        "master_keys": {user.user_id: user.master_key.to_json() for user, _ in users},
        "self_signing_keys": {user.user_id: user.self_signing_key.to_json() for user, _ in users},
        "user_signing_keys": {
            user.user_id: user.user_signing_key.to_json() for user, _ in users if user.user_id == viewer
        },
    }
