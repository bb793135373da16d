"""`chainfl watch`: keeps aggregates and updates right, and is paid by those who get them wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from chainfl.cli.agents import open_events
from chainfl.cli.context import App, pass_app
from chainfl.cli.options import TASK
from chainfl.cli.output import Money, ether, plain, say, show_facts, show_json
from chainfl.cli.spending import Consent
from chainfl.errors import UsageError
from chainfl.tasks.state import ZERO_ADDRESS, Role
from chainfl.types import TaskId, Wei

if TYPE_CHECKING:
    from chainfl.agents.events import AgentReport
    from chainfl.chain.operator import Operator
    from chainfl.chain.records import StakeStatus

_LOGGER: Final = "chainfl.agents.challenger"
_AMOUNT: Final = re.compile(r"\b([a-z_]+)_wei=([0-9]+)\b", re.ASCII)
_NATIVE: Final = frozenset({"cost"})
"""The amounts of native wei among a watcher's events; all others are of the token."""


@click.command(epilog="Example: chainfl watch --task 1 --deposit")
@click.option("--task", "task_ids", type=TASK, multiple=True, help="Only this one (repeatable); default: every task.")
@click.option("--dry-run", is_flag=True, help="Only report; send nothing. Needs no key.")
@click.option("--answer", is_flag=True, help="Also serve chunks and nodes that others ask for, where you have them.")
@click.option("--deposit", is_flag=True, help="Deposit what the bonds of one dispute in each named task take.")
@click.option("--max-gas-wei", type=click.IntRange(0), help="Stop before gas costs more than this, in native wei.")
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
    help='Append one JSON object an event to this file ("-": standard output).',
)
@click.option("--name", help="What the watcher is called in its events; default: its address.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before depositing.")
@click.option("--json", "as_json", is_flag=True, help="Print the final report as JSON.")
@pass_app
def watch(
    app: App,
    task_ids: tuple[TaskId, ...],
    dry_run: bool,
    answer: bool,
    deposit: bool,
    max_gas_wei: int | None,
    events: Path | None,
    name: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Recompute every update's commitment and every aggregate, and dispute what is wrong.

    A dispute locks a bond, which comes back with half of what the cheat loses. Its cost and what it can earn are told
    before anything is sent. Run it again after any interruption: it carries on where it was.
    """
    from chainfl.agents.wiring import AgentOptions, WatchOptions, run_watcher

    if dry_run and deposit:
        raise UsageError("--dry-run sends nothing, so it does not go with --deposit")
    app.start_log()
    operator = _onlooker(app) if dry_run else _challenger(app, max_gas_wei)
    if deposit:
        _deposit_bonds(app, operator, task_ids, Consent(yes=yes))
    before = operator.stake_status()
    with open_events(events) as stream, _amounts_for_people(app.money):
        options = AgentOptions(state_dir=app.settings.state_dir, name=name or operator.account, events=stream)
        watching = WatchOptions(task_ids, dry_run=dry_run, answers=answer)
        report = run_watcher(operator, app.store, options, watching)
    _tell_report(app, report, task_ids, (before, operator.stake_status()), as_json, to_stdout=str(events) != "-")


def _challenger(app: App, max_gas_wei: int | None) -> Operator:
    return app.operator_with_budget(app.settings.max_gas_wei if max_gas_wei is None else max_gas_wei)


def _onlooker(app: App) -> Operator:
    """The chain for reading alone: as the chosen key's account, or, where no key is chosen, as nobody."""
    reader = app.reader
    if app.known_account is not None:
        return reader
    from chainfl.chain.operator import Operator

    return Operator(app.client, app.deployment, account=ZERO_ADDRESS)


def _deposit_bonds(app: App, operator: Operator, task_ids: tuple[TaskId, ...], consent: Consent) -> None:
    """A challenger's bond and the first demand's fee for each task. Raises UsageError without one."""
    from chainfl.cli.money import deposit_stake

    if not task_ids:
        raise UsageError("--deposit needs --task: each task asks for bonds of its own")
    economics = [operator.task(task_id).economics for task_id in task_ids]
    needed = sum(one.challenger_bond + one.demand_fee for one in economics)
    missing = Wei(max(0, needed - operator.stake_status().free))
    if missing:
        deposit_stake(app, operator, missing, consent)


# --- telling -------------------------------------------------------------------------------------


@contextmanager
def _amounts_for_people(money: Money) -> Iterator[None]:
    """In the log a watcher's amounts are of tokens and ether meanwhile. Its events keep wei."""

    def worded(found: re.Match[str]) -> str:
        name, wei = found[1], int(found[2])
        return f"{name}={ether(wei) if name in _NATIVE else money.show(wei)}"

    def reword(record: logging.LogRecord) -> bool:
        record.msg, record.args = _AMOUNT.sub(worded, record.getMessage()), ()
        return True

    logger = logging.getLogger(_LOGGER)
    logger.addFilter(reword)
    try:
        yield
    finally:
        logger.removeFilter(reword)


def _tell_report(
    app: App,
    report: AgentReport,
    task_ids: tuple[TaskId, ...],
    stakes: tuple[StakeStatus, StakeStatus],
    as_json: bool,
    *,
    to_stdout: bool,
) -> None:
    """What watching came to. stakes: before and after; what was claimed meanwhile does not count as earned.

    Where standard output carries the events, the last of them says so already.
    """
    before, after = stakes
    earned, bonds = max(0, after.credit - before.credit), _bonds_out(after)
    if as_json:
        fields = plain(report.as_fields()) | {"earned_wei": earned, "bonds_out_wei": bonds}
        show_json({"role": report.role, "tasks": report.tasks, **fields})
    elif to_stdout:
        show_facts(_report_facts(report, task_ids, app.money, earned, bonds))
    if after.credit:
        say(f"next: `chainfl rewards claim` for {app.money.show(after.credit)}")
    if bonds:
        say(f"next: `chainfl watch` again, which gets {app.money.show(bonds)} of bonds back")


def _bonds_out(status: StakeStatus) -> int:
    return sum(lock.amount for lock in status.locks if lock.role is Role.CHALLENGER)


def _report_facts(
    report: AgentReport, task_ids: tuple[TaskId, ...], money: Money, earned: int, bonds: int
) -> list[tuple[str, object]]:
    sent = report.transactions
    over = ", ".join(f"task {task_id} is over" for task_id in task_ids)
    return [
        ("ended", over or report.ended or "stopped"),
        ("disputes", f"{sent['Prove']} proofs, {sent['StartGame']} games, {sent['DemandChunk']} demands"),
        ("earned", money.show(earned)),
        ("bonds out", money.show(bonds)),
        ("transactions", f"{sum(sent.values())}, {report.gas:,} gas, {ether(report.cost_wei)}"),
    ]
