"""What a directory answers to other servers, where it is more than one decision."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.directory.servers import SERVERS, LocalClient, LocalWorld, Peer, device_edu
from matrix_e2e_keys import KeysQueryRequest, MatrixError, SendTransactionRequest, UnknownEdu, read_edu
from matrix_e2e_keys.homeserver import KeyDirectory
from matrix_e2e_keys.homeserver.directory.server_requests import ServerRequests
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    client = world.new_client("alice")
    client.publish("1")
    return client


@pytest.fixture
def peer(world: LocalWorld) -> Peer:
    return Peer(world)


@pytest.fixture
def eve(world: LocalWorld, alice: LocalClient, peer: Peer) -> SampleUser:
    """A user of the peer, in a room with Alice; the peer has been asked about her devices."""
    eve = peer.user("eve")
    for user_id in (alice.user.user_id, eve.user_id):
        world.directory(0).join(user_id, "!there:peer.example", now=world.now)
    peer.answers_devices(eve, 1, [])
    world.settle()
    return eve


def message_edu(sender: str, message_id: str, messages: object) -> dict[str, Any]:
    content = {"sender": sender, "type": "m.x", "message_id": message_id, "messages": messages}
    return {"edu_type": "m.direct_to_device", "content": content}


def events(client: LocalClient) -> list[Any]:
    found: list[Any] = client.sync()["to_device"]["events"]
    return found


class TestAnswers:
    def test_a_request_of_clients_is_none_of_a_server(self, world: LocalWorld) -> None:
        requests: ServerRequests = world.directory(0)._servers
        with pytest.raises(MatrixError) as caught:
            requests.answer(KeysQueryRequest(device_keys={}), origin="b.example", now=world.now)
        assert (caught.value.status, caught.value.errcode) == (404, "M_UNRECOGNIZED")

    def test_keys_are_given_out_once_to_whatever_server(
        self, world: LocalWorld, alice: LocalClient, peer: Peer
    ) -> None:
        """Attack 46."""
        other = Peer(world, "other.example")
        wanted = {alice.user.user_id: {"PHONE": "signed_curve25519"}}
        answers = [each.claim(wanted).good["one_time_keys"] for each in (peer, other, peer)]
        assert answers == [{alice.user.user_id: {"PHONE": alice.one_time_keys("1")}}, {}, {}]

    def test_a_server_cannot_empty_a_device(self, world: LocalWorld, peer: Peer) -> None:
        """Attack 47: whatever one server claims, others still find keys. What all users of it claim counts together."""
        alice = world.new_client("alice")
        names = [f"{number}" for number in range(40)]
        assert alice.upload({"one_time_keys": alice.one_time_keys(*names)}).status == 200
        alice.world.directory(0)._state.server_ledger.keys_per_device = 30
        for _ in names:
            peer.claim({alice.user.user_id: {"PHONE": "signed_curve25519"}})
        assert alice.sync()["device_one_time_keys_count"] == {"signed_curve25519": 10}

    @pytest.mark.parametrize("countersigns", [False, True])
    def test_countersignatures(self, countersigns: bool) -> None:
        world = LocalWorld()
        signers = [sample_secret_key(f"key {number}").signer(f"ed25519:{number}") for number in (1, 2)]
        world.federation.replace(KeyDirectory.create(SERVERS[0], signers=signers, countersigns=countersigns))
        alice, peer = world.new_client("alice"), Peer(world)
        answer = peer.query({alice.user.user_id: []}).good
        signatures = answer["device_keys"][alice.user.user_id]["PHONE"]["signatures"]
        assert set(signatures.get(SERVERS[0], ())) == ({"ed25519:1", "ed25519:2"} if countersigns else set())

    @pytest.mark.parametrize("shows", [False, True])
    def test_names_of_devices(self, shows: bool) -> None:
        world = LocalWorld(shows_display_names=shows)
        alice, peer = world.new_client("alice"), Peer(world)
        alice.rename("her phone")
        asked = peer.query({alice.user.user_id: []}).good["device_keys"][alice.user.user_id]["PHONE"]
        assert asked.get("unsigned", {}) == ({"device_display_name": "her phone"} if shows else {})
        [device] = peer.devices(alice.user.user_id).good["devices"]
        assert device.get("device_display_name") == ("her phone" if shows else None)

    def test_who_asked_for_all_devices_is_told_what_waits_all_the_same(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """The answer may have been lost on its way."""
        told = len(peer.edus)
        alice.rename("x")
        stream_id = peer.devices(alice.user.user_id).good["stream_id"]
        world.settle()
        assert [edu["content"]["stream_id"] for edu in peer.edus[told:]] == [stream_id]
        alice.rename("y")
        world.settle()
        assert peer.edus[-1]["content"]["prev_id"] == [stream_id]

    def test_who_has_been_heard_of_is_sent_to_at_once(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        alice.rename("x")
        directory = world.directory(0)
        request = directory.next_request(now=world.now)
        assert request is not None
        directory.receive_answer(request, None, now=world.now)
        assert directory.next_request(now=world.now) is None
        assert peer.query({}).status == 200
        assert directory.next_request(now=world.now) is not None


class TestTransactions:
    def test_messages_arrive_once(self, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        edu = message_edu(eve.user_id, "1", {alice.user.user_id: {"PHONE": {"n": 1}, "LAPTOP": {"n": 2}}})
        for told in ((edu,), (edu, edu), (message_edu(eve.user_id, "2", {alice.user.user_id: {"*": {"n": 3}}}),)):
            peer.tell(*told)
        assert [event["content"]["n"] for event in events(alice)] == [1, 3]
        assert {event["sender"] for event in events(alice)} == {eve.user_id}

    @pytest.mark.parametrize(
        "sender", ["@eve:other.example", "@eve:peer.example:8448", "@eve:one.example", "@eve:peer.example.other"]
    )
    def test_nobody_speaks_for_users_of_others(
        self, alice: LocalClient, peer: Peer, eve: SampleUser, sender: str
    ) -> None:
        """Attack 53. Nor does it stand in the way of who may."""
        messages = {alice.user.user_id: {"PHONE": {}}}
        peer.tell(message_edu(sender, "1", messages))
        assert events(alice) == []
        peer.tell(message_edu(eve.user_id, "1", messages))
        assert len(events(alice)) == 1

    def test_two_servers_number_their_messages_as_they_like(
        self, world: LocalWorld, alice: LocalClient, peer: Peer
    ) -> None:
        for each in (peer, Peer(world, "other.example")):
            each.tell(message_edu(f"@eve:{each.name}", "1", {alice.user.user_id: {"PHONE": {}}}))
        assert len(events(alice)) == 2

    def test_messages_for_users_of_others_go_nowhere(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        bob = world.new_client("bob", server=1)
        peer.tell(message_edu(eve.user_id, "1", {bob.user.user_id: {"PHONE": {}}, "@nobody:one.example": {"X": {}}}))
        assert (events(alice), events(bob)) == ([], [])

    def test_what_is_malformed_or_unknown_costs_nobody_else_anything(
        self, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        good = message_edu(eve.user_id, "1", {alice.user.user_id: {"PHONE": {"n": 1}}})
        unknown = {"edu_type": "m.typing", "content": {"room_id": "!x:peer.example"}}
        assert isinstance(read_edu(unknown), UnknownEdu)
        peer.tell({"edu_type": 5}, unknown, device_edu(eve, "X", -1), message_edu("nobody", "1", {}), good)
        assert [event["content"] for event in events(alice)] == [{"n": 1}]

    def test_changes_are_told_on(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        token = alice.token
        peer.tell(device_edu(eve, "X", 2, [1], keys=eve.device("X", cross_signed=False).to_json()))
        assert alice.changed_since(token) == [eve.user_id]
        token = alice.token
        identity = {"user_id": eve.user_id, "master_key": eve.master_key.to_json()}
        peer.tell({"edu_type": "m.signing_key_update", "content": identity})
        assert alice.changed_since(token) == [eve.user_id]
        assert set(alice.query_of(alice.user)["master_keys"]) == set()
        found = alice.query({"device_keys": {eve.user_id: []}}).good
        assert list(found["master_keys"]) == [eve.user_id]

    def test_what_changes_there_is_not_told_to_other_servers(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        other = Peer(world, "other.example")
        world.directory(0).join("@carol:other.example", "!there:peer.example", now=world.now)
        other.answers_devices(other.user("carol"), 1, [])
        world.settle()
        told = len(other.edus)
        peer.tell(device_edu(eve, "X", 2, [1], keys=eve.device("X", cross_signed=False).to_json()))
        assert len(other.edus) == told

    def test_a_transaction_by_hand(self, world: LocalWorld) -> None:
        request = SendTransactionRequest(txn_id="1", origin="b.example", origin_server_ts=0)
        answer = world.directory(0)._servers.answer(request, origin="b.example", now=world.now)
        assert answer.to_json() == {"pdus": {}}
