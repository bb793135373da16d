"""Encoding an update: error feedback, and the norm bound that the chain would refuse to exceed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.agents.encode import encode_update, payload_bytes
from chainfl.encoding.chunk_tree import update_root
from chainfl.encoding.lossy import lossy_values
from chainfl.encoding.payload import UpdateMetadata, read_update
from chainfl.errors import EncodingError
from chainfl.tasks.spec import default_format
from chainfl.types import Address, Compression, Root, TaskId

FORM = replace(default_format(100), chunk_params=16)
DELTA = np.linspace(-0.5, 0.5, 100, dtype=np.float32)


def test_encode__within_the_bound__commits_to_the_values():
    encoded = encode_update(DELTA, None, FORM)
    assert encoded.commitment == update_root(encoded.values, 16)
    assert encoded.norm_scale == 1.0


def test_encode__with_a_residual__adds_it():
    residual = np.full(100, 3 * 2.0**-14, np.float32)
    assert np.array_equal(
        encode_update(DELTA, residual, FORM).values, encode_update(DELTA + residual, None, FORM).values
    )


@settings(max_examples=50, deadline=None)
@given(bound=st.integers(1, 2**40), size=st.floats(0.001, 100))
def test_encode__any_bound__is_kept(bound, size):
    encoded = encode_update(DELTA * np.float32(size), None, replace(FORM, max_squared_norm=bound))
    assert encoded.commitment.sum_of_squares <= bound


@pytest.mark.parametrize("slack", [-1, 0, 1])
def test_encode__at_the_bound__is_scaled_only_beyond_it(slack):
    exact = encode_update(DELTA, None, FORM).commitment.sum_of_squares
    encoded = encode_update(DELTA, None, replace(FORM, max_squared_norm=exact + slack))
    assert (encoded.norm_scale < 1) == (slack < 0)


def test_encode__not_finite__is_refused():
    with pytest.raises(EncodingError):
        encode_update(np.full(100, np.nan, np.float32), None, FORM)


def test_payload_bytes__read_back__is_the_same_update():
    encoded = encode_update(DELTA, None, FORM)
    metadata = UpdateMetadata(TaskId(1), 2, Address("0xAb"), Root(bytes(32)), 1, Address("0xCd"))
    data = payload_bytes(encoded.values, metadata)
    assert np.array_equal(read_update(data, num_params=100, expected=metadata), encoded.values)


INT4, ONE_PERCENT = Compression("int4"), Compression("topk", Fraction(1, 100))
LOSSY = pytest.mark.parametrize("form", [Compression("int8"), INT4, ONE_PERCENT], ids=lambda form: form.name)


@LOSSY
def test_encode__lossy_form__commits_to_what_is_left_and_keeps_the_rest(form):
    encoded = encode_update(DELTA, None, FORM, form)
    assert encoded.commitment == update_root(encoded.values, 16)
    assert np.array_equal(encoded.values, lossy_values(encoded.values, form))
    np.testing.assert_allclose(encoded.values * 2.0**-14 + encoded.residual, DELTA, atol=1e-7)
    assert np.array_equal(encode_update(DELTA, None, FORM, form).residual, encoded.residual)


@LOSSY
@settings(max_examples=50, deadline=None)
@given(bound=st.integers(1, 2**40), size=st.floats(0.001, 100))
def test_encode__lossy_form_and_any_bound__is_kept(form, bound, size):
    encoded = encode_update(DELTA * np.float32(size), DELTA[::-1], replace(FORM, max_squared_norm=bound), form)
    assert encoded.commitment.sum_of_squares <= bound
    assert np.array_equal(encoded.values, lossy_values(encoded.values, form))


def test_encode__topk_over_the_norm_bound__shortens_what_is_sent_and_keeps_what_waits():
    delta = np.array([0.5, *[0.25] * 99], np.float32)
    bound = (1 << 11) ** 2  # of 0.5, a quarter
    encoded = encode_update(delta, None, replace(FORM, max_squared_norm=bound), ONE_PERCENT)
    assert np.flatnonzero(encoded.values).tolist() == [0]
    assert 0.9 * bound < encoded.commitment.sum_of_squares <= bound
    np.testing.assert_allclose(encoded.residual[1:], 0.25, rtol=1e-3)
    assert abs(encoded.residual[0]) < 0.02


def test_encode__clipped_again_and_again__the_residual_stays_within_its_cap():
    delta, residual = np.full(100, 100, np.float32), None
    for _ in range(200):
        residual = encode_update(delta, residual, FORM, INT4).residual
    assert np.linalg.norm(residual) <= 4 * np.linalg.norm(delta) * (1 + 1e-6)


@LOSSY
def test_encode__differences_of_bounded_length__the_cap_cuts_nothing(form):
    rng, residual, sent, total = np.random.default_rng(0), None, np.zeros(1_000), np.zeros(1_000)
    for _ in range(300):
        delta = rng.normal(0, 0.01, 1_000).astype(np.float32)
        encoded = encode_update(delta, residual, replace(FORM, num_params=1_000), form)
        residual, sent, total = encoded.residual, sent + encoded.values * 2.0**-14, total + delta
    np.testing.assert_allclose(sent + residual, total, atol=1e-4)


def descend(form: Compression, *, with_feedback: bool) -> float:
    """How far two workers come from the mean of their optima, which lie far apart in a few coordinates for good."""
    size, rate = 400, 0.01
    target, apart = np.random.default_rng(1).normal(0, 1, size), np.zeros(size)
    apart[::50] = 5
    at, numbers = np.zeros(size), default_format(size)
    residuals: list[np.ndarray | None] = [None, None]
    for _ in range(1_000):
        encoded = [
            encode_update((rate * (target + side * apart - at)).astype(np.float32), residual, numbers, form)
            for side, residual in zip((-1, 1), residuals, strict=True)
        ]
        residuals = [one.residual if with_feedback else None for one in encoded]
        at += sum(one.values * 2.0**-14 for one in encoded) / 2
    return float(np.linalg.norm(at - target) / np.linalg.norm(target))


@pytest.mark.parametrize("form", [INT4, ONE_PERCENT], ids=lambda form: form.name)
def test_encode__workers_far_apart__converge_with_error_feedback_and_not_without(form):
    assert descend(form, with_feedback=True) < 0.1
    assert descend(form, with_feedback=False) > 0.2
