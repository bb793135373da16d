"""Krum: the one update that is closest to its neighbours.

Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent,
NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chainfl.aggregation.server_step import MAX_WEIGHT
from chainfl.validation.selection.candidates import Candidates
from chainfl.validation.selection.integers import Integers, with_room
from chainfl.validation.selection.rule import UpdatesOnly, require_count


@dataclass(frozen=True, slots=True)
class Krum(UpdatesOnly):
    """The full weight for the update whose n - f - 2 nearest others are nearest, 0 for all the rest.

    num_malicious_clients: f. Of equal scores the first update wins, in the order of the enrolled workers. With
    n > 2f + 2 the choice is within 6 (n - f) / (n - 2f - 2) variances of the mean of any n - f updates, squared (the
    argument of Allouah et al. 2023, for the paper's neighbours). Where fewer came, f is as large as that allows.
    """

    num_malicious_clients: int = 1

    def __post_init__(self) -> None:
        require_count("num_malicious_clients", self.num_malicious_clients, least=0)

    def weigh(self, candidates: Candidates) -> list[int]:
        """10,000 once."""
        scores = krum_scores(candidates.distances(), bearable(len(candidates), self.num_malicious_clients))
        return chosen([best(scores)], len(candidates))


def bearable(count: int, num_malicious: int) -> int:
    """The largest f up to `num_malicious` for which count > 2f + 2; 0 if there is none."""
    return max(0, min(num_malicious, (count - 3) // 2))


def krum_scores(distances: Integers, num_malicious: int) -> list[int]:
    """For each of n vectors the sum of the squared distances to its n - f - 2 nearest others, at least one if it can.

    distances: (n, n), squared.
    """
    count = len(distances)
    neighbours = max(1, count - num_malicious - 2)
    nearest = np.sort(with_room(distances, count), axis=1)[:, 1 : 1 + neighbours]  # its own, 0, comes first
    return [int(total) for total in nearest.sum(axis=1)]


def best(scores: Sequence[int]) -> int:
    """The place of the lowest score, the first of equals."""
    return min(range(len(scores)), key=lambda place: scores[place])


def chosen(places: Sequence[int], count: int) -> list[int]:
    """The full weight in these places, 0 in the others."""
    weights = [0] * count
    for place in places:
        weights[place] = MAX_WEIGHT
    return weights
