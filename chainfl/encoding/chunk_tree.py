"""The Merkle tree over a vector's chunks: a root that names the vector, and openings that prove a part of it.

Formats and constants are those of docs/protocol.md, Commitments; `ChunkTree.sol` computes the same bytes. All
integers are big-endian two's complement, so that a chunk reads straight out of calldata words.

A tree of 10M values is some 80,000 hashes of a few hundred bytes. hashlib's cost for those is the call, not the
bytes, so everything around the call is done for many messages at once in numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from chainfl.encoding.arrays import AnyArray, Int16Array, Int32Array, blocks, require_vector
from chainfl.encoding.layout import MAX_PARAMS
from chainfl.encoding.sources import ArraySource, VectorSource, ZeroSource, as_source, require_source
from chainfl.errors import EncodingError, PayloadError, RootMismatch, ValueOutOfRange
from chainfl.tasks.state import Format
from chainfl.types import Root

DEFAULT_CHUNK_PARAMS = 256
MAX_CHUNK_PARAMS = 1 << 16
MAX_VALUES = 2 * MAX_PARAMS
"""Of a vector: an adaptive server's state has two for each of the model."""

_LEAF, _NODE, _SUM_NODE, _ROOT = b"\x00", b"\x01", b"\x02", b"\x03"
_PADDING_LEAF = bytes(32)
_BLOCK_BYTES = 1 << 18

_Bytes2D = npt.NDArray[np.uint8]
_Sums = npt.NDArray[np.uint64]


class VectorKind(IntEnum):
    """What a vector is; part of its root, so that one kind never passes for another."""

    MODEL = 1
    STATE = 2
    UPDATE = 3
    GROUP_SUM = 4


_DTYPES: dict[VectorKind, type[np.signedinteger[Any]]] = {
    VectorKind.MODEL: np.int32,
    VectorKind.STATE: np.int32,
    VectorKind.UPDATE: np.int16,
    VectorKind.GROUP_SUM: np.int64,
}


