"""Runs the demo from an empty folder to its report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.records import Model
from chainfl.encoding.arrays import Int32Array
from chainfl.errors import ChainError
from chainfl.registry.lineage import verify_lineage
from chainfl.registry.material import TaskScope, fetch_model
from chainfl.simulation.baseline import Yardstick
from chainfl.simulation.demo import POLL_S, DemoConfig, Stage, set_stage, start_participants
from chainfl.simulation.processes import ProcessGroup
from chainfl.simulation.report import GasUse, Report, draw_accuracy, draw_lineage, draw_rewards
from chainfl.simulation.view import EventFiles, Progress, View
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import Outcome, Phase, RoundView
from chainfl.types import ModelId

CALM_S = 180.0
"""A round that takes longer than this on a local chain has a reason that somebody must look at."""
GRACE_S = 15.0

Version = tuple[ModelId, Model]


def run_demo(config: DemoConfig, open_view: Callable[[], View], say: Callable[[str], None]) -> Report:
    """Everything, in `config.folder`, which must be empty. Raises ChainflError; leaves no process behind."""
    started = time.monotonic()
    accounts = config.workers + config.validators + 3
    say(f"starting a chain and {accounts - 2} participants in {config.folder}")
    with AnvilProcess(config.folder / "chain", accounts=accounts, keep_state=True) as anvil:
        stage = set_stage(config, anvil)
        with ProcessGroup(config.folder / "logs") as group:
            start_participants(stage, group)
            with ThreadPoolExecutor(1) as pool:
                measured = _watch(stage, group, open_view, pool)
                group.wait(GRACE_S)
                say("checking the lineage")
                return _conclude(stage, measured, started)


# --- while it runs -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Observer:
    """What the demo itself measures while others work."""

    stage: Stage
    yardstick: Yardstick
    progress: Progress
    outcomes: list[str]
    known: bytes = b""

    def look(self, view: RoundView) -> bool:
        """Takes in where the task stands; evaluates a model that it has not seen. returns: whether that is news."""
        before = (self.progress.round, self.progress.phase)
        news = self.progress.at(view)
        if view.model_root != self.known or (view.round > before[0] > 0):
            self._new_model(view)
        return news

    def _new_model(self, view: RoundView) -> None:
        self.known = view.model_root
        scope = scope_of(self.stage)
        root, cid = self.stage.reader.model_location(self.stage.task_id, view.round)
        model = fetch_model(self.stage.store, scope, root, cid)
        self.progress.accuracy.append(self.yardstick.evaluate(model, self.stage.split.test).accuracy)


@dataclass(frozen=True, slots=True)
class _Measured:
    """accuracies: of the genesis and after each round. centralized: still being trained, perhaps."""

    accuracies: list[float]
    outcomes: list[str]
    centralized: Future[float]


def _watch(stage: Stage, group: ProcessGroup, open_view: Callable[[], View], pool: ThreadPoolExecutor) -> _Measured:
    """Shows progress until the task is over. The baseline trains meanwhile, once the participants have started."""
    observer = _Observer(stage, Yardstick.of(stage.spec), Progress(rounds=stage.config.rounds), [])
    files = EventFiles(stage.events)
    client = stage.reader.client
    centralized: Future[float] | None = None
    with _shown(open_view) as view:
        block, last_news = client.block(), time.monotonic()
        while not observer.progress.phase.is_terminal:
            group.check()
            for event in files.new():
                observer.progress.observe(event)
            news = observer.look(stage.reader.round(stage.task_id, block))
            view.show(observer.progress, news)
            if centralized is None and (observer.progress.round > 1 or observer.progress.phase.is_terminal):
                centralized = pool.submit(_centralized, stage, _genesis(stage))
            last_news = time.monotonic() if news else last_news
            if time.monotonic() - last_news > CALM_S:
                raise ChainError(f"nothing has happened for {CALM_S:.0f} s; the logs are in {stage.config.folder}/logs")
            block = client.wait_for_block(block.number, POLL_S)
    if observer.progress.phase is not Phase.COMPLETED:
        raise ChainError(f"the demo's task ended as {observer.progress.phase.name.lower()}")
    assert centralized is not None, "a complete task has had rounds"
    return _Measured(observer.progress.accuracy, _outcomes(stage), centralized)


@contextmanager
def _shown(open_view: Callable[[], View]) -> Iterator[View]:
    view = open_view()
    try:
        yield view
    finally:
        view.close()


def _outcomes(stage: Stage) -> list[str]:
    """How each round ended, from the chain's events."""
    closed = [event for event in stage.reader.task_events(stage.task_id) if event.name == "RoundClosed"]
    return [Outcome(event.arguments["outcome"]).name.lower() for event in closed]


