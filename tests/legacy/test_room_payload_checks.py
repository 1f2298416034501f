"""An event of a room of 2015 is believed after every check, and who should not take part is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import vodozemac

from events.odd_values import ODD, only_own_errors, refusal
from events.vodozemac_world import curve25519_of, sealed_by
from legacy.room_people import (
    ALICE,
    BOB,
    DESK,
    EVIL,
    LAPTOP,
    MALLORY,
    PHONE,
    ROOM,
    TABLET,
    Said,
    device,
    key_of,
    said,
    shell,
    text_of,
    without_olm,
)
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.events.encrypted import OlmCiphertext, OlmEncryptedContent
from matrix_e2e_keys.events.judgments import FailedCheck
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.legacy.fingerprints import FingerprintState, Participant
from matrix_e2e_keys.legacy.room_judgments import (
    CheckedRoomPayload,
    RoomPayloadCheck,
    RoomPayloadJudgment,
)
from matrix_e2e_keys.legacy.room_payload_checks import check_room_payload
from matrix_e2e_keys.legacy.room_payloads import LegacyRoomPayload
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.signing.signers import VodozemacSigner
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key

Failed = list[tuple[str, str, Reason]]
MINE = f"/event/content/ciphertext/{text_of(DESK)}".replace("/", "~1").replace("~1event~1content~1ciphertext~1", "", 1)


def failed(judgment: RoomPayloadJudgment) -> Failed:
    """Which checks failed, where, and why."""
    assert judgment.event is None
    assert all(it.detail.isprintable() for it in judgment.failed)
    return [(str(it.check), it.path, it.reason) for it in judgment.failed]


def in_event(**changes: Any) -> Callable[[Said], object]:
    return lambda it: it.event.update(changes)


def in_content(**changes: Any) -> Callable[[Said], object]:
    return lambda it: it.event["content"].update(changes)


def inside(**changes: Any) -> Callable[[Said], object]:
    return lambda it: it.payload.update(changes)


def without(name: str) -> Callable[[Said], object]:
    return lambda it: it.payload.pop(name)


class TestWhatPasses:
    def test_it_says_what_it_is_and_who_said_it(self) -> None:
        judgment = said().judged()
        payload = judgment.require()
        assert judgment == RoomPayloadJudgment(event=payload, participants=payload.participants)
        assert (payload.type, payload.content, payload.room_id) == ("m.room.message", {"body": "hello"}, ROOM)
        assert (payload.sender, payload.one_time_key, payload.extra) == (PHONE, None, {})
        assert payload.participants.fingerprint is FingerprintState.MATCH
        assert payload.participants.delivered.is_none

    def test_what_is_inside_is_not_shown(self) -> None:
        shown = repr(said().judged())
        assert "hello" not in shown
        assert "'m.room.message' of <VerifiedDevice '@alice:a.example' 'PHONE', not cross-signed>" in shown
        assert "fingerprint match>" in shown

    def test_what_else_stands_inside_is_passed_on(self) -> None:
        it = said()
        it.payload["x"] = {"y": 1.5}
        assert it.judged().require().extra == {"x": {"y": 1.5}}

    def test_a_pre_key_message_names_the_one_time_key(self) -> None:
        it = said()
        it.event["content"]["ciphertext"][text_of(DESK)] = shell(0, key_of(PHONE)).to_json()
        assert it.judged().require().one_time_key == sample_curve25519_key("one-time")

    def test_this_device_is_expected_in_any_case(self) -> None:
        assert said().judged(expected=[PHONE, TABLET]).require().sender == PHONE

    def test_who_cannot_encrypt_is_passed_over(self) -> None:
        expected = [PHONE, DESK, TABLET, without_olm(ALICE, "OLD")]
        assert said().judged(expected=expected).require().participants.delivered.is_none

    @pytest.mark.parametrize("change", [inside(fingerprint=""), without("fingerprint")])
    def test_a_fingerprint_that_is_not_stated_is_neither_match_nor_mismatch(self, change: Any) -> None:
        it = said()
        change(it)
        found = it.judged().require().participants
        assert (found.fingerprint, found.stated) == (FingerprintState.NOT_STATED, None)
        assert found.delivered.is_none
        assert not found.delivered.explains_fingerprint

    def test_a_fingerprint_may_be_padded(self) -> None:
        it = said()
        it.payload["fingerprint"] += "="
        assert it.judged().require().participants.fingerprint is FingerprintState.MATCH

    def test_what_a_server_adds_is_named_and_costs_nothing_if_the_sender_knows_of_nobody_else(self) -> None:
        payload = said(to=[DESK, TABLET, EVIL]).judged(known=[EVIL]).require()
        assert payload.participants.fingerprint is FingerprintState.MATCH
        assert payload.participants.unexpected == (Participant(key=text_of(EVIL), devices=(EVIL,)),)

    @pytest.mark.parametrize("stated", [True, False])
    def test_what_a_server_drops_is_named_and_costs_nothing(self, stated: bool) -> None:
        it = said(to=[DESK])
        if not stated:
            it.payload["fingerprint"] = ""
        found = it.judged().require().participants
        assert found.delivered.missing == (Participant(key=text_of(TABLET), devices=(TABLET,)),)

    def test_nothing_that_is_handed_in_is_changed(self) -> None:
        it = said()
        before = json.dumps([it.event, it.payload])
        expected = [PHONE, TABLET]
        it.judged(expected=expected, known=expected)
        assert json.dumps([it.event, it.payload]) == before
        assert expected == [PHONE, TABLET]

    def test_devices_may_come_from_anywhere_once(self) -> None:
        assert said().judged(expected=iter([PHONE, TABLET]), known=iter([EVIL])).require().sender == PHONE

    def test_the_plaintext_may_be_a_bytearray(self) -> None:
        it = said()
        assert it.judged(plaintext=bytearray(json.dumps(it.payload).encode())).require().sender == PHONE


class TestEachCheck:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (in_event(type="m.room.message"), [("envelope", "/event/type", Reason.NOT_ENCRYPTED)]),
            (
                in_content(algorithm="m.megolm.v1.aes-sha2"),
                [("envelope", "/event/content", Reason.MISSING_MEMBER)],
            ),
            (in_content(algorithm="x"), [("envelope", "/event/content/algorithm", Reason.UNSUPPORTED_ALGORITHM)]),
            (in_content(sender_key=None), [("envelope", "/event/content/sender_key", Reason.WRONG_TYPE)]),
            (in_content(sender_key="x"), [("envelope", "/event/content/sender_key", Reason.INVALID_BASE64)]),
            (in_content(ciphertext={}), [("envelope", "/event/content/ciphertext", Reason.NOT_FOR_THIS_DEVICE)]),
            (
                in_content(ciphertext={text_of(DESK): {"type": 2, "body": ""}}),
                [("envelope", f"/event/content/ciphertext/{MINE}/type", Reason.INVALID_VALUE)],
            ),
            (
                in_content(ciphertext={text_of(DESK): shell().to_json(), text_of(DESK) + "=": shell().to_json()}),
                [("envelope", "/event/content/ciphertext", Reason.DUPLICATE_MEMBER)],
            ),
            (
                in_content(ciphertext={text_of(DESK): shell(0, key_of(LAPTOP)).to_json()}),
                [("envelope", "/event/content/sender_key", Reason.SENDER_KEY_MISMATCH)],
            ),
            (inside(type=""), [("plaintext", "/plaintext/type", Reason.INVALID_VALUE)]),
            (without("type"), [("plaintext", "/plaintext", Reason.MISSING_MEMBER)]),
            (inside(content="x"), [("plaintext", "/plaintext/content", Reason.WRONG_TYPE)]),
            (without("content"), [("plaintext", "/plaintext", Reason.MISSING_MEMBER)]),
            (inside(x=float("nan")), [("plaintext", "/plaintext/x", Reason.NOT_AN_INTEGER)]),
            (inside(room_id=7), [("room", "/plaintext/room_id", Reason.WRONG_TYPE)]),
            (without("room_id"), [("room", "/plaintext", Reason.MISSING_MEMBER)]),
            (inside(room_id="!other:a.example"), [("room", "/plaintext/room_id", Reason.ROOM_MISMATCH)]),
            (in_event(room_id="!other:a.example"), [("room", "/plaintext/room_id", Reason.ROOM_MISMATCH)]),
            (in_event(state_key=""), [("state", "/event/state_key", Reason.STATE_EVENT)]),
            (in_event(state_key="x"), [("state", "/event/state_key", Reason.STATE_EVENT)]),
            (inside(state_key=""), [("state", "/plaintext/state_key", Reason.STATE_EVENT)]),
            (inside(state_key=None), [("state", "/plaintext/state_key", Reason.STATE_EVENT)]),
            (inside(type="m.room.encrypted"), [("inside", "/plaintext/type", Reason.NESTED_ENCRYPTION)]),
            (in_event(sender=BOB.user_id), [("sender-device", "/event/sender", Reason.SENDER_MISMATCH)]),
            (inside(fingerprint="x"), [("fingerprint", "/plaintext/fingerprint", Reason.INVALID_BASE64)]),
            (inside(fingerprint="AAAA"), [("fingerprint", "/plaintext/fingerprint", Reason.WRONG_LENGTH)]),
            (inside(fingerprint="0" * 64), [("fingerprint", "/plaintext/fingerprint", Reason.WRONG_LENGTH)]),
            (inside(fingerprint="\ud800"), [("fingerprint", "/plaintext/fingerprint", Reason.LONE_SURROGATE)]),
            (inside(fingerprint=None), [("fingerprint", "/plaintext/fingerprint", Reason.WRONG_TYPE)]),
            (inside(fingerprint=0), [("fingerprint", "/plaintext/fingerprint", Reason.WRONG_TYPE)]),
            (inside(fingerprint="A" * 43), [("fingerprint", "/plaintext/fingerprint", Reason.UNEXPECTED_PARTICIPANT)]),
        ],
    )
    def test_it_fails_alone(self, change: Any, expected: Failed) -> None:
        """Attacks 59 and 60: another room than the one it was sent in; a malformed envelope."""
        it = said()
        change(it)
        assert failed(it.judged()) == expected

    @pytest.mark.parametrize(
        ("plaintext", "reason"),
        [(b"", Reason.NOT_JSON), (b"[]", Reason.WRONG_TYPE), (b"\xff", Reason.NOT_UTF8), (b"null", Reason.WRONG_TYPE)],
    )
    def test_what_is_no_object_fails(self, plaintext: bytes, reason: Reason) -> None:
        judgment = said().judged(plaintext=plaintext)
        assert failed(judgment) == [("plaintext", "/plaintext", reason)]
        assert judgment.participants is None

    @pytest.mark.parametrize(
        ("name", "check"),
        [
            ("type", "plaintext"),
            ("content", "plaintext"),
            ("room_id", "room"),
            ("fingerprint", "fingerprint"),
            ("x", "plaintext"),
        ],
    )
    def test_a_member_that_stands_there_twice_fails(self, name: str, check: str) -> None:
        """Attack 6: two readers would take different ones."""
        it = said()
        it.payload.setdefault("x", 1)
        value = json.dumps(it.payload[name])
        plaintext = json.dumps(it.payload)[:-1] + f', "{name}": {value}}}'
        assert failed(it.judged(plaintext=plaintext.encode())) == [
            (check, f"/plaintext/{name}", Reason.DUPLICATE_MEMBER)
        ]

    def test_megolm_is_not_known_to_the_draft(self) -> None:
        """Attack 56: what everybody in a room has the key of is not taken for what one device said to another."""
        it = said()
        group = vodozemac.GroupSession()
        it.event["content"] = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "session_id": group.session_id,
            "ciphertext": group.encrypt(b"{}").to_base64(),
        }
        judgment = it.judged()
        assert failed(judgment) == [("envelope", "/event/content/algorithm", Reason.WRONG_ALGORITHM)]
        assert judgment.participants is None

    def test_all_that_failed_are_named_in_the_order_of_the_checks(self) -> None:
        it = said(to=[TABLET, EVIL])
        it.event |= {"state_key": "", "sender": BOB.user_id}
        it.payload |= {"type": "m.room.encrypted", "content": 1, "room_id": "!x:y", "state_key": "", "fingerprint": "?"}
        judgment = it.judged()
        assert failed(judgment) == [
            ("envelope", "/event/content/ciphertext", Reason.NOT_FOR_THIS_DEVICE),
            ("plaintext", "/plaintext/content", Reason.WRONG_TYPE),
            ("room", "/plaintext/room_id", Reason.ROOM_MISMATCH),
            ("state", "/event/state_key", Reason.STATE_EVENT),
            ("state", "/plaintext/state_key", Reason.STATE_EVENT),
            ("inside", "/plaintext/type", Reason.NESTED_ENCRYPTION),
            ("sender-device", "/event/sender", Reason.SENDER_MISMATCH),
            ("fingerprint", "/plaintext/fingerprint", Reason.INVALID_BASE64),
            ("participants", "/event/content", Reason.UNEXPECTED_PARTICIPANT),
        ]
        assert {it.check for it in judgment.failed} == set(RoomPayloadCheck)


class TestWhoSentIt:
    """ "Clients must confirm that the sender_key actually belongs to the device that sent the message." """

    def test_a_device_that_nobody_expected(self) -> None:
        judgment = said(sender=LAPTOP, hashed=[LAPTOP, DESK, TABLET]).judged(known=[LAPTOP])
        assert [it.check for it in judgment.failed] == ["sender-device", "fingerprint", "participants"]
        sender = judgment.failed[0]
        assert (sender.path, sender.reason) == ("/event/content/sender_key", Reason.UNEXPECTED_PARTICIPANT)
        assert "'@alice:a.example' 'LAPTOP'" in sender.detail

    def test_a_device_that_nobody_knows(self) -> None:
        it = said(sender=LAPTOP)
        judgment = it.judged()
        assert failed(judgment) == [
            ("sender-device", "/event/content/sender_key", Reason.UNEXPECTED_PARTICIPANT),
        ]
        assert repr(text_of(LAPTOP)) in judgment.failed[0].detail

    @pytest.mark.parametrize(
        "twin", [device(MALLORY, "TWIN", key=key_of(PHONE)), device(ALICE, "TWIN", key=key_of(PHONE))]
    )
    @pytest.mark.parametrize("sender", [MALLORY.user_id, ALICE.user_id])
    @pytest.mark.parametrize("is_expected", [True, False])
    def test_two_devices_that_claim_one_key(self, twin: VerifiedDevice, sender: str, is_expected: bool) -> None:
        """Attacks 37 and 38: nothing inside says which of the two it was, be the second expected or only known."""
        it = said()
        it.event["sender"] = sender
        judgment = it.judged(expected=[PHONE, TABLET, *[twin] * is_expected], known=[twin] * (not is_expected))
        found = failed(judgment)
        assert found[0] == ("sender-device", "/event/content/sender_key", Reason.KEY_REUSED)
        assert "'PHONE' or " in judgment.failed[0].detail
        is_of_neither = sender not in (PHONE.user_id, twin.user_id)
        assert found[1:] == [("sender-device", "/event/sender", Reason.SENDER_MISMATCH)] * is_of_neither

    def test_who_claims_the_key_of_another_and_is_not_expected_gets_nothing_attributed(self) -> None:
        """Attack 38: Mallory's server says that Alice's message is his."""
        twin = device(MALLORY, "TWIN", key=key_of(PHONE))
        it = said()
        it.event["sender"] = MALLORY.user_id
        assert failed(it.judged()) == [("sender-device", "/event/sender", Reason.SENDER_MISMATCH)]
        assert failed(it.judged(known=[twin])) == [("sender-device", "/event/content/sender_key", Reason.KEY_REUSED)]

    def test_what_cannot_be_told_if_the_one_whose_key_it_is_is_not_handed_in(self) -> None:
        """Attack 38, where the draft has no defense: the documentation of the function says so."""
        twin = device(MALLORY, "TWIN", key=key_of(PHONE))
        it = said()
        it.event["sender"] = MALLORY.user_id
        assert it.judged(expected=[twin, TABLET]).require().sender == twin

    def test_this_device_itself(self) -> None:
        it = said(sender=DESK, to=[DESK, TABLET], hashed=[DESK, TABLET])
        assert failed(it.judged(expected=[TABLET])) == [
            ("sender-device", "/event/content/sender_key", Reason.KEY_REUSED)
        ]

    def test_who_claims_the_key_of_this_device(self) -> None:
        twin = device(MALLORY, "TWIN", key=key_of(DESK))
        it = said(sender=twin, to=[DESK, TABLET], hashed=[DESK, TABLET])
        assert failed(it.judged(expected=[TABLET, twin])) == [
            ("sender-device", "/event/content/sender_key", Reason.KEY_REUSED)
        ]

    def test_another_device_of_ones_own_may_write(self) -> None:
        it = said(sender=TABLET, to=[PHONE, DESK])
        assert it.judged().require().sender == TABLET


class TestWhoElseTakesPart:
    def test_whom_the_sender_encrypts_for_and_nobody_expected(self) -> None:
        judgment = said(to=[DESK, TABLET, EVIL], hashed=[PHONE, DESK, TABLET, EVIL]).judged(known=[EVIL])
        assert failed(judgment) == [
            ("fingerprint", "/plaintext/fingerprint", Reason.UNEXPECTED_PARTICIPANT),
            ("participants", "/event/content", Reason.UNEXPECTED_PARTICIPANT),
        ]
        name = "'@mallory:m.example' 'EVIL'"
        assert [it.detail for it in judgment.failed] == [
            f"the fingerprint is not that of the expected participants; it is, with {name}",
            f"nobody expected {name} to take part",
        ]
        assert judgment.participants is not None
        assert judgment.participants.unexpected == (Participant(key=text_of(EVIL), devices=(EVIL,)),)

    def test_whom_the_sender_encrypts_for_and_a_server_hides(self) -> None:
        judgment = said(hashed=[PHONE, DESK, EVIL]).judged(known=[EVIL])
        assert failed(judgment) == [("fingerprint", "/plaintext/fingerprint", Reason.UNEXPECTED_PARTICIPANT)]
        assert judgment.failed[0].detail.endswith(
            "; it is, with '@mallory:m.example' 'EVIL' and without '@bob:b.example' 'TABLET'"
        )
        assert judgment.participants is not None
        assert judgment.participants.delivered.is_none
        assert judgment.participants.unexpected == (Participant(key=text_of(EVIL), devices=(EVIL,)),)

    def test_whom_the_sender_does_not_know(self) -> None:
        judgment = said(to=[DESK], hashed=[PHONE, DESK]).judged()
        assert failed(judgment) == [("fingerprint", "/plaintext/fingerprint", Reason.UNEXPECTED_PARTICIPANT)]
        assert judgment.failed[0].detail.endswith("; it is, without '@bob:b.example' 'TABLET'")

    def test_what_nobody_can_explain(self) -> None:
        judgment = said(hashed=[EVIL]).judged()
        assert judgment.failed[0].detail == "the fingerprint is not that of the expected participants"
        assert judgment.participants is not None
        assert judgment.participants.stated is None

    @pytest.mark.parametrize("fingerprint", ["?", "AAAA", None, 7, "\ud800"])
    def test_what_is_no_fingerprint_is_a_mismatch(self, fingerprint: Any) -> None:
        it = said()
        it.payload["fingerprint"] = fingerprint
        found = it.judged().participants
        assert found is not None
        assert (found.fingerprint, found.stated) == (FingerprintState.MISMATCH, None)

    @pytest.mark.parametrize("fingerprint", ["", "?", "A" * 43])
    def test_whom_no_fingerprint_rules_out(self, fingerprint: str) -> None:
        it = said(to=[DESK, TABLET, EVIL])
        it.payload["fingerprint"] = fingerprint
        judgment = it.judged()
        assert failed(judgment)[-1] == ("participants", "/event/content", Reason.UNEXPECTED_PARTICIPANT)
        assert judgment.failed[-1].detail == f"nobody expected {text_of(EVIL)!r} to take part"
        assert len(judgment.failed) == (2 if fingerprint else 1)


class TestArguments:
    @pytest.mark.parametrize(
        ("change", "path", "reason"),
        [
            ({"own": None}, "/own", Reason.WRONG_TYPE),
            ({"own": DESK.keys}, "/own", Reason.WRONG_TYPE),
            ({"own": without_olm(BOB, "DESK")}, "/own", Reason.MISSING_KEY),
            ({"expected": None}, "/expected", Reason.WRONG_TYPE),
            ({"expected": {"x": PHONE}}, "/expected", Reason.WRONG_TYPE),
            ({"expected": [PHONE, PHONE.keys]}, "/expected/1", Reason.WRONG_TYPE),
            ({"expected": (1 // 0 for _ in "x")}, "/expected", Reason.INVALID_VALUE),
            ({"known": [None]}, "/known/0", Reason.WRONG_TYPE),
            ({"known": (1 // 0 for _ in "x")}, "/known", Reason.INVALID_VALUE),
            ({"expected": [device(BOB, "DESK", key=key_of(PHONE))]}, "/expected/0", Reason.INVALID_VALUE),
            (
                {"expected": [PHONE, device(ALICE, "PHONE", key=key_of(LAPTOP))]},
                "/expected/1",
                Reason.INVALID_VALUE,
            ),
            ({"plaintext": "{}"}, "/plaintext", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_what_is_handed_in_by_mistake_is_refused(self, change: Any, path: str, reason: Reason) -> None:
        assert refusal(lambda: said().judged(**change), LocalProtocolError) == (path, reason)

    def test_another_signing_key_is_another_device_too(self) -> None:
        """The same user, device id and Olm identity key, signed by somebody else."""
        other = DeviceKeys.build(
            user_id=ALICE.user_id,
            device_id="PHONE",
            curve25519_key=key_of(PHONE),
            signer=SampleUser("@x:y").device_signer("PHONE"),
        ).verify()
        assert refusal(lambda: said().judged(expected=[PHONE, other]), LocalProtocolError) == (
            "/expected/1",
            Reason.INVALID_VALUE,
        )

    @pytest.mark.parametrize("name", ["event", "plaintext", "own", "expected", "known"])
    def test_only_own_errors_come_out(self, name: str) -> None:
        it = said()
        right: dict[str, Any] = {
            "event": RoomEvent.from_json(it.event),
            "plaintext": json.dumps(it.payload).encode(),
            "own": DESK,
            "expected": [PHONE],
            "known": (),
        }
        assert only_own_errors(lambda value: check_room_payload(**{**right, name: value})) > 25

    @pytest.mark.parametrize(
        "place", ["event/content", "content/ciphertext", "content/sender_key", "ciphertext/x", "event/state_key"]
    )
    def test_only_own_errors_come_out_for_whatever_stands_in_an_event(self, place: str) -> None:
        """As a caller's own parser may have made it."""

        def judge(value: Any) -> None:
            it = said()
            content = it.event["content"]
            part, name = place.split("/")
            {"event": it.event, "content": content, "ciphertext": content["ciphertext"]}[part][name] = value
            it.judged()

        only_own_errors(judge)

    @pytest.mark.parametrize("name", ["type", "content", "room_id", "fingerprint", "state_key", "x"])
    def test_whatever_stands_inside_is_judged(self, name: str) -> None:
        for value in ODD:
            it = said()
            it.payload[name] = value
            try:
                plaintext = json.dumps(it.payload).encode()
            except Exception:  # noqa: BLE001 - no JSON
                continue
            judgment = it.judged(plaintext=plaintext)
            assert (judgment.event is None) is bool(judgment.failed)


