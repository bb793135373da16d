"""What a local training algorithm is, and those that a task may name.

The one loop of steps is the trainer's. An algorithm is three small hooks in it (before the first step, at every
gradient, after the last step) and one after the round: a file of its own beside `fedavg.py`, a line in ALGORITHMS,
and a name in `tasks.training_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from chainfl.training.fedavg import FedAvg
from chainfl.training.feddyn import FedDyn
from chainfl.training.fednova import FedNova
from chainfl.training.fedprox import FedProx
from chainfl.training.local_round import FloatArray, LocalOutcome, LocalRound
from chainfl.training.scaffold import Scaffold
from chainfl.training.settings import LocalTraining, Memory


class LocalAlgorithm(Protocol):
    """One local run. An instance is used for one, from `begin` to `end`; `settle` needs neither.

    uses_last_step: whether `begin` looks at the last global step. keeps_memory: whether `settle` ever leaves any.
    """

    uses_last_step: bool
    keeps_memory: bool

    def begin(self, start: LocalRound) -> None:
        """Before the first step. May move the parameters from the global model to where local training starts."""
        ...

    def correct(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients to step along instead of the loss's own, one a parameter. Runs without autograd."""
        ...

    def end(self, delta: FloatArray) -> LocalOutcome:
        """After the last step. delta: (P,) float32, local model minus global model."""
        ...

    def settle(self, kept: Memory, sent: FloatArray, step: FloatArray) -> Memory:
        """The memory for the next round, once the update counted; without that, the memory stays what it was.

        kept: of `end`. sent: (P,) float32, the update as its integers say. step: (P,) float32, the round's aggregate:
        the global step divided by the server's rate.
        """
        ...


ALGORITHMS: Mapping[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "feddyn": FedDyn,
}


def make_algorithm(training: LocalTraining) -> LocalAlgorithm:
    """A fresh instance of the one that the settings name."""
    return ALGORITHMS[training.algorithm](training)
