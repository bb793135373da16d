"""Runs the demo from an empty folder to its report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.records import Model
from chainfl.encoding.arrays import Int32Array
from chainfl.errors import ChainError
from chainfl.registry.lineage import verify_lineage
from chainfl.registry.material import TaskScope, fetch_model
from chainfl.simulation.attack_report import AttackReport, answer_to, gas_used
from chainfl.simulation.attacks import FROM_ROUND
from chainfl.simulation.baseline import Yardstick
from chainfl.simulation.demo import POLL_S, DemoConfig, Part, Stage, set_stage, start_participants, worth_wei
from chainfl.simulation.processes import ONE_THREAD, Participant, ProcessGroup, open_group
from chainfl.simulation.report import GasUse, Report, draw_accuracy, draw_lineage, draw_rewards
from chainfl.simulation.rounds import worker_pay_wei
from chainfl.simulation.view import EventFiles, Progress, View
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import Outcome, Phase, Role, RoundView
from chainfl.types import Address, ModelId, Wei

CALM_S = 180.0
"""A round that takes longer than this on a local chain has a reason that somebody must look at."""
GRACE_S = 15.0

Version = tuple[ModelId, Model]


def run_demo(config: DemoConfig, open_view: Callable[[], View], say: Callable[[str], None]) -> Report:
    """Everything, in `config.folder`, which must be empty. Raises ChainflError; leaves no process behind."""
    started = time.monotonic()
    say(f"starting a chain and {config.num_accounts - 2} participants in {config.folder}")
    with (
        AnvilProcess(config.folder / "chain", accounts=config.num_accounts, keep_state=True) as anvil,
        open_group(config.folder / "logs", ONE_THREAD) as group,
    ):
        stage = set_stage(config, anvil)
        delay = Delay.of(stage, start_participants(stage, group))
        with ThreadPoolExecutor(1) as pool:
            measured = _watch(stage, group, delay, open_view, pool)
            group.wait(GRACE_S)
            say("checking the lineage")
            return _conclude(stage, measured, started)


# --- while it runs -------------------------------------------------------------------------------


@dataclass(slots=True)
class Delay:
    """Holds the honest aggregator up in the attack's round until its rival has posted, in each task where it has one.

    A block's hash draws whose turn it is first, and a cheat whose turn never comes shows nothing. This begins with the
    challenge of the round before: from its own beginning a round may take a second to its aggregate, and who looks on
    from a busy machine would miss that. Without a rival that attacks, nobody is held up.
    """

    honest: Participant | None
    is_held: bool = False

    @classmethod
    def of(cls, stage: Stage, participants: Mapping[str, Participant]) -> Delay:
        """For a stage whose processes run."""
        rivals = [part for part in stage.cast.attackers if part.role is Role.AGGREGATOR]
        return cls(participants[stage.cast.honest(Role.AGGREGATOR)[0].name] if rivals else None)

    def look(self, *views: RoundView) -> None:
        """Takes in where all of these tasks stand. One process plays them all, so the last rival lets it go."""
        due = any(map(_may_be_overtaken, views))
        if self.honest is None or due == self.is_held:
            return
        self.is_held = due
        if due:
            self.honest.hold_up()
        else:
            self.honest.let_go()


def _may_be_overtaken(view: RoundView) -> bool:
    """Whether the rival's turn is next, or has come, and nothing is posted in it."""
    if view.round == FROM_ROUND - 1:
        return Phase.CHALLENGE <= view.phase <= Phase.SETTLEMENT
    return view.round == FROM_ROUND and view.attempt == 1 and view.phase < Phase.CHALLENGE


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
    """accuracies: of the genesis and after each round. baselines: still being trained, perhaps."""

    accuracies: list[float]
    outcomes: list[str]
    baselines: Future[_Baselines]


@dataclass(frozen=True, slots=True)
class _Baselines:
    """Other ways to train. centralized: its accuracy. unattacked: the same participants with nobody who attacks."""

    centralized: float
    unattacked: _Unattacked | None


@dataclass(frozen=True, slots=True)
class _Unattacked:
    """accuracy: of the last model. earned_wei: by each worker over the task."""

    accuracy: float
    earned_wei: Mapping[Address, int]


def _watch(
    stage: Stage, group: ProcessGroup, delay: Delay, open_view: Callable[[], View], pool: ThreadPoolExecutor
) -> _Measured:
    """Shows progress until the task is over. The baselines train meanwhile, once the participants have started."""
    observer = _Observer(stage, Yardstick.of(stage.spec), Progress(rounds=stage.config.rounds), [])
    files = EventFiles(stage.events)
    client = stage.reader.client
    baselines: Future[_Baselines] | None = None
    with _shown(open_view) as view:
        block, last_news = client.block(), time.monotonic()
        while not observer.progress.phase.is_terminal:
            group.check()
            for event in files.new():
                observer.progress.observe(event)
            seen = stage.reader.round(stage.task_id, block)
            delay.look(seen)
            news = observer.look(seen)
            view.show(observer.progress, news)
            if baselines is None and (observer.progress.round > 1 or observer.progress.phase.is_terminal):
                baselines = pool.submit(_baselines, stage, _genesis(stage))
            last_news = time.monotonic() if news else last_news
            if time.monotonic() - last_news > CALM_S:
                raise ChainError(f"nothing has happened for {CALM_S:.0f} s; the logs are in {stage.config.folder}/logs")
            block = client.wait_for_block(block.number, POLL_S)
    if observer.progress.phase is not Phase.COMPLETED:
        raise ChainError(f"the demo's task ended as {observer.progress.phase.name.lower()}")
    assert baselines is not None, "a complete task has had rounds"
    return _Measured(observer.progress.accuracy, _outcomes(stage), baselines)


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
    deployment, spec = stage.deployment, stage.spec
    layout_hash, compression = bytes.fromhex(spec.layout.hash), spec.payload.form()
    return TaskScope(deployment.chain_id, deployment.coordinator, stage.task_id, spec.format, layout_hash, compression)


