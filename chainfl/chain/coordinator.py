"""The TaskCoordinator's functions with Python's types."""

from __future__ import annotations

from chainfl.chain.client import Call
from chainfl.chain.contracts import Contract, Transaction
from chainfl.tasks.state import CidOnChain, Member, Role, RoundView, TaskParams, TaskView
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
        model_root: Root,
        cid: CidOnChain,
        float_cid: CidOnChain,
        salt: bytes,
    ) -> Transaction:
        return self.transaction("postAggregate", task_id, round_number, model_root, cid, float_cid, salt)

    def settle(self, task_id: TaskId, max_workers: int) -> Transaction:
        return self.transaction("settle", task_id, max_workers)
