"""Publishing a data set: shard after shard into a store, and the description last. Run again, it carries on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chainfl.data.croissant import MAX_SHARDS, Description, ShardEntry, Words
from chainfl.data.shards import Partition, cut, form_of, write_shard
from chainfl.errors import CidMismatch, PayloadTooLarge, StorageError, UsageError
from chainfl.scratch import scratch_folder
from chainfl.storage.files import open_source, pieces, writing
from chainfl.storage.moved import Moved, unheard
from chainfl.storage.port import BlobStore
from chainfl.storage.several import SeveralStores
from chainfl.storage.unixfs import CidBuilder
from chainfl.training.datasets import Dataset
from chainfl.training.partition import label_counts
from chainfl.types import Cid

Tell = Callable[[int, ShardEntry, bool], None]
"""Hears of each shard that is in its place: its number, what it is, and whether it had to be moved there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a set is cut. alpha: of Dirichlet; None for IID. One IID shard is the set as it is."""

    count: int = 1
    partition: Partition = "iid"
    alpha: float | None = None
    seed: int = 0

    def __str__(self) -> str:
        if self.count == 1 and self.partition == "iid":
            return "one shard of everything"
        skew = f" alpha {self.alpha}" if self.alpha is not None else ""
        return f"{self.partition}{skew}, seed {self.seed}"


def publish(
    dataset: Dataset, store: BlobStore, words: Words, cutting: Cutting, tell: Tell, moved: Moved = unheard
) -> tuple[Cid, Description]:
    """Puts what is not published yet of shards and description. returns: the description and its CID.

    A shard counts as published once every store that writes has it, verified, and every pinning service confirms it.
    moved: of the shard under way, first as it is looked for and then as it is put.

    The same set, words and cutting give the same CIDs on every machine. Raises UsageError, DatasetError for a set
    that cannot be cut so, DescriptionInvalid for words that cannot stand in a description, and what the store raises.
    """
    if not 1 <= cutting.count <= MAX_SHARDS:
        raise UsageError(f"a data set has 1 to {MAX_SHARDS} shards, not {cutting.count}")
    parts = cut(dataset, cutting.count, partition=cutting.partition, alpha=cutting.alpha, seed=cutting.seed)
    entries: list[ShardEntry] = []
    for number, part in enumerate(parts, 1):
        entry, was_put = _put_shard(part, store, moved)
        entries.append(entry)
        tell(number, entry, was_put)
    form = form_of(dataset)
    described = Description(words, form.dtype, form.input_shape, form.num_classes, str(cutting), tuple(entries))
    return store.put_bytes(described.to_bytes()), described


def _put_shard(part: Dataset, store: BlobStore, moved: Moved) -> tuple[ShardEntry, bool]:
    """The shard's entry, and whether it had to be put: not where every place that keeps content confirms it."""
    with scratch_folder() as folder:
        path = folder / "shard.npz"
        with writing(path.parent), path.open("wb") as target:
            write_shard(part, target)
        cid, sha256 = _identify(path)
        entry = ShardEntry(cid, sha256, path.stat().st_size, tuple(map(int, label_counts(part))))
        if _is_published(store, cid, path.with_name("copy.npz"), entry.num_bytes, moved):
            return entry, False
        if (stored := store.put_file(path, moved=moved)) != cid:
            raise CidMismatch(f"the store keeps as {stored} what is {cid}", cid=cid)
        return entry, True


def _is_published(store: BlobStore, cid: Cid, copy: Path, num_bytes: int, moved: Moved) -> bool:
    """Whether each place that keeps content says that it keeps this, and each store among them gives it, verified."""
    places = SeveralStores.of(store)
    writers = [place for place in places.places if place.writes]
    keeping = {place.name for place in writers} | {service.name for service in places.services}
    if not all(standing.holds for standing in places.standings(cid) if standing.place in keeping):
        return False
    try:
        for place in writers:
            place.store.get_file(cid, copy, max_bytes=num_bytes, moved=moved)
    except (StorageError, PayloadTooLarge) as error:
        log.warning("%s is damaged in the %s, and is put again: %s", cid, place.name, error)
        return False
    return True


def _identify(path: Path) -> tuple[Cid, str]:
    builder, digest = CidBuilder(), hashlib.sha256()
    with open_source(path) as source:
        for piece in pieces(source, path):
            builder.update(piece)
            digest.update(piece)
    return builder.finish(), digest.hexdigest()
