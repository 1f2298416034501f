"""Every endpoint between servers: Synapses among themselves, and a homeserver of our own that asks and is asked."""

from __future__ import annotations

import pytest

from interop.certificates import Certificates
from interop.federation_http import send_over_tls
from interop.key_homeserver import KeyHomeserver
from interop.matrix_http import MakeClient
from interop.own_homeserver import MakeOwnHomeserver
from interop.people import with_identity
from interop.server_keys import now_ms
from interop.synapse_server import SynapseServer
from matrix_e2e_keys import (
    FEDERATION_V1,
    DeviceKeys,
    DirectToDevice,
    Ed25519SecretKey,
    HttpRequest,
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    MatrixError,
    Reason,
    ServerKeysRequest,
    ServerKeysResponse,
    Signer,
    UserAnswer,
    UserDevice,
    UserDevicesRequest,
    UserKeysClaimRequest,
    UserKeysClaimResponse,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
    VerificationError,
    check_claim,
    check_query,
)
from matrix_e2e_keys.homeserver.federation_auth.authorization import sign_request

pytestmark = pytest.mark.interop


def post(path: str, body: bytes) -> HttpRequest:
    """Return a request that our types do not make."""
    return HttpRequest(method="POST", path=FEDERATION_V1.prefix + path, body=body)


# --------------------------------------------------------------------------------------------------------------
# Two Synapses, and one that is gone
# --------------------------------------------------------------------------------------------------------------


def test_users_of_another_synapse_are_queried_and_claimed_while_a_third_server_is_gone(
    new_client: MakeClient,
    other_client: MakeClient,
    new_own_homeserver: MakeOwnHomeserver,
    certificates: Certificates,
) -> None:
    alice, bob = new_client(), other_client()
    bobs = with_identity(bob, one_time_keys=1)
    third = new_own_homeserver()
    gone = KeyHomeserver(third, certificates).server_name
    third.stop()
    nobody, nowhere = bob.user_id.replace("@", "@not"), f"@mallory:{gone}"

    result = alice.query(KeysQueryRequest.for_users([bob.user_id, nobody, nowhere], timeout=5000))

    device = result.devices.accepted[bob.user_id]["DEVICE"]
    assert device.keys == bobs.device_keys()
    assert device.is_cross_signed
    assert result.identities.accepted[bob.user_id].user_signing_key is None
    assert result.users == {
        bob.user_id: UserAnswer.DEVICES,
        nobody: UserAnswer.NO_DEVICES,
        nowhere: UserAnswer.SERVER_FAILED,
    }
    assert set(result.failures) == {gone}
    assert result.devices.rejected == result.identities.rejected == ()
    assert result.notices == ()

    claim = KeysClaimRequest.for_devices({bob.user_id: ["DEVICE"], nowhere: ["DEVICE"]})
    first, second = (check_claim(claim, alice.ask(claim), devices=result.devices.accepted) for _ in range(2))
    assert set(first.keys.accepted) == {bob.user_id}
    key = first.keys.accepted[bob.user_id]["DEVICE"]
    assert (key.device, key.is_fallback) == (device, False)
    assert first.exhausted == {}
    assert second.exhausted == {bob.user_id: {"DEVICE"}}
    assert second.keys.accepted == {}
    for claimed in (first, second):
        assert claimed.keys.rejected == claimed.keys.unsupported == ()
        assert claimed.unreachable == {nowhere: {"DEVICE"}}
        assert set(claimed.failures) == {gone}


# --------------------------------------------------------------------------------------------------------------
# A Synapse asks us
# --------------------------------------------------------------------------------------------------------------


def test_our_users_are_queried_and_claimed(new_client: MakeClient, synapse: SynapseServer, own: KeyHomeserver) -> None:
    client, mallory = new_client(), own.add_user("mallory", one_time_keys=1)
    nobody = f"@nobody:{own.server_name}"

    result = client.query(KeysQueryRequest.for_devices({mallory.user_id: [], nobody: ["DEVICE", "OTHER"]}))
    device = result.devices.accepted[mallory.user_id]["DEVICE"]
    assert device.keys == mallory.device_keys()
    assert device.is_cross_signed
    assert result.users == {mallory.user_id: UserAnswer.DEVICES, nobody: UserAnswer.NO_DEVICES}
    assert result.missing_devices == {nobody: {"DEVICE", "OTHER"}}
    assert result.failures == {}

    client.claim_one(mallory.user_id, "DEVICE").verify(device=device)
    assert client.claim(mallory.user_id, "DEVICE") == {}
    claim = UserKeysClaimRequest(one_time_keys={mallory.user_id: {"DEVICE": "signed_curve25519"}})
    query = UserKeysQueryRequest.for_devices({mallory.user_id: (), nobody: ("DEVICE", "OTHER")})
    assert own.asked == [(synapse.server_name, request) for request in (query, claim, claim)]


