"""The rig itself: servers that federate over TLS, one of them our own, and requests signed by one for the other."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from interop.certificates import Certificates, make_certificates
from interop.federation_http import send_over_tls
from interop.matrix_http import HttpFailure, MakeClient
from interop.own_homeserver import Handle, MakeOwnHomeserver, OwnHomeserver
from interop.people import Person, with_device
from interop.server_keys import KnownServers, published_keys
from interop.synapse_server import SynapseServer
from matrix_e2e_keys import (
    Ed25519SecretKey,
    HttpRequest,
    HttpResponse,
    KeysQueryRequest,
    MatrixError,
    RemoteProtocolError,
    Request,
    ServerKeysRequest,
    Signer,
    UserAnswer,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
    read_request,
)
from matrix_e2e_keys.homeserver.federation_auth.authorization import sign_request

pytestmark = pytest.mark.interop

GET = HttpRequest(method="GET", path="/")


def answer_about(person: Person) -> HttpResponse:
    """Return an answer to a server that asks for the devices of ``person``."""
    devices = {person.user_id: {person.device_id: person.device_keys()}}
    return UserKeysQueryResponse(device_keys=devices).to_http()


def fresh_signer() -> Signer:
    return Ed25519SecretKey.generate().signer("ed25519:own")


# --------------------------------------------------------------------------------------------------------------
# Two Synapses
# --------------------------------------------------------------------------------------------------------------


def test_each_synapse_has_the_devices_of_the_other(new_client: MakeClient, other_client: MakeClient) -> None:
    alice, bob = new_client(), other_client()
    keys = {client.user_id: with_device(client).device_keys() for client in (alice, bob)}
    assert len({user_id.partition(":")[2] for user_id in keys}) == 2

    for client in (alice, bob):
        result = client.query(KeysQueryRequest.for_users(keys))
        assert result.failures == {}
        assert result.devices.rejected == result.devices.unsupported == ()
        assert {user: device["DEVICE"].keys for user, device in result.devices.accepted.items()} == keys


# --------------------------------------------------------------------------------------------------------------
# A Synapse asks a homeserver of our own
# --------------------------------------------------------------------------------------------------------------


def test_a_synapse_asks_our_homeserver_in_its_own_name(
    new_client: MakeClient, synapse: SynapseServer, certificates: Certificates, new_own_homeserver: MakeOwnHomeserver
) -> None:
    own = new_own_homeserver()
    mallory = Person(f"@mallory:{own.server_name}", "MALLORY")
    asked: list[tuple[str, Request[Any]]] = []
    servers = KnownServers(certificates)

    def handle(request: HttpRequest, authorization: str | None) -> HttpResponse:
        origin = servers.origin_of(request, authorization, asked=own.server_name)
        asked.append((origin, read_request(request).request))
        return answer_about(mallory)

    own.start(handle)
    result = new_client().query(KeysQueryRequest.for_users([mallory.user_id]))

    assert asked == [(synapse.server_name, UserKeysQueryRequest(device_keys={mallory.user_id: ()}))]
    assert result.failures == {}
    assert result.devices.accepted[mallory.user_id]["MALLORY"].keys == mallory.device_keys()


def test_a_homeserver_that_stopped_is_a_failure_until_it_is_back(
    new_client: MakeClient, new_own_homeserver: MakeOwnHomeserver
) -> None:
    own, client = new_own_homeserver(), new_client()
    mallory = Person(f"@mallory:{own.server_name}", "MALLORY")

    def outcome() -> tuple[UserAnswer, set[str]]:
        result = client.query(KeysQueryRequest.for_users([mallory.user_id]))
        return result.users[mallory.user_id], set(result.failures)

    for _ in range(2):
        own.start(lambda *_: answer_about(mallory))
        assert outcome() == (UserAnswer.DEVICES, set())
        own.stop()
        assert outcome() == (UserAnswer.SERVER_FAILED, {own.server_name})


# --------------------------------------------------------------------------------------------------------------
# A homeserver of our own asks a Synapse
# --------------------------------------------------------------------------------------------------------------


def test_our_homeserver_asks_a_synapse_in_its_own_name(
    new_client: MakeClient, synapse: SynapseServer, certificates: Certificates, new_own_homeserver: MakeOwnHomeserver
) -> None:
    own, signer, alice = new_own_homeserver(), fresh_signer(), new_client()
    device_keys = with_device(alice).device_keys()
    own.start(show_keys(own, signer))

    def ask(request: HttpRequest, *, signed: HttpRequest) -> HttpResponse:
        (header,) = sign_request(signed, origin=own.server_name, destination=synapse.server_name, signers=signer)
        return send_over_tls(synapse.server_name, certificates, request, header)

    query = UserKeysQueryRequest(device_keys={alice.user_id: ()}).to_http()
    answer = UserKeysQueryResponse.from_http(ask(query, signed=query))
    assert answer.device_keys == {alice.user_id: {"DEVICE": device_keys}}

    other = UserKeysQueryRequest(device_keys={}).to_http()
    with pytest.raises(MatrixError) as refused:
        UserKeysQueryResponse.from_http(ask(query, signed=other))
    assert (refused.value.status, refused.value.errcode) == (401, "M_UNAUTHORIZED")


def show_keys(own: OwnHomeserver, signer: Signer) -> Handle:
    """Answer who asks for the keys of the server, signed or not, and nobody else."""

    def handle(request: HttpRequest, _authorization: str | None) -> HttpResponse:
        ServerKeysRequest.from_http(request)
        return published_keys(own.server_name, signer).to_http()

    return handle


# --------------------------------------------------------------------------------------------------------------
# Our own ends of the line, without anybody else
# --------------------------------------------------------------------------------------------------------------


def test_bytes_arrive_as_they_were_sent(certificates: Certificates, new_own_homeserver: MakeOwnHomeserver) -> None:
    own = new_own_homeserver()
    seen: list[tuple[HttpRequest, str | None]] = []

    def handle(request: HttpRequest, authorization: str | None) -> HttpResponse:
        seen.append((request, authorization))
        return HttpResponse(status=418, body=request.body * 2, headers={"Retry-After": "7"})

    own.start(handle)
    body = bytes(range(256)) * 400
    request = HttpRequest(method="PUT", path="/a%2Fb/%40c", query="d=%20e&f", body=body)
    answer = send_over_tls(own.server_name, certificates, request, "G")
    assert (answer.status, answer.body) == (418, body * 2)
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["retry-after"] == "7"
    assert seen == [(request, "G")]


def test_a_server_that_another_authority_vouches_for_is_not_spoken_to(
    certificates: Certificates, new_own_homeserver: MakeOwnHomeserver, tmp_path: Path
) -> None:
    own = new_own_homeserver()
    own.start(lambda *_: HttpResponse(status=200))
    assert send_over_tls(own.server_name, certificates, GET).status == 200
    with pytest.raises(HttpFailure, match="CERTIFICATE_VERIFY_FAILED"):
        send_over_tls(own.server_name, make_certificates(tmp_path), GET)


def test_a_request_in_flight_ends_when_the_server_stops(
    certificates: Certificates, new_own_homeserver: MakeOwnHomeserver
) -> None:
    own, came, done = new_own_homeserver(), threading.Event(), threading.Event()

    def handle(*_: object) -> HttpResponse:
        came.set()
        done.wait()
        return HttpResponse(status=200, body=b"too late")

    own.start(handle)
    failures: list[HttpFailure] = []

    def ask() -> None:
        try:
            send_over_tls(own.server_name, certificates, GET)
        except HttpFailure as failure:
            failures.append(failure)
        finally:
            done.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert came.wait(10)
    own.stop()
    asking.join()
    (failure,) = failures
    assert "TimeoutError" not in str(failure)


def test_what_a_handler_raises_is_raised_in_the_test(
    certificates: Certificates, new_own_homeserver: MakeOwnHomeserver
) -> None:
    own = new_own_homeserver()
    own.start(show_keys(own, fresh_signer()))
    assert send_over_tls(own.server_name, certificates, GET).status == 500
    with pytest.raises(ExceptionGroup) as raised:
        own.stop()
    assert [type(error) for error in raised.value.exceptions] == [RemoteProtocolError]


def test_the_keys_of_a_server_are_fetched_once_and_must_be_its_own(
    certificates: Certificates, new_own_homeserver: MakeOwnHomeserver
) -> None:
    honest, liar = new_own_homeserver(), new_own_homeserver()
    signer, keys = fresh_signer(), KnownServers(certificates)
    honest.start(show_keys(honest, signer))
    liar.start(show_keys(honest, signer))
    for _ in range(2):
        known, _ = keys.keys_of(honest.server_name)
        assert known.verify_keys == {"ed25519:own": signer.public_key}
        honest.stop()
    with pytest.raises(MatrixError, match="no keys"):
        keys.keys_of(liar.server_name)
