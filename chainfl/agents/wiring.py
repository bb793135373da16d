"""The one place that puts an agent together from plain values, so that a command line stays thin.

Whatever imports torch is imported when a worker or a validator is made; an aggregator never does.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from chainfl.agents import duties
from chainfl.agents.aggregator import Aggregator
from chainfl.agents.background import Background
from chainfl.agents.context import AgentContext, RetentionRule
from chainfl.agents.events import AgentReport, EventLog
from chainfl.agents.evidence import FETCH_LOOK_S
from chainfl.agents.genesis import check_genesis_state
from chainfl.agents.journal import Journal, journal_folder
from chainfl.agents.loop import MAX_BACK_OFF_S, MAX_CRASHES, POLL_S, AgentLoop
from chainfl.agents.player import Player
from chainfl.agents.ports import ChainPort
from chainfl.agents.shards import AssignedShard, ShardLearning, TaskShard
from chainfl.errors import (
    ChainflError,
    DatasetMissing,
    GasBudgetExhausted,
    InsufficientFunds,
    Interrupted,
    RpcRefused,
    UsageError,
)
from chainfl.registry.material import TaskScope, fetch_spec
from chainfl.scratch import scratch_folder
from chainfl.storage.port import BlobStore
from chainfl.tasks.spec import TaskSpec
from chainfl.tasks.state import Block, Role
from chainfl.types import Cid, TaskId, Wei

if TYPE_CHECKING:
    from chainfl.agents.watcher import Watcher
    from chainfl.training.app import AppPart
    from chainfl.training.datasets import Dataset

MAX_ROOT_SET_BYTES = 1 << 30
MAKING_ATTEMPTS = 5
OPENED_AT_ONCE = 4
MAX_PAUSE_S = 32
"""The most that a task which fails is left alone, in chain time."""

_log = logging.getLogger("chainfl.agents")


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where an operator's examples are: a folder of its own, or a share of a built-in set.

    folder: see `datasets.load_folder`. name: a built-in set, of which `shard` (`i/n`) is this operator's share;
    seed and alpha (Dirichlet; None is IID) are agreed among the operators. data_dir: where MNIST or CIFAR-10 lie.
    """

    folder: Path | None = None
    name: str | None = None
    shard: str = "1/1"
    seed: int = 0
    alpha: float | None = None
    data_dir: Path | None = None

    def load(self) -> Dataset:
        """The examples. Raises UsageError, DatasetMissing, DatasetCorrupt."""
        from chainfl.training.datasets import load_folder
        from chainfl.training.partition import Shard, load_shard

        if self.folder is not None:
            return load_folder(self.folder)
        if self.name is None:
            raise UsageError("say where the data are: a folder, or a built-in set and a shard")
        return load_shard(self.name, Shard.parse(self.shard), seed=self.seed, data_dir=self.data_dir, alpha=self.alpha)


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What all agents take. state_dir: the journals' folder. events: where the event lines go, if anywhere.

    task_id: None follows any task that the account takes part in already or can join. once: end with that task, and
    do not look for another. claim: collect what was earned when a task is over. token_price_wei: native wei that a
    whole token is worth to the operator, by which it weighs what is voluntary; None: all of it pays. stake: to lock
    when enrolling, if it is more than a task asks for. device: where training and judging compute, such as `cuda`.
    """

    state_dir: Path
    name: str
    task_id: TaskId | None = None
    once: bool = False
    claim: bool = False
    events: TextIO | None = None
    token_price_wei: int | None = None
    retention: RetentionRule = "all"
    stake: Wei | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a watcher takes beside. task_ids: empty follows every task. answers: serve what others demand, too."""

    task_ids: tuple[TaskId, ...] = ()
    dry_run: bool = False
    answers: bool = False


MakePlayer = Callable[[AgentContext], Player]


def run_worker(
    chain: ChainPort,
    store: BlobStore,
    data: DataSource | TaskShard | AppPart,
    options: AgentOptions,
    stop: threading.Event | None = None,
    app: AppPart | None = None,
) -> AgentReport:
    """Trains on the operator's data, or on its shard of the task's, until the task is over; an app's part as it says.

    app: one without data, beside a shard. stop: set by SIGTERM or SIGINT; without it the handlers are put in place
    here. Raises Interrupted when stopped before the end, and any ChainflError that is not worth trying again.
    """
    own, part = (None, app) if isinstance(data, TaskShard) else _own_data(data)

    def make(context: AgentContext) -> Player:
        from chainfl.agents.learning import LocalLearning, make_trainer
        from chainfl.agents.worker import Worker

        shard = AssignedShard(context, data) if isinstance(data, TaskShard) else None
        trainer = make_trainer(context.spec, context.store, context.journal.folder, part, options.device)
        learn = partial(LocalLearning, context.spec, context.scope, context.chain.account, trainer)
        if shard is None:
            assert own is not None, "a source of data was loaded, and an app's part for a worker has some"
            return Worker(context, learn(own))
        learning = ShardLearning(shard, learn)
        return Worker(context, learning, on_duty=learning.prefetch)

    return _run(Role.WORKER, make, chain, store, options, stop)


