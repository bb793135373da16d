"""Who gets which examples: IID or skewed; the split of one run (the demo's); an operator's share of a built-in set.

Everything is drawn from one seeded numpy generator, so every process of a run cuts a set the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chainfl.errors import DatasetError, UsageError
from chainfl.training.datasets import Dataset, DatasetSplits, IntArray, load_dataset

# With the demo's 5 workers about one draw in three is good; a set that fails this often cannot be cut that way. So many
# draws of 60,000 examples take 3 s with 10 parts, 5 s with 1,000.
MAX_DRAWS = 2_000


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
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(MAX_DRAWS):
        draw = _DirichletDraw.of(members, num_parts, alpha, rng)
        if draw.least() >= min_per_part:
            return [rng.permutation(part) for part in draw.parts()]
    raise DatasetError(
        f"none of {MAX_DRAWS:,} Dirichlet({alpha:g}) draws gave each of {num_parts} parts {min_per_part} of "
        f"{len(labels)} examples: take a larger alpha, such as dirichlet:{2 * alpha:g}, or fewer parts"
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


def partition_classes(
    labels: IntArray, num_parts: int, rng: np.random.Generator, *, classes_per_part: int = 2
) -> list[IntArray]:
    """Exactly `classes_per_part` classes to each part, every class to about equally many parts, and shared out evenly.

    labels: (n,). Examples of a class that no part has are in none. Raises UsageError unless there are that many
    classes, DatasetError when a class has fewer examples than there are parts to share it.
    """
    classes = np.unique(labels)
    if not 1 <= classes_per_part <= len(classes):
        raise UsageError(f"each part has 1 to {len(classes)} classes, not {classes_per_part}")
    _check_parts(len(labels), num_parts, classes_per_part)
    hands = _deal(classes, num_parts, classes_per_part, rng)
    pieces: list[list[IntArray]] = [[] for _ in range(num_parts)]
    for label in classes:
        holders = [i for i, hand in enumerate(hands) if label in hand]
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < len(holders):
            raise DatasetError(f"{len(holders)} parts have class {label}, but it has only {len(members)} examples")
        for holder, piece in zip(holders, np.array_split(members, max(1, len(holders))), strict=False):
            pieces[holder].append(piece)
    return [rng.permutation(np.concatenate(piece)) for piece in pieces]


def partition_skewed(
    labels: IntArray, num_parts: int, rng: np.random.Generator, *, share: float = 0.8
) -> list[IntArray]:
    """To each part `share` of one class, and for the rest examples of all classes at random.

    labels: (n,). The classes go round in random order. Examples beyond that ratio are in no part; with as many parts
    as classes there are next to none. Raises UsageError for a share that is not in (0, 1], DatasetError for a class
    with fewer examples than parts that it is the main one of.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share of the main class is above 0 and at most 1, not {share}")
    _check_parts(len(labels), num_parts, 1)
    mains, pool = _main_pieces(labels, num_parts, share, rng)
    wanted = [len(piece) * (1 - share) / share for piece in mains]
    # Rounding may have left the pool an example short.
    cuts = np.floor(np.cumsum(wanted) * min(1.0, len(pool) / max(sum(wanted), 1.0)) + 0.5).astype(np.int64)
    rest = np.split(pool, cuts)[:num_parts]
    return [rng.permutation(np.concatenate(piece)) for piece in zip(mains, rest, strict=True)]


def _deal(classes: IntArray, num_parts: int, each: int, rng: np.random.Generator) -> list[list[int]]:
    """Hands of `each` different classes, from one shuffled deck after another."""
    deck: list[int] = []
    hands = []
    for _ in range(num_parts):
        if len(deck) < each:
            fresh = rng.permutation(classes).tolist()
            # What is left of the old deck goes into this hand: its classes come last in the new one.
            deck += sorted(fresh, key=lambda label: label in deck)
        hands.append(deck[:each])
        deck = deck[each:]
    return hands


def _main_pieces(
    labels: IntArray, num_parts: int, share: float, rng: np.random.Generator
) -> tuple[list[IntArray], IntArray]:
    """Each part's examples of its main class, and the others in random order, as mixed as the whole set."""
    order = rng.permutation(np.unique(labels))
    mains = {int(label): range(place, num_parts, len(order)) for place, label in enumerate(order)}
    pieces: list[IntArray] = [np.empty(0, np.int64)] * num_parts
    pool = []
    for label, parts in mains.items():
        members = rng.permutation(np.flatnonzero(labels == label))
        taken = round(share * len(members))
        if taken < len(parts):
            raise DatasetError(f"class {label} is to be the main one of {len(parts)} parts, but {taken} examples are")
        pool.append(members[taken:])
        for part, piece in zip(parts, np.array_split(members[:taken], max(1, len(parts))), strict=False):
            pieces[part] = piece
    return pieces, rng.permutation(np.concatenate(pool))


@dataclass(frozen=True, slots=True, eq=False)
class _DirichletDraw:
    """members: of each class, in random order. ends: (classes, parts), where each part's share of them ends.

    Most draws are only looked at, so the parts are cut when they are wanted.
    """

    members: list[IntArray]
    ends: IntArray

    @classmethod
    def of(cls, members: Sequence[IntArray], num_parts: int, alpha: float, rng: np.random.Generator) -> _DirichletDraw:
        """members: the indices of each class."""
        shuffled, ends = [], []
        for each in members:
            shuffled.append(rng.permutation(each))
            shares = rng.dirichlet(np.full(num_parts, alpha))
            cuts = np.round(np.cumsum(shares)[:-1] * len(each)).astype(np.int64)
            ends.append(np.append(cuts, len(each)))
        return cls(shuffled, np.array(ends))

    def least(self) -> int:
        """The size of the smallest part."""
        return int(np.diff(self.ends, axis=1, prepend=0).sum(axis=0).min())

    def parts(self) -> list[IntArray]:
        """Indices for each part."""
        cut = [np.split(each, ends[:-1]) for each, ends in zip(self.members, self.ends, strict=True)]
        return [np.concatenate(pieces) for pieces in zip(*cut, strict=True)]


