"""Each server step in a whole experiment: skewed digits are learnt, and what is published has the task's form."""

from __future__ import annotations

import tomllib

import pytest

from chainfl.cli.task_file import task_file
from chainfl.simulation.simulate import simulate
from chainfl.simulation.strategy import Strategy

SKEWED = {
    "clients": 4,
    "rounds": 8,
    "partition": "dirichlet:0.5",
    "model_params": {"hidden": 32},
    "seed": 3,
    "steps": 10,
    "batch_size": 32,
    "learning_rate": 0.05,
    "progress": False,
}
LONG = {"steps": 30, "learning_rate": 0.003}
"""Of DiLoCo: many local steps, at a rate of AdamW's."""


@pytest.mark.parametrize(
    ("strategy", "local"),
    [
        (Strategy.named("fedavgm"), {}),
        (Strategy(server="nesterov"), {}),
        (Strategy.named("fedadagrad"), {}),
        (Strategy.named("fedadam"), {}),
        (Strategy.named("fedyogi", eta="1/20"), {}),
        (Strategy.named("diloco"), LONG),
    ],
    ids=["fedavgm", "nesterov", "fedadagrad", "fedadam", "fedyogi", "diloco"],
)
def test_simulate__skewed_digits__every_server_learns_them(strategy, local):
    found = simulate("mlp", "digits", strategy=strategy, **{**SKEWED, **local})
    assert found.accuracies[0] < 0.2
    assert found.accuracies[-1] > 0.8
    assert not [metrics for metrics in found.rounds if metrics.saturated]


def test_simulate__adaptive_and_fedavg__differ_from_the_first_round():
    roots = {
        simulate("mlp", "digits", strategy=name, **{**SKEWED, "rounds": 1}).root
        for name in ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
    }
    # With a state of zeros the first step with momentum is the plain one.
    assert len(roots) == 4


@pytest.mark.parametrize("name", ["fedavgm", "fedadagrad", "fedadam", "fedyogi", "diloco"])
def test_task_file__server_of_a_strategy__is_read_as_the_same_numbers(name):
    strategy = Strategy.named(name, server_rate="3/7", server_momentum="1/3")
    local = {**SKEWED, "rounds": 1, "steps": 1}
    found = simulate("mlp", "digits", strategy=strategy, **local)
    form, read = found.experiment.recipe.format, task_file(tomllib.loads(found.task_file(reward="50")), {}).format
    settings = read.settings()
    names = ("server", "step_num", "step_den", "momentum_num", "momentum_den", "second_num", "second_den", "tau")
    assert {name: settings[name] for name in names} == {name: getattr(form, name) for name in names}
