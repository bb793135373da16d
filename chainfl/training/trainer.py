"""Local training: from a global model and one's own data to a difference, in floating point.

A trainer knows nothing of chains or integers; it takes float32 vectors and gives float32 vectors (see `state`).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from chainfl.encoding.layout import Layout
from chainfl.errors import DatasetError, TrainingDiverged, TrainingStopped
from chainfl.training.algorithms import LocalAlgorithm, make_algorithm
from chainfl.training.datasets import Dataset
from chainfl.training.devices import device_named, loss_on, own_randomness
from chainfl.training.guards import Loss, OwnData
from chainfl.training.local_round import LocalRound, TrainedParameters
from chainfl.training.memory_format import CHANNELS_LAST, bears_channels_last
from chainfl.training.optimizers import MakeOptimizer, check_optimizer, make_optimizer
from chainfl.training.settings import NO_MEMORY, Finding, LocalTraining, Memory
from chainfl.training.state import floating_buffers, load_vector, state_layout, vector_of

FloatArray = NDArray[np.float32]
Batch = tuple[Tensor, Tensor]

_EVALUATION_BATCH = 512

# Virtual machines were seen that announce AMX and die of it (SIGILL) in the first bfloat16 product; a worker would die
# with its stake locked. oneDNN reads the limit when it is first used. Whoever has a sound AMX sets the variable to ALL.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """delta: (P,) float32, the update: local model minus global model, as the algorithm sends it.

    loss_first, loss_last: of the first and the last step's batch. kept: what `settle` needs if the update counts.
    findings: what was noticed about the run (`guards`).
    """

    delta: FloatArray
    num_examples: int
    loss_first: float
    loss_last: float
    kept: Memory = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


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
        training: LocalTraining,
        *,
        seed: int,
        memory: Memory = NO_MEMORY,
        last_step: FloatArray | None = None,
        stop: threading.Event | None = None,
    ) -> TrainingResult:
        """One round's local steps from the global model. The same arguments give the same bits on the same machine.

        memory, last_step: as `LocalRound` has them; whoever has none trains as in a first round. stop: set by another
        thread when nobody wants the result any more; TrainingStopped is raised at the next step.
        """
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
        optimizer: MakeOptimizer | None = None,
        device: str = "cpu",
        num_threads: int | None = 1,
    ) -> None:
        """loss: the mean over the examples it is given. optimizer: in place of the one that settings name. device: to
        which the module moves, and each batch. num_threads: for torch in this process (it is a process-wide setting);
        None leaves it as it is. Raises UsageError for a device that is not there.
        """
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._device = device_named(device)
        self._module = module.to(self._device)
        self._loss = loss_on(loss, self._device)
        self._optimizer = optimizer
        self._layout = state_layout(module)
        self._channels_last: bool | None = None

    @property
    def layout(self) -> Layout:
        """Names and shapes behind the vectors."""
        return self._layout

    @property
    def buffers(self) -> tuple[str, ...]:
        """Of the layout's tensors those that are no weights, by name."""
        return floating_buffers(self._module)

    def check(self, training: LocalTraining) -> None:
        """Raises TrainingError where the module cannot be trained so, as `check_optimizer` tells."""
        check_optimizer(self._module, training, self._optimizer)

    @property
    def initial_vector(self) -> FloatArray:
        """(P,) float32: the module's state as it stands now (the genesis model, before any training)."""
        return vector_of(self._module)

    def train(
        self,
        global_vector: FloatArray,
        dataset: Dataset,
        training: LocalTraining,
        *,
        seed: int,
        memory: Memory = NO_MEMORY,
        last_step: FloatArray | None = None,
        stop: threading.Event | None = None,
    ) -> TrainingResult:
        """Local steps on shuffled passes over the data, in batches of `batch_size` (all of it, if it is smaller).

        memory: the algorithm's, of `settle`. last_step: (P,) float32, what the last round with a result added to the
        global model. Raises TrainingError for settings that do not go together, DatasetError for an empty set,
        TrainingDiverged when a loss or the resulting model is not finite or the model got worse than one that knows
        nothing (`guards` says when): the update is then to be withheld, and TrainingStopped as `Trainer` says. The
        caller's random generators are left as they were.
        """
        if not len(dataset):
            raise DatasetError(f"{dataset.name}: no examples to train on")
        algorithm, steps = make_algorithm(training), training.steps_for(len(dataset))
        self.arrange(dataset)
        load_vector(self._module, global_vector)
        own_data = OwnData(self._module, self._loss, dataset, seed)
        before = own_data.look()
        with own_randomness(self._device, seed):
            self._module.train()
            start = LocalRound(TrainedParameters(self._module), training, steps, memory, last_step)
            algorithm.begin(start)
            batches = seeded_batches(dataset, batch_size=training.batch_size, steps=steps, seed=seed)
            losses = self._take_steps(algorithm, start, batches, stop or threading.Event())
        outcome = algorithm.end(self._difference(global_vector, steps))
        corrects = algorithm.uses_last_step or algorithm.keeps_memory
        findings = own_data.findings(before, own_data.look(), lowers_own_loss=not corrects)
        return TrainingResult(outcome.delta, len(dataset), losses[0], losses[-1], outcome.kept, findings)

    def arrange(self, dataset: Dataset) -> None:
        """Puts the module's channels last, if it bears that; for examples such as these, the first that are seen."""
        if self._channels_last is None:
            self._channels_last = bears_channels_last(self._module, dataset.shape)
            if self._channels_last:
                self._module.to(memory_format=CHANNELS_LAST)

    def _arranged(self, features: Tensor) -> Tensor:
        features = features.to(self._device)
        return features.contiguous(memory_format=CHANNELS_LAST) if self._channels_last else features

    def settle(self, training: LocalTraining, kept: Memory, sent: FloatArray, step: FloatArray) -> Memory:
        """What the algorithm remembers after an update that counted; see `LocalAlgorithm.settle`."""
        return make_algorithm(training).settle(kept, sent, step)

    def _take_steps(
        self, algorithm: LocalAlgorithm, start: LocalRound, batches: Iterator[Batch], stop: threading.Event
    ) -> list[float]:
        """One step a batch. Returns each step's loss before it was taken."""
        parameters = start.parameters.tensors
        optimizer = make_optimizer(parameters, start.training, self._optimizer)
        losses: list[float] = []
        for batch in batches:
            if stop.is_set():
                raise TrainingStopped(f"stopped after {len(losses)} local steps")
            loss, gradients = self._gradients(parameters, batch, start.training)
            losses.append(loss)
            if not math.isfinite(loss):
                raise TrainingDiverged(f"the loss is {loss} at local step {len(losses)}", step=len(losses))
            with torch.no_grad():
                corrected = algorithm.correct(gradients)
            optimizer.step(corrected)
        return losses

    def _gradients(
        self, parameters: Sequence[Tensor], batch: Batch, training: LocalTraining
    ) -> tuple[float, list[Tensor | None]]:
        """The batch's loss and gradients, summed up over its parts, each with its share of the examples."""
        total = 0.0
        sums: list[Tensor | None] = [None] * len(parameters)
        for features, labels in _parts(batch, training.accumulation):
            features, labels = self._arranged(features), labels.to(self._device)
            value = self._loss(self._outputs(features, training.precision), labels)
            share = len(labels) / len(batch[1])
            total += share * value.item()
            sums = _added(sums, torch.autograd.grad(value, parameters, allow_unused=True), share)
        return total, sums

    def _outputs(self, features: Tensor, precision: str) -> Tensor:
        if precision == "float32":
            outputs: Tensor = self._module(features)
            return outputs
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            outputs = self._module(features)
        return outputs.float()

    def _difference(self, global_vector: FloatArray, steps: int) -> FloatArray:
        with np.errstate(all="ignore"):  # judged on the next line
            delta = vector_of(self._module) - global_vector
        if not np.isfinite(delta).all():
            raise TrainingDiverged(f"a parameter is not finite after {steps} local steps", step=steps)
        return delta

    def evaluate(self, vector: FloatArray, dataset: Dataset) -> Evaluation:
        """Accuracy of the largest output, and the mean loss, over the whole set. Raises DatasetError if it is empty."""
        if not len(dataset):
            raise DatasetError(f"{dataset.name}: no examples to evaluate on")
        self.arrange(dataset)
        load_vector(self._module, vector)
        self._module.eval()
        correct, loss = 0, 0.0
        with torch.no_grad():
            for features, labels in _in_order(dataset):
                features, labels = self._arranged(features), labels.to(self._device)
                outputs = self._module(features)
                correct += int((outputs.argmax(dim=1) == labels).sum())
                loss += float(self._loss(outputs, labels)) * len(labels)
        return Evaluation(correct / len(dataset), loss / len(dataset) if math.isfinite(loss) else loss)


def seeded_batches(dataset: Dataset, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
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


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    features, labels = batch
    return zip(features.chunk(count), labels.chunk(count), strict=True)


def _added(sums: list[Tensor | None], gradients: Sequence[Tensor | None], share: float) -> list[Tensor | None]:
    """sums + share · gradients, one a parameter; None is what no part depends on so far."""
    if share == 1:  # the only part
        return list(gradients)
    added: list[Tensor | None] = []
    for total, gradient in zip(sums, gradients, strict=True):
        part = None if gradient is None else gradient * share
        added.append(total if part is None else part if total is None else total + part)
    return added


def _in_order(dataset: Dataset) -> Iterator[Batch]:
    features, labels = torch.from_numpy(dataset.features), torch.from_numpy(dataset.labels)
    for start in range(0, len(labels), _EVALUATION_BATCH):
        yield features[start : start + _EVALUATION_BATCH], labels[start : start + _EVALUATION_BATCH]
