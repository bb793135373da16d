"""Work beside the loop: fetching and uploading must not hold up an agent that has a deadline on chain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, wait
from typing import Any


class Background:
    """Runs jobs in threads of their own, at most `at_once` at a time. Used from one thread.

    A job that never ends keeps its place, and nothing else: its thread does not hold up the end of the process. (The
    threads of `concurrent.futures` would, and a stranger decides how slowly bytes arrive.)
    """

    def __init__(self, at_once: int) -> None:
        self._places = threading.BoundedSemaphore(at_once)
        self._jobs: dict[Hashable, Future[Any]] = {}

    def start(self, key: Hashable, work: Callable[[], Any]) -> None:
        """Begins the job, or begins it again when it has failed. One that runs or is done stays as it is."""
        known = self._jobs.get(key)
        if known is not None and not (known.done() and known.exception()):
            return
        job = self._jobs[key] = Future()
        threading.Thread(target=self._run, args=(job, work), name=f"chainfl {key}"[:60], daemon=True).start()

    def wait(self, keys: Iterable[Hashable], timeout_s: float) -> None:
        """Until these jobs have ended, well or badly, or until the time is over."""
        wait([self._jobs[key] for key in keys if key in self._jobs], timeout_s)

    def is_done(self, key: Hashable) -> bool:
        """Whether the job has a result."""
        job = self._jobs.get(key)
        return job is not None and job.done() and job.exception() is None

    def failure(self, key: Hashable) -> BaseException | None:
        """Why the job failed; None while it runs, and when it did not fail."""
        job = self._jobs.get(key)
        return job.exception() if job is not None and job.done() else None

    def result(self, key: Hashable) -> Any:
        """What a job that is done came to."""
        return self._jobs[key].result(timeout=0)

    def close(self) -> None:
        """Whatever has not begun never will. Jobs that run end when they end, for nobody."""
        for job in self._jobs.values():
            job.cancel()

    def _run(self, job: Future[Any], work: Callable[[], Any]) -> None:
        with self._places:
            if not job.set_running_or_notify_cancel():
                return
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  # the thread's boundary: whoever asks for the job gets it
                job.set_exception(error)
            else:
                job.set_result(result)
