"""What turns gradients into steps: the built-in SGD, or one of torch's optimisers by its name.

Built-in stays what it can do, plain momentum and weight decay: see `sgd` for what torch's first optimiser costs a
process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from chainfl.errors import TrainingError
from chainfl.tasks.training_rules import NO_WEIGHT_DECAY, has_effective_steps
from chainfl.training.settings import LocalTraining
from chainfl.training.sgd import Sgd, SgdConfig, effective_steps

_CLASSES: Mapping[str, str] = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "Adamax",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "rmsprop": "RMSprop",
    "rprop": "Rprop",
    "asgd": "ASGD",
}


class Optimizer(Protocol):
    """Its state lasts for one round: the global model replaces what the state was about."""

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step, in place. gradients: one a parameter; None where the loss does not depend on it."""
        ...


class TorchOptimizer:
    """One of torch.optim behind `Optimizer`."""

    def __init__(self, parameters: Sequence[Tensor], training: LocalTraining) -> None:
        """Raises TrainingError for a value that the optimiser refuses."""
        self._parameters = parameters
        name = training.optimizer.name
        try:
            self._optimizer = getattr(torch.optim, _CLASSES[name])(parameters, **_arguments(training))
        except (ValueError, TypeError) as error:
            raise TrainingError(f"{name} refuses its parameters: {error}", name=name) from error

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """See `Optimizer`."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None


def make_optimizer(parameters: Sequence[Tensor], training: LocalTraining) -> Optimizer:
    """A fresh one for one round. Raises TrainingError for a value that the optimiser refuses."""
    if training.optimizer.name == "sgd" and not training.optimizer.params:
        return Sgd(parameters, SgdConfig(training.learning_rate, training.momentum, training.weight_decay))
    return TorchOptimizer(parameters, training)


def effective_steps_of(training: LocalTraining, steps: int) -> float:
    """`effective_steps` of the optimiser that the settings name. Raises TrainingError where it is not defined."""
    optimizer = training.optimizer
    if not has_effective_steps(optimizer.name, optimizer.params):
        raise TrainingError(f"an update of {optimizer.name} has no effective number of steps", name=optimizer.name)
    return effective_steps(steps, training.momentum, nesterov=bool(optimizer.params.get("nesterov")))


def _arguments(training: LocalTraining) -> dict[str, Any]:
    name = training.optimizer.name
    given: dict[str, Any] = {**training.optimizer.params, "lr": training.learning_rate}
    if name not in NO_WEIGHT_DECAY:
        # Always said: torch's own default is not zero everywhere (AdamW decays by 0.01).
        given["weight_decay"] = training.weight_decay
    if name == "sgd":
        given["momentum"] = training.momentum
    return given
