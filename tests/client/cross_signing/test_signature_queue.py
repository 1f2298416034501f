"""Signatures on their way: never lost, whatever becomes of requests and answers."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceKeys,
    E2EKeysError,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    MatrixError,
    QueryResult,
    Reason,
    SignaturesUploadResponse,
    UserIdentity,
    check_query,
)
from matrix_e2e_keys.client.cross_signing.device_signing import sign_own_master_key
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.cross_signing.signature_queue import OutgoingSignatures, SignatureQueue
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ME = SampleUser("@me:a.example")
ME_AGAIN = SampleUser(ME.user_id, generation=1)
BOB = SampleUser("@bob:b.example")
CAROL = SampleUser("@carol:c.example")


def secrets_of(user: SampleUser) -> CrossSigningSecrets:
    return CrossSigningSecrets(
        user_id=user.user_id, **{role: user.secret(role) for role in ("master", "self_signing", "user_signing")}
    )


def identity_of(user: SampleUser) -> UserIdentity:
    return UserIdentity.verify(master_key=user.master_key, self_signing_key=user.self_signing_key)


PHONE = ME.device("PHONE", cross_signed=False).verify()
SIGNED_PHONE = secrets_of(ME).sign_device(PHONE)
SIGNED_MASTER = sign_own_master_key(ME.master_key, device=PHONE, signer=ME.device_signer("PHONE"))
SIGNED_BOB = secrets_of(ME).sign_user(identity_of(BOB))
SIGNED_CAROL = secrets_of(ME).sign_user(identity_of(CAROL))

Name = tuple[str, str]
KEYS: dict[Name, DeviceKeys | CrossSigningKey] = {
    (ME.user_id, "PHONE"): SIGNED_PHONE,
    (ME.user_id, ME.master_public_key.to_base64()): SIGNED_MASTER,
    (BOB.user_id, BOB.master_public_key.to_base64()): SIGNED_BOB,
    (CAROL.user_id, CAROL.master_public_key.to_base64()): SIGNED_CAROL,
}
OF_PHONE, OF_MASTER, OF_BOB, OF_CAROL = KEYS
ALL = frozenset(KEYS)
PEOPLE = (ME, BOB, CAROL)


@functools.cache
def served(names: frozenset[Name] = ALL, asked: tuple[SampleUser, ...] = PEOPLE, failed: str = "") -> QueryResult:
    """What an answer about some users amounts to, if a server has some of the signatures."""

    def with_signature(name: Name, key: Any) -> Any:
        return (merge_signatures(key, KEYS[name]) if name in names else key).to_json()

    users = [user for user in asked if not user.user_id.endswith(failed or "nobody")]
    body = {
        "device_keys": {
            user.user_id: {"PHONE": with_signature(OF_PHONE, PHONE.keys)} if user is ME else {} for user in users
        },
        "master_keys": {
            user.user_id: with_signature((user.user_id, user.master_public_key.to_base64()), user.master_key)
            for user in users
        },
        "self_signing_keys": {user.user_id: user.self_signing_key.to_json() for user in users},
        "user_signing_keys": {ME.user_id: ME.user_signing_key.to_json()},
        "failures": {failed: {}} if failed else {},
    }
    request = KeysQueryRequest.for_users([user.user_id for user in asked])
    return check_query(request, KeysQueryResponse.from_json(body), own_user_id=ME.user_id)


def queue(*names: Name) -> SignatureQueue:
    made = SignatureQueue()
    for name in names:
        made.add(KEYS[name])
    return made


def sent(made: SignatureQueue, now: int = 0) -> OutgoingSignatures:
    outgoing = made.next_upload(now)
    assert outgoing is not None
    return outgoing


def uploaded(*names: Name) -> SignatureQueue:
    """A queue whose signatures the server has taken, as it says."""
    made = queue(*names)
    result = made.receive_response(sent(made).upload_id, SignaturesUploadResponse())
    assert result is not None
    assert result.is_complete
    return made


def names_in(outgoing: OutgoingSignatures) -> list[Name]:
    return [(user_id, name) for user_id, objects in outgoing.request.to_json().items() for name in objects]


def signers(outgoing: OutgoingSignatures, name: Name) -> dict[str, set[str]]:
    signatures = outgoing.request.to_json()[name[0]][name[1]]["signatures"]
    return {entity: {*by} for entity, by in signatures.items()}


def refusing(*names: Name) -> SignaturesUploadResponse:
    failures: dict[str, dict[str, Any]] = {}
    for user_id, name in names:
        failures.setdefault(user_id, {})[name] = {"errcode": "M_INVALID_SIGNATURE", "error": "no"}
    return SignaturesUploadResponse.from_json({"failures": failures})


MALFORMED = SignaturesUploadResponse.from_json({"failures": 5})


def restored(made: SignatureQueue) -> SignatureQueue:
    return SignatureQueue.from_json(json.loads(json.dumps(made.to_json())))


class TestUploading:
    def test_nothing_to_do(self) -> None:
        made = SignatureQueue()
        assert (made.waiting, made.unconfirmed) == (frozenset(), frozenset())
        assert (made.next_upload(0), made.next_upload_at()) == (None, None)

    def test_all_at_once_in_their_order(self) -> None:
        made = queue(OF_CAROL, OF_PHONE, OF_BOB, OF_MASTER)
        assert made.waiting == ALL
        at = made.next_upload_at()
        assert at is not None
        assert at <= 0
        outgoing = sent(made)
        assert names_in(outgoing) == [OF_CAROL, OF_PHONE, OF_MASTER, OF_BOB]
        assert outgoing.request.to_json()[BOB.user_id][OF_BOB[1]] == SIGNED_BOB.to_json()

    def test_one_upload_at_a_time(self) -> None:
        made = queue(OF_PHONE)
        first = sent(made)
        made.add(SIGNED_BOB)
        assert (made.next_upload(0), made.next_upload_at()) == (None, None)
        assert made.waiting == {OF_PHONE, OF_BOB}
        made.receive_response(first.upload_id, SignaturesUploadResponse())
        assert (made.waiting, made.unconfirmed) == ({OF_BOB}, {OF_PHONE})
        second = sent(made)
        assert second.upload_id != first.upload_id
        assert names_in(second) == [OF_BOB]

    def test_two_signatures_on_one_key_travel_together(self) -> None:
        made = queue(OF_PHONE, OF_BOB)
        made.add(secrets_of(ME_AGAIN).sign_device(PHONE))
        made.add(secrets_of(ME_AGAIN).sign_user(identity_of(BOB)))
        outgoing = sent(made)
        keys = {user: {f"ed25519:{user.secret('self_signing').public_key.to_base64()}"} for user in (ME, ME_AGAIN)}
        assert signers(outgoing, OF_PHONE) == {ME.user_id: keys[ME] | keys[ME_AGAIN]}
        assert len(signers(outgoing, OF_BOB)[ME.user_id]) == 2

    def test_another_key_under_the_same_name_takes_its_place(self) -> None:
        made = queue(OF_PHONE)
        anew = ME.device("PHONE", cross_signed=False, extra={"note": 1}).verify()
        made.add(secrets_of(ME).sign_device(anew))
        assert made.waiting == {OF_PHONE}
        assert sent(made).request.to_json()[ME.user_id]["PHONE"]["note"] == 1

    def test_a_device_under_the_name_of_a_key(self) -> None:
        """Attack 25: the two are never taken for one."""
        name = OF_MASTER[1]
        device = DeviceKeys.build(
            user_id=ME.user_id,
            device_id=name,
            curve25519_key=sample_curve25519_key("x"),
            signer=sample_secret_key("x").signer(f"ed25519:{name}"),
        )
        made = queue(OF_MASTER)
        made.add(device)
        assert sent(made).request.to_json()[ME.user_id] == {name: device.to_json()}
        made.add(SIGNED_MASTER)
        assert made.to_json()["signatures"][0]["kind"] == "cross-signing"

    def test_a_failure_delays(self) -> None:
        made = queue(OF_PHONE)
        made.receive_error(sent(made, 1000).upload_id, None, 1000)
        assert made.next_upload_at() == 16_000
        assert made.next_upload(15_999) is None
        made.receive_error(sent(made, 16_000).upload_id, MatrixError(status=500), 16_000)
        assert made.next_upload_at() == 46_000
        limit = MatrixError(status=429, errcode="M_LIMIT_EXCEEDED", retry_after_ms=500_000)
        made.receive_error(sent(made, 46_000).upload_id, limit, 46_000)
        assert made.next_upload_at() == 546_000
        outgoing = sent(made, 546_000)
        assert names_in(outgoing) == [OF_PHONE]
        made.receive_response(outgoing.upload_id, SignaturesUploadResponse())
        made.add(SIGNED_BOB)
        made.receive_error(sent(made, 546_000).upload_id, None, 546_000)
        assert made.next_upload_at() == 561_000, "what failed before is forgotten"

    def test_the_failure_of_another_upload_is_ignored(self) -> None:
        made = queue(OF_PHONE)
        first = sent(made)
        made.receive_error(first.upload_id, None, 0)
        second = sent(made, 20_000)
        made.receive_error(first.upload_id, None, 20_000)
        assert made.next_upload_at() is None
        assert made.receive_response(second.upload_id, SignaturesUploadResponse()) is not None
        made.receive_error(second.upload_id, None, 20_000)
        assert made.unconfirmed == {OF_PHONE}


class TestAnswers:
    def test_a_yes_is_not_the_end(self) -> None:
        """Pain A3: nobody can rely on it before it is served."""
        made = uploaded(OF_PHONE, OF_BOB)
        assert (made.waiting, made.unconfirmed) == (frozenset(), {OF_PHONE, OF_BOB})
        assert (made.next_upload(0), made.next_upload_at()) == (None, None)

    def test_what_is_refused_is_reported_and_given_up(self) -> None:
        made = queue(OF_PHONE, OF_MASTER, OF_BOB)
        result = made.receive_response(sent(made).upload_id, refusing(OF_PHONE, OF_BOB))
        assert result is not None
        assert {(it.user_id, it.name) for it in result.refused} == {OF_PHONE, OF_BOB}
        assert (made.waiting, made.unconfirmed) == (frozenset(), {OF_MASTER})

    def test_all_of_a_user_are_refused(self) -> None:
        made = queue(OF_PHONE, OF_MASTER, OF_BOB)
        response = SignaturesUploadResponse.from_json({"failures": {ME.user_id: None}})
        made.receive_response(sent(made).upload_id, response)
        assert (made.waiting, made.unconfirmed) == (frozenset(), {OF_BOB})

    def test_what_was_never_uploaded_cannot_be_refused(self) -> None:
        made = queue(OF_PHONE)
        outgoing = sent(made)
        made.add(SIGNED_BOB)
        result = made.receive_response(outgoing.upload_id, refusing(OF_BOB))
        assert result is not None
        assert len(result.notices) == 1
        assert (made.waiting, made.unconfirmed) == ({OF_BOB}, {OF_PHONE})

    def test_twice_late_and_to_nothing(self) -> None:
        made = queue(OF_PHONE, OF_BOB)
        first = sent(made)
        assert made.receive_response(first.upload_id + 1, refusing(*ALL)) is None
        made.receive_error(first.upload_id, None, 0)
        assert made.receive_response(first.upload_id, refusing(*ALL)) is None
        for _ in range(2):  # one by one, after a failure
            second = sent(made, 20_000)
            assert made.receive_response(first.upload_id, refusing(*ALL)) is None
            assert made.receive_response(second.upload_id, SignaturesUploadResponse()) is not None
            assert made.receive_response(second.upload_id, refusing(*ALL)) is None
        assert made.unconfirmed == {OF_PHONE, OF_BOB}

    def test_one_that_the_server_cannot_digest_does_not_hold_up_the_others(self) -> None:
        made, now = queue(*ALL), 0
        for _ in range(20):
            now = max(now, made.next_upload_at() or now)
            outgoing = made.next_upload(now)
            assert outgoing is not None
            if BOB.user_id in outgoing.request.signed_objects:
                made.receive_error(outgoing.upload_id, None, now)
            else:
                made.receive_response(outgoing.upload_id, SignaturesUploadResponse())
        assert made.waiting == {OF_BOB}
        assert made.unconfirmed == ALL - {OF_BOB}

    def test_of_a_malformed_answer_a_later_query_tells(self) -> None:
        made = queue(OF_PHONE, OF_BOB)
        result = made.receive_response(sent(made).upload_id, MALFORMED)
        assert result is not None
        assert result.unknown == {ME.user_id: {"PHONE"}, BOB.user_id: {OF_BOB[1]}}
        assert (made.waiting, made.unconfirmed) == (frozenset(), {OF_PHONE, OF_BOB})
        confirmation = made.confirm(served(), own_device=PHONE)
        assert confirmation is not None
        assert confirmation.is_complete
        assert made.unconfirmed == frozenset()

    @pytest.mark.parametrize("response", [SignaturesUploadResponse(), refusing(OF_PHONE, OF_BOB), MALFORMED])
    def test_what_is_signed_anew_meanwhile_is_uploaded_again(self, response: SignaturesUploadResponse) -> None:
        made = queue(OF_PHONE, OF_BOB)
        outgoing = sent(made)
        made.add(SIGNED_PHONE)
        made.receive_response(outgoing.upload_id, response)
        assert made.waiting == {OF_PHONE}
        assert names_in(sent(made)) == [OF_PHONE]

    def test_what_is_signed_anew_after_it_was_uploaded(self) -> None:
        made = uploaded(OF_PHONE, OF_BOB)
        made.add(SIGNED_PHONE)
        assert (made.waiting, made.unconfirmed) == ({OF_PHONE}, {OF_BOB})


class TestConfirming:
    def test_what_is_served_needs_no_further_care(self) -> None:
        made = uploaded(*KEYS)
        confirmation = made.confirm(served(), own_device=PHONE)
        assert confirmation is not None
        assert {(it.user_id, it.name) for it in confirmation.served} == ALL
        assert confirmation.is_complete
        assert made.unconfirmed == frozenset()
        assert made.confirm(served(), own_device=PHONE) is None

    def test_partly(self) -> None:
        made = uploaded(*KEYS)
        confirmation = made.confirm(served(frozenset([OF_PHONE, OF_BOB])), own_device=PHONE)
        assert confirmation is not None
        assert {(it.user_id, it.name) for it in confirmation.served} == {OF_PHONE, OF_BOB}
        assert {(it.signature.user_id, it.signature.name, it.reason) for it in confirmation.missing} == {
            (*OF_MASTER, Reason.MISSING_SIGNATURE),
            (*OF_CAROL, Reason.MISSING_SIGNATURE),
        }
        assert made.unconfirmed == {OF_MASTER, OF_CAROL}
        made.confirm(served(), own_device=PHONE)
        assert made.unconfirmed == frozenset()

    def test_only_of_those_who_were_asked_about(self) -> None:
        made = uploaded(*KEYS)
        confirmation = made.confirm(served(asked=(BOB,)), own_device=PHONE)
        assert confirmation is not None
        assert [(it.user_id, it.name) for it in confirmation.served] == [OF_BOB]
        assert confirmation.missing == ()
        assert made.unconfirmed == ALL - {OF_BOB}
        assert made.confirm(served(asked=(BOB,)), own_device=PHONE) is None

    def test_a_server_that_cannot_be_reached_confirms_nothing(self) -> None:
        made = uploaded(OF_BOB)
        confirmation = made.confirm(served(failed="b.example"), own_device=PHONE)
        assert confirmation is not None
        assert [it.reason for it in confirmation.missing] == [Reason.NOT_SERVED]
        assert made.unconfirmed == {OF_BOB}

    def test_what_waits_is_not_confirmed(self) -> None:
        made = uploaded(OF_PHONE)
        made.add(SIGNED_BOB)
        assert made.confirm(served(asked=(BOB,)), own_device=PHONE) is None
        made.confirm(served(), own_device=PHONE)
        assert (made.waiting, made.unconfirmed) == ({OF_BOB}, frozenset())

    def test_every_signature_on_a_key_has_to_be_served(self) -> None:
        made = queue(OF_BOB)
        made.add(secrets_of(ME_AGAIN).sign_user(identity_of(BOB)))
        made.receive_response(sent(made).upload_id, SignaturesUploadResponse())
        confirmation = made.confirm(served(), own_device=PHONE)
        assert confirmation is not None
        assert (len(confirmation.served), len(confirmation.missing)) == (1, 1)
        assert made.unconfirmed == {OF_BOB}

    def test_a_signature_that_is_not_good_is_not_served(self) -> None:
        made = uploaded(OF_MASTER)
        other = SampleUser("@other:a.example").device("PHONE").verify()
        impostor = DeviceKeys.build(
            user_id=ME.user_id,
            device_id="PHONE",
            curve25519_key=sample_curve25519_key("x"),
            signer=sample_secret_key("x").signer("ed25519:PHONE"),
        ).verify()
        confirmation = made.confirm(served(), own_device=impostor)
        assert confirmation is not None
        assert [it.reason for it in confirmation.missing] == [Reason.INVALID_SIGNATURE]
        with pytest.raises(LocalProtocolError) as caught:
            made.confirm(served(), own_device=other)
        assert caught.value.reason is Reason.MISSING_KEY
        assert made.unconfirmed == {OF_MASTER}

    def test_once_more(self) -> None:
        made = uploaded(*KEYS)
        made.confirm(served(frozenset([OF_PHONE])), own_device=PHONE)
        made.upload_again()
        assert (made.waiting, made.unconfirmed) == (ALL - {OF_PHONE}, frozenset())
        assert frozenset(names_in(sent(made))) == ALL - {OF_PHONE}

    def test_once_more_while_another_upload_is_in_flight(self) -> None:
        made = uploaded(OF_PHONE)
        made.add(SIGNED_BOB)
        outgoing = sent(made)
        made.upload_again()
        assert made.next_upload(0) is None
        made.receive_response(outgoing.upload_id, SignaturesUploadResponse())
        assert (made.waiting, made.unconfirmed) == ({OF_PHONE}, {OF_BOB})


STORED: dict[str, Any] = {
    "version": 1,
    "signatures": [
        {"kind": "device", "key": SIGNED_PHONE.to_json(), "is_uploaded": True},
        {"kind": "cross-signing", "key": SIGNED_BOB.to_json(), "is_uploaded": False},
    ],
}


def damaged(place: int, **changes: Any) -> dict[str, Any]:
    obj = copy.deepcopy(STORED)
    obj["signatures"][place].update(changes)
    return obj


class TestStoring:
    def test_over_a_restart(self) -> None:
        made = uploaded(OF_PHONE)
        made.add(SIGNED_BOB)
        assert made.to_json() == STORED
        sent(made)
        assert made.to_json() == STORED, "what is in flight is sent again"
        again = restored(made)
        assert (again.waiting, again.unconfirmed) == ({OF_BOB}, {OF_PHONE})
        assert again.to_json() == STORED
        assert names_in(sent(again)) == [OF_BOB]

    def test_two_signatures_on_one_key_are_kept(self) -> None:
        made = queue(OF_BOB)
        made.add(secrets_of(ME_AGAIN).sign_user(identity_of(BOB)))
        assert signers(sent(restored(made)), OF_BOB) == signers(sent(made), OF_BOB)

    @pytest.mark.parametrize(
        ("obj", "reason", "path"),
        [
            (None, Reason.WRONG_TYPE, ""),
            ({**STORED, "version": 2}, Reason.INVALID_VALUE, "/version"),
            ({**STORED, "signatures": {}}, Reason.WRONG_TYPE, "/signatures"),
            ({**STORED, "signatures": [5]}, Reason.WRONG_TYPE, "/signatures/0"),
            (damaged(1, kind="user"), Reason.INVALID_VALUE, "/signatures/1/kind"),
            (damaged(1, kind=None), Reason.WRONG_TYPE, "/signatures/1/kind"),
            (damaged(1, kind="device"), Reason.MISSING_MEMBER, "/signatures/1/key/device_id"),
            (damaged(0, kind="cross-signing"), Reason.MISSING_MEMBER, "/signatures/0/key/usage"),
            (damaged(0, key=None), Reason.WRONG_TYPE, "/signatures/0/key"),
            (damaged(0, key={**SIGNED_PHONE.to_json(), "keys": 5}), Reason.WRONG_TYPE, "/signatures/0/key/keys"),
            (
                damaged(0, key={**SIGNED_PHONE.to_json(), "signatures": {}}),
                Reason.MISSING_SIGNATURE,
                "/signatures/0/key",
            ),
            (damaged(1, is_uploaded=1), Reason.WRONG_TYPE, "/signatures/1/is_uploaded"),
        ],
    )
    def test_damage_is_found(self, obj: Any, reason: Reason, path: str) -> None:
        SignatureQueue.from_json(STORED)
        with pytest.raises(LocalProtocolError) as caught:
            SignatureQueue.from_json(obj)
        assert (caught.value.reason, caught.value.path) == (reason, path)

    @pytest.mark.parametrize("name", ["kind", "key", "is_uploaded"])
    def test_every_member_is_needed(self, name: str) -> None:
        obj = copy.deepcopy(STORED)
        del obj["signatures"][1][name]
        with pytest.raises(LocalProtocolError) as caught:
            SignatureQueue.from_json(obj)
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_MEMBER, f"/signatures/1/{name}")

    @given(json_like_values(), st.sampled_from(["", "version", "signatures", "kind", "key", "is_uploaded"]))
    def test_no_foreign_exception(self, value: Any, name: str) -> None:
        obj = {"": value}.get(name, {**STORED, name: value} if name in STORED else damaged(0, **{name: value}))
        with contextlib.suppress(E2EKeysError):
            SignatureQueue.from_json(obj)


class TestCallers:
    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            (PHONE, Reason.WRONG_TYPE),
            (SIGNED_PHONE.to_json(), Reason.WRONG_TYPE),
            (BOB.master_key, Reason.MISSING_SIGNATURE),
            (SIGNED_PHONE.with_signed(SIGNED_PHONE.signed.without_signatures()), Reason.MISSING_SIGNATURE),
            (
                CrossSigningKey.from_json({**BOB.master_key.to_json(), "signatures": {ME.user_id: {}}}),
                Reason.MISSING_SIGNATURE,
            ),
        ],
        ids=["none", "a verified device", "JSON", "an unsigned key", "an unsigned device", "a user without signatures"],
    )
    def test_only_signed_keys(self, key: Any, reason: Reason) -> None:
        made = queue(OF_PHONE)
        before = made.to_json()
        with pytest.raises(LocalProtocolError) as caught:
            made.add(key)
        assert (caught.value.reason, caught.value.path) == (reason, "/key")
        assert made.to_json() == before

    def test_the_rest(self) -> None:
        made: Any = queue(OF_PHONE)
        with pytest.raises(LocalProtocolError) as caught:
            made.next_upload("0")
        assert caught.value.path == "/now"
        upload_id = sent(made).upload_id
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: made.next_upload(None), "/now"),
            (lambda: made.receive_response(upload_id, None), "/response"),
            (lambda: made.receive_response(upload_id, MatrixError(status=400)), "/response"),
            (lambda: made.receive_response(str(upload_id), SignaturesUploadResponse()), "/upload_id"),
            (lambda: made.receive_response(True, SignaturesUploadResponse()), "/upload_id"),
            (lambda: made.receive_error(upload_id, None, 0.5), "/now"),
            (lambda: made.receive_error(upload_id, "no", 0), "/error"),
            (lambda: made.receive_error([], None, 0), "/upload_id"),
            (lambda: made.confirm(None, own_device=PHONE), ""),
            (lambda: made.confirm(served(), own_device=None), ""),
            (lambda: made.confirm(served(), own_device=PHONE.keys), ""),
        ]
        for call, path in calls:
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, path)
        assert made.receive_response(upload_id, SignaturesUploadResponse()) is not None


# --------------------------------------------------------------------------------------------------------------
# Any order, any duplicate, any loss
# --------------------------------------------------------------------------------------------------------------

NAMES = sorted(KEYS)
some_names = st.frozensets(st.sampled_from(NAMES))


class Queue(RuleBasedStateMachine):
    """A server that refuses some signatures, a network without manners, and a client that crashes.

    A signature waits, is in flight, is uploaded, or was reported as refused or as served. It is never lost.
    """

    @initialize()
    def begin(self) -> None:
        self.queue = SignatureQueue()
        self.now = 0
        self.open: dict[Name, int] = {}  # what nothing was reported about, and which signing it was
        self.signed = 0
        self.on_server: set[Name] = set()
        self.answers: list[tuple[OutgoingSignatures, dict[Name, int], SignaturesUploadResponse]] = []

    @rule(name=st.sampled_from(NAMES))
    def sign(self, name: Name) -> None:
        self.signed += 1
        self.open[name] = self.signed
        self.queue.add(KEYS[name])

    @rule(refused=some_names, malformed=st.booleans(), arrives=st.booleans())
    def send(self, refused: frozenset[Name], malformed: bool, arrives: bool) -> None:
        outgoing = self.queue.next_upload(self.now)
        if outgoing is None:
            return
        names = names_in(outgoing)
        assert frozenset() < frozenset(names) <= self.queue.waiting
        for user_id, name in names:
            assert outgoing.request.to_json()[user_id][name] == KEYS[user_id, name].to_json()
        refused &= frozenset(names)
        if arrives:
            self.on_server |= {*names} - refused
        response = MALFORMED if malformed else refusing(*refused)
        signings = {name: self.open[name] for name in names}
        self.answers.append((outgoing, signings, response))

    @rule(data=st.data(), keep=st.booleans())
    def answer(self, data: st.DataObject, keep: bool) -> None:
        if not self.answers:
            return
        place = data.draw(st.integers(0, len(self.answers) - 1))
        outgoing, signings, response = self.answers[place] if keep else self.answers.pop(place)
        result = self.queue.receive_response(outgoing.upload_id, response)
        for refused in () if result is None else result.refused:
            name = (refused.user_id, refused.name)
            if self.open.get(name) == signings[name]:
                del self.open[name]

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        if self.answers:
            outgoing, _, _ = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
            self.queue.receive_error(outgoing.upload_id, None, self.now)

    @rule(asked=st.lists(st.sampled_from(PEOPLE), min_size=1, unique=True))
    def ask(self, asked: list[SampleUser]) -> None:
        before = self.queue.unconfirmed
        about = {user.user_id for user in asked}
        confirmation = self.queue.confirm(served(frozenset(self.on_server), tuple(asked)), own_device=PHONE)
        reported: Iterable[Any] = () if confirmation is None else confirmation.served
        confirmed = {(it.user_id, it.name) for it in reported}
        assert confirmed == {name for name in before & self.on_server if name[0] in about}
        for name in confirmed:
            del self.open[name]

    @rule()
    def upload_again(self) -> None:
        self.queue.upload_again()
        assert self.queue.unconfirmed == frozenset()

    @rule(later=st.integers(0, 1_000_000))
    def wait(self, later: int) -> None:
        self.now += later

    @rule()
    def restart(self) -> None:
        self.queue = restored(self.queue)
        self.answers.clear()

    @rule(name=st.sampled_from(NAMES))
    def forget(self, name: Name) -> None:
        """The server does."""
        self.on_server.discard(name)

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.waiting | self.queue.unconfirmed == self.open.keys()
            assert not self.queue.waiting & self.queue.unconfirmed

    @invariant()
    def everything_is_uploaded_in_the_end(self) -> None:
        if not hasattr(self, "queue"):
            return
        other = copy.deepcopy(self.queue)
        for outgoing, _, _ in self.answers:
            other.receive_error(outgoing.upload_id, None, self.now)
        uploaded: set[Name] = set()
        while (outgoing := other.next_upload(10**12)) is not None:
            uploaded.update(names_in(outgoing))
            other.receive_response(outgoing.upload_id, SignaturesUploadResponse())
        assert uploaded == self.queue.waiting


TestAnyOrder = Queue.TestCase


class TestWhoseSignatures:
    @pytest.mark.parametrize(
        "key",
        [
            ME.device("PHONE", cross_signed=False),  # its own signature
            ME.device("PHONE"),  # the new one, and its own
            BOB.master_key.with_signed(
                BOB.master_key.signed.with_signature(
                    ME.user_id, "ed25519:PHONE", sample_secret_key("x").sign(BOB.master_key.signed.canonical)
                )
            ),  # a device over another user's master key
        ],
    )
    def test_what_is_never_uploaded(self, key: Any) -> None:
        """Attack 40: a device signs its owner's master key, and nothing else here."""
        queue = SignatureQueue()
        with pytest.raises(LocalProtocolError) as caught:
            queue.add(key)
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/key")
        assert queue.waiting == frozenset()

    def test_what_other_keys_have_signed_is_withdrawn(self) -> None:
        queue = SignatureQueue()
        for key in KEYS.values():
            queue.add(key)
        usk = ME.user_signing_key.key_name
        queue.withdraw_unless_by({usk, "ed25519:PHONE"})
        assert queue.waiting == {OF_BOB, OF_CAROL, OF_MASTER}
        sent = queue.next_upload(0)
        assert sent is not None
        queue.withdraw_unless_by(frozenset())
        assert queue.waiting == frozenset()
        queue.receive_response(sent.upload_id, SignaturesUploadResponse())
        assert queue.unconfirmed == frozenset()

    @pytest.mark.parametrize("key_ids", [None, "ed25519:PHONE", 5])
    def test_several_key_ids_are_needed(self, key_ids: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SignatureQueue().withdraw_unless_by(key_ids)
        assert caught.value.path == "/key_ids"
