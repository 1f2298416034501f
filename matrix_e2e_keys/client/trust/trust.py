"""Is this device trusted, and why: every link from oneself to the device, with the answer to its question.

Specification: client-server API, "Cross-signing".

Facts:

* What one's own user-signing key signed, one has verified: a user's master key. It vouches for the user's self-signing
  key, and that for the user's devices. With one's own devices, the way begins at one's own master key.
* A :class:`TrustProof` asks every question anew, with the keys at hand. It says no more than its links say.
* What somebody decided about a device by hand goes before what follows from signatures.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import field, frozen

from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.client.trust.trust_graph import mermaid, text_lines
from matrix_e2e_keys.client.trust.trust_links import KeyName, LinkVerdict, TrustLink, name_of, signature_link
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["DeviceTrust", "TrustProof", "device_trust", "explain_device", "explain_user"]


class DeviceTrust(enum.StrEnum):
    """What one makes of a device."""

    BLACKLISTED = "blacklisted"
    """The user wants nothing sent to it."""
    NOT_CROSS_SIGNED = "not-cross-signed"
    """It signed itself, and that is all. The server may have made it up."""
    OWNER_CHANGED = "owner-changed"
    """Its owner's identity signed it; but that identity is not the one there was."""
    CROSS_SIGNED = "cross-signed"
    """Its owner's identity signed it. Nobody has verified that identity."""
    VERIFIED = "verified"
    """Its owner's identity signed it, and one has verified that; or one has verified the device itself."""


_DECIDED: Final = {
    LocalTrust.VERIFIED: LinkVerdict.CONFIRMED,
    LocalTrust.IGNORED: LinkVerdict.IGNORED,
    LocalTrust.BLACKLISTED: LinkVerdict.DENIED,
}


def device_trust(user: KnownUser, device_id: str) -> DeviceTrust:
    """Return what one makes of a device, from what is known of its owner.

    Raises:
        LocalProtocolError: there is no such device.
    """
    _check(user, device_id)
    return _trust(user, device_id, is_cross_signed=user.devices[device_id].is_cross_signed, reached=True)


def _trust(user: KnownUser, device_id: str, *, is_cross_signed: bool, reached: bool) -> DeviceTrust:
    decided = user.trust_of(device_id)
    if decided is LocalTrust.BLACKLISTED:
        return DeviceTrust.BLACKLISTED
    if decided is LocalTrust.VERIFIED:
        return DeviceTrust.VERIFIED
    if not is_cross_signed:
        return DeviceTrust.NOT_CROSS_SIGNED
    if user.pin.needs_approval:
        return DeviceTrust.OWNER_CHANGED
    return DeviceTrust.VERIFIED if user.pin.is_verified and reached else DeviceTrust.CROSS_SIGNED


@frozen(kw_only=True)
class TrustProof:
    """Why a device, or a user, is trusted or not.

    Attributes:
        user_id: who it is about.
        device_id: which device it is about, ``None`` if it is about the user.
        verdict: what one makes of the device, or of the user's identity.
        links: every link between oneself and the device, beginning at oneself.
    """

    user_id: str
    device_id: str | None
    verdict: DeviceTrust | IdentityState
    links: tuple[TrustLink, ...] = field(repr=False)

    @property
    def broken(self) -> tuple[TrustLink, ...]:
        """The links that do not hold."""
        return tuple([link for link in self.links if not link.holds])

    def to_text(self, *, marks: tuple[str, str] = ("\N{CHECK MARK}", "\N{BALLOT X}")) -> str:
        """Return the proof as lines for people: the verdict, then each link.

        Args:
            marks: what to write before a link that holds, and before one that does not.

        Raises:
            LocalProtocolError: ``marks`` is not two strings.
        """
        if type(marks) is not tuple or [type(mark) for mark in marks] != [str, str]:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the marks must be two strings", path="/marks")
        of = quoted(self.user_id) if self.device_id is None else f"{quoted(self.device_id)} of {quoted(self.user_id)}"
        return "\n".join([f"{of}: {self.verdict}", *text_lines(self.links, marks)])

    def to_mermaid(self) -> str:
        """Return the proof as a Mermaid graph. Names from servers are escaped in it."""
        return mermaid(self.links)


def explain_device(
    user: KnownUser, device_id: str, *, own: OwnIdentity | None, verifier: Verifier = LIBSODIUM
) -> TrustProof:
    """Return why a device is trusted or not.

    Args:
        user: what is known of the owner.
        device_id: one of the owner's devices.
        own: one's own identity, confirmed; ``None`` if there is none.
        verifier: who checks signatures.

    Raises:
        LocalProtocolError: an argument has the wrong type, or there is no such device.
    """
    _check(user, device_id)
    _check_asker(own, verifier)
    asker = _Asker(own=own, verifier=verifier)
    device = user.devices[device_id]
    itself = KeyName(user_id=user.user_id, role="device", key_id=f"{ED25519}:{device_id}")
    way = asker.way_to_user(user)
    identity = user.identity
    if identity is None:
        signer, detail = KeyName(user_id=user.user_id, role="self_signing", key_id=""), "its owner has no identity"
        reason = Reason.MISSING_SELF_SIGNING_KEY
        by_owner = TrustLink(key=itself, signer=signer, verdict=LinkVerdict.MISSING, reason=reason, detail=detail)
    else:
        signing = name_of(identity.self_signing_key)
        by_owner = signature_link(device.keys.signed, itself, signing, identity.self_signing_public_key, verifier)
    by_itself = signature_link(device.keys.signed, itself, itself, device.ed25519_key, verifier)
    links = [*way, by_owner, by_itself]
    decided = user.trust_of(device_id)
    if decided is not LocalTrust.UNSET:
        detail = f"you have marked it as {decided}"
        links.append(TrustLink(key=itself, signer=None, verdict=_DECIDED[decided], detail=detail))
    is_cross_signed = _all_hold([*way[-1:], by_owner, by_itself])
    trust = _trust(user, device_id, is_cross_signed=is_cross_signed, reached=_all_hold(way))
    return TrustProof(user_id=user.user_id, device_id=device_id, verdict=trust, links=tuple(links))


