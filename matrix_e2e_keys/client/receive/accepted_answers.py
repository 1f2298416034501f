"""Session keys and secrets that were asked for, from devices that were asked.

Fact: these values are sealed. Whoever holds one need not ask again whether it is to be believed.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from matrix_e2e_keys.client.receive.sender_values import OlmSender
from matrix_e2e_keys.errors import quoted
from matrix_e2e_keys.events.olm_formats import MegolmSessionKey
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent
from matrix_e2e_keys.sealed import Sealed, constructor_of

__all__ = ["AcceptedForward", "AcceptedSecret", "new_accepted_forward", "new_accepted_secret"]


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
        name: which secret was asked for. Whether it is that one, its public half has to show: see
            :meth:`OwnSigning.use_secrets` for those of cross-signing.
        secret: the secret.
        sender: the device of one's own that has sent it.
    """

    name: str
    secret: str
    sender: OlmSender

    def __repr__(self) -> str:
        return f"<AcceptedSecret {quoted(self.name)}>"


new_accepted_forward: Final = constructor_of(AcceptedForward)
new_accepted_secret: Final = constructor_of(AcceptedSecret)
