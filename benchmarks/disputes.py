"""What a dispute costs: the gas and the bytes of its proofs, and the time to find the faulty coordinate.

    python benchmarks/disputes.py [--json PATH] [--whole yes] [--updates 8,...] [--params 10000,...] [--chunks 128,...]

Gas: real proofs against a real Anvil, each in a task of its size that is played up to Challenge with a wrong model (or
a wrong group sum) posted. What matters of a vector is the depth of its tree, so paths of random siblings are built, and
no models: the contract sees no difference. A row's figure is execution, slashing and the next attempt included: the
receipt's gas without the base fee and without calldata. The chain runs Cancun's rules, since later receipts show the
floor where that is higher. Beside it stand EIP-7623's floor for the calldata, the total that the sender pays since
then (the larger of the floor, and execution with base fee and calldata), and the bytes of calldata. Where a task's
largest proof would exceed 100,000 bytes, its creation is refused, which is asked of the chain each time.

By default, with every rule, plain and with momentum, and for the mean also with Nesterov's step and FedAdam's: every
model size at 32 updates and 128 values a chunk; every number of updates and every chunk size at 10^8 parameters (depth
20 at 128). `--whole yes` measures every combination, in seven minutes.

Time: a 10M-parameter model with 32 updates in files that are verified already, one wrong coordinate at the end of it;
see _fault_finding.py.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from _fault_finding import timings
from _report import Row, arguments, report
from _stage import (
    BOND,
    CHALLENGER_BOND,
    VALIDATOR_STAKE,
    WORKER_STAKE,
    RevealedAs,
    Spent,
    Stage,
    numbers,
    open_stage,
)

from chainfl.aggregation.rules import WeightedSource, apply_rule, group_sums
from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.deployment import TOKEN, Deployment
from chainfl.disputes.faults import Fault, FaultKind
from chainfl.disputes.openings import KnownOpening, read_plain, read_update_opening
from chainfl.disputes.proofs import Evidence, aggregate_proof
from chainfl.encoding.arrays import AnyArray, Int16Array
from chainfl.encoding.chunk_tree import TreeShape, VectorKind
from chainfl.encoding.sources import as_source
from chainfl.tasks.commitments import challenge_commitment, proof_hash_of
from chainfl.tasks.rules import MAX_PROOF_BYTES, depth_of, largest_proof
from chainfl.tasks.server_settings import ServerSettings
from chainfl.tasks.state import ZERO_ROOT, Claim, Format, Phase, Role, Rule, ServerKind, Target
from chainfl.tasks.votes import Vote, pack_votes
from chainfl.types import Address, Root, TaskId, Wei

TARGETS = {Rule.MEAN: 600_000, Rule.TRIMMED_MEAN: 700_000, Rule.MEDIAN: 700_000}
"""Gas of execution at the usual case, whatever the server's step."""
_OTHER_STEPS = [(Rule.MEAN, ServerKind.NESTEROV), (Rule.MEAN, ServerKind.ADAM)]
USUAL_UPDATES, USUAL_PARAMS, USUAL_CHUNK = 32, 10**8, 128
GROUP_SIZE = 64
WEIGHT = 10_000
AGGREGATORS = 3
SALT = bytes([3]) * 32
TYPICAL_VALUE = 300
"""The standard deviation of an update's integers: it decides how many bytes of the sums on a path are zero."""
WORKERS_A_TALLY = 32


@dataclass(frozen=True, slots=True)
class Case:
    """One task's shape. The order rules need all updates in one group."""

    rule: Rule
    server: ServerKind
    updates: int
    num_params: int
    chunk_params: int

    @property
    def form(self) -> Format:
        """The task's format. Trims a tenth at each end; what a server has is the usual."""
        server = ServerSettings(self.server.name.lower(), rate=Fraction(1)).to_fields(20)
        return Format(
            num_params=self.num_params,
            chunk_params=self.chunk_params,
            model_scale_bits=20,
            update_scale_bits=14,
            max_squared_norm=1 << 63,
            group_size=GROUP_SIZE if self.rule is Rule.MEAN else max(GROUP_SIZE, self.updates),
            rule=self.rule,
            trim_num=1 if self.rule is Rule.TRIMMED_MEAN else 0,
            trim_den=10 if self.rule is Rule.TRIMMED_MEAN else 0,
            **server,
        )

    @property
    def target(self) -> int | None:
        """What its execution should stay within; None but in the usual case."""
        is_usual = (self.updates, self.num_params, self.chunk_params) == (USUAL_UPDATES, USUAL_PARAMS, USUAL_CHUNK)
        return TARGETS[self.rule] if is_usual else None

    def __str__(self) -> str:
        rule = self.rule.name.lower().replace("_", " ")
        rule += f", {self.server.name.lower()}" if self.form.has_state else ""
        size = f"{self.num_params:.0e}".replace("e+0", "e").replace("1e", "10^")
        return f"{rule}: {self.updates} updates, {size} parameters, {self.chunk_params} a chunk"


