"""Session keys of rooms as one device sends them to another: ``m.room_key`` and ``m.forwarded_room_key``.

Specification: client-server API, ``m.room_key``, ``m.forwarded_room_key``, "Shareable encryption sessions"; "Megolm
group ratchet", "Session sharing format", "Session export format".

Facts:

* A session key says by itself which session it belongs to. ``session_id`` beside it is a claim until
  :meth:`SessionKeyRecord.require_session_id` has compared the two.
* ``m.room_key`` holds the session sharing format, which the session's own key signs; that is checked at reading. A
  forwarded key is in the export format: whoever sends it may have put it together.
* Whose session it is, ``m.forwarded_room_key`` only claims. It is as good as the device that forwards it.
* "Absence, or any other value" than ``true`` in ``shared_history`` means that the session is not to be shared. It has
  been called by two other names. Both are read too, and one is written beside it. Where they disagree it is not to be
  shared.
* Session keys are secrets: they appear in no error and no ``repr``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.endpoints.members import boolean, extra_beside
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    raised_as,
)
from matrix_e2e_keys.events.contents import (
    EventContent,
    Member,
    Record,
    curve25519_member,
    ed25519_member,
    passed_on,
    room_id,
    secret_string,
    some_string,
)
from matrix_e2e_keys.events.olm_formats import MegolmSessionKey, read_megolm_session_key
from matrix_e2e_keys.events.shared_members import MEGOLM_ALGORITHM, record_member, several
from matrix_e2e_keys.events.withheld import WithheldNotice
from matrix_e2e_keys.json_trees import JsonObject, object_in, wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey

__all__ = [
    "SESSION_KEY_MEMBERS",
    "UNSTABLE_SHARED_HISTORY",
    "ForwardedRoomKeyContent",
    "RoomKeyContent",
    "SessionKeyRecord",
    "derived_session_id",
]

SHARED_HISTORY: Final = "shared_history"

UNSTABLE_SHARED_HISTORY: Final = ("m.shared_history", "org.matrix.msc3061.shared_history")
"""What ``shared_history`` was called before version 1.19, and still is in many places."""

_WRITTEN_BESIDE: Final = UNSTABLE_SHARED_HISTORY[0]

SESSION_KEY_MEMBERS: Final[Mapping[str, Member]] = {
    "algorithm": MEGOLM_ALGORITHM,
    "room_id": Member(room_id),
    "session_id": Member(some_string),
    "session_key": Member(secret_string),
}
"""The members of everything that holds a session key."""


@frozen(kw_only=True)
class SessionKeyRecord(Record):
    """An object that holds a session key: what its kinds have in common.

    Attributes:
        algorithm: ``m.megolm.v1.aes-sha2``.
        room_id: the room where the key is used.
        session_id: which session it is, according to whoever wrote this.
        session_key: the session key in unpadded base64, for a ratchet. A secret.
        key: what the session key says of itself.
    """

    is_signed_format: ClassVar[bool]
    """Whether the session key is in the session sharing format. Otherwise, in the session export format."""

    algorithm: str = MEGOLM_V1
    room_id: str
    session_id: str
    session_key: str = field(repr=False)
    key: MegolmSessionKey = field(init=False, eq=False)

    def _check_whole(self) -> None:
        try:
            key = read_megolm_session_key(self.session_key)
        except RemoteProtocolError as error:
            raise Refusal(error.reason, error.detail, "session_key") from None
        if key.is_signed is not self.is_signed_format:
            needed = "sharing" if self.is_signed_format else "export"
            raise Refusal(Reason.INVALID_VALUE, f"session_key must be in the session {needed} format", "session_key")
        object.__setattr__(self, "key", key)

    def require_session_id(self, session_id_of: Callable[[str], str] | None = None) -> MegolmSessionKey:
        """Return the session key, if it belongs to the session that is named beside it.

        Whoever stores a key under a name that somebody else has chosen lets the one replace another's session.

        Args:
            session_id_of: asks the ratchet too: takes the session key, returns the id of the session it makes.

        Raises:
            RemoteProtocolError: it belongs to another one, or the ratchet does not take it.
            LocalProtocolError: ``session_id_of`` cannot be called, or returns no text.
        """
        found = [self.key.session_id]
        if session_id_of is not None:
            found.append(_asked(session_id_of, self.key.text))
        if any(session_id != self.session_id for session_id in found):
            detail = "the session key belongs to another session than the one that is named"
            raise RemoteProtocolError(Reason.SESSION_MISMATCH, detail, path="/session_id")
        return self.key


def _asked(session_id_of: Callable[[str], str], session_key: str) -> str:
    """Return what our caller's ratchet says. What it raises may quote the key, so it goes no further."""
    if not callable(session_id_of):
        raise LocalProtocolError(Reason.WRONG_TYPE, "session_id_of must be callable", path="/session_id_of")
    try:
        answer: object = session_id_of(session_key)
    except Exception as error:  # noqa: BLE001 - a ratchet that we do not know
        detail = f"the ratchet does not take the session key: it raises a {type(error).__name__}"
        raise RemoteProtocolError(Reason.SESSION_MISMATCH, detail, path="/session_key") from None
    if type(answer) is not str:
        detail = "session_id_of must return a string"
        raise LocalProtocolError(Reason.WRONG_TYPE, detail, path="/session_id_of")
    return answer


def derived_session_id(session_key: object) -> str:
    """Internal: return the id of the session that a key of our caller belongs to.

    Raises:
        LocalProtocolError: it is no session key.
    """
    with raised_as(LocalProtocolError):
        text = secret_string(session_key, "session_key")
    with raised_as(LocalProtocolError, "session_key"):
        return read_megolm_session_key(text).session_id


