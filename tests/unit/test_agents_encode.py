"""Encoding an update: error feedback, and the norm bound that the chain would refuse to exceed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.agents.encode import encode_update, payload_bytes
from chainfl.encoding.chunk_tree import update_root
from chainfl.encoding.payload import UpdateMetadata, read_update
from chainfl.errors import EncodingError
from chainfl.tasks.spec import default_format
from chainfl.types import Address, Root, TaskId

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
