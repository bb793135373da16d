"""An operator's own code: how it is found, what is told when it cannot be used, and that its bits are simulate's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from agents_world import NUM_PARAMS, World
from fake_chain import CHAIN_ID, COORDINATOR, TASK, MemoryStore, account_of
from test_simulation_identity import CLASSES, FEATURES, LOCAL, Softmax, data
from torch import nn

import chainfl
from chainfl.agents.learning import LocalLearning, RootDataScorer, make_trainer
from chainfl.agents.validator import Validator
from chainfl.agents.worker import Worker
from chainfl.errors import AppUnusable, DatasetError, TrainingError
from chainfl.simulation.experiment import Participants
from chainfl.simulation.strategy import Strategy
from chainfl.tasks.spec import DatasetEntry
from chainfl.tasks.state import Role
from chainfl.training.app import load_app
from chainfl.training.prediction import cross_entropy
from chainfl.training.settings import local_training

ROUNDS = 2
GOOD = """
import chainfl, numpy, torch
net = torch.nn.Linear(4, 3)
pair = numpy.eye(6, 4, dtype="float32"), numpy.arange(6) % 3
app = chainfl.App(net, pair)
def make(count=6): return app
def greedy(count): return app
def broken(): return {}["key"]
class Holder: app = app
holder, number, labels_wrong = Holder(), 7, (pair[0], pair[1] - 1)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with `my_app.py`; modules and path are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "my_app.py").write_text(GOOD)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.parametrize("path", ["app", "make", "holder.app"])
def test_load_app__an_app_or_what_returns_one__is_it(here, path):
    app = load_app(f"my_app:{path}")
    assert app is sys.modules["my_app"].app
    part = app.part_for(Role.WORKER)
    assert part.model is sys.modules["my_app"].net
    assert (part.loss, len(part.data)) == (cross_entropy, 6)


def test_load_app__data_alone__are_its_data_and_the_rest_is_the_tasks(here):
    part = load_app("my_app:pair").part_for(Role.VALIDATOR)
    assert (part.model, part.loss, part.data.shape) == (None, cross_entropy, (4,))


def test_load_app__in_a_package__is_found(here):
    (here / "my_package").mkdir()
    (here / "my_package" / "my_module.py").write_text(GOOD)
    assert load_app("my_package.my_module:app").dataset is not None


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("my_app", "write MODULE:OBJECT"),
        ("my_app.py:app", "write MODULE:OBJECT"),
        ("folder/my_app:app", "write MODULE:OBJECT"),
        (":app", "write MODULE:OBJECT"),
        ("my_other:app", "no module my_other in .* run the command in its folder"),
        ("my_app.inner:app", "no module my_app.inner"),
        ("my_app:application", "my_app has no application: define it there"),
        ("my_app:net", "a model alone: put it with its data"),
        ("my_app:number", "neither a chainfl.App, nor a function that returns one, nor data"),
        ("my_app:greedy", "called without arguments, but has a missing .*'count'"),
        ("my_app:broken", r"calling my_app:broken failed: KeyError: 'key' \(my_app.py, line 8\)"),
    ],
)
def test_load_app__no_app_there__says_what_to_do(here, named, told):
    with pytest.raises(AppUnusable, match=told) as raised:
        load_app(named)
    assert raised.value.exit_code == 19
    assert "docs/learning.md" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n1 / 0", r"importing my_bad failed: ZeroDivisionError: division by zero \(my_bad.py, line 2\)"),
        ("import my_missing_library", "importing my_bad failed: ModuleNotFoundError: No module named 'my_missing"),
        ("raise SystemExit(3)", "importing my_bad failed: SystemExit: 3"),
        ("def", r"importing my_bad failed: SyntaxError: .*my_bad.py, line 1"),
    ],
)
def test_load_app__a_module_that_raises__shows_its_own_error(here, text, told):
    (here / "my_bad.py").write_text(text)
    with pytest.raises(AppUnusable, match=told):
        load_app("my_bad:app")


