"""The server step: how the sum of a round moves the global model.

Plain is here; `momentum`, `nesterov` and `adaptive` make something of it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from chainfl.aggregation.adaptive import adaptive_step
from chainfl.aggregation.momentum import momentum_step
from chainfl.aggregation.move import Move, saturate
from chainfl.aggregation.nesterov import nesterov_step
from chainfl.encoding.arrays import Int32Array, Int64Array
from chainfl.errors import AggregationError
from chainfl.tasks.server_rules import server_problems
from chainfl.tasks.state import Format, ServerKind

MAX_WEIGHT = 10_000
"""Weight 0 rejects an update, 10,000 counts it in full."""

UPDATE_MAGNITUDE = 32_768
_LIMIT = 1 << 63

_MOVES: Final[Mapping[ServerKind, Callable[[Format, Int64Array, Int32Array], Move]]] = {
    ServerKind.MOMENTUM: momentum_step,
    ServerKind.NESTEROV: nesterov_step,
    ServerKind.ADAGRAD: adaptive_step,
    ServerKind.ADAM: adaptive_step,
    ServerKind.YOGI: adaptive_step,
}


@dataclass(frozen=True, slots=True)
class ServerStep:
    """num / den, both at least 1. Raises AggregationError otherwise."""

    num: int
    den: int

    def __post_init__(self) -> None:
        if self.num < 1 or self.den < 1:
            raise AggregationError(f"server step {self.num}/{self.den} is not positive", num=self.num, den=self.den)


@dataclass(frozen=True, slots=True, eq=False)
class Advanced:
    """A model, or a part of one, after a step.

    model, state: int32, state None without one. num_saturated: how many values of either stand at the end of what they
    can be and would lie beyond, and how many deltas did.
    """

    model: Int32Array
    state: Int32Array | None
    num_saturated: int


@dataclass(frozen=True, slots=True)
class Server:
    """What turns sums into the next model, in a task's format. Raises AggregationError as `check_server`."""

    form: Format

    def __post_init__(self) -> None:
        check_server(self.form)

    @property
    def step(self) -> ServerStep:
        """Of the rule's mean, or the rate of an adaptive server."""
        return ServerStep(self.form.step_num, self.form.step_den)

    def advance(
        self, sums: Int64Array, total_weight: int, model: Int32Array, state: Int32Array | None = None
    ) -> Advanced:
        """The same bits as `FixedPoint.serverStep`.

        sums: (n,) int64, S; consumed. total_weight: W. model: (n,) int32. state: (n * num_moments,) int32, None for the
        plain step; neither is modified. d = floor((2*num*a + den*W) / (2*den*W)), a = S * 2^shift, and then
        plain: g' = sat32(g + d); momentum: m' = sat32(decay(m) + d), g' = sat32(g + m'); Nesterov:
        g' = sat32(g + d + decay(m')); decay(m) = floor((2*bn*m + bd) / (2*bd)). For the adaptive ones see `adaptive`.
        Raises AggregationError if the total weight is zero: the round is void.
        """
        if (state is None) == self.form.has_state:
            raise AggregationError(f"the server step {self.form.server.name.lower()} has another state")
        if state is None:
            return plain_step(sums, total_weight, model, self.step, _shift(self.form))
        # An adaptive server's rate comes after its moments; momentum is of what the rule's step leaves of the mean.
        step = ServerStep(1, 1) if self.form.is_adaptive else self.step
        move = _MOVES[self.form.server](self.form, _delta(sums, total_weight, step, _shift(self.form)), state)
        moved = move.moved
        moved += model
        next_model, lost = saturate(moved)
        return Advanced(next_model, move.state, move.num_saturated + lost)


def plain_step(sums: Int64Array, total_weight: int, model: Int32Array, step: ServerStep, shift: int) -> Advanced:
    """g' = sat32(g + d), the same bits as `FixedPoint.applyStep`. Arguments and errors as of `Server.advance`."""
    moved = _delta(sums, total_weight, step, shift)
    moved += model
    next_model, lost = saturate(moved)
    return Advanced(next_model, None, lost)


def check_widths(num: int, den: int, max_workers: int, model_scale_bits: int, update_scale_bits: int) -> None:
    """Proves that no intermediate of the mean rule leaves int64, so that numpy and Solidity cannot differ.

    Raises AggregationError exactly where `FixedPoint.checkWidths` reverts (docs/protocol.md, Numbers).
    """
    if max_workers < 1:
        raise AggregationError("a round needs at least one worker", max_workers=max_workers)
    check_total_weight(ServerStep(num, den), max_workers * MAX_WEIGHT, model_scale_bits, update_scale_bits)


def check_server(form: Format) -> None:
    """The same for what a server keeps: which parameters go together, and that none leaves int64.

    Raises AggregationError exactly where `FixedPoint.checkServer` reverts, given a step that `check_widths` takes.
    """
    if problems := list(server_problems(form)):
        raise AggregationError("; ".join(problems))


def check_total_weight(step: ServerStep, total_weight: int, model_scale_bits: int, update_scale_bits: int) -> None:
    """The same for the weights that a round really has. Raises AggregationError if int64 could overflow."""
    if not 0 <= update_scale_bits <= model_scale_bits:
        raise AggregationError(
            f"an update has {update_scale_bits} scale bits, more than the model's {model_scale_bits}",
            model_scale_bits=model_scale_bits,
            update_scale_bits=update_scale_bits,
        )
    shift = model_scale_bits - update_scale_bits
    numerator = (2 * step.num * total_weight * UPDATE_MAGNITUDE << shift) + step.den * total_weight
    denominator = 2 * step.den * total_weight
    if numerator >= _LIMIT or denominator >= _LIMIT:
        raise AggregationError(
            f"server step {step.num}/{step.den} with a total weight of {total_weight} could overflow 64 bits",
            numerator=numerator,
            denominator=denominator,
        )


def _shift(form: Format) -> int:
    return form.model_scale_bits - form.update_scale_bits


def _delta(sums: Int64Array, total_weight: int, step: ServerStep, shift: int) -> Int64Array:
    if total_weight == 0:
        raise AggregationError("the total weight is zero: the round is void")
    half = np.int64(step.den * total_weight)
    sums *= np.int64(2 * step.num << shift)
    sums += half
    sums //= 2 * half  # numpy's integer floor division rounds toward minus infinity
    return sums
