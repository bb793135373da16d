"""Roots and openings against the shared vectors, and what must not pass for an opening."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.encoding.chunk_tree import (
    Opening,
    TreeShape,
    UpdateCommitment,
    VectorKind,
    check_model_root,
    check_padding,
    check_update_root,
    model_root,
    open_chunk,
    update_root,
    vector_root,
    verify_opening,
)
from chainfl.errors import EncodingError, PayloadError, RootMismatch, ValueOutOfRange

TREES = json.loads((Path(__file__).parents[1] / "vectors" / "chunk_tree.json").read_text())["trees"]
UPDATE = np.arange(-40, 41, dtype=np.int16)  # 81 values: six chunks of 16, in a tree of eight leaves
SHAPE = {"num_params": 81, "chunk_params": 16, "kind": VectorKind.UPDATE}


def unhex(text):
    return bytes.fromhex(text[2:])


def read_opening(case):
    path = tuple(map(unhex, case["path"]))
    return Opening(case["index"], unhex(case["chunk"]), path, tuple(map(int, case["sums"])))


@pytest.fixture(params=TREES, ids=lambda case: f"{case['name']}, kind {case['kind']}")
def tree(request):
    case = request.param
    kind = VectorKind(case["kind"])
    shape = TreeShape(case["num_params"], case["chunk_params"], kind)
    return case, np.array([int(value) for value in case["values"]], shape.dtype), shape


def test_root__shared_vectors__same_bytes(tree):
    case, values, shape = tree
    assert vector_root(values, shape.chunk_params, shape.kind) == unhex(case["root"])
    if shape.kind is VectorKind.MODEL:
        assert model_root(values, shape.chunk_params) == unhex(case["root"])
    if shape.kind is VectorKind.UPDATE:
        assert update_root(values, shape.chunk_params) == UpdateCommitment(unhex(case["root"]), int(case["sum"]))


def test_openings__shared_vectors__same_bytes_and_they_verify(tree):
    case, values, shape = tree
    for expected in map(read_opening, case["openings"]):
        assert open_chunk(values, expected.index, shape.chunk_params, shape.kind) == expected
        form = dataclasses.asdict(shape)
        chunk = verify_opening(expected, root=unhex(case["root"]), sum_of_squares=int(case["sum"]), **form)
        used = values[expected.index * shape.chunk_params :][: shape.chunk_params]
        np.testing.assert_array_equal(chunk, np.pad(used, (0, shape.chunk_params - used.size)))
        check_padding(expected, **form)


@given(st.binary(min_size=2, max_size=600), st.sampled_from([16, 32, 48]))
def test_open_chunk__any_update__every_chunk_verifies(data, chunk_params):
    values = np.frombuffer(data[: len(data) // 2 * 2], np.int16)
    commitment = update_root(values, chunk_params)
    assert commitment.sum_of_squares == sum(int(value) ** 2 for value in values)
    form = {"num_params": values.size, "chunk_params": chunk_params, "kind": VectorKind.UPDATE}
    for index in range(-(-values.size // chunk_params)):
        opening = open_chunk(values, index, chunk_params, VectorKind.UPDATE)
        verify_opening(opening, root=commitment.root, sum_of_squares=commitment.sum_of_squares, **form)
        check_padding(opening, **form)


def test_root__longer_than_a_block__same_as_its_openings():
    values = (np.arange(300_001) % 60_000 - 30_000).astype(np.int16)
    commitment = update_root(values, 16)
    opening = open_chunk(values, 18_750, 16, VectorKind.UPDATE)
    chunk = verify_opening(
        opening,
        root=commitment.root,
        sum_of_squares=int(np.dot(values.astype(np.int64), values.astype(np.int64))),
        num_params=300_001,
        chunk_params=16,
        kind=VectorKind.UPDATE,
    )
    assert chunk[0] == values[300_000]


def test_root__other_kind_chunk_or_length__another_root():
    values = np.zeros(32, np.int32)
    roots = [
        vector_root(values, 16, VectorKind.MODEL),
        vector_root(values, 16, VectorKind.STATE),
        vector_root(values, 32, VectorKind.MODEL),
        vector_root(values[:31], 16, VectorKind.MODEL),
    ]
    assert len(set(roots)) == 4


@pytest.mark.parametrize(
    ("values", "chunk_params"),
    [
        (np.zeros(0, np.int16), 16),
        (np.zeros((4, 4), np.int16), 16),
        (np.zeros(16, np.int32), 16),
        (np.zeros(16, np.int16), 0),
        (np.zeros(16, np.int16), 8),
        (np.zeros(16, np.int16), -16),
        (np.zeros(16, np.int16), 1 << 17),
    ],
)
def test_update_root__impossible_vector_or_chunk__refused(values, chunk_params):
    with pytest.raises(EncodingError):
        update_root(values, chunk_params)


@pytest.mark.parametrize("index", [-1, 6])
def test_open_chunk__no_such_chunk__refused(index):
    with pytest.raises(EncodingError, match="no chunk"):
        open_chunk(UPDATE, index, 16, VectorKind.UPDATE)


def flipped(data):
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda o: dataclasses.replace(o, chunk=flipped(o.chunk)),
        lambda o: dataclasses.replace(o, path=(flipped(o.path[0]), *o.path[1:])),
        lambda o: dataclasses.replace(o, path=(*o.path[:2], flipped(o.path[2]))),
        lambda o: dataclasses.replace(o, sums=(o.sums[0] + 1, *o.sums[1:])),
        lambda o: dataclasses.replace(o, sums=(o.sums[0] + 1, o.sums[1] - 1, o.sums[2])),
        lambda o: dataclasses.replace(o, index=o.index - 1),
    ],
    ids=["chunk", "leaf's sibling", "top sibling", "sum", "sums that cancel", "index"],
)
def test_verify_opening__changed__does_not_lead_to_the_root(tamper):
    commitment = update_root(UPDATE, 16)
    opening = tamper(open_chunk(UPDATE, 3, 16, VectorKind.UPDATE))
    with pytest.raises(RootMismatch):
        verify_opening(opening, root=commitment.root, sum_of_squares=commitment.sum_of_squares, **SHAPE)


def test_verify_opening__another_sum_revealed__refused():
    commitment = update_root(UPDATE, 16)
    opening = open_chunk(UPDATE, 3, 16, VectorKind.UPDATE)
    with pytest.raises(RootMismatch):
        verify_opening(opening, root=commitment.root, sum_of_squares=commitment.sum_of_squares + 1, **SHAPE)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 6},
        {"index": -1},
        {"chunk": bytes(31)},
        {"chunk": bytes(33)},
        {"path": (bytes(32),) * 2},
        {"path": (bytes(32),) * 4},
        {"path": (bytes(31), bytes(32), bytes(32))},
        {"sums": (0, 0)},
        {"sums": ()},
        {"sums": (0, 0, 1 << 64)},
        {"sums": (0, 0, -1)},
    ],
)
def test_verify_opening__wrong_form__refused_before_hashing(change):
    opening = dataclasses.replace(open_chunk(UPDATE, 0, 16, VectorKind.UPDATE), **change)
    with pytest.raises(PayloadError, match="opening"):
        verify_opening(opening, root=bytes(32), sum_of_squares=0, **SHAPE)


def test_verify_opening__sums_beyond_64_bits__refused():
    shape = {"num_params": 32, "chunk_params": 16, "kind": VectorKind.UPDATE}
    opening = Opening(0, b"\x00\x01" * 16, (bytes(32),), ((1 << 64) - 1,))
    with pytest.raises(RootMismatch):
        verify_opening(opening, root=bytes(32), sum_of_squares=(1 << 64) + 15, **shape)


def test_check_padding__value_after_the_last__refused():
    opening = open_chunk(UPDATE, 5, 16, VectorKind.UPDATE)
    check_padding(opening, **SHAPE)
    with pytest.raises(ValueOutOfRange, match="padding"):
        check_padding(dataclasses.replace(opening, chunk=opening.chunk[:-1] + b"\x01"), **SHAPE)


def test_check_padding__padding_node__must_be_the_constant_without_a_sum():
    opening = open_chunk(UPDATE, 5, 16, VectorKind.UPDATE)  # chunks 6 and 7 are padding, one level up
    path, sums = list(opening.path), list(opening.sums)
    path[1] = bytes(32)
    with pytest.raises(ValueOutOfRange, match="height 1"):
        check_padding(dataclasses.replace(opening, path=tuple(path)), **SHAPE)
    sums[1] = 1
    with pytest.raises(ValueOutOfRange, match="height 1"):
        check_padding(dataclasses.replace(opening, sums=tuple(sums)), **SHAPE)


def test_check_root__what_is_on_chain__accepted_and_anything_else_refused():
    model = np.arange(40, dtype=np.int32)
    check_model_root(model, 16, model_root(model, 16))
    with pytest.raises(RootMismatch):
        check_model_root(model[::-1].copy(), 16, model_root(model, 16))
    commitment = update_root(UPDATE, 16)
    check_update_root(UPDATE, 16, commitment)
    with pytest.raises(RootMismatch, match="hash to"):
        check_update_root(-UPDATE, 16, commitment)
    with pytest.raises(RootMismatch, match="sum of squares"):
        check_update_root(UPDATE, 16, dataclasses.replace(commitment, sum_of_squares=1))
