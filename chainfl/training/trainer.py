"""Local training: from a global model and one's own data to a difference, in floating point.

A trainer knows nothing of chains or integers; it takes float32 vectors and gives float32 vectors (see `state`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from chainfl.encoding.layout import Layout
from chainfl.errors import DatasetError, TrainingDiverged, TrainingError
from chainfl.training.algorithms import Loss, make_algorithm
from chainfl.training.datasets import Dataset
from chainfl.training.sgd import SgdConfig
from chainfl.training.state import load_vector, state_layout, vector_of

FloatArray = NDArray[np.float32]

_EVALUATION_BATCH = 512


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """delta: (P,) float32, local model minus global model. Losses are those of the first and the last step's batch."""

    delta: FloatArray
    num_examples: int
    loss_first: float
    loss_last: float


@dataclass(frozen=True)
class Evaluation:
    """accuracy in [0, 1]; loss is the mean over the examples and may be infinite or NaN for a ruined model."""

    accuracy: float
    loss: float


class Trainer(Protocol):
    """What agents and validators need of training."""

    @property
    def layout(self) -> Layout:
        """Names and shapes behind the vectors."""
        ...

    def train(
        self,
        global_vector: FloatArray,
        dataset: Dataset,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> TrainingResult:
        """`steps` local steps from the global model. The same arguments give the same bits on the same machine."""
        ...

    def evaluate(self, vector: FloatArray, dataset: Dataset) -> Evaluation:
        """Accuracy and loss of a model on a set."""
        ...


class LocalTrainer:
    """A trainer for any module that maps (n, ...) float32 to what `loss` compares with (n,) int64 labels.

    Training and evaluation go through the one module given, so an instance belongs to one thread.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss = functional.cross_entropy,
        *,
        algorithm: str = "fedavg",
        num_threads: int | None = 1,
    ) -> None:
        """num_threads: for torch in this process (it is a process-wide setting); None leaves it as it is."""
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        make_algorithm(algorithm)
        self._module = module
        self._loss = loss
        self._algorithm = algorithm
        self._layout = state_layout(module)

    @property
    def layout(self) -> Layout:
        """Names and shapes behind the vectors."""
        return self._layout

    @property
    def initial_vector(self) -> FloatArray:
        """(P,) float32: the module's state as it stands now (the genesis model, before any training)."""
        return vector_of(self._module)

    def train(
        self,
        global_vector: FloatArray,
        dataset: Dataset,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> TrainingResult:
        """`steps` steps on shuffled passes over the data, in batches of `batch_size` (all of it, if it is smaller).

        Raises TrainingError for impossible settings, DatasetError for an empty set, TrainingDiverged when a loss or
        the resulting model is not finite. The caller's random generators are left as they were.
        """
        if steps < 1 or batch_size < 1:
            raise TrainingError(f"{steps} steps of {batch_size} examples are no training")
        sgd = SgdConfig(learning_rate, momentum, weight_decay)
        load_vector(self._module, global_vector)
        # Dropout draws from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._module.train()
            batches = seeded_batches(dataset, batch_size=batch_size, steps=steps, seed=seed)
            losses = make_algorithm(self._algorithm).run(self._module, batches, self._loss, sgd)
        with np.errstate(all="ignore"):  # judged on the next line
            delta = vector_of(self._module) - global_vector
        if not np.isfinite(delta).all():
            raise TrainingDiverged(f"a parameter is not finite after {steps} local steps", step=steps)
        return TrainingResult(delta, len(dataset), losses[0], losses[-1])

    def evaluate(self, vector: FloatArray, dataset: Dataset) -> Evaluation:
        """Accuracy of the largest output, and the mean loss, over the whole set. Raises DatasetError if it is empty."""
        if not len(dataset):
            raise DatasetError(f"{dataset.name}: no examples to evaluate on")
        load_vector(self._module, vector)
        self._module.eval()
        correct, loss = 0, 0.0
        with torch.no_grad():
            for features, labels in _in_order(dataset):
                outputs = self._module(features)
                correct += int((outputs.argmax(dim=1) == labels).sum())
                loss += float(self._loss(outputs, labels)) * len(labels)
        return Evaluation(correct / len(dataset), loss / len(dataset) if math.isfinite(loss) else loss)


def seeded_batches(dataset: Dataset, *, batch_size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches cut from one shuffled pass after another; a batch may span the end of a pass.

    Every batch has `min(batch_size, len(dataset))` examples, so a small share takes as many steps as a large one.
    Raises DatasetError if the set is empty.
    """
    if not len(dataset):
        raise DatasetError(f"{dataset.name}: no examples to train on")
    size = min(batch_size, len(dataset))
    features, labels = torch.from_numpy(dataset.features), torch.from_numpy(dataset.labels)
    rng = np.random.default_rng(seed)
    pending = np.empty(0, np.int64)
    for _ in range(steps):
        if len(pending) < size:
            pending = np.concatenate([pending, rng.permutation(len(dataset))])
        chosen, pending = torch.from_numpy(pending[:size].copy()), pending[size:]
        yield features[chosen], labels[chosen]


def _in_order(dataset: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    features, labels = torch.from_numpy(dataset.features), torch.from_numpy(dataset.labels)
    for start in range(0, len(labels), _EVALUATION_BATCH):
        yield features[start : start + _EVALUATION_BATCH], labels[start : start + _EVALUATION_BATCH]
