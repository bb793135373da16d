"""The table `compression` of benchmarks/learning.py: accuracy against the bytes that a worker sends."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from _flower import VERSION, flower
from _learning_runs import PACKAGES, Countdown, Journal, Line, centralised, digest, listed, loaded
from _report import Row, versions

from chainfl.agents.learning import round_seed
from chainfl.errors import TrainingDiverged
from chainfl.simulation.experiment import Experiment, split_for
from chainfl.simulation.simulate import simulate
from chainfl.simulation.strategy import STRATEGIES, Strategy
from chainfl.training.datasets import DatasetSplits
from chainfl.training.inputs import as_model, one_thread
from chainfl.training.prediction import cross_entropy
from chainfl.training.settings import local_training
from chainfl.training.trainer import LocalTrainer

FLOAT_BYTES: Final = 4
MOST_LOST: Final = 1.0
"""Points that a form may lose against float32 to count as no worse."""
FEWER: Final = 100.0


@dataclass(frozen=True, slots=True)
class Case:
    """One way to send. steps: of a round; the rounds are as many as it takes to come to the setting's steps.

    strategy: a name in STRATEGIES, None for FedAvg in float32 without any integers. changes: to its fields. local: what
    a worker does in another way than the setting has it.
    """

    name: str
    steps: int
    strategy: str | None = "fedavg"
    changes: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether this version has the strategy."""
        return self.strategy is None or self.strategy in STRATEGIES

    def chosen(self) -> Strategy:
        """As `simulate` takes it."""
        return Strategy.named(self.strategy or "fedavg", **self.changes)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is learnt by whom, the same in all of its cases. steps: that a worker takes in all rounds together.

    most_lost: points that the case of that name may lose against float32.
    """

    name: str
    data: str
    model: str
    model_params: Mapping[str, int]
    clients: int
    partition: str
    steps: int
    batch_size: int
    learning_rate: str
    momentum: str
    cases: tuple[Case, ...]
    most_lost: Mapping[str, float] = field(default_factory=dict)

    def settings(self, case: Case | None, seed: int) -> dict[str, Any]:
        """What the numbers of a run follow from. case: None for the centralised one."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("name", "cases", "most_lost")}
        kept |= {} if case is None else case.local
        if case is None:
            return {"kind": "centralised", "seed": seed, **kept, **versions(PACKAGES)}
        own = {"round_steps": case.steps, "strategy": case.chosen().to_json()}
        kind = "float32" if case.strategy is None else "chainfl"
        return {"kind": kind, "seed": seed, **kept, **own, **versions(PACKAGES)}

    def local(self, case: Case) -> dict[str, Any]:
        """What every worker does in a step."""
        plain = {"batch_size": self.batch_size, "learning_rate": self.learning_rate, "momentum": self.momentum}
        return {**plain, **case.local}


ADAMW: Final[Mapping[str, Any]] = {"learning_rate": "0.002", "momentum": "0"}

CIFAR10 = Setting(
    name="CIFAR-10, Dirichlet 0.5",
    data="cifar10",
    model="resnet",
    model_params={"stride": 2},
    clients=10,
    partition="dirichlet:0.5",
    steps=800,
    batch_size=32,
    learning_rate="0.02",
    momentum="0.9",
    cases=(
        Case("float32", 10, None),
        Case("int16", 10),
        Case("int8", 10, changes={"compression": "int8"}),
        Case("int4", 10, changes={"compression": "int4"}),
        Case("top-k 0.1", 10, changes={"compression": "topk", "keep": "0.1"}),
        Case("top-k 0.01", 10, changes={"compression": "topk", "keep": "0.01"}),
        Case("top-k 0.1", 25, changes={"compression": "topk", "keep": "0.1"}),
        Case("top-k 0.1", 50, changes={"compression": "topk", "keep": "0.1"}),
        Case("int4", 100, changes={"compression": "int4"}),
        Case("DiLoCo int8", 50, "diloco", {"compression": "int8"}, ADAMW),
        Case("DiLoCo int4", 50, "diloco", {"compression": "int4"}, ADAMW),
        Case("DiLoCo top-k 0.1", 50, "diloco", {"compression": "topk", "keep": "0.1"}, ADAMW),
        Case("DiLoCo int4", 100, "diloco", {"compression": "int4"}, ADAMW),
    ),
)
MNIST = Setting(
    name="MNIST, IID",
    data="mnist",
    model="paper_cnn",
    model_params={},
    clients=10,
    partition="iid",
    steps=400,
    batch_size=64,
    learning_rate="0.05",
    momentum="0.9",
    cases=(Case("float32", 40, None), Case("int8", 40, changes={"compression": "int8"})),
    most_lost={"int8": 0.3},
)


