"""Values of given ranks out of a few rows, column by column, by a sorting network.

A network compares the same rows whatever their values are, so that each of its comparators is two passes of SIMD
over whole rows: np.minimum and np.maximum. It is Batcher's odd-even merge sort (Batcher 1968; Knuth, TAOCP 5.2.2,
Algorithm M), without what the wanted ranks do not need. For 32 rows of int16 it is an order of magnitude faster than
np.partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from chainfl.encoding.arrays import Int16Array


@dataclass(frozen=True, slots=True)
class Comparator:
    """Puts the smaller of two rows at `low` and the larger at `high`; what nobody reads later is not computed."""

    low: int
    high: int
    keeps_low: bool
    keeps_high: bool


def select_ranks(rows: Sequence[Int16Array], first: int, last: int) -> list[Int16Array]:
    """In each column, the values of ranks `first` to `last` (from 0, ascending), in no order among them.

    rows: n times (m,) int16, not modified. returns: last - first + 1 times (m,) int16.
    """
    wires = list(rows)
    pool: list[Int16Array] = []  # rows of our own that nobody reads any more
    owned = [False] * len(wires)
    for step in selection_network(len(wires), first, last):
        low, high = wires[step.low], wires[step.high]
        if step.keeps_low:
            wires[step.low] = np.minimum(low, high, out=pool.pop() if pool else np.empty_like(low))
        if step.keeps_high:
            # The larger goes into one of the two that were read, if that one is ours.
            target = high if owned[step.high] else pool.pop() if pool else np.empty_like(high)
            wires[step.high] = np.maximum(low, high, out=target)
        if owned[step.low]:
            pool.append(low)
        if owned[step.high] and not step.keeps_high:
            pool.append(high)
        owned[step.low], owned[step.high] = step.keeps_low, step.keeps_high
    return wires[first : last + 1]


@lru_cache(maxsize=64)
def selection_network(count: int, first: int, last: int) -> tuple[Comparator, ...]:
    """What it takes to bring ranks `first` to `last` of `count` values to the places of these numbers.

    Walked backwards, each place is known to be read later by itself (a name of its own), to be one of those wanted
    (whose order does not matter), or to be read by nobody. A comparator of two places that are alike does nothing.
    """
    own, wanted, unread = range(count), -1, -2
    labels = [wanted if first <= place <= last else unread for place in own]
    kept: list[Comparator] = []
    for low, high in reversed(list(_odd_even_merge_sort(count))):
        if labels[low] == labels[high] and labels[low] < 0:
            continue
        kept.append(Comparator(low, high, labels[low] != unread, labels[high] != unread))
        labels[low], labels[high] = low, high
    return tuple(reversed(kept))


def _odd_even_merge_sort(count: int) -> Iterator[tuple[int, int]]:
    """The comparators of the whole network for any number of places, in order."""
    top = 1 << max(0, (count - 1).bit_length() - 1)
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            yield from ((i, i + d) for i in range(count - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
