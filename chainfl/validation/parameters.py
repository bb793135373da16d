"""From a specification's text and integers to the parameters of a rule."""

from __future__ import annotations

from collections.abc import Iterable

from chainfl.tasks.spec import ValidationEntry


def chosen_parameters(entry: ValidationEntry, names: Iterable[str]) -> dict[str, float | int]:
    """Those of these names that the entry gives; rates, which are decimals as text, as the nearest float."""
    given = ((name, getattr(entry, name)) for name in names)
    return {name: float(value) if isinstance(value, str) else int(value) for name, value in given if value is not None}
