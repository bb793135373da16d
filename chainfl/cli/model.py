"""`chainfl model` and `chainfl round`: where a model came from, and whether that is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chainfl.cli import words
from chainfl.cli.context import App, pass_app
from chainfl.cli.options import ADDRESS, TASK, account_option, json_option
from chainfl.cli.output import say, show, show_facts, show_json, show_table
from chainfl.cli.spending import Consent, Spending, Step, report_sent, spend, spending_options
from chainfl.errors import LineageBroken, NotEligible, RegistryError, UsageError
from chainfl.tasks.cids import cid_text
from chainfl.types import Address, ModelId, Root, TaskId

if TYPE_CHECKING:
    from chainfl.agents.ports import SendResult
    from chainfl.chain.operator import Operator
    from chainfl.chain.records import Line, Model
    from chainfl.encoding.arrays import Int32Array
    from chainfl.registry.lineage import Lineage, UpdateLink, Verification, Version
    from chainfl.registry.material import TaskScope
    from chainfl.tasks.spec import TaskSpec

REFERENCE_HELP = "MODEL is an id (0x…), TASK for the task's newest model, or TASK/ROUND."


@click.group(epilog=REFERENCE_HELP)
def model() -> None:
    """Ask the registry where a model came from, verify it, fetch it."""


# --- list and show -------------------------------------------------------------------------------


@model.command("list", epilog="Example: chainfl model list --task 1")
@click.option("--task", "task_id", type=TASK, help="Only this task's.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many, newest first.")
@json_option
@pass_app
def list_(app: App, task_id: TaskId | None, limit: int, as_json: bool) -> None:
    """List model versions, newest first."""
    reader = app.reader
    found = _newest(reader, task_id, limit)
    lines = {number: reader.line(number) for number in {m.task_id for _, m in found}}
    if as_json:
        show_json([_version_json(model_id, m, lines[m.task_id]) for model_id, m in found])
        return
    if not found:
        say("the registry has no models yet")
        return
    rows = (_version_row(model_id, m, lines[m.task_id]) for model_id, m in found)
    show_table(["model", "task", "round", "updates", "licence", "access"], rows)


def _newest(reader: Operator, task_id: TaskId | None, limit: int) -> list[tuple[ModelId, Model]]:
    if task_id is not None:
        reader.task(task_id)  # an unknown task is told as such
        return list(reader.versions(task_id))[:limit]
    total = reader.num_models()
    start = max(0, total - limit)
    return list(reversed(reader.models(start, total - start)))


def _version_row(model_id: ModelId, found: Model, line: Line) -> tuple[object, ...]:
    access = "granted" if line.restricted else "public"
    made = "genesis" if found.round == 0 else found.accepted
    return ("0x" + model_id.hex(), found.task_id, found.round, made, line.licence or "-", access)


def _version_json(model_id: ModelId, found: Model, line: Line) -> dict[str, Any]:
    return {
        "model_id": model_id,
        "model": found,
        "cid": cid_text(found.cid),
        "float_cid": cid_text(found.float_cid),
        "line": line,
        "access_is_a_signal": True,
    }


@model.command("show", epilog=f"Example: chainfl model show 1   ({REFERENCE_HELP})")
@click.argument("reference", metavar="MODEL")
@account_option
@json_option
@pass_app
def show_(app: App, reference: str, account: Address | None, as_json: bool) -> None:
    """Show one version: owner, licence, access, roots and CIDs."""
    reader = app.reader
    model_id, found = resolve(reader, reference)
    line = reader.line(TaskId(found.task_id))
    who = account or app.known_account
    permitted = reader.has_access(model_id, who) if who else None
    if as_json:
        show_json({**_version_json(model_id, found, line), "account": who, "has_access": permitted})
        return
    show_facts(_facts(model_id, found, line))
    if who:
        show_facts([("permitted", f"{'yes' if permitted else 'no'}, for {who} (a signal)")])
    say("")
    say(words.ACCESS_IS_A_SIGNAL)


def _facts(model_id: ModelId, found: Model, line: Line) -> list[tuple[str, object]]:
    made = "the requester's genesis" if found.round == 0 else f"{found.accepted} accepted updates"
    return [
        ("model", "0x" + model_id.hex()),
        ("task", f"{found.task_id}, round {found.round}"),
        ("made from", made),
        ("parent", "0x" + found.parent.hex() if any(found.parent) else "none"),
        ("aggregator", found.aggregator if found.round else "none"),
        ("owner", line.owner),
        ("licence", line.licence or "none stated"),
        ("access", "those granted (a signal)" if line.restricted else "public (a signal)"),
        ("root", found.model_root.hex()),
        ("exact (int32)", cid_text(found.cid)),
        ("float32", cid_text(found.float_cid)),
        ("registered", f"block {found.registered_block}"),
    ]


def resolve(reader: Operator, reference: str) -> tuple[ModelId, Model]:
    """The version that a person means. Raises UsageError for no reference, RegistryError for no such version."""
    text = reference.removeprefix("0x")
    if re.fullmatch("[0-9a-fA-F]{64}", text):
        model_id = ModelId(bytes.fromhex(text))
        return model_id, reader.model(model_id)
    match = re.fullmatch("([0-9]{1,20})(?:/([0-9]{1,5}))?", reference, re.ASCII)
    if match is None:
        raise UsageError(f"{reference!r} names no model. {REFERENCE_HELP}")
    task_id = TaskId(int(match[1]))
    reader.task(task_id)  # an unknown task is told as such
    wanted = int(match[2]) if match[2] else None
    for model_id, found in reader.versions(task_id):
        if wanted is None or found.round == wanted:
            return model_id, found
    raise RegistryError(f"task {task_id} has no model of round {wanted}: the round is void, or not over")


# --- lineage and verify --------------------------------------------------------------------------


@model.command(epilog="Example: chainfl model lineage 1 --dot lineage.dot")
@click.argument("reference", metavar="MODEL")
@click.option("--dot", type=click.Path(dir_okay=False, path_type=Path), help="Also write the graph for Graphviz.")
@json_option
@pass_app
def lineage(app: App, reference: str, dot: Path | None, as_json: bool) -> None:
    """Show what a model was made from, back to its genesis, as the chain tells it. `model verify` checks it."""
    from chainfl.registry.lineage import to_dot, to_json

    found = _lineage_of(app, reference)
    if dot is not None:
        _write_text(dot, to_dot(found))
        say(f"graph in {dot}")
    if as_json:
        show(to_json(found).rstrip())
        return
    for line in tree(found):
        show(line)


def tree(found: Lineage) -> Iterator[str]:
    """The lineage as lines of text, genesis first, each version with the updates that made it."""
    access = "those granted" if found.restricted else "public"
    yield f"task {found.task_id}: owner {found.owner}, licence {found.licence or 'none'}, access {access} (a signal)"
    for version in found.versions:
        yield from _version_lines(version)


def _version_lines(version: Version) -> Iterator[str]:
    if version.round == 0:
        yield f"genesis  0x{version.model_id.hex()}"
        if version.parent is not None:
            yield f"├─ continues 0x{version.parent.hex()}"
    else:
        yield f"round {version.round}  0x{version.model_id.hex()}"
        yield f"├─ aggregator {version.aggregator}"
    for update in version.updates:
        yield f"├─ {_update_words(update)}"
    yield f"└─ float32 {version.float_cid}"


def _update_words(update: UpdateLink) -> str:
    verdict = f"weight {update.weight}, score {update.score}" if update.weight else "rejected"
    return f"worker {update.worker}: {verdict}, {update.num_examples} examples by its own account"


@model.command(epilog="Example: chainfl model verify 1")
@click.argument("reference", metavar="MODEL")
@json_option
@pass_app
def verify(app: App, reference: str, as_json: bool) -> None:
    """Derive a model again, from genesis through every round, out of the stored bytes.

    Names the first link that does not hold, and then ends with exit code 81.
    """
    from chainfl.registry.lineage import verify_lineage

    reader = app.reader
    model_id, found = resolve(reader, reference)
    verification = verify_lineage(reader, app.store, TaskId(found.task_id), up_to_round=found.round)
    if as_json:
        links = [{"link": link.what, "model_id": link.model_id, "problem": link.problem} for link in verification.links]
        show_json({"model_id": model_id, "verified": verification.is_valid, "links": links})
    else:
        _show_links(verification)
    verification.require()
    if not as_json:
        show(f"verified: 0x{model_id.hex()} derives from its genesis and the updates on record")


def _show_links(verification: Verification) -> None:
    for link in verification.links:
        show(f"{'✓' if link.holds else '✗'} {link.what}" + (f": {link.problem}" if link.problem else ""))


def _lineage_of(app: App, reference: str) -> Lineage:
    """The lineage up to the version that is meant."""
    from dataclasses import replace

    from chainfl.registry.lineage import read_lineage

    reader = app.reader
    _, found = resolve(reader, reference)
    whole = read_lineage(reader, TaskId(found.task_id))
    return replace(whole, versions=tuple(v for v in whole.versions if v.round <= found.round))


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=str(path)) from error


# --- pull ----------------------------------------------------------------------------------------


@model.command(epilog="Example: chainfl model pull 1 --out model.safetensors")
@click.argument("reference", metavar="MODEL")
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Where to write it.")
@click.option("--exact", is_flag=True, help="The int32 vector that the chain's root is of, instead of float32.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@json_option
@pass_app
def pull(app: App, reference: str, out: Path | None, exact: bool, force: bool, as_json: bool) -> None:
    """Fetch a model, check it against its root on chain, and write it as safetensors.

    float32 by default: any PyTorch user can load it.
    """
    reader = app.reader
    model_id, found = resolve(reader, reference)
    suffix = "-exact" if exact else ""
    target = out or Path(f"model-task{found.task_id}-round{found.round}{suffix}.safetensors")
    if target.exists() and not force:
        raise UsageError(f"{target} is already there; replace it with --force", path=str(target))
    spec, scope = scope_of_task(app, TaskId(found.task_id))
    values = _checked_model(app, scope, found.model_root, found)
    cid = cid_text(found.cid if exact else found.float_cid)
    _write_model(app, target, spec, values, found, exact)
    if as_json:
        show_json({"model_id": model_id, "path": str(target), "cid": cid, "root": found.model_root})
        return
    show(str(target))
    say(f"{target.stat().st_size:,} bytes, verified against the root on chain")
    if not exact:
        say(f'load it: model = chainfl.load_model("{target}")')


def scope_of_task(app: App, task_id: TaskId) -> tuple[TaskSpec, TaskScope]:
    from chainfl.agents.wiring import scope_of
    from chainfl.registry.material import fetch_spec

    spec = fetch_spec(app.store, app.reader.task(task_id))
    return spec, scope_of(app.reader, task_id, spec)


def _checked_model(app: App, scope: TaskScope, root: Root, found: Model) -> Int32Array:
    from chainfl.registry.material import fetch_model

    return fetch_model(app.store, scope, root, found.cid)


def _write_model(app: App, target: Path, spec: TaskSpec, values: Int32Array, found: Model, exact: bool) -> None:
    """The exact bytes as they are stored; float32 made from the integers, whose root was checked."""
    import io

    from chainfl.encoding.layout import Layout
    from chainfl.encoding.payload import max_model_bytes, write_float_model
    from chainfl.storage.files import write_whole
    from chainfl.storage.unixfs import cid_of

    if exact:
        app.store.get_file(cid_text(found.cid), target, max_bytes=max_model_bytes(values.size))
        return
    stream = io.BytesIO()
    layout = Layout.from_json(spec.layout.to_json())
    write_float_model(stream, layout, values, spec.format.model_scale_bits, spec.architecture())
    if cid_of(stream.getbuffer()) != cid_text(found.float_cid):
        raise LineageBroken("the float32 file that the aggregator registered is not this model; see --exact")
    try:
        write_whole(target, stream.getbuffer())
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}", path=str(target)) from error


# --- access --------------------------------------------------------------------------------------


@model.command(epilog="Example: chainfl model grant 1 0x…")
@click.argument("reference", metavar="MODEL")
@click.argument("account", type=ADDRESS)
@click.option("--revoke", is_flag=True, help="Take the grant back.")
@spending_options
@pass_app
def grant(app: App, reference: str, account: Address, revoke: bool, consent: Consent) -> None:
    """Permit an account a model that you own, with all versions of its task.

    A signal of what you permit, not a lock: the bytes are public to whoever has the CID.
    """
    operator = app.operator
    task_id, line = _owned_line(operator, reference)
    notes = [words.ACCESS_IS_A_SIGNAL]
    if not line.restricted and not revoke:
        notes.append("these models are public, so the grant shows only once `chainfl model restrict` restricts them")

    def send(port: Operator) -> SendResult:
        return port.revoke(task_id, account) if revoke else port.grant(task_id, account)

    what = "Revoke the access of" if revoke else "Grant access to"
    spending = Spending(f"{what} {account} for the models of task {task_id}", [Step("sending", send)], notes=notes)
    sent = spend(operator, spending, consent, app.money.show)
    done = f"{'revoked for' if revoke else 'granted to'} {account}"
    report_sent(sent, consent, done, task_id=task_id, account=account, granted=not revoke)


@model.command(epilog="Example: chainfl model restrict 1")
@click.argument("reference", metavar="MODEL")
@click.option("--public", is_flag=True, help="Make them public again.")
@spending_options
@pass_app
def restrict(app: App, reference: str, public: bool, consent: Consent) -> None:
    """Declare a model that you own, with all versions of its task, as permitted only to those granted.

    A signal of what you permit, not a lock: the bytes are public to whoever has the CID.
    """
    operator = app.operator
    task_id, _ = _owned_line(operator, reference)
    spending = Spending(
        f"Declare the models of task {task_id} {'public' if public else 'restricted'}",
        [Step("sending", lambda port: port.restrict(task_id, not public))],
        notes=[words.ACCESS_IS_A_SIGNAL],
    )
    sent = spend(operator, spending, consent, app.money.show)
    report_sent(sent, consent, "declared", task_id=task_id, restricted=not public)


def _owned_line(operator: Operator, reference: str) -> tuple[TaskId, Line]:
    """Raises NotEligible unless the account owns the model."""
    _, found = resolve(operator, reference)
    task_id = TaskId(found.task_id)
    line = operator.line(task_id)
    if line.owner != operator.account:
        raise NotEligible(f"the models of task {task_id} belong to {line.owner}, not to {operator.account}")
    return task_id, line


# --- round replay --------------------------------------------------------------------------------
