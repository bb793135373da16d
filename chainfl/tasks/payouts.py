"""Who gets how much: the mirror of Payouts.sol and of the coordinator's settlement (docs/protocol.md, Money).

Every division rounds down, so the parts of a pot never exceed it; the dust is the requester's when the task ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainfl.tasks.state import ABSTAIN, Economics, Outcome, TaskView
from chainfl.types import Address, Wei

BPS = 10_000
MIN_TOLERANCE = 500
"""How far a score may be from the median and still agree, however small the median."""


@dataclass(frozen=True, slots=True)
class Pots:
    """A round's budget by role, in wei; together at most the budget."""

    workers: Wei
    validators: Wei
    aggregator: Wei


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker's part in a round that is over. is_requester: counts in the model and earns nothing.

    is_refuted: its update was proven wrong, or asked for and not delivered; before the tally its weight is then 0.
    """

    account: Address
    stake: Wei
    revealed: bool
    weight: int
    score: int
    is_requester: bool = False
    is_refuted: bool = False


@dataclass(frozen=True, slots=True)
class ValidatorRecord:
    """One validator's part. agreements: the number of updates where its vote agreed with the medians."""

    account: Address
    stake: Wei
    revealed: bool
    agreements: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """Where a round's budget and the pot carried into it went: paid + refunded + burned + carry + dust, in wei."""

    paid: dict[Address, Wei]
    refunded: Wei
    burned: Wei
    carry: Wei


@dataclass(frozen=True, slots=True)
class RoundEstimate:
    """What one final round earns, with as many members as given, of equal stake, score and agreement; in wei."""

    budget: Wei
    worker: Wei
    validator: Wei
    aggregator: Wei


def split(budget: Wei, economics: Economics) -> Pots:
    """A round's budget by role."""
    shares = (economics.workers_bps, economics.validators_bps, economics.aggregator_bps)
    workers, validators, aggregator = (Wei(budget * share // BPS) for share in shares)
    return Pots(workers, validators, aggregator)


def pro_rata(pot: Wei, part: int, whole: int) -> Wei:
    """pot * part / whole, rounded down; 0 when the whole is 0."""
    return Wei(0 if whole == 0 else pot * part // whole)


def worker_pay(pot: Wei, base_bps: int, *, stake: int, total_stake: int, score: int, total_score: int) -> Wei:
    """One accepted worker's pay: the base by locked stake (splitting oneself gains nothing), the rest by score.

    total_stake, total_score: over all accepted workers that are paid.
    """
    base = Wei(pot * base_bps // BPS)
    return Wei(pro_rata(base, stake, total_stake) + pro_rata(Wei(pot - base), score, total_score))


def agrees(weight: int, score: int, median_weight: int, median_score: int) -> bool:
    """True when a vote accepts or rejects like the median, with a score within a quarter of it or within 500.

    An abstention agrees with nothing.
    """
    if weight == ABSTAIN or (weight == 0) != (median_weight == 0):
        return False
    return abs(score - median_score) <= max(median_score // 4, MIN_TOLERANCE)


def slash_amount(required: Wei, bps: int, left: Wei) -> Wei:
    """A share of the required stake, capped at what is left."""
    return Wei(min(required * bps // BPS, left))


def settle_round(
    outcome: Outcome,
    *,
    budget: Wei,
    carry: Wei,
    economics: Economics,
    workers: Sequence[WorkerRecord],
    validators: Sequence[ValidatorRecord],
    poster: Address | None,
    is_last: bool,
) -> Settlement:
    """Every row of the table of cases, for a round that is over.

    carry: the workers' pots of earlier rounds in which nobody payable was accepted. poster: whose aggregate became
    final. is_last: nothing can be carried on.
    """
    pots = split(budget, economics)
    if outcome is Outcome.NO_UPDATES:
        return Settlement({}, budget, carry if is_last else Wei(0), Wei(0) if is_last else carry)
    ledger = _Ledger()
    workers_pot = Wei(pots.workers + carry)
    carried = Wei(0) if _pay_workers(ledger, outcome, workers_pot, economics, workers) else workers_pot
    _pay_validators(ledger, outcome, pots.validators, validators)
    if outcome is Outcome.FINAL:
        assert poster is not None
        ledger.pay(poster, pots.aggregator)
    else:
        ledger.burned += pots.aggregator
    if is_last:
        ledger.burned, carried = ledger.burned + carried, Wei(0)
    return Settlement(ledger.paid, Wei(0), Wei(ledger.burned), carried)


def estimate_round(task: TaskView, *, num_workers: int, num_validators: int) -> RoundEstimate:
    """What a round earns each when all are equal: for a person who wonders whether to enrol."""
    budget = Wei(task.reward // task.rounds)
    pots = split(budget, task.economics)
    worker, validator = pots.workers // max(1, num_workers), pots.validators // max(1, num_validators)
    return RoundEstimate(budget, Wei(worker), Wei(validator), pots.aggregator)


class _Ledger:
    def __init__(self) -> None:
        self.paid: dict[Address, Wei] = {}
        self.burned: int = 0

    def pay(self, account: Address, amount: Wei) -> None:
        if amount:
            self.paid[account] = Wei(self.paid.get(account, 0) + amount)


def _pay_workers(
    ledger: _Ledger, outcome: Outcome, pot: Wei, economics: Economics, workers: Sequence[WorkerRecord]
) -> bool:
    """False when nobody payable took part in the pot, which then waits for the next round."""
    by_stake = outcome is Outcome.QUORUM_MISSED
    payable = [w for w in workers if w.revealed and not w.is_requester and _counts(w, by_stake)]
    total_stake, total_score = sum(w.stake for w in payable), sum(w.score for w in payable)
    for worker in payable:
        if by_stake:
            amount = pro_rata(pot, worker.stake, total_stake)
        else:
            amount = worker_pay(
                pot,
                economics.base_bps,
                stake=worker.stake,
                total_stake=total_stake,
                score=worker.score,
                total_score=total_score,
            )
        ledger.pay(worker.account, amount)
    return total_stake > 0


def _counts(worker: WorkerRecord, by_stake: bool) -> bool:
    """Without quorum, weights say nothing of who was refuted; with it, weight 0 does."""
    return not worker.is_refuted if by_stake else worker.weight > 0


def _pay_validators(ledger: _Ledger, outcome: Outcome, pot: Wei, validators: Sequence[ValidatorRecord]) -> None:
    """Stake × agreement of those who revealed; by stake where agreement is not measured or nobody agreed."""
    revealed = [v for v in validators if v.revealed]
    measured = outcome is not Outcome.QUORUM_MISSED and any(v.agreements for v in revealed)
    parts = [v.stake * v.agreements if measured else v.stake for v in revealed]
    if not sum(parts):
        ledger.burned += pot
    for validator, part in zip(revealed, parts, strict=True):
        ledger.pay(validator.account, pro_rata(pot, part, sum(parts)))
