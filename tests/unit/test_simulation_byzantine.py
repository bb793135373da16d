"""Attacks: what each sends, and that the colluders' votes move no median below half of the stake."""

from __future__ import annotations

import numpy as np
import pytest

from chainfl.errors import UsageError
from chainfl.simulation.byzantine import (
    DELTA_ATTACKS,
    a_little_is_enough,
    colluding_votes,
    inner_product_manipulation,
    label_flip,
    mimic,
    model_replacement,
    sign_flip,
)
from chainfl.simulation.rounds import median_vote
from chainfl.tasks.votes import Vote

HONEST = np.random.default_rng(0).normal(0.1, 0.05, (7, 30)).astype(np.float32)
MEAN = HONEST.mean(axis=0)


@pytest.mark.parametrize("attack", DELTA_ATTACKS.values(), ids=DELTA_ATTACKS)
def test_attack__honest_updates__gives_a_finite_row_each_and_changes_nothing(attack):
    before = HONEST.copy()
    found = attack(HONEST, 3)
    assert (found.shape, found.dtype) == ((3, 30), np.float32)
    assert np.isfinite(found).all()
    assert (before == HONEST).all()
    assert (attack(HONEST, 3) == found).all()


def test_sign_flip__scale__is_minus_the_mean():
    assert np.allclose(sign_flip(HONEST, 2, scale=3.0)[1], -3 * MEAN)


def test_inner_product_manipulation__epsilon_above_the_ratio__turns_the_mean_around():
    weak = np.vstack([HONEST, inner_product_manipulation(HONEST, 3)]).mean(axis=0)
    strong = np.vstack([HONEST, inner_product_manipulation(HONEST, 3, epsilon=7 / 3 + 0.1)]).mean(axis=0)
    assert weak @ MEAN > 0 > strong @ MEAN


@pytest.mark.parametrize(("honest", "attackers", "z"), [(38, 12, 0.2), (10, 5, 0.5)])
def test_a_little_is_enough__z__is_the_papers(honest, attackers, z):
    # 50 workers, 12 corrupt: s = 26 - 12 = 14, z = inverse normal of 24 / 38; 15 and 5: s = 3, of 7 / 10.
    updates = np.vstack([np.zeros(3), np.full((honest - 1, 3), 1.0)]).astype(np.float32)
    deviation = updates.std(axis=0)
    found = (updates.mean(axis=0) - a_little_is_enough(updates, attackers)[0]) / deviation
    expected = {0.2: 0.33604, 0.5: 0.52440}[z]
    assert np.allclose(found, expected, atol=1e-4)


def test_a_little_is_enough__attackers_with_a_majority__is_finite():
    assert np.isfinite(a_little_is_enough(HONEST, 20)).all()
    assert np.isfinite(a_little_is_enough(HONEST[:1], 1)).all()


def test_mimic__one_far_out__is_copied():
    honest = HONEST.copy()
    honest[4] += 1.0
    assert (mimic(honest, 2) == honest[4]).all()
    assert (mimic(np.ones((3, 5), np.float32), 1) == 1).all()


def test_model_replacement__honest_updates_that_cancel_out__is_what_the_mean_becomes():
    target = np.linspace(-1, 1, 30).astype(np.float32)
    honest = HONEST - MEAN
    everybody = np.vstack([honest, model_replacement(honest, 2, target=target)])
    assert np.allclose(everybody.mean(axis=0), target, atol=1e-5)


def test_label_flip__twice__is_the_labels_again():
    labels = np.arange(10)
    assert label_flip(labels, 10).tolist() == list(range(9, -1, -1))
    assert (label_flip(label_flip(labels, 10), 10) == labels).all()


@pytest.mark.parametrize(("colluders", "holds"), [(2, True), (3, False)])
def test_colluding_votes__below_half_of_five_validators__set_no_median(colluders, holds):
    honest = [Vote(10_000, 4_000), Vote(10_000, 6_000), Vote(0, 0)]
    votes = [honest] * (5 - colluders) + [colluding_votes(honest, {2})] * colluders
    medians = [median_vote(column) for column in zip(*votes, strict=True)]
    assert (medians == honest) is holds


@pytest.mark.parametrize("attack", DELTA_ATTACKS.values(), ids=DELTA_ATTACKS)
def test_attack__nobody_honest_or_no_attacker__is_refused(attack):
    with pytest.raises(UsageError):
        attack(np.zeros((0, 3), np.float32), 1)
    with pytest.raises(UsageError):
        attack(HONEST, 0)
