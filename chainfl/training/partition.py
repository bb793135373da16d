"""Who gets which examples: IID, by Dirichlet, by shards; the demo's split; an operator's share of a built-in set.

Everything is drawn from one seeded numpy generator, so every process of a run cuts a set the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chainfl.errors import DatasetError, UsageError
from chainfl.training.datasets import Dataset, DatasetSplits, IntArray, load_dataset

# With the demo's 5 workers about one draw in three is good; a set that fails this often cannot be cut that way.
MAX_DRAWS = 10_000


def partition_iid(num_examples: int, num_parts: int, rng: np.random.Generator) -> list[IntArray]:
    """Indices dealt out at random; sizes differ by at most one. Raises DatasetError for an empty part."""
    _check_parts(num_examples, num_parts, 1)
    return list(np.array_split(rng.permutation(num_examples), num_parts))


def partition_dirichlet(
    labels: IntArray, num_parts: int, rng: np.random.Generator, *, alpha: float, min_per_part: int = 1
) -> list[IntArray]:
    """Label skew: each class is shared out by proportions drawn from Dirichlet(alpha) (Hsu et al. 2019).

    labels: (n,). A small alpha gives each part few classes, a large one tends to IID. The whole draw is repeated
    until every part has at least `min_per_part` examples; each example is in exactly one part, in shuffled order.
    Raises UsageError for alpha <= 0, DatasetError when no such draw exists or none was found in MAX_DRAWS.
    """
    if not alpha > 0:
        raise UsageError(f"the Dirichlet concentration must be positive, not {alpha}")
    _check_parts(len(labels), num_parts, min_per_part)
    for _ in range(MAX_DRAWS):
        parts = _dirichlet_draw(labels, num_parts, alpha, rng)
        if min(map(len, parts)) >= min_per_part:
            return [rng.permutation(part) for part in parts]
    raise DatasetError(
        f"no draw of {MAX_DRAWS} gave each of {num_parts} parts {min_per_part} of {len(labels)} examples"
    )


def partition_shards(
    labels: IntArray, num_parts: int, rng: np.random.Generator, *, shards_per_part: int = 2
) -> list[IntArray]:
    """Sorted by label, cut into equal shards, `shards_per_part` of them to each part at random (McMahan et al. 2017).

    Raises UsageError for no shards, DatasetError when there are fewer examples than shards.
    """
    if shards_per_part < 1:
        raise UsageError(f"each part needs at least one shard, not {shards_per_part}")
    num_shards = num_parts * shards_per_part
    _check_parts(len(labels), num_parts, shards_per_part)
    shards = np.array_split(np.argsort(labels, kind="stable"), num_shards)
    order = rng.permutation(num_shards).reshape(num_parts, shards_per_part)
    return [rng.permutation(np.concatenate([shards[i] for i in row])) for row in order]


def _dirichlet_draw(labels: IntArray, num_parts: int, alpha: float, rng: np.random.Generator) -> list[IntArray]:
    pieces: list[list[IntArray]] = [[] for _ in range(num_parts)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(num_parts, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for piece, part in zip(pieces, np.split(members, cuts), strict=True):
            piece.append(part)
    return [np.concatenate(piece) for piece in pieces]


def _check_parts(num_examples: int, num_parts: int, min_per_part: int) -> None:
    if num_parts < 1:
        raise UsageError(f"cannot cut a data set into {num_parts} parts")
    if num_examples < num_parts * min_per_part:
        raise DatasetError(f"{num_examples} examples do not give {num_parts} parts {min_per_part} each")


# --- the demo ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DemoSplit:
    """Disjoint sets of one run: held-out test, one root set a validator, one training set a worker."""

    test: Dataset
    validators: tuple[Dataset, ...]
    workers: tuple[Dataset, ...]
    test_origin: str
    """One line for the report: where the test set comes from."""


def demo_split(
    dataset: Dataset | DatasetSplits,
    *,
    seed: int,
    num_workers: int,
    num_validators: int,
    test_fraction: float = 0.2,
    validator_examples: int = 50,
    alpha: float = 0.5,
    min_per_worker: int = 32,
) -> DemoSplit:
    """Cuts a set for one run by a single seeded permutation: test, validators, and the rest to the workers.

    A set with a test set of its own (MNIST, CIFAR-10) keeps it, and the permutation cuts the training set alone.
    Workers get Dirichlet(alpha) shares of at least `min_per_worker`. Raises DatasetError if the set is too small.
    """
    splits = dataset if isinstance(dataset, DatasetSplits) else DatasetSplits(dataset, None)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(splits.train))
    num_test = 0 if splits.test is not None else round(test_fraction * len(order))
    num_root = num_validators * validator_examples
    _check_parts(len(order) - num_test - num_root, num_workers, min_per_worker)
    held_out, roots, rest = np.split(order, [num_test, num_test + num_root])
    shares = partition_dirichlet(splits.train.labels[rest], num_workers, rng, alpha=alpha, min_per_part=min_per_worker)
    test = splits.test if splits.test is not None else splits.train.subset(held_out)
    return DemoSplit(
        test=test,
        validators=tuple(splits.train.subset(part) for part in roots.reshape(num_validators, validator_examples)),
        workers=tuple(splits.train.subset(rest[share]) for share in shares),
        test_origin=_test_origin(splits, len(test), seed),
    )


def _test_origin(splits: DatasetSplits, num_test: int, seed: int) -> str:
    if splits.test is not None:
        return f"the test set of {splits.train.name} itself, {num_test} examples"
    return f"{num_test} of {len(splits.train)} examples of {splits.train.name}, held out by seed {seed}"


# --- an operator's share -------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count`, counted from 1 as people write it: 2/5."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `i/n`. Raises UsageError unless 1 <= i <= n."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        index, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= index <= count:
            raise UsageError(f"a shard is written i/n with 1 <= i <= n, not {text!r}")
        return cls(index, count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def load_shard(
    name: str, shard: Shard, *, seed: int, data_dir: Path | None = None, alpha: float | None = None
) -> Dataset:
    """An operator's share of a built-in set: operators who agree on seed and alpha hold disjoint shares.

    Only the publisher's training set is shared out. IID, or by Dirichlet(alpha). Raises what `load_dataset` and the
    partitioners raise.
    """
    train = load_dataset(name, data_dir).train
    rng = np.random.default_rng(seed)
    if alpha is None:
        parts = partition_iid(len(train), shard.count, rng)
    else:
        parts = partition_dirichlet(train.labels, shard.count, rng, alpha=alpha)
    return train.subset(parts[shard.index - 1])


def label_counts(dataset: Dataset) -> NDArray[np.int64]:
    """(num_classes,) int64: how many examples of each class, for showing how skewed a share is."""
    return np.bincount(dataset.labels, minlength=dataset.num_classes)
