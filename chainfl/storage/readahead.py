"""Blocks fetched ahead of their reader: as many at once as the workers, never more in memory than the window.

`read_dag` says which blocks come next (`expect`) and then asks for each of them in that order (`fetch`). What a node
links to is known once the node was read, and comes before whatever follows the node. So nothing beyond the next node
is fetched ahead: each block that was fetched is the next one to be asked for, and none is ever thrown away.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from chainfl.storage.cid import DAG_PB, codec_of
from chainfl.storage.daemons import DaemonPool
from chainfl.storage.unixfs import Fetch
from chainfl.types import Cid


@dataclass
class _Next:
    """A block that will be asked for, and its fetch once that has been started."""

    cid: Cid
    block: Future[bytes] | None = None


class ReadAhead:
    """Gives `read_dag` its blocks, fetched ahead by `workers` threads, at most `window` of them at a time.

    fetch: may be called from several threads; raises what it raises where the block is asked for. Memory: `window`
    blocks, and the one in the reader's hand. Leaving the `with` fetches nothing new and waits for nobody; a fetch
    under way ends by its own limits.
    """

    def __init__(self, fetch: Fetch, *, workers: int, window: int) -> None:
        assert 1 <= workers <= window
        self._fetch = fetch
        self._window = window
        self._pool = DaemonPool(workers, "read-ahead")
        self._lock = threading.Lock()
        self._expected: deque[_Next] = deque()
        self._started = 0  # of those expected

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._expected.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def expect(self, cids: Sequence[Cid]) -> None:
        """These come next, before what was expected so far."""
        with self._lock:
            self._expected.extendleft(_Next(cid) for cid in reversed(cids))
            self._start()

    def fetch(self, cid: Cid) -> bytes:
        """The block, unverified. Not the next one expected: fetched on the spot. Raises what the fetch raises."""
        with self._lock:
            block = self._taken(cid)
        return self._fetch(cid) if block is None else block.result()

    def _taken(self, cid: Cid) -> Future[bytes] | None:
        if not self._expected or self._expected[0].cid != cid:
            return None
        block = self._expected.popleft().block
        if block is not None:
            self._started -= 1
        # What a node links to is expected in a moment, and comes before whatever is first in the queue now.
        if codec_of(cid) != DAG_PB:
            self._start()
        return block

    def _start(self) -> None:
        for upcoming in self._expected:
            if upcoming.block is None:
                if self._started == self._window:
                    return
                upcoming.block = self._pool.submit(self._fetch, upcoming.cid)
                self._started += 1
            if codec_of(upcoming.cid) == DAG_PB:
                return
