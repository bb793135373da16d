"""What need not be kept for ever: the payloads of rounds that nobody can dispute any more. Final models are kept."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from functools import partial

from chainfl.agents.background import Background
from chainfl.agents.context import AgentContext
from chainfl.agents.journal import journalled_tasks
from chainfl.agents.ports import ChainPort
from chainfl.errors import ChainflError, InvalidCid, JournalDamaged, UsageError
from chainfl.registry.material import fetch_spec
from chainfl.storage.port import BlobStore
from chainfl.tasks.cids import cid_text
from chainfl.tasks.spec import ProgramModel, TaskSpec, spec_cid
from chainfl.tasks.state import CidOnChain, RoundView, Snapshot, TaskView
from chainfl.types import Address, Cid, TaskId

ROUNDS_IN_USE = 1
"""The newest finished rounds of a task that runs whose updates stay: from them, a model that nobody serves is computed
again, which the next round needs."""
LAST_DROPS_S = 60.0
"""How long an agent that ends waits for its store to drop."""
AGAIN_S = 60
"""Chain time after which what a store would not drop is tried again."""

_RECORD = "retention.json"

log = logging.getLogger(__name__)


def past_dispute(view: RoundView) -> range:
    """The rounds whose payloads may go, oldest first: of a task that is over all, since nothing of it can be disputed
    any more; else all but the one that runs and the newest finished ones."""
    last = view.round if view.phase.is_terminal else view.round - 1 - ROUNDS_IN_USE
    return range(1, last + 1)


def protected(chain: ChainPort, store: BlobStore, tasks: Iterable[TaskId]) -> frozenset[Cid]:
    """What is kept whoever names it, since a stranger may reveal any CID as that of an update: of each task the models
    of its lineage with their float32 files, its specification, and what that names, each shard of a data set included.

    What a specification names cannot be protected while nobody gives the specification: a warning says so.
    """
    return frozenset(cid for task_id in tasks for cid in _content_of(chain, store, task_id))


def _content_of(chain: ChainPort, store: BlobStore, task_id: TaskId) -> Iterator[Cid]:
    try:
        task = chain.task(task_id)
    except UsageError:  # of a chain that began anew, for one
        return
    yield spec_cid(task.spec_hash)
    yield from _texts(chain.model_files(task_id, task.created_block))
    try:
        yield from named_by(store, fetch_spec(store, task))
    except ChainflError as error:
        log.warning("what task %d is about is not known, and so not protected from being dropped: %s", task_id, error)


def named_by(store: BlobStore, spec: TaskSpec) -> Iterator[Cid]:
    """The CIDs in a specification, and those of its data set's shards. Raises what reading the description raises."""
    from chainfl.data.fetching import fetch_description

    program = spec.model.cid if isinstance(spec.model, ProgramModel) else None
    description = spec.dataset.description_cid
    named = (spec.genesis.cid, spec.genesis.float_cid, program, spec.validation.root_set_cid, description)
    yield from (Cid(cid) for cid in named if cid)
    if description:
        yield from (shard.cid for shard in fetch_description(store, Cid(description)).shards)


def droppable(
    chain: ChainPort,
    task_id: TaskId,
    task: TaskView,
    round_number: int,
    kept: frozenset[Cid],
    account: Address | None = None,
) -> frozenset[Cid]:
    """What of a finished round need not be kept: its updates, and models that did not become final.

    kept: what is `protected`. account: only what that account published; None for everybody's.
    """
    revealed = chain.revealed_updates(task_id, round_number, task.created_block)
    posted = chain.posted_aggregates(task_id, round_number, task.created_block)
    final, _ = chain.model_location(task_id, round_number)
    fallen = {
        cid
        for one in posted
        if one.claim.model_root != final and account in (None, one.poster)
        for cid in (one.cid, one.float_cid)
    }
    updates = {update.cid for update in revealed if account in (None, update.worker)}
    return frozenset(_texts(updates | fallen)) - kept


def _texts(cids: Iterable[CidOnChain]) -> Iterator[Cid]:
    for cid in cids:
        # What a stranger revealed as its CID may be none; then nobody keeps anything under it.
        with contextlib.suppress(InvalidCid):
            yield cid_text(cid)


class Retention:
    """One agent's, in one task: drops its own payloads, beside the loop, as rounds pass out of dispute."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._drops = Background(at_once=1)
        self._next = self._remembered()  # the oldest round of which not all is known to be dropped
        self._again_at = 0
        self._told: set[int] = set()

    def look(self, snapshot: Snapshot) -> None:
        """Starts dropping what is due or failed a while ago, and returns at once. Never raises what a store caused."""
        due = range(self._next, past_dispute(snapshot.round).stop)
        if self._context.retention == "all" or not due:
            return
        self._move_mark(due)
        now = snapshot.block.timestamp
        again = now >= self._again_at
        if again:
            self._again_at = now + AGAIN_S
        for number in due:
            if again or self._drops.failure(number) is None:
                self._drops.start(number, partial(self._drop, number))

    def finish(self, snapshot: Snapshot) -> None:
        """The same for an agent that ends: also waits, up to LAST_DROPS_S, until what is due is dropped."""
        self._again_at = 0
        self.look(snapshot)
        due = range(self._next, past_dispute(snapshot.round).stop)
        self._drops.wait(due, LAST_DROPS_S)
        self._move_mark(due)

    def _move_mark(self, due: range) -> None:
        """To the oldest round of which something may be left; dropping twice what a kill hid from it does nothing."""
        oldest = next((number for number in due if not self._drops.is_done(number)), due.stop)
        if oldest > self._next:
            self._next = oldest
            self._context.journal.keep(_RECORD, json.dumps({"next_round": oldest}).encode())

    def _drop(self, round_number: int) -> None:
        """Tries all of the round's payloads. Raises what kept one of them."""
        try:
            cids = self._droppable(round_number)
            kept = [error for cid in cids if (error := self._what_keeps(cid))]
            if kept:
                raise kept[0]
        except ChainflError as error:
            self._tell_once(round_number, error)
            raise
        self._context.log.emit("dropped", level=logging.DEBUG, of_round=round_number, payloads=len(cids))

    def _what_keeps(self, cid: Cid) -> ChainflError | None:
        try:
            self._context.store.drop(cid)
        except ChainflError as error:
            return error
        return None

    def _tell_once(self, round_number: int, error: ChainflError) -> None:
        level = logging.DEBUG if round_number in self._told else logging.WARNING
        self._told.add(round_number)
        self._context.log.emit("not_dropped", level=level, of_round=round_number, why=str(error))

    def _droppable(self, round_number: int) -> frozenset[Cid]:
        context = self._context
        chain, task_id = context.chain, context.scope.task_id
        known = journalled_tasks(context.journal.folder.parents[1]) | {task_id}
        kept = protected(chain, context.store, known)
        return droppable(chain, task_id, context.task, round_number, kept, account=chain.account)

    def _remembered(self) -> int:
        path = self._context.journal.folder / _RECORD
        if not path.exists():
            return 1
        try:
            return int(json.loads(path.read_bytes())["next_round"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JournalDamaged(f"{path} cannot be read: {error}", path=str(path)) from error
