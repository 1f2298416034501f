"""Whose identity is whose: trust on first use, verification, and what becomes of both when a master key changes.

Specification: client-server API, "Cross-signing": "the client MUST notify the user about the change before allowing
communication between the users to continue".

Facts:

* The first master key one sees of a user is taken for the right one: it is *pinned*. From then on another one is a
  violation, until somebody accepts it.
* To have been verified once makes a change worse, so it is a state of its own. It does not heal: if the old master key
  comes back, somebody has to look at that as well. Only accepting, or verifying the new key, leads out.
* A verification can be lost without anybody's identity changing: one's own user-signing key was replaced. That is no
  violation, but no verification either.
* An identity that is not served any more is not a changed one. What is known of it stays, and is marked.
* One's own identity follows the same table. There, "verified" means that its master key is the one that oneself has
  confirmed; a violation means that somebody has reset it.

The table is :data:`TRANSITIONS`; the diagram in ``docs/identities.md`` is made of it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import evolve, frozen

from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.stored import Stored

__all__ = ["TRANSITIONS", "IdentityEvent", "IdentityPin", "IdentityState"]


class IdentityState(enum.StrEnum):
    """What one makes of a user's master key."""

    UNKNOWN = "unknown"
    """No master key of the user was ever seen."""
    PINNED = "pinned"
    """It is the one that was seen first, or accepted since. Nobody has verified it."""
    VERIFIED = "verified"
    """One's own user-signing key has signed it; or it is one's own, and confirmed."""
    VERIFICATION_LOST = "verification-lost"
    """It was verified and is still the same, but one's own identity does not vouch for it any more."""
    PIN_VIOLATION = "pin-violation"
    """It is not the one that was pinned."""
    VERIFICATION_VIOLATION = "verification-violation"
    """It is not the one that was verified; or it was another one in between."""


class IdentityEvent(enum.StrEnum):
    """What happens to a user's master key: it is seen, or accepted; and one's own identity vouches for it, or not.

    "Same" and "other" are meant in relation to the key that is pinned.
    """

    SAME = "same-key"
    SAME_VERIFIED = "same-key-verified"
    OTHER = "other-key"
    OTHER_VERIFIED = "other-key-verified"
    ACCEPTED = "accepted"
    ACCEPTED_VERIFIED = "accepted-verified"


_S, _E = IdentityState, IdentityEvent

TRANSITIONS: Final[Mapping[tuple[IdentityState, IdentityEvent], IdentityState]] = MappingProxyType(
    {
        (_S.UNKNOWN, _E.OTHER): _S.PINNED,
        (_S.UNKNOWN, _E.OTHER_VERIFIED): _S.VERIFIED,
        (_S.PINNED, _E.SAME): _S.PINNED,
        (_S.PINNED, _E.SAME_VERIFIED): _S.VERIFIED,
        (_S.PINNED, _E.OTHER): _S.PIN_VIOLATION,
        (_S.PINNED, _E.OTHER_VERIFIED): _S.VERIFIED,
        (_S.PINNED, _E.ACCEPTED): _S.PINNED,
        (_S.PINNED, _E.ACCEPTED_VERIFIED): _S.VERIFIED,
        (_S.VERIFIED, _E.SAME): _S.VERIFICATION_LOST,
        (_S.VERIFIED, _E.SAME_VERIFIED): _S.VERIFIED,
        (_S.VERIFIED, _E.OTHER): _S.VERIFICATION_VIOLATION,
        (_S.VERIFIED, _E.OTHER_VERIFIED): _S.VERIFIED,
        (_S.VERIFIED, _E.ACCEPTED): _S.PINNED,
        (_S.VERIFIED, _E.ACCEPTED_VERIFIED): _S.VERIFIED,
        (_S.VERIFICATION_LOST, _E.SAME): _S.VERIFICATION_LOST,
        (_S.VERIFICATION_LOST, _E.SAME_VERIFIED): _S.VERIFIED,
        (_S.VERIFICATION_LOST, _E.OTHER): _S.VERIFICATION_VIOLATION,
        (_S.VERIFICATION_LOST, _E.OTHER_VERIFIED): _S.VERIFIED,
        (_S.VERIFICATION_LOST, _E.ACCEPTED): _S.PINNED,
        (_S.VERIFICATION_LOST, _E.ACCEPTED_VERIFIED): _S.VERIFIED,
        (_S.PIN_VIOLATION, _E.SAME): _S.PINNED,
        (_S.PIN_VIOLATION, _E.SAME_VERIFIED): _S.VERIFIED,
        (_S.PIN_VIOLATION, _E.OTHER): _S.PIN_VIOLATION,
        (_S.PIN_VIOLATION, _E.OTHER_VERIFIED): _S.VERIFIED,
        (_S.PIN_VIOLATION, _E.ACCEPTED): _S.PINNED,
        (_S.PIN_VIOLATION, _E.ACCEPTED_VERIFIED): _S.VERIFIED,
        (_S.VERIFICATION_VIOLATION, _E.SAME): _S.VERIFICATION_VIOLATION,
        (_S.VERIFICATION_VIOLATION, _E.SAME_VERIFIED): _S.VERIFICATION_VIOLATION,
        (_S.VERIFICATION_VIOLATION, _E.OTHER): _S.VERIFICATION_VIOLATION,
        (_S.VERIFICATION_VIOLATION, _E.OTHER_VERIFIED): _S.VERIFIED,
        (_S.VERIFICATION_VIOLATION, _E.ACCEPTED): _S.PINNED,
        (_S.VERIFICATION_VIOLATION, _E.ACCEPTED_VERIFIED): _S.VERIFIED,
    }
)
"""State and event to the next state. What is not in it cannot happen."""

