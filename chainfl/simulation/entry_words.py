"""What a task's entry refuses, in words: the field, the value that was given, and what is taken."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

_A_RATE = "0.05"


def refusals(kind: type[BaseModel], error: ValidationError, given: Mapping[str, Any]) -> list[str]:
    """Each field that was refused once. given: the fields by name, as they were said."""
    schema = kind.model_json_schema()
    found = [_refusal(schema, entry["type"], entry["loc"], given) for entry in error.errors(include_url=False)]
    return list(dict.fromkeys(found))


def _refusal(schema: Mapping[str, Any], kind: str, where: tuple[int | str, ...], given: Mapping[str, Any]) -> str:
    name, fields = str(where[0]), schema["properties"]
    if len(where) == 1 and kind == "missing":
        return f"{name} is missing"
    if name not in fields:
        return f"{name} is no setting here; there are {', '.join(fields)}"
    value = given.get(name)
    if name == "optimizer":
        return _refused_optimizer(where, value)
    return f"{name} is {reprlib.repr(value)}, not {_taken(fields[name])}"


def _refused_optimizer(where: tuple[int | str, ...], value: Any) -> str:
    if len(where) < 3 or where[1] != "params":
        return f"optimizer is {reprlib.repr(value)}, not a name and its params"
    told = reprlib.repr(value["params"].get(where[2]))
    return f"optimizer's {where[2]} is {told}, not a plain decimal of 0 or more, a pair of them, true or false"


def _taken(schema: Mapping[str, Any]) -> str:
    """From a field's JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_taken(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema.get("type") == "integer":
        return f"a whole number from {schema['minimum']:,} to {schema['maximum']:,}"
    if schema.get("type") == "array":
        return f"a list of {_taken(schema['items'])}"
    if re.fullmatch(schema.get("pattern", ""), _A_RATE):
        return f"a plain decimal of 0 or more, such as {_A_RATE}"
    return f"text of the form {schema['pattern']}" if "pattern" in schema else "text"
