"""Where torch computes: the processor, or an accelerator of this machine. What leaves a trainer is on the processor."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import nn

from chainfl.errors import UsageError

if TYPE_CHECKING:
    from chainfl.training.guards import Loss

_NUMBERED = ("cuda", "xpu")


def device_names() -> list[str]:
    """Every device that a trainer can have on this machine."""
    backends = {kind: getattr(torch, kind) for kind in _NUMBERED}
    counts = {kind: backend.device_count() for kind, backend in backends.items() if backend.is_available()}
    numbered = [f"{kind}:{i}" for kind, count in counts.items() for i in range(count)]
    return ["cpu", *numbered, *(["mps"] if torch.backends.mps.is_available() else [])]


def device_named(name: str) -> torch.device:
    """The device; `cuda` is `cuda:0`. Raises UsageError with those that there are."""
    there = device_names()
    full = f"{name}:0" if name in _NUMBERED else name
    if full not in there:
        raise UsageError(f"this machine has no device {name!r}; it has {', '.join(there)}", device=name, there=there)
    return torch.device(full)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first tensor is."""
    return next((tensor.device for tensor in chain(module.parameters(), module.buffers())), torch.device("cpu"))


def loss_on(loss: Loss, device: torch.device) -> Loss:
    """The loss where the outputs are: a module that holds tensors, such as weights of classes, as a copy there."""
    if device.type == "cpu" or not isinstance(loss, nn.Module):
        return loss
    return copy.deepcopy(loss).to(device)


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """torch's global generators, from which dropout draws, start from `seed`; afterwards they are as they were."""
    forked = [device.index or 0] if device.type in _NUMBERED else []
    kept = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng(devices=forked, device_type=device.type if forked else "cuda"):
            torch.manual_seed(seed)
            yield
    finally:
        if kept is not None:
            torch.mps.set_rng_state(kept)
