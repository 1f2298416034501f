"""Signers: the specification's vectors to the byte, other people's keys, and nothing that shows a secret."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import logging
import pickle
import traceback
from types import SimpleNamespace
from typing import Any

import attrs
import nacl.signing
import pytest
from hypothesis import given

from json_strategies import few, safe_objects, wild_values
from matrix_e2e_keys import (
    Ed25519PublicKey,
    Ed25519SecretKey,
    Ed25519Signature,
    KeyId,
    LocalProtocolError,
    NaclSigner,
    Reason,
    SignedJson,
    SignedjsonSigner,
    VerificationError,
    VodozemacSigner,
    encode_canonical_json,
    sign_json,
    verify_json,
)
from matrix_e2e_keys.errors import E2EKeysError
from matrix_e2e_keys.signing.signers import SecretKeySigner, add_signature
from matrix_e2e_keys.unpadded_base64 import encode

SEED = bytes(range(101, 133))
SECRET = Ed25519SecretKey(SEED)
SIGNER = SECRET.signer("ed25519:A")

# -- The vectors of the specification --------------------------------------------------------------------------

VECTOR_SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
VECTOR_SIGNER = Ed25519SecretKey.from_base64(VECTOR_SEED).signer("ed25519:1")


def signed_as(signature: str) -> dict[str, Any]:
    return {"domain": {"ed25519:1": signature}}


JSON_VECTORS: dict[str, tuple[dict[str, Any], str]] = {
    "an empty object": (
        {},
        "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
    ),
    "data": (
        {"one": 1, "two": "Two"},
        "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
    ),
}


@pytest.mark.parametrize(("obj", "signature"), JSON_VECTORS.values(), ids=JSON_VECTORS.keys())
def test_the_json_vectors_of_the_specification(obj: dict[str, Any], signature: str) -> None:
    signed = sign_json(obj, entity="domain", signer=VECTOR_SIGNER)
    assert signed == {**obj, "signatures": signed_as(signature)}
    verify_json(signed, entity="domain", key_id="ed25519:1", key=VECTOR_SIGNER.public_key)


EVENT_VECTORS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a small event": (
        {
            "room_id": "!x:domain",
            "sender": "@a:domain",
            "origin": "domain",
            "origin_server_ts": 1000000,
            "signatures": {},
            "hashes": {},
            "type": "X",
            "content": {},
            "prev_events": [],
            "auth_events": [],
            "depth": 3,
            "unsigned": {"age_ts": 1000000},
        },
        "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
        "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
    ),
    "an event with redactable content": (
        {
            "content": {"body": "Here is the message content"},
            "event_id": "$0:domain",
            "origin": "domain",
            "origin_server_ts": 1000000,
            "type": "m.room.message",
            "room_id": "!r:domain",
            "sender": "@u:domain",
            "signatures": {},
            "unsigned": {"age_ts": 1000000},
        },
        "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
        "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
    ),
}


@pytest.mark.parametrize(("event", "content_hash", "signature"), EVENT_VECTORS.values(), ids=EVENT_VECTORS.keys())
def test_the_event_vectors_of_the_specification(event: dict[str, Any], content_hash: str, signature: str) -> None:
    """An event is hashed whole and signed redacted; the types in the vectors keep nothing of their content."""
    hashed = {name: value for name, value in event.items() if name not in ("unsigned", "signatures", "hashes")}
    assert encode(hashlib.sha256(encode_canonical_json(hashed)).digest()) == content_hash
    redacted = {**event, "content": {}, "hashes": {"sha256": content_hash}}
    signed = sign_json(redacted, entity="domain", signer=VECTOR_SIGNER)
    assert signed == {**redacted, "signatures": signed_as(signature)}


def test_the_seed_of_the_specification_has_spare_bits() -> None:
    """attack 1 has one exception: a private seed that our own caller hands in."""
    key = Ed25519SecretKey.from_base64(VECTOR_SEED)
    assert key.export_base64() == VECTOR_SEED[:-1] + "0"
    assert Ed25519SecretKey.from_base64(key.export_base64()).public_key == key.public_key
    assert key.public_key.to_base64() == "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"


def test_rfc_8032() -> None:
    """Section 7.1, test 2."""
    key = Ed25519SecretKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public_key.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").raw.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


# -- Private keys ----------------------------------------------------------------------------------------------


def test_a_private_key() -> None:
    assert SECRET.public_key == Ed25519PublicKey(bytes(nacl.signing.SigningKey(SEED).verify_key))
    assert SECRET.export_base64() == encode(SEED)
    assert SECRET.sign(b"x").raw == nacl.signing.SigningKey(SEED).sign(b"x").signature
    assert Ed25519SecretKey(seed=SEED).public_key == SECRET.public_key
    assert Ed25519SecretKey(SEED) != SECRET
    assert repr(SECRET) == f"<Ed25519SecretKey of {SECRET.public_key.to_base64()}>"


def test_generated_keys_differ() -> None:
    keys = {Ed25519SecretKey.generate().export_base64() for _ in range(8)}
    assert len(keys) == 8
    for seed in keys:
        Ed25519SecretKey.from_base64(seed).public_key.require_prime_order()


@pytest.mark.parametrize(
    "seed", [b"", bytes(31), bytes(33), bytes(64), "a" * 32, bytearray(32), None, 1, [0] * 32], ids=repr
)
def test_what_is_no_seed(seed: Any) -> None:
    """attack 20: 32 bytes and nothing else."""
    with pytest.raises(LocalProtocolError) as caught:
        Ed25519SecretKey(seed)
    assert caught.value.reason is Reason.WRONG_LENGTH


@pytest.mark.parametrize(
    "seed", ["", encode(bytes(31)), encode(bytes(33)), encode(bytes(64)), encode(SEED)[:-1], "A" * 45]
)
def test_what_is_no_seed_in_base64(seed: str) -> None:
    with pytest.raises(LocalProtocolError):
        Ed25519SecretKey.from_base64(seed)


@pytest.mark.parametrize(
    "seed", ["!" * 43, encode(SEED) + "\n", "-" * 43, None, 1, b"A" * 43, "\ud800" * 43, encode(SEED) + "=="]
)
def test_what_is_no_base64_seed(seed: Any) -> None:
    """attack 1: the alphabet and the padding count for seeds too."""
    with pytest.raises(LocalProtocolError) as caught:
        Ed25519SecretKey.from_base64(seed)
    assert caught.value.reason is Reason.INVALID_BASE64


@pytest.mark.parametrize("message", [None, "x", 1, bytearray(b"x"), memoryview(b"x")])
def test_bytes_are_signed(message: Any) -> None:
    """attack 12: nothing that could change under the signature."""
    for signer in (SECRET, SIGNER, NaclSigner.of(nacl.signing.SigningKey(SEED), "ed25519:A")):
        with pytest.raises(LocalProtocolError) as caught:
            signer.sign(message)  # type: ignore[attr-defined]
        assert caught.value.reason is Reason.WRONG_TYPE


# -- attack 24: secrets ----------------------------------------------------------------------------------------


def secrets_of(seed: bytes) -> list[str]:
    """Return every text that gives away eight bytes of ``seed``, in raw, hexadecimal, base64 and as Python writes it."""
    windows = [seed[at : at + 8] for at in range(len(seed) - 7)]
    shown = [text for window in windows for text in (window.decode("latin-1"), window.hex(), repr(window)[2:-1])]
    shown += [str(list(window))[1:-1] for window in windows]
    for at in range(3):
        text = base64.b64encode(seed[at:]).decode()
        shown += [text[start : start + 10] for start in range(len(text) - 12)]
    return shown


def leaks(text: str, seed: bytes = SEED) -> list[str]:
    return [shown for shown in secrets_of(seed) if shown in text or shown.upper() in text]


def test_the_search_finds_secrets() -> None:
    """attack 24: the search itself."""
    for text in (
        repr(SEED),
        SEED.hex(),
        SEED.hex().upper(),
        encode(SEED),
        f"<{encode(SEED)[4:30]}>",
        str(list(SEED)),
        encode(SEED[9:20]),
    ):
        assert leaks(text), text
    assert not leaks(SECRET.public_key.to_base64())


def pickled(value: object) -> str:
    try:
        return pickle.dumps(value).decode("latin-1")
    except LocalProtocolError as error:
        return str(error)


def copied(value: object) -> str:
    try:
        return repr(copy.copy(value)) + repr(copy.deepcopy(value))
    except LocalProtocolError as error:
        return str(error)


def logged(value: object) -> str:
    stream = io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(stream))
    logger.error("%s %r %s", value, value, [value], exc_info=True)
    return stream.getvalue()


def in_a_traceback(value: object) -> str:
    try:
        raise ValueError(value)
    except ValueError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join(shown.format()) + logged(value)


WAYS_OUT: dict[str, Any] = {
    "repr": repr,
    "str": str,
    "format": lambda value: f"{value} {value!s} {value!r} {value!a}",
    "inside a list": lambda value: f"{[value]} { ({'a': value}) }",
    "logging": logged,
    "traceback": in_a_traceback,
    "pickle": pickled,
    "copy": copied,
    "vars": lambda value: str({name: repr(getattr(value, name)) for name in dir(value) if not name.startswith("__")}),
    "asdict": lambda value: str(attrs.asdict(value)),
    "astuple": lambda value: str(attrs.astuple(value)),
}

HOLDERS: dict[str, Any] = {
    "the key": SECRET,
    "a signer": SIGNER,
    "a cross-signer": SECRET.cross_signer(),
    "a PyNaCl signer": NaclSigner.of(nacl.signing.SigningKey(SEED), "ed25519:A"),
}


@pytest.mark.parametrize("way", WAYS_OUT.values(), ids=WAYS_OUT.keys())
@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS.keys())
def test_no_secret_shows(holder: Any, way: Any) -> None:
    """attack 24: in raw, hexadecimal or base64, eight bytes at a time."""
    assert leaks(way(holder)) == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS.keys())
def test_private_keys_are_not_pickled(holder: Any, protocol: int) -> None:
    """attack 24: pickling is refused, also inside something else."""
    for value in (holder, [holder], {"a": holder}):
        with pytest.raises(LocalProtocolError):
            pickle.dumps(value, protocol)


def test_private_keys_are_not_copied() -> None:
    """attack 24: copy goes the way of pickle."""
    for make in (copy.copy, copy.deepcopy):
        with pytest.raises(LocalProtocolError):
            make(SECRET)


@pytest.mark.parametrize(
    "seed", [encode(SEED) + "AAAA", encode(SEED)[:-1], encode(SEED) + "!", SEED[:31], SEED + b"x", SEED.hex()]
)
def test_errors_do_not_quote_a_seed(seed: Any) -> None:
    """attack 24: a malformed seed may be most of a good one."""
    make: Any = Ed25519SecretKey.from_base64 if isinstance(seed, str) else Ed25519SecretKey
    with pytest.raises(E2EKeysError) as caught:
        make(seed)
    assert leaks("".join(traceback.format_exception(caught.value)) + repr(caught.value.args)) == []


# -- Signers ---------------------------------------------------------------------------------------------------


def test_a_signer_goes_by_its_key_id() -> None:
    assert SIGNER.key_id == KeyId("ed25519", "A")
    assert SIGNER.public_key == SECRET.public_key
    assert SECRET.signer(KeyId("ed25519", "A")) == SIGNER
    assert type(SIGNER) is SecretKeySigner
    assert SECRET.cross_signer().key_id == KeyId("ed25519", SECRET.public_key.to_base64())


BAD_KEY_IDS = {
    "another algorithm": ("curve25519:A", Reason.UNSUPPORTED_ALGORITHM),
    "capitals": ("ED25519:A", Reason.UNSUPPORTED_ALGORITHM),
    "a similar algorithm": ("ed25519ph:A", Reason.UNSUPPORTED_ALGORITHM),
    "a typed key id": (KeyId("curve25519", "A"), Reason.UNSUPPORTED_ALGORITHM),
    "no name": ("ed25519:", Reason.INVALID_KEY_ID),
    "no colon": ("ed25519", Reason.INVALID_KEY_ID),
    "nothing": ("", Reason.INVALID_KEY_ID),
    "no string": (None, Reason.WRONG_TYPE),
    "bytes": (b"ed25519:A", Reason.WRONG_TYPE),
}


@pytest.mark.parametrize(("key_id", "reason"), BAD_KEY_IDS.values(), ids=BAD_KEY_IDS.keys())
def test_an_ed25519_key_signs_as_ed25519(key_id: Any, reason: Reason) -> None:
    """attack 13: no signer goes by a key id of another algorithm."""
    for make in (SECRET.signer, lambda value: NaclSigner.of(nacl.signing.SigningKey(SEED), value)):
        with pytest.raises(LocalProtocolError) as caught:
            make(key_id)
        assert (caught.value.reason, caught.value.path) == (reason, "/key_id")


def test_a_pynacl_key_signs() -> None:
    signer = NaclSigner.of(nacl.signing.SigningKey(SEED), "ed25519:A")
    assert signer.public_key == SECRET.public_key
    assert sign_json({"a": 1}, entity="@a:b", signer=signer) == sign_json({"a": 1}, entity="@a:b", signer=SIGNER)


@pytest.mark.parametrize("key", [None, SEED, SECRET, nacl.signing.SigningKey(SEED).verify_key, nacl.signing.SigningKey])
def test_a_pynacl_signer_needs_a_pynacl_key(key: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        NaclSigner.of(key, "ed25519:A")
    assert caught.value.reason is Reason.WRONG_TYPE


def signedjson_like(**attributes: Any) -> Any:
    key = nacl.signing.SigningKey(SEED)
    for name, value in attributes.items():
        setattr(key, name, value)
    return key


def test_a_key_that_carries_its_key_id_signs() -> None:
    signer = SignedjsonSigner.of(signedjson_like(alg="ed25519", version="A"))
    assert sign_json({"a": 1}, entity="@a:b", signer=signer) == sign_json({"a": 1}, entity="@a:b", signer=SIGNER)


BAD_SIGNEDJSON_KEYS = {
    "no key id": signedjson_like(),
    "no version": signedjson_like(alg="ed25519"),
    "a version that is no string": signedjson_like(alg="ed25519", version=1),
    "an empty version": signedjson_like(alg="ed25519", version=""),
    "another algorithm": signedjson_like(alg="curve25519", version="A"),
    "no key": SimpleNamespace(alg="ed25519", version="A"),
    "nothing": None,
}


@pytest.mark.parametrize("key", BAD_SIGNEDJSON_KEYS.values(), ids=BAD_SIGNEDJSON_KEYS.keys())
def test_what_signs_no_json(key: Any) -> None:
    with pytest.raises(LocalProtocolError):
        SignedjsonSigner.of(key)


class Account:
    """The face of an account of another library, around a key of ours."""

    def __init__(self, public_key: Any = None) -> None:
        self.ed25519_key = SECRET.public_key if public_key is None else public_key

    def sign(self, message: bytes, /) -> Ed25519Signature:
        return SECRET.sign(message)


def test_an_account_signs_for_its_device() -> None:
    signer = VodozemacSigner.of(Account(), "A")  # type: ignore[arg-type]
    assert signer.key_id == KeyId("ed25519", "A")
    assert sign_json({"a": 1}, entity="@a:b", signer=signer) == sign_json({"a": 1}, entity="@a:b", signer=SIGNER)
    assert "Account" not in repr(signer)


class Texts:
    def __init__(self, text: Any) -> None:
        self.text = text

    def to_base64(self) -> Any:
        return self.text


BAD_ACCOUNTS = {
    "nothing": None,
    "no key": object(),
    "a key that is text": Account("x"),
    "a malformed key": Account(Texts("!")),
    "a weak key": Account(Texts(encode(bytes(32)))),
    "a key that is none": Account(Texts(None)),
    "a key without methods": SimpleNamespace(ed25519_key=SimpleNamespace(to_base64="x")),
}


@pytest.mark.parametrize("account", BAD_ACCOUNTS.values(), ids=BAD_ACCOUNTS.keys())
def test_what_is_no_account(account: Any) -> None:
    with pytest.raises(LocalProtocolError):
        VodozemacSigner.of(account, "A")


@pytest.mark.parametrize("device_id", ["", None, 1, b"A"])
def test_an_account_signs_for_a_device_only(device_id: Any) -> None:
    with pytest.raises(LocalProtocolError):
        VodozemacSigner.of(Account(), device_id)  # type: ignore[arg-type]


# -- Signing ---------------------------------------------------------------------------------------------------


def test_signing_adds_to_what_is_there() -> None:
    obj = {
        "a": 1,
        "signatures": {"@a:b": {"ed25519:B": "kept", "x": ""}, "@c:d": {}},
        "unsigned": {"age": 1.5, "x": [None]},
    }
    before = copy.deepcopy(obj)
    signed: Any = sign_json(obj, entity="@a:b", signer=SIGNER)
    assert obj == before
    text = signed["signatures"]["@a:b"].pop("ed25519:A")
    assert signed == before
    assert text == SECRET.sign(b'{"a":1}').to_base64()


def test_a_signature_is_replaced() -> None:
    other = Ed25519SecretKey(bytes(32)).signer("ed25519:A")
    once = sign_json({"a": 1}, entity="@a:b", signer=other)
    assert sign_json(once, entity="@a:b", signer=SIGNER) == sign_json({"a": 1}, entity="@a:b", signer=SIGNER)
    with pytest.raises(VerificationError):
        verify_json(once, entity="@a:b", key_id="ed25519:A", key=SECRET.public_key)


CANNOT_SIGN: dict[str, tuple[Any, Reason, str]] = {
    "no object": ([], Reason.WRONG_TYPE, ""),
    "nothing": (None, Reason.WRONG_TYPE, ""),
    "a float": ({"a": [1.5]}, Reason.NOT_AN_INTEGER, "/a/0"),
    "a tuple": ({"a": (1,)}, Reason.NOT_A_JSON_VALUE, "/a"),
    "a number as name": ({1: 1}, Reason.NOT_A_JSON_VALUE, "/<int 0>"),
    "a lone surrogate": ({"a": "\ud800"}, Reason.LONE_SURROGATE, "/a"),
    "signatures that are none": ({"signatures": []}, Reason.WRONG_TYPE, "/signatures"),
    "signatures null": ({"signatures": None}, Reason.WRONG_TYPE, "/signatures"),
    "signatures of an entity that are none": ({"signatures": {"a/b": None}}, Reason.WRONG_TYPE, "/signatures/a~1b"),
    "a signature that is none": ({"signatures": {"a": {"b": 1}}}, Reason.WRONG_TYPE, "/signatures/a/b"),
}


@pytest.mark.parametrize(("obj", "reason", "path"), CANNOT_SIGN.values(), ids=CANNOT_SIGN.keys())
def test_what_cannot_be_signed(obj: Any, reason: Reason, path: str) -> None:
    """attack 2: the mistake is our caller's, and the object stays as it was."""
    before = repr(obj)
    with pytest.raises(LocalProtocolError) as caught:
        sign_json(obj, entity="@a:b", signer=SIGNER)
    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert repr(obj) == before


