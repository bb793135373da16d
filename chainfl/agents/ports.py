"""What agents see of the world: small protocols, so that their decisions are tested without an EVM or a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chainfl.errors import ChainflError
from chainfl.tasks.state import (
    AggregateRefutation,
    Block,
    Challenge,
    CidOnChain,
    Claim,
    Demand,
    Game,
    GameRecord,
    Member,
    Phase,
    PostedAggregate,
    Pulse,
    RevealedUpdate,
    Role,
    Snapshot,
    TalliedUpdate,
    Target,
    TaskParams,
    TaskView,
    UpdateRefutation,
    Verdict,
    WorkerDraw,
)
from chainfl.types import Address, Root, TaskId, Wei


@dataclass(frozen=True, slots=True)
class Sent:
    """Mined and successful."""

    tx_hash: str
    block_number: int
    gas_used: int
    cost_wei: int


@dataclass(frozen=True, slots=True)
class WouldRevert:
    """Not sent: the simulation, or the estimate just before sending, reverted with this error."""

    error: ChainflError


@dataclass(frozen=True, slots=True)
class DryRun:
    """Not sent, by request. cost_wei: gas estimate × the fee it would have offered."""

    gas_estimate: int
    cost_wei: int


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Sent, without a receipt in time; it may still be mined."""

    tx_hash: str


SendResult = Sent | WouldRevert | DryRun | TimedOut

Deeds = SendResult | tuple[SendResult, ...] | None
"""What one deed of an agent sent: a transaction, many at once, or nothing."""

MAX_AT_ONCE = 32
"""How many transactions of one account are sent before any of them is mined; nodes drop what queues for longer."""


@dataclass(frozen=True, slots=True)
class NodesAnswer:
    """The nodes below the one that a game is at."""

    game_id: int
    nodes: bytes


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """The chunk that a game is at."""

    game_id: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class DemandAnswer:
    """The packed opening of a chunk that somebody demands."""

    round: int
    worker_index: int
    chunk_index: int
    opening: bytes


@dataclass(frozen=True, slots=True)
class ChunkDemand:
    """A demand for one chunk of an update."""

    round: int
    worker_index: int
    chunk_index: int


DisputeStep = NodesAnswer | ChunkAnswer | DemandAnswer | ChunkDemand
"""What is sent many at a time: anybody may ask many things at once, and each has a clock of its own."""


@dataclass(frozen=True, slots=True)
class Slash:
    """Stake that an account lost in a round. reason: the contract's own word, such as `no reveal`."""

    round: int
    role: Role
    amount: Wei
    reason: str
    block_number: int
    tx_hash: str
    account: Address


@dataclass(frozen=True, slots=True)
class AnsweredDemand:
    """A demand for a chunk of an update, and the packed opening that answered it. demand: as it is on record now."""

    demand: Demand
    answerer: Address
    opening: bytes


