"""How a validator comes to its integers: a selection rule's weights, and scores by contribution (docs/protocol.md).

Floats stay inside this folder: what comes out are the weight and the score of each update, as the contract takes them.
An update is never judged by its lone effect on the loss: with skewed data every honest worker looks harmful alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chainfl.aggregation.norms import clip_weights
from chainfl.encoding.arrays import Float32Array, Int16Array, Int32Array, Int64Array
from chainfl.encoding.fixed_point import UPDATE_LIMIT, dequantize_model
from chainfl.encoding.sources import VectorSource, as_source
from chainfl.training.datasets import Dataset
from chainfl.training.trainer import Trainer
from chainfl.validation.contribution.utility import RoundUtility
from chainfl.validation.duplicates import Group, near_duplicates
from chainfl.validation.round_rules import RoundRules
from chainfl.validation.seeds import round_draw
from chainfl.validation.selection.candidates import Candidates, candidates_of

__all__ = ["ABSTAIN", "FULL_SCORE", "RevealedUpdate", "RoundRules", "Vote", "score_round"]

ABSTAIN = 65_535
"""The weight that says: I could not fetch it."""

FULL_SCORE = 10_000


@dataclass(frozen=True, slots=True)
class Vote:
    """A validator's integers for one update. weight: 0 to 10,000, or ABSTAIN. score: 0 unless the weight counts."""

    weight: int
    score: int


@dataclass(frozen=True, slots=True, eq=False)
class RevealedUpdate:
    """An update as a validator has it. sum_of_squares: as revealed on chain.

    values: (P,) int16, checked (see `checks`), in memory or read in blocks; None when it could not be fetched, or, with
    `rejected`, when what was fetched is not an update.
    """

    sum_of_squares: int
    values: Int16Array | VectorSource | None
    rejected: bool = False


def score_round(
    trainer: Trainer,
    root_data: Dataset,
    model: Int32Array,
    updates: Sequence[RevealedUpdate],
    rules: RoundRules,
    *,
    seed: int,
    previous_model: Int32Array | None = None,
    context: bytes = b"",
    root_update: Float32Array | None = None,
    block_hash: bytes = b"",
) -> list[Vote]:
    """The votes of one validator, one for each update, in the order given.

    root_data: examples of its own, apart from training and test data. model: (P,) int32, the round's global model.
    updates: all that were revealed, in the order of the enrolled workers; the clip's median and the draws that all
    validators share need the sums even of those that could not be fetched. seed: of the validator's own training.
    previous_model: the global model of the round before, whose step a free-rider might replay. context: what tells this
    round's shared draws apart, the same for all validators (see `round_draw`). root_update: of `own_update` with the
    same arguments, where that was computed before there were updates. block_hash: that of the round's last commitment,
    which a sampled contribution draws from as well; empty without a chain. Weights do not go by it, so that validators
    who saw different forks choose the same updates (docs/decisions/012). An update of zeros gets weight 0 under every
    rule, which does not see it. Weight 0 and score 0 go together. Raises TrainingDiverged if the validator's own
    training does, EncodingError for an update of another length.
    """
    sums = [update.sum_of_squares for update in updates]
    clipped, draw = clip_weights(sums), round_draw(sums, context)
    held = {i: as_source(update.values) for i, update in enumerate(updates) if update.values is not None and clipped[i]}
    real_model = dequantize_model(model, rules.model_scale_bits)
    root = root_update
    if root is None and rules.selection.rule.needs_root_update:
        root = own_update(trainer, root_data, model, rules, seed=seed)
    candidates = _candidates(held, [clipped[i] for i in held], root, model, previous_model, rules)
    weights = dict(zip(held, rules.selection.weigh(candidates, draw), strict=True))
    accepted = {i: weight for i, weight in weights.items() if weight}
    utility = RoundUtility(trainer, root_data, real_model, held, accepted, rules)
    groups, orders = _groups(candidates, list(held), accepted, rules), round_draw(sums, context + block_hash)
    scores = _scores(_contributions(utility, groups, rules, orders))
    return [_vote(update, accepted.get(i, 0), scores.get(i, 0)) for i, update in enumerate(updates)]


