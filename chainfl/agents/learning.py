"""The agents' floating-point half: local training and scoring, as the task's specification asks for. Imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from chainfl.agents.validator import CheckedUpdate
from chainfl.agents.worker import TrainedUpdate
from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.arrays import Int32Array
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.errors import DatasetError, SpecificationMismatch
from chainfl.registry.material import TaskScope
from chainfl.storage.port import BlobStore
from chainfl.tasks.spec import ProgramModel, TaskSpec
from chainfl.tasks.votes import Vote
from chainfl.training.datasets import Dataset
from chainfl.training.exported import load_exported
from chainfl.training.models import build_model
from chainfl.training.trainer import LocalTrainer
from chainfl.types import Address, Cid
from chainfl.validation import scoring


class LocalLearning:
    """Trains as a worker of the task, on one's own data; implements UpdateTrainer."""

    def __init__(
        self, spec: TaskSpec, scope: TaskScope, account: Address, trainer: LocalTrainer, dataset: Dataset
    ) -> None:
        """Raises DatasetError when the data are not what the task is about."""
        check_dataset(spec, dataset)
        self._spec = spec
        self._scope = scope
        self._account = account
        self._trainer = trainer
        self._dataset = dataset

    def train(self, model: Int32Array, round_number: int) -> TrainedUpdate:
        """One round's local steps. The same round gives the same bits again on this machine."""
        training = self._spec.training
        result = self._trainer.train(
            dequantize_model(model, self._spec.format.model_scale_bits),
            self._dataset,
            steps=training.steps,
            batch_size=training.batch_size,
            learning_rate=float(training.learning_rate),
            seed=round_seed(self._scope, self._account, round_number),
            momentum=float(training.momentum),
            weight_decay=float(training.weight_decay),
        )
        return TrainedUpdate(result.delta, result.num_examples, result.loss_first, result.loss_last)


class RootDataScorer:
    """Scores as a validator of the task, on root data of one's own; implements Scorer."""

    def __init__(
        self, spec: TaskSpec, scope: TaskScope, account: Address, trainer: LocalTrainer, root_data: Dataset
    ) -> None:
        """Raises DatasetError when the data are not what the task is about."""
        check_dataset(spec, root_data)
        self._rules = rules_of(spec)
        self._scope = scope
        self._account = account
        self._trainer = trainer
        self._root_data = root_data

    def score(
        self, model: Int32Array, updates: Sequence[CheckedUpdate], round_number: int, previous: Int32Array | None
    ) -> Sequence[Vote]:
        """A vote for each update, in order (see `scoring.score_round`)."""
        votes = scoring.score_round(
            self._trainer,
            self._root_data,
            model,
            [scoring.RevealedUpdate(u.squared_norm, u.values, u.rejected) for u in updates],
            self._rules,
            seed=round_seed(self._scope, self._account, round_number),
            previous_model=previous,
        )
        return [Vote(vote.weight, vote.score) for vote in votes]


def rules_of(spec: TaskSpec) -> scoring.RoundRules:
    """What the specification says about a round, for the validators."""
    return scoring.RoundRules(
        model_scale_bits=spec.format.model_scale_bits,
        update_scale_bits=spec.format.update_scale_bits,
        server_step=ServerStep(spec.format.step_num, spec.format.step_den),
        steps=spec.training.steps,
        batch_size=spec.training.batch_size,
        learning_rate=float(spec.training.learning_rate),
        momentum=float(spec.training.momentum),
        weight_decay=float(spec.training.weight_decay),
        gate_cosine=float(spec.validation.gate_cosine),
        duplicate_cosine=float(spec.validation.duplicate_cosine),
    )


def make_trainer(spec: TaskSpec, store: BlobStore, folder: Path) -> LocalTrainer:
    """A trainer for the task's model. folder: where a program that the task brings along is kept.

    Raises SpecificationMismatch when the model has another layout than the specification says.
    """
    if isinstance(spec.model, ProgramModel):
        module = load_exported(_fetched_program(spec.model, store, folder))
    else:
        module = build_model(spec.model.name, spec.model.params, spec.model.seed)
    trainer = LocalTrainer(module, algorithm=spec.training.algorithm)
    if trainer.layout.hash().hex() != spec.layout.hash:
        raise SpecificationMismatch("the task's model has other tensors than its specification says")
    return trainer


def check_dataset(spec: TaskSpec, dataset: Dataset) -> None:
    """Raises DatasetError unless examples and classes are those of the task."""
    expected = tuple(spec.dataset.input_shape)
    if dataset.shape != expected:
        raise DatasetError(f"the task's examples have shape {expected}, those of {dataset.name} {dataset.shape}")
    if dataset.num_classes > spec.dataset.num_classes:
        raise DatasetError(f"the task has {spec.dataset.num_classes} classes, {dataset.name} has {dataset.num_classes}")


def round_seed(scope: TaskScope, account: Address, round_number: int) -> int:
    """A seed of 63 bits that differs between tasks, rounds and participants, and is the same after a restart."""
    text = f"{scope.chain_id}/{scope.coordinator.lower()}/{scope.task_id}/{round_number}/{account.lower()}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _fetched_program(model: ProgramModel, store: BlobStore, folder: Path) -> Path:
    path = folder / f"program-{model.sha256}.pt2"
    if not path.exists():
        store.get_file(Cid(model.cid), path, max_bytes=model.num_bytes)
    with path.open("rb") as stream:
        seen = hashlib.file_digest(stream, "sha256").hexdigest()
    if seen != model.sha256:
        raise SpecificationMismatch(f"the model's program hashes to {seen}, the specification says {model.sha256}")
    return path
