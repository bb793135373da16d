"""Runs beside Flower: the seconds that its own functions take to aggregate float32 files, which are mapped.

    python _flower_aggregation.py '{"files": [...], "pairs_of": N, "product_params": N, "repeats": N}'

Its strategies are on both of its interfaces: functions over arrays (`flwr.server.strategy`), and messages
(`flwr.serverapp.strategy`), where an array travels as bytes that are decoded before they are used. The functions get
the arrays as they are mapped, without any decoding. Krum's distances exist in two ways: pair by pair, and as a matrix
product.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord  # type: ignore[import-not-found]
from flwr.server.strategy import aggregate as functions  # type: ignore[import-not-found]
from flwr.serverapp.strategy.multikrum import compute_distances  # type: ignore[import-not-found]


def fastest(run: Callable[[], object], repeats: int) -> float:
    """The least time of so many calls."""
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    given = json.loads(sys.argv[1])
    logging.disable(logging.WARNING)
    vectors: list[Any] = [np.memmap(path, np.float32, "r") for path in given["files"]]
    for vector in vectors:  # into the page cache and this process's tables
        vector.sum()
    results = [([vector], 100 + i) for i, vector in enumerate(vectors)]
    few, parts = results[: given["pairs_of"]], [vector[: given["product_params"]] for vector in vectors]
    records = [ArrayRecord([part]) for part in parts]
    found = {
        "distances_as_product": fastest(lambda: compute_distances(records), 1),
        "krum_by_pairs": fastest(lambda: functions.aggregate_krum(few, 1, 0), 1),
        "mean": fastest(lambda: functions.aggregate(results), given["repeats"]),
        "median": fastest(lambda: functions.aggregate_median(results), 1),
        "trimmed_mean": fastest(lambda: functions.aggregate_trimmed_avg(results, 0.2), 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
