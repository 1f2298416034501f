"""The bundle that one gives to somebody who is invited: the history of a room, as far as it may be shared.

Specification: client-server API, "Shareable encryption sessions", "Construction and sharing of the key bundle".

Facts:

* One "MUST include only shareable encryption sessions in the room_keys section of the structure; other sessions SHOULD
  be listed in the withheld section". Which is which, is remembered of each session, and not for a caller to choose.
* No session is left out, and none of another room let in.
* The keys are secrets: they appear in no error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession
from matrix_e2e_keys.endpoints.members import items
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, raised_as
from matrix_e2e_keys.events.contents import callers_own
from matrix_e2e_keys.events.contents import room_id as _room_id
from matrix_e2e_keys.events.key_bundles import HistoricRoomKey, RoomKeyBundle
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent
from matrix_e2e_keys.json_trees import wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey

__all__ = ["build_room_key_bundle"]

_SESSIONS: Final = "sessions"


def build_room_key_bundle(
    sessions: Iterable[tuple[InboundSession, str]], *, room_id: str, sender_key: Curve25519PublicKey
) -> RoomKeyBundle:
    """Build the bundle of a room, with the keys of the sessions that may be shared, and no others.

    One "MUST include only shareable encryption sessions": those of which :attr:`InboundSession.shared_history` says so.
    The others are named as withheld (``m.history_not_shared``), without their keys.

    Args:
        sessions: all sessions of the room, each with its key as the ratchet exports it. The key of a session that may
            not be shared is not looked at.
        room_id: the room.
        sender_key: one's own Olm identity key.

    Returns:
        The bundle, the sessions in the order given.

    Raises:
        LocalProtocolError: an argument has the wrong type; a session is one of another room (``ROOM_MISMATCH``), or
            there twice; or a key is none, or one of another session (``SESSION_MISMATCH``). ``path`` says where.
    """
    with raised_as(LocalProtocolError):
        room = _room_id(room_id, "room_id")
        if type(sender_key) is not Curve25519PublicKey:
            raise wrong_type("sender_key must be a Curve25519PublicKey", sender_key, "sender_key")
        with callers_own(_SESSIONS):
            pairs = items(sessions, _SESSIONS)
    keys: list[HistoricRoomKey] = []
    withheld: list[RoomKeyWithheldContent] = []
    seen: set[str] = set()
    for place, pair in enumerate(pairs):
        with raised_as(LocalProtocolError, _SESSIONS, place):
            session, session_key = _pair(pair)
            if session.room_id != room:
                raise Refusal(Reason.ROOM_MISMATCH, "the session is one of another room")
            if session.session_id in seen:
                raise Refusal(Reason.INVALID_VALUE, "the session is there already")
            seen.add(session.session_id)
            if session.shared_history:
                keys.append(_shared(session, session_key))
            else:
                notice = RoomKeyWithheldContent.build_for_bundle(
                    room_id=room, session_id=session.session_id, sender_key=sender_key
                )
                withheld.append(notice)
    return RoomKeyBundle.build(room_id=room, room_keys=keys, withheld=withheld)


def _pair(value: Any) -> tuple[InboundSession, str]:
    """Take a session and its key, without a word about what the key is."""
    if type(value) is not tuple or len(value) != 2:
        raise Refusal(Reason.WRONG_TYPE, "a session and its exported key belong here")
    session, key = value
    if type(session) is not InboundSession:
        raise wrong_type("an InboundSession is needed", session, 0)
    if type(key) is not str:
        raise Refusal(Reason.WRONG_TYPE, "the exported key must be a string", 1)
    return session, key


def _shared(session: InboundSession, session_key: str) -> HistoricRoomKey:
    """Return the entry of a session that may be shared."""
    if session.sender is None:
        maker: tuple[Any, Any] = session.claimed_curve25519_key, session.claimed_ed25519_key
    else:
        maker = session.sender.curve25519_key, session.sender.ed25519_key
    key = HistoricRoomKey.build(
        room_id=session.room_id,
        session_key=session_key,
        sender_key=maker[0],
        sender_claimed_ed25519_key=maker[1],
    )
    if key.session_id != session.session_id:
        raise Refusal(Reason.SESSION_MISMATCH, "the key belongs to another session", 1)
    return key
