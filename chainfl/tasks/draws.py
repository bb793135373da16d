"""Who takes part in a round, where not everybody does: the mirror of Draws.sol, and what simulations draw by.

Without replacement, by rejection. Trial k hashes to a worker (the low half) and to whether it is accepted (the high
half), with its chance out of a whole: so nobody has to sort or to sum anything up. After a bounded number of trials
the rest is taken in the order of the list, from a random place on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eth_hash.auto import keccak

from chainfl.tasks.state import MAX_WEIGHT, Draw, DrawBy

STAKE_CAP = 4
"""A stake beyond so many times what is required adds no chance."""
REPUTATION_FLOOR = 1_000
"""Who has less is drawn as if it had this."""
REPUTATION_START = 5_000

_WORD = 32


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker of the list. waits: whether it is in the pool. stake: in wei. reputation: 0 to 10,000."""

    waits: bool = True
    stake: int = 0
    reputation: int = REPUTATION_START


def draw_workers(
    draw: Draw, candidates: Sequence[Candidate], *, seed: bytes, task_id: int, round_number: int, worker_stake: int
) -> tuple[int, ...]:
    """Whom a round takes: positions in the list, in the order in which they are drawn.

    candidates: all workers, in the order in which they enrolled. seed: 32 bytes, the hash of the seed block.
    worker_stake: what the task requires, in wei. returns: clients_per_round of those who wait, or all of them.
    """
    base = keccak(b"".join((seed, task_id.to_bytes(_WORD, "big"), round_number.to_bytes(_WORD, "big"))))
    left = {index for index, candidate in enumerate(candidates) if candidate.waits}
    wanted = min(draw.clients_per_round, len(left))
    trials = max_trials(len(candidates)) if wanted < len(left) else 0
    whole, drawn = _whole(draw.by, worker_stake), list[int]()
    for trial in range(trials):
        if len(drawn) == wanted:
            break
        index, part = _halves(base, trial)
        index %= len(candidates)
        if index in left and part % whole < _chance(draw.by, candidates[index]):
            left.remove(index)
            drawn.append(index)
    start, _ = _halves(base, trials)
    in_order = ((start + i) % len(candidates) for i in range(len(candidates)))
    rest = [index for index in in_order if index in left]
    return (*drawn, *rest[: wanted - len(drawn)])


def next_reputation(reputation: int, weight: int) -> int:
    """A quarter of the way to the weight of the update in a round that the worker was drawn for; 0 without one."""
    return (3 * reputation + weight) // 4


def max_trials(num_workers: int) -> int:
    """After so many the rest is taken in order, so that the largest draw fits a transaction."""
    return 64 + 3 * num_workers


def _whole(by: DrawBy, worker_stake: int) -> int:
    return {DrawBy.UNIFORM: 1, DrawBy.STAKE: STAKE_CAP * worker_stake, DrawBy.REPUTATION: MAX_WEIGHT}[by]


def _chance(by: DrawBy, candidate: Candidate) -> int:
    if by is DrawBy.UNIFORM:
        return 1
    return candidate.stake if by is DrawBy.STAKE else max(candidate.reputation, REPUTATION_FLOOR)


def _halves(base: bytes, trial: int) -> tuple[int, int]:
    """The low half of a trial's hash, and the high one."""
    digest = keccak(base + trial.to_bytes(_WORD, "big"))
    return int.from_bytes(digest[_WORD // 2 :], "big"), int.from_bytes(digest[: _WORD // 2], "big")
