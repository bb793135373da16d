"""Centres that are weighted means of points, known by the distances among the points alone.

Validators must come to the same bits on different machines. So these are only operations that IEEE 754 rounds
correctly (+, -, *, /, square root), one at a time, and sums that `math.fsum` rounds correctly; no BLAS, whose order of
addition depends on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def distances_to_centre(squared: NDArray[np.float64], shares: Sequence[float]) -> list[float]:
    """The distance of each of n points to sum(shares * points). squared: (n, n), of the points. shares add up to 1.

    |x_i - c|^2 = sum_j s_j D_ij - 1/2 sum_jk s_j s_k D_jk: unlike with inner products, nothing that all points have in
    common cancels out.
    """
    part = np.array(shares)
    along = np.array([math.fsum((row * part).tolist()) for row in squared])
    half_spread = math.fsum((along * part).tolist()) / 2
    return [math.sqrt(max(0.0, distance - half_spread)) for distance in along.tolist()]
