"""What a caller hands in who has received something: this device, what he knows of users, who checks signatures.

Fact: the last two may be objects of any class. Whatever theirs raise is the caller's fault.
"""

from __future__ import annotations

from collections.abc import Mapping

from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.errors import LocalProtocolError, Reason, json_pointer, raised_as
from matrix_e2e_keys.events.contents import callers_own
from matrix_e2e_keys.json_trees import wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.signing.verifiers import Verifier, check_verifier

__all__ = ["check_sender_verifier", "known_user", "own_identity_key", "verify_device"]


def own_identity_key(own: VerifiedDevice) -> Curve25519PublicKey:
    """Internal: return the Olm identity key of this device.

    Raises:
        LocalProtocolError: it is no :class:`VerifiedDevice`, or has none.
    """
    if type(own) is not VerifiedDevice:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path="/own")
    if own.curve25519_key is None:
        raise LocalProtocolError(Reason.MISSING_KEY, "this device has no Olm identity key", path="/own")
    return own.curve25519_key


def known_user(known: Mapping[str, KnownUser], user_id: str) -> KnownUser | None:
    """Internal: return what a caller knows of one user. Nobody else is looked at: there may be thousands.

    Raises:
        LocalProtocolError: it is no mapping, or no :class:`KnownUser` of that name stands in it.
    """
    with raised_as(LocalProtocolError), callers_own("known"):
        if not isinstance(known, Mapping):
            raise wrong_type("known must be a mapping", known, "known")
        user = known.get(user_id)
        if user is not None and type(user) is not KnownUser:
            raise wrong_type("known must hold values of type KnownUser", user, "known", user_id)
    if user is not None and user.user_id != user_id:
        detail = f"{user!r} stands under the name of another user"
        raise LocalProtocolError(Reason.USER_ID_MISMATCH, detail, path=json_pointer(["known", user_id]))
    return user


def check_sender_verifier(verifier: Verifier) -> None:
    """Internal: refuse what is no :class:`Verifier`.

    Raises:
        LocalProtocolError: it is none.
    """
    with raised_as(LocalProtocolError), callers_own("verifier"):
        check_verifier(verifier)


def verify_device(keys: DeviceKeys, *, identity: UserIdentity | None = None, verifier: Verifier) -> VerifiedDevice:
    """Internal: :meth:`DeviceKeys.verify`, whatever the caller's verifier does.

    Raises:
        VerificationError: the device did not sign itself.
        LocalProtocolError: the verifier has not answered.
    """
    with raised_as(LocalProtocolError), callers_own("verifier"):
        return keys.verify(identity=identity, verifier=verifier)
