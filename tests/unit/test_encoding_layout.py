"""The order in which tensors become a vector, and layouts from strangers."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from chainfl.encoding.layout import MAX_PARAMS, MAX_TENSORS, Layout, TensorSpec
from chainfl.errors import EncodingError

TENSORS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array([-1.0, -2.0], np.float32),
    "b.num_batches_tracked": np.array(7, np.int64),
    "scale": np.array(9.0, np.float32),
}


def test_of__mixed_tensors__floating_ones_sorted_by_name():
    layout = Layout.of(TENSORS)
    assert [spec.name for spec in layout.tensors] == ["a.bias", "b.weight", "scale"]
    assert layout.tensors[1] == TensorSpec("b.weight", (2, 3), "float32")
    assert layout.num_params == 9


def test_flatten__any_order_of_arrival__names_sorted_and_row_major():
    vector = Layout.of(TENSORS).flatten(dict(reversed(TENSORS.items())))
    assert vector.dtype == np.float32
    assert vector.tolist() == [-1, -2, 0, 1, 2, 3, 4, 5, 9]


def test_flatten__transposed_view__row_major_of_what_is_seen():
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    assert Layout.of(tensors).flatten(tensors).tolist() == [0, 3, 1, 4, 2, 5]


def test_unflatten__flattened__gives_the_tensors_back():
    layout = Layout.of(TENSORS)
    tensors = layout.unflatten(layout.flatten(TENSORS))
    assert set(tensors) == {"a.bias", "b.weight", "scale"}
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, TENSORS[name])
        assert values.shape == TENSORS[name].shape


def test_unflatten__other_dtypes__restored():
    tensors = {"h": np.array([0.5], np.float16), "d": np.array([0.25], np.float64)}
    layout = Layout.of(tensors)
    assert {name: values.dtype for name, values in layout.unflatten(layout.flatten(tensors)).items()} == {
        "h": np.float16,
        "d": np.float64,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"a.bias": np.zeros(3, np.float32)},
        {"extra": np.zeros(1, np.float32)},
        {"a.bias": np.zeros(2, np.int32)},
    ],
    ids=["another shape", "a tensor too many", "integers for floats"],
)
def test_flatten__tensors_of_another_model__refused(change):
    with pytest.raises(EncodingError):
        Layout.of(TENSORS).flatten(TENSORS | change)


def test_flatten__missing_tensor__refused_by_name():
    with pytest.raises(EncodingError, match=r"a\.bias"):
        Layout.of(TENSORS).flatten({name: values for name, values in TENSORS.items() if name != "a.bias"})


@pytest.mark.parametrize("vector", [np.zeros(8, np.float32), np.zeros(9, np.float64), np.zeros((3, 3), np.float32)])
def test_unflatten__another_length_or_type__refused(vector):
    with pytest.raises(EncodingError):
        Layout.of(TENSORS).unflatten(vector)


def test_hash__names_and_shapes__not_dtypes():
    expected = hashlib.sha256(b'[["a",[2,3]],["b",[]]]').digest()
    assert Layout((TensorSpec("a", (2, 3), "float32"), TensorSpec("b", (), "float32"))).hash() == expected
    assert Layout((TensorSpec("a", (2, 3), "float16"), TensorSpec("b", (), "float64"))).hash() == expected
    assert Layout((TensorSpec("a", (3, 2), "float32"), TensorSpec("b", (), "float32"))).hash() != expected


def test_json__round_trip__equal():
    layout = Layout.of(TENSORS)
    assert Layout.from_json(layout.to_json()) == layout
    assert Layout.from_json(layout.to_json().encode()) == layout


def _entry(**changed):
    return {"name": "a", "shape": [2], "dtype": "float32"} | changed


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        "[" * 100_000,
        "{}",
        "[]",
        "[1]",
        json.dumps([_entry(extra=1)]),
        json.dumps([{"name": "a", "shape": [2]}]),
        json.dumps([_entry(name=1)]),
        json.dumps([_entry(name="")]),
        json.dumps([_entry(name="x" * 513)]),
        json.dumps([_entry(name="a\nb")]),
        json.dumps([_entry(name="\ud800")]),
        json.dumps([_entry(name="__metadata__")]),
        json.dumps([_entry(dtype="int8")]),
        json.dumps([_entry(dtype=["float32"])]),
        json.dumps([_entry(shape="2")]),
        json.dumps([_entry(shape=[0])]),
        json.dumps([_entry(shape=[-1])]),
        json.dumps([_entry(shape=[2.0])]),
        json.dumps([_entry(shape=[True])]),
        json.dumps([_entry(shape=[1] * 17)]),
        json.dumps([_entry(shape=[MAX_PARAMS, 2])]),
        json.dumps([_entry(shape=[10**400])]),
        json.dumps([_entry(), _entry()]),
        json.dumps([_entry(name="b"), _entry(name="a")]),
        json.dumps([1] * (MAX_TENSORS + 1)),
    ],
    ids=lambda text: repr(text[:40]),
)
def test_from_json__not_a_layout__refused(text):
    with pytest.raises(EncodingError):
        Layout.from_json(text)
