"""FedAvg's local training (McMahan et al. 2017): plain SGD steps from the global model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from chainfl.errors import TrainingDiverged
from chainfl.training.sgd import Sgd, SgdConfig


class FedAvg:
    """Minimises the loss on the worker's batches, with nothing that ties it to the global model."""

    def run(
        self,
        module: nn.Module,
        batches: Iterator[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        sgd: SgdConfig,
    ) -> list[float]:
        """One SGD step a batch. Returns each step's loss. Raises TrainingDiverged when one is not finite."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = Sgd(parameters, sgd)
        losses: list[float] = []
        for features, labels in batches:
            value = loss(module(features), labels)
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                raise TrainingDiverged(f"the loss is {losses[-1]} at local step {len(losses)}", step=len(losses))
            optimizer.step(torch.autograd.grad(value, parameters, allow_unused=True))
        return losses
