"""Compressed payloads: smaller, the same values, and no more memory or values than the task has."""

from __future__ import annotations

import io
import json
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from chainfl.encoding.compression import compress_values, inflate_values, max_compressed_bytes
from chainfl.encoding.packing import GROUP_VALUES
from chainfl.encoding.payload import UpdateMetadata, max_update_bytes, open_update, read_update, write_update
from chainfl.errors import (
    EncodingError,
    PayloadBindingMismatch,
    PayloadDtypeMismatch,
    PayloadError,
    PayloadFormMismatch,
    PayloadShapeMismatch,
    PayloadTooLarge,
    PayloadTruncated,
    ValueOutOfRange,
)
from chainfl.types import PLAIN, Address, Compression, Root, TaskId

BINDING = UpdateMetadata(TaskId(7), 3, Address("0x" + "ab" * 20), Root(bytes(32)), 31337, Address("0x" + "cd" * 20))
DEFLATE = Compression("deflate")
SMALL = np.array([0, -1, 1, 32_767, -32_767, 300], np.int16)


def like_an_update(count: int) -> np.ndarray:
    """Integers as updates have them: most of them below a hundred or two."""
    return np.clip(np.random.default_rng(0).normal(0, 80, count).round(), -32_767, 32_767).astype(np.int16)


def compressed(values) -> bytes:
    return b"".join(compress_values(values, DEFLATE))


def payload(values=SMALL, compression=DEFLATE) -> bytes:
    target = io.BytesIO()
    assert write_update(target, values, BINDING, compression) == len(target.getvalue())
    return target.getvalue()


def read(data, *, count=SMALL.size, expected=BINDING, **options):
    return read_update(data, num_params=count, expected=expected, compression=DEFLATE, **options)


def with_header(body: bytes, **changes: object) -> bytes:
    """A compressed payload with another body and header entry."""
    entry = {"dtype": "U8", "shape": [len(body)], "data_offsets": [0, len(body)]} | changes
    labels = json.loads(payload()[8 : 8 + int.from_bytes(payload()[:8], "little")])["__metadata__"]
    header = json.dumps({"__metadata__": labels, "deflate": entry}).encode()
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize("count", [1, 2, GROUP_VALUES - 1, GROUP_VALUES, GROUP_VALUES + 1])
def test_inflate__what_was_compressed__the_same_values(count):
    values = like_an_update(count)
    data = compressed(values)
    found = list(inflate_values(io.BytesIO(data), len(data), count, DEFLATE))
    np.testing.assert_array_equal(np.concatenate(found), values)


@given(st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=300))
def test_inflate__any_values__the_same(listed):
    values = np.array(listed, np.int16)
    data = compressed(values)
    assert len(data) <= max_compressed_bytes(DEFLATE, values.size)
    np.testing.assert_array_equal(
        np.concatenate(list(inflate_values(io.BytesIO(data), len(data), len(listed), DEFLATE))), values
    )


def test_compress__noise__stays_within_the_stated_size():
    values = np.random.default_rng(0).integers(-32_768, 32_768, 3 * GROUP_VALUES).astype(np.int16)
    assert len(compressed(values)) <= max_compressed_bytes(DEFLATE, values.size)


def test_write_update__like_a_real_one__takes_little_more_than_half():
    values = like_an_update(100_000)
    assert len(payload(values)) < 0.6 * len(payload(values, PLAIN))
    assert payload(values) == payload(values)


def test_write_update__compressed__is_still_a_file_that_safetensors_reads():
    tensors = safetensors.numpy.load(payload())
    assert list(tensors) == ["deflate"]
    assert zlib.decompress(tensors["deflate"].tobytes())


@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
def test_read_update__compressed__the_same_values(tmp_path, as_file):
    assert len(payload()) <= max_update_bytes(SMALL.size, DEFLATE)
    if as_file:
        (tmp_path / "update").write_bytes(payload())
        with (tmp_path / "update").open("rb") as file:
            source = open_update(file, num_params=SMALL.size, expected=BINDING, compression=DEFLATE)
        np.testing.assert_array_equal(source.read(1, 5), SMALL[1:5])
        np.testing.assert_array_equal(source.read(0, 6), SMALL)
    else:
        np.testing.assert_array_equal(read(payload()), SMALL)


