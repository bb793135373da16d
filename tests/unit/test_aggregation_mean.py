"""The mean rule against the shared vectors, and its widths."""

from __future__ import annotations

import json
import math
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.aggregation.mean import WeightedMean
from chainfl.aggregation.server_step import ServerStep, check_widths
from chainfl.encoding.arrays import BLOCK
from chainfl.errors import AggregationError, EncodingError

FOLDER = Path(__file__).parents[1] / "vectors"
COORDINATES = json.loads((FOLDER / "fixed_point.json").read_text())
STEPS = json.loads((FOLDER / "mean_rule.json").read_text())["steps"]
INT32_MAX = 2**31 - 1


def mean_of(updates, weights, model_scale_bits=20, update_scale_bits=14):
    rule = WeightedMean(len(updates[0]), model_scale_bits, update_scale_bits)
    for values, weight in zip(updates, weights, strict=True):
        rule.add(np.array(values, np.int16), weight)
    return rule


@pytest.mark.parametrize("case", COORDINATES["mean_step"], ids=lambda case: case["name"])
def test_apply__shared_vectors__same_coordinate(case):
    updates = [[value] for value in case["updates"]]
    rule = mean_of(updates, case["weights"], case["model_scale_bits"], case["update_scale_bits"])
    result = rule.apply(np.array([case["model"]], np.int32), ServerStep(case["num"], case["den"]))
    assert result.model.tolist() == [case["expected"]]


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case["name"])
def test_apply__shared_vectors_of_whole_models__same_model_or_void(case):
    rule = mean_of(case["updates"], case["weights"])
    step, model = ServerStep(case["num"], case["den"]), np.array(case["model"], np.int32)
    if case["void"]:
        with pytest.raises(AggregationError, match="void"):
            rule.apply(model, step)
    else:
        assert rule.apply(model, step).model.tolist() == case["expected"]


@pytest.mark.parametrize("case", COORDINATES["check_widths"], ids=str)
def test_check_widths__shared_vectors__raises_where_the_contract_reverts(case):
    arguments = {key: value for key, value in case.items() if key != "fits"}
    if case["fits"]:
        check_widths(**arguments)
    else:
        with pytest.raises(AggregationError):
            check_widths(**arguments)


def test_apply__beyond_int32__saturates_and_counts():
    rule = mean_of([[32767, -32767, 1, 0]], [10_000])
    result = rule.apply(np.array([INT32_MAX - 1, -INT32_MAX, INT32_MAX - 64, 5], np.int32), ServerStep(1, 1))
    assert result.model.tolist() == [INT32_MAX, -INT32_MAX - 1, INT32_MAX, 5]
    assert result.num_saturated == 2


def test_apply__longer_than_a_block__every_coordinate():
    rng = np.random.default_rng(5)
    size = 2 * BLOCK + 3
    updates = rng.integers(-32767, 32768, (3, size)).astype(np.int16)
    model = rng.integers(-(2**31), 2**31, size).astype(np.int32)
    weights = [10_000, 1, 77]
    result = mean_of(updates, weights).apply(model, ServerStep(3, 7))
    for index in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK, size - 1):
        scaled = 64 * sum(w * int(u) for w, u in zip(weights, updates[:, index], strict=True))
        step = math.floor(Fraction(6 * scaled + 7 * 10_078, 14 * 10_078))
        assert result.model[index] == min(max(int(model[index]) + step, -(2**31)), INT32_MAX)


def test_apply__model__not_modified_and_applicable_again():
    rule = mean_of([[100]], [10_000])
    model = np.array([7], np.int32)
    first, second = (rule.apply(model, ServerStep(1, 1)).model.tolist() for _ in range(2))
    assert first == second == [7 + 6400]
    assert model.tolist() == [7]


def test_add__any_order__same_model():
    updates, weights = [[5, -9], [32767, 3], [-2, 8]], [3, 9_999, 10_000]
    model = np.array([1, 2], np.int32)
    forward = mean_of(updates, weights).apply(model, ServerStep(1, 3)).model
    backward = mean_of(updates[::-1], weights[::-1]).apply(model, ServerStep(1, 3)).model
    assert forward.tolist() == backward.tolist()


def test_total_weight__after_updates__their_sum():
    assert mean_of([[1], [2], [3]], [10_000, 0, 5]).total_weight == 10_005


@pytest.mark.parametrize("weight", [-1, 10_001])
def test_add__weight_out_of_range__refused(weight):
    with pytest.raises(AggregationError, match="weight"):
        WeightedMean(1, 20, 14).add(np.zeros(1, np.int16), weight)


def test_add__another_length_or_type__refused():
    rule = WeightedMean(3, 20, 14)
    with pytest.raises(AggregationError):
        rule.add(np.zeros(2, np.int16), 1)
    with pytest.raises(EncodingError):
        rule.add(np.zeros(3, np.int32), 1)


def test_apply__model_of_another_length_or_type__refused():
    rule = mean_of([[1, 2]], [1])
    with pytest.raises(AggregationError):
        rule.apply(np.zeros(3, np.int32), ServerStep(1, 1))
    with pytest.raises(EncodingError):
        rule.apply(np.zeros(2, np.int64), ServerStep(1, 1))


def test_apply__nothing_added__void():
    with pytest.raises(AggregationError, match="void"):
        WeightedMean(1, 20, 14).apply(np.zeros(1, np.int32), ServerStep(1, 1))


def test_apply__step_that_leaves_64_bits__refused():
    with pytest.raises(AggregationError, match="64 bits"):
        mean_of([[1]], [10_000]).apply(np.zeros(1, np.int32), ServerStep(1 << 40, 1))


@pytest.mark.parametrize(("num", "den"), [(0, 1), (1, 0), (-1, 1), (1, -1)])
def test_server_step__not_positive__refused(num, den):
    with pytest.raises(AggregationError):
        ServerStep(num, den)


def test_weighted_mean__update_finer_than_the_model__refused():
    with pytest.raises(AggregationError, match="scale bits"):
        WeightedMean(1, 14, 15)


def test_add__many_updates__memory_of_one_vector():
    size = 1 << 18
    values = np.ones(size, np.int16)
    tracemalloc.start()
    try:
        rule = WeightedMean(size, 20, 14)
        for _ in range(8):
            rule.add(values, 10_000)
        rule.apply(np.zeros(size, np.int32), ServerStep(1, 1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size * (8 + 4) + 8 * 8 * BLOCK


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.lists(st.tuples(st.integers(-32768, 32767), st.integers(0, 10_000)), min_size=1, max_size=20),
    st.integers(1, 1000),
    st.integers(1, 1000),
)
def test_apply__any_coordinate__the_rule_in_exact_arithmetic(model, votes, num, den):
    total = sum(weight for _, weight in votes)
    if total == 0:
        return
    scaled = 64 * sum(value * weight for value, weight in votes)
    exact = model + math.floor(Fraction(num * scaled, den * total) + Fraction(1, 2))
    rule = mean_of([[value] for value, _ in votes], [weight for _, weight in votes])
    result = rule.apply(np.array([model], np.int32), ServerStep(num, den))
    assert result.model.tolist() == [min(max(exact, -(2**31)), INT32_MAX)]
