"""Fixed point: real values become integers once, here, and everything after that is exact.

A model value g stands for g * 2^-s (int32), an update value u for u * 2^-t (int16); see docs/protocol.md,
Numbers. Rounding is half to even in both; scaling by a power of two is exact in float32 itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from chainfl.encoding.arrays import BLOCK, Float32Array, Int16Array, Int32Array, blocks, require_vector
from chainfl.errors import EncodingError, ValueOutOfRange

MAX_SCALE_BITS = 31
UPDATE_LIMIT = 32767
"""An update's values lie in [-32767, 32767]; -32768 is out of range, so that every value has its negative."""

_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """values: int32[P]. num_saturated: how many did not fit and stand at the nearest int32."""

    values: Int32Array
    num_saturated: int


@dataclass(frozen=True, slots=True)
class QuantizedUpdate:
    """values: int16[P]. residual: float32[P], what the integers lost. num_clipped: values beyond ±32767."""

    values: Int16Array
    residual: Float32Array
    num_clipped: int


def quantize_model(values: Float32Array, scale_bits: int) -> QuantizedModel:
    """The nearest int32 to values * 2^scale_bits, half to even, saturating.

    values: (P,) float32. Raises EncodingError for a value that is not finite.
    """
    require_vector(values, np.float32, "model")
    scale = _scale(scale_bits)
    quantized = np.empty(values.size, np.int32)
    num_saturated = 0
    for block in blocks(values.size):
        # float64 holds every int32; float32 has no 2^31 - 1 to saturate to.
        scaled = values[block].astype(np.float64)
        if not np.isfinite(scaled).all():
            raise EncodingError("the model has values that are not finite")
        np.rint(np.multiply(scaled, scale, out=scaled), out=scaled)
        num_saturated += int(np.count_nonzero((scaled < _INT32_MIN) | (scaled > _INT32_MAX)))
        quantized[block] = np.clip(scaled, _INT32_MIN, _INT32_MAX, out=scaled)
    return QuantizedModel(quantized, num_saturated)


def dequantize_model(values: Int32Array, scale_bits: int) -> Float32Array:
    """The float32 nearest to each values * 2^-scale_bits, half to even; the same bits on every machine.

    values: (P,) int32. returns: (P,) float32.
    """
    require_vector(values, np.int32, "model")
    real = values.astype(np.float32)
    real *= np.float32(1.0 / _scale(scale_bits))
    return real


def quantize_update(
    delta: Float32Array,
    scale_bits: int,
    residual: Float32Array | None = None,
    *,
    max_residual_norm: float | None = None,
) -> QuantizedUpdate:
    """The nearest integers to (delta + residual) * 2^scale_bits, half to even, clipped to ±32767.

    delta: (P,) float32, the local model minus the global one. residual: (P,) float32, what the worker's last
    final update lost (error feedback, Seide et al. 2014; Karimireddy et al. 2019); not modified, since the
    caller restores it when the round does not count.
    max_residual_norm: a longer new residual is scaled down to this L2 norm. By default the longer of the delta
    and of what rounding alone can lose: rounding is then never cut, and clipping cannot pile up without bound.
    Raises EncodingError for values that are not finite, and for a residual of another length.
    """
    require_vector(delta, np.float32, "update")
    if residual is not None:
        require_vector(residual, np.float32, "residual")
        if residual.size != delta.size:
            raise EncodingError("the residual has another length than the update", expected=delta.size)
    values = np.empty(delta.size, np.int16)
    kept = np.empty(delta.size, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below, by its value
        num_clipped = _quantize_blocks(delta, residual, _scale(scale_bits), values, kept)
    lost_by_rounding = rounding_norm(delta.size, scale_bits)
    if max_residual_norm is None:
        # Where nothing was clipped the residual is within the bound anyway, and needs no second look.
        max_residual_norm = max(l2_norm(delta), lost_by_rounding) if num_clipped else lost_by_rounding
    if num_clipped or lost_by_rounding > max_residual_norm:
        shorten(kept, max_residual_norm)
    return QuantizedUpdate(values, kept, num_clipped)


def with_lost(
    quantized: QuantizedUpdate, kept: Int16Array, scale_bits: int, max_residual_norm: float
) -> QuantizedUpdate:
    """The update of which compression left these integers, and in its residual also what that took away.

    kept: (P,) int16. max_residual_norm: a longer residual is scaled down to this L2 norm.
    """
    residual = quantized.values.astype(np.float32)
    residual -= kept
    residual *= np.float32(1.0 / _scale(scale_bits))
    residual += quantized.residual
    shorten(residual, max_residual_norm)
    return QuantizedUpdate(kept, residual, quantized.num_clipped)


def rounding_norm(num_values: int, scale_bits: int) -> float:
    """What rounding alone can lose of a vector of so many values, as an L2 norm."""
    return 0.5 * math.sqrt(num_values) / _scale(scale_bits)


def shorten(vector: Float32Array, max_norm: float) -> None:
    """Scales a vector that is longer down to this L2 norm, in place."""
    norm = l2_norm(vector)
    if norm > max_norm:
        vector *= np.float32(max_norm / norm)


def l2_norm(vector: Float32Array) -> float:
    """The L2 norm, summed in float64 over blocks. einsum, not dot: BLAS would start threads for a short block."""
    wide = (vector[block].astype(np.float64) for block in blocks(vector.size))
    return math.sqrt(sum(float(np.einsum("i,i->", values, values)) for values in wide))


def check_update_range(values: Int16Array, start: int = 0) -> None:
    """Raises ValueOutOfRange if any value is -32768. start: the coordinate of the first one."""
    require_vector(values, np.int16, "update")
    if int(values.min()) < -UPDATE_LIMIT:
        index = start + int(values.argmin())
        raise ValueOutOfRange(f"the update is -32768 at coordinate {index}", index=index, value=-32768)


def _quantize_blocks(
    delta: Float32Array, residual: Float32Array | None, scale: float, values: Int16Array, kept: Float32Array
) -> int:
    """Fills `values` and `kept` block by block, so that every temporary stays in cache; the number of clipped."""
    rounded = np.empty(min(BLOCK, delta.size), np.float32)
    num_clipped = 0
    for block in blocks(delta.size):
        lost, near = kept[block], rounded[: block.stop - block.start]
        if residual is None:
            np.multiply(delta[block], np.float32(scale), out=lost)
        else:
            np.add(delta[block], residual[block], out=lost)
            lost *= np.float32(scale)
        np.rint(lost, out=near)
        # A NaN makes both comparisons false, so one pass finds clipping and what is not finite alike.
        if not (near.min() >= -UPDATE_LIMIT and near.max() <= UPDATE_LIMIT):
            num_clipped += _clip(near)
        values[block] = near
        lost -= near
        lost *= np.float32(1.0 / scale)
    return num_clipped


def _clip(rounded: Float32Array) -> int:
    if not np.isfinite(rounded).all():
        raise EncodingError("the update has values that are not finite, or too large to scale")
    num_clipped = int(np.count_nonzero(np.abs(rounded) > UPDATE_LIMIT))
    np.clip(rounded, -UPDATE_LIMIT, UPDATE_LIMIT, out=rounded)
    return num_clipped


def _scale(scale_bits: int) -> float:
    if not 0 <= scale_bits <= MAX_SCALE_BITS:
        raise EncodingError(f"scale_bits {scale_bits} is outside [0, {MAX_SCALE_BITS}]", scale_bits=scale_bits)
    return float(1 << scale_bits)
