"""Conformance: what servers ask and tell each other. The other server is played by the test.

Not played: which servers are thought to be in a room before its state is known, since a directory knows it; the older
name of ``m.signing_key_update``; a stream in which that update has a number, since it has none in the specification.
"""

from __future__ import annotations

import pytest

from homeserver.directory.servers import HOUR_MS, Client, Json, LocalClient, LocalWorld, Peer, User, device_edu, without
from matrix_e2e_keys import HttpRequest
from matrix_e2e_keys.homeserver.directory.values import ServerRequest
from matrix_e2e_keys.homeserver.federation_auth.authorization import sign_request
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    return world.new_client("alice")


@pytest.fixture
def peer(world: LocalWorld) -> Peer:
    return Peer(world)


class Foreigner(User):
    """A user of a peer, for a world to let in and out of rooms."""

    def __init__(self, sample: SampleUser) -> None:
        super().__init__(sample.user_id, -1)

    def log_in(self, device_id: str, *, display_name: str | None = None) -> Client:
        raise NotImplementedError


@pytest.fixture
def eve(peer: Peer) -> SampleUser:
    """A user of the peer."""
    return peer.user("eve")


def device(user: SampleUser, name: str, **extra: object) -> Json:
    return user.device(name, cross_signed=False, extra=extra or None).to_json()


def update(user: SampleUser, name: str, stream_id: int, prev_id: list[int], **extra: object) -> Json:
    """Return the EDU about other keys of a device."""
    return device_edu(user, name, stream_id, prev_id, keys=device(user, name, **extra))


def identity_edu(user: SampleUser, **members: object) -> Json:
    return {"edu_type": "m.signing_key_update", "content": {"user_id": user.user_id, **members}}


def in_one_room(world: LocalWorld, client: LocalClient, user: SampleUser) -> str:
    room = world.share_room(client.user, Foreigner(user))
    world.settle()
    return room


def devices_of(client: LocalClient, user: SampleUser) -> Json:
    answer = client.query({"device_keys": {user.user_id: []}}).good
    return {name: without(keys, "unsigned") for name, keys in answer["device_keys"].get(user.user_id, {}).items()}


