"""The integer path in Python against the Solidity libraries themselves, on random input.

The libraries are compiled with the project's compiler, and run by Anvil through harness contracts that exist only
for the length of a call (a state override), so nothing is deployed and no block is mined.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from harness import CallReverted, Harness, compile_contracts

from chainfl.aggregation.mean import WeightedMean
from chainfl.aggregation.server_step import ServerStep, check_widths
from chainfl.encoding.chunk_tree import (
    Opening,
    TreeShape,
    VectorKind,
    check_padding,
    open_chunk,
    update_root,
    vector_root,
    verify_opening,
)
from chainfl.errors import AggregationError, PayloadError, RootMismatch, ValueOutOfRange

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

LIBRARIES = ("FixedPoint", "ChunkTree")
CASE = "(int32,int16[],uint16[],uint32,uint32,uint8,uint8)"
WIDTHS = "(uint32,uint32,uint32,uint8,uint8)"
SHAPE = "(uint8,uint64,uint32)"
OPENING = "(uint64,bytes,bytes32[],uint64[])"


@pytest.fixture(scope="module")
def bytecode():
    return {
        name: compile_contracts(f"contracts/test/unit/{name}.t.sol", [f"{name}Harness"])[f"{name}Harness"]
        for name in LIBRARIES
    }


@pytest.fixture(scope="module")
def fixed_point(anvil, bytecode):
    return Harness(anvil, bytecode["FixedPoint"])


@pytest.fixture(scope="module")
def chunk_tree(anvil, bytecode):
    return Harness(anvil, bytecode["ChunkTree"])


@pytest.mark.parametrize("seed", range(12))
def test_mean_step__random_models__same_bits_at_every_coordinate(fixed_point, seed):
    rng = np.random.default_rng(seed)
    num_params, workers = 60, int(rng.integers(1, 33))
    t = int(rng.integers(8, 16))
    s = int(rng.integers(t, 24))
    num, den = (int(value) for value in rng.integers(1, 200, 2))
    updates = rng.integers(-32768, 32768, (workers, num_params)).astype(np.int16)
    updates[:, :5] = rng.choice([-32767, -1, 0, 1, 32767], (workers, 5))
    weights = [int(w) for w in rng.choice([0, 1, 2, 9_999, 10_000, int(rng.integers(10_001))], workers)]
    weights[0] = max(weights[0], 1)
    model = rng.integers(-(2**31), 2**31, num_params).astype(np.int32)
    model[:20] = rng.integers(-(2**20), 2**20, 20)
    rule = WeightedMean(num_params, s, t)
    for values, weight in zip(updates, weights, strict=True):
        rule.add(values, weight)
    cases = [(int(model[p]), [int(u) for u in updates[:, p]], weights, num, den, s, t) for p in range(num_params)]
    expected = fixed_point.call("meanSteps", [f"{CASE}[]"], ["int32[]"], cases)
    assert rule.apply(model, ServerStep(num, den)).model.tolist() == list(expected)


def test_mean_step__exact_halves_of_either_sign__same_bits(fixed_point):
    values = list(range(-9, 10))
    cases = [(0, [u, 0], [w, v], 1, 2, 14, 14) for u, (w, v) in itertools.product(values, [(1, 0), (1, 1), (3, 1)])]
    expected = fixed_point.call("meanSteps", [f"{CASE}[]"], ["int32[]"], cases)
    for case, result in zip(cases, expected, strict=True):
        rule = WeightedMean(1, 14, 14)
        for value, weight in zip(case[1], case[2], strict=True):
            rule.add(np.array([value], np.int16), weight)
        assert rule.apply(np.zeros(1, np.int32), ServerStep(1, 2)).model.tolist() == [result]


def test_mean_step__zero_total_weight__refused_by_both(fixed_point):
    with pytest.raises(CallReverted):
        fixed_point.call("meanStep", [CASE], ["int32"], (0, [5], [0], 1, 1, 20, 14))
    rule = WeightedMean(1, 20, 14)
    rule.add(np.array([5], np.int16), 0)
    with pytest.raises(AggregationError):
        rule.apply(np.zeros(1, np.int32), ServerStep(1, 1))


def test_check_widths__random_parameters__refused_by_both_or_by_none(fixed_point):
    rng = np.random.default_rng(3)
    cases = [
        (*(int(2 ** rng.uniform(-1, 32)) for _ in range(3)), int(rng.integers(0, 80)), int(rng.integers(0, 40)))
        for _ in range(400)
    ]
    cases += [(1, 1, 64, s, t) for s in range(0, 70, 3) for t in range(0, 30, 5)]

    def fits(case):
        try:
            check_widths(*case)
        except AggregationError:
            return False
        return True

    on_chain = fixed_point.call("fits", [f"{WIDTHS}[]"], ["bool[]"], cases)
    assert list(map(fits, cases)) == list(on_chain)
    assert {True, False} <= set(on_chain)


@pytest.mark.parametrize("kind", list(VectorKind))
@pytest.mark.parametrize(
    ("num_params", "chunk_params"), [(1, 16), (16, 16), (17, 16), (81, 16), (500, 32), (2000, 256)]
)
def test_openings__random_vectors__lead_to_the_same_root_and_sum(chunk_tree, kind, num_params, chunk_params):
    shape = TreeShape(num_params, chunk_params, kind)
    bounds = np.iinfo(shape.dtype)
    values = np.random.default_rng(num_params).integers(bounds.min, bounds.max, num_params, shape.dtype, endpoint=True)
    for index in {0, shape.num_chunks // 2, shape.num_chunks - 1}:
        opening = open_chunk(values, index, chunk_params, kind)
        assert chunk_tree.call("isPaddingClean", [SHAPE, OPENING], ["bool"], *_encoded(shape, opening))
        if kind is VectorKind.UPDATE:
            commitment = update_root(values, chunk_params)
            seen = chunk_tree.call(
                "rootOfUpdateOpening", [SHAPE, OPENING], ["bytes32", "uint64"], *_encoded(shape, opening)
            )
            assert seen == (commitment.root, commitment.sum_of_squares)
        else:
            root = chunk_tree.call("rootOfOpening", [SHAPE, OPENING], ["bytes32"], *_encoded(shape, opening))
            assert root == vector_root(values, chunk_params, kind)


@pytest.mark.parametrize("seed", range(30))
def test_openings__randomly_damaged__refused_by_both_or_by_none(chunk_tree, seed):
    rng = np.random.default_rng(seed)
    shape = TreeShape(int(rng.integers(1, 200)), 16, VectorKind.UPDATE)
    values = rng.integers(-32768, 32768, shape.num_params).astype(np.int16)
    commitment = update_root(values, 16)
    opening = _damaged(open_chunk(values, int(rng.integers(shape.num_chunks)), 16, shape.kind), rng)
    form = {"num_params": shape.num_params, "chunk_params": 16, "kind": shape.kind}

    def accepted_here():
        try:
            verify_opening(opening, root=commitment.root, sum_of_squares=commitment.sum_of_squares, **form)
        except (PayloadError, RootMismatch):
            return False
        return True

    def clean_here():
        try:
            check_padding(opening, **form)
        except (PayloadError, ValueOutOfRange):
            return False
        return True

    arguments = (commitment.root, commitment.sum_of_squares, *_encoded(shape, opening))
    assert accepted_here() == _accepted(chunk_tree, "verifyUpdate", ["bytes32", "uint64", SHAPE, OPENING], *arguments)
    assert clean_here() == _accepted(chunk_tree, "isPaddingClean", [SHAPE, OPENING], *_encoded(shape, opening))


def _encoded(shape: TreeShape, opening: Opening):
    return (
        (int(shape.kind), shape.num_params, shape.chunk_params),
        (opening.index, opening.chunk, list(opening.path), list(opening.sums)),
    )


def _accepted(harness: Harness, name: str, takes: list[str], *arguments) -> bool:
    try:
        return harness.call(name, takes, ["bool"], *arguments)
    except CallReverted:
        return False


def _damaged(opening: Opening, rng: np.random.Generator) -> Opening:
    """One of: nothing, a bit of the chunk, a bit of the path, a sum, the index, a length."""
    index, chunk, path, sums = opening.index, bytearray(opening.chunk), list(opening.path), list(opening.sums)
    place = int(rng.integers(len(path))) if path else None
    match int(rng.integers(7)):
        case 1:
            chunk[int(rng.integers(len(chunk)))] ^= 1 << int(rng.integers(8))
        case 2 if place is not None:
            path[place] = bytes([path[place][0] ^ 1]) + path[place][1:]
        case 3 if place is not None:
            sums[place] = int(rng.choice([sums[place] + 1, 2**63, 0]))
        case 4:
            index += 1
        case 5:
            path, sums = [*path, bytes(32)], [*sums, 0]
        case 6:
            chunk = chunk[:-1]
    return Opening(index, bytes(chunk), tuple(path), tuple(sums))
