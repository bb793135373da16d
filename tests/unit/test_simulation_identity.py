"""A task with its real players, journals and payloads on the fake chain, and `simulate` with the same accounts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from agents_world import NUM_PARAMS, World
from fake_chain import CHAIN_ID, COORDINATOR, TASK, account_of
from torch import nn

from chainfl.agents.learning import LocalLearning, RootDataScorer
from chainfl.agents.validator import Validator
from chainfl.agents.worker import Worker
from chainfl.errors import UsageError
from chainfl.simulation.experiment import Participants, RecordedRound
from chainfl.simulation.outcome import Simulation
from chainfl.simulation.recorded import participants_of
from chainfl.simulation.simulate import simulate
from chainfl.simulation.strategy import Strategy
from chainfl.tasks.cids import cid_text
from chainfl.tasks.spec import DatasetEntry
from chainfl.tasks.state import SELECTIONS, Draw, DrawBy, Role
from chainfl.training.datasets import Dataset
from chainfl.training.trainer import LocalTrainer
from chainfl.types import Address

CLASSES, FEATURES, ROUNDS = 3, NUM_PARAMS // 3, 4
LOCAL = {"steps": 3, "batch_size": 8, "learning_rate": 0.05, "momentum": 0.5}


class Softmax(nn.Module):
    """Softmax regression from zeros, with the world's one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(NUM_PARAMS))

    def forward(self, examples):
        return examples @ self.w.reshape(FEATURES, CLASSES)


def data(count: int, seed: int) -> Dataset:
    """Shares whose classes are skewed each in its own way."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, count, p=rng.dirichlet(np.ones(CLASSES)))
    features = rng.normal(0, 1, (count, FEATURES)).astype(np.float32)
    features[np.arange(count), labels] += 2
    return Dataset("clusters", features, labels, CLASSES)


def local_of(strategy: Strategy) -> dict[str, float]:
    """Momentum is of sgd alone, and so is a rate as high as that."""
    return {**LOCAL, "momentum": 0.0, "learning_rate": 0.005} if "optimizer" in strategy.parameters else LOCAL


def shares_of(*accounts: list[Address]) -> dict[Address, Dataset]:
    """Data of each account's own."""
    return {account: data(40, seed) for seed, account in enumerate(chain.from_iterable(accounts))}


class LearningWorld(World):
    """The world's task, learned for real. shares: by account."""

    def __init__(self, tmp_path, strategy: Strategy, shares, **changes) -> None:
        self.shares = shares
        super().__init__(
            tmp_path,
            rounds=ROUNDS,
            training=strategy.training(**local_of(strategy)),
            format=strategy.format(NUM_PARAMS),
            payload=strategy.payload(),
            validation=strategy.validation(),
            dataset=DatasetEntry(name="clusters", input_shape=[FEATURES], num_classes=CLASSES),
            **changes,
        )

    def start(self, role: Role, account: str):
        super().start(role, account)
        context, trainer = self.players[account].context, LocalTrainer(Softmax())
        given = (self.spec, self.scope, account, trainer, self.shares.get(account))
        if role is Role.WORKER:
            self.players[account] = Worker(context, LocalLearning(*given))
        elif role is Role.VALIDATOR:
            commit_hash = partial(context.chain.last_commit_hash, TASK)
            self.players[account] = Validator(context, RootDataScorer(*given, commit_hash))
        return self.players[account]

    def simulated(self, strategy: Strategy, participants: Participants) -> Simulation:
        """The same learning without the chain."""
        return simulate(
            Softmax(),
            data(40, 99),
            partition=[self.shares[account] for account in participants.workers],
            root_data=[self.shares[account] for account in participants.validators],
            validators=len(participants.validators),
            test=data(60, 98),
            strategy=strategy,
            rounds=ROUNDS,
            participants=participants,
            **local_of(strategy),
        )

    def roots(self) -> list[str]:
        """Of the task's models, from the genesis on."""
        return [self.chain.models[i][0].hex() for i in range(ROUNDS + 1)]