def explain_user(user: KnownUser, *, own: OwnIdentity | None, verifier: Verifier = LIBSODIUM) -> TrustProof:
    """Return why the identity of a user is verified or not.

    Args:
        user: what is known of the user.
        own: one's own identity, confirmed; ``None`` if there is none.
        verifier: who checks signatures.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    if type(user) is not KnownUser:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a KnownUser is needed", path="/user")
    _check_asker(own, verifier)
    way = _Asker(own=own, verifier=verifier).way_to_user(user)
    verdict = user.pin.state
    if verdict is IdentityState.VERIFIED and not _all_hold(way):
        verdict = IdentityState.VERIFICATION_LOST
    return TrustProof(user_id=user.user_id, device_id=None, verdict=verdict, links=tuple(way))


def _check(user: object, device_id: object) -> None:
    if type(user) is not KnownUser:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a KnownUser is needed", path="/user")
    if type(device_id) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a device id must be a string", path="/device_id")
    if device_id not in user.devices:
        detail = f"{quoted(user.user_id)} has no device {quoted(device_id)} that is known"
        raise LocalProtocolError(Reason.INVALID_VALUE, detail, path="/device_id")


def _check_asker(own: object, verifier: Verifier) -> None:
    if own is not None and type(own) is not OwnIdentity:
        raise LocalProtocolError(Reason.WRONG_TYPE, "own must be an OwnIdentity", path="/own")
    check_verifier(verifier)


@frozen(kw_only=True)
class _Asker:
    """Who asks: oneself, with one's own identity."""

    own: OwnIdentity | None
    verifier: Verifier

    def way_to_user(self, user: KnownUser) -> list[TrustLink]:
        """Return the links from oneself to the self-signing key of a user. If all hold, the user is verified."""
        identity = user.identity
        if identity is None:
            return []
        master, key = name_of(identity.master_key), identity.self_signing_key
        way = [*self._way_to_master_key(user, identity, master)]
        if not user.pin.is_verified and _all_hold(way):
            way.append(_outdated(master))
        return [*way, signature_link(key.signed, name_of(key), master, identity.master_public_key, self.verifier)]

    def _way_to_master_key(self, user: KnownUser, identity: UserIdentity, master: KeyName) -> Iterator[TrustLink]:
        pin = user.pin
        if pin.needs_approval:
            changed = "pinned" if pin.state is IdentityState.PIN_VIOLATION else "verified"
            yield _changed(master, f"it is not the master key that was {changed}, or was another one in between")
        if self.own is not None and self.own.user_id == user.user_id:
            if identity.master_public_key == self.own.identity.master_public_key:
                yield _confirmed(master)
            else:
                yield _changed(master, "it is not your own master key that you have confirmed")
            return
        if self.own is None:
            yield _missing(master, "your own identity is not known")
        else:
            yield from self._way_by_signature(self.own.identity, identity, master)
        if not pin.needs_approval:
            yield TrustLink(
                key=master,
                signer=None,
                verdict=LinkVerdict.PINNED,
                detail="it is the master key that was seen first, or accepted since",
            )

    def _way_by_signature(self, mine: UserIdentity, identity: UserIdentity, master: KeyName) -> Iterator[TrustLink]:
        own_master = name_of(mine.master_key)
        yield _confirmed(own_master)
        if mine.user_signing_key is None or mine.user_signing_key.public_key is None:
            yield _missing(master, "your user-signing key is not known")
            return
        signing = name_of(mine.user_signing_key)
        yield signature_link(mine.user_signing_key.signed, signing, own_master, mine.master_public_key, self.verifier)
        yield signature_link(
            identity.master_key.signed, master, signing, mine.user_signing_key.public_key, self.verifier
        )


def _confirmed(master: KeyName) -> TrustLink:
    detail = "it is your own master key, and you have confirmed it"
    return TrustLink(key=master, signer=None, verdict=LinkVerdict.CONFIRMED, detail=detail)


def _missing(master: KeyName, detail: str) -> TrustLink:
    return TrustLink(key=master, signer=None, verdict=LinkVerdict.MISSING, reason=Reason.MISSING_KEY, detail=detail)


def _changed(master: KeyName, detail: str) -> TrustLink:
    reason = Reason.IDENTITY_CHANGED
    return TrustLink(key=master, signer=None, verdict=LinkVerdict.CHANGED, reason=reason, detail=detail)


def _outdated(master: KeyName) -> TrustLink:
    detail = "your own identity was not known, or was another one, when the user was last asked about"
    reason = Reason.WRONG_STATE
    return TrustLink(key=master, signer=None, verdict=LinkVerdict.OUTDATED, reason=reason, detail=detail)


def _all_hold(links: Iterable[TrustLink]) -> bool:
    return all(link.holds for link in links)
