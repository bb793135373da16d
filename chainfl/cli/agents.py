"""`chainfl worker`, `validator` and `aggregator`: the long-running roles, and leaving and coming back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.options import TASK
from chainfl.cli.output import ether, plain, say, show_facts, show_json
from chainfl.cli.spending import Consent, Spending, Step, report_sent, spend, spending_options
from chainfl.errors import StakeTooLow, UsageError
from chainfl.tasks.state import Phase, Role
from chainfl.types import TaskId, Wei

if TYPE_CHECKING:
    from chainfl.agents.events import AgentReport
    from chainfl.agents.shards import TaskShard
    from chainfl.agents.wiring import AgentOptions, DataSource
    from chainfl.chain.operator import Operator
    from chainfl.training.app import AppPart

F = TypeVar("F", bound=Callable[..., Any])

_DATA_OPTIONS = ("folder", "dataset", "shard", "seed", "alpha", "data_dir")
_BRINGS_DATA = {"folder": "--data", "dataset": "--dataset", "shard": "--shard"}
STARTING = "starting; loading torch takes some seconds, and more where several processes share a core"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@click.group()
def worker() -> None:
    """Train on your own data: run a worker; leave or rejoin a task."""


@click.group()
def validator() -> None:
    """Check and score updates: run a validator; leave or rejoin a task."""


@click.group()
def aggregator() -> None:
    """Compute global models: run an aggregator; leave or rejoin a task."""


# --- run -----------------------------------------------------------------------------------------


def run_options(command: F) -> F:
    """What every role's `run` takes."""
    for option in reversed(
        [
            click.option("--task", "task_id", type=TASK, help="Only this one; default: any that can be joined."),
            click.option("--once", is_flag=True, help="End with the first task instead of looking for another."),
            click.option("--deposit", is_flag=True, help="Deposit the stake that is missing (with --task)."),
            click.option("--claim", is_flag=True, help="Claim what was earned when a task is over."),
            click.option(
                "--max-gas-wei", type=click.IntRange(0), help="Stop before gas costs more than this, in native wei."
            ),
            click.option(
                "--events",
                type=click.Path(dir_okay=False, path_type=Path),
                help='Append one JSON object an event to this file ("-": standard output).',
            ),
            click.option(
                "--retention",
                type=click.Choice(("all", "models")),
                help='What to keep in the store: "models" drops this agent\'s updates once they are past dispute. '
                "Default: as the configuration says.",
            ),
            click.option("--name", help="What the agent is called in its events; default: its address."),
            click.option("--yes", "-y", is_flag=True, help="Do not ask before depositing."),
            click.option("--json", "as_json", is_flag=True, help="Print the final report as JSON."),
        ]
    ):
        command = option(command)
    return command


def data_options(command: F) -> F:
    """Where an operator's own data are, or its own code."""
    for option in reversed(
        [
            click.option(
                "--app",
                "own_code",
                metavar="MODULE:OBJECT",
                help="Your own PyTorch code: a chainfl.App(model=..., dataset=..., loss=..., optimizer=...), a "
                "function that returns one, or data alone, imported from the current folder. Without a dataset in it, "
                "give --data, --dataset or --shard beside it.",
            ),
            click.option(
                "--data",
                "folder",
                type=click.Path(file_okay=False, path_type=Path),
                help="Your data: a folder with dataset.npz, or MNIST's or CIFAR-10's files.",
            ),
            click.option("--dataset", help="A built-in set instead (digits, mnist, cifar10); --shard of it is yours."),
            click.option(
                "--shard",
                metavar="I/N|I|auto",
                help="Your share of it, such as 2/5; of a worker alone: a shard that the task names, or auto.",
            ),
            click.option("--seed", type=click.IntRange(0), help="Of the shares; the same for all who share. [0]"),
            click.option("--alpha", type=float, help="Skew the shares by Dirichlet(ALPHA); default: IID."),
            click.option(
                "--data-dir",
                type=click.Path(file_okay=False, path_type=Path),
                help="Where MNIST's or CIFAR-10's files are.",
            ),
            click.option(
                "--device",
                default="cpu",
                show_default=True,
                help="Where your machine computes: cpu, cuda, cuda:1, xpu or mps; a wrong one lists what there is.",
            ),
        ]
    ):
        command = option(command)
    return command


