"""Strategies by name, and the parts of a task that they become."""

from __future__ import annotations

from fractions import Fraction

import pytest

from chainfl.errors import UsageError
from chainfl.simulation.strategy import STRATEGIES, Strategy
from chainfl.tasks.spec import PayloadEntry, TrainingEntry, ValidationEntry, default_format
from chainfl.tasks.state import Rule, ServerKind

LOCAL = {"steps": 3, "batch_size": 4, "learning_rate": 0.05}


def test_strategy__fedavg__is_the_defaults_of_a_task():
    strategy = Strategy.named("fedavg")
    assert strategy.format(100) == default_format(100)
    assert strategy.training(**LOCAL) == TrainingEntry(steps=3, batch_size=4, learning_rate="0.05")
    assert strategy.validation() == ValidationEntry()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("fedavgm", {"server": ServerKind.MOMENTUM, "momentum_num": 9, "momentum_den": 10, "step_den": 1}),
        ("fedadagrad", {"server": ServerKind.ADAGRAD, "momentum_num": 0, "momentum_den": 1, "tau": 16_777}),
        ("fedadagrad", {"step_num": 1, "step_den": 10, "second_den": 0}),
        ("fedadam", {"server": ServerKind.ADAM, "momentum_num": 9, "momentum_den": 10, "step_den": 10}),
        ("fedadam", {"second_num": 99, "second_den": 100, "tau": 16_777}),
        ("fedyogi", {"server": ServerKind.YOGI, "step_num": 1, "step_den": 100, "second_num": 99}),
        ("diloco", {"server": ServerKind.NESTEROV, "momentum_num": 9, "step_num": 7, "step_den": 10}),
        ("fedmedian", {"rule": Rule.MEDIAN, "momentum_den": 0}),
        ("fedtrimmedavg", {"rule": Rule.TRIMMED_MEAN, "trim_num": 1, "trim_den": 5}),
    ],
)
def test_strategy__named__has_the_integers_of_its_server(name, fields):
    form = Strategy.named(name).format(100)
    assert {field: getattr(form, field) for field in fields} == fields


def test_strategy__rates_as_floats_or_text__are_exact_fractions():
    strategy = Strategy.named("fedavgm", server_momentum=0.95, server_rate="1/3")
    assert (strategy.server_momentum, strategy.server_rate) == (Fraction(19, 20), Fraction(1, 3))
    assert (strategy.format(10).step_num, strategy.format(10).step_den) == (1, 3)


def test_strategy__a_momentum_alone__is_the_step_with_momentum():
    form = Strategy(server_momentum="1/2").format(10)
    assert (form.server, form.momentum_num, form.momentum_den) == (ServerKind.MOMENTUM, 1, 2)
    assert Strategy(server_momentum=0).format(10) == default_format(10)


def test_strategy__flowers_names__are_the_same_numbers():
    ours = Strategy.named("fedadam", server_rate="1/50", server_momentum=0.8, server_second=0.95, server_tau=1e-3)
    assert Strategy.named("fedadam", eta=0.02, beta_1=0.8, beta_2=0.95, tau=0.001) == ours
    assert Strategy.named("fedavgm", server_learning_rate=0.5) == Strategy.named("fedavgm", server_rate="1/2")


@pytest.mark.parametrize(
    ("tau", "bits", "units"),
    [("0.001", 20, 16_777), (1e-9, 20, 1), ("1/16777216", 20, 1), ("0.001", 14, 262), (1, 20, 1 << 24)],
)
def test_strategy__tau__is_the_nearest_unit_and_one_at_least(tau, bits, units):
    assert Strategy.named("fedyogi", server_tau=tau, model_scale_bits=bits).format(10).tau == units


def test_strategy__unknown_name__lists_what_there_is():
    with pytest.raises(UsageError, match=r"fedavg, .*fedmedian"):
        Strategy.named("fedmagic")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_strategy__every_name__makes_a_task(name):
    strategy = Strategy.named(name)
    assert strategy.training(**LOCAL).algorithm == strategy.algorithm
    assert strategy.format(50).num_params == 50
    assert Strategy.of(name) == Strategy.of(strategy) == strategy


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "mode"},
        {"server_rate": 0},
        {"server_momentum": -1},
        {"server_momentum": "2"},
        {"server": "sgd"},
        {"server": "plain", "server_momentum": "1/2"},
        {"server": "momentum", "server_tau": "0.001"},
        {"server": "adagrad", "server_second": "0.99"},
        {"server": "adam", "server_tau": 0},
        {"server": "adam", "server_tau": -1},
        {"server": "adam", "server_tau": 300},
        {"server": "adam", "server_second": "99999/100000"},
        {"server": "adam", "server_second": "1.5"},
        {"server": "yogi", "server_rate": 1_000_000},
        {"rule": "trimmed_mean", "trim": "1/2"},
        {"trim": "1/5"},
        {"clients_per_round": 0},
        {"clients_per_round": 2, "selection": "taste"},
        {"selection": "stake"},
        {"server_rate": "fast"},
        {"numbers": {"num_params": 3}},
        {"numbers": {"colour": 3}},
    ],
)
def test_strategy__impossible__is_a_usage_error(change):
    with pytest.raises(UsageError):
        Strategy(**change)


@pytest.mark.parametrize("parameters", [{"colour": 1}, {"steps": 7}])
def test_strategy__parameter_that_its_algorithm_lacks__is_a_usage_error(parameters):
    with pytest.raises(UsageError):
        Strategy(parameters=parameters).training(**LOCAL)


def test_strategy__parameters_as_numbers__become_the_entries_own_types():
    strategy = Strategy("fedprox", {"proximal_mu": 0.5, "accumulation": 2, "optimizer": {"name": "sgd"}})
    entry = strategy.training(**LOCAL, local_epochs=2)
    assert (entry.proximal_mu, entry.accumulation, entry.local_epochs) == ("0.5", 2, 2)


def test_strategy__compression__is_a_tasks_payload_entry():
    assert Strategy().payload() == PayloadEntry()
    assert Strategy.named("scaffold", compression="topk", keep=0.005).payload() == PayloadEntry(
        compression="topk", keep="0.005"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"compression": "zip"},
        {"compression": "topk"},
        {"compression": "topk", "keep": 0},
        {"compression": "topk", "keep": 2},
        {"compression": "topk", "keep": "few"},
        {"compression": "int8", "keep": 0.1},
    ],
)
def test_strategy__compression_that_no_task_has__is_a_usage_error(change):
    with pytest.raises(UsageError):
        Strategy(**change).payload()


def test_strategy__told__is_json_of_plain_values():
    told = Strategy.named("fedtrimmedavg", clients_per_round=3).to_json()
    assert told["trim"] == "1/5"
    assert told["clients_per_round"] == 3
    assert told["algorithm"] == "fedavg"
