"""A server step as people write it, in names and fractions, and the integers that a task has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from chainfl.errors import UsageError
from chainfl.tasks.server_rules import FINER_BITS
from chainfl.tasks.state import Format, ServerKind

SERVERS: Final = tuple(kind.name.lower() for kind in ServerKind)

_USUAL: Final = Fraction(9, 10)
_OF_THE_PAPER: Final = {"second": Fraction(99, 100), "tau": Fraction(1, 1000)}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Of a server step. rate: of the rule's mean, or an adaptive server's eta. momentum: the share of the first moment
    that a round keeps, beta_1; second: of the second one, beta_2; tau: a real number. None is what the kind usually
    has, and without a kind a momentum makes it `momentum`.
    """

    server: str | None = None
    rate: Fraction | None = None
    momentum: Fraction | None = None
    second: Fraction | None = None
    tau: Fraction | None = None

    @property
    def kind(self) -> ServerKind:
        """Raises UsageError for a name that is none."""
        if self.server is None:
            return ServerKind.MOMENTUM if self.momentum else ServerKind.PLAIN
        if self.server not in SERVERS:
            raise UsageError(f"no server step is called {self.server!r}; there are {', '.join(SERVERS)}")
        return ServerKind[self.server.upper()]

    def to_fields(self, model_scale_bits: int) -> dict[str, Any]:
        """The fields of `Format`. tau is rounded to its unit, 2^-(model_scale_bits + 4), and is one unit at least.

        Whether they go together is for the task's rules to say. Raises UsageError as `kind`.
        """
        kind, given = self.kind, {"momentum": self.momentum, "second": self.second, "tau": self.tau}
        parts = {**_DEFAULTS[kind], **{name: value for name, value in given.items() if value is not None}}
        rate = self.rate if self.rate is not None else _DEFAULT_RATES.get(kind, Fraction(1))
        momentum, second, tau = (parts.get(name) for name in ("momentum", "second", "tau"))
        if kind is ServerKind.PLAIN and momentum == 0:
            momentum = None  # a plain step's momentum of 0 is none
        fields: dict[str, Any] = {"server": kind, "step_num": rate.numerator, "step_den": rate.denominator}
        for name, share in (("momentum", momentum), ("second", second)):
            fields[f"{name}_num"], fields[f"{name}_den"] = (0, 0) if share is None else share.as_integer_ratio()
        return {**fields, "tau": _units(tau, model_scale_bits)}


_DEFAULTS: Final[Mapping[ServerKind, Mapping[str, Fraction]]] = {
    ServerKind.PLAIN: {},
    ServerKind.MOMENTUM: {"momentum": _USUAL},
    ServerKind.NESTEROV: {"momentum": _USUAL},
    ServerKind.ADAGRAD: {"momentum": Fraction(0), "tau": _OF_THE_PAPER["tau"]},
    ServerKind.ADAM: {"momentum": _USUAL, **_OF_THE_PAPER},
    ServerKind.YOGI: {"momentum": _USUAL, **_OF_THE_PAPER},
}
_DEFAULT_RATES: Final[Mapping[ServerKind, Fraction]] = {
    ServerKind.ADAGRAD: Fraction(1, 10),
    ServerKind.ADAM: Fraction(1, 10),
    ServerKind.YOGI: Fraction(1, 100),
}
"""Those that Flower's strategies have."""


def exact(name: str, value: object) -> Fraction:
    """A number as it was written: "9/10", "0.9", 0.9. Raises UsageError that says what would be one."""
    try:
        return Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{name} is {value!r}, not a fraction such as 9/10 or 0.9") from error


def fraction_text(num: int, den: int) -> str:
    """`9/10`, or `1` for the whole."""
    return str(Fraction(num, den))


def tau_text(form: Format) -> str:
    """tau as a real number, to four digits."""
    return f"{Decimal(form.tau) / (1 << form.model_scale_bits + FINER_BITS):.4g}"


def server_words(form: Format) -> str:
    """`momentum 9/10`, or `adam, rate 1/10, momentum 9/10, second moment 99/100, tau 0.001`; else `plain`."""
    words = [] if form.server is ServerKind.MOMENTUM else [form.server.name.lower()]
    if form.is_adaptive:
        words.append(f"rate {fraction_text(form.step_num, form.step_den)}")
    if form.has_state:
        words.append(f"momentum {fraction_text(form.momentum_num, form.momentum_den)}")
    if form.second_den:
        words.append(f"second moment {fraction_text(form.second_num, form.second_den)}")
    if form.tau:
        words.append(f"tau {tau_text(form)}")
    return ", ".join(words)


def _units(tau: Fraction | None, model_scale_bits: int) -> int:
    if tau is None or not tau > 0:
        return 0 if tau is None else int(tau)  # not positive: left to the task's rules to refuse
    return max(1, int(tau * (1 << model_scale_bits + FINER_BITS) + Fraction(1, 2)))