def _vote(update: RevealedUpdate, weight: int, score: int) -> Vote:
    if update.values is None and not update.rejected:
        return Vote(ABSTAIN, 0)
    return Vote(weight, score)


def own_update(
    trainer: Trainer,
    root_data: Dataset,
    model: Int32Array,
    rules: RoundRules,
    *,
    seed: int,
    stop: threading.Event | None = None,
) -> Float32Array:
    """(P,) float32: what the task's local training on root data alone does to the round's model, (P,) int32.

    Raises TrainingDiverged, and TrainingStopped once `stop` is set.
    """
    real_model = dequantize_model(model, rules.model_scale_bits)
    return trainer.train(real_model, root_data, rules.training, seed=seed, stop=stop).delta


def _candidates(
    held: Mapping[int, VectorSource],
    clipped: Sequence[int],
    root: Float32Array | None,
    model: Int32Array,
    previous: Int32Array | None,
    rules: RoundRules,
) -> Candidates:
    step = None if previous is None else model.astype(np.int64) - previous
    return candidates_of(
        list(held.values()),
        scale_bits=rules.update_scale_bits,
        clipped=clipped,
        root=root,
        last_mean=_mean_behind(step, rules) if step is not None and rules.shows_mean else None,
        last_step=None if step is None else step.astype(np.float32),
    )


def _mean_behind(step: Int64Array, rules: RoundRules) -> Int16Array:
    """(P,) int16: the mean update that the plain server step turns into this step, rounded and clipped to int16.

    With a server's momentum, Nesterov's too, it is what a plain server would have needed. The same bits everywhere: two
    roundings of IEEE 754 a value.
    """
    factor = rules.server_step.den / (rules.server_step.num << rules.model_scale_bits - rules.update_scale_bits)
    mean: Int16Array = np.clip(np.rint(step * factor), -UPDATE_LIMIT, UPDATE_LIMIT).astype(np.int16)
    return mean


# --- scores --------------------------------------------------------------------------------------


def _groups(candidates: Candidates, held: Sequence[int], accepted: Mapping[int, int], rules: RoundRules) -> list[Group]:
    """Near-duplicates among the accepted, by the updates' own places."""
    places = [place for place, i in enumerate(held) if i in accepted]
    groups = near_duplicates(candidates, places, rules.duplicate_cosine)
    return [Group(tuple(held[place] for place in group.members), group.replays_last_step) for group in groups]


def _contributions(utility: RoundUtility, groups: Sequence[Group], rules: RoundRules, draw: bytes) -> dict[int, float]:
    """By how much each accepted update lowers the held-out loss, negative if it raises it.

    Near-duplicates come and go together and share what they add; otherwise each would be covered by its copies. A
    replay of the last step counts as adding nothing: scaled up, it would earn more than the work that it copies.
    """
    if not groups:
        return {}

    def loss(players: frozenset[int]) -> float:
        return utility.loss(frozenset(i for player in players for i in groups[player].members))

    values = rules.contribution.values(len(groups), loss, draw)
    return {
        i: 0.0 if group.replays_last_step else value / len(group.members)
        for group, value in zip(groups, values, strict=True)
        for i in group.members
    }


def _scores(contributions: Mapping[int, float]) -> dict[int, int]:
    """Shares of FULL_SCORE in proportion to the positive contributions, at least 1 for everybody accepted."""
    positive = {i: max(0.0, value) for i, value in contributions.items()}
    total = sum(positive.values())
    if not total > 0:
        return dict.fromkeys(contributions, 1)
    return {i: max(1, round(FULL_SCORE * value / total)) for i, value in positive.items()}
