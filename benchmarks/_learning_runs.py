"""What the tables of benchmarks/learning.py share: runs that are done once, and the yardsticks beside them."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _report import commit

from chainfl.errors import DatasetError
from chainfl.simulation.experiment import split_for
from chainfl.training.datasets import DatasetSplits, concatenate, load_dataset
from chainfl.training.inputs import as_model, one_thread
from chainfl.training.settings import LocalTraining
from chainfl.training.trainer import LocalTrainer

PACKAGES = ("torch", "numpy")

Line = dict[str, Any]
"""case, settings, what the run came to, seconds."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Runs that have ended, a line of JSON each. A run with the same settings is not done again."""

    path: Path

    def run(self, case: str, settings: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> Line:
        """The line of one run: the one that is there, or a new one with what `compute` finds and the seconds it took.

        settings: everything that the numbers follow from, as JSON's own types.
        """
        if (known := self.find(settings)) is not None:
            return known
        started = time.perf_counter()
        found = compute()
        line = {"case": case, "settings": settings, **found, "seconds": round(time.perf_counter() - started, 1)}
        self._append(line | {"commit": commit()})
        return line

    def find(self, settings: Mapping[str, Any]) -> Line | None:
        """The line of a run that has ended, None if there is none."""
        return next((line for line in self.lines() if line["settings"] == settings), None)

    def lines(self) -> list[Line]:
        """All of them, the oldest first."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def _append(self, line: Mapping[str, Any]) -> None:
        """Whole or not at all, as far as a kill of this process goes: it is one write."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass(slots=True)
class Countdown:
    """Tells how long the runs that are left may take. total: how many there are, those already done included."""

    total: int
    passed: int = 0
    seconds: list[float] = field(default_factory=list)

    def tell(self, words: str, line: Line) -> None:
        """After a run: what it came to, and about how many minutes are left."""
        self.passed += 1
        self.seconds.append(line["seconds"])
        left = (self.total - self.passed) * statistics.fmean(self.seconds) / 60
        print(f"{words}, {line['seconds']:.0f} s; {self.passed} of {self.total}, {left:.0f} min left", flush=True)


def centralised(
    splits: DatasetSplits,
    *,
    model: str,
    clients: int,
    partition: str,
    steps: Sequence[int],
    batch_size: int,
    learning_rate: float,
    momentum: float,
    seed: int,
    model_params: Mapping[str, int] | None = None,
) -> list[float]:
    """One trainer with all the workers' data, from their first weights: its accuracy after so many steps, each time
    from the start."""
    split, _ = split_for(splits, partition, clients=clients, validators=0, root_examples=0, root_data=None, seed=seed)
    whole, accuracies = concatenate(list(split.workers)), []
    with one_thread():
        trainer = LocalTrainer(as_model(model, whole.shape, whole.num_classes, model_params, seed).module)
        start = trainer.initial_vector
        for count in steps:
            training = LocalTraining(steps=count, batch_size=batch_size, learning_rate=learning_rate, momentum=momentum)
            trained = trainer.train(start, whole, training, seed=seed)
            accuracies.append(trainer.evaluate(start + trained.delta, split.test).accuracy)
    return accuracies


def digest(settings: Mapping[str, Any]) -> str:
    """A short name that is the settings' own."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def loaded(name: str, folder: Path) -> DatasetSplits:
    """A data set that is no part of chainfl. Raises SystemExit with what to do where it is not there."""
    try:
        return load_dataset(name, folder)
    except DatasetError as error:
        raise SystemExit(f"{error}\n{name} is no part of chainfl: name the folder of its files by an option") from None


def listed(percents: Sequence[float]) -> str:
    """Percents one after another."""
    return " ".join(f"{value:.2f}" for value in percents)
