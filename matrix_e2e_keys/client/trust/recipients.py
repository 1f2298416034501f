"""Whom to send a room key to, and what to tell the devices that do not get it.

Specification: client-server API, "Recommended client behaviour" of cross-signing, "Reporting that decryption keys are
withheld", ``m.room_key.withheld``.

Facts:

* A policy is always named; there is no default, since each is wrong for somebody.
* Where a policy stops, it stops for everybody: the room key is shared with nobody until the user has decided. Whoever
  overlooks that sends nothing, and not too much.
* Nothing is sent to one's own device, nor to users of whom nothing is known yet.
* What the user decided about a single device goes before every policy.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, Self

from attrs import define, field, frozen

from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust, check_known_users
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError, quoted
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import check_user_ids
from matrix_e2e_keys.models.device_keys import VerifiedDevice

__all__ = ["ProblemKind", "RecipientPolicy", "RecipientProblem", "Recipients", "select_recipients"]


class RecipientPolicy(enum.StrEnum):
    """Which devices get a room key."""

    ALL_DEVICES = "all-devices"
    """Every device. The server can add one that listens. A dehydrated device must be cross-signed all the same."""
    CROSS_SIGNED_ONLY = "cross-signed-only"
    """The devices that their owner's identity signed. Stops where that identity is not the one there was."""
    VERIFIED_ONLY = "verified-only"
    """The devices whose owner one has verified, and those one has verified themselves. Stops where one's own identity
    is not the one there was."""
    ERROR_ON_VIOLATION = "error-on-violation"
    """Every device, unless an identity has changed, or a user one has verified has a device that is not signed."""


class ProblemKind(enum.StrEnum):
    """What speaks against sending."""

    IDENTITY_CHANGED = "identity-changed"
    """The user's identity is not the one that was pinned or verified. The user has to be told, and to decide."""
    DEVICES_NOT_CROSS_SIGNED = "devices-not-cross-signed"
    """The user is verified, or was with the same identity, and has devices that the identity did not sign."""
    IDENTIFIER_COLLISION = "identifier-collision"
    """A device id of the user is also one of the user's cross-signing keys."""
    OWN_DEVICE_NOT_CROSS_SIGNED = "own-device-not-cross-signed"
    """One's own identity did not sign this device, so strict clients do not take what it sends. Stops nothing."""


@frozen(kw_only=True)
class RecipientProblem:
    """Something that speaks against sending.

    Attributes:
        kind: what it is.
        user_id: about whom.
        device_ids: about which devices, if it is about devices.
        stops: whether the policy stops there.
    """

    kind: ProblemKind
    user_id: str
    device_ids: frozenset[str] = frozenset()
    stops: bool


@frozen(kw_only=True)
class Recipients:
    """Who gets a room key.

    Attributes:
        devices: user id to device id to the devices to send it to. Empty if the policy stops.
        withheld: user id to device id to the code to tell each device that is left out. Empty if the policy stops.
        problems: what speaks against sending.
        unknown: users of whom nothing is known. Ask for their devices first.
        outdated: users whose devices may have changed since they were asked for. Ask again first, if possible.
    """

    devices: Mapping[str, Mapping[str, VerifiedDevice]]
    withheld: Mapping[str, Mapping[str, WithheldCode]]
    problems: tuple[RecipientProblem, ...]
    unknown: frozenset[str]
    outdated: frozenset[str]

    @property
    def is_stopped(self) -> bool:
        """Whether the policy stops, so that nobody is sent anything until the problems are solved."""
        return any(problem.stops for problem in self.problems)

    def require(self) -> Self:
        """Return this, unless the policy stops.

        Raises:
            VerificationError: for the first problem that stops it.
        """
        for problem in self.problems:
            if problem.stops:
                detail = f"nothing is sent because of {quoted(problem.user_id)}: {problem.kind}"
                reason = _REASONS[problem.kind]
                raise VerificationError(reason, detail)
        return self


_REASONS: Final = {
    ProblemKind.IDENTITY_CHANGED: Reason.IDENTITY_CHANGED,
    ProblemKind.DEVICES_NOT_CROSS_SIGNED: Reason.UNVERIFIED_DEVICE,
    ProblemKind.IDENTIFIER_COLLISION: Reason.IDENTIFIER_COLLISION,
    ProblemKind.OWN_DEVICE_NOT_CROSS_SIGNED: Reason.UNVERIFIED_DEVICE,
}
_MUST_BE_THE_SAME: Final = frozenset({RecipientPolicy.CROSS_SIGNED_ONLY, RecipientPolicy.ERROR_ON_VIOLATION})


