"""What a local training algorithm is, and those that a task may name.

An algorithm owns the whole local run (its steps, its extra loss terms, its state), so one that corrects client drift
(FedProx, SCAFFOLD, FedDyn) is a file of its own beside `fedavg.py` and one line in ALGORITHMS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from chainfl.errors import TrainingError
from chainfl.training.fedavg import FedAvg
from chainfl.training.sgd import SgdConfig

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class LocalAlgorithm(Protocol):
    """Changes the module in place, one step a batch, and returns each step's loss before it was taken."""

    def run(self, module: nn.Module, batches: Iterator[Batch], loss: Loss, sgd: SgdConfig) -> list[float]:
        """Raises TrainingDiverged as soon as a loss is not finite."""
        ...


ALGORITHMS: Mapping[str, Callable[[], LocalAlgorithm]] = {"fedavg": FedAvg}


def make_algorithm(name: str) -> LocalAlgorithm:
    """A fresh instance for one run. Raises TrainingError for an unknown name."""
    if name not in ALGORITHMS:
        raise TrainingError(f"no algorithm is called {name!r}; there are {', '.join(ALGORITHMS)}", name=name)
    return ALGORITHMS[name]()
