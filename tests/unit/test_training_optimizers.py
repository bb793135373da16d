"""Optimisers by name: each does what torch's own does, and none takes what it does not know."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from chainfl.errors import TrainingError
from chainfl.tasks.training_rules import NO_WEIGHT_DECAY, OPTIMIZER_PARAMETERS
from chainfl.training import optimizers
from chainfl.training.optimizers import TorchOptimizer, effective_steps_of, make_optimizer
from chainfl.training.settings import LocalTraining, OptimizerSettings
from chainfl.training.sgd import Sgd

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
]


@pytest.mark.parametrize(("name", "params", "rates"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_make_optimizer__by_name__steps_as_torchs_own(name, params, rates):
    torch.manual_seed(0)
    ours = [torch.randn(4, 3), torch.randn(3), torch.randn(2)]
    theirs = [tensor.clone().requires_grad_() for tensor in ours]
    training = replace(BASE, optimizer=OptimizerSettings(name, params), **rates)
    optimizer = make_optimizer(ours, training)
    decay = {} if name in NO_WEIGHT_DECAY else {"weight_decay": training.weight_decay}
    reference = getattr(torch.optim, optimizers._CLASSES[name])(
        theirs, lr=0.05, **params, **decay, **{k: v for k, v in rates.items() if k == "momentum"}
    )
    assert isinstance(optimizer, TorchOptimizer)
    for _ in range(4):
        gradients = [torch.randn(4, 3), torch.randn(3), None]
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
