"""Each local algorithm against its paper, written down again slowly in float64, over several clients and rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from chainfl.errors import TrainingDiverged, TrainingError
from chainfl.training import scaffold
from chainfl.training.algorithms import ALGORITHMS
from chainfl.training.datasets import Dataset
from chainfl.training.local_round import TrainedParameters
from chainfl.training.optimizers import effective_steps_of
from chainfl.training.settings import LocalTraining, OptimizerSettings
from chainfl.training.sgd import effective_steps
from chainfl.training.state import vector_of
from chainfl.training.trainer import LocalTrainer, seeded_batches

CLASSES, FEATURES = 3, 4
P = CLASSES * (FEATURES + 1)
ROUNDS = 5
BASE = LocalTraining(steps=7, batch_size=6, learning_rate=0.1)

Vector = np.ndarray
Gradient = Callable[[Vector], Vector]


def squared(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(outputs, functional.one_hot(labels, CLASSES).to(outputs.dtype))


def skewed(sizes: Sequence[int] = (12, 18, 30)) -> list[Dataset]:
    """Each client's own mixture of classes, and its own cloud of examples."""
    rng = np.random.default_rng(5)
    shares = []
    for client, size in enumerate(sizes):
        labels = np.where(rng.random(size) < 0.8, client % CLASSES, rng.integers(0, CLASSES, size))
        features = rng.normal(client - 1, 1.0, (size, FEATURES)).astype(np.float32)
        shares.append(Dataset("skewed", features, labels.astype(np.int64), CLASSES))
    return shares


def linear_trainer() -> LocalTrainer:
    torch.manual_seed(3)
    return LocalTrainer(nn.Linear(FEATURES, CLASSES), squared)


# --- chainfl's rounds, without integers ----------------------------------------------------------


def played(
    training: LocalTraining,
    shares: Sequence[Dataset],
    rounds: int = ROUNDS,
    taking_part: Callable[[int], Sequence[int]] | None = None,
) -> list[Vector]:
    """The global model before the first round and after each; a round in which nobody takes part is void."""
    trainer = linear_trainer()
    models, last_step, memories = [trainer.initial_vector], None, [{} for _ in shares]
    for number in range(rounds):
        present = range(len(shares)) if taking_part is None else taking_part(number)
        results = {
            client: trainer.train(
                models[-1], shares[client], training, seed=client, memory=memories[client], last_step=last_step
            )
            for client in present
        }
        if results:
            last_step = np.mean([result.delta for result in results.values()], axis=0, dtype=np.float32)
        for client, result in results.items():
            memories[client] = trainer.settle(training, result.kept, result.delta, last_step)
        models.append(models[-1] + last_step if results else models[-1])
    return models


# --- the papers, in float64 ----------------------------------------------------------------------


def gradients_of(training: LocalTraining, share: Dataset, seed: int, steps: int | None = None) -> list[Gradient]:
    """One gradient function for each step, of the mean squared error over that step's batch, by hand."""
    count = training.steps if steps is None else steps
    batches = seeded_batches(share, batch_size=training.batch_size, steps=count, seed=seed)

    def gradient(batch: tuple[torch.Tensor, torch.Tensor], model: Vector) -> Vector:
        x, y = batch[0].double().numpy(), batch[1].numpy()
        bias, weight = model[:CLASSES], model[CLASSES:].reshape(CLASSES, FEATURES)
        error = 2 * (x @ weight.T + bias - np.eye(CLASSES)[y]) / (len(y) * CLASSES)
        return np.concatenate([error.sum(axis=0), (error.T @ x).ravel()])

    return [partial(gradient, batch) for batch in batches]


def descend(start: Vector, gradients: Sequence[Gradient], training: LocalTraining) -> Vector:
    model, velocity = start.copy(), np.zeros(P)
    for gradient in gradients:
        velocity = training.momentum * velocity + gradient(model)
        model -= training.learning_rate * velocity
    return model


