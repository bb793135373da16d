"""Payload files: an integer vector as safetensors, with the metadata that binds it to its place.

What we write is the same bytes on every machine, so that everybody gets the same CID. The safetensors library
orders metadata by a seeded hash map, so the header (8 bytes of length, JSON, spaces) is written here; the library
reads it. What others wrote is decoded as hostile: nothing is allocated for a size that only the payload claims.

Where a task says so, an update's values are compressed (see `compression`): the file then has one tensor of bytes,
called as the form of compression is, in place of `update`, and another format's name.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, cast, get_args

import numpy as np

from chainfl.encoding.arrays import AnyArray, Int16Array, Int32Array, blocks, require_vector
from chainfl.encoding.compression import compress_values, inflate_values, max_compressed_bytes
from chainfl.encoding.fixed_point import check_update_range, dequantize_model
from chainfl.encoding.hostile_json import decode_json
from chainfl.encoding.layout import Layout
from chainfl.encoding.sources import FileSource
from chainfl.errors import (
    EncodingError,
    PayloadBindingMismatch,
    PayloadDtypeMismatch,
    PayloadError,
    PayloadFormMismatch,
    PayloadShapeMismatch,
    PayloadTooLarge,
    PayloadTruncated,
    StoreFull,
)
from chainfl.types import PLAIN, Address, Compression, CompressionName, Root, TaskId

MAX_HEADER_BYTES = 4096
"""Of an integer payload: one tensor and a handful of metadata. An ordinary model's header may be longer."""

FLOAT_ARCHITECTURE = "chainfl.model"
UPDATE_FORMAT = "chainfl-update/1"
MODEL_FORMAT = "chainfl-model/1"
_WRITE_BLOCK = 1 << 19
_PLAIN = "update"
_UPDATE_TENSORS = frozenset({_PLAIN, *get_args(CompressionName)})


@dataclass(frozen=True, slots=True)
class UpdateMetadata:
    """What an update is bound to. worker, coordinator: 0x-addresses. base_model_root: of the global model."""

    task_id: TaskId
    round: int
    worker: Address
    base_model_root: Root
    chain_id: int
    coordinator: Address


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a round starts from. model: (P,) int32. state: (state_params,) int32, None where the server keeps none."""

    model: Int32Array
    state: Int32Array | None


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a reader needs to use an integer model. A model's identity is its root, so it names no task."""

    layout_hash: bytes
    scale_bits: int


def write_update(
    target: BinaryIO, values: Int16Array, metadata: UpdateMetadata, compression: Compression = PLAIN
) -> int:
    """Writes an update's payload. values: (P,) int16. returns: the number of bytes.

    Raises ValueOutOfRange for -32768, EncodingError for values that the form cannot hold (`lossy.lossy_values`).
    """
    check_update_range(values)
    if compression == PLAIN:
        return _write_vectors(target, {_PLAIN: values}, np.int16, _labels(UPDATE_FORMAT, metadata))
    require_vector(values, np.int16, _PLAIN)
    data = b"".join(compress_values(values, compression))
    entry = _entry("U8", [len(data)], 0, len(data))
    written = _write_header(target, {compression.name: entry}, _labels(_format_of(compression), metadata))
    target.write(data)
    return written + len(data)


def read_update(
    source: bytes | BinaryIO,
    *,
    num_params: int,
    expected: UpdateMetadata,
    in_range: bool = True,
    compression: Compression = PLAIN,
) -> Int16Array:
    """The values of a stranger's update. returns: (P,) int16.

    Checked in this order: length, header, form, dtype, shape, file length, binding, range; each with an error of its
    own below PayloadError. (Of a compressed one the binding comes before the file length, since that is work.) The
    root remains to be checked: `chunk_tree.check_update_root`.
    in_range: False lets -32768 pass, for whoever wants to prove it to the contract. compression: what the task says.
    """
    stream = _as_stream(source)
    if compression == PLAIN:
        (values,) = _read_vectors(stream, {_PLAIN: num_params}, np.int16, _labels(UPDATE_FORMAT, expected))
    else:
        values, filled = np.empty(num_params, np.int16), 0
        for block in _inflated(stream, num_params, expected, compression):
            values[filled : filled + block.size] = block
            filled += block.size
    if in_range:
        check_update_range(values)
    return values


def open_update(
    file: BinaryIO,
    *,
    num_params: int,
    expected: UpdateMetadata,
    in_range: bool = True,
    compression: Compression = PLAIN,
) -> FileSource:
    """The same, to be read in blocks. Raises as `read_update`.

    The file stays in use as long as the result is; but a compressed one is inflated into a file of no name, which
    goes with the result.
    """
    if compression == PLAIN:
        (source,) = _open_vectors(file, {_PLAIN: num_params}, np.int16, _labels(UPDATE_FORMAT, expected))
    else:
        file.seek(0)
        source = _spooled(_inflated(file, num_params, expected, compression), num_params)
    for block in blocks(num_params, _WRITE_BLOCK) if in_range else ():
        check_update_range(source.read(block.start, block.stop), block.start)
    return source


