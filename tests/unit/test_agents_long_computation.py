"""What a training asks of the system: slices of its own thread alone, memory while it lasts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chainfl.agents import long_computation
from chainfl.agents.long_computation import LONG_S, keep_memory, take_long_slices

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
    monkeypatch.setattr(long_computation.platform, "machine", lambda: "riscv64")
    assert not take_long_slices()


# --- memory --------------------------------------------------------------------------------------

STEPS = """
import contextlib, resource, sys, threading
from pathlib import Path
import numpy as np
from chainfl.agents.long_computation import long_computation

def steps():
    for _ in range(20):
        held = [np.ones(3 << 17) for _ in range(40)]  # 3 MiB each
        del held

def work():
    with long_computation() if "keep" in sys.argv else contextlib.nullcontext():
        steps()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        steps()
        told = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, resident()
    print(*told, resident())

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def steps_in_a_process(*arguments: str) -> list[int]:
    """Page faults of twenty steps, and the memory held before the end of the computation and after it."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, *arguments], env=env, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_long_computation__steps_that_allocate_alike__fault_no_more_and_memory_goes_back_in_the_end():
    usual, (kept, held, left) = steps_in_a_process()[0], steps_in_a_process("keep")
    assert kept < 1000 < usual
    assert left < held - (32 << 20)


def test_keep_memory__library_without_mallopt__is_left_alone(monkeypatch):
    monkeypatch.setattr(long_computation.ctypes, "CDLL", lambda name: object())
    assert not keep_memory()
