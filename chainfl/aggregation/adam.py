"""FedAdam's second moment: the mean of the squares of the last rounds.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2; Kingma, Ba, "Adam: A Method for Stochastic
Optimization", ICLR 2015. As in the former, there is no bias correction.
"""

from __future__ import annotations

import numpy as np

from chainfl.encoding.arrays import Int64Array
from chainfl.tasks.state import Format


def adam_moment(form: Format, moment: Int64Array, square: Int64Array) -> Int64Array:
    """floor((sn*v + (sd - sn)*D^2) / sd). moment: (n,) int64, v; square: (n,) int64, D^2; both consumed."""
    num, den = form.second_num, form.second_den
    moment *= np.int64(num)
    square *= np.int64(den - num)
    moment += square
    moment //= np.int64(den)
    return moment
