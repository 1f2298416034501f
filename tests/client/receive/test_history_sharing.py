"""The bundle for somebody who is invited: nothing in it that may not be shared."""

from __future__ import annotations

from typing import Any

import pytest

from client.receive.megolm_people import CAROL, OTHER_ROOM, ROOM, Group, offered, session
from client.receive.olm_people import BOB, EVE, PHONE
from events.odd_values import ODD, Hostile, only_own_errors, refusal
from matrix_e2e_keys.client.receive.history_sharing import build_room_key_bundle
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession, SessionSource
from matrix_e2e_keys.client.receive.received_sessions import sessions_from_bundle
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.events.key_bundles import RoomKeyBundle
from matrix_e2e_keys.events.withheld import WithheldCode

R, S = Reason, SessionSource
ONE, TWO, THREE = Group(), Group(), Group()


def built(*sessions: Any, room_id: Any = ROOM, sender_key: Any = BOB.curve25519_key) -> RoomKeyBundle:
    return build_room_key_bundle(sessions, room_id=room_id, sender_key=sender_key)


def pair(group: Group, source: SessionSource = S.ROOM_KEY, **more: Any) -> tuple[InboundSession, str]:
    return session(source, group, **more), group.exported()


class TestWhatIsInIt:
    def test_is_shared_if_it_may_be_and_otherwise_named_as_withheld(self) -> None:
        bundle = built(pair(ONE, shared=True), pair(TWO), pair(THREE, S.HISTORY_BUNDLE, maker=EVE))
        assert [key.session_id for key in bundle.room_keys] == [ONE.session_id, THREE.session_id]
        assert [(key.sender_key, key.sender_claimed_ed25519_key) for key in bundle.room_keys] == [
            (PHONE.curve25519_key, PHONE.ed25519_key),
            (EVE.curve25519_key, EVE.ed25519_key),
        ]
        (notice,) = bundle.withheld
        assert (notice.session_id, notice.room_id) == (TWO.session_id, ROOM)
        assert (notice.known_code, notice.sender_key) == (WithheldCode.HISTORY_NOT_SHARED, BOB.curve25519_key)
        assert TWO.exported()[10:40].encode() not in bundle.encode()

    @pytest.mark.parametrize("source", [S.EXPORT, S.BACKUP, S.ROOM_KEY])
    @pytest.mark.parametrize("shared", [True, False])
    def test_as_each_source_says(self, source: SessionSource, shared: bool) -> None:
        bundle = built(pair(ONE, source, shared=shared))
        assert (len(bundle.room_keys), len(bundle.withheld)) == (int(shared), int(not shared))

    def test_is_never_what_oneself_was_forwarded(self) -> None:
        assert built(pair(ONE, S.FORWARDED)).room_keys == ()

    def test_is_what_the_other_side_takes(self) -> None:
        bundle = RoomKeyBundle.from_bytes(built(pair(ONE, shared=True), pair(TWO)).encode())
        judged = sessions_from_bundle(bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held={})
        assert list(judged.accepted) == [ONE.session_id]

    def test_may_be_nothing(self) -> None:
        assert built() == RoomKeyBundle()


class TestRefused:
    @pytest.mark.parametrize("shared", [True, False])
    def test_a_session_of_another_room(self, shared: bool) -> None:
        found = refusal(lambda: built(pair(ONE), pair(TWO, room_id=OTHER_ROOM, shared=shared)), LocalProtocolError)
        assert found == ("/sessions/1", R.ROOM_MISMATCH)

    @pytest.mark.parametrize("shared", [True, False])
    def test_a_session_twice(self, shared: bool) -> None:
        found = refusal(lambda: built(pair(ONE, shared=True), pair(ONE, shared=shared)), LocalProtocolError)
        assert found == ("/sessions/1", R.INVALID_VALUE)

    def test_the_key_of_another_session(self) -> None:
        """Above all, of one that may not be shared."""
        found = refusal(lambda: built((session(S.ROOM_KEY, ONE, shared=True), TWO.exported())), LocalProtocolError)
        assert found == ("/sessions/0/1", R.SESSION_MISMATCH)

    @pytest.mark.parametrize("key", [ONE.first_key, "AAAA", "", ONE.exported()[:-3] + "!!!"])
    def test_a_key_that_is_none(self, key: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            built((session(S.ROOM_KEY, ONE, shared=True), key))
        assert caught.value.path.startswith("/sessions/0")
        assert ONE.exported()[10:40] not in str(caught.value)
        assert ONE.first_key[10:40] not in str(caught.value)

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            (session(S.ROOM_KEY, ONE), "/sessions/0"),
            ([session(S.ROOM_KEY, ONE), ONE.exported()], "/sessions/0"),
            ((session(S.ROOM_KEY, ONE),), "/sessions/0"),
            ((ONE.exported(), ONE.exported()), "/sessions/0/0"),
            ((offered(S.ROOM_KEY, ONE), ONE.exported()), "/sessions/0/0"),
            ((session(S.ROOM_KEY, ONE), None), "/sessions/0/1"),
            ((session(S.ROOM_KEY, ONE), b"key"), "/sessions/0/1"),
        ],
    )
    def test_what_is_no_session_with_its_key(self, value: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            built(value)
        assert (caught.value.path, caught.value.reason) == (path, R.WRONG_TYPE)
        assert ONE.exported()[10:40] not in str(caught.value)

    def test_odd_values(self) -> None:
        assert only_own_errors(lambda value: built(room_id=value)) == len(ODD)
        assert only_own_errors(lambda value: built(sender_key=value)) >= len(ODD) - 1
        assert only_own_errors(built) == len(ODD)
        empty = only_own_errors(lambda value: build_room_key_bundle(value, room_id=ROOM, sender_key=BOB.curve25519_key))
        assert empty > 20
        hostile: Any = Hostile()
        assert (
            refusal(
                lambda: build_room_key_bundle(hostile, room_id=ROOM, sender_key=BOB.curve25519_key), LocalProtocolError
            )[0]
            == "/sessions"
        )
