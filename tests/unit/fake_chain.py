"""A coordinator in memory, for the agents' unit tests: the phases are the real mirror, money is left out.

It refuses what the contract refuses, so that an agent that would send nonsense fails its test.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace

from proof_mirror import KINDS, Reading, Records, chained

from chainfl.agents.ports import (
    MAX_AT_ONCE,
    AnsweredDemand,
    ChunkAnswer,
    ChunkDemand,
    DemandAnswer,
    NodesAnswer,
    SendResult,
    Sent,
    Slash,
    WouldRevert,
)
from chainfl.disputes.faults import opening_fault
from chainfl.disputes.games import levels_below
from chainfl.disputes.openings import read_update_opening
from chainfl.encoding.chunk_tree import TreeShape, leaf_digest
from chainfl.errors import (
    AlreadyDone,
    BlobNotFound,
    ChainflError,
    EncodingError,
    NotEligible,
    ProofRefused,
    StakeTooLow,
    TransactionReverted,
    UnexpectedPhase,
)
from chainfl.storage.moved import unheard
from chainfl.storage.unixfs import cid_of
from chainfl.tasks import commitments, phases
from chainfl.tasks.draws import REPUTATION_START, Candidate, draw_workers
from chainfl.tasks.payouts import slash_amount
from chainfl.tasks.phases import Clock, Docket, Progress
from chainfl.tasks.rules import MAX_OPEN_GAMES, game_bond
from chainfl.tasks.state import (
    ENROLLED_ROLES,
    IDLE,
    ZERO_ADDRESS,
    ZERO_ROOT,
    Block,
    Challenge,
    ChunkAnswered,
    CidOnChain,
    Claim,
    Demand,
    DrawBy,
    Game,
    GameMove,
    GameRecord,
    Member,
    NodePointed,
    NodesAnswered,
    Outcome,
    Phase,
    PoolMember,
    PostedAggregate,
    Pulse,
    RevealedUpdate,
    Role,
    RoundView,
    Snapshot,
    TalliedUpdate,
    Target,
    TaskParams,
    TaskView,
    UpdateRefutation,
    Verdict,
    WorkerDraw,
)
from chainfl.tasks.votes import ABSTENTION, unpack_votes
from chainfl.types import Address, Cid, Root, TaskId, Wei

CHAIN_ID = 31337
COORDINATOR = Address("0x" + "c0" * 20)
TASK = TaskId(1)
FOR_EVER = 65_535
SHARED_FIELDS = {f.name for f in fields(TaskView)} & {f.name for f in fields(TaskParams)}
NOBODY = Member(Wei(0), 0, 0, 0, 0, False, 0, 0, 0, bytes(32))
NO_CID = CidOnChain(bytes(32), 0)
NO_CLAIM = Claim(ZERO_ROOT, ZERO_ROOT, ())


def account_of(number: int) -> Address:
    return Address(f"0x{number:040x}")


@dataclass
class MemoryStore:
    """A BlobStore in a dictionary."""

    blobs: dict[Cid, bytes] = field(default_factory=dict)

    def put_bytes(self, data: bytes) -> Cid:
        cid = cid_of(data)
        self.blobs[cid] = bytes(data)
        return cid

    def put_file(self, path, *, moved=unheard):
        return self.put_bytes(path.read_bytes())

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        if cid not in self.blobs:
            raise BlobNotFound(f"no {cid}", cid=cid)
        return self.blobs[cid]

    def get_file(self, cid, target, *, max_bytes, moved=unheard):
        target.write_bytes(self.get_bytes(cid, max_bytes=max_bytes))

    def has(self, cid: Cid) -> bool:
        return cid in self.blobs

    def drop(self, cid: Cid) -> None:
        self.blobs.pop(cid, None)

    def describe(self) -> str:
        return "memory"


class Refused(Exception):
    def __init__(self, error: ChainflError) -> None:
        super().__init__(str(error))
        self.error = error


class FakeChain:
    """The shared state; `port(account)` is one account's view of it. `tick` moves time and mines an empty block."""

    def __init__(self, params: TaskParams, *, now: int = 1_000) -> None:
        self.now = now
        self.number = 1
        self.params = params
        self.task = TaskView(
            requester=account_of(999),
            created_at=now,
            created_block=1,
            validators_named=False,
            **{name: getattr(params, name) for name in SHARED_FIELDS},
        )
        self.members: dict[Role, dict[Address, Member]] = {role: {} for role in Role}
        self.clock = Clock(0, 0, 0, 0, 0, 0, 0)
        self.progress = Progress()
        self.tallied = self.settled = self.opened_block = self.seed_block = self.pool = 0
        self.draws: dict[int, WorkerDraw] = {}
        self.commit_hashes: dict[int, bytes] = {}
        self.reputations: dict[Address, int] = {}
        self.order: tuple[Address, ...] = ()
        self.model_root = params.genesis_root
        self.state_root = params.genesis_state_root
        self.posting: tuple[Address, Claim, CidOnChain, CidOnChain] | None = None
        self.posted: dict[int, list[PostedAggregate]] = {}
        self.attempt, self.docket = 1, Docket()
        self.excluded: set[tuple[int, Address]] = set()
        self.demands: list[Demand] = []
        self.games: dict[int, Game] = {}
        self.moves: dict[int, list[GameMove]] = {}
        self.lost: dict[int, bool] = {}
        self.answers: list[AnsweredDemand] = []
        self.challenges: dict[tuple[Address, bytes], Challenge] = {}
        self.proof_commits: dict[tuple[Address, bytes], int] = {}
        self.verdicts: dict[tuple[int, int], Verdict] = {}
        self.refuted: list[UpdateRefutation] = []
        self.fees: dict[Address, int] = {}
        self.models: dict[int, tuple[Root, CidOnChain]] = {0: (params.genesis_root, params.genesis_cid)}
        self.reveals: dict[int, list[RevealedUpdate]] = {}
        self.tallies: dict[int, list[TalliedUpdate]] = {}
        self.votes: dict[Address, list] = {}
        self.open_commits: dict[Address, tuple[bytes, int]] = {}
        self.slashed: list[tuple[Address, Slash]] = []
        self.outcomes: dict[int, Outcome] = {}
        self.over = self.cancelled = False
        self.sent: list[tuple[Address, str]] = []

    def port(self, account: Address) -> FakePort:
        return FakePort(self, account)

    def tick(self, seconds: int = 1) -> None:
        self.now += seconds
        self.number += 1

    def block(self) -> Block:
        return Block(self.number, self.now, hashlib.sha256(str(self.number).encode()).digest())

    def phase(self) -> tuple[Phase, int]:
        if self.cancelled:
            return Phase.CANCELLED, 0
        if self.over:
            return Phase.COMPLETED, 0
        if self.clock.round == 0:
            return Phase.ENROLMENT, self.task.enrolment_end
        return phases.phase_at(self.clock, self.progress, self.docket, self.task.windows, self.now)

    def view(self) -> RoundView:
        phase, end = self.phase()
        clock, progress = self.clock, self.progress
        poster, claim, cid, float_cid = self.posting or (ZERO_ADDRESS, NO_CLAIM, NO_CID, NO_CID)
        settling = phase is Phase.SETTLEMENT
        return RoundView(
            phase=phase,
            phase_end=end,
            round=clock.round,
            attempt=self.attempt,
            opened_block=self.opened_block,
            eligible_workers=clock.eligible_workers,
            committed=clock.committed,
            revealed=clock.revealed,
            eligible_validators=clock.eligible_validators,
            scores_committed=clock.scores_committed,
            scores_revealed=clock.scores_revealed,
            num_workers=len(self.members[Role.WORKER]),
            num_validators=len(self.members[Role.VALIDATOR]),
            num_aggregators=len(self.members[Role.AGGREGATOR]),
            model_root=self.model_root,
            state_root=self.state_root,
            tallied=self.tallied,
            settled=self.settled,
            aggregate_start=progress.aggregate_start,
            num_slots=progress.num_slots,
            order_drawn=bool(self.order),
            order=(*self.order, ZERO_ADDRESS, ZERO_ADDRESS, ZERO_ADDRESS)[:3],
            seed_block=self.seed_block,
            accepted=sum(t.weight > 0 for t in self.tallies.get(clock.round, [])),
            total_weight=sum(t.weight for t in self.tallies.get(clock.round, [])),
            aggregator=poster,
            posted_at=progress.posted_at,
            aggregate_root=claim.model_root,
            aggregate_state_root=claim.state_root,
            aggregate_cid=cid,
            aggregate_float_cid=float_cid,
            outcome=phases.outcome_of(clock, progress) if settling else Outcome.PENDING,
            carry=Wei(0),
            ended_at=0,
            challenges=self.docket.challenges,
            games=self.docket.games,
            demands=self.docket.demands,
            num_games=len(self.games),
            pool=self.pool,
        )

    def need(self, phase: Phase, round_number: int | None = None) -> None:
        current, _ = self.phase()
        if current is not phase:
            raise Refused(UnexpectedPhase(f"{current.name}, not {phase.name}", task_id=TASK))
        if round_number is not None and round_number != self.clock.round:
            raise Refused(UnexpectedPhase("another round", task_id=TASK))

    def active(self, role: Role) -> list[Address]:
        number = self.clock.round
        return [a for a, m in self.members[role].items() if m.active_from <= number < m.active_until]

    def open_round(self, number: int) -> None:
        self.clock = replace(self.clock, round=number)
        workers, validators = len(self.active(Role.WORKER)), len(self.active(Role.VALIDATOR))
        if self.task.draw.is_on:
            self.pool, workers = sum(number < m.active_until for m in self.members[Role.WORKER].values()), 0
        self.clock = phases.open_round(self.task.windows, number, self.now, workers=workers, validators=validators)
        self.progress, self.posting, self.order = Progress(), None, ()
        self.attempt, self.docket = 1, Docket()
        self.posted[number] = []
        self.tallied = self.settled = 0
        self.opened_block, self.votes = self.number, {}
        self.seed_block = self.number if self.task.draw.is_on else 0
        self.reveals[number], self.tallies[number] = [], []

    def refute(self) -> None:
        """Somebody proved the posted aggregate wrong."""
        assert self.posting is not None
        self.verdicts[self.clock.round, self.attempt] = Verdict.REFUTED
        self.excluded.add((self.clock.round, self.posting[0]))
        self.attempt, self.posting, self.order = self.attempt + 1, None, ()
        left = [a for a in self.active(Role.AGGREGATOR) if (self.clock.round, a) not in self.excluded]
        self.progress = Progress(aggregate_start=self.now, num_slots=min(3, len(left)), tallied=self.tallied)
        self.docket = replace(self.docket, challenges=0, games=0)
        self.seed_block = self.number

    def demand(
        self,
        worker_index: int,
        chunk_index: int = 0,
        challenger: Address = account_of(888),  # noqa: B008
    ) -> Demand:
        """Somebody asks for a chunk of an update; by default a stranger."""
        deadline = self.now + self.task.windows.answer
        is_late = self.progress.aggregate_start > 0
        number = self.clock.round
        asked = sum((d.round, d.worker_index) == (number, worker_index) for d in self.demands)
        fee = Wei(self.task.economics.demand_fee << asked)
        made = Demand(challenger, fee, number, worker_index, chunk_index, deadline, is_late, True)
        self.demands.append(made)
        self.docket = replace(self.docket, demands=self.docket.demands + 1, demand_end=deadline)
        return made

    def dispute(
        self,
        *,
        answers_turn: bool = True,
        challenger: Address = account_of(888),  # noqa: B008
        target: Target = Target.MODEL,
        group: int = 0,
        root: Root = ZERO_ROOT,
    ) -> int:
        """Somebody, by default a stranger, opens a game against the posted aggregate."""
        number, claim = len(self.games), self.posting[1]
        deadline = self.now + self.task.windows.answer
        roots = {Target.MODEL: claim.model_root, Target.STATE: claim.state_root}
        node = claim.group_roots[group] if target is Target.GROUP else roots[target]
        self.games[number] = Game(
            challenger=challenger,
            round=self.clock.round,
            attempt=self.attempt,
            target=target,
            group=group,
            height=TreeShape.of(self.task.format, KINDS[target]).depth,
            index=0,
            answers_turn=answers_turn,
            is_open=True,
            deadline=deadline,
            node=bytes(node),
            answerer=ZERO_ADDRESS,
            bond=Wei(game_bond(self.task.economics, self.docket.games)),
            own_root=root,
        )
        self.moves[number] = []
        self.docket = replace(self.docket, games=self.docket.games + 1)
        return number

    def convicts(self, proof: bytes) -> bool:
        """Whether a proof shows that the posted aggregate is wrong. An AssertionError is a revert."""
        form, claim = self.task.format, self.posting[1]
        accepted = [(t.root, t.weight) for t in self.tallies[self.clock.round] if t.weight > 0]
        weights = [weight for _, weight in accepted]
        records = Records(form, self.model_root, self.state_root, claim, weights, chained(form, accepted))
        return Reading(records, proof).judge()

    def update_of(self, worker_index: int) -> RevealedUpdate:
        """What a worker revealed in the current round."""
        worker = list(self.members[Role.WORKER])[worker_index]
        return next(update for update in self.reveals[self.clock.round] if update.worker == worker)

    def is_refuted(self, worker: Address) -> bool:
        """In the current round."""
        return any((r.round, r.worker) == (self.clock.round, worker) for r in self.refuted)


