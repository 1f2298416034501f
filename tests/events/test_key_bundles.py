"""Bundles of session keys: one bad entry never costs the others, and only one room's keys are taken."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from attrs import evolve

from events.megolm_samples import (
    CURVE,
    ED,
    OTHER_ROOM,
    ROOM,
    exported_id_of,
    historic,
    megolm_session,
    withheld,
)
from events.odd_values import ODD, only_own_errors, refusal
from events.test_encrypted_files import file
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.key_bundles import (
    BUNDLE_LIMITS,
    MAX_BUNDLE_ENTRIES,
    HistoricRoomKey,
    RoomKeyBundle,
    RoomKeyBundleContent,
)
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent, WithheldCode
from matrix_e2e_keys.json_trees import JsonLimits

R = Reason
CODE = "m.history_not_shared"


def bundle(*keys: object, missing: tuple[object, ...] = (), **members: Any) -> RoomKeyBundle:
    """A bundle, read from its document."""
    document = json.dumps({"room_keys": keys, "withheld": missing, **members}).encode()
    return RoomKeyBundle.from_bytes(document)


def outcome(read: RoomKeyBundle) -> tuple[list[str], list[str | None], list[tuple[str, Reason]], list[str]]:
    return (
        [key.session_id for key in read.room_keys],
        [notice.session_id for notice in read.withheld],
        [(rejection.path, rejection.reason) for rejection in read.rejected],
        [rejection.path for rejection in read.unsupported],
    )


def id_of(name: str) -> str:
    return megolm_session(name).session_id


class TestContent:
    def test_comes_back(self) -> None:
        obj = {"room_id": ROOM, "file": file(), "x": 1.5}
        before = copy.deepcopy(obj)
        content = RoomKeyBundleContent.from_json(obj)
        assert obj == before
        assert (content.room_id, content.file.media_id) == (ROOM, "FHyPlCeYUSFFxlgbQYZmoEoe")
        assert content.to_json() == obj
        assert content.event_type == "m.room_key_bundle"
        assert RoomKeyBundleContent.build(room_id=ROOM, file=content.file).to_json() == {
            "room_id": ROOM,
            "file": file(),
        }

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({"room_id": ...}, ("", R.MISSING_MEMBER)),
            ({"room_id": "x"}, ("/room_id", R.INVALID_IDENTIFIER)),
            ({"file": ...}, ("", R.MISSING_MEMBER)),
            ({"file": None}, ("/file", R.WRONG_TYPE)),
            ({"file": file(key={"k": "x"})}, ("/file/key/k", R.INVALID_BASE64)),
        ],
    )
    def test_what_is_malformed(self, members: dict[str, Any], expected: tuple[str, Reason]) -> None:
        obj = {name: value for name, value in {"room_id": ROOM, "file": file(), **members}.items() if value is not ...}
        assert refusal(lambda: RoomKeyBundleContent.from_json(obj), RemoteProtocolError) == expected

    def test_whatever_is_handed_in(self) -> None:
        good: dict[str, Any] = {
            "room_id": ROOM,
            "file": RoomKeyBundleContent.from_json({"room_id": ROOM, "file": file()}).file,
        }
        for name in good:
            build: Any = lambda value, name=name: RoomKeyBundleContent.build(**{**good, name: value})  # noqa: E731
            assert only_own_errors(build) == len(ODD)
            assert refusal(lambda build=build: build(b"x"), LocalProtocolError) == (f"/{name}", R.WRONG_TYPE)
        assert only_own_errors(RoomKeyBundleContent.from_json) == len(ODD)

    def test_its_key_is_not_shown(self) -> None:
        content = RoomKeyBundleContent.from_json({"room_id": ROOM, "file": file()})
        assert repr(content.file.key.k)[2:-1] not in repr(content)


class TestReading:
    def test_keys_and_what_is_withheld(self) -> None:
        read = bundle(historic(x=1.5), historic("b"), missing=(withheld("c", code=CODE),), y=[1.5])
        key, other = read.room_keys
        assert (key.room_id, key.session_id, key.key.session_id) == (ROOM, id_of(""), id_of(""))
        assert (key.sender_key, key.sender_claimed_ed25519_key) == (CURVE, ED)
        assert (key.key.first_index, key.key.is_signed, key.extra) == (2, False, {"x": 1.5})
        assert other.require_session_id(exported_id_of).session_id == id_of("b")
        (notice,) = read.withheld
        assert (notice.session_id, notice.known_code) == (id_of("c"), WithheldCode.HISTORY_NOT_SHARED)
        assert (read.rejected, read.unsupported, read.extra) == ((), (), {"y": [1.5]})

    def test_comes_back(self) -> None:
        read = bundle(historic(), historic("b"), missing=(withheld("c"),), y=[{}])
        assert RoomKeyBundle.from_bytes(read.encode()) == read
        assert RoomKeyBundle.from_json(json.loads(json.dumps(read.to_json()))) == read

    @pytest.mark.parametrize("document", [b"{}", b'{"room_keys":[]}', b'{"withheld":[]}', bytearray(b"{}")])
    def test_nothing_in_it(self, document: bytes) -> None:
        assert RoomKeyBundle.from_bytes(document) == RoomKeyBundle()

    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            (None, ("/room_keys/1", R.WRONG_TYPE)),
            ([], ("/room_keys/1", R.WRONG_TYPE)),
            (historic(room_id=...), ("/room_keys/1", R.MISSING_MEMBER)),
            (historic(room_id="#x"), ("/room_keys/1/room_id", R.INVALID_IDENTIFIER)),
            (historic(session_id=""), ("/room_keys/1/session_id", R.INVALID_VALUE)),
            (historic(session_key="x"), ("/room_keys/1/session_key", R.INVALID_BASE64)),
            (historic(session_key=megolm_session().shared), ("/room_keys/1/session_key", R.INVALID_VALUE)),
            (historic(sender_key=...), ("/room_keys/1", R.MISSING_MEMBER)),
            (historic(sender_key="x"), ("/room_keys/1/sender_key", R.INVALID_BASE64)),
            (historic(sender_claimed_keys=...), ("/room_keys/1", R.MISSING_MEMBER)),
            (historic(sender_claimed_keys=[]), ("/room_keys/1/sender_claimed_keys", R.WRONG_TYPE)),
            (historic(sender_claimed_keys={}), ("/room_keys/1/sender_claimed_keys", R.MISSING_MEMBER)),
            (
                historic(sender_claimed_keys={"ed25519": 1}),
                ("/room_keys/1/sender_claimed_keys/ed25519", R.WRONG_TYPE),
            ),
            (historic(**{"a/b": float("nan")}), ("/room_keys/1/a~1b", R.NOT_AN_INTEGER)),
        ],
    )
    def test_a_malformed_key_costs_none_of_the_others(self, entry: object, expected: tuple[str, Reason]) -> None:
        read = bundle(historic("a"), entry, historic("b"), missing=(withheld("c"),))
        assert outcome(read) == ([id_of("a"), id_of("b")], [id_of("c")], [expected], [])
        if expected[1] is not R.NOT_AN_INTEGER:
            assert read.rejected[0].raw == entry

    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            (1, ("/withheld/0", R.WRONG_TYPE)),
            (withheld(code=1), ("/withheld/0/code", R.WRONG_TYPE)),
            (withheld(session_id=...), ("/withheld/0", R.MISSING_MEMBER)),
            (withheld(code="m.no_olm", room_id=...), ("/withheld/0", R.MISSING_MEMBER)),
            (withheld(code="m.no_olm", session_id=...), ("/withheld/0", R.MISSING_MEMBER)),
        ],
    )
    def test_nor_does_a_malformed_notice(self, entry: object, expected: tuple[str, Reason]) -> None:
        read = bundle(historic(), missing=(entry, withheld("c")))
        assert outcome(read) == ([id_of("")], [id_of("c")], [expected], [])

    def test_other_algorithms_are_unsupported(self) -> None:
        read = bundle(historic(algorithm="m.other"), historic("b"), missing=(withheld(algorithm="m.other"),))
        assert outcome(read) == ([id_of("b")], [], [], ["/room_keys/0/algorithm", "/withheld/0/algorithm"])

    @pytest.mark.parametrize("value", [None, {}, "x", 1])
    def test_a_section_that_is_no_list_costs_the_other_nothing(self, value: object) -> None:
        keys = RoomKeyBundle.from_json({"room_keys": [historic()], "withheld": value})
        assert outcome(keys) == ([id_of("")], [], [("/withheld", R.WRONG_TYPE)], [])
        notices = RoomKeyBundle.from_json({"room_keys": value, "withheld": [withheld()]})
        assert outcome(notices) == ([], [id_of("")], [("/room_keys", R.WRONG_TYPE)], [])

    def test_nor_does_what_nobody_knows(self) -> None:
        document = b'{"a": NaN, "b": 1.5, "c": 1, "c": 2, "withheld": [%s]}' % json.dumps(withheld()).encode()
        read = RoomKeyBundle.from_bytes(document)
        assert outcome(read) == ([], [id_of("")], [("/a", R.NOT_AN_INTEGER), ("/c", R.DUPLICATE_MEMBER)], [])
        assert read.extra == {"b": 1.5}

    def test_a_section_twice_is_no_section(self) -> None:
        read = RoomKeyBundle.from_bytes(b'{"room_keys": [], "room_keys": []}')
        assert outcome(read) == ([], [], [("/room_keys", R.DUPLICATE_MEMBER)], [])

    def test_rejections_are_in_the_order_of_the_document(self) -> None:
        read = bundle(1, historic(), 2, missing=(3,))
        assert [rejection.path for rejection in read.rejected] == ["/room_keys/0", "/room_keys/2", "/withheld/0"]

    def test_a_wrong_session_id_is_for_the_importer_to_find(self) -> None:
        (key,) = bundle(historic("a", session_id=id_of("b"))).room_keys
        expected = ("/session_id", R.SESSION_MISMATCH)
        assert refusal(key.require_session_id, RemoteProtocolError) == expected

    def test_the_same_session_may_stand_there_twice(self) -> None:
        assert outcome(bundle(historic(), historic())) == ([id_of("")] * 2, [], [], [])

    @pytest.mark.parametrize("document", [b"", b"[]", b"{", b"\xff", b"1", b"null", b'{"room_keys": [}'])
    def test_what_is_no_object(self, document: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            RoomKeyBundle.from_bytes(document)


class TestSessionsInBothSections:
    def test_the_key_is_refused(self) -> None:
        both = withheld("a")
        read = bundle(historic("b"), historic("a"), missing=(both,))
        assert outcome(read) == ([id_of("b")], [id_of("a")], [("/room_keys/1", R.INVALID_VALUE)], [])
        assert read.rejected[0].raw == historic("a")

    def test_also_if_it_goes_by_another_name(self) -> None:
        read = bundle(
            historic("a", session_id=id_of("b")), historic("b", session_id=id_of("a")), missing=(withheld("a"),)
        )
        expected = [("/room_keys/0", R.INVALID_VALUE), ("/room_keys/1", R.INVALID_VALUE)]
        assert outcome(read) == ([], [id_of("a")], expected, [])

    def test_another_room_is_another_session(self) -> None:
        read = bundle(historic("a"), missing=(withheld("a", room_id=OTHER_ROOM),))
        assert outcome(read) == ([id_of("a")], [id_of("a")], [], [])

    def test_what_is_malformed_withholds_nothing(self) -> None:
        read = bundle(historic("a"), missing=(withheld("a", code=1), withheld("a", algorithm="m.other")))
        assert outcome(read) == ([id_of("a")], [], [("/withheld/0/code", R.WRONG_TYPE)], ["/withheld/1/algorithm"])


class TestLimits:
    def test_size(self) -> None:
        document = bundle(historic()).encode()
        limits = JsonLimits(max_bytes=len(document))
        assert len(RoomKeyBundle.from_bytes(document, limits=limits).room_keys) == 1
        shorter = JsonLimits(max_bytes=len(document) - 1)
        assert refusal(lambda: RoomKeyBundle.from_bytes(document, limits=shorter), RemoteProtocolError) == (
            "",
            R.TOO_LARGE,
        )

    def test_size_by_default(self) -> None:
        assert inspect.signature(RoomKeyBundle.from_bytes).parameters["limits"].default is BUNDLE_LIMITS
        assert BUNDLE_LIMITS.max_bytes == 64 * 1024 * 1024

    def test_number_of_entries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert MAX_BUNDLE_ENTRIES == 200_000
        monkeypatch.setattr("matrix_e2e_keys.events.key_bundles.MAX_BUNDLE_ENTRIES", 3)
        assert len(bundle(historic(), 0, missing=(withheld("a"),)).rejected) == 1
        expected = ("", R.TOO_LARGE)
        assert refusal(lambda: bundle(historic(), 0, missing=(1, 2)), RemoteProtocolError) == expected
        assert refusal(lambda: bundle(0, 0, 0, 0), RemoteProtocolError) == expected

    def test_depth(self) -> None:
        read = RoomKeyBundle.from_bytes(b'{"room_keys": [' + b"[" * 200 + b"]" * 200 + b"]}")
        assert outcome(read)[2] == [("/room_keys/0", R.WRONG_TYPE)]


class TestOneRoom:
    def test_what_is_about_others_is_left_out(self) -> None:
        read = bundle(
            historic("a"),
            historic("b", room_id=OTHER_ROOM),
            1,
            missing=(withheld("c"), withheld("d", room_id=OTHER_ROOM)),
            x=1,
        )
        kept = read.for_room(ROOM)
        assert outcome(kept) == ([id_of("a")], [id_of("c")], [("/room_keys/2", R.WRONG_TYPE)], [])
        assert kept.extra == {"x": 1}
        assert outcome(read.for_room(OTHER_ROOM))[:2] == ([id_of("b")], [id_of("d")])
        assert outcome(read.for_room("!none"))[:2] == ([], [])

    def test_whatever_is_handed_in(self) -> None:
        assert only_own_errors(RoomKeyBundle().for_room) == len(ODD)
        assert refusal(lambda: RoomKeyBundle().for_room("x"), LocalProtocolError) == ("/room_id", R.INVALID_IDENTIFIER)


def entry(name: str = "", room_id: str = ROOM) -> HistoricRoomKey:
    return HistoricRoomKey.build(
        room_id=room_id, session_key=megolm_session(name).exported, sender_key=CURVE, sender_claimed_ed25519_key=ED
    )


def missing(name: str = "", room_id: str = ROOM) -> RoomKeyWithheldContent:
    return RoomKeyWithheldContent.build_for_bundle(room_id=room_id, session_id=id_of(name), sender_key=CURVE)


class TestBuilding:
    def test_is_what_would_be_read(self) -> None:
        built = RoomKeyBundle.build(
            room_id=ROOM, room_keys=iter([entry("a"), entry("b")]), withheld=iter([missing("c")])
        )
        assert built == bundle(historic("a"), historic("b"), missing=(withheld("c", code=CODE),))
        assert built.to_json() == {
            "room_keys": [historic("a"), historic("b")],
            "withheld": [withheld("c", code=CODE)],
        }
        assert RoomKeyBundle.from_bytes(built.encode()) == built
        assert RoomKeyBundle.build(room_id=ROOM, room_keys=[]) == RoomKeyBundle()

    @pytest.mark.parametrize(
        ("keys", "notices", "expected"),
        [
            ([entry(), entry("b", OTHER_ROOM)], [], ("/room_keys/1/room_id", R.ROOM_MISMATCH)),
            ([], [missing("b", OTHER_ROOM)], ("/withheld/0/room_id", R.ROOM_MISMATCH)),
            ([entry(), entry()], [], ("/room_keys/1/session_id", R.INVALID_VALUE)),
            ([entry()], [missing()], ("/withheld/0/session_id", R.INVALID_VALUE)),
            ([], [missing(), missing()], ("/withheld/1/session_id", R.INVALID_VALUE)),
            ([evolve(entry(), session_id="x")], [], ("/room_keys/0/session_id", R.SESSION_MISMATCH)),
            (
                [],
                [RoomKeyWithheldContent.build(code="m.no_olm", sender_key=CURVE)],
                ("/withheld/0", R.MISSING_MEMBER),
            ),
        ],
    )
    def test_what_would_be_refused(self, keys: Any, notices: Any, expected: tuple[str, Reason]) -> None:
        make: Any = lambda: RoomKeyBundle.build(room_id=ROOM, room_keys=keys, withheld=notices)  # noqa: E731
        assert refusal(make, LocalProtocolError) == expected

    def test_a_wrong_argument(self) -> None:
        build: Any = RoomKeyBundle.build
        for name, arguments in {
            "room_id": {"room_id": "x", "room_keys": []},
            "room_keys": {"room_id": ROOM, "room_keys": entry()},
            "withheld": {"room_id": ROOM, "room_keys": [], "withheld": 1},
        }.items():
            assert refusal(lambda arguments=arguments: build(**arguments), LocalProtocolError)[0] == f"/{name}"
        wrong = [entry(), missing()]
        expected = ("/room_keys/1", R.WRONG_TYPE)
        assert refusal(lambda: build(room_id=ROOM, room_keys=wrong), LocalProtocolError) == expected

    def test_an_iterable_that_raises(self) -> None:
        def fail() -> Iterator[HistoricRoomKey]:
            yield entry()
            raise ZeroDivisionError

        expected = ("/room_keys", R.INVALID_VALUE)
        assert refusal(lambda: RoomKeyBundle.build(room_id=ROOM, room_keys=fail()), LocalProtocolError) == expected

    @pytest.mark.parametrize("argument", ["room_id", "session_key", "sender_key", "sender_claimed_ed25519_key"])
    def test_whatever_is_handed_in_for_an_entry(self, argument: str) -> None:
        good: dict[str, Any] = {
            "room_id": ROOM,
            "session_key": megolm_session().exported,
            "sender_key": CURVE,
            "sender_claimed_ed25519_key": ED,
        }
        assert only_own_errors(lambda value: HistoricRoomKey.build(**{**good, argument: value})) >= len(ODD) - 1

    def test_whatever_is_handed_in(self) -> None:
        good: dict[str, Any] = {"room_id": ROOM, "room_keys": [], "withheld": []}
        for name in good:
            only_own_errors(lambda value, name=name: RoomKeyBundle.build(**{**good, name: value}))
        for name in ("room_keys", "withheld", "rejected", "unsupported", "extra"):
            only_own_errors(lambda value, name=name: RoomKeyBundle(**{name: value}))
            only_own_errors(lambda value, name=name: RoomKeyBundle.from_json({name: value}))
        only_own_errors(RoomKeyBundle.from_json)
        assert only_own_errors(RoomKeyBundle.from_bytes) == len(ODD)
        assert refusal(lambda: RoomKeyBundle.from_bytes(cast("Any", "{}")), LocalProtocolError) == (
            "/document",
            R.WRONG_TYPE,
        )
        assert only_own_errors(lambda value: RoomKeyBundle.from_bytes(b"{}", limits=value)) == len(ODD)

    @pytest.mark.parametrize("name", ["room_keys", "withheld"])
    def test_no_extra_member_stands_for_a_section(self, name: str) -> None:
        expected = (f"/extra/{name}", R.INVALID_VALUE)
        assert refusal(lambda: RoomKeyBundle(extra={name: []}), LocalProtocolError) == expected

    def test_has_no_truth_value(self) -> None:
        with pytest.raises(LocalProtocolError):
            bool(RoomKeyBundle())

    def test_what_canonical_json_cannot_represent(self) -> None:
        made = RoomKeyBundle(extra={"x": 1.5})
        assert refusal(made.encode, LocalProtocolError) == ("/x", R.NOT_AN_INTEGER)


class TestSecrecy:
    def test_keys_are_not_shown(self) -> None:
        read = bundle(historic("a"), historic("b", room_id=1), missing=(withheld("c"),))
        for name in ("a", "b"):
            secret = megolm_session(name).exported[8:40]
            assert secret not in repr(read) + str(read) + repr(read.room_keys) + repr(read.rejected)
            assert secret not in repr([rejection.to_error() for rejection in read.rejected])
        assert id_of("a") in repr(read)
        assert "nobody" not in repr(RoomKeyBundle(extra={"tell-nobody": 1}))

    @pytest.mark.parametrize("cut", [slice(None, -1), slice(4, None), slice(None, 40)])
    def test_nor_in_a_rejection(self, cut: slice) -> None:
        good = megolm_session().exported
        for value in (good[cut], [good], {good: good}, good + "ü", megolm_session().shared):
            (rejection,) = bundle(historic(session_key=value)).rejected
            assert rejection.path == "/room_keys/0/session_key"
            for shown in (repr(rejection), repr(rejection.to_error())):
                assert good[8:40] not in shown
                assert megolm_session().shared[8:40] not in shown

    def test_nor_where_it_is_refused_as_a_whole(self) -> None:
        secret = megolm_session().exported
        for obj in ({"room_keys": secret}, {"room_keys": [secret]}, [historic()], {"room_keys": {"x": historic()}}):
            document = json.dumps(obj).encode()
            try:
                shown = repr(RoomKeyBundle.from_bytes(document).rejected)
            except E2EKeysError as error:
                shown = repr(error)
            assert secret[8:40] not in shown
