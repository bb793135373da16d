"""`chainfl round`: a round as public data tell it, and recomputed from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.model import resolve, scope_of_task
from chainfl.cli.options import ADDRESS, TASK, json_option
from chainfl.cli.output import MARKS, plain, say, show, show_facts, show_json, show_table
from chainfl.cli.words import outcome_words, phase_words
from chainfl.errors import AuditFailed, LineageBroken, UsageError
from chainfl.scratch import scratch_folder
from chainfl.tasks.state import Outcome, Role
from chainfl.types import Address, Root, TaskId

if TYPE_CHECKING:
    from chainfl.agents.audit import Check, ContractCall, Dispute, RoundRecord
    from chainfl.chain.coordinator import Coordinator
    from chainfl.chain.operator import Operator
    from chainfl.registry.replay import ReplayedRound


@click.group("round")
def round_() -> None:
    """Look at rounds; recompute them from public data."""


@round_.command("show", epilog="Example: chainfl round show 1 3")
@click.argument("task_id", type=TASK)
@click.argument("number", metavar="ROUND", type=click.IntRange(1, 65_533))
@json_option
@pass_app
def show_round(app: App, task_id: TaskId, number: int, as_json: bool) -> None:
    """Show who took part in a round, whether by a draw, and what their updates weigh."""
    from chainfl.agents.audit import read_record

    reader = app.reader
    reader.task(task_id)  # an unknown task is told as such
    record = read_record(reader, reader.round(task_id), task_id, number, _outcome_of(reader, task_id, number))
    revealed = reader.revealed_updates(task_id, number, record.view.opened_block)
    parts = _parts(record, [update.worker for update in revealed])
    if as_json:
        show_json(_round_json(task_id, record, parts))
        return
    show_facts([("round", f"{number} of task {task_id}"), ("state", _state_words(record)), *_draw_facts(record)])
    show()
    show_table(["worker", "update", "weight"], [_part_row(record, worker, update) for worker, update in parts.items()])


def _parts(record: RoundRecord, revealed: list[Address]) -> dict[Address, bool]:
    """Those who were drawn or revealed an update: whether they did."""
    drawn = record.draw.drawn if record.draw is not None else ()
    return {worker: worker in revealed for worker in dict.fromkeys([*drawn, *revealed])}


def _part_row(record: RoundRecord, worker: Address, has_revealed: bool) -> tuple[object, ...]:
    fate = "refuted" if worker in record.refuted_updates else "revealed" if has_revealed else "none"
    return worker, fate, record.weights.get(worker, "")


def _draw_facts(record: RoundRecord) -> list[tuple[str, object]]:
    if not record.draws:
        return [("drawn", "nobody: everybody takes part")]
    if record.draw is None:
        return [("drawn", "nobody")]
    draw = record.draw
    waiting = sum(member.waits for member in draw.pool)
    return [("drawn", f"{len(draw.drawn)} of {waiting} in block {draw.block_number}, by the hash of {draw.seed_block}")]


def _round_json(task_id: TaskId, record: RoundRecord, parts: dict[Address, bool]) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "round": record.view.round,
        "outcome": record.outcome,
        "is_over": record.is_over,
        "draw": record.draw,
        "workers": [
            {"account": worker, "has_revealed": revealed, "weight": record.weights.get(worker)}
            for worker, revealed in parts.items()
        ],
    }


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
@click.option("--account", type=ADDRESS, help="Who would dispute: proofs are bound to it. [default: the chosen key's]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what would dispute what is wrong here, as JSON: proofs, and calldata that anybody's wallet can send.",
)
@json_option
@pass_app
def audit(app: App, task_id: TaskId, number: int, account: Address | None, out: Path | None, as_json: bool) -> None:
    """Check every update and every posted aggregate of a round against public data, one line each.

    For what is wrong it names the transactions that would dispute it; `chainfl watch` sends them while there is time.
    Not checked are votes and their medians, pay, and the float32 file of the model.

    Ends with exit code 82 when an aggregate that stands is wrong, or an update that counts or may still count. What
    was refuted or weighs 0 is shown with ✗, too, but did no harm.
    """
    record, checks = _audit(app, task_id, number, account or app.known_account)
    contract = _coordinator(app)
    if as_json:
        show_json(_audit_json(contract, task_id, record, checks))
    else:
        show(f"{MARKS[None]} round {number}: {_state_words(record)}")
        for check in checks:
            _show_check(check)
    if out is not None:
        _write_disputes(app, out, contract, checks, account)
    if wrong := [check.what for check in checks if check.fails]:
        raise AuditFailed(f"round {number} of task {task_id}: wrong are {', '.join(wrong)}", task_id=task_id)


def _audit(app: App, task_id: TaskId, number: int, sender: Address | None) -> tuple[RoundRecord, list[Check]]:
    from chainfl.agents.audit import audit_round, read_record
    from chainfl.agents.events import AgentReport, EventLog
    from chainfl.agents.journal import Journal
    from chainfl.agents.wiring import AgentOptions, open_task

    reader = app.reader
    reader.task(task_id)  # an unknown task is told as such
    current = reader.round(task_id)
    record = read_record(reader, current, task_id, number, _outcome_of(reader, task_id, number))
    with scratch_folder() as folder:
        journal = Journal(folder)
        log, report = EventLog("audit", Role.CHALLENGER), AgentReport(Role.CHALLENGER)
        options = AgentOptions(state_dir=folder, name="audit")
        try:
            context = open_task(reader, app.store, task_id, journal, log, report, options)
            return record, list(audit_round(context, record, sender))
        finally:
            journal.close()


def _coordinator(app: App) -> Coordinator:
    from chainfl.chain.coordinator import Coordinator

    return Coordinator(app.reader.coordinator)


def _outcome_of(reader: Operator, task_id: TaskId, number: int) -> Outcome:
    """How the round ended; PENDING while it runs."""
    closed = [event.arguments for event in reader.task_events(task_id) if event.name == "RoundClosed"]
    return next((Outcome(event["outcome"]) for event in closed if event["round"] == number), Outcome.PENDING)


def _state_words(record: RoundRecord) -> str:
    if record.is_over:
        return outcome_words(record.outcome)
    return f"running: {phase_words(record.view.phase)}"


def _show_check(check: Check) -> None:
    show(f"{MARKS[check.is_right]} {check.what}: {check.detail}")
    for dispute in check.disputes:
        show(f"  disputed by {', and a block later '.join(map(str, dispute.calls))}")
    if check.note:
        show(f"  {check.note}")


def _audit_json(contract: Coordinator, task_id: TaskId, record: RoundRecord, checks: list[Check]) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "round": record.view.round,
        "outcome": record.outcome,
        "is_over": record.is_over,
        "checks": [_check_json(contract, check) for check in checks],
    }


def _check_json(contract: Coordinator, check: Check) -> dict[str, Any]:
    return {
        "what": check.what,
        "is_right": check.is_right,
        "detail": check.detail,
        "is_settled": check.is_settled,
        "fails": check.fails,
        "note": check.note,
        "disputes": [_dispute_json(contract, dispute) for dispute in check.disputes],
    }


def _dispute_json(contract: Coordinator, dispute: Dispute) -> dict[str, Any]:
    return {"proof": dispute.proof, "calls": [_call_json(contract, call) for call in dispute.calls]}


def _call_json(contract: Coordinator, call: ContractCall) -> dict[str, Any]:
    """data: the calldata; None for a call that is bound to a sender who is not known."""
    arguments = call.arguments
    data = contract.transaction(call.function, *arguments.values()).data if call.is_complete else None
    return {"to": contract.address, "function": call.function, "arguments": arguments, "data": data}


def _write_disputes(app: App, out: Path, contract: Coordinator, checks: list[Check], account: Address | None) -> None:
    """Raises KeyfileError for a proof without anybody to be bound to, UsageError for a file that cannot be written."""
    disputes: list[tuple[str, Dispute]] = []
    for check in checks:
        known = [dispute for _, dispute in disputes]  # a demand serves the update and the attempt that needs it
        disputes += [(check.what, dispute) for dispute in check.disputes if dispute not in known]
    if not disputes:
        say(f"there is nothing to dispute now: {out} is not written")
        return
    if not all(call.is_complete for _, dispute in disputes for call in dispute.calls):
        app.account(account)
    listed = [{"what": what, **_dispute_json(contract, dispute)} for what, dispute in disputes]
    try:
        out.write_text(json.dumps(plain(listed), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", path=str(out)) from error
    say(f"wrote {out}: send each dispute's calls in their order, a block apart")


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
    from chainfl.agents.audit import round_as_opened
    from chainfl.registry.material import fetch_checkpoint
    from chainfl.registry.replay import accepted_updates, replay_round

    reader = app.reader
    _, scope = scope_of_task(app, task_id)
    view = round_as_opened(reader, reader.round(task_id), task_id, number)
    base_root, base_cid = reader.model_location(task_id, number - 1)
    base = fetch_checkpoint(app.store, scope, base_root, view.state_root, base_cid)
    revealed = reader.revealed_updates(task_id, number, view.opened_block)
    tallied = reader.tallied_updates(task_id, number, view.opened_block)
    updates = accepted_updates(app.store, scope, number, base_root, revealed, tallied)
    return replay_round(base.model, updates, scope.format, state=base.state)
