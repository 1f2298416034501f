"""The key machine: what it sends and when, what it makes of the answers, and what it is after a restart."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from client.fake_server import FakeServer
from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.machine.key_machine import KeyMachine
from matrix_e2e_keys.client.machine.values import OutgoingRequest, Received
from matrix_e2e_keys.client.supply.values import SupplyPolicy
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy
from matrix_e2e_keys.client.users.changes import ChangeKind
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import (
    DeviceSigningUploadRequest,
)
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest, KeysChangesResponse
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest, KeysClaimResponse
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest, KeysUploadResponse
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest
from matrix_e2e_keys.endpoints.client_server.sync import SyncKeys
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE, BOB = SampleUser("@alice:a.example"), SampleUser("@bob:b.example")
POLICY = SupplyPolicy(target=2)
PASSWORD = "secret"


def secrets_of(user: SampleUser) -> CrossSigningSecrets:
    return CrossSigningSecrets(
        user_id=user.user_id,
        master=user.secret("master"),
        self_signing=user.secret("self_signing"),
        user_signing=user.secret("user_signing"),
    )


@define
class Client:
    """A machine, what makes its keys, and the server it talks to."""

    server: FakeServer
    user: SampleUser
    device_id: str
    machine: KeyMachine = field(init=False)
    made: int = 0

    def __attrs_post_init__(self) -> None:
        self.server.log_in(self.user.user_id, self.device_id)
        keys = self.user.device(self.device_id, cross_signed=False)
        self.machine = KeyMachine.create(keys, signer=self.user.device_signer(self.device_id), policy=POLICY)

    def make_keys(self, now: int = 0) -> None:
        supply, signer = self.machine.supply, self.user.device_signer(self.device_id)
        needed = supply.needed(now)
        names = [f"{self.made + number}" for number in range(needed.one_time_keys)]
        self.made += len(names)
        supply.add_one_time_keys({name: sample_curve25519_key(f"{self} {name}") for name in names}, signer=signer)
        if needed.fallback_key:
            self.made += 1
            key = sample_curve25519_key(f"{self} {self.made}")
            supply.add_fallback_key(f"F{self.made}", key, signer=signer, now=now)

    def store(self) -> Any:
        state = json.loads(json.dumps(self.machine.to_json()))
        self.machine.mark_stored(state)
        return state

    def restart(self, state: object | None = None) -> None:
        state = self.store() if state is None else state
        self.machine = KeyMachine.from_json(state, signer=self.user.device_signer(self.device_id), policy=POLICY)

    def ask(self, now: int = 0) -> list[OutgoingRequest]:
        return self.machine.outgoing_requests(now)

    def exchange(self, outgoing: OutgoingRequest, now: int = 0) -> Received:
        """Send one request, and take over its answer."""
        try:
            answer = self.server.exchange(self.user.user_id, self.device_id, outgoing.request)
        except MatrixError as error:
            return self.machine.receive_error(outgoing.request_id, error, now)
        return self.machine.receive_response(outgoing.request_id, answer, now)

    def go_on(self, now: int = 0) -> list[Received]:
        """Make, store, send and receive until there is nothing more to send."""
        received: list[Received] = []
        self.make_keys(now)
        self.store()
        while asked := self.ask(now):
            received += [self.exchange(outgoing, now) for outgoing in asked]
        return received

    def sync(self, since: int | None, now: int = 0) -> None:
        keys, token = self.server.sync(self.user.user_id, self.device_id, since)
        since_token = None if since is None else f"s{since}"
        self.machine.receive_sync(keys, since=since_token, next_batch=token, now=now)

    def __str__(self) -> str:
        return f"{self.user.user_id} {self.device_id}"


@pytest.fixture
def server() -> FakeServer:
    return FakeServer(passwords={ALICE.user_id: PASSWORD})


@pytest.fixture
def alice(server: FakeServer) -> Client:
    """A device that has just logged in."""
    return Client(server, ALICE, "A1")


@pytest.fixture
def settled(alice: Client) -> Client:
    """A device that is uploaded, and knows itself."""
    alice.go_on()
    assert not alice.machine.lists.outdated
    return alice


@pytest.fixture
def bob(server: FakeServer) -> Client:
    client = Client(server, BOB, "B1")
    client.go_on()
    return client


def cross_signed(client: Client) -> Client:
    """Set up cross-signing."""
    client.machine.start_bootstrap(secrets_of(client.user), reset=True)
    client.go_on()
    bootstrap = client.machine.signing.bootstrap
    assert bootstrap is not None
    assert bootstrap.state is BootstrapState.DONE
    return client


def kinds(asked: list[OutgoingRequest]) -> list[type]:
    return [type(outgoing.request) for outgoing in asked]


def the(kind: type, asked: list[OutgoingRequest]) -> OutgoingRequest:
    """Return the one request of a kind."""
    [found] = [outgoing for outgoing in asked if type(outgoing.request) is kind]
    return found


def changes_of(received: list[Received]) -> list[ChangeKind]:
    return [change.kind for it in received for change in it.changes]


def bare(received: Received) -> Received:
    """What came of a failure, apart from the error that it was told."""
    assert isinstance(received.error, MatrixError)
    return attrs.evolve(received, error=None)


class TestBeginning:
    def test_nothing_is_uploaded_before_it_is_stored(self, alice: Client) -> None:
        alice.make_keys()
        assert kinds(alice.ask()) == [KeysQueryRequest]
        alice.store()
        assert kinds(alice.ask()) == [KeysUploadRequest]

    def test_the_first_upload_has_everything(self, alice: Client) -> None:
        alice.make_keys()
        alice.store()
        request = the(KeysUploadRequest, alice.ask()).request
        assert isinstance(request, KeysUploadRequest)
        assert request.device_keys == alice.machine.device.keys
        assert (len(request.one_time_keys), len(request.fallback_keys)) == (2, 1)

    def test_keys_that_are_not_stored_are_left_out(self, alice: Client) -> None:
        alice.store()
        alice.make_keys()
        request = the(KeysUploadRequest, alice.ask()).request
        assert isinstance(request, KeysUploadRequest)
        assert (request.device_keys is None, request.one_time_keys, request.fallback_keys) == (False, {}, {})

    def test_the_device_is_uploaded_once(self, alice: Client) -> None:
        assert not alice.machine.is_uploaded
        alice.go_on()
        assert alice.machine.is_uploaded
        alice.machine.supply.add_one_time_keys(
            {"more": sample_curve25519_key("more")}, signer=ALICE.device_signer("A1")
        )
        alice.store()
        [upload] = alice.ask()
        assert isinstance(upload.request, KeysUploadRequest)
        assert upload.request.device_keys is None
        alice.exchange(upload)
        assert alice.ask() == []

    def test_an_upload_of_keys_alone_is_not_one_of_the_device(self, settled: Client) -> None:
        settled.machine.supply.add_one_time_keys(
            {"more": sample_curve25519_key("more")}, signer=ALICE.device_signer("A1")
        )
        settled.store()
        asked = settled.ask()
        settled.machine.upload_device()
        settled.exchange(the(KeysUploadRequest, asked))
        assert not settled.machine.is_uploaded

    def test_after_the_upload_one_looks_whether_it_is_served(self, alice: Client) -> None:
        alice.go_on()
        assert alice.machine.users.users[ALICE.user_id].devices == {"A1": alice.machine.device}
        alice.store()
        alice.machine.upload_device()
        [upload] = alice.ask()
        alice.exchange(upload)
        assert alice.machine.lists.outdated == {ALICE.user_id}

    def test_a_secret_at_hand_signs_the_device_before_its_first_upload(self, alice: Client) -> None:
        alice.machine.signing.use_secrets(secrets_of(ALICE))
        alice.go_on()
        device = alice.server.device(ALICE.user_id, "A1")
        assert device is not None
        self_signing = ALICE.secret("self_signing").public_key
        device.signed.verify(entity=ALICE.user_id, key_id=f"ed25519:{self_signing.to_base64()}", key=self_signing)

    def test_a_secret_whose_public_half_nobody_has_signs_nothing(self, alice: Client) -> None:
        alice.machine.start_bootstrap(secrets_of(ALICE), reset=True)
        alice.store()
        request = the(KeysUploadRequest, alice.ask()).request
        assert isinstance(request, KeysUploadRequest)
        assert isinstance(request.device_keys, DeviceKeys)
        assert list(request.device_keys.signed.signatures[ALICE.user_id]) == ["ed25519:A1"]

    def test_what_failed_is_sent_again_later(self, alice: Client) -> None:
        alice.make_keys()
        alice.store()
        upload = the(KeysUploadRequest, alice.ask())
        assert bare(alice.machine.receive_error(upload.request_id, MatrixError(status=500), 0)) == Received()
        assert alice.ask(14_999) == []
        again = the(KeysUploadRequest, alice.ask(15_000))
        assert again.request == upload.request
        assert again.request_id != upload.request_id

    def test_a_conflict_is_reported(self, alice: Client) -> None:
        other = Client(alice.server, ALICE, "A1")
        other.machine.supply.add_one_time_keys({"0": sample_curve25519_key("x")}, signer=ALICE.device_signer("A1"))
        other.made = 10
        other.go_on()
        received = alice.go_on()
        assert [it.conflict.key_id for it in received if it.conflict] == ["signed_curve25519:0"]
        alice.go_on()
        assert alice.machine.is_uploaded

    def test_what_a_machine_is_made_of(self) -> None:
        keys, signer = ALICE.device("A1", cross_signed=False), ALICE.device_signer("A1")
        machine = KeyMachine.create(keys, signer=signer)
        assert machine.device.keys == keys
        assert machine.supply.policy == SupplyPolicy()
        assert KeyMachine.create(keys, signer=signer, policy=POLICY).supply.policy == POLICY
        assert machine.lists.own_user_id == ALICE.user_id
        with pytest.raises(VerificationError):
            KeyMachine.create(
                keys.with_signed(
                    keys.signed.with_signature(ALICE.user_id, "ed25519:A1", ALICE.device_signer("A2").sign(b""))
                ),
                signer=signer,
            )


class TestAnswers:
    def test_an_answer_to_nothing_is_ignored(self, settled: Client) -> None:
        before = settled.machine.to_json()
        assert settled.machine.receive_response("query-99-0", KeysQueryResponse(), 0) == Received()
        assert settled.machine.receive_error("upload-99-0", None, 0) == Received()
        assert settled.machine.to_json() == before

    def test_a_second_answer_is_ignored(self, settled: Client) -> None:
        settled.machine.lists.mark_all_outdated()
        [query] = settled.ask()
        assert settled.exchange(query).query is not None
        settled.server.log_out(ALICE.user_id, "A1")
        settled.server.log_in(ALICE.user_id, "A1")
        assert settled.exchange(query) == Received()
        assert settled.machine.receive_error(query.request_id, None, 0) == Received()
        assert settled.ask(0) == []

    def test_an_answer_after_a_failure_is_ignored(self, settled: Client) -> None:
        settled.machine.lists.mark_all_outdated()
        [query] = settled.ask()
        settled.machine.receive_error(query.request_id, None, 0)
        assert settled.exchange(query) == Received()
        assert settled.machine.lists.outdated == {ALICE.user_id}

    def test_an_answer_to_another_kind_of_request_changes_nothing(self, settled: Client) -> None:
        settled.machine.lists.mark_all_outdated()
        [query] = settled.ask()
        wrong: Any
        for wrong in (KeysUploadResponse(one_time_key_counts={}), KeysClaimResponse(), KeysChangesResponse(), None, {}):
            with pytest.raises(LocalProtocolError) as caught:
                settled.machine.receive_response(query.request_id, wrong, 0)
            assert caught.value.path == "/response"
        assert settled.exchange(query).query is not None

    def test_an_older_answer_does_not_replace_a_newer_one(self, settled: Client) -> None:
        """Attack 55: neither does it make anybody up to date; nor does a failure."""
        machine, server = settled.machine, settled.server
        machine.lists.mark_all_outdated()
        [older] = settled.ask()
        answer = server.exchange(ALICE.user_id, "A1", older.request)
        Client(server, ALICE, "A2").go_on()
        machine.lists.mark_all_outdated()
        machine.receive_response(older.request_id, answer, 0)
        assert machine.lists.outdated == {ALICE.user_id}
        [newer] = settled.ask()
        machine.receive_error(newer.request_id, MatrixError(status=429, retry_after_ms=60_000), 0)
        assert machine.lists.outdated == {ALICE.user_id}
        assert settled.ask(59_999) == []
        [newest] = settled.ask(60_000)
        settled.exchange(newest)
        assert set(machine.users.users[ALICE.user_id].devices) == {"A1", "A2"}
        assert not machine.lists.outdated

    def test_an_answer_from_before_a_crash_is_ignored(self, settled: Client) -> None:
        """Attack 55."""
        settled.restart()
        state = settled.store()
        settled.machine.lists.mark_all_outdated()
        [older] = settled.ask(5)
        settled.restart(state)
        settled.machine.lists.mark_all_outdated()
        [newer] = settled.ask(6)
        assert settled.exchange(older) == Received()
        assert settled.machine.lists.outdated == {ALICE.user_id}
        assert settled.exchange(newer).query is not None

    def test_ids_are_never_given_twice(self, settled: Client) -> None:
        given: set[str] = set()
        for _ in range(3):
            settled.machine.lists.mark_all_outdated()
            [query] = settled.ask()
            settled.exchange(query)
            given.add(query.request_id)
        assert len(given) == 3


class TestQueries:
    """Attack 36: this device is missing at the server, or altered by it."""

    def query(self, client: Client, served: DeviceKeys | None, meanwhile: Callable[[], object] | None = None) -> Any:
        """Return the changes that an answer brings, with something done between question and answer."""
        client.machine.lists.mark_all_outdated()
        query = the(KeysQueryRequest, client.ask())
        if meanwhile is not None:
            meanwhile()
        devices = {} if served is None else {"A1": served.to_json()}
        answer = KeysQueryResponse.from_json({"device_keys": {ALICE.user_id: devices}})
        return [it.kind for it in client.machine.receive_response(query.request_id, answer, 0).changes]

    def test_missing(self, settled: Client) -> None:
        assert self.query(settled, None) == [ChangeKind.DEVICE_REMOVED, ChangeKind.OWN_DEVICE_MISSING]

    def test_altered(self, settled: Client) -> None:
        other = DeviceKeys.build(
            user_id=ALICE.user_id,
            device_id="A1",
            curve25519_key=sample_curve25519_key("another"),
            signer=ALICE.device_signer("A1"),
        )
        assert self.query(settled, other) == [ChangeKind.OWN_DEVICE_ALTERED]

    def test_outdated(self, settled: Client) -> None:
        other = ALICE.device("A1", cross_signed=False, extra={"version": 2})
        assert self.query(settled, other) == [ChangeKind.DEVICE_CHANGED, ChangeKind.OWN_DEVICE_OUTDATED]

    def test_as_it_is(self, settled: Client) -> None:
        assert self.query(settled, settled.machine.device.keys) == []

    def test_before_the_upload_nothing_is_missing(self, alice: Client) -> None:
        assert self.query(alice, None) == []

    def test_a_question_from_before_the_upload_proves_nothing(self, alice: Client) -> None:
        def upload() -> None:
            alice.store()
            alice.exchange(the(KeysUploadRequest, alice.ask()))

        assert self.query(alice, None, upload) == []
        assert alice.machine.is_uploaded
        assert alice.machine.lists.outdated == {ALICE.user_id}

    def test_a_question_from_before_another_upload_proves_nothing(self, settled: Client) -> None:
        older = settled.machine.device.keys

        def upload() -> None:
            settled.machine.upload_device(ALICE.device("A1", cross_signed=False, extra={"version": 2}))
            settled.store()
            settled.exchange(the(KeysUploadRequest, settled.ask()))

        assert self.query(settled, older, upload) == []
        assert settled.machine.is_uploaded

    def test_a_question_that_is_answered_before_the_upload_proves_nothing(self, settled: Client) -> None:
        assert self.query(settled, None, settled.machine.upload_device) == [ChangeKind.DEVICE_REMOVED]

    def test_a_query_that_fails_delays_for_as_long_as_the_server_says(self, settled: Client) -> None:
        settled.machine.lists.mark_all_outdated()
        [query] = settled.ask(0)
        settled.machine.receive_error(query.request_id, None, 0)
        assert settled.machine.next_request_at() == 15_000


class TestChanges:
    """A gap in the stream."""

    @pytest.fixture
    def gap(self, settled: Client) -> Client:
        settled.sync(None)
        settled.go_on()
        settled.sync(None)
        Client(settled.server, ALICE, "A2").go_on()
        settled.sync(None)
        return settled

    def test_it_is_filled(self, gap: Client) -> None:
        assert gap.machine.lists.outdated == set()
        [asked] = gap.ask()
        assert isinstance(asked.request, KeysChangesRequest)
        assert gap.ask() == []
        assert gap.machine.next_request_at() is None
        assert gap.exchange(asked) == Received()
        assert gap.machine.lists.outdated == {ALICE.user_id}
        assert gap.machine.lists.next_changes() is None

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 499])
    def test_it_is_given_up_if_the_server_refuses(self, gap: Client, status: int) -> None:
        [asked] = gap.ask()
        gap.machine.receive_error(asked.request_id, MatrixError(status=status), 0)
        assert gap.machine.lists.next_changes() is None
        assert gap.machine.lists.outdated == {ALICE.user_id}

    @pytest.mark.parametrize(
        ("error", "delay"),
        [
            (None, 15_000),
            (MatrixError(status=500), 15_000),
            (MatrixError(status=429), 15_000),
            (MatrixError(status=429, retry_after_ms=40_000), 40_000),
        ],
    )
    def test_it_is_asked_about_again(self, gap: Client, error: MatrixError | None, delay: int) -> None:
        [asked] = gap.ask(7)
        gap.machine.receive_error(asked.request_id, error, 7)
        assert gap.machine.next_request_at() == 7 + delay
        assert gap.ask(6 + delay) == []
        [again] = gap.ask(7 + delay)
        assert again.request == asked.request
        gap.exchange(again)
        assert gap.machine.lists.next_changes() is None

    def test_a_success_ends_the_delays(self, gap: Client) -> None:
        [asked] = gap.ask(0)
        gap.machine.receive_error(asked.request_id, None, 0)
        [asked] = gap.ask(15_000)
        gap.exchange(asked)
        gap.go_on(15_000)
        gap.sync(None, 15_000)
        gap.machine.receive_sync(SyncKeys(), since=None, next_batch="s99", now=15_000)
        [asked] = gap.ask(15_000)
        gap.machine.receive_error(asked.request_id, None, 15_000)
        assert gap.machine.next_request_at() == 30_000


class TestClaims:
    @pytest.fixture
    def with_bob(self, settled: Client, bob: Client) -> Client:
        settled.machine.lists.track([BOB.user_id])
        settled.go_on()
        chosen = settled.machine.devices_for([BOB.user_id], RecipientPolicy.ALL_DEVICES)
        settled.machine.sessions.want(chosen.devices[BOB.user_id].values())
        return settled

    def test_a_key_is_handed_out(self, with_bob: Client) -> None:
        [claim] = with_bob.ask()
        received = with_bob.exchange(claim)
        assert received.claim is not None
        assert not received.claim.keys.rejected
        assert list(received.sessions[BOB.user_id]) == ["B1"]

    def test_a_key_is_never_handed_out_twice(self, with_bob: Client) -> None:
        """Attack 46: not even after a restart."""
        [claim] = with_bob.ask()
        answer = with_bob.server.exchange(ALICE.user_id, "A1", claim.request)
        [key] = with_bob.machine.receive_response(claim.request_id, answer, 0).sessions[BOB.user_id].values()
        with_bob.restart()
        with_bob.machine.sessions.want([key.device])
        [claim] = with_bob.ask()
        received = with_bob.machine.receive_response(claim.request_id, answer, 0)
        assert received.sessions == {}
        assert received.claim is not None
        assert [it.reason for it in received.claim.keys.rejected] == [Reason.KEY_REUSED]

    @pytest.mark.parametrize(("wait", "delay"), [(None, 15_000), (20_000, 20_000)])
    def test_a_claim_that_fails_is_sent_again(self, with_bob: Client, wait: int | None, delay: int) -> None:
        [claim] = with_bob.ask()
        error = MatrixError(status=429, retry_after_ms=wait)
        assert bare(with_bob.machine.receive_error(claim.request_id, error, 0)) == Received()
        assert with_bob.machine.next_request_at() == delay
        assert kinds(with_bob.ask(delay)) == [KeysClaimRequest]

    def test_no_session_with_a_device_that_is_gone(self, with_bob: Client, bob: Client) -> None:
        bob.server.log_out(BOB.user_id, "B1")
        with_bob.machine.lists.mark_outdated([BOB.user_id])
        query = the(KeysQueryRequest, with_bob.ask())
        with_bob.exchange(query)
        assert with_bob.machine.sessions.wanted == set()

    def test_no_session_under_the_keys_of_before(self, with_bob: Client, bob: Client) -> None:
        changed = DeviceKeys.build(
            user_id=BOB.user_id,
            device_id="B1",
            curve25519_key=sample_curve25519_key("another"),
            signer=BOB.device_signer("B1"),
        )
        bob.server.exchange(BOB.user_id, "B1", KeysUploadRequest.for_keys(device_keys=changed))
        with_bob.machine.lists.mark_outdated([BOB.user_id])
        asked = with_bob.ask()
        with_bob.exchange(the(KeysQueryRequest, asked))
        assert with_bob.exchange(the(KeysClaimRequest, asked)).sessions == {}
        assert kinds(with_bob.ask()) == [KeysClaimRequest]

    def test_answers_about_others_leave_it_alone(self, with_bob: Client) -> None:
        stranger = SampleUser("@carol:c.example")
        with_bob.machine.sessions.want([stranger.device("C1").verify()])
        with_bob.machine.lists.mark_outdated([ALICE.user_id])
        with_bob.exchange(the(KeysQueryRequest, with_bob.ask()))
        assert with_bob.machine.sessions.wanted == {(BOB.user_id, "B1"), (stranger.user_id, "C1")}


class TestBootstrap:
    def test_nothing_before_the_secrets_are_stored_and_the_device_is_uploaded(self, alice: Client) -> None:
        alice.machine.start_bootstrap(secrets_of(ALICE), reset=True)
        assert kinds(alice.ask()) == [KeysQueryRequest]
        alice.store()
        [upload] = alice.ask()
        assert isinstance(upload.request, KeysUploadRequest)
        assert alice.machine.next_request_at() is None
        alice.exchange(upload)
        assert kinds(alice.ask()) == [DeviceSigningUploadRequest]

    def test_a_state_from_before_does_not_hold_the_secrets(self, settled: Client) -> None:
        state = settled.machine.to_json()
        settled.machine.start_bootstrap(secrets_of(ALICE), reset=True)
        settled.machine.mark_stored(state)
        assert settled.ask() == []
        settled.store()
        assert kinds(settled.ask()) == [DeviceSigningUploadRequest]

    def test_from_the_beginning_to_the_end(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        received = settled.go_on()
        assert [it for it in received if it.signatures is not None and it.signatures.is_complete]
        assert received[-1].confirmation is not None
        assert received[-1].confirmation.is_complete
        assert changes_of(received) == [
            ChangeKind.IDENTITY_ADDED,
            ChangeKind.IDENTITY_STATE_CHANGED,
            ChangeKind.CROSS_SIGNED,
        ]
        assert settled.machine.users.own is not None
        assert settled.machine.users.users[ALICE.user_id].pin.state is IdentityState.VERIFIED

    def test_an_identity_that_is_there_is_not_replaced_unless_one_says_so(self, settled: Client) -> None:
        cross_signed(settled)
        before = settled.machine.to_json()
        with pytest.raises(LocalProtocolError) as caught:
            settled.machine.start_bootstrap(secrets_of(SampleUser(ALICE.user_id, 1)))
        assert caught.value.reason is Reason.WRONG_STATE
        assert settled.machine.to_json() == before

    def test_the_server_asks_for_the_password(self, settled: Client) -> None:
        cross_signed(settled)
        settled.machine.start_bootstrap(secrets_of(SampleUser(ALICE.user_id, 1)), reset=True)
        [received] = settled.go_on()
        assert received.authentication is not None
        for password in ("guess", PASSWORD):
            credentials = {"password": password}
            settled.machine.signing.authenticate(received.authentication.auth("m.login.password", credentials))
            [asked] = settled.ask()
            received = settled.exchange(asked)
            assert (received.authentication is None) is (password == PASSWORD)
            if received.authentication is None:
                break
        settled.go_on()
        master = settled.server.master_key(ALICE.user_id)
        assert master is not None
        assert master.public_key == SampleUser(ALICE.user_id, 1).master_public_key
        own = settled.machine.users.own
        assert own is not None
        assert own.identity.master_key == master

    def test_what_failed_is_sent_again(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        settled.store()
        [asked] = settled.ask()
        assert settled.machine.receive_error(asked.request_id, None, 0) == Received()
        assert settled.machine.next_request_at() == 15_000
        [again] = settled.ask(15_000)
        assert again.request == asked.request

    def test_an_answer_to_a_question_from_before_is_no_news(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        settled.store()
        settled.machine.lists.mark_all_outdated()
        asked = settled.ask()
        query = the(KeysQueryRequest, asked)
        older = settled.server.exchange(ALICE.user_id, "A1", query.request)
        settled.exchange(the(DeviceSigningUploadRequest, asked))
        assert settled.machine.receive_response(query.request_id, older, 0).changes == ()
        user = settled.machine.users.users[ALICE.user_id]
        assert (user.identity is None, user.pin.is_vanished) == (False, False)
        assert settled.machine.lists.outdated == {ALICE.user_id}

    def test_one_set_up_after_the_other(self, settled: Client) -> None:
        """A second one waits for what is under way of the first one, whose answer does not concern it."""
        machine, second = settled.machine, SampleUser(ALICE.user_id, 1)
        machine.start_bootstrap(secrets_of(ALICE))
        settled.store()
        [first] = settled.ask()
        machine.start_bootstrap(secrets_of(second), reset=True)
        settled.store()
        assert settled.ask() == []
        assert machine.next_request_at() is None
        assert settled.exchange(first) == Received()
        assert machine.users.own is None
        [asked] = settled.ask()
        received = settled.exchange(asked)
        assert received.authentication is not None
        machine.signing.authenticate(received.authentication.auth("m.login.password", {"password": PASSWORD}))
        settled.go_on()
        assert machine.users.own is not None
        assert machine.users.own.identity.master_public_key == second.master_public_key
        assert machine.users.users[ALICE.user_id].pin.state is IdentityState.VERIFIED

    def test_signatures_of_an_identity_that_was_replaced_are_not_sent(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        settled.store()
        [keys] = settled.ask()
        settled.exchange(keys)
        asked = settled.ask()
        signatures, query = the(SignaturesUploadRequest, asked), the(KeysQueryRequest, asked)
        other = secrets_of(SampleUser(ALICE.user_id, 1)).public_keys().upload_request()
        other = other.with_auth({"session": "session", "password": PASSWORD})
        settled.server.exchange(ALICE.user_id, "A1", other)
        received = settled.exchange(signatures)
        assert received.signatures is not None
        assert not received.signatures.is_complete
        assert settled.machine.next_request_at() == 15_000
        assert ChangeKind.MASTER_KEY_CHANGED in changes_of([settled.exchange(query)])
        assert settled.machine.next_request_at() is None
        assert settled.ask(10**9) == []

    def test_signatures_wait_until_the_server_has_the_keys(self, settled: Client, bob: Client) -> None:
        cross_signed(settled)
        machine = settled.machine
        machine.signing.sign_own_master_key()
        machine.start_bootstrap(secrets_of(SampleUser(ALICE.user_id, 1)), reset=True)
        settled.store()
        assert kinds(settled.ask()) == [DeviceSigningUploadRequest]
        assert machine.next_request_at() is None

    def test_both_confirmations_are_reported(self, settled: Client) -> None:
        machine = settled.machine
        machine.start_bootstrap(secrets_of(ALICE))
        settled.store()
        [keys] = settled.ask()
        settled.exchange(keys)
        machine.signing.sign_own_master_key()
        asked = settled.ask()
        assert kinds(asked).count(SignaturesUploadRequest) == 2
        for outgoing in asked:
            if isinstance(outgoing.request, SignaturesUploadRequest):
                settled.exchange(outgoing)
        machine.receive_error(the(KeysQueryRequest, asked).request_id, None, 0)
        received = settled.exchange(the(KeysQueryRequest, settled.ask(15_000)))
        assert received.confirmation is not None
        assert received.confirmation.is_complete
        assert len(received.confirmation.served) == 5

    def test_it_goes_on_after_a_crash(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        settled.store()
        [asked] = settled.ask()
        settled.server.exchange(ALICE.user_id, "A1", asked.request)
        settled.restart()
        assert settled.machine.signing.secrets is None
        settled.machine.signing.use_secrets(secrets_of(ALICE))
        settled.go_on()
        bootstrap = settled.machine.signing.bootstrap
        assert bootstrap is not None
        assert bootstrap.state is BootstrapState.DONE
        settled.restart()
        assert settled.machine.signing.bootstrap is not None
        assert settled.ask() == []

    def test_secrets_are_dropped_if_somebody_replaces_the_identity(self, settled: Client) -> None:
        cross_signed(settled)
        other = Client(settled.server, ALICE, "A2")
        other.go_on()
        other.machine.start_bootstrap(secrets_of(SampleUser(ALICE.user_id, 1)), reset=True)
        [asked] = [it for it in other.go_on() if it.authentication]
        assert asked.authentication is not None
        other.machine.signing.authenticate(asked.authentication.auth("m.login.password", {"password": PASSWORD}))
        other.go_on()
        settled.machine.lists.mark_all_outdated()
        [received] = settled.go_on()
        assert received.stale_secrets == ("master", "self_signing", "user_signing")
        assert ChangeKind.MASTER_KEY_CHANGED in changes_of([received])
        received_later = settled.machine.users.confirm_own_identity(SampleUser(ALICE.user_id, 1).master_public_key)
        assert received_later

    def test_secrets_that_fit_confirm_the_identity(self, settled: Client) -> None:
        cross_signed(settled)
        other = Client(settled.server, ALICE, "A2")
        other.machine.signing.use_secrets(secrets_of(ALICE))
        changes = changes_of(other.go_on())
        assert changes[-1] is ChangeKind.IDENTITY_STATE_CHANGED
        assert other.machine.users.users[ALICE.user_id].pin.is_verified


class TestSignatures:
    @pytest.fixture
    def verifying(self, settled: Client, bob: Client) -> Client:
        cross_signed(settled)
        cross_signed(bob)
        settled.machine.lists.track([BOB.user_id])
        settled.go_on()
        settled.machine.signing.verify_user(BOB.user_id, BOB.master_public_key)
        return settled

    def test_they_are_uploaded_and_confirmed(self, verifying: Client) -> None:
        name = (BOB.user_id, BOB.master_public_key.to_base64())
        [upload] = verifying.ask()
        received = verifying.exchange(upload)
        assert received.signatures is not None
        assert received.signatures.stored == {BOB.user_id: {name[1]}}
        assert verifying.machine.signing.queue.unconfirmed == {name}
        assert verifying.machine.lists.outdated == {BOB.user_id}
        [received] = verifying.go_on()
        assert received.confirmation is not None
        assert [it.name for it in received.confirmation.served] == [name[1]]
        assert verifying.machine.signing.queue.unconfirmed == set()

    def test_what_is_refused_is_given_up(self, verifying: Client) -> None:
        del verifying.server.users[BOB.user_id].identity["master_key"]
        [upload] = verifying.ask()
        received = verifying.exchange(upload)
        assert received.signatures is not None
        assert [it.name for it in received.signatures.refused] == [BOB.master_public_key.to_base64()]
        assert verifying.ask() == []

    def test_what_fails_is_sent_again(self, verifying: Client) -> None:
        [upload] = verifying.ask()
        assert bare(verifying.machine.receive_error(upload.request_id, MatrixError(status=502), 0)) == Received()
        assert verifying.machine.next_request_at() == 15_000
        assert [it.request for it in verifying.ask(15_000)] == [upload.request]

    def test_they_survive_a_restart(self, verifying: Client) -> None:
        verifying.restart()
        assert kinds(verifying.ask()) == [SignaturesUploadRequest]

    def test_they_wait_for_the_device(self, verifying: Client) -> None:
        verifying.machine.upload_device()
        assert kinds(verifying.ask()) == [KeysUploadRequest]
        assert verifying.machine.next_request_at() is None


class TestUploadDevice:
    def test_once_more(self, settled: Client) -> None:
        settled.server.log_out(ALICE.user_id, "A1")
        settled.server.log_in(ALICE.user_id, "A1")
        settled.machine.upload_device()
        assert not settled.machine.is_uploaded
        settled.go_on()
        assert settled.server.device(ALICE.user_id, "A1") == settled.machine.device.keys

    def test_no_signature_is_lost(self, settled: Client) -> None:
        """Another device has signed this one, which has no private key itself."""
        owner = cross_signed(Client(settled.server, ALICE, "A2"))
        owner.go_on()
        owner.machine.lists.mark_all_outdated()
        owner.go_on()
        owner.machine.signing.verify_device("A1", ALICE.device_signer("A1").public_key)
        owner.go_on()
        settled.machine.lists.mark_all_outdated()
        settled.go_on()
        assert settled.machine.users.users[ALICE.user_id].devices["A1"].is_cross_signed
        settled.machine.upload_device()
        settled.go_on()
        settled.machine.lists.mark_all_outdated()
        assert changes_of(settled.go_on()) == []
        assert settled.machine.users.users[ALICE.user_id].devices["A1"].is_cross_signed

    def test_something_new(self, settled: Client) -> None:
        new = ALICE.device("A1", cross_signed=False, extra={"version": 2})
        settled.machine.upload_device(new)
        assert settled.ask() == []
        settled.store()
        [upload] = settled.ask()
        settled.exchange(upload)
        assert settled.server.device(ALICE.user_id, "A1") == new
        assert settled.machine.device.keys == new
        assert settled.machine.signing.device == settled.machine.device
        settled.restart()
        assert settled.machine.device.keys == new

    def test_what_the_server_has_already(self, settled: Client) -> None:
        settled.machine.upload_device(settled.machine.device.keys)
        assert settled.machine.is_uploaded
        assert settled.ask() == []

    def test_what_the_server_has_already_and_this_device_has_forgotten(self, settled: Client) -> None:
        new = ALICE.device("A1", cross_signed=False, extra={"version": 2})
        state = settled.store()
        settled.machine.upload_device(new)
        settled.go_on()
        settled.restart(state)
        settled.machine.lists.mark_all_outdated()
        assert ChangeKind.OWN_DEVICE_OUTDATED in changes_of(settled.go_on())
        settled.machine.upload_device(new)
        assert settled.machine.is_uploaded
        settled.machine.lists.mark_all_outdated()
        assert changes_of(settled.go_on()) == []

    def test_what_nobody_has_seen_at_the_server(self, settled: Client) -> None:
        settled.server.log_out(ALICE.user_id, "A1")
        settled.server.log_in(ALICE.user_id, "A1")
        settled.machine.lists.mark_all_outdated()
        assert ChangeKind.OWN_DEVICE_MISSING in changes_of(settled.go_on())
        settled.machine.upload_device(settled.machine.device.keys)
        assert not settled.machine.is_uploaded

    def test_an_upload_under_way_is_not_the_new_one(self, alice: Client) -> None:
        alice.store()
        older = the(KeysUploadRequest, alice.ask())
        alice.machine.upload_device(ALICE.device("A1", cross_signed=False, extra={"version": 2}))
        alice.store()
        alice.exchange(older)
        assert not alice.machine.is_uploaded
        alice.go_on()
        assert alice.machine.is_uploaded
        assert alice.server.device(ALICE.user_id, "A1") == alice.machine.device.keys

    def test_another_signature_on_the_same_keys(self, settled: Client) -> None:
        new = settled.machine.device.keys
        signer = ALICE.secret("self_signing").cross_signer()
        new = new.with_signed(add_signature(new.signed, entity=ALICE.user_id, signer=signer))
        settled.machine.upload_device(new)
        settled.go_on()
        device = settled.server.device(ALICE.user_id, "A1")
        assert device is not None
        assert device.signed.signatures == new.signed.signatures

    def test_a_signature_that_is_worth_nothing_may_be_lost(self, settled: Client) -> None:
        cross_signed(settled)
        held = settled.server.users[ALICE.user_id].devices["A1"].keys
        assert held is not None
        held["signatures"][ALICE.user_id]["ed25519:junk"] = "junk"
        settled.machine.lists.mark_all_outdated()
        settled.go_on()
        new = ALICE.device("A1", extra={"version": 2})
        settled.machine.upload_device(new)
        settled.go_on()
        assert settled.server.device(ALICE.user_id, "A1") == new

    @pytest.mark.parametrize(
        ("device_keys", "reason"),
        [
            (5, Reason.WRONG_TYPE),
            (ALICE.device("A2"), Reason.DEVICE_ID_MISMATCH),
            (BOB.device("A1"), Reason.DEVICE_ID_MISMATCH),
            (
                DeviceKeys.build(
                    user_id=ALICE.user_id,
                    device_id="A1",
                    curve25519_key=sample_curve25519_key("another"),
                    signer=ALICE.device_signer("A1"),
                ),
                Reason.WOULD_CHANGE_KEYS,
            ),
            (ALICE.device("A1", cross_signed=False, extra={"version": 2}), Reason.WOULD_LOSE_SIGNATURE),
        ],
        ids=["type", "device", "user", "keys", "signature"],
    )
    def test_what_would_do_damage_is_refused(self, settled: Client, device_keys: Any, reason: Reason) -> None:
        cross_signed(settled)
        before = settled.machine.to_json()
        with pytest.raises(LocalProtocolError) as caught:
            settled.machine.upload_device(device_keys)
        assert (caught.value.reason, caught.value.path) == (reason, "/device_keys")
        assert settled.machine.to_json() == before
        assert settled.ask() == []

    def test_a_set_up_has_signed_the_keys_as_they_are(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        new = ALICE.device("A1", extra={"version": 2})
        with pytest.raises(LocalProtocolError) as caught:
            settled.machine.upload_device(new)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_STATE, "/device_keys")
        settled.machine.upload_device(settled.machine.device.keys)
        settled.go_on()
        settled.machine.upload_device(new)
        settled.go_on()
        assert settled.server.device(ALICE.user_id, "A1") == new


class TestRecipients:
    def test_who_is_tracked_and_who_is_outdated(self, settled: Client, bob: Client) -> None:
        machine = settled.machine
        users = [ALICE.user_id, BOB.user_id]
        chosen = machine.devices_for(users, RecipientPolicy.ALL_DEVICES)
        assert chosen.unknown == chosen.outdated == {BOB.user_id}
        machine.lists.track([BOB.user_id])
        settled.go_on()
        chosen = machine.devices_for(iter(users), RecipientPolicy.ALL_DEVICES)
        assert {user_id: list(of) for user_id, of in chosen.devices.items()} == {BOB.user_id: ["B1"]}
        assert chosen.outdated == set()
        machine.lists.mark_outdated([BOB.user_id])
        assert machine.devices_for(users, RecipientPolicy.ALL_DEVICES).outdated == {BOB.user_id}
        settled.go_on()
        machine.lists.untrack([BOB.user_id])
        assert machine.devices_for(users, RecipientPolicy.ALL_DEVICES).outdated == {BOB.user_id}
        assert machine.devices_for([], RecipientPolicy.ALL_DEVICES).outdated == set()


class TestWhen:
    def test_nothing_to_do(self, settled: Client) -> None:
        assert settled.machine.next_request_at() is None

    def test_whatever_there_is(self, alice: Client) -> None:
        now = -(2**61)
        at = alice.machine.next_request_at()
        assert at is not None
        assert at <= now
        assert kinds(alice.ask()) == [KeysQueryRequest]
        assert alice.machine.next_request_at() is None
        alice.store()
        at = alice.machine.next_request_at()
        assert at is not None
        assert at <= now

    def test_keys_to_upload(self, settled: Client) -> None:
        signer = ALICE.device_signer("A1")
        settled.machine.supply.add_one_time_keys({"more": sample_curve25519_key("more")}, signer=signer)
        assert settled.machine.next_request_at() is None
        settled.store()
        assert settled.machine.next_request_at() is not None

    def test_a_set_up_to_go_on_with(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        assert settled.machine.next_request_at() is None
        settled.store()
        assert settled.machine.next_request_at() is not None

    def test_the_earliest_counts(self, settled: Client) -> None:
        settled.machine.lists.mark_all_outdated()
        [query] = settled.ask(0)
        settled.machine.receive_error(query.request_id, None, 100)
        settled.machine.start_bootstrap(secrets_of(ALICE))
        settled.store()
        [asked] = settled.ask(100)
        settled.machine.receive_error(asked.request_id, None, 200)
        assert settled.machine.next_request_at() == 15_100


class TestSync:
    def test_lists_and_counts(self, settled: Client) -> None:
        settled.sync(None)
        settled.go_on()
        since = settled.server.position
        Client(settled.server, ALICE, "A2").go_on()
        settled.sync(since)
        assert settled.machine.lists.outdated == {ALICE.user_id}
        settled.server.users[ALICE.user_id].devices["A1"].one_time_keys.clear()
        settled.sync(settled.server.position, 100_000)
        assert settled.machine.supply.needed(100_000).one_time_keys == 2


# --------------------------------------------------------------------------------------------------------------
# Over a restart
# --------------------------------------------------------------------------------------------------------------


def _stored() -> Any:
    """A state with something of everything in it."""
    server = FakeServer()
    alice, bob = Client(server, ALICE, "A1"), Client(server, BOB, "B1")
    for client in (alice, bob):
        client.go_on()
        cross_signed(client)
    alice.machine.lists.track([BOB.user_id])
    alice.sync(None)
    alice.go_on()
    alice.machine.sessions.want(alice.machine.users.users[BOB.user_id].devices.values())
    alice.go_on()
    alice.machine.signing.verify_user(BOB.user_id, BOB.master_public_key)
    alice.machine.supply.add_one_time_keys({"more": sample_curve25519_key("more")}, signer=ALICE.device_signer("A1"))
    alice.machine.receive_sync(SyncKeys(), since="elsewhere", next_batch="gap", now=0)
    alice.machine.sessions.renew(BOB.device("B1").verify(), 5)
    alice.machine._unknown_senders.add(BOB.user_id, sample_curve25519_key("unknown"))
    return alice.store()


STORED = _stored()
SIGNER = ALICE.device_signer("A1")


def restored(state: object) -> KeyMachine:
    return KeyMachine.from_json(state, signer=SIGNER, policy=POLICY)


def places(tree: Any, *at: Any) -> Iterator[tuple[Any, ...]]:
    """Yield every place in a tree."""
    yield at
    for name in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[name], *at, name)


PLACES = list(places(STORED))[1:]
SOME_ANSWER: Any = {
    "device_keys": {ALICE.user_id: {}, BOB.user_id: {}},
    "one_time_keys": {},
    "one_time_key_counts": {},
}


def inside(tree: Any, at: tuple[Any, ...]) -> Any:
    for name in at:
        tree = tree[name]
    return tree


class TestStored:
    def test_everything_comes_back(self) -> None:
        machine = restored(copy.deepcopy(STORED))
        assert machine.to_json() == STORED
        assert machine.is_uploaded
        assert machine.device.keys == ALICE.device("A1", cross_signed=False)
        assert machine.supply.policy == POLICY
        assert KeyMachine.from_json(STORED, signer=SIGNER).supply.policy == SupplyPolicy()

    def test_what_comes_back_is_stored(self) -> None:
        assert set(kinds(restored(STORED).outgoing_requests(0))) == {
            KeysUploadRequest,
            SignaturesUploadRequest,
            KeysChangesRequest,
            KeysClaimRequest,
        }

    def test_who_is_wanted_again_is_the_device_that_is_known(self) -> None:
        """What is stored of the wish does not tell who has cross-signed the device."""
        machine = restored(STORED)
        [claim] = [it for it in [machine.sessions.next_claim(0)] if it is not None]
        known = machine.users.users[BOB.user_id].devices["B1"]
        assert known.is_cross_signed
        assert claim.devices == {BOB.user_id: {"B1": known}}

    def test_so_is_one_of_whose_owner_nothing_is_known(self, settled: Client) -> None:
        stranger = SampleUser("@carol:c.example").device("C1").verify()
        known = ALICE.device("A9", cross_signed=False).verify()
        for device in (stranger, known):
            assert settled.machine.sessions.renew(device, 0)
        settled.restart()
        assert settled.machine.sessions.wanted == {(stranger.user_id, "C1"), (ALICE.user_id, "A9")}

    def test_it_signed_itself_according_to_the_verifier_of_the_machine(self, settled: Client) -> None:
        stranger = SampleUser("@carol:c.example").device("C1").verify()

        class NotTheStranger:
            def verify_many(self, checks: Any) -> list[bool]:
                return [key != stranger.ed25519_key.raw for key, _, _ in checks]

        settled.machine.sessions.renew(stranger, 0)
        with pytest.raises(LocalProtocolError) as caught:
            KeyMachine.from_json(settled.machine.to_json(), signer=SIGNER, verifier=NotTheStranger())
        assert caught.value.path.startswith("/sessions/renewals/0")

    def test_a_set_up_that_comes_back_is_stored(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        settled.restart(json.loads(json.dumps(settled.machine.to_json())))
        assert kinds(settled.ask()) == [DeviceSigningUploadRequest]

    def test_a_device_that_comes_back_is_uploaded(self, alice: Client) -> None:
        alice.restart(json.loads(json.dumps(alice.machine.to_json())))
        assert set(kinds(alice.ask())) == {KeysUploadRequest, KeysQueryRequest}

    def test_a_new_revision_is_not_that_which_was_stored(self, settled: Client) -> None:
        settled.restart()
        settled.machine.upload_device(ALICE.device("A1", cross_signed=False, extra={"version": 2}))
        assert settled.ask() == []

    def test_an_older_state_is_no_step_back(self, alice: Client) -> None:
        first = alice.machine.to_json()
        alice.machine.upload_device(ALICE.device("A1", cross_signed=False, extra={"version": 2}))
        alice.store()
        alice.machine.mark_stored(first)
        assert set(kinds(alice.ask())) == {KeysUploadRequest, KeysQueryRequest}

    def test_no_private_key_shows(self, settled: Client) -> None:
        cross_signed(settled)
        shown = json.dumps(settled.machine.to_json()) + repr(settled.machine)
        for text in secrets_of(ALICE).export_seeds().values():
            assert text not in shown

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            (lambda it: it.pop("revision"), "/revision"),
            (lambda it: it.update(revision=0), "/revision"),
            (lambda it: it.update(revision=99), "/revision"),
            (lambda it: it.update(revision=True), "/revision"),
            (lambda it: it.pop("supply"), "/supply"),
            (lambda it: it["supply"].update(revision=99), "/supply/revision"),
            (lambda it: it["supply"].update(revision=None), "/supply/revision"),
        ],
    )
    def test_what_was_never_stored(self, alice: Client, change: Callable[[Any], object], path: str) -> None:
        state: Any = copy.deepcopy(alice.machine.to_json())
        change(state)
        with pytest.raises(LocalProtocolError) as caught:
            alice.machine.mark_stored(state)
        assert caught.value.path == path
        assert kinds(alice.ask()) == [KeysQueryRequest]

    @pytest.mark.parametrize(
        ("at", "value", "path"),
        [
            (("version",), 2, "/version"),
            (("revision",), 0, "/revision"),
            (("revision",), "1", "/revision"),
            (("is_uploaded",), 1, "/is_uploaded"),
            (("device",), None, "/device"),
            (("device", "signatures"), {}, "/device"),
            (("lists", "token"), 5, "/lists/token"),
            (("lists", "own_user_id"), BOB.user_id, "/lists"),
            (("users", "own_user_id"), BOB.user_id, "/users"),
            (("users", "users"), None, "/users/users"),
            (("supply", "device_id"), "A2", "/supply"),
            (("supply", "version"), 5, "/supply/version"),
            (("sessions", "used"), [5], "/sessions/used/0"),
            (("sessions", "renewals"), [5], "/sessions/renewals/0"),
            (("unknown_senders",), None, "/unknown_senders"),
            (("unknown_senders", BOB.user_id), {}, "/unknown_senders/@bob:b.example"),
            (("unknown_senders", BOB.user_id), ["A"], "/unknown_senders/@bob:b.example/0"),
            (("unknown_senders", BOB.user_id), [5], "/unknown_senders/@bob:b.example/0"),
            (("unknown_senders", "bob"), [], "/unknown_senders/bob"),
            (("signatures",), [], "/signatures"),
            (("signatures", "signatures"), 5, "/signatures/signatures"),
            (("bootstrap",), 5, "/bootstrap"),
            (("bootstrap", "state"), "x", "/bootstrap/state"),
        ],
        ids=str,
    )
    def test_damage_is_found(self, at: tuple[str, ...], value: Any, path: str) -> None:
        state = copy.deepcopy(STORED)
        inside(state, at[:-1])[at[-1]] = value
        with pytest.raises(LocalProtocolError) as caught:
            restored(state)
        assert caught.value.path.startswith(path)

    def test_parts_of_other_machines(self, alice: Client) -> None:
        other = Client(alice.server, ALICE, "A2")
        cross_signed(other)
        state = alice.store()
        foreign = other.store()
        for name, path, reason in (
            ("supply", "/supply/device_keys", Reason.DEVICE_ID_MISMATCH),
            ("bootstrap", "/bootstrap", Reason.NOT_OWN_USER),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                restored({**state, name: foreign[name]})
            assert (caught.value.path, caught.value.reason) == (path, reason)
        state["supply"]["ed25519_key"] = BOB.device_signer("A1").public_key.to_base64()
        with pytest.raises(LocalProtocolError) as caught:
            restored(state)
        assert caught.value.reason is Reason.PRIVATE_KEY_MISMATCH

    @given(st.sampled_from(PLACES), st.data())
    def test_any_damage_is_found_or_does_no_harm(self, at: tuple[Any, ...], data: st.DataObject) -> None:
        state = copy.deepcopy(STORED)
        around = inside(state, at[:-1])
        elsewhere = st.sampled_from(PLACES).map(lambda place: copy.deepcopy(inside(STORED, place)))
        value = data.draw(
            elsewhere | st.none() | st.integers() | st.booleans() | st.text(max_size=4) | json_like_values()
        )
        if data.draw(st.booleans()):
            around[at[-1]] = value
        elif isinstance(around, dict):
            del around[at[-1]]
        else:
            around.insert(at[-1], value)
        try:
            machine = restored(state)
        except LocalProtocolError:
            return
        assert machine.to_json() == restored(machine.to_json()).to_json()
        machine.receive_sync(SyncKeys(), since=None, next_batch="x", now=0)
        machine.upload_device()
        for _ in range(3):
            for outgoing in machine.outgoing_requests(0):
                answer = outgoing.request.answer_type().from_json(SOME_ANSWER)
                machine.receive_response(outgoing.request_id, answer, 0)

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        with pytest.raises(LocalProtocolError):
            restored(value)


class TestCallers:
    def test_wrong_types(self, settled: Client) -> None:
        made: Any = settled.machine
        keys: Any = ALICE.device("A1")
        made.lists.mark_all_outdated()
        [query] = settled.ask()
        before = made.to_json()
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: KeyMachine.create(5, signer=SIGNER), "/device_keys"),  # type: ignore[arg-type]
            (lambda: KeyMachine.create(keys, signer=5), "/signer"),  # type: ignore[arg-type]
            (lambda: KeyMachine.create(keys, signer=ALICE.device_signer("A2")), "/signer"),
            (lambda: KeyMachine.create(keys, signer=SIGNER, policy=5), "/policy"),  # type: ignore[arg-type]
            (lambda: KeyMachine.create(keys, signer=SIGNER, verifier=5), "/verifier"),  # type: ignore[arg-type]
            (lambda: KeyMachine.from_json(STORED, signer=5), "/signer"),  # type: ignore[arg-type]
            (lambda: KeyMachine.from_json(STORED, signer=BOB.device_signer("A1")), "/signer"),
            (lambda: KeyMachine.from_json(STORED, signer=SIGNER, policy=5), "/policy"),  # type: ignore[arg-type]
            (lambda: KeyMachine.from_json(STORED, signer=SIGNER, verifier=5), "/verifier"),  # type: ignore[arg-type]
            (lambda: made.outgoing_requests("0"), "/now"),
            (lambda: made.outgoing_requests(True), "/now"),
            (lambda: made.receive_response(query.request_id, KeysQueryResponse(), None), "/now"),
            (lambda: made.receive_response(5, KeysQueryResponse(), 0), "/request_id"),
            (lambda: made.receive_response([], KeysQueryResponse(), 0), "/request_id"),
            (lambda: made.receive_response(query.request_id, MatrixError(status=400), 0), "/response"),
            (lambda: made.receive_error(query.request_id, None, 0.5), "/now"),
            (lambda: made.receive_error(None, None, 0), "/request_id"),
            (lambda: made.receive_error(query.request_id, ValueError(), 0), "/error"),
            (lambda: made.receive_error("unknown", KeysQueryResponse(), 0), "/error"),
            (lambda: made.receive_sync(None, since=None, next_batch="x", now=0), "/keys"),
            (lambda: made.receive_sync(SyncKeys(), since=5, next_batch="x", now=0), "/since"),
            (lambda: made.receive_sync(SyncKeys(), since=None, next_batch=5, now=0), "/next_batch"),
            (lambda: made.receive_sync(SyncKeys(), since=None, next_batch="x", now=None), "/now"),
            (lambda: made.start_bootstrap(5, reset=True), "/secrets"),
            (lambda: made.start_bootstrap(secrets_of(ALICE), reset=1), "/reset"),
            (lambda: made.devices_for(5, RecipientPolicy.ALL_DEVICES), "/user_ids"),
            (lambda: made.devices_for(["bob"], RecipientPolicy.ALL_DEVICES), "/user_ids"),
            (lambda: made.devices_for([], "all-devices"), "/policy"),
            (lambda: made.mark_stored(None), ""),
        ]
        for call, path in calls:
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.path.startswith(path)
            assert made.to_json() == before
        assert settled.exchange(query).query is not None

    def test_there_is_no_public_constructor(self) -> None:
        made: Any = KeyMachine
        with pytest.raises(LocalProtocolError):
            made()

    @given(st.lists(json_like_values(), min_size=3, max_size=3), st.integers(0, 7))
    def test_no_foreign_exception(self, values: list[Any], number: int) -> None:
        made: Any = MACHINE
        one, two, three = values
        calls: list[Callable[[], object]] = [
            lambda: KeyMachine.create(one, signer=two, policy=three),
            lambda: made.receive_response(one, two, three),
            lambda: made.receive_error(one, two, three),
            lambda: made.receive_sync(SyncKeys(), since=one, next_batch=two, now=three),
            lambda: made.outgoing_requests(one),
            lambda: made.upload_device(one),
            lambda: made.start_bootstrap(one, reset=two),
            lambda: made.devices_for(one, two),
            lambda: made.mark_stored(one),
        ]
        with contextlib.suppress(E2EKeysError):
            calls[number]()


MACHINE = restored(STORED)


class TestShortWays:
    def test_keys_are_signed_by_the_machine(self, alice: Client) -> None:
        alice.machine.add_one_time_keys({"A": sample_curve25519_key("A")})
        alice.machine.add_fallback_key("F", sample_curve25519_key("F"), 0)
        assert alice.machine.needs_storing
        alice.store()
        assert not alice.machine.needs_storing
        upload = the(KeysUploadRequest, alice.ask()).request
        assert isinstance(upload, KeysUploadRequest)
        assert [*upload.one_time_keys, *upload.fallback_keys] == ["signed_curve25519:A", "signed_curve25519:F"]

    def test_a_set_up_needs_storing(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        assert settled.machine.needs_storing

    def test_when_to_wake(self, settled: Client) -> None:
        machine = settled.machine
        assert machine.next_request_at() is None
        week = 7 * 24 * 3_600_000
        assert machine.next_wake_at() == week
        assert machine.supply.needed(week).fallback_key
        machine.lists.track([BOB.user_id])
        wake = machine.next_wake_at()
        assert wake is not None
        assert wake <= 0

    def test_trust_in_a_device_that_is_known(self, settled: Client) -> None:
        key = ALICE.device_signer("A1").public_key
        settled.machine.set_trust(ALICE.user_id, "A1", key, LocalTrust.BLACKLISTED)
        assert settled.machine.users.users[ALICE.user_id].trust_of("A1") is LocalTrust.BLACKLISTED

    @pytest.mark.parametrize(
        ("user_id", "device_id", "key"),
        [
            (ALICE.user_id, "A1", ALICE.device_signer("A2").public_key),
            (ALICE.user_id, "A2", ALICE.device_signer("A2").public_key),
            (BOB.user_id, "A1", ALICE.device_signer("A1").public_key),
            (None, "A1", None),
            (ALICE.user_id, [], None),
        ],
    )
    def test_not_in_one_that_is_not(self, settled: Client, user_id: Any, device_id: Any, key: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            settled.machine.set_trust(user_id, device_id, key, LocalTrust.BLACKLISTED)
        assert caught.value.reason is Reason.SIGNING_KEY_CHANGED

    def test_a_device_that_is_forgotten_is_asked_for(self, settled: Client, bob: Client) -> None:
        settled.machine.lists.track([BOB.user_id])
        settled.go_on()
        settled.machine.forget_device(BOB.user_id, "B1")
        assert settled.machine.lists.outdated == {BOB.user_id}
        assert changes_of(settled.go_on()) == [ChangeKind.DEVICE_ADDED]

    def test_a_device_that_the_server_has_already(self, settled: Client) -> None:
        again = KeyMachine.create(
            settled.machine.device.keys, signer=ALICE.device_signer("A1"), is_uploaded=True, policy=POLICY
        )
        state = again.to_json()
        again.mark_stored(state)
        assert kinds(again.outgoing_requests(0)) == [KeysQueryRequest]
        with pytest.raises(LocalProtocolError) as caught:
            KeyMachine.create(settled.machine.device.keys, signer=ALICE.device_signer("A1"), is_uploaded=1)  # type: ignore[arg-type]
        assert caught.value.path == "/is_uploaded"

    def test_an_answer_that_cannot_be_read_is_none(self, settled: Client) -> None:
        settled.machine.lists.track([BOB.user_id])
        query = the(KeysQueryRequest, settled.ask())
        error = RemoteProtocolError(Reason.NOT_JSON, "garbage")
        assert settled.machine.receive_error(query.request_id, error, 0).error is error
        assert settled.machine.next_request_at() == 15_000

    def test_everybody_is_outdated_while_there_is_a_gap(self, settled: Client, bob: Client) -> None:
        settled.sync(None)
        settled.machine.lists.track([BOB.user_id])
        settled.go_on()
        settled.machine.receive_sync(SyncKeys(), since="elsewhere", next_batch="later", now=0)
        recipients = settled.machine.devices_for([BOB.user_id], RecipientPolicy.ALL_DEVICES)
        assert recipients.outdated == {BOB.user_id}


class TestWhatIsNotServedYet:
    def go_on_while_a_signature_is_left_out(self, settled: Client, now: int) -> None:
        server = settled.server
        while asked := settled.ask(now):
            for outgoing in asked:
                if isinstance(outgoing.request, KeysQueryRequest):
                    answer = server.exchange(ALICE.user_id, "A1", outgoing.request)
                    assert isinstance(answer, KeysQueryResponse)
                    body: Any = answer.to_json()
                    for keys in body["device_keys"][ALICE.user_id].values():
                        own = keys["signatures"][ALICE.user_id]
                        keys["signatures"] = {ALICE.user_id: {"ed25519:A1": own["ed25519:A1"]}}
                    late = KeysQueryResponse.from_json(body)
                    settled.machine.receive_response(outgoing.request_id, late, now)
                else:
                    settled.exchange(outgoing, now)

    def test_one_looks_again(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE))
        settled.make_keys()
        settled.store()
        self.go_on_while_a_signature_is_left_out(settled, 0)
        bootstrap = settled.machine.signing.bootstrap
        assert bootstrap is not None
        assert bootstrap.state is BootstrapState.CONFIRM
        assert settled.machine.next_request_at() == 15_000
        self.go_on_while_a_signature_is_left_out(settled, 15_000)
        assert settled.machine.next_request_at() == 45_000, "though the others are served"
        settled.go_on(45_000)
        assert bootstrap.state is BootstrapState.DONE
        assert settled.machine.next_request_at() is None

    @pytest.fixture
    def waiting(self, settled: Client) -> Client:
        """A device that will look again at 15,000."""
        settled.machine.start_bootstrap(secrets_of(ALICE))
        settled.make_keys()
        settled.store()
        self.go_on_while_a_signature_is_left_out(settled, 0)
        assert settled.machine.next_request_at() == 15_000
        return settled

    def test_there_is_nothing_to_send_while_one_looks_already(self, waiting: Client) -> None:
        waiting.machine.lists.mark_outdated([ALICE.user_id])
        (query,) = waiting.ask(1_000)
        assert waiting.machine.next_request_at() is None
        assert waiting.ask(15_000) == []
        assert waiting.machine.next_request_at() is None
        waiting.exchange(query, 16_000)
        bootstrap = waiting.machine.signing.bootstrap
        assert bootstrap is not None
        assert bootstrap.state is BootstrapState.DONE
        assert waiting.machine.next_request_at() is None, "what was looked for has been seen"

    def test_one_looks_no_earlier_than_the_server_can_be_asked(self, waiting: Client) -> None:
        waiting.machine.lists.mark_outdated([ALICE.user_id])
        (query,) = waiting.ask(1_000)
        waiting.machine.receive_error(query.request_id, None, 2_000)
        assert waiting.machine.next_request_at() == 17_000
        assert waiting.ask(16_999) == []
        assert kinds(waiting.ask(17_000)) == [KeysQueryRequest]

    def test_after_a_restart_one_looks_at_once(self, waiting: Client) -> None:
        waiting.restart()
        assert kinds(waiting.ask(1_000)) == [KeysQueryRequest]


class TestTwoDevicesAtOnce:
    def test_the_later_one_gives_up(self, settled: Client, server: FakeServer) -> None:
        second = Client(server, ALICE, "A2")
        second.go_on()
        second.machine.start_bootstrap(secrets_of(SampleUser(ALICE.user_id, generation=1)))
        cross_signed(settled)
        second.machine.lists.mark_all_outdated()
        received = second.go_on()
        assert any(it.set_up_given_up for it in received)
        assert second.machine.signing.bootstrap is None
        served = second.machine.users.users[ALICE.user_id].identity
        assert served is not None
        assert served.master_public_key == ALICE.master_public_key

    def test_a_question_for_a_password_makes_one_look(self, settled: Client, server: FakeServer) -> None:
        second = Client(server, ALICE, "A2")
        second.go_on()
        second.machine.start_bootstrap(secrets_of(SampleUser(ALICE.user_id, generation=1)))
        second.store()
        cross_signed(settled)
        (step,) = [it for it in second.ask() if isinstance(it.request, DeviceSigningUploadRequest)]
        received = second.exchange(step)
        assert received.authentication is not None
        assert isinstance(received.error, MatrixError)
        assert any(it.set_up_given_up for it in second.go_on())

    def test_it_is_remembered_over_a_restart_what_a_set_up_may_do(self, settled: Client) -> None:
        settled.machine.start_bootstrap(secrets_of(ALICE), reset=True)
        settled.restart()
        assert (settled.machine.signing.resets, settled.machine.signing.set_ups) == (True, 1)

    def test_a_set_up_that_the_stored_state_does_not_know_waits(self, settled: Client) -> None:
        before = json.loads(json.dumps(settled.machine.to_json()))
        settled.machine.signing.start_bootstrap(secrets_of(ALICE))
        settled.machine.mark_stored(before)
        assert settled.ask() == []