class Broken:
    """A signer that does one thing wrong."""

    def __init__(self, **parts: Any) -> None:
        self.key_id: Any = KeyId("ed25519", "A")
        self.public_key: Any = SECRET.public_key
        self.signature: Any = None
        for name, value in parts.items():
            setattr(self, name, value)

    def sign(self, message: bytes, /) -> Any:
        return SECRET.sign(message) if self.signature is None else self.signature


BROKEN_SIGNERS = {
    "another public key": (Broken(public_key=Ed25519SecretKey(bytes(32)).public_key), Reason.INVALID_SIGNATURE),
    "a public key that is none": (Broken(public_key=SECRET.public_key.raw), Reason.WRONG_TYPE),
    "a constant signature": (Broken(signature=Ed25519Signature(bytes(64))), Reason.INVALID_SIGNATURE),
    "a signature that is none": (Broken(signature=SECRET.sign(b"{}").raw), Reason.WRONG_TYPE),
    "a key id of another algorithm": (Broken(key_id=KeyId("curve25519", "A")), Reason.UNSUPPORTED_ALGORITHM),
    "a key id that is none": (Broken(key_id="A"), Reason.INVALID_KEY_ID),
}


@pytest.mark.parametrize(("signer", "reason"), BROKEN_SIGNERS.values(), ids=BROKEN_SIGNERS.keys())
def test_a_broken_signer_is_found_where_it_signs(signer: Any, reason: Reason) -> None:
    """attack 13: a signature that does not fit the public key is never handed out."""
    with pytest.raises(LocalProtocolError) as caught:
        sign_json({"a": 1}, entity="@a:b", signer=signer)
    assert caught.value.reason is reason


