"""Attacks on keys: by servers that lie to clients, clients that lie to servers, and servers that lie to each other.

Facts:

* Each takes what was really said in the story and changes one thing, as an attacker on the way would.
* None needs a ratchet.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from matrix_e2e_keys.client.claims.claim import check_claim
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.queries.query import QueryResult
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy, Recipients, select_recipients
from matrix_e2e_keys.demo.attacks import Attack, Refusal, Refused, answered, first
from matrix_e2e_keys.demo.stage import ALICE, BOB, NOW, Stage
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest, KeysClaimResponse
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryRequest, UserKeysQueryResponse
from matrix_e2e_keys.errors import Reason
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.homeserver import Requester, ServerRequest, plan_query, sign_request
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.signers import Ed25519SecretKey
from matrix_e2e_keys.testing.samples import sample_curve25519_key

__all__ = ["CLIENTS_TO_SERVERS", "SERVERS_TO_CLIENTS", "SERVERS_TO_SERVERS"]

_MALLORY: Final = "@mallory:a.example"
_LAPTOP: Final = f"/device_keys/{BOB}/LAPTOP"


# --------------------------------------------------------------------------------------------------------------
# A server lies to its client about somebody else
# --------------------------------------------------------------------------------------------------------------


def _told(stage: Stage, change: Callable[[dict[str, Any]], None]) -> QueryResult:
    """Return what PHONE makes of an answer about Bob that was changed on the way."""
    request = KeysQueryRequest.for_users([BOB])
    body = json.loads(stage.phone.send(request).body)
    change(body)
    response = KeysQueryResponse.from_bytes(json.dumps(body).encode())
    return stage.phone.machine.users.judge(request, response)


def _refused_device(stage: Stage, change: Callable[[dict[str, Any]], None]) -> Refused | None:
    return first(_told(stage, lambda body: change(body["device_keys"][BOB]["LAPTOP"])).devices.rejected)


def _swap_key(stage: Stage) -> Refused | None:
    stolen = sample_curve25519_key("Mallory").to_base64()
    return _refused_device(stage, lambda device: device["keys"].update({"curve25519:LAPTOP": stolen}))


def _new_device(device_id: str, *, user_id: str = BOB) -> DeviceKeys:
    """Return a device of which its user knows nothing."""
    return DeviceKeys.build(
        user_id=user_id,
        device_id=device_id,
        curve25519_key=sample_curve25519_key("Mallory"),
        signer=Ed25519SecretKey.generate().signer(f"ed25519:{device_id}"),
    )


def _replace_device(stage: Stage) -> Refused | None:
    device = _new_device("LAPTOP")
    return first(_told(stage, lambda body: body["device_keys"][BOB].update(LAPTOP=device.to_json())).devices.rejected)


def _recipients(stage: Stage, result: QueryResult) -> Recipients:
    """Return who would get a room key after an answer."""
    own = stage.phone.own
    return select_recipients(
        [BOB],
        known=result.known,
        policy=RecipientPolicy.CROSS_SIGNED_ONLY,
        own_user_id=own.user_id,
        own_device_id=own.device_id,
    )


def _add_device(stage: Stage) -> Refused | None:
    device = _new_device("SPY")
    result = _told(stage, lambda body: body["device_keys"][BOB].update(SPY=device.to_json()))
    code = _recipients(stage, result).withheld[BOB].get("SPY")
    return None if code is None else Refusal(reason=code)


def _replace_identity(stage: Stage) -> None:
    keys = CrossSigningSecrets.generate(BOB).public_keys()

    def change(body: dict[str, Any]) -> None:
        body["master_keys"][BOB] = keys.master_key.to_json()
        body["self_signing_keys"][BOB] = keys.self_signing_key.to_json()

    _recipients(stage, _told(stage, change)).require()


def _pad_key_id(stage: Stage) -> Refused | None:
    def change(body: dict[str, Any]) -> None:
        keys = body["master_keys"][BOB]["keys"]
        ((key_id, key),) = keys.items()
        body["master_keys"][BOB]["keys"] = {f"{key_id}=": key}

    return first(_told(stage, change).identities.rejected)


def _add_fraction(stage: Stage) -> Refused | None:
    return _refused_device(stage, lambda device: device.update(weight=1.5))


def _add_surrogate(stage: Stage) -> Refused | None:
    return _refused_device(stage, lambda device: device.update(name="Bob\ud800"))


def _claimed(stage: Stage, change: Callable[[dict[str, Any]], None]) -> Refused | None:
    """Return what PHONE has against LAPTOP's one-time key, the one it has had before, if it comes again and changed."""
    claims = ((asked, heard) for asked, heard in stage.phone.log if isinstance(asked, KeysClaimRequest))
    request, response = next(claims)
    body = json.loads(response.body)
    body["one_time_keys"].pop(ALICE, None)
    for key in body["one_time_keys"][BOB]["LAPTOP"].values():
        change(key)
    machine = stage.phone.machine
    result = check_claim(
        request,
        KeysClaimResponse.from_bytes(json.dumps(body).encode()),
        devices={user_id: user.devices for user_id, user in machine.users.users.items()},
        was_used=machine.sessions.was_used,
        verifier=machine.users.verifier,
    )
    return first(result.keys.rejected)


def _forge_one_time_key(stage: Stage) -> Refused | None:
    forged = sample_curve25519_key("Mallory").to_base64()
    return _claimed(stage, lambda key: key.update(key=forged))


def _hand_out_twice(stage: Stage) -> Refused | None:
    return _claimed(stage, lambda _key: None)


