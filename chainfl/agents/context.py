"""What an agent works with, and the models that its rounds start from."""

from __future__ import annotations

import io
import logging
import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chainfl.agents.events import AgentReport, EventLog
from chainfl.agents.journal import Journal
from chainfl.agents.ports import ChainPort
from chainfl.encoding.arrays import Int32Array
from chainfl.encoding.payload import Checkpoint, write_model
from chainfl.errors import LineageBroken, NodeBehind, PayloadError, StorageError
from chainfl.registry.material import TaskScope, fetch_checkpoint, fetch_model
from chainfl.registry.replay import accepted_updates, replay_round
from chainfl.storage.port import BlobStore
from chainfl.tasks.spec import TaskSpec
from chainfl.tasks.state import ZERO_ROOT, CidOnChain, TaskView
from chainfl.types import Cid, Root, Wei

RetentionRule = Literal["all", "models"]
"""What an operator keeps. all: whatever was published. models: updates and refuted aggregates go once their round is
past dispute."""

_KEPT_MODELS = 2


@dataclass(frozen=True, slots=True)
class AgentContext:
    """Everything of one agent in one task. claim: collect what was earned when the task is over.

    token_price_wei: native wei that a whole token (10^18) is worth to the operator; None where it names no price.
    stake: what enrolling locks, if that is more than the task asks for.
    """

    chain: ChainPort
    store: BlobStore
    scope: TaskScope
    task: TaskView
    spec: TaskSpec
    journal: Journal
    log: EventLog
    report: AgentReport
    claim: bool = False
    token_price_wei: int | None = None
    retention: RetentionRule = "all"
    stake: Wei | None = None

    def publish(self, data: bytes) -> Cid:
        """Puts bytes into the store and counts them."""
        cid = self.store.put_bytes(data)
        self.report.bytes_published += len(data)
        return cid


