"""check_claim: the answer to a claim judged against what was claimed and against devices verified before."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CachingVerifier,
    ClaimResult,
    Curve25519PublicKey,
    E2EKeysError,
    KeyId,
    KeysClaimRequest,
    KeysClaimResponse,
    LocalProtocolError,
    OneTimeKey,
    Reason,
    VerificationError,
    VerifiedDevice,
    VerifiedOneTimeKey,
    check_claim,
)
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
A1 = "signed_curve25519:A1"
REQUEST = KeysClaimRequest.for_devices({ALICE.user_id: ["PHONE", "TABLET"], BOB.user_id: ["X"]})
DEVICES: dict[str, dict[str, VerifiedDevice]] = {
    ALICE.user_id: {name: ALICE.device(name).verify() for name in ("PHONE", "TABLET")},
    BOB.user_id: {"X": BOB.device("X").verify()},
}

CAROLS_X = SampleUser("@carol:c.example").device("X").verify()


def body() -> dict[str, Any]:
    return {
        "one_time_keys": {
            ALICE.user_id: {
                "PHONE": {A1: ALICE.one_time_key("PHONE", "A1").to_json()},
                "TABLET": {A1: ALICE.one_time_key("TABLET", "A1").to_json()},
            },
            BOB.user_id: {"X": {A1: BOB.one_time_key("X", "A1").to_json()}},
        },
        "failures": {},
    }


def judge(answer: dict[str, Any], **arguments: Any) -> ClaimResult:
    return check_claim(REQUEST, KeysClaimResponse.from_json(answer), devices=DEVICES, **arguments)


def accepted(result: ClaimResult) -> set[tuple[str, str]]:
    return {(user, device) for user, keys in result.keys.accepted.items() for device in keys}


EVERYTHING = {(ALICE.user_id, "PHONE"), (ALICE.user_id, "TABLET"), (BOB.user_id, "X")}


def test_a_good_answer() -> None:
    result = judge(body())
    assert accepted(result) == EVERYTHING
    assert result.keys.rejected == result.keys.unsupported == result.notices == ()
    assert result.exhausted == result.unreachable == result.failures == {}
    key = result.keys.accepted[ALICE.user_id]["PHONE"]
    assert type(key) is VerifiedOneTimeKey
    assert key.device == DEVICES[ALICE.user_id]["PHONE"]
    assert key.key_id == KeyId("signed_curve25519", "A1")
    assert key.public_key == sample_curve25519_key("@alice:a.example PHONE A1")
    assert not key.is_fallback
    assert repr(key) == (
        "<VerifiedOneTimeKey of <VerifiedDevice '@alice:a.example' 'PHONE', not cross-signed>, "
        "<OneTimeKey 'signed_curve25519:A1'>>"
    )


def test_a_fallback_key_is_marked() -> None:
    answer = body()
    answer["one_time_keys"][BOB.user_id]["X"] = {A1: BOB.one_time_key("X", "A1", fallback=True).to_json()}
    result = judge(answer)
    assert accepted(result) == EVERYTHING
    assert result.keys.accepted[BOB.user_id]["X"].is_fallback


def _set(*place: str) -> Callable[[Any], Callable[[Any], None]]:
    def to(value: Any) -> Callable[[Any], None]:
        def apply(keys: Any) -> None:
            *above, last = place
            for name in above:
                keys = keys[name]
            keys[last] = value

        return apply

    return to


OF_BOB = _set(BOB.user_id)
OF_X = _set(BOB.user_id, "X")
OF_KEY = _set(BOB.user_id, "X", A1)
X_PATH = "/one_time_keys/@bob:b.example/X"
KEY_PATH = f"{X_PATH}/{A1}"


def _edited(**members: Any) -> dict[str, Any]:
    return {**BOB.one_time_key("X", "A1").to_json(), **members}  # type: ignore[dict-item]


def _signed_by(user: SampleUser, device_id: str, *, entity: str = BOB.user_id, key_id: str | None = None) -> Any:
    """Bob's key with a signature by another device, or under another name."""
    key = OneTimeKey.from_json(A1, {"key": sample_curve25519_key("k").to_base64()})
    assert key.signed is not None
    signed = add_signature(key.signed, entity=entity, signer=user.device_signer(device_id))
    text = signed.signatures[entity][f"ed25519:{device_id}"]
    name = key_id or f"ed25519:{device_id}"
    return {"key": key.key, "signatures": {entity: {name: text}}}


