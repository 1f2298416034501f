"""The content of ``m.room.encrypted``: an envelope for Olm or Megolm, with everything that stands around the secret.

Specification: client-server API, "m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2", ``m.room.encrypted``.

Facts:

* Which of the two it is, the ``algorithm`` says, and never the shape of the rest.
* An Olm content may be for several devices, each under its Olm identity key. What stands there for others does not
  matter to this one, however malformed. If the key of this device stands there more than once, in whatever spelling,
  no message is taken: two readers could take different ones.
* In a Megolm content ``sender_key`` and ``device_id`` "MUST NOT be used to verify the message's source", and sessions
  are not looked up by them. They are called ``untrusted_*`` here.
* ``m.relates_to`` stands outside of the ciphertext, where servers can see it, and counts there only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self, TypeAlias

from attrs import evolve, field, frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import MEGOLM_V1, OLM_V1
from matrix_e2e_keys.endpoints.entries import or_rejection, read_entry, write_entry
from matrix_e2e_keys.endpoints.members import device_id, extra_beside, map_of, opaque_string, optional
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, quoted, raised_as
from matrix_e2e_keys.events.contents import (
    EventContent,
    Member,
    callers_own,
    curve25519_member,
    json_member,
    mapping_of,
    passed_on,
    some_string,
    tree_of,
)
from matrix_e2e_keys.events.olm_formats import (
    OlmMessageType,
    PreKeyHeader,
    megolm_body,
    megolm_message_index,
    olm_body,
    read_pre_key_header,
)
from matrix_e2e_keys.json_trees import JsonObject, object_in, thaw, wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.outcome import Rejection

__all__ = [
    "ENCRYPTED",
    "EncryptedContent",
    "MegolmEncryptedContent",
    "OlmCiphertext",
    "OlmEncryptedContent",
    "UnsupportedEncryptedContent",
    "read_encrypted_content",
]

ENCRYPTED: Final = "m.room.encrypted"
"""The type of the events that carry a ciphertext."""

_TYPES: Final = tuple(int(kind) for kind in OlmMessageType)
_ENTRY: Final = ("type", "body")


def _algorithm_member(algorithm: str) -> Member:
    """Return the member that says how the content is encrypted. It is judged before anything else is read."""

    def check(value: object, *at: str | int) -> str:
        name = opaque_string(value, *at)
        if name != algorithm:
            raise Refusal(Reason.WRONG_ALGORITHM, f"it is encrypted with {quoted(name)}, not with {algorithm}", *at)
        return name

    return Member(check, check)


@frozen(kw_only=True)
class OlmCiphertext:
    """A message for one device.

    Attributes:
        message_type: whether it opens a session.
        body: the message in unpadded base64.
        extra: members that the specification does not name.
    """

    message_type: OlmMessageType
    body: str
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError):
            if type(self.message_type) is not OlmMessageType:
                raise wrong_type("message_type must be an OlmMessageType", self.message_type, "message_type")
            olm_body(self.body, self.message_type, "body")
            object.__setattr__(self, "extra", mapping_of(extra_beside(*_ENTRY))(self.extra, "extra"))

    @classmethod
    def from_parts(cls, message_type: int, message: bytes) -> Self:
        """Return what a ratchet has encrypted.

        Args:
            message_type: 0 for a pre-key message, 1 for a normal one, as ratchets call them.
            message: the bytes of the message.

        Raises:
            LocalProtocolError: it is no such message.
        """
        if type(message_type) is not int or message_type not in _TYPES:
            raise LocalProtocolError(Reason.INVALID_VALUE, "the type of a message is 0 or 1", path="/message_type")
        if type(message) is not bytes:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the message must be bytes", path="/message")
        body = unpadded_base64.encode(message)
        with raised_as(LocalProtocolError):
            olm_body(body, OlmMessageType(message_type), "message")
        return cls(message_type=OlmMessageType(message_type), body=body)

    @property
    def message(self) -> bytes:
        """The bytes of the message, for a ratchet to decrypt."""
        return unpadded_base64.decode(self.body) or b""

    @property
    def pre_key_header(self) -> PreKeyHeader | None:
        """The keys that a pre-key message names; ``None`` if it is a normal one.

        Raises:
            RemoteProtocolError: something that is no key stands where a key should.
        """
        return read_pre_key_header(self.body) if self.message_type is OlmMessageType.PRE_KEY else None

    def to_json(self) -> JsonObject:
        """Return the entry as it stands in ``ciphertext``."""
        return {**thaw(dict(self.extra)), "type": int(self.message_type), "body": self.body}


def _read_ciphertext(tree: Any) -> OlmCiphertext:
    entry = object_in(tree, "a message for a device")
    for name in _ENTRY:
        if name not in entry:
            raise Refusal(Reason.MISSING_MEMBER, f"there is no {name}")
    if type(entry["type"]) is not int:  # true is none, nor is 1.0
        raise wrong_type("type must be 0 or 1", entry["type"], "type")
    if entry["type"] not in _TYPES:
        raise Refusal(Reason.INVALID_VALUE, "type must be 0 or 1", "type")
    message_type = OlmMessageType(entry["type"])
    olm_body(entry["body"], message_type, "body")
    extra = {name: value for name, value in entry.items() if name not in _ENTRY}
    return OlmCiphertext(message_type=message_type, body=entry["body"], extra=passed_on(extra))


def _check_ciphertext(value: object, *at: str | int) -> OlmCiphertext:
    if type(value) is not OlmCiphertext:
        raise wrong_type("a message must be an OlmCiphertext", value, *at)
    return value


def _read_recipients(tree: Any, *at: str | int) -> dict[str, Any]:
    """Read the messages of all devices. A malformed one costs nobody else's."""
    entries = object_in(tree, "ciphertext", *at)
    return {name: read_entry(_read_recipient(name), entry, *at, name) for name, entry in entries.items()}


