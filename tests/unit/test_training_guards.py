"""What a local run tells of itself, and when its update is withheld."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from chainfl.errors import TrainingDiverged
from chainfl.training.datasets import Dataset
from chainfl.training.guards import OwnData
from chainfl.training.settings import Finding, LocalTraining
from chainfl.training.state import load_vector
from chainfl.training.trainer import LocalTrainer

BASE = LocalTraining(steps=5, batch_size=8, learning_rate=0.1)
UNEVEN = np.array([0] * 900 + [1] * 100)


def points(labels: np.ndarray, shift: float = 1.0) -> Dataset:
    """Class 0 on the left, the others on the right."""
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.2, (len(labels), 2)) + np.where(labels == 0, -shift, shift)[:, None]
    return Dataset("points", features.astype(np.float32), labels.astype(np.int64), 3)


def linear(weight: float = 0.0, bias: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> LocalTrainer:
    module = nn.Linear(2, 3)
    load_vector(module, np.array([*bias, -weight, -weight, weight, weight, 0, 0], np.float32))
    return LocalTrainer(module)


def train(trainer: LocalTrainer, data: Dataset, **changes: object):
    return trainer.train(trainer.initial_vector, data, replace(BASE, **changes), seed=0)


def test_train__learns_its_data__nothing_to_tell():
    assert train(linear(), points(UNEVEN), steps=40).findings == ()


def test_train__everything_taken_for_one_class__is_told_and_sent():
    result = train(linear(bias=(6.0, 0.0, 0.0)), points(UNEVEN, shift=0.0), batch_size=500)
    assert result.findings == (Finding.CONSTANT_PREDICTOR,)
    assert result.delta.any()


def test_train__one_example_in_a_thousand_taken_for_another_class__is_no_constant():
    labels = np.array([0] * 999 + [1])
    data = points(labels)
    data.values[-1] = 40
    result = train(linear(weight=1.0, bias=(20.0, 0.0, 0.0)), data, steps=1, learning_rate=1e-4)
    assert result.findings == ()


def test_train__data_of_a_single_class__may_be_taken_for_that_class():
    assert train(linear(), points(np.zeros(50))).findings == ()


def test_train__loss_on_own_data_rises__is_told_and_sent():
    # The correction of a drift that is not this worker's: it climbs its own loss.
    trainer, training = linear(weight=-0.2), replace(BASE, algorithm="scaffold", learning_rate=0.05)
    memory = {"drift": np.array([0, 0, 0, 3, 3, -3, -3, 0, 0], np.float32)}
    result = trainer.train(trainer.initial_vector, points(UNEVEN), training, seed=0, memory=memory)
    assert Finding.LOSS_ROSE in result.findings


def test_train__worse_than_knowing_nothing_by_its_own_steps__is_diverged():
    # Steps that overshoot: loss 1.1 to above 1.25 times that.
    with pytest.raises(TrainingDiverged, match="went from") as caught:
        train(linear(weight=0.1), points(UNEVEN, shift=0.05), steps=1, batch_size=4, learning_rate=20.0)
    assert caught.value.evidence["loss_after"] > 1.25 * np.log(3)


def test_train__collapse_to_one_class_that_raised_the_loss__is_diverged():
    # One long step on one example; the model that it started from told the classes apart.
    trainer, data = linear(weight=0.3), points(np.array([0] * 50 + [1] * 50), shift=0.1)
    with pytest.raises(TrainingDiverged, match="for the same class") as caught:
        train(trainer, data, steps=1, batch_size=1, learning_rate=2.0)
    assert caught.value.evidence["loss_after"] < np.log(3)


def test_train__loss_rises_below_that_of_knowing_nothing__is_told_and_sent():
    # What most workers of a healthy task see: a noisy local model, worse than the mean that it started from.
    trainer, data = linear(weight=1.0), points(np.array([0] * 50 + [1] * 50), shift=0.1)
    result = train(trainer, data, steps=1, batch_size=1, learning_rate=3.0)
    assert result.findings == (Finding.LOSS_ROSE,)
    assert result.delta.any()


def test_train__collapse_under_scaffold__is_told_and_sent():
    trainer, data = linear(weight=0.3), points(np.array([0] * 50 + [1] * 50), shift=0.1)
    result = train(trainer, data, algorithm="scaffold", steps=1, batch_size=1, learning_rate=2.0)
    assert result.findings == (Finding.CONSTANT_PREDICTOR, Finding.LOSS_ROSE)


@pytest.mark.parametrize("learning_rate", [1e-6, 0.1])
def test_train__one_class_of_its_own_from_any_model__is_sent(learning_rate):
    for weight in (-1.0, 0.0, 1.0):
        assert train(linear(weight), points(np.ones(50)), learning_rate=learning_rate).findings == ()


def test_train__finite_but_far_worse_than_guessing__is_diverged():
    memory = {"drift": np.array([0, 0, 0, 3, 3, -3, -3, 0, 0], np.float32)}
    trainer = linear()
    with pytest.raises(TrainingDiverged, match="went from") as caught:
        training = replace(BASE, algorithm="scaffold", learning_rate=1.0)
        trainer.train(trainer.initial_vector, points(UNEVEN), training, seed=0, memory=memory)
    assert caught.value.evidence["loss_after"] > 4 * caught.value.evidence["loss_before"]


def test_train__model_whose_loss_is_not_finite__is_diverged_at_the_first_step():
    trainer = LocalTrainer(nn.Linear(2, 3), lambda outputs, _: outputs.sum() * float("nan"))
    with pytest.raises(TrainingDiverged, match="step 1"):
        train(trainer, points(UNEVEN))


def test_look__module_in_training_mode__stays_in_it_and_no_random_number_is_drawn():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    module.train()
    state, mean = torch.random.get_rng_state(), module[1].running_mean.clone()
    own_data = OwnData(module, nn.functional.cross_entropy, points(UNEVEN), seed=0)
    assert own_data.look() == own_data.look()
    assert module.training
    assert module[1].training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(module[1].running_mean, mean)


def test_look__outputs_that_are_no_classes__predict_nothing():
    own_data = OwnData(nn.Linear(2, 7), lambda outputs, _: outputs.square().mean(), points(UNEVEN), seed=0)
    assert own_data.look().predicted is None
