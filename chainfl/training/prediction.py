"""What a model says of a set, example by example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from chainfl.errors import DatasetError
from chainfl.training.datasets import Dataset, FloatArray
from chainfl.training.devices import device_of, loss_on
from chainfl.training.state import load_vector

_BATCH = 512

cross_entropy = functional.cross_entropy
"""What a model's outputs and labels are compared with unless the user brings another loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """classes: (n,) int64, the largest output of each example. loss: their mean; not finite for a ruined model."""

    classes: NDArray[np.int64]
    loss: float


def predict(
    module: nn.Module, vector: FloatArray, dataset: Dataset, loss: Callable[[Tensor, Tensor], Tensor]
) -> Prediction:
    """The whole set through the module with these weights. Raises DatasetError if the set is empty.

    vector: (P,) float32. Accuracy and loss are the same bits as `LocalTrainer.evaluate` gives.
    """
    if not len(dataset):
        raise DatasetError(f"{dataset.name}: no examples to evaluate on")
    load_vector(module, vector)
    module.eval()
    device = device_of(module)
    measured = loss_on(loss, device)
    features, labels = torch.from_numpy(dataset.features), torch.from_numpy(dataset.labels)
    classes, total = [], 0.0
    with torch.no_grad():
        for start in range(0, len(labels), _BATCH):
            outputs, wanted = module(features[start : start + _BATCH].to(device)), labels[start : start + _BATCH]
            classes.append(outputs.argmax(dim=1).cpu().numpy())
            total += float(measured(outputs, wanted.to(device))) * len(wanted)
    return Prediction(np.concatenate(classes), total / len(labels))
