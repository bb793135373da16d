"""What an experiment leaves: a folder of files that others read, and from which the same call goes on."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from chainfl.encoding.arrays import AnyArray
from chainfl.errors import ExperimentDamaged, ExperimentDiffers, StoreUnusable, UsageError
from chainfl.simulation.canvas import Canvas
from chainfl.simulation.metrics import RoundMetrics
from chainfl.simulation.rounds import Standing
from chainfl.storage.files import PENDING_SUFFIX, writing
from chainfl.types import Address

CONFIG, METRICS, TABLE, REPORT = "config.json", "metrics.jsonl", "metrics.csv", "report.json"
MODEL, CHECKPOINT, LOCK = "model.safetensors", "checkpoint.npz", "lock"
ACCURACY, LOSS, RECALL = "accuracy.png", "loss.png", "recall.png"

_BEFORE_THE_END: Final = {CONFIG, METRICS, CHECKPOINT, LOCK}
_MAX_SHOWN: Final = 120
_MANY_CLASSES: Final = 20


class ResultFolder:
    """One experiment's folder, which nobody else uses while it is open.

    After each round the metrics get a line, and then the checkpoint is replaced: a round counts once both are whole.
    Raises UsageError for a folder in use or with other things in it, ExperimentDiffers for that of another experiment,
    and StoreFull, StoreReadOnly or StorageError when it cannot be written.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        """config: everything that the numbers follow from, as JSON's own types."""
        self.path = path
        _make_folder(path)
        with writing(path):
            self._lock = (path / LOCK).open("a+")
        try:
            self._begin(config)
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, config: Mapping[str, Any]) -> None:
        """Takes the folder for the experiment, the one there before if it finished no round."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another experiment runs in {self.path}", path=str(self.path)) from error
        if (self.path / CONFIG).exists():
            there = self._read_json(CONFIG)
            try:
                _check_same(there, config, self.path)
                return
            except ExperimentDiffers:
                if set(there) != set(config) or not self._is_barely_begun():
                    raise
        with writing(self.path):
            (self.path / CHECKPOINT).unlink(missing_ok=True)
        self.write_json(CONFIG, config)

    def _is_barely_begun(self) -> bool:
        """Whether nothing would be lost: no round was finished after round 0, which is the model before training."""
        if any(item.name.removesuffix(PENDING_SUFFIX) not in _BEFORE_THE_END for item in self.path.iterdir()):
            return False
        path = self.path / CHECKPOINT
        return not path.exists() or _standing(path).played == 0

    def close(self) -> None:
        """Lets others use the folder."""
        self._lock.close()

    # --- rounds ----------------------------------------------------------------------------------

    def load(self) -> tuple[Standing | None, list[RoundMetrics]]:
        """Where the experiment stands, and its rounds so far; None and nothing before round 0 was measured.

        Lines of a round that was not whole are removed. Raises ExperimentDamaged for what was not written here.
        """
        path = self.path / CHECKPOINT
        standing = _standing(path) if path.exists() else None
        lines = self._lines() if standing is not None else []
        kept = [line for line in lines if standing is not None and line.round <= standing.played]
        if standing is not None and [line.round for line in kept] != list(range(standing.played + 1)):
            raise ExperimentDamaged(f"{self.path / METRICS} does not have each round once", path=str(self.path))
        self._replace(METRICS, lambda stream: stream.write("".join(map(_line, kept)).encode()))
        return standing, kept

    def save_round(self, standing: Standing, metrics: RoundMetrics) -> None:
        """Appends the round's line and moves the checkpoint to it."""
        with writing(self.path), (self.path / METRICS).open("ab") as stream:
            stream.write(_line(metrics).encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._replace(CHECKPOINT, lambda stream: np.savez(stream, **_arrays(standing)))

    def _lines(self) -> list[RoundMetrics]:
        path = self.path / METRICS
        try:
            # What follows the last newline was cut off while it was written.
            whole = path.read_text(encoding="utf-8").split("\n")[:-1]
            return [RoundMetrics.from_json(json.loads(line)) for line in whole]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExperimentDamaged(f"{path} is not what was written: {error}", path=str(self.path)) from error

    # --- at the end ------------------------------------------------------------------------------

    def conclude(
        self, rounds: Sequence[RoundMetrics], report: Mapping[str, Any], write_model: Callable[[BinaryIO], object]
    ) -> None:
        """Writes table, pictures, model and report from all rounds, round 0 first."""
        with writing(self.path):
            write_table(rounds, self.path / TABLE)
            self._replace(MODEL, write_model)
            draw_accuracy(rounds, self.path / ACCURACY)
            draw_loss(rounds, self.path / LOSS)
            draw_recall(rounds, self.path / RECALL)
        self.write_json(REPORT, report)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """A JSON document, whole or not at all."""
        self._replace(name, lambda stream: stream.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode()))

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ExperimentDamaged(f"{path} is not what was written: {error}", path=str(self.path)) from error
        if not isinstance(found, dict):
            raise ExperimentDamaged(f"{path} is not what was written", path=str(self.path))
        return found

    def _replace(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """A file that stands complete or not at all. Nobody else writes here, so the pending one has a fixed name."""
        pending = self.path / (name + PENDING_SUFFIX)
        with writing(self.path):
            with pending.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            pending.replace(self.path / name)


def _make_folder(path: Path) -> None:
    """Raises UsageError, before anything is left there, for what is no folder or one with other things in it."""
    try:
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            there = {item.name for item in path.iterdir()}
    except StoreUnusable as error:
        raise UsageError(f"{error}; `out` names a folder: choose another", path=str(path)) from error
    strangers = sorted(there - {LOCK, CONFIG + PENDING_SUFFIX})
    if CONFIG not in there and strangers:
        raise UsageError(f"{path} holds no experiment, but {strangers[0]}; choose a new folder", path=str(path))


def _line(metrics: RoundMetrics) -> str:
    return json.dumps(metrics.to_json(), allow_nan=False, separators=(",", ":")) + "\n"


# --- the same experiment? ------------------------------------------------------------------------


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    old, new = dict(_flat(there)), dict(_flat(json.loads(json.dumps(here))))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        told = [f"{name} was {_shown(old.get(name))} and is {_shown(new.get(name))}" for name in names]
        raise ExperimentDiffers(
            f"{path} holds another experiment: {'; '.join(told)}{_weights_told(names)}",
            path=str(path),
            differences=names,
        )


def _weights_told(names: Sequence[str]) -> str:
    """What to do where the weights before training differ, and neither the seed nor the model's name says why."""
    if "genesis_root" not in names or any(name == "seed" or name.startswith("model.") for name in names):
        return ""
    return (
        "; a module of your own has weights from torch's generator, whatever the seed: call torch.manual_seed before "
        "making it, or give another folder"
    )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


# --- the checkpoint ------------------------------------------------------------------------------


def _arrays(standing: Standing) -> dict[str, AnyArray]:
    named: dict[str, AnyArray] = {"played": np.int64(standing.played).reshape(1), "model": standing.model}
    named |= {
        name: vector
        for name, vector in (("state", standing.state), ("previous", standing.previous))
        if vector is not None
    }
    named |= {f"residual {worker}": residual for worker, residual in standing.residuals.items()}
    for worker, memory in standing.memories.items():
        named |= {f"memory {worker} {name}": vector for name, vector in memory.items()}
    named |= {f"reputation {worker}": np.array([value]) for worker, value in standing.reputations.items()}
    return named


def _standing(path: Path) -> Standing:
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        return Standing(
            model=found["model"],
            played=int(found["played"][0]),
            state=found.get("state"),
            previous=found.get("previous"),
            residuals={
                Address(name.removeprefix("residual ")): vector
                for name, vector in found.items()
                if name.startswith("residual ")
            },
            memories=_memories(found),
            reputations={
                Address(name.removeprefix("reputation ")): int(vector[0])
                for name, vector in found.items()
                if name.startswith("reputation ")
            },
        )
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ExperimentDamaged(f"{path} is not what was written: {error}", path=str(path.parent)) from error


def _memories(found: Mapping[str, AnyArray]) -> dict[Address, dict[str, AnyArray]]:
    memories: dict[Address, dict[str, AnyArray]] = {}
    for name, vector in found.items():
        if name.startswith("memory "):
            _, worker, key = name.split(" ", 2)
            memories.setdefault(Address(worker), {})[key] = vector
    return memories


# --- tables and pictures -------------------------------------------------------------------------


def write_table(rounds: Sequence[RoundMetrics], path: Path) -> None:
    """The rounds as CSV: a column a figure, and one a class for precision, recall and F1; no confusions."""
    rows = [dict(_columns(metrics)) for metrics in rounds]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _columns(metrics: RoundMetrics) -> Iterator[tuple[str, object]]:
    for name, value in metrics.to_json().items():
        if name == "warnings":
            yield name, " | ".join(value)
        elif name in ("rejected", "sent", "weights", "scores"):
            yield name, " ".join(map(str, value))
        elif name in ("precision", "recall", "f1"):
            yield from ((f"{name}_{label}", figure) for label, figure in enumerate(value))
        elif name != "confusion":
            yield name, value


def draw_accuracy(rounds: Sequence[RoundMetrics], path: Path) -> None:
    """Test accuracy by round, and how the clients fare on their own data."""
    with Canvas(path, (7.0, 4.0)) as axes:
        numbers = [metrics.round for metrics in rounds]
        axes.plot(numbers, [100 * m.accuracy for m in rounds], marker="o", label="global model, test set")
        axes.plot(numbers, [100 * m.local.mean for m in rounds], linestyle="--", label="clients' own data, mean")
        axes.plot(numbers, [100 * m.local.worst_decile for m in rounds], linestyle=":", label="… worst decile")
        _finish(axes, "accuracy, %")


def draw_loss(rounds: Sequence[RoundMetrics], path: Path) -> None:
    """Test loss by round; a gap where it is not finite."""
    with Canvas(path, (7.0, 4.0)) as axes:
        known = [metrics.loss if metrics.loss is not None else float("nan") for metrics in rounds]
        axes.plot([metrics.round for metrics in rounds], known, marker="o", label="global model, test set")
        _finish(axes, "loss")


def draw_recall(rounds: Sequence[RoundMetrics], path: Path) -> None:
    """Recall of each class by round: a model that collapses to one class shows as one line at the top."""
    with Canvas(path, (7.0, 4.5)) as axes:
        numbers = [metrics.round for metrics in rounds]
        for label in range(len(rounds[0].quality.recall)):
            values = [metrics.quality.recall[label] for metrics in rounds]
            known = [100 * value if value is not None else float("nan") for value in values]
            axes.plot(numbers, known, linewidth=1, label=f"class {label}" if label < _MANY_CLASSES else None)
        _finish(axes, "recall, %", columns=2)


def _finish(axes: Any, what: str, columns: int = 1) -> None:
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=columns)
