"""Selection rules again, slowly and on vectors in float64, written from the papers: what the tests compare with."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


def krum_scores(vectors: np.ndarray, f: int) -> list[float]:
    """Each vector's sum of squared distances to its n - f - 2 nearest others, at least one if there is one."""
    scores = []
    for i, vector in enumerate(vectors):
        others = sorted(float(((vector - other) ** 2).sum()) for j, other in enumerate(vectors) if j != i)
        scores.append(sum(others[: max(1, len(vectors) - f - 2)]))
    return scores


def bulyan_selection(vectors: np.ndarray, f: int) -> set[int]:
    """n - 2f times Krum, each time among those that are left."""
    left, picked = list(range(len(vectors))), set()
    while len(picked) < len(vectors) - 2 * f:
        chosen = left[int(np.argmin(krum_scores(vectors[left], f)))]
        left.remove(chosen)
        picked.add(chosen)
    return picked


def weiszfeld(vectors: np.ndarray, iterations: int, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed geometric median from the mean on, and the weights behind it, which add up to 1."""
    centre = vectors.mean(axis=0)
    for _ in range(iterations):
        weights = np.array([1 / max(smoothing, float(np.linalg.norm(vector - centre))) for vector in vectors])
        weights /= weights.sum()
        centre = weights @ vectors
    return centre, weights


def centred_clipping(vectors: np.ndarray, start: np.ndarray, radius: float | None, iterations: int) -> np.ndarray:
    """Where v comes to."""
    centre = start
    for _ in range(iterations):
        lengths = [float(np.linalg.norm(vector - centre)) for vector in vectors]
        limit = sorted(lengths)[(len(lengths) - 1) // 2] if radius is None else radius
        factors = np.array([min(1.0, limit / length) if length else 1.0 for length in lengths])
        moves = (vectors - centre) * factors[:, None]
        centre = centre + np.mean(moves, axis=0)
    return centre


def nearest_neighbour_mixed(vectors: np.ndarray, f: int) -> np.ndarray:
    """Each vector as the mean of the n - f nearest, itself among them."""
    mixed = []
    for i, vector in enumerate(vectors):
        keys = [(float(((vector - other) ** 2).sum()), j != i, j) for j, other in enumerate(vectors)]
        mixed.append(np.mean([vectors[j] for _, _, j in sorted(keys)[: len(vectors) - f]], axis=0))
    return np.array(mixed)


def root_fit(vectors: np.ndarray, root: np.ndarray, lengths: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Shares of the clipped vectors, of which `copies` says how many are alike, by scipy's quadratic programming.

    lengths: (n,), what clipping leaves of each. Only for vectors that the gate lets pass.
    """
    clipped = vectors * lengths[:, None]
    clipped /= np.median(np.linalg.norm(clipped, axis=1))
    direction = root / np.linalg.norm(root)
    equal = 1 / copies / (1 / copies).sum()
    mean = equal @ clipped
    along = float(mean @ direction)
    ridge = 0.1 * float(mean @ mean) / along**2

    def missed(shares: np.ndarray) -> tuple[float, np.ndarray]:
        short, moved = shares @ clipped - 3 * along * direction, shares - equal
        return float(short @ short + ridge * moved @ moved), 2 * (clipped @ short + ridge * moved)

    whole = {"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": np.ones_like}
    between = [(share / 2, share * 2) for share in equal]
    found = minimize(
        missed, equal, jac=True, method="SLSQP", bounds=between, constraints=whole, options={"ftol": 1e-14}
    )
    assert found.success, found.message
    return found.x


def weighted_mean(vectors: np.ndarray, weights: list[int]) -> np.ndarray:
    """What the task's mean rule makes of the weights, before its rounding."""
    return np.array(weights, float) @ vectors / sum(weights)
