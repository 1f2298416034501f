"""The keys of a server: what a document may be, who must have signed it, and how long it may be used."""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given

from matrix_e2e_keys import (
    E2EKeysError,
    Ed25519PublicKey,
    LocalProtocolError,
    OldVerifyKey,
    Reason,
    RemoteProtocolError,
    ServerKeys,
    SignedJson,
    VerificationError,
    VerifiedServerKeys,
    sign_json,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

SERVER = "a.example:8448"
ONE = sample_secret_key("server one").signer("ed25519:a_1")
TWO = sample_secret_key("server two").signer("ed25519:b_2")
OLD = sample_secret_key("server old").public_key
NOTARY = sample_secret_key("notary").signer("ed25519:n_1")
UNTIL = 1_700_000_000_000
DAY = 86_400_000


def unsigned(**changes: Any) -> dict[str, Any]:
    """A document by hand, without signatures."""
    return {
        "server_name": SERVER,
        "verify_keys": {
            "ed25519:a_1": {"key": ONE.public_key.to_base64()},
            "ed25519:b_2": {"key": TWO.public_key.to_base64()},
        },
        "old_verify_keys": {"ed25519:0ldK3y": {"key": OLD.to_base64(), "expired_ts": 1_532_645_052_628}},
        "valid_until_ts": UNTIL,
        **changes,
    }


def signed(obj: dict[str, Any], *signers: Any, entity: str = SERVER) -> dict[str, Any]:
    for signer in signers:
        obj = sign_json(obj, entity=entity, signer=signer)
    return obj


def good(**changes: Any) -> dict[str, Any]:
    return signed(unsigned(**changes), ONE, TWO)


def build(**changes: Any) -> ServerKeys:
    parts: dict[str, Any] = {"server_name": SERVER, "signers": [ONE, TWO], "valid_until_ts": UNTIL}
    return ServerKeys.build(**{**parts, **changes})


class TestReading:
    def test_members(self) -> None:
        keys = ServerKeys.from_json(good())
        assert keys.server_name == SERVER
        assert keys.verify_keys == {"ed25519:a_1": ONE.public_key, "ed25519:b_2": TWO.public_key}
        assert keys.old_verify_keys == {"ed25519:0ldK3y": OldVerifyKey(OLD, 1_532_645_052_628)}
        assert keys.valid_until_ts == UNTIL
        assert type(keys.signed) is SignedJson
        assert keys.to_json() == good()
        assert repr(keys) == "<ServerKeys of 'a.example:8448', ['ed25519:a_1', 'ed25519:b_2']>"

    def test_equality_is_that_of_the_signed_bytes(self) -> None:
        keys = ServerKeys.from_json(good())
        assert keys == ServerKeys.from_json(unsigned())
        assert hash(keys) == hash(ServerKeys.from_json(unsigned()))
        assert keys != ServerKeys.from_json(good(valid_until_ts=UNTIL + 1))
        assert keys != good()
        assert (keys == "x") is False

    def test_old_keys_may_be_missing(self) -> None:
        obj = unsigned()
        del obj["old_verify_keys"]
        keys = ServerKeys.from_json(signed(obj, ONE, TWO))
        assert keys.old_verify_keys == {}
        assert "old_verify_keys" not in keys.to_json()
        keys.verify(server_name=SERVER)

    def test_unknown_members_are_kept_and_signed(self) -> None:
        obj = good(added={"a": [1]})
        keys = ServerKeys.from_json(obj)
        assert keys.to_json() == obj
        assert keys.signed.content["added"] == {"a": [1]}
        assert ServerKeys.from_json({**obj, "unsigned": {"age": 0.5}}).to_json()["unsigned"] == {"age": 0.5}

    def test_unknown_algorithms_are_kept_in_the_document_only(self) -> None:
        future = {"key": "not even base64", "more": 1}
        changes: dict[str, Any] = unsigned()
        changes["verify_keys"]["m.future:1"] = future
        changes["old_verify_keys"]["m.future:0"] = future  # not even expired_ts
        keys = ServerKeys.from_json(signed(changes, ONE, TWO))
        assert list(keys.verify_keys) == ["ed25519:a_1", "ed25519:b_2"]
        assert list(keys.old_verify_keys) == ["ed25519:0ldK3y"]
        assert keys.to_json()["verify_keys"]["m.future:1"] == future  # type: ignore[index,call-overload]
        assert keys.to_json()["old_verify_keys"]["m.future:0"] == future  # type: ignore[index,call-overload]
        keys.verify(server_name=SERVER)

    def test_the_caller_keeps_his_object(self) -> None:
        obj = good()
        before = copy.deepcopy(obj)
        keys = ServerKeys.from_json(obj)
        assert obj == before
        obj["verify_keys"].clear()
        keys.to_json()["verify_keys"].clear()  # type: ignore[union-attr]
        assert keys.to_json() == before
        with pytest.raises(TypeError):
            keys.verify_keys["ed25519:x"] = OLD  # type: ignore[index]
        with pytest.raises(TypeError):
            keys.old_verify_keys["ed25519:x"] = OldVerifyKey(OLD, 1)  # type: ignore[index]

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        places: list[Any] = [value, *({**unsigned(), name: value} for name in (*unsigned(), "signatures", "new"))]
        places += [
            unsigned(verify_keys={"ed25519:a": value}),
            unsigned(verify_keys={"ed25519:a": {"key": value}}),
            unsigned(old_verify_keys={"ed25519:a": {"key": OLD.to_base64(), "expired_ts": value}}),
        ]
        for obj in places:
            before = repr(obj)
            with contextlib.suppress(E2EKeysError):
                ServerKeys.from_json(obj).verify(server_name=SERVER)
            assert repr(obj) == before


KEY = {"key": OLD.to_base64()}
ONE_POINT = "AQ" + "A" * 41  # the identity, a point of small order

MALFORMED: dict[str, tuple[Any, str, Reason]] = {
    "null": (None, "", Reason.WRONG_TYPE),
    "array": ([], "", Reason.WRONG_TYPE),
    "empty": ({}, "/server_name", Reason.MISSING_MEMBER),
    "no verify_keys": (
        {"server_name": SERVER, "valid_until_ts": 1},
        "/verify_keys",
        Reason.MISSING_MEMBER,
    ),
    "no valid_until_ts": ({"server_name": SERVER, "verify_keys": {}}, "/valid_until_ts", Reason.MISSING_MEMBER),
    "server_name null": (unsigned(server_name=None), "/server_name", Reason.WRONG_TYPE),
    "server_name none": (unsigned(server_name="a b"), "/server_name", Reason.INVALID_IDENTIFIER),
    "server_name empty": (unsigned(server_name=""), "/server_name", Reason.INVALID_IDENTIFIER),
    "verify_keys null": (unsigned(verify_keys=None), "/verify_keys", Reason.WRONG_TYPE),
    "verify_keys array": (unsigned(verify_keys=[]), "/verify_keys", Reason.WRONG_TYPE),
    "key id without colon": (unsigned(verify_keys={"x/y": KEY}), "/verify_keys/x~1y", Reason.INVALID_KEY_ID),
    "key id without name": (unsigned(verify_keys={"ed25519:": KEY}), "/verify_keys/ed25519:", Reason.INVALID_KEY_ID),
    "key id without algorithm": (unsigned(verify_keys={":a": KEY}), "/verify_keys/:a", Reason.INVALID_KEY_ID),
    "entry null": (unsigned(verify_keys={"ed25519:a": None}), "/verify_keys/ed25519:a", Reason.WRONG_TYPE),
    "entry string": (
        unsigned(verify_keys={"ed25519:a/b": OLD.to_base64()}),
        "/verify_keys/ed25519:a~1b",
        Reason.WRONG_TYPE,
    ),
    "entry of an unknown algorithm": (
        unsigned(verify_keys={"m.future:a": []}),
        "/verify_keys/m.future:a",
        Reason.WRONG_TYPE,
    ),
    "entry empty": (unsigned(verify_keys={"ed25519:a": {}}), "/verify_keys/ed25519:a/key", Reason.MISSING_MEMBER),
    "unknown algorithm, no key": (
        unsigned(verify_keys={"m.future:a": {}}),
        "/verify_keys/m.future:a/key",
        Reason.MISSING_MEMBER,
    ),
    "key null": (
        unsigned(verify_keys={"ed25519:a": {"key": None}}),
        "/verify_keys/ed25519:a/key",
        Reason.WRONG_TYPE,
    ),
    "key not base64": (
        unsigned(verify_keys={"ed25519:a": {"key": "!"}}),
        "/verify_keys/ed25519:a/key",
        Reason.INVALID_BASE64,
    ),
    "key too short": (
        unsigned(verify_keys={"ed25519:a": {"key": "AAAA"}}),
        "/verify_keys/ed25519:a/key",
        Reason.WRONG_LENGTH,
    ),
    "key weak": (
        unsigned(verify_keys={"ed25519:a": {"key": ONE_POINT}}),
        "/verify_keys/ed25519:a/key",
        Reason.WEAK_KEY,
    ),
    "old_verify_keys null": (unsigned(old_verify_keys=None), "/old_verify_keys", Reason.WRONG_TYPE),
    "old_verify_keys array": (unsigned(old_verify_keys=[KEY]), "/old_verify_keys", Reason.WRONG_TYPE),
    "old key id": (unsigned(old_verify_keys={"x": KEY}), "/old_verify_keys/x", Reason.INVALID_KEY_ID),
    "old key null": (unsigned(old_verify_keys={"ed25519:a": None}), "/old_verify_keys/ed25519:a", Reason.WRONG_TYPE),
    "old key, no expired_ts": (
        unsigned(old_verify_keys={"ed25519:a": KEY}),
        "/old_verify_keys/ed25519:a/expired_ts",
        Reason.MISSING_MEMBER,
    ),
    "old key, expired_ts string": (
        unsigned(old_verify_keys={"ed25519:a": {**KEY, "expired_ts": "1"}}),
        "/old_verify_keys/ed25519:a/expired_ts",
        Reason.WRONG_TYPE,
    ),
    "old key, expired_ts boolean": (
        unsigned(old_verify_keys={"ed25519:a": {**KEY, "expired_ts": True}}),
        "/old_verify_keys/ed25519:a/expired_ts",
        Reason.WRONG_TYPE,
    ),
    "old key, not base64": (
        unsigned(old_verify_keys={"ed25519:a": {"key": "!", "expired_ts": 1}}),
        "/old_verify_keys/ed25519:a/key",
        Reason.INVALID_BASE64,
    ),
    "valid_until_ts string": (unsigned(valid_until_ts="1"), "/valid_until_ts", Reason.WRONG_TYPE),
    "valid_until_ts null": (unsigned(valid_until_ts=None), "/valid_until_ts", Reason.WRONG_TYPE),
    "valid_until_ts boolean": (unsigned(valid_until_ts=True), "/valid_until_ts", Reason.WRONG_TYPE),
    "valid_until_ts fraction": (unsigned(valid_until_ts=1.0), "/valid_until_ts", Reason.NOT_AN_INTEGER),
    "valid_until_ts huge": (unsigned(valid_until_ts=2**53), "/valid_until_ts", Reason.INTEGER_OUT_OF_RANGE),
    "signatures array": (unsigned(signatures=[]), "/signatures", Reason.WRONG_TYPE),
    "signature number": (
        unsigned(signatures={SERVER: {"ed25519:a/b": 1}}),
        "/signatures/a.example:8448/ed25519:a~1b",
        Reason.WRONG_TYPE,
    ),
    "65 keys": (
        unsigned(verify_keys={f"ed25519:{number}": None for number in range(65)}),
        "/verify_keys",
        Reason.TOO_MANY_KEYS,
    ),
    "65 keys of algorithms nobody knows": (
        unsigned(verify_keys={f"org.example:{number}": {"key": "x"} for number in range(65)}),
        "/verify_keys",
        Reason.TOO_MANY_KEYS,
    ),
    "fraction anywhere": (unsigned(added={"a/b": [0.5]}), "/added/a~1b/0", Reason.NOT_AN_INTEGER),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    obj, path, reason = MALFORMED[case]
    with pytest.raises(RemoteProtocolError) as caught:
        ServerKeys.from_json(obj)
    assert (caught.value.path, caught.value.reason) == (path, reason)


def test_64_keys() -> None:
    signers = [sample_secret_key(f"server {number}").signer(f"ed25519:{number}") for number in range(64)]
    document = ServerKeys.build(server_name=SERVER, signers=signers, valid_until_ts=UNTIL)
    assert len(document.verify(server_name=SERVER).verify_keys) == 64
    old = {f"ed25519:old{number}": {**KEY, "expired_ts": number} for number in range(65)}
    assert len(ServerKeys.from_json(good(old_verify_keys=old)).old_verify_keys) == 65


class TestVerifying:
    def test_every_key_signed(self) -> None:
        keys = ServerKeys.from_json(good())
        verified = keys.verify(server_name=SERVER)
        assert type(verified) is VerifiedServerKeys
        assert verified.document is keys
        assert verified.server_name == SERVER
        assert verified.verify_keys == {"ed25519:a_1": ONE.public_key, "ed25519:b_2": TWO.public_key}
        assert repr(verified) == "<VerifiedServerKeys of 'a.example:8448'>"

    @pytest.mark.parametrize(("signer", "missing"), [(ONE, "ed25519:b_2"), (TWO, "ed25519:a_1")])
    def test_one_key_did_not_sign(self, signer: Any, missing: str) -> None:
        with pytest.raises(VerificationError, match=missing) as caught:
            ServerKeys.from_json(signed(unsigned(), signer)).verify(server_name=SERVER)
        assert (caught.value.path, caught.value.reason) == ("", Reason.MISSING_SIGNATURE)

    @pytest.mark.parametrize("signatures", [None, {}, {SERVER: {}}], ids=repr)
    def test_nobody_signed(self, signatures: Any) -> None:
        obj = unsigned() if signatures is None else unsigned(signatures=signatures)
        with pytest.raises(VerificationError) as caught:
            ServerKeys.from_json(obj).verify(server_name=SERVER)
        assert (caught.value.path, caught.value.reason) == ("", Reason.MISSING_SIGNATURE)

    @pytest.mark.parametrize("entity", ["a.example", "A.EXAMPLE:8448", "notary.example"])
    def test_signed_in_another_name(self, entity: str) -> None:
        obj = signed(unsigned(), ONE, TWO, entity=entity)
        for server_name, reason in ((SERVER, Reason.MISSING_SIGNATURE), (entity, Reason.SERVER_NAME_MISMATCH)):
            with pytest.raises(VerificationError) as caught:
                ServerKeys.from_json(obj).verify(server_name=server_name)
            assert caught.value.reason is reason

    def test_signed_by_another_key(self) -> None:
        stranger = sample_secret_key("stranger").signer("ed25519:b_2")
        with pytest.raises(VerificationError) as caught:
            ServerKeys.from_json(signed(unsigned(), ONE, stranger)).verify(server_name=SERVER)
        assert caught.value.reason is Reason.INVALID_SIGNATURE
        assert caught.value.path == "/signatures/a.example:8448/ed25519:b_2"

    @pytest.mark.parametrize(
        "changes",
        [
            {"valid_until_ts": UNTIL + 1},
            {"added": 1},
            {"old_verify_keys": {}},
            {"verify_keys": {"ed25519:a_1": {"key": OLD.to_base64()}}},
        ],
        ids=repr,
    )
    def test_tampered_after_signing(self, changes: dict[str, Any]) -> None:
        with pytest.raises(VerificationError) as caught:
            ServerKeys.from_json({**good(), **changes}).verify(server_name=SERVER)
        assert caught.value.reason is Reason.INVALID_SIGNATURE
        assert caught.value.path == "/signatures/a.example:8448/ed25519:a_1"

    def test_a_key_added_after_signing(self) -> None:
        """Somebody publishes a key that the server does not have."""
        obj = unsigned()
        obj["verify_keys"]["ed25519:evil"] = {"key": OLD.to_base64()}
        with pytest.raises(VerificationError, match="ed25519:evil") as caught:
            ServerKeys.from_json(signed(obj, ONE, TWO)).verify(server_name=SERVER)
        assert caught.value.reason is Reason.MISSING_SIGNATURE

    @pytest.mark.parametrize("server_name", ["b.example", "a.example", "A.example:8448", "", "@a:b"])
    def test_another_servers_document(self, server_name: str) -> None:
        with pytest.raises(VerificationError) as caught:
            ServerKeys.from_json(good()).verify(server_name=server_name)
        assert (caught.value.path, caught.value.reason) == ("/server_name", Reason.SERVER_NAME_MISMATCH)

    @pytest.mark.parametrize("keys", [{}, {"m.future:1": {"key": "x"}}], ids=repr)
    def test_no_ed25519_key(self, keys: dict[str, Any]) -> None:
        with pytest.raises(VerificationError) as caught:
            ServerKeys.from_json(good(verify_keys=keys)).verify(server_name=SERVER)
        assert (caught.value.path, caught.value.reason) == ("/verify_keys", Reason.MISSING_KEY)

    def test_an_old_key_need_not_sign_and_cannot_stand_in(self) -> None:
        obj = unsigned(verify_keys={}, old_verify_keys={"ed25519:a_1": {**KEY, "expired_ts": 1}})
        with pytest.raises(VerificationError) as caught:
            ServerKeys.from_json(signed(obj, ONE)).verify(server_name=SERVER)
        assert caught.value.reason is Reason.MISSING_KEY

    def test_other_signatures_are_harmless(self) -> None:
        with_notary = signed(good(), NOTARY, entity="notary.example")
        with_notary["signatures"]["broken.example"] = {"ed25519:x": "garbage"}
        with_notary["signatures"][SERVER]["ed25519:unknown"] = "garbage"
        verified = ServerKeys.from_json(with_notary).verify(server_name=SERVER)
        assert verified.document.to_json() == with_notary

    @pytest.mark.parametrize("server_name", [None, 5, b"a.example"])
    def test_the_server_name_is_a_string(self, server_name: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            ServerKeys.from_json(good()).verify(server_name=server_name)
        assert (caught.value.path, caught.value.reason) == ("/server_name", Reason.WRONG_TYPE)

    def test_the_verifier_is_asked(self) -> None:
        asked: list[tuple[bytes, bytes, bytes]] = []

        class Recording:
            def verify_many(self, checks: Any, /) -> list[bool]:
                asked.extend(checks)
                return [True for _ in checks]

        keys = ServerKeys.from_json(good())
        keys.verify(server_name=SERVER, verifier=Recording())
        assert [(key, message) for key, message, _ in asked] == [
            (ONE.public_key.raw, keys.signed.canonical),
            (TWO.public_key.raw, keys.signed.canonical),
        ]
        with pytest.raises(LocalProtocolError) as caught:
            keys.verify(server_name=SERVER, verifier=None)  # type: ignore[arg-type]
        assert caught.value.path == "/verifier"


class TestHowLong:
    @pytest.mark.parametrize(
        ("received", "usable"),
        [
            (UNTIL - 8 * DAY, UNTIL - DAY),
            (UNTIL - 7 * DAY - 1, UNTIL - 1),
            (UNTIL - 7 * DAY, UNTIL),
            (UNTIL - 7 * DAY + 1, UNTIL),
            (UNTIL + DAY, UNTIL),  # it has expired already
            (0, 604_800_000),
        ],
    )
    def test_the_lesser_of_what_is_said_and_seven_days(self, received: int, usable: int) -> None:
        verified = ServerKeys.from_json(good()).verify(server_name=SERVER)
        assert verified.usable_until(received) == usable

    @pytest.mark.parametrize("received", [None, "0", 1.5, True])
    def test_a_time_is_an_integer(self, received: Any) -> None:
        verified = ServerKeys.from_json(good()).verify(server_name=SERVER)
        with pytest.raises(LocalProtocolError) as caught:
            verified.usable_until(received)
        assert (caught.value.path, caught.value.reason) == ("/received_ts", Reason.WRONG_TYPE)


class TestSealed:
    @pytest.mark.parametrize("make", ["document", "verified"])
    def test_only_the_library_makes_them(self, make: str) -> None:
        document = ServerKeys.from_json(good())
        value: Any = document if make == "document" else document.verify(server_name=SERVER)
        values = {attribute.name.lstrip("_"): getattr(value, attribute.name) for attribute in attrs.fields(type(value))}
        attempts: list[Any] = [
            lambda: type(value)(**values),
            lambda: type(value)(*values.values()),
            type(value),
            lambda: attrs.evolve(value),
            lambda: attrs.evolve(value, **values),
            lambda: type("Forged", (type(value),), {}),
        ]
        for attempt in attempts:
            with pytest.raises(LocalProtocolError):
                attempt()
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.document = None
        assert copy.copy(value) == value

    @pytest.mark.parametrize("again", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    def test_a_copy_makes_no_new_statement(self, again: Any) -> None:
        document = ServerKeys.from_json(good())
        verified = document.verify(server_name=SERVER)
        assert again(document).to_json() == good()
        assert again(verified) == verified


class TestBuilding:
    def test_it_verifies_and_reads_as_built(self) -> None:
        keys = build(old_verify_keys={"ed25519:0ldK3y": OldVerifyKey(OLD, 1_532_645_052_628)}, extra={"added": [1]})
        assert keys.signed.content == unsigned(added=[1])
        assert keys.signed.signatures.keys() == {SERVER}
        assert keys.to_json() == good(added=[1])
        assert ServerKeys.from_json(keys.to_json()) == keys
        keys.verify(server_name=SERVER)

    def test_no_more_than_needed(self) -> None:
        keys = ServerKeys.build(server_name="a.example", signers=iter([ONE]), valid_until_ts=0)
        assert keys.signed.content == {
            "server_name": "a.example",
            "verify_keys": {"ed25519:a_1": {"key": ONE.public_key.to_base64()}},
            "old_verify_keys": {},
            "valid_until_ts": 0,
        }
        keys.verify(server_name="a.example")

    def test_extra_members_cannot_replace_known_ones(self) -> None:
        extra = {"server_name": "evil", "verify_keys": {}, "old_verify_keys": 5, "valid_until_ts": -1, "signatures": 5}
        keys = build(extra={**extra, "added": 1})
        assert keys.signed.content == unsigned(old_verify_keys={}, added=1)

    @pytest.mark.parametrize(
        ("changes", "path", "reason"),
        [
            ({"server_name": None}, "/server_name", Reason.WRONG_TYPE),
            ({"server_name": b"a.example"}, "/server_name", Reason.NOT_A_JSON_VALUE),
            ({"server_name": "a b"}, "/server_name", Reason.INVALID_IDENTIFIER),
            ({"server_name": "@a:b"}, "/server_name", Reason.INVALID_IDENTIFIER),
            ({"signers": None}, "/signers", Reason.WRONG_TYPE),
            ({"signers": 5}, "/signers", Reason.WRONG_TYPE),
            ({"signers": ONE}, "/signers", Reason.WRONG_TYPE),
            ({"signers": "ed25519:a_1"}, "/signer", Reason.WRONG_TYPE),
            ({"signers": [ONE, None]}, "/signer", Reason.WRONG_TYPE),
            ({"signers": [ONE.secret_key]}, "/signer", Reason.WRONG_TYPE),
            ({"valid_until_ts": None}, "/valid_until_ts", Reason.WRONG_TYPE),
            ({"valid_until_ts": "5"}, "/valid_until_ts", Reason.WRONG_TYPE),
            ({"valid_until_ts": True}, "/valid_until_ts", Reason.WRONG_TYPE),
            ({"valid_until_ts": 1.0}, "/valid_until_ts", Reason.NOT_AN_INTEGER),
            ({"valid_until_ts": 2**53}, "/valid_until_ts", Reason.INTEGER_OUT_OF_RANGE),
            ({"valid_until_ts": 10**5000}, "/valid_until_ts", Reason.INTEGER_OUT_OF_RANGE),
            ({"old_verify_keys": {"ed25519:0": OLD}}, "/old_verify_keys", Reason.WRONG_TYPE),
            ({"old_verify_keys": {"ed25519:0": {"key": "x", "expired_ts": 1}}}, "/old_verify_keys", Reason.WRONG_TYPE),
            ({"old_verify_keys": {"x": OldVerifyKey(OLD, 1)}}, "/old_verify_keys/x", Reason.INVALID_KEY_ID),
            ({"old_verify_keys": {5: OldVerifyKey(OLD, 1)}}, "/old_verify_keys/5", Reason.INVALID_KEY_ID),
            ({"extra": 5}, "/extra", Reason.WRONG_TYPE),
            ({"extra": {"added": 0.5}}, "/added", Reason.NOT_AN_INTEGER),
            ({"extra": {"added": {5: 5}}}, "/added/<int 0>", Reason.NOT_A_JSON_VALUE),
        ],
        ids=lambda value: f"{value!r}"[:50] if not isinstance(value, dict) else "-".join(value),
    )
    def test_bad_parts(self, changes: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            build(**changes)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize("old", [5, [OldVerifyKey(OLD, 1)], "ed25519:0"], ids=["number", "list", "string"])
    def test_old_keys_are_a_mapping(self, old: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            build(old_verify_keys=old)
        assert (caught.value.path, caught.value.reason) == ("/old_verify_keys", Reason.WRONG_TYPE)

    def test_no_old_key_is_left_out(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            build(old_verify_keys={"signatures": OldVerifyKey(OLD, 1)})
        assert (caught.value.path, caught.value.reason) == ("/old_verify_keys/signatures", Reason.INVALID_KEY_ID)

    @pytest.mark.parametrize("key", [None, "x", OLD.to_base64(), OLD.raw, ONE], ids=lambda key: type(key).__name__)
    def test_an_old_key_is_a_key(self, key: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            build(old_verify_keys={"ed25519:0": OldVerifyKey(key, 1)})
        assert caught.value.reason is Reason.WRONG_TYPE

    def test_an_old_key_is_an_ed25519_key(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            build(old_verify_keys={"ed25519:0": OldVerifyKey(sample_curve25519_key("x"), 1)})  # type: ignore[arg-type]
        assert caught.value.reason is Reason.WRONG_TYPE

    @pytest.mark.parametrize(
        ("expired_ts", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            ("1", Reason.WRONG_TYPE),
            (True, Reason.WRONG_TYPE),
            (1.0, Reason.WRONG_TYPE),
            (2**53, Reason.INTEGER_OUT_OF_RANGE),
            (10**5000, Reason.INTEGER_OUT_OF_RANGE),
        ],
        ids=["null", "string", "boolean", "fraction", "out of range", "huge"],
    )
    def test_an_old_key_expired_at_a_time(self, expired_ts: Any, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            build(old_verify_keys={"ed25519:0": OldVerifyKey(OLD, expired_ts)})
        assert caught.value.path.endswith("/expired_ts")
        assert caught.value.reason is reason

    @pytest.mark.parametrize("signers", [[], (), "", {}], ids=repr)
    def test_somebody_must_sign(self, signers: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            build(signers=signers)
        assert caught.value.path == "/signers"

    def test_two_keys_cannot_have_one_id(self) -> None:
        twin = sample_secret_key("twin").signer("ed25519:a_1")
        with pytest.raises(LocalProtocolError):
            build(signers=[ONE, twin])

    @pytest.mark.parametrize("key", [None, OLD.raw, sample_curve25519_key("x")], ids=lambda key: type(key).__name__)
    def test_a_server_signs_with_ed25519_keys(self, key: Any) -> None:
        class Signer:
            key_id = ONE.key_id
            public_key = key
            sign = staticmethod(ONE.sign)

        with pytest.raises(LocalProtocolError) as caught:
            build(signers=[Signer()])
        assert (caught.value.path, caught.value.reason) == ("/signer", Reason.WRONG_TYPE)

    def test_a_signer_that_does_not_sign_with_its_own_key(self) -> None:
        class Liar:
            key_id = ONE.key_id
            public_key = TWO.public_key
            sign = staticmethod(ONE.sign)

        with pytest.raises(LocalProtocolError) as caught:
            build(signers=[Liar()])
        assert caught.value.reason is Reason.INVALID_SIGNATURE


class TestOtherSignatures:
    def test_a_notary_adds_its_own(self) -> None:
        keys = build()
        notarised = keys.with_signed(SignedJson.from_json(signed(keys.to_json(), NOTARY, entity="notary.example")))
        assert notarised == keys
        assert notarised.signed.signatures.keys() == {SERVER, "notary.example"}
        assert notarised.verify_keys == keys.verify_keys
        notarised.verify(server_name=SERVER)
        notarised.signed.verify(entity="notary.example", key_id="ed25519:n_1", key=NOTARY.public_key)

    def test_signatures_can_be_taken_away(self) -> None:
        keys = build()
        bare = keys.with_signed(keys.signed.without_signatures())
        with pytest.raises(VerificationError):
            bare.verify(server_name=SERVER)

    def test_over_the_same_bytes_only(self) -> None:
        keys = build()
        for other in (build(valid_until_ts=1).signed, SampleUser("@a:b").master_key.signed, keys, keys.to_json(), None):
            with pytest.raises(LocalProtocolError) as caught:
                keys.with_signed(other)  # type: ignore[arg-type]
            assert caught.value.reason is Reason.INVALID_VALUE


def test_old_keys_are_values() -> None:
    old = OldVerifyKey(OLD, 5)
    assert (old.key, old.expired_ts) == (OLD, 5)
    assert old == OldVerifyKey(Ed25519PublicKey(OLD.raw), 5)
    assert old != OldVerifyKey(OLD, 6)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        old.expired_ts = 6  # type: ignore[misc]
