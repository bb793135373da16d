"""What would have been reached otherwise: by one trainer with all the data, and by the same workers unattacked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from chainfl.agents.learning import LocalLearning, RootDataScorer
from chainfl.encoding.arrays import Int32Array
from chainfl.encoding.chunk_tree import DEFAULT_CHUNK_PARAMS, update_root
from chainfl.encoding.fixed_point import dequantize_model, quantize_update
from chainfl.registry.material import TaskScope
from chainfl.simulation.rounds import SimulatedRound, simulate_rounds
from chainfl.tasks.spec import RegisteredModel, TaskSpec
from chainfl.training.datasets import Dataset, concatenate
from chainfl.training.models import build_model
from chainfl.training.presets import Preset
from chainfl.training.settings import LocalTraining, local_training
from chainfl.training.trainer import Evaluation, LocalTrainer
from chainfl.types import Address


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
        training = local_training(self.spec.training)
        start = dequantize_model(genesis, self.spec.format.model_scale_bits)
        result = self.trainer.train(
            start,
            concatenate(shares),
            replace(training, algorithm="fedavg", steps=self.spec.rounds * training.steps, local_epochs=None),
            seed=seed,
        )
        return self.trainer.evaluate(start + result.delta, test)

    def unattacked(
        self,
        genesis: Int32Array,
        scope: TaskScope,
        workers: Mapping[Address, Dataset],
        validators: Mapping[Address, Dataset],
    ) -> list[SimulatedRound]:
        """The task's rounds with the same accounts and shares, all of them honest: bit for bit what they would do.

        Sampled scores alone would differ: they go by the hashes of blocks, which these rounds do not have. genesis:
        (P,) int32. scope: of the task, since the seeds of training and scoring follow from it.
        """
        trainers = {
            account: LocalLearning(self.spec, scope, account, self.trainer, share) for account, share in workers.items()
        }
        scorers = [
            RootDataScorer(self.spec, scope, account, self.trainer, root_data)
            for account, root_data in validators.items()
        ]
        rounds = simulate_rounds(self.spec.format, genesis, trainers, scorers, self.spec.payload.form())
        return list(itertools.islice(rounds, self.spec.rounds))


def usual_squared_norm(preset: Preset, root_data: Dataset, seed: int) -> int:
    """The sum of squares of an update's integers after one round of local training on some data of the task's kind."""
    trainer = LocalTrainer(build_model(preset.model, preset.model_params, seed))
    trial = trainer.train(
        trainer.initial_vector,
        root_data,
        LocalTraining(
            steps=preset.steps,
            batch_size=preset.batch_size,
            learning_rate=preset.learning_rate,
            momentum=preset.momentum,
            weight_decay=preset.weight_decay,
        ),
        seed=seed,
    )
    quantized = quantize_update(trial.delta, preset.update_scale_bits)
    return update_root(quantized.values, DEFAULT_CHUNK_PARAMS).sum_of_squares
