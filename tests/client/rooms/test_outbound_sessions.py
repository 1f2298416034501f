"""What is remembered of an outbound session: who may have its key, who was certainly sent it, and who was told why not."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    RaisingMapping,
    a_session,
    device,
    encrypted,
    name,
    problem,
    raising,
    recipients,
)
from matrix_e2e_keys.client.rooms.key_shares import KeyShare
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.trust.recipients import RecipientProblem, Recipients
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.testing.samples import sample_curve25519_key

CODE = WithheldCode
OTHER_CURVE, OTHER_ED = device(BOB, "PHONE", curve=1), device(BOB, "PHONE", ed=1)


def refused(call: Callable[..., object], *args: Any, **kwargs: Any) -> tuple[Reason, str]:
    with pytest.raises(LocalProtocolError) as caught:
        call(*args, **kwargs)
    return caught.value.reason, caught.value.path


def refused_by(session: OutboundSession, method: str, *args: Any, **kwargs: Any) -> tuple[Reason, str]:
    """Why a method refuses; it changes nothing."""
    before = session.to_json()
    why = refused(getattr(session, method), *args, **kwargs)
    assert session.to_json() == before
    return why


class TestASession:
    def test_a_new_one(self) -> None:
        made = OutboundSession(room_id=ROOM, session_id="SESSION", created_at=-5, shared_history=False)
        assert (made.room_id, made.session_id, made.created_at, made.shared_history) == (ROOM, "SESSION", -5, False)
        assert (made.message_count, made.last_used_at) == (0, -5)
        assert made.shares == {}
        assert made.left == made.history_shared_with == frozenset()

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            *(("room_id", value) for value in (*NO_TEXT, "room", "", "!\ud800", "!" * 256)),
            *(("session_id", value) for value in (*NO_TEXT, "", "\ud800")),
            *(("created_at", value) for value in (None, True, 1.0, "1", 2**53)),
            *(("shared_history", value) for value in (None, 1, "true")),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_it_is_made_of_what_it_says(self, argument: str, value: Any) -> None:
        arguments = {"room_id": ROOM, "session_id": "S", "created_at": 1, "shared_history": True, argument: value}
        assert refused(OutboundSession, **arguments)[1] == f"/{argument}"

    def test_messages_are_counted(self) -> None:
        made = a_session()
        made.mark_encrypted(message_index=0, now=1000)
        made.mark_encrypted(message_index=1, now=1000)
        assert made.message_count == 2

    def test_messages_that_were_never_noted_are_counted_with_the_next_one(self) -> None:
        made = a_session()
        made.mark_encrypted(message_index=7, now=1000)
        assert made.message_count == 8

    def test_no_two_messages_are_encrypted_with_the_same_key(self) -> None:
        """The session was stored before a crash, and its ratchet was not. Nobody needs the key."""
        made = a_session(PHONE)
        made.mark_encrypted(message_index=0, now=1000)
        restored = OutboundSession.from_json(json.loads(json.dumps(made.to_json())))
        assert restored.needs_key(recipients(PHONE)) == ()
        assert refused_by(restored, "mark_encrypted", message_index=0, now=1000) == (
            Reason.WRONG_STATE,
            "/message_index",
        )

    def test_the_latest_time_of_use_is_remembered(self) -> None:
        made = a_session()
        seen: list[int] = []
        for now in (2000, 1500, 2001, -5):
            encrypted(made, now=now)
            seen.append(made.last_used_at)
        assert seen == [2000, 2000, 2001, 2001]

    def test_the_ratchet_ends(self) -> None:
        made = a_session()
        made.start_sharing([], message_index=2**32 - 1)
        encrypted(made)
        assert made.message_count == 2**32
        assert OutboundSession.from_json(made.to_json()) == made
        for index in (0, 2**32 - 1):
            assert refused_by(made, "mark_encrypted", message_index=index, now=1000)[0] is Reason.WRONG_STATE
        assert refused_by(made, "start_sharing", [], message_index=2**32 - 1)[0] is Reason.WRONG_STATE


class TestSharing:
    def test_from_the_start_on_a_device_may_have_the_key_and_needs_it_until_it_is_confirmed(self) -> None:
        made = a_session()
        chosen = recipients(PHONE, LAPTOP, CAROLS)
        assert made.needs_key(chosen) == (PHONE, LAPTOP, CAROLS)
        made.start_sharing([PHONE, CAROLS], message_index=0)
        assert set(made.shares) == {name(PHONE), name(CAROLS)}
        assert made.needs_key(chosen) == (PHONE, LAPTOP, CAROLS)
        made.confirm_sharing([name(PHONE)])
        assert made.needs_key(chosen) == (LAPTOP, CAROLS)
        assert set(made.shares) == {name(PHONE), name(CAROLS)}

    def test_a_share_says_what_was_shared_with_whom(self) -> None:
        made = a_session()
        encrypted(made)
        made.start_sharing([PHONE], message_index=1)
        assert made.share_with(PHONE) == KeyShare(
            curve25519_key=sample_curve25519_key(f"{BOB} PHONE 0"), ed25519_key=PHONE.ed25519_key, message_index=1
        )
        made.confirm_sharing([name(PHONE)])
        share = made.share_with(PHONE)
        assert share is not None
        assert share.is_confirmed
        assert made.share_with(LAPTOP) is None
        assert made.share_with(OTHER_CURVE) is made.share_with(OTHER_ED) is None
        assert share.is_with(PHONE)
        assert not share.is_with(OTHER_CURVE)
        assert not share.is_with(OTHER_ED)

    def test_a_key_that_is_sent_again_may_be_had_from_the_first_index_on(self) -> None:
        made = a_session()
        made.start_sharing([PHONE], message_index=0)
        encrypted(made)
        made.start_sharing([PHONE], message_index=1)
        assert made.shares[name(PHONE)].message_index == 0
        assert not made.shares[name(PHONE)].is_confirmed

    def test_to_send_it_again_takes_back_no_confirmation(self) -> None:
        made = a_session(PHONE)
        made.start_sharing([PHONE], message_index=0)
        assert made.shares[name(PHONE)].is_confirmed

    def test_messages_that_were_not_noted_are_counted_all_the_same(self) -> None:
        made = a_session()
        made.start_sharing([PHONE], message_index=7)
        assert made.message_count == 7

    def test_a_ratchet_that_was_set_back_is_refused(self) -> None:
        """It would encrypt two messages with the same key."""
        made = a_session()
        encrypted(made)
        made.start_sharing([PHONE], message_index=1)
        assert refused_by(made, "start_sharing", [LAPTOP], message_index=0) == (Reason.WRONG_STATE, "/message_index")

    @pytest.mark.parametrize("other", [OTHER_CURVE, OTHER_ED])
    def test_a_device_of_the_same_name_gets_nothing_of_this_session(self, other: Any) -> None:
        made = a_session(PHONE)
        assert made.needs_key(recipients(other)) == (other,)
        assert refused_by(made, "start_sharing", [LAPTOP, other], message_index=0) == (Reason.WRONG_STATE, "/devices")
        assert refused_by(made, "start_sharing_history", [LAPTOP, other]) == (Reason.WRONG_STATE, "/devices")

    def test_the_history_brings_the_key_from_the_beginning_on(self) -> None:
        made = a_session(PHONE)
        encrypted(made)
        made.start_sharing([LAPTOP], message_index=1)
        made.start_sharing_history([LAPTOP, CAROLS])
        assert {of: (share.message_index, share.is_confirmed) for of, share in made.shares.items()} == {
            name(PHONE): (0, True),
            name(LAPTOP): (0, False),
            name(CAROLS): (0, False),
        }
        assert made.message_count == 1

    def test_a_part_of_the_history_is_not_confirmed_as_the_key(self) -> None:
        """Otherwise whoever takes the invitation is never sent the ``m.room_key``."""
        made = a_session()
        made.start_sharing_history([CAROLS])
        assert made.shares[name(CAROLS)].is_history_only
        assert refused_by(made, "confirm_sharing", [name(CAROLS)]) == (Reason.WRONG_STATE, "/names")
        assert made.needs_key(recipients(CAROLS)) == (CAROLS,)

        made = OutboundSession.from_json(json.loads(json.dumps(made.to_json())))
        assert refused_by(made, "confirm_sharing", [name(CAROLS)]) == (Reason.WRONG_STATE, "/names")
        encrypted(made)
        made.start_sharing([CAROLS], message_index=1)
        assert made.needs_key(recipients(CAROLS)) == (CAROLS,)
        made.start_sharing_history([CAROLS])
        made.confirm_sharing([name(CAROLS)])
        assert made.needs_key(recipients(CAROLS)) == ()
        share = made.shares[name(CAROLS)]
        assert (share.message_index, share.is_confirmed, share.is_history_only) == (0, True, False)

    def test_a_device_that_its_owner_did_not_sign_gets_no_history(self) -> None:
        """The server can add one that listens."""
        made = a_session()
        added = device(CAROL, "ADDED", cross_signed=False)
        assert refused_by(made, "start_sharing_history", [LAPTOP, added]) == (Reason.UNVERIFIED_DEVICE, "/devices")
        with pytest.raises(LocalProtocolError, match=r"'@carol:c\.example' 'ADDED'"):
            made.start_sharing_history([added])
        made.start_sharing([added], message_index=0)
        assert refused_by(made, "start_sharing_history", [added])[0] is Reason.UNVERIFIED_DEVICE

    def test_only_a_session_that_was_begun_as_one_is_shared_as_history(self) -> None:
        made = a_session(shared_history=False)
        assert refused_by(made, "start_sharing_history", [PHONE]) == (Reason.WRONG_STATE, "")

    def test_nothing_is_confirmed_that_was_not_started(self) -> None:
        made = a_session()
        made.start_sharing([PHONE], message_index=0)
        names = [name(PHONE), name(LAPTOP)]
        assert refused_by(made, "confirm_sharing", names) == (Reason.WRONG_STATE, "/names")

    def test_that_nobody_needs_a_key_is_not_said_if_the_policy_stops(self) -> None:
        forged = recipients(PHONE, withheld={CAROL: {"ONLY": CODE.UNVERIFIED}}, problems=[problem(stops=True)])
        for stopped in (forged, STOPPED):
            for ask in (a_session().needs_key, a_session().withholds):
                with pytest.raises(VerificationError) as caught:
                    ask(stopped)
                assert caught.value.reason is Reason.IDENTITY_CHANGED
        harmless = evolve(forged, problems=(problem(stops=False),))
        assert a_session().needs_key(harmless) == (PHONE,)
        assert a_session().withholds(harmless) == {CAROL: {"ONLY": CODE.UNVERIFIED}}


class TestWithholding:
    def test_each_code_is_told_once(self) -> None:
        made = a_session()
        first = {BOB: {"PHONE": CODE.UNVERIFIED, "LAPTOP": CODE.BLACKLISTED}}
        assert made.withholds(recipients(withheld=first)) == first
        made.mark_told({BOB: {"PHONE": CODE.UNVERIFIED}})
        assert made.withholds(recipients(withheld=first)) == {BOB: {"LAPTOP": CODE.BLACKLISTED}}
        second = {BOB: {"PHONE": CODE.BLACKLISTED}}
        assert made.withholds(recipients(withheld=second)) == second
        made.mark_told(second)
        assert made.withholds(recipients(withheld=second)) == {}
        made.mark_told({BOB: {"LAPTOP": CODE.BLACKLISTED}})
        assert made.withholds(recipients(withheld=first)) == {}

    def test_that_there_is_no_olm_session_is_not_about_one_session(self) -> None:
        made = a_session()
        assert made.withholds(recipients(withheld={BOB: {"PHONE": CODE.NO_OLM}})) == {}
        made.mark_told({BOB: {"PHONE": CODE.NO_OLM}})
        assert made.to_json() == a_session().to_json()


class TestUsers:
    def test_who_left_and_who_may_have_got_the_history_is_remembered(self) -> None:
        made = a_session()
        made.mark_left([BOB])
        made.mark_left({CAROL})
        made.mark_history_shared(iter([CAROL]))
        made.mark_history_shared([])
        made.mark_history_shared([ME, ME])
        assert made.left == {BOB, CAROL}
        assert made.history_shared_with == {CAROL, ME}

    @pytest.mark.parametrize("nobody", ["@" + "x" * 255 + ":b.example", "bob", "", "@\ud800:b.example"])
    def test_a_membership_that_is_nobodys_does_not_hide_the_others(self, nobody: str) -> None:
        """Anybody can put one into the state of a room."""
        made = a_session()
        made.mark_left([nobody, BOB])
        made.mark_history_shared([nobody, CAROL])
        written = nobody.replace("\ud800", "\\ud800")
        assert (made.left, made.history_shared_with) == ({written, BOB}, {written, CAROL})
        assert OutboundSession.from_json(json.loads(json.dumps(made.to_json()).encode())) == made


A_FULL_ONE = a_session(PHONE)
encrypted(A_FULL_ONE, now=3000)
A_FULL_ONE.start_sharing([CAROLS, MINE], message_index=1)
A_FULL_ONE.mark_told({BOB: {"a/~ é": CODE.UNVERIFIED}, CAROL: {"X": CODE.BLACKLISTED, "Y": CODE.BLACKLISTED}})
A_FULL_ONE.mark_told({CAROL: {"X": CODE.UNVERIFIED}})
A_FULL_ONE.mark_left([BOB])
A_FULL_ONE.mark_history_shared([CAROL])

KEPT: Any = A_FULL_ONE.to_json()
SHARE: dict[str, Any] = KEPT["shares"][BOB]["PHONE"]


class TestOverARestart:
    def test_everything_is_kept(self) -> None:
        kept = json.loads(json.dumps(A_FULL_ONE.to_json()))
        restored = OutboundSession.from_json(kept)
        assert restored == A_FULL_ONE
        assert restored.to_json() == kept
        assert restored.withholds(recipients(withheld={CAROL: {"X": CODE.BLACKLISTED, "Y": CODE.UNVERIFIED}})) == {
            CAROL: {"Y": CODE.UNVERIFIED}
        }

    def test_what_is_kept_can_be_changed(self) -> None:
        made = a_session(PHONE)
        kept: Any = made.to_json()
        before = json.dumps(kept)
        kept["shares"][BOB]["PHONE"]["is_confirmed"] = False
        kept["left"].append(BOB)
        assert json.dumps(made.to_json()) == before

    @pytest.mark.parametrize(
        ("damage", "path"),
        [
            ({"version": 2}, "/version"),
            ({"room_id": "room"}, "/room_id"),
            ({"session_id": 5}, "/session_id"),
            ({"created_at": 1.5}, "/created_at"),
            ({"shared_history": 1}, "/shared_history"),
            ({"last_used_at": "3000"}, "/last_used_at"),
            ({"last_used_at": 999}, "/last_used_at"),
            ({"last_used_at": 2**53}, "/last_used_at"),
            ({"message_count": True}, "/message_count"),
            ({"message_count": -1}, "/message_count"),
            ({"message_count": 2**32 + 1}, "/message_count"),
            ({"message_count": 0}, "/shares/@carol:c.example/ONLY/message_index"),
            ({"shares": []}, "/shares"),
            ({"shares": {"bob": {}}}, "/shares/bob"),
            ({"shares": {BOB: {"": SHARE}}}, "/shares/@bob:b.example/"),
            ({"shares": {BOB: {"PHONE": []}}}, "/shares/@bob:b.example/PHONE"),
            ({"shares": {BOB: {"PHONE": {}}}}, "/shares/@bob:b.example/PHONE/curve25519_key"),
            (
                {"shares": {BOB: {"PHONE": {**SHARE, "curve25519_key": "AAAA"}}}},
                "/shares/@bob:b.example/PHONE/curve25519_key",
            ),
            (
                {"shares": {BOB: {"PHONE": {**SHARE, "ed25519_key": "AAAA"}}}},
                "/shares/@bob:b.example/PHONE/ed25519_key",
            ),
            (
                {"shares": {BOB: {"PHONE": {**SHARE, "message_index": -1}}}},
                "/shares/@bob:b.example/PHONE/message_index",
            ),
            ({"shares": {BOB: {"PHONE": {**SHARE, "is_confirmed": 1}}}}, "/shares/@bob:b.example/PHONE/is_confirmed"),
            (
                {"shares": {BOB: {"PHONE": {**SHARE, "is_history_only": 0}}}},
                "/shares/@bob:b.example/PHONE/is_history_only",
            ),
            (
                {"shares": {BOB: {"PHONE": {**SHARE, "is_history_only": True}}}},
                "/shares/@bob:b.example/PHONE/is_history_only",
            ),
            ({"told": {BOB: {"PHONE": "m.unverified"}}}, "/told/@bob:b.example/PHONE"),
            ({"told": {BOB: {"PHONE": ["m.unverified", "m.other"]}}}, "/told/@bob:b.example/PHONE/1"),
            ({"told": {BOB: {"PHONE": [5]}}}, "/told/@bob:b.example/PHONE/0"),
            ({"history_shared_with": BOB}, "/history_shared_with"),
            ({"left": [BOB, 5]}, "/left/1"),
        ],
    )
    def test_what_was_damaged_is_refused(self, damage: dict[str, Any], path: str) -> None:
        assert refused(OutboundSession.from_json, {**A_FULL_ONE.to_json(), **damage})[1] == path

    @pytest.mark.parametrize("member", A_FULL_ONE.to_json())
    def test_what_is_missing_is_refused(self, member: str) -> None:
        kept = A_FULL_ONE.to_json()
        del kept[member]
        assert refused(OutboundSession.from_json, kept) == (Reason.MISSING_MEMBER, f"/{member}")


class TestArguments:
    @pytest.mark.parametrize("value", NOT_SEVERAL, ids=lambda value: type(value).__name__)
    @pytest.mark.parametrize(
        ("method", "argument"),
        [
            ("mark_left", "user_ids"),
            ("mark_history_shared", "user_ids"),
            ("confirm_sharing", "names"),
            ("start_sharing_history", "devices"),
        ],
    )
    def test_what_is_not_several(self, method: str, argument: str, value: Any) -> None:
        assert refused_by(a_session(PHONE), method, value) == (Reason.WRONG_TYPE, f"/{argument}")
        assert refused_by(a_session(PHONE), method, raising()) == (Reason.INVALID_VALUE, f"/{argument}")

    @pytest.mark.parametrize("value", NO_TEXT, ids=lambda value: type(value).__name__)
    def test_what_is_no_user(self, value: Any) -> None:
        assert refused_by(a_session(), "mark_left", [BOB, value]) == (Reason.WRONG_TYPE, "/user_ids/1")
        assert refused_by(a_session(PHONE), "confirm_sharing", [(value, "PHONE")]) == (Reason.WRONG_TYPE, "/names/0")
        assert refused_by(a_session(PHONE), "confirm_sharing", [(BOB, value)]) == (Reason.WRONG_TYPE, "/names/0")

    @pytest.mark.parametrize("value", ["@bob:b.example", [BOB, "PHONE"], (BOB,), (BOB, "PHONE", 1), PHONE, None])
    def test_what_is_no_name_of_a_device(self, value: Any) -> None:
        names = [name(PHONE), value]
        assert refused_by(a_session(PHONE), "confirm_sharing", names) == (Reason.WRONG_TYPE, "/names/1")

    @pytest.mark.parametrize(
        ("devices", "why"),
        [
            ([PHONE, None], (Reason.WRONG_TYPE, "/devices/1")),
            ([PHONE.keys], (Reason.WRONG_TYPE, "/devices/0")),
            ([PHONE, device(BOB, "OLD", olm=False)], (Reason.UNSUPPORTED_ALGORITHM, "/devices/1")),
            ([PHONE, OTHER_CURVE], (Reason.INVALID_VALUE, "/devices/1")),
        ],
    )
    def test_what_is_no_device_to_send_to(self, devices: Any, why: tuple[Reason, str]) -> None:
        assert refused_by(a_session(), "start_sharing", devices, message_index=0) == why

    def test_a_device_that_is_given_twice_is_one(self) -> None:
        made = a_session()
        made.start_sharing([PHONE, PHONE], message_index=0)
        assert set(made.shares) == {name(PHONE)}

    @pytest.mark.parametrize("index", [None, True, 1.0, "1", -1, 2**32, 2**53], ids=str)
    def test_what_is_no_index(self, index: Any) -> None:
        assert refused_by(a_session(), "start_sharing", [PHONE], message_index=index)[1] == "/message_index"
        assert refused_by(a_session(), "mark_encrypted", message_index=index, now=1)[1] == "/message_index"

    @pytest.mark.parametrize("now", [None, True, 1.0, "1", 2**53, 10**5000], ids=lambda it: type(it).__name__)
    def test_what_is_no_time(self, now: Any) -> None:
        assert refused_by(a_session(), "mark_encrypted", message_index=0, now=now)[1] == "/now"

    @pytest.mark.parametrize("value", [None, "PHONE", PHONE.keys, name(PHONE)])
    def test_what_is_no_device(self, value: Any) -> None:
        share = a_session(PHONE).shares[name(PHONE)]
        assert refused(share.is_with, value) == (Reason.WRONG_TYPE, "/device")
        assert refused(a_session().share_with, value) == (Reason.WRONG_TYPE, "/device")

    @pytest.mark.parametrize(
        ("changed", "path"),
        [
            ({"curve25519_key": PHONE.ed25519_key}, "/curve25519_key"),
            ({"ed25519_key": PHONE.curve25519_key}, "/ed25519_key"),
            ({"message_index": 2**32}, "/message_index"),
            ({"is_confirmed": 1}, "/is_confirmed"),
            ({"is_history_only": 1}, "/is_history_only"),
            ({"is_history_only": True}, "/is_history_only"),
        ],
    )
    def test_what_is_no_share(self, changed: dict[str, Any], path: str) -> None:
        assert refused(evolve, a_session(PHONE).shares[name(PHONE)], **changed)[1] == path

    @pytest.mark.parametrize(
        ("codes", "why"),
        [
            (None, (Reason.WRONG_TYPE, "/codes")),
            (RaisingMapping(), (Reason.INVALID_VALUE, "/codes")),
            ({BOB: ["PHONE"]}, (Reason.WRONG_TYPE, "/codes/@bob:b.example")),
            ({"bob": {}}, (Reason.INVALID_IDENTIFIER, "/codes/bob")),
            ({5: {}}, (Reason.WRONG_TYPE, "/codes")),
            ({BOB: {"": CODE.UNVERIFIED}}, (Reason.INVALID_IDENTIFIER, "/codes/@bob:b.example/")),
            (
                {BOB: {"A": CODE.UNVERIFIED, "PHONE": "m.unverified"}},
                (Reason.WRONG_TYPE, "/codes/@bob:b.example/PHONE"),
            ),
        ],
    )
    def test_what_are_no_codes(self, codes: Any, why: tuple[Reason, str]) -> None:
        assert refused_by(a_session(), "mark_told", codes) == why

    @pytest.mark.parametrize(
        ("changed", "why"),
        [
            ({"devices": None}, (Reason.WRONG_TYPE, "/recipients/devices")),
            ({"devices": RaisingMapping()}, (Reason.INVALID_VALUE, "/recipients")),
            (
                {"devices": {BOB: {"PHONE": PHONE.keys}}},
                (Reason.WRONG_TYPE, "/recipients/devices/@bob:b.example/PHONE"),
            ),
            (
                {"devices": {BOB: {"PHONE": LAPTOP}}},
                (Reason.DEVICE_ID_MISMATCH, "/recipients/devices/@bob:b.example/PHONE"),
            ),
            (
                {"devices": {CAROL: {"PHONE": PHONE}}},
                (Reason.DEVICE_ID_MISMATCH, "/recipients/devices/@carol:c.example/PHONE"),
            ),
            (
                {"devices": {BOB: {"OLD": device(BOB, "OLD", olm=False)}}},
                (Reason.UNSUPPORTED_ALGORITHM, "/recipients/devices/@bob:b.example/OLD"),
            ),
            ({"withheld": 5}, (Reason.WRONG_TYPE, "/recipients/withheld")),
            (
                {"withheld": {BOB: {"PHONE": CODE.UNVERIFIED}}},
                (Reason.INVALID_VALUE, "/recipients/withheld/@bob:b.example/PHONE"),
            ),
            ({"problems": None}, (Reason.WRONG_TYPE, "/recipients/problems")),
            ({"problems": [problem(stops=True)]}, (Reason.WRONG_TYPE, "/recipients/problems")),
            ({"problems": (5,)}, (Reason.WRONG_TYPE, "/recipients/problems")),
            (
                {"problems": (problem(stops=False), evolve(problem(stops=True), kind="x"))},
                (Reason.WRONG_TYPE, "/recipients/problems"),
            ),
            ({"problems": (evolve(problem(stops=True), stops=0),)}, (Reason.WRONG_TYPE, "/recipients/problems")),
            ({"unknown": 5}, (Reason.WRONG_TYPE, "/recipients/unknown")),
            ({"unknown": frozenset(["x"])}, (Reason.INVALID_IDENTIFIER, "/recipients/unknown/0")),
        ],
    )
    def test_what_are_no_recipients(self, changed: dict[str, Any], why: tuple[Reason, str]) -> None:
        assert refused(a_session().needs_key, evolve(recipients(PHONE), **changed)) == why
        assert refused(a_session().withholds, evolve(recipients(PHONE), **changed)) == why

    @pytest.mark.parametrize("value", [None, {}, [PHONE], RecipientProblem])
    def test_what_are_no_recipients_at_all(self, value: Any) -> None:
        assert refused(a_session().needs_key, value) == (Reason.WRONG_TYPE, "/recipients")

    def test_recipients_that_were_never_filled(self) -> None:
        empty = object.__new__(Recipients)
        assert refused(a_session().needs_key, empty) == (Reason.INVALID_VALUE, "/recipients")
