"""What has changed about a user's keys, and what is known of them from now on.

Specification: client-server API, "Tracking the device list for a user", "Cross-signing".

Facts:

* A device that was refused is there all the same: what was known of it stays. Only what an answer could have held and
  does not hold at all is gone.
* A known device whose signing key is another one is refused, and the known one stays. A device that was gone in between
  may come back with another key: its owner logged in anew under the same device id. That is taken, and named.
* An identity that was refused stays what it was. So does one that is not served any more; it is marked as vanished.
* Servers leave signatures out now and then. A master key that one has signed oneself stays signed.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from attrs import evolve, field, frozen

from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.errors import LocalProtocolError, RemoteProtocolError, quoted
from matrix_e2e_keys.keys import Ed25519Signature
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.signing.verifiers import Verifier

__all__ = [
    "ChangeKind",
    "KeyChange",
    "Seen",
    "as_known",
    "learn",
    "own_device_changes",
    "review_identities",
    "vouched_for",
    "with_user_signing_key",
]


_MAX_REMOVED: Final = 1000


class ChangeKind(enum.StrEnum):
    """What has changed. The values are stable: programs may compare and store them."""

    DEVICE_ADDED = "device-added"
    DEVICE_REMOVED = "device-removed"
    DEVICE_REAPPEARED = "device-reappeared"
    """It was gone, and is back with the signing key it had."""
    DEVICE_REPLACED = "device-replaced"
    """It was gone, and its id is back with another signing key. Or it is this device, and has other keys by now."""
    SIGNING_KEY_CHANGED = "signing-key-changed"
    """A known device has another signing key. It is refused, and the known one stays."""
    CURVE25519_CHANGED = "curve25519-changed"
    """A known device has another Olm identity key. It has signed that, so it is taken."""
    DEVICE_CHANGED = "device-changed"
    """A known device has changed something else that it signs."""
    CROSS_SIGNED = "cross-signed"
    """A known device is signed by its owner's identity now."""
    CROSS_SIGNATURE_LOST = "cross-signature-lost"
    """A known device is not signed by its owner's identity any more."""
    IDENTITY_ADDED = "identity-added"
    MASTER_KEY_CHANGED = "master-key-changed"
    MASTER_KEY_ALTERED = "master-key-altered"
    """The master key is the same, and is served with other members around it. What is known of it stays."""
    SELF_SIGNING_KEY_CHANGED = "self-signing-key-changed"
    """The master key is the same, and vouches for a new self-signing key."""
    USER_SIGNING_KEY_CHANGED = "user-signing-key-changed"
    """The master key is the same, and vouches for a new user-signing key."""
    IDENTITY_VANISHED = "identity-vanished"
    """There was an identity, and none is served any more. What is known of it stays."""
    IDENTITY_REAPPEARED = "identity-reappeared"
    IDENTIFIER_COLLISION = "identifier-collision"
    """A device id is also one of the user's cross-signing keys. Nobody must verify this user."""
    IDENTITY_STATE_CHANGED = "identity-state-changed"
    """What one makes of the identity has changed; ``before`` and ``after`` are states."""
    OWN_DEVICE_MISSING = "own-device-missing"
    """The server does not serve this device at all."""
    OWN_DEVICE_ALTERED = "own-device-altered"
    """The server serves this device with other keys, or in a form that is refused."""
    OWN_DEVICE_OUTDATED = "own-device-outdated"
    """The server serves this device with its keys, and with something else than was built here."""


Before = VerifiedDevice | UserIdentity | IdentityState | None


@frozen(kw_only=True)
class KeyChange:
    """One change.

    Attributes:
        kind: what has changed.
        user_id: whose.
        device_id: of which device, ``None`` if it is about the identity.
        detail: one sentence for people.
        before: what was known: a device, an identity or a state.
        after: what is seen now. After ``SIGNING_KEY_CHANGED`` it is the device that was refused.
    """

    kind: ChangeKind
    user_id: str
    device_id: str | None = None
    detail: str
    before: Before = field(default=None, repr=False)
    after: Before = field(default=None, repr=False)


