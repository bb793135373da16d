"""Roles at the command line: their data, their stake, and leaving."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_fakes import NOBODY, ROUND_VIEW, Shell, shell_with_chain

from chainfl.agents import wiring
from chainfl.agents.events import AgentReport
from chainfl.agents.shards import TaskShard
from chainfl.agents.wiring import AgentOptions, DataSource
from chainfl.errors import AppUnusable, DatasetMissing, GasBudgetExhausted, Interrupted
from chainfl.tasks.spec import TOKEN
from chainfl.tasks.state import Phase, Role
from chainfl.training.app import AppPart
from chainfl.training.datasets import load_digits, save_folder
from chainfl.types import Wei


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


class Agents:
    """Stands in for the wiring and remembers what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source: DataSource | None = None
        self.app: AppPart | None = None
        self.options: AgentOptions | None = None
        self.error: BaseException | None = None
        monkeypatch.setattr(
            wiring,
            "run_worker",
            lambda port, store, data, options, app=None: self._run(Role.WORKER, data, options, app),
        )
        monkeypatch.setattr(
            wiring, "run_validator", lambda port, store, data, options: self._run(Role.VALIDATOR, data, options)
        )
        monkeypatch.setattr(
            wiring, "run_aggregator", lambda port, store, options: self._run(Role.AGGREGATOR, None, options)
        )

    def _run(
        self, role: Role, data: DataSource | None, options: AgentOptions, app: AppPart | None = None
    ) -> AgentReport:
        self.app = app
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


@pytest.mark.parametrize("role", ["worker", "validator"])
def test_run__before_anything_slow__says_that_it_starts(shell, agents, role):
    assert shell(role, "run", "--data", "images") == 0
    assert shell.err.startswith("starting")


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


APP = """
import chainfl, numpy
pair = numpy.eye(6, 4, dtype="float32"), numpy.arange(6) % 3
app = chainfl.App(dataset=pair, root_data=(pair[0][:3], pair[1][:3]))
bare = chainfl.App(model="mlp")
"""


@pytest.fixture
def fitted(monkeypatch, tmp_path) -> list[object]:
    """An app in the current folder, and what was checked against which task before anything was deposited."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "cli_app", raising=False)
    (tmp_path / "cli_app.py").write_text(APP)
    checked: list[object] = []
    monkeypatch.setattr(wiring, "check_app", lambda port, store, task_id, app: checked.append((task_id, app)))
    return checked


@pytest.mark.parametrize(("role", "examples"), [("worker", 6), ("validator", 3)])
def test_run__an_app__is_what_the_agent_uses_once_it_fits(shell, agents, fitted, role, examples):
    command = (role, "run", "--task", "1", "--app", "cli_app:app")
    assert shell(*command) == 0
    assert (len(agents.source.data), fitted) == (examples, [])
    shell.use(free=0, wallet=1_000 * TOKEN)
    assert shell(*command, "--deposit", "--yes") == 0
    assert fitted == [(1, agents.source)]


@pytest.mark.parametrize("role", ["worker", "validator"])
@pytest.mark.parametrize("arguments", [("--data", "d"), ("--dataset", "digits", "--shard", "1/2"), ("--shard", "auto")])
def test_run__an_app_with_data_beside_other_data__is_refused_by_the_options_name(
    shell, agents, fitted, role, arguments
):
    assert shell(role, "run", "--task", "1", "--app", "cli_app:app", *arguments) == 19
    assert f"the app has data, and {arguments[0]} brings others: leave one of them out" in shell.err
    assert agents.options is None


@pytest.mark.parametrize("role", ["worker", "validator"])
def test_run__an_app_without_data__takes_those_of_the_options(shell, agents, fitted, tmp_path, role):
    save_folder(load_digits().subset(np.arange(5)), tmp_path / "mine")
    command = (role, "run", "--task", "1", "--app", "cli_app:bare")
    shell.use(free=0, wallet=1_000 * TOKEN)
    assert shell(*command, "--data", str(tmp_path / "mine"), "--deposit", "--yes") == 0
    assert (len(agents.source.data), agents.source.model) == (5, "mlp")
    assert fitted == [(1, agents.source)]
    assert shell(*command, "--dataset", "digits", "--shard", "1/3") == 0
    assert len(agents.source.data) == 599
    assert shell(*command, "--data", str(tmp_path / "mine"), "--seed", "1") == 11
    assert "--seed goes with --dataset" in shell.err


def test_worker__an_app_beside_a_shard_of_the_task__trains_on_it(shell, agents, fitted):
    assert shell("worker", "run", "--task", "1", "--app", "cli_app:bare", "--shard", "auto") == 0
    assert agents.source == TaskShard()
    assert (agents.app.model, agents.app.data) == ("mlp", None)
    assert shell("worker", "run", "--task", "1", "--app", "cli_app:bare") == 19
    assert "add --data or --shard" in shell.err


@pytest.mark.parametrize("role", ["worker", "validator"])
def test_run__device__is_the_machines_own(shell, agents, monkeypatch, role):
    assert shell(role, "run", "--task", "1", "--data", "d") == 0
    assert agents.options.device == "cpu"
    agents.options = None
    assert shell(role, "run", "--task", "1", "--data", "d", "--device", "tpu", "--deposit", "--yes") == 11
    assert "no device 'tpu'; it has cpu" in shell.err
    assert (shell.operator.sent, agents.options) == ([], None)


def test_run__an_app_that_cannot_be_used__deposits_nothing(shell, agents, fitted, monkeypatch):
    shell.use(free=0, wallet=1_000 * TOKEN)
    command = ("worker", "run", "--task", "1", "--deposit", "--yes")
    assert shell(*command, "--app", "cli_app:other") == 19
    assert "cli_app has no other" in shell.err

    def refuse(*_: object) -> None:
        raise AppUnusable("the app's model is not the task's")

    monkeypatch.setattr(wiring, "check_app", refuse)
    assert shell(*command, "--app", "cli_app:app") == 19
    assert (shell.operator.sent, agents.options) == ([], None)


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
