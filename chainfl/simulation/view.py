"""What a person sees while the demo runs: one screen that is redrawn, or plain lines without a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from chainfl.tasks.state import Phase, RoundView

PHASE_WORDS: Mapping[Phase, str] = {
    Phase.ENROLMENT: "participants enrol and lock stake",
    Phase.COMMIT: "workers train and commit their updates",
    Phase.REVEAL: "workers reveal and publish",
    Phase.SCORE_COMMIT: "validators fetch, check, score and commit",
    Phase.SCORE_REVEAL: "validators reveal their scores",
    Phase.ANSWER: "demanded chunks are awaited",
    Phase.TALLY: "medians are settled",
    Phase.AGGREGATE: "the aggregator computes the next model",
    Phase.CHALLENGE: "anybody may still object",
    Phase.DISPUTE: "a dispute is decided",
    Phase.SETTLEMENT: "pay, lineage, next round",
    Phase.COMPLETED: "done",
}


class EventFiles:
    """Reads what agents appended to their event files since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}

    def new(self) -> Iterator[dict[str, Any]]:
        """The events of all agents since the last call; a line still being written is left for the next."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                while (line := file.readline()).endswith(b"\n"):
                    self._offsets[path] = file.tell()
                    yield json.loads(line)


@dataclass(slots=True)
class Progress:
    """Everything that the view shows, gathered from events and the chain."""

    rounds: int
    round: int = 0
    attempt: int = 0
    phase: Phase = Phase.ENROLMENT
    doing: dict[str, str] = field(default_factory=dict)
    accuracy: list[float] = field(default_factory=list)
    gas: int = 0
    sent: set[str] = field(default_factory=set)
    """Transactions whose gas is counted."""
    started: float = field(default_factory=time.monotonic)

    def observe(self, event: Mapping[str, Any]) -> None:
        """Takes in one event of an agent; the report at its end repeats what was told before."""
        if event["what"] == "report":
            return
        self.doing[str(event["agent"])] = _told(event)
        if event.get("tx") not in self.sent and isinstance(event.get("gas"), int):
            self.sent.add(str(event.get("tx")))
            self.gas += event["gas"]

    def at(self, view: RoundView) -> bool:
        """Takes in where the task stands. returns: whether that is news."""
        news = (view.round, view.attempt, view.phase) != (self.round, self.attempt, self.phase)
        self.round, self.attempt, self.phase = view.round, view.attempt, view.phase
        return news


def _told(event: Mapping[str, Any]) -> str:
    details = [f"{event[key]:.2f} s" for key in ("seconds_training",) if isinstance(event.get(key), float)]
    return " ".join([str(event["what"]), *details])


class View(Protocol):
    """Where progress is shown."""

    def show(self, progress: Progress, news: bool) -> None:
        """Redraws, or says what is new."""
        ...

    def close(self) -> None:
        """Leaves the last state standing."""
        ...


class LiveView:
    """A screen that rich redraws in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def show(self, progress: Progress, news: bool) -> None:
        self._live.update(_screen(progress))

    def close(self) -> None:
        self._live.stop()


class PlainView:
    """A line for everything new; for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, progress: Progress, news: bool) -> None:
        if not news:
            return
        accuracy = f", accuracy {100 * progress.accuracy[-1]:.1f}%" if progress.accuracy else ""
        elapsed = time.monotonic() - progress.started
        words = PHASE_WORDS.get(progress.phase, progress.phase.name.lower())
        again = f", attempt {progress.attempt}" if progress.attempt > 1 else ""
        line = f"{elapsed:6.1f} s  round {progress.round}/{progress.rounds}{again}: {words}{accuracy}"
        self._console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        return


def open_view(console: Console) -> View:
    """The live view on a terminal, plain lines elsewhere."""
    return LiveView(console) if console.is_terminal else PlainView(console)


def _screen(progress: Progress) -> Group:
    elapsed = time.monotonic() - progress.started
    head = Text(f"round {progress.round} of {progress.rounds}", style="bold")
    head.append(f"   {PHASE_WORDS.get(progress.phase, progress.phase.name.lower())}", style="cyan")
    head.append(f"   {elapsed:.0f} s, {progress.gas:,} gas", style="dim")
    table = Table.grid(padding=(0, 3))
    for name in sorted(progress.doing):
        table.add_row(Text(name, style="bold"), Text(progress.doing[name]))
    return Group(Panel(Group(head, table), title="chainfl demo", border_style="cyan"), _accuracy_line(progress))


def _accuracy_line(progress: Progress) -> Text:
    bars = "▁▂▃▄▅▆▇█"
    marks = "".join(bars[min(7, int(8 * accuracy))] for accuracy in progress.accuracy)
    last = f"  {100 * progress.accuracy[-1]:.1f}%" if progress.accuracy else ""
    return Text(f"  test accuracy  {marks}{last}", style="green")
