"""Each attack of the demo, as processes: what it costs whom, and that the model does not suffer.

Worker attacks that are slashed share a run: each is judged by its own slash, and by the round's weights. The one with a
value out of range goes by the command, since it would break the norm bound that another of them needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chainfl.simulation.attack_report import AttackReport
from chainfl.simulation.attacks import ATTACKS, FROM_ROUND
from chainfl.simulation.demo import DemoConfig
from chainfl.simulation.report import Report
from chainfl.simulation.run import run_demo
from chainfl.simulation.view import open_view
from chainfl.tasks.spec import DEFAULT_ECONOMICS, LOCAL_WINDOWS
from chainfl.tasks.state import Role

pytestmark = [pytest.mark.e2e, pytest.mark.enable_socket]

# Phases end when everybody has acted, so that only what an attacker withholds takes a whole window, and a challenge.
WINDOWS = replace(LOCAL_WINDOWS, commit=60, reveal=60, score_reveal=60, slot=6)


def play(folder: Path, *attacks: str, rounds: int = 3, workers: int, validators: int, **windows: int) -> Report:
    folder.mkdir()
    config = DemoConfig(
        folder,
        rounds=rounds,
        workers=workers,
        validators=validators,
        windows=replace(WINDOWS, **windows),
        attacks=attacks,
    )
    config.check()
    console = Console(stderr=True)
    return run_demo(config, lambda: open_view(console), lambda _: None)


def assert_whole(report: Report) -> None:
    assert report.is_balanced
    assert report.verified
    assert report.outcomes == ("final",) * report.rounds


def assert_slashed(report: Report, told: AttackReport) -> None:
    """By the right share of the right stake, half of it to the watcher, and for more than the watcher's gas."""
    attack = ATTACKS[told.name]
    stake = DEFAULT_ECONOMICS.aggregator_bond if attack.role is Role.AGGREGATOR else DEFAULT_ECONOMICS.worker_stake
    assert told.round == FROM_ROUND
    assert told.slashed_wei == stake * attack.slash_bps // 10_000
    assert told.burned_wei == told.slashed_wei // 2
    assert told.received_wei == {told.watcher: told.slashed_wei // 2}
    assert told.watcher_change_wei > 0
    assert told.attacker_change_wei < told.honest_change_wei
    assert 0 < told.blocks_to_settle < 60
    assert report.roles[told.attacker] == f"attacker-{told.name}"


# One goes on for a round after the attack; what follows is the same for both.
@pytest.mark.parametrize(("name", "rounds"), [("wrong-aggregate", 3), ("withheld-aggregate", 2)])
def test_attack__aggregator_cheats__loses_its_bond_and_the_model_is_the_same_bits(
    tmp_path: Path, name: str, rounds: int
) -> None:
    report = play(tmp_path / "run", name, rounds=rounds, workers=2, validators=1, challenge=4)
    assert_whole(report)
    [told] = report.attacks
    assert_slashed(report, told)
    assert told.attacker_change_wei < 0
    assert report.accuracy_by_round[-1] == told.accuracy_without_attack


def test_attack__lying_sum_withheld_update_and_no_reveal__lose_stake_and_only_no_reveal_pays_nobody(
    tmp_path: Path,
) -> None:
    # Nobody challenges an aggregate here.
    report = play(
        tmp_path / "run", "norm", "withheld-update", "no-reveal", workers=5, validators=2, reveal=6, challenge=1
    )
    assert_whole(report)
    norm, withheld, no_reveal = report.attacks
    assert_slashed(report, norm)
    assert_slashed(report, withheld)
    assert no_reveal.slashed_wei == no_reveal.burned_wei == DEFAULT_ECONOMICS.worker_stake // 5
    assert no_reveal.received_wei == {}
    assert no_reveal.attacker_change_wei < no_reveal.honest_change_wei


def test_attack__copying_and_free_riding__earn_less_than_honest_work(tmp_path: Path) -> None:
    report = play(tmp_path / "run", "copy", "free-ride", workers=5, validators=2, challenge=1)
    assert_whole(report)
    for told in report.attacks:
        assert told.slashed_wei == 0
        assert told.earned_if_honest_wei is not None
        # The median worker may have worse data: what counts is what the same account would have earned by honest work.
        assert told.attacker_change_wei < told.earned_if_honest_wei


def test_demo__update_out_of_range_by_command__tells_and_reports_what_it_costs(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "chainfl.cli.main", "demo", "--rounds", "2", "--workers", "3", "--validators", "1"),
            *("--attack", "out-of-range", "--json", "report.json"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert (report["verified"], report["outcomes"]) == (True, ["final"] * 2)
    attack = report["attack"]
    assert (attack["name"], attack["round"]) == ("out-of-range", FROM_ROUND)
    assert attack["slashed_wei"] == DEFAULT_ECONOMICS.worker_stake
    assert attack["burned_wei"] == attack["slashed_wei"] // 2
    assert attack["received_wei"] == {attack["watcher"]: attack["slashed_wei"] // 2}
    assert attack["watcher_change_wei"] > 0
    assert attack["attacker_change_wei"] < attack["honest_change_wei"]
    assert 0 < attack["blocks_to_settle"] < 60
    assert "The attack, out-of-range, came in round 2" in done.stdout
