"""One-time keys and fallback keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    E2EKeysError,
    KeyId,
    LocalProtocolError,
    OneTimeKey,
    Reason,
    RemoteProtocolError,
    VerificationError,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
CURVE = sample_curve25519_key("x").to_base64()
SIGNED = "signed_curve25519:AAAAAQ"


def good(**changes: Any) -> dict[str, Any]:
    value: Any = ALICE.one_time_key("PHONE", "AAAAAQ").to_json()
    return {**value, **changes}


MALFORMED = {
    "null": (SIGNED, None, Reason.WRONG_TYPE, ""),
    "number": (SIGNED, 1, Reason.WRONG_TYPE, ""),
    "bare string for a signed algorithm": (SIGNED, CURVE, Reason.WRONG_TYPE, ""),
    "no key": (SIGNED, {"signatures": {}}, Reason.MISSING_MEMBER, "/key"),
    "key null": (SIGNED, good(key=None), Reason.WRONG_TYPE, "/key"),
    "key not base64": (SIGNED, good(key="!"), Reason.INVALID_BASE64, "/key"),
    "key of low order": (SIGNED, good(key="A" * 43), Reason.WEAK_KEY, "/key"),
    "bare key of low order": ("curve25519:A", "A" * 43, Reason.WEAK_KEY, ""),
    "fallback number": (SIGNED, good(fallback=1), Reason.WRONG_TYPE, "/fallback"),
    "fallback null": (SIGNED, good(fallback=None), Reason.WRONG_TYPE, "/fallback"),
    "signatures null": (SIGNED, good(signatures=None), Reason.WRONG_TYPE, "/signatures"),
    "float": (SIGNED, good(added=1.0), Reason.NOT_AN_INTEGER, "/added"),
    "surrogate in a bare string": ("m.future:1", "\ud800", Reason.LONE_SURROGATE, ""),
    "key id": ("nocolon", good(), Reason.INVALID_KEY_ID, ""),
    "key id null": (None, good(), Reason.WRONG_TYPE, ""),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    key_id, value, reason, path = MALFORMED[case]
    with pytest.raises(RemoteProtocolError) as caught:
        OneTimeKey.from_json(key_id, value)
    assert (caught.value.reason, caught.value.path) == (reason, path)


def test_object_form() -> None:
    one_time_key = OneTimeKey.from_json(SIGNED, good(added="x"))
    assert one_time_key.key_id == KeyId("signed_curve25519", "AAAAAQ")
    assert one_time_key.public_key == sample_curve25519_key("@alice:a.example PHONE AAAAAQ")
    assert not one_time_key.fallback
    assert one_time_key.to_json() == good(added="x")
    assert repr(one_time_key) == "<OneTimeKey 'signed_curve25519:AAAAAQ'>"
    device = ALICE.device("PHONE").verify()
    verified = OneTimeKey.from_json(one_time_key.key_id, good()).verify(device=device)
    assert (verified.device, verified.one_time_key) == (device, OneTimeKey.from_json(SIGNED, good()))


def test_bare_string_form() -> None:
    bare = OneTimeKey.from_json("curve25519:AAAAAQ", CURVE)
    assert bare.public_key == sample_curve25519_key("x")
    assert bare.to_json() == CURVE
    assert bare.signed is None
    with pytest.raises(VerificationError) as caught:
        bare.verify(device=ALICE.device("PHONE").verify())
    assert caught.value.reason is Reason.MISSING_SIGNATURE


def test_unknown_algorithms_are_kept() -> None:
    assert OneTimeKey.from_json("m.future:1", "anything").to_json() == "anything"
    assert OneTimeKey.from_json("m.future:1", {"key": "anything"}).public_key is None


def test_fallback_is_part_of_what_is_signed() -> None:
    """attack 43: a fallback key shown as a one-time key, or the other way round."""
    device = ALICE.device("PHONE").verify()
    fallback = ALICE.one_time_key("PHONE", "AAAAAQ", fallback=True)
    assert fallback.fallback
    assert "fallback" in repr(fallback)
    fallback.verify(device=device)
    flipped: Any = fallback.to_json()
    del flipped["fallback"]
    with pytest.raises(VerificationError):
        OneTimeKey.from_json(SIGNED, flipped).verify(device=device)
    with pytest.raises(VerificationError):
        OneTimeKey.from_json(SIGNED, good(fallback=True)).verify(device=device)
    with pytest.raises(VerificationError):
        OneTimeKey.from_json(SIGNED, good(fallback=False)).verify(device=device)


def test_only_the_right_device_counts() -> None:
    one_time_key = OneTimeKey.from_json(SIGNED, good())
    for other in (ALICE.device("LAPTOP"), BOB.device("PHONE")):
        with pytest.raises(VerificationError) as caught:
            one_time_key.verify(device=other.verify())
        assert caught.value.reason is Reason.MISSING_SIGNATURE
    with pytest.raises(LocalProtocolError):
        one_time_key.verify(device=ALICE.device("PHONE"))  # type: ignore[arg-type]


def test_equality() -> None:
    assert OneTimeKey.from_json(SIGNED, good()) == OneTimeKey.from_json(SIGNED, good(unsigned={"x": 1}))
    assert OneTimeKey.from_json(SIGNED, good()) != OneTimeKey.from_json("signed_curve25519:B", good())
    assert OneTimeKey.from_json(SIGNED, good()) != OneTimeKey.from_json(SIGNED, good(added=1))


@pytest.mark.parametrize(
    "changes", [{"key": CURVE}, {"key_id": "curve25519:A"}, {"key_id": "nocolon"}, {"user_id": None}]
)
def test_build_refuses_bad_parts(changes: dict[str, Any]) -> None:
    parts: dict[str, Any] = {
        "key_id": SIGNED,
        "key": sample_curve25519_key("x"),
        "user_id": ALICE.user_id,
        "signer": ALICE.device_signer("PHONE"),
    }
    OneTimeKey.build(**parts)
    with pytest.raises(LocalProtocolError):
        OneTimeKey.build(**{**parts, **changes})


@given(json_like_values())
def test_no_foreign_exception(value: Any) -> None:
    for key_id, obj in ((SIGNED, value), ("curve25519:x", value), (value, CURVE), (SIGNED, good(key=value))):
        try:
            OneTimeKey.from_json(key_id, obj)
        except E2EKeysError:
            continue
