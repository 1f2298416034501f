"""Keys of sessions in whatever way they come: from their maker, forwarded, in a bundle, from a file or a backup."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from client.receive.megolm_people import (
    CAROL,
    OTHER_ROOM,
    ROOM,
    STRANGER,
    TABLET,
    Group,
    accepted,
    forward,
    historic,
    offered,
    room_key,
    room_key_content,
    session,
    yes,
)
from client.receive.olm_people import ALICE_USER, BOBS_TABLET, PHONE, known, signed_anew
from events.megolm_samples import exported_id_of, shared_id_of
from events.odd_values import ODD, Hostile, Names, only_own_errors, refusal
from matrix_e2e_keys.client.receive.inbound_sessions import SessionSource
from matrix_e2e_keys.client.receive.received_sessions import (
    judge_room_key,
    session_from_forward,
    session_from_import,
    session_of_own,
    sessions_from_bundle,
)
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyAction
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.events.key_bundles import RoomKeyBundle
from matrix_e2e_keys.events.room_keys import RoomKeyContent
from matrix_e2e_keys.events.withheld import WithheldNotice
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.verifiers import LIBSODIUM

A, R, S = RoomKeyAction, Reason, SessionSource
GROUP, OTHER = Group(), Group()


def a_wrong_id(_: str) -> str:
    return OTHER.session_id


class TestRoomKeys:
    def test_from_a_device_that_one_has_verified(self) -> None:
        decision = judge_room_key(room_key(room_key_content(GROUP)), held=None, session_id_of=shared_id_of)
        assert decision.action is A.STORE
        assert decision.key is not None
        assert decision.key.text == GROUP.first_key
        made = decision.require()
        assert made.sender is not None
        assert made.sender.device is not None
        assert made.sender.device.device_id == PHONE.device_id
        assert (made.trust, made.shared_history, made.withheld) == (SenderTrust.VERIFIED, False, None)

    def test_from_a_device_that_nobody_has_seen(self) -> None:
        """It is taken; who it is, shows later."""
        made = judge_room_key(room_key(room_key_content(GROUP), users={}), held=None).require()
        assert made.trust is SenderTrust.DEVICE_KNOWN

    def test_from_a_device_that_was_blacklisted(self) -> None:
        """It is taken, and says so."""
        users = known(ALICE_USER, PHONE.signed_keys)
        user = users[ALICE_USER.user_id].with_trust(PHONE.ed25519_key, LocalTrust.BLACKLISTED)
        made = judge_room_key(room_key(room_key_content(GROUP), users={user.user_id: user}), held=None).require()
        assert made.sender is not None
        assert made.sender.local_trust is LocalTrust.BLACKLISTED

    def test_whether_the_history_may_be_shared(self) -> None:
        for shared in (True, False):
            made = judge_room_key(room_key(room_key_content(GROUP, shared=shared)), held=None).require()
            assert made.shared_history is shared

    @pytest.mark.parametrize(
        ("changed", "reason", "path"),
        [
            ({"session_id": OTHER.session_id}, R.SESSION_MISMATCH, "/session_id"),
            ({"session_key": OTHER.first_key}, R.SESSION_MISMATCH, "/session_id"),
            ({"session_key": GROUP.exported()}, R.INVALID_VALUE, "/session_key"),
            ({"session_key": "AAAA"}, R.WRONG_LENGTH, "/session_key"),
            ({"room_id": "room"}, R.INVALID_IDENTIFIER, "/room_id"),
            ({"algorithm": "m.new"}, R.UNSUPPORTED_ALGORITHM, "/algorithm"),
        ],
    )
    def test_what_is_wrong_with_the_content(self, changed: dict[str, Any], reason: Reason, path: str) -> None:
        held = session(S.ROOM_KEY, GROUP)
        decision = judge_room_key(room_key({**room_key_content(GROUP), **changed}), held=held)
        assert (decision.action, decision.reason, decision.path) == (A.REFUSE, reason, path)
        assert (decision.session, decision.key) == (held, None)
        assert GROUP.first_key[20:60] not in repr(decision) + decision.detail

    def test_another_type_of_event(self) -> None:
        """Attack 56: a forwarded key, or anything else, does not become a key from its maker."""
        for event_type in ("m.forwarded_room_key", "m.dummy"):
            decision = judge_room_key(room_key(room_key_content(GROUP), event_type=event_type), held=None)
            assert (decision.action, decision.reason) == (A.REFUSE, R.INVALID_VALUE)
            with pytest.raises(VerificationError):
                decision.require()

    def test_the_ratchet_is_asked_to_which_session_a_key_belongs(self) -> None:
        decision = judge_room_key(room_key(room_key_content(GROUP)), held=None, session_id_of=a_wrong_id)
        assert (decision.action, decision.reason) == (A.REFUSE, R.SESSION_MISMATCH)

    def test_a_member_who_sends_on_what_is_anothers(self) -> None:
        """Whoever has the key of a session can send it: to another room, or as if he had made it."""
        held = session(S.ROOM_KEY, GROUP)
        assert offered(S.ROOM_KEY, GROUP, GROUP.group.message_index, held=held).action is A.KEEP
        moved = judge_room_key(room_key(room_key_content(GROUP, GROUP.first_key, room_id=OTHER_ROOM)), held=held)
        assert (moved.action, moved.reason) == (A.REFUSE, R.ROOM_MISMATCH)


class TestOnesOwn:
    def test_is_read_like_others(self) -> None:
        content = RoomKeyContent.from_json(room_key_content(GROUP, GROUP.first_key, shared=True))
        decision = session_of_own(content, own=PHONE.device)
        assert (decision.action, decision.require().source) == (A.STORE, S.ROOM_KEY)
        made = decision.require()
        assert made.sender is not None
        assert (made.trust, made.sender.local_trust) == (SenderTrust.VERIFIED, LocalTrust.VERIFIED)
        assert (made.sender.device, made.shared_history) == (PHONE.device, True)
        assert type(made).from_json(made.to_json()).to_json() == made.to_json()

    def test_nobody_else_takes_it_over(self) -> None:
        content = RoomKeyContent.from_json(room_key_content(GROUP, GROUP.first_key))
        held = session_of_own(content, own=CAROL.device or PHONE.device).require()
        decision = judge_room_key(room_key(room_key_content(GROUP, GROUP.first_key)), held=held)
        assert (decision.action, decision.reason) == (A.REFUSE, R.SENDER_MISMATCH)

    def test_has_the_id_of_its_key(self) -> None:
        content = RoomKeyContent.from_json({**room_key_content(GROUP), "session_id": OTHER.session_id})
        found = refusal(lambda: session_of_own(content, own=PHONE.device), LocalProtocolError)
        assert found == ("/content/session_id", R.SESSION_MISMATCH)

    def test_of_a_device_that_speaks_olm(self) -> None:
        content = RoomKeyContent.from_json(room_key_content(GROUP))
        obj: Any = PHONE.keys().to_json()
        del obj["keys"]["curve25519:PHONE"]
        keys = DeviceKeys.from_json(signed_anew(obj, PHONE.signer))
        found = refusal(lambda: session_of_own(content, own=keys.verify()), LocalProtocolError)
        assert found == ("/own", R.MISSING_KEY)


class TestForwarded:
    def test_by_a_device_of_oneself(self) -> None:
        content = forward(GROUP, 2, withheld=WithheldNotice(code="m.unverified"), shared_history=True)
        decision = session_from_forward(accepted(content), held=None)
        assert decision.action is A.STORE
        assert decision.key == content.key
        made = decision.require()
        assert (made.source, made.forwarder, made.first_index) == (S.FORWARDED, TABLET, 2)
        assert (made.withheld, made.shared_history) == ("m.unverified", False)

    def test_beside_what_contradicts_it(self) -> None:
        held = session(S.ROOM_KEY, GROUP, GROUP.group.message_index)
        decision = session_from_forward(accepted(forward(GROUP, maker=BOBS_TABLET)), held=held, connects=yes)
        assert (decision.action, decision.reason, decision.session) == (A.REFUSE, R.SENDER_MISMATCH, held)

    @pytest.mark.parametrize("value", [forward(GROUP), room_key(forward(GROUP).to_json()), None])
    def test_only_if_it_was_accepted(self, value: Any) -> None:
        """Attack 61: there is no way around the question whether it was asked for (CVE-2022-39249)."""
        found = refusal(lambda: session_from_forward(value, held=None), LocalProtocolError)
        assert found == ("/forward", R.WRONG_TYPE)


class TestImported:
    @pytest.mark.parametrize("source", [S.EXPORT, S.BACKUP])
    @pytest.mark.parametrize("shared", [True, False])
    def test_from_a_file_or_a_backup(self, source: SessionSource, shared: bool) -> None:
        decision = session_from_import(
            historic(GROUP, 1), source=source, shared_history=shared, held=None, session_id_of=exported_id_of
        )
        made = decision.require()
        assert (made.source, made.shared_history, made.forwarder) == (source, shared, None)

    @pytest.mark.parametrize("source", [S.ROOM_KEY, S.FORWARDED, S.HISTORY_BUNDLE, "backup", None])
    def test_from_nowhere_else(self, source: Any) -> None:
        found = refusal(
            lambda: session_from_import(historic(GROUP), source=source, shared_history=False, held=None),
            LocalProtocolError,
        )
        assert found == ("/source", R.INVALID_VALUE)

    def test_under_the_name_of_another_session(self) -> None:
        """Otherwise whoever can write to a backup could put any key in another's place."""
        key = evolve(historic(GROUP), session_id=OTHER.session_id)
        decision = session_from_import(key, source=S.BACKUP, shared_history=False, held=None)
        assert (decision.action, decision.reason) == (A.REFUSE, R.SESSION_MISMATCH)
        asked = session_from_import(
            historic(GROUP), source=S.BACKUP, shared_history=False, held=None, session_id_of=a_wrong_id
        )
        assert asked.action is A.REFUSE


