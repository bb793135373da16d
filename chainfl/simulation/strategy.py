"""What an experiment does with its clients' work, under the field's names, as the entries that a real task has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from chainfl.errors import UsageError
from chainfl.tasks.payload_rules import payload_problems
from chainfl.tasks.server_rules import server_problems
from chainfl.tasks.server_settings import SERVERS, ServerSettings, exact
from chainfl.tasks.spec import (
    DEFAULT_MODEL_SCALE_BITS,
    DEFAULT_UPDATE_SCALE_BITS,
    PayloadEntry,
    TrainingEntry,
    ValidationEntry,
    default_format,
)
from chainfl.tasks.state import SELECTIONS, Draw, DrawBy, Format, Rule
from chainfl.tasks.validation_rules import RULE_PARAMETERS

Number = int | float | str | Fraction | Decimal
Entry = TypeVar("Entry", bound=BaseModel)

_OF_SERVER: Final = ("server_rate", "server_momentum", "server_second", "server_tau")
_FLOWER_NAMES: Final = {
    "eta": "server_rate",
    "server_learning_rate": "server_rate",
    "beta_1": "server_momentum",
    "beta_2": "server_second",
    "tau": "server_tau",
}
_LOCAL: Final = ("steps", "batch_size", "learning_rate", "momentum", "weight_decay", "local_epochs")


@dataclass(frozen=True, slots=True)
class Strategy:
    """How clients train, how their updates become one step, and how validators weigh them.

    algorithm, parameters: of local training, by the names that a task's [training] has. rule: `mean`, `median` or
    `trimmed_mean`, which drops the share `trim` at each end. server: its step, `plain`, `momentum`, `nesterov`,
    `adagrad`, `adam` or `yogi`, with server_rate, server_momentum, server_second and server_tau, exact fractions; None
    is what such a step usually has, and a server_momentum alone makes it `momentum`. judging: entries of a task's
    [validation]; they matter with validators. clients_per_round: so many, drawn anew for each round; None is everybody.
    selection: by what they are drawn: `uniform`, `stake` (of which all have the same in an experiment) or `reputation`,
    the weights of past updates. compression, keep: of a task's [payload], what is sent of an update: `deflate`, `int8`,
    `int4`, or `topk` with the share that it keeps. numbers: further fields of `Format`, by name.
    Raises UsageError for what no task can have.
    """

    algorithm: str = "fedavg"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rule: str = "mean"
    trim: Number = Fraction(0)
    server: str | None = None
    server_rate: Number | None = None
    server_momentum: Number | None = None
    server_second: Number | None = None
    server_tau: Number | None = None
    judging: Mapping[str, Any] = field(default_factory=dict)
    clients_per_round: int | None = None
    selection: str = "uniform"
    compression: str = "none"
    keep: Number | None = None
    model_scale_bits: int = DEFAULT_MODEL_SCALE_BITS
    update_scale_bits: int = DEFAULT_UPDATE_SCALE_BITS
    numbers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("trim", *_OF_SERVER):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, exact(name, value))
        if problems := self._problems():
            raise UsageError(f"not a strategy: {'; '.join(problems)}", problems=problems)

    @classmethod
    def named(cls, name: str, **changes: Any) -> Strategy:
        """One of STRATEGIES, with some of its fields changed, by our names or by Flower's. Raises UsageError."""
        if name not in STRATEGIES:
            raise UsageError(f"no strategy is called {name!r}; there are {', '.join(STRATEGIES)}", name=name)
        ours = {_FLOWER_NAMES.get(change, change): value for change, value in changes.items()}
        return replace(STRATEGIES[name], **ours)

    @classmethod
    def of(cls, given: str | Strategy) -> Strategy:
        """A strategy, or the one of that name."""
        return cls.named(given) if isinstance(given, str) else given

    def format(self, num_params: int) -> Format:
        """The integers of a task with so many values."""
        trim = Fraction(self.trim)
        return replace(
            default_format(num_params),
            model_scale_bits=self.model_scale_bits,
            update_scale_bits=self.update_scale_bits,
            rule=Rule[self.rule.upper()],
            trim_num=trim.numerator,
            trim_den=trim.denominator if trim else 0,
            **self._server().to_fields(self.model_scale_bits),
            **self.numbers,  # type: ignore[arg-type]  # none of them is an enum
        )

    def _server(self) -> ServerSettings:
        given = {name: getattr(self, name) for name in _OF_SERVER}
        return ServerSettings(self.server, **{name.removeprefix("server_"): given[name] for name in given})

    def training(self, **local: Number | None) -> TrainingEntry:
        """What every client does. local: steps, batch_size, learning_rate, … Raises UsageError with every problem."""
        if taken := sorted(set(self.parameters) & set(_LOCAL)):
            raise UsageError(f"{', '.join(taken)}: said beside the strategy, not in it")
        given = {"algorithm": self.algorithm, **self.parameters, **local}
        return _entry(TrainingEntry, given)

    def validation(self) -> ValidationEntry:
        """What every validator does. Raises UsageError with every problem."""
        return _entry(ValidationEntry, self.judging)

    def payload(self) -> PayloadEntry:
        """The form of the updates' files. Raises UsageError with every problem."""
        entry = _entry(PayloadEntry, {"compression": self.compression, "keep": self.keep})
        if problems := list(payload_problems(entry)):
            raise UsageError(f"no task can have this: {'; '.join(problems)}", problems=problems)
        return entry

    @property
    def draw(self) -> Draw:
        """Who takes part in a round, as a task has it."""
        return Draw(self.clients_per_round or 0, DrawBy[self.selection.upper()])

    def to_json(self) -> dict[str, Any]:
        """The fields by name; fractions as text. Where everybody takes part nothing is said of a selection."""
        told = {item.name: _told(getattr(self, item.name)) for item in fields(self)}
        return told if self.draw.is_on else {name: value for name, value in told.items() if name != "selection"}

    def _problems(self) -> list[str]:
        found = []
        if self.rule.upper() not in Rule.__members__:
            found.append(f"rule is {self.rule!r}, not one of {', '.join(name.lower() for name in Rule.__members__)}")
        if not 0 <= Fraction(self.trim) < Fraction(1, 2) or (self.trim != 0) != (self.rule == "trimmed_mean"):
            found.append("trim is above 0 and below 1/2 for trimmed_mean, and 0 for other rules")
        if self.server is not None and self.server not in SERVERS:
            found.append(f"server is {self.server!r}, not one of {', '.join(SERVERS)}")
        if self.server_rate is not None and not Fraction(self.server_rate) > 0:
            found.append("server_rate is not positive")
        if self.clients_per_round is not None and self.clients_per_round < 1:
            found.append("clients_per_round is below 1")
        if self.selection.upper() not in DrawBy.__members__:
            found.append(f"selection is {self.selection!r}, not one of {', '.join(SELECTIONS)}")
        elif self.clients_per_round is None and self.selection != "uniform":
            found.append("selection needs clients_per_round: where everybody takes part nobody is drawn")
        if unknown := sorted(set(self.numbers) - _FREE_NUMBERS):
            found.append(f"numbers has {', '.join(unknown)}; there are {', '.join(sorted(_FREE_NUMBERS))}")
        return found or list(server_problems(self.format(1)))


