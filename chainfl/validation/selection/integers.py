"""Integer matrices of any size: int64 where that is proven to be enough, Python's own integers where it is not.

Validators must come to the same weights, so distances are compared as integers: a tie is then a tie for everybody.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from chainfl.encoding.arrays import Int64Array

Integers: TypeAlias = npt.NDArray[Any]
"""Of dtype int64, or object with Python's integers."""

_LIMIT = 1 << 63
_FLOAT_LIMIT = 1 << 53
_LIMB_BITS = 31


def largest(values: Integers) -> int:
    """The largest magnitude, 0 of nothing."""
    return max(abs(int(values.max())), abs(int(values.min()))) if values.size else 0


def with_room(values: Integers, factor: int) -> Integers:
    """The same values in a type that holds the sum of `factor` of them."""
    return values.astype(np.int64 if largest(values) * factor < _LIMIT else object)


def squared_distances(gram: Integers) -> Integers:
    """(n, n), the squares of the distances between n vectors, from their inner products, exactly."""
    wide = with_room(gram, 4)
    squares = wide.diagonal()
    distances: Integers = squares[:, None] + squares[None, :] - 2 * wide
    return distances


def multiplied(matrix: Int64Array, values: Integers) -> Integers:
    """matrix @ values, exactly. matrix: (m, n), no negative entry, rows that add up to less than 2^22.

    In float64, which BLAS multiplies fast, as long as every partial sum is an integer that it holds exactly; larger
    values are cut in two.
    """
    bound = largest(values) * int(matrix.sum(axis=1).max(initial=1))
    if bound < _FLOAT_LIMIT:
        product: Integers = (matrix.astype(np.float64) @ values.astype(np.float64)).astype(np.int64)
        return product
    low = multiplied(matrix, (values & ((1 << _LIMB_BITS) - 1)).astype(np.int64))
    high = multiplied(matrix, values >> _LIMB_BITS)
    wide = np.int64 if 2 * bound < _LIMIT else object
    joined: Integers = low.astype(wide) + high.astype(wide) * (1 << _LIMB_BITS)
    return joined
