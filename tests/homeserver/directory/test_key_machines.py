"""Key machines and homeservers: what clients do all their lives, with both sides of this library facing each other.

Two servers, two users, machines that are stored and restored, and servers that are. In the end, what each machine knows
is what the servers hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CrossSigningKey,
    CrossSigningSecrets,
    DeviceKeys,
    KeyMachine,
    LocalProtocolError,
    MatrixError,
    SyncKeys,
)
from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState
from matrix_e2e_keys.client.machine.values import OutgoingRequest, Received
from matrix_e2e_keys.client.supply.values import SupplyPolicy
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy
from matrix_e2e_keys.client.users.changes import ChangeKind
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.homeserver import KeyDirectory, LocalFederation, Requester, UserKeys
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

ALICE, BOB = SampleUser("@alice:a.example"), SampleUser("@bob:b.example")
USERS = (ALICE.user_id, BOB.user_id)
PASSWORD = "secret"
POLICY = SupplyPolicy(target=2)
HOUR = 3_600_000


def secrets_of(user: SampleUser, generation: int = 0) -> CrossSigningSecrets:
    sample = SampleUser(user.user_id, generation)
    roles = ("master", "self_signing", "user_signing")
    return CrossSigningSecrets(user_id=user.user_id, **{role: sample.secret(role) for role in roles})


@define(eq=False, repr=False)
class World:
    """Two servers, and whoever talks to them.

    Attributes:
        restarts: whether everybody begins anew all the time, with what was stored.
    """

    restarts: bool
    now: int = 1_700_000_000_000
    clients: list[Client] = field(factory=list)
    federation: LocalFederation = field(init=False)
    fresh: Iterator[int] = field(factory=count)

    def __attrs_post_init__(self) -> None:
        self.federation = LocalFederation(
            KeyDirectory.create(name, signers=self.signer(name), authenticate=self.knows_password)
            for name in ("a.example", "b.example")
        )
        for user_id in USERS:
            for name in ("a.example", "b.example"):
                self.federation[name].join(user_id, "!room:a.example", now=self.now)

    def signer(self, name: str) -> Any:
        return sample_secret_key(name).signer("ed25519:1")

    def knows_password(self, _requester: Requester, auth: Any) -> bool:
        return bool(auth.get("password") == PASSWORD)

    def directory(self, user_id: str) -> KeyDirectory:
        return self.federation[user_id.partition(":")[2]]

    def restart_servers(self) -> None:
        for name in ("a.example", "b.example"):
            state = json.loads(json.dumps(self.federation[name].to_json()))
            self.federation.replace(
                KeyDirectory.from_json(state, signers=self.signer(name), authenticate=self.knows_password)
            )

    def log_in(self, user: SampleUser, device_id: str) -> Client:
        self.directory(user.user_id).log_in(user.user_id, device_id, now=self.now)
        client = Client(self, user, device_id)
        self.clients.append(client)
        return client

    def log_out(self, client: Client) -> None:
        self.directory(client.user.user_id).delete_devices(client.user.user_id, [client.device_id], now=self.now)
        self.clients.remove(client)

    def go_on(self, rounds: int = 4) -> list[tuple[str, Received]]:
        """Let everybody do what there is to do, and return what everybody was told."""
        received: list[tuple[str, Received]] = []
        for _ in range(rounds):
            self.now += HOUR
            self.federation.settle(now=self.now)
            if self.restarts:
                self.restart_servers()
            for client in self.clients:
                if self.restarts:
                    client.restart()
                received += [(client.device_id, it) for it in client.go_on()]
        return received


@define(eq=False, repr=False)
class Client:
    """A machine, what makes its keys, and storage."""

    world: World
    user: SampleUser
    device_id: str
    token: str | None = None
    names: int = 0
    sessions: list[tuple[str, str, str]] = field(factory=list)
    """With which devices there are sessions, and by which of their keys."""
    machine: KeyMachine = field(init=False)

    def __attrs_post_init__(self) -> None:
        keys = self.user.device(self.device_id, cross_signed=False)
        self.machine = KeyMachine.create(keys, signer=self.signer, policy=POLICY)
        self.machine.lists.track(USERS)

    @property
    def signer(self) -> Any:
        return self.user.device_signer(self.device_id)

    @property
    def requester(self) -> Requester:
        return Requester(user_id=self.user.user_id, device_id=self.device_id)

    def restart(self) -> None:
        secrets = self.machine.signing.secrets
        state = self.store()
        self.machine = KeyMachine.from_json(state, signer=self.signer, policy=POLICY)
        if secrets is not None:
            self.machine.signing.use_secrets(secrets)

    def store(self) -> Any:
        state = json.loads(json.dumps(self.machine.to_json()))
        self.machine.mark_stored(state)
        return state

    def make_keys(self) -> None:
        supply, now = self.machine.supply, self.world.now
        needed = supply.needed(now)
        keys = {self.name(): self.key() for _ in range(needed.one_time_keys)}
        supply.add_one_time_keys(keys, signer=self.signer)
        if needed.fallback_key:
            supply.add_fallback_key(self.name(), self.key(), signer=self.signer, now=now)
        if needed.forget_previous_fallback_key:
            supply.previous_fallback_forgotten()

    def name(self) -> str:
        self.names += 1
        return f"K{self.names}"

    def key(self) -> Any:
        return sample_curve25519_key(f"{self.device_id} {next(self.world.fresh)}")

    def sync(self) -> None:
        answer = self.world.directory(self.user.user_id).sync(self.requester, since=self.token)
        keys = SyncKeys.from_sync_v2(json.dumps(answer.to_json()).encode())
        self.machine.receive_sync(keys, since=self.token, next_batch=answer.next_batch, now=self.world.now)
        self.token = answer.next_batch

    def exchange(self, outgoing: OutgoingRequest, *, is_answered: bool = True) -> Received:
        """Send one request over bytes, and take over its answer, if one comes."""
        world, now = self.world, self.world.now
        server = self.user.user_id.partition(":")[2]
        response = world.federation.exchange(server, outgoing.request.to_http(), requester=self.requester, now=now)
        if not is_answered:
            return self.machine.receive_error(outgoing.request_id, None, now)
        try:
            answer = outgoing.request.read_answer(response)
        except MatrixError as error:
            return self.machine.receive_error(outgoing.request_id, error, now)
        received = self.machine.receive_response(outgoing.request_id, answer, now)
        for user_id, devices in received.sessions.items():
            for device_id, key in devices.items():
                self.machine.sessions.session_opened(key.device)
                self.sessions.append((user_id, device_id, key.public_key.to_base64()))
        return received

    def go_on(self) -> list[Received]:
        """Sync, make, store, send and receive until there is nothing more to send."""
        self.sync()
        received: list[Received] = []
        while True:
            self.make_keys()
            self.store()
            asked = self.machine.outgoing_requests(self.world.now)
            if not asked:
                return received
            received += [self.exchange(outgoing) for outgoing in asked]

    def bootstrap(self, generation: int = 0) -> None:
        self.machine.start_bootstrap(secrets_of(self.user, generation), reset=generation > 0)

    def prove(self, password: str) -> None:
        bootstrap = self.machine.signing.bootstrap
        assert bootstrap is not None
        assert bootstrap.authentication is not None
        self.machine.signing.authenticate(bootstrap.authentication.auth("m.login.password", {"password": password}))

    def state_of(self, user: SampleUser) -> IdentityState:
        return self.machine.users.users[user.user_id].pin.state

    def want_sessions(self, user: SampleUser) -> None:
        chosen = self.machine.devices_for([user.user_id], RecipientPolicy.ALL_DEVICES)
        self.machine.sessions.want([device for of in chosen.devices.values() for device in of.values()])

    @property
    def pool(self) -> SyncKeys:
        """What the server holds of this device's keys."""
        return self.world.directory(self.user.user_id).sync(self.requester).keys