def test_load_app__data_that_cannot_be_trained_on__are_told(here):
    with pytest.raises(DatasetError, match="counted from 0"):
        load_app("my_app:labels_wrong")


class Breaking(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("app", "told"),
    [
        (chainfl.App(Softmax()), "no data to train on"),
        (chainfl.App(dataset=data(8, 0), loss="mse"), "the app's loss is 'mse'"),
        (chainfl.App(dataset=data(8, 0), optimizer="lion"), "the app's optimizer is 'lion', none of sgd, adam"),
        (chainfl.App(dataset=data(8, 0), optimizer=("adam", {"eps": "x"})), "the app's optimizer is .*a decimal"),
        (chainfl.App(dataset=Breaking()), "reading the app's data failed: OSError: the disk is gone"),
    ],
)
def test_part_for__a_worker_that_could_not_train__is_told(app, told):
    with pytest.raises(AppUnusable, match=told):
        app.part_for(Role.WORKER)


def test_part_for__a_validator__judges_by_its_root_data_or_the_tasks_set():
    own, root = data(8, 0), data(4, 1)
    assert chainfl.App(dataset=own, root_data=root).part_for(Role.VALIDATOR).data is root
    assert chainfl.App(dataset=own, root_data=root).part_for(Role.WORKER).data is own
    assert chainfl.App(dataset=own).part_for(Role.VALIDATOR).data is own
    assert chainfl.App().part_for(Role.VALIDATOR).data is None


def smoothed(outputs, labels):
    """Another loss than the task's."""
    return nn.functional.cross_entropy(outputs, labels, label_smoothing=0.2)


class AppWorld(World):
    """The world's task with every player made from an app, as `run_worker` and `run_validator` make it."""

    def __init__(self, tmp_path, strategy: Strategy, apps) -> None:
        self.apps = apps
        super().__init__(
            tmp_path,
            rounds=ROUNDS,
            training=strategy.training(**LOCAL),
            format=strategy.format(NUM_PARAMS),
            dataset=DatasetEntry(name="clusters", input_shape=[FEATURES], num_classes=CLASSES),
        )

    def start(self, role: Role, account: str):
        super().start(role, account)
        if role is not Role.AGGREGATOR:
            context, part = self.players[account].context, self.apps[account].part_for(role)
            trainer = make_trainer(context.spec, context.store, context.journal.folder, part)
            given = (self.spec, self.scope, account, trainer, part.data)
            self.players[account] = (
                Worker(context, LocalLearning(*given))
                if role is Role.WORKER
                else Validator(context, RootDataScorer(*given))
            )
        return self.players[account]


def my_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.04, momentum=0.5)


@pytest.mark.parametrize("optimizer", [None, my_sgd], ids=["the_tasks", "ones_own"])
def test_app__in_simulate_and_in_agents__has_the_same_bits(tmp_path, optimizer):
    strategy = Strategy.named("fedavg", numbers={"chunk_params": 16})
    workers, validators = ([account_of(first + i) for i in range(count)] for first, count in ((100, 3), (200, 2)))
    shares = {account: data(40, seed) for seed, account in enumerate([*workers, *validators])}
    apps = {each: chainfl.App(Softmax(), share, smoothed, optimizer=optimizer) for each, share in shares.items()}
    world = AppWorld(tmp_path, strategy, apps)
    world.run()
    app = apps[workers[0]]

    def roots(loss) -> list[str]:
        found = chainfl.simulate(
            app.model,
            app.dataset,
            loss=loss,
            optimizer=app.optimizer,
            partition=[apps[account].dataset for account in workers],
            root_data=[apps[account].dataset for account in validators],
            validators=2,
            test=data(60, 98),
            strategy=strategy,
            rounds=ROUNDS,
            participants=Participants(tuple(workers), tuple(validators), CHAIN_ID, COORDINATOR, TASK),
            **(LOCAL if optimizer is None else {**LOCAL, **dict.fromkeys(("learning_rate", "momentum"))}),
        )
        return [metrics.root for metrics in found.rounds]

    of_the_task = [world.chain.models[i][0].hex() for i in range(ROUNDS + 1)]
    assert roots(app.loss) == of_the_task
    assert roots(cross_entropy) != of_the_task, "the loss has its part in the bits"
    assert not app.model.w.detach().any(), "the operator's own module stays as it was"


