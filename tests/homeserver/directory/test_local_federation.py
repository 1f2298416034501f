"""Directories wired to each other: what is carried, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from homeserver.directory.servers import answer_of, http
from matrix_e2e_keys import (
    HttpRequest,
    HttpResponse,
    KeysClaimRequest,
    KeysQueryRequest,
    KeysUploadRequest,
    LocalProtocolError,
    Reason,
)
from matrix_e2e_keys.homeserver import Exchange, KeyDirectory, LocalFederation, Requester, ServerRequest
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key

NOW = 1_700_000_000_000
ALICE, BOB = SampleUser("@alice:a.example"), SampleUser("@bob:b.example")
REQUESTERS = {user: Requester(user_id=user.user_id, device_id="D") for user in (ALICE, BOB)}
ANSWER = HttpResponse(status=200, body=b"{}")
QUERY = KeysQueryRequest.for_users([BOB.user_id])


def new(name: str) -> KeyDirectory:
    return KeyDirectory.create(name, signers=sample_secret_key(name).signer("ed25519:1"))


@pytest.fixture
def federation() -> LocalFederation:
    """Alice and Bob, each with a device, on two servers."""
    made = LocalFederation([new("a.example"), new("b.example")])
    for user in (ALICE, BOB):
        server = user.user_id.partition(":")[2]
        made[server].log_in(user.user_id, "D", now=NOW)
        upload = KeysUploadRequest.for_keys(
            device_keys=user.device("D", cross_signed=False), one_time_keys=[user.one_time_key("D", "1")]
        )
        answer = made.exchange(server, upload.to_http(), requester=REQUESTERS[user], now=NOW)
        assert answer.status == 200
    return made


def found(federation: LocalFederation) -> tuple[list[str], list[str]]:
    """Return which devices of Bob Alice finds, and which servers failed."""
    response = federation.exchange("a.example", QUERY.to_http(), requester=REQUESTERS[ALICE], now=NOW)
    answer = QUERY.read_answer(response)
    return list(answer.device_keys.get(BOB.user_id, ())), list(answer.failures)


class TestExchanges:
    def test_a_server_is_asked(self, federation: LocalFederation) -> None:
        assert found(federation) == (["D"], [])

    def test_a_server_that_is_away(self, federation: LocalFederation) -> None:
        assert federation.down == set()
        federation.down.add("b.example")
        assert found(federation) == ([], ["b.example"])
        federation.down.discard("b.example")
        assert found(federation) == (["D"], [])

    def test_ones_own_server_can_be_reached_while_it_is_away_for_others(self, federation: LocalFederation) -> None:
        federation.down.add("b.example")
        response = federation.exchange("b.example", QUERY.to_http(), requester=REQUESTERS[BOB], now=NOW)
        assert list(QUERY.read_answer(response).device_keys[BOB.user_id]) == ["D"]

    def test_who_is_away_cannot_prove_who_it_is(self, federation: LocalFederation) -> None:
        """The keys of who asks are fetched there."""
        federation.down.add("a.example")
        assert found(federation) == ([], ["b.example"])

    def test_a_server_that_nobody_knows(self, federation: LocalFederation) -> None:
        claim = KeysClaimRequest.for_devices({"@carol:c.example": ["D"]})
        response = federation.exchange("a.example", claim.to_http(), requester=REQUESTERS[ALICE], now=NOW)
        assert list(claim.read_answer(response).failures) == ["c.example"]

    def test_a_request_by_hand(self, federation: LocalFederation) -> None:
        keys = ServerRequest(server_name="b.example", request=http("GET", "/_matrix/key/v2/server"))
        response = federation.send(keys, now=NOW)
        assert response is not None
        assert answer_of(response).good["server_name"] == "b.example"
        federation.down.add("b.example")
        assert federation.send(keys, now=NOW) is None

    def test_servers_that_ask_each_other_without_end(
        self, federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To whomever asks for keys, nothing is told before the keys of who asks are there: somewhere it ends."""
        asked: list[str] = []

        def ask_back(self: KeyDirectory, request: HttpRequest, **_: object) -> Exchange:
            asked.append(self.server_name)
            other = "b.example" if self.server_name == "a.example" else "a.example"
            back = ServerRequest(server_name=other, request=request)
            return Exchange(requests=(back,), step=lambda answers, _: Exchange(response=ANSWER))

        monkeypatch.setattr(KeyDirectory, "receive_server_request", ask_back)
        assert federation.send(ServerRequest(server_name="b.example", request=QUERY.to_http()), now=NOW) == ANSWER
        assert asked == ["b.example", "a.example"] * 4


