"""The demo's report, its pictures and its view: pure parts, no chain and no processes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from chainfl.errors import DatasetMissing, UsageError
from chainfl.simulation.demo import Cast, DemoConfig, new_folder
from chainfl.simulation.report import GasUse, Report, draw_accuracy, draw_lineage, draw_rewards
from chainfl.simulation.view import EventFiles, LiveView, PlainView, Progress, open_view
from chainfl.tasks.state import Phase, Role
from chainfl.types import Address

ALICE, BOB = Address("0x" + "aa" * 20), Address("0x" + "bb" * 20)
KEYS = [f"0x{number:064x}" for number in range(1, 20)]


def a_report() -> Report:
    return Report(
        accuracy_by_round=(0.1, 0.5, 0.9),
        centralized_accuracy=0.95,
        rounds=2,
        workers=1,
        validators=1,
        seed=0,
        dataset="digits",
        test_examples=359,
        model_id="0x01",
        model_cid="b",
        verified=True,
        escrow_wei=10**21,
        payouts_wei={ALICE: 6 * 10**20, BOB: 4 * 10**20 - 3},
        refund_wei=2,
        burned_wei=1,
        slashed_wei=0,
        gas={"commitUpdate": GasUse.of([1, 5, 3])},
        bytes_per_update=100,
        seconds_total=1.0,
        seconds_training=0.5,
        outcomes=("final", "final"),
        roles={ALICE: "worker-1", BOB: "validator-1"},
        folder="demo",
    )


# --- report --------------------------------------------------------------------------------------


def test_gas_use__odd_number__has_count_median_maximum():
    assert GasUse.of([1, 5, 3]) == GasUse(3, 3, 5)


def test_report__money_adds_up__is_balanced():
    assert a_report().is_balanced


def test_report__one_wei_lost__is_not_balanced():
    assert not replace(a_report(), refund_wei=1).is_balanced


def test_report__written__has_the_promised_fields_and_money_as_integers(tmp_path: Path):
    a_report().write(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    promised = (
        "accuracy_by_round centralized_accuracy rounds workers validators model_id model_cid verified escrow_wei "
        "payouts_wei refund_wei burned_wei gas bytes_per_update seconds_total seconds_training"
    )
    assert set(promised.split()) <= set(found)
    assert found["payouts_wei"][ALICE] == 6 * 10**20
    assert found["gas"]["commitUpdate"] == {"count": 3, "median": 3, "maximum": 5}


def test_pictures__drawn__are_png(tmp_path: Path):
    draw_accuracy(a_report(), tmp_path / "a.png")
    draw_rewards(a_report(), tmp_path / "r.png")
    draw_lineage([(f"round {i}", "0x00…") for i in range(6)], tmp_path / "l.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "r.png", "l.png"))


# --- view ----------------------------------------------------------------------------------------


def test_event_files__line_still_being_written__waits_for_its_end(tmp_path: Path):
    files, path = EventFiles(tmp_path), tmp_path / "worker-1.jsonl"
    path.write_text('{"what": "started"}\n{"what": "tra')
    assert [event["what"] for event in files.new()] == ["started"]
    path.write_text('{"what": "started"}\n{"what": "trained"}\n')
    assert [event["what"] for event in files.new()] == ["trained"]
    assert list(files.new()) == []


def test_progress__final_report_of_an_agent__does_not_count_its_gas_twice():
    progress = Progress(rounds=1)
    progress.observe({"agent": "worker-1", "what": "committed", "gas": 7, "tx": "0x1"})
    progress.observe({"agent": "worker-1", "what": "report", "gas": 7})
    assert (progress.gas, progress.doing) == (7, {"worker-1": "committed"})


def test_progress__transaction_told_of_twice__does_not_count_its_gas_twice():
    progress = Progress(rounds=1)
    progress.observe({"agent": "watcher", "what": "proven", "gas": 7, "tx": "0x1"})
    progress.observe({"agent": "watcher", "what": "sent", "gas": 7, "tx": "0x1"})
    assert progress.gas == 7


def test_plain_view__another_attempt__is_told():
    told = io.StringIO()
    PlainView(Console(file=told, width=200)).show(Progress(rounds=2, round=2, attempt=2, phase=Phase.AGGREGATE), True)
    assert "round 2/2, attempt 2: the aggregator" in told.getvalue()


def test_plain_view__nothing_new__says_nothing():
    told = io.StringIO()
    view = PlainView(Console(file=told, width=200))
    progress = Progress(rounds=2, round=1, phase=Phase.COMMIT, accuracy=[0.5])
    view.show(progress, news=False)
    assert told.getvalue() == ""
    view.show(progress, news=True)
    assert "round 1/2: workers train and commit their updates, accuracy 50.0%" in told.getvalue()


def test_live_view__drawn__shows_round_participants_and_accuracy():
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=100)
    view = open_view(console)
    assert isinstance(view, LiveView)
    progress = Progress(rounds=2, round=1, phase=Phase.REVEAL, accuracy=[0.1, 0.9])
    progress.observe({"agent": "worker-1", "what": "trained", "seconds_training": 0.25})
    view.show(progress, news=True)
    view.close()
    assert all(part in told.getvalue() for part in ("round 1 of 2", "worker-1", "trained 0.25 s", "90.0%"))


# --- stage ---------------------------------------------------------------------------------------


def test_cast__keys__one_for_each_participant_and_none_shown():
    cast = Cast.of(KEYS, DemoConfig(Path("x"), workers=2, validators=1))
    assert [(part.name, part.role) for part in cast.parts] == [
        ("worker-1", Role.WORKER),
        ("worker-2", Role.WORKER),
        ("validator-1", Role.VALIDATOR),
        ("aggregator", Role.AGGREGATOR),
    ]
    assert len(set(cast.names()) | {cast.deployer.address, cast.requester.address}) == 6
    assert KEYS[2] not in repr(cast)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"data": "imagenet"}, UsageError),
        ({"rounds": 0}, UsageError),
        ({"workers": 65}, UsageError),
        ({"validators": 17}, UsageError),
        ({"clients_per_round": 6}, UsageError),
        ({"clients_per_round": 3, "attacks": ("norm",)}, UsageError),
        ({"data": "mnist", "data_dir": Path("/nowhere/at/all")}, DatasetMissing),
    ],
)
def test_demo_config__impossible__is_refused_before_anything_starts(wrong: dict[str, object], error: type[Exception]):
    with pytest.raises(error):
        replace(DemoConfig(Path("x")), **wrong).check()


def test_new_folder__earlier_runs__are_never_touched(tmp_path: Path):
    first = new_folder(tmp_path)
    (first / "report.json").write_text("kept")
    assert new_folder(tmp_path) == tmp_path / "chainfl-demo-2"
    assert (first / "report.json").read_text() == "kept"
