"""Rounding, clipping, saturation and error feedback."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.encoding.arrays import BLOCK
from chainfl.encoding.fixed_point import (
    check_update_range,
    dequantize_model,
    quantize_model,
    quantize_update,
)
from chainfl.errors import EncodingError, ValueOutOfRange

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "fixed_point.json").read_text())
STEP = 2.0**-14


def floats(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize("case", VECTORS["quantize_update"])
def test_quantize_update__shared_vectors__same_integers_and_residual(case):
    update = quantize_update(floats(*case["reals"]), case["scale_bits"], max_residual_norm=math.inf)
    assert update.values.tolist() == case["expected"]
    assert update.residual.tolist() == case["residual"]
    assert update.num_clipped == case["num_clipped"]


@pytest.mark.parametrize("case", VECTORS["quantize_model"])
def test_quantize_model__shared_vectors__same_integers(case):
    model = quantize_model(floats(*case["reals"]), case["scale_bits"])
    assert model.values.tolist() == case["expected"]
    assert model.num_saturated == case["num_saturated"]
    assert dequantize_model(model.values, case["scale_bits"]).tolist() == case["dequantized"]


def test_quantize_update__beyond_the_range__clipped_counted_and_kept():
    update = quantize_update(floats(3.0, -3.0, 0.0), 14)
    assert update.values.tolist() == [32767, -32767, 0]
    assert update.num_clipped == 2
    assert update.residual.tolist() == [3.0 - 32767 * STEP, 32767 * STEP - 3.0, 0.0]


def test_quantize_update__feedback__what_was_lost_comes_back():
    update, sent = None, 0
    for _ in range(4):
        update = quantize_update(floats(0.25 * STEP), 14, update.residual if update else None)
        sent += int(update.values[0])
    assert sent == 1
    assert update.residual.tolist() == [0.0]


def test_quantize_update__residual__not_modified():
    residual = floats(0.25 * STEP, 1.0)
    quantize_update(floats(1.0, 2.0), 14, residual)
    assert residual.tolist() == [0.25 * STEP, 1.0]


def test_quantize_update__rounding_alone__never_cut_however_small_the_update():
    delta = np.full(1000, 0.49 * STEP, np.float32)
    np.testing.assert_array_equal(quantize_update(delta, 14).residual, delta)


def test_quantize_update__clipping_that_piles_up__residual_no_longer_than_the_update():
    delta, residual = floats(100.0, 0.0), None
    for _ in range(5):
        residual = quantize_update(delta, 14, residual).residual
    assert np.linalg.norm(residual) == pytest.approx(100.0)


def test_quantize_update__residual_norm_given__scaled_to_it():
    update = quantize_update(floats(5.0, -5.0), 14, max_residual_norm=0.5)
    assert np.linalg.norm(update.residual) == pytest.approx(0.5)


@pytest.mark.parametrize("position", [0, BLOCK - 1, BLOCK, 2 * BLOCK])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_quantize__not_finite_anywhere__refused(position, value):
    values = np.zeros(2 * BLOCK + 1, np.float32)
    values[position] = value
    with pytest.raises(EncodingError, match="not finite"):
        quantize_update(values, 14)
    with pytest.raises(EncodingError, match="not finite"):
        quantize_model(values, 20)
    with pytest.raises(EncodingError, match="not finite"):
        quantize_update(np.zeros_like(values), 14, values)


def test_quantize_update__too_large_to_scale__refused():
    with pytest.raises(EncodingError, match="too large to scale"):
        quantize_update(floats(3e38), 14)


@pytest.mark.parametrize(
    "values", [np.zeros(0, np.float32), np.zeros((2, 2), np.float32), np.zeros(3, np.float64), np.zeros(3, np.int32)]
)
def test_quantize__not_a_float32_vector__refused(values):
    with pytest.raises(EncodingError):
        quantize_update(values, 14)
    with pytest.raises(EncodingError):
        quantize_model(values, 20)


@pytest.mark.parametrize("residual", [floats(0.0), np.zeros(2, np.float64)])
def test_quantize_update__residual_of_another_form__refused(residual):
    with pytest.raises(EncodingError):
        quantize_update(floats(1.0, 2.0), 14, residual)


@pytest.mark.parametrize("scale_bits", [-1, 32])
def test_quantize__scale_bits_out_of_range__refused(scale_bits):
    with pytest.raises(EncodingError):
        quantize_update(floats(1.0), scale_bits)
    with pytest.raises(EncodingError):
        dequantize_model(np.zeros(1, np.int32), scale_bits)


def test_check_update_range__ends__only_the_lowest_int16_refused():
    check_update_range(np.array([32767, -32767], np.int16))
    with pytest.raises(ValueOutOfRange, match="coordinate 1"):
        check_update_range(np.array([0, -32768], np.int16))


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=50), st.integers(0, 20))
def test_quantize_update__any_values__within_half_a_step_and_nothing_lost(reals, scale_bits):
    delta = floats(*reals)
    update = quantize_update(delta, scale_bits, max_residual_norm=math.inf)
    restored = update.values.astype(np.float64) * 2.0**-scale_bits + update.residual
    np.testing.assert_array_equal(restored, delta)
    inside = np.abs(update.values) < 32767
    assert np.all(np.abs(update.residual[inside]) <= 0.5 * 2.0**-scale_bits)


@given(st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=50), st.integers(0, 31))
def test_quantize_model__dequantized__the_same_integers(values, scale_bits):
    model = np.array(values, np.int32)
    assert quantize_model(dequantize_model(model, scale_bits), scale_bits).values.tolist() == values
