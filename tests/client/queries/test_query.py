"""Judging a /keys/query answer: attacks 4, 5 and 23 to 31, and everything that must cost only itself."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    CachingVerifier,
    CrossSigningKey,
    Curve25519PublicKey,
    DeviceKeys,
    ExecutorVerifier,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    QueryResult,
    Reason,
    RemoteProtocolError,
    UserAnswer,
    check_query,
    sign_json,
    unpadded_base64,
)
from matrix_e2e_keys.errors import json_pointer
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values, keys_query_answers, tampered_device_keys

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")


def answer(*, viewer: str = "") -> dict[str, Any]:
    return keys_query_answer(
        [
            (ALICE, [ALICE.device("PHONE"), ALICE.device("LAPTOP", cross_signed=False)]),
            (BOB, [BOB.device("X")]),
        ],
        viewer=viewer,
    )


def judge(body: Any, *asked: str, **options: Any) -> QueryResult:
    request = KeysQueryRequest.for_users(asked or (ALICE.user_id, BOB.user_id))
    read = KeysQueryResponse.from_bytes if isinstance(body, bytes | str) else KeysQueryResponse.from_json
    return check_query(request, read(body), **options)


def accepted(result: QueryResult) -> dict[str, set[str]]:
    return {user_id: set(devices) for user_id, devices in result.devices.accepted.items()}


def findings(result: QueryResult) -> list[tuple[str, Reason]]:
    return [(rejection.path, rejection.reason) for rejection in (*result.identities.rejected, *result.devices.rejected)]


EVERYTHING = {ALICE.user_id: {"PHONE", "LAPTOP"}, BOB.user_id: {"X"}}
PHONE = "/device_keys/@alice:a.example/PHONE"


def test_a_good_answer() -> None:
    result = judge(answer())
    assert accepted(result) == EVERYTHING
    assert findings(result) == []
    assert set(result.identities.accepted) == {ALICE.user_id, BOB.user_id}
    assert {device.device_id for device in result.cross_signed_devices} == {"PHONE", "X"}
    phone = result.devices.accepted[ALICE.user_id]["PHONE"]
    assert phone.cross_signed_by == result.identities.accepted[ALICE.user_id].self_signing_public_key
    assert result.users == {ALICE.user_id: UserAnswer.DEVICES, BOB.user_id: UserAnswer.DEVICES}
    assert result.missing_devices == {}
    assert result.verified_users == frozenset()
    assert result.notices == ()
    assert result.devices.require_all() is result.devices.accepted


def test_an_empty_answer_to_an_empty_question() -> None:
    result = check_query(KeysQueryRequest.for_users([]), KeysQueryResponse.from_json({}))
    assert accepted(result) == {}
    assert result.users == {}


@pytest.mark.parametrize("spread", [False, True])
def test_other_verifiers_give_the_same_result(spread: bool) -> None:
    with ThreadPoolExecutor(2) as executor:
        inner = ExecutorVerifier(executor=executor, chunk=1)
        verifier = CachingVerifier(inner=inner) if spread else inner
        for _ in range(2):
            body = answer()
            body["device_keys"][BOB.user_id]["X"]["added"] = 1
            result = judge(body, verifier=verifier)
            assert accepted(result) == {ALICE.user_id: {"PHONE", "LAPTOP"}}
            assert findings(result) == [
                ("/device_keys/@bob:b.example/X/signatures/@bob:b.example/ed25519:X", Reason.INVALID_SIGNATURE)
            ]


# --------------------------------------------------------------------------------------------------------------
# One rotten entry costs only itself
# --------------------------------------------------------------------------------------------------------------

ROTTEN = {
    "null": "null",
    "string": '"x"',
    "array": "[1]",
    "number": "7",
    "float": "1.5",
    "exponent": "1e3",
    "negative zero": "-0",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "overflow": "1e400",
    "huge integer": "9" * 5000,
    "integer out of range": "9007199254740992",
    "lone surrogate": '"\\ud800"',
    "duplicate member": '{"a": 1, "a": 1}',
    "duplicate after unescaping": '{"a": 1, "\\u0061": 2}',
    "over-deep array": "[" * 200 + "]" * 200,
    "over-deep object": '{"a":' * 300 + "1" + "}" * 300,
    "empty object": "{}",
}

PLACES: dict[str, tuple[str, ...]] = {
    "a user": ("device_keys", ALICE.user_id),
    "a device": ("device_keys", ALICE.user_id, "PHONE"),
    "user_id": ("device_keys", ALICE.user_id, "PHONE", "user_id"),
    "device_id": ("device_keys", ALICE.user_id, "PHONE", "device_id"),
    "algorithms": ("device_keys", ALICE.user_id, "PHONE", "algorithms"),
    "keys": ("device_keys", ALICE.user_id, "PHONE", "keys"),
    "a key": ("device_keys", ALICE.user_id, "PHONE", "keys", "ed25519:PHONE"),
    "signatures": ("device_keys", ALICE.user_id, "PHONE", "signatures"),
    "an entity": ("device_keys", ALICE.user_id, "PHONE", "signatures", ALICE.user_id),
    "an unknown member": ("device_keys", ALICE.user_id, "PHONE", "added"),
    "a master key": ("master_keys", ALICE.user_id),
    "a usage": ("self_signing_keys", ALICE.user_id, "usage"),
    "a map of keys": ("master_keys",),
}


def with_raw(body: dict[str, Any], place: tuple[str, ...], text: str) -> str:
    """Return ``body`` as JSON text with ``text`` standing at ``place``."""
    inner = body
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = "@@@"
    return json.dumps(body).replace('"@@@"', text)


@pytest.mark.parametrize("token", ROTTEN)
@pytest.mark.parametrize("place", PLACES)
def test_one_rotten_entry_costs_only_itself(place: str, token: str) -> None:
    """attacks 6 to 10, in the middle of other people's data."""
    path = PLACES[place]
    result = judge(with_raw(answer(), path, ROTTEN[token]).encode())
    assert accepted(result)[BOB.user_id] == {"X"}
    others = set() if place == "a user" else {"LAPTOP"}
    assert accepted(result).get(ALICE.user_id, set()) >= others
    entry = {"a user": set(), "a device": {"PHONE"}}.get(place, {"PHONE"} if path[0] == "device_keys" else set())
    harmless = (place, token) in {
        ("an unknown member", name) for name in ("null", "string", "array", "number", "empty object")
    } | {("a user", "empty object"), ("signatures", "empty object")}
    if place == "a user" and token == "empty object":
        assert result.users[ALICE.user_id] is UserAnswer.NO_DEVICES
        return
    if path[0] == "device_keys":
        assert not entry & accepted(result).get(ALICE.user_id, set()) or harmless
        if place != "an unknown member" or not harmless:
            assert any(
                found.startswith(PHONE if len(path) > 2 else PHONE[: -len("/PHONE")]) for found, _ in findings(result)
            )
    else:
        assert ALICE.user_id not in result.identities.accepted
        assert {"PHONE", "LAPTOP"} == accepted(result)[ALICE.user_id]
        assert (BOB.user_id in result.identities.accepted) is (place != "a map of keys")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("1.5", Reason.NOT_AN_INTEGER),
        ("1e3", Reason.NOT_AN_INTEGER),
        ("NaN", Reason.NOT_AN_INTEGER),
        ("-0", Reason.NEGATIVE_ZERO),
        ("9007199254740992", Reason.INTEGER_OUT_OF_RANGE),
        ("9" * 5000, Reason.TOO_MANY_DIGITS),
        ('"\\ud800"', Reason.LONE_SURROGATE),
        ('{"a": 1, "a": 1}', Reason.DUPLICATE_MEMBER),
        ("[" * 200 + "]" * 200, Reason.TOO_DEEP),
    ],
    ids=lambda value: str(value)[:12],
)
def test_the_rotten_place_is_named(token: str, reason: Reason) -> None:
    result = judge(with_raw(answer(), (*PLACES["a device"], "added"), token))
    ((path, found),) = findings(result)
    assert path.startswith(PHONE + "/added")
    assert found is reason


