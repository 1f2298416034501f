"""Against other implementations, on the subset that all of them read alike, in both directions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import few, modest, safe_objects, safe_values
from matrix_e2e_keys import (
    Ed25519PublicKey,
    Ed25519SecretKey,
    Ed25519Signature,
    SignedjsonSigner,
    VerificationError,
    VodozemacSigner,
    encode_canonical_json,
    parse_json,
    sign_json,
    verify_json,
)
from matrix_e2e_keys.canonical_json import encode_objects
from matrix_e2e_keys.unpadded_base64 import decode, encode

ENTITY = "@alice:example.org"

signable = st.dictionaries(st.text(max_size=8), safe_values, max_size=5).map(
    lambda obj: {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")}
)
unsigned_parts = st.none() | safe_objects
seeds = st.binary(min_size=32, max_size=32)
signatures_of_others = st.dictionaries(
    st.sampled_from([ENTITY, "@bob:b", "example.org"]),
    st.dictionaries(st.sampled_from(["ed25519:Z", "x"]), st.text(max_size=5)),
    max_size=3,
)


# -- canonicaljson ---------------------------------------------------------------------------------------------


@modest
@given(safe_values)
def test_canonical_json_agrees_with_canonicaljson(value: Any) -> None:
    canonicaljson = pytest.importorskip("canonicaljson")
    theirs = canonicaljson.encode_canonical_json(value)
    assert encode_canonical_json(value) == theirs
    assert parse_json(theirs) == value
    assert b"".join(canonicaljson.iterencode_canonical_json(value)) == theirs


@modest
@given(st.lists(safe_objects, max_size=5))
def test_many_objects_agree_with_canonicaljson(objects: list[dict[str, Any]]) -> None:
    canonicaljson = pytest.importorskip("canonicaljson")
    assert encode_objects(objects) == [canonicaljson.encode_canonical_json(value) for value in objects]


# -- unpaddedbase64 --------------------------------------------------------------------------------------------


@modest
@given(st.binary(max_size=80))
def test_base64_agrees_with_unpaddedbase64(raw: bytes) -> None:
    unpaddedbase64 = pytest.importorskip("unpaddedbase64")
    assert encode(raw) == unpaddedbase64.encode_base64(raw)
    assert decode(encode(raw)) == unpaddedbase64.decode_base64(encode(raw)) == raw


# -- signedjson ------------------------------------------------------------------------------------------------


def signedjson_key(seed: bytes, version: str) -> Any:
    module = pytest.importorskip("signedjson.key")
    return module.decode_signing_key_base64("ed25519", version, encode(seed))


@few
@given(signable, signatures_of_others, unsigned_parts, seeds)
def test_signing_agrees_with_signedjson(obj: dict[str, Any], signatures: Any, unsigned: Any, seed: bytes) -> None:
    """The two make the same object, with our key and with theirs."""
    sign = pytest.importorskip("signedjson.sign")
    whole = {**obj, "signatures": signatures}
    if unsigned is not None:
        whole["unsigned"] = unsigned
    key = signedjson_key(seed, "A")
    theirs = sign.sign_json(copy.deepcopy(whole), ENTITY, key)
    ours = sign_json(whole, entity=ENTITY, signer=Ed25519SecretKey(seed).signer("ed25519:A"))
    adapted = sign_json(whole, entity=ENTITY, signer=SignedjsonSigner.of(key))
    assert ours == adapted == theirs


@few
@given(signable, unsigned_parts, seeds)
def test_each_verifies_what_the_other_signed(obj: dict[str, Any], unsigned: Any, seed: bytes) -> None:
    sign = pytest.importorskip("signedjson.sign")
    key = signedjson_key(seed, "A")
    ours = Ed25519SecretKey(seed)
    whole = obj if unsigned is None else {**obj, "unsigned": unsigned}
    verify_json(
        sign.sign_json(copy.deepcopy(whole), ENTITY, key), entity=ENTITY, key_id="ed25519:A", key=ours.public_key
    )
    verify_key = pytest.importorskip("signedjson.key").get_verify_key(key)
    sign.verify_signed_json(sign_json(whole, entity=ENTITY, signer=ours.signer("ed25519:A")), ENTITY, verify_key)


@few
@given(signable, safe_values, seeds, st.integers(0, 511))
def test_both_refuse_what_was_changed(obj: dict[str, Any], other: Any, seed: bytes, bit: int) -> None:
    sign = pytest.importorskip("signedjson.sign")
    key = signedjson_key(seed, "A")
    verify_key = pytest.importorskip("signedjson.key").get_verify_key(key)
    whole: Any = sign_json(obj, entity=ENTITY, signer=Ed25519SecretKey(seed).signer("ed25519:A"))
    flipped = bytearray(decode(whole["signatures"][ENTITY]["ed25519:A"]) or b"")
    flipped[bit // 8] ^= 1 << bit % 8
    for altered in (
        {**whole, "signatures": {ENTITY: {"ed25519:A": encode(bytes(flipped))}}},
        {**whole, "new": [other]} if obj.get("new") != [other] else {},
        {**whole, "signatures": {}},
        {**whole, "signatures": {ENTITY: {"ed25519:B": encode(bytes(flipped))}}},
    ):
        with pytest.raises(sign.SignatureVerifyException):
            sign.verify_signed_json(copy.deepcopy(altered), ENTITY, verify_key)
        with pytest.raises(VerificationError):
            verify_json(altered, entity=ENTITY, key_id="ed25519:A", key=Ed25519SecretKey(seed).public_key)


# -- vodozemac -------------------------------------------------------------------------------------------------


@few
@given(signable)
def test_vodozemac_signs_for_us(obj: dict[str, Any]) -> None:
    vodozemac = pytest.importorskip("vodozemac")
    account = vodozemac.Account()
    signer = VodozemacSigner.of(account, "DEVICE")
    assert signer.public_key.to_base64() == account.ed25519_key.to_base64()
    whole = sign_json(obj, entity=ENTITY, signer=signer)
    key = Ed25519PublicKey.from_base64(account.ed25519_key.to_base64())
    verify_json(whole, entity=ENTITY, key_id="ed25519:DEVICE", key=key)


@few
@given(signable, seeds)
def test_vodozemac_verifies_what_we_sign(obj: dict[str, Any], seed: bytes) -> None:
    vodozemac = pytest.importorskip("vodozemac")
    secret = Ed25519SecretKey(seed)
    whole: Any = sign_json(obj, entity=ENTITY, signer=secret.signer("ed25519:A"))
    key = vodozemac.Ed25519PublicKey.from_base64(secret.public_key.to_base64())
    signature = vodozemac.Ed25519Signature.from_base64(whole["signatures"][ENTITY]["ed25519:A"])
    key.verify_signature(encode_canonical_json(obj), signature)
    with pytest.raises(vodozemac.SignatureException):
        key.verify_signature(encode_canonical_json(obj) + b" ", signature)


def test_vodozemac_refuses_another_message() -> None:
    vodozemac = pytest.importorskip("vodozemac")
    account = vodozemac.Account()
    signer = VodozemacSigner.of(account, "DEVICE")
    signature = signer.sign(b"one")
    assert type(signature) is Ed25519Signature
    assert "Account" not in repr(signer)
    whole = sign_json({"a": 1}, entity=ENTITY, signer=signer)
    with pytest.raises(VerificationError):
        verify_json({**whole, "a": 2}, entity=ENTITY, key_id="ed25519:DEVICE", key=signer.public_key)


@pytest.mark.parametrize("name", ["Curve25519PublicKey", "Ed25519PublicKey", "Ed25519Signature"])
@pytest.mark.parametrize("change", ["nothing", "padding", "spare bits", "url-safe", "space", "cut off"])
def test_vodozemac_reads_the_same_texts(name: str, change: str) -> None:
    """attack 1: what is a text of a key, and what is not."""
    import matrix_e2e_keys  # noqa: PLC0415

    vodozemac = pytest.importorskip("vodozemac")
    raw = b"\xfb" * (63 if "Signature" in name else 31) + b"\x01"
    if name == "Ed25519PublicKey":
        raw = Ed25519SecretKey(bytes(32)).public_key.raw
    text = encode(raw)
    text = {
        "nothing": text,
        "padding": text + "=" * (-len(text) % 4),
        "spare bits": text[:-1] + chr(ord(text[-1]) + 1),
        "url-safe": text[:5].replace("+", "-").replace("/", "_") + "-" + text[6:],
        "space": " " + text,
        "cut off": text[:-1],
    }[change]
    verdicts = []
    for module in (vodozemac, matrix_e2e_keys):
        try:
            getattr(module, name).from_base64(text)
        except Exception:  # noqa: BLE001 - their errors have no common base
            verdicts.append(False)
        else:
            verdicts.append(True)
    assert verdicts == [change in ("nothing", "padding")] * 2
