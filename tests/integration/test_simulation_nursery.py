"""Processes from a nursery are as those that `python -m` starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from chainfl.simulation.nursery import Forked, Nursery, Process
from chainfl.simulation.processes import ParticipantFailed, ProcessGroup

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a nursery forks, which Linux alone bears")

TELLS = """
import atexit, json, os, signal, sys
atexit.register(lambda: print("ended"))
env = sorted(item for item in os.environ.items() if item[0] != "LC_CTYPE")
main = sys.modules["__main__"].__dict__ is globals()
handlers = [signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM)]
handlers = [getattr(handler, "__qualname__", str(handler)) for handler in handlers]
files, stdin, leads = os.listdir("/proc/self/fd"), sys.stdin.read(), os.getsid(0) == os.getpid()
print(json.dumps([sys.argv, env, os.getcwd(), leads, handlers, __name__, main, __package__, stdin, files, sys.path]))
print("an error", file=sys.stderr)
"""
WAITS = "import signal\nprint('up', flush=True)\nsignal.pause()\n"

Start = Callable[..., Process]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("modules")
    (found / "tells.py").write_text(TELLS)
    (found / "fails.py").write_text("raise SystemExit(3)")
    (found / "waits.py").write_text(WAITS)
    (found / "loaded.py").write_text("import sys\nprint('torch' in sys.modules)")
    return found


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}


@pytest.fixture(scope="module")
def nursery(folder: Path, environment: dict[str, str]) -> Iterator[Nursery]:
    with Nursery(folder / "nursery.log", environment) as found:
        yield found


@pytest.fixture
def group(nursery: Nursery, tmp_path: Path) -> Iterator[ProcessGroup]:
    with ProcessGroup(tmp_path, grace_s=5.0, nursery=nursery) as found:
        yield found


def lines_of(start: Start, log: Path) -> list[str]:
    """Of its log: standard error, and standard output, which comes when it ends."""
    with log.open("wb") as sink:
        assert start(sink).wait(60) == 0
    return sorted(log.read_text().splitlines())


def test_nursery__module__runs_as_if_python_had_started_it(nursery, environment, tmp_path):
    env = os.environ | environment | {"OF_ITS_OWN": "1"}

    def usual(sink: IO[bytes]) -> subprocess.Popen[bytes]:
        command, here = [sys.executable, "-m", "tells", "--a", "b c"], subprocess.DEVNULL
        return subprocess.Popen(command, stdin=here, stdout=sink, stderr=sink, env=env, start_new_session=True)

    forked = lines_of(lambda sink: nursery.start("tells", ["--a", "b c"], env, sink), tmp_path / "forked.log")
    assert forked == lines_of(usual, tmp_path / "usual.log")
    assert len(forked) == 3


def test_nursery__module__finds_torch_there(nursery, tmp_path):
    env = dict(os.environ)
    assert lines_of(lambda sink: nursery.start("loaded", [], env, sink), tmp_path / "a.log") == ["True"]


def test_nursery__ends_with_an_error__is_told_with_its_log(group, environment, tmp_path):
    participant = group.start("worker-1", [], environment, module="fails")
    assert participant.process.wait(60) == 3
    with pytest.raises(ParticipantFailed, match="worker-1 ended with exit code 3") as failure:
        group.check()
    assert str(tmp_path / "worker-1.log") in failure.value.hint


def test_nursery__command_of_chainfl__is_run_without_a_word_beside_its_own(group):
    participant = group.start("worker-1", ["--version"], {})
    group.wait(60)
    assert participant.log.read_text().startswith("chainfl, version")
    assert len(participant.log.read_text().splitlines()) == 1


def test_nursery__several__end_in_whatever_order(group, environment):
    stays, fails = (group.start(name, [], environment, module=name) for name in ("waits", "fails"))
    assert fails.process.wait(60) == 3
    assert stays.process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        stays.process.wait(0.01)
    os.killpg(stays.process.pid, signal.SIGKILL)
    assert stays.process.wait(60) == -signal.SIGKILL


def test_nursery__group_left__ends_who_is_held_up(nursery, environment, tmp_path):
    with ProcessGroup(tmp_path, grace_s=5.0, nursery=nursery) as group:
        participant = group.start("waits", [], environment, module="waits")
        participant.hold_up()
    assert participant.process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    "unfit",
    [
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import os; os._exit(1)",
    ],
)
def test_nursery__unfit_to_fork__processes_start_one_by_one(tmp_path, unfit):
    hidden = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nif 'nursery' in str(sys.orig_argv): exec({unfit!r})")
    with Nursery(tmp_path / "nursery.log", hidden) as nursery, ProcessGroup(tmp_path, nursery=nursery) as group:
        participant = group.start("worker-1", ["--version"], {})
        assert isinstance(participant.process, subprocess.Popen)
        group.wait(60)
    assert participant.log.read_text().startswith("chainfl, version")


def test_nursery__folder_is_gone__the_process_is_started_otherwise(nursery, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "nowhere")
    with (tmp_path / "a.log").open("wb") as sink:
        assert nursery.start("loaded", [], dict(os.environ), sink) is None


def test_nursery__killed__its_processes_end_and_the_next_start_one_by_one(folder, environment, tmp_path):
    with Nursery(folder / "nursery.log", environment) as nursery, ProcessGroup(tmp_path, nursery=nursery) as group:
        participant = group.start("waits", [], environment, module="waits", may_fail=True)
        assert isinstance(participant.process, Forked)
        os.kill(nursery.pid, signal.SIGKILL)
        assert participant.process.wait(60) == -signal.SIGKILL
        assert isinstance(group.start("worker-1", ["--version"], {}).process, subprocess.Popen)
        group.wait(60)
    for line in Path("/proc").glob(f"{participant.process.pid}/stat"):
        assert line.read_text().split(")")[-1].split()[0] in "ZX", "a corpse that nobody took in"