def fedavg_rounds(training: LocalTraining, shares: Sequence[Dataset]) -> list[Vector]:
    """Each client descends from the global model, and the next one is their plain mean."""
    models = [linear_trainer().initial_vector.astype(np.float64)]
    for _ in range(ROUNDS):
        local = [descend(models[-1], gradients_of(training, share, i), training) for i, share in enumerate(shares)]
        models.append(np.mean(local, axis=0))
    return models


def fedprox_rounds(training: LocalTraining, shares: Sequence[Dataset]) -> list[Vector]:
    models = [linear_trainer().initial_vector.astype(np.float64)]
    for _ in range(ROUNDS):
        anchor, local = models[-1], []
        for client, share in enumerate(shares):
            pulled = [
                lambda model, g=g, anchor=anchor: g(model) + training.proximal_mu * (model - anchor)
                for g in gradients_of(training, share, client)
            ]
            local.append(descend(anchor, pulled, training))
        models.append(np.mean(local, axis=0))
    return models


def scaffold_rounds(training: LocalTraining, shares: Sequence[Dataset]) -> list[Vector]:
    """Algorithm 1 of the paper, option II, all clients, global step size 1; c and c_i as the paper keeps them."""
    models = [linear_trainer().initial_vector.astype(np.float64)]
    server, clients = np.zeros(P), [np.zeros(P) for _ in shares]
    worth = sum(sum(training.momentum**j for j in range(k)) for k in range(1, training.steps + 1))
    for _ in range(ROUNDS):
        start, local, changes = models[-1], [], []
        for client, share in enumerate(shares):
            shift = server - clients[client]
            corrected = [lambda m, g=g, shift=shift: g(m) + shift for g in gradients_of(training, share, client)]
            local.append(descend(start, corrected, training))
            after = clients[client] - server + (start - local[-1]) / (worth * training.learning_rate)
            changes.append(after - clients[client])
            clients[client] = after
        server = server + np.mean(changes, axis=0)
        models.append(np.mean(local, axis=0))
    return models


def fednova_rounds(training: LocalTraining, shares: Sequence[Dataset], steps: Sequence[int]) -> list[Vector]:
    """d_i is the mean of the gradients seen, weighted by a_i; the server moves by τ_eff·η of the mean d_i."""
    models = [linear_trainer().initial_vector.astype(np.float64)]
    beta, rate = training.momentum, training.learning_rate
    weights = [np.array([sum(beta**j for j in range(count - k)) for k in range(count)]) for count in steps]
    full = sum(sum(beta**j for j in range(training.steps - k)) for k in range(training.steps))
    for _ in range(ROUNDS):
        directions = []
        for client, share in enumerate(shares):
            model, velocity, seen = models[-1].copy(), np.zeros(P), []
            for gradient in gradients_of(training, share, client, steps[client]):
                seen.append(gradient(model))
                velocity = beta * velocity + seen[-1]
                model -= rate * velocity
            directions.append(weights[client] @ np.array(seen) / weights[client].sum())
        models.append(models[-1] - full * rate * np.mean(directions, axis=0))
    return models


def feddyn_rounds(training: LocalTraining, shares: Sequence[Dataset]) -> list[Vector]:
    """Algorithm 1 of the paper, all clients. returns: the means of the local models, of which w is -h/α further on."""
    alpha = training.alpha
    model = linear_trainer().initial_vector.astype(np.float64)
    means, server, duals = [model], np.zeros(P), [np.zeros(P) for _ in shares]
    for _ in range(ROUNDS):
        local = []
        for client, share in enumerate(shares):
            regularised = [
                lambda m, g=g, dual=duals[client], w=model: g(m) - dual + alpha * (m - w)
                for g in gradients_of(training, share, client)
            ]
            local.append(descend(model, regularised, training))
            duals[client] = duals[client] - alpha * (local[-1] - model)
        server = server - alpha * (np.mean(local, axis=0) - model)
        means.append(np.mean(local, axis=0))
        model = means[-1] - server / alpha
    return means


