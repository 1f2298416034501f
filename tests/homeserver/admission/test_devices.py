"""Devices come with a log-in, are renamed, and go without leaving anything behind."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from matrix_e2e_keys import CrossSigningKey, Ed25519PublicKey, LocalProtocolError, MatrixError
from matrix_e2e_keys.homeserver.admission.devices import decide_delete_devices, decide_log_in, decide_rename
from matrix_e2e_keys.homeserver.effects import (
    DeleteDevice,
    DeviceChanged,
    Effect,
    IdentityChanged,
    IfUnchanged,
    StoreCrossSigningKey,
    StoreDevice,
)
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, STRICT, Policy
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
NAME = sample_secret_key("identity").public_key.to_base64()


def alice(*device_ids: str, **members: Any) -> UserKeys:
    """Alice, with devices that have keys and are called "Old"."""
    devices = {
        name: DeviceRecord(device_id=name, keys=ALICE.device(name).signed, display_name="Old") for name in device_ids
    }
    return UserKeys(user_id=ALICE.user_id, devices=devices, **members)


def master_key(*device_ids: str) -> CrossSigningKey:
    """Alice's master key, signed by itself, by some devices and by Bob."""
    signed = ALICE.master_key.signed
    for signer in [*map(ALICE.device_signer, device_ids), ALICE.secret("master").cross_signer()]:
        signed = add_signature(signed, entity=ALICE.user_id, signer=signer)
    return BOB.verified(ALICE.master_key.with_signed(signed))


def named(device_id: str, display_name: str | None) -> tuple[Effect, ...]:
    return (
        StoreDevice(user_id=ALICE.user_id, device_id=device_id, display_name=display_name),
        DeviceChanged(user_id=ALICE.user_id, device_id=device_id),
    )


def public_key(seed: str) -> Ed25519PublicKey:
    return sample_secret_key(seed).public_key


def refused(call: Any, *args: Any, **kwargs: Any) -> tuple[int, str | None, str]:
    with pytest.raises(MatrixError) as caught:
        call(*args, **kwargs)
    return caught.value.status, caught.value.errcode, caught.value.error


class TestLogIn:
    @pytest.mark.parametrize("display_name", [None, "", "Phone", "x" * 100, "\N{GRINNING FACE}" * 100])
    def test_a_new_device(self, display_name: str | None) -> None:
        effects = decide_log_in("PHONE", stored=alice("TABLET"), display_name=display_name)
        assert effects == named("PHONE", display_name)

    @pytest.mark.parametrize("display_name", [None, "New"])
    def test_a_device_that_is_there_stays_as_it_is(self, display_name: str | None) -> None:
        assert decide_log_in("PHONE", stored=alice("PHONE"), display_name=display_name) == ()

    @pytest.mark.parametrize("policy", [COMPAT, SPEC, STRICT])
    @pytest.mark.parametrize("usage", ["master", "self_signing", "user_signing", "earlier"])
    def test_no_device_is_called_like_a_cross_signing_key(self, policy: Policy, usage: str) -> None:
        """Attack 25: one that the user has, or had; also if there is such a device."""
        members: dict[str, Any] = {"earlier_keys": frozenset({NAME})}
        if usage != "earlier":
            key = sample_secret_key("identity").public_key
            members = {
                f"{usage}_key": CrossSigningKey.build(user_id=ALICE.user_id, usage=usage, public_key=key)  # type: ignore[arg-type]
            }
        for stored in (alice(**members), alice(NAME, **members)):
            answer = refused(decide_log_in, NAME, stored=stored, policy=policy)
            assert answer == (400, "M_FORBIDDEN", "The device ID is in use")
        assert decide_log_in(NAME, stored=alice(), policy=policy)

    @pytest.mark.parametrize("usage", ["master", "self_signing", "user_signing", "earlier"])
    def test_however_it_is_written(self, usage: str) -> None:
        """Attack 25: with padding, and in the alphabet for URLs."""
        seeds = [f"identity {number}" for number in range(20)]
        key = next(key for key in map(public_key, seeds) if set("+/") & set(key.to_base64()))
        name = key.to_base64()
        members: dict[str, Any] = {"earlier_keys": frozenset({name})}
        if usage != "earlier":
            members = {
                f"{usage}_key": CrossSigningKey.build(user_id=ALICE.user_id, usage=usage, public_key=key)  # type: ignore[arg-type]
            }
        in_urls = name.replace("+", "-").replace("/", "_")
        assert in_urls != name
        for device_id in (f"{name}=", in_urls, f"{in_urls}="):
            answer = refused(decide_log_in, device_id, stored=alice(**members))
            assert answer == (400, "M_FORBIDDEN", "The device ID is in use")
        assert decide_log_in(name[:-1], stored=alice(**members))

    @pytest.mark.parametrize("device_id", ["", "x" * 513, "\ud800"])
    def test_what_is_no_device_id(self, device_id: str) -> None:
        assert refused(decide_log_in, device_id, stored=alice())[:2] == (400, "M_INVALID_PARAM")

    def test_the_longest_device_id(self) -> None:
        assert decide_log_in("x" * 512, stored=alice()) == named("x" * 512, None)

    @pytest.mark.parametrize(("display_name", "errcode"), [("x" * 101, "M_TOO_LARGE"), ("a\ud800", "M_INVALID_PARAM")])
    def test_what_is_no_name(self, display_name: str, errcode: str) -> None:
        assert refused(decide_log_in, "A", stored=alice(), display_name=display_name)[:2] == (400, errcode)

    @pytest.mark.parametrize("limit", [1, 2])
    def test_a_device_that_could_never_have_keys(self, limit: int) -> None:
        """Attack 48. Devices without keys are not counted, and those that are there are no matter."""
        policy = evolve(SPEC, limits=evolve(SPEC.limits, devices_per_user=limit))
        stored = alice("A")
        stored = evolve(stored, devices={**stored.devices, "B": DeviceRecord(device_id="B")})
        assert decide_log_in("A", stored=stored, policy=policy) == ()
        if limit == 2:
            assert decide_log_in("C", stored=stored, policy=policy) == named("C", None)
        else:
            assert refused(decide_log_in, "C", stored=stored, policy=policy)[:2] == (400, "M_TOO_LARGE")


