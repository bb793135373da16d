"""`chainfl task`: publish, look at, follow and cancel tasks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chainfl.cli import words
from chainfl.cli.context import App, pass_app
from chainfl.cli.options import ADDRESS, CID, COMPRESSIONS, MODEL, TASK, json_option
from chainfl.cli.output import Money, duration, plain, say, show, show_facts, show_json, show_table
from chainfl.cli.spending import Change, Consent, Spending, Step, report_sent, spend, spending_options
from chainfl.errors import SpecificationError, StorageError
from chainfl.scratch import scratch_folder
from chainfl.tasks.payouts import estimate_round
from chainfl.tasks.rules import longest_round_s
from chainfl.tasks.server_settings import SERVERS, server_words
from chainfl.tasks.state import (
    ENROLLED_ROLES,
    IDLE,
    SELECTIONS,
    Block,
    Draw,
    DrawBy,
    Economics,
    Format,
    Member,
    Phase,
    RoundView,
    Rule,
    TaskView,
    Windows,
)
from chainfl.types import Cid, TaskId, Wei

if TYPE_CHECKING:
    from chainfl.chain.events import Event
    from chainfl.chain.operator import Operator
    from chainfl.chain.records import Escrow, Line
    from chainfl.tasks.spec import PayloadEntry, TaskSpec, TrainingEntry

MAX_MODEL_BYTES = 1 << 40
RULES = tuple(rule.name.lower() for rule in Rule)
FOLLOW_TIMEOUT_S = 1.0


@click.group()
def task() -> None:
    """Create, list, show, watch and cancel tasks."""


# --- create --------------------------------------------------------------------------------------


@task.command(epilog="Example: chainfl task template > task.toml")
def template() -> None:
    """Print a commented task file, for `chainfl task create --file`."""
    from chainfl.cli.task_file import TEMPLATE

    show(TEMPLATE.rstrip())


@task.command(epilog="Example: chainfl task create --preset digits --reward 1000 --workers 3-5 --enrolment 30min")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The task as a TOML file.")
@click.option("--preset", help="Start from settings for a data set: digits, mnist, cifar10.")
@click.option(
    "--program",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own model, a torch.export archive, instead of a registered one.",
)
@click.option("--name", help="What people see.")
@click.option("--description", help="More for people.")
@click.option("--licence", help="Licence of the models, as an SPDX name.")
@click.option("--reward", metavar="TOKENS", help="Escrowed for all rounds together.")
@click.option("--rounds", type=int, help="How many rounds.")
@click.option("--workers", metavar="N|MIN-MAX", help="How many workers.")
@click.option("--validators", metavar="N|MIN-MAX", help="How many validators.")
@click.option("--aggregators", metavar="N|MIN-MAX", help="How many aggregators.")
@click.option("--clients-per-round", type=int, help="So many workers, drawn anew for each round. [default: everybody]")
@click.option("--selection", type=click.Choice(SELECTIONS), help="By what they are drawn.")
@click.option("--validator", "named_validators", type=ADDRESS, multiple=True, help="Admit only this one (repeatable).")
@click.option("--rule", type=click.Choice(RULES), help="How updates become a step, coordinate by coordinate.")
@click.option("--trim", metavar="N/D", help="Of trimmed_mean: the share that is dropped at each end, such as 1/5.")
@click.option("--server", type=click.Choice(SERVERS), help="How the server moves the model by that step.")
@click.option("--server-rate", metavar="N/D", help="Of the step, such as 1/2, or an adaptive server's rate.")
@click.option("--momentum", metavar="N/D", help="The server's momentum, such as 9/10; 0 for none.")
@click.option("--second", metavar="N/D", help="Of adam and yogi: the share of the second moment that is kept.")
@click.option("--tau", metavar="NUMBER", help="Of adagrad, adam and yogi: what is added to its root.")
@click.option("--group-size", type=int, help="Above so many updates the mean is a sum of group sums.")
@click.option("--enrolment", metavar="TIME", help="How long enrolment lasts: 90s, 10min, 2h, 1d.")
@click.option("--seed", type=click.IntRange(0), help="Of a registered model's initial weights.")
@click.option("--dataset-cid", type=CID, help="A published data set (`chainfl data publish`): workers take its shards.")
@click.option("--compression", type=click.Choice(COMPRESSIONS), help="Of the updates' files.")
@click.option("--keep", metavar="SHARE", help="Of topk: the share of an update's values that is sent, such as 0.01.")
@click.option("--parent", type=MODEL, help="Id of the model that this task continues, for its lineage.")
@spending_options
@pass_app
def create(app: App, consent: Consent, file: Path | None, seed: int | None, parent: bytes | None, **flags: Any) -> None:
    """Publish a task and escrow its reward.

    A file (--file) gives all or some of the settings, a preset the rest, and flags win over both. Everything is shown
    before anything is sent. Free stake pays the reward; what is missing is deposited first.

    A model of your own (--program) keeps the preset's data and training. Python makes such a file:

    \b
      batch = torch.export.Dim("batch")
      program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
      torch.export.save(program, "model.pt2")
    """
    spec, staging = _compose(app, file, seed, parent, flags)
    with staging:
        operator = app.operator
        if not consent.json:
            _show_terms(spec, app.money)
        sent = spend(operator, _creation(app, operator, spec, staging), consent, app.money.show)
    if not sent:
        return
    task_id = operator.created_task(sent[-1])
    done = f"task {task_id} is published"
    report_sent(sent, consent, done, task_id=task_id, spec_cid=_spec_cid(spec), spec_hash=spec.spec_hash())
    own = "--shard auto" if spec.dataset.description_cid else "--data DIR"
    say(f"next: `chainfl task watch {task_id}`, and for a worker `chainfl worker run --task {task_id} {own}`")


class _Staging:
    """Content that is published only once the requester has agreed: a store in a folder that goes away again.

    warnings: what the requester is to know of it before.
    """

    def __init__(self) -> None:
        from chainfl.storage.embedded import EmbeddedStore

        self.warnings: list[str] = []
        self._folder = ExitStack()
        self.store = EmbeddedStore(self._folder.enter_context(scratch_folder()))

    def publish(self, app: App, cids: tuple[Cid, ...]) -> None:
        """Copies the content into the operator's own store."""
        for cid in cids:
            app.store.put_bytes(self.store.get_bytes(cid, max_bytes=MAX_MODEL_BYTES))
            say(f"published {cid}")

    def __enter__(self) -> _Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.close()


