"""The array types of the integer path, and the walk in blocks that keeps their temporaries in cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from chainfl.errors import EncodingError

Float32Array: TypeAlias = npt.NDArray[np.float32]
Int16Array: TypeAlias = npt.NDArray[np.int16]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
AnyArray: TypeAlias = npt.NDArray[Any]

BLOCK = 1 << 15
"""Values a block: at 4 bytes each, a handful of temporaries of this length fit into a core's own cache."""


def blocks(length: int, size: int = BLOCK) -> Iterator[slice]:
    """Slices of at most `size` that cover [0, length) in order."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def require_vector(values: AnyArray, dtype: type[np.generic], name: str) -> None:
    """Raises EncodingError unless `values` is a non-empty vector of exactly this type.

    Nothing is converted on the way: an int64 that silently became an int16 would change its meaning.
    """
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.size == 0:
        raise EncodingError(f"{name} is not a non-empty vector", shape=getattr(values, "shape", None))
    if values.dtype != np.dtype(dtype):
        raise EncodingError(f"{name} is {values.dtype}, not {np.dtype(dtype)}", dtype=str(values.dtype))
