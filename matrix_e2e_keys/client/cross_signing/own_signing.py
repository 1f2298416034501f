"""Cross-signing as one user does it on one device: set up, verify, sign, upload, see that it is served.

Specification: client-server API, "Cross-signing".

Facts:

* Whoever is verified is named by the key that was compared. If it has changed in between, nothing is signed: "clients
  MUST" refer to keys by their public key, not by their id.
* An identity that is there is not replaced unless one says so. That it may be there is reason enough to ask first.
* The private keys live in memory only. They are stored by the caller, apart from everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import define, field

from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState, CrossSigningBootstrap
from matrix_e2e_keys.client.cross_signing.device_signing import check_apart, check_own_signer, sign_own_master_key
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.cross_signing.signature_queue import SignatureQueue
from matrix_e2e_keys.client.queries.known_users import KnownUsers
from matrix_e2e_keys.client.users.changes import KeyChange
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.user_identity import OwnIdentity
from matrix_e2e_keys.signing.signers import Signer

__all__ = ["OwnSigning"]

_NOT_UPLOADED: Final = frozenset(
    {BootstrapState.STORE_SECRETS, BootstrapState.UPLOAD_KEYS, BootstrapState.AUTHENTICATE}
)


@define(kw_only=True)
class OwnSigning:
    """What one signs, on this device. A state machine without input or output.

    Attributes:
        device: this device.
        signer: its private half, under the key id ``ed25519:<device_id>``.
        users: what is known of users.
        queue: signatures on their way.
        bootstrap: the set-up of cross-signing, while it is under way and after; ``None`` if none was begun here.
        secrets: the private cross-signing keys at hand, ``None`` if there are none. While a set-up is under way, those
            that it sets up.
        resets: whether the set-up may replace an identity that is there.
        set_ups: how many were begun; tells whether a stored state knows of this one.
    """

    device: VerifiedDevice
    signer: Signer = field(repr=False)
    users: KnownUsers = field(repr=False)
    queue: SignatureQueue = field(factory=SignatureQueue)
    bootstrap: CrossSigningBootstrap | None = field(default=None, init=False)
    secrets: CrossSigningSecrets | None = field(default=None, init=False)
    resets: bool = field(default=False, init=False)
    set_ups: int = field(default=0, init=False)
    _own_signature: DeviceKeys | None = field(default=None, init=False, repr=False)
    _former: CrossSigningSecrets | None = field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if type(self.users) is not KnownUsers or type(self.queue) is not SignatureQueue:
            raise LocalProtocolError(Reason.WRONG_TYPE, "KnownUsers and a SignatureQueue are needed")
        check_own_signer(self.device, self.signer, "signer")
        if self.users.own_user_id != self.device.user_id:
            raise LocalProtocolError(Reason.NOT_OWN_USER, "the users are those of somebody else", path="/users")

    # ----------------------------------------------------------------------------------------------------------
    # One's own identity
    # ----------------------------------------------------------------------------------------------------------

    @property
    def is_setting_up(self) -> bool:
        """Whether a set-up is under way whose keys the server does not have yet."""
        return self.bootstrap is not None and self.bootstrap.state in _NOT_UPLOADED

    def start_bootstrap(self, secrets: CrossSigningSecrets, *, reset: bool = False) -> None:
        """Begin to set up cross-signing with new keys. Store ``secrets`` before anything is sent.

        Keep the seeds of an identity that this replaces until the server has the new one. Without ``reset``, the set-up
        is given up if the server shows an identity before it has this one.

        Args:
            secrets: all three private keys.
            reset: replace the identity that is there, or that may be there. All verifications by it are lost.

        Raises:
            LocalProtocolError: there is an identity already, or nobody has asked the server whether there is; a set-up
                is under way; a private key is missing; or an argument has the wrong type.
        """
        if type(reset) is not bool:
            raise LocalProtocolError(Reason.WRONG_TYPE, "reset is yes or no", path="/reset")
        if not reset:
            oneself = self._oneself
            if oneself is None:
                detail = "the server has not said yet whether there is an identity: ask for one's own devices first"
                raise LocalProtocolError(Reason.WRONG_STATE, detail)
            if oneself.identity is not None or oneself.has_refused_identity:
                detail = "there is an identity already: use its private keys, or replace it with reset=True"
                raise LocalProtocolError(Reason.WRONG_STATE, detail)
            if self.is_setting_up:
                raise LocalProtocolError(Reason.WRONG_STATE, "a set-up is under way; reset=True begins another one")
        former = self._former if self.is_setting_up else self.secrets
        self._take(secrets, CrossSigningBootstrap.start(secrets, device=self.device, device_signer=self.signer))
        self.resets, self._former = reset, former
        self.set_ups += 1

    def _take(self, secrets: CrossSigningSecrets, bootstrap: CrossSigningBootstrap | None) -> None:
        signature = None if secrets.self_signing is None else secrets.sign_device(self.device)
        self.secrets, self.bootstrap, self._own_signature = secrets, bootstrap, signature

    def use_secrets(self, secrets: CrossSigningSecrets) -> tuple[KeyChange, ...]:
        """Take over private keys, from secret storage or another device.

        If the private master key is among them, the identity that it belongs to is confirmed: at once, or when it is
        served. This device is signed by the self-signing key: before it is uploaded for the first time, or later.

        Args:
            secrets: any of the three keys.

        Raises:
            VerificationError: one of them does not belong to the identity that is served, nor is the private master key
                that of the one that was confirmed. Somebody has replaced it: import its private keys. Or one does not
                belong to the identity that is being set up: no others count until the server has that one.
            LocalProtocolError: they are another user's, or not of that type.
        """
        if type(secrets) is not CrossSigningSecrets or secrets.user_id != self.device.user_id:
            raise LocalProtocolError(Reason.WRONG_TYPE, "CrossSigningSecrets of one's own are needed", path="/secrets")
        if self.bootstrap is not None and self.is_setting_up:
            secrets.check_against(self.bootstrap.identity)
        else:
            self._check_against_served(secrets)
        self._take(secrets, self.bootstrap)
        changes = self._confirm_by_secret(again=True)
        self._sign_this_device()
        return changes

    def _check_against_served(self, secrets: CrossSigningSecrets) -> None:
        """Refuse private keys of another identity than the one that is served, unless theirs was confirmed.

        Raises:
            VerificationError: they are.
        """
        identity = None if self._oneself is None else self._oneself.identity
        master_key = None if secrets.master is None else secrets.master.public_key
        # What was confirmed counts, and not what may be the server's invention.
        is_confirmed = master_key is not None and master_key == self.users.own_master_key
        is_served = identity is not None and identity.master_public_key == master_key
        if identity is not None and (is_served or not is_confirmed):
            secrets.check_against(identity)

    def _sign_this_device(self) -> None:
        """Sign this device if that is all that is missing for everybody to take it for one's own."""
        if self.bootstrap is not None and self.bootstrap.state is not BootstrapState.DONE:
            return  # it has signed it
        oneself, secrets = self._oneself, self.secrets
        if self.users.own is None or oneself is None or secrets is None or secrets.self_signing is None:
            return
        name = (self.device.user_id, self.device.device_id)
        device = oneself.devices.get(self.device.device_id)
        if device is None or device.is_cross_signed or device.keys != self.device.keys:
            return
        if name not in self.queue.waiting | self.queue.unconfirmed:
            self.verify_device(device.device_id, device.ed25519_key)

    def _confirm_by_secret(self, *, again: bool) -> tuple[KeyChange, ...]:
        """Confirm one's own identity if the private master key at hand is its own, and that is not known yet.

        Args:
            again: confirm it also if it was another one in between.
        """
        oneself, secrets = self._oneself, self.secrets
        if secrets is None or secrets.master is None or oneself is None or oneself.identity is None:
            return ()
        master_key = secrets.master.public_key
        if oneself.identity.master_public_key != master_key:
            return ()
        if self.users.own_master_key == master_key and not (again and oneself.pin.needs_approval):
            return ()
        return self.users.confirm_own_identity(master_key)

    def settle(self) -> tuple[tuple[KeyChange, ...], tuple[Usage, ...]]:
        """Compare the private keys at hand with what is known of oneself now, after every answer about oneself.

        Returns:
            What has changed; and which private keys are not those of the identity that is served. If it is the one that
            was confirmed, they are dropped, and so are signatures on their way that other keys have made. If it is not,
            everything is kept: that identity may be the server's invention.
        """
        identity, secrets = None if self._oneself is None else self._oneself.identity, self.secrets
        if self.bootstrap is not None and self.is_setting_up:
            if identity is not None and not self.resets and identity.master_key != self.bootstrap.identity.master_key:
                self.abandon_bootstrap()
            return (), ()
        if identity is None or self.users.own_master_key not in (None, identity.master_public_key):
            return (), () if identity is None or secrets is None else secrets.stale_against(identity)
        keys: dict[Usage, CrossSigningKey] = {"master": identity.master_key, "self_signing": identity.self_signing_key}
        if identity.user_signing_key is not None:
            keys["user_signing"] = identity.user_signing_key
        self.queue.withdraw_unless_by({str(self.signer.key_id), *(key.key_name for key in keys.values())})
        if secrets is None:
            return (), ()
        # A server that leaves out the user-signing key does not make the private one stale.
        stale: tuple[Usage, ...] = tuple([role for role in secrets.stale_against(identity) if role in keys])
        if stale:
            remaining = secrets.without(stale)
            if remaining.export_seeds():
                self._take(remaining, self.bootstrap)
            else:
                self.secrets = self._own_signature = None
        changes = self._confirm_by_secret(again=False)
        self._sign_this_device()
        return changes, stale

    def abandon_bootstrap(self) -> None:
        """Give up a set-up that is under way. What the server has of it by now, it keeps.

        The private keys that were at hand before it are at hand again.

        Raises:
            LocalProtocolError: none is under way.
        """
        if not self.is_setting_up:
            raise LocalProtocolError(Reason.WRONG_STATE, "no set-up is under way")
        self.bootstrap = self.secrets = self._own_signature = None
        former, self._former = self._former, None
        if former is not None:
            self._take(former, None)

    @property
    def _oneself(self) -> KnownUser | None:
        return self.users.users.get(self.device.user_id)

    def sign_own_master_key(self) -> tuple[KeyChange, ...]:
        """Let this device sign one's own master key, so that whoever has verified the device can trust the identity.

        Returns:
            What has changed. If the identity was another one in between, this accepts it.

        Raises:
            LocalProtocolError: one's own identity is not confirmed.
        """
        master_key = self._require_own().identity.master_key
        signed = sign_own_master_key(master_key, device=self.device, signer=self.signer)
        changes = self.users.add_signatures(signed)
        self.queue.add(signed)
        return changes

    # ----------------------------------------------------------------------------------------------------------
    # Devices and users
    # ----------------------------------------------------------------------------------------------------------

    def verify_device(self, device_id: str, ed25519_key: Ed25519PublicKey) -> None:
        """Sign a device of one's own with the self-signing key: everybody may take it for one's own from now on.

        Args:
            device_id: which device. This one, too.
            ed25519_key: its signing key, as it was compared on the device itself.

        Raises:
            LocalProtocolError: there is no such device, or not with that key; the private self-signing key is not at
                hand; one's own identity is not confirmed; the device can be taken for a cross-signing key; or an
                argument has the wrong type.
        """
        own, secrets = self._require_secrets()
        _check_compared(ed25519_key, "ed25519_key")
        oneself = self._oneself
        device = None if oneself is None or type(device_id) is not str else oneself.devices.get(device_id)
        if device is None or device.ed25519_key != ed25519_key:
            detail = f"no device {quoted(device_id)} of one's own has the key that was compared"
            raise LocalProtocolError(Reason.SIGNING_KEY_CHANGED, detail, path="/device_id")
        check_apart(device.keys, frozenset(own.identity.raw_keys))
        signed = secrets.sign_device(device)
        self.users.add_signatures(signed)
        self.queue.add(signed)

    def verify_user(self, user_id: str, master_key: Ed25519PublicKey) -> tuple[KeyChange, ...]:
        """Sign another user's master key with the user-signing key: from now on, one takes that user for verified.

        Args:
            user_id: whom.
            master_key: the user's master key, as it was compared with the user.

        Raises:
            LocalProtocolError: the user has another master key, or none; a device id of the user is also one of the
                user's keys; the private user-signing key is not at hand; one's own identity is not confirmed; or an
                argument has the wrong type.
        """
        _, secrets = self._require_secrets()
        _check_compared(master_key, "master_key")
        user = self.users.users.get(user_id) if type(user_id) is str else None
        if user is None or user.identity is None or user.identity.master_public_key != master_key:
            detail = f"{quoted(user_id)} does not have the master key that was compared"
            raise LocalProtocolError(Reason.IDENTITY_CHANGED, detail, path="/master_key")
        if user.collision is not None:
            detail = f"the device id {quoted(user.collision)} of {quoted(user_id)} is also a cross-signing key"
            raise LocalProtocolError(Reason.IDENTIFIER_COLLISION, detail, path="/user_id")
        signed = secrets.sign_user(user.identity)
        changes = self.users.add_signatures(signed)
        self.queue.add(signed)
        return changes

    def _require_own(self) -> OwnIdentity:
        own = self.users.own
        if own is None:
            detail = "one's own identity is not known, or not confirmed: use its private keys, or confirm_own_identity"
            raise LocalProtocolError(Reason.WRONG_STATE, detail)
        return own

    def _require_secrets(self) -> tuple[OwnIdentity, CrossSigningSecrets]:
        """Return one's own identity as it is now, and the private keys that belong to it."""
        own = self._require_own()
        if self.is_setting_up:
            raise LocalProtocolError(Reason.WRONG_STATE, "a set-up is under way: nothing is signed before it is done")
        if self.secrets is None:
            raise LocalProtocolError(Reason.MISSING_PRIVATE_KEY, "no private cross-signing key is at hand")
        return own, self.secrets.matching(own.identity)

    # ----------------------------------------------------------------------------------------------------------
    # For the machine
    # ----------------------------------------------------------------------------------------------------------

    @property
    def own_signature(self) -> DeviceKeys | None:
        """The keys of this device with the signature of the self-signing key at hand and no other.

        ``None`` if there is no such key, or it is not that of the identity that is known.
        """
        secrets, identity = self.secrets, None if self._oneself is None else self._oneself.identity
        if identity is None or secrets is None or self.is_setting_up:
            return self._own_signature
        return None if "self_signing" in secrets.stale_against(identity) else self._own_signature

    def authenticate(self, auth: Mapping[str, object]) -> None:
        """Answer what the server wants to have proved before it takes the keys.

        Raises:
            LocalProtocolError: nobody asked, or it is not a JSON object.
        """
        if self.bootstrap is None:
            raise LocalProtocolError(Reason.WRONG_STATE, "no set-up is under way")
        self.bootstrap.authenticate(auth)


def _check_compared(key: object, name: str) -> None:
    """Refuse what is no key: other objects may claim to be equal to any."""
    if type(key) is not Ed25519PublicKey:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the key that was compared is an Ed25519PublicKey", path=f"/{name}")
