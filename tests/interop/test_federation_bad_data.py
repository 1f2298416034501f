"""What one homeserver says about its users, true or not, comes to us through another. Nobody else pays for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from interop.key_homeserver import KeyHomeserver
from interop.matrix_http import MakeClient
from interop.people import Person
from matrix_e2e_keys import (
    HttpResponse,
    KeysClaimRequest,
    KeysQueryRequest,
    MatrixError,
    Reason,
    UserAnswer,
    UserKeysQueryResponse,
    check_claim,
)

pytestmark = pytest.mark.interop

Change: TypeAlias = Callable[[dict[str, Any], Person], object]
"""Makes something bad of an answer about a person and a witness."""


def answer_about(*people: Person) -> dict[str, Any]:
    """Return the true answer to a query."""
    body: dict[str, Any] = UserKeysQueryResponse(
        device_keys={person.user_id: {person.device_id: person.cross_signed_device()} for person in people},
        master_keys={person.user_id: person.cross_signing_key("master") for person in people},
        self_signing_keys={person.user_id: person.cross_signing_key("self_signing") for person in people},
    ).to_json()
    return body


def said(body: object) -> HttpResponse:
    """Return an answer that says whatever we like; lone surrogates and fractions too."""
    return HttpResponse(status=200, body=json.dumps(body).encode())


# --------------------------------------------------------------------------------------------------------------
# Devices and identities
# --------------------------------------------------------------------------------------------------------------


def device(body: dict[str, Any], person: Person) -> dict[str, Any]:
    found: dict[str, Any] = body["device_keys"][person.user_id][person.device_id]
    return found


def set_device(value: object) -> Change:
    return lambda body, person: body["device_keys"][person.user_id].update({person.device_id: value})


def resigned(**changes: object) -> Change:
    """Return what changes a device before it was signed."""

    def change(body: dict[str, Any], person: Person) -> None:
        content = {**person.device_keys().signed.content, **changes}
        set_device(person.sign(content, "self_signing", device=True))(body, person)

    return change


def other_device(body: dict[str, Any], person: Person) -> None:
    set_device(Person(person.user_id, "OTHER").device_keys().to_json())(body, person)


def unasked(body: dict[str, Any], person: Person) -> None:
    other = Person(person.user_id, "UNASKED")
    body["device_keys"][person.user_id]["UNASKED"] = other.device_keys().to_json()


BAD_DEVICES: list[tuple[str, Change, str, Reason]] = [
    (
        "another content",
        lambda body, person: device(body, person).update(more=1),
        "/signatures/USER/ed25519:DEVICE",
        Reason.INVALID_SIGNATURE,
    ),
    ("no signature", lambda body, person: device(body, person).pop("signatures"), "", Reason.MISSING_SIGNATURE),
    ("another user", resigned(user_id="@alice:example.org"), "/user_id", Reason.USER_ID_MISMATCH),
    ("another device", other_device, "/device_id", Reason.DEVICE_ID_MISMATCH),
    ("another device id", resigned(device_id="OTHER"), "/keys/curve25519:DEVICE", Reason.KEY_ID_NOT_DEVICE),
    ("null", set_device(None), "", Reason.WRONG_TYPE),
    ("a string", set_device("DEVICE"), "", Reason.WRONG_TYPE),
    ("nothing in it", set_device({}), "/user_id", Reason.MISSING_MEMBER),
    ("a fraction", lambda body, person: device(body, person).update(more=1.5), "/more", Reason.NOT_AN_INTEGER),
    (
        "a large number",
        lambda body, person: device(body, person).update(more=2**53),
        "/more",
        Reason.INTEGER_OUT_OF_RANGE,
    ),
    (
        "a lone surrogate",
        lambda body, person: device(body, person).update(more="\ud800"),
        "/more",
        Reason.LONE_SURROGATE,
    ),
]


@pytest.mark.parametrize(
    ("change", "path", "reason"), [case[1:] for case in BAD_DEVICES], ids=[case[0] for case in BAD_DEVICES]
)
def test_a_bad_device_costs_nobody_else(
    new_client: MakeClient, own: KeyHomeserver, change: Change, path: str, reason: Reason
) -> None:
    client, bad, witness = new_client(), own.add_user("bad"), own.add_user("witness")
    body = answer_about(bad, witness)
    good = Person(bad.user_id, "GOOD")
    good.secrets = bad.secrets
    body["device_keys"][bad.user_id]["GOOD"] = good.cross_signed_device().to_json()
    change(body, bad)
    own.lies["user_keys_query"] = said(body)

    result = client.query(KeysQueryRequest.for_users([bad.user_id, witness.user_id]))

    (rejection,) = result.devices.rejected
    path = path.replace("USER", bad.user_id)
    assert (rejection.path, rejection.reason) == (f"/device_keys/{bad.user_id}/DEVICE{path}", reason)
    assert (rejection.user_id, rejection.device_id) == (bad.user_id, "DEVICE")
    assert {user: dict(devices) for user, devices in result.devices.accepted.items()} == {
        bad.user_id: {"GOOD": good.cross_signed_device().verify(identity=result.identities.accepted[bad.user_id])},
        witness.user_id: {
            "DEVICE": witness.cross_signed_device().verify(identity=result.identities.accepted[witness.user_id])
        },
    }
    assert result.present_device_ids(bad.user_id) == {"DEVICE", "GOOD"}
    assert result.users == {bad.user_id: UserAnswer.DEVICES, witness.user_id: UserAnswer.DEVICES}
    assert set(result.identities.accepted) == {bad.user_id, witness.user_id}
    assert result.failures == {}


def test_a_device_that_nobody_asked_about_is_refused(new_client: MakeClient, own: KeyHomeserver) -> None:
    client, mallory = new_client(), own.add_user("mallory")
    body = answer_about(mallory, own.add_user("unasked"))
    unasked(body, mallory)
    own.lies["user_keys_query"] = said(body)

    result = client.query(KeysQueryRequest.for_devices({mallory.user_id: ["DEVICE"]}))

    assert {user: set(devices) for user, devices in result.devices.accepted.items()} == {mallory.user_id: {"DEVICE"}}
    refused = {rejection.path: rejection.reason for rejection in result.devices.rejected}
    assert refused[f"/device_keys/{mallory.user_id}/UNASKED"] is Reason.UNREQUESTED
    assert set(refused.values()) == {Reason.UNREQUESTED}  # whether the unasked user comes through or not
    assert set(result.identities.accepted) == {mallory.user_id}


def master_of_another(body: dict[str, Any], person: Person) -> None:
    other = Person("@alice:example.org", "DEVICE")
    body["master_keys"][person.user_id] = other.cross_signing_key("master").to_json()


BAD_IDENTITIES: list[tuple[str, Change, str, Reason]] = [
    ("the master key of another user", master_of_another, "master_keys", Reason.USER_ID_MISMATCH),
    (
        "an unsigned self-signing key",
        lambda body, person: body["self_signing_keys"][person.user_id].pop("signatures"),
        "self_signing_keys",
        Reason.MISSING_SIGNATURE,
    ),
    (
        "a self-signing key with a fraction",
        lambda body, person: body["self_signing_keys"][person.user_id].update(more=1.5),
        "self_signing_keys",
        Reason.NOT_AN_INTEGER,
    ),
]


@pytest.mark.parametrize(
    ("change", "member", "reason"), [case[1:] for case in BAD_IDENTITIES], ids=[case[0] for case in BAD_IDENTITIES]
)
def test_a_bad_identity_costs_its_user_the_identity(
    new_client: MakeClient, own: KeyHomeserver, change: Change, member: str, reason: Reason
) -> None:
    client, bad, witness = new_client(), own.add_user("bad"), own.add_user("witness")
    body = answer_about(bad, witness)
    change(body, bad)
    own.lies["user_keys_query"] = said(body)

    result = client.query(KeysQueryRequest.for_users([bad.user_id, witness.user_id]))

    refused = {rejection.path.split("/")[1]: rejection.reason for rejection in result.identities.rejected}
    assert refused[member] is reason
    assert {rejection.user_id for rejection in result.identities.rejected} == {bad.user_id}
    assert set(result.identities.accepted) == {witness.user_id}
    assert not result.devices.accepted[bad.user_id]["DEVICE"].is_cross_signed
    assert result.devices.accepted[witness.user_id]["DEVICE"].is_cross_signed
    assert result.devices.rejected == ()


def test_a_user_who_is_null_costs_nobody_else(new_client: MakeClient, own: KeyHomeserver) -> None:
    client, bad, witness = new_client(), own.add_user("bad"), own.add_user("witness")
    body = answer_about(bad, witness)
    body["device_keys"][bad.user_id] = None
    own.lies["user_keys_query"] = said(body)

    result = client.query(KeysQueryRequest.for_users([bad.user_id, witness.user_id]))

    assert result.users == {bad.user_id: UserAnswer.MALFORMED, witness.user_id: UserAnswer.DEVICES}
    (rejection,) = result.devices.rejected
    assert (rejection.path, rejection.reason) == (f"/device_keys/{bad.user_id}", Reason.WRONG_TYPE)
    assert set(result.devices.accepted) == {witness.user_id}


@pytest.mark.parametrize(
    "answer",
    [
        said({"device_keys": None}),
        said([]),
        HttpResponse(status=200, body=b"{"),
        HttpResponse(status=200),
        HttpResponse(status=200, body=b"<html>"),
        MatrixError(status=500).to_http(),
        MatrixError(status=429, errcode="M_LIMIT_EXCEEDED", retry_after_ms=1).to_http(),
        MatrixError(status=404, errcode="M_UNRECOGNIZED").to_http(),
        MatrixError(status=401, errcode="M_UNAUTHORIZED").to_http(),
    ],
    ids=["no map", "an array", "no JSON", "nothing", "a web page", "500", "429", "404", "401"],
)
def test_a_server_that_does_not_answer_is_a_failure(
    new_client: MakeClient, own: KeyHomeserver, answer: HttpResponse
) -> None:
    client, mallory = new_client(), own.add_user("mallory")
    person = Person(client.user_id, client.device_id)
    client.upload(device_keys=person.device_keys())
    own.lies["user_keys_query"] = answer

    result = client.query(KeysQueryRequest.for_users([mallory.user_id, client.user_id], timeout=5000))

    assert result.users == {mallory.user_id: UserAnswer.SERVER_FAILED, client.user_id: UserAnswer.DEVICES}
    assert set(result.failures) == {own.server_name}
    assert set(result.devices.accepted) == {client.user_id}


# --------------------------------------------------------------------------------------------------------------
# One-time keys
# --------------------------------------------------------------------------------------------------------------

KEY_ID = "signed_curve25519:AAAA"

MakeKeys: TypeAlias = Callable[[Person, Person], dict[str, Any]]
"""``make(person, stranger)``: what is handed out for the device of ``person``."""


def one_key(person: Person, *changes: str, **members: object) -> dict[str, Any]:
    """Return a signed one-time key with some members taken out, and some put in, before it was signed."""
    content = {"key": person.curve25519_key.to_base64()[:-2] + "AA", **members}
    signed = person.sign({name: member for name, member in content.items() if name not in changes}, device=True)
    return dict(signed)


BAD_KEYS: list[tuple[str, MakeKeys, dict[str, Reason]]] = [
    ("no key", lambda *_: {KEY_ID: {"key": "!!", "signatures": {}}}, {f"/{KEY_ID}/key": Reason.INVALID_BASE64}),
    ("null", lambda *_: {KEY_ID: None}, {f"/{KEY_ID}": Reason.WRONG_TYPE}),
    ("a bare string", lambda *_: {KEY_ID: "A" * 43}, {f"/{KEY_ID}": Reason.WRONG_TYPE}),
    ("no algorithm", lambda person, _: {"AAAA": one_key(person)}, {"/AAAA": Reason.INVALID_KEY_ID}),
    (
        "a fraction",
        lambda person, _: {KEY_ID: {**one_key(person), "more": 1.5}},
        {f"/{KEY_ID}/more": Reason.NOT_AN_INTEGER},
    ),
    (
        "no signature",
        lambda person, _: {KEY_ID: {"key": one_key(person)["key"]}},
        {f"/{KEY_ID}": Reason.MISSING_SIGNATURE},
    ),
    (
        "the signature of another device",
        lambda _, stranger: {KEY_ID: one_key(stranger)},
        {f"/{KEY_ID}/signatures/USER/ed25519:DEVICE": Reason.INVALID_SIGNATURE},
    ),
    (
        "a fallback key that was signed as none",
        lambda person, _: {KEY_ID: {**one_key(person), "fallback": True}},
        {f"/{KEY_ID}/signatures/USER/ed25519:DEVICE": Reason.INVALID_SIGNATURE},
    ),
    (
        "another algorithm",
        lambda person, _: {"m.unknown:AAAA": one_key(person)},
        {"/m.unknown:AAAA": Reason.UNREQUESTED},
    ),
    (
        "two keys",
        lambda person, _: {KEY_ID: one_key(person), "signed_curve25519:BBBB": one_key(person, more=1)},
        {"": Reason.TOO_MANY_KEYS},
    ),
]


@pytest.mark.parametrize(("make", "expected"), [case[1:] for case in BAD_KEYS], ids=[case[0] for case in BAD_KEYS])
def test_a_bad_one_time_key_costs_nobody_else(
    new_client: MakeClient, own: KeyHomeserver, make: MakeKeys, expected: dict[str, Reason]
) -> None:
    client, bad, witness = new_client(), own.add_user("bad"), own.add_user("witness")
    devices = client.query(KeysQueryRequest.for_users([bad.user_id, witness.user_id])).devices.accepted
    ((key_id, key),) = witness.one_time_keys(1).items()
    keys = make(bad, Person(bad.user_id, bad.device_id))
    unasked = {key_id: key.to_json() for key_id, key in bad.one_time_keys(1).items()}
    own.lies["user_keys_claim"] = said(
        {
            "one_time_keys": {
                bad.user_id: {"DEVICE": keys, "UNASKED": unasked},
                witness.user_id: {"DEVICE": {key_id: key.to_json()}},
            }
        }
    )
    claim = KeysClaimRequest.for_devices({bad.user_id: ["DEVICE"], witness.user_id: ["DEVICE"]})

    answer = client.ask(claim)
    result = check_claim(claim, answer, devices=devices)

    assert answer.one_time_keys[witness.user_id] == {"DEVICE": {key_id: key}}
    assert {user: set(of_user) for user, of_user in result.keys.accepted.items()} == {witness.user_id: {"DEVICE"}}
    assert result.keys.accepted[witness.user_id]["DEVICE"].one_time_key == key
    top = f"/one_time_keys/{bad.user_id}"
    assert {rejection.path: rejection.reason for rejection in result.keys.rejected} == {
        f"{top}/UNASKED": Reason.UNREQUESTED,
        **{f"{top}/DEVICE{path.replace('USER', bad.user_id)}": reason for path, reason in expected.items()},
    }
    assert result.exhausted == result.unreachable == result.failures == {}


def test_a_device_without_a_map_of_keys_is_set_aside_or_an_error(new_client: MakeClient, own: KeyHomeserver) -> None:
    client, mallory = new_client(), own.add_user("mallory")
    own.lies["user_keys_claim"] = said({"one_time_keys": {mallory.user_id: {"DEVICE": None}}})
    claim = KeysClaimRequest.for_devices({mallory.user_id: ["DEVICE"]})
    answer = client.http.send(claim.to_http())
    if answer.status == 200:
        (rejection,) = check_claim(claim, claim.read_answer(answer), devices={}).keys.rejected
        assert rejection.path == f"/one_time_keys/{mallory.user_id}/DEVICE"
        assert rejection.reason is Reason.WRONG_TYPE
    else:
        with pytest.raises(MatrixError) as error:
            claim.read_answer(answer)
        assert error.value.status == answer.status
