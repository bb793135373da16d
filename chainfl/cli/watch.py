"""`chainfl watch`: keeps aggregates and updates right, and is paid by those who get them wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chainfl.cli.agents import open_events, tell_report
from chainfl.cli.context import App, pass_app
from chainfl.cli.options import TASK
from chainfl.cli.spending import Consent
from chainfl.errors import UsageError
from chainfl.types import TaskId, Wei

if TYPE_CHECKING:
    from chainfl.chain.operator import Operator


@click.command(epilog="Example: chainfl watch --task 1 --deposit")
@click.option("--task", "task_ids", type=TASK, multiple=True, help="Only this one (repeatable); default: every task.")
@click.option("--dry-run", is_flag=True, help="Only report; send nothing.")
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

    app.start_log()
    operator = app.operator_with_budget(app.settings.max_gas_wei if max_gas_wei is None else max_gas_wei)
    if deposit:
        _deposit_bonds(app, operator, task_ids, Consent(yes=yes))
    with open_events(events) as stream:
        options = AgentOptions(state_dir=app.settings.state_dir, name=name or operator.account, events=stream)
        watching = WatchOptions(task_ids, dry_run=dry_run, answers=answer)
        report = run_watcher(operator, app.store, options, watching)
    tell_report(report, as_json, to_stdout=str(events) != "-")


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
