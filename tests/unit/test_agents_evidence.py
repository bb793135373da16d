"""What a watcher works out from public bytes: findings about updates, what an aggregate must be, and proofs.

Proofs go before the mirror of the contract. Everybody is honest in round 1; who cheats does so in round 2.
"""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from agents_world import NUM_PARAMS, WATCHER, World
from cheats import ADAM, DEPTH, FORM, GROUPS, MOMENTUM, enter, index_of, lies_at, publishes_others
from fake_chain import COORDINATOR, TASK, account_of

from chainfl.agents.evidence import Evidence
from chainfl.agents.ports import AnsweredDemand
from chainfl.agents.watching import Bytes, OpenGame
from chainfl.disputes.games import nodes_below
from chainfl.disputes.openings import CommittedVector
from chainfl.encoding.chunk_tree import VectorKind, vector_root
from chainfl.encoding.payload import write_model
from chainfl.errors import EncodingError, NodeBehind
from chainfl.simulation.attackers import NormWorker, OutOfRangeWorker, WithholdingWorker
from chainfl.tasks.cids import cid_on_chain, cid_text
from chainfl.tasks.state import ZERO_ROOT, Claim, NodesAnswered, Phase, PostedAggregate, Role, TalliedUpdate, Target

LIAR, OTHER = account_of(100), account_of(888)


def in_phase(phase: Phase, number: int = 1):
    return lambda world: world.chain.phase()[0] is phase and world.chain.clock.round == number


def evidence_of(world: World) -> Evidence:
    world.ports[WATCHER] = world.chain.port(WATCHER)
    world.events[WATCHER] = io.StringIO()
    evidence = Evidence(world.context(Role.CHALLENGER, WATCHER))
    evidence.enter(world.chain.view())
    return evidence


def revealed(tmp_path, cheat=None, form=FORM) -> tuple[World, Evidence]:
    """Round 2 with all updates revealed, one of them a cheat's."""
    world = World(tmp_path, format=form)
    if cheat is not None:
        enter(world, LIAR, cheat)
    world.run(until=in_phase(Phase.SCORE_COMMIT, 2))
    return world, evidence_of(world)


def posted(tmp_path, form=FORM) -> tuple[World, Evidence]:
    """Round 1 with an honest aggregate that stands posted, recomputed."""
    world = World(tmp_path, format=form)
    world.run(until=in_phase(Phase.CHALLENGE))
    evidence = evidence_of(world)
    assert evidence.recompute(world.chain.view()) == frozenset()
    return world, evidence


def found_in(world: World, evidence: Evidence) -> dict:
    return {found.index: found for found in evidence.check_updates(world.chain.view())}


# --- updates -------------------------------------------------------------------------------------


def test_check_updates__all_honest__sound_and_not_fetched_again(tmp_path):
    world, evidence = revealed(tmp_path)
    assert {found.state for found in found_in(world, evidence).values()} == {Bytes.SOUND}
    world.store.blobs.clear()
    assert found_in(world, evidence) == {}


def test_check_updates__not_published__missing_until_it_is_there(tmp_path):
    world, evidence = revealed(tmp_path)
    cid = cid_text(world.chain.update_of(0).cid)
    kept = world.store.blobs.pop(cid)
    missing = found_in(world, evidence)[0]
    assert (missing.state, missing.proof, missing.is_open) == (Bytes.MISSING, None, True)
    assert found_in(world, evidence) == {0: missing}, "the same chunk as long as nothing is known"
    world.store.blobs[cid] = kept
    assert found_in(world, evidence)[0].state is Bytes.SOUND


@pytest.mark.parametrize(("cheat", "why"), [(OutOfRangeWorker, "value out of range"), (NormWorker, "do not add up")])
def test_check_updates__a_fault_that_its_bytes_show__a_proof(tmp_path, cheat, why):
    world, evidence = revealed(tmp_path, cheat)
    place = index_of(world, LIAR)
    found = found_in(world, evidence)[place]
    assert (found.state, why in found.why) == (Bytes.WRONG, True)
    port = world.ports[WATCHER]
    port._check_announced = lambda *_: None
    port.prove_update(TASK, 2, found.proof, bytes(32))
    assert world.chain.is_refuted(LIAR)


