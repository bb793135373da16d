"""Rounds in one process, with trainers and scorers that are a line of numpy."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from chainfl.agents.worker import TrainedUpdate
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.errors import TrainingDiverged
from chainfl.simulation.rounds import SimulatedRound, median_vote, simulate_rounds, worker_pay_wei
from chainfl.tasks.spec import DEFAULT_ECONOMICS, default_format
from chainfl.tasks.votes import REJECTION, Vote
from chainfl.types import Address, Wei

ALICE, BOB = Address("0x" + "aa" * 20), Address("0x" + "bb" * 20)
FORM = replace(default_format(40), chunk_params=16)
GENESIS = np.zeros(40, np.int32)


class Towards:
    """Moves the model all the way to one value."""

    uses_previous = False

    def __init__(self, target: float) -> None:
        self.target = np.float32(target)

    def train(self, model, round_number, *, memory, previous, stop=None):
        delta = self.target - dequantize_model(model, FORM.model_scale_bits)
        return TrainedUpdate(delta, num_examples=1, loss_first=2.0, loss_last=1.0)


class Judge:
    """Gives the votes that it was made with, in the order of the workers, and keeps what it was shown."""

    def __init__(self, *votes: Vote) -> None:
        self.votes, self.seen = votes, []

    def score(self, model, updates, round_number, previous):
        self.seen.append((round_number, model, previous))
        return self.votes


def play(workers, judges, rounds=1):
    return list(itertools.islice(simulate_rounds(FORM, GENESIS, workers, judges), rounds))


def test_simulate_rounds__equal_weights__moves_to_the_mean():
    [only] = play({ALICE: Towards(0.5), BOB: Towards(1.0)}, [Judge(Vote(10_000, 5), Vote(10_000, 5))])
    assert dequantize_model(only.model, FORM.model_scale_bits) == pytest.approx(0.75, abs=1e-4)
    assert only.accepted == 2


def test_simulate_rounds__rejected_worker__moves_nothing():
    [only] = play({ALICE: Towards(0.5), BOB: Towards(1.0)}, [Judge(Vote(10_000, 5), REJECTION)])
    assert dequantize_model(only.model, FORM.model_scale_bits) == pytest.approx(0.5, abs=1e-4)
    assert only.tallied[BOB] == REJECTION


def test_simulate_rounds__nobody_accepted__keeps_the_model_and_the_one_before_it():
    judge = Judge(REJECTION)
    first, second = play({ALICE: Towards(1.0)}, [judge], rounds=2)
    assert (first.model == GENESIS).all()
    assert (second.model == GENESIS).all()
    assert [previous for _, _, previous in judge.seen] == [None, None]


def test_simulate_rounds__second_round__is_judged_beside_the_model_before():
    judge = Judge(Vote(10_000, 5))
    first, _ = play({ALICE: Towards(1.0)}, [judge], rounds=2)
    (_, _, nothing), (number, model, previous) = judge.seen
    assert (nothing, number) == (None, 2)
    assert (model == first.model).all()
    assert (previous == GENESIS).all()


class Remembering(Towards):
    """Keeps the number of its rounds that counted, and the models around the last of them."""

    uses_previous = True

    def __init__(self) -> None:
        super().__init__(1.0)
        self.seen, self.settled = [], []

    def train(self, model, round_number, *, memory, previous, stop=None):
        self.seen.append((round_number, float(memory["rounds"][0]) if memory else 0.0, previous))
        trained = super().train(model, round_number, memory=memory, previous=previous)
        rounds = memory["rounds"] if memory else np.zeros(40, np.float32)
        return replace(trained, kept={"rounds": rounds})

    def settle(self, kept, sent, before, after):
        self.settled.append((before, after))
        return {"rounds": kept["rounds"] + 1}


def test_simulate_rounds__update_counted__settles_the_algorithms_memory():
    worker = Remembering()
    first, *_ = play({ALICE: worker}, [Judge(Vote(10_000, 5))], rounds=3)
    assert [(number, counted) for number, counted, _ in worker.seen] == [(1, 0.0), (2, 1.0), (3, 2.0)]
    assert worker.seen[0][2] is None
    assert (worker.seen[2][2] == first.model).all()
    before, after = worker.settled[0]
    assert (before == GENESIS).all()
    assert (after == first.model).all()


def test_simulate_rounds__update_rejected__leaves_the_memory_as_it_was():
    worker = Remembering()
    play({ALICE: worker, BOB: Towards(1.0)}, [Judge(REJECTION, Vote(10_000, 5))], rounds=2)
    assert [counted for _, counted, _ in worker.seen] == [0.0, 0.0]


class Diverging:
    """A validator whose own training comes to nothing."""

    def score(self, model, updates, round_number, previous):
        raise TrainingDiverged("the loss is nan")


@pytest.mark.parametrize(("lost", "accepted"), [(1, 1), (2, 0)])
def test_simulate_rounds__validators_without_a_vote__leave_a_quorum_or_a_void_round(lost, accepted):
    judges = [Judge(Vote(10_000, 5))] * (3 - lost) + [Diverging()] * lost
    [only] = play({ALICE: Towards(1.0)}, judges)
    assert (only.accepted, only.num_votes) == (accepted, 3 - lost)
    assert (only.root is None) == (accepted == 0)


@pytest.mark.parametrize(
    ("votes", "median"),
    [
        ([Vote(5, 1)], Vote(5, 1)),
        ([Vote(5, 9), Vote(7, 3)], Vote(5, 3)),
        ([REJECTION, Vote(7, 3), Vote(9, 1)], Vote(7, 1)),
        ([REJECTION, REJECTION, Vote(9, 1)], REJECTION),
    ],
)
def test_median_vote__takes_the_lower_median_of_each(votes, median):
    assert median_vote(votes) == median


def a_round(number: int, **votes: Vote) -> SimulatedRound:
    names = {"alice": ALICE, "bob": BOB}
    return SimulatedRound(number, GENESIS, {names[name]: vote for name, vote in votes.items()})


def test_worker_pay__accepted__shares_the_base_and_earns_by_score():
    rounds = [a_round(1, alice=Vote(10_000, 3), bob=Vote(1, 1))]
    # Of 700 for workers, 210 are base, half for each; of the other 490, three quarters are Alice's.
    assert worker_pay_wei(ALICE, rounds, budget=Wei(1000), economics=DEFAULT_ECONOMICS) == [105 + 367]


def test_worker_pay__nobody_accepted__is_the_next_rounds():
    rounds = [a_round(1, alice=REJECTION, bob=REJECTION), a_round(2, alice=Vote(1, 1), bob=REJECTION)]
    assert worker_pay_wei(ALICE, rounds, budget=Wei(1000), economics=DEFAULT_ECONOMICS) == [0, 1400]
    assert worker_pay_wei(BOB, rounds, budget=Wei(1000), economics=DEFAULT_ECONOMICS) == [0, 0]
