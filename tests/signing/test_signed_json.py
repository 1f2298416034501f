"""The signed object as a value: what is signed, who must have signed, and what everything else is worth."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import few, modest, nested, safe_objects, safe_values, wild_values, with_frames_left
from matrix_e2e_keys import (
    LIBSODIUM,
    E2EKeysError,
    Ed25519PublicKey,
    Ed25519SecretKey,
    Ed25519Signature,
    JsonLimits,
    KeyId,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    SignatureCheck,
    SignedJson,
    VerificationError,
    encode_canonical_json,
    sign_json,
    verify_json,
)
from matrix_e2e_keys.errors import Refusal
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import RefusedPlace
from matrix_e2e_keys.signing.signed_json import SignedParts, ask, parts_of, read_signed_objects

SECRET = Ed25519SecretKey(bytes(range(32)))
OTHER = Ed25519SecretKey(bytes(32))
KEY = SECRET.public_key
SIGNER = SECRET.signer("ed25519:A")
ALICE = "@alice:example.org"
QUESTION: dict[str, Any] = {"entity": ALICE, "key_id": "ed25519:A", "key": KEY}


def signed(obj: dict[str, Any]) -> dict[str, Any]:
    return sign_json(obj, entity=ALICE, signer=SIGNER)


def verdict(obj: object, **changes: Any) -> Reason | None:
    """Return why ``obj`` does not pass, ``None`` if it does."""
    try:
        verify_json(obj, **{**QUESTION, **changes})
    except E2EKeysError as error:
        str(error).encode()
        return error.reason
    return None


SAMPLE = {
    "user_id": ALICE,
    "list": [1, [True, None], {"x": "é", "y": -5}],
    "unsigned inside": {"unsigned": {"a": 1}, "signatures": {ALICE: {"ed25519:A": "x"}}},
    "": "😀\n",
}

# -- attack 3: what is covered ---------------------------------------------------------------------------------


def places_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    members: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for name, member in members for place in places_of(member, (*at, name)))]


def changed(value: Any, place: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not place:
        return change(value)
    value = copy.copy(value)
    value[place[0]] = changed(value[place[0]], place[1:], change)
    return value


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another value": lambda value: "something else",
    "wrapped": lambda value: [value],
    "a member more": lambda value: {**value, "new": None} if isinstance(value, dict) else {"new": value},
    "a member less": lambda value: dict(list(value.items())[1:]) if isinstance(value, dict) and value else None,
    "an item more": lambda value: [*value, None] if isinstance(value, list) else [None],
    "order": lambda value: value[::-1] if isinstance(value, list) and value != value[::-1] else "reversed",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_any_change_of_the_content_is_noticed(change: Callable[[Any], Any]) -> None:
    """attack 3: every place of the object, also inside nested signatures and unsigned."""
    whole = signed(SAMPLE)
    assert verdict(whole) is None
    for place in places_of(SAMPLE):
        before = json.dumps(whole)
        altered = changed(whole, place, change)
        if json.dumps(altered, sort_keys=True) != json.dumps(whole, sort_keys=True):
            assert verdict(altered) is not None, place
        assert json.dumps(whole) == before


@pytest.mark.parametrize("bit", [1, 2, 4, 8, 16, 32, 64, 128])
def test_any_change_of_a_byte_of_the_content_is_noticed(bit: int) -> None:
    """attack 3: in the bytes as they travel."""
    canonical = encode_canonical_json(SAMPLE)
    tail = b',"signatures":' + encode_canonical_json(signed(SAMPLE)["signatures"]) + b',"unsigned":{"a":1.5}}'
    SignedJson.from_bytes(canonical[:-1] + tail).verify(**QUESTION)
    for at in range(len(canonical) - 1):
        altered = bytearray(canonical[:-1])
        altered[at] ^= bit
        with pytest.raises(E2EKeysError):
            SignedJson.from_bytes(bytes(altered) + tail).verify(**QUESTION)


OUTSIDE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unsigned added": lambda obj: {**obj, "unsigned": {"age": 1}},
    "unsigned that is no object": lambda obj: {**obj, "unsigned": None},
    "unsigned with a float": lambda obj: {**obj, "unsigned": {"age": 1.5, "x": [float("nan")]}},
    "unsigned with a lone surrogate": lambda obj: {**obj, "unsigned": {"\ud800": "\udfff"}},
    "unsigned with Python values": lambda obj: {**obj, "unsigned": {"a": (1,), 2: b""}},
    "unsigned nested too deeply": lambda obj: {**obj, "unsigned": nested(500)},
    "unsigned that is huge": lambda obj: {**obj, "unsigned": 10**5000},
    "another signature": lambda obj: changed(obj, ("signatures", ALICE), lambda by: {**by, "ed25519:B": "x"}),
    "another entity": lambda obj: changed(obj, ("signatures",), lambda all_of: {**all_of, "@b:c": {"ed25519:A": ""}}),
    "an entity without signatures": lambda obj: changed(obj, ("signatures",), lambda all_of: {**all_of, "x": {}}),
    "a signature that cannot be encoded": lambda obj: changed(
        obj, ("signatures",), lambda all_of: {**all_of, "\ud800": {"\ud800": "\ud800"}}
    ),
    "order of members": lambda obj: dict(reversed(obj.items())),
    "padding": lambda obj: changed(obj, ("signatures", ALICE, "ed25519:A"), lambda text: text + "=="),
    "another order": lambda obj: {"signatures": obj["signatures"], **{name: obj[name] for name in sorted(obj)}},
}


@pytest.mark.parametrize("change", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_changes_outside_the_content_do_not_matter(change: Callable[[dict[str, Any]], Any]) -> None:
    """attack 3: signatures and unsigned at the top are not covered."""
    assert verdict(change(signed(SAMPLE))) is None


@few
@given(safe_objects, safe_values, st.data())
def test_content_is_covered_and_the_rest_is_not(obj: dict[str, Any], other: Any, data: st.DataObject) -> None:
    """attack 3: for any object."""
    obj = {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")}
    whole = signed(obj)
    place = data.draw(st.sampled_from(places_of(obj)))
    altered = changed(whole, place, lambda _: other)
    if place and encode_canonical_json(altered) != encode_canonical_json(whole):
        assert verdict(altered) is Reason.INVALID_SIGNATURE
    assert verdict({**whole, "unsigned": other}) is None
    assert verdict({**obj, "new": whole}) is Reason.MISSING_SIGNATURE


@pytest.mark.parametrize("name", ["signatures", "unsigned"])
def test_nested_signatures_and_unsigned_are_covered(name: str) -> None:
    """attack 3: only the two at the top are left out."""
    whole = signed({"a": {name: {"x": 1}}, "b": [{name: 1}]})
    assert verdict(whole) is None
    assert verdict({**whole, "a": {}}) is Reason.INVALID_SIGNATURE
    assert verdict({**whole, "a": {name: {"x": 2}}}) is Reason.INVALID_SIGNATURE
    assert verdict({**whole, "b": [{}]}) is Reason.INVALID_SIGNATURE
    assert name.encode() in SignedJson.from_json(whole).canonical


def test_only_the_signed_part_shows() -> None:
    """attacks 3 and 4: what is not signed has to be asked for by a name that says so."""
    value = SignedJson.from_json({**signed({"a": 1}), "unsigned": {"name": "\u202e\x00", "age": 1.5}})
    assert value.content == {"a": 1}
    assert value.canonical == b'{"a":1}'
    assert value.untrusted_unsigned == {"name": "\u202e\x00", "age": 1.5}
    assert "age" not in repr(value)
    assert value == SignedJson.from_json({"a": 1})
    assert hash(value) == hash(SignedJson.from_json({"a": 1}))
    assert value != SignedJson.from_json({"a": 2})
    assert value != {"a": 1}
    assert (value == value.canonical) is False
    assert repr(value) == f"<SignedJson of 7 bytes, signed by ['{ALICE}']>"


# -- attack 5: nothing is lost ---------------------------------------------------------------------------------


@few
@given(safe_objects, safe_values, st.booleans())
def test_unknown_members_survive(obj: dict[str, Any], unsigned: Any, ascii_only: bool) -> None:
    """attack 5: read, verified and written again, the object is the same."""
    obj = {**obj, "unsigned": unsigned, "signatures": {"x": {"y": "é"}}}
    whole = signed(obj)
    value = SignedJson.from_bytes(json.dumps(whole, ensure_ascii=ascii_only, indent=1).encode())
    value.verify(**QUESTION)
    assert value.to_json() == whole
    assert encode_canonical_json(value.to_json()) == encode_canonical_json(whole)
    assert SignedJson.from_json(whole) == value
    assert value.canonical == encode_canonical_json(value.content)


@pytest.mark.parametrize(
    "absent", [{}, {"signatures": {}}, {"unsigned": {}}, {"unsigned": None}, {"signatures": {"a": {}}}]
)
def test_absent_and_empty_are_told_apart(absent: dict[str, Any]) -> None:
    """attack 5: signatures and unsigned come out as they came in."""
    assert SignedJson.from_json({"a": 1, **absent}).to_json() == {"a": 1, **absent}


def test_values_belong_to_the_caller() -> None:
    obj = {**signed({"a": [1]}), "unsigned": {"x": [1]}}
    before = copy.deepcopy(obj)
    value = SignedJson.from_json(obj)
    obj["a"].append(2)
    obj["signatures"].clear()
    obj["unsigned"]["x"].append(2)
    value.content["a"].append(3)  # type: ignore[union-attr]
    value.to_json()["unsigned"]["x"].append(3)  # type: ignore[index,union-attr,call-overload]
    value.to_json()["signatures"].clear()  # type: ignore[union-attr]
    value.untrusted_unsigned["x"].append(3)
    assert value.to_json() == before
    value.verify(**QUESTION)


def test_the_value_cannot_be_changed() -> None:
    value = SignedJson.from_json(signed({"a": 1}))
    with pytest.raises(TypeError):
        value.signatures["x"] = {}  # type: ignore[index]
    with pytest.raises(TypeError):
        value.signatures[ALICE]["x"] = ""  # type: ignore[index]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        value._parts = None  # type: ignore[assignment,misc]
    with pytest.raises(AttributeError):
        value.canonical = b""  # type: ignore[misc]


def test_the_value_cannot_be_made() -> None:
    value = SignedJson.from_json({"a": 1})
    for make in (lambda: SignedJson(value._parts), SignedJson, lambda: attrs.evolve(value)):  # type: ignore[call-arg]
        with pytest.raises(LocalProtocolError):
            make()
    assert copy.copy(value) == copy.deepcopy(value) == value


def test_values_cross_process_boundaries() -> None:
    value = SignedJson.from_json(signed({"a": 1}))
    again = pickle.loads(pickle.dumps(value))
    again.verify(**QUESTION)
    assert again == value


# -- attacks 2 and 15: shapes, and signatures that are not there -----------------------------------------------

GOOD_TEXT = signed({"a": 1})["signatures"][ALICE]["ed25519:A"]

NOT_SIGNED: dict[str, tuple[dict[str, Any], Reason]] = {
    "no signatures": ({}, Reason.MISSING_SIGNATURE),
    "empty": ({"signatures": {}}, Reason.MISSING_SIGNATURE),
    "only another entity": ({"signatures": {"@bob:b": {"ed25519:A": GOOD_TEXT}}}, Reason.MISSING_SIGNATURE),
    "the entity in capitals": ({"signatures": {ALICE.upper(): {"ed25519:A": GOOD_TEXT}}}, Reason.MISSING_SIGNATURE),
    "nothing by the entity": ({"signatures": {ALICE: {}}}, Reason.MISSING_SIGNATURE),
    "only another key": ({"signatures": {ALICE: {"ed25519:B": GOOD_TEXT}}}, Reason.MISSING_SIGNATURE),
    "another algorithm": ({"signatures": {ALICE: {"curve25519:A": GOOD_TEXT}}}, Reason.MISSING_SIGNATURE),
    "the key id without algorithm": ({"signatures": {ALICE: {"A": GOOD_TEXT}}}, Reason.MISSING_SIGNATURE),
    "the algorithm in capitals": ({"signatures": {ALICE: {"ED25519:A": GOOD_TEXT}}}, Reason.MISSING_SIGNATURE),
    "an empty text": ({"signatures": {ALICE: {"ed25519:A": ""}}}, Reason.INVALID_SIGNATURE),
    "not base64": ({"signatures": {ALICE: {"ed25519:A": "!" + GOOD_TEXT}}}, Reason.INVALID_SIGNATURE),
    "junk in front": ({"signatures": {ALICE: {"ed25519:A": "!!!!" + GOOD_TEXT}}}, Reason.INVALID_SIGNATURE),
    "cut off": ({"signatures": {ALICE: {"ed25519:A": GOOD_TEXT[:-2]}}}, Reason.INVALID_SIGNATURE),
    "one byte more": ({"signatures": {ALICE: {"ed25519:A": GOOD_TEXT[:-1] + "wA"}}}, Reason.INVALID_SIGNATURE),
    "spare bits": (
        {"signatures": {ALICE: {"ed25519:A": GOOD_TEXT[:-1] + chr(ord(GOOD_TEXT[-1]) + 1)}}},
        Reason.INVALID_SIGNATURE,
    ),
    "a lone surrogate": ({"signatures": {ALICE: {"ed25519:A": "\ud800"}}}, Reason.INVALID_SIGNATURE),
    "zeros": ({"signatures": {ALICE: {"ed25519:A": "A" * 86}}}, Reason.INVALID_SIGNATURE),
    "null": ({"signatures": None}, Reason.WRONG_TYPE),
    "an array": ({"signatures": []}, Reason.WRONG_TYPE),
    "a string": ({"signatures": "x"}, Reason.WRONG_TYPE),
    "a number": ({"signatures": 1}, Reason.WRONG_TYPE),
    "true": ({"signatures": True}, Reason.WRONG_TYPE),
    "a float": ({"signatures": 1.5}, Reason.NOT_AN_INTEGER),
    "null for the entity": ({"signatures": {ALICE: None}}, Reason.WRONG_TYPE),
    "a string for the entity": ({"signatures": {ALICE: "abc"}}, Reason.WRONG_TYPE),
    "an array for the entity": ({"signatures": {ALICE: [GOOD_TEXT]}}, Reason.WRONG_TYPE),
    "null for the key": ({"signatures": {ALICE: {"ed25519:A": None}}}, Reason.WRONG_TYPE),
    "true for the key": ({"signatures": {ALICE: {"ed25519:A": True}}}, Reason.WRONG_TYPE),
    "an array for the key": ({"signatures": {ALICE: {"ed25519:A": [GOOD_TEXT]}}}, Reason.WRONG_TYPE),
    "bytes for the key": ({"signatures": {ALICE: {"ed25519:A": GOOD_TEXT.encode()}}}, Reason.NOT_A_JSON_VALUE),
    "a tuple for the entity": ({"signatures": {ALICE: ()}}, Reason.NOT_A_JSON_VALUE),
    "null for another entity": ({"signatures": {"x": None, ALICE: {"ed25519:A": GOOD_TEXT}}}, Reason.WRONG_TYPE),
}


@pytest.mark.parametrize(("members", "reason"), NOT_SIGNED.values(), ids=NOT_SIGNED.keys())
def test_what_is_not_a_good_signature(members: dict[str, Any], reason: Reason) -> None:
    """attack 15: absent, empty, somebody else's; attack 2: of another shape."""
    assert verdict({"a": 1, "signatures": {ALICE: {"ed25519:A": GOOD_TEXT}}}) is None
    obj = {"a": 1, **members}
    before = copy.deepcopy(obj)
    assert verdict(obj) is reason
    assert obj == before
    kind = VerificationError if reason in (Reason.MISSING_SIGNATURE, Reason.INVALID_SIGNATURE) else RemoteProtocolError
    with pytest.raises(kind) as caught:
        verify_json(obj, **QUESTION)
    assert caught.value.path.startswith("/signatures") or reason is Reason.MISSING_SIGNATURE


