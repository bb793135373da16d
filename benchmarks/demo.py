"""What the demo promises: accuracy beside the centralised baseline over five seeds, time, money, idle processes.

    python benchmarks/demo.py [--json PATH] [--seeds N] [--rounds N]

Every run is `chainfl demo` as a user starts it, in a process of its own; the idle figure is the processor time of
nine agents that wait for a task to begin.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import Row, arguments, report

from chainfl.chain.anvil import AnvilProcess
from chainfl.simulation.demo import DemoConfig, set_stage, start_participant
from chainfl.simulation.processes import ProcessGroup

IDLE_S = 30.0


def main() -> None:
    options = arguments("The demo over several seeds.", seeds=(5, "seeds, from 0 on"), rounds=(10, "rounds"))
    with tempfile.TemporaryDirectory(prefix="chainfl-bench-") as folder:
        runs = [demo(Path(folder), seed, options.rounds) for seed in range(options.seeds)]
        idle = idle_percent(Path(folder))
    report("chainfl demo", rows(runs, idle), options.json, packages=("torch", "web3", "numpy"))


def demo(folder: Path, seed: int, rounds: int) -> dict[str, Any]:
    """The report of one run."""
    path = folder / f"report-{seed}.json"
    command = [
        *(sys.executable, "-m", "chainfl.cli.main", "demo", "--seed", str(seed), "--rounds", str(rounds)),
        *("--folder", str(folder / f"seed-{seed}"), "--json", str(path)),
    ]
    start = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"seed {seed} failed: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(path.read_text())
    found["seconds_wall"] = time.monotonic() - start
    final, centralized = found["accuracy_by_round"][-1], found["centralized_accuracy"]
    print(
        f"seed {seed}: {100 * final:.2f}% beside {100 * centralized:.2f}% centralised, "
        f"{found['seconds_wall']:.1f} s, outcomes {' '.join(found['outcomes'])}",
        flush=True,
    )
    return found


def idle_percent(folder: Path) -> float:
    """Processor time of nine agents together, in percent of one core, while they wait for a tenth to enrol."""
    config = DemoConfig(folder / "idle", workers=6)
    config.folder.mkdir()
    with (
        AnvilProcess(config.folder / "chain", accounts=12) as anvil,
        ProcessGroup(config.folder / "logs") as group,
    ):
        stage = set_stage(config, anvil)
        started = [start_participant(stage, group, part) for part in stage.cast.parts if part.name != "worker-6"]
        client, block = stage.reader.client, stage.reader.client.block()
        while _enrolled(stage) < len(started):
            group.check()
            block = client.wait_for_block(block.number, 1.0)
        pids = [participant.process.pid for participant in started]
        before, start = _processor_seconds(pids), time.monotonic()
        while time.monotonic() - start < IDLE_S:
            block = client.wait_for_block(block.number, 1.0)
        return 100 * (_processor_seconds(pids) - before) / (time.monotonic() - start)


def _enrolled(stage: Any) -> int:
    view = stage.reader.round(stage.task_id)
    return int(view.num_workers + view.num_validators + view.num_aggregators)


def _processor_seconds(pids: list[int]) -> float:
    """User and system time of these processes so far."""
    total = 0.0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            user, system = stat.read_text().rpartition(")")[2].split()[11:13]
            total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        else:
            told = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, check=True)
            total += _clock(told.stdout.strip())
    return total


def _clock(text: str) -> float:
    """Seconds of what ps prints: [[hours:]minutes:]seconds."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def rows(runs: list[dict[str, Any]], idle: float) -> list[Row]:
    """The figures with the issue's targets."""
    finals = [100 * run["accuracy_by_round"][-1] for run in runs]
    gaps = [100 * (run["centralized_accuracy"] - run["accuracy_by_round"][-1]) for run in runs]
    unbalanced = [
        abs(sum(run["payouts_wei"].values()) + run["refund_wei"] + run["burned_wei"] - run["escrow_wei"])
        for run in runs
    ]
    times = [run["seconds_wall"] for run in runs]
    central = f"centralised {100 * runs[0]['centralized_accuracy']:.2f}%"
    over = f"{len(runs)} seeds"
    return [
        Row("final accuracy, default seed", finals[0], "%", central, 93, "higher"),
        Row("gap to centralised, default seed", gaps[0], "points", central, 2),
        Row("final accuracy, median", statistics.median(finals), "%", over, 93, "higher"),
        Row("gap to centralised, median", statistics.median(gaps), "points", over, 2),
        Row("final accuracy, worst", min(finals), "%", over, 91, "higher"),
        Row("runs whose lineage re-derives", sum(run["verified"] for run in runs), "runs", over, len(runs), "higher"),
        Row("|earned + refunded + burned - escrow|", max(unbalanced), "wei", over, 0),
        Row("whole demo, default seed", times[0], "s", "after set-up", 90),
        Row("whole demo, slowest", max(times), "s", over, 90),
        Row("idle agents together", idle, "% of a core", "9 agents, enrolment", 5),
        Row("bytes an update", runs[0]["bytes_per_update"], "bytes"),
        Row("training, all workers", runs[0]["seconds_training"], "s"),
    ]


if __name__ == "__main__":
    main()
