"""The example stores: what the library decides about one-time keys stays true in a database with many processes."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.claims import claiming_process, private_postgresql
from homeserver.claims.claiming_process import ALGORITHM, ALICE, DEVICE_IDS, load_example, store_class
from matrix_e2e_keys import DeviceKeys, KeysUploadRequest, KeysUploadResponse, OneTimeKey, SignedJson, homeserver
from matrix_e2e_keys.homeserver.admission.keys_upload import UploadLookup, UploadView, decide_keys_upload, upload_lookup
from matrix_e2e_keys.homeserver.claims.local_claims import KeyWanted, decide_claims
from matrix_e2e_keys.homeserver.decisions import Decision, Requester
from matrix_e2e_keys.homeserver.directory.memory_store import MemoryStore
from matrix_e2e_keys.homeserver.effects import (
    DeleteDevice,
    DeviceChanged,
    DropCrossSigningKey,
    DropSignaturesBy,
    DropSignaturesOn,
    Effect,
    IdentityChanged,
    IfUnchanged,
    MarkFallbackKeyUsed,
    SignedOthers,
    StoreCrossSigningKey,
    StoreDevice,
    StoreDeviceKeys,
    StoreFallbackKey,
    StoreOneTimeKeys,
    StoreSignature,
    TakeOneTimeKey,
)
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, Policy
from matrix_e2e_keys.homeserver.stored_keys import FallbackKeyRecord, StoredKey, UserSignature, key_digest
from matrix_e2e_keys.testing.samples import sample_curve25519_key, sample_secret_key

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
USER = ALICE.user_id
PHONE = "PHONE"


@frozen
class Database:
    """An empty database, and the example that stores keys in it."""

    example: ModuleType
    dsn: str
    stack: contextlib.ExitStack

    def open(self, *, policy: Policy = SPEC) -> Any:
        store = store_class(self.example)(self.dsn, policy=policy)
        self.stack.callback(store.close)
        return store

    def clear(self, store: Any) -> Any:
        """Empty it again."""
        for device_id in (PHONE, *DEVICE_IDS):
            store.apply([DeleteDevice(user_id=USER, device_id=device_id)])
        return store


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The DSN of a PostgreSQL that runs for this module."""
    what = private_postgresql.missing()
    if what is None and importlib.util.find_spec("psycopg") is None:
        what = "the Python package psycopg"
    if what is not None:
        if os.environ.get("MATRIX_E2E_KEYS_REQUIRE_POSTGRESQL") == "1":
            pytest.fail(f"{what} is missing, and MATRIX_E2E_KEYS_REQUIRE_POSTGRESQL=1", pytrace=False)
        pytest.skip(f"{what} is missing")
    with private_postgresql.private_cluster() as dsn:
        yield dsn


@contextlib.contextmanager
def sqlite_database(path: str) -> Generator[Database]:
    with contextlib.ExitStack() as stack:
        yield Database(load_example(EXAMPLES / "sqlite_store.py"), path, stack)


@contextlib.contextmanager
def postgresql_database(dsn: str) -> Generator[Database]:
    with contextlib.ExitStack() as stack:
        database = Database(load_example(EXAMPLES / "postgresql_store.py"), dsn, stack)
        store = database.open()
        store.create_tables()
        store.connection.execute("TRUNCATE devices CASCADE")
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        with sqlite_database(str(tmp_path / "keys.sqlite")) as database:
            yield database
    else:
        with postgresql_database(request.getfixturevalue("cluster")) as database:
            yield database


@pytest.fixture
def postgresql(cluster: str) -> Iterator[Database]:
    with postgresql_database(cluster) as database:
        yield database


# --------------------------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------------------------


@cache
def one_time_key(name: str, text: str = "", *, fallback: bool = False, device_id: str = PHONE) -> OneTimeKey:
    """A key under an id; another text is another key."""
    return OneTimeKey.build(
        key_id=f"{ALGORITHM}:{name}",
        key=sample_curve25519_key(text or name),
        user_id=USER,
        signer=ALICE.device_signer(device_id),
        fallback=fallback,
    )


def stored(name: str, text: str = "", *, fallback: bool = False) -> SignedJson:
    signed = one_time_key(name, text, fallback=fallback).signed
    assert signed is not None
    return signed


def digest(text: str) -> str:
    return key_digest(stored(text))


