"""The bytes that zlib is given of an update's values, in each form of compression; what they unpack to is exact.

`deflate` holds any values: signs folded in, v as the unsigned (v << 1) ^ (v >> 15), so that small values of either sign
have a high byte of zero; the low bytes of all values first, the high bytes after them.

The lossy forms hold values of which each block has one power of two: a value is a code times 2^shift. The shift is the
largest that divides all of the block's values, so values have one packing only. `int8` and `int4` have all codes, in
blocks of 256 and of 64; `topk` has those codes that are not zero and where they are, in blocks of 16,384 coordinates.
What an update must be rounded to, to be such values, is in `lossy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from chainfl.encoding.arrays import AnyArray, Int16Array, Int32Array, Int64Array, blocks
from chainfl.errors import EncodingError, PayloadError, PayloadTooLarge
from chainfl.types import Compression, CompressionName

Bytes: TypeAlias = npt.NDArray[np.uint8]
Codes: TypeAlias = npt.NDArray[np.int8]
Read: TypeAlias = Callable[[int], Bytes]
"""Just so many of the bytes that come next."""

GROUP_VALUES: Final = 1 << 19
"""Values that are packed together; every block's length divides it."""
_VALUE_BITS: Final = 15
_LIMIT: Final = 32_767
_MAX_GAP_BYTES: Final = 3


