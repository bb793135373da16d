"""Every rule and server step in Python against Solidity: 10,000 random chunks each, and one bit fails."""

from __future__ import annotations

import itertools
from dataclasses import astuple, replace

import numpy as np
import pytest
from harness import FORMAT, CallReverted, Harness

from chainfl.aggregation import columns as numpy_columns
from chainfl.aggregation import compiled_columns
from chainfl.aggregation.rules import group_sums, rule_sum
from chainfl.aggregation.server_step import Server, check_server, check_total_weight
from chainfl.disputes.proofs import rank_positions
from chainfl.errors import AggregationError
from chainfl.tasks.state import Format, Rule, ServerKind

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

CHUNK = 16
SETUPS, CHUNKS_EACH = 100, 100
INT32 = np.iinfo(np.int32)


@pytest.fixture(scope="module")
def rules(anvil, harnesses):
    return Harness(anvil, harnesses["RulesHarness"])


@pytest.mark.parametrize("kind", list(ServerKind))
@pytest.mark.parametrize("rule", list(Rule))
def test_step__ten_thousand_random_chunks__same_bits(rules, rule, kind):
    rng = np.random.default_rng([int(rule), kind])
    for number in range(SETUPS):
        columns = compiled_columns if number % 2 else numpy_columns
        form, weights = random_setup(rng, rule, kind)
        rows = random_rows(rng, len(weights), CHUNK * CHUNKS_EACH)
        model, state = random_vector(rng, rows[0].size), random_state(rng, form, rows[0].size)
        sums, total = rule_sum(form, rows, weights, columns)
        here = Server(form).advance(sums, total, model, state if form.has_state else None)
        there = advance_on_chain(rules, form, weights, rows, model, state)
        np.testing.assert_array_equal(here.model, there[:, 0], err_msg=str((form, weights)))
        kept = np.zeros(0, np.int32) if here.state is None else here.state
        np.testing.assert_array_equal(kept, there[:, 1 : 1 + form.num_moments].ravel(), err_msg=str((form, weights)))


@pytest.mark.parametrize("seed", range(20))
def test_check_server__random_parameters__refused_by_both_or_by_none(rules, seed):
    rng, fitting = np.random.default_rng(seed), 0
    for _ in range(60):
        form = any_server(rng)
        try:
            rules.raw("check", [FORMAT], tuple(map(int, astuple(form))))
            is_taken = True
        except CallReverted:
            is_taken = False
        if is_taken:
            check_server(form)
        else:
            with pytest.raises(AggregationError):
                check_server(form)
        fitting += is_taken
    assert 0 < fitting < 60


def test_group_sums__ten_thousand_random_chunks__same_bits(rules):
    rng = np.random.default_rng(9)
    for _ in range(SETUPS):
        form, weights = random_setup(rng, Rule.MEAN, ServerKind.PLAIN)
        weights = [*weights, 10_000]
        form = replace(form, group_size=int(rng.integers(1, len(weights))))
        rows = random_rows(rng, len(weights), CHUNK * CHUNKS_EACH)
        here = group_sums(form, rows, weights)
        groups = [slice(at, at + form.group_size) for at in range(0, len(rows), form.group_size)]
        assert len(here) == len(groups) > 1
        for sums, group in zip(here, groups, strict=True):
            packed = np.stack(rows[group], axis=1).astype(">i2").tobytes()
            raw = rules.raw("weightedSums", ["uint16[]", "bytes"], weights[group], packed)
            np.testing.assert_array_equal(sums, words(raw)[2:, 24:].copy().view(">i8")[:, 0])


@pytest.mark.parametrize("kind", [ServerKind.MOMENTUM, ServerKind.NESTEROV])
@pytest.mark.parametrize("momentum", [(1, 1), (1, 2), (0, 1), (2**31 - 3, 2**31 - 3)])
@pytest.mark.parametrize("step", [(1, 1), (1, 2), (3, 2)])
def test_step__exact_halves_and_ends__same_bits(rules, step, momentum, kind):
    form = Format(0, CHUNK, 14, 14, *step, 1, server=kind, momentum_num=momentum[0], momentum_den=momentum[1])
    ends = [INT32.min, INT32.min + 1, -3, -2, -1, 0, 1, 2, 3, INT32.max - 1, INT32.max]
    cases = np.array(list(itertools.product([-32767, -2, -1, 0, 1, 2, 32767], ends, ends)))
    row, model, state = cases[:, 0].astype(np.int16), cases[:, 1].astype(np.int32), cases[:, 2].astype(np.int32)
    for rule in (Rule.MEAN, Rule.MEDIAN):
        form = replace(form, rule=rule)
        sums, total = rule_sum(form, [row], [10_000])
        here = Server(form).advance(sums, total, model, state)
        there = advance_on_chain(rules, form, [10_000], [row], model, state)
        np.testing.assert_array_equal(np.stack([here.model, here.state], axis=1), there[:, :2])


