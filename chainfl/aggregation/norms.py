"""Clipping by norm, as integer weights that every validator agrees on exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chainfl.aggregation.server_step import MAX_WEIGHT
from chainfl.errors import AggregationError


def clip_weights(sums: Sequence[int]) -> list[int]:
    """A weight for each update: full up to the median norm, and in inverse proportion to the norm beyond it.

    sums: sums of squares as the updates' trees commit to them, for all revealed updates. Norms are their integer
    square roots, and the median is the lower one over the sums that are not zero. An update of sum 0 gets 0, any
    other at least 1. Raises AggregationError for a negative sum.
    """
    if any(total < 0 for total in sums):
        raise AggregationError("a sum of squares is negative", sums=list(sums))
    norms = sorted(math.isqrt(total) for total in sums if total)
    if not norms:
        return [0] * len(sums)
    median = norms[(len(norms) - 1) // 2]
    return [max(1, min(MAX_WEIGHT, MAX_WEIGHT * median // math.isqrt(total))) if total else 0 for total in sums]