def test_check_updates__another_root__wrong_without_proof_and_not_fetched_again(tmp_path):
    world, evidence = revealed(tmp_path, publishes_others(3))
    place = index_of(world, LIAR)
    found = found_in(world, evidence)[place]
    assert (found.state, found.proof, found.leads) == (Bytes.WRONG, None, False)
    assert 0 <= found.suspect < 19
    assert found_in(world, evidence) == {}


def test_check_updates__bytes_are_no_update__wrong_without_proof(tmp_path):
    world, evidence = revealed(tmp_path)
    update = world.chain.update_of(0)
    cid = world.store.put_bytes(b"anything")
    world.chain.reveals[2] = [
        replace(one, cid=cid_on_chain(cid)) if one == update else one for one in world.chain.reveals[2]
    ]
    found = found_in(world, evidence)[0]
    assert (found.state, found.proof) == (Bytes.WRONG, None)


def test_opening__of_a_sound_update__is_what_the_contract_takes(tmp_path):
    world, evidence = revealed(tmp_path)
    found_in(world, evidence)
    world.chain.demand(0, 4)
    world.ports[WATCHER].answer_demand(TASK, 2, 0, 4, evidence.opening(0, 4))
    assert [answer.demand.chunk_index for answer in world.chain.answers] == [4]


# --- answers -------------------------------------------------------------------------------------


def answered(world: World, *chunks: int, stated: bool = True) -> tuple[AnsweredDemand, ...]:
    """What the cheat answers to a stranger."""
    place, committed = index_of(world, LIAR), world.players[LIAR].committed
    for chunk in chunks:
        world.chain.demand(place, chunk)
        opening = committed.stated_opening(chunk) if stated else committed.opening(chunk)
        world.ports[OTHER].answer_demand(TASK, 2, place, chunk, opening)
    return tuple(world.chain.answers)


def liars(tmp_path, cheat):
    world, evidence = revealed(tmp_path, cheat)
    world.ports[OTHER] = world.chain.port(OTHER)
    return world, evidence, found_in(world, evidence)[index_of(world, LIAR)]


def test_read_answers__an_opening_shows_the_lie__that_opening_is_the_proof(tmp_path):
    world, evidence, found = liars(tmp_path, lies_at((1, 0), (1, 5)))
    answers = answered(world, 6, 10)
    told = evidence.read_answers(world.chain.view(), found, answers)
    assert (told.state, told.why) == (Bytes.WRONG, "wrong sum, as an answer shows")
    assert told.proof == index_of(world, LIAR).to_bytes(2, "big") + (10).to_bytes(8, "big") + answers[1].opening


def test_read_answers__sums_that_hide_something__leads_to_a_chunk_below_them(tmp_path):
    world, evidence, found = liars(tmp_path, lies_at((0, 5), (0, 6)))
    told = evidence.read_answers(world.chain.view(), found, answered(world, 4))
    assert (told.proof, told.num_answers, told.leads) == (None, 1, True)
    assert told.suspect in (5, 6, 7)
    again = evidence.read_answers(world.chain.view(), found, answered(world))
    assert again == told


def test_read_answers__other_values_than_published__lead_nowhere(tmp_path):
    world, evidence, found = liars(tmp_path, publishes_others(4, 9))
    told = evidence.read_answers(world.chain.view(), found, answered(world, 9, stated=False))
    assert (told.proof, told.leads, told.suspect != 9) == (None, False, True)


def test_read_answers__nothing_is_published__only_what_they_show_themselves(tmp_path):
    world, evidence = revealed(tmp_path, type("Both", (lies_at((0, 2), (0, 6)), WithholdingWorker), {}))
    world.ports[OTHER] = world.chain.port(OTHER)
    found = found_in(world, evidence)[index_of(world, LIAR)]
    assert found.state is Bytes.MISSING
    told = evidence.read_answers(world.chain.view(), found, answered(world, 0))
    assert (told.state, told.leads) == (Bytes.MISSING, False)
    told = evidence.read_answers(world.chain.view(), found, answered(world, 6))
    assert (told.state, told.proof is None) == (Bytes.WRONG, False)


