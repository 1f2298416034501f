"""Canonical JSON: strict reading, strict encoding.

Specification: appendices, "Canonical JSON". Encoding goes through the ``canonicaljson`` package, which is lenient
where Matrix is not (floats, integers of any size, names that are not strings); this module is the strictness.

Facts:

* Members are sorted by code point. Integers lie in +-(2**53 - 1). ``true`` is not an integer.
* "negative zero -0 MUST NOT appear", and neither may fractions and exponents. The appendix's last example all the
  same turns ``{"a":-0,"b":1e10}`` into ``{"a":0,"b":10000000000}``. Both readings exist in the field, so the default
  refuses and ``numbers="normalise"`` follows the example.

Deviation: any JSON value may stand at the top; the specification signs objects only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import canonicaljson

from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import DEFAULT_LIMITS, JsonLimits, JsonValue, Numbers, raise_refused, snapshot

__all__ = ["encode_canonical_json", "encode_objects", "encode_tree", "parse_json"]


def parse_json(data: bytes | str, *, numbers: Numbers = "refuse", limits: JsonLimits = DEFAULT_LIMITS) -> JsonValue:
    """Parse one JSON document, refusing whatever canonical JSON cannot represent.

    Args:
        data: UTF-8 bytes, or text.
        numbers: ``"refuse"`` refuses ``-0``, fractions and exponents; ``"normalise"`` turns those whose value is an
            integer in range into that integer.
        limits: depth, size and digits.

    Returns:
        Plain ``dict``, ``list``, ``str``, ``int``, ``bool`` and ``None`` values that the caller owns.

    Raises:
        RemoteProtocolError: the document is not JSON, not UTF-8, over a limit, or contains a float, an integer out
            of range, a duplicate member or a lone surrogate. ``path`` says where.
        LocalProtocolError: an argument has the wrong type.
    """
    tree = parse_frame(data, numbers=numbers, limits=limits)
    raise_refused(tree, RemoteProtocolError)
    return tree  # type: ignore[no-any-return]  # raise_refused has just shown that it holds JSON values only


def encode_canonical_json(value: object, *, numbers: Numbers = "refuse", limits: JsonLimits = DEFAULT_LIMITS) -> bytes:
    """Encode ``value`` as canonical JSON.

    Only exact ``dict`` (with ``str`` names), ``list``, ``str``, ``int``, ``bool`` and ``None`` values are encoded;
    subclasses, tuples and floats are refused, since each has more than one plausible encoding.

    Args:
        value: what to encode. It is not changed.
        numbers: see :func:`parse_json`; ``"normalise"`` also takes floats whose value is an integer in range.
        limits: ``max_depth`` bounds the nesting and ``max_bytes`` the result.

    Returns:
        The shortest UTF-8 encoding with names sorted by code point.

    Raises:
        LocalProtocolError: the value has no canonical encoding. ``path`` says which part.
    """
    tree = snapshot(value, numbers=numbers, limits=limits)
    encoded = encode_tree(tree)
    if encoded is None:
        raise_refused(tree, LocalProtocolError)
        raise LocalProtocolError(Reason.TOO_DEEP, "the stack is too full for nested JSON")
    if len(encoded) > limits.max_bytes:
        raise LocalProtocolError(
            Reason.TOO_LARGE, f"the encoding has {len(encoded)} bytes, over the limit of {limits.max_bytes}"
        )
    return encoded


def encode_tree(tree: Any) -> bytes | None:
    """Return the canonical encoding of a tree from :func:`parse_frame` or :func:`snapshot`.

    ``None`` if the tree holds a refused place or a lone surrogate; :func:`refused_places` then says which.
    """
    try:
        return canonicaljson.encode_canonical_json(tree)
    except (TypeError, UnicodeEncodeError, RecursionError):
        # canonicaljson has met a RefusedPlace, UTF-8 a lone surrogate.
        return None


_SEPARATOR: Final = None
_BETWEEN: Final = b",null,"
_BATCH: Final = 128


def encode_objects(objects: Sequence[dict[str, Any]]) -> list[bytes | None]:
    """Return ``[encode_tree(o) for o in objects]``, in about half the time.

    Strategy: canonicaljson sets up an encoder per call, which costs as much as a device. So up to 128 objects are
    encoded as one array, with ``null`` between them, and the result is cut there. An object
    starts with ``{`` and ends with ``}``, so each ``null`` between two objects is found; if an object holds the
    same text inside, there are more cuts than that, and the batch is encoded one by one. So it is where any
    of them does not encode.
    """
    encoded: list[bytes | None] = []
    for start in range(0, len(objects), _BATCH):
        batch = objects[start : start + _BATCH]
        array: list[object] = [_SEPARATOR] * (2 * len(batch) - 1)
        array[::2] = batch
        whole = encode_tree(array)
        parts = [] if whole is None else whole[1:-1].split(_BETWEEN)
        if len(parts) == len(batch):
            encoded += parts
        else:
            encoded += map(encode_tree, batch)
    return encoded
