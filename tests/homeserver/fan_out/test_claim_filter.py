"""What another server hands out: only what was claimed, one key of each device."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import KeysClaimResponse, OneTimeKey, Reason, Rejection, SignedJson, UserKeysClaimResponse
from matrix_e2e_keys.homeserver.fan_out.claim_filter import FilteredClaim, filter_claim_answer, shown_one_time_key
from matrix_e2e_keys.testing.message_strategies import user_keys_claim_responses
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key

SERVER = "b.example"
BOB = SampleUser("@bob:b.example")
BEN = SampleUser("@ben:b.example")
EVE = SampleUser("@eve:e.example")
B = BOB.user_id
SIGNED = "signed_curve25519"
ASKED = {B: {"X": SIGNED, "Y": SIGNED, "Z": "curve25519"}}
BARE = sample_curve25519_key("bare").to_base64()


def key(name: str, device_id: str = "X", user: SampleUser = BOB) -> dict[str, Any]:
    return user.one_time_key(device_id, name).to_json()  # type: ignore[return-value]


def judged(one_time_keys: Any, asked: Any = ASKED) -> FilteredClaim:
    text = json.dumps({"one_time_keys": one_time_keys})
    return filter_claim_answer(UserKeysClaimResponse.from_bytes(text), server_name=SERVER, asked=asked)


def plain(result: FilteredClaim) -> dict[str, Any]:
    return {
        user: {device: {name: key.to_json() for name, key in keys.items()} for device, keys in of.items()}  # type: ignore[union-attr]
        for user, of in result.keys.items()
    }


def dropped(result: FilteredClaim) -> list[tuple[str, Reason]]:
    return [(rejection.path, rejection.reason) for rejection in result.dropped]


class TestWhatIsPassedOn:
    def test_one_key_of_each_device_as_it_was_claimed(self) -> None:
        told = {B: {"X": {f"{SIGNED}:A": key("A")}, "Z": {"curve25519:B": BARE}}}
        result = judged(told)
        assert (plain(result), result.dropped) == (told, ())

    def test_devices_without_keys_are_left_out_and_so_are_users(self) -> None:
        result = judged({B: {"X": {}, "Y": {f"{SIGNED}:A": key("A", "Y")}}})
        assert set(result.keys[B]) == {"Y"}
        assert judged({B: {"X": {}}}).keys == {}
        assert judged({B: {}}).keys == {}

    def test_fallback_keys(self) -> None:
        fallback = BOB.one_time_key("X", "F", fallback=True).to_json()
        assert plain(judged({B: {"X": {f"{SIGNED}:F": fallback}}})) == {B: {"X": {f"{SIGNED}:F": fallback}}}

    def test_stored_keys_that_are_malformed_are_written_as_they_are(self) -> None:
        stored = SignedJson.from_json({"key": 5, "signatures": {}})
        shown = shown_one_time_key(f"{SIGNED}:A", stored, B, "X")
        body = KeysClaimResponse(one_time_keys={B: {"X": {f"{SIGNED}:A": shown}}}).to_json()
        assert body["one_time_keys"] == {B: {"X": {f"{SIGNED}:A": {"key": 5, "signatures": {}}}}}
        assert shown.path == f"/one_time_keys/{B}/X/{SIGNED}:A/key"  # type: ignore[union-attr]


class TestWhatIsDropped:
    @pytest.mark.parametrize(
        ("user_id", "reason"),
        [
            ("@ben:b.example", Reason.UNREQUESTED),
            ("@eve:e.example", Reason.SERVER_NAME_MISMATCH),
            ("@bob:b.example:8448", Reason.SERVER_NAME_MISMATCH),
            ("@a:evil.org:b.example", Reason.INVALID_IDENTIFIER),
        ],
    )
    def test_users_of_whom_nothing_was_claimed(self, user_id: str, reason: Reason) -> None:
        """Attacks 44 and 53."""
        told = {"X": {f"{SIGNED}:A": key("A")}}
        result = judged({user_id: told, B: told})
        assert dropped(result) == [(f"/one_time_keys/{user_id}", reason)]
        assert (result.dropped[0].raw, result.dropped[0].user_id) == (told, user_id)
        assert plain(result) == {B: told}

    def test_devices_of_which_nothing_was_claimed(self) -> None:
        """Attack 44."""
        told = {f"{SIGNED}:A": key("A", "NEW")}
        result = judged({B: {"NEW": told}})
        assert dropped(result) == [(f"/one_time_keys/{B}/NEW", Reason.UNREQUESTED)]
        assert (result.dropped[0].raw, result.dropped[0].device_id) == (told, "NEW")
        assert result.keys == {}

    @pytest.mark.parametrize(
        ("device_id", "key_id", "told"),
        [("X", "curve25519:A", BARE), ("Z", f"{SIGNED}:A", key("A", "Z")), ("X", "m.unknown:A", {"key": "x"})],
    )
    def test_keys_of_another_algorithm(self, device_id: str, key_id: str, told: Any) -> None:
        """Attack 44."""
        result = judged({B: {device_id: {key_id: told}}})
        assert dropped(result) == [(f"/one_time_keys/{B}/{device_id}/{key_id}", Reason.UNREQUESTED)]
        assert (result.dropped[0].raw, result.dropped[0].device_id) == (told, device_id)
        assert result.keys == {}

    def test_more_than_one_key_of_a_device(self) -> None:
        """Attack 44."""
        told = {f"{SIGNED}:{name}": key(name) for name in "ABC"}
        result = judged({B: {"X": told}})
        assert plain(result) == {B: {"X": {f"{SIGNED}:A": told[f"{SIGNED}:A"]}}}
        assert dropped(result) == [(f"/one_time_keys/{B}/X/{SIGNED}:{name}", Reason.TOO_MANY_KEYS) for name in "BC"]
        assert result.dropped[0].raw == told[f"{SIGNED}:B"]

    def test_the_first_that_is_right_is_passed_on(self) -> None:
        told = {"curve25519:A": BARE, f"{SIGNED}:B": 5, f"{SIGNED}:C": key("C")}
        result = judged({B: {"X": told}})
        assert set(result.keys[B]["X"]) == {f"{SIGNED}:C"}
        assert len(result.dropped) == 2

    @pytest.mark.parametrize("told", [BARE, None, 5, {}, {"key": 5}, {"key": "?"}, {"key": 1.5}])
    def test_malformed_keys(self, told: Any) -> None:
        """Attack 44: a bare string where a signed key was claimed."""
        result = judged({B: {"X": {f"{SIGNED}:A": told}, "Y": {f"{SIGNED}:B": key("B", "Y")}}})
        (rejection,) = result.dropped
        assert rejection.path.startswith(f"/one_time_keys/{B}/X/{SIGNED}:A")
        assert set(result.keys[B]) == {"Y"}

    @pytest.mark.parametrize("told", [None, 5, [], "x"])
    def test_malformed_devices_and_users(self, told: Any) -> None:
        result = judged({B: {"X": told}})
        assert dropped(result) == [(f"/one_time_keys/{B}/X", Reason.WRONG_TYPE)]
        result = judged({B: told})
        assert dropped(result) == [(f"/one_time_keys/{B}", Reason.WRONG_TYPE)]
        assert dropped(judged(told)) == [("/one_time_keys", Reason.WRONG_TYPE)]

    def test_signatures_by_others_and_what_is_unsigned(self) -> None:
        told = key("A")
        mixed = {
            **told,
            "signatures": {**told["signatures"], EVE.user_id: {"ed25519:E": "x"}},
            "unsigned": {"device_display_name": "x"},
        }
        result = judged({B: {"X": {f"{SIGNED}:A": mixed}}})
        assert plain(result) == {B: {"X": {f"{SIGNED}:A": told}}}
        path = f"/one_time_keys/{B}/X/{SIGNED}:A/signatures/{EVE.user_id}"
        assert dropped(result) == [(path, Reason.USER_ID_MISMATCH)]
        assert (result.dropped[0].raw, result.dropped[0].device_id) == ({"ed25519:E": "x"}, "X")


class TestAnyAnswer:
    @given(answer=user_keys_claim_responses())
    def test_what_is_passed_on_was_claimed(self, answer: UserKeysClaimResponse) -> None:
        asked = {
            user: dict.fromkeys(list(of)[:1], SIGNED)
            for user, of in answer.one_time_keys.items()
            if not isinstance(of, Rejection)
        }
        result = filter_claim_answer(answer, server_name=SERVER, asked=asked)
        for user, of in result.keys.items():
            for device, keys in of.items():
                assert asked[user][device] == SIGNED
                ((key_id, passed_on),) = keys.items()
                assert isinstance(passed_on, OneTimeKey)
                assert key_id.startswith(f"{SIGNED}:")
                assert passed_on.signed is not None
                assert set(passed_on.signed.signatures) <= {user}
        KeysClaimResponse(one_time_keys=result.keys).to_http()
