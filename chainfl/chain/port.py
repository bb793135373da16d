"""The chain as one account sees it: `ChainPort` over web3 for the agents."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Self

from chainfl.agents.ports import SendResult, Slash
from chainfl.chain.client import Call, ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.coordinator import Coordinator
from chainfl.chain.deployment import Deployment, check_deployment
from chainfl.chain.disputes import DisputeCalls, reason_text
from chainfl.chain.draws import DRAW_EVENTS, replay_draw
from chainfl.chain.events import Log, LogFilter, scan_logs
from chainfl.chain.keys import Signer
from chainfl.chain.model_registry import Registry
from chainfl.chain.networks import network_of_chain
from chainfl.chain.records import Model
from chainfl.chain.token import Token
from chainfl.chain.transactions import GasBudget, TransactionSender, offer_fees
from chainfl.chain.vault import Vault
from chainfl.errors import ChainError, NodeBehind, UsageError
from chainfl.tasks.state import (
    ZERO_ADDRESS,
    Block,
    CidOnChain,
    Claim,
    Member,
    Phase,
    Pulse,
    RevealedUpdate,
    Role,
    RoundView,
    Snapshot,
    TalliedUpdate,
    TaskParams,
    TaskView,
    WorkerDraw,
)
from chainfl.types import Address, ModelId, Root, TaskId, Wei

_VERSIONS_A_BATCH: Final = 32


class Web3ChainPort(DisputeCalls):
    """Implements `ChainPort`. Without a signer it reads, as `account` if one is named.

    reorg_depth: None for the network's own. receipt_timeout_s: how long a send waits before it answers TimedOut.
    """

    def __init__(
        self,
        client: ChainClient,
        deployment: Deployment,
        signer: Signer | None = None,
        *,
        account: Address | None = None,
        budget: GasBudget | None = None,
        receipt_timeout_s: float = 180.0,
        reorg_depth: int | None = None,
    ) -> None:
        self.client = client
        self.deployment = deployment
        network = network_of_chain(deployment.chain_id)
        self.sender = TransactionSender(
            client,
            signer,
            account=account,
            budget=budget,
            op_stack=network.op_stack,
            receipt_timeout_s=receipt_timeout_s,
        )
        self.contract = Coordinator(deployment.coordinator)
        self.vault = Vault(deployment.vault)
        self.registry = Registry(deployment.registry)
        self.token = Token(deployment.token)
        self.reorg_depth = network.reorg_depth if reorg_depth is None else reorg_depth
        self._tasks: dict[TaskId, TaskView] = {}

    def check(self) -> None:
        """Raises WrongChainId, NoContract, WrongContractVersion or DeploymentInvalid when something is off."""
        check_deployment(self.client, self.deployment)

    def dry_run(self) -> Self:
        """The same view, but every send answers DryRun or WouldRevert and nothing is sent."""
        other = copy.copy(self)
        other.sender = self.sender.as_dry_run()
        return other

    @property
    def account(self) -> Address:
        """Whose view this is. Raises KeyfileError when it was opened for reading alone."""
        return self.sender.account

    @property
    def chain_id(self) -> int:
        """The chain's id, as the endpoint says it. Raises WrongChainId when it is not the deployment's."""
        return self.client.chain_id

    @property
    def coordinator(self) -> Address:
        """The coordinator's address, part of every commitment."""
        return self.deployment.coordinator

    # --- reading ----------------------------------------------------------------------------------

    def latest_block(self) -> Block:
        """The newest block."""
        return self.client.block()

    def wait_for_block(self, after: int, timeout_s: float) -> Block:
        """The newest block; returns once its number exceeds `after`, or at the timeout."""
        return self.client.wait_for_block(after, timeout_s)

    def num_tasks(self) -> int:
        """How many tasks there are; their ids run from 1."""
        return int(self.client.read(self.contract.num_tasks()))

    def task(self, task_id: TaskId) -> TaskView:
        """The fixed part of a task. Raises UsageError when there is no such task."""
        if task_id in self._tasks:
            return self._tasks[task_id]
        block = self.client.block()
        return self._remember(task_id, self.client.read(self.contract.task(task_id), block), block)

    def task_params(self, task_id: TaskId) -> TaskParams:
        """Everything that the task was created with. Raises ChainError when the endpoint lost the event."""
        task, event = self.task(task_id), self.contract.event("TaskCreated")
        wanted = LogFilter((self.contract.address,), tuple(event.topics(task_id=task_id)))
        logs = scan_logs(
            self.client, wanted, task.created_block, reorg_depth=0, to=self.client.block(task.created_block)
        )
        if len(logs) != 1:
            raise ChainError(f"the endpoint has {len(logs)} events of the creation of task {task_id}, not one")
        params: TaskParams = event.decode(logs[0].topics, logs[0].data, params=TaskParams)["params"]
        return params

    def round(self, task_id: TaskId, block: Block | None = None) -> RoundView:
        """The moving part of a task."""
        view: RoundView = self.client.read(self.contract.round(task_id), block)
        return view

    def phase(self, task_id: TaskId, block: Block | None = None) -> tuple[Phase, int]:
        """The phase and when it ends by itself (0: only an action ends it)."""
        found = self.client.read(self.contract.phase(task_id), block)
        return Phase(found["phase"]), int(found["phase_end"])

    def pulse(self, task_id: TaskId, block: Block | None = None) -> Pulse:
        """The little of the round by which an agent that waits sees that it should look again."""
        view = self.round(task_id, block)
        return Pulse(view.phase, view.phase_end, view.attempt, view.demands, view.games)

    def gas_price_wei(self) -> int:
        """What a unit of gas costs now: the newest block's base fee and the tip that the endpoint suggests."""
        header, tip = self.client.header(), self.client.try_request("eth_maxPriorityFeePerGas")
        fees = offer_fees(header, tip)
        return int(header["baseFeePerGas"], 16) + fees.priority_fee_wei

    def snapshot(self, task_id: TaskId, role: Role, block: Block | None = None) -> Snapshot:
        """Everything that the account needs to decide in its role, at one block and in one round trip."""
        at = block or self.client.block()
        known = self._tasks.get(task_id)
        calls: list[Call] = [
            self.contract.round(task_id),
            self.contract.member(task_id, role, self.account),
            self.vault.free_of(self.account),
            self.vault.credit_of(self.account),
        ]
        values = self.client.read_all(calls if known else [*calls, self.contract.task(task_id)], at)
        task = known or self._remember(task_id, values[4], at)
        return Snapshot(at, task_id, task, values[0], values[1], Wei(values[2]), Wei(values[3]))

    def members(self, task_id: TaskId, role: Role, block: Block | None = None) -> tuple[Address, ...]:
        """All accounts that ever enrolled in the role, in their order on chain."""
        found: tuple[Address, ...] = self.client.read(self.contract.members(task_id, role), block)
        return found

    def member(self, task_id: TaskId, role: Role, account: Address, block: Block | None = None) -> Member:
        """One account's part in the task; all zero when it never enrolled."""
        found: Member = self.client.read(self.contract.member(task_id, role, account), block)
        return found

    def all_members(self, task_id: TaskId, role: Role, block: Block | None = None) -> dict[Address, Member]:
        """Every account of a role with its part, at one block."""
        at = block or self.client.block()
        accounts = self.members(task_id, role, at)
        parts = self.client.read_all([self.contract.member(task_id, role, account) for account in accounts], at)
        return dict(zip(accounts, parts, strict=True))

    def revealed_updates(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[RevealedUpdate, ...]:
        """The round's updates in the order of `members(WORKER)`. Scans from `from_block`, less a reorg window."""
        events = self._worker_events("UpdateRevealed", task_id, round_number, from_block)
        return tuple(
            RevealedUpdate(e["worker"], Root(e["root"]), CidOnChain(**e["cid"]), e["squared_norm"], e["num_examples"])
            for e in events
        )

    def tallied_updates(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[TalliedUpdate, ...]:
        """The round's medians in the order of `members(WORKER)`. Scans from `from_block`, less a reorg window."""
        events = self._worker_events("UpdateTallied", task_id, round_number, from_block)
        return tuple(TalliedUpdate(e["worker"], Root(e["root"]), e["weight"], e["score"]) for e in events)

    def slashes(self, task_id: TaskId, account: Address | None, from_block: int) -> tuple[Slash, ...]:
        """What the account (None: everybody) lost in the task since `from_block`, oldest first."""
        event = self.contract.event("Slashed")
        whose: dict[str, int | str] = {"task_id": task_id}
        if account is not None:
            whose["account"] = account
        wanted = LogFilter((self.contract.address,), tuple(event.topics(**whose)))
        logs = scan_logs(self.client, wanted, from_block, reorg_depth=self.reorg_depth)
        return tuple(_slash(log, event.decode(log.topics, log.data)) for log in logs)

    def worker_draw(self, task_id: TaskId, round_number: int) -> WorkerDraw | None:
        """Who was drawn for the round and what it went by, from the task's events; None before the draw."""
        task, head = self.task(task_id), self.client.block()
        events = self._dispute_events(DRAW_EVENTS, task.created_block, head, task_id=task_id)
        found = replay_draw(events, round_number, task.draw.by)
        return None if found is None else replace(found, seed=self.client.block(found.seed_block).hash)

    def last_commit_hash(self, task_id: TaskId, round_number: int) -> bytes:
        """Of the block with the round's last commitment to an update; empty without one.

        Raises NodeBehind when the endpoint shows fewer commitments of the current round than it has counted.
        """
        block = self.client.block()
        view = self.round(task_id, block)
        is_current = view.round == round_number
        start = view.opened_block if is_current else self.task(task_id).created_block
        events = self._dispute_events(("UpdateCommitted",), start, block, task_id=task_id, round=round_number)
        if is_current and len(events) < view.committed:
            raise NodeBehind(f"the node shows {len(events)} of {view.committed} commitments of round {round_number}")
        return events[-1][1].block_hash if events else b""

    def model_location(self, task_id: TaskId, round_number: int) -> tuple[Root, CidOnChain]:
        """Root and exact CID of the task's newest final model at or before `round_number` (0: genesis)."""
        block = self.client.block()
        for last in range(round_number, -1, -_VERSIONS_A_BATCH):
            rounds = range(last, max(-1, last - _VERSIONS_A_BATCH), -1)
            found = self._existing_models(task_id, rounds, block)
            if found:
                model = self.client.read(self.registry.model(found[0]), block)
                return model.model_root, model.cid
        raise UsageError(f"task {task_id} does not exist", task_id=task_id)

    def model_files(self, task_id: TaskId, from_block: int) -> frozenset[CidOnChain]:
        """The CIDs of all versions of the task's model, the genesis with them, each with its float32 file's."""
        event = self.registry.event("ModelRegistered")
        wanted = LogFilter((self.registry.address,), tuple(event.topics(task_id=task_id)))
        logs = scan_logs(self.client, wanted, from_block, reorg_depth=self.reorg_depth)
        models: list[Model] = [event.decode(log.topics, log.data, model=Model)["model"] for log in logs]
        return frozenset(cid for model in models for cid in (model.cid, model.float_cid))

    def _existing_models(self, task_id: TaskId, rounds: Sequence[int], block: Block) -> list[ModelId]:
        """The registered models among the rounds, in the order given."""
        ids = self.client.read_all([self.registry.model_id(task_id, number) for number in rounds], block)
        exist = self.client.read_all([self.registry.exists(ModelId(model_id)) for model_id in ids], block)
        return [ModelId(model_id) for model_id, is_there in zip(ids, exist, strict=True) if is_there]

    def _remember(self, task_id: TaskId, task: TaskView, block: Block) -> TaskView:
        """Keeps a task's fixed part once no reorg can take it back. Raises UsageError for one that is not there."""
        if task.requester == ZERO_ADDRESS:
            raise UsageError(f"task {task_id} does not exist", task_id=task_id)
        if block.number - task.created_block > self.reorg_depth:
            self._tasks[task_id] = task
        return task

    def _worker_events(self, name: str, task_id: TaskId, round_number: int, from_block: int) -> list[dict[str, Any]]:
        """One event a worker and round, ordered like the coordinator's list of workers."""
        event = self.contract.event(name)
        topics = event.topics(task_id=task_id, round=round_number)
        wanted = LogFilter((self.contract.address,), tuple(topics))
        block = self.client.block()
        logs = scan_logs(self.client, wanted, from_block, reorg_depth=self.reorg_depth, to=block)
        by_worker = {e["worker"]: e for e in (event.decode(log.topics, log.data) for log in logs)}
        order = [worker for worker in self.members(task_id, Role.WORKER, block) if worker in by_worker]
        if len(order) != len(by_worker):
            raise ChainError(f"the endpoint contradicts itself: {name} of an account that is no worker")
        return [by_worker[worker] for worker in order]

    # --- sending ----------------------------------------------------------------------------------

    def send(self, transaction: Transaction) -> SendResult:
        """Simulates, sends and waits; see TransactionSender.send."""
        return self.sender.send(transaction)

    def send_all(self, transactions: Sequence[Transaction]) -> tuple[SendResult, ...]:
        """The same for many at a time; see TransactionSender.send_all."""
        return self.sender.send_all(transactions)

    def enrol(self, task_id: TaskId, role: Role, stake: Wei) -> SendResult:
        return self.send(self.contract.enrol(task_id, role, stake))

    def start_task(self, task_id: TaskId) -> SendResult:
        return self.send(self.contract.start_task(task_id))

    def cancel_task(self, task_id: TaskId) -> SendResult:
        """Ends a task that has not started, and refunds its escrow."""
        return self.send(self.contract.cancel_task(task_id))

    def leave(self, task_id: TaskId, role: Role) -> SendResult:
        return self.send(self.contract.leave(task_id, role))

    def rejoin(self, task_id: TaskId, role: Role) -> SendResult:
        return self.send(self.contract.rejoin(task_id, role))

    def commit_update(self, task_id: TaskId, round_number: int, commitment: bytes) -> SendResult:
        return self.send(self.contract.commit_update(task_id, round_number, commitment))

    def reveal_update(
        self,
        task_id: TaskId,
        round_number: int,
        root: Root,
        cid: CidOnChain,
        squared_norm: int,
        num_examples: int,
        salt: bytes,
    ) -> SendResult:
        return self.send(
            self.contract.reveal_update(task_id, round_number, root, cid, squared_norm, num_examples, salt)
        )

    def commit_scores(self, task_id: TaskId, round_number: int, commitment: bytes) -> SendResult:
        return self.send(self.contract.commit_scores(task_id, round_number, commitment))

    def reveal_scores(self, task_id: TaskId, round_number: int, votes: bytes, salt: bytes) -> SendResult:
        return self.send(self.contract.reveal_scores(task_id, round_number, votes, salt))

    def draw_workers(self, task_id: TaskId) -> SendResult:
        return self.send(self.contract.draw_workers(task_id))

    def tally(self, task_id: TaskId, max_workers: int) -> SendResult:
        return self.send(self.contract.tally(task_id, max_workers))

    def draw_order(self, task_id: TaskId) -> SendResult:
        return self.send(self.contract.draw_order(task_id))

    def commit_aggregate(self, task_id: TaskId, round_number: int, commitment: bytes) -> SendResult:
        return self.send(self.contract.commit_aggregate(task_id, round_number, commitment))

    def post_aggregate(
        self,
        task_id: TaskId,
        round_number: int,
        claim: Claim,
        cid: CidOnChain,
        float_cid: CidOnChain,
        salt: bytes,
    ) -> SendResult:
        return self.send(self.contract.post_aggregate(task_id, round_number, claim, cid, float_cid, salt))

    def settle(self, task_id: TaskId, max_workers: int) -> SendResult:
        return self.send(self.contract.settle(task_id, max_workers))

    def claim(self) -> SendResult:
        return self.send(self.vault.claim())

    def create_task(self, params: TaskParams) -> SendResult:
        """Publishes a task and escrows its reward out of the account's free stake."""
        return self.send(self.contract.create_task(params))


def _slash(log: Log, values: dict[str, Any]) -> Slash:
    reason, role = reason_text(values["reason"]), Role(values["role"])
    amount, account = Wei(values["amount"]), Address(values["account"])
    return Slash(values["round"], role, amount, reason, log.block_number, log.tx_hash, account)
