"""Experiments in one call: from what users have to files, resumable, and bit for bit what the agents' code gives."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import chainfl
from chainfl.agents.learning import LocalLearning, RootDataScorer
from chainfl.cli.task_file import task_file
from chainfl.encoding.chunk_tree import model_root
from chainfl.encoding.fixed_point import quantize_model
from chainfl.errors import DatasetError, ExperimentDamaged, ExperimentDiffers, TrainingError, UsageError
from chainfl.registry.material import TaskScope
from chainfl.simulation.experiment import LearningRecipe, Participants
from chainfl.simulation.fleet import open_fleet
from chainfl.simulation.metrics import EnergyMeter, Fairness
from chainfl.simulation.progress import open_screen
from chainfl.simulation.rounds import simulate_rounds
from chainfl.simulation.simulate import Laboratory, simulate
from chainfl.simulation.strategy import Strategy
from chainfl.simulation.tampering import Tampering
from chainfl.tasks.spec import DatasetEntry, TrainingEntry, ValidationEntry
from chainfl.tasks.state import SELECTIONS
from chainfl.tasks.votes import REJECTION, Vote
from chainfl.training.datasets import Dataset, DatasetSplits
from chainfl.training.memory_format import bears_channels_last
from chainfl.training.models import build_model
from chainfl.training.partition import Partition, federated_split
from chainfl.training.state import state_layout, vector_of
from chainfl.training.trainer import LocalTrainer
from chainfl.types import Address, TaskId

SMALL = {"clients": 3, "rounds": 2, "steps": 4, "batch_size": 8, "seed": 1}
MLP = {"model_params": {"hidden": 6}}


def clusters(count: int = 240, num_classes: int = 3, seed: int = 0) -> Dataset:
    """Classes around points of their own: easy to learn in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % num_classes
    centres = np.eye(num_classes, 4, dtype=np.float32) * 3
    return Dataset(
        "clusters", (centres[labels] + rng.normal(0, 0.5, (count, 4))).astype(np.float32), labels, num_classes
    )


DATA = clusters()


def run(**changes):
    return simulate("mlp", DATA, **{**SMALL, **MLP, **changes})


def test_simulate__one_line__learns():
    found = chainfl.simulate("mlp", DATA, clients=3, rounds=3, steps=10)
    assert found.accuracy > 0.9
    assert len(found.accuracies) == 4


def test_simulate__module__is_left_as_it_was_and_given_back_trained():
    module = nn.Sequential(nn.Linear(4, 3))
    before = vector_of(module).copy()
    found = simulate(module, DATA, **SMALL)
    assert (vector_of(module) == before).all()
    assert not (vector_of(found.module) == before).all()


def test_simulate__same_call__has_the_same_bits_and_another_seed_has_not():
    assert run().root == run().root
    assert run().root != run(seed=2).root


@pytest.mark.parametrize(
    "changes", [{"compression": "int8"}, {"compression": "int4"}, {"compression": "topk", "keep": 0.05}]
)
def test_simulate__compressed__has_the_same_bits_on_every_call_and_feeds_back(tmp_path, changes):
    strategy = Strategy(**changes)
    found = run(strategy=strategy, rounds=3)
    assert run(strategy=strategy, rounds=3, processes=2).root == found.root
    run(strategy=strategy, rounds=2, out=tmp_path)
    assert run(strategy=strategy, rounds=3, out=tmp_path).root == found.root, "with the residuals of the folder"
    assert found.root != run(rounds=3).root


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fedprox"])
def test_simulate__several_processes__have_the_bits_of_one(strategy):
    one, two = run(strategy=strategy), run(strategy=strategy, processes=2)
    assert one.root == two.root
    assert one.accuracies == two.accuracies


def test_simulate__images_in_several_processes__takes_no_backward_pass_before_they_are_forked(monkeypatch):
    order = []

    def opened(trainers, processes):
        order.append("fleet")
        return open_fleet(trainers, processes)

    def tried(module, shape):
        order.append("trial")
        return bears_channels_last(module, shape)

    # By their paths: `chainfl.simulation.simulate` is the function as well as its module.
    monkeypatch.setattr(sys.modules["chainfl.simulation.simulate"], "open_fleet", opened)
    monkeypatch.setattr(sys.modules["chainfl.training.trainer"], "bears_channels_last", tried)
    run(processes=2)
    assert order == ["fleet", "trial"], "where there is an accelerator, a fork after it could not train"


ENDLESS = """
import multiprocessing
import chainfl
from test_simulation_simulate import DATA, SMALL

def told(metrics):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)

chainfl.simulate("mlp", DATA, **{**SMALL, "rounds": 100_000, "processes": 2, "out": "results", "callbacks": [told]})
"""


def test_simulate__more_validators_than_root_data__is_refused():
    with pytest.raises(UsageError, match="validators is 2, but root_data has 1 sets: one each"):
        run(validators=2, root_data=[DATA])
    assert run(root_data=[DATA], rounds=1).experiment.split.validators


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_simulate__killed_with_several_processes__takes_them_along_and_goes_on_later(tmp_path, number):
    (tmp_path / "script.py").write_text(ENDLESS)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        children = [int(pid) for pid in next(line for line in process.stdout if line.strip()).split()]
        process.send_signal(number)
        # Its pipe ends when the last of those that inherited it has ended.
        process.stdout.read()
    assert len(children) == 2
    found = simulate("mlp", DATA, **{**SMALL, "rounds": 1}, out=tmp_path / "results")
    assert len(found.rounds) >= 2, "nobody holds the folder"


