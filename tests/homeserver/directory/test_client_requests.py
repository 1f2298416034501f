"""What a directory answers to its own users, where it is more than one decision: what is asked elsewhere, and when."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.directory.servers import PASSWORD, SERVERS, LocalClient, LocalWorld, Peer, answer_of, http, without
from matrix_e2e_keys import (
    CLIENT_V3,
    HttpResponse,
    KeysQueryResponse,
    MatrixError,
    Reason,
    Rejection,
    UserDevicesRequest,
    UserKeysQueryRequest,
)
from matrix_e2e_keys.homeserver import Exchange, KeyDirectory, Requester, ServerFailure
from matrix_e2e_keys.homeserver.directory.client_requests import (
    ClientRequests,
    _countersigned,
    deliver,
    read_answers,
)
from matrix_e2e_keys.homeserver.fan_out.query_plan import QueryAnswer
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    return world.new_client("alice")


@pytest.fixture
def peer(world: LocalWorld) -> Peer:
    return Peer(world)


def begin(client: LocalClient, path: str, body: object) -> Exchange:
    request = http("POST", f"/_matrix/client/v3/keys/{path}", body)
    directory, now = client.world.directory(client.user.server), client.world.now
    return directory.receive_client_request(request, requester=client.requester, now=now)


class TestAnswersOfServers:
    def test_what_was_not_answered_is_a_failure(self) -> None:
        request = UserDevicesRequest(user_id="@bob:b.example")
        good = HttpResponse(status=200, body=b'{"user_id":"@bob:b.example","stream_id":1,"devices":[]}')
        asked = {f"{name}.example": request for name in ("good", "none", "missing", "nonsense", "refusal")}
        read = read_answers(
            asked,
            {
                "good.example": good,
                "none.example": None,
                "nonsense.example": HttpResponse(status=200, body=b"x"),
                "refusal.example": HttpResponse(status=403, body=b'{"errcode":"M_FORBIDDEN","error":"no"}'),
                "nobody.asked": good,
            },
        )
        assert read.keys() == asked.keys()
        assert read["good.example"] == request.read_answer(good)
        assert read["none.example"] == read["missing.example"] == ServerFailure.timed_out()
        assert all(isinstance(read[f"{name}.example"], ServerFailure) for name in ("nonsense", "refusal"))
        assert read["nonsense.example"] != read["refusal.example"]


class TestWhatIsForOthers:
    def test_a_request_between_servers_is_none_of_a_client(self, world: LocalWorld, alice: LocalClient) -> None:
        requests: ClientRequests = world.directory(0)._clients
        with pytest.raises(MatrixError) as caught:
            requests.begin(
                UserKeysQueryRequest(device_keys={}), requester=alice.requester, dialect=CLIENT_V3, now=world.now
            )
        assert caught.value.status == 404


class TestQueries:
    def test_each_server_is_asked_once_and_for_so_long(self, alice: LocalClient) -> None:
        users = ["@bob:two.example", "@carol:two.example", "@dave:three.example:8448", alice.user.user_id]
        exchange = begin(alice, "query", {"device_keys": {user_id: [] for user_id in users}, "timeout": 1234})
        assert [request.server_name for request in exchange.requests] == ["three.example:8448", "two.example"] or [
            request.server_name for request in exchange.requests
        ] == ["two.example", "three.example:8448"]
        assert {request.timeout_ms for request in exchange.requests} == {1234}
        assert all(len(request.authorization) == 1 for request in exchange.requests)
        answer = exchange.proceed({}, now=alice.world.now).response
        assert answer is not None
        body = answer_of(answer).good
        assert set(body["failures"]) == {"two.example", "three.example:8448"}
        assert list(body["device_keys"]) == [alice.user.user_id]

    def test_nobody_is_asked_about_ones_own_users(self, alice: LocalClient) -> None:
        assert begin(alice, "query", {"device_keys": {alice.user.user_id: []}}).response is not None

    def test_a_copy_serves_while_the_other_server_is_away(self, world: LocalWorld, alice: LocalClient) -> None:
        """And a copy that is out of date if there is nothing better; then nothing has failed."""
        bob = world.new_client("bob", server=1)
        world.share_room(alice.user, bob.user)
        world.settle()
        exchange = begin(alice, "query", {"device_keys": {bob.user.user_id: []}})
        assert exchange.response is not None
        world.directory(0)._state.remote.suspect(bob.user.user_id, now=world.now)
        exchange = begin(alice, "query", {"device_keys": {bob.user.user_id: []}})
        assert [request.server_name for request in exchange.requests] == [SERVERS[1]]
        answer = exchange.proceed({SERVERS[1]: None}, now=world.now).response
        assert answer is not None
        body = answer_of(answer).good
        assert (list(body["device_keys"][bob.user.user_id]), body["failures"]) == (["PHONE"], {})


class TestIdentities:
    def asking(self, answers: list[Any]) -> tuple[KeyDirectory, LocalWorld]:
        world = LocalWorld()

        def authenticate(requester: Requester, auth: Any) -> Any:
            answers.append((requester.user_id, dict(auth)))
            return auth.get("password") == "secret"

        directory = KeyDirectory.create(
            SERVERS[0], signers=sample_secret_key(SERVERS[0]).signer("ed25519:1"), authenticate=authenticate
        )
        world.federation.replace(directory)
        return directory, world

    def test_who_proves_it_is_asked_if_there_is_something_to_prove(self) -> None:
        """Attack 41."""
        asked: list[Any] = []
        _, world = self.asking(asked)
        alice = world.new_client("alice")
        alice.set_up_identity()
        other = alice.user.identity(generation=1)
        assert alice.device_signing(other).status == 401
        assert asked == []
        assert alice.device_signing({**other, "auth": {**PASSWORD, "password": "guess"}}).status == 401
        assert alice.device_signing({**other, "auth": PASSWORD}).status == 200
        assert asked == [(alice.user.user_id, {**PASSWORD, "password": guess}) for guess in ("guess", "secret")]

    def test_who_has_authenticated_is_not_asked(self) -> None:
        asked: list[Any] = []
        _, world = self.asking(asked)
        alice = world.new_client("alice")
        alice.set_up_identity()
        requester = Requester(user_id=alice.user.user_id, device_id="PHONE", has_authenticated=True)
        body = {**alice.user.identity(generation=1), "auth": {"password": "guess"}}
        request = http("POST", "/_matrix/client/v3/keys/device_signing/upload", body)
        assert alice.ask_as(requester, request).status == 200
        assert asked == []

    def test_without_anybody_to_ask_nothing_is_proved(self) -> None:
        world = LocalWorld()
        signer = sample_secret_key(SERVERS[0]).signer("ed25519:1")
        world.federation.replace(KeyDirectory.create(SERVERS[0], signers=signer))
        alice = world.new_client("alice")
        alice.set_up_identity()
        assert alice.device_signing({**alice.user.identity(generation=1), "auth": PASSWORD}).status == 401


class TestSignatures:
    def signed(self, alice: LocalClient, *others: SampleUser) -> dict[str, Any]:
        return {
            other.user_id: {other.master_key.key_id.name: alice.user.sample.verified(other.master_key).to_json()}
            for other in others
        }

    def test_users_of_one_server_are_asked_about_at_once(
        self, world: LocalWorld, alice: LocalClient, peer: Peer
    ) -> None:
        alice.set_up_identity()
        others = [peer.user(name) for name in ("eve", "mallory", "trudy")]
        peer.answers_query(
            master_keys={other.user_id: other.master_key.to_json() for other in others},
            self_signing_keys={other.user_id: other.self_signing_key.to_json() for other in others},
        )
        body = alice.signatures(self.signed(alice, *others)).good
        assert body["failures"] == {}
        assert len(peer.asked) == 1
        user = world.directory(0).user(alice.user.user_id)
        assert user is not None
        assert {signature.user_id for signature in user.signatures} == {other.user_id for other in others}

    def test_what_is_known_is_not_asked_for(self, world: LocalWorld, alice: LocalClient) -> None:
        bob = world.new_client("bob", server=1)
        for client in (alice, bob):
            client.set_up_identity()
        world.share_room(alice.user, bob.user)
        world.settle()
        exchange = begin(alice, "signatures/upload", self.signed(alice, bob.user.sample))
        assert exchange.response is not None
        assert answer_of(exchange.response).good == {"failures": {}}

    def test_somebody_of_this_server_who_is_nobody(self, alice: LocalClient) -> None:
        alice.set_up_identity()
        nobody = SampleUser("@nobody:one.example")
        body = alice.signatures(self.signed(alice, nobody)).good
        [failure] = body["failures"][nobody.user_id].values()
        assert failure["errcode"] == "M_NOT_FOUND"

    @pytest.mark.parametrize("case", ["no answer", "nonsense", "about another", "no key", "a bad key"])
    def test_who_cannot_be_asked_about_is_not_signed(self, alice: LocalClient, peer: Peer, case: str) -> None:
        alice.set_up_identity()
        eve, mallory = peer.user("eve"), peer.user("mallory")
        answers: dict[str, Any] = {
            "about another": {mallory.user_id: mallory.master_key.to_json()},
            "no key": {},
            "a bad key": {eve.user_id: mallory.master_key.to_json()},
        }
        if case in answers:
            peer.answers_query(master_keys=answers[case])
        elif case == "nonsense":
            peer.answers["/_matrix/federation/v1/user/keys/query"] = (200, [])
        body = alice.signatures(self.signed(alice, eve)).good
        [failure] = body["failures"][eve.user_id].values()
        assert failure["errcode"] == "M_NOT_FOUND"

    def test_a_server_says_nothing_about_users_of_others(
        self, world: LocalWorld, alice: LocalClient, peer: Peer
    ) -> None:
        """Attack 53: what is asked about one user is no answer about another."""
        carol = world.new_client("carol")
        for client in (alice, carol):
            client.set_up_identity()
        eve, forged = peer.user("eve"), SampleUser(carol.user.user_id, 1)
        peer.answers_query(master_keys={user.user_id: user.master_key.to_json() for user in (forged, eve)})
        body = alice.signatures(self.signed(alice, eve, carol.user.sample)).good
        assert body["failures"] == {}


class TestTheDraftOf2015:
    """Device keys as v2_alpha tells of them; see ``test_draft_of_2015`` for what the signatures are good for."""

    def query(self, client: LocalClient, *devices: LocalClient) -> dict[str, Any]:
        asked = {device.user.user_id: [device.device_id] for device in devices}
        found: dict[str, Any] = client.post("query", {"device_keys": asked}, version="v2_alpha").good
        return found

    def test_who_signs_it(self, world: LocalWorld, alice: LocalClient) -> None:
        bob = world.new_client("bob", server=1)
        body = self.query(alice, alice, bob)
        assert list(body) == ["device_keys"]
        signers = {
            client: set(body["device_keys"][client.user.user_id]["PHONE"]["signatures"]) for client in (alice, bob)
        }
        assert signers == {alice: {alice.user.user_id, SERVERS[0]}, bob: {bob.user.user_id, SERVERS[0]}}

    def test_who_else_signs_it(self, world: LocalWorld, alice: LocalClient) -> None:
        signers = sample_secret_key(SERVERS[1]).signer("ed25519:1")
        world.federation.replace(KeyDirectory.create(SERVERS[1], signers=signers, countersigns=True))
        bob = world.new_client("bob", server=1)
        keys = self.query(alice, bob)["device_keys"][bob.user.user_id]["PHONE"]
        assert set(keys["signatures"]) == {bob.user.user_id, SERVERS[0], SERVERS[1]}

    def test_devices_without_keys_are_named(self, alice: LocalClient) -> None:
        tablet = alice.user.log_in("TABLET")
        alice.user.log_in("LAPTOP")
        assert list(self.query(alice, tablet)["device_keys"][alice.user.user_id]) == ["TABLET"]
        assert "device_keys" not in alice.query_of(alice.user)["device_keys"][alice.user.user_id].get("TABLET", {})

    def test_what_is_malformed_is_told_as_it_is(self) -> None:
        """It bears no signature of a server: that would say that somebody had read it."""
        rejection = Rejection(path="/x", reason=Reason.WRONG_TYPE, detail="no object")
        device = SampleUser("@bob:b.example").device("D")
        users: list[Any] = [{}, {"D": device}, {"D": rejection}, rejection]
        device_keys = {f"@u{number}:b.example": of_user for number, of_user in enumerate(users)}
        signed = _countersigned(
            QueryAnswer(
                response=KeysQueryResponse(device_keys=device_keys),
                dropped_by={},
                learned={},
                countersignatures={
                    "b.example": {(f"@u{number}:b.example", "D"): {"ed25519:1": "A" * 86} for number in (1, 2)}
                },
            )
        )
        assert set(signed.pop("@u1:b.example")["D"].signed.signatures) == {"@bob:b.example", "b.example"}
        assert signed == {name: device_keys[name] for name in ("@u0:b.example", "@u2:b.example", "@u3:b.example")}


class TestClaims:
    def test_keys_in_another_form_than_the_dialect_has_go_out_all_the_same(self, lax_world: LocalWorld) -> None:
        """They are taken, and nobody else would ever get them."""
        alice = lax_world.new_client("alice")
        key_id, key = alice.one_time_key("1")
        assert alice.upload({"one_time_keys": {key_id: key, "curve25519:2": "text"}}).status == 200
        for algorithm, found in (("signed_curve25519", {key_id: key}), ("curve25519", {"curve25519:2": "text"})):
            body = {"one_time_keys": {alice.user.user_id: {"PHONE": algorithm}}}
            answer = alice.post("claim", body, version="v2_alpha").good
            assert answer["one_time_keys"] == {alice.user.user_id: {"PHONE": found}}
            assert answer.get("failures", {}) == {}

    def test_a_user_cannot_empty_a_device(self, world: LocalWorld, alice: LocalClient) -> None:
        """Attack 47: whatever one user claims, with whatever devices, others still find keys."""
        alice.publish("1", "2", "3")
        world.directory(0)._state.ledger.keys_per_device = 2
        mallory = world.new_client("mallory")
        for client in (mallory, mallory.user.log_in("LAPTOP"), mallory):
            client.claim_of(alice)
        assert alice.sync()["device_one_time_keys_count"] == {"signed_curve25519": 1}
        assert world.new_client("bob").claim_of(alice) != {}

    def test_a_server_that_does_not_answer(self, alice: LocalClient) -> None:
        body = {"one_time_keys": {"@eve:nowhere.example": {"X": "signed_curve25519"}}}
        assert set(alice.claim(body).good["failures"]) == {"nowhere.example"}

    def test_what_others_answered_late_is_not_paid_twice(self, world: LocalWorld, alice: LocalClient) -> None:
        """One's own keys are taken when the answer is made, and not before: a request that is given up costs none."""
        alice.publish("1")
        body = {
            "one_time_keys": {
                alice.user.user_id: {"PHONE": "signed_curve25519"},
                "@bob:two.example": {"X": "signed_curve25519"},
            }
        }
        begin(alice, "claim", body)
        assert alice.sync()["device_one_time_keys_count"] == {"signed_curve25519": 1}
        assert len(alice.claim(body).good["one_time_keys"]) == 1
        assert alice.sync()["device_one_time_keys_count"] == {"signed_curve25519": 0}


