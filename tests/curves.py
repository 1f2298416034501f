"""Edwards and Montgomery arithmetic from the equations of the curves, slow and plain, to derive test points from.

Edwards: -x**2 + y**2 = 1 + d * x**2 * y**2 with d = -121665/121666. Montgomery: v**2 = u**3 + 486662 * u**2 + u.
"""

from __future__ import annotations

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
A = 486662

Point = tuple[int, int]

IDENTITY: Point = (0, 1)


def square_root(value: int) -> int | None:
    """Return a square root modulo P, ``None`` if there is none."""
    root = pow(value, (P + 3) // 8, P)
    for candidate in (root, root * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == value % P:
            return candidate
    return None


def on_curve(point: Point) -> bool:
    x, y = point
    return (-x * x + y * y - 1 - D * x * x * y * y) % P == 0


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return x, y


def multiply(scalar: int, point: Point) -> Point:
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def encode(point: Point) -> bytes:
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def from_y(y: int, sign: int) -> Point | None:
    x = square_root((y * y - 1) * pow(D * y * y + 1, -1, P) % P)
    if x is None:
        return None
    return (x if x & 1 == sign else -x % P), y


_base = from_y(4 * pow(5, -1, P) % P, 0)
if _base is None:
    raise ValueError("the base point is a point")
BASE: Point = _base


def small_order_points() -> list[Point]:
    """Return the eight points whose order divides eight.

    x = 0 gives (0, 1) and (0, -1); y = 0 gives the two of order four. A point of order eight doubles to one with
    y = 0: so x**2 + y**2 = 0, and the equation of the curve becomes d * y**4 + 2 * y**2 - 1 = 0.
    """
    points = [(0, 1), (0, P - 1)]
    i = square_root(P - 1)
    points += [(i, 0), (P - i, 0)]
    discriminant = square_root(1 + D)
    for y_squared in ((-1 + discriminant) * pow(D, -1, P) % P, (-1 - discriminant) * pow(D, -1, P) % P):
        y = square_root(y_squared)
        if y is not None:
            x = y * i % P
            points += [(x, y), (P - x, y), (x, P - y), (P - x, P - y)]
    return points


def secret_scalar(seed: bytes) -> int:
    raw = bytearray(hashlib.sha512(seed).digest()[:32])
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return int.from_bytes(raw, "little")


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L


def ladder(scalar: int, u: int) -> int:
    """Return X25519(scalar, u), as RFC 7748 describes it; the scalar is taken as it is, not clamped."""
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in range(254, -1, -1):
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + (A - 2) // 4 * e) % P
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return x2 * pow(z2, P - 2, P) % P
