"""Who takes part in a conversation of the draft of 2015, and the fingerprint by which a sender states it.

Specification: the draft "End to End Encryption" of July 2015, "Using Olm".

Facts:

* "We include a hash of the participating keys so that clients can detect if another device is unexpectedly included in
  the conversation." The draft says no more of it than "sha256 hash of the currently participating keys".
* The reading here: the Olm identity keys of all participating devices, the sending one among them, in unpadded
  base64, each once, sorted by code point, joined by commas; of that the SHA-256, in unpadded base64. So the first
  client of that time had written it down. It did not compute it yet, and sent an empty text. So an empty text, or none,
  states nothing: it is neither a match nor a mismatch.
* There are three opinions of who takes part: that of the receiver (whom he expects), that of the sender (the
  fingerprint, which nobody but the sender can write), and that of the servers (the recipients of the ciphertext, which
  any server on the way can add to and drop from). They are kept apart.
* A fingerprint is a hash. Who is in it can only be guessed, from devices that are known; the guessing is bounded.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NoReturn

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.endpoints.members import instances, list_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, quoted, raised_as
from matrix_e2e_keys.events.contents import callers_own
from matrix_e2e_keys.events.encrypted import OlmEncryptedContent
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice

__all__ = [
    "FingerprintState",
    "KnownDevices",
    "Participant",
    "ParticipantDifference",
    "ParticipantReport",
    "compare_participants",
    "fingerprint_of",
    "named",
    "participant_fingerprint",
    "participants_of",
]

_MOST_HASHES: Final = 4096
_MOST_KEYS: Final = 2**18
_MOST_CHANGES: Final = 2
_SHOWN: Final = 3


def participant_fingerprint(keys: Iterable[Curve25519PublicKey]) -> str:
    """Return the fingerprint of participating keys.

    Args:
        keys: the Olm identity keys of all participating devices, the sending one among them, in any order. A key that
            is there twice counts once: nobody takes part twice.

    Returns:
        A SHA-256 in unpadded base64, 43 characters.

    Raises:
        LocalProtocolError: the argument has the wrong type, or there is no key.
    """
    with raised_as(LocalProtocolError):
        return fingerprint_of(keys, "keys")


def fingerprint_of(keys: object, *at: str) -> str:
    """Internal: return the fingerprint of keys that a caller hands in.

    Raises:
        Refusal: these are none.
    """
    with callers_own(*at):
        texts = {key.to_base64() for key in list_of(instances(Curve25519PublicKey))(keys, *at)}
    if not texts:
        raise Refusal(Reason.INVALID_VALUE, "there is no participant", *at)
    return unpadded_base64.encode(_digest(texts))


def participants_of(content: OlmEncryptedContent) -> tuple[Curve25519PublicKey, ...]:
    """Return who takes part according to an encrypted content: the sending device, and all it has a message for.

    A recipient counts whatever the message for it is worth, and in whatever spelling its key stands there. What nobody
    could read as a key is left out.

    Args:
        content: the content as it was received, or before it is sent.

    Returns:
        Each key once, sorted by its text.

    Raises:
        LocalProtocolError: the argument has the wrong type.
    """
    if type(content) is not OlmEncryptedContent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "an OlmEncryptedContent is needed", path="/content")
    keys = {content.sender_key} | {key for key in map(_key_named, content.ciphertext) if key is not None}
    return tuple(sorted(keys, key=Curve25519PublicKey.to_base64))


def _key_named(name: str) -> Curve25519PublicKey | None:
    """Return the key that the most lenient reader would take a name for."""
    try:
        return Curve25519PublicKey(unpadded_base64.decode_loosely(name) or b"")
    except RemoteProtocolError:
        return None


def _digest(texts: Iterable[str]) -> bytes:
    return hashlib.sha256(",".join(sorted(texts)).encode("ascii")).digest()


# --------------------------------------------------------------------------------------------------------------
# What was found
# --------------------------------------------------------------------------------------------------------------


class FingerprintState(enum.StrEnum):
    """What the fingerprint in a payload says. Values are stable."""

    MATCH = "match"
    """The sender encrypted for those who were expected, and for nobody else."""
    MISMATCH = "mismatch"
    """The sender encrypted for others; or what stands there is no fingerprint."""
    NOT_STATED = "not-stated"
    """The sender does not say. That is no match."""


@frozen(kw_only=True)
class Participant:
    """A participant, by its key.

    Attributes:
        key: the Olm identity key in unpadded base64; or what stands in the ciphertext where a key should.
        devices: the devices with that key, of all that were handed in: none if nobody knows it, several if more than
            one claims it. Devices of one name with different signing keys are different ones.
    """

    key: str
    devices: tuple[VerifiedDevice, ...] = ()

    @property
    def label(self) -> str:
        """User id and device id, or the key if it is not known whose it is; in quotes, for people."""
        names = [f"{quoted(device.user_id)} {quoted(device.device_id)}" for device in self.devices]
        return " or ".join(_not_too_many(names)) or quoted(self.key)


@frozen(kw_only=True)
class ParticipantDifference:
    """In what some participants differ from those who were expected.

    Attributes:
        unexpected: who takes part, and was not expected; sorted by key.
        missing: who was expected, and does not take part; sorted by key.
        explains_fingerprint: whether the fingerprint in the payload is that of the expected participants with this
            difference. ``False`` if the payload states none.
    """

    unexpected: tuple[Participant, ...]
    missing: tuple[Participant, ...]
    explains_fingerprint: bool

    @property
    def is_none(self) -> bool:
        """Whether there is no difference."""
        return not self.unexpected and not self.missing

    def __bool__(self) -> NoReturn:
        detail = "a ParticipantDifference has no truth value: ask for .is_none or .explains_fingerprint"
        raise LocalProtocolError(Reason.INVALID_VALUE, detail)


@frozen(kw_only=True)
class ParticipantReport:
    """Who takes part, according to the sender and according to the servers, against who was expected.

    Attributes:
        fingerprint: what the fingerprint in the payload says.
        delivered: the difference that the event shows, as the server delivered it: sending device and recipients. Its
            ``explains_fingerprint`` says whether sender and servers agree.
        stated: the difference that the fingerprint states. ``None`` if it states nothing, is none, or could not be
            explained: by at most two changes to the expected participants, or to those of the event, among devices that
            were handed in or stand in the event. At most 4096 hashes are tried, over at most 262144 keys in all: first
            single changes, then pairs; first with keys of the event that are not expected, then with known devices in
            the order in which they were handed in, then with expected ones.
    """

    fingerprint: FingerprintState
    delivered: ParticipantDifference
    stated: ParticipantDifference | None

    @property
    def unexpected(self) -> tuple[Participant, ...]:
        """Who was not expected, and takes part according to the sender or to the servers; sorted by key."""
        stated = () if self.stated is None else self.stated.unexpected
        found = {participant.key: participant for participant in (*self.delivered.unexpected, *stated)}
        return tuple([found[key] for key in sorted(found)])

    def __bool__(self) -> NoReturn:
        detail = "a ParticipantReport has no truth value: ask for .fingerprint, .delivered or .stated"
        raise LocalProtocolError(Reason.INVALID_VALUE, detail)


def named(participants: Iterable[Participant]) -> str:
    """Internal: name some participants in a sentence, not too many of them."""
    return ", ".join(_not_too_many([participant.label for participant in participants]))


def _not_too_many(names: list[str]) -> list[str]:
    return names if len(names) <= _SHOWN else [*names[:_SHOWN], f"{len(names) - _SHOWN} more"]


# --------------------------------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class KnownDevices:
    """Internal: the devices that a caller hands in, by their Olm identity keys.

    Attributes:
        expected: key to devices, of those that should take part. One's own is always one of them.
        every: the same of all devices.
    """

    expected: Mapping[str, tuple[VerifiedDevice, ...]]
    every: Mapping[str, tuple[VerifiedDevice, ...]]

    @classmethod
    def of(cls, own: VerifiedDevice, expected: object, known: object) -> KnownDevices:
        """Sort devices by their keys. Those without an Olm identity key take part in nothing, and are passed over.

        Raises:
            LocalProtocolError: these are no devices, or two expected ones have one name and different keys.
        """
        check = list_of(instances(VerifiedDevice))
        with raised_as(LocalProtocolError):
            with callers_own("expected"):
                wanted: tuple[VerifiedDevice, ...] = check(expected, "expected")
            with callers_own("known"):
                others: tuple[VerifiedDevice, ...] = check(known, "known")
            names = {_name(own): own}
            for place, device in enumerate(wanted):
                first = names.setdefault(_name(device), device)
                if (device.curve25519_key, device.ed25519_key) != (first.curve25519_key, first.ed25519_key):
                    detail = f"there is another {quoted(device.device_id)} of {quoted(device.user_id)}, with other keys"
                    raise Refusal(Reason.INVALID_VALUE, detail, "expected", place)
        return cls(expected=_by_key(names.values()), every=_by_key([*names.values(), *others]))

    def participants(self, keys: Iterable[str]) -> tuple[Participant, ...]:
        """Return the participants with some keys."""
        return tuple([Participant(key=key, devices=self.every.get(key, ())) for key in sorted(keys)])


def _name(device: VerifiedDevice) -> tuple[str, str]:
    return device.user_id, device.device_id


def _by_key(devices: Iterable[VerifiedDevice]) -> dict[str, tuple[VerifiedDevice, ...]]:
    """Sort devices by their Olm identity keys. Who has one name and another signing key is another device."""
    by_key: dict[str, dict[tuple[str, str, Ed25519PublicKey], VerifiedDevice]] = {}
    for device in devices:
        if device.curve25519_key is not None:
            of_key = by_key.setdefault(device.curve25519_key.to_base64(), {})
            of_key.setdefault((*_name(device), device.ed25519_key), device)
    return {key: tuple(of_key.values()) for key, of_key in by_key.items()}


def compare_participants(
    content: OlmEncryptedContent, fingerprint: bytes | None, devices: KnownDevices
) -> ParticipantReport:
    """Internal: compare who takes part with who was expected.

    Args:
        content: the content around the payload.
        fingerprint: the bytes of the fingerprint in the payload; ``None`` if there is none, ``b""`` if it is malformed.
        devices: the devices that are known.
    """
    expected = frozenset(devices.expected)
    delivered = frozenset([key.to_base64() for key in participants_of(content)])
    unreadable = {name for name in content.ciphertext if _key_named(name) is None}
    state, stated = FingerprintState.MISMATCH, None
    if fingerprint is None:
        state = FingerprintState.NOT_STATED
    elif fingerprint == _digest(expected):
        state, stated = FingerprintState.MATCH, expected
    elif fingerprint:
        stated = _explained(fingerprint, expected, delivered, devices)

    def difference(keys: frozenset[str], unreadable: Iterable[str] = ()) -> ParticipantDifference:
        return ParticipantDifference(
            unexpected=devices.participants([*(keys - expected), *unreadable]),
            missing=devices.participants(expected - keys),
            explains_fingerprint=keys == stated and not unreadable,
        )

    return ParticipantReport(
        fingerprint=state,
        delivered=difference(delivered, unreadable),
        stated=None if stated is None else difference(stated),
    )


def _explained(
    fingerprint: bytes, expected: frozenset[str], delivered: frozenset[str], devices: KnownDevices
) -> frozenset[str] | None:
    """Return the participants that a fingerprint is of, if they can be guessed with bounded work."""
    known = [key for key in devices.every if key not in expected]
    candidates = dict.fromkeys([*sorted(delivered - expected), *known, *sorted(expected)])
    keys_hashed = 0
    for guess in itertools.islice(_guesses(expected, delivered, list(candidates)), _MOST_HASHES):
        keys_hashed += len(guess)
        if keys_hashed > _MOST_KEYS:
            break
        if _digest(guess) == fingerprint:
            return guess
    return None


def _guesses(expected: frozenset[str], delivered: frozenset[str], candidates: list[str]) -> Iterator[frozenset[str]]:
    yield delivered
    bases = (expected, delivered) if delivered != expected else (expected,)
    for count in range(1, _MOST_CHANGES + 1):
        for base in bases:
            for changed in itertools.combinations(candidates, count):
                yield base.symmetric_difference(changed)
