"""Local training: deterministic, equal to torch's own SGD, and loud when it diverges."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim._functional import sgd as reference_sgd

from chainfl.errors import DatasetError, TrainingDiverged, TrainingError
from chainfl.training.datasets import Dataset
from chainfl.training.models import build_model
from chainfl.training.settings import LocalTraining, OptimizerSettings
from chainfl.training.sgd import Sgd, SgdConfig
from chainfl.training.trainer import LocalTrainer, seeded_batches

SETTINGS = LocalTraining(steps=20, batch_size=8, learning_rate=0.1)


def blobs(count: int = 60) -> Dataset:
    """Three well separated classes in the plane."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    centres = np.array([[3, 0], [-3, 0], [0, 3]], np.float32)
    return Dataset("blobs", centres[labels] + rng.normal(size=(count, 2)).astype(np.float32) * 0.3, labels, 3)


def mlp_trainer(**options: object) -> LocalTrainer:
    return LocalTrainer(build_model("mlp", {"in_features": 2, "num_classes": 3, "hidden": 8}, 0), **options)


def empty() -> Dataset:
    return Dataset("empty", np.zeros((0, 2), np.float32), np.zeros(0, np.int64), 3)


# --- training ------------------------------------------------------------------------------------


def test_train__separable_data__learns_them():
    trainer = mlp_trainer()
    start = trainer.initial_vector
    result = trainer.train(start, blobs(), replace(SETTINGS, steps=60), seed=0)
    assert result.num_examples == 60
    assert result.loss_last < result.loss_first
    assert result.delta.dtype == np.float32
    before, after = (trainer.evaluate(vector, blobs()) for vector in (start, start + result.delta))
    assert after.accuracy == 1.0
    assert after.loss < before.loss


def test_train__same_seed__same_bits_whatever_came_before():
    trainer = mlp_trainer()
    start = trainer.initial_vector
    first = trainer.train(start, blobs(), SETTINGS, seed=0).delta
    trainer.train(start, blobs(), SETTINGS, seed=9)
    np.testing.assert_array_equal(trainer.train(start, blobs(), SETTINGS, seed=0).delta, first)
    assert not np.array_equal(trainer.train(start, blobs(), SETTINGS, seed=1).delta, first)


def test_train__dropout__is_drawn_from_the_seed_and_caller_keeps_its_generator():
    module = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    trainer = LocalTrainer(module)
    start = trainer.initial_vector
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = trainer.train(start, blobs(), SETTINGS, seed=0).delta
    assert torch.equal(torch.rand(2), expected)
    np.testing.assert_array_equal(trainer.train(start, blobs(), SETTINGS, seed=0).delta, first)


def test_train__batch_norm__moves_its_statistics_but_evaluation_does_not():
    module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    trainer = LocalTrainer(module)
    start = trainer.initial_vector
    delta = dict(trainer.layout.unflatten(trainer.train(start, blobs(), SETTINGS, seed=0).delta))
    assert np.abs(delta["1.running_mean"]).max() > 0
    trainer.evaluate(start, blobs())
    np.testing.assert_array_equal(trainer.initial_vector, start)


def test_train__frozen_parameter__stays():
    module = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    module[0].requires_grad_(False)
    trainer = LocalTrainer(module)
    delta = trainer.layout.unflatten(trainer.train(trainer.initial_vector, blobs(), SETTINGS, seed=0).delta)
    assert not delta["0.weight"].any()
    assert delta["1.weight"].any()


def test_train__parameter_without_effect__gets_no_gradient_and_stays():
    module = nn.Linear(2, 3)
    module.register_parameter("unused", nn.Parameter(torch.ones(2)))
    trainer = LocalTrainer(module)
    delta = trainer.layout.unflatten(trainer.train(trainer.initial_vector, blobs(), SETTINGS, seed=0).delta)
    assert not delta["unused"].any()