@pytest.mark.parametrize("obj", [None, [], "x", 1, True, 1.5, (), b"{}", object(), [{"a": 1}]], ids=repr)
def test_what_is_no_object(obj: Any) -> None:
    """attack 2: shapes at the top."""
    assert verdict(obj) in (Reason.WRONG_TYPE, Reason.NOT_AN_INTEGER, Reason.NOT_A_JSON_VALUE)
    with pytest.raises(RemoteProtocolError):
        SignedJson.from_json(obj)


def test_an_empty_set_of_questions_is_no_yes() -> None:
    """attacks 14 and 15: nothing asked, nothing answered."""
    assert ask([], LIBSODIUM) == []
    with pytest.raises(TypeError):
        verify_json({"a": 1})  # type: ignore[call-arg]


@few
@given(wild_values)
def test_any_shape_is_judged_or_refused(value: Any) -> None:
    """attack 2: anything as the object, its signatures, those of an entity, one signature, unsigned."""
    for obj in (
        value,
        {"signatures": value},
        {"signatures": {ALICE: value}},
        {"signatures": {ALICE: {"ed25519:A": value}}},
        {**signed({"a": 1}), "unsigned": value},
        {**signed({"a": 1}), "b": value},
    ):
        before = repr(obj)
        reason = verdict(obj)
        assert repr(obj) == before
        assert (reason is None) == (isinstance(obj, dict) and obj.get("a") == 1 and "b" not in obj)


