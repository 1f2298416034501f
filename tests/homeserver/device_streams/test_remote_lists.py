"""What other servers tell: what is applied, what is asked for, and what counts for nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceKeys,
    LocalProtocolError,
    MatrixError,
    Reason,
    Rejection,
    RemoteProtocolError,
)
from matrix_e2e_keys.endpoints.federation.edus import DeviceListUpdate, SigningKeyUpdate, read_edu
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevice, UserDevicesRequest, UserDevicesResponse
from matrix_e2e_keys.homeserver.device_streams.remote_lists import (
    EduOutcome,
    EduReason,
    EduVerdict,
    RemoteDeviceLists,
    Resync,
)
from matrix_e2e_keys.homeserver.effects import DeviceChanged, IdentityChanged
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser

BOB = SampleUser("@bob:b.example")
NEW_BOB = SampleUser("@bob:b.example", generation=1)
EVE = SampleUser("@eve:e.example")
B = "b.example"
MINUTE = 60_000

APPLIED, NEEDS_RESYNC, IGNORED = EduVerdict.APPLIED, EduVerdict.NEEDS_RESYNC, EduVerdict.IGNORED


def device(name: str, user: SampleUser = BOB, **more: Any) -> UserDevice:
    return UserDevice(device_id=name, keys=user.device(name), **more)


def answer(*devices: Any, stream_id: int = 10, identity: SampleUser | None = BOB, **more: Any) -> UserDevicesResponse:
    keys = {"master_key": identity.master_key, "self_signing_key": identity.self_signing_key} if identity else {}
    return UserDevicesResponse(**{"user_id": BOB.user_id, "stream_id": stream_id, "devices": devices, **keys, **more})


def update(name: str, stream_id: int, *prev_ids: int, **more: Any) -> DeviceListUpdate:
    keys = None if more.get("deleted") else BOB.device(name)
    arguments = {"user_id": BOB.user_id, "device_id": name, "stream_id": stream_id, "prev_ids": prev_ids, "keys": keys}
    return DeviceListUpdate(**{**arguments, **more})


def ask(lists: RemoteDeviceLists, *, now: int = 0) -> Resync:
    resync = lists.next_resync(now=now)
    assert resync is not None
    return resync


def lists(*devices: Any, stream_id: int = 10, identity: SampleUser | None = BOB) -> RemoteDeviceLists:
    """A copy of Bob's devices that is up to date."""
    made = RemoteDeviceLists()
    made.track(BOB.user_id, now=0)
    made.receive_devices(ask(made), answer(*devices, stream_id=stream_id, identity=identity), now=0)
    assert made.cached(BOB.user_id) is not None
    return made


def tell(made: RemoteDeviceLists, edu: Any, *, origin: str = B, now: int = 0) -> EduOutcome:
    return made.receive_edu(edu, origin=origin, now=now)


def short(outcome: EduOutcome) -> tuple[Any, Any]:
    return outcome.verdict, outcome.reason


def devices_of(made: RemoteDeviceLists) -> set[str]:
    keys = made.cached(BOB.user_id)
    assert keys is not None
    return set(keys.devices)


def restored(made: RemoteDeviceLists) -> RemoteDeviceLists:
    return RemoteDeviceLists.from_json(json.loads(json.dumps(made.to_json())))


class TestWhoIsTracked:
    def test_all_devices_are_asked_for_once(self) -> None:
        """Without a copy, a query leads to a resync; two devices are in the answer."""
        made = RemoteDeviceLists()
        made.track(BOB.user_id, now=0)
        made.track(BOB.user_id, now=0)
        assert (made.tracked, made.stale) == ({BOB.user_id}, {BOB.user_id})
        assert made.cached(BOB.user_id) is None
        assert made.cached_stale(BOB.user_id) is None
        resync = ask(made)
        assert (resync.user_id, resync.server_name) == (BOB.user_id, B)
        assert resync.request == UserDevicesRequest(user_id=BOB.user_id)
        assert made.next_resync(now=0) is None
        outcome = made.receive_devices(resync, answer(device("A"), device("B", device_display_name="Phone")), now=0)
        assert short(outcome) == (APPLIED, None)
        assert outcome.changed == (
            DeviceChanged(user_id=BOB.user_id, device_id="A"),
            DeviceChanged(user_id=BOB.user_id, device_id="B"),
            IdentityChanged(user_id=BOB.user_id),
        )
        keys = made.cached(BOB.user_id)
        assert keys is not None
        assert keys.devices["B"].display_name == "Phone"
        assert keys.devices["A"].keys == BOB.device("A").signed
        assert (keys.master_key, keys.self_signing_key) == (BOB.master_key, BOB.self_signing_key)
        assert made.stale == frozenset()
        assert made.next_resync(now=0) is None

    def test_who_left_is_forgotten_and_asked_for_again_after_a_return(self) -> None:
        made = lists(device("A"))
        made.untrack(BOB.user_id, now=0)
        made.untrack(BOB.user_id, now=0)
        assert (made.cached(BOB.user_id), made.cached_stale(BOB.user_id), made.tracked) == (None, None, frozenset())
        assert short(tell(made, update("B", 11, 10))) == (IGNORED, EduReason.NOT_TRACKED)
        made.track(BOB.user_id, now=0)
        made.receive_devices(ask(made), answer(device("B"), stream_id=11), now=0)
        assert devices_of(made) == {"B"}

    def test_an_answer_from_before_is_not_awaited(self) -> None:
        made = RemoteDeviceLists()
        made.track(BOB.user_id, now=0)
        old = ask(made)
        made.untrack(BOB.user_id, now=0)
        made.track(BOB.user_id, now=0)
        new = ask(made)
        assert short(made.receive_devices(old, answer(device("A")), now=0)) == (IGNORED, EduReason.NOT_AWAITED)
        made.receive_failure(old, now=0)
        assert short(made.receive_devices(new, answer(device("B")), now=0)) == (APPLIED, None)
        assert short(made.receive_devices(new, answer(device("A")), now=0)) == (IGNORED, EduReason.NOT_AWAITED)
        assert devices_of(made) == {"B"}

    def test_a_message_from_a_device_nobody_knows(self) -> None:
        made = lists(device("A"))
        assert made.suspect(BOB.user_id, now=0)
        assert made.cached(BOB.user_id) is None
        assert made.cached_stale(BOB.user_id) is not None
        made.receive_devices(ask(made), answer(device("A"), device("B"), stream_id=11), now=0)
        assert devices_of(made) == {"A", "B"}
        assert not made.suspect(EVE.user_id, now=0)
        assert made.next_resync(now=0) is None


