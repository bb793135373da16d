"""Following many tasks in one process: what goes wrong in one of them must not blind the watcher for the others."""

from __future__ import annotations

import io
import json
import threading
from types import SimpleNamespace

import pytest
from fake_chain import CHAIN_ID, COORDINATOR, account_of

from chainfl.agents import wiring
from chainfl.agents.journal import Journal
from chainfl.agents.watching import Rest
from chainfl.agents.wiring import AgentOptions, WatchLoop, WatchOptions
from chainfl.errors import (
    BlobNotFound,
    GasBudgetExhausted,
    Interrupted,
    JournalDamaged,
    LineageBroken,
    RpcUnreachable,
    SpecificationMismatch,
)
from chainfl.tasks.state import Block, Phase
from chainfl.types import TaskId

LAST_BLOCK = 60


class Chain:
    """Some tasks, which are all over at the last block; a wait takes one block."""

    chain_id, coordinator, account = CHAIN_ID, COORDINATOR, account_of(400)

    def __init__(self, num_tasks: int, last: int = LAST_BLOCK) -> None:
        self.tasks, self.last, self.number = num_tasks, last, 1
        self.unreachable: list[int] = []

    def latest_block(self) -> Block:
        if self.number in self.unreachable:
            self.unreachable.remove(self.number)
            raise RpcUnreachable("gone")
        return Block(self.number, 1_000 + self.number, bytes(32))

    def wait_for_block(self, after: int, timeout_s: float) -> Block:
        self.number += 1
        return Block(self.number, 1_000 + self.number, bytes(32))

    def num_tasks(self) -> int:
        return self.tasks

    def phase(self, task_id, block=None):
        return (Phase.COMPLETED if self.number >= self.last else Phase.COMMIT), 0


class Steps:
    """Takes the place of a task's watcher; counts its steps, and fails as told."""

    def __init__(self, context, fails=None, owed=False) -> None:
        self.context, self.fails, self.owed, self.steps = context, fails, owed, 0

    @property
    def is_owed(self) -> bool:
        if isinstance(self.owed, Exception):
            raise self.owed
        return self.owed

    def step(self, block):
        self.steps += 1
        if self.fails is not None:
            raise self.fails
        return Rest()


class Watching:
    """A loop over `num_tasks` tasks. missing: what opening a task raises; fails, owed: what its steps do."""

    def __init__(self, tmp_path, monkeypatch, num_tasks=3, *, named=(), missing=None, fails=None, owed=None) -> None:
        self.chain, self.events, self.stop = Chain(num_tasks), io.StringIO(), threading.Event()
        self.watchers: dict[int, Steps] = {}
        self.missing, self.fails, self.owed = missing or {}, fails or {}, owed or {}
        self.opened: list[int] = []
        monkeypatch.setattr(wiring, "open_task", self.open)
        monkeypatch.setattr(WatchLoop, "_watcher", lambda _, context: self.watcher(context))
        options = AgentOptions(state_dir=tmp_path, name="w", events=self.events)
        named = tuple(map(TaskId, named))
        self.loop = WatchLoop(self.chain, None, options, WatchOptions(named), self.stop)  # type: ignore[arg-type]

    def open(self, chain, store, task_id, journal: Journal, *rest):
        self.opened.append(task_id)
        error = self.missing.get(task_id)
        if callable(error):
            error = error()
        if error is not None:
            raise error
        return SimpleNamespace(task_id=task_id, journal=journal)

    def watcher(self, context) -> Steps:
        task_id = context.task_id
        self.watchers[task_id] = Steps(context, self.fails.get(task_id), self.owed.get(task_id, False))
        return self.watchers[task_id]

    def run_all(self) -> None:
        """Until the last block: where no task is named the loop is stopped there."""
        waits = self.chain.wait_for_block

        def wait(after, timeout_s):
            if self.chain.number >= LAST_BLOCK:
                self.stop.set()
            return waits(after, timeout_s)

        self.chain.wait_for_block = wait  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            self.loop.run()

    def told(self, what: str) -> list[dict]:
        return [line for line in map(json.loads, self.events.getvalue().splitlines()) if line["what"] == what]


