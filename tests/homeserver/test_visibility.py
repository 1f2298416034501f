"""Who sees which signature: the five rules of the specification as a table, against whatever may be stored."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CrossSigningKey,
    LocalProtocolError,
    Reason,
    SignedJson,
)
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys, UserSignature
from matrix_e2e_keys.homeserver.visibility import (
    ServerViewer,
    UserViewer,
    Viewer,
    visible_device,
    visible_key,
    visible_one_time_key,
)
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
CAROL = SampleUser("@carol:a.example")
EARLIER = SampleUser("@alice:a.example", generation=1).user_signing_key
DEVICE = ALICE.device("PHONE")

OWNER = UserKeys(
    user_id=ALICE.user_id,
    devices={"PHONE": DeviceRecord(device_id="PHONE", keys=DEVICE.signed, display_name="phone")},
    master_key=ALICE.master_key,
    self_signing_key=ALICE.self_signing_key,
    user_signing_key=ALICE.user_signing_key,
    # A store may count the current keys among those that the user has had.
    earlier_keys={EARLIER.key_id.name, ALICE.master_key.key_id.name, ALICE.self_signing_key.key_id.name},  # type: ignore[arg-type]
)

VIEWERS: dict[str, Viewer] = {
    "owner": UserViewer(user_id=ALICE.user_id),
    "bob": UserViewer(user_id=BOB.user_id),
    "carol": UserViewer(user_id=CAROL.user_id),
    "server": ServerViewer(server_name="b.example"),
    "own server": ServerViewer(server_name="a.example"),
}

OBJECTS: dict[str, SignedJson] = {
    "device": DEVICE.signed,
    "master": ALICE.master_key.signed,
    "self_signing": ALICE.self_signing_key.signed,
    "user_signing": ALICE.user_signing_key.signed,
}

# Who signed, with which key: the key id under which the signature stands, and who may see it.
EVERYBODY = frozenset(VIEWERS)
OWNER_ONLY = frozenset({"owner"})
NOBODY: frozenset[str] = frozenset()
SIGNATURES: dict[str, tuple[str, str, frozenset[str]]] = {
    "master": (ALICE.user_id, ALICE.master_key.key_name, EVERYBODY),
    "self-signing": (ALICE.user_id, ALICE.self_signing_key.key_name, EVERYBODY),
    "device": (ALICE.user_id, "ed25519:PHONE", EVERYBODY),
    "another device": (ALICE.user_id, "ed25519:TABLET", EVERYBODY),
    "unknown algorithm": (ALICE.user_id, "ed448:PHONE", EVERYBODY),
    "no key id at all": (ALICE.user_id, "", EVERYBODY),
    "user-signing": (ALICE.user_id, ALICE.user_signing_key.key_name, OWNER_ONLY),
    "user-signing, as another algorithm": (ALICE.user_id, f"x:{ALICE.user_signing_key.key_id.name}", OWNER_ONLY),
    "earlier user-signing": (ALICE.user_id, EARLIER.key_name, OWNER_ONLY),
    "bob's user-signing": (BOB.user_id, BOB.user_signing_key.key_name, NOBODY),
    "bob's master": (BOB.user_id, BOB.master_key.key_name, NOBODY),
    "bob's device": (BOB.user_id, "ed25519:PHONE", NOBODY),
    "carol's user-signing": (CAROL.user_id, CAROL.user_signing_key.key_name, NOBODY),
    "a server": ("a.example", "ed25519:1", NOBODY),
    "nobody": ("", "", NOBODY),
}

# What is stored apart: signer, whom, which master key; and who sees it on Alice's master key.
APART: dict[str, tuple[SampleUser, str, str, str | None]] = {
    "bob of alice": (BOB, ALICE.user_id, ALICE.master_key.key_name, "bob"),
    "carol of alice": (CAROL, ALICE.user_id, ALICE.master_key.key_name, "carol"),
    "bob of her earlier master key": (BOB, ALICE.user_id, SampleUser(ALICE.user_id, 1).master_key.key_name, None),
    "bob of her self-signing key": (BOB, ALICE.user_id, ALICE.self_signing_key.key_name, None),
    "bob of carol": (BOB, CAROL.user_id, ALICE.master_key.key_name, None),
}


def apart(name: str) -> UserSignature:
    signer, user_id, master_key_id, _ = APART[name]
    return UserSignature(
        signer_id=signer.user_id,
        signer_key_id=signer.user_signing_key.key_name,
        user_id=user_id,
        master_key_id=master_key_id,
        signature=f"signature {name}",
    )


def stored(kind: str, names: Mapping[str, str] | None) -> SignedJson:
    """An object with some of the signatures, and an ``unsigned`` that a client has chosen."""
    obj = OBJECTS[kind].to_json()
    obj.pop("signatures", None)
    obj["unsigned"] = {"device_display_name": "chosen", "verified_by": "@bob:b.example"}
    if names is not None:
        signatures: dict[str, Any] = {}
        for name, text in names.items():
            entity, key_id, _ = SIGNATURES[name]
            signatures.setdefault(entity, {})[key_id] = text
        obj["signatures"] = signatures
    return SignedJson.from_json(obj)


def seen(kind: str, obj: SignedJson, viewer: Viewer, signatures: list[UserSignature]) -> SignedJson | None:
    if kind == "device":
        return visible_device(obj, owner=OWNER, viewer=viewer)
    key = CrossSigningKey.from_json(obj.to_json())
    shown = visible_key(key, owner=OWNER, viewer=viewer, signatures=signatures)
    return None if shown is None else shown.signed


def flat(signed: SignedJson) -> set[tuple[str, str, str]]:
    return {(entity, key_id, text) for entity, by in signed.signatures.items() for key_id, text in by.items()}


def check_against_the_table(kind: str, viewer: str, names: dict[str, str] | None, apart_names: list[str]) -> None:
    obj = stored(kind, names)
    before = copy.deepcopy(obj.to_json())
    shown = seen(kind, obj, VIEWERS[viewer], [apart(name) for name in apart_names])
    assert obj.to_json() == before
    if kind == "user_signing" and viewer != "owner":
        assert shown is None
        return
    expected = {(*SIGNATURES[name][:2], text) for name, text in (names or {}).items() if viewer in SIGNATURES[name][2]}
    for name in apart_names if kind == "master" else ():
        if APART[name][3] == viewer:
            signature = apart(name)
            expected.add((signature.signer_id, signature.signer_key_id, signature.signature))
    assert shown is not None
    assert flat(shown) == expected
    assert shown.canonical == obj.canonical
    assert shown.untrusted_unsigned is None


class TestTheFiveRules:
    """Attack 53: no signature by a user-signing key is seen by anybody but who made it, not even by the signed."""

    @pytest.mark.parametrize("viewer", sorted(VIEWERS))
    @pytest.mark.parametrize("kind", sorted(OBJECTS))
    def test_everybody_sees_each_signature_as_the_table_says(self, kind: str, viewer: str) -> None:
        for name in SIGNATURES:
            check_against_the_table(kind, viewer, {name: "x"}, [])
        for name in APART:
            check_against_the_table(kind, viewer, {"bob's user-signing": "x"}, [name])

    @given(
        kind=st.sampled_from(sorted(OBJECTS)),
        viewer=st.sampled_from(sorted(VIEWERS)),
        names=st.none() | st.dictionaries(st.sampled_from(sorted(SIGNATURES)), st.text(max_size=3)),
        apart_names=st.lists(st.sampled_from(sorted(APART)), unique=True),
    )
    def test_and_any_of_them_together(
        self, kind: str, viewer: str, names: dict[str, str] | None, apart_names: list[str]
    ) -> None:
        check_against_the_table(kind, viewer, names, apart_names)

    @pytest.mark.parametrize("kind", ["master", "self_signing", "user_signing", "device"])
    def test_what_one_sees_changes_nothing_for_the_next(self, kind: str) -> None:
        obj = stored(kind, dict.fromkeys(SIGNATURES, "x"))
        alone = {name: seen(kind, obj, viewer, [apart("bob of alice")]) for name, viewer in VIEWERS.items()}
        again = {name: seen(kind, obj, viewer, [apart("bob of alice")]) for name, viewer in reversed(VIEWERS.items())}
        assert {name: shown and shown.to_json() for name, shown in alone.items()} == {
            name: shown and shown.to_json() for name, shown in again.items()
        }

    @pytest.mark.parametrize("viewer", sorted(set(VIEWERS) - {"owner"}))
    def test_a_key_of_a_role_that_nobody_knows_is_for_its_owner(self, viewer: str) -> None:
        key = CrossSigningKey.from_json({**ALICE.master_key.to_json(), "usage": ["org.example.friends"]})
        assert visible_key(key, owner=OWNER, viewer=VIEWERS[viewer]) is None
        assert visible_key(key, owner=OWNER, viewer=VIEWERS["owner"]) == key

    def test_only_a_key_that_is_known_to_be_user_signing_hides_signatures(self) -> None:
        owner = evolve(OWNER, user_signing_key=None, earlier_keys=frozenset())
        shown = visible_device(stored("device", {"user-signing": "x"}), owner=owner, viewer=VIEWERS["bob"])
        assert flat(shown) == {(ALICE.user_id, ALICE.user_signing_key.key_name, "x")}

    def test_an_owner_without_an_identity_has_nothing_to_hide_but_earlier_keys(self) -> None:
        owner = UserKeys(user_id=ALICE.user_id, earlier_keys={EARLIER.key_id.name})  # type: ignore[arg-type]
        obj = stored("device", {"earlier user-signing": "x", "device": "y"})
        assert flat(visible_device(obj, owner=owner, viewer=VIEWERS["bob"])) == {(ALICE.user_id, "ed25519:PHONE", "y")}

    def test_the_requesters_signature_stands_beside_others_of_his(self) -> None:
        mine = [apart("bob of alice"), evolve(apart("bob of alice"), signer_key_id="ed25519:second", signature="2")]
        shown = visible_key(ALICE.master_key, owner=OWNER, viewer=VIEWERS["bob"], signatures=iter(mine))
        assert shown is not None
        assert shown.signed.signatures == {
            BOB.user_id: {mine[0].signer_key_id: mine[0].signature, "ed25519:second": "2"},
        }


class TestShape:
    def test_signatures_that_were_there_and_are_all_hidden_leave_an_empty_map(self) -> None:
        shown = visible_device(stored("device", {"bob's device": "x"}), owner=OWNER, viewer=VIEWERS["bob"])
        assert shown.to_json()["signatures"] == {}

    def test_an_empty_map_of_the_owner_is_kept(self) -> None:
        obj = SignedJson.from_json({**DEVICE.signed.content, "signatures": {ALICE.user_id: {}}})
        shown = visible_device(obj, owner=OWNER, viewer=VIEWERS["bob"])
        assert shown.to_json()["signatures"] == {ALICE.user_id: {}}

    def test_no_signatures_at_all_stay_none(self) -> None:
        shown = visible_device(stored("device", None), owner=OWNER, viewer=VIEWERS["bob"])
        assert "signatures" not in shown.to_json()


class TestOneTimeKeys:
    def test_signatures_of_the_owner_only_and_nothing_unsigned(self) -> None:
        signed = ALICE.one_time_key("PHONE", "AAAA").signed
        assert signed is not None
        obj = signed.to_json()
        mixed = {**obj, "unsigned": {"x": 1}, "signatures": {**obj["signatures"], BOB.user_id: {"ed25519:X": "x"}}}  # type: ignore[dict-item]
        shown = visible_one_time_key(SignedJson.from_json(mixed), user_id=ALICE.user_id)
        assert isinstance(shown, SignedJson)
        assert shown.to_json() == obj

    def test_a_bare_string_is_what_it_is(self) -> None:
        assert visible_one_time_key("text", user_id=ALICE.user_id) == "text"


class TestArguments:
    @given(junk=json_like_values())
    def test_only_errors_of_this_library_leave(self, junk: Any) -> None:
        bob = VIEWERS["bob"]
        for call in (
            lambda: visible_device(junk, owner=OWNER, viewer=bob),
            lambda: visible_device(DEVICE.signed, owner=junk, viewer=bob),
            lambda: visible_device(DEVICE.signed, owner=OWNER, viewer=junk),
            lambda: visible_key(junk, owner=OWNER, viewer=bob),
            lambda: visible_key(ALICE.master_key, owner=junk, viewer=bob),
            lambda: visible_key(ALICE.master_key, owner=OWNER, viewer=junk),
            lambda: visible_one_time_key(ALICE.one_time_key("PHONE", "A").signed, user_id=junk),  # type: ignore[arg-type]
            lambda: UserViewer(user_id=junk),
        ):
            with pytest.raises(LocalProtocolError):
                call()
        for total in (
            lambda: visible_key(ALICE.master_key, owner=OWNER, viewer=bob, signatures=junk),
            lambda: visible_one_time_key(junk, user_id=ALICE.user_id),
            lambda: ServerViewer(server_name=junk),
        ):
            with contextlib.suppress(LocalProtocolError):
                total()

    def test_the_argument_is_named(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            visible_key(ALICE.master_key, owner=OWNER, viewer=VIEWERS["bob"], signatures=["x"])  # type: ignore[list-item]
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/signatures/0")
