"""FedDyn (Acar et al. 2021, Federated Learning Based on Dynamic Regularization), with the plain server step.

**The paper.** From the round's model w a worker minimises F_i(v) - <h_i, v> + (α/2)·‖v - w‖², and then takes
h_i' = h_i - α·(w_i - w). The server moves by more than the mean update D: with s the sum of all D so far (its h is
-α·s), s' = s + D and w' = w + D + s'. As a server step that is Nesterov's with momentum 1/1: m' = m + d,
g' = g + d + m'.

**Here the worker makes the extrapolation.** Call z the mean of the local models. It follows the plain step 1/1, and
s is the last step that z made, z - z_before, which everybody can see. So the model on chain is z, a worker starts from
w = z + s, sends d_i = w_i - z, and the mean of that moves z to the next mean of the local models: the paper's rounds,
one extrapolation apart, with the mean of the local models as what is published. Nesterov's step on chain would do the
same with updates that lack s; the plain one needs no state on chain, and so proves for less.

With k_i = h_i + α·s the gradient's correction -h_i + α·(v - w) becomes -k_i + α·(v - z), and the paper's two updates
become one, D the mean of the d_i:

    k_i' = k_i + α·(D - d_i)

Over those who counted the changes sum to zero. So, as with SCAFFOLD (see there why that sum is what must survive):
k_i = 0 and s = 0 at first; k_i moves when the update counted and stays when it did not, when the worker was away, and
when the round was void; s is always the last step that was made. A step other than 1/1, or one with momentum, would
make s something else, and a specification that asks for it is refused.

What to know before choosing it: updates share the part s, so that they are more alike than SCAFFOLD's, also to the
check for near-duplicates and replays of the last step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chainfl.training.fedavg import FedAvg
from chainfl.training.local_round import FloatArray, LocalOutcome, LocalRound
from chainfl.training.settings import Memory

_DUAL = "dual"


class FedDyn(FedAvg):
    """Steps along g - k_i + α·(v - z) from z + s; keeps k_i, (P,) float32, as `dual`."""

    uses_last_step = True
    keeps_memory = True

    @torch.no_grad()
    def begin(self, start: LocalRound) -> None:
        """Moves the parameters from z to z + s."""
        self._parameters = start.parameters.tensors
        self._anchors = [parameter.detach().clone() for parameter in self._parameters]
        self._dual = start.parameters.only(start.memory.get(_DUAL, start.parameters.zeros()))
        self._duals = start.parameters.views(self._dual)
        if start.last_step is not None:
            for parameter, moved in zip(self._parameters, start.parameters.views(start.last_step), strict=True):
                parameter.add_(moved)

    def correct(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """g - k_i + α·(v - z); where the loss does not depend on a parameter, g is zero."""
        alpha = self._training.alpha
        return [
            torch.add(torch.neg(dual) if gradient is None else gradient - dual, parameter - anchor, alpha=alpha)
            for gradient, dual, parameter, anchor in zip(
                gradients, self._duals, self._parameters, self._anchors, strict=True
            )
        ]

    def end(self, delta: FloatArray) -> LocalOutcome:
        """The difference to z, the extrapolation included."""
        return LocalOutcome(delta, {_DUAL: self._dual})

    def settle(self, kept: Memory, sent: FloatArray, step: FloatArray) -> Memory:
        """k_i + α·(D - d_i)."""
        return {_DUAL: (kept[_DUAL] + self._training.alpha * (step - sent)).astype("float32")}
