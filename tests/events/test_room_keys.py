"""m.room_key and m.forwarded_room_key: what is read, what is built, and that no key is ever shown."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
from attrs import evolve

from events.megolm_samples import (
    CURVE,
    ED,
    OTHER_CURVE,
    ROOM,
    exported_id_of,
    forwarded,
    megolm_session,
    room_key,
    shared_id_of,
)
from events.odd_values import ODD, only_own_errors, refusal
from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent
from matrix_e2e_keys.events.withheld import WithheldCode, WithheldNotice

R = Reason
BOTH: list[tuple[Any, Callable[..., dict[str, Any]]]] = [
    (RoomKeyContent, room_key),
    (ForwardedRoomKeyContent, forwarded),
]
BOTH_NAMES = ["m.room_key", "m.forwarded_room_key"]
NAMES = ("shared_history", "m.shared_history", "org.matrix.msc3061.shared_history")


def tampered(text: str) -> str:
    """A session key with another bit in its ratchet."""
    raw = bytearray(unpadded_base64.decode(text) or b"")
    raw[20] ^= 1
    return unpadded_base64.encode(bytes(raw))


def with_index(text: str, index: int) -> str:
    raw = unpadded_base64.decode(text) or b""
    return unpadded_base64.encode(raw[:1] + index.to_bytes(4, "big") + raw[5:])


class TestReading:
    def test_a_room_key(self) -> None:
        session = megolm_session()
        content = RoomKeyContent.from_json(room_key(**{"shared_history": True, "org.example": [1.5]}))
        assert (content.room_id, content.session_id, content.session_key) == (ROOM, session.session_id, session.shared)
        assert (content.key.session_id, content.key.first_index, content.key.is_signed) == (session.session_id, 0, True)
        assert (content.shared_history, content.extra) == (True, {"org.example": [1.5]})
        assert content.event_type == "m.room_key"

    def test_a_forwarded_room_key(self) -> None:
        session = megolm_session()
        chain = [OTHER_CURVE.to_base64(), CURVE.to_base64()]
        notice = {"code": "m.unverified", "reason": "why", "x": 1}
        obj = forwarded(forwarding_curve25519_key_chain=chain, withheld=notice, more="x")
        content = ForwardedRoomKeyContent.from_json(obj)
        assert (content.key.session_id, content.key.first_index, content.key.is_signed) == (
            session.session_id,
            2,
            False,
        )
        assert (content.sender_key, content.sender_claimed_ed25519_key) == (CURVE, ED)
        assert content.forwarding_curve25519_key_chain == (OTHER_CURVE, CURVE)
        assert content.withheld == WithheldNotice(code="m.unverified", reason="why", extra={"x": 1})
        assert content.withheld is not None
        assert content.withheld.known_code is WithheldCode.UNVERIFIED
        assert (content.shared_history, content.extra) == (False, {"more": "x"})
        assert content.event_type == "m.forwarded_room_key"

    @pytest.mark.parametrize(("kind", "make"), BOTH, ids=BOTH_NAMES)
    def test_comes_back_as_it_was(self, kind: Any, make: Callable[..., dict[str, Any]]) -> None:
        obj = make(shared_history=True, x={"y": [None]})
        before = copy.deepcopy(obj)
        content = kind.from_json(obj)
        assert obj == before
        written = json.loads(json.dumps(content.to_json()))
        assert written == {**obj, **dict.fromkeys(NAMES[:2], True)}
        assert kind.from_json(written) == content
        assert pickle.loads(pickle.dumps(content)).key == content.key

    @pytest.mark.parametrize(("kind", "make"), BOTH, ids=BOTH_NAMES)
    @pytest.mark.parametrize(
        ("members", "expected"),
        {
            "no algorithm": ({"algorithm": ...}, ("", R.MISSING_MEMBER)),
            "no room": ({"room_id": ...}, ("", R.MISSING_MEMBER)),
            "no session": ({"session_id": ...}, ("", R.MISSING_MEMBER)),
            "no key": ({"session_key": ...}, ("", R.MISSING_MEMBER)),
            "algorithm a number": ({"algorithm": 1}, ("/algorithm", R.WRONG_TYPE)),
            "algorithm empty": ({"algorithm": ""}, ("/algorithm", R.INVALID_VALUE)),
            "room no room id": ({"room_id": "#a:b"}, ("/room_id", R.INVALID_IDENTIFIER)),
            "session empty": ({"session_id": ""}, ("/session_id", R.INVALID_VALUE)),
            "key a list": ({"session_key": []}, ("/session_key", R.WRONG_TYPE)),
            "key empty": ({"session_key": ""}, ("/session_key", R.INVALID_VALUE)),
            "key no base64": ({"session_key": "!"}, ("/session_key", R.INVALID_BASE64)),
            "key no session key": ({"session_key": "AAAA"}, ("/session_key", R.WRONG_LENGTH)),
        }.values(),
    )
    def test_what_is_malformed(
        self, kind: Any, make: Callable[..., dict[str, Any]], members: dict[str, Any], expected: tuple[str, Reason]
    ) -> None:
        assert refusal(lambda: kind.from_json(make(**members)), RemoteProtocolError) == expected

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({"sender_key": ...}, ("", R.MISSING_MEMBER)),
            ({"sender_key": "x"}, ("/sender_key", R.INVALID_BASE64)),
            ({"sender_key": None}, ("/sender_key", R.WRONG_TYPE)),
            ({"sender_claimed_ed25519_key": ...}, ("", R.MISSING_MEMBER)),
            ({"sender_claimed_ed25519_key": "AAAA"}, ("/sender_claimed_ed25519_key", R.WRONG_LENGTH)),
            ({"forwarding_curve25519_key_chain": ...}, ("", R.MISSING_MEMBER)),
            ({"forwarding_curve25519_key_chain": {}}, ("/forwarding_curve25519_key_chain", R.WRONG_TYPE)),
            ({"forwarding_curve25519_key_chain": ["x"]}, ("/forwarding_curve25519_key_chain/0", R.INVALID_BASE64)),
            (
                {"forwarding_curve25519_key_chain": [CURVE.to_base64(), 1]},
                ("/forwarding_curve25519_key_chain/1", R.WRONG_TYPE),
            ),
            ({"withheld": []}, ("/withheld", R.WRONG_TYPE)),
            ({"withheld": {}}, ("/withheld", R.MISSING_MEMBER)),
            ({"withheld": {"code": ""}}, ("/withheld/code", R.INVALID_VALUE)),
            ({"withheld": {"code": "m.x", "reason": 1}}, ("/withheld/reason", R.WRONG_TYPE)),
            ({"withheld": {"code": "m.x", "y": float("nan")}}, ("/withheld/y", R.NOT_AN_INTEGER)),
        ],
    )
    def test_what_is_malformed_in_a_forwarded_one(self, members: dict[str, Any], expected: tuple[str, Reason]) -> None:
        obj = forwarded(**members)
        assert refusal(lambda: ForwardedRoomKeyContent.from_json(obj), RemoteProtocolError) == expected

    @pytest.mark.parametrize(("kind", "make"), BOTH, ids=BOTH_NAMES)
    def test_another_algorithm_is_unsupported_whatever_stands_beside_it(
        self, kind: Any, make: Callable[..., dict[str, Any]]
    ) -> None:
        expected = ("/algorithm", R.UNSUPPORTED_ALGORITHM)
        besides: list[dict[str, Any]] = [{}, {"session_key": 1, "room_id": None, "sender_key": []}]
        for beside in besides:
            obj = make(algorithm="m.megolm.v2.aes-sha2", **beside)
            assert refusal(lambda obj=obj: kind.from_json(obj), RemoteProtocolError) == expected
        assert refusal(lambda: kind.from_json({"algorithm": "org.example"}), RemoteProtocolError) == expected

    def test_each_takes_its_own_format_only(self) -> None:
        session = megolm_session()
        expected = ("/session_key", R.INVALID_VALUE)
        as_shared = room_key(session_key=session.exported)
        assert refusal(lambda: RoomKeyContent.from_json(as_shared), RemoteProtocolError) == expected
        as_exported = forwarded(session_key=session.shared)
        assert refusal(lambda: ForwardedRoomKeyContent.from_json(as_exported), RemoteProtocolError) == expected

    def test_a_room_key_that_was_tampered_with(self) -> None:
        obj = room_key(session_key=tampered(megolm_session().shared))
        expected = ("/session_key", R.INVALID_SIGNATURE)
        assert refusal(lambda: RoomKeyContent.from_json(obj), RemoteProtocolError) == expected

    def test_padding_does_not_matter(self) -> None:
        text = megolm_session().shared
        content = RoomKeyContent.from_json(room_key(session_key=text + "=" * (-len(text) % 4)))
        assert content.key.text == text

    @pytest.mark.parametrize(("kind", "make"), BOTH, ids=BOTH_NAMES)
    def test_whatever_is_handed_in(self, kind: Any, make: Callable[..., dict[str, Any]]) -> None:
        only_own_errors(kind.from_json)
        for name in make():
            assert only_own_errors(lambda value, name=name: kind.from_json(make(**{name: value}))) > len(ODD) - 4
            only_own_errors(lambda value, name=name: kind(**{**vars_of(kind.from_json(make())), name: value}))


def vars_of(content: Any) -> dict[str, Any]:
    """The arguments that make a content anew."""
    names = [member.attribute or name for name, member in type(content).members.items()]
    return {name: getattr(content, name) for name in names}


class TestSharedHistory:
    @pytest.mark.parametrize(("kind", "make"), BOTH, ids=BOTH_NAMES)
    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            ((...,) * 3, False),
            ((True, ..., ...), True),
            ((..., True, ...), True),
            ((..., ..., True), True),
            ((True, True, True), True),
            ((False, ..., ...), False),
            ((..., ..., False), False),
            ((True, False, ...), False),
            ((False, True, True), False),
            ((True, ..., False), False),
            ((True, None, ...), False),
            ((None, ..., True), False),
            ((1, ..., ...), False),
            (("true", ..., ...), False),
            (([True], ..., ...), False),
            ((..., {"a": float("nan")}, ...), False),
        ],
    )
    def test_true_only_where_nothing_speaks_against_it(
        self, kind: Any, make: Callable[..., dict[str, Any]], said: tuple[object, ...], expected: bool
    ) -> None:
        content = kind.from_json(make(**dict(zip(NAMES, said, strict=True))))
        assert (content.shared_history, content.extra) == (expected, {})

    def test_the_tree_stays_as_it_is(self) -> None:
        tree = room_key(**dict.fromkeys(NAMES, True))
        before = copy.deepcopy(tree)
        RoomKeyContent.read_tree(tree, "the content")
        assert tree == before

    @pytest.mark.parametrize("is_shared", [True, False])
    def test_is_written_under_one_of_the_former_names_too(self, is_shared: bool) -> None:
        """And not under both: there are readers to whom they are one member that stands twice."""
        content = RoomKeyContent.build(room_id=ROOM, session_key=megolm_session().shared, shared_history=is_shared)
        assert content.to_json() == room_key(**dict.fromkeys(NAMES[:2], is_shared))

    @pytest.mark.parametrize("name", NAMES)
    def test_no_extra_member_contradicts_it(self, name: str) -> None:
        def make() -> object:
            arguments = vars_of(RoomKeyContent.from_json(room_key()))
            return RoomKeyContent(**arguments, extra={name: True})

        assert refusal(make, LocalProtocolError) == (f"/extra/{name}", R.INVALID_VALUE)


class TestSessionId:
    @pytest.mark.parametrize(
        ("kind", "make", "ask"),
        [(RoomKeyContent, room_key, shared_id_of), (ForwardedRoomKeyContent, forwarded, exported_id_of)],
        ids=BOTH_NAMES,
    )
    def test_the_session_that_is_named_is_the_one_of_the_key(
        self, kind: Any, make: Callable[..., dict[str, Any]], ask: Callable[[str], str]
    ) -> None:
        good = kind.from_json(make())
        assert good.require_session_id() is good.key
        assert good.require_session_id(ask) is good.key
        another = kind.from_json(make(session_id=megolm_session("another").session_id))
        expected = ("/session_id", R.SESSION_MISMATCH)
        assert refusal(another.require_session_id, RemoteProtocolError) == expected
        assert refusal(lambda: another.require_session_id(ask), RemoteProtocolError) == expected

    def test_the_ratchet_has_to_agree(self) -> None:
        good = RoomKeyContent.from_json(room_key())
        expected = ("/session_id", R.SESSION_MISMATCH)
        assert refusal(lambda: good.require_session_id(lambda _: "another"), RemoteProtocolError) == expected

    def test_a_ratchet_that_does_as_it_is_told_convinces_nobody(self) -> None:
        named = megolm_session("another").session_id
        bad = RoomKeyContent.from_json(room_key(session_id=named))
        expected = ("/session_id", R.SESSION_MISMATCH)
        assert refusal(lambda: bad.require_session_id(lambda _: named), RemoteProtocolError) == expected

    def test_the_ratchet_gets_the_key_without_padding(self) -> None:
        asked: list[str] = []

        def ask(text: str) -> str:
            asked.append(text)
            return shared_id_of(text)

        text = megolm_session().shared
        RoomKeyContent.from_json(room_key(session_key=text + "=" * (-len(text) % 4))).require_session_id(ask)
        assert asked == [text]

    def test_a_ratchet_that_raises(self) -> None:
        content = RoomKeyContent.from_json(room_key())

        def fail(text: str) -> str:
            raise ValueError(text)

        with pytest.raises(RemoteProtocolError) as caught:
            content.require_session_id(fail)
        assert (caught.value.path, caught.value.reason) == ("/session_key", R.SESSION_MISMATCH)
        assert "ValueError" in caught.value.detail
        assert content.session_key not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize("answer", [None, b"x", 1, type("Text", (str,), {})("x")])
    def test_what_returns_no_text(self, answer: Any) -> None:
        content = RoomKeyContent.from_json(room_key())
        expected = ("/session_id_of", R.WRONG_TYPE)
        assert refusal(lambda: content.require_session_id(lambda _: answer), LocalProtocolError) == expected
        assert refusal(lambda: content.require_session_id(cast("Any", answer or 0)), LocalProtocolError) == expected


class TestBuilding:
    def test_a_room_key(self) -> None:
        session = megolm_session()
        built = RoomKeyContent.build(room_id=ROOM, session_key=session.shared, shared_history=True)
        assert built == RoomKeyContent.from_json(room_key(shared_history=True))
        assert built.require_session_id(shared_id_of).session_id == session.session_id

    def test_a_forwarded_room_key(self) -> None:
        notice = WithheldNotice(code="m.unverified", reason="why")
        built = ForwardedRoomKeyContent.build(
            room_id=ROOM,
            session_key=megolm_session().exported,
            sender_key=CURVE,
            sender_claimed_ed25519_key=ED,
            forwarding_chain=iter([OTHER_CURVE]),
            withheld=notice,
            shared_history=True,
        )
        chain = [OTHER_CURVE.to_base64()]
        told = {"code": "m.unverified", "reason": "why"}
        obj = forwarded(forwarding_curve25519_key_chain=chain, withheld=told, shared_history=True)
        assert built == ForwardedRoomKeyContent.from_json(obj)

    def test_as_little_as_possible(self) -> None:
        built = ForwardedRoomKeyContent.build(
            room_id=ROOM, session_key=megolm_session().exported, sender_key=CURVE, sender_claimed_ed25519_key=ED
        )
        assert built.to_json() == forwarded(**dict.fromkeys(NAMES[:2], False))

    @pytest.mark.parametrize(
        ("argument", "value", "expected"),
        [
            ("room_id", "x", ("/room_id", R.INVALID_IDENTIFIER)),
            ("session_key", "x", ("/session_key", R.INVALID_BASE64)),
            ("session_key", 1, ("/session_key", R.WRONG_TYPE)),
            ("session_key", megolm_session().shared, ("/session_key", R.INVALID_VALUE)),
            ("sender_key", CURVE.to_base64(), ("/sender_key", R.WRONG_TYPE)),
            ("sender_claimed_ed25519_key", CURVE, ("/sender_claimed_ed25519_key", R.WRONG_TYPE)),
            ("forwarding_chain", CURVE, ("/forwarding_chain", R.WRONG_TYPE)),
            ("forwarding_chain", [CURVE, ED], ("/forwarding_chain/1", R.WRONG_TYPE)),
            ("withheld", {"code": "m.x"}, ("/withheld", R.WRONG_TYPE)),
            ("shared_history", 1, ("/shared_history", R.WRONG_TYPE)),
        ],
    )
    def test_a_wrong_argument(self, argument: str, value: object, expected: tuple[str, Reason]) -> None:
        def make(value: object) -> object:
            arguments: dict[str, Any] = {
                "room_id": ROOM,
                "session_key": megolm_session().exported,
                "sender_key": CURVE,
                "sender_claimed_ed25519_key": ED,
                argument: value,
            }
            return ForwardedRoomKeyContent.build(**arguments)

        assert refusal(lambda: make(value), LocalProtocolError) == expected
        only_own_errors(make)

    @pytest.mark.parametrize("argument", ["room_id", "session_key", "shared_history"])
    def test_a_wrong_argument_of_a_room_key(self, argument: str) -> None:
        def make(value: object) -> object:
            arguments: dict[str, Any] = {
                "room_id": ROOM,
                "session_key": megolm_session().shared,
                "shared_history": True,
            }
            return RoomKeyContent.build(**{**arguments, argument: value})

        assert only_own_errors(make) >= len(ODD) - 1
        exported = megolm_session().exported
        assert refusal(lambda: make(exported), LocalProtocolError)[0] == f"/{argument}"


class TestSecrecy:
    @pytest.mark.parametrize(("kind", "make"), BOTH, ids=BOTH_NAMES)
    def test_a_key_is_not_shown(self, kind: Any, make: Callable[..., dict[str, Any]]) -> None:
        content = kind.from_json(make())
        content = evolve(content, extra={"org.example.copy": content.key.text})
        assert content.session_id in repr(content)
        assert "org.example" not in repr(content)
        for shown in (repr(content), str(content), repr(content.key)):
            assert content.session_key[8:40] not in shown

    @pytest.mark.parametrize(("kind", "make"), BOTH, ids=BOTH_NAMES)
    def test_nor_in_an_error(self, kind: Any, make: Callable[..., dict[str, Any]]) -> None:
        good: str = make()["session_key"]
        wrong: list[Any] = [
            good[:-1],
            good + "A",
            good + "!",
            with_index(good, 7) + "AAAA",
            good + "\ud800",
            good + "ü",
            [good],
        ]
        wrong += [{good: 1}, megolm_session().exported if kind is RoomKeyContent else megolm_session().shared]
        for value in wrong:
            with pytest.raises(E2EKeysError) as caught:
                kind.from_json(make(session_key=value))
            assert good[8:40] not in repr(caught.value) + str(caught.value)
            assert caught.value.__suppress_context__
