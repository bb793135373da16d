"""What a watcher works out from public bytes: which update is wrong or missing, what the aggregate must be, and the
bytes that convict. All of it can be worked out again after a restart."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from chainfl.agents.background import Background
from chainfl.agents.context import AgentContext, ModelSource
from chainfl.agents.ports import AnsweredDemand, ChunkAnswer, NodesAnswer
from chainfl.agents.watching import AggregateFinding, Bytes, GameFinding, OpenGame, UpdateFinding
from chainfl.aggregation.rules import WeightedSource, group_sums, read_rows, walk
from chainfl.disputes import proofs
from chainfl.disputes.faults import (
    Fault,
    FaultKind,
    UpdateReason,
    Vectors,
    find_fault,
    opening_fault,
    padding_fault,
    stated_vector,
    sum_lie,
    suspect_chunk,
    update_fault,
)
from chainfl.disputes.games import differing_child, nodes_below, opening_from_answers, pointer
from chainfl.disputes.openings import (
    CommittedVector,
    KnownOpening,
    Opener,
    StatedVector,
    VectorWithoutTree,
    read_plain,
)
from chainfl.encoding.arrays import Int64Array
from chainfl.encoding.chunk_tree import TreeShape, VectorKind
from chainfl.encoding.payload import Checkpoint
from chainfl.encoding.sources import VectorSource, as_source
from chainfl.errors import BlobNotFound, EncodingError, NodeBehind, PayloadError, StillFetching, StorageError
from chainfl.registry.material import fetch_checkpoint, spool_update
from chainfl.registry.replay import ReplayedRound, replay_round
from chainfl.tasks.state import (
    ChunkAnswered,
    Claim,
    Game,
    NodesAnswered,
    PostedAggregate,
    RevealedUpdate,
    Role,
    RoundView,
    Target,
)

FETCHES_AT_ONCE = 4
FETCH_LOOK_S = 0.5
"""How long one look waits for what it began to fetch; fetching goes on between the looks."""

_KINDS = {Target.MODEL: VectorKind.MODEL, Target.STATE: VectorKind.STATE, Target.GROUP: VectorKind.GROUP_SUM}


class Evidence:
    """Everything about one round, kept while it lasts. Updates lie in files of no name; models are in memory.

    waits: for everything that is fetched, until it came or failed. False: for a moment; it comes beside the other work,
    and whoever looks again later finds it. Then `overdue` says that what is not here yet counts as not there.
    """

    def __init__(self, context: AgentContext, *, waits: bool = True) -> None:
        self._context = context
        self._look_s = threading.TIMEOUT_MAX if waits else FETCH_LOOK_S
        self._fetches = Background(FETCHES_AT_ONCE)
        self._begun: set[Hashable] = set()
        self._secret = secrets.token_bytes(32)
        self._models = ModelSource(context)
        self._sources: dict[int, VectorSource] = {}
        self._other: dict[int, CommittedVector] = {}
        self._wrong: set[int] = set()
        self._stated: dict[int, StatedVector] = {}
        self._round: RoundView | None = None
        self._expected: ReplayedRound | None = None
        self._accepted: list[tuple[int, WeightedSource]] = []
        self._before: Checkpoint | None = None
        self._vectors: dict[tuple[Target, int], CommittedVector] = {}

    def enter(self, view: RoundView) -> None:
        """Forgets the last round."""
        self._round, self._expected, self._before = view, None, None
        self._fetches.close()
        self._fetches = Background(FETCHES_AT_ONCE)
        self._begun.clear()
        for kept in (self._sources, self._other, self._wrong, self._stated):
            kept.clear()
        self._accepted.clear()
        self._vectors.clear()

    @property
    def expected(self) -> Claim | None:
        """What the aggregate must be, once `recompute` found everything."""
        return None if self._expected is None else self._expected.claim()

    # --- updates ----------------------------------------------------------------------------------

    def check_updates(self, view: RoundView, *, overdue: bool = False) -> Iterator[UpdateFinding]:
        """Fetches and checks every revealed update of which nothing is known yet, or that was not there."""
        unknown = [one for one in self._revealed(view) if one[0] not in self._sources and one[0] not in self._wrong]
        self._bring(view, [update for _, update in unknown])
        for index, update in unknown:
            if self._has_ended(update) or overdue:
                found = self._check(index, update)
                if found.state is Bytes.WRONG:  # and stays so: the bytes are those of its CID
                    self._wrong.add(index)
                yield found

    # --- fetching ---------------------------------------------------------------------------------

    def _bring(self, view: RoundView, updates: Sequence[RevealedUpdate]) -> None:
        """Begins to fetch updates, again those that failed, a few at a time; a stalled one keeps no other back."""
        store, scope = self._context.store, self._context.scope
        fetch = partial(spool_update, store, scope, view.round, view.model_root, in_range=False, rooted=False)
        self._begin({update: partial(fetch, update) for update in updates})

    def _begin(self, jobs: Mapping[Hashable, Callable[[], object]]) -> None:
        fresh = [key for key in jobs if key not in self._begun or self._fetches.failure(key)]
        for key in fresh:
            self._fetches.start(key, jobs[key])
        self._begun.update(fresh)
        self._fetches.wait(fresh, self._look_s)

    def _has_ended(self, key: Hashable) -> bool:
        return self._fetches.is_done(key) or self._fetches.failure(key) is not None

    def _brought(self, key: Hashable) -> Any:
        """Raises why it failed, or BlobNotFound for what is not here yet."""
        if failure := self._fetches.failure(key):
            raise failure
        if not self._fetches.is_done(key):
            raise BlobNotFound("its bytes did not come in time", cid="of what is awaited")
        return self._fetches.result(key)

    def _require_ended(self, keys: Iterable[Hashable]) -> None:
        if not all(self._has_ended(key) for key in keys):
            raise StillFetching("what the round was made of is still on its way")

    # --- updates, looked at -----------------------------------------------------------------------

    def _revealed(self, view: RoundView) -> Iterator[tuple[int, RevealedUpdate]]:
        chain, task_id = self._context.chain, self._context.scope.task_id
        workers = chain.members(task_id, Role.WORKER)
        for update in chain.revealed_updates(task_id, view.round, view.opened_block):
            yield workers.index(update.worker), update

    def _check(self, index: int, update: RevealedUpdate) -> UpdateFinding:
        form = self._context.scope.format
        try:
            source = self._brought(update)
        except StorageError as error:
            return UpdateFinding(index, Bytes.MISSING, why=str(error), suspect=self._any_chunk(index, {}))
        except PayloadError as error:
            return UpdateFinding(index, Bytes.WRONG, why=str(error), suspect=self._any_chunk(index, {}))
        vector = CommittedVector.of(source, form, VectorKind.UPDATE)
        if vector.root != update.root:
            return self._of_another_root(index, vector, update)
        fault = update_fault(source, form, update.squared_norm)
        if fault is None:
            self._sources[index] = source
            return UpdateFinding(index, Bytes.SOUND)
        proof = proofs.update_proof(index, fault.chunk_index, vector.stated_opening(fault.chunk_index))
        return UpdateFinding(index, Bytes.WRONG, proof, fault.reason.value)

    def _of_another_root(self, index: int, vector: CommittedVector, update: RevealedUpdate) -> UpdateFinding:
        lie = sum_lie(vector, update.root, update.squared_norm)
        if lie is not None:
            return UpdateFinding(index, Bytes.WRONG, proofs.update_proof(index, *lie), "its sums do not add up")
        self._other[index] = vector
        why = "its bytes do not hash to its root"
        return UpdateFinding(index, Bytes.WRONG, why=why, suspect=self._suspect(index, {}) or 0)

    def read_answers(self, view: RoundView, found: UpdateFinding, answers: Sequence[AnsweredDemand]) -> UpdateFinding:
        """What the answered demands for an update that is not sound tell of it: a proof, or the chunk to demand next.

        answers: all of them, whoever asked. Raises NodeBehind for one that does not lead to the revealed root, which
        the contract did not take.
        """
        update = dict(self._revealed(view)).get(found.index)
        if update is None:
            raise NodeBehind(f"the node does not show any more what worker {found.index} revealed")
        openings = {answer.demand.chunk_index: answer.opening for answer in answers}
        for chunk_index, packed in openings.items():
            if reason := self._fault_of(update, chunk_index, packed):
                proof = proofs.update_proof(found.index, chunk_index, packed)
                return UpdateFinding(
                    found.index, Bytes.WRONG, proof, f"{reason.value}, as an answer shows", len(answers)
                )
        suspect = self._suspect(found.index, openings)
        leads = suspect is not None
        suspect = suspect if suspect is not None else self._any_chunk(found.index, openings)
        return replace(found, num_answers=len(answers), suspect=suspect, leads=leads)

    def _fault_of(self, update: RevealedUpdate, chunk_index: int, packed: bytes) -> UpdateReason | None:
        form = self._context.scope.format
        try:
            return opening_fault(packed, form, chunk_index, root=update.root, squared_norm=update.squared_norm)
        except PayloadError as error:
            raise NodeBehind(f"the node shows an answer that the contract would refuse: {error}") from error

    def _suspect(self, index: int, openings: Mapping[int, bytes]) -> int | None:
        """The chunk that may show where the published bytes are of another root than the one that was revealed."""
        vector = self._other.get(index)
        if vector is None:
            return None
        ticket = self._ticket(index, len(openings))
        return suspect_chunk(vector.tree, openings, self._context.scope.format, ticket=ticket)

    def _any_chunk(self, index: int, openings: Mapping[int, bytes]) -> int:
        """One that nobody answered for yet, if there is one."""
        num_chunks = self._shape_of(VectorKind.UPDATE).num_chunks
        first = self._ticket(index, len(openings)) * num_chunks >> 64
        places = ((first + step) % num_chunks for step in range(num_chunks))
        return next((place for place in places if place not in openings), first)

    def _ticket(self, index: int, num_answers: int) -> int:
        """Below 2^64: unknown to others, and the same as long as nothing new is known."""
        assert self._round is not None, "entered"
        drawn = b"".join(number.to_bytes(4, "big") for number in (self._round.round, index, num_answers))
        return int.from_bytes(hashlib.sha256(self._secret + drawn).digest()[:8], "big")

    def opening(self, worker_index: int, chunk_index: int) -> bytes:
        """A chunk of an update that was found sound, packed."""
        vector = VectorWithoutTree(self._sources[worker_index], self._context.scope.format, VectorKind.UPDATE)
        return vector.opening(chunk_index)

    # --- the aggregate ----------------------------------------------------------------------------

    def recompute(self, view: RoundView, *, overdue: bool = False) -> frozenset[int]:
        """What the aggregate must be. returns: indices of accepted updates that nobody serves; empty when it is known.

        Raises what fetching the round's own model raises, and StillFetching where it does not wait for it.
        """
        if self._expected is not None:
            return frozenset()
        chain, scope = self._context.chain, self._context.scope
        revealed = {update.worker: (index, update) for index, update in self._revealed(view)}
        tallied = chain.tallied_updates(scope.task_id, view.round, view.opened_block)
        weights = {revealed[one.worker]: one.weight for one in tallied if one.weight > 0}
        self._gather(view, [one for one in weights if one[0] not in self._sources], overdue=overdue)
        missing = {index for index, _ in weights if index not in self._sources}
        if not missing:
            self._before = self._base(view)
            accepted = [(index, WeightedSource(self._sources[index], weight)) for (index, _), weight in weights.items()]
            weighted = [(one.values, one.weight) for _, one in accepted]
            self._expected = replay_round(self._before.model, weighted, scope.format, state=self._before.state)
            self._accepted = accepted
        return frozenset(missing)

    def _gather(self, view: RoundView, accepted: Sequence[tuple[int, RevealedUpdate]], *, overdue: bool) -> None:
        updates = [update for _, update in accepted]
        self._bring(view, updates)
        if not overdue:
            self._require_ended(updates)
        for index, update in accepted:
            self._take_accepted(index, update)

    def _base(self, view: RoundView) -> Checkpoint:
        """What the round starts from."""
        key = ("base", view.model_root, view.state_root)
        self._begin({key: partial(self._models.checkpoint_at, view.round, view.model_root, view.state_root)})
        self._require_ended([key])
        found: Checkpoint = self._brought(key)
        return found

    def _take_accepted(self, index: int, update: RevealedUpdate) -> None:
        """An update that was accepted counts, whatever else is wrong with it, as long as its bytes hash to its root."""
        try:
            source = self._brought(update)
        except (StorageError, PayloadError):
            return
        vector = CommittedVector.of(source, self._context.scope.format, VectorKind.UPDATE)
        if vector.root == update.root:
            self._sources[index] = source
        elif stated := stated_vector(vector, update.root, update.squared_norm):
            self._sources[index], self._stated[index] = source, StatedVector(stated)

    def judge(self, posted: PostedAggregate, *, overdue: bool = False) -> AggregateFinding:
        """Compares what stands posted with what it must be. Only after `recompute`.

        Raises StillFetching where it does not wait for the bytes.
        """
        assert self._expected is not None, "judged before it was recomputed"
        ours, theirs = self._expected.claim(), posted.claim
        if ours == theirs:
            return AggregateFinding(posted.attempt)
        for group, (own, other) in enumerate(zip(ours.group_roots, theirs.group_roots, strict=True)):
            if own != other:  # group sums are published by nobody
                why = f"the sum of group {group} is not what its updates add up to"
                return AggregateFinding(posted.attempt, None, (Target.GROUP, group, own), why)
        target, root = (
            (Target.MODEL, ours.model_root) if ours.model_root != theirs.model_root else (Target.STATE, ours.state_root)
        )
        why = f"its {target.name.lower()} is not what the accepted updates make"
        self._begin({posted: partial(self._claimed, posted)})
        if not overdue:
            self._require_ended([posted])
        try:
            claimed = self._brought(posted)
        except (StorageError, PayloadError) as error:
            return AggregateFinding(posted.attempt, None, (target, 0, root), f"{why}, and is withheld: {error}")
        return AggregateFinding(posted.attempt, self._proof_from(claimed, theirs), None, why)

    def _claimed(self, posted: PostedAggregate) -> Checkpoint:
        claim, context = posted.claim, self._context
        return fetch_checkpoint(context.store, context.scope, claim.model_root, claim.state_root, posted.cid)

    def _proof_from(self, claimed: Checkpoint, claim: Claim) -> bytes:
        assert self._before is not None
        form = self._context.scope.format
        before = Vectors(
            as_source(self._before.model), None if self._before.state is None else as_source(self._before.state)
        )
        seen = Vectors(as_source(claimed.model), None if claimed.state is None else as_source(claimed.state))
        fault = find_fault(form, before, [update for _, update in self._accepted], seen)
        assert fault is not None, "other roots come of other values"
        model = CommittedVector.of(claimed.model, form, VectorKind.MODEL)
        state = None if claimed.state is None else CommittedVector.of(claimed.state, form, VectorKind.STATE)
        return proofs.aggregate_proof(self._proof_evidence(claim, model, state), fault)

    def _proof_evidence(self, claim: Claim, model: Opener | None, state: Opener | None) -> proofs.Evidence:
        """What a proof opens. model, state: of the claim; ours where the claim's is not known but the same."""
        assert self._before is not None
        form = self._context.scope.format
        before_state = self._before.state
        groups = tuple(self.vector(Target.GROUP, group) for group in range(len(claim.group_roots)))
        return proofs.Evidence(
            form=form,
            model=CommittedVector.of(self._before.model, form, VectorKind.MODEL),
            claimed_model=model or self.vector(Target.MODEL, 0),
            updates=[
                (self._stated.get(index) or VectorWithoutTree(update.values, form, VectorKind.UPDATE), update.weight)
                for index, update in self._accepted
            ],
            state=None if before_state is None else CommittedVector.of(before_state, form, VectorKind.STATE),
            claimed_state=state or (None if before_state is None else self.vector(Target.STATE, 0)),
            group_roots=claim.group_roots,
            claimed_groups=groups,
        )

    # --- games ------------------------------------------------------------------------------------

    def play(self, open_game: OpenGame, posted: PostedAggregate) -> GameFinding:
        """The challenger's move after the last answer."""
        record, game = open_game.record, open_game.game
        last = record.moves[-1]
        if isinstance(last, NodesAnswered):
            tree = self.vector(game.target, game.group).tree
            child = differing_child(tree, game.height, game.index, last.nodes)
            if child is None:
                raise EncodingError("the nodes answered are those of the right aggregate", game_id=record.game_id)
            move = pointer(last.nodes, child)
            return GameFinding(record.game_id, len(record.moves), (move.child, move.node, move.siblings))
        assert isinstance(last, ChunkAnswered), "it is the challenger's turn after an answer alone"
        answers = [move.nodes for move in record.moves if isinstance(move, NodesAnswered)]
        packed = opening_from_answers(answers, game.index, last.chunk, self._shape(game.target))
        proof = self._proof_of_chunk(game, packed, posted.claim)
        return GameFinding(record.game_id, len(record.moves), proof=proof)

    def _proof_of_chunk(self, game: Game, packed: bytes, claim: Claim) -> bytes:
        form, known = self._context.scope.format, KnownOpening(game.index, packed)
        _, values = read_plain(packed, self._shape(game.target), game.index)
        fault = self._coordinate_fault(game, values) or padding_fault(form, game.target, game.group, game.index, values)
        if fault is None:  # the chunk is right, so it is padding nodes that differ
            fault = Fault(FaultKind.PADDING, game.target, game.group, 0, game.index, 0, 0)
        evidence = self._proof_evidence(
            claim,
            known if game.target is Target.MODEL else None,
            known if game.target is Target.STATE else None,
        )
        if game.target is Target.GROUP:
            groups: list[Opener] = [*evidence.claimed_groups]
            groups[game.group] = known
            evidence = replace(evidence, claimed_groups=tuple(groups))
        return proofs.aggregate_proof(evidence, fault)

    def _coordinate_fault(self, game: Game, values: object) -> Fault | None:
        form = self._context.scope.format
        start = game.index * form.chunk_params
        stop = min(start + form.chunk_params, self._shape(game.target).num_params)
        ours = self.vector(game.target, game.group).source.read(start, stop)
        seen = np.asarray(values)[: stop - start]
        places = np.flatnonzero(seen != ours)
        if not places.size:
            return None
        place = int(places[0])
        kind = FaultKind.GROUP_COORDINATE if game.target is Target.GROUP else FaultKind.COORDINATE
        coordinate = (start + place) // (form.num_moments if game.target is Target.STATE else 1)
        return Fault(kind, game.target, game.group, coordinate, game.index, int(seen[place]), int(ours[place]))

    def answer(self, game: Game) -> bytes:
        """Nodes, or the chunk, of an aggregate that is right."""
        vector = self.vector(game.target, game.group)
        return nodes_below(vector.tree, game.height, game.index) if game.height else vector.chunk(game.index)

    def step(self, game_id: int, game: Game) -> NodesAnswer | ChunkAnswer:
        """The same, as it is sent."""
        answer = self.answer(game)
        return NodesAnswer(game_id, answer) if game.height else ChunkAnswer(game_id, answer)

    # --- vectors ----------------------------------------------------------------------------------

    def vector(self, target: Target, group: int) -> CommittedVector:
        """A vector as it must be, next to its tree. Only after `recompute`."""
        key = (target, group)
        if key not in self._vectors:
            self._vectors[key] = CommittedVector.of(
                self._values(target, group), self._context.scope.format, _KINDS[target]
            )
        return self._vectors[key]

    def _values(self, target: Target, group: int) -> VectorSource:
        assert self._expected is not None
        if target is Target.MODEL:
            return as_source(self._expected.model)
        if target is Target.STATE:
            assert self._expected.state is not None
            return as_source(self._expected.state)
        return as_source(self._group_sum(group))

    def _group_sum(self, group: int) -> Int64Array:
        form = self._context.scope.format
        updates = [update for _, update in self._accepted]
        weights = [update.weight for update in updates]
        parts = walk(form.num_params, lambda block: group_sums(form, read_rows(updates, block), weights)[group])
        whole: Int64Array = np.concatenate(list(parts))
        return whole

    def _shape(self, target: Target) -> TreeShape:
        return self._shape_of(_KINDS[target])

    def _shape_of(self, kind: VectorKind) -> TreeShape:
        return TreeShape.of(self._context.scope.format, kind)
