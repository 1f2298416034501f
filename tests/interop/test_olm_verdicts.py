"""The same answer to an OlmMachine and to check_query, and the verdicts that the table expects.

Each row is one answer about a fresh user, byte for byte the same for both. Beside the user stands a witness, whose good
device shows whether the rest of the answer was used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from interop import answers
from interop.answers import Answer, good_answer
from interop.olm_machine import MakeOlmMachine, OlmError, OlmMachine, OlmRequest
from interop.people import Person
from matrix_e2e_keys import Ed25519SecretKey, KeysQueryRequest, KeysQueryResponse, QueryResult, Reason, check_query

pytestmark = pytest.mark.interop


class Verdict(NamedTuple):
    """What became of the user's device, of the user's identity, and of the witness."""

    device: str
    identity: bool
    witness: bool


CROSS_SIGNED = Verdict("cross-signed", identity=True, witness=True)
NOT_CROSS_SIGNED = Verdict("accepted", identity=True, witness=True)
NO_IDENTITY = Verdict("accepted", identity=False, witness=True)
NO_DEVICE = Verdict("refused", identity=True, witness=True)
NO_USER = Verdict("refused", identity=False, witness=True)
NOTHING = Verdict("refused", identity=False, witness=False)


class Row(NamedTuple):
    """One answer and the two verdicts on it.

    Attributes:
        name: what is special about the answer.
        answer: makes it.
        ours: the verdict of this library.
        reason: a reason it gives for a refusal or a doubt, ``None`` if it gives none at all.
        theirs: the verdict of the OlmMachine, if it is another.
        ours_alone: the row states a decision of this library, and the OlmMachine is not asked.
        because: why ours is what it is, in either case.
    """

    name: str
    answer: Callable[[Person], Answer]
    ours: Verdict
    reason: Reason | None = None
    theirs: Verdict | None = None
    ours_alone: bool = False
    because: str = ""


def device(make: Callable[[Person], str]) -> Callable[[Person], Answer]:
    """Return what makes an answer with another device."""
    return lambda person: good_answer(person)._replace(device=make(person))


def devices(text: str) -> Callable[[Person], Answer]:
    """Return what makes an answer with something else where the user's devices should stand."""
    return lambda person: good_answer(person)._replace(devices=text)


def master(make: Callable[[Person], str | None]) -> Callable[[Person], Answer]:
    """Return what makes an answer with another master key."""
    return lambda person: good_answer(person)._replace(master=make(person))


def self_signing(make: Callable[[Person], str | None]) -> Callable[[Person], Answer]:
    """Return what makes an answer with another self-signing key."""
    return lambda person: good_answer(person)._replace(self_signing=make(person))


def literal(text: str, *, signed: str | None = None) -> Callable[[Person], Answer]:
    """Return what makes an answer with one more signed member in the device."""
    return device(lambda person: answers.device_with_literal(person, text, signed=signed))


def padded_keys(person: Person) -> dict[str, object]:
    keys = answers.content(person)["keys"]
    assert isinstance(keys, dict)
    return {"keys": {key_id: f"{text}=" for key_id, text in keys.items()}}


def only_ed25519(person: Person) -> dict[str, object]:
    return {"keys": {f"ed25519:{person.device_id}": person.signer.public_key.to_base64()}}


def device_key_id(person: Person) -> str:
    return f"ed25519:{person.device_id}"


def master_key_id(person: Person) -> str:
    return f"ed25519:{person.public_text('master')}"


def self_signing_key_id(person: Person) -> str:
    return f"ed25519:{person.public_text('self_signing')}"


def fresh_text() -> str:
    return Ed25519SecretKey.generate().public_key.to_base64()


def two_keys(person: Person, *, other_is_first: bool) -> dict[str, object]:
    """The master key, which signed the self-signing key, and another key, sorted as the caller wants it."""
    own = person.public_text("master")
    other = next(text for text in iter(fresh_text, None) if (text < own) is other_is_first)
    return {"keys": {f"ed25519:{text}": text for text in sorted([own, other])}}


