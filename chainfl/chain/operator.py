"""What a person at the command line does with the chain, beside what the agents do: `Operator`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median_low
from typing import Any, Final

from chainfl.agents.ports import DryRun, SendResult, Sent
from chainfl.chain.abi import ContractAbi
from chainfl.chain.client import Call
from chainfl.chain.events import Event, Log, LogFilter, LogFollower, decode_event, scan_logs
from chainfl.chain.port import Web3ChainPort
from chainfl.chain.records import Escrow, GasStats, Line, Lock, Model, StakeStatus, TokenInfo, VaultTotals
from chainfl.chain.token import sign_permit
from chainfl.chain.transactions import receipt_cost_wei
from chainfl.chain.vault import NOT_OVER
from chainfl.errors import ChainError, InsufficientTokens, RegistryError, StakeTooLow
from chainfl.tasks.state import Block, Role
from chainfl.types import Address, ModelId, TaskId, Wei

PERMIT_LIFETIME_S: Final = 3_600
NOMINAL_DEPOSIT_GAS: Final = 120_000
"""Stands in for a deposit that can't be estimated before its approval is there."""
_TRANSACTIONS_A_BATCH: Final = 50


class Operator(Web3ChainPort):
    """A Web3ChainPort with the calls of stake, rewards, models and reports. Amounts in the token's wei."""

    # --- stake and tokens -------------------------------------------------------------------------

    def token_info(self) -> TokenInfo:
        """Name, symbol and decimals; the interface's own words for a token that does not say."""
        calls = [self.token.name_of_token(), self.token.symbol(), self.token.decimals()]
        try:
            name, symbol, decimals = self.client.read_all(calls)
        except ChainError as error:
            if error.retryable:
                raise
            name, symbol, decimals = "token", "TOKEN", 18
        return TokenInfo(self.token.address, name[:64], symbol[:16], decimals)

    def token_balance(self, account: Address | None = None) -> Wei:
        """The account's tokens outside of the vault."""
        return Wei(self.client.read(self.token.balance_of(account or self.account)))

    def allowance(self, account: Address | None = None) -> Wei:
        """How many of the account's tokens the vault may take."""
        return Wei(self.client.read(self.token.allowance(account or self.account, self.vault.address)))

    def native_balance(self, account: Address | None = None) -> int:
        """The account's native wei, which pays for gas."""
        return self.client.balance(account or self.account)

    def stake_status(self, account: Address | None = None) -> StakeStatus:
        """Everything that the account has in the vault, with the countdown of each lock, at one block."""
        who = account or self.account
        block = self.client.block()
        free, credit, balance, allowance = self.client.read_all(
            [
                self.vault.free_of(who),
                self.vault.credit_of(who),
                self.token.balance_of(who),
                self.token.allowance(who, self.vault.address),
            ],
            block,
        )
        locks = self._locks(who, block)
        return StakeStatus(who, free, credit, locks, balance, allowance, self.client.balance(who))

    def _locks(self, account: Address, block: Block) -> tuple[Lock, ...]:
        """The account's locks that hold something, found by the vault's own events."""
        topics = self.vault.event("Locked").topics(account=account)
        wanted = LogFilter((self.vault.address,), tuple(topics))
        events = self._decode(self._scan(wanted, self.deployment.block, block))
        keys = sorted({(event.arguments["task_id"], Role(event.arguments["role"])) for event in events})
        calls = [self.vault.lock_of(TaskId(task), role, account) for task, role in keys]
        clocks = [self.vault.unlockable_at(TaskId(task)) for task, _ in keys]
        values = self.client.read_all([*calls, *clocks], block)
        found = zip(keys, values[: len(keys)], values[len(keys) :], strict=True)
        return tuple(
            Lock(TaskId(task), role, amount, None if at == NOT_OVER else at)
            for (task, role), amount, at in found
            if amount > 0
        )

    def approve(self, amount: Wei) -> SendResult:
        """Lets the vault take `amount` of the account's tokens."""
        return self.send(self.token.approve(self.vault.address, amount))

    def deposit(self, amount: Wei) -> SendResult:
        """Moves tokens into the vault, approving exactly what it takes: by a signed permit where the token has one,
        in one transaction; otherwise by an approval first. Raises InsufficientTokens before anything is signed."""
        balance, allowance = self.token_balance(), self.allowance()
        if balance < amount:
            message = f"{self.account} holds {balance} wei of the token, and the deposit needs {amount}"
            raise InsufficientTokens(message, account=self.account, balance=balance, needed=amount)
        if allowance >= amount:
            return self.send(self.vault.deposit(amount))
        return self._deposit_with_permit(amount) or self._approve_and_deposit(amount)

    def _deposit_with_permit(self, amount: Wei) -> SendResult | None:
        """None when the token has no permit, or the account no key to sign one with."""
        if not self.sender.can_sign:
            return None
        deadline = self.client.block().timestamp + PERMIT_LIFETIME_S
        signature = sign_permit(self.client, self.token, self.sender.signer, self.vault.address, amount, deadline)
        return None if signature is None else self.send(self.vault.deposit_with_permit(amount, deadline, *signature))

    def _approve_and_deposit(self, amount: Wei) -> SendResult:
        approved = self.approve(amount)
        if isinstance(approved, DryRun):
            price = approved.cost_wei // max(approved.gas_estimate, 1)
            gas = approved.gas_estimate + NOMINAL_DEPOSIT_GAS
            return DryRun(gas, gas * price)
        return self.send(self.vault.deposit(amount)) if isinstance(approved, Sent) else approved

    def withdraw(self, amount: Wei) -> SendResult:
        """Moves free stake back to the account's tokens."""
        return self.send(self.vault.withdraw(amount))

    def unlock(self, task_id: TaskId, role: Role, account: Address | None = None) -> SendResult:
        """Frees the stake of a task that is over and unbonded."""
        return self.send(self.vault.unlock(task_id, role, account or self.account))

    def transfer(self, to: Address, amount: Wei) -> SendResult:
        """Sends tokens to another account."""
        return self.send(self.token.transfer(to, amount))

    def drip(self) -> SendResult:
        """Asks the training token's faucet for its fixed amount."""
        return self.send(self.token.drip())

    def drip_amount(self) -> Wei:
        """What one drip gives. Raises ChainError for a token without a faucet."""
        return Wei(self.client.read(self.token.drip_amount()))

    def next_drip_at(self, account: Address | None = None) -> int:
        """When the faucet will give again, in chain time; in the past, or 0, if it gives now."""
        return int(self.client.read(self.token.next_drip_at(account or self.account)))

    # --- tasks ------------------------------------------------------------------------------------

    def require_free_stake(self, amount: Wei) -> None:
        """Raises StakeTooLow when the account's free stake is below `amount`."""
        free = self.client.read(self.vault.free_of(self.account))
        if free < amount:
            message = f"{self.account} has {free} wei of free stake, and this needs {amount}"
            raise StakeTooLow(message, account=self.account, free=free, required=amount, missing=amount - free)

    def created_task(self, sent: Sent) -> TaskId:
        """The id of the task that a `create_task` made. Raises ChainError when the transaction made none."""
        receipt = self.client.request("eth_getTransactionReceipt", [sent.tx_hash])
        topic = self.contract.event("TaskCreated").topic
        for item in receipt["logs"] if receipt else ():
            topics = [bytes.fromhex(text[2:]) for text in item["topics"]]
            if item["address"].lower() == self.contract.address.lower() and topics[0] == topic:
                return TaskId(int.from_bytes(topics[1], "big"))
        raise ChainError(f"transaction {sent.tx_hash} created no task", tx_hash=sent.tx_hash)

    def escrow(self, task_id: TaskId, block: Block | None = None) -> Escrow:
        """Where the task's escrow went so far."""
        found: Escrow = self.client.read(self.vault.escrow_of(task_id), block)
        return found

    def vault_totals(self, block: Block | None = None) -> VaultTotals:
        """The vault's ledgers, summed."""
        found: VaultTotals = self.client.read(self.vault.totals(), block)
        return found

    def task_events(self, task_id: TaskId, from_block: int | None = None) -> tuple[Event, ...]:
        """Every event of the task from coordinator, vault and registry, in order. From its creation by default."""
        start = self.task(task_id).created_block if from_block is None else from_block
        block = self.client.block()
        logs = [log for wanted in self._task_filters(task_id) for log in self._scan(wanted, start, block)]
        return self._of_task(task_id, sorted(logs, key=lambda log: (log.block_number, log.index)))

    def follow_task(self, task_id: TaskId, from_block: int) -> TaskFollower:
        """The task's events as they come, for a live view."""
        return TaskFollower(self, task_id, from_block)

    def paid_amounts(self, task_id: TaskId) -> dict[Address, Wei]:
        """What each account was credited for the task so far, from the coordinator's events."""
        paid: defaultdict[Address, int] = defaultdict(int)
        topics = self.contract.event("Paid").topics(task_id=task_id)
        wanted = LogFilter((self.contract.address,), tuple(topics))
        for event in self._decode(self._scan(wanted, self.task(task_id).created_block)):
            paid[event.arguments["account"]] += event.arguments["amount"]
        return {account: Wei(amount) for account, amount in sorted(paid.items())}

    def _task_filters(self, task_id: TaskId) -> tuple[LogFilter, ...]:
        """The task's number is the first indexed value of every event but one of the registry's."""
        everywhere = (self.contract.address, self.vault.address, self.registry.address)
        registered = self.registry.event("ModelRegistered").topics(task_id=task_id)
        return (
            LogFilter(everywhere, (None, f"0x{task_id:064x}")),
            LogFilter((self.registry.address,), tuple(registered)),
        )

    def _of_task(self, task_id: TaskId, logs: Iterable[Log]) -> tuple[Event, ...]:
        return tuple(event for event in self._decode(logs) if event.arguments.get("task_id") == task_id)

    def _decode(self, logs: Iterable[Log]) -> tuple[Event, ...]:
        contracts = self._contracts()
        events = (decode_event(log, contracts) for log in logs)
        return tuple(event for event in events if event is not None)

    def _contracts(self) -> dict[Address, ContractAbi]:
        ours = (self.contract, self.vault, self.registry, self.token)
        return {contract.address: contract.abi for contract in ours}

    def _scan(self, wanted: LogFilter, from_block: int, to: Block | None = None) -> tuple[Log, ...]:
        return scan_logs(self.client, wanted, from_block, reorg_depth=self.reorg_depth, to=to)

    # --- models -----------------------------------------------------------------------------------

    def model(self, model_id: ModelId, block: Block | None = None) -> Model:
        """One version of a model. Raises RegistryError when the registry does not have it."""
        at = block or self.client.block()
        if not self.client.read(self.registry.exists(model_id), at):
            raise RegistryError(f"the registry has no model 0x{model_id.hex()}", model_id=model_id.hex())
        found: Model = self.client.read(self.registry.model(model_id), at)
        return found

    def line(self, task_id: TaskId, block: Block | None = None) -> Line:
        """What all versions of the task's model share."""
        found: Line = self.client.read(self.registry.line(task_id), block)
        return found

    def num_models(self) -> int:
        """How many versions the registry has, of all tasks."""
        return int(self.client.read(self.registry.num_models()))

    def models(self, start: int = 0, count: int = 100) -> tuple[tuple[ModelId, Model], ...]:
        """Versions of all tasks, oldest first."""
        block = self.client.block()
        ids = [ModelId(model_id) for model_id in self.client.read(self.registry.models(start, count), block)]
        return self._with_ids(ids, block)

    def versions(self, task_id: TaskId) -> tuple[tuple[ModelId, Model], ...]:
        """The versions of one task, newest first, by following parents from the latest back to its genesis."""
        block = self.client.block()
        line = self.line(task_id, block)
        found: list[tuple[ModelId, Model]] = []
        wanted = line.latest
        while any(wanted) and len(found) < line.versions:
            model: Model = self.client.read(self.registry.model(ModelId(wanted)), block)
            found.append((ModelId(wanted), model))
            if wanted == line.genesis:
                break
            wanted = model.parent
        return tuple(found)

    def has_access(self, model_id: ModelId, account: Address) -> bool:
        """Whether the owner permits it. A signal: the bytes are public to whoever has the CID."""
        return bool(self.client.read(self.registry.has_access(model_id, account)))

    def grant(self, task_id: TaskId, account: Address) -> SendResult:
        """Permits an account the models of a restricted line. A signal only."""
        return self.send(self.registry.grant(task_id, account))

    def revoke(self, task_id: TaskId, account: Address) -> SendResult:
        """Takes a grant back. A signal only."""
        return self.send(self.registry.revoke(task_id, account))

    def restrict(self, task_id: TaskId, restricted: bool) -> SendResult:
        """Makes a line of models restricted or public. A signal only."""
        return self.send(self.registry.restrict(task_id, restricted))

    def _with_ids(self, ids: Sequence[ModelId], block: Block) -> tuple[tuple[ModelId, Model], ...]:
        calls: list[Call] = [self.registry.model(model_id) for model_id in ids]
        return tuple(zip(ids, self.client.read_all(calls, block), strict=True))

    # --- reports ----------------------------------------------------------------------------------

    def gas_by_kind(self, from_block: int | None = None) -> dict[str, GasStats]:
        """Gas of every kind of transaction that left an event with our contracts, by the function called."""
        start = self.deployment.block if from_block is None else from_block
        wanted = LogFilter(tuple(self._contracts()))
        hashes = sorted({log.tx_hash for log in self._scan(wanted, start)})
        by_kind: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for offset in range(0, len(hashes), _TRANSACTIONS_A_BATCH):
            for kind, gas, cost in self._gas_of(hashes[offset : offset + _TRANSACTIONS_A_BATCH]):
                by_kind[kind].append((gas, cost))
        return {kind: _gas_stats(samples) for kind, samples in sorted(by_kind.items())}

    def _gas_of(self, hashes: Sequence[str]) -> list[tuple[str, int, int]]:
        """(kind, gas, cost in wei) of each transaction that called one of our contracts."""
        asked = [("eth_getTransactionByHash", [h]) for h in hashes]
        answers = self.client.batch([*asked, *(("eth_getTransactionReceipt", [h]) for h in hashes)])
        pairs = zip(answers[: len(hashes)], answers[len(hashes) :], strict=True)
        named = ((self._kind(transaction), receipt) for transaction, receipt in pairs if transaction and receipt)
        return [(kind, int(r["gasUsed"], 16), receipt_cost_wei(r)) for kind, r in named if kind]

    def _kind(self, transaction: dict[str, Any]) -> str | None:
        """The function that a transaction called; None when it did not call one of ours."""
        to = (transaction.get("to") or "").lower()
        selector = bytes.fromhex(transaction["input"][2:10])
        for address, abi in self._contracts().items():
            if address.lower() == to and selector in abi.functions_by_selector:
                return abi.functions_by_selector[selector].name
        return "deploy" if not to else None


class TaskFollower:
    """A task's events as they come; what a reorg took back is told, too."""

    def __init__(self, operator: Operator, task_id: TaskId, from_block: int) -> None:
        self._operator = operator
        self._task_id = task_id
        self._followers = [
            LogFollower(operator.client, wanted, from_block, reorg_depth=operator.reorg_depth)
            for wanted in operator._task_filters(task_id)
        ]

    def poll(self) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
        """(new events, events taken back) since the last poll, each in order."""
        changes = [follower.poll() for follower in self._followers]
        new = sorted((log for change in changes for log in change.new), key=lambda log: (log.block_number, log.index))
        gone = [log for change in changes for log in change.orphaned]
        return self._operator._of_task(self._task_id, new), self._operator._of_task(self._task_id, gone)


def _gas_stats(samples: Sequence[tuple[int, int]]) -> GasStats:
    gas = [used for used, _ in samples]
    return GasStats(len(gas), median_low(gas), max(gas), sum(gas), sum(cost for _, cost in samples))
