"""`chainfl.simulate`: a federated experiment in one call, without a chain.

Clients train, updates become integers, validators vote and the server steps by the very code that the agents of a task
run, with the seeds that they would have: given the accounts of a real task, the final model has the same root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from chainfl.agents.learning import LocalLearning, RootDataScorer
from chainfl.agents.validator import Scorer
from chainfl.agents.worker import TrainedUpdate
from chainfl.encoding.arrays import Float32Array, Int16Array, Int32Array
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.encoding.payload import UpdateMetadata, write_model, write_update
from chainfl.errors import TrainingError, UsageError
from chainfl.simulation.arguments import whole_numbers
from chainfl.simulation.experiment import Experiment, Participants, Parts, split_for
from chainfl.simulation.fleet import Fleet, LocalRun, open_fleet, peak_bytes
from chainfl.simulation.metrics import (
    EnergyMeter,
    Fairness,
    Quality,
    RoundMetrics,
    Stopwatch,
    clipped_share,
    warnings_of,
)
from chainfl.simulation.outcome import Simulation
from chainfl.simulation.progress import Screen, open_screen
from chainfl.simulation.results import ResultFolder
from chainfl.simulation.rounds import EverybodyCounts, SimulatedRound, Standing, play_round, rated
from chainfl.simulation.strategy import Number, Strategy, trained_by
from chainfl.simulation.tampering import Tampering, Updates
from chainfl.tasks.state import DrawBy
from chainfl.training.datasets import Dataset, concatenate
from chainfl.training.devices import device_named
from chainfl.training.inputs import as_model, as_splits, one_thread
from chainfl.training.optimizers import MakeOptimizer
from chainfl.training.prediction import cross_entropy, predict
from chainfl.training.trainer import LocalTrainer
from chainfl.types import Address, Compression, Root

LOCAL_EXAMPLES = 256
"""Of each client's data, on which the global model is measured after each round."""
SGD_MOMENTUM = 0.9

Callback = Callable[[RoundMetrics], object]