# --- a round made of paths -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lie:
    """One wrong claim, and the fault that proves it so."""

    what: str
    claim: Claim
    evidence: Evidence
    fault: Fault


class PathRound:
    """A round of which one chunk is known, with random siblings up to the roots. The claims in `lies` are wrong.

    rng: draws values and siblings, the same for the same seed.
    """

    def __init__(self, case: Case) -> None:
        self.form = case.form
        self._rng = np.random.default_rng(1)
        num_chunks = -(-case.num_params // case.chunk_params)
        self.index = num_chunks * 2 // 3
        chunk = case.chunk_params
        rows = [(self._rng.standard_normal(chunk) * TYPICAL_VALUE).astype(np.int16) for _ in range(case.updates)]
        self.updates = [self._open_update(row) for row in rows]
        model = self._rng.integers(-(1 << 20), 1 << 20, chunk).astype(np.int32)
        moments = chunk * self.form.num_moments
        state = self._rng.integers(-(1 << 20), 1 << 20, moments).astype(np.int32) if moments else None
        self.model_root, self._model = self._open(model, VectorKind.MODEL)
        self.state_root, self._state = self._open_state(state)
        weights = [WEIGHT] * case.updates
        small = replace(self.form, num_params=chunk)
        sources = [WeightedSource(as_source(row), weight) for row, weight in zip(rows, weights, strict=True)]
        moved = apply_rule(small, model, state, sources)
        sums = group_sums(small, rows, weights)
        self._next_model, self._next_state = moved.model, self._open_state(moved.state)
        self._groups = [self._open(values, VectorKind.GROUP_SUM) for values in sums]
        self._sums = sums

    @property
    def revealed(self) -> list[tuple[Root, int]]:
        """Root and sum of squares of every update."""
        seen = [read_update_opening(opening.packed, self.form, self.index) for opening in self.updates]
        return [(one.root, one.sum_of_squares) for one in seen]

    def lies(self) -> Iterator[Lie]:
        """A wrong model coordinate; with groups also a wrong sum of the first group."""
        wrong_model = self._lie(self._next_model, VectorKind.MODEL)
        what = f" from {len(self._groups)} group sums" if self._groups else ""
        yield self._claimed(f"{what}", FaultKind.COORDINATE, Target.MODEL, wrong_model, self._groups)
        if self._groups:
            groups = [self._lie(self._sums[0], VectorKind.GROUP_SUM), *self._groups[1:]]
            model = self._open(self._next_model, VectorKind.MODEL)
            what = f" a group sum of {GROUP_SIZE} updates"
            yield self._claimed(what, FaultKind.GROUP_COORDINATE, Target.GROUP, model, groups)

    def _claimed(
        self,
        what: str,
        kind: FaultKind,
        target: Target,
        model: tuple[Root, KnownOpening],
        groups: Sequence[tuple[Root, KnownOpening]],
    ) -> Lie:
        state_root, state = self._next_state
        roots = tuple(root for root, _ in groups)
        evidence = Evidence(
            form=self.form,
            model=self._model,
            claimed_model=model[1],
            updates=[(opening, WEIGHT) for opening in self.updates],
            state=self._state,
            claimed_state=state,
            group_roots=roots,
            claimed_groups=tuple(opening for _, opening in groups),
        )
        coordinate = self.index * self.form.chunk_params
        fault = Fault(kind, target, 0, coordinate, self.index, claimed=1, expected=0)
        return Lie(what, Claim(model[0], state_root, roots), evidence, fault)

    def _lie(self, values: AnyArray, kind: VectorKind) -> tuple[Root, KnownOpening]:
        wrong = values.copy()
        wrong[0] ^= 1
        return self._open(wrong, kind)

    def _open_state(self, values: AnyArray | None) -> tuple[Root, KnownOpening | None]:
        if values is None:
            return ZERO_ROOT, None
        return self._open(values[: self.form.chunk_params], VectorKind.STATE, self.form.num_moments * self.index)

    def _open(self, values: AnyArray, kind: VectorKind, index: int | None = None) -> tuple[Root, KnownOpening]:
        shape, index = TreeShape.of(self.form, kind), self.index if index is None else index
        wire = values.astype(np.dtype(shape.dtype).newbyteorder(">")).tobytes()
        packed = wire + self._rng.bytes(32 * shape.depth)
        return read_plain(packed, shape, index)[0], KnownOpening(index, packed)

    def _open_update(self, values: Int16Array) -> KnownOpening:
        """In form 0, with sums beside the path as large as such values give."""
        chunk_sum = int((values.astype(np.int64) ** 2).sum())
        parts = [b"\0", values.astype(">i2").tobytes(), chunk_sum.to_bytes(8, "big")]
        for height in range(depth_of(self.form)):
            parts += [self._rng.bytes(32), (chunk_sum << height).to_bytes(8, "big")]
        return KnownOpening(self.index, b"".join(parts))


# --- on chain ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """A proof's price. spent: its receipt under rules without EIP-7623, so without the floor."""

    case: Case
    what: str
    spent: Spent

    @property
    def total(self) -> int:
        """What its sender pays where there is a floor."""
        return max(self.spent.gas, self.spent.floor)


class DisputeStage(Stage):
    """Plays a task to Challenge and proves what was posted wrong."""

    def __init__(self, anvil: AnvilProcess, client: ChainClient, deployment: Deployment) -> None:
        super().__init__(anvil, client, deployment)
        self.validator, self.challenger, *rest = self.accounts[1:]
        self.aggregators, self.workers = rest[:AGGREGATORS], rest[AGGREGATORS:]
        self.round = 1
        for account, amount in self._needs():
            for sender, transaction in self.deposits(account, amount):
                self.send(sender, transaction)

    def _needs(self) -> list[tuple[Address, int]]:
        named = [(self.requester, 1000 * TOKEN), (self.validator, VALIDATOR_STAKE), (self.challenger, CHALLENGER_BOND)]
        # A second attempt costs twice the bond; who has it is asked when the order is drawn.
        named += [(aggregator, 2 * BOND) for aggregator in self.aggregators]
        return named + [(worker, WORKER_STAKE) for worker in self.workers]

    def is_refused(self, case: Case) -> bool:
        """Whether the chain refuses to create the task."""
        return self.refuses(self.requester, self._creation(case, Root(SALT), Root(SALT)))

    def measure(self, case: Case) -> list[Measured]:
        """Each proof of the case. The chain is afterwards as it was before."""
        played = PathRound(case)
        with self.undone():
            self._play(case, played)
            return [self._dispute(case, lie) for lie in played.lies()]

    def _creation(self, case: Case, genesis: Root, state: Root) -> Transaction:
        params = self.params(case.form, rounds=1, workers=case.updates, validators=1, aggregators=AGGREGATORS)
        state = state if case.form.has_state else ZERO_ROOT
        return self.coordinator.create_task(replace(params, genesis_root=genesis, genesis_state_root=state))

    def _play(self, case: Case, played: PathRound) -> None:
        """From the task's creation until its aggregate is awaited."""
        self.send(self.requester, self._creation(case, played.model_root, played.state_root))
        self.task = TaskId(self.client.read(self.coordinator.num_tasks()))
        workers = self.workers[: case.updates]
        roles = [(self.validator, Role.VALIDATOR, VALIDATOR_STAKE)]
        roles += [(worker, Role.WORKER, WORKER_STAKE) for worker in workers]
        roles += [(aggregator, Role.AGGREGATOR, Wei(0)) for aggregator in self.aggregators]
        self.send_all([(who, self.coordinator.enrol(self.task, role, stake)) for who, role, stake in roles])
        # A node takes a batch in any order, and updates count in the order of enrolment.
        workers = self.client.read(self.coordinator.members(self.task, Role.WORKER))
        updates = [RevealedAs(who, root, total) for who, (root, total) in zip(workers, played.revealed, strict=True)]
        for phase in (Phase.COMMIT, Phase.REVEAL):
            self.send_all(self.update_calls(phase, updates))
        votes = pack_votes([Vote(WEIGHT, 1)] * case.updates)
        for phase in (Phase.SCORE_COMMIT, Phase.SCORE_REVEAL):
            self.send_all(self.score_calls(phase, [self.validator], votes))
        while self.view().phase is Phase.TALLY:
            self.send(self.requester, self.coordinator.tally(self.task, WORKERS_A_TALLY))
        self.send(self.requester, self.coordinator.draw_order(self.task))

    def _dispute(self, case: Case, lie: Lie) -> Measured:
        """Posts the lie and proves it; both are undone."""
        with self.undone():
            first = self.view().order[0]
            self.send(first, self.post_aggregate(first, lie.claim))
            proof = aggregate_proof(lie.evidence, lie.fault)
            self.send(self.challenger, self._challenge(proof))
            spent = self.send(self.challenger, self.coordinator.prove_aggregate(self.task, self.round, 1, proof, SALT))
            if self.view().attempt != 2:
                raise SystemExit(f"the proof opened no second attempt: {case}")
        return Measured(case, lie.what, spent)

    def _challenge(self, proof: bytes) -> Transaction:
        commitment = challenge_commitment(
            chain_id=self.client.chain_id,
            coordinator=self.deployment.coordinator,
            task_id=self.task,
            round_number=self.round,
            attempt=1,
            challenger=self.challenger,
            proof_hash=proof_hash_of(proof),
            salt=SALT,
        )
        return self.coordinator.commit_challenge(self.task, self.round, 1, commitment)


# --- what is measured ----------------------------------------------------------------------------


def main() -> None:
    options = arguments(
        "Gas and bytes of a dispute's proofs; time to find a fault.",
        updates=("8,16,32,64,128", "numbers of updates"),
        params=("10000,100000,1000000,10000000,100000000,1000000000", "numbers of parameters"),
        chunks=("128,256,512", "values a chunk"),
        whole=("no", "yes: every combination, not only those next to the usual one"),
        search=("yes", "no: gas alone"),
    )
    rows = gas_rows(cases(options))
    if options.search == "yes":
        rows += timings(10_000_000, 32)
    report("Disputes", rows, options.json, packages=("numpy", "web3"))


def cases(options: argparse.Namespace) -> list[Case]:
    """By rule and step, then chunk size, model size and number of updates."""
    sizes = itertools.product(numbers(options.chunks), numbers(options.params), numbers(options.updates))
    wanted = [size for size in sizes if options.whole == "yes" or _is_next_to_usual(*size)]
    steps = [*itertools.product(Rule, (ServerKind.PLAIN, ServerKind.MOMENTUM)), *_OTHER_STEPS]
    return [
        Case(rule, server, updates, num_params, chunk)
        for rule, server in steps
        for chunk, num_params, updates in wanted
    ]


def gas_rows(wanted: Sequence[Case]) -> list[Row]:
    """A row for each proof, and one for each case that is refused."""
    rows: list[Row] = []
    most = max(case.updates for case in wanted)
    with open_stage(3 + AGGREGATORS + most, "--hardfork", "cancun") as made:
        stage = DisputeStage(*made)
        for number, case in enumerate(wanted, 1):
            rows += _rows_of(stage, case)
            print(f"\r{number} of {len(wanted)} cases", end="", flush=True)
    print()
    return rows


def _rows_of(stage: DisputeStage, case: Case) -> list[Row]:
    largest = largest_proof(case.form, case.updates)
    is_refused = stage.is_refused(case)
    if is_refused != (largest > MAX_PROOF_BYTES):
        raise SystemExit(f"the chain and Python disagree on a proof of {largest:,} bytes: {case}")
    if is_refused:
        return [Row(f"{case}: largest proof", largest, "bytes", "refused when the task is created")]
    return [_row(measured) for measured in stage.measure(case)]


def _row(m: Measured) -> Row:
    depth = depth_of(m.case.form)
    reference = f"floor {m.spent.floor:,}; total {m.total:,}; {len(m.spent.data):,} bytes; depth {depth}"
    return Row(f"{m.case}{':' if m.what else ''}{m.what}", m.spent.execution, "gas", reference, m.case.target)


def _is_next_to_usual(chunk: int, num_params: int, updates: int) -> bool:
    is_small = updates == USUAL_UPDATES and chunk == USUAL_CHUNK
    at_depth = num_params == USUAL_PARAMS
    return is_small or at_depth


if __name__ == "__main__":
    main()
