"""Selection rules: against slow references, under attack, and for what validators must agree on to the bit."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import selection_references as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.encoding.sources import ArraySource
from chainfl.errors import EncodingError, SpecificationError
from chainfl.simulation.byzantine import DELTA_ATTACKS
from chainfl.tasks.spec import ValidationEntry
from chainfl.tasks.validation_rules import MIXER_PARAMETERS, RULE_PARAMETERS
from chainfl.validation.seeds import round_draw, shuffled
from chainfl.validation.selection import inner_products as products_module
from chainfl.validation.selection.bucketing import Bucketing
from chainfl.validation.selection.bulyan import Bulyan
from chainfl.validation.selection.candidates import Candidates, candidates_of, scaled
from chainfl.validation.selection.centred_clipping import CentredClipping
from chainfl.validation.selection.fltrust import FLTrust
from chainfl.validation.selection.gate_clip import GateClip
from chainfl.validation.selection.inner_products import inner_products
from chainfl.validation.selection.integers import multiplied, squared_distances
from chainfl.validation.selection.krum import Krum, krum_scores
from chainfl.validation.selection.multi_krum import MultiKrum
from chainfl.validation.selection.nearest_neighbour_mixing import NearestNeighbourMixing
from chainfl.validation.selection.norm_bound import NormBound
from chainfl.validation.selection.rfa import GeometricMedian
from chainfl.validation.selection.root_fit import LEAST, MOST, RootFit, fitted_shares
from chainfl.validation.selection.rules import MIXERS, RULES, Selection, selection_of

BITS = 14
SEED = bytes(32)
UPDATES_ONLY = [Krum(1), MultiKrum(1), Bulyan(1), GeometricMedian(), CentredClipping(), NormBound()]


def drawn(count: int, size: int = 12, seed: int = 0, spread: int = 300) -> np.ndarray:
    """(count, size) int16 around a common direction."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 800, size) + rng.normal(0, spread, (count, size))).astype(np.int16)


def seen(updates: np.ndarray, **beside: object) -> Candidates:
    return candidates_of(list(updates), scale_bits=BITS, **beside)


def weights_of(rule, updates: np.ndarray, *mixers, **beside: object) -> list[int]:
    return Selection(rule, mixers).weigh(seen(updates, **beside), SEED)


def kept(weights: list[int]) -> set[int]:
    return {place for place, weight in enumerate(weights) if weight}


# --- inner products ------------------------------------------------------------------------------


def test_inner_products__blocks_and_a_rest__are_exact(monkeypatch):
    monkeypatch.setattr(products_module, "_BLOCK", 7)
    updates = np.random.default_rng(0).integers(-32767, 32768, (5, 40)).astype(np.int16)
    expected = updates.astype(object) @ updates.T.astype(object)
    assert (inner_products(list(updates)).exact == expected).all()
    assert (inner_products([ArraySource(update) for update in updates]).exact == expected).all()


def test_inner_products__largest_values_in_a_whole_block__lose_no_bit():
    size = products_module._BLOCK + 1
    full = np.full(size, 32767, np.int16)
    odd = full.copy()
    odd[0] = 32766
    assert inner_products([full, odd]).exact.tolist() == [
        [32767**2 * size, 32767**2 * size - 32767],
        [32767**2 * size - 32767, 32767**2 * size - 2 * 32767 + 1],
    ]


def test_inner_products__other_vectors__are_beside_them():
    updates, other = drawn(3), np.linspace(-1, 1, 12).astype(np.float32)
    found = inner_products(list(updates), [other])
    assert np.allclose(found.others[:3, 0], updates @ other.astype(np.float64))
    assert found.others[3, 0] == pytest.approx(float(other.astype(np.float64) @ other))


def test_inner_products__another_length__is_refused():
    with pytest.raises(EncodingError, match="different lengths"):
        inner_products([np.ones(3, np.int16), np.ones(4, np.int16)])