@frozen(kw_only=True)
class Seen:
    """Internal: what an answer says about one user.

    Attributes:
        devices: the devices that were accepted.
        present: the ids of all devices in the answer, refused ones included.
        changed: devices that were refused since they are not the known ones, or not this device as it was built.
        is_answered: whether the answer says which devices there are.
        asked: the devices that were asked for; all if there are none.
        identity: the identity that was accepted.
        has_no_identity: whether no cross-signing key of the user stands in the answer, not even a refused one.
        vouched_for: whether one's own identity vouches for ``identity``.
        is_altered: whether the known master key is served with other members around it.
        collision: the device id that is also a cross-signing key.
    """

    devices: Mapping[str, VerifiedDevice]
    present: AbstractSet[str]
    changed: Mapping[str, VerifiedDevice]
    is_answered: bool
    asked: tuple[str, ...]
    identity: UserIdentity | None
    has_no_identity: bool
    vouched_for: bool
    is_altered: bool
    collision: str | None

    def could_hold(self, device_id: str) -> bool:
        """Whether the answer says if the device is there."""
        return self.is_answered and (not self.asked or device_id in self.asked)

    def is_gone(self, device_id: str) -> bool:
        """Whether a device could stand in the answer, and does not."""
        return device_id not in self.present and self.could_hold(device_id)


def learn(before: KnownUser, seen: Seen, verifier: Verifier) -> tuple[KnownUser, list[KeyChange]]:
    """Internal: return what is known after an answer, and what has changed."""
    identity = before.identity if seen.identity is None else with_user_signing_key(seen.identity, before.identity)
    kept = {device_id: device for device_id, device in before.devices.items() if not seen.is_gone(device_id)}
    if identity != before.identity:
        kept = {
            device_id: device if device_id in seen.devices else device.keys.verify(identity=identity, verifier=verifier)
            for device_id, device in kept.items()
        }
    new = dict(seen.devices)
    if seen.identity is None and identity is not None:
        # The answer could not say by whom its devices are cross-signed; what is known can.
        new = {name: device.keys.verify(identity=identity, verifier=verifier) for name, device in new.items()}
    pin = before.pin
    if seen.identity is not None:
        pin = pin.observe(seen.identity.master_public_key, vouched_for=seen.vouched_for)
    elif seen.has_no_identity:
        pin = pin.vanish()
    gone = {name: device for name, device in before.devices.items() if name not in kept}
    collision = seen.collision
    if collision is None and before.collision is not None and not seen.could_hold(before.collision):
        collision = before.collision
    removed = {name: key for name, key in before.removed_devices.items() if name not in new}
    removed |= {name: device.ed25519_key for name, device in gone.items()}
    after = KnownUser(
        user_id=before.user_id,
        devices={**kept, **new},
        removed_devices=dict(list(removed.items())[-_MAX_REMOVED:]),
        identity=identity,
        pin=pin,
        local_trust=before.local_trust,
        has_refused_identity=(
            seen.identity is None and not seen.has_no_identity if seen.is_answered else before.has_refused_identity
        ),
        collision=collision,
    )
    return after, [*_identity_changes(before, after, seen), *_device_changes(before, after, seen)]


def with_user_signing_key(seen: UserIdentity, before: UserIdentity | None) -> UserIdentity:
    """Internal: return an identity with the user-signing key that is known, if none is served.

    A known one that is another key of the identity by now is no user-signing key any more.
    """
    if before is None or seen.user_signing_key is not None or seen.master_public_key != before.master_public_key:
        return seen
    with contextlib.suppress(LocalProtocolError):
        return seen.with_user_signing_key_of(before)
    return seen


def own_device_changes(own_device: DeviceKeys, seen: Seen, altered: VerifiedDevice | None) -> Iterator[KeyChange]:
    """Internal: yield what the server does to one's own device, ``altered`` if it was refused for its keys."""
    device_id = own_device.device_id
    served = seen.devices.get(device_id)
    if device_id not in seen.present:
        if not seen.is_gone(device_id):
            return
        kind, detail = ChangeKind.OWN_DEVICE_MISSING, "the server does not serve this device"
    elif served is None:
        kind, detail = ChangeKind.OWN_DEVICE_ALTERED, "the server does not serve this device as it is"
    elif served.keys != own_device:
        kind, detail = ChangeKind.OWN_DEVICE_OUTDATED, "the server serves another version of this device"
    else:
        return
    yield KeyChange(kind=kind, user_id=own_device.user_id, device_id=device_id, detail=detail, after=served or altered)


