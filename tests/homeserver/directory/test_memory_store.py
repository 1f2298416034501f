"""The store in memory: all of some effects or none, and views that nobody can change it through."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given

from matrix_e2e_keys import (
    DeviceSigningUploadRequest,
    KeysUploadRequest,
    LocalProtocolError,
    Reason,
    SignaturesUploadRequest,
    SignedJson,
    add_signature,
)
from matrix_e2e_keys.homeserver.admission.device_signing import decide_device_signing_upload
from matrix_e2e_keys.homeserver.admission.devices import decide_delete_devices, decide_log_in, decide_rename
from matrix_e2e_keys.homeserver.admission.keys_upload import decide_keys_upload
from matrix_e2e_keys.homeserver.admission.signatures import decide_signatures_upload
from matrix_e2e_keys.homeserver.claims.local_claims import PooledKey
from matrix_e2e_keys.homeserver.decisions import Requester
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
from matrix_e2e_keys.homeserver.stored_keys import (
    DeviceRecord,
    FallbackKeyRecord,
    StoredKey,
    UserKeys,
    UserSignature,
    key_digest,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE, BOB, CAROL = (SampleUser(f"@{name}:a.example") for name in ("alice", "bob", "carol"))
PHONE = "PHONE"
OF_PHONE = {"user_id": ALICE.user_id, "device_id": PHONE}
KEYS = ALICE.device(PHONE, cross_signed=False).signed


def key(text: str) -> SignedJson:
    return SignedJson.from_json({"key": text})


def log_in(user: SampleUser = ALICE, device_id: str = PHONE, name: str | None = None) -> StoreDevice:
    return StoreDevice(user_id=user.user_id, device_id=device_id, display_name=name)


def upload(**keys: StoredKey) -> StoreOneTimeKeys:
    return StoreOneTimeKeys(**OF_PHONE, keys={f"alg:{name}": value for name, value in keys.items()})


def take(name: str, of: StoredKey) -> TakeOneTimeKey:
    return TakeOneTimeKey(**OF_PHONE, key_id=f"alg:{name}", digest=key_digest(of))


def fallback(name: str, of: StoredKey) -> StoreFallbackKey:
    return StoreFallbackKey(**OF_PHONE, key_id=f"alg:{name}", key=of)


def used(name: str, of: StoredKey = "1") -> MarkFallbackKeyUsed:
    return MarkFallbackKeyUsed(**OF_PHONE, key_id=f"alg:{name}", digest=key_digest(of))


def identity(user: SampleUser = ALICE) -> list[Effect]:
    return [
        StoreCrossSigningKey(user_id=user.user_id, usage=key.usage, key=key)
        for key in (user.master_key, user.self_signing_key, user.user_signing_key)
    ]


def signature(signer: SampleUser, of: SampleUser, text: str = "x") -> UserSignature:
    return UserSignature(
        signer_id=signer.user_id,
        signer_key_id=str(signer.user_signing_key.key_id),
        user_id=of.user_id,
        master_key_id=str(of.master_key.key_id),
        signature=text,
    )


def key_text(name: str) -> str:
    """Return a key of 32 bytes."""
    return sample_curve25519_key(name).to_base64()


def spellings(name: str) -> set[str]:
    """Return the ways in which a public key may be written: padded or not, in either alphabet."""
    texts = {name, name.replace("+", "-").replace("/", "_")}
    return {*texts, *(f"{text}=" for text in texts)}


def store(*effects: Effect) -> MemoryStore:
    """A store where Alice has a phone."""
    made = MemoryStore()
    made.apply([log_in(), *effects])
    return made


def pooled(made: MemoryStore) -> list[tuple[str, int]]:
    pool = made.pool(**OF_PHONE)
    assert pool is not None
    return [(held.key_id, held.uploaded) for held in pool.one_time_keys]


def refuses(made: MemoryStore, *effects: Any) -> LocalProtocolError:
    """Apply what must be refused as a whole; return why."""
    before = made.to_json()
    with pytest.raises(LocalProtocolError) as caught:
        made.apply([log_in(BOB), *effects])
    assert made.to_json() == before
    assert caught.value.path == "/effects"
    return caught.value


class TestDevices:
    def test_nobody_at_first(self) -> None:
        made = MemoryStore()
        assert (made.user_ids, made.user(ALICE.user_id), made.users([ALICE.user_id])) == (set(), None, {})
        assert made.pool(**OF_PHONE) is None
        assert (made.counts(**OF_PHONE), made.fallback_keys(**OF_PHONE)) == ({}, {})
        view = made.upload_view(ALICE.user_id, PHONE)
        assert (view.user.user_id, view.user.devices, view.counts) == (ALICE.user_id, {}, {})

    def test_a_device_comes_gets_keys_and_another_name_and_goes(self) -> None:
        made = store(log_in(BOB))
        assert made.user_ids == {ALICE.user_id, BOB.user_id}
        made.apply([StoreDeviceKeys(**OF_PHONE, keys=KEYS), log_in(name="Hers")])
        record = DeviceRecord(device_id=PHONE, keys=KEYS, display_name="Hers")
        assert made.users([ALICE.user_id, "@nobody:a.example"])[ALICE.user_id].devices == {PHONE: record}
        made.apply([log_in()])
        user = made.user(ALICE.user_id)
        assert user is not None
        assert user.devices == {PHONE: evolve(record, display_name=None)}
        made.apply([DeleteDevice(**OF_PHONE), DeleteDevice(**OF_PHONE)])
        user = made.user(ALICE.user_id)
        assert user is not None
        assert user.devices == {}
        assert made.user_ids == {ALICE.user_id, BOB.user_id}

    def test_all_that_is_a_device_s_goes_with_it(self) -> None:
        one = key("1")
        made = store(upload(a=one), take("a", one), upload(b=key("2")), fallback("f", key("3")))
        made.apply([DeleteDevice(**OF_PHONE), log_in()])
        view = made.upload_view(ALICE.user_id, PHONE)
        assert (view.one_time_keys, view.counts, view.claimed, view.digests, view.fallback_keys) == ({}, {}, {}, {}, {})

    @pytest.mark.parametrize(
        "effect",
        [
            StoreDeviceKeys(user_id=ALICE.user_id, device_id="GONE", keys=KEYS),
            StoreOneTimeKeys(user_id=ALICE.user_id, device_id="GONE", keys={}),
            StoreFallbackKey(user_id=CAROL.user_id, device_id=PHONE, key_id="alg:a", key="x"),
            MarkFallbackKeyUsed(user_id=ALICE.user_id, device_id="GONE", key_id="alg:a", digest="x"),
            TakeOneTimeKey(user_id=ALICE.user_id, device_id="GONE", key_id="alg:a", digest="x"),
        ],
    )
    def test_nothing_is_stored_for_a_device_that_is_gone(self, effect: Effect) -> None:
        assert refuses(store(), effect).reason is Reason.WRONG_STATE

    @pytest.mark.parametrize("place", range(3))
    def test_no_device_is_called_like_a_key(self, place: int) -> None:
        keys = identity()
        name = keys[place].key.key_id.name  # type: ignore[union-attr]
        made = store(*keys)
        assert refuses(made, log_in(device_id=name)).reason is Reason.WRONG_STATE
        made.apply([DropCrossSigningKey(user_id=ALICE.user_id, usage=keys[place].usage)])  # type: ignore[union-attr]
        refuses(made, log_in(device_id=name))
        made.apply([log_in(BOB, name)])

    def test_no_key_is_called_like_a_device(self) -> None:
        keys = identity()
        made = store(log_in(device_id=ALICE.master_key.key_id.name))
        assert refuses(made, keys[0]).reason is Reason.WRONG_STATE
        made.apply(keys[1:])


class TestIdentities:
    def test_keys_come_and_go_and_are_remembered(self) -> None:
        made = store(*identity())
        user = made.user(ALICE.user_id)
        assert user is not None
        assert (user.master_key, user.self_signing_key, user.user_signing_key) == (
            ALICE.master_key,
            ALICE.self_signing_key,
            ALICE.user_signing_key,
        )
        assert user.earlier_keys == set()
        made.apply(identity(SampleUser(ALICE.user_id, 1))[:2])
        made.apply([DropCrossSigningKey(user_id=ALICE.user_id, usage="user_signing")] * 2)
        user = made.user(ALICE.user_id)
        assert user is not None
        assert user.master_key == SampleUser(ALICE.user_id, 1).master_key
        assert user.user_signing_key is None
        assert user.earlier_keys == {
            old.key_id.name for old in (ALICE.master_key, ALICE.self_signing_key, ALICE.user_signing_key)
        }

    def test_signatures_of_others_are_kept_by_whom_they_are_about(self) -> None:
        made = store(log_in(BOB), log_in(CAROL), *identity(), *identity(BOB))
        made.apply([StoreSignature(signature=signature(ALICE, BOB)), StoreSignature(signature=signature(ALICE, CAROL))])
        made.apply([StoreSignature(signature=signature(ALICE, BOB, "y"))])
        made.apply([StoreSignature(signature=signature(BOB, CAROL))])
        assert self.signed(made, ALICE) == {signature(ALICE, BOB, "y"), signature(ALICE, CAROL)}
        made.apply([DropSignaturesOn(user_id=CAROL.user_id)])
        assert self.signed(made, ALICE) == {signature(ALICE, BOB, "y")}
        assert self.signed(made, BOB) == set()
        made.apply([StoreSignature(signature=signature(BOB, ALICE)), DropSignaturesBy(user_id=ALICE.user_id)])
        assert self.signed(made, ALICE) == set()
        assert self.signed(made, BOB) == {signature(BOB, ALICE)}

    def test_effects_on_several_users_follow_each_other(self) -> None:
        made = store(*identity(), *identity(BOB))
        made.apply(
            [
                StoreSignature(signature=signature(ALICE, BOB)),
                DropSignaturesOn(user_id=BOB.user_id),
                StoreSignature(signature=signature(BOB, ALICE)),
            ]
        )
        assert self.signed(made, ALICE) == set()
        assert self.signed(made, BOB) == {signature(BOB, ALICE)}

    def signed(self, made: MemoryStore, user: SampleUser) -> set[UserSignature]:
        found = made.user(user.user_id)
        assert found is not None
        return set(found.signatures)


class TestOneTimeKeys:
    def test_are_numbered_by_upload(self) -> None:
        made = store(upload(b=key("1"), a=key("2")))
        made.apply([upload(c="text")])
        found = pooled(made)
        assert [name for name, _ in found] == ["alg:b", "alg:a", "alg:c"]
        first, same, later = (number for _, number in found)
        assert first == same < later
        assert made.counts(**OF_PHONE) == {"alg": 3}

    def test_of_one_algorithm_and_another(self) -> None:
        made = store(upload(a="1"))
        made.apply([StoreOneTimeKeys(**OF_PHONE, keys={"other:a": "2", "other:b": "3"})])
        assert made.counts(**OF_PHONE) == {"alg": 1, "other": 2}

    def test_are_taken_once_and_remembered(self) -> None:
        one, two = key("1"), key("2")
        made = store(upload(a=one, b=two))
        made.apply([take("a", one)])
        assert pooled(made) == [("alg:b", pooled(made)[0][1])]
        view = made.upload_view(ALICE.user_id, PHONE)
        assert view.one_time_keys == {"alg:b": two}
        assert view.counts == {"alg": 1}
        assert view.claimed == {"alg:a": key_digest(one)}
        assert view.digests == {key_digest(one): "alg:a", key_digest(two): "alg:b"}
        assert refuses(made, take("a", one)).reason is Reason.WRONG_STATE
        assert refuses(made, take("c", one)).reason is Reason.WRONG_STATE

    def test_an_id_that_is_held_is_not_stored_again(self) -> None:
        made = store(upload(a="1"))
        assert refuses(made, upload(b="2", a="1")).reason is Reason.WRONG_STATE

    @pytest.mark.parametrize("name", ["a", "b"])
    @pytest.mark.parametrize("is_claimed", [False, True])
    def test_a_key_that_is_known_is_not_stored_again(self, name: str, is_claimed: bool) -> None:
        """Attack 46: whatever id it has, and whether it is held or was claimed."""
        one = key("1")
        made = store(upload(a=one), *([take("a", one)] if is_claimed else []))
        signed = SignedJson.from_json({"key": "1", "signatures": {ALICE.user_id: {"ed25519:PHONE": "x"}}})
        for again in (one, signed):
            assert refuses(made, upload(c=key("3"), **{name: again})).reason is Reason.WRONG_STATE

    def test_another_key_under_a_claimed_id_is_for_the_policy_to_judge(self) -> None:
        made = store(upload(a="1"), take("a", "1"))
        made.apply([upload(a="2")])
        assert made.counts(**OF_PHONE) == {"alg": 1}

    def test_another_key_than_the_one_that_is_meant_is_not_taken(self) -> None:
        made = store(upload(a="1"), take("a", "1"), upload(a="2"))
        assert refuses(made, take("a", "1")).reason is Reason.WRONG_STATE
        made.apply([take("a", "2")])

    def test_several_claimed_under_one_id_are_all_remembered(self) -> None:
        made = store(upload(a="1"), take("a", "1"), upload(a="2"), take("a", "2"))
        view = made.upload_view(ALICE.user_id, PHONE)
        assert view.digests == {key_digest("1"): "alg:a", key_digest("2"): "alg:a"}


class TestFallbackKeys:
    def test_replace_each_other_and_are_used(self) -> None:
        made = store(fallback("f", "1"))
        made.apply([used("f"), used("f")])
        expected = FallbackKeyRecord(key_id="alg:f", key="1", is_used=True)
        assert made.fallback_keys(**OF_PHONE) == {"alg": expected}
        assert made.upload_view(ALICE.user_id, PHONE).fallback_keys == {"alg": expected}
        made.apply([fallback("g", "2"), StoreFallbackKey(**OF_PHONE, key_id="other:f", key="3")])
        assert made.fallback_keys(**OF_PHONE) == {
            "alg": FallbackKeyRecord(key_id="alg:g", key="2"),
            "other": FallbackKeyRecord(key_id="other:f", key="3"),
        }
        pool = made.pool(**OF_PHONE)
        assert pool is not None
        assert pool.fallback_keys == made.fallback_keys(**OF_PHONE)

    def test_only_the_one_that_is_there_is_used(self) -> None:
        made = store(fallback("f", "1"), fallback("g", "2"))
        assert refuses(made, used("f")).reason is Reason.WRONG_STATE
        assert refuses(store(), used("f")).reason is Reason.WRONG_STATE
        assert refuses(made, used("f", "2")).reason is Reason.WRONG_STATE


class TestEffects:
    def test_notices_are_for_others(self) -> None:
        made = store()
        before = made.to_json()
        made.apply(
            [
                DeviceChanged(**OF_PHONE),
                IdentityChanged(user_id=CAROL.user_id),
                SignedOthers(user_id=CAROL.user_id),
            ]
        )
        assert made.to_json() == before

    def test_all_or_none(self) -> None:
        made = store(upload(a="1"))
        refuses(
            made,
            log_in(device_id="OTHER"),
            upload(b="2"),
            StoreSignature(signature=signature(ALICE, BOB)),
            *identity(),
            take("a", "1"),
            take("a", "1"),
        )
        made.apply([upload(b="2")])
        assert [number for _, number in pooled(made)] == [1, 2]

    @pytest.mark.parametrize("effect", [None, 7, "text", KEYS, PooledKey(key_id="a:b", key="x", uploaded=1)])
    def test_what_is_no_effect_is_refused(self, effect: object) -> None:
        assert refuses(store(), effect).reason is Reason.WRONG_TYPE

    @pytest.mark.parametrize("effects", [None, 7, True, object(), KEYS])
    def test_what_is_not_several_is_refused(self, effects: object) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            store().apply(effects)  # type: ignore[arg-type]
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/effects")

    @pytest.mark.parametrize(
        "effect",
        [
            log_in(name="x"),
            DeleteDevice(**OF_PHONE),
            StoreDeviceKeys(**OF_PHONE, keys=KEYS),
            fallback("f", "1"),
            identity()[0],
            DropCrossSigningKey(user_id=ALICE.user_id, usage="master"),
            StoreSignature(signature=signature(ALICE, BOB)),
            DropSignaturesBy(user_id=ALICE.user_id),
            DropSignaturesOn(user_id=ALICE.user_id),
        ],
    )
    def test_twice_is_once(self, effect: Effect) -> None:
        made = store(*identity(), *identity(BOB))
        made.apply([effect])
        once = made.user(ALICE.user_id)
        made.apply([effect])
        assert made.user(ALICE.user_id) == once


class TestConditions:
    """What has changed since a decision was made is not overwritten."""

    def test_a_user_who_has_changed(self) -> None:
        made = store()
        views = []
        for effect in (log_in(name="x"), upload(a="1"), fallback("f", "1"), used("f"), take("a", "1"), *identity()):
            user = made.user(ALICE.user_id)
            assert user is not None
            views.append(user)
            made.apply([IfUnchanged(user_id=ALICE.user_id, revision=user.revision or 0), effect])
        for view in views:
            refuses(made, IfUnchanged(user_id=ALICE.user_id, revision=view.revision or 0), log_in(name="y"))

    def revision(self, made: MemoryStore, user: SampleUser = ALICE) -> int:
        view = made.user(user.user_id)
        assert view is not None
        assert view.revision is not None
        assert made.upload_view(user.user_id, PHONE).user.revision == view.revision
        assert made.users([user.user_id])[user.user_id].revision == view.revision
        return view.revision

    @pytest.mark.parametrize(
        "effect",
        [
            log_in(name="x"),
            log_in(device_id="OTHER"),
            DeleteDevice(**OF_PHONE),
            StoreDeviceKeys(**OF_PHONE, keys=KEYS),
            *identity(),
            DropCrossSigningKey(user_id=ALICE.user_id, usage="master"),
        ],
    )
    def test_changes_of_devices_and_of_the_identity_count(self, effect: Effect) -> None:
        made = store()
        before = self.revision(made)
        made.apply([effect])
        assert self.revision(made) == before + 1
        made.apply([log_in(name="y"), effect, log_in(device_id="THIRD")])
        assert self.revision(made) == before + 2

    @pytest.mark.parametrize(
        "effect",
        [
            upload(b="2"),
            fallback("g", "2"),
            take("a", "1"),
            used("f", "0"),
            StoreSignature(signature=signature(ALICE, BOB)),
            DropSignaturesBy(user_id=ALICE.user_id),
            DropSignaturesOn(user_id=BOB.user_id),
            DeviceChanged(**OF_PHONE),
            IdentityChanged(user_id=ALICE.user_id),
            SignedOthers(user_id=ALICE.user_id),
        ],
    )
    def test_nothing_else_counts(self, effect: Effect) -> None:
        """A device that is claimed from all the time can still be given keys."""
        made = store(upload(a="1"), fallback("f", "0"), *identity(), *identity(BOB))
        made.apply([StoreSignature(signature=signature(ALICE, BOB))])
        before = self.revision(made), self.revision(made, BOB)
        made.apply([IfUnchanged(user_id=ALICE.user_id, revision=before[0]), effect])
        assert (self.revision(made), self.revision(made, BOB)) == before

    def test_a_refusal_is_no_change(self) -> None:
        made = store()
        before = self.revision(made)
        refuses(made, log_in(name="x"), take("a", "1"))
        assert self.revision(made) == before

    def test_the_count_survives_a_restart(self) -> None:
        made = store(*identity())
        made.apply([log_in(name="x")])
        restored = MemoryStore.from_json(json.loads(json.dumps(made.to_json())))
        assert self.revision(restored) == self.revision(made)
        refuses(restored, IfUnchanged(user_id=ALICE.user_id, revision=self.revision(made) - 1))

    def test_the_condition_is_about_how_he_was_before_all_of_it(self) -> None:
        made = store()
        revision = self.revision(made)
        condition = IfUnchanged(user_id=ALICE.user_id, revision=revision)
        made.apply([condition, log_in(name="x"), condition, log_in(name="y")])
        assert self.revision(made) == revision + 1
        for other in (revision, revision + 2, -1):
            error = refuses(made, IfUnchanged(user_id=ALICE.user_id, revision=other))
            assert error.reason is Reason.WRONG_STATE

    def test_what_others_do_is_no_change(self) -> None:
        made = store(log_in(BOB))
        user = made.user(ALICE.user_id)
        assert user is not None
        made.apply([log_in(BOB, name="x"), *identity(BOB)])
        made.apply([IfUnchanged(user_id=ALICE.user_id, revision=user.revision or 0), log_in(name="y")])

    def test_nobody_is_unchanged_as_long_as_he_is_not_there(self) -> None:
        made = MemoryStore()
        made.apply([IfUnchanged(user_id=ALICE.user_id, revision=0), log_in()])
        refuses(made, IfUnchanged(user_id=ALICE.user_id, revision=0), log_in(name="y"))

    def test_a_signature_by_a_key_that_is_gone(self) -> None:
        made = store(log_in(BOB))
        assert refuses(made, StoreSignature(signature=signature(ALICE, BOB))).reason is Reason.WRONG_STATE
        made.apply([*identity(), *identity(SampleUser(ALICE.user_id, 1))])
        assert refuses(made, StoreSignature(signature=signature(ALICE, BOB))).reason is Reason.WRONG_STATE

    def test_a_signature_on_a_key_that_is_gone(self) -> None:
        made = store(*identity(), *identity(SampleUser(BOB.user_id, 1)))
        assert refuses(made, StoreSignature(signature=signature(ALICE, BOB))).reason is Reason.WRONG_STATE
        made.apply([*identity(BOB), StoreSignature(signature=signature(ALICE, BOB))])

    def test_a_signature_on_a_key_that_is_not_known_here(self) -> None:
        """The user is one of another server: who decided has asked that server."""
        made = store(*identity())
        made.apply([StoreSignature(signature=signature(ALICE, BOB))])
        user = made.user(ALICE.user_id)
        assert user is not None
        assert user.signatures == (signature(ALICE, BOB),)

    def test_a_signature_beside_another_identity(self) -> None:
        """What is stored in the same transaction counts."""
        new = SampleUser(BOB.user_id, 1)
        made = store(*identity(), *identity(BOB))
        refuses(made, *identity(new), StoreSignature(signature=signature(ALICE, BOB)))
        made.apply([*identity(new), StoreSignature(signature=signature(ALICE, new))])
        assert refuses(made, StoreSignature(signature=signature(ALICE, BOB))).reason is Reason.WRONG_STATE

    def test_two_ids_of_one_key(self) -> None:
        """Attack 46: in one upload as well."""
        made = store()
        text = key_text("new")
        for twice in (("1", "1"), ("1", key("1")), (text, f"{text}="), (key(text), f"{text}=")):
            assert refuses(made, upload(a=twice[0], b=twice[1])).reason is Reason.WRONG_STATE
        made.apply([upload(a="1", b="2")])

    @pytest.mark.parametrize("place", range(3))
    @pytest.mark.parametrize("is_earlier", [False, True])
    def test_no_device_is_called_like_a_key_however_it_is_written(self, place: int, is_earlier: bool) -> None:
        """Attack 25."""
        key_effect = identity()[place]
        assert isinstance(key_effect, StoreCrossSigningKey)
        drop = DropCrossSigningKey(user_id=ALICE.user_id, usage=key_effect.usage)
        made = store(*identity(), *([drop] if is_earlier else []))
        for name in spellings(key_effect.key.key_id.name):
            assert refuses(made, log_in(device_id=name)).reason is Reason.WRONG_STATE
            holding = store(log_in(device_id=name))
            assert refuses(holding, key_effect).reason is Reason.WRONG_STATE

    def test_a_fallback_key_that_is_marked_is_the_one_that_was_seen(self) -> None:
        """Another one may stand under the same id meanwhile."""
        made = store(fallback("f", "1"), fallback("f", "2"))
        assert refuses(made, used("f", "1")).reason is Reason.WRONG_STATE
        made.apply([used("f", "2")])
        assert made.fallback_keys(**OF_PHONE)["alg"].is_used

    def test_a_fallback_key_is_the_same_however_it_is_written(self) -> None:
        text = key_text("f")
        made = store(fallback("f", key(text)), used("f", text), fallback("g", f"{text}="))
        assert made.fallback_keys(**OF_PHONE)["alg"].is_used
        made.apply([fallback("f", "other")])
        assert not made.fallback_keys(**OF_PHONE)["alg"].is_used

    def test_a_fallback_key_that_is_there_stays_used(self) -> None:
        made = store(fallback("f", "1"), used("f"), fallback("g", "1"))
        assert made.fallback_keys(**OF_PHONE) == {"alg": FallbackKeyRecord(key_id="alg:f", key="1", is_used=True)}


class TestRaces:
    """Two decisions on one view: whichever comes second finds that its view does not hold any more."""

    NEW = SampleUser(ALICE.user_id, 1)

    @pytest.fixture
    def made(self) -> MemoryStore:
        """Alice has a phone and a laptop with keys, and an identity that the laptop has signed."""
        made = store(log_in(device_id="LAPTOP"), log_in(BOB), *identity(BOB))
        for name in (PHONE, "LAPTOP"):
            keys = ALICE.device(name, cross_signed=False).signed
            made.apply([StoreDeviceKeys(user_id=ALICE.user_id, device_id=name, keys=keys)])
        made.apply(identity())
        by_laptop = add_signature(
            ALICE.master_key.signed, entity=ALICE.user_id, signer=ALICE.device_signer("LAPTOP")
        ).to_json()
        self.good(made, self.signatures(made, {"master": by_laptop}))
        return made

    def good(self, made: MemoryStore, effects: tuple[Effect, ...]) -> None:
        assert isinstance(effects[0], IfUnchanged)
        made.apply(effects)

    def view(self, made: MemoryStore) -> UserKeys:
        view = made.user(ALICE.user_id)
        assert view is not None
        return view

    def signatures(self, made: MemoryStore, objects: dict[str, Any], other: SampleUser = ALICE) -> tuple[Effect, ...]:
        named = {ALICE.master_key.key_id.name if name == "master" else name: obj for name, obj in objects.items()}
        decision = decide_signatures_upload(
            SignaturesUploadRequest.from_bytes(json.dumps({other.user_id: named})),
            requester=Requester(user_id=ALICE.user_id, device_id="LAPTOP"),
            stored=self.view(made),
            others={BOB.user_id: BOB.master_key},
        )
        assert decision.require().failures == {}
        return decision.effects

    def reset(self, made: MemoryStore, user: SampleUser = NEW) -> tuple[Effect, ...]:
        decision = decide_device_signing_upload(
            DeviceSigningUploadRequest(
                master_key=user.master_key,
                self_signing_key=user.self_signing_key,
                user_signing_key=user.user_signing_key,
            ),
            requester=Requester(user_id=ALICE.user_id, device_id=PHONE, has_authenticated=True),
            stored=self.view(made),
        )
        decision.require()
        return decision.effects

    def upload(self, made: MemoryStore) -> tuple[Effect, ...]:
        keys = ALICE.device(PHONE, cross_signed=False, extra={"x": 1})
        decision = decide_keys_upload(
            KeysUploadRequest(device_keys=keys),
            requester=Requester(user_id=ALICE.user_id, device_id=PHONE),
            view=made.upload_view(ALICE.user_id, PHONE),
        )
        decision.require()
        return decision.effects

    def decided(self, made: MemoryStore) -> dict[str, tuple[Effect, ...]]:
        """Everything that a view can be the ground of."""
        return {
            "other device keys": self.upload(made),
            "a signature on a device": self.signatures(made, {PHONE: ALICE.device(PHONE).to_json()}),
            "a signature on somebody": self.signatures(
                made, {BOB.master_key.key_id.name: ALICE.verified(BOB.master_key).to_json()}, BOB
            ),
            "another identity": self.reset(made),
            "another name": decide_rename(PHONE, stored=self.view(made), display_name="x"),
            "a log-in": decide_log_in("TABLET", stored=self.view(made)),
            "a deletion": self.delete(made),
        }

    PAIRS = (
        ("other device keys", "a signature on a device"),
        ("a signature on a device", "other device keys"),
        ("another identity", "a signature on a device"),
        ("another identity", "a signature on somebody"),
        ("another identity", "other device keys"),
        ("another identity", "a deletion"),
        ("a deletion", "another identity"),
        ("a deletion", "a signature on a device"),
        ("a deletion", "another name"),
        ("a log-in", "another identity"),
        ("another name", "other device keys"),
    )

    @pytest.mark.parametrize(("first", "second"), PAIRS)
    def test_the_second_is_to_decide_again(self, made: MemoryStore, first: str, second: str) -> None:
        decided = self.decided(made)
        self.good(made, decided[first])
        assert isinstance(decided[second][0], IfUnchanged)
        assert refuses(made, *decided[second]).reason is Reason.WRONG_STATE

    def test_whoever_decides_again_is_done(self, made: MemoryStore) -> None:
        decided = self.decided(made)
        self.good(made, decided["a log-in"])
        again: dict[str, Callable[[], tuple[Effect, ...]]] = {
            "other device keys": lambda: self.upload(made),
            "another name": lambda: decide_rename(PHONE, stored=self.view(made), display_name="x"),
            "another identity": lambda: self.reset(made),
            "a deletion": lambda: self.delete(made),
        }
        for what, decide in again.items():
            refuses(made, *decided[what])
            self.good(made, decide())
        view = self.view(made)
        assert view.master_key == self.NEW.master_key
        assert {name: device.display_name for name, device in view.devices.items()} == {PHONE: "x", "TABLET": None}

    def delete(self, made: MemoryStore) -> tuple[Effect, ...]:
        return decide_delete_devices(["LAPTOP"], stored=self.view(made))

    def test_a_device_that_is_gone_is_not_back(self, made: MemoryStore) -> None:
        rename = decide_rename("LAPTOP", stored=self.view(made), display_name="x")
        self.good(made, decide_delete_devices(["LAPTOP"], stored=self.view(made)))
        refuses(made, *rename)
        assert list(self.view(made).devices) == [PHONE]

    def test_a_master_key_that_is_gone_is_not_back(self, made: MemoryStore) -> None:
        """The deletion of a device that has signed it stores it anew."""
        delete = decide_delete_devices(["LAPTOP"], stored=self.view(made))
        assert any(isinstance(effect, StoreCrossSigningKey) for effect in delete)
        self.good(made, self.reset(made))
        refuses(made, *delete)
        assert self.view(made).master_key == self.NEW.master_key

    def test_two_first_identities(self) -> None:
        """Attack 41: only one of them is the first, for which nobody has to prove anything."""
        made = store()
        first, second = self.reset(made, ALICE), self.reset(made, self.NEW)
        self.good(made, first)
        refuses(made, *second)
        assert self.view(made).master_key == ALICE.master_key

    def test_claims_meanwhile_stand_in_nobody_s_way(self, made: MemoryStore) -> None:
        made.apply([upload(a="1", b="2")])
        effects = self.upload(made)
        made.apply([take("a", "1")])
        self.good(made, effects)


class TestViews:
    def test_do_not_change_with_the_store(self) -> None:
        made = store(upload(a="1"), fallback("f", "1"), *identity())
        views = made.user(ALICE.user_id), made.upload_view(ALICE.user_id, PHONE), made.pool(**OF_PHONE)
        before = copy.copy(views)
        described = repr(views)
        made.apply(
            [
                upload(b="2"),
                take("a", "1"),
                used("f"),
                log_in(device_id="OTHER"),
                DropSignaturesBy(user_id=ALICE.user_id),
            ]
        )
        made.apply([DeleteDevice(**OF_PHONE)])
        assert views == before
        assert repr(views) == described

    def test_the_store_does_not_change_with_them(self) -> None:
        made = store(upload(a="1"), fallback("f", "1"))
        made.fallback_keys(**OF_PHONE).clear()  # type: ignore[attr-defined]
        made.counts(**OF_PHONE).clear()  # type: ignore[attr-defined]
        made.users([ALICE.user_id]).clear()
        assert list(made.fallback_keys(**OF_PHONE)) == ["alg"]
        assert made.counts(**OF_PHONE) == {"alg": 1}
        assert made.user_ids == {ALICE.user_id}

    def test_of_a_token_without_a_device(self) -> None:
        view = store(upload(a="1")).upload_view(ALICE.user_id, None)
        assert (view.counts, list(view.user.devices)) == ({}, [PHONE])


class TestStoring:
    def filled(self) -> MemoryStore:
        one = key("1")
        made = store(log_in(BOB, name="His"), *identity(), StoreDeviceKeys(**OF_PHONE, keys=KEYS))
        made.apply([upload(a=one, b="2"), fallback("f", key("3")), StoreSignature(signature=signature(ALICE, BOB))])
        made.apply([take("a", one), used("f", key("3")), upload(c=key("4"))])
        made.apply(identity(SampleUser(ALICE.user_id, 1))[:1])
        return made

    def test_everything_comes_back(self) -> None:
        made = self.filled()
        restored = MemoryStore.from_json(json.loads(json.dumps(made.to_json())))
        assert restored.to_json() == made.to_json()
        for user in (ALICE, BOB):
            assert restored.user(user.user_id) == made.user(user.user_id)
        assert restored.upload_view(ALICE.user_id, PHONE) == made.upload_view(ALICE.user_id, PHONE)
        assert restored.pool(**OF_PHONE) == made.pool(**OF_PHONE)
        for each in (made, restored):
            each.apply([upload(d="5")])
        assert pooled(restored) == pooled(made)

    @pytest.mark.parametrize(
        ("at", "value", "path"),
        [
            (["version"], 2, "/version"),
            (["uploads"], None, "/uploads"),
            (["users"], [], "/users"),
            ([ALICE.user_id], 7, ""),
            ([ALICE.user_id, "earlier"], [7], "/earlier"),
            ([ALICE.user_id, "keys"], {"master": 7}, "/keys/master"),
            ([ALICE.user_id, "keys"], {"master": {}}, "/keys/master"),
            ([ALICE.user_id, "keys"], {"master": ALICE.self_signing_key.to_json()}, "/keys/master"),
            ([ALICE.user_id, "keys"], {"other": ALICE.self_signing_key.to_json()}, "/keys/other"),
            ([ALICE.user_id, "keys"], {"master": BOB.master_key.to_json()}, ""),
            ([ALICE.user_id, "revision"], "1", "/revision"),
            ([ALICE.user_id, "signatures", BOB.user_id], [], f"/signatures/{BOB.user_id}"),
            ([ALICE.user_id, "signatures", BOB.user_id], ["a", "b", "c", "d"], f"/signatures/{BOB.user_id}"),
            ([ALICE.user_id, "signatures", BOB.user_id], [ALICE.user_id, 1, "c", "d"], f"/signatures/{BOB.user_id}"),
            ([ALICE.user_id, "devices", PHONE, "display_name"], 7, f"/devices/{PHONE}/display_name"),
            ([ALICE.user_id, "devices", PHONE, "keys"], {"x": 1.5}, f"/devices/{PHONE}/keys"),
            ([ALICE.user_id, "devices", PHONE, "keys"], "text", f"/devices/{PHONE}/keys"),
            ([ALICE.user_id, "devices", PHONE, "given"], {"x": 7}, f"/devices/{PHONE}/given/x"),
            ([ALICE.user_id, "devices", PHONE, "one_time_keys"], {"a:b": [1]}, f"/devices/{PHONE}/one_time_keys/a:b"),
            (
                [ALICE.user_id, "devices", PHONE, "one_time_keys"],
                {"a:b": ["1", "text"]},
                f"/devices/{PHONE}/one_time_keys/a:b",
            ),
            (
                [ALICE.user_id, "devices", PHONE, "one_time_keys"],
                {"a:b": [1, 7]},
                f"/devices/{PHONE}/one_time_keys/a:b",
            ),
            (
                [ALICE.user_id, "devices", PHONE, "fallback_keys"],
                {"alg": {"key_id": "alg:f", "key": "x", "is_used": 1}},
                f"/devices/{PHONE}/fallback_keys/alg",
            ),
            (
                [ALICE.user_id, "devices", PHONE, "fallback_keys"],
                {"alg": {"key_id": "alg:f", "key": None, "is_used": True}},
                f"/devices/{PHONE}/fallback_keys/alg",
            ),
        ],
    )
    def test_a_damaged_place_is_named(self, at: list[str], value: object, path: str) -> None:
        stored = self.filled().to_json()
        place: Any = stored if at[0] in stored else stored["users"]
        for name in at[:-1]:
            place = place[name]
        place[at[-1]] = value
        with pytest.raises(LocalProtocolError) as caught:
            MemoryStore.from_json(stored)
        expected = path if at[0] in stored else f"/users/{ALICE.user_id}{path}"
        assert caught.value.path.startswith(expected)

    @pytest.mark.parametrize("more", [0, 1])
    def test_no_upload_is_later_than_the_last(self, more: int) -> None:
        stored = self.filled().to_json()
        stored["users"][ALICE.user_id]["devices"][PHONE]["one_time_keys"]["alg:b"][0] = stored["uploads"] + more
        if more:
            with pytest.raises(LocalProtocolError):
                MemoryStore.from_json(stored)
        else:
            assert MemoryStore.from_json(stored).to_json() == stored

    def test_users_are_users(self) -> None:
        stored = self.filled().to_json()
        stored["users"]["nobody"] = stored["users"].pop(BOB.user_id)
        with pytest.raises(LocalProtocolError) as caught:
            MemoryStore.from_json(stored)
        assert caught.value.path.startswith("/users/nobody")

    def test_devices_are_devices(self) -> None:
        stored = self.filled().to_json()
        stored["users"][BOB.user_id]["devices"][""] = stored["users"][BOB.user_id]["devices"][PHONE]
        with pytest.raises(LocalProtocolError) as caught:
            MemoryStore.from_json(stored)
        assert caught.value.path.startswith(f"/users/{BOB.user_id}")

    @pytest.mark.parametrize(
        ("reason", "change"),
        [
            # Signed by somebody else.
            (Reason.USER_ID_MISMATCH, lambda alice: alice["signatures"][BOB.user_id].__setitem__(0, BOB.user_id)),
            (
                Reason.IDENTIFIER_COLLISION,
                lambda alice: alice["devices"].update({ALICE.user_signing_key.key_id.name: alice["devices"][PHONE]}),
            ),
            (
                Reason.IDENTIFIER_COLLISION,
                lambda alice: alice["devices"].update({f"{ALICE.master_key.key_id.name}=": alice["devices"][PHONE]}),
            ),
            (
                Reason.INVALID_KEY_ID,
                lambda alice: alice["devices"][PHONE]["fallback_keys"].update(
                    other=alice["devices"][PHONE]["fallback_keys"]["alg"]
                ),
            ),
            # Later than the last upload.
            (
                Reason.INVALID_VALUE,
                lambda alice: alice["devices"][PHONE]["one_time_keys"]["alg:b"].__setitem__(0, 10**9),
            ),
        ],
    )
    def test_what_could_not_have_been_stored_is_not_read(self, reason: Reason, change: Any) -> None:
        stored = self.filled().to_json()
        change(stored["users"][ALICE.user_id])
        with pytest.raises(LocalProtocolError) as caught:
            MemoryStore.from_json(json.loads(json.dumps(stored)))
        assert caught.value.reason is reason
        assert caught.value.path.startswith(f"/users/{ALICE.user_id}")

    @given(json_like_values())
    def test_nothing_else_is_raised(self, obj: object) -> None:
        whole = self.filled().to_json()
        user = whole["users"][ALICE.user_id]
        damaged = [obj, *({**whole, name: obj} for name in whole)]
        damaged += [{**whole, "users": {ALICE.user_id: {**user, name: obj}}} for name in user]
        device = user["devices"][PHONE]
        for name in device:
            changed = {**user, "devices": {PHONE: {**device, name: obj}}}
            damaged.append({**whole, "users": {ALICE.user_id: changed}})
        for stored in damaged:
            with contextlib.suppress(LocalProtocolError):
                MemoryStore.from_json(stored)
