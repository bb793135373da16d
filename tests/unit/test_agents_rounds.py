"""Whole rounds in memory: what the players do together, and what they do when one of them is missing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from agents_world import NUM_PARAMS, World
from fake_chain import TASK, account_of

from chainfl.agents.actions import Do
from chainfl.encoding.fixed_point import quantize_update
from chainfl.errors import BlobNotFound, LineageBroken, NotEligible
from chainfl.registry.replay import accepted_updates, replay_round
from chainfl.tasks.state import Outcome, Phase, Role

WORKER, VALIDATOR, AGGREGATOR = account_of(100), account_of(200), account_of(300)


def test_round__everybody_there__becomes_final_with_the_mean_of_the_updates(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run()
    updates = [
        quantize_update(world.players[account]._trainer.target * np.float32(0.5), 14).values
        for account in world.accounts[Role.WORKER]
    ]
    expected = replay_round(world.genesis, [(update, 10_000) for update in updates], world.spec.format)
    assert world.chain.outcomes == {1: Outcome.FINAL}
    assert world.chain.model_root == expected.root
    assert np.array_equal(world.model(1), expected.model)


def test_round__everybody_there__each_transaction_is_sent_once(tmp_path):
    world = World(tmp_path, rounds=2)
    world.run()
    sent = Counter(what for _, what in world.chain.sent)
    assert sent == {
        "enrol": 6,
        "commit_update": 6,
        "reveal_update": 6,
        "commit_scores": 4,
        "reveal_scores": 4,
        "tally": 2,
        "post_aggregate": 2,
        "settle": 2,
    }


def test_round__anybody__can_replay_it_from_public_data(tmp_path):
    world = World(tmp_path, rounds=2)
    world.run()
    reader = world.chain.port(account_of(1))
    base_root, _ = reader.model_location(TASK, 1)
    revealed, tallied = reader.revealed_updates(TASK, 2, 0), reader.tallied_updates(TASK, 2, 0)
    updates = accepted_updates(world.store, world.scope, 2, base_root, revealed, tallied)
    assert replay_round(world.model(1), updates, world.spec.format).root == reader.model_location(TASK, 2)[0]


def test_residual__after_a_final_round__is_what_the_update_lost(tmp_path):
    world = World(tmp_path, rounds=2)
    worker = world.players[WORKER]
    world.run(until=lambda w: w.chain.clock.round == 2 and w.chain.clock.committed > 0)
    lost = quantize_update(worker._trainer.target * np.float32(0.5), 14).residual
    assert np.array_equal(worker.context.journal.residual(NUM_PARAMS), lost)


def test_residual__after_a_void_round__is_the_one_before(tmp_path):
    world = World(tmp_path, rounds=3, aggregators=1)
    world.run(until=lambda w: w.chain.clock.round == 2 and w.chain.phase()[0] is Phase.AGGREGATE)
    before = world.players[WORKER].context.journal.residual(NUM_PARAMS)
    world.run(until=lambda w: w.chain.clock.round == 3, without=[AGGREGATOR])
    assert world.chain.outcomes[2] is Outcome.NO_AGGREGATE
    world.run(until=lambda w: w.chain.clock.committed > 0)
    assert np.array_equal(world.players[WORKER].context.journal.residual(NUM_PARAMS), before)
    assert world.told(WORKER, "round_over")[-1]["weight"] == 0


def test_round__no_aggregator_at_work__others_settle_and_it_turns_void(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.clock.round == 1)
    done = world.run(without=[AGGREGATOR])
    assert world.chain.outcomes == {1: Outcome.NO_AGGREGATE}
    assert [(who, do) for who, do in done if do in (Do.TALLY, Do.SETTLE)] == [
        (VALIDATOR, Do.TALLY),
        (VALIDATOR, Do.SETTLE),
    ]


def test_round__holder_of_the_first_slot_is_dead__the_second_posts(tmp_path):
    world = World(tmp_path, rounds=1, aggregators=2)
    first = world.accounts[Role.AGGREGATOR][0]
    world.run(until=lambda w: w.chain.order != ())
    world.run(without=[first])
    assert world.chain.outcomes == {1: Outcome.FINAL}
    assert ("post_aggregate", 1) in Counter(w for a, w in world.chain.sent if a != first).items()


def test_round__first_aggregator_comes_back_late__posts_in_the_open_window(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.phase()[0] is Phase.AGGREGATE)
    world.run(until=lambda w: w.chain.now >= w.chain.progress.aggregate_start + 12, without=[AGGREGATOR])
    done = world.run()
    assert [do for who, do in done if who == AGGREGATOR][:3] == [
        Do.PREPARE_AGGREGATE,
        Do.COMMIT_AGGREGATE,
        Do.POST_AGGREGATE,
    ]
    assert world.chain.outcomes == {1: Outcome.FINAL}


@pytest.mark.parametrize("stop_after", range(4))
def test_worker__restarted_after_each_deed__commits_once_and_reveals(tmp_path, stop_after):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.clock.round == 1)
    for _ in range(stop_after):
        while world.look(WORKER) is None:
            world.chain.tick()
            world.run(until=lambda w: w.look(WORKER) is not None or w.chain.over, without=[WORKER])
            break
    world.start(Role.WORKER, WORKER)
    world.run()
    sent = Counter(what for who, what in world.chain.sent if who == WORKER)
    assert (sent["commit_update"], sent["reveal_update"]) == (1, 1)
    assert world.chain.outcomes == {1: Outcome.FINAL}


def test_everybody__restarted_before_each_look__finishes_all_the_same(tmp_path):
    world = World(tmp_path, rounds=2)

    def restart_all(w: World) -> bool:
        for role, group in w.accounts.items():
            for account in group:
                w.start(role, account)
        return w.chain.over

    world.run(until=restart_all)
    assert world.chain.outcomes == {1: Outcome.FINAL, 2: Outcome.FINAL}
    assert max(Counter(world.chain.sent).values()) == 2  # once a round
    assert world.chain.slashed == []


def test_worker__journal_lost_after_the_commit__says_so_and_does_not_commit_again(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.members[Role.WORKER].get(WORKER, None) and w.chain.clock.committed == 3)
    for path in (tmp_path / WORKER).glob("update-*"):
        path.unlink()
    player = world.start(Role.WORKER, WORKER)
    snapshot = world.ports[WORKER].snapshot(TASK, Role.WORKER)
    assert player.has_lost_salt(snapshot)
    world.run()
    assert Counter(what for who, what in world.chain.sent if who == WORKER)["commit_update"] == 1
    assert [who for who, _ in world.chain.slashed] == [WORKER]


def test_worker__stopped_between_commit_and_reveal__is_at_risk(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.clock.committed == 3)
    snapshot = world.ports[WORKER].snapshot(TASK, Role.WORKER)
    assert "round 1" in world.players[WORKER].at_risk(snapshot)
    world.run(until=lambda w: w.chain.clock.revealed == 3)
    assert world.players[WORKER].at_risk(world.ports[WORKER].snapshot(TASK, Role.WORKER)) is None


def test_validator__update_never_published__abstains(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.clock.revealed == 3)
    missing = world.chain.reveals[1][0]
    world.store.blobs = {
        cid: data for cid, data in world.store.blobs.items() if WORKER.encode() not in data or missing.worker != WORKER
    }
    assert world.look(VALIDATOR) is Do.PREPARE_SCORES
    assert not world.told(VALIDATOR, "scored")  # it may still arrive
    world.chain.tick(8)
    assert world.look(VALIDATOR) is Do.PREPARE_SCORES
    assert world.told(VALIDATOR, "scored")[0]["abstained"] == 1
    world.run()
    assert world.chain.outcomes == {1: Outcome.FINAL}
    assert [t.weight for t in world.chain.tallies[1]] == [0, 10_000, 10_000]


def test_validator__bytes_of_another_round__abstains(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.clock.revealed == 3)
    for cid, data in world.store.blobs.items():
        if WORKER.encode() in data:
            world.store.blobs[cid] = data.replace(b'"round":"1"', b'"round":"9"')
    world.run(until=lambda w: bool(w.told(VALIDATOR, "scored")))
    assert "round" in world.told(VALIDATOR, "update_not_delivered")[0]["why"]
    assert world.told(VALIDATOR, "scored")[0]["abstained"] == 1


def test_models__bytes_of_the_last_model_are_gone__are_rebuilt_from_the_updates(tmp_path):
    world = World(tmp_path, rounds=2)
    world.run(until=lambda w: w.chain.clock.round == 2)
    world.forget_model(1)
    player = world.start(Role.WORKER, WORKER)
    root = world.chain.model_root
    model = player.models.at_round(2, root)
    assert world.told(WORKER, "model_rebuilt")[0]["made_in"] == 1
    assert np.array_equal(world.model(1), model)  # published again
    world.run()
    assert world.chain.outcomes[2] is Outcome.FINAL


def test_models__genesis_bytes_are_gone__cannot_be_rebuilt(tmp_path):
    world = World(tmp_path)
    world.forget_model(0)
    with pytest.raises(BlobNotFound):
        world.players[WORKER].models.at_round(1, world.chain.model_root)


def test_models__chain_names_another_root__is_a_broken_lineage(tmp_path):
    world = World(tmp_path)
    with pytest.raises(LineageBroken):
        world.players[WORKER].models.at_round(1, bytes(32))


def test_models__before__skips_void_rounds(tmp_path):
    world = World(tmp_path, rounds=4)
    world.run(until=lambda w: w.chain.clock.round == 2)
    world.run(until=lambda w: w.chain.clock.round == 3, without=[AGGREGATOR])
    models = world.players[VALIDATOR].models
    assert np.array_equal(models.before(3, world.chain.model_root), world.genesis)
    assert models.before(1, world.chain.models[0][0]) is None


def test_worker__update_longer_than_the_bound__is_scaled_down_to_it(tmp_path):
    from dataclasses import replace

    from chainfl.tasks import spec as specs

    form = replace(specs.default_format(NUM_PARAMS), chunk_params=16, max_squared_norm=10_000)
    world = World(tmp_path, rounds=1, format=form)
    world.run()
    assert world.chain.outcomes == {1: Outcome.FINAL}
    assert all(9_000 < u.squared_norm <= 10_000 for u in world.chain.reveals[1])
    assert world.told(WORKER, "norm_bounded")[0]["scale"] < 1


def test_worker__that_left__stops_when_nothing_is_left_to_reveal(tmp_path):
    world = World(tmp_path, rounds=2)
    world.run(until=lambda w: w.chain.clock.committed == 1)
    world.ports[WORKER].leave(TASK, Role.WORKER)
    world.run()
    assert isinstance(world.stopped[WORKER].error, NotEligible)
    assert world.chain.slashed == []
    assert [u.worker for u in world.chain.reveals[2]] == world.accounts[Role.WORKER][1:]


def test_task__minima_not_reached__is_cancelled_by_whoever_is_there(tmp_path):
    world = World(tmp_path, workers=3)
    alone = [a for a in world.players if a != AGGREGATOR]
    world.run(until=lambda w: w.chain.now >= 1_999, without=alone, max_ticks=2_000)
    world.run(until=lambda w: w.chain.cancelled, without=alone, max_ticks=20)
    assert world.chain.sent[-1] == (AGGREGATOR, "cancel_task")


def test_task__minima_reached_at_the_deadline__is_started_once(tmp_path):
    world = World(tmp_path, workers=3, rounds=1)
    absent = [account_of(102)]
    world.run(without=absent, max_ticks=2_000)
    assert Counter(what for _, what in world.chain.sent)["start_task"] == 1
    assert world.chain.outcomes == {1: Outcome.FINAL}
