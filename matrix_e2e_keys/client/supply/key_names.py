"""The names of one's own one-time and fallback keys: a name is never given to a second key.

Specification: client-server API, "One-time and fallback keys".

Facts:

* A server refuses a second key under an id it holds; one that has forgotten the first hands out two keys by one name.
* One-time keys and fallback keys are named independently of each other: the same name may stand for one of each.
* A key has one name only, whichever kind it is of.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from attrs import define, field, frozen

from matrix_e2e_keys.algorithms import ED25519, SIGNED_CURVE25519
from matrix_e2e_keys.errors import LocalProtocolError, Reason, printable, quoted
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.stored import Stored

__all__ = ["KeyNames", "OwnKeyReader", "is_new"]

_PREFIX: Final = SIGNED_CURVE25519 + ":"


@define
class KeyNames:
    """Internal: the keys of one kind that were ever added, by name, oldest first."""

    _keys: dict[str, Curve25519PublicKey] = field(factory=dict)
    _names: dict[Curve25519PublicKey, str] = field(factory=dict)

    def key(self, name: str) -> Curve25519PublicKey | None:
        """Return the key that is called ``name``."""
        return self._keys.get(name)

    def name(self, key: Curve25519PublicKey) -> str | None:
        """Return how ``key`` is called."""
        return self._names.get(key)

    def add(self, name: str, key: Curve25519PublicKey) -> None:
        """Remember a key, see :func:`is_new`."""
        self._keys[name] = key
        self._names[key] = name

    def forget_oldest(self, kept: int, *, spared: Container[str]) -> None:
        """Forget the oldest keys beyond ``kept``, but for those that are ``spared``."""
        too_many = max(0, len(self._keys) - kept)
        for name in [name for name in self._keys if name not in spared][:too_many]:
            del self._names[self._keys.pop(name)]

    def to_json(self) -> JsonObject:
        """Return name to key."""
        return {name: key.to_base64() for name, key in self._keys.items()}

    def restore(self, stored: Stored, member: str, of_other_kind: KeyNames) -> None:
        """Read back name to key.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        for name, text in stored.items(member, str):
            with stored.reading(member, name):
                key = Curve25519PublicKey.from_base64(text)
                is_new(name, key, self, of_other_kind)
                self.add(name, key)


def is_new(name: object, key: object, of_kind: KeyNames, of_other_kind: KeyNames) -> bool:
    """Tell whether a key is to be added to those of its kind; it is not if it is there already, by the same name.

    Raises:
        LocalProtocolError: an argument has the wrong type, or the name is that of another key, or the other way round.
    """
    if type(key) is not Curve25519PublicKey:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a one-time key must be a Curve25519PublicKey")
    if type(name) is not str or not name or name != printable(name):
        raise LocalProtocolError(Reason.INVALID_KEY_ID, f"{quoted(name)} cannot be the name of a key")
    if of_kind.key(name) not in (None, key):
        raise LocalProtocolError(Reason.KEY_ID_REUSED, f"another key was called {quoted(name)} before")
    called = of_kind.name(key) or of_other_kind.name(key)
    if called is not None and of_kind.key(name) is None:
        raise LocalProtocolError(Reason.KEY_REUSED, f"this key was called {quoted(called)} before")
    return called is None


@frozen(kw_only=True)
class OwnKeyReader:
    """Internal: reads back the keys that a device signed."""

    user_id: str
    device_id: str
    ed25519_key: Ed25519PublicKey | None

    def read(self, stored: Stored, member: str, name: str, names: KeyNames, *, is_fallback: bool) -> OneTimeKey:
        """Return the signed key in the object ``member``, after checking it as if it had come from somebody else.

        Raises:
            LocalProtocolError: it is not the key that is called ``name``, as this device signed it.
        """
        obj = stored.member(member, dict)
        with stored.reading(member):
            key = OneTimeKey.from_json(_PREFIX + name, obj)
            if self.ed25519_key is None or key.signed is None:
                raise LocalProtocolError(Reason.MISSING_KEY, "it is not known who signed the keys")
            if key.fallback is not is_fallback or key.public_key is None or key.public_key != names.key(name):
                raise LocalProtocolError(Reason.INVALID_VALUE, f"this is not the key that is called {quoted(name)}")
            signed_by = f"{ED25519}:{self.device_id}"
            key.signed.verify(entity=self.user_id, key_id=signed_by, key=self.ed25519_key)
            return key
