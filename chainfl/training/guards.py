"""What may go wrong in a local run without any number ceasing to be finite, seen on a sample of the worker's own data.

The sample is small, so that looking costs little beside training; the same examples before and after, so that the
comparison has no noise of its own. Looking draws nothing from torch's generators and leaves the module as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainfl.errors import TrainingDiverged
from chainfl.training.datasets import Dataset
from chainfl.training.settings import Finding

SAMPLE = 128
DIVERGED_FACTOR = 4.0
"""A local model counts as diverged when its loss is so many times both what it was and what guessing costs."""

_BATCH = 512

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Look:
    """loss: the mean over the sample. predicted: classes that the model gives, None if its outputs are no classes."""

    loss: float
    predicted: frozenset[int] | None


class OwnData:
    """A worker's own examples, as the guards look at them. Needs at least one example."""

    def __init__(self, module: nn.Module, loss: Loss, dataset: Dataset, seed: int) -> None:
        self._module = module
        self._loss = loss
        self._dataset = dataset
        self._sample = np.random.default_rng([seed, SAMPLE]).permutation(len(dataset))[:SAMPLE]

    def look(self) -> Look:
        """At the sample, with the module as it stands."""
        return self._look(self._sample)

    def findings(self, before: Look, after: Look) -> tuple[Finding, ...]:
        """What is worth telling. Raises TrainingDiverged when the local model is worse than one that learned nothing.

        before, after: the first and the last local step; the module stands after it.
        """
        limit = DIVERGED_FACTOR * max(before.loss, math.log(self._dataset.num_classes))
        if not after.loss <= limit:
            raise TrainingDiverged(
                f"the loss on the worker's own data went from {before.loss:.4g} to {after.loss:.4g} in one round",
                loss_before=before.loss,
                loss_after=after.loss,
            )
        found = {
            Finding.CONSTANT_PREDICTOR: self._predicts_one_class(after),
            Finding.LOSS_ROSE: after.loss > before.loss,
        }
        return tuple(finding for finding, is_so in found.items() if is_so)

    def _predicts_one_class(self, after: Look) -> bool:
        """The whole set is looked at only if the sample leaves it open."""
        labels = self._dataset.labels
        if after.predicted is None or len(after.predicted) > 1 or not (labels != labels[0]).any():
            return False
        everything = np.arange(len(labels))
        parts = (self._look(everything[start : start + _BATCH]) for start in range(0, len(labels), _BATCH))
        return all(part.predicted == after.predicted for part in parts)

    @torch.no_grad()
    def _look(self, indices: NDArray[np.int64]) -> Look:
        features = torch.from_numpy(self._dataset.features[indices])
        labels = torch.from_numpy(self._dataset.labels[indices])
        was_training = self._module.training
        self._module.eval()
        outputs = self._module(features)
        self._module.train(was_training)
        are_classes = outputs.shape == (len(labels), self._dataset.num_classes)
        predicted = frozenset(outputs.argmax(dim=1).unique().tolist()) if are_classes else None
        return Look(float(self._loss(outputs, labels)), predicted)