STRATEGIES = ["fedavg", "fedprox", "scaffold", "fednova", "feddyn", "fedavgm", "fedmedian", "fedtrimmedavg"]
SERVERS: list[tuple[str, dict[str, object]]] = [
    ("fedadagrad", {}),
    ("fedadam", {"eta": "1/50"}),
    ("fedyogi", {"compression": "int8"}),
    ("diloco", {}),
    ("fedmedian", {"server": "nesterov", "server_momentum": "1/2"}),
]
COMPRESSED: list[tuple[str, dict[str, str]]] = [
    ("fedavg", {"compression": "deflate"}),
    ("fedavg", {"compression": "int8"}),
    ("fedavg", {"compression": "int4"}),
    ("fedavg", {"compression": "topk", "keep": "0.05"}),
    ("scaffold", {"compression": "int4"}),
    ("scaffold", {"compression": "topk", "keep": "0.05"}),
]
JUDGED: list[tuple[str, dict[str, object]]] = [
    *((rule, {}) for rule in ("root_fit", "krum", "multi_krum", "rfa", "centred_clipping", "fltrust", "norm_bound")),
    ("bulyan", {"rule": "median"}),
    ("rfa", {"before": "bucketing", "bucket_size": 2}),
    ("gate_clip", {"before": "nearest_neighbour_mixing", "num_malicious_clients": 2, "contribution": "shapley"}),
    ("gate_clip", {"contribution": "gtg_shapley"}),
]


@pytest.mark.parametrize(
    ("strategy", "changes"), [*((name, {}) for name in STRATEGIES), *SERVERS, *COMPRESSED, *JUDGED]
)
def test_simulate__accounts_of_a_task__has_its_final_root(tmp_path, strategy, changes):
    chosen = Strategy.named(strategy, numbers={"chunk_params": 16}, **changes)
    # Bulyan bears one attacker of seven.
    counts = ((100, 7 if (strategy, changes) in JUDGED else 3), (200, 2))
    workers, validators = ([account_of(first + i) for i in range(count)] for first, count in counts)
    world = LearningWorld(tmp_path, chosen, shares_of(workers, validators), workers=len(workers))
    world.run()
    accounts = Participants(tuple(workers), tuple(validators), CHAIN_ID, COORDINATOR, TASK)
    found = world.simulated(chosen, accounts)
    for metrics in found.rounds[1:]:
        revealed = world.ports[workers[0]].revealed_updates(TASK, metrics.round, 0)
        assert metrics.bytes_up == sum(len(world.store.blobs[cid_text(update.cid)]) for update in revealed)
    assert [metrics.root for metrics in found.rounds] == world.roots()
    assert len({metrics.root for metrics in found.rounds}) == ROUNDS + 1


def drawn_world(tmp_path, strategy: Strategy, num_workers: int = 5) -> LearningWorld:
    """A task that draws two for each round."""
    workers, validators = (
        [account_of(first + i) for i in range(count)] for first, count in ((100, num_workers), (200, 2))
    )
    shares, draw = shares_of(workers, validators), Draw(2, DrawBy(SELECTIONS.index(strategy.selection)))
    return LearningWorld(tmp_path, strategy, shares, workers=num_workers, draw=draw)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "feddyn"])
def test_simulate__record_of_a_task_that_draws__has_its_roots(tmp_path, strategy, selection):
    chosen = Strategy.named(
        strategy, numbers={"chunk_params": 16}, clients_per_round=2, selection=selection, compression="int8"
    )
    world = drawn_world(tmp_path, chosen)
    world.run()
    recorded = participants_of(world.ports[account_of(100)], TASK)
    found = world.simulated(chosen, recorded)
    assert [metrics.root for metrics in found.rounds] == world.roots()
    assert [metrics.clients for metrics in found.rounds] == [0, 2, 2, 2, 2]
    drawn = [set(world.chain.draws[number].drawn) for number in range(1, ROUNDS + 1)]
    assert [set(played.workers) for played in recorded.rounds] == drawn
    without = world.simulated(chosen, replace(recorded, rounds=()))
    assert without.root != found.root


def test_simulate__record_with_workers_that_went_away__has_its_roots(tmp_path):
    chosen = Strategy.named("fedavg", numbers={"chunk_params": 16}, clients_per_round=2)
    world = drawn_world(tmp_path, chosen, num_workers=3)
    world.run(until=lambda world: world.chain.clock.round == 2)
    world.run(without=[account_of(100)])
    recorded = participants_of(world.ports[account_of(100)], TASK)
    assert {len(played.workers) for played in recorded.rounds} > {1}, "the one that went away was drawn"
    assert [metrics.root for metrics in world.simulated(chosen, recorded).rounds] == world.roots()


