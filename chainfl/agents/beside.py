"""Local training beside the loop: an agent that trains goes on looking at the chain, and can train ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from chainfl.agents.long_computation import long_computation
from chainfl.errors import TrainingStopped
from chainfl.types import Root

TRAINING_LOOK_S = 1.0
"""How long one look at a running training may take; demands are answered between the looks."""

MAX_STEP_S = 60.0
"""How long the end of a process waits for a local step to end."""

_T = TypeVar("_T")
_M = TypeVar("_M")


@dataclass(frozen=True, slots=True)
class Start:
    """What a training starts from. Equal starts come to the same bits."""

    round: int
    model_root: Root


@dataclass(slots=True)
class _Job(Generic[_T]):
    start: Start
    stop: threading.Event = field(default_factory=threading.Event)
    found: Future[tuple[_T, float]] = field(default_factory=Future)


class Beside(Generic[_T]):
    """One training at a time, in a thread of its own. Used from one thread.

    First it fetches what it starts from, and a stranger decides how slowly that arrives: one that fetches holds up no
    other. Then it trains, in its turn, since a trainer belongs to one training; whoever begins anew tells it to end.
    """

    def __init__(self) -> None:
        self._job: _Job[_T] | None = None
        # Held by whoever trains, until its result is there.
        self._turn = threading.Lock()

    def begin(self, start: Start, fetch: Callable[[], _M], train: Callable[[_M, threading.Event], _T]) -> bool:
        """Unless this start's training runs or is done; again where it has failed. returns: whether it begins now.

        train: is given what was fetched, and what tells it to end soon.
        """
        if self._job is not None and self.start == start and not self.has_failed:
            return False
        if self._job is not None:
            self._job.stop.set()
        job = self._job = _Job(start)
        # It does not hold up the end of the process: `close` does, for as long as a step takes.
        name, work = f"chainfl training of round {start.round}", (job, self._turn, fetch, train)
        threading.Thread(target=_run, args=work, name=name, daemon=True).start()
        return True

    @property
    def start(self) -> Start | None:
        """Of the training that runs or is done, if it is still wanted."""
        return None if self._job is None or self._job.stop.is_set() else self._job.start

    @property
    def has_failed(self) -> bool:
        """Whether the training has ended badly."""
        return self._job is not None and self._job.found.done() and self._job.found.exception() is not None

    def wait(self, timeout_s: float) -> bool:
        """Until the training has ended, well or badly, or the time is over. returns: whether none runs any more."""
        return self._job is None or bool(wait([self._job.found], timeout_s).done)

    def free_trainer(self, timeout_s: float) -> bool:
        """For whoever needs the trainer itself: waits for one that trains, so long; one that still fetches never will.

        returns: whether nobody trains any more.
        """
        if not self._turn.acquire(timeout=timeout_s):
            return False
        try:
            if self._job is not None and not self._job.found.done():
                self._job.stop.set()
        finally:
            self._turn.release()
        return True

    def result(self) -> tuple[_T, float]:
        """What a training that has ended came to, and the seconds that it took. Raises what ended it badly."""
        assert self._job is not None, "asked for a training that never began"
        return self._job.found.result(timeout=0)

    def drop(self) -> None:
        """Nobody wants it any more: one that runs is told to end, one that is done is forgotten."""
        if self._job is None:
            return
        self._job.stop.set()
        if self._job.found.done():
            self._job = None

    def close(self, timeout_s: float) -> None:
        """The same, and waits until nobody trains, so that the process does not end in the middle of a step."""
        self.drop()
        self.free_trainer(timeout_s)


def _run(
    job: _Job[_T], turn: threading.Lock, fetch: Callable[[], _M], train: Callable[[_M, threading.Event], _T]
) -> None:
    try:
        found = fetch()
    except BaseException as error:  # noqa: BLE001  # the thread's boundary: whoever asks for the result gets it
        job.found.set_exception(error)
        return
    with turn, long_computation():
        _train(job, partial(train, found, job.stop))


def _train(job: _Job[_T], train: Callable[[], _T]) -> None:
    try:
        if job.stop.is_set():
            raise TrainingStopped("nobody wants it any more")
        started = time.monotonic()
        job.found.set_result((train(), time.monotonic() - started))
    except BaseException as error:  # noqa: BLE001  # the thread's boundary: whoever asks for the result gets it
        job.found.set_exception(error)
