"""Payload files: the same bytes for everybody, readable by the safetensors library, hostile when read."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import chainfl.errors
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.encoding.layout import Layout, TensorSpec
from chainfl.encoding.payload import (
    ModelMetadata,
    UpdateMetadata,
    max_model_bytes,
    max_update_bytes,
    open_checkpoint,
    open_update,
    read_checkpoint,
    read_model,
    read_update,
    write_float_model,
    write_model,
    write_update,
)
from chainfl.encoding.sources import FileSource
from chainfl.errors import (
    EncodingError,
    PayloadBindingMismatch,
    PayloadDtypeMismatch,
    PayloadError,
    PayloadShapeMismatch,
    PayloadTooLarge,
    PayloadTruncated,
    ValueOutOfRange,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "payload.json").read_text())


def unhex(text):
    return bytes.fromhex(text[2:])


BINDING = UpdateMetadata(
    **VECTORS["update"]["metadata"] | {"base_model_root": unhex(VECTORS["update"]["metadata"]["base_model_root"])}
)
UPDATE = np.array(VECTORS["update"]["values"], np.int16)
UPDATE_FILE = unhex(VECTORS["update"]["file"])
MODEL = np.array(VECTORS["model"]["values"], np.int32)
MODEL_METADATA = ModelMetadata(unhex(VECTORS["model"]["metadata"]["layout_hash"]), 20)
MODEL_FILE = unhex(VECTORS["model"]["file"])
LAYOUT = Layout((TensorSpec("bias", (2,), "float32"), TensorSpec("weight", (3, 1), "float32")))


def written(write, *arguments):
    target = io.BytesIO()
    assert write(target, *arguments) == len(target.getvalue())
    return target.getvalue()


class Trickle(io.RawIOBase):
    """A raw stream that gives at most three bytes at a time and cannot seek."""

    def __init__(self, data):
        self._rest = data

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self._rest[: min(3, len(buffer))]
        self._rest = self._rest[len(part) :]
        buffer[: len(part)] = part
        return len(part)


def test_write_update__shared_vector__same_bytes():
    assert written(write_update, UPDATE, BINDING) == UPDATE_FILE


def test_write_model__shared_vector__same_bytes():
    assert written(write_model, MODEL, MODEL_METADATA) == MODEL_FILE


def test_write_float_model__shared_vector__same_bytes():
    assert written(write_float_model, LAYOUT, MODEL, 20) == unhex(VECTORS["float_model"]["file"])


def test_write_float_model__safetensors_library__reads_the_tensors():
    tensors = safetensors.numpy.load(written(write_float_model, LAYOUT, MODEL, 20))
    assert {name: values.shape for name, values in tensors.items()} == {"bias": (2,), "weight": (3, 1)}
    np.testing.assert_array_equal(LAYOUT.flatten(tensors), dequantize_model(MODEL, 20))


def test_write_float_model__longer_than_a_block__every_value_there():
    layout = Layout((TensorSpec("w", (1 << 19, 3), "float32"),))
    model = np.arange(layout.num_params, dtype=np.int32)
    tensors = safetensors.numpy.load(written(write_float_model, layout, model, 20))
    np.testing.assert_array_equal(layout.flatten(tensors), dequantize_model(model, 20))


def test_write_float_model__another_layout__refused():
    with pytest.raises(EncodingError):
        write_float_model(io.BytesIO(), LAYOUT, MODEL[:-1].copy(), 20)


def test_write_update__safetensors_library__reads_the_integers_and_the_binding(tmp_path):
    path = tmp_path / "update.safetensors"
    path.write_bytes(UPDATE_FILE)
    with safetensors.safe_open(path, "numpy") as opened:
        np.testing.assert_array_equal(opened.get_tensor("update"), UPDATE)
        assert opened.metadata()["round"] == "3"


def test_write_update__value_out_of_range__nothing_written():
    target = io.BytesIO()
    with pytest.raises(ValueOutOfRange):
        write_update(target, np.array([-32768], np.int16), BINDING)
    assert target.getvalue() == b""


@pytest.mark.parametrize("values", [np.zeros(3, np.int32), np.zeros(0, np.int16), np.zeros((2, 2), np.int16)])
def test_write_update__not_an_int16_vector__refused(values):
    with pytest.raises(EncodingError):
        write_update(io.BytesIO(), values, BINDING)


@pytest.mark.parametrize("wrap", [bytes, io.BytesIO, Trickle], ids=["bytes", "file", "trickling stream"])
def test_read__any_source__same_values(wrap):
    np.testing.assert_array_equal(read_update(wrap(UPDATE_FILE), num_params=5, expected=BINDING), UPDATE)
    np.testing.assert_array_equal(read_model(wrap(MODEL_FILE), num_params=5, expected=MODEL_METADATA), MODEL)


def test_read_update__address_in_another_case__the_same_worker():
    expected = dataclasses.replace(BINDING, worker=BINDING.worker.upper().replace("0X", "0x"))
    np.testing.assert_array_equal(read_update(UPDATE_FILE, num_params=5, expected=expected), UPDATE)


def test_read_update__long_update__round_trip_within_the_stated_size():
    values = np.random.default_rng(1).integers(-32767, 32768, 700_001).astype(np.int16)
    data = written(write_update, values, BINDING)
    assert len(data) <= max_update_bytes(values.size)
    np.testing.assert_array_equal(read_update(data, num_params=values.size, expected=BINDING), values)
    assert len(MODEL_FILE) <= max_model_bytes(MODEL.size)


@pytest.mark.parametrize("case", VECTORS["malformed_updates"], ids=lambda case: case["name"])
@pytest.mark.parametrize("wrap", [bytes, Trickle], ids=["bytes", "stream"])
def test_read_update__malformed__its_own_error(case, wrap):
    with pytest.raises(PayloadError) as caught:
        read_update(wrap(unhex(case["file"])), num_params=5, expected=BINDING)
    assert type(caught.value) is getattr(chainfl.errors, case["error"])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(UpdateMetadata)])
def test_read_update__bound_to_something_else__names_the_field(field):
    other = {"base_model_root": bytes(32)}.get(field, 12345)
    with pytest.raises(PayloadBindingMismatch, match=field):
        read_update(UPDATE_FILE, num_params=5, expected=dataclasses.replace(BINDING, **{field: other}))


def test_read_model__another_layout_or_scale__refused():
    for other in (
        dataclasses.replace(MODEL_METADATA, scale_bits=14),
        dataclasses.replace(MODEL_METADATA, layout_hash=b""),
    ):
        with pytest.raises(PayloadBindingMismatch):
            read_model(MODEL_FILE, num_params=5, expected=other)


def test_read_model__an_update_instead__refused():
    with pytest.raises(PayloadError):
        read_model(UPDATE_FILE, num_params=5, expected=MODEL_METADATA)


def test_read_update__wrong_in_every_way__dtype_is_reported_before_shape_before_binding():
    text = json.dumps({"__metadata__": {}, "update": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    bad = len(text).to_bytes(8, "little") + text
    with pytest.raises(PayloadDtypeMismatch):
        read_update(bad, num_params=5, expected=BINDING)
    text = text.replace(b"F32", b"I16")
    with pytest.raises(PayloadShapeMismatch):
        read_update(len(text).to_bytes(8, "little") + text, num_params=5, expected=BINDING)


@given(st.binary(max_size=400))
def test_read_update__any_bytes__a_payload_error_and_nothing_else(data):
    with pytest.raises(PayloadError):
        read_update(data, num_params=5, expected=BINDING)


@given(st.integers(0, len(UPDATE_FILE) - 1), st.integers(1, 255))
def test_read_update__any_byte_changed__a_payload_error_or_other_values(position, mask):
    data = bytearray(UPDATE_FILE)
    data[position] ^= mask
    try:
        values = read_update(bytes(data), num_params=5, expected=BINDING)
    except PayloadError:
        return
    # Only the values themselves carry no redundancy; that is what the root is for.
    assert position >= len(UPDATE_FILE) - UPDATE.nbytes or values.tolist() == UPDATE.tolist()


# --- the server's state --------------------------------------------------------------------------

STATE = np.arange(5, dtype=np.int32) - 2


def checkpoint_file() -> bytes:
    target = io.BytesIO()
    write_model(target, MODEL, MODEL_METADATA, STATE)
    return target.getvalue()


@pytest.mark.parametrize("wrap", [bytes, io.BytesIO, Trickle], ids=["bytes", "file", "trickling stream"])
def test_read_checkpoint__model_and_state__both_come_back(wrap):
    read = read_checkpoint(wrap(checkpoint_file()), num_params=5, state_params=5, expected=MODEL_METADATA)
    np.testing.assert_array_equal(read.model, MODEL)
    np.testing.assert_array_equal(read.state, STATE)
    assert len(checkpoint_file()) <= max_model_bytes(5, 5)


def test_write_model__with_a_state__safetensors_library_reads_both():
    tensors = safetensors.numpy.load(checkpoint_file())
    np.testing.assert_array_equal(tensors["model"], MODEL)
    np.testing.assert_array_equal(tensors["state"], STATE)


def test_write_model__state_of_another_length__refused():
    with pytest.raises(EncodingError, match="goes with no model"):
        write_model(io.BytesIO(), MODEL, MODEL_METADATA, STATE[:-1].copy())


def test_read_checkpoint__two_moments_a_value__both_come_back(tmp_path):
    moments, path = np.arange(10, dtype=np.int32), tmp_path / "model"
    with path.open("wb") as file:
        write_model(file, MODEL, MODEL_METADATA, moments)
    assert path.stat().st_size <= max_model_bytes(5, 10)
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["state"], moments)
    sizes = {"num_params": 5, "state_params": 10, "expected": MODEL_METADATA}
    read = read_checkpoint(path.read_bytes(), **sizes)
    np.testing.assert_array_equal(read.model, MODEL)
    np.testing.assert_array_equal(read.state, moments)
    model, state = open_checkpoint(path.open("rb"), **sizes)
    np.testing.assert_array_equal(model.read(0, 5), MODEL)
    np.testing.assert_array_equal(state.read(3, 10), moments[3:])
    with pytest.raises(PayloadError, match="shape"):
        read_checkpoint(path.read_bytes(), **{**sizes, "state_params": 5})


def test_read_checkpoint__state_missing_or_unexpected__refused():
    for data, has_state in ((MODEL_FILE, True), (checkpoint_file(), False)):
        with pytest.raises(PayloadError, match="hold just"):
            read_checkpoint(data, num_params=5, state_params=5 * has_state, expected=MODEL_METADATA)


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:-21]])
def test_read_checkpoint__cut_or_too_long__refused(change, tmp_path):
    data, path = change(checkpoint_file()), tmp_path / "model"
    path.write_bytes(data)
    with pytest.raises((PayloadTruncated, PayloadTooLarge)):
        read_checkpoint(data, num_params=5, state_params=5, expected=MODEL_METADATA)
    with path.open("rb") as file, pytest.raises((PayloadTruncated, PayloadTooLarge)):
        open_checkpoint(file, num_params=5, state_params=5, expected=MODEL_METADATA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"state":{"data_offsets":[20,40]', b'"state":{"data_offsets":[00,20]'),
        (b'"state":{"data_offsets":[20,40],"dtype":"I32"', b'"state":{"data_offsets":[20,40],"dtype":"F32"'),
        (b'"state"', b'"stat3"'),
    ],
)
def test_read_checkpoint__state_that_overlaps_or_is_no_state__refused(old, new):
    assert old in checkpoint_file()
    with pytest.raises(PayloadError):
        data = checkpoint_file().replace(old, new)
        read_checkpoint(data, num_params=5, state_params=5, expected=MODEL_METADATA)


def test_open_checkpoint__file__the_same_values_in_pieces(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(checkpoint_file())
    model, state = open_checkpoint(path.open("rb"), num_params=5, state_params=5, expected=MODEL_METADATA)
    path.unlink()
    np.testing.assert_array_equal(model.read(1, 4), MODEL[1:4])
    np.testing.assert_array_equal(state.read(0, 5), STATE)


def test_open_update__shared_vectors__same_values_and_same_refusals(tmp_path):
    path = tmp_path / "update"
    path.write_bytes(UPDATE_FILE)
    source = open_update(path.open("rb"), num_params=5, expected=BINDING)
    np.testing.assert_array_equal(source.read(0, 5), UPDATE)
    for case in VECTORS["malformed_updates"]:
        path.write_bytes(unhex(case["file"]))
        with path.open("rb") as file, pytest.raises(PayloadError) as raised:
            open_update(file, num_params=5, expected=BINDING)
        assert type(raised.value).__name__ == case["error"], case["name"]


def test_read_update__out_of_range_let_through__for_who_proves_it():
    case = next(c for c in VECTORS["malformed_updates"] if c["error"] == "ValueOutOfRange")
    read = read_update(unhex(case["file"]), num_params=5, expected=BINDING, in_range=False)
    assert int(read.min()) == -32768


def test_file_source__file_ends_early__truncated(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(bytes(6))
    source = FileSource(path.open("rb"), 0, 4, np.dtype(np.int16))
    assert source.read(0, 3).tolist() == [0, 0, 0]
    with pytest.raises(PayloadTruncated):
        source.read(1, 4)
