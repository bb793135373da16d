"""Figures of a round by hand, the guards, and the energy counters."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chainfl.agents.encode import encode_update
from chainfl.simulation.metrics import EnergyMeter, Fairness, Quality, RoundMetrics, warnings_of
from chainfl.simulation.rounds import SimulatedRound
from chainfl.tasks.spec import default_format
from chainfl.tasks.votes import REJECTION, Vote
from chainfl.types import Address

ALICE = Address("0x" + "aa" * 20)


def quality(predicted: list[int], labels: list[int], num_classes: int = 3, loss: float = 0.5) -> Quality:
    return Quality.of(np.array(predicted), np.array(labels), num_classes, loss)


def test_quality__small_table__is_what_one_counts_by_hand():
    found = quality([0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 2])
    assert found.accuracy == 4 / 6
    assert found.confusion == ((2, 1, 0), (0, 2, 0), (1, 0, 0))
    assert found.precision == (2 / 3, 2 / 3, 0.0)
    assert found.recall == (2 / 3, 1.0, 0.0)
    assert found.f1 == (2 / 3, 4 / 5, 0.0)
    assert found.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 3)
    assert found.constant_class is None


def test_quality__class_without_examples__has_no_recall():
    found = quality([0, 2], [0, 1])
    assert found.recall == (1.0, 0.0, None)
    assert found.f1 == (1.0, 0.0, None)
    assert found.macro_f1 == 0.5


def test_quality__prediction_beyond_the_classes__is_just_wrong():
    assert quality([0, 7], [0, 1]).accuracy == 0.5


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_quality__loss_that_is_no_number__is_none(loss):
    assert quality([0], [0], loss=loss).loss is None


@pytest.mark.parametrize(
    ("predicted", "labels", "constant"),
    [([2, 2, 2], [0, 1, 2], 2), ([2, 2, 1], [0, 1, 2], None), ([1, 1], [1, 1], None), ([0, 0], [1, 2], None)],
)
def test_constant_class__one_recall_of_one_and_others_of_zero__is_it(predicted, labels, constant):
    assert quality(predicted, labels).constant_class == constant


def test_quality__many_classes__leaves_the_confusions_out():
    assert quality([0, 1], [0, 1], num_classes=101).confusion == ()


@pytest.mark.parametrize(
    ("accuracies", "worst_decile"),
    [([0.5], 0.5), ([0.9, 0.1, 0.8], 0.1), ([k / 20 for k in range(20)], 0.025), ([0.0] + [1.0] * 10, 0.5)],
)
def test_fairness__worst_decile__is_the_mean_of_the_worst_tenth_rounded_up(accuracies, worst_decile):
    found = Fairness.of(accuracies)
    assert found.worst_decile == pytest.approx(worst_decile)
    assert found.worst == min(accuracies)
    assert found.mean == pytest.approx(sum(accuracies) / len(accuracies))


def test_round_metrics__through_json__are_the_same():
    metrics = RoundMetrics(
        3,
        "ab" * 32,
        quality([0, 2], [0, 1]),
        Fairness.of([0.1, 0.2]),
        clients=2,
        warnings=("diverged: so",),
        sent=(0, 4),
        weights=(10_000, 0),
        scores=(7, 0),
    )
    line = json.loads(json.dumps(metrics.to_json()))
    assert RoundMetrics.from_json(line) == metrics
    assert (line["weights"], line["rejected"]) == ([10_000, 0], [4])
    assert (line["round"], line["accuracy"], line["local_accuracy_worst"]) == (3, 0.5, 0.1)


# --- guards --------------------------------------------------------------------------------------

FINE = quality([0, 1, 2], [0, 1, 2])
FORM = replace(default_format(40), chunk_params=16)


def played(weight: int = 10_000, delta: float = 0.5, **changes) -> SimulatedRound:
    vote = Vote(weight, 1) if weight else REJECTION
    update = encode_update(np.full(40, delta, np.float32), None, FORM)
    return SimulatedRound(1, np.zeros(40, np.int32), {ALICE: vote}, {ALICE: update}, **changes)


def kinds(*arguments, **named) -> list[str]:
    return [text.partition(":")[0] for text in warnings_of(*arguments, **named)]


def test_warnings__ordinary_round__are_none():
    assert kinds(FINE, FINE, played(), []) == []


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (quality([1, 1, 1], [0, 1, 2]), "constant_predictor"),
        (quality([0, 1, 2], [0, 1, 2], loss=math.nan), "diverged"),
        (quality([0, 1, 2], [0, 1, 2], loss=1.2), "diverging"),
    ],
)
def test_warnings__ruined_model__is_named(now, kind):
    assert kinds(now, FINE, played(), []) == [kind]


@pytest.mark.parametrize("loss", [0.9, 1.05])
def test_warnings__loss_that_rises_but_is_better_than_knowing_nothing__is_not_diverging(loss):
    assert kinds(quality([0, 1, 2], [0, 1, 2], loss=loss), quality([0, 1, 2], [0, 1, 2], loss=0.4), played(), []) == []


def test_warnings__what_happened_to_updates__is_named():
    assert kinds(FINE, FINE, played(0), [(0, "the loss is nan")]) == ["update_withheld", "void_round"]
    assert next(warnings_of(FINE, FINE, played(), [(4, "so")])) == "update_withheld: client 4: so"
    assert kinds(FINE, FINE, played(num_saturated=2), []) == ["saturated"]
    assert kinds(FINE, FINE, played(delta=3.0), []) == ["clipped"]


@pytest.mark.parametrize(
    ("clients", "named"),
    [([3], "client 3"), ([0, 7], "clients 0, 7"), (list(range(1, 8)), "clients 1, 2, 3, 4, 5 and 2 more")],
)
def test_warnings__what_clients_found__names_the_first_five(clients, named):
    assert list(warnings_of(FINE, FINE, played(), [], {"constant_predictor": clients})) == [
        f"local_constant_predictor: {named}"
    ]


WORSE = quality([0, 1, 1], [0, 1, 2], loss=0.6)
USELESS = quality([0, 1, 1], [0, 1, 2], loss=1.12)
BAD = quality([0, 1, 2], [0, 1, 2], loss=1.11)
ROSE, CONSTANT = {"loss_rose": [0]}, {"constant_predictor": [0]}


@pytest.mark.parametrize(
    ("now", "before", "findings", "is_diverging"),
    [
        (USELESS, BAD, ROSE, True),  # worse than knowing nothing, little as the loss moved
        (WORSE, FINE, ROSE | CONSTANT, True),  # accuracy falls, and no local model knows anything
        (WORSE, FINE, ROSE, False),  # noisy local models: their mean may do good
        (USELESS, BAD, CONSTANT, False),  # skewed data at the beginning
        (FINE, FINE, ROSE | CONSTANT, False),
    ],
)
def test_warnings__every_own_loss_rose__is_diverging_if_the_model_is_of_no_use(now, before, findings, is_diverging):
    assert ("diverging" in kinds(now, before, played(), [], findings)) is is_diverging


def test_warnings__loss_of_some_clients_rose__is_not_diverging():
    two = played()
    two = replace(two, tallied={**two.tallied, Address("0x" + "bb" * 20): Vote(10_000, 1)})
    assert "diverging" not in kinds(USELESS, BAD, two, [], ROSE)


# --- energy --------------------------------------------------------------------------------------


def zone(folder: Path, name: str, label: str, microjoules: int, span: int = 1_000_000) -> Path:
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / "name").write_text(f"{label}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{span}\n")
    return path


def test_energy__two_packages__are_added_and_their_parts_are_not(tmp_path):
    first, _ = zone(tmp_path, "intel-rapl:0", "package-0", 100_000), zone(tmp_path, "intel-rapl:1", "package-1", 0)
    part = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    meter = EnergyMeter(tmp_path)
    (first / "energy_uj").write_text("400000")
    (part / "energy_uj").write_text("250000")
    assert meter.joules() == pytest.approx(0.3)
    assert meter.joules() == 0.0


def test_energy__counter_that_started_again__counts_its_range(tmp_path):
    only = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = EnergyMeter(tmp_path)
    (only / "energy_uj").write_text("100000")
    assert meter.joules() == pytest.approx(0.2)


def test_energy__machine_that_does_not_tell__is_none_and_no_guess(tmp_path):
    assert EnergyMeter(tmp_path / "nowhere").joules() is None
    broken = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = EnergyMeter(tmp_path)
    (broken / "energy_uj").unlink()
    assert meter.joules() is None
