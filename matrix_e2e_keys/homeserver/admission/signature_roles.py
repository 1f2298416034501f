"""Which of a user's keys plays which role, by what is stored.

Specification: client-server API, "Cross-signing", "Key and signature security".

Facts:

* "Since device key IDs and cross-signing key IDs occupy the same namespace", a key id alone says nothing. A role comes
  from where a key is stored, and what it can do from its bytes.
* An id that two keys go by has no role, and neither has a key that is stored in two places.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from typing import Final, Self

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.homeserver.decisions import Requester, check_requester
from matrix_e2e_keys.homeserver.stored_keys import USAGES, UserKeys
from matrix_e2e_keys.keys import KeyId, ed25519_fault
from matrix_e2e_keys.signing.signed_json import SignedJson

__all__ = ["OwnKeys", "Role", "SigningKey", "check_own", "device_signing_key"]

_KEY_BYTES: Final = 32


class Role(enum.StrEnum):
    """What a key is there for."""

    DEVICE = "device"
    MASTER = "master"
    SELF_SIGNING = "self_signing"
    USER_SIGNING = "user_signing"


@frozen(kw_only=True)
class SigningKey:
    """A key that can sign.

    Attributes:
        role: what it is there for.
        raw: its 32 bytes.
    """

    role: Role
    raw: bytes


@frozen(kw_only=True)
class OwnKeys:
    """The Ed25519 keys of one user.

    Attributes:
        roles: device id or public key to the roles of the keys that go by it. Of several, none counts.
        raws: device id or public key to the 32 bytes of the key that can sign.
        reused: the bytes of keys that stand in several places.
    """

    roles: Mapping[str, tuple[Role, ...]]
    raws: Mapping[str, bytes]
    reused: frozenset[bytes]

    @classmethod
    def of(cls, stored: UserKeys) -> Self:
        """Find out about the keys of a user."""
        roles: dict[str, tuple[Role, ...]] = {}
        raws: dict[str, bytes] = {}
        uses: Counter[bytes] = Counter()
        found = [
            (device_id, Role.DEVICE, device_signing_key(device_id, device.keys))
            for device_id, device in stored.devices.items()
        ]
        for usage in USAGES:
            key = stored.key_of(usage)
            if key is not None:
                found.append((key.key_id.name, Role(usage), key.raw))
        for name, role, raw in found:
            roles[name] = (*roles.get(name, ()), role)
            if raw is not None:
                raws[name] = raw
                uses[raw] += 1
        reused = frozenset(raw for raw, count in uses.items() if count > 1)
        return cls(roles=FrozenMap(roles), raws=FrozenMap(raws), reused=reused)

    def signer(self, key_id: str) -> SigningKey | Reason:
        """Return the key that signs under a key id, or why there is none."""
        try:
            parsed = KeyId.parse(key_id)
        except RemoteProtocolError as error:
            return error.reason
        roles, raw = self.roles.get(parsed.name, ()), self.raws.get(parsed.name)
        if parsed.algorithm != ED25519:
            return Reason.UNSUPPORTED_ALGORITHM
        if len(roles) > 1:
            return Reason.IDENTIFIER_COLLISION
        if raw is None or not roles:
            return Reason.MISSING_KEY
        if raw in self.reused:
            return Reason.KEY_REUSED
        return SigningKey(role=roles[0], raw=raw)


def device_signing_key(device_id: str, keys: SignedJson | None) -> bytes | None:
    """Return the 32 bytes of the key that a device signs with, ``None`` if it has none that can be used."""
    named = None if keys is None else keys.content.get("keys")
    text = named.get(f"{ED25519}:{device_id}") if type(named) is dict else None
    (raw,) = unpadded_base64.decode_fixed([text], _KEY_BYTES)
    return None if raw is None or ed25519_fault(raw) is not None else raw


def check_own(requester: object, stored: object) -> tuple[Requester, UserKeys]:
    """Take a requester and what is stored of him.

    Raises:
        LocalProtocolError: they are not that, or the keys are somebody else's.
    """
    checked = check_requester(requester)
    if type(stored) is not UserKeys:
        raise LocalProtocolError(Reason.WRONG_TYPE, "what is stored must be UserKeys", path="/stored")
    if stored.user_id != checked.user_id:
        raise LocalProtocolError(Reason.USER_ID_MISMATCH, "these are the keys of another user", path="/stored")
    return checked, stored