def write_model(target: BinaryIO, values: Int32Array, metadata: ModelMetadata, state: Int32Array | None = None) -> int:
    """Writes the exact global model. values: (P,) int32. state: (P,) or (2P,) int32. returns: the number of bytes.

    A server that keeps a state has it in the same file, as a second tensor.
    """
    if state is not None and state.size not in (values.size, 2 * values.size):
        raise EncodingError(f"a state of {state.size} values goes with no model of {values.size}")
    tensors = {"model": values} if state is None else {"model": values, "state": state}
    return _write_vectors(target, tensors, np.int32, _labels(MODEL_FORMAT, metadata))


def read_model(source: bytes | BinaryIO, *, num_params: int, expected: ModelMetadata) -> Int32Array:
    """The values of a global model that a stranger served, of a task whose server keeps no state. returns: (P,) int32.

    Checked like an update. The root remains to be checked: `chunk_tree.check_model_root`.
    """
    return read_checkpoint(source, num_params=num_params, expected=expected).model


def read_checkpoint(
    source: bytes | BinaryIO, *, num_params: int, state_params: int = 0, expected: ModelMetadata
) -> Checkpoint:
    """Model and state that a stranger served. state_params: values of the server's state; 0 where it keeps none.

    Checked like an update. Both roots remain to be checked.
    """
    sizes = _sizes(num_params, state_params)
    vectors = _read_vectors(source, sizes, np.int32, _labels(MODEL_FORMAT, expected))
    return Checkpoint(vectors[0], vectors[1] if state_params else None)


def open_checkpoint(
    file: BinaryIO, *, num_params: int, state_params: int = 0, expected: ModelMetadata
) -> tuple[FileSource, FileSource | None]:
    """The same, to be read in blocks. returns: model and state. The file stays in use as long as they are."""
    sources = _open_vectors(file, _sizes(num_params, state_params), np.int32, _labels(MODEL_FORMAT, expected))
    return sources[0], sources[1] if state_params else None


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


def max_update_bytes(num_params: int, compression: Compression = PLAIN) -> int:
    """No valid update of the task is larger; a fetch that exceeds it can stop."""
    values = 2 * num_params if compression == PLAIN else max_compressed_bytes(compression, num_params)
    return 8 + MAX_HEADER_BYTES + values


def max_model_bytes(num_params: int, state_params: int = 0) -> int:
    """No valid integer model of the task is larger. state_params: values of the server's state in the same file."""
    return 8 + MAX_HEADER_BYTES + 4 * (num_params + state_params)


def _format_of(compression: Compression) -> str:
    return f"chainfl-update-{compression.name}/1"


def _labels(payload_format: str, metadata: UpdateMetadata | ModelMetadata) -> dict[str, str]:
    """As safetensors wants it, text to text: integers in decimal, bytes in hex, addresses in lower case."""
    texts = {key: value.hex() if isinstance(value, bytes) else str(value) for key, value in asdict(metadata).items()}
    return {"format": payload_format} | {key: text.lower() for key, text in texts.items()}


_DTYPE_NAMES: Mapping[type[np.generic], str] = {np.int16: "I16", np.int32: "I32"}


def _entry(dtype: str, shape: Iterable[int], start: int, length: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + length]}


def _sizes(num_params: int, state_params: int) -> dict[str, int]:
    return {"model": num_params} | ({"state": state_params} if state_params else {})


def _entries(sizes: Mapping[str, int], dtype: type[np.generic]) -> dict[str, dict[str, Any]]:
    """Where each tensor is: one after the other, in the order of their names."""
    entries, start = {}, 0
    for name, size in sizes.items():
        length = size * np.dtype(dtype).itemsize
        entries[name] = _entry(_DTYPE_NAMES[dtype], [size], start, length)
        start += length
    return entries


def _write_vectors(
    target: BinaryIO, tensors: Mapping[str, AnyArray], dtype: type[np.generic], labels: Mapping[str, str]
) -> int:
    for name, values in tensors.items():
        require_vector(values, dtype, name)
    sizes = {name: values.size for name, values in tensors.items()}
    written = _write_header(target, _entries(sizes, dtype), labels)
    for values in tensors.values():
        written += _write_values(target, (values[block] for block in blocks(values.size, _WRITE_BLOCK)))
    return written


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


def _as_stream(source: bytes | BinaryIO) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source