@modest
@given(st.binary(max_size=40) | st.text(st.characters(), max_size=40) | wild_values)
def test_any_document_is_read_or_refused(data: Any) -> None:
    """attack 2: bytes, text, anything."""
    try:
        value = SignedJson.from_bytes(data)
    except E2EKeysError as error:
        str(error).encode()
    else:
        assert isinstance(value.content, dict)


IN_DOCUMENTS = {
    "a float": ('"a":1.5', Reason.NOT_AN_INTEGER, "/a"),
    "NaN": ('"a":[NaN]', Reason.NOT_AN_INTEGER, "/a/0"),
    "negative zero": ('"a":-0', Reason.NEGATIVE_ZERO, "/a"),
    "a large integer": ('"a":{"b":9007199254740992}', Reason.INTEGER_OUT_OF_RANGE, "/a/b"),
    "a duplicate": ('"a":1,"a":1', Reason.DUPLICATE_MEMBER, "/a"),
    "a nested duplicate": (r'"a":{"b":1,"\u0062":1}', Reason.DUPLICATE_MEMBER, "/a/b"),
    "a lone surrogate": (r'"a":"\ud800"', Reason.LONE_SURROGATE, "/a"),
    "a deep place": ('"a":' + "[" * 200 + "]" * 200, Reason.TOO_DEEP, "/a" + "/0" * 127),
    "duplicate signatures": ('"signatures":{},"signatures":{}', Reason.DUPLICATE_MEMBER, "/signatures"),
    "a duplicate entity": ('"signatures":{"x":{},"x":{}}', Reason.DUPLICATE_MEMBER, "/signatures/x"),
    "a duplicate key": ('"signatures":{"x":{"y":"","y":""}}', Reason.DUPLICATE_MEMBER, "/signatures/x/y"),
}


