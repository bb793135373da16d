"""The tables of benchmarks/learning.py, each at a size that takes seconds."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _learning_byzantine as byzantine
from _learning_compression import CIFAR10, MNIST, Bench, Case, rows_of
from _learning_runs import Countdown, Journal

from chainfl.agents.worker import TrainedUpdate
from chainfl.tasks.validation_rules import validation_problems
from chainfl.tasks.votes import REJECTION, Vote
from chainfl.training.datasets import load_dataset

TINY = replace(
    CIFAR10,
    data="digits",
    model="mlp",
    model_params={},
    clients=3,
    steps=8,
    batch_size=16,
    cases=(
        Case("float32", 2, None),
        Case("int16", 2),
        Case("int4", 4, changes={"compression": "int4"}),
        Case("not there yet", 4, "a strategy of the future"),
    ),
)


def test_journal__same_settings_again__computes_nothing(tmp_path):
    journal, calls = Journal(tmp_path / "new" / "runs.jsonl"), []

    def compute():
        calls.append(1)
        return {"accuracy": 0.5}

    first = journal.run("a", {"seed": 0}, compute)
    again = journal.run("a", {"seed": 0}, compute)
    other = journal.run("a", {"seed": 1}, compute)
    assert first["accuracy"] == again["accuracy"] == other["accuracy"] == 0.5
    assert len(calls) == 2
    assert [line["settings"] for line in journal.lines()] == [{"seed": 0}, {"seed": 1}]


def test_compression__tiny_setting__every_case_beside_float32(tmp_path):
    splits = load_dataset("digits")
    bench = Bench(TINY, splits, tmp_path, tmp_path, 1, Countdown(4))
    rows = list(rows_of(bench, 1, beside=False))
    assert [row.unit for row in rows] == ["%", "%", "%", "%", "points", "times fewer"]
    lines = Journal(tmp_path / "learning-compression.jsonl").lines()
    sent = {line["case"].split(": ")[1]: line["bytes_up"] for line in lines}
    num_params = 64 * 64 + 64 + 64 * 10 + 10
    assert sent["float32"] == 4 * num_params * 4
    # Half the rounds at an eighth of the bytes or, of a net that small, less: zeros are deflated.
    assert 13 < sent["float32"] / sent["int4"] < 32
    # The integers of the plain form are FedAvg's own steps, rounded.
    accuracy = {line["case"].split(": ")[1]: line["accuracy"] for line in lines}
    assert abs(accuracy["float32"] - accuracy["int16"]) < 0.01
    assert list(rows_of(bench, 1, beside=False)) == rows


@pytest.mark.parametrize("setting", [CIFAR10, MNIST])
def test_compression__its_settings__every_case_comes_to_the_same_steps_and_can_be_told(setting):
    for case in setting.cases:
        assert setting.steps % case.steps == 0
        if case.is_there:
            json.dumps(setting.settings(case, 0))


# --- byzantine -----------------------------------------------------------------------------------

FEW = byzantine.Setting(
    data="digits", workers=5, validators=3, root_examples=20, rounds=2, steps=3, batch_size=16, attackers=(2,)
)
BY_NAME = {defence.name: defence for defence in byzantine.DEFENCES}


def cell(attack, defence="gate_clip"):
    return byzantine.Cell(BY_NAME[defence], attack, 2)


@pytest.mark.parametrize("attack", [byzantine.NO_ATTACK, *byzantine.ATTACKS])
def test_byzantine__every_attack__comes_to_figures(attack):
    found = byzantine.run(FEW, load_dataset("digits"), cell(attack))
    assert 0 <= found["accuracy"] <= 1
    assert 0 <= found["rejected"] <= 1


def test_byzantine__sign_flip__sends_minus_the_mean_of_the_honest():
    updates = {
        name: TrainedUpdate(np.full(2, value, np.float32), 1, 0.0, 0.0)
        for name, value in {"a": 9, "b": 1, "c": 3}.items()
    }
    sent = byzantine.tampering(byzantine.Cell(BY_NAME["mean"], "sign_flip", 1), []).updates(1, updates)
    assert {name: update.delta.tolist() for name, update in sent.items()} == {"a": [-2, -2], "b": [1, 1], "c": [3, 3]}


def test_byzantine__label_flip__poisons_the_attackers_labels_only():
    splits = load_dataset("digits")
    clean, poisoned = (byzantine.split_of(FEW, splits, cell(attack)).workers for attack in ("none", "label_flip"))
    flipped = [(9 - a.labels == b.labels).all() for a, b in zip(clean, poisoned, strict=True)]
    assert flipped == [True, True, False, False, False]


def test_byzantine__requesters_worker__has_data_that_no_validator_has():
    split = byzantine.split_of(FEW, load_dataset("digits"), cell(byzantine.NO_ATTACK, byzantine.DEFAULT))
    assert (len(split.workers), len(split.validators)) == (FEW.workers + 1, FEW.validators)
    seen = {row.tobytes() for root in split.validators for row in root.values}
    assert not seen & {row.tobytes() for row in split.workers[-1].values}


def test_byzantine__one_colluder_of_three__sets_no_median():
    yes, no = Vote(10_000, 1), REJECTION
    played = [[[no, yes, yes]], [[no, yes, no]], [[yes, no, no]]]
    assert byzantine.rejected(played, 1) == 0.5
    assert byzantine.rejected([[], [], []], 1) == 0


@pytest.mark.parametrize("count", byzantine.Setting().attackers)
def test_byzantine__every_defence__is_a_task_for_so_many_workers(count):
    for defence in byzantine.DEFENCES:
        strategy, workers = defence.make(count), byzantine.Setting().workers + defence.root_worker
        assert list(validation_problems(strategy.validation(), strategy.format(1000), workers)) == []
        json.dumps(byzantine.Cell(defence, byzantine.NO_ATTACK, count).settings(byzantine.Setting()))


def test_byzantine__table__every_rule_once_and_the_default_measured_against_no_attack(tmp_path, monkeypatch):
    # Accuracies that a rule has by what it is, so that the table is all that is tested.
    monkeypatch.setattr(byzantine, "run", lambda _, __, cell: {"accuracy": 0.9 - 0.1 * cell.attackers, "rejected": 0.0})
    setting, defences = byzantine.Setting(), (*byzantine.DEFENCES[:4], BY_NAME[byzantine.DEFAULT])
    bench = byzantine.Bench(setting, None, Journal(tmp_path / "runs.jsonl"), Countdown(1))
    rows = list(byzantine.rows_of(bench, defences, 2))
    assert len(rows) == 2 * len(defences) + 2 * (1 + byzantine.BEST)
    [at_4, at_6] = [row for row in rows if row.target is not None]
    assert (round(at_4.value), round(at_6.value)) == (40, 60)
    lines = [line["settings"] for line in bench.journal.lines()]
    assert len(lines) == len({json.dumps(settings, sort_keys=True) for settings in lines})
    assert bench.countdown.passed == byzantine.runs_of(setting, defences, 2)
