"""The tree of errors: a hint that can always be filled, and an exit code that means one thing."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import chainfl
from chainfl.errors import ChainflError, UsageError


def all_errors() -> list[type[ChainflError]]:
    for module in pkgutil.walk_packages(chainfl.__path__, "chainfl."):
        importlib.import_module(module.name)
    return list(below(ChainflError))


def below(kind: type[ChainflError]) -> Iterator[type[ChainflError]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def test_errors__own_exit_codes__mean_one_thing_each() -> None:
    by_code = defaultdict(set)
    for kind in all_errors():
        if "exit_code" in vars(kind) and kind.__module__.startswith("chainfl."):
            by_code[kind.exit_code].add(kind.__name__)
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {}


def test_errors__hint_without_its_evidence__is_still_a_text() -> None:
    for kind in all_errors():
        assert isinstance(kind("what happened").hint, str), kind.__name__


def test_errors__each_that_a_user_can_meet__says_what_to_do_next() -> None:
    kinds = [kind for kind in all_errors() if kind.__module__.startswith("chainfl.")]
    assert [kind.__name__ for kind in kinds if not kind.hint_template] == []


def test_usage_error__hint__is_for_the_shell_and_for_python() -> None:
    hint = UsageError("what happened").hint
    assert "--help" in hint
    assert "help(chainfl.simulate)" in hint


def test_errors__every_exit_code__is_in_the_operators_table() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "operating.md").read_text()
    column = " ".join(re.findall(r"^\| (\d[^|]*) \|", page.partition("\n## What can go wrong\n")[2], re.MULTILINE))
    listed = set()
    for first, last in re.findall(r"\b(\d+)(?: to (\d+))?\b", column):
        listed |= set(range(int(first), int(last or first) + 1))
    assert listed == {kind.exit_code for kind in all_errors() if kind.__module__.startswith("chainfl.")}