@pytest.mark.parametrize(("members", "reason", "path"), IN_DOCUMENTS.values(), ids=IN_DOCUMENTS.keys())
def test_documents_that_hold_no_signed_object(members: str, reason: Reason, path: str) -> None:
    """attacks 6 to 10: in the content or the signatures."""
    with pytest.raises(RemoteProtocolError) as caught:
        SignedJson.from_bytes("{" + members + "}")
    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert SignedJson.from_bytes('{"unsigned":{' + members + "}}").content == {}


def test_two_unsigned_parts_are_none_of_ours() -> None:
    """attack 6: a duplicate unsigned harms nothing, since it is not signed."""
    assert SignedJson.from_bytes('{"a":1,"unsigned":{"x":1},"unsigned":{"x":2}}').content == {"a": 1}


# -- attack 13: algorithms, keys, entities ---------------------------------------------------------------------

OTHER_QUESTIONS: dict[str, tuple[dict[str, Any], Reason]] = {
    "another algorithm": ({"key_id": "curve25519:A"}, Reason.UNSUPPORTED_ALGORITHM),
    "another algorithm, typed": ({"key_id": KeyId("curve25519", "A")}, Reason.UNSUPPORTED_ALGORITHM),
    "an algorithm in capitals": ({"key_id": "ED25519:A"}, Reason.UNSUPPORTED_ALGORITHM),
    "an algorithm that starts alike": ({"key_id": "ed25519ph:A"}, Reason.UNSUPPORTED_ALGORITHM),
    "an algorithm that does not exist": ({"key_id": "none:A"}, Reason.UNSUPPORTED_ALGORITHM),
    "another key id": ({"key_id": "ed25519:B"}, Reason.MISSING_SIGNATURE),
    "another entity": ({"entity": "@bob:b"}, Reason.MISSING_SIGNATURE),
    "no entity": ({"entity": ""}, Reason.MISSING_SIGNATURE),
    "another key": ({"key": OTHER.public_key}, Reason.INVALID_SIGNATURE),
    "a key id without name": ({"key_id": "ed25519:"}, Reason.INVALID_KEY_ID),
    "a key id that is none": ({"key_id": None}, Reason.WRONG_TYPE),
    "a key as bytes": ({"key": KEY.raw}, Reason.WRONG_TYPE),
    "a key as text": ({"key": KEY.to_base64()}, Reason.WRONG_TYPE),
    "a private key": ({"key": SECRET}, Reason.WRONG_TYPE),
    "an entity that is none": ({"entity": None}, Reason.WRONG_TYPE),
    "no verifier": ({"verifier": None}, Reason.WRONG_TYPE),
}


