"""What a decision says: do one thing, wait, or stop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from chainfl.errors import ChainflError


class Do(StrEnum):
    """One thing to do. Those that prepare work on this machine alone; the others send one transaction."""

    ENROL = "enrol"
    SETTLE_RESIDUAL = "settle residual"

    PREPARE_UPDATE = "prepare update"
    COMMIT_UPDATE = "commit update"
    PUBLISH_UPDATE = "publish update"
    REVEAL_UPDATE = "reveal update"

    FETCH_UPDATES = "fetch updates"
    PREPARE_SCORES = "prepare scores"
    COMMIT_SCORES = "commit scores"
    REVEAL_SCORES = "reveal scores"

    PREPARE_AGGREGATE = "prepare aggregate"
    COMMIT_AGGREGATE = "commit aggregate"
    POST_AGGREGATE = "post aggregate"

    START_TASK = "start task"
    CANCEL_TASK = "cancel task"
    DRAW_WORKERS = "draw workers"
    TALLY = "tally"
    DRAW_ORDER = "draw order"
    SETTLE = "settle"
    CLOSE_GAME = "close game"
    CLOSE_DEMAND = "close demand"
    ANSWER_DEMAND = "answer demand"
    ANSWER_GAME = "answer game"

    CLAIM = "claim"


CHORES = frozenset(
    {
        Do.START_TASK,
        Do.CANCEL_TASK,
        Do.DRAW_WORKERS,
        Do.TALLY,
        Do.DRAW_ORDER,
        Do.SETTLE,
        Do.CLOSE_GAME,
        Do.CLOSE_DEMAND,
        Do.ANSWER_DEMAND,
    }
)
"""What anybody may send; somebody else may have been quicker, and that is no error."""

PREPARATIONS = frozenset({Do.PREPARE_UPDATE, Do.PREPARE_SCORES, Do.PREPARE_AGGREGATE})
"""Work on what strangers published; when it cannot be done the agent sits the round out."""


@dataclass(frozen=True, slots=True)
class Act:
    """Do this now, then look again."""

    do: Do


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until the phase changes, or until chain time `until`.

    every_block: what is awaited shows in no phase, so look again at each new block.
    """

    why: str
    until: int | None = None
    every_block: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing to do any more in this task. error: why it ends badly, if it does."""

    why: str
    error: ChainflError | None = None


Action = Act | Wait | Stop
