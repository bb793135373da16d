"""Models that a task names by a registered name plus parameters, so that a worker builds what it trains itself.

The parameters come from a stranger's specification: each has a type and bounds, and the number of weights is known
before any of them is allocated. (Programs that a task brings along are read by `chainfl.training.exported`.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from chainfl.errors import TrainingError

Number = int | float

MAX_PARAMETERS = 1_000_000_000


@dataclass(frozen=True)
class IntParameter:
    """A whole number in [low, high]; required when it has no default."""

    low: int
    high: int
    default: int | None = None


@dataclass(frozen=True)
class ModelKind:
    """A registered model: its parameters, and how it is made from all of them."""

    parameters: Mapping[str, IntParameter]
    build: Callable[[Mapping[str, int]], nn.Module]


class ConvNet(nn.Module):
    """A small convolutional net: `blocks` times convolution 3x3, ReLU, max-pooling by 2; one hidden layer; logits.

    Input (n, in_channels, height, width) float32, output (n, num_classes). Block k has `channels · 2^k` channels.
    No normalisation layer: statistics of a worker's skewed batches would be averaged into a model that fits nobody.
    """

    def __init__(
        self, in_channels: int, height: int, width: int, num_classes: int, channels: int, blocks: int, hidden: int
    ) -> None:
        super().__init__()
        widths = [in_channels, *(channels << k for k in range(blocks))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        flat = widths[-1] * (height >> blocks) * (width >> blocks)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class PaperNet(nn.Module):
    """The small net of PyTorch's first MNIST example, which papers on federated learning go on measuring with.

    Twice a convolution 5x5 without padding, max-pooling by 2 and ReLU, to 10 and 20 channels, the second with channels
    dropped out; then 50 hidden units with dropout, and logits. Input (n, in_channels, height, width) float32, output
    (n, num_classes). On MNIST 21,840 parameters.
    """

    def __init__(self, in_channels: int, height: int, width: int, num_classes: int) -> None:
        super().__init__()
        flat = 20 * _twice_halved(height) * _twice_halved(width)
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, 10, kernel_size=5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(10, 20, kernel_size=5), nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU()),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(flat, 50), nn.ReLU(), nn.Dropout(), nn.Linear(50, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _twice_halved(side: int) -> int:
    """What two convolutions 5x5, each with its pooling, leave of a side."""
    return ((side - 4) // 2 - 4) // 2


class ResidualNet(nn.Module):
    """A small residual net for small images: three stages of `blocks` blocks, each stage twice as wide as the one
    before it and half as high; then the mean over what is left of the image, and logits.

    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2, whose three stages on
    CIFAR-10 these are; with a projection where the shape changes, and group normalisation (Wu and He, ECCV 2018) for
    their batch normalisation. Running statistics of workers with different data must not be averaged (Hsieh et al.:
    The Non-IID Data Quagmire of Decentralized Machine Learning, ICML 2020), and this net has none.

    Input (n, in_channels, height, width) float32, output (n, num_classes). On CIFAR-10 78,042 parameters. stride: of
    the first convolution; 2 quarters the work of all that follows.
    """

    def __init__(
        self, in_channels: int, height: int, width: int, num_classes: int, channels: int, blocks: int, stride: int
    ) -> None:
        super().__init__()
        stem = _convolution(in_channels, channels, stride=stride)
        layers: list[nn.Module] = [stem, _normalisation(channels), nn.ReLU()]
        widths = [channels, 2 * channels, 4 * channels]
        for before, after, pace in zip([channels, *widths], widths, (1, 2, 2), strict=False):
            layers.append(ResidualBlock(before, after, pace))
            layers += [ResidualBlock(after, after, stride=1) for _ in range(blocks - 1)]
        self.features = nn.Sequential(*layers)
        # Each stride rounds up. An average over a size that is known is one that every program can say.
        left = (-(-height // (4 * stride)), -(-width // (4 * stride)))
        self.classifier = nn.Sequential(nn.AvgPool2d(left), nn.Flatten(), nn.Linear(widths[-1], num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class ResidualBlock(nn.Module):
    """Two convolutions 3x3, each normalised, beside the input as it is, or projected where the shape changes; ReLU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(_convolution(before, after, stride=stride), _normalisation(after), nn.ReLU()),
            *(_convolution(after, after), _normalisation(after)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            projection = nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, _normalisation(after))

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.residual(images) + self.shortcut(images))


