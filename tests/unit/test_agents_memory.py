"""What a local algorithm keeps between rounds, through a worker's journal: counted once, never lost, never doubled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from agents_world import NUM_PARAMS, EqualScorer, TargetTrainer, World
from fake_chain import account_of

from chainfl.agents.worker import Worker
from chainfl.encoding.payload import read_update
from chainfl.errors import StoreFull, TrainingDiverged
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import Outcome, Role
from chainfl.tasks.votes import REJECTION

WORKER, VALIDATORS = account_of(100), (account_of(200), account_of(201))


class Remembering(TargetTrainer):
    """Its memory is the number of its updates that counted; it keeps what it was given to look at."""

    uses_previous = True
    needs_the_past = True

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.given: dict[int, tuple[float, np.ndarray | None]] = {}
        self.settled: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def train(self, model, round_number, *, memory, previous, stop=None):
        counted = memory.get("counted", np.zeros(NUM_PARAMS, np.float32))
        self.given[round_number] = (float(counted[0]), previous)
        return replace(super().train(model, round_number, memory=memory, previous=previous), kept={"counted": counted})

    def settle(self, kept, sent, before, after):
        self.settled.append((sent, before, after))
        return {"counted": kept["counted"] + np.float32(1)}


class Refusing(EqualScorer):
    """Rejects the first worker's update in some rounds, or everybody's."""

    def __init__(self, rounds: set[int], everybody: bool = False) -> None:
        self.rounds = rounds
        self.everybody = everybody

    def score(self, model, updates, round_number, previous):
        votes = super().score(model, updates, round_number, previous)
        if round_number not in self.rounds:
            return votes
        return [REJECTION] * len(votes) if self.everybody else [REJECTION, *votes[1:]]


def remembering(tmp_path, rounds: int, scorer: EqualScorer | None = None) -> tuple[World, Remembering]:
    world, trainer = World(tmp_path, rounds=rounds), Remembering(1)
    world.players[WORKER]._trainer = trainer
    for validator in VALIDATORS if scorer else ():
        world.players[validator]._scorer = scorer
    return world, trainer


def test_memory__every_round_counts__grows_by_each_once(tmp_path):
    world, trainer = remembering(tmp_path, rounds=3)
    world.run()
    assert {number: counted for number, (counted, _) in trainer.given.items()} == {1: 0, 2: 1, 3: 2}
    assert trainer.given[1][1] is None
    for number in (2, 3):
        np.testing.assert_array_equal(trainer.given[number][1], world.model(number - 2))


def test_memory__settled__from_what_was_sent_and_the_models_around_the_round(tmp_path):
    world, trainer = remembering(tmp_path, rounds=2)
    world.run()
    ((sent, before, after),) = trainer.settled
    reveal = next(reveal for reveal in world.chain.reveals[1] if reveal.worker == WORKER)
    binding = world.scope.update_metadata(1, WORKER, world.chain.models[0][0])
    payload = world.store.blobs[cid_text(reveal.cid)]
    np.testing.assert_array_equal(sent, read_update(payload, num_params=NUM_PARAMS, expected=binding))
    np.testing.assert_array_equal(before, world.model(0))
    np.testing.assert_array_equal(after, world.model(1))


def test_memory__update_rejected__stays_as_it_was(tmp_path):
    world, trainer = remembering(tmp_path, 4, Refusing({2}))
    world.run()
    assert [counted for counted, _ in trainer.given.values()] == [0, 1, 1, 2]
    assert len(trainer.settled) == 2


def test_memory__void_round__stays_as_it_was_and_previous_is_the_model_before_the_last_step(tmp_path):
    world, trainer = remembering(tmp_path, 4, Refusing({2}, everybody=True))
    world.run()
    assert world.chain.outcomes[2] is not Outcome.FINAL
    assert [counted for counted, _ in trainer.given.values()] == [0, 1, 1, 2]
    np.testing.assert_array_equal(trainer.given[3][1], world.model(0))


def test_memory__restarted_before_every_look__counts_each_round_once(tmp_path):
    world, trainer = remembering(tmp_path, rounds=3)

    def restart(world: World) -> bool:
        world.players[WORKER].context.journal.close()
        world.players[WORKER] = Worker(world.context(Role.WORKER, WORKER), trainer)
        return world.chain.over

    world.run(until=restart)
    assert {number: counted for number, (counted, _) in trainer.given.items()} == {1: 0, 2: 1, 3: 2}


def test_memory__disk_full_while_it_is_settled__is_settled_again(tmp_path, monkeypatch):
    world, trainer = remembering(tmp_path, rounds=3)
    journal = world.players[WORKER].context.journal
    write, refused = journal._write, []

    def full(name: str, data: bytes) -> None:
        if name == "memory.safetensors" and not refused:
            refused.append(name)
            raise StoreFull("full")
        write(name, data)

    monkeypatch.setattr(journal, "_write", full)
    with pytest.raises(StoreFull):
        world.run()
    world.run()
    assert refused
    assert [counted for counted, _ in trainer.given.values()] == [0, 1, 2]


def test_memory__away_until_the_models_are_gone__stays_and_is_told(tmp_path):
    world, trainer = remembering(tmp_path, rounds=3)
    world.run(until=lambda w: w.chain.clock.round == 2)
    world.players[WORKER].context.journal.close()
    world.run(until=lambda w: w.chain.clock.round == 3, without=[WORKER])
    world.players[WORKER] = Worker(world.context(Role.WORKER, WORKER), trainer)
    world.forget_model(1)
    for reveal in world.chain.reveals[1]:
        del world.store.blobs[cid_text(reveal.cid)]
    trainer.uses_previous = False
    world.run()
    assert len(world.told(WORKER, "memory_outdated")) == 1
    assert trainer.given[3][0] == 0


class Alarmed(TargetTrainer):
    """Finds something in round 1, and diverges in round 2."""

    def train(self, model, round_number, *, memory, previous, stop=None):
        if round_number == 2:
            raise TrainingDiverged("the loss is nan at local step 3", step=3)
        found = ("constant_predictor",) if round_number == 1 else ()
        return replace(super().train(model, round_number, memory=memory, previous=previous), findings=found)


def test_worker__guard_finds_something__is_told_and_sent_and_a_diverged_update_is_withheld(tmp_path):
    world = World(tmp_path, rounds=3)
    world.players[WORKER]._trainer = Alarmed(1)
    world.run()
    assert len(world.told(WORKER, "constant_predictor")) == 1
    assert ["nan" in event["why"] for event in world.told(WORKER, "sits_out")] == [True]
    assert [len(world.chain.reveals[number]) for number in (1, 2, 3)] == [3, 2, 3]
