"""The three errors, and the machine-readable reasons they share with rejections.

Facts:

* One base class, :class:`E2EKeysError`, and three subclasses that say *who* is at fault: the caller, the other
  side, or nobody (a well-formed signature question whose answer is no).
* For any input whatsoever nothing else leaves the library. A ``TypeError`` or ``KeyError`` out of a public function
  that was called with the arguments it documents is a bug.
* Every error says why (``reason``), where (``path``, a JSON Pointer) and explains itself in a sentence (``detail``).
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Generator, Iterable
from typing import Final, TypeVar

__all__ = [
    "E2EKeysError",
    "LocalProtocolError",
    "Reason",
    "Refusal",
    "RemoteProtocolError",
    "VerificationError",
    "json_pointer",
    "printable",
    "quoted",
    "raised_as",
    "shown",
]


class Reason(enum.StrEnum):
    """Why something was refused. The values are stable: programs may compare and store them."""

    # The frame: the bytes are not a JSON document that can be looked into.
    NOT_JSON = "not-json"
    NOT_UTF8 = "not-utf8"
    TOO_DEEP = "too-deep"
    TOO_LARGE = "too-large"
    NOT_AN_ANSWER = "not-an-answer"

    # A request or answer as HTTP.
    UNRECOGNIZED_ENDPOINT = "unrecognized-endpoint"
    WRONG_METHOD = "wrong-method"
    INVALID_ENCODING = "invalid-encoding"
    MISSING_PARAMETER = "missing-parameter"
    REPEATED_PARAMETER = "repeated-parameter"
    UNEXPECTED_STATUS = "unexpected-status"
    ANSWERED_WITH_ERROR = "answered-with-error"
    NOT_IN_DIALECT = "not-in-dialect"

    # A place that canonical JSON cannot represent.
    DUPLICATE_MEMBER = "duplicate-member"
    NOT_AN_INTEGER = "not-an-integer"
    INTEGER_OUT_OF_RANGE = "integer-out-of-range"
    TOO_MANY_DIGITS = "too-many-digits"
    NEGATIVE_ZERO = "negative-zero"
    LONE_SURROGATE = "lone-surrogate"
    NOT_A_JSON_VALUE = "not-a-json-value"

    # The shape of an object.
    WRONG_TYPE = "wrong-type"
    MISSING_MEMBER = "missing-member"
    INVALID_IDENTIFIER = "invalid-identifier"
    INVALID_KEY_ID = "invalid-key-id"
    INVALID_VALUE = "invalid-value"

    # Keys and signatures as values.
    INVALID_BASE64 = "invalid-base64"
    WRONG_LENGTH = "wrong-length"
    WEAK_KEY = "weak-key"
    NON_CANONICAL_KEY = "non-canonical-key"
    MIXED_ORDER_KEY = "mixed-order-key"
    MISSING_KEY = "missing-key"
    TOO_MANY_KEYS = "too-many-keys"
    WRONG_USAGE = "wrong-usage"
    KEY_ID_NOT_KEY = "key-id-not-key"
    KEY_ID_NOT_DEVICE = "key-id-not-device"
    KEY_REUSED = "key-reused"

    # Signature questions.
    MISSING_SIGNATURE = "missing-signature"
    INVALID_SIGNATURE = "invalid-signature"
    UNSUPPORTED_ALGORITHM = "unsupported-algorithm"

    # An answer judged against its question.
    UNREQUESTED = "unrequested"
    UNVERIFIED_DEVICE = "unverified-device"
    USER_ID_MISMATCH = "user-id-mismatch"
    DEVICE_ID_MISMATCH = "device-id-mismatch"
    SERVER_NAME_MISMATCH = "server-name-mismatch"
    IDENTIFIER_COLLISION = "identifier-collision"
    MISSING_MASTER_KEY = "missing-master-key"
    MISSING_SELF_SIGNING_KEY = "missing-self-signing-key"
    MASTER_KEY_REFUSED = "master-key-refused"
    SELF_SIGNING_KEY_REFUSED = "self-signing-key-refused"
    NOT_OWN_USER = "not-own-user"

    # An answer judged against what was known before.
    SIGNING_KEY_CHANGED = "signing-key-changed"
    OWN_DEVICE_ALTERED = "own-device-altered"

    # An encrypted event: what stands around it, and what came out of it.
    WRONG_ALGORITHM = "wrong-algorithm"
    NOT_ENCRYPTED = "not-encrypted"
    NOT_FOR_THIS_DEVICE = "not-for-this-device"
    NESTED_ENCRYPTION = "nested-encryption"
    STATE_EVENT = "state-event"
    SENDER_MISMATCH = "sender-mismatch"
    SENDER_KEY_MISMATCH = "sender-key-mismatch"
    RECIPIENT_MISMATCH = "recipient-mismatch"
    RECIPIENT_KEY_MISMATCH = "recipient-key-mismatch"
    ROOM_MISMATCH = "room-mismatch"
    SESSION_MISMATCH = "session-mismatch"
    REPLAYED = "replayed"
    LATER_INDEX = "later-index"
    UNTRUSTED_SENDER = "untrusted-sender"
    DEHYDRATED_SENDER = "dehydrated-sender"
    UNEXPECTED_PARTICIPANT = "unexpected-participant"

    # What one does with one's own keys, and trusts of others'.
    WOULD_CHANGE_KEYS = "would-change-keys"
    WOULD_LOSE_SIGNATURE = "would-lose-signature"
    KEY_ID_REUSED = "key-id-reused"
    PRIVATE_KEY_MISMATCH = "private-key-mismatch"
    MISSING_PRIVATE_KEY = "missing-private-key"
    IDENTITY_CHANGED = "identity-changed"
    NOT_SERVED = "not-served"
    WRONG_STATE = "wrong-state"


_POINTER_ESCAPES: Final = str.maketrans({"~": "~0", "/": "~1"})


def printable(text: str) -> str:
    r"""Return ``text`` with lone surrogates written as ``\udXXX``, so that it can be encoded and shown."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(text: str) -> str:
    """Return ``text`` with everything that is not printable written out: it may come from anybody."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def quoted(value: object, *, limit: int = 64) -> str:
    """Return text as it can stand in a sentence: in quotes, printable, not too long. Of anything else, the type."""
    if type(value) is not str:
        return f"<{type(value).__name__}>"
    text = printable(repr(value[: limit + 1]))
    return text if len(text) <= limit + 2 else text[:limit] + "…"


def json_pointer(segments: Iterable[str | int]) -> str:
    r"""Return the JSON Pointer (RFC 6901) for ``segments``; ``""`` is the whole document.

    ``~`` and ``/`` inside a segment are escaped, so a device id that contains a slash keeps its place. A lone
    surrogate in a member name is written as ``\udXXX``.
    """
    return printable("".join("/" + str(segment).translate(_POINTER_ESCAPES) for segment in segments))


class E2EKeysError(Exception):
    """Base of everything this library raises. Not raised itself.

    Attributes:
        reason: a :class:`Reason`, for programs.
        path: JSON Pointer to the offending place, ``""`` for the whole value.
        detail: one sentence for people. It quotes public data only, never a private key.
    """

    def __init__(self, reason: Reason, detail: str, *, path: str = "") -> None:
        super().__init__(reason, detail, path)
        self.reason = reason
        self.detail = detail
        self.path = path

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        return f"{self.detail} [{self.reason}{where}]"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries when verification is spread over a pool.
        return _rebuild, (type(self), self.reason, self.detail, self.path, getattr(self, "in_answer", False))


def _rebuild(kind: type[E2EKeysError], reason: Reason, detail: str, path: str, in_answer: bool) -> E2EKeysError:
    error = kind(reason, detail, path=path)
    if isinstance(error, RemoteProtocolError):
        error.in_answer = in_answer
    return error


class LocalProtocolError(E2EKeysError):
    """The caller built or asked for something that the protocol does not allow."""


class RemoteProtocolError(E2EKeysError):
    """The other side sent something that the protocol does not allow.

    A homeserver that raises this while it reads a request answers with :attr:`http_status` and :attr:`errcode`.

    Attributes:
        in_answer: whether it was an answer that was read. Then whoever asks a homeserver at that moment is not at
            fault.
    """

    in_answer: bool = False

    @property
    def errcode(self) -> str:
        """The Matrix error code to answer with (client-server API, "Standard error response")."""
        return "M_UNKNOWN" if self.in_answer else _ERRCODES.get(self.reason, "M_BAD_JSON")

    @property
    def http_status(self) -> int:
        """The HTTP status to answer with. If it was another server's answer, that is 502."""
        return 502 if self.in_answer else _STATUSES.get(self.reason, 400)


