"""What a chain has recorded of a task's rounds, for an experiment that plays them again."""

from __future__ import annotations

from typing import Protocol

from chainfl.agents.ports import ChainPort
from chainfl.errors import UsageError
from chainfl.simulation.experiment import Participants, RecordedRound
from chainfl.tasks.state import Role, RoundView
from chainfl.types import TaskId


class RecordReader(ChainPort, Protocol):
    """What a record is read from; an `Operator` is one."""

    def round(self, task_id: TaskId) -> RoundView:
        """Where the task stands."""
        ...


def participants_of(chain: RecordReader, task_id: TaskId) -> Participants:
    """A task's accounts, and who took part in each of its rounds that are over, drawn or not.

    `simulate` with it and everybody's data comes to the task's own roots where every validator voted, had every update
    and has the same stake; a round that turned void is void again. Raises UsageError when no round is over.
    """
    view, task = chain.round(task_id), chain.task(task_id)
    played = min(view.round, task.rounds) if view.phase.is_terminal else view.round - 1
    if played < 1:
        raise UsageError(f"no round of task {task_id} is over: there is nothing to play again yet", task_id=task_id)
    models = [chain.model_location(task_id, number) for number in range(played + 1)]
    rounds = (
        _recorded(chain, task_id, number, task.created_block, void=models[number] == models[number - 1])
        for number in range(1, played + 1)
    )
    return Participants(
        chain.members(task_id, Role.WORKER),
        chain.members(task_id, Role.VALIDATOR),
        chain.chain_id,
        chain.coordinator,
        task_id,
        tuple(rounds),
    )


def _recorded(chain: ChainPort, task_id: TaskId, number: int, from_block: int, *, void: bool) -> RecordedRound:
    revealed = chain.revealed_updates(task_id, number, from_block)
    workers = tuple(update.worker for update in revealed)
    return RecordedRound(workers, chain.last_commit_hash(task_id, number), void=void)