class TestUpdatesOfDevices:
    def test_one_that_joins_is_applied(self) -> None:
        """An incoming update changes the name."""
        made = lists(device("A"))
        outcome = tell(made, update("A", 11, 10, device_display_name="New name"))
        assert short(outcome) == (APPLIED, None)
        assert outcome.changed == (DeviceChanged(user_id=BOB.user_id, device_id="A"),)
        assert made.cached(BOB.user_id).devices["A"].display_name == "New name"  # type: ignore[union-attr]
        assert short(tell(made, update("B", 12, 11))) == (APPLIED, None)
        assert devices_of(made) == {"A", "B"}

    def test_one_that_changes_nothing_tells_nobody_and_counts_in_the_chain(self) -> None:
        made = lists(device("A"))
        assert tell(made, update("A", 11, 10)) == EduOutcome(verdict=APPLIED)
        assert short(tell(made, update("A", 12, 11))) == (APPLIED, None)

    def test_another_signature_is_a_change(self) -> None:
        made = lists(device("A"))
        bare = BOB.device("A", cross_signed=False)
        assert tell(made, update("A", 11, 10, keys=bare)).changed
        assert made.cached(BOB.user_id).devices["A"].keys.to_json() == bare.to_json()  # type: ignore[union-attr]

    def test_a_device_that_is_gone(self) -> None:
        made = lists(device("A"), device("B"))
        outcome = tell(made, update("A", 11, 10, deleted=True))
        assert outcome.changed == (DeviceChanged(user_id=BOB.user_id, device_id="A"),)
        assert devices_of(made) == {"B"}
        malformed = Rejection(path="", reason=Reason.WRONG_TYPE, detail="")
        assert short(tell(made, update("X", 12, 11, deleted=True, keys=malformed))) == (APPLIED, None)

    def test_a_device_that_is_gone_out_of_the_chain_stays_until_all_are_asked_for(self) -> None:
        made = lists(device("A"))
        assert short(tell(made, update("A", 12, 11, deleted=True))) == (NEEDS_RESYNC, EduReason.GAP)
        assert made.cached_stale(BOB.user_id).devices.keys() == {"A"}  # type: ignore[union-attr]

    def test_a_device_without_keys(self) -> None:
        made = lists(device("A"))
        tell(made, update("A", 11, 10, keys=None))
        assert made.cached(BOB.user_id).devices["A"].keys is None  # type: ignore[union-attr]

    def test_a_lost_update_is_made_good(self) -> None:
        made = lists(device("A"), stream_id=1)
        outcome = tell(made, update("C", 3, 2))
        assert (short(outcome), outcome.changed) == ((NEEDS_RESYNC, EduReason.GAP), ())
        assert made.cached(BOB.user_id) is None
        made.receive_devices(ask(made), answer(device("A"), device("B"), device("C"), stream_id=3), now=0)
        assert devices_of(made) == {"A", "B", "C"}
        assert short(tell(made, update("D", 4, 3))) == (APPLIED, None)

    @pytest.mark.parametrize("seen", [False, True])
    def test_one_without_a_predecessor_is_news(self, seen: bool) -> None:
        made = lists(stream_id=1)
        assert short(tell(made, update("placeholder", 1 if seen else 7))) == (NEEDS_RESYNC, EduReason.NO_PREDECESSOR)
        assert made.stale == {BOB.user_id}

    def test_one_that_was_seen_is_ignored(self) -> None:
        made = lists(device("A"))
        for edu in (update("B", 11, 10), update("C", 12, 11)):
            tell(made, edu)
        for edu in (update("B", 11, 10), update("C", 12, 11)):
            assert tell(made, edu) == EduOutcome(verdict=IGNORED, reason=EduReason.ALREADY_SEEN)
        assert short(tell(restored(made), update("C", 12, 11))) == (IGNORED, EduReason.ALREADY_SEEN)

    def test_one_that_was_long_on_its_way_undoes_nothing(self) -> None:
        made = lists(device("A"))
        tell(made, update("A", 12, 10, device_display_name="new"))
        late = update("A", 11, 10, device_display_name="old")
        assert short(tell(made, late)) == (NEEDS_RESYNC, EduReason.OUT_OF_ORDER)
        assert made.cached_stale(BOB.user_id).devices["A"].display_name == "new"  # type: ignore[union-attr]

    def test_a_predecessor_may_be_any_that_was_seen_within_half_an_hour(self) -> None:
        made = lists()
        tell(made, update("A", 11, 10), now=0)
        tell(made, update("B", 12, 11), now=MINUTE)
        again = restored(made)
        assert short(tell(made, update("C", 13, 11), now=30 * MINUTE - 1)) == (APPLIED, None)
        assert short(tell(made, update("C", 14, 11), now=30 * MINUTE)) == (NEEDS_RESYNC, EduReason.GAP)
        assert short(tell(again, update("C", 13, 11))) == (NEEDS_RESYNC, EduReason.GAP)

    def test_all_predecessors_must_be_known(self) -> None:
        made = lists()
        tell(made, update("A", 11, 10))
        assert short(tell(made, update("B", 12, 11, 10))) == (APPLIED, None)
        assert short(tell(made, update("B", 13, 12, 9))) == (NEEDS_RESYNC, EduReason.GAP)

    def test_what_led_to_a_resync_is_known_after_it(self) -> None:
        """The number in the answer may be one that no update names."""
        made = lists(stream_id=10)
        assert short(tell(made, update("A", 15, 14))) == (NEEDS_RESYNC, EduReason.GAP)
        made.receive_devices(ask(made), answer(device("A"), stream_id=999), now=0)
        assert short(tell(made, update("B", 1000, 15))) == (APPLIED, None)

    def test_numbers_of_one_user_are_remembered_up_to_a_limit(self) -> None:
        made = lists(stream_id=0)
        for number in range(1, 300):
            tell(made, update("A", number, number - 1))
        assert short(tell(made, update("A", 300, 44))) == (APPLIED, None)
        assert short(tell(made, update("A", 301, 44))) == (NEEDS_RESYNC, EduReason.GAP)

    def test_numbers_are_remembered_of_so_many_users(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("matrix_e2e_keys.homeserver.device_streams.remote_lists._MAX_USERS_SEEN", 2)
        made = RemoteDeviceLists()
        names = [f"@u{number}:b.example" for number in range(3)]
        for name in names:
            made.track(name, now=0)
            made.receive_devices(ask(made), answer(user_id=name, stream_id=10, identity=None), now=0)
            tell(made, DeviceListUpdate(user_id=name, device_id="A", stream_id=11, prev_ids=(10,)))
        late = [DeviceListUpdate(user_id=name, device_id="A", stream_id=12, prev_ids=(10,)) for name in names]
        assert [short(tell(made, edu)) for edu in reversed(late)] == [
            (APPLIED, None),
            (APPLIED, None),
            (NEEDS_RESYNC, EduReason.GAP),
        ]

    def test_whose_numbers_were_told_longest_ago_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("matrix_e2e_keys.homeserver.device_streams.remote_lists._MAX_USERS_SEEN", 2)
        made = RemoteDeviceLists()
        zero, one, two = (f"@u{number}:b.example" for number in range(3))

        def learn(name: str) -> None:
            made.track(name, now=0)
            made.receive_devices(ask(made), answer(user_id=name, stream_id=10, identity=None), now=0)

        def told(name: str, stream_id: int, before: int) -> Any:
            edu = DeviceListUpdate(user_id=name, device_id="A", stream_id=stream_id, prev_ids=(before,))
            return short(tell(made, edu))

        learn(zero)
        learn(one)
        assert told(one, 11, 10) == told(zero, 11, 10) == (APPLIED, None)
        learn(two)
        assert told(zero, 12, 10) == (APPLIED, None)
        assert told(one, 12, 10) == (NEEDS_RESYNC, EduReason.GAP)

    def test_signatures_by_others_and_what_is_unsigned_are_not_kept(self) -> None:
        made = lists()
        tree: dict[str, Any] = BOB.device("A").to_json()
        tree["signatures"][EVE.user_id] = {"ed25519:x": "y"}
        tree["unsigned"] = {"device_display_name": "x"}
        tell(made, update("A", 11, 10, keys=DeviceKeys.from_json(tree)))
        assert made.cached(BOB.user_id).devices["A"].keys.to_json() == BOB.device("A").to_json()  # type: ignore[union-attr]


class TestWhoMaySpeak:
    @pytest.mark.parametrize(
        ("user_id", "origin"),
        [
            ("@bob:b.example", "evil.example"),
            ("@bob:b.example", "B.example"),
            ("@bob:b.example", "b.example."),
            ("@bob:b.example", "b.example:8448"),
            ("@bob:b.example:8448", "b.example"),
            ("@bob:[::1]", "[::1]:80"),
            ("@bob:[::1]:80", "::1"),
            ("@a:evil.example", "good.example"),
            ("@bob:b.example", ""),
            ("@bob:b.example", "@bob:b.example"),
        ],
    )
    @pytest.mark.parametrize("kind", [DeviceListUpdate, SigningKeyUpdate])
    def test_nobody_speaks_for_the_users_of_others(self, user_id: str, origin: str, kind: Any) -> None:
        """Attack 53: the server in the user id is the one that has signed, to the letter."""
        made = RemoteDeviceLists()
        made.track(user_id, now=0)
        made.receive_devices(ask(made), answer(user_id=user_id, identity=None), now=0)
        arguments: Any = {"device_id": "A", "stream_id": 11, "prev_ids": (10,)} if kind is DeviceListUpdate else {}
        edu = kind(user_id=user_id, **arguments)
        before = made.to_json()
        assert tell(made, edu, origin=origin) == EduOutcome(verdict=IGNORED, reason=EduReason.NOT_OF_ORIGIN)
        assert made.to_json() == before
        assert tell(made, edu, origin=user_id.partition(":")[2]).reason is not EduReason.NOT_OF_ORIGIN

    def test_two_colons_are_no_disguise(self) -> None:
        """Attack 53: what stands after the first colon is the server."""
        edu = read_edu({"edu_type": "m.signing_key_update", "content": {"user_id": "@a:evil.example:8448"}})
        made = lists()
        assert tell(made, edu, origin="8448").reason is EduReason.NOT_OF_ORIGIN

    def test_strangers_are_of_no_interest(self) -> None:
        made = lists()
        edu = DeviceListUpdate(user_id="@x:b.example", device_id="A", stream_id=1)
        assert tell(made, edu) == EduOutcome(verdict=IGNORED, reason=EduReason.NOT_TRACKED)


MALFORMED_KEYS = [
    (
        Rejection(path="/edus/0/content/keys/x", reason=Reason.MISSING_MEMBER, detail="d"),
        "/keys",
        Reason.MISSING_MEMBER,
    ),
    (EVE.device("A"), "/keys/user_id", Reason.USER_ID_MISMATCH),
    (BOB.device("B"), "/keys/device_id", Reason.DEVICE_ID_MISMATCH),
]


class TestMalformedKeys:
    @pytest.mark.parametrize(("keys", "path", "reason"), MALFORMED_KEYS)
    def test_in_an_update_they_cost_a_resync(self, keys: Any, path: str, reason: Reason) -> None:
        """Attack 31: the ids inside are those outside."""
        made = lists()
        outcome = tell(made, update("A", 11, 10, keys=keys))
        assert (short(outcome), outcome.changed) == ((NEEDS_RESYNC, EduReason.MALFORMED), ())
        (refused,) = outcome.refused
        assert (refused.path, refused.reason, refused.user_id, refused.device_id) == (path, reason, BOB.user_id, "A")
        assert made.cached_stale(BOB.user_id).devices == {}  # type: ignore[union-attr]

    def test_they_are_named_even_if_a_resync_is_due_anyway(self) -> None:
        outcome = tell(lists(), update("A", 11, 9, keys=EVE.device("A")))
        assert (short(outcome), len(outcome.refused)) == ((NEEDS_RESYNC, EduReason.GAP), 1)

    @pytest.mark.parametrize(("keys", "path", "reason"), MALFORMED_KEYS)
    def test_in_an_answer_the_device_is_there_without_them(self, keys: Any, path: str, reason: Reason) -> None:
        made = lists()
        made.suspect(BOB.user_id, now=0)
        told = answer(device("Z"), UserDevice(device_id="A", keys=keys), UserDevice(device_id="N"))
        outcome = made.receive_devices(ask(made), told, now=0)
        assert short(outcome) == (APPLIED, None)
        assert [(refused.path, refused.reason) for refused in outcome.refused] == [(f"/devices/1{path}", reason)]
        keys = made.cached(BOB.user_id)
        assert keys is not None
        assert {name: record.keys is None for name, record in keys.devices.items()} == {
            "Z": False,
            "A": True,
            "N": True,
        }

    def test_in_an_answer_entries_that_are_no_devices_are_left_out(self) -> None:
        body: dict[str, Any] = answer(device("A"), device("A", device_display_name="twin"), device("B")).to_json()
        body["devices"].insert(0, {"keys": {}})
        made = RemoteDeviceLists()
        made.track(BOB.user_id, now=0)
        outcome = made.receive_devices(ask(made), UserDevicesResponse.from_json(body), now=0)
        assert [(refused.path, refused.reason) for refused in outcome.refused] == [
            ("/devices/0/device_id", Reason.MISSING_MEMBER),
            ("/devices/2/device_id", Reason.IDENTIFIER_COLLISION),
        ]
        assert devices_of(made) == {"A", "B"}
        assert made.cached(BOB.user_id).devices["A"].display_name is None  # type: ignore[union-attr]


def identity(user: SampleUser = BOB, **more: Any) -> SigningKeyUpdate:
    keys = {"master_key": user.master_key, "self_signing_key": user.self_signing_key}
    return SigningKeyUpdate(**{"user_id": BOB.user_id, **keys, **more})


def identity_of(made: RemoteDeviceLists) -> tuple[Any, Any]:
    keys = made.cached_stale(BOB.user_id)
    assert keys is not None
    return keys.master_key, keys.self_signing_key


class TestIdentities:
    def test_a_first_one_is_applied(self) -> None:
        made = lists(identity=None)
        outcome = tell(made, identity())
        assert (short(outcome), outcome.changed) == ((APPLIED, None), (IdentityChanged(user_id=BOB.user_id),))
        assert identity_of(made) == (BOB.master_key, BOB.self_signing_key)
        assert made.stale == frozenset()

    def test_it_does_not_touch_the_chain(self) -> None:
        made = lists(identity=None)
        tell(made, identity())
        assert short(tell(made, update("A", 11, 10))) == (APPLIED, None)

    def test_the_known_one_is_nothing_new(self) -> None:
        made = lists()
        assert tell(made, identity()) == EduOutcome(verdict=IGNORED, reason=EduReason.NOTHING_NEW)
        assert tell(made, SigningKeyUpdate(user_id=BOB.user_id)).reason is EduReason.NOTHING_NEW
        assert made.stale == frozenset()

    def test_another_one_is_told_at_once_and_confirmed(self) -> None:
        made = lists(device("A"))
        outcome = tell(made, identity(NEW_BOB))
        assert short(outcome) == (NEEDS_RESYNC, EduReason.UNCONFIRMED)
        assert outcome.changed == (IdentityChanged(user_id=BOB.user_id),)
        assert identity_of(made) == (NEW_BOB.master_key, NEW_BOB.self_signing_key)
        outcome = made.receive_devices(ask(made), answer(device("A"), identity=NEW_BOB), now=0)
        assert outcome == EduOutcome(verdict=APPLIED)

    def test_an_old_one_that_was_long_on_its_way_does_not_stay(self) -> None:
        made = lists(identity=NEW_BOB)
        tell(made, identity(BOB))
        outcome = made.receive_devices(ask(made), answer(identity=NEW_BOB), now=0)
        assert outcome.changed == (IdentityChanged(user_id=BOB.user_id),)
        assert identity_of(made) == (NEW_BOB.master_key, NEW_BOB.self_signing_key)

    def test_another_signature_on_the_master_key_is_a_change(self) -> None:
        made = lists()
        by_device = add_signature(BOB.master_key.signed, entity=BOB.user_id, signer=BOB.device_signer("A"))
        assert tell(made, identity(master_key=BOB.master_key.with_signed(by_device))).changed
        assert identity_of(made)[0].signed.signatures[BOB.user_id]

    def test_a_new_master_key_alone_ends_the_self_signing_key(self) -> None:
        made = lists()
        tell(made, identity(NEW_BOB, self_signing_key=None))
        assert identity_of(made) == (NEW_BOB.master_key, None)

    @pytest.mark.parametrize(
        ("told", "path", "reason"),
        [
            (
                {
                    "self_signing_key": BOB.self_signing_key.with_signed(
                        BOB.self_signing_key.signed.without_signatures()
                    )
                },
                "/self_signing_key",
                Reason.MISSING_SIGNATURE,
            ),
            ({"master_key": EVE.master_key}, "/master_key/user_id", Reason.USER_ID_MISMATCH),
            ({"master_key": BOB.user_signing_key}, "/master_key/usage", Reason.WRONG_USAGE),
            ({"self_signing_key": BOB.master_key}, "/self_signing_key/usage", Reason.WRONG_USAGE),
            (
                {"master_key": Rejection(path="/x", reason=Reason.WRONG_TYPE, detail="")},
                "/master_key",
                Reason.WRONG_TYPE,
            ),
        ],
    )
    def test_what_is_not_verified_is_never_stored(self, told: Any, path: str, reason: Reason) -> None:
        """Attack 54: judged before it is stored; a request for all devices is what comes of it."""
        made = lists(identity=None)
        outcome = tell(made, identity(**told))
        assert (short(outcome), outcome.changed) == ((NEEDS_RESYNC, EduReason.MALFORMED), ())
        assert (outcome.refused[0].path, outcome.refused[0].reason) == (path, reason)
        assert identity_of(made) == (None, None)

    def test_in_an_answer_it_is_judged_as_well(self) -> None:
        """Attack 30: an answer is no better than an update."""
        made = lists()
        made.suspect(BOB.user_id, now=0)
        forged = CrossSigningKey.build(
            user_id=BOB.user_id, usage="self_signing", public_key=EVE.secret("self_signing").public_key
        )
        outcome = made.receive_devices(ask(made), answer(self_signing_key=forged), now=0)
        assert (short(outcome), outcome.changed) == ((APPLIED, None), ())
        assert [refused.path for refused in outcome.refused] == ["/self_signing_key"]
        assert identity_of(made) == (BOB.master_key, BOB.self_signing_key)

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            ({"master_key": None}, (None, None)),
            ({"self_signing_key": None}, (BOB.master_key, None)),
            ({"master_key": None, "self_signing_key": None}, (None, None)),
        ],
    )
    def test_what_is_not_in_an_answer_is_gone(self, told: Any, expected: Any) -> None:
        made = lists()
        made.suspect(BOB.user_id, now=0)
        assert made.receive_devices(ask(made), answer(**told), now=0).changed
        assert identity_of(made) == expected

    def test_nothing_is_taken_over_while_all_devices_are_asked_for(self) -> None:
        made = lists()
        made.suspect(BOB.user_id, now=0)
        assert tell(made, identity(NEW_BOB)) == EduOutcome(verdict=NEEDS_RESYNC, reason=EduReason.RESYNC_DUE)
        assert identity_of(made)[0] == BOB.master_key