class TestTheJudgment:
    def test_it_raises_for_the_first_failure_if_asked(self) -> None:
        it = said()
        it.payload |= {"room_id": "!x:y", "fingerprint": "?"}
        judgment = it.judged()
        with pytest.raises(VerificationError) as raised:
            judgment.require()
        assert (raised.value.reason, raised.value.path) == (Reason.ROOM_MISMATCH, "/plaintext/room_id")

    def test_there_is_no_truth_value(self) -> None:
        assert refusal(lambda: bool(said().judged()), LocalProtocolError) == ("", Reason.INVALID_VALUE)

    def test_only_a_check_makes_a_checked_payload(self) -> None:
        assert refusal(cast("Any", CheckedRoomPayload), LocalProtocolError)[1] is Reason.INVALID_VALUE

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"event": None}, "/event", Reason.INVALID_VALUE),
            ({"event": "x"}, "/event", Reason.INVALID_VALUE),
            ({"event": None, "failed": []}, "/failed", Reason.WRONG_TYPE),
            ({"event": None, "failed": ("x",)}, "/failed", Reason.WRONG_TYPE),
            ({"event": said().judged().event, "participants": "x"}, "/participants", Reason.WRONG_TYPE),
            (
                {
                    "event": said().judged().event,
                    "failed": (
                        FailedCheck(check=RoomPayloadCheck.ROOM, reason=Reason.ROOM_MISMATCH, detail="", path=""),
                    ),
                },
                "/event",
                Reason.INVALID_VALUE,
            ),
        ],
        ids=["nothing", "no payload", "a list", "no check", "no report", "both"],
    )
    def test_it_is_of_one_piece(self, arguments: Any, path: str, reason: Reason) -> None:
        assert refusal(lambda: RoomPayloadJudgment(**arguments), LocalProtocolError) == (path, reason)