def _mark_as_fallback(stage: Stage) -> Refused | None:
    return _claimed(stage, lambda key: key.update(fallback=True))


SERVERS_TO_CLIENTS: Final[tuple[Attack[Stage], ...]] = (
    Attack(
        what="swaps a key of LAPTOP",
        how="LAPTOP has signed another one",
        reason=Reason.INVALID_SIGNATURE,
        path=f"{_LAPTOP}/signatures/{BOB}/ed25519:LAPTOP",
        carry_out=_swap_key,
    ),
    Attack(
        what="makes another LAPTOP that signs itself",
        how="PHONE knows the first one",
        reason=Reason.SIGNING_KEY_CHANGED,
        path=f"{_LAPTOP}/keys",
        carry_out=_replace_device,
    ),
    Attack(
        what="gives Bob one more device, SPY",
        how="Bob has not signed it, so it gets no room key",
        reason=WithheldCode.UNVERIFIED,
        carry_out=_add_device,
    ),
    Attack(
        what="gives Bob a new identity",
        how="not the one Alice compared, so nothing is sent",
        reason=Reason.IDENTITY_CHANGED,
        carry_out=_replace_identity,
    ),
    Attack(
        what="pads the name of Bob's master key",
        how="a key has one name only",
        reason=Reason.KEY_ID_NOT_KEY,
        path=f"/master_keys/{BOB}",
        carry_out=_pad_key_id,
    ),
    Attack(
        what="adds a number with a fraction",
        how="signed JSON has whole numbers only",
        reason=Reason.NOT_AN_INTEGER,
        path=f"{_LAPTOP}/weight",
        carry_out=_add_fraction,
    ),
    Attack(
        what="adds a text that ends in half a character",
        how="it has whole characters only",
        reason=Reason.LONE_SURROGATE,
        path=f"{_LAPTOP}/name",
        carry_out=_add_surrogate,
    ),
    Attack(
        what="swaps a one-time key",
        how="LAPTOP has signed another one",
        reason=Reason.INVALID_SIGNATURE,
        path=f"/one_time_keys/{BOB}/LAPTOP",
        carry_out=_forge_one_time_key,
    ),
    Attack(
        what="hands out a one-time key twice",
        how="PHONE has used it before",
        reason=Reason.KEY_REUSED,
        path=f"/one_time_keys/{BOB}/LAPTOP",
        carry_out=_hand_out_twice,
    ),
    Attack(
        what="calls it a fallback key, which may be used twice",
        how="LAPTOP has not said so",
        reason=Reason.INVALID_SIGNATURE,
        path=f"/one_time_keys/{BOB}/LAPTOP",
        carry_out=_mark_as_fallback,
    ),
)

# --------------------------------------------------------------------------------------------------------------
# A client lies to its server
# --------------------------------------------------------------------------------------------------------------


def _upload_for_others(stage: Stage) -> None:
    server = stage.phone.server
    server.log_in(_MALLORY, "PHONE", now=NOW)
    upload = KeysUploadRequest(device_keys=stage.phone.own.keys, one_time_keys={})
    mallory = Requester(user_id=_MALLORY, device_id="PHONE")
    answered(server.receive_client_request(upload.to_http(), requester=mallory, now=NOW).response)


def _log_in_as_master_key(stage: Stage) -> None:
    stage.phone.server.log_in(ALICE, stage.phone.master_key().to_base64(), now=NOW)


CLIENTS_TO_SERVERS: Final[tuple[Attack[Stage], ...]] = (
    Attack(
        what="uploads the keys of Alice's PHONE, as Mallory",
        how="the keys name Alice",
        reason="400 M_BAD_JSON",
        carry_out=_upload_for_others,
    ),
    Attack(
        what="calls a new device of Alice like her master key",
        how="they could be confused",
        reason="400 M_FORBIDDEN",
        carry_out=_log_in_as_master_key,
    ),
)

# --------------------------------------------------------------------------------------------------------------
# A server lies to a server
# --------------------------------------------------------------------------------------------------------------


def _sign_with_other_key(stage: Stage) -> None:
    request = UserKeysQueryRequest.for_users([ALICE]).to_http()
    signer = Ed25519SecretKey.generate().signer("ed25519:1")
    headers = sign_request(request, origin="b.example", destination="a.example", signers=signer)
    asked = ServerRequest(server_name="a.example", request=request, authorization=headers)
    answered(stage.federation.send(asked, now=NOW))


def _speak_for_others(stage: Stage) -> Refused | None:
    """Let b.example answer a question about Bob, and tell something about Alice as well."""
    phone = stage.phone
    told: dict[str, dict[str, DeviceKeys]] = {
        BOB: {"LAPTOP": stage.laptop.own.keys},
        ALICE: {"PHONE": _new_device("PHONE", user_id=ALICE)},
    }
    plan = plan_query(
        KeysQueryRequest.for_users([BOB]), requester=phone.requester, server_name=phone.server.server_name
    )
    answer = plan.answer(local={}, remote={"b.example": UserKeysQueryResponse(device_keys=told)})
    return first(answer.dropped)


SERVERS_TO_SERVERS: Final[tuple[Attack[Stage], ...]] = (
    Attack(
        what="asks about Alice in the name of b.example",
        how="b.example has another key",
        reason="401 M_UNAUTHORIZED",
        carry_out=_sign_with_other_key,
    ),
    Attack(
        what="answers about Bob, and about Alice as well",
        how="Alice is on a.example",
        reason=Reason.SERVER_NAME_MISMATCH,
        path=f"/device_keys/{ALICE}",
        carry_out=_speak_for_others,
    ),
)
