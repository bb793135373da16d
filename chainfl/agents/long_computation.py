"""What a thread that computes for minutes asks of the system, where the system has it. Nothing of it changes a result.

**Long time slices** (Linux from 6.12 on). With more trainings on a machine than cores the kernel turns from one to the
next every few milliseconds, and each then finds its caches full of another's numbers. Four that share two cores take 5
to 8 % less processor time with slices of 100 ms. Whoever has shorter ones, such as the loop beside the training, is not
kept waiting: it may cut in. https://docs.kernel.org/scheduler/sched-eevdf.html

**Memory that stays** (glibc). A local step frees all that it has allocated. By its defaults the C library then gives
the pages back to the system, in a thread even whole heaps, and the next step gets them again, zeroed and one by one:
60,000 page faults a second were seen, and steps that took 13 % more. `mallopt(3)`
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LONG_S = 0.1
"""The longest time slice that the kernel grants."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The call's number: the C library has had no wrapper for it before glibc 2.41."""
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""`struct sched_attr`: size, policy, flags, nice, priority, runtime (here the slice), deadline, period; nanoseconds."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = {_TRIM_THRESHOLD: 1 << 30, _TOP_PAD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}
"""mallopt's parameters and their values in bytes. A thread's heap has 64 MiB; what has half of it is mapped alone."""


@contextmanager
def long_computation() -> Iterator[None]:
    """For the calling thread, which takes long slices from now on; memory goes back to the system at the end."""
    take_long_slices()
    keeps = keep_memory()
    try:
        yield
    finally:
        if keeps:
            ctypes.CDLL(None).malloc_trim(0)


def take_long_slices() -> bool:
    """For the calling thread, as long as it lives. returns: whether the system knows of such a thing."""
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    size, slice_ns = _ATTRIBUTES.size, round(LONG_S * 1e9)
    attributes = _ATTRIBUTES.pack(size, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    failed: int = ctypes.CDLL(None).syscall(number, 0, attributes, 0)
    return not failed


def keep_memory() -> bool:
    """For this process, from now on. returns: whether its C library does."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(name, value) for name, value in _KEPT.items())
