"""The table `byzantine` of benchmarks/learning.py: every rule against every attack, and whom it rejects."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from _learning_runs import PACKAGES, Countdown, Journal, Line, listed, loaded
from _report import Row, versions

from chainfl.agents.validator import CheckedUpdate, Scorer
from chainfl.encoding.arrays import Int32Array
from chainfl.simulation.byzantine import DELTA_ATTACKS, colluding_votes, label_flip
from chainfl.simulation.rounds import median_vote
from chainfl.simulation.simulate import simulate
from chainfl.simulation.strategy import Strategy
from chainfl.simulation.tampering import Tampering, Updates
from chainfl.tasks.votes import Vote
from chainfl.training.datasets import DatasetSplits
from chainfl.training.partition import FederatedSplit, Partition, federated_split

NO_ATTACK: Final = "none"
ATTACKS: Final = (*DELTA_ATTACKS, "label_flip", "colluding_validators")
DEFAULT: Final = "root_fit + requester's worker"
MOST_LOST: Final[Mapping[int, float]] = {4: 3.0, 6: 6.0}
"""Points that the default may lose to the worst attack of so many workers."""
BEST: Final = 3
"""How many rules, beside the default, have more seeds than one."""


@dataclass(frozen=True, slots=True)
class Defence:
    """A way to aggregate. make: the strategy against so many attackers, which a task says before there are any.

    validators: how many vote; without any, everybody counts. root_worker: whether the requester trains as one more
    worker, on root data.
    """

    name: str
    make: Callable[[int], Strategy]
    validators: bool = True
    root_worker: bool = False


def _judged(rule: str, *before: str, rule_of_task: str = "mean", **parameters: Any) -> Callable[[int], Strategy]:
    """A selection rule that is told no number."""
    return lambda _: Strategy(judging={"rule": rule, "before": list(before), **parameters}, rule=rule_of_task)


def _against(rule: str, *before: str, most: int = 6, rule_of_task: str = "mean") -> Callable[[int], Strategy]:
    """One that is told how many attackers to bear, `most` at most."""
    return lambda count: _judged(rule, *before, rule_of_task=rule_of_task, num_malicious_clients=min(count, most))(
        count
    )


MIXING: Final = "nearest_neighbour_mixing"
MEAN: Final = Defence("mean", lambda _: Strategy(), validators=False)
DEFENCES: Final = (
    MEAN,
    Defence("median", lambda _: Strategy(rule="median"), validators=False),
    Defence("trimmed_mean", lambda count: Strategy(rule="trimmed_mean", trim=f"{count}/15"), validators=False),
    Defence("krum", _against("krum")),
    Defence("multi_krum", _against("multi_krum")),
    # With 15 workers it is proven against 3 attackers at most.
    Defence("bulyan", _against("bulyan", most=3, rule_of_task="median")),
    Defence("rfa", _judged("rfa")),
    Defence("centred_clipping", _judged("centred_clipping")),
    Defence("bucketing + rfa", _judged("rfa", "bucketing", bucket_size=2)),
    Defence("bucketing + centred_clipping", _judged("centred_clipping", "bucketing", bucket_size=2)),
    Defence("mixing + krum", _against("krum", MIXING)),
    Defence("mixing + multi_krum", _against("multi_krum", MIXING)),
    Defence("mixing + rfa", _against("rfa", MIXING)),
    Defence("mixing + centred_clipping", _against("centred_clipping", MIXING)),
    Defence("mixing + gate_clip", _against("gate_clip", MIXING)),
    Defence("fltrust", _judged("fltrust")),
    Defence("norm_bound", _judged("norm_bound")),
    Defence("gate_clip", _judged("gate_clip")),
    Defence("gate_clip, median", _judged("gate_clip", rule_of_task="median")),
    Defence("gate_clip + requester's worker", _judged("gate_clip"), root_worker=True),
    Defence("mixing + gate_clip + requester's worker", _against("gate_clip", MIXING), root_worker=True),
    Defence("root_fit", _judged("root_fit")),
    Defence(DEFAULT, _judged("root_fit"), root_worker=True),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is learnt by whom. Attackers are the first workers; every digit has honest ones left."""

    data: str = "mnist"
    model: str = "mlp"
    workers: int = 15
    validators: int = 3
    root_examples: int = 100
    partition: str = "classes:2"
    rounds: int = 15
    steps: int = 20
    batch_size: int = 32
    learning_rate: str = "0.05"
    momentum: str = "0"
    attackers: tuple[int, ...] = tuple(MOST_LOST)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. against: how many attackers the rule is told to bear; the attack's are as many, or there is none."""

    defence: Defence
    attack: str
    against: int
    seed: int = 0

    @property
    def attackers(self) -> int:
        """How many there are."""
        return 0 if self.attack == NO_ATTACK else self.against

    def settings(self, setting: Setting) -> dict[str, Any]:
        """What its numbers follow from: rules that are told no number have one run without attack, not two."""
        kept = {key: value for key, value in asdict(setting).items() if key != "attackers"}
        who = {"validators": setting.validators * self.defence.validators, "root_worker": self.defence.root_worker}
        attack = {"attack": self.attack, "attackers": self.attackers, "seed": self.seed}
        return kept | who | attack | {"strategy": self.defence.make(self.against).to_json()} | versions(PACKAGES)


