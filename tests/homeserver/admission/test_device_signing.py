"""Admission of cross-signing keys: who has to authenticate, what is refused, what is stored and what goes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    AuthenticationFlow,
    CrossSigningKey,
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    SignedJson,
    UserInteractiveAuth,
    add_signature,
)
from matrix_e2e_keys.homeserver.admission.authentication import (
    AuthenticationReason,
    MayStore,
    NoOp,
    RequireAuthentication,
    authentication_needed,
)
from matrix_e2e_keys.homeserver.admission.device_signing import decide_device_signing_upload
from matrix_e2e_keys.homeserver.decisions import Decision, Requester
from matrix_e2e_keys.homeserver.effects import (
    DeviceChanged,
    DropCrossSigningKey,
    DropSignaturesBy,
    DropSignaturesOn,
    IdentityChanged,
    IfUnchanged,
    SignedOthers,
    StoreCrossSigningKey,
    StoreDeviceKeys,
)
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, STRICT, Policy
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values
from tests.json_strategies import few, nested

ALICE = "@alice:a.example"
OLD = SampleUser(ALICE)
NEW = SampleUser(ALICE, generation=1)
BOB = SampleUser("@bob:b.example")

ASKING = Requester(user_id=ALICE, device_id="PHONE")
PROVED = evolve(ASKING, has_authenticated=True)
SERVICE = evolve(ASKING, is_application_service=True)

M, S, U = "master", "self_signing", "user_signing"
FIRST = AuthenticationReason.REPLACES_MASTER_KEY
SECOND = AuthenticationReason.REPLACES_KEY
THIRD = AuthenticationReason.ADDS_KEY


def keys_of(user: SampleUser, *usages: str) -> dict[str, Any]:
    return {f"{usage}_key": getattr(user, f"{usage}_key") for usage in usages}


def upload(user: SampleUser = OLD, *usages: str, **others: Any) -> DeviceSigningUploadRequest:
    return DeviceSigningUploadRequest(**{**keys_of(user, *usages), **others})


def stored(*usages: str, user: SampleUser = OLD, devices: Iterable[str] = (), **others: Any) -> UserKeys:
    records = {name: DeviceRecord(device_id=name, keys=user.device(name).signed) for name in devices}
    given: dict[str, Any] = {**keys_of(user, *usages), **others}
    return UserKeys(user_id=ALICE, devices=records, **given)


ALL = stored(M, S, U)
NOTHING = stored()


def decide(
    request: DeviceSigningUploadRequest,
    view: UserKeys = NOTHING,
    requester: Requester = PROVED,
    policy: Policy = SPEC,
    **others: Any,
) -> Decision[DeviceSigningUploadResponse]:
    return decide_device_signing_upload(request, requester=requester, stored=view, policy=policy, **others)


def refusal(decision: Decision[Any]) -> tuple[int, str | None, str]:
    assert isinstance(decision.answer, MatrixError)
    assert decision.effects == ()
    return decision.answer.status, decision.answer.errcode, decision.answer.error


def kinds(decision: Decision[Any]) -> list[Any]:
    """What is done, short: the usage of a key that is stored or dropped, otherwise the type."""
    assert decision.answer == DeviceSigningUploadResponse()
    return [
        (type(effect), effect.usage)
        if isinstance(effect, StoreCrossSigningKey | DropCrossSigningKey)
        else (type(effect), effect.device_id)
        if isinstance(effect, StoreDeviceKeys | DeviceChanged)
        else type(effect)
        for effect in decision.effects
    ]


def stored_key(decision: Decision[Any], usage: str) -> CrossSigningKey:
    (key,) = [e.key for e in decision.effects if isinstance(e, StoreCrossSigningKey) and e.usage == usage]
    return key


def altered(key: CrossSigningKey, **members: Any) -> CrossSigningKey:
    """The same key in another object, without signatures."""
    return CrossSigningKey.from_json({**key.signed.content, **members})


def signed_by(key: CrossSigningKey, user: SampleUser, usage: str = M) -> CrossSigningKey:
    signer = user.secret(usage).cross_signer()
    return key.with_signed(add_signature(key.signed, entity=key.user_id, signer=signer))


def read(**members: Any) -> DeviceSigningUploadRequest:
    return DeviceSigningUploadRequest.from_json(members)


def key_named(usage: str, name: str, signer: SampleUser = OLD) -> CrossSigningKey:
    """A key of Alice that is derived from a name."""
    key = CrossSigningKey.build(user_id=ALICE, usage=usage, public_key=sample_secret_key(name).public_key)  # type: ignore[arg-type]
    return signed_by(key, signer)


class TestWhoHasToAuthenticate:
    @pytest.mark.parametrize(
        ("view", "request_", "kind"),
        [
            (NOTHING, upload(), NoOp()),
            (NOTHING, upload(OLD, M), MayStore(usages=("master",))),
            (NOTHING, upload(OLD, M, S, U), MayStore(usages=("master", "self_signing", "user_signing"))),
            (NOTHING, upload(OLD, S), MayStore(usages=("self_signing",))),
            (stored(S), upload(OLD, M), MayStore(usages=("master",))),
            (ALL, upload(), NoOp()),
            (ALL, upload(OLD, M, S, U), NoOp()),
            (ALL, upload(OLD, M), NoOp()),
            (ALL, upload(OLD, S), NoOp()),
            (ALL, upload(OLD, S, U), NoOp()),
            (ALL, upload(NEW, M), RequireAuthentication(reason=FIRST, usages=("master",))),
            (ALL, upload(NEW, M, S), RequireAuthentication(reason=FIRST, usages=("master", "self_signing"))),
            (ALL, upload(OLD, M, self_signing_key=NEW.self_signing_key), RequireAuthentication(reason=SECOND, usages=("self_signing",))),
            (ALL, upload(NEW, U), RequireAuthentication(reason=SECOND, usages=("user_signing",))),
            (stored(M), upload(OLD, M, S), RequireAuthentication(reason=THIRD, usages=("self_signing",))),
            (stored(M), upload(OLD, S, U), RequireAuthentication(reason=THIRD, usages=("self_signing", "user_signing"))),
            (stored(M, S), upload(OLD, U, self_signing_key=NEW.self_signing_key), RequireAuthentication(reason=SECOND, usages=("self_signing", "user_signing"))),
            (ALL, upload(OLD, S, master_key=altered(OLD.master_key, more=1)), RequireAuthentication(reason=FIRST, usages=("master",))),
            (stored(M), upload(OLD, S, master_key=altered(OLD.master_key, more=1)), RequireAuthentication(reason=FIRST, usages=("master", "self_signing"))),
            (ALL, read(master_key="?"), RequireAuthentication(reason=FIRST, usages=("master",))),
        ],
    )  # fmt: skip
    def test_the_table(self, view: UserKeys, request_: DeviceSigningUploadRequest, kind: Any) -> None:
        """Attack 41: whatever is new or different needs authentication, once there is a master key."""
        assert authentication_needed(request_, requester=ASKING, stored=view) == kind
        if isinstance(kind, RequireAuthentication):
            for requester in (PROVED, SERVICE):
                assert authentication_needed(request_, requester=requester, stored=view) == MayStore(usages=kind.usages)

    def test_what_the_server_added_makes_no_key_a_new_one(self) -> None:
        """B2: signatures and unsigned are not compared, on either side."""
        master = OLD.master_key.with_signed(
            add_signature(OLD.master_key.signed, entity=ALICE, signer=OLD.device_signer("PHONE")).with_unsigned(
                {"a": 1}
            )
        )
        bare = OLD.self_signing_key.with_signed(OLD.self_signing_key.signed.without_signatures())
        seen = upload(OLD, U, master_key=master, self_signing_key=bare)
        assert authentication_needed(seen, requester=ASKING, stored=ALL) == NoOp()
        view = stored(U, master_key=master, self_signing_key=bare)
        assert authentication_needed(upload(OLD, M, S, U), requester=ASKING, stored=view) == NoOp()

    def test_the_order_of_members_makes_no_key_a_new_one(self) -> None:
        """Attack 41: equality is on what was parsed."""
        members = OLD.master_key.to_json()
        reordered = read(master_key=dict(reversed(list(members.items()))))
        assert authentication_needed(reordered, requester=ASKING, stored=ALL) == NoOp()

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"request": 1}, "/request", Reason.WRONG_TYPE),
            ({"requester": 1}, "/requester", Reason.WRONG_TYPE),
            ({"stored": 1}, "/stored", Reason.WRONG_TYPE),
            ({"stored": UserKeys(user_id=BOB.user_id)}, "/stored", Reason.USER_ID_MISMATCH),
        ],
    )
    def test_wrong_arguments(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        right: dict[str, Any] = {"request": upload(), "requester": ASKING, "stored": ALL}
        with pytest.raises(LocalProtocolError) as caught:
            authentication_needed(**{**right, **arguments})
        assert (caught.value.path, caught.value.reason) == (path, reason)


class TestAskingToAuthenticate:
    def test_a_question_of_status_401_without_error_code(self) -> None:
        answer = decide(upload(NEW, M, S, U), ALL, ASKING).answer
        assert isinstance(answer, MatrixError)
        assert (answer.status, answer.to_json()) == (401, {"flows": [{"stages": ["m.login.password"]}], "params": {}})

    def test_the_challenge_of_the_server(self) -> None:
        challenge = UserInteractiveAuth(flows=(AuthenticationFlow(stages=("m.oauth",)),), session="s")
        decision = decide(upload(NEW, M), ALL, ASKING, challenge=challenge)
        assert isinstance(decision.answer, MatrixError)
        assert (decision.answer.user_interactive, decision.effects) == (challenge, ())

    @pytest.mark.parametrize("requester", [PROVED, SERVICE])
    def test_who_has_proved_it_or_is_an_application_service_is_not_asked(self, requester: Requester) -> None:
        assert decide(upload(NEW, M, S, U), ALL, requester).answer == DeviceSigningUploadResponse()

    def test_auth_in_the_request_alone_proves_nothing(self) -> None:
        """Attack 41: whoever puts anything into auth is asked all the same."""
        assert refusal(decide(upload(NEW, M).with_auth({"type": "m.login.password"}), ALL, ASKING))[0] == 401

    def test_nobody_is_asked_for_an_upload_that_is_refused(self) -> None:
        assert refusal(decide(read(master_key={}), ALL, ASKING)) == (400, "M_INVALID_PARAM", "Invalid master key")

    @pytest.mark.parametrize("view", [NOTHING, ALL])
    def test_nothing_new_is_not_looked_at(self, view: UserKeys) -> None:
        assert decide(upload(), view, ASKING) == Decision(answer=DeviceSigningUploadResponse())

    def test_the_same_again_after_a_lost_answer(self) -> None:
        bare = OLD.self_signing_key.with_signed(OLD.self_signing_key.signed.without_signatures())
        again = decide(upload(OLD, M, U, self_signing_key=bare), ALL, ASKING)
        assert again == Decision(answer=DeviceSigningUploadResponse())

    @pytest.mark.parametrize("argument", ["policy", "challenge", "verifier", "request", "requester", "stored"])
    @pytest.mark.parametrize("value", [1, "text", object()])
    def test_wrong_arguments(self, argument: str, value: Any) -> None:
        right: dict[str, Any] = {"request": upload(), "requester": ASKING, "stored": ALL}
        with pytest.raises(LocalProtocolError) as caught:
            decide_device_signing_upload(**{**right, argument: value})
        assert (caught.value.path, caught.value.reason) == (f"/{argument}", Reason.WRONG_TYPE)


def wrong_keys() -> Iterable[tuple[str, dict[str, Any]]]:
    for usage in (M, S, U):
        good = keys_of(OLD, usage)[f"{usage}_key"].to_json()
        other = {M: S, S: U, U: M}[usage]
        text = next(iter(good["keys"].values()))
        for bad in (
            None,
            "key",
            {},
            {**good, "user_id": BOB.user_id},
            {**good, "user_id": "alice"},
            {**good, "usage": [other]},
            {**good, "usage": [usage, other]},
            {**good, "usage": []},
            {**good, "keys": {}},
            {**good, "keys": {**good["keys"], "ed25519:" + "A" * 43: "A" * 43}},
            {**good, "keys": {"ed25519:PHONE": text}},
            {**good, "keys": {"curve25519:" + text: text}},
            {**good, "keys": {"ed25519:" + text[:-3]: text[:-3]}},
            {**good, "keys": {"ed25519:" + text + "=": text + "="}},
            {**good, "keys": {"ed25519:" + "A" * 43: "A" * 43}},  # of small order
            {**good, "number": 1.5},
        ):
            yield usage, bad  # type: ignore[misc]


class TestWhatIsRefused:
    @pytest.mark.parametrize(("usage", "bad"), list(wrong_keys()))
    @pytest.mark.parametrize("policy", [COMPAT, SPEC, STRICT])
    def test_a_key_that_is_none_or_not_ones_own_or_for_something_else(
        self, usage: str, bad: Any, policy: Policy
    ) -> None:
        """Attack 26; B7, B9, B17: no server error, and nothing of the other keys is stored."""
        members = {**{name: key.to_json() for name, key in keys_of(NEW, M, S, U).items()}, f"{usage}_key": bad}
        expected = (400, "M_INVALID_PARAM", f"Invalid {usage} key")
        assert refusal(decide(read(**members), ALL, policy=policy)) == expected

    @pytest.mark.parametrize("usage", [S, U])
    def test_no_master_key_at_all(self, usage: str) -> None:
        assert refusal(decide(upload(OLD, usage))) == (400, "M_MISSING_PARAM", "No master key available")

    @pytest.mark.parametrize("policy", [COMPAT, SPEC, STRICT])
    @pytest.mark.parametrize("usage", [S, U])
    @pytest.mark.parametrize(
        "case", ["unsigned", "by another master key", "by itself", "tampered", "as Bob", "no base64"]
    )
    def test_a_key_that_the_master_key_has_not_signed(self, policy: Policy, usage: str, case: str) -> None:
        """Attacks 26 and 54: nothing at all is stored, the good keys of the same upload included."""
        good: CrossSigningKey = keys_of(OLD, usage)[f"{usage}_key"]
        bare = good.with_signed(good.signed.without_signatures())
        name = OLD.master_key.key_name
        key = {
            "unsigned": lambda: bare,
            "by another master key": lambda: signed_by(bare, NEW),
            "by itself": lambda: signed_by(bare, OLD, usage),
            "tampered": lambda: CrossSigningKey.from_json({**good.to_json(), "more": 1}),
            "as Bob": lambda: bare.with_signed(
                add_signature(bare.signed, entity=BOB.user_id, signer=OLD.secret(M).cross_signer())
            ),
            "no base64": lambda: CrossSigningKey.from_json({**bare.to_json(), "signatures": {ALICE: {name: "!"}}}),
        }[case]()
        expected = (400, "M_INVALID_SIGNATURE", f"Invalid signature on {usage} key")
        assert refusal(decide(upload(OLD, M, **{f"{usage}_key": key}), policy=policy)) == expected
        assert refusal(decide(upload(OLD, **{f"{usage}_key": key}), stored(M), policy=policy)) == expected

    def test_a_key_signed_by_the_stored_master_key_beside_another_one(self) -> None:
        """What accompanies a key has to have signed it."""
        expected = (400, "M_INVALID_SIGNATURE", "Invalid signature on self_signing key")
        assert refusal(decide(upload(OLD, S, master_key=NEW.master_key), ALL)) == expected

    def test_a_stored_master_key_that_cannot_verify_has_signed_nothing(self) -> None:
        foreign = CrossSigningKey.from_json({"user_id": ALICE, "usage": [M], "keys": {"new:abc": "abc"}})
        expected = (400, "M_INVALID_SIGNATURE", "Invalid signature on self_signing key")
        assert refusal(decide(upload(OLD, S), UserKeys(user_id=ALICE, master_key=foreign))) == expected

    @pytest.mark.parametrize("policy", [COMPAT, SPEC, STRICT])
    @pytest.mark.parametrize("usage", [M, S, U])
    @pytest.mark.parametrize("padding", ["", "="])
    @pytest.mark.parametrize("alphabet", ["+/", "-_"])
    def test_a_key_that_a_device_is_called_like(self, policy: Policy, usage: str, padding: str, alphabet: str) -> None:
        """Attack 25; B8: status 403, whatever way the device writes the key."""
        key: CrossSigningKey = keys_of(OLD, usage)[f"{usage}_key"]
        name = key.key_id.name.translate(str.maketrans("+/", alphabet)) + padding
        view = UserKeys(
            user_id=ALICE, devices={"PHONE": DeviceRecord(device_id="PHONE"), name: DeviceRecord(device_id=name)}
        )
        assert refusal(decide(upload(OLD, M, S, U), view, policy=policy)) == (403, "M_FORBIDDEN", "Key ID in use")

    @pytest.mark.parametrize(
        ("request_", "view"),
        [
            (upload(OLD, M, self_signing_key=key_named(S, f"{ALICE} master 0")), NOTHING),
            (upload(OLD, M, user_signing_key=key_named(U, f"{ALICE} master 0")), NOTHING),
            (upload(OLD, M, S, user_signing_key=key_named(U, f"{ALICE} self_signing 0")), NOTHING),
            (upload(OLD, self_signing_key=key_named(S, f"{ALICE} master 0")), stored(M)),
            (upload(OLD, user_signing_key=key_named(U, f"{ALICE} self_signing 0")), stored(M, S)),
            (upload(OLD, M, self_signing_key=key_named(S, f"{ALICE} PHONE")), stored(devices=["PHONE"])),
            (upload(OLD, M, user_signing_key=key_named(U, f"{ALICE} PHONE")), stored(devices=["PHONE"])),
            (upload(OLD, master_key=key_named(M, f"{ALICE} PHONE")), stored(devices=["PHONE"])),
        ],
    )  # fmt: skip
    def test_one_key_in_two_places(self, request_: DeviceSigningUploadRequest, view: UserKeys) -> None:
        """Attack 29: a key that plays two roles can be taken for the wrong one."""
        status, errcode, error = refusal(decide(request_, view))
        assert (status, errcode, error.endswith("is in use as another key")) == (400, "M_INVALID_PARAM", True)

    def test_the_place_of_a_key_that_goes_may_be_taken(self) -> None:
        """The old self-signing key goes with the old master key."""
        request = upload(NEW, M, user_signing_key=key_named(U, f"{ALICE} self_signing 0", NEW))
        assert not decide(request, ALL).is_refusal

    @pytest.mark.parametrize("usage", [M, S, U])
    def test_too_many_signatures(self, usage: str) -> None:
        """Attack 48: one more than allowed, whoever made them."""
        key: CrossSigningKey = keys_of(OLD, usage)[f"{usage}_key"]
        signed = key.signed
        tight = evolve(SPEC, limits=evolve(SPEC.limits, signatures_per_object=3))
        while sum(map(len, signed.signatures.values())) < 3:
            count = sum(map(len, signed.signatures.values()))
            signed = add_signature(signed, entity=BOB.user_id, signer=BOB.device_signer(f"D{count}"))
        allowed = upload(OLD, M, S, U, **{f"{usage}_key": key.with_signed(signed)})
        assert not decide(allowed, policy=tight).is_refusal
        signed = add_signature(signed, entity="@c:c.example", signer=BOB.device_signer("D"))
        beyond = upload(OLD, M, S, U, **{f"{usage}_key": key.with_signed(signed)})
        expected = (400, "M_TOO_LARGE", f"There are too many signatures on the {usage} key")
        assert refusal(decide(beyond, policy=tight)) == expected

    @pytest.mark.parametrize("usage", [M, S, U])
    def test_an_object_that_is_too_large(self, usage: str) -> None:
        """Attack 48: one byte more than allowed, of what would be stored."""
        key = signed_by(altered(keys_of(OLD, usage)[f"{usage}_key"], padding="." * 300), OLD)
        request = upload(OLD, M, S, U, **{f"{usage}_key": key.with_signed(key.signed.with_unsigned({"a": "." * 900}))})
        size = len(json.dumps(key.to_json(), separators=(",", ":")))
        for limit, is_refused in ((size, False), (size - 1, True)):
            tight = evolve(SPEC, limits=evolve(SPEC.limits, object_bytes=limit))
            decision = decide(request, policy=tight)
            assert decision.is_refusal is is_refused
        error = f"There are {size} bytes in the {usage} key, over the limit of {size - 1}"
        assert refusal(decision) == (400, "M_TOO_LARGE", error)

    def test_an_object_that_is_nested_too_deeply_to_be_served(self) -> None:
        """Attack 52: what others could not read is not stored."""
        key = altered(OLD.master_key, more=nested(110))
        status, errcode, _ = refusal(decide(upload(OLD, master_key=key)))
        assert (status, errcode) == (400, "M_BAD_JSON")


class TestWhatIsStored:
    def test_the_first_keys(self) -> None:
        decision = decide(upload(OLD, M, S, U), requester=ASKING)
        assert kinds(decision) == [
            (StoreCrossSigningKey, M), (StoreCrossSigningKey, S), (StoreCrossSigningKey, U), IdentityChanged, SignedOthers
        ]  # fmt: skip
        for usage, key in keys_of(OLD, M, S, U).items():
            assert stored_key(decision, usage.removesuffix("_key")).to_json() == key.to_json()
        assert decision.effects[-2:] == (IdentityChanged(user_id=ALICE), SignedOthers(user_id=ALICE))

    @pytest.mark.parametrize("others", [{}, {"earlier_keys": frozenset({"A"})}, {"devices": ["PHONE"]}])
    def test_only_if_the_user_is_as_he_was(self, others: dict[str, Any]) -> None:
        view = stored(M, S, U, **others)
        without = decide(upload(NEW, M, S, U), view).effects
        assert decide(upload(NEW, M, S, U), evolve(view, revision=5)).effects == (
            IfUnchanged(user_id=ALICE, revision=5),
            *without,
        )
        assert not any(isinstance(effect, IfUnchanged) for effect in without)
        assert decide(upload(OLD, M, S, U), evolve(view, revision=5)).effects == ()
        assert decide(upload(NEW, M, S, U), evolve(view, revision=5), ASKING).effects == ()

    def test_a_master_key_alone(self) -> None:
        assert kinds(decide(upload(OLD, M))) == [(StoreCrossSigningKey, M), IdentityChanged]

    def test_a_self_signing_key_beside_an_unchanged_master_key(self) -> None:
        """B7: only what is another is stored, and the master key keeps what the server knows of it."""
        view = stored(M, devices=["PHONE"])
        assert kinds(decide(upload(OLD, M, S), view)) == [(StoreCrossSigningKey, S), IdentityChanged]

    def test_a_user_signing_key_is_told_to_nobody_else(self) -> None:
        assert kinds(decide(upload(OLD, M, S, U), stored(M, S))) == [(StoreCrossSigningKey, U), SignedOthers]

    def test_the_signatures_of_the_owners_keys_only(self) -> None:
        """B18: what others, or nobody, signed is not published; nor is unsigned."""
        master = OLD.master_key.signed
        for entity, signer in (
            (ALICE, OLD.secret(M).cross_signer()),
            (ALICE, OLD.device_signer("PHONE")),
            (ALICE, OLD.device_signer("UNKNOWN")),
            (ALICE, OLD.device_signer("KEYLESS")),
            (ALICE, OLD.secret(S).cross_signer()),
            (BOB.user_id, BOB.device_signer("PHONE")),
            (BOB.user_id, BOB.secret(U).cross_signer()),
        ):
            master = add_signature(master, entity=entity, signer=signer)
        members = master.to_json()
        members["unsigned"] = {"shown": "to everybody"}
        signatures: Any = members["signatures"]
        signatures[ALICE]["ed25519:LAPTOP"] = signatures[ALICE]["ed25519:PHONE"]
        signatures[ALICE]["curve25519:PHONE"] = signatures[ALICE]["ed25519:PHONE"]
        signatures[ALICE]["nocolon"] = signatures[ALICE]["ed25519:PHONE"]
        signatures[ALICE]["ed25519:\ud800"] = signatures[ALICE]["ed25519:PHONE"]
        self_signing = signed_by(OLD.self_signing_key, OLD, S)
        view = stored(devices=["PHONE", "LAPTOP"])
        view = evolve(view, devices={**view.devices, "KEYLESS": DeviceRecord(device_id="KEYLESS")})
        request = read(master_key=members, self_signing_key={**self_signing.to_json(), "unsigned": {"a": 1}})
        decision = decide(request, view)
        kept = stored_key(decision, M).to_json()
        assert kept["signatures"].keys() == {ALICE}  # type: ignore[union-attr]
        assert kept["signatures"][ALICE].keys() == {"ed25519:PHONE", OLD.master_key.key_name}  # type: ignore[index,call-overload,union-attr]
        assert "unsigned" not in kept
        assert stored_key(decision, S).to_json() == OLD.self_signing_key.to_json()

    def test_a_padded_signature_is_stored_without_padding(self) -> None:
        members = OLD.self_signing_key.to_json()
        signatures: Any = members["signatures"]
        signatures[ALICE][OLD.master_key.key_name] += "=="
        decision = decide(read(master_key=OLD.master_key.to_json(), self_signing_key=members))
        assert stored_key(decision, S).to_json() == OLD.self_signing_key.to_json()


class TestWhatGoes:
    def test_with_another_master_key(self) -> None:
        """What the new one has not signed goes, and what was signed of the old one, or by what went."""
        view = stored(M, S, U, devices=["PHONE"])
        assert kinds(decide(upload(NEW, M), view)) == [
            (StoreCrossSigningKey, M),
            (DropCrossSigningKey, S),
            (DropCrossSigningKey, U),
            DropSignaturesOn,
            DropSignaturesBy,
            (StoreDeviceKeys, "PHONE"),
            (DeviceChanged, "PHONE"),
            IdentityChanged,
            SignedOthers,
        ]

    def test_with_another_identity(self) -> None:
        view = stored(M, S, U, devices=["PHONE"])
        assert kinds(decide(upload(NEW, M, S, U), view)) == [
            (StoreCrossSigningKey, M),
            (StoreCrossSigningKey, S),
            (StoreCrossSigningKey, U),
            DropSignaturesOn,
            DropSignaturesBy,
            (StoreDeviceKeys, "PHONE"),
            (DeviceChanged, "PHONE"),
            IdentityChanged,
            SignedOthers,
        ]

    def test_keys_that_the_new_master_key_signed_again_stay_with_its_signature(self) -> None:
        again: dict[str, Any] = {
            f"{usage}_key": signed_by(keys_of(OLD, usage)[f"{usage}_key"], NEW) for usage in (S, U)
        }
        decision = decide(upload(NEW, M, **again), stored(M, S, U, devices=["PHONE"]))
        assert kinds(decision) == [
            (StoreCrossSigningKey, M), (StoreCrossSigningKey, S), (StoreCrossSigningKey, U), DropSignaturesOn, IdentityChanged
        ]  # fmt: skip
        for usage in (S, U):
            assert stored_key(decision, usage).signed.signatures[ALICE].keys() == {NEW.master_key.key_name}

    def test_stored_keys_that_the_new_master_key_had_signed_stay_as_they_are(self) -> None:
        again: dict[str, Any] = {
            f"{usage}_key": signed_by(keys_of(OLD, usage)[f"{usage}_key"], NEW) for usage in (S, U)
        }
        decision = decide(upload(NEW, M), stored(M, devices=["PHONE"], **again))
        assert kinds(decision) == [(StoreCrossSigningKey, M), DropSignaturesOn, IdentityChanged]

    def test_with_another_self_signing_key(self) -> None:
        """B3: no signature of the old key is left on any device, and all others stay."""
        view = stored(M, S, U, devices=["PHONE", "TABLET"])
        unsigned = OLD.device("LAPTOP", cross_signed=False).signed
        foreign = add_signature(OLD.device("TABLET").signed, entity=BOB.user_id, signer=BOB.device_signer("X"))
        records = {
            **view.devices,
            "TABLET": DeviceRecord(device_id="TABLET", keys=foreign),
            "LAPTOP": DeviceRecord(device_id="LAPTOP", keys=unsigned),
            "NEVER": DeviceRecord(device_id="NEVER", keys=unsigned.without_signatures()),
            "KEYLESS": DeviceRecord(device_id="KEYLESS"),
        }
        new = key_named(S, "another", OLD)
        decision = decide(upload(OLD, self_signing_key=new), evolve(view, devices=records))
        assert kinds(decision) == [
            (StoreCrossSigningKey, S),
            (StoreDeviceKeys, "PHONE"),
            (StoreDeviceKeys, "TABLET"),
            (DeviceChanged, "PHONE"),
            (DeviceChanged, "TABLET"),
            IdentityChanged,
        ]
        by_device = {e.device_id: e.keys for e in decision.effects if isinstance(e, StoreDeviceKeys)}
        assert by_device["PHONE"].to_json() == OLD.device("PHONE", cross_signed=False).to_json()
        assert by_device["TABLET"].signatures.keys() == {ALICE, BOB.user_id}
        assert by_device["TABLET"].signatures[ALICE].keys() == {"ed25519:TABLET"}

    def test_with_another_user_signing_key(self) -> None:
        decision = decide(
            upload(OLD, user_signing_key=key_named(U, "another", OLD)), stored(M, S, U, devices=["PHONE"])
        )
        assert decision.effects[1:] == (DropSignaturesBy(user_id=ALICE), SignedOthers(user_id=ALICE))

    def test_the_same_key_in_another_object_can_still_sign(self) -> None:
        """Signatures on an object go with its bytes, signatures by a key only with the key."""
        others = {
            f"{usage}_key": signed_by(altered(keys_of(OLD, usage)[f"{usage}_key"], more=1), OLD) for usage in (S, U)
        }
        view = stored(M, S, U, devices=["PHONE"])
        assert kinds(decide(upload(OLD, **others), view)) == [
            (StoreCrossSigningKey, S), (StoreCrossSigningKey, U), IdentityChanged, SignedOthers
        ]  # fmt: skip
        decision = decide(upload(OLD, master_key=altered(OLD.master_key, more=1)), view)
        assert kinds(decision) == [(StoreCrossSigningKey, M), DropSignaturesOn, IdentityChanged]

    def test_back_to_an_earlier_master_key(self) -> None:
        """An identity that comes back is stored like any other."""
        earlier = frozenset(key.key_id.name for key in keys_of(NEW, M, S, U).values())
        decision = decide(upload(NEW, M, S, U), stored(M, S, U, earlier_keys=earlier))
        assert stored_key(decision, M) == NEW.master_key

    def test_the_view_is_not_changed(self) -> None:
        view = stored(M, S, U, devices=["PHONE"])
        before = (view.devices["PHONE"].keys, dict(view.devices))
        assert before[0] is not None
        as_it_was = before[0].to_json()
        decide(upload(NEW, M, S, U), view)
        assert view.devices["PHONE"].keys is before[0]
        assert before[0].to_json() == as_it_was


class TestAnyBody:
    @few
    @given(
        st.dictionaries(st.sampled_from(["master_key", "self_signing_key", "user_signing_key"]), json_like_values()),
        st.sampled_from([NOTHING, ALL]),
        st.sampled_from([COMPAT, SPEC, STRICT]),
        st.sampled_from([ASKING, PROVED]),
    )
    def test_is_answered(self, body: dict[str, Any], view: UserKeys, policy: Policy, requester: Requester) -> None:
        """Attack 54: every decision is total, can be written, and has effects only if it is no refusal."""
        decision = decide(DeviceSigningUploadRequest.from_json(body), view, requester, policy)
        assert decision.to_http().status in (200, 400, 401)
        assert not (decision.is_refusal and decision.effects)

    @pytest.mark.parametrize("bad", ["null", "1.5", '"\\ud800"', "[]", '{"a":1,"a":2}', '{"user_id":1e400}', "9" * 30])
    def test_is_answered_whatever_the_bytes(self, bad: str) -> None:
        body = f'{{"master_key":{bad},"self_signing_key":{bad}}}'.encode()
        assert refusal(decide(DeviceSigningUploadRequest.from_bytes(body)))[:2] == (400, "M_INVALID_PARAM")

    def test_what_is_stored_can_be_served(self) -> None:
        """Attack 52: whatever is accepted has a canonical encoding, and is read back as the same key."""
        key = CrossSigningKey.from_json(
            {**OLD.master_key.to_json(), "note": "\U0001f511\u2028", "deep": [{"a": [None]}]}
        )
        made = stored_key(decide(upload(OLD, master_key=key)), M)
        assert SignedJson.from_json(made.to_json()).canonical == key.signed.canonical
