"""One server that tells, two that listen, and a network that loses, repeats, delays and swaps what is sent.

Once everything that was lost has been sent again, each copy is what it is a copy of.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys.endpoints.federation.edus import DeviceListUpdate, SigningKeyUpdate, read_edu
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevice, UserDevicesResponse
from matrix_e2e_keys.homeserver.device_streams.outbox import DeviceListOutbox, OutboundUpdates, edus_of
from matrix_e2e_keys.homeserver.device_streams.remote_lists import EduVerdict, RemoteDeviceLists, Resync
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.signing.verifiers import CachingVerifier
from matrix_e2e_keys.testing.samples import SampleUser

ORIGIN = "a.example"
USERS = ["@alice:a.example", "@carol:a.example"]
SERVERS = ["b.example", "c.example"]
DEVICES = ["A", "B", "C"]
DAY = 86_400_000
VERIFIER = CachingVerifier()
IDENTITIES = {
    (user, generation): (sample.master_key, sample.self_signing_key)
    for user in USERS
    for generation in range(3)
    for sample in [SampleUser(user, generation)]
}


class LossyChannel(RuleBasedStateMachine):
    """The truth is what the sending server has stored. A device has a name, which tells its versions apart."""

    @initialize()
    def begin(self) -> None:
        self.now = 0
        self.version = 0
        self.truth = {user: UserKeys(user_id=user) for user in USERS}
        self.outbox = DeviceListOutbox()
        self.lists = {server: RemoteDeviceLists(verifier=VERIFIER) for server in SERVERS}
        self.on_its_way: list[tuple[OutboundUpdates, list[Any]]] = []
        self.late: list[tuple[str, list[Any]]] = []  # what nobody waits for, and may yet arrive
        self.asked: list[tuple[str, Resync]] = []
        self.answers: list[tuple[str, Resync, Any]] = []
        for server in SERVERS:
            for user in USERS:
                self.lists[server].track(user, now=0)

    def sharing(self, user: str) -> list[str]:
        return [server for server in SERVERS if user in self.lists[server].tracked]

    def store(self, user: str, devices: dict[str, DeviceRecord], generation: int | None = None) -> None:
        before = self.truth[user]
        keys: Any = (before.master_key, before.self_signing_key)
        if generation is not None:
            keys = IDENTITIES[user, generation]
        self.truth[user] = UserKeys(user_id=user, devices=devices, master_key=keys[0], self_signing_key=keys[1])

    # What happens at the sending server.

    @rule(user=st.sampled_from(USERS), device=st.sampled_from(DEVICES), is_gone=st.booleans())
    def change_a_device(self, user: str, device: str, is_gone: bool) -> None:
        devices = dict(self.truth[user].devices)
        self.version += 1
        devices.pop(device, None)
        if not is_gone:
            devices[device] = DeviceRecord(device_id=device, display_name=str(self.version))
        self.store(user, devices)
        self.outbox.device_changed(user, device, destinations=self.sharing(user), now=self.now)

    @rule(user=st.sampled_from(USERS), generation=st.integers(0, 2))
    def change_an_identity(self, user: str, generation: int) -> None:
        self.store(user, dict(self.truth[user].devices), generation)
        self.outbox.identity_changed(user, destinations=self.sharing(user), now=self.now)

    @rule(server=st.sampled_from(SERVERS))
    def send(self, server: str) -> None:
        updates = self.outbox.next_transaction(server, now=self.now)
        if updates is not None:
            assert 0 < len(updates.pokes) <= 100
            edus = edus_of(updates, users=self.truth, shows_display_names=True)
            assert len(edus) == len(updates.pokes)
            self.on_its_way.append((updates, [json.loads(json.dumps(edu.to_json())) for edu in edus]))

    @rule()
    def restart_the_sender(self) -> None:
        self.outbox = DeviceListOutbox.from_json(json.loads(json.dumps(self.outbox.to_json())))
        self.late += [(updates.destination, edus) for updates, edus in self.on_its_way]
        self.on_its_way.clear()

    @rule()
    def prune(self) -> None:
        self.outbox.prune(now=self.now)

    # What happens on the way.

    def receive(self, server: str, edus: list[Any]) -> None:
        for tree in edus:
            edu = read_edu(tree)
            assert isinstance(edu, DeviceListUpdate | SigningKeyUpdate)
            outcome = self.lists[server].receive_edu(edu, origin=ORIGIN, now=self.now)
            if outcome.verdict is EduVerdict.NEEDS_RESYNC:
                assert edu.user_id in self.lists[server].stale

    @rule(
        data=st.data(),
        arrives=st.booleans(),
        fate=st.sampled_from(["acknowledged", "acknowledged", "lost", "crash"]),
        repeated=st.booleans(),
    )
    def arrive(self, data: st.DataObject, arrives: bool, fate: str, repeated: bool) -> None:
        if not self.on_its_way:
            return
        updates, edus = self.on_its_way.pop(data.draw(st.integers(0, len(self.on_its_way) - 1)))
        server = updates.destination
        if repeated or not arrives:
            self.late.append((server, edus))
        if not arrives or fate == "crash":
            if arrives:  # and is forgotten: it is acknowledged once it is stored
                stored = self.lists[server].to_json()
                self.receive(server, edus)
                self.restart(server, stored)
            self.outbox.receive_failed(updates, now=self.now)
            return
        self.receive(server, edus)
        if fate == "acknowledged":
            self.outbox.receive_delivered(updates)
        else:
            self.outbox.receive_failed(updates, now=self.now)

    @rule(data=st.data())
    def arrive_late(self, data: st.DataObject) -> None:
        if self.late:
            self.receive(*self.late.pop(data.draw(st.integers(0, len(self.late) - 1))))

    @rule(later=st.sampled_from([1_000, 60_000, 2_000_000, DAY]))
    def wait(self, later: int) -> None:
        self.now += later

    # What happens at those who listen.

    def restart(self, server: str, stored: Any) -> None:
        self.lists[server] = RemoteDeviceLists.from_json(json.loads(json.dumps(stored)), verifier=VERIFIER)
        self.asked = [entry for entry in self.asked if entry[0] != server]
        self.answers = [entry for entry in self.answers if entry[0] != server]

    @rule(server=st.sampled_from(SERVERS))
    def restart_a_receiver(self, server: str) -> None:
        self.restart(server, self.lists[server].to_json())

    @rule(server=st.sampled_from(SERVERS), user=st.sampled_from(USERS))
    def part_or_meet(self, server: str, user: str) -> None:
        if user in self.lists[server].tracked:
            self.lists[server].untrack(user, now=self.now)
            return
        self.lists[server].track(user, now=self.now)
        for device in self.truth[user].devices:
            self.outbox.device_changed(user, device, destinations=[server], now=self.now)

    @rule(server=st.sampled_from(SERVERS), user=st.sampled_from(USERS))
    def suspect(self, server: str, user: str) -> None:
        self.lists[server].suspect(user, now=self.now)

    @rule(server=st.sampled_from(SERVERS))
    def ask(self, server: str) -> None:
        resync = self.lists[server].next_resync(now=self.now)
        if resync is not None:
            self.asked.append((server, resync))

    def told(self, server: str, resync: Resync) -> UserDevicesResponse:
        """What the sending server answers at this moment."""
        keys = self.truth[resync.user_id]
        self.outbox.receive_resync(server, resync.user_id)
        return UserDevicesResponse(
            user_id=resync.user_id,
            stream_id=self.outbox.stream_id_of(resync.user_id),
            devices=tuple(
                UserDevice(device_id=name, device_display_name=record.display_name)
                for name, record in keys.devices.items()
            ),
            master_key=keys.master_key,
            self_signing_key=keys.self_signing_key,
        )

    @rule(data=st.data())
    def serve(self, data: st.DataObject) -> None:
        if self.asked:
            server, resync = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
            self.answers.append((server, resync, self.told(server, resync).to_json()))

    @rule(data=st.data(), is_lost=st.booleans())
    def answer(self, data: st.DataObject, is_lost: bool) -> None:
        if self.answers:
            server, resync, tree = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
            if is_lost:
                self.lists[server].receive_failure(resync, now=self.now)
            else:
                self.lists[server].receive_devices(resync, UserDevicesResponse.from_json(tree), now=self.now)

    # And once it is quiet.

    @rule()
    def become_quiet(self) -> None:
        for server, edus in self.late:
            self.receive(server, edus)
        self.late.clear()
        for updates, edus in self.on_its_way:
            self.receive(updates.destination, edus)
            self.outbox.receive_delivered(updates)
        self.on_its_way.clear()
        for server, resync in self.asked:
            self.lists[server].receive_failure(resync, now=self.now)
        self.asked.clear()
        for server, resync, tree in self.answers:
            self.lists[server].receive_devices(resync, UserDevicesResponse.from_json(tree), now=self.now)
        self.answers.clear()
        for _ in range(100):
            wakes = [self.outbox.next_wake_at(now=self.now)]
            wakes += [lists.next_wake_at(now=self.now) for lists in self.lists.values()]
            due = [wake for wake in wakes if wake is not None]
            if not due:
                break
            self.now = min(due)
            for server in SERVERS:
                self.send(server)
                while self.on_its_way:
                    updates, edus = self.on_its_way.pop()
                    self.receive(server, edus)
                    self.outbox.receive_delivered(updates)
                while (resync := self.lists[server].next_resync(now=self.now)) is not None:
                    self.lists[server].receive_devices(resync, self.told(server, resync), now=self.now)
        else:
            raise AssertionError("it never becomes quiet")
        self.each_copy_is_the_truth()

    def each_copy_is_the_truth(self) -> None:
        assert self.outbox.destinations_waiting == ()
        for lists in self.lists.values():
            assert lists.stale == frozenset()
            for user in lists.tracked:
                assert lists.cached(user) == self.truth[user]

    def teardown(self) -> None:
        if hasattr(self, "lists"):
            self.become_quiet()


LossyChannel.TestCase.settings = settings(stateful_step_count=50)
TestLossyChannel = LossyChannel.TestCase


class LossyChannelInRows(LossyChannel):
    """The same with each user and each destination in a row of its own, written when it is said to have changed."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.users: dict[str, dict[str, Any]] = {server: {} for server in SERVERS}
        self.destinations: dict[str, Any] = {}

    @invariant()
    def rows_are_the_whole(self) -> None:
        if not hasattr(self, "destinations"):
            return
        for server, lists in self.lists.items():
            write(self.users[server], lists.take_changed(), lists.user_to_json)
            assert {"version": 1, "users": self.users[server]} == lists.to_json()
            assert lists.take_changed() == frozenset()
        write(self.destinations, self.outbox.take_changed(), self.outbox.destination_to_json)
        users = {user: number for user in USERS if (number := self.outbox.stream_id_of(user))}
        head = self.outbox.head_to_json()
        assert {**head, "users": users, "destinations": self.destinations} == self.outbox.to_json()


def write(rows: dict[str, Any], changed: frozenset[str], read: Callable[[str], Any]) -> None:
    for name in changed:
        rows[name] = json.loads(json.dumps(read(name)))
        if rows[name] is None:
            del rows[name]


LossyChannelInRows.TestCase.settings = settings(stateful_step_count=50)
TestLossyChannelInRows = LossyChannelInRows.TestCase
