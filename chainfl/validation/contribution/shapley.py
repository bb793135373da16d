"""Exact Shapley values: what a player adds, on average over all orders in which players can come.

Shapley: A Value for n-Person Games, 1953. For federated rounds: Song, Tong, Wei: Profit Allocation for Federated
Learning, IEEE Big Data 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, combinations

from chainfl.errors import SpecificationError
from chainfl.tasks.validation_rules import MAX_EXACT_PLAYERS
from chainfl.validation.contribution.method import Loss


@dataclass(frozen=True, slots=True)
class ExactShapley:
    """sum over S without i of |S|! (n - |S| - 1)! / n! * (loss(S) - loss(S with i)). 2^n losses.

    The only values that add up to what all gain together, are equal for players who add the same everywhere, are zero
    for one who never adds anything, and are linear in the loss.
    """

    @property
    def is_sampled(self) -> bool:
        """Never."""
        return False

    def values(self, num_players: int, loss: Loss, seed: bytes) -> list[float]:
        """See `method.ContributionMethod`; nothing is drawn. Raises SpecificationError for more than 8 players."""
        if num_players > MAX_EXACT_PLAYERS:
            raise SpecificationError(
                f"exact Shapley values of {num_players} workers take 2^{num_players} losses a round; "
                f"above {MAX_EXACT_PLAYERS} use gtg_shapley",
                num_players=num_players,
            )
        return [_value(player, num_players, loss) for player in range(num_players)]


def _value(player: int, count: int, loss: Loss) -> float:
    others = [other for other in range(count) if other != player]
    subsets = chain.from_iterable(combinations(others, size) for size in range(count))
    return math.fsum(
        (loss(frozenset(subset)) - loss(frozenset(subset) | {player})) / (count * math.comb(count - 1, len(subset)))
        for subset in subsets
    )
