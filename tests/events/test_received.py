"""Events as a server delivers them: one malformed event costs none of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given

from events.odd_values import Names, Text, error_of, only_own_errors, refusal
from json_strategies import wild_values
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent, ToDeviceEvents
from matrix_e2e_keys.json_frames import parse_frame

R = Reason
TO_DEVICE: dict[str, Any] = {"type": "m.dummy", "sender": "@a:a.example", "content": {"x": [1.5]}}
IN_ROOM: dict[str, Any] = {
    "type": "m.room.encrypted",
    "sender": "@a:a.example",
    "content": {"x": [1.5]},
    "event_id": "$e",
    "origin_server_ts": 1,
}
ROOM = "!r:a.example"


class TestToDeviceEvent:
    def test_both_directions(self) -> None:
        obj = {**TO_DEVICE, "org.example": 1, "message_id": "x"}
        event = ToDeviceEvent.from_json(obj)
        assert event == ToDeviceEvent(
            type="m.dummy", sender="@a:a.example", content={"x": [1.5]}, extra={"org.example": 1, "message_id": "x"}
        )
        assert event.to_json() == obj
        assert ToDeviceEvent.from_json(event.to_json()) == event

    def test_nothing_is_shared(self) -> None:
        obj = json.loads(json.dumps(TO_DEVICE))
        event = ToDeviceEvent.from_json(obj)
        obj["content"]["x"].append(2)
        event.content["x"].append(3)
        assert event.content == {"x": [1.5]}

    def test_the_content_is_not_shown(self) -> None:
        event = ToDeviceEvent.from_json({**TO_DEVICE, "content": {"secret": "tell-nobody"}})
        assert "nobody" not in repr(event)
        assert "nobody" not in f"{event.content!r} {event.content}"
        assert "nobody" not in repr(RoomEvent.from_json({**IN_ROOM, "content": {"a": "nobody"}}, room_id=ROOM))

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"type": ""}, "/type", R.INVALID_VALUE),
            ({"type": None}, "/type", R.WRONG_TYPE),
            ({"type": Text("m.dummy")}, "/type", R.NOT_A_JSON_VALUE),
            ({"sender": "alice"}, "/sender", R.INVALID_IDENTIFIER),
            ({"sender": 5}, "/sender", R.WRONG_TYPE),
            ({"sender": "@\ud800:b"}, "/sender", R.INVALID_IDENTIFIER),
            ({"content": []}, "/content", R.WRONG_TYPE),
            ({"content": None}, "/content", R.WRONG_TYPE),
            ({"content": {"a": [float("nan")]}}, "/content/a/0", R.NOT_AN_INTEGER),
            ({"x": b""}, "/x", R.NOT_A_JSON_VALUE),
        ],
    )
    def test_what_is_malformed(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        obj = {**TO_DEVICE, **members}
        assert refusal(lambda: ToDeviceEvent.from_json(obj), RemoteProtocolError) == (path, reason)

    @pytest.mark.parametrize("name", TO_DEVICE)
    def test_what_is_missing(self, name: str) -> None:
        obj = {member: value for member, value in TO_DEVICE.items() if member != name}
        assert refusal(lambda: ToDeviceEvent.from_json(obj), RemoteProtocolError) == ("", R.MISSING_MEMBER)


BAD: Any = {"type": "m.dummy", "sender": "nobody", "content": {}}


class TestToDeviceEvents:
    def test_one_malformed_event_costs_none_of_the_others(self) -> None:
        events = ToDeviceEvents.from_json({"events": [TO_DEVICE, BAD, 5, TO_DEVICE, None], "next_batch": "x"})
        assert events.accepted == (ToDeviceEvent.from_json(TO_DEVICE),) * 2
        assert [(entry.path, entry.reason, entry.raw) for entry in events.rejected] == [
            ("/events/1/sender", R.INVALID_IDENTIFIER, BAD),
            ("/events/2", R.WRONG_TYPE, 5),
            ("/events/4", R.WRONG_TYPE, None),
        ]

    def test_what_is_marked_in_a_frame_costs_its_event(self) -> None:
        good = json.dumps(TO_DEVICE)
        wrong = f'{good[:-1]}, "content": {{}}}}'
        nan = f'{good[:-1]}, "x": NaN}}'
        events = ToDeviceEvents.from_json(parse_frame(f'{{"events": [{wrong}, {good}, {nan}, 1e999]}}'))
        assert events.accepted == (ToDeviceEvent.from_json(TO_DEVICE),)
        assert [(entry.path, entry.reason) for entry in events.rejected] == [
            ("/events/0/content", R.DUPLICATE_MEMBER),
            ("/events/2/x", R.NOT_AN_INTEGER),
            ("/events/3", R.NOT_AN_INTEGER),
        ]

    def test_no_events(self) -> None:
        assert ToDeviceEvents.from_json({}) == ToDeviceEvents() == ToDeviceEvents.from_json({"events": []})

    @pytest.mark.parametrize(
        ("obj", "path", "reason"),
        [
            (None, "", R.WRONG_TYPE),
            ([TO_DEVICE], "", R.WRONG_TYPE),
            (Names({"events": []}), "", R.NOT_A_JSON_VALUE),
            ({"events": None}, "/events", R.WRONG_TYPE),
            ({"events": {"0": TO_DEVICE}}, "/events", R.WRONG_TYPE),
            ({"events": (TO_DEVICE,)}, "/events", R.NOT_A_JSON_VALUE),
        ],
    )
    def test_what_is_malformed(self, obj: Any, path: str, reason: Reason) -> None:
        assert refusal(lambda: ToDeviceEvents.from_json(obj), RemoteProtocolError) == (path, reason)
        read = lambda: ToDeviceEvents.from_sync_v2({"to_device": obj})  # noqa: E731
        assert refusal(read, RemoteProtocolError) == ("/to_device" + path, reason)
        read = lambda: ToDeviceEvents.from_sliding_sync({"extensions": {"to_device": obj}})  # noqa: E731
        assert refusal(read, RemoteProtocolError) == ("/extensions/to_device" + path, reason)

    def test_in_a_whole_answer(self) -> None:
        to_device = {"events": [TO_DEVICE, BAD]}
        read = ToDeviceEvents.from_json(to_device)
        for body, find, place in (
            ({"to_device": to_device, "rooms": 1.5}, ToDeviceEvents.from_sync_v2, "/to_device"),
            (
                {"extensions": {"to_device": to_device, "e2ee": []}, "rooms": 1.5},
                ToDeviceEvents.from_sliding_sync,
                "/extensions/to_device",
            ),
        ):
            text = json.dumps(body)
            for given_body in (body, text, text.encode(), bytearray(text.encode()), parse_frame(text)):
                found = find(given_body)
                assert found.accepted == read.accepted
                assert [entry.path for entry in found.rejected] == [place + "/events/1/sender"]

    @pytest.mark.parametrize("body", ["{}", b"{}", {}, {"extensions": {}}, {"rooms": {"to_device": 5}}])
    def test_a_whole_answer_without(self, body: Any) -> None:
        assert ToDeviceEvents.from_sync_v2(body) == ToDeviceEvents()
        assert ToDeviceEvents.from_sliding_sync(body) == ToDeviceEvents()

    def test_bytes_say_what_a_parser_would_lose(self) -> None:
        text = '{"to_device": {"events": []}, "to_device": {"events": []}}'
        assert ToDeviceEvents.from_sync_v2(json.loads(text)) == ToDeviceEvents()
        found = refusal(lambda: ToDeviceEvents.from_sync_v2(text), RemoteProtocolError)
        assert found == ("/to_device", R.DUPLICATE_MEMBER)

    @pytest.mark.parametrize(
        ("body", "path", "reason"),
        [
            (None, "", R.WRONG_TYPE),
            ([], "", R.WRONG_TYPE),
            ("[]", "", R.WRONG_TYPE),
            ("", "", R.NOT_JSON),
            (b"\xff", "", R.NOT_UTF8),
        ],
    )
    def test_a_whole_answer_that_is_none(self, body: Any, path: str, reason: Reason) -> None:
        assert refusal(lambda: ToDeviceEvents.from_sync_v2(body), RemoteProtocolError) == (path, reason)
        assert refusal(lambda: ToDeviceEvents.from_sliding_sync(body), RemoteProtocolError) == (path, reason)

    def test_extensions_that_are_no_object(self) -> None:
        read = lambda: ToDeviceEvents.from_sliding_sync({"extensions": []})  # noqa: E731
        assert refusal(read, RemoteProtocolError) == ("/extensions", R.WRONG_TYPE)


class TestRoomEvent:
    def test_both_directions(self) -> None:
        obj = {**IN_ROOM, "room_id": ROOM, "state_key": "", "unsigned": {"age": 5}}
        event = RoomEvent.from_json(obj)
        assert event == RoomEvent(
            type="m.room.encrypted",
            sender="@a:a.example",
            content={"x": [1.5]},
            room_id=ROOM,
            event_id="$e",
            origin_server_ts=1,
            state_key="",
            extra={"unsigned": {"age": 5}},
        )
        assert event.to_json() == obj
        assert RoomEvent.from_json(event.to_json()) == event

    def test_the_room_is_the_one_it_stands_in(self) -> None:
        event = RoomEvent.from_json(IN_ROOM, room_id=ROOM)
        assert (event.room_id, event.state_key) == (ROOM, None)
        assert "room_id" not in IN_ROOM
        assert RoomEvent.from_json({**IN_ROOM, "room_id": ROOM}, room_id=ROOM) == event

    def test_an_event_that_names_another_room_is_refused(self) -> None:
        """Attack 59."""
        obj = {**IN_ROOM, "room_id": "!other:a.example"}
        assert refusal(lambda: RoomEvent.from_json(obj, room_id=ROOM), RemoteProtocolError) == (
            "/room_id",
            R.ROOM_MISMATCH,
        )
        assert RoomEvent.from_json(obj).room_id == "!other:a.example"

    @pytest.mark.parametrize(
        ("value", "reason"), [(None, R.WRONG_TYPE), (5, R.WRONG_TYPE), ("@a:b", R.INVALID_IDENTIFIER)]
    )
    def test_a_room_that_is_none(self, value: Any, reason: Reason) -> None:
        for room in (None, ROOM):
            read = lambda room=room: RoomEvent.from_json({**IN_ROOM, "room_id": value}, room_id=room)  # noqa: E731
            assert refusal(read, RemoteProtocolError) == ("/room_id", reason)

    def test_a_room_that_stands_twice(self) -> None:
        text = json.dumps({**IN_ROOM, "room_id": ROOM})
        tree = parse_frame(f'{text[:-1]}, "room_id": "{ROOM}"}}')
        read = lambda: RoomEvent.from_json(tree, room_id=ROOM)  # noqa: E731
        assert refusal(read, RemoteProtocolError) == ("/room_id", R.DUPLICATE_MEMBER)

    @pytest.mark.parametrize(("value", "reason"), [(5, R.WRONG_TYPE), ("", R.INVALID_IDENTIFIER), ([], R.WRONG_TYPE)])
    def test_a_room_that_our_caller_made_up(self, value: Any, reason: Reason) -> None:
        read = lambda: RoomEvent.from_json(IN_ROOM, room_id=value)  # noqa: E731
        assert refusal(read, LocalProtocolError) == ("/room_id", reason)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"event_id": ""}, "/event_id", R.INVALID_VALUE),
            ({"event_id": None}, "/event_id", R.WRONG_TYPE),
            ({"event_id": "$" + "x" * 255}, "/event_id", R.INVALID_IDENTIFIER),
            ({"event_id": "$" + "é" * 128}, "/event_id", R.INVALID_IDENTIFIER),
            ({"origin_server_ts": -1}, "/origin_server_ts", R.INVALID_VALUE),
            ({"origin_server_ts": True}, "/origin_server_ts", R.WRONG_TYPE),
            ({"origin_server_ts": 1.0}, "/origin_server_ts", R.WRONG_TYPE),
            ({"origin_server_ts": 2**53}, "/origin_server_ts", R.INTEGER_OUT_OF_RANGE),
            ({"origin_server_ts": "1"}, "/origin_server_ts", R.WRONG_TYPE),
            ({"state_key": None}, "/state_key", R.WRONG_TYPE),
            ({"state_key": 5}, "/state_key", R.WRONG_TYPE),
            ({"type": ""}, "/type", R.INVALID_VALUE),
            ({"sender": ""}, "/sender", R.INVALID_IDENTIFIER),
            ({"content": None}, "/content", R.WRONG_TYPE),
        ],
    )
    def test_what_is_malformed(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        read = lambda: RoomEvent.from_json({**IN_ROOM, **members}, room_id=ROOM)  # noqa: E731
        assert refusal(read, RemoteProtocolError) == (path, reason)

    @pytest.mark.parametrize("name", [*IN_ROOM, "room_id"])
    def test_what_is_missing(self, name: str) -> None:
        obj = {member: value for member, value in {**IN_ROOM, "room_id": ROOM}.items() if member != name}
        assert refusal(lambda: RoomEvent.from_json(obj), RemoteProtocolError) == ("", R.MISSING_MEMBER)


class TestAnything:
    """Nothing foreign comes out of any function, for any argument."""

    def test_each_argument(self) -> None:
        for read in (ToDeviceEvent.from_json, RoomEvent.from_json, ToDeviceEvents.from_json):
            assert only_own_errors(read) > 30
        assert only_own_errors(ToDeviceEvents.from_sync_v2) > 30
        assert only_own_errors(ToDeviceEvents.from_sliding_sync) > 30
        assert only_own_errors(lambda value: RoomEvent.from_json(value, room_id=ROOM)) > 30
        assert only_own_errors(lambda value: RoomEvent.from_json(IN_ROOM, room_id=value)) > 30
        assert only_own_errors(lambda value: ToDeviceEvents.from_sync_v2({"to_device": value})) > 30
        assert only_own_errors(lambda value: ToDeviceEvents.from_json({"events": value})) > 30
        assert only_own_errors(lambda value: ToDeviceEvents.from_json({"events": [value]})) == 0
        for event in (ToDeviceEvent.from_json(TO_DEVICE), RoomEvent.from_json(IN_ROOM, room_id=ROOM)):
            for name in (*TO_DEVICE, "extra"):
                assert only_own_errors(lambda value, event=event, name=name: evolve(event, **{name: value})) > 20
        for name in ("room_id", "event_id", "origin_server_ts", "state_key"):
            assert only_own_errors(lambda value, name=name: evolve(event, **{name: value})) > 20

    @given(wild_values)
    def test_any_value(self, value: Any) -> None:
        events = ToDeviceEvents.from_json({"events": [value, {**TO_DEVICE, "content": value}, TO_DEVICE]})
        assert events.accepted[-1] == ToDeviceEvent.from_json(TO_DEVICE)
        assert len(events.accepted) + len(events.rejected) == 3
        for event in events.accepted:
            assert ToDeviceEvent.from_json(event.to_json()) == event
        error = error_of(lambda: RoomEvent.from_json({**IN_ROOM, "content": value}, room_id=ROOM))
        assert type(error) in (RemoteProtocolError, type(None))
