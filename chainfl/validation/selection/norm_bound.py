"""A bound on norms: an update that is longer counts in inverse proportion.

Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning?, 2019 (norm thresholding).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from chainfl.aggregation.server_step import MAX_WEIGHT
from chainfl.validation.selection.candidates import Candidates
from chainfl.validation.selection.rule import UpdatesOnly, require_positive


@dataclass(frozen=True, slots=True)
class NormBound(UpdatesOnly):
    """min(10000, 10000 * bound // norm), at least 1: nobody is rejected, nobody pulls further than the bound.

    clipping_norm: the bound as a real length; None for the lower median of all norms revealed in the round. Norms are
    integer square roots of the exact sums of squares.
    """

    clipping_norm: float | None = None

    def __post_init__(self) -> None:
        if self.clipping_norm is not None:
            require_positive("clipping_norm", self.clipping_norm)

    def weigh(self, candidates: Candidates) -> list[int]:
        """The full weight up to the bound."""
        if self.clipping_norm is None:
            return list(candidates.clipped)
        bound = int(self.clipping_norm * 2.0**candidates.scale_bits * candidates.divisor)
        norms = [math.isqrt(int(square)) for square in candidates.gram.diagonal()]
        return [max(1, min(MAX_WEIGHT, MAX_WEIGHT * bound // max(1, norm))) for norm in norms]
