"""A task with its real players, journals and payloads on the fake chain, and `simulate` with the same accounts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents_world import NUM_PARAMS, World
from fake_chain import CHAIN_ID, COORDINATOR, TASK, account_of
from torch import nn

from chainfl.agents.learning import LocalLearning, RootDataScorer
from chainfl.agents.validator import Validator
from chainfl.agents.worker import Worker
from chainfl.simulation.experiment import Participants
from chainfl.simulation.simulate import simulate
from chainfl.simulation.strategy import Strategy
from chainfl.tasks.cids import cid_text
from chainfl.tasks.spec import DatasetEntry
from chainfl.tasks.state import Role
from chainfl.training.datasets import Dataset
from chainfl.training.trainer import LocalTrainer

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
            self.players[account] = Validator(context, RootDataScorer(*given))
        return self.players[account]


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
    shares = {account: data(40, seed) for seed, account in enumerate([*workers, *validators])}
    world = LearningWorld(tmp_path, chosen, shares, workers=len(workers))
    world.run()
    found = simulate(
        Softmax(),
        data(40, 99),
        partition=[shares[account] for account in workers],
        root_data=[shares[account] for account in validators],
        validators=2,
        test=data(60, 98),
        strategy=chosen,
        rounds=ROUNDS,
        participants=Participants(tuple(workers), tuple(validators), CHAIN_ID, COORDINATOR, TASK),
        **local_of(chosen),
    )
    for metrics in found.rounds[1:]:
        revealed = world.ports[workers[0]].revealed_updates(TASK, metrics.round, 0)
        assert metrics.bytes_up == sum(len(world.store.blobs[cid_text(update.cid)]) for update in revealed)
    assert [metrics.root for metrics in found.rounds] == [world.chain.models[i][0].hex() for i in range(ROUNDS + 1)]
    assert len({metrics.root for metrics in found.rounds}) == ROUNDS + 1
