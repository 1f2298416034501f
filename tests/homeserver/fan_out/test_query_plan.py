"""Queries of clients: who is asked, and what the answers amount to."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    DeviceKeys,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    SignedJson,
    UserKeysQueryResponse,
    check_query,
)
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.fan_out.failures import ServerFailure
from matrix_e2e_keys.homeserver.fan_out.query_plan import QueryAnswer, QueryPlan, plan_query
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, Limits
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys, UserSignature
from matrix_e2e_keys.testing.message_strategies import keys_query_requests
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

HOME = "a.example"
ALICE = SampleUser("@alice:a.example")
AMY = SampleUser("@amy:a.example")
BOB = SampleUser("@bob:b.example")
BEN = SampleUser("@ben:b.example")
CAROL = SampleUser("@carol:c.example")
ME = Requester(user_id=ALICE.user_id, device_id="PHONE")


def stored(user: SampleUser, *device_ids: str, names: Mapping[str, str] | None = None, **changes: Any) -> UserKeys:
    """A user with an identity and some devices, as a store has them."""
    devices = {
        device_id: DeviceRecord(
            device_id=device_id, keys=user.device(device_id).signed, display_name=(names or {}).get(device_id)
        )
        for device_id in device_ids
    }
    keys = UserKeys(
        user_id=user.user_id,
        devices=devices,
        master_key=user.master_key,
        self_signing_key=user.self_signing_key,
        user_signing_key=user.user_signing_key,
    )
    return evolve(keys, **changes)


def signature(signer: SampleUser, of: SampleUser) -> UserSignature:
    signed = signer.verified(of.master_key).signed
    ((key_id, text),) = signed.signatures[signer.user_id].items()
    return UserSignature(
        signer_id=signer.user_id,
        signer_key_id=key_id,
        user_id=of.user_id,
        master_key_id=of.master_key.key_name,
        signature=text,
    )


def plan(asked: Mapping[str, Iterable[str]], **arguments: Any) -> QueryPlan:
    request = KeysQueryRequest.from_json({"device_keys": {user: list(of) for user, of in asked.items()}})
    return plan_query(request, requester=ME, server_name=HOME, **arguments)


def told(*users: tuple[SampleUser, Iterable[str]]) -> UserKeysQueryResponse:
    """What the server of some users answers."""
    body: dict[str, Any] = {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}}
    for user, device_ids in users:
        body["device_keys"][user.user_id] = {name: user.device(name).to_json() for name in device_ids}
        body["master_keys"][user.user_id] = user.master_key.to_json()
        body["self_signing_keys"][user.user_id] = user.self_signing_key.to_json()
    return UserKeysQueryResponse.from_json(body)


def device(answer: QueryAnswer, user_id: str, device_id: str) -> DeviceKeys:
    entry = answer.response.device_keys[user_id][device_id]  # type: ignore[index]
    assert isinstance(entry, DeviceKeys)
    return entry


def listed(answer: QueryAnswer) -> dict[str, set[str]]:
    return {user: set(of) for user, of in answer.response.device_keys.items()}  # type: ignore[arg-type]


class TestWhoIsAsked:
    def test_one_request_for_each_server(self) -> None:
        made = plan({ALICE.user_id: (), BOB.user_id: ("X",), CAROL.user_id: (), BEN.user_id: (), AMY.user_id: ("Y",)})
        assert made.local == {ALICE.user_id: (), AMY.user_id: ("Y",)}
        assert {server: request.to_json() for server, request in made.remote.items()} == {
            "b.example": {"device_keys": {BOB.user_id: ["X"], BEN.user_id: []}},
            "c.example": {"device_keys": {CAROL.user_id: []}},
        }

    @pytest.mark.parametrize(
        ("user_id", "server"),
        [
            ("@x:a.example:8448", "a.example:8448"),
            ("@x:A.example", "A.example"),
            ("@x:a.example.", "a.example."),
            ("@x:[::1]", "[::1]"),
            ("@x:[::1]:8448", "[::1]:8448"),
            ("@x:evil.a.example", "evil.a.example"),
        ],
    )
    def test_server_names_are_compared_exactly(self, user_id: str, server: str) -> None:
        """Attack 53."""
        made = plan({user_id: ()})
        assert (set(made.local), set(made.remote)) == (set(), {server})

    def test_what_is_no_user_id_is_passed_over(self) -> None:
        """Attack 53: a name with two servers is no user id."""
        made = plan({"alice": (), "@x:": (), "@a:evil.org:good.org": (), ALICE.user_id: ()})
        assert (set(made.local), set(made.remote)) == ({ALICE.user_id}, set())
        assert listed(made.answer(local={}, remote={})) == {ALICE.user_id: set()}

    def test_users_who_are_kept_are_asked_of_nobody(self) -> None:
        made = plan(
            {BOB.user_id: (), BEN.user_id: ()}, cached={BOB.user_id: stored(BOB, "X"), AMY.user_id: stored(AMY)}
        )
        assert made.remote["b.example"].to_json() == {"device_keys": {BEN.user_id: []}}
        assert set(made.cached) == {BOB.user_id}
        assert plan({BOB.user_id: ()}, cached={BOB.user_id: stored(BOB)}).remote == {}

    def test_users_of_this_server_are_never_taken_from_what_is_kept_of_others(self) -> None:
        made = plan({AMY.user_id: ()}, cached={AMY.user_id: stored(AMY, "OLD")})
        assert (made.cached, set(made.local)) == ({}, {AMY.user_id})
        assert listed(made.answer(local={}, remote={})) == {AMY.user_id: set()}

    @pytest.mark.parametrize(
        ("timeout", "expected"),
        [(None, 10_000), (0, 0), (5, 5), (20_000, 20_000), (20_001, 20_000), (2**53 - 1, 20_000)],
    )
    def test_the_timeout_of_the_body_counts(self, timeout: int | None, expected: int) -> None:
        request = KeysQueryRequest(device_keys={}, timeout=timeout)
        assert plan_query(request, requester=ME, server_name=HOME).timeout_ms == expected

    def test_limits(self) -> None:
        """Attack 48."""
        few = evolve(SPEC, limits=evolve(SPEC.limits, users_per_request=2, devices_per_request=3))
        plan({"x": (), BOB.user_id: ("A", "B", "C")}, policy=few)
        for asked, text in (
            ({"x": (), BOB.user_id: (), BEN.user_id: ()}, "The request is about 3 users, at most 2"),
            ({BEN.user_id: ("A", "B"), BOB.user_id: ("A", "B")}, "The request is about 4 devices, at most 3"),
        ):
            with pytest.raises(MatrixError) as caught:
                plan(asked, policy=few)
            assert (caught.value.status, caught.value.errcode, caught.value.error) == (400, "M_TOO_LARGE", text)


class TestUsersOfThisServer:
    def test_everybody_who_is_asked_about_is_answered(self) -> None:
        made = plan({ALICE.user_id: (), AMY.user_id: (), "@nobody:a.example": ()})
        answer = made.answer(local={AMY.user_id: stored(AMY, "X", "Y")}, remote={})
        assert listed(answer) == {ALICE.user_id: set(), AMY.user_id: {"X", "Y"}, "@nobody:a.example": set()}
        assert answer.response.failures == {}
        assert (answer.dropped, answer.learned) == ((), {})

    def test_nobody_else_is_shown(self) -> None:
        answer = plan({AMY.user_id: ()}).answer(
            local={AMY.user_id: stored(AMY), ALICE.user_id: stored(ALICE), BOB.user_id: stored(BOB)},
            remote={"b.example": told((BOB, ["X"]))},
            fallback={BOB.user_id: stored(BOB), CAROL.user_id: stored(CAROL)},
        )
        assert answer.response.user_ids == {AMY.user_id}

    def test_devices_that_were_asked_for_and_exist(self) -> None:
        answer = plan({AMY.user_id: ("X", "NONE", "X")}).answer(local={AMY.user_id: stored(AMY, "X", "Y")}, remote={})
        assert listed(answer) == {AMY.user_id: {"X"}}

    def test_devices_without_keys_are_left_out(self) -> None:
        user = stored(AMY, "X")
        user = evolve(user, devices={**user.devices, "BARE": DeviceRecord(device_id="BARE", display_name="bare")})
        for asked in ((), ("X", "BARE")):
            assert listed(plan({AMY.user_id: asked}).answer(local={AMY.user_id: user}, remote={})) == {
                AMY.user_id: {"X"}
            }

    def test_unsigned_is_the_name_or_nothing_and_never_what_a_client_put_there(self) -> None:
        chosen = AMY.device("X").signed.with_unsigned({"device_display_name": "fake", "x": 1})
        user = stored(AMY, "X", "Y", names={"Y": "tablet"})
        user = evolve(user, devices={**user.devices, "X": DeviceRecord(device_id="X", keys=chosen)})
        answer = plan({AMY.user_id: ()}).answer(local={AMY.user_id: user}, remote={})
        assert device(answer, AMY.user_id, "X").to_json()["unsigned"] == {}
        assert device(answer, AMY.user_id, "Y").to_json()["unsigned"] == {"device_display_name": "tablet"}

    def test_the_keys_are_those_that_were_uploaded(self) -> None:
        answer = plan({AMY.user_id: ()}).answer(local={AMY.user_id: stored(AMY, "X")}, remote={})
        assert device(answer, AMY.user_id, "X").to_json() == {**AMY.device("X").to_json(), "unsigned": {}}
        assert answer.response.master_keys == {AMY.user_id: AMY.master_key}
        assert answer.response.self_signing_keys[AMY.user_id].to_json() == AMY.self_signing_key.to_json()  # type: ignore[union-attr]

    def test_user_signing_keys_are_for_their_owner_who_asks_about_himself(self) -> None:
        users = {ALICE.user_id: stored(ALICE), AMY.user_id: stored(AMY)}
        both = plan({ALICE.user_id: (), AMY.user_id: ()}).answer(local=users, remote={})
        assert both.response.user_signing_keys == {ALICE.user_id: ALICE.user_signing_key}
        other = plan({AMY.user_id: ()}).answer(local=users, remote={})
        assert other.response.user_signing_keys == {}

    def test_what_is_stored_and_malformed_is_written_as_it_is(self) -> None:
        odd = AMY.device("X").signed.content
        odd["keys"] = {"ed25519:X": "?"}
        keys = stored(AMY, devices={"X": DeviceRecord(device_id="X", keys=_signed(odd))})
        answer = plan({AMY.user_id: ()}).answer(local={AMY.user_id: keys}, remote={})
        body = json.loads(answer.response.to_http().body)
        assert body["device_keys"] == {AMY.user_id: {"X": {**odd, "unsigned": {}}}}

    def test_a_user_whose_identity_is_incomplete(self) -> None:
        keys = stored(AMY, self_signing_key=None, user_signing_key=None)
        answer = plan({AMY.user_id: ()}).answer(local={AMY.user_id: keys}, remote={})
        assert (set(answer.response.master_keys), answer.response.self_signing_keys) == ({AMY.user_id}, {})


def _signed(obj: Any) -> Any:
    return SignedJson.from_json(obj)


class TestSignaturesOfTheRequester:
    """What the requester signed stands on master keys, wherever they come from."""

    MINE = signature(ALICE, BOB)

    @pytest.mark.parametrize("way", ["cached", "fresh", "fallback"])
    def test_on_users_of_other_servers(self, way: str) -> None:
        made = plan({BOB.user_id: ()}, cached={BOB.user_id: stored(BOB)} if way == "cached" else {})
        answer = made.answer(
            local={},
            remote={"b.example": told((BOB, ["X"]))} if way == "fresh" else {},
            fallback={BOB.user_id: stored(BOB)},
            signatures=[self.MINE, signature(AMY, BOB), signature(ALICE, BEN)],
        )
        key = answer.response.master_keys[BOB.user_id]
        assert set(key.signed.signatures) == {ALICE.user_id}  # type: ignore[union-attr]
        assert key.to_json() == ALICE.verified(BOB.master_key).to_json()  # type: ignore[union-attr]

    def test_and_on_those_of_this_server(self) -> None:
        answer = plan({AMY.user_id: ()}).answer(
            local={AMY.user_id: stored(AMY)}, remote={}, signatures=iter([signature(ALICE, AMY)])
        )
        assert ALICE.user_id in answer.response.master_keys[AMY.user_id].signed.signatures  # type: ignore[union-attr]

    def test_nobody_sees_who_signed_him(self) -> None:
        """Attack 53."""
        master = AMY.verified(ALICE.master_key)
        answer = plan({ALICE.user_id: ()}).answer(
            local={ALICE.user_id: stored(ALICE, master_key=master)}, remote={}, signatures=[signature(AMY, ALICE)]
        )
        assert answer.response.master_keys[ALICE.user_id].signed.signatures == {}  # type: ignore[union-attr]


class TestUsersOfOtherServers:
    def test_what_they_tell_is_answered_and_learned(self) -> None:
        made = plan({BOB.user_id: (), BEN.user_id: ("X",), CAROL.user_id: ()})
        answer = made.answer(
            local={}, remote={"b.example": told((BOB, ["X", "Y"]), (BEN, ["X"])), "c.example": told((CAROL, []))}
        )
        assert listed(answer) == {BOB.user_id: {"X", "Y"}, BEN.user_id: {"X"}, CAROL.user_id: set()}
        assert answer.response.failures == {}
        assert set(answer.response.self_signing_keys) == {BOB.user_id, BEN.user_id, CAROL.user_id}
        assert {user_id: set(keys.devices) for user_id, keys in answer.learned.items()} == {
            BOB.user_id: {"X", "Y"},
            CAROL.user_id: set(),
        }
        assert answer.dropped == ()
        assert set(check_query(made.request, answer.response).devices.accepted[BOB.user_id]) == {"X", "Y"}

    def test_who_is_unknown_there_is_missing_and_that_is_no_failure(self) -> None:
        answer = plan({BOB.user_id: (), BEN.user_id: ("X",)}).answer(local={}, remote={"b.example": told((BEN, []))})
        assert listed(answer) == {BEN.user_id: set()}
        assert answer.response.failures == {}

    def test_a_list_that_is_not_told_is_no_empty_list(self) -> None:
        body = told((BOB, ["X"])).to_json()
        body["device_keys"] = {}
        for devices in ({}, {BOB.user_id: 5}):
            body["device_keys"] = devices  # type: ignore[assignment]
            answer = plan({BOB.user_id: ()}).answer(
                local={}, remote={"b.example": UserKeysQueryResponse.from_json(body)}
            )
            assert (listed(answer), set(answer.response.master_keys)) == ({}, {BOB.user_id})
            assert answer.learned == {}

    def test_what_is_dropped_is_named_by_server(self) -> None:
        answer = plan({BOB.user_id: (), CAROL.user_id: ()}).answer(
            local={}, remote={"b.example": told((BOB, ["X"]), (CAROL, ["X"])), "c.example": told((CAROL, ["Y"]))}
        )
        assert set(answer.dropped_by) == {"b.example"}
        assert {rejection.reason for rejection in answer.dropped} == {Reason.SERVER_NAME_MISMATCH}
        assert len(answer.dropped) == 3
        assert listed(answer) == {BOB.user_id: {"X"}, CAROL.user_id: {"Y"}}

    def test_a_server_cannot_speak_for_users_of_this_one(self) -> None:
        """Attacks 44 and 53."""
        answer = plan({BOB.user_id: (), AMY.user_id: ()}).answer(
            local={}, remote={"b.example": told((BOB, []), (AMY, ["EVIL"]))}
        )
        assert listed(answer) == {BOB.user_id: set(), AMY.user_id: set()}
        assert answer.response.master_keys.keys() == {BOB.user_id}

    def test_unknown_devices_of_a_kept_user_cost_nothing(self) -> None:
        made = plan({BOB.user_id: ("NONE",), AMY.user_id: ()}, cached={BOB.user_id: stored(BOB, "X")})
        answer = made.answer(local={AMY.user_id: stored(AMY, "Y")}, remote={})
        assert listed(answer) == {BOB.user_id: set(), AMY.user_id: {"Y"}}


class TestFailures:
    def test_a_server_that_does_not_answer_costs_its_own_users(self) -> None:
        made = plan({BOB.user_id: (), CAROL.user_id: (), AMY.user_id: ()})
        answer = made.answer(local={AMY.user_id: stored(AMY)}, remote={"c.example": told((CAROL, ["X"]))})
        assert listed(answer) == {CAROL.user_id: {"X"}, AMY.user_id: set()}
        assert answer.response.failures == {"b.example": ServerFailure.timed_out().to_json()}

    def test_a_refusal_is_told(self) -> None:
        failure = ServerFailure(status=403, errcode="M_FORBIDDEN", message="no")
        answer = plan({BOB.user_id: ()}).answer(local={}, remote={"b.example": failure})
        assert answer.response.failures == {"b.example": {"status": 403, "errcode": "M_FORBIDDEN", "message": "no"}}

    def test_what_was_known_is_answered_while_the_server_is_down(self) -> None:
        made = plan({BOB.user_id: ("X",), BEN.user_id: ()})
        answer = made.answer(
            local={},
            remote={"b.example": ServerFailure(status=400)},
            fallback={BOB.user_id: stored(BOB, "X", "Y"), BEN.user_id: stored(BEN)},
        )
        assert listed(answer) == {BOB.user_id: {"X"}, BEN.user_id: set()}
        assert answer.response.failures == {}
        assert answer.learned == {}

    def test_but_the_server_has_failed_unless_that_is_everybody(self) -> None:
        made = plan({BOB.user_id: (), BEN.user_id: ()})
        answer = made.answer(local={}, remote={}, fallback={BOB.user_id: stored(BOB, "X")})
        assert listed(answer) == {BOB.user_id: {"X"}}
        assert set(answer.response.failures) == {"b.example"}

    def test_what_was_known_is_not_mixed_with_a_fresh_answer(self) -> None:
        answer = plan({BOB.user_id: ()}).answer(
            local={}, remote={"b.example": told()}, fallback={BOB.user_id: stored(BOB, "OLD")}
        )
        assert (listed(answer), answer.response.failures) == ({}, {})

    def test_an_answer_that_is_malformed_as_a_whole_is_a_failure(self) -> None:
        answer = plan({BOB.user_id: ()}).answer(
            local={}, remote={"b.example": UserKeysQueryResponse.from_json({"device_keys": 5, "master_keys": 5})}
        )
        assert answer.response.failures["b.example"]["status"] == 502

    def test_malformed_master_keys_alone_are_not(self) -> None:
        body = {**told((BOB, ["X"])).to_json(), "master_keys": 5}
        answer = plan({BOB.user_id: ()}).answer(local={}, remote={"b.example": UserKeysQueryResponse.from_json(body)})
        assert (listed(answer), answer.response.failures) == ({BOB.user_id: {"X"}}, {})
        assert {rejection.path for rejection in answer.dropped} == {
            "/master_keys",
            f"/self_signing_keys/{BOB.user_id}",
        }


class TestArguments:
    def test_a_user_under_another_name_is_a_fault_of_the_caller(self) -> None:
        wrong = {BOB.user_id: stored(AMY)}
        made = plan({BOB.user_id: ()})
        for name, call in (
            ("cached", lambda: plan({BOB.user_id: ()}, cached=wrong)),
            ("local", lambda: made.answer(local=wrong, remote={})),
            ("fallback", lambda: made.answer(local={}, remote={}, fallback=wrong)),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.reason is Reason.USER_ID_MISMATCH
            assert caught.value.path == f"/{name}/{BOB.user_id}"

    @given(junk=json_like_values())
    def test_only_errors_of_this_library_leave(self, junk: Any) -> None:
        request = KeysQueryRequest(device_keys={BOB.user_id: ()})
        made = plan_query(request, requester=ME, server_name=HOME)
        for arguments in ({"requester": junk}, {"server_name": junk}, {"cached": junk}, {"policy": junk}):
            _only_ours(lambda: plan_query(request, **{"requester": ME, "server_name": HOME, **arguments}))  # noqa: B023
        _only_ours(lambda: plan_query(junk, requester=ME, server_name=HOME))
        for name in ("local", "remote", "fallback", "signatures", "verifier"):
            _only_ours(lambda: made.answer(**{"local": {}, "remote": {}, name: junk}))  # noqa: B023
            nested: dict[str, Any] = {"local": {}, "remote": {}, name: {BOB.user_id: junk}}
            _only_ours(lambda: made.answer(**nested))  # noqa: B023

    def test_a_wrong_argument_is_named(self) -> None:
        for call, path in (
            (lambda: plan_query("x", requester=ME, server_name=HOME), "/request"),  # type: ignore[arg-type]
            (lambda: plan({}).answer(local={}, remote={"b.example": 5}), "/remote/b.example"),  # type: ignore[dict-item]
            (lambda: plan({}).answer(local={}, remote={}, signatures=[5]), "/signatures/0"),  # type: ignore[list-item]
            (lambda: plan({}).answer(local={}, remote={}, verifier=5), "/verifier"),  # type: ignore[arg-type]
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.path == path


def _only_ours(call: Any) -> None:
    with contextlib.suppress(LocalProtocolError):
        call()


class TestAnyRequest:
    @given(request=keys_query_requests(), data=st.data())
    def test_every_request_gets_an_answer_that_can_be_sent_and_read(
        self, request: KeysQueryRequest, data: st.DataObject
    ) -> None:
        made = plan_query(request, requester=ME, server_name=HOME, policy=COMPAT)
        assert (
            made.local.keys() | {user for part in made.remote.values() for user in part.asked} == request.asked.keys()
        )
        for outgoing in made.remote.values():
            outgoing.to_http()
        known = data.draw(st.sets(st.sampled_from(sorted(request.asked)))) if request.asked else set()
        views = {user_id: stored(SampleUser(user_id), "D") for user_id in known}
        before = copy.deepcopy(views)
        answer = made.answer(local=views, remote={}, fallback=views)
        read = KeysQueryResponse.from_http(answer.response.to_http())
        assert read.device_keys.keys() == made.local.keys() | known
        assert read.user_signing_keys.keys() <= {ME.user_id}
        assert views == before

    def test_large_limits_are_large(self) -> None:
        assert isinstance(SPEC.limits, Limits)
        plan({f"@u{n}:b.example": () for n in range(2000)})