class TestBundles:
    def test_keys_of_the_room(self) -> None:
        bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[historic(GROUP, 2), historic(OTHER)])
        judged = sessions_from_bundle(
            bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held={}, session_id_of=exported_id_of
        )
        assert judged.rejected == ()
        assert set(judged.accepted) == {GROUP.session_id, OTHER.session_id}
        decision = judged.accepted[GROUP.session_id]
        assert decision.action is A.STORE
        made = decision.require()
        assert (made.source, made.forwarder, made.first_index) == (S.HISTORY_BUNDLE, CAROL, 2)
        assert made.shared_history is True, "what was handed on so may be handed on"
        assert made.trust is SenderTrust.UNKNOWN_DEVICE

    def test_one_bad_entry_costs_none_of_the_others(self) -> None:
        bundle = RoomKeyBundle(
            room_keys=(
                evolve(historic(OTHER), session_id=GROUP.session_id),
                historic(GROUP),
                historic(OTHER, room_id=OTHER_ROOM),
                evolve(historic(GROUP, 3), session_id=OTHER.session_id),
            )
        )
        judged = sessions_from_bundle(bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held={})
        assert list(judged.accepted) == [GROUP.session_id]
        assert [(one.path, one.reason) for one in judged.rejected] == [
            ("/room_keys/0/session_id", R.SESSION_MISMATCH),
            ("/room_keys/2/room_id", R.ROOM_MISMATCH),
            ("/room_keys/3/session_id", R.SESSION_MISMATCH),
        ]
        assert all(one.raw is None for one in judged.rejected), "they would hold secrets"
        with pytest.raises(RemoteProtocolError):
            judged.require_all()

    def test_the_rejected_stand_in_the_order_of_the_bundle(self) -> None:
        bundle = RoomKeyBundle(
            room_keys=(historic(GROUP, 5, room_id=OTHER_ROOM), historic(OTHER, 1, room_id=OTHER_ROOM))
        )
        judged = sessions_from_bundle(bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held={})
        assert [one.path for one in judged.rejected] == ["/room_keys/0/room_id", "/room_keys/1/room_id"]

    def test_of_several_keys_the_one_that_opens_most(self) -> None:
        bundle = RoomKeyBundle(room_keys=(historic(GROUP, 5), historic(GROUP, 1), historic(GROUP, 3)))
        judged = sessions_from_bundle(bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held={})
        assert judged.accepted[GROUP.session_id].require().first_index == 1
        assert judged.rejected == ()

    def test_what_is_held_is_not_taken_over(self) -> None:
        held = {one.session_id: session(S.ROOM_KEY, one, one.group.message_index) for one in (GROUP, OTHER)}
        bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[historic(GROUP), historic(OTHER, maker=BOBS_TABLET)])
        judged = sessions_from_bundle(
            bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held=held, connects=yes
        )
        assert judged.accepted[GROUP.session_id].require() is held[GROUP.session_id]
        assert [(one.path, one.reason) for one in judged.rejected] == [("/room_keys/1", R.SENDER_MISMATCH)]

    def test_from_somebody_for_whose_device_nobody_vouches(self) -> None:
        bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[historic(GROUP)])
        with pytest.raises(VerificationError) as caught:
            sessions_from_bundle(bundle, room_id=ROOM, inviter=STRANGER.user_id, forwarder=STRANGER, held={})
        assert caught.value.reason is R.UNTRUSTED_SENDER

    @pytest.mark.parametrize("inviter", [TABLET.user_id, PHONE.user_id])
    def test_from_somebody_who_has_not_invited_anybody(self, inviter: str) -> None:
        bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[historic(GROUP)])
        with pytest.raises(VerificationError) as caught:
            sessions_from_bundle(bundle, room_id=ROOM, inviter=inviter, forwarder=CAROL, held={})
        assert caught.value.reason is R.UNTRUSTED_SENDER

    @pytest.mark.parametrize("held", [Hostile(), Names({GROUP.session_id: 5}), {GROUP.session_id: "x"}, 5, None])
    def test_what_is_held_is_the_callers(self, held: Any) -> None:
        bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[historic(GROUP)])
        with pytest.raises(LocalProtocolError) as caught:
            sessions_from_bundle(bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held=held)
        assert caught.value.path.startswith("/held")

    def test_any_mapping_will_do(self) -> None:
        bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[historic(GROUP)])
        judged = sessions_from_bundle(bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held=Names({}))
        assert set(judged.accepted) == {GROUP.session_id}


