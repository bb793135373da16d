"""GTG-Shapley: Shapley values from sampled orders, without losses that would hardly change anything.

Liu, Chen, Zhao, Yu, Liu, Bao, Jiang, Nie, Xu, Yang: GTG-Shapley: Efficient and Accurate Participant Contribution
Evaluation in Federated Learning, ACM Transactions on Intelligent Systems and Technology 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chainfl.errors import SpecificationError
from chainfl.validation.contribution.method import Loss
from chainfl.validation.seeds import shuffled

_LOOK_BACK = 10
_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class GtgShapley:
    """The mean of what each player adds, over orders drawn from the seed.

    Guided sampling: in each sweep every player comes first once, the others behind it in a random order.
    between_round_truncation: a round that moves the loss by no more than this share of it is worth nothing to anybody.
    within_round_truncation: an order ends when what is missing to the loss of all is no more than this share of what
    all gain; who comes later adds nothing in it. The values of an order then add up to within that share.
    max_sweeps: sweeps end earlier once 10 more of them have changed the values by less than 5%, summed over players
    (the paper's criterion by the sum, since a value near zero would never settle).

    The same seed gives the same orders at every validator (docs/decisions/012 says what it is made of). Losses are of
    each one's own data, so they may truncate at different places; which orders come, they agree on. Unbiased but for
    the truncation.
    """

    between_round_truncation: float = 0.001
    within_round_truncation: float = 0.01
    max_sweeps: int = 50

    def __post_init__(self) -> None:
        for name in ("between_round_truncation", "within_round_truncation"):
            if not 0 <= (share := getattr(self, name)) < 1:
                raise SpecificationError(f"validation.{name} is {share}, it must be at least 0 and below 1", name=name)
        if self.max_sweeps < 1:
            raise SpecificationError(f"validation.max_sweeps is {self.max_sweeps}, it must be at least 1")

    @property
    def is_sampled(self) -> bool:
        """Always."""
        return True

    def values(self, num_players: int, loss: Loss, seed: bytes) -> list[float]:
        """See `method.ContributionMethod`."""
        nobody, everybody = loss(frozenset()), loss(frozenset(range(num_players)))
        if abs(nobody - everybody) <= self.between_round_truncation * abs(nobody):
            return [0.0] * num_players
        slack = self.within_round_truncation * abs(nobody - everybody)
        totals, history = [0.0] * num_players, list[list[float]]()
        for sweep in range(self.max_sweeps):
            for order in _orders(num_players, sweep, seed):
                for player, added in zip(order, _added(order, loss, nobody, everybody, slack), strict=False):
                    totals[player] += added
            history.append([total / ((sweep + 1) * num_players) for total in totals])
            if _has_settled(history):
                break
        return history[-1]


def _orders(count: int, sweep: int, seed: bytes) -> Iterator[list[int]]:
    for first in range(count):
        order = shuffled(count, seed + sweep.to_bytes(4, "big") + first.to_bytes(4, "big"))
        yield [first] + [player for player in order if player != first]


def _added(order: list[int], loss: Loss, nobody: float, everybody: float, slack: float) -> Iterator[float]:
    """By how much each lowers the loss as it comes, up to where the rest is too little to look at."""
    before = nobody
    for place in range(len(order)):
        if abs(before - everybody) <= slack:
            return
        after = loss(frozenset(order[: place + 1]))
        yield before - after
        before = after


def _has_settled(history: list[list[float]]) -> bool:
    if len(history) <= _LOOK_BACK:
        return False
    now, then = history[-1], history[-1 - _LOOK_BACK]
    changed = sum(abs(new - old) for new, old in zip(now, then, strict=True))
    return changed < _TOLERANCE * sum(abs(new) for new in now)
