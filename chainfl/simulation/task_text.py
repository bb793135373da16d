"""An experiment as a task file: what `chainfl task create --file` takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chainfl.errors import UsageError
from chainfl.simulation.experiment import Experiment
from chainfl.tasks.server_rules import FINER_BITS
from chainfl.tasks.server_settings import fraction_text
from chainfl.tasks.spec import default_format
from chainfl.tasks.state import Format
from chainfl.training.prediction import cross_entropy

_NOT_IN_FILES = ("num_params", "max_squared_norm")
_OF_SERVER = ("server", "momentum_num", "momentum_den", "second_num", "second_den", "tau")


def task_text(experiment: Experiment, *, rounds: int, reward: str, program: Path | None) -> str:
    """TOML with the experiment's model, training, integers and judging; stakes and windows are the defaults.

    reward: in tokens. program: the `torch.export` archive, for a model without a registered name. A task's workers
    bring data of their own, and its randomness is its own too. Raises UsageError for what no task can do.
    """
    if experiment.loss is not cross_entropy:
        raise UsageError("a task's workers train with the cross-entropy, not with a loss=… of one's own: leave it out")
    if experiment.optimizer is not None:
        raise UsageError(
            "a task names one of torch's optimizers, not one of your own: leave optimizer=… out, or name one; each "
            "worker may bring its own with chainfl.App(optimizer=…)"
        )
    archive = program or experiment.model.archive
    if experiment.model.name is None and archive is None:
        raise UsageError("this model has no registered name: export it with torch.export, and give the file: program=…")
    return "\n".join(_lines(experiment, rounds, reward, archive)) + "\n"


def _lines(experiment: Experiment, rounds: int, reward: str, archive: Path | None) -> Iterator[str]:
    recipe, model = experiment.recipe, experiment.model
    yield "# From a simulated experiment. The task file in docs/operating.md says what else it may have;"
    yield "# `chainfl task template` prints all of it."
    yield from _table({"name": recipe.dataset.name, "reward": reward, "rounds": rounds})
    yield from _table({"workers": len(experiment.split.workers)})
    yield from _validators(len(experiment.split.validators), recipe.validation.rule)
    if model.name is None:
        yield from _table({"program": str(archive)})
    else:
        yield from _table({"name": model.name, "params": dict(model.params), "seed": model.seed}, "model")
    yield from _participants(experiment)
    yield from _table(recipe.dataset.model_dump(mode="json", exclude_defaults=True), "dataset")
    yield from _table(recipe.training.model_dump(mode="json", exclude_defaults=True), "training")
    yield from _table(_format(recipe.format), "format")
    if sent := recipe.payload.model_dump(mode="json", exclude_defaults=True):
        yield from _table(sent, "payload")
    if judging := recipe.validation.model_dump(mode="json", exclude_defaults=True):
        yield from _table(judging, "validation")


def _validators(count: int, rule: str) -> Iterator[str]:
    if not count:
        yield "# The experiment had no validators: every update counted in full. A task has at least one, which judges"
        yield f"# by the default rule, {rule}, on data of its own; [validation] changes how."
    yield from _table({"validators": max(1, count)})


def _participants(experiment: Experiment) -> Iterator[str]:
    strategy = experiment.strategy
    if strategy.clients_per_round is not None:
        per_round = min(strategy.clients_per_round, len(experiment.split.workers))
        yield from _table({"clients_per_round": per_round, "selection": strategy.selection}, "participants")


def _format(form: Format) -> dict[str, Any]:
    """What differs from the defaults."""
    usual = asdict(default_format(form.num_params))
    changed = {
        name: value for name, value in asdict(form).items() if value != usual[name] and name not in _NOT_IN_FILES
    }
    server = {name: changed.pop(name, None) for name in _OF_SERVER}
    if form.is_adaptive:  # whose rate is not 1/1 where a file says nothing
        changed |= {"step_num": form.step_num, "step_den": form.step_den}
    return {
        **changed,
        **({"rule": form.rule.name.lower()} if "rule" in changed else {}),
        **(_server(form) if any(server.values()) else {}),
    }


def _server(form: Format) -> dict[str, str]:
    """As a task file says it: a name, and exact fractions."""
    found = {"server": form.server.name.lower()}
    for name in ("momentum", "second"):
        if den := getattr(form, f"{name}_den"):
            found[name] = fraction_text(getattr(form, f"{name}_num"), den)
    return {**found, **({"tau": fraction_text(form.tau, 1 << form.model_scale_bits + FINER_BITS)} if form.tau else {})}


def _table(values: Mapping[str, Any], title: str | None = None) -> Iterator[str]:
    if title is not None:
        yield ""
        yield f"[{title}]"
    yield from (f"{name} = {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    """JSON's scalars and lists are TOML's too."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_value(item)}" for name, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