class TestSettling:
    def test_everything_is_told_until_nothing_is_left(self, federation: LocalFederation) -> None:
        assert federation.settle(now=NOW) == 0
        for name in ("a.example", "b.example"):
            for user in (ALICE, BOB):
                federation[name].join(user.user_id, "!room:a.example", now=NOW)
        assert federation.settle(now=NOW) == 4
        assert federation.settle(now=NOW) == 0
        federation.down.add("b.example")
        assert found(federation) == (["D"], [])

    def test_who_is_away_says_nothing_and_hears_nothing(self, federation: LocalFederation) -> None:
        for name in ("a.example", "b.example"):
            for user in (ALICE, BOB):
                federation[name].join(user.user_id, "!room:a.example", now=NOW)
        federation.down.add("b.example")
        assert federation.settle(now=NOW) == 2
        federation.down.clear()
        assert federation.settle(now=NOW + 3_600_000) == 4

    def test_it_ends_somewhere(self, federation: LocalFederation, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("matrix_e2e_keys.homeserver.directory.local_federation._MAX_REQUESTS", 3)
        for name in ("a.example", "b.example"):
            for user in (ALICE, BOB):
                federation[name].join(user.user_id, "!room:a.example", now=NOW)
        assert federation.settle(now=NOW) == 4
        assert federation.settle(now=NOW) == 0


class TestMembers:
    def test_a_directory_is_put_in_the_place_of_another(self, federation: LocalFederation) -> None:
        state = json.loads(json.dumps(federation["b.example"].to_json()))
        restored = KeyDirectory.from_json(state, signers=sample_secret_key("b.example").signer("ed25519:1"))
        federation.replace(restored)
        assert federation["b.example"] is restored
        assert found(federation) == (["D"], [])

    @pytest.mark.parametrize("wrong", [None, 5, "c.example", [], {}, b"", object()])
    def test_wrong_arguments(self, federation: LocalFederation, wrong: Any) -> None:
        query = QUERY.to_http()
        calls: list[Callable[[], object]] = [
            lambda: LocalFederation([wrong]),
            lambda: federation[wrong],
            lambda: federation.replace(wrong),
            lambda: federation.exchange(wrong, query, requester=REQUESTERS[ALICE], now=NOW),
            lambda: federation.exchange("a.example", wrong, requester=REQUESTERS[ALICE], now=NOW),
            lambda: federation.exchange("a.example", query, requester=wrong, now=NOW),
            lambda: federation.send(wrong, now=NOW),
            lambda: federation.send(ServerRequest(server_name="c.example", request=query), now="now"),  # type: ignore[arg-type]
            lambda: LocalFederation([]).settle(now="now"),  # type: ignore[arg-type]
        ]
        for call in calls:
            with pytest.raises(LocalProtocolError):
                call()

    @pytest.mark.parametrize("wrong", [None, 5, new("a.example")])
    def test_what_is_no_list_of_directories(self, wrong: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            LocalFederation(wrong)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/directories")

    def test_two_of_one_name(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            LocalFederation([new("a.example"), new("a.example")])
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/directories")

    def test_one_that_was_not_there_replaces_nobody(self, federation: LocalFederation) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            federation.replace(new("c.example"))
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/server_name")
