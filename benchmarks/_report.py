"""The shape that all benchmarks share: a table for people, JSON for machines.

    python benchmarks/NAME.py [--json PATH]

The JSON has `machine`, `versions`, `commit`, and `rows` of `what`, `value`, `unit`, `reference` (what it was
compared with in the same run, or null), `target` (or null) and `better` ("lower" or "higher").
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. target: what it should reach, in the same unit. reference: in words with its own figure."""

    what: str
    value: float
    unit: str
    reference: str | None = None
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


def arguments(description: str, argv: Sequence[str] | None = None, **options: tuple[Any, str]) -> argparse.Namespace:
    """Parses --json PATH and the benchmark's own options, given as name=(default, help)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    for name, (default, text) in options.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"{text} (default: {default})")
    return parser.parse_args(argv)


def report(title: str, rows: Sequence[Row], json_path: Path | None = None, packages: Sequence[str] = ()) -> None:
    """Prints the table, the machine and the versions; writes the JSON where a path is given.

    packages: distributions whose versions matter to the figures, beside Python and chainfl.
    """
    content: dict[str, Any] = {"machine": machine(), "versions": versions(packages), "commit": commit()}
    console = Console(width=None if os.isatty(1) else 140)
    console.print(_table(title, rows))
    for key in ("machine", "versions"):
        console.print(f"{key}: " + ", ".join(f"{name} {value}" for name, value in content[key].items()))
    console.print(f"commit: {content['commit']}")
    if json_path:
        json_path.write_text(json.dumps(content | {"rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, operating system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Python's own version and those of the named distributions."""
    names = ("chainfl", *packages)
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def commit() -> str | None:
    """The commit that was measured, with "-dirty" if files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def median_seconds(run: Callable[[], object], repeats: int = 9) -> float:
    """The median time of a call, after one that warms up."""
    run()
    return statistics.median(seconds(run) for _ in range(repeats))


def median_ratio(run: Callable[[], object], yardstick: Callable[[], object], repeats: int = 9) -> float:
    """How many times longer `run` takes than `yardstick`: the median over pairs timed one after the other.

    Whatever else the machine does at the moment then slows both.
    """
    run()
    yardstick()
    return statistics.median(seconds(run) / seconds(yardstick) for _ in range(repeats))


def seconds(run: Callable[[], object]) -> float:
    """The wall-clock time of one call, in which the garbage collector waits."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    finally:
        gc.enable()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("what", "value", "unit", "reference", "target", ""):
        table.add_column(name, justify="right" if name in ("value", "target") else "left")
    verdicts = {True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}
    for row in rows:
        bound = "" if row.target is None else f"{'≤' if row.better == 'lower' else '≥'} {row.target:,g}"
        table.add_row(row.what, _number(row.value), row.unit, row.reference or "", bound, verdicts[row.is_met])
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.3g}"