@pytest.mark.parametrize("tau", [1, 16_777, 2**32 - 1])
@pytest.mark.parametrize("share", [(0, 1), (1, 2), (16_383, 16_384), (1, 1)])
@pytest.mark.parametrize("kind", [ServerKind.ADAGRAD, ServerKind.ADAM, ServerKind.YOGI])
def test_step__moments_at_their_ends__same_bits(rules, kind, share, tau):
    second = {} if kind is ServerKind.ADAGRAD else {"second_num": share[0], "second_den": share[1]}
    form = Format(
        0, CHUNK, 20, 0, 3, 7, 1, server=kind, momentum_num=share[0], momentum_den=share[1], tau=tau, **second
    )
    ends = [INT32.min, -(2**24), 1 - 2**24, -1, 0, 1, 15, 16, 17, 2**24 - 1, 2**24, INT32.max]
    cases = np.array(list(itertools.product([-3, -1, 0, 1, 2], [INT32.min, -7, INT32.max], ends, ends)))
    row, model = cases[:, 0].astype(np.int16), cases[:, 1].astype(np.int32)
    state = cases[:, 2:].astype(np.int32).ravel()
    sums, total = rule_sum(form, [row], [10_000])
    here = Server(form).advance(sums, total, model, state)
    there = advance_on_chain(rules, form, [10_000], [row], model, state)
    np.testing.assert_array_equal(np.column_stack([here.model, here.state.reshape(-1, 2)]), there)


@pytest.mark.parametrize("rule", [Rule.MEDIAN, Rule.TRIMMED_MEAN])
def test_ranks__any_other_position_of_another_value__refused(rules, rule):
    form = replace(Format(0, CHUNK, 20, 14, 1, 1, 1), rule=rule, trim_num=1, trim_den=4)
    column = [5, -3, 5, 0, 9, -3, 1]
    rows = [np.array([value], np.int16) for value in column]
    zeros = np.zeros(1, np.int32)
    right = rank_positions(form, column)
    for places in itertools.product(range(len(column) + 1), repeat=2):
        used = places[:1] if rule is Rule.MEDIAN else places
        fits = all(at < len(column) and column[at] == column[rank] for at, rank in zip(used, right, strict=False))
        try:
            advance_on_chain(rules, form, [1] * 7, rows, zeros, zeros, [places])
        except CallReverted:
            assert not fits
        else:
            assert fits


def random_setup(rng: np.random.Generator, rule: Rule, kind: ServerKind) -> tuple[Format, list[int]]:
    """Parameters that a task could have, at the ends of what is allowed more often than not."""
    count = int(rng.choice([15, 16, 17, 32, 33]) if rng.random() < 0.08 else rng.integers(1, 10))
    weights = [int(w) for w in rng.choice([0, 1, 2, 9_999, 10_000, 10_000, int(rng.integers(10_001))], count)]
    if rule is not Rule.MEAN or sum(weights) == 0:
        weights = [max(1, weight) for weight in weights]
    while True:
        t = int(rng.integers(8, 16))
        s = int(rng.choice([t, 20, int(rng.integers(t, 25))]))
        trim = [(0, 1), (1, 10), (1, 5), (1, 3), (49, 100)][int(rng.integers(5))]
        form = Format(0, CHUNK, s, t, *random_fraction(rng), 1, rule=rule, server=kind)
        if rule is Rule.TRIMMED_MEAN:
            form = replace(form, trim_num=trim[0], trim_den=trim[1])
        form = with_shares(rng, form)
        try:
            check_total_weight(Server(form).step, 10_000 * count, s, t)
        except AggregationError:
            continue
        return form, weights


