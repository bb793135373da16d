"""Plain SGD with momentum and weight decay as a step over tensors.

Not `torch.optim.SGD`: constructing the first one in a process imports torch._dynamo (measured: 5.5 s of CPU and
150 MB with torch 2.15), which nine processes of a demo on two cores would each pay for an update of three lines.
A test holds both to the same results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainfl.errors import TrainingError


@dataclass(frozen=True)
class SgdConfig:
    """learning_rate > 0; momentum in [0, 1); weight_decay >= 0. Raises TrainingError for anything else."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        in_range = 0 < self.learning_rate < 1e6 and 0 <= self.momentum < 1 and 0 <= self.weight_decay < 1e6
        if not in_range:  # NaN compares false, so it ends here as well
            raise TrainingError(
                f"sgd with learning_rate {self.learning_rate:g}, momentum {self.momentum:g} and weight_decay "
                f"{self.weight_decay:g}: the first is above 0, the second below 1, the third at least 0, and the rates "
                "below 1,000,000"
            )


def effective_steps(steps: int, momentum: float, *, nesterov: bool = False) -> float:
    """By how many gradients `steps` steps at rate 1 move a parameter whose gradient stays the same: ‖a‖₁ of FedNova.

    A gradient goes on working for as long as the velocity remembers it: step k moves by v_k = (1 - β^k) / (1 - β)
    gradients, so that all move by the sum of v_1 to v_K; Nesterov's step looks ahead and moves by 1 + β·v_k. That is K
    without momentum. With momentum 0.9 and 40 steps it is 311: whoever divides by 40 takes the gradient for eight
    times what it is.
    """
    if momentum == 0:
        return float(steps)
    velocities = (steps - momentum * -math.expm1(steps * math.log(momentum)) / (1 - momentum)) / (1 - momentum)
    return steps + momentum * velocities if nesterov else velocities


class Sgd:
    """Momentum buffers for one list of parameters. `v = momentum·v + g + weight_decay·p; p -= learning_rate·v`."""

    def __init__(self, parameters: Sequence[Tensor], config: SgdConfig) -> None:
        self._parameters = parameters
        self._config = config
        self._velocities: list[Tensor] | None = None

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step, in place. gradients: one a parameter; None where the loss does not depend on it."""
        config = self._config
        if self._velocities is None:
            self._velocities = [torch.zeros_like(parameter) for parameter in self._parameters]
        for parameter, velocity, gradient in zip(self._parameters, self._velocities, gradients, strict=True):
            if gradient is None:
                continue
            velocity.mul_(config.momentum).add_(gradient)
            if config.weight_decay:
                velocity.add_(parameter, alpha=config.weight_decay)
            parameter.add_(velocity, alpha=-config.learning_rate)
