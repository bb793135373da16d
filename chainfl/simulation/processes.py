"""Processes that end with the demo: started together, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from chainfl.errors import ChainflError
from chainfl.simulation.nursery import Nursery, Process

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Nine processes on two cores: threads that fight for them are slower than one."""


class ParticipantFailed(ChainflError):
    """A process of the demo ended on its own, with an error."""

    exit_code = 79
    hint_template = "Its log is {log}."


@dataclass(frozen=True, slots=True)
class Participant:
    """One process. name: as the view shows it; log: where standard output and error go.

    may_fail: it may end with an error, and the others go on.
    """

    name: str
    process: Process
    log: Path
    may_fail: bool = False

    def hold_up(self) -> None:
        """Stops the clock of the process until `let_go`."""
        _signal(self.process, signal.SIGSTOP)

    def let_go(self) -> None:
        """Ends `hold_up`."""
        _signal(self.process, signal.SIGCONT)


@contextmanager
def open_group(logs: Path, env: Mapping[str, str]) -> Iterator[ProcessGroup]:
    """A group with a nursery beside it, where there can be one, that imports with `env` while others work."""
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        linux = sys.platform == "linux"
        nursery = stack.enter_context(Nursery(logs / "nursery.log", env)) if linux else None
        yield stack.enter_context(ProcessGroup(logs, nursery=nursery))


class ProcessGroup:
    """A context whose end, however it comes, ends all of its processes: SIGTERM, and SIGKILL for who stays."""

    def __init__(self, logs: Path, grace_s: float = 10.0, *, nursery: Nursery | None = None) -> None:
        """nursery: open as long as this is. Processes start from it as far as it can, else one by one."""
        self._logs = logs
        self._grace_s = grace_s
        self._nursery = nursery
        self._participants: list[Participant] = []

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        *,
        module: str = "chainfl.cli.main",
        may_fail: bool = False,
    ) -> Participant:
        """Runs `chainfl ARGUMENTS`, or another module's, with `env` added to this process's environment."""
        log = self._logs / f"{name}.log"
        with log.open("wb") as sink:
            process = self._start(module, arguments, os.environ | env, sink)
        participant = Participant(name, process, log, may_fail)
        self._participants.append(participant)
        return participant

    def _start(self, module: str, arguments: Sequence[str], env: Mapping[str, str], sink: IO[bytes]) -> Process:
        if self._nursery and (forked := self._nursery.start(module, arguments, env, sink)):
            return forked
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=env,
            # A terminal sends Ctrl-C to its whole group; these are ended here, in order, and only once.
            start_new_session=True,
        )

    def check(self) -> None:
        """Raises ParticipantFailed if one ended with an error."""
        for participant in self._participants:
            code = participant.process.poll()
            if code not in (None, 0) and not participant.may_fail:
                raise ParticipantFailed(
                    f"{participant.name} ended with exit code {code}: {last_line(participant.log)}",
                    log=str(participant.log),
                )

    def wait(self, timeout_s: float) -> None:
        """Lets the processes end by themselves, for at most `timeout_s`. Raises ParticipantFailed as `check` does."""
        deadline = time.monotonic() + timeout_s
        for participant in self._participants:
            try:
                participant.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return
        self.check()

    def stop(self) -> None:
        """Ends every process and waits for it."""
        running = [p.process for p in self._participants if p.process.poll() is None]
        for process in running:
            _signal(process, signal.SIGTERM)
            # One that is held up would not hear it.
            _signal(process, signal.SIGCONT)
        deadline = time.monotonic() + self._grace_s
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave half of them running.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.stop()
        finally:
            signal.signal(signal.SIGINT, previous)


def last_line(log: Path) -> str:
    """The last line that a process wrote, for a message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"


def _signal(process: Process, number: signal.Signals) -> None:
    """To the process and whatever it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it ended in between, which is what we want
