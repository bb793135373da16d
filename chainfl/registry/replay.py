"""The next global model out of public data: what the aggregator computes, and what anybody computes again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chainfl.aggregation.mean import check_weight
from chainfl.aggregation.rules import WeightedSource, apply_rule, require_standing, state_block, total_of
from chainfl.aggregation.server_step import Advanced, Server
from chainfl.disputes.faults import stated_vector
from chainfl.disputes.openings import CommittedVector
from chainfl.encoding.arrays import Int16Array, Int32Array, Int64Array, blocks
from chainfl.encoding.chunk_tree import VectorKind, check_root, vector_root
from chainfl.encoding.sources import VectorSource, as_source, require_source
from chainfl.errors import LineageBroken
from chainfl.registry.material import TaskScope, fetch_update, spool_update
from chainfl.storage.port import BlobStore
from chainfl.tasks.state import ZERO_ROOT, Claim, Format, RevealedUpdate, Rule, TalliedUpdate
from chainfl.types import Root

WeightedUpdate = tuple[Int16Array | VectorSource, int]
"""(P,) int16 with the weight that the validators gave it."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplayedRound:
    """What a round's aggregator must claim, and the vectors behind it.

    model: (P,) int32, the next global model, and its root. state: (state_params,) int32, the server's next state, None
    where it keeps none; its root is then zeros. group_roots: of the sum of each group, empty unless there are groups.
    num_saturated: values at the end of int32.
    """

    model: Int32Array
    root: Root
    num_updates: int
    total_weight: int
    num_saturated: int
    state: Int32Array | None = None
    state_root: Root = ZERO_ROOT
    group_roots: tuple[Root, ...] = ()

    def claim(self) -> Claim:
        """The three kinds of roots, as they are posted."""
        return Claim(self.root, self.state_root, self.group_roots)


def replay_round(
    model: Int32Array, updates: Iterable[WeightedUpdate], form: Format, *, state: Int32Array | None = None
) -> ReplayedRound:
    """The task's rule over one round, bit for bit as the contract would compute it.

    model: (P,) int32 and state: (state_params,) int32, what the round starts from; None is a state of zeros. updates:
    with their weights, in the order of the tally. For the mean one is held at a time, and the order matters only when
    there are groups. The other rules read all of them side by side, in blocks: give them sources that are not in memory
    (`accepted_updates` does). Raises AggregationError when nothing has a weight.
    """
    if form.has_state and state is None:
        state = np.zeros(form.state_params, np.int32)
    if form.rule is Rule.MEAN:
        return _replay_mean(model, state, updates, form)
    accepted = [WeightedSource(as_source(values), weight) for values, weight in updates if weight]
    advanced = apply_rule(form, model, state, accepted)
    return _sealed(advanced, form, accepted=len(accepted), total=sum(update.weight for update in accepted))


def accepted_updates(
    store: BlobStore,
    scope: TaskScope,
    round_number: int,
    base_root: Root,
    revealed: Sequence[RevealedUpdate],
    tallied: Sequence[TalliedUpdate],
    *,
    spooled: bool | None = None,
) -> Iterator[WeightedUpdate]:
    """Fetches the updates of non-zero weight in the order of the tally, each checked against what its worker revealed.

    What validators accepted counts, as the contract counts it, also where a value is out of range or a sum is a lie:
    those cost their worker a slash, and nobody else the round.
    spooled: give them as files that can be read again, in blocks, rather than as arrays, one at a time; by default
    where the task's rule needs that. The files have no name, and vanish with the results.
    Raises StorageError or PayloadError for bytes that are not there or not what was revealed, LineageBroken when the
    chain's own records contradict one another.
    """
    as_file = scope.format.rule is not Rule.MEAN if spooled is None else spooled
    by_worker = {update.worker: update for update in revealed}
    for tally in tallied:
        if tally.weight == 0:
            continue
        update = by_worker.get(tally.worker)
        if update is None or update.root != tally.root:
            raise LineageBroken(
                f"round {round_number}: the update that was tallied for {tally.worker} is not the one revealed"
            )
        fetch = spool_update if as_file else fetch_update
        values = fetch(store, scope, round_number, base_root, update, in_range=False, rooted=False)
        _check_counts(as_source(values), scope.format, update)
        yield values, tally.weight