def _read_recipient(name: str) -> Any:
    def read(tree: Any) -> OlmCiphertext:
        _check_recipient(name)
        return _read_ciphertext(tree)

    return read


def _check_recipient(name: str, *at: str | int) -> None:
    """Refuse what is not the one spelling of an Olm identity key."""
    key: Curve25519PublicKey = curve25519_member().read(name, *at)
    if key.to_base64() != name:
        raise Refusal(Reason.INVALID_BASE64, f"{quoted(name)} is padded", *at)


@frozen(kw_only=True)
class OlmEncryptedContent(EventContent):
    """A content for one or several devices, encrypted with Olm.

    Attributes:
        sender_key: the Olm identity key of the sending device. Whether it is, is to be checked after decryption.
        ciphertext: Olm identity key of a recipient to the message for it; a rejection where something else stands.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = ENCRYPTED
    members: ClassVar[Mapping[str, Member]] = {
        "algorithm": _algorithm_member(OLM_V1),
        "sender_key": curve25519_member(),
        "ciphertext": Member(
            mapping_of(map_of(or_rejection(_check_ciphertext))),
            _read_recipients,
            lambda value: {name: write_entry(entry) for name, entry in value.items()},
        ),
    }

    algorithm: str = OLM_V1
    sender_key: Curve25519PublicKey
    ciphertext: Mapping[str, OlmCiphertext | Rejection]

    def _check_whole(self) -> None:
        for name, entry in self.ciphertext.items():
            if type(entry) is OlmCiphertext:
                _check_recipient(name, "ciphertext", name)

    @classmethod
    def build(cls, *, sender_key: Curve25519PublicKey, messages: Mapping[Curve25519PublicKey, OlmCiphertext]) -> Self:
        """Build a content.

        Args:
            sender_key: one's own Olm identity key.
            messages: Olm identity key of each recipient to what its session has encrypted.

        Raises:
            LocalProtocolError: an argument has the wrong type, or there is no message.
        """
        ciphertext: dict[str, OlmCiphertext] = {}
        with raised_as(LocalProtocolError), callers_own("messages"):
            if not isinstance(messages, Mapping):
                raise wrong_type("messages must be a mapping", messages, "messages")
            for key, message in messages.items():
                if type(key) is not Curve25519PublicKey:
                    raise wrong_type("messages must be under keys of type Curve25519PublicKey", key, "messages")
                ciphertext[key.to_base64()] = _check_ciphertext(message, "messages", key.to_base64())
        if not ciphertext:
            raise LocalProtocolError(Reason.INVALID_VALUE, "there is no message", path="/messages")
        return cls(sender_key=sender_key, ciphertext=ciphertext)

    def my_ciphertext(self, key: Curve25519PublicKey) -> OlmCiphertext:
        """Return the message for a device.

        Args:
            key: the Olm identity key of this device.

        Raises:
            RemoteProtocolError: there is none, or several, or it is malformed.
            LocalProtocolError: the key has the wrong type.
        """
        if type(key) is not Curve25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a Curve25519PublicKey is needed", path="/key")
        entries = [entry for name, entry in self.ciphertext.items() if unpadded_base64.decode_loosely(name) == key.raw]
        if not entries:
            detail = "there is no message for this device"
            raise RemoteProtocolError(Reason.NOT_FOR_THIS_DEVICE, detail, path="/ciphertext")
        if len(entries) > 1:
            detail = "the key of this device stands there more than once, in different spellings"
            raise RemoteProtocolError(Reason.DUPLICATE_MEMBER, detail, path="/ciphertext")
        (entry,) = entries
        if isinstance(entry, Rejection):
            raise entry.to_error()
        return entry


def _check_megolm_ciphertext(value: object, *at: str | int) -> str:
    megolm_body(value, *at)
    return str(value)


@frozen(kw_only=True)
class MegolmEncryptedContent(EventContent):
    """A content for all who have the session key, encrypted with Megolm.

    Attributes:
        session_id: which session. Sessions are looked up by room and session id.
        ciphertext: the message in unpadded base64.
        untrusted_sender_key: what the sender, or any server on the way, says is the Olm identity key of the sender.
            Deprecated: do not decide by it.
        untrusted_device_id: the same of the sender's device id.
        relates_to: the relation to another event, readable by servers. It is what counts, whatever stands inside.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = ENCRYPTED
    members: ClassVar[Mapping[str, Member]] = {
        "algorithm": _algorithm_member(MEGOLM_V1),
        "session_id": Member(some_string),
        "ciphertext": Member(_check_megolm_ciphertext),
        "sender_key": Member(opaque_string, is_required=False, attribute="untrusted_sender_key"),
        "device_id": Member(opaque_string, is_required=False, attribute="untrusted_device_id"),
        "m.relates_to": evolve(json_member(is_required=False), attribute="relates_to"),
    }

    algorithm: str = MEGOLM_V1
    session_id: str
    ciphertext: str = field(repr=False)
    untrusted_sender_key: str | None = None
    untrusted_device_id: str | None = None
    relates_to: Mapping[str, Any] | None = None

    @classmethod
    def build(
        cls,
        *,
        session_id: str,
        ciphertext: str,
        relates_to: Mapping[str, Any] | None,
        sender_key: Curve25519PublicKey | None = None,
        sender_device_id: str | None = None,
    ) -> Self:
        """Build a content.

        Args:
            session_id: the outbound session.
            ciphertext: what it has encrypted, in unpadded base64.
            relates_to: ``m.relates_to`` of the content that was encrypted, ``None`` if it has none. It counts here
                only: without it, an answer or an edit is a message of its own.
            sender_key: one's own Olm identity key. Deprecated; it "SHOULD continue to be sent", for older clients.
            sender_device_id: one's own device id; the same holds.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        if sender_key is not None and type(sender_key) is not Curve25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a Curve25519PublicKey is needed", path="/sender_key")
        with raised_as(LocalProtocolError):
            optional(device_id)(sender_device_id, "sender_device_id")
        return cls(
            session_id=session_id,
            ciphertext=ciphertext,
            untrusted_sender_key=None if sender_key is None else sender_key.to_base64(),
            untrusted_device_id=sender_device_id,
            relates_to=relates_to,
        )

    @property
    def message_index(self) -> int:
        """The index that the message states; see :func:`~matrix_e2e_keys.megolm_message_index`."""
        return megolm_message_index(self.ciphertext)


@frozen(kw_only=True)
class UnsupportedEncryptedContent:
    """A content that is encrypted with an algorithm this library does not know. Nothing else is read of it.

    Attributes:
        algorithm: the algorithm.
        content: all of it.
    """

    algorithm: str
    content: Mapping[str, Any] = field(repr=False)


EncryptedContent: TypeAlias = OlmEncryptedContent | MegolmEncryptedContent | UnsupportedEncryptedContent
"""The content of an ``m.room.encrypted``."""

_KINDS: Final[Mapping[str, type[OlmEncryptedContent | MegolmEncryptedContent]]] = {
    OLM_V1: OlmEncryptedContent,
    MEGOLM_V1: MegolmEncryptedContent,
}


def read_encrypted_content(obj: object) -> EncryptedContent:
    """Read the content of an ``m.room.encrypted``. What it is, its ``algorithm`` says.

    Args:
        obj: parsed JSON, or the ``content`` of an event. It is not changed.

    Raises:
        RemoteProtocolError: it is malformed. ``path`` points into the content.
    """
    with raised_as(RemoteProtocolError):
        tree = object_in(tree_of(obj), "the content")
        if "algorithm" not in tree:
            raise Refusal(Reason.MISSING_MEMBER, "there is no algorithm")
        algorithm = opaque_string(tree["algorithm"], "algorithm")
        if algorithm in _KINDS:
            return _KINDS[algorithm].read_tree(tree, "the content")
        return UnsupportedEncryptedContent(algorithm=algorithm, content=json_member().check(passed_on(tree), "content"))
