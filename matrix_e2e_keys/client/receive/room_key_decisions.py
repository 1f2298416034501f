"""What to do with the key of a Megolm session that somebody sent: take it, keep what one has, or refuse it.

Specification: client-server API, "m.megolm.v1.aes-sha2" ("When a client is updating a Megolm session in its store"),
"Key requests", "Receiving a key bundle event", "Shareable encryption sessions".

Facts:

* A session key says by itself which session it belongs to. One that is named otherwise is refused.
* What the creator of a session has sent is never replaced by a key that opens less, nor bound to another room or
  another device.
* Session ids are signing keys, and each message is signed. So no key that was put together can forge a message; it can
  only keep the true one out. For that reason a key that was handed on never stands in the way of the one that the
  session's own key has signed.
* Two keys of one session *connect* if the ratchet of the earlier one, turned on, is that of the later one. This cannot
  be told without turning it, so ``connects`` asks the caller's.
* That somebody has sent a signed key does not prove that he made it: all who have it could send it on. So if one
  device's name is held already, another's is refused, unless an identity vouches for the new one and none did for the
  one that is held. What remains: of two devices whose owners vouch for them, the one whose key came first is believed.
* Of the keys that were handed on, those in a bundle are the least sure: another user has made it. What it says of a
  session, its room and its maker, keeps no better key out.

The decisions, if the same session is held. *Better* is ``m.room_key`` than what one's own device forwarded, that than
an export or a backup, and these than a bundle.

================  ===========  ===================  ============================================
the new key is    it connects  it opens             decision
================  ===========  ===================  ============================================
better            yes          more, or as much     REPLACE
better            yes          less                 UPGRADE_SENDER: the ratchet stays
better            no           whatever it says     REPLACE: what is held may be anything
not better        yes          more                 REPLACE; whose it is, stays
not better        no           more                 KEEP (``SESSION_MISMATCH``)
not better        not asked    as much              KEEP
not better        not asked    less                 KEEP (``LATER_INDEX``)
================  ===========  ===================  ============================================

If both are ``m.room_key``, they count as connected, and there is more to say:

===========================================  ===================  ====================================================
the new one is                               it opens             decision
===========================================  ===================  ====================================================
of the same device, of which one is surer    more                 REPLACE, with the surer sender
of the same device, of which one is surer    less, or as much     UPGRADE_SENDER
of the same device, and not to be shared     less, or as much     UPGRADE_SENDER: nor is the session from now on
of another device, UNVERIFIED or surer,      more                 REPLACE, with the new sender
where DEVICE_KNOWN or less is held
of another device, UNVERIFIED or surer,      less, or as much     UPGRADE_SENDER
where DEVICE_KNOWN or less is held
===========================================  ===================  ====================================================

Where a new key contradicts what is held about the room (``ROOM_MISMATCH``) or otherwise about the device that made the
session (``SENDER_MISMATCH``), it is refused, with these exceptions:

* a better one that does not connect;
* a better one, where what is held came in a bundle: it says which room and which device it is;
* any, where what is held came in a bundle for another room: then nothing is held of the session, and STORE is the
  decision. Both have their place, since sessions are looked up by room and session id.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias

from attrs import frozen

from matrix_e2e_keys.client.receive.inbound_sessions import (
    InboundSession,
    SessionSource,
    altered_session,
)
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    VerificationError,
)
from matrix_e2e_keys.events.olm_formats import MegolmSessionKey
from matrix_e2e_keys.sealed import Sealed, constructor_of

__all__ = ["Connects", "RoomKeyAction", "RoomKeyDecision", "decide", "refuse"]

Connects: TypeAlias = Callable[[MegolmSessionKey], bool]
"""Tells whether a new key connects with the ratchet that is held of its session."""


class RoomKeyAction(enum.StrEnum):
    """What to do with a session key. The values are stable."""

    STORE = "store"
    """Nothing is held of the session in this room. Make a ratchet of the key, and remember the session."""
    REPLACE = "replace"
    """Make a ratchet of the key, and remember the session, in place of what is held."""
    UPGRADE_SENDER = "upgrade-sender"
    """Keep the ratchet that is held, and remember the session in place of the one that is held, since one knows better
    by now whose it is, or whether it may be shared."""
    KEEP = "keep"
    """Keep what is held. The key can be thrown away."""
    REFUSE = "refuse"
    """The key is not to be believed. Keep what is held, if anything is."""


@frozen(repr=False)
class RoomKeyDecision(metaclass=Sealed):
    """What to do with a session key. Only a check makes one.

    Attributes:
        action: what to do.
        session: what to remember of the session from now on; of a key that is refused, what is held.
        key: the session key to make a ratchet of, which is a secret; ``None`` if none is to be made.
        reason: why the key is not taken, for programs.
        detail: one sentence for people; empty if there is no reason.
        path: JSON Pointer into the content that held the key.
    """

    action: RoomKeyAction
    session: InboundSession | None
    key: MegolmSessionKey | None
    reason: Reason | None
    detail: str
    path: str

    def require(self) -> InboundSession:
        """Return what to remember.

        Raises:
            VerificationError: the key is refused.
        """
        if self.action is RoomKeyAction.REFUSE or self.session is None:
            raise VerificationError(self.reason or Reason.INVALID_VALUE, self.detail, path=self.path)
        return self.session

    def __bool__(self) -> NoReturn:
        raise LocalProtocolError(Reason.INVALID_VALUE, "a RoomKeyDecision has no truth value: ask for .action")

    def __repr__(self) -> str:
        why = "" if self.reason is None else f" ({self.reason})"
        return f"<RoomKeyDecision {self.action}{why}: {self.session!r}>"


_new_decision: Final = constructor_of(RoomKeyDecision)


_RANKS: Final = {
    SessionSource.ROOM_KEY: 3,
    SessionSource.FORWARDED: 2,
    SessionSource.EXPORT: 1,
    SessionSource.BACKUP: 1,
    SessionSource.HISTORY_BUNDLE: 0,
}


_NOBODY_VOUCHES: Final = SenderTrust.DEVICE_KNOWN
"""Up to here no identity vouches for a sender."""


def decide(
    held: InboundSession | None,
    new: InboundSession,
    key: MegolmSessionKey,
    connects: Connects | None,
    *,
    held_trust: SenderTrust | None = None,
) -> RoomKeyDecision:
    """Internal: return what to do with a key.

    Args:
        held: what is held of the session.
        new: what the new key makes of it.
        key: the new key.
        connects: whether both connect.
        held_trust: how sure one is by now of the sender that is held; ``None`` for as sure as one was.

    Raises:
        RemoteProtocolError: the key is refused.
        LocalProtocolError: ``held`` is another session; ``connects`` is needed, and has not answered.
    """
    if held is None:
        return _take(RoomKeyAction.STORE, new, key)
    if held.session_id != new.session_id:
        raise LocalProtocolError(Reason.SESSION_MISMATCH, "this is another session than the key's", path="/held")
    is_from_bundle = held.source is SessionSource.HISTORY_BUNDLE
    if is_from_bundle and held.room_id != new.room_id:
        return _take(RoomKeyAction.STORE, new, key)
    is_better = _RANKS[new.source] > _RANKS[held.source]
    if is_better and not _asked(connects, key):
        return _take(RoomKeyAction.REPLACE, new, key)
    if not (is_better and is_from_bundle):
        _check_contradictions(held, new, held_trust)
    kept = new if is_better else _of_the_surer(held, new)
    merged = altered_session(
        kept,
        first_index=min(held.first_index, new.first_index),
        shared_history=_is_shared(held, new),
        withheld=(held if held.first_index <= new.first_index else new).withheld,
    )
    if is_better:
        if new.first_index <= held.first_index:
            return _take(RoomKeyAction.REPLACE, merged, key)
        return _new_decision(RoomKeyAction.UPGRADE_SENDER, merged, None, None, "", "")
    if new.first_index < held.first_index:
        if new.source is SessionSource.ROOM_KEY or _asked(connects, key):
            return _take(RoomKeyAction.REPLACE, merged, key)
        return _keep(
            held, Reason.SESSION_MISMATCH, "the key opens more, and does not connect with the one that is held"
        )
    if kept is not held or (new.source is SessionSource.ROOM_KEY and merged.shared_history is not held.shared_history):
        return _new_decision(RoomKeyAction.UPGRADE_SENDER, merged, None, None, "", "")
    if new.first_index > held.first_index:
        # "that the new session key has a lower message index than the existing session key"
        return _keep(held, Reason.LATER_INDEX, "the key opens less than the one that is held")
    return _keep(held, None, "")


def _of_the_surer(held: InboundSession, new: InboundSession) -> InboundSession:
    """Return what is held; with the sender of the new key if that may take over, or one is surer of it."""
    if new.sender is None or held.sender is None:
        return held
    if new.sender.is_the_same_device_as(held.sender) and new.sender.trust <= held.sender.trust:
        return held
    return altered_session(held, sender=new.sender)


def _check_contradictions(held: InboundSession, new: InboundSession, held_trust: SenderTrust | None) -> None:
    """Check that a key goes together with what is held.

    Raises:
        RemoteProtocolError: it is for another room, or of another device.
    """
    if new.room_id != held.room_id:
        raise RemoteProtocolError(Reason.ROOM_MISMATCH, "the session is one of another room", path="/room_id")
    is_other = _maker(new) != _maker(held)
    if new.sender is not None and held.sender is not None:
        is_surer = new.trust.is_at_least(SenderTrust.UNVERIFIED) and (held_trust or held.trust) <= _NOBODY_VOUCHES
        is_other = not new.sender.is_the_same_device_as(held.sender) and not is_surer
    if is_other:
        raise RemoteProtocolError(Reason.SENDER_MISMATCH, "the session is one of another device")


def _maker(session: InboundSession) -> tuple[object, object]:
    """Return the keys of the device that has made a session, or is said to."""
    if session.sender is None:
        return session.claimed_curve25519_key, session.claimed_ed25519_key
    return session.sender.curve25519_key, session.sender.ed25519_key


def _is_shared(held: InboundSession, new: InboundSession) -> bool:
    """Return whether a session may be shared, of which two keys connect. Its creator's word goes before others'."""
    by_maker = [session.shared_history for session in (held, new) if session.source is SessionSource.ROOM_KEY]
    return all(by_maker) if by_maker else held.shared_history or new.shared_history


def _asked(connects: Connects | None, key: MegolmSessionKey) -> bool:
    """Return what our caller's ratchet says. What it raises may quote the key, so it goes no further."""
    if connects is None:
        # To take this for "no" would let a key replace what it does not open.
        detail = "something is held that may not be of the same ratchet: a callable that asks the ratchet is needed"
        raise LocalProtocolError(Reason.WRONG_TYPE, detail, path="/connects")
    if not callable(connects):
        raise LocalProtocolError(Reason.WRONG_TYPE, "connects must be callable", path="/connects")
    try:
        answer: object = connects(key)
    except Exception as error:  # noqa: BLE001 - a ratchet that we do not know
        detail = f"the ratchet has not answered: it raises a {type(error).__name__}"
        raise LocalProtocolError(Reason.INVALID_VALUE, detail, path="/connects") from None
    if type(answer) is not bool:
        raise LocalProtocolError(Reason.WRONG_TYPE, "connects must return a boolean", path="/connects")
    return answer


def _take(action: RoomKeyAction, session: InboundSession, key: MegolmSessionKey) -> RoomKeyDecision:
    return _new_decision(action, session, key, None, "", "")


def _keep(held: InboundSession, reason: Reason | None, detail: str) -> RoomKeyDecision:
    return _new_decision(RoomKeyAction.KEEP, held, None, reason, detail, "")


def refuse(held: InboundSession | None, error: RemoteProtocolError) -> RoomKeyDecision:
    """Internal: return the decision that a key is not to be believed."""
    return _new_decision(RoomKeyAction.REFUSE, held, None, error.reason, error.detail, error.path)
