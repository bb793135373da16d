"""Votes: the gate, the clip, leave-one-out scores and near-duplicates, on a model whose losses are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import selection_references as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.layout import Layout
from chainfl.errors import EncodingError
from chainfl.training.datasets import Dataset
from chainfl.training.settings import LocalTraining
from chainfl.training.trainer import Evaluation, TrainingResult
from chainfl.validation.contribution.gtg_shapley import GtgShapley
from chainfl.validation.contribution.leave_one_out import LeaveOneOut
from chainfl.validation.scoring import ABSTAIN, RevealedUpdate, RoundRules, Vote, score_round
from chainfl.validation.selection.bucketing import Bucketing
from chainfl.validation.selection.gate_clip import GateClip
from chainfl.validation.selection.krum import Krum
from chainfl.validation.selection.rules import Selection

P = 8
RULES = RoundRules(20, 14, ServerStep(1, 1), LocalTraining(steps=5, batch_size=4, learning_rate=0.1))
ROOT_DATA = Dataset("root", np.zeros((4, 2), np.float32), np.zeros(4, np.int64), 2)
MODEL = np.zeros(P, np.int32)


class QuadraticTrainer:
    """A trainer whose loss is the squared distance to `optimum`, and whose training goes straight toward it."""

    layout = Layout.of({"w": np.zeros(P, np.float32)})

    def __init__(self, optimum: Sequence[float], *, loss: float | None = None) -> None:
        self.optimum = np.array(optimum, np.float32)
        self.fixed_loss = loss
        self.seeds: list[int] = []

    def train(self, global_vector, dataset, training, *, seed, stop=None) -> TrainingResult:
        self.seeds.append(seed)
        return TrainingResult((self.optimum - global_vector).astype(np.float32), len(dataset), 1.0, 0.5)

    def evaluate(self, vector, dataset) -> Evaluation:
        loss = float(((vector - self.optimum) ** 2).sum()) if self.fixed_loss is None else self.fixed_loss
        return Evaluation(0.5, loss)


def axis(*places: int, length: int = 1000) -> np.ndarray:
    """An update along some coordinates."""
    values = np.zeros(P, np.int16)
    values[list(places)] = length
    return values


def revealed(values: np.ndarray | None, total: int | None = None, *, rejected: bool = False) -> RevealedUpdate:
    if total is None:
        total = int((values.astype(np.int64) ** 2).sum())
    return RevealedUpdate(total, values, rejected)


def votes(*updates: RevealedUpdate, trainer: QuadraticTrainer | None = None, **options: object) -> list[Vote]:
    trainer = trainer or QuadraticTrainer([1.0] * P)
    return score_round(trainer, ROOT_DATA, MODEL, updates, RULES, seed=1, **options)


# --- gate and clip -------------------------------------------------------------------------------


def test_score_round__update_against_root_data__gets_zero_and_the_rest_their_weight():
    assert votes(revealed(axis(0)), revealed(-axis(1)), revealed(axis(2))) == [
        Vote(10_000, 5_000),
        Vote(0, 0),
        Vote(10_000, 5_000),
    ]


@pytest.mark.parametrize(("gate_cosine", "accepted"), [(0.3, True), (0.4, False)])
def test_score_round__gate_of_the_task__is_what_decides(gate_cosine: float, accepted: bool):
    # One of eight equal coordinates: a cosine of 1/sqrt(8) = 0.354 with the root update.
    rules = replace(RULES, selection=Selection(GateClip(gate_cosine)))
    trainer = QuadraticTrainer([1.0] * P)
    [vote] = score_round(trainer, ROOT_DATA, MODEL, [revealed(axis(0))], rules, seed=1)
    assert (vote.weight > 0) is accepted


def test_score_round__update_at_right_angles__is_not_positive():
    trainer = QuadraticTrainer([1.0] * 4 + [0.0] * 4)
    assert votes(revealed(axis(0)), revealed(axis(7)), trainer=trainer)[1] == Vote(0, 0)


def test_score_round__long_update__is_clipped_by_the_median_norm():
    first, second, long = (revealed(axis(i, length=n)) for i, n in ((0, 1000), (1, 1000), (2, 4000)))
    assert [vote.weight for vote in votes(first, second, long)] == [10_000, 10_000, 2_500]


def test_score_round__median__counts_what_the_gate_rejects_and_what_was_not_fetched():
    big, small = revealed(-axis(1, length=3000)), revealed(axis(0, length=1000))
    missing = revealed(None, total=3000**2)
    # The median norm is 3000 only if all three count.
    six = revealed(axis(2, length=6000))
    assert [vote.weight for vote in votes(big, small, missing, six)] == [0, 10_000, ABSTAIN, 5_000]


def test_score_round__zero_update__gets_zero_without_abstaining():
    assert votes(revealed(axis(0)), revealed(np.zeros(P, np.int16))) == [Vote(10_000, 10_000), Vote(0, 0)]


def test_score_round__not_fetched_or_not_an_update__abstains_or_rejects():
    found = votes(revealed(None, total=5), revealed(None, total=5, rejected=True), revealed(axis(0)))
    assert found[:2] == [Vote(ABSTAIN, 0), Vote(0, 0)]
    assert found[2].weight > 0


def test_score_round__root_training_that_moves_nothing__stops_nobody():
    found = votes(revealed(axis(0)), revealed(-axis(1)), trainer=QuadraticTrainer([0.0] * P))
    assert [vote.weight for vote in found] == [10_000, 10_000]


def test_score_round__nothing_usable__is_zeros_and_abstentions():
    assert votes(revealed(-axis(0)), revealed(None, total=1)) == [Vote(0, 0), Vote(ABSTAIN, 0)]
    assert votes() == []


def test_score_round__seed__is_that_of_its_own_training():
    trainer = QuadraticTrainer([1.0] * P)
    votes(revealed(axis(0)), trainer=trainer)
    assert trainer.seeds == [1]


def test_score_round__krum_where_float32_models_are_coarse__chooses_by_the_deltas():
    """Around 30,000 float32 goes in steps of 32 of an update's units, so that what differs by 2 may seem to by 32.

    Four honest updates are close to one another, and the fifth points the other way. As float32 models, as distances
    are popularly taken, the fifth is closest to all.
    """
    honest = np.where(np.arange(P) % 4 == np.arange(4)[:, np.newaxis], 17, 15).astype(np.int16)
    updates = [*honest, np.full(P, -15, np.int16)]
    models = np.float32(30_000) + np.array(updates, np.float32) / np.float32(2**14)
    assert np.argmin(reference.krum_scores(models, 1)) == 4
    rules = replace(RULES, model_scale_bits=16, selection=Selection(Krum(1)))
    model = np.full(P, 30_000 << 16, np.int32)
    found = score_round(QuadraticTrainer([30_001.0] * P), ROOT_DATA, model, list(map(revealed, updates)), rules, seed=1)
    assert [vote.weight for vote in found] == [10_000, 0, 0, 0, 0]


# --- scores --------------------------------------------------------------------------------------


def test_score_round__more_useful_update__earns_more_and_a_useless_one_earns_one():
    useful, less, useless = votes(revealed(axis(0, 1, 2, 3)), revealed(axis(4, 5)), revealed(axis(6, length=400)))
    assert useful.score > less.score > useless.score == 1
    assert useless.weight == 10_000


def test_score_round__no_update_helps__scores_one_each():
    trainer = QuadraticTrainer([1.0] * P, loss=0.7)
    assert [vote.score for vote in votes(revealed(axis(0)), revealed(axis(1)), trainer=trainer)] == [1, 1]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_score_round__loss_that_is_not_finite__still_gives_integers(loss):
    trainer = QuadraticTrainer([1.0] * P, loss=loss)
    assert votes(revealed(axis(0)), trainer=trainer) == [Vote(10_000, 1)]


def test_score_round__copies__share_what_one_of_them_earns():
    found = votes(revealed(axis(0)), revealed(axis(0)), revealed(axis(1)))
    assert [vote.score for vote in found] == [2_500, 2_500, 5_000]


def test_score_round__copies_scaled_or_slightly_changed__are_still_copies():
    scaled, changed = axis(0, 1, length=2000), axis(0, 1)
    changed[0] += 50
    group = votes(revealed(axis(0, 1)), revealed(scaled), revealed(changed), revealed(axis(2)))
    assert len({vote.score for vote in group[:3]}) == 1


def test_score_round__replay_of_the_last_step__scores_the_least():
    last = MODEL - axis(0).astype(np.int32) * 64
    fresh = votes(revealed(axis(0)), revealed(axis(1)))
    replayed = votes(revealed(axis(0)), revealed(axis(1)), previous_model=last)
    assert [vote.score for vote in fresh] == [5_000, 5_000]
    assert [vote.score for vote in replayed] == [1, 10_000]
    scaled = votes(revealed(axis(0, length=2000)), revealed(axis(1)), previous_model=last)
    assert scaled[0].score == 1


def test_score_round__first_step_of_zero__is_nobodys_copy():
    assert votes(revealed(axis(0)), previous_model=MODEL.copy()) == [Vote(10_000, 10_000)]


def test_score_round__update_of_another_length__is_refused():
    with pytest.raises(EncodingError):
        votes(revealed(axis(0)), revealed(np.ones(P + 1, np.int16)))


updates_strategy = st.lists(
    st.one_of(
        st.none(),
        st.lists(st.integers(-32767, 32767), min_size=P, max_size=P).map(lambda v: np.array(v, np.int16)),
    ),
    max_size=6,
)


@given(updates_strategy)
@settings(max_examples=60, deadline=None)
def test_score_round__any_updates__keeps_what_the_contract_enforces(values):
    found = votes(*(revealed(v, None if v is not None else 7) for v in values))
    assert len(found) == len(values)
    for value, vote in zip(values, found, strict=True):
        assert type(vote.weight) is int
        assert type(vote.score) is int
        if value is None:
            assert vote == Vote(ABSTAIN, 0)
        else:
            assert 0 <= vote.weight <= 10_000
            assert (vote.weight == 0) == (vote.score == 0)
            assert vote.score <= 10_000


def test_score_round__block_hash__moves_sampled_scores_and_no_weight():
    rng = np.random.default_rng(5)
    updates = [revealed(rng.integers(-900, 900, P).astype(np.int16)) for _ in range(7)]
    mixed = Selection(GateClip(-1.0), (Bucketing(2),))
    sampled = replace(RULES, selection=mixed, contribution=GtgShapley(within_round_truncation=0.5, max_sweeps=1))
    trainer = QuadraticTrainer(rng.normal(0, 0.05, P))

    def votes(rules: RoundRules, block_hash: bytes) -> list[Vote]:
        return score_round(trainer, ROOT_DATA, MODEL, updates, rules, seed=1, context=b"1/1", block_hash=block_hash)

    first, again, other = (votes(sampled, block_hash) for block_hash in (b"a" * 32, b"a" * 32, b"b" * 32))
    assert first == again != other
    assert [vote.weight for vote in first] == [vote.weight for vote in other]
    computed = replace(sampled, contribution=LeaveOneOut())
    assert votes(computed, b"a" * 32) == votes(computed, b"b" * 32)
