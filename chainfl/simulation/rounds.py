"""Rounds in one process: what workers and validators come to, without chain, storage or processes.

The same trainers, scorers, integers, medians and server rule as the participants of a task run, in the same order, and
with the same seeds if they are given the same ones: then the models have the same bits. What is left out is what can
go wrong between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chainfl.agents.encode import EncodedUpdate, encode_update
from chainfl.agents.validator import CheckedUpdate, Scorer
from chainfl.agents.worker import UpdateTrainer
from chainfl.encoding.arrays import Float32Array, Int32Array
from chainfl.registry.replay import replay_round
from chainfl.tasks import payouts
from chainfl.tasks.state import Economics, Format
from chainfl.tasks.votes import Vote
from chainfl.types import Address, Wei


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedRound:
    """model: (P,) int32, after the round. tallied: the medians of the validators' votes on each worker's update."""

    number: int
    model: Int32Array
    tallied: Mapping[Address, Vote]

    @property
    def accepted(self) -> int:
        """How many updates have a weight."""
        return sum(vote.weight > 0 for vote in self.tallied.values())


def simulate_rounds(
    form: Format, genesis: Int32Array, workers: Mapping[Address, UpdateTrainer], validators: Sequence[Scorer]
) -> Iterator[SimulatedRound]:
    """Round after round, without end. Everybody takes part in each, and all validators have the same stake.

    genesis: (P,) int32; a server that keeps a state starts it at zeros. A round in which nobody is accepted leaves the
    model as it was. Raises what trainers and scorers raise.
    """
    model, state, previous, number = genesis, None, None, 0
    residuals: dict[Address, Float32Array] = {}
    while True:
        number += 1
        encoded = {
            worker: encode_update(trainer.train(model, number).delta, residuals.get(worker), form)
            for worker, trainer in workers.items()
        }
        votes = [_vote(scorer, model, encoded, number, previous) for scorer in validators]
        tallied = {worker: median_vote(column) for worker, *column in zip(encoded, *votes, strict=True)}
        accepted = [worker for worker, vote in tallied.items() if vote.weight > 0]
        if accepted:
            updates = [(encoded[worker].values, tallied[worker].weight) for worker in accepted]
            replayed = replay_round(model, updates, form, state=state)
            model, state, previous = replayed.model, replayed.state, model
            residuals |= {worker: encoded[worker].residual for worker in accepted}
        yield SimulatedRound(number, model, tallied)


def worker_pay_wei(
    worker: Address, rounds: Iterable[SimulatedRound], *, budget: Wei, economics: Economics
) -> list[Wei]:
    """What a worker earns in each round, all having the same stake. budget: of a round.

    A round in which nobody is accepted leaves the workers' part to the next.
    """
    paid, carry = [], 0
    for played in rounds:
        pot = Wei(payouts.split(budget, economics).workers + carry)
        carry = 0 if played.accepted else pot
        vote, scores = played.tallied[worker], sum(vote.score for vote in played.tallied.values())
        paid.append(_pay(pot, vote, played.accepted, scores, economics) if vote.weight else Wei(0))
    return paid


def _pay(pot: Wei, vote: Vote, accepted: int, scores: int, economics: Economics) -> Wei:
    return payouts.worker_pay(
        pot, economics.base_bps, stake=1, total_stake=accepted, score=vote.score, total_score=scores
    )


def median_vote(votes: Sequence[Vote]) -> Vote:
    """Lower medians of weight and score, each for itself, as the contract takes them over equal stakes."""
    middle = (len(votes) - 1) // 2
    weights, scores = sorted(vote.weight for vote in votes), sorted(vote.score for vote in votes)
    return Vote(weights[middle], scores[middle])


def _vote(
    scorer: Scorer,
    model: Int32Array,
    encoded: Mapping[Address, EncodedUpdate],
    number: int,
    previous: Int32Array | None,
) -> Sequence[Vote]:
    updates = [CheckedUpdate(update.commitment.sum_of_squares, update.values) for update in encoded.values()]
    return scorer.score(model, updates, number, previous)
