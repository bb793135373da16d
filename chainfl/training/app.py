"""A PyTorch user's own code for an agent: `chainfl.App`, and how `--app module:object` becomes one."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from chainfl.errors import AppUnusable, ChainflError, UsageError
from chainfl.tasks.optimizer_names import is_own_optimizer, optimizer_entry
from chainfl.tasks.state import Role
from chainfl.training.datasets import Dataset
from chainfl.training.guards import Loss
from chainfl.training.inputs import as_splits
from chainfl.training.optimizers import MakeOptimizer
from chainfl.training.prediction import cross_entropy
from chainfl.training.settings import OptimizerSettings, optimizer_settings


@dataclass(frozen=True, slots=True, eq=False)
class App:
    """What a worker or a validator brings along; `simulate` takes the same objects.

    model: as `simulate` takes it, with the names and shapes of the task's; None is the task's own. Its weights do not
    matter, since each round starts from the global model. dataset: what a worker trains on, as `simulate` takes it.
    loss: the mean over a batch. root_data: what a validator judges by; None is `dataset`. optimizer: as `simulate`
    takes it, of whoever trains; one that has a name must be the task's, which has the rates.
    """

    model: object | None = None
    dataset: object | None = None
    loss: Loss = cross_entropy
    root_data: object | None = None
    optimizer: object | None = None

    def part_for(self, role: Role, data_from: str | None = None) -> AppPart:
        """What a worker or a validator takes of it, with the data read.

        data_from: the option that brings the data in place of the app, such as --data. Raises AppUnusable where the
        user's code fails, a worker has no data, or both bring some, and what `as_splits` raises.
        """
        if not callable(self.loss):
            raise AppUnusable(f"the app's loss is {self.loss!r}; give it a function of outputs and labels, or leave it")
        given = self.dataset if role is Role.WORKER or self.root_data is None else self.root_data
        if given is not None and data_from is not None:
            raise AppUnusable(f"the app has data, and {data_from} brings others: leave one of them out")
        if given is None and data_from is None and role is Role.WORKER:
            raise AppUnusable(
                "the app has no data to train on: give it a dataset, chainfl.App(dataset=...), or add --data or --shard"
            )
        own, named = _optimizer(self.optimizer)
        return AppPart(self.model, self.loss, None if given is None else _read(given), own, named)


@dataclass(frozen=True, slots=True, eq=False)
class AppPart:
    """An app as one agent uses it. model: None is the task's own. data: None are others than the app's.

    optimizer: makes one of the user's own. named: one that the task must name; None, as both may be, is the task's.
    """

    model: object | None
    loss: Loss
    data: Dataset | None
    optimizer: MakeOptimizer | None = None
    named: OptimizerSettings | None = None


def load_app(named: str) -> App:
    """The app that `module:object` names, imported with the current folder on `sys.path`.

    The object is an App, a callable without parameters that gives one, or data alone. Raises AppUnusable for anything
    else, and for code that fails; DatasetError for data that cannot be trained on.
    """
    module, _, path = named.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))) or module.endswith(".py"):
        raise AppUnusable(f"{named!r} names no app: write MODULE:OBJECT, such as my_app:app for `app` in my_app.py")
    found = _imported(module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise AppUnusable(f"{module} has no {path}: define it there, or name another object after the colon")
        found = getattr(found, part)
    return _as_app(_made(found, named), named)


@contextmanager
def users_code(doing: str) -> Iterator[None]:
    """What the user's code raises in here is told as AppUnusable, with its last place under the current folder.

    doing: "importing x", of which is told that it failed.
    """
    try:
        yield
    except ChainflError:
        raise
    except (Exception, SystemExit) as error:
        raise AppUnusable(f"{doing} failed: {_told(error)}") from error


def _imported(name: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with users_code(f"importing {name}"):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise AppUnusable(
                f"there is no module {error.name} in {folder} or among those installed: run the command in its folder"
            ) from error


def _made(found: Any, named: str) -> Any:
    """What a callable without parameters gives; anything else as it is."""
    if not callable(found) or isinstance(found, nn.Module):
        return found
    with users_code(f"calling {named}"):
        try:
            signature(found).bind()
        except TypeError as error:
            raise AppUnusable(f"{named} is called without arguments, but has a {error}: give it defaults") from error
        return found()


def _as_app(found: object, named: str) -> App:
    if isinstance(found, App):
        return found
    if isinstance(found, nn.Module):
        raise AppUnusable(f"{named} is a model alone: put it with its data, chainfl.App(model=..., dataset=...)")
    try:
        return App(dataset=_read(found))
    except UsageError as error:
        if isinstance(error, AppUnusable):
            raise
        raise AppUnusable(
            f"{named} is neither a chainfl.App, nor a function that returns one, nor data ({error})"
        ) from error


def _optimizer(given: Any) -> tuple[MakeOptimizer | None, OptimizerSettings | None]:
    """One's own, or the settings of one that has a name. Raises AppUnusable for what is neither."""
    if given is None or is_own_optimizer(given):
        return given, None
    try:
        return None, optimizer_settings(optimizer_entry(given))
    except UsageError as error:
        raise AppUnusable(f"the app's {error}; or give a function that makes one from the parameters") from error


def _read(given: object) -> Dataset:
    with users_code("reading the app's data"):
        return as_splits(given).train


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path.cwd())]
    own = [frame for frame in own if "site-packages" not in frame.filename]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"
