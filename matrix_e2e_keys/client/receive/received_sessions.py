"""The keys of Megolm sessions, in whatever way they come: what they make of what one holds.

Specification: client-server API, ``m.room_key``, ``m.forwarded_room_key``, "Receiving a key bundle event", "Shareable
encryption sessions".

Facts:

* "When a client receives a Megolm session, the client MUST ensure that the session was received via an Olm channel":
  an ``m.room_key`` is taken only as a :class:`~matrix_e2e_keys.DecryptedOlmEvent`, and a forwarded key only as an
  :class:`~matrix_e2e_keys.AcceptedForward`, which was asked for.
* A session key says by itself which session it belongs to. One that is named otherwise is refused.
* What a device said that one has blacklisted, or does not know, is taken as well: who it is, stays with the session.
* What is held of a session is looked for by its session id alone, so that a key for another room is noticed. If bundles
  have brought more than one of an id, hand in the one that came otherwise, or else the one of the key's room.
* Which of two keys of a session is the better one, :mod:`~matrix_e2e_keys.client.receive.room_key_decisions` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from matrix_e2e_keys.client.receive.accepted_answers import AcceptedForward
from matrix_e2e_keys.client.receive.handed_in import check_sender_verifier
from matrix_e2e_keys.client.receive.inbound_sessions import (
    InboundSession,
    SessionSource,
    new_session,
)
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent
from matrix_e2e_keys.client.receive.room_key_decisions import Connects, RoomKeyDecision, decide, refuse
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust, new_sender
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.endpoints.members import user_id
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    VerificationError,
    json_pointer,
    quoted,
    raised_as,
)
from matrix_e2e_keys.events.contents import callers_own
from matrix_e2e_keys.events.contents import room_id as _room_id
from matrix_e2e_keys.events.key_bundles import HistoricRoomKey, RoomKeyBundle
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import parse_room_id
from matrix_e2e_keys.json_trees import wrong_type
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.outcome import Partition, Rejection
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = [
    "judge_room_key",
    "session_from_forward",
    "session_from_import",
    "session_of_own",
    "sessions_from_bundle",
]

SessionIdOf: TypeAlias = Callable[[str], str]
"""Asks the ratchet to which session a session key belongs."""


def judge_room_key(
    event: DecryptedOlmEvent,
    *,
    held: InboundSession | None,
    known: Mapping[str, KnownUser] | None = None,
    connects: Connects | None = None,
    session_id_of: SessionIdOf | None = None,
    verifier: Verifier = LIBSODIUM,
) -> RoomKeyDecision:
    """Return what to do with the key in an ``m.room_key``.

    A key is taken from any device: of one that is not known, the sender is to be looked at again later, and of one that
    was blacklisted, ``session.sender.local_trust`` says so.

    Whoever has the key can send it on as his own. So the sender of the first one owns the session, until one comes from
    another device for which an identity vouches (:attr:`SenderTrust.UNVERIFIED`), where none did for the first
    (:attr:`SenderTrust.DEVICE_KNOWN`, or less). What remains: among senders for whom identities vouch the first one
    stays the owner, and so he does among those for whom none does. Then the messages of whoever has really made the
    session fail :attr:`MegolmCheck.SENDER`; nothing of his is ascribed to anybody else.

    Args:
        event: the event.
        held: what is held of the session, by its session id alone; so a key for another room is noticed.
        known: user id to what is known of users. The sender that is held is looked at again with it; without it, one is
            as sure of him as one was when his key came, so that another may take over what is his.
        connects: asked if the key that is held was handed on by somebody; needed if it may have been.
        session_id_of: asks the ratchet too to which session the key belongs.
        verifier: who checks signatures.

    Raises:
        LocalProtocolError: an argument has the wrong type, ``held`` is another session, or a callable has not answered,
            or ``connects`` would have to be asked, and is none.
    """
    if type(event) is not DecryptedOlmEvent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a DecryptedOlmEvent is needed", path="/event")
    _check_held(held)
    check_sender_verifier(verifier)
    held_trust = None if held is None or known is None else _trust_by_now(held, known, verifier)
    try:
        if event.type != RoomKeyContent.event_type:
            detail = f"{quoted(event.type)} is not {RoomKeyContent.event_type}"
            raise RemoteProtocolError(Reason.INVALID_VALUE, detail)
        content = RoomKeyContent.from_json(event.content)
        key = content.require_session_id(session_id_of)
        return decide(held, _sent(content, event.sender), key, connects, held_trust=held_trust)
    except RemoteProtocolError as error:
        return refuse(held, error)


def session_of_own(content: RoomKeyContent, *, own: VerifiedDevice) -> RoomKeyDecision:
    """Return what to remember of a session that this device made, in order to read what it said itself.

    Args:
        content: what is sent to the others when the session begins.
        own: this device. It counts as one that the user has verified. :func:`check_megolm_event` looks at it again as
            at every other: where the identity does not vouch for it, mark it as verified among the known users.

    Raises:
        LocalProtocolError: an argument has the wrong type, or the key belongs to another session than is named.
    """
    if type(content) is not RoomKeyContent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a RoomKeyContent is needed", path="/content")
    if type(own) is not VerifiedDevice:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path="/own")
    if own.curve25519_key is None:
        raise LocalProtocolError(Reason.MISSING_KEY, "this device has no Olm identity key", path="/own")
    with raised_as(LocalProtocolError, "content"):
        key = content.require_session_id()
    names = own.user_id, own.curve25519_key, own.ed25519_key
    sender = new_sender(*names, SenderTrust.VERIFIED, own, LocalTrust.VERIFIED)
    return decide(None, _sent(content, sender), key, None)


def session_from_forward(
    forward: AcceptedForward, *, held: InboundSession | None, connects: Connects | None = None
) -> RoomKeyDecision:
    """Return what to do with a forwarded key that was asked for, from another device of oneself.

    Args:
        forward: the key, as :meth:`KeyRequests.check_forward` has accepted it.
        held: what is held of the session, by its session id alone.
        connects: asked if anything is held and the key would be of use; needed if that may be.

    Raises:
        LocalProtocolError: an argument has the wrong type, ``held`` is another session, or a callable has not answered,
            or ``connects`` would have to be asked, and is none.
    """
    if type(forward) is not AcceptedForward:
        raise LocalProtocolError(Reason.WRONG_TYPE, "an AcceptedForward is needed", path="/forward")
    _check_held(held)
    content = forward.content
    withheld = None if content.withheld is None else content.withheld.code
    try:
        session = _handed_on(content, SessionSource.FORWARDED, forwarder=forward.forwarder, withheld=withheld)
        return decide(held, session, forward.key, connects)
    except RemoteProtocolError as error:
        return refuse(held, error)


def session_from_import(
    key: HistoricRoomKey,
    *,
    source: SessionSource,
    shared_history: bool,
    held: InboundSession | None,
    connects: Connects | None = None,
    session_id_of: SessionIdOf | None = None,
) -> RoomKeyDecision:
    """Return what to do with a key from a file of exported keys, or from a backup.

    Args:
        key: the key.
        source: :attr:`SessionSource.EXPORT` or :attr:`SessionSource.BACKUP`.
        shared_history: what stood beside it there.
        held: what is held of the session, by its session id alone.
        connects: asked if anything is held and the key would be of use; needed if that may be.
        session_id_of: asks the ratchet too to which session the key belongs.

    Raises:
        LocalProtocolError: an argument has the wrong type, ``held`` is another session, or a callable has not answered,
            or ``connects`` would have to be asked, and is none.
    """
    if type(key) is not HistoricRoomKey:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a HistoricRoomKey is needed", path="/key")
    if type(source) is not SessionSource or source not in (SessionSource.EXPORT, SessionSource.BACKUP):
        raise LocalProtocolError(Reason.INVALID_VALUE, "the source is an export or a backup", path="/source")
    if type(shared_history) is not bool:
        raise LocalProtocolError(Reason.WRONG_TYPE, "shared_history must be a boolean", path="/shared_history")
    _check_held(held)
    try:
        session_key = key.require_session_id(session_id_of)
        return decide(held, _handed_on(key, source, shared_history=shared_history), session_key, connects)
    except RemoteProtocolError as error:
        return refuse(held, error)


def sessions_from_bundle(
    bundle: RoomKeyBundle,
    *,
    room_id: str,
    inviter: str,
    forwarder: OlmSender,
    held: Mapping[str, InboundSession],
    connects: Connects | None = None,
    session_id_of: SessionIdOf | None = None,
) -> Partition[RoomKeyDecision]:
    """Return what to do with the keys in a bundle.

    Of several keys of one session, the one that opens most is taken.

    Args:
        bundle: the bundle.
        room_id: the room that the event named which the bundle came with.
        inviter: the user whose invite to that room was accepted. A bundle of anybody else is refused.
        forwarder: who has sent that event.
        held: session id to what is held of sessions, whatever their room.
        connects: asked if anything is held of a session and its key would be of use; needed if that may be.
        session_id_of: asks the ratchet too to which session a key belongs.

    Returns:
        Session id to what to do with its key, and the keys that are refused. Their paths are places in
        ``bundle.room_keys``.

    Raises:
        VerificationError: an identity of the forwarder does not vouch for the device that sent the event, or he is not
            the inviter.
        LocalProtocolError: an argument has the wrong type, or a callable has not answered, or ``connects`` would have
            to be asked, and is none.
    """
    if type(bundle) is not RoomKeyBundle:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a RoomKeyBundle is needed", path="/bundle")
    with raised_as(LocalProtocolError):
        room, invited_by = _room_id(room_id, "room_id"), user_id(inviter, "inviter")
    _check_forwarder(forwarder)
    with raised_as(LocalProtocolError), callers_own("held"):
        if not isinstance(held, Mapping):
            raise wrong_type("held must be a mapping", held, "held")
    if not forwarder.trust.is_at_least(SenderTrust.UNVERIFIED):
        detail = "nobody vouches for the device that the keys come from"
        raise VerificationError(Reason.UNTRUSTED_SENDER, detail)
    if forwarder.user_id != invited_by:
        # "If Bob has recently accepted an invite to the room from Alice"
        detail = f"the keys come from {quoted(forwarder.user_id)}, the invite from {quoted(invited_by)}"
        raise VerificationError(Reason.UNTRUSTED_SENDER, detail)
    accepted: dict[str, RoomKeyDecision] = {}
    refused: dict[int, Rejection] = {}
    for place, key in sorted(enumerate(bundle.room_keys), key=lambda item: item[1].key.first_index):
        mine = _held_of(held, key.session_id)
        try:
            if key.room_id != room:
                # "Only keys for the relevant room" are imported.
                raise RemoteProtocolError(Reason.ROOM_MISMATCH, "the key is one of another room", path="/room_id")
            session_key = key.require_session_id(session_id_of)
            if key.session_id not in accepted:
                session = _handed_on(key, SessionSource.HISTORY_BUNDLE, forwarder=forwarder, shared_history=True)
                accepted[key.session_id] = decide(mine, session, session_key, connects)
        except RemoteProtocolError as error:
            path = json_pointer(["room_keys", place]) + error.path
            refused[place] = Rejection(path=path, reason=error.reason, detail=error.detail)
    return Partition(accepted=FrozenMap(accepted), rejected=tuple(refused[place] for place in sorted(refused)))


def _trust_by_now(held: InboundSession, known: Mapping[str, KnownUser], verifier: Verifier) -> SenderTrust:
    """Return how sure one is of the sender that is held, as one sees it now.

    Less sure than before one is only of a device that one has blacklisted: who it is, stays. One's own device need not
    be among those that are known.
    """
    if held.sender is None:
        return held.trust
    try:
        now = reassess_sender(held.sender, known=known, verifier=verifier)
    except VerificationError:  # another device has one of the keys: nobody vouches for the one that is held
        return held.trust
    return now.trust if now.local_trust is LocalTrust.BLACKLISTED else max(now.trust, held.trust)


def _sent(content: RoomKeyContent, sender: OlmSender) -> InboundSession:
    """Return the session whose creator has sent its key."""
    return new_session(
        parse_room_id(content.room_id),
        content.session_id,
        content.key.first_index,
        SessionSource.ROOM_KEY,
        content.shared_history,
        sender,
        None,
        None,
        None,
        None,
    )


def _handed_on(
    content: ForwardedRoomKeyContent | HistoricRoomKey,
    source: SessionSource,
    *,
    shared_history: bool = False,
    forwarder: OlmSender | None = None,
    withheld: str | None = None,
) -> InboundSession:
    """Return the session whose key somebody else has handed on."""
    return new_session(
        parse_room_id(content.room_id),
        content.session_id,
        content.key.first_index,
        source,
        shared_history,
        None,
        forwarder,
        content.sender_key,
        content.sender_claimed_ed25519_key,
        withheld,
    )


def _check_held(held: object) -> None:
    if held is not None and type(held) is not InboundSession:
        raise LocalProtocolError(Reason.WRONG_TYPE, "an InboundSession is needed", path="/held")


def _check_forwarder(forwarder: object) -> None:
    if type(forwarder) is not OlmSender:
        raise LocalProtocolError(Reason.WRONG_TYPE, "an OlmSender is needed", path="/forwarder")


def _held_of(held: Mapping[str, InboundSession], session_id: str) -> InboundSession | None:
    """Return what is held of one session."""
    with raised_as(LocalProtocolError), callers_own("held"):
        session = held.get(session_id)
        if session is not None and type(session) is not InboundSession:
            raise wrong_type("held must hold values of type InboundSession", session, "held", session_id)
    return session