NO_FORK = """
import threading
import chainfl, torch
from test_simulation_simulate import DATA, SMALL
from torch._subclasses.fake_tensor import FakeTensorMode

torch.set_default_dtype(torch.float64)
with FakeTensorMode():  # as torch.export and torch.compile do
    torch.ones(1)
torch.ones(1, requires_grad=True).sum().backward()  # the first one, after fake tensors: it starts threads
lock = threading.Lock()

class Net(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) * torch.full((), 0.1).to(x.dtype)

def locked(parameters):
    with lock:
        return torch.optim.SGD(parameters, lr=0.1)

def found(**changes):
    torch.manual_seed(1)
    return chainfl.simulate(Net(4, 3, dtype=torch.float32), DATA, **SMALL, **changes).root
"""
"""What a script may do without `if __name__ == "__main__"`, as a notebook does, before and around `simulate`."""


def test_simulate__several_processes_where_a_fork_cannot_train__have_the_bits_of_one_or_say_what_to_do(tmp_path):
    script, env = tmp_path / "script.py", os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script.write_text(f"{NO_FORK}\nprint(found() == found(processes=2))\nfound(optimizer=locked, processes=2)\n")
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=240)
    assert done.stdout == "True\n", done.stderr
    assert "TrainingError: the clients cannot be copied to other processes (cannot pickle '_thread.lock'" in done.stderr
    assert "leave `processes` out: the result is the same" in done.stderr


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fednova", "feddyn", "fedavgm", "fedmedian"])
def test_simulate__accounts_of_a_task__has_the_root_that_the_agents_code_comes_to(strategy):
    workers = tuple(Address(f"0x{i:040x}") for i in (0xA1, 0xB2, 0xC3))
    judges = (Address("0x" + "dd" * 20),)
    who = Participants(workers, judges, 31337, Address("0x" + "c0" * 20), TaskId(7))
    found = run(strategy=strategy, validators=1, root_examples=12, participants=who, partition="dirichlet")

    split = federated_split(
        DATA,
        seed=1,
        num_workers=3,
        num_validators=1,
        partition=Partition("dirichlet", 0.5),
        validator_examples=12,
        min_per_worker=20,
    )
    module = build_model("mlp", {"in_features": 4, "num_classes": 3, "hidden": 6}, 1)
    layout, chosen = state_layout(module), Strategy.named(strategy)
    form = chosen.format(layout.num_params)
    local = {"steps": 4, "batch_size": 8, "learning_rate": "0.05", "momentum": "0.9"}
    training = TrainingEntry(algorithm=chosen.algorithm, **{**chosen.parameters, **local})
    data = DatasetEntry(name="clusters", input_shape=[4], num_classes=3)
    recipe = LearningRecipe(form, training, data, ValidationEntry())
    scope = TaskScope(31337, who.coordinator, who.task_id, form, layout.hash())
    genesis = quantize_model(vector_of(module), form.model_scale_bits).values
    trainer = LocalTrainer(module)
    trainers = {
        account: LocalLearning(recipe, scope, account, trainer, share)
        for account, share in zip(workers, split.workers, strict=True)
    }
    scorers = [RootDataScorer(recipe, scope, judges[0], trainer, split.validators[0])]
    *_, last = itertools.islice(simulate_rounds(form, genesis, trainers, scorers), 2)
    assert found.root == model_root(last.model, form.chunk_params).hex()


def test_simulate__clients_per_round__takes_so_many_and_not_always_the_same():
    found = run(clients=6, rounds=4, strategy=Strategy(clients_per_round=2))
    assert [metrics.clients for metrics in found.rounds] == [0, 2, 2, 2, 2]
    assert len({found.experiment.drawn(number) for number in range(1, 9)}) > 1


@pytest.mark.parametrize("selection", SELECTIONS)
def test_simulate__selection__draws_so_many_in_the_order_of_all(selection):
    found = run(clients=6, rounds=2, strategy=Strategy(clients_per_round=3, selection=selection)).experiment
    for number in range(1, 20):
        drawn = found.drawn(number)
        assert (len(drawn), list(drawn)) == (3, [c for c in found.participants.workers if c in drawn])


def test_simulate__by_reputation__who_was_rejected_is_drawn_less():
    found = run(clients=4, rounds=1, strategy=Strategy(clients_per_round=1, selection="reputation")).experiment
    first, *others = found.participants.workers
    known = dict.fromkeys(others, 10_000) | {first: 0}
    often = sum(found.drawn(number, known) == (first,) for number in range(1, 801))
    assert 10 < often < 50


def test_simulate__by_reputation__goes_on_where_it_stood(tmp_path):
    strategy = Strategy(clients_per_round=2, selection="reputation")
    whole = run(clients=5, rounds=4, strategy=strategy)
    run(clients=5, rounds=2, strategy=strategy, out=tmp_path / "run")
    assert run(clients=5, rounds=4, strategy=strategy, out=tmp_path / "run").root == whole.root


