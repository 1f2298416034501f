"""The messages to this device, sorted: each in one place, with its number in the answer, and none costs another."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from client.receive.olm_people import BOB, EVE, PHONE, letter, signed_anew
from events.odd_values import Hostile, only_own_errors
from json_strategies import safe_values
from matrix_e2e_keys.algorithms import MEGOLM_V1, OLM_V1
from matrix_e2e_keys.client.receive.to_device import (
    EncryptedToDevice,
    PlainToDevice,
    SortedToDevice,
    read_inside,
    sort_to_device,
)
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.encrypted import OlmEncryptedContent
from matrix_e2e_keys.events.received import ToDeviceEvent, ToDeviceEvents
from matrix_e2e_keys.events.secrets import DummyContent, SecretRequestContent, SecretSendContent
from matrix_e2e_keys.events.to_device_types import ENCRYPTED_ONLY, PLAINTEXT_ALLOWED
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.outcome import Rejection

R = Reason
REQUEST = {"action": "request", "requesting_device_id": "PHONE", "request_id": "1", "name": "m.cross_signing.master"}


def event(event_type: str, content: Any) -> dict[str, Any]:
    return {"type": event_type, "sender": PHONE.user_id, "content": content}


ENCRYPTED = letter().event
FOR_EVE = letter(PHONE, EVE).event
PLAIN = event("m.secret.request", REQUEST)
OTHER = {**event("m.key.verification.request", {"a": 1.5}), "more": [1]}
SECRET = event("m.secret.send", {"request_id": "1", "secret": "SECRET"})
MEGOLM = event("m.room.encrypted", {"algorithm": MEGOLM_V1, "session_id": "x", "ciphertext": "AAAA"})


def read(*events: Any) -> ToDeviceEvents:
    return ToDeviceEvents.from_json({"events": list(events)})


def refused(*events: Any) -> list[tuple[str, Reason]]:
    """Where and why events are refused; no other may be."""
    result = sort_to_device(read(*events), own=BOB.device)
    assert len(result.rejected) == len(events)
    return [(it.path, it.reason) for it in result.rejected]


class TestEachInItsPlace:
    def test_of_an_answer(self) -> None:
        result = sort_to_device(read(ENCRYPTED, PLAIN, OTHER, SECRET, PLAIN), own=BOB.device)
        (encrypted,) = result.encrypted
        assert encrypted.event == ToDeviceEvent.from_json(ENCRYPTED)
        assert encrypted.content == OlmEncryptedContent.from_json(ENCRYPTED["content"])
        expected = PlainToDevice(event=ToDeviceEvent.from_json(PLAIN), content=SecretRequestContent.from_json(REQUEST))
        assert result.plain == (expected, expected)
        assert [it.to_json() for it in result.other] == [OTHER]
        (rejection,) = result.rejected
        assert (rejection.path, rejection.reason, rejection.raw) == ("/events/3/type", R.NOT_ENCRYPTED, SECRET)

    def test_of_several_events(self) -> None:
        events = [ToDeviceEvent.from_json(it) for it in (SECRET, ENCRYPTED, OTHER, MEGOLM)]
        for several in (events, tuple(events), iter(events)):
            result = sort_to_device(several, own=BOB.device)
            assert [it.event for it in result.encrypted] == [events[1]]
            assert result.other == (events[2],)
            assert [it.path for it in result.rejected] == ["/events/0/type", "/events/3/content/ciphertext"]

    def test_none(self) -> None:
        for nothing in (read(), []):
            assert sort_to_device(nothing, own=BOB.device) == SortedToDevice(
                encrypted=(), plain=(), other=(), rejected=()
            )

    @pytest.mark.parametrize("event_type", sorted(ENCRYPTED_ONLY))
    def test_what_carries_a_key_is_not_taken_in_the_open(self, event_type: str) -> None:
        """Attacks 56 and 61: well formed or not, the servers on the way may have written it."""
        assert refused(event(event_type, {}), event(event_type, SECRET["content"])) == [
            ("/events/0/type", R.NOT_ENCRYPTED),
            ("/events/1/type", R.NOT_ENCRYPTED),
        ]

    @pytest.mark.parametrize("event_type", sorted(PLAINTEXT_ALLOWED - {"m.dummy"}))
    def test_what_is_malformed_in_the_open(self, event_type: str) -> None:
        ((path, _),) = refused(event(event_type, {"action": 5, "algorithm": 5, "code": 5}))
        assert path.startswith("/events/0/content")

    def test_what_is_encrypted_and_not_to_be_decrypted(self) -> None:
        """Attacks 56 and 60."""
        ours = copy.deepcopy(ENCRYPTED)
        ours["content"]["sender_key"] = EVE.curve25519_key.to_base64()
        unknown = event("m.room.encrypted", {"algorithm": "m.other"})
        broken = event(
            "m.room.encrypted", {**ENCRYPTED["content"], "ciphertext": {BOB_KEY: {"type": 5, "body": "AAAA"}}}
        )
        megolm = event("m.room.encrypted", {**ENCRYPTED["content"], "algorithm": MEGOLM_V1})
        assert refused(FOR_EVE, ours, unknown, broken, megolm, event("m.room.encrypted", {})) == [
            ("/events/0/content/ciphertext", R.NOT_FOR_THIS_DEVICE),
            ("/events/1/content/sender_key", R.SENDER_KEY_MISMATCH),
            ("/events/2/content/algorithm", R.UNSUPPORTED_ALGORITHM),
            (f"/events/3/content/ciphertext/{BOB_KEY.replace('/', '~1')}/type", R.INVALID_VALUE),
            ("/events/4/content", R.MISSING_MEMBER),
            ("/events/5/content", R.MISSING_MEMBER),
        ]

    def test_what_is_no_event_has_its_place_among_the_rejected(self) -> None:
        for above in ((), ("to_device",), ("extensions", "to_device")):
            body: Any = {"events": [5, SECRET, {**PLAIN, "sender": 5}, ENCRYPTED, None, SECRET, 6, []]}
            for name in reversed(above):
                body = {name: body}
            reader = {0: ToDeviceEvents.from_json, 1: ToDeviceEvents.from_sync_v2, 2: ToDeviceEvents.from_sliding_sync}
            events = reader[len(above)](body)
            result = sort_to_device(events, own=BOB.device)
            assert [(it.path, it.reason) for it in result.rejected] == [
                ("/events/0", R.WRONG_TYPE),
                ("/events/1/type", R.NOT_ENCRYPTED),
                ("/events/2/sender", R.WRONG_TYPE),
                ("/events/4", R.WRONG_TYPE),
                ("/events/5/type", R.NOT_ENCRYPTED),
                ("/events/6", R.WRONG_TYPE),
                ("/events/7", R.WRONG_TYPE),
            ]
            assert [it.raw for it in result.rejected][::3] == [5, None, []]
            assert len(result.encrypted) == 1
            assert (result.plain, result.other) == ((), ())

    @given(st.lists(st.sampled_from([ENCRYPTED, PLAIN, OTHER, SECRET, MEGOLM, None, {}]) | safe_values, max_size=6))
    def test_none_is_lost_and_none_is_there_twice(self, listed: list[Any]) -> None:
        events = read(*listed)
        result = sort_to_device(events, own=BOB.device)
        rejected = [int(it.path.split("/")[2]) for it in result.rejected]
        assert rejected == sorted(set(rejected))
        kept = [*[it.event for it in result.encrypted], *[it.event for it in result.plain], *result.other]
        assert len(kept) + len(rejected) == len(listed)
        taken = [it for place, it in enumerate(listed) if place not in rejected]
        assert sorted(map(repr, (it.to_json() for it in kept))) == sorted(
            map(repr, (ToDeviceEvent.from_json(it).to_json() for it in taken))
        )


BOB_KEY = BOB.curve25519_key.to_base64()


class TestWhatIsInside:
    def test_is_read_as_what_it_is(self) -> None:
        judged = letter(event_type="m.secret.send", content=SECRET["content"]).judged().require()
        assert read_inside(judged) == SecretSendContent.build(request_id="1", secret="SECRET")
        assert read_inside(letter(event_type="m.dummy").judged().require()) == DummyContent.build()

    def test_that_is_not_known(self) -> None:
        judged = letter(event_type="m.key.verification.start", content={"method": 5}).judged().require()
        assert read_inside(judged) is None
        assert judged.content == {"method": 5}

    def test_that_is_malformed(self) -> None:
        judged = (
            letter(event_type="m.secret.send", content={"request_id": "1", "secret": ["SECRET"]}).judged().require()
        )
        with pytest.raises(RemoteProtocolError) as caught:
            read_inside(judged)
        assert (caught.value.reason, caught.value.path) == (R.WRONG_TYPE, "/secret")
        assert "SECRET" not in str(caught.value)


class TestResults:
    def test_have_no_truth_value(self) -> None:
        with pytest.raises(LocalProtocolError):
            bool(sort_to_device(read(PLAIN), own=BOB.device))

    def test_show_no_secret(self) -> None:
        result = sort_to_device(read(SECRET, event("m.room_key", {"session_key": "SECRET"})), own=BOB.device)
        assert len(result.rejected) == 2
        assert "SECRET" not in repr(result)
        assert "SECRET" not in "".join(str(it.to_error()) for it in result.rejected)

    def test_nothing_is_changed(self) -> None:
        events = read(ENCRYPTED, 5, PLAIN, SECRET)
        sort_to_device(events, own=BOB.device)
        assert events == read(ENCRYPTED, 5, PLAIN, SECRET)

    def test_are_values(self) -> None:
        content = OlmEncryptedContent.from_json(ENCRYPTED["content"])
        assert content.algorithm == OLM_V1
        made = EncryptedToDevice(event=ToDeviceEvent.from_json(ENCRYPTED), content=content)
        assert sort_to_device(read(ENCRYPTED), own=BOB.device).encrypted == (made,)


class TestArguments:
    def test_of_other_types(self) -> None:
        assert only_own_errors(lambda value: sort_to_device(value, own=BOB.device)) > 20
        assert only_own_errors(lambda value: sort_to_device([value], own=BOB.device)) > 30
        assert only_own_errors(lambda value: sort_to_device([], own=value)) > 30
        assert only_own_errors(read_inside) > 30

    @pytest.mark.parametrize(
        ("events", "path"),
        [
            (None, "/events"),
            ("ab", "/events"),
            ({}, "/events"),
            (Hostile(), "/events"),
            ([5], "/events/0"),
            ([ToDeviceEvent.from_json(PLAIN), PLAIN], "/events/1"),
            (ToDeviceEvents(accepted=(PLAIN,)), "/events/0"),  # type: ignore[arg-type]
            (ToDeviceEvents(accepted=None), "/events"),  # type: ignore[arg-type]
            (ToDeviceEvents(rejected=(PLAIN,)), "/events/0"),  # type: ignore[arg-type]
            (itertools.chain([ToDeviceEvent.from_json(PLAIN)], map(len, [5])), "/events"),  # type: ignore[arg-type]
        ],
        ids=itertools.count(),
    )
    def test_say_where(self, events: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            sort_to_device(events, own=BOB.device)
        assert caught.value.path == path

    @pytest.mark.parametrize(
        "path", ["", "/events", "/events/", "/events/x", "/events/01", "/events/-1", "/events/1x", "/other/1", None, 5]
    )
    def test_what_was_rejected_is_an_event(self, path: Any) -> None:
        (good,) = read(5).rejected
        assert sort_to_device(ToDeviceEvents(rejected=(good,)), own=BOB.device).rejected == (good,)
        wrong = Rejection(path=path, reason=R.WRONG_TYPE, detail="")
        with pytest.raises(LocalProtocolError) as caught:
            sort_to_device(ToDeviceEvents(rejected=(wrong,)), own=BOB.device)
        assert (caught.value.reason, caught.value.path) == (R.INVALID_VALUE, "/events/rejected")

    def test_two_rejections_of_one_event(self) -> None:
        (first,) = read(5).rejected
        second = evolve(first, path="/events/0/sender")
        events = ToDeviceEvents(accepted=(ToDeviceEvent.from_json(SECRET),), rejected=(first, second))
        result = sort_to_device(events, own=BOB.device)
        assert [it.path for it in result.rejected] == ["/events/0", "/events/0/sender", "/events/1/type"]

    def test_rejections_in_another_order(self) -> None:
        (first,) = read(5).rejected
        listed = tuple([evolve(first, path=f"/events/{number}") for number in (7, 2, 0, 11)])
        events = ToDeviceEvents(accepted=(ToDeviceEvent.from_json(SECRET),), rejected=listed)
        result = sort_to_device(events, own=BOB.device)
        assert [it.path.split("/")[2] for it in result.rejected] == ["0", "1", "2", "7", "11"]

    @pytest.mark.parametrize("own", [BOB.signed_keys, None, BOB.user])
    def test_this_device(self, own: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            sort_to_device([], own=own)
        assert (caught.value.reason, caught.value.path) == (R.WRONG_TYPE, "/own")

    def test_a_device_without_an_olm_identity_key(self) -> None:
        obj = {**BOB.keys().to_json(), "keys": {"ed25519:DESK": BOB.ed25519_key.to_base64()}}
        own = DeviceKeys.from_json(signed_anew(obj, BOB.signer)).verify()
        with pytest.raises(LocalProtocolError) as caught:
            sort_to_device([], own=own)
        assert (caught.value.reason, caught.value.path) == (R.MISSING_KEY, "/own")
