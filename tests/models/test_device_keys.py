"""Device keys: what is well formed, what verifies."""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given

from matrix_e2e_keys import (
    Curve25519PublicKey,
    DeviceKeys,
    E2EKeysError,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    UserIdentity,
    VerificationError,
    VerifiedDevice,
    sign_json,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import canonical_json_objects, device_keys, json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")


def good() -> dict[str, Any]:
    return ALICE.device("PHONE").to_json()


def changed(*path: str, to: Any) -> dict[str, Any]:
    obj: Any = good()
    inner = obj
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return obj


def without(*path: str) -> dict[str, Any]:
    obj: Any = good()
    inner = obj
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return obj


CURVE = sample_curve25519_key("x").to_base64()
ED = sample_secret_key("x").public_key.to_base64()

MALFORMED = {
    "null": (None, Reason.WRONG_TYPE, ""),
    "string": ("x", Reason.WRONG_TYPE, ""),
    "array": ([], Reason.WRONG_TYPE, ""),
    "number": (5, Reason.WRONG_TYPE, ""),
    "boolean": (True, Reason.WRONG_TYPE, ""),
    "empty": ({}, Reason.MISSING_MEMBER, "/user_id"),
    "no user_id": (without("user_id"), Reason.MISSING_MEMBER, "/user_id"),
    "no device_id": (without("device_id"), Reason.MISSING_MEMBER, "/device_id"),
    "no algorithms": (without("algorithms"), Reason.MISSING_MEMBER, "/algorithms"),
    "no keys": (without("keys"), Reason.MISSING_MEMBER, "/keys"),
    "user_id null": (changed("user_id", to=None), Reason.WRONG_TYPE, "/user_id"),
    "user_id no id": (changed("user_id", to="alice"), Reason.INVALID_IDENTIFIER, "/user_id"),
    "device_id number": (changed("device_id", to=7), Reason.WRONG_TYPE, "/device_id"),
    "device_id empty": (changed("device_id", to=""), Reason.INVALID_IDENTIFIER, "/device_id"),
    "device_id too long": (changed("device_id", to="x" * 513), Reason.INVALID_IDENTIFIER, "/device_id"),
    "algorithms string": (changed("algorithms", to="m.olm"), Reason.WRONG_TYPE, "/algorithms"),
    "algorithms of numbers": (changed("algorithms", to=["a", 1]), Reason.WRONG_TYPE, "/algorithms/1"),
    "keys array": (changed("keys", to=[]), Reason.WRONG_TYPE, "/keys"),
    "key number": (changed("keys", "ed25519:PHONE", to=1), Reason.WRONG_TYPE, "/keys/ed25519:PHONE"),
    "key null": (changed("keys", "curve25519:PHONE", to=None), Reason.WRONG_TYPE, "/keys/curve25519:PHONE"),
    "foreign key number": (changed("keys", "x:PHONE", to=1), Reason.WRONG_TYPE, "/keys/x:PHONE"),
    "key id without colon": (changed("keys", "nocolon", to=ED), Reason.INVALID_KEY_ID, "/keys/nocolon"),
    "key id without algorithm": (changed("keys", ":PHONE", to=ED), Reason.INVALID_KEY_ID, "/keys/:PHONE"),
    "key id of another device": (
        changed("keys", "ed25519:OTHER", to=ED),
        Reason.KEY_ID_NOT_DEVICE,
        "/keys/ed25519:OTHER",
    ),
    "ed25519 not base64": (changed("keys", "ed25519:PHONE", to="!!"), Reason.INVALID_BASE64, "/keys/ed25519:PHONE"),
    "ed25519 too short": (changed("keys", "ed25519:PHONE", to="AAAA"), Reason.WRONG_LENGTH, "/keys/ed25519:PHONE"),
    "ed25519 spare bits": (
        changed("keys", "ed25519:PHONE", to=ED[:-1] + chr(ord(ED[-1]) + 1)),
        Reason.INVALID_BASE64,
        "/keys/ed25519:PHONE",
    ),
    "ed25519 identity point": (
        changed("keys", "ed25519:PHONE", to="AQ" + "A" * 41),
        Reason.WEAK_KEY,
        "/keys/ed25519:PHONE",
    ),
    "curve25519 zero": (changed("keys", "curve25519:PHONE", to="A" * 43), Reason.WEAK_KEY, "/keys/curve25519:PHONE"),
    "curve25519 high bit": (
        changed("keys", "curve25519:PHONE", to="CQ" + "A" * 39 + "IA"[0:2]),
        Reason.NON_CANONICAL_KEY,
        "/keys/curve25519:PHONE",
    ),
    "signatures null": (changed("signatures", to=None), Reason.WRONG_TYPE, "/signatures"),
    "signatures array": (changed("signatures", to=[]), Reason.WRONG_TYPE, "/signatures"),
    "signatures of one entity null": (
        changed("signatures", "@e:x", to=None),
        Reason.WRONG_TYPE,
        "/signatures/@e:x",
    ),
    "signature number": (
        changed("signatures", "@e:x", to={"ed25519:1": 5}),
        Reason.WRONG_TYPE,
        "/signatures/@e:x/ed25519:1",
    ),
    "float": (changed("added", to=[{"a": 1.5}]), Reason.NOT_AN_INTEGER, "/added/0/a"),
    "nan": (changed("added", to=float("nan")), Reason.NOT_AN_INTEGER, "/added"),
    "huge integer": (changed("added", to=2**53), Reason.INTEGER_OUT_OF_RANGE, "/added"),
    "surrogate": (changed("added", to="\ud800"), Reason.LONE_SURROGATE, "/added"),
    "surrogate name": (changed("\udc00", to=1), Reason.LONE_SURROGATE, "/\\udc00"),
    "tuple": (changed("added", to=()), Reason.NOT_A_JSON_VALUE, "/added"),
    "float among the keys": (changed("keys", "ed25519:PHONE", to=1.5), Reason.NOT_AN_INTEGER, "/keys/ed25519:PHONE"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    obj, reason, path = MALFORMED[case]
    before = repr(obj)
    with pytest.raises(RemoteProtocolError) as caught:
        DeviceKeys.from_json(obj)
    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert repr(obj) == before


def test_same_bytes_in_both_keys_are_refused() -> None:
    """attack 23: one value as signing key and as identity key."""
    obj = changed("keys", "ed25519:PHONE", to=good()["keys"]["curve25519:PHONE"])
    with pytest.raises(RemoteProtocolError) as caught:
        DeviceKeys.from_json(obj)
    assert (caught.value.reason, caught.value.path) == (Reason.KEY_REUSED, "/keys/curve25519:PHONE")


def test_swapped_keys_do_not_verify() -> None:
    """attack 23: the keys exchange their names."""
    keys = good()["keys"]
    swapped = changed("keys", to={"ed25519:PHONE": keys["curve25519:PHONE"], "curve25519:PHONE": keys["ed25519:PHONE"]})
    with pytest.raises(E2EKeysError):
        DeviceKeys.from_json(swapped).verify()


def test_members() -> None:
    device = DeviceKeys.from_json({**good(), "unsigned": {"device_display_name": "Alice's phone"}})
    assert (device.user_id, device.device_id) == ("@alice:a.example", "PHONE")
    assert device.algorithms == ("m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2")
    assert device.ed25519_key == ALICE.device_signer("PHONE").public_key
    assert device.curve25519_key == sample_curve25519_key("@alice:a.example PHONE")
    assert device.keys["ed25519:PHONE"] == ALICE.device_signer("PHONE").public_key.to_base64()
    assert device.supports_olm
    assert device.untrusted_display_name == "Alice's phone"
    assert (device.valid_after_ts, device.valid_until_ts) == (None, None)
    assert repr(device) == "<DeviceKeys of '@alice:a.example' 'PHONE'>"


def test_a_device_without_curve25519_key_is_well_formed_and_does_not_speak_olm() -> None:
    obj = without("keys", "curve25519:PHONE")
    device = DeviceKeys.from_json(obj)
    assert device.curve25519_key is None
    assert not device.supports_olm
    signed = sign_json({**obj, "signatures": {}}, entity=ALICE.user_id, signer=ALICE.device_signer("PHONE"))
    verified = DeviceKeys.from_json(signed).verify()
    assert verified.curve25519_key is None
    assert not verified.supports_olm


def test_a_device_that_does_not_list_olm_does_not_support_it() -> None:
    assert not DeviceKeys.from_json(changed("algorithms", to=[])).supports_olm


def test_a_device_of_an_unknown_algorithm_is_kept_but_never_verified() -> None:
    obj = changed("keys", to={"m.future:PHONE": "whatever it is"})
    device = DeviceKeys.from_json(obj)
    assert device.ed25519_key is None
    assert device.raw_keys == ()
    assert device.to_json() == obj
    with pytest.raises(VerificationError) as caught:
        device.verify()
    assert caught.value.reason is Reason.MISSING_KEY


def test_padded_keys_are_read_and_their_signature_covers_the_padding() -> None:
    plain = good()["keys"]
    padded = {name: text + "=" for name, text in plain.items()}
    obj = {**good(), "keys": padded}
    device = DeviceKeys.from_json(obj)
    assert device.ed25519_key == ALICE.device_signer("PHONE").public_key
    with pytest.raises(VerificationError):
        device.verify()
    signed = sign_json(obj, entity=ALICE.user_id, signer=ALICE.device_signer("PHONE"))
    assert DeviceKeys.from_json(signed).verify().ed25519_key == device.ed25519_key


@pytest.mark.parametrize(("value", "is_dehydrated"), [(True, True), (False, False), (1, False), ("true", False)])
def test_a_dehydrated_device_says_so(value: Any, is_dehydrated: bool) -> None:
    """Only by what it signs: ``unsigned`` is the server's."""
    assert ALICE.device("PHONE", extra={"dehydrated": value}).is_dehydrated is is_dehydrated
    assert not ALICE.device("PHONE").is_dehydrated
    assert not DeviceKeys.from_json(changed("unsigned", to={"dehydrated": True})).is_dehydrated


def test_the_validity_window_of_the_2015_draft_is_readable() -> None:
    obj = {**good(), "valid_after_ts": 1_000, "valid_until_ts": 2_000}
    device = DeviceKeys.from_json(obj)
    assert (device.valid_after_ts, device.valid_until_ts) == (1_000, 2_000)
    assert DeviceKeys.from_json({**good(), "valid_after_ts": "soon"}).valid_after_ts is None
    assert DeviceKeys.from_json({**good(), "valid_after_ts": True}).valid_after_ts is None


@pytest.mark.parametrize("unsigned", [None, [], "x", 1.5, {"device_display_name": 7}, {"age": float("nan")}, {}])
def test_nothing_in_unsigned_costs_anything(unsigned: Any) -> None:
    device = DeviceKeys.from_json({**good(), "unsigned": unsigned})
    assert device.verify().device_id == "PHONE"
    assert device.untrusted_display_name is None
    assert device == DeviceKeys.from_json(good())


def test_the_display_name_is_no_part_of_equality_hash_or_trust() -> None:
    """attack 4: the display name is the server's to choose."""
    one = DeviceKeys.from_json({**good(), "unsigned": {"device_display_name": "one"}})
    other = DeviceKeys.from_json({**good(), "unsigned": {"device_display_name": "\u202eother\x1b[2J"}})
    assert one == other
    assert hash(one) == hash(other)
    assert one.verify() == other.verify()
    assert other.untrusted_display_name == "\u202eother\x1b[2J"
    assert "other" not in repr(other)


@given(extra=canonical_json_objects())
def test_unknown_members_are_kept_and_signed(extra: dict[str, Any]) -> None:
    """attack 5: what a reader does not know must neither be dropped nor escape the signature."""
    device = ALICE.device("PHONE", extra=dict(extra))
    again = DeviceKeys.from_json(device.to_json())
    assert again == device
    assert again.to_json() == device.to_json()
    again.verify()
    for name in extra:
        if name in ("user_id", "device_id", "algorithms", "keys"):
            continue
        cut = device.to_json()
        del cut[name]
        with pytest.raises(VerificationError):
            DeviceKeys.from_json(cut).verify()


def test_extra_members_cannot_replace_known_ones() -> None:
    device = ALICE.device("PHONE", extra={"user_id": "@mallory:evil.example", "keys": {}, "signatures": {"x": {}}})
    assert device.user_id == ALICE.user_id
    assert list(device.signed.signatures) == [ALICE.user_id]


def test_verify_without_and_with_identity() -> None:
    identity = UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key)
    device = ALICE.device("PHONE")
    assert device.verify().cross_signed_by is None
    verified = device.verify(identity=identity)
    assert verified.is_cross_signed
    assert verified.cross_signed_by == ALICE.secret("self_signing").public_key
    assert verified.keys is device
    assert repr(verified) == "<VerifiedDevice '@alice:a.example' 'PHONE', cross-signed>"
    assert "not cross-signed" in repr(ALICE.device("PHONE", cross_signed=False).verify(identity=identity))


def test_the_identity_of_somebody_else_does_not_count() -> None:
    bobs = UserIdentity.verify(master_key=BOB.master_key, self_signing_key=BOB.self_signing_key)
    assert not ALICE.device("PHONE").verify(identity=bobs).is_cross_signed


def test_a_broken_cross_signature_leaves_the_device_verified_and_not_cross_signed() -> None:
    identity = UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key)
    obj: Any = good()
    name = ALICE.self_signing_key.key_name
    obj["signatures"][ALICE.user_id][name] = obj["signatures"][ALICE.user_id]["ed25519:PHONE"]
    assert not DeviceKeys.from_json(obj).verify(identity=identity).is_cross_signed


@given(device_keys())
def test_good_devices_verify(device: DeviceKeys) -> None:
    assert device.verify().device_id == device.device_id


class TestForgery:
    def test_no_public_constructor(self) -> None:
        with pytest.raises(LocalProtocolError):
            VerifiedDevice(keys=ALICE.device("PHONE"), cross_signed_by=None)
        with pytest.raises(LocalProtocolError):
            DeviceKeys()

    def test_evolve_forges_nothing(self) -> None:
        verified = ALICE.device("PHONE").verify()
        with pytest.raises(LocalProtocolError):
            attrs.evolve(verified, cross_signed_by=ALICE.secret("self_signing").public_key)
        with pytest.raises(LocalProtocolError):
            attrs.evolve(verified.keys, user_id="@mallory:evil.example")

    def test_filling_an_empty_value_forges_nothing(self) -> None:
        verified = ALICE.device("PHONE").verify()
        with pytest.raises(LocalProtocolError):
            object.__new__(VerifiedDevice).__init__(verified.keys, None)  # type: ignore[misc]
        with pytest.raises(LocalProtocolError):
            verified.__init__(ALICE.device("LAPTOP"), None)  # type: ignore[misc]
        assert verified.device_id == "PHONE"

    @pytest.mark.parametrize("identity", ["x", 5, object()])
    def test_only_an_identity_vouches(self, identity: Any) -> None:
        class Fake:
            self_signing_public_key = ALICE.secret("self_signing").public_key
            user_id = ALICE.user_id

            def __getattr__(self, name: str) -> Any:
                return lambda *_: None

        for pretender in (identity, Fake()):
            with pytest.raises(LocalProtocolError):
                ALICE.device("PHONE").verify(identity=pretender)

    def test_no_subclass(self) -> None:
        with pytest.raises(LocalProtocolError):
            type("Forged", (VerifiedDevice,), {})

    def test_attributes_are_frozen(self) -> None:
        verified = ALICE.device("PHONE").verify()
        with pytest.raises(AttributeError):
            verified.cross_signed_by = None  # type: ignore[misc]
        with pytest.raises(TypeError):
            verified.keys.keys["ed25519:PHONE"] = "x"  # type: ignore[index]


class TestBuild:
    def test_the_signer_must_be_the_device(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            DeviceKeys.build(
                user_id=ALICE.user_id,
                device_id="PHONE",
                curve25519_key=sample_curve25519_key("x"),
                signer=ALICE.device_signer("LAPTOP"),
            )
        assert caught.value.reason is Reason.KEY_ID_NOT_DEVICE

    def test_the_identity_key_is_a_key(self) -> None:
        with pytest.raises(LocalProtocolError):
            DeviceKeys.build(
                user_id=ALICE.user_id,
                device_id="PHONE",
                curve25519_key=ALICE.device_signer("PHONE").public_key,  # type: ignore[arg-type]
                signer=ALICE.device_signer("PHONE"),
            )

    @pytest.mark.parametrize(
        "changes",
        [
            {"signer": None},
            {"device_id": 2**20000},
            {"device_id": None},
            {"algorithms": None},
            {"algorithms": "m.olm"},
            {"algorithms": [5]},
            {"extra": 5},
        ],
        ids=lambda changes: str(next(iter(changes))),
    )
    def test_parts_of_other_types(self, changes: dict[str, Any]) -> None:
        parts: dict[str, Any] = {
            "user_id": ALICE.user_id,
            "device_id": "PHONE",
            "curve25519_key": sample_curve25519_key("x"),
            "signer": ALICE.device_signer("PHONE"),
        }
        with pytest.raises(LocalProtocolError):
            DeviceKeys.build(**{**parts, **changes})

    @pytest.mark.parametrize(("user_id", "extra"), [("alice", None), (ALICE.user_id, {"added": 1.5})])
    def test_the_parts_must_make_an_acceptable_object(self, user_id: str, extra: Any) -> None:
        with pytest.raises(LocalProtocolError):
            DeviceKeys.build(
                user_id=user_id,
                device_id="PHONE",
                curve25519_key=sample_curve25519_key("x"),
                signer=ALICE.device_signer("PHONE"),
                extra=extra,
            )

    def test_signatures_are_exchanged_over_the_same_bytes_only(self) -> None:
        phone, laptop = ALICE.device("PHONE"), ALICE.device("LAPTOP")
        assert phone.with_signed(phone.signed.without_signatures()) == phone
        with pytest.raises(LocalProtocolError):
            phone.with_signed(laptop.signed)
        with pytest.raises(LocalProtocolError):
            phone.with_signed(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("unsigned", ["absent", None, {}])
def test_copies_are_the_same(unsigned: Any) -> None:
    obj = good() if unsigned == "absent" else {**good(), "unsigned": unsigned}
    device = DeviceKeys.from_json(obj)
    for same in (copy.copy(device), copy.deepcopy(device), pickle.loads(pickle.dumps(device))):
        assert same == device
        assert same.to_json() == obj


def test_equality() -> None:
    assert ALICE.device("PHONE") == ALICE.device("PHONE", cross_signed=False)
    assert ALICE.device("PHONE") != ALICE.device("LAPTOP")
    assert ALICE.device("PHONE") != "PHONE"


@given(json_like_values())
def test_no_foreign_exception_and_no_change(value: Any) -> None:
    before = repr(value)
    with contextlib.suppress(E2EKeysError):
        DeviceKeys.from_json(value).verify()
    assert repr(value) == before


@given(json_like_values())
def test_no_foreign_exception_in_place_of_any_member(value: Any) -> None:
    for path in (["user_id"], ["device_id"], ["algorithms"], ["keys"], ["signatures"], ["unsigned"]):
        obj: Any = copy.deepcopy(good())
        obj[path[0]] = value
        try:
            DeviceKeys.from_json(obj).verify()
        except E2EKeysError:
            continue


def test_a_curve25519_key_is_returned_as_such() -> None:
    assert type(ALICE.device("PHONE").curve25519_key) is Curve25519PublicKey
