"""What every kind of transaction costs, over the model's size and the number of workers.

    python benchmarks/gas.py [--json PATH] [--workers 4,16,64] [--params 10000,...]

Real transactions on a real Anvil, out of their receipts: base fee, calldata, execution, less refunds. Beside each
stands the floor that EIP-7623 sets for its calldata; where the floor is higher it is what a receipt shows.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _report import Row, arguments, report

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.coordinator import Coordinator
from chainfl.chain.deployment import TOKEN, Deployment, deploy
from chainfl.chain.keys import Signer
from chainfl.chain.token import Token
from chainfl.chain.vault import Vault
from chainfl.tasks.commitments import aggregate_commitment, scores_commitment, update_commitment
from chainfl.tasks.state import (
    Bounds,
    CidOnChain,
    Economics,
    Format,
    Phase,
    Role,
    RoundView,
    TaskParams,
    Windows,
)
from chainfl.tasks.votes import Vote, pack_votes
from chainfl.types import Address, Root, TaskId, Wei

TARGET_GAS = 90_000
"""A worker's commit and reveal together, from its second round on."""
BASE_GAS = 21_000
FLOOR_GAS_A_TOKEN = 10
GAS_A_TOKEN = 4
VALIDATORS = 3
ROUNDS = 3
WORKER_STAKE, VALIDATOR_STAKE, BOND = Wei(100 * TOKEN), Wei(300 * TOKEN), Wei(200 * TOKEN)


@dataclass(frozen=True, slots=True)
class Spent:
    """One transaction's receipt. data: its calldata."""

    gas: int
    data: bytes

    @property
    def tokens(self) -> int:
        """EIP-7623's measure of calldata: a zero byte is one token, any other four."""
        return sum(4 if byte else 1 for byte in self.data)

    @property
    def floor(self) -> int:
        """The least that a transaction with this calldata costs."""
        return BASE_GAS + FLOOR_GAS_A_TOKEN * self.tokens

    @property
    def execution(self) -> int:
        """Gas without the base fee and the calldata, whose zero bytes come and go with every hash."""
        return self.gas - BASE_GAS - GAS_A_TOKEN * self.tokens


@dataclass(frozen=True, slots=True)
class Setting:
    """One task's size."""

    num_params: int
    workers: int


@dataclass(slots=True)
class Ledger:
    """Every receipt by setting, kind and round (0 outside of rounds)."""

    spent: dict[tuple[Setting, str, int], list[Spent]] = field(default_factory=lambda: defaultdict(list))

    def of(self, kind: str, rounds: Iterable[int] = range(ROUNDS + 1), workers: int | None = None) -> list[Spent]:
        """The receipts of a kind in the given rounds, of every model size."""
        wanted = set(rounds)
        return [
            one
            for (setting, name, number), found in self.spent.items()
            if name == kind and number in wanted and workers in (None, setting.workers)
            for one in found
        ]