# --------------------------------------------------------------------------------------------------------------
# With a real ratchet
# --------------------------------------------------------------------------------------------------------------


class Phone:
    """A device with an Olm account."""

    def __init__(self, user: SampleUser, device_id: str) -> None:
        self.account = vodozemac.Account()
        self.account.generate_one_time_keys(1)
        (self.one_time_key,) = self.account.one_time_keys.values()
        self.key = curve25519_of(self.account)
        self.device = DeviceKeys.build(
            user_id=user.user_id,
            device_id=device_id,
            curve25519_key=self.key,
            signer=VodozemacSigner.of(self.account, device_id),
        ).verify()

    def says(self, plaintext: bytes, *to: Phone) -> OlmEncryptedContent:
        """What it encrypts: the same for everybody."""
        messages: dict[Curve25519PublicKey, OlmCiphertext] = {}
        for other in to:
            session = self.account.create_outbound_session(other.account.curve25519_key, other.one_time_key)
            messages[other.key] = sealed_by(session, plaintext)
        return OlmEncryptedContent.build(sender_key=self.key, messages=messages)

    def opens(self, event: RoomEvent) -> bytes:
        content = OlmEncryptedContent.from_json(event.content)
        message = vodozemac.PreKeyMessage.from_base64(content.my_ciphertext(self.key).body)
        sender = vodozemac.Curve25519PublicKey.from_base64(content.sender_key.to_base64())
        _, plaintext = self.account.create_inbound_session(sender, message)
        return bytes(plaintext)


