"""Two copies of one key, with different signatures, made one.

Fact: only what is signed decides whether they are copies. ``unsigned`` is that of the first.
"""

from __future__ import annotations

from typing import TypeVar

from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.signed_json import new_signed_json, parts_of

__all__ = ["merge_signatures"]

Key = TypeVar("Key", DeviceKeys, CrossSigningKey)


def merge_signatures(key: Key, signed: Key) -> Key:
    """Return ``key`` with the signatures of ``signed`` beside its own; one under the same key id is replaced.

    Args:
        key: device keys or a cross-signing key, for example as it was served.
        signed: the same object with other signatures, for example as
            :meth:`CrossSigningSecrets.sign_device <matrix_e2e_keys.CrossSigningSecrets.sign_device>` returns it.

    Raises:
        LocalProtocolError: they are not two of one kind, or other bytes are signed.
    """
    if type(key) not in (DeviceKeys, CrossSigningKey) or type(signed) is not type(key):
        raise LocalProtocolError(Reason.WRONG_TYPE, "two DeviceKeys or two CrossSigningKeys are needed")
    if key != signed:
        raise LocalProtocolError(Reason.INVALID_VALUE, "signatures can only be merged over the same bytes")
    parts = parts_of(key.signed)
    signatures = dict(parts.signatures or {})
    for entity, by_entity in (parts_of(signed.signed).signatures or {}).items():
        signatures[entity] = {**signatures.get(entity, {}), **by_entity}
    return key.with_signed(new_signed_json(parts._replace(signatures=signatures)))