@pytest.mark.parametrize("localpart", ["mallory", "mal/lory b%2Fü?#+"])
def test_the_devices_of_our_user_are_listed_for_whoever_signs_the_master_key(
    new_client: MakeClient, synapse: SynapseServer, own: KeyHomeserver, localpart: str
) -> None:
    client, mallory = new_client(), own.add_user(localpart)
    person = with_identity(client)

    client.upload_signatures(person.signed_user_upload(mallory.cross_signing_key("master")))

    assert (synapse.server_name, UserDevicesRequest(user_id=mallory.user_id)) in own.asked
    result = client.query(KeysQueryRequest.for_users([mallory.user_id]))
    assert result.devices.accepted[mallory.user_id]["DEVICE"].is_cross_signed
    assert result.identities.accepted[mallory.user_id].master_key == mallory.cross_signing_key("master")


def test_messages_to_our_users_come_as_edus(new_client: MakeClient, own: KeyHomeserver) -> None:
    client, mallory = new_client(), own.add_user("mallory")
    content = {"text": "ü", "nested": [{"number": 1}, None, True]}
    client.send_to_device("m.x/y z%2F", "1", {mallory.user_id: {"DEVICE": content, "*": {}}})
    edu = own.next_edu()
    assert isinstance(edu, DirectToDevice)
    assert (edu.sender, edu.event_type) == (client.user_id, "m.x/y z%2F")
    assert edu.messages == {mallory.user_id: {"DEVICE": content, "*": {}}}
    assert edu.message_id != ""


# --------------------------------------------------------------------------------------------------------------
# We ask a Synapse
# --------------------------------------------------------------------------------------------------------------


def test_the_keys_of_a_synapse_are_its_own(
    synapse: SynapseServer, certificates: Certificates, own: KeyHomeserver
) -> None:
    unsigned = send_over_tls(synapse.server_name, certificates, ServerKeysRequest().to_http())
    keys = ServerKeysResponse.from_http(unsigned).server_keys
    assert own.ask(synapse.server_name, ServerKeysRequest()).server_keys == keys
    with pytest.raises(VerificationError) as other:
        keys.verify(server_name=own.server_name)
    assert other.value.reason is Reason.SERVER_NAME_MISMATCH

    verified = keys.verify(server_name=synapse.server_name)

    assert list(verified.verify_keys) == ["ed25519:interop"]
    now = now_ms()
    assert now < verified.usable_until(now) <= now + 7 * 24 * 3_600_000
    assert verified.usable_until(0) == 7 * 24 * 3_600_000


def test_users_of_a_synapse_are_queried_claimed_and_listed(
    new_client: MakeClient, synapse: SynapseServer, own: KeyHomeserver
) -> None:
    client = new_client(display_name="A phone")
    person = with_identity(client, one_time_keys=1)
    nobody = client.user_id.replace("@", "@not")

    query = UserKeysQueryRequest.for_devices({client.user_id: [], nobody: []})
    queried = own.ask(synapse.server_name, query)
    assert queried.device_keys == {client.user_id: {"DEVICE": person.device_keys()}, nobody: {}}
    assert queried.master_keys == {client.user_id: person.cross_signing_key("master")}
    assert queried.self_signing_keys == {client.user_id: person.cross_signing_key("self_signing")}
    assert queried.malformed == ()
    result = check_query(
        KeysQueryRequest(device_keys=query.device_keys),
        KeysQueryResponse(
            device_keys=queried.device_keys,
            master_keys=queried.master_keys,
            self_signing_keys=queried.self_signing_keys,
        ),
    )
    verified = result.devices.accepted[client.user_id]["DEVICE"]
    assert verified.is_cross_signed

    listed = own.ask(synapse.server_name, UserDevicesRequest(user_id=client.user_id))
    assert listed.user_id == client.user_id
    assert listed.stream_id > 0
    (device,) = listed.devices
    assert isinstance(device, UserDevice)
    assert isinstance(device.keys, DeviceKeys)
    assert device.device_id == "DEVICE"
    assert device.keys.verify(identity=result.identities.accepted[client.user_id]) == verified
    assert (listed.master_key, listed.self_signing_key, listed.malformed) == (
        person.cross_signing_key("master"),
        person.cross_signing_key("self_signing"),
        (),
    )

    claim = UserKeysClaimRequest(one_time_keys={client.user_id: {"DEVICE": "signed_curve25519"}})
    first, second = (own.ask(synapse.server_name, claim) for _ in range(2))
    claimed = check_claim(
        KeysClaimRequest(one_time_keys=claim.one_time_keys),
        KeysClaimResponse(one_time_keys=first.one_time_keys),
        devices=result.devices.accepted,
    )
    assert claimed.keys.accepted[client.user_id]["DEVICE"].device == verified
    assert claimed.keys.rejected == ()
    assert second == UserKeysClaimResponse()


