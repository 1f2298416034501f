"""One's own cross-signing keys: making them, keeping them, signing with them.

Specification: client-server API, "Cross-signing", "Secret Storage".

Facts:

* The master key signs the two others. The self-signing key signs one's own devices, the user-signing key signs other
  users' master keys, a device signs its owner's master key (:func:`~matrix_e2e_keys.sign_own_master_key`). Nothing else
  is signed.
* What is signed comes out with the new signature and no other: that is what is uploaded, with
  :meth:`SignaturesUploadRequest.for_keys <matrix_e2e_keys.SignaturesUploadRequest.for_keys>`. To keep it together with
  the signatures that were there before, use :func:`~matrix_e2e_keys.merge_signatures`.
* A device that can be taken for one of the keys is neither signed nor signs.
* Private keys show nowhere but in :meth:`CrossSigningSecrets.export_seeds`. Somebody else may replace the identity at
  any time; then :meth:`CrossSigningSecrets.stale_against` names what is of no use any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, NoReturn

from attrs import frozen

from matrix_e2e_keys.client.cross_signing.device_signing import check_apart, check_device_signer, signed_once
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import DeviceSigningUploadRequest
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError, quoted, raised_as
from matrix_e2e_keys.identifiers import parse_user_id
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.signing.signers import Ed25519SecretKey, Signer

__all__ = ["CrossSigningKeys", "CrossSigningSecrets"]

_ROLES: Final[tuple[Usage, ...]] = ("master", "self_signing", "user_signing")
_NAMES: Final[Mapping[str, Usage]] = {f"m.cross_signing.{role}": role for role in _ROLES}


@frozen(kw_only=True)
class CrossSigningKeys:
    """The public halves of one user's keys, as they are uploaded.

    Attributes:
        master_key: who the user is; signed by a device, or not at all.
        self_signing_key: signed by the master key.
        user_signing_key: signed by the master key.
    """

    master_key: CrossSigningKey
    self_signing_key: CrossSigningKey
    user_signing_key: CrossSigningKey

    def __attrs_post_init__(self) -> None:
        for role in _ROLES:
            if type(getattr(self, f"{role}_key")) is not CrossSigningKey:
                raise LocalProtocolError(Reason.WRONG_TYPE, "a CrossSigningKey is needed", path=f"/{role}_key")

    def identity(self) -> UserIdentity:
        """Return the identity that the keys make.

        Raises:
            VerificationError: they do not belong together.
        """
        return UserIdentity.verify(
            master_key=self.master_key,
            self_signing_key=self.self_signing_key,
            user_signing_key=self.user_signing_key,
        )

    def upload_request(self) -> DeviceSigningUploadRequest:
        """Return the upload of the three keys."""
        return DeviceSigningUploadRequest(
            master_key=self.master_key,
            self_signing_key=self.self_signing_key,
            user_signing_key=self.user_signing_key,
        )


@frozen(kw_only=True, repr=False, eq=False)
class CrossSigningSecrets:
    """The private halves of one user's cross-signing keys. Any of them may be missing.

    It has no equality, and is neither pickled nor copied.

    Attributes:
        user_id: whose keys they are.
        master: the private master key, ``None`` if it is not at hand.
        self_signing: the private self-signing key, ``None`` if it is not at hand.
        user_signing: the private user-signing key, ``None`` if it is not at hand.

    Raises:
        LocalProtocolError: an argument has the wrong type, or two roles have the same key.
    """

    user_id: str
    master: Ed25519SecretKey | None = None
    self_signing: Ed25519SecretKey | None = None
    user_signing: Ed25519SecretKey | None = None

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError, "user_id"):
            parse_user_id(self.user_id)
        taken: set[bytes] = set()
        for role in _ROLES:
            secret: object = getattr(self, role)
            if secret is None:
                continue
            if type(secret) is not Ed25519SecretKey:
                raise LocalProtocolError(Reason.WRONG_TYPE, "an Ed25519SecretKey is needed", path=f"/{role}")
            raw = secret.public_key.raw
            if raw in taken:
                raise LocalProtocolError(Reason.KEY_REUSED, "the same key is given for two roles", path=f"/{role}")
            taken.add(raw)

    # ----------------------------------------------------------------------------------------------------------
    # Making and keeping
    # ----------------------------------------------------------------------------------------------------------

    @classmethod
    def generate(cls, user_id: str) -> CrossSigningSecrets:
        """Return three fresh keys, from the operating system's random source.

        Store them before anything made with them is uploaded.

        Raises:
            LocalProtocolError: it is not a user id.
        """
        return cls(
            user_id=user_id,
            master=Ed25519SecretKey.generate(),
            self_signing=Ed25519SecretKey.generate(),
            user_signing=Ed25519SecretKey.generate(),
        )

    @classmethod
    def from_seeds(cls, user_id: str, seeds: Mapping[str, str]) -> CrossSigningSecrets:
        """Read the keys as secret storage has them. Nothing that is refused is quoted: it may be a secret.

        Args:
            user_id: whose keys they are.
            seeds: ``"m.cross_signing.master"``, ``"m.cross_signing.self_signing"`` or
                ``"m.cross_signing.user_signing"`` to a 32-byte seed in unpadded base64.

        Raises:
            LocalProtocolError: there is another name, a seed is none, or two are the same.
        """
        if not isinstance(seeds, Mapping):
            raise LocalProtocolError(Reason.WRONG_TYPE, "seeds are given by name", path="/seeds")
        secrets: dict[str, Ed25519SecretKey] = {}
        for name, seed in seeds.items():
            role = _NAMES.get(name) if type(name) is str else None
            if role is None:
                raise LocalProtocolError(
                    Reason.INVALID_VALUE, f"the names of seeds are {', '.join(_NAMES)}", path="/seeds"
                )
            with raised_as(LocalProtocolError, "seeds", name):
                secrets[role] = Ed25519SecretKey.from_base64(seed)
        return cls(user_id=user_id, **secrets)

    def export_seeds(self) -> dict[str, str]:
        """Return the keys at hand as :meth:`from_seeds` reads them. Whoever has them is the user."""
        return {f"m.cross_signing.{role}": secret.export_base64() for role, secret in self._at_hand()}

    @property
    def is_complete(self) -> bool:
        """Whether all three keys are at hand."""
        return len(list(self._at_hand())) == len(_ROLES)

    def public_keys(self, device_signer: Signer | None = None) -> CrossSigningKeys:
        """Return the public halves: the self-signing and the user-signing key signed by the master key.

        Args:
            device_signer: a device of the user that signs the master key, if any.

        Raises:
            LocalProtocolError: not all three keys are at hand, or the signer cannot be told from one of them.
        """
        master, self_signing, user_signing = (self._require(role) for role in _ROLES)
        if device_signer is not None:
            check_device_signer(device_signer, self._raw_keys(), "device_signer")
        return CrossSigningKeys(
            master_key=CrossSigningKey.build(
                user_id=self.user_id, usage="master", public_key=master.public_key, signer=device_signer
            ),
            self_signing_key=CrossSigningKey.build(
                user_id=self.user_id,
                usage="self_signing",
                public_key=self_signing.public_key,
                signer=master.cross_signer(),
            ),
            user_signing_key=CrossSigningKey.build(
                user_id=self.user_id,
                usage="user_signing",
                public_key=user_signing.public_key,
                signer=master.cross_signer(),
            ),
        )

    # ----------------------------------------------------------------------------------------------------------
    # Whether they are still the user's keys
    # ----------------------------------------------------------------------------------------------------------

    def check_against(self, identity: UserIdentity) -> None:
        """Check that each private key at hand belongs to the key that ``identity`` has in its role.

        Args:
            identity: of the same user, from a query about oneself: to anybody else, no user-signing key is shown.

        Raises:
            VerificationError: one does not, or the identity has no key in that role. The path names the key.
            LocalProtocolError: the identity is another user's, or none.
        """
        for role in self.stale_against(identity):
            raise VerificationError(
                Reason.PRIVATE_KEY_MISMATCH,
                f"the private {role} key at hand does not belong to {identity!r}",
                path=f"/{role}_key",
            )

    def stale_against(self, identity: UserIdentity) -> tuple[Usage, ...]:
        """Return the roles whose private key is not that of ``identity``: somebody has replaced the identity.

        Args:
            identity: see :meth:`check_against`.

        Raises:
            LocalProtocolError: the identity is another user's, or none.
        """
        if type(identity) is not UserIdentity:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a UserIdentity is needed", path="/identity")
        if identity.user_id != self.user_id:
            raise LocalProtocolError(
                Reason.USER_ID_MISMATCH,
                f"{identity!r} is not the identity of {quoted(self.user_id)}",
                path="/identity",
            )
        public: dict[Usage, CrossSigningKey | None] = {
            "master": identity.master_key,
            "self_signing": identity.self_signing_key,
            "user_signing": identity.user_signing_key,
        }
        return tuple([role for role, secret in self._at_hand() if not _is_half_of(secret, public[role])])

    def without(self, roles: Collection[Usage]) -> CrossSigningSecrets:
        """Return the private keys but those for some roles.

        Args:
            roles: ``"master"``, ``"self_signing"``, ``"user_signing"``.

        Raises:
            LocalProtocolError: they are not several.
        """
        if isinstance(roles, str) or not isinstance(roles, Collection):
            raise LocalProtocolError(Reason.WRONG_TYPE, "several roles are needed", path="/roles")
        return CrossSigningSecrets(
            user_id=self.user_id, **{role: secret for role, secret in self._at_hand() if role not in roles}
        )

    def matching(self, identity: UserIdentity) -> CrossSigningSecrets:
        """Return the private keys that belong to ``identity``, without those that :meth:`stale_against` names.

        Raises:
            LocalProtocolError: the identity is another user's, or none.
        """
        return self.without(self.stale_against(identity))

    # ----------------------------------------------------------------------------------------------------------
    # Signing
    # ----------------------------------------------------------------------------------------------------------

    def sign_device(self, device: VerifiedDevice) -> DeviceKeys:
        """Sign a device of one's own with the self-signing key: from now on, everybody may take it for one's own.

        Returns:
            The device keys with this signature and no other, and without ``unsigned``.

        Raises:
            LocalProtocolError: the self-signing key is not at hand, the device is another user's, or its id or one of
                its keys can be taken for one of the cross-signing keys at hand.
        """
        if type(device) is not VerifiedDevice:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path="/device")
        if device.user_id != self.user_id:
            raise LocalProtocolError(
                Reason.NOT_OWN_USER, f"{device!r} is not a device of {quoted(self.user_id)}", path="/device"
            )
        check_apart(device.keys, self._raw_keys())
        signer = self._require("self_signing").cross_signer()
        return device.keys.with_signed(signed_once(device.keys.signed, self.user_id, signer))

    def sign_user(self, identity: UserIdentity) -> CrossSigningKey:
        """Sign another user's master key with the user-signing key: one vouches for this being that user.

        Args:
            identity: the very identity that was compared with the other user, not one asked for afterwards.

        Returns:
            The other user's master key with this signature and no other, and without ``unsigned``.

        Raises:
            LocalProtocolError: the user-signing key is not at hand, or the identity is one's own, or has one of one's
                own keys.
        """
        if type(identity) is not UserIdentity:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a UserIdentity is needed", path="/identity")
        if identity.user_id == self.user_id:
            raise LocalProtocolError(
                Reason.INVALID_VALUE, "one's own master key is signed by one's devices", path="/identity"
            )
        if not self._raw_keys().isdisjoint(identity.raw_keys):
            raise LocalProtocolError(
                Reason.KEY_REUSED, f"a key of {identity!r} is a key of {quoted(self.user_id)}", path="/identity"
            )
        signer = self._require("user_signing").cross_signer()
        key = identity.master_key
        return key.with_signed(signed_once(key.signed, self.user_id, signer))

    # ----------------------------------------------------------------------------------------------------------

    def _at_hand(self) -> Iterator[tuple[Usage, Ed25519SecretKey]]:
        for role in _ROLES:
            secret: Ed25519SecretKey | None = getattr(self, role)
            if secret is not None:
                yield role, secret

    def _raw_keys(self) -> frozenset[bytes]:
        """Return the bytes of the public halves of the keys at hand."""
        return frozenset(secret.public_key.raw for _, secret in self._at_hand())

    def _require(self, role: Usage) -> Ed25519SecretKey:
        secret: Ed25519SecretKey | None = getattr(self, role)
        if secret is None:
            raise LocalProtocolError(
                Reason.MISSING_PRIVATE_KEY, f"the private {role} key is not at hand", path=f"/{role}"
            )
        return secret

    def __repr__(self) -> str:
        roles = ", ".join(role for role, _ in self._at_hand()) or "none"
        return f"<CrossSigningSecrets of {quoted(self.user_id)}: {roles}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise LocalProtocolError(Reason.INVALID_VALUE, "private keys are not pickled or copied; export their seeds")


def _is_half_of(secret: Ed25519SecretKey, key: CrossSigningKey | None) -> bool:
    return key is not None and key.raw == secret.public_key.raw