def stake_option(command: F) -> F:
    """More than a task asks for."""
    told = "Lock this much when enrolling, if a task asks for less: base pay, and draws by stake, follow it."
    return click.option("--stake", metavar="TOKENS", help=told)(command)


@worker.command("run", epilog="Example: chainfl worker run --task 1 --data my-images --deposit --claim")
@data_options
@stake_option
@run_options
@pass_app
def run_worker_(app: App, **options: Any) -> None:
    """Train in every round of a task: commit, reveal, publish.

    Run it again after any interruption: it carries on where it was. SIGTERM and Ctrl-C end it at a safe point.
    """
    _limit_threads()
    say(STARTING)
    check_device(options["device"])
    own, shard = app_part(options, Role.WORKER), task_shard(options)
    found = None if shard else data_source(app, options)
    own = with_data(own, found)
    source = shard or own or found
    if source is None:
        raise UsageError(
            "a worker needs data: --data DIR, --dataset NAME with --shard I/N, --shard auto for a task with shards, or "
            "--app MODULE:OBJECT with a dataset in it"
        )
    from chainfl.agents.wiring import run_worker

    run = partial(run_worker, app=own) if shard and own else run_worker
    _run(app, Role.WORKER, options, lambda port, agent: run(port, app.store, source, agent), own)


@validator.command("run", epilog="Example: chainfl validator run --task 1 --data my-images --deposit")
@data_options
@stake_option
@run_options
@pass_app
def run_validator_(app: App, **options: Any) -> None:
    """Check and score every update of a round against root data: your own, or the set that the task names.

    Run it again after any interruption: it carries on where it was. SIGTERM and Ctrl-C end it at a safe point.
    """
    _limit_threads()
    say(STARTING)
    check_device(options["device"])
    own = app_part(options, Role.VALIDATOR)
    found = data_source(app, options)
    own = with_data(own, found)
    source = own or found
    from chainfl.agents.wiring import run_validator

    _run(app, Role.VALIDATOR, options, lambda port, agent: run_validator(port, app.store, source, agent), own)


@aggregator.command("run", epilog="Example: chainfl aggregator run --task 1 --deposit")
@run_options
@pass_app
def run_aggregator_(app: App, **options: Any) -> None:
    """Compute and post the next global model of every round. Anybody can check it: `chainfl round replay`.

    Run it again after any interruption: it carries on where it was. SIGTERM and Ctrl-C end it at a safe point.
    """
    from chainfl.agents.wiring import run_aggregator

    _run(app, Role.AGGREGATOR, options, lambda port, agent: run_aggregator(port, app.store, agent))


def app_part(options: dict[str, Any], role: Role) -> AppPart | None:
    """What a role takes of the operator's own code, out of the options; None when none was named.

    Raises what `load_app` and `App.part_for` raise, so AppUnusable where both the app and an option bring data.
    """
    named = options.pop("own_code")
    if named is None:
        return None
    from chainfl.training.app import load_app

    data_from = next((told for name, told in _BRINGS_DATA.items() if options[name] is not None), None)
    return load_app(named).part_for(role, data_from)


def with_data(part: AppPart | None, source: DataSource | None) -> AppPart | None:
    """The operator's own code with the data that an option names, if there are both. Raises as `DataSource.load`."""
    return part if part is None or source is None else replace(part, data=source.load())


def check_device(name: str) -> None:
    """Before anything is deposited. Raises UsageError with the devices that there are."""
    if name == "cpu":
        return
    from chainfl.training.devices import device_named

    device_named(name)


