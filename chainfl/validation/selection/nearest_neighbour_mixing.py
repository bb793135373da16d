"""Nearest-neighbour mixing: before a rule looks, each update becomes the mean of those closest to it.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity, AISTATS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainfl.validation.selection.candidates import Candidates, Mixing
from chainfl.validation.selection.integers import with_room
from chainfl.validation.selection.rule import require_count


@dataclass(frozen=True, slots=True)
class NearestNeighbourMixing:
    """Each update becomes the mean of the n - f nearest, itself among them; equally near ones by the workers' order.

    num_malicious_clients: f. With n > 2f it makes a rule whose error is kappa variances one of at most
    8f / (n - f) * (kappa + 1): on skewed data that is what counts. Where fewer came, f is as large as that allows.
    """

    num_malicious_clients: int = 1

    def __post_init__(self) -> None:
        require_count("num_malicious_clients", self.num_malicious_clients, least=0)

    def mix(self, candidates: Candidates, seed: bytes) -> Mixing:
        """n vectors from n; the seed changes nothing."""
        count = len(candidates)
        kept = count - min(self.num_malicious_clients, (count - 1) // 2)
        distances = with_room(candidates.distances(), 1)
        np.fill_diagonal(distances, -1)  # before its own copies
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :kept]
        matrix = np.zeros((count, count), np.int64)
        np.put_along_axis(matrix, nearest, 1, axis=1)
        return Mixing(matrix, kept)
