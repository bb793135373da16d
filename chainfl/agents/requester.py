"""What a requester does before its task exists: make the genesis model, publish it, write the specification.

Everything here is ordinary: whoever has the specification can make the same genesis model again and compare.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from chainfl import __version__
from chainfl.encoding.arrays import Int32Array
from chainfl.encoding.chunk_tree import model_root, zero_state_root
from chainfl.encoding.fixed_point import quantize_model
from chainfl.encoding.layout import Layout
from chainfl.encoding.payload import ModelMetadata, write_float_model, write_model
from chainfl.errors import ProgramRefused, SpecificationError, TrainingError, UsageError
from chainfl.storage.port import BlobStore
from chainfl.tasks.rules import rule_warnings
from chainfl.tasks.server_rules import server_warnings
from chainfl.tasks.spec import (
    DEFAULT_ECONOMICS,
    DEFAULT_GROUP_SIZE,
    DatasetEntry,
    GenesisEntry,
    PayloadEntry,
    ProgramModel,
    RegisteredModel,
    TaskSpec,
    TrainingEntry,
    ValidationEntry,
    architecture_of,
    build,
    default_format,
    spec_cid,
)
from chainfl.tasks.state import EVERYBODY, Bounds, Draw, Economics, Format, Rule, ServerKind, Windows
from chainfl.training.datasets import Dataset
from chainfl.training.exported import load_exported
from chainfl.training.models import build_model
from chainfl.training.settings import local_training
from chainfl.training.trainer import LocalTrainer


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """A model of the requester's own: an archive that `torch.export.save` wrote. It brings its weights along."""

    path: Path


@dataclass(frozen=True, slots=True)
class TaskDraft:
    """What a requester decides. Rates are decimals as text; reward in wei; enrolment_end in chain time.

    algorithm to precision: of local training, as `TrainingEntry` has them. momentum: of a worker's optimiser;
    server to tau: of the server's step, as `Format` has them.
    model: a registered name, which model_params and model_seed go with, or a program, which takes neither.
    max_squared_norm: of an update's integers; None bounds it by nothing but their range.
    """

    name: str
    dataset: DatasetEntry
    model: str | ProgramFile
    rounds: int
    steps: int
    batch_size: int
    learning_rate: str
    reward: int
    enrolment_end: int
    workers: Bounds
    validators: Bounds
    aggregators: Bounds
    windows: Windows
    model_params: Mapping[str, int] = field(default_factory=dict)
    model_seed: int = 0
    momentum: str = "0"
    weight_decay: str = "0"
    algorithm: str = "fedavg"
    proximal_mu: str | None = None
    alpha: str | None = None
    local_epochs: int | None = None
    optimizer: Mapping[str, Any] | None = None
    accumulation: int = 1
    precision: str = "float32"
    validation: ValidationEntry = field(default_factory=ValidationEntry)
    economics: Economics = DEFAULT_ECONOMICS
    model_scale_bits: int = 20
    update_scale_bits: int = 14
    chunk_params: int = 256
    step_num: int = 1
    step_den: int = 1
    rule: Rule = Rule.MEAN
    trim_num: int = 0
    trim_den: int = 0
    server: ServerKind = ServerKind.PLAIN
    momentum_num: int = 0
    momentum_den: int = 0
    second_num: int = 0
    second_den: int = 0
    tau: int = 0
    group_size: int = DEFAULT_GROUP_SIZE
    max_squared_norm: int | None = None
    licence: str = "CC-BY-4.0"
    description: str = ""
    parent_model: str | None = None
    named_validators: tuple[str, ...] = ()
    payload: PayloadEntry = field(default_factory=PayloadEntry)
    draw: Draw = EVERYBODY


def publish_task(draft: TaskDraft, store: BlobStore, warn: Callable[[str], object] | None = None) -> TaskSpec:
    """Puts genesis model (exact and float32), program and specification into the store. returns: the specification.

    warn: is told what is allowed, and known to end badly with such a model or to do nothing in such a round.
    The task on chain is still to be created from `spec.to_params()`. Raises SpecificationError with every problem
    of the draft and for a model that does not fit the data, TrainingError for a model that cannot be built or trained,
    ProgramRefused for a program that cannot be used, UsageError for one that cannot be read, and what the store raises.
    """
    trainer, model = _program(draft, draft.model, store) if isinstance(draft.model, ProgramFile) else _registered(draft)
    layout, values = trainer.layout, _genesis_values(trainer, draft.model_scale_bits)
    _check_fits(trainer, draft.dataset)
    exact, floats = io.BytesIO(), io.BytesIO()
    form = _format(draft, layout)
    state = np.zeros(form.state_params, np.int32) if form.has_state else None
    write_model(exact, values, ModelMetadata(layout.hash(), draft.model_scale_bits), state)
    write_float_model(floats, layout, values, draft.model_scale_bits, architecture_of(model))
    genesis = GenesisEntry(
        root=model_root(values, draft.chunk_params).hex(),
        cid=store.put_bytes(exact.getvalue()),
        float_cid=store.put_bytes(floats.getvalue()),
        state_root=zero_state_root(form).hex() if form.has_state else None,
    )
    spec = _specification(draft, model, genesis, layout, form)
    trainer.check(local_training(spec.training))
    most_updates = draft.draw.most_of(draft.workers.max)
    for warning in (*server_warnings(form, trainer.buffers), *rule_warnings(form, most_updates)):
        if warn is not None:
            warn(warning)
    published = store.put_bytes(spec.to_bytes())
    assert published == spec_cid(spec.spec_hash()), "a specification is one raw block"
    return spec