@pytest.mark.parametrize(("changes", "reason"), OTHER_QUESTIONS.values(), ids=OTHER_QUESTIONS.keys())
def test_other_questions(changes: dict[str, Any], reason: Reason) -> None:
    """attack 13: the caller names entity, key id and key; none of them is taken from the object."""
    whole = signed({"a": 1})
    whole["signatures"][ALICE] |= dict.fromkeys(["curve25519:A", "ED25519:A", "ed25519ph:A", "none:A"], GOOD_TEXT)
    assert verdict(whole) is None
    assert verdict(whole, **changes) is reason
    local = reason in (Reason.WRONG_TYPE, Reason.INVALID_KEY_ID)
    with pytest.raises(LocalProtocolError if local else VerificationError):
        verify_json(whole, **{**QUESTION, **changes})


def test_the_key_id_may_be_typed() -> None:
    assert verdict(signed({"a": 1}), key_id=KeyId("ed25519", "A")) is None


def test_a_signature_of_one_object_is_none_of_another() -> None:
    """attack 43 in small: signatures do not travel."""
    one, other = signed({"a": 1}), signed({"a": 2})
    assert verdict({**one, "signatures": other["signatures"]}) is Reason.INVALID_SIGNATURE


def test_one_key_under_two_names_is_one_key() -> None:
    """attack 14: whoever counts signers counts keys, and keys compare by their bytes."""
    twice = sign_json(signed({"a": 1}), entity=ALICE, signer=SECRET.signer("ed25519:B"))
    keys = set()
    for name in ("ed25519:A", "ed25519:B"):
        key = Ed25519PublicKey.from_base64(KEY.to_base64())
        verify_json(twice, entity=ALICE, key_id=name, key=key)
        keys.add(key)
    assert len(keys) == 1


