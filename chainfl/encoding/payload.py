"""Payload files: an integer vector as safetensors, with the metadata that binds it to its place.

What we write is the same bytes on every machine, so that everybody gets the same CID. The safetensors library
orders metadata by a seeded hash map, so the header (8 bytes of length, JSON, spaces) is written here; the library
reads it. What others wrote is decoded as hostile: nothing is allocated for a size that only the payload claims.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np

from chainfl.encoding.arrays import AnyArray, Int16Array, Int32Array, blocks, require_vector
from chainfl.encoding.fixed_point import check_update_range, dequantize_model
from chainfl.encoding.hostile_json import decode_json
from chainfl.encoding.layout import Layout
from chainfl.errors import (
    EncodingError,
    PayloadBindingMismatch,
    PayloadDtypeMismatch,
    PayloadError,
    PayloadShapeMismatch,
    PayloadTooLarge,
    PayloadTruncated,
)
from chainfl.types import Address, Root, TaskId

MAX_HEADER_BYTES = 4096
"""Of an integer payload: one tensor and a handful of metadata. An ordinary model's header may be longer."""

FLOAT_ARCHITECTURE = "chainfl.model"
UPDATE_FORMAT = "chainfl-update/1"
MODEL_FORMAT = "chainfl-model/1"
_WRITE_BLOCK = 1 << 19


@dataclass(frozen=True, slots=True)
class UpdateMetadata:
    """What an update is bound to. worker, coordinator: 0x-addresses. base_model_root: of the global model."""

    task_id: TaskId
    round: int
    worker: Address
    base_model_root: Root
    chain_id: int
    coordinator: Address


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a reader needs to use an integer model. A model's identity is its root, so it names no task."""

    layout_hash: bytes
    scale_bits: int


def write_update(target: BinaryIO, values: Int16Array, metadata: UpdateMetadata) -> int:
    """Writes an update's payload. values: (P,) int16. returns: the number of bytes.

    Raises ValueOutOfRange for -32768.
    """
    check_update_range(values)
    return _write_vector(target, "update", values, _labels(UPDATE_FORMAT, metadata))


def read_update(source: bytes | BinaryIO, *, num_params: int, expected: UpdateMetadata) -> Int16Array:
    """The values of a stranger's update. returns: (P,) int16.

    Checked in this order: length, header, dtype, shape, file length, binding, range; each with an error of its
    own below PayloadError. The root remains to be checked: `chunk_tree.check_update_root`.
    """
    values = _read_vector(source, "update", np.int16, num_params, _labels(UPDATE_FORMAT, expected))
    check_update_range(values)
    return values


def write_model(target: BinaryIO, values: Int32Array, metadata: ModelMetadata) -> int:
    """Writes the exact global model. values: (P,) int32. returns: the number of bytes."""
    return _write_vector(target, "model", values, _labels(MODEL_FORMAT, metadata))


def read_model(source: bytes | BinaryIO, *, num_params: int, expected: ModelMetadata) -> Int32Array:
    """The values of a global model that a stranger served. returns: (P,) int32.

    Checked like an update. The root remains to be checked: `chunk_tree.check_model_root`.
    """
    return _read_vector(source, "model", np.int32, num_params, _labels(MODEL_FORMAT, expected))


def write_float_model(
    target: BinaryIO, layout: Layout, values: Int32Array, scale_bits: int, architecture: str | None = None
) -> int:
    """Writes the model as ordinary float32 safetensors, a tensor for each of the layout.

    values: (P,) int32. architecture: the specification's model entry as canonical JSON; it goes into the file's
    metadata, so that `chainfl.load_model` can build what the tensors fit. returns: the number of bytes. Buffers of
    integers and tied copies are not in it, so torch loads it with `load_state_dict(..., strict=False)`.
    """
    require_vector(values, np.int32, "model")
    if values.size != layout.num_params:
        raise EncodingError(f"the model has {values.size} values, the layout {layout.num_params}")
    tensors, start = {}, 0
    for spec in layout.tensors:
        tensors[spec.name] = _entry("F32", spec.shape, start * 4, spec.size * 4)
        start += spec.size
    labels = {"format": "pt"} if architecture is None else {"format": "pt", FLOAT_ARCHITECTURE: architecture}
    written = _write_header(target, tensors, labels)
    floats = (dequantize_model(values[block], scale_bits) for block in blocks(values.size, _WRITE_BLOCK))
    return written + _write_values(target, floats)


def max_update_bytes(num_params: int) -> int:
    """No valid update of the task is larger; a fetch that exceeds it can stop."""
    return 8 + MAX_HEADER_BYTES + 2 * num_params


def max_model_bytes(num_params: int) -> int:
    """No valid integer model of the task is larger."""
    return 8 + MAX_HEADER_BYTES + 4 * num_params


def _labels(payload_format: str, metadata: UpdateMetadata | ModelMetadata) -> dict[str, str]:
    """As safetensors wants it, text to text: integers in decimal, bytes in hex, addresses in lower case."""
    texts = {key: value.hex() if isinstance(value, bytes) else str(value) for key, value in asdict(metadata).items()}
    return {"format": payload_format} | {key: text.lower() for key, text in texts.items()}


