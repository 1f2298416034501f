"""What other servers are told of this server's users."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    LocalProtocolError,
    MatrixError,
    Reason,
    SignedJson,
    UserDevice,
    UserDevicesRequest,
    UserDevicesResponse,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
)
from matrix_e2e_keys.homeserver.decisions import Decision
from matrix_e2e_keys.homeserver.fan_out.federation_answers import decide_user_devices, decide_user_keys_query
from matrix_e2e_keys.homeserver.policies import SPEC
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.testing.message_strategies import user_keys_query_requests
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

HOME = "a.example"
THERE = "b.example"
AMY = SampleUser("@amy:a.example")
ANN = SampleUser("@ann:a.example")
BOB = SampleUser("@bob:b.example")
USK = AMY.user_signing_key


def stored(user: SampleUser = AMY) -> UserKeys:
    """A user with whatever a store may hold: signatures by all kinds of keys, and a name that a client has chosen."""
    mixed: dict[str, Any] = {**user.device("X").to_json(), "unsigned": {"device_display_name": "chosen"}}
    mixed["signatures"][user.user_id][user.user_signing_key.key_name] = "usk"
    mixed["signatures"][BOB.user_id] = {"ed25519:B": "bob"}
    return UserKeys(
        user_id=user.user_id,
        devices={
            "X": DeviceRecord(device_id="X", keys=SignedJson.from_json(mixed), display_name="phone"),
            "BARE": DeviceRecord(device_id="BARE", display_name="bare"),
        },
        master_key=BOB.verified(user.verified(user.master_key)),
        self_signing_key=user.self_signing_key,
        user_signing_key=user.user_signing_key,
    )


def query(asked: dict[str, Any], **arguments: Any) -> Decision[UserKeysQueryResponse]:
    request = UserKeysQueryRequest.from_json({"device_keys": asked})
    defaults: dict[str, Any] = {"origin": THERE, "server_name": HOME, "local": {AMY.user_id: stored()}}
    return decide_user_keys_query(request, **{**defaults, **arguments})


def devices(user_id: str = AMY.user_id, **arguments: Any) -> Decision[UserDevicesResponse]:
    request = UserDevicesRequest(user_id=user_id)
    defaults: dict[str, Any] = {"origin": THERE, "server_name": HOME, "stored": stored(), "stream_id": 7}
    return decide_user_devices(request, **{**defaults, **arguments})


FOREIGNERS = [
    ("@bob:b.example", "M_UNKNOWN", "User is not hosted on this homeserver"),
    ("@amy:a.example:8448", "M_UNKNOWN", "User is not hosted on this homeserver"),
    ("@amy:A.example", "M_UNKNOWN", "User is not hosted on this homeserver"),
    ("@amy:a.example.", "M_UNKNOWN", "User is not hosted on this homeserver"),
    ("@amy:[::1]", "M_UNKNOWN", "User is not hosted on this homeserver"),
    ("@a:evil.org:a.example", "M_INVALID_PARAM", "'@a:evil.org:a.example' is not a user id"),
]


def refusal(decision: Decision[Any]) -> tuple[int, str | None, str]:
    assert isinstance(decision.answer, MatrixError)
    assert decision.effects == ()
    return decision.answer.status, decision.answer.errcode, decision.answer.error


class TestQuery:
    def test_what_everybody_may_see(self) -> None:
        """Attack 53: no user-signing key leaves the server, and no signature by one, or by anybody else."""
        decision = query({AMY.user_id: []})
        body = json.loads(decision.to_http().body)
        assert body == {
            "device_keys": {AMY.user_id: {"X": {**AMY.device("X").to_json(), "unsigned": {}}}},
            "master_keys": {AMY.user_id: {**AMY.master_key.to_json(), "signatures": {AMY.user_id: {}}}},
            "self_signing_keys": {AMY.user_id: AMY.self_signing_key.to_json()},
        }
        assert USK.key_id.name not in json.dumps(body)
        assert decision.effects == ()

    def test_unknown_users_and_devices_are_no_error(self) -> None:
        answer = query({AMY.user_id: ["NONE"], ANN.user_id: []}).require()
        assert answer.device_keys == {AMY.user_id: {}, ANN.user_id: {}}
        assert set(answer.master_keys) == {AMY.user_id}

    def test_devices_that_were_asked_for(self) -> None:
        users = {AMY.user_id: evolve(stored(), devices={name: _device(name) for name in "XYZ"})}
        answer = query({AMY.user_id: ["X", "Z"]}, local=users).require()
        assert set(answer.device_keys[AMY.user_id]) == {"X", "Z"}  # type: ignore[arg-type]

    def test_users_who_were_not_asked_about_are_not_told_of(self) -> None:
        answer = query({ANN.user_id: []}).require()
        assert (set(answer.device_keys), answer.master_keys) == ({ANN.user_id}, {})

    @pytest.mark.parametrize(("shows", "unsigned"), [(True, {"device_display_name": "phone"}), (False, {})])
    def test_names_of_devices_are_told_only_if_the_caller_says_so(self, shows: bool, unsigned: dict[str, str]) -> None:
        answer = query({AMY.user_id: []}, shows_display_names=shows).require()
        assert answer.device_keys[AMY.user_id]["X"].to_json()["unsigned"] == unsigned  # type: ignore[index, union-attr]

    @pytest.mark.parametrize(("user_id", "errcode", "error"), FOREIGNERS)
    def test_users_of_others_refuse_the_whole_request(self, user_id: str, errcode: str, error: str) -> None:
        """Attack 53."""
        kept = {} if errcode == "M_INVALID_PARAM" else {user_id: stored(SampleUser(user_id))}
        decision = query({AMY.user_id: [], user_id: []}, local=kept)
        assert refusal(decision) == (400, errcode, error)

    def test_limits(self) -> None:
        """Attack 48."""
        few = evolve(SPEC, limits=evolve(SPEC.limits, users_per_request=1, devices_per_request=2))
        assert not query({AMY.user_id: ["A", "B"]}, policy=few).is_refusal
        assert refusal(query({AMY.user_id: [], ANN.user_id: []}, policy=few))[:2] == (400, "M_TOO_LARGE")
        assert refusal(query({AMY.user_id: ["A", "B", "C"]}, policy=few))[:2] == (400, "M_TOO_LARGE")

    @given(request=user_keys_query_requests(), data=st.data())
    def test_every_request_is_answered_or_refused(self, request: UserKeysQueryRequest, data: st.DataObject) -> None:
        home = data.draw(st.sampled_from(sorted({HOME, *(user.partition(":")[2] for user in request.asked)})))
        views = {user_id: stored(SampleUser(user_id)) for user_id in request.asked}
        before = copy.deepcopy(views)
        decision = decide_user_keys_query(request, origin=THERE, server_name=home, local=views)
        decision.to_http()
        assert views == before
        is_local = all(user_id.partition(":")[2] == home for user_id in request.device_keys)
        assert decision.is_refusal is not is_local or not request.asked


def _device(name: str) -> DeviceRecord:
    return DeviceRecord(device_id=name, keys=AMY.device(name).signed)


class TestDevices:
    def test_all_devices_those_without_keys_included(self) -> None:
        """Attack 53."""
        decision = devices()
        body = json.loads(decision.to_http().body)
        assert body == {
            "user_id": AMY.user_id,
            "stream_id": 7,
            "devices": [{"device_id": "X", "keys": AMY.device("X").to_json()}, {"device_id": "BARE"}],
            "master_key": {**AMY.master_key.to_json(), "signatures": {AMY.user_id: {}}},
            "self_signing_key": AMY.self_signing_key.to_json(),
        }
        assert USK.key_id.name not in json.dumps(body)

    def test_names_of_devices_are_told_only_if_the_caller_says_so(self) -> None:
        answer = devices(shows_display_names=True).require()
        assert [device.device_display_name for device in answer.devices if isinstance(device, UserDevice)] == [
            "phone",
            "bare",
        ]
        assert "chosen" not in json.dumps(answer.to_json())

    def test_a_user_nobody_knows_has_no_devices(self) -> None:
        answer = devices(ANN.user_id, stored=None, stream_id=0).require()
        assert answer.to_json() == {"user_id": ANN.user_id, "stream_id": 0, "devices": []}

    @pytest.mark.parametrize(("user_id", "errcode", "error"), FOREIGNERS[:-1])
    def test_users_of_others_are_refused(self, user_id: str, errcode: str, error: str) -> None:
        """Attack 53."""
        for kept in (None, stored(SampleUser(user_id))):
            assert refusal(devices(user_id, stored=kept)) == (400, errcode, error)

    def test_what_is_stored_and_malformed_is_written_as_it_is(self) -> None:
        odd = {**AMY.device("X").signed.content, "keys": {"ed25519:X": "?"}, "signatures": {}}
        user = UserKeys(user_id=AMY.user_id, devices={"X": DeviceRecord(device_id="X", keys=SignedJson.from_json(odd))})
        answer = devices(stored=user).require()
        assert answer.to_json()["devices"] == [{"device_id": "X", "keys": odd}]
        assert answer.devices[0].keys.path == "/devices/0/keys/keys/ed25519:X"  # type: ignore[union-attr]

    def test_somebody_else_is_a_fault_of_the_caller(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            devices(stored=stored(ANN))
        assert (caught.value.reason, caught.value.path) == (Reason.USER_ID_MISMATCH, "/stored")


class TestArguments:
    @given(junk=json_like_values())
    def test_only_errors_of_this_library_leave(self, junk: Any) -> None:
        for name in ("origin", "server_name", "local", "shows_display_names", "policy"):
            _only_ours(lambda: query({AMY.user_id: []}, **{name: junk}))  # noqa: B023
        for name in ("origin", "server_name", "stored", "stream_id", "shows_display_names"):
            _only_ours(lambda: devices(**{name: junk}))  # noqa: B023
        _only_ours(lambda: decide_user_keys_query(junk, origin=THERE, server_name=HOME, local={}))
        _only_ours(lambda: decide_user_devices(junk, origin=THERE, server_name=HOME, stored=None, stream_id=1))
        _only_ours(lambda: query({}, local={AMY.user_id: junk}))

    def test_a_wrong_argument_is_named(self) -> None:
        for call, path in (
            (lambda: query({}, origin=""), "/origin"),
            (lambda: query({}, server_name=""), "/server_name"),
            (lambda: query({}, shows_display_names=1), "/shows_display_names"),
            (lambda: query({}, local={BOB.user_id: stored()}), f"/local/{BOB.user_id}"),
            (lambda: devices(origin=""), "/origin"),
            (lambda: devices(shows_display_names=None), "/shows_display_names"),
            (lambda: devices(stored=5), "/stored"),
            (lambda: devices(stream_id=1.5), "/stream_id"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.path == path


def _only_ours(call: Any) -> None:
    with contextlib.suppress(LocalProtocolError):
        call()
