"""Tasks: composed from preset, file and flags; shown with what they earn; cancelled."""

from __future__ import annotations

import json
import tomllib
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_fakes import ME, NOW, ROUND_VIEW, TASK_VIEW, Shell, shell_with_chain
from data_sets import published
from fake_chain import MemoryStore, account_of

from chainfl.agents.requester import ProgramFile
from chainfl.chain.events import Event, Log
from chainfl.cli.output import Money
from chainfl.cli.task_file import bounds_of, draft_of, fraction_of, read_toml, seconds_of, task_file
from chainfl.data.fetching import fetch_description
from chainfl.encoding.chunk_tree import zero_state_root
from chainfl.errors import BlobNotFound, InvalidCid, SpecificationError, UsageError
from chainfl.storage.cid import digest_of
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.spec import DEFAULT_ECONOMICS, LOCAL_WINDOWS, TOKEN, ValidationEntry, parse
from chainfl.tasks.state import Bounds, Draw, DrawBy, Phase, Rule, ServerKind
from chainfl.training.datasets import Dataset

MINIMAL = """
preset = "digits"
reward = "10"
rounds = 3
[training]
steps = 7
"""


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


def draft(document: dict, **flags: object):
    return draft_of(task_file(document, flags), now=NOW, windows=LOCAL_WINDOWS, money=Money())


def test_task_file__preset_file_and_flags__the_later_wins(tmp_path):
    (tmp_path / "task.toml").write_text(MINIMAL)
    made = draft(read_toml(tmp_path / "task.toml"), rounds=5, workers="3-4")
    assert (made.rounds, made.steps, made.batch_size) == (5, 7, 64)
    assert made.workers == Bounds(3, 4)
    assert made.learning_rate == "0.05"
    assert made.reward == 10 * TOKEN
    assert made.enrolment_end == NOW + 3_600


def test_task_file__windows_and_economics__change_only_what_they_name():
    made = draft(
        {
            "preset": "digits",
            "reward": "1",
            "windows": {"commit": 99},
            "economics": {"worker_stake": "7.5", "base_bps": 0},
        }
    )
    assert made.windows == replace(LOCAL_WINDOWS, commit=99)
    assert made.economics == replace(DEFAULT_ECONOMICS, worker_stake=75 * TOKEN // 10, base_bps=0)


def test_task_file__rule_trim_momentum_and_groups__reach_the_draft():
    form = {"rule": "trimmed_mean", "trim_num": 1, "trim_den": 5, "momentum_num": 9, "momentum_den": 10}
    made = draft({"preset": "digits", "reward": "1", "format": {**form, "group_size": 32}})
    assert (made.rule, made.trim_num, made.trim_den) == (Rule.TRIMMED_MEAN, 1, 5)
    assert (made.momentum_num, made.momentum_den, made.group_size, made.momentum) == (9, 10, 32, "0.9")


def test_task_file__validation__reaches_the_draft_with_its_rates_as_text():
    made = draft(
        {
            "preset": "digits",
            "reward": "1",
            "validation": {"rule": "rfa", "smoothing": 0.001, "iterations": 3, "gate_cosine": 0},
        }
    )
    assert made.validation == ValidationEntry(rule="rfa", smoothing="0.001", iterations=3)


@pytest.mark.parametrize(
    ("validation", "told"),
    [({"rule": "best"}, "validation.rule"), ({"f": 3}, "validation.f"), ({"iterations": "3"}, "validation.iterations")],
)
def test_task_file__validation_that_is_none__is_named(validation, told):
    with pytest.raises(SpecificationError, match=told):
        draft({"preset": "digits", "reward": "1", "validation": validation})


def test_task_file__no_word_of_a_rule__is_the_plain_mean():
    made = draft({"preset": "digits", "reward": "1"})
    assert (made.rule, made.trim_den, made.momentum_den, made.group_size) == (Rule.MEAN, 0, 0, 64)


def test_task_file__momentum_alone__is_the_server_with_momentum():
    for form in ({"momentum_num": 9, "momentum_den": 10}, {"momentum": "9/10"}, {"momentum": 0.9}):
        made = draft({"preset": "digits", "reward": "1", "format": form})
        assert (made.server, made.momentum_num, made.momentum_den) == (ServerKind.MOMENTUM, 9, 10)


def test_task_file__a_server_by_name__has_what_is_usual():
    made = draft({"preset": "digits", "reward": "1", "format": {"server": "adam"}})
    assert (made.server, made.step_num, made.step_den) == (ServerKind.ADAM, 1, 10)
    assert (made.momentum_num, made.momentum_den, made.second_num, made.second_den) == (9, 10, 99, 100)
    assert made.tau == 16_777


def test_task_file__a_server_with_its_numbers__has_exactly_those():
    form = {
        "server": "yogi",
        "step_den": 50,
        "momentum": "4/5",
        "second": 0.95,
        "tau": "1/1024",
        "model_scale_bits": 14,
    }
    made = draft({"preset": "digits", "reward": "1", "format": form})
    assert (made.server, made.step_num, made.step_den, made.tau) == (ServerKind.YOGI, 1, 50, 1 << 8)
    assert (made.momentum_num, made.momentum_den, made.second_num, made.second_den) == (4, 5, 19, 20)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"momentum": "nine tenths"}, "format.momentum is 'nine tenths', not a fraction such as 9/10"),
        ({"momentum": "9/10", "momentum_num": 9, "momentum_den": 10}, "twice"),
        ({"momentum_num": 9}, "momentum_den is at least 1"),
        ({"server": "adam", "tau": "small"}, "format.tau"),
    ],
)
def test_task_file__numbers_of_a_server_that_are_none__say_what_would_be(form, told):
    with pytest.raises(UsageError, match=told):
        draft({"preset": "digits", "reward": "1", "format": form})