class ChainPort(Protocol):
    """The chain as one account sees it. Reads are pinned to a block; sends simulate first.

    Every method raises RpcUnreachable when the endpoint does not answer.
    """

    @property
    def account(self) -> Address: ...
    @property
    def chain_id(self) -> int: ...
    @property
    def coordinator(self) -> Address: ...

    def latest_block(self) -> Block: ...
    def wait_for_block(self, after: int, timeout_s: float) -> Block:
        """The newest block; returns once its number exceeds `after`, or at the timeout."""
        ...

    def phase(self, task_id: TaskId, block: Block | None = None) -> tuple[Phase, int]:
        """The phase and when it ends by itself."""
        ...

    def pulse(self, task_id: TaskId, block: Block | None = None) -> Pulse:
        """The one cheap question of an agent that waits: whether anything changed that it must see."""
        ...

    def gas_price_wei(self) -> int:
        """What a unit of gas costs now, in native wei."""
        ...

    def num_tasks(self) -> int: ...
    def task(self, task_id: TaskId) -> TaskView: ...
    def task_params(self, task_id: TaskId) -> TaskParams:
        """Everything that the task was created with, from the event of its creation."""
        ...

    def snapshot(self, task_id: TaskId, role: Role, block: Block | None = None) -> Snapshot: ...
    def members(self, task_id: TaskId, role: Role, block: Block | None = None) -> tuple[Address, ...]: ...
    def member(self, task_id: TaskId, role: Role, account: Address, block: Block | None = None) -> Member: ...
    def revealed_updates(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[RevealedUpdate, ...]:
        """In the order of `members(WORKER)`. Scans events from `from_block`, overlapping a reorg window."""
        ...

    def tallied_updates(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[TalliedUpdate, ...]: ...
    def worker_draw(self, task_id: TaskId, round_number: int) -> WorkerDraw | None:
        """Who was drawn for the round and what it went by, from the task's events; None before the draw."""
        ...

    def last_commit_hash(self, task_id: TaskId, round_number: int) -> bytes:
        """Of the block with the round's last commitment to an update; empty without one. Raises NodeBehind."""
        ...

    def model_location(self, task_id: TaskId, round_number: int) -> tuple[Root, CidOnChain]:
        """Root and exact CID of the task's newest final model at or before `round_number` (0: genesis)."""
        ...

    def model_files(self, task_id: TaskId, from_block: int) -> frozenset[CidOnChain]:
        """The CIDs of all versions of the task's model, the genesis with them, each with its float32 file's."""
        ...

    def slashes(self, task_id: TaskId, account: Address | None, from_block: int) -> tuple[Slash, ...]:
        """What the account (None: everybody) lost in the task since `from_block`, oldest first."""
        ...

    # What is disputed. Event reads scan from `from_block`, overlapping a reorg window.
    def verdict(self, task_id: TaskId, round_number: int, attempt: int, block: Block | None = None) -> Verdict: ...
    def challenge(
        self, task_id: TaskId, challenger: Address, commitment: bytes, block: Block | None = None
    ) -> Challenge: ...
    def game(self, task_id: TaskId, game_id: int, block: Block | None = None) -> Game: ...
    def demand(
        self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int, block: Block | None = None
    ) -> Demand: ...
    def is_refuted(self, task_id: TaskId, round_number: int, worker_index: int, block: Block | None = None) -> bool: ...
    def is_excluded(self, task_id: TaskId, round_number: int, account: Address, block: Block | None = None) -> bool: ...
    def accepted_hash(self, task_id: TaskId, group: int, block: Block | None = None) -> bytes: ...
    def open_games(self, task_id: TaskId, block: Block | None = None) -> tuple[tuple[int, Game], ...]:
        """The games of the current attempt that are not over, with their numbers, oldest first."""
        ...

    def open_demands(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[Demand, ...]:
        """The round's demands that are neither answered nor closed, oldest first."""
        ...

    def answered_demands(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[AnsweredDemand, ...]:
        """The round's demands that were answered, in the order of the answers. The contract checked their roots."""
        ...

    def challenges(self, task_id: TaskId, from_block: int, challenger: Address | None = None) -> tuple[Challenge, ...]:
        """Commitments to proofs that still hold a bond, oldest first."""
        ...

    def posted_aggregates(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[PostedAggregate, ...]:
        """Every claim of the round, one an attempt, in their order."""
        ...

    def games(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[GameRecord, ...]:
        """The round's games with all their moves, oldest first."""
        ...

    def refuted_aggregates(
        self, task_id: TaskId, from_block: int, round_number: int | None = None
    ) -> tuple[AggregateRefutation, ...]: ...
    def refuted_updates(
        self, task_id: TaskId, from_block: int, round_number: int | None = None
    ) -> tuple[UpdateRefutation, ...]: ...

    # Sending. Every call answers Sent | WouldRevert | DryRun | TimedOut.
    def enrol(self, task_id: TaskId, role: Role, stake: Wei) -> SendResult: ...
    def start_task(self, task_id: TaskId) -> SendResult: ...
    def cancel_task(self, task_id: TaskId) -> SendResult: ...
    def leave(self, task_id: TaskId, role: Role) -> SendResult: ...
    def rejoin(self, task_id: TaskId, role: Role) -> SendResult: ...
    def commit_update(self, task_id: TaskId, round_number: int, commitment: bytes) -> SendResult: ...
    def reveal_update(
        self,
        task_id: TaskId,
        round_number: int,
        root: Root,
        cid: CidOnChain,
        squared_norm: int,
        num_examples: int,
        salt: bytes,
    ) -> SendResult: ...
    def commit_scores(self, task_id: TaskId, round_number: int, commitment: bytes) -> SendResult: ...
    def reveal_scores(self, task_id: TaskId, round_number: int, votes: bytes, salt: bytes) -> SendResult: ...
    def draw_workers(self, task_id: TaskId) -> SendResult: ...
    def tally(self, task_id: TaskId, max_workers: int) -> SendResult: ...
    def draw_order(self, task_id: TaskId) -> SendResult: ...
    def commit_aggregate(self, task_id: TaskId, round_number: int, commitment: bytes) -> SendResult: ...
    def post_aggregate(
        self,
        task_id: TaskId,
        round_number: int,
        claim: Claim,
        cid: CidOnChain,
        float_cid: CidOnChain,
        salt: bytes,
    ) -> SendResult: ...
    def settle(self, task_id: TaskId, max_workers: int) -> SendResult: ...
    def claim(self) -> SendResult: ...

    # Disputes. See IDisputes.sol for what each promises and reverts with.
    def commit_challenge(self, task_id: TaskId, round_number: int, attempt: int, commitment: bytes) -> SendResult: ...
    def prove_aggregate(
        self, task_id: TaskId, round_number: int, attempt: int, proof: bytes, salt: bytes
    ) -> SendResult: ...
    def close_challenge(self, task_id: TaskId, challenger: Address, commitment: bytes) -> SendResult: ...
    def open_game(
        self,
        task_id: TaskId,
        round_number: int,
        attempt: int,
        target: Target,
        group: int,
        group_roots: Sequence[Root],
        own_root: Root,
    ) -> SendResult: ...
    def answer_nodes(self, task_id: TaskId, game_id: int, nodes: bytes) -> SendResult: ...
    def point_at(
        self, task_id: TaskId, game_id: int, child: int, node: bytes, siblings: Sequence[bytes]
    ) -> SendResult: ...
    def answer_chunk(self, task_id: TaskId, game_id: int, chunk: bytes) -> SendResult: ...
    def prove_in_game(self, task_id: TaskId, game_id: int, proof: bytes, salt: bytes) -> SendResult: ...
    def close_game(self, task_id: TaskId, game_id: int) -> SendResult: ...
    def commit_proof(self, task_id: TaskId, commitment: bytes) -> SendResult: ...
    def prove_update(self, task_id: TaskId, round_number: int, proof: bytes, salt: bytes) -> SendResult: ...
    def demand_chunk(self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int) -> SendResult: ...
    def answer_demand(
        self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int, opening: bytes
    ) -> SendResult: ...
    def close_demand(self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int) -> SendResult: ...
    def dispute_all(self, task_id: TaskId, steps: Sequence[DisputeStep]) -> tuple[SendResult, ...]:
        """Sends all of them before it waits for any. returns: what became of the first ones, in their order.

        As many as fit a block, the gas budget, the account's funds and MAX_AT_ONCE; the others are left for another
        look. Raises what hinders the first.
        """
        ...