REFUSED = {
    # 44: users, devices and algorithms that nobody asked for, too many keys, keys that are none.
    "a user nobody claimed of": (
        _set("@mallory:evil.example")({"Y": {A1: _edited()}}),
        "/one_time_keys/@mallory:evil.example",
        Reason.UNREQUESTED,
        EVERYTHING,
    ),
    "a device nobody claimed of": (
        _set(BOB.user_id, "Y")({A1: _edited()}),
        "/one_time_keys/@bob:b.example/Y",
        Reason.UNREQUESTED,
        EVERYTHING,
    ),
    "another algorithm": (
        OF_X({"curve25519:A1": sample_curve25519_key("x").to_base64()}),
        f"{X_PATH}/curve25519:A1",
        Reason.UNREQUESTED,
        None,
    ),
    "another algorithm beside the right one": (
        _set(BOB.user_id, "X", "curve25519:A1")(sample_curve25519_key("x").to_base64()),
        f"{X_PATH}/curve25519:A1",
        Reason.UNREQUESTED,
        EVERYTHING,
    ),
    "two keys": (
        _set(BOB.user_id, "X", "signed_curve25519:A2")(BOB.one_time_key("X", "A2").to_json()),
        X_PATH,
        Reason.TOO_MANY_KEYS,
        None,
    ),
    "a bare string": (OF_KEY(sample_curve25519_key("x").to_base64()), KEY_PATH, Reason.WRONG_TYPE, None),
    "null for a key": (OF_KEY(None), KEY_PATH, Reason.WRONG_TYPE, None),
    "null for a device": (OF_X(None), X_PATH, Reason.WRONG_TYPE, None),
    "null for a user": (OF_BOB(None), "/one_time_keys/@bob:b.example", Reason.WRONG_TYPE, None),
    "a key id without an algorithm": (OF_X({"A1": _edited()}), f"{X_PATH}/A1", Reason.INVALID_KEY_ID, None),
    "a low-order key": (
        OF_KEY(_edited(key="A" * 43)),
        f"{KEY_PATH}/key",
        Reason.WEAK_KEY,
        None,
    ),
    # 45: not signed, or not by the device.
    "no signatures": (OF_KEY({"key": _edited()["key"]}), KEY_PATH, Reason.MISSING_SIGNATURE, None),
    "empty signatures": (OF_KEY(_edited(signatures={})), KEY_PATH, Reason.MISSING_SIGNATURE, None),
    "another key than was signed": (
        OF_KEY(_edited(key=sample_curve25519_key("mallory").to_base64())),
        f"{KEY_PATH}/signatures/@bob:b.example/ed25519:X",
        Reason.INVALID_SIGNATURE,
        None,
    ),
    "fallback added after signing": (
        OF_KEY(_edited(fallback=True)),
        f"{KEY_PATH}/signatures/@bob:b.example/ed25519:X",
        Reason.INVALID_SIGNATURE,
        None,
    ),
    "signed by another device of the user": (OF_KEY(_signed_by(BOB, "Y")), KEY_PATH, Reason.MISSING_SIGNATURE, None),
    "signed by another device under the right name": (
        OF_KEY(_signed_by(BOB, "Y", key_id="ed25519:X")),
        f"{KEY_PATH}/signatures/@bob:b.example/ed25519:X",
        Reason.INVALID_SIGNATURE,
        None,
    ),
    "signed by the device as another user": (
        OF_KEY(_signed_by(BOB, "X", entity=ALICE.user_id)),
        KEY_PATH,
        Reason.MISSING_SIGNATURE,
        None,
    ),
    "the key of another device": (
        OF_KEY(ALICE.one_time_key("PHONE", "A1").to_json()),
        KEY_PATH,
        Reason.MISSING_SIGNATURE,
        None,
    ),
    # 43: other signed objects of the same device are no one-time keys.
    "device keys for a key": (OF_KEY(BOB.device("X").to_json()), f"{KEY_PATH}/key", Reason.MISSING_MEMBER, None),
    "a fraction beside the key": (OF_KEY(_edited(weight=1.5)), f"{KEY_PATH}/weight", Reason.NOT_AN_INTEGER, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_costs_nobody_else_anything(name: str) -> None:
    """Attacks 43, 44 and 45."""
    edit, path, reason, good = REFUSED[name]
    answer = body()
    edit(answer["one_time_keys"])
    result = judge(answer)
    assert [(rejection.path, rejection.reason) for rejection in result.keys.rejected] == [(path, reason)]
    assert accepted(result) == (EVERYTHING - {(BOB.user_id, "X")} if good is None else good)
    assert result.keys.unsupported == ()
    assert result.exhausted == {}
    (rejection,) = result.keys.rejected
    place = answer["one_time_keys"]
    segments = path.split("/")[2:]
    raw_at = {Reason.WEAK_KEY: 3, Reason.MISSING_MEMBER: 3, Reason.NOT_AN_INTEGER: 3}.get(reason, min(len(segments), 3))
    for segment in segments[:raw_at]:
        place = place[segment]
    assert rejection.raw == place


def test_bytes_are_read_as_they_came() -> None:
    text = json.dumps(body()).replace('{"key"', '{"key":"x","key"', 1)
    result = check_claim(REQUEST, KeysClaimResponse.from_bytes(text), devices=DEVICES)
    (rejection,) = result.keys.rejected
    assert (rejection.reason, rejection.device_id) == (Reason.DUPLICATE_MEMBER, "PHONE")
    assert accepted(result) == EVERYTHING - {(ALICE.user_id, "PHONE")}


def test_a_device_that_was_not_verified_before() -> None:
    """Attack 45: whatever else the answer holds, the key that must have signed comes from elsewhere."""
    devices = {ALICE.user_id: DEVICES[ALICE.user_id]}
    answer = body()
    answer["device_keys"] = {BOB.user_id: {"X": BOB.device("X").to_json()}}
    result = check_claim(REQUEST, KeysClaimResponse.from_json(answer), devices=devices)
    (rejection,) = result.keys.rejected
    assert (rejection.path, rejection.reason) == (X_PATH, Reason.UNVERIFIED_DEVICE)
    assert (rejection.user_id, rejection.device_id) == (BOB.user_id, "X")
    assert accepted(result) == EVERYTHING - {(BOB.user_id, "X")}
    not_verified: Any = {**DEVICES, BOB.user_id: {"X": BOB.device("X")}}
    again = check_claim(REQUEST, KeysClaimResponse.from_json(answer), devices=not_verified)
    assert [it.reason for it in again.keys.rejected] == [Reason.UNVERIFIED_DEVICE]


def test_a_one_time_key_is_used_once() -> None:
    """Attack 46: a one-time key that comes again is refused, a fallback key may come again."""
    key = BOB.one_time_key("X", "A1")
    assert key.public_key is not None
    used = {key.public_key}
    result = judge(body(), was_used=used.__contains__)
    (rejection,) = result.keys.rejected
    assert (rejection.path, rejection.reason) == (f"{KEY_PATH}/key", Reason.KEY_REUSED)
    assert accepted(result) == EVERYTHING - {(BOB.user_id, "X")}
    answer = body()
    OF_KEY(BOB.one_time_key("X", "A1", fallback=True).to_json())(answer["one_time_keys"])
    assert accepted(judge(answer, was_used=used.__contains__)) == EVERYTHING


def test_whoever_knows_what_was_used_is_asked() -> None:
    asked: list[Curve25519PublicKey] = []

    def was_used(key: Curve25519PublicKey) -> bool:
        asked.append(key)
        return len(asked) == 2

    answer = body()
    answer["one_time_keys"][ALICE.user_id]["PHONE"] = {A1: ALICE.one_time_key("PHONE", "A1", fallback=True).to_json()}
    result = judge(answer, was_used=was_used)
    # Not of the fallback key, and not of what is refused anyway.
    assert asked == [ALICE.one_time_key("TABLET", "A1").public_key, BOB.one_time_key("X", "A1").public_key]
    assert [(it.path, it.reason) for it in result.keys.rejected] == [(f"{KEY_PATH}/key", Reason.KEY_REUSED)]
    assert accepted(result) == EVERYTHING - {(BOB.user_id, "X")}
    OF_KEY(None)(answer["one_time_keys"])
    asked.clear()
    judge(answer, was_used=was_used)
    assert asked == [ALICE.one_time_key("TABLET", "A1").public_key]


@pytest.mark.parametrize(
    ("devices", "path"),
    [
        ({BOB.user_id: {"X": DEVICES[ALICE.user_id]["PHONE"]}}, "/devices/@bob:b.example/X"),
        ({ALICE.user_id: {"PHONE": DEVICES[ALICE.user_id]["TABLET"]}}, "/devices/@alice:a.example/PHONE"),
        ({ALICE.user_id: {"TABLET": DEVICES[BOB.user_id]["X"]}}, "/devices/@alice:a.example/TABLET"),
        ({**DEVICES, BOB.user_id: {"X": CAROLS_X}}, "/devices/@bob:b.example/X"),
    ],
)
def test_a_device_that_stands_under_the_name_of_another(devices: dict[str, Any], path: str) -> None:
    for answer in (KeysClaimResponse.from_json(body()), KeysClaimResponse()):
        with pytest.raises(LocalProtocolError) as caught:
            check_claim(REQUEST, answer, devices=devices)
        assert (caught.value.path, caught.value.reason) == (path, Reason.DEVICE_ID_MISMATCH)


def test_the_name_of_a_device_in_a_path_is_escaped() -> None:
    request = KeysClaimRequest.for_devices({BOB.user_id: ["a/b~"]})
    with pytest.raises(LocalProtocolError) as caught:
        check_claim(request, KeysClaimResponse(), devices={BOB.user_id: {"a/b~": DEVICES[BOB.user_id]["X"]}})
    assert (caught.value.path, caught.value.reason) == ("/devices/@bob:b.example/a~1b~0", Reason.DEVICE_ID_MISMATCH)


def test_devices_that_nobody_claimed_of_are_left_alone() -> None:
    devices = {**DEVICES, BOB.user_id: {**DEVICES[BOB.user_id], "Y": CAROLS_X}, "@carol:c.example": {"Z": CAROLS_X}}
    assert accepted(check_claim(REQUEST, KeysClaimResponse.from_json(body()), devices=devices)) == EVERYTHING


def test_one_key_for_two_devices_is_noted() -> None:
    shared = sample_curve25519_key("shared")
    answer = body()
    for user, device_id in ((ALICE, "PHONE"), (BOB, "X")):
        key = OneTimeKey.build(
            key_id=A1, key=shared, user_id=user.user_id, signer=user.device_signer(device_id), fallback=False
        )
        answer["one_time_keys"][user.user_id][device_id] = {A1: key.to_json()}
    result = judge(answer)
    assert accepted(result) == EVERYTHING
    (notice,) = result.notices
    assert (notice.path, notice.reason) == (KEY_PATH, Reason.KEY_REUSED)
    assert "/one_time_keys/@alice:a.example/PHONE/" in notice.detail


def test_a_key_of_the_device_itself_is_no_one_time_key() -> None:
    device = DEVICES[BOB.user_id]["X"]
    assert device.curve25519_key is not None
    key = OneTimeKey.build(key_id=A1, key=device.curve25519_key, user_id=BOB.user_id, signer=BOB.device_signer("X"))
    answer = body()
    OF_KEY(key.to_json())(answer["one_time_keys"])
    (rejection,) = judge(answer).keys.rejected
    assert (rejection.path, rejection.reason) == (f"{KEY_PATH}/key", Reason.KEY_REUSED)
    with pytest.raises(VerificationError) as caught:
        key.verify(device=device)
    assert caught.value.reason is Reason.KEY_REUSED


def test_an_unknown_algorithm_is_unsupported() -> None:
    request = KeysClaimRequest.for_devices({BOB.user_id: ["X"]}, algorithm="org.example")
    value = {"key": "anything", "signatures": {}}
    answer = KeysClaimResponse.from_json({"one_time_keys": {BOB.user_id: {"X": {"org.example:1": value}}}})
    result = check_claim(request, answer, devices=DEVICES)
    assert result.keys.rejected == ()
    (unsupported,) = result.keys.unsupported
    assert (unsupported.path, unsupported.reason) == (f"{X_PATH}/org.example:1", Reason.UNSUPPORTED_ALGORITHM)
    assert unsupported.raw == value


def test_a_bare_key_that_was_asked_for_is_not_accepted_either() -> None:
    request = KeysClaimRequest.for_devices({BOB.user_id: ["X"]}, algorithm="curve25519")
    key = sample_curve25519_key("x").to_base64()
    answer = KeysClaimResponse.from_json({"one_time_keys": {BOB.user_id: {"X": {"curve25519:1": key}}}})
    (rejection,) = check_claim(request, answer, devices=DEVICES).keys.rejected
    assert rejection.reason is Reason.MISSING_SIGNATURE


class TestNothing:
    def test_exhausted(self) -> None:
        answer = body()
        del answer["one_time_keys"][ALICE.user_id]["PHONE"]
        answer["one_time_keys"][ALICE.user_id]["TABLET"] = {}
        del answer["one_time_keys"][BOB.user_id]
        result = judge(answer)
        assert result.exhausted == {ALICE.user_id: {"PHONE", "TABLET"}, BOB.user_id: {"X"}}
        assert result.unreachable == {}
        assert result.keys.rejected == ()

    def test_unreachable(self) -> None:
        answer = body()
        del answer["one_time_keys"][BOB.user_id]
        answer["failures"] = {"b.example": {"status": 503}, "c.example": {}}
        result = judge(answer)
        assert (result.exhausted, result.unreachable) == ({}, {BOB.user_id: {"X"}})
        assert result.failures == answer["failures"]

    def test_one_of_several(self) -> None:
        """A device that is missing costs its owner's other devices nothing, nor does a server that fails in part."""
        for failures, name in (({}, "exhausted"), ({"a.example": {}}, "unreachable")):
            answer = {**body(), "failures": failures}
            del answer["one_time_keys"][ALICE.user_id]["TABLET"]
            result = judge(answer)
            assert accepted(result) == EVERYTHING - {(ALICE.user_id, "TABLET")}
            found = {"exhausted": result.exhausted, "unreachable": result.unreachable}
            assert found == {"exhausted": {}, "unreachable": {}, name: {ALICE.user_id: {"TABLET"}}}

    def test_what_is_refused_is_there(self) -> None:
        answer = body()
        answer["one_time_keys"][ALICE.user_id] = {"PHONE": None, "TABLET": {"nonsense": 5}}
        answer["one_time_keys"][BOB.user_id] = []
        result = judge(answer)
        assert (result.exhausted, result.unreachable) == ({}, {})
        assert len(result.keys.rejected) == 3

    def test_no_map_says_nothing(self) -> None:
        result = judge({"one_time_keys": [], "failures": 5})
        assert (result.exhausted, result.unreachable) == ({}, {})
        assert [it.path for it in result.keys.rejected] == ["/one_time_keys"]
        assert [it.path for it in result.notices] == ["/failures"]

    @pytest.mark.parametrize("failures", [None, [], 5, "down"], ids=repr)
    def test_who_knows_which_servers_have_failed(self, failures: Any) -> None:
        answer = body()
        del answer["one_time_keys"][BOB.user_id]
        answer["failures"] = failures
        result = judge(answer)
        assert (result.exhausted, result.unreachable) == ({}, {})
        assert accepted(result) == EVERYTHING - {(BOB.user_id, "X")}
        assert [(it.path, it.reason) for it in result.notices] == [("/failures", Reason.WRONG_TYPE)]
        assert (result.keys.rejected, result.failures) == ((), {})


class TestCallers:
    @pytest.mark.parametrize(
        ("request_", "response", "arguments", "path"),
        [
            (None, KeysClaimResponse(), {"devices": {}}, ""),
            (REQUEST, {}, {"devices": {}}, ""),
            (REQUEST, KeysClaimResponse(), {"devices": None}, "/devices"),
            (REQUEST, KeysClaimResponse(), {"devices": {BOB.user_id: None}}, "/devices"),
            (REQUEST, KeysClaimResponse(), {"devices": {}, "was_used": 5}, "/was_used"),
            (REQUEST, KeysClaimResponse(), {"devices": {}, "was_used": frozenset()}, "/was_used"),
            (REQUEST, KeysClaimResponse(), {"devices": {}, "was_used": False}, "/was_used"),
            (REQUEST, KeysClaimResponse(), {"devices": {}, "verifier": None}, "/verifier"),
        ],
    )
    def test_bad_callers(self, request_: Any, response: Any, arguments: dict[str, Any], path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            check_claim(request_, response, **arguments)
        assert caught.value.path == path

    def test_the_verifier_is_asked(self) -> None:
        verifier = CachingVerifier()
        assert accepted(judge(body(), verifier=verifier)) == EVERYTHING
        assert accepted(judge(body(), verifier=verifier)) == EVERYTHING

    def test_a_verified_key_cannot_be_made(self) -> None:
        key = judge(body()).keys.accepted[BOB.user_id]["X"]
        with pytest.raises(LocalProtocolError):
            VerifiedOneTimeKey(key.device, key.one_time_key)


@given(json_like_values(), st.sampled_from(["answer", "user", "device", "key", "failures"]))
def test_no_foreign_exception(value: Any, where: str) -> None:
    answer = body()
    keys = answer["one_time_keys"]
    match where:
        case "answer":
            answer["one_time_keys"] = value
        case "user":
            keys[BOB.user_id] = value
        case "device":
            keys[BOB.user_id]["X"] = value
        case "key":
            keys[BOB.user_id]["X"][A1] = value
        case _:
            answer["failures"] = value
    before = copy.deepcopy(answer) if "object" not in repr(answer) else None
    try:
        result = judge(answer)
    except E2EKeysError:
        return
    assert accepted(result) <= EVERYTHING
    if where not in ("answer", "failures"):
        assert (ALICE.user_id, "PHONE") in accepted(result)
    assert before is None or repr(answer) == repr(before)
