"""What benchmarks/overhead.py compares: three runs of the same training, each of which plays a round when it is told.

Whoever is not at its turn takes no time from the others: the plain loop's processes wait for work, Flower's strategy
waits before it configures the round, and the chain and all of its agents are stopped (SIGSTOP).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
from _flower import flower_process, said
from torch import nn

from chainfl.chain.anvil import AnvilProcess
from chainfl.errors import ChainError
from chainfl.simulation.demo import DemoConfig, Stage, set_stage, start_participants
from chainfl.simulation.processes import ONE_THREAD, Participant, ProcessGroup, open_group
from chainfl.tasks.state import Phase, RoundView
from chainfl.training.datasets import Dataset
from chainfl.training.models import build_model
from chainfl.training.presets import Preset
from chainfl.training.settings import LocalTraining
from chainfl.training.trainer import LocalTrainer

BLOCK_S = 1.0
"""Of the local chain; the task is looked at when there is a new one."""
CALM_S = 120.0
"""For so long beyond the window of Commit a phase may last; then something hangs."""

Vector = npt.NDArray[np.float32]


class Run(Protocol):
    """One way to train."""

    def play(self, number: int) -> float:
        """Round `number`, from 1 on, in turn. returns: wall seconds."""
        ...


# --- through chain and storage -------------------------------------------------------------------


class OnChain:
    """One task in processes of its own, as `chainfl demo` starts them. before: wall seconds up to the first round."""

    def __init__(self, stage: Stage, group: ProcessGroup, participants: Sequence[Participant], started: float) -> None:
        self._stage = stage
        self._group = group
        self._participants = participants
        self._model_root = self._leave(0).model_root
        self.before = time.monotonic() - started
        self._hold_up()

    def play(self, number: int) -> float:
        """Until the next round is open, or the task complete. Raises ChainError for a round without a new model."""
        started = time.monotonic()
        self._let_go()
        model_root = self._leave(number).model_root
        seconds = time.monotonic() - started
        self._hold_up()
        if model_root == self._model_root:
            raise ChainError(f"round {number} came to no model: its windows are too short for the others' turns")
        self._model_root = model_root
        return seconds

    def _leave(self, number: int) -> RoundView:
        """What is past the round; enrolment is 0. Raises ChainError if the task does not get there."""
        reader, seen, last_news = self._stage.reader, (-1, Phase.ENROLMENT), time.monotonic()
        block = reader.client.block()
        while True:
            self._group.check()
            view = reader.round(self._stage.task_id, block)
            if view.phase is Phase.COMPLETED or (view.round > number and view.phase is Phase.COMMIT):
                return view
            if view.phase.is_terminal:
                raise ChainError(f"the task ended as {view.phase.name.lower()}")
            if seen != (view.round, view.phase):
                seen, last_news = (view.round, view.phase), time.monotonic()
            elif time.monotonic() - last_news > CALM_S + self._stage.config.windows.commit:
                raise ChainError(f"round {view.round} has been in {view.phase.name.lower()} for too long")
            block = reader.client.wait_for_block(block.number, BLOCK_S)

    def _hold_up(self) -> None:
        for participant in self._participants:
            if participant.process.poll() is None:
                participant.hold_up()
        self._signal_chain(signal.SIGSTOP)

    def _let_go(self) -> None:
        """The chain first, so that nobody's request waits."""
        self._signal_chain(signal.SIGCONT)
        self._stage.anvil.rpc("eth_blockNumber")
        for participant in self._participants:
            if participant.process.poll() is None:
                participant.let_go()

    def _signal_chain(self, number: signal.Signals) -> None:
        pid = self._stage.anvil.pid
        assert pid is not None, "the chain runs as long as this"
        os.kill(pid, number)

    def resume(self) -> None:
        """So that everybody hears that it ends."""
        self._signal_chain(signal.SIGCONT)


