"""What dishonest work earns: pay by the contracts' own arithmetic, for the votes that the validators' rule gives.

Each scenario is a federated task in small: workers with optima of their own pull a model toward them, validators
score every update, and the pay of all rounds adds up. An attack must earn less than honest work in the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.layout import Layout
from chainfl.tasks.payouts import WorkerRecord, settle_round, slash_amount
from chainfl.tasks.rules import MAX_PROOF_BYTES
from chainfl.tasks.spec import DEFAULT_ECONOMICS, TOKEN
from chainfl.tasks.state import Outcome
from chainfl.training.datasets import Dataset
from chainfl.training.settings import LocalTraining
from chainfl.training.trainer import Evaluation, TrainingResult
from chainfl.types import Address, Wei
from chainfl.validation.scoring import RevealedUpdate, RoundRules, score_round

P = 64
ROUNDS = 6
HONEST = 9
BUDGET = Wei(1_000 * TOKEN)
STAKE = DEFAULT_ECONOMICS.worker_stake
ROOT_DATA = Dataset("root", np.zeros((4, 2), np.float32), np.zeros(4, np.int64), 2)
RULES = RoundRules(20, 14, ServerStep(1, 1), LocalTraining(steps=5, batch_size=4, learning_rate=0.1))
SEEDS = range(40)

GAS_PRICE_WEI = 10**9
TOKEN_PRICE_WEI = 10**16
"""A token at 0.01 of the native currency, gas at 1 gwei: ten times what a rollup usually asks."""
GAS_OF_LARGEST_PROOF = 21_000 + 10 * 4 * (MAX_PROOF_BYTES + 512)
"""EIP-7623's floor of a transaction with as large a proof as a task may need, no byte of it zero."""


