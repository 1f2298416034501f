"""Names of algorithms, as they stand on the wire.

Specification: client-server API, "End-to-end encryption", "Key algorithms" and "Messaging algorithms". The lists are
open: a name that is not here is unsupported, never invalid.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CURVE25519",
    "ED25519",
    "MEGOLM_V1",
    "OLM_V1",
    "SIGNED_CURVE25519",
]

ED25519: Final = "ed25519"
"""Signing keys of devices, cross-signing and servers."""

CURVE25519: Final = "curve25519"
"""Identity keys of devices, and the unsigned one-time keys of the 2015 draft."""

SIGNED_CURVE25519: Final = "signed_curve25519"
"""One-time and fallback keys, signed by their device."""

OLM_V1: Final = "m.olm.v1.curve25519-aes-sha2"
MEGOLM_V1: Final = "m.megolm.v1.aes-sha2"