@contextmanager
def on_chain(config: DemoConfig) -> Iterator[OnChain]:
    """Enrolled and held up before the first round. Raises ChainflError; leaves no process behind."""
    started = time.monotonic()
    with (
        AnvilProcess(config.folder / "chain", accounts=config.num_accounts) as anvil,
        open_group(config.folder / "logs", ONE_THREAD) as group,
    ):
        stage = set_stage(config, anvil)
        run = OnChain(stage, group, list(start_participants(stage, group).values()), started)
        try:
            yield run
        finally:
            run.resume()


# --- the plain loop ------------------------------------------------------------------------------


_HERE: dict[str, tuple[LocalTrainer, Sequence[Dataset], LocalTraining]] = {}
"""In a process of the pool: what it trains."""


class PlainLoop:
    """As many processes as there are cores train the workers, and float32 is averaged. Nothing else."""

    def __init__(self, pool: ProcessPoolExecutor, model: Vector, num_shares: int) -> None:
        self._pool = pool
        self._model = model
        self._num_shares = num_shares

    def play(self, number: int) -> float:
        """See `Run`."""
        started = time.monotonic()
        tasks = [(self._model, number, place) for place in range(self._num_shares)]
        deltas = list(self._pool.map(_train_here, tasks))
        self._model = (self._model + np.mean(deltas, axis=0)).astype(np.float32)
        return time.monotonic() - started


@contextmanager
def plain_loop(shares: Sequence[Dataset], preset: Preset, cores: int) -> Iterator[PlainLoop]:
    """Its processes have started and taken a step."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not outlive a fork
    with ProcessPoolExecutor(cores, context, initializer=_enter, initargs=(shares, preset)) as pool:
        list(pool.map(_is_ready, range(4 * cores)))
        yield PlainLoop(pool, LocalTrainer(module_of(preset)).initial_vector, len(shares))


def _enter(shares: Sequence[Dataset], preset: Preset) -> None:
    _HERE["all"] = LocalTrainer(module_of(preset)), shares, training_of(preset)


def _is_ready(_: int) -> bool:
    """A step, so that what loads lazily has loaded."""
    trainer, shares, training = _HERE["all"]
    trainer.train(trainer.initial_vector, shares[0], replace(training, steps=1), seed=0)
    return True


def _train_here(task: tuple[Vector, int, int]) -> Vector:
    model, number, place = task
    trainer, shares, training = _HERE["all"]
    return trainer.train(model, shares[place], training, seed=1000 * number + place).delta


def module_of(preset: Preset) -> nn.Module:
    """As it stands before any training."""
    return build_model(preset.model, preset.model_params, 0)


def training_of(preset: Preset) -> LocalTraining:
    """Its local training, FedAvg's."""
    return LocalTraining(
        steps=preset.steps,
        batch_size=preset.batch_size,
        learning_rate=preset.learning_rate,
        momentum=preset.momentum,
        weight_decay=preset.weight_decay,
    )


# --- Flower --------------------------------------------------------------------------------------


class InFlower:
    """Its simulation engine, which says when a round is over."""

    def __init__(self, told: IO[str], says: IO[str]) -> None:
        """told: a line starts a round; says: a line of JSON when it is over."""
        self._told = told
        self._says = says
        said(says, "ready")

    def play(self, number: int) -> float:
        """See `Run`."""
        self._told.write(f"{number}\n")
        self._told.flush()
        return float(said(self._says, "seconds"))


@contextmanager
def in_flower(shares: Sequence[Dataset], preset: Preset, rounds: int, cores: int) -> Iterator[InFlower]:
    """The engine's processes have started and taken a step."""
    with tempfile.TemporaryDirectory(prefix="chainfl-bench-") as folder:
        for place, share in enumerate(shares):
            np.savez(Path(folder) / f"{place}.npz", features=share.features, labels=share.labels)
        with flower_process(
            "_flower_overhead.py",
            extra="simulation",
            shares=folder,
            clients=len(shares),
            cores=cores,
            rounds=rounds,
            model=preset.model,
            model_params=dict(preset.model_params),
            steps=preset.steps,
            batch_size=preset.batch_size,
            learning_rate=preset.learning_rate,
            momentum=preset.momentum,
        ) as (told, says):
            yield InFlower(told, says)
