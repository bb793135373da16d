"""Leave-one-out: what is lost without a player, when all the others are there.

Wang, Dang, Zhou: Measure Contribution of Participants in Federated Learning, IEEE Big Data 2019 (the deletion method).
"""

from __future__ import annotations

from dataclasses import dataclass

from chainfl.validation.contribution.method import Loss


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """loss(all without i) - loss(all). n + 1 losses. Two players who can replace one another get nothing each."""

    @property
    def is_sampled(self) -> bool:
        """Never."""
        return False

    def values(self, num_players: int, loss: Loss, seed: bytes) -> list[float]:
        """See `method.ContributionMethod`; nothing is drawn."""
        everybody = frozenset(range(num_players))
        with_all = loss(everybody)
        return [loss(everybody - {player}) - with_all for player in range(num_players)]
