"""Integers that are mostly small, compressed: signs folded in, bytes put into planes, and deflate over that.

A value v becomes the unsigned (v << 1) ^ (v >> 15), so that small values of either sign have a high byte of zero. Of
each block of values the low bytes come first and the high bytes after them, and one zlib stream (RFC 1950) goes over
all blocks. Its writer looks for runs alone (Z_RLE): on updates that is both smaller and ten times quicker than zlib's
default, which searches for matches that noise does not have. Any inflater reads it, and only what it inflates to is
committed, so that the compressed bytes may differ from one zlib to another.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np

from chainfl.encoding.arrays import Int16Array, blocks
from chainfl.errors import PayloadError, PayloadTooLarge, PayloadTruncated

BLOCK_VALUES: Final = 1 << 19
_PIECE_BYTES: Final = 1 << 16
_LEVEL: Final = 6
_MEMORY_LEVEL: Final = 9


def max_compressed_bytes(num_values: int) -> int:
    """What no stream of so many values exceeds: zlib bounds its own growth on noise so, whatever its settings."""
    size = 2 * num_values
    return size + (size >> 5) + 64


def compress_values(values: Int16Array) -> Iterator[bytes]:
    """The stream, a piece at a time, in memory for one block. values: (n,) int16."""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY_LEVEL, zlib.Z_RLE)
    for block in blocks(values.size, BLOCK_VALUES):
        yield deflater.compress(_planes(values[block]))
    yield deflater.flush()


def inflate_values(source: BinaryIO, length: int, num_values: int) -> Iterator[Int16Array]:
    """The values in the next `length` bytes of a stranger's stream, a block at a time, which the last one ends.

    Never holds more than one block, whatever the stream would inflate to. Raises PayloadTruncated for fewer values,
    PayloadTooLarge for more values or bytes, PayloadError for what zlib cannot read.
    """
    inflater = _Inflater(source, length)
    for block in blocks(num_values, BLOCK_VALUES):
        planes = np.empty(2 * (block.stop - block.start), np.uint8)
        inflater.fill(planes.data)
        yield _values(planes)
    inflater.finish()


def _planes(values: Int16Array) -> bytes:
    folded = ((values << 1) ^ (values >> 15)).astype("<u2")
    return folded.view(np.uint8).reshape(-1, 2).T.tobytes()


def _values(planes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Int16Array:
    folded = np.ascontiguousarray(planes.reshape(2, -1).T).view("<u2").reshape(-1)
    return ((folded >> 1) ^ -(folded & 1)).astype(np.uint16, copy=False).view(np.int16)


class _Inflater:
    """A zlib stream of `length` bytes that gives just as much as it is asked for."""

    def __init__(self, source: BinaryIO, length: int) -> None:
        self._source = source
        self._left = length
        self._inflater = zlib.decompressobj()

    def fill(self, buffer: memoryview) -> None:
        filled = 0
        while filled < len(buffer):
            part, is_last = self._step(len(buffer) - filled)
            if not part and is_last:
                raise PayloadTruncated("the compressed values end before there are enough of them")
            buffer[filled : filled + len(part)] = part
            filled += len(part)

    def finish(self) -> None:
        """Raises PayloadTooLarge if anything follows, PayloadTruncated if the stream's own end does not."""
        while not self._inflater.eof:
            part, is_last = self._step(1)
            if part:
                raise PayloadTooLarge("the payload inflates to more values than the task's model has")
            if is_last and not self._inflater.eof:
                raise PayloadTruncated("the compressed values lack their end")
        if self._inflater.unused_data or self._left:
            raise PayloadTooLarge("the payload goes on after its compressed values")

    def _step(self, most: int) -> tuple[bytes, bool]:
        """Up to `most` bytes, and whether nothing more can come."""
        data = self._inflater.unconsumed_tail or self._more()
        try:
            part = self._inflater.decompress(data, most)
        except zlib.error as error:
            raise PayloadError(f"the compressed values cannot be read: {error}") from error
        return part, self._inflater.eof or not data

    def _more(self) -> bytes:
        if self._inflater.eof:
            return b""
        data = self._source.read(min(self._left, _PIECE_BYTES))
        self._left -= len(data)
        return data
