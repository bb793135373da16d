"""Roles at the command line: their data, their stake, and leaving."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli_fakes import NOBODY, ROUND_VIEW, Shell, shell_with_chain

from chainfl.agents import wiring
from chainfl.agents.events import AgentReport
from chainfl.agents.shards import TaskShard
from chainfl.agents.wiring import AgentOptions, DataSource
from chainfl.errors import DatasetMissing, GasBudgetExhausted, Interrupted
from chainfl.tasks.spec import TOKEN
from chainfl.tasks.state import Phase, Role
from chainfl.types import Wei


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


class Agents:
    """Stands in for the wiring and remembers what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source: DataSource | None = None
        self.options: AgentOptions | None = None
        self.error: BaseException | None = None
        monkeypatch.setattr(
            wiring, "run_worker", lambda port, store, data, options: self._run(Role.WORKER, data, options)
        )
        monkeypatch.setattr(
            wiring, "run_validator", lambda port, store, data, options: self._run(Role.VALIDATOR, data, options)
        )
        monkeypatch.setattr(
            wiring, "run_aggregator", lambda port, store, options: self._run(Role.AGGREGATOR, None, options)
        )

    def _run(self, role: Role, data: DataSource | None, options: AgentOptions) -> AgentReport:
        self.source, self.options = data, options
        if self.error is not None:
            raise self.error
        if options.events is not None:
            options.events.write("{}\n")
        return AgentReport(role, tasks=[1], ended="the task is complete")  # type: ignore[list-item]


@pytest.fixture
def agents(monkeypatch) -> Agents:
    return Agents(monkeypatch)


def test_worker__a_folder__is_its_data(shell, agents, tmp_path):
    assert shell("worker", "run", "--task", "1", "--data", "images", "--once", "--claim", "--name", "w") == 0
    assert agents.source == DataSource(folder=Path("images"))
    assert (agents.options.task_id, agents.options.once, agents.options.claim, agents.options.name) == (
        1,
        True,
        True,
        "w",
    )
    assert agents.options.state_dir == tmp_path / "chainfl"


def test_worker__a_share__is_its_data(shell, agents):
    arguments = ("--dataset", "mnist", "--shard", "2/5", "--seed", "7", "--alpha", "0.5", "--data-dir", "d")
    assert shell("worker", "run", *arguments, "--json") == 0
    assert agents.source == DataSource(name="mnist", shard="2/5", seed=7, alpha=0.5, data_dir=Path("d"))
    assert json.loads(shell.out)["tasks"] == [1]


@pytest.mark.parametrize(("text", "number"), [("auto", None), ("3", 3)])
def test_worker__a_shard_alone__is_that_of_the_task(shell, agents, text, number):
    assert shell("worker", "run", "--task", "1", "--shard", text) == 0
    assert agents.source == TaskShard(number)


@pytest.mark.parametrize("arguments", [["--shard", "auto"], ["--shard", "2"]])
def test_validator__a_shard_of_the_task__is_none_of_its_data(shell, agents, arguments):
    assert shell("validator", "run", "--task", "1", *arguments) == 11


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--shard", "0"],
        ["--shard", "some"],
        ["--shard", "1/2"],
        ["--shard", "auto", "--seed", "1"],
        ["--shard", "auto", "--data", "d"],
        ["--shard", "auto", "--dataset", "digits", "--task", "1", "--alpha", "1", "--data", "d"],
        ["--data", "d", "--dataset", "digits", "--shard", "1/2"],
        ["--dataset", "digits"],
        ["--data", "d", "--shard", "1/2"],
        ["--data", "d", "--alpha", "0.5"],
        ["--data", "d", "--deposit"],
    ],
)
def test_worker__contradictory_options__are_refused(shell, agents, arguments):
    assert shell("worker", "run", *arguments) == 11
    assert agents.options is None


def test_validator__no_data__uses_the_tasks_root_set(shell, agents):
    assert shell("validator", "run", "--task", "1") == 0
    assert agents.source is None


def test_aggregator__data__are_none_of_its_options(shell, agents):
    assert shell("aggregator", "run", "--data", "d") == 2


