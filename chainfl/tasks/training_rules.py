"""Which settings of local training go together. Pure: a requester hears of a contradiction before its task exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from chainfl.tasks.state import Format

if TYPE_CHECKING:
    from chainfl.tasks.spec import OptimizerEntry, TrainingEntry

ALGORITHM_PARAMETERS: Mapping[str, frozenset[str]] = {
    "fedavg": frozenset(),
    "fedprox": frozenset({"proximal_mu"}),
    "scaffold": frozenset(),
    "fednova": frozenset(),
    "feddyn": frozenset({"alpha"}),
}
"""Each local algorithm with the parameters that it must be given."""

COUNTS_STEPS = frozenset({"scaffold", "fednova"})
"""Algorithms that divide by the effective number of steps, which only some optimisers have."""

OPTIMIZER_PARAMETERS: Mapping[str, frozenset[str]] = {
    "sgd": frozenset({"dampening", "nesterov"}),
    "adam": frozenset({"betas", "eps", "amsgrad", "decoupled_weight_decay"}),
    "adamw": frozenset({"betas", "eps", "amsgrad"}),
    "nadam": frozenset({"betas", "eps", "momentum_decay", "decoupled_weight_decay"}),
    "radam": frozenset({"betas", "eps", "decoupled_weight_decay"}),
    "adamax": frozenset({"betas", "eps"}),
    "adagrad": frozenset({"lr_decay", "initial_accumulator_value", "eps"}),
    "adadelta": frozenset({"rho", "eps"}),
    "rmsprop": frozenset({"alpha", "eps", "momentum", "centered"}),
    "rprop": frozenset({"etas", "step_sizes"}),
    "asgd": frozenset({"lambd", "alpha", "t0"}),
    "adafactor": frozenset({"eps", "d"}),
    "muon": frozenset({"momentum", "nesterov", "eps"}),
}
"""torch's optimisers by their names in lower case, with what may be set beside learning_rate and weight_decay.

Rates are decimals of 0 or more, so Adafactor's beta2_decay and Muon's ns_coefficients stay torch's own.
"""

UNUSABLE_OPTIMIZERS: Mapping[str, str] = {
    "lbfgs": "it computes the loss anew within a step (a closure), and local algorithms correct one gradient a step",
    "sparseadam": "it takes sparse gradients alone, and a model's are dense",
}
"""Those of torch's that no task can name, with the reason."""

MATRICES_ALONE = frozenset({"muon"})
"""Those that take parameters of two dimensions and no others, so no layer with a bias."""

NO_WEIGHT_DECAY = frozenset({"rprop"})


def training_problems(training: TrainingEntry, form: Format) -> Iterator[str]:
    """Everything about the training entry that its types alone do not catch, each as one line."""
    if Decimal(training.momentum) >= 1:
        yield "training.momentum is not below 1"
    if Decimal(training.learning_rate) == 0:
        yield "training.learning_rate is zero"
    if training.accumulation > training.batch_size:
        yield f"training.accumulation cuts a batch of {training.batch_size} into {training.accumulation} parts"
    yield from _parameter_problems(training)
    yield from _server_problems(training.algorithm, form)
    if training.optimizer is not None:
        yield from _optimizer_problems(training, training.optimizer)


def unknown_optimizer(name: str) -> str | None:
    """What is wrong with the name of an optimiser, if anything is."""
    if name in OPTIMIZER_PARAMETERS:
        return None
    why = f"; {UNUSABLE_OPTIMIZERS[name]}" if name in UNUSABLE_OPTIMIZERS else ""
    return f"optimizer is {name!r}, none of {', '.join(OPTIMIZER_PARAMETERS)}{why}"


def has_effective_steps(optimizer: str, params: Mapping[str, object]) -> bool:
    """Whether a constant gradient moves a parameter by a multiple of it that the number of steps alone decides.

    So it is under SGD, with momentum and Nesterov's too. Adaptive optimisers divide the gradient's size away, and
    dampening differs between the first step and the rest.
    """
    return optimizer == "sgd" and "dampening" not in params


def _parameter_problems(training: TrainingEntry) -> Iterator[str]:
    takes = ALGORITHM_PARAMETERS[training.algorithm]
    for name in sorted(frozenset[str]().union(*ALGORITHM_PARAMETERS.values())):
        given = getattr(training, name) is not None
        if given and name not in takes:
            yield f"training.{name} is no parameter of {training.algorithm}"
        if not given and name in takes:
            yield f"training.{name} is missing: {training.algorithm} needs it"
    if training.alpha is not None and Decimal(training.alpha) == 0:
        yield "training.alpha is zero"


def _server_problems(algorithm: str, form: Format) -> Iterator[str]:
    """SCAFFOLD and FedDyn read the mean update off the global step, so the step must show it.

    Under the plain one the step is the mean times the rate. Momentum and Nesterov add what earlier rounds left, and an
    adaptive server divides each coordinate by its own root: what workers divided by the rate would be no mean, and the
    variates, whose sum must be zero, would drift. (FedDyn makes Nesterov's extrapolation itself: see `feddyn`.)
    """
    if algorithm in ("scaffold", "feddyn") and form.has_state:
        yield (
            f"training.algorithm {algorithm} needs the plain server step, not {form.server.name.lower()}: "
            "it reads the mean update off the step that the model made"
        )
    if algorithm == "feddyn" and form.step_num != form.step_den:
        yield f"training.algorithm feddyn needs the server step 1/1, not {form.step_num}/{form.step_den}"


def _optimizer_problems(training: TrainingEntry, optimizer: OptimizerEntry) -> Iterator[str]:
    name = optimizer.name
    if problem := unknown_optimizer(name):
        yield f"training.{problem}"
        return
    unknown = sorted({*optimizer.params} - OPTIMIZER_PARAMETERS[name])
    yield from (f"training.optimizer.params.{key} is no parameter of {name}" for key in unknown)
    if name != "sgd" and Decimal(training.momentum) != 0:
        yield f"training.momentum is of sgd, not of {name}"
    if name in NO_WEIGHT_DECAY and Decimal(training.weight_decay) != 0:
        yield f"training.weight_decay is nothing that {name} has"
    if training.algorithm in COUNTS_STEPS and not has_effective_steps(name, optimizer.params):
        yield f"training.algorithm {training.algorithm} needs the optimizer sgd without dampening: {_WHY_SGD}"


_WHY_SGD = "of others it is not defined how many steps of its gradient an update is worth"
