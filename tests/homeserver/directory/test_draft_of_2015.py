"""The dialect v2_alpha, end to end: countersigned device keys, devices without keys, bare one-time keys, two servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.dialects import CLIENT_V2_ALPHA
from matrix_e2e_keys.endpoints.http_values import HttpRequest, HttpResponse
from matrix_e2e_keys.endpoints.messages import Request
from matrix_e2e_keys.errors import VerificationError
from matrix_e2e_keys.homeserver import KeyDirectory, LocalFederation, Requester
from matrix_e2e_keys.legacy import Countersignature, check_countersignatures, legacy_device_keys
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

NOW = 1_437_696_000_000
A, B = "a.example", "b.example"
ALICE, BOB = SampleUser("@alice:a.example"), SampleUser("@bob:b.example")
ALICES = Requester(user_id=ALICE.user_id, device_id="PHONE")
BOBS = Requester(user_id=BOB.user_id, device_id="LAPTOP")


def directory(server_name: str, *, countersigns: bool = True) -> KeyDirectory:
    signer = sample_secret_key(server_name).signer("ed25519:1")
    return KeyDirectory.create(server_name, signers=signer, countersigns=countersigns)


def keys_of(server_name: str) -> dict[str, Any]:
    return {"ed25519:1": sample_secret_key(server_name).public_key}


@pytest.fixture
def federation() -> LocalFederation:
    servers = LocalFederation([directory(A), directory(B)])
    servers[A].log_in(ALICE.user_id, "PHONE", now=NOW)
    for device_id in ("LAPTOP", "TV"):
        servers[B].log_in(BOB.user_id, device_id, now=NOW)
    device = legacy_device_keys(
        user_id=BOB.user_id,
        device_id="LAPTOP",
        curve25519_key=sample_curve25519_key("bob"),
        signer=BOB.device_signer("LAPTOP"),
        valid_after_ts=NOW,
        valid_until_ts=NOW + 1000,
    )
    bare = OneTimeKey.from_json("curve25519:AAAA", sample_curve25519_key("AAAA").to_base64())
    upload = KeysUploadRequest(device_id="LAPTOP", device_keys=device, one_time_keys={"curve25519:AAAA": bare})
    assert ask(servers, upload, BOBS).status == 200
    return servers


def ask(federation: LocalFederation, request: Request[Any], requester: Requester) -> HttpResponse:
    server_name = requester.user_id.partition(":")[2]
    return federation.exchange(server_name, request.to_http(CLIENT_V2_ALPHA), requester=requester, now=NOW)


def queried(federation: LocalFederation, requester: Requester, devices: list[str] | None = None) -> dict[str, Any]:
    request = KeysQueryRequest.for_devices({BOB.user_id: devices or []})
    answer = KeysQueryResponse.from_http(ask(federation, request, requester)).device_keys[BOB.user_id]
    assert isinstance(answer, dict) or hasattr(answer, "items")
    return dict(answer)  # type: ignore[arg-type]


def verdicts(device: DeviceKeys, asking: str) -> list[Countersignature]:
    result = check_countersignatures(
        device,
        device_server=B,
        device_server_keys=keys_of(B),
        querying_server=asking,
        querying_server_keys=keys_of(asking),
    )
    return [result.by_device_server, result.by_querying_server]


class TestQueries:
    def test_both_servers_sign_what_a_user_of_the_other_is_told(self, federation: LocalFederation) -> None:
        device = queried(federation, ALICES)["LAPTOP"]
        assert set(device.signed.signatures) == {BOB.user_id, A, B}
        assert verdicts(device, A) == [Countersignature.GOOD, Countersignature.GOOD]
        device.verify()

    def test_one_signature_serves_where_both_servers_are_one(self, federation: LocalFederation) -> None:
        device = queried(federation, BOBS)["LAPTOP"]
        assert set(device.signed.signatures) == {BOB.user_id, B}
        assert verdicts(device, B) == [Countersignature.GOOD, Countersignature.GOOD]

    @pytest.mark.parametrize("requester", [ALICES, BOBS], ids=["remote", "local"])
    def test_devices_without_keys_are_named_and_signed(self, federation: LocalFederation, requester: Requester) -> None:
        devices = queried(federation, requester)
        assert set(devices) == {"LAPTOP", "TV"}
        assert (dict(devices["TV"].keys), devices["TV"].algorithms) == ({}, ())
        assert B in devices["TV"].signed.signatures
        with pytest.raises(VerificationError):
            devices["TV"].verify()

    @pytest.mark.parametrize("requester", [ALICES, BOBS], ids=["remote", "local"])
    def test_only_devices_that_were_asked_for_are_named(
        self, federation: LocalFederation, requester: Requester
    ) -> None:
        assert set(queried(federation, requester, ["LAPTOP"])) == {"LAPTOP"}
        assert set(queried(federation, requester, ["TV"])) == {"TV"}

    def test_the_window_of_time_comes_through(self, federation: LocalFederation) -> None:
        device = queried(federation, ALICES)["LAPTOP"]
        assert (device.valid_after_ts, device.valid_until_ts) == (NOW, NOW + 1000)

    def test_the_answer_names_nothing_that_the_draft_does_not_know(self, federation: LocalFederation) -> None:
        federation.down.add(B)
        request = KeysQueryRequest.for_users([BOB.user_id, ALICE.user_id])
        body = json.loads(ask(federation, request, ALICES).body)
        assert set(body) == {"device_keys"}

    def test_a_server_that_does_not_countersign_is_missed_in_the_audit(self, federation: LocalFederation) -> None:
        silent = KeyDirectory.from_json(federation[B].to_json(), signers=sample_secret_key(B).signer("ed25519:1"))
        federation.replace(silent)
        device = queried(federation, ALICES)["LAPTOP"]
        assert verdicts(device, A) == [Countersignature.MISSING, Countersignature.GOOD]

    def test_clients_of_today_see_none_of_it(self, federation: LocalFederation) -> None:
        http = KeysQueryRequest.for_users([BOB.user_id]).to_http()
        answer = KeysQueryResponse.from_http(federation.exchange(A, http, requester=ALICES, now=NOW))
        (laptop, *_rest) = answer.device_keys[BOB.user_id].values()  # type: ignore[union-attr]
        assert set(laptop.signed.signatures) == {BOB.user_id}

    def test_what_is_malformed_costs_nothing_but_itself(self, federation: LocalFederation) -> None:
        """A server that speaks another dialect may tell of devices that nobody can sign."""
        request = HttpRequest(
            method="POST", path="/_matrix/client/v2_alpha/keys/query", body=b'{"device_keys":{"x":[]}}'
        )
        answer = federation.exchange(A, request, requester=ALICES, now=NOW)
        assert (answer.status, json.loads(answer.body)) == (200, {"device_keys": {}})


class TestOneTimeKeys:
    def test_a_bare_key_is_claimed_once_over_both_servers(self, federation: LocalFederation) -> None:
        request = KeysClaimRequest.for_devices({BOB.user_id: ["LAPTOP"]}, algorithm="curve25519")
        first, second = (json.loads(ask(federation, request, ALICES).body) for _ in range(2))
        key = sample_curve25519_key("AAAA").to_base64()
        assert first == {"one_time_keys": {BOB.user_id: {"LAPTOP": {"curve25519:AAAA": key}}}}
        assert second == {"one_time_keys": {}}

    def test_a_signed_key_that_is_claimed_all_the_same_is_not_lost(self, federation: LocalFederation) -> None:
        key = BOB.one_time_key("LAPTOP", "S")
        upload = KeysUploadRequest.for_keys(one_time_keys=[key]).to_http()
        assert federation.exchange(B, upload, requester=BOBS, now=NOW).status == 200
        http = KeysClaimRequest.for_devices({BOB.user_id: ["LAPTOP"]}).to_http()
        alpha = HttpRequest(method="POST", path="/_matrix/client/v2_alpha/keys/claim", body=http.body)
        body = json.loads(federation.exchange(A, alpha, requester=ALICES, now=NOW).body)
        assert body["one_time_keys"][BOB.user_id]["LAPTOP"] == {str(key.key_id): key.to_json()}

    def test_the_device_in_the_path_must_be_the_one_of_the_token(self, federation: LocalFederation) -> None:
        upload = KeysUploadRequest(device_id="TV")
        assert ask(federation, upload, BOBS).status == 403