class TestRename:
    def test_another_name(self) -> None:
        stored = alice("PHONE")
        assert decide_rename("PHONE", stored=stored, display_name="New") == named("PHONE", "New")
        assert decide_rename("PHONE", stored=stored, display_name="") == named("PHONE", "")

    @pytest.mark.parametrize("display_name", [None, "Old"])
    def test_no_other_name_changes_nothing(self, display_name: str | None) -> None:
        assert decide_rename("PHONE", stored=alice("PHONE"), display_name=display_name) == ()

    def test_an_unknown_device(self) -> None:
        answer = refused(decide_rename, "TABLET", stored=alice("PHONE"), display_name="x" * 101)
        assert answer == (404, "M_NOT_FOUND", "Unknown device")

    @pytest.mark.parametrize(("length", "is_good"), [(100, True), (101, False)])
    def test_the_longest_name(self, length: int, is_good: bool) -> None:
        name = "x" * length
        if is_good:
            assert decide_rename("PHONE", stored=alice("PHONE"), display_name=name) == named("PHONE", name)
        else:
            answer = refused(decide_rename, "PHONE", stored=alice("PHONE"), display_name=name)
            assert answer == (400, "M_TOO_LARGE", "Device display name is too long (max 100)")


class TestConditions:
    """What is decided holds only if the user is still as he was seen."""

    CONDITION = IfUnchanged(user_id=ALICE.user_id, revision=7)

    def decide_all(self, revision: int | None) -> list[tuple[Effect, ...]]:
        stored = alice("A", "B", master_key=master_key("A"), revision=revision)
        return [
            decide_log_in("C", stored=stored),
            decide_rename("A", stored=stored, display_name="New"),
            decide_delete_devices(["A"], stored=stored),
            decide_delete_devices(["B"], stored=stored),
        ]

    def test_are_told_first(self) -> None:
        for with_revision, without in zip(self.decide_all(7), self.decide_all(None), strict=True):
            assert without
            assert not any(isinstance(effect, IfUnchanged) for effect in without)
            assert with_revision == (self.CONDITION, *without)

    def test_are_not_told_where_nothing_is_done(self) -> None:
        stored = alice("A", revision=7)
        assert decide_log_in("A", stored=stored) == ()
        assert decide_rename("A", stored=stored, display_name="Old") == ()
        assert decide_delete_devices(["GONE"], stored=stored) == ()


