"""SCAFFOLD, option II (Karimireddy et al. 2020, Stochastic Controlled Averaging for Federated Learning), with nothing
more on the wire than FedAvg sends.

**The paper.** A worker's control variate c_i is the mean gradient that it saw in its last round, the server's c is
their mean, and a local step follows g - c_i + c: the direction that all would take. After a round,

    c_i' = c_i - c + (w0 - w_i) / (η·A)

where A is how many gradients the round's steps are worth: K for plain SGD, ‖a‖₁ = Σ_{k=1..K} (1 - β^k) / (1 - β) with
local momentum β (`sgd.effective_steps`). Dividing by K there makes the variates up to 1 / (1 - β) times too large, the
correction overshoots, and the model collapses.

**What is kept here** is the drift h_i = c_i - c alone, which is all that a step needs: it follows g - h_i. With the
update d_i = w_i - w0 = -η·A·(ḡ_i - h_i), and the round's aggregate D, everybody having taken part,

    c' = mean of c_i' = c - D / (η·A),    so    h_i' = c_i' - c' = h_i + (D - d_i) / (η·A)

D is the global step, now over the server's rate: nobody has to send a variate. d_i is taken as the integers that were
sent, so that what rounding, clipping and compression took away does not unbalance the sum of the h_i; error feedback
sends it later.

**When not everybody counts.** The minimum of the mean loss is a resting point of the rounds if and only if the h_i sum
to zero: there D and every d_i are zero, so ḡ_i = h_i, and the mean gradient is the mean h_i. So the sum is what must
survive, and over those who counted, by the weights that they counted with, D - d_i sums to zero. Hence, exactly:

- first round: h_i = 0 (c = c_i = 0), and the round is FedAvg's;
- the update counted: h_i moves as above, also when others were missing;
- it was rejected, never committed, or the worker was away: h_i stays. In the paper's terms c moved by c' - c with those
  who counted and c_i along with it: a worker of whom nothing was heard is taken to have changed as the others did.
  (Keeping c_i while c moves would leave a bias in the mean, and the rounds would come to rest beside the minimum; the
  paper scales the move of c down by the share of those who took part, for which one would have to be told it.);
- the round was void: there was no D, nobody's h_i moves, and the model did not either.

With weights that change from round to round the sum is kept for each round's own weights, not for their history.
Fewer steps than the task's (`local_epochs`) still divide by the task's A: h_i then follows more slowly, and the sum
stays zero. Under a median or a trimmed mean D is that rule's, and the rounds come to rest where its result is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chainfl.training.fedavg import FedAvg
from chainfl.training.local_round import FloatArray, LocalOutcome, LocalRound
from chainfl.training.optimizers import effective_steps_of
from chainfl.training.settings import Memory

_DRIFT = "drift"


class Scaffold(FedAvg):
    """Steps along g - h_i; keeps h_i, (P,) float32, as `drift`."""

    keeps_memory = True

    def begin(self, start: LocalRound) -> None:
        """Takes up the drift; zeros before the first update that counted."""
        self._drift = start.parameters.only(start.memory.get(_DRIFT, start.parameters.zeros()))
        self._drifts = start.parameters.views(self._drift)

    def correct(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """g - h_i; a parameter on which this worker's loss does not depend has the gradient zero, and follows c."""
        return [
            torch.neg(drift) if gradient is None else gradient - drift
            for gradient, drift in zip(gradients, self._drifts, strict=True)
        ]

    def end(self, delta: FloatArray) -> LocalOutcome:
        """The difference as it is."""
        return LocalOutcome(delta, {_DRIFT: self._drift})

    def settle(self, kept: Memory, sent: FloatArray, step: FloatArray) -> Memory:
        """h_i + (D - d_i) / (η·A)."""
        training = self._training
        reach = training.learning_rate * effective_steps_of(training, training.steps)
        return {_DRIFT: (kept[_DRIFT] + (step - sent) / reach).astype("float32")}
