"""A worker's shard of the data set that its task publishes: which one it is, and fetching it beside the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chainfl.agents.background import Background
from chainfl.agents.context import AgentContext
from chainfl.agents.worker import TrainedUpdate, UpdateTrainer
from chainfl.encoding.arrays import Int16Array, Int32Array
from chainfl.errors import DatasetError, NodeBehind, NoShards, PayloadTooLarge, UsageError
from chainfl.tasks.state import Role
from chainfl.training.settings import NO_MEMORY, Memory
from chainfl.types import Cid

if TYPE_CHECKING:
    from chainfl.data.croissant import Description
    from chainfl.training.datasets import Dataset

MAX_SHARD_BYTES: Final = 4 << 30
"""What a worker fetches for a stranger's task unasked; it can fetch more by itself (`chainfl data fetch`)."""

_MAX_WAIT_S: Final = 24 * 3_600.0


@dataclass(frozen=True, slots=True)
class TaskShard:
    """Which of a task's shards a worker takes. number: from 1; None goes by its place among the task's workers."""

    number: int | None = None

    @classmethod
    def parse(cls, text: str) -> TaskShard:
        """From `auto` or a number. Raises UsageError."""
        if text == "auto":
            return cls()
        if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) > 0):
            raise UsageError(f"a task's shard is a number from 1, or auto, not {text!r}")
        return cls(int(text))


class AssignedShard:
    """The shard of one worker in one task."""

    def __init__(self, context: AgentContext, wanted: TaskShard) -> None:
        """Fetches the description. Raises NoShards, UsageError for a number that is too large, DatasetError for
        examples that are not the task's, and what `fetch_description` raises.
        """
        from chainfl.data.fetching import fetch_description

        cid = context.spec.dataset.description_cid
        if cid is None:
            raise NoShards(f"task {context.scope.task_id} names no shards for its workers")
        self._context = context
        self._wanted = wanted
        self._told = fetch_description(context.store, Cid(cid))
        _check_described(context, self._told)
        count = len(self._told.shards)
        if wanted.number is not None and wanted.number > count:
            raise UsageError(f"there is no shard {wanted.number}: the task's data set has {count}", shards=count)

    def number(self) -> int:
        """Its number, from 1: the one asked for, or the worker's place in order of enrolment, modulo the shards.

        Raises NodeBehind while the account is not among the workers.
        """
        if self._wanted.number is not None:
            return self._wanted.number
        chain = self._context.chain
        members = chain.members(self._context.scope.task_id, Role.WORKER)
        if chain.account not in members:
            raise NodeBehind("the node does not list this worker among those of the task yet")
        return members.index(chain.account) % len(self._told.shards) + 1

    def fetch(self, number: int) -> None:
        """Brings a shard beside the journal unless it is there. Asks the store alone. Raises as `fetch_shard`."""
        from chainfl.data.fetching import fetch_shard

        shard = self._told.shards[number - 1]
        if shard.num_bytes > MAX_SHARD_BYTES:
            raise PayloadTooLarge(
                f"shard {number} has {shard.num_bytes:,} bytes; fetch it with `chainfl data fetch` and use --data",
                limit=MAX_SHARD_BYTES,
            )
        fetch_shard(self._context.store, self._told, number, self._path(number))

    def load(self, number: int) -> Dataset:
        """The examples of a shard that was fetched. Raises DatasetCorrupt."""
        from chainfl.data.fetching import open_shard

        dataset = open_shard(self._told, number, self._path(number))
        shard = self._told.shards[number - 1]
        self._context.log.emit("shard_loaded", shard=number, examples=shard.num_examples, cid=shard.cid)
        return dataset

    def _path(self, number: int) -> Path:
        return self._context.journal.folder / f"shard-{self._told.shards[number - 1].cid}.npz"


class ShardLearning:
    """Trains on an assigned shard, which is fetched once the worker has its place; implements UpdateTrainer."""

    def __init__(self, shard: AssignedShard, learn: Callable[[Dataset], UpdateTrainer]) -> None:
        """learn: makes the trainer for the examples."""
        self._shard = shard
        self._learn = learn
        self._trainer: UpdateTrainer | None = None
        self._number: int | None = None
        self._fetching = Background(at_once=1)

    def prefetch(self) -> int:
        """Starts fetching, unless that runs or is done; again after a failure. returns: the shard's number.

        Raises as `AssignedShard.number`.
        """
        if self._number is None:
            self._number = self._shard.number()
        self._fetching.start("shard", partial(self._shard.fetch, self._number))
        return self._number

    @property
    def uses_previous(self) -> bool:
        """See UpdateTrainer. Raises what `train` raises of the shard."""
        return self._ready().uses_previous

    @property
    def needs_the_past(self) -> bool:
        """See UpdateTrainer. Also while the shard is not here: asked for by the loop, it waits for nothing."""
        return self._trainer is None or self._trainer.needs_the_past

    def train(
        self,
        model: Int32Array,
        round_number: int,
        *,
        memory: Memory = NO_MEMORY,
        previous: Int32Array | None = None,
        stop: threading.Event | None = None,
    ) -> TrainedUpdate:
        """See LocalLearning. Raises also what fetching and reading the shard raise."""
        return self._ready().train(model, round_number, memory=memory, previous=previous, stop=stop)

    def settle(self, kept: Memory, sent: Int16Array, before: Int32Array, after: Int32Array) -> Memory:
        """See UpdateTrainer. Raises what `train` raises of the shard."""
        return self._ready().settle(kept, sent, before, after)

    def _ready(self) -> UpdateTrainer:
        """The trainer, once the shard is here."""
        if self._trainer is None:
            number = self.prefetch()
            self._fetching.wait(["shard"], _MAX_WAIT_S)
            self._fetching.result("shard")  # raises what kept it from being fetched
            self._trainer = self._learn(self._shard.load(number))
        return self._trainer


def _check_described(context: AgentContext, told: Description) -> None:
    """Before anything large is fetched."""
    expected = context.spec.dataset
    if told.input_shape != tuple(expected.input_shape) or told.num_classes > expected.num_classes:
        raise DatasetError(
            f"the task is about {expected.num_classes} classes of {tuple(expected.input_shape)}, the data set that it "
            f"names has {told.num_classes} of {told.input_shape}"
        )
