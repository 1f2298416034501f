"""Claims of clients and of other servers: who is asked, and what the answers amount to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given

from matrix_e2e_keys import (
    KeysClaimRequest,
    KeysClaimResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    SignedJson,
    UserKeysClaimRequest,
    UserKeysClaimResponse,
)
from matrix_e2e_keys.homeserver.claims.local_claims import HandedOutKey, KeyWanted
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.fan_out.claim_plan import (
    ClaimPlan,
    plan_claim,
    plan_user_keys_claim,
    user_keys_claimed,
)
from matrix_e2e_keys.homeserver.fan_out.failures import ServerFailure
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, STRICT
from matrix_e2e_keys.testing.message_strategies import keys_claim_requests, user_keys_claim_requests
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

HOME = "a.example"
ALICE = SampleUser("@alice:a.example")
AMY = SampleUser("@amy:a.example")
BOB = SampleUser("@bob:b.example")
BEN = SampleUser("@ben:b.example")
CAROL = SampleUser("@carol:c.example")
ME = Requester(user_id=ALICE.user_id, device_id="PHONE")
SIGNED = "signed_curve25519"


def wanted(user: SampleUser, device_id: str, algorithm: str = SIGNED, **changes: Any) -> KeyWanted:
    return KeyWanted(user_id=user.user_id, device_id=device_id, algorithm=algorithm, **changes)


def handed_out(want: KeyWanted, name: str = "A") -> HandedOutKey:
    key = SampleUser(want.user_id).one_time_key(want.device_id, name)
    assert key.signed is not None
    return HandedOutKey(wanted=want, key_id=str(key.key_id), key=key.signed, is_fallback=False)


def plan(asked: Mapping[str, Any], **arguments: Any) -> ClaimPlan:
    request = KeysClaimRequest.from_json({"one_time_keys": asked})
    return plan_claim(request, requester=ME, server_name=HOME, **arguments)


def told(*keys: tuple[SampleUser, str]) -> UserKeysClaimResponse:
    """What the server of some users hands out."""
    users: dict[str, dict[str, Any]] = {}
    for user, device_id in keys:
        key = user.one_time_key(device_id, "A")
        users.setdefault(user.user_id, {})[device_id] = {str(key.key_id): key.to_json()}
    return UserKeysClaimResponse.from_json({"one_time_keys": users})


class TestWhoIsAsked:
    def test_one_request_for_each_server(self) -> None:
        made = plan(
            {
                AMY.user_id: {"X": SIGNED, "Y": "curve25519"},
                BOB.user_id: {"X": SIGNED},
                CAROL.user_id: {"X": "m.other"},
                BEN.user_id: {"Z": SIGNED},
            }
        )
        assert made.local == (wanted(AMY, "X"), wanted(AMY, "Y", "curve25519"))
        assert {server: request.to_json() for server, request in made.remote.items()} == {
            "b.example": {"one_time_keys": {BOB.user_id: {"X": SIGNED}, BEN.user_id: {"Z": SIGNED}}},
            "c.example": {"one_time_keys": {CAROL.user_id: {"X": "m.other"}}},
        }

    @pytest.mark.parametrize("user_id", ["@x:a.example:1", "@x:A.example", "@x:a.example.", "@x:[::1]"])
    def test_server_names_are_compared_exactly(self, user_id: str) -> None:
        """Attack 53."""
        made = plan({user_id: {"X": SIGNED}})
        assert (made.local, set(made.remote)) == ((), {user_id.partition(":")[2]})

    @pytest.mark.parametrize("device_id", ["", "\ud800", "x" * 513])
    def test_nobody_is_asked_for_what_is_no_device_id(self, device_id: str) -> None:
        made = plan({AMY.user_id: {device_id: SIGNED}, BOB.user_id: {device_id: SIGNED}, BEN.user_id: {"X": SIGNED}})
        assert made.local == ()
        assert made.remote["b.example"].to_json() == {"one_time_keys": {BEN.user_id: {"X": SIGNED}}}
        assert plan({BOB.user_id: {device_id: SIGNED}}).remote == {}

    @pytest.mark.parametrize("policy", [SPEC, STRICT])
    def test_what_is_no_user_id_is_passed_over(self, policy: Any) -> None:
        made = plan({"@a:evil.org:good.org": {"X": SIGNED}, AMY.user_id: {"X": SIGNED}}, policy=policy)
        assert (made.local, made.remote) == ((wanted(AMY, "X"),), {})

    def test_or_refuses_the_request_as_deployed_servers_do(self) -> None:
        for policy in (COMPAT, evolve(COMPAT, limits=STRICT.limits)):
            with pytest.raises(MatrixError) as caught:
                plan({AMY.user_id: {"X": SIGNED}, "alice": {}}, policy=policy)
            assert (caught.value.status, caught.value.errcode) == (400, "M_INVALID_PARAM")
            assert caught.value.error == "'alice' is not a user id"
        assert plan({AMY.user_id: {}}, policy=COMPAT).local == ()

    @pytest.mark.parametrize(("timeout", "expected"), [(None, 10_000), (0, 0), (20_000, 20_000), (20_001, 20_000)])
    def test_the_timeout_of_the_body_counts(self, timeout: int | None, expected: int) -> None:
        request = KeysClaimRequest(one_time_keys={}, timeout=timeout)
        assert plan_claim(request, requester=ME, server_name=HOME).timeout_ms == expected

    def test_limits(self) -> None:
        """Attack 48."""
        few = evolve(SPEC, limits=evolve(SPEC.limits, users_per_request=2, devices_per_request=3))
        plan({"x": 5, BOB.user_id: dict.fromkeys("ABC", SIGNED)}, policy=few)
        for asked, text in (
            ({"x": 5, BOB.user_id: {}, BEN.user_id: {}}, "The request is about 3 users, at most 2"),
            ({BEN.user_id: dict.fromkeys("ABCD", SIGNED)}, "The request is about 4 devices, at most 3"),
        ):
            with pytest.raises(MatrixError) as caught:
                plan(asked, policy=few)
            assert (caught.value.status, caught.value.errcode, caught.value.error) == (400, "M_TOO_LARGE", text)


class TestTheAnswer:
    def test_keys_of_all_servers(self) -> None:
        made = plan({AMY.user_id: {"X": SIGNED}, BOB.user_id: {"X": SIGNED}, CAROL.user_id: {"Y": SIGNED}})
        answer = made.answer(
            local=[handed_out(made.local[0])],
            remote={"b.example": told((BOB, "X")), "c.example": told((CAROL, "Y"))},
        )
        key_id = f"{SIGNED}:A"
        assert answer.response.to_json() == {
            "one_time_keys": {
                user.user_id: {device: {key_id: user.one_time_key(device, "A").to_json()}}
                for user, device in ((AMY, "X"), (BOB, "X"), (CAROL, "Y"))
            },
            "failures": {},
        }
        assert answer.dropped == ()

    def test_nothing_left_is_no_failure_and_no_entry(self) -> None:
        made = plan({AMY.user_id: {"X": SIGNED}, BOB.user_id: {"X": SIGNED}})
        answer = made.answer(local=(), remote={"b.example": told()})
        assert answer.response == KeysClaimResponse()

    def test_a_server_that_fails_costs_its_own_users(self) -> None:
        made = plan({AMY.user_id: {"X": SIGNED}, BOB.user_id: {"X": SIGNED}, CAROL.user_id: {"Y": SIGNED}})
        answer = made.answer(
            local=[handed_out(made.local[0])],
            remote={"b.example": ServerFailure(status=403, errcode="M_FORBIDDEN", message="no")},
        )
        assert set(answer.response.one_time_keys) == {AMY.user_id}
        assert answer.response.failures == {
            "b.example": {"status": 403, "errcode": "M_FORBIDDEN", "message": "no"},
            "c.example": ServerFailure.timed_out().to_json(),
        }

    def test_a_failure_does_not_end_the_round(self) -> None:
        made = plan({BOB.user_id: {"X": SIGNED}, CAROL.user_id: {"Y": SIGNED}})
        answer = made.answer(local=(), remote={"c.example": told((CAROL, "Y"))})
        assert set(answer.response.one_time_keys) == {CAROL.user_id}
        assert set(answer.response.failures) == {"b.example"}

    def test_an_answer_that_is_malformed_as_a_whole_is_a_failure(self) -> None:
        made = plan({BOB.user_id: {"X": SIGNED}})
        answer = made.answer(local=(), remote={"b.example": UserKeysClaimResponse.from_json({"one_time_keys": 5})})
        assert answer.response.failures["b.example"]["status"] == 502

    def test_what_was_not_claimed_is_dropped_and_named_by_server(self) -> None:
        """Attacks 44 and 53: neither a third server's users nor this server's own are another's to hand out."""
        made = plan({AMY.user_id: {"X": SIGNED}, BOB.user_id: {"X": SIGNED}, CAROL.user_id: {"X": SIGNED}})
        mine = handed_out(made.local[0], "MINE")
        answer = made.answer(
            local=[mine],
            remote={"b.example": told((AMY, "X"), (CAROL, "X"), (BOB, "X")), "c.example": told((CAROL, "X"))},
        )
        assert set(answer.response.one_time_keys[AMY.user_id]["X"]) == {mine.key_id}  # type: ignore[index, arg-type]
        assert set(answer.dropped_by) == {"b.example"}
        assert [rejection.reason for rejection in answer.dropped] == [Reason.SERVER_NAME_MISMATCH] * 2
        assert set(answer.response.one_time_keys) == {AMY.user_id, BOB.user_id, CAROL.user_id}

    def test_servers_that_were_not_asked_are_not_heard(self) -> None:
        answer = plan({}).answer(local=(), remote={"b.example": told((BOB, "X"))})
        assert answer.response == KeysClaimResponse()

    def test_a_key_that_was_wanted_as_a_fallback_only_is_wanted(self) -> None:
        made = plan({AMY.user_id: {"X": SIGNED}})
        answer = made.answer(local=[handed_out(wanted(AMY, "X", allows_one_time_key=False))], remote={})
        assert set(answer.response.one_time_keys) == {AMY.user_id}

    @pytest.mark.parametrize(
        "want", [wanted(AMY, "Y"), wanted(ALICE, "X"), wanted(AMY, "X", "curve25519"), wanted(BOB, "X")]
    )
    def test_a_key_that_is_not_wanted_is_a_fault_of_the_caller(self, want: KeyWanted) -> None:
        made = plan({AMY.user_id: {"X": SIGNED}, BOB.user_id: {"X": SIGNED}})
        with pytest.raises(LocalProtocolError) as caught:
            made.answer(local=[handed_out(made.local[0]), handed_out(want)], remote={})
        assert (caught.value.reason, caught.value.path) == (Reason.UNREQUESTED, "/local/1")

    def test_and_so_is_a_second_key_where_one_is_wanted(self) -> None:
        made = plan({AMY.user_id: {"X": SIGNED}})
        with pytest.raises(LocalProtocolError) as caught:
            made.answer(local=[handed_out(made.local[0], "A"), handed_out(made.local[0], "B")], remote={})
        assert caught.value.path == "/local/1"

    def test_stored_signatures_by_others_stay_here(self) -> None:
        made = plan({AMY.user_id: {"X": SIGNED}})
        good = handed_out(made.local[0])
        obj = good.key.to_json()  # type: ignore[union-attr]
        mixed = {**obj, "unsigned": {"x": 1}, "signatures": {**obj["signatures"], BOB.user_id: {"ed25519:B": "x"}}}  # type: ignore[dict-item]
        answer = made.answer(local=[evolve(good, key=SignedJson.from_json(mixed))], remote={})
        assert answer.response.to_json()["one_time_keys"] == {AMY.user_id: {"X": {good.key_id: obj}}}


