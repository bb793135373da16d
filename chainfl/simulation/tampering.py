"""What attackers do in an experiment, between training and the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chainfl.agents.validator import Scorer
from chainfl.agents.worker import TrainedUpdate
from chainfl.types import Address

Updates = Mapping[Address, TrainedUpdate]


def _as_they_are(_number: int, updates: Updates) -> Updates:
    return updates


def _all_honest(scorers: Sequence[Scorer]) -> Sequence[Scorer]:
    return scorers


@dataclass(frozen=True, slots=True)
class Tampering:
    """name: tells one experiment from another, so strengths and numbers of attackers belong in it.

    updates: from a round's number and the honest updates to those that are sent, by the same accounts in the same
    order; it follows from these alone, or the experiment could not be continued. scorers: from the honest validators
    to those that vote.
    """

    name: str
    updates: Callable[[int, Updates], Updates] = _as_they_are
    scorers: Callable[[Sequence[Scorer]], Sequence[Scorer]] = _all_honest
