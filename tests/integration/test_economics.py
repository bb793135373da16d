"""What each provable attack costs its author and brings its watcher, at the default stakes, on a real chain.

A round of synthetic vectors is played up to the attack; the watcher then proves it, or waits until silence does. All
amounts count everything that an account has: in the vault, locked, credited and outside of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from anvil import DEFAULT_ECONOMICS, RAW, LocalChain, expect_sent, task_params
from dispute_rounds import FORMAT, Round

from chainfl.chain.deployment import TOKEN
from chainfl.chain.operator import Operator
from chainfl.disputes.faults import find_fault, sum_lie, update_fault
from chainfl.disputes.openings import CommittedVector
from chainfl.disputes.proofs import aggregate_proof, update_proof
from chainfl.encoding.chunk_tree import VectorKind
from chainfl.tasks.commitments import (
    challenge_commitment,
    proof_commitment,
    proof_hash_of,
    scores_commitment,
    update_commitment,
)
from chainfl.tasks.spec import PUBLIC_WINDOWS
from chainfl.tasks.state import ZERO_ROOT, Bounds, CidOnChain, Claim, Phase, Role, Target
from chainfl.tasks.votes import Vote, pack_votes
from chainfl.types import Root, Wei

pytestmark = pytest.mark.integration

GAS_PRICE_WEI = 10**9
TOKEN_PRICE_WEI = 10**16
"""A token at 0.01 of the native currency, gas at 1 gwei: ten times what a rollup usually asks."""
LEAST_BREAK_EVEN_GAS_PRICE_WEI = 100 * 10**9
"""At this price of gas or more, proving must still pay for itself; see `Spoils.break_even_wei`."""

CID = CidOnChain(bytes([9]) * 32, RAW)
SALT = bytes([3]) * 32


@dataclass
class Spoils:
    """What a dispute changed, in token wei, and the gas that the watcher spent on it."""

    attacker: int
    watcher: int
    gas: int

    @property
    def cost(self) -> int:
        """The watcher's gas, in token wei at the stated prices."""
        return self.gas * GAS_PRICE_WEI * TOKEN // TOKEN_PRICE_WEI

    @property
    def break_even_wei(self) -> int:
        """The gas price at which the watcher would gain nothing."""
        return self.watcher * TOKEN_PRICE_WEI // TOKEN // self.gas