@given(
    st.lists(st.lists(st.integers(-(2**70), 2**70), min_size=3, max_size=3), min_size=3, max_size=3),
    st.lists(st.lists(st.integers(0, 2**20), min_size=3, max_size=3), min_size=2, max_size=2),
)
@settings(max_examples=50, deadline=None)
def test_multiplied__integers_of_any_size__is_exact(values, matrix):
    found = multiplied(np.array(matrix, np.int64), np.array(values, object))
    assert (found == np.array(matrix, object) @ np.array(values, object)).all()


def test_squared_distances__beyond_int64__are_exact():
    gram = np.array([[2**62, -(2**62)], [-(2**62), 2**62]], np.int64)
    assert squared_distances(gram)[0, 1] == 2**64


# --- against the references ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "f"), [(5, 1), (9, 3), (12, 0)])
def test_krum__random_updates__is_the_references_choice(count, f, seed):
    updates = drawn(count, seed=seed)
    scores = reference.krum_scores(updates.astype(np.float64), f)
    assert kept(weights_of(Krum(f), updates)) == {int(np.argmin(scores))}
    assert krum_scores(seen(updates).distances(), f) == [int(score) for score in scores]


@pytest.mark.parametrize("keep", [None, 1, 4, 9])
def test_multi_krum__random_updates__keeps_the_references_lowest(keep):
    updates = drawn(9, seed=3)
    lowest = np.argsort(reference.krum_scores(updates.astype(np.float64), 2))[: keep or 9 - 2 - 2]
    assert kept(weights_of(MultiKrum(2, keep), updates)) == set(lowest.tolist())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "f"), [(7, 1), (11, 2), (4, 0)])
def test_bulyan__random_updates__is_the_references_selection(count, f, seed):
    updates = drawn(count, seed=seed)
    assert kept(weights_of(Bulyan(f), updates)) == reference.bulyan_selection(updates.astype(np.float64), f)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iterations", [1, 8, 60])
def test_rfa__random_updates__weights_are_weiszfelds(iterations, seed):
    updates = drawn(8, seed=seed)
    updates[0] *= -3
    _, expected = reference.weiszfeld(updates / 2.0**BITS, iterations, 1e-6)
    found = weights_of(GeometricMedian(iterations), updates)
    assert np.abs(np.array(found) - 10_000 * expected / expected.max()).max() <= 0.5 + 1e-6


def test_rfa__many_iterations__is_the_geometric_median():
    updates = drawn(9, seed=2)
    centre = reference.weighted_mean(updates.astype(np.float64), weights_of(GeometricMedian(100), updates))
    unit = updates - centre
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert np.linalg.norm(unit.sum(axis=0)) < 0.01  # the gradient of the sum of distances


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("radius", [None, 0.02, 0.5])
def test_centred_clipping__last_mean__weighted_mean_is_on_the_line_through_the_references(radius, iterations):
    updates, last = drawn(7, seed=1), drawn(1, seed=1)[0]
    updates[3] *= -4
    found = weights_of(CentredClipping(radius, iterations), updates, last_mean=last)
    start = last.astype(np.float64)
    limit = None if radius is None else radius * 2**BITS
    clipped = reference.centred_clipping(updates.astype(np.float64), start, limit, iterations) - start
    reached = reference.weighted_mean(updates.astype(np.float64), found) - start
    cosine = clipped @ reached / np.linalg.norm(clipped) / np.linalg.norm(reached)
    assert cosine > 1 - 1e-6
    assert np.linalg.norm(reached) >= np.linalg.norm(clipped) * 0.999


def test_centred_clipping__nothing_clipped__is_the_mean_exactly():
    updates = drawn(6, seed=4)
    assert weights_of(CentredClipping(1000.0, 3), updates, last_mean=drawn(1)[0]) == [10_000] * 6


def test_centred_clipping__no_last_round__clips_around_zero():
    updates = np.array([[100, 0], [0, 100], [400, 0]], np.int16)
    assert weights_of(CentredClipping(100 / 2**BITS), updates) == [10_000, 10_000, 2_500]