# --- at the end ----------------------------------------------------------------------------------


def scope_of(stage: Stage) -> TaskScope:
    """What the task's payloads are bound to."""
    layout = bytes.fromhex(stage.spec.layout.hash)
    return TaskScope(stage.deployment.chain_id, stage.deployment.coordinator, stage.task_id, stage.spec.format, layout)


def _genesis(stage: Stage) -> Int32Array:
    root, cid = stage.reader.model_location(stage.task_id, 0)
    return fetch_model(stage.store, scope_of(stage), root, cid)


def _centralized(stage: Stage, genesis: Int32Array) -> float:
    """Accuracy of one trainer with all the workers' data, the same start and the same number of steps.

    Runs in a thread of its own, so it does not touch the chain: a client belongs to one thread.
    """
    split = stage.split
    yardstick = Yardstick.of(stage.spec)
    return yardstick.centralized(genesis, list(split.workers), split.test, seed=stage.config.seed).accuracy


def _conclude(stage: Stage, measured: _Measured, started: float) -> Report:
    folder = stage.config.folder
    versions = list(reversed(stage.reader.versions(stage.task_id)))
    latest_id, latest = versions[-1]
    verified = verify_lineage(stage.reader, stage.store, stage.task_id).is_valid
    escrow = stage.reader.escrow(stage.task_id)
    totals = _totals(stage.events)
    report = Report(
        accuracy_by_round=tuple(measured.accuracies),
        centralized_accuracy=measured.centralized.result(),
        rounds=stage.config.rounds,
        workers=stage.config.workers,
        validators=stage.config.validators,
        seed=stage.config.seed,
        dataset=stage.config.data,
        test_examples=len(stage.split.test),
        model_id="0x" + latest_id.hex(),
        model_cid=cid_text(latest.float_cid),
        verified=verified,
        escrow_wei=escrow.funded,
        payouts_wei=stage.reader.paid_amounts(stage.task_id),
        refund_wei=escrow.refunded,
        burned_wei=escrow.burned,
        slashed_wei=totals.slashed_wei,
        gas={
            kind: GasUse(stats.count, stats.median, stats.maximum) for kind, stats in stage.reader.gas_by_kind().items()
        },
        bytes_per_update=totals.bytes_per_update,
        seconds_total=round(time.monotonic() - started, 2),
        seconds_training=round(totals.seconds_training, 2),
        outcomes=tuple(measured.outcomes),
        roles=stage.cast.names(),
        folder=str(folder),
    )
    _leave(stage, report, versions)
    return report


def _leave(stage: Stage, report: Report, versions: list[Version]) -> None:
    """Writes what stays in the folder."""
    folder = stage.config.folder
    latest = versions[-1][1]
    stage.store.get_file(latest_cid := cid_text(latest.float_cid), folder / "model.safetensors", max_bytes=1 << 32)
    assert latest_cid == report.model_cid, "the report names the model that lies beside it"
    draw_accuracy(report, folder / "accuracy.png")
    draw_rewards(report, folder / "rewards.png")
    draw_lineage([_box(model_id, model) for model_id, model in versions], folder / "lineage.png")
    report.write(folder / "report.json")


def _box(model_id: ModelId, model: Model) -> tuple[str, str]:
    made = "genesis" if model.round == 0 else f"{model.accepted} updates\nby {model.aggregator[:8]}…"
    return f"round {model.round}", f"0x{model_id.hex()[:8]}…\n{made}"


@dataclass(frozen=True, slots=True)
class _Totals:
    seconds_training: float
    bytes_per_update: int
    slashed_wei: int


def _totals(events: Path) -> _Totals:
    """Sums over all participants' event files."""
    found: list[dict[str, Any]] = [
        json.loads(line) for path in sorted(events.glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    trained = [event for event in found if event["what"] == "trained"]
    return _Totals(
        seconds_training=sum(event["seconds_training"] for event in trained),
        bytes_per_update=max((event["bytes"] for event in trained), default=0),
        slashed_wei=sum(event["wei"] for event in found if event["what"] == "slashed"),
    )


def keep_report(report: Report, path: Path) -> None:
    """A second copy of report.json where the user wants it."""
    source = Path(report.folder) / "report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