@dataclass(frozen=True, slots=True)
class TreeShape:
    """What a tree looks like before any value is known. num_params: values of its vector.

    Raises EncodingError for impossible parameters.
    """

    num_params: int
    chunk_params: int
    kind: VectorKind

    def __post_init__(self) -> None:
        if not 0 < self.num_params <= MAX_VALUES:
            raise EncodingError(f"a vector has 1 to {MAX_VALUES} values", num_params=self.num_params)
        if not 0 < self.chunk_params <= MAX_CHUNK_PARAMS or self.chunk_params % 16:
            raise EncodingError("chunk_params is not a positive multiple of 16", chunk_params=self.chunk_params)

    @classmethod
    def of(cls, form: Format, kind: VectorKind) -> TreeShape:
        """That of a task's vector. Raises EncodingError for the state of a server that keeps none."""
        size = form.state_params if kind is VectorKind.STATE else form.num_params
        return cls(size, form.chunk_params, kind)

    @property
    def dtype(self) -> type[np.signedinteger[Any]]:
        """The type of a value in memory; the wire has the same in big-endian."""
        return _DTYPES[self.kind]

    @property
    def width(self) -> int:
        """Bytes a value."""
        return np.dtype(self.dtype).itemsize

    @property
    def has_sums(self) -> bool:
        """Only updates carry sums of squares."""
        return self.kind is VectorKind.UPDATE

    @property
    def num_chunks(self) -> int:
        """The leaves that hold values; the tree pads their number to a power of two."""
        return -(-self.num_params // self.chunk_params)

    @property
    def depth(self) -> int:
        """The number of nodes on a path; 0 for one chunk, which is its own root."""
        return (self.num_chunks - 1).bit_length()

    def seal(self, digest: bytes, total: int = 0) -> Root:
        """Binds kind, length, chunk size and width to the top of the tree; for an update its sum as well."""
        header = (
            bytes([_ROOT[0], self.kind]) + self.num_params.to_bytes(8, "big") + self.chunk_params.to_bytes(4, "big")
        )
        sealed = header + bytes([self.width]) + digest + (total.to_bytes(8, "big") if self.has_sums else b"")
        return Root(hashlib.sha256(sealed).digest())


@dataclass(frozen=True, slots=True)
class UpdateCommitment:
    """What a worker commits to. root: 32 bytes. sum_of_squares: of all values, part of the root."""

    root: Root
    sum_of_squares: int


@dataclass(frozen=True, slots=True)
class Opening:
    """One chunk and the path that proves it.

    chunk: chunk_params big-endian values. path: the sibling at each level, the leaf's first. sums: the siblings'
    sums of squares, as many as the path for an update, none for the other kinds.
    """

    index: int
    chunk: bytes
    path: tuple[bytes, ...]
    sums: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """The nodes of one level that cover values. digests: (n, 32). sums: (n,), None for a tree without sums."""

    digests: _Bytes2D
    sums: _Sums | None


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A whole tree in memory, but for the nodes of mere padding: about 64 bytes a chunk.

    levels: from the leaves, height 0, to the single top. Where somebody else stated them, sums need not add up.
    """

    shape: TreeShape
    levels: tuple[Level, ...]

    @property
    def root(self) -> Root:
        """What the chain knows the vector by."""
        return self.shape.seal(*self.node(self.shape.depth, 0))

    def node(self, height: int, index: int) -> tuple[bytes, int]:
        """Digest and sum (0 without sums) of number `index` of a level. What covers only padding is its constant."""
        return _node_at(self.levels[height], index, height, self.shape)

    def path(self, index: int) -> list[tuple[bytes, int]]:
        """The siblings of a leaf and of all above it, the leaf's first."""
        return [self.node(height, index >> height ^ 1) for height in range(self.shape.depth)]


def build_tree(values: AnyArray | VectorSource, chunk_params: int, kind: VectorKind) -> Tree:
    """The tree of a vector, which is read once, in blocks. Raises EncodingError for another type than the kind's."""
    source = as_source(values)
    shape = TreeShape(source.size, chunk_params, kind)
    return Tree(shape, tuple(_levels(source, shape)))


def model_root(values: Int32Array | VectorSource, chunk_params: int) -> Root:
    """The root of a global model. values: (P,) int32. returns: 32 bytes."""
    return vector_root(values, chunk_params, VectorKind.MODEL)


def vector_root(values: AnyArray | VectorSource, chunk_params: int, kind: VectorKind) -> Root:
    """The root of a vector of any kind. values: (P,) of the kind's type. Raises EncodingError for another."""
    shape = TreeShape(values.size, chunk_params, kind)
    return shape.seal(*_top(as_source(values), shape))


def zero_state_root(form: Format) -> Root:
    """The root of the server's state before the first round: zeros; 32 zero bytes where it keeps none."""
    if not form.has_state:
        return Root(bytes(32))
    return vector_root(ZeroSource(form.state_params, np.dtype(np.int32)), form.chunk_params, VectorKind.STATE)


def update_root(values: Int16Array | VectorSource, chunk_params: int) -> UpdateCommitment:
    """Root and sum of squares of an update. values: (P,) int16.

    Any int16 has a root, -32768 too: what is out of range must be nameable to be proven out of range.
    """
    shape = TreeShape(values.size, chunk_params, VectorKind.UPDATE)
    digest, total = _top(as_source(values), shape)
    return UpdateCommitment(shape.seal(digest, total), total)


def check_model_root(values: Int32Array, chunk_params: int, expected: Root) -> None:
    """Raises RootMismatch unless the vector hashes to the root on chain."""
    check_root(model_root(values, chunk_params), expected)


def check_update_root(values: Int16Array | VectorSource, chunk_params: int, expected: UpdateCommitment) -> None:
    """Raises RootMismatch unless the vector has the root and the sum that were revealed on chain."""
    seen = update_root(values, chunk_params)
    check_root(seen.root, expected.root)
    # INVARIANT: the root binds the sum, but what was revealed next to it need not be the same number.
    if seen.sum_of_squares != expected.sum_of_squares:
        raise RootMismatch("the revealed sum of squares is not the update's", seen=seen, expected=expected)


def open_chunk(values: AnyArray | VectorSource, index: int, chunk_params: int, kind: VectorKind) -> Opening:
    """The opening of chunk `index`. Raises EncodingError if there is no such chunk.

    Computes the whole tree: about as long as the root itself takes.
    """
    source = as_source(values)
    shape = TreeShape(source.size, chunk_params, kind)
    chunk = chunk_at(source, index, shape)
    path = Tree(shape, tuple(_levels(source, shape))).path(index)
    sums = tuple(total for _, total in path) if shape.has_sums else ()
    return Opening(index, chunk, tuple(digest for digest, _ in path), sums)


def chunk_at(source: VectorSource, index: int, shape: TreeShape) -> bytes:
    """Chunk `index` on the wire, padded. Raises EncodingError if there is none."""
    if not 0 <= index < shape.num_chunks:
        raise EncodingError(f"there is no chunk {index} of {shape.num_chunks}", index=index)
    start = index * shape.chunk_params
    values = source.read(start, min(start + shape.chunk_params, shape.num_params))
    wire = values.astype(np.dtype(shape.dtype).newbyteorder(">")).tobytes()
    return wire.ljust(shape.chunk_params * shape.width, b"\0")


def verify_opening(
    opening: Opening,
    *,
    root: Root,
    num_params: int,
    chunk_params: int,
    kind: VectorKind,
    sum_of_squares: int = 0,
) -> AnyArray:
    """The chunk's values, (chunk_params,) of the kind's type with the padding, once the path leads to `root`.

    sum_of_squares: what was revealed with an update's root. Raises PayloadError for an opening of the wrong form,
    RootMismatch if the hashes do not fit. Padding is not looked at: see `check_padding`.
    """
    shape = TreeShape(num_params, chunk_params, kind)
    _check_form(opening, shape)
    values = np.frombuffer(opening.chunk, np.dtype(shape.dtype).newbyteorder(">")).astype(shape.dtype)
    digest = leaf_digest(opening.index, opening.chunk)
    total = sum(value * value for value in values.tolist()) if shape.has_sums else 0
    for height, sibling in enumerate(opening.path):
        other = opening.sums[height] if shape.has_sums else 0
        pair = ((digest, total), (sibling, other))
        digest = _node(shape, *(pair if not opening.index >> height & 1 else pair[::-1]))
        total += other
    if total != sum_of_squares or total >= 1 << 64 or shape.seal(digest, total) != root:
        raise RootMismatch(f"the opening of chunk {opening.index} does not lead to the root", index=opening.index)
    return values


def check_padding(opening: Opening, *, num_params: int, chunk_params: int, kind: VectorKind) -> None:
    """Raises ValueOutOfRange if the opening shows padding that is not zero, or not the constant of its level.

    Such padding makes a posted root wrong and an update out of range, although its hashes fit.
    """
    shape = TreeShape(num_params, chunk_params, kind)
    _check_form(opening, shape)
    used = min(chunk_params, num_params - opening.index * chunk_params) * shape.width
    if any(opening.chunk[used:]):
        raise ValueOutOfRange(f"chunk {opening.index} has padding that is not zero", index=opening.index)
    for height, (digest, constant) in enumerate(zip(opening.path, _padding_constants(shape), strict=False)):
        covers_values = (opening.index >> height ^ 1) << height < shape.num_chunks
        total = opening.sums[height] if shape.has_sums else 0
        if not covers_values and (digest != constant or total):
            raise ValueOutOfRange(f"a padding node at height {height} is not the constant", height=height)


def _check_form(opening: Opening, shape: TreeShape) -> None:
    lengths = (len(opening.chunk), len(opening.path), len(opening.sums))
    expected = (shape.chunk_params * shape.width, shape.depth, shape.depth if shape.has_sums else 0)
    if not 0 <= opening.index < shape.num_chunks or lengths != expected:
        raise PayloadError("the opening has another form than the vector's tree", seen=lengths, expected=expected)
    if any(len(digest) != 32 for digest in opening.path) or any(not 0 <= total < 1 << 64 for total in opening.sums):
        raise PayloadError("the opening's path has an entry of the wrong size", index=opening.index)


def check_root(seen: Root, expected: Root) -> None:
    """Raises RootMismatch unless both are the same."""
    if seen != expected:
        raise RootMismatch(f"the bytes hash to 0x{seen.hex()}, not to 0x{expected.hex()}", seen=seen, expected=expected)


def _top(source: VectorSource, shape: TreeShape) -> tuple[bytes, int]:
    """Digest and sum at the top of the tree; 0 for a tree without sums."""
    for level in _levels(source, shape):
        top = level
    return top.digests.tobytes(), 0 if top.sums is None else int(top.sums[0])


def _levels(source: VectorSource, shape: TreeShape) -> Iterator[Level]:
    """From the leaves to the single top, without the nodes that cover only padding."""
    name = shape.kind.name.lower()
    if isinstance(source, ArraySource):
        require_vector(source.values, shape.dtype, name)
    require_source(source, shape.dtype, shape.num_params, name)
    level = _leaves(source, shape)
    yield level
    for padding in _padding_constants(shape):
        level = _parents(level, padding)
        yield level


def _leaves(source: VectorSource, shape: TreeShape) -> Level:
    digests: list[bytes] = []
    sums = np.zeros(shape.num_chunks, np.uint64)
    for block in blocks(shape.num_chunks, max(1, _BLOCK_BYTES // (shape.chunk_params * shape.width))):
        chunks = _read_chunks(source, block, shape)
        digests += _leaf_digests(chunks, block.start)
        if shape.has_sums:
            sums[block] = _sums_of_squares(chunks)
    return Level(_stack(digests), sums if shape.has_sums else None)


def _read_chunks(source: VectorSource, block: slice, shape: TreeShape) -> AnyArray:
    """A row for each chunk of the block, the vector's last one padded with zeros."""
    values = source.read(block.start * shape.chunk_params, min(block.stop * shape.chunk_params, shape.num_params))
    missing = (block.stop - block.start) * shape.chunk_params - values.size
    if missing:
        values = np.concatenate([values, np.zeros(missing, values.dtype)])
    return values.reshape(-1, shape.chunk_params)


def _leaf_digests(chunks: AnyArray, first_index: int) -> list[bytes]:
    """sha256(0x00 ‖ uint64 index ‖ chunk) of each row."""
    wire = chunks.astype(chunks.dtype.newbyteorder(">")).view(np.uint8)
    messages = np.empty((len(chunks), 9 + wire.shape[1]), np.uint8)
    messages[:, 0] = _LEAF[0]
    messages[:, 1:9].view(">u8")[:, 0] = np.arange(first_index, first_index + len(chunks))
    messages[:, 9:] = wire
    return _hash_rows(messages)


def _parents(level: Level, padding: bytes) -> Level:
    """One level up. padding: the node of this level that stands in for a missing right sibling."""
    digests, sums = level.digests, level.sums
    if len(digests) % 2:
        digests = np.concatenate([digests, np.frombuffer(padding, np.uint8)[np.newaxis]])
        sums = None if sums is None else np.append(sums, np.uint64(0))
    hashed: list[bytes] = []
    for block in blocks(len(digests) // 2, _BLOCK_BYTES // 64):
        both = slice(2 * block.start, 2 * block.stop)
        hashed += _hash_rows(_node_messages(digests[both], None if sums is None else sums[both]))
    return Level(_stack(hashed), None if sums is None else sums[0::2] + sums[1::2])


def _node_messages(digests: _Bytes2D, sums: _Sums | None) -> _Bytes2D:
    """0x01 ‖ left ‖ right, or 0x02 ‖ left ‖ uint64 sumL ‖ right ‖ uint64 sumR, a row for each pair."""
    if sums is None:
        prefix, children = _NODE, digests.reshape(-1, 64)
    else:
        wire = sums.astype(">u8").view(np.uint8).reshape(-1, 8)
        prefix, children = _SUM_NODE, np.concatenate([digests, wire], axis=1).reshape(-1, 80)
    messages = np.empty((len(children), 1 + children.shape[1]), np.uint8)
    messages[:, 0] = prefix[0]
    messages[:, 1:] = children
    return messages


def _hash_rows(messages: _Bytes2D) -> list[bytes]:
    """The SHA-256 of each row. As fixed-size voids, numpy makes all rows into bytes in one call."""
    sha256 = hashlib.sha256
    rows: list[bytes] = messages.view(f"V{messages.shape[1]}").ravel().tolist()
    return [sha256(row).digest() for row in rows]


def _stack(digests: list[bytes]) -> _Bytes2D:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def _sums_of_squares(chunks: AnyArray) -> _Sums:
    """Exact: a square is at most 2^30 and a chunk at most 2^16 values. chunks: (n, chunk_params) int16."""
    wide = chunks.astype(np.int64)
    sums: _Sums = np.einsum("ij,ij->i", wide, wide).view(np.uint64)
    return sums


def _padding_constants(shape: TreeShape) -> Iterator[bytes]:
    """The node that covers only padding, for each level below the top."""
    constant = _PADDING_LEAF
    for _ in range(shape.depth):
        yield constant
        constant = _node(shape, (constant, 0), (constant, 0))


def _node_at(level: Level, index: int, height: int, shape: TreeShape) -> tuple[bytes, int]:
    if index < len(level.digests):
        return level.digests[index].tobytes(), 0 if level.sums is None else int(level.sums[index])
    return padding_node(shape, height), 0


def padding_node(shape: TreeShape, height: int) -> bytes:
    """The constant that stands for a node of mere padding with `height` levels below it."""
    constant = _PADDING_LEAF
    for _ in range(height):
        constant = _node(shape, (constant, 0), (constant, 0))
    return constant


def leaf_digest(index: int, chunk: bytes) -> bytes:
    """The node of a chunk as it is on the wire."""
    return hashlib.sha256(_LEAF + index.to_bytes(8, "big") + chunk).digest()


def _node(shape: TreeShape, left: tuple[bytes, int], right: tuple[bytes, int]) -> bytes:
    if not shape.has_sums:
        return hashlib.sha256(_NODE + left[0] + right[0]).digest()
    parts = [digest + total.to_bytes(8, "big") for digest, total in (left, right)]
    return hashlib.sha256(_SUM_NODE + b"".join(parts)).digest()
