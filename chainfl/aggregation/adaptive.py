"""What FedAdagrad, FedAdam and FedYogi have in common, as integers; their second moments are in files of their own.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2. Moments are in units of 2^-(s + 4), and it is
the root of the second moment that is kept: docs/decisions/008-server-steps.md says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from chainfl.aggregation.adagrad import adagrad_moment
from chainfl.aggregation.adam import adam_moment
from chainfl.aggregation.isqrt import isqrt
from chainfl.aggregation.move import Move
from chainfl.aggregation.yogi import yogi_moment
from chainfl.encoding.arrays import Int32Array, Int64Array, blocks
from chainfl.tasks.server_rules import FINER_BITS, MOMENT_BITS
from chainfl.tasks.state import Format, ServerKind

MAX_DELTA = (1 << 20) - 1
"""In units of the model; what is beyond counts as this much."""
MAX_MOMENT = (1 << MOMENT_BITS) - 1
_BLOCK = 1 << 14
"""Coordinates at a time: there are more temporaries than elsewhere, and at this length each is memory used again."""

_MOMENTS: Final[Mapping[ServerKind, Callable[[Format, Int64Array, Int64Array], Int64Array]]] = {
    ServerKind.ADAGRAD: adagrad_moment,
    ServerKind.ADAM: adam_moment,
    ServerKind.YOGI: yogi_moment,
}


def adaptive_step(form: Format, deltas: Int64Array, state: Int32Array) -> Move:
    """The same bits as `FixedPoint.adaptive`.

    deltas: (n,) int64, the rule's mean at the model's scale. state: (2n,) int32, the first moment and the root of the
    second one of each coordinate side by side. Neither is modified. Deltas are cut off, too. form: one that
    `check_server` accepted.
    """
    moved, moments, num_clipped = np.empty_like(deltas), np.empty_like(state), 0
    for part in blocks(deltas.size, _BLOCK):
        both = slice(2 * part.start, 2 * part.stop)
        moved[part], num = _step_part(form, deltas[part], state[both], moments[both])
        num_clipped += num
    return Move(moved, moments, num_clipped)


def _step_part(form: Format, deltas: Int64Array, state: Int32Array, moments: Int32Array) -> tuple[Int64Array, int]:
    """Writes the next state into `moments`. returns: by how much the model moves, and how many values were cut off."""
    clipped = np.clip(deltas, -MAX_DELTA, MAX_DELTA)
    num_clipped = int(np.count_nonzero(clipped != deltas))
    clipped <<= FINER_BITS
    first = _next_first(form, np.clip(state[0::2], -MAX_MOMENT, MAX_MOMENT).astype(np.int64), clipped)
    root = isqrt(_second(form, np.clip(state[1::2], 0, MAX_MOMENT).astype(np.int64), clipped))
    num_clipped += int(np.count_nonzero(root > MAX_MOMENT))
    np.minimum(root, MAX_MOMENT, out=root)
    moments[0::2], moments[1::2] = first, root
    return _moved(form, first, root), num_clipped


def _next_first(form: Format, first: Int64Array, delta: Int64Array) -> Int64Array:
    """m' = floor((2 * (bn*m + (bd - bn)*D) + bd) / (2*bd)). first: consumed."""
    num, den = form.momentum_num, form.momentum_den
    first *= np.int64(2 * num)
    first += delta * np.int64(2 * (den - num))
    first += np.int64(den)
    first //= np.int64(2 * den)
    return first


def _second(form: Format, root: Int64Array, delta: Int64Array) -> Int64Array:
    """The second moment, below 2^50. root: consumed."""
    root *= root
    return _MOMENTS[form.server](form, root, delta * delta)


def _moved(form: Format, first: Int64Array, root: Int64Array) -> Int64Array:
    """floor((2 * stepNum * 2^s * m + stepDen*q) / (2 * stepDen*q)), q = r + tau. Both are consumed."""
    root += np.int64(form.tau)
    root *= np.int64(form.step_den)
    first *= np.int64(2 * form.step_num << form.model_scale_bits)
    first += root
    root *= 2
    return _floor_divided(first, root)


def _floor_divided(dividend: Int64Array, divisor: Int64Array) -> Int64Array:
    """dividend // divisor, in half the time where signs are mixed: floor(x / q) = ~floor(~x / q) of a negative x.

    dividend: consumed. divisor: above 0.
    """
    sign = dividend >> 63
    dividend ^= sign
    dividend //= divisor
    dividend ^= sign
    return dividend
