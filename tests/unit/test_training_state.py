"""A module's vector: which tensors, in which order, and what happens on the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from chainfl.errors import TrainingError
from chainfl.training.state import floating_buffers, load_vector, state_layout, state_tensors, vector_of


class Tied(nn.Module):
    """An embedding tied to the output, as language models have it; names chosen so that the tie crosses the order."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 5, bias=False)
        self.embedding = nn.Embedding(5, 3)
        self.embedding.weight = self.output.weight
        self.norm = nn.BatchNorm1d(3)


def test_state_layout__tied_and_integer_tensors__are_once_under_the_first_name_and_out():
    assert list(state_tensors(Tied())) == [
        "embedding.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.weight",
    ]
    assert state_layout(Tied()).num_params == 15 + 4 * 3


def test_floating_buffers__statistics_beside_tied_weights__are_the_statistics_alone():
    assert floating_buffers(Tied()) == ("norm.running_mean", "norm.running_var")
    assert floating_buffers(nn.BatchNorm1d(3, track_running_stats=False)) == ()


def test_load_vector__then_vector_of__is_the_identity_and_keeps_ties():
    module = Tied()
    vector = np.abs(np.random.default_rng(0).normal(size=27)).astype(np.float32)
    load_vector(module, vector)
    np.testing.assert_array_equal(vector_of(module), vector)
    assert module.embedding.weight is module.output.weight
    assert torch.equal(module.output.weight, torch.from_numpy(vector[:15].reshape(5, 3)))


def test_load_vector__negative_variance__is_clamped_at_zero_and_nothing_else():
    module = Tied()
    load_vector(module, np.full(27, -1, np.float32))
    assert module.norm.running_var.tolist() == [0, 0, 0]
    assert module.norm.running_mean.tolist() == [-1, -1, -1]


def test_vector_of__later_change__does_not_reach_the_copy():
    module = nn.Linear(2, 2)
    before = vector_of(module)
    expected = before.copy()
    with torch.no_grad():
        module.weight.zero_()
    np.testing.assert_array_equal(before, expected)


def test_state_tensors__views_of_one_storage__are_two_tensors():
    module, storage = nn.Module(), torch.zeros(4)
    module.register_buffer("first", storage[:2])
    module.register_buffer("second", storage[2:])
    assert list(state_tensors(module)) == ["first", "second"]


@pytest.mark.parametrize("vector", [np.zeros(26, np.float32), np.full(27, np.nan, np.float32)])
def test_load_vector__wrong_length_or_not_finite__is_refused(vector):
    with pytest.raises(TrainingError):
        load_vector(Tied(), vector)


def test_state_layout__module_without_parameters__is_refused():
    with pytest.raises(TrainingError):
        state_layout(nn.ReLU())
