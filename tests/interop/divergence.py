"""What a row of the table of divergences is, and what a difference can be about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from attrs import frozen

from interop.model_comparison import VERDICT, Difference
from interop.model_world import ROLES, Event, Seen
from matrix_e2e_keys import RemoteProtocolError

MEMBERS: Final = ("algorithms", "device_id", "keys", "signatures", "user_id")
SILENT: Final = "Silent."


@frozen(kw_only=True)
class Divergence:
    """One kind of difference.

    Attributes:
        name: of the row.
        kind: the step in whose answers it shows.
        input: what is asked.
        here: what ``KeyDirectory`` answers, the status first.
        why: the words of the specification.
        covers: whether it is what makes two answers differ in one place.
        parts: whether the two sides have stored something else from then on.
    """

    name: str
    kind: str
    input: str
    here: str
    why: str
    covers: Callable[[Seen, Difference], bool]
    parts: bool = False


@frozen(kw_only=True)
class Form:
    """The same answer in another form, which is not compared.

    Attributes:
        shows: whether the two forms are seen.
    """

    name: str
    kind: str
    input: str
    here: str
    why: str
    shows: Callable[[Seen], bool]


Covers = Callable[[Seen, Difference], bool]


def verdicts(here: str, there: str, when: Callable[[Any], bool]) -> Covers:
    """The two verdicts, where something is true of what was asked."""
    return lambda seen, difference: difference == Difference(VERDICT, here, there) and when(seen.request)


def happened(seen: Seen, *event: str) -> bool:
    return any(before[: len(event)] == event for before in seen.before)


def part(request: Any, name: str) -> Any:
    """Return a member of a body, an empty object if there is none that is one."""
    value = request.get(name) if isinstance(request, dict) else None
    return value if isinstance(value, dict) else {}


def uploaded_keys(request: Any) -> dict[str, Any]:
    return {**part(request, "one_time_keys"), **part(request, "fallback_keys")}


def objects(request: Any) -> list[Any]:
    """Return the objects that stand in an upload of any kind."""
    roles = [request[f"{role}_key"] for role in ROLES if f"{role}_key" in request] if isinstance(request, dict) else []
    return [part(request, "device_keys"), *uploaded_keys(request).values(), *roles]


def values(tree: Any) -> Iterator[Any]:
    """Yield everything that stands in a tree, the tree included."""
    yield tree
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for value in inner:
        yield from values(value)


def is_beyond(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) > 2**53 - 1)


def has_beyond(request: Any) -> bool:
    return any(map(is_beyond, values(request)))


def depth(tree: Any) -> int:
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return 1 + max(map(depth, inner), default=0) if isinstance(tree, dict | list) else 0


def has_surrogate(request: Any) -> bool:
    return any(isinstance(value, str) and not value.isprintable() and "\ud800" in value for value in values(request))


def key_ids(request: Any, is_so: Callable[[str], bool]) -> bool:
    return any(map(is_so, uploaded_keys(request)))


def role_keys(request: Any) -> dict[str, Any]:
    """Return the cross-signing keys of a body by role, as far as they are objects."""
    return {role: part(request, f"{role}_key") for role in ROLES if part(request, f"{role}_key")}


def names_other_key(key: Any) -> bool:
    """Tell whether a cross-signing key is not called what it is, in plain unpadded base64."""
    return any(name != f"ed25519:{text}" or text.endswith("=") for name, text in part(key, "keys").items())


def is_no_key(key: Any) -> bool:
    """Tell whether a cross-signing key is none of Ed25519."""
    return any(not name.startswith("ed25519:") or len(text) < 43 for name, text in part(key, "keys").items())


def signed_objects(request: Any) -> list[Any]:
    """Return the objects in an upload of signatures."""
    return [signed for of_user in request.values() if isinstance(of_user, dict) for signed in of_user.values()]


def signatures_in(request: Any) -> list[Any]:
    return [signed.get("signatures", {}) for signed in signed_objects(request) if isinstance(signed, dict)]


def signature(difference: Difference) -> tuple[str, str, str, str, str] | None:
    """Return of which map, owner, device or "", signer and signing key a signature is that differs."""
    path = difference.path
    if "signatures" not in path:
        return None
    place = path.index("signatures")
    signer, _, key_id = path[place + 1].partition(" ")
    return path[0], path[1], path[2] if place == 3 else "", signer, key_id.partition(":")[2]


def on_signature(is_so: Callable[[Seen, Difference, str, str, str, str, str], bool]) -> Covers:
    """A signature that differs, of which something is true."""

    def covers(seen: Seen, difference: Difference) -> bool:
        found = signature(difference)
        return found is not None and is_so(seen, difference, *found)

    return covers


def was_taken(seen: Seen, difference: Difference) -> bool:
    """Tell whether a cross-signing key that only one side shows is one that both had stored."""
    stored = seen.asker.world.users[difference.path[1]].stored
    return any(text in stored.values() for text in difference.there["keys"].values())


def is_unreadable(read: Callable[..., object], *values: object) -> bool:
    try:
        read(*values)
    except RemoteProtocolError:
        return True
    return False


def innermost(difference: Difference, levels: int) -> dict[str, Any]:
    """Return what stands so many levels below the root on the other side, all of it side by side."""
    found = [{difference.path[-1]: difference.there}]
    for _ in range(levels - len(difference.path)):
        found = [value for tree in found for value in tree.values()]
    return {name: value for tree in found for name, value in tree.items()}


def server_of(user_id: str) -> str:
    return user_id.partition(":")[2]


def were_taken(seen: Seen, user_id: str, device_id: str) -> list[Event]:
    return [event for event in seen.before if event == ("claimed", seen.viewer, user_id, device_id)]


def times_uploaded(seen: Seen) -> bool:
    """Tell whether one of the uploaded one-time keys had been uploaded before, or stands there twice."""
    place = (seen.viewer, seen.asker.device_id)
    texts = [key["key"] if isinstance(key, dict) else key for key in part(seen.request, "one_time_keys").values()]
    before = {event[4] for event in seen.before if event[:3] == ("uploaded", *place)}
    return len(set(texts)) < len(texts) or any(text in before for text in texts)


def keys_uploaded_as_fallback(seen: Seen) -> list[str]:
    """Return the texts of the fallback keys that the device has uploaded, each as often as it was."""
    return [event[3] for event in seen.before if event[:3] == ("fallback", seen.viewer, seen.asker.device_id)]


def moved_through(seen: Seen, user_id: str) -> bool:
    """Tell whether a user and the one who asks came to share a room since the last news, and share it no more."""
    both = (user_id, seen.viewer)
    return any(("joined", who) in seen.news for who in both) and any(("left", who) in seen.news for who in both)
