"""Rounds for which workers are drawn: who draws, who trains, who rests, and what an audit makes of it."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import pytest
from agents_world import World
from audit_port import AUDITOR, audit_port
from fake_chain import NOBODY, TASK, account_of

from chainfl.agents import aggregator, chores, validator, worker
from chainfl.agents.actions import CHORES, Act, Do, Wait
from chainfl.agents.aggregator import AggregatorMemory
from chainfl.agents.audit import audit_round, read_record
from chainfl.agents.chores import Standing
from chainfl.agents.duties import stake_to_lock
from chainfl.agents.validator import ValidatorMemory
from chainfl.agents.worker import WorkerMemory
from chainfl.tasks.draws import REPUTATION_START
from chainfl.tasks.state import IDLE, Draw, DrawBy, Outcome, Phase, Role, Snapshot
from chainfl.types import Root, Wei

ME, OTHER, THIRD = account_of(1), account_of(2), account_of(3)
BASE = Root(b"\x01" * 32)
NOW, END = 5_000, 5_020
WAITING = replace(NOBODY, stake=10**20, active_from=IDLE, active_until=65_535)
DRAWN = replace(WAITING, active_from=3)
LAST = Standing(ME, (OTHER, THIRD, ME), NOW)
FIRST = Standing(ME, (ME, OTHER, THIRD), NOW)


@pytest.fixture(scope="module")
def blank(tmp_path_factory) -> Snapshot:
    world = World(tmp_path_factory.mktemp("world"), workers=5, draw=Draw(3))
    return world.ports[account_of(100)].snapshot(TASK, Role.WORKER)


def at(blank: Snapshot, me=WAITING, *, block: int = 10, eligible: int = 0, pool: int = 5) -> Snapshot:
    view = {"phase": Phase.COMMIT, "phase_end": END, "round": 3, "model_root": BASE, "seed_block": 9}
    changed = replace(blank.round, **view, eligible_workers=eligible, pool=pool)
    return replace(blank, block=replace(blank.block, number=block), round=changed, me=me)


# --- before the draw -----------------------------------------------------------------------------


def test_worker__last_in_the_roster__draws_in_the_block_after_the_seed(blank):
    assert worker.decide(at(blank), WorkerMemory(), LAST, NOW) == Act(Do.DRAW_WORKERS)
    assert isinstance(worker.decide(at(blank, block=9), WorkerMemory(), LAST, NOW), Wait)
    assert Do.DRAW_WORKERS in CHORES


def test_worker__further_from_the_end__waits_its_turn_and_looks_at_every_block(blank):
    waits = Wait("for another to draw workers", until=NOW + 4, every_block=True)
    assert worker.decide(at(blank), WorkerMemory(), FIRST, NOW + 3) == waits
    assert worker.decide(at(blank), WorkerMemory(), FIRST, NOW + 4) == Act(Do.DRAW_WORKERS)


def test_everybody__nobody_else_draws__draws(blank):
    me = replace(WAITING, active_from=1)
    assert validator.decide(at(blank, me), ValidatorMemory(), FIRST, NOW + 8) == Act(Do.DRAW_WORKERS)
    assert aggregator.decide(at(blank, me), AggregatorMemory(), FIRST, NOW + 8) == Act(Do.DRAW_WORKERS)


def test_everybody__those_before_are_dead__draws_before_a_tenth_of_commit_has_passed(blank):
    windows = replace(blank.task.windows, commit=600, slot=300)
    standing = Standing(ME, (ME, *map(account_of, range(10, 20))), NOW)
    seen = at(blank)
    snapshot = replace(
        seen, task=replace(blank.task, windows=windows), round=replace(seen.round, phase_end=NOW + windows.commit)
    )
    assert worker.decide(snapshot, WorkerMemory(), standing, NOW + 60) == Act(Do.DRAW_WORKERS)


def test_everybody__a_slot_is_longer_than_commit__draws_all_the_same(blank):
    windows = replace(blank.task.windows, commit=60, slot=600)
    snapshot = replace(at(blank), task=replace(blank.task, windows=windows))
    assert worker.decide(snapshot, WorkerMemory(), FIRST, NOW + 4) == Act(Do.DRAW_WORKERS)


@pytest.mark.parametrize(("eligible", "pool"), [(3, 5), (0, 0)])
def test_chores__drawn_already_or_nobody_to_draw__waits_for_the_phase(blank, eligible, pool):
    action = chores.decide(at(blank, eligible=eligible, pool=pool), LAST, NOW)
    assert action == Wait("for the end of COMMIT", until=END)


# --- after it ------------------------------------------------------------------------------------


def test_worker__drawn__trains(blank):
    assert worker.decide(at(blank, DRAWN, eligible=3), WorkerMemory(), FIRST, NOW) == Act(Do.PREPARE_UPDATE)


def test_worker__not_drawn__rests_until_the_next_round(blank):
    action = worker.decide(at(blank, eligible=3), WorkerMemory(), FIRST, NOW)
    assert action == Wait("for the next round: it is not drawn for this one", until=END)


def test_stake_to_lock__more_than_required__is_what_the_operator_wants(blank):
    required = blank.task.economics.worker_stake
    assert stake_to_lock(blank.task, Role.WORKER, None) == required
    assert stake_to_lock(blank.task, Role.WORKER, Wei(3 * required)) == 3 * required
    assert stake_to_lock(blank.task, Role.WORKER, Wei(1)) == required
    assert stake_to_lock(blank.task, Role.AGGREGATOR, Wei(3 * required)) == 0


# --- whole rounds --------------------------------------------------------------------------------


@pytest.mark.parametrize("by", DrawBy)
def test_rounds__three_of_five_drawn__each_is_final_with_their_updates(tmp_path, by):
    world = World(tmp_path, workers=5, rounds=3, draw=Draw(3, by))
    world.watch()
    world.run()
    assert set(world.chain.outcomes.values()) == {Outcome.FINAL}
    for number in (1, 2, 3):
        revealed = {update.worker for update in world.chain.reveals[number]}
        assert revealed == set(world.chain.draws[number].drawn)
    sent = Counter(what for _, what in world.chain.sent)
    assert (sent["draw_workers"], sent["commit_update"], sent["reveal_update"]) == (3, 9, 9)
    assert {who for who, what in world.chain.sent if what == "draw_workers"} == {account_of(104)}


def test_rounds__the_first_in_line_is_dead__another_draws(tmp_path):
    world = World(tmp_path, workers=5, rounds=1, draw=Draw(3))
    world.run(without=(), until=lambda world: world.chain.clock.round == 1)
    world.run(without=(account_of(104), account_of(103)))
    assert [who for who, what in world.chain.sent if what == "draw_workers"] == [account_of(102)]


def test_residual__of_a_worker_that_rested__is_as_it_was(tmp_path):
    world = World(tmp_path, workers=3, rounds=4, draw=Draw(1))
    world.run()
    for account in world.accounts[Role.WORKER]:
        counted = [line["settled_round"] for line in world.told(account, "round_over")]
        drawn = [number for number, draw in world.chain.draws.items() if account in draw.drawn and number < 4]
        assert counted == drawn


# --- audit ---------------------------------------------------------------------------------------


def audit(world: World, number: int):
    world.events[AUDITOR], world.ports[AUDITOR] = io.StringIO(), audit_port(world)
    context = world.context(Role.CHALLENGER, AUDITOR)
    port = audit_port(world)
    record = read_record(port, port.round(TASK), TASK, number, world.chain.outcomes[number])
    try:
        return list(audit_round(context, record, AUDITOR))
    finally:
        context.journal.close()


@pytest.mark.parametrize("by", DrawBy)
def test_audit__drawn_round__the_draw_is_right(tmp_path, by):
    world = World(tmp_path, workers=5, rounds=2, draw=Draw(3, by))
    world.run()
    draw, *others = audit(world, 2)
    assert (draw.what, draw.is_right) == ("draw of the workers", True)
    assert draw.detail.startswith("it is what the seed draws: 3 of 5 by the hash of block ")
    assert all(check.is_right for check in others)


def test_audit__others_than_the_seed_draws__is_wrong_and_fails(tmp_path):
    world = World(tmp_path, workers=5, rounds=1, draw=Draw(3))
    world.run()
    honest = world.chain.draws[1]
    world.chain.draws[1] = replace(honest, drawn=honest.drawn[::-1])
    draw, *_ = audit(world, 1)
    assert draw.is_right is False
    assert draw.fails


def test_audit__nobody_was_drawn__is_told(tmp_path):
    world = World(tmp_path, workers=5, rounds=1, draw=Draw(3))
    world.run()
    del world.chain.draws[1]
    draw, *_ = audit(world, 1)
    assert (draw.is_right, draw.detail) == (None, "nobody was drawn")


def test_world__reputation__starts_in_the_middle(tmp_path):
    world = World(tmp_path, workers=2, rounds=1, draw=Draw(1, DrawBy.REPUTATION))
    world.run()
    assert {member.reputation for member in world.chain.draws[1].pool} == {REPUTATION_START}
