"""Square roots of many integers at once, exact and without a float: the same bits as OpenZeppelin's `Math.sqrt`."""

from __future__ import annotations

from typing import Final

import numpy as np

from chainfl.encoding.arrays import Int64Array

_INDEX_BITS = 16
_STRIDE_BITS = 12
"""Even, so that half of a shift is a whole one."""
_FRACTION_BITS = 8
LIMIT: Final = 1 << (_INDEX_BITS + 3 * _STRIDE_BITS)
"""Roots are of integers below this."""


def isqrt(values: Int64Array) -> Int64Array:
    """floor(sqrt(v)) of each value. values: (n,) int64, 0 <= v < LIMIT; not modified.

    A table gives the root of the leading 5 to 16 bits to one part in 64, and each step of Newton's halves the square of
    that error: r * 2^-27 after two of them, less than one. A step that rounds down never falls below the root, so all
    that can be left is to be one too large. The first one rounds up instead, which keeps the next divisor from 0.
    """
    half_shifts = _half_shifts(values)
    scratch: Int64Array = values >> half_shifts
    scratch >>= half_shifts
    root: Int64Array = _ROOTS.take(scratch)
    root <<= half_shifts
    root >>= _FRACTION_BITS
    root += 1
    for rounds_up in (1, 0):
        np.floor_divide(values, root, out=scratch)
        root += scratch
        root += rounds_up
        root >>= 1
    np.multiply(root, root, out=scratch)
    root -= scratch > values
    return root


def _half_shifts(values: Int64Array) -> Int64Array:
    """Half of how far each value goes to the right until it is below 2^16; a whole number of strides."""
    strides = (values >= 1 << _INDEX_BITS).view(np.int8)
    for more in (1, 2):
        strides += values >= 1 << (_INDEX_BITS + more * _STRIDE_BITS)
    return np.multiply(strides, _STRIDE_BITS // 2, dtype=np.int64)


def _table() -> Int64Array:
    """2^8 * sqrt(i + 1/2) of every index, rounded down: by the schoolbook's way, a binary digit at a time."""
    squares = (2 * np.arange(1 << _INDEX_BITS, dtype=np.int64) + 1) << (2 * _FRACTION_BITS - 1)
    roots = np.zeros_like(squares)
    for bit in reversed(range(_INDEX_BITS // 2 + _FRACTION_BITS + 1)):
        tried = roots + (1 << bit)
        roots = np.where(tried * tried <= squares, tried, roots)
    return roots


_ROOTS: Final = _table()
