"""Reading back what a machine stored: each part by itself, and that they are parts of one machine."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from matrix_e2e_keys.client.claims.claim_planner import ClaimPlanner
from matrix_e2e_keys.client.cross_signing.bootstrap import CrossSigningBootstrap
from matrix_e2e_keys.client.cross_signing.own_signing import OwnSigning
from matrix_e2e_keys.client.cross_signing.signature_queue import SignatureQueue
from matrix_e2e_keys.client.machine.unknown_senders import UnknownSenders
from matrix_e2e_keys.client.queries.device_lists import DeviceListTracker
from matrix_e2e_keys.client.queries.known_users import KnownUsers
from matrix_e2e_keys.client.supply.key_supply import KeySupply
from matrix_e2e_keys.client.supply.values import SupplyPolicy
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.signing.verifiers import Verifier, check_verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["VERSION", "StoredParts", "checked_policy", "restore_parts"]

VERSION: Final = 1
"""The version of what a machine stores."""


@frozen(kw_only=True)
class StoredParts:
    """The parts of a machine."""

    lists: DeviceListTracker
    supply: KeySupply
    sessions: ClaimPlanner
    signing: OwnSigning
    unknown_senders: UnknownSenders
    revision: int
    is_uploaded: bool


def restore_parts(state: object, signer: Signer, policy: SupplyPolicy, verifier: Verifier) -> StoredParts:
    """Return the parts of a stored machine. All signatures are checked again.

    Raises:
        LocalProtocolError: it is no state of a machine, or the signer is not that of the device.
    """
    check_verifier(verifier)
    stored = Stored(state)
    stored.require_version(VERSION)
    revision = stored.member("revision", int)
    with stored.reading("revision"):
        if revision < 1:
            raise LocalProtocolError(Reason.INVALID_VALUE, "a revision is at least 1")
    with stored.reading("device"):
        device = DeviceKeys.from_json(stored.member("device", dict)).verify(verifier=verifier)
    users = KnownUsers.restore(stored.object("users"), verifier)
    with stored.reading("lists"):
        lists = DeviceListTracker.from_json(stored.member("lists", dict))
    with stored.reading("supply"):
        supply = KeySupply.from_json(stored.member("supply", dict), policy=policy)
        supply.next_upload_at(device_keys=device.keys)  # refuses those of another device
    with stored.reading("sessions"):
        sessions = ClaimPlanner.from_json(stored.member("sessions", dict), verifier=verifier)
    _want_as_known(sessions, users)
    queue = SignatureQueue.restore(stored.object("signatures"))
    with stored.reading():
        signing = OwnSigning(device=device, signer=signer, users=users, queue=queue)
    kept = stored.member("bootstrap", dict, type(None))
    if kept is not None:
        with stored.reading("bootstrap"):
            signing.bootstrap = CrossSigningBootstrap.from_json(kept)
    signing.resets = stored.member("resets", bool)
    signing.set_ups = stored.member("set_ups", int)
    _check_same_owner(device, lists, signing)
    return StoredParts(
        lists=lists,
        supply=supply,
        sessions=sessions,
        signing=signing,
        unknown_senders=UnknownSenders.restore(stored, "unknown_senders"),
        revision=revision,
        is_uploaded=stored.member("is_uploaded", bool),
    )


def _want_as_known(sessions: ClaimPlanner, users: KnownUsers) -> None:
    """Want those who are wanted as they are known: it shows there who has cross-signed them."""
    for user_id, device_id in sessions.wanted:
        user = users.users.get(user_id)
        if user is not None and device_id in user.devices:
            sessions.want([user.devices[device_id]])


def checked_policy(policy: object) -> SupplyPolicy:
    """Return the policy that a caller gives, or the default.

    Raises:
        LocalProtocolError: it is none.
    """
    if policy is None:
        return SupplyPolicy()
    if type(policy) is not SupplyPolicy:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a SupplyPolicy is needed", path="/policy")
    return policy


def _check_same_owner(device: VerifiedDevice, lists: DeviceListTracker, signing: OwnSigning) -> None:
    """Refuse parts of another device's machine.

    Raises:
        LocalProtocolError: one of them is.
    """
    bootstrap = signing.bootstrap
    owners = {
        "lists": lists.own_user_id == device.user_id,
        "bootstrap": bootstrap is None or bootstrap.device.keys.raw_keys == device.keys.raw_keys,
    }
    for name, is_same in owners.items():
        if not is_same:
            raise LocalProtocolError(Reason.NOT_OWN_USER, f"the {name} are those of another device", path=f"/{name}")