@dataclass(frozen=True, slots=True)
class Blocks:
    """Codes of so many bits, and how many coordinates share a shift."""

    bits: int
    size: int

    @property
    def limit(self) -> int:
        """Codes lie in [-limit, limit]."""
        return (1 << self.bits - 1) - 1

    def count(self, num_values: int) -> int:
        """How many blocks so many values have."""
        return -(-num_values // self.size)


BLOCKS: Final[Mapping[CompressionName, Blocks]] = {
    "int8": Blocks(8, 256),
    "int4": Blocks(4, 64),
    "topk": Blocks(8, 1 << 14),
}
"""Of the lossy forms. A block's length is such that rounding takes away at most half of its sum of squares."""


class Packing(Protocol):
    """One form, for one vector: its groups come in order."""

    def pack(self, values: Int16Array) -> bytes:
        """A group's bytes. values: (n,) int16. Raises EncodingError for what the form cannot hold."""
        ...

    def unpack(self, read: Read, count: int) -> Int16Array:
        """The next group, of `count` values. Raises PayloadError for bytes that `pack` never gives."""
        ...


def packing_of(compression: Compression, num_values: int) -> Packing:
    """For one vector of so many values. Raises EncodingError for a form that packs nothing."""
    if compression.name == "deflate":
        return _Planes()
    if compression.name == "topk":
        return _Sparse(BLOCKS["topk"], most_kept(compression, num_values))
    if compression.name in BLOCKS:
        return _Dense(BLOCKS[compression.name])
    raise EncodingError(f"payloads of the form {compression.name} are not packed")


def max_packed_bytes(compression: Compression, num_values: int) -> int:
    """No vector of so many values is packed into more."""
    if compression.name == "deflate":
        return 2 * num_values
    form = BLOCKS[compression.name]
    if compression.name == "topk":
        kept = (_MAX_GAP_BYTES + 1) * most_kept(compression, num_values)
        return kept + form.count(num_values) + 8 * -(-num_values // GROUP_VALUES)
    return form.count(num_values) + -(-num_values * form.bits // 8)


def most_kept(compression: Compression, num_values: int) -> int:
    """How many values that are not zero an update of the form topk has at most: the share, rounded up."""
    return -(-num_values * compression.keep.numerator // compression.keep.denominator)


def in_blocks(values: AnyArray, size: int) -> Int32Array:
    """A row a block, the last one padded with zeros. returns: (blocks, size) int32; a single short block as it is."""
    width = min(size, values.size)
    padded = np.zeros(-(-values.size // width) * width, np.int32)
    padded[: values.size] = values
    return padded.reshape(-1, width)


class _Planes:
    """Implements Packing."""

    def pack(self, values: Int16Array) -> bytes:
        """See `Packing`."""
        folded = ((values << 1) ^ (values >> 15)).astype("<u2")
        return folded.view(np.uint8).reshape(-1, 2).T.tobytes()

    def unpack(self, read: Read, count: int) -> Int16Array:
        """See `Packing`."""
        planes = read(2 * count)
        folded = np.ascontiguousarray(planes.reshape(2, -1).T).view("<u2").reshape(-1)
        return ((folded >> 1) ^ -(folded & 1)).astype(np.uint16, copy=False).view(np.int16)


@dataclass(frozen=True, slots=True)
class _Dense:
    """All codes; implements Packing."""

    form: Blocks

    def pack(self, values: Int16Array) -> bytes:
        """See `Packing`."""
        shifts, codes = _codes(values, self.form)
        return shifts.tobytes() + (codes.tobytes() if self.form.bits == 8 else _nibbles(codes))

    def unpack(self, read: Read, count: int) -> Int16Array:
        """See `Packing`."""
        shifts = read(self.form.count(count))
        codes = read(count).view(np.int8) if self.form.bits == 8 else _from_nibbles(read(-(-count // 2)), count)
        return _values(shifts, codes, self.form)


@dataclass(slots=True)
class _Sparse:
    """The codes that are not zero, each with its distance from the one before; implements Packing.

    left: how many more of them there may be.
    """

    form: Blocks
    left: int

    def pack(self, values: Int16Array) -> bytes:
        """See `Packing`."""
        shifts, codes = _codes(values, self.form)
        places = np.flatnonzero(codes)
        if places.size > self.left:
            raise EncodingError(f"the update has {places.size - self.left} values more than its form keeps")
        self.left -= places.size
        gaps = _as_varints(np.diff(places, prepend=-1) - 1)
        counts = np.array([places.size, len(gaps)], "<u4")
        return counts.tobytes() + gaps + shifts.tobytes() + codes[places].tobytes()

    def unpack(self, read: Read, count: int) -> Int16Array:
        """See `Packing`."""
        kept, num_bytes = (int(number) for number in read(8).view("<u4"))
        if kept > min(self.left, count):
            raise PayloadTooLarge(f"the payload has {kept} values where {min(self.left, count)} may be", claimed=kept)
        if not kept <= num_bytes <= _MAX_GAP_BYTES * kept:
            raise PayloadError(f"{kept} values cannot have {num_bytes} bytes of distances")
        self.left -= kept
        places = np.cumsum(_from_varints(read(num_bytes), kept) + 1) - 1
        if kept and places[-1] >= count:
            raise PayloadError(f"the payload has a value at coordinate {places[-1]} of {count}")
        shifts, codes = read(self.form.count(count)), np.zeros(count, np.int8)
        codes[places] = read(kept).view(np.int8)
        if np.count_nonzero(codes) != kept:
            raise PayloadError("the payload lists a value that is zero")
        return _values(shifts, codes, self.form)


def _codes(values: Int16Array, form: Blocks) -> tuple[Bytes, Codes]:
    """The shift of each block, and (n,) codes."""
    rows = in_blocks(values, form.size)
    together = np.bitwise_or.reduce(rows, axis=1)
    shifts = np.zeros(together.size, np.uint8)
    for shift in range(1, _VALUE_BITS):
        shifts += (together != 0) & (together & ((1 << shift) - 1) == 0)
    codes = rows >> shifts[:, np.newaxis]
    if codes.max() > form.limit or codes.min() < -form.limit:
        raise EncodingError(f"the update was not rounded to blocks of {form.size} values of {form.bits} bits")
    return shifts, codes.reshape(-1)[: values.size].astype(np.int8)


def _values(shifts: Bytes, codes: Codes, form: Blocks) -> Int16Array:
    """What a stranger's codes stand for. Raises PayloadError for all that `_codes` never gives."""
    if shifts.max() >= _VALUE_BITS:
        raise PayloadError(f"a block's values are multiples of 2^{shifts.max()}")
    rows = in_blocks(codes, form.size)
    if np.any((np.bitwise_or.reduce(rows, axis=1) & 1 == 0) & (shifts > 0)):
        raise PayloadError("a block's values have a larger power of two in common than it says")
    rows <<= shifts[:, np.newaxis]
    if codes.min() < -form.limit or rows.max() > _LIMIT or rows.min() < -_LIMIT:
        raise PayloadError("a block has codes that are out of range")
    return rows.reshape(-1)[: codes.size].astype(np.int16)


def _nibbles(codes: Codes) -> bytes:
    """Two codes a byte, the first in the low half; after an odd number a half of zeros."""
    halves = np.zeros(codes.size + codes.size % 2, np.uint8)
    halves[: codes.size] = codes.view(np.uint8) & 15
    return (halves[0::2] | halves[1::2] << 4).tobytes()


def _from_nibbles(data: Bytes, count: int) -> Codes:
    halves = np.stack([data & 15, data >> 4], axis=1).reshape(-1).view(np.int8)
    if np.any(halves[count:]):
        raise PayloadError("the payload has half a byte behind its values")
    codes: Codes = (halves[:count] ^ 8) - np.int8(8)
    return codes


def _as_varints(numbers: Int64Array) -> bytes:
    """Seven bits a byte, the lowest first, the top bit set on all but a number's last. numbers: below 2^21."""
    parts = numbers[:, np.newaxis] >> (7 * np.arange(_MAX_GAP_BYTES))
    parts = (parts & 127) | (parts > 127) << 7
    is_needed = np.ones(parts.shape, bool)
    is_needed[:, 1:] = parts[:, :-1] > 127
    needed: Bytes = parts[is_needed].astype(np.uint8)
    return needed.tobytes()


def _from_varints(data: Bytes, count: int) -> Int64Array:
    """returns: (count,). Raises PayloadError unless each number is there, in the fewest bytes, and nothing more."""
    ends = np.flatnonzero(data < 128)
    if ends.size != count or data.size != (ends[-1] + 1 if count else 0):
        raise PayloadError(f"the payload's distances are not {count} numbers")
    starts = np.concatenate([[0], ends[:-1] + 1]) if count else ends
    lengths = ends - starts + 1
    if count and (lengths.max() > _MAX_GAP_BYTES or np.any((data[ends] == 0) & (lengths > 1))):
        raise PayloadError("the payload has a distance in more bytes than it needs")
    digits = (data & 127).astype(np.int64) << 7 * (np.arange(data.size) - np.repeat(starts, lengths))
    return np.add.reduceat(digits, starts) if count else np.zeros(0, np.int64)


def groups(num_values: int) -> list[slice]:
    """How a vector is cut."""
    return list(blocks(num_values, GROUP_VALUES))
