"""Registered models: what a stranger's specification may ask for, and that a seed gives one model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chainfl.errors import TrainingError
from chainfl.training.models import MODELS, build_model, check_model
from chainfl.training.state import vector_of

CNN = {"height": 8, "width": 8, "num_classes": 10, "channels": 4, "hidden": 8}
PAPER = {"height": 28, "width": 28, "num_classes": 10}
RESIDUAL = {"in_channels": 3, "height": 32, "width": 32, "num_classes": 10}
MLP = {"in_features": 64, "num_classes": 10, "hidden": 8}


@pytest.mark.parametrize(("name", "params"), [("cnn", CNN), ("mlp", MLP), ("mlp", MLP | {"layers": 0})])
def test_build_model__batch_of_images__gives_a_logit_a_class(name, params):
    assert build_model(name, params, 0)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_build_model__same_seed__same_bits_and_caller_keeps_its_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (vector_of(build_model("cnn", CNN, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_build_model__net_of_the_papers__its_size_and_its_dropout():
    net = build_model("paper_cnn", PAPER, 0)
    images = torch.rand(4, 1, 28, 28)
    assert check_model("paper_cnn", PAPER) == 21_840
    assert net(images).shape == (4, 10)
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40), (28, 28), (32, 31)])
def test_build_model__net_of_the_papers_on_any_size__fits(height, width):
    net = build_model("paper_cnn", PAPER | {"height": height, "width": width}, 0)
    assert net(torch.zeros(2, 1, height, width)).shape == (2, 10)


def test_build_model__residual_net__its_size_and_no_statistics_of_batches():
    net = build_model("resnet", RESIDUAL, 0)
    assert check_model("resnet", RESIDUAL) == 78_042
    assert not list(net.buffers())
    images = torch.rand(4, 3, 32, 32)
    # An image's logits are its own: whoever is beside it in a batch changes nothing.
    assert torch.allclose(net(images)[:1], net(images[:1]), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 9), (28, 28), (31, 32)])
def test_build_model__residual_net_on_any_size__fits(height, width, stride):
    params = {"height": height, "width": width, "channels": 3, "blocks": 2, "stride": stride}
    net = build_model("resnet", RESIDUAL | params, 0)
    assert net(torch.zeros(2, 3, height, width)).shape == (2, 10)


def test_build_model__residual_block_with_weights_of_zero__passes_its_input_on():
    block = build_model("resnet", RESIDUAL, 0).features[3]
    with torch.no_grad():
        for weight in block.residual.parameters():
            weight.zero_()
    images = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(images), images)


@pytest.mark.parametrize(("name", "params"), [("cnn", CNN), ("mlp", MLP), ("paper_cnn", PAPER), ("resnet", RESIDUAL)])
def test_check_model__any_model__is_the_length_of_its_vector(name, params):
    assert check_model(name, params) == len(vector_of(build_model(name, params, 0)))


@pytest.mark.parametrize(
    ("name", "params", "problem"),
    [
        ("transformer", {}, "no model is registered"),
        ("cnn", CNN | {"depth": 3}, "depth is not a parameter"),
        ("cnn", {"height": 8, "width": 8}, "num_classes is missing"),
        ("cnn", CNN | {"channels": 0}, "channels must be from 1"),
        ("cnn", CNN | {"channels": 1025}, "channels must be from 1"),
        ("cnn", CNN | {"channels": 16.0}, "whole number"),
        ("cnn", CNN | {"channels": True}, "whole number"),
        ("cnn", CNN | {"channels": "16"}, "whole number"),
        ("cnn", CNN | {"blocks": 4}, "leave nothing"),
        ("paper_cnn", PAPER | {"width": 15}, "width must be from 16"),
        ("resnet", RESIDUAL | {"height": 3}, "height must be from 4"),
        ("resnet", RESIDUAL | {"blocks": 65}, "blocks must be from 1"),
        ("mlp", MLP | {"hidden": 10**9, "layers": -1}, "hidden must be.*layers must be"),
        ("mlp", MLP | {"in_features": 1 << 24, "hidden": 65_536}, "more than"),
    ],
)
def test_build_model__bad_parameters__names_every_problem(name, params, problem):
    with pytest.raises(TrainingError, match=problem):
        build_model(name, params, 0)
    with pytest.raises(TrainingError, match=problem):
        check_model(name, params)


def test_models__defaults__are_within_their_own_bounds():
    rules = [rule for kind in MODELS.values() for rule in kind.parameters.values() if rule.default is not None]
    assert all(rule.low <= rule.default <= rule.high for rule in rules)
