"""How the command line speaks: data on standard output, talk on standard error."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Final

import click

from chainfl.errors import ChainflError, Interrupted, UsageError

TOKEN_DECIMALS: Final = 18
GWEI: Final = 10**9
ETHER: Final = 10**18
MARKS: Final = {True: "✓", False: "✗", None: "–"}
"""How the outcome of a check is shown; None: it could not be made."""


def say(text: str) -> None:
    """Talk: progress and advice, to standard error."""
    click.echo(text, err=True)


def show(text: str = "") -> None:
    """A result, to standard output."""
    click.echo(text)


def show_json(value: Any) -> None:
    """A result for programs: one JSON document. Bytes in hex, money as integers of wei, enums by name."""
    show(json.dumps(plain(value), indent=2, sort_keys=False))


def plain(value: Any) -> Any:
    """A value made of JSON's own types."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def show_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A result for people: aligned columns, no frame, so that it greps and pastes well."""
    lines = [list(map(str, headers)), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    for line in lines:
        show("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """A result for people: one fact a line, names in one column."""
    listed = list(facts)
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        show(f"{name.ljust(width)}  {value}".rstrip())


def tokens(wei: int, symbol: str = "CFL", decimals: int = TOKEN_DECIMALS) -> str:
    """An amount of tokens for people, exact: 1.5 CFL. Integers to the last line, so no float rounds money."""
    whole, part = divmod(abs(wei), 10**decimals)
    fraction = f"{part:0{decimals}d}".rstrip("0") if decimals else ""
    sign = "-" if wei < 0 else ""
    return f"{sign}{whole:,}{'.' + fraction if fraction else ''} {symbol}".rstrip()


_AMOUNT: Final = re.compile(r"([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?(?:\.([0-9]*))?", re.ASCII)
_MAX_DIGITS: Final = 78


def parse_tokens(text: str, decimals: int = TOKEN_DECIMALS) -> int:
    """Wei of an amount as people write it ("100", "0.5", "1,000"). Raises UsageError.

    A comma only groups thousands: "0,5" is refused and not taken for five.
    """
    match = _AMOUNT.fullmatch(text.strip())
    whole, fraction = ((match[1] or "").replace(",", ""), match[2] or "") if match else ("", "")
    if not 0 < len(whole + fraction) <= _MAX_DIGITS:
        raise UsageError(f"{text!r} is not an amount of tokens, such as 100 or 0.5")
    if len(fraction) > decimals:
        raise UsageError(f"{text!r} has more than the {decimals} decimals of the token")
    return int((whole or "0") + fraction.ljust(decimals, "0"))


def ether(wei: int) -> str:
    """An amount of the native currency for people, rounded up to a gwei so that a price is never understated."""
    return tokens(-(-wei // GWEI) * GWEI, "ETH", 18)


@dataclass(frozen=True, slots=True)
class Money:
    """The deployment's token, as amounts of it are shown and read."""

    symbol: str = "CFL"
    decimals: int = TOKEN_DECIMALS

    def show(self, wei: int) -> str:
        """For people, exact."""
        return tokens(wei, self.symbol, self.decimals)

    def parse(self, text: str) -> int:
        """Wei of what a person wrote. Raises UsageError."""
        return parse_tokens(text, self.decimals)


def duration(seconds: float) -> str:
    """A length of time for people."""
    total = max(0, round(seconds))
    days, rest = divmod(total, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, secs = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (secs, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value]
    return " ".join(shown[:2]) or "0 s"


def is_interactive() -> bool:
    """Whether a person can be asked: standard input and standard error are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def has_color() -> bool:
    """Whether talk may be coloured."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


def hint_of(error: ChainflError) -> str:
    """The error's hint, with amounts of wei as people type them; empty when the evidence that it needs is missing."""
    shown = dict(error.evidence)
    if isinstance(missing := shown.get("missing"), int):
        shown["missing"] = tokens(missing, "").replace(",", "")
    try:
        return error.hint_template.format(**shown)
    except KeyError:
        return ""


def fail(error: ChainflError) -> int:
    """Tells an error and what to do next. returns: the exit code. Stopping by request is told, but not as an error."""
    if isinstance(error, Interrupted):
        say(str(error))
        return error.exit_code
    say(click.style("error: ", fg="red", bold=True) + str(error) if has_color() else f"error: {error}")
    if (tx_hash := error.evidence.get("tx_hash")) and str(tx_hash) not in str(error):
        say(f"transaction: {tx_hash}")
    if hint := hint_of(error):
        say(f"hint: {hint}")
    return error.exit_code
