"""A sceptic's look at one round: recomputed from public data, with what would dispute each thing found wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from chainfl.agents.context import AgentContext
from chainfl.agents.evidence import Evidence
from chainfl.agents.player import new_salt
from chainfl.agents.ports import ChainPort
from chainfl.agents.watching import AggregateFinding, Bytes, UpdateFinding
from chainfl.errors import UsageError
from chainfl.tasks.commitments import challenge_commitment, proof_commitment, proof_hash_of
from chainfl.tasks.draws import Candidate, draw_workers
from chainfl.tasks.state import (
    AggregateRefutation,
    Claim,
    Outcome,
    Phase,
    PostedAggregate,
    Role,
    RoundView,
    Target,
    UpdateRefutation,
    Verdict,
    WorkerDraw,
)
from chainfl.types import Address, Root, TaskId

Argument = int | bytes | tuple[bytes, ...] | None

EARLY_DEMANDS = (Phase.REVEAL, Phase.SCORE_COMMIT)
"""When a demand for an update still changes its weight."""

LATE_DEMANDS = (Phase.AGGREGATE, Phase.CHALLENGE)
"""When a demand for an update that was accepted makes the round void, unless somebody answers."""


# --- what is on record ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What the chain holds of a round. view: as the round was opened; of a past one its roots and numbers alone count.

    is_over: nothing in it can be disputed any more. outcome: PENDING while it runs. posted: every attempt's claim.
    weights: of the workers' updates, as far as they are tallied. draw: of its workers, if there was one; draws: whether
    there should be.
    """

    view: RoundView
    is_over: bool
    outcome: Outcome
    posted: tuple[PostedAggregate, ...]
    weights: Mapping[Address, int]
    refuted_attempts: Mapping[int, AggregateRefutation]
    refuted_updates: Mapping[Address, UpdateRefutation]
    draws: bool = False
    draw: WorkerDraw | None = None

    @property
    def is_void(self) -> bool:
        """Whether it left the model as it was, so that nothing wrong in it did harm."""
        return self.outcome not in (Outcome.PENDING, Outcome.FINAL)

    def is_in(self, *phases: Phase) -> bool:
        """Whether the round is running, and in one of these phases."""
        return not self.is_over and self.view.phase in phases


def read_record(
    chain: ChainPort, current: RoundView, task_id: TaskId, number: int, outcome: Outcome = Outcome.PENDING
) -> RoundRecord:
    """A round as the chain tells of it. current: where the task stands now. outcome: of a round that is over.

    Raises UsageError for a round that has not begun.
    """
    view = round_as_opened(chain, current, task_id, number)
    tallied = chain.tallied_updates(task_id, number, view.opened_block)
    attempts = chain.refuted_aggregates(task_id, view.opened_block, number)
    updates = chain.refuted_updates(task_id, view.opened_block, number)
    draws = chain.task(task_id).draw.is_on
    return RoundRecord(
        view=view,
        is_over=number < current.round or current.phase.is_terminal,
        outcome=outcome,
        posted=chain.posted_aggregates(task_id, number, view.opened_block),
        weights={update.worker: update.weight for update in tallied},
        refuted_attempts={refutation.attempt: refutation for refutation in attempts},
        refuted_updates={refutation.worker: refutation for refutation in updates},
        draws=draws,
        draw=chain.worker_draw(task_id, number) if draws else None,
    )


def round_as_opened(chain: ChainPort, current: RoundView, task_id: TaskId, number: int) -> RoundView:
    """What a round started from: its number, its roots, and a block at or before its first.

    current: where the task stands now; once the task is over, its roots are those *after* the last round. Raises
    UsageError for a round that has not begun.
    """
    if number > current.round:
        raise UsageError(f"task {task_id} has not come to round {number} yet; it is in round {current.round}")
    if number == current.round and not current.phase.is_terminal:
        return current
    root, _ = chain.model_location(task_id, number - 1)
    start = chain.task(task_id).created_block
    state_root = _state_root_before(chain, task_id, number, start)
    return replace(current, round=number, opened_block=start, model_root=root, state_root=state_root)


