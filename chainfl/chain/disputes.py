"""The part of `ChainPort` about disputes: challenges, games, demands, and what their events say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from chainfl.agents.ports import (
    AnsweredDemand,
    ChunkAnswer,
    ChunkDemand,
    DemandAnswer,
    DisputeStep,
    NodesAnswer,
    SendResult,
)
from chainfl.chain.client import ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.coordinator import Coordinator
from chainfl.chain.events import Log, LogFilter, Topic, scan_logs
from chainfl.errors import NodeBehind
from chainfl.tasks.state import (
    AggregateRefutation,
    Block,
    Challenge,
    ChunkAnswered,
    CidOnChain,
    Claim,
    Demand,
    Game,
    GameMove,
    GameRecord,
    NodePointed,
    NodesAnswered,
    PostedAggregate,
    RoundView,
    Target,
    UpdateRefutation,
    Verdict,
)
from chainfl.types import Address, Root, TaskId, Wei

_GAMES_A_BATCH: Final = 32
_GAME_EVENTS: Final = ("GameOpened", "NodesAnswered", "NodePointed", "ChunkAnswered", "GameClosed")


class DisputeCalls(ABC):
    """Reads, event reads and sends; mixed into the port. Event reads scan from a block, less a reorg window."""

    client: ChainClient
    contract: Coordinator
    reorg_depth: int

    @abstractmethod
    def send(self, transaction: Transaction) -> SendResult:
        """Simulates, sends and waits."""

    @abstractmethod
    def send_all(self, transactions: Sequence[Transaction]) -> tuple[SendResult, ...]:
        """The same for many at a time; see TransactionSender.send_all."""

    # --- reading ----------------------------------------------------------------------------------

    def verdict(self, task_id: TaskId, round_number: int, attempt: int, block: Block | None = None) -> Verdict:
        """What became of an attempt at a round's aggregate."""
        found: Verdict = self.client.read(self.contract.verdict(task_id, round_number, attempt), block)
        return found

    def challenge(
        self, task_id: TaskId, challenger: Address, commitment: bytes, block: Block | None = None
    ) -> Challenge:
        """A commitment to a proof; bond 0 when it is over, or when there was none."""
        found = self.client.read(self.contract.challenge(task_id, challenger, commitment), block)
        return _challenge(challenger, commitment, found)

    def game(self, task_id: TaskId, game_id: int, block: Block | None = None) -> Game:
        """One game; all zero when there was none."""
        found: Game = self.client.read(self.contract.game(task_id, game_id), block)
        return found

    def demand(
        self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int, block: Block | None = None
    ) -> Demand:
        """One demand; all zero when there was none."""
        call = self.contract.demand(task_id, round_number, worker_index, chunk_index)
        found: Demand = self.client.read(call, block)
        return found

    def is_refuted(self, task_id: TaskId, round_number: int, worker_index: int, block: Block | None = None) -> bool:
        """Whether the worker's update was refuted, or not delivered, in that round."""
        return bool(self.client.read(self.contract.is_refuted(task_id, round_number, worker_index), block))

    def is_excluded(self, task_id: TaskId, round_number: int, account: Address, block: Block | None = None) -> bool:
        """Whether the account's aggregate was refuted in that round."""
        return bool(self.client.read(self.contract.is_excluded(task_id, round_number, account), block))

    def accepted_hash(self, task_id: TaskId, group: int, block: Block | None = None) -> bytes:
        """What the proofs chain the accepted updates of a group to."""
        return bytes(self.client.read(self.contract.accepted_hash(task_id, group), block))

    def open_games(self, task_id: TaskId, block: Block | None = None) -> tuple[tuple[int, Game], ...]:
        """The games of the current attempt that are not over, with their numbers, oldest first; without events."""
        at = block or self.client.block()
        view: RoundView = self.client.read(self.contract.round(task_id), at)
        found: list[tuple[int, Game]] = []
        last = view.num_games
        while last > 0 and len(found) < view.games:
            numbers = range(max(0, last - _GAMES_A_BATCH), last)
            games = self.client.read_all([self.contract.game(task_id, number) for number in numbers], at)
            current = [
                (number, game)
                for number, game in zip(numbers, games, strict=True)
                if game.is_open and (game.round, game.attempt) == (view.round, view.attempt)
            ]
            found = current + found
            last = numbers.start
        return tuple(found)

    def open_demands(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[Demand, ...]:
        """The round's demands that are neither answered nor closed, in the order in which they were made."""
        block = self.client.block()
        events = self._dispute_events(("ChunkDemanded",), from_block, block, task_id=task_id, round=round_number)
        keys = [(event["worker_index"], event["chunk_index"]) for _, _, event in events]
        calls = [self.contract.demand(task_id, round_number, worker, chunk) for worker, chunk in keys]
        return tuple(demand for demand in self.client.read_all(calls, block) if demand.is_open)

    def challenges(self, task_id: TaskId, from_block: int, challenger: Address | None = None) -> tuple[Challenge, ...]:
        """Commitments to proofs that still hold a bond, oldest first; of one challenger if one is named."""
        block = self.client.block()
        topics: dict[str, int | str] = {"task_id": task_id}
        if challenger is not None:
            topics["challenger"] = challenger
        events = self._dispute_events(("ChallengeCommitted",), from_block, block, **topics)
        keys = [(Address(event["challenger"]), bytes(event["commitment"])) for _, _, event in events]
        found = self.client.read_all([self.contract.challenge(task_id, who, what) for who, what in keys], block)
        told = (_challenge(who, what, values) for (who, what), values in zip(keys, found, strict=True))
        return tuple(challenge for challenge in told if challenge.bond > 0)

    # --- events -----------------------------------------------------------------------------------

    def answered_demands(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[AnsweredDemand, ...]:
        """The round's demands that were answered, in the order of the answers. Raises NodeBehind."""
        block, names = self.client.block(), ("ChunkDemanded", "DemandAnswered")
        events = self._dispute_events(names, from_block, block, task_id=task_id, round=round_number)
        asked = {_place(event): event["worker_index"] for name, _, event in events if name == "ChunkDemanded"}
        answers = [event for name, _, event in events if name == "DemandAnswered"]
        if any(_place(event) not in asked for event in answers):
            raise NodeBehind("the node shows an answer, but not the demand that it answers")
        calls = [
            self.contract.demand(task_id, round_number, asked[_place(event)], event["chunk_index"]) for event in answers
        ]
        told = zip(self.client.read_all(calls, block), answers, strict=True)
        return tuple(AnsweredDemand(demand, event["answerer"], bytes(event["opening"])) for demand, event in told)

    def posted_aggregates(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[PostedAggregate, ...]:
        """Every claim of the round, one an attempt, in their order."""
        event = self.contract.event("AggregatePosted")
        logs = self._coordinator_logs(tuple(event.topics(task_id=task_id, round=round_number)), from_block)
        values = (
            (log, event.decode(log.topics, log.data, claim=Claim, cid=CidOnChain, float_cid=CidOnChain)) for log in logs
        )
        return tuple(
            PostedAggregate(
                round_number, e["attempt"], e["aggregator"], e["claim"], e["cid"], e["float_cid"], log.block_number
            )
            for log, e in values
        )

    def games(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[GameRecord, ...]:
        """The round's games with all their moves, oldest first."""
        block = self.client.block()
        opened: dict[int, Mapping[str, Any]] = {}
        moves: defaultdict[int, list[GameMove]] = defaultdict(list)
        closed: dict[int, bool] = {}
        for name, _, event in self._dispute_events(_GAME_EVENTS, from_block, block, task_id=task_id):
            number = event["game_id"]
            if name == "GameOpened" and event["round"] == round_number:
                opened[number] = event
            elif name == "GameClosed":
                closed[number] = event["is_lost"]
            elif name != "GameOpened":
                moves[number].append(_move(name, event))
        return tuple(_game(event, moves[number], closed.get(number)) for number, event in sorted(opened.items()))

    def refuted_aggregates(
        self, task_id: TaskId, from_block: int, round_number: int | None = None
    ) -> tuple[AggregateRefutation, ...]:
        """Attempts that fell, oldest first."""
        block = self.client.block()
        topics = {"task_id": task_id} | ({} if round_number is None else {"round": round_number})
        return tuple(
            AggregateRefutation(
                e["round"], e["attempt"], e["aggregator"], e["challenger"], reason_text(e["reason"]), log.block_number
            )
            for _, log, e in self._dispute_events(("AggregateRefuted",), from_block, block, **topics)
        )

    def refuted_updates(
        self, task_id: TaskId, from_block: int, round_number: int | None = None
    ) -> tuple[UpdateRefutation, ...]:
        """Updates that were proven wrong or not delivered, oldest first."""
        block = self.client.block()
        topics = {"task_id": task_id} | ({} if round_number is None else {"round": round_number})
        return tuple(
            UpdateRefutation(e["round"], e["worker"], e["challenger"], reason_text(e["reason"]), log.block_number)
            for _, log, e in self._dispute_events(("UpdateRefuted",), from_block, block, **topics)
        )

    def _dispute_events(
        self, names: Sequence[str], from_block: int, to: Block, **indexed: int | str
    ) -> list[tuple[str, Log, dict[str, Any]]]:
        """(name, log, values) of the events of these names, in order. indexed: what all of them index alike."""
        events = {name: self.contract.event(name) for name in names}
        first, *rest = next(iter(events.values())).topics(**indexed)
        # A filter that is longer than a log's topics excludes the log, whatever it asks of them.
        while rest and rest[-1] is None:
            rest.pop()
        topics: tuple[Topic, ...] = (tuple("0x" + event.topic.hex() for event in events.values()), *rest)
        by_topic = {event.topic: event for event in events.values()}
        logs = self._coordinator_logs(topics if len(names) > 1 else (first, *rest), from_block, to)
        known = [(by_topic[log.topics[0]], log) for log in logs if log.topics and log.topics[0] in by_topic]
        return [(event.name, log, event.decode(log.topics, log.data)) for event, log in known]

    def _coordinator_logs(self, topics: tuple[Topic, ...], from_block: int, to: Block | None = None) -> tuple[Log, ...]:
        wanted = LogFilter((self.contract.address,), topics)
        return scan_logs(self.client, wanted, from_block, reorg_depth=self.reorg_depth, to=to)

    # --- sending ----------------------------------------------------------------------------------

    def commit_challenge(self, task_id: TaskId, round_number: int, attempt: int, commitment: bytes) -> SendResult:
        return self.send(self.contract.commit_challenge(task_id, round_number, attempt, commitment))

    def prove_aggregate(
        self, task_id: TaskId, round_number: int, attempt: int, proof: bytes, salt: bytes
    ) -> SendResult:
        return self.send(self.contract.prove_aggregate(task_id, round_number, attempt, proof, salt))

    def close_challenge(self, task_id: TaskId, challenger: Address, commitment: bytes) -> SendResult:
        return self.send(self.contract.close_challenge(task_id, challenger, commitment))

    def open_game(
        self,
        task_id: TaskId,
        round_number: int,
        attempt: int,
        target: Target,
        group: int,
        group_roots: Sequence[Root],
        own_root: Root,
    ) -> SendResult:
        """Disputes a root. The number of the game is in its event; see `games`."""
        return self.send(self.contract.open_game(task_id, round_number, attempt, target, group, group_roots, own_root))

    def answer_nodes(self, task_id: TaskId, game_id: int, nodes: bytes) -> SendResult:
        return self.send(self.contract.answer_nodes(task_id, game_id, nodes))

    def point_at(self, task_id: TaskId, game_id: int, child: int, node: bytes, siblings: Sequence[bytes]) -> SendResult:
        return self.send(self.contract.point_at(task_id, game_id, child, node, siblings))

    def answer_chunk(self, task_id: TaskId, game_id: int, chunk: bytes) -> SendResult:
        return self.send(self.contract.answer_chunk(task_id, game_id, chunk))

    def prove_in_game(self, task_id: TaskId, game_id: int, proof: bytes, salt: bytes) -> SendResult:
        return self.send(self.contract.prove_in_game(task_id, game_id, proof, salt))

    def close_game(self, task_id: TaskId, game_id: int) -> SendResult:
        return self.send(self.contract.close_game(task_id, game_id))

    def commit_proof(self, task_id: TaskId, commitment: bytes) -> SendResult:
        return self.send(self.contract.commit_proof(task_id, commitment))

    def prove_update(self, task_id: TaskId, round_number: int, proof: bytes, salt: bytes) -> SendResult:
        return self.send(self.contract.prove_update(task_id, round_number, proof, salt))

    def demand_chunk(self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int) -> SendResult:
        return self.send(self.contract.demand_chunk(task_id, round_number, worker_index, chunk_index))

    def answer_demand(
        self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int, opening: bytes
    ) -> SendResult:
        return self.send(self.contract.answer_demand(task_id, round_number, worker_index, chunk_index, opening))

    def close_demand(self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int) -> SendResult:
        return self.send(self.contract.close_demand(task_id, round_number, worker_index, chunk_index))

    def dispute_all(self, task_id: TaskId, steps: Sequence[DisputeStep]) -> tuple[SendResult, ...]:
        """Sends all of them before it waits for any. returns: what became of the first ones, in their order."""
        return self.send_all([self._transaction_of(task_id, step) for step in steps])

    def _transaction_of(self, task_id: TaskId, step: DisputeStep) -> Transaction:
        match step:
            case NodesAnswer(game_id=game_id, nodes=nodes):
                return self.contract.answer_nodes(task_id, game_id, nodes)
            case ChunkAnswer(game_id=game_id, chunk=chunk):
                return self.contract.answer_chunk(task_id, game_id, chunk)
            case DemandAnswer():
                return self.contract.answer_demand(
                    task_id, step.round, step.worker_index, step.chunk_index, step.opening
                )
            case ChunkDemand():
                return self.contract.demand_chunk(task_id, step.round, step.worker_index, step.chunk_index)


def reason_text(reason: bytes) -> str:
    """The contract's own word for why, such as `no reveal`."""
    return bytes(reason).rstrip(b"\0").decode("ascii", errors="replace")


def _place(event: Mapping[str, Any]) -> tuple[Address, int]:
    """Which chunk of whose update a demand's event is about."""
    return event["worker"], event["chunk_index"]


def _challenge(challenger: Address, commitment: bytes, values: Mapping[str, Any]) -> Challenge:
    return Challenge(
        challenger, commitment, values["round"], values["attempt"], Wei(values["bond"]), values["block_number"]
    )


def _move(name: str, event: Mapping[str, Any]) -> GameMove:
    match name:
        case "NodesAnswered":
            return NodesAnswered(event["answerer"], bytes(event["nodes"]))
        case "ChunkAnswered":
            return ChunkAnswered(event["answerer"], bytes(event["chunk"]))
        case _:
            return NodePointed(event["height"], event["index"])


def _game(event: Mapping[str, Any], moves: Sequence[GameMove], is_lost: bool | None) -> GameRecord:
    return GameRecord(
        event["game_id"],
        event["challenger"],
        event["round"],
        event["attempt"],
        Target(event["target"]),
        event["group"],
        Root(event["own_root"]),
        tuple(moves),
        is_lost,
    )
