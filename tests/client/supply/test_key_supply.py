"""One's own one-time keys and fallback keys: how many, when, stored first, and never two under one name."""

from __future__ import annotations

import base64
import contextlib
import copy
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys import (
    Curve25519PublicKey,
    DeviceKeys,
    E2EKeysError,
    KeysUploadRequest,
    KeysUploadResponse,
    LocalProtocolError,
    MatrixError,
    OneTimeKey,
    Reason,
    SyncKeys,
)
from matrix_e2e_keys.client.supply.key_supply import KeySupply
from matrix_e2e_keys.client.supply.values import KeyUse, NeededKeys, OutgoingUpload, SupplyPolicy
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
SIGNER = ALICE.device_signer("PHONE")
PHONE = ALICE.device("PHONE")
SIGNED = "signed_curve25519"
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
POLICY = SupplyPolicy(target=5, cap=20)
NOTHING = NeededKeys(one_time_keys=0, fallback_key=False, forget_previous_fallback_key=False)


def public_keys(*names: str, of: str = "") -> dict[str, Curve25519PublicKey]:
    return {name: sample_curve25519_key(of + name) for name in names}


def fallback_key(name: str) -> Curve25519PublicKey:
    return sample_curve25519_key(f"fallback {name}")


def answer(held: int | None) -> KeysUploadResponse:
    return KeysUploadResponse(one_time_key_counts={} if held is None else {SIGNED: held})


def sync(held: int | None = None, unused: Iterable[str] | None = None) -> SyncKeys:
    return SyncKeys(
        one_time_key_counts=None if held is None else {SIGNED: held},
        unused_fallback_key_types=None if unused is None else tuple(unused),
    )


def names(upload: OutgoingUpload | None) -> list[str] | None:
    return None if upload is None else [key_id.partition(":")[2] for key_id in upload.request.one_time_keys]


def fallback_names(upload: OutgoingUpload | None) -> list[str] | None:
    return None if upload is None else [key_id.partition(":")[2] for key_id in upload.request.fallback_keys]


def add(made: KeySupply, *added: str) -> None:
    """Add one-time keys, and store them."""
    made.add_one_time_keys(public_keys(*added), signer=SIGNER)
    made.mark_stored(made.revision)


def add_fallback(made: KeySupply, name: str, now: int = 0) -> None:
    made.add_fallback_key(name, fallback_key(name), signer=SIGNER, now=now)
    made.mark_stored(made.revision)


def sent(made: KeySupply, now: int = 0, **arguments: Any) -> OutgoingUpload:
    upload = made.next_upload(now, **arguments)
    assert upload is not None
    return upload


def send(made: KeySupply, held: int | None, now: int = 0) -> OutgoingUpload:
    """Upload, and have it answered."""
    upload = sent(made, now)
    made.receive_response(upload.upload_id, answer(held), now)
    return upload


def fresh(policy: SupplyPolicy = POLICY) -> KeySupply:
    return KeySupply(user_id=ALICE.user_id, device_id="PHONE", policy=policy)


def stocked(policy: SupplyPolicy = POLICY) -> KeySupply:
    """A supply whose five keys and fallback key the server got at the time 0, and holds."""
    made = fresh(policy)
    add(made, "A", "B", "C", "D", "E")
    add_fallback(made, "F")
    send(made, 5)
    assert made.needed(0) == NOTHING
    return made


def restored(made: KeySupply) -> KeySupply:
    return KeySupply.from_json(json.loads(json.dumps(made.to_json())), policy=made.policy)


class TestHowManyAreNeeded:
    def test_a_device_that_is_new(self) -> None:
        made = KeySupply(user_id=ALICE.user_id, device_id="PHONE")
        needed = made.needed(0)
        assert needed == NeededKeys(one_time_keys=50, fallback_key=True, forget_previous_fallback_key=False)
        assert not needed.is_nothing
        assert made.next_needed_at() is not None
        assert (made.next_upload(0), made.next_upload_at()) == (None, None)

    def test_what_was_added_is_not_needed_again(self) -> None:
        made = fresh()
        made.add_one_time_keys(public_keys("A", "B"), signer=SIGNER)
        assert made.needed(0).one_time_keys == 3
        made.add_fallback_key("F", fallback_key("F"), signer=SIGNER, now=0)
        assert made.needed(0) == NeededKeys(one_time_keys=3, fallback_key=False, forget_previous_fallback_key=False)
        made.add_one_time_keys(public_keys("C", "D", "E", "G"), signer=SIGNER)
        assert made.needed(0) == NOTHING
        assert made.needed(0).is_nothing

    @pytest.mark.parametrize(
        ("keys", "needed"),
        [
            (SyncKeys(), 5),
            (SyncKeys.from_sliding_sync({}), 5),
            (SyncKeys.from_sync_v2({}), 5),
            (sync(0), 5),
            (sync(2), 3),
            (sync(4), 1),
            (sync(5), 0),
            (sync(6), 0),
            (sync(20_000), 0),
            (SyncKeys(one_time_key_counts={"curve25519": 5}), 5),
        ],
    )
    def test_before_the_first_upload(self, keys: SyncKeys, needed: int) -> None:
        made = fresh()
        made.receive_sync(keys, 0)
        assert made.needed(0).one_time_keys == needed

    @pytest.mark.parametrize(
        ("keys", "needed"),
        [
            (SyncKeys(), 0),
            (SyncKeys.from_sliding_sync({"extensions": {"e2ee": {}}}), 0),
            (SyncKeys.from_sync_v2({}), 5),
            (SyncKeys.from_sync_v2({"device_one_time_keys_count": None}), 0),
            (SyncKeys(one_time_key_counts={"curve25519": 5}), 5),
            (sync(0), 5),
            (sync(3), 2),
            (sync(5), 0),
        ],
    )
    def test_nothing_said_is_not_none(self, keys: SyncKeys, needed: int) -> None:
        made = stocked()
        made.receive_sync(keys, HOUR)
        assert made.needed(HOUR).one_time_keys == needed
        assert made.next_upload(HOUR) is None

    def test_none_while_an_upload_is_in_flight(self) -> None:
        made = fresh()
        add(made, "A", "B")
        upload = sent(made)
        assert made.needed(0).one_time_keys == 0
        made.receive_response(upload.upload_id, answer(2), 0)
        assert made.needed(0).one_time_keys == 3

    @pytest.mark.parametrize("held", [None, 0, 3])
    def test_an_answer_says_how_many_there_are(self, held: int | None) -> None:
        made = fresh()
        upload = sent(made, device_keys=PHONE)
        made.receive_response(upload.upload_id, answer(held), 0)
        assert made.needed(0).one_time_keys == 5 - (held or 0)

    def test_claims_between_the_upload_and_its_answer(self) -> None:
        made = fresh()
        add(made, "A", "B", "C", "D", "E")
        send(made, 4)
        assert made.needed(MINUTE).one_time_keys == 1


