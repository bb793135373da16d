"""The rule of a task over its updates: one block of coordinates at a time, or a whole round, on both cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from chainfl.aggregation import columns as numpy_columns
from chainfl.aggregation.columns import Columns, columns_for, weighted_sum
from chainfl.aggregation.mean import check_weight
from chainfl.aggregation.median import lower_median
from chainfl.aggregation.server_step import Advanced, Server, check_total_weight
from chainfl.aggregation.trimmed_mean import trim_count, trimmed_sum
from chainfl.encoding.arrays import Int16Array, Int32Array, Int64Array, blocks, require_vector
from chainfl.encoding.sources import VectorSource, require_source
from chainfl.errors import AggregationError
from chainfl.tasks.state import Format, Rule

READ_BLOCK = 1 << 16
"""Coordinates read at a time: 32 updates are then 4 MB, and a read is long enough to be worth its call."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class WeightedSource:
    """An update that was accepted. values: (P,) int16, verified. weight: 1 to 10,000."""

    values: VectorSource
    weight: int


def rule_sum(
    form: Format, rows: Sequence[Int16Array], weights: Sequence[int], columns: Columns = numpy_columns
) -> tuple[Int64Array, int]:
    """S and W of a block of coordinates under the task's rule. rows: n times (m,) int16, all of non-zero weight.

    returns: (m,) int64 and what it is divided by: the sum of the weights, or how many values count.
    """
    if form.rule is Rule.MEAN:
        return columns.weighted_sum(rows, weights), sum(weights)
    if form.rule is Rule.MEDIAN:
        return lower_median(rows, columns), 1
    trim = trim_count(len(rows), form.trim_num, form.trim_den)
    return trimmed_sum(rows, trim, columns), len(rows) - 2 * trim


def group_sums(form: Format, rows: Sequence[Int16Array], weights: Sequence[int]) -> list[Int64Array]:
    """The sum of each group over a block of coordinates; empty when one group holds all updates (or the rule has none).

    rows: in the order of the tally. returns: a (m,) int64 for each group of `group_size` updates.
    """
    groups = blocks(len(rows), form.group_size)
    if form.num_groups(len(rows)) == 0:
        return []
    return [weighted_sum(rows[group], weights[group]) for group in groups]


def total_of(form: Format, weights: Sequence[int]) -> int:
    """W of the whole round. Raises AggregationError where it cannot be."""
    for weight in weights:
        check_weight(weight)
    if form.rule is Rule.MEAN:
        total = sum(weights)
    elif form.rule is Rule.MEDIAN:
        total = 1
    else:
        total = len(weights) - 2 * trim_count(len(weights), form.trim_num, form.trim_den)
    if not weights or total == 0:
        raise AggregationError("the total weight is zero: the round is void")
    check_total_weight(Server(form).step, total, form.model_scale_bits, form.update_scale_bits)
    return total


def read_rows(updates: Sequence[WeightedSource], block: slice) -> list[Int16Array]:
    """The same coordinates of every update."""
    return [update.values.read(block.start, block.stop) for update in updates]


def apply_rule(
    form: Format, model: Int32Array, state: Int32Array | None, updates: Sequence[WeightedSource]
) -> Advanced:
    """A whole round under the task's rule, holding no more than a block of each update.

    model: (P,) int32. state: (state_params,) int32, None without one. updates: those of non-zero weight, in the order
    of the tally; their sources are read once, from several threads. Raises AggregationError if there are none.
    """
    server, weights = Server(form), [update.weight for update in updates]
    total_of(form, weights)
    require_standing(form, model, state)
    for update in updates:
        require_source(update.values, np.int16, form.num_params, "update")
    columns = columns_for(form.num_params * len(updates))
    next_model = np.empty(form.num_params, np.int32)
    next_state = None if state is None else np.empty(form.state_params, np.int32)

    def advance(block: slice) -> int:
        sums, total = rule_sum(form, read_rows(updates, block), weights, columns)
        of_state = state_block(form, block)
        moved = server.advance(sums, total, model[block], None if state is None else state[of_state])
        next_model[block] = moved.model
        if next_state is not None:
            next_state[of_state] = moved.state
        return moved.num_saturated

    return Advanced(next_model, next_state, sum(walk(form.num_params, advance)))


def state_block(form: Format, block: slice) -> slice:
    """Where a block of coordinates has its moments in the server's state."""
    return slice(form.num_moments * block.start, form.num_moments * block.stop)


def walk(num_params: int, work: Callable[[slice], _T], block_size: int = READ_BLOCK) -> Iterator[_T]:
    """`work` of every block of coordinates, in order, in a thread for each core (two at most).

    Only a few blocks are under way at a time, and none is begun any more once the caller stops to ask.
    """
    threads = min(2, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[_T]] = []
        try:
            for block in blocks(num_params, block_size):
                waiting.append(pool.submit(work, block))
                if len(waiting) > threads:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def require_standing(form: Format, model: Int32Array, state: Int32Array | None) -> None:
    """Raises AggregationError or EncodingError unless both vectors are of the task's sizes, and int32."""
    for name, vector, size in (("model", model, form.num_params), ("state", state, form.state_params)):
        if vector is None:
            continue
        require_vector(vector, np.int32, name)
        if vector.size != size:
            raise AggregationError(f"the {name} has {vector.size} values, not {size}", expected=size)