@pytest.mark.parametrize("algorithm", ["scaffold", "feddyn"])
def test_simulate__algorithms_with_memory__bear_rounds_without_some(algorithm):
    found = run(clients=4, rounds=3, strategy=Strategy.named(algorithm, clients_per_round=2))
    assert [metrics.accepted for metrics in found.rounds] == [0, 2, 2, 2]


def test_simulate__partition_as_indices__is_taken():
    thirds = np.array_split(np.arange(len(DATA)), 3)
    found = simulate("mlp", DATA, partition=thirds, test=clusters(30, seed=9), rounds=1, steps=2, **MLP)
    assert [len(share) for share in found.experiment.split.workers] == [80, 80, 80]


def test_simulate__metrics__are_those_of_a_round():
    found = run()
    last = found.rounds[-1]
    assert (last.clients, last.accepted, last.withheld) == (3, 3, 0)
    num_params = found.model.size
    assert 3 * 2 * num_params < last.bytes_up < 3 * (2 * num_params + 4096)
    assert 3 * 4 * num_params < last.bytes_down < 3 * (4 * num_params + 4096)
    assert last.seconds_training > 0
    assert last.peak_memory_bytes > 1 << 20
    assert sum(map(sum, last.quality.confusion)) == len(found.experiment.split.test)
    assert found.rounds[0].bytes_up == 0


def test_simulate__local_accuracy__is_the_global_models_on_each_clients_own_data():
    found = run(partition="dirichlet:0.3", steps=1)
    shares = found.experiment.split.workers
    with torch.no_grad():
        right = [(found.module(torch.from_numpy(s.features)).argmax(1).numpy() == s.labels).mean() for s in shares]
    assert len(set(right)) > 1, "another mean would be the same"
    assert found.rounds[-1].local == Fairness.of([float(share) for share in right])


class TellingThat:
    """A watch that shows what it is told to, one time after the other."""

    def __init__(self, *shown: float) -> None:
        self._shown = iter(shown)

    def __call__(self) -> TellingThat:
        return self

    def seconds(self) -> float:
        return next(self._shown)


def test_simulate__seconds_other__are_what_a_round_took_beyond_training(monkeypatch):
    monkeypatch.setattr("chainfl.simulation.simulate.Stopwatch", TellingThat(3.0, 5.5, 10.0, 14.0))
    assert [metrics.seconds_other for metrics in run().rounds] == [0.0, 2.5, 4.0]


def test_simulate__energy__is_what_the_counter_rose_by_in_each_round(tmp_path):
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, value in {"name": "package-0", "energy_uj": "0", "max_energy_range_uj": "9000000"}.items():
        (zone / name).write_text(value)
    laboratory = replace(Laboratory.of(run(rounds=1).experiment), meter=EnergyMeter(tmp_path))
    standing, last = laboratory.begin()
    assert last.energy_joules is None
    with open_fleet(laboratory.trainers, 1) as fleet, open_screen(2, False) as screen:
        for total, joules in (("1500000", 1.5), ("2000000", 0.5)):
            (zone / "energy_uj").write_text(total)
            standing, last = laboratory.play(fleet, screen, standing, last)
            assert last.energy_joules == pytest.approx(joules)


class Favouring:
    """A validator that gives all to the last worker."""

    def score(self, model, updates, round_number, previous):
        return [*[REJECTION] * (len(updates) - 1), Vote(10_000, 1)]


def test_simulate__tampering__changes_what_is_sent_and_who_votes():
    def backwards(number, updates):
        return {account: replace(update, delta=-update.delta) for account, update in updates.items()}

    honest, attacked = run(), run(tampering=Tampering("backwards", updates=backwards))
    assert attacked.loss > attacked.rounds[0].loss > honest.loss
    favoured = run(tampering=Tampering("favouring", scorers=lambda scorers: [Favouring()]))
    assert [metrics.accepted for metrics in favoured.rounds[1:]] == [1, 1]
    assert favoured.experiment.to_json()["tampering"] == "favouring"


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian", "fedtrimmedavg", "krum", "rfa"])
def test_simulate__workers_lie_about_their_examples__has_the_same_root(strategy):
    def lying(number, updates):
        return {account: replace(update, num_examples=10**i) for i, (account, update) in enumerate(updates.items())}

    changes = {"clients": 5, "strategy": strategy, "validators": 1, "root_examples": 12}
    assert run(tampering=Tampering("lying", updates=lying), **changes).root == run(**changes).root


def test_simulate__selection_rule__is_the_validators():
    found = run(clients=6, strategy="krum", validators=1, root_examples=12)
    assert [metrics.accepted for metrics in found.rounds[1:]] == [1, 1]
    for metrics in found.rounds[1:]:
        assert metrics.sent == (0, 1, 2, 3, 4, 5)
        assert sorted(metrics.weights) == [0] * 5 + [10_000]
        assert [score > 0 for score in metrics.scores] == [weight > 0 for weight in metrics.weights]
        assert len(metrics.rejected) == 5


# --- guards --------------------------------------------------------------------------------------


