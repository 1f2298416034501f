"""Session keys and secrets that were asked for, from devices that were asked.

Facts:

* These values are sealed. Whoever holds one need not ask again whether it is to be believed.
* That a device was asked, and is verified, does not mean that it makes no mistakes: what it has sent may be no such
  secret, and is its fault then, not that of the caller.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.receive.sender_values import OlmSender
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, quoted
from matrix_e2e_keys.events.olm_formats import MegolmSessionKey
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent
from matrix_e2e_keys.events.secrets import SecretName
from matrix_e2e_keys.sealed import Sealed, constructor_of

__all__ = ["AcceptedForward", "AcceptedSecret", "new_accepted_forward", "new_accepted_secret"]

_CROSS_SIGNING: Final = frozenset(
    (
        SecretName.CROSS_SIGNING_MASTER,
        SecretName.CROSS_SIGNING_SELF_SIGNING,
        SecretName.CROSS_SIGNING_USER_SIGNING,
    )
)


@frozen(repr=False)
class AcceptedForward(metaclass=Sealed):
    """A session key that was asked for, from a device that was asked. Only :meth:`KeyRequests.check_forward` makes one.

    Attributes:
        content: the content: whose session it is, it only claims.
        key: the session key, whose session id is the one that was asked for. A secret.
        forwarder: the device of one's own that has forwarded it.
    """

    content: ForwardedRoomKeyContent
    key: MegolmSessionKey
    forwarder: OlmSender

    def __repr__(self) -> str:
        return f"<AcceptedForward of {quoted(self.content.session_id)} in {quoted(self.content.room_id)}>"


@frozen(repr=False)
class AcceptedSecret(metaclass=Sealed):
    """A secret that was asked for, from a device that was asked. Only :meth:`KeyRequests.check_secret` makes one.

    Attributes:
        name: which secret was asked for. Whether it is that one, its public half has to show: for those of
            cross-signing, hand :meth:`cross_signing_secrets` to :meth:`OwnSigning.use_secrets`.
        secret: the secret, any text. Where it turns out to be malformed or another one, do not settle the request:
            the other devices that were asked may yet send the right one.
        sender: the device of one's own that has sent it.
    """

    name: str
    secret: str
    sender: OlmSender

    def cross_signing_secrets(self) -> CrossSigningSecrets:
        """Return the private key, if it is one for cross-signing. :meth:`OwnSigning.use_secrets` checks whose it is.

        Raises:
            RemoteProtocolError: the device has sent something else than the seed of a key. It is not quoted.
            LocalProtocolError: a secret of another kind was asked for.
        """
        if self.name not in _CROSS_SIGNING:
            detail = f"{quoted(self.name)} is not a private key for cross-signing"
            raise LocalProtocolError(Reason.INVALID_VALUE, detail, path="/name")
        try:
            return CrossSigningSecrets.from_seeds(self.sender.user_id, {self.name: self.secret})
        except LocalProtocolError as error:
            raise RemoteProtocolError(error.reason, error.detail, path="/secret") from None

    def __repr__(self) -> str:
        return f"<AcceptedSecret {quoted(self.name)}>"


new_accepted_forward: Final = constructor_of(AcceptedForward)
new_accepted_secret: Final = constructor_of(AcceptedSecret)