def check_agreement(world: World) -> None:
    """What each machine knows is what the servers hold."""
    for client in world.clients:
        machine = client.machine
        assert machine.is_uploaded
        assert not machine.lists.outdated
        assert not machine.signing.queue.waiting
        assert client.pool.one_time_key_counts == {"signed_curve25519": POLICY.target}
        assert client.pool.unused_fallback_key_types == ("signed_curve25519",)
        viewer = world.directory(client.user.user_id).user(client.user.user_id)
        assert viewer is not None
        for user_id in USERS:
            held = world.directory(user_id).user(user_id) or UserKeys(user_id=user_id)
            known = machine.users.users[user_id]
            assert {name: device.keys for name, device in known.devices.items()} == {
                name: DeviceKeys.from_json(device.keys.to_json())
                for name, device in held.devices.items()
                if device.keys is not None
            }
            master = held.master_key
            for signature in viewer.signatures if master is not None else ():
                if master is not None and (signature.user_id, signature.master_key_id) == (user_id, master.key_name):
                    master = signed_by(master, signature.signer_id, signature.signer_key_id, signature.signature)
            assert (None if known.identity is None else known.identity.master_key) == master
            self_signing = None if known.identity is None else known.identity.self_signing_key
            assert self_signing == held.self_signing_key


