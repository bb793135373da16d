"""Sending: simulate, price, read the state again, sign, broadcast, and wait for the receipt.

Nothing is signed that the newest state says would revert, that the account can't pay for, or that the gas budget
does not cover. One sender serves many threads: nonces are taken one at a time, and a restart needs no memory,
because the chain's pending count says what was sent before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import rlp  # type: ignore[import-untyped]
from eth_utils.crypto import keccak

from chainfl.agents.ports import MAX_AT_ONCE, DryRun, SendResult, Sent, TimedOut, WouldRevert
from chainfl.chain.abi import checksum
from chainfl.chain.client import ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.keys import Signer
from chainfl.chain.reverts import RpcError, decode_rpc_error, is_revert
from chainfl.errors import (
    ChainError,
    ChainflError,
    GasBudgetExhausted,
    InsufficientFunds,
    KeyfileError,
    RpcRefused,
    RpcUnreachable,
    TransactionReverted,
)
from chainfl.types import Address

GAS_SLACK: Final = 100_000
"""Another account may act first and leave ours the costlier part of a shared step, such as opening a round."""

MAX_TRANSACTION_GAS: Final = 2**24
"""EIP-7825: no transaction may ask for more."""

GAS_PRICE_ORACLE: Final = Address("0x420000000000000000000000000000000000000F")
"""The predeploy of every OP-stack chain that prices a transaction's data on L1."""

_L1_FEE_SELECTOR: Final = keccak(text="getL1FeeUpperBound(uint256)")[:4]
_ENVELOPE_BYTES: Final = 160
"""What fees, nonce, addresses and signature add to the calldata of a signed transaction, at most."""

FIRST_RECEIPT_WAIT_S: Final = 0.05
_NONCE_ATTEMPTS: Final = 4
_ALREADY_SENT: Final = ("already known", "already imported", "known transaction", "alreadyknown")
_NONCE_TAKEN: Final = ("nonce too low", "replacement transaction underpriced", "nonce too high", "invalid nonce")


_log = logging.getLogger(__name__)


class GasBudget:
    """The most that an operator lets a process spend on gas, in native wei. Safe for threads.

    The worst case of every transaction is set aside before it is sent, so the limit is never exceeded.
    """

    def __init__(self, max_gas_wei: int) -> None:
        self.max_gas_wei = max_gas_wei
        self._committed_wei = 0
        self._lock = threading.Lock()

    @property
    def remaining_wei(self) -> int:
        """What is neither spent nor set aside."""
        return self.max_gas_wei - self._committed_wei

    def reserve(self, worst_case_wei: int) -> None:
        """Sets the worst case aside. Raises GasBudgetExhausted when it does not fit."""
        with self._lock:
            if worst_case_wei > self.remaining_wei:
                raise GasBudgetExhausted(
                    f"the next transaction may cost {worst_case_wei} wei, and {self.remaining_wei} of "
                    f"{self.max_gas_wei} are left",
                    needed=worst_case_wei,
                    remaining=self.remaining_wei,
                    maximum=self.max_gas_wei,
                )
            self._committed_wei += worst_case_wei

    def settle(self, worst_case_wei: int, spent_wei: int) -> None:
        """Replaces what was set aside by what was spent."""
        with self._lock:
            self._committed_wei += spent_wei - worst_case_wei


