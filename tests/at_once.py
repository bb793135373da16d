"""Processes that start all at once: each says when it is ready, and waits for a line."""

from __future__ import annotations

import subprocess
import sys

READY = """
import sys
print("ready", flush=True)
sys.stdin.readline()
"""
"""Stands in a script between its imports and what all of them do at once."""


def waiting(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `script`, in which READY stands."""
    command, pipe = [sys.executable, "-c", script, *map(str, arguments)], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def go(*processes: subprocess.Popen[str]) -> None:
    """Waits until all are ready, then starts them."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def run_at_once(*processes: subprocess.Popen[str]) -> None:
    """Starts them and waits until all have ended, well and without a word."""
    go(*processes)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert ([process.returncode for process in processes], said) == ([0] * len(processes), [""] * len(processes))
