"""The identities of our machines on real homeservers: set up, verified, replaced. Each test is one story.

Every second device, beginning with the first, is started anew from what it stored, after every round of requests.
Stories of one device are told twice: with such a device, and with one that keeps everything in memory.
"""

from __future__ import annotations

from functools import partial

import pytest

from interop.machines import (
    Device,
    MakeDevice,
    share_an_encrypted_room,
)
from interop.matrix_http import MakeClient
from interop.stories import (
    EVERY_SECOND,
    another_device,
    device_maker,
    first_device,
    is_cross_signed,
    is_gone,
    is_there,
    meet,
    seen,
    two_users_with_identities,
    verify,
)
from matrix_e2e_keys import (
    DeviceSigningUploadRequest,
    KeysChangesRequest,
    KeysQueryRequest,
    LocalProtocolError,
    Reason,
    SignaturesUploadRequest,
)
from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState
from matrix_e2e_keys.client.supply.values import KeyUse
from matrix_e2e_keys.client.trust.recipients import ProblemKind, RecipientPolicy
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust, explain_device, explain_user
from matrix_e2e_keys.client.users.changes import ChangeKind
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.events.withheld import WithheldCode

pytestmark = pytest.mark.interop


@pytest.fixture
def new_device(request: pytest.FixtureRequest) -> MakeDevice:
    """Make a device of a client."""
    return device_maker(getattr(request, "param", EVERY_SECOND))


told_twice = pytest.mark.parametrize("new_device", [[True], [False]], ids=["started anew", "in memory"], indirect=True)


# --------------------------------------------------------------------------------------------------------------
# One's own identity
# --------------------------------------------------------------------------------------------------------------


@told_twice
def test_cross_signing_is_set_up_and_seen_to_be_served(new_client: MakeClient, new_device: MakeDevice) -> None:
    device = first_device(new_client, new_device)
    assert device.machine.users.own is None
    device.forget_news()

    device.bootstrap()

    uploads = [type(it) for it in device.sent if not isinstance(it, KeysQueryRequest)]
    assert uploads == [DeviceSigningUploadRequest, SignaturesUploadRequest]
    bootstrap = device.machine.signing.bootstrap
    assert bootstrap is not None
    assert bootstrap.state is BootstrapState.DONE
    confirmation = device.received[-1].confirmation
    assert confirmation is not None
    assert confirmation.is_complete
    assert len(confirmation.served) == 4
    assert is_cross_signed(device, device)
    assert device.state_of(device.user_id) is IdentityState.VERIFIED
    own = device.machine.users.own
    assert own is not None
    assert own.identity == bootstrap.identity
    with pytest.raises(LocalProtocolError) as error:
        device.begin_bootstrap()
    assert error.value.reason is Reason.WRONG_STATE


@told_twice
def test_an_identity_is_reset_once_the_password_is_given(new_client: MakeClient, new_device: MakeDevice) -> None:
    device = first_device(new_client, new_device)
    device.bootstrap()
    before = device.master_key
    device.answers_questions = False

    device.bootstrap(reset=True)

    bootstrap = device.machine.signing.bootstrap
    assert bootstrap is not None
    assert bootstrap.state is BootstrapState.AUTHENTICATE
    assert bootstrap.authentication is not None
    device.look_at(device.user_id)
    assert device.user(device.user_id).pin.current == before  # nothing was replaced

    device.forget_news()
    wrong = {**device.client.credentials(), "password": "no horse"}
    device.machine.signing.authenticate(bootstrap.authentication.auth("m.login.password", wrong))
    device.flush()
    assert device.received[0].authentication is not None
    assert bootstrap.state is BootstrapState.AUTHENTICATE

    device.restart()  # neither the question nor the answer is stored
    device.answers_questions = True
    device.flush()

    bootstrap = device.machine.signing.bootstrap
    assert bootstrap is not None
    assert bootstrap.state is BootstrapState.DONE
    assert device.master_key != before
    assert ChangeKind.MASTER_KEY_CHANGED in device.kinds(device.user_id)
    assert is_cross_signed(device, device)
    assert device.state_of(device.user_id) is IdentityState.VERIFIED


