"""What to send before a message: keys, claims, and reasons why not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from attrs import evolve

from client.rooms.room_samples import (
    BOB,
    CAROL,
    CAROLS,
    LAPTOP,
    ME,
    MINE,
    NO_TEXT,
    NOT_SEVERAL,
    PHONE,
    ROOM,
    STOPPED,
    a_session,
    device,
    name,
    problem,
    raising,
    recipients,
)
from matrix_e2e_keys.client.claims.claim_planner import ClaimPlanner
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.rooms.sharing import NoOlmMemory, SharingPlan, plan_sharing
from matrix_e2e_keys.client.trust.recipients import Recipients
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.events.to_device_batches import to_device_requests
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.testing.samples import sample_curve25519_key

CODE = WithheldCode
MY_KEY = sample_curve25519_key("mine")


def told(*names: tuple[str, str]) -> NoOlmMemory:
    """A memory of devices that do not support Olm."""
    memory = NoOlmMemory()
    for user_id, device_id in names:
        memory.mark_told(plan(recipients(withheld={user_id: {device_id: CODE.NO_OLM}})))
    return memory


def plan(
    chosen: Recipients,
    *,
    session: OutboundSession | None = None,
    without_olm: Iterable[tuple[str, str]] = (),
    unreachable: Iterable[tuple[str, str]] = (),
    memory: NoOlmMemory | None = None,
) -> SharingPlan:
    return plan_sharing(
        session or a_session(),
        chosen,
        without_olm=without_olm,
        unreachable=unreachable,
        memory=memory or NoOlmMemory(),
    )


class TestAPlan:
    def test_who_has_an_olm_session_is_sent_the_key_and_for_the_others_keys_are_claimed(self) -> None:
        made = plan(recipients(PHONE, LAPTOP, CAROLS, MINE), without_olm=[name(LAPTOP), name(MINE)])
        assert made == SharingPlan(
            room_id=ROOM,
            session_id="SESSION",
            share={BOB: {"PHONE": PHONE}, CAROL: {"ONLY": CAROLS}},
            claim={BOB: {"LAPTOP": LAPTOP}, ME: {"TABLET": MINE}},
            withheld={},
        )

    def test_who_was_certainly_sent_it_is_left_out(self) -> None:
        session = a_session(PHONE)
        session.start_sharing([LAPTOP], message_index=0)
        made = plan(recipients(PHONE, LAPTOP), session=session, without_olm=[name(PHONE)])
        assert (made.share, made.claim) == ({BOB: {"LAPTOP": LAPTOP}}, {})

    def test_others_than_recipients_are_not_of_interest(self) -> None:
        made = plan(recipients(PHONE), without_olm=[name(CAROLS)], unreachable=[name(CAROLS)])
        assert (made.share, made.claim, made.withheld) == ({BOB: {"PHONE": PHONE}}, {}, {})

    def test_one_that_has_a_session_by_now_is_sent_the_key(self) -> None:
        made = plan(recipients(PHONE), unreachable=[name(PHONE)])
        assert (made.share, made.claim, made.withheld) == ({BOB: {"PHONE": PHONE}}, {}, {})

    def test_a_device_without_olm_is_told_once_and_stays_in_the_plan(self) -> None:
        memory = NoOlmMemory()
        arguments: dict[str, Any] = {"without_olm": [name(PHONE)], "unreachable": [name(PHONE)], "memory": memory}
        made = plan(recipients(PHONE), **arguments)
        assert (made.share, made.claim) == ({}, {BOB: {"PHONE": PHONE}})
        assert made.withheld == {BOB: {"PHONE": CODE.NO_OLM}}
        memory.mark_told(made)
        again = plan(recipients(PHONE), session=a_session(session_id="OTHER"), **arguments)
        assert again.claim == {BOB: {"PHONE": PHONE}}
        assert again.withheld == {}
        memory.forget([name(PHONE)])
        assert plan(recipients(PHONE), **arguments).withheld == {BOB: {"PHONE": CODE.NO_OLM}}

    def test_another_device_of_the_same_name_was_not_told(self) -> None:
        """Somebody has logged in again under the same id."""
        memory = NoOlmMemory()
        new = device(BOB, "PHONE", curve=1)
        arguments: dict[str, Any] = {"without_olm": [name(PHONE)], "unreachable": [name(PHONE)], "memory": memory}
        for each in (PHONE, new):
            made = plan(recipients(each), **arguments)
            assert made.withheld == {BOB: {"PHONE": CODE.NO_OLM}}
            memory.mark_told(made)
        for each in (PHONE, new):
            assert plan(recipients(each), **arguments).withheld == {}
        memory.forget([name(PHONE)])
        assert memory == NoOlmMemory()

    def test_a_device_that_cannot_have_one_is_told_once_as_well(self) -> None:
        chosen = recipients(withheld={BOB: {"PHONE": CODE.NO_OLM, "LAPTOP": CODE.UNVERIFIED}})
        assert plan(chosen).withheld == chosen.withheld
        assert plan(chosen, memory=told(name(PHONE))).withheld == {BOB: {"LAPTOP": CODE.UNVERIFIED}}

    def test_a_code_is_told_once_for_each_session(self) -> None:
        chosen = recipients(withheld={BOB: {"PHONE": CODE.BLACKLISTED}})
        session = a_session()
        session.mark_told(plan(chosen, session=session).withheld)
        assert plan(chosen, session=session).withheld == {}
        assert plan(chosen, session=a_session()).withheld == chosen.withheld

    def test_nothing_is_planned_if_the_policy_stops(self) -> None:
        with pytest.raises(VerificationError) as caught:
            plan(STOPPED)
        assert caught.value.reason is Reason.IDENTITY_CHANGED
        assert plan(recipients(PHONE, problems=[problem(stops=False)])).share == {BOB: {"PHONE": PHONE}}

    def test_a_session_that_another_device_of_the_name_may_have_is_not_shared(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            plan(recipients(device(BOB, "PHONE", curve=1)), session=a_session(PHONE))
        assert caught.value.reason is Reason.WRONG_STATE

    def test_a_plan_goes_to_the_claim_planner_and_comes_back(self) -> None:
        planner, memory, session = ClaimPlanner(), NoOlmMemory(), a_session()
        without_olm = {name(PHONE), name(LAPTOP)}
        first = plan(recipients(PHONE, LAPTOP), without_olm=without_olm, unreachable=planner.without_session)
        assert first.withheld == {}
        planner.want(found for of in first.claim.values() for found in of.values())
        assert planner.wanted == without_olm
        without_olm.discard(name(LAPTOP))
        second = plan(recipients(PHONE, LAPTOP), without_olm=without_olm, unreachable=[name(PHONE)])
        session.start_sharing([LAPTOP], message_index=0)
        memory.mark_told(second)
        session.mark_told(second.withheld)
        assert (second.share, second.withheld) == ({BOB: {"LAPTOP": LAPTOP}}, {BOB: {"PHONE": CODE.NO_OLM}})
        assert memory.told == {name(PHONE)}


class TestContents:
    def test_what_is_told(self) -> None:
        chosen = recipients(withheld={BOB: {"PHONE": CODE.UNVERIFIED, "LAPTOP": CODE.NO_OLM}})
        contents = plan(chosen).withheld_contents(MY_KEY)
        (request,) = to_device_requests(event_type="m.room_key.withheld", messages=contents, txn_id="t")
        assert request.messages == {
            BOB: {
                "PHONE": {
                    "algorithm": "m.megolm.v1.aes-sha2",
                    "room_id": ROOM,
                    "session_id": "SESSION",
                    "sender_key": MY_KEY.to_base64(),
                    "code": "m.unverified",
                },
                "LAPTOP": {
                    "algorithm": "m.megolm.v1.aes-sha2",
                    "sender_key": MY_KEY.to_base64(),
                    "code": "m.no_olm",
                },
            }
        }

    def test_what_cannot_be_told_is_not(self) -> None:
        made = plan(recipients(withheld={BOB: {"PHONE": CODE.HISTORY_NOT_SHARED}}))
        with pytest.raises(LocalProtocolError) as caught:
            made.withheld_contents(MY_KEY)
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/code")

    def test_the_same_content_is_made_once(self) -> None:
        """A room may have thousands of devices that are not verified."""
        chosen = recipients(withheld={BOB: {"PHONE": CODE.UNVERIFIED}, CAROL: {"ONLY": CODE.UNVERIFIED}})
        contents = plan(chosen).withheld_contents(MY_KEY)
        assert contents[BOB]["PHONE"] is contents[CAROL]["ONLY"]

    @pytest.mark.parametrize("key", [None, MY_KEY.to_base64(), PHONE.ed25519_key])
    def test_the_key_is_a_key(self, key: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            plan(recipients()).withheld_contents(key)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/sender_key")


TOLD: dict[str, Any] = {"user_id": BOB, "device_id": "PHONE", "curve25519_key": None}


class TestMemory:
    def test_only_what_is_about_olm_is_remembered(self) -> None:
        memory = NoOlmMemory()
        chosen = recipients(
            withheld={BOB: {"PHONE": CODE.NO_OLM, "LAPTOP": CODE.UNVERIFIED}, CAROL: {"ONLY": CODE.NO_OLM}}
        )
        memory.mark_told(plan(chosen))
        assert memory.told == {name(PHONE), name(CAROLS)}
        memory.forget([name(CAROLS), name(LAPTOP)])
        assert memory.told == {name(PHONE)}

    def test_over_a_restart(self) -> None:
        memory = told(name(PHONE), (CAROL, "a/~ é"))
        memory.mark_told(plan(recipients(PHONE), without_olm=[name(PHONE)], unreachable=[name(PHONE)]))
        kept = json.loads(json.dumps(memory.to_json()))
        olm_key = sample_curve25519_key(f"{BOB} PHONE 0").to_base64()
        assert kept["told"] == [
            {"user_id": BOB, "device_id": "PHONE", "curve25519_key": None},
            {"user_id": BOB, "device_id": "PHONE", "curve25519_key": olm_key},
            {"user_id": CAROL, "device_id": "a/~ é", "curve25519_key": None},
        ]
        assert NoOlmMemory.from_json(kept) == memory

    def test_it_is_written_down_in_order(self) -> None:
        memory = NoOlmMemory()
        for curve in range(8):
            chosen = recipients(device(BOB, "PHONE", curve=curve))
            memory.mark_told(plan(chosen, without_olm=[name(PHONE)], unreachable=[name(PHONE)]))
        kept: Any = memory.to_json()["told"]
        keys = [Curve25519PublicKey.from_base64(each["curve25519_key"]).raw for each in kept]
        assert keys == sorted(sample_curve25519_key(f"{BOB} PHONE {curve}").raw for curve in range(8))

    @pytest.mark.parametrize(
        ("kept", "path"),
        [
            (None, ""),
            ({}, "/version"),
            ({"version": 2, "told": []}, "/version"),
            ({"version": 1}, "/told"),
            ({"version": 1, "told": {}}, "/told"),
            ({"version": 1, "told": [TOLD, "PHONE"]}, "/told/1"),
            ({"version": 1, "told": [{**TOLD, "user_id": "bob"}]}, "/told/0/user_id"),
            ({"version": 1, "told": [{**TOLD, "user_id": 5}]}, "/told/0/user_id"),
            ({"version": 1, "told": [TOLD, {**TOLD, "device_id": ""}]}, "/told/1/device_id"),
            ({"version": 1, "told": [{**TOLD, "curve25519_key": "AAAA"}]}, "/told/0/curve25519_key"),
            ({"version": 1, "told": [{**TOLD, "curve25519_key": 5}]}, "/told/0/curve25519_key"),
            ({"version": 1, "told": [{"user_id": BOB, "device_id": "PHONE"}]}, "/told/0/curve25519_key"),
        ],
    )
    def test_what_was_damaged_is_refused(self, kept: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            NoOlmMemory.from_json(kept)
        assert caught.value.path == path


class TestArguments:
    @pytest.mark.parametrize("value", [*NOT_SEVERAL, ["x"], [(BOB, "")]], ids=lambda it: type(it).__name__)
    @pytest.mark.parametrize("argument", ["without_olm", "unreachable"])
    def test_what_are_no_names(self, argument: str, value: Any) -> None:
        arguments: Any = {"without_olm": [], "unreachable": [], "memory": NoOlmMemory(), argument: value}
        with pytest.raises(LocalProtocolError) as caught:
            plan_sharing(a_session(), recipients(PHONE), **arguments)
        assert caught.value.path.startswith(f"/{argument}")
        arguments[argument] = raising()
        with pytest.raises(LocalProtocolError) as caught:
            plan_sharing(a_session(), recipients(PHONE), **arguments)
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, f"/{argument}")

    @pytest.mark.parametrize("value", NO_TEXT, ids=lambda it: type(it).__name__)
    def test_what_is_no_part_of_it(self, value: Any) -> None:
        arguments: Any = {"without_olm": [], "unreachable": []}
        for given, path in (
            ((value, recipients(), NoOlmMemory()), "/session"),
            ((a_session(), value, NoOlmMemory()), "/recipients"),
            ((a_session(), recipients(), value), "/memory"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                plan_sharing(given[0], given[1], memory=given[2], **arguments)
            assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, path)

    def test_a_refusal_changes_nothing(self) -> None:
        memory = told(name(PHONE))
        codes: Any = {BOB: {"LAPTOP": CODE.NO_OLM, "OTHER": "m.no_olm"}}
        forged = evolve(plan(recipients()), withheld=codes)
        for call in (lambda: memory.mark_told(forged), lambda: memory.forget([name(PHONE), ("x", "y")])):
            with pytest.raises(LocalProtocolError):
                call()
        assert memory.told == {name(PHONE)}

    @pytest.mark.parametrize(
        ("made", "why"),
        [
            (None, (Reason.WRONG_TYPE, "/plan")),
            ({BOB: {"PHONE": CODE.NO_OLM}}, (Reason.WRONG_TYPE, "/plan")),
            (object.__new__(SharingPlan), (Reason.INVALID_VALUE, "/plan")),
            (evolve(plan(recipients()), withheld={BOB: 5}), (Reason.WRONG_TYPE, "/plan/withheld/@bob:b.example")),
            (evolve(plan(recipients()), claim={"bob": {}}), (Reason.INVALID_IDENTIFIER, "/plan/claim/bob")),
        ],
    )
    def test_what_is_no_plan(self, made: Any, why: tuple[Reason, str]) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            NoOlmMemory().mark_told(made)
        assert (caught.value.reason, caught.value.path) == why
