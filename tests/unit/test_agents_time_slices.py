"""A training's time slices: its own thread's alone, with everything else as it was."""

from __future__ import annotations

import os
import platform
import sys
import threading
from pathlib import Path

import pytest

from chainfl.agents import time_slices
from chainfl.agents.time_slices import LONG_S, take_long_slices

linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="only Linux has such slices"
)


def in_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def slice_s() -> float | None:
    """Of the calling thread, in seconds, where this kernel says it."""
    path = Path(f"/proc/self/task/{threading.get_native_id()}/sched")
    lines = path.read_text().splitlines() if path.exists() else []
    told = [line.split()[-1] for line in lines if line.startswith("se.slice")]
    return int(told[0]) / 1e9 if told else None


@linux
def test_take_long_slices__nice_thread__stays_as_nice_and_the_others_keep_theirs():
    def work() -> tuple[bool, int, int, float | None]:
        os.setpriority(os.PRIO_PROCESS, 0, 3)
        return take_long_slices(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), slice_s()

    before = slice_s()
    taken, nice, policy, told = in_a_thread(work)
    assert taken
    assert (nice, policy) == (3, os.SCHED_OTHER)
    assert told in (None, LONG_S) or before == told, "a kernel before 6.12 knows of one slice alone"
    assert slice_s() == before
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0


@linux
def test_take_long_slices__another_policy__is_left_alone():
    def work() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return take_long_slices(), os.sched_getscheduler(0)

    assert in_a_thread(work) == (False, os.SCHED_BATCH)


def test_take_long_slices__unknown_machine__is_left_alone(monkeypatch):
    monkeypatch.setattr(time_slices.platform, "machine", lambda: "riscv64")
    assert not take_long_slices()