# --- one run -------------------------------------------------------------------------------------


def run(setting: Setting, splits: DatasetSplits, cell: Cell) -> dict[str, Any]:
    """accuracy: of the last model. rejected: the share of honest updates whose weight was 0, over all rounds."""
    split = split_of(setting, splits, cell)
    ballots: list[list[Sequence[Vote]]] = []
    found = simulate(
        setting.model,
        splits.train,
        test=split.test,
        partition=split.workers,
        root_data=split.validators,
        validators=len(split.validators),
        strategy=cell.defence.make(cell.against),
        rounds=setting.rounds,
        steps=setting.steps,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        momentum=setting.momentum,
        tampering=tampering(cell, ballots),
        seed=cell.seed,
        progress=False,
    )
    return {"accuracy": found.accuracy, "rejected": rejected(ballots, cell.attackers)}


def split_of(setting: Setting, splits: DatasetSplits, cell: Cell) -> FederatedSplit:
    """Everybody's data, those of attackers who lie about labels poisoned.

    The requester's worker comes last, with root data that no validator has.
    """
    split = federated_split(
        splits,
        seed=cell.seed,
        num_workers=setting.workers,
        num_validators=setting.validators + 1,
        partition=Partition.parse(setting.partition),
        validator_examples=setting.root_examples,
    )
    shares, (own, *roots) = list(split.workers), split.validators
    if cell.attack == "label_flip":
        poisoned = [replace(d, labels=label_flip(d.labels, d.num_classes)) for d in shares[: cell.attackers]]
        shares[: cell.attackers] = poisoned
    workers = (*shares, own) if cell.defence.root_worker else tuple(shares)
    return replace(split, workers=workers, validators=tuple(roots) if cell.defence.validators else ())


def tampering(cell: Cell, ballots: list[list[Sequence[Vote]]]) -> Tampering:
    """The cell's attack. ballots: gets the votes of each round, one list a validator."""

    def listening(scorers: Sequence[Scorer]) -> Sequence[Scorer]:
        colluders = (len(scorers) - 1) // 2 if cell.attack == "colluding_validators" else 0
        liars = [Colluder(scorer, cell.attackers) for scorer in scorers[:colluders]]
        ballots.extend([] for _ in scorers)
        honest: Sequence[Scorer] = [*liars, *scorers[colluders:]]
        return [Heard(scorer, votes) for scorer, votes in zip(honest, ballots, strict=True)]

    # Colluding validators stand up for the crudest lie.
    attack = DELTA_ATTACKS.get("sign_flip" if cell.attack == "colluding_validators" else cell.attack)
    name = f"{cell.attack} by {cell.attackers}"
    if attack is None:
        return Tampering(name, scorers=listening)
    return Tampering(name, partial(_replaced, attack, cell.attackers), listening)


def _replaced(attack: Callable[..., Any], attackers: int, _number: int, updates: Updates) -> Updates:
    """What the first workers send instead, knowing what all others send."""
    liars, honest = list(updates)[:attackers], list(updates)[attackers:]
    sent = attack(np.stack([updates[account].delta for account in honest]), len(liars))
    lies = {account: replace(updates[account], delta=delta) for account, delta in zip(liars, sent, strict=True)}
    return {**updates, **lies}


@dataclass(frozen=True, slots=True)
class Heard:
    """A validator whose votes are kept; implements Scorer."""

    scorer: Scorer
    votes: list[Sequence[Vote]]

    def score(
        self, model: Int32Array, updates: Sequence[CheckedUpdate], round_number: int, previous: Int32Array | None
    ) -> Sequence[Vote]:
        """As the validator votes."""
        found = self.scorer.score(model, updates, round_number, previous)
        self.votes.append(found)
        return found


@dataclass(frozen=True, slots=True)
class Colluder:
    """A validator that votes for the first updates and against all others; implements Scorer."""

    scorer: Scorer
    attackers: int

    def score(
        self, model: Int32Array, updates: Sequence[CheckedUpdate], round_number: int, previous: Int32Array | None
    ) -> Sequence[Vote]:
        """All or nothing, whatever an honest validator would vote."""
        honest = self.scorer.score(model, updates, round_number, previous)
        return colluding_votes(honest, range(self.attackers))