def _compose(
    app: App, file: Path | None, seed: int | None, parent: bytes | None, flags: dict[str, Any]
) -> tuple[TaskSpec, _Staging]:
    """The specification, with all that it names in a staging store."""
    from chainfl.agents.requester import publish_task
    from chainfl.cli.task_file import FORMAT_FLAGS, draft_of, format_flags, read_toml, task_file
    from chainfl.data.fetching import fetch_description

    if flags.get("named_validators"):
        flags["named_validators"] = list(flags["named_validators"])
    flags["format"] = format_flags({name: flags.pop(name) for name in FORMAT_FLAGS})
    if (cid := flags.pop("dataset_cid")) is not None:
        flags["dataset"] = {"description_cid": cid}
    sent = {name: value for name in ("compression", "keep") if (value := flags.pop(name)) is not None}
    if sent:
        flags["payload"] = sent
    drawn = {name: value for name in ("clients_per_round", "selection") if (value := flags.pop(name)) is not None}
    if drawn:
        flags["participants"] = drawn
    if seed is not None:
        flags["model"] = {"seed": seed}
    if parent is not None:
        flags["parent_model"] = parent.hex()
    document, folder = (read_toml(file), file.parent) if file else ({}, Path())
    settings = task_file(document, flags, folder, lambda cid: fetch_description(app.store, cid))
    reader = app.reader
    network = app.settings.effective_network
    draft = draft_of(settings, now=reader.latest_block().timestamp, windows=network.windows, money=app.money)
    staging = _Staging()
    try:
        return publish_task(draft, staging.store, staging.warnings.append), staging
    except BaseException:
        staging.__exit__()
        raise


