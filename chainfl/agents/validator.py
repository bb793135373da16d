"""A validator: fetches what was revealed, checks it, scores it on its own data, and vouches that it holds it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from chainfl.agents import chores, duties
from chainfl.agents.actions import Act, Action, Do, Wait
from chainfl.agents.answers import Answers, Asked, first_due, with_answer
from chainfl.agents.background import Background
from chainfl.agents.beside import MAX_STEP_S, TRAINING_LOOK_S, Beside, Start
from chainfl.agents.chores import Standing
from chainfl.agents.context import AgentContext
from chainfl.agents.journal import PreparedScores
from chainfl.agents.player import NUMERIC_ERRORS, Doing, Player, new_salt
from chainfl.agents.ports import SendResult
from chainfl.encoding.arrays import Int16Array, Int32Array
from chainfl.errors import (
    BlobNotFound,
    ChainError,
    ChainflError,
    EncodingError,
    LineageBroken,
    PayloadError,
    TrainingDiverged,
)
from chainfl.registry.material import fetch_update
from chainfl.tasks.commitments import scores_commitment
from chainfl.tasks.state import Demand, Phase, RevealedUpdate, Role, RoundView, Snapshot
from chainfl.tasks.votes import ABSTENTION, REJECTION, Vote, pack_votes, unpack_votes
from chainfl.types import Address, Root
from chainfl.validation.checks import is_rejection

LOOKS_IN_REVEAL = 8
FETCHES_AT_ONCE = 8
FETCH_LOOK_S = 1.0
"""How long one look at running fetches may take; they go on between the looks."""


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


class RoundScorer(Scorer, Protocol):
    """One that can begin before the round's updates are there."""

    def look_ahead(self, model: Int32Array, round_number: int, stop: threading.Event) -> None:
        """Does what needs no updates; `score` of the same round and model then gives the same votes, sooner.

        Called from another thread, never beside `score`. stop: set when nobody wants it any more. Raises
        TrainingStopped then, and what training raises.
        """
        ...

    def worsening(self, model: Int32Array, previous: Int32Array) -> tuple[float, float] | None:
        """The losses of the previous model and of this one, both (P,) int32, if the step between them was a bad one.

        That is one to a model that is worse than the previous one and worse than knowing nothing; else None.
        """
        ...


@dataclass(frozen=True, slots=True)
class ValidatorMemory:
    """What the journal knows of the current round. commitment: to the votes prepared, if there are any.

    The rest is about fetching. gathered: how many revealed updates need no more of it, when the models do not either.
    looked: chain time of the last look at it. deadline: chain time at which what is there has to do; both None before
    the first. sits_out: no votes can be kept in this round. answer_due: chain time from which a demand for an update
    that this validator vouched for is answered; None when there is none.
    """

    base_root: Root | None = None
    commitment: bytes | None = None
    gathered: int = 0
    looked: int | None = None
    deadline: int | None = None
    sits_out: bool = False
    answer_due: int | None = None


def decide(snapshot: Snapshot, memory: ValidatorMemory, standing: Standing, now: int, *, claim: bool = False) -> Action:
    """What a validator does at chain time `now`. Pure and total."""
    return with_answer(_decide(snapshot, memory, standing, now, claim=claim), memory.answer_due, now)


def _decide(snapshot: Snapshot, memory: ValidatorMemory, standing: Standing, now: int, *, claim: bool) -> Action:
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
        return _in_score_commit(view, memory, now)
    if view.phase is Phase.REVEAL and _may_score(snapshot):
        return _in_update_reveal(snapshot, memory, now)
    if view.phase is Phase.SCORE_REVEAL and _owes_reveal(snapshot) and memory.commitment == snapshot.me.commitment:
        return Act(Do.REVEAL_SCORES)
    return chores.decide(snapshot, standing, now)


def _in_score_commit(view: RoundView, memory: ValidatorMemory, now: int) -> Action:
    if memory.commitment is not None and memory.base_root == view.model_root:
        return Act(Do.COMMIT_SCORES)
    if memory.sits_out:
        return Wait("for the next round: no votes can be kept in this one", until=view.phase_end)
    if memory.deadline is None or memory.looked is None or memory.gathered == view.revealed:
        return Act(Do.PREPARE_SCORES)
    due = min(memory.looked + 1, memory.deadline)
    return Act(Do.PREPARE_SCORES) if now >= due else Wait("for updates to arrive", until=due)


