"""An aggregator: computes the next global model from public bytes, publishes it, and posts its root. No torch."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from chainfl.agents import chores, duties
from chainfl.agents.actions import Act, Action, Do, Wait
from chainfl.agents.background import Background
from chainfl.agents.chores import Standing
from chainfl.agents.context import AgentContext
from chainfl.agents.evidence import Evidence
from chainfl.agents.journal import PreparedAggregate
from chainfl.agents.player import Doing, Player, new_salt
from chainfl.agents.ports import MAX_AT_ONCE, ChunkAnswer, NodesAnswer, SendResult, Sent
from chainfl.encoding.layout import Layout
from chainfl.encoding.payload import write_float_model, write_model
from chainfl.errors import CidMismatch, NodeBehind
from chainfl.registry.replay import ReplayedRound, accepted_updates, replay_round
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.cids import cid_on_chain
from chainfl.tasks.commitments import aggregate_commitment
from chainfl.tasks.phases import bond_of, exclusive_end, open_since, slot_holder, slot_start
from chainfl.tasks.state import Game, Phase, Role, RoundView, Snapshot
from chainfl.types import Cid, Root

UPLOAD_LOOK_S = 1.0
"""How long one look at running uploads may take; they go on between the looks."""
UPLOADS_AT_ONCE = 2
OLD_SEED_BLOCKS = 200
"""The chain forgets a seed after 256 blocks. From here on it is drawn from, or rolled forward, by itself."""


@dataclass(frozen=True, slots=True)
class AggregatorMemory:
    """What the journal knows of the current attempt.

    base_root: of the model that the prepared aggregate starts from, None when there is none. committed_block: of the
    commit in the open window, 0 before it. sits_out: this attempt's aggregate cannot be computed here. excluded: an
    aggregate of this account was refuted in the round. is_asked: somebody disputes the root that this account posted,
    and waits for nodes or a chunk of it.
    """

    base_root: Root | None = None
    committed_block: int = 0
    sits_out: bool = False
    excluded: bool = False
    is_asked: bool = False


def decide(
    snapshot: Snapshot, memory: AggregatorMemory, standing: Standing, now: int, *, claim: bool = False
) -> Action:
    """What an aggregator does at chain time `now`. Pure and total."""
    before = duties.before_the_rounds(snapshot, Role.AGGREGATOR, standing, now)
    if before is not None:
        return before
    over = duties.after_the_rounds(snapshot, claim=claim)
    if over is not None:
        return over
    view = snapshot.round
    if memory.is_asked:
        # Silence would cost the bond.
        return Act(Do.ANSWER_GAME)
    if view.phase_end and now >= view.phase_end:
        return Wait("for a block in the next phase", every_block=True)
    if gone := duties.departure(snapshot, Role.AGGREGATOR):
        return gone
    if view.phase is Phase.AGGREGATE:
        return _in_aggregate(snapshot, memory, standing, now)
    action = chores.decide(snapshot, standing, now)
    # What a challenger points at next changes nothing else that this account would notice in time.
    is_disputed = view.games > 0 and view.aggregator == standing.me
    return replace(action, every_block=True) if is_disputed and isinstance(action, Wait) else action


def _in_aggregate(snapshot: Snapshot, memory: AggregatorMemory, standing: Standing, now: int) -> Action:
    view, windows = snapshot.round, snapshot.task.windows
    if memory.excluded:
        return Wait("for the round to end: an aggregate of this account was refuted in it", until=view.phase_end)
    if snapshot.free_stake < bond_of(snapshot.task.economics, view.attempt):
        return Wait("for free stake to bond with: `chainfl stake deposit`", until=view.phase_end)
    exclusive = exclusive_end(view.aggregate_start, view.num_slots, windows)
    if not view.order_drawn and now < exclusive:
        return _before_the_draw(snapshot, memory, exclusive)
    if memory.sits_out:
        return Wait("for the next round: this one's aggregate cannot be computed here", until=view.phase_end)
    holder = slot_holder(view, windows, now)
    if holder is None:
        return _in_open_window(snapshot, memory, standing, now)
    if holder == standing.me:
        return _ready(snapshot, memory) or Act(Do.POST_AGGREGATE)
    mine = slot_start(view, windows, standing.me)
    until = mine if mine is not None and mine > now else exclusive
    return Wait("for another's slot to end", until=until)


def _before_the_draw(snapshot: Snapshot, memory: AggregatorMemory, exclusive: int) -> Action:
    view = snapshot.round
    if not snapshot.me.is_enrolled:
        return Wait("for the slots to end", until=exclusive)
    # Posting draws the order by itself; who is alone need not pay for a draw, and works while it waits for the seed.
    alone = view.num_aggregators == 1 and not memory.sits_out
    if alone and (work := _ready(snapshot, memory)):
        return work
    if snapshot.block.number <= view.seed_block:
        return Wait("for the block after the seed", every_block=True)
    if alone and snapshot.block.number < view.seed_block + OLD_SEED_BLOCKS:
        return Act(Do.POST_AGGREGATE)
    # Without a turn: each second of a slot counts, and whose turn it would be may be away.
    return Act(Do.DRAW_ORDER)


def _in_open_window(snapshot: Snapshot, memory: AggregatorMemory, standing: Standing, now: int) -> Action:
    view, task = snapshot.round, snapshot.task
    if not memory.committed_block:
        start = open_since(view, task.windows, now)
        # The bond of everybody but the first would only be spent on gas.
        mine = chores.turn(Do.COMMIT_AGGREGATE, start, standing.rank(), task, now)
        return mine if isinstance(mine, Wait) else _ready(snapshot, memory) or mine
    if snapshot.block.number <= memory.committed_block:
        return Wait("for the commit to be a block old", every_block=True)
    return _ready(snapshot, memory) or Act(Do.POST_AGGREGATE)


def _ready(snapshot: Snapshot, memory: AggregatorMemory) -> Act | None:
    """The work that must be done first; None when the aggregate is there."""
    return None if memory.base_root == snapshot.round.model_root else Act(Do.PREPARE_AGGREGATE)


@dataclass(frozen=True, slots=True)
class Unpublished:
    """An aggregate that is computed, and on its way to the store beside the loop.

    payloads: what is published, by CID. started: of the monotonic clock. told: of it in the log.
    """

    aggregate: PreparedAggregate
    payloads: Mapping[Cid, bytes]
    started: float
    told: Mapping[str, int]
    uploads: Background = field(default_factory=lambda: Background(UPLOADS_AT_ONCE))

    def is_for(self, view: RoundView) -> bool:
        """Whether it is this attempt's, from this model: a reorg may have changed either."""
        mine = self.aggregate
        return (mine.round, mine.attempt, mine.base_root) == (view.round, view.attempt, view.model_root)


