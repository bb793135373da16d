"""What a selection rule sees of a round: inner products, never the vectors themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chainfl.aggregation.norms import clip_weights
from chainfl.aggregation.server_step import MAX_WEIGHT
from chainfl.encoding.arrays import Float32Array, Int16Array, Int64Array
from chainfl.encoding.sources import VectorSource
from chainfl.validation.selection.inner_products import inner_products
from chainfl.validation.selection.integers import Integers, multiplied, squared_distances


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A vector beside the candidates. products: (n,), its inner products with them. square: with itself."""

    products: NDArray[np.float64] | Integers
    square: float


@dataclass(frozen=True, slots=True, eq=False)
class Mixing:
    """n vectors made from m: row i says how often each goes into the i-th. Every row adds up to `divisor`.

    matrix: (n, m) int64. So the mixed vectors are matrix @ vectors / divisor, and each is a mean.
    """

    matrix: Int64Array
    divisor: int


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """n vectors to choose from, none of them zero unless mixed: gram / divisor^2 are their inner products.

    gram: (n, n), exact integers. clipped: the weight that clipping at the median norm gives each. scale_bits: a real
    value of 1 is 2^scale_bits. root: the validator's own root update, None if there is none.
    last_mean: the mean update behind the last global step, as integers; last_step: that step itself, at the model's
    finer scale; both None in the first round.
    """

    gram: Integers
    clipped: Sequence[int]
    scale_bits: int
    divisor: int = 1
    root: Reference | None = None
    last_mean: Reference | None = None
    last_step: Reference | None = None

    def __len__(self) -> int:
        return len(self.gram)

    def distances(self) -> Integers:
        """(n, n), squared distances times divisor^2, exactly."""
        return squared_distances(self.gram)

    def cosines(self) -> NDArray[np.float64]:
        """(n, n) cosines; the row of a zero vector is all zero."""
        inverse = _inverse_norms(self.gram)
        cosines: NDArray[np.float64] = self.gram.astype(np.float64) * np.outer(inverse, inverse)
        return cosines

    def cosines_with(self, reference: Reference | None) -> NDArray[np.float64] | None:
        """(n,) cosines with a vector beside them; None when there is none, or when it is zero and points nowhere."""
        if reference is None or not reference.square > 0:
            return None
        cosines: NDArray[np.float64] = reference.products * (_inverse_norms(self.gram) / math.sqrt(reference.square))
        return cosines

    def mixed(self, mixing: Mixing) -> Candidates:
        """The candidates that a mixing makes of these. Clipping then asks for their own median norm."""
        matrix = mixing.matrix
        gram = multiplied(matrix, multiplied(matrix, self.gram).T)
        return replace(
            self,
            gram=gram,
            clipped=clip_weights([int(square) for square in gram.diagonal()]),
            divisor=self.divisor * mixing.divisor,
            root=self.root and replace(self.root, products=matrix @ self.root.products),
            last_mean=self.last_mean and replace(self.last_mean, products=multiplied(matrix, self.last_mean.products)),
            last_step=self.last_step and replace(self.last_step, products=matrix @ self.last_step.products),
        )


def candidates_of(
    updates: Sequence[Int16Array | VectorSource],
    *,
    scale_bits: int,
    clipped: Sequence[int] | None = None,
    root: Float32Array | None = None,
    last_mean: Int16Array | None = None,
    last_step: Float32Array | None = None,
) -> Candidates:
    """n updates as candidates, in one pass over them, holding a few blocks. None of them is zero.

    updates: n times (P,) int16. root, last_mean, last_step: (P,). clipped: by default by the median norm of just these
    updates. Raises EncodingError for vectors of different lengths.
    """
    count, exact, others = len(updates), list(updates), []
    if last_mean is not None:
        exact.append(last_mean)
    for vector in (root, last_step):
        if vector is not None:
            others.append(vector)
    found = inner_products(exact, others)
    squares = [int(square) for square in found.exact.diagonal()]

    def beside(number: int) -> Reference:
        return Reference(found.others[:count, number], float(found.others[len(exact) + number, number]))

    return Candidates(
        gram=found.exact[:count, :count],
        clipped=clip_weights(squares[:count]) if clipped is None else clipped,
        scale_bits=scale_bits,
        root=None if root is None else beside(0),
        last_mean=None if last_mean is None else Reference(found.exact[:count, count], squares[count]),
        last_step=None if last_step is None else beside(len(others) - 1),
    )


def scaled(shares: Sequence[float]) -> list[int]:
    """Weights in proportion to shares: 10,000 for the largest, at least 1 for whatever is positive, 0 for the rest.

    The mean of the updates under them is within 1/10,000 of their spread of that under the shares, or a little more
    where a share is raised to 1.
    """
    top = max(shares, default=0.0)
    return [max(1, round(MAX_WEIGHT * share / top)) if share > 0 else 0 for share in shares]


def _inverse_norms(gram: Integers) -> NDArray[np.float64]:
    """(n,) one over the norm of each vector, 0 for a zero one."""
    norms = np.sqrt(gram.diagonal().astype(np.float64))
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
