"""What a watcher does next: a pure decision over what it sees and what it found. No chain, no bytes.

A watcher recomputes every update's commitment and every aggregate from public bytes. What is wrong it disputes, with
its own bond; what is withheld it asks for. Announced first, proven at least a block later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from chainfl.agents.cases import Against, Case
from chainfl.agents.ports import MAX_AT_ONCE, AnsweredDemand
from chainfl.tasks.rules import MAX_OPEN_GAMES, game_bond
from chainfl.tasks.state import (
    Block,
    Challenge,
    Claim,
    Demand,
    Game,
    GameRecord,
    Phase,
    PostedAggregate,
    RoundView,
    Target,
    TaskView,
    Verdict,
)
from chainfl.types import Address, Root, TaskId

UPDATES_ARE_PUBLIC = (Phase.REVEAL, Phase.SCORE_COMMIT, Phase.SCORE_REVEAL, Phase.ANSWER, Phase.TALLY)
"""From a reveal on the bytes must be there; until the tally a proof still changes weights."""

IS_TALLIED = (Phase.AGGREGATE, Phase.CHALLENGE, Phase.DISPUTE)
"""A proof against an update changes no weight any more, and still slashes."""

IS_POSTED = (Phase.CHALLENGE, Phase.DISPUTE)
BPS = 10_000


# --- what is seen --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenGame:
    """A game of the current round: its moves, and where it stands."""

    record: GameRecord
    game: Game


@dataclass(frozen=True, slots=True)
class OwnChallenge:
    """A bond that this watcher has locked, and what became of the attempt."""

    challenge: Challenge
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Watch:
    """Everything that a watcher decides from, read at one block. posted: the aggregate that stands, if one does.

    demands: the round's open ones. answered: those that anybody answered; read only while an update is suspect.
    """

    block: Block
    task_id: TaskId
    task: TaskView
    round: RoundView
    me: Address
    free_stake: int
    posted: PostedAggregate | None
    games: tuple[OpenGame, ...]
    demands: tuple[Demand, ...]
    challenges: tuple[OwnChallenge, ...]
    answered: tuple[AnsweredDemand, ...] = ()

    def answers_for(self, worker_index: int) -> tuple[AnsweredDemand, ...]:
        """The answered demands for one worker's update, in the order of the answers."""
        return tuple(answer for answer in self.answered if answer.demand.worker_index == worker_index)

    @property
    def now(self) -> int:
        """Chain time."""
        return self.block.timestamp


# --- what was found ------------------------------------------------------------------------------


class Bytes(Enum):
    """What the bytes behind a root turned out to be."""

    SOUND = "sound"
    MISSING = "missing"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class UpdateFinding:
    """One update. proof: when it is WRONG and that can be shown. index: of its worker.

    num_answers: how many answered demands for it were read. suspect: the chunk to demand next. leads: those answers
    point at it, since the sums that they state hide a part of the published values.
    """

    index: int
    state: Bytes
    proof: bytes | None = None
    why: str = ""
    num_answers: int = 0
    suspect: int = 0
    leads: bool = False

    @property
    def is_open(self) -> bool:
        """Whether something is the matter with it that cannot be shown yet."""
        return self.state is not Bytes.SOUND and self.proof is None


@dataclass(frozen=True, slots=True)
class AggregateFinding:
    """The posted aggregate of one attempt.

    proof: shows that it is wrong. withheld: the vector whose bytes nobody serves, and what its root should be. Neither:
    it is right.
    """

    attempt: int
    proof: bytes | None = None
    withheld: tuple[Target, int, Root] | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class GameFinding:
    """The challenger's answer to the last answer: the child to point at, or the proof once the chunk is there."""

    game_id: int
    num_moves: int
    pointer: tuple[int, bytes, tuple[bytes, ...]] | None = None
    proof: bytes | None = None


@dataclass(slots=True)
class Findings:
    """What was found in the current round; nothing of it is needed after a restart.

    looked_at, recomputed_at: when updates were last looked for, and the aggregate was last recomputed. expected: what
    it must be. unavailable: indices of accepted updates that nobody serves, without which that cannot be known.
    announced: block in which a case's announcement was mined, by its key. in_vain: indices of workers whose answers in
    an earlier round showed nothing: such answers are not followed again, since half of every fee is theirs.
    """

    updates: dict[int, UpdateFinding] = field(default_factory=dict)
    looked_at: int = -1
    recomputed_at: int = -1
    expected: Claim | None = None
    unavailable: frozenset[int] = frozenset()
    aggregate: AggregateFinding | None = None
    games: dict[int, GameFinding] = field(default_factory=dict)
    announced: dict[str, int] = field(default_factory=dict)
    in_vain: frozenset[int] = frozenset()

    def next_round(self) -> Findings:
        """What is still of use in another round."""
        vain = {found.index for found in self.updates.values() if found.num_answers and found.is_open}
        return Findings(in_vain=self.in_vain | vain)


