"""The fingerprint of participating keys, and who takes part according to an event, a sender and a receiver."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import time
from collections.abc import Iterable
from typing import Any

import pytest

from events.odd_values import only_own_errors, refusal
from legacy.room_people import (
    ALICE,
    BOB,
    DESK,
    EVIL,
    LAPTOP,
    MALLORY,
    PHONE,
    TABLET,
    device,
    envelope,
    key_of,
    text_of,
    without_olm,
)
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.events.encrypted import OlmEncryptedContent
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.legacy.fingerprints import (
    FingerprintState,
    KnownDevices,
    Participant,
    ParticipantDifference,
    ParticipantReport,
    compare_participants,
    named,
    participant_fingerprint,
    participants_of,
)
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.signing.signers import sign_json
from matrix_e2e_keys.testing.samples import sample_curve25519_key, sample_secret_key

# X25519 public keys that stand in RFC 7748, section 6.1, and the base point.
RFC_KEYS = [
    "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo",
    "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08",
    "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
]
KEYS = [Curve25519PublicKey.from_base64(text) for text in RFC_KEYS]


def by_hand(texts: Iterable[str]) -> str:
    return base64.b64encode(hashlib.sha256(",".join(sorted(texts)).encode()).digest()).decode().rstrip("=")


def raw(devices: Iterable[VerifiedDevice]) -> bytes:
    return base64.b64decode(by_hand(text_of(it) for it in devices) + "=")


class TestFingerprint:
    def test_a_known_answer(self) -> None:
        """Made by ``sha256sum`` and ``base64`` on a command line."""
        assert participant_fingerprint(KEYS) == "i5x88+t3ejOWAVYgVnEa7+ysFAGhkO+8Tg49QhJaOm8"
        assert by_hand(RFC_KEYS) == "i5x88+t3ejOWAVYgVnEa7+ysFAGhkO+8Tg49QhJaOm8"

    def test_of_one_key(self) -> None:
        assert participant_fingerprint(KEYS[:1]) == by_hand(RFC_KEYS[:1])

    def test_the_order_is_of_no_matter(self) -> None:
        assert len({participant_fingerprint(keys) for keys in itertools.permutations(KEYS)}) == 1

    def test_keys_are_sorted_by_their_text_and_not_by_their_bytes(self) -> None:
        keys = [sample_curve25519_key(f"{number}") for number in range(64)]
        by_text = sorted(key.to_base64() for key in keys)
        assert [key.to_base64() for key in sorted(keys, key=lambda key: key.raw)] != by_text
        assert sorted(by_text, key=str.lower) != by_text
        digest = hashlib.sha256(",".join(by_text).encode()).digest()
        assert participant_fingerprint(keys) == base64.b64encode(digest).decode()[:43]

    def test_nobody_takes_part_twice(self) -> None:
        assert participant_fingerprint([*KEYS, KEYS[0]]) == participant_fingerprint(KEYS)

    def test_another_participant_is_another_fingerprint(self) -> None:
        assert participant_fingerprint(KEYS[:2]) != participant_fingerprint(KEYS)

    def test_any_iterable_is_read_once(self) -> None:
        assert (
            participant_fingerprint(iter(KEYS)) == participant_fingerprint(set(KEYS)) == participant_fingerprint(KEYS)
        )

    @pytest.mark.parametrize(
        ("keys", "path", "reason"),
        [
            ([], "/keys", Reason.INVALID_VALUE),
            (RFC_KEYS[0], "/keys", Reason.WRONG_TYPE),
            (RFC_KEYS, "/keys/0", Reason.WRONG_TYPE),
            ([KEYS[0], KEYS[1].raw], "/keys/1", Reason.WRONG_TYPE),
            ({KEYS[0]: 1}, "/keys", Reason.WRONG_TYPE),
            ((1 // 0 for _ in "x"), "/keys", Reason.INVALID_VALUE),
        ],
        ids=repr,
    )
    def test_what_are_no_keys_is_refused(self, keys: Any, path: str, reason: Reason) -> None:
        assert refusal(lambda: participant_fingerprint(keys), LocalProtocolError) == (path, reason)

    def test_only_own_errors_come_out(self) -> None:
        assert only_own_errors(participant_fingerprint) == only_own_errors(lambda it: participant_fingerprint([it])) + 1


class TestParticipantsOf:
    def test_the_sender_and_all_recipients(self) -> None:
        found = participants_of(envelope(PHONE, [DESK, TABLET]))
        assert [key.to_base64() for key in found] == sorted(map(text_of, [PHONE, DESK, TABLET]))

    def test_who_writes_to_itself_counts_once(self) -> None:
        assert participants_of(envelope(PHONE, [PHONE])) == (key_of(PHONE),)

    def test_it_is_what_the_fingerprint_is_made_of(self) -> None:
        assert participant_fingerprint(participants_of(envelope(PHONE, [DESK]))) == by_hand(
            [text_of(PHONE), text_of(DESK)]
        )

    @pytest.mark.parametrize(
        "name",
        [text_of(EVIL), text_of(EVIL) + "=", text_of(EVIL).replace("+", "-").replace("/", "_"), f" {text_of(EVIL)}"],
    )
    def test_a_recipient_counts_whatever_stands_there_for_it(self, name: str) -> None:
        """Some reader might take a key for its own in any spelling. Attack 60."""
        content = envelope(PHONE, [DESK]).to_json()
        content["ciphertext"][name] = None  # type: ignore[index,call-overload]
        assert key_of(EVIL) in participants_of(OlmEncryptedContent.from_json(content))

    @pytest.mark.parametrize(
        "name", ["", "x", "\ud800", "A" * 43, text_of(EVIL) + "AA", f"{text_of(EVIL)},{text_of(PHONE)}"]
    )
    def test_what_is_nobodys_key_is_left_out(self, name: str) -> None:
        content = envelope(PHONE, [DESK]).to_json()
        content["ciphertext"][name] = None  # type: ignore[index,call-overload]
        assert len(participants_of(OlmEncryptedContent.from_json(content))) == 2

    def test_only_own_errors_come_out(self) -> None:
        assert only_own_errors(participants_of) > 30
        assert refusal(lambda: participants_of({}), LocalProtocolError) == ("/content", Reason.WRONG_TYPE)  # type: ignore[arg-type]


def report(
    to: Iterable[VerifiedDevice],
    fingerprint: bytes | None,
    *,
    expected: Iterable[VerifiedDevice] = (PHONE, DESK, TABLET),
    known: Iterable[VerifiedDevice] = (),
) -> ParticipantReport:
    """What Bob's desk finds in an event of Alice's phone."""
    return compare_participants(envelope(PHONE, to), fingerprint, KnownDevices.of(DESK, expected, known))


def who(*devices: VerifiedDevice) -> tuple[Participant, ...]:
    return tuple([Participant(key=text_of(it), devices=(it,)) for it in sorted(devices, key=text_of)])


def nobody_knows(*devices: VerifiedDevice) -> tuple[Participant, ...]:
    return tuple([Participant(key=key) for key in sorted(map(text_of, devices))])


NONE = ParticipantDifference(unexpected=(), missing=(), explains_fingerprint=True)
SENT = (DESK, TABLET)
EXPECTED = (PHONE, DESK, TABLET)


class TestThreeOpinions:
    def test_all_agree(self) -> None:
        found = report(SENT, raw(EXPECTED))
        assert found == ParticipantReport(fingerprint=FingerprintState.MATCH, delivered=NONE, stated=NONE)
        assert found.unexpected == ()
        assert NONE.is_none

    def test_a_server_adds_a_recipient(self) -> None:
        found = report([*SENT, EVIL], raw(EXPECTED), known=[EVIL])
        assert (found.fingerprint, found.stated) == (FingerprintState.MATCH, NONE)
        assert found.delivered == ParticipantDifference(unexpected=who(EVIL), missing=(), explains_fingerprint=False)
        assert not found.delivered.is_none

    def test_a_server_drops_a_recipient(self) -> None:
        found = report([DESK], raw(EXPECTED))
        assert (found.fingerprint, found.stated) == (FingerprintState.MATCH, NONE)
        assert found.delivered == ParticipantDifference(unexpected=(), missing=who(TABLET), explains_fingerprint=False)
        assert not found.delivered.is_none

    def test_the_sender_encrypts_for_somebody_else_and_says_so(self) -> None:
        found = report([*SENT, EVIL], raw([*EXPECTED, EVIL]))
        same = ParticipantDifference(unexpected=nobody_knows(EVIL), missing=(), explains_fingerprint=True)
        assert found == ParticipantReport(fingerprint=FingerprintState.MISMATCH, delivered=same, stated=same)
        assert found.unexpected == nobody_knows(EVIL)

    def test_the_sender_encrypts_for_somebody_else_and_a_server_drops_the_recipient(self) -> None:
        found = report(SENT, raw([*EXPECTED, EVIL]), known=[LAPTOP, EVIL])
        assert found.fingerprint is FingerprintState.MISMATCH
        assert found.delivered == ParticipantDifference(unexpected=(), missing=(), explains_fingerprint=False)
        assert found.stated == ParticipantDifference(unexpected=who(EVIL), missing=(), explains_fingerprint=True)
        assert found.unexpected == who(EVIL)

    def test_nothing_is_stated(self) -> None:
        found = report([DESK, EVIL], None, known=[EVIL])
        assert (found.fingerprint, found.stated) == (FingerprintState.NOT_STATED, None)
        assert found.delivered == ParticipantDifference(
            unexpected=who(EVIL), missing=who(TABLET), explains_fingerprint=False
        )

    def test_nothing_is_stated_and_nothing_differs(self) -> None:
        """Not stated is no match."""
        found = report(SENT, None)
        assert (found.fingerprint, found.stated) == (FingerprintState.NOT_STATED, None)
        assert found.delivered == ParticipantDifference(unexpected=(), missing=(), explains_fingerprint=False)

    def test_what_is_malformed_is_a_mismatch_that_nothing_explains(self) -> None:
        found = report(SENT, b"")
        assert (found.fingerprint, found.stated) == (FingerprintState.MISMATCH, None)

    def test_who_is_unexpected_to_sender_and_servers_alike_is_named_once(self) -> None:
        found = report([*SENT, EVIL], raw([*EXPECTED, EVIL, LAPTOP]), known=[EVIL, LAPTOP])
        assert found.stated is not None
        assert found.stated.unexpected == who(EVIL, LAPTOP)
        assert found.delivered.unexpected == who(EVIL)
        assert found.unexpected == who(EVIL, LAPTOP)

    def test_the_sending_device_is_a_participant(self) -> None:
        found = report(SENT, None, expected=[DESK, TABLET])
        assert found.delivered.unexpected == nobody_knows(PHONE)

    def test_a_name_that_is_no_key_is_unexpected(self) -> None:
        content = envelope(PHONE, SENT).to_json()
        content["ciphertext"]["\ud800x"] = None  # type: ignore[index,call-overload]
        devices = KnownDevices.of(DESK, EXPECTED, ())
        found = compare_participants(OlmEncryptedContent.from_json(content), raw(EXPECTED), devices)
        odd = (Participant(key="\ud800x"),)
        assert (found.fingerprint, found.stated) == (FingerprintState.MATCH, NONE)
        assert found.delivered == ParticipantDifference(unexpected=odd, missing=(), explains_fingerprint=False)


class TestExplaining:
    """What the fingerprint is of, if it is neither of those who were expected nor of those in the event."""

    @pytest.mark.parametrize(
        ("hashed", "to", "unexpected", "missing"),
        [
            ((*EXPECTED, EVIL), SENT, (EVIL,), ()),
            ((PHONE, DESK), SENT, (), (TABLET,)),
            ((DESK, TABLET), SENT, (), (PHONE,)),
            ((PHONE, DESK, EVIL), SENT, (EVIL,), (TABLET,)),
            ((*EXPECTED, EVIL, LAPTOP), SENT, (EVIL, LAPTOP), ()),
            ((PHONE,), SENT, (), (DESK, TABLET)),
            # Two from the event, which itself has two that are not expected, and lacks one that is.
            ((PHONE, DESK, EVIL, LAPTOP), (DESK, EVIL, LAPTOP), (EVIL, LAPTOP), (TABLET,)),
            ((PHONE, DESK, LAPTOP, device(BOB, "X")), (DESK, EVIL, LAPTOP), (LAPTOP, device(BOB, "X")), (TABLET,)),
        ],
    )
    def test_it_is_explained(
        self,
        hashed: tuple[VerifiedDevice, ...],
        to: tuple[VerifiedDevice, ...],
        unexpected: tuple[VerifiedDevice, ...],
        missing: tuple[VerifiedDevice, ...],
    ) -> None:
        found = report(to, raw(hashed), known=[EVIL, LAPTOP, device(BOB, "X")])
        assert found.fingerprint is FingerprintState.MISMATCH
        assert found.stated == ParticipantDifference(
            unexpected=who(*unexpected), missing=who(*missing), explains_fingerprint=True
        )

    @pytest.mark.parametrize(
        ("hashed", "known"),
        [
            ((*EXPECTED, EVIL), ()),
            ((*EXPECTED, EVIL, LAPTOP, device(BOB, "X")), (EVIL, LAPTOP, device(BOB, "X"))),
        ],
        ids=["nobody known", "three changes"],
    )
    def test_it_is_not_explained(self, hashed: tuple[VerifiedDevice, ...], known: tuple[VerifiedDevice, ...]) -> None:
        found = report(SENT, raw(hashed), known=known)
        assert (found.fingerprint, found.stated) == (FingerprintState.MISMATCH, None)

    def test_the_work_is_bounded_by_hashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counted: list[int] = []
        monkeypatch.setattr("matrix_e2e_keys.legacy.fingerprints._digest", lambda texts: counted.append(len(texts)))
        known = [device(MALLORY, f"D{number}") for number in range(100)]
        assert report(SENT, b"x" * 32, known=known).stated is None
        assert len(counted) == 1 + 4096
        assert max(counted) == 5

    def test_the_work_is_bounded_by_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counted: list[int] = []
        monkeypatch.setattr("matrix_e2e_keys.legacy.fingerprints._digest", lambda texts: counted.append(len(texts)))
        monkeypatch.setattr("matrix_e2e_keys.legacy.fingerprints._MOST_KEYS", 29)
        assert report([*SENT, EVIL], b"x" * 32, known=[LAPTOP]).stated is None
        # Those who were expected. Then those of the event, one change to the former, and one to the latter: 29 keys in all.
        assert counted == [3, 4, 4, 4, 2, 2, 2, 3, 5, 3]

    def test_nothing_is_tried_in_vain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[frozenset[str]] = []
        monkeypatch.setattr("matrix_e2e_keys.legacy.fingerprints._digest", tried.append)
        report(SENT, b"", known=[EVIL])
        assert len(tried) == 1  # malformed: no guess is like it
        tried.clear()
        report(SENT, b"x" * 32, known=[EVIL])
        assert len(tried[2:]) == len(set(tried[2:])) == 4 + 6  # one change, two changes

    def test_a_huge_event_costs_little(self) -> None:
        content = envelope(PHONE, SENT).to_json()
        random_keys = random.Random(1)
        for _ in range(2_000):
            key = base64.b64encode(random_keys.randbytes(31) + b"\0").decode().rstrip("=")
            content["ciphertext"][key] = None  # type: ignore[index,call-overload]
        huge = OlmEncryptedContent.from_json(content)
        devices = KnownDevices.of(DESK, EXPECTED, ())
        started = time.process_time()
        found = compare_participants(huge, b"x" * 32, devices)
        assert time.process_time() - started < 5
        assert (found.stated, len(found.unexpected)) == (None, 2_000)

    def test_keys_in_the_event_are_tried_first_then_known_ones_in_their_order(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried: list[frozenset[str]] = []
        monkeypatch.setattr("matrix_e2e_keys.legacy.fingerprints._digest", tried.append)
        report([DESK, EVIL], b"x" * 32, expected=[PHONE], known=[TABLET, LAPTOP])
        base = frozenset(map(text_of, [PHONE, DESK]))
        ordered = [text_of(EVIL), text_of(TABLET), text_of(LAPTOP), *sorted(base)]
        assert tried[:7] == [base, base | {text_of(EVIL)}, *[base ^ {key} for key in ordered]]


class TestKnownDevices:
    def test_a_device_that_is_handed_in_twice_is_one(self) -> None:
        devices = KnownDevices.of(DESK, [PHONE, PHONE, DESK], [PHONE, DESK])
        assert devices.every == {text_of(DESK): (DESK,), text_of(PHONE): (PHONE,)}
        assert devices.expected == devices.every

    def test_who_has_no_olm_identity_key_takes_part_in_nothing(self) -> None:
        devices = KnownDevices.of(DESK, [without_olm(ALICE, "OLD")], [without_olm(ALICE, "OLDER")])
        assert devices.expected == devices.every == {text_of(DESK): (DESK,)}

    def test_who_has_a_key_takes_part_whatever_it_says_it_supports(self) -> None:
        signer = ALICE.device_signer("ODD")
        keys = {"ed25519:ODD": signer.public_key.to_base64(), "curve25519:ODD": RFC_KEYS[0]}
        obj: dict[str, Any] = {"user_id": ALICE.user_id, "device_id": "ODD", "algorithms": [], "keys": keys}
        odd = DeviceKeys.from_json(sign_json(obj, entity=ALICE.user_id, signer=signer)).verify()
        assert not odd.supports_olm
        assert KnownDevices.of(DESK, [odd], ()).expected[RFC_KEYS[0]] == (odd,)

    def test_one_key_of_several_devices_is_all_of_theirs(self) -> None:
        """Attack 37: two devices share one key."""
        twin = device(MALLORY, "TWIN", key=key_of(PHONE))
        devices = KnownDevices.of(DESK, [PHONE], [twin])
        assert devices.every[text_of(PHONE)] == (PHONE, twin)
        assert devices.expected[text_of(PHONE)] == (PHONE,)
        (found,) = devices.participants([text_of(PHONE)])
        assert found.label == "'@alice:a.example' 'PHONE' or '@mallory:m.example' 'TWIN'"

    def test_one_name_with_two_signing_keys_is_two_devices(self) -> None:
        twin = DeviceKeys.build(
            user_id=ALICE.user_id,
            device_id=PHONE.device_id,
            curve25519_key=key_of(PHONE),
            signer=sample_secret_key("thief").signer("ed25519:PHONE"),
        ).verify()
        assert twin.ed25519_key != PHONE.ed25519_key
        for expected, known in ((PHONE, twin), (twin, PHONE)):
            devices = KnownDevices.of(DESK, [expected], [known, expected, known])
            assert devices.every[text_of(PHONE)] == (expected, known)
            assert devices.expected[text_of(PHONE)] == (expected,)

    def test_only_what_is_expected_is_refused_for_having_two_keys(self) -> None:
        other = device(BOB, "TABLET", key=sample_curve25519_key("x"))
        assert KnownDevices.of(DESK, [TABLET], [other]).every.keys() == {text_of(DESK), text_of(TABLET), text_of(other)}
        assert refusal(lambda: KnownDevices.of(DESK, [PHONE, TABLET, other], ()), LocalProtocolError) == (
            "/expected/2",
            Reason.INVALID_VALUE,
        )


class TestNames:
    def test_who_is_not_known_is_named_by_key(self) -> None:
        assert Participant(key="a\nb").label == "'a\\nb'"
        assert named(who(EVIL)) == "'@mallory:m.example' 'EVIL'"

    @pytest.mark.parametrize(
        ("count", "text"),
        [(1, "'0'"), (3, "'0', '1', '2'"), (4, "'0', '1', '2', 1 more"), (9, "'0', '1', '2', 6 more")],
    )
    def test_not_too_many_are_named(self, count: int, text: str) -> None:
        assert named([Participant(key=f"{number}") for number in range(count)]) == text

    def test_not_too_many_who_claim_one_key_are_named(self) -> None:
        label = Participant(key="x", devices=(PHONE, LAPTOP, DESK, TABLET, EVIL)).label
        assert label.endswith("'DESK' or 2 more")

    @pytest.mark.parametrize("value", [NONE, report(SENT, None)])
    def test_there_is_no_truth_value(self, value: object) -> None:
        assert refusal(lambda: bool(value), LocalProtocolError)[1] is Reason.INVALID_VALUE
