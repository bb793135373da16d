"""The agents' floating-point half: local training and scoring, as the task's specification asks for. Imports torch."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from chainfl.agents.validator import CheckedUpdate
from chainfl.agents.worker import TrainedUpdate
from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.arrays import Float32Array, Int16Array, Int32Array
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.encoding.layout import Layout
from chainfl.errors import AppUnusable, DatasetError, SpecificationMismatch
from chainfl.registry.material import TaskScope
from chainfl.storage.port import BlobStore
from chainfl.tasks.spec import ProgramModel, Recipe, TaskSpec
from chainfl.tasks.votes import Vote
from chainfl.training.algorithms import ALGORITHMS
from chainfl.training.app import AppPart, users_code
from chainfl.training.datasets import Dataset
from chainfl.training.exported import load_exported
from chainfl.training.inputs import as_model
from chainfl.training.models import build_model
from chainfl.training.prediction import cross_entropy
from chainfl.training.settings import NO_MEMORY, LocalTraining, Memory, OptimizerValue, local_training
from chainfl.training.trainer import LocalTrainer
from chainfl.types import Address, Cid
from chainfl.validation import scoring
from chainfl.validation.contribution.methods import contribution_of
from chainfl.validation.selection.rules import selection_of

_MAX_DIFFERENCES = 5


class LocalLearning:
    """Trains as a worker of the task, on one's own data; implements UpdateTrainer."""

    def __init__(
        self, spec: Recipe, scope: TaskScope, account: Address, trainer: LocalTrainer, dataset: Dataset
    ) -> None:
        """Raises DatasetError when the data are not what the task is about."""
        check_dataset(spec, dataset)
        self._spec = spec
        self._training = local_training(spec.training)
        self._scope = scope
        self._account = account
        self._trainer = trainer
        self._dataset = dataset

    @property
    def uses_previous(self) -> bool:
        """Whether `train` looks at the model before."""
        return ALGORITHMS[self._training.algorithm].uses_last_step

    @property
    def needs_the_past(self) -> bool:
        """Whether `train` looks at what earlier rounds left."""
        algorithm = ALGORITHMS[self._training.algorithm]
        return algorithm.uses_last_step or algorithm.keeps_memory

    def train(
        self,
        model: Int32Array,
        round_number: int,
        *,
        memory: Memory = NO_MEMORY,
        previous: Int32Array | None = None,
        stop: threading.Event | None = None,
    ) -> TrainedUpdate:
        """One round's local steps. The same round with the same memory gives the same bits again on this machine."""
        result = self._trainer.train(
            dequantize_model(model, self._spec.format.model_scale_bits),
            self._dataset,
            self._training,
            seed=round_seed(self._scope, self._account, round_number),
            memory=memory,
            last_step=None if previous is None else self._moved(previous, model),
            stop=stop,
        )
        return TrainedUpdate(
            result.delta,
            result.num_examples,
            result.loss_first,
            result.loss_last,
            result.kept,
            tuple(finding.value for finding in result.findings),
        )

    def settle(self, kept: Memory, sent: Int16Array, before: Int32Array, after: Int32Array) -> Memory:
        """The memory after a round in which this worker's update counted; see `UpdateTrainer`."""
        form = self._spec.format
        aggregate = self._moved(before, after) * np.float32(form.step_den / form.step_num)
        real = sent.astype(np.float32) * np.float32(2.0**-form.update_scale_bits)
        return self._trainer.settle(self._training, kept, real, aggregate)

    def _moved(self, before: Int32Array, after: Int32Array) -> Float32Array:
        """(P,) float32: from one global model to another. Exact up to the last rounding."""
        difference = (after.astype(np.int64) - before).astype(np.float32)
        return difference * np.float32(2.0**-self._spec.format.model_scale_bits)


def no_chain(_: int) -> bytes:
    """Where no block commits to a round."""
    return b""


