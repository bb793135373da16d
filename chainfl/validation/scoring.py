"""How a validator comes to its integers: gate, clip, leave-one-out score (docs/protocol.md).

Floats stay inside this file: what comes out are the weight and the score of each update, as the contract takes them.
An update is never judged by its lone effect on the loss: with skewed data every honest worker looks harmful alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chainfl.aggregation.norms import clip_weights
from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.arrays import Float32Array, Int16Array, Int32Array, blocks
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.errors import EncodingError
from chainfl.training.datasets import Dataset
from chainfl.training.trainer import Trainer

ABSTAIN = 65_535
"""The weight that says: I could not fetch it."""

FULL_SCORE = 10_000
GATE_COSINE = 0.0
DUPLICATE_COSINE = 0.99

_GRAM_BLOCK = 1 << 16
# A ruined candidate's loss may be infinite; a finite stand-in keeps the shares defined.
_WORST_LOSS = 1e6


@dataclass(frozen=True, slots=True)
class Vote:
    """A validator's integers for one update. weight: 0 to 10,000, or ABSTAIN. score: 0 unless the weight counts."""

    weight: int
    score: int


@dataclass(frozen=True, slots=True, eq=False)
class RevealedUpdate:
    """An update as a validator has it. sum_of_squares: as revealed on chain.

    values: (P,) int16, checked (see `checks`); None when it could not be fetched, or, with `rejected`, when what was
    fetched is not an update.
    """

    sum_of_squares: int
    values: Int16Array | None
    rejected: bool = False


@dataclass(frozen=True, slots=True)
class RoundRules:
    """What the task says about a round: its numbers, its server step, and the local training of every participant."""

    model_scale_bits: int
    update_scale_bits: int
    server_step: ServerStep
    steps: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    gate_cosine: float = GATE_COSINE
    duplicate_cosine: float = DUPLICATE_COSINE


def score_round(
    trainer: Trainer,
    root_data: Dataset,
    model: Int32Array,
    updates: Sequence[RevealedUpdate],
    rules: RoundRules,
    *,
    seed: int,
    previous_model: Int32Array | None = None,
) -> list[Vote]:
    """The votes of one validator, one for each update, in the order given.

    root_data: examples of its own, apart from training and test data. model: (P,) int32, the round's global model.
    updates: all that were revealed, in the order of the enrolled workers; the clip's median needs the sums even of
    those that could not be fetched. seed: of the validator's own training. previous_model: the global model of the
    round before, whose step a free-rider might replay. Weight 0 and score 0 go together. Raises TrainingDiverged if
    the validator's own training does, EncodingError for an update of another length.
    """
    clipped = clip_weights([update.sum_of_squares for update in updates])
    held = {i: update.values for i, update in enumerate(updates) if update.values is not None and clipped[i]}
    real_model = dequantize_model(model, rules.model_scale_bits)
    root_update = _root_update(trainer, root_data, real_model, rules, seed)
    last_step = None if previous_model is None else (model.astype(np.int64) - previous_model).astype(np.float32)
    cosines = _Cosines.of(held, root_update, last_step, rules)
    accepted = {i: clipped[i] for i in held if cosines.passes_gate(i)}
    costs = _removal_costs(trainer, root_data, real_model, held, accepted, cosines.groups(accepted), rules)
    scores = _scores(costs)
    return [_vote(update, accepted.get(i, 0), scores.get(i, 0)) for i, update in enumerate(updates)]


def _vote(update: RevealedUpdate, weight: int, score: int) -> Vote:
    if update.values is None and not update.rejected:
        return Vote(ABSTAIN, 0)
    return Vote(weight, score)


def _root_update(
    trainer: Trainer, root_data: Dataset, model: Float32Array, rules: RoundRules, seed: int
) -> Float32Array:
    """(P,) float32: what training on root data alone does to the model: the direction that the gate asks for."""
    result = trainer.train(
        model,
        root_data,
        steps=rules.steps,
        batch_size=rules.batch_size,
        learning_rate=rules.learning_rate,
        seed=seed,
        momentum=rules.momentum,
        weight_decay=rules.weight_decay,
    )
    return result.delta


