"""The validation entry: bytes and hashes as they were, and every contradiction told before a task exists."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from test_tasks_spec import ADAM, MOMENTUM, make_spec

from chainfl.agents.learning import rules_of
from chainfl.aggregation.server_step import ServerStep
from chainfl.errors import SpecificationError
from chainfl.simulation.experiment import LearningRecipe
from chainfl.tasks import spec as specs
from chainfl.tasks.state import Bounds, Format, Rule
from chainfl.validation.contribution.gtg_shapley import GtgShapley
from chainfl.validation.selection.bulyan import Bulyan
from chainfl.validation.selection.gate_clip import GateClip
from chainfl.validation.selection.nearest_neighbour_mixing import NearestNeighbourMixing
from chainfl.validation.selection.rules import Selection

AS_FIRST_PUBLISHED = {"rule": "gate_clip", "gate_cosine": "0", "duplicate_cosine": "0.99", "root_set_cid": None}


def trimmed(num: int, den: int) -> Format:
    return replace(specs.default_format(15), rule=Rule.TRIMMED_MEAN, trim_num=num, trim_den=den)


def problems(validation: dict[str, Any], **changes: Any) -> list[str]:
    """What is wrong with a task of up to 11 workers, unless `changes` says more."""
    try:
        make_spec(**{"validation": validation, "workers": Bounds(3, 11), **changes})
    except SpecificationError as error:
        return error.evidence["problems"]
    return []


def test_spec__nothing_new_said__has_the_bytes_that_it_always_had():
    assert json.loads(make_spec().to_bytes())["validation"] == AS_FIRST_PUBLISHED
    explicit = make_spec(validation={"contribution": "leave_one_out", "before": [], "iterations": None})
    assert explicit.spec_hash() == make_spec().spec_hash()


def test_spec__new_fields__are_written_and_read_again():
    entry = {"rule": "rfa", "iterations": 4, "contribution": "gtg_shapley", "max_sweeps": 9}
    spec = make_spec(validation=entry)
    assert json.loads(spec.to_bytes())["validation"] == AS_FIRST_PUBLISHED | entry
    assert specs.parse(spec.to_bytes(), spec.spec_hash()) == spec


def test_parse__default_spelled_out__is_not_canonical():
    loaded = json.loads(make_spec().to_bytes())
    loaded["validation"]["contribution"] = "leave_one_out"
    data = json.dumps(loaded, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(SpecificationError, match="canonical"):
        specs.parse(data, hashlib.sha256(data).digest())


@pytest.mark.parametrize(
    "validation",
    [
        {},
        {"rule": "gate_clip", "gate_cosine": "0.1"},
        {"rule": "krum", "num_malicious_clients": 4},
        {"rule": "multi_krum", "num_malicious_clients": 4, "num_clients_to_keep": 11},
        {"rule": "rfa", "smoothing": "0.1"},
        {"rule": "centred_clipping", "clipping_norm": "2", "iterations": 3},
        {"rule": "fltrust", "before": ["nearest_neighbour_mixing"], "num_malicious_clients": 5},
        {"rule": "norm_bound", "before": ["bucketing", "nearest_neighbour_mixing"], "bucket_size": 2}
        | {"num_malicious_clients": 2},
    ],
)
def test_build__what_goes_together__is_taken(validation):
    assert problems(validation) == []


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        ({"rule": "median"}, "validation.rule"),
        ({"rule": "krum"}, "num_malicious_clients is missing"),
        ({"before": ["bucketing"]}, "bucket_size is missing"),
        ({"bucket_size": 2}, "bucket_size is no parameter of gate_clip, leave_one_out"),
        ({"rule": "rfa", "clipping_norm": "1"}, "clipping_norm is no parameter of rfa"),
        ({"max_sweeps": 3}, "max_sweeps is no parameter"),
        ({"rule": "krum", "num_malicious_clients": 5}, "krum against 5 needs 13 workers, the task has 11"),
        ({"rule": "multi_krum", "num_malicious_clients": 1, "num_clients_to_keep": 12}, "num_clients_to_keep is 12"),
        (
            {"rule": "krum", "num_malicious_clients": 3, "before": ["bucketing"], "bucket_size": 2},
            "needs 9 buckets, the task has 6",
        ),
        ({"before": ["nearest_neighbour_mixing"], "num_malicious_clients": 6}, "needs 13 workers"),
        ({"before": ["bucketing", "bucketing"], "bucket_size": 2}, "names a step twice"),
        ({"rule": "norm_bound", "clipping_norm": "0.0"}, "clipping_norm is zero"),
        ({"rule": "rfa", "smoothing": "0"}, "smoothing is zero"),
        ({"contribution": "gtg_shapley", "within_round_truncation": "1"}, "within_round_truncation is not below 1"),
        ({"contribution": "shapley"}, "shapley bears 8 workers, not 11; use gtg_shapley"),
        ({"rule": "bulyan", "num_malicious_clients": 2}, "trimmed_mean or median"),
    ],
)
def test_build__contradiction__is_told(validation, told):
    assert any(told in problem for problem in problems(validation)), problems(validation)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (trimmed(2, 7), None),
        (replace(specs.default_format(15), rule=Rule.MEDIAN), None),
        (trimmed(1, 10), "drops 2 of 7 at each end, 1/10 drops 0"),
    ],
)
def test_build__bulyan__needs_its_other_half(form, told):
    found = problems({"rule": "bulyan", "num_malicious_clients": 2}, format=form)
    assert found == [] if told is None else any(told in problem for problem in found)


def test_build__exact_shapley_of_eight__is_taken():
    assert problems({"contribution": "shapley"}, workers=Bounds(3, 8)) == []


def test_rules_of__specification__is_what_validators_follow():
    entry = {"rule": "bulyan", "before": ["nearest_neighbour_mixing"], "num_malicious_clients": 2}
    spec = make_spec(validation=entry | {"contribution": "gtg_shapley"}, format=trimmed(2, 7), workers=Bounds(3, 11))
    rules = rules_of(spec)
    assert rules.selection == Selection(Bulyan(2), (NearestNeighbourMixing(2),))
    assert rules.contribution == GtgShapley()
    assert (rules.rule, rules.trim_num, rules.trim_den) == (Rule.TRIMMED_MEAN, 2, 7)
    assert rules_of(make_spec()).selection == Selection(GateClip())


@pytest.mark.parametrize(
    ("server", "step", "shows_mean"),
    [({}, ServerStep(1, 50), True), (MOMENTUM, ServerStep(1, 50), True), (ADAM, ServerStep(1, 1), False)],
)
def test_rules_of__adaptive_server__judges_by_the_mean_itself(server, step, shows_mean):
    spec = make_spec()
    form = replace(spec.format, step_num=1, step_den=50, **server)
    rules = rules_of(LearningRecipe(form, spec.training, spec.dataset, spec.validation))
    assert (rules.server_step, rules.shows_mean) == (step, shows_mean)