def test_task_file__a_server_that_there_is_not__lists_those_that_are():
    with pytest.raises(SpecificationError, match=r"format.server.*yogi"):
        draft({"preset": "digits", "reward": "1", "format": {"server": "sgd"}})


@pytest.mark.parametrize(("text", "expected"), [("9/10", (9, 10)), ("0", (0, 0)), (" 1/5 ", (1, 5))])
def test_fraction_of__each_spelling__is_two_integers(text, expected):
    assert fraction_of(text) == expected


@pytest.mark.parametrize("text", ["0.9", "1/0", "-1/5", "", "1/", "9"])
def test_fraction_of__anything_else__is_refused(text):
    with pytest.raises(UsageError, match="fraction"):
        fraction_of(text)


def test_create__rule_and_momentum__are_shown_and_published(shell):
    shell.use(free=10 * TOKEN)
    flags = ("--preset", "digits", "--reward", "10", "--rule", "median", "--momentum", "9/10")
    assert shell("task", "create", *flags, "--dry-run") == 0
    assert "median" in shell.err
    assert "server momentum 9/10" in shell.err
    assert shell("task", "create", *flags, "--yes", "--json") == 0
    document = json.loads(shell.out)
    spec = parse(shell.store.blobs[document["spec_cid"]], bytes.fromhex(document["spec_hash"][2:]))
    assert (spec.format.rule, spec.format.momentum_num, spec.format.momentum_den) == (Rule.MEDIAN, 9, 10)
    assert spec.genesis.state_root == zero_state_root(spec.format).hex()