class Aggregator(Player):
    """Carries out what `decide` says."""

    role = Role.AGGREGATOR

    def __init__(self, context: AgentContext) -> None:
        super().__init__(context)
        self._layout = Layout.from_json(context.spec.layout.to_json())
        self._evidence: Evidence | None = None
        self._evidence_round = 0
        self._unpublished: Unpublished | None = None

    def decide(self, snapshot: Snapshot, standing: Standing, now: int) -> Action:
        """See the function of the same name."""
        return decide(snapshot, self._memory(snapshot), standing, now, claim=self.context.claim)

    def own_doings(self) -> dict[Do, Doing]:
        """Drawing the order, computing, committing, posting."""
        return {
            Do.DRAW_ORDER: lambda snapshot: self.context.chain.draw_order(snapshot.task_id),
            Do.PREPARE_AGGREGATE: self._prepare,
            Do.COMMIT_AGGREGATE: self._commit,
            Do.POST_AGGREGATE: self._post,
            Do.ANSWER_GAME: self._answer,
        }

    def _memory(self, snapshot: Snapshot) -> AggregatorMemory:
        kept = self.context.journal.aggregate(snapshot.round.round, snapshot.round.attempt)
        sits_out, excluded = self.sits_out(snapshot), self._is_excluded(snapshot)
        is_asked = bool(self._questions(snapshot))
        if kept is None:
            return AggregatorMemory(sits_out=sits_out, excluded=excluded, is_asked=is_asked)
        return AggregatorMemory(kept.base_root, kept.committed_block, sits_out, excluded, is_asked)

    def _questions(self, snapshot: Snapshot) -> list[tuple[int, Game]]:
        """The games about this account's own aggregate that wait for an answer, the soonest deadline first."""
        view, chain = snapshot.round, self.context.chain
        mine = view.aggregator == chain.account and view.phase in (Phase.CHALLENGE, Phase.DISPUTE)
        if not mine or view.games == 0:
            return []
        now = snapshot.block.timestamp
        asked = [
            (number, game)
            for number, game in chain.open_games(snapshot.task_id, snapshot.block)
            if game.answers_turn and now < game.deadline
        ]
        return sorted(asked, key=lambda found: (found[1].deadline, found[0]))

    def _answer(self, snapshot: Snapshot) -> tuple[SendResult, ...]:
        """All that is asked, in one go: one question left without its answer would cost the bond."""
        questions = self._questions(snapshot)[:MAX_AT_ONCE]
        if not questions:
            return ()
        if self._evidence is None or self._evidence_round != snapshot.round.round:
            self._evidence, self._evidence_round = Evidence(self.context), snapshot.round.round
            self._evidence.enter(snapshot.round)
        if missing := self._evidence.recompute(snapshot.round):
            raise NodeBehind(f"{len(missing)} accepted updates cannot be fetched, so nothing can be answered from them")
        steps = [self._reply(self._evidence, number, game) for number, game in questions]
        return self.context.chain.dispute_all(snapshot.task_id, steps)

    def _reply(self, evidence: Evidence, number: int, game: Game) -> NodesAnswer | ChunkAnswer:
        return evidence.step(number, game)

    def _is_excluded(self, snapshot: Snapshot) -> bool:
        view, chain = snapshot.round, self.context.chain
        if view.attempt < 2 or view.phase is not Phase.AGGREGATE:
            return False
        return chain.is_excluded(snapshot.task_id, view.round, chain.account, snapshot.block)

    def _prepare(self, snapshot: Snapshot) -> None:
        """Computes the aggregate, starts its uploads, or looks after them. Returns soon, whatever the store does.

        It is in the journal, and so ready, once it is published. Raises what kept an upload from that.
        """
        if self._unpublished is None or not self._unpublished.is_for(snapshot.round):
            self._unpublished = self._compute(snapshot)
        work = self._unpublished
        for cid, payload in work.payloads.items():
            work.uploads.start(cid, partial(self._put, cid, payload))
        work.uploads.wait(work.payloads, UPLOAD_LOOK_S)
        if failure := next(filter(None, map(work.uploads.failure, work.payloads)), None):
            raise failure
        if all(map(work.uploads.is_done, work.payloads)):
            self._mark_published(work)

    def _compute(self, snapshot: Snapshot) -> Unpublished:
        view = snapshot.round
        self.context.log.emit("aggregating", accepted=view.accepted)
        started = time.monotonic()
        replayed = self._replay(snapshot)
        exact, floats = self._payloads(replayed)
        aggregate = PreparedAggregate(
            round=view.round,
            attempt=view.attempt,
            base_root=view.model_root,
            root=replayed.root,
            cid=cid_of(exact),
            float_cid=cid_of(floats),
            salt=new_salt(),
            committed_block=0,
            state_root=replayed.state_root,
            group_roots=replayed.group_roots,
        )
        self.models.keep(replayed.root, replayed.model, replayed.state_root, replayed.state)
        told = {"updates": replayed.num_updates, "total_weight": replayed.total_weight}
        told |= {"saturated": replayed.num_saturated, "bytes": len(exact)}
        return Unpublished(aggregate, {aggregate.cid: exact, aggregate.float_cid: floats}, started, told)

    def _payloads(self, replayed: ReplayedRound) -> tuple[bytes, bytes]:
        """The model as integers, which is what counts, and as floats, for whoever only uses it."""
        exact, floats = io.BytesIO(), io.BytesIO()
        write_model(exact, replayed.model, self.context.scope.model_metadata(), replayed.state)
        scale_bits, architecture = self.context.scope.format.model_scale_bits, self.context.spec.architecture()
        write_float_model(floats, self._layout, replayed.model, scale_bits, architecture)
        return exact.getvalue(), floats.getvalue()

    def _put(self, cid: Cid, payload: bytes) -> None:
        published = self.context.store.put_bytes(payload)
        if published != cid:
            raise CidMismatch(f"the aggregate published as {published} is {cid}", cid=cid)

    def _mark_published(self, work: Unpublished) -> None:
        self.context.journal.save_aggregate(work.aggregate)
        self.context.report.bytes_published += sum(map(len, work.payloads.values()))
        self._unpublished = None
        seconds = round(time.monotonic() - work.started, 3)
        self.context.log.emit("aggregated", seconds_aggregating=seconds, **work.told, root=work.aggregate.root.hex())

    def _replay(self, snapshot: Snapshot) -> ReplayedRound:
        view, chain, scope = snapshot.round, self.context.chain, self.context.scope
        revealed = chain.revealed_updates(snapshot.task_id, view.round, view.opened_block)
        tallied = chain.tallied_updates(snapshot.task_id, view.round, view.opened_block)
        if sum(tally.weight for tally in tallied) != view.total_weight:
            raise NodeBehind(f"the node does not show all the {view.total_weight} of weight that was tallied")
        base = self.models.checkpoint_at(view.round, view.model_root, view.state_root)
        updates = accepted_updates(self.context.store, scope, view.round, view.model_root, revealed, tallied)
        return replay_round(base.model, updates, scope.format, state=base.state)

    def _commit(self, snapshot: Snapshot) -> SendResult:
        kept = self._prepared(snapshot)
        scope = self.context.scope
        commitment = aggregate_commitment(
            chain_id=scope.chain_id,
            coordinator=scope.coordinator,
            task_id=scope.task_id,
            round_number=kept.round,
            attempt=kept.attempt,
            aggregator=self.context.chain.account,
            claim=kept.claim,
            salt=kept.salt,
        )
        result = self.context.chain.commit_aggregate(snapshot.task_id, kept.round, commitment)
        # Killed before this line, it commits once more: the same commitment, a block younger.
        if isinstance(result, Sent):
            self.context.journal.save_aggregate(replace(kept, committed_block=result.block_number))
        return result

    def _post(self, snapshot: Snapshot) -> SendResult:
        kept = self._prepared(snapshot)
        return self.context.chain.post_aggregate(
            snapshot.task_id, kept.round, kept.claim, cid_on_chain(kept.cid), cid_on_chain(kept.float_cid), kept.salt
        )

    def _prepared(self, snapshot: Snapshot) -> PreparedAggregate:
        kept = self.context.journal.aggregate(snapshot.round.round, snapshot.round.attempt)
        assert kept is not None, "decided on an aggregate that is not in the journal"
        return kept
