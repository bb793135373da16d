"""The presets: the digits reach what the demo promises, and every preset is a valid task."""

from __future__ import annotations

import dataclasses
import json

import pytest
from training_simulation import simulate

from chainfl.aggregation.server_step import check_widths
from chainfl.training.datasets import load_dataset
from chainfl.training.models import check_model
from chainfl.training.presets import DIGITS, PRESETS
from chainfl.training.sgd import SgdConfig


def test_digits__half_of_the_demos_rounds__already_reach_its_promise():
    # All ten rounds beside the centralised baseline are benchmarks/demo.py's; the tables are in docs/decisions/003.
    outcome = simulate(dataclasses.replace(DIGITS, rounds=5), load_dataset("digits"), seed=0)
    assert outcome.accuracy_by_round[-1] >= 0.93
    assert outcome.clipped_share < 0.001
    assert outcome.rejected < 0.2


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_presets__each__is_a_valid_task(preset):
    assert check_model(preset.model, preset.model_params) > 0
    SgdConfig(preset.learning_rate, preset.momentum, preset.weight_decay)
    check_widths(preset.server_step_num, preset.server_step_den, 64, preset.model_scale_bits, preset.update_scale_bits)
    assert json.loads(json.dumps(dataclasses.asdict(preset)))["rounds"] == 10