class Theatre:
    """One task in its first round: a worker for each update, a validator, an aggregator, a watcher.

    sums: what each worker reveals as its sum of squares, and its root to go with it. The first worker is the cheat,
    where a worker is.
    """

    def __init__(self, chain: LocalChain, played: Round) -> None:
        self.chain, self.round = chain, played
        self.vectors = [CommittedVector.of(update, played.form, VectorKind.UPDATE) for update in played.updates]
        self.revealed = [
            (Root(vector.root), int((update.astype(np.int64) ** 2).sum()))
            for vector, update in zip(self.vectors, played.updates, strict=True)
        ]
        self.requester = chain.operator(stake=1_000)
        self.validator, self.aggregator, self.watcher = (chain.operator(stake=500) for _ in range(3))
        self.workers = [chain.operator(stake=200) for _ in self.vectors]
        self.gas = 0

    @property
    def scope(self) -> dict[str, object]:
        port = self.watcher
        return {"chain_id": port.chain_id, "coordinator": port.coordinator, "task_id": self.task, "round_number": 1}

    def watch(self, result: object) -> None:
        """Books the gas of what the watcher sent."""
        self.gas += expect_sent(result).gas_used

    def open(self) -> None:
        """Creates the task and enrols everybody."""
        params = task_params(
            self.chain,
            genesis_root=Root(self.round.root(self.round.model, VectorKind.MODEL)),
            format=self.round.form,
            workers=Bounds(len(self.workers), len(self.workers)),
            windows=PUBLIC_WINDOWS,
        )
        self.task = self.requester.created_task(expect_sent(self.requester.create_task(params)))
        for worker in self.workers:
            expect_sent(worker.enrol(self.task, Role.WORKER, DEFAULT_ECONOMICS.worker_stake))
        expect_sent(self.validator.enrol(self.task, Role.VALIDATOR, DEFAULT_ECONOMICS.validator_stake))
        expect_sent(self.aggregator.enrol(self.task, Role.AGGREGATOR, Wei(0)))

    def reveal(self) -> None:
        """All updates, committed and revealed."""
        self.open()
        for worker, (root, total) in zip(self.workers, self.revealed, strict=True):
            commitment = update_commitment(
                **self.scope,
                worker=worker.account,
                root=root,
                cid=CID,
                squared_norm=total,
                num_examples=1,
                salt=SALT,
            )
            expect_sent(worker.commit_update(self.task, 1, commitment))
        for worker, (root, total) in zip(self.workers, self.revealed, strict=True):
            expect_sent(worker.reveal_update(self.task, 1, root, CID, total, 1, SALT))

    def score(self) -> None:
        """The validator vouches for all of them, with the round's weights."""
        self.reveal()
        votes = pack_votes([Vote(weight, 1) for weight in self.round.weights])
        commitment = scores_commitment(**self.scope, validator=self.validator.account, votes=votes, salt=SALT)
        expect_sent(self.validator.commit_scores(self.task, 1, commitment))
        expect_sent(self.validator.reveal_scores(self.task, 1, votes, SALT))
        expect_sent(self.requester.tally(self.task, 8))
        assert self.watcher.round(self.task).phase is Phase.AGGREGATE

    def post(self, model_root: bytes) -> None:
        """The aggregator's claim."""
        self.score()
        self.chain.advance(1)
        claim = Claim(Root(model_root), ZERO_ROOT, ())
        expect_sent(self.aggregator.post_aggregate(self.task, 1, claim, CID, CID, SALT))

    def prove_update(self, opening: bytes, chunk_index: int) -> None:
        """The watcher's proof against the first worker."""
        proof = update_proof(0, chunk_index, opening)
        commitment = proof_commitment(
            **self.scope, challenger=self.watcher.account, proof_hash=proof_hash_of(proof), salt=SALT
        )
        self.watch(self.watcher.commit_proof(self.task, commitment))
        self.chain.advance(1)
        self.watch(self.watcher.prove_update(self.task, 1, proof, SALT))

    def wait_for_answer(self) -> None:
        """Nobody answers."""
        self.chain.advance(PUBLIC_WINDOWS.answer)

    def spoils(self, attacker: Operator, before: tuple[int, int]) -> Spoils:
        return Spoils(wealth(attacker) - before[0], wealth(self.watcher) - before[1], self.gas)


def wealth(operator: Operator) -> int:
    """All tokens of an account, wherever they are."""
    status = operator.stake_status()
    return status.token_balance + status.free + status.credit + sum(lock.amount for lock in status.locks)


# --- the attacks ---------------------------------------------------------------------------------


def wrong_aggregate(chain: LocalChain) -> Spoils:
    """One coordinate of the posted model is wrong; its bytes are there."""
    played = Round.random(FORMAT).lying("model", 77)
    theatre = Theatre(chain, played)
    theatre.post(played.root(played.claimed_model, VectorKind.MODEL))
    before = wealth(theatre.aggregator), wealth(theatre.watcher)
    fault = find_fault(played.form, played.before, played.sources, played.claimed)
    assert fault is not None
    proof = aggregate_proof(played.evidence, fault)
    watcher = theatre.watcher
    commitment = challenge_commitment(
        **theatre.scope, attempt=1, challenger=watcher.account, proof_hash=proof_hash_of(proof), salt=SALT
    )
    theatre.watch(watcher.commit_challenge(theatre.task, 1, 1, commitment))
    chain.advance(1)
    theatre.watch(watcher.prove_aggregate(theatre.task, 1, 1, proof, SALT))
    return theatre.spoils(theatre.aggregator, before)


def withheld_aggregate(chain: LocalChain) -> Spoils:
    """The posted root is of bytes that nobody has."""
    played = Round.random(FORMAT)
    theatre = Theatre(chain, played)
    theatre.post(secrets.token_bytes(32))
    before = wealth(theatre.aggregator), wealth(theatre.watcher)
    own = Root(played.root(played.replayed.model, VectorKind.MODEL))
    theatre.watch(theatre.watcher.open_game(theatre.task, 1, 1, Target.MODEL, 0, (), own))
    theatre.wait_for_answer()
    theatre.watch(theatre.watcher.close_game(theatre.task, 0))
    return theatre.spoils(theatre.aggregator, before)


