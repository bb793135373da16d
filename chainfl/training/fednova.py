"""FedNova (Wang et al. 2020, Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization).

Workers that take different numbers of steps pull FedAvg's model toward those who take most. FedNova averages what a
worker's update is per effective step, d_i = -Δ_i / (η·‖a_i‖₁), and moves the model by τ_eff·η of that mean. The paper
leaves τ_eff free; here it is the ‖a‖₁ of the task's `steps`, which everybody knows, so that the division happens at
the worker and the server's rule is the plain one:

    sent_i = Δ_i · ‖a(steps)‖₁ / ‖a(τ_i)‖₁

τ_i differs from `steps` where `local_epochs` makes it depend on how many examples a worker has; a worker that takes
them all sends what FedAvg sends. ‖a‖₁ counts the memory of local momentum (`sgd.effective_steps`): by steps alone, a
short run under momentum would be scaled up too little.
"""

from __future__ import annotations

from chainfl.training.fedavg import FedAvg
from chainfl.training.local_round import FloatArray, LocalOutcome, LocalRound
from chainfl.training.optimizers import effective_steps_of


class FedNova(FedAvg):
    """The difference of the trained parameters, as if all of the task's steps had been taken."""

    def begin(self, start: LocalRound) -> None:
        """Counts the steps."""
        self._parameters = start.parameters
        training = self._training
        self._scale = effective_steps_of(training, training.steps) / effective_steps_of(training, start.steps)

    def end(self, delta: FloatArray) -> LocalOutcome:
        """Statistics of batch norm are no sum of steps, and go as they are."""
        if self._scale == 1:
            return LocalOutcome(delta)
        extra = self._parameters.only(delta) * (self._scale - 1)
        return LocalOutcome((delta + extra).astype("float32"))
