"""The index of a message in a Megolm session.

Specification: "Megolm group ratchet", "Message format": the index is "an unsigned integer" of 32 bits.
"""

from __future__ import annotations

from typing import Final

from matrix_e2e_keys.errors import Reason, Refusal
from matrix_e2e_keys.json_trees import wrong_type

__all__ = ["MAX_MESSAGE_INDEX", "message_index_of"]

MAX_MESSAGE_INDEX: Final = 2**32 - 1
"""The highest index that a message of a Megolm session can have."""


def message_index_of(value: object, *at: str | int) -> int:
    """Internal: take the index of a message.

    Raises:
        Refusal: it is none.
    """
    if type(value) is not int:
        raise wrong_type(f"{at[-1]} must be an integer", value, *at)
    if not 0 <= value <= MAX_MESSAGE_INDEX:
        raise Refusal(Reason.INVALID_VALUE, f"{at[-1]} is an unsigned integer of 32 bits", *at)
    return value
