"""Training beside the loop: one at a time, stopped when nobody wants it, and ahead of a round that may never come."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from agents_world import TASK, EqualScorer, TargetTrainer, World
from fake_chain import account_of

from chainfl.agents.actions import Do
from chainfl.agents.beside import Beside, Start
from chainfl.agents.worker import start_ahead
from chainfl.errors import StorageError, TrainingDiverged, TrainingStopped
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import CidOnChain, Phase, Role
from chainfl.types import Root

WORKER, VALIDATOR = account_of(100), account_of(200)
ONE, OTHER = Start(1, Root(bytes(32))), Start(1, Root(b"\1" * 32))
LONG_S = 30.0


# --- one at a time -------------------------------------------------------------------------------


def nothing() -> None:
    """What a training without a model starts from."""


def until_stopped(began: threading.Event):
    def train(_: None, stop: threading.Event) -> str:
        began.set()
        assert stop.wait(LONG_S)
        raise TrainingStopped("stopped")

    return train


def test_beside__the_same_start_again__one_training():
    beside: Beside[str] = Beside()
    assert beside.begin(ONE, nothing, lambda *_: "found")
    assert beside.wait(LONG_S)
    assert not beside.begin(ONE, nothing, lambda *_: "again")
    assert beside.result()[0] == "found"
    assert beside.result()[1] >= 0


def test_beside__another_start__ends_the_first_and_begins_after_it():
    beside: Beside[str] = Beside()
    began, ends = threading.Event(), []

    def first(_: None, stop: threading.Event) -> str:
        began.set()
        assert stop.wait(LONG_S)
        ends.append("first")
        raise TrainingStopped("stopped")

    beside.begin(ONE, nothing, first)
    assert began.wait(LONG_S)
    beside.begin(OTHER, nothing, lambda *_: "ends before: " + ", ".join(ends))
    assert beside.wait(LONG_S)
    assert beside.result()[0] == "ends before: first"
    assert beside.start == OTHER


def test_beside__a_training_failed__raises_and_begins_again():
    beside: Beside[str] = Beside()

    def failing(*_) -> str:
        raise StorageError("no model")

    beside.begin(ONE, nothing, failing)
    assert beside.wait(LONG_S)
    with pytest.raises(StorageError, match="no model"):
        beside.result()
    assert beside.begin(ONE, nothing, lambda *_: "found")
    assert beside.wait(LONG_S)
    assert beside.result()[0] == "found"


def test_beside__dropped_while_it_runs__is_stopped_and_begins_anew():
    beside: Beside[str] = Beside()
    began = threading.Event()
    beside.begin(ONE, nothing, until_stopped(began))
    assert began.wait(LONG_S)
    beside.drop()
    assert beside.start is None
    assert beside.begin(ONE, nothing, lambda *_: "found")
    assert beside.wait(LONG_S)
    assert beside.result()[0] == "found"


def test_beside__closed__its_training_has_ended():
    beside: Beside[str] = Beside()
    began = threading.Event()
    beside.begin(ONE, nothing, until_stopped(began))
    assert began.wait(LONG_S)
    beside.close(LONG_S)
    assert beside.wait(0)


def test_beside__what_it_starts_from_never_arrives__holds_up_no_other_and_not_the_end():
    beside: Beside[str] = Beside()
    goes_on, asked = threading.Event(), threading.Event()
    trained: list[str] = []

    def withheld() -> None:
        asked.set()
        assert goes_on.wait(LONG_S)

    beside.begin(ONE, withheld, lambda *_: trained.append("first") or "first")
    assert asked.wait(LONG_S)
    beside.begin(OTHER, nothing, lambda *_: trained.append("other") or "other")
    assert beside.wait(LONG_S)
    assert beside.result()[0] == "other"
    asked.clear()
    beside.begin(ONE, withheld, lambda *_: trained.append("again") or "again")
    assert asked.wait(LONG_S)
    began = time.monotonic()
    beside.close(LONG_S)
    assert time.monotonic() - began < LONG_S / 2
    goes_on.set()
    assert beside.wait(LONG_S)
    assert trained == ["other"]


def test_beside__the_trainer_is_needed__who_trains_is_waited_for():
    beside: Beside[str] = Beside()
    began, goes_on = threading.Event(), threading.Event()

    def train(*_) -> str:
        began.set()
        assert goes_on.wait(LONG_S)
        return "found"

    beside.begin(ONE, nothing, train)
    assert began.wait(LONG_S)
    assert not beside.free_trainer(0.01)
    goes_on.set()
    assert beside.free_trainer(LONG_S)
    assert (beside.start, beside.result()[0]) == (ONE, "found")


def test_beside__nothing_began__nothing_to_wait_for_or_end():
    beside: Beside[str] = Beside()
    assert beside.wait(0)
    beside.drop()
    beside.close(0)
    assert beside.start is None


# --- ahead ---------------------------------------------------------------------------------------


def is_in(phase: Phase, number: int = 1):
    return lambda world: world.chain.phase is phase and world.chain.round == number


def seen_by(world: World, account: str = WORKER):
    return world.ports[account].snapshot(TASK, Role.WORKER)


def in_challenge(tmp_path, **changes) -> World:
    world = World(tmp_path, rounds=3, **changes)
    world.run(until=lambda w: seen_by(w).round.phase is Phase.CHALLENGE)
    return world


def test_worker__a_model_is_posted__trains_from_it_and_not_again(tmp_path):
    world = in_challenge(tmp_path)
    worker = world.players[WORKER]
    trainer = worker._trainer
    assert isinstance(trainer, TargetTrainer)
    posted = seen_by(world).round.aggregate_root
    worker.while_waiting(seen_by(world))
    assert worker._training.wait(LONG_S)
    assert (trainer.calls, worker._training.start) == (2, Start(2, posted))
    worker.while_waiting(seen_by(world))
    world.run(until=lambda w: seen_by(w).round.round == 2 and seen_by(w).round.phase is Phase.REVEAL)
    assert trainer.calls == 2
    assert "training_ahead" in world.events[WORKER].getvalue()


def test_worker__trained_ahead__comes_to_the_same_model(tmp_path):
    roots = []
    for name, is_ahead in (("ahead", True), ("not", False)):
        (tmp_path / name).mkdir()
        world = World(tmp_path / name, rounds=3)
        while not world.chain.over:
            world.run(until=lambda w: w.chain.over or seen_by(w).round.phase is Phase.CHALLENGE)
            if world.chain.over:
                break
            for account in world.accounts[Role.WORKER] if is_ahead else ():
                world.players[account].while_waiting(seen_by(world, account))
                assert world.players[account]._training.wait(LONG_S) or seen_by(world).round.round == 3
            number = seen_by(world).round.round
            world.run(until=lambda w, n=number: w.chain.over or seen_by(w).round.round > n)
        roots.append(seen_by(world).round.model_root)
    assert roots[0] == roots[1]


def test_worker__the_posted_model_falls__its_training_is_stopped(tmp_path):
    world = in_challenge(tmp_path)
    worker, began = world.players[WORKER], threading.Event()
    snapshot = seen_by(world)

    class Slow(TargetTrainer):
        def train(self, model, round_number, *, memory, previous, stop=None):
            began.set()
            assert stop.wait(LONG_S)
            raise TrainingStopped("stopped")

    worker._trainer = Slow(1)
    worker.while_waiting(snapshot)
    assert began.wait(LONG_S)
    fallen = replace(snapshot, round=replace(snapshot.round, phase=Phase.AGGREGATE, attempt=2))
    worker.while_waiting(fallen)
    assert worker._training.start is None
    worker.close()
    assert worker._training.wait(LONG_S)


def test_worker__another_model_is_posted_in_the_end__trains_from_that_one(tmp_path):
    world = in_challenge(tmp_path)
    worker, snapshot = world.players[WORKER], seen_by(world)
    wrong = replace(snapshot, round=replace(snapshot.round, aggregate_root=Root(b"\7" * 32)))
    worker.while_waiting(wrong)
    assert worker._training.wait(LONG_S)
    worker.while_waiting(snapshot)
    assert worker._training.start == Start(2, snapshot.round.aggregate_root)
    world.run(until=lambda w: seen_by(w).round.round == 2 and seen_by(w).round.phase is Phase.REVEAL)
    assert worker._trainer.calls == 2


def test_worker__needs_what_the_round_leaves__does_not_train_ahead(tmp_path):
    world = in_challenge(tmp_path)
    worker = world.players[WORKER]
    worker._trainer.needs_the_past = True
    worker.while_waiting(seen_by(world))
    assert worker._training.start is None


def test_worker__still_training__looks_at_the_chain_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr("chainfl.agents.worker.TRAINING_LOOK_S", 0.01)
    world, goes_on = World(tmp_path, rounds=1), threading.Event()
    worker = world.players[WORKER]

    class Waiting(TargetTrainer):
        def train(self, model, round_number, *, memory, previous, stop=None):
            assert goes_on.wait(LONG_S)
            return super().train(model, round_number, memory=memory, previous=previous)

    worker._trainer = Waiting(1)
    world.run(until=lambda w: seen_by(w).round.phase is Phase.COMMIT)
    assert [world.look(WORKER) for _ in range(3)] == [Do.PREPARE_UPDATE] * 3
    assert worker.context.journal.update(1) is None
    goes_on.set()
    assert worker._training.wait(LONG_S)
    assert [world.look(WORKER), world.look(WORKER)] == [Do.PREPARE_UPDATE, Do.COMMIT_UPDATE]


class Looking(EqualScorer):
    """Notes which rounds it looked ahead in, and whether that was over when it scored."""

    def __init__(self) -> None:
        self.ahead: list[int] = []
        self.running = False
        self.at_score: list[tuple[int, bool]] = []
        self.goes_on = threading.Event()

    def look_ahead(self, model, round_number, stop):
        self.running = True
        assert self.goes_on.wait(LONG_S)
        self.ahead.append(round_number)
        self.running = False

    def score(self, model, updates, round_number, previous):
        self.at_score.append((round_number, self.running))
        return super().score(model, updates, round_number, previous)


def test_validator__workers_still_train__trains_meanwhile_and_scores_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr("chainfl.agents.validator.TRAINING_LOOK_S", 0.01)
    world, scorer = World(tmp_path, rounds=1), Looking()
    validator = world.players[VALIDATOR]
    validator._scorer = scorer
    world.run(until=lambda w: seen_by(w).round.phase is Phase.COMMIT)
    validator.while_waiting(world.ports[VALIDATOR].snapshot(TASK, Role.VALIDATOR))
    world.run(until=lambda w: seen_by(w).round.phase is Phase.SCORE_COMMIT, without=(VALIDATOR,))
    assert [world.look(VALIDATOR) for _ in range(5)][-1] is Do.PREPARE_SCORES
    assert scorer.at_score == []
    scorer.goes_on.set()
    assert validator._training.wait(LONG_S)
    world.run()
    assert (scorer.ahead, scorer.at_score) == ([1], [(1, False)])


def test_validator__its_own_training_diverges__is_not_begun_again_at_every_wait(tmp_path):
    world, began = World(tmp_path, rounds=1), []

    class Diverging(EqualScorer):
        def look_ahead(self, model, round_number, stop):
            began.append(round_number)
            raise TrainingDiverged("the loss is nan")

    validator = world.players[VALIDATOR]
    validator._scorer = Diverging()
    world.run(until=lambda w: seen_by(w).round.phase is Phase.COMMIT)
    for _ in range(3):
        validator.while_waiting(world.ports[VALIDATOR].snapshot(TASK, Role.VALIDATOR))
        assert validator._training.wait(LONG_S)
    assert began == [1]
    world.run()
    assert world.chain.over


def test_validator__it_has_scored__looks_ahead_no_more(tmp_path):
    world, scorer = World(tmp_path, rounds=1), Looking()
    validator = world.players[VALIDATOR]
    validator._scorer = scorer
    world.run(until=lambda w: seen_by(w).round.phase is Phase.SCORE_REVEAL)
    validator.while_waiting(world.ports[VALIDATOR].snapshot(TASK, Role.VALIDATOR))
    assert validator._training.start is None
    assert scorer.ahead == []


@pytest.mark.parametrize(
    ("of_round", "of_me"),
    [
        ({"phase": Phase.AGGREGATE}, {}),
        ({"phase": Phase.COMMIT}, {}),
        ({"round": 3}, {}),
        ({"pool": 5}, {}),
        ({}, {"active_from": 0}),
        ({}, {"active_from": 3}),
        ({}, {"active_until": 2}),
    ],
)
def test_start_ahead__not_to_be_told_or_not_for_this_worker__none(tmp_path, of_round, of_me):
    snapshot = seen_by(in_challenge(tmp_path))
    assert start_ahead(snapshot) == Start(2, snapshot.round.aggregate_root)
    changed = replace(snapshot, round=replace(snapshot.round, **of_round), me=replace(snapshot.me, **of_me))
    assert start_ahead(changed) is None


def test_worker__bytes_of_a_fallen_model_never_arrive__trains_in_the_next_round(tmp_path, monkeypatch):
    monkeypatch.setattr("chainfl.agents.worker.TRAINING_LOOK_S", 0.1)
    world, goes_on, asked = in_challenge(tmp_path), threading.Event(), threading.Event()
    worker, snapshot = world.players[WORKER], seen_by(world)
    withheld, get_bytes = CidOnChain(b"\7" * 32, 0x55), world.store.get_bytes

    def slowly(cid, **options):
        if cid == cid_text(withheld):
            asked.set()
            assert goes_on.wait(LONG_S)
        return get_bytes(cid, **options)

    monkeypatch.setattr(world.store, "get_bytes", slowly)
    wrong = replace(snapshot.round, aggregate_root=Root(b"\7" * 32), aggregate_cid=withheld)
    worker.while_waiting(replace(snapshot, round=wrong))
    assert asked.wait(LONG_S)
    world.run(until=lambda w: seen_by(w).round.round == 2 and not seen_by(w).round.committed, without=(WORKER,))
    did = [world.look(WORKER) for _ in range(20)]
    goes_on.set()
    assert Do.COMMIT_UPDATE in did


def test_worker__the_posted_bytes_are_late_and_wrong__trains_from_the_model_computed_again(tmp_path, monkeypatch):
    world, goes_on, asked = in_challenge(tmp_path), threading.Event(), threading.Event()
    worker, snapshot, get_bytes = world.players[WORKER], seen_by(world), world.store.get_bytes

    def late_and_wrong(cid, **options):
        if cid != cid_text(snapshot.round.aggregate_cid):
            return get_bytes(cid, **options)
        asked.set()
        assert goes_on.wait(LONG_S)
        return b"something else"

    monkeypatch.setattr(world.store, "get_bytes", late_and_wrong)
    worker.while_waiting(snapshot)
    assert asked.wait(LONG_S)
    world.run(until=lambda w: seen_by(w).round.round == 2, without=(WORKER,))
    wait = worker._training.wait

    def until_it_fails(_: float) -> bool:
        goes_on.set()
        return wait(LONG_S)

    monkeypatch.setattr(worker._training, "wait", until_it_fails)
    did = [world.look(WORKER) for _ in range(20)]
    assert Do.COMMIT_UPDATE in did
    assert not world.told(WORKER, "sits_out")


def test_validator__the_models_bytes_never_arrive__abstains_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("chainfl.agents.validator.TRAINING_LOOK_S", 0.01)
    monkeypatch.setattr("chainfl.agents.validator.FETCH_LOOK_S", 0.01)
    world, goes_on = World(tmp_path, rounds=1), threading.Event()
    validator = world.players[VALIDATOR]

    def slowly(*_):
        assert goes_on.wait(LONG_S)
        raise StorageError("no model")

    monkeypatch.setattr(validator.models, "at_round", slowly)
    world.run(until=lambda w: seen_by(w).round.phase is Phase.COMMIT)
    validator.while_waiting(world.ports[VALIDATOR].snapshot(TASK, Role.VALIDATOR))
    world.run(until=lambda w: seen_by(w).round.phase is Phase.SCORE_COMMIT, without=(VALIDATOR,))
    for _ in range(world.chain.task.windows.score_commit):
        for _ in range(5):
            world.look(VALIDATOR)
        if world.ports[VALIDATOR].snapshot(TASK, Role.VALIDATOR).me.has_committed(1):
            break
        world.chain.tick()
    goes_on.set()
    assert world.ports[VALIDATOR].snapshot(TASK, Role.VALIDATOR).me.has_committed(1)
