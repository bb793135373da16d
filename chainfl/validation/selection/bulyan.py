"""Bulyan's selection: Krum again and again, each time without those it has chosen.

El Mhamdi, Guerraoui, Rouault: The Hidden Vulnerability of Distributed Learning in Byzantium, ICML 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainfl.validation.selection.candidates import Candidates
from chainfl.validation.selection.integers import Integers, with_room
from chainfl.validation.selection.krum import best, chosen
from chainfl.validation.selection.rule import UpdatesOnly, require_count


@dataclass(frozen=True, slots=True)
class Bulyan(UpdatesOnly):
    """The full weight for the n - 2f updates that Krum chooses one after another, 0 for the rest.

    num_malicious_clients: f. This is half of Bulyan. The other half trims coordinate by coordinate, which is the task's
    own rule: a trimmed mean that drops f of those chosen at each end (or the median). With n >= 4f + 3 updates every
    coordinate of the result then lies between values of honest ones. Where fewer came, f is as large as that allows.
    """

    num_malicious_clients: int = 1

    def __post_init__(self) -> None:
        require_count("num_malicious_clients", self.num_malicious_clients, least=0)

    def weigh(self, candidates: Candidates) -> list[int]:
        """10,000 for each that is chosen."""
        count = len(candidates)
        num_malicious = max(0, min(self.num_malicious_clients, (count - 3) // 4))
        return chosen(_selection(candidates.distances(), num_malicious), count)


def _selection(distances: Integers, num_malicious: int) -> list[int]:
    """n - 2f places, in the order in which they are chosen. distances: (n, n), squared.

    Of r that are left, Krum looks at the r - f - 2 nearest others, at least at one as long as there is one. Neighbours
    are sorted once, and those that are gone are skipped.
    """
    count = len(distances)
    wide = with_room(distances, count)
    order = np.argsort(wide, axis=1, kind="stable")
    nearest = np.take_along_axis(wide, order, axis=1)
    left, picked = np.ones(count, bool), list[int]()
    while len(picked) < count - 2 * num_malicious:
        neighbours = max(1, count - len(picked) - num_malicious - 2)
        counts = left[order] & (order != np.arange(count)[:, None])
        counts &= np.cumsum(counts, axis=1) <= neighbours
        scores = np.where(counts, nearest, 0).sum(axis=1)
        rest = np.flatnonzero(left)
        picked.append(int(rest[best([int(scores[place]) for place in rest])]))
        left[picked[-1]] = False
    return picked