def _state_root_before(chain: ChainPort, task_id: TaskId, number: int, start: int) -> Root:
    task = chain.task(task_id)
    if not task.format.has_state:
        return task.genesis_state_root
    made = (_final_claim(chain, task_id, earlier, start) for earlier in range(number - 1, 0, -1))
    return next((claim.state_root for claim in made if claim is not None), task.genesis_state_root)


def _final_claim(chain: ChainPort, task_id: TaskId, number: int, start: int) -> Claim | None:
    """What the round left behind; None for a void one."""
    posted = chain.posted_aggregates(task_id, number, start)
    if not posted or chain.verdict(task_id, number, posted[-1].attempt) in (Verdict.REFUTED, Verdict.ABANDONED):
        return None
    last = posted[-1]
    is_kept = (last.claim.model_root, last.cid) == chain.model_location(task_id, number)
    return last.claim if is_kept else None


# --- what is found -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContractCall:
    """A call of the coordinator. arguments: by the ABI's names, in its order; None for what depends on the sender."""

    function: str
    arguments: Mapping[str, Argument]

    def __str__(self) -> str:
        return f"{self.function}({', '.join(f'{name} {_shown(value)}' for name, value in self.arguments.items())})"

    @property
    def is_complete(self) -> bool:
        """Whether it can be sent as it is."""
        return None not in self.arguments.values()


