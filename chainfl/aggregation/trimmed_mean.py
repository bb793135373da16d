"""The coordinate-wise trimmed mean of integer updates (Yin et al. 2018); each counts once, whatever its weight."""

from __future__ import annotations

from collections.abc import Sequence

from chainfl.aggregation import columns as numpy_columns
from chainfl.aggregation.columns import Columns
from chainfl.encoding.arrays import Int16Array, Int64Array
from chainfl.errors import AggregationError


def trim_count(count: int, num: int, den: int) -> int:
    """How many of `count` values num/den drops at each end: floor(count * num / den).

    Raises AggregationError unless 0 <= num/den < 1/2, so that something is left.
    """
    if num < 0 or den < 1 or 2 * num >= den:
        raise AggregationError(f"trimming {num}/{den} at each end leaves nothing", num=num, den=den)
    return count * num // den


def trimmed_sum(rows: Sequence[Int16Array], trim: int, columns: Columns = numpy_columns) -> Int64Array:
    """The sum of each column without its `trim` smallest and largest values.

    rows: n times (m,) int16. returns: (m,) int64, as `FixedPoint.trimmedSum`. Raises AggregationError if nothing is
    left.
    """
    if not 0 <= 2 * trim < len(rows):
        raise AggregationError(f"trimming {trim} of {len(rows)} values at each end leaves nothing", trim=trim)
    return columns.ranked_sum(rows, trim, len(rows) - 1 - trim)