@pytest.mark.parametrize("token", [text for name, text in ROTTEN.items() if name != "empty object"])
def test_unsigned_costs_nothing(token: str) -> None:
    result = judge(with_raw(answer(), (*PLACES["a device"], "unsigned"), token))
    assert accepted(result) == EVERYTHING
    result = judge(with_raw(answer(), (*PLACES["a device"], "unsigned"), f'{{"device_display_name": {token}}}'))
    assert accepted(result) == EVERYTHING
    assert findings(result) == []


def test_a_duplicate_user_costs_that_user() -> None:
    text = json.dumps(answer())
    bob = json.dumps(answer()["device_keys"][BOB.user_id])
    text = text.replace('"device_keys": {', f'"device_keys": {{"{BOB.user_id}": {bob}, ', 1)
    result = judge(text.encode())
    assert accepted(result) == {ALICE.user_id: {"PHONE", "LAPTOP"}}
    assert findings(result) == [("/device_keys/@bob:b.example", Reason.DUPLICATE_MEMBER)]
    assert result.users[BOB.user_id] is UserAnswer.MALFORMED


def test_a_duplicate_device_costs_that_device() -> None:
    text = json.dumps(answer())
    phone = json.dumps(answer()["device_keys"][ALICE.user_id]["PHONE"])
    text = text.replace('"PHONE": {', f'"PHONE": {phone}, "PHONE": {{', 1)
    result = judge(text.encode())
    assert accepted(result) == {ALICE.user_id: {"LAPTOP"}, BOB.user_id: {"X"}}
    assert findings(result) == [(PHONE, Reason.DUPLICATE_MEMBER)]
    assert result.present_device_ids(ALICE.user_id) == {"PHONE", "LAPTOP"}