def _creation(app: App, operator: Operator, spec: TaskSpec, staging: _Staging) -> Spending:
    """Deposits what is missing, and creates."""
    from chainfl.cli.money import require_tokens

    status = operator.stake_status()
    missing = Wei(max(0, spec.reward - status.free))
    create_step = Step("creating the task", lambda port: port.create_task(spec.to_params()), after_others=missing > 0)
    changes = [Change("free stake", status.free, status.free + missing - spec.reward)]
    steps = [create_step]
    if missing:
        require_tokens(app, status, missing)
        steps.insert(0, Step("depositing what the reward lacks", lambda port: port.deposit(missing)))
        changes.insert(0, Change("wallet", status.token_balance, status.token_balance - missing))
    return Spending(
        f"Publish the task {spec.name!r} and escrow {app.money.show(spec.reward)}",
        steps,
        changes,
        notes=[
            "what is not earned comes back to you at the end; a task that never starts is refunded in full",
            *(f"warning: {warning}" for warning in staging.warnings),
        ],
        prepare=lambda: staging.publish(app, _contents(spec)),
    )


def _contents(spec: TaskSpec) -> tuple[Cid, ...]:
    """All that the specification names, and itself."""
    from chainfl.tasks.spec import ProgramModel

    program = (Cid(spec.model.cid),) if isinstance(spec.model, ProgramModel) else ()
    return (*program, Cid(spec.genesis.cid), Cid(spec.genesis.float_cid), _spec_cid(spec))


def _spec_cid(spec: TaskSpec) -> Cid:
    from chainfl.tasks.spec import spec_cid

    return spec_cid(spec.spec_hash())


# --- list ----------------------------------------------------------------------------------------


@task.command("list", epilog="Example: chainfl task list --open")
@click.option("--open", "only_open", is_flag=True, help="Only tasks that can still be joined.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many, newest first.")
@json_option
@pass_app
def list_(app: App, only_open: bool, limit: int, as_json: bool) -> None:
    """List tasks, newest first."""
    reader, now = app.reader, app.reader.latest_block().timestamp
    found = []
    for number in range(reader.num_tasks(), 0, -1):
        view, state = reader.task(TaskId(number)), reader.round(TaskId(number))
        if not only_open or (state.phase is Phase.ENROLMENT and now < view.enrolment_end):
            found.append((TaskId(number), view, state))
        if len(found) == limit:
            break
    if as_json:
        show_json([{"task_id": number, "task": view, "round": state} for number, view, state in found])
        return
    if not found:
        say("no tasks" + (" that can be joined" if only_open else "; publish one with `chainfl task create`"))
        return
    rows = [_row(number, view, state, now, app.money) for number, view, state in found]
    show_table(["task", "phase", "round", "reward", "workers", "validators", "ends"], rows)


def _row(number: TaskId, view: TaskView, state: RoundView, now: int, money: Money) -> tuple[object, ...]:
    return (
        number,
        state.phase.name.lower(),
        f"{state.round}/{view.rounds}",
        money.show(view.reward),
        f"{state.num_workers}/{view.workers.max}",
        f"{state.num_validators}/{view.validators.max}",
        words.deadline_words(state, view, now),
    )


