"""The demo's result as a file: report.json, and the pictures that show it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from chainfl.simulation.attack_report import AttackReport
from chainfl.simulation.canvas import Canvas
from chainfl.types import Address


@dataclass(frozen=True, slots=True)
class GasUse:
    """Gas of one kind of transaction over a run."""

    count: int
    median: int
    maximum: int

    @classmethod
    def of(cls, used: Sequence[int]) -> GasUse:
        """used: gas of each transaction, at least one."""
        return cls(len(used), int(median(used)), max(used))


@dataclass(frozen=True, slots=True)
class Report:
    """What a demo showed. Accuracies in [0, 1]; money in wei; times in seconds of wall time."""

    accuracy_by_round: tuple[float, ...]
    """Of the global model after each round; the first is the genesis model's."""
    centralized_accuracy: float
    rounds: int
    workers: int
    validators: int
    seed: int
    dataset: str
    test_examples: int
    model_id: str
    model_cid: str
    verified: bool
    escrow_wei: int
    payouts_wei: Mapping[Address, int]
    refund_wei: int
    burned_wei: int
    slashed_wei: int
    gas: Mapping[str, GasUse]
    bytes_per_update: int
    seconds_total: float
    seconds_training: float
    """Of all workers together, on this machine's cores at once."""
    outcomes: tuple[str, ...]
    roles: Mapping[Address, str]
    folder: str
    attacks: tuple[AttackReport, ...] = ()
    """One for each attacker; the file has the first, as `attack`."""

    @property
    def is_balanced(self) -> bool:
        """Earned + refunded + burned = escrowed, to the wei."""
        return sum(self.payouts_wei.values()) + self.refund_wei + self.burned_wei == self.escrow_wei

    @property
    def attack(self) -> AttackReport | None:
        """The demo's attack, if it had one."""
        return self.attacks[0] if self.attacks else None

    def to_json(self) -> dict[str, Any]:
        """The fields by name; money as integers."""
        found = asdict(self)
        attacks = found.pop("attacks")
        return found | {"attack": attacks[0] if attacks else None}

    def write(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


def draw_accuracy(report: Report, path: Path) -> None:
    """Test accuracy by round, beside the centralised baseline."""
    with Canvas(path, (7.0, 4.0)) as axes:
        rounds = range(len(report.accuracy_by_round))
        axes.plot(rounds, [100 * a for a in report.accuracy_by_round], marker="o", label="chainfl, global model")
        axes.axhline(100 * report.centralized_accuracy, linestyle="--", color="0.4", label="centralised, equal steps")
        axes.set_xlabel("round")
        axes.set_ylabel("test accuracy, %")
        axes.set_title(f"{report.workers} workers on {report.dataset}, Dirichlet 0.5 (seed {report.seed})")
        axes.set_xticks(list(rounds))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")


def draw_rewards(report: Report, path: Path) -> None:
    """What each participant earned, in tokens."""
    earned = sorted(report.payouts_wei.items(), key=lambda item: report.roles.get(item[0], ""))
    with Canvas(path, (7.0, 0.45 * len(earned) + 1.2)) as axes:
        labels = [f"{report.roles.get(account, account)}  {account[:8]}…" for account, _ in earned]
        # Display only: here money becomes a float for the first and last time.
        axes.barh(labels, [wei / 10**18 for _, wei in earned], color="tab:green")
        axes.invert_yaxis()
        axes.set_xlabel("earned, CFL")
        axes.set_title("earned + refunded + burned = escrowed")


def draw_lineage(versions: Sequence[tuple[str, str]], path: Path) -> None:
    """The chain of model versions. versions: (title, lines below it), oldest first."""
    columns = 4
    rows = -(-len(versions) // columns)
    with Canvas(path, (10.0, 1.5 * rows + 0.5)) as axes:
        axes.set_xlim(-0.55, columns - 0.45)
        axes.set_ylim(-rows + 0.45, 0.55)
        axes.axis("off")
        places = [_place(i, columns) for i in range(len(versions))]
        for start, end in itertools.pairwise(places):
            axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "->", "shrinkA": 34, "shrinkB": 34})
        for (x, y), (title, lines) in zip(places, versions, strict=True):
            box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "0.4"}
            axes.text(x, y, f"{title}\n{lines}", ha="center", va="center", fontsize=8, bbox=box)


def _place(i: int, columns: int) -> tuple[float, float]:
    """Boustrophedon, so that every arrow joins neighbours."""
    row, column = divmod(i, columns)
    return (float(column if row % 2 == 0 else columns - 1 - column), float(-row))
