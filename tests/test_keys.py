"""Keys, signatures and key ids: which bytes are one, and that none is ever another."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import nacl.bindings
import nacl.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import BASE, IDENTITY, A, L, P, add, encode, from_y, ladder, multiply, on_curve, small_order_points
from json_strategies import any_text, modest, wild_values
from matrix_e2e_keys import (
    Curve25519PublicKey,
    Ed25519PublicKey,
    Ed25519SecretKey,
    Ed25519Signature,
    KeyId,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    keys,
)
from matrix_e2e_keys.unpadded_base64 import decode
from matrix_e2e_keys.unpadded_base64 import encode as base64

SIZES = {Ed25519PublicKey: 32, Curve25519PublicKey: 32, Ed25519Signature: 64}
TYPES = list(SIZES)
PUBLIC = Ed25519SecretKey(bytes(range(32))).public_key.raw

# -- Key ids ---------------------------------------------------------------------------------------------------

KEY_IDS = {
    "ed25519:JLAFKJWSCS": ("ed25519", "JLAFKJWSCS"),
    "ed25519:1": ("ed25519", "1"),
    "a:b:c": ("a", "b:c"),
    "a::": ("a", ":"),
    "ed25519:ab/+cd": ("ed25519", "ab/+cd"),
    "curve25519: ": ("curve25519", " "),
    "x:😀": ("x", "😀"),
    "a:" + "b" * 65536: ("a", "b" * 65536),
    "\x00:\x00": ("\x00", "\x00"),
}


@pytest.mark.parametrize(("text", "parts"), KEY_IDS.items(), ids=[text[:8] for text in KEY_IDS])
def test_key_ids_are_cut_at_the_first_colon(text: str, parts: tuple[str, str]) -> None:
    key_id = KeyId.parse(text)
    assert (key_id.algorithm, key_id.name) == parts
    assert str(key_id) == text
    assert KeyId(*parts) == key_id
    assert hash(KeyId(*parts)) == hash(key_id)


@pytest.mark.parametrize(
    "text", ["", ":", "a", "a:", ":a", "::", "ed25519", "x" * 65536, "\ud800"], ids=lambda t: ascii(t)[:8]
)
def test_what_is_no_key_id(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        KeyId.parse(text)
    assert caught.value.reason is Reason.INVALID_KEY_ID
    assert len(str(caught.value)) < 300
    str(caught.value).encode()


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [None, 1, b"a:b", ["a:b"], {}, Text("a:b")], ids=repr)
def test_a_key_id_is_a_string(value: Any) -> None:
    """attack 12: and its two parts are strings."""
    with pytest.raises(RemoteProtocolError) as caught:
        KeyId.parse(value)
    assert caught.value.reason is Reason.WRONG_TYPE
    for parts in ((value, "a"), ("a", value)):
        with pytest.raises(LocalProtocolError):
            KeyId(*parts)


@pytest.mark.parametrize("parts", [("", "a"), ("a", ""), ("a:b", "c"), (":", "c")])
def test_parts_that_make_no_key_id(parts: tuple[str, str]) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        KeyId(*parts)
    assert caught.value.reason is Reason.INVALID_KEY_ID
    with pytest.raises(LocalProtocolError):
        attrs.evolve(KeyId("a", "b"), algorithm=parts[0], name=parts[1])


def test_key_ids_are_sorted() -> None:
    assert sorted([KeyId("b", "a"), KeyId("a", "b"), KeyId("a", "a")]) == [
        KeyId("a", "a"),
        KeyId("a", "b"),
        KeyId("b", "a"),
    ]


@modest
@given(any_text | wild_values)
def test_any_value_is_a_key_id_or_refused(value: Any) -> None:
    try:
        assert str(KeyId.parse(value)) == value
    except RemoteProtocolError as error:
        str(error).encode()


# -- Bytes and text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_text_and_bytes(kind: Any) -> None:
    raw = PUBLIC * (SIZES[kind] // 32)
    raw = raw[:31] + b"\x42" + raw[32:]
    key = kind(raw)
    assert key.raw == raw
    assert kind.from_base64(key.to_base64()) == key
    assert kind.from_base64(key.to_base64() + "=" * (-len(key.to_base64()) % 4)) == key
    assert decode(key.to_base64()) == raw
    assert repr(key) == f"{kind.__name__}({key.to_base64()!r})"
    assert hash(kind(raw)) == hash(key)
    for again in (copy.copy(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key))):
        assert again == key
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        key.raw = raw


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("size", range(129))
def test_lengths(kind: Any, size: int) -> None:
    """attack 20: every length but one is refused with our error, as bytes and as text."""
    raw = bytes([0x42]) * size
    if size == SIZES[kind]:
        assert kind(raw) == kind.from_base64(base64(raw))
        return
    for make in (lambda: kind(raw), lambda: kind.from_base64(base64(raw))):
        with pytest.raises(RemoteProtocolError) as caught:
            make()
        assert caught.value.reason is Reason.WRONG_LENGTH


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "raw", [None, 1, "a" * 32, bytearray(32), memoryview(bytes(32)), [1] * 32, type("B", (bytes,), {})(PUBLIC)]
)
def test_keys_are_made_of_bytes(kind: Any, raw: Any) -> None:
    """attack 12: nothing that could change afterwards."""
    with pytest.raises(LocalProtocolError) as caught:
        kind(raw)
    assert caught.value.reason is Reason.WRONG_TYPE


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("text", [None, 1, b"AAAA", [], {}, True, Text("AAAA")], ids=repr)
def test_keys_are_read_from_strings(kind: Any, text: Any) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        kind.from_base64(text)
    assert caught.value.reason is Reason.WRONG_TYPE


def bad_texts(raw: bytes) -> dict[str, str]:
    text = base64(raw)
    return {
        "four characters of junk": "!!!!" + text,
        "four NULs": "\x00\x00\x00\x00" + text,
        "spare bits": text[:-1] + chr(ord(text[-1]) + 1),
        "url-safe": text.replace("/", "_").replace("+", "-"),
        "a newline": text + "\n",
        "a space inside": text[:5] + " " + text[5:],
        "wrong padding": text + "=" * (3 - (-len(text) % 4)),
        "more after padding": text + "==" + text,
        "one character more": text + "A" * (1 if len(text) % 4 == 0 else 5 - len(text) % 4),
        "a lone surrogate": text[:-1] + "\ud800",
    }


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", bad_texts(b" " * 32))
def test_every_key_has_one_text(kind: Any, name: str) -> None:
    """attack 1: for keys and signatures."""
    raw = (b"\xff\xef\xbe" * 22)[: SIZES[kind] - 1] + b"\x41"
    text = bad_texts(raw)[name]
    assert kind.from_base64(base64(raw)).raw == raw
    with pytest.raises(RemoteProtocolError) as caught:
        kind.from_base64(text)
    assert caught.value.reason is Reason.INVALID_BASE64
    str(caught.value).encode()


@modest
@given(st.sampled_from(TYPES), any_text | wild_values | st.binary(max_size=70).map(base64))
def test_any_value_is_a_key_or_refused(kind: Any, value: Any) -> None:
    try:
        key = kind.from_base64(value)
    except RemoteProtocolError as error:
        str(error).encode()
    else:
        assert key.to_base64() == value.rstrip("=")


def test_keys_compare_by_bytes_and_role() -> None:
    """attack 14: the same key under several texts is one key; attack 13: an Ed25519 key is no Curve25519 key."""
    ed, curve = Ed25519PublicKey(PUBLIC[:31] + b"\x42"), Curve25519PublicKey(PUBLIC[:31] + b"\x42")
    assert ed != curve
    assert curve != ed
    assert len({ed, curve}) == 2
    assert (
        len({ed, Ed25519PublicKey.from_base64(ed.to_base64()), Ed25519PublicKey.from_base64(ed.to_base64() + "=")}) == 1
    )
    assert ed != ed.raw
    assert ed != ed.to_base64()
    assert Ed25519Signature(bytes(64)) != bytes(64)


# -- attack 17: Ed25519 points of small order ------------------------------------------------------------------

SMALL_ORDER = small_order_points()


def test_there_are_eight_points_of_small_order() -> None:
    """attack 17: derived from the equation of the curve."""
    assert len(set(SMALL_ORDER)) == 8
    for point in SMALL_ORDER:
        assert on_curve(point)
        assert multiply(8, point) == IDENTITY
    assert sorted(next(n for n in (1, 2, 4, 8) if multiply(n, p) == IDENTITY) for p in SMALL_ORDER) == [
        1,
        2,
        4,
        4,
        8,
        8,
        8,
        8,
    ]


def encodings(y: int) -> list[bytes]:
    """Return every 32 bytes that a careless reader takes for the coordinate, with both signs of x."""
    values = [value | sign << 255 for value in (y, y + P) if value < 2**255 for sign in (0, 1)]
    return [value.to_bytes(32, "little") for value in values]


ALL_SMALL_ORDER = sorted({raw for _, y in SMALL_ORDER for raw in encodings(y)})


def test_there_are_fourteen_encodings_of_small_order() -> None:
    """attack 17: eight honest ones, the others with y + p or with a sign where x is zero."""
    assert len(ALL_SMALL_ORDER) == 14
    assert {encode(point) for point in SMALL_ORDER} <= set(ALL_SMALL_ORDER)


@pytest.mark.parametrize("raw", ALL_SMALL_ORDER, ids=bytes.hex)
def test_small_order_keys_are_refused_where_they_are_read(raw: bytes) -> None:
    """attack 17: at parse, in canonical and other encodings."""
    reasons = {Reason.WEAK_KEY} if int.from_bytes(raw, "little") % 2**255 < P else {Reason.NON_CANONICAL_KEY}
    for make in (Ed25519PublicKey, lambda value: Ed25519PublicKey.from_base64(base64(value))):
        with pytest.raises(RemoteProtocolError) as caught:
            make(raw)
        assert caught.value.reason in reasons
    assert keys.ed25519_fault(raw) is not None


@pytest.mark.parametrize("y", range(P, 2**255))
@pytest.mark.parametrize("sign", [0, 1])
def test_non_canonical_ed25519_keys_are_refused(y: int, sign: int) -> None:
    """attack 18: all nineteen coordinates that are not reduced."""
    with pytest.raises(RemoteProtocolError) as caught:
        Ed25519PublicKey((y | sign << 255).to_bytes(32, "little"))
    assert caught.value.reason is Reason.NON_CANONICAL_KEY


@pytest.mark.parametrize("y", [P - 2, P - 3, 2, 3, 2**254, P - 2**247, P - 256])
@pytest.mark.parametrize("sign", [0, 1])
def test_other_coordinates_are_left_to_verification(y: int, sign: int) -> None:
    raw = (y | sign << 255).to_bytes(32, "little")
    assert Ed25519PublicKey(raw).raw == raw


def test_honest_keys_are_points_of_prime_order() -> None:
    for number in range(20):
        key = Ed25519SecretKey(bytes([number]) * 32).public_key
        key.require_prime_order()
        assert keys.ed25519_fault(key.raw) is None


# -- attack 19: the prime-order policy -------------------------------------------------------------------------


def test_the_base_point_is_of_prime_order() -> None:
    """attack 19: the check accepts what it should."""
    assert multiply(L, BASE) == IDENTITY
    Ed25519PublicKey(encode(BASE)).require_prime_order()


@pytest.mark.parametrize("torsion", SMALL_ORDER[1:], ids=lambda point: encode(point).hex()[:8])
@pytest.mark.parametrize("factor", [1, 2, 12345])
def test_points_of_mixed_order_are_refused_by_policy(torsion: tuple[int, int], factor: int) -> None:
    """attack 19: a small-order component makes no key of small order, but no honest key either."""
    point = add(multiply(factor, BASE), torsion)
    assert on_curve(point)
    assert multiply(L, point) != IDENTITY
    key = Ed25519PublicKey(encode(point))
    with pytest.raises(RemoteProtocolError) as caught:
        key.require_prime_order()
    assert caught.value.reason is Reason.MIXED_ORDER_KEY


def test_which_bytes_are_a_point() -> None:
    for y in range(2, 60):
        for sign in (0, 1):
            raw = (y | sign << 255).to_bytes(32, "little")
            assert keys.is_ed25519_point(raw) is (from_y(y, sign) is not None)
    mixed = [add(BASE, torsion) for torsion in SMALL_ORDER[1:]]
    assert all(keys.is_ed25519_point(encode(point)) for point in (BASE, *mixed))


def test_bytes_that_are_no_point_fail_the_policy() -> None:
    y = next(y for y in range(2, 50) if from_y(y, 0) is None)
    with pytest.raises(RemoteProtocolError):
        Ed25519PublicKey(y.to_bytes(32, "little")).require_prime_order()


def test_the_point_of_the_self_test_is_of_mixed_order() -> None:
    """attack 19: the library asks about this one when it is imported."""
    point = from_y(int.from_bytes(keys._MIXED_ORDER, "little") % 2**255, keys._MIXED_ORDER[31] >> 7)
    assert point is not None
    assert encode(point) == keys._MIXED_ORDER
    assert multiply(L, point) == (0, P - 1)
    assert keys._POINT_CHECK_WORKS is True


def test_without_a_working_point_check_no_key_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """attack 19: it fails closed."""
    monkeypatch.setattr(keys, "_POINT_CHECK_WORKS", False)
    with pytest.raises(RemoteProtocolError) as caught:
        Ed25519PublicKey(PUBLIC).require_prime_order()
    assert caught.value.reason is Reason.MIXED_ORDER_KEY


# -- attacks 21 and 22: Curve25519 -----------------------------------------------------------------------------


def low_order_coordinates() -> set[int]:
    """Return the u coordinates of the points of low order: on the curve by the map from Edwards, -1 on the twist."""
    mapped = {(1 + y) * pow(1 - y, -1, P) % P for _, y in SMALL_ORDER if y != 1}
    return mapped | {P - 1}


LOW_ORDER = sorted(low_order_coordinates())


def test_there_are_five_low_order_coordinates() -> None:
    """attack 21: multiplied by eight, each is zero; nothing near them is."""
    assert len(LOW_ORDER) == 5
    for u in LOW_ORDER:
        assert ladder(8, u) == 0
        assert ladder(8 * 12345, u) == 0
    for u in (2, 9, P - 2, LOW_ORDER[-2] + 1):
        assert ladder(8, u) != 0


def test_the_coordinate_on_the_twist_is_there() -> None:
    """attack 21: u = -1 solves u**2 = 1, where doubling gives zero, and is not on the curve itself."""
    u = P - 1
    assert pow((u**3 + A * u**2 + u) % P, (P - 1) // 2, P) == P - 1
    assert ladder(2, u) == 0


def u_encodings(u: int) -> list[bytes]:
    values = [value | top << 255 for value in (u, u + P) if value < 2**255 for top in (0, 1)]
    return [value.to_bytes(32, "little") for value in values]


@pytest.mark.parametrize("raw", sorted({raw for u in LOW_ORDER for raw in u_encodings(u)}), ids=bytes.hex)
def test_low_order_curve25519_keys_are_refused(raw: bytes) -> None:
    """attack 21: the shared secret would be zero for everyone."""
    with pytest.raises(nacl.exceptions.RuntimeError):
        nacl.bindings.crypto_scalarmult(bytes(range(32)), raw)  # what makes this an attack
    value = int.from_bytes(raw, "little")
    reason = Reason.WEAK_KEY if value < P else Reason.NON_CANONICAL_KEY
    for make in (Curve25519PublicKey, lambda value: Curve25519PublicKey.from_base64(base64(value))):
        with pytest.raises(RemoteProtocolError) as caught:
            make(raw)
        assert caught.value.reason is reason


@pytest.mark.parametrize("u", range(P, 2**255))
@pytest.mark.parametrize("top", [0, 1])
def test_non_canonical_curve25519_keys_are_refused(u: int, top: int) -> None:
    """attack 22: all nineteen coordinates that are not reduced."""
    with pytest.raises(RemoteProtocolError) as caught:
        Curve25519PublicKey((u | top << 255).to_bytes(32, "little"))
    assert caught.value.reason is Reason.NON_CANONICAL_KEY


@pytest.mark.parametrize("u", [2, 9, 2**254, P - 2, P - 256])
def test_the_top_bit_is_no_part_of_a_curve25519_key(u: int) -> None:
    """attack 22: two encodings would be one key."""
    assert Curve25519PublicKey(u.to_bytes(32, "little"))
    with pytest.raises(RemoteProtocolError) as caught:
        Curve25519PublicKey((u | 1 << 255).to_bytes(32, "little"))
    assert caught.value.reason is Reason.NON_CANONICAL_KEY


def test_points_on_the_twist_are_taken() -> None:
    """attack 22: X25519 is defined for them."""
    twist = [u for u in range(2, 60) if pow((u**3 + A * u**2 + u) % P, (P - 1) // 2, P) == P - 1]
    assert len(twist) > 10
    for u in twist:
        raw = u.to_bytes(32, "little")
        assert Curve25519PublicKey(raw).raw == raw
        assert nacl.bindings.crypto_scalarmult(bytes(range(32)), raw) != bytes(32)


@modest
@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_make_a_shared_secret_or_are_refused(raw: bytes) -> None:
    """attacks 21 and 22: what is accepted is canonical and never leads to zero."""
    try:
        key = Curve25519PublicKey(raw)
    except RemoteProtocolError:
        assert int.from_bytes(raw, "little") >= P or int.from_bytes(raw, "little") in LOW_ORDER
    else:
        assert nacl.bindings.crypto_scalarmult(bytes(32), key.raw) != bytes(32)
