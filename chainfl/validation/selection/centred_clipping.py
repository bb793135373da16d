"""Centred clipping: the mean of the updates, each first pulled toward what the last round came to.

Karimireddy, He, Jaggi: Learning from History for Byzantine Robust Optimization, ICML 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from chainfl.validation.selection.candidates import Candidates, Reference, scaled
from chainfl.validation.selection.centre import distances_to_centre
from chainfl.validation.selection.integers import Integers, squared_distances
from chainfl.validation.selection.rule import UpdatesOnly, require_count, require_positive


@dataclass(frozen=True, slots=True)
class CentredClipping(UpdatesOnly):
    """v <- v + mean of (x_i - v) * min(1, radius / |x_i - v|), from v = the last round's mean, as weights of the x_i.

    clipping_norm: the radius as a real length; None for the lower median of the distances, anew in each iteration.
    iterations: how often v moves. Before there is a last round, v starts at zero.

    The result is a weighted mean of the updates *and of the old v*, which gets what clipping took away. The chain's
    mean rule can give weight to updates only. So the weights are exact where nothing is clipped (then they are all
    equal). Otherwise the weighted mean lies on the same line from the old v through the new one, further out by
    1 / (1 - the share of the old v). No attacker pulls it further than one at the radius would.
    """

    clipping_norm: float | None = None
    iterations: int = 1

    def __post_init__(self) -> None:
        require_count("iterations", self.iterations, least=1)
        if self.clipping_norm is not None:
            require_positive("clipping_norm", self.clipping_norm)

    def weigh(self, candidates: Candidates) -> list[int]:
        """The largest weight is 10,000; none is 0, unless the median distance is."""
        count = len(candidates)
        squared = squared_distances(_with_last_mean(candidates)).astype(np.float64)
        shares = [0.0] * count + [1.0]
        for _ in range(self.iterations):
            distances = distances_to_centre(squared, shares)[:count]
            radius = self._radius(distances, candidates)
            factors = [min(1.0, radius / distance) if distance > 0 else 1.0 for distance in distances]
            kept = 1.0 - math.fsum(factors) / count
            shares = [kept * old + new / count for old, new in zip(shares, [*factors, 0.0], strict=True)]
        return scaled(shares[:count])

    def _radius(self, distances: list[float], candidates: Candidates) -> float:
        """At the scale of the candidates' integers."""
        if self.clipping_norm is None:
            return sorted(distances)[(len(distances) - 1) // 2]
        return self.clipping_norm * 2.0**candidates.scale_bits * candidates.divisor


def _with_last_mean(candidates: Candidates) -> Integers:
    """(n + 1, n + 1) inner products, those with the last mean in the last place; it is zero when there is none."""
    last, divisor = candidates.last_mean or Reference(np.zeros(len(candidates), np.int64), 0), candidates.divisor
    gram = np.zeros((len(candidates) + 1,) * 2, object)
    gram[:-1, :-1] = candidates.gram
    gram[:-1, -1] = gram[-1, :-1] = last.products.astype(object) * divisor
    gram[-1, -1] = int(last.square) * divisor**2
    return gram
