"""Which one-time keys are handed out: the oldest first, each once ever, and then the fallback key."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys import E2EKeysError, LocalProtocolError, OneTimeKey, Reason, SignedJson
from matrix_e2e_keys.homeserver.claims.local_claims import (
    DeviceKeyPool,
    HandedOutKey,
    KeyWanted,
    LocalClaims,
    PooledKey,
    claim_order,
    decide_claims,
)
from matrix_e2e_keys.homeserver.effects import (
    Effect,
    MarkFallbackKeyUsed,
    StoreFallbackKey,
    StoreOneTimeKeys,
    TakeOneTimeKey,
)
from matrix_e2e_keys.homeserver.stored_keys import FallbackKeyRecord, StoredKey, key_digest
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = "@alice:a.example"
BOB = "@bob:a.example"
PHONE = "PHONE"
ALGORITHM = "signed_curve25519"


def key(text: str, **extra: Any) -> SignedJson:
    return SignedJson.from_json({"key": text, **extra})


def pooled(key_id: str, uploaded: int = 1, of: StoredKey | None = None) -> PooledKey:
    return PooledKey(key_id=key_id, key=key(f"key of {key_id}") if of is None else of, uploaded=uploaded)


def fallback(key_id: str = f"{ALGORITHM}:fallback", *, is_used: bool = False) -> FallbackKeyRecord:
    return FallbackKeyRecord(key_id=key_id, key=key(f"key of {key_id}", fallback=True), is_used=is_used)


def want(user_id: str = ALICE, device_id: str = PHONE, algorithm: str = ALGORITHM, **more: Any) -> KeyWanted:
    return KeyWanted(user_id=user_id, device_id=device_id, algorithm=algorithm, **more)


def pool(*keys: PooledKey, fallback_keys: tuple[FallbackKeyRecord, ...] = ()) -> DeviceKeyPool:
    records = {record.key_id.partition(":")[0]: record for record in fallback_keys}
    return DeviceKeyPool(one_time_keys=keys, fallback_keys=records)


def ids(claims: LocalClaims) -> list[str]:
    return [handed_out.key_id for handed_out in claims.keys]


def taken(key_id: str, of: StoredKey | None = None, *, user_id: str = ALICE, device_id: str = PHONE) -> TakeOneTimeKey:
    digest = key_digest(key(f"key of {key_id}") if of is None else of)
    return TakeOneTimeKey(user_id=user_id, device_id=device_id, key_id=key_id, digest=digest)


def marked(key_id: str = f"{ALGORITHM}:fallback", of: StoredKey | None = None) -> MarkFallbackKeyUsed:
    digest = key_digest(key(f"key of {key_id}") if of is None else of)
    return MarkFallbackKeyUsed(user_id=ALICE, device_id=PHONE, key_id=key_id, digest=digest)


class TestOneKey:
    def test_is_handed_out_with_its_id_and_taken_away(self) -> None:
        one = OneTimeKey.build(
            key_id=f"{ALGORITHM}:a",
            key=sample_curve25519_key("a"),
            user_id=ALICE,
            signer=SampleUser(ALICE).device_signer(PHONE),
        )
        assert one.signed is not None
        claims = decide_claims([want()], pools={(ALICE, PHONE): pool(pooled(f"{ALGORITHM}:a", of=one.signed))})
        assert claims == LocalClaims(
            effects=(taken(f"{ALGORITHM}:a", one.signed),),
            keys=(HandedOutKey(wanted=want(), key_id=f"{ALGORITHM}:a", key=one.signed, is_fallback=False),),
        )

    def test_may_be_a_bare_string(self) -> None:
        """The draft's one-time keys are strings."""
        claims = decide_claims(
            [want(algorithm="curve25519")], pools={(ALICE, PHONE): pool(pooled("curve25519:a", of="AAAA"))}
        )
        assert [handed_out.key for handed_out in claims.keys] == ["AAAA"]
        assert claims.effects == (taken("curve25519:a", "AAAA"),)

    def test_is_handed_out_as_it_is_stored(self) -> None:
        odd = SignedJson.from_json({"signatures": {}, "zebra": 1, "\N{SNOWMAN}": [], "unsigned": {"a": 1}})
        claims = decide_claims([want()], pools={(ALICE, PHONE): pool(pooled(f"{ALGORITHM}:a", of=odd))})
        assert claims.keys[0].key is odd

    def test_nothing_is_wanted(self) -> None:
        assert decide_claims([], pools={(ALICE, PHONE): pool(pooled(f"{ALGORITHM}:a"))}) == LocalClaims()