# --- one run -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What all runs of a setting share. data: the data's folder. folder: of the results."""

    setting: Setting
    splits: DatasetSplits
    data: Path
    folder: Path
    processes: int
    countdown: Countdown

    def run(self, case: Case | None, seed: int) -> Line:
        """One run: accuracy after the last step, and the bytes that a worker sent. case: None is centralised."""
        settings = self.setting.settings(case, seed)
        name = "centralised" if case is None else case.name
        journal = Journal(self.folder / "learning-compression.jsonl")
        line = journal.run(f"{self.setting.name}: {name}", settings, lambda: self._compute(case, settings, seed))
        self.countdown.tell(f"{line['case']}, seed {seed}: {100 * line['accuracy']:.2f}%", line)
        return line

    def flower(self, case: Case, seed: int) -> Line:
        """What Flower's FedAvg comes to with the workers, weights and local training of a case of MNIST."""
        setting = self.setting
        given: dict[str, Any] = {"model": setting.model, "clients": setting.clients, "partition": setting.partition}
        given |= {"batch_size": setting.batch_size, "rounds": setting.steps // case.steps, "steps": case.steps}
        given |= {name: float(getattr(setting, name)) for name in ("learning_rate", "momentum")}
        settings = {"kind": "flower", "seed": seed, **given, **versions(PACKAGES), "flower": VERSION}

        def compute() -> dict[str, Any]:
            found = flower("_flower_learning.py", data=str(self.data), seed=seed, **given)
            return {"accuracy": found["accuracies"][-1]}

        journal = Journal(self.folder / "learning-compression.jsonl")
        return journal.run(f"{setting.name}: Flower", settings, compute)

    def _compute(self, case: Case | None, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
        if case is None:
            return {"accuracy": self._centralised(seed), "bytes_up": 0}
        if case.strategy is None:
            return in_float32(self.setting, self.splits, case, seed)
        return self._simulated(case, settings, seed)

    def _centralised(self, seed: int) -> float:
        setting = self.setting
        [accuracy] = centralised(
            self.splits,
            model=setting.model,
            model_params=setting.model_params,
            clients=setting.clients,
            partition=setting.partition,
            steps=[setting.steps],
            batch_size=setting.batch_size,
            learning_rate=float(setting.learning_rate),
            momentum=float(setting.momentum),
            seed=seed,
        )
        return accuracy

    def _simulated(self, case: Case, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Everything in integers. Its folder, from which a cut run goes on, stays beside the results."""
        found = simulate(
            self.setting.model,
            self.splits,
            model_params=dict(self.setting.model_params),
            clients=self.setting.clients,
            partition=self.setting.partition,
            strategy=case.chosen(),
            rounds=self.setting.steps // case.steps,
            steps=case.steps,
            **self.setting.local(case),
            seed=seed,
            out=self.folder / "learning-compression" / digest(settings),
            processes=self.processes,
        )
        sent = sum(played.bytes_up for played in found.rounds)
        return {"accuracy": found.accuracy, "bytes_up": sent // self.setting.clients}


def in_float32(setting: Setting, splits: DatasetSplits, case: Case, seed: int) -> dict[str, Any]:
    """FedAvg as the paper has it: the mean of the workers' differences, and nothing but float32.

    The same split, first weights, batches and guards as the integers' runs have. Bytes: four a parameter, no header.
    """
    split, called = split_for(
        splits, setting.partition, clients=setting.clients, validators=0, root_examples=0, root_data=None, seed=seed
    )
    with one_thread():
        given = as_model(setting.model, split.test.shape, split.test.num_classes, setting.model_params, seed)
        local = {"steps": case.steps, **setting.local(case)}
        experiment = Experiment.of(
            case.chosen(), given, split, local=local, loss=cross_entropy, partition=called, seed=seed
        )
        trainer, training = LocalTrainer(given.module), local_training(experiment.recipe.training)
        model, rounds = trainer.initial_vector, setting.steps // case.steps
        for number in range(1, rounds + 1):
            total, sent = np.zeros(model.size, np.float64), 0
            for account, share in experiment.shares.items():
                draw = round_seed(experiment.scope, account, number)
                with suppress(TrainingDiverged):  # withheld, as a worker withholds it
                    total += trainer.train(model, share, training, seed=draw).delta
                    sent += 1
            model = (model + total / max(1, sent)).astype(np.float32)
        accuracy = trainer.evaluate(model, split.test).accuracy
    return {"accuracy": accuracy, "bytes_up": FLOAT_BYTES * model.size * rounds}


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """Over the seeds. accuracies: in [0, 1], by seed; bytes_up: of one worker in all rounds, the mean."""

    case: Case
    accuracies: tuple[float, ...]
    bytes_up: float

    @property
    def accuracy(self) -> float:
        """The median."""
        return statistics.median(self.accuracies)


def rows_of(bench: Bench, seeds: int, beside: bool) -> Iterator[Row]:
    """A row for each case, beside float32 and centralised training; then what the setting is to reach.

    beside: whether Flower runs the case in float32, too, where it has the data.
    """
    setting = bench.setting
    cases = [case for case in setting.cases if case.is_there]
    central = [bench.run(None, seed)["accuracy"] for seed in range(seeds)]
    yield Row(f"{setting.name}: centralised, {setting.steps} steps", *_median_of(central))
    figures = [_figure(bench, case, seeds) for case in cases]
    [plain] = [figure for figure in figures if figure.case.strategy is None]
    for figure in figures:
        yield _row(setting, figure, plain)
    if beside and setting.data == "mnist":
        accuracies = [bench.flower(plain.case, seed)["accuracy"] for seed in range(seeds)]
        yield Row(f"{setting.name}: Flower's FedAvg, {plain.case.steps} steps a round", *_median_of(accuracies))
    yield from _targets(setting, figures, plain, statistics.median(central))


def _median_of(accuracies: Sequence[float]) -> tuple[float, str, str]:
    """As a row has it: the median in %, and every seed in words."""
    return 100 * statistics.median(accuracies), "%", f"seeds {listed([100 * one for one in accuracies])}"


def _figure(bench: Bench, case: Case, seeds: int) -> Figure:
    lines = [bench.run(case, seed) for seed in range(seeds)]
    return Figure(case, tuple(line["accuracy"] for line in lines), sum(line["bytes_up"] for line in lines) / seeds)


def _row(setting: Setting, figure: Figure, plain: Figure) -> Row:
    case, lost = figure.case, plain.accuracy - figure.accuracy
    named = f"{setting.name}: {case.name}, {setting.steps // case.steps} rounds of {case.steps} steps"
    words = [_median_of(figure.accuracies)[2], f"{figure.bytes_up / 1000:,.1f} kB up a worker"]
    if figure is not plain:
        words.append(f"{plain.bytes_up / figure.bytes_up:,.1f} times fewer, {-100 * lost:+.2f} points")
    most = setting.most_lost.get(case.name)
    target = None if most is None else 100 * plain.accuracy - most
    return Row(named, 100 * figure.accuracy, "%", "; ".join(words), target, "higher")


def _targets(setting: Setting, figures: list[Figure], plain: Figure, central: float) -> Iterator[Row]:
    """What CIFAR-10 is for: how far below centralised, and how many bytes can be saved for MOST_LOST points."""
    if setting.most_lost:
        return
    [integers] = [figure for figure in figures if figure.case.name == "int16"]
    below = 100 * (central - integers.accuracy)
    yield Row(f"{setting.name}: int16 below centralised at equal steps", below, "points", None, 2)
    good = [figure for figure in figures if 100 * (plain.accuracy - figure.accuracy) <= MOST_LOST]
    best = min(good, key=lambda figure: figure.bytes_up)
    words = f"{best.case.name}, {best.case.steps} steps a round"
    factor = plain.bytes_up / best.bytes_up
    yield Row(f"{setting.name}: fewest bytes within {MOST_LOST:g} point", factor, "times fewer", words, FEWER, "higher")


def compression(options: Any) -> list[Row]:
    """The rows of both settings, or of that whose data are asked for by --case."""
    folders = {"cifar10": Path(options.cifar10), "mnist": Path(options.data)}
    settings = [setting for setting in (CIFAR10, MNIST) if options.case in ("", setting.data)]
    if not settings:
        raise SystemExit(f"no case is called {options.case!r}; there are cifar10, mnist")
    for case in [case for setting in settings for case in setting.cases if not case.is_there]:
        print(f"{case.name}, {case.steps} steps a round: this version has no strategy {case.strategy!r}, left out")
    runs = sum(1 + sum(case.is_there for case in setting.cases) for setting in settings)
    countdown = Countdown(options.seeds * runs)
    rows: list[Row] = []
    for setting in settings:
        splits = loaded(setting.data, folders[setting.data])
        bench = Bench(setting, splits, folders[setting.data], Path(options.results), options.processes, countdown)
        rows += rows_of(bench, options.seeds, bool(options.flower))
    return rows
