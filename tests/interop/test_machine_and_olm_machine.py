"""A machine of ours and an OlmMachine, as two users and as two devices of one: each takes the other for what it is."""

from __future__ import annotations

import json

import pytest

from interop.machines import MINUTE, Device
from interop.matrix_http import MakeClient
from interop.olm_devices import MakeOlmDevice, OlmDevice, OlmTrust, olm_devices_of, recipients
from interop.olm_machine import MakeOlmMachine, OlmError
from matrix_e2e_keys import VerifiedDevice
from matrix_e2e_keys.client.supply.values import KeyUse
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust, explain_device
from matrix_e2e_keys.client.users.changes import ChangeKind
from matrix_e2e_keys.client.users.identity import IdentityState

pytestmark = pytest.mark.interop


@pytest.fixture
def new_olm_device(new_olm_machine: MakeOlmMachine) -> MakeOlmDevice:
    """Make a device of a client."""
    return olm_devices_of(new_olm_machine)


@pytest.fixture
def ours(new_client: MakeClient) -> Device:
    """Our device, of a fresh user who has an identity."""
    device = Device(new_client(device_id="OURS"), forgetful=True)
    device.catch_up()
    device.bootstrap()
    return device


@pytest.fixture
def theirs(new_client: MakeClient, new_olm_device: MakeOlmDevice) -> OlmDevice:
    """The other device, of another user who has an identity."""
    device = new_olm_device(new_client(device_id="THEIRS"))
    device.bootstrap()
    return device


@pytest.fixture
def acquainted(ours: Device, theirs: OlmDevice) -> tuple[Device, OlmDevice]:
    """Both, and each knows of the other."""
    ours.look_at(theirs.user_id)
    theirs.look_at(ours.user_id)
    ours.forget_news()
    return ours, theirs


Pair = tuple[Device, OlmDevice]


def seen(observer: Device, device: OlmDevice | Device) -> VerifiedDevice:
    """Return a device as ours knows it."""
    return observer.user(device.user_id).devices[device.device_id]


def verify_each_other(ours: Device, theirs: OlmDevice) -> None:
    ours.machine.signing.verify_user(theirs.user_id, theirs.master_key)
    ours.flush()
    assert theirs.master_key_of(ours.user_id) == ours.master_key
    theirs.verify_user(ours.user_id)


# --------------------------------------------------------------------------------------------------------------
# Two users
# --------------------------------------------------------------------------------------------------------------


def test_each_sees_the_device_and_the_identity_of_the_other(acquainted: Pair) -> None:
    ours, theirs = acquainted

    assert seen(ours, theirs).ed25519_key == theirs.ed25519_key
    assert seen(ours, theirs).is_cross_signed
    assert ours.user(theirs.user_id).pin.current == theirs.master_key
    assert ours.state_of(theirs.user_id) is IdentityState.PINNED

    assert theirs.master_key_of(ours.user_id) == ours.master_key
    (device,) = theirs.machine.call("devices", user_id=ours.user_id)
    assert (device["device_id"], device["ed25519"]) == ("OURS", ours.ed25519_key.to_base64())
    assert device["by_owner"]
    assert theirs.trust(ours.user_id) == OlmTrust(False, False, False, frozenset())


def test_each_verifies_the_other_and_sees_it(acquainted: Pair) -> None:
    ours, theirs = acquainted

    verify_each_other(ours, theirs)

    assert ours.machine.signing.queue.unconfirmed == frozenset()
    assert ours.state_of(theirs.user_id) is IdentityState.VERIFIED
    proof = explain_device(ours.user(theirs.user_id), "THEIRS", own=ours.machine.users.own)
    assert (proof.verdict, proof.broken) == (DeviceTrust.VERIFIED, ())
    assert theirs.trust(ours.user_id) == OlmTrust(True, False, False, frozenset({"OURS"}))


@pytest.mark.parametrize("policy", RecipientPolicy)
def test_both_write_to_the_same_devices_under_the_same_policy(
    acquainted: Pair, new_client: MakeClient, policy: RecipientPolicy
) -> None:
    ours, theirs = acquainted
    unsigned, observer = Device(ours.client.another_device("UNSIGNED")), Device(new_client(device_id="OBSERVER"))
    for device in (unsigned, observer):
        device.flush()
    theirs.look_at(ours.user_id)
    observer.look_at(ours.user_id)

    chosen = observer.machine.devices_for([ours.user_id], policy)
    theirs.open_sessions(ours.user_id)

    shared = recipients(theirs.machine, policy, ours.user_id)
    assert shared == {user_id: set(of_user) for user_id, of_user in chosen.devices.items()}


