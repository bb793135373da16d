"""What is measured of a round: how good the model is, for whom, and what it took."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chainfl.simulation.rounds import SimulatedRound
from chainfl.training.settings import Finding

MAX_CONFUSION_CLASSES: Final = 100
"""Above it the table of confusions stays out of the files: it grows with the square."""
CLIP_WARNING_SHARE: Final = 0.001
DIVERGING_FACTOR: Final = 2.0
NAMED_CLIENTS: Final = 5
"""Of those that one warning is about, how many it names."""

NOTHING_FOUND: Final[Mapping[str, Sequence[int]]] = {}

POWERCAP: Final = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Quality:
    """How a model does on a test set.

    accuracy in [0, 1]; loss: the mean, None when it is not finite. precision, recall, f1: one a class; a class that is
    never predicted has precision 0, one without examples has no recall and no F1. confusion[t][p]: how many examples
    of class t were taken for p; empty above MAX_CONFUSION_CLASSES.
    """

    accuracy: float
    loss: float | None
    precision: tuple[float, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int, loss: float) -> Quality:
        """predicted, labels: (n,), n at least 1; a prediction beyond the classes is just wrong."""
        table = confusion_of(predicted, labels, num_classes)
        right, of_class, taken = table.diagonal(), np.bincount(labels, minlength=num_classes), table.sum(axis=0)
        both = [(int(r), int(c), int(t)) for r, c, t in zip(right, of_class, taken, strict=True)]
        return cls(
            accuracy=int(right.sum()) / len(labels),
            loss=loss if math.isfinite(loss) else None,
            precision=tuple(r / t if t else 0.0 for r, _, t in both),
            recall=tuple(r / c if c else None for r, c, _ in both),
            f1=tuple(2 * r / (c + t) if c else None for r, c, t in both),
            confusion=_rows(table) if num_classes <= MAX_CONFUSION_CLASSES else (),
        )

    @property
    def macro_f1(self) -> float:
        """The mean F1 over the classes that have examples."""
        return _mean([value for value in self.f1 if value is not None])

    @property
    def constant_class(self) -> int | None:
        """The class that every example is taken for: recall 1 for it and 0 for all others; None if there is none."""
        there = [value for value in self.recall if value is not None]
        if len(there) < 2 or sum(there) != 1.0 or max(there) != 1.0:
            return None
        return self.recall.index(1.0)


@dataclass(frozen=True, slots=True)
class Fairness:
    """Accuracies of the global model on each client's own data. worst_decile: the mean over the worst tenth of them."""

    mean: float
    worst: float
    worst_decile: float

    @classmethod
    def of(cls, accuracies: Sequence[float]) -> Fairness:
        """accuracies: one a client, at least one."""
        ascending = sorted(accuracies)
        return cls(_mean(ascending), ascending[0], _mean(ascending[: math.ceil(len(ascending) / 10)]))


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """One round; round 0 is the model before training. All counts, bytes and seconds are of this round alone.

    root: of the global model, hex. clients: that took part; withheld: of them, had no update. local: see `Fairness`.
    bytes_up: of the update payloads; bytes_down: of the model, once a client that took part. seconds_training: of all
    clients together; seconds_other: of wall time, while none trained. peak_memory_bytes: of the largest process since
    it started. energy_joules: of the processor's packages and whatever else ran on them; None where the machine does
    not tell. warnings: what must not pass unseen.

    sent: the clients whose updates were voted on, by their numbers, from 0 in the order of the partition. weights,
    scores: theirs, as settled: the medians of the validators' votes; weight 0 is a rejection.
    """

    round: int
    root: str
    quality: Quality
    local: Fairness
    clients: int = 0
    accepted: int = 0
    withheld: int = 0
    loss_first: float | None = None
    loss_last: float | None = None
    clipped_share: float = 0.0
    saturated: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds_training: float = 0.0
    seconds_other: float = 0.0
    peak_memory_bytes: int = 0
    energy_joules: float | None = None
    warnings: tuple[str, ...] = ()
    sent: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()

    @property
    def rejected(self) -> tuple[int, ...]:
        """Of the clients that sent an update, those whose update does not count."""
        return tuple(client for client, weight in zip(self.sent, self.weights, strict=True) if not weight)

    @property
    def accuracy(self) -> float:
        """On the test set."""
        return self.quality.accuracy

    @property
    def loss(self) -> float | None:
        """On the test set."""
        return self.quality.loss

    def to_json(self) -> dict[str, Any]:
        """One flat object: the test set's figures by their names, those of clients as local_accuracy_…"""
        found = asdict(self)
        quality, local = found.pop("quality"), found.pop("local")
        flat = {"round": found.pop("round"), "accuracy": quality["accuracy"], "loss": quality["loss"]}
        flat["macro_f1"] = self.quality.macro_f1
        flat["rejected"] = self.rejected
        flat |= {f"local_accuracy_{name}": value for name, value in local.items()} | found
        return flat | {name: value for name, value in quality.items() if name not in flat}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> RoundMetrics:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError for something else."""
        quality = {item.name: _tupled(line[item.name]) for item in fields(Quality)}
        local = {item.name: line[f"local_accuracy_{item.name}"] for item in fields(Fairness)}
        names = {item.name for item in fields(cls)} - {"quality", "local"}
        rest = {name: _tupled(line[name]) for name in names}
        return cls(quality=Quality(**quality), local=Fairness(**local), **rest)


def confusion_of(predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """(num_classes, num_classes): how many examples of a class (row) were taken for which (column)."""
    known = predicted < num_classes
    pairs = labels[known] * num_classes + predicted[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


# --- guards --------------------------------------------------------------------------------------


def warnings_of(
    quality: Quality,
    before: Quality,
    played: SimulatedRound | None,
    withheld: Sequence[tuple[int, str]],
    findings: Mapping[str, Sequence[int]] = NOTHING_FOUND,
) -> Iterator[str]:
    """What must not pass unseen in a round, each as `kind: what`.

    played: None for the model before training. withheld: client and reason of each update that was not sent.
    findings: what was noticed about those that were, and by which clients. Clients are named by their numbers.
    """
    yield from (f"update_withheld: client {client}: {why}" for client, why in withheld)
    yield from (f"local_{name}: {_named(clients)}" for name, clients in sorted(findings.items()))
    if played is not None and not played.accepted:
        yield "void_round: no update was accepted, and the model stays as it was"
    if played is not None:
        yield from _integer_warnings(played)
    if played is not None and quality.constant_class is not None:
        yield f"constant_predictor: every test example is taken for class {quality.constant_class}"
    if quality.loss is None:
        yield "diverged: the test loss is not finite"
    elif before.loss is not None and quality.loss > max(DIVERGING_FACTOR * before.loss, _ignorance(quality)):
        yield f"diverging: the test loss went from {before.loss:.4g} to {quality.loss:.4g}"
    elif played is not None and _helps_nobody(quality, before, played, findings):
        yield "diverging: every client's update raised the loss on its own data, and the global model is of no use"


def clipped_share(played: SimulatedRound) -> float:
    """Of all values of the round's updates, how many did not fit int16."""
    values = sum(update.values.size for update in played.encoded.values())
    return sum(update.num_clipped for update in played.encoded.values()) / values if values else 0.0


