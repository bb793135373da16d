"""Processes of the demo: none is left behind, and a failure is told with its log."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from chainfl.simulation.processes import ParticipantFailed, ProcessGroup, last_line


@pytest.fixture
def group(tmp_path: Path) -> ProcessGroup:
    return ProcessGroup(tmp_path, grace_s=0.5)


def test_process_group__wrong_command__is_told_with_its_log(group: ProcessGroup, tmp_path: Path):
    with group:
        participant = group.start("worker-1", ["no-such-command"], {})
        participant.process.wait()
        with pytest.raises(ParticipantFailed, match="worker-1 ended with exit code 2") as failure:
            group.check()
    assert str(tmp_path / "worker-1.log") in failure.value.hint


def test_process_group__left__ends_even_who_ignores_sigterm(group: ProcessGroup, monkeypatch: pytest.MonkeyPatch):
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    monkeypatch.setattr("subprocess.Popen", _running(sys.executable, stubborn))
    with group:
        participant = group.start("validator-1", [], {})
        while "up" not in participant.log.read_text():
            participant.process.poll()
    assert participant.process.returncode == -signal.SIGKILL


def test_process_group__ended_well__is_no_failure(group: ProcessGroup):
    with group:
        group.start("aggregator", ["--version"], {})
        group.wait(30)


def test_process_group__may_fail__is_no_failure(group: ProcessGroup):
    with group:
        participant = group.start("attacker", ["no-such-command"], {}, may_fail=True)
        participant.process.wait()
        group.check()


def test_process_group__held_up__ends_all_the_same(group: ProcessGroup, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("subprocess.Popen", _running(sys.executable, "import time; time.sleep(600)"))
    with group:
        participant = group.start("aggregator", [], {})
        participant.hold_up()
    assert participant.process.returncode == -signal.SIGTERM


def test_last_line__empty_log__says_so(tmp_path: Path):
    (tmp_path / "x.log").write_text("\n")
    assert last_line(tmp_path / "x.log") == "it wrote nothing"


def _running(python: str, code: str) -> object:
    """Popen that runs `code` whatever it is asked to run."""
    import subprocess

    real = subprocess.Popen

    def popen(_command: object, **options: object) -> object:
        return real([python, "-c", code], **options)  # type: ignore[call-overload]

    return popen
