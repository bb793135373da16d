"""`chainfl demo` as a user runs it, and the commands that it suggests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.enable_socket]

CHAINFL = (sys.executable, "-m", "chainfl.cli.main")
ENDS_WITHIN_S = 300


def chainfl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHAINFL, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=ENDS_WITHIN_S,
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """One small demo: its parent folder, report and output."""
    parent = tmp_path_factory.mktemp("demo")
    done = chainfl("demo", "--rounds", "2", "--workers", "3", "--json", "report.json", cwd=parent)
    assert done.returncode == 0, done.stderr
    return parent, json.loads((parent / "report.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def chain_again(run: tuple[Path, dict[str, Any], str]) -> Iterator[Path]:
    """The demo's folder while `chainfl local up` keeps its chain running."""
    folder = run[0] / "chainfl-demo"
    process = subprocess.Popen(
        [*CHAINFL, "local", "up", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "runs at" in first, first
        yield folder
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_demo__small__leaves_everything_that_it_promises(run: tuple[Path, dict[str, Any], str]) -> None:
    parent, report, _ = run
    folder = parent / "chainfl-demo"
    for name in ("report.json", "accuracy.png", "rewards.png", "lineage.png", "model.safetensors", "deployment.json"):
        assert (folder / name).stat().st_size > 0, name
    assert {path.stem for path in (folder / "logs").iterdir()} >= {"worker-1", "validator-3", "aggregator"}
    assert (report["rounds"], report["workers"], report["validators"]) == (2, 3, 3)
    assert len(report["accuracy_by_round"]) == 3
    assert report["outcomes"] == ["final", "final"]


def test_demo__small__money_is_whole_and_lineage_verified(run: tuple[Path, dict[str, Any], str]) -> None:
    _, report, _ = run
    assert sum(report["payouts_wei"].values()) + report["refund_wei"] + report["burned_wei"] == report["escrow_wei"]
    assert report["verified"] is True
    assert {"commitUpdate", "revealUpdate", "tally", "settle"} <= set(report["gas"])
    assert report["bytes_per_update"] > 0
    assert report["seconds_training"] > 0


def test_demo__final_model__loads_as_ordinary_safetensors(run: tuple[Path, dict[str, Any], str]) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(run[0] / "chainfl-demo" / "model.safetensors")
    assert all(str(tensor.dtype) == "float32" for tensor in tensors.values())


def test_demo__finished__suggested_commands_work(run: tuple[Path, dict[str, Any], str], chain_again: Path) -> None:
    _, report, output = run
    assert "local up" in output
    assert "model verify" in output
    config = ("--config", str(chain_again / "chainfl.toml"))
    verified = chainfl(*config, "model", "verify", report["model_id"], cwd=chain_again.parent)
    assert verified.returncode == 0, verified.stderr
    replayed = chainfl(*config, "round", "replay", "1", "2", "--json", cwd=chain_again.parent)
    assert replayed.returncode == 0, replayed.stderr


def test_model_verify__store_damaged__names_the_link_and_fails(
    run: tuple[Path, dict[str, Any], str], chain_again: Path
) -> None:
    _, report, _ = run
    updates = [event for event in _events(chain_again, "worker-1") if event["what"] == "published"]
    [victim] = (chain_again / "store").rglob(updates[0]["cid"])
    kept = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        config = ("--config", str(chain_again / "chainfl.toml"))
        done = chainfl(*config, "model", "verify", report["model_id"], cwd=chain_again.parent)
        assert done.returncode == 81, done.stdout + done.stderr
        assert re.search(r"✗ round 1", done.stdout)
    finally:
        victim.write_bytes(kept)


def test_demo__folder_is_there__takes_another(tmp_path: Path) -> None:
    from chainfl.simulation.demo import new_folder

    assert [new_folder(tmp_path).name for _ in range(3)] == ["chainfl-demo", "chainfl-demo-2", "chainfl-demo-3"]


def test_demo__interrupted__leaves_no_process_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*CHAINFL, "demo", "--rounds", "5", "--workers", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    logs = tmp_path / "chainfl-demo" / "events"
    deadline = time.monotonic() + ENDS_WITHIN_S
    while len(list(logs.glob("*.jsonl"))) < 6:  # every participant has started
        assert time.monotonic() < deadline
        assert process.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert _processes_of(tmp_path) == []


def _processes_of(folder: Path) -> list[str]:
    """Command lines of this machine's processes that name the folder."""
    told = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in told.splitlines() if str(folder) in line]


def _events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events" / f"{name}.jsonl").read_text().splitlines()]