# --- cosines -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Cosines:
    """Cosines among the held updates, the validator's root update and the last global step."""

    row: Mapping[int, int]
    matrix: NDArray[np.float64]
    root: int
    last_step: int | None
    rules: RoundRules

    @classmethod
    def of(
        cls, held: Mapping[int, Int16Array], root: Float32Array, last_step: Float32Array | None, rules: RoundRules
    ) -> _Cosines:
        vectors: list[NDArray[np.int16] | NDArray[np.float32]] = [*held.values(), root]
        if last_step is not None:
            vectors.append(last_step)
        place = len(held)
        return cls(
            {i: k for k, i in enumerate(held)},
            _cosine_matrix(vectors),
            place,
            place + 1 if last_step is not None else None,
            rules,
        )

    def passes_gate(self, update: int) -> bool:
        """Whether the update points where root data point. A root update of zero says nothing, so it stops nobody."""
        has_direction = self.matrix[self.root, self.root] > 0
        return not has_direction or bool(self.matrix[self.row[update], self.root] > self.rules.gate_cosine)

    def groups(self, accepted: Mapping[int, int]) -> list[_Group]:
        """The accepted updates in groups of near-duplicates (transitively); most groups have one member."""
        remaining, found = list(accepted), []
        while remaining:
            members, replayed = [remaining.pop(0)], False
            for member in members:  # grows while it is walked
                near = [other for other in remaining if self._are_near(self.row[member], self.row[other])]
                members += near
                remaining = [other for other in remaining if other not in near]
                replayed |= self.last_step is not None and self._are_near(self.row[member], self.last_step)
            found.append(_Group(tuple(members), replayed))
        return found

    def _are_near(self, a: int, b: int) -> bool:
        return bool(self.matrix[a, b] > self.rules.duplicate_cosine)


@dataclass(frozen=True, slots=True)
class _Group:
    """Updates that share one score. replays_last_step: the last global step is among them: they bring nothing new."""

    members: tuple[int, ...]
    replays_last_step: bool


def _cosine_matrix(vectors: Sequence[NDArray[np.int16] | NDArray[np.float32]]) -> NDArray[np.float64]:
    """(n, n) cosines; the row of a zero vector is all zero. Walks in blocks, so that no vector is copied whole."""
    if len({vector.shape for vector in vectors}) != 1:
        raise EncodingError("the updates have different lengths", shapes=[vector.shape for vector in vectors])
    gram = np.zeros((len(vectors), len(vectors)))
    for block in blocks(len(vectors[0]), _GRAM_BLOCK):
        rows = np.stack([vector[block].astype(np.float64) for vector in vectors])
        gram += rows @ rows.T
    norms = np.sqrt(gram.diagonal())
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines: NDArray[np.float64] = gram * np.outer(inverse, inverse)
    return cosines


# --- leaving one out -----------------------------------------------------------------------------


def _removal_costs(
    trainer: Trainer,
    root_data: Dataset,
    model: Float32Array,
    held: Mapping[int, Int16Array],
    accepted: Mapping[int, int],
    groups: Sequence[_Group],
    rules: RoundRules,
) -> dict[int, float]:
    """What leaving each accepted update out of the round's aggregate costs in held-out loss, negative if it helps.

    Near-duplicates are left out together and share the cost; otherwise each would be covered by its copies. Leaving out
    a replay of the last step counts as no cost: scaled up, such a replay would earn more than the work that it copies.
    """
    if not accepted:
        return {}
    scale = rules.server_step.num / rules.server_step.den * 2.0**-rules.update_scale_bits
    total, total_weight = _weighted_sum(held, accepted), sum(accepted.values())

    def loss_of(weighted: NDArray[np.float64], weight: int) -> float:
        # With nobody left the model stays where it is.
        step = weighted * (scale / weight) if weight else np.zeros_like(weighted)
        return _finite(trainer.evaluate((model + step).astype(np.float32), root_data).loss)

    with_all = loss_of(total, total_weight)
    costs: dict[int, float] = {}
    for group in groups:
        weights = {i: accepted[i] for i in group.members}
        cost = loss_of(total - _weighted_sum(held, weights), total_weight - sum(weights.values())) - with_all
        share = 0.0 if group.replays_last_step else cost / len(group.members)
        costs.update(dict.fromkeys(group.members, share))
    return costs


def _weighted_sum(held: Mapping[int, Int16Array], weights: Mapping[int, int]) -> NDArray[np.float64]:
    total = np.zeros(len(next(iter(held.values()))))
    for i, weight in weights.items():
        total += held[i] * float(weight)
    return total


def _finite(loss: float) -> float:
    return min(loss, _WORST_LOSS) if math.isfinite(loss) else _WORST_LOSS


def _scores(costs: Mapping[int, float]) -> dict[int, int]:
    """Shares of FULL_SCORE in proportion to the positive costs, at least 1 for everybody accepted."""
    positive = {i: max(0.0, cost) for i, cost in costs.items()}
    total = sum(positive.values())
    if not total > 0:
        return dict.fromkeys(costs, 1)
    return {i: max(1, round(FULL_SCORE * cost / total)) for i, cost in positive.items()}