_ERRCODES: Final = {
    Reason.NOT_JSON: "M_NOT_JSON",
    Reason.NOT_UTF8: "M_NOT_JSON",
    Reason.TOO_LARGE: "M_TOO_LARGE",
    Reason.INVALID_IDENTIFIER: "M_INVALID_PARAM",
    Reason.INVALID_ENCODING: "M_INVALID_PARAM",
    Reason.REPEATED_PARAMETER: "M_INVALID_PARAM",
    Reason.MISSING_PARAMETER: "M_MISSING_PARAM",
    Reason.UNRECOGNIZED_ENDPOINT: "M_UNRECOGNIZED",
    Reason.WRONG_METHOD: "M_UNRECOGNIZED",
}

_STATUSES: Final = {
    Reason.TOO_LARGE: 413,
    Reason.UNRECOGNIZED_ENDPOINT: 404,
    Reason.WRONG_METHOD: 405,
}


class VerificationError(E2EKeysError):
    """A well-formed signature question was asked, and the answer is no."""


AnyError = TypeVar("AnyError", bound=E2EKeysError)


class Refusal(Exception):  # noqa: N818 - never leaves the library
    """Internal: one value was refused. Whoever knows where the value stood turns this into an error or a rejection.

    Attributes:
        reason, detail: as in :class:`E2EKeysError`.
        at: the place inside the value, as member names and indices.
    """

    def __init__(self, reason: Reason, detail: str, *at: str | int) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.at = at

    def to_error(self, kind: type[AnyError], *above: str | int) -> AnyError:
        """Return the error of ``kind`` for a value that stands at ``above``."""
        return kind(self.reason, self.detail, path=json_pointer((*above, *self.at)))


@contextlib.contextmanager
def raised_as(kind: type[E2EKeysError], *above: str | int) -> Generator[None, None, None]:
    """Internal: whatever is refused inside is the fault that ``kind`` names.

    The same check serves a value that our caller builds and one that the other side sent. Who is to blame is known
    only here.

    Args:
        kind: the error to raise.
        above: where the value stands that is checked inside.
    """
    try:
        yield
    except Refusal as refusal:
        raise refusal.to_error(kind, *above) from None
    except (LocalProtocolError, RemoteProtocolError) as error:
        if type(error) is kind and not above:
            raise
        raise kind(error.reason, error.detail, path=json_pointer(above) + error.path) from None