class TestAnswers:
    def test_an_identical_one_tells_nobody(self) -> None:
        made = lists(device("A"))
        made.suspect(BOB.user_id, now=0)
        assert made.receive_devices(ask(made), answer(device("A")), now=0) == EduOutcome(verdict=APPLIED)

    def test_a_different_one_tells_what_is_different(self) -> None:
        made = lists(device("A"), device("B"), device("C"))
        made.suspect(BOB.user_id, now=0)
        told = answer(device("A"), device("B", device_display_name="x"), device("D"))
        changed = made.receive_devices(ask(made), told, now=0).changed
        assert changed == tuple(DeviceChanged(user_id=BOB.user_id, device_id=name) for name in "BCD")

    @pytest.mark.parametrize(("number", "verdict"), [(1000, APPLIED), (1001, NEEDS_RESYNC)])
    def test_so_many_devices_are_kept(self, number: int, verdict: EduVerdict) -> None:
        """Attack 48: more than a thousand are not taken over."""
        made = lists(device("A"))
        made.suspect(BOB.user_id, now=0)
        told = answer(*(UserDevice(device_id=f"D{place}") for place in range(number)))
        outcome = made.receive_devices(ask(made), told, now=0)
        assert outcome.verdict is verdict
        if verdict is NEEDS_RESYNC:
            assert outcome.reason is EduReason.TOO_MANY_DEVICES
            assert made.cached_stale(BOB.user_id).devices.keys() == {"A"}  # type: ignore[union-attr]
            assert made.next_wake_at(now=0) == 30_000
            return
        assert short(tell(made, update("D0", 11, 10, keys=None))) == (APPLIED, None)
        assert short(tell(made, update("E", 12, 11))) == (NEEDS_RESYNC, EduReason.TOO_MANY_DEVICES)

    def test_one_more_device_may_go(self) -> None:
        made = lists(*(UserDevice(device_id=f"D{place}") for place in range(1000)))
        assert short(tell(made, update("X", 11, 10, deleted=True))) == (APPLIED, None)

    def test_one_about_somebody_else_is_of_no_use(self) -> None:
        made = lists(device("A"))
        made.suspect(BOB.user_id, now=0)
        outcome = made.receive_devices(ask(made), answer(device("B"), user_id="@other:b.example"), now=0)
        assert short(outcome) == (NEEDS_RESYNC, EduReason.MALFORMED)
        assert [(refused.path, refused.reason) for refused in outcome.refused] == [
            ("/user_id", Reason.USER_ID_MISMATCH)
        ]
        assert made.cached(BOB.user_id) is None
        assert made.cached_stale(BOB.user_id).devices.keys() == {"A"}  # type: ignore[union-attr]

    def test_one_whose_devices_are_no_list_is_of_no_use(self) -> None:
        made = lists(device("A"))
        made.suspect(BOB.user_id, now=0)
        told = UserDevicesResponse.from_json({"user_id": BOB.user_id, "stream_id": 11, "devices": {}})
        outcome = made.receive_devices(ask(made), told, now=0)
        assert (short(outcome), outcome.refused) == ((NEEDS_RESYNC, EduReason.MALFORMED), told.malformed)

    @pytest.mark.parametrize(
        "edu", [update("B", 11, 10), update("B", 11), update("B", 13, 12), identity(NEW_BOB), "suspicion"]
    )
    def test_what_is_told_meanwhile_is_asked_for_again(self, edu: Any) -> None:
        """Attack 55: an answer may be older than what was told while it was on its way."""
        made = lists(device("A"))
        made.suspect(BOB.user_id, now=0)
        resync = ask(made)
        if edu == "suspicion":
            made.suspect(BOB.user_id, now=0)
        else:
            assert tell(made, edu).verdict is NEEDS_RESYNC
        assert made.next_resync(now=0) is None
        outcome = made.receive_devices(resync, answer(device("A"), device("C")), now=0)
        assert short(outcome) == (NEEDS_RESYNC, EduReason.OVERTAKEN)
        assert outcome.changed == (DeviceChanged(user_id=BOB.user_id, device_id="C"),)
        assert made.cached(BOB.user_id) is None
        made.receive_devices(ask(made), answer(device("A"), device("B"), stream_id=13), now=0)
        assert devices_of(made) == {"A", "B"}

    def test_what_is_told_before_is_not(self) -> None:
        made = lists(device("A"))
        tell(made, update("B", 12, 11))
        resync = ask(made)
        tell(made, update("B", 12, 11))
        assert short(made.receive_devices(resync, answer(stream_id=12), now=0)) == (APPLIED, None)

    @pytest.mark.parametrize("useless", [False, True])
    def test_what_is_told_while_one_fails_is_in_the_next(self, useless: bool) -> None:
        made = lists(device("A"))
        made.suspect(BOB.user_id, now=0)
        resync = ask(made)
        tell(made, update("B", 12, 11))
        if useless:
            made.receive_devices(resync, answer(user_id="@other:b.example"), now=0)
        else:
            made.receive_failure(resync, now=0)
        assert short(made.receive_devices(ask(made, now=MINUTE), answer(stream_id=12), now=0)) == (APPLIED, None)


