"""Temporary folders that do not outlive their process for long, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from chainfl.errors import TemporaryFull

_PREFIX: Final = "chainfl-scratch-"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for this user's eyes alone among the system's temporary files, removed at the end.

    Its owner holds a lock on it, which dies with the process: whatever a killed one left is removed here first. Where
    folders take no locks, none is ever taken for a killed one's. Raises TemporaryFull where none can be made.
    """
    try:
        parent = Path(tempfile.gettempdir())
        _remove_abandoned(parent)
        folder, lock = _create(parent)
    except OSError as error:
        raise TemporaryFull(f"no temporary folder can be made: {error}", path=tempfile.tempdir or "them") from error
    try:
        yield folder
    finally:
        # While the lock is held: once it is free, the folder belongs to whoever sweeps.
        try:
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def is_scratch(path: Path) -> bool:
    """Whether it is in such a folder."""
    return any(part.startswith(_PREFIX) for part in path.parts)


def _create(parent: Path) -> tuple[Path, int]:
    """A new folder, and a descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Before it is locked a sweeper may take it for abandoned; then it is gone, and the next one is tried.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, _FOLDER)
            with contextlib.suppress(OSError):  # no locks there, so that nobody sweeps either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for entry in os.scandir(parent):
        if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
            # In use, gone meanwhile, another user's, or where nothing can be locked: in each case not ours to remove.
            with contextlib.suppress(OSError):
                _remove_if_abandoned(entry.path)


def _remove_if_abandoned(folder: str) -> None:
    lock = os.open(folder, _FOLDER)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
