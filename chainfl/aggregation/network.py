"""A sorting network that brings wanted ranks to their places: it compares the same places whatever the values are.

It is Batcher's odd-even merge sort (Batcher 1968; Knuth, TAOCP 5.2.2, Algorithm M), without the comparators that the
wanted ranks do not need. Every comparator is a minimum and a maximum over whole rows of columns, which is SIMD.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache


@lru_cache(maxsize=64)
def selection_network(count: int, first: int, last: int) -> tuple[tuple[int, int], ...]:
    """Pairs of places; each puts the smaller value at the first of them and the larger at the second, in this order.

    After it, places `first` to `last` hold the values of these ranks (from 0, ascending), in no order among them. The
    other places hold what is left. Walked backwards, each place is known to be read later by itself (a name of its
    own), to be one of those wanted (whose order does not matter), or to be read by nobody. A comparator of two places
    that are alike does nothing.
    """
    wanted, unread = -1, -2
    labels = [wanted if first <= place <= last else unread for place in range(count)]
    kept: list[tuple[int, int]] = []
    for low, high in reversed(list(_odd_even_merge_sort(count))):
        if labels[low] == labels[high] and labels[low] < 0:
            continue
        kept.append((low, high))
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
