"""What one trainer with all the workers' data would have reached: the demo's yardstick."""

from __future__ import annotations

from dataclasses import dataclass

from chainfl.encoding.arrays import Int32Array
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.tasks.spec import RegisteredModel, TaskSpec
from chainfl.training.datasets import Dataset, concatenate
from chainfl.training.models import build_model
from chainfl.training.trainer import Evaluation, LocalTrainer


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A trainer for the task's model, and the task's settings, for measuring outside of the protocol."""

    spec: TaskSpec
    trainer: LocalTrainer

    @classmethod
    def of(cls, spec: TaskSpec) -> Yardstick:
        """For a task whose model is a registered one (the demo's)."""
        if not isinstance(spec.model, RegisteredModel):
            raise TypeError("the yardstick needs a registered model")
        return cls(spec, LocalTrainer(build_model(spec.model.name, spec.model.params, spec.model.seed)))

    def evaluate(self, model: Int32Array, test: Dataset) -> Evaluation:
        """Accuracy and loss of a global model. model: (P,) int32."""
        return self.trainer.evaluate(dequantize_model(model, self.spec.format.model_scale_bits), test)

    def centralized(self, genesis: Int32Array, shares: list[Dataset], test: Dataset, *, seed: int) -> Evaluation:
        """The same start, batch size and optimiser on the workers' data together, for rounds × local steps."""
        training = self.spec.training
        start = dequantize_model(genesis, self.spec.format.model_scale_bits)
        result = self.trainer.train(
            start,
            concatenate(shares),
            steps=self.spec.rounds * training.steps,
            batch_size=training.batch_size,
            learning_rate=float(training.learning_rate),
            momentum=float(training.momentum),
            weight_decay=float(training.weight_decay),
            seed=seed,
        )
        return self.trainer.evaluate(start + result.delta, test)
