"""Steps of storage as lives that end with SIGKILL: one before each system call, until one comes to its end.

    python tests/unit/killed_lives.py NAME FOLDER

lives each in a folder of its own, FOLDER/1, FOLDER/2 and so on, in forked children: a fresh interpreter for each would
take a second for every call. Temporary files of a life are in `tmp` beside its own.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from data_sets import WORDS, pixels, published

from chainfl.cli.data import _write
from chainfl.data.fetching import chosen_shards, fetch, fetch_description
from chainfl.data.publishing import Cutting, publish
from chainfl.storage.cache import MIN_CACHE_BYTES, BlockCache
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.files import PendingFile
from chainfl.storage.several import Place, SeveralStores
from chainfl.storage.unixfs import cid_of
from chainfl.types import Cid

MOST_CALLS: Final = 400
CONTENT: Final = bytes(range(256)) * 10_000
BLOCKS: Final = {cid_of(bytes([number]) * 100): bytes([number]) * 100 for number in range(12)}
KEPT_BYTES: Final = 1_000
SHARDS: Final = 3


class Life(NamedTuple):
    """What is there before, and what is killed."""

    prepare: Callable[[Path], None]
    live: Callable[[Path], None]


# --- lives ---------------------------------------------------------------------------------------


def cache_of(folder: Path) -> BlockCache:
    """With room for ten of the blocks: no real one could be so small, and every step would take its megabytes."""
    cache = BlockCache(folder / "cache", max_bytes=MIN_CACHE_BYTES)
    cache.max_bytes = KEPT_BYTES
    return cache


def fill_cache(folder: Path) -> None:
    cache = cache_of(folder)
    for cid, block in list(BLOCKS.items())[:10]:
        cache.keep(cid, block)


def evict(folder: Path) -> None:
    cache = cache_of(folder)
    for cid, block in list(BLOCKS.items())[10:]:
        cache.keep(cid, block)


def near(folder: Path) -> EmbeddedStore:
    return EmbeddedStore(folder / "near")


def far(folder: Path) -> EmbeddedStore:
    return EmbeddedStore(folder / "far")


def put_far(folder: Path) -> None:
    far(folder).put_bytes(CONTENT)


def keep(folder: Path) -> None:
    places = [Place("far", far(folder), writes=False), Place("near", near(folder))]
    SeveralStores(places).keep(cid_of(CONTENT))


def publish_set(folder: Path) -> None:
    publish(pixels(), near(folder), WORDS, Cutting(SHARDS), lambda *_: None)


def publish_far(folder: Path) -> None:
    cid, _ = published(far(folder), shards=SHARDS)
    (folder / "cid").write_text(cid)


def fetch_set(folder: Path) -> None:
    cid = Cid((folder / "cid").read_text())
    told = fetch_description(far(folder), cid)
    numbers, quiet = chosen_shards(told, None), lambda *_: None
    fetch(far(folder), cid, told, numbers, folder / "mine", max_bytes=1 << 20, replace=False, tell=quiet)


def write_another(folder: Path) -> None:
    (folder / "description.json").write_bytes(b"as it was")


def write_description(folder: Path) -> None:
    _write(folder / "description.json", CONTENT)


LIVES: Final = {
    "evict": Life(fill_cache, evict),
    "keep": Life(put_far, keep),
    "publish": Life(lambda _: None, publish_set),
    "fetch": Life(publish_far, fetch_set),
    "write": Life(write_another, write_description),
}


# --- their ends ----------------------------------------------------------------------------------

CALLS: Final[tuple[tuple[Any, tuple[str, ...]], ...]] = (
    (os, ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "open", "scandir")),
    (fcntl, ("flock",)),
    (PendingFile, ("write",)),
    (Path, ("open",)),
)


def die_at(number: int) -> None:
    """From now on this process kills itself before the system call with that number."""
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for owner, names in CALLS:
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def temporary_in(folder: Path) -> None:
    """From now on this process has its temporary files in there."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder / "tmp")


def main(name: str, folder: Path) -> None:
    life = LIVES[name]
    for number in range(1, MOST_CALLS):
        own = folder / str(number)
        if (child := os.fork()) == 0:
            temporary_in(own)
            life.prepare(own)
            die_at(number)
            life.live(own)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
    sys.exit("no life came to its end")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