def test_another_device_with_the_private_keys_signs_itself_before_anybody_sees_it(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    first = first_device(new_client, new_device)
    first.bootstrap()
    observer = first_device(new_client, new_device, "OBSERVER")
    second = another_device(first, new_device, "SECOND")

    second.use_seeds(first.export_seeds())
    second.catch_up()

    assert not any(isinstance(it, SignaturesUploadRequest) for it in second.sent)
    assert second.master_key == first.master_key
    first.catch_up_until(lambda: is_cross_signed(first, second))
    observer.look_at(first.user_id)
    for device in (first, second, observer):
        assert device.user(first.user_id).cross_signed_devices == {"FIRST", "SECOND"}
    for one, other in ((first, second), (second, first)):
        proof = explain_device(one.user(one.user_id), other.device_id, own=one.machine.users.own)
        assert (proof.verdict, proof.broken) == (DeviceTrust.VERIFIED, ())


def test_a_device_is_signed_by_another_one_that_has_compared_its_key(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    first = first_device(new_client, new_device)
    first.bootstrap()
    second = another_device(first, new_device, "SECOND")
    second.catch_up()
    first.catch_up_until(lambda: "SECOND" in first.user(first.user_id).devices)
    assert device_trust(first.user(first.user_id), "SECOND") is DeviceTrust.NOT_CROSS_SIGNED
    first.forget_news()

    with pytest.raises(LocalProtocolError):
        first.machine.signing.verify_device("SECOND", first.ed25519_key)
    first.machine.signing.verify_device("SECOND", second.ed25519_key)
    first.flush()

    assert [it.confirmation.is_complete for it in first.received if it.confirmation is not None] == [True]
    assert device_trust(first.user(first.user_id), "SECOND") is DeviceTrust.VERIFIED
    second.catch_up_until(lambda: is_cross_signed(second, second))
    second.machine.users.confirm_own_identity(first.master_key)  # it was compared both ways
    second.machine.signing.sign_own_master_key()
    second.flush()
    assert [it.confirmation.is_complete for it in second.received if it.confirmation is not None] == [True]
    assert device_trust(second.user(second.user_id), "FIRST") is DeviceTrust.VERIFIED


def test_a_reset_by_one_device_leaves_the_other_one_with_keys_that_are_of_no_use(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    first = first_device(new_client, new_device)
    first.bootstrap()
    second = another_device(first, new_device, "SECOND")
    second.use_seeds(first.export_seeds())
    second.catch_up()
    assert second.state_of(first.user_id) is IdentityState.VERIFIED
    second.forget_news()

    first.bootstrap(reset=True)
    second.catch_up_until(lambda: ChangeKind.MASTER_KEY_CHANGED in second.kinds(first.user_id))

    stale = [it.stale_secrets for it in second.received if it.stale_secrets]
    assert stale == [("master", "self_signing", "user_signing")]
    assert second.machine.users.own is None
    assert second.state_of(first.user_id) is IdentityState.VERIFICATION_VIOLATION
    assert ChangeKind.CROSS_SIGNATURE_LOST in second.kinds(first.user_id)
    with pytest.raises(LocalProtocolError):
        second.machine.signing.verify_device("FIRST", first.ed25519_key)

    second.use_seeds(first.export_seeds())  # the user brings the new ones along
    assert second.master_key == first.master_key
    assert second.state_of(first.user_id) is IdentityState.VERIFIED
    second.machine.signing.verify_device("SECOND", second.ed25519_key)
    second.flush()
    first.catch_up_until(lambda: is_cross_signed(first, second))


# --------------------------------------------------------------------------------------------------------------
# Others
# --------------------------------------------------------------------------------------------------------------


def test_two_users_verify_each_other(new_client: MakeClient, new_device: MakeDevice) -> None:
    alice, bob = two_users_with_identities(new_client, new_device)
    assert alice.state_of(bob.user_id) is bob.state_of(alice.user_id) is IdentityState.PINNED
    with pytest.raises(LocalProtocolError) as error:
        alice.machine.signing.verify_user(bob.user_id, alice.master_key)
    assert error.value.reason is Reason.IDENTITY_CHANGED

    for one, other in ((alice, bob), (bob, alice)):
        verify(one, other)

        (confirmation,) = [it.confirmation for it in one.received if it.confirmation is not None]
        assert confirmation.is_complete
        assert [it.user_id for it in confirmation.served] == [other.user_id]
        assert one.machine.signing.queue.unconfirmed == frozenset()
        assert one.state_of(other.user_id) is IdentityState.VERIFIED
        proof = explain_device(one.user(other.user_id), other.device_id, own=one.machine.users.own)
        assert (proof.verdict, proof.broken) == (DeviceTrust.VERIFIED, ())
    alice.restart()
    alice.look_at(alice.user_id, bob.user_id)
    assert alice.state_of(bob.user_id) is IdentityState.VERIFIED


def test_a_device_that_was_deleted_is_gone_for_its_owner_and_for_others(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    """Attacks 34 and 36: it does not come back unseen."""
    alice, bob = two_users_with_identities(new_client, new_device)
    second = another_device(bob, new_device, "SECOND")
    second.catch_up()
    for device in (alice, bob):
        device.catch_up_until(partial(is_there, device, second))
        device.forget_news()
    key = second.ed25519_key

    second.client.http.post("/logout", {})

    for device in (alice, bob):
        device.catch_up_until(partial(is_gone, device, second))
        assert device.kinds(bob.user_id) == [ChangeKind.DEVICE_REMOVED]
        assert device.user(bob.user_id).removed_devices == {"SECOND": key}
        device.forget_news()

    # Its name comes back with another key: somebody has logged in anew.
    again = another_device(bob, new_device, "SECOND")
    again.catch_up()
    for device in (alice, bob):
        device.catch_up_until(partial(is_there, device, second))
        assert device.kinds(bob.user_id) == [ChangeKind.DEVICE_REPLACED]
        assert seen(device, again).ed25519_key == again.ed25519_key != key


def test_what_was_missed_while_sync_began_anew_is_asked_for(new_client: MakeClient, new_device: MakeDevice) -> None:
    alice, bob = two_users_with_identities(new_client, new_device)
    alice.sync()
    another_device(bob, new_device, "SECOND").catch_up()

    alice.lose_sync_token()
    alice.catch_up()

    (question,) = [it for it in alice.sent if isinstance(it, KeysChangesRequest)]
    assert question.from_token != question.to_token
    assert alice.machine.lists.next_changes() is None
    assert alice.user(bob.user_id).devices.keys() == {"BOB", "SECOND"}


def test_a_device_that_changes_its_signing_key_is_refused(new_client: MakeClient, new_device: MakeDevice) -> None:
    """Attacks 34 and 36: others keep the device they know, and its owner hears of it."""
    alice, bob = two_users_with_identities(new_client, new_device)
    known = seen(alice, bob)
    imposter = Device(bob.client)  # what a server can do, another program with Bob's token can do as well
    imposter.flush()

    alice.catch_up_until(lambda: ChangeKind.SIGNING_KEY_CHANGED in alice.kinds(bob.user_id))

    assert seen(alice, bob).ed25519_key == known.ed25519_key
    assert alice.state_of(bob.user_id) is IdentityState.PINNED
    bob.catch_up_until(lambda: ChangeKind.OWN_DEVICE_ALTERED in bob.kinds(bob.user_id))


def test_a_verified_user_whose_identity_is_replaced_has_to_be_looked_at(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    """Attack 33: over a restart as well."""
    alice, bob = two_users_with_identities(new_client, new_device)
    verify(alice, bob)
    alice.forget_news()

    replace_identity_and_verify_anew(alice, bob)


def replace_identity_and_verify_anew(alice: Device, bob: Device) -> None:
    """Let Bob, whom Alice has verified, replace his identity; Alice is to notice, to accept it, and to verify it."""
    before = bob.master_key
    bob.bootstrap(reset=True)
    after = bob.master_key
    alice.catch_up_until(lambda: alice.user(bob.user_id).pin.current == after)

    assert alice.state_of(bob.user_id) is IdentityState.VERIFICATION_VIOLATION
    assert alice.user(bob.user_id).pin.pinned == before
    assert {ChangeKind.MASTER_KEY_CHANGED, ChangeKind.IDENTITY_STATE_CHANGED} <= set(alice.kinds(bob.user_id))
    assert explain_user(alice.user(bob.user_id), own=alice.machine.users.own).broken
    stopped = alice.machine.devices_for([bob.user_id], RecipientPolicy.ERROR_ON_VIOLATION)
    assert [it.kind for it in stopped.problems] == [ProblemKind.IDENTITY_CHANGED]
    assert stopped.is_stopped
    assert stopped.devices == {}

    alice.restart()
    assert alice.state_of(bob.user_id) is IdentityState.VERIFICATION_VIOLATION
    with pytest.raises(LocalProtocolError):
        alice.machine.users.accept_identity(bob.user_id, before)
    alice.machine.users.accept_identity(bob.user_id, after)
    assert alice.state_of(bob.user_id) is IdentityState.PINNED
    alice.catch_up_until(lambda: is_cross_signed(alice, bob))
    verify(alice, bob)
    assert alice.state_of(bob.user_id) is IdentityState.VERIFIED
    assert not alice.machine.devices_for([bob.user_id], RecipientPolicy.ERROR_ON_VIOLATION).is_stopped


def test_a_pinned_identity_that_is_replaced_is_a_violation_of_the_pin(
    new_client: MakeClient, new_device: MakeDevice
) -> None:
    alice, bob = two_users_with_identities(new_client, new_device)
    bob.bootstrap(reset=True)
    alice.catch_up_until(lambda: alice.user(bob.user_id).pin.current == bob.master_key)
    assert alice.state_of(bob.user_id) is IdentityState.PIN_VIOLATION


def test_what_one_has_verified_is_lost_with_ones_own_identity(new_client: MakeClient, new_device: MakeDevice) -> None:
    """Attack 32: whoever is verified by an identity that is not one's own any more is not."""
    alice, bob = two_users_with_identities(new_client, new_device)
    second = another_device(alice, new_device, "SECOND")
    second.use_seeds(alice.export_seeds())
    second.catch_up()
    verify(alice, bob)
    second.look_at(bob.user_id)
    assert second.state_of(bob.user_id) is IdentityState.VERIFIED

    alice.bootstrap(reset=True)
    second.catch_up_until(lambda: ChangeKind.MASTER_KEY_CHANGED in second.kinds(alice.user_id))

    for device in (alice, second):
        (news,) = [
            it.changes for it in device.received if "master-key-changed" in [change.kind for change in it.changes]
        ]
        assert (bob.user_id, ChangeKind.IDENTITY_STATE_CHANGED) in {(change.user_id, change.kind) for change in news}
        assert device.state_of(bob.user_id) is IdentityState.VERIFICATION_LOST
    verify(alice, bob)
    assert alice.state_of(bob.user_id) is IdentityState.VERIFIED


@pytest.mark.parametrize("policy", RecipientPolicy)
def test_who_gets_a_room_key_is_what_the_policy_says_of_what_is_served(
    new_client: MakeClient, new_device: MakeDevice, policy: RecipientPolicy
) -> None:
    """Attack 35: a server that adds a device gets no further than the policy allows."""
    alice, bob = two_users_with_identities(new_client, new_device)
    carol = first_device(new_client, new_device, "CAROL")
    unsigned, own_second = another_device(bob, new_device, "UNSIGNED"), another_device(alice, new_device, "SECOND")
    own_second.use_seeds(alice.export_seeds())
    for device in (unsigned, own_second):
        device.catch_up()
    everybody = [alice.user_id, bob.user_id, carol.user_id]

    first = alice.machine.devices_for(everybody, policy)
    assert first.unknown == {carol.user_id}
    assert carol.user_id in first.outdated
    alice.look_at(*everybody)
    verify(alice, bob)

    chosen = alice.machine.devices_for(everybody, policy)
    names = {(user_id, name) for user_id, of in chosen.devices.items() for name in of}
    withheld = {(user_id, name): code for user_id, of in chosen.withheld.items() for name, code in of.items()}
    assert chosen.unknown == chosen.outdated == frozenset()
    signed = {(bob.user_id, "BOB"), (alice.user_id, "SECOND")}
    others = {(bob.user_id, "UNSIGNED"), (carol.user_id, "CAROL")}
    if policy is RecipientPolicy.ERROR_ON_VIOLATION:
        assert (names, withheld) == (set(), {})
        (problem,) = [it for it in chosen.problems if it.stops]
        assert (problem.kind, set(problem.device_ids)) == (ProblemKind.DEVICES_NOT_CROSS_SIGNED, {"UNSIGNED"})
        alice.machine.users.set_trust(bob.user_id, unsigned.ed25519_key, LocalTrust.IGNORED)
        assert not alice.machine.devices_for(everybody, policy).is_stopped
    elif policy is RecipientPolicy.ALL_DEVICES:
        assert (names, withheld) == (signed | others, {})
    else:
        assert (names, withheld) == (signed, dict.fromkeys(others, WithheldCode.UNVERIFIED))
    assert (alice.user_id, "ALICE") not in names

    alice.machine.users.set_trust(bob.user_id, bob.ed25519_key, LocalTrust.BLACKLISTED)
    alice.restart(alice.store())
    again = alice.machine.devices_for(everybody, policy)
    assert "BOB" not in again.devices.get(bob.user_id, {})
    if not again.is_stopped:
        assert again.withheld[bob.user_id]["BOB"] is WithheldCode.BLACKLISTED


# --------------------------------------------------------------------------------------------------------------
# Over federation
# --------------------------------------------------------------------------------------------------------------


def test_users_of_two_servers_verify_each_other_and_notice_what_is_replaced(
    new_client: MakeClient, other_client: MakeClient, new_device: MakeDevice
) -> None:
    alice, bob = first_device(new_client, new_device, "ALICE"), first_device(other_client, new_device, "BOB")
    share_an_encrypted_room(alice, bob)
    meet(alice, bob)

    alice.open_sessions([seen(alice, bob)])
    alice.send(seen(alice, bob), "Hello over there")
    assert bob.read() == [("Hello over there", KeyUse.ONE_TIME)]
    for one, other in ((alice, bob), (bob, alice)):
        verify(one, other)
        for _ in range(3):  # the first answers may lack one's own signature
            if not one.machine.signing.queue.unconfirmed:
                break
            one.look_at(other.user_id)
        assert one.machine.signing.queue.unconfirmed == frozenset()
        assert one.state_of(other.user_id) is IdentityState.VERIFIED
    alice.forget_news()

    replace_identity_and_verify_anew(alice, bob)