class TestOrder:
    def test_the_oldest_upload_first(self) -> None:
        """What is uploaded as 1, then as 0, is claimed as 1, then as 0."""
        pools = {(ALICE, PHONE): pool(pooled(f"{ALGORITHM}:0", 2), pooled(f"{ALGORITHM}:1", 1))}
        claims = decide_claims([want()] * 3, pools=pools)
        assert ids(claims) == [f"{ALGORITHM}:1", f"{ALGORITHM}:0"]
        assert claims.effects == (taken(f"{ALGORITHM}:1"), taken(f"{ALGORITHM}:0"))

    @given(st.permutations([(-5, "z"), (0, "A"), (0, "a"), (0, "\u00e9"), (2**70, "0"), (2**70, "1"), (9, "10")]))
    def test_does_not_depend_on_the_order_of_the_pool(self, order: list[tuple[int, str]]) -> None:
        keys = [pooled(f"{ALGORITHM}:{name}", uploaded) for uploaded, name in order]
        claims = decide_claims([want()] * len(keys), pools={(ALICE, PHONE): pool(*keys)})
        assert ids(claims) == [f"{ALGORITHM}:{name}" for name in ("z", "A", "a", "\u00e9", "10", "0", "1")]

    def test_is_the_upload_then_the_id(self) -> None:
        assert claim_order(pooled("a:b", 7)) == (7, "a:b")

    def test_is_that_of_pooled_keys_only(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            claim_order("a:b")  # type: ignore[arg-type]
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/key")


class TestFallbackKeys:
    def test_one_time_keys_come_first(self) -> None:
        pools = {(ALICE, PHONE): pool(pooled(f"{ALGORITHM}:a"), fallback_keys=(fallback(),))}
        claims = decide_claims([want()], pools=pools)
        assert (ids(claims), claims.effects) == ([f"{ALGORITHM}:a"], (taken(f"{ALGORITHM}:a"),))
        assert not claims.keys[0].is_fallback

    def test_is_handed_out_when_there_are_no_others_and_marked_once(self) -> None:
        """Attack 47: whoever claims all one-time keys leaves the fallback key."""
        pools = {(ALICE, PHONE): pool(pooled(f"{ALGORITHM}:a"), fallback_keys=(fallback(),))}
        claims = decide_claims([want()] * 3, pools=pools)
        assert ids(claims) == [f"{ALGORITHM}:a", f"{ALGORITHM}:fallback", f"{ALGORITHM}:fallback"]
        assert [handed_out.is_fallback for handed_out in claims.keys] == [False, True, True]
        assert claims.keys[1].key == fallback().key
        assert claims.effects == (taken(f"{ALGORITHM}:a"), marked())

    def test_is_marked_by_its_digest(self) -> None:
        """Another one may have come in its place, under the same id: that one has not been used."""
        for text in ("a bare string", key("another", fallback=True)):
            record = FallbackKeyRecord(key_id="x:f", key=text)
            claims = decide_claims([want(algorithm="x")], pools={(ALICE, PHONE): pool(fallback_keys=(record,))})
            assert claims.effects == (marked("x:f", of=text),)

    def test_that_is_used_already_is_not_marked_again(self) -> None:
        claims = decide_claims([want()], pools={(ALICE, PHONE): pool(fallback_keys=(fallback(is_used=True),))})
        assert (ids(claims), claims.effects) == ([f"{ALGORITHM}:fallback"], ())

    def test_who_takes_too_many_gets_the_fallback_key(self) -> None:
        """Attack 47: the one-time keys stay for others."""
        pools = {(ALICE, PHONE): pool(pooled(f"{ALGORITHM}:a"), fallback_keys=(fallback(),))}
        greedy = want(allows_one_time_key=False)
        claims = decide_claims([greedy, want()], pools=pools)
        assert ids(claims) == [f"{ALGORITHM}:fallback", f"{ALGORITHM}:a"]
        assert claims.keys[0].wanted == greedy
        assert claims.effects == (marked(), taken(f"{ALGORITHM}:a"))

    def test_who_takes_too_many_gets_nothing_if_there_is_none(self) -> None:
        pools = {(ALICE, PHONE): pool(pooled(f"{ALGORITHM}:a"))}
        assert decide_claims([want(allows_one_time_key=False)], pools=pools) == LocalClaims()

    def test_each_algorithm_has_its_own(self) -> None:
        records = (fallback("a:1"), fallback("b:1"))
        claims = decide_claims(
            [want(algorithm=name) for name in "abcab"], pools={(ALICE, PHONE): pool(fallback_keys=records)}
        )
        assert ids(claims) == ["a:1", "b:1", "a:1", "b:1"]
        assert claims.effects == (marked("a:1"), marked("b:1"))


class TestWhatIsLeftOut:
    @pytest.mark.parametrize(
        "missing",
        [
            want(BOB),
            want(device_id="TABLET"),
            want(device_id=""),
            want(device_id="\ud800"),
            want(device_id="x" * 100_000),
            want(algorithm="curve25519"),
            want(algorithm=""),
            want(algorithm=f"{ALGORITHM}:a"),
            want(algorithm=f"{ALGORITHM}:"),
            want(algorithm="nocolon"),
        ],
    )
    def test_what_there_is_no_key_for(self, missing: KeyWanted) -> None:
        """Attack 49: an algorithm is what stands before the first colon of an id of the right form."""
        keys = [pooled(key_id) for key_id in (f"{ALGORITHM}:a", "nocolon", "", ":", ":x", "y:")]
        pools = {(ALICE, PHONE): DeviceKeyPool(one_time_keys=tuple(keys), fallback_keys={"": fallback(":x")})}
        claims = decide_claims([missing, want(), missing], pools=pools)
        assert ids(claims) == [f"{ALGORITHM}:a"]

    def test_a_name_may_hold_colons(self) -> None:
        claims = decide_claims([want(algorithm="a")], pools={(ALICE, PHONE): pool(pooled("a:b:c"))})
        assert ids(claims) == ["a:b:c"]

    @pytest.mark.parametrize("key_id", ["other:1", ALGORITHM, f"{ALGORITHM}:", ":1"])
    def test_a_fallback_key_that_names_another_algorithm(self, key_id: str) -> None:
        pools = {(ALICE, PHONE): DeviceKeyPool(fallback_keys={ALGORITHM: fallback(key_id)})}
        assert decide_claims([want()], pools=pools) == LocalClaims()


class TestSeveral:
    def test_three_users_with_two_devices_and_two_algorithms(self) -> None:
        wanted = [
            want(user_id, device_id, algorithm)
            for user_id, device_id, algorithm in itertools.product([ALICE, BOB, "@c:x"], ["A", "B"], ["x", "y"])
        ]
        pools = {
            (user_id, device_id): pool(
                *(pooled(f"{alg}:{user_id}{device_id}{upload}", 9 - upload) for alg in "xy" for upload in (1, 2))
            )
            for user_id, device_id in itertools.product([ALICE, BOB, "@c:x"], ["A", "B"])
        }
        for claims, upload in ((decide_claims(wanted, pools=pools), 2), (decide_claims(wanted * 2, pools=pools), 1)):
            last = claims.keys[-len(wanted) :]
            assert [handed_out.wanted for handed_out in last] == wanted
            assert [handed_out.key_id for handed_out in last] == [
                f"{one.algorithm}:{one.user_id}{one.device_id}{upload}" for one in wanted
            ]
            assert claims.effects == tuple(
                taken(one.key_id, user_id=one.wanted.user_id, device_id=one.wanted.device_id) for one in claims.keys
            )

    def test_what_stands_in_the_pool_twice_is_handed_out_once(self) -> None:
        """Attack 46: the same key under another id, of another algorithm or signed anew is the same key."""
        resigned = SignedJson.from_json({"key": "same", "signatures": {ALICE: {"ed25519:PHONE": "c2ln"}}})
        keys = [
            pooled(f"{ALGORITHM}:a", of=key("same")),
            pooled("curve25519:b", of="same"),
            pooled(f"{ALGORITHM}:c", of=resigned),
            pooled(f"{ALGORITHM}:d", of=key("same", fallback=True)),
            pooled("nocolon", of="same"),
            pooled(f"{ALGORITHM}:e", of=key("other")),
        ]
        wanted = [want(), want(algorithm="curve25519"), want(), want()]
        claims = decide_claims(wanted, pools={(ALICE, PHONE): pool(*keys)})
        assert ids(claims) == [f"{ALGORITHM}:a", f"{ALGORITHM}:e"]
        gone = {effect.key_id for effect in claims.effects if isinstance(effect, TakeOneTimeKey)}
        assert gone == {one.key_id for one in keys}
        assert len(claims.effects) == len(keys)

    def test_the_same_key_of_two_devices_is_two_keys(self) -> None:
        keys = pool(pooled(f"{ALGORITHM}:a"))
        claims = decide_claims(
            [want(), want(device_id="TABLET")], pools={(ALICE, PHONE): keys, (ALICE, "TABLET"): keys}
        )
        assert ids(claims) == [f"{ALGORITHM}:a"] * 2

    @given(st.data())
    def test_nothing_given_is_changed_and_the_same_is_decided_again(self, data: st.DataObject) -> None:
        names = st.sampled_from(["x:1", "x:2", "y:1"])
        keys = data.draw(st.dictionaries(names, st.integers(0, 2)))
        given_pool = pool(
            *(pooled(key_id, upload) for key_id, upload in keys.items()), fallback_keys=(fallback("x:f"),)
        )
        pools = {(ALICE, PHONE): given_pool}
        wanted = data.draw(st.lists(st.sampled_from([want(algorithm="x"), want(algorithm="y"), want(BOB)])))
        before = (copy.deepcopy(pools), list(wanted))
        assert decide_claims(wanted, pools=pools) == decide_claims(iter(wanted), pools=pools)
        assert (pools, wanted) == before


class TestArguments:
    @pytest.mark.parametrize(
        ("wanted", "pools", "path"),
        [
            (None, {}, "/wanted"),
            ("ab", {}, "/wanted"),
            (want(), {}, "/wanted"),
            ([want(), "ab"], {}, "/wanted/1"),
            ([], None, "/pools"),
            ([], [((ALICE, PHONE), pool())], "/pools"),
            ([], {ALICE: pool()}, "/pools"),
            ([], {(ALICE,): pool()}, "/pools"),
            ([], {(ALICE, PHONE, "x"): pool()}, "/pools"),
            ([], {(ALICE, 5): pool()}, "/pools"),
            ([], {(ALICE, PHONE): None}, f"/pools/{ALICE}/{PHONE}"),
            ([], {(ALICE, PHONE): {}}, f"/pools/{ALICE}/{PHONE}"),
        ],
    )
    def test_of_the_wrong_type_are_refused(self, wanted: Any, pools: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            decide_claims(wanted, pools=pools)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, path)

    @pytest.mark.parametrize(
        ("kind", "values", "path"),
        [
            (KeyWanted, {"user_id": "alice"}, "/user_id"),
            (KeyWanted, {"device_id": None}, "/device_id"),
            (KeyWanted, {"algorithm": 5}, "/algorithm"),
            (KeyWanted, {"allows_one_time_key": 1}, "/allows_one_time_key"),
            (PooledKey, {"key_id": 5}, "/key_id"),
            (PooledKey, {"key": {"key": "A"}}, "/key"),
            (PooledKey, {"uploaded": True}, "/uploaded"),
            (PooledKey, {"uploaded": 1.5}, "/uploaded"),
            (HandedOutKey, {"wanted": None}, "/wanted"),
            (HandedOutKey, {"key_id": None}, "/key_id"),
            (HandedOutKey, {"key": 5}, "/key"),
            (HandedOutKey, {"is_fallback": None}, "/is_fallback"),
            (DeviceKeyPool, {"one_time_keys": {}}, "/one_time_keys"),
            (DeviceKeyPool, {"one_time_keys": [pooled("a:b"), "a:b"]}, "/one_time_keys/1"),
            (DeviceKeyPool, {"one_time_keys": [pooled("a:b"), pooled("a:c"), pooled("a:b", 2)]}, "/one_time_keys/2"),
            (DeviceKeyPool, {"fallback_keys": []}, "/fallback_keys"),
            (DeviceKeyPool, {"fallback_keys": {"a": "b"}}, "/fallback_keys/a"),
        ],
    )
    def test_values_are_checked_when_they_are_made(self, kind: type, values: dict[str, Any], path: str) -> None:
        good: dict[type, dict[str, Any]] = {
            KeyWanted: {"user_id": ALICE, "device_id": PHONE, "algorithm": "x"},
            PooledKey: {"key_id": "a:b", "key": "A", "uploaded": 1},
            HandedOutKey: {"wanted": want(), "key_id": "a:b", "key": "A", "is_fallback": False},
            DeviceKeyPool: {},
        }
        assert kind(**good[kind])
        with pytest.raises(LocalProtocolError) as caught:
            kind(**{**good[kind], **values})
        assert caught.value.path == path

    @given(json_like_values(), json_like_values(), st.text())
    def test_of_any_kind_cause_no_other_error(self, one: Any, two: Any, text: str) -> None:
        tries: list[tuple[Any, Any]] = [(one, two), ([one], {}), ([], {(text, text): one}), ([], {(text, 1): pool()})]
        for wanted, pools in tries:
            with contextlib.suppress(E2EKeysError):
                decide_claims(wanted, pools=pools)
        kinds: tuple[tuple[type[Any], tuple[str, ...]], ...] = (
            (KeyWanted, ("user_id", "device_id", "algorithm", "allows_one_time_key")),
            (PooledKey, ("key_id", "key", "uploaded")),
            (HandedOutKey, ("wanted", "key_id", "key", "is_fallback")),
            (DeviceKeyPool, ("one_time_keys", "fallback_keys")),
        )
        for kind, names in kinds:
            values: dict[str, Any] = dict(zip(names, itertools.cycle([one, two, text]), strict=False))
            with contextlib.suppress(E2EKeysError):
                kind(**values)


# --------------------------------------------------------------------------------------------------------------
# Uploads and claims, again and again, with a store that others use too
# --------------------------------------------------------------------------------------------------------------


class Conflict(Exception):
    """What an effect asks for does not hold."""


class Shelf:
    """A store for the keys of some devices: what a database has to do, and no more."""

    def __init__(self) -> None:
        self.pools: dict[tuple[str, str], dict[str, PooledKey]] = {}
        self.claimed: dict[tuple[str, str], dict[str, str]] = {}  # key id to digest
        self.fallback_keys: dict[tuple[str, str], dict[str, FallbackKeyRecord]] = {}
        self.uploads = 0

    def view(self, device: tuple[str, str], most: int) -> DeviceKeyPool:
        """The pool of a device, or so many of its oldest keys of each algorithm."""
        by_algorithm: dict[str, list[PooledKey]] = {}
        for one in sorted(self.pools.get(device, {}).values(), key=claim_order):
            by_algorithm.setdefault(one.key_id.partition(":")[0], []).append(one)
        return DeviceKeyPool(
            one_time_keys=tuple(one for keys in by_algorithm.values() for one in keys[:most]),
            fallback_keys=dict(self.fallback_keys.get(device, {})),
        )

    def apply(self, effects: tuple[Effect, ...]) -> None:
        """Do all effects, or none."""
        after = Shelf()
        for name, by_device in self.__dict__.items():
            after.__dict__[name] = (
                by_device if name == "uploads" else {of: dict(kept) for of, kept in by_device.items()}
            )
        for effect in effects:
            after._apply(effect)
        self.__dict__ = after.__dict__

    def _apply(self, effect: Effect) -> None:
        assert isinstance(effect, StoreOneTimeKeys | StoreFallbackKey | TakeOneTimeKey | MarkFallbackKeyUsed)
        device = (effect.user_id, effect.device_id)
        held = self.pools.setdefault(device, {})
        claimed = self.claimed.setdefault(device, {})
        fallback_keys = self.fallback_keys.setdefault(device, {})
        if isinstance(effect, StoreOneTimeKeys):
            if effect.keys.keys() & (held.keys() | claimed.keys()):
                raise Conflict
            self.uploads += 1
            for key_id, one in effect.keys.items():
                held[key_id] = PooledKey(key_id=key_id, key=one, uploaded=self.uploads)
        elif isinstance(effect, StoreFallbackKey):
            algorithm = effect.key_id.partition(":")[0]
            there = fallback_keys.get(algorithm)
            if there is None or key_digest(there.key) != key_digest(effect.key):
                fallback_keys[algorithm] = FallbackKeyRecord(key_id=effect.key_id, key=effect.key)
        elif isinstance(effect, TakeOneTimeKey):
            if effect.key_id not in held:
                raise Conflict
            assert effect.digest == key_digest(held.pop(effect.key_id).key)
            claimed[effect.key_id] = effect.digest
        else:
            algorithm = effect.key_id.partition(":")[0]
            there = fallback_keys.get(algorithm)
            if there is None or (there.key_id, key_digest(there.key)) != (effect.key_id, effect.digest):
                raise Conflict
            fallback_keys[algorithm] = evolve(fallback_keys[algorithm], is_used=True)

    def dump(self) -> str:
        """What is on the disk."""
        devices = sorted(self.pools)
        return json.dumps(
            [
                {
                    "device": list(device),
                    "pool": [[one.key_id, _tree(one.key), one.uploaded] for one in self.pools[device].values()],
                    "claimed": self.claimed[device],
                    "fallback": {
                        name: [record.key_id, _tree(record.key), record.is_used]
                        for name, record in self.fallback_keys[device].items()
                    },
                    "uploads": self.uploads,
                }
                for device in devices
            ]
        )

    @classmethod
    def load(cls, text: str) -> Shelf:
        shelf = cls()
        for entry in json.loads(text):
            device = tuple(entry["device"])
            shelf.pools[device] = {
                key_id: PooledKey(key_id=key_id, key=_stored(tree), uploaded=uploaded)
                for key_id, tree, uploaded in entry["pool"]
            }
            shelf.claimed[device] = entry["claimed"]
            shelf.fallback_keys[device] = {
                name: FallbackKeyRecord(key_id=key_id, key=_stored(tree), is_used=is_used)
                for name, (key_id, tree, is_used) in entry["fallback"].items()
            }
            shelf.uploads = entry["uploads"]
        return shelf


def _tree(of: StoredKey) -> Any:
    return of.to_json() if isinstance(of, SignedJson) else of


def _stored(tree: Any) -> StoredKey:
    return tree if type(tree) is str else SignedJson.from_json(tree)


class TestTheEffects:
    """What the effects ask for is what makes a key single-use."""

    def shelf(self, *key_ids: str) -> Shelf:
        shelf = Shelf()
        keys = {key_id: key(key_id) for key_id in key_ids}
        shelf.apply((StoreOneTimeKeys(user_id=ALICE, device_id=PHONE, keys=keys),))
        shelf.apply((StoreFallbackKey(user_id=ALICE, device_id=PHONE, key_id="x:f", key="fallback"),))
        return shelf

    def decide(self, shelf: Shelf, *wanted: KeyWanted) -> LocalClaims:
        return decide_claims(wanted, pools={(ALICE, PHONE): shelf.view((ALICE, PHONE), len(wanted))})

    def test_of_two_decisions_on_one_view_only_one_holds(self) -> None:
        """Attack 46: the other one is made again, and hands out other keys."""
        shelf = self.shelf("x:1", "x:2", "y:1", "y:2")
        x, y = want(algorithm="x"), want(algorithm="y")
        first, second = self.decide(shelf, y), self.decide(shelf, x, y)
        assert (ids(first), ids(second)) == (["y:1"], ["x:1", "y:1"])
        shelf.apply(first.effects)
        before = shelf.dump()
        with pytest.raises(Conflict):
            shelf.apply(second.effects)
        assert shelf.dump() == before, "not even the key that was still there is taken"
        again = self.decide(shelf, x, y, x, x)
        assert ids(again) == ["x:1", "y:2", "x:2", "x:f"]
        shelf.apply(again.effects)
        assert Shelf.load(shelf.dump()).claimed[ALICE, PHONE].keys() == {"x:1", "x:2", "y:1", "y:2"}

    def test_what_was_claimed_stays_claimed_when_it_is_uploaded_again(self) -> None:
        """Attack 46: an upload that is repeated because its answer was lost gives nobody a key twice."""
        shelf = self.shelf("x:1")
        shelf.apply(self.decide(shelf, want(algorithm="x")).effects)
        shelf = Shelf.load(shelf.dump())
        with pytest.raises(Conflict):
            shelf.apply((StoreOneTimeKeys(user_id=ALICE, device_id=PHONE, keys={"x:1": key("x:1")}),))

    @pytest.mark.parametrize("key_id", ["x:g", "x:f"])
    def test_a_fallback_key_that_was_replaced_is_not_marked(self, key_id: str) -> None:
        """The new one has not been used, be it called like the old one."""
        shelf = self.shelf()
        claims = self.decide(shelf, want(algorithm="x"))
        assert ids(claims) == ["x:f"]
        shelf.apply((StoreFallbackKey(user_id=ALICE, device_id=PHONE, key_id=key_id, key="another"),))
        with pytest.raises(Conflict):
            shelf.apply(claims.effects)
        again = self.decide(shelf, want(algorithm="x"))
        shelf.apply(again.effects)
        assert ids(again) == [key_id]
        assert shelf.fallback_keys[ALICE, PHONE]["x"].is_used
        assert self.decide(shelf, want(algorithm="x")).effects == ()


@frozen
class Undone:
    """A decision that was made and not applied yet."""

    wanted: tuple[KeyWanted, ...]
    most: int
    claims: LocalClaims


ALGORITHMS = ["x", "y"]
DEVICES = [(ALICE, PHONE), (BOB, PHONE)]


class OnceEver(RuleBasedStateMachine):
    """Clients upload, upload again what they are not sure of, and others claim, several at a time.

    No key is handed out twice, whatever is retried, decided on an old view, or lost in a crash (attack 46).
    """

    @initialize()
    def begin(self) -> None:
        self.shelf = Shelf()
        self.disk = self.shelf.dump()
        self.undone: list[Undone] = []
        self.fallback_keys = 0
        self.texts: dict[tuple[str, str], set[str]] = {device: set() for device in DEVICES}
        self.stored: dict[tuple[str, str], set[str]] = {device: set() for device in DEVICES}  # digests
        self.handed_out: dict[tuple[str, str], list[str]] = {device: [] for device in DEVICES}  # digests

    def commit(self, effects: tuple[Effect, ...]) -> None:
        self.shelf.apply(effects)
        self.disk = self.shelf.dump()

    @rule(
        device=st.sampled_from(DEVICES),
        uploaded=st.dictionaries(
            st.tuples(st.sampled_from(ALGORITHMS), st.sampled_from("abc")), st.integers(0, 5), min_size=1, max_size=4
        ),
        as_text=st.booleans(),
        signature=st.sampled_from(["", "c2ln"]),
    )
    def upload(
        self, device: tuple[str, str], uploaded: dict[tuple[str, str], int], as_text: bool, signature: str
    ) -> None:
        """What is new is stored: neither what is there or was, nor another key under an id that is there or was."""
        held = self.shelf.pools.get(device, {})
        claimed = self.shelf.claimed.get(device, {})
        digests = {key_digest(one.key) for one in held.values()} | set(claimed.values())
        new: dict[str, StoredKey] = {}
        for (algorithm, name), number in uploaded.items():
            key_id, text = f"{algorithm}:{name}", f"key {number}"
            signed = SignedJson.from_json({"key": text, "signatures": {device[0]: {"ed25519:PHONE": signature}}})
            one: StoredKey = text if as_text else signed
            if key_id not in held and key_id not in claimed and key_digest(one) not in digests:
                digests.add(key_digest(one))
                new[key_id] = one
        if new:
            self.commit((StoreOneTimeKeys(user_id=device[0], device_id=device[1], keys=new),))
            self.stored[device] |= {key_digest(one) for one in new.values()}

    @rule(device=st.sampled_from(DEVICES), algorithm=st.sampled_from(ALGORITHMS))
    def upload_fallback_key(self, device: tuple[str, str], algorithm: str) -> None:
        self.fallback_keys += 1
        key_id = f"{algorithm}:fallback{self.fallback_keys}"
        effect = StoreFallbackKey(user_id=device[0], device_id=device[1], key_id=key_id, key=key(key_id))
        self.commit((effect,))

    def decide(self, wanted: tuple[KeyWanted, ...], most: int) -> LocalClaims:
        pools = {device: self.shelf.view(device, most) for device in DEVICES}
        return decide_claims(wanted, pools=pools)

    @rule(
        wanted=st.lists(
            st.builds(
                lambda device, algorithm, allows: want(device[0], device[1], algorithm, allows_one_time_key=allows),
                st.sampled_from(DEVICES),
                st.sampled_from(ALGORITHMS),
                st.booleans() | st.just(True),
            ),
            min_size=1,
            max_size=4,
        ),
        all_of_them=st.booleans(),
        at_once=st.integers(1, 3),
    )
    def claim(self, wanted: list[KeyWanted], all_of_them: bool, at_once: int) -> None:
        """So many want the same at the same time."""
        most = 100 if all_of_them else len(wanted)
        claims = self.decide(tuple(wanted), most)
        assert claims == self.decide(tuple(wanted), 100), "as many of the oldest as are wanted are enough"
        self.undone += [Undone(tuple(wanted), most, claims)] * at_once

    @rule(number=st.integers(1, 4), which=st.integers(0, 9), answer_is_lost=st.booleans())
    def finish(self, number: int, which: int, answer_is_lost: bool) -> None:
        """Apply decisions, or make others if they do not hold any more, and hand the keys out."""
        for _ in range(min(number, len(self.undone))):
            self.finish_one(self.undone.pop(which % len(self.undone)), answer_is_lost)

    def finish_one(self, undone: Undone, answer_is_lost: bool) -> None:
        claims, before = undone.claims, self.shelf.dump()
        try:
            self.commit(claims.effects)
        except Conflict:
            assert self.shelf.dump() == before
            claims = self.decide(undone.wanted, undone.most)
            self.commit(claims.effects)  # nobody came between
        self.check_answer(undone.wanted, claims)
        if not answer_is_lost:
            for handed_out in claims.keys:
                if not handed_out.is_fallback:
                    device = (handed_out.wanted.user_id, handed_out.wanted.device_id)
                    self.handed_out[device].append(key_digest(handed_out.key))

    def check_answer(self, wanted: tuple[KeyWanted, ...], claims: LocalClaims) -> None:
        assert len(claims.keys) <= len(wanted)
        for handed_out in claims.keys:
            asked = handed_out.wanted
            device = (asked.user_id, asked.device_id)
            assert handed_out.key_id.partition(":")[0] == asked.algorithm
            assert asked.allows_one_time_key or handed_out.is_fallback
            if handed_out.is_fallback:
                record = self.shelf.fallback_keys[device][asked.algorithm]
                assert record.is_used or record.key_id != handed_out.key_id
            else:
                assert handed_out.key_id in self.shelf.claimed[device]

    @rule()
    def crash(self) -> None:
        """Decisions that were not applied are gone; what was applied is not."""
        self.undone.clear()
        self.shelf = Shelf.load(self.disk)

    @invariant()
    def no_key_is_handed_out_twice(self) -> None:
        for digests in getattr(self, "handed_out", {}).values():
            assert len(digests) == len(set(digests))

    @invariant()
    def every_key_is_there_or_was_claimed_and_never_both(self) -> None:
        for device, stored in getattr(self, "stored", {}).items():
            held = [key_digest(one.key) for one in self.shelf.pools.get(device, {}).values()]
            claimed = list(self.shelf.claimed.get(device, {}).values())
            assert sorted(held + claimed) == sorted(stored)


TestOnceEver = OnceEver.TestCase
