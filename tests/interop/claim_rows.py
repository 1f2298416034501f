"""Answers to a ``/keys/claim``, each with something special about one device."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from interop import answers
from interop.people import Person
from interop.query_rows import ZEROS
from interop.verdicts import Subject, claim_answer, good_keys
from matrix_e2e_keys import encode_canonical_json


class ClaimRow(NamedTuple):
    """What stands in the place of the one-time keys of the user's device.

    Attributes:
        name: what is special about it.
        keys: makes it: JSON, or the text of it.
        ours: whether we open a session with one of them.
        alone: nobody else may be in the answer.
    """

    name: str
    keys: Callable[[Person], object]
    ours: bool
    alone: bool = False


class WholeClaimRow(NamedTuple):
    """An answer that is special as a whole. See :class:`ClaimRow`."""

    name: str
    text: Callable[[Subject], str]
    ours: bool


ID, OTHER_ID = "signed_curve25519:AAAAAQ", "signed_curve25519:AAAAAg"


class Literal(NamedTuple):
    """A text that is JSON already."""

    text: str


def one_time_key(
    person: Person, changes: Mapping[str, object] | None = None, *, signer: Person | None = None, **later: object
) -> dict[str, Any]:
    """Return a one-time key with members that are changed before it was signed, and others that are added later."""
    (good,) = person.one_time_keys(1).values()
    assert good.signed is not None
    signed = (signer or person).sign({**good.signed.content, **(changes or {})}, device=True)
    return {**signed, **later}


def signed(**changes: object) -> Callable[[Person], object]:
    return lambda it: {ID: one_time_key(it, changes)}


def unsigned(person: Person) -> dict[str, Any]:
    return {name: value for name, value in one_time_key(person).items() if name != "signatures"}


def bad_signature(person: Person) -> object:
    return {ID: json.loads(answers.with_bad_signature(json.dumps(one_time_key(person)), "ed25519:DEVICE"))}


def no_fallback_key_any_more(person: Person) -> object:
    key = one_time_key(person, {"fallback": True})
    del key["fallback"]
    return {ID: key}


def padded(person: Person) -> object:
    return {ID: one_time_key(person, {"key": one_time_key(person)["key"] + "="})}


def literal(text: str, *, signed: str | None = None) -> Callable[[Person], object]:
    """Return what makes a key with one more signed member, given as JSON text."""

    def make(person: Person) -> Literal:
        body = encode_canonical_json({"key": one_time_key(person)["key"]}).decode()[:-1]
        message = f'{body},"zz":{text if signed is None else signed}}}'.encode("utf-8", "surrogatepass")
        by = json.dumps({person.user_id: {"ed25519:DEVICE": person.signer.sign(message).to_base64()}})
        return Literal(f'{{"{ID}":{body},"zz":{text},"signatures":{by}}}}}')

    return make


CLAIMED = (
    ClaimRow("nothing special", signed(), ours=True),
    ClaimRow("key with a bad signature", bad_signature, ours=False),
    ClaimRow("key without signatures", lambda it: {ID: unsigned(it)}, ours=False),
    ClaimRow("key with an empty signatures member", lambda it: {ID: {**unsigned(it), "signatures": {}}}, ours=False),
    ClaimRow(
        "key signed by another user",
        lambda it: {ID: one_time_key(it, signer=Person("@eve:example.org", "DEVICE"))},
        ours=False,
    ),
    ClaimRow(
        "key signed by another key of the same name",
        lambda it: {ID: one_time_key(it, signer=Person(it.user_id, "DEVICE"))},
        ours=False,
    ),
    ClaimRow("key signed by the master key only", lambda it: {ID: it.sign(unsigned(it), "master")}, ours=False),
    ClaimRow("fallback key", signed(fallback=True), ours=True),
    ClaimRow("key that says it is no fallback key", signed(fallback=False), ours=True),
    ClaimRow("key with a fallback member that is a string", signed(fallback="yes"), ours=False),
    ClaimRow(
        "key that was made a fallback key after it was signed",
        lambda it: {ID: one_time_key(it, fallback=True)},
        ours=False,
    ),
    ClaimRow("fallback key that was made none after it was signed", no_fallback_key_any_more, ours=False),
    ClaimRow("key that is a plain string", lambda it: {"curve25519:AAAAAQ": one_time_key(it)["key"]}, ours=False),
    ClaimRow("key of an algorithm nobody knows", lambda it: {"signed_kyber:AAAAAQ": one_time_key(it)}, ours=False),
    ClaimRow(
        "key under an id without a name", lambda it: {"signed_curve25519": one_time_key(it)}, ours=False, alone=True
    ),
    ClaimRow("no key", lambda _: {}, ours=False),
    ClaimRow("key that is null", lambda _: {ID: None}, ours=False),
    ClaimRow("key that is a string", lambda _: {ID: "x"}, ours=False),
    ClaimRow("two keys", lambda it: {ID: one_time_key(it), OTHER_ID: one_time_key(it)}, ours=False),
    ClaimRow(
        "key beside one of another algorithm",
        lambda it: {ID: one_time_key(it), "curve25519:AAAAAg": one_time_key(it)["key"]},
        ours=True,
    ),
    ClaimRow("padded key", padded, ours=True),
    ClaimRow("key of zeros", signed(key=ZEROS), ours=False),
    ClaimRow("key of 31 bytes", signed(key="A" * 42), ours=False),
    ClaimRow("key that is a number", signed(key=1), ours=False),
    ClaimRow(
        "key that is the device's own",
        lambda it: {ID: one_time_key(it, {"key": it.curve25519_key.to_base64()})},
        ours=False,
    ),
    ClaimRow("key with one more signed member", signed(**{"org.example.extra": [None]}), ours=True),
    ClaimRow("key with an unsigned part", lambda it: {ID: one_time_key(it, unsigned={"a": 1.5})}, ours=True),
    ClaimRow("key with a fraction", literal("1.5"), ours=False),
    ClaimRow("key with 1e2, signed as 100", literal("1e2", signed="100"), ours=False),
    ClaimRow("key with -0", literal("-0"), ours=False),
    ClaimRow("key with 2**53", literal("9007199254740992"), ours=False),
    ClaimRow("key with an emoji", literal('"\U0001f600"'), ours=True),
    ClaimRow("key with a lone surrogate", literal(r'"\ud800"'), ours=False),
    ClaimRow("key with nesting of 200", literal("[" * 200 + "]" * 200), ours=False),
    ClaimRow("key with a member that appears twice", literal('{"a":1,"a":2}', signed='{"a":2}'), ours=False),
    ClaimRow("key with NaN", literal("NaN"), ours=False, alone=True),
    ClaimRow("device that is null", lambda _: None, ours=False, alone=True),
    ClaimRow("device that is a list", lambda _: [], ours=False, alone=True),
)


def claim_text(rows: list[tuple[Subject, object]]) -> str:
    """Return one answer about all of them."""
    keys: dict[str, Any] = good_keys(*[it.witness for it, _ in rows])
    literals: dict[str, str] = {}
    for it, made in rows:
        keys[it.person.user_id] = {"DEVICE": made}
        if isinstance(made, Literal):
            literals[it.person.user_id] = made.text
            keys[it.person.user_id] = {"DEVICE": f"HERE {it.person.user_id}"}
    text = claim_answer(keys)
    for user_id, made_text in literals.items():
        text = text.replace(f'"HERE {user_id}"', made_text)
    return text


def user_instead(value: object) -> Callable[[Subject], str]:
    return lambda it: claim_answer({**good_keys(it.witness), it.person.user_id: value})


def claim_with(**members: object) -> Callable[[Subject], str]:
    return lambda it: json.dumps({"one_time_keys": good_keys(*it.people), **members})


def one_key_for_both(it: Subject) -> str:
    keys = good_keys(it.witness)
    (of_witness,) = keys[it.witness.user_id]["DEVICE"].values()
    again = one_time_key(it.person, {"key": of_witness["key"]})
    return claim_answer({**keys, it.person.user_id: {"DEVICE": {ID: again}}})


def unclaimed_device(it: Subject) -> str:
    keys = good_keys(*it.people)
    keys[it.person.user_id]["ELSE"] = {ID: one_time_key(it.person)}
    return claim_answer(keys)


def unclaimed_user(it: Subject) -> str:
    return claim_answer({**good_keys(*it.people), **good_keys(Person("@eve:example.org", "EVE"))})


WHOLE_CLAIMS = (
    WholeClaimRow("user that is null", user_instead(None), ours=False),
    WholeClaimRow("user that is a list", user_instead([]), ours=False),
    WholeClaimRow("one key for two devices", one_key_for_both, ours=True),
    WholeClaimRow("answer that is empty", lambda _: "{}", ours=False),
    WholeClaimRow("answer that is a list", lambda _: "[]", ours=False),
    WholeClaimRow("answer without failures", claim_with(), ours=True),
    WholeClaimRow("answer with failures that are a list", claim_with(failures=[]), ours=True),
    WholeClaimRow("answer with a failure of the user's server", claim_with(failures={"example.org": {}}), ours=True),
    WholeClaimRow("answer about a user nobody asked about", unclaimed_user, ours=True),
    WholeClaimRow("answer about a device nobody asked about", unclaimed_device, ours=True),
)
CLAIMS: tuple[ClaimRow | WholeClaimRow, ...] = (*CLAIMED, *WHOLE_CLAIMS)
