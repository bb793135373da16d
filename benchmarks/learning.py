"""What federated learning comes to where it is hard: tables with every seed.

    python benchmarks/learning.py TABLE [--json PATH] [--case NAME] [--seeds N] [--flower 0] [--processes N]
                                        [--data FOLDER] [--cifar10 FOLDER] [--results FOLDER]

`noniid`: MNIST among 10 workers who have one digit, two, or mostly one; the net of the papers (`paper_cnn`), every
update an integer. Beside it, from the same split and the same first weights: one trainer with all the data and as many
gradient steps as one worker takes, and Flower's FedAvg over the same workers with the same local steps.

`compression`: a small residual net (`resnet`) on CIFAR-10 among 10 workers with Dirichlet 0.5 shares, who all take 800
steps: accuracy against the bytes that a worker sends, in the forms of a task's payload and with more steps a round,
beside FedAvg in float32 without any integers; and `int8` on IID MNIST, with the net of the papers.

`byzantine`: a small MLP on MNIST among 15 workers of two digits each, of whom none, 4 and 6 attack; every rule against
every attack. The whole table has one seed, the default and the best three others have `--seeds`.

Every run that ends is a line in learning-TABLE.jsonl, and is not run again; one of minutes that is cut goes on
after its last whole round. A case is run again when its settings change, or the versions of what it computes with.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from _flower import VERSION, flower
from _learning_byzantine import byzantine
from _learning_compression import compression
from _learning_runs import PACKAGES, Journal, Line, centralised, digest, listed, loaded
from _report import ROOT, Row, arguments, report, versions

from chainfl.simulation.simulate import simulate
from chainfl.simulation.strategy import Strategy
from chainfl.training.datasets import DatasetSplits

MODEL, CLIENTS = "paper_cnn", 10
BESIDE: Final[Mapping[str, str]] = {"learning_rate": "0.05", "momentum": "0.9"}
"""How Flower's clients and centralised training step in every case: for the steps of a FedAdam's clients, which are as
small as its server's are large, they would learn nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """One experiment. targets: the accuracy in % to reach after so many rounds, the last of which ends it.

    strategy: fields of `Strategy`. known: what others, or earlier controls, reached.
    """

    name: str
    partition: str
    targets: Mapping[int, float]
    steps: int
    learning_rate: str
    momentum: str
    batch_size: int
    strategy: Mapping[str, Any] = field(default_factory=dict)
    known: str = ""

    @property
    def algorithm(self) -> str:
        """By the field's names: the clients', or where they only take steps the server's."""
        server = self.strategy.get("server", "avg")
        return str(self.strategy.get("algorithm", f"fed{server}"))

    @property
    def rounds(self) -> int:
        """Of the whole experiment."""
        return max(self.targets)

    def settings(self, kind: str, seed: int) -> dict[str, Any]:
        """What the numbers of a run follow from."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("name", "targets", "known")}
        if kind != "chainfl":
            kept |= BESIDE
            kept.pop("strategy")  # whoever changes only that need not run the others again
        beside = {"flower": VERSION} if kind == "flower" else {}
        return {"kind": kind, "seed": seed, "rounds": self.rounds, **kept, **versions(PACKAGES), **beside}


FEDADAM = {
    "server": "adam",
    "server_rate": "1/50",
    "server_momentum": "9/10",
    "server_second": "9/10",
    "server_tau": "0.0000001",
    "model_scale_bits": 24,
    "update_scale_bits": 22,
}
"""The rate is the server's: clients take steps so small that they hardly drift, in units fine enough to tell them."""

NONIID = (
    Case(
        name="skewed",
        partition="skewed:0.8",
        targets={10: 97.0},
        steps=200,
        learning_rate="0.05",
        momentum="0.9",
        batch_size=64,
        strategy={"algorithm": "scaffold"},
        known="a paper 9.8%",
    ),
    Case(
        name="two-digits",
        partition="classes:2",
        targets={25: 95.0, 50: 97.0},
        steps=20,
        learning_rate="0.0005",
        momentum="0",
        batch_size=64,
        strategy=FEDADAM,
        known="Flower's published 96.9% at 50 with 60,000 images",
    ),
    Case(
        name="one-digit",
        partition="classes:1",
        targets={50: 96.0},
        steps=1,
        learning_rate="0.01",
        momentum="0",
        batch_size=256,
        strategy=FEDADAM,
        known="FedBench 68.9%",
    ),
    Case(
        name="one-digit-10-steps",
        partition="classes:1",
        targets={50: 93.0},
        steps=10,
        learning_rate="0.0005",
        momentum="0",
        batch_size=64,
        strategy=FEDADAM,
        known="FedBench 68.9%",
    ),
)


# --- one run -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What all runs share. folder: of the results. data: MNIST's."""

    folder: Path
    data: Path
    splits: DatasetSplits
    processes: int

    def run(self, case: Case, kind: str, seed: int) -> Line:
        """One run: settings, accuracies by round (of the centralised one where a target is), seconds."""
        journal, settings = Journal(self.folder / "learning-noniid.jsonl"), case.settings(kind, seed)
        if (known := journal.find(settings)) is not None:
            return known
        line = journal.run(case.name, settings, lambda: {"accuracies": KINDS[kind](self, case, seed)})
        told = ", ".join(f"{100 * line['accuracies'][str(number)]:.2f}% at {number}" for number in case.targets)
        print(f"{case.name}, {kind}, seed {seed}: {told}, {line['seconds']:.0f} s", flush=True)
        return line