def test_an_identity_of_ours_that_is_replaced_is_a_violation_to_them(acquainted: Pair) -> None:
    ours, theirs = acquainted
    verify_each_other(ours, theirs)
    before = ours.master_key

    ours.bootstrap(reset=True)
    theirs.look_at(ours.user_id)

    assert theirs.master_key_of(ours.user_id) == ours.master_key != before
    trust = theirs.trust(ours.user_id)
    assert (trust.verified, trust.violation) == (False, True)
    theirs.machine.call("pin_identity", user_id=ours.user_id)
    theirs.verify_user(ours.user_id)
    assert theirs.trust(ours.user_id) == OlmTrust(True, False, False, frozenset({"OURS"}))


def test_an_identity_of_theirs_that_is_replaced_is_a_violation_to_us(acquainted: Pair) -> None:
    """Attack 33."""
    ours, theirs = acquainted
    verify_each_other(ours, theirs)
    before = theirs.master_key
    ours.forget_news()

    theirs.bootstrap(reset=True)
    ours.look_at(theirs.user_id)

    assert ours.user(theirs.user_id).pin.current == theirs.master_key != before
    assert ours.state_of(theirs.user_id) is IdentityState.VERIFICATION_VIOLATION
    assert ChangeKind.MASTER_KEY_CHANGED in ours.kinds(theirs.user_id)
    assert ours.machine.devices_for([theirs.user_id], RecipientPolicy.CROSS_SIGNED_ONLY).is_stopped
    ours.machine.users.accept_identity(theirs.user_id, theirs.master_key)
    verify_each_other(ours, theirs)
    assert ours.state_of(theirs.user_id) is IdentityState.VERIFIED
    assert device_trust(ours.user(theirs.user_id), "THEIRS") is DeviceTrust.VERIFIED


def test_a_pinned_identity_that_is_replaced_needs_approval_on_both_sides(acquainted: Pair) -> None:
    """Attack 33."""
    ours, theirs = acquainted
    ours.bootstrap(reset=True)
    theirs.bootstrap(reset=True)
    ours.look_at(theirs.user_id)
    theirs.look_at(ours.user_id)

    assert ours.state_of(theirs.user_id) is IdentityState.PIN_VIOLATION
    assert theirs.trust(ours.user_id) == OlmTrust(False, False, True, frozenset())


# --------------------------------------------------------------------------------------------------------------
# One-time keys
# --------------------------------------------------------------------------------------------------------------


def test_a_room_key_of_theirs_arrives_in_a_session_with_our_one_time_key(acquainted: Pair) -> None:
    ours, theirs = acquainted

    theirs.open_sessions(ours.user_id)
    theirs.send_room_key(ours.user_id)

    (message,) = ours.read()
    plaintext = json.loads(message.plaintext)
    assert plaintext["type"] == "m.room_key"
    assert plaintext["sender"] == theirs.user_id
    assert plaintext["recipient_keys"] == {"ed25519": ours.ed25519_key.to_base64()}
    assert message.used is KeyUse.ONE_TIME
    ours.now += 2 * MINUTE
    ours.flush()
    assert ours.client.upload()["signed_curve25519"] == 5


def test_we_open_a_session_with_their_one_time_key(acquainted: Pair) -> None:
    ours, theirs = acquainted
    count = theirs.client.upload()["signed_curve25519"]

    ours.open_sessions([seen(ours, theirs)])

    (claim,) = [it.claim for it in ours.received if it.claim is not None]
    assert claim.keys.rejected == claim.keys.unsupported == ()
    assert ours.machine.sessions.wanted == frozenset()
    assert theirs.client.upload()["signed_curve25519"] == count - 1


# --------------------------------------------------------------------------------------------------------------
# Two devices of one user
# --------------------------------------------------------------------------------------------------------------


def test_their_device_of_our_user_is_given_our_keys_and_signs_itself(
    ours: Device, new_olm_device: MakeOlmDevice
) -> None:
    theirs = new_olm_device(ours.client.another_device("THEIRS"))
    theirs.look_at(ours.user_id)
    assert theirs.devices_by_owner(ours.user_id) == {"OURS"}
    assert not theirs.trust(ours.user_id).verified
    ours.look_at(ours.user_id)
    assert device_trust(ours.user(ours.user_id), "THEIRS") is DeviceTrust.NOT_CROSS_SIGNED

    theirs.use_seeds(ours.export_seeds())
    theirs.verify_device("THEIRS")
    ours.look_at(ours.user_id)

    assert theirs.trust(ours.user_id).verified
    assert theirs.trust(ours.user_id).verified_devices == {"OURS", "THEIRS"}
    assert device_trust(ours.user(ours.user_id), "THEIRS") is DeviceTrust.VERIFIED


