"""Threads that keep no process from ending."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from chainfl.storage.daemons import DaemonPool

WAIT_S = 10


def test_submit__more_than_the_workers__all_run_and_never_more_at_once() -> None:
    pool, both = DaemonPool(2, "test"), threading.Barrier(2, timeout=WAIT_S)
    lock, under_way, most = threading.Lock(), 0, 0

    def work(number: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        both.wait()
        with lock:
            under_way -= 1
        return number

    futures = [pool.submit(work, number) for number in range(10)]
    assert [future.result(WAIT_S) for future in futures] == list(range(10))
    assert most == 2


def test_submit__job_fails__raises_where_the_result_is_asked_for_and_the_next_one_runs() -> None:
    pool = DaemonPool(1, "test")
    failed = pool.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(WAIT_S)
    assert pool.submit(int, "7").result(WAIT_S) == 7


def test_shutdown__one_runs_and_one_waits__returns_at_once_and_drops_the_second() -> None:
    pool, reached, go_on = DaemonPool(1, "test"), threading.Event(), threading.Event()

    def work() -> None:
        reached.set()
        assert go_on.wait(WAIT_S)

    running, waiting = pool.submit(work), pool.submit(int)
    assert reached.wait(WAIT_S)
    pool.shutdown(cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError):
        pool.submit(int)
    go_on.set()
    assert running.result(WAIT_S) is None


def test_process__ends_while_a_job_runs__waits_for_nobody() -> None:
    script = (
        "import threading; from chainfl.storage.daemons import DaemonPool\n"
        "reached = threading.Event()\n"
        "DaemonPool(1, 'test').submit(lambda: (reached.set(), threading.Event().wait()))\n"
        "assert reached.wait(10)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=WAIT_S, check=False).returncode == 0
