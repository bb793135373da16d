"""A draw of workers as the events of its task tell it: who was drawn, and what of everybody it went by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from chainfl.chain.events import Log
from chainfl.tasks.draws import REPUTATION_START
from chainfl.tasks.state import DrawBy, PoolMember, Role, WorkerDraw
from chainfl.types import Address, Wei

DRAW_EVENTS: Final = (
    "Enrolled",
    "MemberLeft",
    "MemberRejoined",
    "Slashed",
    "ReputationChanged",
    "RoundOpened",
    "SeedRolled",
    "WorkersDrawn",
)

Told = tuple[str, Log, Mapping[str, Any]]
"""An event's name, its log, and its values."""


def replay_draw(events: Iterable[Told], round_number: int, by: DrawBy) -> WorkerDraw | None:
    """The draw of a round, its seed left empty; None if nobody was drawn.

    events: of DRAW_EVENTS, all those of the task from its creation on, in order.
    """
    replay = _Replay(round_number, by)
    for name, log, values in events:
        if name == "WorkersDrawn" and values["round"] == round_number:
            drawn = tuple(Address(account) for account in values["workers"])
            return WorkerDraw(replay.seed_block, b"", drawn, tuple(replay.pool.values()), log.block_number)
        replay.hear(name, log, values)
    return None


@dataclass(slots=True)
class _Replay:
    """The pool as the round found it. A dictionary keeps the order of enrolment, which is the list's."""

    round: int
    by: DrawBy
    pool: dict[Address, PoolMember] = field(default_factory=dict)
    seed_block: int = 0

    def hear(self, name: str, log: Log, values: Mapping[str, Any]) -> None:
        """One event before the draw."""
        if values.get("role", Role.WORKER) != Role.WORKER:
            return
        hearing: dict[str, Callable[[Log, Mapping[str, Any]], None]] = {
            "Enrolled": self._enrolled,
            "MemberLeft": self._left,
            "MemberRejoined": self._rejoined,
            "Slashed": self._slashed,
            "ReputationChanged": self._rated,
            "RoundOpened": self._opened,
            "SeedRolled": self._rolled,
        }
        if name in hearing:
            hearing[name](log, values)

    def _enrolled(self, _: Log, values: Mapping[str, Any]) -> None:
        reputation = REPUTATION_START if self.by is DrawBy.REPUTATION else 0
        account = Address(values["account"])
        self.pool[account] = PoolMember(account, True, Wei(values["stake"]), reputation)

    def _left(self, _: Log, values: Mapping[str, Any]) -> None:
        if values["from_round"] <= self.round:
            self._change(values["account"], waits=False)

    def _rejoined(self, _: Log, values: Mapping[str, Any]) -> None:
        if values["from_round"] <= self.round:
            self._change(values["account"], waits=True)

    def _slashed(self, _: Log, values: Mapping[str, Any]) -> None:
        # A slash counts from the settlement of its round on: the stake that the round opened with is what it goes by.
        if values["round"] < self.round:
            left = self.pool[values["account"]].stake - values["amount"]
            self._change(values["account"], stake=Wei(left))

    def _rated(self, _: Log, values: Mapping[str, Any]) -> None:
        self._change(values["worker"], reputation=values["reputation"])

    def _opened(self, log: Log, values: Mapping[str, Any]) -> None:
        if values["round"] == self.round:
            self.seed_block = log.block_number

    def _rolled(self, _: Log, values: Mapping[str, Any]) -> None:
        if values["round"] == self.round:
            self.seed_block = values["seed_block"]

    def _change(self, account: Address, **changes: Any) -> None:
        self.pool[account] = replace(self.pool[account], **changes)
