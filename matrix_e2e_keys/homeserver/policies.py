"""How much a homeserver asks of what it is sent.

Facts:

* Three policies. ``COMPAT`` lets through what deployed servers let through. ``SPEC`` demands of an upload what the
  specification demands of its sender; it is the default. ``STRICT`` also checks the signatures of one-time keys, and
  allows less of everything.
* No policy weakens a check that others rely on: whose keys they are, that what is stored can be encoded and signed,
  that a self-signing or user-signing key is signed by the master key, that an uploaded signature is good, that a
  one-time key is given out once.
* The texts of errors that clients read are the same in all of them.
"""

from __future__ import annotations

from typing import Final

from attrs import asdict, frozen

from matrix_e2e_keys.errors import LocalProtocolError, Reason

__all__ = ["COMPAT", "SPEC", "STRICT", "Limits", "Policy", "check_policy"]


@frozen(kw_only=True)
class Limits:
    """How much is too much. Each number is the largest that is still accepted.

    Attributes:
        one_time_keys_per_upload: one-time and fallback keys in one request.
        one_time_keys_per_algorithm: unclaimed one-time keys of one algorithm that a device may have.
        algorithms_per_device: algorithms that a device may have one-time or fallback keys of.
        devices_per_user: devices with keys that a user may have.
        object_bytes: bytes of one signed object, in canonical JSON, with its signatures.
        key_id_bytes: bytes of the id of a one-time or fallback key, in UTF-8.
        signatures_per_object: signatures on one object.
        users_per_request: users in one query, claim or upload of signatures.
        devices_per_request: devices in one query or claim, or signed objects in one upload of signatures.
    """

    one_time_keys_per_upload: int
    one_time_keys_per_algorithm: int
    algorithms_per_device: int
    devices_per_user: int
    object_bytes: int
    key_id_bytes: int
    signatures_per_object: int
    users_per_request: int
    devices_per_request: int

    def __attrs_post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 0:
                raise LocalProtocolError(Reason.WRONG_TYPE, "a limit is an integer, zero or more", path=f"/{name}")


@frozen(kw_only=True)
class Policy:
    """What is checked beyond what is always checked.

    Attributes:
        name: for people.
        checks_device_keys: whether device keys must have an ed25519 key, keys that are keys and named after the
            device, and a good signature by the device itself.
        checks_one_time_keys: whether ``signed_curve25519`` keys must be signed objects that hold a key of 32 bytes, and
            ``curve25519`` keys such a key; whether a fallback key must say that it is one, and a one-time key not; and
            whether there is at most one fallback key of an algorithm.
        checks_one_time_key_signatures: whether ``signed_curve25519`` keys must be signed by the device.
        refuses_claimed_ids: whether another key under an id that was claimed before is refused. The same key is never
            stored again, whatever the policy.
        refuses_invalid_names: whether a claim is refused in which a name is no user id. Otherwise the name is passed
            over.
        limits: how much is too much.
    """

    name: str
    checks_device_keys: bool
    checks_one_time_keys: bool
    checks_one_time_key_signatures: bool
    refuses_claimed_ids: bool
    refuses_invalid_names: bool
    limits: Limits


_GENEROUS: Final = Limits(
    one_time_keys_per_upload=1000,
    one_time_keys_per_algorithm=500,
    algorithms_per_device=20,
    devices_per_user=10_000,
    object_bytes=65_536,
    key_id_bytes=512,
    signatures_per_object=100,
    users_per_request=10_000,
    devices_per_request=10_000,
)

COMPAT: Final = Policy(
    name="compat",
    checks_device_keys=False,
    checks_one_time_keys=False,
    checks_one_time_key_signatures=False,
    refuses_claimed_ids=False,
    refuses_invalid_names=True,
    limits=_GENEROUS,
)
"""What deployed servers let through."""

SPEC: Final = Policy(
    name="spec",
    checks_device_keys=True,
    checks_one_time_keys=True,
    checks_one_time_key_signatures=False,
    refuses_claimed_ids=True,
    refuses_invalid_names=False,
    limits=_GENEROUS,
)
"""What the specification demands of who uploads. The default."""

STRICT: Final = Policy(
    name="strict",
    checks_device_keys=True,
    checks_one_time_keys=True,
    checks_one_time_key_signatures=True,
    refuses_claimed_ids=True,
    refuses_invalid_names=False,
    limits=Limits(
        one_time_keys_per_upload=200,
        one_time_keys_per_algorithm=200,
        algorithms_per_device=5,
        devices_per_user=1000,
        object_bytes=16_384,
        key_id_bytes=128,
        signatures_per_object=20,
        users_per_request=1000,
        devices_per_request=5000,
    ),
)
"""The signatures of one-time keys too, and less of everything."""


def check_policy(policy: object) -> Policy:
    """Take a policy.

    Raises:
        LocalProtocolError: it is none.
    """
    if type(policy) is not Policy:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the policy must be a Policy", path="/policy")
    return policy