class TestChanges:
    def test_what_sync_says_too(self, world: LocalWorld, alice: LocalClient) -> None:
        bob, carol = world.new_client("bob"), world.new_client("carol")
        room = world.share_room(alice.user, carol.user)
        token = alice.token
        world.leave(carol.user, room)
        world.share_room(alice.user, bob.user)
        body = alice.changes(token, alice.token).good
        assert body == {"changed": [bob.user.user_id], "left": [carol.user.user_id]}
        assert body == alice.sync(token)["device_lists"]

    @pytest.mark.parametrize("token", ["x", "s99", ""])
    def test_a_token_of_nobody(self, alice: LocalClient, token: str) -> None:
        assert alice.changes(token, "s0").error[0] == 400


class TestMessages:
    def test_a_device_that_comes_later_gets_none(self, alice: LocalClient) -> None:
        for device_id in ("LAPTOP", "*"):
            alice.send_to_device("m.x", {alice.user.user_id: {device_id: {}}}, txn_id=device_id)
        assert alice.user.log_in("LAPTOP").sync()["to_device"]["events"] == []

    def test_a_repeated_request_is_carried_out_once(self, alice: LocalClient) -> None:
        for txn_id in ("1", "1", "2"):
            alice.send_to_device("m.x", {alice.user.user_id: {"PHONE": {"txn": txn_id}}}, txn_id=txn_id)
        events = alice.sync()["to_device"]["events"]
        assert [event["content"]["txn"] for event in events] == ["1", "2"]

    def test_transactions_are_told_apart_whatever_they_are_called(self, alice: LocalClient) -> None:
        for event_type, txn_id in (("a%20b", "c"), ("a", "b%20c"), ("a", "b")):
            alice.send_to_device(event_type, {alice.user.user_id: {"PHONE": {}}}, txn_id=txn_id)
        assert [event["type"] for event in alice.sync()["to_device"]["events"]] == ["a b", "a", "a"]

    def test_transactions_of_two_devices_are_two(self, alice: LocalClient) -> None:
        other = alice.user.log_in("LAPTOP")
        for client in (alice, other):
            client.send_to_device("m.x", {alice.user.user_id: {"PHONE": {}}}, txn_id="1")
        assert len(alice.sync()["to_device"]["events"]) == 2

    def test_to_all_devices_of_users_of_all_servers(self, world: LocalWorld, alice: LocalClient, peer: Peer) -> None:
        other, bob = alice.user.log_in("LAPTOP"), world.new_client("bob", server=1)
        eve = peer.user("eve")
        messages = {user_id: {"*": {"n": 1}} for user_id in (alice.user.user_id, bob.user.user_id, eve.user_id)}
        messages[bob.user.user_id]["PHONE"] = {"n": 2}
        assert alice.send_to_device("m.x", messages, txn_id="1").good == {}
        world.settle()
        for client in (alice, other):
            assert [event["content"]["n"] for event in client.sync()["to_device"]["events"]] == [1]
        assert sorted(event["content"]["n"] for event in bob.sync()["to_device"]["events"]) == [1, 2]
        [edu] = peer.edus
        assert edu["content"]["messages"] == {eve.user_id: {"*": {"n": 1}}}
        assert edu["content"]["message_id"]

    @pytest.mark.parametrize("messages", [5, {"PHONE": 5}, {"PHONE": {}, "LAPTOP": []}])
    def test_what_is_malformed_is_refused_as_a_whole(self, alice: LocalClient, messages: object) -> None:
        body = {alice.user.user_id: messages, "@nobody:one.example": {"X": {}}}
        assert alice.send_to_device("m.x", body, txn_id="1").error == (400, "M_BAD_JSON")
        assert alice.send_to_device("m.x", {alice.user.user_id: {"PHONE": {"n": 1}}}, txn_id="1").status == 200
        assert [event["content"] for event in alice.sync()["to_device"]["events"]] == [{"n": 1}]

    def test_into_mailboxes(self, world: LocalWorld, alice: LocalClient) -> None:
        state, user_id = world.directory(0)._state, alice.user.user_id
        rejection = Rejection(path="/x", reason=Reason.WRONG_TYPE, detail="no object")
        deliver(state, user_id, "m.x", "@nobody:one.example", {"PHONE": {}})
        deliver(state, user_id, "m.x", user_id, rejection)
        deliver(state, user_id, "m.x", user_id, {"PHONE": rejection, "LAPTOP": {}})
        assert alice.sync()["to_device"]["events"] == []
        deliver(state, user_id, "m.x", user_id, {"PHONE": {"n": 1}})
        assert [event["content"] for event in alice.sync()["to_device"]["events"]] == [{"n": 1}]