def test_simulate__every_client_diverges__says_why(capsys):
    with pytest.raises(TrainingError, match=r"no client could train: .*"):
        run(learning_rate=100_000, momentum=0)


THIRDS = [DATA.subset(np.arange(start, 240, 3)) for start in range(3)]
"""Of one class each: a loss can tell whose examples it is given."""


def mixed(parts: int = 3) -> list[Dataset]:
    return [DATA.subset(part) for part in np.array_split(np.arange(240), parts)]


@pytest.mark.parametrize("processes", [1, 2])
def test_simulate__data_of_one_client_without_measure__it_is_withheld_and_named(processes):
    first, wild, last = mixed()
    wild = replace(wild, values=wild.values * np.float32(1e18))
    found = run(partition=[first, wild, last], test=DATA, processes=processes)
    for metrics in found.rounds[1:]:
        assert (metrics.clients, metrics.withheld, metrics.accepted, metrics.sent) == (3, 1, 2, (0, 2))
        assert [text for text in metrics.warnings if text.startswith("update_withheld: client 1: the loss is ")]
        assert not any("client 0" in text or "client 2" in text for text in metrics.warnings)
    assert found.accuracy > found.accuracies[0]


class LossOf:
    """Cross-entropy; in the rounds that are named, something else for the local steps of those who have such labels."""

    def __init__(self, instead, rounds, labels) -> None:
        self.instead, self.rounds, self.labels, self.number = instead, rounds, labels, 1

    def __call__(self, outputs, labels):
        is_named = self.number in self.rounds and set(labels.tolist()) <= self.labels
        usual = nn.functional.cross_entropy(outputs, labels)
        return self.instead(usual) if is_named and outputs.requires_grad else usual

    def ended(self, metrics):
        """A callback."""
        self.number = metrics.round + 1


def not_a_number(usual):
    return usual * float("nan")


def refused(usual):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("instead", "why"), [(not_a_number, "the loss is nan at local step 1"), (refused, "ZeroDivisionError")]
)
def test_simulate__loss_of_one_client_fails_from_round_2_on__the_others_go_on(instead, why):
    loss = LossOf(instead, {2, 3}, {2})
    found = run(partition=THIRDS, test=DATA, rounds=3, loss=loss, callbacks=[loss.ended])
    assert [metrics.withheld for metrics in found.rounds] == [0, 0, 1, 1]
    assert [metrics.sent for metrics in found.rounds] == [(), (0, 1, 2), (0, 1), (0, 1)]
    for metrics in found.rounds[2:]:
        assert f"update_withheld: client 2: {why}" in metrics.warnings


def test_simulate__every_client_diverges_in_a_later_round__is_a_void_one_and_the_next_goes_on():
    loss = LossOf(not_a_number, {2}, {0, 1, 2})
    found = run(rounds=3, loss=loss, callbacks=[loss.ended])
    _, first, void, third = found.rounds
    assert (void.clients, void.withheld, void.accepted, void.sent) == (3, 3, 0, ())
    assert (void.root, void.loss_first, void.bytes_up) == (first.root, None, 0)
    kinds = [text.partition(":")[0] for text in void.warnings]
    assert kinds == ["update_withheld"] * 3 + ["void_round"]
    assert (third.accepted, third.withheld) == (3, 0)
    assert third.root != first.root