def test_find__a_specification_is_missing__the_other_tasks_are_followed_and_it_is_tried_again(tmp_path, monkeypatch):
    watching = Watching(tmp_path, monkeypatch, 4, missing={2: BlobNotFound("no spec", cid="c")})
    watching.run_all()
    assert sorted(watching.watchers) == [1, 3, 4]
    assert all(one.steps > LAST_BLOCK - 5 for one in watching.watchers.values())
    tries = watching.opened.count(2)
    assert 3 < tries < 15
    pauses = [told["seconds_pause"] for told in watching.told("retrying") if told["task"] == 2]
    assert pauses == sorted(pauses)


def test_find__a_missing_specification_comes_later__the_task_is_taken_up(tmp_path, monkeypatch):
    errors = iter([BlobNotFound("no spec", cid="c")] * 2)
    watching = Watching(tmp_path, monkeypatch, missing={2: lambda: next(errors, None)})
    watching.run_all()
    assert watching.watchers[2].steps > 0


def test_find__a_specification_is_wrong__is_passed_over_once(tmp_path, monkeypatch):
    watching = Watching(tmp_path, monkeypatch, missing={1: SpecificationMismatch("another")})
    watching.run_all()
    assert [told["task"] for told in watching.told("passed_over")] == [1]
    assert watching.opened.count(1) == 1


def test_find__opening_one_stalls__the_others_go_on(tmp_path, monkeypatch):
    forever = threading.Event()
    watching = Watching(tmp_path, monkeypatch, missing={1: lambda: forever.wait() and None})
    watching.run_all()
    forever.set()
    assert sorted(watching.watchers) == [2, 3]
    assert watching.watchers[2].steps > LAST_BLOCK - 5


def test_named__one_of_two_is_missing__the_other_gets_its_steps(tmp_path, monkeypatch):
    watching = Watching(tmp_path, monkeypatch, 2, named=(1, 2), missing={2: BlobNotFound("no spec", cid="c")})
    watching.loop.run()
    assert watching.watchers[1].steps > LAST_BLOCK - 5
    assert watching.loop.report.ended == "every task is over"


def test_named__one_of_two_is_wrong__is_raised_once_the_other_is_over(tmp_path, monkeypatch):
    watching = Watching(tmp_path, monkeypatch, 2, named=(1, 2), missing={1: SpecificationMismatch("another")})
    with pytest.raises(SpecificationMismatch):
        watching.loop.run()
    assert watching.watchers[2].steps > LAST_BLOCK - 5


@pytest.mark.parametrize("error", [LineageBroken("broken"), OSError("disk full"), MemoryError(), ValueError("bug")])
def test_step__one_task_is_hostile__is_dropped_with_an_event_and_the_others_go_on(tmp_path, monkeypatch, error):
    watching = Watching(tmp_path, monkeypatch, fails={2: error})
    watching.run_all()
    assert watching.watchers[2].steps == 5
    assert [(told["task"], told["error"]) for told in watching.told("task_dropped")] == [(2, type(error).__name__)]
    assert watching.watchers[3].steps > LAST_BLOCK - 5


def test_step__hostile_with_a_bond_out__is_never_dropped(tmp_path, monkeypatch):
    watching = Watching(tmp_path, monkeypatch, fails={2: LineageBroken("broken")}, owed={2: True})
    watching.run_all()
    assert watching.watchers[2].steps > 5
    assert watching.told("task_dropped") == []


def test_step__its_journal_is_damaged__counts_as_owed_and_the_others_go_on(tmp_path, monkeypatch):
    damaged = JournalDamaged("torn", path="p")
    watching = Watching(tmp_path, monkeypatch, fails={2: damaged}, owed={2: damaged})
    watching.run_all()
    assert watching.told("journal_unreadable")
    assert watching.watchers[1].steps > LAST_BLOCK - 5


def test_step__gas_budget_is_spent__ends_all(tmp_path, monkeypatch):
    watching = Watching(tmp_path, monkeypatch, fails={2: GasBudgetExhausted("spent")})
    with pytest.raises(GasBudgetExhausted):
        watching.loop.run()


def test_endpoint__is_away_for_a_moment__is_tried_again(tmp_path, monkeypatch):
    watching = Watching(tmp_path, monkeypatch)
    watching.chain.unreachable = [5]
    watching.run_all()
    assert len(watching.told("retrying")) == 1
