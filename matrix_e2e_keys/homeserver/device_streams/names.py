"""Several names as an argument."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["names_in"]


def names_in(value: object) -> object:
    """Return what is to be checked where several names are wanted: of a mapping, its names."""
    return list(value) if isinstance(value, Mapping) else value
