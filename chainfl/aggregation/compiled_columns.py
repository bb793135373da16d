"""`columns` for large rounds: numba makes machine code of its loops, and no array is written between two operations.

The weighted sum reads each value once and adds six of them up in a register; the ranks come from a sorting network over
rows that stay in the core's cache. Neither holds Python's lock, so that `walk`'s threads do not wait for one another.
All of it is integers. Importing this module compiles them, in one to three seconds; nothing is kept on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from chainfl.aggregation.network import selection_network
from chainfl.encoding.arrays import Int16Array, Int64Array, blocks

_AT_ONCE: Final = 6
"""Six products of a weight and a value fit an int32 together: 6 * 10,000 * 32,768 < 2^31."""

_CACHED_COLUMNS: Final = 1 << 12
"""Columns that go through the network at a time: 100 rows of them are 800 kB."""


def weighted_sum(rows: Sequence[Int16Array], weights: Sequence[int]) -> Int64Array:
    """As of `Columns`."""
    total: Int64Array = np.zeros(rows[0].size, np.int64)
    of_c = [row if row.flags.aligned and row.flags.c_contiguous else row.copy() for row in rows]
    for some in blocks(len(rows), _AT_ONCE):
        missing = _AT_ONCE - len(of_c[some])
        _add(total, (*of_c[some], *of_c[:1] * missing), (*weights[some], *[0] * missing))
    return total


def ranked_sum(rows: Sequence[Int16Array], first: int, last: int) -> Int64Array:
    """As of `Columns`."""
    sums: Int64Array = np.zeros(rows[0].size, np.int64)
    _select(np.stack(rows), _network(len(rows), first, last), first, last, sums)
    return sums


@lru_cache(maxsize=64)
def _network(count: int, first: int, last: int) -> NDArray[np.int32]:
    return np.array(selection_network(count, first, last), np.int32).reshape(-1, 2)


def _add_weighted(total: Any, rows: Any, weights: Any) -> None:
    """total += the sum of weight * row. int32() drops what numba's wider intermediates never hold."""
    for i in range(total.size):
        part = types.int32(types.int32(rows[0][i]) * weights[0])
        part = types.int32(part + types.int32(rows[1][i]) * weights[1])
        part = types.int32(part + types.int32(rows[2][i]) * weights[2])
        part = types.int32(part + types.int32(rows[3][i]) * weights[3])
        part = types.int32(part + types.int32(rows[4][i]) * weights[4])
        part = types.int32(part + types.int32(rows[5][i]) * weights[5])
        total[i] += part


def _select_and_add(wires: Any, network: Any, first: int, last: int, sums: Any) -> None:
    """wires: (n, m), used up. network: (k, 2). sums: (m,), to which the rows `first` to `last` are added in the end."""
    for start in range(0, sums.size, _CACHED_COLUMNS):
        stop = min(start + _CACHED_COLUMNS, sums.size)
        for pair in range(network.shape[0]):
            low = wires[network[pair, 0], start:stop]
            high = wires[network[pair, 1], start:stop]
            for i in range(stop - start):
                one, other = low[i], high[i]
                low[i], high[i] = min(one, other), max(one, other)
        for row in range(first, last + 1):
            for i in range(start, stop):
                sums[i] += wires[row, i]


_OF_VALUES = types.Array(types.int16, 1, "C", readonly=True)
_OF_SUMS = types.Array(types.int64, 1, "C")
_OF_WIRES = types.Array(types.int16, 2, "C")
_OF_PAIRS = types.Array(types.int32, 2, "C", readonly=True)
_SOME_VALUES: Any = types.Tuple([_OF_VALUES] * _AT_ONCE)  # type: ignore[no-untyped-call]
_SOME_WEIGHTS: Any = types.Tuple([types.int32] * _AT_ONCE)  # type: ignore[no-untyped-call]

_add = njit(types.void(_OF_SUMS, _SOME_VALUES, _SOME_WEIGHTS), nogil=True)(_add_weighted)
_select = njit(types.void(_OF_WIRES, _OF_PAIRS, types.intp, types.intp, _OF_SUMS), nogil=True)(_select_and_add)