def _integer_warnings(played: SimulatedRound) -> Iterator[str]:
    share = clipped_share(played)
    if share > CLIP_WARNING_SHARE:
        yield f"clipped: {share:.2%} of the updates' values do not fit; raise the range with fewer update_scale_bits"
    if played.num_saturated:
        yield f"saturated: {played.num_saturated} values of the model stand at the end of their range"


def _helps_nobody(
    quality: Quality, before: Quality, played: SimulatedRound, findings: Mapping[str, Sequence[int]]
) -> bool:
    """Whether every update made things worse for its own client, and the mean for all.

    With small batches every client's loss may rise in a round that does good; then the model is better than knowing
    nothing, or local models still tell classes apart.
    """
    everybody = len(played.tallied)
    rose, constant = (len(findings.get(kind, ())) for kind in (Finding.LOSS_ROSE, Finding.CONSTANT_PREDICTOR))
    if quality.loss is None or not 0 < everybody == rose:
        return False
    return quality.loss > _ignorance(quality) or (constant == everybody and quality.accuracy < before.accuracy)


def _named(clients: Sequence[int]) -> str:
    """clients: at least one."""
    named = ", ".join(map(str, clients[:NAMED_CLIENTS]))
    more = len(clients) - NAMED_CLIENTS
    return f"client{'s' if len(clients) > 1 else ''} {named}" + (f" and {more} more" if more > 0 else "")


def _ignorance(quality: Quality) -> float:
    """The cross-entropy of knowing nothing."""
    return math.log(max(2, len(quality.recall)))


# --- energy --------------------------------------------------------------------------------------


class EnergyMeter:
    """Joules of the processor's packages, from the counters that Linux shows (Intel's and AMD's RAPL)."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        """folder: where the kernel lists its power zones."""
        self._zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _is_package(zone)]
        self._last = self._read()

    def joules(self) -> float | None:
        """Since the last call; None where the machine does not tell, or lets only its administrator see."""
        last, now = self._last, self._read()
        self._last = now
        if last is None or now is None:
            return None
        # A counter starts again at zero after its range; between two rounds it does so at most once.
        used = [
            after - before + (span if after < before else 0)
            for (before, span), (after, _) in zip(last, now, strict=True)
        ]
        return sum(used) / 1e6

    def _read(self) -> list[tuple[int, int]] | None:
        """Microjoules and range of each zone."""
        try:
            found = [(_number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")) for zone in self._zones]
        except (OSError, ValueError):
            return None
        return found or None


def _is_package(zone: Path) -> bool:
    """A whole processor: not a part of one, which is counted in it."""
    try:
        return (zone / "name").read_text().startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int:
    return int(path.read_text())


# --- time ----------------------------------------------------------------------------------------


class Stopwatch:
    """Wall seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._started


def _rows(table: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
