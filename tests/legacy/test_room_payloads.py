"""The plaintext of an event of a room, in the draft of 2015: built, written, read, and never a state event."""

from __future__ import annotations

import json
from typing import Any

import pytest

from events.odd_values import only_own_errors, refusal
from legacy.room_people import DESK, PHONE, ROOM, key_of
from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.legacy.fingerprints import participant_fingerprint
from matrix_e2e_keys.legacy.room_payloads import LegacyRoomPayload

KEYS = [key_of(PHONE), key_of(DESK)]
TEXT = participant_fingerprint(KEYS)
ON_THE_WIRE: dict[str, Any] = {
    "type": "m.room.message",
    "content": {"body": "ü"},
    "room_id": ROOM,
    "fingerprint": TEXT,
}


def build(**changes: Any) -> LegacyRoomPayload:
    arguments: dict[str, Any] = {
        "event_type": "m.room.message",
        "content": {"body": "ü"},
        "room_id": ROOM,
        "participants": KEYS,
    }
    return LegacyRoomPayload.build(**{**arguments, **changes})


def read(**changes: Any) -> LegacyRoomPayload:
    return LegacyRoomPayload.from_bytes(json.dumps({**ON_THE_WIRE, **changes}).encode())


class TestBuilding:
    def test_it_has_the_members_of_the_draft(self) -> None:
        assert build().to_json() == ON_THE_WIRE

    def test_it_is_written_as_canonical_json(self) -> None:
        assert build().encode() == encode_canonical_json(ON_THE_WIRE)
        assert b"\xc3\xbc" in build().encode()

    def test_further_members_stand_beside(self) -> None:
        assert build(extra={"x": [1]}).to_json() == {**ON_THE_WIRE, "x": [1]}

    def test_the_content_is_copied_and_not_shown(self) -> None:
        content = {"body": "a secret"}
        built = build(content=content)
        content["body"] = "another"
        assert built.content == {"body": "a secret"}
        assert "secret" not in repr(built)

    def test_what_canonical_json_cannot_represent_is_not_encoded(self) -> None:
        assert refusal(build(content={"x": 1.5}).encode, LocalProtocolError) == ("/content/x", Reason.NOT_AN_INTEGER)

    @pytest.mark.parametrize(
        ("changes", "path", "reason"),
        [
            ({"event_type": ""}, "/event_type", Reason.INVALID_VALUE),
            ({"event_type": None}, "/event_type", Reason.WRONG_TYPE),
            ({"event_type": "m.room.encrypted"}, "/event_type", Reason.NESTED_ENCRYPTION),
            ({"content": []}, "/content", Reason.WRONG_TYPE),
            ({"content": {"x": object()}}, "/content/x", Reason.NOT_A_JSON_VALUE),
            ({"room_id": "room"}, "/room_id", Reason.INVALID_IDENTIFIER),
            ({"room_id": None}, "/room_id", Reason.WRONG_TYPE),
            ({"participants": []}, "/participants", Reason.INVALID_VALUE),
            ({"participants": None}, "/participants", Reason.WRONG_TYPE),
            ({"participants": [KEYS[0], "x"]}, "/participants/1", Reason.WRONG_TYPE),
            ({"participants": (1 // 0 for _ in "x")}, "/participants", Reason.INVALID_VALUE),
            ({"extra": 1}, "/extra", Reason.WRONG_TYPE),
            ({"extra": {"fingerprint": ""}}, "/extra/fingerprint", Reason.INVALID_VALUE),
            ({"extra": {"state_key": ""}}, "/extra/state_key", Reason.STATE_EVENT),
        ],
        ids=repr,
    )
    def test_what_cannot_be_built_is_refused(self, changes: dict[str, Any], path: str, reason: Reason) -> None:
        assert refusal(lambda: build(**changes), LocalProtocolError) == (path, reason)

    def test_no_payload_whatsoever_is_a_state_event(self) -> None:
        """Also where a payload is made without ``build``."""

        def make() -> LegacyRoomPayload:
            return LegacyRoomPayload(type="m.room.name", content={}, room_id=ROOM, extra={"state_key": None})

        assert refusal(make, LocalProtocolError) == ("/extra/state_key", Reason.STATE_EVENT)

    @pytest.mark.parametrize("name", ["event_type", "content", "room_id", "participants", "extra"])
    def test_only_own_errors_come_out(self, name: str) -> None:
        assert only_own_errors(lambda value: build(**{name: value})) > 20

    @pytest.mark.parametrize("name", ["type", "content", "room_id", "fingerprint", "extra"])
    def test_only_own_errors_come_out_of_the_type_itself(self, name: str) -> None:
        arguments: dict[str, Any] = {"type": "x", "content": {}, "room_id": ROOM}
        assert only_own_errors(lambda value: LegacyRoomPayload(**{**arguments, name: value})) > 20


class TestReading:
    def test_what_was_written_is_read(self) -> None:
        assert LegacyRoomPayload.from_bytes(build(extra={"x": 1}).encode()) == build(extra={"x": 1})

    @pytest.mark.parametrize("stated", ["", "x", TEXT, "ü"])
    def test_a_fingerprint_is_kept_as_it_stands(self, stated: str) -> None:
        assert read(fingerprint=stated).fingerprint == stated
        assert read(fingerprint=stated).to_json() == {**ON_THE_WIRE, "fingerprint": stated}

    def test_there_may_be_no_fingerprint(self) -> None:
        without = {name: value for name, value in ON_THE_WIRE.items() if name != "fingerprint"}
        payload = LegacyRoomPayload.from_bytes(json.dumps(without).encode())
        assert payload.fingerprint is None
        assert payload.to_json() == without

    @pytest.mark.parametrize(
        ("changes", "path", "reason"),
        [
            ({"type": ""}, "/type", Reason.INVALID_VALUE),
            ({"content": None}, "/content", Reason.WRONG_TYPE),
            ({"room_id": "#room:a.example"}, "/room_id", Reason.INVALID_IDENTIFIER),
            ({"fingerprint": None}, "/fingerprint", Reason.WRONG_TYPE),
            ({"fingerprint": 7}, "/fingerprint", Reason.WRONG_TYPE),
            ({"fingerprint": "\ud800"}, "/fingerprint", Reason.LONE_SURROGATE),
            ({"state_key": ""}, "/state_key", Reason.STATE_EVENT),
            ({"state_key": None}, "/state_key", Reason.STATE_EVENT),
            ({"x": float("nan")}, "/x", Reason.NOT_AN_INTEGER),
        ],
        ids=repr,
    )
    def test_what_is_malformed_is_refused(self, changes: dict[str, Any], path: str, reason: Reason) -> None:
        assert refusal(lambda: read(**changes), RemoteProtocolError) == (path, reason)

    @pytest.mark.parametrize("name", ["type", "content", "room_id"])
    def test_what_has_to_be_there_is(self, name: str) -> None:
        tree = {key: value for key, value in ON_THE_WIRE.items() if key != name}
        made = lambda: LegacyRoomPayload.from_bytes(json.dumps(tree).encode())  # noqa: E731
        assert refusal(made, RemoteProtocolError) == ("", Reason.MISSING_MEMBER)

    @pytest.mark.parametrize(
        ("plaintext", "kind", "path", "reason"),
        [
            (b"", RemoteProtocolError, "", Reason.NOT_JSON),
            (b"[]", RemoteProtocolError, "", Reason.WRONG_TYPE),
            (b"\xff", RemoteProtocolError, "", Reason.NOT_UTF8),
            (None, LocalProtocolError, "/plaintext", Reason.WRONG_TYPE),
        ],
    )
    def test_what_is_no_object_is_refused(self, plaintext: Any, kind: Any, path: str, reason: Reason) -> None:
        assert refusal(lambda: LegacyRoomPayload.from_bytes(plaintext), kind) == (path, reason)

    @pytest.mark.parametrize("kind", [bytes, bytearray, bytes.decode])
    def test_it_may_be_bytes_or_text(self, kind: Any) -> None:
        assert LegacyRoomPayload.from_bytes(kind(build().encode())) == build()

    def test_only_own_errors_come_out(self) -> None:
        assert only_own_errors(LegacyRoomPayload.from_bytes) > 30
