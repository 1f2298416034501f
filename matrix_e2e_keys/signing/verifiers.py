"""Verifiers: who answers "is this a signature by this key over these bytes?".

Facts:

* A verifier answers many questions at once. That is what lets one remember answers, spread work over threads, or
  report progress, while the code that asks stays the same.
* The default is libsodium, which refuses small-order and non-canonical keys and signature points and any S that is
  not reduced: one signature has one encoding. It lets go of the interpreter lock while it works.
* A verifier is trusted completely. The questions it gets are already decoded: 32-byte key, message, 64-byte
  signature.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol, TypeAlias

import nacl.bindings
import nacl.exceptions
from attrs import Factory, field, frozen

from matrix_e2e_keys.errors import LocalProtocolError, Reason

__all__ = [
    "LIBSODIUM",
    "CachingVerifier",
    "ExecutorVerifier",
    "LibsodiumVerifier",
    "SignatureCheck",
    "Verifier",
]

_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64

SignatureCheck: TypeAlias = tuple[bytes, bytes, bytes]
"""One question: the Ed25519 public key (32 bytes), the message, the signature (64 bytes)."""


class Verifier(Protocol):
    """Answers signature questions."""

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> Sequence[bool]:
        """Return one answer per question, in their order. Only ``True`` means that the signature is good."""
        ...  # pragma: no cover


@frozen
class LibsodiumVerifier:
    """Asks libsodium, one question after the other, in the calling thread."""

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> list[bool]:
        """Return one answer per question, in their order."""
        open_signed = nacl.bindings.crypto_sign_open
        answers: list[bool] = []
        for key, message, signature in checks:
            # The binding hands over the address of the key and not its length: the lengths are checked here.
            if len(key) != _KEY_BYTES or len(signature) != _SIGNATURE_BYTES:
                answers.append(False)
                continue
            try:
                open_signed(signature + message, key)
            except nacl.exceptions.BadSignatureError:
                answers.append(False)
            else:
                answers.append(True)
        return answers


LIBSODIUM = LibsodiumVerifier()
"""The default verifier."""


class _Executor(Protocol):
    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any]) -> Iterable[Any]: ...  # pragma: no cover


@frozen(kw_only=True)
class ExecutorVerifier:
    """Spreads questions over an executor that the caller owns, for example a ``ThreadPoolExecutor``.

    Attributes:
        executor: anything with the ``map`` of ``concurrent.futures.Executor``. Threads are enough, since libsodium
            lets go of the interpreter lock; processes cost more than they save.
        inner: who answers.
        chunk: how many questions travel together.
    """

    executor: _Executor
    inner: Verifier = LIBSODIUM
    chunk: int = 64

    def __attrs_post_init__(self) -> None:
        _require_positive("chunk", self.chunk)
        check_verifier(self.inner)
        if not callable(getattr(self.executor, "map", None)):
            raise LocalProtocolError(Reason.WRONG_TYPE, "the executor has no map", path="/executor")

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> list[bool]:
        """Return one answer per question, in their order."""
        chunks = [checks[start : start + self.chunk] for start in range(0, len(checks), self.chunk)]
        # Answers are counted chunk by chunk: one too many here must not make up for one too few there.
        return list(chain.from_iterable(_iterated(self.executor.map(partial(answered, self.inner), chunks))))


@frozen(kw_only=True)
class CachingVerifier:
    """Remembers which signatures were good, so that a repeated answer is cheap.

    Only good signatures are remembered: whoever sends bad ones cannot push them out. The memory is bounded, the
    least recently used leaves first. Not safe for use by several threads at once; put it *around* an
    :class:`ExecutorVerifier`, not inside.

    Attributes:
        inner: who answers what is not remembered.
        capacity: how many signatures to remember; each takes about 150 bytes.
    """

    inner: Verifier = LIBSODIUM
    capacity: int = 100_000
    _known: OrderedDict[bytes, None] = field(init=False, repr=False, eq=False, default=Factory(OrderedDict))

    def __attrs_post_init__(self) -> None:
        _require_positive("capacity", self.capacity)
        check_verifier(self.inner)

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> list[bool]:
        """Return one answer per question, in their order."""
        # Key and signature have fixed lengths, so the concatenation is unambiguous; the lengths are checked since a
        # cache must not be where that assumption breaks.
        names = [
            hashlib.sha256(key + signature + message).digest()
            if len(key) == _KEY_BYTES and len(signature) == _SIGNATURE_BYTES
            else None
            for key, message, signature in checks
        ]
        known = self._known
        answers = [name in known for name in names]
        unknown = [index for index, answer in enumerate(answers) if not answer]
        for index, answer in zip(unknown, answered(self.inner, [checks[i] for i in unknown]), strict=True):
            answers[index] = answer
        for name, answer in zip(names, answers, strict=True):
            if answer and name is not None:
                known[name] = None
                known.move_to_end(name)
        while len(known) > self.capacity:
            known.popitem(last=False)
        return answers


def answered(verifier: Verifier, checks: Sequence[SignatureCheck]) -> list[bool]:
    """Ask ``verifier``, and take nothing but a ``True`` for each question as a yes.

    Raises:
        LocalProtocolError: the verifier did not answer each question.
    """
    check_verifier(verifier)
    good = [answer is True for answer in _iterated(verifier.verify_many(checks))]
    if len(good) != len(checks):
        raise LocalProtocolError(Reason.INVALID_VALUE, f"the verifier did not answer each of {len(checks)} questions")
    return good


def check_verifier(verifier: object) -> None:
    """Refuse what is no :class:`Verifier`.

    Raises:
        LocalProtocolError: it is none.
    """
    if not callable(getattr(verifier, "verify_many", None)):
        raise LocalProtocolError(Reason.WRONG_TYPE, f"{type(verifier).__name__} is not a Verifier", path="/verifier")


def _iterated(answers: object) -> Iterable[Any]:
    return answers if isinstance(answers, Iterable) else ()


def _require_positive(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise LocalProtocolError(Reason.INVALID_VALUE, f"{name} must be an integer of at least 1", path=f"/{name}")
