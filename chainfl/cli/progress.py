"""Bars in bytes, on a terminal alone and to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chainfl.storage.moved import Moved, unheard

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True, slots=True)
class Bar:
    """One transfer after the other."""

    _progress: Progress
    _task: TaskID

    def begin(self, doing: str) -> None:
        """Another transfer, of which nothing is known yet."""
        self._progress.reset(self._task, total=None, description=doing)

    def moved(self, done: int, total: int) -> None:
        """A Moved."""
        self._progress.update(self._task, completed=done, total=total or None)


@contextmanager
def open_bar(doing: str) -> Iterator[Bar]:
    """A bar that is gone at the end; for a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress, progress.add_task(doing, total=None))


@contextmanager
def working(doing: str) -> Iterator[None]:
    """A sign of life on a terminal, with the time that has passed, for what has no measure."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(doing, total=None)
        yield


@contextmanager
def showing(doing: str) -> Iterator[Moved]:
    """What shows one transfer on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield unheard
        return
    with open_bar(doing) as bar:
        yield bar.moved
