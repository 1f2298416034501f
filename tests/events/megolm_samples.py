"""Session keys of a real ratchet, and what stands beside them, for the tests of the events that carry them."""

from __future__ import annotations

from functools import cache
from typing import Any

import vodozemac
from attrs import frozen

from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.testing.samples import sample_curve25519_key, sample_secret_key

ROOM = "!Cuyf34gef24t:localhost"
OTHER_ROOM = "!another:b.example"
CURVE = sample_curve25519_key("maker")
OTHER_CURVE = sample_curve25519_key("forwarder")
ED = sample_secret_key("maker").public_key


@frozen(kw_only=True)
class MegolmSession:
    """A session of vodozemac, with its key in both formats. The exported one opens it from message 2 on."""

    session_id: str
    shared: str
    exported: str


def megolm_session(name: str = "") -> MegolmSession:
    """A session. Another name gives another one."""
    return _session(name)


@cache
def _session(name: str) -> MegolmSession:
    group = vodozemac.GroupSession()
    shared = group.session_key.to_base64()
    exported = vodozemac.InboundGroupSession(group.session_key).export_at(2)
    assert exported is not None
    return MegolmSession(session_id=group.session_id, shared=shared, exported=exported.to_base64())


def shared_id_of(text: str) -> str:
    """What the ratchet says of a session key in the sharing format."""
    return str(vodozemac.InboundGroupSession(vodozemac.SessionKey(text)).session_id)


def exported_id_of(text: str) -> str:
    """What the ratchet says of a session key in the export format."""
    return str(vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(text)).session_id)


def room_key(**members: Any) -> dict[str, Any]:
    """The content of an ``m.room_key``; a member of ``...`` is left out."""
    return without_dots(
        {
            "algorithm": MEGOLM_V1,
            "room_id": ROOM,
            "session_id": megolm_session().session_id,
            "session_key": megolm_session().shared,
            **members,
        }
    )


def forwarded(**members: Any) -> dict[str, Any]:
    """The content of an ``m.forwarded_room_key``."""
    return without_dots(
        {
            **room_key(session_key=megolm_session().exported),
            "sender_key": CURVE.to_base64(),
            "sender_claimed_ed25519_key": ED.to_base64(),
            "forwarding_curve25519_key_chain": [],
            **members,
        }
    )


def historic(name: str = "", **members: Any) -> dict[str, Any]:
    """An entry in ``room_keys`` of a bundle."""
    return without_dots(
        {
            "algorithm": MEGOLM_V1,
            "room_id": ROOM,
            "session_id": megolm_session(name).session_id,
            "session_key": megolm_session(name).exported,
            "sender_key": CURVE.to_base64(),
            "sender_claimed_keys": {"ed25519": ED.to_base64()},
            **members,
        }
    )


def withheld(name: str = "", **members: Any) -> dict[str, Any]:
    """The content of an ``m.room_key.withheld``."""
    return without_dots(
        {
            "algorithm": MEGOLM_V1,
            "code": "m.unverified",
            "room_id": ROOM,
            "session_id": megolm_session(name).session_id,
            "sender_key": CURVE.to_base64(),
            **members,
        }
    )


def without_dots(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ...}
