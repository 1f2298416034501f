"""Admission of /keys/upload: what is stored, what is refused, and that nothing accepted fails to be served."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from json_strategies import few, modest, nested, safe_values, wild_values
from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceKeys,
    KeysClaimResponse,
    KeysQueryResponse,
    KeysUploadRequest,
    LocalProtocolError,
    MatrixError,
    OneTimeKey,
    Reason,
    SignedJson,
    one_time_key_conflict,
    parse_json,
)
from matrix_e2e_keys.homeserver.admission.keys_upload import (
    UploadLookup,
    UploadView,
    decide_keys_upload,
    upload_lookup,
)
from matrix_e2e_keys.homeserver.decisions import Decision, Requester
from matrix_e2e_keys.homeserver.effects import (
    DeviceChanged,
    ForgetOneTimeKeys,
    IdentityChanged,
    IfUnchanged,
    StoreCrossSigningKey,
    StoreDeviceKeys,
    StoreFallbackKey,
    StoreOneTimeKeys,
)
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, STRICT, Policy
from matrix_e2e_keys.homeserver.stored_keys import (
    DeviceRecord,
    FallbackKeyRecord,
    StoredKey,
    UserKeys,
    device_entry,
    key_digest,
    one_time_key_entry,
)
from matrix_e2e_keys.signing.signers import add_signature, sign_json
from matrix_e2e_keys.testing.message_strategies import keys_upload_requests
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
PHONE = "PHONE"
REQUESTER = Requester(user_id=ALICE.user_id, device_id=PHONE)
POLICIES = [COMPAT, SPEC, STRICT]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
demanding = pytest.mark.parametrize("policy", [SPEC, STRICT], ids=lambda policy: policy.name)

SIGNED = "signed_curve25519"
ED = f"ed25519:{PHONE}"


def upload(**body: Any) -> KeysUploadRequest:
    """The request as a server reads it."""
    return KeysUploadRequest.from_bytes(json.dumps(body))


def otk(name: str, **kwargs: Any) -> OneTimeKey:
    return ALICE.one_time_key(PHONE, name, **kwargs)


def otks(*names: str) -> dict[str, Any]:
    return {f"{SIGNED}:{name}": otk(name).to_json() for name in names}


def fallback(name: str, key: str | None = None) -> dict[str, Any]:
    return {f"{SIGNED}:{name}": otk(key or name, fallback=True).to_json()}


def stored(key: OneTimeKey) -> StoredKey:
    return key.key if key.signed is None else key.signed


def alice(keys: DeviceKeys | SignedJson | None = None, *others: str, **members: Any) -> UserKeys:
    """Alice, with a phone that may have keys, and other devices that have some."""
    signed = keys.signed if isinstance(keys, DeviceKeys) else keys
    devices = {PHONE: DeviceRecord(device_id=PHONE, keys=signed)}
    devices |= {name: DeviceRecord(device_id=name, keys=ALICE.device(name).signed) for name in others}
    return UserKeys(user_id=ALICE.user_id, devices=devices, **members)


def with_identity(keys: DeviceKeys | SignedJson | None = None, **members: Any) -> UserKeys:
    members = {"master_key": ALICE.master_key, "self_signing_key": ALICE.self_signing_key, **members}
    return alice(keys, **members)


def held(*keys: OneTimeKey, user: UserKeys | None = None, **members: Any) -> UploadView:
    """A view of a device that holds some one-time keys."""
    counts: dict[str, int] = {}
    for key in keys:
        counts[key.key_id.algorithm] = counts.get(key.key_id.algorithm, 0) + 1
    return UploadView(
        user=user or alice(ALICE.device(PHONE, cross_signed=False)),
        one_time_keys={str(key.key_id): stored(key) for key in keys},
        digests={key_digest(stored(key)): str(key.key_id) for key in keys},
        **{"counts": counts, **members},
    )


def decide(
    request: KeysUploadRequest, view: UploadView | UserKeys | None = None, policy: Policy = SPEC
) -> Decision[Any]:
    if view is None:
        view = held()
    if isinstance(view, UserKeys):
        view = UploadView(user=view)
    decision = decide_keys_upload(request, requester=REQUESTER, view=view, policy=policy)
    assert isinstance(decision.answer, MatrixError) == decision.is_refusal
    if decision.is_refusal:
        assert decision.effects == ()
    return decision


def refused(decision: Decision[Any]) -> tuple[int, str | None, str]:
    assert isinstance(decision.answer, MatrixError)
    return decision.answer.status, decision.answer.errcode, decision.answer.error


def code(decision: Decision[Any]) -> tuple[int, str | None]:
    return refused(decision)[:2]


def counts(decision: Decision[Any]) -> dict[str, int]:
    return dict(decision.require().one_time_key_counts)


def new_keys(decision: Decision[Any]) -> list[str]:
    decision.require()
    return [key_id for effect in decision.effects if isinstance(effect, StoreOneTimeKeys) for key_id in effect.keys]


def new_fallback_keys(decision: Decision[Any]) -> list[str]:
    decision.require()
    return [effect.key_id for effect in decision.effects if isinstance(effect, StoreFallbackKey)]


def new_device(decision: Decision[Any]) -> SignedJson:
    (effect,) = [effect for effect in decision.effects if isinstance(effect, StoreDeviceKeys)]
    return effect.keys


def signers(keys: SignedJson) -> dict[str, set[str]]:
    return {entity: set(by) for entity, by in keys.signatures.items()}


def bad_signature(obj: dict[str, Any], key_id: str = ED) -> dict[str, Any]:
    obj = copy.deepcopy(obj)
    obj["signatures"].setdefault(ALICE.user_id, {})[key_id] = "A" * 86
    return obj


class TestWhoUploads:
    def test_a_token_without_a_device_uploads_nothing(self) -> None:
        requester = Requester(user_id=ALICE.user_id)
        decision = decide_keys_upload(upload(), requester=requester, view=held())
        text = "To upload keys, you must pass device_id when authenticating"
        assert refused(decision) == (400, "M_UNKNOWN", text)

    def test_a_device_that_is_gone(self) -> None:
        user = UserKeys(user_id=ALICE.user_id)
        assert refused(decide(upload(one_time_keys=otks("A")), user)) == (404, "M_NOT_FOUND", "Unknown device")

    @pytest.mark.parametrize("device_id", [PHONE, "OTHER"])
    def test_the_device_in_the_path_is_that_of_the_token(self, device_id: str) -> None:
        """Attack 51."""
        request = KeysUploadRequest.from_json({"one_time_keys": {"curve25519:A": otk("A").key}}, device_id=device_id)
        decision = decide(request)
        if device_id == PHONE:
            assert new_keys(decision) == ["curve25519:A"]
        else:
            assert code(decision) == (403, "M_FORBIDDEN")

    @every_policy
    @pytest.mark.parametrize("user_id", [ALICE.user_id, BOB.user_id])
    @pytest.mark.parametrize("device_id", [PHONE, "TABLET"])
    def test_the_keys_are_those_of_the_token(self, policy: Policy, user_id: str, device_id: str) -> None:
        """Attack 51: all four of two users and two devices."""
        keys = SampleUser(user_id).device(device_id).to_json()
        decision = decide(upload(device_keys=keys), alice(None, "TABLET"), policy)
        if (user_id, device_id) == (ALICE.user_id, PHONE):
            assert new_device(decision).content["device_id"] == PHONE
        elif user_id == BOB.user_id:
            text = "Provided `user_id` in `device_keys` does not match that of the authenticated user"
            assert refused(decision) == (400, "M_BAD_JSON", text)
        else:
            text = "Provided `device_id` in `device_keys` does not match that of the authenticated user device"
            assert refused(decision) == (400, "M_BAD_JSON", text)

    @pytest.mark.parametrize(
        ("name", "value", "path"),
        [
            ("request", {}, "/request"),
            ("request", None, "/request"),
            ("requester", ALICE.user_id, "/requester"),
            ("view", {}, "/view"),
            ("view", UploadView(user=UserKeys(user_id=BOB.user_id)), "/view/user"),
            ("policy", "spec", "/policy"),
            ("verifier", None, "/verifier"),
        ],
    )
    def test_wrong_arguments(self, name: str, value: Any, path: str) -> None:
        arguments: dict[str, Any] = {"request": upload(), "requester": REQUESTER, "view": held(), name: value}
        with pytest.raises(LocalProtocolError) as caught:
            decide_keys_upload(arguments.pop("request"), **arguments)
        assert caught.value.path == path

    @pytest.mark.parametrize(
        ("name", "value", "path"),
        [
            ("user", None, "/user"),
            ("one_time_keys", {"a:b": 5}, "/one_time_keys/a:b"),
            ("counts", {"a": -1}, "/counts/a"),
            ("claimed", {"a:b": None}, "/claimed/a:b"),
            ("digests", [], "/digests"),
            ("fallback_keys", {"a": "key"}, "/fallback_keys/a"),
        ],
    )
    def test_wrong_views(self, name: str, value: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UploadView(**{"user": alice(), name: value})
        assert caught.value.path == path

    def test_nothing_uploaded_asks_for_the_counts(self) -> None:
        decision = decide(upload(), held(otk("A"), otk("B")))
        assert (counts(decision), decision.effects) == ({SIGNED: 2}, ())


class TestDeviceKeys:
    def test_new_keys_are_stored_and_told(self) -> None:
        keys = ALICE.device(PHONE, cross_signed=False)
        decision = decide(upload(device_keys=keys.to_json()), alice())
        assert decision.effects == (
            StoreDeviceKeys(user_id=ALICE.user_id, device_id=PHONE, keys=keys.signed),
            DeviceChanged(user_id=ALICE.user_id, device_id=PHONE),
        )
        assert new_device(decision).to_json() == keys.to_json()
        assert counts(decision) == {SIGNED: 0}

    @every_policy
    def test_a_retry_changes_nothing(self, policy: Policy) -> None:
        keys = ALICE.device(PHONE, cross_signed=False)
        assert decide(upload(device_keys=keys.to_json()), alice(keys), policy).effects == ()

    @every_policy
    def test_foreign_signatures_and_unsigned_are_left_out(self, policy: Policy) -> None:
        """What a client calls itself in unsigned, or says that others signed, is not published."""
        keys = ALICE.device(PHONE, cross_signed=False).to_json()
        sent: dict[str, Any] = copy.deepcopy(keys)
        sent["unsigned"] = {"device_display_name": "the Pope", "a": 1.5}
        sent["signatures"][BOB.user_id] = {"ed25519:X": "A" * 86}
        assert new_device(decide(upload(device_keys=sent), alice(), policy)).to_json() == keys

    @demanding
    @pytest.mark.parametrize(
        ("change", "errcode"),
        [
            ({"algorithms": ["x"]}, "M_INVALID_SIGNATURE"),
            ({"signatures": {}}, "M_INVALID_SIGNATURE"),
            ({"signatures": {ALICE.user_id: {ED: "A" * 86}}}, "M_INVALID_SIGNATURE"),
            ({"keys": {f"curve25519:{PHONE}": sample_curve25519_key("x").to_base64()}}, "M_INVALID_PARAM"),
            ({"keys": {}}, "M_INVALID_PARAM"),
            ({"keys": {"ed25519:test": "x"}}, "M_BAD_JSON"),
            ({"keys": {ED: "self+key"}}, "M_BAD_JSON"),
            ({"keys": []}, "M_BAD_JSON"),
            ({"algorithms": None}, "M_BAD_JSON"),
            ({"signatures": None}, "M_BAD_JSON"),
            ({"user_id": "alice"}, "M_INVALID_PARAM"),
            ({"user_id": 5}, "M_BAD_JSON"),
            ({"extra": 1.5}, "M_BAD_JSON"),
        ],
    )
    def test_what_is_demanded(self, policy: Policy, change: dict[str, Any], errcode: str) -> None:
        sent = {**ALICE.device(PHONE).to_json(), **change}
        assert code(decide(upload(device_keys=sent), alice(), policy)) == (400, errcode)

    @demanding
    def test_the_refusal_says_where(self, policy: Policy) -> None:
        sent = {**ALICE.device(PHONE).to_json(), "keys": []}
        assert "/device_keys/keys" in refused(decide(upload(device_keys=sent), alice(), policy))[2]

    @every_policy
    @pytest.mark.parametrize("member", ["user_id", "device_id", "algorithms", "keys", "signatures"])
    def test_five_members_are_required(self, policy: Policy, member: str) -> None:
        sent = ALICE.device(PHONE).to_json()
        del sent[member]
        assert code(decide(upload(device_keys=sent), alice(), policy)) == (400, "M_BAD_JSON")

    @every_policy
    @pytest.mark.parametrize("sent", [None, [], "x", 5, True, {}])
    def test_what_are_no_device_keys(self, policy: Policy, sent: Any) -> None:
        assert code(decide(upload(device_keys=sent), alice(), policy)) == (400, "M_BAD_JSON")

    @every_policy
    @pytest.mark.parametrize("usage", ["master", "self_signing", "user_signing", "earlier"])
    def test_no_device_is_called_like_a_cross_signing_key(self, policy: Policy, usage: str) -> None:
        """Attack 25: whatever the policy, and though such a device should not be there at all."""
        name = sample_secret_key("identity").public_key
        members: dict[str, Any] = {"earlier_keys": frozenset({name.to_base64()})}
        if usage != "earlier":
            key = CrossSigningKey.build(user_id=ALICE.user_id, usage=usage, public_key=name)  # type: ignore[arg-type]
            members = {f"{usage}_key": key}
        for text in (name.to_base64(), f"{name.to_base64()}=", name.to_base64().replace("+", "-").replace("/", "_")):
            device = DeviceRecord(device_id=text)
            user = UserKeys(user_id=ALICE.user_id, devices={device.device_id: device}, **members)
            decision = decide_keys_upload(
                upload(device_keys=ALICE.device(device.device_id).to_json()),
                requester=Requester(user_id=ALICE.user_id, device_id=device.device_id),
                view=UploadView(user=user),
                policy=policy,
            )
            assert refused(decision) == (403, "M_FORBIDDEN", "Key ID in use")

    @demanding
    def test_no_device_signs_with_a_cross_signing_key(self, policy: Policy) -> None:
        """Attack 25."""
        secret = ALICE.secret("self_signing")
        keys = DeviceKeys.build(
            user_id=ALICE.user_id,
            device_id=PHONE,
            curve25519_key=sample_curve25519_key("x"),
            signer=secret.signer(ED),
        )
        request = upload(device_keys=keys.to_json())
        assert code(decide(request, with_identity(), policy)) == (400, "M_INVALID_PARAM")
        assert new_device(decide(request, alice(master_key=ALICE.master_key), policy)) == keys.signed


class TestCompatDeviceKeys:
    LAX: ClassVar[dict[str, Any]] = {
        "user_id": ALICE.user_id,
        "device_id": PHONE,
        "algorithms": ["m.olm"],
        "keys": {"ed25519:test": "ed25519+key"},
        "signatures": {ALICE.user_id: {ED: "self+signature"}},
    }

    @pytest.mark.parametrize(
        "change",
        [
            {},
            {"algorithms": [], "keys": {}, "signatures": {}},
            {"keys": {"nocolon": "x"}},
            {"keys": {ED: "x"}},
            {"keys": {ED: "A" * 42, f"curve25519:{PHONE}": "A" * 43}},
            {"extra": {"a": [None, True, 5]}},
        ],
    )
    def test_what_deployed_servers_store_is_stored(self, change: dict[str, Any]) -> None:
        sent = {**self.LAX, **change}
        assert new_device(decide(upload(device_keys=sent), alice(), COMPAT)).to_json() == sent
        assert decide(upload(device_keys=sent), alice(), SPEC).is_refusal

    @pytest.mark.parametrize(
        "change",
        [
            {"algorithms": "m.olm"},
            {"algorithms": [5]},
            {"keys": None},
            {"keys": {"ed25519:test": 5}},
            {"user_id": None},
            {"device_id": 5},
            {"signatures": []},
            {"signatures": {ALICE.user_id: "x"}},
            {"signatures": {ALICE.user_id: {ED: 5}}},
            {"extra": 1.5},
            {"extra": 2**53},
            {"extra": "\ud800"},
            {"signatures": {ALICE.user_id: {ED: "\ud800"}}},
            {"signatures": {ALICE.user_id: {f"\ud800:{PHONE}": "x"}}},
            {"keys": {}, "extra": "\ud800"},
            {"keys": {}, "extra": 1.5},
        ],
    )
    def test_what_they_refuse_or_cannot_serve_is_refused(self, change: dict[str, Any]) -> None:
        """Attack 52."""
        assert code(decide(upload(device_keys={**self.LAX, **change}), alice(), COMPAT)) == (400, "M_BAD_JSON")

    @every_policy
    @pytest.mark.parametrize("place", ['"x":1,"x":1,', '"x":-0,', '"x":1e400,', '"x":' + "9" * 50 + ","])
    def test_what_has_no_canonical_json_is_refused_by_all(self, policy: Policy, place: str) -> None:
        """Attack 52."""
        text = json.dumps(ALICE.device(PHONE).to_json())
        request = KeysUploadRequest.from_bytes('{"device_keys":{' + place + text[1:] + "}")
        assert code(decide(request, alice(), policy)) == (400, "M_BAD_JSON")

    def test_a_wrong_owner_is_refused_in_whatever_shape(self) -> None:
        decision = decide(upload(device_keys={**self.LAX, "user_id": "nobody"}), alice(), COMPAT)
        assert "`user_id`" in refused(decision)[2]


def deep(levels: int) -> dict[str, Any]:
    """Device keys that are so many levels deep."""
    return ALICE.device(PHONE, cross_signed=False, extra={"x": nested(levels - 1)}).to_json()


class TestDepth:
    """Attack 52: answers and transactions nest an object further than the upload did."""

    @every_policy
    def test_a_hundred_levels(self, policy: Policy) -> None:
        keys = new_device(decide(upload(device_keys=deep(100)), alice(), policy))
        transaction = {"edus": [{"content": {"keys": keys.to_json()}}]}
        assert parse_json(json.dumps(transaction)) == transaction
        answer = KeysQueryResponse(device_keys={ALICE.user_id: {PHONE: device_entry(keys)}})
        read = KeysQueryResponse.from_http(answer.to_http())
        assert isinstance(read.device_keys[ALICE.user_id][PHONE], DeviceKeys)  # type: ignore[index]

    @every_policy
    def test_one_more_is_refused(self, policy: Policy) -> None:
        decision = decide(upload(device_keys=deep(101)), alice(), policy)
        assert refused(decision) == (400, "M_BAD_JSON", "There are more than 100 levels in device_keys")


class TestSignaturesOnDeviceKeys:
    def test_a_cross_signature_survives_an_upload_without_it(self) -> None:
        signed = ALICE.device(PHONE)
        request = upload(device_keys=ALICE.device(PHONE, cross_signed=False).to_json())
        assert decide(request, with_identity(signed)).effects == ()

    @every_policy
    def test_a_good_cross_signature_is_added(self, policy: Policy) -> None:
        signed = ALICE.device(PHONE)
        unsigned = ALICE.device(PHONE, cross_signed=False)
        decision = decide(upload(device_keys=signed.to_json()), with_identity(unsigned), policy)
        assert new_device(decision).signatures == signed.signed.signatures
        assert decision.effects[1:] == (DeviceChanged(user_id=ALICE.user_id, device_id=PHONE),)

    @every_policy
    @pytest.mark.parametrize("is_known", [True, False])
    def test_a_bad_cross_signature_is_left_out(self, policy: Policy, is_known: bool) -> None:
        """Attack 25: what stands under the id of the self-signing key is by that key."""
        name = ALICE.self_signing_key.key_name
        unsigned = ALICE.device(PHONE, cross_signed=False)
        sent = bad_signature(unsigned.to_json(), name)
        user = with_identity() if is_known else alice()
        assert signers(new_device(decide(upload(device_keys=sent), user, policy))) == {ALICE.user_id: {ED}}

    @every_policy
    def test_a_bad_cross_signature_does_not_replace_a_good_one(self, policy: Policy) -> None:
        signed = ALICE.device(PHONE)
        sent = bad_signature(signed.to_json(), ALICE.self_signing_key.key_name)
        assert decide(upload(device_keys=sent), with_identity(signed), policy).effects == ()

    @every_policy
    def test_a_signature_by_an_earlier_key_is_left_out(self, policy: Policy) -> None:
        signed = ALICE.device(PHONE)
        now = SampleUser(ALICE.user_id, 1)
        user = with_identity(signed, master_key=now.master_key, self_signing_key=now.self_signing_key)
        decision = decide(upload(device_keys=signed.to_json()), user, policy)
        assert signers(new_device(decision)) == {ALICE.user_id: {ED}}

    def test_a_self_signing_key_of_an_unknown_kind_signs_nothing(self) -> None:
        key = CrossSigningKey.from_json(
            {"user_id": ALICE.user_id, "usage": ["self_signing"], "keys": {"future:K": "K"}, "signatures": {}}
        )
        sent = bad_signature(ALICE.device(PHONE, cross_signed=False).to_json(), "future:K")
        decision = decide(upload(device_keys=sent), alice(self_signing_key=key))
        assert signers(new_device(decision)) == {ALICE.user_id: {ED}}

    def test_what_the_device_signs_in_another_way_is_kept(self) -> None:
        sent = bad_signature(ALICE.device(PHONE, cross_signed=False).to_json(), f"future:{PHONE}")
        decision = decide(upload(device_keys=sent), alice())
        assert signers(new_device(decision)) == {ALICE.user_id: {ED, f"future:{PHONE}"}}
        again = upload(device_keys=ALICE.device(PHONE, cross_signed=False).to_json())
        assert decide(again, alice(new_device(decision))).effects == ()

    def test_a_new_signature_by_the_device_replaces_the_old_one(self) -> None:
        broken = SignedJson.from_json(bad_signature(ALICE.device(PHONE).to_json()))
        keys = ALICE.device(PHONE)
        decision = decide(upload(device_keys=keys.to_json()), with_identity(broken))
        assert new_device(decision).signatures == keys.signed.signatures

    def test_other_bytes_lose_all_signatures(self) -> None:
        before = ALICE.device(PHONE)
        after = ALICE.device(PHONE, cross_signed=False, extra={"x": 1})
        decision = decide(upload(device_keys=after.to_json()), with_identity(before))
        assert new_device(decision).to_json() == after.to_json()

    def test_other_bytes_do_not_inherit_what_the_device_signed_before(self) -> None:
        before = SignedJson.from_json(TestCompatDeviceKeys.LAX)
        sent = {**TestCompatDeviceKeys.LAX, "algorithms": [], "signatures": {}}
        assert new_device(decide(upload(device_keys=sent), alice(before), COMPAT)).to_json() == sent

    def test_other_bytes_that_are_cross_signed_keep_that(self) -> None:
        after = ALICE.device(PHONE, extra={"x": 1})
        decision = decide(upload(device_keys=after.to_json()), with_identity(ALICE.device(PHONE)))
        assert new_device(decision).signatures == after.signed.signatures

    def test_what_is_stored_already_and_should_not_be_goes(self) -> None:
        keys = ALICE.device(PHONE, cross_signed=False)
        dirty = bad_signature(keys.to_json(), "ed25519:OTHER")
        dirty["signatures"][BOB.user_id] = {"ed25519:X": "x"}
        decision = decide(upload(device_keys=keys.to_json()), alice(SignedJson.from_json(dirty)))
        assert new_device(decision).to_json() == keys.to_json()

    @every_policy
    def test_merging_stays_below_the_limit(self, policy: Policy) -> None:
        """Attack 48: signatures do not pile up over many uploads."""
        limit = policy.limits.signatures_per_object
        keys = ALICE.device(PHONE, cross_signed=False).to_json()
        for number in range(limit - 1):
            keys = bad_signature(keys, f"a{number}:{PHONE}")
        one_more = bad_signature(ALICE.device(PHONE, cross_signed=False).to_json(), f"b:{PHONE}")
        decision = decide(upload(device_keys=one_more), alice(SignedJson.from_json(keys)), policy)
        assert code(decision) == (400, "M_TOO_LARGE")


class TestTheMasterKey:
    """The device's signature on the master key goes with the key that made it."""

    @staticmethod
    def signed_by(*device_ids: str) -> CrossSigningKey:
        master = ALICE.master_key
        signed = master.signed
        for signer in [*map(ALICE.device_signer, device_ids), ALICE.secret("master").cross_signer()]:
            signed = add_signature(signed, entity=ALICE.user_id, signer=signer)
        return master.with_signed(signed)

    OTHER_KEY = DeviceKeys.build(
        user_id=ALICE.user_id,
        device_id=PHONE,
        curve25519_key=sample_curve25519_key("other"),
        signer=sample_secret_key("other").signer(ED),
    )

    @pytest.mark.parametrize("had_keys", [True, False])
    def test_another_key_drops_it(self, had_keys: bool) -> None:
        """Also if the device was deleted in between, and left its signature behind."""
        before = ALICE.device(PHONE) if had_keys else None
        user = with_identity(before, master_key=self.signed_by(PHONE, "TABLET"))
        decision = decide(upload(device_keys=self.OTHER_KEY.to_json()), user)
        _, effect, *notices = decision.effects
        assert isinstance(effect, StoreCrossSigningKey)
        assert (effect.usage, effect.user_id, effect.key) == ("master", ALICE.user_id, ALICE.master_key)
        kept = {"ed25519:TABLET", ALICE.master_key.key_name}
        assert signers(effect.key.signed) == {ALICE.user_id: kept}
        assert notices == [
            *([ForgetOneTimeKeys(user_id=ALICE.user_id, device_id=PHONE)] if had_keys else []),
            DeviceChanged(user_id=ALICE.user_id, device_id=PHONE),
            IdentityChanged(user_id=ALICE.user_id),
        ]

    @pytest.mark.parametrize("text", ["x", None])
    def test_a_key_that_is_none_drops_it(self, text: str | None) -> None:
        keys = {} if text is None else {ED: text}
        sent = {**TestCompatDeviceKeys.LAX, "keys": keys}
        user = with_identity(ALICE.device(PHONE), master_key=self.signed_by(PHONE))
        decision = decide(upload(device_keys=sent), user, COMPAT)
        assert [type(effect) for effect in decision.effects] == [
            StoreDeviceKeys,
            StoreCrossSigningKey,
            DeviceChanged,
            IdentityChanged,
        ]

    @pytest.mark.parametrize("after", [ALICE.device(PHONE, extra={"x": 1}), ALICE.device(PHONE)])
    def test_the_same_key_keeps_it(self, after: DeviceKeys) -> None:
        before = ALICE.device(PHONE, cross_signed=False)
        user = with_identity(before, master_key=self.signed_by(PHONE))
        decision = decide(upload(device_keys=after.to_json()), user)
        assert [type(effect) for effect in decision.effects] == [StoreDeviceKeys, DeviceChanged]

    def test_one_that_is_no_good_goes_at_the_next_change(self) -> None:
        master = ALICE.master_key.to_json()
        master["signatures"] = {ALICE.user_id: {ED: "A" * 86}}
        user = with_identity(ALICE.device(PHONE, cross_signed=False), master_key=CrossSigningKey.from_json(master))
        decision = decide(upload(device_keys=ALICE.device(PHONE).to_json()), user)
        (effect,) = [effect for effect in decision.effects if isinstance(effect, StoreCrossSigningKey)]
        assert signers(effect.key.signed) == {}

    def test_signatures_by_others_stay(self) -> None:
        master = BOB.verified(self.signed_by(PHONE))
        decision = decide(upload(device_keys=self.OTHER_KEY.to_json()), with_identity(master_key=master))
        (effect,) = [effect for effect in decision.effects if isinstance(effect, StoreCrossSigningKey)]
        assert effect.key.signed.signatures[BOB.user_id] == master.signed.signatures[BOB.user_id]

    def test_a_master_key_without_signatures_is_left_alone(self) -> None:
        decision = decide(upload(device_keys=self.OTHER_KEY.to_json()), with_identity(ALICE.device(PHONE)))
        assert [type(effect) for effect in decision.effects] == [StoreDeviceKeys, ForgetOneTimeKeys, DeviceChanged]