_GROUPS = 8


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)


def _normalisation(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)


class Mlp(nn.Module):
    """A multilayer perceptron: `layers` hidden layers of `hidden` ReLU units. Input (n, ...) is flattened."""

    def __init__(self, in_features: int, num_classes: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [in_features, *[hidden] * layers]
        stack: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            stack += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*stack, nn.Linear(widths[-1], num_classes))

    def forward(self, examples: Tensor) -> Tensor:
        logits: Tensor = self.layers(examples)
        return logits


MODELS: Mapping[str, ModelKind] = {
    "cnn": ModelKind(
        {
            "in_channels": IntParameter(1, 64, 1),
            "height": IntParameter(2, 1024),
            "width": IntParameter(2, 1024),
            "num_classes": IntParameter(2, 100_000),
            "channels": IntParameter(1, 1024, 16),
            "blocks": IntParameter(1, 8, 2),
            "hidden": IntParameter(1, 65_536, 64),
        },
        lambda p: ConvNet(**p),
    ),
    "paper_cnn": ModelKind(
        {
            "in_channels": IntParameter(1, 64, 1),
            "height": IntParameter(16, 1024),
            "width": IntParameter(16, 1024),
            "num_classes": IntParameter(2, 100_000),
        },
        lambda p: PaperNet(**p),
    ),
    "resnet": ModelKind(
        {
            "in_channels": IntParameter(1, 64, 1),
            "height": IntParameter(4, 1024),
            "width": IntParameter(4, 1024),
            "num_classes": IntParameter(2, 100_000),
            "channels": IntParameter(1, 1024, 16),
            "blocks": IntParameter(1, 64, 1),
            "stride": IntParameter(1, 2, 1),
        },
        lambda p: ResidualNet(**p),
    ),
    "mlp": ModelKind(
        {
            "in_features": IntParameter(1, 1 << 24),
            "num_classes": IntParameter(2, 100_000),
            "hidden": IntParameter(1, 65_536, 64),
            "layers": IntParameter(0, 64, 1),
        },
        lambda p: Mlp(**p),
    ),
}


def build_model(name: str, params: Mapping[str, Number], seed: int) -> nn.Module:
    """A registered model with PyTorch's usual initialisation, drawn from `seed`; the caller's generator is untouched.

    Raises TrainingError for an unknown name, and for an unknown, missing, fractional or unbounded parameter.
    """
    kind, values = _validated(name, params)
    _check_size(name, kind, values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.build(values)


def check_model(name: str, params: Mapping[str, Number]) -> int:
    """The number of weights that `build_model` would make, without making them. Raises TrainingError as it does."""
    kind, values = _validated(name, params)
    return _check_size(name, kind, values)


def _validated(name: str, params: Mapping[str, Number]) -> tuple[ModelKind, dict[str, int]]:
    kind = MODELS.get(name)
    if kind is None:
        raise TrainingError(f"no model is registered as {name!r}; there are {', '.join(MODELS)}", name=name)
    problems = [f"{key} is not a parameter" for key in params if key not in kind.parameters]
    values: dict[str, int] = {}
    for key, rule in kind.parameters.items():
        value = params.get(key, rule.default)
        if problem := _problem(value, rule):
            problems.append(f"{key} {problem}")
        else:
            values[key] = int(value)  # type: ignore[arg-type]
    if name == "cnn" and not problems and min(values["height"], values["width"]) >> values["blocks"] == 0:
        problems.append(f"{values['blocks']} blocks leave nothing of {values['height']} by {values['width']} images")
    if problems:
        raise TrainingError(f"model {name}: {'; '.join(problems)}", name=name, problems=problems)
    return kind, values


def _problem(value: Number | None, rule: IntParameter) -> str | None:
    if value is None:
        return "is missing"
    # A bool is an int to Python, and JSON may bring 16.0; neither is what a specification means.
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be a whole number, not {value!r}"
    return None if rule.low <= value <= rule.high else f"must be from {rule.low} to {rule.high}, not {value}"


def _check_size(name: str, kind: ModelKind, values: Mapping[str, int]) -> int:
    with torch.device("meta"):  # shapes without memory
        module = kind.build(values)
    size = sum(math.prod(parameter.shape) for parameter in module.parameters())
    if size > MAX_PARAMETERS:
        raise TrainingError(f"model {name}: {size} parameters are more than {MAX_PARAMETERS}", name=name, size=size)
    return size
