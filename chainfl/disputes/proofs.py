"""The bytes that convict: proofs against an aggregate and against an update, as IDisputes.sol lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainfl.aggregation.median import median_rank
from chainfl.aggregation.trimmed_mean import trim_count
from chainfl.disputes.faults import Fault, FaultKind
from chainfl.disputes.openings import Opener, value_at
from chainfl.encoding.chunk_tree import TreeShape, VectorKind
from chainfl.errors import EncodingError
from chainfl.tasks.state import Format, Rule, Target
from chainfl.types import Root


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What proofs open.

    model, state: what the round started from. claimed_model, claimed_state: what was posted. States are None where the
    server keeps none. updates: the accepted ones with their weights, in the order of the tally. group_roots: as posted;
    claimed_groups: the vectors behind them, as many; both empty unless there are groups.
    """

    form: Format
    model: Opener
    claimed_model: Opener
    updates: Sequence[tuple[Opener, int]]
    state: Opener | None = None
    claimed_state: Opener | None = None
    group_roots: tuple[Root, ...] = ()
    claimed_groups: tuple[Opener, ...] = ()


def aggregate_proof(evidence: Evidence, fault: Fault) -> bytes:
    """The proof of a fault that `find_fault` found."""
    if fault.kind is FaultKind.PADDING:
        return padding_proof(evidence, fault.target, fault.group, fault.chunk_index)
    if fault.kind is FaultKind.COORDINATE:
        return coordinate_proof(evidence, fault.coordinate, fault.target)
    return group_proof(evidence, fault.coordinate, fault.group)


def coordinate_proof(evidence: Evidence, coordinate: int, target: Target = Target.MODEL) -> bytes:
    """One coordinate of the model or the state, recomputed from all accepted updates, or from the claimed group sums.

    Of what is claimed it opens the target alone: the other may be withheld. Raises EncodingError for a state that the
    task does not have.
    """
    index, offset = _place(evidence.form, coordinate)
    claimed = evidence.claimed_model if target is Target.MODEL else evidence.claimed_state
    if target is Target.GROUP or claimed is None:
        raise EncodingError("the task has no such vector", target=target.name)
    in_state = _place_in_state(evidence.form, coordinate)
    before = evidence.model.opening(index) if target is Target.MODEL else b""
    before += evidence.state.opening(in_state) if evidence.state is not None else b""
    steps = before + claimed.opening(index if target is Target.MODEL else in_state)
    if evidence.group_roots:
        sums = b"".join(group.opening(index) for group in evidence.claimed_groups)
        ranks, rest = (0, 0), b"".join(evidence.group_roots) + steps + sums
    else:
        updates, values = _open_updates(evidence.form, evidence.updates, index, offset)
        ranks, rest = rank_positions(evidence.form, values), steps + updates
    head = _head(FaultKind.COORDINATE) + bytes([target])
    return head + _u64(coordinate) + _u16(ranks[0]) + _u16(ranks[1]) + rest


def group_proof(evidence: Evidence, coordinate: int, group: int) -> bytes:
    """One coordinate of a group's sum, recomputed from the group's updates. Raises EncodingError for another group."""
    if not 0 <= group < len(evidence.group_roots):
        raise EncodingError(f"there is no group {group} of {len(evidence.group_roots)}", group=group)
    index, offset = _place(evidence.form, coordinate)
    size = evidence.form.group_size
    updates, _ = _open_updates(evidence.form, evidence.updates[group * size : (group + 1) * size], index, offset)
    head = _head(FaultKind.GROUP_COORDINATE) + _u64(coordinate) + _u16(group) + b"".join(evidence.group_roots)
    return head + evidence.claimed_groups[group].opening(index) + updates


def padding_proof(evidence: Evidence, target: Target, group: int, chunk_index: int) -> bytes:
    """A chunk of a posted vector whose padding, or that on its path, is not what padding must be."""
    opener, roots = {
        Target.MODEL: (evidence.claimed_model, b""),
        Target.STATE: (evidence.claimed_state, b""),
        Target.GROUP: (
            evidence.claimed_groups[group] if target is Target.GROUP else None,
            b"".join(evidence.group_roots),
        ),
    }[target]
    if opener is None:
        raise EncodingError("the task has no such vector", target=target.name)
    head = _head(FaultKind.PADDING) + bytes([target]) + _u16(group) + _u64(chunk_index)
    return head + roots + opener.opening(chunk_index)


def update_proof(worker_index: int, chunk_index: int, opening: bytes) -> bytes:
    """A chunk of an update that is out of range, or whose sums do not add up. opening: packed, in form 0 or 1."""
    return _u16(worker_index) + _u64(chunk_index) + opening


def rank_positions(form: Format, values: Sequence[int]) -> tuple[int, int]:
    """Where in the order of the updates the values are that an order rule's proof names; zeros for the mean.

    The median's own position, or those of the smallest and the largest value that the trimmed mean keeps.
    """
    if form.rule is Rule.MEAN:
        return 0, 0
    order = sorted(range(len(values)), key=values.__getitem__)
    if form.rule is Rule.MEDIAN:
        return order[median_rank(len(values))], 0
    trim = trim_count(len(values), form.trim_num, form.trim_den)
    return order[trim], order[len(values) - 1 - trim]


def _open_updates(
    form: Format, updates: Sequence[tuple[Opener, int]], index: int, offset: int
) -> tuple[bytes, list[int]]:
    """The packed openings, each after its weight, and the coordinate's value in each."""
    shape = TreeShape.of(form, VectorKind.UPDATE)
    parts, values = [], []
    for opener, weight in updates:
        packed = opener.opening(index)
        parts.append(_u16(weight) + packed)
        values.append(value_at(packed, shape, offset))
    return b"".join(parts), values


def _place(form: Format, coordinate: int) -> tuple[int, int]:
    if not 0 <= coordinate < form.num_params:
        raise EncodingError(f"there is no coordinate {coordinate} of {form.num_params}", coordinate=coordinate)
    return divmod(coordinate, form.chunk_params)


def _place_in_state(form: Format, coordinate: int) -> int:
    """The chunk of the state that holds all values of a coordinate: their number divides that of a chunk."""
    return form.num_moments * coordinate // form.chunk_params


def _head(kind: FaultKind) -> bytes:
    return bytes([kind.value])


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "big")