# --- show ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskPicture:
    """Everything about a task that a person may ask for, at one moment."""

    task_id: TaskId
    task: TaskView
    round: RoundView
    line: Line
    escrow: Escrow
    spec: TaskSpec | None
    spec_problem: str | None
    chain_time: int

    @classmethod
    def take(cls, app: App, task_id: TaskId) -> TaskPicture:
        """Reads it all at one block; the specification from the store, if it is there."""
        from chainfl.registry.material import fetch_spec

        reader = app.reader
        block = reader.latest_block()
        view = reader.task(task_id)
        spec, problem = None, None
        try:
            spec = fetch_spec(app.store, view)
            spec.check_created(reader.task_params(task_id))
        except (StorageError, SpecificationError) as error:
            problem = str(error)
        return cls(
            task_id,
            view,
            reader.round(task_id, block),
            reader.line(task_id, block),
            reader.escrow(task_id, block),
            spec,
            problem,
            block.timestamp,
        )

    def estimate(self) -> dict[str, int]:
        """What one final round earns each, in wei: with those enrolled now, or once the minimum is reached."""
        workers = self.task.draw.most_of(max(self.round.num_workers, self.task.workers.min))
        validators = max(self.round.num_validators, self.task.validators.min)
        found = estimate_round(self.task, num_workers=workers, num_validators=validators)
        return {
            "with_workers": workers,
            "with_validators": validators,
            "budget": found.budget,
            "worker": found.worker,
            "validator": found.validator,
            "aggregator": found.aggregator,
        }


@task.command("show", epilog="Example: chainfl task show 1")
@click.argument("task_id", type=TASK)
@click.option("--members", is_flag=True, help="List everybody who takes part.")
@json_option
@pass_app
def show_(app: App, task_id: TaskId, members: bool, as_json: bool) -> None:
    """Show where a task stands, what it asks, and what a round of it earns."""
    picture = TaskPicture.take(app, task_id)
    if as_json:
        show_json(_as_json(app, picture))
        return
    money = app.money
    show_facts(_standing(picture, money))
    show()
    show_facts(_estimate_facts(picture, money))
    show()
    task = picture.task
    show_facts([*_economics_facts(task.economics, money), *_windows_facts(task.windows, task.format)])
    show()
    show_facts(_identity(picture))
    if members:
        show()
        show_table(["role", "account", "stake", "rounds", "weight", "score"], _member_rows(app, task_id))
    say("")
    say(words.ACCESS_IS_A_SIGNAL)


def _standing(picture: TaskPicture, money: Money) -> list[tuple[str, object]]:
    view, state = picture.task, picture.round
    title = f" {picture.spec.name}" if picture.spec else ""
    return [
        ("task", f"{picture.task_id}{title}"),
        ("phase", words.phase_words(state.phase)),
        ("ends", words.deadline_words(state, view, picture.chain_time)),
        ("round", f"{state.round} of {view.rounds}" + (f", attempt {state.attempt}" if state.attempt > 1 else "")),
        ("workers", words.bounds_words(state.num_workers, view.workers)),
        ("validators", words.bounds_words(state.num_validators, view.validators)),
        ("aggregators", words.bounds_words(state.num_aggregators, view.aggregators)),
        *([("takes part", _draw_words(view.draw, view.workers.max))] if view.draw.is_on else []),
        ("reward", money.show(view.reward)),
        ("paid, refunded, burned", _flows(picture.escrow, money)),
    ]


def _flows(escrow: Escrow, money: Money) -> str:
    return ", ".join(money.show(wei) for wei in (escrow.paid, escrow.refunded, escrow.burned))


def _estimate_facts(picture: TaskPicture, money: Money) -> list[tuple[str, object]]:
    found = picture.estimate()
    with_workers, with_validators = found["with_workers"], found["with_validators"]
    rounds = picture.task.rounds
    return [
        ("a round earns", f"about, when all are equal; {rounds} rounds in all"),
        ("  a worker", f"{money.show(found['worker'])} (with {with_workers} of them)"),
        ("  a validator", f"{money.show(found['validator'])} (with {with_validators})"),
        ("  the aggregator", money.show(found["aggregator"])),
    ]


