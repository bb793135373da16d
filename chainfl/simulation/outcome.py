"""What an experiment came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from chainfl.encoding.arrays import Int32Array
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.encoding.payload import write_float_model
from chainfl.simulation.experiment import Experiment
from chainfl.simulation.metrics import RoundMetrics
from chainfl.simulation.task_text import task_text
from chainfl.tasks.spec import architecture_of
from chainfl.training.state import load_vector


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """model: (P,) int32, the last global model. rounds: round 0, before training, and every round after it.

    folder: where the files are; None when nothing was written.
    """

    experiment: Experiment
    model: Int32Array
    rounds: tuple[RoundMetrics, ...]
    folder: Path | None

    @property
    def accuracy(self) -> float:
        """Of the last model on the test set."""
        return self.rounds[-1].accuracy

    @property
    def loss(self) -> float | None:
        """Of the last model on the test set; None when it is not finite."""
        return self.rounds[-1].loss

    @property
    def accuracies(self) -> tuple[float, ...]:
        """After each round; the first is that of the model before training."""
        return tuple(metrics.accuracy for metrics in self.rounds)

    @property
    def root(self) -> str:
        """Of the last model, hex: what a chain would hold."""
        return self.rounds[-1].root

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything that was told, with its round."""
        return tuple(f"round {metrics.round}: {text}" for metrics in self.rounds for text in metrics.warnings)

    @property
    def module(self) -> Any:
        """The trained module, in evaluation mode; the one that was given is as it was."""
        module = self.experiment.model.module
        load_vector(module, dequantize_model(self.model, self.experiment.recipe.format.model_scale_bits))
        return module.cpu().eval()

    def task_file(self, *, reward: str = "1000", program: Path | None = None) -> str:
        """The experiment as a task file; see `task_text`. Raises UsageError for what no task can do."""
        return task_text(self.experiment, rounds=self.rounds[-1].round, reward=reward, program=program)

    def write_model(self, target: BinaryIO) -> int:
        """The last model as float32 safetensors for `chainfl.load_model`. returns: the number of bytes."""
        named = self.experiment.registered
        return write_float_model(
            target,
            self.experiment.layout,
            self.model,
            self.experiment.recipe.format.model_scale_bits,
            None if named is None else architecture_of(named),
        )

    def to_json(self) -> dict[str, Any]:
        """report.json: seed, configuration and versions, the last round, and sums over all of them."""
        last = self.rounds[-1]
        return {
            "seed": self.experiment.seed,
            "rounds": last.round,
            "accuracy": last.accuracy,
            "loss": last.loss,
            "best_accuracy": max(self.accuracies),
            "accuracy_by_round": list(self.accuracies),
            "root": last.root,
            "bytes_up": sum(metrics.bytes_up for metrics in self.rounds),
            "bytes_down": sum(metrics.bytes_down for metrics in self.rounds),
            "seconds_training": sum(metrics.seconds_training for metrics in self.rounds),
            "seconds_other": sum(metrics.seconds_other for metrics in self.rounds),
            "peak_memory_bytes": max(metrics.peak_memory_bytes for metrics in self.rounds),
            "energy_joules": _sum([metrics.energy_joules for metrics in self.rounds[1:]]),
            "warnings": list(self.warnings),
            "last_round": last.to_json(),
            "configuration": self.experiment.to_json(),
        }


def _sum(values: Sequence[float | None]) -> float | None:
    """None unless all are known."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