_FREE_NUMBERS: Final = {item.name for item in fields(Format)} - {
    "num_params",
    "model_scale_bits",
    "update_scale_bits",
    "step_num",
    "step_den",
    "rule",
    "trim_num",
    "trim_den",
    "server",
    "momentum_num",
    "momentum_den",
    "second_num",
    "second_den",
    "tau",
}


def _algorithms() -> tuple[str, ...]:
    """What a task's [training] may name."""
    return get_args(TrainingEntry.model_fields["algorithm"].annotation)


def decimal_text(value: Number) -> str:
    """A rate as a specification writes it: plain decimal digits, no exponent. Raises UsageError for no number."""
    try:
        text = format(Decimal(str(value)).normalize(), "f")
    except ArithmeticError as error:
        raise UsageError(f"{value!r} is not a number") from error
    return text or "0"


def _entry(kind: type[Entry], given: Mapping[str, Any]) -> Entry:
    whole = {name for name, info in kind.model_fields.items() if _is_whole(info.annotation)}
    plain = {name: value if name in whole else _as_text(value) for name, value in given.items()}
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}"
            for entry in error.errors(include_url=False, include_input=False)
        ]
        raise UsageError(f"no task can have this: {'; '.join(problems)}", problems=problems) from None


def _is_whole(annotation: Any) -> bool:
    """Whether a field holds integers; everything else that is a number is a rate, which is text."""
    return annotation is int or any(_is_whole(part) for part in get_args(annotation))


def _as_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_text(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    is_number = isinstance(value, int | float | Fraction | Decimal) and not isinstance(value, bool)
    return decimal_text(value) if is_number else value


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _told(item) for name, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _selection(rule: str) -> Strategy:
    """Validators who choose by a rule, against one attacker where it asks for a number; Bulyan's own second half."""
    counts = {"num_malicious_clients": 1} if "num_malicious_clients" in RULE_PARAMETERS[rule] else {}
    return Strategy(judging={"rule": rule, **counts}, rule="median" if rule == "bulyan" else "mean")


STRATEGIES: Final[Mapping[str, Strategy]] = {
    **{name: Strategy(algorithm=name) for name in _algorithms()},
    "fedprox": Strategy("fedprox", {"proximal_mu": "0.01"}),
    "feddyn": Strategy("feddyn", {"alpha": "0.1"}),
    "fedavgm": Strategy(server="momentum"),
    "fedadagrad": Strategy(server="adagrad"),
    "fedadam": Strategy(server="adam"),
    "fedyogi": Strategy(server="yogi"),
    "diloco": Strategy(parameters={"optimizer": {"name": "adamw"}}, server="nesterov", server_rate=Fraction(7, 10)),
    "fedmedian": Strategy(rule="median"),
    "fedtrimmedavg": Strategy(rule="trimmed_mean", trim=Fraction(1, 5)),
    **{rule: _selection(rule) for rule in RULE_PARAMETERS if rule != ValidationEntry().rule},
}
"""By the names that the field gives them: every local algorithm with a plain mean, what differs in the server, and what
differs in the validators, of whom these need at least one. `diloco` wants many local steps (the paper: 500), with a
learning rate of AdamW's."""
