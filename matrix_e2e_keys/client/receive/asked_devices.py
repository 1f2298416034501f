"""What is asked for, under which id, and of which devices.

Specification: client-server API, "Key requests", "Sharing" of secrets.

Facts:

* A device that was asked is one with two keys, whatever its name. If one of them changes, it is another device, which
  was not asked.
* Who only receives, or does not speak Olm, cannot answer and is not asked.
* An id belongs to one request. The answer with a secret names nothing else, and a cancellation would take back both.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from attrs import define, evolve, field, frozen

from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted
from matrix_e2e_keys.events.contents import some_string
from matrix_e2e_keys.identifiers import parse_device_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.stored import Stored

__all__ = ["Asked", "DeviceKeyPair", "OpenRequests", "answering_keys"]

DeviceKeyPair: TypeAlias = tuple[Ed25519PublicKey, Curve25519PublicKey]
"""The signing key and the Olm identity key of a device."""

Name = TypeVar("Name", bound=Hashable)


def answering_keys(device: VerifiedDevice) -> DeviceKeyPair | None:
    """Return the keys of a device; ``None`` if it cannot answer."""
    curve25519_key = device.curve25519_key
    if curve25519_key is None or not device.supports_olm or device.keys.is_dehydrated:
        return None
    return device.ed25519_key, curve25519_key


@frozen(kw_only=True)
class Asked:
    """Whom something was asked of.

    Attributes:
        request_id: under which id.
        devices: device id to the keys that the device had.
    """

    request_id: str
    devices: Mapping[str, DeviceKeyPair]

    def has(self, device_id: str, keys: DeviceKeyPair) -> bool:
        """Tell whether the device of this name was asked, and had these keys."""
        return self.devices.get(device_id) == keys

    def to_json(self) -> JsonObject:
        """Return this as a part of what is stored."""
        devices: JsonObject = {
            device_id: {"ed25519_key": ed25519_key.to_base64(), "curve25519_key": curve25519_key.to_base64()}
            for device_id, (ed25519_key, curve25519_key) in self.devices.items()
        }
        return {"request_id": self.request_id, "devices": devices}

    @classmethod
    def restore(cls, stored: Stored, own_device_id: str) -> Asked:
        """Restore what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is not that.
        """
        request_id = stored.member("request_id", str)
        with stored.reading():
            some_string(request_id, "request_id")
        devices: dict[str, DeviceKeyPair] = {}
        for device_id, kept in stored.objects("devices"):
            with stored.reading("devices", device_id):
                if parse_device_id(device_id) == own_device_id:
                    raise Refusal(Reason.INVALID_VALUE, "this device does not ask itself")
            devices[device_id] = _restore_keys(kept)
        if not devices:
            detail = "nothing is asked for of nobody"
            raise LocalProtocolError(Reason.INVALID_VALUE, detail, path=stored.path("devices"))
        return cls(request_id=request_id, devices=devices)


def _restore_keys(stored: Stored) -> DeviceKeyPair:
    texts = [stored.member(name, str) for name in ("ed25519_key", "curve25519_key")]
    with stored.reading("ed25519_key"):
        ed25519_key = Ed25519PublicKey.from_base64(texts[0])
    with stored.reading("curve25519_key"):
        return ed25519_key, Curve25519PublicKey.from_base64(texts[1])


@define
class OpenRequests(Generic[Name]):
    """The requests of one kind that are open, each by the name of what is asked for, and by its id."""

    _asked: dict[Name, Asked] = field(factory=dict, init=False)
    _names: dict[str, Name] = field(factory=dict, init=False)

    @property
    def names(self) -> frozenset[Name]:
        """What is asked for."""
        return frozenset(self._asked)

    def items(self) -> Iterator[tuple[Name, Asked]]:
        """Yield what is asked for, with whom it was asked of."""
        yield from self._asked.items()

    def get(self, name: Name) -> Asked | None:
        """Return whom something was asked of; ``None`` if it is not asked for."""
        return self._asked.get(name)

    def named(self, request_id: str) -> tuple[Name, Asked] | None:
        """Return what is asked for under an id, with whom it was asked of; ``None`` if nothing is."""
        if request_id not in self._names:
            return None
        name = self._names[request_id]
        return name, self._asked[name]

    def check_unused(self, request_id: str) -> None:
        """Check that an id does not belong to a request already.

        Raises:
            Refusal: it does.
        """
        if request_id in self._names:
            detail = f"{quoted(request_id)} is the id of another request"
            raise Refusal(Reason.INVALID_VALUE, detail, "request_id")

    def add(self, name: Name, new: Asked) -> Asked:
        """Note that something is asked of devices. If it was asked for before, the id stays the first one."""
        asked = self._asked.get(name)
        if asked is not None:
            new = evolve(asked, devices={**asked.devices, **new.devices})
        self._asked[name] = new
        self._names[new.request_id] = name
        return new

    def pop(self, name: Name) -> Asked | None:
        """Forget a request, and return whom it was asked of; ``None`` if there is none."""
        asked = self._asked.pop(name, None)
        if asked is not None:
            del self._names[asked.request_id]
        return asked

    def restore(self, name: Name, stored: Stored, own_device_id: str) -> None:
        """Restore a request.

        Raises:
            LocalProtocolError: it is none, or it has the name or the id of another one.
        """
        asked = Asked.restore(stored, own_device_id)
        if name in self._asked:
            raise LocalProtocolError(Reason.DUPLICATE_MEMBER, "it is asked for twice", path=stored.path())
        with stored.reading():
            self.check_unused(asked.request_id)
        self.add(name, asked)
