"""Root fit: the mixture of the updates that goes where the validator's own data point.

It starts from gate and clip, whose weights are what little root data can be trusted with alone, and moves them as far
as root data speak for it: a ridge regression, with weights that are not negative, of the root update's direction on the
clipped updates. Where honest data are skewed, a class that few honest workers have gets its share back from those that
many have, or that attackers copy. It is our own; docs/decisions/011 has what it was measured against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chainfl.aggregation.server_step import MAX_WEIGHT
from chainfl.validation.duplicates import DUPLICATE_COSINE, near_duplicates
from chainfl.validation.selection.candidates import Candidates, Reference
from chainfl.validation.selection.rule import WithRootData

RIDGE: Final = 0.1
"""What holds the shares to those of gate and clip, where these point exactly where root data do."""

MOST: Final = 4
"""Nobody weighs more than so many equal shares. The others may weigh less: it is no bound on a share of all weight."""

_SWEEPS, _SETTLED = 1_000, 1e-9


@dataclass(frozen=True, slots=True)
class RootFit(WithRootData):
    """Shares x of the clipped updates v that minimise |sum x v - (m·r) r|^2 + ridge |x - b|^2, none below 0.

    r: the root update's direction. b: equal shares for all whose cosine with it is above `gate_cosine`, of which
    near-duplicates (cosine above `duplicate_cosine`) have one together, so that copies of an update count as one; m is
    their mean. In units of the median norm, ridge = RIDGE / cosine(m, r)^2: root data that disagree with everybody,
    as they do late in training when the validator knows its few examples by heart, move little. Weights are shares of
    MOST times an equal one, so validators use one scale, and the medians of their votes are those of their shares.
    """

    gate_cosine: float = 0.0
    duplicate_cosine: float = DUPLICATE_COSINE

    def weigh(self, candidates: Candidates) -> list[int]:
        """0 for whoever the gate stops or nothing is left of, at most the clip's weight for the others."""
        cosines = candidates.cosines_with(candidates.root)
        if cosines is None or candidates.root is None:
            return list(candidates.clipped)
        accepted = [place for place, cosine in enumerate(cosines) if cosine > self.gate_cosine]
        if not accepted:
            return [0] * len(candidates)
        clipped = np.array(candidates.clipped, np.float64)[accepted] / MAX_WEIGHT
        counts = np.zeros(len(candidates))
        for group in near_duplicates(candidates, accepted, self.duplicate_cosine):
            counts[list(group.members)] = 1 / len(group.members)
        gram, pull = _in_units_of_the_median(candidates, candidates.root, accepted, clipped)
        shares = fitted_shares(gram, pull, counts[accepted] / counts.sum())
        weights = [0] * len(candidates)
        for place, weight in zip(accepted, clipped * np.minimum(1, shares * counts.sum() / MOST), strict=True):
            weights[place] = max(1, round(MAX_WEIGHT * weight)) if weight > 0 else 0
        return weights


def fitted_shares(
    gram: NDArray[np.float64], pull: NDArray[np.float64], equal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The minimum described at `RootFit`, of which there is one, by cyclic coordinate descent.

    gram: (n, n) inner products of the clipped updates. pull: (n,), theirs with the root direction, all positive.
    equal: (n,), b, which adds up to 1. returns: (n,), none negative.
    """
    length = float(equal @ pull)
    ridge = RIDGE * float(equal @ gram @ equal) / length**2
    quadratic = gram + ridge * np.eye(len(gram))
    linear = length * pull + ridge * equal
    shares = equal.copy()
    for _ in range(_SWEEPS):
        before = shares.copy()
        for i in range(len(shares)):
            shares[i] = max(0.0, shares[i] - (quadratic[i] @ shares - linear[i]) / quadratic[i, i])
        if np.abs(shares - before).max() < _SETTLED:
            break
    return shares


def _in_units_of_the_median(
    candidates: Candidates, root: Reference, accepted: list[int], clipped: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The accepted updates' inner products, clipped, with each other and with the root direction."""
    unit = 2.0**-candidates.scale_bits / candidates.divisor
    gram = candidates.gram[np.ix_(accepted, accepted)].astype(np.float64) * unit**2 * np.outer(clipped, clipped)
    pull = np.asarray(root.products, np.float64)[accepted] * unit * clipped / math.sqrt(root.square)
    median = math.sqrt(float(np.median(gram.diagonal())))
    return gram / median**2, pull / median