# --- what to do ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LookAtUpdates:
    """Fetch and check what was revealed."""


@dataclass(frozen=True, slots=True)
class LookAtAnswers:
    """Read what was answered for an update that is not sound."""

    found: UpdateFinding


@dataclass(frozen=True, slots=True)
class LookAtAggregate:
    """Recompute the round and compare it with what was posted."""


@dataclass(frozen=True, slots=True)
class LookAtGame:
    """Work out the next move in one's own game."""

    game: OpenGame


@dataclass(frozen=True, slots=True)
class OpenCase:
    """Write a proof down, so that it can be announced."""

    case: Case


@dataclass(frozen=True, slots=True)
class Announce:
    """Send the commitment to a case's proof."""

    case: Case


@dataclass(frozen=True, slots=True)
class Prove:
    """Send the proof."""

    case: Case


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a case that is over."""

    case: Case


@dataclass(frozen=True, slots=True)
class StartGame:
    """Dispute a root whose bytes are withheld."""

    target: Target
    group: int
    own_root: Root


@dataclass(frozen=True, slots=True)
class PointAt:
    """Point at the node that differs."""

    game_id: int
    child: int
    node: bytes
    siblings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EndGame:
    """Close a game whose clock ran out or whose attempt is over."""

    game_id: int


@dataclass(frozen=True, slots=True)
class EndChallenge:
    """Get a bond back."""

    challenge: Challenge


@dataclass(frozen=True, slots=True)
class DemandChunk:
    """Ask for a chunk of an update that nobody serves."""

    worker_index: int
    chunk_index: int


@dataclass(frozen=True, slots=True)
class EndDemand:
    """Draw the consequences of a demand that nobody answered."""

    demand: Demand


@dataclass(frozen=True, slots=True)
class AnswerGame:
    """Answer in somebody's game about an aggregate that is right."""

    game: OpenGame


