"""A task on a real local chain with its participants as processes, which a test may disturb."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from chainfl.chain.anvil import AnvilProcess
from chainfl.simulation.demo import DemoConfig, Stage, set_stage, start_participant
from chainfl.simulation.processes import ONE_THREAD, Participant, ProcessGroup, open_group
from chainfl.tasks.state import Outcome, Phase

PATIENCE_S = 240.0

T = TypeVar("T")


class Theatre:
    """The stage, and the processes by name."""

    def __init__(self, stage: Stage, group: ProcessGroup) -> None:
        self.stage = stage
        self.group = group
        self.running: dict[str, Participant] = {}

    def enter(self, *names: str) -> None:
        """Starts these participants; all of them if none is named."""
        for part in self.stage.cast.parts:
            if not names or part.name in names:
                self.running[part.name] = start_participant(self.stage, self.group, part)

    def kill(self, name: str) -> None:
        """kill -9, as a power cut would."""
        process = self.running[name].process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What a participant told so far, whole lines only."""
        path = self.stage.events / f"{name}.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def await_event(self, name: str, what: str, round_number: int) -> dict[str, Any]:
        """Waits until a participant tells something of a round."""
        wanted = lambda: [e for e in self.events(name) if (e["what"], e["round"]) == (what, round_number)]  # noqa: E731
        return self.until(lambda: next(iter(wanted()), None), f"{name} to tell {what} in round {round_number}")

    def until(self, condition: Callable[[], T | None], awaited: str) -> T:
        """Waits, a block at a time, until the condition holds. Fails after PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        client = self.stage.reader.client
        block = client.block()
        while time.monotonic() < deadline:
            if (found := condition()) is not None:
                return found
            block = client.wait_for_block(block.number, 0.25)
        raise AssertionError(f"waited in vain for {awaited}\n{self.logs()}")

    def play_to_the_end(self) -> None:
        """Waits until the task is complete."""
        reader, task_id = self.stage.reader, self.stage.task_id
        self.until(lambda: True if reader.round(task_id).phase is Phase.COMPLETED else None, "the end of the task")

    def outcomes(self) -> list[Outcome]:
        """How each round ended."""
        closed = [event for event in self.stage.reader.task_events(self.stage.task_id) if event.name == "RoundClosed"]
        return [Outcome(event.arguments["outcome"]) for event in closed]

    def account(self, name: str) -> str:
        """A participant's address."""
        return next(part.signer.address for part in self.stage.cast.parts if part.name == name)

    def logs(self) -> str:
        """The end of every log, for a failing test."""
        folder = self.stage.config.folder / "logs"
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(folder.glob("*.log")))


@contextmanager
def theatre(config: DemoConfig) -> Iterator[Theatre]:
    """A theatre in `config.folder`; nothing of it runs any more afterwards."""
    config.folder.mkdir(parents=True, exist_ok=True)
    with (
        AnvilProcess(config.folder / "chain", accounts=config.num_accounts, keep_state=True) as anvil,
        open_group(config.folder / "logs", ONE_THREAD) as group,
    ):
        yield Theatre(set_stage(config, anvil), group)


def poison(folder: Path) -> None:
    """Shifts every label of a share by one class: training on it pulls the model away from the others' data."""
    import numpy as np

    from chainfl.training.datasets import Dataset, load_folder, save_folder

    share = load_folder(folder)
    labels = (share.labels + 1) % share.num_classes
    for path in folder.iterdir():
        path.unlink()
    save_folder(Dataset(**{**_fields(share), "labels": labels.astype(np.int64)}), folder)


def _fields(share: Any) -> dict[str, Any]:
    return {name: getattr(share, name) for name in share.__dataclass_fields__}
