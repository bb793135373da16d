"""Openings and proofs that Python packs, read by the libraries that judge them; and every malformed one refused."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from dispute_rounds import FORMATS, Round
from harness import FORMAT, PROOFS_ADDRESS, CallReverted, Harness

from chainfl.disputes.faults import FaultKind, find_fault
from chainfl.disputes.openings import (
    CommittedVector,
    KnownOpening,
    plain_opening,
    read_plain,
    read_update_opening,
    update_opening,
)
from chainfl.disputes.proofs import aggregate_proof, coordinate_proof, group_proof, padding_proof
from chainfl.encoding.chunk_tree import Level, Tree, TreeShape, VectorKind, build_tree
from chainfl.encoding.sources import ArraySource
from chainfl.tasks.state import Format, Target

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

ROUND = f"({FORMAT},uint16,uint64,bytes32,bytes32,bytes32,bytes32,bytes32[],bytes32[])"
ZERO = bytes(32)
SHAPES = [(1, 16), (16, 16), (17, 16), (81, 16), (500, 32), (2000, 256)]


@pytest.fixture(scope="module")
def openings(anvil, harnesses):
    return Harness(anvil, harnesses["OpeningsHarness"])


@pytest.fixture(scope="module")
def proofs(anvil, harnesses):
    return Harness(anvil, harnesses["ProofsHarness"], {PROOFS_ADDRESS: harnesses["Proofs"]})


def judge(proofs: Harness, played: Round, proof: bytes) -> str:
    """The fault that the contract sees. Raises CallReverted if it sees none."""
    form = played.form
    setup = (
        tuple(map(int, astuple(form))),
        len(played.weights),
        sum(played.weights),
        played.root(played.model, VectorKind.MODEL),
        ZERO if played.state is None else played.root(played.state, VectorKind.STATE),
        played.root(played.claimed_model, VectorKind.MODEL),
        ZERO if played.claimed_state is None else played.root(played.claimed_state, VectorKind.STATE),
        list(played.group_roots),
        played.accepted_hashes,
    )
    return proofs.call("check", [ROUND, "bytes"], ["bytes32"], setup, proof).rstrip(b"\0").decode()


def refused(proofs: Harness, played: Round, proof: bytes) -> bool:
    try:
        judge(proofs, played, proof)
    except CallReverted:
        return True
    return False


# --- openings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [VectorKind.MODEL, VectorKind.STATE, VectorKind.GROUP_SUM])
@pytest.mark.parametrize(("num_params", "chunk_params"), SHAPES)
def test_plain_opening__any_shape__leads_to_the_root_on_both_sides(openings, kind, num_params, chunk_params):
    shape, form, values = sample(num_params, chunk_params, kind)
    root = build_tree(values, chunk_params, kind).root
    for index in {0, shape.num_chunks // 2, shape.num_chunks - 1}:
        packed = plain_opening(values, form, index, kind=kind)
        takes = ["uint64", "uint32", "uint8", "uint256", "bytes"]
        seen = openings.call("plain", takes, ["bytes32", "uint256"], num_params, chunk_params, int(kind), index, packed)
        assert seen == (root, len(packed))
        assert read_plain(packed, shape, index)[0] == root


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize(("num_params", "chunk_params"), SHAPES)
def test_update_opening__any_shape_and_form__leads_to_the_root_on_both_sides(
    openings, stated, num_params, chunk_params
):
    shape, form, values = sample(num_params, chunk_params, VectorKind.UPDATE)
    tree = build_tree(values, chunk_params, VectorKind.UPDATE)
    for index in {0, shape.num_chunks // 2, shape.num_chunks - 1}:
        packed = update_opening(values, form, index, stated=stated)
        total = int((values.astype(np.int64) ** 2).sum())
        assert read_on_chain(openings, form, index, packed) == (tree.root, total, True, len(packed))
        here = read_update_opening(packed, form, index)
        assert (here.root, here.sum_of_squares, here.adds, here.clean) == (tree.root, total, True, True)


@pytest.mark.parametrize("seed", range(40))
def test_update_opening__sums_that_do_not_add_up__the_same_on_both_sides(openings, seed):
    rng = np.random.default_rng(seed)
    shape, form, values = sample(int(rng.integers(17, 300)), 16, VectorKind.UPDATE)
    tree = build_tree(values, 16, VectorKind.UPDATE)
    levels = [Level(level.digests, level.sums.copy()) for level in tree.levels]
    for _ in range(int(rng.integers(1, 4))):
        level = levels[int(rng.integers(len(levels)))]
        level.sums[int(rng.integers(len(level.sums)))] = [0, 5, 2**63, 2**64 - 1][int(rng.integers(4))]
    hostile = CommittedVector(ArraySource(values), Tree(shape, tuple(levels)))
    for index in range(shape.num_chunks):
        for packed in (hostile.opening(index), hostile.stated_opening(index)):
            here = read_update_opening(packed, form, index)
            seen = (here.root, here.sum_of_squares, here.adds, len(packed))
            assert read_on_chain(openings, form, index, packed) == seen


def read_on_chain(openings: Harness, form: Format, index: int, packed: bytes):
    takes, gives = ["uint64", "uint32", "uint256", "bytes"], ["bytes32", "uint64", "uint64", "bool", "uint256"]
    root, _, total, adds, length = openings.call(
        "update", takes, gives, form.num_params, form.chunk_params, index, packed
    )
    return root, total, adds, length


def sample(num_params: int, chunk_params: int, kind: VectorKind):
    shape = TreeShape(num_params, chunk_params, kind)
    form = replace(FORMATS["mean"], num_params=num_params, chunk_params=chunk_params)
    bounds = np.iinfo(shape.dtype)
    values = np.random.default_rng(num_params).integers(bounds.min, bounds.max, num_params, shape.dtype, endpoint=True)
    return shape, form, values


# --- proofs --------------------------------------------------------------------------------------


def lies(form: Format) -> list[str]:
    state = ["state"] if form.has_state else []
    return ["model", *state, *(["group 0", "group 2"] if form.group_size < 5 else [])]


def lying(name: str, what: str, coordinate: int, seed: int = 0) -> Round:
    """One wrong value of a parameter; where the state has several, the last of them."""
    form = FORMATS[name]
    each = form.num_moments if what == "state" else 1
    return Round.random(form, seed).lying(what, each * coordinate + each - 1)


CASES = [(name, what) for name, form in FORMATS.items() for what in lies(form)]


@pytest.mark.parametrize(("name", "what"), CASES)
def test_proof__one_wrong_value__convicts(proofs, name, what):
    reasons = {FaultKind.COORDINATE: "wrong coordinate", FaultKind.GROUP_COORDINATE: "wrong group sum"}
    for coordinate in (0, 77, 149):
        played = lying(name, what, coordinate, coordinate)
        fault = find_fault(played.form, played.before, played.sources, played.claimed)
        assert fault is not None
        assert fault.coordinate == coordinate
        proof = aggregate_proof(played.evidence, fault)
        assert judge(proofs, played, proof) == reasons[fault.kind]


@pytest.mark.parametrize("name", FORMATS)
def test_proof__honest_aggregate__never_convicts(proofs, name):
    played = Round.random(FORMATS[name])
    for coordinate in range(0, 150, 16):
        assert refused(proofs, played, coordinate_proof(played.evidence, coordinate))
        if played.form.has_state:
            assert refused(proofs, played, coordinate_proof(played.evidence, coordinate, Target.STATE))
        for group in range(len(played.group_roots)):
            assert refused(proofs, played, group_proof(played.evidence, coordinate, group))
    last = {Target.MODEL: 9, Target.STATE: (played.form.state_params - 1) // 16}
    for target in (Target.MODEL, *([Target.STATE] if played.form.has_state else [])):
        assert refused(proofs, played, padding_proof(played.evidence, target, 0, last[target]))


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.num_moments == 2])
def test_proof__first_moment_alone_is_wrong__convicts(proofs, name):
    for coordinate in (0, 77, 149):
        played = Round.random(FORMATS[name], coordinate).lying("state", 2 * coordinate)
        assert judge(proofs, played, coordinate_proof(played.evidence, coordinate, Target.STATE)) == "wrong coordinate"


def test_proof__padding_in_a_chunk_or_a_node__convicts(proofs):
    played = Round.random(FORMATS["mean"])  # 150 values are 10 chunks, of 16 leaves
    padded = np.append(played.claimed_model, np.zeros(10, np.int32))
    padded[155] = 1
    tree = build_tree(padded, 16, VectorKind.MODEL)
    in_chunk = Tree(TreeShape(150, 16, VectorKind.MODEL), tree.levels)
    assert convicts_padding(proofs, played, CommittedVector(ArraySource(padded), in_chunk), padded, 9)
    wider = build_tree(np.append(padded * 0, np.ones(16, np.int32)), 16, VectorKind.MODEL)
    in_node = Tree(in_chunk.shape, wider.levels)
    for chunk, seen in ((8, True), (0, False)):
        assert (
            convicts_padding(proofs, played, CommittedVector(ArraySource(padded * 0), in_node), padded, chunk) == seen
        )


def convicts_padding(proofs, played: Round, claimed: CommittedVector, padded, chunk: int) -> bool:
    wire = padded if claimed.source.read(155, 156)[0] else padded * 0
    packed = wire[16 * chunk : 16 * chunk + 16].astype(">i4").tobytes()
    packed += b"".join(digest for digest, _ in claimed.tree.path(chunk))
    evidence = replace(played.evidence, claimed_model=KnownOpening(chunk, packed))
    posted = _Posted(played, claimed.root)
    try:
        return judge(proofs, posted, padding_proof(evidence, Target.MODEL, 0, chunk)) == "wrong padding"
    except CallReverted:
        return False


class _Posted:
    """A round whose posted model has a root that no clean vector has."""

    def __init__(self, played: Round, root: bytes) -> None:
        self._played, self._root = played, root

    def __getattr__(self, name):
        return getattr(self._played, name)

    def root(self, values, kind):
        return self._root if values is self._played.claimed_model else self._played.root(values, kind)


@pytest.mark.parametrize(("name", "what"), CASES)
def test_proof__malformed__refused(proofs, name, what):
    """The aggregate is wrong, and still nothing but a sound proof shows it."""
    played = lying(name, what, 20)
    fault = find_fault(played.form, played.before, played.sources, played.claimed)
    proof = aggregate_proof(played.evidence, fault)
    assert judge(proofs, played, proof)
    for problem, bad in malformed(played, proof, fault).items():
        assert refused(proofs, played, bad), problem


def malformed(played: Round, proof: bytes, fault) -> dict[str, bytes]:
    rng = np.random.default_rng(len(proof))
    evidence, found = played.evidence, {}

    def again(**changes) -> bytes:
        return aggregate_proof(replace(evidence, **changes), fault)

    for place in rng.choice(np.arange(1, len(proof)), 24, replace=False).tolist():
        if 9 <= place < 13 and fault.kind is FaultKind.COORDINATE:
            continue  # the positions: of no meaning for the mean, and any of equal values for the others
        found[f"a bit of byte {place}"] = proof[:place] + bytes([proof[place] ^ 4]) + proof[place + 1 :]
    found["no bytes"], found["another kind"] = b"", b"\x03" + proof[1:]
    found["one byte less"], found["one byte more"] = proof[:-1], proof + b"\0"
    found["a coordinate past the end"] = proof[:1] + (150).to_bytes(8, "big") + proof[9:]
    found["another coordinate of the chunk"] = aggregate_proof(evidence, replace(fault, coordinate=21))
    found["another chunk"] = aggregate_proof(evidence, replace(fault, coordinate=40, chunk_index=2))
    found["the chunk of another index"] = proof[:1] + (40).to_bytes(8, "big") + proof[9:]
    found["the claimed model for the previous one"] = again(model=evidence.claimed_model)
    swapped, twice, fewer = list(evidence.updates), list(evidence.updates), evidence.updates[:-1]
    swapped[0], swapped[1], twice[1] = swapped[1], swapped[0], twice[0]
    weight = [(evidence.updates[0][0], 7), *evidence.updates[1:]]
    longer = [*evidence.updates, evidence.updates[0]]
    if fault.kind is FaultKind.GROUP_COORDINATE or not played.group_roots:
        first = fault.group * played.form.group_size
        if len(evidence.updates) - first > 1:
            swapped, twice = list(evidence.updates), list(evidence.updates)
            swapped[first], swapped[first + 1] = swapped[first + 1], swapped[first]
            twice[first + 1] = twice[first]
            found["updates in another order"] = again(updates=swapped)
            found["an update twice"] = again(updates=twice)
        if fault.group == 0:
            found["another weight"] = again(updates=weight)
        if not played.group_roots:
            found["an update left out"] = again(updates=fewer)
            found["an update added"] = again(updates=longer)
    chunk, path = evidence.model.opening(1)[:64], evidence.model.opening(1)[64:]
    if fault.kind is FaultKind.COORDINATE:
        paths = {
            "a truncated path": chunk + path[:-32],
            "an extended path": chunk + path + bytes(32),
            "a swapped chunk": evidence.model.opening(2)[:64] + path,
            "a leaf of another place": evidence.model.opening(2),
            "a node as a leaf": evidence.model.tree.node(1, 1)[0] + evidence.model.tree.node(1, 0)[0] + path[32:],
        }
        for problem, packed in paths.items():
            found[problem] = again(model=KnownOpening(1, packed))
    if played.group_roots:
        found["group roots in another order"] = again(group_roots=evidence.group_roots[::-1])
        found["group sums in another order"] = again(claimed_groups=evidence.claimed_groups[::-1])
    else:
        found["a form of openings that is none"] = proof.replace(
            evidence.updates[0][0].opening(1), b"\x02" + evidence.updates[0][0].opening(1)[1:]
        )
    return {problem: bad for problem, bad in found.items() if bad != proof}
