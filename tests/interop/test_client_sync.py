"""What a real homeserver tells its clients of each other, and hands on from one to the other."""

from __future__ import annotations

import urllib.parse

import pytest

from interop.matrix_http import V3, Client, MakeClient, Sync
from interop.people import with_device
from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    CLIENT_V3,
    Dialect,
    HttpRequest,
    KeysChangesRequest,
    KeysChangesResponse,
    KeysQueryRequest,
    SendToDeviceRequest,
    SendToDeviceResponse,
    SyncKeys,
)

pytestmark = pytest.mark.interop

in_every_dialect = pytest.mark.parametrize("dialect", [CLIENT_V3, CLIENT_R0], ids=lambda dialect: dialect.name)


def share_a_room(client: Client, other: Client) -> str:
    """Make an encrypted room in which both are; return its id."""
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    room_id: str = client.http.post("/createRoom", {"preset": "public_chat", "initial_state": [encryption]})["room_id"]
    other.http.post(f"/join/{urllib.parse.quote(room_id, safe='')}", {})
    return room_id


# --------------------------------------------------------------------------------------------------------------
# /sync and /keys/changes
# --------------------------------------------------------------------------------------------------------------


def test_sync_tells_the_state_of_our_own_keys(new_client: MakeClient) -> None:
    client = new_client()
    person = with_device(client)
    none = client.sync()
    assert none.keys.one_time_key_counts is not None
    assert none.keys.one_time_key_counts.get("signed_curve25519", 0) == 0
    assert none.keys.unused_fallback_key_types == ()

    client.upload(one_time_keys=person.one_time_keys(2), fallback_keys=person.fallback_key())
    full = client.sync(none).keys
    assert (full.one_time_key_counts, full.unused_fallback_key_types) == (
        {"signed_curve25519": 2},
        ("signed_curve25519",),
    )

    states = []
    for _ in range(3):
        client.claim_one(client.user_id, "DEVICE")
        keys = client.sync(none).keys
        assert keys.malformed == ()
        states.append((count(keys), keys.unused_fallback_key_types))
    assert states == [(1, ("signed_curve25519",)), (0, ("signed_curve25519",)), (0, ())]


def count(keys: SyncKeys) -> int:
    assert keys.one_time_key_counts is not None
    return keys.one_time_key_counts.get("signed_curve25519", 0)


@in_every_dialect
def test_the_devices_of_whom_we_share_a_room_with_change_and_leave(new_client: MakeClient, dialect: Dialect) -> None:
    alice, bob = new_client(), new_client()
    room_id = share_a_room(alice, bob)
    with_device(bob)
    before = alice.sync()

    def changes(since: Sync) -> tuple[Sync, KeysChangesResponse]:
        """Wait for something new; return it, and what /keys/changes makes of the same time."""
        now = alice.sync(since, wait=True)
        assert now.keys.malformed == ()
        request = KeysChangesRequest(from_token=since.next_batch, to_token=now.next_batch)
        return now, alice.ask(request, dialect)

    with_device(bob.another_device("NEW"))
    after, answer = changes(before)
    assert after.keys.device_lists is not None
    assert (after.keys.device_lists.changed, after.keys.device_lists.left) == ((bob.user_id,), ())
    assert answer == KeysChangesResponse(changed=(bob.user_id,))

    bob.http.post(f"/rooms/{urllib.parse.quote(room_id, safe='')}/leave", {})
    gone, answer = changes(after)
    assert gone.keys.device_lists is not None
    assert (gone.keys.device_lists.changed, gone.keys.device_lists.left) == ((), (bob.user_id,))
    assert answer == KeysChangesResponse(left=(bob.user_id,))


# --------------------------------------------------------------------------------------------------------------
# /sendToDevice
# --------------------------------------------------------------------------------------------------------------


@in_every_dialect
@pytest.mark.parametrize(
    ("event_type", "txn_id"),
    [("m.dummy", "1"), ("m.x/y z%2F", "t/x n%2F"), ("ü", "ü"), ("a?b=c&d#e+f", "?&#+;=,@:!$'()*~"), ("...", '%00\\"')],
)
def test_a_message_arrives_under_the_type_it_was_sent_with(
    new_client: MakeClient, dialect: Dialect, event_type: str, txn_id: str
) -> None:
    client = new_client()
    second, third = (client.another_device(name) for name in ("SECOND", "THIRD"))
    since = [device.sync() for device in (second, third)]
    content = {"text": "ü", "nested": [{"number": 1}, None, True]}
    request = SendToDeviceRequest(
        event_type=event_type, txn_id=txn_id, messages={client.user_id: {"SECOND": content, "THIRD": {}}}
    )
    for _ in range(2):  # the same transaction again is no other message
        assert client.ask(request, dialect) == SendToDeviceResponse()

    events = [device.sync(state).to_device for device, state in zip((second, third), since, strict=True)]
    assert events == [
        [{"sender": client.user_id, "type": event_type, "content": content}],
        [{"sender": client.user_id, "type": event_type, "content": {}}],
    ]


def test_a_message_to_all_devices_arrives_at_all_of_them(new_client: MakeClient) -> None:
    client, other = new_client(), new_client(device_id="FIRST")
    second = other.another_device("SECOND")
    client.send_to_device("m.dummy", "1", {other.user_id: {"*": {"n": 1}}})
    for device in (other, second):
        assert [event["content"] for event in device.sync().to_device] == [{"n": 1}]


# --------------------------------------------------------------------------------------------------------------
# Names that do not stand in a path as they are, and paths that lead nowhere
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device_id", ["a/b c%2F", '~1?#&+"\\\\', "ü\U0001f511"])
def test_a_device_may_have_any_name(new_client: MakeClient, device_id: str) -> None:
    client = new_client(device_id=device_id)
    assert client.device_id == device_id
    person = with_device(client)
    client.upload_cross_signing(person.cross_signing_upload())
    client.upload_signatures(person.signed_device_upload())

    result = client.query(KeysQueryRequest.for_devices({client.user_id: [device_id]}))

    device = result.devices.accepted[client.user_id][device_id]
    assert device.keys == person.device_keys()
    assert device.is_cross_signed
    client.send_to_device("m.dummy", "1", {client.user_id: {device_id: {"n": 1}}})
    assert [event["content"] for event in client.sync().to_device] == [{"n": 1}]
    if device_id.isascii():  # the peer takes no others for one-time keys
        client.upload(one_time_keys=person.one_time_keys(1))
        client.claim_one(client.user_id, device_id).verify(device=device)


@pytest.mark.parametrize(
    "request_",
    [
        HttpRequest(method="POST", path=f"{V3}/keys/nothing", body=b"{}"),
        HttpRequest(method="GET", path=f"{V3}/keys/nothing"),
        KeysQueryRequest(device_keys={}).to_http(CLIENT_V2_ALPHA),
    ],
    ids=["nothing", "nothing to get", "the draft of 2015"],
)
def test_a_path_that_leads_nowhere_is_a_404(new_client: MakeClient, request_: HttpRequest) -> None:
    error = new_client().refused(request_)
    assert (error.status, error.errcode) == (404, "M_UNRECOGNIZED")


def test_another_method_is_refused(new_client: MakeClient) -> None:
    error = new_client().refused(HttpRequest(method="PUT", path=f"{V3}/keys/query", body=b"{}"))
    assert error.status in (404, 405)
    assert error.errcode == "M_UNRECOGNIZED"