def test_our_device_of_their_user_is_given_their_keys_and_signs_itself(theirs: OlmDevice) -> None:
    ours = Device(theirs.client.another_device("OURS"), forgetful=True)
    ours.use_seeds(theirs.export_seeds())
    ours.catch_up()
    theirs.look_at(theirs.user_id)

    assert ours.master_key == theirs.master_key
    assert ours.state_of(theirs.user_id) is IdentityState.VERIFIED
    for device_id in ("OURS", "THEIRS"):
        assert device_trust(ours.user(ours.user_id), device_id) is DeviceTrust.VERIFIED
    assert theirs.trust(theirs.user_id).verified_devices == {"OURS", "THEIRS"}


def test_each_signs_the_other_device_of_its_user(ours: Device, new_olm_device: MakeOlmDevice) -> None:
    theirs = new_olm_device(ours.client.another_device("THEIRS"))
    ours.look_at(ours.user_id)
    ours.machine.signing.verify_device("THEIRS", theirs.ed25519_key)
    ours.flush()
    theirs.look_at(ours.user_id)
    assert theirs.devices_by_owner(ours.user_id) == {"OURS", "THEIRS"}

    third = Device(ours.client.another_device("THIRD"))
    third.catch_up()
    theirs.use_seeds(ours.export_seeds())
    theirs.look_at(ours.user_id)
    theirs.verify_device("THIRD")
    for device in (ours, third):
        device.look_at(ours.user_id)
        assert device.user(ours.user_id).cross_signed_devices == {"OURS", "THEIRS", "THIRD"}


def test_whom_one_device_has_verified_the_other_one_takes_for_verified(
    ours: Device, new_client: MakeClient, new_olm_device: MakeOlmDevice
) -> None:
    theirs = new_olm_device(ours.client.another_device("THEIRS"))
    theirs.look_at(ours.user_id)
    theirs.use_seeds(ours.export_seeds())
    carol, dave = (Device(new_client(device_id=name)) for name in ("CAROL", "DAVE"))
    for device in (carol, dave):
        device.catch_up()
        device.bootstrap()
    ours.look_at(carol.user_id, dave.user_id)
    theirs.look_at(carol.user_id, dave.user_id)

    ours.machine.signing.verify_user(carol.user_id, carol.master_key)
    ours.flush()
    theirs.verify_user(dave.user_id)

    theirs.look_at(carol.user_id)
    ours.look_at(dave.user_id)
    assert theirs.trust(carol.user_id) == OlmTrust(True, False, False, frozenset({"CAROL"}))
    assert ours.state_of(dave.user_id) is IdentityState.VERIFIED


def test_a_reset_by_their_device_leaves_ours_with_keys_that_are_of_no_use(theirs: OlmDevice) -> None:
    ours = Device(theirs.client.another_device("OURS"), forgetful=True)
    ours.use_seeds(theirs.export_seeds())
    ours.catch_up()
    ours.forget_news()

    theirs.bootstrap(reset=True)
    ours.look_at(ours.user_id)

    assert [it.stale_secrets for it in ours.received if it.stale_secrets] == [
        ("master", "self_signing", "user_signing")
    ]
    assert ours.state_of(ours.user_id) is IdentityState.VERIFICATION_VIOLATION
    assert ours.machine.users.own is None


def test_a_reset_by_our_device_leaves_theirs_with_keys_that_are_of_no_use(
    ours: Device, new_olm_device: MakeOlmDevice
) -> None:
    theirs = new_olm_device(ours.client.another_device("THEIRS"))
    theirs.look_at(ours.user_id)
    theirs.use_seeds(ours.export_seeds())
    theirs.verify_device("THEIRS")
    assert theirs.machine.call("cross_signing_status")

    ours.bootstrap(reset=True)
    theirs.look_at(ours.user_id)

    assert theirs.master_key == ours.master_key
    assert not theirs.machine.call("cross_signing_status")
    assert not theirs.trust(ours.user_id).verified
    with pytest.raises(OlmError):
        theirs.verify_device("OURS")
