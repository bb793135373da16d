"""By how much a server with a state moves the model, and where values end that int32 cannot hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainfl.encoding.arrays import Int32Array, Int64Array

_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """moved: (n,) int64, what is added to the model. state: int32, the next one. num_saturated: values cut off."""

    moved: Int64Array
    state: Int32Array
    num_saturated: int


def saturate(values: Int64Array) -> tuple[Int32Array, int]:
    """The nearest int32 of each value, also left in `values`, and how many were beyond."""
    num_saturated = int(np.count_nonzero((values < _INT32_MIN) | (values > _INT32_MAX)))
    if num_saturated:
        np.clip(values, _INT32_MIN, _INT32_MAX, out=values)
    return values.astype(np.int32), num_saturated
