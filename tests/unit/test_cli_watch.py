"""`chainfl watch`: what it hands to the watcher, what it deposits, and what it tells when it is over."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace

import pytest
from agents_world import World
from audit_port import AuditPort
from cheats import FORM, enter
from cli_fakes import Shell, shell_with_chain
from fake_chain import account_of

from chainfl.agents import wiring
from chainfl.agents.events import AgentReport, EventLog
from chainfl.agents.wiring import AgentOptions, WatchOptions
from chainfl.chain import operator as operators
from chainfl.chain.records import Lock, StakeStatus, TokenInfo
from chainfl.cli.context import App
from chainfl.errors import Interrupted, KeyfileError
from chainfl.simulation.attackers import WrongAggregator
from chainfl.tasks.spec import DEFAULT_ECONOMICS, TOKEN
from chainfl.tasks.state import ZERO_ADDRESS, Phase, Role, Verdict
from chainfl.types import TaskId, Wei

BONDS = DEFAULT_ECONOMICS.challenger_bond + DEFAULT_ECONOMICS.demand_fee
CHEAT, ME = account_of(300), account_of(0x77)


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


class Watching:
    """Stands in for the wiring and remembers what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
        self.shell = shell
        self.options: AgentOptions | None = None
        self.watching: WatchOptions | None = None
        self.error: BaseException | None = None
        self.report = AgentReport(Role.CHALLENGER)
        self.changes: dict[str, object] = {}
        monkeypatch.setattr(wiring, "run_watcher", self._run)

    def _run(self, port, store, options, watching) -> AgentReport:
        self.port, self.options, self.watching = port, options, watching
        if self.error is not None:
            raise self.error
        log = EventLog("w", Role.CHALLENGER, options.events)
        log.emit("disputing", why="wrong", cost_wei=2 * 10**15, reward_wei=100 * TOKEN, bond_wei=TOKEN // 2)
        for name, value in self.changes.items():
            setattr(port, name, value)
        return self.report


@pytest.fixture
def watching(monkeypatch, shell) -> Watching:
    return Watching(monkeypatch, shell)


def test_watch__no_task__follows_every_task_and_sends(shell, watching):
    assert shell("watch") == 0
    assert watching.watching == WatchOptions()
    assert watching.options.name == shell.operator.account


def test_watch__tasks_answer_and_name__are_handed_on(shell, watching):
    assert shell("watch", "--task", "1", "--task", "2", "--answer", "--name", "me") == 0
    assert watching.watching == WatchOptions((TaskId(1), TaskId(2)), answers=True)
    assert watching.options.name == "me"


def test_watch__dry_run_without_a_key__reads_as_nobody(shell, watching, monkeypatch):
    def no_key(*_):
        raise KeyfileError("there is no key")

    monkeypatch.setattr(App, "operator_with_budget", no_key)
    monkeypatch.setattr(App, "known_account", property(lambda _: None))
    for name in ("client", "deployment"):
        monkeypatch.setattr(App, name, property(lambda _: None))
    monkeypatch.setattr(operators, "Operator", lambda *_, account: replace(shell.operator, account=account))
    assert shell("watch", "--task", "1", "--dry-run") == 0
    assert (watching.port.account, watching.watching.dry_run) == (ZERO_ADDRESS, True)
    assert shell("watch", "--task", "1") == 12


def test_watch__dry_run_with_a_key__reads_as_its_account(shell, watching):
    assert shell("watch", "--dry-run") == 0
    assert watching.port is shell.operator


def test_watch__dry_run_and_deposit__contradict(shell, watching):
    assert shell("watch", "--task", "1", "--dry-run", "--deposit") == 11
    assert watching.options is None


def test_watch__deposit__fills_up_to_the_bonds_of_a_dispute(shell, watching):
    shell.use(free=TOKEN, wallet=1_000 * TOKEN)
    assert shell("watch", "--task", "1", "--deposit", "--yes") == 0
    assert shell.operator.sent == [f"deposit {BONDS - TOKEN}"]


def test_watch__deposit_not_needed__sends_nothing(shell, watching):
    shell.use(free=BONDS)
    assert shell("watch", "--task", "1", "--deposit") == 0
    assert shell.operator.sent == []


def test_watch__deposit_without_a_task__is_refused_before_it_watches(shell, watching):
    assert shell("watch", "--deposit", "--yes") == 11
    assert watching.options is None


def test_watch__stopped__has_its_exit_code(shell, watching):
    watching.error = Interrupted("stopped; nothing is at risk")
    assert shell("watch") == 130


# --- what it tells -------------------------------------------------------------------------------


def facts(shell: Shell) -> dict[str, str]:
    return {name: rest.strip() for name, _, rest in (line.partition("  ") for line in shell.out.splitlines())}


def test_watch__over__tells_disputes_earnings_and_bonds(shell, watching):
    watching.report.transactions = Counter(Announce=2, Prove=2, StartGame=1, DemandChunk=3)
    lock = Lock(TaskId(1), Role.CHALLENGER, Wei(5 * TOKEN), None)
    watching.changes = {"credit": 100 * TOKEN, "locks": (lock, replace(lock, role=Role.WORKER))}
    assert shell("watch", "--task", "1") == 0
    told = facts(shell)
    assert told["ended"] == "task 1 is over"
    assert told["disputes"] == "2 proofs, 1 games, 3 demands"
    assert (told["earned"], told["bonds out"]) == ("100 CFL", "5 CFL")
    assert "training" not in shell.out
    assert "`chainfl rewards claim` for 100 CFL" in shell.err
    assert "5 CFL of bonds back" in shell.err


def test_watch__nothing_earned__has_nothing_to_claim(shell, watching):
    assert shell("watch", "--task", "1") == 0
    assert "next" not in shell.err


def test_watch__json__has_earnings_in_wei(shell, watching):
    watching.changes = {"credit": 7}
    assert shell("watch", "--task", "1", "--json") == 0
    document = json.loads(shell.out)
    assert (document["role"], document["earned_wei"], document["bonds_out_wei"]) == ("challenger", 7, 0)


def test_watch__amounts__are_for_people_in_the_log_and_in_wei_among_the_events(shell, watching, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    assert shell("watch", "--events", "e.jsonl") == 0
    assert "cost=0.002 ETH reward=100 CFL bond=0.5 CFL" in caplog.text
    event = json.loads((tmp_path / "e.jsonl").read_text())
    assert (event["cost_wei"], event["reward_wei"], event["bond_wei"]) == (2 * 10**15, 100 * TOKEN, TOKEN // 2)


def test_watch__afterwards__others_log_as_before(shell, watching, caplog):
    caplog.set_level(logging.INFO)
    shell("watch")
    EventLog("other", Role.CHALLENGER).emit("disputing", bond_wei=5)
    assert "bond_wei=5" in caplog.text


# --- the watcher itself --------------------------------------------------------------------------


class WatchPort(AuditPort):
    """The world goes on each time that the watcher waits for a block."""

    world: World

    def wait_for_block(self, after, timeout_s):
        [self.world.look(account) for account in self.world.players]
        return super().wait_for_block(after, timeout_s)

    def stake_status(self, account=None):
        return StakeStatus(self.account, self.free_stake, self.credit, (), Wei(0), 0, 0)

    def token_info(self):
        return TokenInfo(account_of(0x70), "token", "CFL", 18)


def world_for(shell: Shell, tmp_path) -> World:
    """A task in whose second round an aggregator cheats."""
    world = World(tmp_path / "world", aggregators=2, rounds=2, format=FORM)
    enter(world, CHEAT, WrongAggregator)
    shell.operator, shell.store = WatchPort(world.chain, ME), world.store
    shell.operator.world = world
    world.run(until=lambda w: w.chain.phase()[0] is Phase.CHALLENGE and w.chain.clock.round == 2)
    return world


def events_of(tmp_path) -> list[str]:
    return [json.loads(line)["what"] for line in (tmp_path / "e.jsonl").read_text().splitlines()]


def test_watch__a_task_with_a_cheat__is_followed_to_its_end(shell, tmp_path):
    world = world_for(shell, tmp_path)
    assert shell("watch", "--task", "1", "--events", "e.jsonl") == 0
    assert world.chain.verdicts == {(2, 1): Verdict.REFUTED}
    assert facts(shell)["ended"] == "task 1 is over"
    assert {"started", "disputing", "proven", "report"} <= set(events_of(tmp_path))


def test_watch__dry_run__tells_of_the_cheat_and_sends_nothing(shell, tmp_path):
    world = world_for(shell, tmp_path)
    assert shell("watch", "--task", "1", "--dry-run", "--events", "e.jsonl") == 0
    assert world.chain.verdicts == {}
    assert ME not in {who for who, _ in world.chain.sent}
    assert {"disputing", "would_dispute"} & set(events_of(tmp_path))
