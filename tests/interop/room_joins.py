"""How a user of our own homeserver gets into a room of another: servers tell each other of keys only then."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import quote

from interop.key_homeserver import KeyHomeserver
from matrix_e2e_keys import HttpRequest, encode_canonical_json, parse_json, sign_json

ROOM_VERSION = "10"
KEPT = ("type", "room_id", "sender", "state_key", "depth", "prev_events", "auth_events", "origin_server_ts")
"""What a redaction leaves of an event, apart from what is set here."""


def join_room(own: KeyHomeserver, server_name: str, room_id: str, user_id: str) -> None:
    """Let a user of ``own`` join a public room of version 10."""
    room, user = (quote(name, safe="") for name in (room_id, user_id))
    path = f"/_matrix/federation/v1/make_join/{room}/{user}"
    proposal = _asked(own, server_name, HttpRequest(method="GET", path=path, query=f"ver={ROOM_VERSION}"))
    event: dict[str, Any] = {name: proposal["event"][name] for name in KEPT}
    event["content"] = {"membership": "join"}
    event["hashes"] = {"sha256": _hash(event).decode().rstrip("=")}
    event_id = "$" + _hash(event).translate(bytes.maketrans(b"+/", b"-_")).decode().rstrip("=")
    signed = sign_json(event, entity=own.server_name, signer=own.signer)
    path = f"/_matrix/federation/v2/send_join/{room}/{quote(event_id, safe='')}"
    _asked(own, server_name, HttpRequest(method="PUT", path=path, body=encode_canonical_json(signed)))


def _asked(own: KeyHomeserver, server_name: str, request: HttpRequest) -> Any:
    answer = own.send(server_name, request)
    assert answer.status == 200, answer.body
    return parse_json(answer.body)


def _hash(event: dict[str, Any]) -> bytes:
    return base64.b64encode(hashlib.sha256(encode_canonical_json(event)).digest())