def test_norm_bound__given_and_not__is_in_inverse_proportion():
    updates = np.array([[100, 0], [0, 200], [400, 0]], np.int16)
    assert weights_of(NormBound(), updates) == [10_000, 10_000, 5_000]
    assert weights_of(NormBound(100 / 2**BITS), updates) == [10_000, 5_000, 2_500]


def test_fltrust__against_the_formula__longer_ones_lose_their_length():
    updates = np.array([[200, 0], [100, 100], [-50, 1], [0, 70]], np.int16)
    root = np.array([100, 0], np.float32) / 2**BITS
    expected = [5_000, round(10_000 / math.sqrt(2) * 100 / math.sqrt(20_000)), 0, 0]
    assert weights_of(FLTrust(), updates, root=root) == expected


def test_fltrust__tiny_update__keeps_the_model_from_nothing():
    root = np.array([100, 0], np.float32) / 2**BITS
    tiny_too = weights_of(FLTrust(), np.array([[100, 0], [90, 0], [1, 0]], np.int16), root=root)
    assert tiny_too == [10_000] * 3


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("copies", [1, 3])
def test_root_fit__random_updates__are_scipys_shares(copies, seed):
    updates = drawn(7, seed=seed, spread=900)
    updates = np.vstack([updates, *[updates[:1]] * (copies - 1), updates[1:2] * 3])
    root = np.abs(np.random.default_rng(seed).normal(0, 0.01, 12)).astype(np.float32)
    updates[updates @ root.astype(np.float64) < 0] *= -1
    candidates = seen(updates, root=root)
    same = np.array([copies, 2, *[1] * 5, *[copies] * (copies - 1), 2])
    lengths = np.array(candidates.clipped) / 10_000
    shares = reference.root_fit(updates.astype(np.float64), root.astype(np.float64), lengths, same)
    expected = 10_000 * lengths * shares * (1 / same).sum() / MOST
    weights = RootFit().weigh(candidates)
    assert np.abs(np.array(weights) - expected).max() <= 1
    assert kept(weights)
    assert max(weights) <= 10_000


def test_root_fit__a_class_that_few_have__gets_its_share_back():
    """Four know the first direction, one the second, and root data ask for both alike."""
    updates = np.array([[900, 10, 1], [900, -10, 2], [900, 5, 30], [900, 0, -30], [0, 900, 0]], np.int16)
    root = np.array([0.05, 0.05, 0], np.float32)
    before, after = (
        reference.weighted_mean(updates.astype(float), weights_of(rule, updates, root=root))
        for rule in (GateClip(), RootFit(duplicate_cosine=1.0))
    )
    assert before[1] / before[0] < 0.26
    # Two shares of five, which is all that one may have.
    assert after[1] / after[0] == pytest.approx(2 / 3, rel=0.02)


def test_root_fit__copies_of_one_update__count_as_one():
    updates = drawn(5, seed=3, spread=900)
    root = (updates.mean(axis=0) / 2**BITS).astype(np.float32)
    alone = reference.weighted_mean(updates.astype(float), weights_of(RootFit(), updates, root=root))
    copied = np.vstack([updates, updates[:1], updates[:1]])
    together = reference.weighted_mean(copied.astype(float), weights_of(RootFit(), copied, root=root))
    by_gate_and_clip = reference.weighted_mean(copied.astype(float), weights_of(GateClip(), copied, root=root))
    assert np.linalg.norm(together - alone) < 0.35 * np.linalg.norm(by_gate_and_clip - alone)


def test_root_fit__root_data_that_say_little__leaves_equal_shares():
    """Nearly orthogonal to everybody: nothing but noise to fit."""
    updates = drawn(6, seed=1)
    mean = updates.mean(axis=0)
    aside = np.random.default_rng(0).normal(size=12)
    aside -= aside @ mean / (mean @ mean) * mean
    root = (aside / np.linalg.norm(aside) + 0.02 * mean / np.linalg.norm(mean)).astype(np.float32)
    candidates = seen(updates, root=root)
    weights = np.array(RootFit().weigh(candidates), float)
    clipped = np.array(candidates.clipped, float)
    assert np.count_nonzero(weights) >= 4
    assert np.abs(weights - np.where(weights > 0, clipped / MOST, 0)).max() < 0.02 * clipped.max()


