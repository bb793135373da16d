"""Compressed updates: packed as their form says (see `packing`), and deflated.

One zlib stream (RFC 1950) goes over all groups. Its writer looks for runs alone (Z_RLE): on updates that is both
smaller and ten times quicker than zlib's default, which searches for matches that noise does not have. Any inflater
reads it, and only what it inflates to is committed, so that the compressed bytes may differ from one zlib to another.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np

from chainfl.encoding.arrays import Int16Array
from chainfl.encoding.packing import Bytes, groups, max_packed_bytes, packing_of
from chainfl.errors import PayloadError, PayloadTooLarge, PayloadTruncated
from chainfl.types import Compression

_PIECE_BYTES: Final = 1 << 16
_LEVEL: Final = 6
_MEMORY_LEVEL: Final = 9


def max_compressed_bytes(compression: Compression, num_values: int) -> int:
    """What no stream of so many values exceeds: zlib bounds its own growth on noise so, whatever its settings."""
    size = max_packed_bytes(compression, num_values)
    return size + (size >> 5) + 64


def compress_values(values: Int16Array, compression: Compression) -> Iterator[bytes]:
    """The stream, a piece at a time, in memory for one group. values: (n,) int16.

    Raises EncodingError for values that the form cannot hold: see `lossy.lossy_values`.
    """
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY_LEVEL, zlib.Z_RLE)
    packing = packing_of(compression, values.size)
    for group in groups(values.size):
        yield deflater.compress(packing.pack(values[group]))
    yield deflater.flush()


def inflate_values(source: BinaryIO, length: int, num_values: int, compression: Compression) -> Iterator[Int16Array]:
    """The values in the next `length` bytes of a stranger's stream, a group at a time, which the last one ends.

    Never holds more than one group, whatever the stream would inflate to. Raises PayloadTruncated for fewer values,
    PayloadTooLarge for more values or bytes, PayloadError for what zlib cannot read or `packing` would never write.
    """
    inflater = _Inflater(source, length)
    packing = packing_of(compression, num_values)
    for group in groups(num_values):
        yield packing.unpack(inflater.read, group.stop - group.start)
    inflater.finish()


class _Inflater:
    """A zlib stream of `length` bytes that gives just as much as it is asked for."""

    def __init__(self, source: BinaryIO, length: int) -> None:
        self._source = source
        self._left = length
        self._inflater = zlib.decompressobj()

    def read(self, count: int) -> Bytes:
        """The next `count` bytes. Raises PayloadTruncated if there are fewer."""
        data = np.empty(count, np.uint8)
        buffer, filled = data.data, 0
        while filled < count:
            part, is_last = self._step(count - filled)
            if not part and is_last:
                raise PayloadTruncated("the compressed values end before there are enough of them")
            buffer[filled : filled + len(part)] = part
            filled += len(part)
        return data

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
