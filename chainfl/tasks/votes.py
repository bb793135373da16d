"""A validator's votes, and the bytes in which they are committed and revealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainfl.errors import EncodingError
from chainfl.tasks.state import ABSTAIN, MAX_WEIGHT

VOTE_BYTES = 4
MAX_SCORE = 65_535


@dataclass(frozen=True, slots=True)
class Vote:
    """What a validator says of one update. Raises EncodingError for a vote that the contract would refuse.

    weight: 0 (rejected) to 10,000, or 65,535 (abstains). score: what the update earns; 0 exactly for a rejection
    or an abstention.
    """

    weight: int
    score: int

    def __post_init__(self) -> None:
        counts = 0 < self.weight <= MAX_WEIGHT and 0 < self.score <= MAX_SCORE
        if not counts and not (self.weight in (0, ABSTAIN) and self.score == 0):
            raise EncodingError(f"no vote has weight {self.weight} and score {self.score}", weight=self.weight)

    @property
    def abstains(self) -> bool:
        """The validator could not fetch the update."""
        return self.weight == ABSTAIN

    @property
    def vouches(self) -> bool:
        """The validator says that it holds the update's bytes."""
        return 0 < self.weight <= MAX_WEIGHT


REJECTION = Vote(0, 0)
ABSTENTION = Vote(ABSTAIN, 0)


def pack_votes(votes: Sequence[Vote]) -> bytes:
    """Four bytes a worker, in the order of `workersOf`: uint16 weight, uint16 score, big-endian."""
    return b"".join(vote.weight.to_bytes(2, "big") + vote.score.to_bytes(2, "big") for vote in votes)


def unpack_votes(data: bytes) -> list[Vote]:
    """The votes in revealed bytes. Raises EncodingError for a length or a vote that the contract refuses."""
    if len(data) % VOTE_BYTES:
        raise EncodingError(f"{len(data)} bytes are not a whole number of votes", length=len(data))
    starts = range(0, len(data), VOTE_BYTES)
    return [Vote(int.from_bytes(data[i : i + 2], "big"), int.from_bytes(data[i + 2 : i + 4], "big")) for i in starts]