class Spy:
    def __init__(self, answers: Any = None) -> None:
        self.checks: list[SignatureCheck] = []
        self.answers = answers

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> Any:
        self.checks += checks
        return LIBSODIUM.verify_many(checks) if self.answers is None else self.answers


def test_only_the_signature_in_question_is_looked_at() -> None:
    """attack 39: a hundred thousand others cost nothing, broken or not."""
    whole = signed({"a": 1})
    for number in range(100_000):
        whole["signatures"][ALICE][f"ed25519:{number}"] = "x" if number % 2 else GOOD_TEXT
    spy = Spy()
    verify_json(whole, **QUESTION, verifier=spy)
    assert spy.checks == [(KEY.raw, b'{"a":1}', SECRET.sign(b'{"a":1}').raw)]


def test_a_verifier_is_not_asked_about_what_is_no_signature() -> None:
    spy = Spy()
    for text in ("", "!", GOOD_TEXT[:-2], "é" * 86):
        with pytest.raises(VerificationError):
            verify_json({"a": 1, "signatures": {ALICE: {"ed25519:A": text}}}, **QUESTION, verifier=spy)
    assert spy.checks == []


@pytest.mark.parametrize("answers", [[1], ["True"], [None], [[True]], [object()], (2,)])
def test_a_truthy_answer_is_no_yes(answers: Any) -> None:
    """attack 15: only True is."""
    assert verdict(signed({"a": 1}), verifier=Spy(answers)) is Reason.INVALID_SIGNATURE


@pytest.mark.parametrize("answers", [[], (), [True, True]])
def test_too_few_or_too_many_answers_are_no_yes(answers: Any) -> None:
    """attack 15: the verifier is at fault, and it is said so."""
    assert verdict(signed({"a": 1}), verifier=Spy(answers)) is Reason.INVALID_VALUE


# -- Making others of it ---------------------------------------------------------------------------------------