class Spoiled(nn.Module):
    """Takes everything for class 1 once it has trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, examples):
        push = torch.tensor([0.0, 1e3, 0.0]) if not self.training else torch.zeros(3)
        return self.layer(examples) + push


def test_simulate__constant_predictor__is_named_in_metrics_and_on_stderr(capsys):
    found = simulate(Spoiled(), DATA, **SMALL)
    assert found.rounds[-1].quality.constant_class == 1
    assert any("constant_predictor: every test example is taken for class 1" in text for text in found.warnings)
    assert "local_constant_predictor: clients 0, 1, 2" in found.rounds[-1].warnings
    assert "constant_predictor" in capsys.readouterr().err


# --- files ---------------------------------------------------------------------------------------


def test_simulate__folder__has_everything_that_it_promises(tmp_path):
    found = run(out=tmp_path / "run")
    folder = tmp_path / "run"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert lines[-1]["root"] == found.root
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[-1]["accuracy"]) == found.accuracy
    assert {"recall_0", "f1_2", "bytes_up"} <= set(rows[0])
    assert (rows[0]["weights"], rows[-1]["weights"]) == ("", " ".join(["10000"] * len(lines[-1]["sent"])))
    report = json.loads((folder / "report.json").read_text())
    assert report["seed"] == 1
    assert set(report["configuration"]["versions"]) == {"chainfl", "python", "torch", "numpy"}
    for picture in ("accuracy.png", "loss.png", "recall.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    loaded = chainfl.load_model(folder / "model.safetensors")
    assert (vector_of(loaded) == vector_of(found.module)).all()


class _Cut(Exception):
    """A power cut."""


def cut_after(number: int):
    def callback(metrics):
        if metrics.round == number:
            raise _Cut

    return callback


@pytest.mark.parametrize("strategy", ["scaffold", "fedavgm"])
def test_simulate__cut_off__goes_on_to_the_same_bits(tmp_path, strategy):
    whole = run(rounds=4, strategy=strategy)
    with pytest.raises(_Cut):
        run(rounds=4, strategy=strategy, out=tmp_path, callbacks=[cut_after(2)])
    # As if the cut had come after the line of a round and before its checkpoint, or within a line.
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write((tmp_path / "metrics.jsonl").read_text().splitlines()[-1].replace('"round":2', '"round":3') + "\n")
        stream.write('{"round":4,"acc')
    seen: list[int] = []
    found = run(rounds=4, strategy=strategy, out=tmp_path, callbacks=[lambda metrics: seen.append(metrics.round)])
    assert seen == [3, 4]
    assert found.root == whole.root
    assert found.accuracies == whole.accuracies
    assert [json.loads(line)["round"] for line in (tmp_path / "metrics.jsonl").open()] == [0, 1, 2, 3, 4]


def test_simulate__finished_folder__gives_the_result_again_and_takes_more_rounds(tmp_path):
    first = run(out=tmp_path)
    assert run(out=tmp_path, callbacks=[cut_after(1)]).root == first.root
    assert run(out=tmp_path, rounds=3).root == run(rounds=3).root


def normalised(*, tracked: bool = True) -> nn.Module:
    torch.manual_seed(2)
    norms = [nn.BatchNorm1d(6, track_running_stats=tracked) for _ in range(2)]
    return nn.Sequential(nn.Linear(4, 6), norms[0], nn.ReLU(), nn.Linear(6, 6), norms[1], nn.Linear(6, 3))


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadagrad", "fedadam", "fedyogi", "diloco"])
def test_simulate__running_statistics_under_a_server_with_a_state__are_warned_of_before_training(strategy, capsys):
    found = simulate(normalised(), DATA, strategy=strategy, **SMALL)
    [warning] = found.rounds[0].warnings
    assert warning.startswith("running_statistics: 1.running_mean, 1.running_var and 2 more go through the server's ")
    assert "GroupNorm or LayerNorm, normalisation with track_running_stats=False, or the plain server" in warning
    assert f"round 0: {warning}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "strategy"), [(normalised(), "fedavg"), (normalised(tracked=False), "fedavgm"), ("mlp", "fedavgm")]
)
def test_simulate__nothing_that_a_server_breaks__is_not_warned_of(model, strategy):
    assert not any("running_statistics" in text for text in simulate(model, DATA, strategy=strategy, **SMALL).warnings)


def test_simulate__folder_of_another_experiment__says_what_differs(tmp_path):
    run(out=tmp_path)
    with pytest.raises(ExperimentDiffers, match=r"training\.learning_rate was \"0\.05\" and is \"0\.1\""):
        run(out=tmp_path, learning_rate=0.1)
    with pytest.raises(ExperimentDiffers, match="data_sha256"):
        simulate("mlp", clusters(seed=5), out=tmp_path, **SMALL, **MLP)


def test_simulate__module_made_again_without_a_seed_of_torch__is_told_to_call_manual_seed(tmp_path):
    def again(torch_seed: int, **changes):
        torch.manual_seed(torch_seed)
        return simulate(nn.Linear(4, 3), DATA, out=tmp_path, **{**SMALL, **changes})

    first = again(1)
    with pytest.raises(ExperimentDiffers, match=r"genesis_root was .*torch\.manual_seed before making it, or give"):
        again(2)
    assert again(1).root == first.root
    with pytest.raises(ExperimentDiffers) as of_the_rate:
        again(1, learning_rate=0.1)
    assert "manual_seed" not in str(of_the_rate.value)


def test_simulate__folder_of_another_seed__is_not_told_of_torchs_generator(tmp_path):
    run(out=tmp_path)
    with pytest.raises(ExperimentDiffers, match="genesis_root") as differs:
        run(out=tmp_path, seed=2)
    assert "manual_seed" not in str(differs.value)


def test_simulate__folder_with_other_things__is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        run(out=tmp_path)


def test_simulate__refused_folder__gets_nothing(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError):
        run(out=tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]
    for out in (tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "run"):
        with pytest.raises(UsageError, match="names a folder") as refused:
            run(out=out)
        assert "store_dir" not in refused.value.hint


def test_simulate__failed_before_a_round_ended__takes_the_corrected_call(tmp_path):
    with pytest.raises(TrainingError, match="no client could train"):
        run(out=tmp_path, learning_rate=100_000, momentum=0)
    corrected = run(out=tmp_path, seed=3)
    assert corrected.root == run(seed=3).root
    assert json.loads((tmp_path / "report.json").read_text())["seed"] == 3


@pytest.mark.parametrize("stranger", [None, "thesis.tex"])
def test_simulate__config_of_something_else__is_left_as_it_was(tmp_path, stranger):
    (tmp_path / "config.json").write_text('{"hidden_size": 768}')
    if stranger is not None:
        (tmp_path / stranger).write_text("")
    with pytest.raises(ExperimentDiffers):
        run(out=tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"hidden_size": 768}'


def test_simulate__round_0_beside_other_things__is_not_begun_anew(tmp_path):
    with pytest.raises(_Cut):
        run(out=tmp_path, callbacks=[cut_after(0)])
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ExperimentDiffers):
        run(out=tmp_path, seed=3)


def test_simulate__refused_call__leaves_no_folder(tmp_path):
    with pytest.raises(UsageError, match="num_classes=5"):
        simulate(nn.Linear(4, 5), DATA, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_simulate__experiment_that_differs__leaves_the_folder_to_others(tmp_path):
    first = run(out=tmp_path)
    with pytest.raises(ExperimentDiffers) as kept:
        run(out=tmp_path, seed=9)
    assert kept.value
    assert run(out=tmp_path).root == first.root


@pytest.mark.parametrize("name", ["checkpoint.npz", "config.json", "metrics.jsonl"])
def test_simulate__damaged_file__is_told(tmp_path, name):
    run(out=tmp_path)
    (tmp_path / name).write_bytes(b"\x00nonsense\n")
    with pytest.raises(ExperimentDamaged, match=name.replace(".", r"\.")):
        run(out=tmp_path, rounds=3)


def test_simulate__callback_that_returns_true__ends_it():
    assert run(rounds=5, callbacks=[lambda metrics: metrics.round == 2]).rounds[-1].round == 2


@pytest.mark.parametrize(
    ("strategy", "rate", "momentum"),
    [("diloco", "0.001", "0"), ("fedavg", "0.05", "0.9"), (Strategy.named("fedavg", optimizer="SGD"), "0.05", "0.9")],
)
def test_simulate__no_rate_given__is_the_optimizers_own(strategy, rate, momentum):
    training = run(rounds=1, steps=1, strategy=strategy).experiment.recipe.training
    assert (training.learning_rate, training.momentum) == (rate, momentum)


@pytest.mark.parametrize("given", ["AdamW", torch.optim.AdamW, ("adamw", {})])
def test_simulate__optimizer_of_torchs__is_its_name_in_the_task_and_has_its_bits(given):
    found = run(optimizer=given, learning_rate="2e-3")
    named = run(strategy=Strategy.named("fedavg", optimizer="adamw"), learning_rate="0.002")
    assert found.root == named.root
    assert found.experiment.to_json() == named.experiment.to_json()
    assert 'optimizer = { name = "adamw" }' in found.task_file()


def of_my_own(parameters):
    """As `adamw` by its name, at the same rates."""
    return torch.optim.AdamW(parameters, lr=0.002, weight_decay=0.0)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox", "feddyn"])
def test_simulate__optimizer_of_ones_own__trains_and_is_told_by_its_name(algorithm):
    found = run(strategy=algorithm, optimizer=of_my_own, validators=2)
    named = run(strategy=algorithm, optimizer="adamw", learning_rate="0.002", validators=2)
    assert found.root == named.root
    training = found.experiment.to_json()["training"]
    assert training["optimizer"] == f"{__name__}.of_my_own"
    assert not {"learning_rate", "momentum", "weight_decay"} & set(training)
    with pytest.raises(UsageError, match=r"not one of your own: .* chainfl.App\(optimizer=…\)"):
        found.task_file()


def test_simulate__optimizer_of_ones_own_in_several_processes__has_the_bits_of_one():
    assert run(optimizer=of_my_own, processes=2).root == run(optimizer=of_my_own).root


def test_simulate__folder_of_another_optimizer__says_so(tmp_path):
    run(optimizer=of_my_own, out=tmp_path / "run")
    run(optimizer=of_my_own, out=tmp_path / "run", rounds=3)
    with pytest.raises(ExperimentDiffers, match=r"training.optimizer was .*of_my_own"):
        run(out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.1}, "learning_rate: an optimizer of your own brings its rates"),
        ({"momentum": 0.9, "weight_decay": 0.1}, "momentum, weight_decay: an optimizer"),
        ({"strategy": Strategy.named("fedavg", weight_decay=0.1)}, "weight_decay: an optimizer"),
        ({"strategy": "scaffold"}, "scaffold needs the optimizer sgd"),
        ({"optimizer": torch.optim.LBFGS}, "a closure"),
        ({"optimizer": "muon"}, "muon takes matrices alone"),
        ({"optimizer": lambda parameters: torch.optim.LBFGS(parameters)}, "must step by itself"),
        ({"optimizer": lambda: None}, "<lambda> failed on the model: TypeError"),
        ({"optimizer": 7}, "optimizer is 7, not a name"),
    ],
)
def test_simulate__optimizer_that_cannot_be__is_told_before_anything_runs(changes, told):
    with pytest.raises(UsageError, match=told):
        run(**{"optimizer": of_my_own, **changes})


def test_simulate__device__is_there_or_told_with_those_that_are(tmp_path, monkeypatch):
    assert run(device="cpu").root == run().root
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for absent in ("cuda", "cuda:1", "tpu", "meta"):
        with pytest.raises(UsageError, match=f"no device '{absent}'; it has cpu"):
            run(device=absent, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_simulate__chainfls_own_set_with_a_value_that_is_none__names_the_example(value):
    broken = clusters()
    broken.values[7, 1] = value
    for given in (broken, DatasetSplits(broken, None), DatasetSplits(clusters(), broken)):
        with pytest.raises(DatasetError, match=rf"example 7 has {value} at \[1\].*leave the example out"):
            simulate("mlp", given, **SMALL, **MLP)


def test_simulate__rate_given__is_taken_for_any_optimizer():
    assert (
        run(rounds=1, steps=1, strategy="DiLoCo", learning_rate=0.01).experiment.recipe.training.learning_rate == "0.01"
    )


# --- as a task -----------------------------------------------------------------------------------


def test_task_file__registered_model__is_read_by_the_task_command():
    found = run(strategy="fedtrimmedavg", learning_rate=0.1)
    file = task_file(tomllib.loads(found.task_file(reward="50")), {})
    assert (file.rounds, file.reward, file.workers) == (2, "50", 3)
    assert file.model is not None
    assert (file.model.name, file.model.params["hidden"]) == ("mlp", 6)
    assert (file.format.rule, file.format.trim_num, file.format.trim_den) == ("trimmed_mean", 1, 5)
    assert (file.training.learning_rate, file.training.steps) == ("0.1", 4)
    assert file.dataset.input_shape == [4]


def test_task_file__local_algorithm__is_named_with_its_parameter():
    text = tomllib.loads(run(rounds=1, strategy="fedprox").task_file())
    assert (text["training"]["algorithm"], text["training"]["proximal_mu"]) == ("fedprox", "0.01")


def test_task_file__clients_per_round__are_its_participants():
    text = run(rounds=1, strategy=Strategy(clients_per_round=2, selection="reputation")).task_file()
    assert tomllib.loads(text)["participants"] == {"clients_per_round": 2, "selection": "reputation"}
    assert "participants" not in tomllib.loads(run(rounds=1).task_file())


def test_task_file__no_validators__says_that_a_task_has_one_that_judges():
    told = run(rounds=1).task_file()
    assert "# The experiment had no validators: every update counted in full." in told
    assert "the default rule, gate_clip" in told
    assert tomllib.loads(told)["validators"] == 1
    assert "had no validators" not in run(rounds=1, validators=2).task_file()


def test_task_file__loss_of_ones_own__is_told_rather_than_dropped(tmp_path):
    found = run(rounds=1, loss=lambda outputs, labels: nn.functional.multi_margin_loss(outputs, labels))
    with pytest.raises(UsageError, match="cross-entropy"):
        found.task_file(program=tmp_path / "model.pt2")


def test_task_file__what_no_task_can_do__is_told(tmp_path):
    found = simulate(nn.Linear(4, 3), DATA, **{**SMALL, "rounds": 1})
    with pytest.raises(UsageError, match=r"torch\.export"):
        found.task_file()
    assert tomllib.loads(found.task_file(program=tmp_path / "model.pt2"))["program"].endswith("model.pt2")


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"rounds": 0}, UsageError),
        ({"clients": 0}, UsageError),
        ({"processes": 0}, UsageError),
        ({"strategy": "fedmagic"}, UsageError),
        ({"partition": "by taste"}, UsageError),
        ({"partition": [DATA]}, UsageError),
        ({"partition": [[0, 1], [2], [9_999]], "test": DATA}, DatasetError),
        ({"partition": [DATA] * 3, "test": DATA, "validators": 1}, UsageError),
        ({"clients": 200}, DatasetError),
        ({"learning_rate": 0}, UsageError),
        ({"momentum": 1}, UsageError),
        ({"strategy": "krum"}, UsageError),
        ({"strategy": "krum", "validators": 1}, UsageError),
        ({"model_params": {"colour": 3}}, TrainingError),
        ({"strategy": Strategy("scaffold", server_momentum="9/10")}, UsageError),
    ],
)
def test_simulate__impossible__is_told_before_anything_runs(change, error):
    with pytest.raises(error):
        run(**change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clients": "4"}, "clients is '4', not a whole number of at least 1"),
        ({"rounds": 2.5}, "rounds is 2.5, not"),
        ({"steps": 3.5, "batch_size": True}, "steps is 3.5, not a whole .*; batch_size is True, not"),
        ({"validators": -1}, "validators is -1, not a whole number of at least 0"),
        ({"rounds": None}, "rounds is None, not"),
        ({"local_epochs": "2"}, "local_epochs is '2', not"),
        ({"strategy": Strategy(clients_per_round=4)}, "clients_per_round is 4, but there are 3 clients"),
        ({"learning_rate": 1e6}, "^learning_rate is 1e[+]06, but it is at least 0 and below 1,000,000$"),
    ],
)
def test_simulate__number_that_cannot_be__is_told_by_its_name(change, told):
    with pytest.raises(UsageError, match=told):
        run(**change)


def test_simulate__numbers_of_numpy_and_a_device_of_torch__are_taken():
    numpys = {"rounds": np.int64(2), "clients": np.int32(3), "learning_rate": np.float32(0.1)}
    found = run(**numpys, device=torch.device("cpu"))
    assert found.root == run(learning_rate=0.1).root
    assert found.experiment.recipe.training.learning_rate == "0.1"
    assert "device" not in found.experiment.to_json()


def test_simulate__model_that_nothing_can_train__is_told():
    frozen = nn.Linear(4, 3).requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter to train: all are frozen"):
        simulate(frozen, DATA, **SMALL)
    lazy = nn.Sequential(nn.Linear(4, 5), nn.LazyLinear(3))
    with pytest.raises(UsageError, match=r"^1: a lazy layer has no weights before a first forward pass"):
        simulate(lazy, DATA, **SMALL)
    lazy(torch.zeros(1, 4))
    assert simulate(lazy, DATA, **SMALL).rounds[-1].round == 2


def test_simulate__trim_that_drops_nobody__is_warned_of():
    told = "round 0: nothing_trimmed: a trim of 1/5 at each end drops none of 3 updates, .* it drops one of 5:"
    assert re.match(told, " ".join(run(strategy="fedtrimmedavg").warnings))
    assert not [text for text in run(clients=5, strategy="fedtrimmedavg").warnings if "nothing_trimmed" in text]


def test_simulate__model_that_does_not_fit__is_told():
    with pytest.raises(UsageError, match="examples of 4 with 3 classes"):
        simulate(nn.Linear(5, 3), DATA, **SMALL)


class Words(nn.Module):
    def __init__(self, casts: bool) -> None:
        super().__init__()
        self.casts, self.words, self.layer = casts, nn.Embedding(9, 2), nn.Linear(8, 3)

    def forward(self, examples):
        return self.layer(self.words(examples.long() if self.casts else examples).flatten(1))


def test_simulate__model_that_wants_integers__is_told_to_cast():
    words = (np.arange(160).reshape(40, 4) % 9, np.arange(40) % 3)
    with pytest.raises(UsageError, match=r"features arrive as float32.*\.long\(\)"):
        simulate(Words(casts=False), words, **SMALL)
    assert simulate(Words(casts=True), words, **SMALL).rounds[-1].round == 2


class Giving(nn.Module):
    def __init__(self, make) -> None:
        super().__init__()
        self.make, self.layer = make, nn.Linear(4, 3)

    def forward(self, examples):
        return self.make(self.layer(examples))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.Linear(4, 2), "2 outputs, but the data 3 classes: give its last layer 3"),
        (nn.Linear(4, 20), "20 outputs, .* give num_classes=20"),
        (Giving(lambda outputs: {"logits": outputs}), "a dict; its forward"),
        (Giving(lambda outputs: outputs[:, 0]), r"gives \(2,\) for 2 examples"),
    ],
)
def test_simulate__outputs_that_are_not_one_a_class__are_told(model, told):
    with pytest.raises(UsageError, match=told):
        simulate(model, DATA, **SMALL)


def test_simulate__more_classes_than_labels_show__fit_a_wider_model():
    found = simulate(nn.Linear(4, 20), DATA, num_classes=20, **SMALL)
    assert found.rounds[-1].quality.recall[19] is None
    assert len(found.rounds[-1].quality.confusion) == 20


WRONG = Dataset("d", DATA.values[:20], np.where(np.arange(20) == 7, 12, 0), 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"partition": [DATA, WRONG, DATA]}, "client 2: example 7 has label 12"),
        ({"partition": [DATA] * 3, "root_data": [WRONG], "validators": 1}, "root data 1: example 7 has label 12"),
        ({"test": WRONG}, "the test set: example 7 has label 12"),
        ({"partition": [DATA, [], DATA]}, "client 2 is empty"),
        ({"partition": [DATA, (DATA.values[:0], DATA.labels[:0]), DATA]}, "client 2 is empty"),
        ({"partition": [DATA, DATA.subset(np.arange(0)), DATA]}, "client 2 is empty"),
        ({"partition": [DATA, (np.zeros((6, 5)), [0, 1, 2] * 2), DATA]}, "client 2: its examples have shape"),
    ],
)
def test_simulate__set_that_does_not_fit__is_named(change, told):
    with pytest.raises(DatasetError, match=told):
        run(**{"test": DATA, **change})


@pytest.mark.parametrize("seed", [-1, 0.5, 2**64, None])
def test_simulate__no_seed__is_told_what_one_is(seed):
    with pytest.raises(UsageError, match="a seed is a whole number from 0"):
        run(seed=seed)


def test_simulate__loaders_and_pairs__are_clients():
    torches = TensorDataset(torch.from_numpy(DATA.values), torch.from_numpy(DATA.labels))
    pairs = list(zip(DATA.values, DATA.labels, strict=True))
    parts = [DataLoader(Subset(torches, range(80)), batch_size=8), pairs[80:160], range(160, 240)]
    found = simulate("mlp", DataLoader(torches), test=DataLoader(torches), partition=parts, rounds=1, steps=2, **MLP)
    expected = simulate("mlp", DATA, test=DATA, partition=np.split(np.arange(240), 3), rounds=1, steps=2, **MLP)
    assert found.root == expected.root


def test_participants__not_as_many_as_data_sets__are_refused():
    with pytest.raises(UsageError, match="accounts"):
        run(participants=Participants.numbered(2, 0, 0))
    twice = replace(Participants.numbered(3, 0, 0), workers=(Participants.numbered(1, 0, 0).workers[0],) * 3)
    with pytest.raises(UsageError, match="each account once"):
        run(participants=twice)


def test_import__chainfl__brings_no_torch_and_offers_all_of_its_names():
    code = "import sys, chainfl; print({*chainfl.__all__} <= {*dir(chainfl)}, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