class TestOddValues:
    CALLS: tuple[tuple[Any, dict[str, Any], dict[str, int]], ...] = (
        (
            judge_room_key,
            {
                "event": room_key(room_key_content(GROUP)),
                "held": None,
                "known": None,
                "connects": None,
                "session_id_of": None,
                "verifier": LIBSODIUM,
            },
            {"held": 1, "known": len(ODD), "connects": len(ODD), "session_id_of": 2},
        ),
        (
            session_of_own,
            {"content": RoomKeyContent.from_json(room_key_content(GROUP)), "own": PHONE.device},
            {"own": 1},
        ),
        (
            session_from_forward,
            {"forward": accepted(forward(GROUP)), "held": None, "connects": None},
            {"held": 1, "connects": len(ODD)},
        ),
        (
            session_from_import,
            {
                "key": historic(GROUP),
                "source": S.BACKUP,
                "shared_history": True,
                "held": None,
                "session_id_of": None,
            },
            {"shared_history": 1, "held": 1, "session_id_of": 2},
        ),
        (
            sessions_from_bundle,
            {
                "bundle": RoomKeyBundle.build(room_id=ROOM, room_keys=[historic(GROUP)]),
                "room_id": ROOM,
                "inviter": CAROL.user_id,
                "forwarder": CAROL,
                "held": {},
                "session_id_of": None,
            },
            {"held": 6, "session_id_of": 2},
        ),
    )

    @pytest.mark.parametrize(
        ("call", "good", "accepted", "name"),
        [(call, good, accepted, name) for call, good, accepted in CALLS for name in good],
        ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
    )
    def test_nothing_foreign_comes_out(
        self, call: Any, good: dict[str, Any], accepted: dict[str, int], name: str
    ) -> None:
        def with_value(value: Any) -> None:
            arguments = {**good, name: value}
            first = arguments.pop(next(iter(good)))
            try:
                call(first, **arguments)
            except LocalProtocolError as error:
                paths.add(error.path.split("/")[1])
                raise

        paths: set[str] = set()
        assert only_own_errors(with_value) >= len(ODD) - accepted.get(name, 0)
        assert paths <= {name}
