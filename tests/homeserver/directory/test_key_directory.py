"""The directory itself: who is there, what comes in, what goes out, and what it is after a restart."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.directory.servers import (
    HOUR_MS,
    PASSWORD,
    LocalClient,
    LocalWorld,
    Peer,
    answer_of,
    device_edu,
    http,
)
from matrix_e2e_keys import (
    E2EKeysError,
    HttpRequest,
    HttpResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    ServerKeysResponse,
)
from matrix_e2e_keys.homeserver import COMPAT, KeyDirectory, Requester, ServerRequest
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

NOW = 1_700_000_000_000
SIGNER = sample_secret_key("a.example").signer("ed25519:1")
ALICE = "@alice:a.example"
ROOM = "!room:a.example"
DAY_MS = 24 * HOUR_MS
NOTHING = HttpResponse(status=200, body=b'{"pdus":{}}')
ANYTHING = json_like_values() | st.sampled_from([b"", object(), "@alice:one.example", "!room:one.example", NOTHING])


@pytest.fixture
def directory() -> KeyDirectory:
    return KeyDirectory.create("a.example", signers=SIGNER)


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    return world.new_client("alice")


@pytest.fixture
def peer(world: LocalWorld) -> Peer:
    return Peer(world)


@pytest.fixture
def eve(world: LocalWorld, alice: LocalClient, peer: Peer) -> SampleUser:
    """A user of the peer, in a room with Alice. The peer has not been asked about her yet."""
    eve = peer.user("eve")
    for user_id in (alice.user.user_id, eve.user_id):
        world.directory(0).join(user_id, "!there:peer.example", now=world.now)
    return eve


def reason(caught: pytest.ExceptionInfo[LocalProtocolError]) -> tuple[Reason, str | None]:
    return caught.value.reason, caught.value.path


class TestMaking:
    def test_nobody_is_there(self, directory: KeyDirectory) -> None:
        assert directory.server_name == "a.example"
        assert directory.user_ids == frozenset()
        assert directory.user(ALICE) is None
        assert directory.next_request(now=NOW) is None
        assert directory.next_wake_at(now=NOW) is None
        assert repr(directory) == "<KeyDirectory of 'a.example', 0 users>"

    def test_it_is_made_by_its_constructors_only(self) -> None:
        with pytest.raises(LocalProtocolError):
            KeyDirectory()

    @pytest.mark.parametrize(
        ("given", "path"),
        [
            ({"server_name": "no server"}, "/server_name"),
            ({"server_name": 5}, "/server_name"),
            ({"signers": 5}, None),
            ({"signers": [5]}, None),
            ({"signers": []}, "/signers"),
            ({"policy": "spec"}, "/policy"),
            ({"authenticate": True}, "/authenticate"),
            ({"verifier": 5}, None),
        ],
    )
    def test_wrong_arguments(self, given: Any, path: str | None) -> None:
        name = given.get("server_name", "a.example")
        options = {"signers": SIGNER, **{it: given[it] for it in given if it != "server_name"}}
        state = {**KeyDirectory.create("a.example", signers=SIGNER).to_json(), "server_name": name}
        for make in (KeyDirectory.create, KeyDirectory.from_json):
            with pytest.raises(LocalProtocolError) as caught:
                make(name if make == KeyDirectory.create else state, **options)
            assert path in (None, caught.value.path)

    def test_several_keys_sign(self) -> None:
        signers = [SIGNER, sample_secret_key("other").signer("ed25519:2")]
        directory = KeyDirectory.create("a.example", signers=iter(signers))
        keys = directory.server_keys(now=NOW)
        assert set(keys.verify(server_name="a.example").verify_keys) == {"ed25519:1", "ed25519:2"}
        assert keys.valid_until_ts == NOW + DAY_MS


class TestWhoIsThere:
    def test_a_device_logs_in(self, directory: KeyDirectory) -> None:
        directory.log_in(ALICE, "PHONE", display_name="hers", now=NOW)
        assert directory.user_ids == {ALICE}
        user = directory.user(ALICE)
        assert user is not None
        assert {name: device.display_name for name, device in user.devices.items()} == {"PHONE": "hers"}
        directory.log_in(ALICE, "PHONE", now=NOW)
        assert directory.user(ALICE) == user
        assert repr(directory) == "<KeyDirectory of 'a.example', 1 users>"

    def test_a_device_is_renamed(self, directory: KeyDirectory) -> None:
        directory.log_in(ALICE, "PHONE", display_name="hers", now=NOW)
        for name, is_now in (("other", "other"), (None, "other"), ("", "")):
            directory.rename_device(ALICE, "PHONE", name, now=NOW)
            user = directory.user(ALICE)
            assert user is not None
            assert user.devices["PHONE"].display_name == is_now
        with pytest.raises(MatrixError) as caught:
            directory.rename_device(ALICE, "LAPTOP", "x", now=NOW)
        assert caught.value.status == 404

    def test_a_device_is_deleted_with_its_messages(self, world: LocalWorld, alice: LocalClient) -> None:
        alice.send_to_device("m.x", {alice.user.user_id: {"PHONE": {"n": 1}}}, txn_id="1")
        assert len(alice.sync()["to_device"]["events"]) == 1
        alice.log_out()
        alice.log_out()
        again = alice.user.log_in("PHONE")
        assert again.sync()["to_device"]["events"] == []
        assert again.devices_of(alice.user) == {}

    def test_a_device_is_not_called_like_a_key(self, alice: LocalClient) -> None:
        """Attack 25."""
        alice.set_up_identity()
        with pytest.raises(MatrixError) as caught:
            alice.user.log_in(alice.user.master_name)
        assert (caught.value.status, caught.value.errcode) == (400, "M_FORBIDDEN")

    @pytest.mark.parametrize("user_id", ["@alice:b.example", "@alice:a.example:8448", "@alice:A.example"])
    def test_users_of_others_do_not_log_in_here(self, directory: KeyDirectory, user_id: str) -> None:
        acts: list[Callable[[], None]] = [
            lambda: directory.log_in(user_id, "X", now=NOW),
            lambda: directory.rename_device(user_id, "X", None, now=NOW),
            lambda: directory.delete_devices(user_id, ["X"], now=NOW),
        ]
        for act in acts:
            with pytest.raises(LocalProtocolError) as caught:
                act()
            assert reason(caught) == (Reason.SERVER_NAME_MISMATCH, "/user_id")

    def test_what_changes_is_told_to_those_who_share_a_room(self, world: LocalWorld, alice: LocalClient) -> None:
        bob, carol = world.new_client("bob"), world.new_client("carol")
        world.share_room(alice.user, bob.user)
        tokens = [client.token for client in (bob, carol)]
        world.directory(0).rename_device(alice.user.user_id, "PHONE", "new", now=world.now)
        assert bob.changed_since(tokens[0]) == [alice.user.user_id]
        assert carol.changed_since(tokens[1]) == []


class TestRooms:
    def test_whoever_is_in_a_room_stays_in_it(self, directory: KeyDirectory) -> None:
        directory.log_in(ALICE, "PHONE", now=NOW)
        directory.join(ALICE, ROOM, now=NOW)
        directory.join("@bob:b.example", ROOM, now=NOW)
        assert directory.next_request(now=NOW) is not None
        directory.join("@bob:b.example", ROOM, now=NOW)
        directory.leave("@carol:b.example", ROOM, now=NOW)
        assert directory.next_request(now=NOW) is not None
        assert directory.next_request(now=NOW) is None

    def test_who_came_first_makes_no_difference(self) -> None:
        for users in ((ALICE, "@bob:b.example"), ("@bob:b.example", ALICE)):
            directory = KeyDirectory.create("a.example", signers=SIGNER)
            directory.log_in(ALICE, "PHONE", now=NOW)
            for user_id in users:
                directory.join(user_id, ROOM, now=NOW)
            requests = [directory.next_request(now=NOW) for _ in range(3)]
            paths = [None if it is None else it.request.path.rsplit("/", 1)[0] for it in requests]
            assert paths == ["/_matrix/federation/v1/send", "/_matrix/federation/v1/user/devices", None]

    def test_with_whom_no_local_user_is_nobody_is_asked(self, directory: KeyDirectory) -> None:
        for user_id in ("@bob:b.example", "@carol:c.example"):
            directory.join(user_id, ROOM, now=NOW)
        assert directory.next_request(now=NOW) is None

    def test_who_left_is_forgotten(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        peer.answers_devices(eve, 1, [eve.device("X", cross_signed=False).to_json()])
        world.settle()
        assert peer.asked_paths.count("user/devices/%40eve%3Apeer.example") == 1
        assert set(alice.query({"device_keys": {eve.user_id: []}}).good["device_keys"][eve.user_id]) == {"X"}
        world.directory(0).leave(eve.user_id, "!there:peer.example", now=world.now)
        peer.answers_query()
        assert alice.query({"device_keys": {eve.user_id: []}}).good["device_keys"] == {}

    @pytest.mark.parametrize("leaver", ["alice", "eve"])
    def test_with_whom_another_room_is_shared_is_not_forgotten(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser, leaver: str
    ) -> None:
        directory, bob = world.directory(0), world.new_client("bob")
        for user_id in (bob.user.user_id, eve.user_id):
            directory.join(user_id, ROOM, now=world.now)
        peer.answers_devices(eve, 1, [eve.device("X", cross_signed=False).to_json()])
        world.settle()
        asked = len(peer.asked)
        left = {"alice": alice.user.user_id, "eve": eve.user_id}[leaver]
        directory.leave(left, "!there:peer.example", now=world.now)
        assert list(bob.query({"device_keys": {eve.user_id: []}}).good["device_keys"][eve.user_id]) == ["X"]
        assert len(peer.asked) == asked
        directory.leave(bob.user.user_id, ROOM, now=world.now)
        peer.answers_query()
        assert bob.query({"device_keys": {eve.user_id: []}}).good["device_keys"] == {}

    def test_who_is_met_once_more_is_not_told_again(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        there = [peer.user(name).user_id for name in ("eve", "mallory")]
        directory = world.directory(0)
        for user_id in (alice.user.user_id, there[0]):
            directory.join(user_id, ROOM, now=world.now)
        world.settle()
        told = len(peer.updates(alice.user))
        assert told == 1
        directory.join(there[1], ROOM, now=world.now)
        directory.leave(there[0], ROOM, now=world.now)
        world.settle()
        assert len(peer.updates(alice.user)) == told

    @pytest.mark.parametrize(
        ("user_id", "room", "path"),
        [("alice", ROOM, "/user_id"), (5, ROOM, "/user_id"), (ALICE, "room", "/room_id"), (ALICE, None, "/room_id")],
    )
    def test_what_is_no_user_or_no_room(self, directory: KeyDirectory, user_id: Any, room: Any, path: str) -> None:
        before = directory.to_json()
        for move in (directory.join, directory.leave):
            with pytest.raises(LocalProtocolError) as caught:
                move(user_id, room, now=NOW)
            assert caught.value.path == path
        with pytest.raises(LocalProtocolError):
            directory.join(ALICE, ROOM, now="now")  # type: ignore[arg-type]
        assert directory.to_json() == before


class TestRequestsOfClients:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 404),
            ("POST", "/_matrix/client/v3/keys/nothing", 404),
            ("GET", "/_matrix/client/v3/keys/query", 405),
            ("POST", "/_matrix/federation/v1/user/keys/query", 404),
            ("GET", "/_matrix/key/v2/server", 404),
        ],
    )
    def test_what_is_not_to_be_had(self, alice: LocalClient, method: str, path: str, status: int) -> None:
        answer = alice.ask(http(method, path, {}))
        assert answer.error == (status, "M_UNRECOGNIZED")

    @pytest.mark.parametrize(
        "requester",
        [
            Requester(user_id="@alice:one.example", device_id="LAPTOP"),
            Requester(user_id="@bob:one.example", device_id="PHONE"),
            Requester(user_id="@bob:one.example"),
        ],
    )
    def test_whoever_is_not_logged_in(self, world: LocalWorld, alice: LocalClient, requester: Requester) -> None:
        request = http("POST", "/_matrix/client/v3/keys/query", {"device_keys": {}})
        assert alice.ask_as(requester, request).error == (401, "M_UNKNOWN_TOKEN")
        with pytest.raises(MatrixError) as caught:
            world.directory(0).sync(requester)
        assert caught.value.status == 401

    def test_a_token_without_a_device(self, alice: LocalClient) -> None:
        requester = Requester(user_id=alice.user.user_id)
        query = http("POST", "/_matrix/client/v3/keys/query", {"device_keys": {alice.user.user_id: []}})
        assert alice.ask_as(requester, query).status == 200
        upload = http("POST", "/_matrix/client/v3/keys/upload", {})
        assert alice.ask_as(requester, upload).status == 400
        assert alice.world.directory(0).sync(requester).keys.one_time_key_counts == {"signed_curve25519": 0}

    def test_what_is_wrong_later_is_an_answer_too(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        """Whatever another server answers."""
        for answer in [(200, []), (200, {"device_keys": 5}), (500, {}), (404, {"errcode": 5}), None]:
            peer.answers["/_matrix/federation/v1/user/keys/query"] = answer
            body = alice.query({"device_keys": {"@eve:peer.example": []}}).good
            assert list(body["failures"]) == ["peer.example"]
            assert body["device_keys"] == {}

    @pytest.mark.parametrize("request_", [None, "GET /", NOTHING])
    def test_arguments_of_wrong_types(self, directory: KeyDirectory, request_: Any) -> None:
        """What the caller does wrong is no answer to whoever asks."""
        requester = Requester(user_id=ALICE)
        calls: list[tuple[Callable[[], object], str | None]] = [
            (lambda: directory.receive_client_request(request_, requester=requester, now=NOW), "/request"),
            (lambda: directory.receive_server_request(request_, now=NOW), "/request"),
            (lambda: directory.receive_answer(request_, None, now=NOW), "/request"),
            (lambda: directory.receive_client_request(http("GET", "/"), requester=request_, now=NOW), "/requester"),
            (lambda: directory.receive_client_request(http("GET", "/"), requester=requester, now=request_), None),
            (lambda: directory.receive_server_request(http("GET", "/"), now=request_), None),
        ]
        for call, path in calls:
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert path in (None, caught.value.path)


class TestRequestsOfServers:
    def test_its_keys_are_told_to_all(self, directory: KeyDirectory) -> None:
        exchange = directory.receive_server_request(http("GET", "/_matrix/key/v2/server"), now=NOW)
        assert exchange.response is not None
        keys = ServerKeysResponse.from_http(exchange.response).server_keys
        verified = keys.verify(server_name="a.example")
        assert verified.verify_keys["ed25519:1"] == SIGNER.public_key
        assert verified.usable_until(received_ts=NOW) == NOW + DAY_MS

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/_matrix/client/v3/keys/query", 404),
            ("POST", "/_matrix/key/v2/server", 405),
            ("GET", "/_matrix/federation/v1/nothing", 404),
        ],
    )
    def test_what_is_not_to_be_had(self, directory: KeyDirectory, method: str, path: str, status: int) -> None:
        exchange = directory.receive_server_request(http(method, path), now=NOW)
        assert exchange.response is not None
        assert answer_of(exchange.response).error == (status, "M_UNRECOGNIZED")

    def test_a_request_without_signature(self, directory: KeyDirectory) -> None:
        request = http("GET", "/_matrix/federation/v1/user/devices/%40alice%3Aa.example")
        exchange = directory.receive_server_request(request, now=NOW)
        assert exchange.response is not None
        assert answer_of(exchange.response).error == (401, "M_UNAUTHORIZED")

    def test_the_keys_of_who_asks_are_fetched_once(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        fetched = self.fetches(world, peer)
        for _ in range(3):
            assert peer.devices(alice.user.user_id).status == 200
        assert len(fetched) == 1
        world.later(DAY_MS + 1)
        assert peer.devices(alice.user.user_id).status == 200
        assert len(fetched) == 2

    def fetches(self, world: LocalWorld, peer: Peer) -> list[ServerRequest]:
        fetched: list[ServerRequest] = []
        answer = peer.answer

        def noted(request: ServerRequest) -> HttpResponse | None:
            fetched.append(request)
            return answer(request)

        peer.answer = noted  # type: ignore[method-assign]
        return fetched

    @pytest.mark.parametrize(
        "response", [None, HttpResponse(status=500, body=b"{}"), HttpResponse(status=200, body=b"[]"), NOTHING]
    )
    def test_whose_keys_cannot_be_had(self, world: LocalWorld, peer: Peer, response: HttpResponse | None) -> None:
        peer.answer = lambda request: response  # type: ignore[method-assign]
        assert peer.devices("@alice:one.example").error == (401, "M_UNAUTHORIZED")

    def test_a_signature_by_another_key(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        assert peer.devices(alice.user.user_id).status == 200
        peer.signer = sample_secret_key("mallory").signer("ed25519:1")
        assert peer.devices(alice.user.user_id).error == (401, "M_UNAUTHORIZED")

    def test_a_request_that_cannot_be_read(self, peer: Peer) -> None:
        assert peer.ask("POST", "user/keys/query", []).error == (400, "M_BAD_JSON")
        assert peer.ask("POST", "user/keys/query", {"device_keys": []}).error == (400, "M_BAD_JSON")


class TestSync:
    @pytest.mark.parametrize("since", ["", "s", "s-1", "s01", "s9999", "x1", 5, b"s0", ["s0"]])
    def test_a_token_of_nobody(self, world: LocalWorld, alice: LocalClient, since: Any) -> None:
        with pytest.raises(MatrixError) as caught:
            world.directory(0).sync(alice.requester, since=since)
        assert (caught.value.status, caught.value.error) == (400, "Invalid stream token")

    def test_messages_stay_until_they_are_acknowledged(self, alice: LocalClient) -> None:
        before = alice.token
        alice.send_to_device("m.x", {alice.user.user_id: {"*": {"n": 1}}}, txn_id="1")
        event = {"sender": alice.user.user_id, "type": "m.x", "content": {"n": 1}}
        for since in (None, before, before):
            assert alice.sync(since)["to_device"]["events"] == [event]
        assert alice.sync(alice.sync(before)["next_batch"])["to_device"]["events"] == []
        assert alice.sync(before)["to_device"]["events"] == []

    def test_lists_are_in_later_answers_only(self, alice: LocalClient) -> None:
        assert "device_lists" not in alice.sync()
        assert alice.sync(alice.token)["device_lists"] == {"changed": [], "left": []}

    def test_who_asks_must_be_a_requester(self, directory: KeyDirectory) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            directory.sync(ALICE)  # type: ignore[arg-type]
        assert caught.value.path == "/requester"


class TestWhatGoesOut:
    def outgoing(self, world: LocalWorld) -> ServerRequest:
        request = world.directory(0).next_request(now=world.now)
        assert request is not None
        return request

    def test_what_failed_is_sent_again_later(self, world: LocalWorld, alice: LocalClient, eve: SampleUser) -> None:
        directory = world.directory(0)
        assert directory.next_wake_at(now=world.now) == world.now
        first, resync = self.outgoing(world), self.outgoing(world)
        assert directory.next_wake_at(now=world.now) is None
        assert directory.next_request(now=world.now) is None
        for request in (first, resync):
            directory.receive_answer(request, None, now=world.now)
        wake_at = directory.next_wake_at(now=world.now)
        assert wake_at is not None
        assert wake_at > world.now
        assert directory.next_request(now=wake_at - 1) is None
        world.later(wake_at - world.now)
        assert self.outgoing(world).request == first.request
        world.later(HOUR_MS)
        assert self.outgoing(world).request == resync.request

    def test_what_is_refused_for_good_is_not_sent_again(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        peer.answers_devices(eve, 1, [])
        world.settle()
        alice.send_to_device("m.x", {eve.user_id: {"X": {"n": 1}}}, txn_id="1")
        refusal = MatrixError(status=413, errcode="M_TOO_LARGE").to_http()
        world.directory(0).receive_answer(self.outgoing(world), refusal, now=world.now)
        assert world.directory(0).next_wake_at(now=world.now) is None

    def test_how_long_the_other_wants_one_to_wait(self, world: LocalWorld, eve: SampleUser) -> None:
        directory = world.directory(0)
        first = self.outgoing(world)
        refusal = MatrixError(status=429, errcode="M_LIMIT_EXCEEDED", retry_after_ms=600_000).to_http()
        directory.receive_answer(first, refusal, now=world.now)
        self.outgoing(world)  # for the devices
        assert directory.next_wake_at(now=world.now) == world.now + 600_000

    def test_a_second_answer_is_ignored(self, world: LocalWorld, eve: SampleUser) -> None:
        directory = world.directory(0)
        first, resync = self.outgoing(world), self.outgoing(world)
        directory.receive_answer(first, NOTHING, now=world.now)
        directory.receive_answer(resync, None, now=world.now)
        before = directory.to_json()
        for request in (first, resync):
            for response in (None, NOTHING):
                directory.receive_answer(request, response, now=world.now)
        assert directory.to_json() == before
        world.later(DAY_MS)
        assert "user/devices" in self.outgoing(world).request.path
        assert directory.next_request(now=world.now) is None

    def test_an_answer_to_what_was_asked_before_a_restart(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """It says nothing about what is sent now, though both are on their way to the same server."""
        peer.answers_devices(eve, 1, [])
        world.settle()
        alice.send_to_device("m.x", {eve.user_id: {"X": {"n": 1}}}, txn_id="1")
        before = self.outgoing(world)
        world.restart(0)
        alice.send_to_device("m.x", {eve.user_id: {"X": {"n": 2}}}, txn_id="2")
        assert b'"n":2' in self.outgoing(world).request.body
        world.directory(0).receive_answer(before, NOTHING, now=world.now)
        world.restart(0)
        assert b'"n":2' in self.outgoing(world).request.body

    def test_an_answer_to_what_was_asked_before_a_user_came_back(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """The two requests say the same; the answer to the first is older than the second."""
        directory = world.directory(0)
        self.outgoing(world)
        first = self.outgoing(world)
        directory.leave(eve.user_id, "!there:peer.example", now=world.now)
        directory.join(eve.user_id, "!there:peer.example", now=world.now)
        second = self.outgoing(world)
        assert second.request == first.request
        for request, name in ((first, "OLD"), (second, "NEW")):
            peer.answers_devices(eve, 1, [eve.device(name, cross_signed=False).to_json()])
            directory.receive_answer(request, peer.answer(request), now=world.now)
        assert set(alice.query({"device_keys": {eve.user_id: []}}).good["device_keys"][eve.user_id]) == {"NEW"}

    def test_nonsense_about_one_user_delays_nobody_else(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        directory = world.directory(0)
        self.outgoing(world)
        directory.receive_answer(self.outgoing(world), HttpResponse(status=200, body=b"[]"), now=world.now)
        directory.join("@mallory:peer.example", "!there:peer.example", now=world.now)
        assert "mallory" in self.outgoing(world).request.path

    def test_a_server_that_is_away_is_not_asked_about_others(self, world: LocalWorld, eve: SampleUser) -> None:
        directory = world.directory(0)
        self.outgoing(world)
        directory.receive_answer(self.outgoing(world), None, now=world.now)
        directory.join("@mallory:peer.example", "!there:peer.example", now=world.now)
        assert directory.next_request(now=world.now) is None

    def test_a_copy_that_is_new_is_told_even_if_it_is_what_it_was(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """While it was out of date, the other server itself was asked: who asked knows what was never in the copy."""
        here, there = eve.device("X", cross_signed=False).to_json(), eve.device("Y", cross_signed=False).to_json()
        peer.answers_devices(eve, 1, [here])
        world.settle()
        peer.answers.pop("/_matrix/federation/v1/user/devices/%40eve%3Apeer.example")
        peer.tell(device_edu(eve, "Y", 3, [2], keys=there))
        peer.answers_query(device_keys={eve.user_id: {"X": here, "Y": there}})
        found = alice.query({"device_keys": {eve.user_id: []}}).good["device_keys"][eve.user_id]
        assert set(found) == {"X", "Y"}
        token = alice.token
        peer.answers_devices(eve, 4, [here])
        world.later(HOUR_MS)
        world.settle()
        assert alice.changed_since(token) == [eve.user_id]
        found = alice.query({"device_keys": {eve.user_id: []}}).good["device_keys"][eve.user_id]
        assert set(found) == {"X"}

    @given(values=st.lists(ANYTHING, min_size=3, max_size=3))
    def test_wrong_arguments_change_nothing(self, values: list[Any]) -> None:
        world = LocalWorld()
        alice = world.new_client("alice")
        directory, (one, two, three) = world.directory(0), values
        user_id = alice.user.user_id
        request = ServerRequest(server_name="b.example", request=http("GET", "/"))
        calls: list[Callable[[], object]] = [
            lambda: directory.user(one),
            lambda: directory.log_in(one, two, now=world.now),
            lambda: directory.log_in(user_id, "NEW", display_name="x", now=None),  # type: ignore[arg-type]
            lambda: directory.rename_device(one, two, three, now=world.now),
            lambda: directory.delete_devices(one, two, now=world.now),
            lambda: directory.delete_devices(user_id, ["PHONE"], now="x"),  # type: ignore[arg-type]
            lambda: directory.join(one, two, now=world.now),
            lambda: directory.receive_answer(one, two, now=world.now),
            lambda: directory.receive_answer(request, one, now=world.now),
            lambda: directory.receive_answer(request, None, now="x"),  # type: ignore[arg-type]
            lambda: directory.sync(one, since=two),
            lambda: directory.sync(alice.requester, since="x"),
            lambda: directory.next_request(now="x"),  # type: ignore[arg-type]
            lambda: directory.next_wake_at(now="x"),  # type: ignore[arg-type]
            lambda: directory.server_keys(now="x"),  # type: ignore[arg-type]
        ]
        for call in calls:
            before = directory.to_json()
            try:
                call()
            except E2EKeysError:
                assert directory.to_json() == before


class TestStoring:
    @pytest.fixture
    def full(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> KeyDirectory:
        """A directory with something in every part."""
        bob = world.new_client("bob", server=1)
        alice.publish("1", "2", "3")
        alice.set_up_identity()
        bob.set_up_identity()
        world.share_room(alice.user, bob.user)
        world.settle()
        bob.claim_of(alice)
        alice.claim_of(bob)
        for client in (alice, bob):
            client.send_to_device(
                "m.x", {alice.user.user_id: {"PHONE": {}}, bob.user.user_id: {"PHONE": {}}}, txn_id="1"
            )
        signed = alice.user.sample.verified(bob.user.sample.master_key).to_json()
        assert alice.upload_signatures(bob.user, {bob.user.master_name: signed}) == {}
        alice.user.log_in("LAPTOP", display_name="hers")
        world.directory(0).next_request(now=world.now)
        return world.directory(0)

    def restored(self, state: Any) -> KeyDirectory:
        return KeyDirectory.from_json(state, signers=sample_secret_key("one.example").signer("ed25519:1"))

    def test_everything_comes_back(self, full: KeyDirectory) -> None:
        state = json.loads(json.dumps(full.to_json()))
        assert state == full.to_json()
        assert self.restored(state).to_json() == state
        assert self.restored(state).server_name == "one.example"
        assert self.restored(state).user_ids == full.user_ids

    def test_it_goes_on_as_before(self, world: LocalWorld, full: KeyDirectory, alice: LocalClient) -> None:
        before = alice.sync()
        world.restart(0)
        assert alice.sync() == before
        world.settle()
        assert alice.world.directory(0).next_wake_at(now=world.now) is None

    def test_no_private_key_is_stored(self, full: KeyDirectory) -> None:
        assert sample_secret_key("one.example").export_base64() not in json.dumps(full.to_json())

    def test_the_policy_is_not_stored(self, full: KeyDirectory) -> None:
        directory = KeyDirectory.from_json(
            full.to_json(), signers=SIGNER, policy=COMPAT, authenticate=lambda *_: True, countersigns=True
        )
        assert directory.to_json() == full.to_json()

    @pytest.mark.parametrize(
        "part", ["store", "stream", "mailbox", "transactions", "remote", "ledger", "server_ledger", "server_name"]
    )
    def test_no_part_may_be_missing(self, full: KeyDirectory, part: str) -> None:
        state = full.to_json()
        for damaged in ({**state, part: None}, {name: state[name] for name in state if name != part}):
            with pytest.raises(LocalProtocolError) as caught:
                self.restored(damaged)
            assert (caught.value.path or "").startswith(f"/{part}")

    @pytest.mark.parametrize("version", [0, 2, "1", None, True])
    def test_another_version_is_not_read(self, full: KeyDirectory, version: object) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            self.restored({**full.to_json(), "version": version})
        assert caught.value.path == "/version"

    @settings(max_examples=max(settings().max_examples, 50))
    @given(data=st.data())
    def test_what_is_damaged_is_refused_or_is_stored_as_it_is(self, data: st.DataObject) -> None:
        state = copy.deepcopy(_stored())
        place, at = state, []
        while isinstance(place, dict | list) and place and (not at or data.draw(st.integers(0, 4))):
            names: list[Any] = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            at.append((place, data.draw(st.sampled_from(names))))
            place = place[at[-1][1]]
        holder, name = at[-1]
        holder[name] = data.draw(json_like_values())
        try:
            directory = self.restored(state)
        except LocalProtocolError:
            return
        assert self.restored(directory.to_json()).to_json() == directory.to_json()


_STORED: list[Any] = []


def _stored() -> Any:
    """Return the state of a directory with something in every part, made once."""
    if not _STORED:
        world = LocalWorld()
        Peer(world)
        make: Any = TestStoring.full
        make = getattr(make, "__wrapped__", None) or make.__pytest_wrapped__.obj
        full = make(TestStoring(), world, world.new_client("alice"), None)
        _STORED.append(json.loads(json.dumps(full.to_json())))
    return _STORED[0]


def test_authentication_is_asked_for_where_it_is_needed(world: LocalWorld, alice: LocalClient) -> None:
    """Attack 41."""
    alice.set_up_identity()
    other: dict[str, Any] = alice.user.identity(generation=1)
    assert alice.device_signing(other).status == 401
    assert alice.device_signing({**other, "auth": {**PASSWORD, "password": "guess"}}).status == 401
    assert alice.device_signing({**other, "auth": PASSWORD}).good == {}
    assert alice.device_signing(other).good == {}


def test_a_request_is_a_value_of_its_own() -> None:
    request = HttpRequest(method="GET", path="/")
    one, other = (ServerRequest(server_name="b.example", request=request) for _ in range(2))
    assert one != other
    assert len({one, other, one}) == 2
