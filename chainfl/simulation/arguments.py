"""The whole numbers among `simulate`'s arguments: told by their names before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Final

from chainfl.errors import UsageError

_LEAST: Final[Mapping[str, int]] = {
    "clients": 1,
    "rounds": 1,
    "steps": 1,
    "batch_size": 1,
    "local_epochs": 1,
    "validators": 0,
    "root_examples": 0,
    "processes": 1,
}
_MAY_BE_NONE: Final = ("clients", "local_epochs")


def whole_numbers(given: Mapping[str, object]) -> dict[str, Any]:
    """Each as an int, numpy's integers too; None where it stands for a default.

    Raises UsageError that names every one which is no whole number, or too small.
    """
    problems = [
        f"{name} is {value!r}, not a whole number of at least {_LEAST[name]}"
        for name, value in given.items()
        if not _is_taken(name, value)
    ]
    if problems:
        raise UsageError("; ".join(problems), problems=problems)
    return {name: None if value is None else int(value) for name, value in given.items()}  # type: ignore[call-overload]


def _is_taken(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Integral):
        return value is None and name in _MAY_BE_NONE
    return int(value) >= _LEAST[name]