def test_root_fit__nobody_passes_the_gate__rejects_all():
    updates = drawn(4)
    assert weights_of(RootFit(), updates, root=-updates[0].astype(np.float32)) == [0] * 4


@pytest.mark.parametrize("rule", [GateClip(), RootFit(), FLTrust()])
def test_root_data_rules__root_update_of_zero__leaves_the_clip(rule):
    updates = np.array([[100, 0], [-100, 0], [200, 0]], np.int16)
    assert weights_of(rule, updates, root=np.zeros(2, np.float32)) == [10_000, 10_000, 5_000]
    assert rule.needs_root_update


def skewed_round(seed, workers):
    """Updates of workers with two of ten classes each, as floats of length 1, and a root update that knows them all."""
    rng, size = np.random.default_rng(seed), 2_000
    classes = rng.normal(size=(10, size)) / math.sqrt(size)
    noise = rng.normal(size=(workers + 1, size)) / math.sqrt(size)
    common = 0.6 * classes.sum(axis=0) / math.sqrt(10)
    own = [classes[rng.choice(10, 2, replace=False)].sum(axis=0) / math.sqrt(2) for _ in range(workers)]
    updates = common + np.array(own) + 0.3 * noise[:-1]
    return rng, updates / np.linalg.norm(updates, axis=1)[:, None], common + 0.6 * noise[-1]


def root_fitted(updates, root):
    return np.array(weights_of(RootFit(), np.rint(updates * 4_000).astype(np.int16), root=root.astype(np.float32)))


@pytest.mark.parametrize("attackers", [1, 4])
@pytest.mark.parametrize("knows", [1.0, 0.8])
def test_root_fit__attackers_point_where_root_data_do__have_twice_their_share_at_most(knows, attackers):
    rng, updates, root = skewed_round(0, 14)
    payload = rng.normal(size=(attackers, root.size))
    payload /= np.linalg.norm(payload, axis=1)[:, None]
    aimed = knows * root / np.linalg.norm(root) + math.sqrt(1.01 - knows**2) * payload
    weights = root_fitted(np.vstack([updates, aimed / np.linalg.norm(aimed, axis=1)[:, None]]), root)
    assert weights[14:].sum() / weights.sum() <= 2 * attackers / (14 + attackers) * 1.01


def test_root_fit__one_sends_what_only_a_victim_has__the_victim_keeps_half_a_share():
    _, updates, root = skewed_round(0, 14)
    others = updates[1:].T
    own = updates[0] - others @ np.linalg.lstsq(others, updates[0], rcond=None)[0]
    aimed = 0.9 * own / np.linalg.norm(own) + 0.3 * root / np.linalg.norm(root)
    weights = root_fitted(np.vstack([updates, aimed / np.linalg.norm(aimed)]), root)
    assert weights[0] / weights.sum() >= 0.5 / 15 * 0.99


def test_root_fit__an_update_of_zero__counts_for_nothing():
    _, updates, root = skewed_round(1, 5)
    weights = root_fitted(np.vstack([updates, np.zeros_like(root)]), root)
    assert weights[5] == 0
    assert weights[:5].all()


def test_root_fit__an_honest_cosine_a_little_below_zero__still_counts():
    root = np.array([0.05, 0, 0], np.float32)
    updates = np.array([[900, 0, 0], [-30, 900, 0], [-90, 0, 900]], np.int16)
    weights = weights_of(RootFit(), updates, root=root)
    assert weights[1] > 0
    assert weights[2] == 0


