"""Answers to a ``/keys/query``, each with something special about one user: text, as no honest encoder writes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from interop import answers
from interop.answers import Answer, good_answer
from interop.people import Person
from interop.test_olm_verdicts import ROWS
from interop.verdicts import Subject, View, query_answer
from matrix_e2e_keys import Ed25519SecretKey
from matrix_e2e_keys.models.cross_signing import Usage

GOOD = View("first+", "first", witness=True, sent=True)
NOT_SIGNED = View("first", "first", witness=True, sent=True)
NO_IDENTITY = View("first", "", witness=True, sent=True)
NO_DEVICE = View("", "first", witness=True, sent=False)
NO_OLM = View("first+", "first", witness=True, sent=False)
NO_DEVICES_AT_ALL = View("", "first", witness=False, sent=False)
NOTHING = View("", "", witness=False, sent=False)


class Row(NamedTuple):
    """What stands in an answer about one user.

    Attributes:
        name: what is special about it.
        answer: makes it.
        ours: what we know after it, if nothing was known before; ``None`` where another table says so.
        known: what we know after it, if a good answer came before.
        alone: nobody else may be in the answer.
    """

    name: str
    answer: Callable[[Subject], Answer]
    ours: View | None
    known: View = GOOD
    alone: bool = False


class WholeRow(NamedTuple):
    """An answer that is special as a whole. See :class:`Row`."""

    name: str
    text: Callable[[Subject], str]
    ours: View
    known: View = GOOD


def device(make: Callable[[Person], str]) -> Callable[[Subject], Answer]:
    """Return what makes an answer with another device."""
    return lambda it: good_answer(it.person)._replace(device=make(it.person))


def signed_device(change: Callable[[Person], Mapping[str, object]]) -> Callable[[Subject], Answer]:
    """Return what makes an answer with a device that was changed before it was signed."""
    return device(lambda it: answers.device(it, change(it)))


def signed_key(usage: Usage, change: Callable[[Person], Mapping[str, object]]) -> Callable[[Subject], Answer]:
    """Return what makes an answer with a cross-signing key that was changed before it was signed."""
    return key(usage, lambda it: answers.key(it, usage, change(it)))


def key(usage: Usage, make: Callable[[Person], str]) -> Callable[[Subject], Answer]:
    """Return what makes an answer with another cross-signing key."""
    return lambda it: good_answer(it.person)._replace(**{usage: make(it.person)})


def device_keys(person: Person, **changes: object) -> dict[str, dict[str, object]]:
    keys: dict[str, object] = {
        "ed25519": person.signer.public_key.to_base64(),
        "curve25519": person.curve25519_key.to_base64(),
        **changes,
    }
    return {"keys": {f"{algorithm}:DEVICE": text for algorithm, text in keys.items() if text is not None}}


def one_key(text: str, value: str | None = None) -> dict[str, object]:
    """Return the member ``keys`` of a cross-signing key."""
    return {"keys": {f"ed25519:{text}": text if value is None else value}}


def fresh_text() -> str:
    return Ed25519SecretKey.generate().public_key.to_base64()


def signature(change: Callable[[str], object]) -> Callable[[Subject], Answer]:
    """Return what makes an answer with a device whose own signature is written in another way."""

    def make(person: Person) -> str:
        obj = json.loads(answers.device(person))
        of_user = obj["signatures"][person.user_id]
        of_user["ed25519:DEVICE"] = change(of_user["ed25519:DEVICE"])
        return json.dumps(obj)

    return device(make)


def signatures(literal: str) -> Callable[[Subject], Answer]:
    """Return what makes an answer with a device that has something else in the place of its signatures."""
    return device(lambda it: answers.with_member(answers.without_signatures(answers.device(it)), "signatures", literal))


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
ZEROS = "A" * 43
IDENTITY_POINT = "AQ" + "A" * 41


def other_last_bits(text: str) -> str:
    """The same bytes; the bits of the last character that mean nothing are not zero."""
    return text[:-1] + ALPHABET[ALPHABET.index(text[-1]) + 1]


def in_url_safe_alphabet(text: str) -> str:
    return (text[:-1] + "-") if text.isalnum() else text.replace("+", "-").replace("/", "_")


def with_many_signatures(person: Person) -> str:
    obj = json.loads(answers.device(person))
    obj["signatures"][person.user_id] |= {f"ed25519:X{number}": "A" * 86 for number in range(200)}
    obj["signatures"]["@eve:example.org"] = {"ed25519:E": "A" * 86}
    return json.dumps(obj)


def with_signature_for_everything(person: Person) -> str:
    """A key of small order, and a signature that some take for good over any message."""
    content = {**answers.content(person), **device_keys(person, ed25519=IDENTITY_POINT)}
    return json.dumps({**content, "signatures": {person.user_id: {"ed25519:DEVICE": "AQ" + "A" * 84}}})


def beside_an_unsigned_one(it: Subject) -> Answer:
    bad = answers.without_signatures(answers.device(Person(it.person.user_id, "BAD")))
    return good_answer(it.person)._replace(devices=f'{{"BAD":{bad},"DEVICE":{answers.device(it.person)}}}')


def beside_one_with_its_curve25519_key(it: Subject) -> Answer:
    twin = Person(it.person.user_id, "TWIN")
    keys = {"ed25519:TWIN": twin.signer.public_key.to_base64(), "curve25519:TWIN": it.person.curve25519_key.to_base64()}
    device_text = answers.device(it.person)
    return good_answer(it.person)._replace(
        devices=f'{{"DEVICE":{device_text},"TWIN":{answers.device(twin, {"keys": keys})}}}'
    )


def signed_by(signer: Callable[[Person], Person], *usages: Usage, by_device: bool = False) -> Callable[[Person], str]:
    """Return what makes a self-signing key with another signature than that of its owner's master key."""

    def make(person: Person) -> str:
        unsigned = json.loads(answers.without_signatures(answers.key(person, "self_signing")))
        return json.dumps(signer(person).sign(unsigned, *usages, device=by_device))

    return make


