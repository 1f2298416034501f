"""The keys of other servers, as long as they may be used."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import E2EKeysError, HttpResponse, LocalProtocolError, MatrixError, Reason, VerificationError
from matrix_e2e_keys.endpoints.http_values import HttpRequest
from matrix_e2e_keys.homeserver.directory import known_servers
from matrix_e2e_keys.homeserver.directory.known_servers import KnownServers
from matrix_e2e_keys.homeserver.federation_auth.authorization import XMatrixClaim, read_authorization, sign_request
from matrix_e2e_keys.models.server_keys import ServerKeys
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.signing.verifiers import LIBSODIUM
from matrix_e2e_keys.testing.samples import sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

NOW = 1_700_000_000_000
HOUR = 3_600_000


def signer(version: int = 1, name: str = "b.example") -> Signer:
    return sample_secret_key(f"{name} {version}").signer(f"ed25519:{version}")


def document(*versions: int, name: str = "b.example", valid_until_ts: int = NOW + HOUR) -> HttpResponse:
    keys = ServerKeys.build(
        server_name=name, signers=[signer(version, name) for version in versions], valid_until_ts=valid_until_ts
    )
    return HttpResponse(status=200, body=json.dumps(keys.to_json()).encode())


def claim(*versions: int, origin: str = "b.example") -> XMatrixClaim:
    signatures = {f"ed25519:{version}": "x" for version in versions}
    return XMatrixClaim(origin=origin, server_name="a.example", signatures=signatures)


def knowing(*versions: int, valid_until_ts: int = NOW + HOUR) -> KnownServers:
    known = KnownServers()
    known.receive("b.example", document(*versions, valid_until_ts=valid_until_ts), now=NOW)
    return known


def test_nobody_is_known_at_first() -> None:
    assert KnownServers().keys_for(claim(1), now=NOW) is None


def test_keys_are_known_with_the_time_when_they_came() -> None:
    found = knowing(1).keys_for(claim(1), now=NOW + 7)
    assert found is not None
    keys, received_ts = found
    assert (keys.server_name, list(keys.verify_keys), received_ts) == ("b.example", ["ed25519:1"], NOW)


def test_of_that_server_only() -> None:
    assert knowing(1).keys_for(claim(1, origin="c.example"), now=NOW) is None


@pytest.mark.parametrize(("later", "is_known"), [(0, True), (HOUR, True), (HOUR + 1, False)])
def test_as_long_as_they_are_valid(later: int, is_known: bool) -> None:
    assert (knowing(1).keys_for(claim(1), now=NOW + later) is not None) is is_known


def test_for_a_week_at_most() -> None:
    week = 7 * 24 * HOUR
    known = knowing(1, valid_until_ts=NOW + 100 * week)
    assert known.keys_for(claim(1), now=NOW + week) is not None
    assert known.keys_for(claim(1), now=NOW + week + 1) is None


def test_a_claim_that_names_other_keys_makes_them_be_fetched() -> None:
    known = knowing(1)
    later = NOW + 60_000
    assert known.keys_for(claim(2), now=later) is None
    assert known.keys_for(claim(1, 2), now=later) is not None
    known.receive("b.example", document(2), now=later)
    assert known.keys_for(claim(1), now=later + 60_000) is None
    found = known.keys_for(claim(2), now=later + 60_000)
    assert found is not None
    assert found[1] == later


@pytest.mark.parametrize(
    "response",
    [
        HttpResponse(status=404, body=b'{"errcode": "M_NOT_FOUND"}'),
        HttpResponse(status=200, body=b"text"),
        HttpResponse(status=200, body=b"{}"),
        document(1, name="c.example"),
    ],
)
def test_what_are_no_keys_changes_nothing(response: HttpResponse) -> None:
    known = knowing(1)
    with pytest.raises(E2EKeysError):
        known.receive("b.example", response, now=NOW + 5)
    found = known.keys_for(claim(1), now=NOW)
    assert found is not None
    assert found[1] == NOW


def test_a_refusal_says_so() -> None:
    with pytest.raises(MatrixError):
        KnownServers().receive("b.example", HttpResponse(status=503, body=b"{}"), now=NOW)


def test_keys_must_have_signed_the_document() -> None:
    tree = json.loads(document(1).body)
    tree["verify_keys"]["ed25519:2"] = {"key": sample_secret_key("thief").public_key.to_base64()}
    with pytest.raises(VerificationError):
        KnownServers().receive("b.example", HttpResponse(status=200, body=json.dumps(tree).encode()), now=NOW)


def test_the_verifier_is_the_given_one() -> None:
    class Nobody:
        def verify(self, *args: object) -> bool:
            return False

        def verify_many(self, *args: object) -> list[bool]:
            return [False]

    with pytest.raises(E2EKeysError):
        KnownServers(verifier=Nobody()).receive("b.example", document(1), now=NOW)  # type: ignore[arg-type]
    KnownServers(verifier=LIBSODIUM).receive("b.example", document(1), now=NOW)


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_servers, "_REMEMBERED", 2)
    known = KnownServers()
    for name in ("b.example", "c.example", "b.example", "d.example"):
        known.receive(name, document(1, name=name), now=NOW)
    found = {name for name in ("b.example", "c.example", "d.example") if known.keys_for(claim(1, origin=name), now=NOW)}
    assert found == {"b.example", "d.example"}


MINUTE = 60_000
REQUEST = HttpRequest(method="GET", path="/_matrix/federation/v1/user/devices/%40alice%3Aa.example")


class Author:
    """Whoever does what the documentation says, with servers that answer what they are said to."""

    def __init__(self, **answers: HttpResponse | None) -> None:
        self.servers = KnownServers()
        self.answers = {f"{name}.example": answer for name, answer in answers.items()}
        self.fetched: list[str] = []

    def origin_of(self, *versions: int, origin: str = "b.example", now: int = NOW) -> str | int:
        """Who has sent a request; or the status of the refusal."""
        signers = [signer(version, origin) for version in versions]
        headers = sign_request(REQUEST, origin=origin, destination="a.example", signers=signers)
        servers = self.servers
        try:
            claim = read_authorization(headers, server_name="a.example")
            known = servers.keys_for(claim, now=now)
            if known is None and servers.may_ask(claim.origin, now=now):
                self.fetched.append(claim.origin)
                response = self.answers.get(claim.origin)
                if response is None:
                    servers.receive_failure(claim.origin, now=now)
                else:
                    with contextlib.suppress(E2EKeysError):
                        servers.receive(claim.origin, response, now=now)
                known = servers.keys_for(claim, now=now)
            keys, received_ts = known or ({}, now)
            return claim.verify(REQUEST, keys=keys, received_ts=received_ts, now=now)
        except MatrixError as error:
            return error.status


class TestWhoIsAsked:
    def test_a_server_once_for_many_requests(self) -> None:
        author = Author(b=document(1, 2))
        assert [author.origin_of(version, now=NOW + version) for version in (1, 2, 1)] == ["b.example"] * 3
        assert author.fetched == ["b.example"]

    def test_again_for_a_key_that_is_not_known(self) -> None:
        author = Author(b=document(1))
        assert author.origin_of(1) == "b.example"
        author.answers["b.example"] = document(2)
        assert author.origin_of(2, now=NOW + MINUTE) == "b.example"
        assert author.origin_of(1, now=NOW + MINUTE) == 401
        assert author.fetched == ["b.example"] * 2

    def test_once_a_minute_whatever_keys_anybody_names(self) -> None:
        """Whoever makes up key ids does not make this server ask for each of them."""
        author = Author(b=document(1))
        statuses = {author.origin_of(version, now=NOW + 1000 * version) for version in range(2, 122)}
        assert statuses == {401}
        assert author.fetched == ["b.example"] * 2
        assert author.origin_of(1, now=NOW + 122_000) == "b.example", "the server itself is heard"

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            HttpResponse(status=503, body=b"{}"),
            HttpResponse(status=200, body=b"text"),
            document(1, name="c.example"),
        ],
    )
    def test_once_a_minute_whoever_fails(self, answer: HttpResponse | None) -> None:
        """Nor does whoever makes up a server."""
        author = Author(b=answer, c=document(1, name="c.example"))
        assert [author.origin_of(1, now=NOW + seconds * 1000) for seconds in range(120)] == [401] * 120
        assert author.fetched == ["b.example"] * 2
        assert author.origin_of(1, origin="c.example") == "c.example", "no other server waits for that"
        author.answers["b.example"] = document(1)
        assert author.origin_of(1, now=NOW + 120_000) == "b.example"

    def test_keys_that_do_not_suffice_are_returned_as_long_as_nobody_is_asked(self) -> None:
        """Whoever does not look at ``may_ask`` asks no more often, once there are keys."""
        servers = knowing(1, valid_until_ts=NOW + 10)
        for named, now in ((2, NOW), (1, NOW + 11), (2, NOW + MINUTE - 1)):
            found = servers.keys_for(claim(named), now=now)
            assert found is not None
            assert found[1] == NOW
        assert servers.keys_for(claim(1), now=NOW + MINUTE) is None
        servers.receive_failure("b.example", now=NOW + MINUTE)
        assert servers.keys_for(claim(1), now=NOW + MINUTE) is not None

    def test_once_a_minute_whose_keys_are_over_already(self) -> None:
        author = Author(b=document(1, valid_until_ts=NOW - 1))
        assert [author.origin_of(1, now=NOW + seconds * 1000) for seconds in range(120)] == [401] * 120
        assert author.fetched == ["b.example"] * 2

    def test_a_failure_takes_nothing_away(self) -> None:
        author = Author(b=document(1))
        author.origin_of(1)
        author.answers.clear()
        assert author.origin_of(2, now=NOW + MINUTE) == 401
        assert author.origin_of(1, now=NOW + MINUTE) == "b.example"
        author.servers.receive_failure("b.example", now=NOW + HOUR)
        assert author.origin_of(1, now=NOW + HOUR) == "b.example"
        assert author.origin_of(1, now=NOW + HOUR + 1) == 401, "but none is good for ever"

    def test_an_answer_ends_a_failure(self) -> None:
        servers = KnownServers()
        servers.receive_failure("b.example", now=NOW + 30_000)
        servers.receive("b.example", document(1), now=NOW)
        assert servers.may_ask("b.example", now=NOW + MINUTE)

    def test_nobody_waits_for_a_clock_that_is_set_back(self) -> None:
        servers = KnownServers()
        servers.receive_failure("b.example", now=NOW)
        answers = [servers.may_ask("b.example", now=NOW + later) for later in (-MINUTE, 1 - MINUTE, MINUTE - 1, MINUTE)]
        assert answers == [True, False, False, True]

    def test_never_this_server_itself(self) -> None:
        author = Author(a=document(1, name="a.example"))
        assert author.origin_of(1, origin="a.example") == 401
        assert author.fetched == []

    def test_failures_that_are_old_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(known_servers, "_REMEMBERED", 2)
        servers = knowing(1)
        for name in ("c.example", "d.example", "c.example", "e.example"):
            servers.receive_failure(name, now=NOW)
        names = ("b.example", "c.example", "d.example", "e.example")
        assert [servers.may_ask(name, now=NOW) for name in names] == [False, False, True, False]


class TestArgumentsOfKnownServers:
    @pytest.mark.parametrize(
        ("call", "path"),
        [
            (lambda servers: servers.keys_for(5, now=NOW), "/claim"),
            (lambda servers: servers.keys_for(claim(1), now=None), "/now"),
            (lambda servers: servers.keys_for(claim(1, origin="c.example"), now=0.5), "/now"),
            (lambda servers: servers.may_ask("", now=NOW), "/origin"),
            (lambda servers: servers.may_ask([], now=NOW), "/origin"),
            (lambda servers: servers.may_ask("b.example", now="0"), "/now"),
            (lambda servers: servers.receive({}, document(2), now=NOW), "/server_name"),
            (lambda servers: servers.receive("@b:b.example", document(2), now=NOW), "/server_name"),
            (lambda servers: servers.receive("b.example", b"{}", now=NOW), "/response"),
            (lambda servers: servers.receive("b.example", document(2), now=None), "/now"),
            (lambda servers: servers.receive("b.example", HttpResponse(status=200, body=b""), now=None), "/now"),
            (lambda servers: servers.receive_failure(5, now=NOW), "/server_name"),
            (lambda servers: servers.receive_failure("b.example", now=True), "/now"),
            (lambda servers: KnownServers(verifier=5), "/verifier"),
        ],
    )
    def test_that_are_wrong_change_nothing(self, call: Any, path: str) -> None:
        servers = knowing(1)
        before = (dict(servers._keys), dict(servers._failed))
        with pytest.raises(LocalProtocolError) as caught:
            call(servers)
        assert caught.value.path == path
        assert (dict(servers._keys), dict(servers._failed)) == before

    @given(json_like_values(), json_like_values(), json_like_values())
    def test_of_any_kind_cause_no_other_error(self, one: Any, two: Any, three: Any) -> None:
        servers = knowing(1)
        calls: list[Any] = [
            lambda: servers.keys_for(one, now=two),
            lambda: servers.may_ask(one, now=two),
            lambda: servers.receive(one, two, now=three),
            lambda: servers.receive_failure(one, now=two),
            lambda: KnownServers(verifier=one),
        ]
        for call in calls:
            with contextlib.suppress(E2EKeysError):
                call()

    def test_a_verifier_that_does_not_answer_is_not_the_servers_fault(self) -> None:
        class Silent:
            def verify_many(self, checks: Any, /) -> list[bool]:
                return []

        servers = KnownServers(verifier=Silent())
        with pytest.raises(LocalProtocolError) as caught:
            servers.receive("b.example", document(1), now=NOW)
        assert caught.value.reason is Reason.INVALID_VALUE
        assert servers.may_ask("b.example", now=NOW)
