"""FedYogi's second moment: it follows the squares by steps of their own size, and so falls more slowly than Adam's.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2; Zaheer et al., "Adaptive Methods for Nonconvex
Optimization", NeurIPS 2018.
"""

from __future__ import annotations

import numpy as np

from chainfl.encoding.arrays import Int64Array
from chainfl.tasks.state import Format


def yogi_moment(form: Format, moment: Int64Array, square: Int64Array) -> Int64Array:
    """v - sign(v - D^2) * floor((sd - sn)*D^2 / sd). moment: (n,) int64, v; square: (n,) int64, D^2; both consumed."""
    sign = np.sign(moment - square)
    square *= np.int64(form.second_den - form.second_num)
    square //= np.int64(form.second_den)
    square *= sign
    moment -= square
    return moment
