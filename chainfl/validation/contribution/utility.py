"""The loss after a round of some of its updates alone, under the weights and the server step of the task."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from chainfl.aggregation.median import lower_median
from chainfl.aggregation.rules import READ_BLOCK, walk
from chainfl.aggregation.trimmed_mean import trim_count, trimmed_sum
from chainfl.encoding.arrays import Float32Array, Int16Array, Int64Array
from chainfl.encoding.sources import VectorSource
from chainfl.tasks.state import Rule
from chainfl.training.datasets import Dataset
from chainfl.training.trainer import Trainer
from chainfl.validation.round_rules import RoundRules

# A ruined candidate's loss may be infinite; a finite stand-in keeps the shares defined.
_WORST_LOSS = 1e6


class RoundUtility:
    """Held-out losses of the models that subsets of a round's accepted updates would make; each is computed once.

    A server's momentum is left out: it moves all of those models alike. So are an adaptive server's moments, for which
    the mean itself is the step: by their roots a coordinate that hardly moves would count as much as any other.
    """

    def __init__(
        self,
        trainer: Trainer,
        root_data: Dataset,
        model: Float32Array,
        updates: Mapping[int, VectorSource],
        weights: Mapping[int, int],
        rules: RoundRules,
    ) -> None:
        """model: (P,) float32. updates: (P,) int16 each, read in blocks. weights: of the accepted ones, above 0."""
        self._trainer = trainer
        self._root_data = root_data
        self._model = model
        self._updates = updates
        self._weights = weights
        self._rules = rules
        self._scale = rules.server_step.num / rules.server_step.den * 2.0**-rules.update_scale_bits
        self._known: dict[frozenset[int], float] = {}
        self._whole: NDArray[np.float64] | None = None

    def loss(self, members: frozenset[int]) -> float:
        """Of the updates with these keys. With nobody the model stays where it is. Finite: at most 1e6."""
        if members not in self._known:
            candidate = (self._model + self._step(members)).astype(np.float32)
            self._known[members] = _finite(self._trainer.evaluate(candidate, self._root_data).loss)
        return self._known[members]

    def _step(self, members: frozenset[int]) -> NDArray[np.float64]:
        """(P,), what the server's plain step adds to the model."""
        if not members:
            return np.zeros(self._model.size)
        if self._rules.rule is not Rule.MEAN:
            return self._order_step(members)
        return self._sum_of(members) * (self._scale / sum(self._weights[i] for i in members))

    def _sum_of(self, members: frozenset[int]) -> NDArray[np.float64]:
        """Weighted; integers below 2^53, so exact in whatever order, and the rest can be taken away instead."""
        rest = self._weights.keys() - members
        if len(rest) >= len(members):
            return self._added_up(members)
        if self._whole is None:
            self._whole = self._added_up(frozenset(self._weights))
        return self._whole - self._added_up(rest) if rest else self._whole

    def _added_up(self, members: frozenset[int] | set[int]) -> NDArray[np.float64]:
        total = np.zeros(self._model.size)

        def add(block: slice) -> None:
            for i in members:
                total[block] += self._updates[i].read(block.start, block.stop) * float(self._weights[i])

        for _ in walk(total.size, add, READ_BLOCK):
            pass
        return total

    def _order_step(self, members: frozenset[int]) -> NDArray[np.float64]:
        """Under the task's median or trimmed mean, where each update counts once."""
        step = np.empty(self._model.size)

        def fill(block: slice) -> None:
            rows = [self._updates[i].read(block.start, block.stop) for i in sorted(members)]
            sums, count = self._order_sum(rows)
            step[block] = sums * (self._scale / count)

        for _ in walk(step.size, fill, READ_BLOCK):
            pass
        return step

    def _order_sum(self, rows: list[Int16Array]) -> tuple[Int64Array, int]:
        if self._rules.rule is Rule.MEDIAN:
            return lower_median(rows), 1
        trim = trim_count(len(rows), self._rules.trim_num, self._rules.trim_den)
        return trimmed_sum(rows, trim), len(rows) - 2 * trim


def _finite(loss: float) -> float:
    return min(loss, _WORST_LOSS) if math.isfinite(loss) else _WORST_LOSS
