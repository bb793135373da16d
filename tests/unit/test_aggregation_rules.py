"""Order rules, groups and momentum, against the shared vectors and against the shortest spelling in numpy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dispute_rounds import FORMAT, FORMATS, Round
from hypothesis import given
from hypothesis import strategies as st

from chainfl.aggregation import columns as numpy_columns
from chainfl.aggregation import compiled_columns
from chainfl.aggregation.columns import LARGE, columns_for, weighted_sum
from chainfl.aggregation.median import lower_median
from chainfl.aggregation.network import selection_network
from chainfl.aggregation.rules import READ_BLOCK, WeightedSource, apply_rule, group_sums, rule_sum, total_of, walk
from chainfl.aggregation.server_step import Server
from chainfl.aggregation.trimmed_mean import trim_count, trimmed_sum
from chainfl.disputes.proofs import rank_positions
from chainfl.encoding.sources import ArraySource
from chainfl.errors import AggregationError, EncodingError
from chainfl.tasks.state import Format, Rule, ServerKind

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "order_rules.json").read_text())["steps"]
INT32 = np.iinfo(np.int32)
BOTH = pytest.mark.parametrize("columns", [numpy_columns, compiled_columns], ids=["numpy", "compiled"])


def form_of(case) -> Format:
    momentum, trim = case["momentum"] or (0, 0), case["trim"] or (0, 0)
    rule = Rule.TRIMMED_MEAN if case["trim"] else Rule.MEDIAN
    server = ServerKind.MOMENTUM if case["momentum"] else ServerKind.PLAIN
    form = replace(FORMAT, num_params=1, step_num=case["num"], step_den=case["den"], rule=rule, server=server)
    return replace(form, trim_num=trim[0], trim_den=trim[1], momentum_num=momentum[0], momentum_den=momentum[1])


@BOTH
@pytest.mark.parametrize("case", VECTORS, ids=lambda case: f"{case['name']}, {case['trim']}, {case['momentum']}")
def test_order_rules__shared_vectors__same_coordinate(case, columns):
    form, rows = form_of(case), [np.array([value], np.int16) for value in case["values"]]
    sums, total = rule_sum(form, rows, [1] * len(rows), columns)
    assert (sums.tolist(), total) == ([case["sum"]], case["total"])
    low, high = rank_positions(form, case["values"])
    assert case["values"][low] == case["values"][case["low"]]
    assert form.rule is Rule.MEDIAN or case["values"][high] == case["values"][case["high"]]
    state = np.array([case["state"]], np.int32) if form.has_state else None
    moved = Server(form).advance(sums, total, np.array([case["model"]], np.int32), state)
    assert moved.model.tolist() == [case["expected"]]
    assert (None if moved.state is None else moved.state.tolist()[0]) == case["expected_state"]


# --- selection -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("count", [*range(1, 20), 31, 32, 33, 64, 100])
def test_order_rules__every_trim_and_the_median__as_sorting(count, columns):
    rng = np.random.default_rng(count)
    rows = [rng.integers(-3, 4, 50).astype(np.int16) for _ in range(count)]
    before = np.stack(rows)
    ordered = np.sort(before, axis=0).astype(np.int64)
    np.testing.assert_array_equal(lower_median(rows, columns), ordered[(count - 1) // 2])
    for trim in range((count - 1) // 2 + 1):
        np.testing.assert_array_equal(trimmed_sum(rows, trim, columns), ordered[trim : count - trim].sum(axis=0))
    np.testing.assert_array_equal(np.stack(rows), before)


@BOTH
@given(data=st.data())
def test_ranked_sum__any_range__of_those_values(data, columns):
    count = data.draw(st.integers(1, 24))
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, count - 1))
    column = data.draw(st.lists(st.integers(-32768, 32767), min_size=count, max_size=count))
    rows = [np.array([value], np.int16) for value in column]
    assert columns.ranked_sum(rows, first, last).tolist() == [sum(sorted(column)[first : last + 1])]


@BOTH
@pytest.mark.parametrize("size", [1, 4095, 4096, 16_384, 33_000])
def test_order_rules__several_blocks_of_columns__as_sorting(size, columns):
    rng = np.random.default_rng(size)
    rows = [rng.integers(-32768, 32768, size, np.int32).astype(np.int16) for _ in range(7)]
    ordered = np.sort(np.stack(rows), axis=0).astype(np.int64)
    np.testing.assert_array_equal(lower_median(rows, columns), ordered[3])
    np.testing.assert_array_equal(trimmed_sum(rows, 2, columns), ordered[2:5].sum(axis=0))


def test_selection_network__nothing_to_drop__nothing_to_compare():
    assert selection_network(32, 0, 31) == ()


def test_selection_network__median_of_32__less_than_the_whole_sort():
    assert len(selection_network(32, 15, 15)) < 191  # Knuth, TAOCP 5.3.4, Table 1: the whole odd-even merge sort


# --- sums ----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("count", [1, 5, 6, 7, 200])
def test_weighted_sum__largest_values_and_weights__exact(count, columns):
    rows = [np.array([-32768, 32767], np.int16)] * count
    assert columns.weighted_sum(rows, [10_000] * count).tolist() == [-32768 * 10_000 * count, 32767 * 10_000 * count]


@BOTH
@given(data=st.data())
def test_weighted_sum__any_weights__as_python_integers(data, columns):
    weight = st.one_of(st.sampled_from([0, 1, 7, 5_000, 10_000]), st.integers(0, 10_000))
    weights = data.draw(st.lists(weight, min_size=1, max_size=40))
    column = data.draw(st.lists(st.integers(-32768, 32767), min_size=len(weights), max_size=len(weights)))
    rows = [np.array([value, value], np.int16) for value in column]
    assert columns.weighted_sum(rows, weights).tolist() == [sum(map(int.__mul__, weights, column))] * 2


@BOTH
def test_columns__views_that_may_not_be_written_or_are_not_aligned__as_copies(columns):
    rng = np.random.default_rng(0)
    held = rng.integers(-32768, 32768, (5, 1001), np.int32).astype(np.int16)
    held.flags.writeable = False
    odd = np.frombuffer(b"." + held[0].tobytes(), np.int16, offset=1)
    assert not odd.flags.aligned
    rows, copies = [odd, *held[1:]], list(held.copy())
    for weights in ([1, 10, 100, 1000, 10_000], [0] * 5):
        np.testing.assert_array_equal(columns.weighted_sum(rows, weights), weighted_sum(copies, weights))
    np.testing.assert_array_equal(columns.ranked_sum(rows, 1, 3), np.sort(held, axis=0)[1:4].sum(axis=0))


@pytest.mark.parametrize(("num_values", "columns"), [(LARGE - 1, numpy_columns), (LARGE, compiled_columns)])
def test_columns_for__size_of_a_round__compiled_where_it_pays(num_values, columns):
    assert columns_for(num_values) is columns


@pytest.mark.parametrize(("size", "groups"), [(1, 5), (2, 3), (4, 2), (5, 0), (64, 0)])
def test_group_sums__any_size__in_the_order_of_the_tally(size, groups):
    rows = [np.full(3, value, np.int16) for value in (1, 2, 3, 4, 5)]
    sums = group_sums(replace(FORMAT, group_size=size), rows, [1, 10, 100, 1000, 10_000])
    assert len(sums) == groups
    if groups:
        np.testing.assert_array_equal(sum(sums), weighted_sum(rows, [1, 10, 100, 1000, 10_000]))
        assert sums[0].tolist() == [sum((i + 1) * 10**i for i in range(size))] * 3


@pytest.mark.parametrize(("count", "num", "den", "expected"), [(5, 1, 5, 1), (4, 1, 5, 0), (100, 49, 100, 49)])
def test_trim_count__some_share__rounded_down(count, num, den, expected):
    assert trim_count(count, num, den) == expected


@pytest.mark.parametrize(("num", "den"), [(1, 2), (-1, 5), (1, 0), (3, 5)])
def test_trim_count__half_or_more__refused(num, den):
    with pytest.raises(AggregationError, match="leaves nothing"):
        trim_count(10, num, den)


def test_trimmed_sum__nothing_left__refused():
    with pytest.raises(AggregationError, match="leaves nothing"):
        trimmed_sum([np.zeros(1, np.int16)] * 4, 2)


@pytest.mark.parametrize(("name", "total"), [("mean", 28_333), ("median", 1), ("trimmed mean", 3)])
def test_total_of__each_rule__what_the_sum_is_divided_by(name, total):
    assert total_of(FORMATS[name], [10_000, 1, 9_999, 3_333, 5_000]) == total


@pytest.mark.parametrize("name", ["mean", "median", "trimmed mean"])
def test_total_of__nothing_accepted__void(name):
    with pytest.raises(AggregationError, match="void"):
        total_of(FORMATS[name], [])


# --- whole rounds --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["median, momentum", "trimmed mean", "mean, momentum", "mean, adam", "median, yogi"])
def test_apply_rule__several_blocks__as_one(name):
    form = replace(FORMATS[name], num_params=READ_BLOCK * 2 + 5)
    played = Round.random(form)
    moved = apply_rule(form, played.model, played.state, played.sources)
    sums, total = rule_sum(form, list(played.updates), played.weights)
    whole = Server(form).advance(sums, total, played.model, played.state)
    np.testing.assert_array_equal(moved.model, whole.model)
    assert moved.num_saturated == whole.num_saturated > 0
    if played.state is not None:
        np.testing.assert_array_equal(moved.state, whole.state)


def test_apply_rule__vectors_of_another_size_or_type__refused():
    form, model = FORMATS["median"], np.zeros(150, np.int32)
    update = WeightedSource(ArraySource(np.zeros(150, np.int16)), 1)
    with pytest.raises(AggregationError, match="149"):
        apply_rule(form, model[1:], None, [update])
    with pytest.raises(EncodingError, match="149"):
        apply_rule(form, model, None, [WeightedSource(ArraySource(np.zeros(149, np.int16)), 1)])
    with pytest.raises(EncodingError, match="int32"):
        apply_rule(form, model, None, [WeightedSource(ArraySource(model), 1)])


def test_walk__caller_stops_asking__begins_few_blocks_more():
    begun = []
    found = walk(100, lambda block: begun.append(block.start) or block.start, 1)
    assert next(found) == 0
    found.close()
    assert len(begun) <= 4