@pytest.mark.parametrize("name", ["device_keys", "failures"])
def test_a_duplicate_map_costs_that_map(name: str) -> None:
    text = json.dumps(answer())
    result = judge(f'{{"{name}": {{}}, {text[1:]}'.encode())
    assert set(result.identities.accepted) == {ALICE.user_id, BOB.user_id}
    if name == "device_keys":
        assert findings(result) == [("/device_keys", Reason.DUPLICATE_MEMBER)]
        assert set(result.users.values()) == {UserAnswer.MALFORMED}
    else:
        assert accepted(result) == EVERYTHING
        assert [(notice.path, notice.reason) for notice in result.notices] == [("/failures", Reason.DUPLICATE_MEMBER)]


@pytest.mark.parametrize("body", [b"[" * 10**6, b'{"device_keys":' * 2000, b'{"device_keys": {}', b"\xff{}"])
def test_only_the_frames_own_faults_refuse_it(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        KeysQueryResponse.from_bytes(body)


@given(json_like_values())
def test_no_foreign_exception_whatever_stands_anywhere(value: Any) -> None:
    for place in PLACES.values():
        body = answer()
        inner: Any = body
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value
        result = judge(body)
        assert accepted(result)[BOB.user_id] == {"X"}
        for partition in (result.devices, result.identities):
            for rejection in partition.rejected:
                assert rejection.path.startswith("/")
                assert rejection.detail


@given(tampered_device_keys())
def test_tampered_devices_are_refused(tampered: tuple[str, str, Any]) -> None:
    user_id, device_id, obj = tampered
    body = {"device_keys": {user_id: {device_id: obj}, "@dave:d.example": {}}}
    result = judge(body, user_id)
    assert accepted(result) == {}
    assert result.present_device_ids(user_id) == {device_id}
    assert [rejection.device_id for rejection in result.devices.rejected] == [device_id, None]


@given(keys_query_answers())
def test_good_answers_are_accepted_whole(body: dict[str, Any]) -> None:
    users = list(body["device_keys"])
    result = judge(body, *users) if users else judge(body, "@nobody:x.example")
    assert findings(result) == []
    assert set(result.identities.accepted) == set(users)
    assert accepted(result) == {user_id: set(devices) for user_id, devices in body["device_keys"].items() if devices}


# --------------------------------------------------------------------------------------------------------------
# The answer against the question
# --------------------------------------------------------------------------------------------------------------


def test_unrequested_users_are_refused() -> None:
    result = judge(answer(), ALICE.user_id)
    assert accepted(result) == {ALICE.user_id: {"PHONE", "LAPTOP"}}
    assert findings(result) == [
        ("/master_keys/@bob:b.example", Reason.UNREQUESTED),
        ("/self_signing_keys/@bob:b.example", Reason.UNREQUESTED),
        ("/device_keys/@bob:b.example/X", Reason.UNREQUESTED),
    ]
    assert BOB.user_id not in result.users
    with pytest.raises(RemoteProtocolError) as caught:
        result.devices.require_all()
    assert caught.value.path == "/device_keys/@bob:b.example/X"


def test_an_unrequested_user_without_devices_is_named_too() -> None:
    result = judge({"device_keys": {"@carol:c.example": {}}})
    assert findings(result) == [("/device_keys/@carol:c.example", Reason.UNREQUESTED)]
    assert result.devices.rejected[0].raw == {}


def test_a_malformed_device_of_an_unrequested_user_says_what_is_wrong_with_it() -> None:
    result = judge({"device_keys": {"@carol:c.example": {"X": None, "Y": BOB.device("X").to_json()}}})
    assert findings(result) == [
        ("/device_keys/@carol:c.example/X", Reason.WRONG_TYPE),
        ("/device_keys/@carol:c.example/Y", Reason.UNREQUESTED),
    ]


@pytest.mark.parametrize("name", ["carol", "", "@carol", "@:", "carol:c.example", "@c\x00:d", "\ud800"])
def test_names_that_are_no_user_ids(name: str) -> None:
    body = answer()
    body["device_keys"][name] = {"X": body["device_keys"][BOB.user_id]["X"]}
    result = judge(body)
    assert accepted(result) == EVERYTHING
    ((path, reason),) = findings(result)
    assert reason is Reason.INVALID_IDENTIFIER
    assert path == json_pointer(["device_keys", name])
    path.encode()


def test_a_long_name_is_said_once() -> None:
    """However many devices stand under it: what one entry costs is bounded by its size."""
    name = "@" + "u" * 100_000
    body = {"device_keys": {name: {str(number): number for number in range(20_000)}}}
    result = judge(json.dumps(body).encode())
    assert len(result.devices.rejected) == 1
    assert len(result.devices.rejected[0].detail) < 200


def test_unrequested_devices_are_refused() -> None:
    request = KeysQueryRequest.for_devices({ALICE.user_id: ["PHONE", "TABLET"], BOB.user_id: []})
    result = check_query(request, KeysQueryResponse.from_json(answer()))
    assert accepted(result) == {ALICE.user_id: {"PHONE"}, BOB.user_id: {"X"}}
    assert findings(result) == [("/device_keys/@alice:a.example/LAPTOP", Reason.UNREQUESTED)]
    assert result.missing_devices == {ALICE.user_id: {"TABLET"}}
    assert set(result.identities.accepted) == {ALICE.user_id, BOB.user_id}
    present = KeysQueryRequest.for_devices({ALICE.user_id: ["PHONE", "LAPTOP"]})
    assert check_query(present, KeysQueryResponse.from_json(answer())).missing_devices == {}


def test_why_a_user_is_not_there() -> None:
    body = {
        "device_keys": {
            ALICE.user_id: {"PHONE": ALICE.device("PHONE").to_json()},
            "@empty:b.example": {},
            "@broken:b.example": None,
            "@there:down.example:8448": {},
        },
        "failures": {"down.example:8448": {"status": 503}, "elsewhere.example": "text"},
    }
    asked = [
        ALICE.user_id,
        "@empty:b.example",
        "@broken:b.example",
        "@lost:down.example:8448",
        "@there:down.example:8448",
        "@unknown:b.example",
    ]
    result = judge(body, *asked)
    assert [result.users[user_id] for user_id in asked] == [
        UserAnswer.DEVICES,
        UserAnswer.NO_DEVICES,
        UserAnswer.MALFORMED,
        UserAnswer.SERVER_FAILED,
        UserAnswer.NO_DEVICES,
        UserAnswer.UNANSWERED,
    ]
    assert result.failures == body["failures"]
    assert result.present_device_ids("@broken:b.example") == frozenset()
    assert result.present_device_ids("@nobody:b.example") == frozenset()


def test_a_device_without_a_key_or_of_an_unknown_algorithm() -> None:
    keyless: dict[str, Any] = {"user_id": BOB.user_id, "device_id": "OLD", "algorithms": [], "keys": {}}
    future = {**keyless, "device_id": "NEW", "keys": {"m.future:NEW": "abc"}}
    body = {"device_keys": {BOB.user_id: {"OLD": keyless, "NEW": future, "X": BOB.device("X").to_json()}}}
    result = judge(body)
    assert accepted(result) == {BOB.user_id: {"X"}}
    assert findings(result) == [("/device_keys/@bob:b.example/OLD/keys", Reason.MISSING_KEY)]
    assert [(it.path, it.reason, it.device_id) for it in result.devices.unsupported] == [
        ("/device_keys/@bob:b.example/NEW/keys", Reason.UNSUPPORTED_ALGORITHM, "NEW")
    ]
    assert result.devices.unsupported[0].raw == future


@pytest.mark.parametrize("signatures", ["absent", {}, {BOB.user_id: {}}, {ALICE.user_id: {}}, "other key id"])
def test_a_device_without_its_own_signature(signatures: Any) -> None:
    """attack 15: no signature is not a good signature."""
    body = answer()
    device = body["device_keys"][ALICE.user_id]["PHONE"]
    if signatures == "absent":
        del device["signatures"]
    elif signatures == "other key id":
        device["signatures"] = {ALICE.user_id: {"ed25519:LAPTOP": "x", ALICE.self_signing_key.key_name: "x"}}
    else:
        device["signatures"] = signatures
    result = judge(body)
    assert findings(result) == [(PHONE, Reason.MISSING_SIGNATURE)]


# --------------------------------------------------------------------------------------------------------------
# Who is who
# --------------------------------------------------------------------------------------------------------------


def test_owner_and_device_must_agree_everywhere() -> None:
    """attack 31: every combination of map key, user_id and signature; only all-alice passes."""
    for outer in (ALICE, BOB):
        for inner in (ALICE, BOB):
            for signed_as in (ALICE, BOB):
                obj: Any = ALICE.device("PHONE", cross_signed=False).to_json()
                obj["user_id"] = inner.user_id
                del obj["signatures"]
                obj = sign_json(obj, entity=signed_as.user_id, signer=ALICE.device_signer("PHONE"))
                result = judge({"device_keys": {outer.user_id: {"PHONE": obj}}})
                assert (accepted(result) == {outer.user_id: {"PHONE"}}) is (outer == inner == signed_as)


def test_device_id_must_agree() -> None:
    body = answer()
    devices = body["device_keys"][ALICE.user_id]
    devices["PHONE"], devices["LAPTOP"] = devices["LAPTOP"], devices["PHONE"]
    assert [reason for _, reason in findings(judge(body))] == [Reason.DEVICE_ID_MISMATCH] * 2


@pytest.mark.parametrize("name", ["master_keys", "self_signing_keys", "user_signing_keys"])
def test_cross_signing_keys_must_agree_with_their_user(name: str) -> None:
    """attack 31, for cross-signing keys."""
    body = answer(viewer=ALICE.user_id)
    bobs = keys_query_answer([(BOB, [])], viewer=BOB.user_id)
    body[name][ALICE.user_id] = bobs[name][BOB.user_id]  # type: ignore[index]
    result = judge(body)
    found = dict(findings(result))
    assert found[f"/{name}/@alice:a.example/user_id"] is Reason.USER_ID_MISMATCH
    assert accepted(result) == EVERYTHING
    if name == "user_signing_keys":
        assert result.identities.accepted[ALICE.user_id].user_signing_key is None
    else:
        assert ALICE.user_id not in result.identities.accepted
        assert [device.user_id for device in result.cross_signed_devices] == [BOB.user_id]


def test_collateral_refusals_say_so() -> None:
    body = answer(viewer=ALICE.user_id)
    del body["self_signing_keys"][BOB.user_id]
    body["master_keys"][ALICE.user_id]["usage"] = ["self_signing"]
    assert findings(judge(body)) == [
        ("/master_keys/@alice:a.example/usage", Reason.WRONG_USAGE),
        ("/self_signing_keys/@alice:a.example", Reason.MASTER_KEY_REFUSED),
        ("/user_signing_keys/@alice:a.example", Reason.MASTER_KEY_REFUSED),
        ("/master_keys/@bob:b.example", Reason.MISSING_SELF_SIGNING_KEY),
    ]
    body = answer()
    del body["master_keys"][ALICE.user_id]
    body["self_signing_keys"][BOB.user_id]["signatures"] = {}
    assert findings(judge(body)) == [
        ("/master_keys/@bob:b.example", Reason.SELF_SIGNING_KEY_REFUSED),
        ("/self_signing_keys/@bob:b.example", Reason.MISSING_SIGNATURE),
        ("/self_signing_keys/@alice:a.example", Reason.MISSING_MASTER_KEY),
    ]


def test_an_unsigned_self_signing_key_signs_nothing() -> None:
    """attack 30: no chain, no cross-signed device."""
    body = answer()
    body["self_signing_keys"][ALICE.user_id]["signatures"][ALICE.user_id] = {"ed25519:PHONE": "x"}
    result = judge(body)
    assert [device.user_id for device in result.cross_signed_devices] == [BOB.user_id]
    assert accepted(result) == EVERYTHING


def test_a_bad_cross_signature_is_noticed_and_costs_only_itself() -> None:
    body = answer()
    name = ALICE.self_signing_key.key_name
    signatures = body["device_keys"][ALICE.user_id]["PHONE"]["signatures"][ALICE.user_id]
    signatures[name] = signatures["ed25519:PHONE"]
    result = judge(body)
    assert accepted(result) == EVERYTHING
    assert not result.devices.accepted[ALICE.user_id]["PHONE"].is_cross_signed
    (notice,) = result.notices
    assert notice.reason is Reason.INVALID_SIGNATURE
    assert notice.path.startswith(PHONE + "/signatures/")


def test_a_device_with_a_bad_own_and_a_good_cross_signature_is_refused() -> None:
    body = answer()
    signatures = body["device_keys"][ALICE.user_id]["PHONE"]["signatures"][ALICE.user_id]
    signatures["ed25519:PHONE"] = signatures[ALICE.self_signing_key.key_name]
    result = judge(body)
    assert accepted(result)[ALICE.user_id] == {"LAPTOP"}
    assert result.notices == ()


@pytest.mark.parametrize("usage", ["master", "self_signing", "user_signing"])
@pytest.mark.parametrize("how", ["exact", "padded", "spare bits", "url-safe", "junk", "space", "line end"])
def test_a_device_id_that_is_a_cross_signing_key_blocks_the_user(usage: str, how: str) -> None:
    """attack 25: device ids and cross-signing keys share a namespace; a collision blocks the user."""
    text = ALICE.secret(usage).public_key.to_base64()
    device_id = {
        "exact": text,
        "padded": text + "=",
        "spare bits": text[:-1] + chr(ord(text[-1]) + 1),
        "url-safe": text.replace("+", "-").replace("/", "_"),
        "junk": text + "!",
        "space": text[:10] + " " + text[10:],
        "line end": text + "\n",
    }[how]
    body = answer(viewer=ALICE.user_id)
    body["device_keys"][ALICE.user_id][device_id] = ALICE.device(device_id).to_json()
    result = judge(body)
    assert accepted(result) == {BOB.user_id: {"X"}}
    assert set(result.identities.accepted) == {BOB.user_id}
    assert {reason for _, reason in findings(result)} == {Reason.IDENTIFIER_COLLISION}
    assert len(findings(result)) == 3 + 3
    assert result.present_device_ids(ALICE.user_id) == {"PHONE", "LAPTOP", device_id}


def test_a_refused_entry_collides_all_the_same() -> None:
    """attack 25: a malformed device under the id, or a key that is not part of an identity."""
    body = answer()
    body["device_keys"][ALICE.user_id][ALICE.master_public_key.to_base64()] = None
    body["self_signing_keys"][BOB.user_id]["signatures"] = {}
    body["device_keys"][BOB.user_id][BOB.secret("self_signing").public_key.to_base64()] = {}
    result = judge(body)
    assert accepted(result) == {}
    assert {reason for _, reason in findings(result)} == {Reason.IDENTIFIER_COLLISION}


@pytest.mark.parametrize(
    "spoil",
    [{"weight": 1.5}, {"usage": ["master", "self_signing"]}, {"keys": "two"}, {"keys": 5}, {"user_id": None}],
    ids=repr,
)
def test_a_malformed_cross_signing_key_is_still_a_key_to_be_taken_for(spoil: dict[str, Any]) -> None:
    """attacks 25 and 29: spoiling the master key must not make room for a device in its place."""
    body = answer()
    master: Any = body["master_keys"][ALICE.user_id]
    if "keys" in spoil:
        master["keys"]["m.future:x"] = spoil["keys"]
    else:
        master.update(spoil)
    device_id = ALICE.master_public_key.to_base64()
    body["device_keys"][ALICE.user_id][device_id] = ALICE.device(device_id).to_json()
    assert accepted(judge(body)) == {BOB.user_id: {"X"}}
    del body["device_keys"][ALICE.user_id][device_id]
    evil = DeviceKeys.build(
        user_id=ALICE.user_id,
        device_id="EVIL",
        curve25519_key=sample_curve25519_key("evil"),
        signer=ALICE.secret("master").signer("ed25519:EVIL"),
    )
    body["device_keys"][ALICE.user_id]["EVIL"] = evil.to_json()
    result = judge(body)
    assert accepted(result) == EVERYTHING
    assert ("/device_keys/@alice:a.example/EVIL/keys", Reason.KEY_REUSED) in findings(result)


@pytest.mark.parametrize("asked", [[], ["EVIL"]])
def test_an_identity_key_that_is_a_cross_signing_key_is_refused(asked: list[str]) -> None:
    """attack 29: the curve25519 key of a device, too."""
    raw = next(
        key for key in (sample_secret_key(f"low {number}") for number in range(100)) if key.public_key.raw[31] < 0x80
    )
    master = CrossSigningKey.build(user_id=ALICE.user_id, usage="master", public_key=raw.public_key)
    self_signing = CrossSigningKey.build(
        user_id=ALICE.user_id,
        usage="self_signing",
        public_key=ALICE.secret("self_signing").public_key,
        signer=raw.cross_signer(),
    )
    device = DeviceKeys.build(
        user_id=ALICE.user_id,
        device_id="EVIL",
        curve25519_key=Curve25519PublicKey(raw.public_key.raw),
        signer=ALICE.device_signer("EVIL"),
    )
    body = {
        "device_keys": {ALICE.user_id: {"EVIL": device.to_json()}},
        "master_keys": {ALICE.user_id: master.to_json()},
        "self_signing_keys": {ALICE.user_id: self_signing.to_json()},
    }
    request = KeysQueryRequest.for_devices({ALICE.user_id: asked})
    result = check_query(request, KeysQueryResponse.from_json(body))
    assert accepted(result) == {}
    assert findings(result) == [("/device_keys/@alice:a.example/EVIL/keys", Reason.KEY_REUSED)]
    assert ALICE.user_id in result.identities.accepted


@pytest.mark.parametrize("usage", ["master", "self_signing"])
def test_a_key_of_another_usage_is_no_user_signing_key(usage: Any) -> None:
    """attack 28, for the key that only its owner sees."""
    secret = sample_secret_key("odd")
    odd = CrossSigningKey.build(
        user_id=ALICE.user_id,
        usage=usage,
        public_key=secret.public_key,
        signer=ALICE.secret("master").cross_signer(),
    )
    body = answer(viewer=ALICE.user_id)
    body["user_signing_keys"][ALICE.user_id] = odd.to_json()
    result = judge(body)
    assert findings(result) == [("/user_signing_keys/@alice:a.example/usage", Reason.WRONG_USAGE)]
    assert result.identities.accepted[ALICE.user_id].user_signing_key is None


def test_a_device_with_an_identity_key_only_is_refused() -> None:
    body = answer()
    del body["device_keys"][ALICE.user_id]["PHONE"]["keys"]["ed25519:PHONE"]
    result = judge(body)
    assert findings(result) == [(PHONE + "/keys", Reason.MISSING_KEY)]
    assert result.devices.unsupported == ()


def test_looking_for_collisions_takes_each_key_and_each_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """attack 25: many keys in one malformed object, times many long device ids, is no product."""
    decoded: list[str] = []
    real = unpadded_base64.decode_loosely

    def counting(text: str) -> bytes | None:
        decoded.append(text)
        return real(text)

    body = answer()
    body["master_keys"][ALICE.user_id]["keys"] = {f"ed25519:{number:043}": "x" for number in range(200)}
    body["device_keys"][ALICE.user_id] = {f"{number:050}": None for number in range(200)}
    response = KeysQueryResponse.from_json(body)
    monkeypatch.setattr(unpadded_base64, "decode_loosely", counting)
    check_query(KeysQueryRequest.for_users([ALICE.user_id, BOB.user_id]), response)
    assert len(decoded) <= 2 * (2 * 200) + 200


def test_a_device_named_after_somebody_elses_key_collides_with_nothing() -> None:
    body = answer()
    device_id = BOB.master_public_key.to_base64()
    body["device_keys"][ALICE.user_id][device_id] = ALICE.device(device_id).to_json()
    assert findings(judge(body)) == []


def test_a_device_key_that_is_a_cross_signing_key_is_refused() -> None:
    """attack 29: the same bytes as device key and as cross-signing key of one user."""
    secret = ALICE.secret("self_signing")
    device = DeviceKeys.build(
        user_id=ALICE.user_id,
        device_id="EVIL",
        curve25519_key=sample_curve25519_key("evil"),
        signer=secret.signer("ed25519:EVIL"),
    )
    body = answer()
    body["device_keys"][ALICE.user_id]["EVIL"] = device.to_json()
    result = judge(body)
    assert accepted(result) == EVERYTHING
    assert findings(result) == [("/device_keys/@alice:a.example/EVIL/keys", Reason.KEY_REUSED)]
    assert ALICE.user_id in result.identities.accepted


def test_one_key_in_two_roles_of_an_identity_is_refused() -> None:
    """attack 29: master and self-signing key are the same bytes."""
    secret = ALICE.secret("master")
    same = CrossSigningKey.build(
        user_id=ALICE.user_id, usage="self_signing", public_key=secret.public_key, signer=secret.cross_signer()
    )
    body = answer()
    body["self_signing_keys"][ALICE.user_id] = same.to_json()
    result = judge(body)
    assert set(result.identities.accepted) == {BOB.user_id}
    assert findings(result) == [
        ("/master_keys/@alice:a.example", Reason.SELF_SIGNING_KEY_REFUSED),
        ("/self_signing_keys/@alice:a.example/keys", Reason.KEY_REUSED),
    ]


def test_keys_reused_across_devices_and_users_are_noticed() -> None:
    """attacks 29 and 37: one key in several places is reported."""
    signer = sample_secret_key("shared").signer("ed25519:SHARED")
    curve = sample_curve25519_key("shared")
    body: dict[str, Any] = {"device_keys": {}}
    for user in (ALICE, BOB):
        device = DeviceKeys.build(user_id=user.user_id, device_id="SHARED", curve25519_key=curve, signer=signer)
        body["device_keys"][user.user_id] = {"SHARED": device.to_json()}
    result = judge(body)
    assert accepted(result) == {ALICE.user_id: {"SHARED"}, BOB.user_id: {"SHARED"}}
    assert [(notice.path, notice.reason) for notice in result.notices] == [
        ("/device_keys/@bob:b.example/SHARED", Reason.KEY_REUSED),
        ("/device_keys/@bob:b.example/SHARED", Reason.KEY_REUSED),
    ]
    assert "/device_keys/@alice:a.example/SHARED" in result.notices[0].detail


def test_a_master_key_that_is_somebody_elses_is_noticed() -> None:
    """attack 29: another user's master key reused."""
    secret = ALICE.secret("master")
    copied = CrossSigningKey.build(user_id=BOB.user_id, usage="master", public_key=secret.public_key)
    self_signing = CrossSigningKey.build(
        user_id=BOB.user_id,
        usage="self_signing",
        public_key=BOB.secret("self_signing").public_key,
        signer=secret.cross_signer(),
    )
    body = answer()
    body["master_keys"][BOB.user_id] = copied.to_json()
    body["self_signing_keys"][BOB.user_id] = self_signing.to_json()
    result = judge(body)
    assert [(notice.path, notice.reason) for notice in result.notices] == [
        ("/master_keys/@bob:b.example", Reason.KEY_REUSED)
    ]


def test_the_display_name_decides_nothing() -> None:
    """attack 4: names are the server's to choose."""
    body = answer()
    body["device_keys"][ALICE.user_id]["PHONE"]["unsigned"] = {"device_display_name": "\u202everified\x07"}
    result = judge(body)
    plain = judge(answer())
    assert result.devices.accepted == plain.devices.accepted
    assert result.devices.accepted[ALICE.user_id]["PHONE"].keys.untrusted_display_name == "\u202everified\x07"


def test_unknown_members_survive_and_count() -> None:
    """attack 5: a member nobody knows is part of what is signed."""
    body = answer()
    device = ALICE.device("PHONE", extra={"org.example": {"\u65e5": ["\U0001f600", None]}})
    body["device_keys"][ALICE.user_id]["PHONE"] = device.to_json()
    result = judge(body)
    assert accepted(result) == EVERYTHING
    assert result.devices.accepted[ALICE.user_id]["PHONE"].keys.to_json() == device.to_json()
    body["device_keys"][ALICE.user_id]["PHONE"]["org.example"]["\u65e5"][0] = "x"
    assert accepted(judge(body))[ALICE.user_id] == {"LAPTOP"}


def test_many_junk_signatures_cost_no_verification() -> None:
    """attack 39: only the signatures in question are looked at."""
    body = answer()
    junk = {f"ed25519:{number}": "A" * 86 for number in range(20_000)}
    body["device_keys"][ALICE.user_id]["PHONE"]["signatures"][ALICE.user_id].update(junk)
    body["device_keys"][ALICE.user_id]["PHONE"]["signatures"]["@eve:e.example"] = junk
    asked: list[int] = []

    class Counting:
        def verify_many(self, checks: Any) -> list[bool]:
            asked.append(len(checks))
            return [True] * len(checks)

    result = judge(body, verifier=Counting())
    assert accepted(result) == EVERYTHING
    assert sum(asked) == 2 + 3 + 2


# --------------------------------------------------------------------------------------------------------------
# Oneself
# --------------------------------------------------------------------------------------------------------------


def test_the_chain_to_other_users() -> None:
    """attack 32: another user is verified through one's own confirmed identity, and not otherwise."""
    body = answer(viewer=ALICE.user_id)
    body["master_keys"][BOB.user_id] = ALICE.verified(BOB.master_key).to_json()
    first = judge(body, own_user_id=ALICE.user_id)
    assert first.verified_users == frozenset()
    identity = first.identities.accepted[ALICE.user_id]
    own = identity.confirm_as_own(master_key=ALICE.master_public_key)
    assert judge(body, own=own).verified_users == {BOB.user_id}
    assert judge(answer(viewer=ALICE.user_id), own=own).verified_users == frozenset()


def test_user_signing_keys_of_others_are_refused() -> None:
    body = answer(viewer=BOB.user_id)
    assert findings(judge(body)) == []
    result = judge(body, own_user_id=ALICE.user_id)
    assert findings(result) == [("/user_signing_keys/@bob:b.example", Reason.NOT_OWN_USER)]
    assert result.identities.accepted[BOB.user_id].user_signing_key is None


def test_an_identity_of_an_unknown_algorithm_is_unsupported() -> None:
    body = answer()
    body["master_keys"][BOB.user_id]["keys"] = {"m.future:abc": "abc"}
    result = judge(body)
    assert [(it.path, it.reason) for it in result.identities.unsupported] == [
        ("/master_keys/@bob:b.example/keys", Reason.UNSUPPORTED_ALGORITHM)
    ]
    assert findings(result) == [("/self_signing_keys/@bob:b.example", Reason.MASTER_KEY_REFUSED)]


def test_prime_order_is_a_policy() -> None:
    assert findings(judge(answer(), require_prime_order=True)) == []
    p = 2**255 - 19
    mixed = (p - 4 * pow(5, -1, p) % p).to_bytes(32, "little")
    key = CrossSigningKey.build(user_id=BOB.user_id, usage="master", public_key=type(BOB.master_public_key)(mixed))
    body = answer()
    body["master_keys"][BOB.user_id] = key.to_json()
    with_policy = dict(findings(judge(body, require_prime_order=True)))
    assert Reason.MIXED_ORDER_KEY in with_policy.values()
    assert Reason.MIXED_ORDER_KEY not in dict(findings(judge(body))).values()


def test_rejections_come_in_the_order_of_the_answer() -> None:
    body = {"device_keys": {ALICE.user_id: {"A": None, "B": ALICE.device("PHONE").to_json(), "C": 1}, BOB.user_id: 5}}
    body["device_keys"][ALICE.user_id]["D"] = {**ALICE.device("D").to_json(), "added": 1}  # type: ignore[index]
    body["device_keys"][ALICE.user_id]["E"] = None  # type: ignore[index]
    result = judge(body)
    assert [rejection.device_id for rejection in result.devices.rejected] == ["A", "B", "C", "D", "E", None]


@pytest.mark.parametrize(
    "arguments", [(None, None), (KeysQueryRequest.for_users([]), {}), ({}, KeysQueryResponse())], ids=repr
)
def test_bad_callers(arguments: Any) -> None:
    with pytest.raises(LocalProtocolError):
        check_query(*arguments)


def test_bad_callers_about_themselves() -> None:
    identity = judge(answer()).identities.accepted[ALICE.user_id]
    own = identity.confirm_as_own(master_key=ALICE.master_public_key)
    for options in ({"own": identity}, {"own": own, "own_user_id": BOB.user_id}):
        with pytest.raises(LocalProtocolError):
            judge(answer(), **options)
    assert judge(answer(), own=own, own_user_id=ALICE.user_id).verified_users == frozenset()
    assert findings(judge(answer(viewer=BOB.user_id), own=own)) == [
        ("/user_signing_keys/@bob:b.example", Reason.NOT_OWN_USER)
    ]
    for options in ({"own_user_id": 5}, {"own_user_id": []}, {"verifier": None}):
        with pytest.raises(LocalProtocolError):
            judge({}, **options)


def test_results_have_no_truth_value() -> None:
    result = judge(answer())
    with pytest.raises(LocalProtocolError):
        bool(result.devices)
