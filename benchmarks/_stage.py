"""A real Anvil with our contracts and unlocked accounts: what the gas benchmarks act on, and how they read receipts."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.coordinator import Coordinator
from chainfl.chain.deployment import Deployment, deploy
from chainfl.chain.keys import Signer
from chainfl.chain.reverts import decode_revert
from chainfl.chain.token import Token
from chainfl.chain.vault import Vault
from chainfl.errors import ChainflError
from chainfl.tasks.commitments import aggregate_commitment, scores_commitment, update_commitment
from chainfl.tasks.spec import DEFAULT_ECONOMICS, PUBLIC_WINDOWS, TOKEN
from chainfl.tasks.state import ZERO_ROOT, Bounds, CidOnChain, Claim, Format, Phase, RoundView, TaskParams
from chainfl.types import Address, Root, TaskId, Wei

BASE_GAS = 21_000
GAS_A_TOKEN = 4
FLOOR_GAS_A_TOKEN = 10
MAX_CALL_GAS = 16_000_000
"""Below the 2^24 that the protocol allows a call."""
RECEIPT_TIMEOUT_S = 30.0
WORKER_STAKE, VALIDATOR_STAKE = DEFAULT_ECONOMICS.worker_stake, DEFAULT_ECONOMICS.validator_stake
BOND, CHALLENGER_BOND = DEFAULT_ECONOMICS.aggregator_bond, DEFAULT_ECONOMICS.challenger_bond
MODEL_CID = CidOnChain(bytes([7]) * 32, 0x70)


@dataclass(frozen=True, slots=True)
class Spent:
    """One transaction's receipt. gas: what its sender paid for. data: its calldata."""

    gas: int
    data: bytes

    @property
    def tokens(self) -> int:
        """EIP-7623's measure of calldata: a zero byte is one token, any other four."""
        return 4 * len(self.data) - 3 * self.data.count(0)

    @property
    def floor(self) -> int:
        """The least that a transaction with this calldata costs."""
        return BASE_GAS + FLOOR_GAS_A_TOKEN * self.tokens

    @property
    def execution(self) -> int:
        """Gas without the base fee and the calldata, whose zero bytes come and go with every hash.

        Of no meaning where the floor is what was paid.
        """
        return self.gas - BASE_GAS - GAS_A_TOKEN * self.tokens


@dataclass(frozen=True, slots=True)
class RevealedAs:
    """What a worker commits to and reveals."""

    worker: Address
    root: Root
    squared_norm: int


