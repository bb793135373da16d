"""Fetching a published data set: the description, the shards that one wants, and the folder that a worker takes.

A folder being filled holds `.shards/<CID>.npz`, each of which is there whole or not at all, and a run that was killed
finds them again. `dataset.json` says what the finished `dataset.npz` is made of, and stands there before it does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from chainfl.data.croissant import MAX_DESCRIPTION_BYTES, Description, parse
from chainfl.data.publishing import Tell
from chainfl.data.shards import read_shard, write_shard
from chainfl.errors import DatasetCorrupt, PayloadTooLarge, UsageError
from chainfl.storage.files import pending_file, reading, remove_orphans, write_whole, writing
from chainfl.storage.moved import Moved, unheard
from chainfl.storage.port import BlobStore
from chainfl.training.datasets import NPZ_NAME, Dataset, concatenate
from chainfl.training.partition import Shard, label_counts
from chainfl.types import Cid

RECORD_NAME: Final = "dataset.json"
_PARTS: Final = ".shards"
_MAX_RECORD_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """What a folder's dataset.npz is made of. shards: their numbers, from 1; sha256: of dataset.npz, in hex."""

    description: str
    shards: list[int]
    sha256: str


def fetch_description(store: BlobStore, cid: Cid) -> Description:
    """The description of a published set. Raises what the store raises, and DescriptionInvalid."""
    return parse(store.get_bytes(cid, max_bytes=MAX_DESCRIPTION_BYTES))


def chosen_shards(told: Description, choice: str | None) -> list[int]:
    """The numbers, from 1, of the shards that `choice` names: None for all, "3" for one, "2/5" for a share.

    A share of 2/5 is the second shard of every five, so that N parties share out all shards between them.
    Raises UsageError for a number that there is no shard for.
    """
    count = len(told.shards)
    if choice is None:
        return list(range(1, count + 1))
    share = Shard.parse(choice if "/" in choice else f"{_number(choice)}/{max(count, _number(choice))}")
    if share.index > count:
        raise UsageError(f"there is no shard {share.index}: {told.words.name} has {count}", shards=count)
    return list(range(share.index, count + 1, share.count))


def fetch_shard(store: BlobStore, told: Description, number: int, path: Path, moved: Moved = unheard) -> bool:
    """Writes a shard to `path` unless it is there. returns: whether it had to be fetched.

    Raises what the store raises, and DatasetCorrupt when its SHA-256 or size is not what the description says.
    """
    shard = told.shards[number - 1]
    if _holds(path, shard.num_bytes, shard.sha256):
        return False
    store.get_file(shard.cid, path, max_bytes=shard.num_bytes, moved=moved)
    if not _holds(path, shard.num_bytes, shard.sha256):
        with writing(path.parent):
            path.unlink(missing_ok=True)
        raise DatasetCorrupt(
            f"shard {number} ({shard.cid}) is not the file of {shard.num_bytes} bytes that is described",
            file=path.name,
            folder=str(path.parent),
        )
    return True


def open_shard(told: Description, number: int, path: Path) -> Dataset:
    """The examples in a fetched shard, whose label counts must be those described. Raises DatasetCorrupt."""
    shard = told.shards[number - 1]
    dataset = read_shard(path, told.form(shard), told.words.name)
    if tuple(map(int, label_counts(dataset))) != shard.label_counts:
        raise DatasetCorrupt(
            f"shard {number} ({shard.cid}) has other label counts than described",
            file=path.name,
            folder=str(path.parent),
        )
    return dataset


def fetch(
    store: BlobStore,
    cid: Cid,
    told: Description,
    numbers: Sequence[int],
    folder: Path,
    *,
    max_bytes: int,
    replace: bool,
    tell: Tell,
    moved: Moved = unheard,
) -> bool:
    """Makes `folder` hold these shards as one dataset.npz. returns: False when it did so before.

    Run again after an end of whatever kind, it fetches what is still missing. max_bytes: of all shards together;
    moved: of the shard under way.
    Raises PayloadTooLarge, UsageError when the folder has other data and `replace` does not allow that, what
    `fetch_shard` and `open_shard` raise.
    """
    size = sum(told.shards[number - 1].num_bytes for number in numbers)
    if size > max_bytes:
        raise PayloadTooLarge(f"the shards have {size:,} bytes, at most {max_bytes:,} are allowed", limit=max_bytes)
    target, parts = folder / NPZ_NAME, folder / _PARTS
    if _is_finished(folder, cid, numbers):
        _remove(parts)  # a run may have been killed before it did
        return False
    if target.exists() and not replace:
        raise UsageError(f"{target} is there and is something else; name another folder, or replace it with --force")
    with writing(folder):
        parts.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        shard = told.shards[number - 1]
        tell(number, shard, fetch_shard(store, told, number, parts / f"{shard.cid}.npz", moved))
    _assemble(folder, cid, told, numbers)
    _remove(parts)
    return True


def _assemble(folder: Path, cid: Cid, told: Description, numbers: Sequence[int]) -> None:
    paths = [folder / _PARTS / f"{told.shards[number - 1].cid}.npz" for number in numbers]
    datasets = [open_shard(told, number, path) for number, path in zip(numbers, paths, strict=True)]
    with writing(folder):
        remove_orphans(folder, f".{NPZ_NAME}.")
        with pending_file(folder, f".{NPZ_NAME}.") as pending:
            with pending.path.open("r+b") as stream:
                write_shard(concatenate(datasets) if len(datasets) > 1 else datasets[0], stream)
            _write_record(folder, Record(cid, list(numbers), _sha256(pending.path)))
            pending.publish(folder / NPZ_NAME)


def _remove(parts: Path) -> None:
    with writing(parts.parent):
        if parts.exists():
            shutil.rmtree(parts)


def _write_record(folder: Path, record: Record) -> None:
    write_whole(folder / RECORD_NAME, json.dumps(asdict(record), sort_keys=True).encode() + b"\n")


def _is_finished(folder: Path, cid: Cid, numbers: Sequence[int]) -> bool:
    record = _read_record(folder / RECORD_NAME)
    if record is None or (record.description, record.shards) != (cid, list(numbers)):
        return False
    path = folder / NPZ_NAME
    return path.is_file() and _sha256(path) == record.sha256


def _read_record(path: Path) -> Record | None:
    """The record; None when there is none, or one that nobody of us wrote."""
    if not path.is_file() or path.stat().st_size > _MAX_RECORD_BYTES:
        return None
    try:
        return Record(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return None


def _holds(path: Path, num_bytes: int, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    with reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < len(text) <= 6 or int(text) == 0:
        raise UsageError(f"a shard is a number from 1, or a share such as 2/5, not {text!r}")
    return int(text)