_VIOLATIONS: Final = frozenset({_S.PIN_VIOLATION, _S.VERIFICATION_VIOLATION})


@frozen(kw_only=True)
class IdentityPin:
    """What one remembers of a user's identity. An immutable value: each step returns the next.

    Attributes:
        state: what one makes of it.
        pinned: the master key that was seen first, or accepted or verified since.
        current: the master key that was seen last.
        is_vanished: whether the last answer about the user held no identity, though there had been one.
        retired: master keys that were pinned before. Whoever has stolen one has its signatures, too: they do not count
            any more, until the user accepts or verifies the key again.
    """

    state: IdentityState = IdentityState.UNKNOWN
    pinned: Ed25519PublicKey | None = None
    current: Ed25519PublicKey | None = None
    is_vanished: bool = False
    retired: frozenset[Ed25519PublicKey] = frozenset()

    def __attrs_post_init__(self) -> None:
        keys = (self.pinned, self.current)
        if type(self.state) is not IdentityState or type(self.is_vanished) is not bool:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a pin has an IdentityState")
        if type(self.retired) is not frozenset or any(type(key) is not Ed25519PublicKey for key in self.retired):
            raise LocalProtocolError(Reason.WRONG_TYPE, "master keys are Ed25519PublicKeys", path="/retired")
        if type(self.pinned) is Ed25519PublicKey and self.pinned in self.retired:
            raise LocalProtocolError(Reason.INVALID_VALUE, "the pinned key is not retired", path="/retired")
        if self.state is IdentityState.UNKNOWN:
            fits = keys == (None, None) and not self.is_vanished
        else:
            fits = all(type(key) is Ed25519PublicKey for key in keys)
            if self.state is IdentityState.PIN_VIOLATION:
                fits = fits and self.pinned != self.current
            elif self.state is not IdentityState.VERIFICATION_VIOLATION:
                fits = fits and self.pinned == self.current
        if not fits:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"these cannot be the keys of a {self.state} identity")

    @property
    def needs_approval(self) -> bool:
        """Whether the user has to be told before anything is sent, since the identity is not the one there was."""
        return self.state in _VIOLATIONS

    @property
    def is_verified(self) -> bool:
        """Whether the identity is verified, now."""
        return self.state is IdentityState.VERIFIED

    def observe(self, master_key: Ed25519PublicKey, *, vouched_for: bool) -> IdentityPin:
        """Return the pin after seeing a master key.

        Args:
            master_key: that of an identity that is consistent in itself.
            vouched_for: whether one's own identity vouches for it.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        _check(master_key, vouched_for)
        if master_key == self.pinned:
            event = IdentityEvent.SAME_VERIFIED if vouched_for else IdentityEvent.SAME
        else:
            is_good = vouched_for and master_key not in self.retired
            event = IdentityEvent.OTHER_VERIFIED if is_good else IdentityEvent.OTHER
        return self._after(event, master_key)

    def accept(self, master_key: Ed25519PublicKey, *, vouched_for: bool = False) -> IdentityPin:
        """Return the pin after the user has accepted the identity as it is now. A verification of before is withdrawn.

        Args:
            master_key: the master key that the user was shown.
            vouched_for: whether one's own identity vouches for it.

        Raises:
            LocalProtocolError: the master key has changed since the user was shown it, or none was ever seen.
        """
        _check(master_key, vouched_for)
        if master_key != self.current:
            raise LocalProtocolError(Reason.IDENTITY_CHANGED, "this is not the master key that was seen last")
        event = IdentityEvent.ACCEPTED_VERIFIED if vouched_for else IdentityEvent.ACCEPTED
        return evolve(self._after(event, master_key), is_vanished=self.is_vanished)

    def review(self, *, vouched_for: bool) -> IdentityPin:
        """Return the pin after one's own identity has changed, and vouches for the master key or does not.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if self.current is None:
            return self
        return evolve(self.observe(self.current, vouched_for=vouched_for), is_vanished=self.is_vanished)

    def vanish(self) -> IdentityPin:
        """Return the pin after an answer that held no identity of the user, not even a malformed one."""
        return self if self.state is IdentityState.UNKNOWN else evolve(self, is_vanished=True)

    def _after(self, event: IdentityEvent, master_key: Ed25519PublicKey) -> IdentityPin:
        state = TRANSITIONS[self.state, event]
        pinned = self.pinned if state in _VIOLATIONS else master_key
        retired = self.retired if self.pinned is None else self.retired | {self.pinned}
        return IdentityPin(state=state, pinned=pinned, current=master_key, retired=retired - {pinned})

    def to_json(self) -> JsonObject:
        """Return the pin as JSON."""
        return {
            "state": str(self.state),
            "pinned": None if self.pinned is None else self.pinned.to_base64(),
            "current": None if self.current is None else self.current.to_base64(),
            "is_vanished": self.is_vanished,
            "retired": [*sorted(key.to_base64() for key in self.retired)],
        }

    @classmethod
    def from_json(cls, obj: object) -> IdentityPin:
        """Restore a pin.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        return cls.restore(Stored(obj))

    @classmethod
    def restore(cls, stored: Stored) -> IdentityPin:
        """Internal: :meth:`from_json` for a pin that is part of something."""
        state = stored.member("state", str)
        if state not in list(IdentityState):
            with stored.reading("state"):
                raise LocalProtocolError(Reason.INVALID_VALUE, "this is no state of an identity")
        keys: list[Ed25519PublicKey | None] = []
        for name in ("pinned", "current"):
            text = stored.member(name, str, type(None))
            with stored.reading(name):
                keys.append(None if text is None else Ed25519PublicKey.from_base64(text))
        is_vanished = stored.member("is_vanished", bool)
        retired: set[Ed25519PublicKey] = set()
        for place, text in enumerate(stored.values("retired", str)):
            with stored.reading("retired", str(place)):
                retired.add(Ed25519PublicKey.from_base64(text))
        with stored.reading():
            return cls(
                state=IdentityState(state),
                pinned=keys[0],
                current=keys[1],
                is_vanished=is_vanished,
                retired=frozenset(retired),
            )


def _check(master_key: object, vouched_for: object) -> None:
    if type(master_key) is not Ed25519PublicKey:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a master key is an Ed25519PublicKey", path="/master_key")
    if type(vouched_for) is not bool:
        raise LocalProtocolError(Reason.WRONG_TYPE, "vouched_for is yes or no", path="/vouched_for")