def signed_by(key: CrossSigningKey, user_id: str, key_id: str, signature: str) -> CrossSigningKey:
    tree = key.to_json()
    tree.setdefault("signatures", {}).setdefault(user_id, {})[key_id] = signature  # type: ignore[union-attr,call-overload]
    return CrossSigningKey.from_json(tree)


@pytest.fixture(params=[False, True], ids=["in one go", "with restarts"])
def world(request: pytest.FixtureRequest) -> World:
    return World(restarts=request.param)


@pytest.fixture
def alice(world: World) -> Client:
    client = world.log_in(ALICE, "A1")
    world.go_on()
    return client


@pytest.fixture
def bob(world: World, alice: Client) -> Client:
    client = world.log_in(BOB, "B1")
    world.go_on()
    return client


def cross_signed(world: World, *clients: Client) -> None:
    for client in clients:
        client.bootstrap()
    world.go_on()


def kinds(received: list[tuple[str, Received]], device_id: str) -> list[tuple[str, ChangeKind]]:
    return [(change.user_id, change.kind) for name, it in received for change in it.changes if name == device_id]


class TestOneDevice:
    def test_the_first_upload(self, world: World, alice: Client) -> None:
        check_agreement(world)
        held = world.directory(ALICE.user_id).user(ALICE.user_id)
        assert held is not None
        keys = held.devices["A1"].keys
        assert keys is not None
        assert DeviceKeys.from_json(keys.to_json()) == alice.machine.device.keys

    def test_the_first_identity_takes_no_password(self, world: World, alice: Client) -> None:
        cross_signed(world, alice)
        held = world.directory(ALICE.user_id).user(ALICE.user_id)
        assert held is not None
        assert held.user_signing_key == ALICE.user_signing_key
        assert alice.state_of(ALICE) is IdentityState.VERIFIED
        assert alice.machine.signing.bootstrap is None or alice.machine.signing.bootstrap.state is BootstrapState.DONE
        check_agreement(world)

    def test_another_identity_takes_the_password(self, alice: Client) -> None:
        world = alice.world
        cross_signed(world, alice)
        world.restarts = False  # what was asked is forgotten in a restart, and asked again
        alice.bootstrap(generation=1)
        for password in ("wrong", PASSWORD):
            world.go_on()
            held = world.directory(ALICE.user_id).user(ALICE.user_id)
            assert held is not None
            assert held.master_key is not None
            assert held.master_key.key_id == ALICE.master_key.key_id
            alice.prove(password)
        world.go_on()
        held = world.directory(ALICE.user_id).user(ALICE.user_id)
        assert held is not None
        assert held.master_key is not None
        assert held.master_key.key_id == SampleUser(ALICE.user_id, 1).master_key.key_id
        check_agreement(world)


class TestTwoDevices:
    def test_the_second_device_is_signed_by_the_first(self, world: World, alice: Client, bob: Client) -> None:
        cross_signed(world, alice)
        second = world.log_in(ALICE, "A2")
        world.go_on()
        assert "A2" not in bob.machine.users.users[ALICE.user_id].cross_signed_devices
        alice.machine.signing.verify_device("A2", ALICE.device_signer("A2").public_key)
        world.go_on()
        assert "A2" in bob.machine.users.users[ALICE.user_id].cross_signed_devices
        assert "A2" in second.machine.users.users[ALICE.user_id].cross_signed_devices
        check_agreement(world)

    def test_a_device_that_has_the_secrets_signs_itself(self, world: World, alice: Client, bob: Client) -> None:
        cross_signed(world, alice)
        second = world.log_in(ALICE, "A2")
        second.machine.signing.use_secrets(secrets_of(ALICE))
        world.go_on()
        assert "A2" in bob.machine.users.users[ALICE.user_id].cross_signed_devices
        assert second.state_of(ALICE) is IdentityState.VERIFIED
        check_agreement(world)

    def test_a_device_that_is_gone_is_seen_to_be_gone(self, world: World, alice: Client, bob: Client) -> None:
        second = world.log_in(ALICE, "A2")
        world.go_on()
        assert set(bob.machine.users.users[ALICE.user_id].devices) == {"A1", "A2"}
        world.log_out(second)
        received = world.go_on()
        for device_id in ("A1", "B1"):
            assert (ALICE.user_id, ChangeKind.DEVICE_REMOVED) in kinds(received, device_id)
        check_agreement(world)

    def test_a_device_that_is_gone_is_told_so(self, world: World, alice: Client) -> None:
        second = world.log_in(ALICE, "A2")
        world.go_on()
        world.log_out(second)
        with pytest.raises(MatrixError) as caught:
            second.sync()
        assert (caught.value.status, caught.value.errcode) == (401, "M_UNKNOWN_TOKEN")


