"""Rates as text: one canonical form, plain digits, whatever way a person writes them. No value becomes a float."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any

_WRITTEN = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def decimal_text(value: object) -> str:
    """A number as a specification writes it: no exponent, no zeros at the end. Raises ArithmeticError for no number."""
    return format(Decimal(str(value)).normalize(), "f") or "0"


def plain_decimal(value: Any) -> Any:
    """`decimal_text` of a number, numpy's too, or of a text such as "1e-3"; all else as it is, for others to judge.

    So is a text of more digits than a Decimal keeps: to round it would be to change it.
    """
    if isinstance(value, bool | Fraction) or not isinstance(value, Real | Decimal | str):
        return value
    return value if isinstance(value, str) and not _is_exact(value) else decimal_text(value)


def plain_decimals(value: Any) -> Any:
    """The same for everything in mappings and sequences."""
    if isinstance(value, Mapping):
        return {name: plain_decimals(item) for name, item in value.items()}
    return [plain_decimals(item) for item in value] if isinstance(value, list | tuple) else plain_decimal(value)


def _is_exact(text: str) -> bool:
    return _WRITTEN.fullmatch(text.strip()) is not None and Decimal(text) == Decimal(text).normalize()