def test_read_answers__not_of_the_revealed_root__the_node_is_not_believed(tmp_path):
    world, evidence, found = liars(tmp_path, lies_at((0, 5), (0, 6)))
    (told,) = answered(world, 5)
    for opening in (b"", told.opening[:-1], bytes(len(told.opening))):
        with pytest.raises(NodeBehind, match="contract would refuse"):
            evidence.read_answers(world.chain.view(), found, (replace(told, opening=opening),))


# --- the aggregate -------------------------------------------------------------------------------


def claimed(world: World, evidence: Evidence, *, target: Target | None, publish: bool = True) -> PostedAggregate:
    """Somebody posts the right aggregate, but for one value of one vector."""
    (honest,) = world.chain.posted[world.chain.clock.round]
    form, claim = world.scope.format, evidence.expected
    model, state = (
        evidence.vector(kind, 0).source.read(0, size) if size else None
        for kind, size in ((Target.MODEL, NUM_PARAMS), (Target.STATE, form.state_params))
    )
    if target is Target.MODEL:
        model = np.where(np.arange(NUM_PARAMS) == 77, model + 1, model).astype(np.int32)
    elif target is Target.STATE:
        state = np.where(np.arange(form.state_params) == 77, state + 1, state).astype(np.int32)
    groups = claim.group_roots if target is not Target.GROUP else (claim.group_roots[0], bytes([1]) * 32)
    state_root = ZERO_ROOT if state is None else vector_root(state, form.chunk_params, VectorKind.STATE)
    wrong = Claim(vector_root(model, form.chunk_params, VectorKind.MODEL), state_root, groups)
    stream = io.BytesIO()
    write_model(stream, model, world.scope.model_metadata(), state)
    cid = world.store.put_bytes(stream.getvalue())
    if not publish:
        del world.store.blobs[cid]
    world.chain.posting = (honest.poster, wrong, cid_on_chain(cid), honest.float_cid)
    return replace(honest, claim=wrong, cid=cid_on_chain(cid))


@pytest.mark.parametrize("form", [FORM, MOMENTUM, ADAM, GROUPS])
def test_judge__right__no_proof_and_nothing_withheld(tmp_path, form):
    world, evidence = posted(tmp_path, form)
    found = evidence.judge(claimed(world, evidence, target=None))
    assert (found.proof, found.withheld, found.why) == (None, None, "")


@pytest.mark.parametrize(
    ("target", "form"),
    [
        (Target.MODEL, FORM),
        (Target.MODEL, GROUPS),
        (Target.MODEL, MOMENTUM),
        (Target.STATE, MOMENTUM),
        (Target.MODEL, ADAM),
        (Target.STATE, ADAM),
    ],
)
def test_judge__wrong_and_published__a_proof_that_convicts(tmp_path, target, form):
    world, evidence = posted(tmp_path, form)
    found = evidence.judge(claimed(world, evidence, target=target))
    assert found.withheld is None
    assert world.chain.convicts(found.proof)


@pytest.mark.parametrize(("target", "form"), [(Target.MODEL, FORM), (Target.STATE, ADAM)])
def test_judge__wrong_and_withheld__names_the_vector_and_its_right_root(tmp_path, target, form):
    world, evidence = posted(tmp_path, form)
    found = evidence.judge(claimed(world, evidence, target=target, publish=False))
    right = evidence.expected.model_root if target is Target.MODEL else evidence.expected.state_root
    assert (found.proof, found.withheld) == (None, (target, 0, right))
    assert "is withheld" in found.why


def test_judge__wrong_group_sum__a_game_since_nobody_publishes_them(tmp_path):
    world, evidence = posted(tmp_path, GROUPS)
    found = evidence.judge(claimed(world, evidence, target=Target.GROUP))
    assert found.withheld == (Target.GROUP, 1, evidence.expected.group_roots[1])


def test_judge__wrong_over_an_update_that_lies_about_a_sum__is_proven_all_the_same(tmp_path):
    world, evidence = revealed(tmp_path, lies_at((2, 1)))
    world.run(until=in_phase(Phase.CHALLENGE, 2))
    # Its validators vouched for it, and the aggregate is over it, too.
    world.chain.tallies[2] = [TalliedUpdate(t.worker, t.root, 10_000, 1) for t in world.chain.tallies[2]]
    assert evidence.recompute(world.chain.view()) == frozenset()
    found = evidence.judge(claimed(world, evidence, target=Target.MODEL))
    assert world.chain.convicts(found.proof)


