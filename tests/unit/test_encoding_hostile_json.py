"""JSON from strangers: depth, size, duplicates."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.encoding.hostile_json import MAX_DEPTH, decode_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def max_depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(max_depth, inner), default=0)


def nested(depth):
    return "[" * depth + "]" * depth


def test_decode_json__depth_at_and_past_the_limit__only_the_second_refused():
    decode_json(nested(MAX_DEPTH), max_bytes=100)
    with pytest.raises(ValueError, match="nested"):
        decode_json(nested(MAX_DEPTH + 1), max_bytes=100)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '["' + "]" * 100 + '",' + nested(100_000) + "]",
        '{"a":' * 100_000,
        '["\\"]]]]",' + nested(50) + "]",
    ],
    ids=["open lists", "brackets in a string", "open objects", "an escaped quote"],
)
def test_decode_json__deep_nesting_under_a_raised_recursion_limit__refused_without_a_crash(text):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(ValueError, match="nested"):
            decode_json(text, max_bytes=1 << 24)
    finally:
        sys.setrecursionlimit(limit)


def test_decode_json__brackets_within_strings__are_not_nesting():
    assert decode_json(json.dumps(["[" * 50, "\\" + "{" * 50]), max_bytes=1000)[0] == "[" * 50


def test_decode_json__size_at_and_past_the_limit__only_the_second_refused():
    decode_json("[1]", max_bytes=3)
    with pytest.raises(ValueError, match="bytes of JSON"):
        decode_json("[1]", max_bytes=2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        '{"a":1,"a":2}',
        "[NaN]",
        "[Infinity]",
        b"\xff",
        b"\xef\xbb\xbf[]",
        "1" * 10_000,
        '"\ud800"',
        '["',
        '["\\',
    ],
    ids=repr,
)
def test_decode_json__not_json__value_error(text):
    with pytest.raises(ValueError):
        decode_json(text, max_bytes=1 << 20)


@given(VALUES)
def test_decode_json__any_shallow_value__what_json_gives(value):
    text = json.dumps(value)
    if max_depth(value) <= MAX_DEPTH:
        assert decode_json(text, max_bytes=1 << 20) == value
    else:
        with pytest.raises(ValueError, match="nested"):
            decode_json(text, max_bytes=1 << 20)


def test_decode_json__string_that_never_ends__linear_time():
    with pytest.raises(ValueError):
        decode_json('["' + '\\"' * 2_000_000, max_bytes=1 << 24)