class Stage:
    """A deployment with funded, unlocked accounts, and one task at a time on it."""

    def __init__(self, anvil: AnvilProcess, client: ChainClient, deployment: Deployment, ledger: Ledger) -> None:
        self.anvil, self.client, self.deployment, self.ledger = anvil, client, deployment, ledger
        self.coordinator = Coordinator(deployment.coordinator)
        self.vault, self.token = Vault(deployment.vault), Token(deployment.token)
        accounts = [Signer.from_private_key(key).address for key in anvil.private_keys]
        self.requester, self.aggregator, *rest = accounts
        self.validators, self.workers = rest[:VALIDATORS], rest[VALIDATORS:]
        self.setting, self.task, self.round = Setting(0, 0), TaskId(0), 0

    def send(self, account: Address, transaction: Transaction, kind: str = "") -> None:
        """Sends from an unlocked account, insists that it worked, and books its gas."""
        data = "0x" + transaction.data.hex()
        message = {"from": account, "to": transaction.to, "data": data, "gas": hex(16_000_000)}
        receipt = self._receipt(self.client.request("eth_sendTransaction", [message]))
        if int(receipt["status"], 16) != 1:
            raise SystemExit(f"{transaction.kind} reverted in round {self.round} of {self.setting}")
        key = (self.setting, kind or transaction.kind, self.round)
        self.ledger.spent[key].append(Spent(int(receipt["gasUsed"], 16), transaction.data))

    def _receipt(self, tx_hash: str) -> dict[str, Any]:
        """Anvil answers when the transaction is accepted; its block follows at once, but a moment later."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            receipt: dict[str, Any] | None = self.client.request("eth_getTransactionReceipt", [tx_hash])
            if receipt is not None:
                return receipt
        raise SystemExit(f"no receipt for {tx_hash}")

    def view(self) -> RoundView:
        view: RoundView = self.client.read(self.coordinator.round(self.task))
        return view

    def end_phase(self) -> None:
        """Moves the clock to the end of the phase."""
        self.anvil.advance(max(0, self.view().phase_end - self.client.block().timestamp))

    def fund(self, account: Address, amount: int) -> None:
        """Adds to an account's free balance, out of the requester's tokens."""
        if account != self.requester:
            self.send(self.requester, self.token.transfer(account, Wei(amount)), "transfer (token)")
        self.send(account, self.token.approve(self.deployment.vault, Wei(amount)), "approve (token)")
        self.send(account, self.vault.deposit(Wei(amount)))

    # --- a task from its creation to the last claim ------------------------------------------------

    def play(self, setting: Setting) -> None:
        """One task of three rounds in which everybody does everything in time."""
        self.setting, self.round = setting, 0
        workers = self.workers[: setting.workers]
        self.send(self.requester, self.coordinator.create_task(self._params(setting)))
        self.task = TaskId(self.client.read(self.coordinator.num_tasks()))
        for worker in workers:
            self.send(worker, self.coordinator.enrol(self.task, Role.WORKER, WORKER_STAKE), "enrol (worker)")
        for validator in self.validators:
            self.send(
                validator, self.coordinator.enrol(self.task, Role.VALIDATOR, VALIDATOR_STAKE), "enrol (validator)"
            )
        last = self.coordinator.enrol(self.task, Role.AGGREGATOR, Wei(0))
        self.send(self.aggregator, last, "enrol (aggregator; opens round 1)")
        for number in range(1, ROUNDS + 1):
            self.round = number
            self._updates(workers)
            self._scores(setting.workers)
            self._aggregate()
            self._settle()
        self.round = 0
        self._release(workers)

    def _params(self, setting: Setting) -> TaskParams:
        cid = CidOnChain(_digest("genesis"), 0x55)
        return TaskParams(
            spec_hash=_digest("spec"),
            genesis_root=Root(_digest("root")),
            genesis_cid=cid,
            genesis_float_cid=cid,
            parent_model=bytes(32),
            rounds=ROUNDS,
            enrolment_end=self.client.block().timestamp + 86_400,
            reward=Wei(1000 * TOKEN),
            workers=Bounds(setting.workers, setting.workers),
            validators=Bounds(VALIDATORS, VALIDATORS),
            aggregators=Bounds(1, 1),
            format=Format(setting.num_params, 256, 20, 14, 1, 1, 1 << 60),
            windows=Windows(600, 300, 600, 300, 300, 900),
            economics=Economics(
                WORKER_STAKE, VALIDATOR_STAKE, BOND, Wei(5 * TOKEN), 7000, 2000, 1000, 3000, 2000, 1000
            ),
            named_validators=(),
            licence="Apache-2.0",
        )

    def _updates(self, workers: list[Address]) -> None:
        """The last to commit also ends Commit, the last to reveal Reveal: both are booked apart."""
        chain_id, coordinator = self.client.chain_id, self.deployment.coordinator
        for phase in (Phase.COMMIT, Phase.REVEAL):
            for worker in workers:
                root, salt = Root(_digest("root", worker, self.round)), _digest("salt", worker, self.round)
                cid = CidOnChain(_digest("cid", worker, self.round), 0x55)
                suffix = ", ends the phase" if worker == workers[-1] else ""
                if phase is Phase.COMMIT:
                    commitment = update_commitment(
                        chain_id=chain_id,
                        coordinator=coordinator,
                        task_id=self.task,
                        round_number=self.round,
                        worker=worker,
                        root=root,
                        cid=cid,
                        squared_norm=1 << 40,
                        num_examples=1000,
                        salt=salt,
                    )
                    call = self.coordinator.commit_update(self.task, self.round, commitment)
                else:
                    call = self.coordinator.reveal_update(self.task, self.round, root, cid, 1 << 40, 1000, salt)
                self.send(worker, call, call.kind + suffix)

    def _scores(self, workers: int) -> None:
        votes = pack_votes([Vote(10_000, 1000 + i) for i in range(workers)])
        for validator in self.validators:
            commitment = scores_commitment(
                chain_id=self.client.chain_id,
                coordinator=self.deployment.coordinator,
                task_id=self.task,
                round_number=self.round,
                validator=validator,
                votes=votes,
                salt=_digest("salt", validator, self.round),
            )
            self.send(validator, self.coordinator.commit_scores(self.task, self.round, commitment))
        for validator in self.validators:
            salt = _digest("salt", validator, self.round)
            self.send(validator, self.coordinator.reveal_scores(self.task, self.round, votes, salt))

    def _aggregate(self) -> None:
        while self.view().phase is Phase.TALLY:
            self.send(self.aggregator, self.coordinator.tally(self.task, 8), "tally (8 workers a call)")
        self.send(self.aggregator, self.coordinator.draw_order(self.task))
        root, salt = Root(_digest("model", self.round)), _digest("salt", "aggregate", self.round)
        commitment = aggregate_commitment(
            chain_id=self.client.chain_id,
            coordinator=self.deployment.coordinator,
            task_id=self.task,
            round_number=self.round,
            attempt=1,
            aggregator=self.aggregator,
            model_root=root,
            salt=salt,
        )
        self.send(self.aggregator, self.coordinator.commit_aggregate(self.task, self.round, commitment))
        cid = CidOnChain(_digest("cid", self.round), 0x70)
        self.send(self.aggregator, self.coordinator.post_aggregate(self.task, self.round, root, cid, cid, salt))

    def _settle(self) -> None:
        self.end_phase()
        while self.view().phase is Phase.SETTLEMENT and self.view().round == self.round:
            left = self.setting.workers - self.view().settled
            kind = (
                "settle (8 workers a call)" if left > 8 else "settle (last call: everybody else, lineage, next round)"
            )
            self.send(self.aggregator, self.coordinator.settle(self.task, 8), kind)

    def _release(self, workers: list[Address]) -> None:
        self.anvil.advance(self.deployment.unbonding_s + 1)
        for account in workers:
            self.send(account, self.vault.claim())
            self.send(account, self.vault.unlock(self.task, Role.WORKER, account))
        for account in self.validators:
            self.send(account, self.vault.claim())
            self.send(account, self.vault.unlock(self.task, Role.VALIDATOR, account))
        self.send(workers[0], self.vault.withdraw(Wei(1)))
        self.fund(workers[0], 1)


def main() -> None:
    options = arguments(
        "Gas of every kind of transaction.",
        workers=("4,16,64", "numbers of workers"),
        params=("10000,100000,1000000,10000000,100000000,1000000000", "numbers of parameters"),
    )
    settings = [Setting(p, w) for w in _numbers(options.workers) for p in _numbers(options.params)]
    report("Gas", rows(measure(settings), settings), options.json, packages=("web3",))


def measure(settings: list[Setting]) -> Ledger:
    """Plays a task in each setting, all on one chain."""
    ledger = Ledger()
    most = max(setting.workers for setting in settings)
    with (
        tempfile.TemporaryDirectory(prefix="chainfl-bench-") as folder,
        AnvilProcess(Path(folder), block_time_s=None, accounts=2 + VALIDATORS + most) as anvil,
    ):
        client = ChainClient(anvil.rpc_url)
        deployment = deploy(client, Signer.from_private_key(anvil.private_keys[0]), unbonding_s=60)
        stage = Stage(anvil, client, deployment, ledger)
        stage.setting = settings[0]
        stage.fund(stage.requester, 1000 * TOKEN * len(settings))
        stage.fund(stage.aggregator, BOND)
        for worker in stage.workers:
            stage.fund(worker, WORKER_STAKE)
        for validator in stage.validators:
            stage.fund(validator, VALIDATOR_STAKE)
        for setting in settings:
            stage.play(setting)
            print(f"{setting.num_params:>13,} parameters, {setting.workers:>2} workers: done", flush=True)
    return ledger


def rows(ledger: Ledger, settings: list[Setting]) -> list[Row]:
    """The promise first, then every kind."""
    counts = sorted({setting.workers for setting in settings})
    found = [_worker_round(ledger, count, suffix) for count in counts for suffix in ("", ", ends the phase")]
    found += [_growth(ledger, counts), _calldata(ledger)]
    kinds = sorted({kind for _, kind, _ in ledger.spent})
    return found + [row for kind in kinds for row in _kind(ledger, kind, counts)]


def _worker_round(ledger: Ledger, workers: int, suffix: str) -> Row:
    """The dearest commit and the dearest reveal of later rounds, whatever the model's size."""
    later = range(2, ROUNDS + 1)
    first = sum(_most(ledger.of(kind + suffix, (1,), workers)) for kind in ("commitUpdate", "revealUpdate"))
    total = sum(_most(ledger.of(kind + suffix, later, workers)) for kind in ("commitUpdate", "revealUpdate"))
    who = "the last worker, who ends both phases" if suffix else "a worker"
    what = f"commit + reveal of {who}, from its second round on, {workers} workers"
    return Row(what, total, "gas", reference=f"first round: {first:,}", target=TARGET_GAS)


