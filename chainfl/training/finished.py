"""Models to use: a registry's float32 file as a module that is ready to answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from chainfl.encoding.payload import FLOAT_ARCHITECTURE
from chainfl.errors import TrainingError
from chainfl.training.models import build_model, check_model
from chainfl.training.state import state_tensors


def load_model(path: str | Path, module: nn.Module | None = None) -> nn.Module:
    """A model from the float32 safetensors that `chainfl demo` and `chainfl model pull` write, in evaluation mode.

    module: what the tensors go into; without it, the registered model that the file names is built. Nothing that the
    file says is executed. Raises TrainingError for a file that cannot be read, names no model that chainfl knows, or
    has other tensors than the module.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as opened:
            labels = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"cannot read {path}: {error}", path=str(path)) from error
    module = module or _named_module(path, labels, sum(tensor.numel() for tensor in tensors.values()))
    wanted = state_tensors(module)
    if found := _difference(wanted, tensors):
        raise TrainingError(f"{path} does not fit the module: {found}", path=str(path))
    module.load_state_dict(tensors, strict=False)  # integer buffers and tied copies are not in the file
    return module.eval()


def _named_module(path: Path, labels: Mapping[str, str], num_values: int) -> nn.Module:
    try:
        entry = json.loads(labels[FLOAT_ARCHITECTURE])
        kind, name, params, seed = entry["kind"], entry.get("name"), entry.get("params"), entry.get("seed")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TrainingError(
            f"{path} does not say which model it is; give the module: load_model(path, module)", path=str(path)
        ) from error
    if kind != "registered" or not isinstance(params, dict) or not isinstance(seed, int):
        raise TrainingError(
            f"{path} is of a model that chainfl has no name for; give the module: load_model(path, module)",
            path=str(path),
        )
    if check_model(name, params) > num_values:
        raise TrainingError(f"{path} names a larger model than it holds", path=str(path))
    return build_model(name, params, seed)


def _difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    if names := sorted(wanted.keys() ^ found.keys()):
        return f"only one of them has {', '.join(names[:5])}"
    wrong = [name for name, tensor in wanted.items() if tensor.shape != found[name].shape]
    return f"{wrong[0]} has shape {tuple(found[wrong[0]].shape)}, not {tuple(wanted[wrong[0]].shape)}" if wrong else ""
