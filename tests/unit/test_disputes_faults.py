"""Finding faults: every rule, every vector, and none where none is."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from dispute_rounds import FORMAT, FORMATS, Round

from chainfl.aggregation.rules import READ_BLOCK, WeightedSource
from chainfl.disputes.faults import (
    FaultKind,
    UpdateFault,
    UpdateReason,
    Vectors,
    drawn_chunk,
    find_fault,
    opening_fault,
    padding_fault,
    stated_vector,
    sum_lie,
    suspect_chunk,
    tree_fault,
    update_fault,
)
from chainfl.disputes.openings import CommittedVector, StatedVector, read_update_opening
from chainfl.encoding.chunk_tree import Level, Tree, TreeShape, VectorKind, build_tree
from chainfl.encoding.sources import ArraySource, FileSource
from chainfl.errors import AggregationError, EncodingError, PayloadError, RootMismatch
from chainfl.tasks.state import Target

UPDATE = np.random.default_rng(5).integers(-32767, 32768, 150).astype(np.int16)


def fault_of(played: Round):
    return find_fault(played.form, played.before, played.sources, played.claimed)


def squares(values) -> int:
    return int((values.astype(np.int64) ** 2).sum())


# --- aggregates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_find_fault__honest_aggregate__none(name):
    assert fault_of(Round.random(FORMATS[name])) is None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("coordinate", [0, 15, 16, 149])
def test_find_fault__one_wrong_model_value__that_coordinate(name, coordinate):
    honest = Round.random(FORMATS[name])
    fault = fault_of(honest.lying("model", coordinate))
    assert (fault.kind, fault.target, fault.coordinate) == (FaultKind.COORDINATE, Target.MODEL, coordinate)
    assert fault.chunk_index == coordinate // 16
    assert fault.expected == honest.claimed_model[coordinate] != fault.claimed


def test_find_fault__wrong_state_with_a_model_that_fits__the_state():
    fault = fault_of(Round.random(FORMATS["median, momentum"]).lying("state", 33))
    assert (fault.target, fault.coordinate) == (Target.STATE, 33)


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.num_moments == 2])
@pytest.mark.parametrize("place", [0, 1, 15, 16, 17, 298, 299])
def test_find_fault__either_moment_of_a_parameter_is_wrong__that_parameter_and_the_states_own_chunk(name, place):
    honest = Round.random(FORMATS[name])
    fault = fault_of(honest.lying("state", place))
    assert (fault.kind, fault.target) == (FaultKind.COORDINATE, Target.STATE)
    assert (fault.coordinate, fault.chunk_index) == (place // 2, place // 16)
    assert fault.expected == honest.claimed_state[place] != fault.claimed


def test_find_fault__padding_of_a_state_of_two_moments__its_place_in_the_state():
    played = Round.random(FORMATS["mean, adam"])
    padded = np.append(played.claimed_state, np.zeros(4, np.int32))
    claimed = replace(played.claimed, state=ArraySource(padded))
    assert find_fault(played.form, played.before, played.sources, claimed) is None
    padded[301] = 5
    fault = find_fault(played.form, played.before, played.sources, claimed)
    expected = (FaultKind.PADDING, Target.STATE, 301, 18, 5)
    assert (fault.kind, fault.target, fault.coordinate, fault.chunk_index, fault.claimed) == expected
    assert padding_fault(played.form, Target.STATE, 0, 18, padded[288:]) == fault


def test_find_fault__a_state_as_long_as_the_model_where_it_has_two_moments__refused():
    played = Round.random(FORMATS["mean, adam"])
    for name in ("before", "claimed"):
        vectors = {"before": played.before, "claimed": played.claimed}
        vectors[name] = replace(vectors[name], state=ArraySource(np.zeros(150, np.int32)))
        with pytest.raises(EncodingError, match="150 values, not 300"):
            find_fault(played.form, vectors["before"], played.sources, vectors["claimed"])


def test_find_fault__several_faults__the_first_coordinate():
    played = Round.random(FORMATS["mean, momentum"]).lying("model", 99).lying("state", 98).lying("model", 100)
    assert fault_of(played).coordinate == 98


@pytest.mark.parametrize("group", [0, 1, 2])
def test_find_fault__wrong_group_sum__that_group(group):
    fault = fault_of(Round.random(FORMATS["groups"]).lying(f"group {group}", 70).lying("model", 3))
    assert (fault.kind, fault.target, fault.group) == (FaultKind.GROUP_COORDINATE, Target.GROUP, group)
    assert fault.claimed == fault.expected + 1


def test_find_fault__groups_unknown__the_model_is_still_checked():
    played = Round.random(FORMATS["groups"]).lying("model", 3)
    found = find_fault(played.form, played.before, played.sources, replace(played.claimed, groups=()))
    assert found.coordinate == 3


def test_find_fault__padding_that_is_not_zero__the_padding():
    played = Round.random(FORMAT)
    padded = np.append(played.claimed_model, np.zeros(10, np.int32))
    clean = Vectors(ArraySource(padded.copy()))
    assert find_fault(played.form, played.before, played.sources, clean) is None
    padded[157] = -4
    fault = find_fault(played.form, played.before, played.sources, Vectors(ArraySource(padded)))
    assert (fault.kind, fault.coordinate, fault.chunk_index, fault.claimed) == (FaultKind.PADDING, 157, 9, -4)
    assert padding_fault(played.form, Target.MODEL, 0, 9, padded[144:]) == fault
    assert padding_fault(played.form, Target.MODEL, 0, 0, padded[:16]) is None


def test_find_fault__more_than_a_block_from_files__the_first_in_the_second_block(tmp_path):
    size = READ_BLOCK + 100
    played = Round.random(replace(FORMATS["median, momentum"], num_params=size)).lying("model", size - 7)
    sources = []
    for index, update in enumerate(played.updates):
        path = tmp_path / str(index)
        path.write_bytes(b"head" + update.astype("<i2").tobytes())
        sources.append(WeightedSource(FileSource(path.open("rb"), 4, size, np.dtype(np.int16)), 1))
    fault = find_fault(played.form, played.before, sources, played.claimed)
    assert (fault.target, fault.coordinate) == (Target.MODEL, size - 7)


def test_find_fault__long_files__holds_only_blocks(tmp_path):
    size, path = 8 * READ_BLOCK, tmp_path / "update"
    path.write_bytes(bytes(2 * size))
    form = replace(FORMATS["median"], num_params=size)
    zeros = ArraySource(np.zeros(size, np.int32))
    sources = [WeightedSource(FileSource(path.open("rb"), 0, size, np.dtype(np.int16)), 1) for _ in range(16)]
    tracemalloc.start()
    try:
        assert find_fault(form, Vectors(zeros), sources, Vectors(zeros)) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2 * size / 1.5


def test_find_fault__nothing_accepted_or_other_lengths__refused():
    played = Round.random(FORMAT)
    with pytest.raises(AggregationError, match="void"):
        find_fault(FORMAT, played.before, [], played.claimed)
    with pytest.raises(EncodingError, match="150"):
        find_fault(FORMAT, played.before, played.sources, Vectors(ArraySource(np.zeros(151, np.int32))))
    with pytest.raises(EncodingError, match="groups"):
        find_fault(FORMAT, played.before, played.sources, Vectors(None, None, (ArraySource(np.zeros(150)),)))
    with pytest.raises(EncodingError, match="starts from"):
        find_fault(FORMAT, Vectors(), played.sources, played.claimed)


# --- updates -------------------------------------------------------------------------------------


def test_update_fault__sound_update__none():
    assert update_fault(UPDATE, FORMAT, squares(UPDATE)) is None


def test_update_fault__out_of_range__the_chunk():
    values = UPDATE.copy()
    values[100] = -32768
    assert update_fault(values, FORMAT, squares(values)) == UpdateFault(UpdateReason.RANGE, 6)


def test_update_fault__another_sum_was_revealed__any_chunk():
    assert update_fault(UPDATE, FORMAT, squares(UPDATE) - 1) == UpdateFault(UpdateReason.SUM, 0)


def test_update_fault__padding_that_is_not_zero__the_last_chunk():
    values = np.append(UPDATE, np.array([0] * 9 + [1], np.int16))
    assert update_fault(values, FORMAT, squares(UPDATE)) == UpdateFault(UpdateReason.PADDING, 9)


def hostile(height: int, index: int, total: int) -> CommittedVector:
    """An update whose tree states another sum at one node."""
    tree = build_tree(UPDATE, 16, VectorKind.UPDATE)
    levels = [Level(level.digests.copy(), level.sums.copy()) for level in tree.levels]
    levels[height].sums[index] = total
    return rehashed(Tree(tree.shape, tuple(levels)), height)


def rehashed(tree: Tree, height: int) -> CommittedVector:
    """Digests above `height` that fit to what is stated below them."""
    for above in range(height + 1, tree.shape.depth + 1):
        for place in range(len(tree.levels[above].digests)):
            pair = [tree.node(above - 1, 2 * place + side) for side in (0, 1)]
            preimage = b"\x02" + b"".join(digest + total.to_bytes(8, "big") for digest, total in pair)
            tree.levels[above].digests[place] = np.frombuffer(hashlib.sha256(preimage).digest(), np.uint8)
    return CommittedVector(ArraySource(UPDATE), tree)


@pytest.mark.parametrize(("height", "index"), [(0, 0), (0, 7), (1, 3), (2, 1), (3, 0), (4, 0)])
def test_tree_fault__a_stated_sum_is_wrong__an_opening_that_shows_it(height, index):
    vector = hostile(height, index, 5)
    revealed = vector.tree.node(4, 0)[1]
    fault = tree_fault(vector.tree, vector.source, revealed)
    assert fault.reason is UpdateReason.SUM
    packed = vector.stated_opening(fault.chunk_index)
    seen = opening_fault(packed, FORMAT, fault.chunk_index, root=vector.root, squared_norm=revealed)
    assert seen is UpdateReason.SUM


def test_tree_fault__a_node_of_padding_is_no_constant__its_neighbour_shows_it():
    tree = build_tree(UPDATE, 16, VectorKind.UPDATE)  # 10 chunks: at height 1, node 5 is padding
    levels = [Level(level.digests.copy(), level.sums.copy()) for level in tree.levels]
    digests = np.concatenate([levels[1].digests, np.ones((1, 32), np.uint8)])
    levels[1] = Level(digests, np.append(levels[1].sums, np.uint64(0)))
    vector = rehashed(Tree(tree.shape, tuple(levels)), 1)
    fault = tree_fault(vector.tree, vector.source, squares(UPDATE))
    assert fault == UpdateFault(UpdateReason.PADDING, 8)
    packed = vector.stated_opening(8)
    assert opening_fault(packed, FORMAT, 8, root=vector.root, squared_norm=squares(UPDATE)) is UpdateReason.PADDING


def test_tree_fault__honest_tree__none():
    vector = CommittedVector.of(UPDATE, FORMAT, VectorKind.UPDATE)
    assert tree_fault(vector.tree, vector.source, squares(UPDATE)) is None
    assert tree_fault(vector.tree, vector.source, 1) == UpdateFault(UpdateReason.SUM, 0)


@pytest.mark.parametrize("stated", [False, True])
def test_opening_fault__sound_opening__none_and_another_root_refused(stated):
    vector = CommittedVector.of(UPDATE, FORMAT, VectorKind.UPDATE)
    packed = vector.stated_opening(9) if stated else vector.opening(9)
    assert opening_fault(packed, FORMAT, 9, root=vector.root, squared_norm=squares(UPDATE)) is None
    with pytest.raises(RootMismatch):
        opening_fault(packed, FORMAT, 8, root=vector.root, squared_norm=squares(UPDATE))
    with pytest.raises(PayloadError):
        opening_fault(packed + b"\0", FORMAT, 9, root=vector.root, squared_norm=squares(UPDATE))


def test_opening_fault__value_or_padding__named_before_the_sum():
    for place, value, reason in ((3, -32768, UpdateReason.RANGE), (9, 1, UpdateReason.PADDING)):
        values = np.append(UPDATE, np.zeros(10, np.int16))
        values[144 + place] = value
        tree = build_tree(values, 16, VectorKind.UPDATE)
        sealed = CommittedVector(ArraySource(values), Tree(TreeShape(160, 16, VectorKind.UPDATE), tree.levels))
        root = FORMAT_SHAPE.seal(*tree.node(4, 0))
        packed = sealed.opening(9)
        assert opening_fault(packed, FORMAT, 9, root=root, squared_norm=squares(values)) is reason


FORMAT_SHAPE = TreeShape(150, 16, VectorKind.UPDATE)


def hiding(*chunks: int) -> CommittedVector:
    """An update that states nothing for these chunks, and all above adds that up."""
    honest = build_tree(UPDATE, 16, VectorKind.UPDATE)
    levels = [Level(level.digests.copy(), level.sums.copy()) for level in honest.levels]
    for chunk in chunks:
        for height in range(5):
            levels[height].sums[chunk >> height] -= np.uint64(honest.node(0, chunk)[1])
    return rehashed(Tree(honest.shape, tuple(levels)), 0)


HONEST = build_tree(UPDATE, 16, VectorKind.UPDATE)
TICKETS = [step * 2**64 // 17 for step in range(17)]


def asked_until_found(vector: CommittedVector, ticket: int) -> list[int]:
    """The chunks that are demanded, one after the other, the last one shows the lie."""
    revealed, asked = vector.tree.node(4, 0)[1], []
    chunk = suspect_chunk(HONEST, {}, FORMAT, ticket=ticket)
    while True:
        asked.append(chunk)
        if opening_fault(vector.opening(chunk), FORMAT, chunk, root=vector.root, squared_norm=revealed):
            return asked
        chunk = suspect_chunk(HONEST, {place: vector.opening(place) for place in asked}, FORMAT, ticket=ticket)


@pytest.mark.parametrize("lies", [(5,), (0, 9), (2, 3, 4), (0, 3, 6, 9)])
@pytest.mark.parametrize("ticket", TICKETS)
def test_suspect_chunk__sums_that_hide_chunks__followed_to_one_of_them(lies, ticket):
    asked = asked_until_found(hiding(*lies), ticket)
    assert asked[-1] in lies
    assert len(asked) == len(set(asked)) <= 5


def test_suspect_chunk__first_demand__hits_with_the_share_of_the_squares_that_is_hidden():
    lies = (1, 2, 5, 8)
    vector, tickets = hiding(*lies), [step << 52 for step in range(4096)]
    hits = sum(suspect_chunk(HONEST, {}, FORMAT, ticket=ticket) in lies for ticket in tickets)
    hidden = 1 - vector.tree.node(4, 0)[1] / squares(UPDATE)
    assert hits / len(tickets) == pytest.approx(hidden, abs=0.001)


def test_suspect_chunk__several_answers__the_part_that_hides_most_is_next():
    vector = hiding(4, 5, 6)  # all but one of 4..7, and nothing of what is beside them
    answers = {place: vector.opening(place) for place in (0, 7)}
    assert {suspect_chunk(HONEST, answers, FORMAT, ticket=ticket) for ticket in TICKETS} <= {4, 5, 6}


def test_suspect_chunk__all_sums_are_right_or_other_values_were_committed__none():
    sound = CommittedVector(ArraySource(UPDATE), HONEST)
    assert suspect_chunk(HONEST, {0: sound.stated_opening(0)}, FORMAT, ticket=0) is None
    other = CommittedVector.of(np.where(np.arange(150) == 3, 7, UPDATE).astype(np.int16), FORMAT, VectorKind.UPDATE)
    assert suspect_chunk(HONEST, {0: other.opening(0)}, FORMAT, ticket=0) is None
    assert suspect_chunk(HONEST, {9: other.opening(9)}, FORMAT, ticket=0) == 0


@pytest.mark.parametrize("ticket", [0, 1 << 63, (1 << 64) - 1])
def test_drawn_chunk__any_ticket__a_chunk_that_has_values(ticket):
    zeros = build_tree(np.zeros(150, np.int16), 16, VectorKind.UPDATE)
    assert drawn_chunk(zeros, 4, 0, ticket) == 0
    assert 8 <= drawn_chunk(HONEST, 3, 1, ticket) <= 9


@pytest.mark.parametrize(("height", "index"), [(0, 0), (0, 7), (1, 3), (2, 1), (3, 0), (4, 0)])
@pytest.mark.parametrize("by", [-5, 5])
def test_stated_vector__a_lie_at_one_node__opens_every_chunk_up_to_the_revealed_root(height, index, by):
    honest = CommittedVector.of(UPDATE, FORMAT, VectorKind.UPDATE)
    levels = [Level(level.digests.copy(), level.sums.copy()) for level in HONEST.levels]
    for above in range(height, 5):
        place = index >> above - height
        levels[above].sums[place] = int(levels[above].sums[place]) + by
    lying = rehashed(Tree(HONEST.shape, tuple(levels)), height)
    revealed = lying.tree.node(4, 0)[1]
    found = stated_vector(honest, lying.root, revealed)
    assert found.root == lying.root
    for chunk in range(10):
        assert read_update_opening(StatedVector(found).opening(chunk), FORMAT, chunk).root == lying.root
    chunk, packed = sum_lie(honest, lying.root, revealed)
    assert opening_fault(packed, FORMAT, chunk, root=lying.root, squared_norm=revealed) is UpdateReason.SUM


def test_stated_vector__two_lies_or_none__none():
    honest = CommittedVector.of(UPDATE, FORMAT, VectorKind.UPDATE)
    lying = hiding(2, 7)
    assert stated_vector(honest, lying.root, lying.tree.node(4, 0)[1]) is None
    assert stated_vector(honest, honest.root, squares(UPDATE)) is None
