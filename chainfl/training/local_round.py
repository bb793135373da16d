"""What a local algorithm sees of its round, and where in the flat vector the trained parameters are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainfl.errors import TrainingError
from chainfl.training.settings import LocalTraining, Memory
from chainfl.training.state import state_layout, state_tensors

FloatArray = NDArray[np.float32]


class TrainedParameters:
    """A module's trainable parameters, each once, and their places in its vector.

    Frozen parameters and buffers (the statistics of batch norm) have no place here: an algorithm corrects what
    gradients move, and nothing else. Raises TrainingError when two parameters share memory without being one.
    """

    def __init__(self, module: nn.Module) -> None:
        trainable = [p for p in module.parameters() if p.requires_grad]
        names = {_identity(tensor): name for name, tensor in state_tensors(module).items()}
        of_parameters = [names[_identity(p)] for p in trainable if p.numel()]
        if len(set(of_parameters)) != len(of_parameters):
            raise TrainingError("two parameters share memory; tie them by assigning one and the same parameter")
        self.tensors: list[Tensor] = list(trainable)
        self._layout = state_layout(module)
        self._names = [names[_identity(p)] if p.numel() else None for p in trainable]

    def views(self, vector: FloatArray) -> list[Tensor]:
        """A vector of the module's layout as one tensor a parameter, of its shape and dtype."""
        arrays = self._layout.unflatten(np.ascontiguousarray(vector, np.float32))
        return [
            torch.zeros_like(tensor) if name is None else torch.from_numpy(np.array(arrays[name])).to(tensor)
            for name, tensor in zip(self._names, self.tensors, strict=True)
        ]

    def only(self, vector: FloatArray) -> FloatArray:
        """(P,) float32: a copy that is zero wherever no trained parameter is."""
        arrays = self._layout.unflatten(np.ascontiguousarray(vector, np.float32))
        kept = set(self._names)
        return self._layout.flatten({n: a if n in kept else np.zeros_like(a) for n, a in arrays.items()})

    def zeros(self) -> FloatArray:
        """(P,) float32."""
        return np.zeros(self._layout.num_params, np.float32)


@dataclass(frozen=True, eq=False)
class LocalRound:
    """Everything that an algorithm may know when it begins.

    parameters: they stand at the global model. training: the task's settings. steps: how many this worker takes.
    memory: what `settle` gave after the worker's last update that counted. last_step: (P,) float32, by how much the
    last round with a result moved the global model; None in the first.
    """

    parameters: TrainedParameters
    training: LocalTraining
    steps: int
    memory: Memory = field(default_factory=dict)
    last_step: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class LocalOutcome:
    """delta: (P,) float32, what goes to the aggregator. kept: what `settle` will need, should the update count."""

    delta: FloatArray
    kept: Memory = field(default_factory=dict)


def _identity(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()
