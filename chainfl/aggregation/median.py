"""The coordinate-wise lower median of integer updates (Yin et al. 2018); each counts once, whatever its weight."""

from __future__ import annotations

from collections.abc import Sequence

from chainfl.aggregation import columns as numpy_columns
from chainfl.aggregation.columns import Columns
from chainfl.encoding.arrays import Int16Array, Int64Array


def median_rank(count: int) -> int:
    """Which value in ascending order, from 0; the lower one of an even count."""
    return (count - 1) // 2


def lower_median(rows: Sequence[Int16Array], columns: Columns = numpy_columns) -> Int64Array:
    """The lower median of each column. rows: n times (m,) int16. returns: (m,) int64, as `FixedPoint.medianAt`."""
    rank = median_rank(len(rows))
    return columns.ranked_sum(rows, rank, rank)
