"""The block cache: verified, bounded, least recently used first, one fetch for all, and never in the way."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from at_once import READY, run_at_once, waiting

from chainfl.errors import BlobNotFound, CidMismatch, ConfigError, InvalidCid
from chainfl.storage import cache as module
from chainfl.storage.cache import MIN_CACHE_BYTES, BlockCache
from chainfl.storage.unixfs import cid_of
from chainfl.types import Cid

MIB = 1 << 20
BLOCK = b"a block"
CID = cid_of(BLOCK)


@pytest.fixture
def cache(tmp_path: Path) -> BlockCache:
    return BlockCache(tmp_path / "cache", max_bytes=MIN_CACHE_BYTES)


def path_of(cache: BlockCache, cid: Cid) -> Path:
    return cache.root / "blocks" / cid[-2:] / cid


def numbered(count: int, size: int = MIB) -> list[tuple[Cid, bytes]]:
    blocks = [b"%08d" % number + bytes(size - 8) for number in range(count)]
    return [(cid_of(block), block) for block in blocks]


class Counted:
    """A fetch from a dictionary that remembers what it was asked for."""

    def __init__(self, blocks: dict[Cid, bytes]) -> None:
        self.blocks = blocks
        self.asked: list[Cid] = []

    def __call__(self, cid: Cid) -> bytes:
        self.asked.append(cid)
        if cid not in self.blocks:
            raise BlobNotFound("not here", cid=cid)
        return self.blocks[cid]


# --- keeping -------------------------------------------------------------------------------------


def test_through__block_twice__is_fetched_once_and_lies_where_it_should(cache: BlockCache) -> None:
    upstream = Counted({CID: BLOCK})
    fetch = cache.through(upstream)
    assert fetch(CID) == fetch(CID) == BLOCK
    assert upstream.asked == [CID]
    assert path_of(cache, CID).read_bytes() == BLOCK
    assert cache.holds(CID)
    assert list((cache.root / "pending").iterdir()) == list((cache.root / "locks").iterdir()) == []


def test_through__wrong_block__is_a_mismatch_and_not_kept(cache: BlockCache) -> None:
    with pytest.raises(CidMismatch):
        cache.through(Counted({CID: b"other"}))(CID)
    assert not cache.holds(CID)


def test_through__fetch_fails__says_so_and_the_next_one_tries_again(cache: BlockCache) -> None:
    upstream = Counted({})
    for _ in range(2):
        with pytest.raises(BlobNotFound):
            cache.through(upstream)(CID)
    assert len(upstream.asked) == 2


def test_get__nothing_there__is_none_and_makes_no_folder(cache: BlockCache) -> None:
    assert cache.get(CID) is None
    assert not cache.root.exists()


@pytest.mark.parametrize(
    "damage", [b"", BLOCK[:-1], BLOCK + b"\0", bytes(3 * MIB)], ids=["empty", "cut", "more", "huge"]
)
def test_get__damaged_block__is_removed_and_fetched_again(
    cache: BlockCache, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    cache.keep(CID, BLOCK)
    path_of(cache, CID).write_bytes(damage)
    upstream = Counted({CID: BLOCK})
    assert cache.through(upstream)(CID) == BLOCK
    assert upstream.asked == [CID]
    assert path_of(cache, CID).read_bytes() == BLOCK
    assert f"{CID} in the cache is damaged" in caplog.text


@pytest.mark.parametrize("cid", ["", "../../etc/passwd", CID.upper(), CID + "/.."])
def test_cache__name_that_is_no_cid__never_becomes_a_path(cache: BlockCache, cid: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: cache.get(Cid(cid)),
        lambda: cache.holds(Cid(cid)),
        lambda: cache.keep(Cid(cid), b""),
        lambda: cache.discard(Cid(cid)),
        lambda: cache.through(Counted({}))(Cid(cid)),
        lambda: cache.alone(Cid(cid)).__enter__(),
    ]
    for use in uses:
        with pytest.raises(InvalidCid):
            use()


def test_discard__block_here_or_not__is_gone(cache: BlockCache) -> None:
    cache.keep(CID, BLOCK)
    for _ in range(2):
        cache.discard(CID)
    assert not cache.holds(CID)


# --- bounds --------------------------------------------------------------------------------------


def test_cache__smaller_than_its_least__is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        BlockCache(tmp_path, max_bytes=MIN_CACHE_BYTES - 1)


def test_keep__beyond_the_bound__never_holds_more_than_it(cache: BlockCache) -> None:
    for cid, block in numbered(40):
        cache.keep(cid, block)
        assert cache.size() <= cache.max_bytes
        assert cache.holds(cid)
    assert cache.size() >= cache.max_bytes // 2


def test_keep__full__least_recently_used_goes_first(cache: BlockCache) -> None:
    blocks = numbered(17)
    for age, (cid, block) in enumerate(blocks[:16]):
        cache.keep(cid, block)
        os.utime(path_of(cache, cid), ns=(age, age))
    oldest, used, *_ = [cid for cid, _ in blocks]
    assert cache.get(used) is not None
    cache.keep(*blocks[16])
    assert not cache.holds(oldest)
    assert cache.holds(used)
    assert not cache.holds(blocks[2][0])
    assert cache.holds(blocks[15][0])


@pytest.mark.parametrize("written", [None, b"", b"not a number", b"9" * 31, b"-5"])
def test_keep__count_lost_or_wrong__is_counted_anew_and_the_bound_holds(
    cache: BlockCache, written: bytes | None
) -> None:
    blocks = numbered(24)
    for cid, block in blocks[:14]:
        cache.keep(cid, block)
    ledger = cache.root / "size"
    ledger.unlink() if written is None else ledger.write_bytes(written)
    for cid, block in blocks[14:]:
        cache.keep(cid, block)
    assert cache.max_bytes // 2 <= cache.size() <= cache.max_bytes


def test_keep__counted_bytes__are_never_fewer_than_the_blocks(cache: BlockCache) -> None:
    for cid, block in numbered(30, size=MIB // 2):
        cache.keep(cid, block)
        cache.keep(cid, block)
        assert int((cache.root / "size").read_bytes()) >= cache.size()


def test_keep__what_a_killed_process_left__is_removed_by_the_next_one(cache: BlockCache) -> None:
    cache.keep(CID, BLOCK)
    left = [cache.root / "pending" / "0123.part", cache.root / "locks" / f"{CID}.block.part"]
    for path in left:
        path.write_bytes(b"half")
    BlockCache(cache.root, max_bytes=MIN_CACHE_BYTES).keep(CID, BLOCK)
    assert not any(path.exists() for path in left)


# --- several at once -----------------------------------------------------------------------------


def test_through__many_threads_want_one_block__one_fetches_it(cache: BlockCache) -> None:
    start = threading.Barrier(8)
    upstream = Counted({CID: BLOCK})
    fetch = cache.through(upstream)

    def want(_: int) -> bytes:
        start.wait(10)
        return fetch(CID)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(want, range(8))) == [BLOCK] * 8
    assert upstream.asked == [CID]


FETCH = f"""
from pathlib import Path
from chainfl.storage.cache import BlockCache
from chainfl.storage.unixfs import cid_of
{READY}
root, log, first, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
blocks = {{cid_of(block): block for block in (b"%08d" % number + bytes({MIB} - 8) for number in range(count))}}
cache = BlockCache(root, max_bytes={MIN_CACHE_BYTES})