class TestKeyIds:
    BAD = ("", "nocolon", ":", ":a", "a:", "a:b:c", "::", "a::b", "a:\x00", "\ud800:a", "a:\udfff", "\x00a:b")

    @every_policy
    @pytest.mark.parametrize("member", ["one_time_keys", "fallback_keys"])
    @pytest.mark.parametrize("key_id", BAD)
    def test_what_is_no_key_id_is_refused(self, policy: Policy, member: str, key_id: str) -> None:
        """Attack 49: neither part is empty, there is one colon, and it can be stored as text."""
        request = upload(**{member: {key_id: otk("A", fallback=member == "fallback_keys").to_json()}})
        status, errcode, text = refused(decide(request, policy=policy))
        assert (status, errcode) == (400, "M_BAD_JSON")
        assert text.startswith(f"Invalid {member} key '")
        assert text.endswith('Expected "<algorithm>:<device_id>".')

    def test_the_text_that_clients_know(self) -> None:
        request = upload(one_time_keys={"nocolon": "x"})
        text = "Invalid one_time_keys key 'nocolon'. Expected \"<algorithm>:<device_id>\"."
        assert refused(decide(request)) == (400, "M_BAD_JSON", text)

    @every_policy
    @pytest.mark.parametrize("key_id", ["a:b", "a:\N{GRINNING FACE}", "é:è", "a/b~c:d e", "a:;'\""])
    def test_anything_else_is_one(self, policy: Policy, key_id: str) -> None:
        """Attack 49."""
        decision = decide(upload(one_time_keys={key_id: "text"}), policy=policy)
        assert new_keys(decision) == [key_id]
        assert counts(decision) == {SIGNED: 0, key_id.split(":", maxsplit=1)[0]: 1}

    @every_policy
    @pytest.mark.parametrize("character", ["x", "é"])
    def test_the_length_counts_in_bytes(self, policy: Policy, character: str) -> None:
        """Attack 48."""
        limit = policy.limits.key_id_bytes
        size = len(character.encode())
        key_id = "a:" + character * ((limit - 2) // size)
        assert new_keys(decide(upload(one_time_keys={key_id: "x"}), policy=policy)) == [key_id]
        decision = decide(upload(fallback_keys={key_id + "y": "x"}), policy=policy)
        assert code(decision) == (400, "M_TOO_LARGE")


class TestOneTimeKeys:
    def test_new_ones_are_stored_in_one_batch_and_counted(self) -> None:
        sent = {**otks("A", "B"), "curve25519:C": otk("C").key}
        decision = decide(upload(one_time_keys=sent), held(otk("X"), counts={"other": 3, SIGNED: 1, "none": 0}))
        (effect,) = decision.effects
        assert isinstance(effect, StoreOneTimeKeys)
        assert (effect.user_id, effect.device_id) == (ALICE.user_id, PHONE)
        kept = {key_id: key if isinstance(key, str) else key.to_json() for key_id, key in effect.keys.items()}
        assert kept == sent
        assert counts(decision) == {SIGNED: 3, "curve25519": 1, "other": 3}

    @every_policy
    def test_foreign_signatures_and_unsigned_are_left_out(self, policy: Policy) -> None:
        key: Any = otk("A").to_json()
        sent = copy.deepcopy(key)
        sent["unsigned"] = {"a": [1.5]}
        sent["signatures"][BOB.user_id] = {"ed25519:X": "x"}
        decision = decide(upload(one_time_keys={f"{SIGNED}:A": sent}), policy=policy)
        (effect,) = decision.effects
        assert isinstance(effect, StoreOneTimeKeys)
        assert effect.keys[f"{SIGNED}:A"].to_json() == key  # type: ignore[union-attr]

    @every_policy
    def test_members_that_nobody_knows_are_kept(self, policy: Policy) -> None:
        """Attack 50: outside of ASCII too."""
        extra = {"key": otk("A").key, "x": "\N{GRINNING FACE}é\x00", "\N{GRINNING FACE}": [None]}
        sent = sign_json(extra, entity=ALICE.user_id, signer=ALICE.device_signer(PHONE))
        decision = decide(upload(one_time_keys={f"{SIGNED}:A": sent}), policy=policy)
        (effect,) = decision.effects
        assert isinstance(effect, StoreOneTimeKeys)
        assert effect.keys[f"{SIGNED}:A"].to_json() == sent  # type: ignore[union-attr]

    @every_policy
    def test_a_retry_changes_nothing(self, policy: Policy) -> None:
        decision = decide(upload(one_time_keys=otks("A", "B")), held(otk("A"), otk("B")), policy)
        assert (decision.effects, counts(decision)) == ((), {SIGNED: 2})

    def test_three_of_four_overlap(self) -> None:
        decision = decide(upload(one_time_keys=otks("B", "C", "D")), held(otk("A"), otk("B"), otk("C")))
        assert (new_keys(decision), counts(decision)) == ([f"{SIGNED}:D"], {SIGNED: 4})

    @every_policy
    def test_another_signature_is_no_other_key(self, policy: Policy) -> None:
        old = OneTimeKey.from_json(f"{SIGNED}:A", bad_signature(otks("A")[f"{SIGNED}:A"]))
        decision = decide(upload(one_time_keys=otks("A")), held(old), policy)
        decision.require()
        assert decision.effects == ()

    @demanding
    @pytest.mark.parametrize("size", range(129))
    def test_a_key_has_32_bytes(self, policy: Policy, size: int) -> None:
        """Attack 20."""
        text = "A" * (size * 4 // 3) + {0: "", 1: "w", 2: "w"}[size % 3] if size else ""
        text = text if size != 32 else sample_curve25519_key("A").to_base64()
        sent = sign_json({"key": text}, entity=ALICE.user_id, signer=ALICE.device_signer(PHONE))
        for key_id, value in ((f"{SIGNED}:A", sent), ("curve25519:A", text)):
            decision = decide(upload(one_time_keys={key_id: value}), policy=policy)
            if size == 32:
                assert new_keys(decision) == [key_id]
            else:
                assert code(decision) == (400, "M_BAD_JSON")

    @demanding
    @pytest.mark.parametrize(
        ("key_id", "value", "errcode"),
        [
            (f"{SIGNED}:A", otk("A").key, "M_BAD_JSON"),
            (f"{SIGNED}:A", None, "M_BAD_JSON"),
            (f"{SIGNED}:A", {"key": otk("A").key}, "M_BAD_JSON"),
            (f"{SIGNED}:A", {"key": otk("A").key, "signatures": {}}, "M_INVALID_SIGNATURE"),
            (f"{SIGNED}:A", {"key": otk("A").key, "signatures": {BOB.user_id: {ED: "x"}}}, "M_INVALID_SIGNATURE"),
            (
                f"{SIGNED}:A",
                {"key": otk("A").key, "signatures": {ALICE.user_id: {"ed25519:X": "x"}}},
                "M_INVALID_SIGNATURE",
            ),
            (f"{SIGNED}:A", otk("A", fallback=True).to_json(), "M_INVALID_PARAM"),
            ("other:A", {"key": "x", "fallback": True, "signatures": {}}, "M_INVALID_PARAM"),
            ("other:A", {"key": "x"}, "M_BAD_JSON"),
            ("other:A", {"key": 5, "signatures": {}}, "M_BAD_JSON"),
            ("other:A", {"key": "x", "fallback": 1, "signatures": {}}, "M_BAD_JSON"),
            ("other:A", {"key": "x", "a": 1.5, "signatures": {}}, "M_BAD_JSON"),
            ("curve25519:A", "x", "M_BAD_JSON"),
        ],
    )
    def test_what_is_demanded(self, policy: Policy, key_id: str, value: Any, errcode: str) -> None:
        decision = decide(upload(one_time_keys={**otks("B"), key_id: value}), policy=policy)
        assert code(decision) == (400, errcode)

    @demanding
    def test_keys_of_algorithms_that_nobody_knows_are_kept(self, policy: Policy) -> None:
        sent = {"other:A": {"key": "x", "signatures": {}}, "other:B": "y"}
        assert new_keys(decide(upload(one_time_keys=sent), policy=policy)) == ["other:A", "other:B"]

    @pytest.mark.parametrize(
        "value",
        [
            "bare+string",
            "",
            {"key": "x", "signatures": {}},
            {"key": "", "fallback": True, "signatures": {ALICE.user_id: {"nocolon": "x"}}},
            {"key": "x", "fallback": False, "signatures": {}, "other": {"a": None}},
        ],
    )
    def test_compat_stores_what_deployed_servers_store(self, value: Any) -> None:
        decision = decide(upload(one_time_keys={f"{SIGNED}:A": value}), policy=COMPAT)
        (effect,) = decision.effects
        assert isinstance(effect, StoreOneTimeKeys)
        key = effect.keys[f"{SIGNED}:A"]
        assert (key if isinstance(key, str) else key.to_json()) == value

    @pytest.mark.parametrize(
        "value",
        [
            None,
            5,
            [],
            {},
            {"key": "x"},
            {"key": 5, "signatures": {}},
            {"signatures": {}},
            {"key": "x", "signatures": None},
            {"key": "x", "signatures": {"@a:b": "x"}},
            {"key": "x", "signatures": {}, "fallback": "no"},
            {"key": "x", "signatures": {}, "fallback": None},
            {"key": "x", "signatures": {}, "a": 1.5},
            {"key": "x", "signatures": {}, "a": "\ud800"},
            {"key": "x", "signatures": {ALICE.user_id: {ED: "\ud800"}}},
            "\ud800",
        ],
    )
    def test_compat_refuses_what_they_refuse_or_cannot_serve(self, value: Any) -> None:
        """Attack 52."""
        decision = decide(upload(one_time_keys={f"{SIGNED}:A": value}), policy=COMPAT)
        assert code(decision) == (400, "M_BAD_JSON")

    @every_policy
    @pytest.mark.parametrize("member", ["one_time_keys", "fallback_keys"])
    @pytest.mark.parametrize("value", [None, [], "x", 5, False])
    def test_what_is_no_map(self, policy: Policy, member: str, value: Any) -> None:
        decision = decide(upload(**{member: value}), policy=policy)
        if value is None and policy is COMPAT:
            assert counts(decision) == {SIGNED: 0}
        else:
            assert code(decision) == (400, "M_BAD_JSON")

    @every_policy
    def test_two_maps_of_one_name_are_no_map(self, policy: Policy) -> None:
        """Attack 52: though the second is null, which compat takes for nothing."""
        request = KeysUploadRequest.from_bytes(b'{"one_time_keys":{},"one_time_keys":null}')
        assert code(decide(request, policy=policy)) == (400, "M_BAD_JSON")


def conflicts(old: StoredKey, new: Any, key_id: str, policy: Policy = COMPAT) -> Decision[Any]:
    view = UploadView(user=alice(), one_time_keys={key_id: old}, counts={key_id.split(":", maxsplit=1)[0]: 1})
    return decide(upload(one_time_keys={key_id: new}), view, policy)


def as_clients_read(text: str) -> tuple[Any, Any]:
    """Read old and new key off the text of a conflict, as deployed clients do."""
    old, new = text.split(";")
    old = old[old.index("Old key:") :].removeprefix("Old key:").strip()
    new = new.strip().removeprefix("new key:").strip().replace("'", '"')
    return json.loads(old), json.loads(new)


class TestConflicts:
    STRING = "some+text"
    OBJECT: ClassVar[dict[str, Any]] = otks("B")[f"{SIGNED}:B"]
    ODD: ClassVar[dict[str, Any]] = {
        "key": "it's; \"x\" 'y'",
        "fallback": True,
        "signatures": {ALICE.user_id: {"a;b": "';\\"}},
    }

    @every_policy
    @pytest.mark.parametrize("old", [STRING, OBJECT, ODD])
    @pytest.mark.parametrize("new", [STRING, OBJECT, ODD])
    def test_the_text_can_be_read(self, policy: Policy, old: Any, new: Any) -> None:
        held_key = old if isinstance(old, str) else SignedJson.from_json(old)
        if policy is not COMPAT:
            new = {**new, "fallback": False} if isinstance(new, dict) else new
        decision = conflicts(held_key, new, "other:A", policy)
        if old == new:
            assert (decision.effects, counts(decision)["other"]) == ((), 1)
            return
        status, errcode, text = refused(decision)
        assert (status, errcode) == (400, "M_UNKNOWN")
        assert text.startswith("One time key other:A already exists. Old key: ")
        assert as_clients_read(text) == (old, new)

    def test_the_text_to_the_letter(self) -> None:
        decision = conflicts("old", {"key": "new", "signatures": {}}, "alg:1")
        text = "One time key alg:1 already exists. Old key: \"old\"; new key: {'key':'new','signatures':{}}"
        assert refused(decision) == (400, "M_UNKNOWN", text)

    def test_this_library_reads_it(self) -> None:
        old, new = otk("A"), otk("B")
        request = upload(one_time_keys={str(old.key_id): new.to_json()})
        decision = decide(request, held(old))
        assert isinstance(decision.answer, MatrixError)
        conflict = one_time_key_conflict(request, decision.answer)
        assert conflict is not None
        assert conflict.held is not None
        assert (conflict.held, conflict.held.to_json()) == (old, old.to_json())
        assert conflict.uploaded.public_key == new.public_key

    def test_one_conflict_refuses_all(self) -> None:
        """Device keys and fallback keys of the upload included; decide() checks that nothing is stored."""
        device = ALICE.device(PHONE, extra={"x": 1}).to_json()
        request = upload(
            device_keys=device,
            one_time_keys={**otks("X", "Y"), f"{SIGNED}:A": otk("B").to_json()},
            fallback_keys=fallback("F"),
        )
        assert code(decide(request, held(otk("A")))) == (400, "M_UNKNOWN")
        assert len(decide(request, held()).effects) == 4

    @every_policy
    def test_the_same_key_in_another_object_is_a_conflict(self, policy: Policy) -> None:
        other = sign_json({"key": otk("A").key, "x": 1}, entity=ALICE.user_id, signer=ALICE.device_signer(PHONE))
        decision = decide(upload(one_time_keys={f"{SIGNED}:A": other}), held(otk("A")), policy)
        assert code(decision) == (400, "M_UNKNOWN")


class TestKeysThatWereGivenAway:
    """Attack 46: no key is handed out twice."""

    @every_policy
    @pytest.mark.parametrize("key_id", ["A", "B"])
    def test_a_claimed_key_is_not_stored_again(self, policy: Policy, key_id: str) -> None:
        """Whether the client repeats its upload, or uploads the key under another id."""
        digest = key_digest(stored(otk("A")))
        request = upload(one_time_keys={f"{SIGNED}:{key_id}": otk("A").to_json()})
        views = [held(claimed={f"{SIGNED}:A": digest})]
        views.append(evolve(held(), digests={digest: f"{SIGNED}:A"}))
        for view in views:
            decision = decide(request, view, policy)
            assert (decision.effects, counts(decision)) == ((), {SIGNED: 0})

    @every_policy
    def test_a_claimed_key_as_a_bare_string_is_the_same_key(self, policy: Policy) -> None:
        view = held(claimed={f"{SIGNED}:A": key_digest(stored(otk("A")))})
        request = upload(one_time_keys={"curve25519:A": otk("A").key})
        assert decide(request, view, policy).effects == ()

    @every_policy
    def test_another_key_under_a_claimed_id(self, policy: Policy) -> None:
        view = held(claimed={f"{SIGNED}:A": key_digest("another")})
        decision = decide(upload(one_time_keys=otks("A")), view, policy)
        if policy is COMPAT:
            assert new_keys(decision) == [f"{SIGNED}:A"]
        else:
            text = f"One time key {SIGNED}:A has been claimed before"
            assert refused(decision) == (400, "M_UNKNOWN", text)

    @every_policy
    def test_a_device_with_another_signing_key_begins_anew(self, policy: Policy) -> None:
        """Its client has lost everything, and counts its keys from the first one again."""
        keys = TestTheMasterKey.OTHER_KEY
        new = OneTimeKey.build(
            key_id=f"{SIGNED}:A",
            key=sample_curve25519_key("new"),
            user_id=ALICE.user_id,
            signer=sample_secret_key("other").signer(ED),
        )
        request = upload(device_keys=keys.to_json(), one_time_keys={f"{SIGNED}:A": new.to_json()})
        view = held(claimed={f"{SIGNED}:A": key_digest("another")})
        decision = decide(request, view, policy)
        assert new_keys(decision) == [f"{SIGNED}:A"]
        forget = ForgetOneTimeKeys(user_id=ALICE.user_id, device_id=PHONE)
        assert (forget in decision.effects) is (policy is not COMPAT)

    @demanding
    def test_a_device_that_begins_anew_has_none_of_its_keys_any_more(self, policy: Policy) -> None:
        """Not those that nobody claimed either: nobody could verify them."""
        fallback = FallbackKeyRecord(key_id=f"{SIGNED}:F", key=stored(otk("F", fallback=True)), is_used=True)
        view = evolve(held(otk("A"), otk("B")), fallback_keys={SIGNED: fallback})
        signer = sample_secret_key("other").signer(ED)
        new = sign_json({"key": sample_curve25519_key("new").to_base64()}, entity=ALICE.user_id, signer=signer)
        request = upload(device_keys=TestTheMasterKey.OTHER_KEY.to_json(), one_time_keys={f"{SIGNED}:A": new})
        decision = decide(request, view, policy)
        assert decision.require().one_time_key_counts == {SIGNED: 1}
        kinds = [type(effect) for effect in decision.effects]
        assert kinds.index(ForgetOneTimeKeys) < kinds.index(StoreOneTimeKeys)

    @demanding
    @pytest.mark.parametrize("before", [ALICE.device(PHONE, extra={"x": 1}), None])
    def test_a_device_with_the_same_signing_key_goes_on(self, policy: Policy, before: DeviceKeys | None) -> None:
        """Whatever else is new in its keys; and so does one whose keys are not there."""
        view = held(user=alice(before), claimed={f"{SIGNED}:A": key_digest("another")})
        request = upload(device_keys=ALICE.device(PHONE).to_json(), one_time_keys=otks("A"))
        text = f"One time key {SIGNED}:A has been claimed before"
        assert refused(decide(request, view, policy)) == (400, "M_UNKNOWN", text)

    @every_policy
    @pytest.mark.parametrize("key_id", ["A", "B"])
    @pytest.mark.parametrize("knows_ids", [True, False])
    def test_a_key_stays_claimed_whatever_the_device_signs_with(
        self, policy: Policy, key_id: str, knows_ids: bool
    ) -> None:
        digest = key_digest(stored(otk("A")))
        view = held(claimed={f"{SIGNED}:A": digest}) if knows_ids else evolve(held(), digests={digest: f"{SIGNED}:A"})
        signer = sample_secret_key("other").signer(ED)
        key = sign_json({"key": otk("A").key}, entity=ALICE.user_id, signer=signer)
        request = upload(device_keys=TestTheMasterKey.OTHER_KEY.to_json(), one_time_keys={f"{SIGNED}:{key_id}": key})
        assert new_keys(decide(request, view, policy)) == []

    @every_policy
    def test_however_it_is_padded_it_is_the_same_key(self, policy: Policy) -> None:
        signer = ALICE.device_signer(PHONE)
        key = sign_json({"key": f"{otk('A').key}="}, entity=ALICE.user_id, signer=signer)
        request = upload(one_time_keys={f"{SIGNED}:B": key})
        for view in (held(claimed={f"{SIGNED}:A": key_digest(stored(otk("A")))}), evolve(held(otk("A")), counts={})):
            assert new_keys(decide(request, view, policy)) == []

    @every_policy
    def test_a_key_that_is_held_under_another_id_is_not_stored_again(self, policy: Policy) -> None:
        request = upload(one_time_keys={f"{SIGNED}:B": otk("A").to_json()})
        view = evolve(held(otk("A")), one_time_keys={})
        decision = decide(request, view, policy)
        assert (decision.effects, counts(decision)) == ((), {SIGNED: 1})

    @every_policy
    def test_one_key_twice_in_one_upload_is_stored_once(self, policy: Policy) -> None:
        request = upload(one_time_keys={f"{SIGNED}:A": otk("A").to_json(), f"{SIGNED}:B": otk("A").to_json()})
        decision = decide(request, policy=policy)
        assert (new_keys(decision), counts(decision)) == ([f"{SIGNED}:A"], {SIGNED: 1})


class TestFallbackKeys:
    RECORD = FallbackKeyRecord(key_id=f"{SIGNED}:F", key=stored(otk("F", fallback=True)), is_used=True)

    def view(self) -> UploadView:
        return held(fallback_keys={SIGNED: self.RECORD})

    def test_a_new_one_is_stored(self) -> None:
        decision = decide(upload(fallback_keys=fallback("G")), self.view())
        (effect,) = decision.effects
        assert effect == StoreFallbackKey(
            user_id=ALICE.user_id, device_id=PHONE, key_id=f"{SIGNED}:G", key=stored(otk("G", fallback=True))
        )
        assert effect.key.to_json() == otk("G", fallback=True).to_json()  # type: ignore[union-attr]
        assert counts(decision) == {SIGNED: 0}

    @every_policy
    def test_the_same_again_does_not_look_unused(self, policy: Policy) -> None:
        assert decide(upload(fallback_keys=fallback("F")), self.view(), policy).effects == ()

    @every_policy
    def test_the_order_of_members_does_not_matter(self, policy: Policy) -> None:
        sent = dict(reversed(list(fallback("F")[f"{SIGNED}:F"].items())))
        assert decide(upload(fallback_keys={f"{SIGNED}:F": sent}), self.view(), policy).effects == ()

    @every_policy
    def test_the_same_key_under_another_id_is_the_same_key(self, policy: Policy) -> None:
        assert decide(upload(fallback_keys=fallback("G", "F")), self.view(), policy).effects == ()

    @every_policy
    def test_another_key_under_the_same_id_is_another_key(self, policy: Policy) -> None:
        decision = decide(upload(fallback_keys=fallback("F", "G")), self.view(), policy)
        assert new_fallback_keys(decision) == [f"{SIGNED}:F"]

    @every_policy
    def test_two_of_one_algorithm(self, policy: Policy) -> None:
        decision = decide(upload(fallback_keys={**fallback("H"), **fallback("G")}), self.view(), policy)
        if policy is COMPAT:
            assert new_fallback_keys(decision) == [f"{SIGNED}:G"]
        else:
            assert code(decision) == (400, "M_INVALID_PARAM")

    @every_policy
    def test_one_of_each_algorithm(self, policy: Policy) -> None:
        decision = decide(upload(fallback_keys={**fallback("G"), "other:G": "x"}), self.view(), policy)
        assert new_fallback_keys(decision) == [f"{SIGNED}:G", "other:G"]

    @every_policy
    def test_one_that_does_not_say_so(self, policy: Policy) -> None:
        decision = decide(upload(fallback_keys=otks("G")), self.view(), policy)
        if policy is COMPAT:
            assert new_fallback_keys(decision) == [f"{SIGNED}:G"]
        else:
            assert code(decision) == (400, "M_INVALID_PARAM")

    @every_policy
    @pytest.mark.parametrize("place", ["held", "claimed", "uploaded"])
    def test_one_that_is_a_one_time_key_too(self, policy: Policy, place: str) -> None:
        view = {
            "held": held(otk("G")),
            "claimed": held(claimed={f"{SIGNED}:G": key_digest(stored(otk("G")))}),
            "uploaded": held(),
        }[place]
        keys = otks("G") if place == "uploaded" else {}
        decision = decide(upload(one_time_keys=keys, fallback_keys=fallback("F", "G")), view, policy)
        if policy is STRICT:
            assert code(decision) == (400, "M_INVALID_PARAM")
        else:
            assert new_fallback_keys(decision) == [f"{SIGNED}:F"]

    @every_policy
    def test_a_one_time_key_that_is_the_fallback_key_too(self, policy: Policy) -> None:
        decision = decide(upload(one_time_keys=otks("F")), self.view(), policy)
        if policy is STRICT:
            assert code(decision) == (400, "M_INVALID_PARAM")
        else:
            assert new_keys(decision) == [f"{SIGNED}:F"]


class TestStrictSignatures:
    def test_a_bad_signature_is_refused_by_strict_only(self) -> None:
        for member, key in (("one_time_keys", otk("A")), ("fallback_keys", otk("A", fallback=True))):
            sent: Any = bad_signature(key.to_json())  # type: ignore[arg-type]
            request = upload(**{member: {f"{SIGNED}:A": sent}})
            decision = decide(request, policy=STRICT)
            assert code(decision) == (400, "M_INVALID_SIGNATURE")
            assert f"{SIGNED}:A" in refused(decision)[2]
            assert decide(request).effects != ()

    def test_the_device_keys_may_come_along(self) -> None:
        request = upload(device_keys=ALICE.device(PHONE).to_json(), one_time_keys=otks("A"))
        assert new_keys(decide(request, alice(), STRICT)) == [f"{SIGNED}:A"]

    def test_the_keys_that_come_along_are_those_that_count(self) -> None:
        request = upload(device_keys=TestTheMasterKey.OTHER_KEY.to_json(), one_time_keys=otks("A"))
        assert code(decide(request, alice(ALICE.device(PHONE)), STRICT)) == (400, "M_INVALID_SIGNATURE")

    @pytest.mark.parametrize("keys", [None, SignedJson.from_json(TestCompatDeviceKeys.LAX)])
    def test_without_device_keys_there_is_nothing_to_check_with(self, keys: SignedJson | None) -> None:
        decision = decide(upload(one_time_keys=otks("A")), alice(keys), STRICT)
        assert code(decision) == (400, "M_INVALID_SIGNATURE")
        assert new_keys(decide(upload(one_time_keys={"other:A": "x"}), alice(keys), STRICT)) == ["other:A"]

    def test_a_device_that_did_not_sign_itself_signs_nothing(self) -> None:
        keys = SignedJson.from_json(bad_signature(ALICE.device(PHONE).to_json()))
        assert code(decide(upload(one_time_keys=otks("A")), alice(keys), STRICT)) == (400, "M_INVALID_SIGNATURE")

    def test_a_key_of_the_device_is_no_one_time_key(self) -> None:
        text = sample_curve25519_key(f"{ALICE.user_id} {PHONE}").to_base64()
        sent = sign_json({"key": text}, entity=ALICE.user_id, signer=ALICE.device_signer(PHONE))
        request = upload(one_time_keys={f"{SIGNED}:A": sent})
        assert code(decide(request, policy=STRICT)) == (400, "M_INVALID_SIGNATURE")
        assert new_keys(decide(request)) == [f"{SIGNED}:A"]


def limited(policy: Policy = SPEC, **limits: int) -> Policy:
    return evolve(policy, limits=evolve(policy.limits, **limits))


class TestLimits:
    """Attack 48: each limit, and one more."""

    @pytest.mark.parametrize("limit", [2, 3])
    def test_keys_per_upload(self, limit: int) -> None:
        request = upload(one_time_keys=otks("A", "B"), fallback_keys=fallback("F"))
        decision = decide(request, policy=limited(one_time_keys_per_upload=limit))
        if limit == 3:
            assert len(new_keys(decision)) == 2
        else:
            assert code(decision) == (400, "M_TOO_LARGE")

    @pytest.mark.parametrize("count", [498, 499, 500])
    def test_keys_per_algorithm(self, count: int) -> None:
        view = held(otk("X"), counts={SIGNED: count})
        decision = decide(upload(one_time_keys=otks("X", "A")), view)
        if count < 500:
            assert counts(decision) == {SIGNED: count + 1}
        else:
            text = "Uploading 1 more signed_curve25519 one-time keys would leave the device holding 501, over the limit of 500"
            assert refused(decision) == (400, "M_TOO_LARGE", text)

    def test_a_retry_at_the_limit_is_no_upload(self) -> None:
        assert counts(decide(upload(one_time_keys=otks("X")), held(otk("X"), counts={SIGNED: 501}))) == {SIGNED: 501}

    @pytest.mark.parametrize("limit", [3, 4])
    def test_algorithms_per_device(self, limit: int) -> None:
        record = FallbackKeyRecord(key_id="b:1", key="x")
        view = held(counts={"a": 1, "gone": 0}, fallback_keys={"b": record})
        request = upload(one_time_keys={"c:1": "x", "a:2": "y"}, fallback_keys={"d:1": "z"})
        decision = decide(request, view, limited(algorithms_per_device=limit))
        if limit == 4:
            assert len(decision.effects) == 2
        else:
            assert refused(decision)[1:] == ("M_TOO_LARGE", "There would be keys of 4 algorithms, over the limit of 3")

    def test_no_new_algorithm_is_no_matter(self) -> None:
        view = held(counts={"a": 1, "b": 1})
        assert new_keys(decide(upload(one_time_keys={"a:2": "y"}), view, limited(algorithms_per_device=1))) == ["a:2"]

    @pytest.mark.parametrize("limit", [2, 3])
    def test_devices_per_user(self, limit: int) -> None:
        request = upload(device_keys=ALICE.device(PHONE).to_json())
        user = alice(None, "B", "C")
        devices = {**user.devices, "D": DeviceRecord(device_id="D")}
        decision = decide(request, evolve(user, devices=devices), limited(devices_per_user=limit))
        assert decision.is_refusal == (limit == 2)
        if limit == 2:
            assert code(decision) == (400, "M_TOO_LARGE")

    def test_a_device_with_keys_can_always_change_them(self) -> None:
        request = upload(device_keys=ALICE.device(PHONE).to_json())
        user = alice(ALICE.device(PHONE, extra={"x": 1}), "B", "C")
        assert len(decide(request, user, limited(devices_per_user=1)).effects) == 2

    @pytest.mark.parametrize("more", [0, 1])
    def test_object_bytes(self, more: int) -> None:
        device = ALICE.device(PHONE, cross_signed=False)
        key = otk("A")
        size = len(json.dumps(device.to_json(), separators=(",", ":")))
        decision = decide(upload(device_keys=device.to_json()), alice(), limited(object_bytes=size - more))
        assert decision.is_refusal == bool(more)
        size = len(json.dumps(key.to_json(), separators=(",", ":")))
        for member in ("one_time_keys", "fallback_keys"):
            request = upload(**{member: {f"{SIGNED}:A": otk("A", fallback=member == "fallback_keys").to_json()}})
            decision = decide(request, policy=limited(COMPAT, object_bytes=size - more + (16 if "f" in member else 0)))
            assert decision.is_refusal == bool(more)
            if more:
                assert code(decision) == (400, "M_TOO_LARGE")

    @pytest.mark.parametrize("more", [0, 1])
    def test_bytes_of_a_bare_string(self, more: int) -> None:
        request = upload(one_time_keys={"a:1": "é" * 10})
        decision = decide(request, policy=limited(object_bytes=22 - more))
        assert decision.is_refusal == bool(more)

    @pytest.mark.parametrize("limit", [2, 3])
    def test_signatures_per_object(self, limit: int) -> None:
        """Those that are left out are counted too: they were all read."""
        device = bad_signature(ALICE.device(PHONE).to_json(), "x:y")
        key: Any = otks("A")[f"{SIGNED}:A"]
        key["signatures"][BOB.user_id] = {"a:b": "x", "c:d": "x"}
        for request in (upload(device_keys=device), upload(one_time_keys={f"{SIGNED}:A": key})):
            decision = decide(request, alice(), limited(signatures_per_object=limit))
            assert decision.is_refusal == (limit == 2)
            if limit == 2:
                assert code(decision) == (400, "M_TOO_LARGE")

    def test_too_many_keys_are_not_even_looked_at(self) -> None:
        request = upload(one_time_keys={str(number): None for number in range(201)})
        assert code(decide(request, policy=STRICT)) == (400, "M_TOO_LARGE")
        assert upload_lookup(request, policy=STRICT) == UploadLookup()


class TestLookup:
    def test_what_to_look_up(self) -> None:
        request = upload(
            one_time_keys={**otks("A"), "a:1": "x", "b:1": None, "c:1": {"key": "y", "signatures": {}, "fallback": 1}},
            fallback_keys={**fallback("F"), "d:1": "x"},
        )
        lookup = upload_lookup(request)
        assert lookup.key_ids == (f"{SIGNED}:A", "a:1", "b:1", "c:1")
        assert lookup.digests == tuple(key_digest(key) for key in (otk("A").key, "x", otk("F").key))
        assert lookup.algorithms == (SIGNED, "a", "b", "c", "d")

    def test_what_no_policy_takes_is_left_out(self) -> None:
        lookup = upload_lookup(upload(one_time_keys=dict.fromkeys([*TestKeyIds.BAD, "a:b"], "x")))
        assert lookup == UploadLookup(key_ids=("a:b",), digests=(key_digest("x"),), algorithms=("a",))

    def test_what_only_compat_takes_is_in(self) -> None:
        request = upload(one_time_keys={f"{SIGNED}:A": "bare", f"{SIGNED}:B": {"key": "odd", "signatures": {}}})
        assert upload_lookup(request).digests == (key_digest("bare"), key_digest("odd"))

    @pytest.mark.parametrize("policy", [SPEC, STRICT])
    def test_up_to_the_limit(self, policy: Policy) -> None:
        limit = policy.limits.one_time_keys_per_upload
        request = upload(one_time_keys={f"a:{number}": "x" for number in range(limit)})
        assert len(upload_lookup(request, policy=policy).key_ids) == limit

    @pytest.mark.parametrize(
        ("arguments", "path"), [(({},), "/request"), ((upload(),), "/policy"), ((None,), "/request")]
    )
    def test_wrong_arguments(self, arguments: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            upload_lookup(*arguments, policy=None)  # type: ignore[arg-type]
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, path)


class TestOrder:
    def test_stores_come_before_notices(self) -> None:
        user = with_identity(master_key=TestTheMasterKey.signed_by(PHONE))
        request = upload(
            device_keys=TestTheMasterKey.OTHER_KEY.to_json(), one_time_keys=otks("A"), fallback_keys=fallback("F")
        )
        assert [type(effect) for effect in decide(request, user).effects] == [
            StoreDeviceKeys,
            StoreCrossSigningKey,
            StoreOneTimeKeys,
            StoreFallbackKey,
            DeviceChanged,
            IdentityChanged,
        ]

    @every_policy
    @pytest.mark.parametrize(
        "body",
        [
            {"device_keys": ALICE.device(PHONE, extra={"x": 1}).to_json()},
            {"one_time_keys": otks("A")},
            {"fallback_keys": fallback("F")},
        ],
    )
    def test_what_is_decided_holds_only_if_the_user_is_as_he_was(self, policy: Policy, body: dict[str, Any]) -> None:
        user = alice(ALICE.device(PHONE))
        without = decide(upload(**body), user, policy)
        decision = decide(upload(**body), evolve(user, revision=0), policy)
        assert without.effects
        assert decision.effects == (IfUnchanged(user_id=ALICE.user_id, revision=0), *without.effects)
        assert decision.answer == without.answer

    def test_where_nothing_is_done_nothing_needs_to_hold(self) -> None:
        user = evolve(alice(ALICE.device(PHONE, cross_signed=False)), revision=3)
        for body in ({}, {"device_keys": ALICE.device(PHONE, cross_signed=False).to_json()}):
            assert decide(upload(**body), user).effects == ()

    def test_the_view_stays_as_it_was(self) -> None:
        view = held(otk("A"), fallback_keys={SIGNED: TestFallbackKeys.RECORD})
        before = copy.deepcopy(view)
        decide(upload(one_time_keys=otks("B"), fallback_keys=fallback("G")), view)
        assert view == before


def served(decision: Decision[Any]) -> None:
    """Check that what is stored can be served, and is read as what was stored."""
    for effect in decision.effects:
        if isinstance(effect, StoreDeviceKeys):
            query = KeysQueryResponse(device_keys={ALICE.user_id: {PHONE: device_entry(effect.keys)}})
            body = json.loads(query.to_http().body)
            assert body["device_keys"][ALICE.user_id][PHONE] == effect.keys.to_json()
            KeysQueryResponse.from_http(query.to_http())
        keys: Mapping[str, StoredKey] = {}
        if isinstance(effect, StoreOneTimeKeys):
            keys = effect.keys
        if isinstance(effect, StoreFallbackKey):
            keys = {effect.key_id: effect.key}
        entries = {key_id: one_time_key_entry(key_id, key) for key_id, key in keys.items()}
        claim = KeysClaimResponse(one_time_keys={ALICE.user_id: {PHONE: entries}})
        body = json.loads(claim.to_http().body)
        assert body["one_time_keys"][ALICE.user_id][PHONE] == {
            key_id: key if isinstance(key, str) else key.to_json() for key_id, key in keys.items()
        }
        KeysClaimResponse.from_http(claim.to_http())


def _mixed(good: dict[str, Any], draw: st.DrawFn, values: st.SearchStrategy[Any]) -> Any:
    """A good object with one member that is anything, at any level."""
    obj = copy.deepcopy(good)
    at = obj
    while True:
        name = draw(st.sampled_from([*at, "x"]))
        if isinstance(at.get(name), dict) and draw(st.booleans()):
            at = at[name]
            continue
        at[name] = draw(values)
        return obj


@st.composite
def bodies(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Bodies that are nearly right."""
    body: dict[str, Any] = {}
    if draw(st.booleans()):
        body["device_keys"] = _mixed(ALICE.device(PHONE).to_json(), draw, values)
    names = st.sampled_from([f"{SIGNED}:A", "other:A", "curve25519:A", f"{SIGNED}:B"])
    for member in ("one_time_keys", "fallback_keys"):
        good: Any = otk("A", fallback=member == "fallback_keys").to_json()
        if draw(st.booleans()):
            body[member] = {draw(names): _mixed(good, draw, values), draw(names): draw(values)}
    return body


class TestNothingAcceptedFailsToBeServed:
    """Attacks 52 and 54: whatever is accepted can be served, and nothing but a refusal comes of the rest."""

    @given(bodies(safe_values | st.text(st.characters(), max_size=4)), st.sampled_from(POLICIES))
    @modest
    def test_nearly_right(self, body: dict[str, Any], policy: Policy) -> None:
        request = upload(**body)
        upload_lookup(request, policy=policy)
        served(decide(request, with_identity(), policy))

    @given(bodies(wild_values), st.sampled_from(POLICIES))
    @modest
    def test_parsed_elsewhere(self, body: dict[str, Any], policy: Policy) -> None:
        request = KeysUploadRequest.from_json(body)
        upload_lookup(request, policy=policy)
        served(decide(request, with_identity(), policy))

    @given(keys_upload_requests(), st.sampled_from(POLICIES))
    @modest
    def test_all_that_is_sent(self, request: KeysUploadRequest, policy: Policy) -> None:
        upload_lookup(request, policy=policy)
        served(decide(request, with_identity(), policy))

    @given(st.dictionaries(st.sampled_from(["device_keys", "one_time_keys", "fallback_keys"]), wild_values))
    @few
    def test_anything_at_all(self, body: dict[str, Any]) -> None:
        for policy in POLICIES:
            served(decide(KeysUploadRequest.from_json(body), alice(), policy))


class Uploads(RuleBasedStateMachine):
    """Attack 46: uploads, retries, claims and lost state, in any order. No key is ever given to two people."""

    policy = SPEC

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, StoredKey] = {}
        self.claimed: dict[str, str] = {}
        self.fallback: dict[str, FallbackKeyRecord] = {}
        self.given: list[str] = []

    @rule(sent=st.dictionaries(st.sampled_from("ABCDE"), st.sampled_from("abcde"), min_size=1))
    def upload(self, sent: dict[str, str]) -> None:
        self._upload({f"{SIGNED}:{name}": otk(key).to_json() for name, key in sent.items()}, {})

    @rule(name=st.sampled_from("FG"), key=st.sampled_from("fg"))
    def upload_fallback_key(self, name: str, key: str) -> None:
        before = self.fallback.get(SIGNED)
        self._upload({}, fallback(name, key))
        after = self.fallback[SIGNED]
        if before is not None and key_digest(before.key) == key_digest(after.key):
            assert before == after

    def _upload(self, one_time_keys: dict[str, Any], fallback_keys: dict[str, Any]) -> None:
        request = upload(one_time_keys=one_time_keys, fallback_keys=fallback_keys)
        lookup = upload_lookup(request, policy=self.policy)
        digests = {**self.claimed}
        digests |= {key_digest(key): key_id for key_id, key in self.keys.items()}
        view = UploadView(
            user=alice(ALICE.device(PHONE)),
            one_time_keys={key_id: key for key_id, key in self.keys.items() if key_id in lookup.key_ids},
            counts={SIGNED: len(self.keys)},
            claimed={key_id: digest for digest, key_id in self.claimed.items() if key_id in lookup.key_ids},
            digests={digest: key_id for digest, key_id in digests.items() if digest in lookup.digests},
            fallback_keys=self.fallback,
        )
        decision = decide(request, view, self.policy)
        for effect in decision.effects:
            if isinstance(effect, StoreOneTimeKeys):
                assert not effect.keys.keys() & self.keys.keys()
                if self.policy.refuses_claimed_ids:
                    assert not effect.keys.keys() & set(self.claimed.values())
                self.keys.update(effect.keys)
            if isinstance(effect, StoreFallbackKey):
                self.fallback[effect.key_id.split(":", maxsplit=1)[0]] = FallbackKeyRecord(
                    key_id=effect.key_id, key=effect.key
                )
        if not decision.is_refusal:
            assert counts(decision) == {SIGNED: len(self.keys)}

    @rule()
    def claim(self) -> None:
        if self.keys:
            key_id, key = next(iter(self.keys.items()))
            del self.keys[key_id]
            self.claimed[key_digest(key)] = key_id
            self.given.append(key_digest(key))
        elif SIGNED in self.fallback:
            self.fallback[SIGNED] = evolve(self.fallback[SIGNED], is_used=True)

    @invariant()
    def no_key_twice(self) -> None:
        assert len(set(self.given)) == len(self.given)
        held_digests = [key_digest(key) for key in self.keys.values()]
        assert len({*held_digests, *self.given}) == len(held_digests) + len(self.given)


TestUploads = Uploads.TestCase


class CompatUploads(Uploads):
    """The same in the most lenient policy."""

    policy = COMPAT


TestCompatUploads = CompatUploads.TestCase


class StrictUploads(Uploads):
    """The same in the strict policy."""

    policy = STRICT


TestStrictUploads = StrictUploads.TestCase
