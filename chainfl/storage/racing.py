"""Whom of several servers to ask for a thing, and when to ask a second one as well.

The servers are strangers: some are slow, some dead, some lie. The one that answers soonest is asked first; when it
lets its usual time pass, or its answer does not move on, the next is asked beside it, and the first good answer wins.
Who failed goes to the back, for longer each time. Who gave other bytes than it was asked for is never asked again; nor
who did so twice where it could have been an accident.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final, NamedTuple

from chainfl.errors import BlobNotFound, CidMismatch, ServiceUnreachable, StorageError

_log = logging.getLogger("chainfl.storage")
_UNKNOWN_S: Final = 0.5
_SMOOTHING: Final = 4
_MAX_REST_S: Final = 60
_MAX_SILENCE_S: Final = 3600
_MAX_SLACK_S: Final = 60
STREAM_FLOOR: Final = 1 << 20
"""Bytes a second below which a stream is slow if another server is faster."""


@dataclass(frozen=True)
class Pace:
    """When a second server is asked, in seconds.

    soonest, latest: bounds of the wait for an answer to begin, which is otherwise three times what is usual;
    unknown: the wait where nothing is known; piece, finish: from the beginning of an answer to its next piece, and to
    its end; behind: how far a stream may fall behind STREAM_FLOOR.
    """

    soonest: float = 0.2
    latest: float = 5
    unknown: float = 1
    piece: float = 2
    finish: float = 15
    behind: float = 3

    def hedge_s(self, server: Server) -> float:
        """How long `server` may take to begin before another one is asked as well."""
        if server.usual_s is None:
            return self.unknown
        return min(max(3 * server.usual_s, self.soonest), self.latest)


class Server:
    """One server, and how it has been in this process. Safe among threads. Times are of the monotonic clock.

    name: what is shown of it; url: where it is asked, which may hold a secret. The name, unless it is given.
    """

    def __init__(self, name: str, url: str = "") -> None:
        self.name = name
        self.url = url or name
        self.usual_s: float | None = None  # until an answer begins
        self.failures = 0  # in a row
        self.rests_until = 0.0  # at the back until then
        self.silent_until = 0.0  # not asked until then: it said so
        self.lie = ""  # what it gave; never asked again
        self.doubted_at: float | None = None  # when it first gave what may be a lie or an accident
        self.streams = True  # whether a CAR stream of it is of use
        self.under_way = 0
        self._lock = threading.Lock()

    def asked(self) -> None:
        with self._lock:
            self.under_way += 1

    def ended(self) -> None:
        with self._lock:
            self.under_way -= 1

    def answered(self, began_s: float) -> None:
        """It gave the right bytes, which began to come after `began_s`."""
        with self._lock:
            usual_s = began_s if self.usual_s is None else self.usual_s
            self.usual_s = usual_s + (began_s - usual_s) / _SMOOTHING
            self.failures = 0
            self.rests_until = 0.0

    def failed(self, now: float) -> None:
        """It is dead or slow: it goes to the back for a second, then two, then four."""
        with self._lock:
            self.rests_until = now + min(2**self.failures, _MAX_REST_S)
            self.failures = min(self.failures + 1, _MAX_REST_S)

    def late(self, now: float, waited_s: float) -> None:
        """It was overtaken by another after `waited_s`, which counts as the time that it takes."""
        with self._lock:
            usual_s = waited_s if self.usual_s is None else self.usual_s
            self.usual_s = usual_s + (waited_s - usual_s) / _SMOOTHING
        self.failed(now)

    def hushed(self, now: float, seconds: float) -> None:
        """It asked to be left alone for so long."""
        with self._lock:
            self.silent_until = now + min(max(seconds, 1), _MAX_SILENCE_S)

    def lied(self, what: str) -> None:
        """It gave other bytes. One warning names it."""
        with self._lock:
            known, self.lie = self.lie, what
        if not known:
            _log.warning("%s is left out from now on, for it lied: %s", self.name, what)

    def doubted(self, what: str, asked_at: float, now: float) -> None:
        """It gave other bytes, and perhaps could not help it. Asked once more and doing it again, it lied."""
        with self._lock:
            again = self.doubted_at is not None and asked_at >= self.doubted_at
            if self.doubted_at is None:
                self.doubted_at = now
        if again:
            self.lied(f"{what}, for the second time")
        else:
            self.failed(now)

    def blamed(self, error: StorageError, now: float, asked_at: float) -> None:
        """What `error` says about it, which was asked at `asked_at`. A thing that it lacks is no fault of its own."""
        if isinstance(error, CidMismatch):
            self.lied(str(error))
        elif "doubt" in error.evidence:
            self.doubted(str(error), asked_at, now)
        elif "rest_s" in error.evidence:
            self.hushed(now, error.evidence["rest_s"])
        elif isinstance(error, ServiceUnreachable):
            self.failed(now)

    def usable(self, now: float) -> bool:
        return not self.lie and self.silent_until <= now

    def describe(self, now: float) -> str:
        """How it is, in a few words."""
        if self.lie:
            return f"{self.name} (lied, left out)"
        if self.silent_until > now:
            return f"{self.name} (asked for {self.silent_until - now:.0f} s of peace)"
        if self.failures:
            return f"{self.name} (failing, {self.failures} in a row)"
        return self.name if self.usual_s is None else f"{self.name} ({1000 * self.usual_s:.0f} ms)"


def in_order(servers: Iterable[Server], now: float) -> list[Server]:
    """Those that may be asked, the best first: rested before resting, soonest expected answer, order as configured."""

    def rank(server: Server) -> tuple[bool, float]:
        usual_s = _UNKNOWN_S if server.usual_s is None else server.usual_s
        return server.rests_until > now, usual_s * (1 + server.under_way)

    return sorted((server for server in servers if server.usable(now)), key=rank)


class Won(NamedTuple):
    """The server that gave the right bytes first, and the bytes."""

    server: Server
    block: bytes


class Attempt:
    """One server asked in a race, by a thread of its own that says when the answer begins."""

    def __init__(self, server: Server, events: queue.SimpleQueue[Attempt | None]) -> None:
        self.server = server
        self.asked_at = time.monotonic()
        self.began_at: float | None = None
        self.moved_at = self.asked_at
        self.overdue = False
        self._events = events
        self._cancel: Callable[[], None] | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def began(self) -> None:
        """Its answer begins to come."""
        self.began_at = self.moved_at = time.monotonic()
        self._events.put(self)

    def moved(self) -> None:
        """Another piece of its answer has come."""
        self.moved_at = time.monotonic()

    def on_cancel(self, cancel: Callable[[], None]) -> None:
        """What ends it early, from another thread; called at once if it is not wanted any more."""
        with self._lock:
            self._cancel = cancel
            cancelled = self._cancelled
        if cancelled:
            cancel()

    def cancel(self) -> None:
        """Somebody else was sooner."""
        with self._lock:
            self._cancelled = True
            cancel = self._cancel
        if cancel:
            cancel()

    def due_at(self, pace: Pace) -> float:
        """When another one is to be asked beside it."""
        if self.began_at is None:
            return self.asked_at + pace.hedge_s(self.server)
        return min(self.moved_at + pace.piece, self.began_at + pace.finish)


Ask = Callable[[Attempt], bytes]
"""Asks the attempt's server: the right bytes, or a StorageError. CidMismatch: it lied. ServiceUnreachable with `rest_s`
in its evidence: it asked to be left alone for so long. With `doubt`: other bytes that may be an accident, "cut" or
"page"."""


class Race:
    """One thing, asked of several servers until one gives it. Used once, in one thread."""

    def __init__(self, servers: Sequence[Server], ask: Ask, *, pool: Executor, pace: Pace) -> None:
        self._waiting = deque(servers)
        self._ask = ask
        self._pool = pool
        self._pace = pace
        self._events: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        # Not in the attempt: its future's callback holds it, and a block must be free as soon as it was used.
        self._running: dict[Attempt, Future[bytes]] = {}
        self._again: set[str] = set()
        self._stopped = False
        self.said: dict[str, StorageError] = {}

    def run(self) -> Won | None:
        """Who won; None when nobody gave it, and `said` tells what each server said."""
        try:
            while not self._stopped and (self._running or self._start()):
                try:
                    attempt = self._events.get(timeout=self._hedge_in_s())
                except queue.Empty:
                    if not self._hedge_in_s():  # more of an answer may have come meanwhile
                        self._hedge()
                    continue
                if attempt in self._running and self._running[attempt].done():
                    block = self._judged(attempt, self._running.pop(attempt))
                    if block is not None:
                        return Won(attempt.server, block)
            return None
        finally:
            self._end()

    def stop(self) -> None:
        """Ends it from another thread: nobody needs the thing any more."""
        self._stopped = True
        self._events.put(None)

    def _start(self) -> bool:
        if not self._waiting:
            return False
        attempt = Attempt(self._waiting.popleft(), self._events)
        attempt.server.asked()
        future = self._running[attempt] = self._pool.submit(self._ask, attempt)
        future.add_done_callback(lambda _: self._done(attempt))
        return True

    def _done(self, attempt: Attempt) -> None:
        attempt.server.ended()
        self._events.put(attempt)

    def _hedge_in_s(self) -> float | None:
        """How long to wait before another server is asked; None when there is none left to ask."""
        if not self._waiting:
            return None
        due_at = max(attempt.due_at(self._pace) for attempt in self._running)
        return max(due_at - time.monotonic(), 0)

    def _hedge(self) -> None:
        for attempt in self._running:
            attempt.overdue = True
        self._start()

    def _judged(self, attempt: Attempt, future: Future[bytes]) -> bytes | None:
        server, now = attempt.server, time.monotonic()
        try:
            block = future.result()
        except StorageError as error:
            self.said[server.name] = error
            self._blame(attempt, error, now)
            return None
        server.answered((attempt.began_at or now) - attempt.asked_at)
        return block

    def _blame(self, attempt: Attempt, error: StorageError, now: float) -> None:
        server = attempt.server
        server.blamed(error, now, attempt.asked_at)
        # An answer that was cut may come whole the second time; a late one, a web page or none at all would not.
        cut = attempt.began_at is not None and isinstance(error, ServiceUnreachable)
        hopeless = error.evidence.get("late") or error.evidence.get("doubt") == "page"
        if cut and not hopeless and server.name not in self._again:
            self._again.add(server.name)
            self._waiting.append(server)

    def _end(self) -> None:
        now = time.monotonic()
        for attempt, future in self._running.items():
            if attempt.overdue:
                attempt.server.late(now, now - attempt.asked_at)
            future.cancel()
            attempt.cancel()
        self._running.clear()


class Slack:
    """How long a stream is still waited for before another server is tried beside it.

    It may fall behind STREAM_FLOOR by `most_s`, and is given at least as long as the floor allows for a block. Once it
    has outlasted its rivals, which are no faster then, it may fall behind by twice as much.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._left_s = most_s

    def wait_s(self) -> float:
        """For the next block."""
        return max(self._left_s, min(1.0, self._most_s))

    def spent(self, seconds: float, num_bytes: int) -> None:
        """So many bytes came within so many seconds."""
        self._left_s = min(self._most_s, self._left_s - seconds + num_bytes / STREAM_FLOOR)

    def outlasted(self) -> None:
        """Nobody was sooner."""
        self._most_s = min(2 * self._most_s, _MAX_SLACK_S)
        self._left_s = self._most_s


def nobody_gave(thing: str, servers: Sequence[Server], said: dict[str, StorageError]) -> StorageError:
    """One error for all that was said. BlobNotFound only if every server that does not lie was asked and lacks it."""
    told = "; ".join(f"{name}: {error}" for name, error in said.items()) or "none may be asked now"
    honest = [server for server in servers if not server.lie]
    names = ", ".join(server.name for server in servers)
    if not honest:
        return CidMismatch(f"no gateway is left to ask for {thing}, each of them lied: {names}", cid=thing)
    if all(isinstance(said.get(server.name), BlobNotFound) for server in honest):
        return BlobNotFound(f"no gateway has {thing}: {told}", cid=thing)
    return ServiceUnreachable(f"no gateway gave {thing}: {told}", cid=thing, service=names)
