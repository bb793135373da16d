"""What turns gradients into steps: the built-in SGD, one of torch's optimisers by its name, or a user's own.

Built-in stays what it can do, plain momentum and weight decay: see `sgd` for what torch's first optimiser costs a
process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chainfl.errors import TrainingError
from chainfl.tasks.optimizer_names import optimizer_called
from chainfl.tasks.training_rules import COUNTS_STEPS, MATRICES_ALONE, NO_WEIGHT_DECAY, has_effective_steps
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
    "adafactor": "Adafactor",
    "muon": "Muon",
}

MakeOptimizer = Callable[[list[Tensor]], Any]
"""A user's own: from the trained parameters to what steps as torch's optimisers do, along the parameters' `grad`."""


class Optimizer(Protocol):
    """Its state lasts for one round: the global model replaces what the state was about."""

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step, in place. gradients: one a parameter; None where the loss does not depend on it."""
        ...


class TorchOptimizer:
    """One of torch.optim, or what steps as they do, behind `Optimizer`."""

    def __init__(self, parameters: Sequence[Tensor], optimizer: Any) -> None:
        """optimizer: holds the same parameters."""
        self._parameters = parameters
        self._optimizer = optimizer

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """See `Optimizer`."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None


def make_optimizer(
    parameters: Sequence[Tensor], training: LocalTraining, own: MakeOptimizer | None = None
) -> Optimizer:
    """A fresh one for one round. own: makes a user's, in place of the one that the settings name, and of their rates.

    Raises TrainingError for a value that the optimiser refuses, or a maker of none, and what `own` raises.
    """
    if own is not None:
        return TorchOptimizer(parameters, _made(parameters, own))
    if training.optimizer.name == "sgd" and not training.optimizer.params:
        return Sgd(parameters, SgdConfig(training.learning_rate, training.momentum, training.weight_decay))
    return TorchOptimizer(parameters, _named(parameters, training))


def check_optimizer(module: nn.Module, training: LocalTraining, own: MakeOptimizer | None = None) -> None:
    """Whether a module can be trained so, told before anything is at stake; one's own optimiser takes a step on a copy.

    Raises TrainingError that says why not, and what `own` and its optimiser raise.
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not trained:
        raise TrainingError(
            "the model has no parameter to train: all are frozen, or there are none; leave requires_grad true for some"
        )
    if own is None:
        _check_matrices(trained, training.optimizer.name)
        return
    if training.algorithm in COUNTS_STEPS:
        called = optimizer_called(own)
        raise TrainingError(
            f"{training.algorithm} needs the optimizer sgd without dampening: how many steps of its gradient an update "
            f"of {called} is worth is not defined; leave the optimizer out, or take fedavg, fedprox or feddyn",
            name=called,
        )
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in trained.values()]
    make_optimizer(copies, training, own).step([torch.zeros_like(copy) for copy in copies])


def effective_steps_of(training: LocalTraining, steps: int) -> float:
    """`effective_steps` of the optimiser that the settings name. Raises TrainingError where it is not defined."""
    optimizer = training.optimizer
    if not has_effective_steps(optimizer.name, optimizer.params):
        raise TrainingError(f"an update of {optimizer.name} has no effective number of steps", name=optimizer.name)
    return effective_steps(steps, training.momentum, nesterov=bool(optimizer.params.get("nesterov")))


def _named(parameters: Sequence[Tensor], training: LocalTraining) -> Any:
    name = training.optimizer.name
    try:
        return getattr(torch.optim, _CLASSES[name])(parameters, **_arguments(training))
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{name} refuses its parameters: {error}", name=name) from error


def _made(parameters: Sequence[Tensor], own: MakeOptimizer) -> Any:
    """What a user's maker gives, if it can step by itself and steps these parameters."""
    called, made = optimizer_called(own), own(list(parameters))
    if not callable(getattr(made, "step", None)):
        raise TrainingError(f"{called} gives {made!r}, no optimizer: return one that has been given the parameters")
    try:
        signature(made.step).bind()
    except TypeError as error:
        raise TrainingError(
            f"{called} gives a {type(made).__name__}, whose step has a {error}: local algorithms correct one gradient "
            "a step, so it must step by itself"
        ) from error
    held = {id(parameter) for group in getattr(made, "param_groups", ()) for parameter in group["params"]}
    if held and not held <= {id(parameter) for parameter in parameters}:
        raise TrainingError(f"{called} steps other parameters than it is given: make it from its argument")
    return made


def _check_matrices(trained: Mapping[str, Tensor], name: str) -> None:
    others = [f"{each} is {tuple(tensor.shape)}" for each, tensor in trained.items() if tensor.ndim != 2]
    if name in MATRICES_ALONE and others:
        raise TrainingError(
            f"{name} takes matrices alone, but {others[0]}: freeze what is none, take another optimizer, or give one "
            "of your own that steps the rest by other means",
            name=name,
        )


def _arguments(training: LocalTraining) -> dict[str, Any]:
    name = training.optimizer.name
    given: dict[str, Any] = {**training.optimizer.params, "lr": training.learning_rate}
    if name not in NO_WEIGHT_DECAY:
        # Always said: torch's own default is not zero everywhere (AdamW decays by 0.01).
        given["weight_decay"] = training.weight_decay
    if name == "sgd":
        given["momentum"] = training.momentum
    return given
