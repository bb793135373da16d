"""Attacks on learning, as pure functions: from what honest workers send to what colluding attackers send instead.

Attackers are taken to know every honest update of the round, which on a chain with commitments they do not: that is
the strongest form of each attack. Deltas are real numbers, (n, P) float32, a row a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from chainfl.encoding.arrays import Float32Array, Int64Array
from chainfl.errors import UsageError
from chainfl.tasks.state import MAX_WEIGHT
from chainfl.tasks.votes import REJECTION, Vote

_POWER_ITERATIONS = 50


def sign_flip(honest: Float32Array, num_attackers: int, *, scale: float = 1.0) -> Float32Array:
    """Minus `scale` times the honest mean.

    Li, Xu, Chen, Giannakis, Ling: RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from
    Heterogeneous Datasets, AAAI 2019. honest: (n, P). returns: (num_attackers, P) float32.
    """
    return _each(-scale * _mean(honest), num_attackers)


def inner_product_manipulation(honest: Float32Array, num_attackers: int, *, epsilon: float = 0.1) -> Float32Array:
    """A little against the honest mean: no outlier by its norm, yet what is left of the sum may point backwards.

    Xie, Koyejo, Gupta: Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation, UAI 2019.
    epsilon: 0.1 passes distance-based rules, above n / num_attackers it turns the plain mean around.
    """
    return _each(-epsilon * _mean(honest), num_attackers)


def a_little_is_enough(honest: Float32Array, num_attackers: int, *, z: float | None = None) -> Float32Array:
    """The honest mean, less z standard deviations in every coordinate.

    Baruch, Baruch, Goldberg: A Little Is Enough: Circumventing Defenses For Distributed Learning, NeurIPS 2019.
    z: None for the paper's: the most at which enough honest workers are still further out to pass for a majority.
    """
    mean = _mean(honest)
    if z is None:
        z = _little_z(len(honest), num_attackers)
    return _each(mean - z * np.std(honest.astype(np.float64), axis=0), num_attackers)


def mimic(honest: Float32Array, num_attackers: int) -> Float32Array:
    """Copies of the honest worker that is furthest out where honest workers differ most: no rule can tell them apart.

    Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, ICLR 2022; here the
    worker is chosen anew in each round, not in a warm-up. Of equals the first.
    """
    centred = honest.astype(np.float64) - _mean(honest)
    gram = centred @ centred.T
    # The projections on the first principal direction are the first eigenvector of the Gram matrix.
    projections = 1.0 + np.arange(len(honest), dtype=np.float64)
    for _ in range(_POWER_ITERATIONS):
        projections = gram @ projections
        projections /= np.linalg.norm(projections) or 1.0
    return _each(honest[int(np.abs(projections).argmax())].astype(np.float64), num_attackers)


def model_replacement(honest: Float32Array, num_attackers: int, *, target: Float32Array | None = None) -> Float32Array:
    """Scaled so that the plain mean of all becomes `target`, if the honest updates cancel out.

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov: How To Backdoor Federated Learning, AISTATS 2020. target: (P,), where the
    model shall go; None for against the honest mean.
    """
    goal = -_mean(honest) if target is None else target.astype(np.float64)
    _require_attackers(num_attackers)
    return _each(goal * ((len(honest) + num_attackers) / num_attackers), num_attackers)


def label_flip(labels: Int64Array, num_classes: int) -> Int64Array:
    """Labels for honest training on dishonest data: class c becomes num_classes - 1 - c.

    Tolpegin, Truex, Gursoy, Liu: Data Poisoning Attacks Against Federated Learning Systems, ESORICS 2020; the static
    flip of all classes is Allouah et al., AISTATS 2023. labels: (n,) int64. returns: the same.
    """
    return num_classes - 1 - labels


def colluding_votes(votes: Sequence[Vote], favoured: Collection[int]) -> list[Vote]:
    """What validators vote who collude with some workers: everything for these, nothing for the others.

    votes: what an honest validator votes, one for each update. favoured: places of the attackers' updates. Below half
    of the stake that votes, such validators set no median; above a third of all stake, they can keep a quorum away.
    """
    return [Vote(MAX_WEIGHT, MAX_WEIGHT) if place in favoured else REJECTION for place in range(len(votes))]


DELTA_ATTACKS: Mapping[str, Callable[[Float32Array, int], Float32Array]] = {
    "sign_flip": sign_flip,
    "inner_product_manipulation": inner_product_manipulation,
    "a_little_is_enough": a_little_is_enough,
    "mimic": mimic,
    "model_replacement": model_replacement,
}
"""Those from honest deltas to the attackers', with each paper's usual strength."""


def _little_z(num_honest: int, num_attackers: int) -> float:
    supporters = (num_honest + num_attackers) // 2 + 1 - num_attackers
    share = (num_honest - supporters) / num_honest
    # With a majority of their own the attackers need no supporters, and alone no z hides them.
    return NormalDist().inv_cdf(min(max(share, 0.5), 0.999))


def _mean(honest: Float32Array) -> NDArray[np.float64]:
    if honest.ndim != 2 or not len(honest):
        raise UsageError(f"an attack needs the updates of honest workers, (n, P), not {honest.shape}")
    mean: NDArray[np.float64] = honest.mean(axis=0, dtype=np.float64)
    return mean


def _each(delta: NDArray[np.float64], num_attackers: int) -> Float32Array:
    _require_attackers(num_attackers)
    return np.tile(delta.astype(np.float32), (num_attackers, 1))


def _require_attackers(num_attackers: int) -> None:
    if num_attackers < 1:
        raise UsageError(f"{num_attackers} attackers are no attack")
