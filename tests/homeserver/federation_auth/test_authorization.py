"""Requests between homeservers: who is believed to have sent one, and who is not."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import signedjson.key
import signedjson.sign
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    E2EKeysError,
    Ed25519PublicKey,
    Ed25519SecretKey,
    HttpRequest,
    HttpResponse,
    JsonLimits,
    KeyId,
    LocalProtocolError,
    MatrixError,
    OldVerifyKey,
    Reason,
    ServerKeys,
    Signer,
    VerifiedServerKeys,
)
from matrix_e2e_keys.homeserver.federation_auth.authorization import XMatrixClaim, read_authorization, sign_request
from matrix_e2e_keys.homeserver.federation_auth.header import XMatrixHeader, parse_authorization
from matrix_e2e_keys.testing.samples import sample_secret_key
from matrix_e2e_keys.testing.strategies import canonical_json_objects, json_like_values, server_names

ORIGIN = "a.example:8448"
OWN = "b.example"
ONE = sample_secret_key("server one").signer("ed25519:a_1")
TWO = sample_secret_key("server two").signer("ed25519:b_2")
OLD = sample_secret_key("server old").signer("ed25519:old")
STRANGER = sample_secret_key("stranger")
NOW = 1_700_000_000_000
DAY = 86_400_000

SENT = HttpRequest(method="POST", path="/_matrix/x/%40a%3Ab", query="y=%20", body=b'{"z":1}')
KEYS = {"ed25519:a_1": ONE.public_key, "ed25519:b_2": TWO.public_key}


def signed(request: HttpRequest = SENT, *signers: Signer, origin: str = ORIGIN, to: str = OWN) -> tuple[str, ...]:
    return sign_request(request, origin=origin, destination=to, signers=signers or ONE)


HEADERS = signed()


def published(*, valid_until_ts: int = NOW + DAY) -> VerifiedServerKeys:
    document = ServerKeys.build(
        server_name=ORIGIN,
        signers=[ONE, TWO],
        valid_until_ts=valid_until_ts,
        old_verify_keys={"ed25519:old": OldVerifyKey(OLD.public_key, NOW)},
    )
    return document.verify(server_name=ORIGIN)


def verify(request: HttpRequest = SENT, headers: Iterable[str | bytes] = HEADERS, **changes: Any) -> str:
    arguments: dict[str, Any] = {"keys": published(), "received_ts": NOW, "now": NOW, **changes}
    return read_authorization(headers, server_name=OWN).verify(request, **arguments)


def refusal(
    request: HttpRequest = SENT, headers: Iterable[str | bytes] = HEADERS, **changes: Any
) -> tuple[int, str | None, str]:
    """What is answered to a request that is not believed."""
    with pytest.raises(MatrixError) as refused:
        verify(request, headers, **changes)
    assert not refused.value.in_answer
    return refused.value.status, refused.value.errcode, refused.value.error


MISSING = (401, "M_UNAUTHORIZED", "Missing Authorization headers")
MALFORMED = (400, "M_UNAUTHORIZED", "Malformed Authorization header")
UNKNOWN = (401, "M_UNAUTHORIZED", f"No key of {ORIGIN} is known that signed the request")
EXPIRED = (401, "M_UNAUTHORIZED", f"The keys of {ORIGIN} are not valid any more")
BAD = (401, "M_UNAUTHORIZED", f"Invalid signature by {ORIGIN} with key 'ed25519:a_1'")


def by_signedjson(request: HttpRequest, secret: Ed25519SecretKey, *, origin: str = ORIGIN, to: str = OWN) -> str:
    """The header as a server makes it that is built upon signedjson."""
    obj: dict[str, Any] = {"method": request.method, "uri": request.target, "origin": origin, "destination": to}
    if request.body:
        obj["content"] = json.loads(request.body)
    key = signedjson.key.decode_signing_key_base64("ed25519", "a_1", secret.export_base64())
    signature = signedjson.sign.sign_json(obj, origin, key)["signatures"][origin]["ed25519:a_1"]
    return f'X-Matrix origin="{origin}",destination="{to}",key="ed25519:a_1",sig="{signature}"'


class TestSigning:
    def test_what_is_signed_is_believed(self) -> None:
        assert verify() == ORIGIN

    def test_a_header_is_written_as_older_servers_want_it(self) -> None:
        (header,) = HEADERS
        signature = parse_authorization(header).signature
        assert header == (
            f'X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:a_1",sig="{signature}"'
        )
        assert header == by_signedjson(SENT, sample_secret_key("server one"))

    def test_there_is_a_header_for_each_key(self) -> None:
        headers = signed(SENT, ONE, TWO)
        assert [parse_authorization(header).key_id for header in headers] == ["ed25519:a_1", "ed25519:b_2"]
        assert signed(SENT, ONE) + signed(SENT, TWO) == headers
        assert sign_request(SENT, origin=ORIGIN, destination=OWN, signers=iter([ONE, TWO])) == headers

    def test_an_empty_body_is_left_out(self) -> None:
        bare = HttpRequest(method="GET", path="/x")
        assert signed(bare) == (by_signedjson(bare, sample_secret_key("server one")),)
        assert verify(bare, signed(bare)) == ORIGIN

    def test_the_key_id_of_a_signer_may_be_text(self) -> None:
        class Loose:
            key_id = "ed25519:a_1"
            public_key = ONE.public_key
            sign = staticmethod(ONE.sign)

        assert sign_request(SENT, origin=ORIGIN, destination=OWN, signers=Loose()) == HEADERS  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"request": None}, Reason.WRONG_TYPE, "/request"),
            ({"request": HttpResponse(status=200)}, Reason.WRONG_TYPE, "/request"),
            ({"request": evolve(SENT, body=b'{"z":1.5}')}, Reason.NOT_AN_INTEGER, "/content/z"),
            ({"request": evolve(SENT, body=b'{"z":1,"z":1}')}, Reason.DUPLICATE_MEMBER, "/content/z"),
            ({"request": evolve(SENT, body=b"{")}, Reason.NOT_JSON, ""),
            ({"request": evolve(SENT, body=b"\xff")}, Reason.NOT_UTF8, ""),
            ({"request": evolve(SENT, path="/\udc80")}, Reason.LONE_SURROGATE, "/uri"),
            ({"origin": "a b"}, Reason.INVALID_IDENTIFIER, "/origin"),
            ({"origin": None}, Reason.WRONG_TYPE, "/origin"),
            ({"destination": "@a:b"}, Reason.INVALID_IDENTIFIER, "/destination"),
            ({"destination": 7}, Reason.WRONG_TYPE, "/destination"),
            ({"signers": None}, Reason.WRONG_TYPE, "/signer"),
            ({"signers": "ed25519:a"}, Reason.WRONG_TYPE, "/signer"),
            ({"signers": []}, Reason.MISSING_KEY, "/signers"),
            ({"signers": [ONE, ONE]}, Reason.INVALID_KEY_ID, "/signers"),
            ({"signers": [ONE, None]}, Reason.WRONG_TYPE, "/signer"),
        ],
        ids=repr,
    )
    def test_what_cannot_be_signed_is_refused(self, change: dict[str, Any], reason: Reason, path: str) -> None:
        arguments: dict[str, Any] = {"request": SENT, "origin": ORIGIN, "destination": OWN, "signers": ONE, **change}
        with pytest.raises(LocalProtocolError) as refused:
            sign_request(arguments.pop("request"), **arguments)
        assert (refused.value.reason, refused.value.path) == (reason, path)

    @pytest.mark.parametrize("name", ['a"b', "a\\b", "a,b", "a b", "a\nb", "\xe9", "\x7f"])
    def test_a_key_id_that_some_server_would_misread_cannot_sign(self, name: str) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            signed(SENT, STRANGER.signer(KeyId("ed25519", name)))
        assert (refused.value.reason, refused.value.path) == (Reason.INVALID_KEY_ID, "/signers")

    @pytest.mark.parametrize("name", ["a:b", "!", "#", "+", "-", "[", "]", "~", "a=b"])
    def test_any_other_key_id_can(self, name: str) -> None:
        headers = signed(SENT, STRANGER.signer(KeyId("ed25519", name)))
        assert verify(headers=headers, keys={f"ed25519:{name}": STRANGER.public_key}) == ORIGIN

    def test_64_keys_sign_and_no_more(self) -> None:
        signers = [STRANGER.signer(f"ed25519:{number}") for number in range(65)]
        headers = signed(SENT, *signers[:64])
        assert verify(headers=headers, keys={"ed25519:63": STRANGER.public_key}) == ORIGIN
        with pytest.raises(LocalProtocolError) as refused:
            signed(SENT, *signers)
        assert (refused.value.reason, refused.value.path) == (Reason.TOO_MANY_KEYS, "/signers")

    @given(json_like_values())
    def test_of_any_arguments_nothing_but_a_refusal_comes(self, value: Any) -> None:
        for name in ("request", "origin", "destination", "signers"):
            arguments: dict[str, Any] = {"request": SENT, "origin": ORIGIN, "destination": OWN, "signers": ONE}
            arguments[name] = value
            with contextlib.suppress(E2EKeysError):
                sign_request(arguments.pop("request"), **arguments)


class TestReadingHeaders:
    def test_a_claim_names_who_and_with_which_keys(self) -> None:
        claim = read_authorization(signed(SENT, ONE, TWO), server_name=OWN)
        assert (claim.origin, claim.server_name) == (ORIGIN, OWN)
        assert claim.key_ids == ("ed25519:a_1", "ed25519:b_2")

    def test_headers_may_be_bytes_and_of_other_schemes(self) -> None:
        headers = [b"Bearer abc", HEADERS[0].encode(), "", "X-Matrixx more"]
        assert verify(headers=headers) == ORIGIN

    @pytest.mark.parametrize("headers", [[], ["Bearer abc"], [""], ["X-Matrixx " + HEADERS[0][9:]], iter(())])
    def test_without_a_header_nobody_asks(self, headers: Any) -> None:
        assert refusal(headers=headers) == MISSING

    @pytest.mark.parametrize(
        "headers",
        [
            ["X-Matrix"],
            ["X-Matrix origin"],
            [HEADERS[0][:-1]],
            [HEADERS[0] + " x"],
            [HEADERS[0] + ",x" + "x" * 9000 + "=y"],
            [HEADERS[0] + f',origin="{ORIGIN}"'],
            [HEADERS[0], "x-matrix"],
            [HEADERS[0].replace(ORIGIN, "")],
            [HEADERS[0].replace(ORIGIN, "a b")],
            [HEADERS[0].replace(ORIGIN, "@a:a.example")],
            [HEADERS[0].replace(ORIGIN, "a.example:99999")],
            [HEADERS[0].replace("ed25519:a_1", "a_1")],
            [HEADERS[0].replace("ed25519:a_1", "")],
            [HEADERS[0].replace("ed25519:a_1", ":a_1")],
            [HEADERS[0], HEADERS[0]],
            [HEADERS[0], HEADERS[0].replace(parse_authorization(HEADERS[0]).signature, "A" * 86)],
            [HEADERS[0], signed(SENT, TWO, origin="c.example")[0]],
            [signed(SENT, TWO, origin="c.example")[0], HEADERS[0]],
            [HEADERS[0].replace(OWN, "c.example"), "X-Matrix"],
        ],
        ids=repr,
    )
    def test_what_is_malformed_or_at_odds_with_itself_is_refused(self, headers: Any) -> None:
        """Attack 53: nobody can say two origins, or none, and be heard as one of them."""
        assert refusal(headers=headers) == MALFORMED

    @pytest.mark.parametrize("destination", ["c.example", "", "B.example", "b.example:8448", "b.example."])
    def test_a_request_for_another_server_is_denied(self, destination: str) -> None:
        """Whoever was asked could otherwise pass the request on, in the name of who asked."""
        status, errcode, _ = refusal(headers=[HEADERS[0].replace(f'"{OWN}"', f'"{destination}"')])
        assert (status, errcode) == (401, "M_UNAUTHORIZED")
        assert refusal(headers=signed(to="c.example")) == (
            401,
            "M_UNAUTHORIZED",
            "The request is for 'c.example', not for this server",
        )

    def test_each_of_several_headers_must_be_for_this_server(self) -> None:
        headers = [*HEADERS, *signed(SENT, TWO, to="c.example")]
        assert refusal(headers=headers)[0] == 401

    def test_64_signatures_are_read_and_no_more(self) -> None:
        headers = [
            XMatrixHeader(origin=ORIGIN, key_id=f"ed25519:{number}", signature="").to_header() for number in range(65)
        ]
        assert len(read_authorization(headers[:64], server_name=OWN).key_ids) == 64
        assert refusal(headers=headers) == MALFORMED

    @pytest.mark.parametrize(
        ("headers", "server_name", "path"),
        [
            (None, OWN, "/headers"),
            (HEADERS[0], OWN, "/headers"),
            (HEADERS[0].encode(), OWN, "/headers"),
            ([None], OWN, "/header"),
            (HEADERS, None, "/server_name"),
            (HEADERS, "b example", "/server_name"),
        ],
    )
    def test_the_callers_mistakes_are_no_answers(self, headers: Any, server_name: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            read_authorization(headers, server_name=server_name)
        assert refused.value.path == path

    @pytest.mark.parametrize("start", ["X-Matrix ", 'X-Matrix a="'])
    @pytest.mark.parametrize("piece", ['"', "\\", ",", "a=", 'a="'])
    def test_a_header_of_a_megabyte_is_refused_at_once(self, start: str, piece: str) -> None:
        started = time.perf_counter()
        assert refusal(headers=[start + piece * (1_000_000 // len(piece))] * 64) == MALFORMED
        assert time.perf_counter() - started < 1

    @given(st.lists(st.text(max_size=60) | st.text(max_size=60).map(lambda text: "X-Matrix " + text), max_size=3))
    def test_of_any_headers_an_answer_comes(self, headers: list[str]) -> None:
        with contextlib.suppress(MatrixError):
            read_authorization(headers, server_name=OWN)

    @given(json_like_values())
    def test_a_claim_made_by_hand_is_checked(self, value: Any) -> None:
        for name in ("origin", "server_name", "signatures"):
            parts: dict[str, Any] = {"origin": ORIGIN, "server_name": OWN, "signatures": {}, name: value}
            with contextlib.suppress(LocalProtocolError):
                XMatrixClaim(**parts)
        with pytest.raises(LocalProtocolError, match="origin"):
            XMatrixClaim(origin=None, server_name=OWN, signatures={})  # type: ignore[arg-type]


class TestChecking:
    @pytest.mark.parametrize(
        "request_",
        [
            evolve(SENT, method="PUT"),
            evolve(SENT, method="post"),
            evolve(SENT, path="/_matrix/x/@a:b"),
            evolve(SENT, path="/_matrix/x/%40a%3ab"),
            evolve(SENT, query="y=+"),
            evolve(SENT, query=""),
            evolve(SENT, body=b'{"z":2}'),
            evolve(SENT, body=b'{"z":1,"signatures":{}}'),
            evolve(SENT, body=b"{}"),
            evolve(SENT, body=b"null"),
            evolve(SENT, body=b""),
        ],
        ids=repr,
    )
    def test_another_request_than_the_one_that_was_signed_is_denied(self, request_: HttpRequest) -> None:
        """Attack 53: method, path, query and body are all covered, as they are on the wire."""
        assert refusal(request_) == BAD

    def test_whitespace_and_order_in_the_body_are_of_no_matter(self) -> None:
        sent = evolve(SENT, body=b'{"a":"\xc3\xa9","z":[1,true,null]}')
        came = evolve(SENT, body=b' { "z": [1, true, null],\n "a": "\\u00e9" } ')
        assert verify(came, signed(sent)) == ORIGIN

    def test_a_name_in_place_of_another_is_denied(self) -> None:
        """Attack 53: a server that signs as itself is not heard as another."""
        headers = [HEADERS[0].replace(ORIGIN, "c.example")]
        claim = read_authorization(headers, server_name=OWN)
        with pytest.raises(MatrixError, match=r"Invalid signature by c\.example"):
            claim.verify(SENT, keys=KEYS, received_ts=NOW, now=NOW)

    def test_without_a_destination_it_is_this_server_that_was_meant(self) -> None:
        without = HEADERS[0].replace(f'destination="{OWN}",', "")
        assert "destination" not in without
        assert verify(headers=[without]) == ORIGIN
        for_another = signed(to="c.example")[0].replace('destination="c.example",', "")
        assert "destination" not in for_another
        assert refusal(headers=[for_another]) == BAD

    def test_a_key_nobody_knows_is_passed_over_if_another_is_known(self) -> None:
        headers = [*signed(SENT, STRANGER.signer("ed25519:x")), *HEADERS]
        assert verify(headers=headers) == ORIGIN
        assert verify(headers=reversed(headers)) == ORIGIN
        assert refusal(headers=headers[:1]) == UNKNOWN

    @pytest.mark.parametrize("turned", [False, True])
    def test_each_signature_by_a_known_key_must_be_good(self, turned: bool) -> None:
        good, bad = signed(SENT, TWO)[0], signed(SENT, STRANGER.signer("ed25519:a_1"))[0]
        assert refusal(headers=[bad, good] if turned else [good, bad]) == BAD

    @pytest.mark.parametrize("text", ["", "A" * 86, "A" * 85, "!", "=", "\xe9"])
    def test_what_is_no_signature_is_denied(self, text: str) -> None:
        header = XMatrixHeader(origin=ORIGIN, key_id="ed25519:a_1", signature=text)
        assert refusal(headers=[header.to_header()]) == BAD

    def test_a_key_of_another_algorithm_signs_nothing(self) -> None:
        header = XMatrixHeader(
            origin=ORIGIN, key_id="ed448:a_1", signature=parse_authorization(HEADERS[0]).signature
        ).to_header()
        assert refusal(headers=[header]) == UNKNOWN
        status, _, error = refusal(headers=[header], keys={"ed448:a_1": ONE.public_key})
        assert (status, error) == (401, f"Invalid signature by {ORIGIN} with key 'ed448:a_1'")

    def test_a_key_that_the_server_does_not_use_any_more_signs_nothing(self) -> None:
        assert "ed25519:old" in published().document.old_verify_keys
        assert refusal(headers=signed(SENT, OLD)) == UNKNOWN

    def test_keys_may_be_used_until_the_moment_they_say(self) -> None:
        assert verify(keys=published(valid_until_ts=NOW), now=NOW) == ORIGIN
        assert refusal(keys=published(valid_until_ts=NOW), now=NOW + 1) == EXPIRED

    def test_keys_may_be_used_for_seven_days_at_most(self) -> None:
        keys = published(valid_until_ts=NOW + 30 * DAY)
        assert verify(keys=keys, received_ts=NOW, now=NOW + 7 * DAY) == ORIGIN
        assert refusal(keys=keys, received_ts=NOW, now=NOW + 7 * DAY + 1) == EXPIRED

    def test_keys_may_be_given_one_by_one(self) -> None:
        assert verify(keys=KEYS, now=NOW + 1000 * DAY) == ORIGIN
        assert refusal(keys={}) == UNKNOWN
        assert refusal(keys={"ed25519:b_2": ONE.public_key}) == UNKNOWN
        assert refusal(keys={"ed25519:a_1": TWO.public_key}) == BAD

    @pytest.mark.parametrize(
        ("body", "status", "errcode"),
        [
            (b"{", 400, "M_NOT_JSON"),
            (b" ", 400, "M_NOT_JSON"),
            (b"\xff", 400, "M_NOT_JSON"),
            (b'{"z":1,"z":1}', 400, "M_BAD_JSON"),
            (b'{"z":1,"z":2}', 400, "M_BAD_JSON"),
            (b'{"z":1.0}', 400, "M_BAD_JSON"),
            (b'{"z":-0}', 400, "M_BAD_JSON"),
            (b'{"z":1e0}', 400, "M_BAD_JSON"),
            (b'{"z":9007199254740992}', 400, "M_BAD_JSON"),
            (b'{"z":NaN}', 400, "M_BAD_JSON"),
            (b'{"z":"\\ud800"}', 400, "M_BAD_JSON"),
            (b"[" * 1000 + b"]" * 1000, 400, "M_BAD_JSON"),
        ],
        ids=repr,
    )
    def test_a_body_that_could_be_read_in_two_ways_is_refused(self, body: bytes, status: int, errcode: str) -> None:
        """Attacks 6, 7 and 8: what was verified is what will be read."""
        assert refusal(evolve(SENT, body=body))[:2] == (status, errcode)

    def test_the_limits_of_the_body_are_those_of_the_caller(self) -> None:
        assert refusal(limits=JsonLimits(max_bytes=6))[:2] == (413, "M_TOO_LARGE")
        assert verify(limits=JsonLimits(max_bytes=7)) == ORIGIN

    def test_a_body_may_be_as_deep_as_it_may_be_read(self) -> None:
        deep = evolve(SENT, body=b"[" * 128 + b"]" * 128)
        assert verify(deep, signed(deep)) == ORIGIN

    def test_a_path_that_is_no_text_is_refused(self) -> None:
        assert refusal(evolve(SENT, path="/\udc80"))[:2] == (400, "M_BAD_JSON")
        raw = HttpRequest.from_target(method="GET", target=b"/\xe9?\xff")
        assert verify(raw, signed(raw)) == ORIGIN

    def test_the_body_of_a_stranger_is_not_parsed(self) -> None:
        assert refusal(evolve(SENT, body=b"{"), keys={}) == UNKNOWN
        assert refusal(evolve(SENT, body=b"{"), keys=published(valid_until_ts=0)) == EXPIRED

    def test_a_verifier_that_says_no_is_believed(self) -> None:
        class No:
            def verify_many(self, checks: Any) -> list[bool]:
                return [False for _ in checks]

        assert refusal(verifier=No()) == BAD

    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"request": None}, Reason.WRONG_TYPE, "/request"),
            ({"keys": None}, Reason.WRONG_TYPE, "/keys"),
            ({"keys": {"ed25519:x": "abc"}}, Reason.WRONG_TYPE, "/keys/ed25519:x"),
            ({"keys": published().document}, Reason.WRONG_TYPE, "/keys"),
            ({"received_ts": "now"}, Reason.WRONG_TYPE, "/received_ts"),
            ({"now": 1.5}, Reason.WRONG_TYPE, "/now"),
            ({"now": None, "keys": KEYS}, Reason.WRONG_TYPE, "/now"),
            ({"verifier": None, "keys": {}}, Reason.WRONG_TYPE, "/verifier"),
            ({"limits": None, "keys": {}}, Reason.WRONG_TYPE, "/limits"),
        ],
        ids=repr,
    )
    def test_the_callers_mistakes_are_no_answers(self, change: dict[str, Any], reason: Reason, path: str) -> None:
        arguments: dict[str, Any] = {"request": SENT, "keys": published(), "received_ts": NOW, "now": NOW, **change}
        claim = read_authorization(HEADERS, server_name=OWN)
        with pytest.raises(LocalProtocolError) as refused:
            claim.verify(arguments.pop("request"), **arguments)
        assert (refused.value.reason, refused.value.path) == (reason, path)

    def test_the_keys_of_another_server_are_the_callers_mistake(self) -> None:
        claim = read_authorization(signed(origin="c.example"), server_name=OWN)
        with pytest.raises(LocalProtocolError) as refused:
            claim.verify(SENT, keys=published(), received_ts=NOW, now=NOW)
        assert (refused.value.reason, refused.value.path) == (Reason.SERVER_NAME_MISMATCH, "/keys")


def requests() -> st.SearchStrategy[HttpRequest]:
    return st.builds(
        HttpRequest,
        method=st.sampled_from(["GET", "POST", "PUT"]),
        path=st.text(st.characters(exclude_categories=["Cs"]), max_size=10).map(lambda text: "/" + text),
        query=st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
        body=st.just(b"") | canonical_json_objects().map(lambda obj: json.dumps(obj).encode()),
    )


class TestOtherServers:
    @given(requests(), server_names(), server_names())
    def test_what_signedjson_signs_is_believed_here(self, request_: HttpRequest, origin: str, own_name: str) -> None:
        header = by_signedjson(request_, sample_secret_key("server one"), origin=origin, to=own_name)
        claim = read_authorization([header], server_name=own_name)
        assert claim.verify(request_, keys=KEYS, received_ts=0, now=0) == origin

    @given(requests(), server_names(), server_names())
    def test_what_is_signed_here_is_believed_by_signedjson(
        self, request_: HttpRequest, origin: str, destination: str
    ) -> None:
        (header,) = signed(request_, ONE, origin=origin, to=destination)
        parsed = parse_authorization(header)
        obj: dict[str, Any] = {
            "method": request_.method,
            "uri": request_.target,
            "origin": parsed.origin,
            "destination": parsed.destination,
            "signatures": {parsed.origin: {parsed.key_id: parsed.signature}},
        }
        if request_.body:
            obj["content"] = json.loads(request_.body)
        key = signedjson.key.decode_verify_key_bytes("ed25519:a_1", ONE.public_key.raw)
        signedjson.sign.verify_signed_json(obj, origin, key)

    @given(requests(), requests())
    def test_a_signature_is_good_for_one_request_only(self, sent: HttpRequest, came: HttpRequest) -> None:
        def meaning(request_: HttpRequest) -> tuple[object, ...]:
            body = json.dumps(json.loads(request_.body), sort_keys=True) if request_.body else None
            return request_.method, request_.target, body

        is_believed = True
        try:
            verify(came, signed(sent))
        except MatrixError:
            is_believed = False
        assert is_believed == (meaning(sent) == meaning(came))


def test_keys_may_be_any_mapping() -> None:
    class Keys(Mapping[str, Ed25519PublicKey]):
        def __getitem__(self, key_id: str) -> Ed25519PublicKey:
            return KEYS[key_id]

        def __iter__(self) -> Any:
            return iter(KEYS)

        def __len__(self) -> int:
            return len(KEYS)

    assert verify(keys=Keys()) == ORIGIN
