"""What an agent does, told as it happens: one JSON object a line, for the live view, for logs, and for a person.

Every line has `time` (wall clock, seconds), `agent`, `role`, `task`, `round`, `phase` and `what`; numbers beside
them have their unit in their name (`seconds_training`, `gas`, `bytes`).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from chainfl.tasks.state import Phase, Role
from chainfl.types import TaskId, Wei

Value = str | int | float | bool | None


@dataclass(slots=True)
class AgentReport:
    """What one run of an agent came to. gas and cost_wei: of its transactions that were mined."""

    role: Role
    tasks: list[TaskId] = field(default_factory=list)
    transactions: Counter[str] = field(default_factory=Counter)
    gas: int = 0
    cost_wei: int = 0
    bytes_published: int = 0
    seconds_training: float = 0.0
    rounds: set[int] = field(default_factory=set)
    retries: int = 0
    slashed_wei: Wei = Wei(0)  # noqa: RUF009
    ended: str = ""

    def as_fields(self) -> dict[str, Value]:
        """For the log's last line."""
        return {
            "transactions": sum(self.transactions.values()),
            "gas": self.gas,
            "cost_wei": self.cost_wei,
            "bytes_published": self.bytes_published,
            "seconds_training_total": round(self.seconds_training, 3),
            "rounds": len(self.rounds),
            "retries": self.retries,
            "slashed_wei": self.slashed_wei,
            "ended": self.ended,
        }


class EventLog:
    """Writes events to a stream (or to nobody) and to Python's log."""

    def __init__(
        self, agent: str, role: Role, sink: TextIO | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._agent = agent
        self._role = role
        self._sink = sink
        self._clock = clock
        self._lock = threading.Lock()
        self._place: dict[str, Value] = {"task": None, "round": None, "phase": None}
        self._logger = logging.getLogger(f"chainfl.agents.{role.name.lower()}")

    def stand_at(self, task_id: TaskId | None, round_number: int | None, phase: Phase | None) -> None:
        """Where the following events happen."""
        self._place = {"task": task_id, "round": round_number, "phase": phase.name if phase is not None else None}

    def emit(self, what: str, *, level: int = logging.INFO, **details: Value) -> None:
        """One event. what: past tense or a state, such as `training`, `committed`, `slashed`."""
        self.emit_fields(what, details, level)

    def emit_fields(self, what: str, details: Mapping[str, Value], level: int = logging.INFO) -> None:
        """The same, with the details in a mapping."""
        told = " ".join(f"{key}={value}" for key, value in details.items())
        self._logger.log(level, "task %s round %s: %s %s", self._place["task"], self._place["round"], what, told)
        if self._sink is None:
            return
        who: dict[str, Value] = {"time": round(self._clock(), 3), "agent": self._agent, "role": self._role.name.lower()}
        line = json.dumps(who | self._place | {"what": what} | dict(details)) + "\n"
        with self._lock:
            self._sink.write(line)
            self._sink.flush()
