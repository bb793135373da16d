"""What an experiment does with its clients' work, under the field's names, as the entries that a real task has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from chainfl.errors import UsageError
from chainfl.simulation.entry_words import refusals
from chainfl.simulation.strategy_names import IN_EITHER, LOCAL, judged_by, placed, plain, rule_told
from chainfl.tasks.decimals import plain_decimal
from chainfl.tasks.optimizer_names import is_own_optimizer, optimizer_named
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

if TYPE_CHECKING:
    from chainfl.training.optimizers import MakeOptimizer

Number = int | float | str | Fraction | Decimal
Entry = TypeVar("Entry", bound=BaseModel)

_OF_SERVER: Final = ("server_rate", "server_momentum", "server_second", "server_tau")
_WHOLE: Final = ("clients_per_round", "model_scale_bits", "update_scale_bits")
_TEXT: Final = ("algorithm", "rule", "server", "selection", "compression")
_MAPPINGS: Final = ("parameters", "judging", "numbers")

USUAL_RATES: Final[Mapping[str, str]] = {
    "sgd": "0.05",
    "adam": "0.001",
    "adamw": "0.001",
    "nadam": "0.002",
    "radam": "0.001",
    "adamax": "0.002",
    "adagrad": "0.01",
    "adadelta": "1",
    "rmsprop": "0.01",
    "rprop": "0.01",
    "asgd": "0.01",
    "adafactor": "0.01",
    "muon": "0.001",
}
"""The learning rate of each optimiser where none is said: torch's own defaults, but for sgd."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """How clients train, how their updates become one step, and how validators weigh them.

    algorithm, parameters: of local training, by the names that a task's [training] has; its optimizer may be a name in
    any case, a class of torch.optim, or one of both with a mapping of its own parameters. rule: `mean`, `median` or
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
        if wrong := self._wrong_kinds():
            raise UsageError(f"not a strategy: {'; '.join(wrong)}", problems=wrong)
        if (optimizer := self.parameters.get("optimizer")) is not None:
            object.__setattr__(self, "parameters", {**self.parameters, "optimizer": optimizer_named(optimizer)})
        for name in ("trim", *_OF_SERVER):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, exact(name, value))
        if problems := self._problems():
            raise UsageError(f"not a strategy: {'; '.join(problems)}", problems=problems)

    @classmethod
    def named(cls, name: str, **changes: Any) -> Strategy:
        """One of STRATEGIES, its name in any case or as Flower's class, with some settings changed.

        changes: fields of `Strategy`, entries of its parameters and judging by themselves, or Flower's names for them.
        Raises UsageError that lists what there is.
        """
        found = {plain(each): each for each in STRATEGIES}.get(plain(str(name)))
        if found is None:
            known = ", ".join(STRATEGIES)
            raise UsageError(f"no strategy is called {name!r}{rule_told(str(name))}; there are {known}", name=name)
        base = STRATEGIES[found]
        return replace(base, **placed({item.name: getattr(base, item.name) for item in fields(base)}, found, changes))

    @classmethod
    def of(cls, given: str | Strategy) -> Strategy:
        """A strategy, or the one of that name. Raises UsageError for anything else."""
        if isinstance(given, Strategy):
            return given
        if not isinstance(given, str):
            raise UsageError(f"strategy is {given!r}, neither a chainfl.Strategy nor one of {', '.join(STRATEGIES)}")
        return cls.named(given)

    @property
    def optimizer(self) -> str:
        """Of local training, by its name."""
        return str((self.parameters.get("optimizer") or {"name": "sgd"})["name"])

    @property
    def usual_learning_rate(self) -> str:
        """Where nobody says one: its optimiser's."""
        return USUAL_RATES[self.optimizer]

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
        own = self.parameters
        if taken := sorted(set(own) & set(LOCAL) - IN_EITHER):
            raise UsageError(f"{', '.join(taken)}: said beside the strategy, not in it: simulate(…, {taken[0]}=…)")
        if twice := sorted(name for name in IN_EITHER if name in own and local.get(name)):
            raise UsageError(f"{', '.join(twice)}: said in the strategy and beside it; leave one out")
        beside = {name: value for name, value in local.items() if name not in own}
        return _entry(TrainingEntry, {"algorithm": self.algorithm, **own, **beside})

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

    def _wrong_kinds(self) -> list[str]:
        """What is not even of a field's kind."""
        kinds: dict[str, tuple[type, str]] = {
            **dict.fromkeys(_WHOLE, (int, "a whole number")),
            **dict.fromkeys(_TEXT, (str, "a name")),
            **dict.fromkeys(_MAPPINGS, (Mapping, "a mapping of settings by their names")),
        }
        said = [(name, getattr(self, name), *kind) for name, kind in kinds.items()]
        return [
            f"{name} is {value!r}, not {what}"
            for name, value, kind, what in said
            if not (isinstance(value, kind) and not isinstance(value, bool))
            and not (value is None and name in ("server", "clients_per_round"))
        ]

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


def trained_by(strategy: str | Strategy, optimizer: Any) -> tuple[Strategy, MakeOptimizer | None]:
    """A strategy with the optimiser that is said beside it: in the strategy if it has a name, else by itself.

    It stands in place of one that the strategy's name brings along (`diloco`). Raises UsageError for two that were
    said, and as `Strategy.of`.
    """
    chosen = Strategy.of(strategy)
    if optimizer is None:
        return chosen, None
    if isinstance(strategy, Strategy) and "optimizer" in strategy.parameters:
        raise UsageError("optimizer: said in the strategy and beside it; leave one out")
    rest = {name: value for name, value in chosen.parameters.items() if name != "optimizer"}
    if is_own_optimizer(optimizer):
        return replace(chosen, parameters=rest), optimizer
    return replace(chosen, parameters={**rest, "optimizer": optimizer}), None


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


def _entry(kind: type[Entry], given: Mapping[str, Any]) -> Entry:
    whole = {name for name, info in kind.model_fields.items() if _is_whole(info.annotation)}
    plain = {name: value if name in whole else _as_text(value) for name, value in given.items()}
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        problems = refusals(kind, error, given)
        raise UsageError(f"no task can have this: {'; '.join(problems)}", problems=problems) from None


def _is_whole(annotation: Any) -> bool:
    """Whether a field holds integers; everything else that is a number is a rate, which is text."""
    return annotation is int or any(_is_whole(part) for part in get_args(annotation))


def _as_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_text(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    is_whole = isinstance(value, Fraction) and value.denominator == 1
    return plain_decimal(value.numerator if is_whole else value)


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _told(item) for name, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _selection(rule: str) -> Strategy:
    """Validators who choose by a rule; Bulyan's own second half."""
    return Strategy(judging=judged_by(rule), rule="median" if rule == "bulyan" else "mean")


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
    **{rule: _selection(rule) for rule in RULE_PARAMETERS},
}
"""By the names that the field gives them: every local algorithm with a plain mean, what differs in the server, and what
differs in the validators, of whom these need at least one. `diloco` wants many local steps (the paper: 500), with a
learning rate of AdamW's."""
