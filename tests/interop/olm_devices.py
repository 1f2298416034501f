"""Devices that are somebody else's program: an OlmMachine and a client of a homeserver."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from interop.matrix_http import Client
from interop.olm_machine import MakeOlmMachine, OlmError, OlmMachine, OlmRequest
from matrix_e2e_keys import DeviceSigningUploadRequest, Ed25519PublicKey, SignaturesUploadRequest
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy

STRATEGIES = {
    RecipientPolicy.ALL_DEVICES: "allDevices",
    RecipientPolicy.CROSS_SIGNED_ONLY: "identityBasedStrategy",
    RecipientPolicy.VERIFIED_ONLY: "onlyTrustedDevices",
    RecipientPolicy.ERROR_ON_VIOLATION: "errorOnUnverifiedUserProblem",
}
"""What the machine calls our policies."""
SEEDS = {usage: f"m.cross_signing.{usage}" for usage in ("master", "self_signing", "user_signing")}


class OlmTrust(NamedTuple):
    """What a machine makes of a user."""

    verified: bool
    violation: bool
    needs_approval: bool
    verified_devices: frozenset[str]


class OlmDevice:
    """One device. Its device keys and one-time keys are uploaded."""

    def __init__(self, client: Client, machine: OlmMachine) -> None:
        self.client, self.machine = client, machine
        self.user_id, self.device_id = client.user_id, client.device_id
        machine.flush(client)

    @property
    def ed25519_key(self) -> Ed25519PublicKey:
        """The signing key, as it is shown to whoever compares it."""
        return Ed25519PublicKey.from_base64(self.machine.keys["ed25519"])

    @property
    def master_key(self) -> Ed25519PublicKey:
        """The master key of its user, as it is shown to whoever compares it."""
        return self.master_key_of(self.user_id)

    def master_key_of(self, user_id: str) -> Ed25519PublicKey:
        """Return the master key of a user, as the machine knows it."""
        found = self.machine.call("identity", user_id=user_id)
        (text,) = json.loads(found["master_key"])["keys"].values()
        return Ed25519PublicKey.from_base64(text)

    def bootstrap(self, *, reset: bool = False) -> None:
        """Set up cross-signing, with new keys."""
        made = self.machine.call("bootstrap")
        keys = DeviceSigningUploadRequest.from_bytes(made["signing_keys"])
        if reset:
            self.client.replace_cross_signing(keys)
        else:
            self.client.upload_cross_signing(keys)
        self.upload_signatures(made["signatures"])
        self.look_at(self.user_id)

    def upload_signatures(self, body: str) -> None:
        """Upload signatures that the machine has made."""
        self.client.upload_signatures(SignaturesUploadRequest.from_bytes(body))

    def look_at(self, *user_ids: str) -> None:
        """Ask about users, whether anything has changed or not."""
        self.machine.call("track", users=user_ids)
        counts = self.client.upload()
        self.machine.call("receive_changed", users=user_ids, counts=counts)
        self.machine.flush(self.client)

    def export_seeds(self) -> dict[str, str]:
        """Return the user's private keys, as another device of the user is given them."""
        made = self.machine.call("export_cross_signing")
        return {name: made[usage] for usage, name in SEEDS.items()}

    def use_seeds(self, seeds: dict[str, str]) -> None:
        """Take over the user's private keys."""
        assert self.machine.call("import_cross_signing", **{usage: seeds[name] for usage, name in SEEDS.items()})

    def verify_user(self, user_id: str) -> None:
        """Sign a user's master key."""
        self.upload_signatures(self.machine.call("verify_user", user_id=user_id))
        self.look_at(user_id)

    def verify_device(self, device_id: str) -> None:
        """Sign a device of one's own."""
        made = self.machine.call("verify_device", user_id=self.user_id, device_id=device_id)
        self.upload_signatures(made)
        self.look_at(self.user_id)

    def trust(self, user_id: str) -> OlmTrust:
        """Return what the machine makes of a user."""
        found = self.machine.call("trust", user_id=user_id)
        return OlmTrust(**{**found, "verified_devices": frozenset(found["verified_devices"])})

    def devices_by_owner(self, user_id: str) -> set[str]:
        """Return the devices of a user that the user's identity signed."""
        return {it["device_id"] for it in self.machine.call("devices", user_id=user_id) if it["by_owner"]}

    def open_sessions(self, *user_ids: str) -> None:
        """Claim the keys that are needed to write to users."""
        claim = self.machine.call("missing_sessions", users=user_ids)
        if claim is not None:
            self.machine.send(self.client, OlmRequest(**claim))

    def send_room_key(self, user_id: str) -> None:
        """Make a room key, and send it to all devices of a user."""
        for number, message in enumerate(_share(self.machine, RecipientPolicy.ALL_DEVICES, [user_id])):
            self.client.send_to_device(message.event_type, f"{self.device_id}-{number}", message.messages)


class _Message(NamedTuple):
    event_type: str
    messages: dict[str, dict[str, Any]]


def _share(machine: OlmMachine, policy: RecipientPolicy, user_ids: list[str]) -> list[_Message]:
    """Return the messages in which a machine gives users a new room key, or says that it does not."""
    shares = machine.call(
        "share_by_strategy", room_id=f"!{policy}:example.org", users=user_ids, strategy=STRATEGIES[policy]
    )
    return [_Message(it["event_type"], json.loads(it["body"])["messages"]) for it in shares]


def recipients(machine: OlmMachine, policy: RecipientPolicy, *user_ids: str) -> dict[str, set[str]]:
    """Return the devices that get a new room key, by user. There must be sessions with them."""
    try:
        messages = _share(machine, policy, list(user_ids))
    except OlmError:
        return {}  # it stops
    devices: dict[str, set[str]] = {}
    for message in messages:
        for user_id, of_user in message.messages.items() if message.event_type == "m.room.encrypted" else ():
            devices.setdefault(user_id, set()).update(of_user)
    return devices


MakeOlmDevice: TypeAlias = Callable[[Client], OlmDevice]


def olm_devices_of(new_olm_machine: MakeOlmMachine) -> MakeOlmDevice:
    """Return what makes a device of a client."""
    return lambda client: OlmDevice(client, new_olm_machine(client.user_id, client.device_id))
