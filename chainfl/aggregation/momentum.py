"""FedAvgM's momentum: the server moves along what is left of the means of all rounds.

Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019.
"""

from __future__ import annotations

import numpy as np

from chainfl.aggregation.move import Move, saturate
from chainfl.encoding.arrays import Int32Array, Int64Array
from chainfl.tasks.state import Format


def momentum_step(form: Format, deltas: Int64Array, state: Int32Array) -> Move:
    """m' = sat32(decay(m) + d), by which the model moves.

    deltas: (n,) int64, d. state: (n,) int32, m. Neither is modified.
    """
    moved = decayed(form, state)
    moved += deltas
    next_state, num_saturated = saturate(moved)
    return Move(moved, next_state, num_saturated)


def decayed(form: Format, state: Int32Array) -> Int64Array:
    """decay(m) = floor((2*bn*m + bd) / (2*bd))."""
    wide = state.astype(np.int64)
    wide *= np.int64(2 * form.momentum_num)
    wide += np.int64(form.momentum_den)
    wide //= np.int64(2 * form.momentum_den)
    return wide
