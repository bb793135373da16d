"""`chainfl round`: a round recomputed from public data."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.model import resolve, scope_of_task
from chainfl.cli.options import TASK, json_option
from chainfl.cli.output import plain, show, show_facts, show_json
from chainfl.errors import LineageBroken, UsageError
from chainfl.tasks.state import Role, RoundView
from chainfl.types import Root, TaskId

if TYPE_CHECKING:
    from chainfl.agents.audit import Check
    from chainfl.chain.operator import Operator
    from chainfl.registry.replay import ReplayedRound


@click.group("round")
def round_() -> None:
    """Recompute rounds from public data."""


@round_.command(epilog="Example: chainfl round replay 1 3")
@click.argument("task_id", type=TASK)
@click.argument("number", metavar="ROUND", type=click.IntRange(1, 65_533))
@json_option
@pass_app
def replay(app: App, task_id: TaskId, number: int, as_json: bool) -> None:
    """Compute a round's aggregate again, from the updates and weights on record, and compare the roots.

    Ends with exit code 81 when they differ.
    """
    posted = _posted_root(app.reader, task_id, number)
    replayed = _replay(app, task_id, number)
    matches = replayed.root == posted
    if as_json:
        show_json(_replay_json(task_id, number, replayed, posted))
    else:
        show_facts(
            [
                ("round", f"{number} of task {task_id}"),
                ("updates", f"{replayed.num_updates} accepted, total weight {replayed.total_weight:,}"),
                ("computed root", replayed.root.hex()),
                ("root on chain", posted.hex()),
                ("saturated values", replayed.num_saturated),
                ("the same", "yes" if matches else "NO"),
            ]
        )
    if not matches:
        raise LineageBroken(f"round {number} computes to {replayed.root.hex()}, on chain is {posted.hex()}")


def _replay_json(task_id: TaskId, number: int, replayed: ReplayedRound, posted: Root) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "round": number,
        "num_updates": replayed.num_updates,
        "total_weight": replayed.total_weight,
        "num_saturated": replayed.num_saturated,
        "computed_root": replayed.root,
        "root_on_chain": posted,
        "matches": replayed.root == posted,
    }


@round_.command(epilog="Example: chainfl round audit 1 3")
@click.argument("task_id", type=TASK)
@click.argument("number", metavar="ROUND", type=click.IntRange(1, 65_533))
@json_option
@pass_app
def audit(app: App, task_id: TaskId, number: int, as_json: bool) -> None:
    """Check every update and the aggregate of a round against public data, one line each.

    For what is wrong it names the transaction that would dispute it; `chainfl watch` sends it while there is time. Ends
    with exit code 81 when anything is wrong.
    """
    checks = _audit(app, task_id, number)
    if as_json:
        show_json([plain(asdict(check)) for check in checks])
    else:
        for check in checks:
            show(f"{'✓' if check.is_right else '✗'} {check.what}: {check.detail}")
            if check.dispute:
                show(f"  disputed by {check.dispute}")
    wrong = [check.what for check in checks if not check.is_right]
    if wrong:
        raise LineageBroken(f"round {number} of task {task_id}: wrong are {', '.join(wrong)}")


def _audit(app: App, task_id: TaskId, number: int) -> list[Check]:
    from tempfile import TemporaryDirectory

    from chainfl.agents.audit import audit_round
    from chainfl.agents.events import AgentReport, EventLog
    from chainfl.agents.evidence import Evidence
    from chainfl.agents.journal import Journal
    from chainfl.agents.wiring import AgentOptions, open_task

    reader = app.reader
    view = _round_as_opened(reader, task_id, number)
    with TemporaryDirectory(prefix="chainfl-audit-") as folder:
        journal = Journal(Path(folder))
        log, report = EventLog("audit", Role.CHALLENGER), AgentReport(Role.CHALLENGER)
        options = AgentOptions(state_dir=Path(folder), name="audit")
        evidence = Evidence(open_task(reader, app.store, task_id, journal, log, report, options))
        try:
            posted = reader.posted_aggregates(task_id, number, view.opened_block)
            return list(audit_round(evidence, view, posted[-1] if posted else None))
        finally:
            journal.close()


def _round_as_opened(reader: Operator, task_id: TaskId, number: int) -> RoundView:
    """What a round started from. Raises UsageError for one that has not begun."""
    current = reader.round(task_id)
    if number > current.round:
        raise UsageError(f"task {task_id} has not come to round {number} yet; it is in round {current.round}")
    if number == current.round:
        return current
    root, _ = reader.model_location(task_id, number - 1)
    start = reader.task(task_id).created_block
    before = [p for n in range(number - 1, 0, -1) for p in reversed(reader.posted_aggregates(task_id, n, start))]
    state_root = next((p.claim.state_root for p in before if p.claim.model_root == root), None)
    return replace(
        current,
        round=number,
        opened_block=start,
        model_root=root,
        state_root=reader.task(task_id).genesis_state_root if state_root is None else state_root,
    )


def _posted_root(reader: Operator, task_id: TaskId, number: int) -> Root:
    """The root that the round ended with, or that is posted while it may still be challenged."""
    view, state = reader.task(task_id), reader.round(task_id)
    if number > min(state.round, view.rounds):
        raise UsageError(f"task {task_id} has not come to round {number} yet; it is in round {state.round}")
    if number == state.round and state.posted_at and not state.phase.is_terminal:
        return state.aggregate_root
    _, found = resolve(reader, f"{task_id}/{number}")
    return found.model_root


def _replay(app: App, task_id: TaskId, number: int) -> ReplayedRound:
    from chainfl.registry.material import fetch_checkpoint
    from chainfl.registry.replay import accepted_updates, replay_round

    reader = app.reader
    _, scope = scope_of_task(app, task_id)
    view = _round_as_opened(reader, task_id, number)
    base_root, base_cid = reader.model_location(task_id, number - 1)
    base = fetch_checkpoint(app.store, scope, base_root, view.state_root, base_cid)
    revealed = reader.revealed_updates(task_id, number, view.opened_block)
    tallied = reader.tallied_updates(task_id, number, view.opened_block)
    updates = accepted_updates(app.store, scope, number, base_root, revealed, tallied)
    return replay_round(base.model, updates, scope.format, state=base.state)