def rejected(ballots: Sequence[Sequence[Sequence[Vote]]], attackers: int) -> float:
    """The share of the honest updates, all but the first, whose median weight is 0. ballots: by validator and round."""
    tallied = [
        median_vote(votes).weight == 0
        for played in zip(*ballots, strict=True)
        for votes in list(zip(*played, strict=True))[attackers:]
    ]
    return sum(tallied) / len(tallied) if tallied else 0.0


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What all runs share."""

    setting: Setting
    splits: DatasetSplits
    journal: Journal
    countdown: Countdown

    def run(self, cell: Cell) -> Line:
        """The line of one run."""
        name = f"{cell.defence.name}, {cell.attack} by {cell.attackers}"
        line = self.journal.run(name, cell.settings(self.setting), lambda: run(self.setting, self.splits, cell))
        told = f"{name}, seed {cell.seed}: {100 * line['accuracy']:.2f}%, {100 * line['rejected']:.0f}% rejected"
        self.countdown.tell(told, line)
        return line

    def verdict(self, defence: Defence, count: int, seed: int = 0) -> Verdict:
        """A defence against so many attackers, and without any."""
        lines = {attack: self.run(Cell(defence, attack, count, seed)) for attack in (NO_ATTACK, *ATTACKS)}
        return Verdict(
            {attack: 100 * line["accuracy"] for attack, line in lines.items()},
            100 * statistics.fmean(line["rejected"] for line in lines.values()),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """accuracies: in %, by attack. rejected: % of the honest updates, over all attacks and none."""

    accuracies: Mapping[str, float]
    rejected: float

    @property
    def worst(self) -> float:
        """The accuracy under the worst attack."""
        return min(self.accuracies[attack] for attack in ATTACKS)

    def in_words(self) -> str:
        """Every attack's accuracy."""
        each = ", ".join(f"{attack} {value:.1f}" for attack, value in self.accuracies.items())
        return f"{each}; {self.rejected:.0f}% of honest rejected"


def rows_of(bench: Bench, defences: Sequence[Defence], seeds: int) -> Iterator[Row]:
    """Every defence on one seed; the default and the best three on more; what the default has to hold."""
    counts = bench.setting.attackers
    first = {(d.name, count): bench.verdict(d, count) for d in defences for count in counts}
    for (name, count), verdict in first.items():
        yield Row(_named(bench, name, count), verdict.worst, "%", verdict.in_words(), None, "higher")
    chosen = best(defences, {d.name: [first[d.name, count].worst for count in counts] for d in defences})
    unattacked = [100 * bench.run(Cell(MEAN, NO_ATTACK, 0, seed))["accuracy"] for seed in range(seeds)]
    for defence in chosen:
        for count in counts:
            verdicts = [first[defence.name, count]]
            verdicts += [bench.verdict(defence, count, seed) for seed in range(1, seeds)]
            yield _row(bench, defence, count, verdicts, unattacked)


def best(defences: Sequence[Defence], worst: Mapping[str, Sequence[float]]) -> list[Defence]:
    """The default and the BEST others. worst: of each defence, with each number of attackers."""
    ranked = sorted(defences, key=lambda defence: -sum(worst[defence.name]))
    others = [defence for defence in ranked if defence.name != DEFAULT][:BEST]
    return [defence for defence in defences if defence.name == DEFAULT] + others


def _row(bench: Bench, defence: Defence, count: int, verdicts: Sequence[Verdict], unattacked: Sequence[float]) -> Row:
    """How much the worst attack takes, from the better of two: this defence and the plain mean with nobody attacking.

    The median over the seeds.
    """
    clean = [max(v.accuracies[NO_ATTACK], mean) for v, mean in zip(verdicts, unattacked, strict=True)]
    lost = [most - verdict.worst for most, verdict in zip(clean, verdicts, strict=True)]
    words = f"worst {listed([v.worst for v in verdicts])}; no attack {listed(clean)}"
    target = MOST_LOST.get(count) if defence.name == DEFAULT else None
    return Row(f"{_named(bench, defence.name, count)}: points lost", statistics.median(lost), "points", words, target)


def _named(bench: Bench, name: str, count: int) -> str:
    return f"{name}, {count} of {bench.setting.workers}"


def runs_of(setting: Setting, defences: Sequence[Defence], seeds: int) -> int:
    """How many lines the table asks for, those that several cells share counted each time."""
    cells = (1 + len(ATTACKS)) * len(setting.attackers)
    more = min(len(defences), 1 + BEST) * (seeds - 1)
    return cells * (len(defences) + more) + seeds


def byzantine(options: Any) -> list[Row]:
    """All rows, or with --case those of one defence."""
    defences = [defence for defence in DEFENCES if options.case in ("", defence.name)]
    if not defences:
        raise SystemExit(f"no case is called {options.case!r}; there are {', '.join(d.name for d in DEFENCES)}")
    setting = Setting()
    journal = Journal(Path(options.results) / "learning-byzantine.jsonl")
    countdown = Countdown(runs_of(setting, defences, options.seeds))
    bench = Bench(setting, loaded(setting.data, Path(options.data)), journal, countdown)
    return list(rows_of(bench, defences, options.seeds))