class TestNames:
    """Attack 46: no id ever stands for two keys, and no key has two ids."""

    def test_the_same_again_has_no_effect(self) -> None:
        made = fresh()
        made.add_one_time_keys(public_keys("A", "B"), signer=SIGNER)
        made.add_fallback_key("A", fallback_key("A"), signer=SIGNER, now=0)
        before, revision = made.to_json(), made.revision
        made.add_one_time_keys(public_keys("A", "B"), signer=SIGNER)
        made.add_one_time_keys({}, signer=SIGNER)
        made.add_fallback_key("A", fallback_key("A"), signer=SIGNER, now=MINUTE)
        assert (made.to_json(), made.revision) == (before, revision)
        made.mark_stored(revision)
        send(made, 2)
        before = made.to_json()
        made.add_one_time_keys(public_keys("A", "B"), signer=SIGNER)
        made.add_fallback_key("A", fallback_key("A"), signer=SIGNER, now=MINUTE)
        assert (made.to_json(), made.revision, made.next_upload(0)) == (before, revision, None)

    @pytest.mark.parametrize("what", ["pending", "uploaded", "used", "given up"])
    def test_a_name_never_stands_for_another_key(self, what: str) -> None:
        made = fresh()
        add(made, "A")
        if what != "pending":
            upload = sent(made)
            if what == "given up":
                made.receive_error(upload.upload_id, conflict("A", sample_curve25519_key("other")), 0)
            else:
                made.receive_response(upload.upload_id, answer(1), 0)
            if what == "used":
                made.receive_use(sample_curve25519_key("A"), 0)
        for again in (made, restored(made)):
            before = again.to_json()
            with pytest.raises(LocalProtocolError) as caught:
                again.add_one_time_keys(public_keys("X") | public_keys("A", of="other "), signer=SIGNER)
            assert (caught.value.reason, caught.value.path) == (Reason.KEY_ID_REUSED, "/keys/A")
            assert again.to_json() == before

    def test_nor_does_that_of_a_fallback_key(self) -> None:
        made = stocked()
        add_fallback(made, "G")
        for name in ("F", "G"):
            before = made.to_json()
            with pytest.raises(LocalProtocolError) as caught:
                made.add_fallback_key(name, fallback_key("other"), signer=SIGNER, now=0)
            assert (caught.value.reason, caught.value.path) == (Reason.KEY_ID_REUSED, "/key")
            assert made.to_json() == before

    def test_one_time_and_fallback_keys_are_named_independently(self) -> None:
        made = fresh()
        add(made, "AAAAAAAAAAA")
        add_fallback(made, "AAAAAAAAAAA")
        upload = sent(made)
        assert names(upload) == fallback_names(upload) == ["AAAAAAAAAAA"]

    def test_a_key_has_one_name(self) -> None:
        made = stocked()
        known = {"one-time": sample_curve25519_key("A"), "fallback": fallback_key("F")}
        before = made.to_json()
        for key in known.values():
            with pytest.raises(LocalProtocolError) as caught:
                made.add_one_time_keys({"new": key}, signer=SIGNER)
            assert (caught.value.reason, caught.value.path) == (Reason.KEY_REUSED, "/keys/new")
            with pytest.raises(LocalProtocolError) as caught:
                made.add_fallback_key("new", key, signer=SIGNER, now=0)
            assert (caught.value.reason, caught.value.path) == (Reason.KEY_REUSED, "/key")
        with pytest.raises(LocalProtocolError) as caught:
            made.add_one_time_keys({"X": fallback_key("X"), "Y": fallback_key("X")}, signer=SIGNER)
        assert (caught.value.reason, caught.value.path) == (Reason.KEY_REUSED, "/keys/Y")
        assert made.to_json() == before

    def test_the_oldest_beyond_the_cap_are_forgotten(self) -> None:
        made = fresh(SupplyPolicy(target=2, cap=3))
        add(made, "A", "B")
        send(made, 2)
        add(made, "C", "D")
        assert list(made.to_json()["one_time_keys"]) == ["B", "C", "D"]  # type: ignore[arg-type]
        assert made.receive_use(sample_curve25519_key("A"), 0) is KeyUse.UNKNOWN
        assert made.receive_use(sample_curve25519_key("B"), 0) is KeyUse.ONE_TIME
        made.add_one_time_keys(public_keys("E"), signer=SIGNER)
        assert names(sent(made)) == ["C", "D"]

    def test_pending_keys_are_not_forgotten(self) -> None:
        made = fresh(SupplyPolicy(target=2, cap=3))
        add(made, "A", "B", "C")
        made.receive_use(sample_curve25519_key("B"), 0)
        add(made, "D")
        assert list(made.to_json()["one_time_keys"]) == ["A", "C", "D"]  # type: ignore[arg-type]
        before = made.to_json()
        with pytest.raises(LocalProtocolError) as caught:
            made.add_one_time_keys(public_keys("E"), signer=SIGNER)
        assert (caught.value.reason, caught.value.path) == (Reason.TOO_MANY_KEYS, "/keys")
        assert made.to_json() == before

    def test_old_fallback_keys_are_forgotten_but_for_two(self) -> None:
        made = fresh(SupplyPolicy(target=1, cap=1))
        for name in ("F", "G", "H"):
            add_fallback(made, name)
            send(made, 0)
        assert list(made.to_json()["fallback_keys"]) == ["G", "H"]  # type: ignore[arg-type]
        assert restored(made).to_json() == made.to_json()


class TestStoredFirst:
    def test_what_is_not_stored_is_not_uploaded(self) -> None:
        made = fresh()
        assert made.revision == 0
        made.add_one_time_keys(public_keys("A"), signer=SIGNER)
        made.add_fallback_key("F", fallback_key("F"), signer=SIGNER, now=0)
        assert (made.next_upload(0), made.next_upload_at()) == (None, None)
        assert made.revision == made.to_json()["revision"] == 2
        made.mark_stored(1)
        upload = sent(made)
        assert (names(upload), fallback_names(upload)) == (["A"], [])
        made.receive_response(upload.upload_id, answer(1), 0)
        made.add_one_time_keys(public_keys("B"), signer=SIGNER)
        made.mark_stored(2)
        made.mark_stored(1)
        assert made.next_upload_at() is not None
        upload = sent(made)
        assert (names(upload), fallback_names(upload)) == ([], ["F"])
        made.receive_response(upload.upload_id, answer(1), 0)
        assert (made.next_upload(0), made.next_upload_at()) == (None, None)
        made.mark_stored(3)
        assert names(sent(made)) == ["B"]

    def test_device_keys_do_not_bring_with_them_what_is_not_stored(self) -> None:
        made = fresh()
        made.add_one_time_keys(public_keys("A"), signer=SIGNER)
        made.add_fallback_key("F", fallback_key("F"), signer=SIGNER, now=0)
        assert sent(made, device_keys=PHONE).request == KeysUploadRequest.for_keys(device_keys=PHONE)

    def test_what_was_restored_is_stored(self) -> None:
        made = fresh()
        made.add_one_time_keys(public_keys("A"), signer=SIGNER)
        made.add_fallback_key("F", fallback_key("F"), signer=SIGNER, now=0)
        again = restored(made)
        assert again.revision == 2
        assert names(sent(again)) == ["A"]
        assert fallback_names(sent(restored(made))) == ["F"]

    @pytest.mark.parametrize("revision", [2, -1, 10**30])
    def test_a_revision_that_never_was(self, revision: int) -> None:
        made = fresh()
        made.mark_stored(0)
        made.add_one_time_keys(public_keys("A"), signer=SIGNER)
        with pytest.raises(LocalProtocolError) as caught:
            made.mark_stored(revision)
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/revision")
        assert made.next_upload(0) is None


