"""The session keys of a room's history, for somebody who is invited: ``m.room_key_bundle`` and the bundle itself.

Specification: client-server API, "Sharing keys between users" (``definitions/room_key_bundle.yaml``),
``m.room_key_bundle``.

Facts:

* The event says where the bundle lies and how to decrypt it. The bundle is a JSON document in an encrypted file. It is
  downloaded when the invite of the same user was accepted, and not before.
* One malformed entry costs none of the others.
* "Only keys for the relevant room should be imported": :meth:`RoomKeyBundle.for_room`.
* "A single session MUST NOT appear in both the room_keys and withheld sections." Where one does, its key is refused:
  the creator of the bundle has said that it is not to be shared.
* Whose sessions they are, the creator of the bundle claims; nothing proves it. The same session may stand there more
  than once, with keys that open it from different messages on.
* The keys are secrets: they appear in no error and no ``repr``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, NoReturn, Self

from attrs import evolve, field, frozen

from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.endpoints.entries import list_member, read_entry
from matrix_e2e_keys.endpoints.members import extra_beside, settle
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, raised_as
from matrix_e2e_keys.events.contents import (
    EventContent,
    Member,
    curve25519_member,
    mapping_of,
    passed_on,
    room_id,
    tree_of,
)
from matrix_e2e_keys.events.encrypted_files import EncryptedFile
from matrix_e2e_keys.events.payloads import signing_keys_member
from matrix_e2e_keys.events.room_keys import SESSION_KEY_MEMBERS, SessionKeyRecord, derived_session_id
from matrix_e2e_keys.events.shared_members import record_member, several
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import JsonLimits, JsonObject, object_in, thaw
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.outcome import Rejection, file_rejection, rejected

__all__ = ["BUNDLE_LIMITS", "MAX_BUNDLE_ENTRIES", "HistoricRoomKey", "RoomKeyBundle", "RoomKeyBundleContent"]

BUNDLE_LIMITS: Final = JsonLimits(max_bytes=64 * 1024 * 1024)
"""How large a bundle may be by default: there is room for the keys of about 100 000 sessions."""

MAX_BUNDLE_ENTRIES: Final = 200_000
"""How many entries a bundle may have, in both sections together."""

_ROOM_KEYS: Final = "room_keys"
_WITHHELD: Final = "withheld"


@frozen(kw_only=True)
class RoomKeyBundleContent(EventContent):
    """The content of ``m.room_key_bundle``.

    Attributes:
        room_id: the room whose history it is.
        file: where the bundle lies, and the key that opens it.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = "m.room_key_bundle"
    members: ClassVar[Mapping[str, Member]] = {"room_id": Member(room_id), "file": record_member(EncryptedFile)}

    room_id: str
    file: EncryptedFile

    @classmethod
    def build(cls, *, room_id: str, file: EncryptedFile) -> Self:
        """Build a content.

        It "MUST NOT" be sent to a device that its owner has not cross-signed: :meth:`OlmPayload.build` refuses to.

        Args:
            room_id: the room.
            file: the bundle, encrypted and uploaded.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return cls(room_id=room_id, file=file)


@frozen(kw_only=True)
class HistoricRoomKey(SessionKeyRecord):
    """The key of a session, in a bundle.

    Attributes:
        algorithm: ``m.megolm.v1.aes-sha2``.
        room_id: the room where the session is used.
        session_id: which session it is, according to the creator of the bundle. See
            :meth:`SessionKeyRecord.require_session_id`.
        session_key: the session key in the session export format. A secret.
        key: what the session key says of itself.
        sender_key: the Olm identity key of the device that made the session, according to the creator of the bundle.
        sender_claimed_ed25519_key: the signing key of that device, according to the same.
        extra: members that the specification does not name.
    """

    is_signed_format: ClassVar[bool] = False
    members: ClassVar[Mapping[str, Member]] = {
        **SESSION_KEY_MEMBERS,
        "sender_key": curve25519_member(),
        "sender_claimed_keys": evolve(signing_keys_member(), attribute="sender_claimed_ed25519_key"),
    }

    sender_key: Curve25519PublicKey
    sender_claimed_ed25519_key: Ed25519PublicKey

    @classmethod
    def build(
        cls,
        *,
        room_id: str,
        session_key: str,
        sender_key: Curve25519PublicKey,
        sender_claimed_ed25519_key: Ed25519PublicKey,
    ) -> Self:
        """Build an entry. Only sessions that are shareable may stand in a bundle.

        Args:
            room_id: the room.
            session_key: the session key, as the ratchet exports it. It says which session.
            sender_key: the Olm identity key of the device that made the session.
            sender_claimed_ed25519_key: the signing key of that device.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return cls(
            room_id=room_id,
            session_id=derived_session_id(session_key),
            session_key=session_key,
            sender_key=sender_key,
            sender_claimed_ed25519_key=sender_claimed_ed25519_key,
        )


