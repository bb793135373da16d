"""The tree of errors: a hint that can always be filled, and an exit code that means one thing."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterator

import chainfl
from chainfl.errors import ChainflError


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