_DTYPE_NAMES: Mapping[type[np.generic], str] = {np.int16: "I16", np.int32: "I32"}


def _entry(dtype: str, shape: Iterable[int], start: int, length: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + length]}


def _write_vector(target: BinaryIO, name: str, values: AnyArray, labels: Mapping[str, str]) -> int:
    dtype: type[np.generic] = np.int16 if name == "update" else np.int32
    require_vector(values, dtype, name)
    tensors = {name: _entry(_DTYPE_NAMES[dtype], values.shape, 0, values.nbytes)}
    written = _write_header(target, tensors, labels)
    return written + _write_values(target, (values[block] for block in blocks(values.size, _WRITE_BLOCK)))


def _write_header(target: BinaryIO, tensors: Mapping[str, Any], labels: Mapping[str, str]) -> int:
    header = json.dumps({"__metadata__": labels, **tensors}, sort_keys=True, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)  # the data start at a multiple of 8
    target.write(len(header).to_bytes(8, "little") + header)
    return 8 + len(header)


def _write_values(target: BinaryIO, parts: Iterable[AnyArray]) -> int:
    written = 0
    for part in parts:
        little = np.ascontiguousarray(part, part.dtype.newbyteorder("<"))
        target.write(little.data.cast("B"))
        written += little.nbytes
    return written


def _read_vector(
    source: bytes | BinaryIO, name: str, dtype: type[np.generic], num_params: int, labels: Mapping[str, str]
) -> AnyArray:
    stream = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
    header = _read_header(stream)
    _check_tensor(header, name, dtype, num_params)
    # Sized by the task, never by what the payload claims.
    values = np.empty(num_params, np.dtype(dtype).newbyteorder("<"))
    if _read_into(stream, values.data.cast("B")) < values.nbytes:
        raise PayloadTruncated(f"the payload ends before its {values.nbytes} bytes of values", expected=values.nbytes)
    if stream.read(1):
        raise PayloadTooLarge("the payload goes on after its values", expected=values.nbytes)
    _check_labels(header.get("__metadata__"), labels)
    return values.astype(dtype, copy=False)


def _read_header(stream: BinaryIO) -> dict[str, Any]:
    prefix = bytearray(8)
    if _read_into(stream, memoryview(prefix)) < 8:
        raise PayloadTruncated("the payload is too short for a header", expected=8)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise PayloadTooLarge(f"the payload claims a header of {length} bytes", claimed=length, limit=MAX_HEADER_BYTES)
    text = bytearray(length)
    if _read_into(stream, memoryview(text)) < length:
        raise PayloadTruncated(f"the payload ends within its header of {length} bytes", expected=length)
    try:
        header = decode_json(text, max_bytes=MAX_HEADER_BYTES)
    except ValueError as error:
        raise PayloadError(f"the payload's header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise PayloadError("the payload's header is not an object")
    return header


def _check_tensor(header: Mapping[str, Any], name: str, dtype: type[np.generic], num_params: int) -> None:
    entry = header.get(name)
    if set(header) != {"__metadata__", name} or not isinstance(entry, dict):
        raise PayloadError(f"the payload does not hold the one tensor {name!r}", tensors=sorted(header)[:5])
    if entry.get("dtype") != _DTYPE_NAMES[dtype]:
        raise PayloadDtypeMismatch(
            f"the payload's values are {str(entry.get('dtype'))[:16]}, not {_DTYPE_NAMES[dtype]}"
        )
    shape = entry.get("shape")
    if not _is_exactly(shape, [num_params]):
        raise PayloadShapeMismatch(f"the payload's shape is {str(shape)[:64]}, not [{num_params}]", expected=num_params)
    if not _is_exactly(entry.get("data_offsets"), [0, num_params * np.dtype(dtype).itemsize]):
        raise PayloadError("the payload's values are not where its shape says")


def _is_exactly(value: object, expected: list[int]) -> bool:
    # JSON's true equals 1 and 1.0 equals 1 in Python; neither is a size.
    return isinstance(value, list) and value == expected and all(type(item) is int for item in value)


def _check_labels(seen: object, expected: Mapping[str, str]) -> None:
    if not isinstance(seen, dict):
        raise PayloadBindingMismatch("the payload has no metadata")
    for key, value in expected.items():
        if seen.get(key) != value:
            message = f"the payload names {key} {str(seen.get(key))[:80]}, not {value}"
            raise PayloadBindingMismatch(message, field=key, expected=value)


def _read_into(stream: BinaryIO, buffer: memoryview) -> int:
    """Fills the buffer as far as the stream goes; raw streams may give less than asked for at a time."""
    filled = 0
    while filled < len(buffer):
        part = stream.read(min(len(buffer) - filled, 1 << 20))
        if not part:
            break
        buffer[filled : filled + len(part)] = part
        filled += len(part)
    return filled