@pytest.mark.parametrize("entity", [None, 1, b"@a:b", ["@a:b"]])
def test_an_entity_is_a_string(entity: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        sign_json({}, entity=entity, signer=SIGNER)
    assert caught.value.reason is Reason.WRONG_TYPE


@pytest.mark.parametrize(
    "signer", [None, "ed25519:A", SECRET, object()], ids=["None", "text", "a secret key", "object"]
)
def test_a_signer_is_a_signer(signer: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        sign_json({}, entity="@a:b", signer=signer)
    assert caught.value.reason is Reason.WRONG_TYPE


def test_add_signature() -> None:
    signed = SignedJson.from_json({"a": 1})
    again = add_signature(signed, entity="@a:b", signer=SIGNER)
    assert signed.signatures == {}
    again.verify(entity="@a:b", key_id="ed25519:A", key=SECRET.public_key)
    assert again == signed


@few
@given(safe_objects)
def test_whatever_is_signed_verifies(obj: dict[str, Any]) -> None:
    obj.pop("signatures", None)
    before = copy.deepcopy(obj)
    signed = sign_json(obj, entity="@a:b", signer=SIGNER)
    assert obj == before
    verify_json(signed, entity="@a:b", key_id="ed25519:A", key=SECRET.public_key)
    assert {name: value for name, value in signed.items() if name != "signatures"} == obj


@few
@given(wild_values)
def test_anything_is_signed_or_refused(value: Any) -> None:
    """attack 2: only our errors, for any Python value, and it stays as it was."""
    for obj in (value, {"a": value}, {"signatures": value}, {"signatures": {"@a:b": value}}, {"unsigned": value}):
        before = repr(obj)
        try:
            signed = sign_json(obj, entity="@a:b", signer=SIGNER)
        except LocalProtocolError as error:
            str(error).encode()
        else:
            verify_json(signed, entity="@a:b", key_id="ed25519:A", key=SECRET.public_key)
        assert repr(obj) == before