class TestUploads:
    def test_the_first_one_carries_everything(self) -> None:
        made = fresh()
        add(made, "A", "B")
        add_fallback(made, "F")
        assert (fresh().next_upload_at(), fresh().next_upload_at(device_keys=PHONE)) == (None, made.next_upload_at())
        upload = sent(made, device_keys=PHONE)
        assert made.next_upload_at(device_keys=PHONE) is None
        assert upload.request.device_keys is PHONE
        assert (names(upload), fallback_names(upload)) == (["A", "B"], ["F"])
        device = PHONE.verify()
        for key in (*upload.request.one_time_keys.values(), *upload.request.fallback_keys.values()):
            assert isinstance(key, OneTimeKey)
            assert key.verify(device=device).is_fallback is (str(key.key_id) == f"{SIGNED}:F")
        made.receive_response(upload.upload_id, answer(2), 0)
        assert made.next_upload(0) is None
        assert made.next_upload_at() is None

    def test_one_at_a_time(self) -> None:
        made = fresh()
        add(made, "A")
        upload = sent(made)
        add(made, "B")
        assert (made.next_upload(0, device_keys=PHONE), made.next_upload_at()) == (None, None)
        made.receive_response(upload.upload_id, answer(1), 0)
        upload = sent(made)
        assert names(upload) == ["B"]

    def test_a_hundred_keys_at_a_time(self) -> None:
        made = fresh(SupplyPolicy(target=130))
        add(made, *(str(number) for number in range(130)))
        assert [len(names(send(made, held)) or ()) for held in (100, 130)] == [100, 30]
        assert made.needed(0).one_time_keys == 0

    def test_answers_to_something_else_are_ignored(self) -> None:
        made = fresh()
        add(made, "A")
        first = sent(made)
        made.receive_response(first.upload_id + 1, answer(5), 0)
        assert made.receive_error(first.upload_id + 1, None, 0) is None
        assert made.next_upload(0) is None
        made.receive_error(first.upload_id, None, 0)
        made.receive_response(first.upload_id, answer(5), 0)
        assert made.needed(0).one_time_keys == 4
        second = sent(made, MINUTE)
        assert second.upload_id != first.upload_id
        made.receive_response(first.upload_id, answer(5), MINUTE)
        assert made.next_upload(MINUTE) is None
        made.receive_response(second.upload_id, answer(1), MINUTE)
        made.receive_response(second.upload_id, answer(5), MINUTE)
        made.receive_error(second.upload_id, None, MINUTE)
        assert made.needed(MINUTE).one_time_keys == 4
        add(made, "B")
        assert names(sent(made, MINUTE)) == ["B"]

    def test_keys_added_while_one_is_in_flight_stay(self) -> None:
        made = fresh()
        add(made, "A")
        add_fallback(made, "F")
        upload = sent(made)
        made.receive_use(fallback_key("F"), 0)
        add(made, "B")
        add_fallback(made, "G", 1)
        made.receive_response(upload.upload_id, answer(1), 1)
        upload = sent(made, 1)
        assert (names(upload), fallback_names(upload)) == (["B"], ["G"])

    @pytest.mark.parametrize("restart", [False, True])
    def test_what_was_lost_is_sent_again_byte_for_byte(self, restart: bool) -> None:
        """Attack 46: over a restart as well."""
        made = fresh()
        add(made, "A", "B")
        add_fallback(made, "F")
        first = sent(made)
        if restart:
            made = restored(made)
        else:
            assert made.receive_error(first.upload_id, None, 0) is None
            assert made.next_upload(14_999) is None
            assert made.next_upload_at() == 15_000
        second = sent(made, 15_000)
        assert second.request.to_json() == first.request.to_json()
        made.receive_response(second.upload_id, answer(2), 15_000)
        assert made.next_upload_at() is None
        for again in (made, restored(made)):
            assert again.next_upload(15_000) is None
            assert not again.needed(15_000).fallback_key

    def test_failures_delay_for_longer_and_longer(self) -> None:
        made = fresh()
        add(made, "A")
        now = 0
        for delay in (15_000, 30_000, 60_000):
            made.receive_error(sent(made, now).upload_id, None, now)
            assert made.next_upload_at() == now + delay
            assert made.next_upload(now + delay - 1, device_keys=PHONE) is None
            now += delay
        send(made, 1, now)
        add(made, "B")
        made.receive_error(sent(made, now).upload_id, MatrixError(status=500), now)
        assert made.next_upload_at() == now + 15_000

    def test_the_server_says_how_long(self) -> None:
        made = fresh()
        add(made, "A")
        error = MatrixError(status=429, errcode="M_LIMIT_EXCEEDED", retry_after_ms=50_000)
        assert made.receive_error(sent(made).upload_id, error, 0) is None
        assert made.next_upload_at() == 50_000
        assert names(sent(made, 50_000)) == ["A"]

    @pytest.mark.parametrize("error", [MatrixError(status=400, errcode="M_TOO_LARGE"), MatrixError(status=413)])
    def test_too_large(self, error: MatrixError) -> None:
        made = fresh()
        add(made, "A", "B", "C", "D", "E")
        now, sizes = 0, []
        for _ in range(4):
            upload = sent(made, now)
            sizes.append(len(names(upload) or ()))
            assert made.receive_error(upload.upload_id, error, now) is None
            assert made.next_upload(now) is None
            now += HOUR
        assert sizes == [5, 2, 1, 1]
        assert made.needed(now).one_time_keys == 0
        send(made, 1, now)
        assert names(sent(made, now)) == ["B", "C", "D", "E"]

    def test_a_refusal_for_something_else_gives_nothing_up(self) -> None:
        made = fresh()
        add(made, "A", "B")
        upload = sent(made)
        assert made.receive_error(upload.upload_id, MatrixError(status=400, error="Bad"), 0) is None
        assert made.next_upload(0) is None
        assert sent(made, MINUTE).request == upload.request


def conflict(name: str, held: Curve25519PublicKey) -> MatrixError:
    old = json.dumps({"key": held.to_base64(), "signatures": {}})
    return MatrixError(status=400, error=f"One time key {SIGNED}:{name} already exists. Old key: {old}; new key: x")


class TestConflicts:
    def test_another_key_costs_all_of_the_upload(self) -> None:
        made = fresh()
        add(made, "A", "B")
        add_fallback(made, "F")
        upload = sent(made)
        add(made, "C")
        found = made.receive_error(upload.upload_id, conflict("A", sample_curve25519_key("old")), 0)
        assert found is not None
        assert (found.key_id, found.is_same_key) == (f"{SIGNED}:A", False)
        assert made.needed(0).one_time_keys == 4
        assert made.receive_use(sample_curve25519_key("B"), 0) is KeyUse.ONE_TIME
        again = sent(made)
        assert (names(again), fallback_names(again)) == (["C"], ["F"])

    def test_the_same_key_counts_as_uploaded(self) -> None:
        made = fresh()
        add(made, "A", "B")
        upload = sent(made)
        found = made.receive_error(upload.upload_id, conflict("A", sample_curve25519_key("A")), 0)
        assert found is not None
        assert found.is_same_key
        assert names(sent(made)) == ["B"]

    def test_only_the_first_in_a_row_is_followed_at_once(self) -> None:
        made = fresh()
        now, waits = 0, []
        for number in range(6):
            add(made, f"{number}")
            due = made.next_upload_at()
            assert due is not None
            waits.append(max(0, due - now))
            now = max(now, due)
            made.receive_error(sent(made, now).upload_id, conflict(f"{number}", fallback_key("old")), now)
        assert waits == [0, 0, MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE]
        now += 16 * MINUTE
        add(made, "good")
        send(made, 1, now)
        add(made, "bad")
        made.receive_error(sent(made, now).upload_id, conflict("bad", fallback_key("old")), now)
        add(made, "worse")
        assert names(sent(made, now)) == ["worse"]

    def test_conflicts_for_days_do_not_pile_up_keys(self) -> None:
        made = fresh(SupplyPolicy())
        now = added = 0
        while now < 30 * DAY:
            needed = made.needed(now).one_time_keys
            add(made, *(f"{added + number}" for number in range(needed)))
            added += needed
            due = made.next_upload_at()
            assert due is not None
            now = max(now, due)
            upload = sent(made, now)
            made.receive_error(upload.upload_id, conflict((names(upload) or [""])[0], fallback_key("old")), now)
        assert added < 3000


