"""What other servers are told: to whom, in which order, again and again until it is known there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from matrix_e2e_keys import DeviceKeys, LocalProtocolError
from matrix_e2e_keys.endpoints.federation.edus import DeviceListUpdate, Edu, SigningKeyUpdate, read_edu
from matrix_e2e_keys.homeserver.device_streams.outbox import (
    DeviceListOutbox,
    DevicePoke,
    IdentityPoke,
    OutboundUpdates,
    edus_of,
)
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser

ALICE, CAROL = "@alice:a.example", "@carol:a.example"
B, C = "b.example", "c.example"
DAY = 86_400_000


def change(outbox: DeviceListOutbox, device: str, *to: str, user: str = ALICE, now: int = 0) -> int:
    return outbox.device_changed(user, device, destinations=to or (B,), now=now)


def send(outbox: DeviceListOutbox, destination: str = B, *, now: int = 0) -> OutboundUpdates:
    updates = outbox.next_transaction(destination, now=now)
    assert updates is not None
    return updates


def told(updates: OutboundUpdates) -> list[Any]:
    """Each poke in short: device, number and the numbers before; or whose identity."""
    return [
        (poke.device_id, poke.stream_id, *poke.prev_ids) if isinstance(poke, DevicePoke) else poke.user_id
        for poke in updates.pokes
    ]


def deliver(outbox: DeviceListOutbox, destination: str = B, *, now: int = 0) -> list[Any]:
    updates = send(outbox, destination, now=now)
    outbox.receive_delivered(updates)
    return told(updates)


def restored(outbox: DeviceListOutbox) -> DeviceListOutbox:
    return DeviceListOutbox.from_json(json.loads(json.dumps(outbox.to_json())))


class TestNumbers:
    def test_one_growing_number_for_the_server(self) -> None:
        outbox = DeviceListOutbox()
        assert [change(outbox, "A"), change(outbox, "A", user=CAROL), change(outbox, "B")] == [1, 2, 3]
        assert (outbox.stream_id_of(ALICE), outbox.stream_id_of(CAROL)) == (3, 2)
        assert outbox.stream_id_of("@nobody:a.example") == 0
        assert outbox.stream_id_of(5) == 0  # type: ignore[arg-type]

    def test_a_number_is_taken_even_if_nobody_is_told(self) -> None:
        outbox = DeviceListOutbox()
        assert outbox.device_changed(ALICE, "A", destinations=(), now=0) == 1
        assert outbox.destinations_waiting == ()
        assert change(outbox, "A") == 2

    def test_numbers_of_one_user_grow_over_a_restart(self) -> None:
        """The numbers of a user are a sequence, whatever happens to the server."""
        outbox = DeviceListOutbox()
        numbers: list[int] = []
        for step in range(6):
            numbers.append(change(outbox, f"D{step % 2}"))
            change(outbox, "X", user=CAROL)
            outbox = restored(outbox)
        assert numbers == sorted(set(numbers))
        assert outbox.stream_id_of(ALICE) == numbers[-1]

    def test_an_identity_takes_none(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        outbox.identity_changed(ALICE, destinations=(B,), now=0)
        assert change(outbox, "B") == 2
        assert deliver(outbox) == [("A", 1), ALICE, ("B", 2, 1)]


class TestChains:
    def test_the_first_update_has_nothing_before_it(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        assert deliver(outbox) == [("A", 1)]

    def test_each_update_names_the_one_before(self) -> None:
        """A change of keys is told with the number of the previous one."""
        outbox = DeviceListOutbox()
        change(outbox, "A")
        deliver(outbox)
        change(outbox, "A")
        assert deliver(outbox) == [("A", 2, 1)]
        change(outbox, "B")
        change(outbox, "A")
        assert deliver(outbox) == [("B", 3, 2), ("A", 4, 3)]

    def test_two_users_have_two_chains(self) -> None:
        outbox = DeviceListOutbox()
        for device in ("A", "B"):
            change(outbox, device)
            change(outbox, device, user=CAROL)
        updates = send(outbox)
        assert [(poke.user_id, *told(updates)[place]) for place, poke in enumerate(updates.pokes)] == [
            (ALICE, "A", 1),
            (CAROL, "A", 2),
            (ALICE, "B", 3, 1),
            (CAROL, "B", 4, 2),
        ]

    def test_two_destinations_have_two_chains(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", B, C)
        assert deliver(outbox, B) == [("A", 1)]
        change(outbox, "B", B)
        change(outbox, "C", B, C)
        assert deliver(outbox, B) == [("B", 2, 1), ("C", 3, 2)]
        assert deliver(outbox, C) == [("A", 1), ("C", 3, 1)]

    def test_the_chain_goes_on_after_a_restart(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        deliver(outbox)
        outbox = restored(outbox)
        change(outbox, "B")
        assert deliver(outbox) == [("B", 2, 1)]


class TestOnePokeForEachDevice:
    def test_a_newer_one_replaces_the_one_that_waits(self) -> None:
        outbox = DeviceListOutbox()
        for device in ("A", "B", "A", "A"):
            change(outbox, device)
        assert deliver(outbox) == [("B", 2), ("A", 4, 2)]
        assert outbox.destinations_waiting == ()

    def test_devices_of_the_same_name_are_not_one(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        change(outbox, "A", user=CAROL)
        assert len(send(outbox).pokes) == 2

    def test_a_newer_one_waits_while_the_older_one_is_on_its_way(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        first = send(outbox)
        change(outbox, "A")
        change(outbox, "A")
        assert outbox.next_transaction(B, now=0) is None
        outbox.receive_delivered(first)
        assert deliver(outbox) == [("A", 3, 1)]

    def test_an_identity_is_told_once(self) -> None:
        outbox = DeviceListOutbox()
        for _ in range(3):
            outbox.identity_changed(ALICE, destinations=(B,), now=0)
        assert deliver(outbox) == [ALICE]


class TestTransactions:
    @pytest.mark.parametrize(("devices", "sizes"), [(99, [100]), (100, [100, 1]), (199, [100, 100])])
    def test_not_more_than_a_hundred_in_one(self, devices: int, sizes: list[int]) -> None:
        outbox = DeviceListOutbox()
        for number in range(devices):
            change(outbox, f"D{number}")
        outbox.identity_changed(ALICE, destinations=(B,), now=0)
        transactions = [deliver(outbox) for _ in sizes]
        assert [len(pokes) for pokes in transactions] == sizes
        assert transactions[0][:2] == [("D0", 1), ("D1", 2, 1)]
        assert transactions[-1][-1] == ALICE
        assert outbox.next_transaction(B, now=0) is None

    def test_both_signing_keys_of_a_user_are_in_one(self) -> None:
        """They are one poke, so that no limit can come between them."""
        outbox = DeviceListOutbox()
        for number in range(99):
            change(outbox, f"D{number}")
        outbox.identity_changed(ALICE, destinations=(B,), now=0)
        user = SampleUser(ALICE)
        keys = UserKeys(user_id=ALICE, master_key=user.master_key, self_signing_key=user.self_signing_key)
        last = edus_of(send(outbox), users={ALICE: keys})[-1]
        assert isinstance(last, SigningKeyUpdate)
        assert (last.master_key, last.self_signing_key) == (user.master_key, user.self_signing_key)

    def test_numbers_of_transactions_grow_for_all_destinations(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", B, C)
        assert [send(outbox, B).number, send(outbox, C).number] == [1, 2]

    def test_nothing_for_nobody(self) -> None:
        outbox = DeviceListOutbox()
        assert outbox.next_transaction(B, now=0) is None
        change(outbox, "A")
        assert outbox.next_transaction(C, now=0) is None
        deliver(outbox)
        assert outbox.next_transaction(B, now=0) is None

    def test_what_failed_is_sent_again_as_it_was(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        first = send(outbox)
        outbox.receive_failed(first, now=0)
        change(outbox, "A", now=1)
        change(outbox, "B", now=1)
        assert outbox.next_transaction(B, now=14_999) is None
        assert send(outbox, now=15_000) == first
        outbox.receive_delivered(first)
        assert deliver(outbox) == [("A", 2, 1), ("B", 3, 2)]

    def test_what_was_on_its_way_is_sent_again_after_a_restart(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        change(outbox, "B")
        outbox.identity_changed(CAROL, destinations=(B,), now=0)
        first = send(outbox)
        outbox = restored(outbox)
        assert outbox.destinations_waiting == (B,)
        assert send(outbox) == first
        outbox.receive_delivered(first)
        change(outbox, "C", C)
        assert send(outbox, C).number == first.number + 1

    def test_a_server_that_was_away_gets_everything_once_it_is_back(self) -> None:
        """One update for each device of what has waited."""
        outbox = DeviceListOutbox()
        change(outbox, "A")
        first = send(outbox)
        now = 0
        for device in ("A", "B", "A", "B", "B"):
            outbox.receive_failed(first, now=now)
            change(outbox, device, now=now)
            wake = outbox.next_wake_at(now=now)
            assert wake is not None
            assert wake > now
            now = wake
            assert send(outbox, now=now) == first
        outbox.receive_delivered(first)
        assert deliver(outbox) == [("A", 4, 1), ("B", 6, 4)]

    def test_a_server_may_wish_to_wait_for_longer(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        outbox.receive_failed(send(outbox), now=0, retry_after_ms=50_000)
        assert outbox.next_wake_at(now=0) == 50_000

    def test_one_server_that_fails_holds_up_no_other(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", B, C)
        outbox.receive_failed(send(outbox, B), now=0)
        assert outbox.destinations_waiting == (B, C)
        assert deliver(outbox, C) == [("A", 1)]

    def test_success_ends_the_delays(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        outbox.receive_failed(send(outbox), now=0)
        outbox.receive_delivered(send(outbox, now=15_000))
        change(outbox, "A", now=15_000)
        outbox.receive_failed(send(outbox, now=15_000), now=15_000)
        assert outbox.next_wake_at(now=15_000) == 30_000

    def test_when_to_wake(self) -> None:
        outbox = DeviceListOutbox()
        assert outbox.next_wake_at(now=7) is None
        change(outbox, "A", B, C)
        assert outbox.next_wake_at(now=7) == 7
        send(outbox, B)
        send(outbox, C)
        assert (outbox.next_wake_at(now=7), outbox.destinations_waiting) == (None, ())

    def test_what_is_not_on_its_way_is_ignored(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        stray = OutboundUpdates(number=9, destination=B, pokes=(IdentityPoke(user_id=ALICE),))
        elsewhere = OutboundUpdates(number=9, destination="x.example", pokes=())
        first = send(outbox)
        for updates in (stray, elsewhere):
            outbox.receive_delivered(updates)
            outbox.receive_failed(updates, now=0)
        assert outbox.destinations_waiting == ()
        outbox.receive_failed(first, now=0)
        outbox.receive_delivered(first)  # it has failed: it is sent again
        outbox.receive_failed(first, now=0)
        assert outbox.destinations_waiting == (B,)
        outbox.receive_delivered(send(outbox, now=15_000))
        outbox.receive_delivered(first)
        assert outbox.destinations_waiting == ()


class TestWhoeverAsked:
    def test_what_waited_is_known_there(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", B, C)
        change(outbox, "B", B, C)
        change(outbox, "A", user=CAROL)
        outbox.identity_changed(ALICE, destinations=(B,), now=0)
        outbox.receive_resync(B, ALICE)
        change(outbox, "A")
        assert deliver(outbox) == [("A", 3), ALICE, ("A", 4, 2)]
        assert len(send(outbox, C).pokes) == 2

    def test_what_is_on_its_way_does_not_set_the_chain_back(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        first = send(outbox)
        change(outbox, "B")
        outbox.receive_resync(B, ALICE)
        outbox.receive_delivered(first)
        change(outbox, "A")
        assert deliver(outbox) == [("A", 3, 2)]

    def test_nothing_is_known_of_those_without_updates(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        outbox.receive_resync("x.example", ALICE)
        outbox.receive_resync(B, CAROL)
        assert outbox.to_json()["destinations"].keys() == {B}  # type: ignore[union-attr]
        assert deliver(outbox) == [("A", 1)]


class TestAgeAndForgetting:
    def test_a_server_that_never_was_reached_gets_one_update(self) -> None:
        """It begins a new chain, so all devices are asked for."""
        outbox = DeviceListOutbox()
        for device in ("A", "B", "C"):
            change(outbox, device)
        change(outbox, "A", user=CAROL)
        outbox.receive_failed(send(outbox), now=0)
        outbox.prune(now=DAY - 1)
        assert len(send(outbox, now=DAY).pokes) == 4
        outbox = restored(outbox)
        outbox.prune(now=DAY)
        assert deliver(outbox, now=DAY) == [("C", 3), ("A", 4)]

    def test_a_server_that_was_reached_once_gets_one_update_too(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        deliver(outbox)
        change(outbox, "B")
        change(outbox, "A")
        outbox.prune(now=DAY)
        outbox = restored(outbox)
        change(outbox, "C", now=DAY)
        assert deliver(outbox) == [("A", 3), ("C", 4, 3)]
        change(outbox, "A", now=DAY)
        assert deliver(outbox) == [("A", 5, 4)]

    def test_a_newer_poke_about_what_was_left_begins_the_chain_as_well(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        deliver(outbox)
        change(outbox, "B")
        change(outbox, "A")
        outbox.prune(now=DAY)
        change(outbox, "A", now=DAY)
        assert deliver(outbox) == [("A", 4)]

    def test_what_is_on_its_way_does_not_mend_the_chain(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        first = send(outbox)
        change(outbox, "B")
        change(outbox, "C")
        outbox.prune(now=DAY)
        outbox.receive_delivered(first)
        assert deliver(outbox) == [("C", 3)]

    def test_a_new_chain_that_failed_begins_anew(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        first = send(outbox)
        for device in ("B", "C"):
            change(outbox, device)
        change(outbox, "X", user=CAROL)
        outbox.prune(now=DAY)
        outbox.receive_delivered(first)
        change(outbox, "C", now=DAY)
        second = send(outbox, now=DAY)
        assert told(second) == [("X", 4), ("C", 5)]
        outbox.receive_failed(second, now=DAY)
        outbox.prune(now=DAY + 1)
        assert deliver(outbox, now=2 * DAY) == [("X", 4), ("C", 5)]

    def test_who_has_asked_since_needs_no_new_chain(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        change(outbox, "B")
        outbox.prune(now=DAY)
        outbox.receive_resync(B, ALICE)
        change(outbox, "A")
        assert deliver(outbox) == [("A", 3, 2)]

    def test_what_is_young_stays(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", now=1)
        outbox.identity_changed(ALICE, destinations=(B,), now=1)
        outbox.prune(now=DAY)
        assert deliver(outbox) == [("A", 1), ALICE]

    def test_an_old_identity_goes_with_the_devices_and_stays_without_them(self) -> None:
        outbox = DeviceListOutbox()
        outbox.identity_changed(ALICE, destinations=(B,), now=0)
        outbox.identity_changed(CAROL, destinations=(B,), now=0)
        change(outbox, "A")
        outbox.prune(now=DAY)
        assert deliver(outbox) == [CAROL, ("A", 1)]

    def test_what_failed_long_ago_gives_way_to_what_is_newer(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        outbox.identity_changed(ALICE, destinations=(B,), now=0)
        outbox.receive_failed(send(outbox), now=0)
        change(outbox, "A", now=DAY)
        outbox.prune(now=DAY)
        updates = send(outbox, now=DAY)
        assert (updates.number, told(updates)) == (2, [ALICE, ("A", 2)])

    def test_a_forgotten_server_begins_anew(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        deliver(outbox)
        change(outbox, "A")
        outbox.receive_failed(send(outbox), now=0)
        outbox.forget_destination(B)
        outbox.forget_destination("x.example")
        assert outbox.destinations_waiting == ()
        change(outbox, "B")
        assert deliver(outbox) == [("B", 3)]


USER = SampleUser(ALICE)


def poke(device: str, **more: Any) -> OutboundUpdates:
    return OutboundUpdates(
        number=1, destination=B, pokes=(DevicePoke(user_id=ALICE, device_id=device, stream_id=7, **more),)
    )


def owner(*records: DeviceRecord, **more: Any) -> dict[str, UserKeys]:
    return {ALICE: UserKeys(user_id=ALICE, devices={record.device_id: record for record in records}, **more)}


class TestEdus:
    @staticmethod
    def one(updates: OutboundUpdates, users: Any, **more: Any) -> DeviceListUpdate:
        (edu,) = edus_of(updates, users=users, **more)
        assert isinstance(edu, DeviceListUpdate)
        assert read_edu(edu.to_json()) == edu
        return edu

    def test_a_device_with_its_cross_signature(self) -> None:
        """An uploaded signature is told as an update of the device."""
        keys = USER.device("A").signed
        edu = self.one(poke("A", prev_ids=(6,)), owner(DeviceRecord(device_id="A", keys=keys, display_name="Phone")))
        assert isinstance(edu.keys, DeviceKeys)
        assert edu.keys.to_json() == keys.to_json()
        assert len(edu.keys.signed.signatures[ALICE]) == 2
        assert (edu.stream_id, edu.prev_ids, edu.deleted, edu.device_display_name) == (7, (6,), False, None)

    def test_a_name_is_told_if_others_may_know_it(self) -> None:
        users = owner(DeviceRecord(device_id="A", display_name="Phone"))
        edu = self.one(poke("A"), users, shows_display_names=True)
        assert (edu.device_display_name, edu.keys, edu.deleted) == ("Phone", None, False)

    @pytest.mark.parametrize("users", [{}, owner(DeviceRecord(device_id="B"))])
    def test_a_device_that_is_gone(self, users: Any) -> None:
        edu = self.one(poke("A"), users, shows_display_names=True)
        assert (edu.deleted, edu.keys, edu.device_display_name) == (True, None, None)

    def test_signatures_by_others_and_what_is_unsigned_stay_here(self) -> None:
        """Attack 53: what leaves this server are the signatures of the owner."""
        signed = USER.device("A").signed
        eve = SampleUser("@eve:e.example")
        tree: dict[str, Any] = signed.to_json()
        tree["signatures"][eve.user_id] = {"ed25519:x": "A" * 86}
        tree["unsigned"] = {"device_display_name": "secret"}
        edu = self.one(poke("A"), owner(DeviceRecord(device_id="A", keys=SignedJson.from_json(tree))))
        assert isinstance(edu.keys, DeviceKeys)
        assert edu.keys.to_json() == signed.to_json()

    def test_keys_that_are_none_are_told_as_they_were_admitted(self) -> None:
        """Attack 52: what was stored can be told."""
        odd = SignedJson.from_json({"user_id": ALICE, "device_id": "A", "algorithms": [], "keys": {"x": "y"}})
        (edu,) = edus_of(poke("A"), users=owner(DeviceRecord(device_id="A", keys=odd)))
        assert isinstance(edu, DeviceListUpdate)
        assert isinstance(edu.keys, Rejection)
        assert edu.to_json()["content"]["keys"] == odd.to_json()  # type: ignore[index,call-overload]

    def test_an_identity(self) -> None:
        updates = OutboundUpdates(number=1, destination=B, pokes=(IdentityPoke(user_id=ALICE),))
        by_device = add_signature(USER.master_key.signed, entity=ALICE, signer=USER.device_signer("A"))
        master = USER.master_key.with_signed(by_device)
        eve = SampleUser("@eve:e.example")
        users = owner(
            master_key=eve.verified(master),
            self_signing_key=USER.self_signing_key,
            user_signing_key=USER.user_signing_key,
        )
        edus: tuple[Edu, ...] = edus_of(updates, users=users)
        assert [edu.to_json() for edu in edus] == [
            {
                "edu_type": "m.signing_key_update",
                "content": {
                    "user_id": ALICE,
                    "master_key": master.to_json(),
                    "self_signing_key": USER.self_signing_key.to_json(),
                },
            }
        ]

    def test_one_for_each_poke_even_if_there_is_nothing_to_tell(self) -> None:
        updates = OutboundUpdates(number=1, destination=B, pokes=(IdentityPoke(user_id=ALICE),))
        assert edus_of(updates, users={}) == (SigningKeyUpdate(user_id=ALICE),)

    @pytest.mark.parametrize(
        ("arguments", "path"),
        [
            ({"updates": 5}, "/updates"),
            ({"users": 5}, "/users"),
            ({"users": {ALICE: 5}}, f"/users/{ALICE}"),
            ({"shows_display_names": 1}, "/shows_display_names"),
        ],
    )
    def test_wrong_arguments_are_the_callers_fault(self, arguments: Any, path: str) -> None:
        all_of: Any = {"updates": poke("A"), "users": {}, **arguments}
        with pytest.raises(LocalProtocolError) as caught:
            edus_of(all_of.pop("updates"), **all_of)
        assert caught.value.path == path


def waiting(**change: Any) -> dict[str, Any]:
    return {"user_id": ALICE, "device_id": "A", "stream_id": 1, "since": 0, **change}


def on_its_way(**change: Any) -> dict[str, Any]:
    return {"number": 1, "pokes": [waiting(prev_ids=[])], **change}


class TestArgumentsAndDamage:
    @pytest.mark.parametrize(
        "call",
        [
            lambda outbox: outbox.device_changed(5, "A", destinations=(B,), now=0),
            lambda outbox: outbox.device_changed(ALICE, "", destinations=(B,), now=0),
            lambda outbox: outbox.device_changed(ALICE, "A", destinations=B, now=0),
            lambda outbox: outbox.device_changed(ALICE, "A", destinations=(B, "not a server"), now=0),
            lambda outbox: outbox.device_changed(ALICE, "A", destinations=(B,), now=0.5),
            lambda outbox: outbox.identity_changed("alice", destinations=(B,), now=0),
            lambda outbox: outbox.identity_changed(ALICE, destinations=(5,), now=0),
            lambda outbox: outbox.identity_changed(ALICE, destinations=(B,), now=None),
            lambda outbox: outbox.next_transaction(5, now=0),
            lambda outbox: outbox.next_transaction([], now=0),
            lambda outbox: outbox.next_transaction(B, now="0"),
            lambda outbox: outbox.receive_delivered(5),
            lambda outbox: outbox.receive_failed(5, now=0),
            lambda outbox: outbox.receive_failed(poke("A"), now=True),
            lambda outbox: outbox.receive_failed(poke("A"), now=0, retry_after_ms=0.5),
            lambda outbox: outbox.receive_resync(5, ALICE),
            lambda outbox: outbox.receive_resync(B, 5),
            lambda outbox: outbox.forget_destination([]),
            lambda outbox: outbox.prune(now=None),
            lambda outbox: outbox.next_wake_at(now=None),
        ],
    )
    def test_wrong_arguments_change_nothing(self, call: Any) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        before = outbox.to_json()
        with pytest.raises(LocalProtocolError):
            call(outbox)
        assert outbox.to_json() == before

    def test_it_survives_being_stored(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", B, C)
        change(outbox, "A", user=CAROL)
        deliver(outbox, B)
        change(outbox, "B", B, C)
        outbox.identity_changed(ALICE, destinations=(B, C), now=5)
        send(outbox, C)
        change(outbox, "B", C)
        outbox.prune(now=DAY)
        stored = outbox.to_json()
        assert restored(outbox).to_json() == stored == json.loads(json.dumps(stored))

    @pytest.mark.parametrize(
        ("name", "value", "path"),
        [
            ("version", 2, "/version"),
            ("newest", -1, "/newest"),
            ("newest", True, "/newest"),
            ("number", -1, "/number"),
            ("users", [], "/users"),
            ("users", {ALICE: 0}, f"/users/{ALICE}"),
            ("users", {ALICE: 6}, f"/users/{ALICE}"),
            ("users", {"alice": 1}, "/users/alice"),
            ("destinations", {"not a server": {}}, "/destinations/not a server"),
            ("destinations", {B: 5}, f"/destinations/{B}"),
        ],
    )
    def test_damage_is_named(self, name: str, value: Any, path: str) -> None:
        stored: dict[str, Any] = {"version": 1, "newest": 5, "number": 5, "users": {}, "destinations": {}}
        assert DeviceListOutbox.from_json(stored).to_json() == stored
        with pytest.raises(LocalProtocolError) as caught:
            DeviceListOutbox.from_json({**stored, name: value})
        assert caught.value.path == path

    @pytest.mark.parametrize(
        ("name", "value", "path"),
        [
            ("waiting", [5], "/waiting/0"),
            ("waiting", [waiting(user_id="x")], "/waiting/0/user_id"),
            ("waiting", [waiting(device_id="")], "/waiting/0/device_id"),
            ("waiting", [waiting(device_id=5)], "/waiting/0/device_id"),
            ("waiting", [waiting(stream_id=0)], "/waiting/0/stream_id"),
            ("waiting", [waiting(stream_id=6)], "/waiting/0/stream_id"),
            ("waiting", [waiting(stream_id=2), waiting(device_id="B")], "/waiting/1/stream_id"),
            ("waiting", [waiting(), waiting(stream_id=2)], "/waiting/1"),
            ("waiting", [waiting(since=None)], "/waiting/0/since"),
            ("delivered", {ALICE: 0}, f"/delivered/{ALICE}"),
            ("delivered", {ALICE: 6}, f"/delivered/{ALICE}"),
            ("delivered", {"x": 1}, "/delivered/x"),
            ("restarts", ["x"], "/restarts/0"),
            ("restarts", [5], "/restarts/0"),
            ("flight", 5, "/flight"),
            ("flight", on_its_way(number=0), "/flight/number"),
            ("flight", on_its_way(number=6), "/flight/number"),
            ("flight", on_its_way(pokes=[]), "/flight/pokes"),
            (
                "flight",
                on_its_way(
                    pokes=[waiting(user_id=f"@u{n}:a.example", device_id=None, prev_ids=[]) for n in range(101)]
                ),
                "/flight/pokes",
            ),
            ("flight", on_its_way(pokes=[waiting(prev_ids=["1"])]), "/flight/pokes/0/prev_ids/0"),
            ("flight", on_its_way(pokes=[waiting(prev_ids=[-1])]), "/flight/pokes/0/prev_ids/0"),
            ("flight", on_its_way(pokes=[waiting()]), "/flight/pokes/0/prev_ids"),
        ],
    )
    def test_damage_of_a_queue_is_named(self, name: str, value: Any, path: str) -> None:
        queue: dict[str, Any] = {"waiting": [waiting()], "delivered": {}, "restarts": [], "flight": on_its_way()}
        stored: dict[str, Any] = {"version": 1, "newest": 5, "number": 5, "users": {}, "destinations": {B: queue}}
        assert DeviceListOutbox.from_json(stored).to_json() == stored
        queue[name] = value
        with pytest.raises(LocalProtocolError) as caught:
            DeviceListOutbox.from_json(stored)
        assert caught.value.path == f"/destinations/{B}{path}"


class TestMappings:
    def test_the_destinations_are_their_names(self) -> None:
        outbox = DeviceListOutbox()
        outbox.device_changed(ALICE, "A", destinations={B: 5, C: None}, now=0)
        assert (deliver(outbox, B), deliver(outbox, C)) == ([("A", 1)], [("A", 1)])
        outbox.identity_changed(ALICE, destinations={C: [ALICE]}, now=0)
        assert outbox.destinations_waiting == (C,)


class TestRows:
    def test_there_is_one_for_each_destination(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", B, C)
        stored: Any = outbox.to_json()
        assert outbox.take_changed() == {B, C}
        assert {name: outbox.destination_to_json(name) for name in (B, C)} == stored["destinations"]
        assert outbox.head_to_json() == {"version": 1, "newest": 1, "number": 0}
        assert outbox.destination_to_json("x.example") is None

    def test_put_together_they_are_the_outbox(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", B, C)
        deliver(outbox, B)
        change(outbox, "B", B)
        send(outbox, B)
        rows = {name: outbox.destination_to_json(name) for name in outbox.take_changed()}
        users = {ALICE: outbox.stream_id_of(ALICE)}
        again = DeviceListOutbox.from_json({**outbox.head_to_json(), "users": users, "destinations": rows})
        assert again.to_json() == outbox.to_json()
        assert again.take_changed() == frozenset()
        assert told(send(again, B)) == [("B", 2, 1)]

    def test_what_changes_nothing_names_nobody(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A", B, C)
        updates = send(outbox)
        assert outbox.take_changed() == {B, C}
        outbox.receive_failed(updates, now=0)
        outbox.receive_failed(updates, now=0)
        assert send(outbox, now=DAY) == updates
        assert outbox.next_transaction(B, now=DAY) is None
        outbox.receive_resync("x.example", ALICE)
        outbox.receive_resync(B, CAROL)
        outbox.forget_destination("x.example")
        outbox.prune(now=0)
        assert outbox.take_changed() == frozenset()
        outbox.receive_delivered(updates)
        outbox.receive_delivered(updates)
        assert outbox.take_changed() == {B}

    @pytest.mark.parametrize("devices", [("A",), ("A", "B")])
    def test_pruning_names_a_server_once(self, devices: tuple[str, ...]) -> None:
        outbox = DeviceListOutbox()
        for name in devices:
            change(outbox, name, B)
        change(outbox, "A", C, now=1)
        outbox.take_changed()
        outbox.prune(now=DAY)
        assert outbox.take_changed() == {B}
        outbox.prune(now=DAY)
        assert outbox.take_changed() == frozenset()

    def test_pruning_again_names_a_server_where_something_is_left_out(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        outbox.prune(now=DAY)
        change(outbox, "B", now=DAY)
        outbox.take_changed()
        outbox.prune(now=2 * DAY)
        assert outbox.take_changed() == {B}
        assert deliver(outbox) == [("B", 2)]

    def test_pruning_again_names_a_server_that_took_something_since(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        updates = send(outbox)
        change(outbox, "B")
        outbox.prune(now=DAY)
        outbox.receive_delivered(updates)
        outbox.take_changed()
        before = outbox.destination_to_json(B)
        outbox.prune(now=DAY)
        assert outbox.destination_to_json(B) != before
        assert outbox.take_changed() == {B}

    def test_pruning_what_has_failed_names_its_server(self) -> None:
        outbox = DeviceListOutbox()
        outbox.identity_changed(ALICE, destinations=(B,), now=0)
        outbox.receive_failed(send(outbox), now=0)
        outbox.take_changed()
        outbox.prune(now=DAY)
        assert outbox.take_changed() == {B}

    def test_the_row_of_who_is_forgotten_is_to_be_deleted(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        outbox.take_changed()
        outbox.forget_destination(B)
        assert (outbox.take_changed(), outbox.destination_to_json(B)) == ({B}, None)

    def test_a_destination_that_comes_and_goes_in_between_leaves_nothing(self) -> None:
        outbox = DeviceListOutbox()
        change(outbox, "A")
        outbox.forget_destination(B)
        assert outbox.take_changed() == frozenset()

    @pytest.mark.parametrize("name", [5, None, [], {}])
    def test_the_name_of_a_row_is_a_string(self, name: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            DeviceListOutbox().destination_to_json(name)
        assert caught.value.path == "/server_name"
