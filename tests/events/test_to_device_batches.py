"""Messages to many devices, in batches."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import vodozemac
from hypothesis import given
from hypothesis import strategies as st

from events.odd_values import HalfHostile, Hostile, Names, Number, Text, only_own_errors, refusal
from events.vodozemac_world import curve25519_of, olm_talk
from json_strategies import modest
from matrix_e2e_keys.algorithms import OLM_V1
from matrix_e2e_keys.endpoints.client_server.send_to_device import SendToDeviceRequest
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.events.contents import EventContent
from matrix_e2e_keys.events.encrypted import ENCRYPTED, MegolmEncryptedContent, OlmEncryptedContent
from matrix_e2e_keys.events.room_keys import RoomKeyContent
from matrix_e2e_keys.events.to_device_batches import MAX_MESSAGES, to_device_requests
from matrix_e2e_keys.events.to_device_types import ENCRYPTED_ONLY
from matrix_e2e_keys.outcome import Rejection

R = Reason
TALK = olm_talk()
CONTENT = OlmEncryptedContent.build(
    sender_key=curve25519_of(TALK.alice), messages={curve25519_of(TALK.bob): TALK.pre_key}
)

GROUP = vodozemac.GroupSession()
MEGOLM = MegolmEncryptedContent.build(
    session_id=GROUP.session_id, ciphertext=GROUP.encrypt(b"x").to_base64(), relates_to=None
)
ROOM_KEY = RoomKeyContent.build(room_id="!r:a.b", session_key=GROUP.session_key.to_base64(), shared_history=False)


def requests(messages: Any, **arguments: Any) -> tuple[SendToDeviceRequest, ...]:
    good: dict[str, Any] = {"event_type": "m.dummy", "txn_id": "t"}
    return to_device_requests(messages=messages, **{**good, **arguments})


def all_of(made: tuple[SendToDeviceRequest, ...]) -> list[tuple[str, str, Any]]:
    """Every message, in the order of the requests."""
    return [
        (user, device, content)
        for request in made
        for user, devices in request.messages.items()
        for device, content in devices.items()  # type: ignore[union-attr]
    ]


class TestBatches:
    def test_a_whole_encrypted_event(self) -> None:
        (request,) = to_device_requests(
            event_type=ENCRYPTED, messages={"@bob:b.example": {"LAPTOP": CONTENT}}, txn_id="t1"
        )
        assert request == SendToDeviceRequest(
            event_type=ENCRYPTED, txn_id="t1.0", messages={"@bob:b.example": {"LAPTOP": CONTENT.to_json()}}
        )
        arrived = SendToDeviceRequest.from_http(request.to_http())
        assert arrived == request
        content = arrived.messages["@bob:b.example"]["LAPTOP"]  # type: ignore[index]
        assert OlmEncryptedContent.from_json(content) == CONTENT

    @pytest.mark.parametrize("messages", [{}, {"@a:b": {}}, {"@a:b": {}, "@c:d": Names({})}, Names({})])
    def test_nothing_to_send(self, messages: Any) -> None:
        assert requests(messages) == ()

    @pytest.mark.parametrize(
        ("count", "limit", "sizes"),
        [
            (1, 1, [1]),
            (3, 1, [1, 1, 1]),
            (6, 3, [3, 3]),
            (7, 3, [3, 3, 1]),
            (7, 100, [7]),
            (7, 10**400, None),
            (250, MAX_MESSAGES, [250]),
            (251, MAX_MESSAGES, [250, 1]),
        ],
    )
    def test_sizes(self, count: int, limit: int, sizes: list[int] | None) -> None:
        messages = {f"@u{number % 4}:b": {} for number in range(count)}
        for number in range(count):
            messages[f"@u{number % 4}:b"][f"D{number}"] = {"n": number}
        if sizes is None:
            assert refusal(lambda: requests(messages, max_messages=limit), LocalProtocolError)[0] == "/max_messages"
            return
        made = requests(messages, max_messages=limit)
        assert [len(all_of((request,))) for request in made] == sizes
        assert [request.txn_id for request in made] == [f"t.{number}" for number in range(len(sizes))]

    def test_the_limit_is_250_unless_told(self) -> None:
        made = requests({"@a:b": {f"D{number}": {} for number in range(501)}})
        assert [len(all_of((request,))) for request in made] == [250, 250, 1]

    def test_the_order_is_that_of_the_names(self) -> None:
        messages = {"@b:x": {"2": {}, "*": {}, "1": {}}, "@a:x": {"ü": {}, "Z": {}, "a": {}}}
        backwards = {user: dict(reversed(devices.items())) for user, devices in reversed(messages.items())}
        made = requests(messages, max_messages=2)
        assert made == requests(backwards, max_messages=2)
        assert [(user, device) for user, device, _ in all_of(made)] == [
            ("@a:x", "Z"),
            ("@a:x", "a"),
            ("@a:x", "ü"),
            ("@b:x", "*"),
            ("@b:x", "1"),
            ("@b:x", "2"),
        ]
        assert [list(request.messages) for request in made] == [["@a:x"], ["@a:x", "@b:x"], ["@b:x"]]

    def test_ids_are_unambiguous(self) -> None:
        messages = {"@a:b": {str(number): {} for number in range(12)}}
        ids = [
            request.txn_id
            for txn_id in ("t", "t.1", "t.", "t.1.1", ".0", "t1")
            for request in requests(messages, txn_id=txn_id, max_messages=1)
        ]
        assert len(set(ids)) == len(ids) == 72

    def test_the_same_content_to_many(self) -> None:
        made = to_device_requests(
            event_type=ENCRYPTED,
            messages={f"@u{number}:b": dict.fromkeys("ABC", CONTENT) for number in range(100)},
            txn_id="t",
        )
        assert [len(all_of((request,))) for request in made] == [250, 50]
        assert all(content == CONTENT.to_json() for _, _, content in all_of(made))

    def test_contents_that_are_made_on_the_fly(self) -> None:
        class OnTheFly(Names):
            def __getitem__(self, name: Any) -> Any:
                return {"for": name}

        users = [f"@{name}:b" for name in "abcdefgh"]
        made = requests({user: OnTheFly({f"of {user}": None}) for user in users})
        assert all_of(made) == [(user, f"of {user}", {"for": f"of {user}"}) for user in users]

    def test_nothing_is_shared(self) -> None:
        content: dict[str, Any] = {"x": []}
        messages = {"@a:b": {"D": content}}
        made = requests(messages)
        content["x"].append(1)
        messages.clear()
        assert all_of(made) == [("@a:b", "D", {"x": []})]

    @modest
    @given(
        st.dictionaries(
            st.sampled_from(["@a:b", "@c:d", "@e:f"]),
            st.dictionaries(st.text("AB*", min_size=1, max_size=3), st.builds(dict, n=st.integers(0, 9)), max_size=6),
        ),
        st.integers(1, 7),
        st.text(st.sampled_from(".0t"), min_size=3, max_size=5),
    )
    def test_nothing_is_lost_or_doubled(
        self, messages: dict[str, dict[str, Any]], max_messages: int, txn_id: str
    ) -> None:
        made = requests(messages, max_messages=max_messages, txn_id=txn_id)
        found: dict[str, dict[str, Any]] = {}
        for user, device, content in all_of(made):
            assert device not in found.setdefault(user, {})
            found[user][device] = content
        assert found == {user: devices for user, devices in messages.items() if devices}
        assert all(1 <= len(all_of((request,))) <= max_messages for request in made)
        assert len({request.txn_id for request in made}) == len(made)
        assert sum(len(all_of((request,))) < max_messages for request in made) <= 1


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"event_type": ""}, "/event_type", R.INVALID_IDENTIFIER),
            ({"event_type": None}, "/event_type", R.WRONG_TYPE),
            ({"event_type": Text("m.dummy")}, "/event_type", R.WRONG_TYPE),
            ({"txn_id": ""}, "/txn_id", R.INVALID_IDENTIFIER),
            ({"txn_id": ".."}, "/txn_id", R.INVALID_IDENTIFIER),
            ({"txn_id": 5}, "/txn_id", R.WRONG_TYPE),
            ({"txn_id": "\ud800"}, "/txn_id", R.LONE_SURROGATE),
            ({"max_messages": 0}, "/max_messages", R.INVALID_VALUE),
            ({"max_messages": -1}, "/max_messages", R.INVALID_VALUE),
            ({"max_messages": True}, "/max_messages", R.WRONG_TYPE),
            ({"max_messages": 1.0}, "/max_messages", R.WRONG_TYPE),
            ({"max_messages": Number(5)}, "/max_messages", R.WRONG_TYPE),
            ({"max_messages": None}, "/max_messages", R.WRONG_TYPE),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        for messages in ({}, {"@a:b": {"D": {}}}):
            make = lambda messages=messages: requests(messages, **arguments)  # noqa: E731
            assert refusal(make, LocalProtocolError) == (path, reason)

    @pytest.mark.parametrize(
        ("messages", "path", "reason"),
        [
            (None, "/messages", R.WRONG_TYPE),
            ([], "/messages", R.WRONG_TYPE),
            ({"alice": {}}, "/messages/alice", R.INVALID_IDENTIFIER),
            ({5: {}}, "/messages", R.WRONG_TYPE),
            ({"@a:b": None}, "/messages/@a:b", R.WRONG_TYPE),
            ({"@a:b": {"": {}}}, "/messages/@a:b/", R.INVALID_IDENTIFIER),
            ({"@a:b": {5: {}}}, "/messages/@a:b", R.WRONG_TYPE),
            ({"@a:b": {"x" * 513: {}}}, "/messages/@a:b/" + "x" * 513, R.INVALID_IDENTIFIER),
            ({"@a:b": {"a/b": None}}, "/messages/@a:b/a~1b", R.WRONG_TYPE),
            ({"@a:b": {"D": []}}, "/messages/@a:b/D", R.WRONG_TYPE),
            ({"@a:b": {"D": {"x": [1.5]}}}, "/messages/@a:b/D/x/0", R.NOT_AN_INTEGER),
            ({"@a:b": {"D": {"x": "\ud800"}}}, "/messages/@a:b/D/x", R.LONE_SURROGATE),
            ({"@a:b": {"D": {"x": b""}}}, "/messages/@a:b/D/x", R.NOT_A_JSON_VALUE),
            ({"@a:b": {"D": CONTENT}}, "/messages/@a:b/D", R.INVALID_VALUE),
            (
                {"@a:b": {"D": Rejection(path="", reason=R.WRONG_TYPE, detail="", raw={})}},
                "/messages/@a:b/D",
                R.WRONG_TYPE,
            ),
            ({"@a:b": Rejection(path="", reason=R.WRONG_TYPE, detail="", raw={})}, "/messages/@a:b", R.WRONG_TYPE),
            (Hostile(), "/messages", R.INVALID_VALUE),
            ({"@a:b": Hostile()}, "/messages", R.INVALID_VALUE),
            ({"@a:b": {"D": HalfHostile()}}, "/messages", R.INVALID_VALUE),
        ],
    )
    def test_messages(self, messages: Any, path: str, reason: Reason) -> None:
        assert refusal(lambda: requests(messages), LocalProtocolError) == (path, reason)

    def test_a_content_is_sent_as_what_it_is(self) -> None:
        with pytest.raises(LocalProtocolError, match=r"the content of 'm\.room\.encrypted', not of 'm\.dummy'"):
            requests({"@a:b": {"D": CONTENT}})

    @pytest.mark.parametrize("event_type", sorted(ENCRYPTED_ONLY))
    def test_a_secret_is_not_sent_in_the_open(self, event_type: str) -> None:
        make = lambda: requests({"@a:b": {"D": {"session_key": "x"}}}, event_type=event_type)  # noqa: E731
        assert refusal(make, LocalProtocolError) == ("/event_type", R.NOT_ENCRYPTED)

    @pytest.mark.parametrize(
        ("content", "path", "reason"),
        [
            (ROOM_KEY.to_json(), "/algorithm", R.WRONG_ALGORITHM),
            (MEGOLM, "/algorithm", R.WRONG_ALGORITHM),
            (Names(MEGOLM.to_json()), "/algorithm", R.WRONG_ALGORITHM),
            ({}, "", R.MISSING_MEMBER),
            ({"algorithm": 5}, "/algorithm", R.WRONG_TYPE),
            ({"algorithm": "m.new", "x": b""}, "/x", R.NOT_A_JSON_VALUE),
            ({"algorithm": OLM_V1}, "", R.MISSING_MEMBER),
            ({**CONTENT.to_json(), "sender_key": "x"}, "/sender_key", R.INVALID_BASE64),
            (ROOM_KEY, "", R.INVALID_VALUE),
        ],
        ids=itertools.count(),
    )
    def test_what_is_not_encrypted_for_devices_is_not_sent_as_if_it_were(
        self, content: Any, path: str, reason: Reason
    ) -> None:
        make = lambda: requests({"@a:b": {"C": CONTENT, "a/b": content}}, event_type=ENCRYPTED)  # noqa: E731
        assert refusal(make, LocalProtocolError) == ("/messages/@a:b/a~1b" + path, reason)

    @pytest.mark.parametrize(
        "content", [CONTENT, CONTENT.to_json(), {"algorithm": "m.new", "ciphertext": 5}], ids=itertools.count()
    )
    def test_what_is_encrypted_is_sent(self, content: Any) -> None:
        made = requests({"@a:b": {"D": content}}, event_type=ENCRYPTED)
        assert all_of(made) == [("@a:b", "D", content if type(content) is dict else content.to_json())]

    def test_what_a_content_of_the_caller_raises(self) -> None:
        class Own(EventContent):
            event_type = "m.dummy"
            members: Mapping[str, Any] = {}

            def to_json(self) -> Any:
                raise ZeroDivisionError

        assert refusal(lambda: requests({"@a:b": {"D": Own()}}), LocalProtocolError) == ("/messages", R.INVALID_VALUE)

    def test_any_argument(self) -> None:
        good: dict[str, Any] = {"event_type": "m.dummy", "messages": {"@a:b": {"D": {}}}, "txn_id": "t"}
        for name in (*good, "max_messages"):
            assert only_own_errors(lambda value, name=name: to_device_requests(**{**good, name: value})) > 20
        assert only_own_errors(lambda value: requests({"@a:b": value})) > 20
        assert only_own_errors(lambda value: requests({"@a:b": {"D": value}})) > 20