class RootDataScorer:
    """Scores as a validator of the task, on root data of one's own; implements Scorer."""

    def __init__(
        self,
        spec: Recipe,
        scope: TaskScope,
        account: Address,
        trainer: LocalTrainer,
        root_data: Dataset,
        commit_hash: Callable[[int], bytes] = no_chain,
    ) -> None:
        """commit_hash: of the block of a round's last commitment; asked once a round where scores are sampled.

        Raises DatasetError when the data are not what the task is about.
        """
        check_dataset(spec, root_data)
        self._commit_hash = commit_hash
        self._rules = rules_of(spec)
        self._scope = scope
        self._account = account
        self._trainer = trainer
        self._root_data = root_data
        self._own: tuple[int, Int32Array, Float32Array] | None = None

    def look_ahead(self, model: Int32Array, round_number: int, stop: threading.Event) -> None:
        """Trains on root data, where the rule compares with that; see `RoundScorer`."""
        if self._rules.selection.rule.needs_root_update:
            seed = round_seed(self._scope, self._account, round_number)
            own = scoring.own_update(self._trainer, self._root_data, model, self._rules, seed=seed, stop=stop)
            self._own = round_number, model, own

    def worsening(self, model: Int32Array, previous: Int32Array) -> tuple[float, float] | None:
        """On all root data; a loss that is no number is worse than any other (see `RoundScorer`)."""
        before, after = (self._loss(vector) for vector in (previous, model))
        is_fine = after <= max(before, math.log(self._root_data.num_classes))
        return None if is_fine else (before, after)

    def score(
        self, model: Int32Array, updates: Sequence[CheckedUpdate], round_number: int, previous: Int32Array | None
    ) -> Sequence[Vote]:
        """A vote for each update, in order (see `scoring.score_round`). Raises what `commit_hash` raises."""
        block_hash = self._commit_hash(round_number) if self._rules.contribution.is_sampled else b""
        votes = scoring.score_round(
            self._trainer,
            self._root_data,
            model,
            [scoring.RevealedUpdate(u.squared_norm, u.values, u.rejected) for u in updates],
            self._rules,
            seed=round_seed(self._scope, self._account, round_number),
            previous_model=previous,
            context=_round_name(self._scope, round_number).encode(),
            root_update=self._known(model, round_number),
            block_hash=block_hash,
        )
        return [Vote(vote.weight, vote.score) for vote in votes]

    def _loss(self, model: Int32Array) -> float:
        loss = self._trainer.evaluate(dequantize_model(model, self._rules.model_scale_bits), self._root_data).loss
        return loss if math.isfinite(loss) else math.inf

    def _known(self, model: Int32Array, round_number: int) -> Float32Array | None:
        """What `look_ahead` found, if it was for this round and model."""
        if self._own is None or self._own[0] != round_number or not np.array_equal(self._own[1], model):
            return None
        return self._own[2]


def rules_of(spec: Recipe) -> scoring.RoundRules:
    """What the specification says about a round, for the validators."""
    form, validation = spec.format, spec.validation
    return scoring.RoundRules(
        model_scale_bits=form.model_scale_bits,
        update_scale_bits=form.update_scale_bits,
        server_step=ServerStep(1, 1) if form.is_adaptive else ServerStep(form.step_num, form.step_den),
        training=local_training(spec.training),
        duplicate_cosine=float(validation.duplicate_cosine),
        selection=selection_of(validation),
        contribution=contribution_of(validation),
        rule=form.rule,
        trim_num=form.trim_num,
        trim_den=form.trim_den,
        shows_mean=not form.is_adaptive,
    )


def make_trainer(
    spec: TaskSpec, store: BlobStore, folder: Path, app: AppPart | None = None, device: str = "cpu"
) -> LocalTrainer:
    """A trainer for the task's model, or the app's. folder: where a program that the task brings along is kept.

    Raises SpecificationMismatch when the task's model has another layout than the specification says, AppUnusable when
    the app's has or what the app brings fails on its own data or is not what the task names, DatasetError when the data
    are not what the task is about, UsageError for a device that is not there.
    """
    brought = AppPart(None, cross_entropy, None) if app is None else app
    training = local_training(spec.training)
    _check_named(brought, training)
    make = partial(LocalTrainer, loss=brought.loss, optimizer=brought.optimizer, device=device)
    if brought.model is None:
        trainer = _of_the_task(spec, store, folder, make)
    else:
        trainer = _of_the_app(spec, brought.model, make)
    with users_code("trying the app's optimizer"):
        trainer.check(training)
    if brought.data is not None:
        check_dataset(spec, brought.data)
        _try_out(trainer, brought.data)
    return trainer


MakeTrainer = Callable[..., LocalTrainer]


