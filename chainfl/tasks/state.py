"""What an agent knows of the chain at one block: frozen values with the ABI's component names.

The field names and enum orders below are those of contracts/src/interfaces/Types.sol, in snake case; a test
compares them with the compiled ABI, so nothing here is retyped by position.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from chainfl.types import Address, Root, TaskId, Wei

ABSTAIN = 65_535
IDLE = 65_534
"""Above every round: `active_from` of a worker that waits to be drawn."""
MAX_WEIGHT = 10_000
ZERO_ADDRESS = Address("0x0000000000000000000000000000000000000000")
ZERO_ROOT = Root(bytes(32))


class Role(IntEnum):
    """What an account does in a task. Nobody enrols as a challenger: bonds and fees of disputes are locked under it."""

    WORKER = 0
    VALIDATOR = 1
    AGGREGATOR = 2
    CHALLENGER = 3


ENROLLED_ROLES = (Role.WORKER, Role.VALIDATOR, Role.AGGREGATOR)
"""The roles that have members."""


class Phase(IntEnum):
    """Where a task stands; derived on chain from stored facts and the block time."""

    NONE = 0
    ENROLMENT = 1
    COMMIT = 2
    REVEAL = 3
    SCORE_COMMIT = 4
    SCORE_REVEAL = 5
    ANSWER = 6
    TALLY = 7
    AGGREGATE = 8
    CHALLENGE = 9
    DISPUTE = 10
    SETTLEMENT = 11
    COMPLETED = 12
    CANCELLED = 13

    @property
    def is_terminal(self) -> bool:
        """No action changes the task any more."""
        return self in (Phase.COMPLETED, Phase.CANCELLED)


class Outcome(IntEnum):
    """How a round ended; everything but FINAL is a void round."""

    PENDING = 0
    FINAL = 1
    NO_UPDATES = 2
    QUORUM_MISSED = 3
    NOTHING_ACCEPTED = 4
    NO_AGGREGATE = 5
    REFUTED = 6
    WITHHELD = 7


class Verdict(IntEnum):
    """What became of an attempt at a round's aggregate."""

    OPEN = 0
    STOOD = 1
    REFUTED = 2
    ABANDONED = 3


class Rule(IntEnum):
    """How the updates of a round become one step."""

    MEAN = 0
    TRIMMED_MEAN = 1
    MEDIAN = 2


class ServerKind(IntEnum):
    """How the server moves the model by what the rule found; see docs/protocol.md, Numbers."""

    PLAIN = 0
    MOMENTUM = 1
    NESTEROV = 2
    ADAGRAD = 3
    ADAM = 4
    YOGI = 5


class DrawBy(IntEnum):
    """By what the workers of a round are drawn."""

    UNIFORM = 0
    STAKE = 1
    REPUTATION = 2


SELECTIONS = tuple(by.name.lower() for by in DrawBy)
"""The same for people: what a task file's `selection` may be."""


class Target(IntEnum):
    """Which vector of a posted aggregate is meant."""

    MODEL = 0
    STATE = 1
    GROUP = 2


