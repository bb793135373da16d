"""Every rule and server step in Python against Solidity: 10,000 random chunks each, and one bit fails."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from harness import CallReverted, Harness

from chainfl.aggregation.rules import group_sums, rule_sum
from chainfl.aggregation.server_step import Server, check_momentum, check_total_weight
from chainfl.disputes.proofs import rank_positions
from chainfl.errors import AggregationError
from chainfl.tasks.state import Format, Rule

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

SETUP = "(uint8,uint16,uint16,uint32,uint32,uint32,uint32,uint8,uint8)"
CHUNK = 16
SETUPS, CHUNKS_EACH = 100, 100
INT32 = np.iinfo(np.int32)


@pytest.fixture(scope="module")
def rules(anvil, harnesses):
    return Harness(anvil, harnesses["RulesHarness"])


@pytest.mark.parametrize("momentum", [False, True], ids=["plain", "momentum"])
@pytest.mark.parametrize("rule", list(Rule))
def test_step__ten_thousand_random_chunks__same_bits(rules, rule, momentum):
    rng = np.random.default_rng([int(rule), momentum])
    for _ in range(SETUPS):
        form, weights = random_setup(rng, rule, momentum)
        rows = random_rows(rng, len(weights), CHUNK * CHUNKS_EACH)
        model, state = random_vector(rng, rows[0].size), random_vector(rng, rows[0].size)
        sums, total = rule_sum(form, rows, weights)
        here = Server.of(form).advance(sums, total, model, state if momentum else None)
        there = advance_on_chain(rules, form, weights, rows, model, state)
        np.testing.assert_array_equal(here.model, there[:, 0], err_msg=str((form, weights)))
        if here.state is not None:
            np.testing.assert_array_equal(here.state, there[:, 1], err_msg=str((form, weights)))


def test_group_sums__ten_thousand_random_chunks__same_bits(rules):
    rng = np.random.default_rng(9)
    for _ in range(SETUPS):
        form, weights = random_setup(rng, Rule.MEAN, False)
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


@pytest.mark.parametrize("momentum", [(1, 1), (1, 2), (0, 1), (2**31 - 3, 2**31 - 3)])
@pytest.mark.parametrize("step", [(1, 1), (1, 2), (3, 2)])
def test_step__exact_halves_and_ends__same_bits(rules, step, momentum):
    form = Format(0, CHUNK, 14, 14, *step, 1, momentum_num=momentum[0], momentum_den=momentum[1])
    ends = [INT32.min, INT32.min + 1, -3, -2, -1, 0, 1, 2, 3, INT32.max - 1, INT32.max]
    cases = np.array(list(itertools.product([-32767, -2, -1, 0, 1, 2, 32767], ends, ends)))
    row, model, state = cases[:, 0].astype(np.int16), cases[:, 1].astype(np.int32), cases[:, 2].astype(np.int32)
    for rule in (Rule.MEAN, Rule.MEDIAN):
        form = replace(form, rule=rule)
        sums, total = rule_sum(form, [row], [10_000])
        here = Server.of(form).advance(sums, total, model, state)
        there = advance_on_chain(rules, form, [10_000], [row], model, state)
        np.testing.assert_array_equal(np.stack([here.model, here.state], axis=1), there)


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


def random_setup(rng: np.random.Generator, rule: Rule, momentum: bool) -> tuple[Format, list[int]]:
    """Parameters that a task could have, at the ends of what is allowed more often than not."""
    count = int(rng.choice([15, 16, 17, 32, 33]) if rng.random() < 0.08 else rng.integers(1, 10))
    weights = [int(w) for w in rng.choice([0, 1, 2, 9_999, 10_000, 10_000, int(rng.integers(10_001))], count)]
    if rule is not Rule.MEAN or sum(weights) == 0:
        weights = [max(1, weight) for weight in weights]
    while True:
        t = int(rng.integers(8, 16))
        s = int(rng.choice([t, 20, int(rng.integers(t, 25))]))
        trim = [(0, 1), (1, 10), (1, 5), (1, 3), (49, 100)][int(rng.integers(5))]
        form = Format(0, CHUNK, s, t, *random_fraction(rng), 1, rule=rule)
        if rule is Rule.TRIMMED_MEAN:
            form = replace(form, trim_num=trim[0], trim_den=trim[1])
        if momentum:
            form = replace(form, momentum_den=int(rng.choice([1, 2, 10, 1000, int(2 ** rng.uniform(0, 31))])))
            form = replace(form, momentum_num=int(rng.integers(0, form.momentum_den, endpoint=True)))
        try:
            check_total_weight(Server.of(form).step, 10_000 * count, s, t)
            check_momentum(form.momentum_num, form.momentum_den)
        except AggregationError:
            continue
        return form, weights


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


def advance_on_chain(rules, form: Format, weights, rows, model, state, places=None) -> np.ndarray:
    """(n, 2) int32: next model and next state of every coordinate."""
    columns = np.stack(rows, axis=1)
    if places is None and form.rule is not Rule.MEAN:
        places = [rank_positions(form, column) for column in columns.tolist()]
    setup = (
        int(form.rule),
        form.trim_num,
        form.trim_den,
        form.step_num,
        form.step_den,
        form.momentum_num,
        form.momentum_den,
        form.model_scale_bits,
        form.update_scale_bits,
    )
    packed = (
        columns.astype(">i2").tobytes(),
        b"" if places is None else np.array(places, ">u2").tobytes(),
        np.stack([model, state], axis=1).astype(">i4").tobytes(),
    )
    raw = rules.raw("advance", [SETUP, "uint16[]", "bytes", "bytes", "bytes"], setup, weights, *packed)
    return words(raw)[2:, 28:].copy().view(">i4")[:, 0].reshape(-1, 2)


def words(raw: bytes) -> np.ndarray:
    """ABI words, (n, 32): where an array begins, its length, its values."""
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)
