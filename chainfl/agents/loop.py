"""The loop of every agent: take one block, read everything at it, decide, act once, wait.

While it waits it asks for the block number, and for the task's pulse when there is a new block; nothing else. Chain
time, never wall time, drives decisions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chainfl.agents.actions import CHORES, Act, Do, Stop, Wait
from chainfl.agents.chores import Standing, delay_s, next_closing, roster_of
from chainfl.agents.player import Player
from chainfl.agents.ports import DryRun, SendResult, Sent, TimedOut, WouldRevert
from chainfl.errors import (
    AlreadyDone,
    ChainflError,
    GasBudgetExhausted,
    InsufficientFunds,
    Interrupted,
    RpcRefused,
    UnexpectedPhase,
)
from chainfl.tasks.state import Block, Phase, Pulse, Role, Snapshot
from chainfl.types import Address, Wei

POLL_S = 1.0
"""How long a stop signal may go unheard."""

MAX_IDLE_S = 60
"""Chain time after which everything is read again, whatever the phase says."""

STANDSTILL_S = 60
"""Wall time without a block after which a chain is said to stand still, if its blocks come more often than that."""
MAX_STANDSTILL_S = 300
PAUSES = 5
"""So many times the mean pause between blocks is no standstill yet."""

MAX_BACK_OFF_S = 30.0
MAX_CRASHES = 5
MAX_REFUSALS = 3

_STILL = (
    "no new block, and nothing goes on without one: the node is behind, or it is a local Anvil that mines for "
    "transactions alone; start that with --block-time 1, or make a chain with `chainfl local new`"
)

_log = logging.getLogger("chainfl.agents")

TOLD: dict[Do, str] = {
    Do.ENROL: "enrolled",
    Do.COMMIT_UPDATE: "committed",
    Do.REVEAL_UPDATE: "revealed",
    Do.COMMIT_SCORES: "scores_committed",
    Do.REVEAL_SCORES: "scores_revealed",
    Do.COMMIT_AGGREGATE: "aggregate_committed",
    Do.POST_AGGREGATE: "posted",
    Do.START_TASK: "task_started",
    Do.CANCEL_TASK: "task_cancelled",
    Do.DRAW_WORKERS: "workers_drawn",
    Do.TALLY: "tallied",
    Do.DRAW_ORDER: "order_drawn",
    Do.SETTLE: "settled",
    Do.CLOSE_GAME: "game_closed",
    Do.CLOSE_DEMAND: "demand_closed",
    Do.ANSWER_DEMAND: "demand_answered",
    Do.ANSWER_GAME: "game_answered",
    Do.CLAIM: "claimed",
}


@dataclass(slots=True)
class _Sight:
    """What the loop remembers from one look to the next. None of it is needed after a restart.

    newest: the hash of the newest block; newest_since: when it was first waited on, by the wall clock.
    """

    snapshot: Snapshot | None = None
    since: int = 0
    roster: tuple[Address, ...] = ()
    roster_key: tuple[int, int, int] = (-1, -1, -1)
    slashes_seen: int = 0
    why: str = ""
    warned: set[tuple[int, str, str]] = field(default_factory=set)
    newest: bytes = b""
    newest_since: float = 0.0
    standstill_told: bool = False
    refusals: dict[tuple[Do, str], int] = field(default_factory=dict)


class AgentLoop:
    """Runs one player in one task until the task is over or the process is asked to stop.

    clock: wall time in seconds, by which nothing is decided: it only tells a chain that stands still.
    """

    def __init__(self, player: Player, stop: threading.Event, clock: Callable[[], float] = time.monotonic) -> None:
        self._player = player
        self._clock = clock
        self._stop = stop
        self._context = player.context
        self._sight = _Sight()
        self._failures = 0
        self._crashes = 0

    def run(self) -> None:
        """Returns when there is nothing left to do in the task.

        Raises Interrupted when asked to stop, and whatever is not worth trying again. Retryable errors are, with a
        growing pause.
        """
        try:
            self._play_on()
        finally:
            self._player.close()

    def _play_on(self) -> None:
        while not self._stop.is_set():
            try:
                if self._step():
                    return
                self._failures = self._crashes = 0
            except RpcRefused as error:
                # Hosted endpoints say "internal error" for a moment; one that never serves us ends it.
                self._count_crash(error)
            except ChainflError as error:
                self._judge(error)
            except Exception as error:  # noqa: BLE001  # the loop's boundary: counted, logged, classified
                self._count_crash(error)
        self._interrupted()

    def _step(self) -> bool:
        """One look and at most one deed. True when the task is done with."""
        snapshot = self._look()
        self._notice(snapshot)
        action = self._player.decide(snapshot, self._standing(snapshot), snapshot.block.timestamp)
        match action:
            case Stop(why=why, error=error):
                self._player.at_the_end(snapshot)
                return self._finish(why, error)
            case Act(do=do):
                wait = self._carry_out(do, snapshot)
                if wait is not None:
                    self._wait(snapshot, wait)
            case Wait():
                self._wait(snapshot, action)
        return False

    # --- looking --------------------------------------------------------------------------------

    def _look(self) -> Snapshot:
        """Everything at the newest block. While something goes on beside the loop most looks see one block again."""
        chain, before = self._context.chain, self._sight.snapshot
        newest = chain.latest_block()
        if before is not None and before.block == newest:
            return before
        return chain.snapshot(self._context.scope.task_id, self._player.role, newest)

    def _notice(self, snapshot: Snapshot) -> None:
        view, before = snapshot.round, self._sight.snapshot
        self._context.log.stand_at(snapshot.task_id, view.round, view.phase)
        if view.round:
            self._context.report.rounds.add(view.round)
        if before is None or _stage(before) != _stage(snapshot):
            self._sight.since = snapshot.block.timestamp
        if before is None or (before.round.round, before.round.phase) != (view.round, view.phase):
            self._context.log.emit("phase", until=view.phase_end, block=snapshot.block.number)
        self._notice_money(snapshot, before)
        self._notice_lost_salt(snapshot)
        self._sight.snapshot = snapshot

    def _notice_money(self, snapshot: Snapshot, before: Snapshot | None) -> None:
        if before is not None and snapshot.credit > before.credit:
            self._context.log.emit("paid", wei=snapshot.credit - before.credit, credit_wei=snapshot.credit)
        suspicious = before is None or snapshot.me.stake < before.me.stake or snapshot.me.missed > before.me.missed
        if snapshot.me.is_enrolled and suspicious:
            self._report_slashes(snapshot)

    def _report_slashes(self, snapshot: Snapshot) -> None:
        chain, sight = self._context.chain, self._sight
        slashes = chain.slashes(snapshot.task_id, chain.account, snapshot.task.created_block)
        for slash in slashes[sight.slashes_seen :]:
            self._context.report.slashed_wei = Wei(self._context.report.slashed_wei + slash.amount)
            self._context.log.emit(
                "slashed",
                level=logging.WARNING,
                wei=slash.amount,
                reason=slash.reason,
                in_round=slash.round,
                tx=slash.tx_hash,
            )
        sight.slashes_seen = len(slashes)

    def _notice_lost_salt(self, snapshot: Snapshot) -> None:
        if self._player.has_lost_salt(snapshot):
            self._warn_once(
                snapshot,
                "salt_lost",
                f"this account committed in round {snapshot.round.round}, but the journal in "
                f"{self._context.journal.folder} does not have what it committed: stake is at risk. Restore the "
                "journal before the reveal window ends",
            )

    def _standing(self, snapshot: Snapshot) -> Standing:
        """The roster grows during enrolment alone; it is read when a chore may need it, and once afterwards."""
        view, sight = snapshot.round, self._sight
        key = (view.num_aggregators, view.num_validators, view.num_workers)
        enrolling = view.phase is Phase.ENROLMENT and snapshot.block.timestamp < snapshot.task.enrolment_end
        if key != sight.roster_key and not enrolling:
            roles = (Role.AGGREGATOR, Role.VALIDATOR, Role.WORKER)
            lists = [self._context.chain.members(snapshot.task_id, role, snapshot.block) for role in roles]
            sight.roster, sight.roster_key = roster_of(*lists), key
        closing = next_closing(self._context.chain, snapshot)
        return Standing(self._context.chain.account, sight.roster, sight.since, closing)

    # --- acting ---------------------------------------------------------------------------------

    def _carry_out(self, do: Do, snapshot: Snapshot) -> Wait | None:
        """None when looking again at once makes sense; a Wait when only another block can change anything."""
        try:
            result = self._player.act(do, snapshot)
        except (GasBudgetExhausted, InsufficientFunds, RpcRefused) as refusal:
            if do not in CHORES:
                raise
            return self._skip(do, snapshot, refusal)
        results = result if isinstance(result, tuple) else () if result is None else (result,)
        sent = [one for one in results if isinstance(one, Sent)]
        for one in results:
            self._hear(do, one, snapshot)
        return None if sent or not results else Wait(f"to try again to {do.value}", every_block=True)

    def _hear(self, do: Do, result: SendResult, snapshot: Snapshot) -> None:
        match result:
            case Sent():
                self._count(do, result)
            case WouldRevert(error=error):
                self._refused(do, error, snapshot)
            case TimedOut(tx_hash=tx_hash):
                self._context.log.emit("no_receipt", level=logging.WARNING, doing=do.value, tx=tx_hash)
            case DryRun():
                self._context.log.emit("dry_run", doing=do.value, gas=result.gas_estimate, cost_wei=result.cost_wei)

    def _skip(self, do: Do, snapshot: Snapshot, error: ChainflError) -> Wait:
        """A chore is not worth an agent's end: others can do it, and what is left may do for its own duties."""
        self._warn_once(snapshot, "chore_skipped", str(error), about=do.value, level=logging.WARNING)
        return Wait(f"for another to {do.value}", until=snapshot.block.timestamp + delay_s(snapshot.task))

    def _count(self, do: Do, sent: Sent) -> None:
        report = self._context.report
        report.transactions[do.value] += 1
        report.gas += sent.gas_used
        report.cost_wei += sent.cost_wei
        self._context.log.emit(
            TOLD[do], block=sent.block_number, gas=sent.gas_used, cost_wei=sent.cost_wei, tx=sent.tx_hash
        )
        self._sight.refusals.clear()

    def _refused(self, do: Do, error: ChainflError, snapshot: Snapshot) -> None:
        """Somebody was quicker, or the phase changed meanwhile: the next look tells. Anything else ends the agent.

        But not an answer that is refused: it must not keep the other answers, whose clocks run, from being sent.
        """
        if do in CHORES or isinstance(error, AlreadyDone | UnexpectedPhase):
            self._context.log.emit("overtaken", level=logging.DEBUG, doing=do.value, why=str(error))
            return
        if do is Do.ANSWER_GAME:
            self._warn_once(snapshot, "refused", str(error), about=f"{do.value}: {error}", level=logging.WARNING)
            return
        key = (do, str(error))
        self._sight.refusals[key] = self._sight.refusals.get(key, 0) + 1
        self._context.log.emit("refused", level=logging.WARNING, doing=do.value, why=str(error))
        # The state may have moved between the look and the send, so once is not enough.
        if self._sight.refusals[key] >= MAX_REFUSALS:
            raise error

    # --- waiting --------------------------------------------------------------------------------

    def _wait(self, snapshot: Snapshot, wait: Wait) -> None:
        """Until there is a reason to look again: another phase, the deadline, or a stop signal."""
        if wait.why != self._sight.why:
            self._sight.why = wait.why
            self._context.log.emit("waiting", level=logging.DEBUG, why=wait.why, until=wait.until)
        self._player.while_waiting(snapshot)
        seen = snapshot.block
        while not self._stop.is_set():
            newest = self._context.chain.wait_for_block(seen.number, POLL_S)
            self._notice_standstill(snapshot, newest)
            # A reorg can make the newest block an older one.
            if newest.hash == seen.hash:
                continue
            seen = newest
            if self._is_due(snapshot, wait, newest):
                return

    def _notice_standstill(self, snapshot: Snapshot, newest: Block) -> None:
        """Without blocks no phase ends, and everybody would wait without a word. Told once for each standstill."""
        sight, now = self._sight, self._clock()
        if newest.hash != sight.newest:
            sight.newest, sight.newest_since, sight.standstill_told = newest.hash, now, False
        pause = now - sight.newest_since
        if not sight.standstill_told and pause >= _patience_s(snapshot):
            sight.standstill_told = True
            self._context.log.emit(
                "chain_stands_still",
                level=logging.WARNING,
                block=newest.number,
                seconds_without_block=round(pause),
                why=_STILL,
            )

    def _is_due(self, snapshot: Snapshot, wait: Wait, newest: Block) -> bool:
        if wait.every_block or newest.timestamp >= snapshot.block.timestamp + MAX_IDLE_S:
            return True
        if wait.until is not None and newest.timestamp >= wait.until:
            return True
        view = snapshot.round
        before = Pulse(view.phase, view.phase_end, view.attempt, view.demands, view.games)
        return self._context.chain.pulse(snapshot.task_id, newest) != before

    # --- ending ---------------------------------------------------------------------------------

    def _finish(self, why: str, error: ChainflError | None) -> bool:
        self._context.report.ended = why
        self._context.log.emit("ended", level=logging.INFO if error is None else logging.ERROR, why=why)
        if error is not None:
            raise error
        return True

    def _judge(self, error: ChainflError) -> None:
        if not error.retryable:
            self._context.report.ended = f"{type(error).__name__}: {error}"
            self._context.log.emit("failed", level=logging.ERROR, error=type(error).__name__, why=str(error))
            self._warn_of_risk()
            raise error
        self._back_off(error)

    def _count_crash(self, error: Exception) -> None:
        self._crashes += 1
        _log.exception("unexpected error %d of %d", self._crashes, MAX_CRASHES)
        if self._crashes >= MAX_CRASHES:
            self._context.log.emit("failed", level=logging.ERROR, error=type(error).__name__, why=str(error))
            self._warn_of_risk()
            raise error
        self._back_off(error)

    def _back_off(self, error: Exception) -> None:
        pause = min(MAX_BACK_OFF_S, 0.5 * 2**self._failures)
        self._failures += 1
        self._context.report.retries += 1
        self._context.log.emit(
            "retrying", level=logging.WARNING, error=type(error).__name__, why=str(error), seconds_pause=pause
        )
        self._stop.wait(pause)

    def _interrupted(self) -> None:
        self._context.report.ended = "stopped by a signal"
        self._look_once_more()
        risk = self._warn_of_risk()
        self._context.log.emit("ended", why="stopped by a signal")
        raise Interrupted(f"stopped; {risk}" if risk else "stopped; nothing is at risk", at_risk=risk)

    def _look_once_more(self) -> None:
        """What was last seen may be from before the commit that puts stake at risk."""
        chain, task_id = self._context.chain, self._context.scope.task_id
        try:
            self._sight.snapshot = chain.snapshot(task_id, self._player.role, chain.latest_block())
        except ChainflError as error:
            self._context.log.emit("unseen_end", level=logging.WARNING, why=str(error))

    def _warn_of_risk(self) -> str | None:
        snapshot = self._sight.snapshot
        risk = self._player.at_risk(snapshot) if snapshot is not None else None
        if risk and snapshot is not None:
            self._warn_once(snapshot, "stake_at_risk", risk)
        return risk

    def _warn_once(
        self, snapshot: Snapshot, what: str, why: str, *, about: str = "", level: int = logging.ERROR
    ) -> None:
        key = (snapshot.round.round, what, about)
        if key not in self._sight.warned:
            self._sight.warned.add(key)
            details = {"doing": about} if about else {}
            self._context.log.emit(what, level=level, why=why, until=snapshot.round.phase_end, **details)


def _patience_s(snapshot: Snapshot) -> float:
    """How long no block may come before the chain is said to stand still, by the mean pause since the task's creation.

    Bounded, since a chain that mines on demand has paused for as long as nobody sent.
    """
    seconds = snapshot.block.timestamp - snapshot.task.created_at
    blocks = max(1, snapshot.block.number - snapshot.task.created_block)
    return max(STANDSTILL_S, min(PAUSES * seconds / blocks, MAX_STANDSTILL_S))


def _stage(snapshot: Snapshot) -> tuple[int, ...]:
    """Changes whenever somebody brought the task forward, so that turns are counted from there."""
    view = snapshot.round
    return (view.round, view.attempt, view.phase, view.tallied, view.settled, int(view.order_drawn), view.seed_block)
