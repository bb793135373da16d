"""What chain and storage cost beside training: ten rounds of MNIST with four workers, and the same in a plain loop.

    python benchmarks/overhead.py [--json PATH] [--seconds 1,5,30] [--rounds N] [--rule NAME] [--flower 0]
                                  [--data FOLDER]

Three runs of the same local training over the same shares, on the same cores:

- through chain and storage: Anvil, and workers, a validator and an aggregator as processes, as `chainfl demo` starts
  them; from the first round's beginning to the task's end, with every window, dispute time and payout in it;
- the plain loop: as many processes as there are cores train the workers, and float32 is averaged. Nothing else;
- Flower's simulation engine (ray) with its FedAvg, each client on one core, once its processes have started.

`--seconds`: how long a worker trains in a round on a free core; the steps for it are measured first. The validator
weighs by `norm_bound`, which trains nothing: `--rule gate_clip` adds its own training on root data, which the other
two do not have.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _flower import flower
from _report import ROOT, Row, arguments, report
from torch import nn

from chainfl.chain.anvil import AnvilProcess
from chainfl.errors import ChainError
from chainfl.simulation.demo import POLL_S, DemoConfig, Stage, set_stage, start_participants
from chainfl.simulation.processes import ProcessGroup
from chainfl.tasks.spec import LOCAL_WINDOWS, ValidationEntry
from chainfl.tasks.state import Phase
from chainfl.training.datasets import Dataset, load_dataset
from chainfl.training.models import build_model
from chainfl.training.partition import demo_split
from chainfl.training.presets import Preset
from chainfl.training.settings import LocalTraining
from chainfl.training.trainer import LocalTrainer

WORKERS = 4
TARGET = 1.05
TARGET_SECONDS = 30.0
"""A worker's training in a round, from which on the target holds."""
SLACK_S = 30
CALM_S = 120.0
GRACE_S = 15.0
SAMPLE_STEPS = (10, 110)

Vector = npt.NDArray[np.float32]


# --- through chain and storage -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OnChain:
    """Wall seconds. rounds: from the first one's beginning to the task's end; before: from an empty folder to it."""

    rounds: float
    before: float


def on_chain(config: DemoConfig) -> OnChain:
    """One task in processes of its own. Raises ChainflError; leaves no process behind."""
    started = time.monotonic()
    with AnvilProcess(config.folder / "chain", accounts=config.num_accounts) as anvil:
        stage = set_stage(config, anvil)
        with ProcessGroup(config.folder / "logs") as group:
            start_participants(stage, group)
            began = _await(stage, group, Phase.ENROLMENT)
            ended = _await(stage, group, None)
            group.wait(GRACE_S)
    return OnChain(ended - began, began - started)


def _await(stage: Stage, group: ProcessGroup, phase: Phase | None) -> float:
    """The time at which the task has left the phase; None: at which it is complete."""
    client, seen, last_news = stage.reader.client, None, time.monotonic()
    block = client.block()
    while True:
        group.check()
        view = stage.reader.round(stage.task_id, block)
        if view.phase is Phase.COMPLETED or (phase is not None and view.phase is not phase):
            return time.monotonic()
        if view.phase.is_terminal:
            raise ChainError(f"the task ended as {view.phase.name.lower()}")
        if seen != (view.round, view.phase):
            seen, last_news = (view.round, view.phase), time.monotonic()
        elif time.monotonic() - last_news > CALM_S + stage.config.windows.commit:
            raise ChainError(f"round {view.round} has been in {view.phase.name.lower()} for too long")
        block = client.wait_for_block(block.number, POLL_S)


def configured(folder: Path, data: Path, *, rounds: int, steps: int, seconds: float, rule: str) -> DemoConfig:
    """Windows that bear the training of everybody on one core; they end when everybody has done its duty."""
    patience = round(WORKERS * seconds) + SLACK_S
    entry = ValidationEntry.model_validate({"rule": rule})
    return DemoConfig(
        folder,
        rounds=rounds,
        workers=WORKERS,
        validators=1,
        data="mnist",
        data_dir=data,
        windows=replace(LOCAL_WINDOWS, commit=patience, score_commit=patience),
        steps=steps,
        validation=entry,
    )


# --- the plain loop ------------------------------------------------------------------------------


_HERE: dict[str, tuple[LocalTrainer, Sequence[Dataset], LocalTraining]] = {}
"""In a process of the pool: what it trains."""


def plain_loop(shares: Sequence[Dataset], preset: Preset, rounds: int, cores: int) -> float:
    """Wall seconds of the same training, once the processes have started."""
    model = LocalTrainer(_module(preset)).initial_vector
    with _pool(shares, preset, cores) as pool:
        started = time.monotonic()
        for number in range(rounds):
            tasks = [(model, number, place) for place in range(len(shares))]
            deltas = list(pool.map(_train_here, tasks))
            model = (model + np.mean(deltas, axis=0)).astype(np.float32)
        return time.monotonic() - started