def task_shard(options: dict[str, Any]) -> TaskShard | None:
    """The shard of the task's own data set that was asked for, out of the options; None for other data."""
    from chainfl.agents.shards import TaskShard

    shard = options["shard"]
    if shard is None or "/" in shard or options["folder"] is not None or options["dataset"] is not None:
        return None
    given = {name: options.pop(name) for name in _DATA_OPTIONS}
    _refuse(
        {"--seed": given["seed"], "--alpha": given["alpha"], "--data-dir": given["data_dir"]}, "goes with --dataset"
    )
    return TaskShard.parse(shard)


def data_source(app: App, options: dict[str, Any]) -> DataSource | None:
    """Where the data are, out of the options; None when none were given. Raises UsageError for a contradiction."""
    from chainfl.agents.wiring import DataSource

    folder, dataset, shard, seed, alpha, data_dir = (options.pop(name, None) for name in _DATA_OPTIONS)
    if folder is not None and dataset is not None:
        raise UsageError("--data and --dataset exclude each other")
    if dataset is None:
        _refuse({"--shard": shard, "--seed": seed, "--alpha": alpha, "--data-dir": data_dir}, "goes with --dataset")
        return None if folder is None else DataSource(folder=folder)
    if shard is None:
        raise UsageError("--dataset needs --shard I/N: the share of it that is yours")
    return DataSource(
        name=dataset, shard=shard, seed=seed or 0, alpha=alpha, data_dir=data_dir or app.settings.data_dir
    )


def _refuse(given: dict[str, object], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} {why}")


def _run(
    app: App,
    role: Role,
    options: dict[str, Any],
    start: Callable[[Operator, AgentOptions], AgentReport],
    part: AppPart | None = None,
) -> None:
    """part: of the operator's own code, which must fit the task before anything is deposited for it."""
    from chainfl.agents.wiring import AgentOptions

    app.start_log()
    max_gas_wei = options["max_gas_wei"]
    operator = app.operator_with_budget(app.settings.max_gas_wei if max_gas_wei is None else max_gas_wei)
    task_id: TaskId | None = options["task_id"]
    stake = Wei(app.money.parse(options["stake"])) if options.get("stake") else None
    if options["deposit"]:
        _deposit_missing(app, operator, role, task_id, stake, Consent(yes=options["yes"]), part)
    with open_events(options["events"]) as events:
        agent = AgentOptions(
            state_dir=app.settings.state_dir,
            name=options["name"] or operator.account,
            task_id=task_id,
            once=options["once"],
            claim=options["claim"],
            events=events,
            token_price_wei=app.settings.token_price_wei,
            retention=options["retention"] or app.settings.retention,
            stake=stake,
            device=options.get("device", "cpu"),
        )
        report = start(operator, agent)
    tell_report(report, options["as_json"], to_stdout=str(options["events"]) != "-")


def _limit_threads() -> None:
    """One thread for the libraries of numpy and torch, before they are loaded: agents often share a machine.

    What the operator has set (OMP_NUM_THREADS and the like) stays.
    """
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")


@contextmanager
def open_events(path: Path | None) -> Iterator[TextIO | None]:
    """Where event lines go. Raises UsageError for a file that cannot be written."""
    if path is None:
        yield None
        return
    if str(path) == "-":
        yield click.get_text_stream("stdout")
        return
    try:
        stream = path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=str(path)) from error
    with stream:
        yield stream


def _deposit_missing(
    app: App,
    operator: Operator,
    role: Role,
    task_id: TaskId | None,
    stake: Wei | None,
    consent: Consent,
    part: AppPart | None,
) -> None:
    """Fills the free stake up to what is to be locked: `stake`, or what the task asks.

    Raises UsageError without a task, what `check_app` raises of a part, and what depositing raises.
    """
    from chainfl.agents.duties import required_stake
    from chainfl.agents.wiring import check_app
    from chainfl.cli.money import deposit_stake

    if task_id is None:
        raise UsageError("--deposit needs --task: each task asks for a stake of its own")
    view, status = operator.task(task_id), operator.stake_status()
    if operator.member(task_id, role, operator.account).is_enrolled:
        return
    missing = Wei(max(0, max(required_stake(view, role), stake or 0) - status.free))
    if missing:
        if part is not None:
            check_app(operator, app.store, task_id, part)
        deposit_stake(app, operator, missing, consent)


