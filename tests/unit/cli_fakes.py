"""What the command line's unit tests run against: a chain and a store in memory, and `chainfl` in this process."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fake_chain import MemoryStore, account_of

from chainfl.agents.ports import DryRun, SendResult, Sent, WouldRevert
from chainfl.chain.records import Escrow, Line, Lock, StakeStatus, TokenInfo
from chainfl.cli.context import App
from chainfl.cli.main import run
from chainfl.errors import ChainflError, UsageError
from chainfl.tasks.spec import DEFAULT_ECONOMICS, LOCAL_WINDOWS, TOKEN, default_format
from chainfl.tasks.state import (
    ZERO_ADDRESS,
    ZERO_ROOT,
    Block,
    Bounds,
    CidOnChain,
    Member,
    Outcome,
    Phase,
    Role,
    RoundView,
    TaskView,
)
from chainfl.types import Address, Root, TaskId, Wei

ME = account_of(0x10)
COORDINATOR = account_of(0xC0)
MY_LINE = Line(ME, False, 1, bytes(32), bytes(32), bytes(32), "CC-BY-4.0")
NOW = 1_800_000_000
NOBODY = Member(Wei(0), 0, 0, 0, 0, False, 0, 0, 0, bytes(32))

TASK_VIEW = TaskView(
    requester=ME,
    spec_hash=bytes(32),
    genesis_root=Root(bytes([1]) * 32),
    genesis_state_root=ZERO_ROOT,
    rounds=10,
    enrolment_end=NOW + 600,
    created_at=NOW - 100,
    created_block=1,
    reward=Wei(1_000 * TOKEN),
    validators_named=False,
    workers=Bounds(2, 5),
    validators=Bounds(1, 3),
    aggregators=Bounds(1, 1),
    format=default_format(1_000),
    windows=LOCAL_WINDOWS,
    economics=DEFAULT_ECONOMICS,
)

ROUND_VIEW = RoundView(
    phase=Phase.ENROLMENT,
    phase_end=0,
    round=0,
    attempt=0,
    opened_block=0,
    eligible_workers=0,
    committed=0,
    revealed=0,
    eligible_validators=0,
    scores_committed=0,
    scores_revealed=0,
    num_workers=3,
    num_validators=1,
    num_aggregators=0,
    model_root=ZERO_ROOT,
    state_root=ZERO_ROOT,
    tallied=0,
    settled=0,
    aggregate_start=0,
    num_slots=0,
    order_drawn=False,
    order=(ZERO_ADDRESS, ZERO_ADDRESS, ZERO_ADDRESS),
    seed_block=0,
    accepted=0,
    total_weight=0,
    aggregator=ZERO_ADDRESS,
    posted_at=0,
    aggregate_root=ZERO_ROOT,
    aggregate_state_root=ZERO_ROOT,
    aggregate_cid=CidOnChain(bytes(32), 0),
    aggregate_float_cid=CidOnChain(bytes(32), 0),
    outcome=Outcome.PENDING,
    carry=Wei(0),
    ended_at=0,
    challenges=0,
    games=0,
    demands=0,
    num_games=0,
)


@dataclass
class FakeOperator:
    """An account's view in memory. Every send is counted; `refusal` makes all of them revert."""

    account: Address = ME
    free: int = 0
    wallet: int = 0
    credit: int = 0
    native: int = 10**18
    locks: tuple[Lock, ...] = ()
    task_view: TaskView = TASK_VIEW
    round_view: RoundView = ROUND_VIEW
    member_view: Member = NOBODY
    next_drip: int = 0
    refusal: ChainflError | None = None
    sent: list[str] = field(default_factory=list)
    chain_id: int = 31_337
    coordinator: Address = COORDINATOR
    line_view: Line = MY_LINE
    is_dry: bool = False

    def dry_run(self) -> FakeOperator:
        return replace(self, is_dry=True)

    def _send(self, kind: str) -> SendResult:
        if self.refusal is not None:
            return WouldRevert(self.refusal)
        if self.is_dry:
            return DryRun(100_000, 10**15)
        self.sent.append(kind)
        return Sent("0x" + "ab" * 32, 7, 90_000, 9 * 10**14)

    def latest_block(self) -> Block:
        return Block(100, NOW, bytes(32))

    def native_balance(self, account: Address | None = None) -> int:
        return self.native

    def token_info(self) -> TokenInfo:
        return TokenInfo(account_of(0x70), "token", "CFL", 18)

    def token_balance(self, account: Address | None = None) -> Wei:
        return Wei(self.wallet)

    def stake_status(self, account: Address | None = None) -> StakeStatus:
        who = account or self.account
        return StakeStatus(who, self.free, self.credit, self.locks, self.wallet, 0, self.native)

    def drip_amount(self) -> Wei:
        return Wei(1_000 * TOKEN)

    def next_drip_at(self, account: Address | None = None) -> int:
        return self.next_drip

    def num_tasks(self) -> int:
        return 1

    def task(self, task_id: TaskId) -> TaskView:
        if task_id != 1:
            raise UsageError(f"task {task_id} does not exist", task_id=task_id)
        return self.task_view

    def round(self, task_id: TaskId, block: Block | None = None) -> RoundView:
        return self.round_view

    def line(self, task_id: TaskId, block: Block | None = None) -> Line:
        return self.line_view

    def escrow(self, task_id: TaskId, block: Block | None = None) -> Escrow:
        return Escrow(Wei(1_000 * TOKEN), Wei(0), Wei(0), Wei(0))

    def member(self, task_id: TaskId, role: Role, account: Address) -> Member:
        return self.member_view

    def all_members(self, task_id: TaskId, role: Role) -> dict[Address, Member]:
        return {self.account: self.member_view} if role is Role.WORKER else {}

    def deposit(self, amount: Wei) -> SendResult:
        return self._send(f"deposit {amount}")

    def withdraw(self, amount: Wei) -> SendResult:
        return self._send(f"withdraw {amount}")

    def unlock(self, task_id: TaskId, role: Role) -> SendResult:
        return self._send(f"unlock {task_id}")

    def claim(self) -> SendResult:
        return self._send("claim")

    def drip(self) -> SendResult:
        return self._send("drip")

    def cancel_task(self, task_id: TaskId) -> SendResult:
        return self._send(f"cancel {task_id}")

    def create_task(self, params: object) -> SendResult:
        return self._send("create")

    def created_task(self, sent: Sent) -> TaskId:
        return TaskId(1)

    def leave(self, task_id: TaskId, role: Role) -> SendResult:
        return self._send(f"leave {role.name}")

    def rejoin(self, task_id: TaskId, role: Role) -> SendResult:
        return self._send(f"rejoin {role.name}")


