"""Optimisers by name: each does what torch's own does, and none takes what it does not know."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from chainfl.errors import TrainingError
from chainfl.tasks.training_rules import NO_WEIGHT_DECAY, OPTIMIZER_PARAMETERS, UNUSABLE_OPTIMIZERS
from chainfl.training import optimizers
from chainfl.training.optimizers import TorchOptimizer, check_optimizer, effective_steps_of, make_optimizer
from chainfl.training.settings import LocalTraining, OptimizerSettings
from chainfl.training.sgd import Sgd

STRANGER = nn.Linear(1, 1)
BASE = LocalTraining(steps=3, batch_size=4, learning_rate=0.05)

CASES = [
    ("sgd", {"nesterov": True}, {"momentum": 0.9, "weight_decay": 0.01}),
    ("sgd", {"dampening": 0.5}, {"momentum": 0.9}),
    ("adam", {"betas": (0.8, 0.9), "eps": 1e-6, "amsgrad": True}, {"weight_decay": 0.01}),
    ("adamw", {}, {}),
    ("nadam", {"momentum_decay": 0.01}, {}),
    ("radam", {"decoupled_weight_decay": True}, {"weight_decay": 0.1}),
    ("adamax", {}, {}),
    ("adagrad", {"lr_decay": 0.1}, {}),
    ("adadelta", {"rho": 0.8}, {}),
    ("rmsprop", {"momentum": 0.5, "centered": True}, {}),
    ("rprop", {"etas": (0.4, 1.3)}, {}),
    ("asgd", {"t0": 1.0}, {}),
    ("adafactor", {"eps": (1e-30, 0.01), "d": 2.0}, {"weight_decay": 0.01}),
    ("muon", {"momentum": 0.8, "nesterov": False}, {"weight_decay": 0.1}),
]
SHAPES = {"muon": [(4, 3), (3, 3), (2, 5)]}


@pytest.mark.parametrize(("name", "params", "rates"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_make_optimizer__by_name__steps_as_torchs_own(name, params, rates):
    torch.manual_seed(0)
    shapes = SHAPES.get(name, [(4, 3), (3,), (2,)])
    ours = [torch.randn(shape) for shape in shapes]
    theirs = [tensor.clone().requires_grad_() for tensor in ours]
    training = replace(BASE, optimizer=OptimizerSettings(name, params), **rates)
    optimizer = make_optimizer(ours, training)
    decay = {} if name in NO_WEIGHT_DECAY else {"weight_decay": training.weight_decay}
    reference = getattr(torch.optim, optimizers._CLASSES[name])(
        theirs, lr=0.05, **params, **decay, **{k: v for k, v in rates.items() if k == "momentum"}
    )
    assert isinstance(optimizer, TorchOptimizer)
    for _ in range(4):
        gradients = [torch.randn(shapes[0]), torch.randn(shapes[1]), None]
        for tensor, gradient in zip(theirs, gradients, strict=True):
            tensor.grad = None if gradient is None else gradient.clone()
        reference.step()
        optimizer.step(gradients)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other.detach())


def test_optimizer_parameters__each_name__is_torchs_and_takes_what_is_listed():
    assert set(OPTIMIZER_PARAMETERS) == set(optimizers._CLASSES) == {case[0] for case in CASES}
    for name, takes in OPTIMIZER_PARAMETERS.items():
        known = inspect.signature(getattr(torch.optim, optimizers._CLASSES[name]).__init__).parameters
        assert takes <= set(known)
        assert ("weight_decay" in known) != (name in NO_WEIGHT_DECAY)


def test_optimizers__every_one_of_torchs__is_usable_or_refused_with_a_reason():
    kinds = [kind for kind in vars(torch.optim).values() if isinstance(kind, type)]
    named = {kind.__name__.lower() for kind in kinds if issubclass(kind, torch.optim.Optimizer)} - {"optimizer"}
    assert named == {*OPTIMIZER_PARAMETERS, *UNUSABLE_OPTIMIZERS}
    for name, why in UNUSABLE_OPTIMIZERS.items():
        with pytest.raises(TrainingError, match=re.escape(why)):
            replace(BASE, optimizer=OptimizerSettings(name))


def test_check_optimizer__muon_and_a_layer_with_a_bias__names_the_parameter():
    training = replace(BASE, optimizer=OptimizerSettings("muon"))
    check_optimizer(nn.Linear(3, 2, bias=False), training)
    with pytest.raises(TrainingError, match=r"muon takes matrices alone, but bias is \(2,\): freeze"):
        check_optimizer(nn.Linear(3, 2), training)


def test_make_optimizer__ones_own__steps_with_its_own_rates():
    ours, theirs = [torch.ones(3)], [torch.ones(3)]
    own = make_optimizer(ours, BASE, lambda parameters: torch.optim.Adam(parameters, lr=0.5))
    own.step([torch.ones(3)])
    make_optimizer(theirs, replace(BASE, learning_rate=0.5, optimizer=OptimizerSettings("adam"))).step([torch.ones(3)])
    assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (torch.optim.LBFGS, "whose step has a missing .*'closure'"),
        (lambda parameters: None, "gives None, no optimizer"),
        (lambda _: torch.optim.SGD(STRANGER.parameters(), lr=1.0), "other parameters than it is given"),
    ],
)
def test_check_optimizer__what_cannot_step__is_told(own, told):
    with pytest.raises(TrainingError, match=told):
        check_optimizer(nn.Linear(3, 2), BASE, own)


@pytest.mark.parametrize("algorithm", ["scaffold", "fednova"])
def test_check_optimizer__ones_own_under_what_counts_steps__is_refused(algorithm):
    with pytest.raises(TrainingError, match=f"{algorithm} needs the optimizer sgd .* of torch.optim.adam.Adam is"):
        check_optimizer(nn.Linear(3, 2), replace(BASE, algorithm=algorithm), partial(torch.optim.Adam, lr=0.1))


def test_check_optimizer__ones_own__leaves_the_module_and_meets_what_it_raises():
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    check_optimizer(module, BASE, lambda parameters: torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.5))
    assert torch.equal(module.weight, before)
    with pytest.raises(RuntimeError, match="dense gradients"):
        check_optimizer(module, BASE, torch.optim.SparseAdam)


def test_make_optimizer__sgd_without_parameters__is_the_built_in():
    assert isinstance(make_optimizer([torch.ones(2)], BASE), Sgd)
    assert isinstance(make_optimizer([torch.ones(2)], replace(BASE, optimizer=OptimizerSettings("sgd"))), Sgd)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("adam", {"betas": (0.9, 1.5)}),
        ("adam", {"betas": 0.9}),
        ("rmsprop", {"eps": (0.1, 0.2)}),
        ("sgd", {"nesterov": True}),
    ],
)
def test_make_optimizer__value_that_torch_refuses__is_a_training_error(name, params):
    with pytest.raises(TrainingError, match=name):
        make_optimizer([torch.ones(2)], replace(BASE, optimizer=OptimizerSettings(name, params)))


def test_effective_steps_of__nesterov__is_what_torchs_sgd_moves_under_a_constant_gradient():
    training = replace(BASE, steps=30, momentum=0.9, optimizer=OptimizerSettings("sgd", {"nesterov": True}))
    parameter = torch.zeros(1, dtype=torch.float64)
    optimizer = make_optimizer([parameter], training)
    for _ in range(training.steps):
        optimizer.step([torch.ones(1, dtype=torch.float64)])
    assert parameter.item() == pytest.approx(-0.05 * effective_steps_of(training, 30))
