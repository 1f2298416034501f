"""m.room.encrypted: what is around a ciphertext, which of the two it is, and for whom."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import vodozemac
from attrs import evolve
from hypothesis import given

from events.odd_values import HalfHostile, Hostile, Names, Number, Text, error_of, only_own_errors, refusal
from events.vodozemac_world import base64, curve25519_of, olm_message, olm_talk, raw
from json_strategies import modest, wild_values
from matrix_e2e_keys.algorithms import MEGOLM_V1, OLM_V1
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.encrypted import (
    ENCRYPTED,
    EncryptedContent,
    MegolmEncryptedContent,
    OlmCiphertext,
    OlmEncryptedContent,
    UnsupportedEncryptedContent,
    read_encrypted_content,
)
from matrix_e2e_keys.events.olm_formats import OlmMessageType
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.testing.samples import sample_curve25519_key

R = Reason
TALK = olm_talk()
ALICE, BOB, CAROL = curve25519_of(TALK.alice), curve25519_of(TALK.bob), sample_curve25519_key("carol")
MINE, OTHERS = BOB.to_base64(), CAROL.to_base64()
GOOD = TALK.pre_key.to_json()
GROUP = vodozemac.GroupSession()
GROUP_MESSAGE = GROUP.encrypt(b"{}").to_base64()


def olm(**ciphertext: Any) -> dict[str, Any]:
    return {
        "algorithm": OLM_V1,
        "sender_key": ALICE.to_base64(),
        "ciphertext": ciphertext or {MINE: GOOD},
    }


def megolm(**members: Any) -> dict[str, Any]:
    return {"algorithm": MEGOLM_V1, "session_id": GROUP.session_id, "ciphertext": GROUP_MESSAGE, **members}


def reading(obj: Any) -> tuple[str, Reason]:
    return refusal(lambda: read_encrypted_content(obj), RemoteProtocolError)


def read_olm(obj: Any) -> OlmEncryptedContent:
    content = read_encrypted_content(obj)
    assert type(content) is OlmEncryptedContent
    return content


def mine(obj: Any) -> tuple[str, Reason]:
    """Where and why there is no message for this device."""
    content = read_olm(obj)
    return refusal(lambda: content.my_ciphertext(BOB), RemoteProtocolError)


class TestWhichOfTheTwo:
    def test_the_algorithm_says(self) -> None:
        assert type(read_encrypted_content(olm())) is OlmEncryptedContent
        assert type(read_encrypted_content(megolm())) is MegolmEncryptedContent
        assert type(read_encrypted_content({"algorithm": "m.new"})) is UnsupportedEncryptedContent

    def test_the_shape_of_the_other_is_refused(self) -> None:
        """Attack 56: the rest has the shape of the other one, and only the algorithm decides."""
        assert reading({**olm(), "algorithm": MEGOLM_V1}) == ("", R.MISSING_MEMBER)
        assert reading({**megolm(), "algorithm": OLM_V1}) == ("", R.MISSING_MEMBER)
        assert reading({**olm(), "session_id": "x", "algorithm": MEGOLM_V1}) == ("/ciphertext", R.WRONG_TYPE)
        both = megolm(sender_key=ALICE.to_base64(), algorithm=OLM_V1)
        assert reading(both) == ("/ciphertext", R.WRONG_TYPE)

    def test_each_class_refuses_the_other_s_content(self) -> None:
        """Attack 56."""
        assert refusal(lambda: OlmEncryptedContent.from_json(megolm()), RemoteProtocolError) == (
            "/algorithm",
            R.WRONG_ALGORITHM,
        )
        assert refusal(lambda: MegolmEncryptedContent.from_json(olm()), RemoteProtocolError) == (
            "/algorithm",
            R.WRONG_ALGORITHM,
        )

    @pytest.mark.parametrize("algorithm", ["", "m.new"])
    def test_each_class_refuses_an_unknown_algorithm(self, algorithm: str) -> None:
        """Attack 56."""
        for kind, shape in ((OlmEncryptedContent, olm()), (MegolmEncryptedContent, megolm())):
            read = lambda kind=kind, shape=shape: kind.from_json({**shape, "algorithm": algorithm})  # noqa: E731
            assert refusal(read, RemoteProtocolError) == ("/algorithm", R.WRONG_ALGORITHM)

    def test_nobody_builds_one_with_the_other_s_algorithm(self) -> None:
        """Attack 56."""
        for content, algorithm in (
            (read_encrypted_content(olm()), MEGOLM_V1),
            (read_encrypted_content(megolm()), OLM_V1),
            (read_encrypted_content(megolm()), "m.new"),
        ):
            make = lambda content=content, algorithm=algorithm: evolve(content, algorithm=algorithm)  # noqa: E731
            assert refusal(make, LocalProtocolError) == ("/algorithm", R.WRONG_ALGORITHM)

    def test_a_ciphertext_of_the_other_kind_is_refused(self) -> None:
        """Attack 56: an Olm message is no Megolm message, nor the other way round."""
        assert reading(megolm(ciphertext=TALK.pre_key.body))[0] == "/ciphertext"
        assert reading(megolm(ciphertext=TALK.normal.body))[0] == "/ciphertext"
        for kind in (0, 1):
            assert mine(olm(**{MINE: {"type": kind, "body": GROUP_MESSAGE}}))[0] == f"/ciphertext/{pointer(MINE)}/body"

    @pytest.mark.parametrize("shape", [olm(), megolm()], ids=["olm", "megolm"])
    @pytest.mark.parametrize(
        ("algorithm", "reason"),
        [
            (None, R.WRONG_TYPE),
            (0, R.WRONG_TYPE),
            (True, R.WRONG_TYPE),
            ([OLM_V1], R.WRONG_TYPE),
            ({OLM_V1: MEGOLM_V1}, R.WRONG_TYPE),
            (Text(OLM_V1), R.NOT_A_JSON_VALUE),
            (1.5, R.NOT_AN_INTEGER),
            ("\ud800", R.LONE_SURROGATE),
        ],
        ids=repr,
    )
    def test_without_an_algorithm_it_is_nothing(self, shape: dict[str, Any], algorithm: Any, reason: Reason) -> None:
        """Attack 56."""
        assert reading({**shape, "algorithm": algorithm}) == ("/algorithm", reason)
        assert reading({name: value for name, value in shape.items() if name != "algorithm"}) == ("", R.MISSING_MEMBER)

    @pytest.mark.parametrize("shape", [olm(), megolm()], ids=["olm", "megolm"])
    @pytest.mark.parametrize("algorithm", ["", "m.new", OLM_V1.upper(), OLM_V1 + " ", MEGOLM_V1[:-1], "\x00" + OLM_V1])
    def test_an_unknown_algorithm_is_not_guessed(self, shape: dict[str, Any], algorithm: str) -> None:
        """Attack 56."""
        obj = {**shape, "algorithm": algorithm, "x": 1.5}
        content = read_encrypted_content(obj)
        assert type(content) is UnsupportedEncryptedContent
        assert (content.algorithm, content.content) == (algorithm, obj)
        obj["ciphertext"] = 5
        assert content.content["ciphertext"] != 5

    def test_an_algorithm_that_stands_twice_is_refused(self) -> None:
        """Attack 56."""
        document = json.dumps(olm())[:-1] + f', "algorithm": "{MEGOLM_V1}"}}'
        assert reading(parse_frame(document)) == ("/algorithm", R.DUPLICATE_MEMBER)

    @pytest.mark.parametrize("obj", [None, [], "x", 5, True, 1.5])
    def test_what_is_no_object_is_refused(self, obj: Any) -> None:
        assert reading(obj)[0] == ""

    def test_a_duplicate_in_an_unknown_content_is_refused(self) -> None:
        assert reading(parse_frame('{"algorithm": "m.new", "a": {"b": 1, "b": 1}}')) == ("/a/b", R.DUPLICATE_MEMBER)

    def test_the_content_of_an_event_is_read_as_it_is(self) -> None:
        event = ToDeviceEvent(type=ENCRYPTED, sender="@a:b", content=olm())
        assert read_encrypted_content(event.content) == read_encrypted_content(olm())
        unknown = read_encrypted_content({"algorithm": "m.new", "x": 2**60})
        assert type(unknown) is UnsupportedEncryptedContent
        assert read_encrypted_content(unknown.content) == unknown

    def test_the_types(self) -> None:
        assert OlmEncryptedContent.event_type == MegolmEncryptedContent.event_type == ENCRYPTED == "m.room.encrypted"


def pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def frame(ciphertext: str) -> Any:
    """A content that came as bytes."""
    return parse_frame(f'{{"algorithm": "{OLM_V1}", "sender_key": "{ALICE.to_base64()}", "ciphertext": {ciphertext}}}')


BAD_ENTRIES: dict[str, tuple[Any, str, Reason]] = {
    "type true": ({**GOOD, "type": True}, "/type", R.WRONG_TYPE),
    "type false": ({**GOOD, "type": False}, "/type", R.WRONG_TYPE),
    "type 0.0": ({**GOOD, "type": 0.0}, "/type", R.NOT_AN_INTEGER),
    "type 1.0": ({**GOOD, "type": 1.0}, "/type", R.NOT_AN_INTEGER),
    "type 2": ({**GOOD, "type": 2}, "/type", R.INVALID_VALUE),
    "type -1": ({**GOOD, "type": -1}, "/type", R.INVALID_VALUE),
    "type huge": ({**GOOD, "type": 2**70}, "/type", R.INTEGER_OUT_OF_RANGE),
    "type text": ({**GOOD, "type": "0"}, "/type", R.WRONG_TYPE),
    "type null": ({**GOOD, "type": None}, "/type", R.WRONG_TYPE),
    "type array": ({**GOOD, "type": [0]}, "/type", R.WRONG_TYPE),
    "type of a class": ({**GOOD, "type": Number(0)}, "/type", R.NOT_A_JSON_VALUE),
    "no type": ({"body": GOOD["body"]}, "", R.MISSING_MEMBER),
    "no body": ({"type": 0}, "", R.MISSING_MEMBER),
    "body empty": ({"type": 0, "body": ""}, "/body", R.INVALID_BASE64),
    "body null": ({"type": 0, "body": None}, "/body", R.WRONG_TYPE),
    "body array": ({"type": 0, "body": [GOOD["body"]]}, "/body", R.WRONG_TYPE),
    "body no base64": ({"type": 0, "body": "!" + TALK.pre_key.body}, "/body", R.INVALID_BASE64),
    "body url-safe": ({"type": 0, "body": "A_-" + TALK.pre_key.body}, "/body", R.INVALID_BASE64),
    "version 2": ({"type": 0, "body": base64(b"\x02" + TALK.pre_key.message[1:])}, "/body", R.INVALID_VALUE),
    "version 4": ({"type": 0, "body": base64(b"\x04" + TALK.pre_key.message[1:])}, "/body", R.INVALID_VALUE),
    "only a version": ({"type": 0, "body": base64(b"\x03")}, "/body", R.MISSING_MEMBER),
    "cut off": ({"type": 0, "body": base64(TALK.pre_key.message[:-1])}, "/body", R.WRONG_LENGTH),
    "null": (None, "", R.WRONG_TYPE),
    "array": ([GOOD], "", R.WRONG_TYPE),
    "text": (TALK.pre_key.body, "", R.WRONG_TYPE),
    "nan beside": ({**GOOD, "x": float("nan")}, "/x", R.NOT_AN_INTEGER),
}

BAD_NAMES: dict[str, tuple[str, Reason]] = {
    "empty": ("", R.WRONG_LENGTH),
    "short": (base64(CAROL.raw[:31]), R.WRONG_LENGTH),
    "long": (base64(CAROL.raw + b"x"), R.WRONG_LENGTH),
    "zero": (base64(bytes(32)), R.WEAK_KEY),
    "low order": (base64(b"\x01" + bytes(31)), R.WEAK_KEY),
    "not reduced": (base64(b"\xff" * 32), R.NON_CANONICAL_KEY),
    "no base64": ("!" * 43, R.INVALID_BASE64),
    "padded": (OTHERS + "=", R.INVALID_BASE64),
    "device id": ("PHONE", R.INVALID_BASE64),
    "lone surrogate": ("\ud800", R.INVALID_BASE64),
    "a/b~c": ("a/b~c", R.INVALID_BASE64),
}


class TestOlmForThisDevice:
    def test_a_real_message_arrives(self) -> None:
        content = OlmEncryptedContent.build(sender_key=ALICE, messages={BOB: TALK.pre_key})
        arrived = read_encrypted_content(json.loads(json.dumps(content.to_json())))
        assert arrived == content
        assert type(arrived) is OlmEncryptedContent
        entry = arrived.my_ciphertext(BOB)
        assert entry == TALK.pre_key
        assert entry.pre_key_header is not None
        assert entry.pre_key_header.one_time_key == TALK.one_time_key
        assert entry.pre_key_header.identity_key == arrived.sender_key
        assert TALK.normal.pre_key_header is None
        assert TALK.normal.message_type is OlmMessageType.NORMAL
        assert TALK.session.decrypt(olm_message(TALK.normal)) == b'{"a":"normal"}'

    @pytest.mark.parametrize("name", BAD_ENTRIES)
    def test_what_is_malformed_is_refused_when_it_is_ours(self, name: str) -> None:
        """Attack 60."""
        entry, path, reason = BAD_ENTRIES[name]
        assert mine(olm(**{MINE: entry, OTHERS: GOOD})) == (f"/ciphertext/{pointer(MINE)}{path}", reason)

    @pytest.mark.parametrize("name", BAD_ENTRIES)
    def test_what_is_malformed_is_harmless_when_it_is_somebody_else_s(self, name: str) -> None:
        """Attack 60."""
        entry, path, reason = BAD_ENTRIES[name]
        content = read_olm(olm(**{OTHERS: entry, MINE: GOOD}))
        assert content.my_ciphertext(BOB) == TALK.pre_key
        rejection = content.ciphertext[OTHERS]
        assert type(rejection) is Rejection
        assert (rejection.path, rejection.reason) == (f"/ciphertext/{pointer(OTHERS)}{path}", reason)

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_a_name_that_is_no_key_is_harmless(self, name: str) -> None:
        """Attack 60."""
        text, reason = BAD_NAMES[name]
        content = read_olm(olm(**{text: GOOD, MINE: GOOD}))
        assert content.my_ciphertext(BOB) == TALK.pre_key
        rejection = content.ciphertext[text]
        assert type(rejection) is Rejection
        assert rejection.reason is reason
        assert rejection.path.count("/") == 2

    def test_our_key_twice_is_refused(self) -> None:
        """Attack 60."""
        good = json.dumps(GOOD)
        obj = frame(f'{{"{MINE}": {good}, "{MINE}": {good}, "{OTHERS}": {good}}}')
        assert mine(obj) == (f"/ciphertext/{pointer(MINE)}", R.DUPLICATE_MEMBER)
        assert read_olm(obj).my_ciphertext(CAROL) == TALK.pre_key
        assert mine(frame(f'{{"{MINE}": {good[:-1]}, "body": "AwA"}}}}')) == (
            f"/ciphertext/{pointer(MINE)}/body",
            R.DUPLICATE_MEMBER,
        )

    def test_what_is_marked_in_a_frame_costs_what_it_stands_in(self) -> None:
        good = json.dumps(GOOD)
        for wrong in (f'{good}, "{OTHERS}": {good}', "NaN", f'{good[:-1]}, "x": 1e999}}', "[" * 300 + "]" * 300):
            obj = frame(f'{{"{OTHERS}": {wrong}, "{MINE}": {good}}}')
            assert read_olm(obj).my_ciphertext(BOB) == TALK.pre_key
        assert reading(frame(f'{{"{MINE}": {good}}}, "ciphertext": {{}}')) == ("/ciphertext", R.DUPLICATE_MEMBER)
        assert reading(frame("{}, " + f'"sender_key": "{ALICE.to_base64()}"')) == ("/sender_key", R.DUPLICATE_MEMBER)

    def _spellings(self) -> list[str]:
        spare = MINE[:-1] + chr(ord(MINE[-1]) + 1)  # the same bytes, with a spare bit that is not zero
        return [MINE + "=", MINE + "==", spare, MINE + " ", "\n" + MINE, MINE.replace("+", "-").replace("/", "_") + "."]

    def test_our_key_in_two_spellings_is_refused(self) -> None:
        """Attack 60: one reader would take the one message, another reader the other."""
        for spelling in self._spellings():
            for order in itertools.permutations([MINE, spelling]):
                obj = olm(**dict.fromkeys(order, GOOD))
                assert mine(obj) == ("/ciphertext", R.DUPLICATE_MEMBER)

    def test_our_key_in_another_spelling_is_refused(self) -> None:
        """Attack 60."""
        for spelling in self._spellings():
            path, reason = mine(olm(**{spelling: GOOD}))
            assert (path, reason) == (f"/ciphertext/{pointer(spelling)}", R.INVALID_BASE64)

    @pytest.mark.parametrize("ciphertext", [{OTHERS: GOOD}, {"x": GOOD}, {OTHERS: None}])
    def test_nothing_for_this_device(self, ciphertext: Any) -> None:
        assert mine(olm(**ciphertext)) == ("/ciphertext", R.NOT_FOR_THIS_DEVICE)
        assert mine({**olm(), "ciphertext": {}}) == ("/ciphertext", R.NOT_FOR_THIS_DEVICE)

    @pytest.mark.parametrize("ciphertext", [None, [], TALK.pre_key.body, 5, [MINE]])
    def test_a_ciphertext_that_is_no_map(self, ciphertext: Any) -> None:
        assert reading({**olm(), "ciphertext": ciphertext}) == ("/ciphertext", R.WRONG_TYPE)

    @pytest.mark.parametrize(
        ("sender_key", "reason"),
        [
            (None, R.WRONG_TYPE),
            (5, R.WRONG_TYPE),
            ("", R.WRONG_LENGTH),
            ("x", R.INVALID_BASE64),
            ("A" * 43, R.WEAK_KEY),
        ],
    )
    def test_a_sender_key_that_is_none(self, sender_key: Any, reason: Reason) -> None:
        assert reading({**olm(), "sender_key": sender_key}) == ("/sender_key", reason)

    def test_a_pre_key_message_that_names_no_keys(self) -> None:
        data = TALK.pre_key.message
        place = data.index(TALK.one_time_key.raw)
        body = base64(data[:place] + bytes(32) + data[place + 32 :])
        entry = read_olm(olm(**{MINE: {"type": 0, "body": body}})).my_ciphertext(BOB)
        assert refusal(lambda: entry.pre_key_header, RemoteProtocolError) == ("", R.WEAK_KEY)


class TestOlmBothDirections:
    def test_what_was_set_aside_is_refused_again(self) -> None:
        for entry, _, _ in BAD_ENTRIES.values():
            content = read_olm(olm(**{OTHERS: entry, MINE: GOOD}))
            written = json.loads(json.dumps(content.to_json()))
            again = read_olm(written)
            assert type(again.ciphertext[OTHERS]) is Rejection
            assert again.my_ciphertext(BOB) == TALK.pre_key
            assert read_olm(again.to_json()) == again

    def test_what_stood_twice_does_not_come_out_as_good(self) -> None:
        """Attack 60."""
        good = json.dumps(GOOD)
        for wrong in (f'{{"{MINE}": {good}, "{MINE}": {good}}}', f'{{"{MINE}": {good[:-1]}, "type": 0}}}}'):
            written: Any = read_olm(frame(wrong)).to_json()
            assert written["ciphertext"] == {MINE: None}

    def test_what_the_specification_does_not_name_is_kept(self) -> None:
        obj = {**olm(**{MINE: {**GOOD, "org.example": [1.5]}}), "org.matrix.msgid": "x"}
        content = read_olm(obj)
        assert content.to_json() == obj
        assert content.extra == {"org.matrix.msgid": "x"}
        assert content.my_ciphertext(BOB).extra == {"org.example": [1.5]}
        assert OlmEncryptedContent.from_json(content.to_json()) == content

    def test_several_recipients(self) -> None:
        content = OlmEncryptedContent.build(sender_key=ALICE, messages={BOB: TALK.pre_key, CAROL: TALK.normal})
        assert content.my_ciphertext(BOB) == TALK.pre_key
        assert content.my_ciphertext(CAROL) == TALK.normal
        assert content.to_json() == {
            "algorithm": OLM_V1,
            "sender_key": ALICE.to_base64(),
            "ciphertext": {MINE: GOOD, OTHERS: TALK.normal.to_json()},
        }

    def test_nothing_is_shared(self) -> None:
        obj = olm(**{MINE: {**GOOD, "x": []}})
        content = read_olm(obj)
        obj["ciphertext"][MINE]["x"].append(1)
        obj["ciphertext"].clear()
        assert content.my_ciphertext(BOB).extra == {"x": []}
        messages = {BOB: TALK.pre_key}
        built = OlmEncryptedContent.build(sender_key=ALICE, messages=messages)
        messages.clear()
        assert built.my_ciphertext(BOB) == TALK.pre_key
        extra: dict[str, Any] = {"x": []}
        entry = OlmCiphertext(message_type=OlmMessageType.PRE_KEY, body=TALK.pre_key.body, extra=extra)
        extra["x"].append(1)
        assert entry.extra == {"x": []}

    @pytest.mark.parametrize(
        ("messages", "path", "reason"),
        [
            ({}, "/messages", R.INVALID_VALUE),
            (None, "/messages", R.WRONG_TYPE),
            ([(BOB, TALK.pre_key)], "/messages", R.WRONG_TYPE),
            ({MINE: TALK.pre_key}, "/messages", R.WRONG_TYPE),
            ({BOB: TALK.pre_key, MINE: TALK.pre_key}, "/messages", R.WRONG_TYPE),
            ({BOB: GOOD}, f"/messages/{pointer(MINE)}", R.WRONG_TYPE),
            ({BOB: None}, f"/messages/{pointer(MINE)}", R.WRONG_TYPE),
            ({BOB: Rejection(path="", reason=R.WRONG_TYPE, detail="")}, f"/messages/{pointer(MINE)}", R.WRONG_TYPE),
            (Hostile(), "/messages", R.INVALID_VALUE),
            (HalfHostile(), "/messages", R.INVALID_VALUE),
        ],
        ids=repr,
    )
    def test_messages_that_cannot_be_built(self, messages: Any, path: str, reason: Reason) -> None:
        make = lambda: OlmEncryptedContent.build(sender_key=ALICE, messages=messages)  # noqa: E731
        assert refusal(make, LocalProtocolError) == (path, reason)

    def test_a_mapping_of_any_class_is_taken(self) -> None:
        built = OlmEncryptedContent.build(sender_key=ALICE, messages=Names({BOB: TALK.pre_key}))
        assert built.my_ciphertext(BOB) == TALK.pre_key

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_a_message_stands_under_a_key(self, name: str) -> None:
        text, reason = BAD_NAMES[name]
        make = lambda: OlmEncryptedContent(sender_key=ALICE, ciphertext={text: TALK.pre_key})  # noqa: E731
        path, why = refusal(make, LocalProtocolError)
        assert why is reason
        assert path.startswith("/ciphertext/")
        assert path.count("/") == 2

    def test_a_rejection_may_stand_anywhere(self) -> None:
        rejection = Rejection(path="/x", reason=R.WRONG_TYPE, detail="no", raw=5)
        content = OlmEncryptedContent(sender_key=ALICE, ciphertext={"a": rejection, MINE: rejection})
        assert refusal(lambda: content.my_ciphertext(BOB), RemoteProtocolError) == ("/x", R.WRONG_TYPE)
        assert content.to_json()["ciphertext"] == {"a": 5, MINE: 5}
        made = Rejection(path="/x", reason=R.WRONG_TYPE, detail="no", raw=object())
        content = OlmEncryptedContent(sender_key=ALICE, ciphertext={"a": made})
        assert content.to_json()["ciphertext"] == {"a": None}


class TestOlmCiphertext:
    @pytest.mark.parametrize("message", [TALK.pre_key, TALK.normal], ids=["pre-key", "normal"])
    def test_what_a_ratchet_has_encrypted(self, message: OlmCiphertext) -> None:
        parts = (int(message.message_type), message.message)
        assert OlmCiphertext.from_parts(*parts) == message
        assert olm_message(message).to_parts() == parts
        padded = message.body + "=" * (-len(message.body) % 4)
        assert OlmCiphertext(message_type=message.message_type, body=padded).message == message.message

    @pytest.mark.parametrize(
        ("message_type", "message", "path", "reason"),
        [
            (True, TALK.normal.message, "/message_type", R.INVALID_VALUE),
            (1.0, TALK.normal.message, "/message_type", R.INVALID_VALUE),
            (2, TALK.normal.message, "/message_type", R.INVALID_VALUE),
            (-1, TALK.normal.message, "/message_type", R.INVALID_VALUE),
            ("0", TALK.normal.message, "/message_type", R.INVALID_VALUE),
            (None, TALK.normal.message, "/message_type", R.INVALID_VALUE),
            (0, None, "/message", R.WRONG_TYPE),
            (0, TALK.pre_key.body, "/message", R.WRONG_TYPE),
            (0, bytearray(TALK.pre_key.message), "/message", R.WRONG_TYPE),
            (0, b"", "/message", R.INVALID_BASE64),
            (0, b"\x04" + TALK.pre_key.message[1:], "/message", R.INVALID_VALUE),
            (0, TALK.pre_key.message[:-1], "/message", R.WRONG_LENGTH),
        ],
    )
    def test_what_no_ratchet_has_encrypted(self, message_type: Any, message: Any, path: str, reason: Reason) -> None:
        make = lambda: OlmCiphertext.from_parts(message_type, message)  # noqa: E731
        assert refusal(make, LocalProtocolError) == (path, reason)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"message_type": 0}, "/message_type", R.WRONG_TYPE),
            ({"message_type": None}, "/message_type", R.WRONG_TYPE),
            ({"body": ""}, "/body", R.INVALID_BASE64),
            ({"body": TALK.pre_key.message}, "/body", R.WRONG_TYPE),
            ({"extra": {"type": 1}}, "/extra/type", R.INVALID_VALUE),
            ({"extra": {"body": ""}}, "/extra/body", R.INVALID_VALUE),
            ({"extra": Hostile()}, "/extra", R.INVALID_VALUE),
            ({"extra": None}, "/extra", R.WRONG_TYPE),
        ],
    )
    def test_what_cannot_be_built(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        good = {"message_type": OlmMessageType.PRE_KEY, "body": TALK.pre_key.body}
        assert refusal(lambda: OlmCiphertext(**{**good, **members}), LocalProtocolError) == (path, reason)


class TestMegolm:
    def test_a_real_message_arrives(self) -> None:
        session = vodozemac.GroupSession()
        inbound = vodozemac.InboundGroupSession(session.session_key)
        for index in range(3):
            built = MegolmEncryptedContent.build(
                session_id=session.session_id, ciphertext=session.encrypt(b"{}").to_base64(), relates_to=None
            )
            assert built.message_index == index
            arrived = read_encrypted_content(json.loads(json.dumps(built.to_json())))
            assert arrived == built
            assert type(arrived) is MegolmEncryptedContent
            opened = inbound.decrypt(vodozemac.MegolmMessage.from_base64(arrived.ciphertext))
            assert (opened.plaintext, opened.message_index) == (b"{}", arrived.message_index)

    def test_what_is_sent_along(self) -> None:
        relation = {"rel_type": "m.thread", "event_id": "$x"}
        built = MegolmEncryptedContent.build(
            session_id="s",
            ciphertext=GROUP_MESSAGE,
            sender_key=ALICE,
            sender_device_id="PHONE",
            relates_to=relation,
        )
        assert built.to_json() == {
            "algorithm": MEGOLM_V1,
            "session_id": "s",
            "ciphertext": GROUP_MESSAGE,
            "sender_key": ALICE.to_base64(),
            "device_id": "PHONE",
            "m.relates_to": relation,
        }
        assert read_encrypted_content(built.to_json()) == built
        relation["event_id"] = "$y"
        assert built.relates_to == {"rel_type": "m.thread", "event_id": "$x"}

    def test_who_sent_it_is_untrusted_and_may_be_anything(self) -> None:
        """Attack 58: the members that may not be used are kept as text, and under a name that says so."""
        content = read_encrypted_content(megolm(sender_key="not a key", device_id=""))
        assert type(content) is MegolmEncryptedContent
        assert (content.untrusted_sender_key, content.untrusted_device_id) == ("not a key", "")
        assert not hasattr(content, "sender_key")
        assert not hasattr(content, "device_id")
        assert not {"sender_key", "device_id"} & set(content.extra)
        bare = read_encrypted_content(megolm())
        assert type(bare) is MegolmEncryptedContent
        assert (bare.untrusted_sender_key, bare.untrusted_device_id, bare.relates_to) == (None, None, None)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"session_id": ""}, "/session_id", R.INVALID_VALUE),
            ({"session_id": None}, "/session_id", R.WRONG_TYPE),
            ({"session_id": 5}, "/session_id", R.WRONG_TYPE),
            ({"ciphertext": ""}, "/ciphertext", R.INVALID_BASE64),
            ({"ciphertext": None}, "/ciphertext", R.WRONG_TYPE),
            ({"ciphertext": {}}, "/ciphertext", R.WRONG_TYPE),
            ({"ciphertext": "!" + GROUP_MESSAGE}, "/ciphertext", R.INVALID_BASE64),
            ({"ciphertext": base64(b"\x02" + raw(GROUP_MESSAGE)[1:])}, "/ciphertext", R.INVALID_VALUE),
            ({"ciphertext": base64(raw(GROUP_MESSAGE)[:72])}, "/ciphertext", R.WRONG_LENGTH),
            ({"sender_key": 5}, "/sender_key", R.WRONG_TYPE),
            ({"device_id": []}, "/device_id", R.WRONG_TYPE),
            ({"m.relates_to": []}, "/m.relates_to", R.WRONG_TYPE),
            ({"m.relates_to": {"x": float("nan")}}, "/m.relates_to/x", R.NOT_AN_INTEGER),
        ],
    )
    def test_what_is_malformed_is_refused(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        assert reading(megolm(**members)) == (path, reason)

    @pytest.mark.parametrize("name", ["session_id", "ciphertext"])
    def test_what_is_missing_is_refused(self, name: str) -> None:
        obj = megolm()
        del obj[name]
        assert reading(obj) == ("", R.MISSING_MEMBER)

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"session_id": ""}, "/session_id", R.INVALID_VALUE),
            ({"session_id": None}, "/session_id", R.WRONG_TYPE),
            ({"ciphertext": "AwA"}, "/ciphertext", R.WRONG_LENGTH),
            ({"ciphertext": b""}, "/ciphertext", R.WRONG_TYPE),
            ({"sender_key": ALICE.to_base64()}, "/sender_key", R.WRONG_TYPE),
            ({"sender_device_id": ""}, "/sender_device_id", R.INVALID_IDENTIFIER),
            ({"sender_device_id": 5}, "/sender_device_id", R.WRONG_TYPE),
            ({"relates_to": []}, "/m.relates_to", R.WRONG_TYPE),
            ({"relates_to": Hostile()}, "/m.relates_to", R.INVALID_VALUE),
        ],
    )
    def test_what_cannot_be_built(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        good = {"session_id": "s", "ciphertext": GROUP_MESSAGE, "relates_to": None}
        make = lambda: MegolmEncryptedContent.build(**{**good, **arguments})  # noqa: E731
        assert refusal(make, LocalProtocolError) == (path, reason)

    def test_the_ciphertext_is_in_no_error(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            read_encrypted_content(megolm(ciphertext=GROUP_MESSAGE[:90]))
        assert GROUP_MESSAGE[8:16] not in str(caught.value)


class TestTheSpecification:
    """Its own examples: their ciphertexts are left out after a few bytes, and so are refused, where they stand."""

    OLM_SENDER = "Szl29ksW/L8yZGWAX+8dY1XyFi+i5wm+DRhTGkbMiwU"
    OLM_RECIPIENT = "7qZcfnBmbEGzxxaWfBjElJuvn7BZx+lSz/SvFrDF/z8"

    def test_olm(self) -> None:
        entry = {"type": 0, "body": "AwogGJJzMhf/S3GQFXAOrCZ3iKyGU5ZScVtjI0KypTYrW..."}
        obj = {"algorithm": OLM_V1, "sender_key": self.OLM_SENDER, "ciphertext": {self.OLM_RECIPIENT: entry}}
        recipient = Curve25519PublicKey.from_base64(self.OLM_RECIPIENT)
        content = read_olm(obj)
        path = f"/ciphertext/{pointer(self.OLM_RECIPIENT)}/body"
        assert refusal(lambda: content.my_ciphertext(recipient), RemoteProtocolError) == (path, R.INVALID_BASE64)
        assert content.to_json() == obj
        entry["body"] = TALK.pre_key.body
        assert read_olm(obj).my_ciphertext(recipient) == TALK.pre_key

    def test_megolm(self) -> None:
        obj = {
            "algorithm": MEGOLM_V1,
            "ciphertext": "AwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVchHyprqTqsg...",
            "device_id": "RJYKSTBOIE",
            "sender_key": "IlRMeOPX2e0MurIyfWEucYBRVOEEUMrOHqn/8mLqMjA",
            "session_id": "X3lUlvLELLYxeTx4yOVu6UDpasGEVO0Jbu+QFnm0cKQ",
        }
        assert reading(obj) == ("/ciphertext", R.INVALID_BASE64)
        content = read_encrypted_content({**obj, "ciphertext": GROUP_MESSAGE})
        assert type(content) is MegolmEncryptedContent
        assert content.to_json() == {**obj, "ciphertext": GROUP_MESSAGE}


class TestAnything:
    """Nothing foreign comes out of any function, for any argument."""

    def test_each_argument(self) -> None:
        contents: list[EncryptedContent] = [read_encrypted_content(olm()), read_encrypted_content(megolm())]
        olm_content = read_olm(olm())
        calls: list[Any] = [
            read_encrypted_content,
            OlmEncryptedContent.from_json,
            MegolmEncryptedContent.from_json,
            olm_content.my_ciphertext,
            lambda value: OlmCiphertext.from_parts(value, b""),
            lambda value: OlmCiphertext.from_parts(0, value),
            lambda value: OlmCiphertext(message_type=value, body=TALK.pre_key.body),
            lambda value: OlmCiphertext(message_type=OlmMessageType.NORMAL, body=value),
            lambda value: evolve(TALK.pre_key, extra=value),
            lambda value: OlmEncryptedContent.build(sender_key=value, messages={BOB: TALK.pre_key}),
            lambda value: OlmEncryptedContent.build(sender_key=ALICE, messages=value),
            lambda value: OlmEncryptedContent.build(sender_key=ALICE, messages={BOB: value}),
            lambda value: OlmEncryptedContent(sender_key=ALICE, ciphertext={MINE: value}),
        ]
        for call in calls:
            assert only_own_errors(call) > 25
        for name in ("algorithm", "sender_key", "ciphertext", "extra"):
            assert only_own_errors(lambda value, name=name: evolve(olm_content, **{name: value})) > 20
            assert only_own_errors(lambda value, name=name: read_encrypted_content({**olm(), name: value})) > 10
        names = ("algorithm", "session_id", "ciphertext", "untrusted_sender_key", "untrusted_device_id", "relates_to")
        for name in (*names, "extra"):
            assert only_own_errors(lambda value, name=name: evolve(contents[1], **{name: value})) > 20
        good = {"session_id": "s", "ciphertext": GROUP_MESSAGE, "relates_to": None}
        for name in ("session_id", "ciphertext", "sender_key", "sender_device_id", "relates_to"):
            build = lambda value, name=name: MegolmEncryptedContent.build(**{**good, name: value})  # noqa: E731
            assert only_own_errors(build) > 20

    @modest
    @given(wild_values)
    def test_any_value(self, value: Any) -> None:
        for obj in (
            value,
            olm(**{MINE: value}),
            olm(x=value),
            {**megolm(), "x": value},
            {**olm(), "ciphertext": value},
        ):
            error = error_of(lambda obj=obj: read_encrypted_content(obj))
            assert type(error) in (RemoteProtocolError, type(None))
            content = None if error else read_encrypted_content(obj)
            if type(content) is OlmEncryptedContent:
                with pytest.raises(RemoteProtocolError):
                    content.my_ciphertext(BOB)
                again = OlmEncryptedContent.from_json(content.to_json())
                assert OlmEncryptedContent.from_json(again.to_json()) == again
            elif type(content) is MegolmEncryptedContent:
                assert MegolmEncryptedContent.from_json(content.to_json()) == content
