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


def device_named(name: str | torch.device) -> torch.device:
    """The device; `cuda` is `cuda:0`. Raises UsageError with those that there are."""
    name, there = str(name), device_names()
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


def autograd_works() -> bool:
    """Whether a backward pass gets through in this process.

    In a fork it does not if the first backward pass of the process it came from started threads: for each accelerator
    there is, and for eight imagined ones on a machine without, after `torch.export` or `torch.compile` made fake
    tensors. https://github.com/pytorch/pytorch/wiki/Autograd-and-Fork
    """
    try:
        torch.autograd.backward(torch.zeros(1, requires_grad=True).sum())
    except RuntimeError:
        return False
    return True


TorchSettings = tuple[torch.dtype, bool, bool, str]
"""What of torch's state decides on bits, beside the number of threads."""


def torch_settings() -> TorchSettings:
    """As they are in this process."""
    return (
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_float32_matmul_precision(),
    )


def take_over(settings: TorchSettings) -> None:
    """Makes another process's settings this one's."""
    dtype, deterministic, warn_only, precision = settings
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.set_float32_matmul_precision(precision)
