"""Verifiers: what libsodium refuses, what a memory may remember, how work is spread."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import BASE, IDENTITY, L, P, add, challenge, encode, multiply, secret_scalar, small_order_points
from json_strategies import few
from matrix_e2e_keys import (
    LIBSODIUM,
    CachingVerifier,
    Ed25519PublicKey,
    Ed25519SecretKey,
    ExecutorVerifier,
    LibsodiumVerifier,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    SignatureCheck,
)
from matrix_e2e_keys.signing.verifiers import answered

SEED = bytes(range(32))
SECRET = Ed25519SecretKey(SEED)
KEY = SECRET.public_key.raw
MESSAGE = b'{"a":1}'
SIGNATURE = SECRET.sign(MESSAGE).raw
GOOD: SignatureCheck = (KEY, MESSAGE, SIGNATURE)


def good(number: int) -> SignatureCheck:
    message = f"message {number}".encode()
    return KEY, message, SECRET.sign(message).raw


def bad(number: int) -> SignatureCheck:
    key, message, signature = good(number)
    return key, message + b"!", signature


class Spy:
    """Counts the questions that come through."""

    def __init__(self, inner: Any = LIBSODIUM) -> None:
        self.inner = inner
        self.batches: list[list[SignatureCheck]] = []
        self.threads: set[int] = set()

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> Sequence[bool]:
        self.batches.append(list(checks))
        self.threads.add(threading.get_ident())
        answers: Sequence[bool] = self.inner.verify_many(checks)
        return answers

    @property
    def asked(self) -> int:
        return sum(map(len, self.batches))


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


VERIFIERS: dict[str, Any] = {
    "libsodium": lambda _: LibsodiumVerifier(),
    "caching": lambda _: CachingVerifier(),
    "caching, capacity one": lambda _: CachingVerifier(capacity=1),
    "executor": lambda pool: ExecutorVerifier(executor=pool, chunk=3),
    "caching around executor": lambda pool: CachingVerifier(inner=ExecutorVerifier(executor=pool)),
}


@pytest.fixture(params=VERIFIERS.values(), ids=VERIFIERS.keys())
def verifier(request: pytest.FixtureRequest, executor: ThreadPoolExecutor) -> Any:
    return request.param(executor)


# -- All of them -----------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_questions(verifier: Any) -> None:
    checks = [good(0), bad(1), good(2), bad(3), good(2), bad(3), good(4), good(0), bad(0)]
    expected = [True, False, True, False, True, False, True, True, False]
    for _ in range(3):
        assert list(verifier.verify_many(checks)) == expected
        assert list(verifier.verify_many(checks[::-1])) == expected[::-1]
        assert list(verifier.verify_many([])) == []


def changes() -> dict[str, SignatureCheck]:
    other = Ed25519SecretKey(bytes(32)).public_key.raw
    r, s = SIGNATURE[:32], int.from_bytes(SIGNATURE[32:], "little")
    return {
        "another key": (other, MESSAGE, SIGNATURE),
        "another message": (KEY, MESSAGE + b" ", SIGNATURE),
        "the empty message": (KEY, b"", SIGNATURE),
        "zeros": (KEY, MESSAGE, bytes(64)),
        "S + L": (KEY, MESSAGE, r + (s + L).to_bytes(32, "little")),
        "S + 2 L": (KEY, MESSAGE, r + (s + 2 * L).to_bytes(32, "little")),
        "S + 7 L": (KEY, MESSAGE, r + (s + 7 * L).to_bytes(32, "little")),
        "L - S": (KEY, MESSAGE, r + (L - s).to_bytes(32, "little")),
        "S with a high bit": (KEY, MESSAGE, r + (s | 1 << 255).to_bytes(32, "little")),
        "the sign of R": (KEY, MESSAGE, r[:31] + bytes([r[31] ^ 0x80]) + SIGNATURE[32:]),
        "the sign of the key": (KEY[:31] + bytes([KEY[31] ^ 0x80]), MESSAGE, SIGNATURE),
        "R and S exchanged": (KEY, MESSAGE, SIGNATURE[32:] + r),
    }


@pytest.mark.parametrize("name", changes())
def test_malleable_signatures_are_refused(verifier: Any, name: str) -> None:
    """attack 18: one signature has one encoding."""
    assert verifier.verify_many([GOOD, changes()[name], GOOD]) == [True, False, True]


def test_every_bit_counts() -> None:
    """attack 18: of the key and of the signature."""
    for position in range(len(SIGNATURE) * 8):
        flipped = bytearray(SIGNATURE)
        flipped[position // 8] ^= 1 << position % 8
        assert LIBSODIUM.verify_many([(KEY, MESSAGE, bytes(flipped))]) == [False]
    for position in range(len(KEY) * 8):
        flipped = bytearray(KEY)
        flipped[position // 8] ^= 1 << position % 8
        assert LIBSODIUM.verify_many([(bytes(flipped), MESSAGE, SIGNATURE)]) == [False]


# -- attack 17: a key that signs everything --------------------------------------------------------------------

SMALL_ORDER = small_order_points()


def equation_holds(
    key: tuple[int, int], r: tuple[int, int], s: int, message: bytes, key_raw: bytes, r_raw: bytes
) -> bool:
    """The equation of Ed25519, without any further check."""
    return multiply(s, BASE) == add(r, multiply(challenge(r_raw, key_raw, message), key))


@pytest.mark.parametrize("message", [b"", b"{}", b'{"a":1}', b"anything at all"])
def test_the_identity_point_verifies_nothing(verifier: Any, message: bytes) -> None:
    """attack 17: key and R the identity, S zero; the bare equation holds for every message."""
    identity = encode(IDENTITY)
    assert equation_holds(IDENTITY, IDENTITY, 0, message, identity, identity)
    assert verifier.verify_many([(identity, message, identity + bytes(32))]) == [False]


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: encode(point).hex()[:10])
def test_no_small_order_key_verifies_anything(point: tuple[int, int]) -> None:
    """attack 17: the eight points, every R of small order, S zero, and messages for which the equation holds."""
    forged = []
    for number in range(6):
        message = f"{number}".encode()
        for r in SMALL_ORDER:
            if equation_holds(point, r, 0, message, encode(point), encode(r)):
                forged.append((encode(point), message, encode(r) + bytes(32)))
    assert forged
    assert LIBSODIUM.verify_many(forged) == [False] * len(forged)


@pytest.mark.parametrize("y", [0, 1, P - 1], ids=["0", "1", "-1"])
@pytest.mark.parametrize("sign", [0, 1])
def test_non_canonical_small_order_keys_verify_nothing(y: int, sign: int) -> None:
    """attack 17: the same points written with y + p or with a sign."""
    for value in (y, y + P):
        if value < 2**255:
            raw = (value | sign << 255).to_bytes(32, "little")
            for r in (encode(IDENTITY), raw):
                for number in range(8):
                    assert LIBSODIUM.verify_many([(raw, bytes([number]), r + bytes(32))]) == [False]


@pytest.mark.parametrize(
    "r", [*SMALL_ORDER, None], ids=lambda r: "not canonical" if r is None else encode(r).hex()[:10]
)
def test_a_signature_point_of_small_order_is_refused(r: tuple[int, int] | None) -> None:
    """attack 18: the owner of a key makes a signature whose R is of small order or not canonical."""
    raw = (P + 1).to_bytes(32, "little") if r is None else encode(r)
    for number in range(24):
        message = bytes([number])
        s = challenge(raw, KEY, message) * secret_scalar(SEED) % L
        assert LIBSODIUM.verify_many([(KEY, message, raw + s.to_bytes(32, "little"))]) == [False]


def test_an_honest_signature_can_be_made_by_the_equations() -> None:
    """What the two tests above build on."""
    r = int.from_bytes(hashlib.sha512(b"nonce").digest(), "little") % L
    raw = encode(multiply(r, BASE))
    s = (r + challenge(raw, KEY, MESSAGE) * secret_scalar(SEED)) % L
    assert encode(multiply(secret_scalar(SEED), BASE)) == KEY
    assert LIBSODIUM.verify_many([(KEY, MESSAGE, raw + s.to_bytes(32, "little"))]) == [True]


@pytest.mark.parametrize("torsion", SMALL_ORDER[1:], ids=lambda point: encode(point).hex()[:10])
def test_a_key_of_mixed_order_is_judged_by_the_plain_equation(torsion: tuple[int, int]) -> None:
    """attack 18: no cofactor is multiplied in. Such a key passes here; require_prime_order is the policy against it."""
    key = add(multiply(secret_scalar(SEED), BASE), torsion)
    key_raw = encode(key)
    r = 123456789
    r_raw = encode(multiply(r, BASE))
    verdicts = set()
    for number in range(40):
        message = bytes([number])
        h = challenge(r_raw, key_raw, message)
        s = (r + h * secret_scalar(SEED)) % L
        holds = multiply(h % 8, torsion) == IDENTITY
        assert LIBSODIUM.verify_many([(key_raw, message, r_raw + s.to_bytes(32, "little"))]) == [holds]
        verdicts.add(holds)
    assert verdicts == {True, False}
    with pytest.raises(RemoteProtocolError):
        Ed25519PublicKey(key_raw).require_prime_order()


def test_a_key_that_is_no_point_verifies_nothing() -> None:
    assert (
        LIBSODIUM.verify_many([((number).to_bytes(32, "little"), b"", bytes(64)) for number in range(2, 40)])
        == [False] * 38
    )


# -- attack 20: lengths ----------------------------------------------------------------------------------------


def test_signatures_of_other_lengths_are_not_good(verifier: Any) -> None:
    """attack 20: cut off, filled up, or with a part of it moved to the message."""
    whole = SIGNATURE + MESSAGE + bytes(64)
    lengths = [length for length in range(129) if length != 64]
    for name, checks in {
        "the same message": [(KEY, MESSAGE, whole[:length]) for length in lengths],
        "what is cut off, before the message": [(KEY, whole[length:71], whole[:length]) for length in lengths],
        "zeros": [(KEY, MESSAGE, bytes(length)) for length in lengths],
    }.items():
        answers = verifier.verify_many([*checks, GOOD])
        assert answers.pop() is True
        assert (name, [length for length, answer in zip(lengths, answers, strict=True) if answer]) == (name, [])


def test_keys_of_other_lengths_are_not_good(verifier: Any) -> None:
    """attack 20: a key that is longer or shorter is none; nothing beyond its end is read."""
    lengths = [length for length in range(129) if length != 32]
    checks = [((KEY + bytes(128))[:length], MESSAGE, SIGNATURE) for length in lengths]
    answers = verifier.verify_many([*checks, GOOD])
    assert answers.pop() is True
    assert [length for length, answer in zip(lengths, answers, strict=True) if answer] == []


# -- A memory --------------------------------------------------------------------------------------------------


def test_a_good_signature_is_verified_once() -> None:
    spy = Spy()
    caching = CachingVerifier(inner=spy)
    checks = [good(number) for number in range(10)]
    assert caching.verify_many(checks) == [True] * 10
    assert spy.asked == 10
    for _ in range(3):
        assert caching.verify_many(checks) == [True] * 10
    assert spy.asked == 10
    assert caching.verify_many([*checks, good(10)]) == [True] * 11
    assert spy.batches[-1] == [good(10)]


def test_bad_signatures_are_not_remembered() -> None:
    """attack 39 in small: whoever sends bad ones cannot push the good ones out."""
    spy = Spy()
    caching = CachingVerifier(inner=spy, capacity=2)
    assert caching.verify_many([good(0), good(1)]) == [True, True]
    assert caching.verify_many([bad(number) for number in range(50)]) == [False] * 50
    asked = spy.asked
    assert caching.verify_many([good(0), good(1)]) == [True, True]
    assert spy.asked == asked
    caching.verify_many([bad(0)])
    assert spy.asked == asked + 1
    assert len(caching._known) == 2


def test_the_memory_is_bounded_and_the_least_recently_used_leaves_first() -> None:
    spy = Spy()
    caching = CachingVerifier(inner=spy, capacity=3)
    caching.verify_many([good(0), good(1), good(2)])
    caching.verify_many([good(0)])  # used again: 1 is the oldest now
    caching.verify_many([good(3)])
    assert len(caching._known) == 3
    before = spy.asked
    caching.verify_many([good(0), good(2), good(3)])
    assert spy.asked == before
    caching.verify_many([good(1)])
    assert spy.asked == before + 1


def test_a_batch_larger_than_the_memory() -> None:
    spy = Spy()
    caching = CachingVerifier(inner=spy, capacity=2)
    checks = [good(number) for number in range(7)]
    assert caching.verify_many(checks) == [True] * 7
    assert len(caching._known) == 2
    assert caching.verify_many(checks[5:]) == [True, True]
    assert spy.asked == 7


def test_one_part_of_a_question_is_not_taken_for_another() -> None:
    """attack 20: the name in the memory covers key, signature and message, each in its place."""
    caching = CachingVerifier()
    assert caching.verify_many([GOOD]) == [True]
    whole = KEY + SIGNATURE + MESSAGE
    for key_end in (31, 32, 33):
        for signature_end in (95, 96, 97):
            key, signature, message = whole[:key_end], whole[key_end:signature_end], whole[signature_end:]
            expected = (key_end, signature_end) == (32, 96)
            assert caching.verify_many([(key, message, signature)]) == [expected]


class Yes:
    """Says yes to everything."""

    def __init__(self, value: object = True) -> None:
        self.value = value

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> Any:
        return [self.value] * len(checks)


def test_what_has_a_wrong_length_is_never_remembered() -> None:
    """attack 20: even if the verifier inside says yes."""
    spy = Spy(Yes())
    caching = CachingVerifier(inner=spy)
    odd = [(KEY[:31], MESSAGE, SIGNATURE), (KEY, MESSAGE, SIGNATURE[:63]), (KEY + b"x", MESSAGE, SIGNATURE[1:])]
    assert caching.verify_many(odd) == caching.verify_many(odd) == [True] * 3
    assert spy.asked == 6
    assert len(caching._known) == 0


@pytest.mark.parametrize("value", [1, "yes", [False], object(), 1.0, "True"])
def test_only_true_is_remembered(value: object) -> None:
    """attack 15: a truthy answer is no yes."""
    caching = CachingVerifier(inner=Yes(value))
    assert caching.verify_many([GOOD]) == [False]
    assert len(caching._known) == 0


def test_two_memories_are_two() -> None:
    one, other = CachingVerifier(inner=Yes()), CachingVerifier()
    assert one.verify_many([bad(0)]) == [True]
    assert other.verify_many([bad(0)]) == [False]
    assert one._known is not other._known


# -- Spreading work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 3, 64, 1000])
def test_work_is_spread_in_chunks(executor: ThreadPoolExecutor, chunk: int) -> None:
    spy = Spy()
    spread = ExecutorVerifier(executor=executor, inner=spy, chunk=chunk)
    checks = [good(number) if number % 3 else bad(number) for number in range(10)]
    assert spread.verify_many(checks) == [bool(number % 3) for number in range(10)]
    assert sorted(map(len, spy.batches), reverse=True) == [
        len(checks[start : start + chunk]) for start in range(0, len(checks), chunk)
    ]
    assert threading.get_ident() not in spy.threads


@pytest.mark.parametrize("value", [0, -1, True, 1.5, None, "1"])
def test_numbers_are_positive_integers(executor: ThreadPoolExecutor, value: Any) -> None:
    for name, make in (
        ("chunk", lambda: ExecutorVerifier(executor=executor, chunk=value)),
        ("capacity", lambda: CachingVerifier(capacity=value)),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            make()
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, f"/{name}")


# -- Verifiers of others ---------------------------------------------------------------------------------------


class Answers:
    """Gives the answers it was told to give."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers

    def verify_many(self, _checks: Sequence[SignatureCheck], /) -> Any:
        return self.answers


