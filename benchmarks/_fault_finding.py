"""How long it takes to find the one faulty coordinate of an aggregate, from local files of updates already verified.

The fault is in the last chunk, so that everything is read. Each rule runs in a process of its own, which tells its
peak resident memory. `timings` is a part of disputes.py; `python benchmarks/_fault_finding.py` runs it alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _report import Row, arguments, report

from chainfl.aggregation.rules import WeightedSource, apply_rule
from chainfl.disputes.faults import Vectors, find_fault
from chainfl.encoding.sources import FileSource
from chainfl.tasks.state import Format, Rule, ServerKind

RULES = {
    "mean": {"rule": Rule.MEAN},
    "mean, momentum": {"rule": Rule.MEAN, "server": ServerKind.MOMENTUM, "momentum_num": 9, "momentum_den": 10},
    "mean in groups of 8": {"rule": Rule.MEAN, "group_size": 8},
    "trimmed mean, 10% at each end": {"rule": Rule.TRIMMED_MEAN, "trim_num": 1, "trim_den": 10},
    "trimmed mean, 20%, momentum": {
        "rule": Rule.TRIMMED_MEAN,
        "trim_num": 1,
        "trim_den": 5,
        "server": ServerKind.MOMENTUM,
        "momentum_num": 9,
        "momentum_den": 10,
    },
    "median": {"rule": Rule.MEDIAN},
    "median, momentum": {"rule": Rule.MEDIAN, "server": ServerKind.MOMENTUM, "momentum_num": 9, "momentum_den": 10},
}
WEIGHTS = (10_000, 9_999, 3_333, 1)


@dataclass(frozen=True)
class Found:
    """What one search took. seconds: the best of three. peak_bytes: of the whole process."""

    seconds: float
    peak_bytes: int


def measure(rule: str, num_params: int, num_updates: int, folder: Path) -> Found:
    """One rule, in a process of its own, over the files that `prepare` wrote."""
    command = [sys.executable, __file__, "--search", rule, str(num_params), str(num_updates), str(folder)]
    return Found(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def prepare(num_params: int, num_updates: int, folder: Path) -> None:
    """Writes a model, a state and the updates, in the scale that training gives."""
    rng = np.random.default_rng(1)
    for name in ("model", "state"):
        rng.integers(-(2**20), 2**20, num_params, np.int32).tofile(folder / name)
    for index in range(num_updates):
        values = rng.standard_normal(num_params, np.float32) * np.float32(300)
        values.astype(np.int16).tofile(folder / f"update{index}")
    # What each rule gives, with one wrong value in the last chunk.
    for rule in RULES:
        form, before, updates, _ = _round(rule, num_params, num_updates, folder)
        model = np.fromfile(folder / "model", np.int32)
        state = np.fromfile(folder / "state", np.int32) if before.state else None
        moved = apply_rule(form, model, state, updates)
        moved.model[-2] ^= 1
        moved.model.tofile(folder / f"{rule}.model")
        if moved.state is not None:
            moved.state.tofile(folder / f"{rule}.state")


def timings(num_params: int, num_updates: int) -> list[Row]:
    """A row of seconds and one of memory for each rule."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(num_params, num_updates, folder)
        for rule in RULES:
            found = measure(rule, num_params, num_updates, folder)
            rows.append(Row(f"find the faulty coordinate: {rule}", round(found.seconds, 2), "s", None, 3))
            rows.append(Row(f"peak resident memory: {rule}", round(found.peak_bytes / 1e6), "MB", None, 300))
    return rows


def search(rule: str, num_params: int, num_updates: int, folder: Path) -> None:
    """The child's part: prints what it took as JSON."""
    form, before, updates, claimed = _round(rule, num_params, num_updates, folder)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        fault = find_fault(form, before, updates, claimed)
        seconds.append(time.perf_counter() - started)
        assert fault is not None
        assert fault.coordinate == num_params - 2
    print(json.dumps({"seconds": min(seconds), "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int:
    # Not getrusage: a child inherits that of the process that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _round(
    rule: str, num_params: int, num_updates: int, folder: Path
) -> tuple[Format, Vectors, list[WeightedSource], Vectors]:
    form = Format(
        num_params=num_params,
        chunk_params=128,
        model_scale_bits=20,
        update_scale_bits=14,
        step_num=1,
        step_den=1,
        max_squared_norm=2**63,
        **RULES[rule],  # type: ignore[arg-type]
    )

    def source(name: str, dtype: type[np.generic]) -> FileSource:
        return FileSource((folder / name).open("rb"), 0, num_params, np.dtype(dtype))

    updates = [
        WeightedSource(source(f"update{index}", np.int16), WEIGHTS[index % len(WEIGHTS)])
        for index in range(num_updates)
    ]
    before = Vectors(source("model", np.int32), source("state", np.int32) if form.has_state else None)
    if not (folder / f"{rule}.model").exists():
        return form, before, updates, Vectors()
    state = source(f"{rule}.state", np.int32) if form.has_state else None
    return form, before, updates, Vectors(source(f"{rule}.model", np.int32), state)


def main() -> None:
    if sys.argv[1:2] == ["--search"]:
        rule, num_params, num_updates, folder = sys.argv[2:]
        search(rule, int(num_params), int(num_updates), Path(folder))
        return
    options: Any = arguments(
        __doc__ or "", params=(10_000_000, "parameters of the model"), updates=(32, "accepted updates")
    )
    report("fault finding", timings(options.params, options.updates), options.json, ["numpy"])


if __name__ == "__main__":
    main()