def _check_parts(num_examples: int, num_parts: int, min_per_part: int) -> None:
    if num_parts < 1:
        raise UsageError(f"cannot cut a data set into {num_parts} parts")
    if num_examples < num_parts * min_per_part:
        raise DatasetError(
            f"{num_examples} examples do not give {num_parts} parts {min_per_part} each: take fewer parts, or more data"
        )


def _check_root_sets(num_examples: int, num_validators: int, each: int, needed: int) -> None:
    """Whether validators leave the workers what they need. num_examples: beside the test set."""
    left = num_examples - num_validators * each
    if num_validators and left < needed:
        raise DatasetError(
            f"{num_validators} validators with {each} examples each take {num_validators * each:,} of "
            f"{num_examples:,}, which leaves {max(0, left):,} to the workers, who need {needed:,}: take fewer "
            "validators, or fewer examples for each (root_examples)"
        )


# --- by name -------------------------------------------------------------------------------------

_DEFAULTS: Final[Mapping[str, float | None]] = {"iid": None, "dirichlet": 0.5, "shards": 2, "classes": 2, "skewed": 0.8}
_WHOLE: Final = ("shards", "classes")


@dataclass(frozen=True, slots=True)
class Partition:
    """A way to share examples out, as people write it: `iid`, `dirichlet:0.5`, `shards:2`, `classes:1`, `skewed:0.8`.

    value: alpha, shards a part, classes a part, or the main class's share; None where there is nothing to say.
    """

    kind: str
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Partition:
        """From its name, with or without `:value`. Raises UsageError."""
        kind, colon, value = text.partition(":")
        if kind not in _DEFAULTS or (colon and (kind == "iid" or not _is_number(kind, value))):
            known = ", ".join(str(cls(name, default)) for name, default in _DEFAULTS.items())
            raise UsageError(f"no partition is called {text!r}; there are {known}")
        return cls(kind, (int(value) if kind in _WHOLE else float(value)) if colon else _DEFAULTS[kind])

    def cut(
        self, labels: IntArray, num_parts: int, rng: np.random.Generator, *, min_per_part: int = 1
    ) -> list[IntArray]:
        """Indices for each part. min_per_part: what a Dirichlet draw must leave everybody. Raises as its function."""
        value = self.value if self.value is not None else 0
        if self.kind == "iid":
            return partition_iid(len(labels), num_parts, rng)
        if self.kind == "dirichlet":
            return partition_dirichlet(labels, num_parts, rng, alpha=value, min_per_part=min_per_part)
        if self.kind == "shards":
            return partition_shards(labels, num_parts, rng, shards_per_part=int(value))
        if self.kind == "classes":
            return partition_classes(labels, num_parts, rng, classes_per_part=int(value))
        return partition_skewed(labels, num_parts, rng, share=value)

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}:{self.value:g}"


def _is_number(kind: str, text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}" if kind in _WHOLE else r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) is not None


# --- one run's sets ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FederatedSplit:
    """Disjoint sets of one run: held-out test, one root set a validator, one training set a worker."""

    test: Dataset
    validators: tuple[Dataset, ...]
    workers: tuple[Dataset, ...]
    test_origin: str
    """One line for the report: where the test set comes from."""


DemoSplit = FederatedSplit
"""The demo's own, by Dirichlet."""


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
    """`federated_split` with Dirichlet(alpha) shares of at least `min_per_worker`."""
    return federated_split(
        dataset,
        seed=seed,
        num_workers=num_workers,
        num_validators=num_validators,
        partition=Partition("dirichlet", alpha),
        test_fraction=test_fraction,
        validator_examples=validator_examples,
        min_per_worker=min_per_worker,
    )


def federated_split(
    dataset: Dataset | DatasetSplits,
    *,
    seed: int,
    num_workers: int,
    num_validators: int,
    partition: Partition,
    test_fraction: float = 0.2,
    validator_examples: int = 50,
    min_per_worker: int = 32,
) -> FederatedSplit:
    """Cuts a set for one run by a single seeded permutation: test, validators, and the rest to the workers.

    A set with a test set of its own (MNIST, CIFAR-10) keeps it, and the permutation cuts the training set alone.
    min_per_worker: the least that a Dirichlet draw leaves a worker. Raises DatasetError if the set is too small.
    """
    splits = dataset if isinstance(dataset, DatasetSplits) else DatasetSplits(dataset, None)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(splits.train))
    num_test = 0 if splits.test is not None else round(test_fraction * len(order))
    num_root = num_validators * validator_examples
    least = min_per_worker if partition.kind == "dirichlet" else 1
    _check_root_sets(len(order) - num_test, num_validators, validator_examples, num_workers * least)
    _check_parts(len(order) - num_test - num_root, num_workers, least)
    held_out, roots, rest = np.split(order, [num_test, num_test + num_root])
    shares = partition.cut(splits.train.labels[rest], num_workers, rng, min_per_part=least)
    test = splits.test if splits.test is not None else splits.train.subset(held_out)
    return FederatedSplit(
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
