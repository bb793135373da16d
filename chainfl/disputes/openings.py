"""Packed openings, byte for byte as IDisputes.sol lays them out, made and read.

With c values a chunk, b bytes a value and depth d, all big-endian:
- of a model, a state (b = 4) or a group sum (b = 8): chunk (c * b), then d siblings (32 each, the leaf's first);
- of an update (b = 2): form (1), chunk (2c), sum of the leaf (8), then d times sibling (32) and its sum (8); in form 1
  each is followed by the sum that the tree states for their parent (8).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from chainfl.encoding.arrays import AnyArray, Int16Array
from chainfl.encoding.chunk_tree import (
    Tree,
    TreeShape,
    VectorKind,
    build_tree,
    chunk_at,
    leaf_digest,
    padding_node,
)
from chainfl.encoding.sources import VectorSource, as_source
from chainfl.errors import PayloadError
from chainfl.tasks.state import Format
from chainfl.types import Root


class Opener(Protocol):
    """Whatever can open a chunk: a vector that one holds, or the single opening that a game brought to light."""

    def opening(self, chunk_index: int) -> bytes:
        """The packed opening of the chunk."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class CommittedVector:
    """A vector next to its tree: opens any of its chunks at once. The values stay where they are."""

    source: VectorSource
    tree: Tree

    @classmethod
    def of(cls, values: AnyArray | VectorSource, form: Format, kind: VectorKind) -> CommittedVector:
        """Builds the tree; the values are read once, in blocks. Raises EncodingError for another type."""
        source = as_source(values)
        return cls(source, build_tree(source, form.chunk_params, kind))

    @property
    def root(self) -> Root:
        """What the chain knows the vector by."""
        return self.tree.root

    def chunk(self, chunk_index: int) -> bytes:
        """The chunk on the wire, padded. Raises EncodingError if there is none."""
        return chunk_at(self.source, chunk_index, self.tree.shape)

    def opening(self, chunk_index: int) -> bytes:
        """The packed opening; of an update in form 0. Raises EncodingError if there is no such chunk."""
        chunk = self.chunk(chunk_index)
        if self.tree.shape.has_sums:
            return _packed_update(self.tree, chunk, chunk_index)
        return chunk + b"".join(digest for digest, _ in self.tree.path(chunk_index))

    def stated_opening(self, chunk_index: int) -> bytes:
        """An update's opening in form 1, which opens a tree whose sums do not add up, too."""
        return _packed_update(self.tree, self.chunk(chunk_index), chunk_index, stated=True)


@dataclass(frozen=True, slots=True, eq=False)
class VectorWithoutTree:
    """A vector whose tree is built when a chunk is opened, and not kept: for the one opening that a proof takes."""

    source: VectorSource
    form: Format
    kind: VectorKind

    def opening(self, chunk_index: int) -> bytes:
        """The packed opening; of an update in form 0. Raises EncodingError if there is no such chunk."""
        return CommittedVector.of(self.source, self.form, self.kind).opening(chunk_index)


@dataclass(frozen=True, slots=True, eq=False)
class StatedVector:
    """An update next to the tree that its worker stated, whose sums do not add up: opens in form 1."""

    vector: CommittedVector

    def opening(self, chunk_index: int) -> bytes:
        """The packed opening. Raises EncodingError if there is no such chunk."""
        return self.vector.stated_opening(chunk_index)


@dataclass(frozen=True, slots=True)
class KnownOpening:
    """One packed opening that somebody else disclosed. Opens that chunk and no other."""

    index: int
    packed: bytes

    def opening(self, chunk_index: int) -> bytes:
        """The packed opening. Raises PayloadError for another chunk."""
        if chunk_index != self.index:
            raise PayloadError(f"chunk {self.index} is open, not chunk {chunk_index}", index=chunk_index)
        return self.packed


@dataclass(frozen=True, slots=True)
class ReadUpdate:
    """An update's opening as the contract reads it.

    values: (chunk_params,) int16 with the padding. leaf_sum, sum_of_squares: as the tree states them for the leaf and
    for the whole. adds: whether each sum on the way is that of the two below it. clean: whether no padding hides
    anything.
    """

    root: Root
    values: Int16Array
    leaf_sum: int
    sum_of_squares: int
    adds: bool
    clean: bool