def sent(content: OlmEncryptedContent) -> RoomEvent:
    return RoomEvent(
        type="m.room.encrypted",
        sender=ALICE.user_id,
        content=content.to_json(),
        room_id=ROOM,
        event_id="$1",
        origin_server_ts=1,
    )


class TestWithARatchet:
    @pytest.fixture
    def phones(self) -> tuple[Phone, Phone, Phone, Phone]:
        return Phone(ALICE, "PHONE"), Phone(BOB, "DESK"), Phone(BOB, "TABLET"), Phone(MALLORY, "EVIL")

    def test_one_event_is_read_by_two_devices(self, phones: tuple[Phone, Phone, Phone, Phone]) -> None:
        alice, desk, tablet, _ = phones
        payload = LegacyRoomPayload.build(
            event_type="m.room.message",
            content={"body": "hello"},
            room_id=ROOM,
            participants=[alice.key, desk.key, tablet.key],
        )
        event = sent(alice.says(payload.encode(), desk, tablet))
        everybody = [alice.device, desk.device, tablet.device]
        for bob in (desk, tablet):
            plaintext = bob.opens(event)
            assert LegacyRoomPayload.from_bytes(plaintext) == payload
            checked = check_room_payload(event, plaintext, own=bob.device, expected=everybody).require()
            assert (checked.content, checked.sender) == ({"body": "hello"}, alice.device)
            assert checked.participants.fingerprint is FingerprintState.MATCH
            assert checked.participants.delivered.is_none
            one_time_key = Curve25519PublicKey.from_base64(bob.one_time_key.to_base64())
            assert checked.one_time_key == one_time_key

    @pytest.mark.parametrize("is_hidden", [False, True])
    @pytest.mark.parametrize("is_known", [False, True])
    def test_a_device_that_the_senders_server_sneaks_in_is_named(
        self, phones: tuple[Phone, Phone, Phone, Phone], is_hidden: bool, is_known: bool
    ) -> None:
        """Attack 35: Alice's server tells her of a device of Bob's that there is not, and she encrypts for it.

        ``is_hidden``: the server takes its message out of the event before Bob sees it.
        """
        alice, desk, tablet, evil = phones
        payload = LegacyRoomPayload.build(
            event_type="m.room.message",
            content={"body": "hello"},
            room_id=ROOM,
            participants=[alice.key, desk.key, tablet.key, evil.key],
        )
        seen = alice.says(payload.encode(), desk, tablet, evil)
        event = sent(seen)
        assert evil.opens(event) == payload.encode()
        if is_hidden:
            body = seen.to_json()
            del body["ciphertext"][evil.key.to_base64()]  # type: ignore[union-attr,arg-type]
            event = sent(OlmEncryptedContent.from_json(body))
        judgment = check_room_payload(
            event,
            desk.opens(event),
            own=desk.device,
            expected=[alice.device, desk.device, tablet.device],
            known=[evil.device] * is_known,
        )
        checks = [it.check for it in judgment.failed]
        assert checks == [RoomPayloadCheck.FINGERPRINT, RoomPayloadCheck.PARTICIPANTS][: 1 if is_hidden else 2]
        assert judgment.participants is not None
        if is_hidden and not is_known:
            assert (judgment.participants.unexpected, judgment.participants.stated) == ((), None)
        else:
            named = Participant(key=evil.key.to_base64(), devices=(evil.device,) * is_known)
            assert judgment.participants.unexpected == (named,)
            assert judgment.participants.stated is not None
            assert judgment.participants.stated.missing == ()
        assert judgment.participants.delivered.explains_fingerprint is not is_hidden
