"""How a room is encrypted: what an event sets, what a later one can change, and what it never can."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from client.rooms.room_samples import RaisingMapping, TextOfOnesOwn
from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.client.rooms.room_encryption import (
    EncryptionChange,
    HistoryVisibility,
    RoomEncryption,
    RoomEncryptionChange,
    shares_history,
)
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.testing.strategies import json_like_values

WEEK, HOUR, MONTH = 604_800_000, 3_600_000, 2_419_200_000
ALGORITHM, TIGHTENED, LOOSENED = EncryptionChange


def content(**members: Any) -> dict[str, Any]:
    return {"algorithm": MEGOLM_V1, **members}


def noticed(settings: RoomEncryption) -> list[tuple[str, Reason]]:
    return [(notice.path, notice.reason) for notice in settings.notices]


NOT_ENCRYPTED_WITH_WHAT_WE_KNOW: dict[str, tuple[Any, str | None, str, Reason]] = {
    "redacted": ({}, None, "", Reason.MISSING_MEMBER),
    "algorithm removed": ({"rotation_period_ms": HOUR}, None, "", Reason.MISSING_MEMBER),
    "another algorithm": ({"algorithm": "m.megolm.v9"}, "m.megolm.v9", "/algorithm", Reason.UNSUPPORTED_ALGORITHM),
    "empty algorithm": ({"algorithm": ""}, "", "/algorithm", Reason.UNSUPPORTED_ALGORITHM),
    "algorithm in capitals": (
        {"algorithm": MEGOLM_V1.upper()},
        MEGOLM_V1.upper(),
        "/algorithm",
        Reason.UNSUPPORTED_ALGORITHM,
    ),
    "algorithm null": ({"algorithm": None}, None, "/algorithm", Reason.WRONG_TYPE),
    "several algorithms": ({"algorithm": [MEGOLM_V1]}, None, "/algorithm", Reason.WRONG_TYPE),
    "algorithm of one's own type": (
        {"algorithm": TextOfOnesOwn(MEGOLM_V1)},
        None,
        "/algorithm",
        Reason.NOT_A_JSON_VALUE,
    ),
    "lone surrogate": ({"algorithm": "\ud800"}, None, "/algorithm", Reason.LONE_SURROGATE),
    "null": (None, None, "", Reason.WRONG_TYPE),
    "an array": ([MEGOLM_V1], None, "", Reason.WRONG_TYPE),
    "text": (MEGOLM_V1, None, "", Reason.WRONG_TYPE),
    "a number too long to write": (10**5000, None, "", Reason.WRONG_TYPE),
    "an object": (object(), None, "", Reason.WRONG_TYPE),
}
BAD = pytest.mark.parametrize(
    ("bad", "algorithm", "path", "reason"),
    NOT_ENCRYPTED_WITH_WHAT_WE_KNOW.values(),
    ids=NOT_ENCRYPTED_WITH_WHAT_WE_KNOW,
)


class TestTheFirstEvent:
    def test_the_recommended_defaults(self) -> None:
        settings = RoomEncryption.from_content(content())
        assert settings == RoomEncryption(algorithm=MEGOLM_V1, rotation_period_ms=604_800_000, rotation_period_msgs=100)
        assert settings.notices == ()
        assert settings.require_supported() is settings

    def test_what_it_states(self) -> None:
        settings = RoomEncryption.from_content(content(rotation_period_ms=86_400_000, rotation_period_msgs=50, x=1.5))
        assert (settings.rotation_period_ms, settings.rotation_period_msgs) == (86_400_000, 50)
        assert settings.notices == ()

    def test_the_content_of_an_event_that_was_received(self) -> None:
        event = {
            "type": "m.room.encryption",
            "sender": "@bob:b.example",
            "content": content(rotation_period_msgs=7),
            "event_id": "$1",
            "origin_server_ts": 1,
            "state_key": "",
        }
        received = RoomEvent.from_json(event, room_id="!room:a.example")
        assert RoomEncryption.from_content(received.content).rotation_period_msgs == 7

    @BAD
    def test_a_room_is_encrypted_whatever_stands_there(
        self, bad: Any, algorithm: str | None, path: str, reason: Reason
    ) -> None:
        settings = RoomEncryption.from_content(bad)
        assert settings.algorithm == algorithm
        assert not settings.is_supported
        assert noticed(settings) == [(path, reason)]
        with pytest.raises(RemoteProtocolError) as caught:
            settings.require_supported()
        assert (caught.value.reason, caught.value.path) == (Reason.UNSUPPORTED_ALGORITHM, "/algorithm")

    @pytest.mark.parametrize(
        ("name", "stated", "taken", "reason"),
        [
            ("rotation_period_ms", 1, HOUR, Reason.INVALID_VALUE),
            ("rotation_period_ms", HOUR - 1, HOUR, Reason.INVALID_VALUE),
            ("rotation_period_ms", HOUR, HOUR, None),
            ("rotation_period_ms", HOUR + 1, HOUR + 1, None),
            ("rotation_period_ms", MONTH - 1, MONTH - 1, None),
            ("rotation_period_ms", MONTH, MONTH, None),
            ("rotation_period_ms", MONTH + 1, MONTH, Reason.INVALID_VALUE),
            ("rotation_period_ms", 2**53 - 1, MONTH, Reason.INVALID_VALUE),
            ("rotation_period_ms", 2**53, WEEK, Reason.INTEGER_OUT_OF_RANGE),
            pytest.param("rotation_period_ms", 10**5000, WEEK, Reason.INTEGER_OUT_OF_RANGE, id="very long"),
            ("rotation_period_ms", 0, WEEK, Reason.INVALID_VALUE),
            ("rotation_period_ms", -1, WEEK, Reason.INVALID_VALUE),
            ("rotation_period_ms", True, WEEK, Reason.WRONG_TYPE),
            ("rotation_period_ms", None, WEEK, Reason.WRONG_TYPE),
            ("rotation_period_ms", "604800000", WEEK, Reason.WRONG_TYPE),
            ("rotation_period_ms", 7_200_000.0, WEEK, Reason.NOT_AN_INTEGER),
            ("rotation_period_ms", float("nan"), WEEK, Reason.NOT_AN_INTEGER),
            ("rotation_period_msgs", 1, 1, None),
            ("rotation_period_msgs", 10_000, 10_000, None),
            ("rotation_period_msgs", 10_001, 10_000, Reason.INVALID_VALUE),
            ("rotation_period_msgs", 0, 100, Reason.INVALID_VALUE),
            ("rotation_period_msgs", -5, 100, Reason.INVALID_VALUE),
            ("rotation_period_msgs", False, 100, Reason.WRONG_TYPE),
            ("rotation_period_msgs", 2**53, 100, Reason.INTEGER_OUT_OF_RANGE),
            ("rotation_period_msgs", [5], 100, Reason.WRONG_TYPE),
        ],
    )
    def test_the_bounds(self, name: str, stated: Any, taken: int, reason: Reason | None) -> None:
        settings = RoomEncryption.from_content(content(**{name: stated}))
        assert getattr(settings, name) == taken
        assert noticed(settings) == ([] if reason is None else [(f"/{name}", reason)])
        assert settings.is_supported

    def test_each_fault_is_noticed_and_the_notice_says_what_is_taken_instead(self) -> None:
        settings = RoomEncryption.from_content({"rotation_period_ms": 5, "rotation_period_msgs": 0})
        assert noticed(settings) == [
            ("/rotation_period_ms", Reason.INVALID_VALUE),
            ("/rotation_period_msgs", Reason.INVALID_VALUE),
            ("", Reason.MISSING_MEMBER),
        ]
        assert "3600000 is taken instead of 5" in settings.notices[0].detail


class TestALaterEvent:
    @BAD
    def test_it_never_turns_encryption_off(self, bad: Any, algorithm: str | None, path: str, reason: Reason) -> None:
        before = RoomEncryption(algorithm=MEGOLM_V1, rotation_period_ms=HOUR, rotation_period_msgs=5)
        change = before.updated(bad)
        assert change.settings == before
        assert change.changes == frozenset()
        assert noticed(change.settings) == [(path, reason)]

    @BAD
    def test_nor_does_it_name_another_algorithm_that_is_not_supported(
        self, bad: Any, algorithm: str | None, path: str, reason: Reason
    ) -> None:
        before = RoomEncryption(algorithm="org.example.first")
        assert before.updated(bad).settings == before

    @pytest.mark.parametrize("algorithm", [None, "m.megolm.v9"])
    def test_a_room_in_which_nothing_could_be_sent_becomes_usable(self, algorithm: str | None) -> None:
        change = RoomEncryption(algorithm=algorithm).updated(content())
        assert change == RoomEncryptionChange(
            settings=RoomEncryption(algorithm=MEGOLM_V1), changes=frozenset({ALGORITHM})
        )
        assert change.settings.is_supported

    @pytest.mark.parametrize(
        ("period", "messages", "changes"),
        [
            (2 * HOUR, 50, set()),
            (2 * HOUR - 1, 50, {TIGHTENED}),
            (2 * HOUR + 1, 50, {LOOSENED}),
            (2 * HOUR, 49, {TIGHTENED}),
            (2 * HOUR, 51, {LOOSENED}),
            (HOUR, 51, {TIGHTENED, LOOSENED}),
            (HOUR, 1, {TIGHTENED}),
            (MONTH, 10_000, {LOOSENED}),
        ],
    )
    def test_the_periods_are_taken_and_it_is_told_how_they_changed(
        self, period: int, messages: int, changes: set[EncryptionChange]
    ) -> None:
        before = RoomEncryption(algorithm=MEGOLM_V1, rotation_period_ms=2 * HOUR, rotation_period_msgs=50)
        change = before.updated(content(rotation_period_ms=period, rotation_period_msgs=messages))
        assert (change.settings.rotation_period_ms, change.settings.rotation_period_msgs) == (period, messages)
        assert change.changes == changes
        assert change.settings.notices == ()

    def test_a_malformed_period_loosens_what_was_tighter_than_the_default(self) -> None:
        before = RoomEncryption(algorithm=MEGOLM_V1, rotation_period_ms=HOUR)
        change = before.updated(content(rotation_period_ms=-1))
        assert change.settings.rotation_period_ms == WEEK
        assert change.changes == {LOOSENED}
        assert noticed(change.settings) == [("/rotation_period_ms", Reason.INVALID_VALUE)]

    def test_what_was_noticed_before_is_forgotten(self) -> None:
        before = RoomEncryption.from_content(content(rotation_period_ms=1))
        assert before.updated(content(rotation_period_ms=HOUR)) == RoomEncryptionChange(settings=before)
        assert before.updated(content(rotation_period_ms=HOUR)).settings.notices == ()

    @given(st.lists(json_like_values() | st.just(content(rotation_period_ms=HOUR)), max_size=4))
    def test_no_events_whatsoever_turn_encryption_off(self, events: list[Any]) -> None:
        settings = RoomEncryption.from_content(content())
        for event in events:
            settings = settings.updated(event).settings
            assert settings.is_supported


class TestValues:
    @pytest.mark.parametrize(
        "settings",
        [
            RoomEncryption(algorithm=None),
            RoomEncryption(algorithm="m.other", rotation_period_ms=HOUR, rotation_period_msgs=1),
            RoomEncryption.from_content(content(rotation_period_ms=5)),
        ],
    )
    def test_over_a_restart(self, settings: RoomEncryption) -> None:
        kept = json.loads(json.dumps(settings.to_json()))
        assert RoomEncryption.from_json(kept) == settings
        assert RoomEncryption.from_json(kept).notices == ()

    @pytest.mark.parametrize(
        ("damage", "path"),
        [
            ({"version": 2}, "/version"),
            ({"algorithm": 5}, "/algorithm"),
            ({"algorithm": "\ud800"}, "/algorithm"),
            ({"rotation_period_ms": HOUR - 1}, "/rotation_period_ms"),
            ({"rotation_period_ms": MONTH + 1}, "/rotation_period_ms"),
            ({"rotation_period_ms": True}, "/rotation_period_ms"),
            ({"rotation_period_msgs": 0}, "/rotation_period_msgs"),
            ({"rotation_period_msgs": 10_001}, "/rotation_period_msgs"),
            ({"rotation_period_msgs": None}, "/rotation_period_msgs"),
        ],
    )
    def test_what_was_damaged_is_refused(self, damage: dict[str, Any], path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            RoomEncryption.from_json({**RoomEncryption(algorithm=MEGOLM_V1).to_json(), **damage})
        assert caught.value.path == path

    @pytest.mark.parametrize("name", ["version", "algorithm", "rotation_period_ms", "rotation_period_msgs"])
    def test_what_is_missing_is_refused(self, name: str) -> None:
        kept = RoomEncryption(algorithm=MEGOLM_V1).to_json()
        del kept[name]
        with pytest.raises(LocalProtocolError) as caught:
            RoomEncryption.from_json(kept)
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_MEMBER, f"/{name}")

    @pytest.mark.parametrize("notices", [None, [], ("text",)])
    def test_notices_are_notices(self, notices: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            evolve(RoomEncryption(algorithm=MEGOLM_V1), notices=notices)
        assert caught.value.path == "/notices"

    def test_a_mapping_that_raises_is_the_callers_fault(self) -> None:
        for read in (
            RoomEncryption.from_content,
            RoomEncryption(algorithm=MEGOLM_V1).updated,
            HistoryVisibility.from_content,
        ):
            with pytest.raises(LocalProtocolError) as caught:
                read(RaisingMapping())
            assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/content")


class TestHistoryVisibility:
    @pytest.mark.parametrize(
        ("stated", "visibility", "shares"),
        [
            (None, HistoryVisibility.SHARED, True),
            ({"history_visibility": "shared"}, HistoryVisibility.SHARED, True),
            ({"history_visibility": "world_readable"}, HistoryVisibility.WORLD_READABLE, True),
            ({"history_visibility": "invited"}, HistoryVisibility.INVITED, False),
            ({"history_visibility": "joined"}, HistoryVisibility.JOINED, False),
            ({"history_visibility": "SHARED"}, None, False),
            ({"history_visibility": "org.example.all"}, None, False),
            ({"history_visibility": None}, None, False),
            ({"history_visibility": ["shared"]}, None, False),
            ({"history_visibility": TextOfOnesOwn("shared")}, None, False),
            ({}, None, False),
            ("shared", None, False),
            (5, None, False),
        ],
    )
    def test_only_what_is_understood_shares_the_history(
        self, stated: Any, visibility: HistoryVisibility | None, shares: bool
    ) -> None:
        assert HistoryVisibility.from_content(stated) is visibility
        assert shares_history(visibility) is shares

    @pytest.mark.parametrize("visibility", ["shared", True, 5, {}])
    def test_a_text_is_no_visibility(self, visibility: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            shares_history(visibility)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/visibility")
