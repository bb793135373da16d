"""Runs beside Flower: its simulation engine (ray), with its FedAvg, over the workers of benchmarks/overhead.py.

A client app and a server app as a user of Flower writes them. The engine has the same cores, and one for each client
that trains; torch has one thread, as everywhere. Each round waits for a line on standard input, and its seconds are
told on standard output; before the first, a round of one step in which ray and its processes start.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

given: dict[str, Any] = json.loads(sys.argv[1])
# Last: whatever Flower brings comes before ours. The engine's workers are processes of their own and need it too.
sys.path += given["also"]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # type: ignore[import-not-found]  # noqa: E402
from flwr.clientapp import ClientApp  # type: ignore[import-not-found]  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # type: ignore[import-not-found]  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # type: ignore[import-not-found]  # noqa: E402
from flwr.simulation import run_simulation  # type: ignore[import-not-found]  # noqa: E402


class Paced(FedAvg):  # type: ignore[misc]
    """FedAvg that waits for a line before each of its rounds, and tells how long the last one took."""

    started: float | None = None

    def configure_train(self, *arguments: Any) -> Any:
        self.tell()
        sys.stdin.readline()
        self.started = time.perf_counter()
        return super().configure_train(*arguments)

    def tell(self) -> None:
        say({"ready": True} if self.started is None else {"seconds": time.perf_counter() - self.started})


def say(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def make_client(given: dict[str, Any]) -> Any:
    """The client app; all that it needs is in here, since it travels to other processes."""
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Any, context: Any) -> Any:
        import sys

        sys.path += [path for path in given["also"] if path not in sys.path]
        import numpy as np
        import torch
        from torch.nn import functional

        from chainfl.training.models import build_model

        torch.set_num_threads(1)
        held = np.load(f"{given['shares']}/{context.node_config['partition-id']}.npz")
        features, labels = torch.from_numpy(held["features"]), torch.from_numpy(held["labels"])
        net = build_model(given["model"], given["model_params"], 0)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(net.parameters(), lr=given["learning_rate"], momentum=given["momentum"])
        left, size = message.content["config"]["steps"], given["batch_size"]
        while left:
            order = torch.randperm(len(labels))
            for start in range(0, len(order), size)[:left]:
                batch = order[start : start + size]
                optimizer.zero_grad()
                functional.cross_entropy(net(features[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                left -= 1
        metrics = MetricRecord({"num-examples": len(labels)})
        content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def make_server() -> Any:
    """Its FedAvg as it comes, without the clients' own evaluation."""
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, _: Context) -> None:
        from chainfl.training.models import build_model

        net = build_model(given["model"], given["model_params"], 0)
        clients = given["clients"]
        everybody = {"min_train_nodes": clients, "min_evaluate_nodes": 0, "min_available_nodes": clients}
        arrays = ArrayRecord(net.state_dict())
        # A round of one step first: the engine's processes start, and load torch, when they get their first client.
        first = FedAvg(fraction_evaluate=0.0, **everybody)
        first.start(grid, arrays, 1, train_config=ConfigRecord({"steps": 1}))
        paced = Paced(fraction_evaluate=0.0, **everybody)
        result = paced.start(grid, arrays, given["rounds"], train_config=ConfigRecord({"steps": given["steps"]}))
        if not all(np.isfinite(array.numpy()).all() for array in result.arrays.values()):
            raise SystemExit("Flower's simulation came to no model")
        paced.tell()

    return app


def main() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    resources = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(
        make_server(),
        make_client(given),
        num_supernodes=given["clients"],
        backend_config={
            "client_resources": resources,
            "init_args": {"num_cpus": given["cores"], "include_dashboard": False, "log_to_driver": False},
        },
    )


if __name__ == "__main__":
    main()
