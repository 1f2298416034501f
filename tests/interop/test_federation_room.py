"""Two homeservers with a room in common, one of them our own: each tells the other of keys without being asked."""

from __future__ import annotations

import pytest

from interop.key_homeserver import KeyHomeserver
from interop.matrix_http import MakeClient
from interop.people import Person, with_identity
from interop.room_joins import ROOM_VERSION, join_room
from interop.synapse_server import SynapseServer
from matrix_e2e_keys import (
    DeviceKeys,
    DeviceListUpdate,
    KeysQueryRequest,
    SigningKeyUpdate,
    UnknownEdu,
)

pytestmark = pytest.mark.interop


def test_servers_that_share_a_room_tell_each_other_of_new_keys(
    new_client: MakeClient, synapse: SynapseServer, own: KeyHomeserver
) -> None:
    alice, mallory = new_client(), own.add_user("mallory")
    room = {"preset": "public_chat", "room_version": ROOM_VERSION}
    join_room(own, synapse.server_name, alice.http.post("/createRoom", room)["room_id"], mallory.user_id)
    since = alice.sync()

    # A new device and a new identity of Alice, in as many pieces as the server likes
    person = with_identity(alice)
    expected = {
        "master_key": person.cross_signing_key("master"),
        "self_signing_key": person.cross_signing_key("self_signing"),
        "device": person.device_keys(),
        "signers of the device": {"ed25519:DEVICE", f"ed25519:{person.public_text('self_signing')}"},
    }
    told: dict[str, object] = {}
    while told != expected:
        edu = own.next_edu()
        assert isinstance(edu, SigningKeyUpdate | DeviceListUpdate | UnknownEdu)
        if isinstance(edu, SigningKeyUpdate):
            assert edu.user_id == alice.user_id
            keys = {"master_key": edu.master_key, "self_signing_key": edu.self_signing_key}
            told |= {name: key for name, key in keys.items() if key is not None}
        elif isinstance(edu, DeviceListUpdate) and edu.keys is not None:
            assert (edu.user_id, edu.device_id, edu.deleted) == (alice.user_id, "DEVICE", False)
            assert isinstance(edu.keys, DeviceKeys)
            told["device"] = edu.keys
            told["signers of the device"] = set(edu.keys.signed.signatures[alice.user_id])

    # A new device and a new identity of Mallory
    def wait_until_changed() -> None:
        nonlocal since
        for _ in range(5):
            since = alice.sync(since, wait=True)
            if since.keys.device_lists is not None and mallory.user_id in since.keys.device_lists.changed:
                return
        pytest.fail("Alice is not told of a change")

    device = mallory.cross_signed_device()
    update = DeviceListUpdate(user_id=mallory.user_id, device_id="DEVICE", stream_id=100, keys=device)
    own.send_edus(synapse.server_name, update)
    wait_until_changed()
    mallory.secrets = Person(mallory.user_id, "DEVICE").secrets
    master_key, self_signing_key = (mallory.cross_signing_key(usage) for usage in ("master", "self_signing"))
    own.send_edus(
        synapse.server_name,
        SigningKeyUpdate(user_id=mallory.user_id, master_key=master_key, self_signing_key=self_signing_key),
    )
    wait_until_changed()
    alice.upload_signatures(person.signed_user_upload(master_key))
    both = KeysQueryRequest.for_users([alice.user_id, mallory.user_id])
    result = alice.query(both)
    assert result.devices.accepted[mallory.user_id]["DEVICE"].keys == mallory.device_keys()
    identity = result.identities.accepted[mallory.user_id]
    assert (identity.master_key, identity.self_signing_key) == (master_key, self_signing_key)
    own_identity = result.identities.accepted[alice.user_id]
    own_identity.confirm_as_own(master_key=person.secrets["master"].public_key).verify_user(identity)

    # A device of Alice that goes
    second = alice.another_device("SECOND")
    second.upload(device_keys=Person(alice.user_id, "SECOND").device_keys())
    second.http.post("/logout", {})
    edu = own.next_edu()
    while not (isinstance(edu, DeviceListUpdate) and edu.deleted):
        edu = own.next_edu()
    assert (edu.user_id, edu.device_id, edu.keys) == (alice.user_id, "SECOND", None)
    assert edu.prev_ids != ()