def other_device_of_the_same_identity(it: Subject) -> Answer:
    signed = it.person.sign(it.other.device_keys().to_json(), "self_signing")
    return good_answer(it.person)._replace(device=json.dumps(signed))


def other_identity(it: Subject, *kept: Usage) -> Answer:
    """The same device, cross-signed by another identity."""
    heir = Person(it.person.user_id, it.person.device_id)
    heir.account, heir.signer = it.person.account, it.person.signer
    heir.secrets |= {usage: it.person.secrets[usage] for usage in kept}
    return good_answer(heir)


DEVICES = (
    Row("device with a padded signature", signature(lambda text: text + "=="), GOOD),
    Row("device with a signature that ends in other bits", signature(other_last_bits), NO_DEVICE),
    Row("device with a signature in the URL-safe alphabet", signature(in_url_safe_alphabet), NO_DEVICE),
    Row("device with a signature of 63 bytes", signature(lambda text: text[:84]), NO_DEVICE),
    Row("device with a signature that is null", signature(lambda _: None), NO_DEVICE),
    Row("device with a signature that is a number", signature(lambda _: 1), NO_DEVICE),
    Row("device with signatures that are null", signatures("null"), NO_DEVICE),
    Row("device with signatures that are a list", signatures("[]"), NO_DEVICE),
    Row("device with two hundred more signatures", device(with_many_signatures), GOOD),
    Row(
        "device with a padded curve25519 key",
        signed_device(lambda it: device_keys(it, curve25519=it.curve25519_key.to_base64() + "=")),
        GOOD,
    ),
    Row(
        "device with a curve25519 key of zeros",
        signed_device(lambda it: device_keys(it, curve25519=ZEROS)),
        NO_DEVICE,
    ),
    Row(
        "device with a curve25519 key of 31 bytes",
        signed_device(lambda it: device_keys(it, curve25519="A" * 42)),
        NO_DEVICE,
    ),
    Row(
        "device with a curve25519 key that is its ed25519 key",
        signed_device(lambda it: device_keys(it, curve25519=it.signer.public_key.to_base64())),
        NO_DEVICE,
    ),
    Row(
        "device with an ed25519 key of small order, and a signature for everything",
        device(with_signature_for_everything),
        NO_DEVICE,
    ),
    Row(
        "device with a key of an algorithm nobody knows",
        signed_device(lambda it: device_keys(it, kyber="AAAA")),
        GOOD,
    ),
    Row(
        "device with an ed25519 key of another device beside its own",
        signed_device(lambda it: {"keys": {**device_keys(it)["keys"], "ed25519:ELSE": fresh_text()}}),
        NO_DEVICE,
    ),
    Row("device without an ed25519 key", signed_device(lambda it: device_keys(it, ed25519=None)), NO_DEVICE),
    Row("device with a key that is a number", signed_device(lambda it: device_keys(it, ed25519=1)), NO_DEVICE),
    Row("device with keys that are a list", signed_device(lambda _: {"keys": []}), NO_DEVICE),
    Row("device with a user id that is null", signed_device(lambda _: {"user_id": None}), NO_DEVICE),
    Row("device with algorithms that are a string", signed_device(lambda _: {"algorithms": "x"}), NO_DEVICE),
    Row("device with an algorithm that is a number", signed_device(lambda _: {"algorithms": [1]}), NO_DEVICE),
    Row(
        "device with algorithms nobody knows",
        signed_device(lambda _: {"algorithms": ["m.olm.v9", "m.megolm.v9"]}),
        NO_OLM,
        NO_OLM,
    ),
    Row("device without Olm", signed_device(lambda _: {"algorithms": ["m.megolm.v1.aes-sha2"]}), NO_OLM, NO_OLM),
    Row(
        "device with an unsigned part that is null",
        device(lambda it: answers.with_member(answers.device(it), "unsigned", "null")),
        GOOD,
    ),
    Row("device beside one that nobody signed", beside_an_unsigned_one, GOOD),
    Row("device beside one with the same curve25519 key", beside_one_with_its_curve25519_key, GOOD),
)