class TestCountsThatAreOld:
    """What /sync says soon after an upload may be older than it."""

    @pytest.mark.parametrize("kind", [SyncKeys.from_sync_v2({}), sync(0), sync(3)])
    def test_soon_after_an_answer_the_server_is_asked_again(self, kind: SyncKeys) -> None:
        made = stocked()
        made.receive_sync(kind, MINUTE - 1)
        assert made.needed(MINUTE - 1).one_time_keys == 0
        assert made.next_upload_at() is not None
        question = send(made, 5, MINUTE - 1)
        assert question.request.to_json() == {}
        assert made.needed(MINUTE - 1) == NOTHING

    def test_and_what_it_answers_counts(self) -> None:
        made = stocked()
        made.receive_sync(sync(3), 1)
        send(made, 2, 1)
        assert made.needed(1).one_time_keys == 3

    def test_what_sync_says_next_answers_it_as_well(self) -> None:
        made = stocked()
        made.receive_sync(sync(0), 1)
        made.receive_sync(sync(5), 2)
        assert (made.next_upload(2), made.needed(2).one_time_keys) == (None, 0)

    def test_a_count_that_is_no_news_is_no_question(self) -> None:
        made = fresh()
        add(made, "A")
        send(made, 1)
        made.receive_sync(sync(1), 1)
        assert (made.next_upload(1), made.needed(1).one_time_keys) == (None, 4)

    def test_later_it_is_believed(self) -> None:
        made = stocked()
        made.receive_sync(sync(3), MINUTE)
        assert (made.next_upload(MINUTE), made.needed(MINUTE).one_time_keys) == (None, 2)

    def test_an_upload_that_is_due_anyway_is_the_question(self) -> None:
        made = stocked()
        made.add_one_time_keys(public_keys("G"), signer=SIGNER)
        made.receive_sync(sync(0), 1)
        made.mark_stored(made.revision)
        assert names(sent(made, 1)) == ["G"]

    @pytest.mark.parametrize("lost", [False, True])
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_what_is_heard_while_an_upload_is_in_flight(self, when: str, lost: bool) -> None:
        made = fresh()
        add(made, "A", "B", "C", "D", "E")
        upload = sent(made, HOUR)
        made.receive_sync(sync({"before": 0, "after": 5}[when]), HOUR)
        assert made.needed(HOUR).one_time_keys == 0
        if lost:
            made.receive_error(upload.upload_id, None, HOUR)
            assert made.needed(HOUR).one_time_keys == 0
            send(made, 5, 2 * HOUR)
        else:
            made.receive_response(upload.upload_id, answer(5), HOUR)
            assert made.needed(HOUR).one_time_keys == 0
            question = made.next_upload(HOUR)
            assert (question is not None) is (when == "before")
            if question is not None:
                made.receive_response(question.upload_id, answer(5), HOUR)
        assert made.needed(2 * HOUR).one_time_keys == 0

    def test_what_is_heard_once_is_not_lost(self) -> None:
        made = stocked()
        upload = sent(made, HOUR, device_keys=PHONE)
        made.receive_sync(sync(1), HOUR)
        made.receive_error(upload.upload_id, None, HOUR)
        assert made.needed(HOUR).one_time_keys == 4
        upload = sent(made, 2 * HOUR, device_keys=PHONE)
        made.receive_sync(sync(0), 2 * HOUR)
        made.receive_response(upload.upload_id, answer(1), 2 * HOUR)
        assert sent(made, 2 * HOUR).request.to_json() == {}

    def test_a_sync_that_was_wrong_is_asked_about_from_then_on(self) -> None:
        made = stocked()
        made.receive_sync(sync(0), HOUR)
        add(made, "a", "b", "c", "d", "e")
        send(made, 10, HOUR)
        made.receive_sync(sync(0), 2 * HOUR)
        assert made.needed(2 * HOUR).one_time_keys == 0
        assert made.next_upload_at() == HOUR + 15_000
        send(made, 3, 2 * HOUR)
        assert made.needed(2 * HOUR).one_time_keys == 2
        made.receive_sync(sync(2), 3 * HOUR)
        assert made.needed(3 * HOUR).one_time_keys == 0
        send(made, 2, 3 * HOUR)
        made.receive_sync(sync(1), 4 * HOUR)
        assert made.needed(4 * HOUR).one_time_keys == 4, "it was right the last time"

    def test_a_question_that_is_not_due_waits(self) -> None:
        made = stocked()
        now, asked = 1, []
        for _ in range(4):
            made.receive_sync(sync(0), now)
            due = made.next_upload_at()
            assert due is not None
            now = max(now, due)
            assert now <= 1 or made.next_upload(now - 1) is None
            send(made, 5, now)
            asked.append(now)
        assert [later - earlier for earlier, later in itertools.pairwise(asked)] == [15_000, 30_000, 60_000]

    def test_a_failed_server_is_not_asked_either(self) -> None:
        made = stocked()
        made.receive_sync(sync(0), 1)
        made.receive_error(sent(made, 1).upload_id, None, 1)
        assert (made.next_upload(15_000), made.next_upload_at()) == (None, 15_001)

    @pytest.mark.parametrize("answered", [None, 20, 30, 49])
    @pytest.mark.parametrize("said", [None, 20, 49])
    def test_whatever_a_server_says_keys_do_not_pile_up(self, said: int | None, answered: int | None) -> None:
        """The server says the same all day, in each /sync and in each answer."""
        made = fresh(SupplyPolicy())
        keys = SyncKeys.from_sync_v2({} if said is None else {"device_one_time_keys_count": {SIGNED: said}})
        uploads = added = 0
        for now in range(0, DAY, 45_000):
            made.receive_sync(keys, now)
            needed = made.needed(now).one_time_keys
            assert needed <= 50
            if needed:
                add(made, *(f"{added + number}" for number in range(needed)))
                added += needed
            upload = made.next_upload(now)
            if upload is not None:
                made.receive_response(upload.upload_id, answer(answered), now)
                uploads += 1
        assert added <= 50 * 12
        assert uploads <= 150

    def test_a_server_that_keeps_nothing_is_not_sent_more_at_once(self) -> None:
        made = fresh()
        now, waits = 0, []
        add_fallback(made, "F")
        for number in range(4):
            add(made, *(f"{number}{letter}" for letter in "ABCDE"))
            send(made, 0, now)
            due = made.next_needed_at()
            assert due is not None
            assert made.needed(due - 1) == NOTHING
            assert made.needed(due).one_time_keys == 5
            waits.append(due - now)
            now = due
        assert waits == [MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE]
        add(made, *"ABCDE")
        send(made, 5, now)
        made.receive_sync(sync(0), now + HOUR)
        assert made.needed(now + HOUR).one_time_keys == 5


