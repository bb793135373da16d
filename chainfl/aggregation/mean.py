"""The mean rule: the weighted mean of integer updates, and the step that it moves the global model by.

McMahan, Moore, Ramage, Hampson, y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017, which weighs by example counts; here validators' weights take their place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainfl.aggregation.server_step import MAX_WEIGHT, ServerStep, check_total_weight, plain_step
from chainfl.encoding.arrays import Int16Array, Int32Array, Int64Array, blocks, require_vector
from chainfl.errors import AggregationError


@dataclass(frozen=True, slots=True)
class StepResult:
    """model: int32[P], the next global model. num_saturated: how many values stand at the end of int32."""

    model: Int32Array
    num_saturated: int


class WeightedMean:
    """Adds up weighted updates as they arrive; holds one int64[P], however many there are.

    The same bits as `FixedPoint.meanStep` on chain, in any order of arrival.
    """

    def __init__(self, num_params: int, model_scale_bits: int, update_scale_bits: int) -> None:
        check_total_weight(ServerStep(1, 1), 0, model_scale_bits, update_scale_bits)
        self._model_scale_bits = model_scale_bits
        self._update_scale_bits = update_scale_bits
        self._sum: Int64Array = np.zeros(num_params, np.int64)
        self._total_weight = 0

    @property
    def total_weight(self) -> int:
        """W, the sum of the weights added so far."""
        return self._total_weight

    def add(self, values: Int16Array, weight: int) -> None:
        """Adds weight * values. values: (P,) int16. weight: 0 (rejected) to 10,000.

        Raises AggregationError for another length or weight.
        """
        require_vector(values, np.int16, "update")
        if values.size != self._sum.size:
            raise AggregationError(f"the update has {values.size} values, the model {self._sum.size}")
        check_weight(weight)
        self._total_weight += weight
        if weight == 0:
            return
        for block in blocks(values.size):
            # 10,000 * 32,768 < 2^31: the product fits int32, the sum needs int64.
            self._sum[block] += np.multiply(values[block], np.int32(weight), dtype=np.int32)

    def apply(self, model: Int32Array, step: ServerStep) -> StepResult:
        """g' = sat32(g + floor((2*num*a + den*W) / (2*den*W))), a = 2^(s-t) * sum of weight * update.

        model: (P,) int32, not modified. Raises AggregationError if the total weight is zero (the round is void)
        or so large that int64 could overflow.
        """
        require_vector(model, np.int32, "model")
        if model.size != self._sum.size:
            raise AggregationError(f"the model has {model.size} values, the updates {self._sum.size}")
        check_total_weight(step, self._total_weight, self._model_scale_bits, self._update_scale_bits)
        shift = self._model_scale_bits - self._update_scale_bits
        stepped = np.empty(model.size, np.int32)
        num_saturated = 0
        for block in blocks(model.size):
            advanced = plain_step(self._sum[block].copy(), self._total_weight, model[block], step, shift)
            stepped[block] = advanced.model
            num_saturated += advanced.num_saturated
        return StepResult(stepped, num_saturated)


def check_weight(weight: int) -> None:
    """Raises AggregationError for a weight that no validator can give."""
    if not 0 <= weight <= MAX_WEIGHT:
        raise AggregationError(f"weight {weight} is outside [0, {MAX_WEIGHT}]", weight=weight)
