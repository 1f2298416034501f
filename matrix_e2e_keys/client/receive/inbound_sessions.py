"""What a client remembers of a Megolm session that it can decrypt, beside the ratchet.

Specification: client-server API, "m.megolm.v1.aes-sha2", "Shareable encryption sessions", "Receiving a key bundle
event".

Facts:

* A session belongs to one room and to the device that has made it. What is remembered of that changes only for a surer
  key: see :mod:`~matrix_e2e_keys.client.receive.room_key_decisions`.
* Only a key that came through Olm from the device that made the session says whose session it is. Whoever hands on a
  key of somebody else can claim what he likes: "he has only that user's word for the authenticity of those sessions".
* No secret is kept here. The ratchet is somebody else's.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys.client.receive.message_index import message_index_of
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted
from matrix_e2e_keys.events.contents import room_id as _room_id
from matrix_e2e_keys.identifiers import RoomId
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["InboundSession", "SessionSource", "altered_session", "new_session"]

_VERSION: Final = 1


class SessionSource(enum.StrEnum):
    """Where the key of a session came from. The values are stable."""

    ROOM_KEY = "room-key"
    """The device that made the session sent it. Only this binds a session to its owner."""
    FORWARDED = "forwarded"
    """Another device of oneself, a verified one, forwarded it."""
    EXPORT = "export"
    """It stood in a file of exported keys."""
    BACKUP = "backup"
    """It stood in a backup on the server."""
    HISTORY_BUNDLE = "history-bundle"
    """Another user handed it on, for the history of a room."""


_FORWARDED_BY_SOMEBODY: Final = frozenset({SessionSource.FORWARDED, SessionSource.HISTORY_BUNDLE})


@frozen(repr=False)
class InboundSession(metaclass=Sealed):
    """What is known of a session. Only a check of its key makes one.

    Attributes:
        room_id: the room.
        session_id: the session: its signing key in unpadded base64.
        first_index: the first message that can be decrypted.
        source: where the key came from.
        shared_history: whether the key may be handed on to those who are invited later.
        sender: the device that made the session, if it has sent the key itself; otherwise ``None``.
        forwarder: who forwarded the key, or handed it on in a bundle; ``None`` for other sources. Of a bundle, show the
            user who that was.
        claimed_curve25519_key: the Olm identity key of the device that made the session, if somebody only claims so.
        claimed_ed25519_key: the signing key of that device; the same holds.
        withheld: the code with which the messages before the first one are withheld; ``None`` if no one said so.
    """

    room_id: RoomId
    session_id: str
    first_index: int
    source: SessionSource
    shared_history: bool
    sender: OlmSender | None
    forwarder: OlmSender | None
    claimed_curve25519_key: Curve25519PublicKey | None
    claimed_ed25519_key: Ed25519PublicKey | None
    withheld: str | None

    @property
    def lookup_key(self) -> tuple[str, str]:
        """The room id and the session id. Sessions are looked up by nothing else."""
        return self.room_id, self.session_id

    @property
    def trust(self) -> SenderTrust:
        """How sure one was of :attr:`sender` when it was looked at last. Of a key that was handed on, not at all."""
        return SenderTrust.UNKNOWN_DEVICE if self.sender is None else self.sender.trust

    def with_sender(self, sender: OlmSender) -> InboundSession:
        """Return the session with the sender as one sees it now; see :func:`~matrix_e2e_keys.reassess_sender`.

        Raises:
            LocalProtocolError: the sender is none, or of another device; or nobody has sent the key himself.
        """
        if type(sender) is not OlmSender:
            raise LocalProtocolError(Reason.WRONG_TYPE, "an OlmSender is needed", path="/sender")
        if self.sender is None:
            detail = "the key was handed on: that somebody has made the session is not for others to say"
            raise LocalProtocolError(Reason.WRONG_STATE, detail, path="/sender")
        if not self.sender.is_the_same_device_as(sender):
            detail = "another device has made the session"
            raise LocalProtocolError(Reason.SENDER_MISMATCH, detail, path="/sender")
        return altered_session(self, sender=sender)

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart, beside the ratchet. Nothing in it is secret."""
        return {
            "version": _VERSION,
            "room_id": self.room_id,
            "session_id": self.session_id,
            "first_index": self.first_index,
            "source": str(self.source),
            "shared_history": self.shared_history,
            "sender": None if self.sender is None else self.sender.to_json(),
            "forwarder": None if self.forwarder is None else self.forwarder.to_json(),
            "claimed_curve25519_key": _to_base64(self.claimed_curve25519_key),
            "claimed_ed25519_key": _to_base64(self.claimed_ed25519_key),
            "withheld": self.withheld,
        }

    @classmethod
    def from_json(cls, obj: object, *, verifier: Verifier = LIBSODIUM) -> InboundSession:
        """Restore what :meth:`to_json` returned. The devices' signatures are checked again.

        Raises:
            LocalProtocolError: it is not that, or the verifier has not answered.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        source = stored.member("source", str)
        if source not in list(SessionSource):
            raise LocalProtocolError(Reason.INVALID_VALUE, "this is no source of keys", path=stored.path("source"))
        kept = {name: stored.optional(name) for name in ("sender", "forwarder")}
        senders = {name: None if at is None else OlmSender.restore(at, verifier) for name, at in kept.items()}
        with stored.reading():
            session = new_session(
                _room_id(stored.member("room_id"), "room_id"),
                _restore_key(stored, "session_id", Ed25519PublicKey, str).to_base64(),
                message_index_of(stored.member("first_index"), "first_index"),
                SessionSource(source),
                stored.member("shared_history", bool),
                senders["sender"],
                senders["forwarder"],
                _restore_key(stored, "claimed_curve25519_key", Curve25519PublicKey, str, type(None)),
                _restore_key(stored, "claimed_ed25519_key", Ed25519PublicKey, str, type(None)),
                stored.member("withheld", str, type(None)),
            )
            _check_consistent(session)
        return session

    def __repr__(self) -> str:
        maker = "" if self.sender is None else f" of {self.sender!r}"
        return (
            f"<InboundSession {quoted(self.session_id)} in {quoted(self.room_id)}"
            f" from {self.first_index}, {self.source}{maker}>"
        )


new_session: Final = constructor_of(InboundSession)

_FIELDS: Final = tuple(InboundSession.__annotations__)


def altered_session(session: InboundSession, **changes: object) -> InboundSession:
    """Internal: return a session with other values in some of its attributes."""
    return new_session(*[changes.get(name, getattr(session, name)) for name in _FIELDS])


def _to_base64(key: Curve25519PublicKey | Ed25519PublicKey | None) -> str | None:
    return None if key is None else key.to_base64()


def _restore_key(stored: Stored, name: str, kind: type[Any], *kinds: type) -> Any:
    text = stored.member(name, *kinds)
    if text is None:
        return None
    with stored.reading(name):
        return kind.from_base64(text)


def _check_consistent(session: InboundSession) -> None:
    """Check that a check could have made the session.

    Raises:
        Refusal: none could.
    """
    is_own_word = session.source is SessionSource.ROOM_KEY
    needed = {
        "sender": is_own_word,
        "forwarder": session.source in _FORWARDED_BY_SOMEBODY,
        "claimed_curve25519_key": not is_own_word,
        "claimed_ed25519_key": not is_own_word,
    }
    for name, is_needed in needed.items():
        if (getattr(session, name) is not None) is not is_needed:
            detail = f"with a session from this source ({session.source}) there is {'a' if is_needed else 'no'} {name}"
            raise Refusal(Reason.INVALID_VALUE, detail, name)