def test_create__server_and_its_numbers__are_shown_and_published(shell):
    shell.use(free=10 * TOKEN)
    flags = ("--preset", "digits", "--reward", "10", "--server", "adam", "--server-rate", "0.02", "--second", "0.95")
    assert shell("task", "create", *flags, "--momentum", "4/5", "--tau", "0.01", "--dry-run") == 0
    assert "server adam, rate 1/50, momentum 4/5, second moment 19/20, tau 0.01" in " ".join(shell.err.split())
    assert shell("task", "create", *flags, "--yes", "--json") == 0
    document = json.loads(shell.out)
    form = parse(shell.store.blobs[document["spec_cid"]], bytes.fromhex(document["spec_hash"][2:])).format
    assert (form.server, form.step_num, form.step_den, form.second_num) == (ServerKind.ADAM, 1, 50, 19)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--server", "plain", "--momentum", "1/2"), "choose the server momentum"),
        (("--server", "nesterov", "--tau", "0.1"), "tau is of the servers adagrad, adam and yogi"),
        (("--server", "adam", "--tau", "0"), "tau is 0"),
        (("--server", "adam", "--second", "99999/100000"), "denominator above 16,384"),
    ],
)
def test_create__numbers_that_do_not_go_together__are_refused_before_anything_is_sent(shell, flags, told):
    shell.use(free=10 * TOKEN)
    assert shell("task", "create", "--preset", "digits", "--reward", "10", *flags, "--yes") != 0
    assert told in " ".join(shell.err.split())


def test_create__a_flag_over_a_files_momentum__wins(shell, tmp_path):
    shell.use(free=10 * TOKEN)
    file = tmp_path / "task.toml"
    file.write_text('preset = "digits"\nreward = "1"\n[format]\nmomentum_num = 1\nmomentum_den = 3\n')
    assert shell("task", "create", "--file", str(file), "--momentum", "9/10", "--dry-run") == 0
    assert "server momentum 9/10" in " ".join(shell.err.split())


def test_show__rule_windows_and_disputes__are_told(shell):
    assert shell("task", "show", "1") == 0
    for word in ("mean; groups of 64", "answer 5", "a round lasts", "whatever is disputed", "50 CFL to challenge"):
        assert word in shell.out


def test_template__as_it_is__says_what_the_preset_and_the_defaults_say(shell):
    assert shell("task", "template") == 0
    named = {"name": "x", "reward": "1000", "workers": "3-5", "validators": "1-3", "aggregators": "1-2"}
    written = replace(draft(tomllib.loads(shell.out)), name="x")
    plain = draft({"preset": "digits", **named})
    assert replace(written, dataset=plain.dataset) == plain


def test_task_file__another_model__keeps_none_of_the_presets_parameters():
    made = draft({"preset": "digits", "reward": "1", "model": {"name": "mlp", "params": {"hidden": 8}}})
    assert dict(made.model_params) == {"hidden": 8}


def test_task_file__training__numbers_become_the_specifications_text():
    training = {
        "algorithm": "fedprox",
        "proximal_mu": 0.01,
        "momentum": 0,
        "local_epochs": 2,
        "optimizer": {"name": "adam", "params": {"betas": [0.9, 0.99], "eps": 1e-8, "amsgrad": True}},
        "accumulation": 4,
        "precision": "bfloat16",
    }
    made = draft({"preset": "digits", "reward": "1", "training": training})
    assert (made.algorithm, made.proximal_mu, made.alpha, made.momentum) == ("fedprox", "0.01", None, "0")
    assert made.optimizer == {
        "name": "adam",
        "params": {"betas": ["0.9", "0.99"], "eps": "0.00000001", "amsgrad": True},
    }
    assert (made.local_epochs, made.accumulation, made.precision) == (2, 4, "bfloat16")


def test_task_file__scientific_notation__has_the_specifications_one_form():
    rates = {"learning_rate": "5e-2", "momentum": "9E-1", "weight_decay": "1e-4", "proximal_mu": "1.0e-2"}
    training = {**rates, "algorithm": "fedprox", "optimizer": {"name": "sgd", "params": {"dampening": "1e-1"}}}
    judging = {"gate_cosine": "1e-1", "rule": "gate_clip"}
    document = {"preset": "digits", "reward": "1", "training": training, "validation": judging}
    made = draft({**document, "payload": {"compression": "topk", "keep": "1e-2"}, "format": {"momentum": "9e-1"}})
    assert (made.learning_rate, made.momentum, made.weight_decay, made.proximal_mu) == ("0.05", "0.9", "0.0001", "0.01")
    assert made.optimizer == {"name": "sgd", "params": {"dampening": "0.1"}}
    assert (made.validation.gate_cosine, made.payload.keep, made.momentum_num) == ("0.1", "0.01", 9)
    with pytest.raises(SpecificationError, match="learning_rate"):
        draft({"preset": "digits", "reward": "1", "training": {"learning_rate": "1e-30"}})