def out_of_range(chain: LocalChain) -> Spoils:
    """One value of an update is the one that no honest encoder gives."""
    updates = Round.random(FORMAT).updates.copy()
    updates[0, 50] = -32_768
    theatre = Theatre(chain, replace(Round.random(FORMAT), updates=updates))
    theatre.reveal()
    before = wealth(theatre.workers[0]), wealth(theatre.watcher)
    fault = update_fault(updates[0], FORMAT, theatre.revealed[0][1])
    assert fault is not None
    theatre.prove_update(theatre.vectors[0].opening(fault.chunk_index), fault.chunk_index)
    return theatre.spoils(theatre.workers[0], before)


def norm_lie(chain: LocalChain) -> Spoils:
    """An update over the norm bound says that it is at the bound."""
    honest = Round.random(FORMAT)
    true_sum = int((honest.updates[0].astype(np.int64) ** 2).sum())
    # The others are as long: the bound is there for this one, so they shrink.
    updates = honest.updates.copy()
    updates[1:] //= 2
    form = replace(FORMAT, max_squared_norm=true_sum - 1)
    theatre = Theatre(chain, replace(honest, form=form, updates=updates))
    tree = theatre.vectors[0].tree
    top, _ = tree.node(tree.shape.depth, 0)
    lie = tree.shape.seal(top, form.max_squared_norm)
    theatre.revealed[0] = (lie, form.max_squared_norm)
    theatre.reveal()
    before = wealth(theatre.workers[0]), wealth(theatre.watcher)
    found = sum_lie(theatre.vectors[0], lie, form.max_squared_norm)
    assert found is not None
    chunk_index, opening = found
    theatre.prove_update(opening, chunk_index)
    return theatre.spoils(theatre.workers[0], before)


def withheld_update(chain: LocalChain) -> Spoils:
    """A worker reveals a root and serves no bytes; the watcher asks before the weights are fixed."""
    theatre = Theatre(chain, Round.random(FORMAT))
    theatre.reveal()
    before = wealth(theatre.workers[0]), wealth(theatre.watcher)
    theatre.watch(theatre.watcher.demand_chunk(theatre.task, 1, 0, 0))
    theatre.wait_for_answer()
    theatre.watch(theatre.watcher.close_demand(theatre.task, 1, 0, 0))
    return theatre.spoils(theatre.workers[0], before)


def vouched_not_held(chain: LocalChain) -> Spoils:
    """A validator gives weight to an update whose bytes nobody serves; the watcher asks afterwards."""
    played = Round.random(FORMAT)
    theatre = Theatre(chain, played)
    theatre.post(played.root(played.claimed_model, VectorKind.MODEL))
    before = wealth(theatre.validator), wealth(theatre.watcher)
    theatre.watch(theatre.watcher.demand_chunk(theatre.task, 1, 0, 0))
    theatre.wait_for_answer()
    theatre.watch(theatre.watcher.close_demand(theatre.task, 1, 0, 0))
    return theatre.spoils(theatre.validator, before)


LOSSES = {
    wrong_aggregate: DEFAULT_ECONOMICS.aggregator_bond,
    withheld_aggregate: DEFAULT_ECONOMICS.aggregator_bond,
    out_of_range: DEFAULT_ECONOMICS.worker_stake,
    norm_lie: DEFAULT_ECONOMICS.worker_stake,
    withheld_update: DEFAULT_ECONOMICS.worker_stake // 2,
    vouched_not_held: DEFAULT_ECONOMICS.validator_stake // 2,
}


@pytest.mark.parametrize("attack", LOSSES, ids=lambda attack: attack.__name__)
def test_economics__provable_attack__costs_its_author_and_pays_its_watcher(
    chain: LocalChain, attack: Callable[[LocalChain], Spoils]
):
    spoils = attack(chain)
    assert spoils.attacker == -LOSSES[attack]
    assert spoils.watcher == LOSSES[attack] // 2 > spoils.cost
    assert spoils.break_even_wei >= LEAST_BREAK_EVEN_GAS_PRICE_WEI
