"""Keys of devices that nobody knows yet: how many are remembered, and until when."""

from __future__ import annotations

from matrix_e2e_keys.client.machine.unknown_senders import UnknownSenders
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.stored import Stored
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key

BOB, CAROL = SampleUser("@bob:b.example"), SampleUser("@carol:c.example")
DEVICE = BOB.device("B1", cross_signed=False).verify()
KEY = DEVICE.curve25519_key or sample_curve25519_key("none")
OTHER = sample_curve25519_key("other")
KNOWN = {BOB.user_id: KnownUser(user_id=BOB.user_id, devices={"B1": DEVICE})}


def senders(*of: tuple[str, Curve25519PublicKey]) -> UnknownSenders:
    made = UnknownSenders()
    for user_id, key in of:
        made.add(user_id, key)
    return made


def test_devices_that_are_known_by_now_are_found_once() -> None:
    made = senders((BOB.user_id, OTHER), (BOB.user_id, KEY), (CAROL.user_id, KEY), (BOB.user_id, KEY))
    assert made.settle({}, [BOB.user_id, CAROL.user_id]) == []
    assert made.settle(KNOWN, [BOB.user_id, CAROL.user_id]) == [DEVICE]
    assert made.to_json() == {BOB.user_id: [OTHER.to_base64()], CAROL.user_id: [KEY.to_base64()]}
    assert made.settle(KNOWN, [CAROL.user_id]) == []
    assert made.to_json() == {CAROL.user_id: [KEY.to_base64()]}
    assert made.settle(KNOWN, []) == []
    assert made.to_json() == {}


def test_ten_of_a_user_and_the_newest() -> None:
    keys = [sample_curve25519_key(f"{number}") for number in range(12)]
    made = senders((CAROL.user_id, KEY), *[(BOB.user_id, key) for key in keys])
    assert made.to_json() == {
        CAROL.user_id: [KEY.to_base64()],
        BOB.user_id: [key.to_base64() for key in keys[2:]],
    }


def test_a_hundred_users_and_the_newest() -> None:
    names = [f"@user{number}:b.example" for number in range(102)]
    made = senders(*[(name, KEY) for name in names])
    assert list(made.to_json()) == names[2:]


def test_over_a_restart() -> None:
    made = senders((BOB.user_id, OTHER), (BOB.user_id, KEY), (CAROL.user_id, KEY))
    again = UnknownSenders.restore(Stored({"x": made.to_json()}), "x")
    assert again == made
    assert again.to_json() == made.to_json()
