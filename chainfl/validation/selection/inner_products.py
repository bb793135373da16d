"""Inner products of updates, a block of coordinates at a time: exact among updates, whatever the machine.

Everything that a rule needs of vectors (norms, cosines, distances, distances to weighted means) follows from them.
They are those of the centred deltas as the workers committed to them. On float32 models the differences between
workers would drown in what all models have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from chainfl.aggregation.rules import walk
from chainfl.encoding.arrays import Float32Array, Int16Array, Int64Array
from chainfl.encoding.sources import VectorSource, as_source
from chainfl.errors import EncodingError

_BLOCK = 1 << 13
"""Coordinates at a time: 100 updates in float64 are then 6.5 MB, and three blocks at most are in memory at once."""


@dataclass(frozen=True, slots=True, eq=False)
class InnerProducts:
    """exact: (n, n) int64, of updates with one another.

    others: (n + k, k) float64, of k further vectors with the updates and among themselves; each entry is within
    P * 2^-53 of the sum of the magnitudes that it adds up.
    """

    exact: Int64Array
    others: NDArray[np.float64]


def inner_products(updates: Sequence[Int16Array | VectorSource], others: Sequence[Float32Array] = ()) -> InnerProducts:
    """All inner products of n updates, and of k other vectors with everything.

    updates: n times (P,) int16, read once, in blocks. others: k times (P,) float32. Raises EncodingError for vectors
    of different lengths.
    """
    sources = [as_source(values) for values in (*updates, *others)]
    sizes = {source.size for source in sources}
    if len(sizes) > 1:
        raise EncodingError("the updates have different lengths", sizes=[source.size for source in sources])
    num_updates = len(updates)
    exact = np.zeros((num_updates, num_updates), np.int64)
    rough = np.zeros((len(sources), len(others)))

    def of_block(block: slice) -> NDArray[np.float64]:
        rows = torch.empty((len(sources), block.stop - block.start), dtype=torch.float64)
        for row, source in zip(rows.numpy(), sources, strict=True):
            row[:] = source.read(block.start, block.stop)
        products: NDArray[np.float64] = (rows @ rows.T).numpy()
        return products

    for products in walk(max(sizes, default=0), of_block, _BLOCK):
        # A product of two int16 is at most 2^30, so every partial sum of 2^13 of them is an integer below 2^53: float64
        # holds it exactly, in whatever order it is added up. And P <= 2^33 of them, none -32768, stay within int64.
        exact += products[:num_updates, :num_updates].astype(np.int64)
        rough += products[:, num_updates:]
    return InnerProducts(exact, rough)