@dataclass(frozen=True, slots=True)
class Fees:
    """An EIP-1559 offer in wei a unit of gas."""

    max_fee_wei: int
    priority_fee_wei: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A transaction that the newest state accepts, with its price. l1_fee_wei: for its data, on an OP-stack chain."""

    transaction: Transaction
    gas_estimate: int
    gas_limit: int
    fees: Fees
    l1_fee_wei: int = 0

    @property
    def worst_case_wei(self) -> int:
        """The gas limit at the highest fee offered, and the data."""
        return self.gas_limit * self.fees.max_fee_wei + self.l1_fee_wei

    @property
    def estimated_wei(self) -> int:
        """The gas estimate at the highest fee offered, and the data."""
        return self.gas_estimate * self.fees.max_fee_wei + self.l1_fee_wei


class NonceQueue:
    """Hands out one account's nonces, one broadcast at a time.

    The chain's pending count is the truth. What is in flight is remembered only until its receipt, because behind a
    load balancer one node may not know yet what another took.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._in_flight: set[int] = set()

    def next(self, pending_count: int) -> int:
        """The nonce to use; call it with the lock held."""
        return max([pending_count, *(nonce + 1 for nonce in self._in_flight)])

    def sent(self, nonce: int) -> None:
        """Broadcast, no receipt yet."""
        self._in_flight.add(nonce)

    def done(self, nonce: int) -> None:
        """Mined, or given up: from here on the chain's count speaks for it."""
        self._in_flight.discard(nonce)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A transaction that is broadcast."""

    prepared: Prepared
    nonce: int
    tx_hash: str


_queues: dict[tuple[str, Address], NonceQueue] = {}
_queues_lock = threading.Lock()


def nonce_queue(rpc_url: str, account: Address) -> NonceQueue:
    """The one queue that all senders of this process share for an account."""
    with _queues_lock:
        return _queues.setdefault((rpc_url, account), NonceQueue())


class TransactionSender:
    """Sends transactions of one account.

    signer: None for reading only; then `account` may still name whose view it is, and a dry run works.
    op_stack: the chain also charges for the data on L1. receipt_timeout_s: then the answer is TimedOut.
    """

    def __init__(
        self,
        client: ChainClient,
        signer: Signer | None,
        *,
        account: Address | None = None,
        budget: GasBudget | None = None,
        dry_run: bool = False,
        op_stack: bool = False,
        receipt_timeout_s: float = 180.0,
    ) -> None:
        self._client = client
        self._signer = signer
        self._op_stack = op_stack
        self._account = signer.address if signer else account
        self.budget = budget
        self.dry_run = dry_run
        self._receipt_timeout_s = receipt_timeout_s

    @property
    def account(self) -> Address:
        """Whose transactions these are. Raises KeyfileError when there is neither a key nor an address."""
        if self._account is None:
            raise KeyfileError("this needs a key, and none is chosen")
        return self._account

    @property
    def signer(self) -> Signer:
        """The key. Raises KeyfileError when there is none."""
        if self._signer is None:
            raise KeyfileError("sending needs a key, and none is chosen")
        return self._signer

    @property
    def can_sign(self) -> bool:
        """Whether there is a key."""
        return self._signer is not None

    def as_dry_run(self) -> TransactionSender:
        """The same account, but nothing is sent."""
        return TransactionSender(
            self._client, self._signer, account=self._account, dry_run=True, op_stack=self._op_stack
        )

    def send(self, transaction: Transaction) -> SendResult:
        """Simulates, sends and waits.

        Sent: mined and successful. WouldRevert: the newest state rejects it and nothing was sent; or another
        transaction came first and it was mined in vain, then the error's evidence has `tx_hash` and `cost_wei`.
        Raises RpcUnreachable, InsufficientFunds, GasBudgetExhausted, KeyfileError, RpcRefused.
        """
        return self.send_all([transaction])[0]

    def send_all(self, transactions: Sequence[Transaction]) -> tuple[SendResult, ...]:
        """Simulates each, sends all with consecutive nonces, then waits for all; none may depend on another.

        returns: what became of the first ones, in their order: as many as fit a block, the account's funds, the gas
        budget and MAX_AT_ONCE. Raises what `send` raises about the first.
        """
        prepared = self.prepare_all(transactions[:MAX_AT_ONCE])
        if self.dry_run:
            return tuple(_rehearsed(one) for one in prepared)
        sent = self._launch_all(prepared)
        flights = [one for one in sent if isinstance(one, _Flight)]
        receipts = self._wait_for_receipts(flights)
        return tuple(one if isinstance(one, WouldRevert) else self._landed(one, receipts[one.tx_hash]) for one in sent)

    def prepare(self, transaction: Transaction) -> Prepared | WouldRevert:
        """Simulates at the newest block, prices, and estimates against the state read again."""
        return self.prepare_all([transaction])[0]

    def prepare_all(self, transactions: Sequence[Transaction]) -> list[Prepared | WouldRevert]:
        """The same for the first of many: as many as fit a block, and the account can pay for."""
        if not transactions:
            return []
        count, messages = len(transactions), [self._message(transaction) for transaction in transactions]
        answers = self._client.try_batch(
            [
                *(("eth_call", [message, "latest"]) for message in messages),
                ("eth_getBlockByNumber", ["latest", False]),
                ("eth_maxPriorityFeePerGas", []),
                ("eth_getBalance", [self.account, "latest"]),
                *(map(_l1_fee_request, transactions) if self._op_stack else ()),
            ]
        )
        simulated, (header, tip, balance), l1_fees = answers[:count], answers[count : count + 3], answers[count + 3 :]
        if isinstance(header, RpcError) or header is None:
            raise RpcRefused("the endpoint does not show its newest block")
        fees, block_gas = offer_fees(header, tip), int(header["gasLimit"], 16)
        # Read again: another account may have acted since the simulation, and an estimate costs one round trip.
        estimates = self._estimates(messages, simulated)
        facts = zip(transactions, estimates, l1_fees or [None] * count, strict=True)
        return self._within_means([self._priced(*fact, fees, block_gas) for fact in facts], balance, block_gas)

    def _priced(
        self, transaction: Transaction, estimate: Any, l1_fee: Any, fees: Fees, block_gas: int
    ) -> Prepared | WouldRevert:
        if isinstance(estimate, RpcError):
            return self._rejected(estimate, transaction)
        gas = int(estimate, 16)
        return Prepared(transaction, gas, gas_limit_for(gas, block_gas), fees, _wei(l1_fee))

    def _estimates(self, messages: Sequence[dict[str, str]], simulated: Sequence[Any]) -> list[Any]:
        """The gas of each in one round trip; where the simulation failed, its error."""
        asked = [message for message, answer in zip(messages, simulated, strict=True) if not _is_error(answer)]
        found = iter(self._client.try_batch([("eth_estimateGas", [message, "latest"]) for message in asked]))
        return [answer if _is_error(answer) else next(found) for answer in simulated]

    def _within_means(
        self, prepared: Sequence[Prepared | WouldRevert], balance: Any, block_gas: int
    ) -> list[Prepared | WouldRevert]:
        """The first ones that fit a block, and that the account can pay for. Raises InsufficientFunds for none."""
        kept: list[Prepared | WouldRevert] = []
        gas = required = 0
        for one in prepared:
            if isinstance(one, Prepared):
                gas, required = gas + one.gas_limit, required + one.worst_case_wei + one.transaction.value_wei
                is_first = not any(isinstance(before, Prepared) for before in kept)
                if is_first:
                    self._check_funds(one, balance)
                elif gas > block_gas or (isinstance(balance, str) and int(balance, 16) < required):
                    break
            kept.append(one)
        return kept

    def _message(self, transaction: Transaction) -> dict[str, str]:
        message = {"from": self.account, "data": "0x" + transaction.data.hex(), "value": hex(transaction.value_wei)}
        return message if transaction.to is None else {**message, "to": transaction.to}

    def _rejected(self, error: RpcError, transaction: Transaction) -> WouldRevert:
        """WouldRevert for a revert; anything else the endpoint said is raised."""
        decoded = decode_rpc_error(error, transaction.kind, self.account)
        if isinstance(decoded, InsufficientFunds) or not is_revert(error):
            raise decoded
        return WouldRevert(decoded)

    def _check_funds(self, prepared: Prepared, balance: Any) -> None:
        """Raises InsufficientFunds unless the account covers the worst case, which is what a node asks for."""
        required = prepared.worst_case_wei + prepared.transaction.value_wei
        if isinstance(balance, str) and int(balance, 16) < required:
            raise InsufficientFunds(
                f"{self.account} holds {int(balance, 16)} wei, and {prepared.transaction.kind} may cost {required}",
                account=self.account,
                balance=int(balance, 16),
                required=required,
            )

    def _launch_all(self, prepared: Sequence[Prepared | WouldRevert]) -> list[_Flight | WouldRevert]:
        """Broadcasts one after the other, up to the first that does not go. Raises its error when it is the first."""
        begun: list[_Flight | WouldRevert] = []
        for one in prepared:
            try:
                begun.append(self._launch(one) if isinstance(one, Prepared) else one)
            except ChainflError as error:
                if not any(isinstance(before, _Flight) for before in begun):
                    raise
                # What is on its way is waited for; whatever hinders the others shows again when they are tried again.
                _log.warning("%d of %d transactions are on their way: %s", len(begun), len(prepared), error)
                break
        return begun

    def _launch(self, prepared: Prepared) -> _Flight:
        """Broadcasts, with the worst case set aside; it stays set aside while nobody knows."""
        if self.budget is not None:
            self.budget.reserve(prepared.worst_case_wei)
        try:
            nonce, tx_hash = self._broadcast(prepared, nonce_queue(self._client.rpc_url, self.account))
        except (RpcRefused, InsufficientFunds):
            self._settle(prepared, 0)
            raise
        return _Flight(prepared, nonce, tx_hash)

    def _landed(self, flight: _Flight, receipt: Mapping[str, Any] | None) -> SendResult:
        """What was set aside is replaced by what was spent."""
        if receipt is None:
            return TimedOut(flight.tx_hash)
        result = self._outcome(flight.prepared, flight.tx_hash, receipt)
        self._settle(flight.prepared, spent_wei(result))
        return result

    def _settle(self, prepared: Prepared, spent: int) -> None:
        if self.budget is not None:
            self.budget.settle(prepared.worst_case_wei, spent)

    def _broadcast(self, prepared: Prepared, queue: NonceQueue) -> tuple[int, str]:
        """Signs with the next nonce and broadcasts; takes a new nonce when another process was faster."""
        with queue.lock:
            for _ in range(_NONCE_ATTEMPTS):
                pending = int(self._client.request("eth_getTransactionCount", [self.account, "pending"]), 16)
                nonce = queue.next(pending)
                raw, tx_hash = self.signer.sign_transaction(self._fields(prepared, nonce))
                error = self._submit(raw, tx_hash)
                if error is None:
                    queue.sent(nonce)
                    return nonce, tx_hash
                if not any(mark in error.message.lower() for mark in _NONCE_TAKEN):
                    raise decode_rpc_error(error, prepared.transaction.kind, self.account)
        raise RpcRefused(f"another process keeps taking the nonces of {self.account}", account=self.account)

    def _submit(self, raw: bytes, tx_hash: str) -> RpcError | None:
        """Broadcasts; None when the endpoint has it. Repeating the same signed bytes is harmless."""
        try:
            answer = self._client.try_request("eth_sendRawTransaction", ["0x" + raw.hex()])
        except RpcUnreachable as error:
            error.evidence["tx_hash"] = tx_hash
            raise
        if not isinstance(answer, RpcError) or any(mark in answer.message.lower() for mark in _ALREADY_SENT):
            return None
        # A repeated broadcast whose first answer got lost says "nonce too low" about itself.
        return None if self._client.request("eth_getTransactionByHash", [tx_hash]) else answer

    def _fields(self, prepared: Prepared, nonce: int) -> dict[str, Any]:
        transaction = prepared.transaction
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self._client.chain_id,
            "nonce": nonce,
            "gas": prepared.gas_limit,
            "maxFeePerGas": prepared.fees.max_fee_wei,
            "maxPriorityFeePerGas": prepared.fees.priority_fee_wei,
            "value": transaction.value_wei,
            "data": transaction.data,
        }
        return fields if transaction.to is None else {**fields, "to": transaction.to}

    def _wait_for_receipts(self, flights: Sequence[_Flight]) -> dict[str, dict[str, Any] | None]:
        """By hash; None for those that have none at the timeout. Polls, first often, then once a poll interval."""
        queue = nonce_queue(self._client.rpc_url, self.account)
        try:
            return self._poll([flight.tx_hash for flight in flights])
        finally:
            for flight in flights:
                queue.done(flight.nonce)

    def _poll(self, hashes: Sequence[str]) -> dict[str, dict[str, Any] | None]:
        deadline = self._client.clock() + self._receipt_timeout_s
        found: dict[str, dict[str, Any] | None] = dict.fromkeys(hashes)
        wait_s = FIRST_RECEIPT_WAIT_S
        while missing := [tx_hash for tx_hash, receipt in found.items() if receipt is None]:
            found.update(zip(missing, self._receipts(missing), strict=True))
            if None not in found.values() or self._client.clock() >= deadline:
                break
            self._client.sleep(wait_s)
            wait_s = min(2 * wait_s, self._client.poll_interval_s)
        return found

    def _receipts(self, hashes: Sequence[str]) -> list[dict[str, Any] | None]:
        try:
            answers = self._client.batch([("eth_getTransactionReceipt", [tx_hash]) for tx_hash in hashes])
        except RpcUnreachable as error:
            error.evidence["tx_hash"] = hashes[0]
            raise
        return [None if answer is None else dict(answer) for answer in answers]

    def _outcome(self, prepared: Prepared, tx_hash: str, receipt: Mapping[str, Any]) -> SendResult:
        cost = receipt_cost_wei(receipt)
        if int(receipt["status"], 16) == 1:
            return Sent(tx_hash, int(receipt["blockNumber"], 16), int(receipt["gasUsed"], 16), cost)
        error = self._why_reverted(prepared, receipt)
        error.evidence.update(tx_hash=tx_hash, cost_wei=cost)
        return WouldRevert(error)

    def _why_reverted(self, prepared: Prepared, receipt: Mapping[str, Any]) -> ChainflError:
        """Replays what was mined in vain at its own block; the state there names the reason."""
        kind = prepared.transaction.kind
        answer = self._client.try_request("eth_call", [self._message(prepared.transaction), receipt["blockNumber"]])
        if isinstance(answer, RpcError) and is_revert(answer):
            return decode_rpc_error(answer, kind)
        if int(receipt["gasUsed"], 16) >= prepared.gas_limit:
            return TransactionReverted(f"{kind} ran out of gas at {prepared.gas_limit}", call=kind)
        return TransactionReverted(f"{kind} was mined and reverted", call=kind)


def offer_fees(header: Mapping[str, Any], tip: Any) -> Fees:
    """Twice the base fee and the tip that the endpoint suggests: good for six full blocks in a row.

    header: the newest block; tip: its answer to eth_maxPriorityFeePerGas, or an error for which 1 gwei stands in.
    Raises ChainError for a chain without EIP-1559.
    """
    if header.get("baseFeePerGas") is None:
        raise ChainError("the chain has no base fee (EIP-1559), which chainfl needs")
    priority = int(tip, 16) if isinstance(tip, str) else 10**9
    return Fees(2 * int(header["baseFeePerGas"], 16) + priority, priority)


def _rehearsed(prepared: Prepared | WouldRevert) -> SendResult:
    return DryRun(prepared.gas_estimate, prepared.estimated_wei) if isinstance(prepared, Prepared) else prepared


def _is_error(answer: Any) -> bool:
    return isinstance(answer, RpcError)


def _l1_fee_request(transaction: Transaction) -> tuple[str, list[Any]]:
    """Asks the OP stack's oracle for the most that the signed transaction's data can cost."""
    size = (len(transaction.data) + _ENVELOPE_BYTES).to_bytes(32, "big")
    return ("eth_call", [{"to": GAS_PRICE_ORACLE, "data": "0x" + (_L1_FEE_SELECTOR + size).hex()}, "latest"])


def _wei(answer: Any) -> int:
    """The oracle's answer; 0 where the chain has no oracle, as on a local chain that borrows a testnet's id."""
    return int(answer, 16) if isinstance(answer, str) and len(answer) == 66 else 0


def gas_limit_for(estimate: int, block_gas_limit: int) -> int:
    """The estimate with a quarter and some slack on top, within what a transaction may ask for."""
    return max(estimate, min(estimate + estimate // 4 + GAS_SLACK, block_gas_limit, MAX_TRANSACTION_GAS))


def receipt_cost_wei(receipt: Mapping[str, Any]) -> int:
    """What a transaction cost: gas × price, and on an OP-stack chain its data on L1."""
    gas = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    return gas + int(receipt.get("l1Fee") or "0x0", 16)


def spent_wei(result: SendResult) -> int:
    """What a result cost in native wei."""
    if isinstance(result, Sent):
        return result.cost_wei
    if isinstance(result, WouldRevert):
        return int(result.error.evidence.get("cost_wei", 0))
    return 0


def predicted_address(deployer: Address, nonce: int) -> Address:
    """Where a contract goes that `deployer` creates with `nonce`: the end of keccak(rlp([deployer, nonce]))."""
    return checksum("0x" + keccak(rlp.encode([bytes.fromhex(deployer[2:]), nonce]))[12:].hex())
