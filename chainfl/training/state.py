"""A module's state as one vector: which tensors are in it, in which order, and how they go back.

The rule (docs/protocol.md, Numbers): the floating tensors of the `state_dict`, names sorted, row-major; a tensor tied
to another appears once, under its first name; integer buffers (`num_batches_tracked`) stay out; variances are clamped
at zero when loaded, because an aggregate of integers may come out just below.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainfl.encoding.layout import Layout
from chainfl.errors import TrainingError

FloatArray = NDArray[np.float32]

_VARIANCE = "running_var"


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of the vector by name, in the vector's order; they share memory with the module."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        identity = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if tensor.numel() and identity not in seen:
            seen.add(identity)
            tensors[name] = tensor
    if not tensors:
        raise TrainingError("the model has no floating tensor to train")
    return tensors


def state_layout(module: nn.Module) -> Layout:
    """Names, shapes and offsets of the module's vector."""
    return Layout.of(_arrays(module))


def floating_buffers(module: nn.Module) -> tuple[str, ...]:
    """Of the vector's tensors those that no optimiser trains, by name: running statistics above all."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return tuple(name for name in state_tensors(module) if name not in parameters)


def vector_of(module: nn.Module) -> FloatArray:
    """(P,) float32, a copy of the module's state."""
    arrays = _arrays(module)
    return Layout.of(arrays).flatten(arrays)


def load_vector(module: nn.Module, vector: FloatArray) -> None:
    """Writes a vector of the module's layout into it, in place. vector: (P,) float32. Raises TrainingError."""
    layout = state_layout(module)
    if vector.shape != (layout.num_params,):
        raise TrainingError(f"a vector of shape {vector.shape} does not fit a model of {layout.num_params} parameters")
    if not np.isfinite(vector).all():
        raise TrainingError("the vector to load is not finite")
    tensors = state_tensors(module)
    arrays: Mapping[str, FloatArray] = layout.unflatten(vector)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(arrays[name])))
            if name.rpartition(".")[2] == _VARIANCE:
                tensor.clamp_(min=0)


def _arrays(module: nn.Module) -> dict[str, FloatArray]:
    return {name: tensor.detach().cpu().float().numpy() for name, tensor in state_tensors(module).items()}
