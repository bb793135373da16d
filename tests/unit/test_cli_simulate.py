"""`chainfl simulate`: a thin command over the function of the same name."""

from __future__ import annotations

import json
import tomllib

import pytest

from chainfl.cli.main import run
from chainfl.cli.task_file import task_file
from chainfl.simulation.experiment import DEFAULT_CLIENTS

TINY = ("simulate", "--clients", "2", "--rounds", "1", "--steps", "1", "--batch-size", "4")


def test_simulate__tiny__tells_each_round_and_leaves_files(tmp_path, capsys):
    assert run([*TINY, "--out", str(tmp_path / "run"), "--task-file", str(tmp_path / "task.toml")]) == 0
    told = capsys.readouterr().out
    assert "359 of 1797 examples" in told
    assert "2/2" in told
    assert (tmp_path / "run" / "report.json").exists()
    file = task_file(tomllib.loads((tmp_path / "task.toml").read_text()), {})
    assert (file.rounds, file.training.steps) == (1, 1)


def test_simulate__json__is_the_report(capsys):
    assert run([*TINY, "--partition", "skewed", "--strategy", "scaffold", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["configuration"]["partition"] == "skewed:0.8"
    assert report["configuration"]["training"]["algorithm"] == "scaffold"


def test_simulate__topk__sends_fewer_bytes_and_is_a_task_that_does(tmp_path, capsys):
    sizes = []
    for form in ((), ("--compression", "topk", "--keep", "0.01")):
        assert run([*TINY, *form, "--json", "--task-file", str(tmp_path / "task.toml")]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["last_round"]["bytes_up"])
    assert 20 * sizes[1] < sizes[0]
    file = task_file(tomllib.loads((tmp_path / "task.toml").read_text()), {})
    assert (file.payload.compression, file.payload.keep) == ("topk", "0.01")


@pytest.mark.parametrize(
    "change",
    [("--strategy", "fedmagic"), ("--partition", "by-taste"), ("--learning-rate", "x"), ("--compression", "topk")],
)
def test_simulate__impossible__ends_as_a_usage_error(change, capsys):
    assert run([*TINY, *change]) == 11
    if change[0] == "--compression":
        assert "keep is missing" in capsys.readouterr().err
        return
    assert "there are" in capsys.readouterr().err or change[0] == "--learning-rate"


def test_simulate__flags_of_a_strategy__are_its_settings(capsys):
    flags = ("--strategy", "FedProx", "--proximal-mu", "0.5", "--optimizer", "Adam", "--precision", "bfloat16")
    more = ("--accumulation", "2", "--server-rate", "1/2", "--validators", "1", "--contribution", "shapley")
    assert run([*TINY, *flags, *more, "--judging", "norm_bound", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["configuration"]
    training = told["training"]
    assert (training["proximal_mu"], training["optimizer"]["name"]) == ("0.5", "adam")
    assert (training["precision"], training["accumulation"]) == ("bfloat16", 2)
    assert (training["learning_rate"], training["momentum"]) == ("0.001", "0")
    assert (told["format"]["step_num"], told["format"]["step_den"]) == (1, 2)
    assert (told["validation"]["rule"], told["validation"]["contribution"]) == ("norm_bound", "shapley")


def test_simulate__clients__are_as_many_as_those_of_the_function(capsys):
    assert run(["simulate", "--help"]) == 0
    assert f"How many train. [default: {DEFAULT_CLIENTS}]" in " ".join(capsys.readouterr().out.split())


def test_simulate__flag_that_the_strategy_does_not_take__is_told(capsys):
    assert run([*TINY, "--alpha", "0.1"]) == 11
    assert "alpha is of feddyn" in capsys.readouterr().err
    assert run([*TINY, "--validators", "1", "--judging", "krum", "--num-malicious-clients", "1"]) == 11
    assert "krum against 1 needs 5 workers" in capsys.readouterr().err