@frozen(kw_only=True)
class RoomKeyBundle:
    """Session keys of rooms, and what is said of those that are missing.

    Attributes:
        room_keys: the session keys, in the order of the document.
        withheld: the sessions whose keys are withheld, in the order of the document.
        rejected: every refused entry; or a member, where it is refused as a whole. Their ``raw`` may hold secrets.
        unsupported: entries that are well formed, and about another algorithm.
        extra: members that the specification does not name.
    """

    room_keys: tuple[HistoricRoomKey, ...] = ()
    withheld: tuple[RoomKeyWithheldContent, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    unsupported: tuple[Rejection, ...] = ()
    extra: Mapping[str, Any] = field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            room_keys=several(HistoricRoomKey),
            withheld=several(RoomKeyWithheldContent),
            rejected=several(Rejection),
            unsupported=several(Rejection),
            extra=mapping_of(extra_beside(_ROOM_KEYS, _WITHHELD)),
        )

    def __bool__(self) -> NoReturn:
        raise LocalProtocolError(
            Reason.INVALID_VALUE, "a RoomKeyBundle has no truth value: ask for .room_keys or .withheld"
        )

    @classmethod
    def build(
        cls,
        *,
        room_id: str,
        room_keys: Iterable[HistoricRoomKey],
        withheld: Iterable[RoomKeyWithheldContent] = (),
    ) -> Self:
        """Build a bundle for one room.

        Args:
            room_id: the room.
            room_keys: the keys to share. Each "MUST" be of a session that is shareable, which nothing here can tell:
                :func:`~matrix_e2e_keys.client.receive.history_sharing.build_room_key_bundle` sees to it.
            withheld: the other sessions: see :meth:`RoomKeyWithheldContent.build_for_bundle`.

        Raises:
            LocalProtocolError: an argument has the wrong type; an entry is about another room, or about no single
                session; a session key belongs to another session than it says; or a session is there twice.
        """
        with raised_as(LocalProtocolError):
            room = _room(room_id)
            bundle = cls(room_keys=room_keys, withheld=withheld)  # type: ignore[arg-type]  # any iterable is taken
            seen: set[str | None] = set()
            for section in (_ROOM_KEYS, _WITHHELD):
                for place, entry in enumerate(getattr(bundle, section)):
                    with raised_as(LocalProtocolError, section, place):
                        _check_entry(entry, room, seen)
        return bundle

    @classmethod
    def from_bytes(cls, document: bytes, *, limits: JsonLimits = BUNDLE_LIMITS) -> Self:
        """Read a bundle that was downloaded and decrypted.

        Args:
            document: the document.
            limits: how large it may be.

        Raises:
            RemoteProtocolError: it is no object in JSON, or exceeds the limits, or :data:`MAX_BUNDLE_ENTRIES`. Entries
                that are malformed stand among the rejected.
            LocalProtocolError: an argument has the wrong type.
        """
        if type(document) not in (bytes, bytearray):
            raise LocalProtocolError(Reason.WRONG_TYPE, "the document must be bytes", path="/document")
        return cls._read(parse_frame(document, limits=limits))

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read a bundle that was parsed before. The value given is not changed.

        Raises:
            RemoteProtocolError: it is no object, or exceeds :data:`MAX_BUNDLE_ENTRIES`.
        """
        return cls._read(tree_of(obj))

    @classmethod
    def _read(cls, frame: Any) -> Self:
        with raised_as(RemoteProtocolError):
            tree = object_in(frame, "the bundle")
            refused: list[Rejection] = []
            unsupported: list[Rejection] = []
            others = [name for name in tree if name not in (_ROOM_KEYS, _WITHHELD)]
            extra = {name: read_entry(passed_on, tree[name], name) for name in others}
            listed = list_member(tree.get(_ROOM_KEYS, []), _ROOM_KEYS, refused)
            also_listed = list_member(tree.get(_WITHHELD, []), _WITHHELD, refused)
            if len(listed) + len(also_listed) > MAX_BUNDLE_ENTRIES:
                # What is refused takes more room than what it was made of.
                raise Refusal(Reason.TOO_LARGE, f"the bundle has more than {MAX_BUNDLE_ENTRIES} entries")
            keys = [read_entry(_read_key, entry, _ROOM_KEYS, place) for place, entry in enumerate(listed)]
            notices = [read_entry(_read_notice, entry, _WITHHELD, place) for place, entry in enumerate(also_listed)]
            withheld = {(notice.room_id, notice.session_id) for notice in notices if type(notice) is not Rejection}
            for place, key in enumerate(keys):
                if type(key) is HistoricRoomKey and not withheld.isdisjoint(_names(key)):
                    refusal = Refusal(Reason.INVALID_VALUE, "the session is withheld in the same bundle")
                    keys[place] = rejected(refusal, listed[place], (_ROOM_KEYS, place))
            for entry in (*keys, *notices, *extra.values()):
                if type(entry) is Rejection:
                    file_rejection(entry, refused, unsupported)
            return cls(
                room_keys=tuple(key for key in keys if type(key) is HistoricRoomKey),
                withheld=tuple(notice for notice in notices if type(notice) is RoomKeyWithheldContent),
                rejected=tuple(refused),
                unsupported=tuple(unsupported),
                extra={name: value for name, value in extra.items() if type(value) is not Rejection},
            )

    def for_room(self, room_id: str) -> Self:
        """Return the bundle without what is about other rooms.

        Args:
            room_id: the room that the event named which the bundle came with.

        Raises:
            LocalProtocolError: it is no room id.
        """
        with raised_as(LocalProtocolError):
            room = _room(room_id)
        return evolve(
            self,
            room_keys=tuple(key for key in self.room_keys if key.room_id == room),
            withheld=tuple(notice for notice in self.withheld if notice.room_id == room),
        )

    def to_json(self) -> JsonObject:
        """Return the bundle as plain values that the caller may change. What was rejected is left out."""
        return {
            **thaw(dict(self.extra)),
            _ROOM_KEYS: [key.to_json() for key in self.room_keys],
            _WITHHELD: [notice.to_json() for notice in self.withheld],
        }

    def encode(self) -> bytes:
        """Return the document, to be encrypted and uploaded: canonical JSON, with the session keys in it.

        Raises:
            LocalProtocolError: canonical JSON cannot represent what stands in ``extra``. ``path`` says what.
        """
        return encode_canonical_json(self.to_json())


def _room(value: object) -> str:
    return room_id(value, "room_id")


def _read_key(tree: Any) -> HistoricRoomKey:
    return HistoricRoomKey.read_tree(tree, "an entry")


def _read_notice(tree: Any) -> RoomKeyWithheldContent:
    notice = RoomKeyWithheldContent.read_tree(tree, "an entry")
    notice.check_session()
    return notice


def _names(key: HistoricRoomKey) -> tuple[tuple[str, str], ...]:
    """Return the sessions that an entry may be taken for: the one it names, and the one that its key belongs to."""
    return ((key.room_id, key.session_id), (key.room_id, key.key.session_id))


def _check_entry(entry: HistoricRoomKey | RoomKeyWithheldContent, room: str, seen: set[str | None]) -> None:
    """Check an entry of a bundle that is built, and add its session to those that were ``seen``."""
    if isinstance(entry, HistoricRoomKey):
        entry.require_session_id()
    else:
        entry.check_session()
    if entry.room_id != room:
        raise Refusal(Reason.ROOM_MISMATCH, "the session is one of another room", "room_id")
    if entry.session_id in seen:
        raise Refusal(Reason.INVALID_VALUE, "the session is there already", "session_id")
    seen.add(entry.session_id)
