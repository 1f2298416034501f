"""Makes ``keys_query_answer.json``: a /keys/query answer with good users, and devices that were tampered with.

Run it from anywhere: ``python docs/examples/make_answer.py``. It prints the answer, the same one every time.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
MALLORY = SampleUser("@mallory:evil.example")


def make_answer() -> dict[str, Any]:
    """Return the answer."""
    bobs = [BOB.device(name) for name in ("PHONE", "LAPTOP", "SWAPPED", "STRIPPED", "ALTERED", "STOLEN", "WEIGHED")]
    body: dict[str, Any] = keys_query_answer([(ALICE, []), (BOB, bobs)], viewer=ALICE.user_id)

    # Alice: a device that signed itself, and another that her self-signing key signed too.
    body["device_keys"][ALICE.user_id] = {
        "DESKTOP": ALICE.device("DESKTOP").to_json(),
        "OLDPHONE": ALICE.device("OLDPHONE", cross_signed=False).to_json(),
    }
    body["device_keys"][ALICE.user_id]["DESKTOP"]["unsigned"] = {"device_display_name": "Alice's desktop"}

    # Bob: what a hostile server might try with his devices.
    devices = body["device_keys"][BOB.user_id]
    devices["SWAPPED"]["keys"]["curve25519:SWAPPED"] = devices["PHONE"]["keys"]["curve25519:PHONE"]
    devices["STRIPPED"]["signatures"] = {}
    devices["ALTERED"]["algorithms"].append("m.none")
    devices["STOLEN"] = MALLORY.device("STOLEN").to_json()
    devices["WEIGHED"]["weight"] = "@"
    devices["NOTHING"] = None
    return body


def make_text() -> str:
    """Return the answer as text, with a float where none may stand."""
    text = json.dumps(make_answer(), indent=1, ensure_ascii=False)
    return text.replace('"weight": "@"', '"weight": 1.5') + "\n"


if __name__ == "__main__":
    sys.stdout.write(make_text())
