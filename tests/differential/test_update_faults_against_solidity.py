"""What is wrong with an opened update, said by Python and by the library that slashes for it, over hostile openings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from dispute_rounds import FORMAT
from harness import Harness

from chainfl.disputes.faults import UpdateReason, opening_fault
from chainfl.disputes.openings import read_update_opening
from chainfl.encoding.chunk_tree import TreeShape, VectorKind, padding_node

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

OPENINGS = 500
"""For each shape."""
SHAPES = [(1, 16), (16, 16), (17, 16), (33, 32), (81, 16), (150, 16), (300, 48), (500, 32), (1025, 16), (2000, 256)]
UINT64 = 1 << 64


@pytest.fixture(scope="module")
def faults(anvil, harnesses):
    return Harness(anvil, harnesses["FaultsHarness"])


# --- openings, honest at first and then not ------------------------------------------------------


@dataclass
class Draft:
    """An opening before it is packed. values: (c,) of its chunk; used: how many of them are not padding.

    siblings, stated: of each level, the leaf's first; `stated` is what the tree says of the node above.
    """

    shape: TreeShape
    index: int
    values: np.ndarray
    used: int
    siblings: list[tuple[bytes, int]]
    leaf_sum: int = 0
    stated: list[int] = field(default_factory=list)
    revealed: int = 0

    def add_up(self) -> None:
        """All sums as they follow from the values and from the siblings', in 64 bits."""
        wide = self.values.astype(object)
        self.leaf_sum = int((wide * wide).sum())
        self.state_from(0)

    def state_from(self, height: int) -> None:
        """The sums above that level, and the revealed one, from what is stated there."""
        total = self.stated[height - 1] if height else self.leaf_sum
        del self.stated[height:]
        for _, beside in self.siblings[height:]:
            total = (total + beside) % UINT64
            self.stated.append(total)
        self.revealed = total

    @property
    def is_padding(self) -> list[bool]:
        """Of each level, whether the sibling covers nothing but padding."""
        heights = range(self.shape.depth)
        return [(self.index >> height ^ 1) << height >= self.shape.num_chunks for height in heights]

    def pack(self, form: int) -> bytes:
        parts = [bytes([form]), self.values.astype(">i2").tobytes(), self.leaf_sum.to_bytes(8, "big")]
        for (digest, total), parent in zip(self.siblings, self.stated, strict=True):
            parts += [digest, total.to_bytes(8, "big"), *([parent.to_bytes(8, "big")] if form else [])]
        return b"".join(parts)


def honest(rng: np.random.Generator, shape: TreeShape) -> Draft:
    last = shape.num_chunks - 1
    index = last if rng.random() < 0.4 else int(rng.integers(shape.num_chunks))
    used = min(shape.chunk_params, shape.num_params - index * shape.chunk_params)
    most = int(rng.choice([1, 300, 32_767]))
    values = rng.integers(-most, most, shape.chunk_params, endpoint=True).astype(np.int16)
    if rng.random() < 0.2:
        values = rng.choice(np.array([-32_767, 32_767], np.int16), shape.chunk_params)
    values[used:] = 0
    draft = Draft(shape, index, values, used, [])
    for height, is_padding in enumerate(draft.is_padding):
        beside = (padding_node(shape, height), 0) if is_padding else (rng.bytes(32), int(rng.integers(1 << 44)))
        draft.siblings.append(beside)
    draft.add_up()
    return draft


# --- what can be wrong; each leaves the rest as the worker would have it --------------------------


def put_minimum(rng: np.random.Generator, draft: Draft) -> None:
    draft.values[rng.integers(draft.values.size)] = -32_768
    draft.add_up()


def put_padding(rng: np.random.Generator, draft: Draft) -> None:
    if draft.used < draft.values.size:
        draft.values[rng.integers(draft.used, draft.values.size)] = rng.choice([-32_768, -1, 1, 256, 32_767])
        draft.add_up()


def misstate_leaf(rng: np.random.Generator, draft: Draft) -> None:
    draft.leaf_sum = other_sum(rng, draft.leaf_sum)
    draft.state_from(0)


def misstate_node(rng: np.random.Generator, draft: Draft) -> None:
    if draft.stated:
        height = int(rng.integers(len(draft.stated)))
        draft.stated[height] = other_sum(rng, draft.stated[height])
        if rng.random() < 0.7:
            draft.state_from(height + 1)