def _in_update_reveal(snapshot: Snapshot, memory: ValidatorMemory, now: int) -> Action:
    """Whatever is here before ScoreCommit is time won for scoring."""
    view = snapshot.round
    due = now if memory.looked is None else memory.looked + max(1, snapshot.task.windows.reveal // LOOKS_IN_REVEAL)
    if now >= due:
        return Act(Do.FETCH_UPDATES)
    return Wait("for updates to be revealed", until=min(due, view.phase_end))


def _start_of(view: RoundView) -> Start:
    return Start(view.round, view.model_root)


def _may_score(snapshot: Snapshot) -> bool:
    me, number = snapshot.me, snapshot.round.round
    return me.active_from <= number < me.active_until and not me.has_committed(number)


def _owes_reveal(snapshot: Snapshot) -> bool:
    number = snapshot.round.round
    return snapshot.me.has_committed(number) and not snapshot.me.has_revealed(number)


@dataclass(slots=True)
class _Gathering:
    """What one round's scoring needs, fetched beside the loop. looked, deadline: chain times."""

    round: int
    base_root: Root
    fetches: Background = field(default_factory=lambda: Background(FETCHES_AT_ONCE))
    revealed: tuple[RevealedUpdate, ...] = ()
    looked: int | None = None
    deadline: int | None = None

    def num_settled(self) -> int:
        """How many updates need no more fetching; 0 while a model does. Without the model none matters."""
        if self.is_hopeless(_MODEL):
            return len(self.revealed)
        if not (self.is_settled(_MODEL) and self.is_settled(_PREVIOUS)):
            return 0
        return sum(self.is_settled(update) for update in self.revealed)

    def is_settled(self, key: Hashable) -> bool:
        """Fetched, or not worth another try."""
        return self.fetches.is_done(key) or self.is_hopeless(key)

    def is_hopeless(self, key: Hashable) -> bool:
        """Failed in a way that trying again does not change."""
        failure = self.fetches.failure(key)
        if failure is None or isinstance(failure, ChainError):
            return False
        return not (isinstance(failure, ChainflError) and failure.retryable)

    def why_missing(self, key: Hashable) -> str:
        """For people."""
        failure = self.fetches.failure(key)
        return "it did not arrive in time" if failure is None else f"{type(failure).__name__}: {failure}"


_MODEL, _PREVIOUS = "model", "previous model"


class Validator(Player):
    """Carries out what `decide` says."""

    role = Role.VALIDATOR

    def __init__(self, context: AgentContext, scorer: RoundScorer) -> None:
        super().__init__(context)
        self._scorer = scorer
        self._training: Beside[None] = Beside()
        self._gathering: _Gathering | None = None
        self._answers = Answers(context)

    def decide(self, snapshot: Snapshot, standing: Standing, now: int) -> Action:
        """See the function of the same name."""
        return decide(snapshot, self._memory(snapshot), standing, now, claim=self.context.claim)

    def own_doings(self) -> dict[Do, Doing]:
        """Fetching, scoring, committing, revealing."""
        return {
            Do.FETCH_UPDATES: self._fetch,
            Do.PREPARE_SCORES: self._prepare,
            Do.COMMIT_SCORES: self._commit,
            Do.REVEAL_SCORES: self._reveal,
            Do.ANSWER_DEMAND: self._answer,
        }

    def while_waiting(self, snapshot: Snapshot) -> None:
        """Also trains on its own data, while the workers train on theirs. Once: what failed is up to `score`."""
        super().while_waiting(snapshot)
        view, start = snapshot.round, _start_of(snapshot.round)
        before_scores = (Phase.COMMIT, Phase.REVEAL, Phase.SCORE_COMMIT)
        if view.phase not in before_scores or not _may_score(snapshot) or self._memory(snapshot).commitment:
            self._training.drop()
        elif self._training.start != start:
            self._training.begin(start, partial(self._model_of, view), partial(self._look_ahead, view))
            self.context.log.emit("looking_ahead", level=logging.DEBUG)

    def close(self) -> None:
        """Ends a training that runs."""
        self._training.close(MAX_STEP_S)

    def _model_of(self, view: RoundView) -> Int32Array:
        return self.models.at_round(view.round, view.model_root)

    def _look_ahead(self, view: RoundView, model: Int32Array, stop: threading.Event) -> None:
        self._scorer.look_ahead(model, view.round, stop)

    def can_still_reveal(self, snapshot: Snapshot) -> bool:
        """Until ScoreReveal ends."""
        return snapshot.round.phase in (Phase.SCORE_COMMIT, Phase.SCORE_REVEAL)

    def has_lost_salt(self, snapshot: Snapshot) -> bool:
        """Committed on chain, and the journal's votes are not those committed."""
        owes = self.can_still_reveal(snapshot) and _owes_reveal(snapshot)
        return owes and self._memory(snapshot).commitment != snapshot.me.commitment

    def _memory(self, snapshot: Snapshot) -> ValidatorMemory:
        view, gathering = snapshot.round, self._gathering
        scores = self.context.journal.scores(view.round)
        memory = ValidatorMemory(sits_out=self.sits_out(snapshot))
        if scores is not None:
            memory = replace(memory, base_root=scores.base_root, commitment=self._commitment(scores))
            memory = replace(memory, answer_due=first_due(self._asked(snapshot, scores)))
        if gathering is None or (gathering.round, gathering.base_root) != (view.round, view.model_root):
            return memory
        settled, looked, deadline = gathering.num_settled(), gathering.looked, gathering.deadline
        return replace(memory, gathered=settled, looked=looked, deadline=deadline)

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

    def _fetch(self, snapshot: Snapshot) -> None:
        """Starts fetching what is not here yet, or tries again; it goes on beside the loop."""
        gathering, view = self._gathering_of(snapshot), snapshot.round
        # Read again: a slow store must not eat the time that scoring and committing need.
        gathering.looked = self.context.chain.latest_block().timestamp
        gathering.revealed = self.context.chain.revealed_updates(snapshot.task_id, view.round, view.opened_block)
        self._start(gathering)

    def _is_gathered(self, snapshot: Snapshot) -> bool:
        """Fetches for a moment. True when all is here that will be, or when what is here has to do."""
        gathering, view = self._gathering_of(snapshot), snapshot.round
        if gathering.deadline is not None and gathering.num_settled() == view.revealed:
            return True
        self._fetch(snapshot)
        assert gathering.looked is not None, "it has just looked"
        if gathering.deadline is None:
            gathering.deadline = gathering.looked + max(0, view.phase_end - gathering.looked) // 2
        if gathering.looked < gathering.deadline:
            gathering.fetches.wait([_MODEL, _PREVIOUS, *gathering.revealed], FETCH_LOOK_S)
        return gathering.num_settled() == view.revealed or gathering.looked >= gathering.deadline

    def _gathering_of(self, snapshot: Snapshot) -> _Gathering:
        """The round's, from this model; what an earlier one still fetches is forgotten."""
        view, known = snapshot.round, self._gathering
        if known is not None and (known.round, known.base_root) == (view.round, view.model_root):
            return known
        if known is not None:
            known.fetches.close()
        self._gathering = _Gathering(view.round, view.model_root)
        return self._gathering

    def _start(self, gathering: _Gathering) -> None:
        number, root, store, scope = gathering.round, gathering.base_root, self.context.store, self.context.scope
        jobs: dict[Hashable, Callable[[], object]] = {
            _MODEL: partial(self.models.at_round, number, root),
            _PREVIOUS: partial(self.models.before, number, root),
        }
        for update in gathering.revealed:
            jobs[update] = partial(fetch_update, store, scope, number, root, update)
        for key, job in jobs.items():
            if not gathering.is_settled(key):
                gathering.fetches.start(key, job)

    def _prepare(self, snapshot: Snapshot) -> None:
        view, log = snapshot.round, self.context.log
        if not self._is_gathered(snapshot) or not self._has_looked_ahead():
            return
        log.emit("scoring", updates=view.revealed)
        started = time.monotonic()
        gathering = self._gathering_of(snapshot)
        votes = self._votes(gathering)
        workers = self.context.chain.members(snapshot.task_id, Role.WORKER)
        # A node that does not show every update: what it hides may be anybody's, and counts only for who revealed.
        others = REJECTION if len(votes) == view.revealed else ABSTENTION
        ballot = _ballot(workers, gathering.revealed, votes, others)
        self.context.journal.save_scores(PreparedScores(view.round, view.model_root, ballot, new_salt()))
        gathering.fetches.close()
        self._gathering = None  # a round's updates are the largest thing in memory
        log.emit(
            "scored",
            seconds_scoring=round(time.monotonic() - started, 3),
            accepted=sum(not vote.abstains and vote.weight > 0 for vote in votes),
            rejected=sum(vote.weight == 0 for vote in votes),
            abstained=sum(vote.abstains for vote in votes) + view.revealed - len(votes),
        )

    def _has_looked_ahead(self) -> bool:
        """Waits a moment for what trains: a trainer is one thread's. What failed or never began is up to `score`."""
        return self._training.free_trainer(TRAINING_LOOK_S)

    def _votes(self, gathering: _Gathering) -> Sequence[Vote]:
        """For each revealed update, in order. Whoever cannot judge abstains: silence would cost the validator stake."""
        checked = [self._checked(gathering, update) for update in gathering.revealed]
        try:
            return self._scored(gathering, checked)
        except (LineageBroken, EncodingError, TrainingDiverged, *NUMERIC_ERRORS) as error:
            kind = type(error).__name__
            self.context.log.emit("cannot_judge", level=logging.ERROR, error=kind, why=str(error))
            return [ABSTENTION] * len(checked)

    def _scored(self, gathering: _Gathering, checked: Sequence[CheckedUpdate]) -> Sequence[Vote]:
        fetches, previous = gathering.fetches, None
        if not fetches.is_done(_MODEL):
            raise LineageBroken(f"there is no model to judge from: {gathering.why_missing(_MODEL)}")
        if fetches.is_done(_PREVIOUS):
            previous = fetches.result(_PREVIOUS)
        else:
            why = gathering.why_missing(_PREVIOUS)
            self.context.log.emit("previous_model_missing", level=logging.WARNING, why=why)
        model = fetches.result(_MODEL)
        if previous is not None and (losses := self._scorer.worsening(model, previous)) is not None:
            before, after = (round(loss, 4) if math.isfinite(loss) else None for loss in losses)
            self.context.log.emit("diverging", level=logging.WARNING, loss_before=before, loss_after=after)
        return self._scorer.score(model, checked, gathering.round, previous)

    def _checked(self, gathering: _Gathering, update: RevealedUpdate) -> CheckedUpdate:
        if gathering.fetches.is_done(update):
            return CheckedUpdate(update.squared_norm, gathering.fetches.result(update))
        failure = gathering.fetches.failure(update)
        rejected = isinstance(failure, PayloadError) and is_rejection(failure)
        what = "update_rejected" if rejected else "update_not_delivered"
        why = gathering.why_missing(update)
        self.context.log.emit(what, level=logging.WARNING, worker=update.worker, why=why)
        return CheckedUpdate(update.squared_norm, None, rejected)

    def _commit(self, snapshot: Snapshot) -> SendResult:
        scores = self._prepared(snapshot)
        return self.context.chain.commit_scores(snapshot.task_id, scores.round, self._commitment(scores))

    def _reveal(self, snapshot: Snapshot) -> SendResult:
        scores = self._prepared(snapshot)
        return self.context.chain.reveal_scores(snapshot.task_id, scores.round, scores.votes, scores.salt)

    def _asked(self, snapshot: Snapshot, scores: PreparedScores) -> list[Asked]:
        if not snapshot.round.demands:
            return []
        votes = unpack_votes(scores.votes)
        return self._answers.vouched(snapshot, lambda index: index < len(votes) and votes[index].vouches)

    def _answer(self, snapshot: Snapshot) -> tuple[SendResult, ...]:
        asked = self._asked(snapshot, self._prepared(snapshot))
        return self._answers.answer(snapshot, asked, partial(self._read_vouched, snapshot))

    def _read_vouched(self, snapshot: Snapshot, demand: Demand) -> Int16Array:
        view, chain = snapshot.round, self.context.chain
        worker = chain.members(snapshot.task_id, Role.WORKER)[demand.worker_index]
        revealed = chain.revealed_updates(snapshot.task_id, view.round, view.opened_block)
        update = next((update for update in revealed if update.worker == worker), None)
        if update is None:
            raise BlobNotFound(f"the node does not show the update of {worker}", cid="of an update")
        return fetch_update(self.context.store, self.context.scope, view.round, view.model_root, update)

    def _prepared(self, snapshot: Snapshot) -> PreparedScores:
        scores = self.context.journal.scores(snapshot.round.round)
        assert scores is not None, "decided on votes that are not in the journal"
        return scores


def _ballot(
    workers: Sequence[Address], revealed: Sequence[RevealedUpdate], votes: Sequence[Vote], others: Vote
) -> bytes:
    """One vote for every enrolled worker, in their order. others: for those of whom no update is known."""
    given = {update.worker: vote for update, vote in zip(revealed, votes, strict=True)}
    return pack_votes([given.get(worker, others) for worker in workers])