IDENTITIES = (
    Row(
        "master key that is padded",
        signed_key("master", lambda it: one_key(it.public_text("master"), it.public_text("master") + "=")),
        NO_IDENTITY,
    ),
    Row("master key of small order", signed_key("master", lambda _: one_key(IDENTITY_POINT)), NO_IDENTITY),
    Row("master key without keys", signed_key("master", lambda _: {"keys": {}}), NO_IDENTITY),
    Row(
        "master key of an algorithm nobody knows",
        signed_key("master", lambda it: {"keys": {f"kyber:{it.public_text('master')}": it.public_text("master")}}),
        NO_IDENTITY,
    ),
    Row(
        "master key with all three usages",
        signed_key("master", lambda _: {"usage": ["master", "self_signing", "user_signing"]}),
        NO_IDENTITY,
    ),
    Row("master key with a usage that is a string", signed_key("master", lambda _: {"usage": "master"}), NO_IDENTITY),
    Row("master key without usage", signed_key("master", lambda _: {"usage": []}), NO_IDENTITY),
    Row("master key with one more member", signed_key("master", lambda _: {"org.example.extra": [1]}), GOOD),
    Row(
        "self-signing key with one more signed member",
        signed_key("self_signing", lambda _: {"org.example.extra": {"a": None}}),
        GOOD,
    ),
    Row(
        "self-signing key that is the master key",
        signed_key("self_signing", lambda it: one_key(it.public_text("master"))),
        NO_IDENTITY,
    ),
    Row(
        "self-signing key that is the key of the device",
        signed_key("self_signing", lambda it: one_key(it.signer.public_key.to_base64())),
        NO_DEVICE,
        NOT_SIGNED,
    ),
    Row(
        "self-signing key that another user signed",
        key("self_signing", signed_by(lambda _: Person("@eve:example.org", "EVE"), "master")),
        NO_IDENTITY,
    ),
    Row(
        "self-signing key that the device signed",
        key("self_signing", signed_by(lambda it: it, by_device=True)),
        NO_IDENTITY,
    ),
    Row(
        "self-signing key that it signed itself",
        key("self_signing", signed_by(lambda it: it, "self_signing")),
        NO_IDENTITY,
    ),
)

