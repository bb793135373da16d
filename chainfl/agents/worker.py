"""A worker: trains as soon as a round is open, commits, and shows its update once nobody can commit any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from chainfl.agents import chores, duties
from chainfl.agents.actions import Act, Action, Do, Wait
from chainfl.agents.answers import Answers, first_due, with_answer
from chainfl.agents.background import Background
from chainfl.agents.beside import MAX_STEP_S, TRAINING_LOOK_S, Beside, Start
from chainfl.agents.chores import Standing
from chainfl.agents.context import AgentContext
from chainfl.agents.encode import EncodedUpdate, encode_update, payload_bytes
from chainfl.agents.journal import PreparedUpdate
from chainfl.agents.player import NUMERIC_ERRORS, Doing, Player, new_salt
from chainfl.agents.ports import SendResult
from chainfl.encoding.arrays import Float32Array, Int16Array, Int32Array
from chainfl.encoding.payload import read_update
from chainfl.errors import CidMismatch, EncodingError, LineageBroken, StorageError, TrainingDiverged
from chainfl.registry.material import fetch_model
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.cids import cid_on_chain
from chainfl.tasks.commitments import update_commitment
from chainfl.tasks.state import IDLE, Demand, Phase, Role, Snapshot
from chainfl.training.settings import NO_MEMORY, Memory
from chainfl.types import Cid, Root

CLIP_WARNING_SHARE = 0.001
UPLOAD_LOOK_S = 1.0
"""How long one look at a running upload may take; it goes on between the looks."""

MAX_UPLOAD_PAUSE_S = 16


@dataclass(frozen=True, slots=True, eq=False)
class TrainedUpdate:
    """delta: (P,) float32, local model minus global model. Losses are of the first and last step's batch.

    kept: what the algorithm needs to settle its memory, if the update counts. findings: what a guard noticed, each the
    name of an event; a finding does not keep the update back.
    """

    delta: Float32Array
    num_examples: int
    loss_first: float
    loss_last: float
    kept: Memory = field(default_factory=dict)
    findings: tuple[str, ...] = ()


class UpdateTrainer(Protocol):
    """Trains on the operator's own data. It keeps nothing itself: what a round leaves behind is given to the next."""

    @property
    def uses_previous(self) -> bool:
        """Whether `train` looks at the model that the round's model was made from."""
        ...

    @property
    def needs_the_past(self) -> bool:
        """Whether `train` looks at that model or at the memory. If not, the round's model is enough to begin."""
        ...

    def train(
        self,
        model: Int32Array,
        round_number: int,
        *,
        memory: Memory = NO_MEMORY,
        previous: Int32Array | None = None,
        stop: threading.Event | None = None,
    ) -> TrainedUpdate:
        """model: (P,) int32, the round's global model. The same round and memory give the same update again.

        memory: of `settle` after this worker's last update that counted. previous: the model that `model` was made
        from, None for the genesis. stop: set by another thread when nobody wants the update any more. Raises
        TrainingDiverged when there is nothing to send, TrainingStopped when it was stopped.
        """
        ...

    def settle(self, kept: Memory, sent: Int16Array, before: Int32Array, after: Int32Array) -> Memory:
        """The memory after a round in which this worker's update counted; in any other round it stays as it was.

        kept: of that update. sent: (P,) int16, what it was. before, after: (P,) int32, the models around the round.
        """
        ...


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """What the journal knows. base_root, commitment: of the update prepared for the current round, if there is one.

    unresolved: an earlier round's update still waits for its round's outcome. sits_out: there can be no update in
    this round. published: the update's bytes are in the store. publish_due, reveal_by: chain times from which the
    upload is looked after again, and from which it is revealed with or without its bytes; None before the first try.
    answer_due: chain time from which a demand for this worker's update is answered; None when there is none.
    """

    base_root: Root | None = None
    commitment: bytes | None = None
    unresolved: bool = False
    sits_out: bool = False
    published: bool = False
    publish_due: int | None = None
    reveal_by: int | None = None
    answer_due: int | None = None


def decide(snapshot: Snapshot, memory: WorkerMemory, standing: Standing, now: int, *, claim: bool = False) -> Action:
    """What a worker does at chain time `now`. Pure and total."""
    # First of all: an early demand that is not answered costs stake, and its clock runs beside the phases.
    return with_answer(_decide(snapshot, memory, standing, now, claim=claim), memory.answer_due, now)


