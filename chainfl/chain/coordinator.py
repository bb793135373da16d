"""The TaskCoordinator's functions with Python's types."""

from __future__ import annotations

from collections.abc import Sequence

from chainfl.chain.client import Call
from chainfl.chain.contracts import Contract, Transaction
from chainfl.tasks.state import (
    CidOnChain,
    Claim,
    Demand,
    Game,
    Member,
    Role,
    RoundView,
    Target,
    TaskParams,
    TaskView,
    Verdict,
)
from chainfl.types import Address, Root, TaskId, Wei


class Coordinator(Contract):
    """Reads and transactions of the coordinator at an address."""

    __slots__ = ()

    def __init__(self, address: Address) -> None:
        super().__init__("TaskCoordinator", address)

    def num_tasks(self) -> Call:
        return self.call("numTasks", target=int)

    def task(self, task_id: TaskId) -> Call:
        return self.call("taskOf", task_id, target=TaskView)

    def round(self, task_id: TaskId) -> Call:
        return self.call("roundOf", task_id, target=RoundView)

    def phase(self, task_id: TaskId) -> Call:
        return self.call("phaseOf", task_id)

    def member(self, task_id: TaskId, role: Role, account: Address) -> Call:
        return self.call("memberOf", task_id, int(role), account, target=Member)

    def reputation(self, task_id: TaskId, worker: Address) -> Call:
        return self.call("workerReputationOf", task_id, worker, target=int)

    def members(self, task_id: TaskId, role: Role) -> Call:
        return self.call("membersOf", task_id, int(role))

    def create_task(self, params: TaskParams) -> Transaction:
        return self.transaction("createTask", params)

    def cancel_task(self, task_id: TaskId) -> Transaction:
        return self.transaction("cancelTask", task_id)

    def enrol(self, task_id: TaskId, role: Role, stake: Wei) -> Transaction:
        return self.transaction("enrol", task_id, int(role), stake)

    def start_task(self, task_id: TaskId) -> Transaction:
        return self.transaction("startTask", task_id)

    def leave(self, task_id: TaskId, role: Role) -> Transaction:
        return self.transaction("leave", task_id, int(role))

    def rejoin(self, task_id: TaskId, role: Role) -> Transaction:
        return self.transaction("rejoin", task_id, int(role))

    def commit_update(self, task_id: TaskId, round_number: int, commitment: bytes) -> Transaction:
        return self.transaction("commitUpdate", task_id, round_number, commitment)

    def reveal_update(
        self,
        task_id: TaskId,
        round_number: int,
        root: Root,
        cid: CidOnChain,
        squared_norm: int,
        num_examples: int,
        salt: bytes,
    ) -> Transaction:
        return self.transaction("revealUpdate", task_id, round_number, root, cid, squared_norm, num_examples, salt)

    def commit_scores(self, task_id: TaskId, round_number: int, commitment: bytes) -> Transaction:
        return self.transaction("commitScores", task_id, round_number, commitment)

    def reveal_scores(self, task_id: TaskId, round_number: int, votes: bytes, salt: bytes) -> Transaction:
        return self.transaction("revealScores", task_id, round_number, votes, salt)

    def draw_workers(self, task_id: TaskId) -> Transaction:
        return self.transaction("drawWorkers", task_id)

    def tally(self, task_id: TaskId, max_workers: int) -> Transaction:
        return self.transaction("tally", task_id, max_workers)

    def draw_order(self, task_id: TaskId) -> Transaction:
        return self.transaction("drawOrder", task_id)

    def commit_aggregate(self, task_id: TaskId, round_number: int, commitment: bytes) -> Transaction:
        return self.transaction("commitAggregate", task_id, round_number, commitment)

    def post_aggregate(
        self,
        task_id: TaskId,
        round_number: int,
        claim: Claim,
        cid: CidOnChain,
        float_cid: CidOnChain,
        salt: bytes,
    ) -> Transaction:
        return self.transaction("postAggregate", task_id, round_number, claim, cid, float_cid, salt)

    def settle(self, task_id: TaskId, max_workers: int) -> Transaction:
        return self.transaction("settle", task_id, max_workers)

    # --- disputes ---------------------------------------------------------------------------------

    def verdict(self, task_id: TaskId, round_number: int, attempt: int) -> Call:
        return self.call("verdictOf", task_id, round_number, attempt, target=Verdict)

    def challenge(self, task_id: TaskId, challenger: Address, commitment: bytes) -> Call:
        return self.call("challengeOf", task_id, challenger, commitment)

    def game(self, task_id: TaskId, game_id: int) -> Call:
        return self.call("gameOf", task_id, game_id, target=Game)

    def demand(self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int) -> Call:
        return self.call("demandOf", task_id, round_number, worker_index, chunk_index, target=Demand)

    def is_refuted(self, task_id: TaskId, round_number: int, worker_index: int) -> Call:
        return self.call("isRefuted", task_id, round_number, worker_index, target=bool)

    def is_excluded(self, task_id: TaskId, round_number: int, account: Address) -> Call:
        return self.call("isExcluded", task_id, round_number, account, target=bool)

    def accepted_hash(self, task_id: TaskId, group: int) -> Call:
        return self.call("acceptedHash", task_id, group, target=bytes)

    def commit_challenge(self, task_id: TaskId, round_number: int, attempt: int, commitment: bytes) -> Transaction:
        return self.transaction("commitChallenge", task_id, round_number, attempt, commitment)

    def prove_aggregate(
        self, task_id: TaskId, round_number: int, attempt: int, proof: bytes, salt: bytes
    ) -> Transaction:
        return self.transaction("proveAggregate", task_id, round_number, attempt, proof, salt)

    def close_challenge(self, task_id: TaskId, challenger: Address, commitment: bytes) -> Transaction:
        return self.transaction("closeChallenge", task_id, challenger, commitment)

    def open_game(
        self,
        task_id: TaskId,
        round_number: int,
        attempt: int,
        target: Target,
        group: int,
        group_roots: Sequence[Root],
        own_root: Root,
    ) -> Transaction:
        return self.transaction(
            "openGame", task_id, round_number, attempt, int(target), group, list(group_roots), own_root
        )

    def answer_nodes(self, task_id: TaskId, game_id: int, nodes: bytes) -> Transaction:
        return self.transaction("answerNodes", task_id, game_id, nodes)

    def point_at(
        self, task_id: TaskId, game_id: int, child: int, node: bytes, siblings: Sequence[bytes]
    ) -> Transaction:
        return self.transaction("pointAt", task_id, game_id, child, node, list(siblings))

    def answer_chunk(self, task_id: TaskId, game_id: int, chunk: bytes) -> Transaction:
        return self.transaction("answerChunk", task_id, game_id, chunk)

    def prove_in_game(self, task_id: TaskId, game_id: int, proof: bytes, salt: bytes) -> Transaction:
        return self.transaction("proveInGame", task_id, game_id, proof, salt)

    def close_game(self, task_id: TaskId, game_id: int) -> Transaction:
        return self.transaction("closeGame", task_id, game_id)

    def commit_proof(self, task_id: TaskId, commitment: bytes) -> Transaction:
        return self.transaction("commitProof", task_id, commitment)

    def prove_update(self, task_id: TaskId, round_number: int, proof: bytes, salt: bytes) -> Transaction:
        return self.transaction("proveUpdate", task_id, round_number, proof, salt)

    def demand_chunk(self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int) -> Transaction:
        return self.transaction("demandChunk", task_id, round_number, worker_index, chunk_index)

    def answer_demand(
        self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int, opening: bytes
    ) -> Transaction:
        return self.transaction("answerDemand", task_id, round_number, worker_index, chunk_index, opening)

    def close_demand(self, task_id: TaskId, round_number: int, worker_index: int, chunk_index: int) -> Transaction:
        return self.transaction("closeDemand", task_id, round_number, worker_index, chunk_index)