def federated(bench: Bench, case: Case, seed: int) -> dict[str, float]:
    """chainfl's own run. Its folder, from which a cut run goes on, stays beside the results."""
    found = simulate(
        MODEL,
        bench.splits,
        clients=CLIENTS,
        partition=case.partition,
        strategy=Strategy(**case.strategy),
        rounds=case.rounds,
        steps=case.steps,
        batch_size=case.batch_size,
        learning_rate=case.learning_rate,
        momentum=case.momentum,
        seed=seed,
        out=bench.folder / "learning-noniid" / f"{case.name}-{seed}-{digest(case.settings('chainfl', seed))}",
        processes=bench.processes,
    )
    return {str(number): accuracy for number, accuracy in enumerate(found.accuracies)}


def beside_centralised(bench: Bench, case: Case, seed: int) -> dict[str, float]:
    """With as many steps as a worker has taken."""
    accuracies = centralised(
        bench.splits,
        model=MODEL,
        clients=CLIENTS,
        partition=case.partition,
        steps=[number * case.steps for number in case.targets],
        batch_size=case.batch_size,
        learning_rate=float(BESIDE["learning_rate"]),
        momentum=float(BESIDE["momentum"]),
        seed=seed,
    )
    return {str(number): accuracy for number, accuracy in zip(case.targets, accuracies, strict=True)}


def beside_flower(bench: Bench, case: Case, seed: int) -> dict[str, float]:
    """Flower's FedAvg with the same workers, weights, batches and numbers of steps."""
    found = flower(
        "_flower_learning.py",
        data=str(bench.data),
        model=MODEL,
        clients=CLIENTS,
        partition=case.partition,
        rounds=case.rounds,
        steps=case.steps,
        batch_size=case.batch_size,
        learning_rate=float(BESIDE["learning_rate"]),
        momentum=float(BESIDE["momentum"]),
        seed=seed,
    )
    return {str(number): accuracy for number, accuracy in enumerate(found["accuracies"])}


KINDS: Mapping[str, Callable[[Bench, Case, int], dict[str, float]]] = {
    "chainfl": federated,
    "centralised": beside_centralised,
    "flower": beside_flower,
}


# --- the table -----------------------------------------------------------------------------------


def rows_of(bench: Bench, case: Case, seeds: int, kinds: Sequence[str]) -> list[Row]:
    """A row for each target: the median over the seeds, and every seed of everybody in words."""
    runs = {kind: [bench.run(case, kind, seed) for seed in range(seeds)] for kind in kinds}
    rows = []
    for number, target in case.targets.items():
        by_kind = {kind: [100 * run["accuracies"][str(number)] for run in runs[kind]] for kind in kinds}
        named = f"{case.name}: {case.algorithm}, {case.steps} steps, round {number}"
        words = "; ".join(f"{kind} {listed(found)}" for kind, found in by_kind.items())
        rows.append(
            Row(named, statistics.median(by_kind["chainfl"]), "%", "; ".join((words, case.known)), target, "higher")
        )
    seconds = statistics.median(run["seconds"] for run in runs["chainfl"])
    return [*rows, Row(f"{case.name}: time of a run", seconds, "s", f"{bench.processes} processes")]


def noniid(options: Any) -> list[Row]:
    """The rows of all cases, or of the one asked for."""
    data = Path(options.data)
    splits = loaded("mnist", data)
    cases = [case for case in NONIID if options.case in ("", case.name)]
    if not cases:
        raise SystemExit(f"no case is called {options.case!r}; there are {', '.join(case.name for case in NONIID)}")
    bench = Bench(Path(options.results), data, splits, options.processes)
    kinds = [kind for kind in KINDS if options.flower or kind != "flower"]
    return [row for case in cases for row in rows_of(bench, case, options.seeds, kinds)]


@dataclass(frozen=True, slots=True)
class Table:
    """title: what it is about. seeds: how many, unless somebody says otherwise."""

    rows: Callable[[Any], list[Row]]
    title: str
    seeds: int


TABLES: Mapping[str, Table] = {
    "noniid": Table(noniid, f"{CLIENTS} workers, MNIST", 3),
    "byzantine": Table(byzantine, "15 workers of two digits each, some of whom attack; MNIST", 3),
    "compression": Table(compression, "10 workers, CIFAR-10 and MNIST", 3),
}


def main() -> None:
    table = TABLES.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if table is None and "--help" not in sys.argv:
        raise SystemExit(f"say which table: python benchmarks/learning.py {'|'.join(TABLES)}")
    options = arguments(
        __doc__ or "",
        sys.argv[2:] if table else sys.argv[1:],
        case=("", "only the case of this name"),
        seeds=(3 if table is None else table.seeds, "seeds, from 0 on"),
        flower=(1, "0 leaves Flower out"),
        processes=(1, "in which the workers train; the bits are the same"),
        data=(str(ROOT.parent / "shared" / "data" / "mnist"), "folder with MNIST's four files"),
        cifar10=(str(ROOT.parent / "shared" / "data" / "cifar10"), "folder with CIFAR-10's files"),
        results=(str(ROOT / ".build" / "bench"), "where the runs are kept"),
    )
    assert table is not None
    report(f"learning, {sys.argv[1]}: {table.title}", table.rows(options), options.json, PACKAGES)


if __name__ == "__main__":
    main()
