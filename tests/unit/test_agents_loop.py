"""The loop: what it reads while it waits, what it tries again, and how it ends."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest
from agents_world import TargetTrainer, World
from fake_chain import TASK, FakePort, MemoryStore, account_of

from chainfl.agents import aggregator as aggregators
from chainfl.agents import loop as loops
from chainfl.agents import wiring
from chainfl.agents.actions import Do
from chainfl.agents.loop import AgentLoop
from chainfl.agents.ports import Slash, TimedOut, WouldRevert
from chainfl.agents.retention import Retention
from chainfl.errors import (
    BlobNotFound,
    GasBudgetExhausted,
    InsufficientFunds,
    Interrupted,
    NotEligible,
    NotPublished,
    RpcRefused,
    RpcUnreachable,
    TransactionReverted,
    UnexpectedPhase,
)
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import Block, Outcome, Phase, Role
from chainfl.types import Wei

WORKER, AGGREGATOR = account_of(100), account_of(300)
WAIT_S = 10


class Impatient(threading.Event):
    """A stop signal on which nobody waits."""

    def wait(self, timeout=None):
        return self.is_set()


class Others:
    """Lets the rest of the world act whenever the agent under test waits for a block."""

    def __init__(self, world: World, me: str, stop: threading.Event, *, stop_when=lambda world: False) -> None:
        self.world, self.me, self.stop, self.stop_when = world, me, stop, stop_when
        self.reads = 0
        world.ports[me].wait_for_block = self.wait  # type: ignore[method-assign]
        self._snapshot = world.ports[me].snapshot
        world.ports[me].snapshot = self.snapshot  # type: ignore[method-assign]

    def wait(self, after, timeout_s):
        if self.stop_when(self.world):
            self.stop.set()
        for account in self.world.players:
            if account != self.me:
                self.world.look(account)
        self.world.chain.tick()
        return self.world.chain.block()

    def snapshot(self, *args):
        self.reads += 1
        return self._snapshot(*args)


def run(world: World, account: str, **options) -> Others:
    stop = Impatient()
    others = Others(world, account, stop, **options)
    AgentLoop(world.players[account], stop).run()
    return others


@pytest.mark.parametrize("account", [WORKER, account_of(200), AGGREGATOR])
def test_loop__whole_task__ends_when_it_is_complete(tmp_path, account):
    world = World(tmp_path, rounds=2)
    run(world, account)
    assert world.chain.over
    assert world.players[account].context.report.rounds == {1, 2}
    assert world.told(account, "ended")[0]["why"] == "the task is complete"


def test_loop__training_goes_on_and_no_block_comes__asks_for_the_block_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("chainfl.agents.worker.TRAINING_LOOK_S", 0.01)
    world, goes_on = World(tmp_path, rounds=1), threading.Event()
    seen: list[Block] = []
    read: list[Block] = []

    class Waiting(TargetTrainer):
        def train(self, *args, **options):
            assert goes_on.wait(WAIT_S)
            return super().train(*args, **options)

    def latest_block() -> Block:
        seen.append(world.chain.block())
        if seen.count(seen[-1]) > 5:
            goes_on.set()
        return seen[-1]

    world.players[WORKER]._trainer = Waiting(1)
    world.ports[WORKER].latest_block = latest_block  # type: ignore[method-assign]
    snapshot = world.ports[WORKER].snapshot
    world.ports[WORKER].snapshot = lambda *args: read.append(args[2]) or snapshot(*args)  # type: ignore[method-assign]
    run(world, WORKER)
    assert world.chain.over
    assert goes_on.is_set()
    assert len(read) == len(set(read))


def test_loop__whole_task_with_retention_of_models__leaves_none_of_its_updates(tmp_path):
    world = World(tmp_path, rounds=2)
    context = replace(world.players[WORKER].context, retention="models")
    world.players[WORKER]._retention = Retention(context)
    run(world, WORKER)
    own = {cid_text(u.cid) for number in (1, 2) for u in world.chain.reveals[number] if u.worker == WORKER}
    assert len(own) == 2
    assert not own & world.store.blobs.keys()


def test_loop__long_wait__reads_everything_only_when_the_phase_changes(tmp_path):
    world = World(tmp_path, rounds=1)
    stop = threading.Event()
    others = Others(world, WORKER, stop)
    waits = []
    world.ports[WORKER].wait_for_block = lambda *args: (waits.append(1), others.wait(*args))[1]
    slow = replace(world.chain.task.windows, challenge=50)
    world.chain.task = replace(world.chain.task, windows=slow)
    AgentLoop(world.players[WORKER], stop).run()
    assert len(waits) > 50
    assert others.reads < 30


def test_loop__nothing_happens_for_a_minute__looks_again(tmp_path):
    world = World(tmp_path)
    stop = threading.Event()
    others = Others(world, WORKER, stop, stop_when=lambda w: w.chain.now > 1_000 + 3 * loops.MAX_IDLE_S)
    world.players = {WORKER: world.players[WORKER]}
    with pytest.raises(Interrupted):
        AgentLoop(world.players[WORKER], stop).run()
    assert 4 <= others.reads <= 8


class StillChain:
    """Takes the place of waiting for a block: none comes, but for those after `blocks_at` seconds of wall time.

    The agent is stopped after `until` seconds.
    """

    def __init__(self, world: World, until: float, blocks_at=()) -> None:
        self.world, self.until, self.blocks_at = world, until, list(blocks_at)
        self.stop, self.seconds = Impatient(), 0.0
        world.ports[WORKER].wait_for_block = self.wait  # type: ignore[method-assign]

    def wait(self, after, timeout_s):
        self.seconds += timeout_s
        if self.seconds > self.until:
            self.stop.set()
        if self.blocks_at and self.seconds >= self.blocks_at[0]:
            self.blocks_at.pop(0)
            self.world.chain.tick()
        return self.world.chain.block()

    def run(self) -> list[dict]:
        with pytest.raises(Interrupted):
            AgentLoop(self.world.players[WORKER], self.stop, lambda: self.seconds).run()
        return self.world.told(WORKER, "chain_stands_still")


def test_loop__no_block_for_a_minute__is_told_once(tmp_path):
    world = World(tmp_path)
    [told] = StillChain(world, until=1_000).run()
    assert told["seconds_without_block"] == loops.STANDSTILL_S
    assert told["block"] == world.chain.number
    assert "--block-time" in told["why"]
    assert "chainfl local new" in told["why"]


def test_loop__blocks_as_often_as_a_minute__are_no_standstill(tmp_path):
    assert StillChain(World(tmp_path), until=500, blocks_at=range(50, 500, 50)).run() == []


def test_loop__a_second_standstill__is_told_again(tmp_path):
    assert len(StillChain(World(tmp_path), until=300, blocks_at=[100]).run()) == 2


def test_loop__endpoint_away_during_a_standstill__does_not_tell_it_twice(tmp_path):
    world = World(tmp_path)
    chain = StillChain(world, until=300)
    fails = iter([False] * 100 + [True])

    def flaky(*arguments):
        if next(fails, False):
            raise RpcUnreachable("no answer")
        return chain.wait(*arguments)

    world.ports[WORKER].wait_for_block = flaky  # type: ignore[method-assign]
    assert len(chain.run()) == 1
    assert world.told(WORKER, "retrying")


@pytest.mark.parametrize(("block_time_s", "least", "most"), [(12, 60, 60), (50, 150, 250), (250, 300, 300)])
def test_loop__a_chain_with_rare_blocks__is_given_several_block_times(tmp_path, block_time_s, least, most):
    world = World(tmp_path)
    for _ in range(3):
        world.chain.tick(block_time_s)
    [told] = StillChain(world, until=1_000).run()
    assert least <= told["seconds_without_block"] <= most


def test_loop__stopped_between_commit_and_reveal__warns_of_the_stake(tmp_path):
    world = World(tmp_path, rounds=1)
    with pytest.raises(Interrupted) as caught:
        run(world, WORKER, stop_when=lambda w: WORKER in dict(w.chain.sent) and w.chain.clock.committed > 0)
    assert "start again" in caught.value.evidence["at_risk"]
    assert world.told(WORKER, "stake_at_risk")


class SlowToTake(MemoryStore):
    """Takes nothing before its gate opens. asked: what was to be put."""

    def __init__(self, blobs) -> None:
        super().__init__(blobs)
        self.gate = threading.Event()
        self.asked: list[bytes] = []

    def put_bytes(self, data):
        self.asked.append(data)
        assert self.gate.wait(WAIT_S)
        return super().put_bytes(data)


def at_its_aggregate(tmp_path, monkeypatch) -> tuple[World, SlowToTake]:
    monkeypatch.setattr(aggregators, "UPLOAD_LOOK_S", 0.05)
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.phase()[0] is Phase.AGGREGATE)
    store = SlowToTake(world.store.blobs)
    player = world.players[AGGREGATOR]
    player.context = replace(player.context, store=store)
    return world, store


def test_aggregator__store_takes_its_time__looks_again_meanwhile_and_posts_once_all_is_published(tmp_path, monkeypatch):
    world, store = at_its_aggregate(tmp_path, monkeypatch)
    looks = [world.look(AGGREGATOR) for _ in range(5)]
    assert looks[-3:] == [Do.PREPARE_AGGREGATE] * 3
    assert len(store.asked) == 2, "the exact model and the floats, each once and at the same time"
    assert world.told(AGGREGATOR, "aggregated") == []
    store.gate.set()
    world.run()
    assert len(store.asked) == 2
    assert len(world.told(AGGREGATOR, "aggregating")) == 1
    assert world.chain.outcomes == {1: Outcome.FINAL}
    published = world.players[AGGREGATOR].context.report.bytes_published
    assert published == sum(map(len, store.asked))


def test_aggregator__an_upload_fails__is_tried_again_without_computing_anew(tmp_path, monkeypatch):
    world, store = at_its_aggregate(tmp_path, monkeypatch)
    store.gate.set()
    take, faults = store.put_bytes, [NotPublished("nobody confirms", refused="cellar: gone")]

    def fail_once(data):
        if faults:
            raise faults.pop()
        return take(data)

    store.put_bytes = fail_once
    with pytest.raises(NotPublished):
        for _ in range(3):
            world.look(AGGREGATOR)
    world.run()
    assert len(world.told(AGGREGATOR, "aggregating")) == 1
    assert world.chain.outcomes == {1: Outcome.FINAL}


def test_aggregator__stopped_while_the_store_hangs__ends_at_once(tmp_path, monkeypatch):
    world, store = at_its_aggregate(tmp_path, monkeypatch)
    stop = Impatient()
    put = store.put_bytes
    store.put_bytes = lambda data: (stop.set(), put(data))[1]
    Others(world, AGGREGATOR, stop)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        AgentLoop(world.players[AGGREGATOR], stop).run()
    assert time.monotonic() - started < WAIT_S / 2
    assert store.asked
    store.gate.set()


def test_loop__stopped_while_enrolled__says_nothing_is_at_risk(tmp_path):
    world = World(tmp_path)
    with pytest.raises(Interrupted, match="nothing is at risk"):
        run(world, WORKER, stop_when=lambda w: True)


def test_loop__endpoint_away_for_a_while__carries_on(tmp_path, monkeypatch):
    world = World(tmp_path, rounds=1)
    fails = iter([True, True, False, True])
    latest = FakePort.latest_block

    def flaky(self):
        if self.account == WORKER and next(fails, False):
            raise RpcUnreachable("no answer")
        return latest(self)

    monkeypatch.setattr(FakePort, "latest_block", flaky)
    run(world, WORKER)
    pauses = [event["seconds_pause"] for event in world.told(WORKER, "retrying")]
    assert pauses == [0.5, 1.0, 0.5]
    assert world.players[WORKER].context.report.retries == 3


def test_loop__error_that_is_not_retryable__ends_it_with_the_error(tmp_path, monkeypatch):
    world = World(tmp_path, workers=1, rounds=1)

    def exhausted(self, *args):
        raise GasBudgetExhausted("over budget")

    monkeypatch.setattr(FakePort, "reveal_update", exhausted)
    with pytest.raises(GasBudgetExhausted):
        run(world, WORKER)
    assert world.told(WORKER, "failed")[0]["error"] == "GasBudgetExhausted"
    assert world.told(WORKER, "stake_at_risk")


def test_loop__unexpected_errors__are_counted_and_end_it_in_the_end(tmp_path, monkeypatch):
    world = World(tmp_path)

    def broken(*_args):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(world.players[WORKER], "decide", broken)
    with pytest.raises(ZeroDivisionError):
        run(world, WORKER)
    assert len(world.told(WORKER, "retrying")) == loops.MAX_CRASHES - 1


@pytest.mark.parametrize("error", [GasBudgetExhausted, InsufficientFunds, RpcRefused])
def test_loop__chore_that_it_cannot_pay__is_told_once_and_left_to_others(tmp_path, monkeypatch, error):
    world = World(tmp_path, rounds=1)
    tally = FakePort.tally

    def unpaid(self, *args):
        if self.account == AGGREGATOR:
            raise error("no")
        return tally(self, *args)

    monkeypatch.setattr(FakePort, "tally", unpaid)
    run(world, AGGREGATOR)
    assert world.chain.over
    assert [event["doing"] for event in world.told(AGGREGATOR, "chore_skipped")] == ["tally"]


@pytest.mark.parametrize(("times", "ends"), [(loops.MAX_CRASHES - 1, False), (loops.MAX_CRASHES, True)])
def test_loop__endpoint_refuses__is_asked_again_a_few_times(tmp_path, monkeypatch, times, ends):
    world = World(tmp_path, rounds=1)
    left = iter([True] * times)
    latest = FakePort.latest_block

    def refusing(self):
        if self.account == WORKER and next(left, False):
            raise RpcRefused("internal error")
        return latest(self)

    monkeypatch.setattr(FakePort, "latest_block", refusing)
    if ends:
        with pytest.raises(RpcRefused):
            run(world, WORKER)
    else:
        run(world, WORKER)
    assert world.chain.over is not ends


def enrol_with(world: World, monkeypatch, answers) -> None:
    answers = iter(answers)
    enrol = FakePort.enrol

    def answered(self, *args):
        return (next(answers, None) if self.account == WORKER else None) or enrol(self, *args)

    monkeypatch.setattr(FakePort, "enrol", answered)


def test_loop__send_without_receipt__looks_at_the_chain_before_it_sends_again(tmp_path, monkeypatch):
    world = World(tmp_path, rounds=1)
    enrol_with(world, monkeypatch, [TimedOut("0xfeed")])
    run(world, WORKER)
    assert world.told(WORKER, "no_receipt")[0]["tx"] == "0xfeed"
    assert world.chain.over


def test_loop__overtaken_in_its_own_duty__is_no_error(tmp_path, monkeypatch):
    world = World(tmp_path, rounds=1)
    enrol_with(world, monkeypatch, [WouldRevert(UnexpectedPhase("late"))] * 5)
    run(world, WORKER)
    assert world.chain.over


def test_loop__refused_again_and_again__ends_with_the_contracts_error(tmp_path, monkeypatch):
    world = World(tmp_path, rounds=1)
    enrol_with(world, monkeypatch, [WouldRevert(NotEligible("not admitted"))] * 5)
    with pytest.raises(NotEligible):
        run(world, WORKER)
    assert len(world.told(WORKER, "refused")) == loops.MAX_REFUSALS


def test_loop__chore_refused__is_left_to_whoever_was_quicker(tmp_path, monkeypatch):
    world = World(tmp_path, rounds=1)
    refused = iter([WouldRevert(TransactionReverted("MinimaNotReached"))] * 7)
    tally = FakePort.tally
    monkeypatch.setattr(FakePort, "tally", lambda self, *args: next(refused, None) or tally(self, *args))
    monkeypatch.setattr(world, "look", lambda account, look=world.look: look(account) if _is_not_tally(world) else None)
    run(world, AGGREGATOR)
    assert world.chain.over


def _is_not_tally(world: World) -> bool:
    return world.chain.phase()[0] is not Phase.TALLY


def test_loop__slashed__is_told_with_reason_and_transaction(tmp_path):
    world = World(tmp_path, rounds=1)
    world.chain.slashed.append((WORKER, Slash(1, Role.WORKER, Wei(5), "no reveal", 9, "0xabc", WORKER)))
    world.run(until=lambda w: w.chain.clock.round == 1)
    run(world, WORKER)
    told = world.told(WORKER, "slashed")
    assert [(event["wei"], event["reason"], event["tx"]) for event in told] == [(5, "no reveal", "0xabc")]
    assert world.players[WORKER].context.report.slashed_wei == 5


def test_loop__paid__is_told(tmp_path):
    world = World(tmp_path, rounds=1)
    settle = world.ports[AGGREGATOR].settle

    def settle_and_pay(*args):
        world.ports[WORKER].credit = Wei(77)
        return settle(*args)

    world.ports[AGGREGATOR].settle = settle_and_pay
    run(world, WORKER)
    assert world.told(WORKER, "paid")[0]["wei"] == 77


def test_events__each_line__says_where_and_when(tmp_path):
    world = World(tmp_path, rounds=1)
    run(world, WORKER)
    lines = [json.loads(line) for line in world.events[WORKER].getvalue().splitlines()]
    assert all({"time", "agent", "role", "task", "round", "phase", "what"} <= set(line) for line in lines)
    committed = next(line for line in lines if line["what"] == "committed")
    assert (committed["round"], committed["phase"], committed["gas"]) == (1, "COMMIT", 50_000)


# --- wiring --------------------------------------------------------------------------------------


def options_of(tmp_path, **changes) -> wiring.AgentOptions:
    return wiring.AgentOptions(**{"state_dir": tmp_path / "state", "name": "a", "once": True} | changes)


def test_run_aggregator__no_task_named__finds_the_one_in_enrolment(tmp_path):
    world = World(tmp_path, rounds=1)
    del world.players[AGGREGATOR]
    others = Others(world, AGGREGATOR, threading.Event())
    report = wiring.run_aggregator(others.world.ports[AGGREGATOR], world.store, options_of(tmp_path), others.stop)
    assert world.chain.over
    assert report.tasks == [TASK]
    assert report.transactions[Do.POST_AGGREGATE] == 1


def test_run_aggregator__stopped_while_it_looks_for_a_task__ends(tmp_path):
    world = World(tmp_path)
    world.chain.cancelled = True
    others = Others(world, AGGREGATOR, threading.Event(), stop_when=lambda w: True)
    with pytest.raises(Interrupted):
        wiring.run_aggregator(world.ports[AGGREGATOR], world.store, options_of(tmp_path), others.stop)


def test_run_aggregator__specification_nowhere__is_not_found(tmp_path, monkeypatch):
    world = World(tmp_path)
    world.store.blobs.clear()
    with pytest.raises(BlobNotFound):
        wiring.run_aggregator(world.ports[AGGREGATOR], world.store, options_of(tmp_path, task_id=TASK), Impatient())


def test_stop_on_signals__sigterm__sets_the_event_and_restores_the_handlers():
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with wiring.stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    assert signal.getsignal(signal.SIGTERM) is before
