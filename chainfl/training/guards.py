"""What may go wrong in a local run without any number ceasing to be finite, seen on a sample of the worker's own data.

The sample is small, so that looking costs little beside training; the same examples before and after, so that the
comparison has no noise of its own. Looking draws nothing from torch's generators and leaves the module as it was.

A loss that rose is told and sent: after few steps on small batches most honest local models are worse on their own data
than the mean that they started from, and the mean of such updates learns all the same. An update is withheld when there
is nothing in it for anybody: the local model is worse than one that knows nothing, or a collapse to one class that made
it worse. Not so under an algorithm whose steps follow what earlier rounds left besides the own loss (SCAFFOLD, FedDyn):
that loss may rise for the others' sake, so only DIVERGED_FACTOR withholds there.
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
from chainfl.training.devices import device_of
from chainfl.training.settings import Finding

SAMPLE = 128
DIVERGED_FACTOR = 4.0
"""A local model counts as diverged when its loss is so many times both what it was and what guessing costs."""
WORSE_FACTOR = 1.25
"""The same where local steps lower the own loss and nothing else, so that noise is all that may raise it."""
COLLAPSE_FACTOR = 1.01
"""By how much a collapse to one class has to raise the own loss: a tiny step may turn a prediction, but no loss."""

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

    def findings(self, before: Look, after: Look, *, lowers_own_loss: bool) -> tuple[Finding, ...]:
        """What is worth telling. Raises TrainingDiverged when the update is worth nothing even to this worker.

        before, after: the first and the last local step; the module stands after it. lowers_own_loss: whether that is
        all that the local steps are for.
        """
        factor = WORSE_FACTOR if lowers_own_loss else DIVERGED_FACTOR
        if not after.loss <= factor * max(before.loss, math.log(self._dataset.num_classes)):
            raise _diverged(before, after)
        is_constant = self._predicts_one_class(after)
        if lowers_own_loss and is_constant and _has_collapsed(before, after):
            raise _diverged(before, after, "; the local model takes all of them for the same class")
        found = {Finding.CONSTANT_PREDICTOR: is_constant, Finding.LOSS_ROSE: after.loss > before.loss}
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
        device = device_of(self._module)
        features = torch.from_numpy(self._dataset.features[indices]).to(device)
        labels = torch.from_numpy(self._dataset.labels[indices]).to(device)
        was_training = self._module.training
        self._module.eval()
        outputs = self._module(features)
        self._module.train(was_training)
        are_classes = outputs.shape == (len(labels), self._dataset.num_classes)
        predicted = frozenset(outputs.argmax(dim=1).unique().tolist()) if are_classes else None
        return Look(float(self._loss(outputs, labels)), predicted)


def _has_collapsed(before: Look, after: Look) -> bool:
    """Whether a constant predictor is what this round made, and made worse."""
    knew_classes = before.predicted is not None and len(before.predicted) > 1
    return knew_classes and after.loss > COLLAPSE_FACTOR * before.loss


def _diverged(before: Look, after: Look, detail: str = "") -> TrainingDiverged:
    return TrainingDiverged(
        f"the loss on the worker's own data went from {before.loss:.4g} to {after.loss:.4g} in one round{detail}",
        loss_before=before.loss,
        loss_after=after.loss,
    )
