"""How a decision is carried out: what is stored, who is told here, and which servers are."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from homeserver.directory.servers import SERVERS, LocalClient, LocalWorld
from matrix_e2e_keys import DirectToDevice, LocalProtocolError, MatrixError, UserDevicesRequest
from matrix_e2e_keys.homeserver import (
    DeviceChanged,
    IdentityChanged,
    KeyWanted,
    SignedOthers,
    StoreDevice,
    StoreDeviceKeys,
    read_authorization,
)
from matrix_e2e_keys.homeserver.directory.state import DirectoryState
from matrix_e2e_keys.homeserver.directory.transactions import MAX_TRANSACTION_BYTES, Transactions
from matrix_e2e_keys.testing.samples import sample_secret_key


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    return world.new_client("alice")


@pytest.fixture
def state(world: LocalWorld) -> DirectoryState:
    return world.directory(0)._state


def waiting(state: DirectoryState) -> tuple[str, ...]:
    return state.transactions.servers


class TestCarryingOut:
    def test_what_does_not_hold_is_not_told(self, world: LocalWorld, state: DirectoryState, alice: LocalClient) -> None:
        """All of it or nothing: neither the store nor anybody else hears of a part."""
        before = world.directory(0).to_json()
        keys = alice.user.sample.device("PHONE").signed
        effects = (
            StoreDevice(user_id=alice.user.user_id, device_id="NEW"),
            DeviceChanged(user_id=alice.user.user_id, device_id="NEW"),
            StoreDeviceKeys(user_id=alice.user.user_id, device_id="GONE", keys=keys),
        )
        with pytest.raises(LocalProtocolError):
            state.commit(iter(effects), now=world.now)
        assert world.directory(0).to_json() == before

    def test_effects_are_carried_out_and_told(
        self, world: LocalWorld, state: DirectoryState, alice: LocalClient
    ) -> None:
        token = alice.token
        effects: Any = (
            StoreDevice(user_id=alice.user.user_id, device_id="NEW"),
            DeviceChanged(user_id=alice.user.user_id, device_id="NEW"),
        )
        state.commit(iter(effects), now=world.now)
        assert set(world.directory(0).user(alice.user.user_id).devices) == {"PHONE", "NEW"}  # type: ignore[union-attr]
        assert alice.changed_since(token) == [alice.user.user_id]


class TestTelling:
    @pytest.mark.parametrize("kind", ["device", "identity"])
    def test_servers_that_share_a_room_and_no_others(
        self, world: LocalWorld, state: DirectoryState, alice: LocalClient, kind: str
    ) -> None:
        user_id = alice.user.user_id
        notice = (
            IdentityChanged(user_id=user_id) if kind == "identity" else DeviceChanged(user_id=user_id, device_id="X")
        )
        state.announce([notice], now=world.now)
        assert waiting(state) == ()
        bob, carol = world.new_client("bob", server=1), world.new_client("carol", server=2)
        world.share_room(alice.user, bob.user)
        world.share_room(carol.user)
        world.settle()
        state.announce([notice], now=world.now)
        assert waiting(state) == (SERVERS[1],)

    def test_what_others_do_is_told_here_only(
        self, world: LocalWorld, state: DirectoryState, alice: LocalClient
    ) -> None:
        bob, carol = world.new_client("bob", server=1), world.new_client("carol", server=2)
        world.share_room(alice.user, bob.user, carol.user)
        world.settle()
        token = alice.token
        state.announce([DeviceChanged(user_id=bob.user.user_id, device_id="X")], now=world.now)
        assert alice.changed_since(token) == [bob.user.user_id]
        assert waiting(state) == ()

    def test_whom_one_has_signed_is_told_to_oneself(
        self, world: LocalWorld, state: DirectoryState, alice: LocalClient
    ) -> None:
        """Attack 53: and to nobody else, nor to another server."""
        bob, dave = world.new_client("bob", server=1), world.new_client("dave")
        world.share_room(alice.user, bob.user, dave.user)
        world.settle()
        tokens = [client.token for client in (alice, dave)]
        state.announce([SignedOthers(user_id=alice.user.user_id, signed=(bob.user.user_id,))], now=world.now)
        assert [client.changed_since(token) for client, token in zip((alice, dave), tokens, strict=True)] == [
            [bob.user.user_id],
            [],
        ]
        token = alice.token
        state.announce([SignedOthers(user_id=alice.user.user_id)], now=world.now)
        assert alice.changed_since(token) == [alice.user.user_id]
        assert waiting(state) == ()

    def test_effects_are_no_notices(self, world: LocalWorld, state: DirectoryState, alice: LocalClient) -> None:
        position = state.stream.position
        state.announce([StoreDevice(user_id=alice.user.user_id, device_id="X")], now=world.now)
        assert state.stream.position == position


class TestIntroducing:
    def test_a_user_with_all_devices_and_the_identity(
        self, world: LocalWorld, state: DirectoryState, alice: LocalClient
    ) -> None:
        alice.user.log_in("LAPTOP")
        for has_identity in (False, True):
            if has_identity:
                alice.set_up_identity()
            state.introduce(alice.user.user_id, servers=["x.example", "x.example"], now=world.now)
            updates = state.transactions.outbox.next_transaction("x.example", now=world.now)
            assert updates is not None
            names = [getattr(poke, "device_id", "identity") for poke in updates.pokes]
            assert names == ["PHONE", "LAPTOP", *["identity"] * has_identity]
            state.transactions.outbox.receive_delivered(updates)

    def test_nobody_to_nobody(self, world: LocalWorld, state: DirectoryState, alice: LocalClient) -> None:
        state.introduce("@nobody:one.example", servers=["x.example"], now=world.now)
        state.introduce(alice.user.user_id, servers=[], now=world.now)
        assert waiting(state) == ()


class TestLooking:
    def test_pools_of_devices_that_are_there(self, state: DirectoryState, alice: LocalClient) -> None:
        alice.publish("1")
        wanted = [
            KeyWanted(user_id=alice.user.user_id, device_id=device_id, algorithm="signed_curve25519")
            for device_id in ("PHONE", "PHONE", "GONE")
        ]
        pools = state.pools(wanted)
        assert list(pools) == [(alice.user.user_id, "PHONE")]
        assert [key.key_id for key in pools[alice.user.user_id, "PHONE"].one_time_keys] == ["signed_curve25519:1"]

    def test_servers_of_those_with_whom_a_room_is_shared(self, world: LocalWorld, state: DirectoryState) -> None:
        users = [world.new_user(name, server=place) for place, name in enumerate(("alice", "bob", "carol"))]
        assert state.servers_sharing(users[0].user_id) == frozenset()
        world.share_room(*users)
        assert state.servers_sharing(users[0].user_id) == {SERVERS[1], SERVERS[2]}
        assert [state.is_local(user.user_id) for user in users] == [True, False, False]

    def test_a_request_is_signed_for_who_gets_it(self, world: LocalWorld, state: DirectoryState) -> None:
        request = state.ask(SERVERS[1], UserDevicesRequest(user_id="@bob:two.example"), timeout_ms=5)
        assert (request.server_name, request.timeout_ms) == (SERVERS[1], 5)
        assert state.ask(SERVERS[1], UserDevicesRequest(user_id="@bob:two.example")).timeout_ms == 10_000
        claim = read_authorization(request.authorization, server_name=SERVERS[1])
        keys = {"ed25519:1": sample_secret_key(SERVERS[0]).public_key}
        assert claim.verify(request.request, keys=keys, received_ts=world.now, now=world.now) == SERVERS[0]


class TestWhatCannotBeCarried:
    def message(self, content: Any) -> DirectToDevice:
        return DirectToDevice(
            sender="@alice:one.example",
            event_type="m.x",
            message_id="1",
            messages={"@bob:two.example": {"X": content}},
        )

    def deepest(self) -> DirectToDevice:
        """Return the message that is nested as deep as one can be, with nothing around it."""
        content: Any = {}
        made = self.message(content)
        with contextlib.suppress(LocalProtocolError):
            for _ in range(10_000):
                content = {"n": content}
                made = self.message(content)
        return made

    def test_messages_that_get_there(self, world: LocalWorld, state: DirectoryState) -> None:
        state.check_carried(SERVERS[1], self.message({"n": 1}), now=world.now)

    @pytest.mark.parametrize(
        ("content", "error"),
        [("nested", (400, "M_BAD_JSON")), ("long", (413, "M_TOO_LARGE"))],
    )
    def test_messages_that_do_not(
        self, world: LocalWorld, state: DirectoryState, content: str, error: tuple[int, str]
    ) -> None:
        message = self.message({"text": "x" * MAX_TRANSACTION_BYTES}) if content == "long" else self.deepest()
        with pytest.raises(MatrixError) as caught:
            state.check_carried(SERVERS[1], message, now=world.now)
        assert (caught.value.status, caught.value.errcode) == error

    def test_messages_that_get_there_as_others(
        self, world: LocalWorld, state: DirectoryState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        carrying = Transactions.carrying
        other = self.message({"n": 2})
        monkeypatch.setattr(Transactions, "carrying", lambda it, _, **more: carrying(it, [other], **more))
        with pytest.raises(MatrixError) as caught:
            state.check_carried(SERVERS[1], self.message({"n": 1}), now=world.now)
        assert (caught.value.status, caught.value.errcode) == (400, "M_BAD_JSON")
