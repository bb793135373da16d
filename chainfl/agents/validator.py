"""A validator: fetches what was revealed, checks it, scores it on its own data, and vouches that it holds it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chainfl.agents import chores, duties
from chainfl.agents.actions import Act, Action, Do, Wait
from chainfl.agents.chores import Standing
from chainfl.agents.context import AgentContext
from chainfl.agents.journal import PreparedScores
from chainfl.agents.player import Doing, Player, new_salt
from chainfl.agents.ports import SendResult
from chainfl.encoding.arrays import Int16Array, Int32Array
from chainfl.errors import BlobNotFound, NodeBehind, PayloadError, StorageError
from chainfl.registry.material import fetch_update
from chainfl.tasks.commitments import scores_commitment
from chainfl.tasks.state import Phase, RevealedUpdate, Role, Snapshot
from chainfl.tasks.votes import REJECTION, Vote, pack_votes
from chainfl.types import Address, Root
from chainfl.validation.checks import is_rejection


@dataclass(frozen=True, slots=True, eq=False)
class CheckedUpdate:
    """A revealed update as this validator has it. values: (P,) int16; None when it has none.

    rejected: what it has is not a valid update, so that it votes 0 and does not abstain.
    """

    squared_norm: int
    values: Int16Array | None
    rejected: bool = False


class Scorer(Protocol):
    """Judges a round's updates on data of one's own."""

    def score(
        self, model: Int32Array, updates: Sequence[CheckedUpdate], round_number: int, previous: Int32Array | None
    ) -> Sequence[Vote]:
        """A vote for each update, in order. model, previous: (P,) int32, the round's model and the one before."""
        ...


@dataclass(frozen=True, slots=True)
class ValidatorMemory:
    """What the journal knows of the current round. commitment: to the votes prepared, if there are any."""

    base_root: Root | None = None
    commitment: bytes | None = None


def decide(snapshot: Snapshot, memory: ValidatorMemory, standing: Standing, now: int, *, claim: bool = False) -> Action:
    """What a validator does at chain time `now`. Pure and total."""
    before = duties.before_the_rounds(snapshot, Role.VALIDATOR, standing, now)
    if before is not None:
        return before
    over = duties.after_the_rounds(snapshot, claim=claim)
    if over is not None:
        return over
    view = snapshot.round
    if view.phase_end and now >= view.phase_end:
        return Wait("for a block in the next phase", every_block=True)
    if gone := duties.departure(snapshot, Role.VALIDATOR):
        return gone
    if view.phase is Phase.SCORE_COMMIT and _may_score(snapshot):
        ready = memory.commitment is not None and memory.base_root == view.model_root
        return Act(Do.COMMIT_SCORES if ready else Do.PREPARE_SCORES)
    if view.phase is Phase.SCORE_REVEAL and _owes_reveal(snapshot) and memory.commitment == snapshot.me.commitment:
        return Act(Do.REVEAL_SCORES)
    return chores.decide(snapshot, standing, now)


def _may_score(snapshot: Snapshot) -> bool:
    me, number = snapshot.me, snapshot.round.round
    return me.active_from <= number < me.active_until and not me.has_committed(number)


def _owes_reveal(snapshot: Snapshot) -> bool:
    number = snapshot.round.round
    return snapshot.me.has_committed(number) and not snapshot.me.has_revealed(number)