def test_train__other_loss__is_used():
    def squared(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.mse_loss(outputs, functional.one_hot(labels, 3).float())

    trainer = mlp_trainer(loss=squared)
    result = trainer.train(trainer.initial_vector, blobs(), SETTINGS, seed=0)
    assert result.loss_last < result.loss_first < 1


@pytest.mark.parametrize("rate", [1e3, 1e5])
def test_train__learning_rate_too_high__is_diverged(rate):
    trainer = LocalTrainer(nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 3)))
    with pytest.raises(TrainingDiverged) as caught:
        trainer.train(trainer.initial_vector, blobs(), replace(SETTINGS, learning_rate=rate, momentum=0.9), seed=0)
    assert "learning rate" in caught.value.hint


def test_train__diverging_in_the_last_step__is_noticed_without_another_loss():
    # The root's slope at zero is not finite, its value is.
    trainer = LocalTrainer(nn.Linear(2, 3), lambda outputs, _: outputs.abs().sqrt().sum())
    with pytest.raises(TrainingDiverged, match="after 1 local steps"):
        trainer.train(np.zeros(9, np.float32), blobs(), replace(SETTINGS, steps=1), seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"proximal_mu": float("nan")},
        {"local_epochs": 0},
        {"accumulation": 0},
        {"precision": "float8"},
        {"algorithm": "fedfoo"},
        {"algorithm": "feddyn"},
        {"optimizer": OptimizerSettings("lbfgs")},
        {"optimizer": OptimizerSettings("adam", {"lr": 1.0})},
        {"algorithm": "scaffold", "optimizer": OptimizerSettings("adam")},
        {"algorithm": "fednova", "optimizer": OptimizerSettings("sgd", {"dampening": 0.5})},
    ],
)
def test_local_training__impossible_setting__is_refused(change):
    with pytest.raises(TrainingError):
        replace(SETTINGS, **change)


def test_train_and_evaluate__no_examples__is_refused():
    trainer = mlp_trainer()
    with pytest.raises(DatasetError):
        trainer.train(trainer.initial_vector, empty(), SETTINGS, seed=0)
    with pytest.raises(DatasetError):
        trainer.evaluate(trainer.initial_vector, empty())


def test_evaluate__several_batches__is_the_mean_over_all():
    trainer, data = mlp_trainer(), blobs(1030)
    whole = trainer.evaluate(trainer.initial_vector, data)
    halves = [trainer.evaluate(trainer.initial_vector, data.subset(part)) for part in np.split(np.arange(1030), 2)]
    assert whole.accuracy == pytest.approx(sum(half.accuracy for half in halves) / 2)
    assert whole.loss == pytest.approx(sum(half.loss for half in halves) / 2, rel=1e-5)


def test_local_trainer__threads__are_set_or_left(monkeypatch):
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    mlp_trainer(num_threads=None)
    mlp_trainer(num_threads=2)
    assert seen == [2]


# --- micro-batches and precision -----------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_train__accumulation__is_the_whole_batchs_step(parts):
    trainer, momentum = mlp_trainer(), replace(SETTINGS, momentum=0.9)
    start = trainer.initial_vector
    whole = trainer.train(start, blobs(), momentum, seed=0)
    summed = trainer.train(start, blobs(), replace(momentum, accumulation=parts), seed=0)
    np.testing.assert_allclose(summed.delta, whole.delta, atol=2e-6)
    assert summed.loss_last == pytest.approx(whole.loss_last, rel=1e-4)


def test_train__more_parts_than_examples__takes_as_many_as_there_are():
    trainer = mlp_trainer()
    start = trainer.initial_vector
    whole = trainer.train(start, blobs(5), SETTINGS, seed=0)
    np.testing.assert_allclose(
        trainer.train(start, blobs(5), replace(SETTINGS, accumulation=8), seed=0).delta, whole.delta, atol=2e-6
    )


def test_train__parameter_that_only_some_parts_use__gets_their_gradient():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.seldom = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.always(features) + (self.seldom(features) if features[0, 0] > 0 else 0)

    trainer = LocalTrainer(Gated())
    data = Dataset("d", np.array([[1, 1], [-1, 1]], np.float32), np.array([0, 1]), 3)
    training = LocalTraining(steps=1, batch_size=2, learning_rate=0.1, accumulation=2)
    delta = trainer.layout.unflatten(trainer.train(trainer.initial_vector, data, training, seed=0).delta)
    assert delta["seldom.weight"].any()