def test_create__training__is_told_in_full(shell, tmp_path):
    shell.use(free=10 * TOKEN)
    text = MINIMAL + 'algorithm = "feddyn"\nalpha = 0.01\nmomentum = 0\nlocal_epochs = 2\nprecision = "bfloat16"\n'
    text += 'optimizer = { name = "adam", params = { betas = [0.9, 0.99], amsgrad = true } }\n'
    (tmp_path / "task.toml").write_text(text)
    assert shell("task", "create", "--file", str(tmp_path / "task.toml"), "--dry-run") == 0
    told = " ".join(shell.err.split())
    for word in (
        "feddyn (alpha 0.01), 7 steps of 64",
        "at most 2 passes",
        "adam betas 0.9/0.99 amsgrad true, bfloat16",
    ):
        assert word in told


def test_create__training_that_does_not_go_together__is_told_before_anything_is_sent(shell, tmp_path):
    text = MINIMAL + 'algorithm = "scaffold"\nmomentum = "0"\noptimizer = { name = "adam" }\n'
    (tmp_path / "task.toml").write_text(text)
    assert shell("task", "create", "--file", str(tmp_path / "task.toml"), "--yes") == 40
    assert "scaffold needs the optimizer sgd" in shell.err


def test_task_file__program__keeps_the_presets_data_and_training():
    made = draft({"preset": "digits", "reward": "1", "program": "model.pt2"})
    assert made.model == ProgramFile(Path("model.pt2"))
    assert (made.steps, made.dataset.input_shape, dict(made.model_params)) == (40, [1, 8, 8], {})


def test_task_file__program_named_in_a_file__lies_beside_it(tmp_path):
    document = {"preset": "digits", "reward": "1", "program": "model.pt2"}
    assert task_file(document, {}, tmp_path).program == tmp_path / "model.pt2"
    assert task_file(document, {"program": Path("other.pt2")}, tmp_path).program == Path("other.pt2")


@pytest.mark.parametrize(
    ("document", "flags", "told"),
    [
        ({"program": "m.pt2", "model": {"name": "cnn"}}, {}, "model and program contradict"),
        ({"model": {"name": "cnn"}}, {"program": Path("m.pt2")}, "model and program contradict"),
        ({"program": "m.pt2"}, {"model": {"seed": 1}}, "seed and a program contradict"),
        ({}, {}, "model is missing"),
    ],
)
def test_task_file__not_exactly_one_model__is_told_with_all_else(document, flags, told):
    with pytest.raises(SpecificationError) as caught:
        task_file({**document, "colour": 1, "rounds": "many"}, flags)
    for word in (told, "colour", "rounds", "reward is missing", "dataset is missing"):
        assert word in str(caught.value)


def test_task_file__many_problems__are_all_told():
    with pytest.raises(SpecificationError) as caught:
        task_file({"name": "x", "rounds": "many", "colour": 1, "training": {"steps": 1}}, {})
    told = str(caught.value)
    for word in ("rounds", "colour", "reward is missing", "dataset is missing", "training.batch_size is missing"):
        assert word in told


@pytest.mark.parametrize(
    "changes",
    [
        {"economics": {"colour": 1}},
        {"economics": {"base_bps": "30%"}},
        {"windows": {"tea": 1}},
        {"training": {"momentum": "x"}},
        {"dataset": {"input_shape": [0]}},
        {"dataset": {"num_classes": "ten"}},
        {"model": {"seed": -1}},
        {"program": 5},
    ],
)
def test_task_file__wrong_table__is_a_problem(changes):
    with pytest.raises(SpecificationError):
        draft({"preset": "digits", "reward": "1", **changes})