class ModelSource:
    """Global models by root, fetched, or computed again from the updates when nobody serves them any more.

    A server's state is next to the model; whoever only trains or scores does not look at it.
    """

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._kept: dict[Root, Int32Array] = {}
        self._states: dict[Root, Int32Array] = {}
        # A validator fetches in the background.
        self._lock = threading.Lock()

    def at_round(self, round_number: int, root: Root) -> Int32Array:
        """The model that a round starts from. returns: (P,) int32 that hashes to `root`.

        Raises LineageBroken if the registry names another root, and what fetching raises if the updates are gone too.
        """
        kept = self._kept.get(root)
        if kept is not None:
            return kept
        found, cid = self._located(round_number - 1)
        if found != root:
            raise LineageBroken(f"the registry's model before round {round_number} is not the one the round names")
        return self._keep(root, self._load(round_number - 1, root, cid))

    def checkpoint_at(self, round_number: int, root: Root, state_root: Root) -> Checkpoint:
        """The model that a round starts from, with the server's state; None for the state where it keeps none.

        state_root: zeros without a state. Raises as `at_round` does.
        """
        if not self._context.scope.format.has_state:
            return Checkpoint(self.at_round(round_number, root), None)
        model, state = self._kept.get(root), self._states.get(state_root)
        if model is not None and state is not None:
            return Checkpoint(model, state)
        found = self._load_checkpoint(round_number, root, state_root)
        assert found.state is not None, "the server keeps a state"
        self.keep(root, found.model, state_root, found.state)
        return found

    def before(self, round_number: int, root: Root) -> Int32Array | None:
        """The model that `root`, the one round `round_number` starts from, was made from; None for the genesis."""
        for earlier in range(round_number - 2, -1, -1):
            found, _ = self._located(earlier)
            if found != root:
                return self.at_round(earlier + 1, found)
        return None

    def keep(
        self, root: Root, model: Int32Array, state_root: Root = ZERO_ROOT, state: Int32Array | None = None
    ) -> None:
        """Remembers a model, and the server's state next to it, that this agent made itself."""
        self._keep(root, model)
        if state is None:
            return
        with self._lock:
            self._states[state_root] = state
            while len(self._states) > _KEPT_MODELS:
                del self._states[next(iter(self._states))]

    def _keep(self, root: Root, model: Int32Array) -> Int32Array:
        with self._lock:
            self._kept[root] = model
            while len(self._kept) > _KEPT_MODELS:
                del self._kept[next(iter(self._kept))]
        return model

    def _located(self, round_number: int) -> tuple[Root, CidOnChain]:
        return self._context.chain.model_location(self._context.scope.task_id, round_number)

    def _load(self, newest_round: int, root: Root, cid: CidOnChain) -> Int32Array:
        try:
            return fetch_model(self._context.store, self._context.scope, root, cid)
        except (StorageError, PayloadError) as error:
            produced = self._round_that_made(newest_round, root)
            if produced == 0:
                raise
            self._context.log.emit("model_missing", level=logging.WARNING, made_in=produced, why=str(error))
            return self._rebuild(produced, root).model

    def _load_checkpoint(self, round_number: int, root: Root, state_root: Root) -> Checkpoint:
        context = self._context
        found, cid = self._located(round_number - 1)
        if found != root:
            raise LineageBroken(f"the registry's model before round {round_number} is not the one the round names")
        try:
            return fetch_checkpoint(context.store, context.scope, root, state_root, cid)
        except (StorageError, PayloadError) as error:
            produced = self._round_that_made(round_number - 1, root)
            if produced == 0:
                # The state is known, whatever the file says: zeros.
                model = self.at_round(round_number, root)
                return Checkpoint(model, np.zeros(context.scope.format.state_params, np.int32))
            context.log.emit("state_missing", level=logging.WARNING, made_in=produced, why=str(error))
            return self._rebuild(produced, root)

    def _state_root_after(self, round_number: int, root: Root) -> Root:
        """The root of the server's state next to the newest model at or before the round; zeros without."""
        context = self._context
        if not context.scope.format.has_state:
            return ZERO_ROOT
        produced = self._round_that_made(round_number, root)
        if produced == 0:
            return context.task.genesis_state_root
        posted = context.chain.posted_aggregates(context.scope.task_id, produced, context.task.created_block)
        if not posted or posted[-1].claim.model_root != root:
            raise NodeBehind(f"the node does not show the aggregate that was posted in round {produced}")
        return posted[-1].claim.state_root

    def _round_that_made(self, newest_round: int, root: Root) -> int:
        """Void rounds keep the model, so the maker is the oldest round whose model this still is."""
        produced = newest_round
        while produced > 0 and self._located(produced - 1)[0] == root:
            produced -= 1
        return produced

    def _rebuild(self, round_number: int, root: Root) -> Checkpoint:
        context = self._context
        base_root, _ = self._located(round_number - 1)
        base = self.checkpoint_at(round_number, base_root, self._state_root_after(round_number - 1, base_root))
        task_id, start = context.scope.task_id, context.task.created_block
        revealed = context.chain.revealed_updates(task_id, round_number, start)
        tallied = context.chain.tallied_updates(task_id, round_number, start)
        updates = accepted_updates(context.store, context.scope, round_number, base_root, revealed, tallied)
        replayed = replay_round(base.model, updates, context.scope.format, state=base.state)
        if replayed.root != root or replayed.state_root != self._state_root_after(round_number, root):
            raise LineageBroken(f"round {round_number} re-derives to {replayed.root.hex()}, the chain has {root.hex()}")
        # Others will miss it, too.
        stream = io.BytesIO()
        write_model(stream, replayed.model, context.scope.model_metadata(), replayed.state)
        context.publish(stream.getvalue())
        context.log.emit("model_rebuilt", made_in=round_number, bytes=len(stream.getvalue()))
        return Checkpoint(replayed.model, replayed.state)