MALFORMED = [
    (payload(compression=PLAIN), PayloadFormMismatch),
    (payload()[:-1], PayloadTruncated),
    (payload() + b"x", PayloadTooLarge),
    (b"", PayloadTruncated),
    (with_header(compressed(SMALL[:-1])), PayloadTruncated),
    (with_header(compressed(np.append(SMALL, SMALL[:1]))), PayloadTooLarge),
    (with_header(compressed(SMALL)[:-4]), PayloadTruncated),
    (with_header(compressed(SMALL) + b"x"), PayloadTooLarge),
    (with_header(b"not zlib"), PayloadError),
    (with_header(b""), PayloadTruncated),
    (with_header(compressed(SMALL), shape=[1 << 40]), PayloadTooLarge),
    (with_header(compressed(SMALL), shape=[]), PayloadShapeMismatch),
    (with_header(compressed(SMALL), shape=[True]), PayloadShapeMismatch),
    (with_header(compressed(SMALL), shape="x"), PayloadShapeMismatch),
    (with_header(compressed(SMALL), dtype="I16"), PayloadDtypeMismatch),
    (with_header(compressed(SMALL), data_offsets=[1, 2]), PayloadError),
]


@pytest.mark.parametrize(("data", "error"), MALFORMED, ids=range(len(MALFORMED)))
def test_read_update__malformed__its_own_error(tmp_path, data, error):
    with pytest.raises(PayloadError) as raised:
        read(data)
    assert type(raised.value) is error
    (tmp_path / "update").write_bytes(data)
    with (tmp_path / "update").open("rb") as file, pytest.raises(error):
        open_update(file, num_params=SMALL.size, expected=BINDING, compression=DEFLATE)


def test_read_update__compressed_where_the_task_is_plain__its_own_error():
    with pytest.raises(PayloadFormMismatch):
        read_update(payload(), num_params=SMALL.size, expected=BINDING)


def test_read_update__bound_to_something_else__refused_before_anything_is_inflated():
    with pytest.raises(PayloadBindingMismatch):
        read(with_header(b"not zlib"), expected=replace(BINDING, round=4))


def test_read_update__value_out_of_range__refused_unless_it_is_to_be_proven():
    data = with_header(compressed(np.array([-32_768], np.int16)))
    with pytest.raises(ValueOutOfRange):
        read(data, count=1)
    assert read(data, count=1, in_range=False).tolist() == [-32_768]
    with pytest.raises(ValueOutOfRange):
        write_update(io.BytesIO(), np.array([-32_768], np.int16), BINDING, DEFLATE)
    with pytest.raises(EncodingError):
        write_update(io.BytesIO(), np.zeros((2, 2), np.int16), BINDING, DEFLATE)


@pytest.mark.parametrize("inflated", [64 << 20, 1 << 12], ids=["bomb", "endless blocks"])
def test_read_update__bomb__stops_in_the_memory_of_a_block(inflated):
    # The second sort gives nothing for many bytes: a thousand empty stored blocks after the few values.
    deflater = zlib.compressobj(9)
    body = deflater.compress(bytes(inflated)) + deflater.flush()
    if inflated == 1 << 12:
        deflater = zlib.compressobj(9)
        body = b"".join(deflater.compress(b"") + deflater.flush(zlib.Z_FULL_FLUSH) for _ in range(1_000))
    data = with_header(body)
    count = max(SMALL.size, len(body))  # as large as the file must be to be let through at all
    tracemalloc.start()
    with pytest.raises((PayloadTooLarge, PayloadTruncated)):
        read(data, count=count)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@given(position=st.integers(0, len(payload()) - 1), mask=st.integers(1, 255))
def test_read_update__any_byte_changed__a_payload_error_or_other_values(position, mask):
    data = bytearray(payload())
    data[position] ^= mask
    try:
        values = read(bytes(data))
    except PayloadError:
        return
    assert values.shape == SMALL.shape
