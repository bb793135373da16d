"""Runs beside Flower: its FedAvg, as it comes, over the clients of a case of benchmarks/learning.py.

Flower's own loop (`Strategy.start`) with its own messages and records; a grid without a network hands each message to
its client in this process, one after another, in place of the simulation engine and its worker processes. Clients are
what a user of Flower writes: torch's SGD over shuffled batches. They have the case's data, weights and steps.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict  # type: ignore[import-not-found]
from flwr.serverapp import Grid  # type: ignore[import-not-found]
from flwr.serverapp.strategy import FedAvg  # type: ignore[import-not-found]
from flwr.supercore.task_identity import TaskIdentity  # type: ignore[import-not-found]

given: dict[str, Any] = json.loads(sys.argv[1])
sys.path += given["also"]  # last: whatever Flower brings comes before ours

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

from chainfl.training.datasets import load_mnist  # noqa: E402
from chainfl.training.models import build_model  # noqa: E402
from chainfl.training.partition import Partition, federated_split  # noqa: E402

if TYPE_CHECKING:
    from chainfl.training.datasets import Dataset


class Client:
    """One client's data, and local training on them."""

    def __init__(self, net: torch.nn.Module, data: Dataset) -> None:
        self._net = net
        self._features, self._labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)

    def train(self, message: Any) -> Any:
        """A reply with the weights after the local steps."""
        self._net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        self._net.train()
        optimizer = torch.optim.SGD(self._net.parameters(), lr=given["learning_rate"], momentum=given["momentum"])
        for batch in self._batches():
            optimizer.zero_grad()
            functional.cross_entropy(self._net(self._features[batch]), self._labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        metrics = MetricRecord({"num-examples": len(self._labels)})
        content = RecordDict({"arrays": ArrayRecord(self._net.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    def _batches(self) -> Iterator[torch.Tensor]:
        """One shuffled pass after another, as many batches as there are steps."""
        size, left = given["batch_size"], given["steps"]
        while left:
            order = torch.randperm(len(self._labels))
            for start in range(0, len(order), size)[:left]:
                yield order[start : start + size]
                left -= 1


class OneProcess(Grid):  # type: ignore[misc]
    """A grid whose nodes are here. Only what `Strategy.start` asks of a grid."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = dict(enumerate(clients, 1))

    def set_run(self, run: Any) -> None:
        """There is one."""

    @property
    def run(self) -> Any:
        """None is needed."""
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Any:
        """Strategies make their messages themselves."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """All of them, at any time."""
        return list(self._clients)

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Nothing waits here."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Nothing waits here."""
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Iterable[Any]:
        """Each client's reply."""
        return [self._clients[message.metadata.dst_node_id].train(message) for message in messages]


def main() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    # Every message says where it comes from; its own engine tells its processes so.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    torch.set_num_threads(1)
    torch.manual_seed(given["seed"])
    split = federated_split(
        load_mnist(Path(given["data"])),
        seed=given["seed"],
        num_workers=given["clients"],
        num_validators=0,
        partition=Partition.parse(given["partition"]),
    )
    net = build_model(given["model"], {"height": 28, "width": 28, "num_classes": 10}, given["seed"])
    features, labels = torch.from_numpy(split.test.features), torch.from_numpy(split.test.labels)

    def evaluate(_: int, arrays: Any) -> Any:
        net.load_state_dict(arrays.to_torch_state_dict())
        net.eval()
        right = 0
        with torch.no_grad():
            for part in (slice(start, start + 512) for start in range(0, len(labels), 512)):
                right += int((net(features[part]).argmax(1) == labels[part]).sum())
        return MetricRecord({"accuracy": right / len(labels)})

    started = time.perf_counter()
    # Its clients' own evaluation changes nothing about what is learnt.
    strategy, grid = FedAvg(fraction_evaluate=0.0), OneProcess([Client(net, share) for share in split.workers])
    result = strategy.start(grid, ArrayRecord(net.state_dict()), given["rounds"], evaluate_fn=evaluate)
    metrics = result.evaluate_metrics_serverapp
    accuracies = [metrics[number]["accuracy"] for number in sorted(metrics)]
    print(json.dumps({"accuracies": accuracies, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
