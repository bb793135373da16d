"""The coordinate-wise lower median of integer updates (Yin et al. 2018); each counts once, whatever its weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chainfl.aggregation.selection import select_ranks
from chainfl.encoding.arrays import Int16Array, Int64Array


def median_rank(count: int) -> int:
    """Which value in ascending order, from 0; the lower one of an even count."""
    return (count - 1) // 2


def lower_median(rows: Sequence[Int16Array]) -> Int64Array:
    """The lower median of each column. rows: n times (m,) int16. returns: (m,) int64, as `FixedPoint.medianAt`."""
    rank, found = median_rank(len(rows)), np.empty(rows[0].size, np.int64)
    for columns, [value] in select_ranks(rows, rank, rank):
        found[columns] = value
    return found
