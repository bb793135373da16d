"""What a person sees while an experiment runs: bars on a terminal, and warnings wherever standard error goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from chainfl.simulation.metrics import RoundMetrics


@dataclass(frozen=True, slots=True)
class Screen:
    """Two bars: rounds, and clients of the round."""

    bars: Progress
    rounds: TaskID
    clients: TaskID

    def begin(self, number: int, clients: int) -> None:
        """A round, with so many clients to train."""
        self.bars.reset(self.clients, total=clients, description=f"round {number}: clients")

    def advance(self) -> None:
        """A client is done."""
        self.bars.advance(self.clients)

    def show(self, metrics: RoundMetrics) -> None:
        """A round is over."""
        self.bars.update(self.rounds, completed=metrics.round, description=f"accuracy {100 * metrics.accuracy:.1f}%")
        for warning in metrics.warnings:
            self.bars.console.print(
                f"round {metrics.round}: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True
            )


@contextmanager
def open_screen(rounds: int, progress: bool | None) -> Iterator[Screen]:
    """progress: whether there are bars; None leaves it to whether standard error is a terminal."""
    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not shown, transient=True) as bars:
        yield Screen(bars, bars.add_task("rounds", total=rounds), bars.add_task("clients", total=None))
