"""What has to be remembered of claims over a restart: keys that were handed out, sessions begun, sessions to renew.

Specification: client-server API, "Claiming one-time keys", "Recovering from undecryptable messages".

Facts:

* A one-time key is handed out once. The newest 10,000 are remembered. Fallback keys may come again, and are not.
* A session with a device is begun when a key for it is handed out, or when somebody decides to replace the one there
  is. After an hour it does not matter any more.
* That a session is to be replaced, nobody else remembers: what has shown that it is broken, a message that it did not
  open, is gone. So such devices are stored, with their keys, until there is another session.
* The clock may have been set back since: what lies less than an hour ahead counts as what lies that far behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field

from matrix_e2e_keys.errors import Reason, Refusal, quoted
from matrix_e2e_keys.identifiers import DeviceId, UserId, parse_device_id, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject, JsonValue
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.one_time_keys import VerifiedOneTimeKey
from matrix_e2e_keys.models.stored_forms import stored_form
from matrix_e2e_keys.signing.verifiers import Verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["ClaimMemory", "DeviceName", "renewals_to_json", "restore_renewals"]

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

    def withdraw(self, name: DeviceName) -> None:
        """Note that the session with a device that was begun last was never made."""
        self._begun.pop(name, None)

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


def renewals_to_json(devices: Iterable[VerifiedDevice]) -> list[JsonValue]:
    """Return the devices with which sessions are to be renewed, for what is stored."""
    return [stored_form(device.keys) for device in devices]


def restore_renewals(stored: Stored, name: str, verifier: Verifier) -> list[VerifiedDevice]:
    """Restore the list ``name`` that :func:`renewals_to_json` returned. Their signatures are checked again.

    Which identity has signed them is not known here.

    Raises:
        LocalProtocolError: it is not that.
    """
    devices: dict[DeviceName, VerifiedDevice] = {}
    for place, obj in enumerate(stored.values(name, dict)):
        with stored.reading(name, str(place)):
            device = DeviceKeys.from_json(obj).verify(verifier=verifier)
            if not device.supports_olm:
                raise Refusal(Reason.MISSING_KEY, f"there is no session with {device!r}, which does not support Olm")
            if devices.setdefault((device.user_id, device.device_id), device) is not device:
                detail = f"the session with {quoted(device.device_id)} is to be renewed twice"
                raise Refusal(Reason.DUPLICATE_MEMBER, detail)
    return list(devices.values())
