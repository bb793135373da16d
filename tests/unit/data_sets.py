"""Small labelled sets, and a published one, for the tests of data sets."""

from __future__ import annotations

import numpy as np

from chainfl.data.croissant import Description, Words
from chainfl.data.publishing import Cutting, publish
from chainfl.storage.port import BlobStore
from chainfl.training.datasets import Dataset
from chainfl.types import Cid

WORDS = Words(
    name="tiny",
    licence="CC0-1.0",
    description="Noise,\nlabelled.",
    creator="nobody",
    date="2026-01-02",
    url="https://x",
)


def pixels(count: int = 40, classes: int = 4, seed: int = 0) -> Dataset:
    """Images of (1, 3, 2) in bytes."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (count, 1, 3, 2), dtype=np.uint8)
    return Dataset("tiny", values, rng.integers(0, classes, count), classes, 1 / 255)


def floats(count: int = 12) -> Dataset:
    """Vectors of 5 in float32."""
    rng = np.random.default_rng(1)
    return Dataset("tiny", rng.normal(size=(count, 5)).astype(np.float32), rng.integers(0, 2, count), 2)


def published(store: BlobStore, dataset: Dataset | None = None, shards: int = 3) -> tuple[Cid, Description]:
    """A set in the store."""
    return publish(dataset or pixels(), store, WORDS, Cutting(shards), lambda *_: None)
