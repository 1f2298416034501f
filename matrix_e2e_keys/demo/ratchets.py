"""The ratchets of the demonstration: vodozemac, behind the few calls that the story needs.

Facts:

* This is the only module that imports vodozemac, and only when it is asked to. Where it is not installed, devices have
  sample keys, and the story is told without messages.
* Whatever is wrong with a message that somebody has tampered with, a ratchet raises a ``ValueError`` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from attrs import define, field, frozen

from matrix_e2e_keys.events.encrypted import OlmCiphertext
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.signing.signers import Signer, VodozemacSigner
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key

__all__ = ["Account", "InboundRatchet", "OlmAccount", "OutboundRatchet", "SampleAccount", "Vodozemac", "load_vodozemac"]

Vodozemac: TypeAlias = Any
"""The module. Its type stubs lack some of what it has."""


def load_vodozemac() -> Vodozemac | None:
    """Return vodozemac; ``None`` if it is not installed."""
    try:
        import vodozemac  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return vodozemac


class Account(Protocol):
    """The keys of a device: what a :class:`~matrix_e2e_keys.KeyMachine` needs of an Olm library."""

    @property
    def identity_key(self) -> Curve25519PublicKey:
        """The key that others open encrypted sessions with."""
        ...  # pragma: no cover

    @property
    def signer(self) -> Signer:
        """What signs for the device."""
        ...  # pragma: no cover

    def make_one_time_keys(self, count: int) -> Mapping[str, Curve25519PublicKey]:
        """Make one-time keys, and return their public halves by name."""
        ...  # pragma: no cover

    def make_fallback_key(self) -> tuple[str, Curve25519PublicKey]:
        """Make a fallback key, and return its name and its public half."""
        ...  # pragma: no cover


@define
class SampleAccount:
    """An :class:`Account` with keys that everybody knows. It cannot encrypt."""

    user_id: str
    device_id: str
    _made: int = field(default=0, init=False)

    @property
    def identity_key(self) -> Curve25519PublicKey:
        """The key that others would open encrypted sessions with."""
        return sample_curve25519_key(f"{self.user_id} {self.device_id}")

    @property
    def signer(self) -> Signer:
        """What signs for the device."""
        return SampleUser(self.user_id).device_signer(self.device_id)

    def make_one_time_keys(self, count: int) -> Mapping[str, Curve25519PublicKey]:
        """Return keys that were not returned before."""
        return dict([self._make() for _ in range(count)])

    def make_fallback_key(self) -> tuple[str, Curve25519PublicKey]:
        """Return a key that was not returned before."""
        return self._make()

    def _make(self) -> tuple[str, Curve25519PublicKey]:
        self._made += 1
        name = f"K{self._made}"
        return name, sample_curve25519_key(f"{self.user_id} {self.device_id} {name}")


@define
class OlmAccount:
    """An :class:`Account` of vodozemac, and its sessions with other devices, by their identity keys."""

    _olm: Vodozemac = field(repr=False)
    _device_id: str
    _account: Any = field(init=False, repr=False)
    _sessions: dict[Curve25519PublicKey, Any] = field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._account = self._olm.Account()

    @property
    def identity_key(self) -> Curve25519PublicKey:
        """The key that others open encrypted sessions with."""
        return _from_olm(self._account.curve25519_key)

    @property
    def signer(self) -> Signer:
        """What signs for the device."""
        return VodozemacSigner.of(self._account, self._device_id)

    def make_one_time_keys(self, count: int) -> Mapping[str, Curve25519PublicKey]:
        """Make one-time keys, and return their public halves by name."""
        self._account.generate_one_time_keys(count)
        keys = {name: _from_olm(key) for name, key in self._account.one_time_keys.items()}
        self._account.mark_keys_as_published()
        return keys

    def make_fallback_key(self) -> tuple[str, Curve25519PublicKey]:
        """Make a fallback key, and return its name and its public half."""
        self._account.generate_fallback_key()
        ((name, key),) = self._account.fallback_key.items()
        self._account.mark_keys_as_published()
        return name, _from_olm(key)

    def open_session(self, identity_key: Curve25519PublicKey, one_time_key: Curve25519PublicKey) -> None:
        """Open a session with a device, by a one-time key of it that was claimed."""
        keys = self._to_olm(identity_key), self._to_olm(one_time_key)
        self._sessions[identity_key] = self._account.create_outbound_session(*keys)

    def encrypt(self, identity_key: Curve25519PublicKey, plaintext: bytes) -> OlmCiphertext:
        """Encrypt for a device with which there is a session."""
        return OlmCiphertext.from_parts(*self._sessions[identity_key].encrypt(plaintext).to_parts())

    def decrypt(self, identity_key: Curve25519PublicKey, message: OlmCiphertext) -> bytes:
        """Decrypt what a device has sent. Its first message opens the session."""
        encrypted = self._olm.AnyOlmMessage.from_parts(message.message_type, message.message)
        first = encrypted.to_pre_key()
        session = self._sessions.get(identity_key)
        if session is None:
            self._sessions[identity_key], plaintext = self._account.create_inbound_session(
                self._to_olm(identity_key), first
            )
        else:
            plaintext = session.decrypt(encrypted)
        return bytes(plaintext)

    def _to_olm(self, key: Curve25519PublicKey) -> Any:
        return self._olm.Curve25519PublicKey.from_base64(key.to_base64())


def _from_olm(key: Any) -> Curve25519PublicKey:
    return Curve25519PublicKey.from_base64(key.to_base64())


@define
class OutboundRatchet:
    """The sender's end of a Megolm session."""

    _olm: Vodozemac = field(repr=False)
    _session: Any = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._session = self._olm.GroupSession()

    @property
    def session_key(self) -> str:
        """What others need to read what is encrypted from now on."""
        key: str = self._session.session_key.to_base64()
        return key

    @property
    def session_id(self) -> str:
        """The name of the session."""
        session_id: str = self._session.session_id
        return session_id

    @property
    def message_index(self) -> int:
        """The number of the next message."""
        index: int = self._session.message_index
        return index

    def encrypt(self, plaintext: bytes) -> str:
        """Encrypt a message for everybody who has the key."""
        ciphertext: str = self._session.encrypt(plaintext).to_base64()
        return ciphertext


@frozen
class InboundRatchet:
    """A receiver's end of a Megolm session."""

    _olm: Vodozemac = field(repr=False)
    _session: Any = field(repr=False)

    @classmethod
    def of(cls, olm: Vodozemac, session_key: str) -> InboundRatchet:
        """Make one of a session key."""
        return cls(olm, olm.InboundGroupSession(olm.SessionKey(session_key)))

    def decrypt(self, ciphertext: str) -> tuple[bytes, int]:
        """Return what is in a message, and its number."""
        decrypted = self._session.decrypt(self._olm.MegolmMessage.from_base64(ciphertext))
        return bytes(decrypted.plaintext), decrypted.message_index

    def export(self) -> str:
        """Return the key of the session from the first message on that it opens, to be forwarded."""
        key: str = self._session.export_at(self._session.first_known_index).to_base64()
        return key