def device_named_like_the_master_key(person: Person) -> Answer:
    twin = Person(person.user_id, person.public_text("master"))
    text = f'{{"{person.device_id}":{answers.device(person)},"{twin.device_id}":{answers.device(twin)}}}'
    return good_answer(person)._replace(devices=text)


SIGNATURES = (
    Row("nothing special", good_answer, CROSS_SIGNED),
    Row(
        "device with a bad signature",
        device(lambda it: answers.with_bad_signature(answers.device(it), device_key_id(it))),
        NO_DEVICE,
        Reason.INVALID_SIGNATURE,
    ),
    Row(
        "device without signatures",
        device(lambda it: answers.without_signatures(answers.device(it))),
        NO_DEVICE,
        Reason.MISSING_SIGNATURE,
    ),
    Row(
        "device with an empty signatures member",
        device(lambda it: answers.with_member(answers.without_signatures(answers.device(it)), "signatures", "{}")),
        NO_DEVICE,
        Reason.MISSING_SIGNATURE,
    ),
    Row(
        "device signed by the self-signing key only",
        device(lambda it: json.dumps(it.sign(answers.content(it), "self_signing"))),
        NO_DEVICE,
        Reason.MISSING_SIGNATURE,
    ),
    Row(
        "device without a cross-signature",
        device(lambda it: json.dumps(it.device_keys().to_json())),
        NOT_CROSS_SIGNED,
    ),
    Row(
        "device with a bad cross-signature",
        device(lambda it: answers.with_bad_signature(answers.device(it), self_signing_key_id(it))),
        NOT_CROSS_SIGNED,
        Reason.INVALID_SIGNATURE,
    ),
)

DEVICES = (
    Row(
        "device of another user",
        device(lambda it: answers.device(Person("@somebody:else.example", it.device_id))),
        NO_DEVICE,
        Reason.USER_ID_MISMATCH,
    ),
    Row(
        "device under another device id",
        device(lambda it: answers.device(Person(it.user_id, "ANOTHER"))),
        NO_DEVICE,
        Reason.DEVICE_ID_MISMATCH,
    ),
    Row(
        "device with padded keys",
        device(lambda it: answers.device(it, padded_keys(it))),
        CROSS_SIGNED,
        theirs=NO_DEVICE,
        because="decoders should accept base64 with or without padding; the signature is over the text as it stands",
    ),
    Row(
        "device with one more signed member",
        device(lambda it: answers.device(it, {"org.example.extra": {"a": [1]}})),
        CROSS_SIGNED,
    ),
    Row(
        "device with an unsigned part",
        device(lambda it: answers.with_member(answers.device(it), "unsigned", '{"device_display_name":"A phone"}')),
        CROSS_SIGNED,
    ),
    Row("device without a curve25519 key", device(lambda it: answers.device(it, only_ed25519(it))), CROSS_SIGNED),
    Row("device without algorithms", device(lambda it: answers.device(it, {"algorithms": []})), CROSS_SIGNED),
    Row(
        "another device named like the master key",
        device_named_like_the_master_key,
        NO_USER,
        Reason.IDENTIFIER_COLLISION,
        ours_alone=True,
        because="a signature under that name could be the device's or the key's, so the user is blocked at once",
    ),
)

