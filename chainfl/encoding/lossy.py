"""What is left of an update in the task's form of compression: integers, rounded and left out by integer rules.

The result is the update: its root and its sum of squares are what a worker commits to. What was lost goes into the
worker's residual, so that it is sent later.

Blocks with a scale of their own, as in `int8` and `int4`: Dettmers, Lewis, Shleifer, Zettlemoyer, 8-bit Optimizers via
Block-wise Quantization, ICLR 2022 (of optimisers' states, by a codebook; here codes are evenly spaced). `topk`: Aji,
Heafield, Sparse Communication for Distributed Gradient Descent, EMNLP 2017; Stich, Cordonnier, Jaggi, Sparsified SGD
with Memory, NeurIPS 2018. Error feedback, which sends later what was lost: Seide, Fu, Droppo, Li, Yu, 1-Bit Stochastic
Gradient Descent and its Application to Data-Parallel Distributed Training of Speech DNNs, Interspeech 2014;
Karimireddy, Rebjock, Stich, Jaggi, Error Feedback Fixes SignSGD and other Gradient Compression Schemes, ICML 2019.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from chainfl.encoding.arrays import Int16Array, Int32Array, require_vector
from chainfl.encoding.packing import BLOCKS, Blocks, groups, in_blocks, most_kept
from chainfl.types import Compression

_BLOCK_LOSS_BOUND = Fraction(4)


def lossy_values(values: Int16Array, compression: Compression) -> Int16Array:
    """The values that the form holds instead of these; these themselves where it holds any.

    values: (P,) int16, none of them -32768. returns: (P,) int16.
    topk keeps the largest magnitudes, of equal ones those at lower coordinates. Then each block is rounded, half to
    even, to multiples of the least power of two with which its largest magnitude is below 2^(bits - 1) steps; what
    rounds up to just that many steps becomes one less.
    """
    require_vector(values, np.int16, "update")
    if compression.name not in BLOCKS:
        return values
    kept = _largest(values, most_kept(compression, values.size)) if compression.name == "topk" else values
    rounded = np.empty_like(values)
    for group in groups(values.size):
        rounded[group] = _rounded(kept[group], BLOCKS[compression.name])
    return rounded


def loss_bound(compression: Compression) -> Fraction:
    """How many times as long as the longest difference a residual gets at most by compression alone.

    With a form that always brings at least the share s of the sum of squares, the bound is 2 / s (Karimireddy et al.
    2019, lemma 3): a half in blocks, and of topk a half of the share that it keeps. 1 where nothing is lost.
    """
    if compression.name not in BLOCKS:
        return Fraction(1)
    return _BLOCK_LOSS_BOUND / compression.keep if compression.name == "topk" else _BLOCK_LOSS_BOUND


def _largest(values: Int16Array, count: int) -> Int16Array:
    """The values with all zero but `count` of them."""
    if count >= values.size:
        return values
    magnitudes = np.abs(values)
    least = np.partition(magnitudes, values.size - count)[values.size - count]
    is_kept = magnitudes > least
    equal = np.flatnonzero(magnitudes == least)
    is_kept[equal[: count - np.count_nonzero(is_kept)]] = True
    return np.where(is_kept, values, np.int16(0))


def _rounded(values: Int16Array, form: Blocks) -> Int16Array:
    rows = in_blocks(values, form.size)
    shifts = _shifts(np.abs(rows).max(axis=1), form)[:, np.newaxis]
    # Half to even: just below half of a step, and one more where the step before is odd.
    half = (1 << shifts >> 1) - (shifts > 0)
    codes = rows + half + (rows >> shifts & (shifts > 0)) >> shifts
    np.clip(codes, -form.limit, form.limit, out=codes)
    rounded: Int16Array = (codes << shifts).reshape(-1)[: values.size].astype(np.int16)
    return rounded


def _shifts(largest: Int32Array, form: Blocks) -> Int32Array:
    """Of each block: how many bits its largest magnitude has beyond what a code holds."""
    shifts = np.zeros(largest.size, np.int32)
    for bits in range(form.bits - 1, 15):
        shifts += largest >> bits > 0
    return shifts
