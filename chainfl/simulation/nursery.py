"""A process that has imported what participants need, once, and forks for each of them.

Each is a process of its own, with its session, environment, arguments and log, as if it had been started by
`python -m MODULE ARGUMENTS`; only `ps` shows the nursery's command line. Linux alone has it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

PRELOADED = (
    "chainfl.cli.agents",
    "chainfl.agents.learning",
    "chainfl.agents.wiring",
    "chainfl.chain.operator",
    "chainfl.storage.embedded",
    "chainfl.training.trainer",
)
"""With all that they import. None is run as a program itself: `python -m` wants those not to be there yet."""

_MESSAGE_BYTES = 1 << 17


class Process(Protocol):
    """What `subprocess.Popen` and `Forked` share."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit code. Raises subprocess.TimeoutExpired."""
        ...


class Nursery:
    """A context in which processes start in a moment. Whoever opened it ends them before leaving."""

    def __init__(self, log: Path, env: Mapping[str, str]) -> None:
        """log: of the nursery itself. env: added to this process's environment while it imports."""
        self._log = log
        self._env = os.environ | env
        self._known: set[int] = set()
        self._ended: dict[int, int] = {}

    def __enter__(self) -> Nursery:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._log.open("wb") as sink:
            self._server = subprocess.Popen(
                # The log's path is for who reads the list of processes.
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(self._log)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self._env,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It may still import, and would not see the end of its socket before that is done.
        self._server.terminate()
        self._server.wait()
        with self._socket:
            # Ctrl-C may have come between an order and its answer.
            while (told := self._hear()) is not None:
                if "born" in told:
                    _end(told["born"])

    @property
    def pid(self) -> int:
        """Of the nursery itself."""
        return self._server.pid

    def start(self, module: str, arguments: Sequence[str], env: Mapping[str, str], sink: IO[bytes]) -> Forked | None:
        """As `python -m MODULE ARGUMENTS`, in `env` and this folder. sink: standard output and error.

        returns: None where the nursery cannot: it does not run, or importing has started threads.
        """
        order = {"argv": [module, *arguments], "env": dict(env), "cwd": str(Path.cwd())}
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [sink.fileno()])
        except OSError:
            return None
        while (told := self._hear()) is not None:
            if "born" in told:
                self._known.add(told["born"])
                self._ended.pop(told["born"], None)
                return Forked(self, told["born"])
            if told["ended"] not in self._known:
                return None  # it ended before it was born: this folder may be gone
        return None

    def exit_code(self, pid: int, timeout: float | None) -> int | None:
        """Of one that ended within so many seconds; of one that runs on, or not known to have ended, None."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while pid not in self._ended:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return None
            if self._hear() is None:
                # Nobody tells any more how it ends; what nobody watches may not run on.
                _end(pid)
                self._ended[pid] = -signal.SIGKILL
        return self._ended[pid]

    def _hear(self) -> dict[str, int] | None:
        """The next message, taken in; None if there will be none."""
        try:
            message = self._socket.recv(_MESSAGE_BYTES)
        except OSError:
            return None
        if not message:
            return None
        told: dict[str, int] = json.loads(message)
        if "ended" in told:
            self._ended[told["ended"]] = told["code"]
        return told


@dataclass(slots=True, eq=False)
class Forked:
    """A process of a nursery. See `Process`."""

    nursery: Nursery
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """See `Process`."""
        return self._known(0)

    def wait(self, timeout: float | None = None) -> int:
        """See `Process`."""
        code = self._known(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def _known(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self.returncode = self.nursery.exit_code(self.pid, timeout)
        return self.returncode


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


# --- in the nursery ------------------------------------------------------------------------------


def main(number: int) -> None:
    """Serves the socket of that number until its other end is closed; in each fork, runs what was ordered."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    # What is there stays shared: a collector that marks objects would copy their pages.
    gc.freeze()
    with socket.socket(fileno=number) as parent:
        # A fork would have locks that a thread held, and not the thread.
        module = _serve(parent) if len(list(Path("/proc/self/task").iterdir())) == 1 else None
    if module is not None:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _serve(parent: socket.socket) -> str | None:
    """returns: in a fork, the module to run; in the nursery, None when nobody can order any more."""
    woken, waker = socket.socketpair()
    with woken, waker:
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready = select.select([parent, woken], [], [])[0]
            if woken in ready:
                woken.recv(_MESSAGE_BYTES)
                _tell_of_the_dead(parent)
            if parent in ready:
                order, files, _, _ = socket.recv_fds(parent, _MESSAGE_BYTES, 1)
                if not order:
                    return None
                if os.fork() == 0:
                    return _be_born(parent, json.loads(order), files[0])
                os.close(files[0])


def _tell_of_the_dead(parent: socket.socket) -> None:
    with suppress(ChildProcessError, BrokenPipeError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            told = {"ended": found[0], "code": os.waitstatus_to_exitcode(found[1])}
            parent.sendall(json.dumps(told).encode())


def _be_born(parent: socket.socket, order: dict[str, Any], sink: int) -> str:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for standard in (1, 2):
        os.dup2(sink, standard)
    os.close(sink)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.argv[:] = order["argv"]
    # Only now: whoever asked may send signals to its group from here on.
    parent.sendall(json.dumps({"born": os.getpid()}).encode())
    return sys.argv[0]


if __name__ == "__main__":
    main(int(sys.argv[1]))