CHANGES = (
    Row(
        "another ed25519 key",
        lambda it: good_answer(it.person)._replace(device=answers.device(it.other)),
        View("other", "first", witness=True, sent=True),
    ),
    Row(
        "another ed25519 key, signed by the identity",
        other_device_of_the_same_identity,
        View("other+", "first", witness=True, sent=True),
    ),
    Row(
        "another curve25519 key",
        signed_device(lambda it: device_keys(it, curve25519=Person("@a:b", "C").curve25519_key.to_base64())),
        View("changed+", "first", witness=True, sent=True),
        View("changed+", "first", witness=True, sent=True),
    ),
    Row(
        "other algorithms",
        signed_device(lambda _: {"algorithms": ["m.olm.v1.curve25519-aes-sha2"]}),
        GOOD,
    ),
    Row("no identity", lambda it: good_answer(it.person)._replace(master=None, self_signing=None), NO_IDENTITY),
    Row(
        "another identity",
        other_identity,
        View("first+", "other", witness=True, sent=True),
        View("first+", "other", witness=True, sent=True),
    ),
    Row("another self-signing key", lambda it: other_identity(it, "master"), GOOD),
    Row(
        "another master key, and the same self-signing key",
        signed_key("master", lambda _: one_key(fresh_text())),
        NO_IDENTITY,
    ),
)


def without(name: str) -> Callable[[Subject], str]:
    """Return what makes an answer without one of its members."""

    def make(it: Subject) -> str:
        obj = json.loads(good_text(it))
        del obj[name]
        return json.dumps(obj)

    return make


def member(name: str, literal: str) -> Callable[[Subject], str]:
    """Return what makes an answer with something else in the place of one of its members."""
    return lambda it: answers.with_member(without(name)(it), name, literal)


def good_text(it: Subject) -> str:
    return query_answer([(it, good_answer(it.person))])


def beside(text: Callable[[], str]) -> Callable[[Subject], str]:
    """Return what makes an answer with one more user."""
    return lambda it: query_answer([(it, good_answer(it.person)._replace(others=text() + ","))])


def eve() -> str:
    return answers.device(Person("@eve:example.org", "EVE"))


WHOLE = (
    WholeRow("answer without devices", without("device_keys"), NO_DEVICES_AT_ALL),
    WholeRow("answer without master keys", without("master_keys"), NO_IDENTITY),
    WholeRow("answer without self-signing keys", without("self_signing_keys"), NO_IDENTITY),
    WholeRow("answer without user-signing keys", without("user_signing_keys"), GOOD),
    WholeRow("answer without failures", without("failures"), GOOD),
    WholeRow("answer with devices that are null", member("device_keys", "null"), NO_DEVICES_AT_ALL),
    WholeRow("answer with devices that are a list", member("device_keys", "[]"), NO_DEVICES_AT_ALL),
    WholeRow("answer with master keys that are null", member("master_keys", "null"), NO_IDENTITY),
    WholeRow("answer with master keys that are a list", member("master_keys", "[]"), NO_IDENTITY),
    WholeRow("answer with failures that are a list", member("failures", "[]"), GOOD),
    WholeRow("answer with a failure of the user's server", member("failures", '{"example.org":{}}'), GOOD),
    WholeRow("answer with one more member", lambda it: answers.with_member(good_text(it), "x", '{"a":1.5}'), GOOD),
    WholeRow("answer that is empty", lambda _: "{}", NOTHING),
    WholeRow("answer that is a list", lambda _: "[]", NOTHING),
    WholeRow("answer that is no JSON", lambda _: "{", NOTHING),
    WholeRow("answer about a user nobody asked about", beside(lambda: f'"@eve:example.org":{{"EVE":{eve()}}}'), GOOD),
    WholeRow("answer about something that is no user id", beside(lambda: f'"eve":{{"EVE":{eve()}}}'), GOOD),
    WholeRow(
        "answer about a user that is null, and nobody asked about", beside(lambda: '"@eve:example.org":null'), GOOD
    ),
    WholeRow(
        "answer with NaN in a device of somebody else", beside(lambda: '"@eve:example.org":{"EVE":{"a":NaN}}'), GOOD
    ),
)

SPOIL_EVERYTHING = {"NaN", "user that is null", "user that is a list"}
"""Rows of the other table that the OlmMachine refuses together with all the others."""


def of_the_first(make: Callable[[Person], Answer], it: Subject) -> Answer:
    """Return an answer with the keys that are the first."""
    return make(it.person)


ANSWERS = (
    *DEVICES,
    *IDENTITIES,
    *CHANGES,
    *(Row(row.name, partial(of_the_first, row.answer), None, alone=row.name in SPOIL_EVERYTHING) for row in ROWS),
)
QUERIES: tuple[Row | WholeRow, ...] = (*ANSWERS, *WHOLE)