@pytest.mark.parametrize("content", [b"not = = toml", b"\xff\xfe"])
def test_read_toml__something_else__is_told(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(SpecificationError):
        read_toml(tmp_path / "t")


def test_task_file__no_such_preset__names_those_there_are():
    with pytest.raises(UsageError, match="digits"):
        task_file({}, {"preset": "imagenet"})


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10min", 600), ("2h", 7_200), ("1d", 86_400)])
def test_seconds__a_length_of_time__is_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1.5h", "1 week", "٣"])
def test_seconds__anything_else__is_refused(text):
    with pytest.raises(UsageError):
        seconds_of(text)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1-2-3"])
def test_bounds__no_numbers__are_refused(text):
    with pytest.raises(UsageError):
        bounds_of(text)


def test_create__dry_run__publishes_and_sends_nothing(shell):
    shell.use(free=10 * TOKEN)
    assert shell("task", "create", "--preset", "digits", "--reward", "10", "--dry-run") == 0
    assert shell.operator.sent == []
    assert shell.store.blobs == {}
    assert "stake of a worker" in shell.err


def test_create__enough_stake__publishes_genesis_and_specification_then_sends(shell):
    shell.use(free=10 * TOKEN)
    assert shell("task", "create", "--preset", "digits", "--reward", "10", "--yes", "--json") == 0
    assert shell.operator.sent == ["create"]
    document = json.loads(shell.out)
    spec = parse(shell.store.blobs[document["spec_cid"]], bytes.fromhex(document["spec_hash"][2:]))
    assert {spec.genesis.cid, spec.genesis.float_cid, document["spec_cid"]} == set(shell.store.blobs)


def test_create__stake_is_missing__deposits_it_first(shell):
    shell.use(free=4 * TOKEN, wallet=6 * TOKEN)
    assert shell("task", "create", "--preset", "digits", "--reward", "10", "--yes") == 0
    assert shell.operator.sent == [f"deposit {6 * TOKEN}", "create"]


def test_create__tokens_are_missing__sends_nothing(shell):
    shell.use(free=4 * TOKEN, wallet=5 * TOKEN)
    assert shell("task", "create", "--preset", "digits", "--reward", "10", "--yes") == 26
    assert shell.operator.sent == []
    assert shell.store.blobs == {}


def test_create__without_terminal_and_yes__publishes_nothing(shell):
    shell.use(free=10 * TOKEN)
    assert shell("task", "create", "--preset", "digits", "--reward", "10") == 11
    assert shell.store.blobs == {}


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ([], 40),
        (["--preset", "digits"], 40),
        (["--preset", "digits", "--reward", "x"], 11),
        (["--preset", "digits", "--reward", "1", "--workers", "5-2"], 40),
        (["--preset", "digits", "--reward", "1", "--rounds", "0"], 40),
        (["--preset", "digits", "--reward", "1", "--validator", "0x12"], 2),
        (["--preset", "digits", "--reward", "1", "--parent", "12"], 2),
        (["--preset", "digits", "--reward", "1", "--enrolment", "soon"], 11),
    ],
)
def test_create__a_wrong_task__has_an_exit_code(shell, flags, code):
    assert shell("task", "create", *flags, "--yes") == code
    assert shell.operator.sent == []


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    module = torch.nn.Sequential(OrderedDict(layers=layers))
    batch = torch.export.Dim("batch")
    exported = torch.export.export(module, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, path)
    return path


def test_create__program__publishes_it_with_the_rest(shell, program):
    shell.use(free=10 * TOKEN)
    flags = ("--preset", "digits", "--program", str(program), "--reward", "10")
    assert shell("task", "create", *flags, "--yes", "--json") == 0
    document = json.loads(shell.out)
    spec = parse(shell.store.blobs[document["spec_cid"]], bytes.fromhex(document["spec_hash"][2:]))
    assert shell.store.blobs[spec.model.cid] == program.read_bytes()
    assert set(shell.store.blobs) == {spec.model.cid, spec.genesis.cid, spec.genesis.float_cid, document["spec_cid"]}


