"""Conformance: who is told when the devices of whom change.

Not played: joins whose state is only partly known at first. A directory is told who is in a room, and knows it whole.
What such joins ask of device lists (gaps in the stream, servers that come late or were wrongly thought to be gone) is
played in ``test_scenarios_federation.py``. Nor is lazy loading of members: it is a matter of room events. Nor is that a
server which did not answer is left alone for a while: a directory asks it again with each query.
"""

from __future__ import annotations

import pytest

from homeserver.directory.servers import SERVERS, LocalClient, LocalWorld, http
from matrix_e2e_keys.homeserver.decisions import Requester


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    return world.new_client("alice")


@pytest.fixture
def bob(world: LocalWorld, server: int) -> LocalClient:
    return world.new_client("bob", server=server)


def change_keys(world: LocalWorld, client: LocalClient) -> dict[str, object]:
    """Let a device have other keys; return them."""
    keys = client.device_keys(version=world.now)
    assert client.upload({"device_keys": keys}).status == 200
    world.later(1000)
    return keys


class TestRooms:
    def test_somebody_joins_my_room(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: whoever comes into a room of mine has changed."""
        room = world.share_room(alice.user)
        since = alice.token
        world.join(bob.user, room)
        world.settle()
        assert alice.changed_since(since) == [bob.user.user_id]
        assert alice.changes(since, alice.token).good == {"changed": [bob.user.user_id], "left": []}
        assert alice.devices_of(bob.user) == {"PHONE": bob.device_keys()}

    def test_i_join_somebodys_room(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: whoever is in a room that I come into has changed."""
        room = world.share_room(bob.user)
        since = alice.token
        world.join(alice.user, room)
        world.settle()
        assert bob.user.user_id in alice.changed_since(since)
        assert alice.devices_of(bob.user) == {"PHONE": bob.device_keys()}

    def test_somebody_leaves_my_room(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: with whom I share no room any more is named as left; after that I am told nothing about him,
        and get his newest keys if I ask.
        """
        room = world.share_room(alice.user, bob.user)
        world.settle()
        alice.devices_of(bob.user)
        since = alice.token
        world.leave(bob.user, room)
        world.settle()
        assert alice.sync(since)["device_lists"] == {"changed": [], "left": [bob.user.user_id]}
        since = alice.token
        keys = change_keys(world, bob)
        world.settle()
        assert alice.sync(since)["device_lists"] == {"changed": [], "left": []}
        assert alice.devices_of(bob.user) == {"PHONE": keys}

    def test_i_leave_somebodys_room(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: the same if it is I who leave."""
        room = world.share_room(bob.user, alice.user)
        world.settle()
        alice.devices_of(bob.user)
        since = alice.token
        world.leave(alice.user, room)
        world.settle()
        assert alice.sync(since)["device_lists"] == {"changed": [], "left": [bob.user.user_id]}
        since = alice.token
        keys = change_keys(world, bob)
        world.settle()
        assert alice.sync(since)["device_lists"] == {"changed": [], "left": []}
        assert alice.devices_of(bob.user) == {"PHONE": keys}

    @pytest.mark.parametrize("i_leave", [False, True])
    def test_coming_back(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, i_leave: bool) -> None:
        """Conformance: whoever leaves, changes and comes back has changed, and the newest keys are served."""
        room = world.share_room(alice.user, bob.user)
        world.settle()
        mover = alice if i_leave else bob
        since = alice.token
        world.leave(mover.user, room)
        world.settle()
        left = alice.sync(since)
        assert left["device_lists"]["left"] == [bob.user.user_id]
        keys = change_keys(world, bob)
        world.settle()
        world.join(mover.user, room)
        world.settle()
        assert bob.user.user_id in alice.changed_since(left["next_batch"])
        assert alice.devices_of(bob.user) == {"PHONE": keys}
        # Over the whole stretch, that is a change too.
        lists = alice.changes(since, alice.token).good
        assert (bob.user.user_id in lists["changed"], lists["left"]) == (True, [])

    def test_leaving_and_coming_back_at_once(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: who left and came back is changed, and not left."""
        room = world.share_room(alice.user, bob.user)
        world.settle()
        since = alice.token
        world.leave(bob.user, room)
        world.join(bob.user, room)
        world.settle()
        assert alice.sync(since)["device_lists"] == {"changed": [bob.user.user_id], "left": []}

    def test_leaving_one_of_two_rooms(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        world.share_room(alice.user, bob.user)
        room = world.share_room(alice.user, bob.user)
        world.settle()
        since = alice.token
        world.leave(bob.user, room)
        world.settle()
        assert alice.sync(since)["device_lists"] == {"changed": [], "left": []}
        change_keys(world, bob)
        world.settle()
        assert alice.changed_since(since) == [bob.user.user_id]

    def test_left_is_told_both_ways(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: both sides are told that they share no room any more."""
        room = world.share_room(alice.user, bob.user)
        world.settle()
        tokens = {client: client.token for client in (alice, bob)}
        world.leave(bob.user, room)
        assert alice.left_since(tokens[alice]) == [bob.user.user_id]
        assert bob.left_since(tokens[bob]) == [alice.user.user_id]

    def test_asking_twice_gives_the_same(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: with the same token, the same is told: an answer may have been lost."""
        room = world.share_room(alice.user, bob.user)
        world.settle()
        since = alice.token
        world.leave(bob.user, room)
        first = alice.sync(since)
        assert first["device_lists"]["left"] == [bob.user.user_id]
        assert alice.sync(since) == first

    def test_strangers_tell_nothing(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: of users with whom no room is shared nothing is told."""
        since = alice.token
        change_keys(world, bob)
        bob.set_up_identity()
        world.settle()
        assert alice.changed_since(since) == []
        assert alice.changes(since, alice.token).good == {"changed": [], "left": []}


class TestWhatIsAChange:
    @pytest.fixture
    def since(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> str:
        """The time when both are in one room, and know each other's devices."""
        world.share_room(alice.user, bob.user)
        world.settle()
        assert alice.devices_of(bob.user) == {"PHONE": bob.device_keys()}
        return alice.token

    def told(self, world: LocalWorld, alice: LocalClient, since: str) -> list[str]:
        """Return who changed, which ``/sync`` and ``/keys/changes`` must agree about."""
        world.settle()
        changed = alice.changed_since(since)
        assert alice.changes(since, alice.token).good == {"changed": changed, "left": []}
        return changed

    def test_other_keys(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, since: str) -> None:
        """Conformance: other keys of a device are a change, and are served from then on."""
        keys = change_keys(world, bob)
        assert self.told(world, alice, since) == [bob.user.user_id]
        assert alice.devices_of(bob.user) == {"PHONE": keys}

    def test_another_signature_alone(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, since: str) -> None:
        bob.set_up_identity()
        assert self.told(world, alice, since) == [bob.user.user_id]
        since = alice.token
        assert bob.upload_signatures(bob.user, {"PHONE": bob.user.sample.device("PHONE").to_json()}) == {}
        assert self.told(world, alice, since) == [bob.user.user_id]
        assert alice.devices_of(bob.user) == {"PHONE": bob.user.sample.device("PHONE").to_json()}

    def test_a_new_device(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, since: str) -> None:
        """Conformance: a device that logs in and uploads keys is a change; a query finds both devices."""
        other = bob.user.log_in("LAPTOP")
        other.publish()
        assert self.told(world, alice, since) == [bob.user.user_id]
        assert alice.devices_of(bob.user) == {"PHONE": bob.device_keys(), "LAPTOP": other.device_keys()}

    def test_a_new_device_without_keys(
        self, world: LocalWorld, alice: LocalClient, bob: LocalClient, since: str
    ) -> None:
        """Conformance: a new device is a change even before it has keys."""
        bob.user.log_in("LAPTOP")
        assert self.told(world, alice, since) == [bob.user.user_id]
        assert alice.devices_of(bob.user) == {"PHONE": bob.device_keys()}

    def test_a_deleted_device(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, since: str) -> None:
        """Conformance: a device that is deleted is a change, and is not served any more."""
        bob.log_out()
        assert self.told(world, alice, since) == [bob.user.user_id]
        assert alice.query_of(bob.user)["device_keys"] == {bob.user.user_id: {}}

    def test_another_name(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, since: str) -> None:
        """Conformance: another name of a device is a change, where it is told at all."""
        bob.rename("Bob's phone")
        assert self.told(world, alice, since) == ([] if bob.user.server else [bob.user.user_id])

    def test_another_identity(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, since: str) -> None:
        """Conformance: a master key or self-signing key is a change."""
        bob.set_up_identity()
        assert self.told(world, alice, since) == [bob.user.user_id]
        since = alice.token
        another = bob.user.identity(generation=1)
        assert bob.device_signing({**another, "auth": {"type": "m.login.password", "password": "secret"}}).good == {}
        assert self.told(world, alice, since) == [bob.user.user_id]
        assert alice.query_of(bob.user)["master_keys"] == {bob.user.user_id: another["master_key"]}

    def test_one_time_keys_are_none(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, since: str) -> None:
        bob.publish("1", "2")
        bob.upload({"fallback_keys": dict([bob.one_time_key("f", fallback=True)])})
        alice.claim_of(bob)
        assert self.told(world, alice, since) == []

    def test_several_of_several_users(
        self, world: LocalWorld, alice: LocalClient, bob: LocalClient, server: int, since: str
    ) -> None:
        carol = world.new_client("carol", server=server)
        world.share_room(alice.user, carol.user)
        world.settle()
        since = alice.token
        for _ in range(3):
            change_keys(world, bob)
            change_keys(world, carol)
        assert self.told(world, alice, since) == [bob.user.user_id, carol.user.user_id]


class TestNames:
    def test_another_name_reaches_other_servers_if_they_may_know_it(self) -> None:
        """Conformance: where other servers may know what devices are called, another name is a change for them."""
        world = LocalWorld(shows_display_names=True)
        alice, bob = world.new_client("alice"), world.new_client("bob", server=1)
        world.share_room(alice.user, bob.user)
        world.settle()
        since = alice.token
        bob.rename("Bob's phone")
        world.settle()
        assert alice.changed_since(since) == [bob.user.user_id]
        found = alice.query_of(bob.user)["device_keys"][bob.user.user_id]["PHONE"]
        assert found["unsigned"] == {"device_display_name": "Bob's phone"}


class TestOneself:
    def test_a_new_device_of_mine(self, world: LocalWorld) -> None:
        """Conformance: my other devices are told of a new one, although I am in no room."""
        alice = world.new_client("alice")
        since = alice.token
        alice.user.log_in("LAPTOP").publish()
        assert alice.changed_since(since) == [alice.user.user_id]
        assert alice.changes(since, alice.token).good == {"changed": [alice.user.user_id], "left": []}
        assert sorted(alice.devices_of(alice.user)) == ["LAPTOP", "PHONE"]

    def test_what_i_do_myself(self, world: LocalWorld) -> None:
        """Conformance: changes of my own are told to me, with rooms and without."""
        alice = world.new_client("alice")
        for act in (
            lambda: change_keys(world, alice),
            lambda: alice.rename("Mine"),
            alice.set_up_identity,
            alice.user.log_in("LAPTOP").log_out,
        ):
            since = alice.token
            act()
            assert alice.changed_since(since) == [alice.user.user_id]

    def test_i_am_never_left(self, world: LocalWorld) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob")
        room = world.share_room(alice.user, bob.user)
        since = alice.token
        world.leave(alice.user, room)
        assert alice.left_since(since) == [bob.user.user_id]


class TestTheNetFails:
    @pytest.fixture
    def there(self, world: LocalWorld) -> LocalClient:
        return world.new_client("bob", server=1)

    def test_the_server_that_is_to_be_told_is_down(
        self, world: LocalWorld, alice: LocalClient, there: LocalClient
    ) -> None:
        """Conformance: what changes while the other server cannot be reached is told when it can, and that soon."""
        world.share_room(alice.user, there.user)
        world.settle()
        since = alice.token
        world.down(0)
        other = there.user.log_in("LAPTOP")
        other.publish()
        world.settle()
        world.up(0)
        world.later(60_000)
        world.settle()
        assert alice.changed_since(since) == [there.user.user_id]
        assert sorted(alice.devices_of(there.user)) == ["LAPTOP", "PHONE"]

    @pytest.mark.parametrize("restarted", [(0,), (1,), (0, 1)])
    def test_servers_start_again(
        self, world: LocalWorld, alice: LocalClient, there: LocalClient, restarted: tuple[int, ...]
    ) -> None:
        """Conformance: whichever server starts again before it was told or has told, the change gets through."""
        world.share_room(alice.user, there.user)
        world.settle()
        since = alice.token
        world.down(0)
        there.user.log_in("LAPTOP").publish()
        world.settle()
        for server in restarted:
            world.restart(server)
        world.up(0)
        world.later(3_600_000)
        world.settle()
        assert alice.changed_since(since) == [there.user.user_id]
        assert sorted(alice.devices_of(there.user)) == ["LAPTOP", "PHONE"]
        since = alice.token
        there.log_out()
        world.settle()
        assert alice.changed_since(since) == [there.user.user_id]
        assert list(alice.devices_of(there.user)) == ["LAPTOP"]

    def test_what_was_known_is_served_while_the_server_is_down(
        self, world: LocalWorld, alice: LocalClient, there: LocalClient
    ) -> None:
        """Conformance: keys that are known are served while their server is down, and no failure is told."""
        world.share_room(alice.user, there.user)
        world.settle()
        before = alice.query_of(there.user)
        world.down(1)
        assert alice.query_of(there.user) == before
        assert before["failures"] == {}
        world.up(1)

    def test_strangers_cannot_be_asked_for_while_their_server_is_down(
        self, world: LocalWorld, alice: LocalClient, there: LocalClient
    ) -> None:
        """Conformance: a server that cannot be reached is named as failed, by queries and claims."""
        there.upload({"one_time_keys": there.one_time_keys("1")})
        world.down(1)
        queried = alice.query_of(there.user)
        claims = {there.user.user_id: {"PHONE": "signed_curve25519"}, alice.user.user_id: {"PHONE": "other"}}
        claimed = alice.claim({"one_time_keys": claims}).good
        for answer in (queried, claimed):
            assert answer["failures"][SERVERS[1]]["status"] == 503
        assert queried["device_keys"] == {}
        assert claimed["one_time_keys"] == {}
        world.up(1)
        assert alice.devices_of(there.user) == {"PHONE": there.device_keys()}
        assert alice.claim_of(there) == there.one_time_keys("1")

    def test_a_server_that_is_nowhere(self, world: LocalWorld, alice: LocalClient) -> None:
        answer = alice.query({"device_keys": {"@x:nowhere.example": [], alice.user.user_id: []}}).good
        assert list(answer["failures"]) == ["nowhere.example"]
        assert list(answer["device_keys"]) == [alice.user.user_id]

    def test_messages_wait_too(self, world: LocalWorld, alice: LocalClient, there: LocalClient) -> None:
        world.down(1)
        alice.send_to_device("m.test", {there.user.user_id: {"PHONE": {}}}, txn_id="1")
        world.settle()
        world.restart(0)
        world.up(1)
        world.later(60_000)
        world.settle()
        assert len(there.sync()["to_device"]["events"]) == 1


class TestThreeServers:
    def test_all_who_share_a_room_are_told_and_nobody_else(self, world: LocalWorld) -> None:
        """Conformance: a change reaches every server in the rooms of the user, also one that came in last."""
        users = [world.new_client(f"user{server}", server=server) for server in range(3)]
        stranger = world.new_client("stranger", server=1)
        room = world.share_room(users[0].user, users[1].user)
        world.settle()
        world.join(users[2].user, room)
        world.settle()
        tokens = {client: client.token for client in (*users, stranger)}
        keys = change_keys(world, users[0])
        world.settle()
        for client in users:
            assert client.changed_since(tokens[client]) == [users[0].user.user_id]
            assert client.devices_of(users[0].user) == {"PHONE": keys}
        assert stranger.changed_since(tokens[stranger]) == []

    def test_who_has_left_is_not_told_and_who_comes_back_catches_up(self, world: LocalWorld) -> None:
        """Conformance: a server whose users are all gone is told nothing more; back again, it catches up."""
        users = [world.new_client(f"user{server}", server=server) for server in range(3)]
        room = world.share_room(*(client.user for client in users))
        world.settle()
        world.leave(users[2].user, room)
        world.settle()
        since = users[2].token
        keys = change_keys(world, users[0])
        world.settle()
        assert users[2].changed_since(since) == []
        assert users[1].devices_of(users[0].user) == {"PHONE": keys}
        world.join(users[2].user, room)
        world.settle()
        assert users[0].user.user_id in users[2].changed_since(since)
        assert users[2].devices_of(users[0].user) == {"PHONE": keys}

    def test_a_third_party_knows_who_asks(self, world: LocalWorld) -> None:
        """Users of each server can ask about users of each other one, in any order."""
        users = [world.new_client(f"user{server}", server=server) for server in range(3)]
        for asker in users:
            answer = asker.query_of(*(client.user for client in users))
            assert answer["failures"] == {}
            assert set(answer["device_keys"]) == {client.user.user_id for client in users}


class TestWhoMayAskForChanges:
    def test_nobody_who_is_not_logged_in(self, alice: LocalClient) -> None:
        request = http("GET", "/_matrix/client/v3/keys/changes", query="from=s0&to=s0")
        nobody = Requester(user_id="@nobody:one.example", device_id="PHONE")
        assert alice.ask_as(nobody, request).error == (401, "M_UNKNOWN_TOKEN")
        assert alice.ask(request).status == 200
