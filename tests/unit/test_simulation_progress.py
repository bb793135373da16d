"""What a person sees of an experiment: bars on a terminal and nowhere else, warnings everywhere."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest

from chainfl.simulation.metrics import Fairness, Quality, RoundMetrics
from chainfl.simulation.progress import open_screen

METRICS = RoundMetrics(1, "00", Quality(0.5, 1.0, (), (), (), ()), Fairness(0.5, 0.5, 0.5))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_terminal_of_ours(monkeypatch):
    """Whatever the tests themselves run in."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def shown(monkeypatch, stream: io.StringIO, progress: bool | None, metrics: RoundMetrics = METRICS) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with open_screen(3, progress) as screen:
        screen.begin(1, 4)
        screen.advance()
        screen.show(metrics)
        screen.bars.refresh()
    return stream.getvalue()


@pytest.mark.parametrize("progress", [None, True])
def test_open_screen__on_a_terminal__shows_both_bars(monkeypatch, progress):
    seen = shown(monkeypatch, Terminal(), progress)
    for expected in ("accuracy 50.0%", "1/3", "round 1: clients", "1/4"):
        assert expected in seen


def test_open_screen__no_terminal__shows_nothing(monkeypatch):
    assert shown(monkeypatch, io.StringIO(), None) == ""


def test_open_screen__terminal_without_progress__shows_nothing(monkeypatch):
    assert shown(monkeypatch, Terminal(), False) == ""


def test_open_screen__no_terminal__still_tells_warnings(monkeypatch):
    warned = replace(METRICS, warnings=("void_round: nothing",))
    assert shown(monkeypatch, io.StringIO(), None, warned) == "round 1: void_round: nothing\n"
