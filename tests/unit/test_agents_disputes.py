"""What agents do when something is disputed: later attempts, demands, clocks that run out; and every rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from agents_world import NUM_PARAMS, World
from fake_chain import TASK, account_of

from chainfl.agents.actions import Act, Do, Stop, Wait
from chainfl.agents.answers import ANSWER_GAS, CALLDATA_GAS, Answers, opening_bytes, with_answer
from chainfl.agents.ports import MAX_AT_ONCE
from chainfl.disputes.openings import update_opening
from chainfl.registry.material import fetch_checkpoint
from chainfl.tasks import spec as specs
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import ZERO_ROOT, Outcome, Phase, Role, Rule, ServerKind

WORKER, VALIDATOR = account_of(100), account_of(200)
FORM = replace(specs.default_format(NUM_PARAMS), chunk_params=16)
MOMENTUM = replace(FORM, server=ServerKind.MOMENTUM, momentum_num=9, momentum_den=10)


def in_phase(phase: Phase, number: int = 1):
    return lambda world: world.chain.phase()[0] is phase and world.chain.clock.round == number


# --- rules -----------------------------------------------------------------------------------------


def test_momentum__two_rounds__model_and_state_move_together(tmp_path):
    world = World(tmp_path, format=MOMENTUM)
    world.run()
    assert world.chain.outcomes == {1: Outcome.FINAL, 2: Outcome.FINAL}
    assert world.chain.state_root not in (ZERO_ROOT, world.chain.params.genesis_state_root)
    root, cid = world.chain.models[2]
    found = fetch_checkpoint(world.store, world.scope, root, world.chain.state_root, cid)
    assert found.state is not None
    before = world.model(1).astype(np.int64)
    assert np.array_equal(before + found.state, found.model)


def test_momentum__nobody_serves_model_and_state__both_are_computed_again(tmp_path):
    world = World(tmp_path, format=MOMENTUM)
    world.run(until=in_phase(Phase.AGGREGATE, 2))
    world.forget_model(1)
    world.start(Role.AGGREGATOR, account_of(300))
    world.run()
    assert world.chain.outcomes[2] is Outcome.FINAL
    assert world.told(account_of(300), "model_rebuilt")


@pytest.mark.parametrize(
    "form",
    [
        replace(FORM, group_size=2),
        replace(FORM, rule=Rule.MEDIAN),
        replace(FORM, rule=Rule.TRIMMED_MEAN, trim_num=1, trim_den=5),
    ],
)
def test_rule__each__is_replayed_and_posted_as_the_contract_wants_it(tmp_path, form):
    world = World(tmp_path, rounds=1, format=form)
    world.run()
    assert world.chain.outcomes == {1: Outcome.FINAL}
    (posted,) = world.chain.posted[1]
    assert len(posted.claim.group_roots) == (2 if form.group_size == 2 else 0)


# --- attempts --------------------------------------------------------------------------------------


def test_attempt__first_is_refuted__another_posts_and_the_cheater_stands_aside(tmp_path):
    world = World(tmp_path, aggregators=2, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    cheater = world.chain.posting[0]
    world.chain.refute()
    world.run()
    first, second = world.chain.posted[1]
    assert (first.poster, second.attempt) == (cheater, 2)
    assert second.poster != cheater
    assert world.chain.outcomes == {1: Outcome.FINAL}


def test_attempt__only_aggregator_is_refuted__the_round_ends_without_it(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    world.chain.refute()
    world.run()
    assert world.chain.outcomes == {1: Outcome.NO_AGGREGATE}


def test_attempt__bond_of_the_next_is_missing__waits(tmp_path):
    world = World(tmp_path, aggregators=2, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    cheater = world.chain.posting[0]
    (other,) = {account_of(300), account_of(301)} - {cheater}
    world.ports[other].free_stake = 2 * world.chain.task.economics.aggregator_bond - 1
    world.chain.refute()
    world.run()
    assert world.chain.outcomes == {1: Outcome.NO_AGGREGATE}


# --- demands ---------------------------------------------------------------------------------------


def index_of(world: World, account: str) -> int:
    return list(world.chain.members[Role.WORKER]).index(account)


def test_early_demand__own_update__is_answered_at_once_from_the_journal(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.SCORE_COMMIT))
    world.store.blobs.clear()
    world.chain.demand(index_of(world, WORKER), NUM_PARAMS // 16)
    assert world.look(WORKER) is Do.ANSWER_DEMAND
    assert [demand.is_open for demand in world.chain.demands] == [False]


def test_early_demand__fee_below_the_gas__is_answered_all_the_same(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.SCORE_COMMIT))
    world.players[WORKER]._answers._context = replace(world.players[WORKER].context, token_price_wei=0)
    world.chain.demand(index_of(world, WORKER))
    assert world.look(WORKER) is Do.ANSWER_DEMAND


def test_early_demand__of_another__is_not_ones_own(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.SCORE_COMMIT))
    world.chain.demand(index_of(world, account_of(101)))
    assert world.look(WORKER) is None


def test_early_demand__worker_is_gone__waits_and_its_update_counts_nothing(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.SCORE_COMMIT))
    world.chain.demand(index_of(world, WORKER))
    world.run(without={WORKER})
    assert [t.weight for t in world.chain.tallies[1] if t.worker == WORKER] == [0]
    assert world.chain.outcomes == {1: Outcome.FINAL}


def test_late_demand__worker_is_gone__a_validator_that_vouched_answers(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    world.chain.demand(index_of(world, WORKER), 3)
    done = world.run(without={WORKER})
    answered = [account for account, do in done if do is Do.ANSWER_DEMAND]
    assert len(answered) == 1
    assert answered[0] in world.accounts[Role.VALIDATOR]
    assert world.chain.outcomes == {1: Outcome.FINAL}


def test_late_demand__worker_is_there__goes_before_the_validators(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    world.chain.demand(index_of(world, WORKER), 3)
    done = world.run()
    assert [account for account, do in done if do is Do.ANSWER_DEMAND] == [WORKER]


def test_early_demands__many_for_one_update__are_answered_in_one_look(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.SCORE_COMMIT))
    for chunk in range(7):
        world.chain.demand(index_of(world, WORKER), chunk)
    assert world.look(WORKER) is Do.ANSWER_DEMAND
    assert [demand.is_open for demand in world.chain.demands] == [False] * 7


def test_late_demands__across_updates__a_validator_answers_all_that_can_be_read(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    gone = next(update for update in world.chain.reveals[1] if update.worker == WORKER)
    del world.store.blobs[cid_text(gone.cid)]
    for account in world.accounts[Role.WORKER]:
        for chunk in range(3):
            world.chain.demand(index_of(world, account), chunk)
    until = lambda w: sum(d.is_open for d in w.chain.demands) == 3  # noqa: E731
    world.run(until=until, without=world.accounts[Role.WORKER])
    assert {d.worker_index for d in world.chain.demands if d.is_open} == {index_of(world, WORKER)}


def test_late_demand__nobody_has_it__is_closed_and_the_task_goes_on(tmp_path):
    world = World(tmp_path, rounds=2)
    world.run(until=in_phase(Phase.CHALLENGE))
    update = next(update for update in world.chain.reveals[1] if update.worker == WORKER)
    del world.store.blobs[cid_text(update.cid)]
    world.chain.demand(index_of(world, WORKER), 3)
    done = world.run(without={WORKER}, until=in_phase(Phase.COMMIT, 2))
    assert [do for _, do in done].count(Do.CLOSE_DEMAND) == 1
    assert world.chain.outcomes == {1: Outcome.WITHHELD}
    assert world.told(VALIDATOR, "cannot_answer")


@pytest.mark.parametrize(("margin", "answers"), [(0, True), (-1, False)])
def test_late_demand__fee_against_gas__decides(tmp_path, margin, answers):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    demand = world.chain.demand(index_of(world, WORKER))
    gas = ANSWER_GAS + CALLDATA_GAS * opening_bytes(world.spec.format)
    price = -(-gas * world.ports[WORKER].gas_price_wei() * 10**18 // (demand.fee // 2)) + margin
    context = replace(world.players[WORKER].context, token_price_wei=price)
    asked = Answers(context).own(world.ports[WORKER].snapshot(TASK, Role.WORKER))
    assert bool(asked) is answers


def test_opening_bytes__any_chunk__is_the_length_of_an_opening():
    values = np.arange(NUM_PARAMS, dtype=np.int16)
    assert {len(update_opening(values, FORM, index)) for index in (0, 18)} == {opening_bytes(FORM)}


@pytest.mark.parametrize(
    ("action", "due", "now", "expected"),
    [
        (Wait("for it"), None, 5, Wait("for it")),
        (Wait("for it"), 6, 5, Wait("for it", until=6)),
        (Wait("for it", until=3), 6, 5, Wait("for it", until=3)),
        (Wait("for it"), 5, 5, Act(Do.ANSWER_DEMAND)),
        (Act(Do.TALLY), 6, 5, Act(Do.TALLY)),
        (Act(Do.TALLY), 5, 5, Act(Do.ANSWER_DEMAND)),
        (Stop("over"), 6, 5, Stop("over")),
    ],
)
def test_with_answer__each_case__does_what_is_due(action, due, now, expected):
    assert with_answer(action, due, now) == expected


# --- games -----------------------------------------------------------------------------------------


def test_game__nobody_answers__anybody_closes_it_and_the_next_attempt_opens(tmp_path):
    world = World(tmp_path, aggregators=2, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    world.chain.dispute()
    done = world.run(without={world.chain.posting[0]})
    assert [do for _, do in done].count(Do.CLOSE_GAME) == 1
    assert [posted.attempt for posted in world.chain.posted[1]] == [1, 2]
    assert world.chain.outcomes == {1: Outcome.FINAL}


def test_game__the_poster_is_there__answers_and_its_aggregate_stands(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    number = world.chain.dispute()
    world.run()
    assert world.chain.games[number].answerer == account_of(300)
    assert world.chain.outcomes == {1: Outcome.FINAL}


def test_games__many_at_once__the_poster_answers_all_in_one_look(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    numbers = [world.chain.dispute() for _ in range(MAX_AT_ONCE + 1)]
    assert world.look(account_of(300)) is Do.ANSWER_GAME
    assert [world.chain.games[number].answers_turn for number in numbers] == [False] * MAX_AT_ONCE + [True]
    assert world.look(account_of(300)) is Do.ANSWER_GAME
    assert not world.chain.games[numbers[-1]].answers_turn


def test_game__challenger_is_silent__is_closed_and_the_aggregate_stands(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    world.chain.dispute(answers_turn=False)
    done = world.run()
    assert [do for _, do in done].count(Do.CLOSE_GAME) == 1
    assert world.chain.outcomes == {1: Outcome.FINAL}


def test_dispute__a_committed_proof_has_time_left__everybody_waits(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    world.chain.docket = replace(world.chain.docket, challenges=1)
    world.run(until=in_phase(Phase.DISPUTE))
    assert [world.look(account) for account in world.players] == [None] * len(world.players)
    world.run()
    assert world.chain.outcomes == {1: Outcome.FINAL}