class Stage:
    """A deployment, and one task at a time on it. Accounts are Anvil's own, unlocked."""

    def __init__(self, anvil: AnvilProcess, client: ChainClient, deployment: Deployment) -> None:
        self.anvil, self.client, self.deployment = anvil, client, deployment
        self.coordinator = Coordinator(deployment.coordinator)
        self.vault, self.token = Vault(deployment.vault), Token(deployment.token)
        self.accounts = [Signer.from_private_key(key).address for key in anvil.private_keys]
        self.requester = self.accounts[0]
        self.task, self.round = TaskId(0), 0

    # --- sending ----------------------------------------------------------------------------------

    def send(self, account: Address, transaction: Transaction) -> Spent:
        """Sends from an unlocked account and insists that it worked."""
        return self.send_all([(account, transaction)])[0]

    def send_all(self, wanted: Sequence[tuple[Address, Transaction]]) -> list[Spent]:
        """The same for many in one request, in any order: one transaction of each account."""
        requests = [("eth_sendTransaction", [_message(account, transaction)]) for account, transaction in wanted]
        receipts = self._receipts(self.client.batch(requests))
        for receipt, (_, transaction) in zip(receipts, wanted, strict=True):
            if int(receipt["status"], 16) != 1:
                raise SystemExit(f"{self._revert_of(receipt, transaction)} (round {self.round} of task {self.task})")
        return [Spent(int(r["gasUsed"], 16), t.data) for r, (_, t) in zip(receipts, wanted, strict=True)]

    def _revert_of(self, receipt: dict[str, Any], transaction: Transaction) -> ChainflError:
        options = {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": True}}
        traced = self.client.request("debug_traceTransaction", [receipt["transactionHash"], options])
        return decode_revert(bytes.fromhex(traced.get("output", "0x")[2:]), transaction.kind)

    def refuses(self, account: Address, transaction: Transaction) -> bool:
        """Whether the chain would revert it now."""
        message = _message(account, transaction)
        outcome = self.client.try_request("eth_call", [message, "latest"])
        return not isinstance(outcome, str)

    def _receipts(self, hashes: Sequence[str]) -> list[dict[str, Any]]:
        """Anvil answers when the transactions are accepted; their blocks follow at once, but a moment later."""
        deadline = time.monotonic() + RECEIPT_TIMEOUT_S
        while time.monotonic() < deadline:
            receipts = self.client.batch([("eth_getTransactionReceipt", [tx_hash]) for tx_hash in hashes])
            if all(receipts):
                return receipts
        raise SystemExit(f"no receipt within {RECEIPT_TIMEOUT_S:g} s")

    # --- reading ----------------------------------------------------------------------------------

    def view(self) -> RoundView:
        """Where the task stands."""
        view: RoundView = self.client.read(self.coordinator.round(self.task))
        return view

    def end_phase(self) -> None:
        """Moves the clock to the end of the phase."""
        self.anvil.advance(max(0, self.view().phase_end - self.client.block().timestamp))

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Afterwards the chain is as it was before."""
        before = self.client.request("evm_snapshot")
        yield
        if not self.client.request("evm_revert", [before]):
            raise SystemExit("Anvil did not revert to its snapshot")

    # --- transactions -----------------------------------------------------------------------------

    def deposits(self, account: Address, amount: int) -> list[tuple[Address, Transaction]]:
        """What adds to an account's free balance, out of the requester's tokens."""
        own = [
            (account, self.token.approve(self.deployment.vault, Wei(amount))),
            (account, self.vault.deposit(Wei(amount))),
        ]
        return own if account == self.requester else [(self.requester, self.token.transfer(account, Wei(amount))), *own]

    def params(self, form: Format, *, rounds: int, workers: int, validators: int, aggregators: int = 1) -> TaskParams:
        """A task with exactly so many of each role, at the defaults; its roots are hashes of nothing."""
        return TaskParams(
            spec_hash=digest("spec"),
            genesis_root=Root(digest("root")),
            genesis_state_root=Root(digest("state")) if form.has_state else ZERO_ROOT,
            genesis_cid=MODEL_CID,
            genesis_float_cid=MODEL_CID,
            parent_model=bytes(32),
            rounds=rounds,
            enrolment_end=self.client.block().timestamp + 86_400,
            reward=Wei(1000 * TOKEN),
            workers=Bounds(workers, workers),
            validators=Bounds(validators, validators),
            aggregators=Bounds(aggregators, aggregators),
            format=form,
            windows=PUBLIC_WINDOWS,
            economics=DEFAULT_ECONOMICS,
            named_validators=(),
            licence="Apache-2.0",
        )

    def update_calls(self, phase: Phase, updates: Sequence[RevealedAs]) -> list[tuple[Address, Transaction]]:
        """The commits, or the reveals, of these updates."""
        call = self._commit_update if phase is Phase.COMMIT else self._reveal_update
        return [(update.worker, call(update)) for update in updates]

    def _commit_update(self, update: RevealedAs) -> Transaction:
        commitment = update_commitment(
            chain_id=self.client.chain_id,
            coordinator=self.deployment.coordinator,
            task_id=self.task,
            round_number=self.round,
            worker=update.worker,
            root=update.root,
            cid=self._cid(update),
            squared_norm=update.squared_norm,
            num_examples=1000,
            salt=self._salt(update.worker),
        )
        return self.coordinator.commit_update(self.task, self.round, commitment)

    def _reveal_update(self, update: RevealedAs) -> Transaction:
        cid, salt = self._cid(update), self._salt(update.worker)
        return self.coordinator.reveal_update(self.task, self.round, update.root, cid, update.squared_norm, 1000, salt)

    def score_calls(
        self, phase: Phase, validators: Sequence[Address], votes: bytes
    ) -> list[tuple[Address, Transaction]]:
        """The commits, or the reveals, of the same votes by every validator."""
        call = self._commit_scores if phase is Phase.SCORE_COMMIT else self._reveal_scores
        return [(validator, call(validator, votes)) for validator in validators]

    def _commit_scores(self, validator: Address, votes: bytes) -> Transaction:
        commitment = scores_commitment(
            chain_id=self.client.chain_id,
            coordinator=self.deployment.coordinator,
            task_id=self.task,
            round_number=self.round,
            validator=validator,
            votes=votes,
            salt=self._salt(validator),
        )
        return self.coordinator.commit_scores(self.task, self.round, commitment)

    def _reveal_scores(self, validator: Address, votes: bytes) -> Transaction:
        return self.coordinator.reveal_scores(self.task, self.round, votes, self._salt(validator))

    def commit_aggregate(self, aggregator: Address, claim: Claim) -> Transaction:
        """Only needed in the open window."""
        commitment = aggregate_commitment(
            chain_id=self.client.chain_id,
            coordinator=self.deployment.coordinator,
            task_id=self.task,
            round_number=self.round,
            attempt=1,
            aggregator=aggregator,
            claim=claim,
            salt=self._salt(aggregator),
        )
        return self.coordinator.commit_aggregate(self.task, self.round, commitment)

    def post_aggregate(self, aggregator: Address, claim: Claim) -> Transaction:
        """The first attempt's."""
        salt = self._salt(aggregator)
        return self.coordinator.post_aggregate(self.task, self.round, claim, MODEL_CID, MODEL_CID, salt)

    def _cid(self, update: RevealedAs) -> CidOnChain:
        return CidOnChain(digest("cid", update.worker, self.round), 0x55)

    def _salt(self, account: Address) -> bytes:
        return digest("salt", account, self.round)


@contextmanager
def open_stage(accounts: int, *extra_arguments: str) -> Iterator[tuple[AnvilProcess, ChainClient, Deployment]]:
    """A fresh chain with our contracts and so many unlocked accounts; what a `Stage` is made of."""
    # A block takes what a batch brings: what did not fit would wait for a transaction that never comes.
    extra_arguments += ("--disable-block-gas-limit",)
    with (
        tempfile.TemporaryDirectory(prefix="chainfl-bench-") as folder,
        AnvilProcess(Path(folder), block_time_s=None, accounts=accounts, extra_arguments=extra_arguments) as anvil,
    ):
        client = ChainClient(anvil.rpc_url)
        yield anvil, client, deploy(client, Signer.from_private_key(anvil.private_keys[0]), unbonding_s=60)


def digest(*parts: Any) -> bytes:
    """32 bytes that are always the same for the same words."""
    return hashlib.sha256(repr(parts).encode()).digest()


def numbers(text: str) -> list[int]:
    """The numbers of a list with commas."""
    return [int(part) for part in text.split(",")]


def _message(account: Address, transaction: Transaction) -> dict[str, Any]:
    data = "0x" + transaction.data.hex()
    return {"from": account, "to": transaction.to, "data": data, "gas": hex(MAX_CALL_GAS)}