def _identity_changes(before: KnownUser, after: KnownUser, seen: Seen) -> Iterator[KeyChange]:
    old, new, whose = before.identity, after.identity, quoted(after.user_id)
    kinds: list[tuple[ChangeKind, str]] = []
    if new is not None and old is None:
        kinds.append((ChangeKind.IDENTITY_ADDED, f"{whose} has an identity now"))
    elif new is not None and old is not None:
        if old.master_public_key != new.master_public_key:
            kinds.append((ChangeKind.MASTER_KEY_CHANGED, f"{whose} has another master key than before"))
        else:
            if old.self_signing_key != new.self_signing_key:
                kinds.append((ChangeKind.SELF_SIGNING_KEY_CHANGED, f"{whose} has another self-signing key"))
            if new.user_signing_key not in (None, old.user_signing_key):
                kinds.append((ChangeKind.USER_SIGNING_KEY_CHANGED, f"{whose} has another user-signing key"))
        if before.pin.is_vanished and not after.pin.is_vanished:
            kinds.append((ChangeKind.IDENTITY_REAPPEARED, f"the identity of {whose} is served again"))
    if seen.is_altered:
        kinds.append((ChangeKind.MASTER_KEY_ALTERED, f"the master key of {whose} is served in another form"))
    if after.pin.is_vanished and not before.pin.is_vanished:
        kinds.append((ChangeKind.IDENTITY_VANISHED, f"the identity of {whose} is not served any more"))
    for kind, detail in kinds:
        yield KeyChange(kind=kind, user_id=after.user_id, detail=detail, before=old, after=new)
    if after.collision not in (None, before.collision):
        yield KeyChange(
            kind=ChangeKind.IDENTIFIER_COLLISION,
            user_id=after.user_id,
            device_id=after.collision,
            detail=f"the device id {quoted(after.collision)} of {whose} is also one of the user's cross-signing keys",
        )
    yield from state_changes(before, after)


def state_changes(before: KnownUser, after: KnownUser) -> Iterator[KeyChange]:
    if before.pin.state is not after.pin.state:
        yield KeyChange(
            kind=ChangeKind.IDENTITY_STATE_CHANGED,
            user_id=after.user_id,
            detail=f"the identity of {quoted(after.user_id)} was {before.pin.state}, and is {after.pin.state} now",
            before=before.pin.state,
            after=after.pin.state,
        )


_DEVICE_DETAILS: Final = {
    ChangeKind.DEVICE_ADDED: "is new",
    ChangeKind.DEVICE_REMOVED: "is gone",
    ChangeKind.DEVICE_REAPPEARED: "is back with the signing key it had",
    ChangeKind.DEVICE_REPLACED: "is back with another signing key",
    ChangeKind.SIGNING_KEY_CHANGED: "has another signing key, and is refused",
    ChangeKind.CURVE25519_CHANGED: "has another Olm identity key",
    ChangeKind.DEVICE_CHANGED: "says something else than before",
    ChangeKind.CROSS_SIGNED: "is signed by its owner's identity now",
    ChangeKind.CROSS_SIGNATURE_LOST: "is not signed by its owner's identity any more",
}


def _device_changes(before: KnownUser, after: KnownUser, seen: Seen) -> Iterator[KeyChange]:
    for device_id in dict.fromkeys((*before.devices, *after.devices, *seen.changed)):
        old, new = before.devices.get(device_id), after.devices.get(device_id)
        refused = seen.changed.get(device_id)
        kinds = [*_device_kinds(old, new, before, device_id)]
        if refused is not None and old is not None and old.ed25519_key != refused.ed25519_key:
            kinds.append(ChangeKind.SIGNING_KEY_CHANGED)
        for kind in kinds:
            is_refused = kind is ChangeKind.SIGNING_KEY_CHANGED
            yield KeyChange(
                kind=kind,
                user_id=after.user_id,
                device_id=device_id,
                detail=f"the device {quoted(device_id)} of {quoted(after.user_id)} {_DEVICE_DETAILS[kind]}",
                before=old,
                after=refused if is_refused else new,
            )