IDENTITIES = (
    Row(
        "self-signing key with a bad signature",
        self_signing(lambda it: answers.with_bad_signature(answers.key(it, "self_signing"), master_key_id(it))),
        NO_IDENTITY,
        Reason.INVALID_SIGNATURE,
    ),
    Row(
        "self-signing key without signatures",
        self_signing(lambda it: answers.without_signatures(answers.key(it, "self_signing"))),
        NO_IDENTITY,
        Reason.MISSING_SIGNATURE,
    ),
    Row("no master key", master(lambda _: None), NO_IDENTITY, Reason.MISSING_MASTER_KEY),
    Row("no self-signing key", self_signing(lambda _: None), NO_IDENTITY, Reason.MISSING_SELF_SIGNING_KEY),
    Row(
        "master key with another usage",
        master(lambda it: answers.key(it, "master", {"usage": ["self_signing"]})),
        NO_IDENTITY,
        Reason.WRONG_USAGE,
    ),
    Row(
        "self-signing key with another usage",
        self_signing(lambda it: answers.key(it, "self_signing", {"usage": ["user_signing"]})),
        NO_IDENTITY,
        Reason.WRONG_USAGE,
    ),
    Row(
        "master key of another user",
        master(lambda it: answers.key(it, "master", {"user_id": "@somebody:else.example"})),
        NO_IDENTITY,
        Reason.USER_ID_MISMATCH,
    ),
    Row(
        "self-signing key of another user",
        self_signing(lambda it: answers.key(it, "self_signing", {"user_id": "@somebody:else.example"})),
        NO_IDENTITY,
        Reason.USER_ID_MISMATCH,
    ),
    Row(
        "master key under the name of another key",
        master(
            lambda it: answers.key(it, "master", {"keys": {f"ed25519:{fresh_text()}": it.public_text("master")}}),
        ),
        NO_IDENTITY,
        Reason.KEY_ID_NOT_KEY,
    ),
    Row(
        "another key under the name of the master key",
        master(lambda it: answers.key(it, "master", {"keys": {master_key_id(it): fresh_text()}})),
        NO_IDENTITY,
        Reason.KEY_ID_NOT_KEY,
    ),
    Row(
        "master key and a second key after it",
        master(lambda it: answers.key(it, "master", two_keys(it, other_is_first=False))),
        NO_IDENTITY,
        Reason.TOO_MANY_KEYS,
        ours_alone=True,
        because='a cross-signing key object has "exactly one property" in keys, or it is unclear who signed',
    ),
    Row(
        "master key and a second key before it",
        master(lambda it: answers.key(it, "master", two_keys(it, other_is_first=True))),
        NO_IDENTITY,
        Reason.TOO_MANY_KEYS,
    ),
)

NUMBERS = (
    Row("2**53 - 1", literal("9007199254740991"), CROSS_SIGNED),
    Row("-(2**53 - 1)", literal("-9007199254740991"), CROSS_SIGNED),
    Row("2**53", literal("9007199254740992"), NO_DEVICE, Reason.INTEGER_OUT_OF_RANGE),
    Row("-(2**53)", literal("-9007199254740992"), NO_DEVICE, Reason.INTEGER_OUT_OF_RANGE),
    Row("2**53 + 1", literal("9007199254740993"), NO_DEVICE, Reason.INTEGER_OUT_OF_RANGE),
    Row("2**64", literal("18446744073709551616"), NO_DEVICE, Reason.INTEGER_OUT_OF_RANGE),
    Row("1.5", literal("1.5"), NO_DEVICE, Reason.NOT_AN_INTEGER),
    Row("1.0", literal("1.0"), NO_DEVICE, Reason.NOT_AN_INTEGER),
    Row("1.0 signed as 1", literal("1.0", signed="1"), NO_DEVICE, Reason.NOT_AN_INTEGER),
    Row("1e2", literal("1e2"), NO_DEVICE, Reason.NOT_AN_INTEGER),
    Row("1e2 signed as 100", literal("1e2", signed="100"), NO_DEVICE, Reason.NOT_AN_INTEGER),
    Row("1e2 signed as 100.0", literal("1e2", signed="100.0"), NO_DEVICE, Reason.NOT_AN_INTEGER),
    Row("-0", literal("-0"), NO_DEVICE, Reason.NEGATIVE_ZERO),
    Row("-0 signed as 0", literal("-0", signed="0"), NO_DEVICE, Reason.NEGATIVE_ZERO),
    Row("1e400", literal("1e400"), NO_DEVICE, Reason.NOT_AN_INTEGER),
    Row(
        "NaN",
        literal("NaN"),
        NO_DEVICE,
        Reason.NOT_AN_INTEGER,
        ours_alone=True,
        because="a token that canonical JSON forbids costs the object it stands in, not everybody's",
    ),
)

