"""The shape of a device keys object: what must be there, and of which kind.

Specification: ``definitions/device_keys.yaml``.

Nothing here decodes or verifies; the keys are still text.
"""

from __future__ import annotations

from typing import Any, Final

from matrix_e2e_keys.algorithms import CURVE25519, ED25519
from matrix_e2e_keys.errors import Reason, Refusal, RemoteProtocolError, quoted
from matrix_e2e_keys.identifiers import UserId, parse_device_id, parse_user_id, read_identifier
from matrix_e2e_keys.json_trees import wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey

__all__ = ["CURVE25519_PREFIX", "ED25519_PREFIX", "key_refusal", "read_shape"]

ED25519_PREFIX: Final = ED25519 + ":"
CURVE25519_PREFIX: Final = CURVE25519 + ":"

_SHORT: Final = 64


def read_shape(
    tree: dict[str, Any], known: dict[Any, Any]
) -> tuple[UserId, str, tuple[str, ...], dict[str, str], str | None, str | None]:
    """Return the typed members of a device keys object, keys still as text.

    ``known`` holds the user ids and lists of algorithms that were read before, to be used again.
    """
    try:
        user_id, device_id = tree["user_id"], tree["device_id"]
        algorithms, keys = tree["algorithms"], tree["keys"]
    except KeyError as error:
        raise Refusal(Reason.MISSING_MEMBER, f"the device keys have no {error.args[0]}", error.args[0]) from None
    owner: UserId | None = known.get(user_id) if type(user_id) is str else None
    if owner is None:
        owner = known[user_id] = read_identifier(parse_user_id, user_id, "user_id")
    if type(device_id) is not str or not device_id or not device_id.isascii() or len(device_id) > _SHORT:
        read_identifier(parse_device_id, device_id, "device_id")
    if type(algorithms) is not list:
        raise wrong_type("algorithms must be an array", algorithms, "algorithms")
    names = tuple(algorithms)
    try:
        names = known[names]  # only strings have got in there
    except (KeyError, TypeError):
        for place, name in enumerate(algorithms):
            if type(name) is not str:
                raise wrong_type("an algorithm must be a string", name, "algorithms", place) from None
        known[names] = names
    if type(keys) is not dict:
        raise wrong_type("keys must be an object", keys, "keys")
    ed25519_text = keys.get(ED25519_PREFIX + device_id)
    curve25519_text = keys.get(CURVE25519_PREFIX + device_id)
    if len(keys) != 2 or type(ed25519_text) is not str or type(curve25519_text) is not str:
        _check_keys(keys, device_id)
    return owner, device_id, names, keys, ed25519_text, curve25519_text


def _check_keys(keys: dict[str, Any], device_id: str) -> None:
    """The names of the properties are "in the format <algorithm>:<device_id>", the values strings."""
    for key_id, text in keys.items():
        algorithm, colon, name = key_id.partition(":")
        if not algorithm or not colon:
            raise Refusal(
                Reason.INVALID_KEY_ID, f'{quoted(key_id)} is not of the form "<algorithm>:<device_id>"', "keys", key_id
            )
        if name != device_id:
            raise Refusal(
                Reason.KEY_ID_NOT_DEVICE, f"{quoted(key_id)} does not name {quoted(device_id)}", "keys", key_id
            )
        if type(text) is not str:
            raise wrong_type("a key must be a string", text, "keys", key_id)


def key_refusal(device_id: str, keys: dict[str, str]) -> Refusal | None:
    """Return why the keys of a device are not acceptable, ``None`` if they are."""
    raws: list[bytes] = []
    for key_type, prefix in ((Ed25519PublicKey, ED25519_PREFIX), (Curve25519PublicKey, CURVE25519_PREFIX)):
        key_id = prefix + device_id
        if key_id in keys:
            try:
                raws.append(key_type.from_base64(keys[key_id]).raw)
            except RemoteProtocolError as error:
                return Refusal(error.reason, error.detail, "keys", key_id)
    if len(raws) != len(set(raws)):
        return Refusal(Reason.KEY_REUSED, "the ed25519 and the curve25519 key are the same bytes", "keys", key_id)
    return None