@pytest.mark.parametrize("answers", [[], [True], [True, True, True], (), iter([True]), (True for _ in range(9))])
def test_a_verifier_must_answer_each_question(answers: Any) -> None:
    """attack 15: too few answers are not a yes to the rest, too many belong to nobody."""
    with pytest.raises(LocalProtocolError) as caught:
        answered(Answers(answers), [GOOD, GOOD])
    assert caught.value.reason is Reason.INVALID_VALUE
    with pytest.raises(LocalProtocolError):
        CachingVerifier(inner=Answers(list(answers))).verify_many([GOOD, GOOD])


@pytest.mark.parametrize("answers", [None, True, 1, object()])
def test_a_verifier_that_answers_with_something_else(answers: Any) -> None:
    with pytest.raises(LocalProtocolError):
        answered(Answers(answers), [GOOD])


def test_nothing_but_true_is_a_yes() -> None:
    """attack 15: truthy values, None, strings."""
    values = [True, 1, "True", None, 0, False, [1], object(), 1.0]
    assert answered(Answers(values), [GOOD] * len(values)) == [True] + [False] * 8
    assert answered(Answers(iter([True, False])), [GOOD] * 2) == [True, False]
    assert answered(LIBSODIUM, []) == []


@few
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12), st.integers(1, 4), st.integers(1, 4))
def test_all_verifiers_agree(questions: list[tuple[int, bool]], chunk: int, capacity: int) -> None:
    checks = [good(number) if honest else bad(number) for number, honest in questions]
    expected = [honest for _, honest in questions]
    with ThreadPoolExecutor(2) as pool:
        spread = ExecutorVerifier(executor=pool, chunk=chunk)
        caching = CachingVerifier(inner=spread, capacity=capacity)
        for each in (LIBSODIUM, spread, caching, caching, CachingVerifier(capacity=capacity)):
            assert each.verify_many(checks) == expected
    assert len(caching._known) <= capacity


def test_answers_are_counted_chunk_by_chunk() -> None:
    """One answer too many for one chunk does not make up for one too few for another."""

    class Shifting:
        def verify_many(self, checks: Any) -> list[bool]:
            return [True, True] if checks == [GOOD] else []

    other = (GOOD[0], b"other", GOOD[2])
    with ThreadPoolExecutor(1) as executor:
        verifier = ExecutorVerifier(executor=executor, inner=Shifting(), chunk=1)
        with pytest.raises(LocalProtocolError):
            verifier.verify_many([GOOD, other])


@pytest.mark.parametrize("parts", [{"executor": None}, {"inner": None}])
def test_an_executor_verifier_is_made_of_its_parts(parts: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(LocalProtocolError):
        ExecutorVerifier(**{"executor": executor, **parts})
    with pytest.raises(LocalProtocolError):
        CachingVerifier(inner=None)  # type: ignore[arg-type]


def test_an_executor_that_answers_nothing() -> None:
    class Mute:
        def map(self, *_: Any) -> None:
            return None

    with pytest.raises(LocalProtocolError):
        answered(ExecutorVerifier(executor=Mute()), [GOOD])  # type: ignore[arg-type]
