"""Devices that nobody knows yet, and whose messages could not be decrypted: by the key that the messages name.

Facts:

* The message is gone by the time the device is known. So the key is remembered, over a restart as well.
* Anybody can make up keys. Ten are remembered of each user, of a hundred users, and the older ones go first: whoever
  makes up many hides one's own devices and hardly anybody else's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from attrs import define, field

from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.identifiers import parse_user_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.stored import Stored

__all__ = ["UnknownSenders"]

_MAX_USERS: Final = 100
_MAX_KEYS: Final = 10


@define
class UnknownSenders:
    """Olm identity keys that are not known to be those of a device, by user, oldest first."""

    _keys: dict[str, dict[Curve25519PublicKey, None]] = field(factory=dict, init=False)

    def add(self, user_id: str, sender_key: Curve25519PublicKey) -> None:
        """Remember a key that a user's message names."""
        keys = self._keys.setdefault(user_id, {})
        keys[sender_key] = None
        if len(keys) > _MAX_KEYS:
            del keys[next(iter(keys))]
        if len(self._keys) > _MAX_USERS:
            del self._keys[next(iter(self._keys))]

    def settle(self, known: Mapping[str, KnownUser], outdated: Collection[str]) -> list[VerifiedDevice]:
        """Return the devices that are known by now, and forget their keys.

        Args:
            known: user id to what is known of users.
            outdated: whose devices will be asked for. The others have no more devices than those that are known, or
                nobody asks for them, so that what remains of them is forgotten as well.
        """
        found: list[VerifiedDevice] = []
        for user_id, keys in list(self._keys.items()):
            del self._keys[user_id]
            for sender_key in keys:
                device = known[user_id].device_with(sender_key) if user_id in known else None
                if device is not None:
                    found.append(device)
                elif user_id in outdated:
                    self.add(user_id, sender_key)
        return found

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart."""
        return {user_id: [key.to_base64() for key in keys] for user_id, keys in self._keys.items()}

    @classmethod
    def restore(cls, stored: Stored, name: str) -> UnknownSenders:
        """Restore the member ``name``.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        senders = cls()
        of = stored.object(name)
        for user_id, _ in stored.items(name, list):
            with stored.reading(name, user_id):
                parse_user_id(user_id)
            for place, text in enumerate(of.values(user_id, str)):
                with of.reading(user_id, str(place)):
                    senders.add(user_id, Curve25519PublicKey.from_base64(text))
        return senders
