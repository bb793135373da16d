"""kill -9 before every system call of a step: nothing half-written is visible, and the next run leaves nothing over."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import killed_lives
import numpy as np
import pytest
from data_sets import pixels, published
from killed_lives import BLOCKS, CONTENT, KEPT_BYTES, LIVES, SHARDS, cache_of, near

from chainfl.data.fetching import fetch_description
from chainfl.scratch import scratch_folder
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.unixfs import cid_of
from chainfl.training.datasets import load_folder
from chainfl.types import Cid


def folders_of(name: str, tmp_path: Path, *, at_least: int) -> Iterator[Path]:
    """The folder of each life, as it was left; the last life came to its end."""
    done = subprocess.run([sys.executable, killed_lives.__file__, name, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    assert len(folders) >= at_least
    return iter(folders)


def live_again(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same once more, to its end: what nobody can see before it is not there after it either."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    LIVES[name].live(folder)
    with scratch_folder():  # whoever needs one next removes what was left
        pass
    assert list((folder / "tmp").iterdir()) == []
    assert list(folder.rglob("*.part")) == []


def contents(store: EmbeddedStore) -> set[Cid]:
    """All that is visible in the store, each of it whole."""
    found = {Cid(path.name) for path in (store.root / "objects").rglob("*") if path.is_file()}
    for cid in found:
        store.get_bytes(cid, max_bytes=1 << 30)
    return found


def test_cache__killed_while_it_evicts__every_block_is_whole_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = list(BLOCKS)[-1]
    for folder in folders_of("evict", tmp_path, at_least=20):
        cache = cache_of(folder)
        here = [path.name for path in (folder / "cache" / "blocks").rglob("*") if path.is_file()]
        assert set(here) <= BLOCKS.keys()
        assert len(here) >= 6, "an eviction takes no more than it has to"
        assert all((folder / "cache" / "blocks" / cid[-2:] / cid).read_bytes() == BLOCKS[Cid(cid)] for cid in here)
        assert cache.size() <= KEPT_BYTES
        live_again("evict", folder, monkeypatch)
        assert cache.get(newest) == BLOCKS[newest]
        assert cache.size() <= KEPT_BYTES


def test_keep__killed_at_any_time__is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in folders_of("keep", tmp_path, at_least=20):
        assert contents(near(folder)) <= {cid_of(CONTENT)}
        live_again("keep", folder, monkeypatch)
        assert contents(near(folder)) == {cid_of(CONTENT)}


def test_publish__killed_at_any_time__a_description_that_is_there_names_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid, told = published(EmbeddedStore(tmp_path / "reference"), shards=SHARDS)
    shards = {shard.cid for shard in told.shards}
    for folder in folders_of("publish", tmp_path / "lives", at_least=60):
        found = contents(near(folder))
        assert found <= shards | {cid}
        assert cid not in found or shards <= found
        live_again("publish", folder, monkeypatch)
        assert contents(near(folder)) == shards | {cid}
        assert fetch_description(near(folder), cid) == told


def test_fetch__killed_at_any_time__the_data_set_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = np.lexsort(pixels().values.reshape(len(pixels()), -1).T)
    whole = pixels().values[order]
    for folder in folders_of("fetch", tmp_path, at_least=50):
        mine = folder / "mine"
        for path in (path for path in mine.rglob("*.npz") if not path.name.startswith(".")):
            np.load(path)["features"]
        live_again("fetch", folder, monkeypatch)
        assert sorted(path.name for path in mine.iterdir()) == ["dataset.json", "dataset.npz"]
        values = load_folder(mine).values
        assert np.array_equal(values[np.lexsort(values.reshape(len(values), -1).T)], whole)


def test_publish__killed_while_it_writes_the_description_out__the_old_file_stays_or_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in folders_of("write", tmp_path, at_least=3):
        assert (folder / "description.json").read_bytes() in (b"as it was", CONTENT)
        live_again("write", folder, monkeypatch)
        assert (folder / "description.json").read_bytes() == CONTENT


# --- temporary folders ---------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_scratch_folder__used__is_private_and_gone_at_the_end(temporary: Path) -> None:
    with scratch_folder() as folder:
        (folder / "file").write_bytes(b"x")
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o077 == 0
    assert list(temporary.iterdir()) == []


def test_scratch_folder__another_one_is_in_use__stays(temporary: Path) -> None:
    with scratch_folder() as first:
        (first / "file").write_bytes(b"x")
        with scratch_folder() as second:
            assert first != second
        assert (first / "file").read_bytes() == b"x"


def test_scratch_folder__what_others_have_under_such_names__is_not_touched(temporary: Path) -> None:
    outside = temporary / "outside"
    outside.mkdir()
    (temporary / "chainfl-scratch-link").symlink_to(outside, target_is_directory=True)
    (temporary / "chainfl-scratch-file").write_bytes(b"x")
    (temporary / "chainfl-else").mkdir()
    before = sorted(temporary.iterdir())
    with scratch_folder():
        pass
    assert sorted(temporary.iterdir()) == before


def test_scratch_folder__swept_before_it_was_locked__is_made_anew(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, swept = tempfile.mkdtemp, []

    def made_and_swept(**options: str) -> str:
        path = make(**options)
        if not swept:
            swept.append(path)
            Path(path).rmdir()
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", made_and_swept)
    with scratch_folder() as folder:
        assert folder.is_dir()
        assert str(folder) not in swept


def test_scratch_folder__file_system_without_locks__works_and_sweeps_nothing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(9, os.strerror(9))

    left = temporary / "chainfl-scratch-left"
    left.mkdir()
    monkeypatch.setattr(fcntl, "flock", refuses)
    with scratch_folder() as folder:
        (folder / "file").write_bytes(b"x")
    assert list(temporary.iterdir()) == [left]