def run_validator(
    chain: ChainPort,
    store: BlobStore,
    data: DataSource | AppPart | None,
    options: AgentOptions,
    stop: threading.Event | None = None,
) -> AgentReport:
    """Checks and scores updates until the task is over. data: root data; None takes the set that the task names, and
    so does an app's part that has none.

    Stops and raises as `run_worker` does.
    """
    own, app = (None, None) if data is None else _own_data(data)

    def make(context: AgentContext) -> Player:
        from chainfl.agents.learning import RootDataScorer, make_trainer
        from chainfl.agents.validator import Validator

        trainer = make_trainer(context.spec, context.store, context.journal.folder, app, options.device)
        root_data = own if own is not None else _named_root_set(context)
        spec, scope, account = context.spec, context.scope, context.chain.account
        commit_hash = partial(context.chain.last_commit_hash, scope.task_id)
        return Validator(context, RootDataScorer(spec, scope, account, trainer, root_data, commit_hash))

    return _run(Role.VALIDATOR, make, chain, store, options, stop)


def run_aggregator(
    chain: ChainPort, store: BlobStore, options: AgentOptions, stop: threading.Event | None = None
) -> AgentReport:
    """Computes and posts aggregates until the task is over. Stops and raises as `run_worker` does."""
    return _run(Role.AGGREGATOR, Aggregator, chain, store, options, stop)


def check_app(chain: ChainPort, store: BlobStore, task_id: TaskId, app: AppPart) -> None:
    """Whether an app fits a task, before anything is paid. Raises what `make_trainer` and `fetch_spec` raise."""
    from chainfl.agents.learning import make_trainer

    with scratch_folder() as folder:
        make_trainer(fetch_spec(store, chain.task(task_id)), store, folder, app)


def scope_of(chain: ChainPort, task_id: TaskId, spec: TaskSpec) -> TaskScope:
    """What the task's payloads are bound to."""
    layout_hash = bytes.fromhex(spec.layout.hash)
    return TaskScope(chain.chain_id, chain.coordinator, task_id, spec.format, layout_hash, spec.payload.form())


