"""The keys of our machines on a real homeserver: uploaded, claimed, used and made up for. Each test is one story.

Every second device, beginning with the first, is started anew from what it stored, after every round of requests.
Stories of one device are told twice: with such a device, and with one that keeps everything in memory.
"""

from __future__ import annotations

import pytest

from interop.machines import (
    DAY,
    HOUR,
    MINUTE,
    MakeDevice,
)
from interop.matrix_http import MakeClient
from interop.stories import (
    EVERY_SECOND,
    device_maker,
    first_device,
    key_count,
    seen,
)
from matrix_e2e_keys import (
    KeysClaimRequest,
    KeysQueryRequest,
)
from matrix_e2e_keys.client.supply.values import KeyUse, SupplyPolicy
from matrix_e2e_keys.client.users.changes import ChangeKind

pytestmark = pytest.mark.interop


@pytest.fixture
def new_device(request: pytest.FixtureRequest) -> MakeDevice:
    """Make a device of a client."""
    return device_maker(getattr(request, "param", EVERY_SECOND))


told_twice = pytest.mark.parametrize("new_device", [[True], [False]], ids=["started anew", "in memory"], indirect=True)


# --------------------------------------------------------------------------------------------------------------
# One's own keys
# --------------------------------------------------------------------------------------------------------------