def _economics_facts(e: Economics, money: Money) -> list[tuple[str, object]]:
    return [
        ("stake of a worker", f"{money.show(e.worker_stake)}; {words.percent(e.worker_slash_bps)} lost for no reveal"),
        (
            "stake of a validator",
            f"{money.show(e.validator_stake)}; {words.percent(e.validator_slash_bps)} lost for no reveal",
        ),
        ("bond of an aggregator", f"{money.show(e.aggregator_bond)}; {money.show(e.slot_fee)} for a missed slot"),
        (
            "shares",
            f"workers {words.percent(e.workers_bps)}, validators {words.percent(e.validators_bps)}, "
            f"aggregator {words.percent(e.aggregator_bps)}",
        ),
        ("workers' part", f"{words.percent(e.base_bps)} by stake, the rest by score"),
        (
            "also slashed",
            f"{words.percent(e.range_slash_bps)} of a worker's stake for a wrong update, "
            f"{words.percent(e.withheld_slash_bps)} for a withheld one, {words.percent(e.vouch_slash_bps)} of a "
            "validator's for vouching for it",
        ),
        ("disputes", f"{money.show(e.challenger_bond)} to challenge, {money.show(e.demand_fee)} to ask for a chunk"),
    ]


def _windows_facts(w: Windows, form: Format) -> list[tuple[str, object]]:
    named = {
        "commit": w.commit,
        "reveal": w.reveal,
        "score commit": w.score_commit,
        "score reveal": w.score_reveal,
        "aggregator's slot": w.slot,
        "challenge": w.challenge,
        "answer": w.answer,
        "proof": w.proof,
    }
    return [
        ("windows", ", ".join(f"{name} {duration(seconds)}" for name, seconds in named.items())),
        ("a round lasts", f"at most {duration(longest_round_s(w, form))}, whatever is disputed in it"),
    ]


def _rule_words(form: Format) -> str:
    """How updates become a step: `mean`, `trimmed mean, 1/5 at each end; server momentum 9/10`."""
    told = form.rule.name.lower().replace("_", " ")
    if form.rule is Rule.TRIMMED_MEAN:
        told += f", {form.trim_num}/{form.trim_den} at each end"
    is_scaled = form.step_num != form.step_den and not form.is_adaptive
    told += f", times {form.step_num}/{form.step_den}" if is_scaled else ""
    server = f"; server {server_words(form)}" if form.has_state else ""
    groups = f"; groups of {form.group_size}" if form.rule is Rule.MEAN else ""
    return told + server + groups


def _identity(picture: TaskPicture) -> list[tuple[str, object]]:
    from chainfl.tasks.spec import spec_cid

    view, form, line = picture.task, picture.task.format, picture.line
    access = "restricted to those granted" if line.restricted else "public"
    return [
        ("requester", view.requester),
        ("owner of the models", line.owner),
        ("licence", line.licence or "none stated"),
        ("access", f"{access} (a signal)"),
        *_spec_facts(picture.spec, picture.spec_problem),
        ("values", f"{form.num_params:,} in chunks of {form.chunk_params}"),
        ("rule", _rule_words(form)),
        ("specification", spec_cid(view.spec_hash)),
        ("latest model", "0x" + line.latest.hex()),
    ]


def _spec_facts(spec: TaskSpec | None, problem: str | None) -> list[tuple[str, object]]:
    if spec is None:
        return [("specification", f"cannot be shown: {problem}")]
    training, model = spec.training, spec.model
    named = getattr(model, "name", None) or f"program {getattr(model, 'cid', '')}"
    shape = "×".join(map(str, spec.dataset.input_shape))
    return [
        (
            "data",
            f"{spec.dataset.name}: {shape}, {spec.dataset.num_classes} classes {spec.dataset.description}".strip(),
        ),
        *([("shards", spec.dataset.description_cid)] if spec.dataset.description_cid else []),
        *([("updates", _payload_words(spec.payload))] if spec.payload.compression != "none" else []),
        ("model", named),
        (
            "training",
            _training_words(training),
        ),
        ("weights", ", then ".join([*spec.validation.before, spec.validation.rule])),
        ("scores", spec.validation.contribution),
    ]