def test_simulate__record_with_a_round_of_nobody__leaves_the_model_in_it(tmp_path):
    chosen = Strategy.named("fedavg", numbers={"chunk_params": 16})
    workers, validators = [account_of(100)], [account_of(200)]
    world = LearningWorld(tmp_path, chosen, shares_of(workers, validators), workers=1, validators=1)
    world.run(until=lambda world: world.chain.clock.round == 2)
    world.run(without=workers, until=lambda world: world.chain.clock.round == 3)
    world.run()
    recorded = participants_of(world.ports[workers[0]], TASK)
    assert [len(played.workers) for played in recorded.rounds] == [1, 0, 1, 1]
    roots = [metrics.root for metrics in world.simulated(chosen, recorded).rounds]
    assert roots[1] == roots[2] != roots[3]
    assert roots[3:] == [world.chain.models[i][0].hex() for i in (3, 4)]


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_simulate__record_with_a_round_without_an_aggregate__is_void_there_too(tmp_path, strategy):
    chosen = Strategy.named(strategy, numbers={"chunk_params": 16}, compression="int8")
    workers, validators = [account_of(100), account_of(101)], [account_of(200)]
    world = LearningWorld(tmp_path, chosen, shares_of(workers, validators), workers=2, validators=1)
    world.run(until=lambda world: world.chain.clock.round == 2)
    world.run(without=world.accounts[Role.AGGREGATOR], until=lambda world: world.chain.clock.round == 3)
    world.run()
    recorded = participants_of(world.ports[workers[0]], TASK)
    assert [played.void for played in recorded.rounds] == [False, True, False, False]
    assert all(vote.weight for vote in world.chain.tallies[2]), "only the aggregate was missing"
    roots = [metrics.root for metrics in world.simulated(chosen, recorded).rounds]
    assert roots[1] == roots[2]
    assert [roots[i] for i in (0, 1, 3, 4)] == [world.chain.models[i][0].hex() for i in (0, 1, 3, 4)]


def test_simulate__record_of_sampled_scores__has_them(tmp_path):
    judged = {"before": "bucketing", "bucket_size": 2, "contribution": "gtg_shapley"}
    chosen = Strategy.named("gate_clip", numbers={"chunk_params": 16}, **judged)
    workers, validators = [account_of(100 + i) for i in range(7)], [account_of(200), account_of(201)]
    world = LearningWorld(tmp_path, chosen, shares_of(workers, validators), workers=len(workers))
    world.run()
    recorded = participants_of(world.ports[workers[0]], TASK)
    assert [played.commit_hash for played in recorded.rounds] == list(world.chain.commit_hashes.values())
    scores = [tuple(one.score for one in world.chain.tallies[number]) for number in range(1, ROUNDS + 1)]
    found, other = (world.simulated(chosen, who) for who in (recorded, replace(recorded, rounds=())))
    assert [metrics.scores for metrics in found.rounds[1:]] == scores
    assert [metrics.scores for metrics in other.rounds[1:]] != scores
    assert found.root == other.root == world.roots()[-1]


def test_participants_of__running_task__has_the_rounds_that_are_over(tmp_path):
    chosen = Strategy.named("fedavg", numbers={"chunk_params": 16}, clients_per_round=2)
    world = drawn_world(tmp_path, chosen)
    port = world.ports[account_of(100)]
    world.run(until=lambda world: world.chain.clock.round == 1)
    with pytest.raises(UsageError, match="no round of task 1 is over"):
        participants_of(port, TASK)
    world.run(until=lambda world: world.chain.clock.round == 3 and world.chain.reveals[3])
    recorded = participants_of(port, TASK)
    assert len(recorded.rounds) == 2
    assert (recorded.workers, recorded.chain_id) == (tuple(world.accounts[Role.WORKER]), CHAIN_ID)
    with pytest.raises(UsageError, match="2 recorded rounds, and 4 are to be played"):
        world.simulated(chosen, recorded)
    stranger = replace(recorded, rounds=(RecordedRound((account_of(7),)),) * ROUNDS)
    with pytest.raises(UsageError, match="round 1 was recorded with 0x0000000000000000000000000000000000000007"):
        world.simulated(chosen, stranger)
