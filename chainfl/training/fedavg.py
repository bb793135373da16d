"""FedAvg's local training (McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized
Data): steps from the global model along the gradient of the worker's own loss, and nothing that ties it to others.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from chainfl.training.local_round import FloatArray, LocalOutcome, LocalRound
from chainfl.training.settings import LocalTraining, Memory


class FedAvg:
    """All hooks, none of which does anything: the other algorithms say where they differ."""

    uses_last_step = False
    keeps_memory = False

    def __init__(self, training: LocalTraining) -> None:
        self._training = training

    def begin(self, start: LocalRound) -> None:
        """Starts from the global model."""

    def correct(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The loss's own gradients."""
        return gradients

    def end(self, delta: FloatArray) -> LocalOutcome:
        """Local model minus global model."""
        return LocalOutcome(delta)

    def settle(self, kept: Memory, sent: FloatArray, step: FloatArray) -> Memory:
        """Nothing is remembered."""
        return {}
