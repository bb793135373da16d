"""Amounts, lengths of time and JSON as people and programs read them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.cli.output import (
    Money,
    duration,
    ether,
    hint_of,
    parse_tokens,
    plain,
    show_facts,
    show_json,
    show_table,
    tokens,
)
from chainfl.errors import CidMismatch, StakeTooLow, UnexpectedPhase, UsageError
from chainfl.tasks.state import Phase, Role

ONE = 10**18


@pytest.mark.parametrize(
    ("wei", "text"),
    [
        (0, "0 CFL"),
        (ONE, "1 CFL"),
        (1, "0.000000000000000001 CFL"),
        (1_234_500 * ONE // 1_000, "1,234.5 CFL"),
        (-ONE, "-1 CFL"),
    ],
)
def test_tokens__any_amount__is_exact(wei, text):
    assert tokens(wei) == text


@given(st.integers(0, 10**40), st.integers(0, 30))
def test_parse_tokens__what_tokens_wrote__is_the_same_amount(wei, decimals):
    money = Money("X", decimals)
    assert money.parse(money.show(wei).removesuffix(" X")) == wei


@pytest.mark.parametrize(
    "text",
    ["", ".", "-1", "1e3", "0x10", "1.2.3", "ten", "1.0000000000000000001", "٣", "9" * 79, "0,5", "1,50", "1,,000"],
)
def test_parse_tokens__no_amount__is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_tokens(text)


def test_tokens__without_decimals__are_whole():
    assert Money("PTS", 0).show(5) == "5 PTS"
    with pytest.raises(UsageError):
        Money("PTS", 0).parse("0.5")


def test_ether__a_wei__is_rounded_up_to_a_gwei():
    assert ether(1) == "0.000000001 ETH"
    assert ether(0) == "0 ETH"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-5, "0 s"), (59.6, "1 min"), (3_661, "1 h 1 min"), (90_061, "1 d 1 h"), (60, "1 min")],
)
def test_duration__any_length__has_at_most_two_units(seconds, text):
    assert duration(seconds) == text


@dataclass(frozen=True)
class Sample:
    role: Role
    root: bytes
    amount: int


def test_plain__dataclass__has_names_hex_and_exact_integers():
    assert plain({1: Sample(Role.WORKER, b"\xab", 2**200)}) == {
        "1": {"role": "worker", "root": "0xab", "amount": 2**200}
    }


def test_show_json__anything__is_one_document(capsys):
    show_json([Phase.COMMIT, (1, None), {"x": True}, 1.5])
    assert json.loads(capsys.readouterr().out) == ["commit", [1, None], {"x": True}, 1.5]


def test_tables__cells__are_aligned(capsys):
    show_table(["a", "long"], [("xxx", 1), ("y", 22)])
    show_facts([("name", "v"), ("n", "w")])
    assert capsys.readouterr().out.splitlines() == ["a    long", "xxx  1", "y    22", "name  v", "n     w"]


def test_hint__missing_stake__is_in_tokens():
    assert hint_of(StakeTooLow("x", missing=1_500 * ONE)) == "Top up with `chainfl stake deposit 1500`."


def test_hint__without_its_evidence__is_left_out():
    assert hint_of(UnexpectedPhase("x")) == ""
    assert hint_of(StakeTooLow("x")) == ""


def test_hint__braces_in_evidence__stay_as_they_are():
    assert "{x}" in hint_of(UnexpectedPhase("x", task_id="{x}"))
    assert hint_of(CidMismatch("x", cid="{missing}"))