def tell_report(report: AgentReport, as_json: bool, *, to_stdout: bool) -> None:
    """What the run came to. Where standard output carries the events, the last of them says so already."""
    if as_json:
        show_json({"role": report.role, "tasks": report.tasks, **plain(report.as_fields())})
    elif to_stdout:
        show_facts(_report_facts(report))
    say("next: `chainfl rewards claim`, and `chainfl stake status` for when the stake comes free")


def _report_facts(report: AgentReport) -> list[tuple[str, object]]:
    return [
        ("ended", report.ended or "stopped"),
        ("tasks", ", ".join(map(str, report.tasks)) or "none"),
        ("transactions", f"{sum(report.transactions.values())}, {report.gas:,} gas, {ether(report.cost_wei)}"),
        ("published", f"{report.bytes_published:,} bytes"),
        ("training", f"{report.seconds_training:.1f} s"),
    ]


# --- leave and rejoin ----------------------------------------------------------------------------


def _leave(role: Role) -> Callable[..., None]:
    @click.argument("task_id", type=TASK)
    @spending_options
    @pass_app
    def leave(app: App, task_id: TaskId, consent: Consent) -> None:
        """Take no part from the next round on. The stake stays locked until the task is over."""
        operator = app.operator
        operator.task(task_id)  # an unknown task is told as such
        spending = Spending(
            f"Leave task {task_id} as {role.name.lower()}",
            [Step("leaving", lambda port: port.leave(task_id, role))],
            notes=_locked_notes(app, operator, task_id, role),
        )
        sent = spend(operator, spending, consent, app.money.show)
        report_sent(sent, consent, f"left task {task_id} from the next round on", task_id=task_id, role=role)

    return leave


def _rejoin(role: Role) -> Callable[..., None]:
    @click.argument("task_id", type=TASK)
    @spending_options
    @pass_app
    def rejoin(app: App, task_id: TaskId, consent: Consent) -> None:
        """Take part again from the next round on."""
        operator = app.operator
        _require_stake_for_rejoining(operator, task_id, role)
        spending = Spending(
            f"Rejoin task {task_id} as {role.name.lower()}",
            [Step("rejoining", lambda port: port.rejoin(task_id, role))],
        )
        sent = spend(operator, spending, consent, app.money.show)
        report_sent(sent, consent, f"back in task {task_id} from the next round on", task_id=task_id, role=role)
        if sent:
            say(f"next: `chainfl {role.name.lower()} run --task {task_id}`")

    return rejoin


def _locked_notes(app: App, operator: Operator, task_id: TaskId, role: Role) -> list[str]:
    locked = operator.member(task_id, role, operator.account).stake
    notes = [f"{app.money.show(locked)} of stake stay locked until the task is over, and unbond then"] if locked else []
    if operator.round(task_id).phase in (Phase.COMMIT, Phase.REVEAL):
        notes.append("an update that is committed in this round must still be revealed, or stake is lost")
    return notes


def _require_stake_for_rejoining(operator: Operator, task_id: TaskId, role: Role) -> None:
    """A participant with less than half of the required stake left is not eligible, whatever it sends."""
    from chainfl.agents.duties import required_stake

    if role is Role.AGGREGATOR:
        return
    member, required = operator.member(task_id, role, operator.account), required_stake(operator.task(task_id), role)
    if member.is_enrolled and 2 * member.stake < required:
        raise StakeTooLow(
            f"slashes left {member.stake} wei of stake in task {task_id}, less than half of the required {required}; "
            "it cannot take part any more",
            account=operator.account,
            free=member.stake,
            required=required,
        )


for _group, _role in ((worker, Role.WORKER), (validator, Role.VALIDATOR), (aggregator, Role.AGGREGATOR)):
    _name = _role.name.lower()
    _group.command("leave", epilog=f"Example: chainfl {_name} leave 1")(_leave(_role))
    _group.command("rejoin", epilog=f"Example: chainfl {_name} rejoin 1")(_rejoin(_role))
