"""What an agent works with, and the models that its rounds start from."""

from __future__ import annotations

import io
import logging
import threading
from dataclasses import dataclass

from chainfl.agents.events import AgentReport, EventLog
from chainfl.agents.journal import Journal
from chainfl.agents.ports import ChainPort
from chainfl.encoding.arrays import Int32Array
from chainfl.encoding.payload import write_model
from chainfl.errors import LineageBroken, PayloadError, StorageError
from chainfl.registry.material import TaskScope, fetch_model
from chainfl.registry.replay import accepted_updates, replay_round
from chainfl.storage.port import BlobStore
from chainfl.tasks.spec import TaskSpec
from chainfl.tasks.state import CidOnChain, TaskView
from chainfl.types import Cid, Root

_KEPT_MODELS = 2


@dataclass(frozen=True, slots=True)
class AgentContext:
    """Everything of one agent in one task. claim: collect what was earned when the task is over."""

    chain: ChainPort
    store: BlobStore
    scope: TaskScope
    task: TaskView
    spec: TaskSpec
    journal: Journal
    log: EventLog
    report: AgentReport
    claim: bool = False

    def publish(self, data: bytes) -> Cid:
        """Puts bytes into the store and counts them."""
        cid = self.store.put_bytes(data)
        self.report.bytes_published += len(data)
        return cid


class ModelSource:
    """Global models by root, fetched, or computed again from the updates when nobody serves them any more."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._kept: dict[Root, Int32Array] = {}
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

    def before(self, round_number: int, root: Root) -> Int32Array | None:
        """The model that `root`, the one round `round_number` starts from, was made from; None for the genesis."""
        for earlier in range(round_number - 2, -1, -1):
            found, _ = self._located(earlier)
            if found != root:
                return self.at_round(earlier + 1, found)
        return None

    def keep(self, root: Root, model: Int32Array) -> None:
        """Remembers a model that this agent made itself."""
        self._keep(root, model)

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
            return self._rebuild(produced, root)

    def _round_that_made(self, newest_round: int, root: Root) -> int:
        """Void rounds keep the model, so the maker is the oldest round whose model this still is."""
        produced = newest_round
        while produced > 0 and self._located(produced - 1)[0] == root:
            produced -= 1
        return produced

    def _rebuild(self, round_number: int, root: Root) -> Int32Array:
        context = self._context
        base_root, _ = self._located(round_number - 1)
        base = self.at_round(round_number, base_root)
        task_id, start = context.scope.task_id, context.task.created_block
        revealed = context.chain.revealed_updates(task_id, round_number, start)
        tallied = context.chain.tallied_updates(task_id, round_number, start)
        updates = accepted_updates(context.store, context.scope, round_number, base_root, revealed, tallied)
        replayed = replay_round(base, updates, context.scope.format)
        if replayed.root != root:
            raise LineageBroken(f"round {round_number} re-derives to {replayed.root.hex()}, the chain has {root.hex()}")
        # Others will miss it, too.
        stream = io.BytesIO()
        write_model(stream, replayed.model, context.scope.model_metadata())
        context.publish(stream.getvalue())
        context.log.emit("model_rebuilt", made_in=round_number, bytes=len(stream.getvalue()))
        return replayed.model