def log_in(device_id: str = PHONE) -> StoreDevice:
    return StoreDevice(user_id=USER, device_id=device_id)


def store_keys(*names: str, **texts: str) -> StoreOneTimeKeys:
    keys: dict[str, StoredKey] = {f"{ALGORITHM}:{name}": stored(name) for name in names}
    keys.update({f"{ALGORITHM}:{name}": stored(name, text) for name, text in texts.items()})
    return StoreOneTimeKeys(user_id=USER, device_id=PHONE, keys=keys)


def store_fallback(name: str, text: str = "") -> StoreFallbackKey:
    key = stored(name, text, fallback=True)
    return StoreFallbackKey(user_id=USER, device_id=PHONE, key_id=f"{ALGORITHM}:{name}", key=key)


def take(name: str, text: str = "") -> TakeOneTimeKey:
    return TakeOneTimeKey(user_id=USER, device_id=PHONE, key_id=f"{ALGORITHM}:{name}", digest=digest(text or name))


def mark(name: str) -> MarkFallbackKeyUsed:
    return MarkFallbackKeyUsed(user_id=USER, device_id=PHONE, key_id=f"{ALGORITHM}:{name}", digest=digest(name))


def want(device_id: str = PHONE, algorithm: str = ALGORITHM, **more: Any) -> KeyWanted:
    return KeyWanted(user_id=USER, device_id=device_id, algorithm=algorithm, **more)


def upload_of(*names: str, fallback: str | None = None, device_id: str = PHONE, **texts: str) -> KeysUploadRequest:
    keys = [
        one_time_key(name, text, device_id=device_id)
        for name, text in [*((name, name) for name in names), *texts.items()]
    ]
    fallback_keys = [] if fallback is None else [one_time_key(fallback, fallback=True, device_id=device_id)]
    return KeysUploadRequest.for_keys(one_time_keys=keys, fallback_keys=fallback_keys)


NAMES = ("a", "b", "c", "d", "F", "G")
EVERYTHING = UploadLookup(
    key_ids=tuple(f"{ALGORITHM}:{name}" for name in NAMES),
    digests=tuple(map(digest, (*NAMES, "other"))),
    algorithms=(ALGORITHM,),
)


def state(store: Any, device_id: str = PHONE) -> UploadView:
    view: UploadView = store.view(USER, device_id, EVERYTHING)
    return view


def claimed(store: Any, *wanted: KeyWanted) -> list[str]:
    return [key.key_id.removeprefix(f"{ALGORITHM}:") for key in store.claim(wanted)]


REQUESTER = Requester(user_id=USER, device_id=PHONE)


# --------------------------------------------------------------------------------------------------------------
# Many processes
# --------------------------------------------------------------------------------------------------------------


class TestManyProcesses:
    def test_each_key_is_handed_out_once_and_the_oldest_first(self, database: Database) -> None:
        """Attack 46: eight processes claim; two upload the same keys at the same time, as a client that retries."""
        store = database.open()
        store.apply(map(log_in, DEVICE_IDS))
        claiming_process.do_uploads(store, claiming_process.FIRST_UPLOADS)
        command = [sys.executable, "-P", claiming_process.__file__, str(database.example.__file__), database.dsn]
        result = subprocess.run(command, capture_output=True, check=False, timeout=100)
        assert result.returncode == 0, result.stderr.decode()
        taken = json.loads(result.stdout)

        uploads = [*claiming_process.FIRST_UPLOADS, *claiming_process.LATER_UPLOADS]
        in_order = [key_id for upload in uploads for key_id in claiming_process.key_ids(upload)]
        for device_id in DEVICE_IDS:
            places = [[in_order.index(name) for device, name, _ in keys if device == device_id] for keys in taken]
            for of_one_process in places:
                assert of_one_process == sorted(of_one_process)
            assert sorted(itertools.chain(*places)) == list(range(len(in_order)))  # none twice, none lost
        texts = [text for keys in taken for _, _, text in keys]
        assert len(set(texts)) == len(texts)
        assert sum(map(bool, taken)) > 1, "one process was done before the others began"
        for device_id in DEVICE_IDS:
            view = state(store, device_id)
            assert view.counts == {}
            assert view.fallback_keys[ALGORITHM].is_used


# --------------------------------------------------------------------------------------------------------------
# One process
# --------------------------------------------------------------------------------------------------------------


