"""Replaying a round: every rule's claim, and updates that stay on disk."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from agents_world import World
from dispute_rounds import FORMATS, Round
from fake_chain import TASK

from chainfl.encoding.chunk_tree import VectorKind, vector_root, zero_state_root
from chainfl.encoding.sources import FileSource
from chainfl.errors import AggregationError, EncodingError, LineageBroken
from chainfl.registry.replay import accepted_updates, replay_round
from chainfl.tasks.state import ZERO_ROOT, Claim


def replay(played: Round, **changes):
    return replay_round(
        played.model, list(zip(played.updates, played.weights, strict=True)), played.form, state=played.state, **changes
    )


@pytest.mark.parametrize("name", FORMATS)
def test_claim__each_rule__roots_of_what_was_computed(name):
    played = Round.random(FORMATS[name])
    replayed = replay(played)
    state_root = ZERO_ROOT if replayed.state is None else played.root(replayed.state, VectorKind.STATE)
    model_root = played.root(replayed.model, VectorKind.MODEL)
    assert replayed.claim() == Claim(model_root, state_root, played.group_roots)
    assert (replayed.num_updates, replayed.total_weight) == (5, sum(played.weights))
    assert (replayed.state is not None) == played.form.has_state


@pytest.mark.parametrize("name", FORMATS)
def test_replay_round__weights_of_zero__are_in_no_group_and_no_rank(name):
    played = Round.random(FORMATS[name])
    pairs = list(zip(played.updates, played.weights, strict=True))
    pairs.insert(1, (np.full(150, 32767, np.int16), 0))
    assert replay_round(played.model, pairs, played.form, state=played.state).claim() == replay(played).claim()


def test_replay_round__mean_in_groups__the_same_model_as_without():
    grouped = Round.random(FORMATS["groups"])
    single = Round.random(FORMATS["mean"])
    assert replay(grouped).root == replay(single).root
    assert len(replay(grouped).group_roots) == 3
    assert replay(single).group_roots == ()


def test_replay_round__exactly_one_group__no_group_roots():
    played = Round.random(replace(FORMATS["groups"], group_size=5))
    assert replay(played).group_roots == ()


def test_replay_round__no_state_given__starts_from_zeros():
    played = replace(Round.random(FORMATS["mean, momentum"]), state=np.zeros(150, np.int32))
    assert replay(played).claim() == replay(replace(played, state=None)).claim()


@pytest.mark.parametrize("name", ["mean", "median", "trimmed mean"])
def test_replay_round__nothing_accepted__void(name):
    form = FORMATS[name]
    with pytest.raises(AggregationError, match="void"):
        replay_round(np.zeros(150, np.int32), [(np.zeros(150, np.int16), 0)], form)


def test_replay_round__update_of_another_length__refused():
    with pytest.raises(EncodingError, match="149"):
        replay_round(np.zeros(150, np.int32), [(np.zeros(149, np.int16), 1)], FORMATS["mean"])


def test_replay_round__mean_of_many__memory_of_a_few_vectors():
    size = 1 << 18
    form = replace(FORMATS["groups, momentum"], num_params=size, chunk_params=256)
    model, state = np.zeros(size, np.int32), np.zeros(size, np.int32)
    tracemalloc.start()
    try:
        replay_round(model, ((np.full(size, i, np.int16), 1) for i in range(40)), form, state=state)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * size  # two sums of int64, two vectors of int32, and less than as much again


def test_zero_state_root__with_and_without_momentum__zeros_of_kind_two_or_nothing():
    form = FORMATS["mean, momentum"]
    assert zero_state_root(form) == vector_root(np.zeros(150, np.int32), 16, VectorKind.STATE)
    assert zero_state_root(FORMATS["mean"]) == ZERO_ROOT


@pytest.fixture
def world(tmp_path) -> World:
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.over)
    return world


def fetched(world: World, **changes):
    reveals, tallied = world.chain.reveals[1], world.chain.tallies[1]
    return accepted_updates(world.store, world.scope, 1, world.chain.models[0][0], reveals, tallied, **changes)


def test_accepted_updates__spooled__files_without_a_name_that_replay_the_same(world):
    spooled = list(fetched(world, spooled=True))
    assert all(isinstance(source, FileSource) for source, _ in spooled)
    in_memory = replay_round(world.genesis, fetched(world), world.scope.format)
    assert replay_round(world.genesis, spooled, world.scope.format).claim() == in_memory.claim()
    assert in_memory.root == world.chain.models[1][0]


def test_accepted_updates__order_rule__spooled_by_itself(world):
    scope = replace(world.scope, format=replace(world.scope.format, rule=FORMATS["median"].rule))
    reveals, tallied = world.chain.reveals[1], world.chain.tallies[1]
    updates = accepted_updates(world.store, scope, 1, world.chain.models[0][0], reveals, tallied)
    assert all(isinstance(source, FileSource) for source, _ in updates)


def test_accepted_updates__tallied_but_not_revealed__broken(world):
    with pytest.raises(LineageBroken, match="not the one revealed"):
        list(accepted_updates(world.store, world.scope, 1, world.chain.models[0][0], [], world.chain.tallies[1]))
    assert world.scope.task_id == TASK
