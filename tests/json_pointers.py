"""Whether the paths in errors and rejections lead to what they name (RFC 6901)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import pytest
from hypothesis import strategies as st

from matrix_e2e_keys import Reason, Rejection, RemoteProtocolError
from matrix_e2e_keys.testing.strategies import canonical_json_values


def at_pointer(document: Any, path: str) -> Any:
    """Return what stands at a JSON Pointer (RFC 6901) in a document; ``LookupError`` if nothing does."""
    value = document
    for segment in path.split("/")[1:]:
        name = segment.replace("~1", "/").replace("~0", "~")
        if type(value) is list:
            value = value[int(name)] if name.isdigit() else {}[name]
        elif type(value) is dict:
            value = value[name]
        else:
            raise LookupError(path)
    return value


def check_pointer(document: Any, refused: Rejection | RemoteProtocolError) -> None:
    """Check that ``refused.path`` leads to the offending place: for a missing member, to where it is missing."""
    assert refused.path == "" or refused.path.startswith("/")
    if refused.reason is Reason.MISSING_MEMBER:
        above, _, segment = refused.path.rpartition("/")
        parent = at_pointer(document, above)
        assert type(parent) is dict
        assert segment.replace("~1", "/").replace("~0", "~") not in parent
    else:
        try:
            at_pointer(document, refused.path)
        except LookupError:
            pytest.fail(f"{refused.path} leads nowhere: {refused.detail}")


def rejections_in(value: Any) -> Iterator[Rejection]:
    """Yield every rejection inside a value of this library."""
    if isinstance(value, Rejection):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from rejections_in(member)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from rejections_in(item)
    elif attrs.has(type(value)):
        for attribute in attrs.fields(type(value)):
            yield from rejections_in(getattr(value, attribute.name))


def changed(draw: Any, document: Any) -> Any:
    """Return a copy of a document in which one drawn place holds something else, or a member is gone."""
    document = copy.deepcopy(document)
    containers = [document]
    for container in containers:
        inner = container.values() if type(container) is dict else container
        containers += [item for item in inner if type(item) in (dict, list) and item]
    container = draw(st.sampled_from(containers))
    place = draw(st.sampled_from(list(container) if type(container) is dict else range(len(container))))
    if type(container) is dict and draw(st.integers(0, 3)) == 0:
        del container[place]
    else:
        floats = st.floats(allow_nan=False, allow_infinity=False)
        container[place] = draw(canonical_json_values(max_leaves=4) | floats | st.integers(2**53, 2**70))
    return document