def select_recipients(
    user_ids: Iterable[str],
    *,
    known: Mapping[str, KnownUser],
    policy: RecipientPolicy,
    own_user_id: str,
    own_device_id: str,
    outdated: AbstractSet[str] = frozenset(),
) -> Recipients:
    """Return who of some users gets a room key under a policy.

    Args:
        user_ids: the members of the room.
        known: user id to what is known of users.
        policy: which devices get it.
        own_user_id: oneself. One's other devices get the key if one is among ``user_ids``.
        own_device_id: this device. Nothing is sent to it.
        outdated: users whose devices may have changed, as :attr:`DeviceListTracker.outdated` has them.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    asked = check_user_ids(user_ids)
    if type(policy) is not RecipientPolicy:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a RecipientPolicy has to be named", path="/policy")
    for name, value in (("own_user_id", own_user_id), ("own_device_id", own_device_id)):
        if type(value) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, f"{name} must be a string", path=f"/{name}")
    if not isinstance(outdated, AbstractSet):
        raise LocalProtocolError(Reason.WRONG_TYPE, "outdated must be a set", path="/outdated")
    selection = _Selection(
        known=check_known_users(known), policy=policy, own_user_id=own_user_id, own_device_id=own_device_id
    )
    for user_id in asked:
        if user_id in known:
            selection.sort(known[user_id])
    problems = (*selection.problems_of_oneself(), *selection.problems(asked))
    is_stopped = any(problem.stops for problem in problems)
    return Recipients(
        devices=FrozenMap({} if is_stopped else {name: FrozenMap(of) for name, of in selection.devices.items()}),
        withheld=FrozenMap({} if is_stopped else {name: FrozenMap(of) for name, of in selection.withheld.items()}),
        problems=problems,
        unknown=frozenset(asked).difference(known),
        outdated=frozenset(asked).intersection(outdated),
    )


@define(kw_only=True)
class _Selection:
    """One selection under way."""

    known: Mapping[str, KnownUser]
    policy: RecipientPolicy
    own_user_id: str
    own_device_id: str
    devices: dict[str, dict[str, VerifiedDevice]] = field(factory=dict)
    withheld: dict[str, dict[str, WithheldCode]] = field(factory=dict)

    def sort(self, user: KnownUser) -> None:
        """Put each device of a user where it belongs."""
        for device_id, device in user.devices.items():
            if (user.user_id, device_id) == (self.own_user_id, self.own_device_id):
                continue
            code = self._code(user, device)
            if code is None:
                self.devices.setdefault(user.user_id, {})[device_id] = device
            else:
                self.withheld.setdefault(user.user_id, {})[device_id] = code

    def _code(self, user: KnownUser, device: VerifiedDevice) -> WithheldCode | None:
        """Return why a device gets nothing, ``None`` if it gets the key."""
        decided = user.trust_of(device.device_id)
        if decided is LocalTrust.BLACKLISTED:
            return WithheldCode.BLACKLISTED
        if not device.supports_olm:
            return WithheldCode.NO_OLM
        if decided is not LocalTrust.UNSET:
            return None
        if self.policy is RecipientPolicy.VERIFIED_ONLY:
            is_good = device_trust(user, device.device_id) is DeviceTrust.VERIFIED
        elif self.policy is RecipientPolicy.CROSS_SIGNED_ONLY:
            is_good = device.is_cross_signed
        else:
            is_good = not device.keys.is_dehydrated or device_trust(user, device.device_id) in _BY_ITS_OWNER
        return None if is_good else WithheldCode.UNVERIFIED

    def problems(self, user_ids: Iterable[str]) -> Iterator[RecipientProblem]:
        """Yield what speaks against sending to users."""
        for user_id in user_ids:
            user = self.known.get(user_id)
            if user is not None and user_id != self.own_user_id:
                yield from self._problems_of(user)

    def problems_of_oneself(self) -> Iterator[RecipientProblem]:
        """Yield what is wrong with one's own identity: it decides about everybody else's."""
        user = self.known.get(self.own_user_id)
        if user is not None:
            yield from self._problems_of(user)
        if self.policy is RecipientPolicy.CROSS_SIGNED_ONLY:
            device = None if user is None else user.devices.get(self.own_device_id)
            if device is None or not device.is_cross_signed:
                yield RecipientProblem(
                    kind=ProblemKind.OWN_DEVICE_NOT_CROSS_SIGNED,
                    user_id=self.own_user_id,
                    device_ids=frozenset([self.own_device_id]),
                    stops=False,
                )

    def _problems_of(self, user: KnownUser) -> Iterator[RecipientProblem]:
        stops = self.policy in _MUST_BE_THE_SAME
        if user.pin.needs_approval:
            # One's own identity is what the verification of everybody else rests on.
            is_own = user.user_id == self.own_user_id
            yield RecipientProblem(
                kind=ProblemKind.IDENTITY_CHANGED,
                user_id=user.user_id,
                stops=stops or (is_own and self.policy is RecipientPolicy.VERIFIED_ONLY),
            )
        if user.collision is not None:
            yield RecipientProblem(
                kind=ProblemKind.IDENTIFIER_COLLISION,
                user_id=user.user_id,
                device_ids=frozenset([user.collision]),
                stops=stops,
            )
        if user.pin.state in _WAS_VERIFIED:
            unsigned = [
                device_id
                for device_id, device in user.devices.items()
                if not device.is_cross_signed
                and user.trust_of(device_id) is LocalTrust.UNSET
                and (user.user_id, device_id) != (self.own_user_id, self.own_device_id)
            ]
            if unsigned:
                yield RecipientProblem(
                    kind=ProblemKind.DEVICES_NOT_CROSS_SIGNED,
                    user_id=user.user_id,
                    device_ids=frozenset(unsigned),
                    stops=self.policy is RecipientPolicy.ERROR_ON_VIOLATION,
                )


_WAS_VERIFIED: Final = frozenset({IdentityState.VERIFIED, IdentityState.VERIFICATION_LOST})
_BY_ITS_OWNER: Final = frozenset({DeviceTrust.CROSS_SIGNED, DeviceTrust.VERIFIED})
