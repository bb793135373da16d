"""The forms that people name a local optimiser in, and the entry of a specification that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from chainfl.errors import UsageError
from chainfl.tasks.decimals import plain_decimals
from chainfl.tasks.spec import OptimizerEntry
from chainfl.tasks.training_rules import unknown_optimizer

_FORMS: Final = "a name such as 'adamw', a class of torch.optim, or (name, {parameter: value})"


def is_own_optimizer(given: object) -> bool:
    """Whether it makes optimisers and is none of torch's classes, whose names say the same."""
    return callable(given) and not _is_torchs(given)


def optimizer_called(given: object) -> str:
    """The qualified name of what makes optimisers; of a partial, that of its function."""
    given = getattr(given, "func", given)
    named = given if hasattr(given, "__qualname__") else type(given)
    return f"{named.__module__}.{named.__qualname__}"


def optimizer_named(given: object) -> dict[str, Any]:
    """`{"name": …}` in lower case, with `params` where there are any. given: as `_FORMS` says, or such an entry.

    Raises UsageError that says what is taken.
    """
    name, rest = _parts(given)
    if is_own_optimizer(name):
        raise UsageError(
            f"optimizer is {given!r}, which no task can name: give one of your own by itself, beside the strategy, as "
            "simulate(…, optimizer=…) or chainfl.App(optimizer=…), with its rates"
        )
    name = name.__name__ if isinstance(name, type) else name
    if not isinstance(name, str):
        raise UsageError(f"optimizer is {given!r}, not {_FORMS}")
    if problem := unknown_optimizer(name.lower()):
        raise UsageError(problem, optimizer=name)
    return {"name": name.lower(), **rest}


def optimizer_entry(given: object) -> OptimizerEntry:
    """The same as a specification has it. Raises UsageError."""
    named = optimizer_named(given)
    try:
        return OptimizerEntry.model_validate(plain_decimals(named))
    except ValidationError as error:
        told = f"optimizer is {given!r}, not {_FORMS}, each value a decimal of 0 or more, a pair of them, or a bool"
        raise UsageError(told) from error


def _is_torchs(given: object) -> bool:
    return isinstance(given, type) and f"{given.__module__}.".startswith("torch.optim.")


def _parts(given: object) -> tuple[object, Mapping[str, Any]]:
    if isinstance(given, BaseModel):
        given = given.model_dump()
    if isinstance(given, list | tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        return given[0], {"params": given[1]} if given[1] else {}
    if isinstance(given, Mapping):
        return given.get("name"), {name: value for name, value in given.items() if name != "name"}
    return given, {}
