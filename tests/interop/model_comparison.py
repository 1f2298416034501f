"""What counts as a difference between the answers of both sides.

Not compared: texts for people, tokens, sessions, and the order of what has none. Error codes are, and so is what clients
read out of the text of an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from interop.model_world import Answer, Json, Seen
from matrix_e2e_keys import HttpResponse, KeysUploadRequest, MatrixError, one_time_key_conflict

ABSENT: Final = "(absent)"
VERDICT: Final = ("verdict",)
KEY_MAPS: Final = ("master_keys", "self_signing_keys", "user_signing_keys")


class Difference(NamedTuple):
    """One place where the answers differ.

    Attributes:
        path: the member names that lead to it.
        here: what stands there on our side, :data:`ABSENT` if nothing.
        there: what stands there on the other.
    """

    path: tuple[str, ...]
    here: Any
    there: Any

    @property
    def only_here(self) -> bool:
        return self.here != ABSENT and self.there == ABSENT  # type: ignore[no-any-return]

    @property
    def only_there(self) -> bool:
        return self.here == ABSENT and self.there != ABSENT  # type: ignore[no-any-return]


def differences(seen: Seen) -> list[Difference]:
    """Return where the answers differ, in what counts."""
    assert seen.here.status < 500, seen
    if seen.here.verdict != seen.there.verdict:
        return [Difference(VERDICT, seen.here.verdict, seen.there.verdict)]
    return list(_differences(normalized(seen, seen.here), normalized(seen, seen.there)))


def _differences(here: Any, there: Any, *path: str) -> Iterator[Difference]:
    if isinstance(here, dict) and isinstance(there, dict):
        for name in sorted({*here, *there}):
            yield from _differences(here.get(name, ABSENT), there.get(name, ABSENT), *path, name)
    elif here != there:
        yield Difference(path, here, there)


def normalized(seen: Seen, answer: Answer) -> Any:
    """Return what counts of an answer."""
    body = answer.body
    if answer.status >= 400:
        return _error(seen, answer)
    if seen.kind in ("sync", "changes"):
        lists = body.get("device_lists", {}) if seen.kind == "sync" else body
        told: Json = {name: dict.fromkeys(lists.get(name, ()), True) for name in ("changed", "left")}
        if seen.kind == "sync":
            told["count"] = body.get("device_one_time_keys_count")
            told["unused"] = sorted(body["device_unused_fallback_key_types"])
        return told
    if seen.kind == "query":
        maps = {name: {user_id: _signed(key) for user_id, key in body[name].items()} for name in KEY_MAPS}
        devices = {
            user_id: {device_id: _signed(keys) for device_id, keys in of_user.items()}
            for user_id, of_user in body["device_keys"].items()
        }
        return {**body, **maps, "device_keys": devices, "failures": _failures(body)}
    if seen.kind == "claim":
        return {**body, "failures": _failures(body)}
    if seen.kind == "signatures":
        failed = body.get("failures", {})
        return {
            user_id: {name: error["errcode"] for name, error in failed.get(user_id, {}).items()}
            for user_id in sorted({*seen.request, *failed})
        }
    return body if seen.kind in ("upload", "device_signing") else {}


def _error(seen: Seen, answer: Answer) -> Json:
    told: Json = {name: answer.body[name] for name in ("flows", "params") if name in answer.body}
    if seen.kind == "upload" and isinstance(seen.request, dict) and answer.verdict == "400 M_UNKNOWN":
        error = MatrixError.from_http(HttpResponse(status=400, body=json.dumps(answer.body).encode()))
        conflict = one_time_key_conflict(KeysUploadRequest.from_json(seen.request), error)
        if conflict is not None:
            told["conflict"] = [conflict.key_id, repr(conflict.held), conflict.is_same_key]
    return told


def _failures(body: Json) -> dict[str, Any]:
    return {server: failure.get("status") for server, failure in body["failures"].items()}


def _signed(key: Json) -> Json:
    """Return a key whose signatures stand side by side: none at all in whatever form is nothing."""
    signatures = {
        f"{user_id} {key_id}": text
        for user_id, by_user in key.get("signatures", {}).items()
        for key_id, text in by_user.items()
    }
    return {**key, "signatures": signatures}