class TestFallbackKeys:
    def test_one_is_needed_if_there_is_none(self) -> None:
        made = fresh()
        made.receive_sync(sync(unused=[SIGNED]), 0)
        assert made.needed(0).fallback_key
        add_fallback(made, "F")
        assert not made.needed(100 * DAY).fallback_key, "never while one waits to be uploaded"

    @pytest.mark.parametrize("unused", [None, [SIGNED], ["other", SIGNED]])
    def test_none_is_needed_while_it_is_unused_or_nothing_is_said(self, unused: list[str] | None) -> None:
        made = stocked()
        made.receive_sync(sync(unused=unused), HOUR)
        assert made.needed(7 * DAY - 1) == NOTHING
        assert made.next_needed_at() == 7 * DAY
        assert made.needed(7 * DAY).fallback_key

    @pytest.mark.parametrize("unused", [[], ["other"]])
    def test_one_is_needed_if_it_is_used(self, unused: list[str]) -> None:
        made = stocked()
        made.receive_sync(sync(unused=unused), HOUR)
        assert made.needed(HOUR).fallback_key
        add_fallback(made, "G", HOUR)
        assert not made.needed(HOUR).fallback_key
        assert fallback_names(send(made, 5, HOUR)) == ["G"]
        assert not made.needed(HOUR).fallback_key

    def test_a_list_that_is_older_than_the_key_does_not_replace_it(self) -> None:
        made = stocked()
        made.receive_sync(sync(unused=[]), HOUR)
        add_fallback(made, "G", HOUR)
        made.receive_sync(sync(unused=[]), HOUR)
        send(made, 5, HOUR)
        assert made.needed(HOUR + 59_999) == NOTHING
        made.receive_sync(sync(unused=[]), HOUR)
        assert made.needed(HOUR + 59_999) == NOTHING
        made.receive_sync(sync(unused=[SIGNED]), HOUR + 30_000)
        assert made.needed(HOUR + DAY) == NOTHING

    def test_but_is_not_forgotten(self) -> None:
        made = stocked()
        made.receive_sync(sync(unused=[]), 1)
        assert made.needed(MINUTE - 1) == NOTHING
        assert made.next_needed_at() == MINUTE
        assert made.needed(MINUTE).fallback_key
        assert restored(made).needed(MINUTE).fallback_key

    def test_a_server_that_calls_all_of_them_used_gets_fewer_and_fewer(self) -> None:
        made = fresh()
        now, ages = 0, []
        for number in range(5):
            add_fallback(made, f"{number}", now)
            send(made, 5, now)
            made.receive_sync(sync(unused=[]), now)
            due = made.next_needed_at()
            assert due is not None
            ages.append(due - now)
            made, now = restored(made), due
        assert ages == [MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE, 16 * MINUTE]
        made.receive_sync(sync(unused=[SIGNED]), now)
        made.receive_sync(sync(unused=[]), now)
        add_fallback(made, "last", now)
        send(made, 5, now)
        made.receive_sync(sync(unused=[]), now)
        assert made.next_needed_at() == now + MINUTE

    def test_a_message_proves_that_it_is_used(self) -> None:
        made = stocked()
        assert made.receive_use(fallback_key("F"), HOUR) is KeyUse.FALLBACK
        made.receive_sync(sync(unused=[SIGNED]), HOUR)
        assert made.needed(HOUR).fallback_key

    def test_by_age(self) -> None:
        made = stocked(SupplyPolicy(target=5, fallback_max_age_ms=1000))
        assert (made.needed(999), made.next_needed_at()) == (NOTHING, 1000)
        assert made.needed(1000).fallback_key

    def test_two_at_most(self) -> None:
        made = stocked()
        for name in ("G", "H"):
            add_fallback(made, name, HOUR)
            send(made, 5, HOUR)
        assert made.receive_use(fallback_key("F"), HOUR) is KeyUse.UNKNOWN
        assert made.receive_use(fallback_key("G"), HOUR) is KeyUse.PREVIOUS_FALLBACK
        assert made.receive_use(fallback_key("H"), HOUR) is KeyUse.FALLBACK

    def test_the_current_one_is_not_replaced_before_it_is_uploaded(self) -> None:
        made = stocked()
        add_fallback(made, "G", HOUR)
        before = made.to_json()
        with pytest.raises(LocalProtocolError) as caught:
            made.add_fallback_key("H", fallback_key("H"), signer=SIGNER, now=HOUR)
        assert caught.value.reason is Reason.WRONG_STATE
        assert made.to_json() == before

    @pytest.mark.parametrize("used", ["F", "G"])
    def test_the_previous_one_is_forgotten_an_hour_after_the_first_message(self, used: str) -> None:
        made = stocked()
        add_fallback(made, "G", DAY)
        send(made, 5, DAY)
        assert not made.needed(2 * DAY).forget_previous_fallback_key
        made.receive_use(fallback_key(used), 2 * DAY)
        made.receive_use(fallback_key("F"), 2 * DAY + 1)
        made.receive_use(fallback_key("G"), 2 * DAY + 2)
        made = restored(made)
        assert not made.needed(2 * DAY + HOUR - 1).forget_previous_fallback_key
        for _ in range(2):
            assert made.needed(2 * DAY + HOUR).forget_previous_fallback_key
            assert not made.needed(2 * DAY + HOUR).is_nothing
        made.previous_fallback_forgotten()
        made.previous_fallback_forgotten()
        assert not made.needed(9 * DAY).forget_previous_fallback_key
        assert made.receive_use(fallback_key("F"), 2 * DAY) is KeyUse.UNKNOWN
        assert made.receive_use(fallback_key("G"), 2 * DAY) is KeyUse.FALLBACK

    def test_the_hour_begins_when_the_server_has_the_current_one(self) -> None:
        made = stocked()
        made.receive_use(fallback_key("F"), HOUR)
        add_fallback(made, "G", HOUR)
        assert not made.needed(DAY).forget_previous_fallback_key
        send(made, 5, DAY)
        assert not made.needed(DAY + HOUR - 1).forget_previous_fallback_key
        assert made.next_needed_at() == DAY + HOUR
        assert made.needed(DAY + HOUR).forget_previous_fallback_key

    def test_the_policy_says_how_long(self) -> None:
        made = stocked(SupplyPolicy(target=5, fallback_grace_ms=0))
        add_fallback(made, "G", 1)
        send(made, 5, 1)
        made.receive_use(fallback_key("G"), 2)
        assert made.needed(2).forget_previous_fallback_key


class TestUses:
    def test_a_used_key_is_not_uploaded_again(self) -> None:
        """Attack 46: its answer was lost, and a message that used it arrived."""
        made = fresh()
        add(made, "A", "B")
        add_fallback(made, "F")
        made.receive_error(sent(made).upload_id, None, 0)
        assert made.receive_use(sample_curve25519_key("A"), 0) is KeyUse.ONE_TIME
        assert made.receive_use(fallback_key("F"), 0) is KeyUse.FALLBACK
        assert made.needed(0).one_time_keys == 4
        upload = sent(restored(made), MINUTE)
        assert (names(upload), fallback_names(upload)) == (["B"], [])

    def test_an_unknown_key(self) -> None:
        assert stocked().receive_use(sample_curve25519_key("?"), 0) is KeyUse.UNKNOWN

    def test_the_first_message_counts(self) -> None:
        made = stocked()
        add_fallback(made, "G", 1)
        send(made, 5, 1)
        made.receive_use(fallback_key("F"), HOUR)
        made.receive_use(fallback_key("F"), 2 * HOUR)
        assert made.needed(2 * HOUR).forget_previous_fallback_key


class TestTheClock:
    def test_setting_it_back_does_not_stop_the_fallback_key_from_aging(self) -> None:
        made = stocked()
        add_fallback(made, "G", 1000 * DAY)
        send(made, 5, 1000 * DAY)
        made.receive_use(fallback_key("G"), 1000 * DAY)
        assert not made.needed(DAY).forget_previous_fallback_key
        assert not made.needed(DAY + 2 * MINUTE - 1).fallback_key
        assert made.needed(DAY + 2 * MINUTE).fallback_key
        assert made.needed(DAY + HOUR).forget_previous_fallback_key
        made = stocked()
        add_fallback(made, "G", 1000 * DAY)
        send(made, 5, 1000 * DAY)
        made = restored(made)
        assert made.needed(DAY) == NOTHING
        assert made.needed(8 * DAY - 1) == NOTHING
        assert made.needed(8 * DAY).fallback_key

    def test_nor_an_upload(self) -> None:
        made = fresh()
        add(made, "A")
        made.receive_error(sent(made, 1000 * DAY).upload_id, None, 1000 * DAY)
        assert made.next_upload(1000 * DAY - MINUTE) is None, "it is only a little behind"
        assert names(sent(made, 1000 * DAY - MINUTE - 1)) == ["A"]

    def test_nor_a_question_nor_new_keys(self) -> None:
        made = stocked()
        made.receive_sync(sync(0), 1)
        send(made, 5, 1)
        made.receive_sync(sync(0), 2)
        assert made.next_upload(2) is None
        assert sent(made, -HOUR).request.to_json() == {}
        made = fresh()
        add(made, "A")
        send(made, 0, DAY)
        assert made.needed(DAY).one_time_keys == 0
        assert made.needed(0).one_time_keys == 5

    def test_nor_does_an_answer_make_a_sync_doubtful_for_ever(self) -> None:
        made = fresh()
        add(made, *"ABCDE")
        send(made, 5, 1000 * DAY)
        made.receive_sync(sync(3), 0)
        assert made.needed(0).one_time_keys == 2

    def test_the_latest_time_counts(self) -> None:
        made = fresh()
        add(made, "A")
        made.receive_error(sent(made, 1000 * DAY).upload_id, None, 1000 * DAY)
        made.needed(1000 * DAY - MINUTE)
        assert made.next_upload(1000 * DAY - MINUTE) is None
        assert made.next_upload(1000 * DAY - MINUTE - 1) is not None


