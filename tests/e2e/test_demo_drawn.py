"""`chainfl demo --clients-per-round 3`: five workers, of whom three are drawn on chain for each round."""

from __future__ import annotations

import json
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_demo import CHAINFL, chainfl

from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import Deployment
from chainfl.chain.operator import Operator
from chainfl.simulation.recorded import participants_of
from chainfl.simulation.simulate import simulate
from chainfl.training.datasets import load_folder
from chainfl.training.presets import DIGITS
from chainfl.types import TaskId

pytestmark = [pytest.mark.e2e, pytest.mark.enable_socket]

ROUNDS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The demo's folder, and its report."""
    parent = tmp_path_factory.mktemp("drawn")
    flags = ("--rounds", str(ROUNDS), "--workers", "5", "--clients-per-round", "3", "--json", "report.json")
    done = chainfl("demo", *flags, cwd=parent)
    assert done.returncode == 0, done.stderr
    return parent / "chainfl-demo", json.loads((parent / "report.json").read_text())


@pytest.fixture(scope="module")
def config(run: tuple[Path, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What asks the demo's chain, while it runs again."""
    folder, _ = run
    command = [*CHAINFL, "local", "up", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "runs at" in first, first
        yield "--config", str(folder / "chainfl.toml")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def told(folder: Path, name: str, what: str) -> list[dict[str, Any]]:
    lines = (folder / "events" / f"{name}.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["what"] == what]


def test_demo__three_of_five__every_round_is_final_and_the_lineage_holds(run) -> None:
    folder, report = run
    assert report["outcomes"] == ["final"] * ROUNDS
    assert report["verified"] is True
    assert sum(report["payouts_wei"].values()) + report["refund_wei"] + report["burned_wei"] == report["escrow_wei"]
    assert report["gas"]["commitUpdate"]["count"] == 3 * ROUNDS
    names = [f"worker-{i}" for i in range(1, 6)]
    assert sum(len(told(folder, name, "committed")) for name in names) == 3 * ROUNDS
    everybody = [path.stem for path in (folder / "events").glob("*.jsonl")]
    assert sum(len(told(folder, name, "workers_drawn")) for name in everybody) == ROUNDS
    assert sum(len(told(folder, name, "slashed")) for name in everybody) == 0


def test_round__drawn__is_shown_and_audited(run, config) -> None:
    folder, _ = run
    for number in range(1, ROUNDS + 1):
        shown = chainfl(*config, "round", "show", "1", str(number), "--json", cwd=folder.parent)
        assert shown.returncode == 0, shown.stderr
        assert len(json.loads(shown.stdout)["draw"]["drawn"]) == 3
        audited = chainfl(*config, "round", "audit", "1", str(number), cwd=folder.parent)
        assert audited.returncode == 0, audited.stdout + audited.stderr
        assert "✓ draw of the workers: it is what the seed draws: 3 of 5" in audited.stdout


def test_task__drawn__says_so(run, config) -> None:
    shown = chainfl(*config, "task", "show", "1", cwd=run[0].parent)
    assert "3 of at most 5 workers a round, drawn all alike" in shown.stdout, shown.stderr


def test_simulate__record_of_the_task__has_its_models(run, config) -> None:
    folder, report = run
    rpc = tomllib.loads((folder / "chainfl.toml").read_text())["rpc"]
    chain = Operator(ChainClient(rpc), Deployment.load(folder / "deployment.json"))
    participants = participants_of(chain, TaskId(1))
    assert [len(played.workers) for played in participants.rounds] == [3] * ROUNDS
    assert len({played.commit_hash for played in participants.rounds} - {b""}) == ROUNDS
    workers, validators = (
        [load_folder(folder / "data" / report["roles"][account]) for account in accounts]
        for accounts in (participants.workers, participants.validators)
    )
    found = simulate(
        DIGITS.model,
        workers[0],
        model_params=DIGITS.model_params,
        partition=workers,
        root_data=validators,
        validators=len(validators),
        test=load_folder(folder / "data" / "test"),
        rounds=ROUNDS,
        steps=DIGITS.steps,
        batch_size=DIGITS.batch_size,
        learning_rate=DIGITS.learning_rate,
        momentum=DIGITS.momentum,
        participants=participants,
    )
    roots = [chain.model_location(TaskId(1), number)[0].hex() for number in range(ROUNDS + 1)]
    assert [metrics.root for metrics in found.rounds] == roots