@dataclass(frozen=True, slots=True)
class AnswerDemand:
    """Deliver a chunk that somebody asks for."""

    demand: Demand


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do until the next block, or until chain time `until`."""

    until: int | None = None


Look = LookAtUpdates | LookAtAnswers | LookAtAggregate | LookAtGame
"""What is done without a transaction."""

Move = (
    LookAtUpdates
    | LookAtAnswers
    | LookAtAggregate
    | LookAtGame
    | OpenCase
    | Announce
    | Prove
    | Drop
    | StartGame
    | PointAt
    | EndGame
    | EndChallenge
    | DemandChunk
    | EndDemand
    | AnswerGame
    | AnswerDemand
    | Rest
)


Batched = DemandChunk | AnswerGame | AnswerDemand
"""What is asked, or answered, many times at once: each has a clock of its own."""

TOGETHER: tuple[tuple[type[Batched], ...], ...] = ((DemandChunk,), (AnswerGame, AnswerDemand))


def next_move(
    watch: Watch,
    findings: Findings,
    cases: Mapping[str, Case],
    *,
    salt: bytes,
    answers: bool = False,
    refused: Collection[Move] = (),
) -> Move:
    """The most urgent move at this block. Pure and total.

    salt: fresh, for a case that is opened now. answers: also serve what others ask for. refused: what the chain did not
    take; none of them may keep this watcher from the others.
    """
    for move in moves(watch, findings, cases, salt=salt, answers=answers):
        if move not in refused:
            return move
    return Rest(watch.round.phase_end or None)


def batch(
    move: Move,
    watch: Watch,
    findings: Findings,
    cases: Mapping[str, Case],
    *,
    salt: bytes,
    answers: bool = False,
    refused: Collection[Move] = (),
) -> tuple[Batched, ...]:
    """All that is sent together with the most urgent move, in the order of `moves`; empty for one that goes alone."""
    kinds = next((kinds for kinds in TOGETHER if isinstance(move, kinds)), None)
    if kinds is None:
        return ()
    due = (one for one in moves(watch, findings, cases, salt=salt, answers=answers) if one not in refused)
    return tuple(islice((one for one in due if isinstance(one, kinds)), MAX_AT_ONCE))


def moves(
    watch: Watch, findings: Findings, cases: Mapping[str, Case], *, salt: bytes, answers: bool = False
) -> Iterator[Move]:
    """All that there is to do at this block, the most urgent first. See `next_move`."""
    # What has a clock comes first, then what is owed to this watcher, then new work.
    yield from _own_games(watch, findings, cases, salt)
    yield from _announced(watch, findings, cases)
    yield from _expired(watch)
    yield from _against_updates(watch, findings, cases, salt)
    yield from _against_the_aggregate(watch, findings, cases, salt)
    if answers:
        yield from _answers(watch, findings)
    yield from _late_looks(watch, findings)
    yield from _refunds(watch)


def _own_games(watch: Watch, findings: Findings, cases: Mapping[str, Case], salt: bytes) -> Iterator[Move]:
    for open_game in watch.games:
        record, game = open_game.record, open_game.game
        if game.challenger != watch.me or _is_over(watch, game):
            continue
        if game.answers_turn or watch.now >= game.deadline:
            continue
        found = findings.games.get(record.game_id)
        if found is None or found.num_moves != len(record.moves):
            yield LookAtGame(open_game)
        elif found.pointer is not None:
            yield PointAt(record.game_id, *found.pointer)
        elif found.proof is not None:
            case = Case(Against.GAME, game.round, game.attempt, record.game_id, found.proof, salt)
            if case.key not in cases:
                yield OpenCase(case)


def _announced(watch: Watch, findings: Findings, cases: Mapping[str, Case]) -> Iterator[Move]:
    """Cases on their way: announce, wait for a block, prove, or forget."""
    for case in cases.values():
        if not _is_provable(watch, case):
            if case.against is not Against.AGGREGATE or _bond_of(watch, case) is None:
                yield Drop(case)
            continue
        announced = findings.announced.get(case.key)
        if announced is None:
            if watch.free_stake >= _bond_needed(watch, case):
                yield Announce(case)
        elif watch.block.number > announced:
            yield Prove(case)


def _is_provable(watch: Watch, case: Case) -> bool:
    view = watch.round
    if case.round != view.round or view.phase.is_terminal:
        return False
    if case.against is Against.UPDATE:
        return Phase.REVEAL <= view.phase <= Phase.DISPUTE
    if case.attempt != view.attempt or view.phase not in IS_POSTED:
        return False
    if case.against is Against.GAME:
        return any(g.record.game_id == case.subject and watch.now < g.game.deadline for g in watch.games)
    ends = view.posted_at + watch.task.windows.challenge + watch.task.windows.proof
    return watch.now < ends and (view.phase is Phase.CHALLENGE or _bond_of(watch, case) is not None)


def _bond_of(watch: Watch, case: Case) -> Challenge | None:
    """The bond that is locked for an aggregate's case, if it is announced."""
    same = (case.round, case.attempt)
    return next((c.challenge for c in watch.challenges if (c.challenge.round, c.challenge.attempt) == same), None)


def _bond_needed(watch: Watch, case: Case) -> int:
    locked = case.against is not Against.AGGREGATE or _bond_of(watch, case) is not None
    return 0 if locked else watch.task.economics.challenger_bond


def _expired(watch: Watch) -> Iterator[Move]:
    """Clocks that ran out: what anybody may say, this watcher's own first."""
    for open_game in watch.games:
        game = open_game.game
        if _is_over(watch, game) or watch.now < game.deadline:
            continue
        if game.challenger == watch.me or not game.answers_turn:
            yield EndGame(open_game.record.game_id)
    for demand in watch.demands:
        if watch.now >= demand.deadline and demand.challenger == watch.me:
            yield EndDemand(demand)


def _against_updates(watch: Watch, findings: Findings, cases: Mapping[str, Case], salt: bytes) -> Iterator[Move]:
    view = watch.round
    if view.phase in UPDATES_ARE_PUBLIC and _is_time_to_look(watch, findings):
        yield LookAtUpdates()
    for found in findings.updates.values():
        if found.is_open and len(watch.answers_for(found.index)) != found.num_answers:
            yield LookAtAnswers(found)
    for found in findings.updates.values():
        if found.state is Bytes.WRONG and found.proof is not None and Phase.REVEAL <= view.phase <= Phase.DISPUTE:
            case = Case(Against.UPDATE, view.round, 0, found.index, found.proof, salt)
            if case.key not in cases and case.key not in findings.announced:
                yield OpenCase(case)
    free = watch.free_stake
    for found in _to_ask_for(watch, findings):
        if _is_worth_asking(watch, findings, found, free):
            free -= demand_fee(watch, found)
            yield DemandChunk(found.index, found.suspect)