STORED: dict[str, Any] = {}


def stored() -> dict[str, Any]:
    """A state in which there is something of everything."""
    if not STORED:
        made = stocked()
        add_fallback(made, "G", HOUR)
        add(made, "H")
        STORED.update(json.loads(json.dumps(made.to_json())))
    return copy.deepcopy(STORED)


def changed(path: str, value: Any) -> dict[str, Any]:
    obj = stored()
    place: Any = obj
    *above, last = path[1:].split("/")
    for name in above:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return obj


class TestStoring:
    def test_what_is_stored(self) -> None:
        made = stocked()
        add_fallback(made, "G", HOUR)
        add(made, "H")
        obj = made.to_json()
        keys = public_keys("A", "B", "C", "D", "E", "H")
        one_time = OneTimeKey.build(key_id=f"{SIGNED}:H", key=keys["H"], user_id=ALICE.user_id, signer=SIGNER)
        fallbacks = {
            name: OneTimeKey.build(
                key_id=f"{SIGNED}:{name}",
                key=fallback_key(name),
                user_id=ALICE.user_id,
                signer=SIGNER,
                fallback=True,
            )
            for name in "FG"
        }
        assert obj == {
            "version": 1,
            "user_id": ALICE.user_id,
            "device_id": "PHONE",
            "revision": 4,
            "ed25519_key": SIGNER.public_key.to_base64(),
            "count": 5,
            "one_time_keys": {name: key.to_base64() for name, key in keys.items()},
            "pending": {"H": one_time.to_json()},
            "fallback_keys": {name: fallback_key(name).to_base64() for name in "FG"},
            "fallback": {
                "current": {
                    "name": "G",
                    "key": fallbacks["G"].to_json(),
                    "added_at": HOUR,
                    "acknowledged_at": None,
                    "used_at": None,
                    "is_said_used": False,
                    "was_said_unused": False,
                },
                "previous": {
                    "name": "F",
                    "key": fallbacks["F"].to_json(),
                    "added_at": 0,
                    "acknowledged_at": 0,
                    "used_at": None,
                    "is_said_used": False,
                    "was_said_unused": False,
                },
                "never_unused": 1,
            },
        }
        again = restored(made)
        assert again.to_json() == obj
        assert (again.revision, again.policy) == (4, POLICY)
        assert KeySupply.from_json(obj).policy == SupplyPolicy()
        upload = sent(again, HOUR)
        assert (names(upload), fallback_names(upload)) == (["H"], ["G"])
        assert again.receive_use(sample_curve25519_key("A"), HOUR) is KeyUse.ONE_TIME

    def test_nothing_was_there_yet(self) -> None:
        obj = fresh().to_json()
        assert (obj["count"], obj["ed25519_key"], obj["revision"]) == (None, None, 0)
        assert KeySupply.from_json(obj).to_json() == obj
        assert KeySupply.from_json(obj, policy=POLICY).needed(0).one_time_keys == 5

    def test_the_count_is_known_after_a_restart(self) -> None:
        assert restored(stocked()).needed(0) == NOTHING

    @pytest.mark.parametrize(
        ("path", "value", "found"),
        [
            ("/version", 2, None),
            ("/user_id", "alice", None),
            ("/user_id", "@bob:a.example", "/pending/H"),
            ("/device_id", "", None),
            ("/device_id", "TABLET", "/pending/H"),
            ("/revision", -1, None),
            ("/revision", True, None),
            ("/count", -1, None),
            ("/count", "5", None),
            ("/ed25519_key", 5, None),
            ("/ed25519_key", "short", None),
            ("/ed25519_key", None, "/pending/H"),
            ("/ed25519_key", sample_secret_key("other").public_key.to_base64(), "/pending/H/signatures"),
            ("/one_time_keys", [], None),
            ("/one_time_keys/A", 5, None),
            ("/one_time_keys/A", "short", None),
            ("/one_time_keys/", sample_curve25519_key("new").to_base64(), "/one_time_keys/"),
            ("/one_time_keys/B", sample_curve25519_key("A").to_base64(), None),
            ("/one_time_keys/B", fallback_key("F").to_base64(), "/fallback_keys/F"),
            ("/one_time_keys/H", ..., "/pending/H"),
            ("/one_time_keys/H", sample_curve25519_key("new").to_base64(), "/pending/H"),
            ("/pending", [], None),
            ("/pending/H", "text", None),
            ("/pending/H/key", sample_curve25519_key("A").to_base64(), "/pending/H"),
            ("/pending/H/more", 1, "/pending/H/signatures"),
            ("/pending/H/signatures", {}, "/pending/H"),
            ("/pending/H/fallback", True, "/pending/H"),
            ("/fallback_keys", None, None),
            ("/fallback_keys/G", ..., "/fallback/current/key"),
            ("/fallback", [], None),
            ("/fallback/current", None, "/fallback/previous"),
            ("/fallback/current/name", "F", "/fallback/current/key"),
            ("/fallback/current/name", "", "/fallback/current/key"),
            ("/fallback/current/key", {}, "/fallback/current/key/key"),
            ("/fallback/current/key/fallback", False, "/fallback/current/key"),
            ("/fallback/current/key/more", 1, "/fallback/current/key/signatures"),
            ("/fallback/current/added_at", None, None),
            ("/fallback/current/acknowledged_at", "0", None),
            ("/fallback/current/used_at", 1.5, None),
            ("/fallback/current/is_said_used", 1, None),
            ("/fallback/current/was_said_unused", None, None),
            ("/fallback/previous/key/signatures", {}, "/fallback/previous/key"),
            ("/fallback/never_unused", -1, None),
            ("/fallback/never_unused", None, None),
        ],
    )
    def test_what_was_not_stored_by_us(self, path: str, value: Any, found: str | None) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeySupply.from_json(changed(path, value), policy=POLICY)
        assert caught.value.path.startswith(found or path)

    @pytest.mark.parametrize("member", ["pending", "fallback"])
    def test_a_fallback_key_is_never_taken_for_a_one_time_key(self, member: str) -> None:
        obj = stored()
        name = {"pending": "H", "fallback": "G"}[member]
        key = OneTimeKey.build(
            key_id=f"{SIGNED}:{name}",
            key={"pending": sample_curve25519_key("H"), "fallback": fallback_key("G")}[member],
            user_id=ALICE.user_id,
            signer=SIGNER,
            fallback=member == "pending",
        )
        place = obj["pending"] if member == "pending" else obj["fallback"]["current"]
        place["H" if member == "pending" else "key"] = key.to_json()
        with pytest.raises(LocalProtocolError) as caught:
            KeySupply.from_json(obj)
        assert caught.value.reason is Reason.INVALID_VALUE

    def test_the_previous_key_is_not_the_current_one(self) -> None:
        obj = stored()
        obj["fallback"]["previous"] = obj["fallback"]["current"]
        with pytest.raises(LocalProtocolError) as caught:
            KeySupply.from_json(obj)
        assert caught.value.path == "/fallback/previous"

    def test_every_member_is_needed(self) -> None:
        paths = [f"/{name}" for name in stored()]
        paths += [f"/fallback/{name}" for name in stored()["fallback"]]
        paths += [f"/fallback/current/{name}" for name in stored()["fallback"]["current"]]
        for path in paths:
            with pytest.raises(LocalProtocolError) as caught:
                KeySupply.from_json(changed(path, ...))
            assert (caught.value.path, caught.value.reason) == (path, Reason.MISSING_MEMBER)

    @given(json_like_values(), st.sampled_from(["", *stored(), "fallback/current", "fallback/previous/key"]))
    def test_no_foreign_exception(self, value: Any, name: str) -> None:
        with contextlib.suppress(E2EKeysError):
            made = KeySupply.from_json(changed(f"/{name}", value) if name else value)
            made.needed(DAY)
            made.next_upload(DAY)


