"""How far a transfer is, for whoever wants to hear it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

Moved = Callable[[int, int], None]
"""Hears, now and then and in any thread, how many bytes of a content are done, and how many it has: 0 if unknown."""

Bytes = TypeVar("Bytes", bytes, memoryview)


def unheard(_done: int, _total: int) -> None:
    """A Moved for whoever does not want to hear it."""


def counted(parts: Iterable[Bytes], total: int, moved: Moved) -> Iterator[Bytes]:
    """The parts as they are. `moved` hears of each when the next one is asked for."""
    done = 0
    for part in parts:
        yield part
        done += len(part)
        moved(done, total)


class Slowest:
    """Several transfers of one content, heard as one: as far as that is which has done least of those that go on."""

    def __init__(self, moved: Moved, names: Iterable[str]) -> None:
        self._moved = moved
        self._lock = threading.Lock()
        self._done = dict.fromkeys(names, 0)

    @contextlib.contextmanager
    def going(self, name: str) -> Iterator[Moved]:
        """A Moved for one of the transfers, which ends with the context."""
        try:
            yield partial(self._hear, name)
        finally:
            with self._lock:
                del self._done[name]

    def _hear(self, name: str, done: int, total: int) -> None:
        with self._lock:
            self._done[name] = done
            self._moved(min(self._done.values()), total)
