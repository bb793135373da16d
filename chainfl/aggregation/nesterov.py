"""Nesterov's momentum, DiLoCo's outer optimiser: the mean once more, ahead along the momentum that it has just moved.

Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023. As torch's
SGD(nesterov=True), after Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
"""

from __future__ import annotations

from dataclasses import replace

from chainfl.aggregation.momentum import decayed, momentum_step
from chainfl.aggregation.move import Move
from chainfl.encoding.arrays import Int32Array, Int64Array
from chainfl.tasks.state import Format


def nesterov_step(form: Format, deltas: Int64Array, state: Int32Array) -> Move:
    """The state of `momentum_step`, m'; the model moves by d + decay(m'). Arguments as there."""
    step = momentum_step(form, deltas, state)
    moved = decayed(form, step.state)
    moved += deltas
    return replace(step, moved=moved)