class FakePort:
    """Implements ChainPort for one account."""

    chain_id = CHAIN_ID
    coordinator = COORDINATOR

    def __init__(self, chain: FakeChain, account: Address, free_stake: int = 10**24) -> None:
        self.chain = chain
        self.account = account
        self.free_stake = Wei(free_stake)
        self.credit = Wei(0)

    # --- reads ---

    def latest_block(self) -> Block:
        return self.chain.block()

    def wait_for_block(self, after: int, timeout_s: float) -> Block:
        self.chain.tick()
        return self.chain.block()

    def phase(self, task_id, block=None):
        return self.chain.phase()

    def pulse(self, task_id, block=None):
        view = self.chain.view()
        return Pulse(view.phase, view.phase_end, view.attempt, view.demands, view.games)

    def gas_price_wei(self) -> int:
        return 10**9

    def num_tasks(self) -> int:
        return 1

    def task(self, task_id) -> TaskView:
        return self.chain.task

    def task_params(self, task_id) -> TaskParams:
        return self.chain.params

    def snapshot(self, task_id, role, block=None) -> Snapshot:
        me = self.chain.members[role].get(self.account, NOBODY)
        chain = self.chain
        return Snapshot(chain.block(), task_id, chain.task, chain.view(), me, self.free_stake, self.credit)

    def round(self, task_id, block=None):
        return self.chain.view()

    def members(self, task_id, role, block=None):
        return tuple(self.chain.members[role])

    def member(self, task_id, role, account, block=None):
        return self.chain.members[role].get(account, NOBODY)

    def revealed_updates(self, task_id, round_number, from_block):
        order = list(self.chain.members[Role.WORKER])
        return tuple(sorted(self.chain.reveals.get(round_number, []), key=lambda u: order.index(u.worker)))

    def tallied_updates(self, task_id, round_number, from_block):
        return tuple(self.chain.tallies.get(round_number, []))

    def model_location(self, task_id, round_number):
        return self.chain.models[max(n for n in self.chain.models if n <= round_number)]

    def model_files(self, task_id, from_block):
        params, final = self.chain.params, {root for root, _ in self.chain.models.values()}
        posted = [one for group in self.chain.posted.values() for one in group if one.claim.model_root in final]
        cids = {cid for one in posted for cid in (one.cid, one.float_cid)}
        return frozenset(cids | {params.genesis_cid, params.genesis_float_cid})

    def slashes(self, task_id, account, from_block):
        return tuple(slash for who, slash in self.chain.slashed if account in (None, who))

    def is_excluded(self, task_id, round_number, account, block=None):
        return (round_number, account) in self.chain.excluded

    def answered_demands(self, task_id, round_number, from_block):
        return tuple(answer for answer in self.chain.answers if answer.demand.round == round_number)

    def verdict(self, task_id, round_number, attempt, block=None):
        return self.chain.verdicts.get((round_number, attempt), Verdict.OPEN)

    def challenges(self, task_id, from_block, challenger=None):
        return tuple(c for c in self.chain.challenges.values() if challenger in (None, c.challenger))

    def game(self, task_id, game_id, block=None):
        return self.chain.games[game_id]

    def games(self, task_id, round_number, from_block):
        chain = self.chain
        return tuple(
            GameRecord(n, g.challenger, g.round, g.attempt, g.target, g.group, g.own_root, tuple(chain.moves[n]), lost)
            for n, g in chain.games.items()
            for lost in [chain.lost.get(n)]
            if g.round == round_number
        )

    def refuted_updates(self, task_id, from_block, round_number=None):
        return tuple(r for r in self.chain.refuted if round_number in (None, r.round))

    def posted_aggregates(self, task_id, round_number, from_block):
        return tuple(self.chain.posted.get(round_number, []))

    def open_demands(self, task_id, round_number, from_block):
        return tuple(d for d in self.chain.demands if d.is_open and d.round == round_number)

    def open_games(self, task_id, block=None):
        now = (self.chain.clock.round, self.chain.attempt)
        return tuple((n, g) for n, g in self.chain.games.items() if g.is_open and (g.round, g.attempt) == now)

    # --- sends ---

    def _send(self, what: str, change) -> SendResult:
        try:
            change()
        except Refused as refused:
            return WouldRevert(refused.error)
        self.chain.sent.append((self.account, what))
        self.chain.number += 1
        return Sent(f"0x{self.chain.number:064x}", self.chain.number, 50_000, 50_000)

    def _member(self, role: Role) -> Member:
        return self.chain.members[role].get(self.account, NOBODY)

    def _update(self, role: Role, **changes) -> None:
        self.chain.members[role][self.account] = replace(self._member(role), **changes)

    def enrol(self, task_id, role, stake):
        def change():
            self.chain.need(Phase.ENROLMENT)
            if self._member(role).is_enrolled:
                raise Refused(AlreadyDone("enrolled"))
            drawn = role is Role.WORKER and self.chain.task.draw.is_on
            self._update(role, stake=stake, active_from=IDLE if drawn else 1, active_until=FOR_EVER)
            if drawn and self.chain.task.draw.by is DrawBy.REPUTATION:
                self.chain.reputations[self.account] = REPUTATION_START
            task, members = self.chain.task, self.chain.members
            full = {Role.WORKER: task.workers.max, Role.VALIDATOR: task.validators.max}
            full[Role.AGGREGATOR] = task.aggregators.max
            if all(len(members[r]) == full[r] for r in ENROLLED_ROLES):
                self.chain.open_round(1)

        return self._send("enrol", change)

    def start_task(self, task_id):
        return self._send("start_task", lambda: (self.chain.need(Phase.ENROLMENT), self.chain.open_round(1)))

    def cancel_task(self, task_id):
        def change():
            self.chain.need(Phase.ENROLMENT)
            self.chain.cancelled = True

        return self._send("cancel_task", change)

    def leave(self, task_id, role):
        return self._send("leave", lambda: self._update(role, active_until=self.chain.clock.round + 1))

    def rejoin(self, task_id, role):
        return self._send("rejoin", lambda: self._update(role, active_until=FOR_EVER))

    def _commit(self, role: Role, phase: Phase, round_number: int, commitment: bytes) -> None:
        self.chain.need(phase, round_number)
        if self.account not in self.chain.active(role):
            raise Refused(NotEligible("not active"))
        if self._member(role).last_round == round_number:
            raise Refused(AlreadyDone("committed"))
        self._update(role, last_round=round_number, revealed=False, commitment=commitment)

    def _open(self, role: Role, phase: Phase, round_number: int, opened: bytes) -> None:
        self.chain.need(phase, round_number)
        me = self._member(role)
        if me.last_round != round_number or me.revealed:
            raise Refused(AlreadyDone("revealed"))
        if me.commitment != opened:
            raise Refused(TransactionReverted("CommitmentMismatch"))

    def commit_update(self, task_id, round_number, commitment):
        def change():
            self._commit(Role.WORKER, Phase.COMMIT, round_number, commitment)
            self.chain.commit_hashes[round_number] = self.chain.block().hash
            self.chain.clock = phases.after_commit(self.chain.clock, self.chain.task.windows, self.chain.now)

        return self._send("commit_update", change)

    def reveal_update(self, task_id, round_number, root, cid, squared_norm, num_examples, salt):
        def change():
            opened = commitments.update_commitment(
                chain_id=CHAIN_ID,
                coordinator=COORDINATOR,
                task_id=task_id,
                round_number=round_number,
                worker=self.account,
                root=root,
                cid=cid,
                squared_norm=squared_norm,
                num_examples=num_examples,
                salt=salt,
            )
            self._open(Role.WORKER, Phase.REVEAL, round_number, opened)
            if squared_norm > self.chain.task.format.max_squared_norm:
                raise Refused(TransactionReverted("NormTooLarge"))
            self._update(Role.WORKER, revealed=True, commitment=bytes(root), squared_norm=squared_norm)
            revealed = RevealedUpdate(self.account, root, cid, squared_norm, num_examples)
            self.chain.reveals[round_number].append(revealed)
            self.chain.clock = phases.after_reveal(self.chain.clock, self.chain.task.windows, self.chain.now)

        return self._send("reveal_update", change)

    def commit_scores(self, task_id, round_number, commitment):
        def change():
            self._commit(Role.VALIDATOR, Phase.SCORE_COMMIT, round_number, commitment)
            self.chain.clock = phases.after_score_commit(self.chain.clock, self.chain.task.windows, self.chain.now)

        return self._send("commit_scores", change)

    def reveal_scores(self, task_id, round_number, votes, salt):
        def change():
            opened = commitments.scores_commitment(
                chain_id=CHAIN_ID,
                coordinator=COORDINATOR,
                task_id=task_id,
                round_number=round_number,
                validator=self.account,
                votes=votes,
                salt=salt,
            )
            self._open(Role.VALIDATOR, Phase.SCORE_REVEAL, round_number, opened)
            assert len(votes) == 4 * len(self.chain.members[Role.WORKER])
            self.chain.votes[self.account] = unpack_votes(votes)
            self._update(Role.VALIDATOR, revealed=True)
            self.chain.clock = phases.after_score_reveal(self.chain.clock, self.chain.now)

        return self._send("reveal_scores", change)

    def draw_workers(self, task_id):
        def change():
            chain = self.chain
            chain.need(Phase.COMMIT)
            if not chain.task.draw.is_on or chain.pool == 0:
                raise Refused(TransactionReverted("NotDrawn or NobodyToDraw"))
            if chain.clock.eligible_workers:
                raise Refused(AlreadyDone("drawn"))
            if chain.number <= chain.seed_block:
                raise Refused(TransactionReverted("SeedNotReady"))
            self._draw_workers(hashlib.sha256(str(chain.seed_block).encode()).digest())

        return self._send("draw_workers", change)

    def _draw_workers(self, seed: bytes) -> None:
        chain, number = self.chain, self.chain.clock.round
        pool = tuple(
            PoolMember(worker, number < member.active_until, member.stake, chain.reputations.get(worker, 0))
            for worker, member in chain.members[Role.WORKER].items()
        )
        indices = draw_workers(
            chain.task.draw,
            [Candidate(member.waits, member.stake, member.reputation) for member in pool],
            seed=seed,
            task_id=TASK,
            round_number=number,
            worker_stake=chain.task.economics.worker_stake,
        )
        drawn = tuple(pool[index].account for index in indices)
        for worker in drawn:
            chain.members[Role.WORKER][worker] = replace(chain.members[Role.WORKER][worker], active_from=number)
        chain.clock = replace(chain.clock, eligible_workers=len(drawn))
        chain.draws[number] = WorkerDraw(chain.seed_block, seed, drawn, pool, chain.number)

    def worker_draw(self, task_id, round_number):
        return self.chain.draws.get(round_number)

    def last_commit_hash(self, task_id, round_number):
        return self.chain.commit_hashes.get(round_number, b"")

    def tally(self, task_id, max_workers):
        def change():
            chain = self.chain
            chain.need(Phase.TALLY)
            for place, worker in enumerate(chain.members[Role.WORKER]):
                update = next((u for u in chain.reveals[chain.clock.round] if u.worker == worker), None)
                if update is not None:
                    is_open = any(d.is_open and d.worker_index == place for d in chain.demands)
                    is_out = is_open or chain.is_refuted(worker)
                    zero = TalliedUpdate(worker, update.root, 0, 0)
                    chain.tallies[chain.clock.round].append(zero if is_out else self._tallied(place, update))
            chain.tallied = len(chain.members[Role.WORKER])
            if not chain.votes:
                chain.progress = replace(chain.progress, outcome=Outcome.QUORUM_MISSED)
            elif not any(t.weight for t in chain.tallies[chain.clock.round]):
                chain.progress = replace(chain.progress, outcome=Outcome.NOTHING_ACCEPTED)
            else:
                slots = min(3, len(chain.active(Role.AGGREGATOR)))
                chain.progress = Progress(aggregate_start=chain.now, num_slots=slots)
                chain.docket = Docket()
                chain.seed_block = chain.number

        return self._send("tally", change)

    def _tallied(self, place: int, update: RevealedUpdate) -> TalliedUpdate:
        heard = [votes[place] for votes in self.chain.votes.values() if votes[place] != ABSTENTION]
        if not heard:
            return TalliedUpdate(update.worker, update.root, 0, 0)
        weights, scores = sorted(v.weight for v in heard), sorted(v.score for v in heard)
        middle = (len(heard) - 1) // 2
        return TalliedUpdate(update.worker, update.root, weights[middle], scores[middle])

    def draw_order(self, task_id):
        def change():
            self.chain.need(Phase.AGGREGATE)
            if self.chain.order:
                raise Refused(AlreadyDone("drawn"))
            self._draw()

        return self._send("draw_order", change)

    def _draw(self) -> None:
        if self.chain.number <= self.chain.seed_block:
            raise Refused(TransactionReverted("SeedNotReady"))
        number, active = self.chain.clock.round, self.chain.active(Role.AGGREGATOR)
        self.chain.order = tuple(a for a in active if (number, a) not in self.chain.excluded)[:3]

    def commit_aggregate(self, task_id, round_number, commitment):
        def change():
            self.chain.need(Phase.AGGREGATE, round_number)
            self.chain.open_commits[self.account] = (commitment, self.chain.number)

        return self._send("commit_aggregate", change)

    def post_aggregate(self, task_id, round_number, claim, cid, float_cid, salt):
        def change():
            chain = self.chain
            chain.need(Phase.AGGREGATE, round_number)
            if (round_number, self.account) in chain.excluded:
                raise Refused(TransactionReverted("Excluded"))
            form = chain.task.format
            if (claim.state_root == ZERO_ROOT) == form.has_state:
                raise Refused(TransactionReverted("InvalidClaim(stateRoot)"))
            if len(claim.group_roots) != form.num_groups(chain.view().accepted):
                raise Refused(TransactionReverted("InvalidClaim(groupRoots)"))
            exclusive = phases.exclusive_end(
                chain.progress.aggregate_start, chain.progress.num_slots, chain.task.windows
            )
            if chain.now < exclusive:
                if not chain.order:
                    self._draw()
                if phases.slot_holder(chain.view(), chain.task.windows, chain.now) != self.account:
                    raise Refused(TransactionReverted("NotYourSlot"))
            else:
                self._check_open_window(claim, round_number, salt)
            chain.posting = (self.account, claim, cid, float_cid)
            posted = PostedAggregate(round_number, chain.attempt, self.account, claim, cid, float_cid, chain.number)
            chain.posted[round_number].append(posted)
            chain.progress = replace(chain.progress, posted_at=chain.now)

        return self._send("post_aggregate", change)

    def _check_open_window(self, claim, round_number, salt) -> None:
        commitment, number = self.chain.open_commits.get(self.account, (bytes(32), 0))
        opened = commitments.aggregate_commitment(
            chain_id=CHAIN_ID,
            coordinator=COORDINATOR,
            task_id=TASK,
            round_number=round_number,
            attempt=self.chain.attempt,
            aggregator=self.account,
            claim=claim,
            salt=salt,
        )
        if commitment != opened:
            raise Refused(TransactionReverted("CommitmentMismatch"))
        if self.chain.number <= number:
            raise Refused(TransactionReverted("CommitmentTooYoung"))

    def settle(self, task_id, max_workers):
        def change():
            chain = self.chain
            chain.need(Phase.SETTLEMENT)
            number = chain.clock.round
            chain.outcomes[number] = phases.outcome_of(chain.clock, chain.progress)
            self._slash_silent(number)
            if chain.outcomes[number] is Outcome.FINAL:
                assert chain.posting is not None
                if chain.docket.challenges > 0:
                    chain.verdicts[number, chain.attempt] = Verdict.STOOD
                _, claim, cid, _ = chain.posting
                chain.model_root, chain.state_root = claim.model_root, claim.state_root
                chain.models[number] = (chain.model_root, cid)
            if chain.task.draw.is_on:
                workers = chain.members[Role.WORKER]
                workers.update({worker: replace(member, active_from=IDLE) for worker, member in workers.items()})
            if number == chain.task.rounds:
                chain.over = True
            else:
                chain.open_round(number + 1)

        return self._send("settle", change)

    def _slash_silent(self, number: int) -> None:
        economics = self.chain.task.economics
        for account, member in self.chain.members[Role.WORKER].items():
            if member.last_round == number and not member.revealed:
                lost = slash_amount(economics.worker_stake, economics.worker_slash_bps, member.stake)
                self.chain.members[Role.WORKER][account] = replace(member, stake=Wei(member.stake - lost))
                slash = Slash(number, Role.WORKER, lost, "no reveal", self.chain.number, "0xabc", account)
                self.chain.slashed.append((account, slash))

    def answer_demand(self, task_id, round_number, worker_index, chunk_index, opening):
        def change():
            chain, found = self.chain, self._demand(round_number, worker_index, chunk_index)
            if chain.now >= found.deadline:
                raise Refused(TransactionReverted("TooLate"))
            opened = read_update_opening(opening, chain.task.format, chunk_index)
            if opened.root != chain.update_of(worker_index).root:
                raise Refused(TransactionReverted("NotRevealed"))
            self._end_demand(found)
            chain.answers.append(AnsweredDemand(replace(found, is_open=False), self.account, opening))
            chain.fees[found.challenger] = chain.fees.get(found.challenger, 0) + found.fee

        return self._send("answer_demand", change)

    def dispute_all(self, task_id, steps):
        return tuple(self._dispute(task_id, step) for step in steps[:MAX_AT_ONCE])

    def _dispute(self, task_id, step) -> SendResult:
        match step:
            case NodesAnswer():
                return self.answer_nodes(task_id, step.game_id, step.nodes)
            case ChunkAnswer():
                return self.answer_chunk(task_id, step.game_id, step.chunk)
            case DemandAnswer():
                return self.answer_demand(task_id, step.round, step.worker_index, step.chunk_index, step.opening)
            case ChunkDemand():
                return self.demand_chunk(task_id, step.round, step.worker_index, step.chunk_index)

    def close_demand(self, task_id, round_number, worker_index, chunk_index):
        def change():
            found = self._demand(round_number, worker_index, chunk_index)
            if self.chain.now < found.deadline:
                raise Refused(TransactionReverted("StillOpen"))
            self._end_demand(found)
            if found.is_late:
                self.chain.progress = replace(self.chain.progress, outcome=Outcome.WITHHELD)
            else:
                self._refute_update(worker_index, found.challenger, "withheld")

        return self._send("close_demand", change)

    def _demand(self, round_number, worker_index, chunk_index) -> Demand:
        key = (round_number, worker_index, chunk_index)
        for demand in self.chain.demands:
            if demand.is_open and (demand.round, demand.worker_index, demand.chunk_index) == key:
                return demand
        raise Refused(AlreadyDone("no such demand is open"))

    def _end_demand(self, demand: Demand) -> None:
        chain = self.chain
        chain.demands[chain.demands.index(demand)] = replace(demand, is_open=False)
        chain.docket = replace(chain.docket, demands=max(0, chain.docket.demands - 1))

    def demand_chunk(self, task_id, round_number, worker_index, chunk_index):
        def change():
            chain, (phase, _) = self.chain, self.chain.phase()
            if phase not in (Phase.REVEAL, Phase.SCORE_COMMIT, Phase.AGGREGATE, Phase.CHALLENGE):
                raise Refused(UnexpectedPhase(phase.name, task_id=TASK))
            update, key = chain.update_of(worker_index), (round_number, worker_index, chunk_index)
            is_late = phase >= Phase.AGGREGATE
            weights = {t.worker: t.weight for t in chain.tallies[round_number]}
            if chain.is_refuted(update.worker) if not is_late else weights[update.worker] == 0:
                raise Refused(TransactionReverted("NotDemandable"))
            if any((d.round, d.worker_index, d.chunk_index) == key for d in chain.demands):
                raise Refused(AlreadyDone("asked for"))
            asked = chain.demand(worker_index, chunk_index, self.account)
            if self.free_stake < asked.fee:
                chain.demands.pop()
                raise Refused(StakeTooLow("the fee"))

        return self._send("demand_chunk", change)

    # --- proofs ---

    def _refute_update(self, worker_index: int, challenger: Address, reason: str) -> None:
        chain, worker = self.chain, list(self.chain.members[Role.WORKER])[worker_index]
        chain.refuted.append(UpdateRefutation(chain.clock.round, worker, challenger, reason, chain.number))

    def commit_proof(self, task_id, commitment):
        def change():
            self.chain.proof_commits[self.account, commitment] = self.chain.number + 1

        return self._send("commit_proof", change)

    def _check_announced(self, round_number: int, proof: bytes, salt: bytes) -> None:
        opened = commitments.proof_commitment(
            chain_id=CHAIN_ID,
            coordinator=COORDINATOR,
            task_id=TASK,
            round_number=round_number,
            challenger=self.account,
            proof_hash=commitments.proof_hash_of(proof),
            salt=salt,
        )
        if (self.account, opened) not in self.chain.proof_commits:
            raise Refused(TransactionReverted("NoChallenge"))

    def prove_update(self, task_id, round_number, proof, salt):
        def change():
            chain, (phase, _) = self.chain, self.chain.phase()
            if not Phase.REVEAL <= phase <= Phase.DISPUTE:
                raise Refused(UnexpectedPhase(phase.name, task_id=TASK))
            self._check_announced(round_number, proof, salt)
            index, chunk = int.from_bytes(proof[:2], "big"), int.from_bytes(proof[2:10], "big")
            update, form = chain.update_of(index), chain.task.format
            if any(r.worker == update.worker and r.reason != "withheld" for r in chain.refuted):
                raise Refused(AlreadyDone("refuted"))
            try:
                norm = update.squared_norm
                reason = opening_fault(proof[10:], form, chunk, root=update.root, squared_norm=norm)
            except EncodingError as error:
                raise Refused(ProofRefused(str(error))) from error
            if reason is None:
                raise Refused(ProofRefused("nothing wrong"))
            self._refute_update(index, self.account, reason.value)

        return self._send("prove_update", change)

    def commit_challenge(self, task_id, round_number, attempt, commitment):
        def change():
            chain, bond = self.chain, self.chain.task.economics.challenger_bond
            chain.need(Phase.CHALLENGE, round_number)
            if attempt != chain.attempt or self.free_stake < bond:
                raise Refused(TransactionReverted("UnexpectedAttempt or StakeTooLow"))
            chain.challenges[self.account, commitment] = Challenge(
                self.account, commitment, round_number, attempt, bond, chain.number + 1
            )
            chain.docket = replace(chain.docket, challenges=chain.docket.challenges + 1)

        return self._send("commit_challenge", change)

    def prove_aggregate(self, task_id, round_number, attempt, proof, salt):
        def change():
            opened = commitments.challenge_commitment(
                chain_id=CHAIN_ID,
                coordinator=COORDINATOR,
                task_id=TASK,
                round_number=round_number,
                attempt=attempt,
                challenger=self.account,
                proof_hash=commitments.proof_hash_of(proof),
                salt=salt,
            )
            if (self.account, opened) not in self.chain.challenges:
                raise Refused(TransactionReverted("NoChallenge"))
            self._convict(round_number, attempt, proof)

        return self._send("prove_aggregate", change)

    def _convict(self, round_number: int, attempt: int, proof: bytes) -> None:
        phase, _ = self.chain.phase()
        current = (self.chain.clock.round, self.chain.attempt)
        if phase not in (Phase.CHALLENGE, Phase.DISPUTE) or (round_number, attempt) != current:
            raise Refused(UnexpectedPhase(phase.name, task_id=TASK))
        if not self.chain.convicts(proof):
            raise Refused(ProofRefused("nothing wrong"))
        self.chain.refute()

    def close_challenge(self, task_id, challenger, commitment):
        def change():
            found = self.chain.challenges.get((challenger, commitment))
            if found is None:
                raise Refused(AlreadyDone("closed"))
            if self.verdict(task_id, found.round, found.attempt) is Verdict.OPEN:
                raise Refused(TransactionReverted("StillOpen"))
            del self.chain.challenges[challenger, commitment]

        return self._send("close_challenge", change)

    # --- games ---

    def open_game(self, task_id, round_number, attempt, target, group, group_roots, own_root):
        def change():
            chain = self.chain
            chain.need(Phase.CHALLENGE, round_number)
            roots = chain.posting[1].group_roots
            if attempt != chain.attempt or tuple(group_roots) != (roots if target is Target.GROUP else ()):
                raise Refused(TransactionReverted("UnexpectedAttempt or NotPosted"))
            games = chain.docket.games
            if games >= MAX_OPEN_GAMES or self.free_stake < game_bond(chain.task.economics, games):
                raise Refused(TransactionReverted("TooManyGames or StakeTooLow"))
            chain.dispute(challenger=self.account, target=target, group=group, root=own_root)

        return self._send("open_game", change)

    def _in_game(self, game_id: int, *, answers_turn: bool) -> Game:
        game = self.chain.games[game_id]
        if not game.is_open or game.answers_turn is not answers_turn:
            raise Refused(TransactionReverted("NotYourMove"))
        if self.chain.now >= game.deadline:
            raise Refused(TransactionReverted("TooLate"))
        return game

    def _moved(self, game_id: int, move: GameMove, **changes) -> None:
        chain = self.chain
        deadline = chain.now + chain.task.windows.answer
        chain.moves[game_id].append(move)
        chain.games[game_id] = replace(chain.games[game_id], deadline=deadline, **changes)

    def _check_node(self, game: Game, digest: bytes) -> None:
        form = self.chain.task.format
        shape = TreeShape.of(form, KINDS[game.target])
        found = shape.seal(digest) if game.height == shape.depth else digest
        if found != game.node:
            raise Refused(TransactionReverted("NodeMismatch"))

    def answer_nodes(self, task_id, game_id, nodes):
        def change():
            game = self._in_game(game_id, answers_turn=True)
            assert len(nodes) == 32 << levels_below(game.height)
            row = [nodes[at : at + 32] for at in range(0, len(nodes), 32)]
            while len(row) > 1:
                row = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(row[::2], row[1::2], strict=True)]
            self._check_node(game, row[0])
            self._moved(game_id, NodesAnswered(self.account, nodes), answers_turn=False, answerer=self.account)

        return self._send("answer_nodes", change)

    def point_at(self, task_id, game_id, child, node, siblings):
        def change():
            game = self._in_game(game_id, answers_turn=False)
            levels = levels_below(game.height)
            digest, place = node, child
            for sibling in siblings:
                pair = sibling + digest if place & 1 else digest + sibling
                digest, place = hashlib.sha256(b"\x01" + pair).digest(), place >> 1
            assert (game.challenger, len(siblings), place) == (self.account, levels, 0)
            self._check_node(game, digest)
            height, index = game.height - levels, (game.index << levels) + child
            move = NodePointed(height, index)
            self._moved(game_id, move, answers_turn=True, height=height, index=index, node=bytes(node))

        return self._send("point_at", change)

    def answer_chunk(self, task_id, game_id, chunk):
        def change():
            game = self._in_game(game_id, answers_turn=True)
            assert game.height == 0
            self._check_node(game, leaf_digest(game.index, chunk))
            self._moved(game_id, ChunkAnswered(self.account, chunk), answers_turn=False, answerer=self.account)

        return self._send("answer_chunk", change)

    def prove_in_game(self, task_id, game_id, proof, salt):
        def change():
            game = self._in_game(game_id, answers_turn=False)
            assert game.challenger == self.account
            self._check_announced(game.round, proof, salt)
            self._convict(game.round, game.attempt, proof)
            self.chain.games[game_id] = replace(game, is_open=False)
            self.chain.lost[game_id] = False

        return self._send("prove_in_game", change)

    def close_game(self, task_id, game_id):
        def change():
            chain, game = self.chain, self.chain.games[game_id]
            is_over = (game.round, game.attempt) != (chain.clock.round, chain.attempt)
            if not game.is_open:
                raise Refused(AlreadyDone("the game is over"))
            if chain.now < game.deadline and not is_over:
                raise Refused(TransactionReverted("StillOpen"))
            chain.games[game_id] = replace(game, is_open=False)
            chain.lost[game_id] = not is_over and not game.answers_turn
            if is_over:
                return
            chain.docket = replace(chain.docket, games=chain.docket.games - 1)
            if game.answers_turn:
                chain.refute()

        return self._send("close_game", change)

    def claim(self):
        def change():
            self.credit = Wei(0)

        return self._send("claim", change)