def _device_kinds(
    old: VerifiedDevice | None, new: VerifiedDevice | None, before: KnownUser, device_id: str
) -> Iterator[ChangeKind]:
    if old is None:
        removed = before.removed_devices.get(device_id)
        if new is None:
            return
        if removed is None:
            yield ChangeKind.DEVICE_ADDED
        else:
            same = removed == new.ed25519_key
            yield ChangeKind.DEVICE_REAPPEARED if same else ChangeKind.DEVICE_REPLACED
    elif new is None:
        yield ChangeKind.DEVICE_REMOVED
    else:
        if old.keys.raw_ed25519 != new.keys.raw_ed25519:
            yield ChangeKind.DEVICE_REPLACED  # only one's own device: oneself knows better than one's memory
        elif old.keys.raw_curve25519 != new.keys.raw_curve25519:
            yield ChangeKind.CURVE25519_CHANGED
        elif old.keys != new.keys:
            yield ChangeKind.DEVICE_CHANGED
        if old.is_cross_signed is not new.is_cross_signed:
            yield ChangeKind.CROSS_SIGNED if new.is_cross_signed else ChangeKind.CROSS_SIGNATURE_LOST


def as_known(
    known: Mapping[str, KnownUser], seen: Mapping[str, UserIdentity], own_user_id: str | None, good: AbstractSet[str]
) -> dict[str, UserIdentity]:
    """Internal: return identities of ``seen`` with what is known of their master keys and was not served.

    A server can leave out signatures, and put other members around a master key: nobody need have signed them. Neither
    undoes what is known of the same key.

    Args:
        known: what is known of users.
        seen: the identities of an answer.
        own_user_id: oneself, whose signatures are kept.
        good: whose identities carry a good signature of one's own as they are served.
    """
    kept: dict[str, UserIdentity] = {}
    for user_id, identity in seen.items():
        kept[user_id] = identity
        before = known[user_id].identity if user_id in known else None
        if before is None or before.master_public_key != identity.master_public_key:
            continue
        if before.master_key != identity.master_key:
            kept[user_id] = identity.with_master_key_of(before)
        elif user_id not in good and own_user_id is not None:
            kept[user_id] = _with_signatures(identity, before, own_user_id)
    return kept


def _with_signatures(identity: UserIdentity, before: UserIdentity, own_user_id: str) -> UserIdentity:
    """Return an identity whose master key carries the signatures of one's own that are known."""
    signed = identity.master_key.signed
    for key_id, text in before.master_key.signed.signatures.get(own_user_id, {}).items():
        with contextlib.suppress(RemoteProtocolError, LocalProtocolError):  # nonsense is not kept
            signed = signed.with_signature(own_user_id, key_id, Ed25519Signature.from_base64(text))
    return (
        identity
        if signed.signatures == identity.master_key.signed.signatures
        else identity.with_master_signatures(signed)
    )


def vouched_for(identities: Iterable[UserIdentity], own: OwnIdentity | None, verifier: Verifier) -> frozenset[str]:
    """Internal: return whose identities ``own`` vouches for.

    One's own is among them if its master key is the one that was confirmed.
    """
    if own is None:
        return frozenset()
    others: list[UserIdentity] = []
    oneself: frozenset[str] = frozenset()
    for identity in identities:
        if identity.user_id != own.user_id:
            others.append(identity)
        elif identity.master_public_key == own.identity.master_public_key:
            oneself = frozenset([own.user_id])
    return oneself | own.verified_users(others, verifier=verifier)


def review_identities(
    known: Mapping[str, KnownUser], own: OwnIdentity | None, verifier: Verifier
) -> tuple[dict[str, KnownUser], list[KeyChange]]:
    """Internal: return the users of whom one makes something else since one's own identity has changed."""
    identities = [user.identity for user in known.values() if user.identity is not None]
    verified = vouched_for(identities, own, verifier)
    changed: dict[str, KnownUser] = {}
    changes: list[KeyChange] = []
    for user_id, user in known.items():
        after = evolve(user, pin=user.pin.review(vouched_for=user_id in verified))
        if after.pin != user.pin:
            changed[user_id] = after
            changes += state_changes(user, after)
    return changed, changes
