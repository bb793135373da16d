"""The demo's learning without chain, storage or processes: the same split, integers, votes and medians.

A helper of the tests, and the command behind the tables of docs/decisions/003:
`python tests/unit/training_simulation.py [--data mnist --data-dir DIR] [--seeds 5] [--set learning_rate=0.1 ...]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np

from chainfl.aggregation.mean import WeightedMean
from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.chunk_tree import update_root
from chainfl.encoding.fixed_point import dequantize_model, quantize_model, quantize_update
from chainfl.training.datasets import Dataset, DatasetSplits, concatenate, load_dataset
from chainfl.training.models import build_model
from chainfl.training.partition import demo_split
from chainfl.training.presets import PRESETS, Preset
from chainfl.training.settings import LocalTraining
from chainfl.training.trainer import LocalTrainer
from chainfl.validation.scoring import RevealedUpdate, RoundRules, Vote, score_round


@dataclasses.dataclass
class Outcome:
    """What one simulated run came to. rejected: shares of honest updates of which the median weight was 0."""

    accuracy_by_round: list[float]
    centralized: float
    rejected: float
    agreement: float
    clipped_share: float
    train_seconds: float  # CPU time for one worker and round, so that a busy machine does not change it
    score_seconds: float
    scores: np.ndarray


def simulate(
    preset: Preset,
    splits: DatasetSplits,
    *,
    seed: int,
    num_workers: int = 5,
    num_validators: int = 3,
    alpha: float = 0.5,
    validator_examples: int = 50,
    training_seed: int | None = None,
) -> Outcome:
    """One run. seed: of the split and of the genesis model, and of all training unless `training_seed` is given."""
    draws = seed if training_seed is None else training_seed
    split = demo_split(
        splits,
        seed=seed,
        num_workers=num_workers,
        num_validators=num_validators,
        alpha=alpha,
        validator_examples=validator_examples,
    )
    trainer = LocalTrainer(build_model(preset.model, preset.model_params, seed))
    rules = rules_of(preset)
    genesis = quantize_model(trainer.initial_vector, preset.model_scale_bits).values
    model, previous = genesis, None
    residuals: list[np.ndarray | None] = [None] * num_workers
    accuracy, rejected, agreement, clipped, all_scores = [], 0, [], 0, []
    train_seconds = score_seconds = 0.0
    for round_number in range(1, preset.rounds + 1):
        start = time.process_time()
        quantized = [
            quantize_update(
                train(
                    trainer, preset, dequantize_model(model, preset.model_scale_bits), data, [draws, round_number, i]
                ),
                preset.update_scale_bits,
                residuals[i],
            )
            for i, data in enumerate(split.workers)
        ]
        train_seconds += time.process_time() - start
        updates = [RevealedUpdate(update_root(q.values, 256).sum_of_squares, q.values) for q in quantized]
        start = time.process_time()
        votes = [
            score_round(
                trainer, data, model, updates, rules, seed=_seed(draws, round_number, 100 + j), previous_model=previous
            )
            for j, data in enumerate(split.validators)
        ]
        score_seconds += time.process_time() - start
        weights = [lower_median([v[i].weight for v in votes]) for i in range(num_workers)]
        scores = [lower_median([v[i].score for v in votes]) for i in range(num_workers)]
        mean = WeightedMean(len(model), preset.model_scale_bits, preset.update_scale_bits)
        for update, weight in zip(updates, weights, strict=True):
            mean.add(update.values, weight)
        previous, model = model, (mean.apply(model, rules.server_step).model if sum(weights) else model)
        residuals = [q.residual if w else r for q, w, r in zip(quantized, weights, residuals, strict=True)]
        rejected += weights.count(0)
        clipped += sum(q.num_clipped for q in quantized)
        agreement.append(statistics.mean(agreed_share(vote, weights, scores) for vote in votes))
        all_scores.append(scores)
        accuracy.append(evaluate(trainer, preset, model, split.test))
    return Outcome(
        accuracy,
        centralized(trainer, preset, genesis, concatenate(list(split.workers)), split.test, seed),
        rejected / (num_workers * preset.rounds),
        statistics.mean(agreement),
        clipped / (num_workers * preset.rounds * len(model)),
        train_seconds / (num_workers * preset.rounds),
        score_seconds / (num_validators * preset.rounds),
        np.array(all_scores),
    )


def rules_of(preset: Preset) -> RoundRules:
    return RoundRules(
        model_scale_bits=preset.model_scale_bits,
        update_scale_bits=preset.update_scale_bits,
        server_step=ServerStep(preset.server_step_num, preset.server_step_den),
        training=local_training(preset),
    )


def local_training(preset: Preset, steps: int = 0) -> LocalTraining:
    return LocalTraining(
        steps=steps or preset.steps,
        batch_size=preset.batch_size,
        learning_rate=preset.learning_rate,
        momentum=preset.momentum,
        weight_decay=preset.weight_decay,
    )


def train(trainer: LocalTrainer, preset: Preset, model: np.ndarray, data: Dataset, seeds: list[int], steps: int = 0):
    result = trainer.train(model, data, local_training(preset, steps), seed=_seed(*seeds))
    return result.delta


def centralized(
    trainer: LocalTrainer, preset: Preset, genesis: np.ndarray, data: Dataset, test: Dataset, seed: int
) -> float:
    """The baseline: the workers' data together, rounds x local steps, the same batch size and optimiser."""
    start = dequantize_model(genesis, preset.model_scale_bits)
    delta = train(trainer, preset, start, data, [seed, 0, 0], steps=preset.rounds * preset.steps)
    return trainer.evaluate(start + delta, test).accuracy