@dataclass
class Shell:
    """Runs commands in this process. operator: what they find on chain; out, err: of the last command."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    operator: FakeOperator
    store: MemoryStore
    out: str = ""
    err: str = ""

    def __call__(self, *arguments: str) -> int:
        self.capsys.readouterr()
        code = run(arguments)
        self.out, self.err = self.capsys.readouterr()
        return code

    def use(self, **changes: object) -> FakeOperator:
        """Another state of the chain from here on."""
        self.operator = replace(self.operator, **changes)  # type: ignore[arg-type]
        return self.operator

    def at_terminal(self, *, answers: bool = True) -> None:
        """A person is there, and says yes or no."""
        for module in ("spending", "keys", "context"):
            self.monkeypatch.setattr(f"chainfl.cli.{module}.is_interactive", lambda: True)
        self.monkeypatch.setattr("click.confirm", lambda *_, **__: answers)


def shell_with_chain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Shell:
    """A Shell in `folder` whose chain and store are in memory."""
    isolate(monkeypatch, folder)
    shell = Shell(monkeypatch, capsys, FakeOperator(), MemoryStore())
    for name in ("reader", "operator"):
        monkeypatch.setattr(App, name, property(lambda _: shell.operator))
    monkeypatch.setattr(App, "operator_with_budget", lambda _self, _wei: shell.operator)
    monkeypatch.setattr(App, "known_account", property(lambda _: shell.operator.account))
    monkeypatch.setattr(App, "store", property(lambda _: shell.store))
    return shell


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing of the user's configuration, keys or environment is seen; `folder` is where the command runs."""
    for name in [name for name in os.environ if name.startswith("CHAINFL_")]:
        monkeypatch.delenv(name)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(folder)