def _check_counts(source: VectorSource, form: Format, update: RevealedUpdate) -> None:
    """Raises RootMismatch unless a tree over these values leads to the revealed root, true in its sums or not."""
    vector = CommittedVector.of(source, form, VectorKind.UPDATE)
    if vector.root != update.root and stated_vector(vector, update.root, update.squared_norm) is None:
        check_root(vector.root, update.root)


class _Sums:
    """The weighted sum of a round, and the roots of its groups' sums, from updates that arrive one by one."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._group: Int64Array = np.zeros(form.num_params, np.int64)
        self._whole: Int64Array | None = None  # only once there is a second group
        self._roots: list[Root] = []
        self.weights: list[int] = []

    def add(self, source: VectorSource, weight: int) -> None:
        require_source(source, np.int16, self._form.num_params, "update")
        if self.weights and len(self.weights) % self._form.group_size == 0:
            self._close_group()
        self.weights.append(weight)
        for block in blocks(source.size):
            # 10,000 * 32,768 < 2^31: the product fits int32, the sum needs int64.
            values = source.read(block.start, block.stop)
            self._group[block] += np.multiply(values, np.int32(weight), dtype=np.int32)

    def finish(self) -> tuple[Int64Array, tuple[Root, ...]]:
        """S, (P,) int64, and the groups' roots. Nothing can be added afterwards."""
        if self._whole is None:
            return self._group, ()
        self._close_group()
        return self._whole, tuple(self._roots)

    def _close_group(self) -> None:
        self._roots.append(vector_root(self._group, self._form.chunk_params, VectorKind.GROUP_SUM))
        if self._whole is None:
            self._whole = np.zeros_like(self._group)
        self._whole += self._group
        self._group[:] = 0


def _replay_mean(
    model: Int32Array, state: Int32Array | None, updates: Iterable[WeightedUpdate], form: Format
) -> ReplayedRound:
    require_standing(form, model, state)
    sums = _Sums(form)
    for values, weight in updates:
        check_weight(weight)
        if weight:
            sums.add(as_source(values), weight)
    total = total_of(form, sums.weights)
    whole, group_roots = sums.finish()
    advanced = _advance(Server(form), whole, total, model, state)
    return _sealed(advanced, form, accepted=len(sums.weights), total=total, group_roots=group_roots)


def _advance(server: Server, sums: Int64Array, total: int, model: Int32Array, state: Int32Array | None) -> Advanced:
    """The server step of a whole model, in blocks that stay in cache; `sums` is consumed."""
    next_model = np.empty_like(model)
    next_state = None if state is None else np.empty_like(state)
    num_saturated = 0
    for block in blocks(model.size):
        of_state = state_block(server.form, block)
        moved = server.advance(sums[block], total, model[block], None if state is None else state[of_state])
        next_model[block] = moved.model
        if next_state is not None:
            next_state[of_state] = moved.state
        num_saturated += moved.num_saturated
    return Advanced(next_model, next_state, num_saturated)


def _sealed(
    advanced: Advanced, form: Format, *, accepted: int, total: int, group_roots: tuple[Root, ...] = ()
) -> ReplayedRound:
    state_root = ZERO_ROOT
    if advanced.state is not None:
        state_root = vector_root(advanced.state, form.chunk_params, VectorKind.STATE)
    return ReplayedRound(
        model=advanced.model,
        root=vector_root(advanced.model, form.chunk_params, VectorKind.MODEL),
        num_updates=accepted,
        total_weight=total,
        num_saturated=advanced.num_saturated,
        state=advanced.state,
        state_root=state_root,
        group_roots=group_roots,
    )
