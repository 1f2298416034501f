"""Hypothesis strategies for the values of this library, and for what an attacker would send instead.

Every strategy names what it produces; those whose name begins with ``tampered`` produce what must be refused. Keys are
drawn from a small fixed set, so that examples are fast to make and shrink well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from matrix_e2e_keys.json_trees import MAX_SAFE_INTEGER, JsonObject, JsonValue
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.signers import Ed25519SecretKey
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_secret_key

__all__ = [
    "canonical_json_objects",
    "canonical_json_values",
    "device_ids",
    "device_keys",
    "json_like_values",
    "keys_query_answers",
    "sample_users",
    "secret_keys",
    "server_names",
    "tampered_device_keys",
    "user_ids",
]

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def canonical_json_values(*, max_leaves: int = 12) -> st.SearchStrategy[JsonValue]:
    """Values that canonical JSON can represent."""
    integers = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    leaves: st.SearchStrategy[JsonValue] = st.none() | st.booleans() | integers | _TEXT
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
        max_leaves=max_leaves,
    )


def canonical_json_objects(*, max_leaves: int = 12) -> st.SearchStrategy[JsonObject]:
    """Objects that canonical JSON can represent, without ``signatures`` and ``unsigned`` at the top."""
    names = _TEXT.filter(lambda name: name not in ("signatures", "unsigned"))
    return st.dictionaries(names, canonical_json_values(max_leaves=max_leaves), max_size=5)


def json_like_values(*, max_leaves: int = 12) -> st.SearchStrategy[Any]:
    """What a caller or a careless JSON parser may hand over: also floats, huge integers, surrogates, odd types."""
    names = st.text(max_size=6) | st.sampled_from(["signatures", "unsigned", "keys", "user_id", "usage", "algorithms"])
    odd = st.floats() | st.binary(max_size=4) | st.integers(2**53, 2**70) | st.sampled_from([(), b"", 1j, object()])
    leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | odd
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(names, inner, max_size=4)
            | st.dictionaries(st.integers() | st.none() | names, inner, max_size=2)
        ),
        max_leaves=max_leaves,
    )


def server_names() -> st.SearchStrategy[str]:
    """Server names, with ports and address literals among them."""
    return st.sampled_from(["example.org", "b.example:8448", "1.2.3.4", "[1234:5678::abcd]:5678", "localhost"])


def user_ids() -> st.SearchStrategy[str]:
    """User ids, historical ones among them."""
    localparts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=":\x00"), max_size=16)
    return st.builds(lambda localpart, server: f"@{localpart}:{server}", localparts, server_names())


def device_ids() -> st.SearchStrategy[str]:
    """Device ids: the usual ten letters, and the unusual."""
    usual = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=10, max_size=10)
    odd = st.sampled_from(["a/b+c~1", "R1.i=-E9Cq_uL^Nc", "guest_device", ":", "\N{PILE OF POO}", "x" * 300])
    return usual | odd


def secret_keys() -> st.SearchStrategy[Ed25519SecretKey]:
    """Private keys, from a small fixed set."""
    return st.integers(0, 7).map(lambda number: sample_secret_key(f"number {number}"))


def sample_users() -> st.SearchStrategy[SampleUser]:
    """Users with an identity."""
    return st.sampled_from(["@alice:a.example", "@bob:b.example", "@carol:c.example:8448"]).map(SampleUser)


@st.composite
def device_keys(draw: st.DrawFn, users: st.SearchStrategy[SampleUser] | None = None) -> DeviceKeys:
    """Good device keys: signed by the device, perhaps cross-signed, perhaps with members nobody knows."""
    user = draw(sample_users() if users is None else users)
    extra = draw(canonical_json_objects(max_leaves=4))
    return user.device(draw(device_ids()), cross_signed=draw(st.booleans()), extra=dict(extra))


def _set(name: str, *, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(obj: dict[str, Any]) -> None:
        obj[name] = to

    return apply


def _swap_keys(obj: dict[str, Any]) -> None:
    (first, a), (second, b) = obj["keys"].items()
    obj["keys"] = {first: b, second: a}


def _forget_signatures(obj: dict[str, Any]) -> None:
    obj["signatures"] = {}


def _move_signature(obj: dict[str, Any]) -> None:
    (by_owner,) = obj["signatures"].values()
    obj["signatures"] = {"@somebody:else.example": by_owner}


_ATTACKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "member added after signing": _set("added", to=1),
    "algorithms replaced": _set("algorithms", to=["m.none"]),
    "another user": _set("user_id", to="@mallory:evil.example"),
    "another device": _set("device_id", to="MALLORY"),
    "keys swapped": _swap_keys,
    "no signatures": _forget_signatures,
    "somebody else's signature": _move_signature,
    "signatures null": _set("signatures", to=None),
    "float in the signed part": _set("added", to=1.5),
    "user_id null": _set("user_id", to=None),
    "keys an array": _set("keys", to=[]),
}


@st.composite
def tampered_device_keys(draw: st.DrawFn, attack: str | None = None) -> tuple[str, str, dict[str, Any]]:
    """Good device keys that were tampered with after signing: user id, device id, the object.

    Args:
        draw: supplied by Hypothesis.
        attack: which of the attacks; any of them by default.
    """
    device = draw(device_keys())
    obj: dict[str, Any] = copy.deepcopy(device.to_json())
    _ATTACKS[attack if attack is not None else draw(st.sampled_from(sorted(_ATTACKS)))](obj)
    return device.user_id, device.device_id, obj


@st.composite
def keys_query_answers(draw: st.DrawFn) -> dict[str, Any]:
    """Good bodies of ``/keys/query`` answers about up to three users."""
    users = draw(st.lists(sample_users(), max_size=3, unique_by=lambda user: user.user_id))
    devices = [
        (user, draw(st.lists(device_keys(st.just(user)), max_size=3, unique_by=lambda device: device.device_id)))
        for user in users
    ]
    return keys_query_answer(devices)
