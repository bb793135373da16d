"""What every kind of transaction costs, over the model's size and the number of workers.

    python benchmarks/gas.py [--json PATH] [--workers 4,16,64] [--params 10000,...]

Real transactions on a real Anvil, out of their receipts: base fee, calldata, execution, less refunds. Beside each
stands the floor that EIP-7623 sets for its calldata; where the floor is higher it is what a receipt shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from _report import Row, arguments, report
from _stage import BOND, VALIDATOR_STAKE, WORKER_STAKE, RevealedAs, Spent, Stage, digest, numbers, open_stage

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.deployment import TOKEN, Deployment
from chainfl.tasks.state import ZERO_ROOT, Claim, Format, Phase, Role
from chainfl.tasks.votes import Vote, pack_votes
from chainfl.types import Address, Root, TaskId, Wei

TARGET_GAS = 90_000
"""A worker's commit and reveal together, from its second round on."""
VALIDATORS = 3
ROUNDS = 3


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


class BookedStage(Stage):
    """A stage that books every receipt under its setting, kind and round."""

    def __init__(self, anvil: AnvilProcess, client: ChainClient, deployment: Deployment, ledger: Ledger) -> None:
        super().__init__(anvil, client, deployment)
        self.ledger, self.setting = ledger, Setting(0, 0)
        self.aggregator, *rest = self.accounts[1:]
        self.validators, self.workers = rest[:VALIDATORS], rest[VALIDATORS:]

    def book(self, account: Address, transaction: Transaction, kind: str = "") -> None:
        """Sends one transaction. kind: where its function's name does not say enough."""
        self.book_all([(account, transaction)], kind)

    def book_all(self, wanted: Sequence[tuple[Address, Transaction]], kind: str = "") -> None:
        """Sends many, each in a block of its own."""
        for spent, (_, transaction) in zip(self.send_all(wanted), wanted, strict=True):
            self.ledger.spent[self.setting, kind or transaction.kind, self.round].append(spent)

    def fund(self, account: Address, amount: int) -> None:
        """Adds to an account's free balance, out of the requester's tokens."""
        for sender, transaction in self.deposits(account, amount):
            is_token = transaction.kind in ("transfer", "approve")
            self.book(sender, transaction, f"{transaction.kind} (token)" if is_token else "")

    # --- a task from its creation to the last claim ------------------------------------------------

    def play(self, setting: Setting) -> None:
        """One task of three rounds in which everybody does everything in time."""
        self.setting, self.round = setting, 0
        workers = self.workers[: setting.workers]
        form = Format(setting.num_params, 128, 20, 14, 1, 1, 1 << 60)
        params = self.params(form, rounds=ROUNDS, workers=setting.workers, validators=VALIDATORS)
        self.book(self.requester, self.coordinator.create_task(params))
        self.task = TaskId(self.client.read(self.coordinator.num_tasks()))
        self._enrol(Role.WORKER, workers, WORKER_STAKE, "enrol (worker)")
        self._enrol(Role.VALIDATOR, self.validators, VALIDATOR_STAKE, "enrol (validator)")
        self._enrol(Role.AGGREGATOR, [self.aggregator], Wei(0), "enrol (aggregator; opens round 1)")
        for number in range(1, ROUNDS + 1):
            self.round = number
            self._updates(workers)
            self._scores(setting.workers)
            self._aggregate()
            self._settle()
        self.round = 0
        self._release(workers)

    def _enrol(self, role: Role, accounts: Sequence[Address], stake: Wei, kind: str) -> None:
        self.book_all([(account, self.coordinator.enrol(self.task, role, stake)) for account in accounts], kind)

    def _updates(self, workers: Sequence[Address]) -> None:
        """The last to commit also ends Commit, the last to reveal Reveal: both are booked apart."""
        updates = [RevealedAs(worker, Root(digest("root", worker, self.round)), 1 << 40) for worker in workers]
        for phase in (Phase.COMMIT, Phase.REVEAL):
            *calls, (last, ending) = self.update_calls(phase, updates)
            self.book_all(calls)
            self.book(last, ending, f"{ending.kind}, ends the phase")

    def _scores(self, workers: int) -> None:
        votes = pack_votes([Vote(10_000, 1000 + i) for i in range(workers)])
        for phase in (Phase.SCORE_COMMIT, Phase.SCORE_REVEAL):
            self.book_all(self.score_calls(phase, self.validators, votes))

    def _aggregate(self) -> None:
        while self.view().phase is Phase.TALLY:
            self.book(self.aggregator, self.coordinator.tally(self.task, 8), "tally (8 workers a call)")
        self.book(self.aggregator, self.coordinator.draw_order(self.task))
        claim = Claim(Root(digest("model", self.round)), ZERO_ROOT, ())
        self.book(self.aggregator, self.commit_aggregate(self.aggregator, claim))
        self.book(self.aggregator, self.post_aggregate(self.aggregator, claim))

    def _settle(self) -> None:
        self.end_phase()
        while self.view().phase is Phase.SETTLEMENT and self.view().round == self.round:
            left = self.setting.workers - self.view().settled
            kind = (
                "settle (8 workers a call)" if left > 8 else "settle (last call: everybody else, lineage, next round)"
            )
            self.book(self.aggregator, self.coordinator.settle(self.task, 8), kind)

    def _release(self, workers: Sequence[Address]) -> None:
        self.anvil.advance(self.deployment.unbonding_s + 1)
        for role, accounts in ((Role.WORKER, workers), (Role.VALIDATOR, self.validators)):
            self.book_all([(account, self.vault.claim()) for account in accounts])
            self.book_all([(account, self.vault.unlock(self.task, role, account)) for account in accounts])
        self.book(workers[0], self.vault.withdraw(Wei(1)))
        self.fund(workers[0], 1)


def main() -> None:
    options = arguments(
        "Gas of every kind of transaction.",
        workers=("4,16,64", "numbers of workers"),
        params=("10000,100000,1000000,10000000,100000000,1000000000", "numbers of parameters"),
    )
    settings = [Setting(p, w) for w in numbers(options.workers) for p in numbers(options.params)]
    report("Gas", rows(measure(settings), settings), options.json, packages=("web3",))


def measure(settings: list[Setting]) -> Ledger:
    """Plays a task in each setting, all on one chain."""
    ledger = Ledger()
    most = max(setting.workers for setting in settings)
    with open_stage(2 + VALIDATORS + most) as (anvil, client, deployment):
        stage = BookedStage(anvil, client, deployment, ledger)
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


if __name__ == "__main__":
    main()
