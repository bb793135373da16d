"""Threads that keep no process from ending.

Those of `concurrent.futures` are joined when the interpreter ends, and how slowly bytes arrive is up to a stranger:
who presses Ctrl-C would wait for as long as the slowest request may take.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonPool(Executor):
    """An Executor of at most `workers` daemon threads, each of which lives as long as there is something to do."""

    def __init__(self, workers: int, name: str) -> None:
        self._workers = workers
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[object], Callable[[], object]]] = deque()
        self._running = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begins `fn` as soon as a thread is free."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool was shut down")
            self._waiting.append((future, lambda: fn(*args, **kwargs)))  # type: ignore[arg-type]
            if self._running == self._workers:
                return future
            self._running += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes nothing more, and waits for nobody whatever `wait` says; what has not begun may be cancelled."""
        with self._lock:
            self._closed = True
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for future, _ in dropped:
            future.cancel()

    def _work(self) -> None:
        while job := self._next():
            future, work = job
            if future.set_running_or_notify_cancel():
                _run(future, work)
            # Nothing of the last result may stay with a thread that waits for the next job's.
            del job, future, work

    def _next(self) -> tuple[Future[object], Callable[[], object]] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None


def _run(future: Future[object], work: Callable[[], object]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  # the thread's boundary: whoever asks for the result gets it
        future.set_exception(error)
    else:
        future.set_result(result)