def _read_vectors(
    source: bytes | BinaryIO, sizes: Mapping[str, int], dtype: type[np.generic], labels: Mapping[str, str]
) -> list[AnyArray]:
    stream = _as_stream(source)
    header, _ = _read_header(stream)
    _check_tensors(header, sizes, dtype)
    # Sized by the task, never by what the payload claims.
    vectors = [np.empty(size, np.dtype(dtype).newbyteorder("<")) for size in sizes.values()]
    length = sum(values.nbytes for values in vectors)
    for values in vectors:
        if _read_into(stream, values.data.cast("B")) < values.nbytes:
            raise _ends_early(length)
    if stream.read(1):
        raise _goes_on(length)
    _check_labels(header.get("__metadata__"), labels)
    return [values.astype(dtype, copy=False) for values in vectors]


def _open_vectors(
    file: BinaryIO, sizes: Mapping[str, int], dtype: type[np.generic], labels: Mapping[str, str]
) -> list[FileSource]:
    file.seek(0)
    header, start = _read_header(file)
    _check_tensors(header, sizes, dtype)
    length = sum(sizes.values()) * np.dtype(dtype).itemsize
    seen = file.seek(0, io.SEEK_END) - start
    if seen < length:
        raise _ends_early(length)
    if seen > length:
        raise _goes_on(length)
    _check_labels(header.get("__metadata__"), labels)
    starts = [start + entry["data_offsets"][0] for entry in _entries(sizes, dtype).values()]
    return [FileSource(file, at, size, np.dtype(dtype)) for at, size in zip(starts, sizes.values(), strict=True)]


def _inflated(
    stream: BinaryIO, num_params: int, expected: UpdateMetadata, compression: Compression
) -> Iterator[Int16Array]:
    """The values of a compressed update, a group at a time; all of it is right only once the last one has come."""
    header, _ = _read_header(stream)
    length = _compressed_length(header, num_params, compression)
    _check_labels(header.get("__metadata__"), _labels(_format_of(compression), expected))
    yield from inflate_values(stream, length, num_params, compression)
    if stream.read(1):
        raise PayloadTooLarge("the payload goes on after its values", expected=length)


def _compressed_length(header: Mapping[str, Any], num_params: int, compression: Compression) -> int:
    name = compression.name
    _require_form(header, (name,))
    entry = header.get(name)
    if set(header) != {"__metadata__", name} or not isinstance(entry, dict):
        raise PayloadError(f"the payload does not hold just {name}", tensors=sorted(header)[:5])
    shape = entry.get("shape")
    length = shape[0] if isinstance(shape, list) and shape and type(shape[0]) is int else 0
    limit = max_compressed_bytes(compression, num_params)
    if length > limit:
        raise PayloadTooLarge(f"the payload claims {length} compressed bytes", claimed=length, limit=limit)
    _check_tensor(entry, _entry("U8", [max(0, length)], 0, max(0, length)))
    return length


def _spooled(parts: Iterable[Int16Array], num_params: int) -> FileSource:
    """The values in a file that has no name."""
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="chainfl-"))  # noqa: SIM115  # the source keeps it
    try:
        _write_values(file, parts)
        file.flush()
    except OSError as error:
        file.close()
        raise StoreFull(f"cannot inflate an update into {tempfile.gettempdir()}: {error}") from error
    except BaseException:
        file.close()
        raise
    return FileSource(file, 0, num_params, np.dtype(np.int16))


def _ends_early(expected: int) -> PayloadTruncated:
    return PayloadTruncated(f"the payload ends before its {expected} bytes of values", expected=expected)


def _goes_on(expected: int) -> PayloadTooLarge:
    return PayloadTooLarge("the payload goes on after its values", expected=expected)


def _read_header(stream: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and where the values begin."""
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
    return header, 8 + length


def _check_tensors(header: Mapping[str, Any], sizes: Mapping[str, int], dtype: type[np.generic]) -> None:
    _require_form(header, list(sizes))
    if set(header) != {"__metadata__", *sizes} or not all(isinstance(header[name], dict) for name in sizes):
        raise PayloadError(f"the payload does not hold just {', '.join(sizes)}", tensors=sorted(header)[:5])
    for name, expected in _entries(sizes, dtype).items():
        _check_tensor(header[name], expected)


def _require_form(header: Mapping[str, Any], names: Sequence[str]) -> None:
    if others := sorted(_UPDATE_TENSORS & set(header) - set(names)):
        raise PayloadFormMismatch(f"the payload has the tensor {others[0]}, and the task's have {', '.join(names)}")


def _check_tensor(entry: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if dtype != expected["dtype"]:
        raise PayloadDtypeMismatch(f"the payload's values are {str(dtype)[:16]}, not {expected['dtype']}")
    if not _is_exactly(shape, expected["shape"]):
        raise PayloadShapeMismatch(f"the payload's shape is {str(shape)[:64]}, not {expected['shape']}")
    if not _is_exactly(entry.get("data_offsets"), expected["data_offsets"]):
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