@frozen(kw_only=True)
class _ShareableKey(SessionKeyRecord):
    """A session key, with whether the history it opens may be shared.

    Attributes:
        shared_history: whether it may.
    """

    shared_history: bool = False

    def _check_whole(self) -> None:
        SessionKeyRecord._check_whole(self)
        extra_beside(*UNSTABLE_SHARED_HISTORY)(self.extra, "extra")

    @classmethod
    def read_tree(cls, tree: Any, what: str) -> Self:
        members = dict(object_in(tree, what))
        said = [members.pop(name) for name in (SHARED_HISTORY, *UNSTABLE_SHARED_HISTORY) if name in members]
        members[SHARED_HISTORY] = bool(said) and all(value is True for value in said)
        return super().read_tree(members, what)

    def to_json(self) -> JsonObject:
        written = super().to_json()
        # One of the former names, and not both: there are readers to whom they are two spellings of one member.
        written[_WRITTEN_BESIDE] = self.shared_history
        return written


@frozen(kw_only=True)
class RoomKeyContent(_ShareableKey, EventContent):
    """The content of ``m.room_key``: a session key, from the device that made the session.

    Attributes:
        algorithm: ``m.megolm.v1.aes-sha2``.
        room_id: the room where the key is used.
        session_id: which session it is, according to the sender. See :meth:`SessionKeyRecord.require_session_id`.
        session_key: the session key in the session sharing format. A secret.
        key: what the session key says of itself.
        shared_history: whether the sender agrees that the key is shared with those who are invited later.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = "m.room_key"
    is_signed_format: ClassVar[bool] = True
    members: ClassVar[Mapping[str, Member]] = {**SESSION_KEY_MEMBERS, SHARED_HISTORY: Member(boolean)}

    @classmethod
    def build(cls, *, room_id: str, session_key: str, shared_history: bool) -> Self:
        """Build a content.

        ``shared_history`` is written under ``m.shared_history`` as well, for clients that know only that.

        Args:
            room_id: the room.
            session_key: the key of the outbound session, as the ratchet gives it for sharing. It says which session.
            shared_history: whether the history visibility of the room is ``shared`` or ``world_readable``.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return cls(
            room_id=room_id,
            session_id=derived_session_id(session_key),
            session_key=session_key,
            shared_history=shared_history,
        )


_KEY: Final = curve25519_member()


def _read_chain(tree: Any, *at: str | int) -> tuple[Any, ...]:
    if type(tree) is not list:
        raise wrong_type(f"{at[-1]} must be an array", tree, *at)
    return tuple(_KEY.read(item, *at, place) for place, item in enumerate(passed_on(tree, *at)))


@frozen(kw_only=True)
class ForwardedRoomKeyContent(_ShareableKey, EventContent):
    """The content of ``m.forwarded_room_key``: a session key, from a device that had it from somebody else.

    Attributes:
        algorithm: ``m.megolm.v1.aes-sha2``.
        room_id: the room where the key is used.
        session_id: which session it is, according to the sender. See :meth:`SessionKeyRecord.require_session_id`.
        session_key: the session key in the session export format. A secret.
        key: what the session key says of itself.
        sender_key: the Olm identity key of the device that made the session, according to the sender.
        sender_claimed_ed25519_key: the signing key of that device, according to the sender.
        forwarding_curve25519_key_chain: the Olm identity keys of those who forwarded it before.
        withheld: why the first part of the session is missing, if it was withheld.
        shared_history: whether the sender says that the key may be shared further. The specification does not count
            keys that were forwarded among the shareable ones.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = "m.forwarded_room_key"
    is_signed_format: ClassVar[bool] = False
    members: ClassVar[Mapping[str, Member]] = {
        **SESSION_KEY_MEMBERS,
        "sender_key": curve25519_member(),
        "sender_claimed_ed25519_key": ed25519_member(),
        "forwarding_curve25519_key_chain": Member(
            several(Curve25519PublicKey), _read_chain, lambda chain: [key.to_base64() for key in chain]
        ),
        "withheld": record_member(WithheldNotice, is_required=False),
        SHARED_HISTORY: Member(boolean),
    }

    sender_key: Curve25519PublicKey
    sender_claimed_ed25519_key: Ed25519PublicKey
    forwarding_curve25519_key_chain: tuple[Curve25519PublicKey, ...] = ()
    withheld: WithheldNotice | None = None

    @classmethod
    def build(
        cls,
        *,
        room_id: str,
        session_key: str,
        sender_key: Curve25519PublicKey,
        sender_claimed_ed25519_key: Ed25519PublicKey,
        forwarding_chain: Iterable[Curve25519PublicKey] = (),
        withheld: WithheldNotice | None = None,
        shared_history: bool = False,
    ) -> Self:
        """Build a content.

        Args:
            room_id: the room.
            session_key: the session key, as the ratchet exports it. It says which session.
            sender_key: the Olm identity key of the device that made the session.
            sender_claimed_ed25519_key: the signing key of that device.
            forwarding_chain: who forwarded it before it came to this device. Empty if it came from its maker.
            withheld: what was told about the part that is missing, if one was: ``notice`` of the content received.
            shared_history: whether the key may be shared further.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return cls(
            room_id=room_id,
            session_id=derived_session_id(session_key),
            session_key=session_key,
            sender_key=sender_key,
            sender_claimed_ed25519_key=sender_claimed_ed25519_key,
            forwarding_curve25519_key_chain=tuple(_chain(forwarding_chain)),
            withheld=withheld,
            shared_history=shared_history,
        )


def _chain(chain: Iterable[Curve25519PublicKey]) -> tuple[Any, ...]:
    """Return the chain that our caller gives as ``forwarding_chain``."""
    with raised_as(LocalProtocolError):
        return several(Curve25519PublicKey)(chain, "forwarding_chain")
