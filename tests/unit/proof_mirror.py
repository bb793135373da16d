"""What `Proofs.sol` does with a proof against an aggregate, word for word; an AssertionError is a revert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from eth_hash.auto import keccak

from chainfl.aggregation.rules import rule_sum
from chainfl.aggregation.server_step import Server
from chainfl.disputes.openings import read_plain, read_update_opening
from chainfl.encoding.chunk_tree import TreeShape, VectorKind
from chainfl.tasks.state import Claim, Format, Target

KINDS = {Target.MODEL: VectorKind.MODEL, Target.STATE: VectorKind.STATE, Target.GROUP: VectorKind.GROUP_SUM}


@dataclass(frozen=True)
class Records:
    """What the contract knows of a round when it reads a proof. weights: of the accepted updates, in order."""

    form: Format
    model_root: bytes
    state_root: bytes
    claim: Claim
    weights: Sequence[int]
    accepted_hashes: Sequence[bytes]


def chained(form: Format, accepted: Sequence[tuple[bytes, int]]) -> list[bytes]:
    """What the tally chains the accepted (root, weight) of each group to."""
    hashes: list[bytes] = []
    for position, (root, weight) in enumerate(accepted):
        if position % form.group_size == 0:
            hashes.append(bytes(32))
        hashes[-1] = keccak(hashes[-1] + root + weight.to_bytes(2, "big"))
    return hashes


class Reading:
    """One proof, read from its beginning."""

    def __init__(self, records: Records, proof: bytes) -> None:
        self.records, self.form, self.proof, self.cursor = records, records.form, proof, 0

    def judge(self) -> bool:
        """Whether it shows that the aggregate is wrong."""
        wrong = [self.padding, self.coordinate, self.group][self.number(1)]()
        assert self.cursor == len(self.proof)
        return wrong

    def take(self, length: int) -> bytes:
        part = self.proof[self.cursor : self.cursor + length]
        assert len(part) == length
        self.cursor += length
        return part

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def padding(self) -> bool:
        target, group = Target(self.number(1)), self.number(2)
        self.index, self.offset = self.number(8), 0
        if target is Target.GROUP:
            self.take_group_roots()
        _, values = self.plain(KINDS[target], self.claimed(target, group))
        size = self.shape(KINDS[target]).num_params
        return bool(values[max(0, size - self.index * self.form.chunk_params) :].any())

    def coordinate(self) -> bool:
        records, form = self.records, self.form
        target = Target(self.number(1))
        coordinate = self.number(8)
        self.index, self.offset = divmod(coordinate, form.chunk_params)
        self.number(2), self.number(2)
        if records.claim.group_roots:
            self.take_group_roots()
        model = self.value(VectorKind.MODEL, records.model_root) if target is Target.MODEL else 0
        state = self.moments(coordinate, records.state_root) if form.has_state else None
        read = self.moments if target is Target.STATE else self.claimed_model
        claimed = read(coordinate, self.claimed(target, 0))
        if records.claim.group_roots:
            column = np.array([sum(self.value(VectorKind.GROUP_SUM, root) for root in records.claim.group_roots)])
            total = sum(records.weights)
        else:
            rows, weights = self.updates(0, len(records.weights))
            column, total = rule_sum(form, rows, weights)
        moved = Server(form).advance(column, total, np.array([model], np.int32), state)
        expected = moved.model if target is Target.MODEL else moved.state
        return expected.tolist() != claimed.tolist()

    def moments(self, coordinate: int, root: bytes) -> np.ndarray:
        """All that the state has of a coordinate."""
        index, offset = divmod(self.form.num_moments * coordinate, self.form.chunk_params)
        return self.plain(VectorKind.STATE, root, index)[1][offset : offset + self.form.num_moments]

    def claimed_model(self, coordinate: int, root: bytes) -> np.ndarray:
        return np.array([self.value(VectorKind.MODEL, root)], np.int32)

    def group(self) -> bool:
        self.index, self.offset = divmod(self.number(8), self.form.chunk_params)
        group = self.number(2)
        self.take_group_roots()
        claimed = self.value(VectorKind.GROUP_SUM, self.claimed(Target.GROUP, group))
        size = self.form.group_size
        rows, weights = self.updates(group, min(size, len(self.records.weights) - group * size))
        return sum(int(row[0]) * weight for row, weight in zip(rows, weights, strict=True)) != claimed

    def claimed(self, target: Target, group: int) -> bytes:
        claim = self.records.claim
        if target is Target.GROUP:
            return claim.group_roots[group]
        return claim.model_root if target is Target.MODEL else claim.state_root

    def take_group_roots(self) -> None:
        roots = self.records.claim.group_roots
        assert self.take(32 * len(roots)) == b"".join(roots)

    def value(self, kind: VectorKind, expected: bytes) -> int:
        return int(self.plain(kind, expected)[1][self.offset])

    def shape(self, kind: VectorKind) -> TreeShape:
        return TreeShape.of(self.form, kind)

    def plain(self, kind: VectorKind, expected: bytes, index: int | None = None):
        shape, index = self.shape(kind), self.index if index is None else index
        root, values = read_plain(self.take(shape.chunk_params * shape.width + 32 * shape.depth), shape, index)
        assert root == expected
        return root, values

    def updates(self, group: int, count: int):
        rows, weights, accepted = [], [], []
        depth = self.shape(VectorKind.UPDATE).depth
        for _ in range(count):
            weights.append(self.number(2))
            step = 48 if self.proof[self.cursor] else 40
            packed = self.take(9 + 2 * self.form.chunk_params + step * depth)
            seen = read_update_opening(packed, self.form, self.index)
            rows.append(seen.values[self.offset : self.offset + 1])
            accepted.append((seen.root, weights[-1]))
        assert chained(self.form, accepted)[:1] == [self.records.accepted_hashes[group]]
        return rows, weights
