"""What another server answers to a query: six ways to say too much, each dropped and named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import CrossSigningKey, Reason, Rejection, UserKeysQueryResponse
from matrix_e2e_keys.homeserver.fan_out.query_filter import FilteredQuery, filter_query_answer
from matrix_e2e_keys.signing.verifiers import LIBSODIUM
from matrix_e2e_keys.testing.message_strategies import user_keys_query_responses
from matrix_e2e_keys.testing.samples import SampleUser

SERVER = "b.example"
BOB = SampleUser("@bob:b.example")
BEN = SampleUser("@ben:b.example")
EVE = SampleUser("@eve:e.example")
B = BOB.user_id


def body(**changes: Any) -> dict[str, Any]:
    return {
        "device_keys": {B: {"X": BOB.device("X").to_json()}},
        "master_keys": {B: BOB.master_key.to_json()},
        "self_signing_keys": {B: BOB.self_signing_key.to_json()},
        **changes,
    }


def judged(answer: Any, asked: dict[str, tuple[str, ...]] | None = None, server: str = SERVER) -> FilteredQuery:
    if isinstance(answer, dict):
        answer = UserKeysQueryResponse.from_bytes(json.dumps(answer))
    return filter_query_answer(
        answer, server_name=server, asked={B: ()} if asked is None else asked, verifier=LIBSODIUM
    )


def dropped(result: FilteredQuery) -> list[tuple[str, Reason]]:
    return [(rejection.path, rejection.reason) for rejection in result.dropped]


def devices(*entries: tuple[str, Any]) -> dict[str, Any]:
    return body(device_keys={B: dict(entries)})


class TestWhatCounts:
    def test_a_good_answer_passes_whole(self) -> None:
        result = judged(body())
        assert result.dropped == ()
        assert result.without_list == frozenset()
        (user,) = result.users.values()
        assert user.user_id == B
        assert user.devices["X"].keys is not None
        assert user.devices["X"].keys.to_json() == BOB.device("X").to_json()
        assert user.master_key is not None
        assert user.master_key.to_json() == BOB.master_key.to_json()
        assert user.self_signing_key is not None
        assert user.self_signing_key.to_json() == BOB.self_signing_key.to_json()
        assert user.user_signing_key is None

    def test_users_who_are_not_told_of_are_not_there(self) -> None:
        result = judged({"device_keys": {B: {}}}, {B: (), BEN.user_id: ()})
        assert set(result.users) == {B}
        assert (result.without_list, result.dropped) == (frozenset(), ())

    @pytest.mark.parametrize("told", [{}, {B: None}])
    def test_a_list_that_is_not_told_is_marked(self, told: Any) -> None:
        result = judged(body(device_keys=told))
        assert (set(result.users), result.without_list) == ({B}, frozenset({B}))

    def test_user_signing_keys_are_not_looked_at(self) -> None:
        """Attack 53."""
        result = judged(body(user_signing_keys={B: BOB.user_signing_key.to_json()}))
        assert result.users[B].user_signing_key is None


class TestWhatIsDropped:
    @pytest.mark.parametrize("name", ["device_keys", "master_keys", "self_signing_keys"])
    @pytest.mark.parametrize(
        ("user_id", "server", "reason"),
        [
            ("@ben:b.example", SERVER, Reason.UNREQUESTED),
            ("@eve:e.example", SERVER, Reason.SERVER_NAME_MISMATCH),
            ("@bob:b.example:8448", SERVER, Reason.SERVER_NAME_MISMATCH),
            ("@bob:B.example", SERVER, Reason.SERVER_NAME_MISMATCH),
            ("@bob:b.example.", SERVER, Reason.SERVER_NAME_MISMATCH),
            ("@bob:[::1]", SERVER, Reason.SERVER_NAME_MISMATCH),
            ("@bob:[::1]", "[::1]", Reason.UNREQUESTED),
            ("@bob:sub.b.example", SERVER, Reason.SERVER_NAME_MISMATCH),
        ],
    )
    def test_users_who_were_not_asked_about(self, name: str, user_id: str, server: str, reason: Reason) -> None:
        """Attacks 44 and 53."""
        user = SampleUser(user_id)
        entry: Any = {
            "device_keys": {"D": user.device("D").to_json()},
            "master_keys": user.master_key.to_json(),
            "self_signing_keys": user.self_signing_key.to_json(),
        }[name]
        answer = body()
        answer[name] = {**answer[name], user_id: entry}
        result = judged(answer, server=server)
        assert dropped(result) == [(f"/{name}/{user_id}", reason)]
        assert result.dropped[0].raw == entry
        assert (result.dropped[0].user_id, result.dropped[0].device_id) == (user_id, None)
        assert set(result.users) == {B}

    def test_a_name_with_two_servers(self) -> None:
        """Attack 53."""
        result = judged(body(device_keys={"@a:evil.org:b.example": {}}))
        assert dropped(result) == [("/device_keys/@a:evil.org:b.example", Reason.INVALID_IDENTIFIER)]

    def test_devices_that_were_not_asked_for(self) -> None:
        """Attack 44."""
        result = judged(devices(("X", BOB.device("X").to_json()), ("Y", BOB.device("Y").to_json())), {B: ("X", "Z")})
        assert dropped(result) == [(f"/device_keys/{B}/Y", Reason.UNREQUESTED)]
        assert result.dropped[0].device_id == "Y"
        assert result.dropped[0].raw == BOB.device("Y").to_json()
        assert set(result.users[B].devices) == {"X"}

    @pytest.mark.parametrize(
        ("told", "path", "reason"),
        [
            (EVE.device("Y"), "/user_id", Reason.USER_ID_MISMATCH),
            (BEN.device("Y"), "/user_id", Reason.USER_ID_MISMATCH),
            (BOB.device("X"), "/device_id", Reason.DEVICE_ID_MISMATCH),
        ],
    )
    def test_keys_of_another_device(self, told: Any, path: str, reason: Reason) -> None:
        """Attacks 44 and 53."""
        result = judged(devices(("X", BOB.device("X").to_json()), ("Y", told.to_json())))
        assert dropped(result) == [(f"/device_keys/{B}/Y{path}", reason)]
        assert set(result.users[B].devices) == {"X"}

    @pytest.mark.parametrize("told", [None, 5, {}, {"user_id": B}, {"user_id": 1.5}])
    def test_malformed_devices(self, told: Any) -> None:
        result = judged(devices(("X", BOB.device("X").to_json()), ("Y", told)))
        (rejection,) = result.dropped
        assert rejection.path.startswith(f"/device_keys/{B}/Y")
        assert set(result.users[B].devices) == {"X"}

    def test_signatures_by_others(self) -> None:
        device = BOB.device("X").to_json()
        good = dict(device["signatures"])  # type: ignore[arg-type]
        device["signatures"] = {**good, EVE.user_id: {"ed25519:E": "x"}, SERVER: {"ed25519:1": "y"}}
        master = EVE.verified(BOB.master_key)
        ssk = EVE.verified(BOB.self_signing_key)
        result = judged(
            body(
                device_keys={B: {"X": device}}, master_keys={B: master.to_json()}, self_signing_keys={B: ssk.to_json()}
            )
        )
        assert dropped(result) == [
            (f"/device_keys/{B}/X/signatures/{EVE.user_id}", Reason.USER_ID_MISMATCH),
            (f"/master_keys/{B}/signatures/{EVE.user_id}", Reason.USER_ID_MISMATCH),
            (f"/self_signing_keys/{B}/signatures/{EVE.user_id}", Reason.USER_ID_MISMATCH),
        ]
        assert result.dropped[0].raw == {"ed25519:E": "x"}
        assert [rejection.device_id for rejection in result.dropped] == ["X", None, None]
        assert result.countersignatures == {(B, "X"): {"ed25519:1": "y"}}
        user = result.users[B]
        assert user.devices["X"].keys is not None
        assert user.master_key is not None
        assert user.self_signing_key is not None
        assert dict(user.devices["X"].keys.signatures) == good
        assert set(user.master_key.signed.signatures) == set()
        assert set(user.self_signing_key.signed.signatures) == {B}

    @pytest.mark.parametrize("name", ["device_keys", "master_keys", "self_signing_keys"])
    def test_whole_maps_that_are_none(self, name: str) -> None:
        result = judged(body(**{name: 5}))
        assert (f"/{name}", Reason.WRONG_TYPE) in dropped(result)


class TestNames:
    @pytest.mark.parametrize(
        ("unsigned", "name"),
        [
            ({"device_display_name": "phone"}, "phone"),
            ({"device_display_name": "", "x": 1}, ""),
            ({"device_display_name": 5}, None),
            ({"device_display_name": "\ud800"}, None),
            ({"verified_by": "@eve:e.example"}, None),
            ("phone", None),
        ],
    )
    def test_the_name_of_a_device_is_all_that_is_taken_from_unsigned(self, unsigned: Any, name: str | None) -> None:
        result = judged(devices(("X", {**BOB.device("X").to_json(), "unsigned": unsigned})))
        record = result.users[B].devices["X"]
        assert (record.display_name, result.dropped) == (name, ())
        assert record.keys is not None
        assert record.keys.untrusted_unsigned is None

    def test_a_name_that_stands_there_twice(self) -> None:
        text = json.dumps(devices(("X", {**BOB.device("X").to_json(), "unsigned": {"device_display_name": "1"}})))
        text = text.replace('{"device_display_name": "1"}', '{"device_display_name": "1", "device_display_name": "2"}')
        result = judged(UserKeysQueryResponse.from_bytes(text))
        assert result.users[B].devices["X"].display_name is None


class TestIdentity:
    @pytest.mark.parametrize(
        ("master", "self_signing", "expected"),
        [
            (EVE.master_key, None, [("master_keys", "/user_id", Reason.USER_ID_MISMATCH)]),
            (BOB.self_signing_key, None, [("master_keys", "/usage", Reason.WRONG_USAGE)]),
            (None, BOB.self_signing_key, [("self_signing_keys", "", Reason.MISSING_MASTER_KEY)]),
            (BOB.master_key, BOB.user_signing_key, [("self_signing_keys", "/usage", Reason.WRONG_USAGE)]),
            (
                SampleUser(B, generation=1).master_key,
                BOB.self_signing_key,
                [("self_signing_keys", "", Reason.MISSING_SIGNATURE)],
            ),
        ],
    )
    def test_keys_that_are_not_verified(
        self,
        master: CrossSigningKey | None,
        self_signing: CrossSigningKey | None,
        expected: list[tuple[str, str, Reason]],
    ) -> None:
        """Attack 53."""
        result = judged(
            body(
                master_keys={} if master is None else {B: master.to_json()},
                self_signing_keys={} if self_signing is None else {B: self_signing.to_json()},
            )
        )
        assert dropped(result) == [(f"/{name}/{B}{rest}", reason) for name, rest, reason in expected]
        assert all(rejection.user_id == B and rejection.raw for rejection in result.dropped)
        kept = {"master_keys": result.users[B].master_key, "self_signing_keys": result.users[B].self_signing_key}
        for name, _, _ in expected:
            assert kept[name] is None
        assert set(result.users[B].devices) == {"X"}

    def test_a_place_with_a_slash_in_it_stays_where_it_was(self) -> None:
        user = SampleUser("@a/b~c:b.example")
        answer = {"device_keys": {}, "master_keys": {user.user_id: EVE.master_key.to_json()}}
        result = judged(answer, {user.user_id: ()})
        assert dropped(result) == [("/master_keys/@a~1b~0c:b.example/user_id", Reason.USER_ID_MISMATCH)]

    @pytest.mark.parametrize("told", [None, 5, {}, {"user_id": B}])
    def test_malformed_keys(self, told: Any) -> None:
        result = judged(body(master_keys={B: told}))
        assert dropped(result)[0][0].startswith(f"/master_keys/{B}")
        assert dropped(result)[1:] == [(f"/self_signing_keys/{B}", Reason.MISSING_MASTER_KEY)]
        assert result.users[B].master_key is None


class TestAnyAnswer:
    @given(answer=user_keys_query_responses(), data=st.data())
    def test_what_counts_was_asked_for_and_is_the_owners(
        self, answer: UserKeysQueryResponse, data: st.DataObject
    ) -> None:
        told = sorted(user for user, of in answer.device_keys.items() if not isinstance(of, Rejection))
        asked: dict[str, tuple[str, ...]] = {}
        for user in data.draw(st.lists(st.sampled_from([*told, B]), unique=True)):
            devices_of = answer.device_keys.get(user, {})
            names = [] if isinstance(devices_of, Rejection) else sorted(devices_of)
            asked[user] = tuple(data.draw(st.lists(st.sampled_from(names)))) if names else ()
        result = judged(answer, asked)
        assert set(result.users) <= set(asked)
        for user_id, kept in result.users.items():
            assert set(kept.devices) <= set(asked[user_id] or kept.devices)
            for device_id, device in kept.devices.items():
                assert device.keys is not None
                content = device.keys.content
                assert (content["user_id"], content["device_id"]) == (user_id, device_id)
                assert set(device.keys.signatures) <= {user_id}
            if kept.self_signing_key is not None:
                assert kept.master_key is not None
                public_key = kept.master_key.public_key
                assert public_key is not None
                kept.self_signing_key.signed.verify(entity=user_id, key_id=kept.master_key.key_name, key=public_key)