def upstream(cid):
    with log.open("a") as file:
        file.write(cid + chr(10))
    return blocks[cid]

fetch, order = cache.through(upstream), [*blocks]
for cid in order[first:] + order[:first]:
    assert fetch(cid) == blocks[cid]
"""


def test_through__eight_processes_want_the_same_blocks__each_is_fetched_once(cache: BlockCache, tmp_path: Path) -> None:
    log, wanted = tmp_path / "log", numbered(12)
    run_at_once(*[waiting(FETCH, cache.root, log, 0, len(wanted)) for _ in range(8)])
    assert sorted(log.read_text().split()) == sorted(cid for cid, _ in wanted)
    assert [cache.get(cid) for cid, _ in wanted] == [block for _, block in wanted]


def test_through__eight_processes_want_more_than_fits__all_get_it_and_the_bound_holds(
    cache: BlockCache, tmp_path: Path
) -> None:
    run_at_once(*[waiting(FETCH, cache.root, tmp_path / "log", 3 * number, 24) for number in range(8)])
    assert cache.size() <= cache.max_bytes + 8 * MIB
    assert list((cache.root / "locks").iterdir()) == list((cache.root / "pending").iterdir()) == []


def test_through__first_one_fails__the_one_that_waits_fetches_itself(cache: BlockCache) -> None:
    first_is_in, go_on = threading.Event(), threading.Event()

    def fails(cid: Cid) -> bytes:
        first_is_in.set()
        assert go_on.wait(10)
        raise BlobNotFound("not here", cid=cid)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.through(fails), CID)
        assert first_is_in.wait(10)
        second = pool.submit(cache.through(Counted({CID: BLOCK})), CID)
        go_on.set()
        assert second.result(10) == BLOCK
        assert isinstance(first.exception(10), BlobNotFound)


def test_through__another_process_holds_the_block_and_has_stopped__is_fetched_alone(tmp_path: Path) -> None:
    impatient = BlockCache(tmp_path / "cache", max_bytes=MIN_CACHE_BYTES, wait_s=0.05)
    upstream = Counted({CID: BLOCK})
    with BlockCache(tmp_path / "cache", max_bytes=MIN_CACHE_BYTES).alone(CID):
        assert impatient.through(upstream)(CID) == BLOCK
    assert upstream.asked == [CID]


def test_alone__another_one_goes_on__is_waited_for(tmp_path: Path) -> None:
    first, second = (BlockCache(tmp_path / "cache", max_bytes=MIN_CACHE_BYTES, wait_s=0.3) for _ in range(2))
    left = threading.Event()

    def wait() -> bool:
        with second.alone(CID):
            return left.is_set()

    with ThreadPoolExecutor(1) as pool:
        with first.alone(CID) as goes_on:
            waiting = pool.submit(wait)
            for _ in range(8):
                assert not threading.Event().wait(0.1)
                goes_on()
            left.set()
        assert waiting.result(10)


def test_keep__another_process_holds_the_count_and_has_stopped__is_not_kept_and_not_waited_for(
    cache: BlockCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LEDGER_WAIT_S", 0.05)
    cache.keep(CID, BLOCK)
    other = cid_of(b"other")
    with (cache.root / "size").open("rb") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        assert cache.through(Counted({other: b"other"}))(other) == b"other"
    assert not cache.holds(other)
    assert "not kept" in caplog.text


def test_alone__different_things__do_not_wait_for_one_another(cache: BlockCache) -> None:
    with cache.alone(CID), cache.alone(CID, "dag"), cache.alone(cid_of(b"other")):
        assert len(list((cache.root / "locks").iterdir())) == 3
    assert list((cache.root / "locks").iterdir()) == []


def test_keep__many_threads__bound_holds_but_for_what_is_being_written(cache: BlockCache) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: cache.keep(*item), numbered(60)))
    assert cache.size() <= cache.max_bytes + 4 * MIB


# --- disks that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_through__disk_refuses__block_is_used_with_one_warning(
    cache: BlockCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "pending_file", refuses)
    upstream = Counted(dict(numbered(3, size=100)))
    for cid in upstream.blocks:
        assert cache.through(upstream)(cid) == upstream.blocks[cid]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    monkeypatch.undo()
    cache.through(upstream)(CID := next(iter(upstream.blocks)))
    assert cache.holds(CID)


def test_cache__folder_is_a_file__blocks_pass_through(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_bytes(b"in the way")
    cache = BlockCache(tmp_path / "cache", max_bytes=MIN_CACHE_BYTES)
    upstream = Counted({CID: BLOCK})
    assert [cache.through(upstream)(CID) for _ in range(2)] == [BLOCK] * 2
    cache.discard(CID)
    assert not cache.holds(CID)
    assert len(caplog.records) == 1


def test_describe__before_and_after__says_how_full_it_is(cache: BlockCache) -> None:
    assert "0 of 16 MB" in cache.describe()
    for cid, block in numbered(3):
        cache.keep(cid, block)
    assert "3 of 16 MB" in cache.describe()