def _genesis(stage: Stage) -> Int32Array:
    root, cid = stage.reader.model_location(stage.task_id, 0)
    return fetch_model(stage.store, scope_of(stage), root, cid)


def _baselines(stage: Stage, genesis: Int32Array) -> _Baselines:
    """One trainer with all the workers' data, the same start and number of steps; and the task without its attacks.

    Runs in a thread of its own, so it does not touch the chain: a client belongs to one thread.
    """
    split = stage.split
    yardstick = Yardstick.of(stage.spec)
    centralized = yardstick.centralized(genesis, list(split.workers), split.test, seed=stage.config.seed).accuracy
    if not stage.config.attacks:
        return _Baselines(centralized, None)
    return _Baselines(centralized, _unattacked(stage, yardstick, genesis))


def _unattacked(stage: Stage, yardstick: Yardstick, genesis: Int32Array) -> _Unattacked:
    """The task, had all of its participants been honest. genesis: (P,) int32."""
    spec = stage.spec
    workers = [part.signer.address for part in stage.cast.parts if part.role is Role.WORKER]
    validators = [part.signer.address for part in stage.cast.parts if part.role is Role.VALIDATOR]
    rounds = yardstick.unattacked(
        genesis,
        scope_of(stage),
        dict(zip(workers, stage.split.workers, strict=True)),
        dict(zip(validators, stage.split.validators, strict=True)),
    )
    budget = Wei(spec.reward // spec.rounds)
    earned = {
        worker: sum(worker_pay_wei(worker, rounds, budget=budget, economics=spec.economics)) for worker in workers
    }
    return _Unattacked(yardstick.evaluate(rounds[-1].model, stage.split.test).accuracy, earned)


def _conclude(stage: Stage, measured: _Measured, started: float) -> Report:
    folder = stage.config.folder
    versions = list(reversed(stage.reader.versions(stage.task_id)))
    latest_id, latest = versions[-1]
    verified = verify_lineage(stage.reader, stage.store, stage.task_id).is_valid
    escrow = stage.reader.escrow(stage.task_id)
    told = _told(stage.events)
    totals = _totals(told)
    baselines = measured.baselines.result()
    report = Report(
        accuracy_by_round=tuple(measured.accuracies),
        centralized_accuracy=baselines.centralized,
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
        slashed_wei=sum(slash.amount for slash in stage.reader.slashes(stage.task_id, None, 0)),
        gas={
            kind: GasUse(stats.count, stats.median, stats.maximum) for kind, stats in stage.reader.gas_by_kind().items()
        },
        bytes_per_update=totals.bytes_per_update,
        seconds_total=round(time.monotonic() - started, 2),
        seconds_training=round(totals.seconds_training, 2),
        outcomes=tuple(measured.outcomes),
        roles=stage.cast.names(),
        folder=str(folder),
        attacks=_attack_reports(stage, told, baselines.unattacked),
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


def _told(events: Path) -> list[dict[str, Any]]:
    """All participants' events."""
    return [json.loads(line) for path in sorted(events.glob("*.jsonl")) for line in path.read_text().splitlines()]


def _totals(found: list[dict[str, Any]]) -> _Totals:
    """Sums over all participants' events."""
    trained = [event for event in found if event["what"] == "trained"]
    return _Totals(
        seconds_training=sum(event["seconds_training"] for event in trained),
        bytes_per_update=max((event["bytes"] for event in trained), default=0),
    )


def _attack_reports(
    stage: Stage, told: list[dict[str, Any]], unattacked: _Unattacked | None
) -> tuple[AttackReport, ...]:
    """One for each attacker. Raises AttackUnanswered."""
    if unattacked is None:
        return ()
    return tuple(_attack_report(stage, part, told, unattacked) for part in stage.cast.attackers)


def _attack_report(stage: Stage, part: Part, told: list[dict[str, Any]], unattacked: _Unattacked) -> AttackReport:
    assert part.attack is not None, "an attacker's part"
    attacker, [watcher] = part.signer.address, stage.cast.honest(Role.CHALLENGER)
    logs = str(stage.config.folder / "logs")
    answer = answer_to(part.attack, attacker, stage.reader.task_events(stage.task_id), logs)
    honest = [_change_wei(stage, worker.signer.address) for worker in stage.cast.honest(Role.WORKER)]
    return AttackReport(
        name=part.attack.name,
        round=answer.round,
        attacker=attacker,
        attacker_change_wei=_change_wei(stage, attacker),
        attacker_gas=gas_used(told, part.name),
        honest_change_wei=median_low(honest),
        watcher=watcher.signer.address,
        watcher_change_wei=_change_wei(stage, watcher.signer.address),
        watcher_gas=gas_used(told, watcher.name),
        slashed_wei=answer.slashed_wei,
        burned_wei=answer.burned_wei,
        received_wei=answer.received_wei,
        blocks_to_settle=answer.blocks_to_settle,
        accuracy_without_attack=unattacked.accuracy,
        earned_if_honest_wei=unattacked.earned_wei.get(attacker),
    )


def _change_wei(stage: Stage, account: Address) -> int:
    return worth_wei(stage.reader, account) - stage.worth_wei[account]


def keep_report(report: Report, path: Path) -> None:
    """A second copy of report.json where the user wants it."""
    source = Path(report.folder) / "report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
