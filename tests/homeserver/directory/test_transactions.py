"""Transactions: what is to be sent, one at a time for each server, until it has arrived."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given

from matrix_e2e_keys import DirectToDevice, LocalProtocolError
from matrix_e2e_keys.endpoints.federation.send_transaction import SendTransactionRequest
from matrix_e2e_keys.endpoints.http_values import encode_body
from matrix_e2e_keys.homeserver.directory.transactions import MAX_TRANSACTION_BYTES, Transactions
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

NOW = 1_700_000_000_000
FIRST_DELAY = 15_000
ALICE = SampleUser("@alice:a.example")
B, C = "b.example", "c.example"


def users(user_ids: Iterable[str]) -> dict[str, UserKeys]:
    assert set(user_ids) <= {ALICE.user_id}
    names = [f"D{number}" for number in range(120)]
    devices = {name: DeviceRecord(device_id=name, display_name="Hers") for name in names}
    return {user_id: UserKeys(user_id=user_id, devices=devices) for user_id in user_ids}


def message(number: int) -> DirectToDevice:
    return DirectToDevice(
        sender=ALICE.user_id, event_type="m.test", message_id=str(number), messages={"@bob:b.example": {"X": {}}}
    )


def new() -> Transactions:
    return Transactions(server_name="a.example")


def change(made: Transactions, *devices: str, to: Iterable[str] = (B,)) -> None:
    for device in devices:
        made.outbox.device_changed(ALICE.user_id, device, destinations=to, now=NOW)


def send(made: Transactions, now: int = NOW, *, shows: bool = False) -> tuple[str, SendTransactionRequest] | None:
    return made.next(now=now, users=users, shows_display_names=shows)


def sent(made: Transactions, now: int = NOW, *, shows: bool = False) -> SendTransactionRequest:
    found = send(made, now, shows=shows)
    assert found is not None
    return found[1]


def said(request: SendTransactionRequest) -> list[str]:
    """Return the devices and messages that a transaction tells of."""
    contents = [edu.to_json()["content"] for edu in request.edus]  # type: ignore[union-attr]
    return [content.get("device_id") or content["message_id"] for content in contents]


class TestWhatIsSent:
    def test_nothing_at_first(self) -> None:
        made = new()
        assert (send(made), made.servers, made.next_wake_at()) == (None, (), None)

    def test_updates_go_before_messages(self) -> None:
        made = new()
        made.add_message(B, message(1))
        change(made, "D1", "D2")
        made.add_message(B, message(2))
        found = send(made)
        assert found is not None
        server, request = found
        assert server == B
        assert said(request) == ["D1", "D2"]
        assert (request.origin, request.origin_server_ts) == ("a.example", NOW)
        made.receive_delivered(B)
        assert said(sent(made)) == ["1", "2"]

    def test_names_of_devices_are_told_if_they_may_be(self) -> None:
        for shows in (False, True):
            made = new()
            change(made, "D1")
            body = sent(made, shows=shows).edus[0].to_json()["content"]  # type: ignore[union-attr]
            assert ("device_display_name" in body) is shows

    def test_a_hundred_at_once(self) -> None:
        made = new()
        change(made, *(f"D{number}" for number in range(120)))
        for number in range(130):
            made.add_message(B, message(number))
        assert said(sent(made)) == [f"D{number}" for number in range(100)]
        made.receive_delivered(B)
        assert said(sent(made)) == [f"D{number}" for number in range(100, 120)]
        made.receive_delivered(B)
        assert said(sent(made)) == [str(number) for number in range(100)]
        made.receive_delivered(B)
        assert said(sent(made)) == [str(number) for number in range(100, 130)]
        made.receive_delivered(B)
        assert send(made) is None

    def test_updates_of_later_go_before_messages_of_earlier(self) -> None:
        made = new()
        for number in range(101):
            made.add_message(B, message(number))
        assert len(sent(made).edus) == 100
        change(made, "D1")
        made.receive_delivered(B)
        assert said(sent(made)) == ["D1"]
        made.receive_delivered(B)
        assert said(sent(made)) == ["100"]

    def test_each_transaction_has_a_name_of_its_own(self) -> None:
        made = new()
        names = set()
        for number in range(3):
            made.add_message(B, message(number))
            names.add(sent(made).txn_id)
            made.receive_delivered(B)
        assert len(names) == 3


class TestOneAtATime:
    def test_while_one_is_on_its_way_no_other_is(self) -> None:
        made = new()
        made.add_message(B, message(1))
        sent(made)
        made.add_message(B, message(2))
        assert (send(made), made.servers, made.next_wake_at()) == (None, (), None)
        made.receive_delivered(B)
        assert made.servers == (B,)
        assert said(sent(made)) == ["2"]

    def test_servers_do_not_wait_for_each_other(self) -> None:
        made = new()
        for server in (C, B):
            made.add_message(server, message(1))
        assert made.servers == (B, C)
        assert [found[0] for found in (send(made), send(made)) if found] == [B, C]
        assert send(made) is None

    def test_what_is_delivered_is_not_sent_again(self) -> None:
        made = new()
        change(made, "D1")
        made.add_message(B, message(1))
        for _ in range(2):
            sent(made)
            made.receive_delivered(B)
        assert (send(made), made.servers, made.next_wake_at()) == (None, (), None)
        change(made, "D2")
        edu = sent(made).edus[0].to_json()["content"]  # type: ignore[union-attr]
        assert edu["prev_id"] == [edu["stream_id"] - 1]

    def test_answers_that_nobody_waits_for_change_nothing(self) -> None:
        made = new()
        made.add_message(B, message(1))
        made.receive_delivered(B)
        made.receive_failed(B, now=NOW)
        made.receive_delivered(C)
        assert said(sent(made)) == ["1"]


class TestFailures:
    def test_what_failed_is_sent_again_as_it_was(self) -> None:
        made = new()
        change(made, "D1")
        made.add_message(B, message(1))
        first = sent(made)
        made.receive_failed(B, now=NOW)
        change(made, "D2")
        made.add_message(B, message(2))
        assert send(made, NOW + FIRST_DELAY - 1) is None
        assert made.next_wake_at() == NOW + FIRST_DELAY
        assert sent(made, NOW + FIRST_DELAY) is first
        made.receive_delivered(B)
        assert said(sent(made, NOW + FIRST_DELAY)) == ["D2"]
        second = self.failed(made, now=NOW + FIRST_DELAY)
        made.receive_delivered(B)
        assert said(second) == ["D2"]
        assert said(sent(made, NOW + 2 * FIRST_DELAY)) == ["1", "2"]

    def failed(self, made: Transactions, *, now: int) -> SendTransactionRequest:
        """Let what is on its way fail, and return what is sent again."""
        made.receive_failed(B, now=now)
        return sent(made, now + FIRST_DELAY)

    def test_ever_more_rarely(self) -> None:
        made, now, delays = new(), NOW, []
        made.add_message(B, message(1))
        for _ in range(4):
            sent(made, now)
            made.receive_failed(B, now=now)
            wake = made.next_wake_at()
            assert wake is not None
            delays.append(wake - now)
            now = wake
        assert delays == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
        sent(made, now)
        made.receive_delivered(B)
        made.add_message(B, message(2))
        sent(made, now)
        made.receive_failed(B, now=now)
        assert made.next_wake_at() == now + FIRST_DELAY

    def test_not_before_the_server_wishes(self) -> None:
        made = new()
        made.add_message(B, message(1))
        sent(made)
        made.receive_failed(B, now=NOW, retry_after_ms=100_000)
        assert made.next_wake_at() == NOW + 100_000

    def test_others_do_not_wait(self) -> None:
        made = new()
        made.add_message(B, message(1))
        sent(made)
        made.receive_failed(B, now=NOW)
        made.add_message(C, message(2))
        assert made.next_wake_at() is not None
        assert made.next_wake_at() <= NOW  # type: ignore[operator]
        found = send(made)
        assert found is not None
        assert found[0] == C

    def test_a_server_that_speaks_is_there(self) -> None:
        made = new()
        made.add_message(B, message(1))
        sent(made)
        made.receive_failed(B, now=NOW)
        assert send(made) is None
        made.heard_from(B)
        assert said(sent(made)) == ["1"]

    @pytest.mark.parametrize("now", [None, 1.5, "1", True])
    def test_a_time_is_an_integer(self, now: Any) -> None:
        made = new()
        made.add_message(B, message(1))
        with pytest.raises(LocalProtocolError):
            send(made, now)
        assert made.servers == (B,)
        sent(made)
        with pytest.raises(LocalProtocolError):
            made.receive_failed(B, now=now)

    @pytest.mark.parametrize("what", ["receive_failed", "receive_refused"])
    def test_a_failure_at_no_time_changes_nothing(self, what: str) -> None:
        made = new()
        made.add_message(B, message(1))
        first = sent(made)
        with pytest.raises(LocalProtocolError):
            getattr(made, what)(B, now=None)
        assert made.servers == ()
        made.receive_failed(B, now=NOW)
        assert sent(made, NOW + FIRST_DELAY) is first

    @pytest.mark.parametrize("what", ["receive_failed", "receive_refused"])
    def test_what_is_not_on_its_way_has_not_failed(self, what: str) -> None:
        made = new()
        made.add_message(B, message(1))
        getattr(made, what)(B, now=NOW)
        getattr(made, what)(C, now=NOW)
        assert said(sent(made)) == ["1"]

    def test_updates_that_wait_on_their_own_are_not_sent(self) -> None:
        made = new()
        change(made, "D1")
        updates = made.outbox.next_transaction(B, now=NOW)
        assert updates is not None
        made.outbox.receive_failed(updates, now=NOW)
        assert send(made) is None
        made.add_message(C, message(1))
        assert said(sent(made)) == ["1"]
        assert said(sent(made, NOW + FIRST_DELAY)) == ["D1"]


class TestRefusals:
    """What a server refuses for good does not hold up what comes after it."""

    def refused(self, made: Transactions, now: int) -> int:
        """Let a server refuse what is on its way to it; return when to go on."""
        made.receive_refused(B, now=now)
        assert send(made, now) is None
        wake_at = made.next_wake_at()
        assert wake_at is not None
        assert wake_at > now
        return wake_at

    def test_of_several_messages_fewer_are_sent_the_next_time(self) -> None:
        made, now, sizes = new(), NOW, []
        for number in range(9):
            made.add_message(B, message(number))
        for _ in range(3):
            sizes.append(len(sent(made, now).edus))
            now = self.refused(made, now)
        request = sent(made, now)
        sizes.append(len(request.edus))
        assert said(request) == ["0"]
        assert sizes == [9, 4, 2, 1]

    def test_a_single_message_is_dropped(self) -> None:
        made = new()
        made.add_message(B, message(0))
        first = sent(made)
        made.receive_refused(B, now=NOW)
        assert (made.servers, made.next_wake_at(), made.to_json()["messages"]) == ((), None, {})
        made.add_message(B, message(1))
        request = sent(made, NOW + FIRST_DELAY)
        assert said(request) == ["1"]
        assert request.txn_id != first.txn_id

    def test_the_one_that_is_refused_costs_the_others_nothing(self) -> None:
        made, now, arrived = new(), NOW, []
        for number in range(20):
            made.add_message(B, message(number))
        for _ in range(30):
            found = send(made, now)
            if found is None:
                break
            if "13" in said(found[1]):
                made.receive_refused(B, now=now)
            else:
                arrived += said(found[1])
                made.receive_delivered(B)
            now = max(now, made.next_wake_at() or now)
        assert arrived == [str(number) for number in range(20) if number != 13]
        assert made.servers == ()

    def test_more_are_sent_again_once_some_have_arrived(self) -> None:
        made, now, sizes = new(), NOW, []
        for number in range(80):
            made.add_message(B, message(number))
        for _ in range(2):
            sent(made, now)
            now = self.refused(made, now)
        for _ in range(3):
            sizes.append(len(sent(made, now).edus))
            made.receive_delivered(B)
        assert sizes == [20, 40, 20]
        for number in range(50):
            made.add_message(B, message(number))
        assert len(sent(made, now).edus) == 50

    def test_each_time_is_a_transaction_of_its_own(self) -> None:
        """What has another content has another name: the server may remember what it refused."""
        made, now, names = new(), NOW, []
        for number in range(4):
            made.add_message(B, message(number))
        for _ in range(3):
            names.append(sent(made, now).txn_id)
            now = self.refused(made, now)
        assert len(set(names)) == 3

    def test_updates_are_dropped_and_the_next_begins_a_new_chain(self) -> None:
        made = new()
        change(made, "D1")
        sent(made)
        made.receive_delivered(B)
        change(made, "D2", "D3")
        assert said(sent(made)) == ["D2", "D3"]
        change(made, "D4")
        made.add_message(B, message(1))
        now = self.refused(made, NOW)
        assert said(sent(made, now)) == ["1"]
        made.receive_delivered(B)
        assert made.servers == ()
        change(made, "D5")
        request = sent(made, now)
        assert said(request) == ["D5"]
        assert request.edus[0].to_json()["content"]["prev_id"] == []  # type: ignore[union-attr]

    def test_updates_for_others_stay(self) -> None:
        made = new()
        change(made, "D1", to=[B, C])
        for server in (B, C):
            found = send(made)
            assert found is not None
            assert found[0] == server
        made.receive_refused(B, now=NOW)
        assert made.servers == ()
        made.receive_failed(C, now=NOW)
        assert made.servers == (C,)

    def test_refusals_make_one_wait_ever_longer_until_something_arrives(self) -> None:
        made, now, delays = new(), NOW, []
        for _ in range(3):
            made.add_message(B, message(1))
            sent(made, now)
            made.receive_refused(B, now=now)
            made.add_message(B, message(2))
            delays.append((made.next_wake_at() or 0) - now)
            now += delays[-1]
            sent(made, now)
            made.receive_delivered(B)
        assert delays == [FIRST_DELAY] * 3


class TestSizes:
    """Not too many bytes go into one transaction, but always one message."""

    def of_size(self, number: int, size: int) -> DirectToDevice:
        """A message that has so many bytes."""
        short = evolve(message(number), messages={"@bob:b.example": {"X": {"a": ""}}})
        more = size - len(encode_body(short.to_json()))
        made = evolve(short, messages={"@bob:b.example": {"X": {"a": "x" * more}}})
        assert len(encode_body(made.to_json())) == size
        return made

    def sizes(self, *sizes: int) -> list[int]:
        """Return how many messages go into each transaction."""
        made, found = new(), []
        for number, size in enumerate(sizes):
            made.add_message(B, self.of_size(number, size))
        while (request := send(made)) is not None:
            assert len(found) < len(sizes)
            found.append(len(request[1].edus))
            made.receive_delivered(B)
        return found

    def test_as_many_as_fit(self) -> None:
        quarter = MAX_TRANSACTION_BYTES // 4
        assert self.sizes(*[quarter] * 9) == [4, 4, 1]
        assert self.sizes(quarter, quarter, quarter, quarter + 1) == [3, 1]

    def test_at_least_one(self) -> None:
        assert self.sizes(MAX_TRANSACTION_BYTES + 1, 1000, MAX_TRANSACTION_BYTES + 1) == [1, 1, 1]

    def test_a_small_one_does_not_overtake(self) -> None:
        half = MAX_TRANSACTION_BYTES // 2
        assert self.sizes(half, half + 1, 1000) == [1, 2]

    def test_after_a_restart_too(self) -> None:
        made = new()
        for number in range(2):
            made.add_message(B, self.of_size(number, MAX_TRANSACTION_BYTES - 1000))
        restored = Transactions.from_json(json.loads(json.dumps(made.to_json())), server_name="a.example")
        assert said(sent(restored)) == ["0"]


class TestServersThatAreAwayForLong:
    """Attack 48: not everything is kept for a server that may never come back."""

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("matrix_e2e_keys.homeserver.directory.transactions._MAX_WAITING", 5)

    def test_the_oldest_messages_are_dropped(self) -> None:
        made = new()
        for number in range(8):
            made.add_message(B, message(number))
        made.add_message(C, message(9))
        assert said(sent(made)) == ["3", "4", "5", "6", "7"]
        assert said(sent(made)) == ["9"]

    def test_what_is_under_way_is_not(self) -> None:
        made = new()
        for number in range(3):
            made.add_message(B, message(number))
        first = sent(made)
        made.receive_failed(B, now=NOW)
        for number in range(3, 8):
            made.add_message(B, message(number))
        assert sent(made, NOW + FIRST_DELAY) is first
        made.receive_delivered(B)
        assert said(sent(made, NOW + FIRST_DELAY)) == ["6", "7"]

    def test_what_was_under_way_is_the_first_again_if_it_is_refused(self) -> None:
        made = new()
        for number in range(3):
            made.add_message(B, message(number))
        sent(made)
        for number in range(3, 8):
            made.add_message(B, message(number))
        made.receive_refused(B, now=NOW)
        assert said(sent(made, NOW + FIRST_DELAY)) == ["0"]

    def test_updates_that_are_under_way_hold_no_messages(self) -> None:
        made = new()
        change(made, "D1")
        assert said(sent(made)) == ["D1"]
        for number in range(6):
            made.add_message(B, message(number))
        made.receive_delivered(B)
        assert said(sent(made)) == ["1", "2", "3", "4", "5"]


class TestStoring:
    def restored(self, made: Transactions) -> Transactions:
        return Transactions.from_json(json.loads(json.dumps(made.to_json())), server_name="a.example")

    def test_everything_comes_back(self) -> None:
        made = new()
        change(made, "D1", to=[B, C])
        made.add_message(B, message(1))
        made.add_message(B, message(2))
        made.add_message(C, message(3))
        restored = self.restored(made)
        assert restored.to_json() == made.to_json()
        assert said(sent(restored)) == ["D1"]
        assert said(sent(restored)) == ["D1"]
        for server in (B, C):
            restored.receive_delivered(server)
        assert said(sent(restored)) == ["1", "2"]
        assert said(sent(restored)) == ["3"]

    def test_what_was_on_its_way_is_sent_again_under_another_name(self) -> None:
        made = new()
        change(made, "D1")
        made.add_message(B, message(1))
        first = sent(made)
        again = sent(self.restored(made))
        assert said(again) == said(first)
        assert again.edus == first.edus
        assert again.txn_id != first.txn_id

    @pytest.mark.parametrize(
        ("damage", "path"),
        [
            ({"version": 2}, "/version"),
            ({"sent": "1"}, "/sent"),
            ({"outbox": None}, "/outbox"),
            ({"outbox": {"version": 7}}, "/outbox/version"),
            ({"sent": -1}, "/sent"),
            ({"messages": []}, "/messages"),
            ({"messages": {"no server": [message(1).to_json()]}}, "/messages/no server"),
            ({"messages": {B: {}}}, f"/messages/{B}"),
            ({"messages": {B: [7]}}, f"/messages/{B}/0"),
            ({"messages": {B: [{"edu_type": "m.direct_to_device", "content": {}}]}}, f"/messages/{B}/0"),
        ],
    )
    def test_a_damaged_member_is_named(self, damage: dict[str, object], path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            Transactions.from_json({**new().to_json(), **damage}, server_name="a.example")
        assert caught.value.path.startswith(path)

    def test_other_edus_among_the_messages_are_left_out(self) -> None:
        stored = {**new().to_json(), "messages": {B: [{"edu_type": "m.typing", "content": {}}, message(1).to_json()]}}
        assert said(sent(Transactions.from_json(stored, server_name="a.example"))) == ["1"]

    def test_nothing_was_sent_less_than_never(self) -> None:
        assert Transactions.from_json({**new().to_json(), "sent": 0}, server_name="a.example").to_json()["sent"] == 0

    @given(json_like_values())
    def test_nothing_else_is_raised(self, obj: object) -> None:
        for stored in (obj, *({**new().to_json(), name: obj} for name in ("outbox", "sent", "messages"))):
            for damaged in (stored, {**new().to_json(), "messages": {B: [obj]}}):
                with contextlib.suppress(LocalProtocolError):
                    Transactions.from_json(damaged, server_name="a.example")