def _is_time_to_look(watch: Watch, findings: Findings) -> bool:
    """For updates not seen yet, and again each second for those that were not there."""
    missing = any(found.state is Bytes.MISSING for found in findings.updates.values())
    return (_is_unseen(watch, findings) or missing) and watch.now > findings.looked_at


def _late_looks(watch: Watch, findings: Findings) -> Iterator[Move]:
    """Where everybody is quick, a round is in Challenge before all of its updates have been looked at."""
    if watch.round.phase in IS_TALLIED and _is_unseen(watch, findings) and watch.now > findings.looked_at:
        yield LookAtUpdates()


def _is_unseen(watch: Watch, findings: Findings) -> bool:
    return len(findings.updates) < watch.round.revealed


def is_overdue(watch: Watch) -> bool:
    """Whether what is still on its way counts as withheld: a quarter of the window after a phase that needs it began.

    From then on it is late enough for slow stores, and early enough for what a demand or a game takes.
    """
    view, windows = watch.round, watch.task.windows
    if view.phase in IS_POSTED:
        return watch.now >= view.posted_at + windows.challenge // 4
    if view.phase is Phase.SCORE_COMMIT:
        return watch.now >= view.phase_end - windows.score_commit * 3 // 4
    return view.phase is not Phase.REVEAL


def _to_ask_for(watch: Watch, findings: Findings) -> Iterator[UpdateFinding]:
    """Updates to ask for on chain: wrong bytes at once, others when they are overdue; in Challenge those without which
    nobody can recompute."""
    view = watch.round
    is_early = view.phase in (Phase.REVEAL, Phase.SCORE_COMMIT)
    for index, found in sorted(findings.updates.items()):
        is_needed = view.phase is Phase.CHALLENGE and index in findings.unavailable
        is_due = is_early and (found.state is Bytes.WRONG or is_overdue(watch))
        if found.is_open and (is_needed or is_due):
            yield found


def _is_worth_asking(watch: Watch, findings: Findings, found: UpdateFinding, free: int) -> bool:
    """Whether to ask for the chunk that is suspect: once, and on as long as the answers lead to a lie about a sum.

    free: stake in wei that no other demand takes. The fee doubles each time. What was paid, with it, stays below what
    the slash would bring.
    """
    if any(demand.worker_index == found.index for demand in watch.demands):
        return False
    answers, is_late = watch.answers_for(found.index), watch.round.phase is Phase.CHALLENGE
    leads = found.leads and found.index not in findings.in_vain
    if not leads and any(answer.demand.is_late == is_late for answer in answers):
        return False
    fee = demand_fee(watch, found)
    paid = sum(answer.demand.fee for answer in answers if answer.demand.challenger == watch.me)
    return fee <= free and paid + fee < prize(watch, found)


def demand_fee(watch: Watch, found: UpdateFinding) -> int:
    """What the next demand for an update locks, in wei: twice as much as the one before, whoever asked."""
    open_ones = sum(demand.worker_index == found.index for demand in watch.demands)
    return watch.task.economics.demand_fee << (open_ones + len(watch.answers_for(found.index)))


def prize(watch: Watch, found: UpdateFinding) -> int:
    """What a demand for an update can bring at least, in wei: half of a slash, of the worker or of who vouched."""
    economics, is_late = watch.task.economics, watch.round.phase is Phase.CHALLENGE
    if found.leads or found.proof is not None:
        slash = economics.worker_stake * economics.range_slash_bps
    elif is_late:
        slash = economics.validator_stake * economics.vouch_slash_bps
    else:
        slash = economics.worker_stake * economics.withheld_slash_bps
    return slash // BPS // 2


def _against_the_aggregate(watch: Watch, findings: Findings, cases: Mapping[str, Case], salt: bytes) -> Iterator[Move]:
    view = watch.round
    if view.phase is not Phase.CHALLENGE or watch.posted is None:
        return
    found = findings.aggregate
    if found is None or found.attempt != view.attempt:
        if watch.now > findings.recomputed_at:
            yield LookAtAggregate()
        return
    if found.proof is not None:
        case = Case(Against.AGGREGATE, view.round, view.attempt, 0, found.proof, salt)
        if case.key not in cases and watch.free_stake >= watch.task.economics.challenger_bond:
            yield OpenCase(case)
    elif found.withheld is not None and not _plays(watch) and _can_bond(watch):
        yield StartGame(*found.withheld)


