"""Rounds in one process: what workers and validators come to, without chain, storage or processes.

The same trainers, scorers, integers, medians and server rule as the participants of a task run, in the same order, and
with the same seeds if they are given the same ones: then the models have the same bits. What is left out is what can
go wrong between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from chainfl.agents.encode import EncodedUpdate, encode_update
from chainfl.agents.validator import CheckedUpdate, Scorer
from chainfl.agents.worker import TrainedUpdate, UpdateTrainer
from chainfl.encoding.arrays import Float32Array, Int32Array
from chainfl.errors import TrainingDiverged
from chainfl.registry.replay import replay_round
from chainfl.tasks import payouts
from chainfl.tasks.draws import REPUTATION_START, next_reputation
from chainfl.tasks.state import MAX_WEIGHT, Economics, Format
from chainfl.tasks.votes import REJECTION, Vote
from chainfl.training.settings import NO_MEMORY, Memory
from chainfl.types import PLAIN, Address, Compression, Root, Wei


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Where a task stands between two rounds: all that the next one depends on, and all that must be kept of it.

    model: (P,) int32, the global model after `played` rounds. state: (P,) int32, the server's; None before the first
    step or without one. previous: (P,) int32, the model before the last step. residuals: (P,) float32 each, what the
    last update of a worker that counted has lost. memories: what its local algorithm kept of it. reputations: of
    workers that were drawn for a round, where that is by reputation.
    """

    model: Int32Array
    played: int = 0
    state: Int32Array | None = None
    previous: Int32Array | None = None
    residuals: Mapping[Address, Float32Array] = field(default_factory=dict)
    memories: Mapping[Address, Memory] = field(default_factory=dict)
    reputations: Mapping[Address, int] = field(default_factory=dict)

    def only(self, worker: Address) -> Standing:
        """What one worker's training needs of it: to be sent to another process."""
        memory = {worker: self.memories[worker]} if worker in self.memories else {}
        return replace(self, state=None, residuals={}, memories=memory, reputations={})

    def train(self, worker: Address, trainer: UpdateTrainer) -> TrainedUpdate:
        """A worker's update for the round that comes now. Raises what the trainer raises."""
        memory, previous = self.memories.get(worker, NO_MEMORY), self.previous if trainer.uses_previous else None
        return trainer.train(self.model, self.played + 1, memory=memory, previous=previous)


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedRound:
    """model: (P,) int32, after the round. tallied: the medians of the validators' votes on each worker's update.

    encoded: each update's integers. root: of the model; None when the round left it as it was. num_saturated: of the
    step, values at the end of int32. num_votes: how many validators voted.
    """

    number: int
    model: Int32Array
    tallied: Mapping[Address, Vote]
    encoded: Mapping[Address, EncodedUpdate] = field(default_factory=dict)
    root: Root | None = None
    num_saturated: int = 0
    num_votes: int = 0

    @property
    def accepted(self) -> int:
        """How many updates have a weight."""
        return sum(vote.weight > 0 for vote in self.tallied.values())


class EverybodyCounts:
    """A validator that looks at nothing and gives full weight and the same score to all; implements Scorer."""

    def score(
        self, model: Int32Array, updates: Sequence[CheckedUpdate], round_number: int, previous: Int32Array | None
    ) -> Sequence[Vote]:
        """One vote an update."""
        return [Vote(MAX_WEIGHT, 1)] * len(updates)


def simulate_rounds(
    form: Format,
    genesis: Int32Array,
    workers: Mapping[Address, UpdateTrainer],
    validators: Sequence[Scorer],
    compression: Compression = PLAIN,
) -> Iterator[SimulatedRound]:
    """Round after round, without end. Everybody takes part in each, and all validators have the same stake.

    genesis: (P,) int32; a server that keeps a state starts it at zeros. Raises what trainers and scorers raise.
    """
    standing = Standing(genesis)
    while True:
        trained = {worker: standing.train(worker, trainer) for worker, trainer in workers.items()}
        played, standing = play_round(form, standing, workers, trained, validators, compression)
        yield played


def play_round(
    form: Format,
    standing: Standing,
    workers: Mapping[Address, UpdateTrainer],
    trained: Mapping[Address, TrainedUpdate],
    validators: Sequence[Scorer],
    compression: Compression = PLAIN,
    *,
    void: bool = False,
) -> tuple[SimulatedRound, Standing]:
    """What becomes of a round's updates, and where the task stands then.

    trained: of those who take part, in the order in which they enrolled; workers: who settles what the algorithms keep.
    void: nobody's aggregate came to stand, whatever the votes. A round without a quorum of votes (a validator whose own
    training diverges has none), or in which nobody is accepted, leaves the model as it was.
    """
    number = standing.played + 1
    encoded = {
        worker: encode_update(update.delta, standing.residuals.get(worker), form, compression)
        for worker, update in trained.items()
    }
    votes = [found for scorer in validators if (found := _vote(scorer, standing, encoded, number)) is not None]
    tallied = _tally(encoded, votes, len(validators))
    accepted = [worker for worker, vote in tallied.items() if vote.weight > 0]
    if void or not accepted:
        played = SimulatedRound(number, standing.model, tallied, encoded, num_votes=len(votes))
        return played, replace(standing, played=number)
    updates = [(encoded[worker].values, tallied[worker].weight) for worker in accepted]
    replayed = replay_round(standing.model, updates, form, state=standing.state)
    lost = {worker: encoded[worker].residual for worker in accepted}
    kept = {
        worker: workers[worker].settle(trained[worker].kept, encoded[worker].values, standing.model, replayed.model)
        for worker in accepted
        if trained[worker].kept
    }
    played = SimulatedRound(number, replayed.model, tallied, encoded, replayed.root, replayed.num_saturated, len(votes))
    residuals, memories = {**standing.residuals, **lost}, {**standing.memories, **kept}
    after = Standing(replayed.model, number, replayed.state, standing.model, residuals, memories, standing.reputations)
    return played, after


def rated(standing: Standing, drawn: Iterable[Address], played: SimulatedRound, num_validators: int) -> Standing:
    """With what the round made of the reputations of those who were drawn for it; without a quorum they stay."""
    if not _is_quorum(played.num_votes, num_validators):
        return standing
    known = standing.reputations
    weights = {worker: played.tallied.get(worker, REJECTION).weight for worker in drawn}
    changed = {
        worker: next_reputation(known.get(worker, REPUTATION_START), weight) for worker, weight in weights.items()
    }
    return replace(standing, reputations={**known, **changed})


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


def _tally(
    encoded: Mapping[Address, EncodedUpdate], votes: Sequence[Sequence[Vote]], num_validators: int
) -> dict[Address, Vote]:
    if not _is_quorum(len(votes), num_validators):
        return dict.fromkeys(encoded, REJECTION)
    return {worker: median_vote(column) for worker, *column in zip(encoded, *votes, strict=True)}


def _is_quorum(num_votes: int, num_validators: int) -> bool:
    return num_votes > 0 and 3 * num_votes >= 2 * num_validators


def _vote(
    scorer: Scorer, standing: Standing, encoded: Mapping[Address, EncodedUpdate], number: int
) -> Sequence[Vote] | None:
    """None of a validator that sits the round out."""
    updates = [CheckedUpdate(update.commitment.sum_of_squares, update.values) for update in encoded.values()]
    try:
        return scorer.score(standing.model, updates, number, standing.previous)
    except TrainingDiverged:
        return None