class TestWhatOthersAsk:
    def test_keys(self, alice: LocalClient, peer: Peer) -> None:
        """Conformance: a query answers with devices and identities, and with nothing that is the user's own."""
        alice.set_up_identity()
        answer = peer.query({alice.user.user_id: []}).good
        found = answer["device_keys"][alice.user.user_id]["PHONE"]
        assert without(found, "unsigned") == alice.device_keys()
        identity = alice.user.identity()
        assert answer["master_keys"] == {alice.user.user_id: identity["master_key"]}
        assert answer["self_signing_keys"] == {alice.user.user_id: identity["self_signing_key"]}
        assert "user_signing_keys" not in answer
        assert "failures" not in answer

    def test_all_devices(self, alice: LocalClient, peer: Peer) -> None:
        """Conformance: all devices are told with a number, and the identity in members of its own."""
        alice.set_up_identity()
        alice.user.log_in("LAPTOP")
        body = peer.devices(alice.user.user_id).good
        assert body["user_id"] == alice.user.user_id
        assert type(body["stream_id"]) is int
        identity = alice.user.identity()
        assert (body["master_key"], body["self_signing_key"]) == (identity["master_key"], identity["self_signing_key"])
        devices = {entry["device_id"]: entry for entry in body["devices"]}
        assert devices["PHONE"]["keys"] == alice.device_keys()
        assert all("device_display_name" not in entry for entry in devices.values())

    def test_a_one_time_key(self, alice: LocalClient, peer: Peer) -> None:
        """Conformance: a key is claimed once, then the user is left out."""
        alice.upload({"one_time_keys": alice.one_time_keys("1")})
        wanted = {alice.user.user_id: {"PHONE": "signed_curve25519"}}
        assert peer.claim(wanted).good == {"one_time_keys": {alice.user.user_id: {"PHONE": alice.one_time_keys("1")}}}
        assert peer.claim(wanted).good == {"one_time_keys": {}}

    def test_a_user_whom_nobody_knows(self, alice: LocalClient, peer: Peer) -> None:
        assert peer.query({"@nobody:one.example": []}).good["device_keys"] == {"@nobody:one.example": {}}
        assert peer.devices("@nobody:one.example").good["devices"] == []

    @pytest.mark.parametrize("user_id", ["@bob:two.example", "@eve:peer.example", "@x:one.example:8448"])
    def test_users_of_other_servers_are_none_of_this_one(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, user_id: str
    ) -> None:
        """Conformance: nobody is answered for but users of this server, whatever else is asked beside it."""
        world.new_client("bob", server=1)
        alice.upload({"one_time_keys": alice.one_time_keys("1")})
        own = alice.user.user_id
        for answer in (
            peer.query({own: [], user_id: []}),
            peer.claim({own: {"PHONE": "signed_curve25519"}, user_id: {"PHONE": "signed_curve25519"}}),
            peer.devices(user_id),
        ):
            assert answer == (400, {"errcode": "M_UNKNOWN", "error": "User is not hosted on this homeserver"})
        assert alice.upload({}).good == {"one_time_key_counts": {"signed_curve25519": 1}}

    def test_what_is_no_user(self, alice: LocalClient, peer: Peer) -> None:
        for answer in (peer.query({"nobody": []}), peer.claim({"nobody": {"PHONE": "x"}}), peer.devices("nobody")):
            assert answer.error == (400, "M_INVALID_PARAM")

    def test_signatures_of_others_are_not_told(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Conformance: nobody's user-signing key is seen at work on another server."""
        bob = world.new_client("bob")
        for client in (alice, bob):
            client.set_up_identity()
        key = bob.user.sample.verified(alice.user.sample.master_key).to_json()
        assert bob.upload_signatures(alice.user, {alice.user.master_name: key}) == {}
        identity = alice.user.identity()["master_key"]
        assert peer.query({alice.user.user_id: []}).good["master_keys"] == {alice.user.user_id: identity}
        assert peer.devices(alice.user.user_id).good["master_key"] == identity


class TestWhoAsks:
    def test_nobody(self, alice: LocalClient, peer: Peer) -> None:
        answer = peer.ask("GET", f"user/devices/{alice.user.user_id}", authorization=())
        assert answer == (401, {"errcode": "M_UNAUTHORIZED", "error": "Missing Authorization headers"})

    def test_a_malformed_header(self, alice: LocalClient, peer: Peer) -> None:
        answer = peer.ask("GET", "user/devices/x", authorization=['X-Matrix origin="peer.example"'])
        assert answer == (400, {"errcode": "M_UNAUTHORIZED", "error": "Malformed Authorization header"})

    def test_somebody_else(self, alice: LocalClient, peer: Peer) -> None:
        """Attack 53: who signs with other keys than those of the server he says he is gets nothing."""
        path = f"user/devices/{alice.user.user_id}"
        request = HttpRequest(method="GET", path=f"/_matrix/federation/v1/{path}")
        signer = sample_secret_key("thief").signer("ed25519:1")
        headers = sign_request(request, origin=peer.name, destination="one.example", signers=signer)
        assert peer.ask("GET", path, authorization=headers).error == (401, "M_UNAUTHORIZED")

    def test_somebody_who_signed_for_another_server(self, alice: LocalClient, peer: Peer) -> None:
        path = f"user/devices/{alice.user.user_id}"
        request = HttpRequest(method="GET", path=f"/_matrix/federation/v1/{path}")
        headers = sign_request(request, origin=peer.name, destination="two.example", signers=peer.signer)
        assert peer.ask("GET", path, authorization=headers).error == (401, "M_UNAUTHORIZED")

    def test_somebody_whose_keys_cannot_be_fetched(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        path = f"user/devices/{alice.user.user_id}"
        del world.peers[peer.name]
        assert peer.ask("GET", path).error == (401, "M_UNAUTHORIZED")
        world.peers[peer.name] = peer
        assert peer.ask("GET", path).error == (401, "M_UNAUTHORIZED")
        world.later(60_000)
        assert peer.ask("GET", path).status == 200

    def test_keys_that_are_too_old_are_fetched_again(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        assert peer.devices(alice.user.user_id).status == 200
        world.later(8 * 24 * HOUR_MS)
        assert peer.devices(alice.user.user_id).status == 200
        world.later(8 * 24 * HOUR_MS)
        del world.peers[peer.name]
        assert peer.devices(alice.user.user_id).error == (401, "M_UNAUTHORIZED")

    def test_anybody_may_ask_for_the_keys_of_the_server(self, world: LocalWorld) -> None:
        request = HttpRequest(method="GET", path="/_matrix/key/v2/server")
        exchange = world.directory(0).receive_server_request(request, now=world.now)
        assert exchange.response is not None
        assert exchange.response.status == 200

    def test_servers_do_not_ask_what_clients_ask(self, world: LocalWorld, peer: Peer) -> None:
        request = HttpRequest(method="POST", path="/_matrix/client/v3/keys/query", body=b"{}")
        exchange = world.directory(0).receive_server_request(request, now=world.now)
        assert exchange.response is not None
        assert exchange.response.status == 404


class TestWhatOthersTell:
    """Device lists of a user of the peer, as told in transactions."""

    @pytest.fixture
    def known(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> str:
        """One device is known, as number 5; both are in one room."""
        peer.answers_devices(eve, 5, [device(eve, "ONE")])
        in_one_room(world, alice, eve)
        assert devices_of(alice, eve) == {"ONE": device(eve, "ONE")}
        peer.asked.clear()
        return alice.token

    def test_the_first_query_fetches_all_devices(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """Conformance: of a user in a room all devices are asked for once, and then served without asking."""
        peer.answers_devices(eve, 5, [device(eve, "ONE"), device(eve, "TWO")])
        in_one_room(world, alice, eve)
        for _ in range(2):
            assert devices_of(alice, eve) == {"ONE": device(eve, "ONE"), "TWO": device(eve, "TWO")}
        assert peer.asked_paths.count("user/devices/%40eve%3Apeer.example") == 1
        assert "user/keys/query" not in peer.asked_paths

    @pytest.mark.parametrize("names", [[], ["ONE"], ["ONE", "TWO"]])
    def test_what_is_known_is_served(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser, names: list[str]
    ) -> None:
        """Conformance: of a user with no, one or two devices each query is answered from what is known, be it about
        all devices or about one, with the identity beside them.
        """
        identity = {"master_key": eve.master_key.to_json(), "self_signing_key": eve.self_signing_key.to_json()}
        peer.answers_devices(eve, 5, [device(eve, name) for name in names], **identity)
        in_one_room(world, alice, eve)
        peer.asked.clear()
        for asked in ([], ["ONE"]):
            answer = alice.query({"device_keys": {eve.user_id: asked}}).good
            expected = [name for name in names if not asked or name in asked]
            assert sorted(answer["device_keys"].get(eve.user_id, {})) == expected
            assert answer["master_keys"] == {eve.user_id: identity["master_key"]}
            assert answer["failures"] == {}
        assert peer.asked == []

    def test_an_update_that_joins_what_is_known(
        self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str
    ) -> None:
        """Conformance: an update is taken over without asking; its name for the device as well."""
        keys = device(eve, "ONE", version=2)
        peer.tell(device_edu(eve, "ONE", 6, [5], keys=keys, device_display_name="Eve's"))
        assert alice.changed_since(known) == [eve.user_id]
        answer = alice.query({"device_keys": {eve.user_id: []}}).good["device_keys"][eve.user_id]
        assert answer == {"ONE": {**keys, "unsigned": {"device_display_name": "Eve's"}}}
        assert peer.asked == []

    def test_several_in_one_transaction(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str) -> None:
        peer.tell(update(eve, "TWO", 6, [5]), update(eve, "THREE", 8, [6]), update(eve, "ONE", 9, [8], version=2))
        assert sorted(devices_of(alice, eve)) == ["ONE", "THREE", "TWO"]
        assert peer.asked == []

    def test_an_update_that_was_lost(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str) -> None:
        """Conformance: an update that refers to one that was never seen makes all devices be asked for."""
        peer.answers_devices(eve, 8, [device(eve, "ONE", version=2), device(eve, "TWO")])
        peer.tell(update(eve, "TWO", 8, [7]))
        assert peer.asked_paths == ["user/devices/%40eve%3Apeer.example"]
        assert alice.changed_since(known) == [eve.user_id]
        assert devices_of(alice, eve) == {"ONE": device(eve, "ONE", version=2), "TWO": device(eve, "TWO")}

    def test_a_gap_in_the_numbers(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str) -> None:
        """Conformance: if the number of the update before is one too far ahead, all devices are asked for."""
        peer.answers_devices(eve, 7, [device(eve, "TWO")])
        peer.tell(update(eve, "TWO", 7, [6]))
        assert devices_of(alice, eve) == {"TWO": device(eve, "TWO")}
        assert peer.asked_paths == ["user/devices/%40eve%3Apeer.example"]

    def test_no_update_before(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str) -> None:
        peer.answers_devices(eve, 9, [device(eve, "TWO")])
        peer.tell(device_edu(eve, "TWO", 9))
        assert devices_of(alice, eve) == {"TWO": device(eve, "TWO")}

    def test_a_device_that_is_gone(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str) -> None:
        """Conformance: a device that is told to be deleted is served no more."""
        peer.tell(device_edu(eve, "ONE", 6, [5], deleted=True))
        assert alice.changed_since(known) == [eve.user_id]
        assert devices_of(alice, eve) == {}
        assert peer.asked == []

    def test_the_server_cannot_be_asked_at_first(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser, known: str
    ) -> None:
        """Conformance: what is known to be out of date is asked for again after 30 seconds; until then what is known
        is served.
        """
        peer.answers.clear()
        peer.tell(update(eve, "TWO", 8, [7]))
        assert peer.asked_paths == ["user/devices/%40eve%3Apeer.example"]
        assert devices_of(alice, eve) == {"ONE": device(eve, "ONE")}
        peer.asked.clear()
        peer.answers_devices(eve, 8, [device(eve, "TWO")])
        world.later(29_000)
        world.settle()
        assert peer.asked == []
        world.later(2_000)
        world.settle()
        assert devices_of(alice, eve) == {"TWO": device(eve, "TWO")}
        assert alice.changed_since(known) == [eve.user_id]

    @pytest.mark.parametrize("status", [400, 404, 500, 503])
    def test_the_server_refuses(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str, status: int) -> None:
        """Conformance: while the server answers with errors, what is known is served, and there are no failures."""
        refusal = (status, {"errcode": "M_UNKNOWN", "error": "no"})
        peer.answers = dict.fromkeys((*peer.answers, "/_matrix/federation/v1/user/keys/query"), refusal)
        peer.tell(update(eve, "TWO", 8, [7]))
        answer = alice.query({"device_keys": {eve.user_id: []}}).good
        assert list(answer["device_keys"][eve.user_id]) == ["ONE"]
        assert answer["failures"] == {}

    def test_a_new_identity(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str) -> None:
        """Conformance: an identity that is told, or found with the devices, is served."""
        keys = {"master_key": eve.master_key.to_json(), "self_signing_key": eve.self_signing_key.to_json()}
        peer.tell(identity_edu(eve, **keys))
        assert alice.changed_since(known) == [eve.user_id]
        answer = alice.query({"device_keys": {eve.user_id: []}}).good
        assert answer["master_keys"] == {eve.user_id: keys["master_key"]}
        assert answer["self_signing_keys"] == {eve.user_id: keys["self_signing_key"]}
        since = alice.token
        other = SampleUser(eve.user_id, 1)
        keys = {"master_key": other.master_key.to_json(), "self_signing_key": other.self_signing_key.to_json()}
        peer.answers_devices(eve, 8, [device(eve, "ONE")], **keys)
        peer.tell(update(eve, "ONE", 8, [7]))
        assert alice.changed_since(since) == [eve.user_id]
        assert alice.query({"device_keys": {eve.user_id: []}}).good["master_keys"] == {eve.user_id: keys["master_key"]}

    def test_a_user_who_left_and_came_back(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """Conformance: who comes back is asked about again, and served as he is now."""
        peer.answers_devices(eve, 5, [device(eve, "ONE")])
        room = in_one_room(world, alice, eve)
        world.leave(Foreigner(eve), room)
        world.settle()
        since = alice.token
        peer.tell(update(eve, "ONE", 6, [5], version=2))
        assert alice.changed_since(since) == []
        peer.answers_devices(eve, 7, [device(eve, "TWO")])
        world.join(Foreigner(eve), room)
        world.settle()
        assert alice.changed_since(since) == [eve.user_id]
        assert devices_of(alice, eve) == {"TWO": device(eve, "TWO")}

    def test_nothing_is_kept_of_strangers(self, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        """Conformance: updates about users who share no room are nobody's business."""
        since = alice.token
        peer.tell(update(eve, "ONE", 6, [5]))
        assert peer.asked == []
        assert alice.changed_since(since) == []

    def test_a_server_speaks_for_its_own_users_only(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser, known: str
    ) -> None:
        """Attack 53: what a server tells of users of others is ignored."""
        thief = Peer(world, "thief.example")
        bob = world.new_client("bob")
        thief.tell(
            device_edu(eve, "ONE", 6, [5], deleted=True),
            identity_edu(eve, master_key=eve.master_key.to_json()),
            device_edu(bob.user.sample, "PHONE", 6, deleted=True),
        )
        assert devices_of(alice, eve) == {"ONE": device(eve, "ONE")}
        assert devices_of(alice, bob.user.sample) == {"PHONE": bob.device_keys()}
        assert peer.asked == []

    def test_edus_that_are_none_do_no_harm(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str) -> None:
        """Attack 52: what cannot be read is passed over, and what stands beside it counts."""
        peer.tell(
            {"edu_type": "m.device_list_update", "content": {}},
            {"edu_type": "m.device_list_update"},
            {"edu_type": "m.typing", "content": {"room_id": 7}},
            update(eve, "TWO", 6, [5]),
        )
        assert sorted(devices_of(alice, eve)) == ["ONE", "TWO"]

    def test_a_user_who_cannot_be_asked_about_delays_nobody_else(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser, known: str
    ) -> None:
        zoe = peer.user("zoe")
        peer.answers_devices(zoe, 5, [])
        in_one_room(world, alice, zoe)
        path = next(path for path in peer.answers if "eve" in path)
        peer.answers[path] = (404, {"errcode": "M_NOT_FOUND"})
        peer.tell(update(eve, "ONE", 9, [8]))
        peer.answers_devices(zoe, 9, [device(zoe, "TWO")])
        peer.asked.clear()
        peer.tell(update(zoe, "TWO", 9, [8]))
        assert peer.asked_paths == ["user/devices/%40zoe%3Apeer.example"]
        assert devices_of(alice, zoe) == {"TWO": device(zoe, "TWO")}

    def test_malformed_keys_make_it_ask(self, alice: LocalClient, peer: Peer, eve: SampleUser, known: str) -> None:
        peer.answers_devices(eve, 6, [device(eve, "TWO")])
        peer.tell(device_edu(eve, "TWO", 6, [5], keys={"user_id": eve.user_id, "device_id": "OTHER"}))
        assert devices_of(alice, eve) == {"TWO": device(eve, "TWO")}

    def test_messages_to_devices(self, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        content: Json = {
            "sender": eve.user_id,
            "type": "m.test",
            "message_id": "1",
            "messages": {alice.user.user_id: {"PHONE": {"n": 1}, "GONE": {}}, "@nobody:one.example": {"X": {}}},
        }
        for _ in range(2):
            peer.tell({"edu_type": "m.direct_to_device", "content": content})
        spoofed = {**content, "sender": "@bob:two.example", "message_id": "2"}
        peer.tell({"edu_type": "m.direct_to_device", "content": spoofed})
        events = alice.sync()["to_device"]["events"]
        assert events == [{"sender": eve.user_id, "type": "m.test", "content": {"n": 1}}]


class TestWhatOthersAreTold:
    """Device lists of a user of this server, as told to the peer."""

    @pytest.fixture(autouse=True)
    def _in_one_room(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        peer.answers_devices(eve, 1, [])
        in_one_room(world, alice, eve)

    def stream_ids(self, edus: list[Json]) -> list[tuple[int, list[int]]]:
        return [(edu["stream_id"], edu["prev_id"]) for edu in edus]

    def test_the_devices_there_are_when_a_room_is_shared(self, alice: LocalClient, peer: Peer) -> None:
        """Conformance: a server that comes into a room is told of the devices there are, so that it asks."""
        assert [edu["device_id"] for edu in peer.updates(alice.user)] == ["PHONE"]
        assert peer.updates(alice.user)[0]["prev_id"] == []

    def test_the_identity_there_is_when_a_room_is_shared(
        self, world: LocalWorld, alice: LocalClient, peer: Peer
    ) -> None:
        """Conformance: a server that comes into a room is told of the identity there is."""
        alice.set_up_identity()
        world.settle()
        late = Peer(world, "late.example")
        late.answers_devices(late.user("eve"), 1, [])
        in_one_room(world, alice, late.user("eve"))
        expected = without({"user_id": alice.user.user_id, **alice.user.identity()}, "user_signing_key")
        assert late.identities(alice.user) == [expected]

    def test_a_peer_that_speaks_is_told_at_once(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Conformance: who asks for something is there, and gets what waits for him."""
        del world.peers[peer.name]
        alice.rename("x")
        world.settle()
        world.peers[peer.name] = peer
        peer.edus.clear()
        world.settle()
        assert peer.edus == []
        assert peer.query({alice.user.user_id: []}).status == 200
        world.settle()
        assert [edu["device_id"] for edu in peer.updates(alice.user)] == ["PHONE"]

    def test_each_change_once_and_in_a_chain(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Conformance: each change of a device is told once, with the number of the one before."""
        peer.edus.clear()
        last = peer.devices(alice.user.user_id).good["stream_id"]
        for version in range(3):
            alice.upload({"device_keys": alice.device_keys(version=version)})
            world.settle()
        edus = peer.updates(alice.user)
        assert [edu["keys"]["version"] for edu in edus] == [0, 1, 2]
        for edu in edus:
            assert edu["prev_id"] == [last]
            assert edu["stream_id"] > last
            last = edu["stream_id"]
        assert peer.devices(alice.user.user_id).good["stream_id"] == last

    def test_each_user_has_a_chain(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        """Conformance: the updates of two users do not refer to each other, also if they take turns."""
        bob = world.new_client("bob")
        in_one_room(world, bob, eve)
        for client in (alice, bob, alice, bob):
            client.upload({"device_keys": client.device_keys(version=world.now)})
            world.later(1)
            world.settle()
        for client in (alice, bob):
            chain = self.stream_ids(peer.updates(client.user))
            assert [prev for _, prev in chain] == [[], *([number] for number, _ in chain[:-1])]

    def test_a_device_that_is_gone(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Conformance: a deleted device is told as such, without keys."""
        peer.edus.clear()
        alice.log_out()
        world.settle()
        (edu,) = peer.updates(alice.user)
        assert (edu["device_id"], edu["deleted"], "keys" in edu) == ("PHONE", True, False)

    def test_an_identity_and_what_it_signs(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Conformance: the master key and the self-signing key are told at once, and the devices that are signed
        each on its own, with the signature; the chain goes on as if nothing had been between.
        """
        laptop = alice.user.log_in("LAPTOP")
        laptop.publish()
        world.settle()
        last = peer.devices(alice.user.user_id).good["stream_id"]
        peer.edus.clear()
        alice.set_up_identity()
        world.settle()
        identity = alice.user.identity()
        assert peer.identities(alice.user) == [without({"user_id": alice.user.user_id, **identity}, "user_signing_key")]
        assert peer.updates(alice.user) == []
        signed = {name: alice.user.sample.device(name).to_json() for name in ("PHONE", "LAPTOP")}
        assert alice.upload_signatures(alice.user, signed) == {}
        world.settle()
        edus = peer.updates(alice.user)
        assert {edu["device_id"]: edu["keys"] for edu in edus} == signed
        assert edus[0]["prev_id"] == [last]
        assert edus[1]["prev_id"] == [edus[0]["stream_id"]]

    def test_a_peer_that_was_away(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Conformance: a server that was away is told of every device once, the newest keys."""
        peer.edus.clear()
        del world.peers[peer.name]
        for version in range(3):
            alice.upload({"device_keys": alice.device_keys(version=version)})
            world.settle()
        alice.user.log_in("LAPTOP").publish()
        world.peers[peer.name] = peer
        world.later(HOUR_MS)
        world.settle()
        edus = peer.updates(alice.user)
        newest = {edu["device_id"]: edu for edu in edus}
        assert newest["PHONE"]["keys"]["version"] == 2
        assert "keys" in newest["LAPTOP"]
        assert len(edus) <= 3  # what was on its way already, and one for each device

    @pytest.mark.parametrize("was_reached", [False, True])
    def test_a_peer_that_was_away_for_days(self, world: LocalWorld, alice: LocalClient, was_reached: bool) -> None:
        """Conformance: a server that was away for long, or was never reached, is told one thing of each user, and to
        ask for the rest.
        """
        late = Peer(world, "late.example")
        eve = late.user("eve")
        late.answers_devices(eve, 1, [])
        if was_reached:
            in_one_room(world, alice, eve)
        del world.peers[late.name]
        in_one_room(world, alice, eve)
        for name in ("A", "B", "C"):
            alice.user.log_in(name).publish()
            world.settle()
        late.edus.clear()
        world.peers[late.name] = late
        world.later(3 * 24 * HOUR_MS)
        world.settle()
        told = late.updates(alice.user)
        assert told[-1]["prev_id"] == []
        assert len(told) <= 2  # what was on its way before, and one thing more
        devices = late.devices(alice.user.user_id).good["devices"]
        assert sorted(entry["device_id"] for entry in devices) == ["A", "B", "C", "PHONE"]

    def test_not_of_users_of_others(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        """Conformance: a server tells of its own users only."""
        peer.edus.clear()
        third = Peer(world, "third.example")
        third.answers_devices(third.user("zoe"), 1, [])
        world.share_room(alice.user, Foreigner(eve), Foreigner(third.user("zoe")))
        world.settle()
        third.edus.clear()
        peer.tell(update(eve, "ONE", 6, [1]))
        assert third.edus == []

    def test_transactions_hold_a_hundred_edus(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Conformance: more changes than one transaction may hold go out in several, none lost and none twice."""
        peer.edus.clear()
        peer.asked.clear()
        for number in range(150):
            alice.user.log_in(f"D{number}")
        alice.set_up_identity()
        world.settle()
        sizes = [len(body["edus"]) for _, path, body in peer.asked if "/send/" in path]
        assert max(sizes) <= 100
        assert len({edu["device_id"] for edu in peer.updates(alice.user)}) == 150
        assert len(peer.identities(alice.user)) == 1

    def test_what_failed_is_sent_again_as_it_was(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Conformance: a transaction that may have arrived is repeated under the same name."""
        peer.asked.clear()
        del world.peers[peer.name]
        alice.rename("x")
        directory = world.directory(0)
        request = directory.next_request(now=world.now)
        assert request is not None
        assert (request.server_name, request.timeout_ms) == (peer.name, 10_000)
        directory.receive_answer(request, None, now=world.now)
        assert directory.next_request(now=world.now) is None
        wake = directory.next_wake_at(now=world.now)
        assert wake is not None
        assert wake > world.now
        again = directory.next_request(now=wake)
        assert again is not None
        assert (again.request.path, again.request.body) == (request.request.path, request.request.body)


class TestAnswersThatComeLate:
    def test_the_answer_to_a_question_of_before_is_not_that_to_the_one_now(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """Somebody leaves and comes back while the server is asked about him: what it says of before does not count."""
        directory = world.directory(0)
        room = world.share_room(alice.user, Foreigner(eve))
        requests = []
        for _ in range(2):
            requests += self.resyncs(world)
            world.leave(Foreigner(eve), room)
            world.join(Foreigner(eve), room)
        assert len(requests) == 2
        for request, name in zip(requests, ("OLD", "NEW"), strict=True):
            peer.answers_devices(eve, 5, [device(eve, name)])
            directory.receive_answer(request, peer.answer(request), now=world.now)
        peer.answers.clear()
        requests = self.resyncs(world)  # it may ask once more, but not take the old for the new
        assert devices_of(alice, eve) != {"OLD": device(eve, "OLD")}

    def resyncs(self, world: LocalWorld) -> list[ServerRequest]:
        found = []
        while (request := world.directory(0).next_request(now=world.now)) is not None:
            if "/user/devices/" in request.request.path:
                found.append(request)
            else:
                world.directory(0).receive_answer(request, world.sent(request), now=world.now)
        return found

    def test_an_answer_that_comes_twice_counts_once(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """What is on its way now is not delivered because something before it was."""
        directory = world.directory(0)
        peer.answers_devices(eve, 5, [])
        in_one_room(world, alice, eve)
        alice.send_to_device("m.test", {eve.user_id: {"X": {"n": 1}}}, txn_id="1")
        first = directory.next_request(now=world.now)
        assert first is not None
        answer = peer.answer(first)
        directory.receive_answer(first, answer, now=world.now)
        alice.send_to_device("m.test", {eve.user_id: {"X": {"n": 2}}}, txn_id="2")
        second = directory.next_request(now=world.now)
        assert second is not None
        directory.receive_answer(first, answer, now=world.now)
        directory.receive_answer(second, None, now=world.now)
        world.later(60_000)
        world.settle()
        contents = [edu["content"]["messages"] for edu in peer.edus if edu["edu_type"] == "m.direct_to_device"]
        assert contents == [{eve.user_id: {"X": {"n": 1}}}, {eve.user_id: {"X": {"n": 2}}}]


class TestAUserOfThePeerWithoutARoom:
    def test_is_asked_about_each_time(self, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        """Conformance: of strangers nothing is kept; each query goes to their server, one for all of them."""
        zoe = peer.user("zoe")
        peer.answers_query(
            device_keys={eve.user_id: {"ONE": device(eve, "ONE")}, zoe.user_id: {"TWO": device(zoe, "TWO")}}
        )
        for _ in range(2):
            body = {"device_keys": {eve.user_id: [], zoe.user_id: ["TWO"]}, "timeout": 5000}
            answer = alice.query(body).good
            assert sorted(answer["device_keys"]) == [eve.user_id, zoe.user_id]
        asked = [body for _, path, body in peer.asked if path.endswith("user/keys/query")]
        assert asked == [{"device_keys": {eve.user_id: [], zoe.user_id: ["TWO"]}}] * 2

    def test_is_claimed_from(self, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        key = eve.one_time_key("ONE", "1")
        found = {eve.user_id: {"ONE": {str(key.key_id): key.to_json()}}}
        peer.answers_claim(found)
        wanted = {eve.user_id: {"ONE": "signed_curve25519"}}
        assert alice.claim({"one_time_keys": wanted}).good == {"one_time_keys": found, "failures": {}}
        assert [body for _, _, body in peer.asked] == [{"one_time_keys": wanted}]