class Landscape:
    """A trainer on a quadratic loss whose coordinates learn at different speeds, as those of a network do."""

    layout = Layout.of({"w": np.zeros(P, np.float32)})

    def __init__(self, rng: np.random.Generator, workers: int) -> None:
        shared = rng.standard_normal(P) * 0.5
        self.optima = shared + rng.standard_normal((workers, P)) * 0.5
        self.optimum = self.optima.mean(0)
        curvature = np.exp(rng.standard_normal(P))
        self.curvature = curvature / curvature.max()
        self.reach = 0.7 * self.curvature

    def local_update(self, worker: int, model: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What honest training on the worker's own data gives."""
        return quantized(self.reach * (self.optima[worker] - model) + rng.standard_normal(P) * 0.015)

    def train(self, global_vector, dataset, training, **settings) -> TrainingResult:
        delta = (self.reach * (self.optimum - global_vector)).astype(np.float32)
        return TrainingResult(delta, len(dataset), 1.0, 0.5)

    def evaluate(self, vector, dataset) -> Evaluation:
        return Evaluation(0.5, float((self.curvature * (vector - self.optimum) ** 2).sum()))


@dataclass(frozen=True)
class Earned:
    """Wei over all rounds but the first. attacker: of all its accounts. honest: of each other worker on average."""

    attacker: int
    honest: int


Attack = Callable[[Sequence[np.ndarray], np.ndarray], list[np.ndarray]]
"""From the honest updates (the attacker's own last) and the last global step to what the attacker's accounts submit."""


def honest(updates, last_step):
    return [updates[-1]]


def copy(updates, last_step):
    return [updates[0]]


def replay(updates, last_step):
    return [quantized(last_step)]


def zeros(updates, last_step):
    return [np.zeros(P, np.int16)]


def five_accounts(updates, last_step):
    return [updates[-1]] * 5


def quantized(step: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(step * 2**14), -32767, 32767).astype(np.int16)


def play(attack: Attack, seed: int, stakes: Sequence[int] = (STAKE,)) -> Earned:
    """A whole task. stakes: of the attacker's accounts."""
    rng = np.random.default_rng(seed)
    landscape = Landscape(rng, HONEST + 1)
    model, before = np.zeros(P), np.zeros(P)
    earned = np.zeros(HONEST + len(stakes), object)
    for number in range(1, ROUNDS + 1):
        updates = [landscape.local_update(worker, model, rng) for worker in range(HONEST + 1)]
        if number > 1:
            submitted = updates[:-1] + attack(updates, model - before)
            earned += pay(landscape, model, before, submitted, [STAKE] * HONEST + list(stakes))
        model, before = model + np.mean(updates, 0) / 2**14, model
    return Earned(sum(earned[HONEST:]), sum(earned[:HONEST]) // HONEST)


def pay(
    landscape: Landscape, model: np.ndarray, before: np.ndarray, updates: Sequence[np.ndarray], stakes: Sequence[int]
) -> list[int]:
    """What one final round pays each account, in wei."""
    current, previous = (np.rint(vector * 2**20).astype(np.int32) for vector in (model, before))
    revealed = [RevealedUpdate(int((update.astype(np.int64) ** 2).sum()), update) for update in updates]
    votes = score_round(landscape, ROOT_DATA, current, revealed, RULES, seed=1, previous_model=previous)
    accounts = [Address(f"0x{index:040x}") for index in range(len(updates))]
    paid = final_pay(
        [
            WorkerRecord(account, Wei(stake), True, vote.weight, vote.score)
            for account, stake, vote in zip(accounts, stakes, votes, strict=True)
        ]
    )
    return [paid.get(account, 0) for account in accounts]


def final_pay(workers: Sequence[WorkerRecord]) -> dict[Address, Wei]:
    """What a final round pays workers alone."""
    settled = settle_round(
        Outcome.FINAL,
        budget=BUDGET,
        carry=Wei(0),
        economics=DEFAULT_ECONOMICS,
        workers=workers,
        validators=[],
        poster=Address("0xaggregator"),
        is_last=False,
    )
    return settled.paid


def average(attack: Attack, stakes: Sequence[int] = (STAKE,)) -> Earned:
    """Over all seeds."""
    played = [play(attack, seed, stakes) for seed in SEEDS]
    return Earned(sum(p.attacker for p in played) // len(played), sum(p.honest for p in played) // len(played))


@pytest.mark.parametrize("attack", [copy, replay, zeros])
def test_economics__attack_in_place_of_training__earns_less_than_the_same_worker_honestly(attack: Attack):
    assert average(attack).attacker < 0.9 * average(honest).attacker


def test_economics__zeros__earn_nothing_at_all():
    assert [play(zeros, seed).attacker for seed in SEEDS] == [0] * len(SEEDS)


@pytest.mark.parametrize("attack", [copy, replay])
def test_economics__attack_in_place_of_training__earns_less_than_those_beside_it_who_train(attack: Attack):
    earned = average(attack)
    assert earned.attacker < earned.honest


def test_economics__splitting_oneself_in_five__earns_less_a_token_of_stake_than_honest_work():
    split = average(five_accounts, [STAKE] * 5)
    assert split.attacker // 5 < 0.6 * split.honest
    assert split.attacker // 5 < 0.6 * average(honest).attacker


def test_economics__one_stake_and_one_score_split_in_five__earn_no_wei_more():
    others = [WorkerRecord(Address(f"0x{index:040x}"), STAKE, True, 10_000, 1_001) for index in range(HONEST)]
    whole = WorkerRecord(Address("0xa"), Wei(5 * STAKE), True, 10_000, 999)
    parts = [WorkerRecord(Address(f"0xa{index}"), STAKE, True, 10_000, 999 // 5) for index in range(5)]
    paid_whole, paid_parts = final_pay([*others, whole]), final_pay([*others, *parts])
    assert sum(paid_parts[part.account] for part in parts) <= paid_whole[whole.account]


# --- what a watcher is paid ----------------------------------------------------------------------


def reward(taken: int) -> int:
    """The half of a slash that whoever proved it gets."""
    return taken // 2


PROVABLE = {
    "wrong aggregate": DEFAULT_ECONOMICS.aggregator_bond,
    "out of range or wrong sum": slash_amount(STAKE, DEFAULT_ECONOMICS.range_slash_bps, STAKE),
    "withheld update": slash_amount(STAKE, DEFAULT_ECONOMICS.withheld_slash_bps, STAKE),
    "vouched, not held": slash_amount(
        DEFAULT_ECONOMICS.validator_stake, DEFAULT_ECONOMICS.vouch_slash_bps, DEFAULT_ECONOMICS.validator_stake
    ),
}


@pytest.mark.parametrize("attack", PROVABLE)
def test_economics__largest_proof_of_all__still_pays_its_watcher(attack: str):
    cost_wei = GAS_OF_LARGEST_PROOF * GAS_PRICE_WEI
    assert reward(PROVABLE[attack]) * TOKEN_PRICE_WEI // TOKEN > 10 * cost_wei