def _growth(ledger: Ledger, counts: list[int]) -> Row:
    """How far the execution of later commits and reveals is apart over all settings."""
    spread = 0
    for kind in ("commitUpdate", "revealUpdate"):
        execution = [one.execution for one in ledger.of(kind, range(2, ROUNDS + 1))]
        spread += max(execution) - min(execution)
    what = f"growth of commit + reveal over all model sizes and {counts[0]} to {counts[-1]} workers, calldata apart"
    return Row(what, spread, "gas", target=0)


def _calldata(ledger: Ledger) -> Row:
    """What a rollup posts for a worker's round, signature and envelope apart."""
    size = sum(len(ledger.of(kind)[0].data) for kind in ("commitUpdate", "revealUpdate"))
    return Row("calldata of commit + reveal", size, "bytes")


def _kind(ledger: Ledger, kind: str, counts: list[int]) -> list[Row]:
    """A row for each number of workers; the first round apart, since it fills slots that later rounds reuse."""
    found = []
    for count in counts:
        outside = ledger.of(kind, (0,), count)
        later, first = ledger.of(kind, range(2, ROUNDS + 1), count), ledger.of(kind, (1,), count)
        spent = outside or later
        if not spent:
            continue
        notes = [f"first round: {_most(first):,}"] if first else []
        notes.append(f"calldata floor: {max(one.floor for one in spent):,}")
        found.append(Row(f"{kind}, {count} workers", _most(spent), "gas", reference="; ".join(notes)))
    return found


def _most(spent: list[Spent]) -> int:
    return max(one.gas for one in spent)


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
