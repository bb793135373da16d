"""Publishing a data set: shard after shard into a store, and the description last. Run again, it carries on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from chainfl.data.croissant import MAX_SHARDS, Description, ShardEntry, Words
from chainfl.data.shards import Partition, cut, form_of, write_shard
from chainfl.errors import ChainflError, CidMismatch, PayloadTooLarge, StorageError, TemporaryFull, UsageError
from chainfl.scratch import scratch_folder
from chainfl.storage.files import open_source, pieces, writing
from chainfl.storage.moved import Moved, unheard
from chainfl.storage.port import BlobStore, MendingStore
from chainfl.storage.several import Place, SeveralStores
from chainfl.storage.unixfs import CidBuilder, cid_of
from chainfl.training.datasets import Dataset
from chainfl.training.partition import label_counts
from chainfl.types import Cid

_ARCHIVE_BYTES: Final = 512
"""Of a shard's file, about, beside its arrays."""

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
    that cannot be cut so, DescriptionInvalid for words that cannot stand in a description, all before anything is put;
    and what the store raises.
    """
    if not 1 <= cutting.count <= MAX_SHARDS:
        raise UsageError(f"a data set has 1 to {MAX_SHARDS} shards, not {cutting.count}")
    words.check()
    _described(dataset, words, cutting, list(_as_expected(dataset, cutting))).to_bytes()
    entries: list[ShardEntry] = []
    for number, part in enumerate(_cut(dataset, cutting), 1):
        entry, was_put = _put_shard(part, store, moved)
        entries.append(entry)
        tell(number, entry, was_put)
    described = _described(dataset, words, cutting, entries)
    with scratch_folder() as folder:
        path = folder / "description.json"
        with writing(folder):
            path.write_bytes(described.to_bytes())
        cid, _ = _identify(path)
        _put(path, cid, store, unheard)
    return cid, described


def _described(dataset: Dataset, words: Words, cutting: Cutting, entries: Sequence[ShardEntry]) -> Description:
    form = form_of(dataset)
    return Description(words, form.dtype, form.input_shape, form.num_classes, str(cutting), tuple(entries))


def _cut(dataset: Dataset, cutting: Cutting) -> Iterator[Dataset]:
    return cut(dataset, cutting.count, partition=cutting.partition, alpha=cutting.alpha, seed=cutting.seed)


def _as_expected(dataset: Dataset, cutting: Cutting) -> Iterator[ShardEntry]:
    """The shards to be, but for CID and hash, of which no two differ in length; a cut looks at labels alone."""
    form, cid = form_of(dataset), cid_of(b"")
    blank = np.zeros((len(dataset), 1), np.uint8)
    for part in _cut(replace(dataset, values=blank), cutting):
        size = replace(form, num_examples=len(part)).num_bytes() + _ARCHIVE_BYTES
        yield ShardEntry(cid, bytes(32).hex(), size, tuple(map(int, label_counts(part))))


# --- into every place ----------------------------------------------------------------------------


def _put_shard(part: Dataset, store: BlobStore, moved: Moved) -> tuple[ShardEntry, bool]:
    """The shard's entry, and whether it had to be put."""
    with scratch_folder() as folder:
        path = folder / "shard.npz"
        with writing(path.parent), path.open("wb") as target:
            write_shard(part, target)
        cid, sha256 = _identify(path)
        entry = ShardEntry(cid, sha256, path.stat().st_size, tuple(map(int, label_counts(part))))
        return entry, _put(path, cid, store, moved)


def _put(path: Path, cid: Cid, store: BlobStore, moved: Moved) -> bool:
    """Whether the file had to be put: not where every place that keeps content confirms it, undamaged.

    Raises ContentDamaged where it was damaged and still is.
    """
    places = SeveralStores.of(store)
    mended = _mend(path, cid, places, moved)
    if not mended and _is_confirmed(places, cid):
        return False
    if (stored := store.put_file(path, moved=moved)) != cid:
        raise CidMismatch(f"the store keeps as {stored} what is {cid}", cid=cid)
    _mend(path, cid, places, unheard)
    return True


def _is_confirmed(places: SeveralStores, cid: Cid) -> bool:
    """Whether each place that keeps content says that it keeps this."""
    keeping = {place.name for place in places.places if place.writes} | {service.name for service in places.services}
    return all(standing.holds for standing in places.standings(cid) if standing.place in keeping)


def _mend(path: Path, cid: Cid, places: SeveralStores, moved: Moved) -> bool:
    """Puts the file anew into the stores in which it is damaged. returns: whether it was in any.

    Raises ContentDamaged where that was of no use.
    """
    damaged = [place for place in places.places if place.writes and _damage(place, path, cid, moved)]
    for place in damaged:
        log.warning("%s is damaged in the %s store, and is put there anew", cid, place.name)
        mend = place.store.mend if isinstance(place.store, MendingStore) else place.store.put_file
        mend(path)
        if error := _damage(place, path, cid, unheard):
            raise error
    return bool(damaged)


def _damage(place: Place, path: Path, cid: Cid, moved: Moved) -> ChainflError | None:
    """What is wrong with the bytes that a store has of the file. None also where it has none, or does not say."""
    try:
        if place.store.has(cid):
            place.store.get_file(cid, path.with_name("copy"), max_bytes=path.stat().st_size, moved=moved)
    except (CidMismatch, PayloadTooLarge) as error:
        return error
    except TemporaryFull:
        raise
    except StorageError as error:
        log.debug("the %s store does not give %s: %s", place.name, cid, error)
    return None


def _identify(path: Path) -> tuple[Cid, str]:
    builder, digest = CidBuilder(), hashlib.sha256()
    with open_source(path) as source:
        for piece in pieces(source, path):
            builder.update(piece)
            digest.update(piece)
    return builder.finish(), digest.hexdigest()