def assert_same(ours: Sequence[Vector], reference: Sequence[Vector]) -> None:
    assert np.abs(reference[-1] - reference[0]).max() > 0.05
    for mine, theirs in zip(ours, reference, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=5e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fedavg__against_the_paper__same_models(momentum):
    training = replace(BASE, algorithm="fedavg", momentum=momentum)
    assert_same(played(training, skewed()), fedavg_rounds(training, skewed()))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fedprox__against_the_paper__same_models(momentum):
    training = replace(BASE, algorithm="fedprox", proximal_mu=0.3, momentum=momentum)
    assert_same(played(training, skewed()), fedprox_rounds(training, skewed()))


def test_fedprox__mu_zero__is_fedavg_to_the_bit():
    avg, prox = (played(replace(BASE, algorithm=name), skewed()) for name in ("fedavg", "fedprox"))
    np.testing.assert_array_equal(avg[-1], prox[-1])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_scaffold__everybody_takes_part__is_the_papers_option_two(momentum):
    training = replace(BASE, algorithm="scaffold", momentum=momentum)
    assert_same(played(training, skewed()), scaffold_rounds(training, skewed()))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova__unequal_steps__is_the_papers_normalised_mean(momentum):
    training = replace(BASE, algorithm="fednova", local_epochs=1, momentum=momentum, learning_rate=0.03)
    steps = [training.steps_for(len(share)) for share in skewed()]
    assert steps == [2, 3, 5]
    assert_same(played(training, skewed()), fednova_rounds(training, skewed(), steps))


def test_fednova__equal_steps__is_fedavg_to_the_bit():
    avg, nova = (played(replace(BASE, algorithm=name, momentum=0.9), skewed()) for name in ("fedavg", "fednova"))
    np.testing.assert_array_equal(avg[-1], nova[-1])


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_feddyn__plain_server_step__walks_the_papers_local_means(momentum):
    training = replace(BASE, algorithm="feddyn", alpha=0.5, momentum=momentum)
    assert_same(played(training, skewed()), feddyn_rounds(training, skewed()))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_played__same_seeds__same_bits(algorithm):
    training = replace(BASE, algorithm=algorithm, proximal_mu=0.1, alpha=0.1, local_epochs=2)
    first, second = (played(training, skewed(), rounds=3)[-1] for _ in range(2))
    np.testing.assert_array_equal(first, second)


# --- where the rounds come to rest ---------------------------------------------------------------


def optimum(shares: Sequence[Dataset]) -> Vector:
    """(P,) float64: of the mean of the clients' losses, all clients weighing the same."""
    design = np.zeros((FEATURES + 1, FEATURES + 1))
    targets = np.zeros((FEATURES + 1, CLASSES))
    for share in shares:
        extended = np.hstack([np.ones((len(share), 1)), share.features.astype(np.float64)])
        design += extended.T @ extended / len(share)
        targets += extended.T @ np.eye(CLASSES)[share.labels] / len(share)
    solution = np.linalg.solve(design, targets)
    return np.concatenate([solution[0], solution[1:].T.ravel()])


WHOLE = LocalTraining(steps=10, batch_size=64, learning_rate=0.05, momentum=0.9)
"""Every batch is all of a client's data, so that the minimum can be reached and not just circled."""


def distance(training: LocalTraining, rounds: int, taking_part: Callable[[int], Sequence[int]] | None = None) -> float:
    return float(np.linalg.norm(played(training, skewed(), rounds, taking_part)[-1] - optimum(skewed())))


def test_scaffold__local_momentum_on_skewed_clients__reaches_the_minimum_that_fedavg_misses():
    assert distance(replace(WHOLE, algorithm="scaffold"), 50) < 1e-3
    assert distance(WHOLE, 50) > 0.3


def test_scaffold__variates_over_steps_alone__does_not_survive_momentum(monkeypatch):
    monkeypatch.setattr(scaffold, "effective_steps_of", lambda training, steps: steps)
    with pytest.raises(TrainingDiverged):
        distance(replace(WHOLE, algorithm="scaffold"), 50)


def some_of_three(number: int) -> list[int]:
    """Now and then somebody is away or not counted, and some rounds are void."""
    return [[0, 1, 2], [0, 2], [1, 2], [], [0, 1, 2], [0, 1]][number % 6]


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_drift_correction__workers_come_and_go_then_all_stay__rests_at_the_minimum(name):
    training = replace(WHOLE, algorithm=name, alpha=0.2, momentum=0.5)
    assert distance(training, 90, lambda number: some_of_three(number) if number < 24 else range(3)) < 2e-3


def test_scaffold__absent_workers_variate_stays_while_the_servers_moves__rests_beside_the_minimum():
    """Why the drift stays, and not c_i: the other reading of `nothing happened to the absent` leaves a bias."""
    shares, training = skewed(), replace(WHOLE, momentum=0.0)
    model, server, clients = np.zeros(P), np.zeros(P), [np.zeros(P) for _ in range(3)]
    for number in range(90):
        present = some_of_three(number) if number < 24 else [0, 1, 2]
        deltas = []
        for client in present:
            shift = server - clients[client]
            corrected = [lambda m, g=g, s=shift: g(m) + s for g in gradients_of(training, shares[client], client)]
            deltas.append(descend(model, corrected, training) - model)
            clients[client] = -shift - deltas[-1] / (training.steps * training.learning_rate)
        if present:
            server = -np.mean(deltas, axis=0) / (training.steps * training.learning_rate)
            model = model + np.mean(deltas, axis=0)
    assert np.linalg.norm(model - optimum(shares)) > 0.02


def test_scaffold__not_counted__memory_of_the_next_round_is_the_one_before():
    trainer, share, training = linear_trainer(), skewed()[0], replace(BASE, algorithm="scaffold")
    first = trainer.train(trainer.initial_vector, share, training, seed=0)
    assert not first.kept["drift"].any()
    memory = trainer.settle(training, first.kept, first.delta, first.delta * np.float32(0.5))
    second = trainer.train(trainer.initial_vector, share, training, seed=1, memory=memory)
    np.testing.assert_array_equal(second.kept["drift"], memory["drift"])
    assert memory["drift"].any()


# --- which parameters are touched ----------------------------------------------------------------


def with_statistics() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(FEATURES, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.Linear(5, CLASSES))
    module[2].requires_grad_(False)
    return module


STATEFUL = [
    replace(BASE, algorithm="scaffold"),
    replace(BASE, algorithm="feddyn", alpha=0.5),
    replace(BASE, algorithm="fedprox", proximal_mu=0.5),
]


@pytest.mark.parametrize("training", STATEFUL, ids=lambda training: training.algorithm)
def test_correction__buffers_and_frozen_parameters__are_left_alone(training):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=len(vector_of(with_statistics()))).astype(np.float32)
    memory = {"drift": noise, "dual": noise}
    trainer = LocalTrainer(with_statistics())
    result = trainer.train(trainer.initial_vector, skewed()[2], training, seed=0, memory=memory, last_step=noise)
    moved = trainer.layout.unflatten(result.delta)
    assert not moved["2.weight"].any()
    assert not moved["2.bias"].any()
    assert 0 < np.abs(moved["1.running_mean"]).max() < 5
    for kept in result.kept.values():
        named = trainer.layout.unflatten(kept)
        assert not any(named[name].any() for name in ("1.running_mean", "1.running_var", "2.weight", "2.bias"))
        assert named["0.weight"].any()