class TestAuthentication:
    def test_an_attempt_that_failed_is_told_beside_the_question(self, alice: LocalClient) -> None:
        alice.set_up_identity()
        another = alice.user.identity(generation=1)
        question = alice.device_signing(another)
        assert question.error == (401, None)
        failed = alice.device_signing({**another, "auth": {**PASSWORD, "password": "wrong"}})
        assert failed.error == (401, "M_FORBIDDEN")
        assert {**question.body, "errcode": "M_FORBIDDEN", "error": failed.body["error"]} == failed.body

    def test_what_is_no_attempt_has_not_failed(self, alice: LocalClient) -> None:
        alice.set_up_identity()
        answer = alice.device_signing({**alice.user.identity(generation=1), "auth": {"session": "text"}})
        assert answer.error == (401, None)

    def test_a_failed_attempt_at_what_takes_none_is_passed_over(self, alice: LocalClient) -> None:
        wrong = {**PASSWORD, "password": "wrong"}
        assert alice.device_signing({**alice.user.identity(), "auth": wrong}) == (200, {})
        bad = {
            "self_signing_key": without(alice.user.identity(generation=1)["self_signing_key"], "signatures"),
            "auth": wrong,
        }
        assert alice.device_signing(bad).error == (400, "M_INVALID_SIGNATURE")
