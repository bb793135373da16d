"""Local training of many clients on one machine, one by one or in several processes: the same bits either way."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import ModuleType
from typing import Protocol

import cloudpickle

from chainfl.agents.player import NUMERIC_ERRORS
from chainfl.agents.worker import TrainedUpdate, UpdateTrainer
from chainfl.errors import TrainingDiverged, TrainingError
from chainfl.simulation.rounds import Standing
from chainfl.training.devices import TorchSettings, autograd_works, take_over, torch_settings
from chainfl.training.inputs import one_thread
from chainfl.types import Address

_STANDARD_ERROR = 2
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True, eq=False)
class LocalRun:
    """One client's part in a round. update: None if it was withheld, and `why`. peak_bytes: of its process so far."""

    update: TrainedUpdate | None
    why: str
    seconds: float
    peak_bytes: int


class Fleet(Protocol):
    """Trains clients."""

    def train(self, standing: Standing, clients: Sequence[Address]) -> Iterator[tuple[Address, LocalRun]]:
        """Each client's run in the round that comes now, in the order given, as soon as it is there."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class OneProcess:
    """All clients in this process, one after another."""

    trainers: Mapping[Address, UpdateTrainer]

    def train(self, standing: Standing, clients: Sequence[Address]) -> Iterator[tuple[Address, LocalRun]]:
        """See `Fleet`."""
        for client in clients:
            yield client, train_one(self.trainers[client], standing, client)


@dataclass(frozen=True, slots=True, eq=False)
class ManyProcesses:
    """Whichever process is free takes the next client."""

    pool: ProcessPoolExecutor

    def train(self, standing: Standing, clients: Sequence[Address]) -> Iterator[tuple[Address, LocalRun]]:
        """See `Fleet`."""
        # A process needs of the others' residuals and memories nothing.
        own = [standing.only(client) for client in clients]
        try:
            yield from zip(clients, self.pool.map(_train_here, own, clients), strict=True)
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process of clients ended by itself; is there memory for so many processes?"
            ) from error


@contextmanager
def open_fleet(trainers: Mapping[Address, UpdateTrainer], processes: int) -> Iterator[Fleet]:
    """The clients' trainers, in so many processes while the context lasts; they hold what the trainers hold.

    Raises TrainingError where other processes cannot have them.
    """
    if processes == 1:
        yield OneProcess(trainers)
        return
    pool = _forked(trainers, processes) if _forks_can_train() else _fresh(trainers, processes)
    with pool:
        yield ManyProcesses(pool)


def _forked(trainers: Mapping[Address, UpdateTrainer], processes: int) -> ProcessPoolExecutor:
    """Forks of this process: they have modules and data at once, and share the memory that they only read."""
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, context, initializer=_enter, initargs=(trainers,))
    # All of them start with the first call: now, before there are threads that a fork would cut off.
    pool.submit(peak_bytes).result()
    return pool


def _fresh(trainers: Mapping[Address, UpdateTrainer], processes: int) -> ProcessPoolExecutor:
    """Processes that import anew, each with a copy of all data.

    What the caller's script or notebook defines travels by value: like forks, they need no `if __name__ == "__main__"`.
    """
    initargs = (_packed(trainers), torch_settings())
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_enter_fresh, initargs=initargs
    )
    try:
        with _main_hidden():
            started = [pool.submit(peak_bytes) for _ in range(processes)]
        for one in started:
            one.result()
    except BrokenProcessPool as error:
        raise TrainingError(
            "the processes of clients did not start; standard error says why. With processes=1 none is needed"
        ) from error
    return pool


def _packed(trainers: Mapping[Address, UpdateTrainer]) -> bytes:
    try:
        packed: bytes = cloudpickle.dumps(dict(trainers))
    except Exception as error:
        raise TrainingError(
            f"the clients cannot be copied to other processes ({error}), and autograd has threads in this one, so that "
            "it cannot be forked either. Call `simulate` before anything else is trained or exported here, or leave "
            "`processes` out: the result is the same"
        ) from error
    return packed


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Processes that are started meanwhile do not run the caller's script again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _forks_can_train() -> bool:
    """Asks a fork. macOS has forks too, but its own libraries do not bear them."""
    if sys.platform != "linux":
        return False
    probe = multiprocessing.get_context("fork").Process(target=_probe)
    probe.start()
    probe.join()
    return probe.exitcode == 0


def _probe() -> None:
    # Where autograd does not bear a fork, torch may end it with a page of C++ on standard error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STANDARD_ERROR)
    raise SystemExit(not autograd_works())


def train_one(trainer: UpdateTrainer, standing: Standing, client: Address) -> LocalRun:
    """One client's round. What a worker would withhold, for losses or numbers that are none, is withheld here."""
    started = time.perf_counter()
    update, why = None, ""
    try:
        update = standing.train(client, trainer)
    except (TrainingDiverged, *NUMERIC_ERRORS) as error:
        why = str(error) or type(error).__name__
    return LocalRun(update, why, time.perf_counter() - started, peak_bytes())


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES


_HERE: dict[Address, UpdateTrainer] = {}
"""In a process of a pool: what it trains."""


def _enter(trainers: Mapping[Address, UpdateTrainer]) -> None:
    # Ctrl-C reaches every process of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="chainfl parent", daemon=True).start()
    _HERE.update(trainers)


def _end_with_parent() -> None:
    """However the first process ends: what outlived it would hold memory, cores and the lock of its folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "it belongs to a pool"
    wait([parent.sentinel])
    os._exit(1)


def _enter_fresh(packed: bytes, settings: TorchSettings) -> None:
    take_over(settings)
    _enter(cloudpickle.loads(packed))


def _train_here(standing: Standing, client: Address) -> LocalRun:
    with one_thread():
        return train_one(_HERE[client], standing, client)
