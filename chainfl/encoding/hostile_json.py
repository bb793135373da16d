"""JSON that a stranger wrote."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 8
# The closing quote is optional: a string that never ends would otherwise be tried again from each escaped quote.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NOT_BRACKET = re.compile(rb"[^\[\]{}]")


def decode_json(text: str | bytes | bytearray, *, max_bytes: int) -> Any:
    """The value, nested at most MAX_DEPTH deep. Raises ValueError for anything else, duplicate keys and NaN too.

    Depth is counted before parsing: with a raised recursion limit, which other packages set at will, Python's
    parser overflows the C stack on deep nesting and takes the whole process with it.
    """
    data = text.encode("utf-8") if isinstance(text, str) else bytes(text)
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes of JSON, at most {max_bytes} are allowed")
    if _depth(data) > MAX_DEPTH:
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH}")
    return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)


def _depth(data: bytes) -> int:
    depth = deepest = 0
    for bracket in _NOT_BRACKET.sub(b"", _STRING.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object with the same key twice")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