class Wider(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(NUM_PARAMS + 1))
        for i in range(count):
            self.register_parameter(f"x{i}", nn.Parameter(torch.zeros(1)))


class Choosy(Softmax):
    def forward(self, examples):
        return super().forward(examples[:, :5])


@pytest.mark.parametrize(
    ("app", "told"),
    [
        (
            chainfl.App(Wider(1), data(8, 0)),
            r"not the task's: w is \(301,\), the task's \(300,\); x0 is \(1,\), the task's has none. Leave the model "
            "out .* or create a task for yours with `chainfl task create --program`",
        ),
        (chainfl.App(Wider(9), data(8, 0)), "x3 is .*; and 5 more"),
        (chainfl.App(Choosy(), data(8, 0)), r"examples failed: RuntimeError: .*mat1.*\(test_simulation_identity.py"),
        (chainfl.App(Softmax(), data(8, 0), lambda outputs: 0), "first examples failed: TypeError"),
        (chainfl.App(7, data(8, 0)), "a model is a module"),
        (
            chainfl.App(dataset=data(8, 0), optimizer=torch.optim.AdamW),
            r"optimizer is adamw, the task's sgd: leave it out, or give a function .* torch\.optim\.AdamW\(parameters",
        ),
        (chainfl.App(dataset=data(8, 0), optimizer=("sgd", {"nesterov": True})), r"sgd with \{'nesterov': True\}"),
        (chainfl.App(Softmax(), data(8, 0), optimizer=lambda: None), "trying the app's optimizer failed: TypeError"),
    ],
)
def test_make_trainer__an_app_that_does_not_fit_the_task__says_where(tmp_path, monkeypatch, app, told):
    monkeypatch.chdir(__file__.rpartition("/")[0])
    spec = World(tmp_path, dataset=DatasetEntry(name="clusters", input_shape=[FEATURES], num_classes=CLASSES)).spec
    with pytest.raises(chainfl.errors.UsageError, match=told):
        make_trainer(spec, MemoryStore(), tmp_path, app.part_for(Role.WORKER))


def test_make_trainer__optimizer_that_the_task_names__is_the_tasks(tmp_path):
    strategy = Strategy.named("fedavg", optimizer=("adamw", {"eps": "1e-3"}))
    spec = World(tmp_path, training=strategy.training(**{**LOCAL, "momentum": 0})).spec
    app = chainfl.App(Softmax(), optimizer=(torch.optim.AdamW, {"eps": 0.001}))
    make_trainer(spec, MemoryStore(), tmp_path, app.part_for(Role.VALIDATOR)).check(local_training(spec.training))


def test_make_trainer__own_optimizer_in_a_task_that_counts_steps__is_refused(tmp_path):
    spec = World(tmp_path, training=Strategy.named("scaffold").training(**LOCAL)).spec
    with pytest.raises(TrainingError, match=r"scaffold needs the optimizer sgd .*test_training_app\.my_sgd is"):
        make_trainer(spec, MemoryStore(), tmp_path, chainfl.App(Softmax(), optimizer=my_sgd).part_for(Role.VALIDATOR))


def test_make_trainer__data_of_another_task__are_refused(tmp_path):
    pair = np.zeros((6, 4), np.float32), np.arange(6) % 3
    with pytest.raises(DatasetError, match="examples have shape"):
        make_trainer(World(tmp_path).spec, MemoryStore(), tmp_path, chainfl.App(Softmax(), pair).part_for(Role.WORKER))