def test_our_users_send_messages(new_client: MakeClient, synapse: SynapseServer, own: KeyHomeserver) -> None:
    client, mallory = new_client(), own.add_user("mallory")
    content = {"text": "ü", "nested": [{"number": 1}, None, True]}
    since = client.sync()

    def edu(sender: str, message_id: str) -> DirectToDevice:
        messages = {client.user_id: {"DEVICE": {**content, "id": message_id}}}
        return DirectToDevice(sender=sender, event_type="m.dummy", message_id=message_id, messages=messages)

    own.send_edus(synapse.server_name, edu(f"@mallory:{synapse.server_name}", "forged"), edu(mallory.user_id, "good"))

    (event,) = client.sync(since, wait=True).to_device
    assert event == {"sender": mallory.user_id, "type": "m.dummy", "content": {**content, "id": "good"}}


@pytest.mark.parametrize(
    ("request_", "errcode"),
    [
        (UserKeysQueryRequest.for_devices({"@alice:example.org": []}).to_http(), "M_UNKNOWN"),
        (post("/user/keys/query", b'{"device_keys":{"alice":[]}}'), "M_INVALID_PARAM"),
        (post("/user/keys/claim", b'{"one_time_keys":{"alice":{"DEVICE":"signed_curve25519"}}}'), "M_INVALID_PARAM"),
    ],
    ids=["the user of another server", "query of nobody", "claim of nobody"],
)
def test_whom_a_synapse_does_not_answer_for(
    synapse: SynapseServer, own: KeyHomeserver, request_: HttpRequest, errcode: str
) -> None:
    error = MatrixError.from_http(own.send(synapse.server_name, request_))
    assert (error.status, error.errcode) == (400, errcode)


def test_a_homeserver_of_ours_refuses_in_the_same_way(
    synapse: SynapseServer, new_own_homeserver: MakeOwnHomeserver, certificates: Certificates
) -> None:
    asking, asked = (KeyHomeserver(new_own_homeserver(), certificates) for _ in range(2))
    foreign = UserKeysQueryRequest.for_devices({f"@alice:{asking.server_name}": []})
    with pytest.raises(MatrixError) as refused:
        asking.ask(asked.server_name, foreign)
    assert (refused.value.status, refused.value.errcode) == (400, "M_UNKNOWN")
    for request, status, errcode in (
        (post("/user/keys/query", b"[]"), 400, "M_BAD_JSON"),
        (post("/user/keys/query", b"{}"), 400, "M_BAD_JSON"),
        (HttpRequest(method="GET", path=f"{FEDERATION_V1.prefix}/user/devices/alice"), 400, "M_INVALID_PARAM"),
        (HttpRequest(method="GET", path=f"{FEDERATION_V1.prefix}/user/keys/query"), 405, "M_UNRECOGNIZED"),
        (post("/user/keys/nothing", b"{}"), 404, "M_UNRECOGNIZED"),
    ):
        error = MatrixError.from_http(asking.send(asked.server_name, request))
        assert (error.status, error.errcode) == (status, errcode)
    nobody = UserKeysQueryRequest(device_keys={})
    assert asking.ask(asked.server_name, nobody) == UserKeysQueryResponse()
    assert asked.asked == [(asking.server_name, foreign), (asking.server_name, nobody)]


def test_who_does_not_prove_who_asks_is_not_answered(
    new_own_homeserver: MakeOwnHomeserver, certificates: Certificates, synapse: SynapseServer
) -> None:
    asking, ours = (KeyHomeserver(new_own_homeserver(), certificates) for _ in range(2))
    stranger = Ed25519SecretKey.generate()
    request = UserKeysQueryRequest(device_keys={}).to_http()

    for server_name in (synapse.server_name, ours.server_name):

        def header(destination: str = server_name, signer: Signer = asking.signer) -> str:
            (signed,) = sign_request(request, origin=asking.server_name, destination=destination, signers=signer)
            return signed

        for name, authorization in {
            "no header": None,
            "forged": header(signer=stranger.signer("ed25519:own")),
            "an unknown key": header(signer=stranger.signer("ed25519:other")),
            "for another server": header(destination="localhost:1"),
            "for another server, but not said so": header(destination="localhost:1").replace(
                "localhost:1", server_name
            ),
            "by a server that is not there": header().replace(asking.server_name, "localhost:1"),
        }.items():
            error = MatrixError.from_http(send_over_tls(server_name, certificates, request, authorization))
            assert (name, error.status, error.errcode) == (name, 401, "M_UNAUTHORIZED")
            assert error.user_interactive is None
        answer = send_over_tls(server_name, certificates, request, header())
        assert UserKeysQueryResponse.from_http(answer).device_keys == {}