class Validator(Player):
    """Carries out what `decide` says."""

    role = Role.VALIDATOR

    def __init__(self, context: AgentContext, scorer: Scorer) -> None:
        super().__init__(context)
        self._scorer = scorer

    def decide(self, snapshot: Snapshot, standing: Standing, now: int) -> Action:
        """See the function of the same name."""
        return decide(snapshot, self._memory(snapshot), standing, now, claim=self.context.claim)

    def own_doings(self) -> dict[Do, Doing]:
        """Scoring, committing, revealing."""
        return {
            Do.PREPARE_SCORES: self._prepare,
            Do.COMMIT_SCORES: self._commit,
            Do.REVEAL_SCORES: self._reveal,
        }

    def can_still_reveal(self, snapshot: Snapshot) -> bool:
        """Until ScoreReveal ends."""
        return snapshot.round.phase in (Phase.SCORE_COMMIT, Phase.SCORE_REVEAL)

    def has_lost_salt(self, snapshot: Snapshot) -> bool:
        """Committed on chain, and the journal's votes are not those committed."""
        owes = self.can_still_reveal(snapshot) and _owes_reveal(snapshot)
        return owes and self._memory(snapshot).commitment != snapshot.me.commitment

    def _memory(self, snapshot: Snapshot) -> ValidatorMemory:
        scores = self.context.journal.scores(snapshot.round.round)
        return ValidatorMemory() if scores is None else ValidatorMemory(scores.base_root, self._commitment(scores))

    def _commitment(self, scores: PreparedScores) -> bytes:
        scope = self.context.scope
        return scores_commitment(
            chain_id=scope.chain_id,
            coordinator=scope.coordinator,
            task_id=scope.task_id,
            round_number=scores.round,
            validator=self.context.chain.account,
            votes=scores.votes,
            salt=scores.salt,
        )

    def _prepare(self, snapshot: Snapshot) -> None:
        view, chain, log = snapshot.round, self.context.chain, self.context.log
        log.emit("scoring", updates=view.revealed)
        started = time.monotonic()
        workers = chain.members(snapshot.task_id, Role.WORKER)
        revealed = chain.revealed_updates(snapshot.task_id, view.round, view.opened_block)
        if len(revealed) != view.revealed:
            raise NodeBehind(f"the node shows {len(revealed)} of {view.revealed} revealed updates")
        checked = [self._checked(snapshot, update) for update in revealed]
        model = self.models.at_round(view.round, view.model_root)
        previous = self.models.before(view.round, view.model_root)
        votes = self._scorer.score(model, checked, view.round, previous)
        scores = PreparedScores(view.round, view.model_root, _ballot(workers, revealed, votes), new_salt())
        self.context.journal.save_scores(scores)
        log.emit(
            "scored",
            seconds_scoring=round(time.monotonic() - started, 3),
            accepted=sum(not vote.abstains and vote.weight > 0 for vote in votes),
            rejected=sum(vote.weight == 0 for vote in votes),
            abstained=sum(vote.abstains for vote in votes),
        )

    def _checked(self, snapshot: Snapshot, update: RevealedUpdate) -> CheckedUpdate:
        view, store = snapshot.round, self.context.store
        try:
            values = fetch_update(store, self.context.scope, view.round, view.model_root, update)
        except BlobNotFound as error:
            # Bytes may still be on their way: half of the window is there for waiting, the rest for scoring.
            if snapshot.block.timestamp < view.phase_end - snapshot.task.windows.score_commit // 2:
                raise
            return self._refused(update, error, rejected=False)
        except PayloadError as error:
            return self._refused(update, error, rejected=is_rejection(error))
        except StorageError as error:
            if error.retryable:
                raise
            return self._refused(update, error, rejected=False)
        return CheckedUpdate(update.squared_norm, values)

    def _refused(self, update: RevealedUpdate, error: Exception, *, rejected: bool) -> CheckedUpdate:
        what = "update_rejected" if rejected else "update_not_delivered"
        self.context.log.emit(what, level=logging.WARNING, worker=update.worker, why=str(error))
        return CheckedUpdate(update.squared_norm, None, rejected)

    def _commit(self, snapshot: Snapshot) -> SendResult:
        scores = self._prepared(snapshot)
        return self.context.chain.commit_scores(snapshot.task_id, scores.round, self._commitment(scores))

    def _reveal(self, snapshot: Snapshot) -> SendResult:
        scores = self._prepared(snapshot)
        return self.context.chain.reveal_scores(snapshot.task_id, scores.round, scores.votes, scores.salt)

    def _prepared(self, snapshot: Snapshot) -> PreparedScores:
        scores = self.context.journal.scores(snapshot.round.round)
        assert scores is not None, "decided on votes that are not in the journal"
        return scores


def _ballot(workers: Sequence[Address], revealed: Sequence[RevealedUpdate], votes: Sequence[Vote]) -> bytes:
    """One vote for every enrolled worker, in their order; zero for who revealed nothing."""
    given = {update.worker: vote for update, vote in zip(revealed, votes, strict=True)}
    return pack_votes([given.get(worker, REJECTION) for worker in workers])
