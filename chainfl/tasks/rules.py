"""What a task may ask for: the mirror of TaskRules.sol, but it lists every problem and not just the first."""

from __future__ import annotations

from collections.abc import Iterator

from chainfl.storage.cid import DAG_PB, RAW
from chainfl.tasks.server_rules import server_problems
from chainfl.tasks.state import (
    ZERO_ROOT,
    Bounds,
    CidOnChain,
    Draw,
    DrawBy,
    Economics,
    Format,
    Rule,
    TaskParams,
    Windows,
)

BPS = 10_000
MAX_WORKERS = 1024
MAX_VALIDATORS = 16
MAX_AGGREGATORS = 16
MAX_WINDOW_S = 7 * 24 * 3600
MAX_DURATION_S = 365 * 24 * 3600
MAX_LICENCE_BYTES = 128
MAX_NUM_PARAMS = 1 << 40
MAX_CHUNK_PARAMS = 1 << 16
MAX_ATTEMPTS = 3
MAX_DOUBLINGS = 16
"""Of the fee of a demand, and of the bond of a game."""
GAMES_PER_DOUBLING = 16
MAX_OPEN_GAMES = GAMES_PER_DOUBLING * (MAX_DOUBLINGS + 1)
"""Against one attempt."""
MAX_PROOF_BYTES = 100_000
"""Nodes refuse transactions above 128 KB."""

_FULL_WEIGHT = 10_000
_UPDATE_MAGNITUDE = 32_768
_WINDOW_NAMES = ("commit", "reveal", "score_commit", "score_reveal", "slot", "challenge", "answer", "proof")
_POSITIVE_AMOUNTS = ("worker_stake", "validator_stake", "aggregator_bond", "challenger_bond", "demand_fee")
_SHARES = (
    "base_bps",
    "worker_slash_bps",
    "validator_slash_bps",
    "range_slash_bps",
    "withheld_slash_bps",
    "vouch_slash_bps",
)
_LEVELS_AN_ANSWER = 8


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
    yield from _draw_problems(p.draw, p.workers.max)
    yield from _format_problems(p.format, p.draw.most_of(p.workers.max))
    yield from _window_problems(p.windows)
    if (p.genesis_state_root == ZERO_ROOT) == p.format.has_state or len(p.genesis_state_root) != 32:
        yield "genesis.state_root is there exactly when the server keeps a state"
    if p.rounds * longest_round_s(p.windows, p.format) > MAX_DURATION_S:
        yield f"{p.rounds} rounds with these windows could lock a stake for more than {MAX_DURATION_S // 86_400} days"
    yield from _economics_problems(p.economics)


def _cid_problems(cid: CidOnChain, what: str) -> Iterator[str]:
    if cid.codec not in (RAW, DAG_PB) or len(cid.digest) != 32:
        yield f"{what} is not a CID of ours"


def _bounds_problems(bounds: Bounds, least: int, most: int, what: str) -> Iterator[str]:
    if not (least <= bounds.min <= bounds.max <= most and bounds.max >= 1):
        yield f"{what} asks for {bounds.min} to {bounds.max}; from {least} to {most} are possible"


def _draw_problems(draw: Draw, max_workers: int) -> Iterator[str]:
    if not 0 <= draw.clients_per_round <= max_workers:
        yield f"draw.clients_per_round is {draw.clients_per_round}, of {max_workers} workers at most"
    if not draw.is_on and draw.by is not DrawBy.UNIFORM:
        yield f"draw.by is {draw.by.name.lower()}, but everybody takes part: say clients_per_round"


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
    yield from server_problems(f)
    yield from _rule_problems(f, max_workers)


def _rule_problems(f: Format, max_workers: int) -> Iterator[str]:
    if f.rule is Rule.TRIMMED_MEAN:
        if not (0 <= 2 * f.trim_num < f.trim_den < 1 << 16):
            yield f"format: a trim of {f.trim_num}/{f.trim_den} at each end leaves nothing"
    elif f.trim_num or f.trim_den:
        yield f"format: the rule {f.rule.name.lower()} trims nothing"
    if not 1 <= f.group_size < 1 << 16:
        yield f"format.group_size is {f.group_size}, not from 1 to 65,535"
        return
    if f.rule is not Rule.MEAN and max_workers > f.group_size:
        yield f"format: {f.rule.name.lower()} of {max_workers} workers needs one group, not groups of {f.group_size}"
    if f.chunk_params > 0 and f.num_params > 0 and (size := largest_proof(f, max_workers)) > MAX_PROOF_BYTES:
        yield f"format: a proof of a wrong coordinate could have {size:,} bytes, more than {MAX_PROOF_BYTES:,}"