def test_train__bfloat16__learns_with_float32_parameters_and_differs_little():
    trainer = mlp_trainer()
    start = trainer.initial_vector
    full = trainer.train(start, blobs(), replace(SETTINGS, steps=60), seed=0)
    half = trainer.train(start, blobs(), replace(SETTINGS, steps=60, precision="bfloat16"), seed=0)
    assert half.delta.dtype == np.float32
    assert not np.array_equal(half.delta, full.delta)
    assert np.linalg.norm(half.delta - full.delta) < 0.1 * np.linalg.norm(full.delta)
    assert trainer.evaluate(start + half.delta, blobs()).accuracy == 1.0


def test_train__bfloat16_of_wide_layers_in_a_fresh_process__does_not_die():
    code = (
        "import numpy as np\n"
        "from chainfl.training.datasets import Dataset\n"
        "from chainfl.training.models import build_model\n"
        "from chainfl.training.settings import LocalTraining\n"
        "from chainfl.training.trainer import LocalTrainer\n"
        "data = Dataset('d', np.ones((64, 64), np.float32), np.arange(64) % 2, 2)\n"
        "trainer = LocalTrainer(build_model('mlp', {'in_features': 64, 'num_classes': 2, 'hidden': 64}, 0))\n"
        "trainer.train(trainer.initial_vector, data, LocalTraining(2, 64, 0.1, precision='bfloat16'), seed=0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_train__named_optimizer__learns():
    trainer = mlp_trainer()
    start = trainer.initial_vector
    training = replace(SETTINGS, steps=60, learning_rate=0.02, optimizer=OptimizerSettings("adam"))
    result = trainer.train(start, blobs(), training, seed=0)
    assert trainer.evaluate(start + result.delta, blobs()).accuracy == 1.0


# --- batches -------------------------------------------------------------------------------------


def test_seeded_batches__one_pass__shows_every_example_once():
    data = Dataset("numbered", np.arange(12, dtype=np.float32)[:, None], np.arange(12), 12)
    seen = [label for _, labels in seeded_batches(data, batch_size=4, steps=3, seed=0) for label in labels.tolist()]
    assert sorted(seen) == list(range(12))


def test_seeded_batches__small_set_or_uneven_pass__keeps_the_batch_size():
    data = blobs(10)
    assert [len(y) for _, y in seeded_batches(data, batch_size=64, steps=3, seed=0)] == [10, 10, 10]
    assert [len(y) for _, y in seeded_batches(data, batch_size=4, steps=6, seed=0)] == [4] * 6


# --- SGD -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SgdConfig(0.1), SgdConfig(0.05, 0.9), SgdConfig(0.05, 0.9, 0.01)])
def test_sgd__against_torchs_functional_sgd__same_values(config):
    torch.manual_seed(0)
    ours = [torch.randn(4, 3), torch.randn(3)]
    theirs = [tensor.clone() for tensor in ours]
    buffers: list[torch.Tensor | None] = [None, None]
    optimizer = Sgd(ours, config)
    for _ in range(5):
        gradients = [torch.randn(4, 3), torch.randn(3)]
        optimizer.step(gradients)
        # The functional form: constructing torch.optim.SGD is what imports torch._dynamo.
        reference_sgd(
            theirs,
            gradients,
            buffers,
            foreach=False,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_training__fresh_process__does_not_import_dynamo():
    code = (
        "import sys, numpy as np\n"
        "from chainfl.training.datasets import Dataset\n"
        "from chainfl.training.models import build_model\n"
        "from chainfl.training.settings import LocalTraining\n"
        "from chainfl.training.trainer import LocalTrainer\n"
        "data = Dataset('d', np.ones((4, 2), np.float32), np.arange(4) % 2, 2)\n"
        "trainer = LocalTrainer(build_model('mlp', {'in_features': 2, 'num_classes': 2}, 0))\n"
        "trainer.train(trainer.initial_vector, data, LocalTraining(2, 2, 0.1), seed=0)\n"
        "trainer.evaluate(trainer.initial_vector, data)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert 'sklearn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