class TestTwoServers:
    def test_a_user_is_verified_across_servers(self, world: World, alice: Client, bob: Client) -> None:
        """The signer and nobody else can see it: attack 53."""
        cross_signed(world, alice, bob)
        second = world.log_in(ALICE, "A2")
        second.machine.signing.use_secrets(secrets_of(ALICE))
        world.go_on()
        assert alice.state_of(BOB) is IdentityState.PINNED
        alice.machine.signing.verify_user(BOB.user_id, BOB.master_public_key)
        received = world.go_on()
        assert [it.signatures.is_complete for _, it in received if it.signatures is not None] == [True]
        for client in (alice, second):
            assert client.state_of(BOB) is IdentityState.VERIFIED
        assert bob.state_of(ALICE) is IdentityState.PINNED
        known = bob.machine.users.users[BOB.user_id].identity
        assert known is not None
        assert ALICE.user_id not in known.master_key.signed.signatures
        check_agreement(world)

    def test_another_identity_is_a_violation(self, world: World, alice: Client, bob: Client) -> None:
        cross_signed(world, alice, bob)
        alice.machine.signing.verify_user(BOB.user_id, BOB.master_public_key)
        world.go_on()
        world.restarts = False
        bob.bootstrap(generation=1)
        world.go_on()
        bob.prove(PASSWORD)
        received = world.go_on()
        assert alice.state_of(BOB) is IdentityState.VERIFICATION_VIOLATION
        assert BOB.user_id in [user_id for user_id, _ in kinds(received, "A1")]
        check_agreement(world)

    def test_keys_are_claimed_until_there_are_none(self, world: World, alice: Client, bob: Client) -> None:
        """Attacks 46 and 47: each key goes to one device, then the fallback key to all, until there are new ones."""
        others = [bob, *(world.log_in(BOB, f"B{number}") for number in (2, 3, 4))]
        world.go_on()
        for other in others:
            other.want_sessions(ALICE)
            other.go_on()
        claimed = [key for other in others for _, _, key in other.sessions]
        assert (len(claimed), len(set(claimed)), claimed[2]) == (4, 3, claimed[3])
        assert alice.pool.one_time_key_counts == {"signed_curve25519": 0}
        assert alice.pool.unused_fallback_key_types == ()
        world.go_on()
        check_agreement(world)
        for other in others:
            other.sessions.clear()
            other.machine.sessions.unwant([(ALICE.user_id, "A1")])
            other.want_sessions(ALICE)
            other.go_on()
        world.go_on()
        again = [key for other in others for _, _, key in other.sessions]
        assert len(again) == 4
        assert set(again).isdisjoint(claimed)
        check_agreement(world)

    def test_while_the_other_server_is_away(self, world: World, alice: Client, bob: Client) -> None:
        """What is known of its users is served; what happens there is told once it is back."""
        world.federation.down.add("b.example")
        second = world.log_in(ALICE, "A2")
        world.directory(BOB.user_id).rename_device(BOB.user_id, "B1", "new", now=world.now)
        world.clients.remove(bob)
        world.go_on()
        assert set(second.machine.users.users[BOB.user_id].devices) == {"B1"}
        world.federation.down.clear()
        world.clients.append(bob)
        world.now += 100 * HOUR
        world.go_on()
        assert set(bob.machine.users.users[ALICE.user_id].devices) == {"A1", "A2"}
        check_agreement(world)