class TestOtherServers:
    def test_they_get_keys_of_users_of_this_server(self) -> None:
        request = UserKeysClaimRequest.from_json({"one_time_keys": {AMY.user_id: {"X": SIGNED, "": SIGNED}}})
        made = plan_user_keys_claim(request, origin="b.example", server_name=HOME)
        assert (made.origin, made.local) == ("b.example", (wanted(AMY, "X"),))
        answer = user_keys_claimed([handed_out(made.local[0])])
        assert answer.to_json() == {
            "one_time_keys": {AMY.user_id: {"X": {f"{SIGNED}:A": AMY.one_time_key("X", "A").to_json()}}}
        }
        assert user_keys_claimed(()).to_json() == {"one_time_keys": {}}

    def test_two_keys_of_one_device(self) -> None:
        keys = [handed_out(wanted(AMY, "X"), "A"), handed_out(wanted(AMY, "X"), "B"), handed_out(wanted(AMY, "Y"), "A")]
        answer = user_keys_claimed(iter(keys))
        assert {device: set(of) for device, of in answer.one_time_keys[AMY.user_id].items()} == {  # type: ignore[union-attr, arg-type]
            "X": {f"{SIGNED}:A", f"{SIGNED}:B"},
            "Y": {f"{SIGNED}:A"},
        }

    @pytest.mark.parametrize(
        ("user_id", "errcode", "error"),
        [
            ("@bob:b.example", "M_UNKNOWN", "User is not hosted on this homeserver"),
            ("@amy:a.example:8448", "M_UNKNOWN", "User is not hosted on this homeserver"),
            ("@amy:A.example", "M_UNKNOWN", "User is not hosted on this homeserver"),
            ("amy", "M_INVALID_PARAM", "'amy' is not a user id"),
        ],
    )
    def test_or_nothing_at_all(self, user_id: str, errcode: str, error: str) -> None:
        """Attack 53."""
        request = UserKeysClaimRequest.from_json({"one_time_keys": {AMY.user_id: {"X": SIGNED}, user_id: {}}})
        with pytest.raises(MatrixError) as caught:
            plan_user_keys_claim(request, origin="b.example", server_name=HOME)
        assert (caught.value.status, caught.value.errcode, caught.value.error) == (400, errcode, error)

    def test_limits(self) -> None:
        """Attack 48."""
        few = evolve(SPEC, limits=evolve(SPEC.limits, users_per_request=1, devices_per_request=2))
        asked: dict[str, Any] = {AMY.user_id: dict.fromkeys("AB", SIGNED)}
        cases: list[dict[str, Any]] = [{}, {ALICE.user_id: {}}, {AMY.user_id: dict.fromkeys("ABC", SIGNED)}]
        for more in cases:
            request = UserKeysClaimRequest.from_json({"one_time_keys": {**asked, **more}})
            if more:
                with pytest.raises(MatrixError) as caught:
                    plan_user_keys_claim(request, origin="b.example", server_name=HOME, policy=few)
                assert caught.value.errcode == "M_TOO_LARGE"
            else:
                plan_user_keys_claim(request, origin="b.example", server_name=HOME, policy=few)


