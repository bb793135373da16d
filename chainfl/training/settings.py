"""How a participant trains, as numbers: what agents, scoring and simulation hand to a trainer. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, get_args

from chainfl.encoding.arrays import Float32Array
from chainfl.errors import TrainingError
from chainfl.tasks.spec import OptimizerEntry, TrainingEntry
from chainfl.tasks.training_rules import (
    ALGORITHM_PARAMETERS,
    COUNTS_STEPS,
    OPTIMIZER_PARAMETERS,
    has_effective_steps,
    unknown_optimizer,
)

Precision = Literal["float32", "bfloat16"]
OptimizerValue = float | bool | tuple[float, ...]

Memory = Mapping[str, Float32Array]
"""What an algorithm keeps between its rounds: (P,) float32 vectors by name; empty before the first."""

NO_MEMORY: Final[Memory] = {}

_RATES_BELOW: Final[Mapping[str, int]] = {
    "learning_rate": 1_000_000,
    "momentum": 1,
    "weight_decay": 1_000_000,
    "proximal_mu": 1_000_000,
    "alpha": 1_000_000,
}


class Finding(StrEnum):
    """What was noticed about a local run whose update is sent all the same; the name of the event that tells it."""

    CONSTANT_PREDICTOR = "constant_predictor"
    """The local model takes every one of the worker's own examples for the same class; its labels have several."""

    LOSS_ROSE = "loss_rose"
    """The loss on the worker's own data is higher after the round's local steps than before."""


@dataclass(frozen=True)
class OptimizerSettings:
    """One of torch's optimisers by its name in lower case. params: beside learning rate, momentum and weight decay."""

    name: str = "sgd"
    params: Mapping[str, OptimizerValue] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalTraining:
    """One round of local training; the same for everybody in a task. Raises TrainingError for settings that are none.

    steps: of the optimiser; the most that a round has, if local_epochs is given: then as many as so many passes over
    one's own data take. batch_size: examples a step. accumulation: equal parts that a batch's gradient is summed up
    from. momentum: of sgd. proximal_mu: of FedProx; alpha: of FedDyn. precision: of the forward pass; parameters,
    gradients and updates are float32 in any case.
    """

    steps: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    algorithm: str = "fedavg"
    proximal_mu: float = 0.0
    alpha: float = 0.0
    local_epochs: int | None = None
    optimizer: OptimizerSettings = OptimizerSettings()
    accumulation: int = 1
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch_size, self.accumulation, 1 if self.local_epochs is None else self.local_epochs)
        if min(counts) < 1:
            raise TrainingError(
                "steps, batch_size, accumulation and local_epochs are at least 1, not "
                f"{self.steps}, {self.batch_size}, {self.accumulation} and {self.local_epochs}"
            )
        if self.algorithm not in ALGORITHM_PARAMETERS:
            known = ", ".join(ALGORITHM_PARAMETERS)
            raise TrainingError(f"no algorithm is called {self.algorithm!r}; there are {known}", name=self.algorithm)
        self._check_rates()
        self._check_optimizer()
        if self.precision not in get_args(Precision):
            raise TrainingError(f"no precision is called {self.precision!r}; there are {get_args(Precision)}")

    def steps_for(self, num_examples: int) -> int:
        """How many steps a worker with so many examples takes."""
        if self.local_epochs is None:
            return self.steps
        batch = min(self.batch_size, num_examples)
        return min(self.steps, math.ceil(self.local_epochs * num_examples / batch))

    def _check_rates(self) -> None:
        for name, below in _RATES_BELOW.items():
            value = getattr(self, name)
            # NaN compares false, so it ends here as well.
            if not 0 <= value < below:
                raise TrainingError(f"{name} is {value:g}, but it is at least 0 and below {below:,}")
        if self.learning_rate == 0:
            raise TrainingError("learning_rate is 0, and nothing is learnt: give one above 0")
        if self.algorithm == "feddyn" and self.alpha == 0:
            raise TrainingError("feddyn needs an alpha above zero")

    def _check_optimizer(self) -> None:
        name, params = self.optimizer.name, self.optimizer.params
        if problem := unknown_optimizer(name):
            raise TrainingError(problem, name=name)
        takes = OPTIMIZER_PARAMETERS[name]
        if unknown := sorted(set(params) - takes):
            raise TrainingError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(takes))}")
        if self.algorithm in COUNTS_STEPS and not has_effective_steps(name, params):
            raise TrainingError(
                f"{self.algorithm} needs the optimizer sgd without dampening: how many steps of its gradient an update "
                f"of {name} is worth is not defined"
            )


def local_training(entry: TrainingEntry) -> LocalTraining:
    """What a specification says, its decimals as floats. Raises TrainingError."""
    return LocalTraining(
        steps=entry.steps,
        batch_size=entry.batch_size,
        learning_rate=float(entry.learning_rate),
        momentum=float(entry.momentum),
        weight_decay=float(entry.weight_decay),
        algorithm=entry.algorithm,
        proximal_mu=float(entry.proximal_mu or 0),
        alpha=float(entry.alpha or 0),
        local_epochs=entry.local_epochs,
        optimizer=optimizer_settings(entry.optimizer),
        accumulation=entry.accumulation,
        precision=entry.precision,
    )


def optimizer_settings(entry: OptimizerEntry | None) -> OptimizerSettings:
    """What an entry says, its decimals as floats; None is sgd."""
    if entry is None:
        return OptimizerSettings()
    return OptimizerSettings(entry.name, {name: _value(value) for name, value in entry.params.items()})


def _value(value: str | bool | list[str]) -> OptimizerValue:
    if isinstance(value, bool):
        return value
    return tuple(map(float, value)) if isinstance(value, list) else float(value)
