"""Each attack of the demo, as processes: what it costs whom, and that the model does not suffer.

Worker attacks share a run two at a time: each is judged by its own slash, and by the round's weights.
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

# Phases end when everybody has acted, so that only what an attacker withholds takes a whole window.
WINDOWS = replace(LOCAL_WINDOWS, commit=60, score_reveal=60, challenge=4)


def play(folder: Path, *attacks: str, workers: int = 5) -> Report:
    folder.mkdir()
    windows = replace(WINDOWS, reveal=8 if "no-reveal" in attacks else 60, slot=6)
    config = DemoConfig(folder, rounds=3, workers=workers, windows=windows, attacks=attacks)
    config.check()
    console = Console(stderr=True)
    return run_demo(config, lambda: open_view(console), lambda _: None)


def assert_whole(report: Report) -> None:
    assert report.is_balanced
    assert report.verified
    assert report.outcomes == ("final",) * 3


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


@pytest.mark.parametrize("name", ["wrong-aggregate", "withheld-aggregate"])
def test_attack__aggregator_cheats__loses_its_bond_and_the_model_is_the_same_bits(tmp_path: Path, name: str) -> None:
    report = play(tmp_path / "run", name, workers=3)
    assert_whole(report)
    [told] = report.attacks
    assert_slashed(report, told)
    assert told.attacker_change_wei < 0
    assert report.accuracy_by_round[-1] == told.accuracy_without_attack


def test_attack__updates_out_of_range_and_withheld__lose_their_stakes(tmp_path: Path) -> None:
    report = play(tmp_path / "run", "out-of-range", "withheld-update")
    assert_whole(report)
    for told in report.attacks:
        assert_slashed(report, told)


def test_attack__sum_that_lies_and_no_reveal__lose_stake_and_only_the_lie_pays_the_watcher(tmp_path: Path) -> None:
    report = play(tmp_path / "run", "norm", "no-reveal")
    assert_whole(report)
    norm, no_reveal = report.attacks
    assert_slashed(report, norm)
    assert no_reveal.slashed_wei == no_reveal.burned_wei == DEFAULT_ECONOMICS.worker_stake // 5
    assert no_reveal.received_wei == {}
    assert no_reveal.attacker_change_wei < no_reveal.honest_change_wei


def test_attack__copying_and_free_riding__earn_less_than_honest_work(tmp_path: Path) -> None:
    report = play(tmp_path / "run", "copy", "free-ride")
    assert_whole(report)
    for told in report.attacks:
        assert told.slashed_wei == 0
        assert told.earned_if_honest_wei is not None
        # The median worker may have worse data: what counts is what the same account would have earned by honest work.
        assert told.attacker_change_wei < told.earned_if_honest_wei


def test_demo__attack_by_command__tells_and_reports_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "chainfl.cli.main", "demo", "--rounds", "2", "--workers", "3"),
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
    attack: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())["attack"]
    assert (attack["name"], attack["round"]) == ("out-of-range", FROM_ROUND)
    assert attack["slashed_wei"] == DEFAULT_ECONOMICS.worker_stake
    assert sum(attack["received_wei"].values()) + attack["burned_wei"] == attack["slashed_wei"]
    assert "The attack, out-of-range, came in round 2" in done.stdout
