"""RFA: the geometric median, by the smoothed Weiszfeld algorithm. Its weights are a weighting.

Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning, IEEE Transactions on Signal Processing 2022
(arXiv 1912.13445, 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from chainfl.validation.selection.candidates import Candidates, scaled
from chainfl.validation.selection.centre import distances_to_centre
from chainfl.validation.selection.rule import UpdatesOnly, require_count, require_positive


@dataclass(frozen=True, slots=True)
class GeometricMedian(UpdatesOnly):
    """Weights in inverse proportion to the distance from the geometric median, at least 1: nobody is rejected.

    All updates count alike at the start (in the paper, by their example counts). iterations: of Weiszfeld, from the
    mean on; as in the paper, a few are enough. smoothing: real distance below which a point is no closer, above 0.
    The mean under these weights is the last centre, but for their rounding to 1/10,000 of the largest. The exact
    geometric median is within 4 (1 + f / (n - 2f))^2 variances of the honest mean, squared, if n > 2f (Allouah et al.
    2023).
    """

    iterations: int = 8
    smoothing: float = 1e-6

    def __post_init__(self) -> None:
        require_count("iterations", self.iterations, least=1)
        require_positive("smoothing", self.smoothing)

    def weigh(self, candidates: Candidates) -> list[int]:
        """The largest weight is 10,000."""
        squared = candidates.distances().astype(np.float64)
        floor = self.smoothing * 2.0**candidates.scale_bits * candidates.divisor
        shares = [1.0 / len(candidates)] * len(candidates)
        for _ in range(self.iterations):
            inverse = [1.0 / max(floor, distance) for distance in distances_to_centre(squared, shares)]
            total = math.fsum(inverse)
            shares = [value / total for value in inverse]
        return scaled(shares)
