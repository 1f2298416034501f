"""What is known of one user: a value that holds together, and that storage is not trusted with."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import DeviceKeys, E2EKeysError, LocalProtocolError, Reason, UserIdentity, VerifiedDevice
from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.client.users.identity import IdentityPin, IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust, check_known_users
from matrix_e2e_keys.errors import json_pointer
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
RESET = SampleUser(ALICE.user_id, generation=1)
BOB = SampleUser("@bob:b.example")
OLD_KEY = sample_secret_key("old").public_key
TABLET_KEY = sample_secret_key("tablet").public_key


def identity_of(user: SampleUser, **keys: Any) -> UserIdentity:
    given: dict[str, Any] = {
        "master_key": user.master_key,
        "self_signing_key": user.self_signing_key,
        "user_signing_key": user.user_signing_key,
    }
    return UserIdentity.verify(**{**given, **keys})


def device(device_id: str, *, user: SampleUser = ALICE, by: SampleUser | None = ALICE) -> VerifiedDevice:
    """A device of a user, cross-signed by an identity."""
    keys = user.device(device_id, cross_signed=False) if by is None else by.device(device_id)
    return keys.verify(identity=None if by is None else identity_of(by))


PHONE, LAPTOP = device("PHONE"), device("LAPTOP", by=None)
PIN = IdentityPin().observe(ALICE.master_public_key, vouched_for=False)


def alice(**changes: Any) -> KnownUser:
    members: dict[str, Any] = {
        "user_id": ALICE.user_id,
        "devices": {"PHONE": PHONE, "LAPTOP": LAPTOP},
        "removed_devices": {"OLD": OLD_KEY},
        "identity": identity_of(ALICE),
        "pin": PIN,
        "local_trust": {LAPTOP.ed25519_key: LocalTrust.BLACKLISTED, OLD_KEY: LocalTrust.VERIFIED},
        "collision": None,
    }
    return KnownUser(**{**members, **changes})


class TestTheValue:
    def test_nothing_is_known_at_first(self) -> None:
        user = KnownUser(user_id=ALICE.user_id)
        assert (user.devices, user.removed_devices, user.local_trust) == ({}, {}, {})
        assert (user.identity, user.pin, user.collision) == (None, IdentityPin(), None)
        assert repr(user) == "<KnownUser '@alice:a.example', 0 devices, identity unknown>"

    def test_which_devices_the_identity_signed(self) -> None:
        assert alice().cross_signed_devices == {"PHONE"}
        assert repr(alice()) == "<KnownUser '@alice:a.example', 2 devices, identity pinned>"

    def test_nobody_changes_it(self) -> None:
        devices = {"PHONE": PHONE}
        user: Any = alice(devices=devices)
        devices.clear()
        assert set(user.devices) == {"PHONE"}
        for name in ("devices", "removed_devices", "local_trust"):
            assert type(getattr(user, name)) is FrozenMap
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            user.identity = None

    @pytest.mark.parametrize(
        ("changes", "reason", "path"),
        [
            ({"user_id": "alice"}, Reason.INVALID_IDENTIFIER, "/user_id"),
            ({"user_id": 5}, Reason.WRONG_TYPE, "/user_id"),
            ({"identity": identity_of(BOB)}, Reason.WRONG_TYPE, "/identity"),
            ({"identity": ALICE}, Reason.WRONG_TYPE, "/identity"),
            ({"identity": None}, Reason.INVALID_VALUE, "/pin"),
            ({"pin": IdentityPin()}, Reason.INVALID_VALUE, "/pin"),
            ({"pin": None}, Reason.INVALID_VALUE, "/pin"),
            ({"pin": PIN.observe(RESET.master_public_key, vouched_for=False)}, Reason.INVALID_VALUE, "/pin"),
            ({"collision": 5}, Reason.WRONG_TYPE, "/collision"),
            ({"devices": None}, Reason.WRONG_TYPE, "/devices"),
            ({"devices": [PHONE]}, Reason.WRONG_TYPE, "/devices"),
            ({"devices": {5: PHONE}}, Reason.WRONG_TYPE, "/devices"),
            ({"devices": {"PHONE": PHONE.keys}}, Reason.WRONG_TYPE, "/devices"),
            ({"devices": {"LAPTOP": PHONE}}, Reason.DEVICE_ID_MISMATCH, "/devices/LAPTOP"),
            ({"devices": {"a/b": device("X", user=BOB, by=None)}}, Reason.DEVICE_ID_MISMATCH, "/devices/a~1b"),
            ({"devices": {"X": device("X", user=BOB, by=None)}}, Reason.DEVICE_ID_MISMATCH, "/devices/X"),
            ({"devices": {"PHONE": device("PHONE", by=RESET)}}, Reason.INVALID_VALUE, "/devices/PHONE"),
            ({"identity": None, "pin": IdentityPin()}, Reason.INVALID_VALUE, "/devices/PHONE"),
            ({"removed_devices": {"OLD": OLD_KEY.raw}}, Reason.WRONG_TYPE, "/removed_devices"),
            ({"removed_devices": {None: OLD_KEY}}, Reason.WRONG_TYPE, "/removed_devices"),
            ({"removed_devices": 5}, Reason.WRONG_TYPE, "/removed_devices"),
            ({"local_trust": {OLD_KEY: "verified"}}, Reason.WRONG_TYPE, "/local_trust"),
            ({"local_trust": {"OLD": LocalTrust.VERIFIED}}, Reason.WRONG_TYPE, "/local_trust"),
            ({"local_trust": set()}, Reason.WRONG_TYPE, "/local_trust"),
        ],
    )
    def test_it_holds_together(self, changes: dict[str, Any], reason: Reason, path: str) -> None:
        """Attack 31: a device or an identity of somebody else, or a cross-signature of another identity."""
        with pytest.raises(LocalProtocolError) as caught:
            alice(**changes)
        assert (caught.value.reason, caught.value.path) == (reason, path)


class TestDecisions:
    def test_it_belongs_to_the_signing_key(self) -> None:
        """Attack 34: whoever takes over a device id does not take over what was decided about the device."""
        user = alice()
        assert user.trust_of("LAPTOP") is LocalTrust.BLACKLISTED
        assert user.trust_of("PHONE") is LocalTrust.UNSET
        assert user.trust_of("OLD") is LocalTrust.UNSET
        other = alice(
            devices={"LAPTOP": SampleUser(BOB.user_id).device("LAPTOP").verify()},
            user_id=BOB.user_id,
            identity=None,
            pin=IdentityPin(),
        )
        assert other.trust_of("LAPTOP") is LocalTrust.UNSET

    def test_deciding(self) -> None:
        user = alice().with_trust(PHONE.ed25519_key, LocalTrust.IGNORED)
        assert user.trust_of("PHONE") is LocalTrust.IGNORED
        assert user.trust_of("LAPTOP") is LocalTrust.BLACKLISTED
        assert user.with_trust(PHONE.ed25519_key, LocalTrust.VERIFIED).trust_of("PHONE") is LocalTrust.VERIFIED
        assert user.with_trust(PHONE.ed25519_key, LocalTrust.UNSET) == alice()
        assert alice().with_trust(PHONE.ed25519_key, LocalTrust.UNSET) == alice()

    def test_about_a_device_that_comes_later(self) -> None:
        user = alice().with_trust(TABLET_KEY, LocalTrust.VERIFIED)
        assert user.local_trust[TABLET_KEY] is LocalTrust.VERIFIED

    def test_another_pin(self) -> None:
        user = alice()
        assert user.with_pin(PIN) is user
        verified = user.with_pin(PIN.review(vouched_for=True))
        assert verified.pin.state is IdentityState.VERIFIED
        assert verified.with_pin(PIN) == user

    def test_making_room_for_a_new_key(self) -> None:
        """Attack 34: it takes a decision; what was decided about the old key stays with that."""
        user = alice().without_device("LAPTOP")
        assert set(user.devices) == {"PHONE"}
        assert user.removed_devices == {"OLD": OLD_KEY}
        assert user.local_trust == alice().local_trust
        assert alice().without_device("OLD").removed_devices == {}
        assert set(alice().without_device("OLD").devices) == {"PHONE", "LAPTOP"}
        assert alice().without_device("NEVER") == alice()


class TestManyUsers:
    def test_each_under_the_own_name(self) -> None:
        known = {ALICE.user_id: alice()}
        assert check_known_users(known) is known
        assert check_known_users({}) == {}

    @pytest.mark.parametrize(
        ("known", "reason", "path"),
        [
            (None, Reason.WRONG_TYPE, "/known"),
            ([alice()], Reason.WRONG_TYPE, "/known"),
            ({5: alice()}, Reason.WRONG_TYPE, "/known"),
            ({ALICE.user_id: alice().to_json()}, Reason.WRONG_TYPE, "/known"),
            ({BOB.user_id: alice()}, Reason.USER_ID_MISMATCH, "/known/@bob:b.example"),
            ({"x/y": alice()}, Reason.USER_ID_MISMATCH, "/known/x~1y"),
        ],
    )
    def test_nothing_else(self, known: Any, reason: Reason, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            check_known_users(known)
        assert (caught.value.reason, caught.value.path) == (reason, path)


STORED = alice(collision="LAPTOP").to_json()
EMPTY = KnownUser(user_id=ALICE.user_id).to_json()


def damaged(path: str, value: Any) -> dict[str, Any]:
    """What was stored, with ``value`` where ``path`` points to."""
    tree: Any = copy.deepcopy(STORED)
    *above, last = [name.replace("~1", "/").replace("~0", "~") for name in path.split("/")[1:]]
    inner = tree
    for name in above:
        inner = inner[name]
    inner[last] = value
    return tree  # type: ignore[no-any-return]


MASTER_NAME = ALICE.master_key.key_name
OLD_TEXT, LAPTOP_TEXT = OLD_KEY.to_base64(), LAPTOP.ed25519_key.to_base64()
SSK_SIGNATURE = json_pointer(["identity", "self_signing_key", "signatures", ALICE.user_id, MASTER_NAME])
PHONE_SIGNATURE = "/devices/PHONE/signatures/@alice:a.example/ed25519:PHONE"


class TestStoring:
    @pytest.mark.parametrize(
        "user",
        [
            alice(),
            alice(collision="LAPTOP"),
            KnownUser(user_id=ALICE.user_id),
            alice(identity=identity_of(ALICE, master_key=BOB.verified(ALICE.master_key))),
            alice(identity=UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key)),
        ],
        ids=repr,
    )
    def test_over_a_restart(self, user: KnownUser) -> None:
        stored = json.loads(json.dumps(user.to_json()))
        again = KnownUser.from_json(copy.deepcopy(stored))
        assert again == user
        assert again.to_json() == stored
        assert again.cross_signed_devices == user.cross_signed_devices

    def test_as_what(self) -> None:
        assert alice().to_json() == {
            "user_id": ALICE.user_id,
            "devices": {"PHONE": PHONE.keys.to_json(), "LAPTOP": LAPTOP.keys.to_json()},
            "removed_devices": {"OLD": OLD_TEXT},
            "identity": {
                "master_key": ALICE.master_key.to_json(),
                "self_signing_key": ALICE.self_signing_key.to_json(),
                "user_signing_key": ALICE.user_signing_key.to_json(),
            },
            "pin": PIN.to_json(),
            "local_trust": {LAPTOP_TEXT: "blacklisted", OLD_TEXT: "verified"},
            "has_refused_identity": False,
            "collision": None,
        }
        assert EMPTY["identity"] is None

    def test_signatures_and_display_names_survive(self) -> None:
        """What the server added to a master key is where one's own signature will be looked for."""
        master = BOB.verified(ALICE.master_key)
        named = PHONE.keys.with_signed(PHONE.keys.signed.with_unsigned({"device_display_name": "\u202e"}))
        user = alice(
            identity=identity_of(ALICE, master_key=master),
            devices={"PHONE": named.verify(identity=identity_of(ALICE))},
        )
        again = KnownUser.from_json(json.loads(json.dumps(user.to_json())))
        assert again.identity is not None
        assert again.identity.master_key.signed.signatures == master.signed.signatures
        assert again.devices["PHONE"].keys.untrusted_display_name == "\u202e"

    @pytest.mark.parametrize(
        "beside",
        [
            {"unsigned": {"x": "\ud800"}},
            {"unsigned": {"x": 1.5, "device_display_name": "\udfff"}},
            {"unsigned": 2**90},
            {"signatures": {"@x:y": {"ed25519:\ud800": "b"}}},
            {"signatures": {"\ud800": {"ed25519:K": "\ud800"}}},
        ],
        ids=repr,
    )
    def test_whatever_stands_beside_what_is_signed_can_be_written(self, beside: dict[str, Any]) -> None:
        """Whoever passes keys on can write there what UTF-8 and canonical JSON cannot hold; the state would not save."""

        def with_more(key: Any) -> Any:
            obj = key.to_json()
            signatures = {**obj.get("signatures", {}), **beside.get("signatures", {})}
            return type(key).from_json({**obj, **beside, "signatures": signatures})

        identity = UserIdentity.verify(
            master_key=with_more(BOB.verified(ALICE.master_key)),
            self_signing_key=with_more(ALICE.self_signing_key),
            user_signing_key=with_more(ALICE.user_signing_key),
        )
        phone = with_more(PHONE.keys).verify(identity=identity)
        user = alice(identity=identity, devices={"PHONE": phone})
        stored = user.to_json()
        again = KnownUser.from_json(json.loads(json.dumps(stored, ensure_ascii=False, allow_nan=False).encode("utf-8")))
        assert encode_canonical_json(stored)
        assert again == user
        assert again.to_json() == stored
        assert again.cross_signed_devices == {"PHONE"}
        assert again.identity is not None
        signed_by_bob = again.identity.master_key.signed.signatures[BOB.user_id]
        assert signed_by_bob == identity.master_key.signed.signatures[BOB.user_id]
        signer = BOB.user_signing_key
        assert signer.public_key is not None
        again.identity.master_key.signed.verify(entity=BOB.user_id, key_id=signer.key_name, key=signer.public_key)

    def test_what_is_read_is_not_changed(self) -> None:
        stored = copy.deepcopy(STORED)
        KnownUser.from_json(stored)
        assert stored == STORED

    @pytest.mark.parametrize(
        ("place", "value", "reason", "path"),
        [
            ("/user_id", 5, Reason.WRONG_TYPE, None),
            ("/user_id", "alice", Reason.INVALID_IDENTIFIER, None),
            ("/user_id", BOB.user_id, Reason.WRONG_TYPE, "/identity"),
            ("/collision", 5, Reason.WRONG_TYPE, None),
            # devices
            ("/devices", [], Reason.WRONG_TYPE, None),
            ("/devices/PHONE", None, Reason.WRONG_TYPE, None),
            ("/devices/PHONE", {}, Reason.MISSING_MEMBER, "/devices/PHONE/user_id"),
            ("/devices/PHONE", LAPTOP.keys.to_json(), Reason.DEVICE_ID_MISMATCH, None),
            ("/devices/PHONE", BOB.device("PHONE").to_json(), Reason.DEVICE_ID_MISMATCH, None),
            ("/devices/PHONE/added", 1, Reason.INVALID_SIGNATURE, PHONE_SIGNATURE),
            ("/devices/PHONE/algorithms", ["m.none"], Reason.INVALID_SIGNATURE, PHONE_SIGNATURE),
            ("/devices/PHONE/added", 1.5, Reason.NOT_AN_INTEGER, None),
            ("/devices/PHONE/signatures", {}, Reason.MISSING_SIGNATURE, "/devices/PHONE"),
            ("/devices/a~1b", 5, Reason.WRONG_TYPE, None),
            # tombstones
            ("/removed_devices", None, Reason.WRONG_TYPE, None),
            ("/removed_devices/OLD", 5, Reason.WRONG_TYPE, None),
            ("/removed_devices/OLD", "x", Reason.INVALID_BASE64, None),
            ("/removed_devices/OLD", "AQ" + "A" * 41, Reason.WEAK_KEY, None),
            # the identity
            ("/identity", 5, Reason.WRONG_TYPE, None),
            ("/identity/master_key", None, Reason.WRONG_TYPE, None),
            ("/identity/self_signing_key", None, Reason.WRONG_TYPE, None),
            ("/identity/user_signing_key", 5, Reason.WRONG_TYPE, None),
            ("/identity/self_signing_key", {}, Reason.MISSING_MEMBER, "/identity/self_signing_key/user_id"),
            ("/identity/self_signing_key/added", 1, Reason.INVALID_SIGNATURE, SSK_SIGNATURE),
            ("/identity/self_signing_key/signatures", {}, Reason.MISSING_SIGNATURE, "/identity/self_signing_key"),
            (
                "/identity/user_signing_key",
                RESET.user_signing_key.to_json(),
                Reason.MISSING_SIGNATURE,
                "/identity/user_signing_key",
            ),
            (
                "/identity/user_signing_key",
                ALICE.self_signing_key.to_json(),
                Reason.WRONG_USAGE,
                "/identity/user_signing_key/usage",
            ),
            (
                "/identity/master_key",
                RESET.master_key.to_json(),
                Reason.MISSING_SIGNATURE,
                "/identity/self_signing_key",
            ),
            ("/identity", None, Reason.INVALID_VALUE, "/pin"),
            # the pin
            ("/pin", None, Reason.WRONG_TYPE, None),
            ("/pin", {}, Reason.MISSING_MEMBER, "/pin/state"),
            ("/pin/state", "trusted", Reason.INVALID_VALUE, None),
            ("/pin/state", "pin-violation", Reason.INVALID_VALUE, "/pin"),
            ("/pin/current", OLD_TEXT, Reason.INVALID_VALUE, "/pin"),
            ("/pin/pinned", "x", Reason.INVALID_BASE64, None),
            ("/pin", IdentityPin().to_json(), Reason.INVALID_VALUE, None),
            ("/pin", PIN.observe(OLD_KEY, vouched_for=True).to_json(), Reason.INVALID_VALUE, None),
            # decisions
            ("/local_trust", [], Reason.WRONG_TYPE, None),
            (json_pointer(["local_trust", OLD_TEXT]), "trusted", Reason.INVALID_VALUE, None),
            (json_pointer(["local_trust", OLD_TEXT]), None, Reason.WRONG_TYPE, None),
            ("/local_trust/PHONE", "verified", Reason.INVALID_BASE64, None),
        ],
    )
    def test_storage_is_not_trusted(self, place: str, value: Any, reason: Reason, path: str | None) -> None:
        """Attacks 30, 31 and 33: whoever can write to the storage makes no device, no identity and no pin."""
        with pytest.raises(LocalProtocolError) as caught:
            KnownUser.from_json(damaged(place, value))
        assert (caught.value.reason, caught.value.path) == (reason, place if path is None else path)

    @pytest.mark.parametrize("name", STORED)
    def test_every_member_is_needed(self, name: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KnownUser.from_json({member: value for member, value in STORED.items() if member != name})
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_MEMBER, f"/{name}")

    @pytest.mark.parametrize("name", ["master_key", "self_signing_key", "user_signing_key"])
    def test_every_key_is_needed(self, name: str) -> None:
        identity: Any = STORED["identity"]
        with pytest.raises(LocalProtocolError) as caught:
            KnownUser.from_json(damaged("/identity", {key: identity[key] for key in identity if key != name}))
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_MEMBER, f"/identity/{name}")

    def test_a_cross_signature_is_asked_for_again(self) -> None:
        """Attack 30: what was cross-signed is found out, not read."""
        stored = damaged("/devices/PHONE", device("PHONE", by=RESET).keys.to_json())
        assert KnownUser.from_json(stored).cross_signed_devices == set()
        stored = damaged("/devices/LAPTOP", ALICE.device("LAPTOP").to_json())
        assert KnownUser.from_json(stored).cross_signed_devices == {"PHONE", "LAPTOP"}

    def test_the_verifier_is_asked(self) -> None:
        class Never:
            def verify_many(self, checks: Any) -> list[bool]:
                return [False] * len(checks)

        with pytest.raises(LocalProtocolError) as caught:
            KnownUser.from_json(STORED, verifier=Never())
        assert caught.value.path == SSK_SIGNATURE
        with pytest.raises(LocalProtocolError) as caught:
            KnownUser.from_json({**STORED, "identity": None}, verifier=Never())
        assert caught.value.path == PHONE_SIGNATURE
        assert KnownUser.from_json(EMPTY, verifier=Never()).devices == {}

    @given(json_like_values(), st.sampled_from([None, *STORED, "/devices/PHONE", "/identity/master_key", "/pin/state"]))
    def test_no_foreign_exception(self, value: Any, place: str | None) -> None:
        if place is None or not place.startswith("/"):
            stored = value if place is None else {**copy.deepcopy(STORED), place: value}
        else:
            stored = damaged(place, value)
        with contextlib.suppress(E2EKeysError):
            KnownUser.from_json(stored)


