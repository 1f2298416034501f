"""Whether an upload of cross-signing keys needs user-interactive authentication.

Specification: ``cross_signing.yaml``, "Publishes cross-signing keys for the user".

Facts:

* The first keys need none, so that a client can set up cross-signing by itself; and neither does an upload that
  "contains no new keys", so that a lost answer costs nothing.
* Keys are compared by what is signed. A signature that the server added, left out or was told later makes no key a new
  one.
* A key that is left out is not a different one.
* A key that replaces nothing is new all the same: with a stored master key, a first self-signing key needs
  authentication.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from attrs import frozen

from matrix_e2e_keys.endpoints.client_server.device_signing_upload import DeviceSigningUploadRequest
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.admission.signature_roles import check_own
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.outcome import Rejection

__all__ = [
    "AuthenticationReason",
    "MayStore",
    "NoOp",
    "RequireAuthentication",
    "UploadKind",
    "authentication_needed",
    "supplied_keys",
]


class AuthenticationReason(enum.StrEnum):
    """Why the user has to prove that it is he."""

    REPLACES_MASTER_KEY = "replaces-master-key"
    REPLACES_KEY = "replaces-key"
    ADDS_KEY = "adds-key"


@frozen
class NoOp:
    """Nothing is new. The answer is yes, and nothing is looked at any further."""


@frozen(kw_only=True)
class MayStore:
    """The keys may be stored without further proof, if they are good.

    Attributes:
        usages: the roles of the keys that are new or different.
    """

    usages: tuple[Usage, ...]


@frozen(kw_only=True)
class RequireAuthentication:
    """The user has to prove that it is he.

    Attributes:
        reason: why, the gravest reason if there are several.
        usages: the roles of the keys that are new or different.
    """

    reason: AuthenticationReason
    usages: tuple[Usage, ...]


UploadKind: TypeAlias = NoOp | MayStore | RequireAuthentication
"""What an upload of cross-signing keys amounts to."""


def supplied_keys(request: DeviceSigningUploadRequest) -> dict[Usage, CrossSigningKey | Rejection]:
    """Return what stands in a request, role to key, without what is left out; the master key first."""
    supplied: dict[Usage, CrossSigningKey | Rejection | None] = {
        "master": request.master_key,
        "self_signing": request.self_signing_key,
        "user_signing": request.user_signing_key,
    }
    return {usage: key for usage, key in supplied.items() if key is not None}


def authentication_needed(request: DeviceSigningUploadRequest, *, requester: Requester, stored: UserKeys) -> UploadKind:
    """Tell what an upload amounts to. Whether the keys are any good is not looked at.

    Args:
        request: what is uploaded. A malformed key counts as a different one.
        requester: who uploads.
        stored: what is stored of that user.

    Raises:
        LocalProtocolError: an argument has the wrong type, or ``stored`` is of another user.
    """
    if type(request) is not DeviceSigningUploadRequest:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a DeviceSigningUploadRequest is needed", path="/request")
    requester, stored = check_own(requester, stored)
    changed: tuple[Usage, ...] = tuple(
        usage for usage, key in supplied_keys(request).items() if key != stored.key_of(usage)
    )
    if not changed:
        return NoOp()
    # "there is no existing master signing key uploaded"; "except when used by an application service"
    if stored.master_key is None or requester.has_authenticated or requester.is_application_service:
        return MayStore(usages=changed)
    if "master" in changed:
        reason = AuthenticationReason.REPLACES_MASTER_KEY
    elif any(stored.key_of(usage) is not None for usage in changed):
        reason = AuthenticationReason.REPLACES_KEY
    else:
        reason = AuthenticationReason.ADDS_KEY
    return RequireAuthentication(reason=reason, usages=changed)
