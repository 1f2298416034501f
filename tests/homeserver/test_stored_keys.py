"""What is stored: the values that decisions read, and how they are served."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from matrix_e2e_keys import CrossSigningKey, DeviceKeys, LocalProtocolError, OneTimeKey, Reason, Rejection, SignedJson
from matrix_e2e_keys.errors import Refusal
from matrix_e2e_keys.homeserver.effects import NOTICES, DeviceChanged, IfUnchanged, StoreOneTimeKeys, guarded
from matrix_e2e_keys.homeserver.stored_keys import (
    USAGES,
    DeviceRecord,
    FallbackKeyRecord,
    UserKeys,
    UserSignature,
    device_entry,
    is_called_like,
    key_digest,
    one_time_key_entry,
    stored_key,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:a.example")
SIGNED = ALICE.one_time_key("PHONE", "A").signed
SIGNATURE: dict[str, Any] = {
    "signer_id": ALICE.user_id,
    "signer_key_id": "ed25519:A",
    "user_id": "@bob:b.example",
    "master_key_id": "ed25519:B",
    "signature": "x",
}


def spellings(name: str) -> set[str]:
    """Return the ways in which a public key may be written: padded or not, in either alphabet."""
    texts = {name, name.replace("+", "-").replace("/", "_")}
    return {*texts, *(f"{text}=" for text in texts)}


class TestDigests:
    def test_what_it_is(self) -> None:
        digest = base64.b64encode(hashlib.sha256(b"text").digest()).decode().rstrip("=")
        assert key_digest("text") == digest
        assert len(digest) == 43

    def test_a_key_is_its_text(self) -> None:
        assert SIGNED is not None
        bare = ALICE.one_time_key("PHONE", "A").key
        assert key_digest(SIGNED) == key_digest(bare)
        assert key_digest(SIGNED) == key_digest(SignedJson.from_json({"key": bare, "fallback": True}))
        assert key_digest(SIGNED) != key_digest("another")

    @pytest.mark.parametrize("obj", [{}, {"key": 5}, {"key": None}])
    def test_an_object_without_a_text_is_its_bytes(self, obj: dict[str, Any]) -> None:
        signed = SignedJson.from_json(obj)
        assert key_digest(signed) == key_digest(signed.canonical.decode())

    def test_a_key_of_32_bytes_is_its_bytes(self) -> None:
        raw = bytes(range(32))
        text = base64.b64encode(raw).decode().rstrip("=")
        expected = base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
        assert key_digest(text) == expected
        assert key_digest(f"{text}=") == expected
        assert key_digest(SignedJson.from_json({"key": f"{text}="})) == expected

    @pytest.mark.parametrize("size", [0, 31, 33])
    def test_a_key_of_another_size_is_its_text(self, size: int) -> None:
        text = base64.b64encode(bytes(size)).decode().rstrip("=")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        assert key_digest(text) == digest

    @pytest.mark.parametrize("value", [ALICE.one_time_key("PHONE", "A"), None, 5, b"x", {"key": "x"}])
    def test_what_is_neither_an_object_nor_a_text_has_none(self, value: Any) -> None:
        """The one-time key of a client is no stored key: taken as text, each would have a digest of its own."""
        with pytest.raises(LocalProtocolError) as caught:
            key_digest(value)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/key")

    def test_a_lone_surrogate(self) -> None:
        assert key_digest("\ud800") != key_digest("\ud801")


class TestRecords:
    @pytest.mark.parametrize(
        ("make", "path"),
        [
            (lambda: DeviceRecord(device_id=""), "/device_id"),
            (lambda: DeviceRecord(device_id="A", keys=ALICE.device("A")), "/keys"),  # type: ignore[arg-type]
            (lambda: DeviceRecord(device_id="A", display_name=5), "/display_name"),  # type: ignore[arg-type]
            (lambda: FallbackKeyRecord(key_id=None, key="x"), "/key_id"),  # type: ignore[arg-type]
            (lambda: FallbackKeyRecord(key_id="a:b", key=None), "/key"),  # type: ignore[arg-type]
            (lambda: FallbackKeyRecord(key_id="a:b", key="x", is_used=1), "/is_used"),  # type: ignore[arg-type]
            (lambda: UserKeys(user_id="alice"), "/user_id"),
            (lambda: UserKeys(user_id=ALICE.user_id, devices={"A": "B"}), "/devices/A"),  # type: ignore[dict-item]
            (lambda: UserKeys(user_id=ALICE.user_id, master_key=5), "/master_key"),  # type: ignore[arg-type]
            (lambda: UserKeys(user_id=ALICE.user_id, self_signing_key=5), "/self_signing_key"),  # type: ignore[arg-type]
            (lambda: UserKeys(user_id=ALICE.user_id, user_signing_key=5), "/user_signing_key"),  # type: ignore[arg-type]
            (lambda: UserKeys(user_id=ALICE.user_id, earlier_keys="x"), "/earlier_keys"),  # type: ignore[arg-type]
            (lambda: UserKeys(user_id=ALICE.user_id, earlier_keys=frozenset({5})), "/earlier_keys/0"),  # type: ignore[arg-type]
            (lambda: UserKeys(user_id=ALICE.user_id, signatures=[5]), "/signatures/0"),  # type: ignore[arg-type]
            (lambda: UserKeys(user_id=ALICE.user_id, revision="1"), "/revision"),  # type: ignore[arg-type]
            (lambda: UserKeys(user_id=ALICE.user_id, revision=True), "/revision"),
            (lambda: UserKeys(user_id=ALICE.user_id, revision=1.0), "/revision"),  # type: ignore[arg-type]
        ],
    )
    def test_wrong_members(self, make: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            make()
        assert caught.value.path == path

    def test_a_device_under_another_id(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserKeys(
                user_id=ALICE.user_id, devices={"A": DeviceRecord(device_id="A"), "B": DeviceRecord(device_id="C")}
            )
        assert (caught.value.reason, caught.value.path) == (Reason.DEVICE_ID_MISMATCH, "/devices/B")

    @pytest.mark.parametrize("usage", USAGES)
    def test_a_key_of_another_user_or_usage(self, usage: str) -> None:
        """Attacks 25 and 51: what a caller has mixed up is not decided on."""
        others = [f"{other}_key" for other in USAGES if other != usage]
        for key in (getattr(BOB, f"{usage}_key"), *(getattr(ALICE, other) for other in others)):
            with pytest.raises(LocalProtocolError) as caught:
                UserKeys(user_id=ALICE.user_id, **{f"{usage}_key": key})
            assert (caught.value.reason, caught.value.path) == (Reason.WRONG_USAGE, f"/{usage}_key")

    def test_the_revision_is_no_part_of_what_is_stored(self) -> None:
        views = [UserKeys(user_id=ALICE.user_id, revision=revision) for revision in (None, -1, 0, 7)]
        assert [view.revision for view in views] == [None, -1, 0, 7]
        assert all(view == views[0] for view in views)

    @pytest.mark.parametrize("name", sorted(SIGNATURE))
    def test_wrong_signatures(self, name: str) -> None:
        assert UserSignature(**SIGNATURE).signature == "x"
        with pytest.raises(LocalProtocolError) as caught:
            UserSignature(**{**SIGNATURE, name: None})
        assert caught.value.path == f"/{name}"

    @pytest.mark.parametrize("value", [None, 5, {}, b"x"])
    def test_what_is_no_key(self, value: Any) -> None:
        with pytest.raises(Refusal) as caught:
            stored_key(value, "key")
        assert (caught.value.reason, caught.value.at) == (Reason.WRONG_TYPE, ("key",))

    def test_what_is_one(self) -> None:
        assert (stored_key("x", "key"), stored_key(SIGNED, "key")) == ("x", SIGNED)

    def test_a_list_of_earlier_keys(self) -> None:
        assert UserKeys(user_id=ALICE.user_id, earlier_keys=["A", "A"]).earlier_keys == {"A"}  # type: ignore[arg-type]

    def test_a_batch_of_keys_cannot_be_changed_afterwards(self) -> None:
        keys: dict[str, Any] = {"a:b": "x"}
        effect = StoreOneTimeKeys(user_id=ALICE.user_id, device_id="A", keys=keys)
        keys["a:c"] = "y"
        assert effect.keys == {"a:b": "x"}
        with pytest.raises(LocalProtocolError):
            StoreOneTimeKeys(user_id=ALICE.user_id, device_id="A", keys={"a:b": 5})  # type: ignore[dict-item]

    def test_notices_are_told_from_the_rest(self) -> None:
        assert isinstance(DeviceChanged(user_id=ALICE.user_id, device_id="A"), NOTICES)
        assert not isinstance(StoreOneTimeKeys(user_id=ALICE.user_id, device_id="A", keys={}), NOTICES)


class TestIdentities:
    USER = UserKeys(
        user_id=ALICE.user_id,
        master_key=ALICE.master_key,
        self_signing_key=ALICE.self_signing_key,
        user_signing_key=ALICE.user_signing_key,
        earlier_keys=frozenset({"old"}),
    )

    def test_keys_by_usage(self) -> None:
        assert USAGES == ("master", "self_signing", "user_signing")
        keys = (ALICE.master_key, ALICE.self_signing_key, ALICE.user_signing_key)
        assert tuple(map(self.USER.key_of, USAGES)) == keys
        assert self.USER.key_of("signatures") is None
        assert self.USER.key_of("") is None

    def test_names_that_no_device_may_have(self) -> None:
        names = {ALICE.secret(usage).public_key.to_base64() for usage in USAGES}
        assert self.USER.identity_key_names == {"old", *names}
        assert UserKeys(user_id=ALICE.user_id).identity_key_names == frozenset()

    def test_what_can_be_taken_for_a_key(self) -> None:
        """Attack 25: whatever reads base64 leniently could take these for one key."""
        name = "-_".join("a" * 20 for _ in range(2)) + "E"
        user = UserKeys(user_id=ALICE.user_id, earlier_keys=frozenset({name.replace("-", "+").replace("_", "/")}))
        for spelled in (name, name.replace("-", "+"), name.replace("-", "+").replace("_", "/")):
            assert user.has_key_called(spelled)
            assert user.has_key_called(f"{spelled}=")
        for other in ("", name[:-1], f"{name}A", name.upper(), name.replace("-", "*")):
            assert not user.has_key_called(other)
        assert not UserKeys(user_id=ALICE.user_id).has_key_called(name)

    @pytest.mark.parametrize("usage", [*USAGES, "earlier"])
    def test_current_and_earlier_keys(self, usage: str) -> None:
        key = getattr(ALICE, f"{usage}_key", ALICE.master_key)
        name = key.key_id.name
        members: dict[str, Any] = {f"{usage}_key": key}
        if usage == "earlier":
            members = {"earlier_keys": frozenset({name})}
        user = UserKeys(user_id=ALICE.user_id, **members)
        assert all(user.has_key_called(spelled) for spelled in spellings(name))
        assert not user.has_key_called("PHONE")

    def test_a_text_that_nobody_can_decode_is_called_like_itself_only(self) -> None:
        assert is_called_like("A", "A")
        assert not is_called_like("A=", "A")
        assert not is_called_like("B", "A")

    @pytest.mark.parametrize("usage", USAGES)
    def test_each_alone(self, usage: Any) -> None:
        key = CrossSigningKey.build(user_id=ALICE.user_id, usage=usage, public_key=sample_secret_key("x").public_key)
        user = UserKeys(user_id=ALICE.user_id, **{f"{usage}_key": key})
        assert user.identity_key_names == {sample_secret_key("x").public_key.to_base64()}


class TestConditions:
    """A decision is bound to the view it was made from."""

    EFFECT = DeviceChanged(user_id=ALICE.user_id, device_id="A")

    def test_what_is_to_be_done_holds_only_if_nothing_changed(self) -> None:
        view = UserKeys(user_id=ALICE.user_id, revision=0)
        other = UserKeys(user_id=BOB.user_id, revision=7)
        assert guarded([self.EFFECT], view, other) == (
            IfUnchanged(user_id=ALICE.user_id, revision=0),
            IfUnchanged(user_id=BOB.user_id, revision=7),
            self.EFFECT,
        )

    def test_without_a_revision_nothing_is_said(self) -> None:
        assert guarded(iter([self.EFFECT]), UserKeys(user_id=ALICE.user_id)) == (self.EFFECT,)

    def test_where_nothing_is_to_be_done_nothing_needs_to_hold(self) -> None:
        assert guarded([], UserKeys(user_id=ALICE.user_id, revision=1)) == ()


class TestEntries:
    def test_device_keys(self) -> None:
        keys = ALICE.device("PHONE")
        entry = device_entry(keys.signed)
        assert isinstance(entry, DeviceKeys)
        assert entry.to_json() == keys.to_json()

    def test_malformed_device_keys(self) -> None:
        obj = {"user_id": ALICE.user_id, "keys": {}, "signatures": {}}
        entry = device_entry(SignedJson.from_json(obj), "device_keys", "u", "d")
        assert isinstance(entry, Rejection)
        assert (entry.raw, entry.path) == (obj, "/device_keys/u/d/device_id")

    @pytest.mark.parametrize(
        ("key_id", "key"), [("signed_curve25519:A", SIGNED), ("curve25519:A", ALICE.one_time_key("P", "A").key)]
    )
    def test_one_time_keys(self, key_id: str, key: Any) -> None:
        entry = one_time_key_entry(key_id, key)
        assert isinstance(entry, OneTimeKey)
        assert (str(entry.key_id), entry.to_json()) == (key_id, key if isinstance(key, str) else key.to_json())

    @pytest.mark.parametrize("key", ["bare", SignedJson.from_json({"key": "x", "signatures": {}})])
    def test_malformed_one_time_keys(self, key: Any) -> None:
        entry = one_time_key_entry("signed_curve25519:A", key, "u", "d")
        assert isinstance(entry, Rejection)
        assert entry.raw == (key if isinstance(key, str) else key.to_json())
        assert entry.path.startswith("/u/d/signed_curve25519:A")
