"""What becomes of a column of values, one from each update: a weighted sum, or a sum of those of given ranks.

Here in numpy. `columns_for` gives large rounds the same two functions as machine code, `compiled_columns`: the same
integers, two to four times as fast, after one to three seconds in which they are compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final, Protocol, cast

import numpy as np

from chainfl.encoding.arrays import Int16Array, Int64Array, blocks

LARGE: Final = 1 << 29
"""Values in a round from which compiling pays within some rounds: a gigabyte, 64 updates of 8M parameters."""

_SORTED_COLUMNS = 1 << 14
"""Columns sorted at a time: 100 values each are then 3 MB, which stays in a cache."""


class Columns(Protocol):
    """Both functions. Whichever implements them, the results are the same integers."""

    def weighted_sum(self, rows: Sequence[Int16Array], weights: Sequence[int]) -> Int64Array:
        """The sum of weight * row. rows: n times (m,) int16. weights: n, each 0 to 10,000. returns: (m,) int64.

        The same bits as `FixedPoint.weightedSumOf`.
        """
        ...

    def ranked_sum(self, rows: Sequence[Int16Array], first: int, last: int) -> Int64Array:
        """In each column the sum of the values of ranks `first` to `last`, from 0, ascending. returns: (m,) int64.

        rows: n times (m,) int16, not modified.
        """
        ...


def weighted_sum(rows: Sequence[Int16Array], weights: Sequence[int]) -> Int64Array:
    """As of `Columns`."""
    total: Int64Array = np.zeros(rows[0].size, np.int64)
    for row, weight in zip(rows, weights, strict=True):
        # 10,000 * 32,768 < 2^31: the product fits int32, the sum needs int64.
        total += np.multiply(row, np.int32(weight), dtype=np.int32)
    return total


def ranked_sum(rows: Sequence[Int16Array], first: int, last: int) -> Int64Array:
    """As of `Columns`."""
    sums = np.empty(rows[0].size, np.int64)
    for some in blocks(rows[0].size, _SORTED_COLUMNS):
        ordered = np.ascontiguousarray(np.stack([row[some] for row in rows], axis=1))
        ordered.sort(axis=1)
        np.sum(ordered[:, first : last + 1], axis=1, dtype=np.int64, out=sums[some])
    return sums


def columns_for(num_values: int) -> Columns:
    """What to take for a round of so many values, all updates together."""
    # numba takes 90 MB and most of a second to import, and only large rounds have a use for it.
    name = "chainfl.aggregation.compiled_columns" if num_values >= LARGE else __name__
    return cast(Columns, importlib.import_module(name))
