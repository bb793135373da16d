"""The server step: the rational factor by which the weighted mean moves the global model."""

from __future__ import annotations

from dataclasses import dataclass

from chainfl.errors import AggregationError

MAX_WEIGHT = 10_000
"""Weight 0 rejects an update, 10,000 counts it in full."""

UPDATE_MAGNITUDE = 32_768
_LIMIT = 1 << 63


@dataclass(frozen=True, slots=True)
class ServerStep:
    """num / den, both at least 1. Raises AggregationError otherwise."""

    num: int
    den: int

    def __post_init__(self) -> None:
        if self.num < 1 or self.den < 1:
            raise AggregationError(f"server step {self.num}/{self.den} is not positive", num=self.num, den=self.den)


def check_widths(num: int, den: int, max_workers: int, model_scale_bits: int, update_scale_bits: int) -> None:
    """Proves that no intermediate of the mean rule leaves int64, so that numpy and Solidity cannot differ.

    Raises AggregationError exactly where `FixedPoint.checkWidths` reverts (docs/protocol.md, Numbers).
    """
    if max_workers < 1:
        raise AggregationError("a round needs at least one worker", max_workers=max_workers)
    check_total_weight(ServerStep(num, den), max_workers * MAX_WEIGHT, model_scale_bits, update_scale_bits)


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