def rule_warnings(f: Format, most_updates: int) -> Iterator[str]:
    """What a round may have and does not do what its name says, each as `kind: what`. most_updates: of a round."""
    if f.rule is Rule.TRIMMED_MEAN and 0 < most_updates * f.trim_num < f.trim_den:
        yield (
            f"nothing_trimmed: a trim of {f.trim_num}/{f.trim_den} at each end drops none of {most_updates} updates, "
            f"as the mean does; it drops one of {-(-f.trim_den // f.trim_num)}: take more workers, or a larger trim"
        )


def largest_proof(f: Format, max_workers: int) -> int:
    """Bytes of the largest proof of a wrong coordinate: every update in form 1. See IDisputes.sol for the layout."""
    depth, chunk = depth_of(f), f.chunk_params
    groups = -(-max_workers // f.group_size)
    updates = min(max_workers, f.group_size) * (11 + 2 * chunk + 48 * depth)
    # Of the model, what it was and what is claimed, and of the state what it was: a proof about the state is smaller.
    steps = 14 + 2 * (4 * chunk + 32 * depth) + (4 * chunk + 32 * deepest_of(f) if f.has_state else 0)
    if groups <= 1:
        return steps + updates
    group_sum = 8 * chunk + 32 * depth
    return max(steps + groups * (32 + group_sum), 11 + 32 * groups + group_sum + updates)


def depth_of(f: Format) -> int:
    """The depth of the tree over a vector of the task's model."""
    return _depth(f.num_params, f.chunk_params)


def deepest_of(f: Format) -> int:
    """The depth of the deepest tree of the task: that of the state, where it has more values than the model."""
    return _depth(max(f.num_params, f.state_params), f.chunk_params)


def _depth(num_params: int, chunk_params: int) -> int:
    return (-(-num_params // chunk_params) - 1).bit_length()


def _could_overflow(f: Format, max_workers: int) -> bool:
    total_weight = max_workers * _FULL_WEIGHT
    shift = f.model_scale_bits - f.update_scale_bits
    numerator = (2 * f.step_num * total_weight * _UPDATE_MAGNITUDE << shift) + f.step_den * total_weight
    return max(numerator, 2 * f.step_den * total_weight) >= 1 << 63


def longest_round_s(windows: Windows, form: Format) -> int:
    """Seconds that a round can last, whatever is disputed in it.

    Every window is used to its end, in three attempts: three exclusive slots and an open window as long, Challenge,
    and the longest of what Dispute waits for.
    """
    before = windows.commit + windows.reveal + windows.score_commit + max(windows.score_reveal, windows.answer)
    return before + MAX_ATTEMPTS * (6 * windows.slot + windows.challenge + longest_game_s(windows, form))


def longest_game_s(windows: Windows, form: Format) -> int:
    """Seconds of a game: an answer and a pointer for every eight levels, the leaf, and the proof."""
    if form.chunk_params <= 0 or form.num_params <= 0:
        return windows.answer + windows.proof
    moves = 2 * -(-deepest_of(form) // _LEVELS_AN_ANSWER) + 1
    return moves * windows.answer + windows.proof


def game_bond(e: Economics, open_games: int) -> int:
    """What opening a game locks, in wei, while `open_games` others against the attempt are open: at most 271."""
    return e.challenger_bond << open_games // GAMES_PER_DOUBLING


def _window_problems(windows: Windows) -> Iterator[str]:
    for name in _WINDOW_NAMES:
        seconds = getattr(windows, name)
        if not 0 < seconds <= MAX_WINDOW_S:
            yield f"windows.{name} is {seconds} seconds, not from 1 to {MAX_WINDOW_S}"


def _economics_problems(e: Economics) -> Iterator[str]:
    for name in _POSITIVE_AMOUNTS:
        if not 0 < getattr(e, name) < 1 << 96:
            yield f"economics.{name} is not a positive uint96"
    if e.challenger_bond > e.aggregator_bond:
        yield "economics.challenger_bond is larger than the aggregator's bond"
    if e.challenger_bond << MAX_DOUBLINGS >= 1 << 96:
        yield "economics.challenger_bond is too large to double with every sixteen games"
    if e.demand_fee > e.worker_stake:
        yield "economics.demand_fee is larger than a worker's stake"
    if e.demand_fee << MAX_DOUBLINGS >= 1 << 96:
        yield "economics.demand_fee is too large to double with every demand"
    if not 0 <= e.slot_fee < 1 << 96:
        yield "economics.slot_fee is not a uint96"
    elif e.slot_fee > e.aggregator_bond:
        yield "economics.slot_fee is larger than the aggregator's bond"
    shares = (e.workers_bps, e.validators_bps, e.aggregator_bps)
    if min(shares) < 0 or sum(shares) != BPS:
        yield f"economics: the shares add up to {sum(shares)}, not {BPS} basis points"
    for name in _SHARES:
        if not 0 <= getattr(e, name) <= BPS:
            yield f"economics.{name} is not from 0 to {BPS}"