def test_root_fit__many_workers__settles():
    rng, few = np.random.default_rng(0), 400
    updates = 1e-2 + rng.normal(0, 0.02, (few, 50))
    clipped, root = updates / np.linalg.norm(updates, axis=1)[:, None], np.full(50, 1 / math.sqrt(50))
    equal = np.full(few, 1 / few)
    shares = fitted_shares(clipped @ clipped.T, clipped @ root, equal)
    assert shares.sum() == pytest.approx(1)
    assert shares.min() >= LEAST / few * (1 - 1e-9)
    assert shares.max() <= MOST / few * (1 + 1e-9)
    along = clipped @ root
    slope = clipped @ (shares @ clipped) + 0.1 * (1 / (along.mean() / np.linalg.norm(clipped.mean(axis=0))) ** 2) * (
        shares - equal
    )
    slope -= 3 * along.mean() * along
    inside = (shares > LEAST / few * 1.001) & (shares < MOST / few * 0.999)
    assert np.ptp(slope[inside]) < 1e-4
    assert slope[shares <= LEAST / few * 1.001].min() > slope[inside].max() - 1e-4


# --- mixing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", UPDATES_ONLY, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("f", [0, 2, 4])
def test_nearest_neighbour_mixing__any_rule__pulls_back_to_the_mean_of_mixed_vectors(rule, f):
    updates = drawn(9, seed=6)
    mixed = reference.nearest_neighbour_mixed(updates.astype(np.float64), f)
    mixer = NearestNeighbourMixing(f)
    behind = rule.weigh(seen(updates).mixed(mixer.mix(seen(updates), SEED)))
    found = reference.weighted_mean(updates.astype(np.float64), weights_of(rule, updates, mixer))
    assert np.abs(found - reference.weighted_mean(mixed, behind)).max() < 0.5


def test_nearest_neighbour_mixing__krum_behind_it__is_the_reference_on_mixed_vectors():
    updates = drawn(9, seed=8)
    mixed = reference.nearest_neighbour_mixed(updates.astype(np.float64), 2)
    chosen = int(np.argmin(reference.krum_scores(mixed, 2)))
    candidates = seen(updates)
    assert kept(Krum(2).weigh(candidates.mixed(NearestNeighbourMixing(2).mix(candidates, SEED)))) == {chosen}


def test_mixed__clip_root_and_last_mean__are_those_of_the_mixed_vectors():
    updates, root, last = drawn(6, seed=3), np.linspace(-1, 1, 12).astype(np.float32), drawn(1, seed=9)[0]
    mixing = NearestNeighbourMixing(2).mix(seen(updates), SEED)
    found = seen(updates, root=root, last_mean=last).mixed(mixing)
    vectors = mixing.matrix @ updates.astype(np.int64)
    assert (found.gram == vectors @ vectors.T).all()
    assert found.divisor == 4
    assert np.allclose(found.root.products, vectors @ root.astype(np.float64))
    assert (found.last_mean.products == vectors @ last.astype(np.int64)).all()
    assert weights_of(GateClip(-1.0), updates, root=root) != found.clipped


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 2), (5, 1), (4, 9)])
def test_bucketing__buckets__are_means_of_every_update_once(count, size):
    mixing = Bucketing(size).mix(seen(drawn(count)), SEED)
    assert (mixing.matrix.sum(axis=1) == mixing.divisor).all()
    assert ((mixing.matrix > 0).sum(axis=0) == 1).all()
    sizes = sorted((mixing.matrix > 0).sum(axis=1).tolist(), reverse=True)
    assert sizes == sorted([min(size, count - at) for at in range(0, count, size)], reverse=True)


def test_bucketing__mean_behind_it__pulls_back_exactly():
    updates = drawn(7, seed=5).astype(np.float64)
    mixing = Bucketing(3).mix(seen(drawn(7, seed=5)), SEED)
    found = reference.weighted_mean(updates, weights_of(NormBound(1000.0), drawn(7, seed=5), Bucketing(3)))
    assert np.abs(found - (mixing.matrix @ updates / mixing.divisor).mean(axis=0)).max() < 0.5