def test_with_signature() -> None:
    value = SignedJson.from_json({"a": 1, "signatures": {ALICE: {"ed25519:B": "x"}, "y": {}}})
    again = value.with_signature(ALICE, "ed25519:A", SECRET.sign(value.canonical))
    again.verify(**QUESTION)
    assert again.signatures[ALICE]["ed25519:B"] == "x"
    assert dict(again.signatures["y"]) == {}
    assert "ed25519:A" not in value.signatures[ALICE]
    replaced = again.with_signature(ALICE, KeyId("ed25519", "A"), Ed25519Signature(bytes(64)))
    assert replaced.signatures[ALICE]["ed25519:A"] == "A" * 86
    assert replaced == again == value


@pytest.mark.parametrize(
    "arguments",
    [
        (None, "ed25519:A", Ed25519Signature(bytes(64))),
        (ALICE, None, Ed25519Signature(bytes(64))),
        (ALICE, "ed25519", Ed25519Signature(bytes(64))),
        (ALICE, "ed25519:A", bytes(64)),
        (ALICE, "ed25519:A", "A" * 86),
        (b"x", "ed25519:A", None),
        ("", "ed25519:A", Ed25519Signature(bytes(64))),
        ("\ud800", "ed25519:A", Ed25519Signature(bytes(64))),
        (ALICE, "ed25519:\udfff", Ed25519Signature(bytes(64))),
        (ALICE, KeyId("ed25519", "\udfff"), Ed25519Signature(bytes(64))),
    ],
    ids=ascii,
)
def test_with_signature_checks_its_arguments(arguments: Any) -> None:
    with pytest.raises(LocalProtocolError):
        SignedJson.from_json({}).with_signature(*arguments)


def test_without_signatures() -> None:
    value = SignedJson.from_json({**signed({"a": 1}), "unsigned": {}})
    bare = value.without_signatures()
    assert bare.to_json() == {"a": 1, "unsigned": {}}
    assert bare == value
    assert bare.signatures == {}
    with pytest.raises(VerificationError):
        bare.verify(**QUESTION)


def test_with_unsigned() -> None:
    """attack 4: a server may put there what it likes; nothing that counts changes."""
    value = SignedJson.from_json(signed({"a": 1}))
    unsigned = {"device_display_name": "Phone", "list": [1]}
    named = value.with_unsigned(unsigned)
    unsigned["list"].append(2)  # type: ignore[attr-defined]
    assert named.untrusted_unsigned == {"device_display_name": "Phone", "list": [1]}
    assert named == value
    assert hash(named) == hash(value)
    named.verify(**QUESTION)
    assert named.with_unsigned(None).to_json() == value.to_json()
    assert value.untrusted_unsigned is None