@contextmanager
def _pool(shares: Sequence[Dataset], preset: Preset, cores: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not outlive a fork
    with ProcessPoolExecutor(cores, context, initializer=_enter, initargs=(shares, preset)) as pool:
        list(pool.map(_is_ready, range(4 * cores)))
        yield pool


def _enter(shares: Sequence[Dataset], preset: Preset) -> None:
    _HERE["all"] = LocalTrainer(_module(preset)), shares, _training(preset)


def _is_ready(_: int) -> bool:
    """A step, so that what loads lazily has loaded."""
    trainer, shares, training = _HERE["all"]
    trainer.train(trainer.initial_vector, shares[0], replace(training, steps=1), seed=0)
    return True


def _train_here(task: tuple[Vector, int, int]) -> Vector:
    model, number, place = task
    trainer, shares, training = _HERE["all"]
    return trainer.train(model, shares[place], training, seed=1000 * number + place).delta


def _module(preset: Preset) -> nn.Module:
    return build_model(preset.model, preset.model_params, 0)


def _training(preset: Preset) -> LocalTraining:
    return LocalTraining(
        steps=preset.steps,
        batch_size=preset.batch_size,
        learning_rate=preset.learning_rate,
        momentum=preset.momentum,
        weight_decay=preset.weight_decay,
    )


def seconds_of_step(share: Dataset, preset: Preset) -> float:
    """On a free core: the median of three differences between a long and a short run, which looks at the data alike."""
    trainer, training = LocalTrainer(_module(preset)), _training(preset)

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        trainer.train(trainer.initial_vector, share, replace(training, steps=steps), seed=0)
        return time.perf_counter() - started

    seconds(SAMPLE_STEPS[0])  # what loads lazily loads here
    short, long = SAMPLE_STEPS
    return statistics.median((seconds(long) - seconds(short)) / (long - short) for _ in range(3))


# --- Flower --------------------------------------------------------------------------------------


def in_flower(shares: Sequence[Dataset], preset: Preset, rounds: int, cores: int, folder: Path) -> float:
    """Wall seconds of its rounds."""
    for place, share in enumerate(shares):
        np.savez(folder / f"{place}.npz", features=share.features, labels=share.labels)
    found = flower(
        "_flower_overhead.py",
        extra="simulation",
        shares=str(folder),
        clients=len(shares),
        cores=cores,
        rounds=rounds,
        model=preset.model,
        model_params=dict(preset.model_params),
        steps=preset.steps,
        batch_size=preset.batch_size,
        learning_rate=preset.learning_rate,
        momentum=preset.momentum,
    )
    return float(found["seconds"])


# --- the table -----------------------------------------------------------------------------------


def measured(seconds: float, rounds: int, rule: str, data: Path, with_flower: bool) -> list[Row]:
    """The rows of one length of training."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="chainfl-bench-") as name:
        folder = Path(name)
        trial = configured(folder / "chain", data, rounds=rounds, steps=1, seconds=seconds, rule=rule)
        # As the stage cuts it.
        split = demo_split(load_dataset("mnist", data), seed=trial.seed, num_workers=WORKERS, num_validators=1)
        steps = max(1, round(seconds / max(1e-4, seconds_of_step(split.workers[0], trial.preset))))
        config = replace(trial, steps=steps)
        config.folder.mkdir()
        (folder / "flower").mkdir()
        plain = plain_loop(split.workers, config.preset, rounds, cores)
        chain = on_chain(config)
        told = in_flower(split.workers, config.preset, rounds, cores, folder / "flower") if with_flower else None
    return _rows(seconds, rounds, steps, plain, chain, told)


def _rows(seconds: float, rounds: int, steps: int, plain: float, chain: OnChain, told: float | None) -> list[Row]:
    named = f"{seconds:g} s of training"
    target = TARGET if seconds >= TARGET_SECONDS else None
    words = f"plain loop {plain:.1f} s; {steps} steps a round"
    flower_words = "" if told is None else f"; Flower {told:.1f} s"
    rows = [
        Row(f"{named}: beside the plain loop", chain.rounds / plain, "times", words + flower_words, target),
        Row(f"{named}: {rounds} rounds through chain and storage", chain.rounds, "s", None, told),
        Row(f"{named}: a round's overhead", (chain.rounds - plain) / rounds, "s"),
        Row(f"{named}: until the first round", chain.before, "s", "deploying, publishing, starting, enrolling"),
    ]
    if told is not None:
        rows.insert(1, Row(f"{named}: Flower beside the plain loop", told / plain, "times"))
    return rows


def main() -> None:
    options = arguments(
        __doc__ or "",
        seconds=("1,5,30", "of training, a worker and round, with commas"),
        rounds=(10, "rounds"),
        rule=("norm_bound", "how the validator weighs"),
        flower=(1, "0 leaves Flower out"),
        data=(str(ROOT.parent / "shared" / "data" / "mnist"), "folder with MNIST's four files"),
    )
    rows = []
    for seconds in map(float, options.seconds.split(",")):
        rows += measured(seconds, options.rounds, options.rule, Path(options.data), bool(options.flower))
        print(f"{seconds:g} s of training: done", flush=True)
    report("overhead of chain and storage", rows, options.json, ("torch", "web3", "numpy"))


if __name__ == "__main__":
    main()