def with_shares(rng: np.random.Generator, form: Format) -> Format:
    """What a server of its kind has beside the step."""
    top = 14 if form.is_adaptive else 31
    if form.has_state:
        num, den = random_share(rng, top)
        form = replace(form, momentum_num=num, momentum_den=den)
    if form.server in (ServerKind.ADAM, ServerKind.YOGI):
        num, den = random_share(rng, top)
        form = replace(form, second_num=num, second_den=den)
    return replace(form, tau=max(1, int(2 ** rng.uniform(0, 32)) - 1)) if form.is_adaptive else form


def random_share(rng: np.random.Generator, top: int) -> tuple[int, int]:
    den = int(rng.choice([1, 2, 10, 1000, int(2 ** rng.uniform(0, top)), 1 << top]))
    return int(rng.choice([0, den, int(rng.integers(0, den, endpoint=True))])), den


def any_server(rng: np.random.Generator) -> Format:
    """One that could be a task's, with up to two numbers of another."""
    kind = ServerKind(int(rng.integers(len(ServerKind))))
    form = with_shares(rng, Format(0, CHUNK, int(rng.integers(33)), 0, *random_fraction(rng), 1, server=kind))
    names = ["momentum_num", "momentum_den", "second_num", "second_den", "tau", "step_num", "step_den"]
    odd = [0, 1, 9, 2**14, 2**14 + 1, 2**31, 2**32 - 1]
    changed = rng.choice(names, int(rng.integers(3)), replace=False).tolist()
    return replace(form, **{name: int(rng.choice(odd)) for name in changed})


def random_fraction(rng: np.random.Generator) -> tuple[int, int]:
    kind = int(rng.integers(4))
    if kind < 2:
        return [(1, 1), (1, 2)][kind]
    top = 8 if kind == 2 else 31
    num, den = (max(1, int(2 ** rng.uniform(0, top))) for _ in range(2))
    return num, den


def random_rows(rng: np.random.Generator, count: int, size: int) -> list[np.ndarray]:
    """Updates whose chunks are of one of four kinds: anything, ties, the ends, all the same."""
    anything = rng.integers(-32767, 32768, (count, size))
    ties = rng.integers(-2, 3, (count, size))
    ends = rng.choice([-32767, -1, 0, 1, 32767], (count, size))
    same = np.repeat(anything[:1], count, axis=0)
    kind = np.repeat(rng.integers(4, size=size // CHUNK), CHUNK)
    return list(np.choose(kind, [anything, ties, ends, same]).astype(np.int16))


def random_vector(rng: np.random.Generator, size: int) -> np.ndarray:
    anywhere = rng.integers(INT32.min, INT32.max, size, endpoint=True)
    usual = rng.integers(-(2**20), 2**20, size)
    ends = rng.choice([INT32.min, INT32.min + 1, -1, 0, 1, INT32.max - 1, INT32.max], size)
    return np.choose(rng.integers(3, size=size), [anywhere, usual, ends]).astype(np.int32)


def random_state(rng: np.random.Generator, form: Format, size: int) -> np.ndarray:
    """Of a plain step too: what it does not have must not matter."""
    anything = random_vector(rng, size * max(1, form.num_moments))
    if not form.is_adaptive:
        return anything
    usual = rng.integers(0, 2 ** int(rng.integers(4, 25)), anything.size).astype(np.int32)
    return np.where(rng.random(anything.size) < 0.8, usual, anything).astype(np.int32)


def advance_on_chain(rules, form: Format, weights, rows, model, state, places=None) -> np.ndarray:
    """(n, 3) int32: next model and next moments of every coordinate."""
    columns = np.stack(rows, axis=1)
    if places is None and form.rule is not Rule.MEAN:
        places = [rank_positions(form, column) for column in columns.tolist()]
    vectors = np.zeros((model.size, 3), np.int32)
    vectors[:, 0] = model
    vectors[:, 1 : 1 + max(1, form.num_moments)] = state.reshape(model.size, -1)
    packed = (
        columns.astype(">i2").tobytes(),
        b"" if places is None else np.array(places, ">u2").tobytes(),
        vectors.astype(">i4").tobytes(),
    )
    setup = tuple(map(int, astuple(form)))
    raw = rules.raw("advance", [FORMAT, "uint16[]", "bytes", "bytes", "bytes"], setup, weights, *packed)
    return words(raw)[2:, 28:].copy().view(">i4")[:, 0].reshape(-1, 3)


def words(raw: bytes) -> np.ndarray:
    """ABI words, (n, 32): where an array begins, its length, its values."""
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)
