"""Answering demands for chunks of updates: by the worker whose update it is, and by those who vouched for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from chainfl.agents.actions import Act, Action, Do, Wait
from chainfl.agents.context import AgentContext
from chainfl.agents.ports import MAX_AT_ONCE, DemandAnswer, SendResult
from chainfl.disputes.openings import update_opening
from chainfl.encoding.arrays import Int16Array
from chainfl.errors import BlobNotFound, EncodingError, StorageError
from chainfl.tasks.rules import depth_of
from chainfl.tasks.state import Demand, Format, Role, Snapshot

ANSWER_GAS = 100_000
"""Of an answer beside its calldata: 98k was measured, for a short path."""

CALLDATA_GAS = 40
"""For a byte, at the floor of EIP-7623, which is more than most answers pay."""

MAX_TRIES = 3

ReadUpdate = Callable[[Demand], Int16Array]
"""The values of the update that a demand is about: (P,) int16."""

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Asked:
    """A demand that this account answers, from chain time `due` on."""

    demand: Demand
    due: int


def with_answer(action: Action, due: int | None, now: int) -> Action:
    """The action, or the answer to a demand once it is due; a wait ends when it is."""
    if due is None:
        return action
    if now >= due:
        return Act(Do.ANSWER_DEMAND)
    if not isinstance(action, Wait):
        return action
    return replace(action, until=due if action.until is None else min(due, action.until))


def first_due(asked: Sequence[Asked]) -> int | None:
    """Chain time from which there is something to answer; None when nobody asks."""
    return min((one.due for one in asked), default=None)


def opening_bytes(form: Format) -> int:
    """The length of a packed opening of an update whose sums add up."""
    return 9 + 2 * form.chunk_params + 40 * depth_of(form)


class Answers:
    """The demands of the current round that one account answers, and what became of its tries."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._done_with: set[Key] = set()
        self._tries: dict[Key, int] = {}

    def own(self, snapshot: Snapshot) -> list[Asked]:
        """The demands for this worker's own update, the soonest deadline first.

        A late one costs the worker nothing, so its fee must pay.
        """
        if not snapshot.round.demands or not snapshot.me.has_revealed(snapshot.round.round):
            return []
        chain = self._context.chain
        me = chain.members(snapshot.task_id, Role.WORKER).index(chain.account)
        open_ = [d for d in self._open(snapshot) if d.worker_index == me and (not d.is_late or self._pays(d))]
        return _in_order(snapshot, open_, after_s=0)

    def vouched(self, snapshot: Snapshot, vouched: Callable[[int], bool]) -> list[Asked]:
        """The late demands for updates that this validator vouched for, the soonest deadline first.

        vouched: of a worker, by its index.
        Unanswered it costs stake. Its worker goes first, then the validators, each a little later than the one before.
        """
        if not snapshot.round.demands:
            return []
        open_ = [d for d in self._open(snapshot) if d.is_late and vouched(d.worker_index)]
        if not open_:
            return []
        chain, answer_s = self._context.chain, snapshot.task.windows.answer
        order = sorted(chain.members(snapshot.task_id, Role.VALIDATOR), key=str.lower)
        after_s = (1 + order.index(chain.account)) * max(1, answer_s // 8)
        return _in_order(snapshot, open_, after_s=min(after_s, answer_s // 2))

    def answer(self, snapshot: Snapshot, asked: Sequence[Asked], read: ReadUpdate) -> tuple[SendResult, ...]:
        """Sends the openings that are due, all at once, and leaves out those of updates that cannot be read."""
        due = [one.demand for one in asked if snapshot.block.timestamp >= one.due][:MAX_AT_ONCE]
        # An update is large, and most demands at once are for the same one.
        due.sort(key=lambda demand: demand.worker_index)
        steps = list(self._openings(due, read))
        return self._context.chain.dispute_all(snapshot.task_id, steps) if steps else ()

    def _openings(self, demands: Sequence[Demand], read: ReadUpdate) -> Iterator[DemandAnswer]:
        """What may be readable later is tried again a little."""
        form, values, whose = self._context.scope.format, None, -1
        for demand in demands:
            if values is None or demand.worker_index != whose:
                values, whose = self._read(demand, read), demand.worker_index
            if values is not None:
                opening = update_opening(values, form, demand.chunk_index)
                yield DemandAnswer(demand.round, demand.worker_index, demand.chunk_index, opening)

    def _read(self, demand: Demand, read: ReadUpdate) -> Int16Array | None:
        try:
            return read(demand)
        except (StorageError, EncodingError, OSError) as error:
            self._failed(demand, error)
            return None

    def _open(self, snapshot: Snapshot) -> list[Demand]:
        view, now = snapshot.round, snapshot.block.timestamp
        demands = self._context.chain.open_demands(snapshot.task_id, view.round, view.opened_block)
        return [demand for demand in demands if now < demand.deadline and _key(demand) not in self._done_with]

    def _pays(self, demand: Demand) -> bool:
        """Whether half of the fee, which is not burned, is worth the gas; it is where the operator names no price."""
        price = self._context.token_price_wei
        if price is None:
            return True
        form = self._context.scope.format
        gas = ANSWER_GAS + CALLDATA_GAS * opening_bytes(form)
        cost, fee = gas * self._context.chain.gas_price_wei(), demand.fee // 2 * price // 10**18
        if fee < cost:
            self._done_with.add(_key(demand))
            self._context.log.emit("demand_not_worth_it", chunk=demand.chunk_index, fee_wei=fee, cost_wei=cost)
        return fee >= cost

    def _failed(self, demand: Demand, error: Exception) -> None:
        key = _key(demand)
        self._tries[key] = self._tries.get(key, 0) + 1
        if not isinstance(error, BlobNotFound) or self._tries[key] >= MAX_TRIES:
            self._done_with.add(key)
        kind = type(error).__name__
        self._context.log.emit(
            "cannot_answer", level=logging.ERROR, chunk=demand.chunk_index, error=kind, why=str(error)
        )


def _in_order(snapshot: Snapshot, demands: Sequence[Demand], *, after_s: int) -> list[Asked]:
    """after_s: how long after it was made a demand is answered."""
    answer_s = snapshot.task.windows.answer
    ordered = sorted(demands, key=lambda demand: (demand.deadline, demand.worker_index, demand.chunk_index))
    return [Asked(demand, demand.deadline - answer_s + after_s) for demand in ordered]


def _key(demand: Demand) -> Key:
    return demand.round, demand.worker_index, demand.chunk_index
