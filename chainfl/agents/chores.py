"""Who sends what anybody may send.

A round needs a handful of transactions that are nobody's own: starting or cancelling after enrolment, the draws, the
tally, closing a dispute whose clock ran out, the settlement. The first in a fixed order sends at once; each further one
waits `delay_s` longer, so that a dead agent is replaced and nobody pays for the same thing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chainfl.agents.actions import Act, Action, Do, Wait
from chainfl.agents.ports import ChainPort
from chainfl.tasks.state import ENROLLED_ROLES, ZERO_ADDRESS, Demand, Phase, Role, Snapshot, TaskView
from chainfl.types import Address

MIN_DELAY_S = 2
MAX_RANK = 4
"""Who is further back waits no longer than this, so that many dead accounts cannot hold a chore up past a window."""


@dataclass(frozen=True, slots=True)
class Closing:
    """A game or a demand that the round waits for. deadline: from then on anybody may close it."""

    deadline: int
    what: int | Demand
    """The game's number, or the demand."""

    @property
    def do(self) -> Do:
        """The chore."""
        return Do.CLOSE_DEMAND if isinstance(self.what, Demand) else Do.CLOSE_GAME


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an agent stands among all of a task.

    roster: everybody enrolled, each once, in the order in which chores fall to them. since: the chain time at which
    this agent first saw the task as it stands. closing: what the round waits for whose clock ends first.
    """

    me: Address
    roster: tuple[Address, ...]
    since: int
    closing: Closing | None = None

    def rank(self, first: Address = ZERO_ADDRESS) -> int:
        """0 for whose turn it is; `first` goes before everybody."""
        if self.me == first:
            return 0
        others = [account for account in self.roster if account != first]
        rank = others.index(self.me) if self.me in others else len(others)
        return rank + (first in self.roster)

    def rank_from_the_end(self) -> int:
        """The same for what workers want most: they go before validators, and those before aggregators."""
        return len(self.roster) - 1 - self.roster.index(self.me) if self.me in self.roster else len(self.roster)


def roster_of(
    aggregators: Sequence[Address], validators: Sequence[Address], workers: Sequence[Address]
) -> tuple[Address, ...]:
    """Aggregators, then validators, then workers, each by address: the same order for everybody."""
    ordered = [account for group in (aggregators, validators, workers) for account in sorted(group, key=str.lower)]
    return tuple(dict.fromkeys(ordered))


def delay_s(task: TaskView) -> int:
    """How much longer each further agent waits: a fifth of a slot, so that several fit into one."""
    return max(MIN_DELAY_S, task.windows.slot // 5)


def draw_delay_s(task: TaskView) -> int:
    """The same for the draw of workers: nobody trains before it, so that all turns together take a tenth of Commit."""
    return max(MIN_DELAY_S, min(delay_s(task), task.windows.commit // (10 * MAX_RANK)))


def decide(snapshot: Snapshot, standing: Standing, now: int) -> Action:
    """The chore that is due, or a Wait until this agent's turn; for an agent without a duty of its own."""
    view = snapshot.round
    match view.phase:
        case Phase.ENROLMENT:
            return _after_enrolment(snapshot, standing, now)
        case Phase.COMMIT if view.awaits_draw:
            return _before_the_draw(snapshot, standing, now)
        case Phase.TALLY:
            return turn(Do.TALLY, standing.since, standing.rank(), snapshot.task, now)
        case Phase.DISPUTE if not view.phase_end and standing.closing is not None:
            closing = standing.closing
            return turn(closing.do, closing.deadline, standing.rank(), snapshot.task, now)
        case Phase.SETTLEMENT:
            return turn(Do.SETTLE, standing.since, standing.rank(view.aggregator), snapshot.task, now)
        case _:
            return Wait(f"for the end of {view.phase.name}", until=view.phase_end or None)


def next_closing(chain: ChainPort, snapshot: Snapshot) -> Closing | None:
    """What the round waits for whose clock ends first; None when nothing but another's proof or answer is awaited.

    Read while the round waits for nothing else, so that no round hangs on one party.
    """
    view, task_id = snapshot.round, snapshot.task_id
    if view.phase is not Phase.DISPUTE or view.phase_end:
        return None
    found = [Closing(game.deadline, number) for number, game in chain.open_games(task_id, snapshot.block)]
    if view.demands:
        demands = chain.open_demands(task_id, view.round, view.opened_block)
        found += [Closing(demand.deadline, demand) for demand in demands if demand.is_late]
    return min(found, key=lambda closing: closing.deadline, default=None)


def turn(do: Do, since: int, rank: int, task: TaskView, now: int) -> Action:
    """The chore, if this agent's turn has come."""
    return _in_line(do, since + min(rank, MAX_RANK) * delay_s(task), now)


def _in_line(do: Do, due: int, now: int) -> Action:
    return Act(do) if now >= due else Wait(f"for another to {do.value}", until=due)


def _before_the_draw(snapshot: Snapshot, standing: Standing, now: int) -> Action:
    """Nobody can commit before it. That it is done shows in no phase."""
    if snapshot.block.number <= snapshot.round.seed_block:
        return Wait("for the block after the seed", every_block=True)
    rank = min(standing.rank_from_the_end(), MAX_RANK)
    action = _in_line(Do.DRAW_WORKERS, standing.since + rank * draw_delay_s(snapshot.task), now)
    return replace(action, every_block=True) if isinstance(action, Wait) else action


def _after_enrolment(snapshot: Snapshot, standing: Standing, now: int) -> Action:
    end = snapshot.task.enrolment_end
    if now < end:
        return Wait("for others to enrol", until=end)
    do = Do.START_TASK if minima_are_reached(snapshot) else Do.CANCEL_TASK
    return turn(do, end, standing.rank(), snapshot.task, now)


def minima_are_reached(snapshot: Snapshot) -> bool:
    """Whether the task can start with those who have enrolled."""
    task, view = snapshot.task, snapshot.round
    enrolled = {
        Role.WORKER: view.num_workers,
        Role.VALIDATOR: view.num_validators,
        Role.AGGREGATOR: view.num_aggregators,
    }
    needed = {Role.WORKER: task.workers, Role.VALIDATOR: task.validators, Role.AGGREGATOR: task.aggregators}
    return all(enrolled[role] >= needed[role].min for role in ENROLLED_ROLES)