@told_twice
def test_the_first_upload_is_one_request_and_is_served_as_it_was_uploaded(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    client = new_client()
    device = new_device(client, policy=SupplyPolicy())

    device.flush()

    (upload,) = device.uploads
    assert upload.device_keys == device.machine.device.keys
    assert (len(upload.one_time_keys), len(upload.fallback_keys)) == (50, 1)
    assert device.machine.is_uploaded
    served = client.query(KeysQueryRequest.for_users([client.user_id])).devices.accepted[client.user_id]
    assert {name: it.keys for name, it in served.items()} == {client.device_id: upload.device_keys}
    claimed = [client.claim_one(client.user_id, client.device_id) for _ in range(51)]
    assert {str(key.key_id): key for key in claimed[:50]} == upload.one_time_keys
    assert {str(claimed[50].key_id): claimed[50]} == upload.fallback_keys
    assert device.changes[-1].kind is ChangeKind.DEVICE_ADDED
    assert not {ChangeKind.OWN_DEVICE_ALTERED, ChangeKind.OWN_DEVICE_MISSING} & set(device.kinds(client.user_id))


@told_twice
def test_keys_that_were_claimed_are_made_up_for(new_client: MakeClient, new_device: MakeDevice) -> None:
    device = first_device(new_client, new_device)
    assert key_count(device) == 5
    device.forget_news()

    device.catch_up()  # a server that holds enough is sent nothing
    assert device.uploads == []

    for _ in range(2):
        device.client.claim_one(device.user_id, device.device_id)
    device.catch_up()
    asks = [] if device.forgetful else [0]  # so soon after an upload, what /sync says may be older
    assert [len(it.one_time_keys) for it in device.uploads] == [*asks, 2]
    assert key_count(device) == 5

    device.forget_news()
    device.now += 2 * MINUTE
    for _ in range(3):
        device.client.claim_one(device.user_id, device.device_id)
    device.catch_up()
    assert [len(it.one_time_keys) for it in device.uploads] == [3]
    assert all(it.device_keys is None for it in device.uploads)
    assert key_count(device) == 5


@told_twice
def test_a_device_that_was_set_back_to_an_older_state_finds_its_way(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    """Attack 46: the server holds other keys under the names that the account uses once more."""
    device = first_device(new_client, new_device)
    backup = device.store()
    device.now += 2 * MINUTE
    claimed = [device.client.claim_one(device.user_id, device.device_id) for _ in range(2)]
    device.catch_up()
    assert key_count(device) == 5
    forgotten = device.uploads[-1].one_time_keys

    device.restart(backup)
    device.forget_news()
    device.now += 5 * MINUTE
    claimed += [device.client.claim_one(device.user_id, device.device_id) for _ in range(2)]
    device.catch_up()

    (conflict,) = [it.conflict for it in device.received if it.conflict is not None]
    assert not conflict.is_same_key
    assert str(conflict.uploaded.key_id) in forgotten
    assert key_count(device) == 5
    device.forget_news()
    device.catch_up()
    assert device.uploads == []
    rest = [device.client.claim_one(device.user_id, device.device_id) for _ in range(5)]
    by_id = {str(key.key_id): key for key in claimed + rest}
    assert len(by_id) == 9  # nothing was handed out twice
    assert forgotten.items() <= by_id.items()


def test_a_fallback_key_is_replaced_once_it_was_used_and_the_one_before_is_forgotten_in_the_end(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    observer, device = first_device(new_client, new_device), first_device(new_client, new_device, "DEVICE")
    for _ in range(5):
        device.client.claim_one(device.user_id, device.device_id)
    fallback = device.client.claim_one(device.user_id, device.device_id)
    assert fallback.fallback

    device.now += 2 * MINUTE
    device.sync()
    assert device.machine.supply.needed(device.now).fallback_key
    device.flush()
    (upload,) = [it for it in device.uploads[1:] if it.fallback_keys]
    assert fallback not in upload.fallback_keys.values()
    device.now += DAY
    device.sync()
    assert device.machine.supply.needed(device.now).is_nothing  # nobody is known to have used either

    while not device.client.claim_one(device.user_id, device.device_id).fallback:
        pass
    observer.look_at(device.user_id)
    observer.open_sessions([seen(observer, device)])
    observer.send(seen(observer, device), "after all the others")
    assert device.read() == [("after all the others", KeyUse.FALLBACK)]
    used_at = device.now
    device.flush()  # and of course the keys are made up for, and the fallback key once more replaced

    device.now = used_at + HOUR - 1
    assert not device.machine.supply.needed(device.now).forget_previous_fallback_key
    device.now = max(device.now, used_at) + HOUR + MINUTE
    assert device.machine.supply.needed(device.now).forget_previous_fallback_key
    device.flush()
    assert not device.machine.supply.needed(device.now).forget_previous_fallback_key


def test_a_session_is_opened_with_a_key_that_was_claimed(new_client: MakeClient, new_device: MakeDevice) -> None:
    alice, bob = first_device(new_client, new_device, "ALICE"), first_device(new_client, new_device, "BOB")
    alice.look_at(bob.user_id)
    bob.look_at(alice.user_id)
    alice.forget_news()

    alice.open_sessions([seen(alice, bob)])

    (claim,) = [it for it in alice.sent if isinstance(it, KeysClaimRequest)]
    assert claim.asked == {bob.user_id: {"BOB": "signed_curve25519"}}
    assert alice.machine.sessions.wanted == frozenset()
    alice.send(seen(alice, bob), "Hello Bob")
    assert bob.read() == [("Hello Bob", KeyUse.ONE_TIME)]
    bob.now += 2 * MINUTE
    bob.flush()
    assert key_count(bob) == 5
    # A second session takes a second key.
    bob.open_sessions([seen(bob, alice)])
    bob.send(seen(bob, alice), "Hello Alice")
    assert alice.read() == [("Hello Alice", KeyUse.ONE_TIME)]


def test_where_no_key_is_left_there_is_no_session_until_there_are_more(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    bob, alice = new_device(new_client(device_id="BOB")), first_device(new_client, new_device, "ALICE")
    bob.client.upload(device_keys=bob.machine.device.keys)
    alice.look_at(bob.user_id)

    alice.open_sessions([seen(alice, bob)])

    (claim,) = [it.claim for it in alice.received if it.claim is not None]
    assert claim.exhausted == {bob.user_id: {"BOB"}}
    assert alice.machine.sessions.without_session == alice.machine.sessions.wanted == {(bob.user_id, "BOB")}
    bob.flush()
    alice.flush()
    assert alice.machine.sessions.wanted != frozenset()  # not at once
    alice.now += MINUTE
    alice.flush()
    assert alice.machine.sessions.wanted == alice.machine.sessions.without_session == frozenset()