STRINGS = (
    Row("null", literal("null"), CROSS_SIGNED),
    Row("null between others", literal("[1,null,{}]"), CROSS_SIGNED),
    Row("booleans", literal("[true,false]"), CROSS_SIGNED),
    Row("emoji", literal('"\U0001f600"'), CROSS_SIGNED),
    Row("emoji escaped, signed as itself", literal(r'"\ud83d\ude00"', signed='"\U0001f600"'), CROSS_SIGNED),
    Row("emoji signed as its escapes", literal(r'"\ud83d\ude00"'), NO_DEVICE, Reason.INVALID_SIGNATURE),
    Row("composed letter", literal('"\u00e9"'), CROSS_SIGNED),
    Row("decomposed letter", literal('"e\u0301"'), CROSS_SIGNED),
    Row(
        "decomposed letter signed as composed",
        literal('"e\u0301"', signed='"\u00e9"'),
        NO_DEVICE,
        Reason.INVALID_SIGNATURE,
    ),
    Row("U+0001", literal(r'"\u0001"'), CROSS_SIGNED),
    Row("U+000A", literal(r'"\n"'), CROSS_SIGNED),
    Row("U+000A as \\u000a, signed as \\n", literal(r'"\u000a"', signed=r'"\n"'), CROSS_SIGNED),
    Row("U+007F", literal('"\u007f"'), CROSS_SIGNED),
    Row("U+2028", literal('"\u2028"'), CROSS_SIGNED),
    Row("escaped slash, signed as a slash", literal(r'"\/"', signed='"/"'), CROSS_SIGNED),
    Row("slash signed as an escaped slash", literal(r'"\/"'), NO_DEVICE, Reason.INVALID_SIGNATURE),
    Row("lone surrogate", literal(r'"\ud800"'), NO_DEVICE, Reason.LONE_SURROGATE),
    Row("lone surrogate, signed as it is", literal(r'"\ud800"', signed='"\ud800"'), NO_DEVICE, Reason.LONE_SURROGATE),
)

STRUCTURE = (
    Row("members in the order of code points", literal('{"a":1,"\ufb01":2,"\U0001f600":3}'), CROSS_SIGNED),
    Row(
        "members in another order, signed in that of code points",
        literal('{"\U0001f600":3,"\ufb01":2,"a":1}', signed='{"a":1,"\ufb01":2,"\U0001f600":3}'),
        CROSS_SIGNED,
    ),
    Row(
        "members signed in the order of UTF-16",
        literal('{"a":1,"\U0001f600":3,"\ufb01":2}'),
        NO_DEVICE,
        Reason.INVALID_SIGNATURE,
    ),
    Row("space, signed without", literal('{ "a" : [ 1 , 2 ] }', signed='{"a":[1,2]}'), CROSS_SIGNED),
    Row("nesting of 100", literal("[" * 100 + "]" * 100), CROSS_SIGNED),
    Row("nesting of 200", literal("[" * 200 + "]" * 200), NO_DEVICE, Reason.TOO_DEEP),
    Row(
        "member that appears twice, the last one signed",
        literal('{"a":1,"a":2}', signed='{"a":2}'),
        NO_DEVICE,
        Reason.DUPLICATE_MEMBER,
        ours_alone=True,
        because="two readers may choose differently between the two, and then do not read what was signed",
    ),
    Row(
        "float in the unsigned part",
        device(lambda it: answers.with_member(answers.device(it), "unsigned", '{"a":1.5}')),
        CROSS_SIGNED,
    ),
    Row(
        "member that appears twice in the unsigned part",
        device(lambda it: answers.with_member(answers.device(it), "unsigned", '{"a":1,"a":2}')),
        CROSS_SIGNED,
    ),
)

ENTRIES = (
    Row("device that is null", device(lambda _: "null"), NO_DEVICE, Reason.WRONG_TYPE),
    Row("device that is a string", device(lambda _: '"x"'), NO_DEVICE, Reason.WRONG_TYPE),
    Row("device that is empty", device(lambda _: "{}"), NO_DEVICE, Reason.MISSING_MEMBER),
    Row("master key that is null", master(lambda _: "null"), NO_IDENTITY, Reason.WRONG_TYPE),
    Row("self-signing key that is empty", self_signing(lambda _: "{}"), NO_IDENTITY, Reason.MISSING_MEMBER),
    Row("no devices", devices("{}"), NO_DEVICE),
    Row(
        "user that is null",
        devices("null"),
        NO_DEVICE,
        Reason.WRONG_TYPE,
        ours_alone=True,
        because="one bad entry never costs the others",
    ),
    Row(
        "user that is a list",
        devices("[]"),
        NO_DEVICE,
        Reason.WRONG_TYPE,
        ours_alone=True,
        because="one bad entry never costs the others",
    ),
)

