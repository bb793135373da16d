"""Vectors that are read a piece at a time, again and again: arrays, and files of which only blocks are in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from chainfl.encoding.arrays import AnyArray
from chainfl.errors import EncodingError, PayloadTruncated


class VectorSource(Protocol):
    """A vector that can be read in any order, and by several threads at once."""

    @property
    def size(self) -> int:
        """How many values it has."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a value in memory."""
        ...

    def read(self, start: int, stop: int) -> AnyArray:
        """Values [start, stop). Not to be modified: it may be a view."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """A vector in memory."""

    values: AnyArray

    @property
    def size(self) -> int:
        """How many values it has."""
        return self.values.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a value."""
        return self.values.dtype

    def read(self, start: int, stop: int) -> AnyArray:
        """A view of [start, stop)."""
        return self.values[start:stop]


@dataclass(frozen=True, slots=True)
class ZeroSource:
    """A vector of zeros, whatever its size, in no memory."""

    size: int
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> AnyArray:
        """Zeros."""
        return np.zeros(stop - start, self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class FileSource:
    """Little-endian values in an open file, from byte `offset` on.

    The file stays open as long as the source lives, so it may have lost its name meanwhile.
    """

    file: BinaryIO
    offset: int
    size: int
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> AnyArray:
        """Values [start, stop), without moving the file's position. Raises PayloadTruncated where the file ends."""
        values: npt.NDArray[Any] = np.empty(stop - start, self.dtype.newbyteorder("<"))
        target = values.data.cast("B")
        at = self.offset + start * self.dtype.itemsize
        while target.nbytes:
            count = os.preadv(self.file.fileno(), [target], at)
            if count == 0:
                raise PayloadTruncated("the file ends before its values do", offset=at)
            target, at = target[count:], at + count
        return values.astype(self.dtype, copy=False)


def as_source(values: AnyArray | VectorSource) -> VectorSource:
    """An array as a source; a source as it is."""
    return ArraySource(values) if isinstance(values, np.ndarray) else values


def require_source(source: VectorSource, dtype: type[np.generic], size: int, name: str) -> None:
    """Raises EncodingError unless the source has exactly this type and size."""
    if source.dtype != np.dtype(dtype):
        raise EncodingError(f"{name} is {source.dtype}, not {np.dtype(dtype)}", dtype=str(source.dtype))
    if source.size != size:
        raise EncodingError(f"{name} has {source.size} values, not {size}", expected=size)
