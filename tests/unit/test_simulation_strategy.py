"""Strategies by name, and the parts of a task that they become."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
import torch

from chainfl.errors import UsageError
from chainfl.simulation.strategy import STRATEGIES, USUAL_RATES, Strategy, trained_by
from chainfl.tasks.spec import PayloadEntry, TrainingEntry, ValidationEntry, default_format
from chainfl.tasks.state import Rule, ServerKind
from chainfl.tasks.training_rules import OPTIMIZER_PARAMETERS

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


@pytest.mark.parametrize(
    ("rule", "strategy"), [("mean", "fedavg"), ("median", "fedmedian"), ("trimmed_mean", "fedtrimmedavg")]
)
def test_strategy__name_of_a_rule__is_told_the_strategy_with_it(rule, strategy):
    with pytest.raises(UsageError, match=f"'{rule}': that is a rule, and the strategy with it is {strategy};"):
        Strategy.named(rule)


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


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("FedAvg", "fedavg"),
        ("FedAvgM", "fedavgm"),
        ("FedTrimmedAvg", "fedtrimmedavg"),
        ("MultiKrum", "multi_krum"),
        ("multi-krum", "multi_krum"),
        ("Bulyan", "bulyan"),
        ("CenteredClipping", "centred_clipping"),
        ("GATE_CLIP", "gate_clip"),
    ],
)
def test_named__flowers_class_or_any_case__is_the_strategy(said, ours):
    assert Strategy.named(said) == Strategy.of(said) == STRATEGIES[ours]


@pytest.mark.parametrize(
    ("name", "said", "parameters"),
    [
        ("FedProx", {"proximal_mu": 0.5}, {"proximal_mu": 0.5}),
        ("feddyn", {"alpha": "0.2"}, {"alpha": "0.2"}),
        ("fedprox", {"precision": "bfloat16"}, {"proximal_mu": "0.01", "precision": "bfloat16"}),
        ("fedavg", {"accumulation": 4, "optimizer": "Adam"}, {"accumulation": 4, "optimizer": {"name": "adam"}}),
        ("fedavg", {"algorithm": "fedprox", "proximal_mu": 1}, {"proximal_mu": 1}),
    ],
)
def test_named__setting_of_training__is_a_parameter(name, said, parameters):
    strategy = Strategy.named(name, **said)
    assert strategy.parameters == parameters
    assert strategy.training(**LOCAL).algorithm == strategy.algorithm


@pytest.mark.parametrize(
    ("name", "said", "judging"),
    [
        ("krum", {"num_malicious_clients": 3}, {"rule": "krum", "num_malicious_clients": 3}),
        (
            "MultiKrum",
            {"num_malicious_nodes": 2, "num_nodes_to_select": 5},
            {"rule": "multi_krum", "num_malicious_clients": 2, "num_clients_to_keep": 5},
        ),
        ("rfa", {"smoothing": 0.1, "iterations": 4}, {"rule": "rfa", "smoothing": 0.1, "iterations": 4}),
        ("norm_bound", {"clipping_norm": 2}, {"rule": "norm_bound", "clipping_norm": 2}),
        (
            "rfa",
            {"before": "bucketing", "bucket_size": 2},
            {"rule": "rfa", "before": ["bucketing"], "bucket_size": 2},
        ),
        ("fedavg", {"judging": "krum"}, {"rule": "krum", "num_malicious_clients": 1}),
        ("fedavg", {"contribution": "gtg_shapley", "max_sweeps": 9}, {"contribution": "gtg_shapley", "max_sweeps": 9}),
    ],
)
def test_named__setting_of_validators__is_in_judging(name, said, judging):
    strategy = Strategy.named(name, **said)
    assert strategy.judging == judging
    assert strategy.validation().rule == judging.get("rule", "gate_clip")


def test_named__beta__is_the_share_trimmed_at_each_end():
    assert Strategy.named("FedTrimmedAvg", beta=0.25).trim == Fraction(1, 4)


def test_named__all_of_the_clients__is_everybody():
    assert Strategy.named("fedavg", fraction_fit=1.0) == Strategy.named("fedavg", fraction_train=1) == Strategy()


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        ("fedavg", {"colour": 1}, r"fedavg does not take colour; it takes accumulation, .*clients_per_round, .*eta"),
        ("fedavg", {"proximal_mu": 1}, "proximal_mu is of fedprox"),
        ("krum", {"num_clients_to_keep": 2}, "num_clients_to_keep is of multi_krum"),
        ("fedavg", {"num_malicious_clients": 2}, "is of krum, multi_krum, bulyan, nearest_neighbour_mixing"),
        ("fedavg", {"learning_rate": 0.1}, r"beside the strategy: simulate\(…, learning_rate=…\)"),
        ("fedavg", {"fraction_fit": 0.5}, "clients_per_round=5 for a half of 10"),
        ("FedAdam", {"eta_l": 0.1}, r"eta_l is simulate's learning_rate: simulate\(…, learning_rate=…\)"),
        ("FedAdagrad", {"eta_l": 0.1}, "eta_l is simulate's learning_rate"),
        ("FedYogi", {"eta": 0.1, "eta_l": 0.1}, "does not take eta_l; eta_l is simulate's learning_rate"),
        (
            "fedavg",
            {"min_fit_clients": 2, "min_available_clients": 2},
            "; min_fit_clients, min_available_clients: nobody is missing .*; leave it out, .*clients_per_round=5",
        ),
        ("fedavg", {"min_train_nodes": 2}, "min_train_nodes: nobody"),
        ("fedavg", {"min_available_nodes": 2}, "min_available_nodes: nobody"),
        ("fedavg", {"fraction_evaluate": 0.5, "min_evaluate_nodes": 1}, "min_evaluate_nodes: each round is measured"),
        ("fedavg", {"evaluate_metrics_aggregation_fn": max}, r"simulate\(…, callbacks="),
        ("fedavg", {"initial_parameters": None}, "initial_parameters is simulate's model"),
        ("fedavg", {"weighted_by_key": "num-examples"}, "updates count alike"),
        ("fedadam", {"eta": 0.1, "server_rate": 0.1}, "server_rate twice"),
        ("fedprox", {"proximal_mu": 1, "parameters": {"proximal_mu": 2}}, "said by itself and in parameters"),
        ("fedavg", {"parameters": "fast"}, "parameters is 'fast', not a mapping"),
        ("fedavg", {"clients_per_round": "5"}, "clients_per_round is '5', not a whole number"),
        ("fedavg", {"rule": 3}, "rule is 3, not a name"),
        ("krum", {"contribution": ["shapley"], "max_sweeps": 3}, "max_sweeps is of gtg_shapley"),
    ],
)
def test_named__what_it_does_not_take__is_told_with_what_it_does(name, said, told):
    with pytest.raises(UsageError, match=told):
        Strategy.named(name, **said)


def test_of__neither_a_name_nor_a_strategy__is_a_usage_error():
    with pytest.raises(UsageError, match=r"neither a chainfl\.Strategy nor one of fedavg"):
        Strategy.of(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "entry"),
    [
        ("AdamW", {"name": "adamw"}),
        (torch.optim.AdamW, {"name": "adamw"}),
        ({"name": "Adam", "params": {"eps": 0.1}}, {"name": "adam", "params": {"eps": 0.1}}),
        ((torch.optim.Adam, {"betas": (0.9, 0.99)}), {"name": "adam", "params": {"betas": (0.9, 0.99)}}),
    ],
)
def test_strategy__optimizer_in_any_form__is_the_tasks_entry(given, entry):
    strategy = Strategy(parameters={"optimizer": given})
    assert strategy.parameters["optimizer"] == entry
    assert strategy.training(**LOCAL).optimizer.name == strategy.optimizer == entry["name"]


class AdamW(torch.optim.SGD):
    """Of the user's own, by the name of one of torch's."""


@pytest.mark.parametrize("given", [AdamW, (AdamW, {"lr": 1}), lambda parameters: AdamW(parameters)])
def test_strategy__optimizer_of_ones_own__is_said_beside_it(given):
    with pytest.raises(UsageError, match=r"beside the strategy, as simulate\(…, optimizer=…\)"):
        Strategy(parameters={"optimizer": given})


def test_trained_by__a_named_one__is_the_strategys_in_place_of_what_its_name_brings():
    assert trained_by("fedprox", torch.optim.Adam) == (Strategy.named("fedprox", optimizer="adam"), None)
    assert trained_by("diloco", "sgd")[0].optimizer == "sgd"
    strategy, own = trained_by("diloco", AdamW)
    assert (strategy.parameters, strategy.server, own) == ({}, "nesterov", AdamW)
    with pytest.raises(UsageError, match="said in the strategy and beside it"):
        trained_by(Strategy.named("diloco"), "adam")


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.1e-2", "10e-4", ".001", "0.0010", "0.001"])
def test_training__decimal_text__has_one_form_in_the_specification(text):
    optimizer = ("adam", {"eps": text, "betas": (text, "9e-1")})
    entry = Strategy("fedprox", {"proximal_mu": text, "optimizer": optimizer}).training(
        steps=1, batch_size=1, learning_rate=text, momentum="0e0"
    )
    assert (entry.learning_rate, entry.proximal_mu, entry.momentum) == ("0.001", "0.001", "0")
    assert entry.optimizer.params == {"eps": "0.001", "betas": ["0.001", "0.9"]}


@pytest.mark.parametrize("text", ["1e-19", "1e10", "1e", "e3", "-1e-3", "1e-3x", "1e9999", "nan", "0." + "1" * 30])
def test_training__text_that_is_no_rate__is_refused_and_never_rounded(text):
    with pytest.raises(UsageError, match=r"learning_rate is .*, not a plain decimal"):
        Strategy().training(steps=1, batch_size=1, learning_rate=text)


@pytest.mark.parametrize("given", ["lion", 3, torch.optim.LBFGS, {"params": {}}, ("adam", 3)])
def test_strategy__optimizer_that_is_none__is_told(given):
    with pytest.raises(UsageError, match=r"^not|^optimizer is .*(none of sgd, adam|not a name such as 'adamw')"):
        Strategy(parameters={"optimizer": given})


@pytest.mark.parametrize("name", sorted(OPTIMIZER_PARAMETERS))
def test_usual_rates__every_optimizer__has_torchs_own_but_sgd(name):
    [kind] = [kind for kind in vars(torch.optim).values() if getattr(kind, "__name__", "").lower() == name]
    usual = kind([torch.nn.Parameter(torch.zeros(1, 1))]).defaults["lr"]
    strategy = Strategy(parameters={"optimizer": kind})
    assert float(strategy.usual_learning_rate) == float(USUAL_RATES[name]) == (0.05 if name == "sgd" else usual)


@pytest.mark.parametrize(
    ("parameters", "local", "told"),
    [
        ({}, {"learning_rate": "abc"}, "learning_rate is 'abc', not a plain decimal of 0 or more, such as 0.05"),
        ({}, {"learning_rate": float("nan")}, "learning_rate is nan, not a plain decimal"),
        ({}, {"learning_rate": Fraction(1, 3)}, r"learning_rate is Fraction\(1, 3\), not a plain decimal"),
        ({}, {"weight_decay": -0.1}, "weight_decay is -0.1, not a plain decimal"),
        ({}, {"steps": 0}, "steps is 0, not a whole number from 1 to 1,000,000"),
        ({}, {"local_epochs": 0.5}, "local_epochs is 0.5, not a whole number from 1 to 1,000,000"),
        ({"precision": "half"}, {}, "precision is 'half', not one of float32, bfloat16"),
        ({"colour": 1}, {}, "colour is no setting here; there are algorithm, steps"),
        ({"optimizer": ("adam", {"eps": "x"})}, {}, "optimizer's eps is 'x', not a plain decimal"),
        ({"optimizer": {"name": "adam", "eps": 1}}, {}, "optimizer is .*, not a name and its params"),
        ({"optimizer": {"name": "adam", "params": 1}}, {}, "optimizer is .*, not a name and its params"),
    ],
)
def test_training__value_that_no_task_can_have__is_told_in_our_words(parameters, local, told):
    with pytest.raises(UsageError, match=told) as caught:
        Strategy(parameters=parameters).training(**{**LOCAL, **local})
    assert not re.search("String should|Input should|valid dictionary|Extra inputs", str(caught.value))


@pytest.mark.parametrize(
    ("judging", "told"),
    [
        ({"rule": "vote"}, "rule is 'vote', not one of gate_clip, root_fit"),
        ({"before": ["mix"]}, r"before is \['mix'\], not a list of one of bucketing"),
        ({"root_set_cid": "x"}, "root_set_cid is 'x', not text of the form"),
        ({"num_malicious_clients": -1}, "num_malicious_clients is -1, not a whole number from 0 to 1,024"),
    ],
)
def test_validation__value_that_no_task_can_have__is_told_in_our_words(judging, told):
    with pytest.raises(UsageError, match=told):
        Strategy(judging=judging).validation()


def test_training__epochs_and_decay_in_the_strategy__hold_unless_said_beside_it_too():
    strategy = Strategy.named("fedavg", local_epochs=2, weight_decay=0.01)
    entry = strategy.training(**LOCAL, local_epochs=None, weight_decay=0)
    assert (entry.local_epochs, entry.weight_decay) == (2, "0.01")
    with pytest.raises(UsageError, match="local_epochs: said in the strategy and beside it"):
        strategy.training(**LOCAL, local_epochs=3)
