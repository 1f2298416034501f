"""The strategies for session keys and the events about them produce what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest
import vodozemac
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from matrix_e2e_keys.errors import RemoteProtocolError
from matrix_e2e_keys.events.key_bundles import RoomKeyBundle
from matrix_e2e_keys.events.key_requests import RequestAction
from matrix_e2e_keys.events.olm_formats import read_megolm_session_key
from matrix_e2e_keys.events.to_device_types import TO_DEVICE_CONTENTS, read_to_device_content
from matrix_e2e_keys.testing import room_key_strategies as strategies
from matrix_e2e_keys.testing.room_key_strategies import sample_exported_session_key, sample_session_key

FIND = settings(max_examples=500, database=None, phases=[Phase.generate])
FEW = settings(max_examples=15)


def exists(strategy: st.SearchStrategy[Any], condition: Any) -> bool:
    """Whether the strategy produces, within reason, something of which the condition holds."""
    find(strategy, condition, settings=FIND)
    return True


def has_right_id(content: Any) -> bool:
    try:
        content.require_session_id()
    except RemoteProtocolError:
        return False
    return True


@pytest.mark.parametrize("index", [0, 1, 2**32 - 1])
def test_a_ratchet_takes_the_sample_keys(index: int) -> None:
    shared, exported = sample_session_key("one", index), sample_exported_session_key("one", index)
    sessions = [
        vodozemac.InboundGroupSession(vodozemac.SessionKey(shared)),
        vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(exported)),
    ]
    for text, session, is_signed in zip((shared, exported), sessions, (True, False), strict=True):
        key = read_megolm_session_key(text)
        assert (key.session_id, key.first_index) == (session.session_id, session.first_known_index)
        assert (key.first_index, key.is_signed) == (index, is_signed)


def test_samples_are_the_same_at_every_time() -> None:
    assert sample_session_key("one") == sample_session_key("one", 0) != sample_session_key("one", 1)
    ids = {
        read_megolm_session_key(make(name)).session_id
        for name in ("a", "b")
        for make in (sample_session_key, sample_exported_session_key)
    }
    assert len(ids) == 2


@FEW
@given(strategies.to_device_contents())
def test_contents_come_back(content: Any) -> None:
    written = json.loads(json.dumps(content.to_json()))
    assert type(content).from_json(written) == content
    assert read_to_device_content(content.event_type, content.to_json()) == content


@FEW
@given(strategies.room_key_bundles())
def test_bundles_come_back(bundle: RoomKeyBundle) -> None:
    written = json.dumps(bundle.to_json()).encode("utf-8", "surrogatepass")
    assert RoomKeyBundle.from_bytes(written) == bundle
    for room_id in {key.room_id for key in bundle.room_keys}:
        assert {key.room_id for key in bundle.for_room(room_id).room_keys} == {room_id}


def test_contents_are_of_every_kind() -> None:
    for kind in TO_DEVICE_CONTENTS.values():
        assert exists(strategies.to_device_contents(), lambda content, kind=kind: type(content) is kind)


@pytest.mark.parametrize(
    ("strategy", "conditions"),
    [
        (
            strategies.room_key_contents(),
            [has_right_id, lambda it: not has_right_id(it), lambda it: it.shared_history, lambda it: it.extra],
        ),
        (
            strategies.forwarded_room_key_contents(),
            [
                has_right_id,
                lambda it: not has_right_id(it),
                lambda it: it.withheld is not None,
                lambda it: len(it.forwarding_curve25519_key_chain) == 2,
            ],
        ),
        (
            strategies.room_key_withheld_contents(),
            [
                lambda it: it.known_code is None,
                lambda it: it.code == "m.no_olm" and it.room_id is None,
                lambda it: it.code == "m.no_olm" and it.session_id,
                lambda it: it.reason,
            ],
        ),
        (strategies.room_key_withheld_contents(is_for_bundle=True), [lambda it: it.code == "m.no_olm"]),
        (
            strategies.room_key_request_contents(),
            [lambda it: it.action is RequestAction.CANCELLATION, lambda it: it.body and it.body.untrusted_sender_key],
        ),
        (
            strategies.secret_request_contents(),
            [lambda it: it.action is RequestAction.CANCELLATION, lambda it: it.name == "org.example.secret"],
        ),
        (strategies.room_key_bundle_contents(), [lambda it: it.extra, lambda it: it.file.media_id == "a-b_c"]),
        (strategies.room_key_bundles(), [lambda it: it.room_keys and it.withheld, lambda it: len(it.room_keys) > 1]),
    ],
)
def test_there_is_everything(strategy: st.SearchStrategy[Any], conditions: list[Any]) -> None:
    for condition in conditions:
        assert exists(strategy, condition)


@FEW
@given(strategies.room_key_withheld_contents(is_for_bundle=True))
def test_entries_of_a_bundle_are_about_a_session(content: Any) -> None:
    assert content.room_id is not None
    assert content.session_id is not None
