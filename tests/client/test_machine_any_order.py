"""A key machine on a network without manners: any order, any duplicate, any loss, and crashes in between.

Three devices of two users, each with a model of an Olm account that is stored together with the machine, and a server
that really keeps what it is given. Run it for longer with ``HYPOTHESIS_PROFILE=nightly``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from attrs import define, field, frozen
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from client.fake_server import FakeServer
from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.machine.key_machine import KeyMachine
from matrix_e2e_keys.client.machine.values import OutgoingRequest, Received
from matrix_e2e_keys.client.supply.values import SupplyPolicy
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy
from matrix_e2e_keys.client.users.changes import ChangeKind, KeyChange
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import DeviceSigningUploadRequest
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import E2EKeysError
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

ALICE, BOB = "@alice:a.example", "@bob:b.example"
USERS = (ALICE, BOB)
DEVICES = ((ALICE, "A1"), (ALICE, "A2"), (BOB, "B1"))
GUESTS = ("G1", "G2")
POLICY = SupplyPolicy(target=3)
PASSWORDS = {ALICE: "secret"}
LONG = 100_000_000  # longer than any delay

ERRORS = (
    None,
    MatrixError(status=500),
    MatrixError(status=429, errcode="M_LIMIT_EXCEEDED", retry_after_ms=20_000),
    MatrixError(status=400, errcode="M_UNKNOWN"),
    MatrixError(status=413, errcode="M_TOO_LARGE"),
)


@frozen
class Snapshot:
    """One transaction: what a client has stored last."""

    state: bytes
    next_name: int
    seeds: dict[str, str]
    position: int | None


@define(eq=False)
class Client:
    """A device: the machine, the model of an Olm account, and storage."""

    user_id: str
    device_id: str
    fresh: Iterator[int]
    next_name: int = 0
    position: int | None = None
    life: int = 0
    """How often it has begun anew."""
    versions: int = 0
    made: dict[str, str] = field(factory=dict)
    """Key id to public key, as the Olm account has them now."""
    kept: set[tuple[str, str]] = field(factory=set)
    """Key id and public key of everything that was ever stored."""
    kept_devices: set[DeviceKeys] = field(factory=set)
    kept_masters: set[Ed25519PublicKey] = field(factory=set)
    machine: KeyMachine = field(init=False)
    stored: Snapshot = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.signer = SampleUser(self.user_id).device_signer(self.device_id)
        keys = SampleUser(self.user_id).device(self.device_id, cross_signed=False)
        self.machine = KeyMachine.create(keys, signer=self.signer, policy=POLICY)
        self.machine.lists.track(USERS)
        self.write()

    signer: Any = field(init=False)

    @property
    def name(self) -> tuple[str, str]:
        return self.user_id, self.device_id

    def write(self) -> dict[str, Any]:
        """Store everything in one transaction."""
        secrets = self.machine.signing.secrets
        state = json.dumps(self.machine.to_json()).encode()
        self.stored = Snapshot(state, self.next_name, {} if secrets is None else secrets.export_seeds(), self.position)
        self.kept |= set(self.made.items())
        self.kept_devices.add(self.machine.device.keys)
        if secrets is not None and secrets.master is not None:
            self.kept_masters.add(secrets.master.public_key)
        restored: dict[str, Any] = json.loads(state)
        return restored

    def read(self) -> None:
        """Begin anew with what was stored."""
        self.life += 1
        self.machine = KeyMachine.from_json(json.loads(self.stored.state), signer=self.signer, policy=POLICY)
        self.next_name, self.position = self.stored.next_name, self.stored.position
        if self.stored.seeds:
            self.machine.signing.use_secrets(CrossSigningSecrets.from_seeds(self.user_id, self.stored.seeds))

    def make_keys(self, now: int) -> None:
        """Make as many keys as are needed. The same name stands for another key after a crash."""
        needed = self.machine.supply.needed(now)
        keys = {}
        for _ in range(needed.one_time_keys):
            keys[self._next_name()] = sample_curve25519_key(f"one-time {next(self.fresh)}")
        self.machine.supply.add_one_time_keys(keys, signer=self.signer)
        self.made.update({f"signed_curve25519:{name}": key.to_base64() for name, key in keys.items()})
        if needed.fallback_key:
            name, key = self._next_name(), sample_curve25519_key(f"fallback {next(self.fresh)}")
            self.machine.supply.add_fallback_key(name, key, signer=self.signer, now=now)
            self.made[f"signed_curve25519:{name}"] = key.to_base64()
        if needed.forget_previous_fallback_key:
            self.machine.supply.previous_fallback_forgotten()

    def next_version(self) -> DeviceKeys:
        """Return the device with something new in it, signed by whatever is at hand."""
        self.versions += 1
        keys = SampleUser(self.user_id).device(self.device_id, cross_signed=False, extra={"version": self.versions})
        secrets = self.machine.signing.secrets
        if secrets is None or secrets.self_signing is None:
            return keys
        return merge_signatures(keys, secrets.sign_device(keys.verify()))

    def _next_name(self) -> str:
        self.next_name += 1
        return f"K{self.next_name}"


@frozen
class Answer:
    """An answer on its way back; an error, or ``None`` if there will be none."""

    client: Client
    life: int
    request_id: str
    content: Any


def signing_keys(machine: KeyMachine) -> dict[tuple[str, str], Ed25519PublicKey]:
    """Return the signing key under each id that the machine remembers."""
    keys: dict[tuple[str, str], Ed25519PublicKey] = {}
    for user_id, user in machine.users.users.items():
        keys |= {(user_id, device_id): key for device_id, key in user.removed_devices.items()}
        keys |= {(user_id, device_id): device.ed25519_key for device_id, device in user.devices.items()}
    return keys


class Machines(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.server = FakeServer(passwords=PASSWORDS)
        self.now = 0
        self.fresh = count()
        for user_id, device_id in DEVICES:
            self.server.log_in(user_id, device_id)
        self.clients = [Client(*name, self.fresh) for name in DEVICES]
        self.requests: list[tuple[Client, OutgoingRequest]] = []
        self.answers: list[Answer] = []
        self.touched: set[int] = set()
        self.guests = {(user_id, device_id): 0 for user_id in USERS for device_id in GUESTS}

    @initialize(is_settled=st.booleans(), resets=st.booleans())
    def begin(self, is_settled: bool, resets: bool) -> None:
        """Half of the time, begin with two identities, everybody verified, and Alice's keys on both devices."""
        if is_settled:
            for number in (0, 1, 2):
                self.go_on(number)
            self.bootstrap(0, False)
            self.bootstrap(2, resets)
            for _ in range(2):
                for number in (0, 2, 1):
                    self.go_on(number)
                self.decide(1, 5, ALICE)
                self.decide(0, 1, ALICE)
                self.decide(0, 0, BOB)
                self.decide(2, 0, ALICE)

    def client(self, number: int) -> Client:
        self.touched.add(number)
        return self.clients[number]

    # ----------------------------------------------------------------------------------------------------------
    # What a client does by itself
    # ----------------------------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 2))
    def make_keys(self, number: int) -> None:
        self.client(number).make_keys(self.now)

    @rule(number=st.integers(0, 2), is_noted=st.booleans())
    def store(self, number: int, is_noted: bool) -> None:
        client = self.client(number)
        state = client.write()
        if is_noted:
            client.machine.mark_stored(state)

    @rule(number=st.integers(0, 2))
    def crash(self, number: int) -> None:
        """What is under way is lost; what was answered may still arrive, and must not be taken for something new."""
        self.now += 1
        client = self.client(number)
        client.read()
        self.requests = [it for it in self.requests if it[0] is not client]

    @rule(number=st.integers(0, 2))
    def ask(self, number: int) -> None:
        client = self.client(number)
        client.machine.supply.needed(self.now)  # is told the time, and so can see that the clock was set back
        due = client.machine.next_request_at()
        asked = client.machine.outgoing_requests(self.now)
        assert bool(asked) is (due is not None and due <= self.now), "the time of the next request is wrong"
        assert not client.machine.outgoing_requests(self.now), "the same was asked twice"
        for outgoing in asked:
            self.check_stored(client, outgoing)
            self.requests.append((client, outgoing))

    def check_stored(self, client: Client, outgoing: OutgoingRequest) -> None:
        """Nothing is uploaded that could not be answered for after a crash."""
        if isinstance(outgoing.request, KeysUploadRequest):
            assert outgoing.request.device_keys is None or outgoing.request.device_keys in client.kept_devices
            for key_id, key in (*outgoing.request.one_time_keys.items(), *outgoing.request.fallback_keys.items()):
                assert (key_id, key.public_key.to_base64()) in client.kept  # type: ignore[union-attr]
        if isinstance(outgoing.request, DeviceSigningUploadRequest):
            assert not any(of is client and type(it.request) is type(outgoing.request) for of, it in self.requests)
            master = outgoing.request.master_key
            assert isinstance(master, CrossSigningKey)
            assert master.public_key in client.kept_masters

    @rule(later=st.sampled_from([1, 1_000, 16_000, 61_000, 1_000_000, LONG]))
    def wait(self, later: int) -> None:
        self.now += later

    @rule(earlier=st.sampled_from([999, 15_997, 999_989]))
    def set_the_clock_back(self, earlier: int) -> None:
        self.now -= earlier

    @rule(number=st.integers(0, 2))
    def crash_again_and_again(self, number: int) -> None:
        """What is asked is asked again, by a machine that counts from the same number on."""
        client = self.client(number)
        for _ in range(2):
            self.crash(number)
            self.synchronize(client, client.position, self.server.position)
            client.machine.lists.mark_all_outdated()
            self.ask(number)
            self.requests.sort(key=lambda it: it[0] is client)
            while self.requests and self.requests[-1][0] is client:
                self.serve(len(self.requests) - 1)

    # ----------------------------------------------------------------------------------------------------------
    # The network
    # ----------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), is_answered=st.integers(0, 3).map(bool))
    def carry(self, data: st.DataObject, is_answered: bool) -> None:
        if self.requests:
            self.serve(data.draw(st.integers(0, len(self.requests) - 1)), is_answered=is_answered)

    @rule(data=st.data(), error=st.sampled_from(ERRORS))
    def fail(self, data: st.DataObject, error: MatrixError | None) -> None:
        if self.requests:
            client, outgoing = self.requests.pop(data.draw(st.integers(0, len(self.requests) - 1)))
            self.answers.append(Answer(client, client.life, outgoing.request_id, error))

    def serve(self, place: int, *, is_answered: bool = True) -> None:
        client, outgoing = self.requests.pop(place)
        content: Any
        try:
            content = self.server.exchange(*client.name, outgoing.request)
        except MatrixError as error:
            content = error
        self.answers.append(Answer(client, client.life, outgoing.request_id, content if is_answered else None))

    @rule(data=st.data(), is_kept=st.booleans(), works=st.booleans())
    def deliver(self, data: st.DataObject, is_kept: bool, works: bool) -> None:
        if not self.answers:
            return
        place = data.draw(st.integers(0, len(self.answers) - 1))
        self.take(self.answers[place] if is_kept else self.answers.pop(place), works=works)

    def take(self, answer: Answer, *, works: bool = True) -> None:
        """Let a client take over an answer, and look at what it makes of it."""
        client, machine = answer.client, answer.client.machine
        self.touched.add(self.clients.index(client))
        before = signing_keys(machine)
        if answer.content is None or isinstance(answer.content, MatrixError):
            received = machine.receive_error(answer.request_id, answer.content, self.now)
        else:
            received = machine.receive_response(answer.request_id, answer.content, self.now)
        assert answer.life == client.life or received == Received(), "an answer from before a crash was taken"
        assert received.conflict is None, "an id came with another key"
        self.check_changes(before, signing_keys(machine), received.changes)
        for of_user in received.sessions.values():
            for key in of_user.values():
                if works:
                    machine.sessions.session_opened(key.device)
                else:
                    machine.sessions.session_failed(key.device, self.now)

    def check_changes(
        self,
        before: dict[tuple[str, str], Ed25519PublicKey],
        after: dict[tuple[str, str], Ed25519PublicKey],
        changes: tuple[KeyChange, ...],
    ) -> None:
        """A signing key does not change under one id, unless the device was gone in between, and then it is named."""
        replaced = {(it.user_id, it.device_id) for it in changes if it.kind is ChangeKind.DEVICE_REPLACED}
        assert {name for name, key in before.items() if after.get(name, key) != key} == replaced

    @rule(number=st.integers(0, 2), data=st.data(), begins_anew=st.integers(0, 4).map(lambda it: it == 0))
    def sync(self, number: int, data: st.DataObject, begins_anew: bool) -> None:
        client = self.client(number)
        since = None if begins_anew else client.position
        self.synchronize(client, since, data.draw(st.integers(since or 0, self.server.position)))

    def synchronize(self, client: Client, since: int | None, until: int) -> None:
        keys, next_batch = self.server.sync(*client.name, since, until)
        token = None if since is None else f"s{since}"
        client.machine.receive_sync(keys, since=token, next_batch=next_batch, now=self.now)
        client.position = until

    @rule(number=st.integers(0, 2))
    def go_on(self, number: int) -> None:
        """A time without accidents, for one client."""
        client = self.client(number)
        self.synchronize(client, client.position, self.server.position)
        for _ in range(3):
            self.make_keys(number)
            self.store(number, is_noted=True)
            self.ask(number)
            self.empty_the_network(client)

    def empty_the_network(self, client: Client | None = None) -> None:
        """Let everything arrive, or everything of one client."""
        self.requests.sort(key=lambda it: it[0] is client)
        while self.requests and client in (None, self.requests[-1][0]):
            self.serve(len(self.requests) - 1)
        self.answers.sort(key=lambda it: it.client is client)
        while self.answers and client in (None, self.answers[-1].client):
            self.take(self.answers.pop())

    # ----------------------------------------------------------------------------------------------------------
    # Devices without a machine
    # ----------------------------------------------------------------------------------------------------------

    @rule(user_id=st.sampled_from(USERS), device_id=st.sampled_from(GUESTS))
    def come_or_go(self, user_id: str, device_id: str) -> None:
        """A device comes or goes. Whenever it comes, it has other keys."""
        if device_id in self.server.users[user_id].devices:
            self.server.log_out(user_id, device_id)
            return
        self.guests[user_id, device_id] += 1
        self.server.log_in(user_id, device_id)
        signer = sample_secret_key(f"{user_id} {device_id} {self.guests[user_id, device_id]}")
        keys = DeviceKeys.build(
            user_id=user_id,
            device_id=device_id,
            curve25519_key=sample_curve25519_key(f"{user_id} {device_id}"),
            signer=signer.signer(f"ed25519:{device_id}"),
        )
        self.server.exchange(user_id, device_id, KeysUploadRequest.for_keys(device_keys=keys))

    # ----------------------------------------------------------------------------------------------------------
    # What users do
    # ----------------------------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 2), resets=st.booleans(), is_sent=st.booleans())
    def bootstrap(self, number: int, resets: bool, is_sent: bool = False) -> None:
        client = self.client(number)
        generation = next(self.fresh)
        owner = SampleUser(client.user_id, generation)
        roles = ("master", "self_signing", "user_signing")
        secrets = CrossSigningSecrets(user_id=client.user_id, **{role: owner.secret(role) for role in roles})
        oneself = client.machine.users.users.get(client.user_id)
        may = oneself is not None and oneself.identity is None and not client.machine.signing.is_setting_up
        try:
            client.machine.start_bootstrap(secrets, reset=resets)
            has_begun = True
        except E2EKeysError:
            has_begun = False
        assert has_begun is (may or resets)
        if is_sent:
            self.store(number, is_noted=True)
            self.ask(number)

    @rule(number=st.integers(0, 2), is_right=st.booleans())
    def authenticate(self, number: int, is_right: bool) -> None:
        self.prove(self.client(number), "secret" if is_right else "guess")

    def prove(self, client: Client, password: str) -> None:
        bootstrap = client.machine.signing.bootstrap
        wanted = None if bootstrap is None else bootstrap.authentication
        if wanted is not None:
            client.machine.signing.authenticate(wanted.auth("m.login.password", {"password": password}))

    @rule(number=st.integers(0, 2), action=st.integers(0, 6), other=st.sampled_from(USERS))
    def decide(self, number: int, action: int, other: str) -> None:
        """Whatever the user does; what is out of place is refused."""
        client = self.client(number)
        machine, signing = client.machine, client.machine.signing
        master = self.server.master_key(other)
        shown = SampleUser(other).master_public_key
        if master is not None and master.public_key is not None:
            shown = master.public_key
        actions: list[Callable[[], object]] = [
            lambda: signing.verify_user(other, shown),
            lambda: signing.verify_device("A2", SampleUser(ALICE).device_signer("A2").public_key),
            lambda: machine.users.confirm_own_identity(shown),
            lambda: machine.users.accept_identity(other, shown),
            signing.sign_own_master_key,
            lambda: signing.use_secrets(self.clients[0].machine.signing.secrets),  # type: ignore[arg-type]
            machine.upload_device,
        ]
        with contextlib.suppress(E2EKeysError):
            actions[action]()

    @rule(number=st.integers(0, 2), is_stored=st.booleans())
    def renew_the_device(self, number: int, is_stored: bool) -> None:
        """The device has something new to say, at any moment."""
        client = self.client(number)
        with contextlib.suppress(E2EKeysError):
            client.machine.upload_device(client.next_version())
        if is_stored:
            self.store(number, is_noted=True)
        self.ask(number)

    @rule(number=st.integers(0, 2))
    def want_sessions(self, number: int) -> None:
        client = self.client(number)
        chosen = client.machine.devices_for(USERS, RecipientPolicy.ALL_DEVICES)
        client.machine.sessions.want([device for of in chosen.devices.values() for device in of.values()])

    # ----------------------------------------------------------------------------------------------------------
    # What always holds
    # ----------------------------------------------------------------------------------------------------------

    @invariant()
    def no_id_ever_came_with_two_keys(self) -> None:
        for of_device in self.server.record.values():
            assert all(len(forms) == 1 for forms in of_device.values())

    @invariant()
    def what_is_stored_comes_back(self) -> None:
        for number in self.touched:
            machine, signer = self.clients[number].machine, self.clients[number].signer
            state = json.loads(json.dumps(machine.to_json()))
            assert KeyMachine.from_json(state, signer=signer, policy=POLICY).to_json() == state
        self.touched.clear()

    @invariant()
    def whoever_is_outdated_is_asked_about(self) -> None:
        for client in self.clients:
            if client.machine.lists.outdated or client.machine.lists.next_changes() is not None:
                is_under_way = client in [it[0] for it in self.requests] + [it.client for it in self.answers]
                assert is_under_way or client.machine.next_request_at() is not None

    # ----------------------------------------------------------------------------------------------------------
    # In the end
    # ----------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everything arrives at last, and everybody agrees with the server."""
        for _ in range(12):
            self.now = max(self.now, 0) + LONG
            self.empty_the_network()
            for number, client in enumerate(self.clients):
                self.prove(client, "secret")
                self.make_room_for_replaced_devices(client)
                self.synchronize(client, client.position, self.server.position)
                self.make_keys(number)
                self.store(number, is_noted=True)
                self.ask(number)
        self.empty_the_network()
        for client in self.clients:
            self.check_agreement(client)
        self.no_id_ever_came_with_two_keys()
        self.what_is_stored_comes_back()

    def make_room_for_replaced_devices(self, client: Client) -> None:
        """The user says that a guest has come back with another key."""
        for user_id, device_id in self.guests:
            user = client.machine.users.users.get(user_id)
            known = None if user is None else user.devices.get(device_id)
            server = self.server.device(user_id, device_id) if device_id in self.server.users[user_id].devices else None
            if known is not None and server is not None and known.ed25519_key != server.ed25519_key:
                client.machine.users.forget_device(user_id, device_id)
                client.machine.lists.mark_outdated([user_id])

    def check_agreement(self, client: Client) -> None:
        machine, held = client.machine, self.server.users[client.user_id].devices[client.device_id]
        due = machine.next_request_at()
        assert due is None or due > self.now, "there is something left to send"
        assert machine.is_uploaded
        assert machine.device.keys == self.server.device(*client.name)
        assert machine.lists.outdated == set()
        assert machine.lists.next_changes() is None
        assert machine.signing.queue.waiting == set()
        assert held.counts == {"signed_curve25519": POLICY.target}
        assert held.unused_fallback_types == ["signed_curve25519"]
        for user_id in USERS:
            user = machine.users.users[user_id]
            devices = {
                device_id: self.server.device(user_id, device_id) for device_id in self.server.users[user_id].devices
            }
            assert {device_id: device.keys for device_id, device in user.devices.items()} == devices
            master = self.server.master_key(user_id)
            assert (None if user.identity is None else user.identity.master_key) == master
            self.check_identity(client, user_id)
        bootstrap = machine.signing.bootstrap
        if bootstrap is not None and bootstrap.identity.master_key == self.server.master_key(client.user_id):
            assert bootstrap.state is BootstrapState.DONE

    def check_identity(self, client: Client, user_id: str) -> None:
        """A user is verified if one's own identity has signed the user's, and is confirmed."""
        own, user, master = (
            client.machine.users.own,
            client.machine.users.users[user_id],
            self.server.master_key(user_id),
        )
        if user_id == client.user_id or master is None:
            return
        is_signed = False
        if own is not None and own.identity.user_signing_key is not None:
            is_signed = own.identity.user_signing_key.key_name in master.signed.signatures.get(client.user_id, {})
        if is_signed:
            assert user.pin.state in (IdentityState.VERIFIED, IdentityState.VERIFICATION_VIOLATION)
        else:
            assert user.pin.state is not IdentityState.VERIFIED


TestAnyOrder = Machines.TestCase
TestAnyOrder.settings = settings(
    max_examples=settings().max_examples // 2,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
