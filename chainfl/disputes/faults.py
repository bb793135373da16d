"""What is wrong with an aggregate, or with an update: the first place that a proof can show to the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from itertools import islice

import numpy as np

from chainfl.aggregation.rules import WeightedSource, group_sums, read_rows, rule_sum, state_block, total_of, walk
from chainfl.aggregation.server_step import Server
from chainfl.disputes.openings import CommittedVector, read_update_opening
from chainfl.encoding.arrays import AnyArray, Int16Array, Int64Array, blocks
from chainfl.encoding.chunk_tree import (
    Level,
    Tree,
    TreeShape,
    VectorKind,
    check_root,
    chunk_at,
    leaf_digest,
    padding_node,
    update_root,
)
from chainfl.encoding.sources import VectorSource, as_source
from chainfl.errors import EncodingError
from chainfl.tasks.state import Format, Target
from chainfl.types import Root

_OUT_OF_RANGE = -32_768
_READ_VALUES = 1 << 20


class FaultKind(Enum):
    """Which of the three proofs against an aggregate shows the fault; the values are their first bytes."""

    PADDING = 0
    COORDINATE = 1
    GROUP_COORDINATE = 2


class UpdateReason(Enum):
    """What the contract says about a refuted update."""

    RANGE = "value out of range"
    PADDING = "wrong padding"
    SUM = "wrong sum"


@dataclass(frozen=True, slots=True)
class Fault:
    """Where an aggregate is wrong. target and group: in which vector. chunk_index: which of its chunks.

    coordinate: which parameter, also in a state of several values each; in padding the place in the vector.
    """

    kind: FaultKind
    target: Target
    group: int
    coordinate: int
    chunk_index: int
    claimed: int
    expected: int


@dataclass(frozen=True, slots=True)
class UpdateFault:
    """What is wrong with an update, and a chunk whose opening shows it."""

    reason: UpdateReason
    chunk_index: int


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """An aggregate's vectors: model and state (int32), and group sums (int64).

    A model and a group sum have P values, a state `state_params`; or as many as all chunks have with the padding, which
    is then looked at, too. What is None, or not in `groups`, is not looked at.
    """

    model: VectorSource | None = None
    state: VectorSource | None = None
    groups: tuple[VectorSource, ...] = ()


def find_fault(
    form: Format,
    before: Vectors,
    updates: Sequence[WeightedSource],
    claimed: Vectors,
) -> Fault | None:
    """The first fault of a claimed aggregate, in the order of coordinates; None if there is none.

    before: model and state (None where the server keeps none) that the round started from. updates: those of non-zero
    weight, in the order of the tally, verified. Reads all vectors once, in blocks, with a thread for each core.
    Within a block wrong group sums come before what follows from them. Raises AggregationError if nothing has a
    weight, EncodingError for vectors of other lengths.
    """
    search = _Search(form, before, updates, claimed)
    found = (fault for fault in walk(form.num_params, search.first_in) if fault is not None)
    return next(found, None) or next(_padding_faults(form, claimed), None)


def padding_fault(form: Format, target: Target, group: int, chunk_index: int, values: AnyArray) -> Fault | None:
    """Non-zero padding in a chunk that a game brought to light. values: (chunk_params,) with the padding."""
    start = chunk_index * form.chunk_params
    used = max(0, _size_of(form, target) - start)
    places = np.flatnonzero(values[used:])
    if not places.size:
        return None
    coordinate = start + used + int(places[0])
    claimed = int(values[coordinate - start])
    return Fault(FaultKind.PADDING, target, group, coordinate, chunk_index, claimed, 0)


class _Search:
    """The round under the task's rule, block by block, next to what was claimed."""

    def __init__(self, form: Format, before: Vectors, updates: Sequence[WeightedSource], claimed: Vectors) -> None:
        if before.model is None:
            raise EncodingError("a round starts from a model")
        self._form, self._updates, self._claimed = form, updates, claimed
        self._model, self._state = before.model, before.state
        self._weights = [update.weight for update in updates]
        self._total = total_of(form, self._weights)
        self._server = Server(form)
        if len(claimed.groups) not in (0, form.num_groups(len(updates))):
            raise EncodingError(f"there are not {len(claimed.groups)} groups", groups=len(claimed.groups))
        _require_lengths(form, before, [update.values for update in updates], padded=False)
        _require_lengths(form, claimed, claimed.groups, padded=True)

    def first_in(self, block: slice) -> Fault | None:
        """The first fault in a block of coordinates. Called from several threads."""
        rows = read_rows(self._updates, block)
        sums = group_sums(self._form, rows, self._weights)
        if wrong_group := self._wrong_group(block, sums):
            return wrong_group
        if self._claimed.model is None and self._claimed.state is None:
            return None
        whole = sum(sums[1:], start=sums[0]) if sums else rule_sum(self._form, rows, self._weights)[0]
        return self._wrong_step(block, whole)

    def _wrong_group(self, block: slice, sums: Sequence[Int64Array]) -> Fault | None:
        found = [
            _first_difference(self._form, FaultKind.GROUP_COORDINATE, Target.GROUP, group, block, seen, expected)
            for group, (seen, expected) in enumerate(zip(self._claimed.groups, sums, strict=False))
        ]
        return min((fault for fault in found if fault), key=lambda fault: fault.coordinate, default=None)

    def _wrong_step(self, block: slice, whole: Int64Array) -> Fault | None:
        of_state = state_block(self._form, block)
        state = None if self._state is None else self._state.read(of_state.start, of_state.stop)
        moved = self._server.advance(whole, self._total, self._model.read(block.start, block.stop), state)
        found = [
            _first_difference(self._form, FaultKind.COORDINATE, target, 0, block, seen, expected)
            for target, seen, expected in (
                (Target.STATE, self._claimed.state, moved.state),
                (Target.MODEL, self._claimed.model, moved.model),
            )
            if seen is not None and expected is not None
        ]
        return min((fault for fault in found if fault), key=lambda fault: fault.coordinate, default=None)