@dataclass(frozen=True, slots=True)
class CidOnChain:
    """A CIDv1 with a SHA-256 multihash, as contracts hold it. codec: 0x55 (raw) or 0x70 (dag-pb)."""

    digest: bytes
    codec: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many accounts of a role a task needs and takes."""

    min: int
    max: int


@dataclass(frozen=True, slots=True)
class Windows:
    """Lengths in seconds."""

    commit: int
    reveal: int
    score_commit: int
    score_reveal: int
    slot: int
    challenge: int
    answer: int
    proof: int


@dataclass(frozen=True, slots=True)
class Economics:
    """What a task asks and pays: token amounts in wei, shares in basis points."""

    worker_stake: Wei
    validator_stake: Wei
    aggregator_bond: Wei
    slot_fee: Wei
    workers_bps: int
    validators_bps: int
    aggregator_bps: int
    base_bps: int
    worker_slash_bps: int
    validator_slash_bps: int
    challenger_bond: Wei
    demand_fee: Wei
    range_slash_bps: int
    withheld_slash_bps: int
    vouch_slash_bps: int


@dataclass(frozen=True, slots=True)
class Format:
    """The integer format of a task (docs/protocol.md, Numbers and Commitments).

    step_num/step_den: of the rule's mean, or the rate of an adaptive server. momentum_num/momentum_den: the share of
    the first moment that a round keeps. second_num/second_den: the same of Adam's and Yogi's second moment. tau: what
    is added to its root, in units of 2^-(model_scale_bits + 4). What a server does not have is 0.
    """

    num_params: int
    chunk_params: int
    model_scale_bits: int
    update_scale_bits: int
    step_num: int
    step_den: int
    max_squared_norm: int
    group_size: int = 64
    rule: Rule = Rule.MEAN
    trim_num: int = 0
    trim_den: int = 0
    momentum_num: int = 0
    momentum_den: int = 0
    server: ServerKind = ServerKind.PLAIN
    second_num: int = 0
    second_den: int = 0
    tau: int = 0

    @property
    def has_state(self) -> bool:
        """Whether the server keeps anything from one round to the next."""
        return self.server is not ServerKind.PLAIN

    @property
    def is_adaptive(self) -> bool:
        """Whether the server divides each coordinate's step by the root of its second moment."""
        return self.server >= ServerKind.ADAGRAD

    @property
    def num_moments(self) -> int:
        """How many values the server keeps of each coordinate: none, the momentum, or a first and a second moment."""
        return int(self.has_state) + int(self.is_adaptive)

    @property
    def state_params(self) -> int:
        """Values of the state's vector: those of one coordinate side by side, so that one chunk holds them."""
        return self.num_moments * self.num_params

    def num_groups(self, accepted: int) -> int:
        """How many group sums an aggregate of so many updates posts; 0 when one group holds them all."""
        groups = -(-accepted // self.group_size)
        return groups if groups > 1 else 0


@dataclass(frozen=True, slots=True)
class Draw:
    """Who takes part in a round: so many workers, drawn anew for each; 0: everybody."""

    clients_per_round: int = 0
    by: DrawBy = DrawBy.UNIFORM

    @property
    def is_on(self) -> bool:
        """Whether not everybody takes part."""
        return self.clients_per_round > 0

    def most_of(self, max_workers: int) -> int:
        """How many updates a round has at most."""
        return min(self.clients_per_round, max_workers) if self.is_on else max_workers


EVERYBODY = Draw()


@dataclass(frozen=True, slots=True)
class Claim:
    """What an aggregator claims. state_root: zeros without a state. group_roots: empty unless there are groups."""

    model_root: Root
    state_root: Root
    group_roots: tuple[Root, ...]


@dataclass(frozen=True, slots=True)
class TaskParams:
    """Everything that createTask takes."""

    spec_hash: bytes
    genesis_root: Root
    genesis_state_root: Root
    genesis_cid: CidOnChain
    genesis_float_cid: CidOnChain
    parent_model: bytes
    rounds: int
    enrolment_end: int
    reward: Wei
    workers: Bounds
    validators: Bounds
    aggregators: Bounds
    format: Format
    windows: Windows
    economics: Economics
    named_validators: tuple[Address, ...]
    licence: str
    draw: Draw = EVERYBODY


@dataclass(frozen=True, slots=True)
class TaskView:
    """The fixed part of a task, as it was created."""

    requester: Address
    spec_hash: bytes
    genesis_root: Root
    genesis_state_root: Root
    rounds: int
    enrolment_end: int
    created_at: int
    created_block: int
    reward: Wei
    validators_named: bool
    workers: Bounds
    validators: Bounds
    aggregators: Bounds
    format: Format
    windows: Windows
    economics: Economics
    draw: Draw = EVERYBODY


@dataclass(frozen=True, slots=True)
class RoundView:
    """The moving part of a task. Times in seconds of chain time; `phase_end` 0 means that only an action ends it.

    pool: out of how many the round's workers are drawn; 0 where everybody takes part. eligible_workers: 0 until then.
    """

    phase: Phase
    phase_end: int
    round: int
    attempt: int
    opened_block: int
    eligible_workers: int
    committed: int
    revealed: int
    eligible_validators: int
    scores_committed: int
    scores_revealed: int
    num_workers: int
    num_validators: int
    num_aggregators: int
    model_root: Root
    state_root: Root
    tallied: int
    settled: int
    aggregate_start: int
    num_slots: int
    order_drawn: bool
    order: tuple[Address, Address, Address]
    seed_block: int
    accepted: int
    total_weight: int
    aggregator: Address
    posted_at: int
    aggregate_root: Root
    aggregate_state_root: Root
    aggregate_cid: CidOnChain
    aggregate_float_cid: CidOnChain
    outcome: Outcome
    carry: Wei
    ended_at: int
    challenges: int
    games: int
    demands: int
    num_games: int
    pool: int = 0

    @property
    def awaits_draw(self) -> bool:
        """Whether nobody can commit yet, since the round's workers are still to be drawn."""
        return self.phase is Phase.COMMIT and self.pool > 0 and self.eligible_workers == 0


@dataclass(frozen=True, slots=True)
class Game:
    """A dispute about an aggregate whose bytes are withheld.

    node: the posted root until the first answer, then the node in question, number `index` of its level with `height`
    levels below. answers_turn: whose move is awaited until `deadline`.
    """

    challenger: Address
    round: int
    attempt: int
    target: Target
    group: int
    height: int
    index: int
    answers_turn: bool
    is_open: bool
    deadline: int
    node: bytes
    answerer: Address
    bond: Wei
    own_root: Root


@dataclass(frozen=True, slots=True)
class Demand:
    """Somebody asked for a chunk of a worker's update."""

    challenger: Address
    fee: Wei
    round: int
    worker_index: int
    chunk_index: int
    deadline: int
    is_late: bool
    is_open: bool


@dataclass(frozen=True, slots=True)
class Challenge:
    """A commitment to a proof against an attempt's aggregate. bond: 0 when it is over, or when there was none."""

    challenger: Address
    commitment: bytes
    round: int
    attempt: int
    bond: Wei
    block_number: int


@dataclass(frozen=True, slots=True)
class PostedAggregate:
    """What a poster claimed, as its event says."""

    round: int
    attempt: int
    poster: Address
    claim: Claim
    cid: CidOnChain
    float_cid: CidOnChain
    block_number: int


@dataclass(frozen=True, slots=True)
class NodesAnswered:
    """A move of a game: all nodes eight levels below the one in question, 32 bytes each, from left to right."""

    answerer: Address
    nodes: bytes


@dataclass(frozen=True, slots=True)
class NodePointed:
    """A move of a game: node number `index` of the level with `height` levels below is in question next."""

    height: int
    index: int


@dataclass(frozen=True, slots=True)
class ChunkAnswered:
    """A move of a game: the chunk of the leaf in question."""

    answerer: Address
    chunk: bytes


GameMove = NodesAnswered | NodePointed | ChunkAnswered


@dataclass(frozen=True, slots=True)
class GameRecord:
    """A game with its moves, oldest first, as its events say. is_lost: by its challenger; None while it is open."""

    game_id: int
    challenger: Address
    round: int
    attempt: int
    target: Target
    group: int
    own_root: Root
    moves: tuple[GameMove, ...]
    is_lost: bool | None


@dataclass(frozen=True, slots=True)
class AggregateRefutation:
    """An attempt that fell. reason: the contract's own word."""

    round: int
    attempt: int
    aggregator: Address
    challenger: Address
    reason: str
    block_number: int


@dataclass(frozen=True, slots=True)
class UpdateRefutation:
    """An update that was proven wrong or not delivered. challenger: the zero address when the tally found it open."""

    round: int
    worker: Address
    challenger: Address
    reason: str
    block_number: int


@dataclass(frozen=True, slots=True)
class Pulse:
    """What changes when somebody acts on a task: the cheap question of an agent that waits."""

    phase: Phase
    phase_end: int
    attempt: int
    demands: int
    games: int


@dataclass(frozen=True, slots=True)
class Member:
    """One account's part in a task.

    commitment: the commitment until the reveal, then the update's root (worker) or the votes' hash (validator).
    """

    stake: Wei
    squared_norm: int
    active_from: int
    active_until: int
    last_round: int
    revealed: bool
    missed: int
    weight: int
    score: int
    commitment: bytes

    @property
    def is_enrolled(self) -> bool:
        """Ever enrolled for the task in this role."""
        return self.active_from > 0

    def is_eligible(self, round_number: int, required_stake: int) -> bool:
        """Takes part in the round: active in it and still holding half of the required stake."""
        return self.active_from <= round_number < self.active_until and 2 * self.stake >= required_stake > 0

    def has_committed(self, round_number: int) -> bool:
        """Committed in the round, revealed or not."""
        return self.last_round == round_number

    def has_revealed(self, round_number: int) -> bool:
        """Revealed in the round."""
        return self.last_round == round_number and self.revealed


@dataclass(frozen=True, slots=True)
class RevealedUpdate:
    """One update as its worker disclosed it on chain."""

    worker: Address
    root: Root
    cid: CidOnChain
    squared_norm: int
    num_examples: int


@dataclass(frozen=True, slots=True)
class TalliedUpdate:
    """One update with the medians that the validators gave it."""

    worker: Address
    root: Root
    weight: int
    score: int


@dataclass(frozen=True, slots=True)
class PoolMember:
    """A worker of the list as a draw found it. waits: whether it was in the pool. reputation: 0 in other tasks."""

    account: Address
    waits: bool
    stake: Wei
    reputation: int


@dataclass(frozen=True, slots=True)
class WorkerDraw:
    """A draw as its event says it, and what it went by. seed: the hash of the block `seed_block`.

    drawn: in the order in which they were drawn. pool: all workers, in the order in which they enrolled.
    """

    seed_block: int
    seed: bytes
    drawn: tuple[Address, ...]
    pool: tuple[PoolMember, ...]
    block_number: int


@dataclass(frozen=True, slots=True)
class Block:
    """The block that a view was read at."""

    number: int
    timestamp: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one agent needs to decide, read at one block."""

    block: Block
    task_id: TaskId
    task: TaskView
    round: RoundView
    me: Member
    """My own part in the role that the agent plays; all zero when not enrolled."""
    free_stake: Wei
    credit: Wei
