"""What a server is to be told about the devices and identities of one's own users, as plain values.

Facts:

* A poke names what changed, and not how: what is told is what holds when it is sent. So the newest poke about a device
  says all that those before it could have said.
* A poke about an identity carries no number. It takes none either: the chain of the devices is as if it were not there.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from matrix_e2e_keys.endpoints.members import count, device_id, instances, list_of, server_name, settle, user_id

__all__ = ["DevicePoke", "IdentityPoke", "OutboundUpdates", "Poke"]


@frozen(kw_only=True)
class DevicePoke:
    """A device is new, changed, renamed or gone.

    Attributes:
        user_id: the owner.
        device_id: the device.
        stream_id: the number of the update.
        prev_ids: the number of the update right before, as this destination knows it; nothing if there is none, which
            makes it ask for all devices.
    """

    user_id: str
    device_id: str
    stream_id: int
    prev_ids: tuple[int, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(self, user_id=user_id, device_id=device_id, stream_id=count, prev_ids=list_of(count))


@frozen(kw_only=True)
class IdentityPoke:
    """A master key or self-signing key is another, or has other signatures. Both are told at once.

    Attributes:
        user_id: whose.
    """

    user_id: str

    def __attrs_post_init__(self) -> None:
        settle(self, user_id=user_id)


Poke: TypeAlias = DevicePoke | IdentityPoke
"""What a server is to be told."""


@frozen(kw_only=True)
class OutboundUpdates:
    """What to put into one transaction.

    Attributes:
        number: the number of the transaction, which grows. Updates that are sent again have the number they had.
        destination: the server.
        pokes: what to tell it, 100 things at most.
    """

    number: int
    destination: str
    pokes: tuple[Poke, ...]

    def __attrs_post_init__(self) -> None:
        settle(self, number=count, destination=server_name, pokes=list_of(instances(DevicePoke, IdentityPoke)))
