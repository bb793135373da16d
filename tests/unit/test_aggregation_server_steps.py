"""The server steps, against the shared vectors and against the shortest spelling in Python's own integers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dispute_rounds import FORMAT, FORMATS, SERVERS
from hypothesis import given
from hypothesis import strategies as st

from chainfl.aggregation.adaptive import MAX_DELTA, MAX_MOMENT
from chainfl.aggregation.isqrt import LIMIT, isqrt
from chainfl.aggregation.server_step import Server, check_server
from chainfl.errors import AggregationError
from chainfl.tasks.state import Format, ServerKind

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "server_step.json").read_text())
INT32 = np.iinfo(np.int32)
SHIFT = FORMAT.model_scale_bits - FORMAT.update_scale_bits


def form_of(case) -> Format:
    """At no shift between the scales, so that a sum is `a` itself."""
    named = {re.sub("(?=[A-Z])", "_", key).lower(): value for key, value in case.items()}
    fields = ("step_num", "step_den", "momentum_num", "momentum_den", "second_num", "second_den", "tau")
    bits = {"model_scale_bits": named["model_scale_bits"], "update_scale_bits": named["model_scale_bits"]}
    return replace(
        FORMAT, num_params=1, server=ServerKind(case["server"]), **bits, **{name: named[name] for name in fields}
    )


def vector(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def state_of(form: Format, first: int, second: int) -> np.ndarray | None:
    return vector(*(first, second)[: form.num_moments]) if form.has_state else None


@pytest.mark.parametrize("case", VECTORS["steps"], ids=lambda case: case["name"])
def test_advance__shared_vectors__same_coordinate(case):
    form = form_of(case)
    sums = np.array([int(case["scaledSum"])], np.int64)
    state = state_of(form, case["first"], case["second"])
    moved = Server(form).advance(sums, int(case["totalWeight"]), vector(case["model"]), state)
    assert moved.model.tolist() == [case["nextModel"]]
    expected = state_of(form, case["nextFirst"], case["nextSecond"])
    assert expected is None if moved.state is None else moved.state.tolist() == expected.tolist()


@pytest.mark.parametrize("case", VECTORS["parameters"], ids=lambda case: case["name"])
def test_check_server__shared_vectors__refused_where_the_contract_reverts(case):
    if case["fits"]:
        check_server(form_of(case))
    else:
        with pytest.raises(AggregationError, match="format: "):
            check_server(form_of(case))


def test_check_server__a_shift_that_would_fill_the_memory__refused_at_once():
    with pytest.raises(AggregationError, match="overflow"):
        check_server(replace(FORMATS["mean, adam"], model_scale_bits=1 << 60))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"momentum_num": 9, "momentum_den": 10}, "choose the server momentum"),
        (SERVERS["adam"] | {"tau": 0}, "divide by zero"),
        (SERVERS["momentum"] | {"tau": 1}, "tau is of the servers adagrad, adam and yogi, not of momentum"),
        (SERVERS["adagrad"] | {"second_num": 1, "second_den": 2}, "not of adagrad"),
        (SERVERS["yogi"] | {"step_num": 1 << 20}, "choose a smaller one"),
    ],
)
def test_check_server__what_does_not_go_together__says_what_to_do(changed, told):
    with pytest.raises(AggregationError, match=told):
        check_server(replace(FORMAT, **changed))


# --- against references --------------------------------------------------------------------------


def nearest(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def sat32(value: int) -> int:
    return min(max(value, INT32.min), INT32.max)


def momentum_reference(form: Format, delta: int, model: int, state: int) -> tuple[int, int]:
    share = Fraction(form.momentum_num, form.momentum_den)
    first = sat32(nearest(share * state) + delta)
    ahead = delta + nearest(share * first) if form.server is ServerKind.NESTEROV else first
    return sat32(model + ahead), first


def adaptive_reference(form: Format, delta: int, model: int, first: int, root: int) -> tuple[int, int, int]:
    """Algorithm 2 of the paper, a line for each of its lines; everything else is rounding."""
    moved = 16 * min(max(delta, -MAX_DELTA), MAX_DELTA)
    first, root = min(max(first, -MAX_MOMENT), MAX_MOMENT), min(max(root, 0), MAX_MOMENT)
    beta = Fraction(form.momentum_num, form.momentum_den)
    first = nearest(beta * first + (1 - beta) * moved)
    old, new = root**2, moved**2
    if form.server is ServerKind.ADAGRAD:
        second = old + new
    else:
        keep = Fraction(form.second_num, form.second_den)
        if form.server is ServerKind.ADAM:
            second = math.floor(keep * old + (1 - keep) * new)
        else:
            second = old - (old > new) * math.floor((1 - keep) * new) + (old < new) * math.floor((1 - keep) * new)
    root = min(math.isqrt(second), MAX_MOMENT)
    rate = Fraction(form.step_num, form.step_den)
    return sat32(model + nearest(rate * 2**form.model_scale_bits * first / (root + form.tau))), first, root


int32s = st.one_of(st.integers(INT32.min, INT32.max), st.integers(-(2**12), 2**12), st.integers(-(2**24), 2**24))
int16s = st.one_of(st.integers(-32_768, 32_767), st.integers(-3, 3))
coordinates = st.lists(st.tuples(int16s, int32s, int32s, int32s), min_size=1, max_size=8)


def shares(data, most: int) -> tuple[int, int]:
    den = data.draw(st.one_of(st.sampled_from([1, 2, 10, 100, most]), st.integers(1, most)))
    return data.draw(st.one_of(st.sampled_from([0, den]), st.integers(0, den))), den


def accepted(form: Format) -> Format:
    """The form if a task can have it; another example if not."""
    try:
        check_server(form)
    except AggregationError:
        from hypothesis import reject

        reject()
    return form


@given(coordinates, st.sampled_from([ServerKind.MOMENTUM, ServerKind.NESTEROV]), st.data())
def test_advance__any_momentum__as_fractions(rows, kind, data):
    num, den = shares(data, 2**30)
    rate = shares(data, 50)
    form = replace(FORMAT, server=kind, momentum_num=num, momentum_den=den, step_num=rate[0] + 1, step_den=rate[1])
    values, models, states, _ = (list(column) for column in zip(*rows, strict=True))
    moved = Server(form).advance(np.array(values, np.int64), 3, vector(*models), vector(*states))
    deltas = [nearest(Fraction(form.step_num, form.step_den) * 2**SHIFT * value / 3) for value in values]
    expected = [momentum_reference(form, *case) for case in zip(deltas, models, states, strict=True)]
    assert list(zip(moved.model.tolist(), moved.state.tolist(), strict=True)) == expected


@given(coordinates, st.sampled_from([ServerKind.ADAGRAD, ServerKind.ADAM, ServerKind.YOGI]), st.data())
def test_advance__any_adaptive_step__as_the_papers_algorithm_in_fractions(rows, kind, data):
    num, den = shares(data, 2**14)
    second = (0, 0) if kind is ServerKind.ADAGRAD else shares(data, 2**14)
    rate = shares(data, 1_000)
    tau = data.draw(st.one_of(st.sampled_from([1, 2**32 - 1]), st.integers(1, 2**32 - 1), st.integers(1, 2**18)))
    bits = data.draw(st.integers(14, 31))
    form = replace(FORMAT, server=kind, momentum_num=num, momentum_den=den, tau=tau, model_scale_bits=bits)
    form = replace(form, second_num=second[0], second_den=second[1], step_num=rate[0] + 1, step_den=rate[1])
    form = accepted(form)
    values, models, firsts, roots = (list(column) for column in zip(*rows, strict=True))
    state = np.stack([vector(*firsts), vector(*roots)], axis=1).ravel()
    moved = Server(form).advance(np.array(values, np.int64), 3, vector(*models), state)
    deltas = [nearest(Fraction(2 ** (bits - 14) * value, 3)) for value in values]
    expected = [adaptive_reference(form, *case) for case in zip(deltas, models, firsts, roots, strict=True)]
    seen = zip(moved.model.tolist(), moved.state[0::2].tolist(), moved.state[1::2].tolist(), strict=True)
    assert list(seen) == expected


@pytest.mark.parametrize("name", SERVERS)
def test_advance__state_and_model__are_not_modified(name):
    form = replace(FORMAT, num_params=3, **SERVERS[name])
    model, state = vector(1, 2, 3), np.arange(form.state_params, dtype=np.int32)
    Server(form).advance(np.array([5, 6, 7]), 1, model, state)
    assert (model.tolist(), state.tolist()) == ([1, 2, 3], list(range(form.state_params)))


def test_advance__deltas_roots_and_values_beyond_their_ends__are_counted():
    form = replace(FORMATS["mean, adagrad"], num_params=3)
    sums = np.array([32_767, 0, 16_384], np.int64)
    state = vector(0, MAX_MOMENT, 0, 0, 0, 0)
    moved = Server(form).advance(sums, 1, vector(INT32.max, 0, 0), state)
    assert moved.num_saturated == 4  # a delta, its root and its model; the last delta is one beyond its end


def test_advance__a_state_where_there_is_none_or_the_reverse__refused():
    one = vector(1)
    for form, state in ((FORMAT, one), (FORMATS["mean, momentum"], None), (FORMATS["mean, adam"], None)):
        with pytest.raises(AggregationError, match="state"):
            Server(form).advance(np.ones(1, np.int64), 1, one, state)


@pytest.mark.parametrize("name", FORMATS)
def test_advance__no_weight_at_all__void(name):
    form = FORMATS[name]
    state = None if form.num_moments == 0 else np.zeros(form.num_moments, np.int32)
    with pytest.raises(AggregationError, match="void"):
        Server(form).advance(np.ones(1, np.int64), 0, vector(1), state)


# --- against the optimisers that torch and the paper have, in floating point ---------------------


@pytest.mark.parametrize("name", SERVERS)
def test_advance__many_rounds__stays_next_to_the_real_numbers(name):
    form = replace(FORMAT, **{**SERVERS[name], "tau": 16_777 if "ada" in name or name == "yogi" else 0})
    rng = np.random.default_rng(3)
    size, unit = 200, 2.0**-20
    form = replace(form, num_params=size)
    model, state = np.zeros(size, np.int32), np.zeros(form.state_params, np.int32)
    real, first, second = np.zeros(size), np.zeros(size), np.zeros(size)
    for _ in range(30):
        sums = rng.normal(0.01, 0.02, size) * 2**14
        sums = sums.round().astype(np.int64)
        delta = sums / 2**14
        moved = Server(form).advance(sums.copy(), 1, model, state)
        model, state = moved.model, moved.state
        real, first, second = real_step(form, delta, real, first, second)
    assert moved.num_saturated == 0
    np.testing.assert_allclose(model * unit, real, rtol=2e-3, atol=2e-4)


def real_step(form, delta, model, first, second):
    rate, beta = form.step_num / form.step_den, form.momentum_num / form.momentum_den
    if not form.is_adaptive:
        first = beta * first + rate * delta
        return model + (rate * delta + beta * first if form.server is ServerKind.NESTEROV else first), first, second
    keep = form.second_num / form.second_den if form.second_den else 0
    first, square = beta * first + (1 - beta) * delta, delta**2
    second = {
        ServerKind.ADAGRAD: second + square,
        ServerKind.ADAM: keep * second + (1 - keep) * square,
        ServerKind.YOGI: second - (1 - keep) * square * np.sign(second - square),
    }[form.server]
    return model + rate * first / (np.sqrt(second) + form.tau * 2.0**-24), first, second


# --- square roots --------------------------------------------------------------------------------


def test_isqrt__every_small_value__exact():
    values = np.arange(1 << 17)
    assert isqrt(values).tolist() == [math.isqrt(value) for value in range(1 << 17)]


@pytest.mark.parametrize(
    "first", [0, 1 << 8, 1 << 14, 1 << 16, 1 << 20, (1 << 24) - (1 << 15), 1 << 25, (1 << 26) - (1 << 16)]
)
def test_isqrt__around_each_square__exact(first):
    roots = np.arange(first, first + (1 << 16), dtype=np.int64)
    np.testing.assert_array_equal(isqrt(roots * roots), roots)
    np.testing.assert_array_equal(isqrt(roots * roots + 2 * roots), roots)


def test_isqrt__around_each_change_of_scale__exact():
    edges = [max(0, (1 << bits) + off) for bits in range(52) for off in (-2, -1, 0, 1)] + [LIMIT - 1]
    assert isqrt(np.array(edges)).tolist() == [math.isqrt(value) for value in edges]


@given(st.lists(st.integers(0, LIMIT - 1), min_size=1, max_size=50))
def test_isqrt__any_value__exact_and_the_argument_stays(values):
    given_values = np.array(values, np.int64)
    assert isqrt(given_values).tolist() == [math.isqrt(value) for value in values]
    assert given_values.tolist() == values