class TestFailures:
    def test_the_copy_stays_stale_and_is_asked_for_after_thirty_seconds(self) -> None:
        made = lists(device("A"))
        tell(made, update("B", 12, 11))
        now = 1_000
        for delay in (30_000, 30_000, 60_000, 120_000):
            made.receive_failure(ask(made, now=now), now=now)
            assert made.cached(BOB.user_id) is None
            assert made.cached_stale(BOB.user_id) is not None
            assert made.next_resync(now=now + delay - 1) is None
            assert made.next_wake_at(now=now) == now + delay
            now += delay
        made.receive_devices(ask(made, now=now), answer(device("B"), stream_id=12), now=now)
        assert devices_of(made) == {"B"}
        made.suspect(BOB.user_id, now=now)
        assert made.next_wake_at(now=now) == now
        made.receive_failure(ask(made, now=now), now=now)
        assert made.next_wake_at(now=now) == now + 30_000, "an answer ends the delays"

    @pytest.mark.parametrize(
        ("error", "is_of_server"),
        [
            (None, True),
            (MatrixError(status=500, error="x"), True),
            (MatrixError(status=401, error="x"), True),
            (MatrixError(status=403, error="x"), True),
            (MatrixError(status=408, error="x"), True),
            (MatrixError(status=429, error="x"), True),
            (MatrixError(status=404, error="x"), False),
            (RemoteProtocolError(Reason.NOT_JSON, "x"), False),
            (LocalProtocolError(Reason.NOT_JSON, "x"), True),
        ],
    )
    def test_what_concerns_one_user_delays_no_other(self, error: Any, is_of_server: bool) -> None:
        made = RemoteDeviceLists()
        names = ["@a:b.example", "@b:b.example", "@c:c.example"]
        for name in names:
            made.track(name, now=0)
        made.receive_failure(ask(made), now=0, error=error)
        asked = set()
        while (resync := made.next_resync(now=0)) is not None:
            asked.add(resync.user_id)
        assert asked == ({names[2]} if is_of_server else {names[1], names[2]})

    def test_a_server_may_wish_to_be_asked_later(self) -> None:
        made = lists()
        made.suspect(BOB.user_id, now=0)
        made.receive_failure(ask(made), now=0, error=MatrixError(status=429, error="x", retry_after_ms=90_000))
        assert made.next_wake_at(now=0) == 90_000

    def test_an_answer_of_no_use_delays_its_user_and_no_other(self) -> None:
        made = RemoteDeviceLists()
        made.track(BOB.user_id, now=0)
        made.track("@x:b.example", now=0)
        made.receive_devices(ask(made), answer(user_id="@x:b.example"), now=0)
        assert ask(made).user_id == "@x:b.example"
        assert made.next_resync(now=29_999) is None
        assert ask(made, now=30_000).user_id == BOB.user_id

    def test_who_returns_is_asked_at_once(self) -> None:
        made = RemoteDeviceLists()
        made.track(BOB.user_id, now=0)
        made.receive_devices(ask(made), answer(user_id="@x:b.example"), now=0)
        made.untrack(BOB.user_id, now=0)
        made.track(BOB.user_id, now=0)
        assert made.next_wake_at(now=5) == 5

    def test_so_many_requests_at_once_to_one_server(self) -> None:
        made = RemoteDeviceLists(resyncs_per_server=2)
        for name in ("@a:b.example", "@b:b.example", "@c:b.example", "@d:d.example"):
            made.track(name, now=0)
        first, second, third = ask(made), ask(made), ask(made)
        assert [resync.user_id for resync in (first, second, third)] == ["@a:b.example", "@b:b.example", "@d:d.example"]
        assert made.next_resync(now=0) is None
        assert made.next_wake_at(now=0) is None
        made.receive_devices(first, answer(user_id="@a:b.example", identity=None), now=0)
        assert ask(made).user_id == "@c:b.example"