def _payload_words(payload: PayloadEntry) -> str:
    kept = "" if payload.keep is None else f", {payload.keep} of the values"
    return f"compressed ({payload.compression}{kept})"


def _training_words(training: TrainingEntry) -> str:
    """`fedprox (proximal_mu 0.01), 40 steps of 64, learning rate 0.05, momentum 0.9`, and what else differs."""
    own = {"proximal_mu": training.proximal_mu, "alpha": training.alpha}
    parameters = "".join(f" ({name} {value})" for name, value in own.items() if value is not None)
    words = [
        training.algorithm + parameters,
        f"{training.steps} steps of {training.batch_size}",
        f"learning rate {training.learning_rate}",
        f"momentum {training.momentum}",
    ]
    if training.local_epochs is not None:
        words.append(f"at most {training.local_epochs} passes over a worker's data")
    if training.optimizer is not None:
        given = (f"{name} {_plain_value(value)}" for name, value in training.optimizer.params.items())
        words.append(" ".join([training.optimizer.name, *given]))
    if training.precision != "float32":
        words.append(training.precision)
    return ", ".join(words)


def _plain_value(value: str | bool | list[str]) -> str:
    return "/".join(value) if isinstance(value, list) else str(value).lower()


def _show_terms(spec: TaskSpec, money: Money) -> None:
    """Everything that a new task asks and pays, to standard error."""
    facts: list[tuple[str, object]] = [
        ("task", spec.name),
        ("rounds", spec.rounds),
        ("reward", money.show(spec.reward)),
        ("workers", f"{spec.workers.min} to {spec.workers.max}"),
        ("validators", _validators_words(spec)),
        ("aggregators", f"{spec.aggregators.min} to {spec.aggregators.max}"),
        *([("takes part", _draw_words(spec.draw, spec.workers.max))] if spec.draw.is_on else []),
        ("licence", spec.licence),
        *_spec_facts(spec, None),
        ("values", f"{spec.format.num_params:,}"),
        ("rule", _rule_words(spec.format)),
        *_economics_facts(spec.economics, money),
        *_windows_facts(spec.windows, spec.format),
        ("specification", _spec_cid(spec)),
    ]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        say(f"  {name.ljust(width)}  {value}")


def _draw_words(draw: Draw, max_workers: int) -> str:
    """`5 of at most 16 workers a round, drawn all alike`."""
    from chainfl.tasks.draws import STAKE_CAP

    by = {
        DrawBy.UNIFORM: "all alike",
        DrawBy.STAKE: f"by stake, up to {STAKE_CAP} times what is required",
        DrawBy.REPUTATION: "by reputation: the weights of their past updates",
    }
    return f"{draw.clients_per_round} of at most {max_workers} workers a round, drawn {by[draw.by]}"


def _validators_words(spec: TaskSpec) -> str:
    bounds = f"{spec.validators.min} to {spec.validators.max}"
    return f"{bounds}, only {', '.join(spec.named_validators)}" if spec.named_validators else bounds


def _member_rows(app: App, task_id: TaskId) -> list[tuple[object, ...]]:
    return [
        (
            role.name.lower(),
            account,
            app.money.show(member.stake),
            _rounds_words(member),
            member.weight,
            member.score,
        )
        for role in ENROLLED_ROLES
        for account, member in app.reader.all_members(task_id, role).items()
    ]


def _rounds_words(member: Member) -> str:
    """From which round to which; of one that waits for a draw the end alone is known."""
    first = "drawn" if member.active_from == IDLE else member.active_from
    return f"{first}-{'' if member.active_until >= 65_535 else member.active_until - 1}"


