"""m.room_key.withheld: which codes there are, and what each needs."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from events.megolm_samples import CURVE, ROOM, megolm_session, withheld
from events.odd_values import ODD, only_own_errors, refusal
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent, WithheldCode, WithheldNotice

R = Reason
CODE = WithheldCode
ABOUT_A_SESSION = [code for code in CODE if code not in (CODE.NO_OLM, CODE.HISTORY_NOT_SHARED)]


def build(**arguments: Any) -> RoomKeyWithheldContent:
    known: dict[str, Any] = {
        "code": CODE.UNVERIFIED,
        "sender_key": CURVE,
        "room_id": ROOM,
        "session_id": megolm_session().session_id,
    }
    return RoomKeyWithheldContent.build(**{**known, **arguments})


class TestReading:
    def test_everything(self) -> None:
        obj = withheld(reason="because", **{"org.example": [1.5]})
        before = copy.deepcopy(obj)
        content = RoomKeyWithheldContent.from_json(obj)
        assert obj == before
        assert (content.code, content.known_code, content.sender_key) == ("m.unverified", CODE.UNVERIFIED, CURVE)
        assert (content.room_id, content.session_id) == (ROOM, megolm_session().session_id)
        assert (content.reason, content.extra) == ("because", {"org.example": [1.5]})
        assert json.loads(json.dumps(content.to_json())) == obj
        assert RoomKeyWithheldContent.from_json(content.to_json()) == content
        assert content.notice == WithheldNotice(code="m.unverified", reason="because")
        assert content.event_type == "m.room_key.withheld"

    def test_codes_are_those_of_the_specification(self) -> None:
        codes = {"m.blacklisted", "m.unverified", "m.unauthorised", "m.unavailable", "m.no_olm", "m.history_not_shared"}
        assert set(CODE) == codes

    @pytest.mark.parametrize("code", ["org.example.busy", "m.later", "x", "Blacklisted", "m."])
    def test_a_code_that_is_not_known(self, code: str) -> None:
        content = RoomKeyWithheldContent.from_json(withheld(code=code))
        assert (content.code, content.known_code, content.notice.known_code) == (code, None, None)

    @pytest.mark.parametrize("code", [*CODE, "org.example.busy"])
    @pytest.mark.parametrize("name", ["room_id", "session_id"])
    def test_all_but_one_need_a_session(self, code: str, name: str) -> None:
        for absent in (..., None):
            obj = withheld(code=str(code), **{name: absent})
            if code == CODE.NO_OLM:
                assert getattr(RoomKeyWithheldContent.from_json(obj), name) is None
            else:
                expected = ("", R.MISSING_MEMBER)
                assert refusal(lambda obj=obj: RoomKeyWithheldContent.from_json(obj), RemoteProtocolError) == expected

    def test_no_olm_with_a_session_is_tolerated(self) -> None:
        content = RoomKeyWithheldContent.from_json(withheld(code="m.no_olm"))
        assert (content.room_id, content.session_id) == (ROOM, megolm_session().session_id)

    def test_no_olm_without(self) -> None:
        content = RoomKeyWithheldContent.from_json(withheld(code="m.no_olm", room_id=..., session_id=...))
        assert (content.room_id, content.session_id, content.known_code) == (None, None, CODE.NO_OLM)

    def test_history_not_shared_is_tolerated(self) -> None:
        content = RoomKeyWithheldContent.from_json(withheld(code="m.history_not_shared"))
        assert content.known_code is CODE.HISTORY_NOT_SHARED

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({"algorithm": ...}, ("", R.MISSING_MEMBER)),
            ({"algorithm": "m.other", "code": 1}, ("/algorithm", R.UNSUPPORTED_ALGORITHM)),
            ({"code": ...}, ("", R.MISSING_MEMBER)),
            ({"code": 1}, ("/code", R.WRONG_TYPE)),
            ({"code": ""}, ("/code", R.INVALID_VALUE)),
            ({"sender_key": ...}, ("", R.MISSING_MEMBER)),
            ({"sender_key": "x"}, ("/sender_key", R.INVALID_BASE64)),
            ({"room_id": "x"}, ("/room_id", R.INVALID_IDENTIFIER)),
            ({"session_id": ""}, ("/session_id", R.INVALID_VALUE)),
            ({"reason": 1}, ("/reason", R.WRONG_TYPE)),
        ],
    )
    def test_what_is_malformed(self, members: dict[str, Any], expected: tuple[str, Reason]) -> None:
        obj = withheld(**members)
        assert refusal(lambda: RoomKeyWithheldContent.from_json(obj), RemoteProtocolError) == expected

    def test_whatever_is_handed_in(self) -> None:
        assert only_own_errors(RoomKeyWithheldContent.from_json) == len(ODD)
        for name in withheld():
            only_own_errors(lambda value, name=name: RoomKeyWithheldContent.from_json(withheld(**{name: value})))


class TestBuilding:
    @pytest.mark.parametrize("code", ABOUT_A_SESSION)
    def test_a_code_of_the_specification(self, code: WithheldCode) -> None:
        content = build(code=code, reason="because")
        assert content == build(code=code.value, reason="because")
        assert content == RoomKeyWithheldContent.from_json(withheld(code=code.value, reason="because"))
        assert type(content.code) is str

    @pytest.mark.parametrize("code", ["org.example.busy", "org.example", "com.a-b.c_d", "Org.Example.X1", "o.2"])
    def test_a_custom_code(self, code: str) -> None:
        assert (build(code=code).code, build(code=code).known_code) == (code, None)

    @pytest.mark.parametrize(
        "code",
        ["", "m.later", "m.", "m.a.b", "busy", "org.", ".org", "org..x", "org.x ", "org.\n", "1.a", "ö.x", "a b.c"],
    )
    def test_a_code_that_nobody_may_make_up(self, code: str) -> None:
        assert refusal(lambda: build(code=code), LocalProtocolError) == ("/code", R.INVALID_VALUE)
        make = RoomKeyWithheldContent.build_for_bundle
        arguments: dict[str, Any] = {"room_id": ROOM, "session_id": "x", "sender_key": CURVE, "code": code}
        assert refusal(lambda: make(**arguments), LocalProtocolError) == ("/code", R.INVALID_VALUE)

    @pytest.mark.parametrize("code", [CODE.HISTORY_NOT_SHARED, "m.history_not_shared"])
    def test_history_not_shared_is_for_bundles_only(self, code: str) -> None:
        assert refusal(lambda: build(code=code), LocalProtocolError) == ("/code", R.INVALID_VALUE)

    @pytest.mark.parametrize("code", [CODE.NO_OLM, "m.no_olm"])
    def test_no_olm_names_no_session(self, code: str) -> None:
        content = build(code=code, room_id=None, session_id=None)
        assert content.to_json() == withheld(code="m.no_olm", room_id=..., session_id=...)
        assert refusal(lambda: build(code=code), LocalProtocolError) == ("/room_id", R.INVALID_VALUE)
        expected = ("/session_id", R.INVALID_VALUE)
        assert refusal(lambda: build(code=code, room_id=None), LocalProtocolError) == expected

    @pytest.mark.parametrize("name", ["room_id", "session_id"])
    def test_the_others_name_one(self, name: str) -> None:
        assert refusal(lambda: build(**{name: None}), LocalProtocolError) == ("", R.MISSING_MEMBER)

    def test_an_entry_of_a_bundle(self) -> None:
        make = RoomKeyWithheldContent.build_for_bundle
        session_id = megolm_session().session_id
        content = make(room_id=ROOM, session_id=session_id, sender_key=CURVE)
        assert content.to_json() == withheld(code="m.history_not_shared")
        custom = make(room_id=ROOM, session_id=session_id, sender_key=CURVE, code="org.example.x", reason="y")
        assert custom.to_json() == withheld(code="org.example.x", reason="y")
        arguments: dict[str, Any] = {"room_id": ROOM, "session_id": session_id, "sender_key": CURVE}
        expected = ("/code", R.INVALID_VALUE)
        assert refusal(lambda: make(**arguments, code=CODE.NO_OLM), LocalProtocolError) == expected

    @pytest.mark.parametrize("argument", ["code", "sender_key", "room_id", "session_id", "reason"])
    def test_whatever_is_handed_in(self, argument: str) -> None:
        only_own_errors(lambda value: build(**{argument: value}))
        arguments: dict[str, Any] = {"room_id": ROOM, "session_id": "x", "sender_key": CURVE}
        only_own_errors(lambda value: RoomKeyWithheldContent.build_for_bundle(**{**arguments, argument: value}))
        assert refusal(lambda: build(**{argument: b"x"}), LocalProtocolError) == (f"/{argument}", R.WRONG_TYPE)