def simulate(
    model: object,
    dataset: object,
    *,
    clients: int | None = None,
    strategy: str | Strategy = "fedavg",
    partition: Parts = "iid",
    test: object | None = None,
    rounds: int = 10,
    steps: int = 40,
    batch_size: int = 64,
    learning_rate: Number | None = None,
    momentum: Number | None = None,
    weight_decay: Number = 0,
    local_epochs: int | None = None,
    optimizer: object | None = None,
    loss: Callable[..., Any] = cross_entropy,
    validators: int = 0,
    root_examples: int = 50,
    root_data: Sequence[Any] | None = None,
    model_params: Mapping[str, int] | None = None,
    num_classes: int | None = None,
    data_dir: str | Path | None = None,
    participants: Participants | None = None,
    tampering: Tampering | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    processes: int = 1,
    device: object = "cpu",
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Simulation:
    """Trains a model among clients, and measures it after each round. `simulate(model, dataset)` is enough.

    model: a module, a registered name with `model_params`, or an exported program. dataset, test: a built-in name, a
    chainfl Dataset or DatasetSplits, a (features, labels) pair, a torch Dataset or DataLoader, or a list of pairs of
    features and a label; without a test set a fifth is held out. partition: how `clients` (10) share the training set,
    by name (`iid`, `dirichlet:0.5`, `shards:2`, `classes:2`, `skewed:0.8`), or the data or the indices of each.
    strategy: see `Strategy`.

    steps, batch_size, learning_rate, weight_decay, local_epochs: as a task's [training] has them; learning_rate: 0.05
    of sgd, torch's own default of another optimiser; momentum: of sgd, 0.9 unless another one is named. optimizer: one
    of torch's, as a strategy names it, its class included; or a function of the trained parameters that makes one of
    your own, which brings its own rates. loss: the mean over a batch. validators: how many vote on updates, on
    `root_examples` each of the training set, or on `root_data`; with none everybody counts in full.

    seed: of split, training and the weights of a named model; a module of one's own brings its weights along, drawn by
    torch (`torch.manual_seed`). The same call gives the same bits on one machine, in whatever number of `processes`.
    device: `cuda`, `cuda:1`, `mps`, or a torch.device, where training computes; the bits are promised on `cpu` alone.
    participants: the accounts of a real task, and its recorded rounds, for the bits that it has. out: a folder for the
    results, from which the same call goes on after the last whole round. callbacks: called with each new round's
    metrics, from round 0 on; one that returns True ends the experiment there. progress: None shows bars where standard
    error is a terminal. tampering: what attackers do.

    Raises UsageError, DatasetError and TrainingError before anything runs, ExperimentDiffers for the folder of another
    experiment, TrainingError when no client can train, and what writing the folder raises.
    """
    of_run = {"clients": clients, "rounds": rounds, "processes": processes}
    of_training = {"steps": steps, "batch_size": batch_size, "local_epochs": local_epochs}
    whole = whole_numbers({**of_run, **of_training, "validators": validators, "root_examples": root_examples})
    device = str(device)
    _check_device(device, whole["processes"])
    chosen, own = trained_by(strategy, optimizer)
    rates = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    if own is not None:
        _check_rates_of_own(chosen, rates)
    splits = as_splits(dataset, test, data_dir=data_dir, num_classes=num_classes)
    split, called = split_for(
        splits,
        partition,
        clients=whole["clients"],
        validators=whole["validators"],
        root_examples=whole["root_examples"],
        root_data=root_data,
        seed=seed,
    )
    experiment = Experiment.of(
        chosen,
        as_model(model, splits.train.shape, split.test.num_classes, model_params, seed),
        split,
        local={
            "steps": whole["steps"],
            "batch_size": whole["batch_size"],
            "learning_rate": chosen.usual_learning_rate if learning_rate is None else learning_rate,
            "momentum": _usual_momentum(chosen, own) if momentum is None else momentum,
            "weight_decay": weight_decay,
            "local_epochs": whole["local_epochs"],
        },
        loss=loss,
        optimizer=own,
        device=device,
        partition=called,
        seed=seed,
        participants=participants,
        tampering=tampering,
    )
    experiment.check_rounds(whole["rounds"])
    plan = Plan(whole["rounds"], whole["processes"], tuple(callbacks), progress)
    return run_experiment(experiment, plan, None if out is None else Path(out))


def _check_device(device: str, processes: int) -> None:
    """Told before any data are read."""
    if device_named(device).type != "cpu" and processes > 1:
        raise UsageError(f"{device} belongs to one process: leave `processes` out, or take device='cpu'")


def _check_rates_of_own(strategy: Strategy, rates: Mapping[str, Number | None]) -> None:
    """Raises UsageError for a rate that nothing would follow."""
    said = [name for name, value in rates.items() if value not in (None, 0, "0") or name in strategy.parameters]
    if said:
        raise UsageError(f"{', '.join(said)}: an optimizer of your own brings its rates; leave it out, or say it there")


def _usual_momentum(strategy: Strategy, own: MakeOptimizer | None) -> Number:
    return SGD_MOMENTUM if own is None and strategy.optimizer == "sgd" else 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run may change without changing its numbers. progress: None shows it where there is a terminal."""

    rounds: int
    processes: int = 1
    callbacks: tuple[Callback, ...] = ()
    progress: bool | None = None

    def is_ended_by(self, metrics: RoundMetrics) -> bool:
        """Whether one of the callbacks, all of which are told, wants no further round."""
        return True in [callback(metrics) is True for callback in self.callbacks]


def run_experiment(experiment: Experiment, plan: Plan, out: Path | None) -> Simulation:
    """From where the folder stands to the last round."""
    with ExitStack() as stack:
        stack.enter_context(one_thread())
        laboratory = Laboratory.of(experiment)
        folder = None if out is None else stack.enter_context(closing(ResultFolder(out, experiment.to_json())))
        saved, history = (None, []) if folder is None else folder.load()
        fleet = stack.enter_context(open_fleet(laboratory.trainers, plan.processes))
        screen = stack.enter_context(open_screen(plan.rounds, plan.progress))
        model = experiment.genesis if saved is None else saved.model
        for standing, metrics in _rounds(laboratory, fleet, screen, saved, history[-1:], plan.rounds):
            if folder is not None:
                folder.save_round(standing, metrics)
            history.append(metrics)
            model = standing.model
            screen.show(metrics)
            if plan.is_ended_by(metrics):
                break
        found = Simulation(experiment, model, tuple(history), out)
        if folder is not None:
            folder.conclude(found.rounds, found.to_json(), found.write_model)
    return found


def _rounds(
    laboratory: Laboratory,
    fleet: Fleet,
    screen: Screen,
    standing: Standing | None,
    measured: Sequence[RoundMetrics],
    rounds: int,
) -> Iterator[tuple[Standing, RoundMetrics]]:
    """What is still to do; each round with where the task stands after it. Round 0 is the model before training.

    standing, measured: after the last round that is whole; None and nothing before round 0.
    """
    if standing is None:
        standing, last = laboratory.begin()
        yield standing, last
    else:
        [last] = measured
    while standing.played < rounds:
        standing, last = laboratory.play(fleet, screen, standing, last)
        yield standing, last


@dataclass(frozen=True, slots=True, eq=False)
class Laboratory:
    """An experiment's trainers and scorers, and what measures them.

    trainer: of all of them in this process. It takes its first backward pass after the fleet has opened: see
    `devices.autograd_works`. own_data: of all clients one after another, LOCAL_EXAMPLES of each at most; ends: where
    each client's end. meter: energy, from one round's end to the next.
    """

    experiment: Experiment
    trainer: LocalTrainer
    trainers: Mapping[Address, LocalLearning]
    scorers: Sequence[Scorer]
    own_data: Dataset
    ends: Sequence[int]
    meter: EnergyMeter = field(default_factory=EnergyMeter)

    @classmethod
    def of(cls, experiment: Experiment) -> Laboratory:
        """For an experiment."""
        recipe, scope = experiment.recipe, experiment.scope
        trainer = LocalTrainer(
            experiment.model.module, experiment.loss, optimizer=experiment.optimizer, device=experiment.device
        )
        trainers = {
            account: LocalLearning(recipe, scope, account, trainer, share)
            for account, share in experiment.shares.items()
        }
        scorers: list[Scorer] = [
            RootDataScorer(recipe, scope, account, trainer, root_data, experiment.commit_hash)
            for account, root_data in experiment.root_data.items()
        ]
        samples = [_sample(share) for share in experiment.split.workers]
        judges: Sequence[Scorer] = scorers or [EverybodyCounts()]
        if experiment.tampering is not None:
            judges = experiment.tampering.scorers(judges)
        return cls(experiment, trainer, trainers, judges, concatenate(samples), list(accumulate(map(len, samples))))

    def begin(self) -> tuple[Standing, RoundMetrics]:
        """Round 0."""
        standing = Standing(self.experiment.genesis)
        quality, local = self.measure(standing.model)
        root = self.experiment.genesis_root.hex()
        told = (*warnings_of(quality, quality, None, []), *self.experiment.warnings())
        return standing, RoundMetrics(0, root, quality, local, peak_memory_bytes=peak_bytes(), warnings=told)

    def play(
        self, fleet: Fleet, screen: Screen, standing: Standing, last: RoundMetrics
    ) -> tuple[Standing, RoundMetrics]:
        """One round after another. Raises TrainingError when in the first one nobody can train."""
        watch, scope = Stopwatch(), self.experiment.scope
        runs = self._train(fleet, screen, standing)
        trained_for = watch.seconds()
        sent = self._tampered(standing.played + 1, _updates(runs))
        void = self.experiment.is_void(standing.played + 1)
        played, after = play_round(
            scope.format, standing, self.trainers, sent, self.scorers, scope.compression, void=void
        )
        if self.experiment.strategy.draw.by is DrawBy.REPUTATION and not self.experiment.participants.rounds:
            after = rated(after, runs, played, len(self.scorers))
        quality, local = self.measure(after.model)
        numbers = {account: number for number, account in enumerate(self.trainers)}
        withheld, findings = _withheld(runs, numbers), _findings(runs, numbers)
        return after, RoundMetrics(
            round=played.number,
            root=last.root if played.root is None else played.root.hex(),
            quality=quality,
            local=local,
            clients=len(runs),
            accepted=played.accepted,
            withheld=len(withheld),
            loss_first=_mean([update.loss_first for update in _updates(runs).values()]),
            loss_last=_mean([update.loss_last for update in _updates(runs).values()]),
            clipped_share=clipped_share(played),
            saturated=played.num_saturated,
            bytes_up=self._bytes_up(played, Root(bytes.fromhex(last.root))),
            bytes_down=len(runs) * self._bytes_of_model(standing),
            seconds_training=sum(run.seconds for run in runs.values()),
            seconds_other=watch.seconds() - trained_for,
            peak_memory_bytes=max([peak_bytes(), *(run.peak_bytes for run in runs.values())]),
            energy_joules=self.meter.joules(),
            warnings=tuple(warnings_of(quality, last.quality, played, withheld, findings)),
            sent=tuple(numbers[account] for account in played.tallied),
            weights=tuple(vote.weight for vote in played.tallied.values()),
            scores=tuple(vote.score for vote in played.tallied.values()),
        )

    def _train(self, fleet: Fleet, screen: Screen, standing: Standing) -> dict[Address, LocalRun]:
        """The clients' part of the round that comes now."""
        chosen = self.experiment.drawn(standing.played + 1, standing.reputations)
        screen.begin(standing.played + 1, len(chosen))
        runs: dict[Address, LocalRun] = {}
        for account, run in fleet.train(standing, chosen):
            runs[account] = run
            screen.advance()
        if runs and not standing.played and not _updates(runs):
            raise TrainingError(f"no client could train: {next(iter(runs.values())).why}")
        return runs

    def measure(self, model: Int32Array) -> tuple[Quality, Fairness]:
        """On the test set, and on some of each client's own data. model: (P,) int32."""
        given, loss, test = self.experiment.model, self.experiment.loss, self.experiment.split.test
        vector = self.vector(model)
        self.trainer.arrange(test)  # as it was trained, though other processes did
        found = predict(given.module, vector, test, loss)
        right = predict(given.module, vector, self.own_data, loss).classes == self.own_data.labels
        local = Fairness.of([float(right[start:end].mean()) for start, end in pairwise([0, *self.ends])])
        return Quality.of(found.classes, test.labels, test.num_classes, found.loss), local

    def _tampered(self, number: int, trained: Updates) -> Updates:
        tampering = self.experiment.tampering
        return trained if tampering is None or not trained else tampering.updates(number, trained)

    def vector(self, model: Int32Array) -> Float32Array:
        """(P,) float32."""
        return dequantize_model(model, self.experiment.recipe.format.model_scale_bits)

    def _bytes_up(self, played: SimulatedRound, base_root: Root) -> int:
        scope = self.experiment.scope
        return sum(
            _update_bytes(update.values, scope.update_metadata(played.number, account, base_root), scope.compression)
            for account, update in played.encoded.items()
        )

    def _bytes_of_model(self, standing: Standing) -> int:
        """Of the file that a worker fetches before it trains."""
        counter, scope = _Counter(), self.experiment.scope
        state = standing.state
        if state is None and scope.format.has_state:
            state = np.zeros(scope.format.state_params, np.int32)
        return write_model(counter, standing.model, scope.model_metadata(), state)  # type: ignore[arg-type]


class _Counter:
    """A file that keeps nothing."""

    def write(self, data: bytes) -> int:
        """Takes all of it."""
        return len(data)


def _updates(runs: Mapping[Address, LocalRun]) -> dict[Address, TrainedUpdate]:
    return {account: run.update for account, run in runs.items() if run.update is not None}


def _withheld(runs: Mapping[Address, LocalRun], numbers: Mapping[Address, int]) -> list[tuple[int, str]]:
    return [(numbers[account], run.why) for account, run in runs.items() if run.update is None]


def _findings(runs: Mapping[Address, LocalRun], numbers: Mapping[Address, int]) -> dict[str, list[int]]:
    """By each kind, the clients."""
    found: dict[str, list[int]] = {}
    for account, update in _updates(runs).items():
        for finding in update.findings:
            found.setdefault(finding, []).append(numbers[account])
    return found


def _update_bytes(values: Int16Array, metadata: UpdateMetadata, compression: Compression) -> int:
    return write_update(_Counter(), values, metadata, compression)  # type: ignore[arg-type]


def _sample(share: Dataset) -> Dataset:
    """At most LOCAL_EXAMPLES, spread over the whole of it; as a model sees them, whatever each client stores."""
    part = share.subset(np.linspace(0, len(share) - 1, min(LOCAL_EXAMPLES, len(share))).astype(np.int64))
    return Dataset("own data", part.features, part.labels, 0)


def _mean(values: Sequence[float]) -> float | None:
    """None for nothing, and for what is not finite: JSON has no word for it."""
    mean = sum(values) / len(values) if values else float("nan")
    return mean if np.isfinite(mean) else None
