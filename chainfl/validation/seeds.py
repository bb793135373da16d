"""Draws that every validator makes alike: from a seed that all can compute, by an algorithm that no library changes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def round_draw(sums: Sequence[int], context: bytes = b"") -> bytes:
    """32 bytes from the sums of squares that all updates of the round were revealed with, in order.

    The sums bind the draw to updates that were committed before anybody had seen another's. So nobody could choose an
    update by what the draw would be, unless it could compute all the others (docs/decisions/012); who withholds a
    reveal to change it is slashed. context: told apart by it, such as the task and round, and a block's hash.
    """
    text = b"".join(total.to_bytes(8, "big") for total in sums)
    return hashlib.sha256(b"chainfl round draw" + hashlib.sha256(context).digest() + text).digest()


def shuffled(count: int, seed: bytes) -> list[int]:
    """0 to count - 1 in an order that is as good as random: that of their hashes with the seed."""
    return sorted(range(count), key=lambda place: hashlib.sha256(seed + place.to_bytes(8, "big")).digest())
