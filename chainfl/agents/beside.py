"""Local training beside the loop: an agent that trains goes on looking at the chain, and can train ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from chainfl.types import Root

TRAINING_LOOK_S = 1.0
"""How long one look at a running training may take; demands are answered between the looks."""

MAX_STEP_S = 60.0
"""How long the end of a process waits for a local step to end."""

_T = TypeVar("_T")


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
    thread: threading.Thread | None = None


class Beside(Generic[_T]):
    """One training at a time, in a thread of its own. Used from one thread.

    A trainer belongs to one training, so a new one begins when the one before it has ended, and that one is told to.
    """

    def __init__(self) -> None:
        self._job: _Job[_T] | None = None

    def begin(self, start: Start, train: Callable[[threading.Event], _T]) -> bool:
        """Unless this start's training runs or is done; again where it has failed. returns: whether it begins now.

        train: is given what tells it to end soon.
        """
        before = self._job
        if before is not None and self.start == start and not _has_failed(before.found):
            return False
        if before is not None:
            before.stop.set()
        job = self._job = _Job(start)
        # It does not hold up the end of the process: `close` does, for as long as a step takes.
        name = f"chainfl training of round {start.round}"
        job.thread = threading.Thread(target=_run, args=(job, before, train), name=name, daemon=True)
        job.thread.start()
        return True

    @property
    def start(self) -> Start | None:
        """Of the training that runs or is done, if it is still wanted."""
        return None if self._job is None or self._job.stop.is_set() else self._job.start

    def wait(self, timeout_s: float) -> bool:
        """Until the training has ended, well or badly, or the time is over. returns: whether none runs any more."""
        return self._job is None or bool(wait([self._job.found], timeout_s).done)

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
        """The same, and waits until the thread has ended, so that the process does not end in the middle of a step."""
        self.drop()
        if self._job is not None and self._job.thread is not None:
            self._job.thread.join(timeout_s)


def _has_failed(found: Future[Any]) -> bool:
    return found.done() and found.exception() is not None


def _run(job: _Job[_T], before: _Job[_T] | None, train: Callable[[threading.Event], _T]) -> None:
    if before is not None and before.thread is not None:
        before.thread.join()
    try:
        started = time.monotonic()
        job.found.set_result((train(job.stop), time.monotonic() - started))
    except BaseException as error:  # noqa: BLE001  # the thread's boundary: whoever asks for the result gets it
        job.found.set_exception(error)
