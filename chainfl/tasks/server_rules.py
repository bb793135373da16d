"""Which parameters of a server step go together, and which could leave 64 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chainfl.tasks.state import Format, ServerKind

MAX_ADAPTIVE_DEN = 1 << 14
"""Of the shares of moments: a square of a moment has 48 bits, so times 2^14 it stays below 2^63."""
MOMENT_BITS = 24
"""Of the magnitude of a moment, in units of 2^-(model_scale_bits + FINER_BITS)."""
FINER_BITS = 4
"""A moment's unit, and tau's, is so much finer than the model's, so that decay does not stand still far above zero."""
MAX_SCALE_BITS = 31
_LIMIT = 1 << 63
_NAMED_BUFFERS = 2


def server_problems(f: Format) -> Iterator[str]:
    """Why `FixedPoint.checkServer` would refuse these parameters; the step itself is what `checkWidths` takes."""
    name = f.server.name.lower()
    if not f.has_state:
        if f.momentum_num or f.momentum_den:
            yield "format: the plain server step keeps no momentum: choose the server momentum or nesterov, or 0/0"
    else:
        yield from _momentum_problems(f)
    if f.server in (ServerKind.ADAM, ServerKind.YOGI):
        yield from _second_problems(f)
    elif f.second_num or f.second_den:
        yield f"format: a share of the second moment is of the servers adam and yogi, not of {name}"
    if f.is_adaptive:
        yield from _adaptive_problems(f)
    elif f.tau:
        yield f"format: tau is of the servers adagrad, adam and yogi, not of {name}"


def server_warnings(f: Format, buffers: Sequence[str]) -> Iterator[str]:
    """What a task may have and is known to end badly, each as `kind: what`.

    buffers: of the model's vector what is no weight, by name. The steps of a server with a state are not those of the
    workers, and may overshoot. Gradients mend that in a weight, and nothing does in running statistics.
    """
    if f.has_state and buffers:
        more = f" and {len(buffers) - _NAMED_BUFFERS} more" if len(buffers) > _NAMED_BUFFERS else ""
        yield (
            f"running_statistics: {', '.join(buffers[:_NAMED_BUFFERS])}{more} go through the server's "
            f"{f.server.name.lower()} step like weights, and running statistics do not bear it; take GroupNorm or "
            "LayerNorm, normalisation with track_running_stats=False, or the plain server step"
        )


def _momentum_problems(f: Format) -> Iterator[str]:
    share = f"the momentum {f.momentum_num}/{f.momentum_den}"
    if not 0 <= f.momentum_num <= f.momentum_den or f.momentum_den == 0:
        yield f"format: {share} is not from 0 to 1"
    elif f.is_adaptive and f.momentum_den > MAX_ADAPTIVE_DEN:
        yield f"format: {share} of an adaptive server has a denominator above {MAX_ADAPTIVE_DEN:,}"
    elif (f.momentum_num << 32) + 2 * f.momentum_den >= _LIMIT or f.momentum_den >= 1 << 32:
        yield f"format: {share} could overflow 64 bits"


def _second_problems(f: Format) -> Iterator[str]:
    share = f"the share {f.second_num}/{f.second_den} of the second moment"
    if not 0 <= f.second_num <= f.second_den or f.second_den == 0:
        yield f"format: {share} is not from 0 to 1"
    elif f.second_den > MAX_ADAPTIVE_DEN:
        yield f"format: {share} has a denominator above {MAX_ADAPTIVE_DEN:,}"


def _adaptive_problems(f: Format) -> Iterator[str]:
    if not 0 < f.tau < 1 << 32:
        yield f"format: tau is {f.tau}, not from 1 to {(1 << 32) - 1:,}; 0 could divide by zero"
    # INVARIANT: bounded before it is used: a stranger's shift of a billion bits would fill the memory.
    elif not 0 <= f.model_scale_bits <= MAX_SCALE_BITS or _could_overflow(f):
        yield f"format: the adaptive step {f.step_num}/{f.step_den} could overflow 64 bits: choose a smaller one"


def _could_overflow(f: Format) -> bool:
    divisor = f.step_den * ((1 << MOMENT_BITS) + f.tau)
    numerator = (f.step_num << (f.model_scale_bits + MOMENT_BITS + 1)) + divisor
    return max(numerator, 2 * divisor) >= _LIMIT
