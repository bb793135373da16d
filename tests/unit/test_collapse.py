"""A global model at 9.8% while its clients do well: made on purpose, seen, and fixed (docs/collapse.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from real_data import real_data

from chainfl.simulation.simulate import simulate
from chainfl.simulation.strategy import Strategy
from chainfl.training import scaffold
from chainfl.training.datasets import DatasetSplits, load_mnist

WHOLE_NUMBERS = Strategy(model_scale_bits=0, update_scale_bits=0)
CONSTANT = "constant_predictor: every test example is taken for class 0"
LOCAL = {"batch_size": 32, "learning_rate": 0.05, "momentum": 0.9}


@pytest.fixture(scope="module")
def mnist():
    """2,000 of the training images, for speed, and the whole test set, of which 980 images in 10,000 are zeros."""
    splits = load_mnist(real_data("mnist"))
    chosen = np.random.default_rng(7).permutation(len(splits.train))[:2000]
    return DatasetSplits(splits.train.subset(chosen), splits.test)


def papers_setting(mnist, strategy, **more):
    """10 clients, four fifths of whose images are of one digit, and the net of the papers."""
    return simulate("paper_cnn", mnist, clients=10, partition="skewed:0.8", strategy=strategy, **LOCAL, **more)


@pytest.mark.parametrize("outputs", [torch.zeros(2, 10), torch.full((2, 10), torch.nan)])
def test_argmax__outputs_that_say_nothing__are_taken_for_class_0(outputs):
    assert outputs.argmax(dim=1).tolist() == [0, 0]


def test_simulate__weights_as_whole_numbers__stays_at_the_share_of_zeros_and_says_so(mnist):
    found = papers_setting(mnist, WHOLE_NUMBERS, rounds=2, steps=5)
    assert found.accuracies == (0.098, 0.098, 0.098)
    assert not found.model.any()
    assert [CONSTANT in metrics.warnings for metrics in found.rounds[1:]] == [True, True]


def test_simulate__the_same_with_fixed_point__learns(mnist):
    few = DatasetSplits(mnist.train, mnist.test.subset(np.arange(1000)))
    assert papers_setting(few, "scaffold", rounds=2, steps=60).accuracy > 0.5


@pytest.mark.parametrize("momentum_counts", [True, False])
def test_simulate__scaffold_with_momentum__learns_unless_variates_are_divided_by_steps_alone(
    monkeypatch, momentum_counts
):
    if not momentum_counts:  # as popular code has it, and the paper for plain SGD
        monkeypatch.setattr(scaffold, "effective_steps_of", lambda _training, steps: steps)
    found = simulate("mlp", "digits", partition="skewed:0.8", strategy="scaffold", rounds=3, steps=40, **LOCAL)
    if momentum_counts:
        assert found.accuracy > 0.8
        assert not any("diverg" in warning for warning in found.warnings)
    else:
        assert found.accuracy < 0.5
        assert any("diverg" in warning for warning in found.warnings)
