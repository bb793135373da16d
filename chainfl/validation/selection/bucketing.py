"""Bucketing: before a rule looks, updates are averaged in buckets at random, which evens skewed data out.

Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, ICLR 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from chainfl.encoding.arrays import blocks
from chainfl.validation.seeds import shuffled
from chainfl.validation.selection.candidates import Candidates, Mixing
from chainfl.validation.selection.rule import require_count


@dataclass(frozen=True, slots=True)
class Bucketing:
    """The means of buckets of `bucket_size` updates (the last one may be smaller), in an order drawn from the seed.

    All validators have the same seed, which nobody could know when it committed to its update. One liar spoils one
    bucket: the rule behind must bear as many liars among n / bucket_size vectors as there are among n updates.
    """

    bucket_size: int = 2

    def __post_init__(self) -> None:
        require_count("bucket_size", self.bucket_size, least=1)

    def mix(self, candidates: Candidates, seed: bytes) -> Mixing:
        """ceil(n / bucket_size) vectors from n."""
        order = shuffled(len(candidates), seed)
        buckets = [order[bucket] for bucket in blocks(len(order), self.bucket_size)]
        divisor = math.lcm(*map(len, buckets))
        matrix = np.zeros((len(buckets), len(order)), np.int64)
        for row, members in zip(matrix, buckets, strict=True):
            row[members] = divisor // len(members)
        return Mixing(matrix, divisor)