def _first_difference(
    form: Format,
    kind: FaultKind,
    target: Target,
    group: int,
    block: slice,
    source: VectorSource,
    expected: AnyArray,
) -> Fault | None:
    each = form.num_moments if target is Target.STATE else 1
    seen = source.read(each * block.start, each * block.stop)
    differs = seen != expected
    if not differs.any():
        return None
    place = int(differs.argmax())
    chunk_index = (each * block.start + place) // form.chunk_params
    coordinate = block.start + place // each
    return Fault(kind, target, group, coordinate, chunk_index, int(seen[place]), int(expected[place]))


def _padding_faults(form: Format, claimed: Vectors) -> Iterator[Fault]:
    named = [(Target.MODEL, 0, claimed.model), (Target.STATE, 0, claimed.state)]
    named += [(Target.GROUP, group, source) for group, source in enumerate(claimed.groups)]
    for target, group, source in named:
        size = _size_of(form, target)
        last = (size - 1) // form.chunk_params
        if source is not None and source.size > size:
            chunk = source.read(last * form.chunk_params, source.size)
            if fault := padding_fault(form, target, group, last, chunk):
                yield fault


def _size_of(form: Format, target: Target) -> int:
    """Values of a posted vector, without its padding."""
    return form.state_params if target is Target.STATE else form.num_params