class TestUploadsThatAreLost:
    def test_an_answer_that_does_not_come(self, world: World) -> None:
        """The same is uploaded again, and nothing is there twice."""
        client = world.log_in(ALICE, "A1")
        client.sync()
        client.make_keys()
        client.store()
        for outgoing in client.machine.outgoing_requests(world.now):
            client.exchange(outgoing, is_answered=False)
        assert not client.machine.is_uploaded
        world.go_on()
        check_agreement(world)


# --------------------------------------------------------------------------------------------------------------
# Any order
# --------------------------------------------------------------------------------------------------------------

STEPS = (
    "go on",
    "send, and lose the answers",
    "restart",
    "restart the servers",
    "another device",
    "bootstrap",
    "reset",
    "verify the other",
    "verify the devices",
    "want sessions",
    "log out",
    "a server goes",
    "a server comes",
)


@settings(max_examples=max(settings().max_examples // 3, 10))
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), max_size=25), has_identity=st.booleans())
def test_whatever_happens_all_agree_in_the_end(steps: list[tuple[str, int]], has_identity: bool) -> None:
    world = World(restarts=False)
    for user, device_id in ((ALICE, "A1"), (BOB, "B1")):
        client = world.log_in(user, device_id)
        if has_identity:
            world.go_on(2)
            client.bootstrap()
    generation = count(1)
    for step, number in steps:
        take(world, world.clients[number % len(world.clients)], step, next(generation))
    world.federation.down.clear()
    for _ in range(10):
        world.now += 20 * HOUR
        for client in world.clients:
            bootstrap = client.machine.signing.bootstrap
            if bootstrap is not None and bootstrap.authentication is not None:
                client.prove(PASSWORD)
        world.go_on(2)
    check_agreement(world)


def take(world: World, client: Client, step: str, number: int) -> None:
    """Do something, if it can be done."""
    other = BOB if client.user is ALICE else ALICE
    name = f"{client.user.user_id[1].upper()}{number + 1}"
    in_use = {it.device_id for it in world.clients}
    devices = client.machine.users.users.get(client.user.user_id)
    actions: dict[str, Callable[[], object]] = {
        "go on": lambda: world.go_on(1),
        "send, and lose the answers": lambda: lose_the_answers(client),
        "restart": client.restart,
        "restart the servers": world.restart_servers,
        "another device": lambda: None if name in in_use else world.log_in(client.user, name),
        "bootstrap": client.bootstrap,
        "reset": lambda: client.bootstrap(number),
        "verify the other": lambda: verify(client, other),
        "verify the devices": lambda: [
            client.machine.signing.verify_device(it.device_id, it.ed25519_key)
            for it in (() if devices is None else devices.devices.values())
        ],
        "want sessions": lambda: client.want_sessions(other),
        "log out": lambda: world.log_out(client) if len(world.clients) > 2 and client.device_id[1:] != "1" else None,
        "a server goes": lambda: world.federation.down.add(other.user_id.partition(":")[2]),
        "a server comes": lambda: world.federation.down.discard(other.user_id.partition(":")[2]),
    }
    try:
        actions[step]()
    except LocalProtocolError:
        assert step in ("bootstrap", "reset", "verify the other", "verify the devices")


def verify(client: Client, other: SampleUser) -> None:
    known = client.machine.users.users.get(other.user_id)
    if known is not None and known.identity is not None:
        client.machine.signing.verify_user(other.user_id, known.identity.master_public_key)


def lose_the_answers(client: Client) -> None:
    client.make_keys()
    client.store()
    for outgoing in client.machine.outgoing_requests(client.world.now):
        client.exchange(outgoing, is_answered=False)


def test_the_story_of_two_homeservers_is_short_and_true() -> None:
    script = Path(__file__).parents[3] / "docs" / "examples" / "two_homeservers.py"
    assert len(script.read_text().splitlines()) < 100
    told = subprocess.run([sys.executable, "-P", str(script)], capture_output=True, check=True, timeout=60)
    lines = told.stdout.decode().splitlines()
    assert [line for line in lines if "Request" not in line] == [
        "@alice:a.example: a session with @bob:b.example LAPTOP by signed_curve25519:K0",
        "bob is pinned",
        "bob is verified",
        "keys that are left to claim: {'signed_curve25519': 49}",
    ]
    assert all(line.endswith(" 200") for line in lines if "Request" in line)
