"""A role in a task, as the loop drives it: it decides from a snapshot, and does the one thing decided."""

from __future__ import annotations

import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from chainfl.agents import chores, duties
from chainfl.agents.actions import PREPARATIONS, Action, Do
from chainfl.agents.chores import Standing
from chainfl.agents.context import AgentContext, ModelSource
from chainfl.agents.ports import Deeds, SendResult
from chainfl.agents.prefetch import Prefetch
from chainfl.agents.retention import Retention
from chainfl.errors import EncodingError, LineageBroken, StorageError, TrainingDiverged
from chainfl.tasks.commitments import SALT_BYTES
from chainfl.tasks.state import Demand, Role, Snapshot
from chainfl.types import Root

# Prototypes need some 60k gas a worker: this many stay well below the 2^24 gas of one transaction.
BATCH_WORKERS = 64

NUMERIC_ERRORS = (ArithmeticError, ValueError, RuntimeError)
"""What numpy and torch raise over numbers that a stranger chose."""

Doing = Callable[[Snapshot], Deeds]


class Player(ABC):
    """One role. Sends go through the context's chain; None or () from `act` means that the work was done here."""

    role: ClassVar[Role]

    def __init__(self, context: AgentContext) -> None:
        self.context = context
        self.models = ModelSource(context)
        self._doings: dict[Do, Doing] = {**self._shared(), **self.own_doings()}
        self._sat_out: tuple[int, int, Root] | None = None
        self._prefetch = Prefetch(context, self.role)
        self._retention = Retention(context)

    def while_waiting(self, snapshot: Snapshot) -> None:
        """Uses the time until the next look: fetches ahead, and drops what is past. Returns at once."""
        self._prefetch.look(snapshot)
        self._retention.look(snapshot)

    def close(self) -> None:
        """Ends what runs beside the loop; for whatever reason the loop has ended."""
        return

    def at_the_end(self, snapshot: Snapshot) -> None:
        """Drops what is past now that the agent is done with the task."""
        self._retention.finish(snapshot)

    @abstractmethod
    def decide(self, snapshot: Snapshot, standing: Standing, now: int) -> Action:
        """What to do at chain time `now`."""

    @abstractmethod
    def own_doings(self) -> dict[Do, Doing]:
        """What this role can do beyond what all can."""

    def at_risk(self, snapshot: Snapshot) -> str | None:
        """What is lost if the process stays away; None when nothing is."""
        me, view = snapshot.me, snapshot.round
        if not me.has_committed(view.round) or me.has_revealed(view.round) or not self.can_still_reveal(snapshot):
            return None
        return f"round {view.round} is committed and not revealed: start again before the reveal window ends"

    def has_lost_salt(self, snapshot: Snapshot) -> bool:
        """Whether a commitment on chain cannot be opened, since the journal does not have what it hides."""
        return False

    def can_still_reveal(self, snapshot: Snapshot) -> bool:
        """Whether the window for revealing is yet to end."""
        return False

    def act(self, do: Do, snapshot: Snapshot) -> Deeds:
        """Does it. Raises ChainflError; a retryable one is tried again by the loop.

        A preparation that what strangers published makes impossible ends the round for this agent, not the agent.
        """
        try:
            return self._doings[do](snapshot)
        except (LineageBroken, EncodingError, StorageError, TrainingDiverged) as error:
            if do not in PREPARATIONS or error.retryable:
                raise
            self._sit_out(do, snapshot, error)
            return None

    def sits_out(self, snapshot: Snapshot) -> bool:
        """Whether nothing can be prepared in this attempt at the round, from this model."""
        return self._sat_out == _attempt(snapshot)

    def _sit_out(self, do: Do, snapshot: Snapshot, error: Exception) -> None:
        self._sat_out = _attempt(snapshot)
        self.context.log.emit(
            "sits_out", level=logging.ERROR, doing=do.value, error=type(error).__name__, why=str(error)
        )

    def _shared(self) -> dict[Do, Doing]:
        chain, task_id = self.context.chain, self.context.scope.task_id
        return {
            Do.ENROL: self._enrol,
            Do.START_TASK: lambda _: chain.start_task(task_id),
            Do.CANCEL_TASK: lambda _: chain.cancel_task(task_id),
            Do.DRAW_WORKERS: lambda _: chain.draw_workers(task_id),
            Do.TALLY: lambda _: chain.tally(task_id, BATCH_WORKERS),
            Do.SETTLE: lambda _: chain.settle(task_id, BATCH_WORKERS),
            Do.CLOSE_GAME: self._close,
            Do.CLOSE_DEMAND: self._close,
            Do.CLAIM: lambda _: chain.claim(),
        }

    def _close(self, snapshot: Snapshot) -> SendResult | None:
        """Ends the dispute whose clock ran out first; None when somebody has moved or closed it meanwhile."""
        chain, closing = self.context.chain, chores.next_closing(self.context.chain, snapshot)
        if closing is None or snapshot.block.timestamp < closing.deadline:
            return None
        if isinstance(closing.what, Demand):
            demand = closing.what
            return chain.close_demand(snapshot.task_id, demand.round, demand.worker_index, demand.chunk_index)
        return chain.close_game(snapshot.task_id, closing.what)

    def _enrol(self, snapshot: Snapshot) -> SendResult:
        locked = duties.stake_to_lock(snapshot.task, self.role, self.context.stake)
        return self.context.chain.enrol(snapshot.task_id, self.role, locked)


def _attempt(snapshot: Snapshot) -> tuple[int, int, Root]:
    """A reorg may give the round another model, and then it is worth another try."""
    view = snapshot.round
    return view.round, view.attempt, view.model_root


def new_salt() -> bytes:
    """32 bytes that nobody can guess."""
    return secrets.token_bytes(SALT_BYTES)