def _require_lengths(form: Format, vectors: Vectors, others: Sequence[VectorSource], *, padded: bool) -> None:
    of_params = [(source, form.num_params) for source in (vectors.model, *others)]
    for source, size in [*of_params, (vectors.state, form.state_params)]:
        whole = -(-size // form.chunk_params) * form.chunk_params
        if source is not None and source.size != size and not (padded and source.size == whole):
            raise EncodingError(f"a vector has {source.size} values, not {size}", expected=size)


# --- updates -------------------------------------------------------------------------------------


def update_fault(values: Int16Array | VectorSource, form: Format, squared_norm: int) -> UpdateFault | None:
    """What is wrong with an update whose bytes hash to its root; None if nothing is.

    values: (P,) int16, or with the padding of the last chunk. squared_norm: as it was revealed next to the root.
    """
    source = as_source(values)
    for block in blocks(source.size, _READ_VALUES):
        wrong = source.read(block.start, block.stop) == _OUT_OF_RANGE
        if wrong.any():
            coordinate = block.start + int(wrong.argmax())
            return UpdateFault(UpdateReason.RANGE, coordinate // form.chunk_params)
    last = (form.num_params - 1) // form.chunk_params
    if source.size > form.num_params and source.read(form.num_params, source.size).any():
        return UpdateFault(UpdateReason.PADDING, last)
    total = update_root(source, form.chunk_params).sum_of_squares
    return None if total == squared_norm else UpdateFault(UpdateReason.SUM, 0)


def tree_fault(tree: Tree, source: VectorSource, squared_norm: int) -> UpdateFault | None:
    """What is wrong with an update's tree as its worker stated it, node by node; its hashes are those of its root.

    source: the values that its leaves hash. Levels may hold nodes of mere padding, which are then looked at.
    """
    wrong = next((index for index in range(tree.shape.num_chunks) if _is_leaf_sum_wrong(tree, source, index)), None)
    if wrong is not None:
        return UpdateFault(UpdateReason.SUM, wrong)
    for height in range(tree.shape.depth):
        for parent in range(len(tree.levels[height + 1].digests)):
            below = tree.node(height, 2 * parent)[1] + tree.node(height, 2 * parent + 1)[1]
            first = parent << height + 1
            if first < tree.shape.num_chunks and tree.node(height + 1, parent)[1] != below:
                return UpdateFault(UpdateReason.SUM, first)
    if tree.node(tree.shape.depth, 0)[1] != squared_norm:
        return UpdateFault(UpdateReason.SUM, 0)
    return next(_wrong_padding_nodes(tree), None)


def opening_fault(
    packed: bytes, form: Format, chunk_index: int, *, root: Root, squared_norm: int
) -> UpdateReason | None:
    """What a packed opening of an update shows: the contract's own judgement, in the same order; None if nothing.

    root, squared_norm: as they were revealed. Raises PayloadError for another form, RootMismatch if it leads
    elsewhere.
    """
    seen = read_update_opening(packed, form, chunk_index)
    check_root(seen.root, root)
    values = seen.values.astype(np.int64)
    if (values == _OUT_OF_RANGE).any():
        return UpdateReason.RANGE
    if values[max(0, form.num_params - chunk_index * form.chunk_params) :].any():
        return UpdateReason.PADDING
    if int((values * values).sum()) != seen.leaf_sum or not seen.adds or seen.sum_of_squares != squared_norm:
        return UpdateReason.SUM
    return None if seen.clean else UpdateReason.PADDING


def suspect_chunk(tree: Tree, answers: Mapping[int, bytes], form: Format, *, ticket: int) -> int | None:
    """Which chunk to demand next of an update whose published values have another root than the one revealed.

    tree: of the published values. answers: the packed openings so far by chunk, each itself without fault. ticket: of
    the draw, uniform below 2^64 and unknown to the worker. The part that hides most is opened, at a chunk that is drawn
    by its share of the squares: so values whose squares sum to T under a stated S show a fault with each demand with a
    probability of 1 - S/T at least, whichever sums are lies.
    returns: None if the answers are of other values than those published, or all sums are right: then more answers
    would prove nothing.
    """
    if any(leaf_digest(place, _chunk_of(packed, form)) != tree.node(0, place)[0] for place, packed in answers.items()):
        return None
    if not answers:
        return drawn_chunk(tree, tree.shape.depth, 0, ticket)
    parts = [(_hidden(tree, *part), *part) for part in _unopened(tree, answers, form)]
    share, height, index, _ = max(parts, default=(Fraction(0), 0, 0, 0))
    return drawn_chunk(tree, height, index, ticket) if share else None


def drawn_chunk(tree: Tree, height: int, index: int, ticket: int) -> int:
    """A chunk below node number `index` of a level, drawn by its share of the sum of squares. ticket: below 2^64."""
    place = ticket * tree.node(height, index)[1] >> 64
    while height:
        height, index = height - 1, 2 * index
        left, right = tree.node(height, index)[1], tree.node(height, index + 1)[1]
        if left <= place < left + right:
            place, index = place - left, index + 1
    return index


def _chunk_of(packed: bytes, form: Format) -> bytes:
    return packed[1 : 1 + 2 * form.chunk_params]


def _unopened(tree: Tree, answers: Mapping[int, bytes], form: Format) -> Iterator[tuple[int, int, int]]:
    """(height, number in its level, stated sum) of the largest parts in which no chunk is open yet."""
    for chunk_index, packed in answers.items():
        step, at = (48 if packed[0] else 40), 9 + 2 * form.chunk_params
        for height in range(tree.shape.depth):
            sibling = chunk_index >> height ^ 1
            is_open = any(other >> height == sibling for other in answers)
            if not is_open and sibling << height < tree.shape.num_chunks:
                yield height, sibling, int.from_bytes(packed[at + 32 : at + 40], "big")
            at += step


def _hidden(tree: Tree, height: int, index: int, stated: int) -> Fraction:
    """How much of a part's sum of squares the stated one leaves out, or adds, as a share of the larger of the two."""
    real = tree.node(height, index)[1]
    return Fraction(abs(real - stated), max(real, stated, 1))


def _is_leaf_sum_wrong(tree: Tree, source: VectorSource, index: int) -> bool:
    wire = np.frombuffer(chunk_at(source, index, tree.shape), ">i2").astype(np.int64)
    return tree.node(0, index)[1] != int((wire * wire).sum())


def _wrong_padding_nodes(tree: Tree) -> Iterator[UpdateFault]:
    """Only where the sibling covers values, so that an opening shows it; a constant has no other children."""
    shape = TreeShape(tree.shape.num_params, tree.shape.chunk_params, VectorKind.UPDATE)
    for height, level in enumerate(islice(tree.levels, shape.depth)):
        for index in range(len(level.digests)):
            sibling = (index ^ 1) << height
            is_padding = index << height >= shape.num_chunks > sibling
            if is_padding and tree.node(height, index) != (padding_node(shape, height), 0):
                yield UpdateFault(UpdateReason.PADDING, sibling)


# --- a lie about a sum, found from the values alone ----------------------------------------------


def sum_lie(vector: CommittedVector, root: Root, squared_norm: int) -> tuple[int, bytes] | None:
    """The chunk and packed opening (form 1) that show where a worker misstated a sum, if it did so at one node.

    vector: the values that the worker published, next to the tree as it should be. root, squared_norm: as they were
    revealed. Whoever is over the norm bound must lie somewhere; at one node, it is found without asking: every node is
    tried as the one whose sum is off by the whole difference. None if no such tree has the root.
    """
    found = _lying_node(vector.tree, root, squared_norm)
    if found is None:
        return None
    height, index = found
    return index << height, _with_lie(vector, height, index, squared_norm).stated_opening(index << height)


def stated_vector(vector: CommittedVector, root: Root, squared_norm: int) -> CommittedVector | None:
    """The same values next to the tree that their worker stated, where `sum_lie` finds the lie; None elsewhere.

    Its stated openings lead to the revealed root, so a proof can open an update that was accepted with such a lie.
    """
    found = _lying_node(vector.tree, root, squared_norm)
    return None if found is None else _with_lie(vector, *found, squared_norm)


def _lying_node(tree: Tree, root: Root, squared_norm: int) -> tuple[int, int] | None:
    """Height and number of the node."""
    depth = tree.shape.depth
    digest, total = tree.node(depth, 0)
    off = squared_norm - total
    if off == 0:
        return None
    if tree.shape.seal(digest, squared_norm) == root:
        return depth, 0
    for height in range(depth):
        for index in range(-(-tree.shape.num_chunks // (1 << height))):
            if _top_with(tree, height, index, off) == root:
                return height, index
    return None


def _top_with(tree: Tree, height: int, index: int, off: int) -> Root | None:
    """The root if the sums of one node and of all above it were off by so much; None where one is no uint64."""
    digest, total = tree.node(height, index)
    for level in range(height, tree.shape.depth + 1):
        stated = total + off
        if not 0 <= stated < 1 << 64:
            return None
        if level == tree.shape.depth:
            return tree.shape.seal(digest, stated)
        place = index >> (level - height)
        own, beside = (digest, stated), tree.node(level, place ^ 1)
        digest = _node_of(beside, own) if place & 1 else _node_of(own, beside)
        total += beside[1]
    raise AssertionError("a tree has a top")


def _with_lie(vector: CommittedVector, height: int, index: int, squared_norm: int) -> CommittedVector:
    """The vector with the sums of one node and of all above it off, up to `squared_norm`, and digests that fit."""
    shape, levels = vector.tree.shape, [*vector.tree.levels]
    off = squared_norm - vector.tree.node(shape.depth, 0)[1]
    for level in range(height, shape.depth + 1):
        place, below = index >> (level - height), Tree(shape, tuple(levels))
        digest, total = vector.tree.node(level, place)
        if level > height:
            digest = _node_of(below.node(level - 1, 2 * place), below.node(level - 1, 2 * place + 1))
        levels[level] = _replaced(levels[level], place, digest, total + off)
    return CommittedVector(vector.source, Tree(shape, tuple(levels)))


def _node_of(left: tuple[bytes, int], right: tuple[bytes, int]) -> bytes:
    """The digest over two nodes and their sums."""
    sums = left[1].to_bytes(8, "big"), right[1].to_bytes(8, "big")
    return hashlib.sha256(b"\x02" + left[0] + sums[0] + right[0] + sums[1]).digest()


def _replaced(level: Level, place: int, digest: bytes, total: int) -> Level:
    assert level.sums is not None, "an update's tree has sums"
    digests, sums = level.digests.copy(), level.sums.copy()
    digests[place], sums[place] = np.frombuffer(digest, np.uint8), total
    return Level(digests, sums)
