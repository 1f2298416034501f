"""Other servers, and users of one's own, that would rather have it that nothing works: what they can do, and what not.

Each of these has been tried on this library.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.directory.servers import (
    HOUR_MS,
    PASSWORD,
    Json,
    LocalClient,
    LocalUser,
    LocalWorld,
    Peer,
    answer_of,
    device_edu,
    http,
)
from matrix_e2e_keys import HttpRequest, HttpResponse
from matrix_e2e_keys.homeserver.directory.key_directory import KeyDirectory
from matrix_e2e_keys.homeserver.directory.rooms import Rooms
from matrix_e2e_keys.homeserver.directory.transactions import MAX_TRANSACTION_BYTES
from matrix_e2e_keys.homeserver.directory.values import Exchange, ServerRequest
from matrix_e2e_keys.testing.samples import SampleUser

FIRST_DELAY = 15_000
FINAL = (400, 402, 406, 409, 410, 411, 413, 414, 415, 422, 431, 451, 499)
PASSING = (401, 403, 404, 405, 408, 425, 429, 500, 501, 502, 503, 504, 599)


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    return world.new_client("alice")


@pytest.fixture
def peer(world: LocalWorld) -> Peer:
    return Peer(world)


@pytest.fixture
def eve(peer: Peer) -> SampleUser:
    """A user of the peer."""
    return peer.user("eve")


def stranger(world: LocalWorld, user: SampleUser) -> LocalUser:
    return LocalUser(world, user.user_id, -1)


def device(user: SampleUser, name: str = "ONE") -> Json:
    keys: Json = user.device(name, cross_signed=False).to_json()
    return keys


def events(client: LocalClient) -> list[Any]:
    return [event["content"] for event in client.sync()["to_device"]["events"]]


def transaction(directory: KeyDirectory, now: int) -> ServerRequest | None:
    """Return the next transaction to send; questions about devices stay unanswered."""
    while (request := directory.next_request(now=now)) is not None:
        if "/send/" in request.request.path:
            return request
        directory.receive_answer(request, None, now=now)
    return None


def told(request: ServerRequest) -> list[Any]:
    """Return what a transaction tells of: the numbers of messages, the ids of devices."""
    found = []
    for edu in json.loads(request.request.body)["edus"]:
        content = edu["content"]
        messages = content.get("messages")
        found.append(content["device_id"] if messages is None else messages["@eve:peer.example"]["X"]["n"])
    return found


def refusal(status: int) -> HttpResponse:
    return HttpResponse(status=status, body=b'{"errcode":"M_X","error":"no"}')


class TestTransactionsThatAreRefused:
    """A server that does not take what one sends to it does not stop what comes after it."""

    def send(self, client: LocalClient, number: int) -> None:
        messages = {"@eve:peer.example": {"X": {"n": number}}}
        assert client.send_to_device("m.test", messages, txn_id=str(number)).good == {}

    @pytest.mark.parametrize("status", FINAL)
    def test_for_good(self, world: LocalWorld, alice: LocalClient, status: int) -> None:
        """Waiting would not change it: what is refused is dropped, and what comes later arrives."""
        directory, now = world.directory(0), world.now
        self.send(alice, 1)
        first = transaction(directory, now)
        assert first is not None
        directory.receive_answer(first, refusal(status), now=now)
        assert directory.next_wake_at(now=now) is None
        self.send(alice, 2)
        assert transaction(directory, now + FIRST_DELAY - 1) is None
        second = transaction(directory, now + FIRST_DELAY)
        assert second is not None
        assert told(second) == [2]
        assert second.request.path != first.request.path

    @pytest.mark.parametrize("status", [*PASSING, None, 301])
    def test_for_now(self, world: LocalWorld, alice: LocalClient, status: int | None) -> None:
        """It is about who asks, or when: the very same is sent again."""
        directory, now = world.directory(0), world.now
        self.send(alice, 1)
        first = transaction(directory, now)
        assert first is not None
        answer = None if status is None else HttpResponse(status=status, body=b"<html>")
        directory.receive_answer(first, answer, now=now)
        self.send(alice, 2)
        again = transaction(directory, now + HOUR_MS)
        assert again is not None
        assert (again.request.path, told(again)) == (first.request.path, [1])

    def test_an_update_of_devices(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        """The next update does not follow on anything: whoever gets it asks for all devices."""
        world.share_room(alice.user, stranger(world, eve))
        world.settle()
        directory, now = world.directory(0), world.now
        alice.rename("a")
        self.send(alice, 1)
        update = transaction(directory, now)
        assert update is not None
        assert told(update) == ["PHONE"]
        directory.receive_answer(update, refusal(413), now=now)
        now += FIRST_DELAY
        messages = transaction(directory, now)
        assert messages is not None
        assert told(messages) == [1]
        directory.receive_answer(messages, HttpResponse(status=200, body=b'{"pdus":{}}'), now=now)
        alice.rename("b")
        update = transaction(directory, now)
        assert update is not None
        (edu,) = json.loads(update.request.body)["edus"]
        assert edu["content"]["prev_id"] == []

    @given(bad=st.sets(st.integers(0, 24), max_size=4), status=st.sampled_from(FINAL))
    def test_all_others_arrive(self, bad: set[int], status: int) -> None:
        """However many of them are refused, each costs nothing but itself."""
        world = LocalWorld()
        client, directory = world.new_client("alice"), world.directory(0)
        for number in range(25):
            self.send(client, number)
        arrived: list[int] = []
        now = world.now
        for _ in range(100):
            wake_at = directory.next_wake_at(now=now)
            if wake_at is None:
                break
            now = wake_at
            request = directory.next_request(now=now)
            assert request is not None
            numbers = told(request)
            is_bad = bool(bad & set(numbers))
            answer = refusal(status) if is_bad else HttpResponse(status=200, body=b'{"pdus":{}}')
            directory.receive_answer(request, answer, now=now)
            arrived += [] if is_bad else numbers
        assert arrived == [number for number in range(25) if number not in bad]
        assert now - world.now <= 12 * HOUR_MS

    def test_a_server_that_refused_for_months_gets_what_comes_then(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        directory, now = world.directory(0), world.now
        attempts = 0
        for day in range(50):
            self.send(alice, day)
            while (request := transaction(directory, now)) is not None:
                attempts += 1
                assert attempts <= 150
                directory.receive_answer(request, refusal(413), now=now)
            now += 24 * HOUR_MS
        assert attempts >= 50
        self.send(alice, 99)
        found = transaction(directory, now)
        assert found is not None
        assert told(found)[-1] == 99


class TestMessagesThatCannotBeSent:
    """What a transaction cannot carry is refused to whoever sends it, before anything of it is delivered."""

    HERE = "@carol:one.example"
    THERE = "@bob:two.example"

    @pytest.fixture
    def carol(self, world: LocalWorld) -> LocalClient:
        return world.new_client("carol")

    @pytest.fixture
    def bob(self, world: LocalWorld) -> LocalClient:
        return world.new_client("bob", server=1)

    def put(self, client: LocalClient, messages: bytes) -> tuple[int, str | None]:
        body = b'{"messages":' + messages + b"}"
        answer = client.ask(http("PUT", "/_matrix/client/v3/sendToDevice/m.test/1", body))
        return answer.status, answer.body.get("errcode")

    def refuses(
        self,
        world: LocalWorld,
        clients: list[LocalClient],
        content: bytes,
        error: tuple[int, str],
        name: bytes = b"PHONE",
    ) -> None:
        alice, carol, bob = clients
        both = b'{"%s":{"PHONE":{"n":0}},"%s":{"%s":%s}}' % (self.HERE.encode(), self.THERE.encode(), name, content)
        assert self.put(alice, both) == error
        world.settle()
        assert (events(carol), events(bob)) == ([], [])
        good = b'{"%s":{"PHONE":{"n":1}},"%s":{"PHONE":{"n":2}}}' % (self.HERE.encode(), self.THERE.encode())
        assert self.put(alice, good) == (200, None)
        world.settle()
        assert (events(carol), events(bob)) == ([{"n": 1}], [{"n": 2}])
        assert world.directory(0).next_wake_at(now=world.now) is None

    def test_a_device_whose_name_is_no_text(
        self, world: LocalWorld, alice: LocalClient, carol: LocalClient, bob: LocalClient
    ) -> None:
        """Attack 52."""
        self.refuses(world, [alice, carol, bob], b"{}", (400, "M_BAD_JSON"), rb"\ud800")

    @pytest.mark.parametrize("number", [b"1.5", b"1e300", b"9007199254740993", b"[[-0.5]]"])
    def test_a_number_that_canonical_json_has_not(
        self, world: LocalWorld, alice: LocalClient, carol: LocalClient, bob: LocalClient, number: bytes
    ) -> None:
        self.refuses(world, [alice, carol, bob], b'{"x":%s}' % number, (400, "M_BAD_JSON"))

    @pytest.mark.parametrize("text", [rb'{"x":"\ud800"}', rb'{"\udfff":1}'])
    def test_a_text_that_is_none(
        self, world: LocalWorld, alice: LocalClient, carol: LocalClient, bob: LocalClient, text: bytes
    ) -> None:
        self.refuses(world, [alice, carol, bob], text, (400, "M_BAD_JSON"))

    def test_too_many_bytes(self, world: LocalWorld, alice: LocalClient, carol: LocalClient, bob: LocalClient) -> None:
        """Attack 48."""
        content = b'{"x":"' + b"y" * MAX_TRANSACTION_BYTES + b'"}'
        self.refuses(world, [alice, carol, bob], content, (413, "M_TOO_LARGE"))

    def test_just_so_many_bytes_arrive(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        for number in range(3):  # together they would be too many
            messages = {self.THERE: {"PHONE": {"x": "y" * (MAX_TRANSACTION_BYTES - 2000)}}}
            assert alice.send_to_device("m.test", messages, txn_id=str(number)) == (200, {})
        world.settle()
        assert len(events(bob)) == 3

    def test_however_deep_it_is_refused_or_arrives(self) -> None:
        """Attack 52: there is no depth at which it is accepted here and cannot go out."""
        statuses = []
        for levels in range(90, 131):
            world = LocalWorld()
            alice, bob = world.new_client("alice"), world.new_client("bob", server=1)
            content = b'{"x":' + b"[" * levels + b"]" * levels + b"}"
            status, errcode = self.put(alice, b'{"%s":{"PHONE":%s}}' % (self.THERE.encode(), content))
            statuses.append(status)
            world.settle()
            world.restart(0)
            world.settle()
            assert len(events(bob)) == (status == 200)
            assert (status, errcode) in ((200, None), (400, "M_BAD_JSON"))
            alice.send_to_device("m.test", {self.THERE: {"PHONE": {"last": 1}}}, txn_id="2")
            world.settle()
            assert events(bob)[-1:] == [{"last": 1}]
        assert statuses == sorted(statuses)
        assert (statuses[0], statuses[-1]) == (200, 400)

    @given(data=st.binary(max_size=12))
    def test_a_type_of_any_bytes(self, data: bytes) -> None:
        """Whatever stands in the path, what is accepted can go out."""
        world = LocalWorld()
        alice, bob = world.new_client("alice"), world.new_client("bob", server=1)
        kind = "".join(f"%{byte:02x}" for byte in data)
        request = http(
            "PUT", f"/_matrix/client/v3/sendToDevice/{kind}/1", {"messages": {"@bob:two.example": {"PHONE": {"n": 1}}}}
        )
        status = alice.ask(request).status
        world.settle()
        assert len(events(bob)) == (status == 200)
        assert world.directory(0).next_wake_at(now=world.now) is None


class TestSignaturesOnUsersOfOthers:
    """What takes a question to other servers takes one to each, and is decided on what is true when it is answered."""

    def request(self, alice: LocalClient, *others: SampleUser) -> HttpRequest:
        body = {
            other.user_id: {other.master_key.key_id.name: alice.user.sample.verified(other.master_key).to_json()}
            for other in others
        }
        return http("POST", "/_matrix/client/v3/keys/signatures/upload", body)

    def begun(self, world: LocalWorld, alice: LocalClient, *others: SampleUser) -> Exchange:
        request = self.request(alice, *others)
        return world.directory(0).receive_client_request(request, requester=alice.requester, now=world.now)

    def test_a_thousand_users_are_one_question(self, world: LocalWorld, alice: LocalClient) -> None:
        """Attack 48: and whoever does not answer is waited for once."""
        alice.set_up_identity()
        body = {f"@u{number}:{name}": {"x": {}} for number in range(500) for name in ("b.example", "c.example")}
        request = http("POST", "/_matrix/client/v3/keys/signatures/upload", body)
        exchange = world.directory(0).receive_client_request(request, requester=alice.requester, now=world.now)
        assert [asked.server_name for asked in exchange.requests] == ["b.example", "c.example"]
        for asked in exchange.requests:
            assert asked.request.path == "/_matrix/federation/v1/user/keys/query"
            users = json.loads(asked.request.body)["device_keys"]
            assert users == {f"@u{number}:{asked.server_name}": [] for number in range(500)}
        done = exchange.proceed({}, now=world.now)
        assert done.response is not None
        assert {len(failed) for failed in answer_of(done.response).good["failures"].values()} == {1}
        assert len(answer_of(done.response).good["failures"]) == 1000

    def test_what_one_of_them_says_of_users_of_the_other_is_nothing(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """Attack 53."""
        alice.set_up_identity()
        other = Peer(world, "other.example")
        zoe = other.user("zoe")
        other.answers_query(master_keys={})
        peer.answers_query(master_keys={zoe.user_id: zoe.master_key.to_json(), eve.user_id: eve.master_key.to_json()})
        answer = answer_of(world.finished(self.begun(world, alice, zoe, eve))).good
        assert list(answer["failures"]) == [zoe.user_id]

    def test_a_cached_user_changes_meanwhile(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """That signature fails, and no other."""
        zoe, new = peer.user("zoe"), SampleUser(eve.user_id, 1)
        alice.set_up_identity()
        keys = {"master_key": eve.master_key.to_json(), "self_signing_key": eve.self_signing_key.to_json()}
        peer.answers_devices(eve, 5, [device(eve)], **keys)
        world.share_room(alice.user, stranger(world, eve))
        world.settle()
        peer.answers_query(master_keys={zoe.user_id: zoe.master_key.to_json()})
        exchange = self.begun(world, alice, eve, zoe)
        (asked,) = exchange.requests
        assert list(json.loads(asked.request.body)["device_keys"]) == [zoe.user_id]
        keys = {"master_key": new.master_key.to_json(), "self_signing_key": new.self_signing_key.to_json()}
        peer.answers_devices(eve, 6, [device(eve)], **keys)
        peer.tell({"edu_type": "m.signing_key_update", "content": {"user_id": eve.user_id, **keys}})
        answer = answer_of(world.finished(exchange)).good
        assert list(answer["failures"]) == [eve.user_id]
        signatures = world.directory(0).user(alice.user.user_id)
        assert signatures is not None
        assert [signed.user_id for signed in signatures.signatures] == [zoe.user_id]

    def test_a_user_comes_to_be_cached_meanwhile(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """What the other server says of all devices counts more than its late answer."""
        alice.set_up_identity()
        new = SampleUser(eve.user_id, 1)
        exchange = self.begun(world, alice, eve)
        keys = {"master_key": new.master_key.to_json(), "self_signing_key": new.self_signing_key.to_json()}
        peer.answers_devices(eve, 5, [device(eve)], **keys)
        world.share_room(alice.user, stranger(world, eve))
        world.settle()
        peer.answers_query(master_keys={eve.user_id: eve.master_key.to_json()})
        assert list(answer_of(world.finished(exchange)).good["failures"]) == [eve.user_id]

    def test_a_later_signature_is_not_overwritten_by_an_earlier_one(
        self, world: LocalWorld, alice: LocalClient, eve: SampleUser
    ) -> None:
        carol = world.new_client("carol")
        for client in (alice, carol):
            client.set_up_identity()
        old, new = carol.user.sample, SampleUser(carol.user.user_id, 1)
        exchange = self.begun(world, alice, old, eve)
        assert carol.device_signing({**carol.user.identity(generation=1), "auth": PASSWORD}).good == {}
        assert alice.ask(self.request(alice, new)).good == {"failures": {}}
        done = exchange.proceed({}, now=world.now)
        assert done.response is not None
        assert set(answer_of(done.response).good["failures"]) == {old.user_id, eve.user_id}
        served = alice.query_of(carol.user)["master_keys"][carol.user.user_id]
        assert served == alice.user.sample.verified(new.master_key).to_json()


class TestLostAndRepeatedAnswers:
    """Whoever asked for all devices is told of later changes all the same: the answer may be lost, or not be his."""

    @pytest.fixture
    def bob(self, world: LocalWorld, alice: LocalClient) -> LocalClient:
        """Of another server, in a room with Alice."""
        bob = world.new_client("bob", server=1)
        for client in (alice, bob):
            client.set_up_identity()
        return bob

    def requests(self, directory: KeyDirectory, now: int) -> list[ServerRequest]:
        found: list[ServerRequest] = []
        while (request := directory.next_request(now=now)) is not None:
            found.append(request)
        return found

    def slowly_asked(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> tuple[ServerRequest, Any]:
        """Return the question about Bob's devices, and its answer, which is still on its way."""
        world.share_room(alice.user, bob.user)
        here = world.directory(0)
        asked = self.requests(here, world.now)
        for request in asked:
            if "/user/devices/" not in request.request.path:
                here.receive_answer(request, world.sent(request), now=world.now)
        (question,) = (request for request in asked if "/user/devices/" in request.request.path)
        return question, world.sent(question)

    @pytest.mark.parametrize("change", ["a device is new", "a device is gone"])
    def test_a_slow_answer_heals(self, world: LocalWorld, alice: LocalClient, bob: LocalClient, change: str) -> None:
        laptop = bob.user.log_in("LAPTOP")
        laptop.publish()
        question, slow = self.slowly_asked(world, alice, bob)
        if change == "a device is new":
            bob.user.log_in("TABLET").publish()
        else:
            laptop.log_out()
        # Bob's server answers the same question a second time, and nobody keeps the answer.
        assert world.sent(question) is not None
        world.directory(0).receive_answer(question, slow, now=world.now)
        world.settle()
        assert list(alice.devices_of(bob.user)) == list(bob.devices_of(bob.user))

    def test_a_recorded_question_forgets_nothing(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Attack 53: anybody can send again what he has seen on its way."""
        question, answer = self.slowly_asked(world, alice, bob)
        world.directory(0).receive_answer(question, answer, now=world.now)
        world.settle()
        bob.user.log_in("TABLET").publish()
        for _ in range(3):
            replayed = world.directory(1).receive_server_request(
                question.request, authorization=question.authorization, now=world.now
            )
            assert answer_of(world.finished(replayed)).status == 200
        world.settle()
        assert list(alice.devices_of(bob.user)) == ["PHONE", "TABLET"]

    def test_an_answer_that_is_lost(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        question, _ = self.slowly_asked(world, alice, bob)
        bob.user.log_in("TABLET").publish()
        assert world.sent(question) is not None
        world.directory(0).receive_answer(question, None, now=world.now)
        for _ in range(3):
            world.settle()
            world.later(HOUR_MS)
        assert list(alice.devices_of(bob.user)) == ["PHONE", "TABLET"]


class TestTokensThatEndMeanwhile:
    """Who is logged out while other servers are asked is answered as anybody who is not logged in."""

    @pytest.fixture
    def laptop(self, alice: LocalClient) -> LocalClient:
        alice.set_up_identity()
        laptop = alice.user.log_in("LAPTOP")
        laptop.publish("1")
        return laptop

    def ended(self, world: LocalWorld, client: LocalClient, path: str, body: object) -> tuple[int, str | None]:
        request = http("POST", f"/_matrix/client/v3/keys/{path}", body)
        exchange = world.directory(0).receive_client_request(request, requester=client.requester, now=world.now)
        assert exchange.response is None
        client.log_out()
        return answer_of(world.finished(exchange)).error

    def test_a_signature_is_not_stored(self, world: LocalWorld, alice: LocalClient, laptop: LocalClient) -> None:
        carol, dave = world.new_client("carol"), world.new_client("dave", server=1)
        for client in (carol, dave):
            client.set_up_identity()
        body = {
            client.user.user_id: {
                client.user.master_name: alice.user.sample.verified(client.user.sample.master_key).to_json()
            }
            for client in (carol, dave)
        }
        assert self.ended(world, laptop, "signatures/upload", body) == (401, "M_UNKNOWN_TOKEN")
        for client in (carol, dave):
            served = alice.query_of(client.user)["master_keys"][client.user.user_id]
            assert alice.user.user_id not in served.get("signatures", {})

    def test_no_key_is_claimed(self, world: LocalWorld, alice: LocalClient, laptop: LocalClient) -> None:
        """Attack 46: a key that is handed out to nobody stays."""
        carol = world.new_client("carol")
        carol.publish("1")
        signed = "signed_curve25519"
        body = {"one_time_keys": {carol.user.user_id: {"PHONE": signed}, "@x:two.example": {"A": signed}}}
        assert self.ended(world, laptop, "claim", body) == (401, "M_UNKNOWN_TOKEN")
        assert alice.claim_of(carol) == carol.one_time_keys("1")

    def test_nothing_is_told(self, world: LocalWorld, alice: LocalClient, laptop: LocalClient) -> None:
        bob = world.new_client("bob", server=1)
        body = {"device_keys": {bob.user.user_id: [], alice.user.user_id: []}}
        assert self.ended(world, laptop, "query", body) == (401, "M_UNKNOWN_TOKEN")

    def test_whoever_is_logged_in_is_answered(self, world: LocalWorld, alice: LocalClient, laptop: LocalClient) -> None:
        """Though another device of the same user is gone."""
        bob = world.new_client("bob", server=1)
        request = http("POST", "/_matrix/client/v3/keys/query", {"device_keys": {bob.user.user_id: []}})
        exchange = world.directory(0).receive_client_request(request, requester=alice.requester, now=world.now)
        laptop.log_out()
        assert answer_of(world.finished(exchange)).status == 200


class TestRoomsOfMany:
    """Attack 48: users who come in great numbers cost no more each than the first ones."""

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The times at which somebody looks at all members of a room."""
        seen: list[str] = []
        for name in ("members", "sharing"):
            look = getattr(Rooms, name)

            def counted(rooms: Rooms, of: str, name: str = name, look: Any = look) -> Any:
                seen.append(name)
                return look(rooms, of)

            monkeypatch.setattr(Rooms, name, counted)
        return seen

    @pytest.mark.parametrize("server", ["one.example", "b.example"])
    def test_the_members_are_not_looked_at_for_each(
        self, world: LocalWorld, alice: LocalClient, looks: list[str], server: str
    ) -> None:
        directory, room = world.directory(0), "!r:one.example"
        directory.join(alice.user.user_id, room, now=world.now)
        directory.join(f"@first:{server}", room, now=world.now)
        looks.clear()
        for number in range(50):
            directory.join(f"@u{number}:{server}", room, now=world.now)
        for number in range(49):
            directory.leave(f"@u{number}:{server}", room, now=world.now)
        assert looks == []

    def test_the_first_of_a_server_is_told_of_all_and_the_next_of_nobody(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        carol = world.new_client("carol")
        room = world.share_room(alice.user, carol.user)
        world.join(stranger(world, eve), room)
        world.settle()
        assert [len(peer.updates(client.user)) for client in (alice, carol)] == [1, 1]
        world.join(stranger(world, peer.user("zoe")), room)
        world.settle()
        assert [len(peer.updates(client.user)) for client in (alice, carol)] == [1, 1]

    def test_whoever_is_known_to_a_server_is_not_introduced_again(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        world.share_room(alice.user, stranger(world, eve))
        world.settle()
        carol = world.new_client("carol")
        room = world.share_room(alice.user, carol.user)
        world.join(stranger(world, peer.user("zoe")), room)
        world.settle()
        assert [len(peer.updates(client.user)) for client in (alice, carol)] == [1, 1]

    def test_whoever_meets_more_users_of_a_server_is_not_introduced_again(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        world.share_room(alice.user, stranger(world, eve))
        room = world.share_room(stranger(world, peer.user("zoe")))
        world.settle()
        world.join(alice.user, room)
        world.settle()
        assert len(peer.updates(alice.user)) == 1

    def test_a_server_that_comes_back_is_told_again(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        room = world.share_room(alice.user, stranger(world, eve))
        world.settle()
        world.leave(stranger(world, eve), room)
        alice.rename("x")
        world.settle()
        assert len(peer.updates(alice.user)) == 1
        world.join(stranger(world, eve), room)
        world.settle()
        assert len(peer.updates(alice.user)) == 2

    def test_when_the_last_of_this_server_leaves_strangers_are_forgotten(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """But for those with whom anybody here shares another room."""
        carol, zoe = world.new_client("carol"), peer.user("zoe")
        for number, user in enumerate((eve, zoe), 5):
            peer.answers_devices(user, number, [device(user)])
        room = world.share_room(alice.user, carol.user, stranger(world, eve), stranger(world, zoe))
        world.share_room(carol.user, stranger(world, zoe))
        world.settle()
        world.leave(alice.user, room)
        assert self.asked_about(peer, carol, eve, zoe) == []
        world.leave(carol.user, room)
        assert self.asked_about(peer, carol, eve, zoe) == [eve.user_id]

    def asked_about(self, peer: Peer, client: LocalClient, *users: SampleUser) -> list[str]:
        """Return whom the other server is asked about when somebody wants to know of some users."""
        peer.asked.clear()
        client.query({"device_keys": {user.user_id: [] for user in users}})
        return [name for _, path, body in peer.asked if path.endswith("/query") for name in body["device_keys"]]

    def test_an_update_of_whom_nobody_knows_any_more_is_passed_over(
        self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser
    ) -> None:
        """Attack 53."""
        peer.answers_devices(eve, 5, [device(eve)])
        room = world.share_room(alice.user, stranger(world, eve))
        world.settle()
        world.leave(alice.user, room)
        token = alice.token
        peer.tell(device_edu(eve, "ONE", 6, [5], keys=device(eve)))
        assert alice.changed_since(token) == []


def test_what_another_server_says_is_not_passed_on(world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
    """It may be anything, and clients show it to people."""
    bait = {"errcode": "M_TELL_HER", "error": "call us to unlock your account"}
    for path in ("query", "claim"):
        peer.answers[f"/_matrix/federation/v1/user/keys/{path}"] = (403, bait)
    asked: dict[str, Json] = {
        "query": {"device_keys": {"@x:peer.example": []}},
        "claim": {"one_time_keys": {"@x:peer.example": {"A": "signed_curve25519"}}},
    }
    for path, body in asked.items():
        answer = alice.post(path, body).good
        assert answer["failures"] == {"peer.example": {"status": 403, "message": "The server has refused"}}