class TestUpload:
    def test_an_upload_is_decided_and_stored(self, database: Database) -> None:
        store = database.open()
        store.apply([log_in()])
        device = ALICE.device(PHONE, cross_signed=False)
        whole = KeysUploadRequest.for_keys(
            device_keys=device, one_time_keys=[one_time_key("a")], fallback_keys=[one_time_key("F", fallback=True)]
        )
        decision = store.upload(whole, REQUESTER)
        assert decision.require().one_time_key_counts == {ALGORITHM: 1}
        view = state(store)
        keys = view.user.devices[PHONE].keys
        assert keys is not None
        assert keys.to_json() == device.to_json()  # the signatures too
        assert view.one_time_keys[f"{ALGORITHM}:a"].to_json() == stored("a").to_json()  # type: ignore[union-attr]
        record = FallbackKeyRecord(key_id=f"{ALGORITHM}:F", key=stored("F", fallback=True))
        assert view.fallback_keys == {ALGORITHM: record}
        assert state(database.open()) == view  # it is committed

    def test_a_device_that_begins_anew_has_its_ids_for_itself(self, database: Database) -> None:
        """What it had is gone, claimed or not; what was claimed is never stored again."""
        store = database.open()
        store.apply([log_in()])
        device = ALICE.device(PHONE, cross_signed=False)
        fallback = [one_time_key("F", fallback=True)]
        whole = KeysUploadRequest.for_keys(
            device_keys=device, one_time_keys=[one_time_key("a"), one_time_key("b")], fallback_keys=fallback
        )
        store.upload(whole, REQUESTER).require()
        assert claimed(store, want()) == ["a"]
        signer = sample_secret_key("anew").signer(f"ed25519:{PHONE}")
        renewed = DeviceKeys.build(
            user_id=USER, device_id=PHONE, curve25519_key=sample_curve25519_key("anew"), signer=signer
        )
        store.upload(KeysUploadRequest.for_keys(device_keys=renewed), REQUESTER).require()
        assert (state(store).counts, state(store).fallback_keys) == ({}, {})
        mine = [
            OneTimeKey.build(
                key_id=f"{ALGORITHM}:{name}", key=sample_curve25519_key(f"anew {name}"), user_id=USER, signer=signer
            )
            for name in "ab"
        ]
        known = OneTimeKey.build(key_id=f"{ALGORITHM}:c", key=sample_curve25519_key("a"), user_id=USER, signer=signer)
        again = KeysUploadRequest.for_keys(one_time_keys=[*mine, known])
        assert store.upload(again, REQUESTER).require().one_time_key_counts == {ALGORITHM: 2}
        assert claimed(store, want(), want(), want()) == ["a", "b"]

    def test_what_does_not_hold_is_given_up(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """A decision on something else than what is there, which cannot be, is not half carried out."""
        store = database.open()
        store.apply([log_in()])
        wrong = Decision(answer=KeysUploadResponse(one_time_key_counts={}), effects=(store_keys("a"), take("b")))
        monkeypatch.setattr(homeserver, "decide_keys_upload", lambda *_, **__: wrong)
        with pytest.raises(database.example.Conflict):
            store.upload(upload_of("a"), REQUESTER)
        assert state(store).counts == {}

    def test_by_nobody_s_device_is_refused(self, database: Database) -> None:
        decision = database.open().upload(upload_of("a"), Requester(user_id=USER))
        assert decision.is_refusal

    def test_the_policy_is_that_of_the_store(self, database: Database) -> None:
        """An id that was claimed may be had again under the lenient policy only; the same key never."""
        answers = {}
        for policy in (SPEC, COMPAT):
            store = database.clear(database.open(policy=policy))
            store.apply([log_in(), store_keys("a")])
            assert claimed(store, want()) == ["a"]
            answers[policy.name] = store.upload(upload_of(a="other"), REQUESTER).is_refusal
            store.upload(upload_of(b="a"), REQUESTER).require()
            assert f"{ALGORITHM}:b" not in state(store).one_time_keys
        assert answers == {"spec": True, "compat": False}
        assert [key.key for key in store.claim([want(), want()])] == [stored("a", "other")]


def upload_while(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    other: Callable[[Any], Any],
    request: KeysUploadRequest,
    *,
    policy: Policy = SPEC,
) -> tuple[Decision[KeysUploadResponse], Any, bool]:
    """Upload, while another connection begins to do something between what is read and what is written.

    Returns what the upload and the other came to, and whether the other had to wait.
    """
    store, decide = database.open(policy=policy), homeserver.decide_keys_upload
    view, ready = store.view, threading.Event()
    answers: list[Any] = []
    waits: list[bool] = []

    def do_other() -> None:
        with contextlib.closing(store_class(database.example)(database.dsn, policy=policy)) as another:
            ready.set()
            answers.append(other(another))

    def slow_view(*arguments: Any) -> Any:
        seen = view(*arguments)
        thread.start()
        assert ready.wait(10)
        thread.join(0.2)
        return seen

    def slow_decide(*arguments: Any, **more: Any) -> Any:
        decision = decide(*arguments, **more)
        if threading.current_thread() is not thread:
            thread.join(0.1)
            waits.append(thread.is_alive())
        return decision

    thread = threading.Thread(target=do_other)
    store.view = slow_view
    monkeypatch.setattr(homeserver, "decide_keys_upload", slow_decide)
    decision = store.upload(request, REQUESTER)
    thread.join(10)
    return decision, answers[0], waits == [True]


class TestUploadsAtTheSameTime:
    def test_neither_undoes_what_the_other_has_signed(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both bring a signature that the other does not know; they are merged, whoever is first."""
        device = ALICE.device(PHONE, cross_signed=False)

        def signed_with(name: str) -> KeysUploadRequest:
            tree: Any = device.to_json()
            tree["signatures"][USER][f"{name}:{PHONE}"] = "AAAA"
            return KeysUploadRequest.for_keys(device_keys=DeviceKeys.from_json(tree))

        store = database.open()
        store.apply([log_in()])
        first, second, _ = upload_while(
            database, monkeypatch, lambda another: another.upload(signed_with("two"), REQUESTER), signed_with("one")
        )
        assert not first.is_refusal
        assert not second.is_refusal
        keys = state(store).user.devices[PHONE].keys
        assert keys is not None
        assert set(keys.signatures[USER]) == {f"ed25519:{PHONE}", f"one:{PHONE}", f"two:{PHONE}"}

    def test_two_devices_do_not_both_have_the_last_place(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Attack 48: what is decided on all devices of a user is written while they are as they were."""
        policy = evolve(SPEC, limits=evolve(SPEC.limits, devices_per_user=1))
        store = database.open()
        store.apply([log_in(), log_in("A")])
        phone, a = (
            KeysUploadRequest.for_keys(device_keys=ALICE.device(name, cross_signed=False)) for name in (PHONE, "A")
        )
        of_a = Requester(user_id=USER, device_id="A")
        first, second, _ = upload_while(
            database, monkeypatch, lambda another: another.upload(a, of_a), phone, policy=policy
        )
        assert not first.is_refusal
        assert second.refusal is not None
        assert second.refusal.errcode == "M_TOO_LARGE"
        assert state(store).user.devices["A"].keys is None

    @pytest.mark.parametrize(
        "effect", [log_in(), DeleteDevice(user_id=USER, device_id=PHONE)], ids=["rename", "delete"]
    )
    def test_a_device_does_not_change_meanwhile(
        self, database: Database, monkeypatch: pytest.MonkeyPatch, effect: Effect
    ) -> None:
        database.open().apply([log_in()])
        decision, _, has_waited = upload_while(
            database, monkeypatch, lambda another: another.apply([effect]), upload_of("a", fallback="F")
        )
        assert not decision.is_refusal
        assert has_waited

    def test_nobody_claims_meanwhile(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """Attack 46: neither a one-time key nor a fallback key; nor do the two wait for each other."""
        store = database.open()
        tablet = StoreOneTimeKeys(user_id=USER, device_id="TABLET", keys={f"{ALGORITHM}:t": stored("t")})
        store.apply([log_in(), store_keys("a"), store_fallback("F"), log_in("TABLET"), tablet])
        wanted = [want(allows_one_time_key=False), want(), want("TABLET")]
        decision, names, has_waited = upload_while(
            database, monkeypatch, lambda another: claimed(another, *wanted), upload_of("b", fallback="G")
        )
        assert has_waited
        assert decision.require().one_time_key_counts == {ALGORITHM: 2}
        assert names == ["G", "a", "t"]


BEFORE = (log_in(), store_keys("a", "b"), take("a"), store_fallback("F"))
CONFLICTS: dict[str, tuple[Effect, ...]] = {
    "the id is held": (store_keys(b="other"),),
    "the key is held under another id": (store_keys(c="b"),),
    "the id was claimed": (store_keys(a="other"),),
    "the key was claimed": (store_keys(c="a"),),
    "one of several was claimed": (store_keys("c", "d", "a"),),
    "it is taken already": (take("a"),),
    "it is taken twice": (take("b"), take("b")),
    "another key has the id": (take("b", "other"),),
    "it was never there": (take("c"),),
    "it is no fallback key of the device": (mark("c"),),
    "the fallback key was replaced": (mark("F"),),
    "no device for one-time keys": (DeleteDevice(user_id=USER, device_id=PHONE), store_keys("c")),
    "no device for a fallback key": (DeleteDevice(user_id=USER, device_id=PHONE), store_fallback("G")),
    "no device for keys": (StoreDeviceKeys(user_id=USER, device_id="GONE", keys=ALICE.device("GONE").signed),),
}


WITHOUT_TABLE: tuple[Effect, ...] = (
    IfUnchanged(user_id=USER, revision=0),
    StoreCrossSigningKey(user_id=USER, usage="master", key=ALICE.master_key),
    DropCrossSigningKey(user_id=USER, usage="master"),
    StoreSignature(
        signature=UserSignature(
            signer_id=USER,
            signer_key_id="ed25519:A",
            user_id="@bob:b.example",
            master_key_id="ed25519:B",
            signature="C",
        )
    ),
    DropSignaturesBy(user_id=USER),
    DropSignaturesOn(user_id=USER),
)


class TestEffects:
    @pytest.mark.parametrize("effects", CONFLICTS.values(), ids=CONFLICTS)
    def test_what_does_not_hold_changes_nothing(self, database: Database, effects: tuple[Effect, ...]) -> None:
        store = database.open()
        store.apply(BEFORE)
        before = state(store)
        with pytest.raises(database.example.Conflict):
            store.apply([store_fallback("G", "other"), store_keys("d"), *effects])
        assert state(store) == before
        assert claimed(store, want(), want()) == ["b", "F"]  # the connection is usable

    def test_another_key_under_a_claimed_id_is_no_conflict_under_the_lenient_policy(self, database: Database) -> None:
        store = database.open(policy=COMPAT)
        store.apply(BEFORE)
        store.apply([store_keys(a="other")])
        assert state(store).one_time_keys[f"{ALGORITHM}:a"] == stored("a", "other")
        with pytest.raises(database.example.Conflict):
            store.apply([store_keys(c="a")])

    def test_a_fallback_key_that_is_stored_twice_stays_used(self, database: Database) -> None:
        """Two decisions on one view; the first was carried out, and the key given away."""
        store = database.open()
        store.apply([log_in(), store_fallback("F")])
        assert claimed(store, want()) == ["F"]
        store.apply([store_fallback("F")])
        assert state(store).fallback_keys[ALGORITHM].is_used
        store.apply([store_fallback("F", "other")])
        assert not state(store).fallback_keys[ALGORITHM].is_used

    def test_a_fallback_key_is_marked(self, database: Database) -> None:
        store = database.open()
        store.apply([log_in(), store_fallback("F"), mark("F")])
        assert state(store).fallback_keys[ALGORITHM].is_used

    def test_a_device_keeps_its_keys_when_it_is_renamed(self, database: Database) -> None:
        store = database.open()
        store.apply([log_in(), store_keys("a")])
        store.apply([StoreDevice(user_id=USER, device_id=PHONE, display_name="My\0phone")])
        assert state(store).user.devices[PHONE].display_name == "My\0phone"
        assert state(store).counts == {ALGORITHM: 1}

    def test_a_deleted_device_begins_anew(self, database: Database) -> None:
        store = database.open()
        store.apply([*BEFORE, DeleteDevice(user_id=USER, device_id=PHONE), log_in()])
        assert state(store) == UploadView(user=state(store).user)
        store.apply([store_keys("a")])
        assert claimed(store, want()) == ["a"]

    def test_notices_are_for_others(self, database: Database) -> None:
        notices = [
            DeviceChanged(user_id=USER, device_id=PHONE),
            IdentityChanged(user_id=USER),
            SignedOthers(user_id=USER),
        ]
        database.open().apply(notices)

    @pytest.mark.parametrize("effect", WITHOUT_TABLE, ids=lambda effect: type(effect).__name__)
    def test_what_it_has_no_table_for_is_not_swallowed(self, database: Database, effect: Effect) -> None:
        """Nor is a condition that it cannot look at."""
        store = database.open()
        with pytest.raises(NotImplementedError, match=type(effect).__name__):
            store.apply([log_in(), effect])
        assert not state(store).user.devices


class TestClaims:
    def test_whoever_takes_too_many_gets_the_fallback_key(self, database: Database) -> None:
        """Attack 47."""
        store = database.open()
        store.apply([log_in(), store_keys("a"), store_fallback("F")])
        first, second = store.claim([want(allows_one_time_key=False), want()])
        assert (first.key_id, first.is_fallback) == (f"{ALGORITHM}:F", True)
        assert (second.key_id, second.is_fallback) == (f"{ALGORITHM}:a", False)

    @pytest.mark.parametrize("name", ["\0", "\ud800", "'; DROP TABLE devices; --", "%s", "\N{SNOWMAN}", ""])
    def test_any_name_may_be_asked_for(self, database: Database, name: str) -> None:
        store = database.open()
        store.apply(BEFORE)
        assert store.claim([want(name), want(algorithm=name)]) == []

    @pytest.mark.parametrize("device_id", ["\0", "'; DROP TABLE devices; --", "%s", "\N{SNOWMAN}"])
    def test_any_device_can_have_keys(self, database: Database, device_id: str) -> None:
        store = database.open()
        store.apply([log_in(device_id)])
        requester = Requester(user_id=USER, device_id=device_id)
        key, fallback = ALICE.one_time_key(device_id, "a"), ALICE.one_time_key(device_id, "F", fallback=True)
        request = KeysUploadRequest.for_keys(one_time_keys=[key], fallback_keys=[fallback])
        store.upload(request, requester).require()
        assert [key.key for key in store.claim([want(device_id)] * 2)] == [key.signed, fallback.signed]

    def test_a_bare_string_is_handed_out_as_it_is(self, database: Database) -> None:
        store = database.open()
        text = 'A"\\\0'
        store.apply([log_in(), StoreOneTimeKeys(user_id=USER, device_id=PHONE, keys={"curve25519:a": text})])
        assert [key.key for key in store.claim([want(algorithm="curve25519")])] == [text]

    def test_key_ids_are_ordered_by_code_points(self, database: Database) -> None:
        names = ["10", "9", "A", "Z", "_", "a", "\u00e9", "\uff61", "\U0001f600"]
        store = database.open()
        store.apply([log_in(), store_keys(*reversed(names))])
        assert claimed(store, *[want()] * len(names)) == names


class TestSqlite:
    def test_whoever_changes_something_keeps_others_out_from_the_beginning(self, tmp_path: Path) -> None:
        """A transaction that reads first and writes later could be told that what it has read is old."""

        def meanwhile(step: Any) -> Iterator[Any]:
            with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    other.execute("BEGIN IMMEDIATE")
                yield step

        path = str(tmp_path / "keys.sqlite")
        with sqlite_database(path) as database:
            store = database.open()
            store.apply(meanwhile(log_in()))
            assert store.claim(meanwhile(want())) == []


class TestPostgresql:
    def test_a_key_that_is_being_claimed_is_passed_over(self, postgresql: Database) -> None:
        """And not waited for: whoever claims does not hold up the others."""
        slow, other = postgresql.open(), postgresql.open()
        slow.apply([log_in(), store_keys("a", "b")])
        other.connection.execute("SET lock_timeout = '5s'")
        with contextlib.suppress(ZeroDivisionError), slow.connection.transaction():
            assert claimed(slow, want()) == ["a"]
            assert claimed(other, want()) == ["b"]
            raise ZeroDivisionError
        assert claimed(other, want()) == ["a"]  # nobody was given it

    @pytest.mark.parametrize("effects", [(store_keys("a"),), (store_keys("b", c="a"),)], ids=["same-id", "other-id"])
    def test_a_key_that_is_being_claimed_is_not_stored_again(
        self, postgresql: Database, effects: tuple[Effect, ...]
    ) -> None:
        """Attack 46: a retry that was decided on before the claim, and stored while the claim is not committed yet."""
        claiming, uploading = postgresql.open(), postgresql.open()
        claiming.apply([log_in(), store_keys("a")])
        outcome: list[Exception | None] = []

        def store_again() -> None:
            try:
                uploading.apply(effects)
            except postgresql.example.Conflict as conflict:
                outcome.append(conflict)
            else:
                outcome.append(None)

        thread = threading.Thread(target=store_again)
        with claiming.connection.transaction():
            assert claimed(claiming, want()) == ["a"]
            thread.start()
            wait_until(lambda: is_anybody_waiting(claiming))
        thread.join(10)
        assert isinstance(outcome[0], postgresql.example.Conflict)
        assert claimed(claiming, want()) == []

    def test_claims_of_the_same_devices_in_another_order_do_not_wait_for_each_other(self, postgresql: Database) -> None:
        one, other = postgresql.open(), postgresql.open()
        for device_id in ("A", "B"):
            key = stored("F", fallback=True)
            one.apply(
                [
                    log_in(device_id),
                    StoreFallbackKey(user_id=USER, device_id=device_id, key_id=f"{ALGORITHM}:F", key=key),
                ]
            )
        one.connection.execute("SET deadlock_timeout = '10ms'")
        outcome: list[list[str]] = []
        thread = threading.Thread(target=lambda: outcome.append(claimed(other, want("B"), want("A"))))
        with one.connection.transaction():
            assert claimed(one, want("A")) == ["F"]
            thread.start()
            wait_until(lambda: is_anybody_waiting(one))
            assert claimed(one, want("B")) == ["F"]
        thread.join(10)
        assert outcome == [["F", "F"]]

    def test_an_upload_sees_what_it_has_waited_for(self, postgresql: Database) -> None:
        """Attack 46: whatever the database's isolation level is, what is read is read after that."""
        other, uploading = postgresql.open(), postgresql.open()
        other.apply([log_in(), store_keys("a")])
        uploading.connection.execute("SET default_transaction_isolation = 'repeatable read'")
        decisions: list[Any] = []
        thread = threading.Thread(target=lambda: decisions.append(uploading.upload(upload_of("a", "b"), REQUESTER)))
        with other.connection.transaction():
            assert claimed(other, want()) == ["a"]
            thread.start()
            wait_until(lambda: is_anybody_waiting(other))
        thread.join(10)
        assert decisions[0].require().one_time_key_counts == {ALGORITHM: 1}
        assert claimed(other, want(), want()) == ["b"]

    def test_an_upload_finds_the_device_that_has_logged_in_anew(self, postgresql: Database) -> None:
        """The lock waited for a row that is gone; another has its place."""
        other, uploading = postgresql.open(), postgresql.open()
        other.apply([log_in()])
        decisions: list[Any] = []
        thread = threading.Thread(target=lambda: decisions.append(uploading.upload(upload_of("a"), REQUESTER)))
        with other.connection.transaction():
            other.apply([DeleteDevice(user_id=USER, device_id=PHONE), log_in()])
            thread.start()
            wait_until(lambda: is_anybody_waiting(other))
        thread.join(10)
        assert not decisions[0].is_refusal
        assert state(other).counts == {ALGORITHM: 1}

    def test_two_that_wait_for_each_other_are_a_conflict(self, postgresql: Database) -> None:
        one, other = postgresql.open(), postgresql.open()
        one.apply([log_in("A"), log_in("B")])
        one.connection.execute("SET deadlock_timeout = '10ms'")
        conflicts: list[Exception] = []

        def rename(store: Any, first: str, second: str, meet: threading.Barrier) -> None:
            def effects() -> Iterator[Effect]:
                yield StoreDevice(user_id=USER, device_id=first, display_name=first)
                meet.wait(10)
                yield StoreDevice(user_id=USER, device_id=second, display_name=first)

            try:
                store.apply(effects())
            except postgresql.example.Conflict as conflict:
                conflicts.append(conflict)

        meet = threading.Barrier(2)
        thread = threading.Thread(target=rename, args=(other, "B", "A", meet))
        thread.start()
        rename(one, "A", "B", meet)
        thread.join(10)
        assert len(conflicts) == 1
        names = {device.display_name for device in state(one).user.devices.values()}
        assert names in ({"A"}, {"B"})  # one of them did all of it


def is_anybody_waiting(store: Any) -> bool:
    return bool(store.connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall())


def wait_until(happens: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.005)


# --------------------------------------------------------------------------------------------------------------
# The same as the library
# --------------------------------------------------------------------------------------------------------------


@st.composite
def uploads(draw: st.DrawFn) -> tuple[str, KeysUploadRequest]:
    """A device, and what it uploads. Both devices have the same keys."""
    device_id = draw(st.sampled_from([PHONE, "A"]))
    names = st.sampled_from(NAMES[:4])
    texts = draw(st.dictionaries(names, st.sampled_from(["a", "b", "c", "d", "other"]), max_size=3))
    return device_id, upload_of(fallback=draw(st.sampled_from([None, "F", "G"])), device_id=device_id, **texts)


WANTS = st.builds(
    want,
    st.sampled_from([PHONE, "A", "NOBODY"]),
    st.sampled_from([ALGORITHM, ALGORITHM, "curve25519"]),
    allows_one_time_key=st.sampled_from([True, True, False]),
)
STEPS = st.lists(
    uploads() | st.lists(WANTS, min_size=1, max_size=4) | st.sampled_from([PHONE, "A"]),
    max_size=12,
)


def compare(store: Any, steps: Sequence[Any]) -> None:
    """Let a store and the library do the same, and see the same."""
    model = MemoryStore()
    for keeper in (store, model):
        keeper.apply([log_in(PHONE), log_in("A")])
    for step in steps:
        if isinstance(step, tuple):
            requester = Requester(user_id=USER, device_id=step[0])
            decision = store.upload(step[1], requester)
            view = model.upload_view(USER, step[0])
            view = evolve(view, user=evolve(view.user, revision=None))  # read in the transaction that writes
            expected = decide_keys_upload(step[1], requester=requester, view=view, policy=store.policy)
            assert decision == expected
            model.apply(expected.effects)
        elif isinstance(step, list):
            devices = {(want.user_id, want.device_id) for want in step}
            pools = {device: pool for device in devices if (pool := model.pool(*device)) is not None}
            claims = decide_claims(step, pools=pools)
            assert store.claim(step) == list(claims.keys)
            model.apply(claims.effects)
        else:
            for keeper in (store, model):
                keeper.apply([DeleteDevice(user_id=USER, device_id=step), log_in(step)])
        for device_id in (PHONE, "A"):
            assert state(store, device_id) == model.upload_view(USER, device_id)


class TestTheSameAsTheLibrary:
    @given(STEPS, st.sampled_from([SPEC, COMPAT]))
    def test_sqlite(self, steps: list[Any], policy: Policy) -> None:
        with sqlite_database(":memory:") as database:
            compare(database.open(policy=policy), steps)

    @settings(max_examples=10)
    @given(steps=STEPS, policy=st.sampled_from([SPEC, COMPAT]))
    def test_postgresql(self, cluster: str, steps: list[Any], policy: Policy) -> None:
        with postgresql_database(cluster) as database:
            compare(database.open(policy=policy), steps)

    def test_what_is_looked_up_is_enough(self, database: Database) -> None:
        """The view that is made for an upload leads to the same decision as one of everything."""
        store = database.open()
        store.apply(BEFORE)
        for request in (upload_of("a", "b"), upload_of(b="other"), upload_of(c="a", d="b"), upload_of(fallback="F")):
            view = store.view(USER, PHONE, upload_lookup(request))
            decisions = [decide_keys_upload(request, requester=REQUESTER, view=v) for v in (view, state(store))]
            assert decisions[0] == decisions[1]


class TestScripts:
    def test_say_what_they_do(self, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            database.example.main(database.dsn)
            assert capsys.readouterr().out.splitlines() == [
                "uploaded: {'one_time_key_counts': {'signed_curve25519': 3}}",
                "claimed: signed_curve25519:A (one-time)",
                "claimed: signed_curve25519:B (one-time)",
                "claimed: signed_curve25519:C (one-time)",
                "claimed: signed_curve25519:F (fallback)",
                "claimed: signed_curve25519:F (fallback)",
                "uploaded again: {'one_time_key_counts': {'signed_curve25519': 0}}",
            ]