class _Liar:
    """A signer that signs with another key than it says."""

    key_id = SIGNER.key_id
    public_key = sample_secret_key("liar").public_key

    def sign(self, message: bytes, /) -> Any:
        return SIGNER.sign(message)


class TestCallers:
    @pytest.mark.parametrize(
        ("arguments", "path"),
        [
            ({"target": 0}, "/target"),
            ({"target": True}, "/target"),
            ({"target": 50.0}, "/target"),
            ({"cap": "5000"}, "/cap"),
            ({"cap": 49}, "/cap"),
            ({"fallback_max_age_ms": 0}, "/fallback_max_age_ms"),
            ({"fallback_grace_ms": -1}, "/fallback_grace_ms"),
            ({"fallback_grace_ms": None}, "/fallback_grace_ms"),
        ],
    )
    def test_policies(self, arguments: dict[str, Any], path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SupplyPolicy(**arguments)
        assert caught.value.path == path
        SupplyPolicy(target=50, cap=50, fallback_max_age_ms=1, fallback_grace_ms=0)
        assert SupplyPolicy() == SupplyPolicy(target=50, cap=5000, fallback_max_age_ms=7 * DAY, fallback_grace_ms=HOUR)

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"user_id": "alice"}, "/user_id"),
            ({"user_id": None}, "/user_id"),
            ({"device_id": ""}, "/device_id"),
            ({"policy": None}, "/policy"),
        ],
    )
    def test_supplies(self, change: dict[str, Any], path: str) -> None:
        arguments: dict[str, Any] = {"user_id": ALICE.user_id, "device_id": "PHONE", **change}
        with pytest.raises(LocalProtocolError) as caught:
            KeySupply(**arguments)
        assert caught.value.path == path

    @pytest.mark.parametrize(
        ("signer", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            (ALICE.device_signer("TABLET"), Reason.KEY_ID_NOT_DEVICE),
            (ALICE.secret("self_signing").cross_signer(), Reason.KEY_ID_NOT_DEVICE),
            (sample_secret_key("other").signer("ed25519:PHONE"), Reason.PRIVATE_KEY_MISMATCH),
        ],
        ids=["none", "another device", "another key id", "another key"],
    )
    def test_signers(self, signer: Any, reason: Reason) -> None:
        made = stocked()
        before = made.to_json()
        for call in (
            lambda: made.add_one_time_keys(public_keys("X"), signer=signer),
            lambda: made.add_one_time_keys({}, signer=signer),
            lambda: made.add_fallback_key("X", fallback_key("X"), signer=signer, now=0),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert (caught.value.reason, caught.value.path) == (reason, "/signer")
        assert made.to_json() == before

    def test_a_signer_that_lies(self) -> None:
        made = fresh()
        before = made.to_json()
        liar: Signer = _Liar()
        for call in (
            lambda: made.add_one_time_keys(public_keys("X"), signer=liar),
            lambda: made.add_fallback_key("X", fallback_key("X"), signer=liar, now=0),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.reason is Reason.INVALID_SIGNATURE
        assert made.to_json() == before

    @pytest.mark.parametrize(
        ("keys", "path"),
        [
            (None, "/keys"),
            (["A"], "/keys"),
            ({"X": "text"}, "/keys/X"),
            ({"X": sample_secret_key("x").public_key}, "/keys/X"),
            ({"": sample_curve25519_key("x")}, "/keys/"),
            ({5: sample_curve25519_key("x")}, "/keys"),
            ({"\ud800": sample_curve25519_key("x")}, "/keys/\\ud800"),
        ],
    )
    def test_keys(self, keys: Any, path: str) -> None:
        made = fresh()
        before = made.to_json()
        with pytest.raises(LocalProtocolError) as caught:
            made.add_one_time_keys(keys, signer=SIGNER)
        assert caught.value.path == path
        assert made.to_json() == before

    def test_the_rest(self) -> None:
        made: Any = stocked()
        add(made, "X")
        upload = sent(made)
        before = made.to_json()
        other_key = sample_secret_key("other").signer("ed25519:PHONE")
        stranger = DeviceKeys.build(
            user_id=ALICE.user_id, device_id="PHONE", curve25519_key=fallback_key("?"), signer=other_key
        )
        for call, path in (
            (lambda: made.needed(None), "/now"),
            (lambda: made.needed(1.5), "/now"),
            (lambda: made.add_fallback_key(5, fallback_key("Y"), signer=SIGNER, now=0), "/key"),
            (lambda: made.add_fallback_key("Y", "text", signer=SIGNER, now=0), "/key"),
            (lambda: made.add_fallback_key("Y", fallback_key("Y"), signer=SIGNER, now="0"), "/now"),
            (lambda: made.mark_stored(True), "/revision"),
            (lambda: made.mark_stored(None), "/revision"),
            (lambda: made.next_upload("0"), "/now"),
            (lambda: made.next_upload(0, device_keys=PHONE.to_json()), "/device_keys"),
            (lambda: made.next_upload(0, device_keys=ALICE.device("TABLET")), "/device_keys"),
            (lambda: made.next_upload(0, device_keys=SampleUser("@b:b").device("PHONE")), "/device_keys"),
            (lambda: made.next_upload(0, device_keys=stranger), "/device_keys"),
            (lambda: made.next_upload_at(device_keys=5), "/device_keys"),
            (lambda: made.receive_response(upload.upload_id, None, 0), "/response"),
            (lambda: made.receive_response("1", answer(5), 0), "/upload_id"),
            (lambda: made.receive_response(upload.upload_id, answer(5), None), "/now"),
            (lambda: made.receive_error(upload.upload_id, LocalProtocolError(Reason.NOT_JSON, ""), 0), "/error"),
            (lambda: made.receive_error(upload, None, 0), "/upload_id"),
            (lambda: made.receive_error(upload.upload_id, None, None), "/now"),
            (lambda: made.receive_sync({}, 0), "/keys"),
            (lambda: made.receive_sync(SyncKeys(), None), "/now"),
            (lambda: made.receive_use("A", 0), "/public_key"),
            (lambda: made.receive_use(sample_curve25519_key("X"), None), "/now"),
            (lambda: KeySupply.from_json(stored(), policy="none"), "/policy"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.path == path
        assert made.to_json() == before
        made.receive_response(upload.upload_id, answer(6), 0)
        assert made.next_upload(0) is None

    def test_nothing_secret_is_shown(self) -> None:
        assert "Key" in repr(stocked())
        assert len(repr(stocked())) < 1000


# --------------------------------------------------------------------------------------------------------------
# Any order, any loss, any crash
# --------------------------------------------------------------------------------------------------------------

TARGET = 3


class Account:
    """An Olm account: it counts its names on, forgets no private half it still needs, and is random otherwise."""

    def __init__(self) -> None:
        self.counters = {"one-time": 0, "fallback": 0}
        self.one_time: dict[Curve25519PublicKey, str] = {}
        self.fallback: list[Curve25519PublicKey] = []

    def make(self, kind: str, life: int) -> tuple[str, Curve25519PublicKey]:
        name = base64.b64encode(self.counters[kind].to_bytes(8)).decode().rstrip("=")
        key = sample_curve25519_key(f"{kind} {name} {life}")
        self.counters[kind] += 1
        if kind == "one-time":
            self.one_time[key] = name
        else:
            self.fallback = [*self.fallback[-1:], key]
        return name, key

    def holds(self, key: Curve25519PublicKey) -> bool:
        return key in self.one_time or key in self.fallback


class Server:
    """A homeserver that has unique ids among unclaimed keys, stores all keys of an upload or none, and forgets."""

    def __init__(self) -> None:
        self.keys: dict[str, OneTimeKey] = {}
        self.fallback: OneTimeKey | None = None
        self.is_fallback_used = False

    def upload(self, request: KeysUploadRequest) -> KeysUploadResponse | MatrixError:
        given: Mapping[str, Any] = request.one_time_keys
        for key_id, key in given.items():
            if self.keys.get(key_id, key) != key:
                return conflict(key.key_id.name, sample_curve25519_key("old"))
        self.keys.update(given)
        for fallback in request.fallback_keys.values():
            assert isinstance(fallback, OneTimeKey)
            if fallback != self.fallback:
                self.fallback, self.is_fallback_used = fallback, False
        return answer(len(self.keys))

    def claim(self) -> OneTimeKey | None:
        if self.keys:
            return self.keys.pop(next(iter(self.keys)))
        self.is_fallback_used = True
        return self.fallback

    def sync(self) -> SyncKeys:
        return sync(len(self.keys), [] if self.fallback is None or self.is_fallback_used else [SIGNED])


class Supplies(RuleBasedStateMachine):
    """A device that may crash, an Olm account, a homeserver, and a network that loses requests and answers."""

    @initialize()
    def begin(self) -> None:
        self.policy = SupplyPolicy(target=TARGET)
        self.supply = fresh(self.policy)
        self.account = Account()
        self.server = Server()
        self.now = self.life = 0
        self.sent: dict[tuple[str, str], dict[str, Any]] = {}  # every key that ever left the device, by its id
        self.settled: set[str] = set()  # one-time keys that the device knows to be uploaded or used
        self.flight: OutgoingUpload | None = None
        self.answers: list[tuple[int, KeysUploadResponse]] = []
        self.syncs: list[SyncKeys] = []
        self.messages: list[Curve25519PublicKey] = []
        self.store()

    @rule()
    def store(self) -> None:
        self.stored = (json.dumps(self.supply.to_json()), copy.deepcopy(self.account), set(self.settled))
        self.supply.mark_stored(self.supply.revision)

    @rule(hesitant=st.booleans())
    def make_keys(self, hesitant: bool) -> None:
        needed = self.supply.needed(self.now)
        assert needed.one_time_keys <= TARGET
        count = min(needed.one_time_keys, 1) if hesitant else needed.one_time_keys
        keys = dict(self.account.make("one-time", self.life) for _ in range(count))
        self.supply.add_one_time_keys(keys, signer=SIGNER)
        if needed.forget_previous_fallback_key:
            self.account.fallback = self.account.fallback[-1:]
            self.supply.previous_fallback_forgotten()
        if needed.fallback_key:
            name, key = self.account.make("fallback", self.life)
            self.supply.add_fallback_key(name, key, signer=SIGNER, now=self.now)

    def send(self) -> OutgoingUpload | None:
        upload = self.supply.next_upload(self.now)
        if upload is None:
            return None
        assert self.flight is None, "there is one upload at a time"
        _, account, _ = self.stored
        for kind, keys in (("one-time", upload.request.one_time_keys), ("fallback", upload.request.fallback_keys)):
            for key_id, key in keys.items():
                assert isinstance(key, OneTimeKey)
                assert key.public_key is not None
                assert account.holds(key.public_key) or key.key_id.name in self.settled, "it was not stored"
                assert self.sent.setdefault((kind, key_id), key.signed.to_json()) == key.signed.to_json()  # type: ignore[union-attr]
        assert not self.settled & set(names(upload) or ())
        self.flight = upload
        return upload

    @rule(fate=st.sampled_from(["answered", "answered", "lost", "answer lost", "answered twice", "slow"]))
    def upload(self, fate: str) -> None:
        upload = self.send()
        if upload is None:
            return
        result = None if fate == "lost" else self.server.upload(upload.request)
        assert not isinstance(result, MatrixError), "an id was used for two keys"
        if fate in ("lost", "answer lost"):
            self.fail()
        elif result is not None:
            self.answers.append((upload.upload_id, result))
            if fate != "slow":
                self.answer(again=fate == "answered twice")

    def fail(self) -> None:
        if self.flight is not None:
            assert self.supply.receive_error(self.flight.upload_id, None, self.now) is None
            self.flight = None

    @rule(again=st.booleans())
    def answer(self, again: bool) -> None:
        if not self.answers:
            return
        upload_id, response = self.answers[0]
        self.supply.receive_response(upload_id, response, self.now)
        if self.flight is not None and self.flight.upload_id == upload_id:
            self.settled |= set(names(self.flight) or ())
            self.flight = None
        if not again:
            self.answers.pop(0)

    @rule()
    def lose_patience(self) -> None:
        self.fail()

    @rule(times=st.integers(1, 2 * TARGET))
    def claim(self, times: int) -> None:
        for _ in range(times):
            key = self.server.claim()
            if key is not None and key.public_key is not None:
                self.messages.append(key.public_key)

    @rule(data=st.data())
    def receive_message(self, data: st.DataObject) -> None:
        if not self.messages:
            return
        key = self.messages.pop(data.draw(st.integers(0, len(self.messages) - 1)))
        if not self.account.holds(key):
            return
        use = self.supply.receive_use(key, self.now)
        if key in self.account.one_time:
            assert use is KeyUse.ONE_TIME
            self.settled.add(self.account.one_time.pop(key))
        else:
            assert use is (KeyUse.FALLBACK if key == self.account.fallback[-1] else KeyUse.PREVIOUS_FALLBACK)

    @rule()
    def server_answers_sync(self) -> None:
        if not self.syncs:
            self.syncs.append(self.server.sync())

    @rule()
    def sync_arrives(self) -> None:
        if self.syncs:
            self.supply.receive_sync(self.syncs.pop(), self.now)

    @rule(later=st.one_of(st.integers(0, 2 * MINUTE), st.integers(0, 2 * DAY)))
    def wait(self, later: int) -> None:
        self.now += later

    @rule()
    def set_the_clock_back(self) -> None:
        self.now -= DAY

    @rule()
    def crash(self) -> None:
        state, account, settled = self.stored
        self.life += 1
        self.supply = KeySupply.from_json(json.loads(state), policy=self.policy)
        self.account, self.settled = copy.deepcopy(account), set(settled)
        self.flight = None
        self.answers.clear()

    @invariant()
    def the_server_holds_no_more_than_one_batch_too_many(self) -> None:
        if hasattr(self, "server"):
            assert len(self.server.keys) <= 2 * TARGET

    def teardown(self) -> None:
        """In the end, the server has as many keys as it should, and an unused fallback key."""
        if not hasattr(self, "server"):
            return
        self.fail()
        self.syncs.clear()
        self.answers.clear()
        pending: Any = self.supply.to_json()["pending"]
        expected = max(TARGET, len({*self.server.keys, *(f"{SIGNED}:{name}" for name in pending)}))
        for _ in range(12):
            self.now += HOUR
            self.supply.receive_sync(self.server.sync(), self.now)
            self.make_keys(hesitant=False)
            self.store()
            self.upload("answered")
        assert len(self.server.keys) == expected
        assert self.server.fallback is not None
        assert not self.server.is_fallback_used
        assert self.supply.needed(self.now).one_time_keys == 0


TestAnyOrder = Supplies.TestCase