class TestArguments:
    @given(junk=json_like_values())
    def test_only_errors_of_this_library_leave(self, junk: Any) -> None:
        made = plan({AMY.user_id: {"X": SIGNED}, BOB.user_id: {"X": SIGNED}})
        incoming = UserKeysClaimRequest(one_time_keys={})
        for name in ("request", "requester", "server_name", "policy"):
            arguments = {"request": made.request, "requester": ME, "server_name": HOME, name: junk}
            _only_ours(lambda: plan_claim(**arguments))  # noqa: B023
        for name in ("request", "origin", "server_name", "policy"):
            arguments = {"request": incoming, "origin": "b.example", "server_name": HOME, name: junk}
            _only_ours(lambda: plan_user_keys_claim(**arguments))  # noqa: B023
        _only_ours(lambda: user_keys_claimed(junk))
        _only_ours(lambda: made.answer(local=junk, remote={}))
        _only_ours(lambda: made.answer(local=(), remote=junk))
        _only_ours(lambda: made.answer(local=[junk], remote={"b.example": junk}))

    def test_a_wrong_argument_is_named(self) -> None:
        incoming = UserKeysClaimRequest(one_time_keys={})
        for call, path in (
            (lambda: plan_claim("x", requester=ME, server_name=HOME), "/request"),  # type: ignore[arg-type]
            (lambda: plan_user_keys_claim("x", origin=HOME, server_name=HOME), "/request"),  # type: ignore[arg-type]
            (lambda: plan_user_keys_claim(incoming, origin="", server_name=HOME), "/origin"),
            (lambda: plan_user_keys_claim(incoming, origin=HOME, server_name=""), "/server_name"),
            (lambda: plan({}).answer(local=[5], remote={}), "/local/0"),  # type: ignore[list-item]
            (lambda: plan({}).answer(local=[], remote={"x": 5}), "/remote/x"),  # type: ignore[dict-item]
            (lambda: user_keys_claimed([5]), "/handed_out/0"),  # type: ignore[list-item]
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.path == path


def _only_ours(call: Any) -> None:
    with contextlib.suppress(LocalProtocolError):
        call()


class TestAnyRequest:
    @given(request=keys_claim_requests())
    def test_every_request_gets_an_answer_that_can_be_sent_and_read(self, request: KeysClaimRequest) -> None:
        made = plan_claim(request, requester=ME, server_name=HOME)
        for outgoing in made.remote.values():
            outgoing.to_http()
        answer = made.answer(local=[handed_out(want) for want in made.local if want.algorithm == SIGNED], remote={})
        read = KeysClaimResponse.from_http(answer.response.to_http())
        assert read.failures.keys() == made.remote.keys()
        assert read.one_time_keys.keys() == {want.user_id for want in made.local if want.algorithm == SIGNED}

    @given(request=user_keys_claim_requests())
    def test_every_request_of_another_server_is_answered_or_refused(self, request: UserKeysClaimRequest) -> None:
        if all(user_id.endswith(f":{HOME}") for user_id in request.asked) and request.asked == request.one_time_keys:
            made = plan_user_keys_claim(request, origin="b.example", server_name=HOME)
            user_keys_claimed([handed_out(want) for want in made.local]).to_http()
        else:
            with pytest.raises(MatrixError):
                plan_user_keys_claim(request, origin="b.example", server_name=HOME)
