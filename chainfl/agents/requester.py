"""What a requester does before its task exists: make the genesis model, publish it, write the specification.

Everything here is ordinary: whoever has the specification can make the same genesis model again and compare.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from chainfl import __version__
from chainfl.encoding.chunk_tree import model_root
from chainfl.encoding.fixed_point import quantize_model
from chainfl.encoding.payload import ModelMetadata, write_float_model, write_model
from chainfl.errors import SpecificationError
from chainfl.storage.port import BlobStore
from chainfl.tasks.spec import (
    DEFAULT_ECONOMICS,
    DatasetEntry,
    GenesisEntry,
    LayoutEntry,
    RegisteredModel,
    TaskSpec,
    TensorEntry,
    TrainingEntry,
    architecture_of,
    build,
    default_format,
    spec_cid,
)
from chainfl.tasks.state import Bounds, Economics, Windows
from chainfl.training.models import build_model
from chainfl.training.state import state_layout, vector_of


@dataclass(frozen=True, slots=True)
class TaskDraft:
    """What a requester decides. Rates are decimals as text; reward in wei; enrolment_end in chain time."""

    name: str
    dataset: DatasetEntry
    model: str
    model_params: Mapping[str, int]
    model_seed: int
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
    momentum: str = "0"
    weight_decay: str = "0"
    economics: Economics = DEFAULT_ECONOMICS
    model_scale_bits: int = 20
    update_scale_bits: int = 14
    chunk_params: int = 256
    step_num: int = 1
    step_den: int = 1
    licence: str = "CC-BY-4.0"
    description: str = ""
    parent_model: str | None = None
    named_validators: tuple[str, ...] = ()


def publish_task(draft: TaskDraft, store: BlobStore) -> TaskSpec:
    """Puts genesis model (exact and float32) and specification into the store. returns: the specification.

    The task on chain is still to be created from `spec.to_params()`. Raises SpecificationError with every problem
    of the draft, TrainingError for a model that cannot be built, and what the store raises.
    """
    module = build_model(draft.model, draft.model_params, draft.model_seed)
    layout = state_layout(module)
    quantized = quantize_model(vector_of(module), draft.model_scale_bits)
    if quantized.num_saturated:
        raise SpecificationError(
            f"{quantized.num_saturated} genesis values do not fit model_scale_bits={draft.model_scale_bits}"
        )
    exact, floats = io.BytesIO(), io.BytesIO()
    write_model(exact, quantized.values, ModelMetadata(layout.hash(), draft.model_scale_bits))
    write_float_model(floats, layout, quantized.values, draft.model_scale_bits, architecture_of(_model_entry(draft)))
    genesis = GenesisEntry(
        root=model_root(quantized.values, draft.chunk_params).hex(),
        cid=store.put_bytes(exact.getvalue()),
        float_cid=store.put_bytes(floats.getvalue()),
    )
    entries = [TensorEntry(name=t.name, shape=list(t.shape), dtype=t.dtype) for t in layout.tensors]  # type: ignore[arg-type]
    spec = _specification(draft, genesis, LayoutEntry(hash=layout.hash().hex(), tensors=entries))
    published = store.put_bytes(spec.to_bytes())
    assert published == spec_cid(spec.spec_hash()), "a specification is one raw block"
    return spec


def _model_entry(draft: TaskDraft) -> RegisteredModel:
    return RegisteredModel(name=draft.model, params=dict(draft.model_params), seed=draft.model_seed)


def _specification(draft: TaskDraft, genesis: GenesisEntry, layout: LayoutEntry) -> TaskSpec:
    return build(
        name=draft.name,
        description=draft.description,
        licence=draft.licence,
        code_version=f"chainfl {__version__}",
        model=_model_entry(draft),
        layout=layout,
        format=replace(
            default_format(layout.num_params()),
            chunk_params=draft.chunk_params,
            model_scale_bits=draft.model_scale_bits,
            update_scale_bits=draft.update_scale_bits,
            step_num=draft.step_num,
            step_den=draft.step_den,
        ),
        training=TrainingEntry(
            steps=draft.steps,
            batch_size=draft.batch_size,
            learning_rate=draft.learning_rate,
            momentum=draft.momentum,
            weight_decay=draft.weight_decay,
        ),
        dataset=draft.dataset,
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
    )


def decimal_text(value: float | Decimal) -> str:
    """A rate as a specification writes it: plain decimal digits, no exponent."""
    text = format(Decimal(str(value)).normalize(), "f")
    return text or "0"