@pytest.mark.parametrize(
    ("setting", "option", "rule"),
    [
        ("all", (), "all"),
        ("models", (), "models"),
        ("all", ("--retention", "models"), "models"),
        ("models", ("--retention", "all"), "all"),
    ],
)
def test_run__retention__is_the_tasks_own_or_the_settings(shell, agents, monkeypatch, setting, option, rule):
    monkeypatch.setenv("CHAINFL_RETENTION", setting)
    assert shell("aggregator", "run", "--task", "1", *option) == 0
    assert agents.options.retention == rule


def test_run__deposit__fills_up_to_what_the_role_needs(shell, agents):
    shell.use(free=30 * TOKEN, wallet=1_000 * TOKEN)
    assert shell("worker", "run", "--task", "1", "--data", "d", "--deposit", "--yes") == 0
    assert shell.operator.sent == [f"deposit {70 * TOKEN}"]


@pytest.mark.parametrize("changes", [{"free": 100 * TOKEN}, {"member_view": replace(NOBODY, active_from=1)}])
def test_run__deposit_not_needed__sends_nothing(shell, agents, changes):
    shell.use(**changes)
    assert shell("worker", "run", "--task", "1", "--data", "d", "--deposit") == 0
    assert shell.operator.sent == []


def test_run__deposit_without_yes_or_terminal__is_refused_before_the_agent_starts(shell, agents):
    shell.use(wallet=1_000 * TOKEN)
    assert shell("worker", "run", "--task", "1", "--data", "d", "--deposit") == 11
    assert agents.options is None


def test_run__events__are_appended(shell, agents, tmp_path):
    (tmp_path / "e.jsonl").write_text("earlier\n")
    assert shell("aggregator", "run", "--events", "e.jsonl") == 0
    assert (tmp_path / "e.jsonl").read_text() == "earlier\n{}\n"


def test_run__events_to_standard_output__stay_alone_there(shell, agents):
    assert shell("aggregator", "run", "--events", "-") == 0
    assert shell.out == "{}\n"


def test_run__events_that_cannot_be_written__are_told(shell, agents):
    assert shell("aggregator", "run", "--events", "no/such/folder/e.jsonl") == 11


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Interrupted("stopped; nothing is at risk"), 130),
        (GasBudgetExhausted("too much"), 28),
        (DatasetMissing("not there", file="x", folder="d"), 71),
    ],
)
def test_run__the_agent_ends_with_an_error__has_its_exit_code(shell, agents, error, code):
    agents.error = error
    assert shell("worker", "run", "--data", "d") == code
    assert str(error) in shell.err


@pytest.mark.parametrize("role", ["worker", "validator", "aggregator"])
def test_leave_and_rejoin__each_role__sends_its_own(shell, role):
    assert shell(role, "leave", "1", "--yes") == 0
    assert shell(role, "rejoin", "1", "--yes") == 0
    assert shell.operator.sent == [f"leave {role.upper()}", f"rejoin {role.upper()}"]


def test_leave__in_the_middle_of_a_round__warns_of_what_must_still_be_revealed(shell):
    shell.use(
        round_view=replace(ROUND_VIEW, phase=Phase.COMMIT),
        member_view=replace(NOBODY, stake=Wei(100 * TOKEN), active_from=1),
    )
    shell("worker", "leave", "1", "--dry-run")
    assert "must still be revealed" in shell.err
    assert "100 CFL of stake stay locked" in shell.err


def test_rejoin__too_little_stake_left__is_told_before_gas_is_spent(shell):
    shell.use(member_view=replace(NOBODY, stake=Wei(49 * TOKEN), active_from=1))
    assert shell("worker", "rejoin", "1", "--yes") == 32
    shell.use(member_view=replace(NOBODY, stake=Wei(50 * TOKEN), active_from=1))
    assert shell("worker", "rejoin", "1", "--yes") == 0


def test_run__stake__is_deposited_and_given_to_the_agent(shell, agents):
    shell.use(free=30 * TOKEN, wallet=1_000 * TOKEN)
    command = ("run", "--task", "1", "--data", "d", "--deposit", "--yes")
    assert shell("worker", *command, "--stake", "250") == 0
    assert shell.operator.sent == [f"deposit {220 * TOKEN}"]
    assert agents.options.stake == 250 * TOKEN
    assert shell("aggregator", "run", "--task", "1", "--stake", "250") == 2
