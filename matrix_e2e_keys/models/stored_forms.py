"""What is kept of a signed key: what restoring it needs, and what canonical JSON can hold.

Specification: appendices, "Signing JSON".

Facts:

* What is signed is canonical JSON. What stands beside it is not: in ``unsigned``, and in signatures that nobody asks
  about, whoever passes the object on can put fractions, huge integers, lone surrogates, and as much as he likes.
  In what is stored that would stay, and could not be written as UTF-8.
* Kept are signatures by users, under an Ed25519 key id, of the length of a signature. Whether they are good is asked
  when they count. Of ``unsigned``, the display name of a device is kept, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.errors import printable
from matrix_e2e_keys.identifiers import is_device_id, is_user_id
from matrix_e2e_keys.json_trees import JsonObject, JsonValue
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.signed_json import SignedParts, parts_of

__all__ = ["stored_form"]

_DISPLAY_NAME: Final = "device_display_name"
_MAX_DISPLAY_NAME: Final = 1024
_SIGNATURE_BYTES: Final = 64


def stored_form(key: DeviceKeys | CrossSigningKey) -> JsonObject:
    """Return what is stored of a key, as plain values. Whatever it came with, canonical JSON can hold that.

    It restores to an equal key, with the same signatures by users, each at its place. It is nested as deeply as what is
    signed, for which the limit is that of the document it came in; in a state it stands some levels deeper.
    """
    stored: JsonObject = key.signed.content
    parts = parts_of(key.signed)
    signatures: dict[str, JsonValue] = {}
    for user_id, key_id, text in _kept_signatures(parts):
        by_user: Any = signatures.setdefault(user_id, {})
        by_user[key_id] = text
    if signatures:
        stored["signatures"] = signatures
    unsigned: Any = parts.unsigned
    name = unsigned.get(_DISPLAY_NAME) if type(unsigned) is dict else None
    if type(name) is str and len(name) <= _MAX_DISPLAY_NAME and name == printable(name):
        stored["unsigned"] = {_DISPLAY_NAME: name}
    return stored


def _kept_signatures(parts: SignedParts) -> Iterator[tuple[str, str, str]]:
    """Yield user id, key id and text of the signatures that are kept."""
    named = [
        (user_id, key_id, text)
        for user_id, by_user in (parts.signatures or {}).items()
        if is_user_id(user_id)
        for key_id, text in by_user.items()
        if _is_ed25519(key_id)
    ]
    raws = unpadded_base64.decode_fixed([text for _, _, text in named], _SIGNATURE_BYTES)
    for signature, raw in zip(named, raws, strict=True):
        if raw is not None:
            yield signature


def _is_ed25519(key_id: str) -> bool:
    """Tell whether a key id names an Ed25519 key, in no more than a device id can hold."""
    algorithm, _, name = key_id.partition(":")
    return algorithm == ED25519 and is_device_id(name)
