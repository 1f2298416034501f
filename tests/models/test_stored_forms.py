"""What is kept of a signed key is what canonical JSON can hold, and all that restoring it needs."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.stored_forms import stored_form
from matrix_e2e_keys.testing.samples import SampleUser

ALICE, BOB = SampleUser("@alice:a.example"), SampleUser("@bob:b.example")
PHONE = ALICE.device("PHONE")
GOOD = "A" * 85 + "Q"


def kept_whole(by_user: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"@x:y": by_user}, {"@x:y": by_user}


SIGNATURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "of another user": ({"@x:y": {"ed25519:K": GOOD}}, {"@x:y": {"ed25519:K": GOOD}}),
    "with padding": ({"@x:y": {"ed25519:K": GOOD + "=="}}, {"@x:y": {"ed25519:K": GOOD + "=="}}),
    "under several keys": kept_whole({"ed25519:K": GOOD, "ed25519:a:b/+": GOOD}),
    "under a key of many languages": kept_whole({"ed25519:\u00fc\U0001f511": GOOD}),
    "under the longest key": kept_whole({"ed25519:" + "k" * 512: GOOD}),
    "under a key that is too long": ({"@x:y": {"ed25519:" + "k" * 513: GOOD}}, {}),
    "under a key with a lone surrogate": ({"@x:y": {"ed25519:\ud800": GOOD}}, {}),
    "under a key without a name": ({"@x:y": {"ed25519:": GOOD, "ed25519": GOOD}}, {}),
    "of another algorithm": ({"@x:y": {"rsa:K": GOOD, "ED25519:K": GOOD, "xed25519:K": GOOD}}, {}),
    "that are none": ({"@x:y": {"ed25519:K": "\ud800", "ed25519:L": "", "ed25519:M": "A" * 1000}}, {}),
    "with spare bits": ({"@x:y": {"ed25519:K": "A" * 85 + "R"}}, {}),
    "that are too short": ({"@x:y": {"ed25519:K": "A" * 84}}, {}),
    "some of which are none": ({"@x:y": {"ed25519:K": "x", "ed25519:L": GOOD}}, {"@x:y": {"ed25519:L": GOOD}}),
    "of no user": ({"y": {"ed25519:K": GOOD}, "": {"ed25519:K": GOOD}, "@\ud800:y": {"ed25519:K": GOOD}}, {}),
    "of nobody": ({"@x:y": {}}, {}),
}

UNSIGNED: dict[str, tuple[Any, Any]] = {
    "a display name": ({"device_display_name": "\u202ephone"}, {"device_display_name": "\u202ephone"}),
    "an empty one": ({"device_display_name": ""}, {"device_display_name": ""}),
    "the longest one": ({"device_display_name": "\U0001f511" * 1024}, {"device_display_name": "\U0001f511" * 1024}),
    "one that is too long": ({"device_display_name": "n" * 1025}, ...),
    "one with a lone surrogate": ({"device_display_name": "\ud800"}, ...),
    "no text": ({"device_display_name": 5}, ...),
    "something else": ({"x": "\ud800", "device_display_name": "phone"}, {"device_display_name": "phone"}),
    "a lone surrogate": ({"x": "\ud800"}, ...),
    "a name with a lone surrogate": ({"\ud800": 1}, ...),
    "a fraction": ({"x": 1.5}, ...),
    "no number": ({"x": float("nan")}, ...),
    "a huge integer": ({"x": 2**90}, ...),
    "very much": ({"x": "A" * 10**6}, ...),
    "no object": (1.5, ...),
    "a refused place": (float("nan"), ...),
    "null": (None, ...),
    "a list": (["device_display_name"], ...),
}


def writable(stored: Any) -> bytes:
    """Write it in every way there is, and return the canonical one."""
    text = json.dumps(stored, ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert json.loads(text) == stored
    return encode_canonical_json(stored)


def members(key: Any, signatures: dict[str, Any], unsigned: Any) -> dict[str, Any]:
    """A key with foreign signatures beside its own, and something in ``unsigned``; ``...`` for nothing."""
    obj = copy.deepcopy(key.to_json())
    obj.pop("unsigned", None)
    obj.setdefault("signatures", {}).update(copy.deepcopy(signatures))
    return obj if unsigned is ... else {**obj, "unsigned": unsigned}


KEYS = [PHONE, ALICE.master_key, ALICE.self_signing_key, ALICE.user_signing_key]


class TestWhatIsKept:
    @pytest.mark.parametrize(("given", "kept"), SIGNATURES.values(), ids=SIGNATURES)
    @pytest.mark.parametrize("key", KEYS, ids=repr)
    def test_of_signatures(self, key: Any, given: Any, kept: Any) -> None:
        served = type(key).from_json(members(key, given, ...))
        stored = stored_form(served)
        expected = members(key, kept, ...)
        assert stored == {name: member for name, member in expected.items() if member or name != "signatures"}
        assert writable(stored)
        assert type(key).from_json(stored) == served

    @pytest.mark.parametrize(("given", "kept"), UNSIGNED.values(), ids=UNSIGNED)
    @pytest.mark.parametrize("key", [PHONE, ALICE.self_signing_key], ids=repr)
    def test_of_what_is_not_signed(self, key: Any, given: Any, kept: Any) -> None:
        served = type(key).from_json(members(key, {}, given))
        stored = stored_form(served)
        assert stored == members(key, {}, kept)
        assert writable(stored)
        assert stored_form(type(key).from_json(stored)) == stored

    def test_a_key_without_signatures_has_none(self) -> None:
        obj: Any = ALICE.master_key.to_json()
        obj.pop("signatures", None)
        assert stored_form(CrossSigningKey.from_json(obj)) == obj
        assert stored_form(CrossSigningKey.from_json({**obj, "signatures": {}})) == obj

    def test_what_is_signed_is_kept_whole(self) -> None:
        keys = ALICE.device("PHONE", extra={"org.example": {"x": [1, None, "\u00fc"]}})
        assert stored_form(keys)["org.example"] == {"x": [1, None, "\u00fc"]}
        assert DeviceKeys.from_json(stored_form(keys)).verify().keys == keys

    def test_ones_own_signature_over_others_is_kept(self) -> None:
        master = BOB.verified(ALICE.master_key)
        assert stored_form(master)["signatures"] == master.to_json()["signatures"]
        by_bob: Any = master.signed.signatures[BOB.user_id]
        assert [*by_bob] == [BOB.user_signing_key.key_name]

    def test_it_is_the_callers(self) -> None:
        stored: Any = stored_form(PHONE)
        stored["keys"].clear()
        stored["signatures"][ALICE.user_id].clear()
        assert stored_form(PHONE) == members(PHONE, {}, ...)