def _decide(snapshot: Snapshot, memory: WorkerMemory, standing: Standing, now: int, *, claim: bool) -> Action:
    before = duties.before_the_rounds(snapshot, Role.WORKER, standing, now)
    if before is not None:
        return before
    over = duties.after_the_rounds(snapshot, claim=claim)
    if over is not None:
        return over
    view = snapshot.round
    if view.phase_end and now >= view.phase_end:
        return Wait("for a block in the next phase", every_block=True)
    if memory.unresolved:
        return Act(Do.SETTLE_RESIDUAL)
    if view.phase is Phase.COMMIT:
        return _in_commit(snapshot, memory, standing, now)
    if view.phase is Phase.REVEAL and _owes_reveal(snapshot) and memory.commitment == snapshot.me.commitment:
        return _in_reveal(memory, now)
    chore = chores.decide(snapshot, standing, now)
    owes_bytes = memory.commitment is not None and not memory.published and snapshot.me.has_revealed(view.round)
    return _still_publishing(memory, chore, now) if owes_bytes and isinstance(chore, Wait) else chore


def _in_reveal(memory: WorkerMemory, now: int) -> Action:
    if memory.published or memory.publish_due is None or memory.reveal_by is None:
        return Act(Do.REVEAL_UPDATE)
    due = min(memory.publish_due, memory.reveal_by)
    return Act(Do.REVEAL_UPDATE) if now >= due else Wait("for the upload", until=due)


def _still_publishing(memory: WorkerMemory, wait: Wait, now: int) -> Action:
    """Revealed without its bytes: whoever scores may still find them."""
    due = memory.publish_due
    if due is None or now >= due:
        return Act(Do.PUBLISH_UPDATE)
    return replace(wait, until=due if wait.until is None else min(due, wait.until))


def _in_commit(snapshot: Snapshot, memory: WorkerMemory, standing: Standing, now: int) -> Action:
    view = snapshot.round
    if snapshot.me.has_committed(view.round):
        return Wait("for the others to commit", until=view.phase_end)
    if gone := duties.departure(snapshot, Role.WORKER):
        return gone
    if view.awaits_draw:
        return chores.decide(snapshot, standing, now)
    if view.round < snapshot.me.active_from:
        why = "it is not drawn for this one" if snapshot.me.active_from == IDLE else "to take part again"
        return Wait(f"for the next round: {why}", until=view.phase_end)
    if memory.sits_out:
        return Wait("for the next round: this one's model cannot be trained from", until=view.phase_end)
    # A reorg may have given the round another model than the one trained from.
    if memory.commitment is None or memory.base_root != view.model_root:
        return Act(Do.PREPARE_UPDATE)
    return Act(Do.COMMIT_UPDATE)


def start_ahead(snapshot: Snapshot) -> Start | None:
    """What this worker's next round starts from if the posted model stands; None where that cannot be told. Pure.

    Where workers are drawn, nobody knows before the round opens who trains in it.
    """
    view, me = snapshot.round, snapshot.me
    number = view.round + 1
    if view.phase not in (Phase.CHALLENGE, Phase.DISPUTE, Phase.SETTLEMENT) or number > snapshot.task.rounds:
        return None
    if not me.is_enrolled or not me.active_from <= number < me.active_until or view.pool:
        return None
    return Start(number, view.aggregate_root)


def _owes_reveal(snapshot: Snapshot) -> bool:
    number = snapshot.round.round
    return snapshot.me.has_committed(number) and not snapshot.me.has_revealed(number)


@dataclass(slots=True)
class _Upload:
    """One round's, beside the loop. looked, due, reveal_by: chain times. pause_s: before the next try, growing."""

    cid: Cid
    reveal_by: int
    looked: int
    due: int
    uploads: Background
    published: bool = False
    why: str = "the upload takes too long"
    pause_s: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What a round's training starts from. model, previous: (P,) int32."""

    round: int
    model: Int32Array
    memory: Memory = field(default_factory=dict)
    previous: Int32Array | None = None


