"""What has to be remembered of claims over a restart: which keys were handed out, and when sessions were begun.

Specification: client-server API, "Claiming one-time keys", "Recovering from undecryptable messages".

Facts:

* A one-time key is handed out once. The newest 10,000 are remembered. Fallback keys may come again, and are not.
* A session with a device is begun when a key for it is handed out, or when somebody decides to replace the one there
  is. After an hour it does not matter any more.
* The clock may have been set back since: what lies less than an hour ahead counts as what lies that far behind.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from matrix_e2e_keys.identifiers import DeviceId, UserId, parse_device_id, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject, JsonValue
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.one_time_keys import VerifiedOneTimeKey
from matrix_e2e_keys.stored import Stored

__all__ = ["ClaimMemory", "DeviceName"]

_MAX_USED: Final = 10_000
_HOUR_MS: Final = 3_600_000

DeviceName = tuple[UserId, DeviceId]
"""A user id, and the id of one of the user's devices."""


@define
class ClaimMemory:
    """One-time keys that were handed out, oldest first; and when a session with a device was last begun."""

    _used: dict[Curve25519PublicKey, None] = field(factory=dict, init=False)
    _begun: dict[DeviceName, int] = field(factory=dict, init=False)

    def was_used(self, key: Curve25519PublicKey) -> bool:
        """Tell whether a one-time key was handed out."""
        return key in self._used

    def use(self, key: VerifiedOneTimeKey) -> bool:
        """Tell whether a key may be handed out, and note that it was."""
        if not key.is_fallback:
            if key.public_key in self._used:
                return False
            self._remember(key.public_key)
        return True

    def _remember(self, key: Curve25519PublicKey) -> None:
        self._used[key] = None
        if len(self._used) > _MAX_USED:
            del self._used[next(iter(self._used))]

    def begin(self, name: DeviceName, now: int) -> None:
        """Note that a session with a device is begun."""
        self._begun[name] = now

    def has_begun(self, name: DeviceName, now: int) -> bool:
        """Tell whether a session with a device was begun within an hour."""
        begun = self._begun.get(name)
        return begun is not None and abs(now - begun) < _HOUR_MS

    def forget_older(self, now: int) -> None:
        """Forget the sessions that were begun longer ago than anybody asks for."""
        self._begun = {name: begun for name, begun in self._begun.items() if self.has_begun(name, now)}

    def to_json(self) -> JsonObject:
        """Return everything, as the members ``used`` and ``begun``."""
        begun: dict[str, dict[str, JsonValue]] = {}
        for (user_id, device_id), moment in self._begun.items():
            begun.setdefault(user_id, {})[device_id] = moment
        return {"used": [key.to_base64() for key in self._used], "begun": {**begun}}

    @classmethod
    def from_stored(cls, stored: Stored) -> ClaimMemory:
        """Restore the members ``used`` and ``begun``.

        Raises:
            LocalProtocolError: they are not what :meth:`to_json` returned.
        """
        memory = cls()
        for place, text in enumerate(stored.values("used", str)):
            with stored.reading("used", str(place)):
                memory._remember(Curve25519PublicKey.from_base64(text))
        begun = stored.object("begun")
        for user, _ in stored.objects("begun"):
            with stored.reading("begun", user):
                user_id = parse_user_id(user)
            for device, moment in begun.items(user, int):
                with stored.reading("begun", user, device):
                    memory.begin((user_id, parse_device_id(device)), moment)
        return memory
