"""Settings for the built-in data sets, ready to go into a task's specification.

How they were found, with the tables: docs/decisions/003-demo-hyperparameters.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """Model, local training and server step of a task; everything that decides what the demo learns but the data.

    A real value of the model is `integer · 2^-model_scale_bits`, of an update `integer · 2^-update_scale_bits`; the
    server applies `server_step_num / server_step_den` of the mean update.
    """

    dataset: str
    model: str
    model_params: Mapping[str, int]
    rounds: int
    steps: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float = 0.0
    model_scale_bits: int = 20
    update_scale_bits: int = 14
    server_step_num: int = 1
    server_step_den: int = 1


def _image_model(in_channels: int, side: int, **params: int) -> Mapping[str, int]:
    return {"in_channels": in_channels, "height": side, "width": side, "num_classes": 10, **params}


DIGITS = Preset(
    dataset="digits",
    model="cnn",
    model_params=_image_model(1, 8, channels=32, blocks=2, hidden=64),
    rounds=10,
    steps=40,
    batch_size=64,
    learning_rate=0.05,
    momentum=0.9,
)

MNIST = Preset(
    dataset="mnist",
    model="cnn",
    model_params=_image_model(1, 28, channels=16, blocks=2, hidden=64),
    rounds=10,
    steps=40,
    batch_size=64,
    learning_rate=0.05,
    momentum=0.9,
)

CIFAR10 = Preset(
    dataset="cifar10",
    model="cnn",
    model_params=_image_model(3, 32, channels=16, blocks=3, hidden=64),
    rounds=10,
    steps=40,
    batch_size=64,
    learning_rate=0.05,
    momentum=0.9,
)

PRESETS: Mapping[str, Preset] = {preset.dataset: preset for preset in (DIGITS, MNIST, CIFAR10)}
