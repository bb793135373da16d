"""Clipping weights, which every validator must compute exactly alike."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.aggregation.norms import clip_weights
from chainfl.errors import AggregationError

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "mean_rule.json").read_text())["clip_weights"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_clip_weights__shared_vectors__same_weights(case):
    assert clip_weights([int(total) for total in case["sums"]]) == case["expected"]


def test_clip_weights__nobody__no_weights():
    assert clip_weights([]) == []


def test_clip_weights__twice_the_median_norm__half_the_weight():
    assert clip_weights([100**2, 100**2, 200**2]) == [10_000, 10_000, 5_000]


def test_clip_weights__negative_sum__refused():
    with pytest.raises(AggregationError):
        clip_weights([1, -1])


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30))
def test_clip_weights__any_sums__bounded_and_zero_only_for_zero(sums):
    weights = clip_weights(sums)
    norms = sorted(math.isqrt(total) for total in sums if total)
    for total, weight in zip(sums, weights, strict=True):
        assert (weight == 0) == (total == 0)
        assert 0 <= weight <= 10_000
        if total and math.isqrt(total) <= norms[(len(norms) - 1) // 2]:
            assert weight == 10_000
