"""A worker's training as its task asks for it: settings, seeds, and the memory between integers and floats."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fake_chain import CHAIN_ID, COORDINATOR, TASK, account_of

from chainfl.agents.encode import encode_update
from chainfl.agents.learning import LocalLearning, RootDataScorer
from chainfl.agents.validator import CheckedUpdate
from chainfl.encoding.fixed_point import dequantize_model, quantize_model
from chainfl.errors import TrainingDiverged, TrainingStopped
from chainfl.registry.material import TaskScope
from chainfl.registry.replay import replay_round
from chainfl.tasks.spec import DatasetEntry, TrainingEntry, ValidationEntry, default_format
from chainfl.tasks.state import Format
from chainfl.training.datasets import Dataset
from chainfl.training.models import build_model
from chainfl.training.settings import OptimizerSettings, local_training
from chainfl.training.trainer import LocalTrainer

PARAMS = {"in_features": 4, "num_classes": 3, "hidden": 5}
ENTRY = {"steps": 6, "batch_size": 8, "learning_rate": "0.05", "momentum": "0.9"}


@dataclass(frozen=True)
class Entries:
    format: Format
    training: TrainingEntry
    dataset: DatasetEntry
    validation: ValidationEntry


def share(client: int) -> Dataset:
    rng = np.random.default_rng(client)
    labels = np.where(rng.random(30) < 0.8, client % 3, rng.integers(0, 3, 30))
    return Dataset("d", rng.normal(labels[:, None], 0.5, (30, 4)).astype(np.float32), labels, 3)


def learners(count: int, step_den: int = 1, **training: object) -> tuple[Entries, np.ndarray, list[LocalLearning]]:
    trainer = LocalTrainer(build_model("mlp", PARAMS, 0))
    form = replace(default_format(trainer.layout.num_params), step_den=step_den)
    about = DatasetEntry(name="d", input_shape=[4], num_classes=3)
    entries = Entries(form, TrainingEntry(**ENTRY | training), about, ValidationEntry())
    scope = TaskScope(CHAIN_ID, COORDINATOR, TASK, form, trainer.layout.hash())
    made = [LocalLearning(entries, scope, account_of(100 + k), trainer, share(k)) for k in range(count)]
    return entries, quantize_model(trainer.initial_vector, form.model_scale_bits).values, made


def test_local_training__of_an_entry__has_its_numbers():
    params = {"betas": ["0.9", "0.99"], "eps": "0.1", "amsgrad": True}
    entry = TrainingEntry(
        **ENTRY | {"algorithm": "fedprox", "proximal_mu": "0.01", "momentum": "0", "accumulation": 2},
        optimizer={"name": "adam", "params": params},
    )
    training = local_training(entry)
    assert (training.algorithm, training.proximal_mu, training.alpha) == ("fedprox", 0.01, 0.0)
    assert training.optimizer == OptimizerSettings("adam", {"betas": (0.9, 0.99), "eps": 0.1, "amsgrad": True})
    assert (training.steps, training.accumulation, training.learning_rate) == (6, 2, 0.05)


@pytest.mark.parametrize("step_den", [1, 2])
def test_scaffold__through_integers_and_any_server_rate__drifts_sum_to_zero(step_den):
    entries, model, workers = learners(3, step_den, algorithm="scaffold")
    memories, residuals = [{} for _ in workers], [None for _ in workers]
    for number in (1, 2, 3):
        trained = [worker.train(model, number, memory=memories[k]) for k, worker in enumerate(workers)]
        encoded = [encode_update(one.delta, residuals[k], entries.format) for k, one in enumerate(trained)]
        after = replay_round(model, [(one.values, 10_000) for one in encoded], entries.format).model
        memories = [worker.settle(trained[k].kept, encoded[k].values, model, after) for k, worker in enumerate(workers)]
        residuals, model = [one.residual for one in encoded], after
    drifts = np.array([memory["drift"] for memory in memories], np.float64)
    assert np.abs(drifts).max() > 0.05
    # The server rounds a step to 2^-20, three times.
    reach = 0.05 * sum(sum(0.9**j for j in range(k)) for k in range(1, 7))
    assert np.abs(drifts.sum(axis=0)).max() < 3 * 3 * step_den * 2**-20 / reach + 1e-5


def test_feddyn__previous_model__is_where_training_starts_beyond():
    entries, model, (worker,) = learners(1, algorithm="feddyn", alpha="0.1")
    assert worker.uses_previous
    plain = worker.train(model, 2).delta
    same = worker.train(model, 2, previous=model).delta
    moved = worker.train(model, 2, previous=model - 1000).delta
    np.testing.assert_array_equal(plain, same)
    assert np.abs(moved - plain).max() > 1000 * 2.0**-entries.format.model_scale_bits / 2


def test_train__same_round_and_memory__same_bits_and_another_round_others():
    _, model, (worker,) = learners(1, algorithm="scaffold")
    assert not worker.uses_previous
    first = worker.train(model, 1)
    memory = worker.settle(first.kept, np.ones(len(model), np.int16), model, model)
    runs = [worker.train(model, number, memory=memory).delta for number in (2, 2, 3)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_train__findings__are_the_names_of_events():
    entries, model, (worker,) = learners(1, steps=1, learning_rate="0.000001")
    real = dequantize_model(model, entries.format.model_scale_bits)
    named = worker._trainer.layout.unflatten(real)
    named["layers.3.bias"][:] = [9, 0, 0]
    biased = quantize_model(worker._trainer.layout.flatten(named), entries.format.model_scale_bits).values
    assert "constant_predictor" in worker.train(biased, 1).findings


def test_train__diverging__raises():
    _, model, (worker,) = learners(1, learning_rate="10000")
    with pytest.raises(TrainingDiverged):
        worker.train(model, 1)


def test_train__stopped_from_another_thread__ends_at_the_next_step():
    _, model, [worker] = learners(1, steps=1_000_000)
    stop = threading.Event()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    with pytest.raises(TrainingStopped, match="stopped after"):
        worker.train(model, 1, stop=stop)
    timer.join()


def scored_round() -> tuple[RootDataScorer, np.ndarray, list[CheckedUpdate]]:
    entries, model, workers = learners(3)
    trainer = LocalTrainer(build_model("mlp", PARAMS, 0))
    scope = TaskScope(CHAIN_ID, COORDINATOR, TASK, entries.format, trainer.layout.hash())
    scorer = RootDataScorer(entries, scope, account_of(200), trainer, share(7))
    values = [encode_update(worker.train(model, 1).delta, None, entries.format).values for worker in workers]
    return scorer, model, [CheckedUpdate(int((v.astype(np.int64) ** 2).sum()), v) for v in values]


def test_score__looked_ahead__same_votes_and_no_second_training(monkeypatch):
    scorer, model, updates = scored_round()
    expected = scorer.score(model, updates, 1, None)
    trainings = []
    real = LocalTrainer.train
    monkeypatch.setattr(LocalTrainer, "train", lambda *a, **k: trainings.append(1) or real(*a, **k))
    scorer.look_ahead(model, 1, threading.Event())
    assert scorer.score(model, updates, 1, None) == expected
    assert len(trainings) == 1


@pytest.mark.parametrize(("contribution", "asked"), [("gtg_shapley", [3]), ("leave_one_out", []), ("shapley", [])])
def test_score__sampled_contribution__asks_for_the_block_of_the_last_commitment(contribution, asked):
    entries, model, workers = learners(3)
    entries = replace(entries, validation=ValidationEntry(contribution=contribution))
    trainer, rounds = LocalTrainer(build_model("mlp", PARAMS, 0)), list[int]()
    scope = TaskScope(CHAIN_ID, COORDINATOR, TASK, entries.format, trainer.layout.hash())

    def commit_hash(number: int) -> bytes:
        rounds.append(number)
        return bytes(32)

    scorer = RootDataScorer(entries, scope, account_of(200), trainer, share(7), commit_hash)
    values = [encode_update(worker.train(model, 3).delta, None, entries.format).values for worker in workers]
    scorer.score(model, [CheckedUpdate(int((v.astype(np.int64) ** 2).sum()), v) for v in values], 3, None)
    assert rounds == asked


@pytest.mark.parametrize(("number", "other"), [(2, False), (1, True)])
def test_score__looked_ahead_in_another_round_or_from_another_model__trains_anew(number, other, monkeypatch):
    scorer, model, updates = scored_round()
    expected = scorer.score(model, updates, 1, None)
    scorer.look_ahead(model + np.int32(other), number, threading.Event())
    assert scorer.score(model, updates, 1, None) == expected


def test_worsening__model_worse_than_before_and_than_knowing_nothing__tells_both_losses():
    scorer, model, _ = scored_round()
    ruined = model * np.int32(-40)
    before, after = scorer.worsening(ruined, model)
    assert after > max(before, math.log(10))
    assert scorer.worsening(model, ruined) is None
    assert scorer.worsening(ruined, ruined) is None


def test_look_ahead__stopped__raises():
    scorer, model, _ = scored_round()
    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingStopped):
        scorer.look_ahead(model, 1, stop)
