"""The server step: how the sum of a round moves the global model, plain or with momentum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainfl.encoding.arrays import Int32Array, Int64Array
from chainfl.errors import AggregationError
from chainfl.tasks.state import Format

MAX_WEIGHT = 10_000
"""Weight 0 rejects an update, 10,000 counts it in full."""

UPDATE_MAGNITUDE = 32_768
_LIMIT = 1 << 63
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True)
class ServerStep:
    """num / den, both at least 1. Raises AggregationError otherwise."""

    num: int
    den: int

    def __post_init__(self) -> None:
        if self.num < 1 or self.den < 1:
            raise AggregationError(f"server step {self.num}/{self.den} is not positive", num=self.num, den=self.den)


@dataclass(frozen=True, slots=True)
class Momentum:
    """The share num / den of the server's state that a round keeps. Raises AggregationError as `check_momentum`."""

    num: int
    den: int

    def __post_init__(self) -> None:
        check_momentum(self.num, self.den)
        if self.den == 0:
            raise AggregationError("a momentum of 0/0 is the plain step")


@dataclass(frozen=True, slots=True, eq=False)
class Advanced:
    """A model, or a part of one, after a step.

    model, state: int32, state None without momentum. num_saturated: how many values of either stand at the end of
    int32 and would lie beyond.
    """

    model: Int32Array
    state: Int32Array | None
    num_saturated: int


@dataclass(frozen=True, slots=True)
class Server:
    """What turns sums into the next model. momentum: None for the plain step. shift: s - t, between the two scales."""

    step: ServerStep
    momentum: Momentum | None
    shift: int

    @classmethod
    def of(cls, form: Format) -> Server:
        """The one of a task. Raises AggregationError for parameters that no task has."""
        momentum = Momentum(form.momentum_num, form.momentum_den) if form.has_momentum else None
        return cls(ServerStep(form.step_num, form.step_den), momentum, form.model_scale_bits - form.update_scale_bits)

    def advance(
        self, sums: Int64Array, total_weight: int, model: Int32Array, state: Int32Array | None = None
    ) -> Advanced:
        """The same bits as `FixedPoint.delta`, `momentum` and `sat32`.

        sums: (n,) int64, S; consumed. total_weight: W. model, state: (n,) int32, not modified; state None without
        momentum. d = floor((2*num*a + den*W) / (2*den*W)), a = S * 2^shift; g' = sat32(g + d), or with momentum
        m' = sat32(floor((2*bn*m + bd) / (2*bd)) + d) and g' = sat32(g + m').
        Raises AggregationError if the total weight is zero: the round is void.
        """
        if total_weight == 0:
            raise AggregationError("the total weight is zero: the round is void")
        if (state is None) != (self.momentum is None):
            raise AggregationError("a state goes with momentum, and with nothing else")
        moved = _delta(sums, total_weight, self.step, self.shift)
        next_state, lost = None, 0
        if self.momentum is not None and state is not None:
            moved += _decayed(state, self.momentum)
            next_state, lost = _saturate(moved)
        moved += model
        next_model, lost_model = _saturate(moved)
        return Advanced(next_model, next_state, lost + lost_model)


def check_widths(num: int, den: int, max_workers: int, model_scale_bits: int, update_scale_bits: int) -> None:
    """Proves that no intermediate of the mean rule leaves int64, so that numpy and Solidity cannot differ.

    Raises AggregationError exactly where `FixedPoint.checkWidths` reverts (docs/protocol.md, Numbers).
    """
    if max_workers < 1:
        raise AggregationError("a round needs at least one worker", max_workers=max_workers)
    check_total_weight(ServerStep(num, den), max_workers * MAX_WEIGHT, model_scale_bits, update_scale_bits)


def check_momentum(num: int, den: int) -> None:
    """The same for the server's momentum; 0 and 0 is the plain step.

    Raises AggregationError exactly where `FixedPoint.checkMomentum` reverts.
    """
    if not 0 <= num <= den:
        raise AggregationError(f"momentum {num}/{den} is not between 0 and 1", num=num, den=den)
    if (num << 32) + 2 * den >= _LIMIT:
        raise AggregationError(f"momentum {num}/{den} could overflow 64 bits", num=num, den=den)


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


def _delta(sums: Int64Array, total_weight: int, step: ServerStep, shift: int) -> Int64Array:
    half = np.int64(step.den * total_weight)
    sums *= np.int64(2 * step.num << shift)
    sums += half
    sums //= 2 * half  # numpy's integer floor division rounds toward minus infinity
    return sums


def _decayed(state: Int32Array, momentum: Momentum) -> Int64Array:
    wide = state.astype(np.int64)
    wide *= np.int64(2 * momentum.num)
    wide += np.int64(momentum.den)
    wide //= np.int64(2 * momentum.den)
    return wide


def _saturate(values: Int64Array) -> tuple[Int32Array, int]:
    """The nearest int32 of each value, also left in `values`, and how many were beyond."""
    num_saturated = int(np.count_nonzero((values < _INT32_MIN) | (values > _INT32_MAX)))
    if num_saturated:
        np.clip(values, _INT32_MIN, _INT32_MAX, out=values)
    return values.astype(np.int32), num_saturated