class TestCallers:
    @pytest.mark.parametrize("bad", [5, None, [], {}, b"PHONE"], ids=repr)
    def test_wrong_types(self, bad: Any) -> None:
        user = alice()
        for call, path in (
            (lambda: user.trust_of(bad), "/device_id"),
            (lambda: user.without_device(bad), "/device_id"),
            (lambda: user.with_trust(bad, LocalTrust.VERIFIED), ""),
            (lambda: user.with_trust(OLD_KEY, bad), ""),
            (lambda: KnownUser.from_json(STORED, verifier=bad), "/verifier"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, path)
        with pytest.raises(LocalProtocolError) as caught:
            user.with_pin(bad)
        assert caught.value.path == "/pin"
        assert user == alice()

    def test_a_word_is_no_decision(self) -> None:
        with pytest.raises(LocalProtocolError):
            alice().with_trust(OLD_KEY, "verified")  # type: ignore[arg-type]


class TestByItsOlmKey:
    def test_the_one_that_has_it(self) -> None:
        user = alice()
        key = PHONE.curve25519_key
        assert key is not None
        assert user.device_with(key) is user.devices["PHONE"]
        assert user.device_with(sample_curve25519_key("nobody")) is None

    def test_two_that_claim_it(self) -> None:
        """Attack 37: a key that two devices claim names neither. Attack 38: so nobody can claim another's messages."""
        key = PHONE.curve25519_key
        assert key is not None
        other = DeviceKeys.build(
            user_id=ALICE.user_id, device_id="EVE", curve25519_key=key, signer=ALICE.device_signer("EVE")
        ).verify()
        user = alice()
        user = attrs.evolve(user, devices={**user.devices, "EVE": other})
        assert user.device_with(key) is None

    @pytest.mark.parametrize("value", [None, "x", 5])
    def test_an_identity_is_refused_or_not(self, value: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            attrs.evolve(alice(), has_refused_identity=value)
        assert caught.value.path == "/has_refused_identity"