@dataclass(frozen=True, slots=True)
class Dispute:
    """What anybody may send. calls: in their order, each at least a block after the one before."""

    calls: tuple[ContractCall, ...]
    proof: bytes | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. is_right: None for what is told and not judged.

    is_settled: it does no harm any more; the chain weighed the update 0, or refuted it. disputes: what would dispute it
    now. note: why nothing would, of something wrong.
    """

    what: str
    is_right: bool | None
    detail: str = ""
    is_settled: bool = False
    disputes: tuple[Dispute, ...] = ()
    note: str = ""

    @property
    def fails(self) -> bool:
        """Whether it is wrong and has done, or may still do, harm."""
        return self.is_right is False and not self.is_settled


def audit_round(context: AgentContext, record: RoundRecord, sender: Address | None = None) -> Iterator[Check]:
    """The checks of a round, in the order of its data path. sender: who would dispute; proofs are bound to it.

    Checked are the draw of the workers, updates' bytes against what was revealed, and attempts against what the
    accepted updates make. Votes, medians, payment and the float32 file are not. Raises what fetching the round's own
    model raises.
    """
    yield from _Audit(context, record, sender).checks()


class _Audit:
    def __init__(self, context: AgentContext, record: RoundRecord, sender: Address | None) -> None:
        self._context = context
        self._record = record
        self._sender = sender
        self._evidence = Evidence(context)
        self._workers = context.chain.members(context.scope.task_id, Role.WORKER)
        self._found: dict[int, UpdateFinding] = {}

    def checks(self) -> Iterator[Check]:
        record = self._record
        if record.draws:
            yield self._of_draw(record.draw)
        self._evidence.enter(record.view)
        for found in self._evidence.check_updates(record.view):
            self._found[found.index] = found
            yield self._of_update(found)
        if not self._found:
            yield Check("updates", None, "none was revealed")
        yield from self._of_attempts()

    def _of_draw(self, draw: WorkerDraw | None) -> Check:
        """Whether those were drawn whom the seed draws out of the pool."""
        what = "draw of the workers"
        if draw is None:
            return Check(what, None, "nobody was drawn")
        task = self._context.task
        expected = draw_workers(
            task.draw,
            [Candidate(member.waits, member.stake, member.reputation) for member in draw.pool],
            seed=draw.seed,
            task_id=self._context.scope.task_id,
            round_number=self._record.view.round,
            worker_stake=task.economics.worker_stake,
        )
        accounts = tuple(draw.pool[index].account for index in expected)
        waiting = sum(member.waits for member in draw.pool)
        source = f"{len(accounts)} of {waiting} by the hash of block {draw.seed_block}"
        if accounts == draw.drawn:
            return Check(what, True, f"it is what the seed draws: {source}")
        return Check(what, False, f"the seed draws {', '.join(accounts)} and not {', '.join(draw.drawn)}: {source}")

    # --- updates ----------------------------------------------------------------------------------

    def _of_update(self, found: UpdateFinding) -> Check:
        worker = self._workers[found.index]
        what, fate = f"update of {worker} (worker {found.index})", self._fate_of(worker)
        if found.state is Bytes.SOUND:
            sound = "its bytes have its root, its sum of squares, and no value out of range"
            return Check(what, True, f"{sound}; {fate}")
        record = self._record
        is_settled = record.is_void or worker in record.refuted_updates or record.weights.get(worker) == 0
        disputes = self._against_update(found, worker)
        note = "" if is_settled or disputes else self._why_not()
        return Check(what, False, f"{found.why}; {fate}", is_settled, disputes, note)

    def _fate_of(self, worker: Address) -> str:
        record = self._record
        weight = record.weights.get(worker)
        weighs = "it has no weight yet" if weight is None else f"it weighs {weight:,}"
        refuted = record.refuted_updates.get(worker)
        return f"{weighs}, refuted in block {refuted.block_number}: {refuted.reason}" if refuted else weighs

    def _against_update(self, found: UpdateFinding, worker: Address) -> tuple[Dispute, ...]:
        record = self._record
        if worker in record.refuted_updates:
            return ()
        if found.proof is not None:
            provable = not record.is_over and Phase.REVEAL <= record.view.phase <= Phase.DISPUTE
            return (self._proof_dispute("proveUpdate", found.proof),) if provable else ()
        is_late = record.is_in(*LATE_DEMANDS) and record.weights.get(worker, 0) > 0
        return (self._demand(found),) if is_late or record.is_in(*EARLY_DEMANDS) else ()

    def _why_not(self) -> str:
        if self._record.is_over:
            return "too late to dispute"
        return f"nothing disputes it in {self._record.view.phase.name}"

    # --- attempts ---------------------------------------------------------------------------------

    def _of_attempts(self) -> Iterator[Check]:
        record = self._record
        if not record.posted:
            yield Check("aggregate", None, "none was posted")
            return
        missing = self._evidence.recompute(record.view)
        for posted in record.posted:
            if posted.attempt in record.refuted_attempts:
                yield self._of_refuted(posted, record.refuted_attempts[posted.attempt])
            elif not missing:
                yield from self._of_standing(posted)
            else:
                yield self._not_computable(posted, missing)

    def _of_refuted(self, posted: PostedAggregate, refutation: AggregateRefutation) -> Check:
        detail = f"refuted in block {refutation.block_number} by {refutation.challenger}: {refutation.reason}"
        is_right = posted.claim == self._evidence.expected
        surprise = "; yet it is what the accepted updates make" if is_right else ""
        return Check(_name_of(posted), is_right, detail + surprise, is_settled=True)

    def _not_computable(self, posted: PostedAggregate, missing: frozenset[int]) -> Check:
        names = ", ".join(f"{self._workers[index]} (worker {index})" for index in sorted(missing))
        wanted = [self._found[index] for index in sorted(missing)]
        demands = tuple(self._demand(found) for found in wanted) if self._record.is_in(Phase.CHALLENGE) else ()
        detail = f"cannot be recomputed without the update of {names}"
        note = "" if demands or self._record.is_void else self._why_not()
        return Check(_name_of(posted), False, detail, self._record.is_void, demands, note)

    def _of_standing(self, posted: PostedAggregate) -> Iterator[Check]:
        expected, finding, is_void = self._evidence.expected, self._evidence.judge(posted), self._record.is_void
        assert expected is not None, "nothing is missing"
        if expected == posted.claim:
            yield Check(_name_of(posted), True, "it is what the accepted updates make")
        else:
            disputes = self._against_attempt(posted, finding)
            note = "" if disputes or is_void else self._why_not()
            yield Check(_name_of(posted), False, finding.why, is_void, disputes, note)
        for name, own, claimed in _roots(expected, posted.claim):
            same = own == claimed
            detail = f"root {claimed.hex()}" if same else f"posted {claimed.hex()}, computed {own.hex()}"
            yield Check(name, same, detail, is_void and not same)

    def _against_attempt(self, posted: PostedAggregate, finding: AggregateFinding) -> tuple[Dispute, ...]:
        if not self._record.is_in(Phase.CHALLENGE):
            return ()
        if finding.proof is not None:
            return (self._proof_dispute("proveAggregate", finding.proof, posted.attempt),)
        assert finding.withheld is not None, "it is not right"
        target, group, own_root = finding.withheld
        roots: Mapping[str, Argument] = {
            "target": int(target),
            "group": group,
            "groupRoots": posted.claim.group_roots if target is Target.GROUP else (),
            "ownRoot": own_root,
        }
        return (Dispute((self._call("openGame", {"attempt": posted.attempt, **roots}),)),)

    # --- what would be sent -----------------------------------------------------------------------

    def _call(self, function: str, arguments: Mapping[str, Argument]) -> ContractCall:
        place = {"taskId": int(self._context.scope.task_id), "round": self._record.view.round}
        return ContractCall(function, place | dict(arguments))

    def _demand(self, found: UpdateFinding) -> Dispute:
        return Dispute((self._call("demandChunk", {"workerIndex": found.index, "chunkIndex": found.suspect}),))

    def _proof_dispute(self, function: str, proof: bytes, attempt: int | None = None) -> Dispute:
        salt = new_salt()
        at_attempt: Mapping[str, Argument] = {} if attempt is None else {"attempt": attempt}
        proving = self._call(function, {**at_attempt, "proof": proof, "salt": salt})
        return Dispute((self._announcement(proof, salt, attempt), proving), proof)

    def _announcement(self, proof: bytes, salt: bytes, attempt: int | None) -> ContractCall:
        task_id = int(self._context.scope.task_id)
        commitment = None if self._sender is None else self._commitment(self._sender, proof, salt, attempt)
        if attempt is None:
            return ContractCall("commitProof", {"taskId": task_id, "commitment": commitment})
        return self._call("commitChallenge", {"attempt": attempt, "commitment": commitment})

    def _commitment(self, sender: Address, proof: bytes, salt: bytes, attempt: int | None) -> bytes:
        scope, number = self._context.scope, self._record.view.round
        if attempt is None:
            return proof_commitment(
                chain_id=scope.chain_id,
                coordinator=scope.coordinator,
                task_id=scope.task_id,
                round_number=number,
                challenger=sender,
                proof_hash=proof_hash_of(proof),
                salt=salt,
            )
        return challenge_commitment(
            chain_id=scope.chain_id,
            coordinator=scope.coordinator,
            task_id=scope.task_id,
            round_number=number,
            attempt=attempt,
            challenger=sender,
            proof_hash=proof_hash_of(proof),
            salt=salt,
        )


def _name_of(posted: PostedAggregate) -> str:
    return f"attempt {posted.attempt} by {posted.poster}"


def _roots(expected: Claim, posted: Claim) -> Iterator[tuple[str, Root, Root]]:
    """(name, computed, posted) of each root that a claim has."""
    yield "model", expected.model_root, posted.model_root
    if any(expected.state_root):
        yield "server state", expected.state_root, posted.state_root
    for group, (own, claimed) in enumerate(zip(expected.group_roots, posted.group_roots, strict=True)):
        yield f"sum of group {group}", own, claimed


def _shown(value: Argument) -> str:
    match value:
        case None:
            return "of its sender"
        case int():
            return str(value)
        case bytes():
            return f"0x{value.hex()}" if len(value) <= 32 else f"of {len(value):,} bytes"
        case tuple():
            return f"[{', '.join(map(_shown, value))}]"
