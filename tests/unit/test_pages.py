"""What the pages list must be what the code has."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from chainfl.cli.task_file import TEMPLATE, TaskFile
from chainfl.errors import SpecificationError
from chainfl.simulation import task_text
from chainfl.tasks.spec import DEFAULT_ECONOMICS

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPERATING, LEARNING = ((DOCS / name).read_text() for name in ("operating.md", "learning.md"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def keys_told(text: str) -> dict[str, set[str]]:
    """Of an annotated file every key by its table, those behind a # as well."""
    document = tomllib.loads(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    return dict(keys_of("", document))


def keys_of(table: str, values: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    yield table, set(values)
    for name, value in values.items():
        if isinstance(value, dict) and name != "params":
            yield from keys_of(name, value)


def keys_accepted(kind: type[BaseModel], table: str = "") -> Iterator[tuple[str, set[str]]]:
    yield table, set(kind.model_fields)
    for name, field in kind.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from keys_accepted(part, name)
    if kind is TaskFile:
        yield "windows", set(get_args(get_args(kind.model_fields["windows"].annotation)[0]))
        yield "economics", set(asdict(DEFAULT_ECONOMICS))


def test_operating__the_task_file__has_every_key_that_the_code_accepts_and_no_other() -> None:
    assert keys_told(TEMPLATE) == dict(keys_accepted(TaskFile))


def test_operating__the_task_file__is_the_template_and_where_others_point_to() -> None:
    section = OPERATING.partition("\n## The task file\n")[2].partition("\n## ")[0]
    assert blocks(section, "toml") == [TEMPLATE]
    for pointing in (SpecificationError.hint_template, Path(task_text.__file__).read_text()):
        assert "The task file in docs/operating.md" in pointing


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_pages__python_with_a_set_from_a_folder__says_the_folder(page: Path) -> None:
    using = [block for block in blocks(page.read_text(), "python") if re.search(r'"(mnist|cifar10)"', block)]
    assert [block for block in using if "data_dir=" not in block and "**papers" not in block] == []


def test_learning__data__names_the_files() -> None:
    section = LEARNING.partition("\n## Data\n")[2].partition("\n## ")[0]
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "data_batch_1.bin", "test_batch.bin"):
        assert name in section
