"""What stories about devices have in common: who is there, and what they know of each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial

from interop.machines import FEW_KEYS, Device, MakeDevice, share_an_encrypted_room
from interop.matrix_http import Client, MakeClient
from matrix_e2e_keys import VerifiedDevice
from matrix_e2e_keys.client.supply.values import SupplyPolicy

EVERY_SECOND = (True, False)


def device_maker(is_forgetful: Iterable[bool]) -> MakeDevice:
    """Return what makes devices, which are forgetful or not in turn."""
    in_turn = itertools.cycle(is_forgetful)

    def make(client: Client, policy: SupplyPolicy = FEW_KEYS) -> Device:
        return Device(client, policy, forgetful=next(in_turn))

    return make


def first_device(new_client: MakeClient, new_device: MakeDevice, name: str = "FIRST") -> Device:
    """Return a device of a fresh user, whose keys are uploaded."""
    device = new_device(new_client(device_id=name))
    device.catch_up()
    return device


def another_device(device: Device, new_device: MakeDevice, name: str) -> Device:
    """Return another device of the same user. Nothing of it is uploaded."""
    return new_device(device.client.another_device(name))


def two_users_with_identities(new_client: MakeClient, new_device: MakeDevice) -> tuple[Device, Device]:
    """Return devices of two users who share a room, and have set up cross-signing."""
    alice, bob = first_device(new_client, new_device, "ALICE"), first_device(new_client, new_device, "BOB")
    share_an_encrypted_room(alice, bob)
    meet(alice, bob)
    return alice, bob


def meet(alice: Device, bob: Device) -> None:
    """Let both set up cross-signing, and wait until each has heard of it."""
    for device in (alice, bob):
        device.bootstrap()
    for one, other in ((alice, bob), (bob, alice)):
        one.catch_up_until(partial(is_cross_signed, one, other))
        one.forget_news()


def is_cross_signed(observer: Device, device: Device) -> bool:
    """Return whether a device is known to another one, as one that its owner has signed."""
    user = observer.machine.users.users.get(device.user_id)
    return user is not None and device.device_id in user.cross_signed_devices


def is_there(observer: Device, device: Device) -> bool:
    """Return whether a device is known to another one."""
    return device.device_id in observer.user(device.user_id).devices


def is_gone(observer: Device, device: Device) -> bool:
    """Return whether a device is not known to another one, or not any more."""
    return not is_there(observer, device)


def seen(observer: Device, device: Device) -> VerifiedDevice:
    """Return a device as another one knows it."""
    return observer.user(device.user_id).devices[device.device_id]


def verify(one: Device, other: Device) -> None:
    """Let one device verify the user of another, who shows the right master key."""
    one.machine.signing.verify_user(other.user_id, other.master_key)
    one.flush()


def key_count(device: Device) -> int:
    """Return how many one-time keys the server holds."""
    return device.client.upload()["signed_curve25519"]
