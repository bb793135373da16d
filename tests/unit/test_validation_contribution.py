"""Contribution: exact Shapley values by their axioms, GTG-Shapley against them, and the losses that both ask for."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.layout import Layout
from chainfl.encoding.sources import ArraySource
from chainfl.errors import SpecificationError
from chainfl.tasks.spec import ValidationEntry
from chainfl.tasks.state import Rule
from chainfl.tasks.validation_rules import CONTRIBUTION_PARAMETERS
from chainfl.training.datasets import Dataset
from chainfl.training.settings import LocalTraining
from chainfl.training.trainer import Evaluation, TrainingResult
from chainfl.validation.contribution.gtg_shapley import GtgShapley
from chainfl.validation.contribution.leave_one_out import LeaveOneOut
from chainfl.validation.contribution.methods import CONTRIBUTIONS, contribution_of
from chainfl.validation.contribution.shapley import ExactShapley
from chainfl.validation.contribution.utility import RoundUtility
from chainfl.validation.scoring import RevealedUpdate, RoundRules, Vote, score_round
from chainfl.validation.selection.bucketing import Bucketing
from chainfl.validation.selection.bulyan import Bulyan
from chainfl.validation.selection.centred_clipping import CentredClipping
from chainfl.validation.selection.krum import Krum
from chainfl.validation.selection.multi_krum import MultiKrum
from chainfl.validation.selection.nearest_neighbour_mixing import NearestNeighbourMixing
from chainfl.validation.selection.norm_bound import NormBound
from chainfl.validation.selection.rfa import GeometricMedian
from chainfl.validation.selection.rules import Selection

P = 6
SEED = bytes(32)
ROOT_DATA = Dataset("root", np.zeros((4, 2), np.float32), np.zeros(4, np.int64), 2)
RULES = RoundRules(20, 14, ServerStep(1, 1), LocalTraining(steps=1, batch_size=1, learning_rate=0.1))


class Game:
    """A loss for every coalition, drawn once. asked: how many different ones somebody wanted to know."""

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.of_each, self.of_pairs = rng.normal(0.1, 0.1, count), rng.normal(0, 0.02, (count, count))
        self.asked: set[frozenset[int]] = set()

    def __call__(self, members: frozenset[int]) -> float:
        self.asked.add(members)
        places = sorted(members)
        return 2.0 - float(self.of_each[places].sum() + self.of_pairs[np.ix_(places, places)].sum())


def by_all_orders(count: int, loss) -> list[float]:
    """Shapley values from the definition by orders, with fractions: n! of them."""
    totals = [Fraction(0)] * count
    orders = list(permutations(range(count)))
    for order in orders:
        for place, player in enumerate(order):
            before, after = frozenset(order[:place]), frozenset(order[: place + 1])
            totals[player] += Fraction(loss(before)) - Fraction(loss(after))
    return [float(total / len(orders)) for total in totals]


# --- exact Shapley -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 7))
def test_exact_shapley__random_game__is_the_mean_over_all_orders(count):
    game = Game(count, seed=count)
    assert ExactShapley().values(count, game, SEED) == pytest.approx(by_all_orders(count, game), abs=1e-12)


@pytest.mark.parametrize("count", range(1, 9))
def test_exact_shapley__efficiency__values_add_up_to_what_all_gain(count):
    game = Game(count)
    gained = game(frozenset()) - game(frozenset(range(count)))
    assert sum(ExactShapley().values(count, game, SEED)) == pytest.approx(gained, abs=1e-12)
    assert len(game.asked) == 2**count


def test_exact_shapley__symmetry__interchangeable_players_are_worth_the_same():
    def loss(members: frozenset[int]) -> float:
        return 1.0 / (1 + len(members & {0, 2})) - 0.1 * (1 in members) * len(members & {0, 2})

    first, _, third = ExactShapley().values(3, loss, SEED)
    assert first == pytest.approx(third, abs=1e-15)


def test_exact_shapley__null_player__is_worth_nothing():
    game = Game(4)
    values = ExactShapley().values(5, lambda members: game(members - {4}), SEED)
    assert values[4] == 0.0
    assert values[:4] == pytest.approx(ExactShapley().values(4, game, SEED), abs=1e-12)


def test_exact_shapley__two_games__are_worth_their_sum():
    first, second = Game(4, 1), Game(4, 2)
    both = ExactShapley().values(4, lambda members: first(members) + second(members), SEED)
    apart = np.add(ExactShapley().values(4, first, SEED), ExactShapley().values(4, second, SEED))
    assert both == pytest.approx(apart.tolist(), abs=1e-12)


def test_exact_shapley__nine_players__are_refused_with_what_to_use():
    with pytest.raises(SpecificationError, match="gtg_shapley"):
        ExactShapley().values(9, Game(9), SEED)


# --- GTG-Shapley ---------------------------------------------------------------------------------

PATIENT = GtgShapley(0.0, 0.0, 400)


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("seed", [b"a", b"b"])
def test_gtg_shapley__many_orders__converges_to_exact(count, seed, monkeypatch):
    monkeypatch.setattr("chainfl.validation.contribution.gtg_shapley._TOLERANCE", 0.0)
    game = Game(count, seed=count)
    exact = ExactShapley().values(count, game, seed)
    assert PATIENT.values(count, game, seed) == pytest.approx(exact, abs=0.004)


@pytest.mark.parametrize("count", [3, 6])
def test_gtg_shapley__defaults__are_near_exact_and_add_up(count):
    game = Game(count, seed=count)
    values, exact = GtgShapley().values(count, game, SEED), ExactShapley().values(count, game, SEED)
    gained = game(frozenset()) - game(frozenset(range(count)))
    assert values == pytest.approx(exact, abs=0.02)
    assert sum(values) == pytest.approx(gained, abs=0.01 * abs(gained) + 1e-12)


def test_gtg_shapley__same_seed__same_bits_and_another_seed_other_orders():
    game = Game(7)
    assert GtgShapley().values(7, game, b"one") == GtgShapley().values(7, game, b"one")
    assert GtgShapley().values(7, game, b"one") != GtgShapley().values(7, game, b"two")


def test_gtg_shapley__round_that_hardly_moves_the_loss__costs_two_losses():
    game = Game(5)
    flat = lambda members: 2.0 + 0.0005 * game(members)  # noqa: E731
    game.asked.clear()
    assert GtgShapley(between_round_truncation=0.01).values(5, flat, SEED) == [0.0] * 5
    assert len(game.asked) == 2


def test_gtg_shapley__who_comes_after_nearly_everything_is_gained__is_not_looked_at():
    asked = set()

    def loss(members: frozenset[int]) -> float:
        asked.add(members)
        return 1.0 if not members else 0.001 / len(members)

    values = GtgShapley(within_round_truncation=0.05).values(6, loss, SEED)
    assert len(asked) == 1 + 6 + 1  # nobody, each alone, everybody
    assert values == pytest.approx([(1 - 0.001) / 6] * 6)


def test_gtg_shapley__additive_game__settles_early():
    asked = []
    GtgShapley(0.0, 0.0, 50).values(3, lambda members: asked.append(members) or 9.0 - len(members), SEED)
    assert len(asked) == 2 + 11 * 3 * 3  # 11 sweeps of 3 orders


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"between_round_truncation": 1.0}, "between_round_truncation is 1.0"),
        ({"within_round_truncation": -0.1}, "within_round_truncation is -0.1"),
        ({"within_round_truncation": float("nan")}, "within_round_truncation is nan"),
        ({"max_sweeps": 0}, "max_sweeps is 0"),
    ],
)
def test_gtg_shapley__parameter_out_of_range__is_named(parameters, told):
    with pytest.raises(SpecificationError, match=told):
        GtgShapley(**parameters)


# --- leave-one-out and the registry --------------------------------------------------------------


def test_leave_one_out__each__is_what_the_rest_lacks():
    game = Game(3)
    everybody = frozenset(range(3))
    expected = [game(everybody - {player}) - game(everybody) for player in range(3)]
    assert LeaveOneOut().values(3, game, SEED) == expected


def test_registry__every_contribution__takes_what_a_specification_may_name():
    taken = {name: {field.name for field in dataclasses.fields(made)} for name, made in CONTRIBUTIONS.items()}
    assert taken == CONTRIBUTION_PARAMETERS


def test_contribution_of__entry__is_the_method_with_its_parameters():
    assert contribution_of(ValidationEntry()) == LeaveOneOut()
    entry = ValidationEntry(contribution="gtg_shapley", within_round_truncation="0.05", max_sweeps=7)
    assert contribution_of(entry) == GtgShapley(within_round_truncation=0.05, max_sweeps=7)


@pytest.mark.parametrize("name", CONTRIBUTIONS)
@given(losses=st.lists(st.sampled_from([0.0, 0.5, 1.0, 1e6]), min_size=16, max_size=16))
@settings(max_examples=15, deadline=None)
def test_every_contribution__any_losses__are_finite(name, losses):
    values = CONTRIBUTIONS[name]().values(4, lambda members: losses[sum(1 << i for i in members)], SEED)
    assert np.isfinite(values).all()


# --- losses of a round ---------------------------------------------------------------------------


class DistanceTrainer:
    """A trainer whose loss is the squared distance to an optimum. evaluated: the models it was shown."""

    layout = Layout.of({"w": np.zeros(P, np.float32)})

    def __init__(self, optimum: list[float]) -> None:
        self.optimum = np.array(optimum, np.float32)
        self.evaluated: list[np.ndarray] = []

    def train(self, global_vector, dataset, training, *, seed, stop=None) -> TrainingResult:
        return TrainingResult((self.optimum - global_vector).astype(np.float32), len(dataset), 1.0, 0.5)

    def evaluate(self, vector, dataset) -> Evaluation:
        self.evaluated.append(vector)
        return Evaluation(0.5, float(((vector - self.optimum) ** 2).sum()))


def utility_of(rules: RoundRules, count: int = 5, seed: int = 0) -> tuple[RoundUtility, DistanceTrainer, np.ndarray]:
    updates = np.random.default_rng(seed).integers(-5000, 5000, (count, P)).astype(np.int16)
    trainer = DistanceTrainer([0.1] * P)
    weights = {i: 1_000 * (i + 1) for i in range(count)}
    sources = {i: ArraySource(update) for i, update in enumerate(updates)}
    return RoundUtility(trainer, ROOT_DATA, np.full(P, 0.01, np.float32), sources, weights, rules), trainer, updates


@pytest.mark.parametrize("members", [{0}, {1, 4}, {0, 2, 3}, {0, 1, 2, 4}, {0, 1, 2, 3, 4}])
def test_round_utility__subset__is_the_tasks_weighted_mean_and_step(members):
    utility, trainer, updates = utility_of(replace(RULES, server_step=ServerStep(3, 2)))
    utility.loss(frozenset(members))
    weights = np.array([1_000 * (i + 1) for i in sorted(members)])
    step = 1.5 * (weights @ updates[sorted(members)].astype(np.float64)) / weights.sum() / 2**14
    assert np.allclose(trainer.evaluated[-1], np.float32(0.01) + step, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (replace(RULES, rule=Rule.MEDIAN), slice(1, 2)),
        (replace(RULES, rule=Rule.TRIMMED_MEAN, trim_num=1, trim_den=4), slice(1, 3)),
    ],
    ids=["median", "trimmed mean"],
)
def test_round_utility__order_rule__counts_each_update_once(rules, kept):
    utility, trainer, updates = utility_of(rules)
    utility.loss(frozenset({0, 1, 3, 4}))
    step = np.sort(updates[[0, 1, 3, 4]].astype(np.float64), axis=0)[kept].mean(axis=0) / 2**14
    assert np.allclose(trainer.evaluated[-1], np.float32(0.01) + step, rtol=1e-7, atol=1e-9)


def test_round_utility__asked_again__trains_and_evaluates_nothing():
    utility, trainer, _ = utility_of(RULES)
    assert utility.loss(frozenset({1})) == utility.loss(frozenset({1}))
    assert utility.loss(frozenset()) == pytest.approx(P * 0.09**2, rel=1e-6)
    assert len(trainer.evaluated) == 2


# --- in a vote -----------------------------------------------------------------------------------


def revealed(*places: int, length: int = 1000) -> RevealedUpdate:
    values = np.zeros(P, np.int16)
    values[list(places)] = length
    return RevealedUpdate(int((values.astype(np.int64) ** 2).sum()), values)


@pytest.mark.parametrize("method", [ExactShapley(), PATIENT])
def test_score_round__shapley__pays_what_leave_one_out_does_not_see(method):
    # The first and the second can replace one another, though they are no copies: leave-one-out gives them little.
    updates = [revealed(0, 1), revealed(1, 0, 2), revealed(3)]
    trainer = DistanceTrainer([0.03, 0.03, 0.0, 0.01, 0.0, 0.0])
    model = np.zeros(P, np.int32)

    def scores(rules: RoundRules) -> list[int]:
        return [vote.score for vote in score_round(trainer, ROOT_DATA, model, updates, rules, seed=1)]

    shapley, alone = scores(replace(RULES, contribution=method)), scores(RULES)
    assert sum(shapley[:2]) / sum(shapley) > sum(alone[:2]) / sum(alone)
    assert abs(sum(shapley) - 10_000) <= 3


def test_score_round__copies_under_shapley__share_what_one_of_them_earns():
    rules = replace(RULES, contribution=ExactShapley())
    updates = [revealed(0), revealed(0), revealed(1)]
    votes = score_round(DistanceTrainer([0.1] * P), ROOT_DATA, np.zeros(P, np.int32), updates, rules, seed=1)
    assert votes[0].score == votes[1].score


def test_score_round__rule_without_root_data__does_not_train():
    trainer = DistanceTrainer([0.1] * P)
    trainer.train = lambda *args, **settings: pytest.fail("nobody asked for a root update")
    rules = replace(RULES, selection=Selection(Krum(0)))
    updates = [revealed(0), revealed(0, 1), revealed(5), RevealedUpdate(0, np.zeros(P, np.int16))]
    votes = score_round(trainer, ROOT_DATA, np.zeros(P, np.int32), updates, rules, seed=1)
    assert [vote.weight for vote in votes] == [10_000, 0, 0, 0]
    assert votes[3] == Vote(0, 0)


def test_score_round__validators_with_other_data__agree_on_weights_from_updates_alone():
    rng = np.random.default_rng(5)
    updates = [
        RevealedUpdate(int((values.astype(np.int64) ** 2).sum()), values)
        for values in rng.integers(-900, 900, (9, P)).astype(np.int16)
    ]
    previous = rng.integers(-(2**20), 2**20, P).astype(np.int32)
    for rule in (MultiKrum(2), Bulyan(1), GeometricMedian(), CentredClipping(), NormBound()):
        rules = replace(RULES, selection=Selection(rule, (Bucketing(2), NearestNeighbourMixing(1))))
        found = [
            score_round(
                DistanceTrainer([aim] * P),
                ROOT_DATA,
                np.zeros(P, np.int32),
                updates,
                rules,
                seed=seed,
                previous_model=previous,
                context=b"task 1, round 2",
            )
            for seed, aim in ((1, 0.1), (2, -0.3))
        ]
        assert [vote.weight for vote in found[0]] == [vote.weight for vote in found[1]]
        assert [vote.score for vote in found[0]] != [vote.score for vote in found[1]]


def test_score_round__updates_in_blocks__same_votes_as_in_memory():
    updates = [revealed(0), revealed(1, 2), revealed(3)]
    blocks = [replace(update, values=ArraySource(update.values)) for update in updates]
    found = [
        score_round(DistanceTrainer([0.1] * P), ROOT_DATA, np.zeros(P, np.int32), given, RULES, seed=1)
        for given in (updates, blocks)
    ]
    assert found[0] == found[1]


def test_score_round__server_step_and_scales__last_mean_is_that_of_the_plain_step():
    # A step of 3/2 over means of 1000 at the updates' scale is one of 96,000 in the model's integers.
    rules = replace(RULES, server_step=ServerStep(3, 2), selection=_Recorded())
    model = np.full(P, 96_000, np.int32)
    score_round(
        DistanceTrainer([0.1] * P), ROOT_DATA, model, [revealed(0)], rules, seed=1, previous_model=np.zeros(P, np.int32)
    )
    assert int(rules.selection.rule.seen.last_mean.products[0]) == 1000 * 1000
    assert rules.selection.rule.seen.last_mean.square == P * 1000 * 1000


def test_score_round__adaptive_server__its_step_stands_for_no_mean():
    rules = replace(RULES, shows_mean=False, selection=_Recorded())
    model = np.full(P, 96_000, np.int32)
    score_round(
        DistanceTrainer([0.1] * P), ROOT_DATA, model, [revealed(0)], rules, seed=1, previous_model=np.zeros(P, np.int32)
    )
    assert rules.selection.rule.seen.last_mean is None
    assert rules.selection.rule.seen.last_step is not None


class _Recorded:
    """A selection that keeps what it was shown."""

    def __init__(self) -> None:
        self.rule = self
        self.seen = None
        self.needs_root_update = False

    def weigh(self, candidates, seed):
        self.seen = candidates
        return [10_000] * len(candidates)