class TestDelete:
    def test_what_is_there_goes_once(self) -> None:
        effects = decide_delete_devices(["B", "A", "GONE", "B"], stored=alice("A", "B", "C"))
        assert effects == (
            DeleteDevice(user_id=ALICE.user_id, device_id="B"),
            DeleteDevice(user_id=ALICE.user_id, device_id="A"),
            DeviceChanged(user_id=ALICE.user_id, device_id="B"),
            DeviceChanged(user_id=ALICE.user_id, device_id="A"),
        )

    def test_the_signature_on_the_master_key_goes_too(self) -> None:
        """A device that comes later under the same id must not look as if it had signed anything."""
        stored = alice("A", "B", master_key=master_key("A", "B"))
        _, effect, *notices = decide_delete_devices(["A"], stored=stored)
        assert isinstance(effect, StoreCrossSigningKey)
        assert (effect.user_id, effect.usage, effect.key) == (ALICE.user_id, "master", ALICE.master_key)
        assert effect.key.signed.signatures == master_key("B").signed.signatures
        assert notices == [
            DeviceChanged(user_id=ALICE.user_id, device_id="A"),
            IdentityChanged(user_id=ALICE.user_id),
        ]

    def test_a_signature_that_was_left_behind_goes_too(self) -> None:
        effects = decide_delete_devices(["A"], stored=alice(master_key=master_key("A")))
        assert [type(effect) for effect in effects] == [StoreCrossSigningKey, IdentityChanged]

    def test_the_master_key_signs_itself_still(self) -> None:
        """Attack 25: its name among the device ids changes nothing."""
        name = ALICE.master_public_key.to_base64()
        assert decide_delete_devices([name], stored=alice(master_key=master_key())) == ()

    @pytest.mark.parametrize("key", [None, ALICE.master_key, master_key("B")])
    def test_a_master_key_without_it_stays(self, key: CrossSigningKey | None) -> None:
        effects = decide_delete_devices(["A"], stored=alice("A", master_key=key))
        assert [type(effect) for effect in effects] == [DeleteDevice, DeviceChanged]

    def test_a_device_with_the_same_id_starts_clean(self) -> None:
        stored = alice("A", master_key=master_key("A"))
        effects = decide_delete_devices(["A"], stored=stored)
        (key,) = [effect.key for effect in effects if isinstance(effect, StoreCrossSigningKey)]
        after = evolve(stored, devices={}, master_key=key)
        assert decide_log_in("A", stored=after) == named("A", None)
        assert decide_delete_devices(["A"], stored=after) == ()

    def test_nobody(self) -> None:
        assert decide_delete_devices([], stored=alice("A", master_key=master_key("A"))) == ()


@pytest.mark.parametrize(
    ("call", "arguments", "path"),
    [
        (decide_log_in, {"device_id": 5}, "/device_id"),
        (decide_log_in, {"display_name": 5}, "/display_name"),
        (decide_log_in, {"stored": None}, "/stored"),
        (decide_log_in, {"policy": None}, "/policy"),
        (decide_rename, {"device_id": None}, "/device_id"),
        (decide_rename, {"display_name": b""}, "/display_name"),
        (decide_rename, {"stored": {}}, "/stored"),
        (decide_delete_devices, {"device_ids": "A"}, "/device_ids"),
        (decide_delete_devices, {"device_ids": None}, "/device_ids"),
        (decide_delete_devices, {"device_ids": ["A", 5]}, "/device_ids/1"),
        (decide_delete_devices, {"stored": None}, "/stored"),
    ],
)
def test_wrong_arguments(call: Any, arguments: dict[str, Any], path: str) -> None:
    good: dict[str, Any] = {"device_ids": ["A"]} if call is decide_delete_devices else {"device_id": "A"}
    if call is decide_rename:
        good["display_name"] = "x"
    with pytest.raises(LocalProtocolError) as caught:
        call(**{"stored": alice("A"), **good, **arguments})
    assert caught.value.path == path
