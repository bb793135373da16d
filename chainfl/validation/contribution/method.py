"""What a contribution method is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

Loss: TypeAlias = Callable[[frozenset[int]], float]
"""The held-out loss after a round of these players alone; finite. Of nobody: that of the model as it was."""


class ContributionMethod(Protocol):
    """Shares what a round gains in loss among those who made it."""

    @property
    def is_sampled(self) -> bool:
        """Whether the values depend on the seed."""
        ...

    def values(self, num_players: int, loss: Loss, seed: bytes) -> list[float]:
        """By how much each player lowers the loss, negative for one who raises it.

        seed: the same for all validators, unknown before the round's updates were committed.
        """
        ...
