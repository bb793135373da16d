"""Phases, deadlines and events in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cli_fakes import NOW, ROUND_VIEW, TASK_VIEW

from chainfl.chain.abi import contract_abi
from chainfl.cli.output import Money
from chainfl.cli.words import _EVENTS, deadline_words, event_words, outcome_words, percent, phase_words, short
from chainfl.tasks.state import Outcome, Phase

MONEY = Money()


@pytest.mark.parametrize("phase", Phase)
def test_phase__each__has_words(phase):
    assert phase_words(phase)


@pytest.mark.parametrize("outcome", Outcome)
def test_outcome__each__has_words(outcome):
    assert outcome_words(outcome)


@pytest.mark.parametrize(
    ("phase", "phase_end", "told"),
    [
        (Phase.ENROLMENT, 0, "in 10 min at the latest"),
        (Phase.COMMIT, NOW + 1, "in 1 s at the latest"),
        (Phase.COMMIT, NOW, "passed 0 s ago"),
        (Phase.COMMIT, NOW - 60, "passed 1 min ago"),
        (Phase.TALLY, 0, "as soon as anybody sends"),
        (Phase.COMPLETED, 0, "over"),
        (Phase.CANCELLED, 5, "over"),
    ],
)
def test_deadline__any_phase__is_told(phase, phase_end, told):
    assert told in deadline_words(replace(ROUND_VIEW, phase=phase, phase_end=phase_end), TASK_VIEW, NOW)


def value_of(kind: str) -> object:
    if kind.endswith("]"):
        return tuple(value_of(kind[: kind.index("[")]) for _ in range(3))
    return (
        {"a": "0x" + "1" * 40, "s": "x\x1b[31m", "b": b"\1" * 32, "t": {}}.get(kind[0], 1) if kind != "bool" else True
    )


def events() -> list[tuple[str, dict[str, object]]]:
    """Every event of ours that names a task, with a value of each of its types."""
    found = []
    for contract in ("TaskCoordinator", "StakeVault", "ModelRegistry"):
        for name, event in contract_abi(contract).events.items():
            names = [part["name"] for part in event.inputs]
            if "taskId" in names:
                snake = {"".join("_" + c.lower() if c.isupper() else c for c in n): n for n in names}
                kinds = {part["name"]: part["type"] for part in event.inputs}
                found.append((name, {key: value_of(kinds[original]) for key, original in snake.items()}))
    return found


@pytest.mark.parametrize(("name", "arguments"), events(), ids=lambda value: value if isinstance(value, str) else "")
def test_event__each_of_the_contracts__has_its_line(name, arguments):
    told = event_words(name, arguments, MONEY)
    assert told
    assert "\x1b" not in told
    assert name in _EVENTS


def test_event__unknown__shows_its_values():
    assert (
        event_words("Moved", {"task_id": 1, "to": "0x" + "1" * 40, "root": b"\2"}, MONEY)
        == "Moved to=0x111111…1111 root=0x02"
    )


def test_event__slashed__has_its_reason():
    arguments = {"role": 0, "account": "0x" + "1" * 40, "amount": 10**18, "reason": b"no reveal".ljust(32, b"\0")}
    assert event_words("Slashed", arguments, MONEY) == "worker 0x111111…1111 was slashed 1 CFL: no reveal"


@pytest.mark.parametrize(
    ("weight", "score", "told"), [(0, 0, "rejected"), (65_535, 0, "abstained"), (5, 6, "weight 5, score 6")]
)
def test_event__tallied__says_the_verdict(weight, score, told):
    arguments = {"worker": "0x" + "1" * 40, "weight": weight, "score": score}
    assert event_words("UpdateTallied", arguments, MONEY).endswith(told)


@pytest.mark.parametrize(("basis_points", "text"), [(7_000, "70%"), (1_250, "12.5%"), (5, "0.05%"), (0, "0%")])
def test_percent__basis_points__are_exact(basis_points, text):
    assert percent(basis_points) == text


def test_short__an_address__keeps_both_ends():
    assert short("0x" + "1" * 40) == "0x111111…1111"
    assert short("bob") == "bob"