def _as_json(app: App, picture: TaskPicture) -> dict[str, Any]:
    members = {role.name.lower(): app.reader.all_members(picture.task_id, role) for role in ENROLLED_ROLES}
    return {
        "task_id": picture.task_id,
        "phase": picture.round.phase,
        "phase_words": words.phase_words(picture.round.phase),
        "deadline_words": words.deadline_words(picture.round, picture.task, picture.chain_time),
        "chain_time": picture.chain_time,
        "task": picture.task,
        "round": picture.round,
        "estimate_wei": picture.estimate(),
        "escrow": picture.escrow,
        "line": picture.line,
        "access_is_a_signal": True,
        "specification": picture.spec.model_dump(mode="json") if picture.spec else None,
        "specification_problem": picture.spec_problem,
        "members": members,
    }


# --- watch ---------------------------------------------------------------------------------------


@task.command(epilog="Example: chainfl task watch 1")
@click.argument("task_id", type=TASK)
@click.option("--new", "only_new", is_flag=True, help="Leave out what has happened already.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@pass_app
def watch(app: App, task_id: TaskId, only_new: bool, as_json: bool) -> None:
    """Follow a task's events until it is over or Ctrl-C."""
    reader, money = app.reader, app.money
    block = reader.latest_block()
    follower = reader.follow_task(task_id, block.number + 1 if only_new else reader.task(task_id).created_block)
    while True:
        new, taken_back = follower.poll()
        for event in taken_back:
            _print_event(event, money, as_json, taken_back=True)
        for event in new:
            _print_event(event, money, as_json, taken_back=False)
        state = reader.round(task_id)
        if state.phase.is_terminal:
            say(words.phase_words(state.phase))
            return
        block = _next_block(reader, block)


def _next_block(reader: Operator, before: Block) -> Block:
    """Waits for a newer block; asks for its number only, until there is one."""
    block = before
    while block.number <= before.number:
        block = reader.wait_for_block(before.number, FOLLOW_TIMEOUT_S)
    return block


def _print_event(event: Event, money: Money, as_json: bool, *, taken_back: bool) -> None:
    if as_json:
        show_line(
            {
                "event": event.name,
                "contract": event.contract,
                "block": event.log.block_number,
                "tx_hash": event.log.tx_hash,
                "taken_back": taken_back,
                "arguments": event.arguments,
            }
        )
        return
    if event.name in words.ECHOES:
        return
    undone = "taken back by a reorganisation: " if taken_back else ""
    show(f"{event.log.block_number:>10}  {undone}{words.event_words(event.name, event.arguments, money)}")


def show_line(value: Mapping[str, Any]) -> None:
    """One JSON object on one line, for a reader that follows along."""
    import json

    click.echo(json.dumps(plain(value)))


# --- cancel --------------------------------------------------------------------------------------


@task.command(epilog="Example: chainfl task cancel 1 --dry-run")
@click.argument("task_id", type=TASK)
@spending_options
@pass_app
def cancel(app: App, task_id: TaskId, consent: Consent) -> None:
    """End a task that has not started. Its escrow goes back to the requester, stakes are free at once.

    The requester may do so until enrolment ends; afterwards anybody, unless enough have enrolled to start it.
    """
    operator = app.operator
    view, credit = operator.task(task_id), operator.stake_status().credit
    back = view.reward if view.requester == operator.account else 0
    spending = Spending(
        f"Cancel task {task_id} and refund {app.money.show(view.reward)} to {view.requester}",
        [Step("cancelling", lambda port: port.cancel_task(task_id))],
        [Change("to claim", credit, credit + back)],
    )
    sent = spend(operator, spending, consent, app.money.show)
    report_sent(sent, consent, f"task {task_id} is cancelled", task_id=task_id, refund_wei=view.reward)
    if sent and back:
        say("next: `chainfl rewards claim`")
