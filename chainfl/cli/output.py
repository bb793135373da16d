"""How the command line speaks: data on standard output, talk on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any

import click

from chainfl.errors import ChainflError

TOKEN_DECIMALS = 18


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
        return plain(asdict(value))
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


def tokens(wei: int, symbol: str = "CFL") -> str:
    """An amount of tokens for people, exact: 1.5 CFL. Integers to the last line, so no float rounds money."""
    whole, part = divmod(abs(wei), 10**TOKEN_DECIMALS)
    fraction = f"{part:0{TOKEN_DECIMALS}d}".rstrip("0")
    sign = "-" if wei < 0 else ""
    return f"{sign}{whole:,}{'.' + fraction if fraction else ''} {symbol}"


def parse_tokens(text: str) -> int:
    """Wei of an amount as people write it ("100", "0.5"). Raises click.BadParameter."""
    whole, _, fraction = text.strip().replace("_", "").partition(".")
    if not (whole or fraction) or not (whole + fraction).isdigit() or len(fraction) > TOKEN_DECIMALS:
        raise click.BadParameter(f"{text!r} is not an amount of tokens, such as 100 or 0.5")
    digits = (whole or "0") + fraction.ljust(TOKEN_DECIMALS, "0")
    return int(digits)


def duration(seconds: float) -> str:
    """A length of time for people."""
    total = max(0, round(seconds))
    days, rest = divmod(total, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, secs = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (secs, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value]
    return " ".join(shown[:2]) or "0 s"


def fail(error: ChainflError) -> int:
    """Tells an error and what to do next. returns: the exit code."""
    bold = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    say(click.style("error: ", fg="red", bold=True) + str(error) if bold else f"error: {error}")
    if error.hint:
        say(f"hint: {error.hint}")
    return error.exit_code