def test_bucketing__another_draw__is_another_order():
    updates = seen(drawn(12))
    draws = {Bucketing(3).mix(updates, round_draw([1, 2, n])).matrix.tobytes() for n in range(5)}
    assert len(draws) == 5


def test_shuffled__same_seed__is_this_order_for_ever():
    assert shuffled(6, b"seed") == [0, 5, 4, 3, 1, 2]
    assert sorted(shuffled(100, b"x")) == list(range(100))


def test_round_draw__sums_order_and_context__all_count():
    draws = [round_draw([1, 2]), round_draw([2, 1]), round_draw([1, 2], b"round 2"), round_draw([1])]
    assert len(set(draws)) == 4


def test_scaled__shares__keep_proportion_and_reject_nobody_positive():
    assert scaled([0.5, 0.25, 1e-9, 0.0]) == [10_000, 5_000, 1, 0]
    assert scaled([]) == []
    assert scaled([0.0, 0.0]) == [0, 0]


# --- under attack --------------------------------------------------------------------------------

HONEST, ATTACKERS, SIZE = 11, 4, 40


def attacked(attack: str, seed: int, spread: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """All updates, the attackers' last, and the honest ones alone, each of which has an aim of its own."""
    rng = np.random.default_rng(seed)
    honest = (rng.normal(0, 0.05, SIZE) + rng.normal(0, spread, (HONEST, SIZE))).astype(np.float32)
    dishonest = DELTA_ATTACKS[attack](honest, ATTACKERS)
    integers = np.clip(np.rint(np.vstack([honest, dishonest]) * 2**BITS), -32767, 32767).astype(np.int16)
    return integers, integers[:HONEST].astype(np.float64)


def longest_pull(weights: list[int], updates: np.ndarray, centre: np.ndarray | float = 0.0) -> float:
    """The largest weight times distance: how far anybody moves a weighted mean, but for what it is divided by."""
    return max(np.array(weights) * np.linalg.norm(updates.astype(np.float64) - centre, axis=1))


def error_in_variances(result: np.ndarray, honest: np.ndarray) -> float:
    """The squared distance to the honest mean, over the honest variance: kappa of (f, kappa)-robustness."""
    centre = honest.mean(axis=0)
    return float(((result - centre) ** 2).sum() / ((honest - centre) ** 2).sum(axis=1).mean())


ATTACKS = pytest.mark.parametrize("attack", DELTA_ATTACKS)
SEEDS = pytest.mark.parametrize("seed", range(3))


@ATTACKS
@SEEDS
@pytest.mark.parametrize(
    ("rule", "kappa"),
    [
        (Krum(ATTACKERS), 6 * HONEST / (HONEST + ATTACKERS - 2 * ATTACKERS - 2)),
        (GeometricMedian(100), 4 * (1 + ATTACKERS / (HONEST - ATTACKERS)) ** 2),
    ],
    ids=["krum", "rfa"],
)
def test_rule__attacked_below_its_bound__stays_within_kappa_variances(rule, kappa, attack, seed):
    updates, honest = attacked(attack, seed)
    result = reference.weighted_mean(updates.astype(np.float64), weights_of(rule, updates))
    assert error_in_variances(result, honest) <= kappa
    mixer = NearestNeighbourMixing(ATTACKERS)
    mixed = reference.weighted_mean(updates.astype(np.float64), weights_of(rule, updates, mixer))
    assert error_in_variances(mixed, honest) <= 8 * ATTACKERS / HONEST * (kappa + 1)


@ATTACKS
@SEEDS
@pytest.mark.parametrize("rule", [Krum(ATTACKERS), MultiKrum(ATTACKERS)], ids=["krum", "multi_krum"])
def test_krum__small_variance__points_where_honest_workers_do(rule, attack, seed):
    # n = 15 > 2f + 2, and the honest variance is small against their mean: the paper's resilience holds.
    updates, honest = attacked(attack, seed, spread=0.005)
    result = reference.weighted_mean(updates.astype(np.float64), weights_of(rule, updates))
    centre = honest.mean(axis=0)
    assert result @ centre > 0.5 * centre @ centre


@ATTACKS
@SEEDS
def test_bulyan__trimmed_mean_behind_it__lies_between_honest_values(attack, seed):
    f = 2  # 13 = 11 + 2 > 4f + 3
    updates, honest = attacked(attack, seed)
    updates = updates[: HONEST + f]
    chosen = updates[sorted(kept(weights_of(Bulyan(f), updates)))]
    assert len(chosen) == HONEST + f - 2 * f
    trimmed = np.sort(chosen, axis=0)[f:-f]
    assert (trimmed.min(axis=0) >= honest.min(axis=0)).all()
    assert (trimmed.max(axis=0) <= honest.max(axis=0)).all()


@ATTACKS
@SEEDS
def test_centred_clipping__attacked__nobody_moves_the_result_further_than_the_radius(attack, seed):
    updates, honest = attacked(attack, seed)
    last = honest.mean(axis=0).astype(np.int16)
    radius = 0.15 * 2**BITS
    weights = weights_of(CentredClipping(0.15), updates, last_mean=last)
    assert longest_pull(weights, updates, last) <= 10_000 * radius * 1.001
    assert weights[:HONEST] == [10_000] * HONEST


@ATTACKS
@SEEDS
@pytest.mark.parametrize("rule", [GateClip(), RootFit(), FLTrust()], ids=["gate_clip", "root_fit", "fltrust"])
def test_root_data_rules__attacked__result_points_where_root_data_do(rule, attack, seed):
    updates, honest = attacked(attack, seed)
    root = (honest.mean(axis=0) / 2**BITS).astype(np.float32)
    weights = weights_of(rule, updates, root=root)
    assert weights[HONEST:] == [0] * ATTACKERS or attack in ("mimic", "a_little_is_enough")
    result = reference.weighted_mean(updates.astype(np.float64), weights)
    assert result @ root > 0
    longest = max(np.linalg.norm(root) * 2**BITS, np.median(np.linalg.norm(updates.astype(float), axis=1)))
    assert longest_pull(weights, updates) <= 10_001 * longest


@ATTACKS
def test_norm_bound__attacked__nobody_pulls_further_than_the_bound(attack):
    updates, _ = attacked(attack, 0)
    assert longest_pull(weights_of(NormBound(0.2), updates), updates) <= 10_001 * 0.2 * 2**BITS


@ATTACKS
def test_bucketing__attackers__spoil_a_bucket_each_at_most(attack):
    updates, _ = attacked(attack, 0)
    matrix = Bucketing(3).mix(seen(updates), SEED).matrix
    assert (matrix[:, HONEST:].sum(axis=1) > 0).sum() <= ATTACKERS


# --- validators agree ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", UPDATES_ONLY, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("block", [3, 16, 1 << 13])
def test_updates_only_rules__other_blocks_and_root_data__same_weights(rule, block, monkeypatch):
    updates, last = drawn(9, 50, seed=11), drawn(1, 50, seed=12)[0]
    expected = weights_of(rule, updates, Bucketing(2), NearestNeighbourMixing(1), last_mean=last)
    monkeypatch.setattr(products_module, "_BLOCK", block)
    root = np.random.default_rng(block).normal(size=50).astype(np.float32)
    mixers = (Bucketing(2), NearestNeighbourMixing(1))
    assert weights_of(rule, updates, *mixers, last_mean=last, root=root) == expected
    assert not rule.needs_root_update


def test_krum__two_of_the_same_score__the_first_enrolled_wins():
    updates = np.array([[9, 0], [0, 0], [0, 1], [0, 0], [0, 1]], np.int16)
    assert kept(weights_of(Krum(1), updates)) == {1}
    assert kept(weights_of(MultiKrum(1, 2), updates)) == {1, 2}


every_rule = pytest.mark.parametrize(
    "rule", [*UPDATES_ONLY, GateClip(), RootFit(), FLTrust()], ids=lambda r: type(r).__name__
)
every_mixer = pytest.mark.parametrize(
    "mixers", [(), (NearestNeighbourMixing(1),), (Bucketing(2), NearestNeighbourMixing(1))], ids=["none", "nnm", "both"]
)


@every_rule
@every_mixer
@pytest.mark.parametrize("count", range(1, 6))
def test_every_rule__as_many_equal_updates__gives_integers_and_somebody_counts(rule, mixers, count):
    updates = np.tile(np.array([3, -4, 5], np.int16), (count, 1))
    weights = weights_of(rule, updates, *mixers, root=np.array([1, -1, 1], np.float32))
    assert [type(weight) for weight in weights] == [int] * count
    assert max(weights) > 0


@every_rule
@every_mixer
def test_every_rule__nobody__gives_no_weights(rule, mixers):
    assert Selection(rule, mixers).weigh(seen(np.zeros((0, 3), np.int16)), SEED) == []


@given(st.lists(st.lists(st.integers(-32767, 32767), min_size=4, max_size=4), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_every_rule__any_updates__weights_stay_in_range(values):
    updates = np.array([v for v in values if any(v)] or [[1, 1, 1, 1]], np.int16)
    for rule in [*UPDATES_ONLY, GateClip(), RootFit(), FLTrust()]:
        for mixers in [(), (NearestNeighbourMixing(2),), (Bucketing(2),)]:
            weights = weights_of(rule, updates, *mixers, root=np.ones(4, np.float32), last_mean=updates[0])
            assert len(weights) == len(updates)
            assert all(type(weight) is int and 0 <= weight <= 10_000 for weight in weights)
            if not rule.needs_root_update:
                assert max(weights) > 0


@pytest.mark.parametrize("rule", [Krum(9), MultiKrum(9), Bulyan(9), MultiKrum(1, 99)], ids=repr)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_krum_family__fewer_updates_than_f_asks_for__bears_what_it_can(rule, count):
    assert max(weights_of(rule, drawn(count), NearestNeighbourMixing(9))) == 10_000


# --- parameters ----------------------------------------------------------------------------------


def test_registry__every_rule_and_mixer__takes_what_a_specification_may_name():
    for table, parameters in ((RULES, RULE_PARAMETERS), (MIXERS, MIXER_PARAMETERS)):
        assert {name: {field.name for field in dataclasses.fields(made)} for name, made in table.items()} == parameters


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Krum(-1), "num_malicious_clients is -1"),
        (lambda: MultiKrum(1, 0), "num_clients_to_keep is 0"),
        (lambda: Bulyan(-1), "num_malicious_clients"),
        (lambda: GeometricMedian(0), "iterations is 0"),
        (lambda: GeometricMedian(smoothing=0.0), "smoothing is 0.0"),
        (lambda: CentredClipping(-1.0), "clipping_norm"),
        (lambda: CentredClipping(float("nan")), "clipping_norm is nan"),
        (lambda: NormBound(float("inf")), "clipping_norm is inf"),
        (lambda: NearestNeighbourMixing(-1), "num_malicious_clients"),
        (lambda: Bucketing(0), "bucket_size is 0"),
    ],
)
def test_parameters__out_of_range__are_named(make, told):
    with pytest.raises(SpecificationError, match=told):
        make()


def test_selection_of__entry__is_the_rule_with_its_parameters():
    assert selection_of(ValidationEntry()) == Selection(GateClip(0.0))
    entry = ValidationEntry(
        rule="multi_krum",
        before=["bucketing", "nearest_neighbour_mixing"],
        num_malicious_clients=2,
        num_clients_to_keep=3,
        bucket_size=2,
    )
    assert selection_of(entry) == Selection(MultiKrum(2, 3), (Bucketing(2), NearestNeighbourMixing(2)))
    assert selection_of(ValidationEntry(rule="rfa", smoothing="0.01")) == Selection(GeometricMedian(smoothing=0.01))
    assert selection_of(ValidationEntry(gate_cosine="0.25")) == Selection(GateClip(0.25))
