"""The next global model out of public data: what the aggregator computes, and what anybody computes again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from chainfl.aggregation.mean import WeightedMean
from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.arrays import Int16Array, Int32Array
from chainfl.encoding.chunk_tree import model_root
from chainfl.errors import LineageBroken
from chainfl.registry.material import TaskScope, fetch_update
from chainfl.storage.port import BlobStore
from chainfl.tasks.state import Format, RevealedUpdate, TalliedUpdate
from chainfl.types import Root

WeightedUpdate = tuple[Int16Array, int]


@dataclass(frozen=True, slots=True, eq=False)
class ReplayedRound:
    """model: (P,) int32, the next global model, and its root. num_saturated: values at the end of int32."""

    model: Int32Array
    root: Root
    num_updates: int
    total_weight: int
    num_saturated: int


def replay_round(model: Int32Array, updates: Iterable[WeightedUpdate], form: Format) -> ReplayedRound:
    """The task's rule over one round, bit for bit as the contract would compute it.

    model: (P,) int32, the round's global model. updates: (P,) int16 with the weight that the validators gave it, in
    any order; one is held at a time. Raises AggregationError when nothing has a weight.
    """
    mean = WeightedMean(form.num_params, form.model_scale_bits, form.update_scale_bits)
    num_updates = 0
    for values, weight in updates:
        mean.add(values, weight)
        num_updates += weight > 0
    stepped = mean.apply(model, ServerStep(form.step_num, form.step_den))
    root = model_root(stepped.model, form.chunk_params)
    return ReplayedRound(stepped.model, root, num_updates, mean.total_weight, stepped.num_saturated)


def accepted_updates(
    store: BlobStore,
    scope: TaskScope,
    round_number: int,
    base_root: Root,
    revealed: Sequence[RevealedUpdate],
    tallied: Sequence[TalliedUpdate],
) -> Iterator[WeightedUpdate]:
    """Fetches the updates of non-zero weight, one at a time, each checked against what its worker revealed.

    Raises StorageError or PayloadError for bytes that are not there or not what was revealed, LineageBroken when the
    chain's own records contradict one another.
    """
    by_worker = {update.worker: update for update in revealed}
    for tally in tallied:
        if tally.weight == 0:
            continue
        update = by_worker.get(tally.worker)
        if update is None or update.root != tally.root:
            raise LineageBroken(
                f"round {round_number}: the update that was tallied for {tally.worker} is not the one revealed"
            )
        yield fetch_update(store, scope, round_number, base_root, update), tally.weight
