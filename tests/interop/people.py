"""A user with one device and three cross-signing keys. Every object is built and signed by the package."""

from __future__ import annotations

from typing import Any

from interop.matrix_http import Client
from matrix_e2e_keys import (
    CrossSigningKey,
    Curve25519PublicKey,
    DeviceKeys,
    DeviceSigningUploadRequest,
    Ed25519SecretKey,
    JsonObject,
    OneTimeKey,
    SignaturesUploadRequest,
    VodozemacSigner,
    sign_json,
)
from matrix_e2e_keys.models.cross_signing import Usage

USAGES: tuple[Usage, ...] = ("master", "self_signing", "user_signing")


class Person:
    """A user and the private keys of the user."""

    def __init__(self, user_id: str, device_id: str) -> None:
        import vodozemac  # noqa: PLC0415 - the fixtures decide what happens if it is missing

        self.user_id = user_id
        self.device_id = device_id
        self.account: Any = vodozemac.Account()  # used beyond its stubs
        self.signer = VodozemacSigner.of(self.account, device_id)
        self.secrets: dict[Usage, Ed25519SecretKey] = {usage: Ed25519SecretKey.generate() for usage in USAGES}

    @property
    def curve25519_key(self) -> Curve25519PublicKey:
        """The Olm identity key of the device."""
        return Curve25519PublicKey.from_base64(self.account.curve25519_key.to_base64())

    def public_text(self, usage: Usage) -> str:
        """Return a public cross-signing key as text."""
        return self.secrets[usage].public_key.to_base64()

    def device_keys(self) -> DeviceKeys:
        """Return the device, signed by itself."""
        return DeviceKeys.build(
            user_id=self.user_id, device_id=self.device_id, curve25519_key=self.curve25519_key, signer=self.signer
        )

    def cross_signing_key(self, usage: Usage) -> CrossSigningKey:
        """Return a cross-signing key: the master key signed by the device, the others by the master key."""
        signer = self.signer if usage == "master" else self.secrets["master"].cross_signer()
        public_key = self.secrets[usage].public_key
        return CrossSigningKey.build(user_id=self.user_id, usage=usage, public_key=public_key, signer=signer)

    def cross_signing_upload(self) -> DeviceSigningUploadRequest:
        """Return the three keys, to be uploaded."""
        master, self_signing, user_signing = (self.cross_signing_key(usage) for usage in USAGES)
        return DeviceSigningUploadRequest(
            master_key=master, self_signing_key=self_signing, user_signing_key=user_signing
        )

    def cross_signed_device(self) -> DeviceKeys:
        """Return the device, signed by itself and by the self-signing key."""
        return DeviceKeys.from_json(self.sign(self.device_keys().to_json(), "self_signing"))

    def signed_device_upload(self) -> SignaturesUploadRequest:
        """Return the signature of the self-signing key on the device, to be uploaded."""
        device = self.device_keys().signed.without_signatures().to_json()
        return SignaturesUploadRequest.for_keys([DeviceKeys.from_json(self.sign(device, "self_signing"))])

    def signed_user_upload(self, master_key: CrossSigningKey) -> SignaturesUploadRequest:
        """Return the signature of the user-signing key on somebody's master key, to be uploaded."""
        key = master_key.signed.without_signatures().to_json()
        return SignaturesUploadRequest.for_keys([CrossSigningKey.from_json(self.sign(key, "user_signing"))])

    def sign(self, obj: object, *usages: Usage, device: bool = False) -> JsonObject:
        """Return an object with signatures by the device and by cross-signing keys of this person."""
        signers: list[Any] = [self.secrets[usage].cross_signer() for usage in usages]
        if device:
            signers.insert(0, self.signer)
        for signer in signers:
            obj = sign_json(obj, entity=self.user_id, signer=signer)
        return obj  # type: ignore[return-value]  # an object if sign_json took it

    def one_time_keys(self, count: int) -> dict[str, OneTimeKey]:
        """Return fresh one-time keys by key id."""
        self.account.generate_one_time_keys(count)
        return self._published(self.account.one_time_keys, fallback=False)

    def fallback_key(self) -> dict[str, OneTimeKey]:
        """Return a fresh fallback key by key id."""
        self.account.generate_fallback_key()
        return self._published(self.account.fallback_key, fallback=True)

    def _published(self, keys: dict[str, Any], *, fallback: bool) -> dict[str, OneTimeKey]:
        built = {
            f"signed_curve25519:{name}": OneTimeKey.build(
                key_id=f"signed_curve25519:{name}",
                key=Curve25519PublicKey.from_base64(key.to_base64()),
                user_id=self.user_id,
                signer=self.signer,
                fallback=fallback,
            )
            for name, key in keys.items()
        }
        self.account.mark_keys_as_published()
        return built


# --------------------------------------------------------------------------------------------------------------
# People with a client
# --------------------------------------------------------------------------------------------------------------


def person_of(client: Client) -> Person:
    """Return a person with the name of the client's user and device, of whom nothing is uploaded."""
    return Person(client.user_id, client.device_id)


def with_device(client: Client) -> Person:
    """Return a person whose device is uploaded."""
    person = person_of(client)
    client.upload(device_keys=person.device_keys())
    return person


def with_identity(client: Client, *, one_time_keys: int = 0) -> Person:
    """Return a person whose device is uploaded and cross-signed, and has some one-time keys."""
    person = with_device(client)
    client.upload(one_time_keys=person.one_time_keys(one_time_keys))
    upload_identity(client, person)
    return person


def upload_identity(client: Client, person: Person) -> None:
    """Upload cross-signing keys for the first time, and cross-sign the device."""
    client.upload_cross_signing(person.cross_signing_upload())
    client.upload_signatures(person.signed_device_upload())
