"""From a trainer's difference to the integers that a worker commits to."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

from chainfl.encoding.arrays import Float32Array, Int16Array
from chainfl.encoding.chunk_tree import UpdateCommitment, update_root
from chainfl.encoding.fixed_point import quantize_update
from chainfl.encoding.payload import UpdateMetadata, write_update
from chainfl.errors import EncodingError
from chainfl.tasks.state import Format
from chainfl.types import Compression

_MAX_SHRINKS = 128


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUpdate:
    """values: (P,) int16. residual: (P,) float32, what they lost. norm_scale: below 1 if the norm bound cut it."""

    values: Int16Array
    residual: Float32Array
    commitment: UpdateCommitment
    num_clipped: int
    norm_scale: float


def encode_update(delta: Float32Array, residual: Float32Array | None, form: Format) -> EncodedUpdate:
    """Integers with error feedback, within the task's norm bound.

    delta: (P,) float32. residual: of the last update that counted. A sum of squares over the bound would be refused
    on chain, after the commit: the whole difference is then scaled down until its integers fit. What that scaling
    takes away is not fed back, or the next update would be too long again. Raises EncodingError for values that are
    not finite.
    """
    quantized = quantize_update(delta, form.update_scale_bits, residual)
    commitment = update_root(quantized.values, form.chunk_params)
    if commitment.sum_of_squares <= form.max_squared_norm:
        return EncodedUpdate(quantized.values, quantized.residual, commitment, quantized.num_clipped, 1.0)
    total = delta if residual is None else delta + residual
    scale = _fitting_scale(total, form)
    for _ in range(_MAX_SHRINKS):
        quantized = quantize_update(total * np.float32(scale), form.update_scale_bits)
        commitment = update_root(quantized.values, form.chunk_params)
        if commitment.sum_of_squares <= form.max_squared_norm:
            return EncodedUpdate(quantized.values, quantized.residual, commitment, quantized.num_clipped, scale)
        # Rounding added back more than the margin. It at most doubles a value, so half the scale always fits.
        scale *= 0.99
    raise EncodingError(
        f"no scaling brings the update's sum of squares below {form.max_squared_norm}",
        max_squared_norm=form.max_squared_norm,
    )


def payload_bytes(values: Int16Array, metadata: UpdateMetadata, compression: Compression = "none") -> bytes:
    """The payload file of an update, in the form that the task says."""
    stream = io.BytesIO()
    write_update(stream, values, metadata, compression)
    return stream.getvalue()


def _fitting_scale(values: Float32Array, form: Format) -> float:
    """What brings the exact norm just below the bound. values: (P,) float32, not yet clipped to the integers' range."""
    norm = math.sqrt(float(np.einsum("i,i->", values, values, dtype=np.float64))) * 2.0**form.update_scale_bits
    return min(1.0, 0.999 * math.sqrt(form.max_squared_norm) / norm)