@pytest.mark.parametrize("unsigned", [[], "x", 1, True, 1.5, ()])
def test_unsigned_is_an_object(unsigned: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        SignedJson.from_json({}).with_unsigned(unsigned)
    assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/unsigned")


@pytest.mark.parametrize(
    ("member", "reason"),
    [(1.5, Reason.NOT_AN_INTEGER), ("\ud800", Reason.LONE_SURROGATE), ((), Reason.NOT_A_JSON_VALUE)],
)
def test_unsigned_of_ours_is_json(member: Any, reason: Reason) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        SignedJson.from_json({}).with_unsigned({"a": [0, member]})
    assert (caught.value.reason, caught.value.path) == (reason, "/unsigned/a/1")


def test_signatures_are_mappings_of_mappings() -> None:
    value = SignedJson.from_json(signed({}))
    assert isinstance(value.signatures, Mapping)
    assert {entity: dict(by) for entity, by in value.signatures.items()} == {
        ALICE: {"ed25519:A": SECRET.sign(b"{}").to_base64()}
    }


# -- attack 9: depth -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_depth", [128, 200, 400])
def test_what_was_read_with_other_limits_comes_out_whole(max_depth: int) -> None:
    """attack 9: the limits of the reader, not the default ones, say how deep an object may be."""
    obj = {"a": nested(max_depth - 1, core=[])[0], "unsigned": {"b": nested(max_depth - 3)}}
    value = SignedJson.from_bytes(json.dumps(obj), limits=JsonLimits(max_depth=max_depth))
    assert value.content == {"a": obj["a"]}
    assert value.to_json() == obj
    assert value.untrusted_unsigned == obj["unsigned"]


DEEP = SignedJson.from_json({"a": nested(110), "unsigned": {"b": nested(110)}})

NEAR_THE_LIMIT: dict[str, Callable[[], Any]] = {
    "from_json": lambda: SignedJson.from_json({"a": nested(20), "b": DEEP_TREE}),
    "from_bytes": lambda: SignedJson.from_bytes(DEEP_TEXT),
    "content": lambda: DEEP.content,
    "to_json": DEEP.to_json,
    "untrusted_unsigned": lambda: DEEP.untrusted_unsigned,
    "with_unsigned": lambda: DEEP.with_unsigned({"a": DEEP_TREE}),
    "sign_json": lambda: sign_json({"a": DEEP_TREE}, entity=ALICE, signer=SIGNER),
    "verify_json": lambda: verify_json(DEEP_SIGNED, **QUESTION),
}
DEEP_TREE = nested(110, of="dict")
DEEP_TEXT = json.dumps({"a": DEEP_TREE, "b": nested(100)})
DEEP_SIGNED = signed({"a": DEEP_TREE})


@pytest.mark.parametrize("call", NEAR_THE_LIMIT.values(), ids=NEAR_THE_LIMIT.keys())
def test_near_the_recursion_limit(call: Callable[[], Any]) -> None:
    """attack 9: a result or one of our errors, however little of the stack is left."""
    outcomes = set()
    for left in range(60, 420, 3):
        try:
            with_frames_left(left, call)
        except E2EKeysError as error:
            outcomes.add(str(error.reason))
        except (RecursionError, AssertionError) as error:
            outcomes.add(type(error).__name__)
        else:
            outcomes.add("good")
    assert "good" in outcomes
    assert outcomes <= {"good", "too-deep"}


# -- Many at once ----------------------------------------------------------------------------------------------


def test_objects_are_read_independently() -> None:
    """One bad object never costs the others."""
    trees = parse_frame(
        r'[{"a":1},{"a":1.5},7,{"signatures":[]},{"b":null,"unsigned":{"x":NaN}},{"c":"\ud800"},{"d":[1,null,2]}]'
    )
    outcomes = read_signed_objects(trees)
    assert [type(outcome) for outcome in outcomes] == [
        SignedParts,
        Refusal,
        Refusal,
        Refusal,
        SignedParts,
        Refusal,
        SignedParts,
    ]
    assert [outcome.canonical for outcome in outcomes if isinstance(outcome, SignedParts)] == [
        b'{"a":1}',
        b'{"b":null}',
        b'{"d":[1,null,2]}',
    ]
    assert [(outcome.reason, outcome.at) for outcome in outcomes if isinstance(outcome, Refusal)] == [
        (Reason.NOT_AN_INTEGER, ("a",)),
        (Reason.WRONG_TYPE, ()),
        (Reason.WRONG_TYPE, ("signatures",)),
        (Reason.LONE_SURROGATE, ("c",)),
    ]
    assert read_signed_objects([]) == []
    assert type(trees[4]["unsigned"]["x"]) is RefusedPlace


@modest
@given(st.lists(safe_objects | safe_values, max_size=8))
def test_reading_many_is_reading_each(trees: list[Any]) -> None:
    before = copy.deepcopy(trees)
    for tree, outcome in zip(trees, read_signed_objects(trees), strict=True):
        try:
            alone = SignedJson.from_json(tree)
        except RemoteProtocolError as error:
            assert isinstance(outcome, Refusal)
            assert (outcome.reason, outcome.detail) == (error.reason, error.detail)  # noqa: PT017
        else:
            assert isinstance(outcome, SignedParts)
            assert outcome.canonical == alone.canonical
    assert trees == before


def test_questions_without_a_signature_are_answered_too() -> None:
    message = b'{"a":1}'
    spy = Spy()
    questions = [
        (message, None, KEY.raw),
        (message, GOOD_TEXT, KEY.raw),
        (message, "!", KEY.raw),
        (message, GOOD_TEXT + "==", KEY.raw),
        (message, GOOD_TEXT, OTHER.public_key.raw),
        (message, "", KEY.raw),
    ]
    assert ask(questions, spy) == [False, True, False, True, False, False]
    assert len(spy.checks) == 3
    assert ask(questions[1:2], spy) == [True]


def test_parts_of() -> None:
    value = SignedJson.from_json(signed({"a": 1}))
    assert parts_of(value).canonical == value.canonical
