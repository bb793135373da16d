"""Root fit: the mixture of the updates that goes where the validator's own data point.

It starts from gate and clip, whose weights are what little root data can be trusted with alone, and moves them as far
as root data speak for it: a ridge regression of the root update's direction on the clipped updates, in which nobody
gets less than half of an equal share of the whole or more than twice one. Where honest data are skewed, a class that
few honest workers have gets its share back from those that many have, or that attackers copy. It is our own;
docs/decisions/011 has what it was measured against, and by whom it was attacked.
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

LEAST: Final = 0.5
MOST: Final = 2.0
"""Nobody behind the gate has less, or more, than so many equal shares of the mean: whatever anybody else sends."""

SLACK: Final = 0.05
"""The gate of gate and clip, less so much: root data are few, and noise turns an honest cosine below zero."""

RIDGE: Final = 0.1
"""What holds the shares to equal ones, where their mean points exactly where root data do."""

PULL: Final = 3.0
"""How many times as far toward root data as the equal mean a mixture is to come. It is never reached."""

_STEPS, _SETTLED, _HALVINGS = 5_000, 1e-6, 50


@dataclass(frozen=True, slots=True)
class RootFit(WithRootData):
    """Shares x of the clipped updates v that minimise |sum x v - PULL (m·r) r|^2 + ridge |x - b|^2.

    They add up to 1, and each is between LEAST b and MOST b. r: the root update's direction. b: equal shares for all
    that are not zero and whose cosine with it is above `gate_cosine` - SLACK, of which near-duplicates (cosine above
    `duplicate_cosine`) have one together, so that copies of an update count as one; m is their mean. In units of the
    median norm, ridge = RIDGE / cosine(m, r)^2: root data that disagree with everybody, as they do late in training
    when the validator knows its few examples by heart, move little. Weights are shares of MOST times an equal one, so
    validators use one scale, and the medians of their votes are those of their shares.
    """

    gate_cosine: float = 0.0
    duplicate_cosine: float = DUPLICATE_COSINE

    def weigh(self, candidates: Candidates) -> list[int]:
        """0 for whoever the gate stops; for the others between LEAST / MOST of the clip's weight and all of it.

        Near-duplicates have that together.
        """
        cosines = candidates.cosines_with(candidates.root)
        if cosines is None or candidates.root is None:
            return list(candidates.clipped)
        passing = (cosines > self.gate_cosine - SLACK) & (candidates.gram.diagonal() > 0)
        accepted = [place for place, passes in enumerate(passing) if passes]
        weights = [0] * len(candidates)
        if not accepted:
            return weights
        clipped = np.array(candidates.clipped, np.float64)[accepted] / MAX_WEIGHT
        counts = np.zeros(len(candidates))
        for group in near_duplicates(candidates, accepted, self.duplicate_cosine):
            counts[list(group.members)] = 1 / len(group.members)
        gram, pull = _in_units_of_the_median(candidates, candidates.root, accepted, clipped)
        shares = fitted_shares(gram, pull, counts[accepted] / counts.sum())
        for place, weight in zip(accepted, clipped * shares * counts.sum() / MOST, strict=True):
            weights[place] = min(MAX_WEIGHT, max(1, round(MAX_WEIGHT * weight)))
        return weights


def fitted_shares(
    gram: NDArray[np.float64], pull: NDArray[np.float64], equal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The minimum described at `RootFit`, of which there is one; equal shares where their mean does not point along r.

    Accelerated projected gradients, begun anew when they overshoot (Beck and Teboulle: A Fast Iterative
    Shrinkage-Thresholding Algorithm, 2009; O'Donoghue and Candès: Adaptive Restart for Accelerated Gradient Schemes,
    2015). gram: (n, n) inner products of the clipped updates. pull: (n,), theirs with the root direction. equal: (n,),
    b, which adds up to 1. returns: (n,), to within a millionth of an equal share.
    """
    length = float(equal @ pull)
    if length <= 0:
        return equal
    ridge = RIDGE * float(equal @ gram @ equal) / length**2
    quadratic = gram + ridge * np.eye(len(gram))
    linear = PULL * length * pull + ridge * equal
    steepest = float(np.linalg.eigvalsh(quadratic)[-1])
    shares, ahead, momentum = equal, equal, 1.0
    for _ in range(_STEPS):
        stepped = _within(ahead - (quadratic @ ahead - linear) / steepest, equal)
        moved = stepped - shares
        if (ahead - stepped) @ moved > 0:
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = stepped + (momentum - 1) / following * moved
        shares, momentum = stepped, following
        if np.abs(moved).max() < _SETTLED / len(equal):
            break
    return shares


def _within(point: NDArray[np.float64], equal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest shares that add up to 1, each between LEAST and MOST times its equal one: all moved alike, and cut.

    By bisection for how far.
    """
    least, most = LEAST * equal, MOST * equal
    low, high = float((point - most).min()), float((point - least).max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if np.clip(point - middle, least, most).sum() > 1:
            low = middle
        else:
            high = middle
    return np.clip(point - high, least, most)


def _in_units_of_the_median(
    candidates: Candidates, root: Reference, accepted: list[int], clipped: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The accepted updates' inner products, clipped, with each other and with the root direction."""
    unit = 2.0**-candidates.scale_bits / candidates.divisor
    gram = candidates.gram[np.ix_(accepted, accepted)].astype(np.float64) * unit**2 * np.outer(clipped, clipped)
    pull = np.asarray(root.products, np.float64)[accepted] * unit * clipped / math.sqrt(root.square)
    median = math.sqrt(float(np.median(gram.diagonal())))
    return gram / median**2, pull / median
