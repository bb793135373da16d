"""Channels last: taken where a module gives the same with it, and seen by nobody but the clock."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from chainfl.training.datasets import Dataset
from chainfl.training.memory_format import bears_channels_last
from chainfl.training.models import build_model
from chainfl.training.settings import LocalTraining
from chainfl.training.state import state_layout, vector_of
from chainfl.training.trainer import LocalTrainer, seeded_batches

SHAPE = (3, 8, 8)
IMAGES = {"in_channels": 3, "height": 8, "width": 8, "num_classes": 4}
MODELS = {
    "cnn": {**IMAGES, "channels": 4, "blocks": 2, "hidden": 8},
    "resnet": {**IMAGES, "channels": 8, "blocks": 1},
}


def images(count: int = 24) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset("noise", rng.normal(size=(count, *SHAPE)).astype(np.float32), np.arange(count) % 4, 4)


class Net(nn.Module):
    """As many users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout()
        self.last = nn.Linear(4 * 8 * 8, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.dropout(self.flat(functional.relu(self.norm(self.conv(images))))))
        return logits

    def flat(self, maps: Tensor) -> Tensor:
        return maps.flatten(1)


class Viewing(Net):
    def flat(self, maps: Tensor) -> Tensor:
        return maps.view(-1, 4 * 8 * 8)


class ViewingInTraining(Net):
    def flat(self, maps: Tensor) -> Tensor:
        return maps.view(-1, 4 * 8 * 8) if self.training else maps.flatten(1)


class Strided(Net):
    """Takes memory for what it is not."""

    def flat(self, maps: Tensor) -> Tensor:
        return maps.as_strided((len(maps), 4 * 8 * 8), (4 * 8 * 8, 1))


class SharingMemory(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 4, 3, padding=1)
        self.other.weight = nn.Parameter(self.conv.weight.data)


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 4, 3, padding=1)
        self.other.weight = self.conv.weight


# --- who bears it --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_bears_channels_last__built_in_model_of_images__does(name):
    assert bears_channels_last(build_model(name, MODELS[name], 0), SHAPE)


def test_bears_channels_last__model_of_a_paper__does():
    params = {"in_channels": 1, "height": 28, "width": 28, "num_classes": 10}
    assert bears_channels_last(build_model("paper_cnn", params, 0), (1, 28, 28))


@pytest.mark.parametrize("module", [Net(), Tied()], ids=["flattening", "tied"])
def test_bears_channels_last__own_module__does(module):
    assert bears_channels_last(module, SHAPE)


@pytest.mark.parametrize(
    "module", [Viewing(), ViewingInTraining(), Strided(), SharingMemory()], ids=lambda m: type(m).__name__
)
def test_bears_channels_last__module_that_relies_on_the_order__does_not(module):
    assert not bears_channels_last(module, SHAPE)


def test_bears_channels_last__no_images__does_not():
    assert not bears_channels_last(build_model("mlp", {"in_features": 3, "num_classes": 2, "hidden": 4}, 0), (3,))


def test_bears_channels_last__images_without_a_convolution__does_not():
    assert not bears_channels_last(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)), SHAPE)


@pytest.mark.parametrize("training", [True, False])
def test_bears_channels_last__whatever_it_says__module_and_generator_are_as_they_were(training):
    module = Net().train(training)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    drawn = torch.random.get_rng_state()
    bears_channels_last(module, SHAPE)
    assert module.training is training
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None and parameter.is_contiguous() for parameter in module.parameters())


# --- training with it ----------------------------------------------------------------------------


def by_hand(module: nn.Module, training: LocalTraining) -> np.ndarray:
    """The same steps with channels first, by torch alone."""
    start = vector_of(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=training.learning_rate, momentum=training.momentum)
    for features, labels in seeded_batches(images(), batch_size=training.batch_size, steps=training.steps, seed=0):
        optimizer.zero_grad()
        functional.cross_entropy(module(features), labels).backward()
        optimizer.step()
    return vector_of(module) - start


@pytest.mark.parametrize("name", MODELS)
def test_train__channels_last__is_training_with_channels_first_but_for_rounding(name):
    training = LocalTraining(steps=5, batch_size=8, learning_rate=0.05, momentum=0.9)
    expected = by_hand(build_model(name, MODELS[name], 0), training)
    trainer = LocalTrainer(build_model(name, MODELS[name], 0))
    found = trainer.train(trainer.initial_vector, images(), training, seed=0).delta
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_train__channels_last__vector_keeps_its_order():
    trainer = LocalTrainer(Net())
    layout, vector = trainer.layout, trainer.initial_vector
    evaluation = trainer.evaluate(vector, images())
    assert np.array_equal(trainer.initial_vector, vector)
    assert state_layout(Net()) == layout == trainer.layout
    assert trainer.evaluate(vector, images()) == evaluation


def test_train__module_that_views__trains_with_channels_first():
    training = LocalTraining(steps=5, batch_size=8, learning_rate=0.05)
    trainer = LocalTrainer(Viewing())
    assert np.abs(trainer.train(trainer.initial_vector, images(), training, seed=0).delta).max() > 0


def test_train__evaluated_before_or_not__comes_to_the_same_bits():
    training = LocalTraining(steps=5, batch_size=8, learning_rate=0.05)
    fresh, used = (LocalTrainer(build_model("cnn", MODELS["cnn"], 0)) for _ in range(2))
    start = fresh.initial_vector
    used.evaluate(start, images())
    deltas = [trainer.train(start, images(), training, seed=0).delta for trainer in (fresh, used)]
    assert np.array_equal(*deltas)