def plain_opening(values: AnyArray | VectorSource, form: Format, index: int, *, kind: VectorKind) -> bytes:
    """The packed opening of one chunk of a model, a state or a group sum. Builds the whole tree."""
    return CommittedVector.of(values, form, kind).opening(index)


def update_opening(values: Int16Array | VectorSource, form: Format, chunk_index: int, *, stated: bool = False) -> bytes:
    """The packed opening of one chunk of an update, in form 1 if `stated`. Builds the whole tree."""
    vector = CommittedVector.of(values, form, VectorKind.UPDATE)
    return vector.stated_opening(chunk_index) if stated else vector.opening(chunk_index)


def read_plain(packed: bytes, shape: TreeShape, index: int) -> tuple[Root, AnyArray]:
    """The root that an opening leads to, and its values, (chunk_params,) with the padding; as `Openings.plain`.

    Raises PayloadError for another length or a chunk that is not there.
    """
    length = shape.chunk_params * shape.width
    _require_form(packed, length + 32 * shape.depth, shape, index)
    digest = leaf_digest(index, packed[:length])
    for height in range(shape.depth):
        at = length + 32 * height
        pair = (digest, packed[at : at + 32])
        digest = hashlib.sha256(b"\x01" + b"".join(pair[::-1] if index >> height & 1 else pair)).digest()
    return shape.seal(digest), _values(packed[:length], shape)


def read_update_opening(packed: bytes, form: Format, index: int) -> ReadUpdate:
    """What an update's opening shows, as `Openings.update` reads it. Raises PayloadError for another form or length."""
    shape = TreeShape.of(form, VectorKind.UPDATE)
    if not packed or packed[0] > 1:
        raise PayloadError("an update's opening begins with its form, 0 or 1")
    step, length = (48 if packed[0] else 40), 2 * shape.chunk_params
    _require_form(packed, 9 + length + step * shape.depth, shape, index)
    leaf_sum = int.from_bytes(packed[1 + length : 9 + length], "big")
    digest, total, adds, clean = leaf_digest(index, packed[1 : 1 + length]), leaf_sum, True, True
    for height in range(shape.depth):
        at = 9 + length + step * height
        sibling, other = packed[at : at + 40], int.from_bytes(packed[at + 32 : at + 40], "big")
        own = digest + total.to_bytes(8, "big")
        digest = hashlib.sha256(b"\x02" + (sibling + own if index >> height & 1 else own + sibling)).digest()
        if (index >> height ^ 1) << height >= shape.num_chunks:
            clean = clean and sibling == padding_node(shape, height) + bytes(8)
        stated = int.from_bytes(packed[at + 40 : at + 48], "big") if packed[0] else (total + other) % 2**64
        adds, total = adds and stated == total + other, stated
    values = _values(packed[1 : 1 + length], shape)
    used = shape.num_params - index * shape.chunk_params
    clean = clean and not values[used:].any()
    return ReadUpdate(shape.seal(digest, total), values, leaf_sum, total, adds, clean)


def value_at(packed: bytes, shape: TreeShape, offset: int) -> int:
    """Value `offset` of the chunk that a packed opening begins with."""
    start = (1 if shape.has_sums else 0) + offset * shape.width
    return int.from_bytes(packed[start : start + shape.width], "big", signed=True)


def _packed_update(tree: Tree, chunk: bytes, index: int, *, stated: bool = False) -> bytes:
    parts = [bytes([stated]), chunk, tree.node(0, index)[1].to_bytes(8, "big")]
    for height, (digest, total) in enumerate(tree.path(index)):
        parts += [digest, total.to_bytes(8, "big")]
        if stated:
            parts.append(tree.node(height + 1, index >> height + 1)[1].to_bytes(8, "big"))
    return b"".join(parts)


def _require_form(packed: bytes, expected: int, shape: TreeShape, index: int) -> None:
    if len(packed) != expected:
        raise PayloadError(f"the opening has {len(packed)} bytes, not {expected}", expected=expected)
    if not 0 <= index < shape.num_chunks:
        raise PayloadError(f"there is no chunk {index} of {shape.num_chunks}", index=index)


def _values(wire: bytes, shape: TreeShape) -> AnyArray:
    values: AnyArray = np.frombuffer(wire, np.dtype(shape.dtype).newbyteorder(">")).astype(shape.dtype)
    return values