def _plays(watch: Watch) -> bool:
    return any(open_game.game.challenger == watch.me for open_game in watch.games)


def _can_bond(watch: Watch) -> bool:
    is_room = watch.round.games < MAX_OPEN_GAMES
    return is_room and watch.free_stake >= next_game_bond(watch)


def next_game_bond(watch: Watch) -> int:
    """What a game against the posted aggregate locks now, in wei: the more are open, the more."""
    return game_bond(watch.task.economics, watch.round.games)


def _answers(watch: Watch, findings: Findings) -> Iterator[Move]:
    """What this watcher has: chunks of updates that it checked, and nodes of an aggregate that it found right.

    The latest deadline first: whose bytes they are begins with the soonest, so that the work is shared.
    """
    due = [*_answerable_demands(watch, findings), *_answerable_games(watch, findings)]
    yield from (move for _, move in sorted(due, key=lambda one: one[0], reverse=True))


Place = tuple[int, int, int, int]
"""The deadline of what is asked, and what tells it from others with the same."""


def _answerable_demands(watch: Watch, findings: Findings) -> Iterator[tuple[Place, Move]]:
    for demand in watch.demands:
        found = findings.updates.get(demand.worker_index)
        if watch.now < demand.deadline and found is not None and found.state is Bytes.SOUND:
            yield (demand.deadline, 1, demand.worker_index, demand.chunk_index), AnswerDemand(demand)


def _answerable_games(watch: Watch, findings: Findings) -> Iterator[tuple[Place, Move]]:
    if watch.posted is None or findings.expected != watch.posted.claim:
        return
    for open_game in watch.games:
        game = open_game.game
        if game.answers_turn and watch.now < game.deadline and not _is_over(watch, game):
            yield (game.deadline, 0, open_game.record.game_id, 0), AnswerGame(open_game)


def sent_for(move: Move) -> tuple[str, str]:
    """What a move sends, now and later, in the contract's words; and what it is about. Empty for what sends nothing."""
    match move:
        case OpenCase(case=case) | Announce(case=case) | Prove(case=case):
            return _CASE_CALLS[case.against], _about(case)
        case StartGame():
            return "openGame", f"{move.target.name.lower()} {move.group}"
        case PointAt(game_id=game_id):
            return "pointAt", f"game {game_id}"
        case EndGame(game_id=game_id):
            return "closeGame", f"game {game_id}"
        case EndChallenge():
            return "closeChallenge", "a bond of one's own"
        case DemandChunk():
            return "demandChunk", f"chunk {move.chunk_index} of the update of worker {move.worker_index}"
        case EndDemand(demand=d):
            return "closeDemand", f"chunk {d.chunk_index} of the update of worker {d.worker_index}"
        case AnswerDemand(demand=d):
            return "answerDemand", f"chunk {d.chunk_index} of the update of worker {d.worker_index}"
        case AnswerGame(game=game):
            return "answerNodes" if game.game.height else "answerChunk", f"game {game.record.game_id}"
        case _:
            return "", ""


_CASE_CALLS = {
    Against.UPDATE: "commitProof, proveUpdate",
    Against.GAME: "commitProof, proveInGame",
    Against.AGGREGATE: "commitChallenge, proveAggregate",
}


def _about(case: Case) -> str:
    match case.against:
        case Against.UPDATE:
            return f"the update of worker {case.subject}"
        case Against.GAME:
            return f"game {case.subject}"
        case Against.AGGREGATE:
            return f"attempt {case.attempt} at the aggregate"


def _refunds(watch: Watch) -> Iterator[Move]:
    for own in watch.challenges:
        if own.verdict is not Verdict.OPEN:
            yield EndChallenge(own.challenge)
    for open_game in watch.games:
        if open_game.game.challenger == watch.me and _is_over(watch, open_game.game):
            yield EndGame(open_game.record.game_id)


def _is_over(watch: Watch, game: Game) -> bool:
    """Whether the attempt that the game is about has fallen, or the round is past."""
    view = watch.round
    return (game.round, game.attempt) != (view.round, view.attempt) or view.phase not in IS_POSTED
