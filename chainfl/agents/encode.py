"""From a trainer's difference to the integers that a worker commits to."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np

from chainfl.encoding.arrays import Float32Array, Int16Array
from chainfl.encoding.chunk_tree import UpdateCommitment, update_root
from chainfl.encoding.fixed_point import (
    QuantizedUpdate,
    l2_norm,
    quantize_update,
    rounding_norm,
    shorten,
    with_lost,
)
from chainfl.encoding.lossy import loss_bound, lossy_values
from chainfl.encoding.payload import UpdateMetadata, write_update
from chainfl.errors import EncodingError
from chainfl.tasks.state import Format
from chainfl.types import PLAIN, Compression

_MAX_SHRINKS = 160


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUpdate:
    """values: (P,) int16, after compression. residual: (P,) float32, what they lost.

    norm_scale: below 1 if the norm bound cut it.
    """

    values: Int16Array
    residual: Float32Array
    commitment: UpdateCommitment
    num_clipped: int
    norm_scale: float


def encode_update(
    delta: Float32Array, residual: Float32Array | None, form: Format, compression: Compression = PLAIN
) -> EncodedUpdate:
    """Integers with error feedback, as compression leaves them, within the task's norm bound.

    delta: (P,) float32. residual: of the last update that counted. A sum of squares over the bound would be refused
    on chain, after the commit: the whole difference is then scaled down until its integers fit. What that scaling
    takes away is not fed back, or the next update would be too long again; what a form leaves out is, unscaled. The
    new residual is capped at `loss_bound` times the difference's norm, or at the old one's if that is longer, which
    cuts nothing that rounding or compression alone can lose. Raises EncodingError for values that are not finite.
    """
    encoded = _encoded(_integers(delta, residual, form, compression), form)
    if encoded.commitment.sum_of_squares <= form.max_squared_norm:
        return encoded
    total = delta if residual is None else delta + residual
    scale = _fitting_scale(np.where(encoded.values, total, np.float32(0)), form)
    for _ in range(_MAX_SHRINKS):
        scaled = total * np.float32(scale)
        encoded = _encoded(_integers(scaled, None, form, compression), form)
        if encoded.commitment.sum_of_squares <= form.max_squared_norm:
            left = encoded.residual / np.float32(scale)
            shorten(left, _max_residual_norm(delta, residual, form, compression))
            return replace(encoded, residual=left, norm_scale=scale)
        # Rounding added back more than the margin. Both roundings at most double a value: a quarter always fits.
        scale *= 0.99
    raise EncodingError(
        f"no scaling brings the update's sum of squares below {form.max_squared_norm}",
        max_squared_norm=form.max_squared_norm,
    )


def payload_bytes(values: Int16Array, metadata: UpdateMetadata, compression: Compression = PLAIN) -> bytes:
    """The payload file of an update, in the form that the task says."""
    stream = io.BytesIO()
    write_update(stream, values, metadata, compression)
    return stream.getvalue()


def _integers(
    delta: Float32Array, residual: Float32Array | None, form: Format, compression: Compression
) -> QuantizedUpdate:
    quantized = quantize_update(delta, form.update_scale_bits, residual)
    kept = lossy_values(quantized.values, compression)
    if kept is quantized.values:
        return quantized
    longest = _max_residual_norm(delta, residual, form, compression)
    return with_lost(quantized, kept, form.update_scale_bits, longest)


def _encoded(quantized: QuantizedUpdate, form: Format) -> EncodedUpdate:
    commitment = update_root(quantized.values, form.chunk_params)
    return EncodedUpdate(quantized.values, quantized.residual, commitment, quantized.num_clipped, 1.0)


def _max_residual_norm(
    delta: Float32Array, residual: Float32Array | None, form: Format, compression: Compression
) -> float:
    before = 0.0 if residual is None else l2_norm(residual)
    by_compression = float(loss_bound(compression)) * l2_norm(delta)
    return max(before, by_compression, rounding_norm(delta.size, form.update_scale_bits))


def _fitting_scale(values: Float32Array, form: Format) -> float:
    """What brings the exact norm just below the bound. values: (P,) float32, not yet clipped to the integers' range."""
    norm = math.sqrt(float(np.einsum("i,i->", values, values, dtype=np.float64))) * 2.0**form.update_scale_bits
    return min(1.0, 0.999 * math.sqrt(form.max_squared_norm) / norm)