class Worker(Player):
    """Carries out what `decide` says."""

    role = Role.WORKER

    def __init__(
        self, context: AgentContext, trainer: UpdateTrainer, on_duty: Callable[[], object] | None = None
    ) -> None:
        """on_duty: called at every look while the account is enrolled, and returns at once."""
        super().__init__(context)
        self._trainer = trainer
        self._on_duty = on_duty
        self._training: Beside[TrainedUpdate] = Beside()
        self._trains_ahead = False
        self._upload: _Upload | None = None
        self._answers = Answers(context)

    def decide(self, snapshot: Snapshot, standing: Standing, now: int) -> Action:
        """See the function of the same name."""
        if self._on_duty is not None and snapshot.me.is_enrolled:
            self._on_duty()
        return decide(snapshot, self._memory(snapshot), standing, now, claim=self.context.claim)

    def own_doings(self) -> dict[Do, Doing]:
        """Training, committing, publishing, revealing, and the residual's bookkeeping."""
        return {
            Do.SETTLE_RESIDUAL: self._settle_residual,
            Do.PREPARE_UPDATE: self._prepare,
            Do.COMMIT_UPDATE: self._commit,
            Do.PUBLISH_UPDATE: self._publish,
            Do.REVEAL_UPDATE: self._reveal,
            Do.ANSWER_DEMAND: self._answer,
        }

    def while_waiting(self, snapshot: Snapshot) -> None:
        """Also trains ahead: from a posted model that may still fall, while it can be challenged.

        What falls costs the time, and nothing is sent of it: an update is prepared from its round's own model alone.
        """
        super().while_waiting(snapshot)
        next_start = start_ahead(snapshot)
        if next_start is None or self._trainer.needs_the_past:
            self._training.drop()
        elif self._training.begin(next_start, partial(self._posted, snapshot), self._train):
            self._trains_ahead = True
            self.context.log.emit("training_ahead", for_round=next_start.round)

    def close(self) -> None:
        """Ends a training that runs."""
        self._training.close(MAX_STEP_S)

    def can_still_reveal(self, snapshot: Snapshot) -> bool:
        """Until Reveal ends."""
        return snapshot.round.phase in (Phase.COMMIT, Phase.REVEAL)

    def has_lost_salt(self, snapshot: Snapshot) -> bool:
        """Committed on chain, and the journal's update is not the one committed."""
        owes = self.can_still_reveal(snapshot) and _owes_reveal(snapshot)
        return owes and self._memory(snapshot).commitment != snapshot.me.commitment

    def _memory(self, snapshot: Snapshot) -> WorkerMemory:
        number = snapshot.round.round
        unresolved = bool(self.context.journal.unresolved_updates(number))
        update = self.context.journal.update(number)
        sits_out = self.sits_out(snapshot)
        if update is None:
            return WorkerMemory(unresolved=unresolved, sits_out=sits_out)
        published = self.context.journal.is_published(number)
        memory = WorkerMemory(update.base_root, self._commitment(update), unresolved, sits_out, published)
        memory = replace(memory, answer_due=first_due(self._answers.own(snapshot)))
        upload = self._upload
        if upload is None or upload.cid != update.cid:
            return memory
        published = published or upload.published
        return replace(memory, published=published, publish_due=upload.due, reveal_by=upload.reveal_by)

    def _commitment(self, update: PreparedUpdate) -> bytes:
        scope = self.context.scope
        return update_commitment(
            chain_id=scope.chain_id,
            coordinator=scope.coordinator,
            task_id=scope.task_id,
            round_number=update.round,
            worker=self.context.chain.account,
            root=update.root,
            cid=cid_on_chain(update.cid),
            squared_norm=update.squared_norm,
            num_examples=update.num_examples,
            salt=update.salt,
        )

    def _prepare(self, snapshot: Snapshot) -> None:
        """Trains and journals; killed before that is whole, it trains again, and nothing was sent."""
        view, journal, form = snapshot.round, self.context.journal, self.context.scope.format
        if self._training.begin(Start(view.round, view.model_root), partial(self._material, snapshot), self._train):
            self._trains_ahead = False
            self.context.log.emit("training")
        # What failed ahead of the round does not end the round: there are more ways to its model than the posted bytes.
        if not self._training.wait(TRAINING_LOOK_S) or (self._trains_ahead and self._training.has_failed):
            return
        trained, seconds = self._training.result()
        self.context.report.seconds_training += seconds
        compression = self.context.scope.compression
        encoded = encode_update(trained.delta, journal.residual(form.num_params), form, compression)
        metadata = self.context.scope.update_metadata(view.round, self.context.chain.account, view.model_root)
        payload = payload_bytes(encoded.values, metadata, compression)
        update = PreparedUpdate(
            round=view.round,
            opened_block=view.opened_block,
            base_root=view.model_root,
            root=encoded.commitment.root,
            cid=cid_of(payload),
            squared_norm=encoded.commitment.sum_of_squares,
            num_examples=trained.num_examples,
            salt=new_salt(),
        )
        journal.save_update(update, payload, encoded.residual, trained.kept)
        self.context.log.emit(
            "trained",
            seconds_training=round(seconds, 3),
            loss_first=round(trained.loss_first, 4),
            loss_last=round(trained.loss_last, 4),
            examples=trained.num_examples,
            bytes=len(payload),
        )
        for finding in trained.findings:
            self.context.log.emit(finding, level=logging.WARNING, loss_last=round(trained.loss_last, 4))
        self._warn_of_losses(encoded)

    def _material(self, snapshot: Snapshot) -> Material:
        """For the update of the round that is open."""
        view = snapshot.round
        model = self.models.at_round(view.round, view.model_root)
        previous = self.models.before(view.round, view.model_root) if self._trainer.uses_previous else None
        memory = self.context.journal.memory(self.context.scope.format.num_params)
        return Material(view.round, model, memory, previous)

    def _posted(self, snapshot: Snapshot) -> Material:
        """For that of the next round, if the posted model stands."""
        view = snapshot.round
        model = fetch_model(self.context.store, self.context.scope, view.aggregate_root, view.aggregate_cid)
        self.models.keep(view.aggregate_root, model)
        return Material(view.round + 1, model)

    def _train(self, material: Material, stop: threading.Event) -> TrainedUpdate:
        model, number, memory, previous = material.model, material.round, material.memory, material.previous
        try:
            return self._trainer.train(model, number, memory=memory, previous=previous, stop=stop)
        except NUMERIC_ERRORS as error:
            raise TrainingDiverged(f"training failed on this model: {type(error).__name__}: {error}") from error

    def _warn_of_losses(self, encoded: EncodedUpdate) -> None:
        share = encoded.num_clipped / len(encoded.values)
        if share > CLIP_WARNING_SHARE:
            self.context.log.emit("clipped", level=logging.WARNING, share=round(share, 5))
        if encoded.norm_scale < 1:
            self.context.log.emit("norm_bounded", level=logging.WARNING, scale=round(encoded.norm_scale, 5))

    def _commit(self, snapshot: Snapshot) -> SendResult:
        update = self._prepared(snapshot)
        return self.context.chain.commit_update(snapshot.task_id, update.round, self._commitment(update))

    def _publish(self, snapshot: Snapshot) -> None:
        """Starts the upload, or looks after it. It never fails: what is missing is tried again, and told once."""
        update = self._prepared(snapshot)
        upload = self._upload_of(update.cid, snapshot)
        path = self.context.journal.update_payload(update.round)
        upload.uploads.start(update.cid, lambda: self._put(path, update.cid))
        upload.uploads.wait([update.cid], UPLOAD_LOOK_S)
        if upload.uploads.is_done(update.cid):
            self._mark_published(upload, update.round)
            num_bytes = upload.uploads.result(update.cid)
            self.context.report.bytes_published += num_bytes
            self.context.log.emit("published", bytes=num_bytes, cid=update.cid)
        elif failure := upload.uploads.failure(update.cid):
            self._put_off(upload, failure)
        upload.looked = self.context.chain.latest_block().timestamp
        upload.due = upload.looked + max(1, upload.pause_s)

    def _upload_of(self, cid: Cid, snapshot: Snapshot) -> _Upload:
        if self._upload is None or self._upload.cid != cid:
            # Read again: the round may have moved on since the snapshot.
            now = self.context.chain.latest_block().timestamp
            reveal_by = now + max(0, snapshot.round.phase_end - now) // 2
            self._upload = _Upload(cid, reveal_by, now, now, Background(at_once=1))
        return self._upload

    def _put(self, path: Path, cid: Cid) -> int:
        """Uploads. returns: how many bytes."""
        published = self.context.store.put_file(path)
        if published != cid:
            raise CidMismatch(f"the update published as {published} was committed as {cid}", cid=cid)
        return path.stat().st_size

    def _mark_published(self, upload: _Upload, number: int) -> None:
        upload.published = True
        try:
            self.context.journal.mark_published(number)
        except StorageError as error:
            # After a restart it is uploaded again, and that is all.
            self.context.log.emit("journal_failing", level=logging.WARNING, why=str(error))

    def _put_off(self, upload: _Upload, failure: BaseException) -> None:
        upload.why = str(failure)
        if not upload.pause_s:
            kind = type(failure).__name__
            self.context.log.emit("publishing_failed", level=logging.WARNING, error=kind, why=upload.why)
        upload.pause_s = min(MAX_UPLOAD_PAUSE_S, 2 * upload.pause_s or 1)

    def _reveal(self, snapshot: Snapshot) -> SendResult | None:
        """Bytes first: from the reveal on, anybody may ask for them. But not revealing costs stake for certain."""
        update = self._prepared(snapshot)
        upload = self._upload_of(update.cid, snapshot)
        upload.published = upload.published or self.context.journal.is_published(update.round)
        if not upload.published:
            self._publish(snapshot)
        if not upload.published and upload.looked < upload.reveal_by:
            return None
        if not upload.published:
            self.context.log.emit("revealing_unpublished", level=logging.ERROR, why=upload.why, cid=update.cid)
        return self.context.chain.reveal_update(
            snapshot.task_id,
            update.round,
            update.root,
            cid_on_chain(update.cid),
            update.squared_norm,
            update.num_examples,
            update.salt,
        )

    def _answer(self, snapshot: Snapshot) -> tuple[SendResult, ...]:
        return self._answers.answer(snapshot, self._answers.own(snapshot), self._read_own)

    def _read_own(self, demand: Demand) -> Int16Array:
        update = self.context.journal.update(demand.round)
        assert update is not None, "decided on an update that is not in the journal"
        return self._read_values(update)

    def _read_values(self, update: PreparedUpdate) -> Int16Array:
        scope = self.context.scope
        binding = scope.update_metadata(update.round, self.context.chain.account, update.base_root)
        payload = self.context.journal.update_payload(update.round).read_bytes()
        num_params = scope.format.num_params
        return read_update(payload, num_params=num_params, expected=binding, compression=scope.compression)

    def _prepared(self, snapshot: Snapshot) -> PreparedUpdate:
        update = self.context.journal.update(snapshot.round.round)
        assert update is not None, "decided on an update that is not in the journal"
        return update

    def _settle_residual(self, snapshot: Snapshot) -> None:
        """Error feedback counts what was lost only if the rest arrived: final, and with a weight above zero."""
        for update in self.context.journal.unresolved_updates(snapshot.round.round):
            weight = self._final_weight(update)
            memory = self._settled_memory(update, snapshot) if weight else NO_MEMORY
            self.context.journal.resolve_update(update.round, counted=weight > 0, memory=memory)
            self.context.log.emit("round_over", settled_round=update.round, weight=weight)

    def _settled_memory(self, update: PreparedUpdate, snapshot: Snapshot) -> Memory:
        """What the algorithm keeps now that the update counted; empty if it keeps nothing, or cannot know it."""
        kept = self.context.journal.kept_with(update.round, self.context.scope.format.num_params)
        if not kept:
            return NO_MEMORY
        root, _ = self.context.chain.model_location(self.context.scope.task_id, update.round)
        try:
            before = self.models.at_round(update.round, update.base_root)
            after = self.models.at_round(update.round + 1, root)
        except (LineageBroken, EncodingError, StorageError) as error:
            # Without the newest model there is no training either. Older ones may be gone for good.
            if error.retryable and update.round + 1 == snapshot.round.round:
                raise
            self.context.log.emit("memory_outdated", level=logging.WARNING, of_round=update.round, why=str(error))
            return NO_MEMORY
        return self._trainer.settle(kept, self._read_values(update), before, after)

    def _final_weight(self, update: PreparedUpdate) -> int:
        """This worker's weight in the round; 0 when the round turned void."""
        chain, task_id = self.context.chain, self.context.scope.task_id
        root, _ = chain.model_location(task_id, update.round)
        if root == update.base_root:
            return 0
        tallied = chain.tallied_updates(task_id, update.round, update.opened_block)
        return next((t.weight for t in tallied if t.worker == chain.account and t.root == update.root), 0)
