"""What a task may ask for: the mirror of TaskRules.sol, but it lists every problem and not just the first."""

from __future__ import annotations

from collections.abc import Iterator

from chainfl.storage.cid import DAG_PB, RAW
from chainfl.tasks.state import Bounds, CidOnChain, Economics, Format, TaskParams, Windows

BPS = 10_000
MAX_WORKERS = 1024
MAX_VALIDATORS = 16
MAX_AGGREGATORS = 16
MAX_WINDOW_S = 7 * 24 * 3600
MAX_DURATION_S = 365 * 24 * 3600
MAX_LICENCE_BYTES = 128
MAX_NUM_PARAMS = 1 << 40
MAX_CHUNK_PARAMS = 1 << 16

_FULL_WEIGHT = 10_000
_UPDATE_MAGNITUDE = 32_768
_WINDOW_NAMES = ("commit", "reveal", "score_commit", "score_reveal", "slot", "challenge")


def problems_of(params: TaskParams) -> list[str]:
    """Why createTask would refuse these parameters; empty when it takes them.

    The enrolment's end is left out: only the chain knows its own time.
    """
    return list(_problems(params))


def _problems(p: TaskParams) -> Iterator[str]:
    if p.genesis_root == bytes(32) or len(p.genesis_root) != 32:
        yield "genesis.root is not a root"
    yield from _cid_problems(p.genesis_cid, "genesis.cid")
    yield from _cid_problems(p.genesis_float_cid, "genesis.float_cid")
    if not 1 <= p.rounds < (1 << 16) - 2:
        yield f"rounds is {p.rounds}, not from 1 to 65,533"
    if not 0 <= p.reward < 1 << 128:
        yield "reward is not a uint128"
    if len(p.licence.encode()) > MAX_LICENCE_BYTES:
        yield f"licence is longer than {MAX_LICENCE_BYTES} bytes"
    yield from _bounds_problems(p.workers, 1, MAX_WORKERS, "workers")
    yield from _bounds_problems(p.validators, 1, MAX_VALIDATORS, "validators")
    yield from _bounds_problems(p.aggregators, 0, MAX_AGGREGATORS, "aggregators")
    named = len(p.named_validators)
    if named and not p.validators.min <= named <= MAX_VALIDATORS:
        yield f"named_validators has {named} names, not from {p.validators.min} to {MAX_VALIDATORS}"
    yield from _format_problems(p.format, p.workers.max)
    yield from _window_problems(p.windows)
    if p.rounds * longest_round_s(p.windows) > MAX_DURATION_S:
        yield f"{p.rounds} rounds with these windows could lock a stake for more than {MAX_DURATION_S // 86_400} days"
    yield from _economics_problems(p.economics)


def _cid_problems(cid: CidOnChain, what: str) -> Iterator[str]:
    if cid.codec not in (RAW, DAG_PB) or len(cid.digest) != 32:
        yield f"{what} is not a CID of ours"


def _bounds_problems(bounds: Bounds, least: int, most: int, what: str) -> Iterator[str]:
    if not (least <= bounds.min <= bounds.max <= most and bounds.max >= 1):
        yield f"{what} asks for {bounds.min} to {bounds.max}; from {least} to {most} are possible"


def _format_problems(f: Format, max_workers: int) -> Iterator[str]:
    if not 1 <= f.num_params <= MAX_NUM_PARAMS:
        yield f"format.num_params is {f.num_params}"
    if not 0 < f.chunk_params <= MAX_CHUNK_PARAMS or f.chunk_params % 16:
        yield f"format.chunk_params is {f.chunk_params}, not a positive multiple of 16 up to {MAX_CHUNK_PARAMS}"
    if not 0 < f.max_squared_norm < 1 << 64:
        yield f"format.max_squared_norm is {f.max_squared_norm}"
    if not 0 <= f.update_scale_bits <= f.model_scale_bits <= 31:
        yield "format: 0 <= update_scale_bits <= model_scale_bits <= 31 does not hold"
    elif not (1 <= f.step_num < 1 << 32 and 1 <= f.step_den < 1 << 32):
        yield "format: the server step is not positive"
    elif _could_overflow(f, max_workers):
        yield "format: the server step could overflow 64 bits with this many workers"


def _could_overflow(f: Format, max_workers: int) -> bool:
    total_weight = max_workers * _FULL_WEIGHT
    shift = f.model_scale_bits - f.update_scale_bits
    numerator = (2 * f.step_num * total_weight * _UPDATE_MAGNITUDE << shift) + f.step_den * total_weight
    return max(numerator, 2 * f.step_den * total_weight) >= 1 << 63


def longest_round_s(windows: Windows) -> int:
    """Seconds of a round in which every window is used to its end: three exclusive slots, an open window as long."""
    before = windows.commit + windows.reveal + windows.score_commit + windows.score_reveal
    return before + 6 * windows.slot + windows.challenge


def _window_problems(windows: Windows) -> Iterator[str]:
    for name in _WINDOW_NAMES:
        seconds = getattr(windows, name)
        if not 0 < seconds <= MAX_WINDOW_S:
            yield f"windows.{name} is {seconds} seconds, not from 1 to {MAX_WINDOW_S}"


def _economics_problems(e: Economics) -> Iterator[str]:
    for name in ("worker_stake", "validator_stake", "aggregator_bond"):
        if not 0 < getattr(e, name) < 1 << 96:
            yield f"economics.{name} is not a positive uint96"
    if not 0 <= e.slot_fee < 1 << 96:
        yield "economics.slot_fee is not a uint96"
    elif e.slot_fee > e.aggregator_bond:
        yield "economics.slot_fee is larger than the aggregator's bond"
    shares = (e.workers_bps, e.validators_bps, e.aggregator_bps)
    if min(shares) < 0 or sum(shares) != BPS:
        yield f"economics: the shares add up to {sum(shares)}, not {BPS} basis points"
    for name in ("base_bps", "worker_slash_bps", "validator_slash_bps"):
        if not 0 <= getattr(e, name) <= BPS:
            yield f"economics.{name} is not from 0 to {BPS}"
