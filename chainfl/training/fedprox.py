"""FedProx (Li et al. 2020, Federated Optimization in Heterogeneous Networks): a spring back to the global model.

The local objective is F_i(w) + (μ/2)·‖w - w0‖², w0 the round's global model, so a gradient becomes g + μ·(w - w0).
μ = 0 is FedAvg. `proximal_mu` is μ, under Flower's name for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chainfl.training.fedavg import FedAvg
from chainfl.training.local_round import LocalRound


class FedProx(FedAvg):
    """The proximal term, on the trained parameters alone."""

    def begin(self, start: LocalRound) -> None:
        """Remembers the global model."""
        self._parameters = start.parameters.tensors
        self._anchors = [parameter.detach().clone() for parameter in self._parameters]

    def correct(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """g + μ·(w - w0). What the loss does not depend on has not moved, and is not pulled."""
        mu = self._training.proximal_mu
        return [
            None if gradient is None else torch.add(gradient, parameter - anchor, alpha=mu)
            for gradient, parameter, anchor in zip(gradients, self._parameters, self._anchors, strict=True)
        ]