def test_create__program__is_shown_before_anything_is_sent(shell, program):
    shell.use(free=10 * TOKEN)
    flags = ("--preset", "digits", "--program", str(program), "--reward", "10")
    assert shell("task", "create", *flags, "--dry-run") == 0
    assert "program bafk" in shell.err
    assert (shell.operator.sent, shell.store.blobs) == ([], {})


def test_create__batch_norm_under_server_momentum__is_warned_of_before_anything_is_sent(shell, tmp_path):
    shell.use(free=10 * TOKEN)
    layers = torch.nn.Sequential(
        OrderedDict(flat=torch.nn.Flatten(), head=torch.nn.Linear(64, 10), norm=torch.nn.BatchNorm1d(10))
    )
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(layers, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(exported, tmp_path / "model.pt2")
    flags = ("--preset", "digits", "--program", str(tmp_path / "model.pt2"), "--reward", "10", "--dry-run")
    assert shell("task", "create", *flags, "--momentum", "9/10") == 0
    assert "warning: running_statistics: norm.running_mean, norm.running_var go through the" in shell.err
    assert "take GroupNorm or LayerNorm" in shell.err
    assert shell("task", "create", *flags) == 0
    assert "running_statistics" not in shell.err


def test_create__program_that_cannot_be_used__says_how_to_make_one(shell, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"junk")
    (tmp_path / "task.toml").write_text(MINIMAL.replace("rounds", 'program = "model.pt2"\nrounds'))
    assert shell("task", "create", "--file", "task.toml", "--yes") == 75
    assert "model.pt2 is not a torch.export archive" in shell.err
    assert "task create --help" in shell.err
    shell("task", "create", "--help")
    assert "torch.export.save(program" in shell.out


def test_create__program_and_seed__contradict_one_another(shell, program):
    flags = ("--preset", "digits", "--program", str(program), "--reward", "10", "--seed", "1")
    assert shell("task", "create", *flags, "--yes") == 40
    assert "contradict" in shell.err


def test_list__one_task__is_a_row(shell):
    assert shell("task", "list") == 0
    assert "enrolment" in shell.out
    assert "3/5" in shell.out


def test_list__open__leaves_out_what_cannot_be_joined(shell):
    shell.use(task_view=replace(TASK_VIEW, enrolment_end=NOW))
    shell("task", "list", "--open", "--json")
    assert json.loads(shell.out) == []


def test_show__a_task__estimates_what_a_round_earns(shell):
    assert shell("task", "show", "1") == 0
    # 1,000 tokens over 10 rounds: 70% over 3 workers, 20% for 1 validator, 10% for the aggregator.
    assert "23.333333333333333333 CFL (with 3 of them)" in shell.out
    assert "20 CFL (with 1)" in shell.out
    assert "signal" in shell.err
    assert "in 10 min at the latest" in shell.out


def test_show__nobody_enrolled__estimates_with_the_minimum(shell):
    shell.use(round_view=replace(ROUND_VIEW, num_workers=0, num_validators=0))
    shell("task", "show", "1", "--json")
    estimate = json.loads(shell.out)["estimate_wei"]
    assert (estimate["with_workers"], estimate["worker"]) == (2, 35 * TOKEN)


def test_show__specification_is_not_there__shows_the_rest(shell):
    assert shell("task", "show", "1", "--members") == 0
    assert "cannot be shown" in shell.out
    assert ME in shell.out


def test_show__specification_is_another__says_so(shell):
    cid = shell.store.put_bytes(b"{}")
    shell.use(task_view=replace(TASK_VIEW, spec_hash=digest_of(cid)))
    assert shell("task", "show", "1", "--json") == 0
    assert "malformed" in json.loads(shell.out)["specification_problem"]


@pytest.mark.parametrize(("text", "code"), [("2", 11), ("x", 2), ("0", 2), ("-1", 2)])
def test_show__no_such_task__is_told(shell, text, code):
    assert shell("task", "show", "--", text) == code


def test_cancel__ones_own__shows_what_comes_back(shell):
    assert shell("task", "cancel", "1", "--yes") == 0
    assert shell.operator.sent == ["cancel 1"]
    assert "to claim: 0 CFL → 1,000 CFL" in shell.err
    assert "rewards claim" in shell.err


def test_cancel__anothers__promises_nothing(shell):
    shell.use(task_view=replace(TASK_VIEW, requester=account_of(5)))
    shell("task", "cancel", "1", "--yes")
    assert "rewards claim" not in shell.err


class Follower:
    def __init__(self, polls):
        self.polls = iter(polls)

    def poll(self):
        return next(self.polls)


def test_watch__events__are_told_until_the_end(shell, monkeypatch):
    log = Log(ME, (), b"", 7, bytes(32), "0xab", 0)
    refund = Event("TaskCancelled", "TaskCoordinator", {"task_id": 1, "refund": TOKEN}, log)
    operator = shell.use(round_view=replace(ROUND_VIEW, phase=Phase.CANCELLED))
    operator.follow_task = lambda task_id, start: Follower([((refund,), (refund,))])  # type: ignore[attr-defined]
    assert shell("task", "watch", "1") == 0
    assert shell.out.splitlines() == [
        "         7  taken back by a reorganisation: cancelled; 1 CFL refunded",
        "         7  cancelled; 1 CFL refunded",
    ]
    operator.follow_task = lambda task_id, start: Follower([((refund,), ())])  # type: ignore[attr-defined]
    assert shell("task", "watch", "1", "--json") == 0
    assert json.loads(shell.out)["event"] == "TaskCancelled"


# --- published data sets -------------------------------------------------------------------------


def small_set(store) -> str:
    """A published set whose examples are those of the digits."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    cid, _ = published(store, Dataset("tiny", images, rng.integers(0, 10, 20), 10, 1 / 255), shards=2)
    return cid


def test_create__dataset_cid_and_compression__stand_in_the_specification(shell):
    shell.use(free=10 * TOKEN)
    cid = small_set(shell.store)
    flags = ("--preset", "digits", "--reward", "10", "--dataset-cid", cid, "--compression", "deflate")
    assert shell("task", "create", *flags, "--yes", "--json") == 0
    document = json.loads(shell.out)
    spec = parse(shell.store.blobs[document["spec_cid"]], bytes.fromhex(document["spec_hash"][2:]))
    assert (spec.dataset.name, spec.dataset.description_cid, spec.payload.compression) == ("tiny", cid, "deflate")
    assert "--shard auto" in shell.err


def test_create__topk__stands_in_the_specification(shell):
    shell.use(free=10 * TOKEN)
    flags = ("--preset", "digits", "--reward", "10", "--compression", "topk", "--keep", "0.01")
    assert shell("task", "create", *flags, "--yes", "--json") == 0
    document = json.loads(shell.out)
    spec = parse(shell.store.blobs[document["spec_cid"]], bytes.fromhex(document["spec_hash"][2:]))
    assert (spec.payload.compression, spec.payload.keep) == ("topk", "0.01")


def test_create__topk_without_a_share__is_refused_before_anything_is_sent(shell):
    shell.use(free=10 * TOKEN)
    flags = ("--preset", "digits", "--reward", "10", "--compression", "topk", "--yes")
    assert shell("task", "create", *flags) != 0
    assert "payload.keep is missing" in shell.err


def test_task_file__share_as_a_number__is_taken():
    document = {"preset": "digits", "reward": "1", "payload": {"compression": "topk", "keep": 0.01}}
    assert task_file(document, {}, Path()).payload.keep == "0.01"


def test_task_file__described_set__stands_above_the_preset_and_below_the_file():
    store = MemoryStore()
    cid = small_set(store)
    describe = partial(fetch_description, store)
    made = task_file(
        {"preset": "digits", "reward": "1", "dataset": {"description_cid": cid, "name": "mine"}}, {}, Path(), describe
    )
    assert (made.dataset.name, made.dataset.licence) == ("mine", "CC0-1.0")
    assert (made.dataset.input_shape, made.dataset.num_classes) == ([1, 8, 8], 10)
    assert made.dataset.description_cid == cid


@pytest.mark.parametrize("wrong", [{"input_shape": [1, 28, 28]}, {"num_classes": 9}])
def test_task_file__says_otherwise_than_the_described_set__refused(wrong):
    store = MemoryStore()
    document = {"preset": "digits", "reward": "1", "dataset": {"description_cid": small_set(store), **wrong}}
    with pytest.raises(SpecificationError, match="published data set says"):
        task_file(document, {}, Path(), partial(fetch_description, store))


def test_task_file__described_set_that_nobody_serves__told():
    with pytest.raises(BlobNotFound):
        task_file(
            {"preset": "digits", "reward": "1", "dataset": {"description_cid": str(cid_of(b"x"))}},
            {},
            Path(),
            partial(fetch_description, MemoryStore()),
        )


def test_task_file__no_cid__refused():
    with pytest.raises(InvalidCid):
        task_file(
            {"preset": "digits", "dataset": {"description_cid": "Qm"}}, {}, Path(), partial(fetch_description, None)
        )


def test_create__described_set_that_does_not_fit_the_model__refused(shell):
    cid, _ = published(shell.store)
    flags = ("--preset", "digits", "--reward", "10", "--dataset-cid", cid)
    assert shell("task", "create", *flags, "--yes") == 40
    assert "1×3×2" in shell.err


# --- draws ---------------------------------------------------------------------------------------


def test_task_file__participants__reach_the_draft():
    base = {"preset": "digits", "reward": "1"}
    assert draft(base).draw == Draw()
    assert draft(base | {"participants": {"clients_per_round": 5}}).draw == Draw(5)
    table = {"clients_per_round": 5, "selection": "reputation"}
    assert draft(base | {"participants": table}).draw == Draw(5, DrawBy.REPUTATION)


@pytest.mark.parametrize("table", [{"clients_per_round": 0}, {"selection": "taste"}, {"clients": 3}])
def test_task_file__wrong_participants__are_told(table):
    with pytest.raises(SpecificationError, match="participants"):
        task_file({"preset": "digits", "reward": "1", "participants": table}, {})


def test_create__clients_per_round__are_shown_and_published(shell):
    shell.use(free=10 * TOKEN)
    flags = ("--preset", "digits", "--reward", "10", "--clients-per-round", "3", "--selection", "stake")
    assert shell("task", "create", *flags, "--dry-run") == 0
    assert "3 of at most 16 workers a round, drawn by stake, up to 4 times what is required" in shell.err
    assert shell("task", "create", *flags, "--yes", "--json") == 0
    document = json.loads(shell.out)
    spec = parse(shell.store.blobs[document["spec_cid"]], bytes.fromhex(document["spec_hash"][2:]))
    assert spec.draw == Draw(3, DrawBy.STAKE)


def test_create__selection_among_everybody__is_refused_before_anything_is_sent(shell):
    shell.use(free=10 * TOKEN)
    assert shell("task", "create", "--preset", "digits", "--reward", "10", "--selection", "stake", "--yes") != 0
    assert "draw.by is stake, but everybody takes part" in shell.err


def test_show__drawn_task__says_how_and_estimates_for_those_who_are_drawn(shell):
    shell.use(task_view=replace(TASK_VIEW, draw=Draw(2, DrawBy.REPUTATION)))
    assert shell("task", "show", "1") == 0
    assert "2 of at most 5 workers a round, drawn by reputation" in shell.out
    assert "35 CFL (with 2 of them)" in shell.out