class TestArgumentsAndDamage:
    @pytest.mark.parametrize(
        "call",
        [
            lambda made: made.track(5, now=0),
            lambda made: made.track("bob", now=0),
            lambda made: made.track("@x:b.example", now=None),
            lambda made: made.untrack([], now=0),
            lambda made: made.untrack(BOB.user_id, now="0"),
            lambda made: made.suspect({}, now=0),
            lambda made: made.suspect(BOB.user_id, now=0.5),
            lambda made: made.cached(5),
            lambda made: made.cached_stale([]),
            lambda made: made.receive_edu(5, origin=B, now=0),
            lambda made: made.receive_edu(update("B", 11, 10), origin=5, now=0),
            lambda made: made.receive_edu(update("B", 11, 10), origin=B, now=None),
            lambda made: made.next_resync(now=None),
            lambda made: made.next_wake_at(now=None),
            lambda made: made.receive_devices(5, answer(), now=0),
            lambda made: made.receive_devices(Resync(number=1, user_id="", server_name="", request=None), 5, now=0),  # type: ignore[arg-type]
            lambda made: made.receive_devices(5, answer(), now=None),
            lambda made: made.receive_failure(5, now=0),
            lambda made: made.receive_failure(5, now=None),
            lambda made: made.receive_failure(5, now=0, error=ValueError()),
        ],
    )
    def test_wrong_arguments_change_nothing(self, call: Any) -> None:
        made = lists(device("A"))
        made.track("@x:b.example", now=0)
        before = made.to_json()
        with pytest.raises(LocalProtocolError):
            call(made)
        assert made.to_json() == before
        assert made.next_wake_at(now=0) == 0

    @pytest.mark.parametrize("wrong", [{"resyncs_per_server": 0}, {"resyncs_per_server": True}, {"verifier": 5}])
    def test_wrong_settings(self, wrong: Any) -> None:
        with pytest.raises(LocalProtocolError):
            RemoteDeviceLists(**wrong)

    def test_a_verifier_that_does_not_answer_changes_nothing(self) -> None:
        class Silent:
            def verify_many(self, checks: Any, /) -> list[bool]:
                return []

        made = RemoteDeviceLists(verifier=Silent())
        made.track(BOB.user_id, now=0)
        resync = ask(made)
        with pytest.raises(LocalProtocolError):
            made.receive_devices(resync, answer(), now=0)
        assert short(made.receive_devices(resync, answer(identity=None), now=0)) == (APPLIED, None)
        with pytest.raises(LocalProtocolError):
            tell(made, identity())
        assert made.stale == frozenset()

    def test_it_survives_being_stored(self) -> None:
        made = lists(device("A", device_display_name="x"), UserDevice(device_id="N"))
        made.track("@x:b.example", now=0)
        again = restored(made)
        assert again.to_json() == made.to_json()
        assert again.cached(BOB.user_id) == made.cached(BOB.user_id)
        assert again.stale == {"@x:b.example"}
        assert ask(again).user_id == "@x:b.example"

    def test_what_was_on_its_way_is_asked_again(self) -> None:
        made = lists()
        made.suspect(BOB.user_id, now=0)
        ask(made)
        again = restored(made)
        assert (again.stale, ask(again).user_id) == ({BOB.user_id}, BOB.user_id)

    @pytest.mark.parametrize(
        ("name", "value", "path"),
        [
            ("extremity", "1", "/extremity"),
            ("is_stale", 0, "/is_stale"),
            ("devices", [], "/devices"),
            ("devices", {"A": 5}, "/devices/A"),
            ("devices", {"A": {"keys": 5, "display_name": None}}, "/devices/A/keys"),
            ("devices", {"A": {"keys": {}, "display_name": None}}, "/devices/A/keys/user_id"),
            ("devices", {"": {"keys": None, "display_name": None}}, "/devices//device_id"),
            ("devices", {"A": {"keys": None, "display_name": 5}}, "/devices/A/display_name"),
            ("devices", {"A": {"keys": None, "display_name": "\ud800"}}, "/devices/A/display_name"),
            ("devices", {"A": {"keys": BOB.device("B").to_json(), "display_name": None}}, "/devices/A/keys/device_id"),
            ("devices", {"A": {"keys": EVE.device("A").to_json(), "display_name": None}}, "/devices/A/keys/user_id"),
            ("master_key", 5, "/master_key"),
            ("master_key", {}, "/master_key/user_id"),
            ("master_key", EVE.master_key.to_json(), "/master_key/user_id"),
            ("master_key", None, "/self_signing_key"),
            ("self_signing_key", NEW_BOB.self_signing_key.to_json(), "/self_signing_key"),
        ],
    )
    def test_damage_is_named(self, name: str, value: Any, path: str) -> None:
        stored: dict[str, Any] = lists(device("A")).to_json()
        stored["users"][BOB.user_id][name] = value
        with pytest.raises(LocalProtocolError) as caught:
            RemoteDeviceLists.from_json(stored)
        assert caught.value.path == f"/users/{BOB.user_id}{path}"

    @pytest.mark.parametrize(
        ("stored", "path"),
        [(5, ""), ({"version": 2, "users": {}}, "/version"), ({"version": 1, "users": {"x": {}}}, "/users/x")],
    )
    def test_damage_of_the_whole_is_named(self, stored: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            RemoteDeviceLists.from_json(stored)
        assert caught.value.path == path

    def test_a_copy_without_a_number_is_stale(self) -> None:
        stored: dict[str, Any] = lists(device("A")).to_json()
        stored["users"][BOB.user_id]["extremity"] = None
        made = RemoteDeviceLists.from_json(stored)
        assert (made.stale, made.cached_stale(BOB.user_id)) == ({BOB.user_id}, None)


class TestRows:
    def test_there_is_one_for_each_user(self) -> None:
        made = lists(device("A"))
        made.track("@x:b.example", now=0)
        names = {BOB.user_id, "@x:b.example"}
        assert made.take_changed() == names
        assert {"version": 1, "users": {name: made.user_to_json(name) for name in names}} == made.to_json()
        assert made.user_to_json(EVE.user_id) is None

    def test_put_together_they_are_the_lists(self) -> None:
        made = lists(device("A"))
        rows = {name: made.user_to_json(name) for name in made.take_changed()}
        again = RemoteDeviceLists.from_json(json.loads(json.dumps({"version": 1, "users": rows})))
        assert (again.cached(BOB.user_id), again.take_changed()) == (made.cached(BOB.user_id), frozenset())

    @pytest.mark.parametrize(
        "edu",
        [
            update("B", 11, 10),
            update("A", 11, 10, deleted=True),
            update("B", 12, 11),
            SigningKeyUpdate(user_id=BOB.user_id, master_key=NEW_BOB.master_key),
        ],
    )
    def test_what_is_told_changes_the_row_of_its_user(self, edu: Any) -> None:
        made = lists(device("A"))
        made.track("@x:b.example", now=0)
        made.take_changed()
        tell(made, edu)
        assert made.take_changed() == {BOB.user_id}
        assert made.take_changed() == frozenset()

    def test_what_changes_nothing_names_nobody(self) -> None:
        made = lists(device("A"))
        made.suspect(BOB.user_id, now=0)
        assert made.take_changed() == {BOB.user_id}
        made.suspect(BOB.user_id, now=0)
        made.suspect(EVE.user_id, now=0)
        made.track(BOB.user_id, now=0)
        made.untrack(EVE.user_id, now=0)
        tell(made, update("B", 12, 11))
        made.receive_failure(ask(made), now=0)
        assert made.take_changed() == frozenset()
        made.receive_devices(ask(made, now=MINUTE), answer(device("A")), now=MINUTE)
        assert made.take_changed() == {BOB.user_id}

    def test_the_row_of_who_left_is_to_be_deleted(self) -> None:
        made = lists()
        made.take_changed()
        made.untrack(BOB.user_id, now=0)
        assert (made.take_changed(), made.user_to_json(BOB.user_id)) == ({BOB.user_id}, None)

    def test_so_is_the_row_of_whoever_changed_before(self) -> None:
        made = lists()
        made.take_changed()
        made.suspect(BOB.user_id, now=0)
        made.untrack(BOB.user_id, now=0)
        assert made.take_changed() == {BOB.user_id}

    def test_who_left_and_came_back_in_between_is_named(self) -> None:
        made = restored(lists())
        for _ in range(2):
            made.untrack(BOB.user_id, now=0)
            made.track(BOB.user_id, now=0)
        made.untrack(BOB.user_id, now=0)
        assert made.take_changed() == {BOB.user_id}, "there is a row"

    def test_who_came_and_left_in_between_leaves_nothing(self) -> None:
        """Users who join and leave fill no memory, even if nobody ever asks what changed."""
        made = RemoteDeviceLists()
        for number in range(100):
            made.track(f"@u{number}:b.example", now=0)
            made.suspect(f"@u{number}:b.example", now=0)
            made.untrack(f"@u{number}:b.example", now=0)
        assert made.take_changed() == frozenset()

    @pytest.mark.parametrize("name", [5, None, [], "x"])
    def test_the_name_of_a_row_is_a_user_id(self, name: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            lists().user_to_json(name)
        assert caught.value.path == "/user_id"