def open_task(
    chain: ChainPort,
    store: BlobStore,
    task_id: TaskId,
    journal: Journal,
    log: EventLog,
    report: AgentReport,
    options: AgentOptions,
) -> AgentContext:
    """What an agent of the task works with, once the specification is compared with all that the chain holds.

    Raises UsageError if there is no such task, and what `fetch_spec` raises.
    """
    task = chain.task(task_id)
    if task.created_at == 0:
        raise UsageError(f"there is no task {task_id}", task_id=task_id)
    spec = fetch_spec(store, task)
    spec.check_created(chain.task_params(task_id))
    check_genesis_state(spec)
    return AgentContext(
        chain=chain,
        store=store,
        scope=scope_of(chain, task_id, spec),
        task=task,
        spec=spec,
        journal=journal,
        log=log,
        report=report,
        claim=options.claim,
        token_price_wei=options.token_price_wei,
        retention=options.retention,
        stake=options.stake,
    )


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second SIGINT interrupts at once."""
    stop = threading.Event()

    def ask_to_stop(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_watcher(
    chain: ChainPort,
    store: BlobStore,
    options: AgentOptions,
    watching: WatchOptions,
    stop: threading.Event | None = None,
) -> AgentReport:
    """Watches tasks until they are over, or for ever when none is named. Stops and raises as `run_worker` does."""
    if stop is None:
        with stop_on_signals() as installed:
            return run_watcher(chain, store, options, watching, installed)
    loop = WatchLoop(chain, store, options, watching, stop)
    try:
        loop.run()
    finally:
        loop.log.emit_fields("report", loop.report.as_fields())
    return loop.report


@dataclass(slots=True)
class _Pause:
    """A task that fails. until: chain time before which it is not tried again."""

    failures: int = 0
    until: int = 0


class WatchLoop:
    """Follows many tasks in one process: a step in each that has something to do, then a wait for the next block.

    What goes wrong in one task pauses that task, a little longer each time, and no other. Only what is the operator's
    own, its gas and its funds, ends all.
    """

    def __init__(
        self,
        chain: ChainPort,
        store: BlobStore,
        options: AgentOptions,
        watching: WatchOptions,
        stop: threading.Event,
    ) -> None:
        self._chain, self._store, self._options, self._watching, self._stop = chain, store, options, watching, stop
        self.log = EventLog(options.name, Role.CHALLENGER, options.events)
        self.report = AgentReport(Role.CHALLENGER)
        self._to_take_up: set[TaskId] = set(watching.task_ids)
        self._opening = Background(OPENED_AT_ONCE)
        self._begun: set[TaskId] = set()
        self._journals: dict[TaskId, Journal] = {}
        self._watchers: dict[TaskId, Watcher] = {}
        self._pauses: dict[TaskId, _Pause] = {}
        self._dropped: dict[TaskId, Exception] = {}
        self._looked_up_to = 0
        self._failures = 0

    def run(self) -> None:
        """Returns when every named task is over. Raises Interrupted when asked to stop.

        Raises, once the others are over, what a named task had to be dropped for.
        """
        self.log.emit("started", account=self._chain.account, chain=self._chain.chain_id)
        try:
            while not self._is_done():
                self._require_running()
                self._look()
        finally:
            self._opening.close()
            for journal in self._journals.values():
                journal.close()
        for error in self._dropped.values():
            raise error
        self.report.ended = "every task is over"

    def _look(self) -> None:
        """One pass over all tasks. What the endpoint does to all is tried again, whatever it is, a few times."""
        try:
            block = self._chain.latest_block()
            self._find_tasks()
            if not self._step_all(block) and not self._is_done():
                self._wait_after(block.number)
            self._failures = 0
        except (Interrupted, GasBudgetExhausted, InsufficientFunds):
            raise
        except Exception as error:
            self._failures += 1
            self._tell_retry(error)
            if not _is_passing(error) and self._failures >= MAX_CRASHES:
                raise
            self._stop.wait(min(MAX_BACK_OFF_S, 0.5 * 2**self._failures))

    def _is_done(self) -> bool:
        return bool(self._watching.task_ids) and not self._to_take_up and not self._watchers

    def _find_tasks(self) -> None:
        if not self._watching.task_ids:
            newest = self._chain.num_tasks()
            self._to_take_up.update(TaskId(number) for number in range(self._looked_up_to + 1, newest + 1))
            self._looked_up_to = newest

    def _step_all(self, block: Block) -> bool:
        """A step in each task. returns: whether one of them wants to look again at once."""
        again = False
        for task_id in sorted(self._to_take_up | self._watchers.keys()):
            if self._pauses.get(task_id, _Pause()).until <= block.timestamp:
                again |= self._step_one(task_id, block)
        return again

    def _step_one(self, task_id: TaskId, block: Block) -> bool:
        """One task's trouble must not blind the watcher for the others."""
        try:
            again = self._step_in(task_id, block)
        except (Interrupted, GasBudgetExhausted, InsufficientFunds):
            raise
        except Exception as error:  # noqa: BLE001  # the task's boundary: counted, logged, classified
            self._failed(task_id, error, block)
            return False
        if task_id in self._watchers:
            self._pauses.pop(task_id, None)
        return again

    def _step_in(self, task_id: TaskId, block: Block) -> bool:
        self.log.stand_at(task_id, None, None)
        watcher = self._watchers.get(task_id)
        is_over = self._chain.phase(task_id, block)[0].is_terminal
        if is_over and (watcher is None or not watcher.is_owed):
            self.log.emit("task_over", over=task_id)
            self._leave(task_id)
            return False
        if watcher is None:
            return self._take_up(task_id)
        return watcher.step(block) is None

    # --- taking up and leaving --------------------------------------------------------------------

    def _take_up(self, task_id: TaskId) -> bool:
        """Opens the task beside the others, whose clocks run while a store is silent. returns: whether it is open."""
        if task_id not in self._journals:
            self._journals[task_id] = Journal(self._journal_folder(task_id))
        if task_id not in self._begun:
            self._begun.add(task_id)
            self._opening.start(task_id, partial(self._open, task_id, self._journals[task_id]))
            self._opening.wait([task_id], FETCH_LOOK_S)
        if failure := self._opening.failure(task_id):
            self._begun.discard(task_id)
            raise failure
        if not self._opening.is_done(task_id):
            return False
        self._watchers[task_id] = self._watcher(self._opening.result(task_id))
        self._to_take_up.discard(task_id)
        self.report.tasks.append(task_id)
        return True

    def _open(self, task_id: TaskId, journal: Journal) -> AgentContext:
        return open_task(self._chain, self._store, task_id, journal, self.log, self.report, self._options)

    def _watcher(self, context: AgentContext) -> Watcher:
        from chainfl.agents.watcher import Watcher

        return Watcher(context, dry_run=self._watching.dry_run, answers=self._watching.answers)

    def _leave(self, task_id: TaskId) -> None:
        self._to_take_up.discard(task_id)
        self._watchers.pop(task_id, None)
        self._pauses.pop(task_id, None)
        if journal := self._journals.pop(task_id, None):
            journal.close()

    def _journal_folder(self, task_id: TaskId) -> Path:
        return journal_folder(
            self._options.state_dir,
            chain_id=self._chain.chain_id,
            coordinator=self._chain.coordinator,
            task_id=task_id,
            role="watcher",
            account=self._chain.account,
        )

    # --- trouble ----------------------------------------------------------------------------------

    def _failed(self, task_id: TaskId, error: Exception, block: Block) -> None:
        """Pauses the task. Drops it after a few failures that do not pass by themselves, unless a bond is out."""
        pause = self._pauses.setdefault(task_id, _Pause())
        pause.failures += 1
        seconds = min(MAX_PAUSE_S, 2 ** min(pause.failures, 16) // 2)
        pause.until = block.timestamp + seconds
        self.log.stand_at(task_id, None, None)
        if not isinstance(error, ChainflError):
            _log.error("unexpected error %d in task %s", pause.failures, task_id, exc_info=error)
        if _is_passing(error) or pause.failures < self._tries_for(task_id, error) or self._may_be_owed(task_id):
            self._tell_retry(error, seconds_pause=seconds)
            return
        is_named = task_id in self._watching.task_ids
        what = "task_dropped" if is_named or task_id in self._watchers else "passed_over"
        self.log.emit(what, level=logging.ERROR, error=type(error).__name__, why=str(error))
        self._leave(task_id)
        if is_named:
            self._dropped[task_id] = error

    def _tries_for(self, task_id: TaskId, error: Exception) -> int:
        """A specification that is wrong stays wrong."""
        is_known = task_id in self._watchers
        return MAX_CRASHES if is_known or not isinstance(error, ChainflError) or isinstance(error, RpcRefused) else 1

    def _may_be_owed(self, task_id: TaskId) -> bool:
        """Whether a bond is out; yes where the journal cannot tell."""
        watcher = self._watchers.get(task_id)
        if watcher is None:
            return False
        try:
            return watcher.is_owed
        except (ChainflError, OSError) as error:
            self.log.emit("journal_unreadable", level=logging.ERROR, error=type(error).__name__, why=str(error))
            return True

    def _tell_retry(self, error: Exception, **details: int) -> None:
        kind = type(error).__name__
        self.log.emit("retrying", level=logging.WARNING, error=kind, why=str(error), **details)
        self.report.retries += 1

    # --- waiting ----------------------------------------------------------------------------------

    def _wait_after(self, number: int) -> None:
        while self._chain.wait_for_block(number, POLL_S).number <= number:
            self._require_running()

    def _require_running(self) -> None:
        if not self._stop.is_set():
            return
        owed = [task_id for task_id in self._watchers if self._may_be_owed(task_id)]
        risk = f"a bond is out in task {owed[0]}: start again before its clock runs out" if owed else None
        self.report.ended = "stopped by a signal"
        raise Interrupted(f"stopped; {risk or 'nothing is at risk'}", at_risk=risk)


def _is_passing(error: Exception) -> bool:
    return isinstance(error, ChainflError) and error.retryable


def _run(
    role: Role,
    make: MakePlayer,
    chain: ChainPort,
    store: BlobStore,
    options: AgentOptions,
    stop: threading.Event | None,
) -> AgentReport:
    if stop is None:
        with stop_on_signals() as installed:
            return _run(role, make, chain, store, options, installed)
    agent = _Agent(role, make, chain, store, options, stop)
    try:
        agent.run()
    finally:
        agent.log.emit_fields("report", agent.report.as_fields())
    return agent.report


class _Agent:
    """One process: goes from task to task, as its options say."""

    def __init__(
        self,
        role: Role,
        make: MakePlayer,
        chain: ChainPort,
        store: BlobStore,
        options: AgentOptions,
        stop: threading.Event,
    ) -> None:
        self._role = role
        self._make = make
        self._chain = chain
        self._store = store
        self._options = options
        self._stop = stop
        self._done_with: set[TaskId] = set()
        self.log = EventLog(options.name, role, options.events)
        self.report = AgentReport(role)

    def run(self) -> None:
        self.log.emit("started", account=self._chain.account, chain=self._chain.chain_id)
        while True:
            task_id = self._options.task_id or self._next_task()
            self._play(task_id)
            self._done_with.add(task_id)
            if self._options.once or self._options.task_id is not None:
                return

    def _play(self, task_id: TaskId) -> None:
        journal = Journal(self._journal_folder(task_id))
        try:
            player = self._player(task_id, journal)
            if player is None:
                return
            self.report.tasks.append(task_id)
            AgentLoop(player, self._stop).run()
        finally:
            journal.close()

    def _player(self, task_id: TaskId, journal: Journal) -> Player | None:
        """The player; None for a task that this agent found by itself and cannot take part in."""
        self.log.stand_at(task_id, None, None)
        for attempt in range(MAKING_ATTEMPTS):
            try:
                return self._make(
                    open_task(self._chain, self._store, task_id, journal, self.log, self.report, self._options)
                )
            except ChainflError as error:
                if not error.retryable or attempt == MAKING_ATTEMPTS - 1:
                    if self._options.task_id is not None:
                        raise
                    self.log.emit("passed_over", level=logging.WARNING, error=type(error).__name__, why=str(error))
                    return None
                self._back_off(error, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _next_task(self) -> TaskId:
        """Waits for a task that the account takes part in or can join, the newest first."""
        self.log.stand_at(None, None, None)
        self.log.emit("looking_for_a_task")
        failures = 0
        while True:
            try:
                block = self._chain.latest_block()
                for number in range(self._chain.num_tasks(), 0, -1):
                    if self._suits(TaskId(number)):
                        return TaskId(number)
                self._wait_for_block_after(block.number)
                failures = 0
            except ChainflError as error:
                if not error.retryable:
                    raise
                self._back_off(error, failures)
                failures += 1

    def _suits(self, task_id: TaskId) -> bool:
        if task_id in self._done_with:
            return False
        snapshot = self._chain.snapshot(task_id, self._role)
        view, me = snapshot.round, snapshot.me
        if view.phase.is_terminal or (me.is_enrolled and view.round >= me.active_until):
            self._done_with.add(task_id)
            return False
        return me.is_enrolled or duties.may_join(snapshot, self._role, snapshot.block.timestamp)

    def _wait_for_block_after(self, number: int) -> None:
        while self._chain.wait_for_block(number, POLL_S).number <= number:
            self._require_running()
        self._require_running()

    def _back_off(self, error: ChainflError, failures: int) -> None:
        self.log.emit("retrying", level=logging.WARNING, error=type(error).__name__, why=str(error))
        self.report.retries += 1
        self._stop.wait(min(MAX_BACK_OFF_S, 0.5 * 2**failures))
        self._require_running()

    def _require_running(self) -> None:
        if self._stop.is_set():
            raise Interrupted("stopped; nothing is at risk", at_risk=None)

    def _journal_folder(self, task_id: TaskId) -> Path:
        return journal_folder(
            self._options.state_dir,
            chain_id=self._chain.chain_id,
            coordinator=self._chain.coordinator,
            task_id=task_id,
            role=self._role.name.lower(),
            account=self._chain.account,
        )


def _own_data(data: DataSource | AppPart) -> tuple[Dataset | None, AppPart | None]:
    """The operator's examples, and the app that they came with, if one did."""
    return (data.load(), None) if isinstance(data, DataSource) else (data.data, data)


def _named_root_set(context: AgentContext) -> Dataset:
    """The root set that the task names. Workers could fit it, which is why a validator's own is better."""
    from chainfl.training.datasets import load_npz

    cid = context.spec.validation.root_set_cid
    if cid is None:
        raise DatasetMissing(
            "the task names no root set, so a validator needs data of its own", file="dataset.npz", folder="--data"
        )
    path = context.journal.folder / f"root-{cid}.npz"
    if not path.exists():
        context.store.get_file(Cid(cid), path, max_bytes=MAX_ROOT_SET_BYTES)
    return load_npz(path)