ROWS = (*SIGNATURES, *DEVICES, *IDENTITIES, *NUMBERS, *STRINGS, *STRUCTURE, *ENTRIES)


def ask_olm_machine(machine: OlmMachine, *user_ids: str) -> tuple[OlmRequest, KeysQueryRequest]:
    """Return the query that a machine wants to be sent, and the same as this library reads it."""
    machine.call("track", users=user_ids)
    (request,) = [request for request in machine.outgoing() if request.kind == "KeysQuery"]
    return request, KeysQueryRequest.from_bytes(request.body)


def our_verdict(result: QueryResult, person: Person, witness: Person) -> Verdict:
    found = result.devices.accepted.get(person.user_id, {}).get(person.device_id)
    return Verdict(
        device="refused" if found is None else "cross-signed" if found.is_cross_signed else "accepted",
        identity=person.user_id in result.identities.accepted,
        witness=witness.device_id in result.devices.accepted.get(witness.user_id, {}),
    )


def our_reasons(result: QueryResult) -> set[Reason]:
    reasons = {it.reason for it in (*result.devices.rejected, *result.identities.rejected)}
    return reasons | {notice.reason for notice in result.notices}


def their_devices(machine: OlmMachine, user_id: str) -> dict[str, dict[str, Any]]:
    return {found["device_id"]: found for found in machine.call("devices", user_id=user_id)}


def their_verdict(machine: OlmMachine, request: OlmRequest, answer: str, person: Person, witness: Person) -> Verdict:
    try:
        machine.receive(request, answer)
    except OlmError:
        return NOTHING
    found = their_devices(machine, person.user_id).get(person.device_id)
    return Verdict(
        device="refused" if found is None else "cross-signed" if found["by_owner"] else "accepted",
        identity=machine.call("identity", user_id=person.user_id) is not None,
        witness=witness.device_id in their_devices(machine, witness.user_id),
    )


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
def test_the_two_verdicts_are_those_of_the_table(row: Row, new_olm_machine: MakeOlmMachine) -> None:
    person, witness = Person("@user:example.org", "DEVICE"), Person("@witness:example.org", "DEVICE")
    machine = new_olm_machine("@observer:example.org", "OBSERVER")
    request, asked = ask_olm_machine(machine, person.user_id, witness.user_id)
    answer = row.answer(person).text(person, witness)

    result = check_query(asked, KeysQueryResponse.from_bytes(answer.encode()))

    assert our_verdict(result, person, witness) == row.ours
    reasons = our_reasons(result)
    assert row.reason in reasons if row.reason else not reasons
    assert result.present_device_ids(person.user_id) == device_ids_in(answer, person)
    if row.ours_alone:
        return

    theirs = their_verdict(machine, request, answer, person, witness)

    assert theirs == (row.theirs or row.ours)
    if "refused" not in (row.ours.device, theirs.device):
        ours = result.devices.accepted[person.user_id][person.device_id]
        found = their_devices(machine, person.user_id)[person.device_id]
        assert found["ed25519"] == ours.ed25519_key.to_base64()
        assert found["curve25519"] == (ours.curve25519_key.to_base64() if ours.curve25519_key else None)


def device_ids_in(answer: str, person: Person) -> set[str]:
    """What is refused is still present, or it would look deleted."""
    entry = json.loads(answer)["device_keys"][person.user_id]
    return set(entry) if isinstance(entry, dict) else set()


def test_the_table_gives_a_reason_for_every_decision_of_its_own() -> None:
    for row in ROWS:
        assert (row.theirs is None and not row.ours_alone) == (row.because == ""), row.name
        assert row.theirs != row.ours, row.name
    assert sum(row.ours_alone for row in ROWS) < 10