def _registered(draft: TaskDraft) -> tuple[LocalTrainer, RegisteredModel]:
    assert isinstance(draft.model, str)
    module = build_model(draft.model, draft.model_params, draft.model_seed)
    return LocalTrainer(module), RegisteredModel(
        name=draft.model, params=dict(draft.model_params), seed=draft.model_seed
    )


def _program(draft: TaskDraft, file: ProgramFile, store: BlobStore) -> tuple[LocalTrainer, ProgramModel]:
    """Reads the archive as a worker will, and puts it into the store."""
    if draft.model_params or draft.model_seed:
        raise SpecificationError("a program takes no parameters and no seed: it brings its weights along")
    found = _digest_and_size(file.path)
    try:
        trainer = LocalTrainer(load_exported(file.path))
    except TrainingError as error:
        raise ProgramRefused(str(error), path=str(file.path)) from error
    cid = store.put_file(file.path)
    # A training script may save again meanwhile. Workers would refuse a program with another hash, the reward escrowed.
    if _digest_and_size(file.path) != found:
        raise ProgramRefused(f"{file.path} changed while it was read; try again", path=str(file.path))
    sha256, num_bytes = found
    return trainer, ProgramModel(cid=cid, sha256=sha256, num_bytes=num_bytes)


def _digest_and_size(path: Path) -> tuple[str, int]:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error


def _genesis_values(trainer: LocalTrainer, scale_bits: int) -> Int32Array:
    quantized = quantize_model(trainer.initial_vector, scale_bits)
    if quantized.num_saturated:
        raise SpecificationError(f"{quantized.num_saturated} genesis values do not fit model_scale_bits={scale_bits}")
    return quantized.values


def _format(draft: TaskDraft, layout: Layout) -> Format:
    form = default_format(layout.num_params)
    return replace(
        form,
        chunk_params=draft.chunk_params,
        model_scale_bits=draft.model_scale_bits,
        update_scale_bits=draft.update_scale_bits,
        step_num=draft.step_num,
        step_den=draft.step_den,
        max_squared_norm=form.max_squared_norm if draft.max_squared_norm is None else draft.max_squared_norm,
        group_size=draft.group_size,
        rule=draft.rule,
        trim_num=draft.trim_num,
        trim_den=draft.trim_den,
        momentum_num=draft.momentum_num,
        momentum_den=draft.momentum_den,
        server=draft.server,
        second_num=draft.second_num,
        second_den=draft.second_den,
        tau=draft.tau,
    )


def _check_fits(trainer: LocalTrainer, dataset: DatasetEntry) -> None:
    """Raises SpecificationError unless the model answers examples of the task's shape with its number of classes.

    A worker would find out too, but only with the reward in escrow.
    """
    for count in (2, 3):  # what was exported without dynamic_shapes may know one size of batch only
        try:
            features = np.zeros((count, *dataset.input_shape), np.float32)
            labels = np.full(count, dataset.num_classes - 1)
            trainer.evaluate(trainer.initial_vector, Dataset(dataset.name, features, labels, dataset.num_classes))
        except (TrainingError, RuntimeError, ValueError, IndexError, MemoryError) as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            shape = "×".join(map(str, dataset.input_shape))
            raise SpecificationError(
                f"the model cannot tell {dataset.num_classes} classes from {count} examples of {shape} "
                f"(a program needs dynamic_shapes for the size of a batch): {told}"
            ) from error


def _specification(
    draft: TaskDraft, model: RegisteredModel | ProgramModel, genesis: GenesisEntry, layout: Layout, form: Format
) -> TaskSpec:
    # Tables and not entries where the values are the requester's: `build` tells all that is wrong at once.
    tensors = [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in layout.tensors]
    return build(
        name=draft.name,
        description=draft.description,
        licence=draft.licence,
        code_version=f"chainfl {__version__}",
        model=model,
        layout={"hash": layout.hash().hex(), "tensors": tensors},
        format=form,
        training={name: getattr(draft, name) for name in TrainingEntry.model_fields},
        dataset=draft.dataset,
        validation=draft.validation,
        payload=draft.payload,
        rounds=draft.rounds,
        enrolment_end=draft.enrolment_end,
        reward=draft.reward,
        workers=draft.workers,
        validators=draft.validators,
        aggregators=draft.aggregators,
        named_validators=list(draft.named_validators),
        windows=draft.windows,
        economics=draft.economics,
        genesis=genesis,
        parent_model=draft.parent_model,
        draw=draft.draw,
    )
