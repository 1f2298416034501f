"""Types whose values only this library makes.

A value of a sealed type is a statement: these bytes were parsed, this signature was checked. So the type has no
public constructor: calling the type is refused, and with it ``attrs.evolve`` and ``copy.replace``, which call it.
There is no sentinel argument that a caller could pass on.

Fact: ``copy`` works, since it makes no new statement. Unpickling hostile data is beyond what any Python type can
withstand, and ``object.__setattr__`` or ``__setstate__`` are beyond what any Python type can prevent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from matrix_e2e_keys.errors import LocalProtocolError, Reason

__all__ = ["Sealed", "constructor_of"]

T = TypeVar("T")


class Sealed(type):
    """Metaclass of types without a public constructor and without subclasses."""

    def __call__(cls, *_args: object, **_kwargs: object) -> NoReturn:
        """Refuse: a type checker sees that nothing comes out."""
        raise _refusal(cls)

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Sealed:
        """Make the type, unless it would be a subclass of a sealed one."""
        if any(isinstance(base, Sealed) for base in bases):
            raise LocalProtocolError(Reason.INVALID_VALUE, f"{bases[0].__name__} cannot be subclassed")
        return super().__new__(mcs, name, bases, namespace, **kwargs)


def constructor_of(sealed_type: type[T]) -> Callable[..., T]:
    """Return the constructor of a sealed type, for the module that defines the type.

    From then on, ``__init__`` itself is refused as well: it could fill a value made by ``object.__new__``, or fill one
    again.
    """
    fill = sealed_type.__init__

    def construct(*values: object) -> T:
        value = object.__new__(sealed_type)
        fill(value, *values)
        return value

    def refuse(value: object, *_args: object, **_kwargs: object) -> NoReturn:
        raise _refusal(type(value))

    type.__setattr__(sealed_type, "__init__", refuse)
    return construct


def _refusal(sealed_type: type) -> LocalProtocolError:
    detail = f"{sealed_type.__name__} has no public constructor: it is the result of a check"
    return LocalProtocolError(Reason.INVALID_VALUE, detail)
