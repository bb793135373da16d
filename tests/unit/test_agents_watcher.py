"""Watchers in a whole task in memory: what they dispute, how far they go, what it costs them, and what they survive.

Everybody is honest in round 1; who cheats does so in round 2.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from agents_world import WATCHER, World
from cheats import (
    ADAM,
    DEPTH,
    FORM,
    GROUPS,
    MOMENTUM,
    LyingWorker,
    ServingAggregator,
    enter,
    index_of,
    lies_at,
    publishes_others,
)
from fake_chain import TASK, account_of

from chainfl.agents.actions import Do, Wait
from chainfl.agents.cases import Against, CaseFile
from chainfl.agents.journal import Journal
from chainfl.errors import NodeBehind, RootMismatch, UsageError
from chainfl.registry.replay import accepted_updates
from chainfl.simulation.attackers import (
    OutOfRangeWorker,
    WithholdingAggregator,
    WithholdingWorker,
    WrongAggregator,
    WrongGroupAggregator,
    WrongStateAggregator,
)
from chainfl.tasks.cids import cid_text
from chainfl.tasks.spec import DEFAULT_ECONOMICS, TOKEN
from chainfl.tasks.state import Outcome, Phase, Role, Verdict

CHEAT, LIAR = account_of(300), account_of(100)
CHEAP = replace(DEFAULT_ECONOMICS, demand_fee=TOKEN // 1000)
REWARD = DEFAULT_ECONOMICS.worker_stake // 2
CHEAP_FEE = DEFAULT_ECONOMICS.demand_fee


def sent_by(world: World, account: str = WATCHER) -> list[str]:
    return [what for who, what in world.chain.sent if who == account]


def in_phase(phase: Phase, number: int = 2):
    return lambda world: world.chain.phase()[0] is phase and world.chain.clock.round == number


def reasons(world: World) -> list[tuple[int, str, str]]:
    return [(refuted.round, refuted.worker, refuted.reason) for refuted in world.chain.refuted]


def with_cheat(tmp_path, make, account: str = CHEAT, **changes) -> World:
    world = World(tmp_path, aggregators=2, **{"rounds": 2, "format": FORM, **changes})
    enter(world, account, make)
    return world


FELL_ONCE = {(2, 1): Verdict.REFUTED}


# --- aggregates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cheat", "form"),
    [
        (WrongAggregator, FORM),
        (WrongAggregator, GROUPS),
        (WrongAggregator, MOMENTUM),
        (WrongStateAggregator, MOMENTUM),
        (WrongStateAggregator, ADAM),
    ],
)
def test_aggregate__wrong_and_published__falls_to_one_proof_and_the_next_attempt_is_right(tmp_path, cheat, form):
    world = with_cheat(tmp_path, cheat, format=form)
    world.watch()
    world.run()
    assert world.chain.verdicts == FELL_ONCE
    assert world.chain.outcomes == {1: Outcome.FINAL, 2: Outcome.FINAL}
    assert sent_by(world)[:2] == ["commit_challenge", "prove_aggregate"]
    assert not world.told(WATCHER, "refused")


@pytest.mark.parametrize("form", [FORM, GROUPS, MOMENTUM, ADAM])
def test_aggregate__right__is_told_and_nothing_is_sent(tmp_path, form):
    world = World(tmp_path, rounds=1, format=form)
    world.watch()
    world.run()
    assert len(world.told(WATCHER, "aggregate_right")) == 1
    assert sent_by(world) == []


@pytest.mark.parametrize(("cheat", "form"), [(ServingAggregator, FORM), (WrongGroupAggregator, GROUPS)])
def test_aggregate__withheld_and_every_question_answered__is_proven_in_the_game(tmp_path, cheat, form):
    world = with_cheat(tmp_path, cheat, format=form)
    world.watch()
    world.run()
    assert sent_by(world)[:4] == ["open_game", "point_at", "commit_proof", "prove_in_game"]
    assert world.chain.verdicts == FELL_ONCE
    assert not world.told(WATCHER, "refused")


def test_aggregate__withheld_and_silent__falls_by_its_clock(tmp_path):
    world = with_cheat(tmp_path, WithholdingAggregator)
    world.watch()
    world.run()
    assert sent_by(world)[:1] == ["open_game"]
    assert "close_game" in [what for _, what in world.chain.sent]
    assert world.chain.verdicts == FELL_ONCE


def test_aggregate__two_watchers__one_proves_and_both_go_on(tmp_path):
    other = account_of(401)
    world = with_cheat(tmp_path, WrongAggregator)
    world.watch()
    world.watch(other)
    world.run()
    proofs = [who for who, what in world.chain.sent if what == "prove_aggregate"]
    assert len(proofs) == 1
    assert world.chain.verdicts == FELL_ONCE
    assert [len(world.told(who, "aggregate_right")) for who in (WATCHER, other)] == [2, 2]


def test_proof__is_in__is_told_once_with_its_gas(tmp_path):
    world = with_cheat(tmp_path, WrongAggregator)
    world.watch()
    world.run()
    (proven,) = world.told(WATCHER, "proven")
    assert (proven["against"], proven["gas"] > 0) == ("aggregate", True)
    assert proven["tx"] not in [sent["tx"] for sent in world.told(WATCHER, "sent")]
    (disputing,) = world.told(WATCHER, "disputing")
    assert disputing["bond_wei"] == DEFAULT_ECONOMICS.challenger_bond
    assert disputing["reward_wei"] == DEFAULT_ECONOMICS.aggregator_bond // 2


def test_aggregate__right_and_in_a_game__its_poster_looks_at_every_block_for_the_next_question(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE, 1))
    world.chain.dispute()
    assert world.look(CHEAT) is Do.ANSWER_GAME
    snapshot = world.ports[CHEAT].snapshot(TASK, Role.AGGREGATOR)
    action = world.players[CHEAT].decide(snapshot, world.standing(CHEAT, snapshot), world.chain.now)
    assert isinstance(action, Wait)
    assert action.every_block


@pytest.mark.parametrize(("cheat", "form"), [(WrongStateAggregator, FORM), (WrongGroupAggregator, FORM)])
def test_cheat__in_a_task_without_what_it_lies_about__is_a_mistake_of_who_started_it(tmp_path, cheat, form):
    world = with_cheat(tmp_path, cheat, format=form)
    with pytest.raises(UsageError):
        world.run()


# --- updates -------------------------------------------------------------------------------------


def test_update__out_of_range__is_proven_and_weighs_nothing(tmp_path):
    world = with_cheat(tmp_path, OutOfRangeWorker, LIAR)
    world.watch()
    world.run()
    assert reasons(world) == [(2, LIAR, "value out of range")]
    assert sent_by(world) == ["commit_proof", "prove_update"]
    assert [t.weight for t in world.chain.tallies[2] if t.worker == LIAR] == [0]
    assert world.told(WATCHER, "disputing")[0]["bond_wei"] == 0


def test_update__never_published__one_chunk_is_demanded_and_the_fee_comes_back(tmp_path):
    world = with_cheat(tmp_path, WithholdingWorker, LIAR)
    world.watch()
    without_validators(world, lambda w: w.chain.demands)
    world.run()
    assert sent_by(world) == ["demand_chunk", "close_demand"]
    assert reasons(world) == [(2, LIAR, "withheld")]
    assert world.chain.fees == {}


def test_update__published_late__is_no_longer_missing(tmp_path):
    world = World(tmp_path, rounds=1)
    world.watch()
    late = world.players[LIAR]
    kept: dict = {}
    world.run(until=in_phase(Phase.REVEAL, 1))
    world.run(until=lambda w: len(w.chain.reveals[1]) == 1, without=world.accounts[Role.WORKER][1:])
    cid = cid_text(world.chain.reveals[1][0].cid)
    kept[cid] = world.store.blobs.pop(cid)
    world.settle_watcher()
    assert [told["state"] for told in world.told(WATCHER, "update_suspect")] == ["missing"]
    world.store.blobs.update(kept)
    world.run()
    assert late.context.chain.account == LIAR
    assert sent_by(world) == []
    assert len(world.told(WATCHER, "aggregate_right")) == 1


def test_update__its_store_stalls__the_others_are_checked_and_it_is_demanded_once_it_is_overdue(tmp_path):
    world = World(tmp_path, rounds=1)
    world.watch()
    stalled, real = threading.Event(), world.store.get_file
    world.run(until=in_phase(Phase.SCORE_COMMIT, 1), without={WATCHER})
    bad = next(update for update in world.chain.reveals[1] if update.worker == LIAR)

    def get_file(cid, target, *, max_bytes, **options):
        if cid == cid_text(bad.cid):
            stalled.wait()
        real(cid, target, max_bytes=max_bytes)

    world.store.get_file = get_file
    while not world.chain.demands:
        world.settle_watcher()
        assert set(world.watchers[WATCHER]._findings.updates) >= {index_of(world, account_of(n)) for n in (101, 102)}
        world.chain.tick()
    stalled.set()
    assert [demand.worker_index for demand in world.chain.demands] == [index_of(world, LIAR)]


# --- updates that validators accepted all the same -------------------------------------------------


def accepted_of_all(world: World):
    """The updates of round 2 as an aggregator fetches them, had the validators accepted every one."""
    reveals, tallied = world.chain.reveals[2], [replace(one, weight=1) for one in world.chain.tallies[2]]
    updates = accepted_updates(world.store, world.scope, 2, world.chain.models[1][0], reveals, tallied)
    return dict(zip((one.worker for one in tallied), (values for values, _ in updates), strict=True))


def test_accepted_updates__out_of_range__counts_as_the_contract_counts_it(tmp_path):
    world = with_cheat(tmp_path, OutOfRangeWorker, LIAR)
    world.run()
    assert -32_768 in accepted_of_all(world)[LIAR]


def test_accepted_updates__a_lie_about_a_sum__counts_as_the_contract_counts_it(tmp_path):
    world = with_cheat(tmp_path, lies_at((2, 1)), LIAR)
    world.run()
    assert len(accepted_of_all(world)) == 3


def test_accepted_updates__other_values_than_revealed__are_not_delivered(tmp_path):
    world = with_cheat(tmp_path, publishes_others(3), LIAR)
    world.run()
    with pytest.raises(RootMismatch):
        accepted_of_all(world)


# --- a lie about a sum, followed down --------------------------------------------------------------


def without_validators(world: World, until) -> None:
    """Round 2 up to a point, with validators who take their time."""
    world.run(until=in_phase(Phase.COMMIT))
    world.run(until=until, without=world.accounts[Role.VALIDATOR])


def follow(world: World) -> None:
    """To the end; validators come only once the watcher has asked all that it wants to ask in round 2."""
    without_validators(world, in_phase(Phase.SCORE_COMMIT))
    for _ in range(2 * DEPTH + 4):
        world.look(LIAR)
        world.settle_watcher()
    world.run()


@pytest.mark.parametrize("height", range(DEPTH))
@pytest.mark.parametrize("seed", range(3))
def test_sum_lie__at_two_nodes__is_followed_down_and_proven(tmp_path, height, seed):
    last = 18 >> height
    world = with_cheat(tmp_path, lies_at((height, 0), (height, last)), LIAR, economics=CHEAP)
    world.watch()._evidence._secret = bytes([seed]) * 32
    follow(world)
    assert reasons(world) == [(2, LIAR, "wrong sum")]
    asked = sent_by(world).count("demand_chunk")
    assert 1 <= asked <= DEPTH + 1
    assert sent_by(world) == ["demand_chunk"] * asked + ["commit_proof", "prove_update"]
    assert world.chain.fees[WATCHER] < REWARD
    assert not world.told(WATCHER, "refused")


def test_sum_lie__most_of_the_squares_are_hidden__one_demand_is_enough(tmp_path):
    liar = type("Half", (LyingWorker,), {})
    world = with_cheat(tmp_path, liar, LIAR)
    world.watch()

    def forge(self, values, form):
        from chainfl.encoding.chunk_tree import VectorKind, build_tree

        tree = build_tree(values, form.chunk_params, VectorKind.UPDATE)
        self.lies = {(0, chunk): -tree.node(0, chunk)[1] for chunk in range(19)}
        return LyingWorker.forge(self, values, form)

    liar.forge = forge
    follow(world)
    assert sent_by(world) == ["demand_chunk", "commit_proof", "prove_update"]
    assert world.chain.fees == {WATCHER: DEFAULT_ECONOMICS.demand_fee}


def test_sum_lie__at_one_node__is_proven_without_asking(tmp_path):
    world = with_cheat(tmp_path, lies_at((2, 1)), LIAR)
    world.watch()
    follow(world)
    assert sent_by(world) == ["commit_proof", "prove_update"]
    assert reasons(world) == [(2, LIAR, "wrong sum")]


def test_sum_lie__an_answer_to_another_shows_it__is_proven_without_a_fee(tmp_path):
    world = with_cheat(tmp_path, lies_at((0, 3), (0, 5)), LIAR)
    world.watch()
    world.run(until=in_phase(Phase.REVEAL))
    validators = world.accounts[Role.VALIDATOR]
    world.run(until=lambda w: any(u.worker == LIAR for u in w.chain.reveals[2]), without={*validators, WATCHER})
    world.chain.demand(index_of(world, LIAR), 3)
    world.run(until=lambda w: w.chain.refuted, without=validators)
    assert sent_by(world) == ["commit_proof", "prove_update"]
    assert WATCHER not in world.chain.fees


def test_answers__worker_published_other_values__one_demand_a_round_and_no_proof(tmp_path):
    world = with_cheat(tmp_path, publishes_others(*range(19)), LIAR)
    world.watch()
    follow(world)
    assert sent_by(world) == ["demand_chunk"]
    assert world.chain.fees == {WATCHER: DEFAULT_ECONOMICS.demand_fee}
    assert reasons(world) == []
    assert [t.weight for t in world.chain.tallies[2] if t.worker == LIAR] == [0]


@pytest.mark.parametrize("seed", range(4))
def test_answers__other_values_in_one_chunk__the_fees_stay_below_what_a_proof_would_have_brought(tmp_path, seed):
    world = with_cheat(tmp_path, publishes_others(7), LIAR)
    world.watch()._evidence._secret = bytes([seed]) * 32
    follow(world)
    assert set(sent_by(world)) == {"demand_chunk"}
    assert world.chain.fees[WATCHER] < REWARD
    assert reasons(world) == []


def test_answers__followed_in_vain_in_an_earlier_round__one_demand_and_no_more(tmp_path):
    world = with_cheat(tmp_path, publishes_others(7), LIAR, economics=CHEAP)
    watcher = world.watch()
    watcher._evidence._secret = bytes(32)
    watcher._findings.in_vain = frozenset({index_of_later(LIAR)})
    follow(world)
    assert sent_by(world) == ["demand_chunk"]


def index_of_later(account: str) -> int:
    """The place that a worker of a `World` will have: they enrol in their order."""
    return [account_of(100 + i) for i in range(3)].index(account)


def test_answers__node_shows_what_the_contract_would_refuse__looks_again_later(tmp_path):
    world = with_cheat(tmp_path, lies_at((0, 3), (0, 5)), LIAR)
    world.watch()
    without_validators(world, lambda w: w.chain.answers)
    (told,) = world.chain.answers
    world.chain.answers[0] = replace(told, opening=bytes(len(told.opening)))
    with pytest.raises(NodeBehind, match="contract would refuse"):
        world.settle_watcher()


# --- what a watcher survives -----------------------------------------------------------------------


def restarted(world: World, **options):
    """The same watcher as a fresh process: nothing but its journal is known to it."""
    return world.watch(**options)


@pytest.mark.parametrize("after", [0, 1])
def test_restart__in_the_middle_of_a_case__goes_on_with_the_same_bond(tmp_path, after):
    world = with_cheat(tmp_path, WrongAggregator)
    world.watch()
    world.run(until=lambda w: any(w.watchers[WATCHER]._cases.all()))
    world.run(until=lambda w: len(sent_by(w)) == after)
    restarted(world)
    world.run()
    assert sent_by(world)[:2] == ["commit_challenge", "prove_aggregate"]
    assert world.chain.verdicts == FELL_ONCE
    assert list(world.watchers[WATCHER]._cases.all()) == []


def test_restart__in_the_middle_of_a_game__recomputes_and_wins(tmp_path):
    world = with_cheat(tmp_path, ServingAggregator)
    world.watch()
    world.run(until=lambda w: any(w.chain.moves.values()))
    restarted(world)
    world.run()
    assert sent_by(world)[:4] == ["open_game", "point_at", "commit_proof", "prove_in_game"]
    assert world.chain.verdicts == FELL_ONCE


def test_restart__the_rounds_bytes_are_gone__asks_again_and_wins_the_game_once_they_are_there(tmp_path):
    world = with_cheat(tmp_path, ServingAggregator)
    world.watch()
    world.run(until=lambda w: any(w.chain.moves.values()))
    cid = cid_text(world.chain.reveals[2][1].cid)
    kept = world.store.blobs.pop(cid)
    restarted(world)
    with pytest.raises(NodeBehind, match="cannot be fetched"):
        world.settle_watcher()
    world.store.blobs[cid] = kept
    world.run()
    assert world.chain.verdicts == FELL_ONCE


def test_restart__an_accepted_update_is_gone_in_challenge__its_vouchers_are_asked_for_it(tmp_path):
    world = World(tmp_path, rounds=1)
    world.watch()
    world.run(until=in_phase(Phase.CHALLENGE, 1), without={WATCHER})
    update = next(update for update in world.chain.reveals[1] if update.worker == LIAR)
    del world.store.blobs[cid_text(update.cid)]
    world.settle_watcher()
    assert world.told(WATCHER, "cannot_recompute")
    assert sent_by(world) == ["demand_chunk"]
    assert [(d.worker_index, d.is_late) for d in world.chain.demands] == [(index_of(world, LIAR), True)]


def test_restart__a_case_of_an_attempt_that_fell__is_dropped_and_its_bond_comes_back(tmp_path):
    world = with_cheat(tmp_path, WrongAggregator, rounds=3)
    world.watch()
    world.run(until=lambda w: sent_by(w) == ["commit_challenge"])
    world.chain.refute()  # by another
    restarted(world)
    world.run()
    assert sent_by(world) == ["commit_challenge", "close_challenge"]
    assert list(world.watchers[WATCHER]._cases.all()) == []
    assert world.chain.challenges == {}


def test_dry_run__everything_is_wrong__all_is_told_and_nothing_is_sent(tmp_path):
    world = with_cheat(tmp_path, WrongAggregator)
    enter(world, LIAR, OutOfRangeWorker)
    world.watch(dry_run=True)
    world.run(until=lambda w: in_phase(Phase.SETTLEMENT)(w) or w.chain.over)
    assert sent_by(world) == []
    assert list(CaseFile(Journal(tmp_path / "read")).all()) == list(world.watchers[WATCHER]._cases.all()) == []
    assert [told["why"] for told in world.told(WATCHER, "update_suspect")] == ["value out of range"]
    assert [(told["why"], told["reward_wei"]) for told in world.told(WATCHER, "disputing")] == [
        ("value out of range", REWARD),
        ("its model is not what the accepted updates make", DEFAULT_ECONOMICS.aggregator_bond // 2),
    ]
    assert [(told["sends"], told["about"]) for told in world.told(WATCHER, "would_dispute")] == [
        ("commitProof, proveUpdate", f"the update of worker {index_of(world, LIAR)}"),
        ("commitChallenge, proveAggregate", "attempt 1 at the aggregate"),
    ]


def test_dry_run__an_update_is_withheld__tells_fee_and_reward_of_the_demand(tmp_path):
    world = with_cheat(tmp_path, WithholdingWorker, LIAR)
    world.watch(dry_run=True)
    without_validators(world, lambda w: w.told(WATCHER, "would_dispute"))
    (told,) = world.told(WATCHER, "disputing")
    assert (told["bond_wei"], told["reward_wei"] > 0, told["cost_wei"] > 0) == (CHEAP_FEE, True, True)
    assert [one["sends"] for one in world.told(WATCHER, "would_dispute")] == ["demandChunk"]
    assert sent_by(world) == []


def test_updates__several_are_withheld__are_demanded_in_one_look(tmp_path):
    world = with_cheat(tmp_path, WithholdingWorker, LIAR)
    enter(world, account_of(101), WithholdingWorker)
    world.watch()
    without_validators(world, in_phase(Phase.SCORE_COMMIT))
    steps = 0
    while not world.chain.demands:
        steps += 1
        if not world.step():
            world.chain.tick()
    assert len(world.chain.demands) == 2


def test_refused__another_was_quicker__is_not_sent_again_and_hides_nothing_else(tmp_path):
    world = with_cheat(tmp_path, WrongAggregator)
    enter(world, LIAR, OutOfRangeWorker)
    world.watch()
    world.run(until=lambda w: sent_by(w) == ["commit_proof"])
    world.ports[WATCHER]._refute_update(index_of(world, LIAR), account_of(888), "value out of range")
    world.run()
    assert [told["move"] for told in world.told(WATCHER, "refused")] == ["Prove"]
    assert sent_by(world)[:3] == ["commit_proof", "commit_challenge", "prove_aggregate"]
    assert world.chain.verdicts == FELL_ONCE


def test_case__of_another_round__is_against_nobody_any_more(tmp_path):
    world = with_cheat(tmp_path, OutOfRangeWorker, LIAR, rounds=3)
    world.watch()
    world.run(until=lambda w: any(c.against is Against.UPDATE for c in w.watchers[WATCHER]._cases.all()))
    world.run(until=in_phase(Phase.COMMIT, 3), without={WATCHER})
    world.settle_watcher()
    assert list(world.watchers[WATCHER]._cases.all()) == []
    assert sent_by(world) == []