def test_recompute__an_accepted_update_is_gone__its_index(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=in_phase(Phase.CHALLENGE))
    del world.store.blobs[cid_text(world.chain.update_of(1).cid)]
    evidence = evidence_of(world)
    assert evidence.recompute(world.chain.view()) == {1}
    assert evidence.expected is None


# --- games ---------------------------------------------------------------------------------------


def game_about(world: World, target: Target = Target.MODEL, root=ZERO_ROOT) -> OpenGame:
    number = world.chain.dispute(challenger=WATCHER, target=target, root=root)
    return game_now(world, number)


def game_now(world: World, number: int) -> OpenGame:
    port = world.ports[WATCHER]
    record = next(one for one in port.games(TASK, world.chain.clock.round, 0) if one.game_id == number)
    return OpenGame(record, world.chain.games[number])


@pytest.mark.parametrize(
    ("target", "form"),
    [(Target.MODEL, FORM), (Target.STATE, MOMENTUM), (Target.STATE, ADAM), (Target.GROUP, GROUPS)],
)
def test_play__wrong_vector_brought_to_light__points_at_it_and_proves_it(tmp_path, target, form):
    world, evidence = posted(tmp_path, form)
    right = evidence.vector(target, 0)
    values = right.source.read(0, right.source.size).copy()
    values[200] += 1
    lie = CommittedVector.of(values, form, right.tree.shape.kind)
    aggregate = served(world, evidence, target, lie)
    game = game_about(world, target)
    port = world.ports[WATCHER]
    port.answer_nodes(TASK, game.record.game_id, nodes_below(lie.tree, right.tree.shape.depth, 0))
    move = evidence.play(game_now(world, 0), aggregate)
    assert move.pointer[0] == 200 // 16
    port.point_at(TASK, 0, *move.pointer)
    port.answer_chunk(TASK, 0, lie.chunk(200 // 16))
    shown = evidence.play(game_now(world, 0), aggregate)
    assert (shown.pointer, shown.num_moves) == (None, 3)
    assert world.chain.convicts(shown.proof)


def served(world: World, evidence: Evidence, target: Target, lie: CommittedVector) -> PostedAggregate:
    """Somebody posts the right aggregate, but for one vector."""
    (honest,) = world.chain.posted[1]
    claim = evidence.expected
    if target is Target.GROUP:
        claim = replace(claim, group_roots=(lie.root, *claim.group_roots[1:]))
    else:
        claim = replace(claim, **{f"{target.name.lower()}_root": lie.root})
    world.chain.posting = (honest.poster, claim, honest.cid, honest.float_cid)
    return replace(honest, claim=claim)


def test_play__nodes_are_those_of_the_right_aggregate__says_so(tmp_path):
    world, evidence = posted(tmp_path)
    game = game_about(world)
    nodes = nodes_below(evidence.vector(Target.MODEL, 0).tree, DEPTH, 0)
    answered_game = replace(game, record=replace(game.record, moves=(NodesAnswered(OTHER, nodes),)))
    with pytest.raises(EncodingError, match="right aggregate"):
        evidence.play(answered_game, world.chain.posted[1][0])


def test_answer__of_a_right_aggregate__nodes_then_the_chunk(tmp_path):
    world, evidence = posted(tmp_path)
    game = game_about(world).game
    vector = evidence.vector(Target.MODEL, 0)
    assert evidence.answer(game) == nodes_below(vector.tree, DEPTH, 0)
    assert evidence.answer(replace(game, height=0, index=3)) == vector.chunk(3)


def test_enter__another_round__everything_is_forgotten(tmp_path):
    world, evidence = posted(tmp_path)
    assert evidence.expected == world.chain.posted[1][0].claim
    evidence.enter(world.chain.view())
    assert evidence.expected is None
    assert world.scope.coordinator == COORDINATOR
    assert {found.state for found in found_in(world, evidence).values()} == {Bytes.SOUND}
