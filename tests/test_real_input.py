"""What a real server answered, and the examples that a real specification prints.

The material lies beside a checkout, in ``../shared``. Where it is not there, these tests are skipped.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from matrix_e2e_keys import (
    DeviceKeys,
    KeysQueryRequest,
    KeysQueryResponse,
    OneTimeKey,
    Reason,
    VerificationError,
    check_query,
)
from matrix_e2e_keys.cli import main

SHARED = Path(__file__).parents[2] / "shared"
USER = "@example:localhost"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


def real_devices() -> Any:
    body = (SHARED / "real" / "keys_query.json").read_bytes()
    return check_query(KeysQueryRequest.for_users([USER]), KeysQueryResponse.from_bytes(body))


def test_a_real_answer_is_accepted_whole() -> None:
    result = real_devices()
    assert len(result.devices.accepted[USER]) == 150
    assert result.devices.rejected == result.devices.unsupported == result.identities.rejected == ()
    assert set(result.identities.accepted) == {USER}
    assert result.identities.accepted[USER].user_signing_key is not None
    assert len(list(result.cross_signed_devices)) == 1


def test_a_real_answer_comes_back_as_it_was() -> None:
    body = (SHARED / "real" / "keys_query.json").read_bytes()
    assert KeysQueryResponse.from_bytes(body).to_json() == json.loads(body)


def test_the_command_line_on_the_real_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", str(SHARED / "real" / "keys_query.json")]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["devices"] == {"accepted": 150, "rejected": 0, "unsupported": 0}
    assert counts["cross_signed_devices"] == 1


def test_real_one_time_keys_verify_against_the_devices_of_the_same_server() -> None:
    devices = real_devices().devices.accepted[USER]
    claimed = json.loads((SHARED / "real" / "keys_claim.json").read_bytes())["one_time_keys"][USER]
    known = claimed.keys() & devices.keys()
    assert len(known) > 100
    for device_id in known:
        for key_id, value in claimed[device_id].items():
            OneTimeKey.from_json(key_id, value).verify(device=devices[device_id])


def seed_examples() -> str:
    (path,) = [path for path in (SHARED / "seeds").iterdir() if "JLAFKJWSCS" in path.read_text()]
    return path.read_text()


def test_the_example_device_parses_and_is_refused() -> None:
    """Its printed signature does not verify, and an honest library says so."""
    text = seed_examples()
    start = text.index('{ "device_keys"', text.index("response: value:"))
    body, _ = json.JSONDecoder().raw_decode(text[start:])
    device = DeviceKeys.from_json(body["device_keys"]["@alice:example.com"]["JLAFKJWSCS"])
    assert device.untrusted_display_name == "Alice's mobile phone"
    result = check_query(KeysQueryRequest.for_users(["@alice:example.com"]), KeysQueryResponse.from_json(body))
    assert result.devices.accepted == {}
    (rejection,) = result.devices.rejected
    assert rejection.reason is Reason.INVALID_SIGNATURE


def test_the_example_one_time_key_is_refused() -> None:
    match = re.search(
        r"signed_curve25519:AAAAHg: key: (\S+) signatures: \S+ ed25519:JLAFKJWSCS: (\S+)", seed_examples()
    )
    assert match is not None
    value = {
        "key": match[1],
        "signatures": {"@alice:example.com": {"ed25519:JLAFKJWSCS": match[2]}},
    }
    one_time_key = OneTimeKey.from_json("signed_curve25519:AAAAHg", value)
    assert one_time_key.signed is not None
    key = DeviceKeys.from_json(
        {
            "user_id": "@alice:example.com",
            "device_id": "JLAFKJWSCS",
            "algorithms": [],
            "keys": {"ed25519:JLAFKJWSCS": "lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI"},
        }
    ).ed25519_key
    assert key is not None
    with pytest.raises(VerificationError) as caught:
        one_time_key.signed.verify(entity="@alice:example.com", key_id="ed25519:JLAFKJWSCS", key=key)
    assert caught.value.reason is Reason.INVALID_SIGNATURE