def overflow(rng: np.random.Generator, draft: Draft) -> None:
    """A sibling's sum with which the node above just fits into 64 bits, or just does not."""
    if draft.siblings:
        height = int(rng.integers(len(draft.siblings)))
        own = draft.stated[height - 1] if height else draft.leaf_sum
        beside = min(max(UINT64 - own + int(rng.integers(-1, 2)), 0), UINT64 - 1)
        draft.siblings[height] = (draft.siblings[height][0], beside)
        draft.state_from(height)


def change_sibling(rng: np.random.Generator, draft: Draft) -> None:
    """Where it is padding no other may stand, nor with another sum; elsewhere any hash may."""
    if draft.siblings:
        height = int(rng.integers(len(draft.siblings)))
        digest, total = draft.siblings[height]
        kind = rng.integers(3)
        draft.siblings[height] = (digest if kind else rng.bytes(32), total if kind < 2 else other_sum(rng, total))
        draft.state_from(height)


def shift_padding(rng: np.random.Generator, draft: Draft) -> None:
    """The constant of another level."""
    places = [height for height, is_padding in enumerate(draft.is_padding) if is_padding]
    if places:
        height = int(rng.choice(places))
        draft.siblings[height] = (padding_node(draft.shape, height + 1), 0)


def reveal_another(rng: np.random.Generator, draft: Draft) -> None:
    """Most of all a smaller one, below the task's bound."""
    draft.revealed = other_sum(rng, draft.revealed)


def other_sum(rng: np.random.Generator, total: int) -> int:
    near = [total - 1, total + 1, total // 2, total ^ 1 << 63, 0, 1, UINT64 - 1, int(rng.integers(1 << 62))]
    return near[rng.integers(len(near))] % UINT64


CHANGES: list[Callable[[np.random.Generator, Draft], None]] = [
    put_minimum,
    put_padding,
    misstate_leaf,
    misstate_node,
    overflow,
    change_sibling,
    shift_padding,
    reveal_another,
]


def drafts(num_params: int, chunk_params: int) -> list[tuple[Draft, int]]:
    """Each with its form: up to three changes, one after the other."""
    rng = np.random.default_rng([num_params, chunk_params])
    shape = TreeShape(num_params, chunk_params, VectorKind.UPDATE)
    made = []
    for _ in range(OPENINGS):
        draft = honest(rng, shape)
        for change in rng.choice(np.arange(len(CHANGES)), int(rng.choice([0, 1, 1, 1, 2, 3])), replace=False):
            CHANGES[change](rng, draft)
        made.append((draft, int(rng.integers(2))))
    return made


# --- both sides ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_params", "chunk_params"), SHAPES)
def test_fault__any_opening__the_same_on_both_sides(faults, num_params, chunk_params):
    form = replace(FORMAT, num_params=num_params, chunk_params=chunk_params)
    made = drafts(num_params, chunk_params)
    cases = [(draft.index, draft.revealed, draft.pack(kind)) for draft, kind in made]
    roots, reasons = faults.call(
        "judge",
        ["uint64", "uint32", "(uint64,uint64,bytes)[]"],
        ["bytes32[]", "bytes32[]"],
        num_params,
        chunk_params,
        cases,
    )
    for (index, revealed, packed), root, reason in zip(cases, roots, reasons, strict=True):
        assert read_update_opening(packed, form, index).root == root
        here = opening_fault(packed, form, index, root=root, squared_norm=revealed)
        assert (here.value if here else "") == reason.rstrip(b"\0").decode(), (index, revealed, packed.hex())


def test_fault__these_openings__show_every_reason_and_none():
    """Otherwise two sides that say the same of everything would agree, too."""
    seen: Counter[UpdateReason | None] = Counter()
    for num_params, chunk_params in SHAPES:
        form = replace(FORMAT, num_params=num_params, chunk_params=chunk_params)
        for draft, kind in drafts(num_params, chunk_params):
            packed = draft.pack(kind)
            root = read_update_opening(packed, form, draft.index).root
            seen[opening_fault(packed, form, draft.index, root=root, squared_norm=draft.revealed)] += 1
    assert set(seen) == {None, *UpdateReason}
    assert min(seen.values()) > 200, seen