def evaluate(trainer: LocalTrainer, preset: Preset, model: np.ndarray, test: Dataset) -> float:
    return trainer.evaluate(dequantize_model(model, preset.model_scale_bits), test).accuracy


def lower_median(values: list[int]) -> int:
    return sorted(values)[(len(values) - 1) // 2]


def agreed_share(votes: list[Vote], weights: list[int], scores: list[int]) -> float:
    """docs/protocol.md, Money: accept or reject as the median, and the score within max(median/4, 500) of it."""
    agreed = [
        (vote.weight > 0) == (weight > 0) and abs(vote.score - score) <= max(score // 4, 500)
        for vote, weight, score in zip(votes, weights, scores, strict=True)
    ]
    return sum(agreed) / len(agreed)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _parse() -> tuple[argparse.Namespace, Preset]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", choices=sorted(PRESETS))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split-seed", type=int, help="keep this split and model, and vary only the training's seed")
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--validators", type=int, default=3)
    parser.add_argument("--root-examples", type=int, default=50)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.data]
    for field, _, value in (text.partition("=") for text in arguments.set):
        if field in preset.model_params:
            preset = dataclasses.replace(preset, model_params={**preset.model_params, field: int(value)})
        else:
            preset = dataclasses.replace(preset, **{field: type(getattr(preset, field))(value)})
    return arguments, preset


def main() -> None:
    arguments, preset = _parse()
    splits = load_dataset(preset.dataset, arguments.data_dir)
    print(preset)
    print("seed  federated  centralised   gap  rejected  agreement  clipped  train s  score s (CPU)")
    outcomes = []
    for seed in range(arguments.seeds):
        outcome = simulate(
            preset,
            splits,
            seed=seed if arguments.split_seed is None else arguments.split_seed,
            training_seed=seed,
            num_workers=arguments.workers,
            num_validators=arguments.validators,
            validator_examples=arguments.root_examples,
        )
        outcomes.append(outcome)
        final = outcome.accuracy_by_round[-1]
        print(
            f"{seed:4d}  {final:9.2%}  {outcome.centralized:11.2%}  {100 * (outcome.centralized - final):+.2f}"
            f"  {outcome.rejected:8.1%}  {outcome.agreement:9.1%}  {outcome.clipped_share:7.3%}"
            f"  {outcome.train_seconds:7.3f}  {outcome.score_seconds:7.3f}"
        )
    finals = [outcome.accuracy_by_round[-1] for outcome in outcomes]
    gaps = [outcome.centralized - final for outcome, final in zip(outcomes, finals, strict=True)]
    print(f"median {statistics.median(finals):.2%}, worst {min(finals):.2%}, median gap {statistics.median(gaps):+.2%}")


if __name__ == "__main__":
    main()
