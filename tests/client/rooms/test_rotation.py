"""When an outbound session has to go, and why; and that no device outside the recipients can read what is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from client.rooms.room_samples import (
    BOB,
    CAROL,
    CAROLS,
    DAVE,
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
    encrypted,
    name,
    problem,
    raising,
    recipients,
)
from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.rooms.room_encryption import HistoryVisibility, RoomEncryption, shares_history
from matrix_e2e_keys.client.rooms.rotation import RotationKind, RotationReason, rotation_reasons
from matrix_e2e_keys.client.rooms.sharing import NoOlmMemory, plan_sharing
from matrix_e2e_keys.client.trust.recipients import Recipients
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.models.device_keys import VerifiedDevice

HOUR = 3_600_000
KIND, CODE = RotationKind, WithheldCode
SETTINGS = RoomEncryption(algorithm=MEGOLM_V1, rotation_period_ms=HOUR, rotation_period_msgs=3)
EVERYBODY = (ME, BOB, CAROL)
ALL = recipients(PHONE, LAPTOP, CAROLS, MINE)
CREATED = 1000


def reasons(session: OutboundSession | None = None, **changed: Any) -> list[tuple[Any, ...]]:
    """Why a session that everybody may have has to go, as tuples without what is not said."""
    session = session or a_session(PHONE, LAPTOP, CAROLS, MINE)
    arguments: dict[str, Any] = {
        "settings": SETTINGS,
        "visibility": HistoryVisibility.SHARED,
        "members": EVERYBODY,
        "recipients": ALL,
        "message_index": session.message_count,
        "now": CREATED,
        **changed,
    }
    found = rotation_reasons(session, **arguments)
    return [
        tuple(part for part in (it.kind, it.user_id, it.device_id) if part is not None)
        for it in found
        if type(it) is RotationReason
    ]


def test_a_session_that_everybody_may_have_is_used_on() -> None:
    assert reasons() == []


@pytest.mark.parametrize(
    ("age", "is_too_old"),
    [
        (0, False),
        (1, False),
        (HOUR - 1, False),
        (HOUR, True),
        (HOUR + 1, True),
        (10**5000, True),
        (-1, True),
        (-(10**5000), True),
    ],
    ids=lambda value: f"{float(value) if abs(value) < 10**18 else 'far off'}",
)
def test_age(age: int, is_too_old: bool) -> None:
    """A clock that was set back must not make a session live longer."""
    assert reasons(now=CREATED + age) == ([(KIND.TOO_OLD,)] if is_too_old else [])


@pytest.mark.parametrize(
    ("last_used", "now", "is_too_old"),
    [
        (HOUR - 100, HOUR - 100, False),
        (HOUR - 100, HOUR - 1, False),
        (HOUR - 100, HOUR, True),
        (HOUR - 100, HOUR - 101, True),
        (HOUR - 100, 100, True),
        (HOUR + 5, HOUR, True),
    ],
)
def test_a_clock_that_is_set_back_while_a_session_is_in_use(last_used: int, now: int, is_too_old: bool) -> None:
    session = a_session(PHONE)
    encrypted(session, now=CREATED + last_used)
    assert reasons(session, now=CREATED + now) == ([(KIND.TOO_OLD,)] if is_too_old else [])


@pytest.mark.parametrize(("messages", "are_too_many"), [(0, False), (2, False), (3, True), (4, True)])
def test_the_number_of_messages(messages: int, are_too_many: bool) -> None:
    session = a_session(PHONE)
    for _ in range(messages):
        encrypted(session)
    assert reasons(session) == ([(KIND.TOO_MANY_MESSAGES,)] if are_too_many else [])


def test_messages_that_were_not_noted_count() -> None:
    assert reasons(message_index=2) == []
    assert reasons(message_index=3) == [(KIND.TOO_MANY_MESSAGES,)]


@pytest.mark.parametrize(("index", "is_set_back"), [(0, True), (1, True), (2, False), (2**32 - 1, False)])
def test_a_ratchet_that_was_set_back_encrypts_nothing(index: int, is_set_back: bool) -> None:
    """It would encrypt two messages with the same key, though nobody needs the key of the session."""
    session = a_session(PHONE)
    encrypted(session)
    encrypted(session)
    found = reasons(session, message_index=index)
    assert ((KIND.RATCHET_SET_BACK,) in found) is is_set_back
    assert reasons(a_session(PHONE), message_index=0) == []


def test_the_settings_of_now_count() -> None:
    session = a_session(PHONE)
    encrypted(session)
    tighter = SETTINGS.updated({"algorithm": MEGOLM_V1, "rotation_period_msgs": 1}).settings
    assert reasons(session, settings=tighter) == [(KIND.TOO_MANY_MESSAGES,)]
    assert reasons(session, now=CREATED + HOUR, settings=evolve(SETTINGS, rotation_period_ms=HOUR + 1)) == []


@pytest.mark.parametrize(
    ("shared_history", "visibility", "has_changed"),
    [
        (True, HistoryVisibility.SHARED, False),
        (True, HistoryVisibility.WORLD_READABLE, False),
        (True, HistoryVisibility.INVITED, True),
        (True, HistoryVisibility.JOINED, True),
        (True, None, True),
        (False, HistoryVisibility.SHARED, True),
        (False, HistoryVisibility.WORLD_READABLE, True),
        (False, HistoryVisibility.INVITED, False),
        (False, HistoryVisibility.JOINED, False),
        (False, None, False),
    ],
)
def test_the_visibility(shared_history: bool, visibility: HistoryVisibility | None, has_changed: bool) -> None:
    session = a_session(PHONE, shared_history=shared_history)
    assert reasons(session, visibility=visibility) == ([(KIND.VISIBILITY_CHANGED,)] if has_changed else [])


class TestTwoListsOfRecipients:
    """Who got the key, and who would get it now."""

    @pytest.mark.parametrize(
        ("members", "now", "expected"),
        [
            pytest.param(EVERYBODY, (PHONE, LAPTOP, CAROLS, MINE), [], id="the same"),
            pytest.param(
                (*EVERYBODY, DAVE), (PHONE, LAPTOP, CAROLS, MINE, device(DAVE)), [], id="a user and a device added"
            ),
            pytest.param((ME, BOB), (PHONE, LAPTOP, MINE), [(KIND.MEMBER_LEFT, CAROL)], id="a member left"),
            pytest.param(
                (ME,),
                (MINE,),
                [(KIND.MEMBER_LEFT, BOB), (KIND.MEMBER_LEFT, CAROL)],
                id="two members left, with three devices",
            ),
            pytest.param(
                (ME, CAROL, DAVE),
                (CAROLS, MINE, device(DAVE)),
                [(KIND.MEMBER_LEFT, BOB)],
                id="one left, one joined",
            ),
            pytest.param(
                EVERYBODY, (PHONE, CAROLS, MINE), [(KIND.DEVICE_REMOVED, BOB, "LAPTOP")], id="a device removed"
            ),
            pytest.param(
                EVERYBODY,
                (PHONE, LAPTOP, CAROLS),
                [(KIND.DEVICE_REMOVED, ME, "TABLET")],
                id="a device of one's own removed",
            ),
            pytest.param(
                EVERYBODY,
                (CAROLS, MINE),
                [(KIND.DEVICE_REMOVED, BOB, "LAPTOP"), (KIND.DEVICE_REMOVED, BOB, "PHONE")],
                id="all devices of a member who is still there",
            ),
            pytest.param(
                EVERYBODY,
                (device(BOB, "PHONE", curve=1), LAPTOP, CAROLS, MINE),
                [(KIND.DEVICE_REPLACED, BOB, "PHONE")],
                id="another Olm identity key",
            ),
            pytest.param(
                EVERYBODY,
                (device(BOB, "PHONE", ed=1), LAPTOP, CAROLS, MINE),
                [(KIND.DEVICE_REPLACED, BOB, "PHONE")],
                id="another signing key",
            ),
            pytest.param(
                (ME, BOB),
                (device(BOB, "PHONE", curve=1), device(BOB, "NEW")),
                [
                    (KIND.MEMBER_LEFT, CAROL),
                    (KIND.DEVICE_REMOVED, BOB, "LAPTOP"),
                    (KIND.DEVICE_REMOVED, ME, "TABLET"),
                    (KIND.DEVICE_REPLACED, BOB, "PHONE"),
                ],
                id="all at once, in order",
            ),
        ],
    )
    def test_what_makes_a_session_go(
        self, members: Iterable[str], now: Iterable[VerifiedDevice], expected: list[Any]
    ) -> None:
        assert reasons(members=members, recipients=recipients(*now)) == expected

    @pytest.mark.parametrize("code", [CODE.BLACKLISTED, CODE.UNVERIFIED, CODE.NO_OLM])
    def test_a_device_that_is_left_out_now_is_removed(self, code: WithheldCode) -> None:
        chosen = recipients(PHONE, CAROLS, MINE, withheld={BOB: {"LAPTOP": code}})
        assert reasons(recipients=chosen) == [(KIND.DEVICE_REMOVED, BOB, "LAPTOP")]

    def test_who_may_have_it_counts_and_not_who_was_certainly_sent_it(self) -> None:
        session = a_session(PHONE)
        session.start_sharing([LAPTOP], message_index=0)
        assert reasons(session, recipients=recipients(PHONE)) == [(KIND.DEVICE_REMOVED, BOB, "LAPTOP")]

    def test_who_was_never_sent_it_does_not(self) -> None:
        session = a_session(PHONE)
        session.mark_told({BOB: {"LAPTOP": CODE.UNVERIFIED}})
        assert reasons(session, members=[BOB], recipients=recipients(PHONE)) == []

    def test_a_policy_that_stops_says_nothing_of_devices(self) -> None:
        assert reasons(recipients=STOPPED) == []
        assert reasons(recipients=STOPPED, members=[ME, BOB], now=0) == [(KIND.TOO_OLD,), (KIND.MEMBER_LEFT, CAROL)]
        harmless = evolve(STOPPED, problems=(problem(stops=False),))
        assert len(reasons(recipients=harmless)) == 4

    def test_the_devices_of_whom_nothing_is_known_cannot_be_judged(self) -> None:
        chosen = recipients(CAROLS, MINE, unknown=[BOB])
        assert reasons(recipients=chosen) == [(KIND.DEVICE_REMOVED, BOB, "LAPTOP"), (KIND.DEVICE_REMOVED, BOB, "PHONE")]
        assert reasons(a_session(CAROLS, MINE), recipients=chosen) == []

    @pytest.mark.parametrize("nobody", ["@" + "x" * 255 + ":b.example", "bob", "", "@\ud800:b.example"])
    def test_a_membership_that_is_nobodys_stops_nothing(self, nobody: str) -> None:
        """Anybody can put one into the state of a room."""
        assert reasons(members=[*EVERYBODY, nobody]) == []
        session = a_session(PHONE, LAPTOP, CAROLS, MINE)
        session.mark_history_shared([nobody])
        assert reasons(session, members=[*EVERYBODY, nobody]) == []
        assert [kind for kind, *_ in reasons(session)] == [KIND.MEMBER_LEFT]

    def test_a_member_without_devices_is_still_a_member(self) -> None:
        session = a_session()
        session.mark_history_shared([CAROL])
        assert reasons(session, recipients=recipients(PHONE)) == []


class TestWhoWasSeenToLeave:
    def test_being_back_does_not_help(self) -> None:
        session = a_session(PHONE, LAPTOP, CAROLS, MINE)
        session.mark_left([BOB])
        assert reasons(session) == [(KIND.MEMBER_LEFT, BOB)]

    def test_who_never_got_the_key_may_have_got_it_from_others(self) -> None:
        session = a_session(PHONE)
        session.mark_left([DAVE])
        assert reasons(session) == [(KIND.MEMBER_LEFT, DAVE)]

    def test_who_may_have_got_the_history_and_is_not_there(self) -> None:
        session = a_session(PHONE)
        session.mark_history_shared([DAVE, CAROL])
        assert reasons(session) == [(KIND.MEMBER_LEFT, DAVE)]

    def test_a_device_that_got_the_history(self) -> None:
        session = a_session(PHONE)
        session.start_sharing_history([CAROLS])
        assert reasons(session, recipients=recipients(PHONE)) == [(KIND.DEVICE_REMOVED, CAROL, "ONLY")]

    def test_each_user_is_named_once(self) -> None:
        session = a_session(PHONE, LAPTOP)
        session.mark_left([BOB])
        session.mark_history_shared([BOB])
        assert reasons(session, members=[ME], recipients=recipients()) == [(KIND.MEMBER_LEFT, BOB)]


def test_all_reasons_are_named_in_order() -> None:
    session = a_session(PHONE, LAPTOP, CAROLS)
    session.start_sharing([], message_index=3)
    found = reasons(
        session,
        message_index=2,
        now=0,
        visibility=HistoryVisibility.JOINED,
        members=[BOB],
        recipients=recipients(device(BOB, "PHONE", curve=1)),
    )
    assert found == [
        (KIND.TOO_OLD,),
        (KIND.TOO_MANY_MESSAGES,),
        (KIND.RATCHET_SET_BACK,),
        (KIND.VISIBILITY_CHANGED,),
        (KIND.MEMBER_LEFT, CAROL),
        (KIND.DEVICE_REMOVED, BOB, "LAPTOP"),
        (KIND.DEVICE_REPLACED, BOB, "PHONE"),
    ]
    assert [kind for kind, *_ in found] == list(KIND)


class TestArguments:
    @pytest.mark.parametrize("value", NO_TEXT, ids=lambda it: type(it).__name__)
    @pytest.mark.parametrize(
        "argument", ["session", "settings", "visibility", "members", "recipients", "message_index", "now"]
    )
    def test_what_is_none(self, argument: str, value: Any) -> None:
        arguments: dict[str, Any] = {
            "session": a_session(PHONE),
            "settings": SETTINGS,
            "visibility": None,
            "members": EVERYBODY,
            "recipients": ALL,
            "message_index": 0,
            "now": 5,
        }
        if (argument, type(value)) in {("visibility", type(None)), ("now", int), ("message_index", int)}:
            return
        arguments[argument] = value
        with pytest.raises(LocalProtocolError) as caught:
            rotation_reasons(arguments.pop("session"), **arguments)
        assert caught.value.path == f"/{argument}"
        # No members at all, and recipients.
        expected = Reason.INVALID_VALUE if (argument, value) == ("members", []) else Reason.WRONG_TYPE
        assert caught.value.reason is expected or argument == "message_index"

    @pytest.mark.parametrize("index", [-1, 2**32, 2**53], ids=str)
    def test_what_is_no_index(self, index: int) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            reasons(message_index=index)
        assert caught.value.path == "/message_index"

    @pytest.mark.parametrize("value", NOT_SEVERAL, ids=lambda it: type(it).__name__)
    def test_members_are_several_users(self, value: Any) -> None:
        for members, reason in ((value, Reason.WRONG_TYPE), (raising(), Reason.INVALID_VALUE)):
            with pytest.raises(LocalProtocolError) as caught:
                reasons(members=members)
            assert (caught.value.reason, caught.value.path) == (reason, "/members")

    @pytest.mark.parametrize(
        "chosen",
        [
            recipients(PHONE, device(DAVE)),
            recipients(PHONE, withheld={DAVE: {"X": CODE.UNVERIFIED}}),
            recipients(PHONE, unknown=[DAVE]),
        ],
    )
    def test_recipients_are_members(self, chosen: Recipients) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            reasons(recipients=chosen)
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/members")
        assert DAVE in caught.value.detail

    @pytest.mark.parametrize("algorithm", [None, "m.megolm.v9"])
    def test_in_a_room_that_is_not_supported_no_session_is_used(self, algorithm: str | None) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            reasons(settings=evolve(SETTINGS, algorithm=algorithm))
        assert (caught.value.reason, caught.value.path) == (Reason.UNSUPPORTED_ALGORITHM, "/settings")


# --------------------------------------------------------------------------------------------------------------
# Whoever does not belong to the recipients cannot read what is sent
# --------------------------------------------------------------------------------------------------------------

USERS = st.sampled_from([BOB, CAROL])
DEVICES = st.sampled_from(["PHONE", "LAPTOP"])
LONG_LIVED = evolve(SETTINGS, rotation_period_msgs=6)
Keys = tuple[str, str, int]


class Room(RuleBasedStateMachine):
    """A room from above: who really holds which session, whatever the client believes."""

    def __init__(self) -> None:
        super().__init__()
        self.members = {ME, BOB}
        self.devices: dict[tuple[str, str], int] = {(ME, "TABLET"): 0, (BOB, "PHONE"): 0}
        self.blacklisted: set[tuple[str, str]] = set()
        self.unknown: set[str] = set()
        self.is_stopped = False
        self.visibility: HistoryVisibility | None = HistoryVisibility.SHARED
        self.now = 0
        self.session: OutboundSession | None = None
        self.sessions = 0
        self.ratchet = 0
        self.encrypted: set[tuple[int, int]] = set()
        self.holders: dict[Keys, int] = {}
        self.users_with_history: set[str] = set()
        self.is_spoiled = False
        self.memory = NoOlmMemory()

    @rule(user=USERS)
    def join(self, user: str) -> None:
        self.members.add(user)

    @rule(user=USERS, is_seen=st.booleans())
    def leave(self, user: str, is_seen: bool) -> None:
        if user in self.members:
            self.members.discard(user)
            if is_seen and self.session is not None:
                self.session.mark_left([user])
                self.is_spoiled = True

    @rule(user=USERS, device_id=DEVICES)
    def log_in(self, user: str, device_id: str) -> None:
        """Once more under the same device id, perhaps."""
        self.devices[user, device_id] = 1 - self.devices.get((user, device_id), 1)

    @rule(user=USERS, device_id=DEVICES)
    def log_out(self, user: str, device_id: str) -> None:
        self.devices.pop((user, device_id), None)

    @rule(user=USERS, device_id=DEVICES)
    def blacklist_or_not(self, user: str, device_id: str) -> None:
        self.blacklisted ^= {(user, device_id)}

    @rule(
        change=st.sampled_from([*HistoryVisibility, None, "unknown", "stop", "wait", "back"]),
        user=USERS,
        passed=st.integers(0, HOUR),
    )
    def circumstances_change(self, change: HistoryVisibility | str | None, user: str, passed: int) -> None:
        if change == "unknown":
            self.unknown ^= {user}
        elif change == "stop":
            self.is_stopped = not self.is_stopped
        elif change in ("wait", "back"):
            self.now += passed if change == "wait" else -passed
        else:
            self.visibility = None if change is None else HistoryVisibility(change)

    @precondition(lambda self: self.session is not None)
    @rule()
    def restart(self) -> None:
        assert self.session is not None
        self.session = OutboundSession.from_json(json.loads(json.dumps(self.session.to_json())))

    @precondition(lambda self: self.session is not None)
    @rule(lost=st.integers(1, 3))
    def restart_with_an_old_ratchet(self, lost: int) -> None:
        """After a crash: what is remembered of the session was stored, and its ratchet was not."""
        self.ratchet = max(0, self.ratchet - lost)

    @precondition(lambda self: self.session is not None and self.session.shared_history)
    @rule(user=USERS, by_me=st.booleans(), arrives=st.booleans())
    def invite(self, user: str, by_me: bool, arrives: bool) -> None:
        """Somebody invites a user, and shares the history first. Which devices somebody else sends it to, one cannot know."""
        assert self.session is not None
        if by_me:
            devices = [of for of in self.chosen() if of.user_id == user]
            if any(self.session.shares.get(name(of)) and not self.session.share_with(of) for of in devices):
                return
            self.session.start_sharing_history(devices)
            if arrives:
                self.holders |= {self.keys(of): 0 for of in devices}
        else:
            self.users_with_history.add(user)
            self.session.mark_history_shared([user])
        self.members.add(user)

    def keys(self, of: VerifiedDevice) -> Keys:
        return of.user_id, of.device_id, self.devices[name(of)]

    def chosen(self) -> list[VerifiedDevice]:
        return [
            device(user, device_id, curve=curve)
            for (user, device_id), curve in self.devices.items()
            if user in self.members - self.unknown and (user, device_id) not in self.blacklisted
        ]

    def recipients(self) -> Recipients:
        unknown = self.unknown & self.members
        if self.is_stopped:
            return recipients(problems=[problem(stops=True)], unknown=unknown)
        withheld: dict[str, dict[str, WithheldCode]] = {}
        for user, device_id in self.blacklisted & self.devices.keys():
            if user in self.members - self.unknown:
                withheld.setdefault(user, {})[device_id] = CODE.BLACKLISTED
        return recipients(*self.chosen(), withheld=withheld, unknown=unknown)

    @rule()
    def send_well(self) -> None:
        self.send(delivered=15, confirmed=15)

    @rule(delivered=st.integers(0, 15), confirmed=st.integers(0, 15))
    def send(self, delivered: int, confirmed: int) -> None:
        """A message is sent; for some devices, the request with the key gets lost, or its answer."""
        chosen = self.recipients()
        why = () if self.session is None else self.reasons(self.session, chosen)
        if self.is_stopped:
            return
        if self.session is None or why:
            self.begin()
        assert self.session is not None
        plan = plan_sharing(self.session, chosen, without_olm=(), unreachable=(), memory=self.memory)
        to_share = [of for by_device in plan.share.values() for of in by_device.values()]
        index = self.ratchet
        self.session.start_sharing(to_share, message_index=index)
        for place, of in enumerate(to_share):
            if delivered >> place & 1:
                self.holders.setdefault(self.keys(of), index)
                if confirmed >> place & 1:
                    self.session.confirm_sharing([name(of)])
        self.check(chosen, index)
        self.session.mark_encrypted(message_index=index, now=self.now)
        self.encrypted.add((self.sessions, index))
        self.ratchet += 1

    def reasons(self, session: OutboundSession, chosen: Recipients) -> tuple[RotationReason, ...]:
        return rotation_reasons(
            session,
            settings=LONG_LIVED,
            visibility=self.visibility,
            members=self.members,
            recipients=chosen,
            message_index=self.ratchet,
            now=self.now,
        )

    def begin(self) -> None:
        self.sessions += 1
        self.session = OutboundSession(
            room_id=ROOM,
            session_id=f"SESSION {self.sessions}",
            created_at=self.now,
            shared_history=shares_history(self.visibility),
        )
        self.ratchet = 0
        self.holders, self.users_with_history, self.is_spoiled = {}, set(), False
        assert self.reasons(self.session, self.recipients()) == ()

    def check(self, chosen: Recipients, index: int) -> None:
        """The message is about to be sent: who can read it?"""
        assert self.session is not None
        may_read = {self.keys(of) for by_device in chosen.devices.values() for of in by_device.values()}
        can_read = {keys for keys, since in self.holders.items() if since <= index}
        assert can_read <= may_read
        assert (self.sessions, index) not in self.encrypted
        assert self.users_with_history <= self.members
        missing = {self.keys(of) for of in self.session.needs_key(chosen)}
        assert may_read - missing <= can_read
        assert not self.is_spoiled
        assert self.session.shared_history is shares_history(self.visibility)
        assert 0 <= self.now - self.session.created_at < HOUR
        assert index < 6


TestRoom = Room.TestCase
TestRoom.settings = hypothesis_settings(max_examples=70, stateful_step_count=25, deadline=None)
