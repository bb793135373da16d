"""Packed openings, proofs and the moves of a game, checked by a mirror of what the contract does with them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from dispute_rounds import FORMAT, FORMATS, Round
from proof_mirror import Reading, Records

from chainfl.disputes import games
from chainfl.disputes.faults import FaultKind, find_fault
from chainfl.disputes.openings import (
    CommittedVector,
    KnownOpening,
    VectorWithoutTree,
    plain_opening,
    read_plain,
    read_update_opening,
    update_opening,
)
from chainfl.disputes.proofs import (
    aggregate_proof,
    coordinate_proof,
    group_proof,
    padding_proof,
    rank_positions,
    update_proof,
)
from chainfl.encoding.chunk_tree import Tree, TreeShape, VectorKind, build_tree
from chainfl.errors import EncodingError, PayloadError
from chainfl.tasks.state import ZERO_ROOT, Claim, Rule, Target

# --- the mirror ----------------------------------------------------------------------------------


def convicts(played: Round, proof: bytes, *, state_root: bytes | None = None) -> bool:
    """Whether the contract's mirror finds the round's claim wrong. An AssertionError is a revert."""
    if state_root is None:
        claimed = played.claimed_state
        state_root = ZERO_ROOT if claimed is None else played.root(claimed, VectorKind.STATE)
    claim = Claim(played.root(played.claimed_model, VectorKind.MODEL), state_root, played.group_roots)
    model_root = played.root(played.model, VectorKind.MODEL)
    state_root = ZERO_ROOT if played.state is None else played.root(played.state, VectorKind.STATE)
    records = Records(played.form, model_root, state_root, claim, played.weights, played.accepted_hashes)
    return Reading(records, proof).judge()


# --- openings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [VectorKind.MODEL, VectorKind.STATE, VectorKind.GROUP_SUM])
def test_plain_opening__every_chunk__chunk_then_path(kind):
    values = np.arange(-75, 75, dtype=TreeShape(150, 16, kind).dtype)
    tree = build_tree(values, 16, kind)
    for index in range(10):
        packed = plain_opening(values, FORMAT, index, kind=kind)
        root, seen = read_plain(packed, tree.shape, index)
        assert root == tree.root
        assert seen[: len(values[16 * index :])].tolist() == values[16 * index : 16 * index + 16].tolist()
        assert len(packed) == 16 * tree.shape.width + 32 * 4


def test_update_opening__both_forms__as_long_as_the_interface_says():
    values = np.arange(150, dtype=np.int16)
    assert len(update_opening(values, FORMAT, 3)) == 1 + 32 + 8 + 4 * 40
    stated = update_opening(values, FORMAT, 3, stated=True)
    assert len(stated) == 1 + 32 + 8 + 4 * 48
    assert stated[0] == 1
    assert stated[-8:] == int((np.arange(150) ** 2).sum()).to_bytes(8, "big")


@pytest.mark.parametrize("index", [-1, 10])
def test_opening__no_such_chunk__refused(index):
    values = np.zeros(150, np.int16)
    with pytest.raises(EncodingError, match="no chunk"):
        update_opening(values, FORMAT, index)
    with pytest.raises(PayloadError, match="no chunk"):
        read_update_opening(update_opening(values, FORMAT, 0), FORMAT, index)


def test_read_update_opening__another_form_or_no_bytes__refused():
    for packed in (b"", b"\x02" + bytes(200)):
        with pytest.raises(PayloadError, match="form"):
            read_update_opening(packed, FORMAT, 0)


def test_known_opening__another_chunk__refused():
    assert KnownOpening(3, b"x").opening(3) == b"x"
    with pytest.raises(PayloadError, match="not chunk 4"):
        KnownOpening(3, b"x").opening(4)


def test_vector_without_tree__any_chunk__same_opening():
    vector = CommittedVector.of(np.arange(150, dtype=np.int32), FORMAT, VectorKind.STATE)
    assert VectorWithoutTree(vector.source, FORMAT, VectorKind.STATE).opening(7) == vector.opening(7)


# --- proofs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("coordinate", [0, 77, 149])
def test_aggregate_proof__wrong_model_value__the_mirror_convicts_it_alone(name, coordinate):
    honest = Round.random(FORMATS[name])
    lying = honest.lying("model", coordinate)
    fault = find_fault(lying.form, lying.before, lying.sources, lying.claimed)
    assert convicts(lying, aggregate_proof(lying.evidence, fault))
    assert not convicts(honest, coordinate_proof(honest.evidence, coordinate))


@pytest.mark.parametrize("name", ["groups", "groups, momentum"])
def test_aggregate_proof__wrong_group_sum__the_mirror_convicts_it_alone(name):
    honest = Round.random(FORMATS[name])
    for group in range(3):
        lying = honest.lying(f"group {group}", 5)
        fault = find_fault(lying.form, lying.before, lying.sources, lying.claimed)
        assert fault.kind is FaultKind.GROUP_COORDINATE
        assert convicts(lying, aggregate_proof(lying.evidence, fault))
        assert not convicts(honest, group_proof(honest.evidence, 5, group))


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.has_state])
def test_aggregate_proof__wrong_state_value__the_mirror_convicts_it_alone(name):
    honest = Round.random(FORMATS[name])
    lying = honest.lying("state", 77)
    fault = find_fault(lying.form, lying.before, lying.sources, lying.claimed)
    assert convicts(lying, aggregate_proof(lying.evidence, fault))
    assert not convicts(honest, coordinate_proof(honest.evidence, 77, Target.STATE))


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.num_moments == 2])
@pytest.mark.parametrize("place", [0, 1, 154, 155, 298, 299])
def test_aggregate_proof__wrong_moment__is_opened_at_the_states_own_place(name, place):
    honest = Round.random(FORMATS[name])
    lying = honest.lying("state", place)
    fault = find_fault(lying.form, lying.before, lying.sources, lying.claimed)
    proof = aggregate_proof(lying.evidence, fault)
    assert convicts(lying, proof)
    assert int.from_bytes(proof[2:10], "big") == place // 2
    assert not convicts(honest, coordinate_proof(honest.evidence, place // 2, Target.STATE))


def test_padding_proof__state_of_two_moments__counts_its_own_chunks():
    played = Round.random(FORMATS["mean, adam"])
    proof = padding_proof(played.evidence, Target.STATE, 0, 18)
    assert len(proof) == 1 + 1 + 2 + 8 + 4 * 16 + 32 * 5  # 19 chunks; the model's 10 have a depth of 4
    assert not convicts(played, proof)
    padded = np.append(played.claimed_state, np.zeros(4, np.int32))
    padded[-1] = 9
    wrong = CommittedVector.of(padded, played.form, VectorKind.STATE)
    lying = replace(played.evidence, claimed_state=KnownOpening(18, wrong.opening(18)))
    root = Tree(TreeShape.of(played.form, VectorKind.STATE), wrong.tree.levels).root
    assert convicts(played, padding_proof(lying, Target.STATE, 0, 18), state_root=root)


def test_coordinate_proof__claimed_state_is_withheld__the_model_is_proven_without_it():
    lying = Round.random(FORMATS["mean, momentum"]).lying("model", 77)
    withheld = replace(lying.evidence, claimed_state=None)
    assert convicts(lying, coordinate_proof(withheld, 77))
    with pytest.raises(EncodingError, match="no such vector"):
        coordinate_proof(withheld, 77, Target.STATE)


def test_aggregate_proof__update_left_out__the_mirror_refuses():
    lying = Round.random(FORMAT).lying("model", 3)
    evidence = replace(lying.evidence, updates=lying.evidence.updates[:-1])
    with pytest.raises(AssertionError):
        convicts(lying, coordinate_proof(evidence, 3))


def test_padding_proof__each_target__target_group_index_and_opening():
    played = Round.random(FORMATS["groups, momentum"])
    evidence = played.evidence
    head = bytes([0, Target.STATE]) + (0).to_bytes(2, "big") + (9).to_bytes(8, "big")
    assert padding_proof(evidence, Target.STATE, 0, 9) == head + evidence.claimed_state.opening(9)
    head = bytes([0, Target.GROUP]) + (2).to_bytes(2, "big") + (9).to_bytes(8, "big") + b"".join(played.group_roots)
    assert padding_proof(evidence, Target.GROUP, 2, 9) == head + evidence.claimed_groups[2].opening(9)
    with pytest.raises(EncodingError, match="no such vector"):
        padding_proof(Round.random(FORMAT).evidence, Target.STATE, 0, 9)


def test_proof__coordinate_or_group_that_is_not_there__refused():
    evidence = Round.random(FORMATS["groups"]).evidence
    for coordinate in (-1, 150):
        with pytest.raises(EncodingError, match="no coordinate"):
            coordinate_proof(evidence, coordinate)
    with pytest.raises(EncodingError, match="no group"):
        group_proof(evidence, 0, 3)


def test_update_proof__any__worker_chunk_opening():
    assert update_proof(258, 3, b"abc") == b"\x01\x02" + bytes(7) + b"\x03abc"


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (Rule.MEAN, [3, 1, 2], (0, 0)),
        (Rule.MEDIAN, [3, 1, 2], (2, 0)),
        (Rule.MEDIAN, [4, 3, 1, 2], (3, 0)),
        (Rule.TRIMMED_MEAN, [50, 10, 40, 20, 30], (3, 2)),
        (Rule.TRIMMED_MEAN, [7], (0, 0)),
    ],
)
def test_rank_positions__few_values__where_the_named_values_are(rule, values, expected):
    assert rank_positions(replace(FORMAT, rule=rule, trim_num=1, trim_den=5), values) == expected


# --- games ---------------------------------------------------------------------------------------


def play(own, posted, chunk_size):
    """A whole game: from the posted root to the packed opening of a chunk that differs."""
    shape = posted.tree.shape
    height, index, answers, node = shape.depth, 0, [], None
    while height:
        answers.append(games.nodes_below(posted.tree, height, index))
        child = games.differing_child(own.tree, height, index, answers[-1])
        move = games.pointer(answers[-1], child)
        assert node is None or climbed(move) == node
        levels = games.levels_below(height)
        node, index, height = move.node, (index << levels) + child, height - levels
    packed = games.opening_from_answers(answers, index, posted.chunk(index), shape)
    return index, packed, len(answers)


def climbed(move: games.Pointer) -> bytes:
    digest, place = move.node, move.child
    for sibling in move.siblings:
        pair = sibling + digest if place & 1 else digest + sibling
        digest, place = hashlib.sha256(b"\x01" + pair).digest(), place >> 1
    return digest


@pytest.mark.parametrize(("chunks", "rounds"), [(1, 0), (2, 1), (200, 1), (256, 1), (257, 2), (700, 2)])
def test_game__one_value_differs__ends_at_its_chunk_with_an_opening(chunks, rounds):
    form = replace(FORMAT, num_params=16 * chunks - 3)
    honest = np.arange(form.num_params, dtype=np.int32)
    lying = honest.copy()
    lying[-5] += 1
    own, posted = (CommittedVector.of(values, form, VectorKind.MODEL) for values in (honest, lying))
    index, packed, answers = play(own, posted, 16)
    assert (index, answers) == (chunks - 1, rounds)
    assert packed == posted.opening(index)
    assert read_plain(packed, posted.tree.shape, index)[0] == posted.root


def test_child_towards__any_chunk__the_node_above_it():
    assert games.child_towards(700, 10) == 700 >> 2
    assert games.child_towards(700, 2) == 700 & 3


def test_differing_child__the_same_vector__none():
    vector = CommittedVector.of(np.zeros(150, np.int32), FORMAT, VectorKind.MODEL)
    nodes = games.nodes_below(vector.tree, 4, 0)
    assert games.differing_child(vector.tree, 4, 0, nodes) is None
    with pytest.raises(PayloadError, match="bytes"):
        games.differing_child(vector.tree, 4, 0, nodes[:-32])


def test_pointer__no_such_node__refused():
    with pytest.raises(PayloadError, match="no node 2"):
        games.pointer(bytes(64), 2)


def test_opening_from_answers__too_few__refused():
    shape = TreeShape(150, 16, VectorKind.MODEL)
    with pytest.raises(PayloadError, match="do not lead"):
        games.opening_from_answers([], 0, bytes(64), shape)
