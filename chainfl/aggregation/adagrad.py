"""FedAdagrad's second moment: the sum of the squares of all rounds.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2; Duchi, Hazan, Singer, "Adaptive Subgradient
Methods for Online Learning and Stochastic Optimization", JMLR 12, 2011.
"""

from __future__ import annotations

from chainfl.encoding.arrays import Int64Array
from chainfl.tasks.state import Format


def adagrad_moment(_: Format, moment: Int64Array, square: Int64Array) -> Int64Array:
    """v + D^2. moment: (n,) int64, v, consumed. square: (n,) int64, D^2 of the round's mean."""
    moment += square
    return moment