def test_fednova__statistics_of_batch_norm__are_not_scaled():
    trainer, share = LocalTrainer(with_statistics()), skewed()[0]
    start = trainer.initial_vector
    plain, nova = (
        trainer.train(start, share, replace(BASE, algorithm=name, local_epochs=1), seed=0).delta
        for name in ("fedavg", "fednova")
    )
    plain, nova = trainer.layout.unflatten(plain), trainer.layout.unflatten(nova)
    np.testing.assert_array_equal(nova["1.running_mean"], plain["1.running_mean"])
    np.testing.assert_allclose(nova["0.weight"], plain["0.weight"] * 7 / 2, rtol=1e-5, atol=1e-7)


class Tied(nn.Module):
    """One parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(features))[:, :CLASSES]


@pytest.mark.parametrize("training", STATEFUL, ids=lambda training: training.algorithm)
def test_correction__tied_parameter__is_corrected_once(training):
    trainer, share = LocalTrainer(Tied()), skewed()[0]
    start = trainer.initial_vector
    ones = np.ones(trainer.layout.num_params, np.float32)
    one_step = replace(training, steps=1)
    plain = trainer.train(start, share, replace(one_step, algorithm="fedavg"), seed=0).delta
    result = trainer.train(start, share, one_step, seed=0, memory={"drift": ones, "dual": ones})
    expected = 0.0 if training.algorithm == "fedprox" else training.learning_rate
    np.testing.assert_allclose(result.delta - plain, expected * ones, atol=1e-6)


def test_trained_parameters__two_over_one_memory__are_refused():
    module = Tied()
    module.last.weight = nn.Parameter(module.first.weight.data)
    with pytest.raises(TrainingError, match="share memory"):
        TrainedParameters(module)


def test_correction__loss_does_not_depend_on_a_parameter__follows_the_others():
    module = nn.Linear(FEATURES, CLASSES)
    module.register_parameter("unused", nn.Parameter(torch.ones(2)))
    trainer = LocalTrainer(module)
    memory = {"drift": np.ones(trainer.layout.num_params, np.float32)}
    result = trainer.train(
        trainer.initial_vector, skewed()[0], replace(BASE, algorithm="scaffold"), seed=0, memory=memory
    )
    np.testing.assert_allclose(trainer.layout.unflatten(result.delta)["unused"], 0.7, rtol=1e-5)


# --- effective steps -----------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 1e-9, 0.5, 0.9, 0.999999])
def test_effective_steps__against_the_recursion__same_displacement(momentum, nesterov):
    position = velocity = 0.0
    for _ in range(40):
        velocity = momentum * velocity + 1
        position += 1 + momentum * velocity if nesterov else velocity
    assert effective_steps(40, momentum, nesterov=nesterov) == pytest.approx(position, rel=1e-6)


def test_effective_steps__what_the_built_in_sgd_does__is_what_is_counted():
    module = nn.Linear(FEATURES, CLASSES)
    trainer = LocalTrainer(module, lambda outputs, _: outputs.sum() * 0 + module.weight.sum() + module.bias.sum())
    training = replace(BASE, momentum=0.9, learning_rate=0.01)
    moved = trainer.train(np.zeros(P, np.float32), skewed()[0], training, seed=0).delta
    np.testing.assert_allclose(moved, -0.01 * effective_steps_of(training, training.steps), rtol=1e-5)


def test_effective_steps__adaptive_optimiser__has_none():
    training = replace(BASE, optimizer=OptimizerSettings("adam"))
    with pytest.raises(TrainingError, match="effective number of steps"):
        effective_steps_of(training, 5)


def test_steps_for__local_epochs__counts_passes_up_to_the_tasks_steps():
    training = replace(BASE, local_epochs=2)
    assert [training.steps_for(n) for n in (1, 6, 7, 12, 21, 1000)] == [2, 2, 3, 4, 7, 7]
    assert BASE.steps_for(1) == 7
    assert math.isclose(effective_steps(7, 0.0), 7)