def _check_named(app: AppPart, training: LocalTraining) -> None:
    """An optimiser by its name has the task's rates, which another one's steps were not chosen for."""
    if app.named is not None and app.named != training.optimizer:
        theirs, ours = ((each.name, dict(each.params)) for each in (training.optimizer, app.named))
        raise AppUnusable(
            f"the app's optimizer is {_optimizer_told(*ours)}, the task's {_optimizer_told(*theirs)}: leave it out, or "
            "give a function with rates of your own, such as lambda parameters: torch.optim.AdamW(parameters, lr=...)"
        )


def _optimizer_told(name: str, params: dict[str, OptimizerValue]) -> str:
    return f"{name} with {params}" if params else name


def _of_the_task(spec: TaskSpec, store: BlobStore, folder: Path, make: MakeTrainer) -> LocalTrainer:
    if isinstance(spec.model, ProgramModel):
        module = load_exported(_fetched_program(spec.model, store, folder))
    else:
        module = build_model(spec.model.name, spec.model.params, spec.model.seed)
    trainer = make(module)
    if trainer.layout.hash().hex() != spec.layout.hash:
        raise SpecificationMismatch("the task's model has other tensors than its specification says")
    return trainer


def _of_the_app(spec: TaskSpec, model: object, make: MakeTrainer) -> LocalTrainer:
    with users_code("taking the app's model"):
        given = as_model(model, tuple(spec.dataset.input_shape), spec.dataset.num_classes, None, 0)
        trainer = make(given.module)
    if trainer.layout.hash().hex() != spec.layout.hash:
        differing = "; ".join(_differences(trainer.layout, Layout.from_json(spec.layout.to_json())))
        raise AppUnusable(
            f"the app's model is not the task's: {differing}. Leave the model out to train the task's own program, or "
            "create a task for yours with `chainfl task create --program`"
        )
    return trainer


def _differences(own: Layout, tasks: Layout) -> list[str]:
    """The first tensors that differ by name or shape, a text each."""
    here, there = ({spec.name: spec.shape for spec in layout.tensors} for layout in (own, tasks))
    names = [name for name in sorted(here.keys() | there.keys()) if here.get(name) != there.get(name)]
    texts = [f"{name} is {here.get(name, 'missing')}, the task's {there.get(name, 'has none')}" for name in names]
    more = len(texts) - _MAX_DIFFERENCES
    return texts if more <= 0 else [*texts[:_MAX_DIFFERENCES], f"and {more} more"]


def _try_out(trainer: LocalTrainer, dataset: Dataset) -> None:
    """Raises AppUnusable if model and loss do not even take two examples: before there is a stake to lose."""
    two = dataset.subset(np.arange(min(2, len(dataset))))
    with users_code("trying model and loss on the app's first examples"):
        trainer.evaluate(np.zeros(trainer.layout.num_params, np.float32), two)


def check_dataset(spec: Recipe, dataset: Dataset) -> None:
    """Raises DatasetError unless examples and classes are those of the task."""
    expected = tuple(spec.dataset.input_shape)
    if dataset.shape != expected:
        raise DatasetError(f"the task's examples have shape {expected}, those of {dataset.name} {dataset.shape}")
    if dataset.num_classes > spec.dataset.num_classes:
        raise DatasetError(f"the task has {spec.dataset.num_classes} classes, {dataset.name} has {dataset.num_classes}")


def round_seed(scope: TaskScope, account: Address, round_number: int) -> int:
    """A seed of 63 bits that differs between tasks, rounds and participants, and is the same after a restart."""
    text = f"{_round_name(scope, round_number)}/{account.lower()}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _round_name(scope: TaskScope, round_number: int) -> str:
    return f"{scope.chain_id}/{scope.coordinator.lower()}/{scope.task_id}/{round_number}"


def _fetched_program(model: ProgramModel, store: BlobStore, folder: Path) -> Path:
    path = folder / f"program-{model.sha256}.pt2"
    if not path.exists():
        store.get_file(Cid(model.cid), path, max_bytes=model.num_bytes)
    with path.open("rb") as stream:
        seen = hashlib.file_digest(stream, "sha256").hexdigest()
    if seen != model.sha256:
        raise SpecificationMismatch(f"the model's program hashes to {seen}, the specification says {model.sha256}")
    return path
