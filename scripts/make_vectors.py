"""Writes tests/vectors/*.json, which drive the Solidity libraries and their Python mirrors alike.

    python scripts/make_vectors.py            write every file
    python scripts/make_vectors.py --check    exit 1 if a file differs from what would be written
    python scripts/make_vectors.py mean_rule  write only the files named

Expected values come from the shortest spelling of docs/protocol.md in plain Python integers, not from chainfl, so
that a vector is a third opinion. To add a file, write a function that returns its content and decorate it with
`vectors("name")`. Integers beyond 2^53 are decimal strings, bytes are 0x-hex: forge and Python read both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import struct
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "vectors"
Json = dict[str, Any]

_MAKERS: dict[str, Callable[[], Json]] = {}


def vectors(name: str) -> Callable[[Callable[[], Json]], Callable[[], Json]]:
    """Registers the maker of tests/vectors/<name>.json."""

    def register(maker: Callable[[], Json]) -> Callable[[], Json]:
        _MAKERS[name] = maker
        return maker

    return register


# --- numbers -------------------------------------------------------------------------------------

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def sat32(value: int) -> int:
    return min(max(value, INT32_MIN), INT32_MAX)


def mean_step(model: int, updates: Sequence[int], weights: Sequence[int], num: int, den: int, s: int, t: int) -> int:
    scaled_sum = 2 ** (s - t) * sum(w * u for w, u in zip(weights, updates, strict=True))
    total = sum(weights)
    return sat32(model + math.floor(Fraction(2 * num * scaled_sum + den * total, 2 * den * total)))


def widths_fit(num: int, den: int, workers: int, s: int, t: int) -> bool:
    if num < 1 or den < 1 or workers < 1 or t > s:
        return False
    numerator = 2 * num * workers * 10_000 * 32_768 * 2 ** (s - t) + den * workers * 10_000
    return numerator < 2**63 and 2 * den * workers * 10_000 < 2**63


def _coordinate(
    name: str,
    model: int,
    updates: list[int],
    weights: list[int],
    step: tuple[int, int] = (1, 1),
    s: int = 20,
    t: int = 14,
) -> Json:
    case = {"name": name, "model": model, "updates": updates, "weights": weights, "num": step[0], "den": step[1]}
    expected = mean_step(model, updates, weights, *step, s, t)
    return case | {"model_scale_bits": s, "update_scale_bits": t, "expected": expected}


def _coordinates() -> list[Json]:
    full = 10_000
    cases = [
        _coordinate("one worker moves by its update", 1000, [3], [full]),
        _coordinate("one worker of the smallest weight", 1000, [-3], [1]),
        _coordinate("a negative half rounds up, toward plus infinity", 0, [-1], [full], (1, 2), 14, 14),
        _coordinate("a positive half rounds up", 0, [1], [full], (1, 2), 14, 14),
        _coordinate("just below a negative half rounds down", 0, [-1, -2], [9999, 1], (1, 2), 14, 14),
        _coordinate("minus three halves", 0, [-3], [full], (1, 2), 14, 14),
        _coordinate("a quarter toward zero on either side", 0, [-1], [full], (1, 4), 14, 14),
        _coordinate("a weight of zero does not count", 5, [32767, 7], [0, full]),
        _coordinate("unequal weights", -77, [100, -50, 3], [10_000, 2_500, 1]),
        _coordinate("the maximum weight and the largest update", 0, [32767], [full]),
        _coordinate("the maximum weight and the smallest update", 0, [-32767], [full]),
        _coordinate("an update out of range has the same bits too", 0, [-32768], [full]),
        _coordinate("saturates above", INT32_MAX - 1, [32767], [full]),
        _coordinate("saturates below", INT32_MIN + 1, [-32767], [full]),
        _coordinate("reaches the top exactly", INT32_MAX - 64, [1], [full]),
        _coordinate("reaches the bottom exactly", INT32_MIN + 64, [-1], [full]),
        _coordinate("no movement at the top", INT32_MAX, [0], [full]),
        _coordinate("a step larger than one", 12, [-5, 6], [7, 3], (3, 2)),
        _coordinate("a tiny step", 12, [-5, 6], [7, 3], (1, 1_000_003)),
        _coordinate("sixty-four workers at full weight", 1, [32767] * 64, [full] * 64),
    ]
    rng = random.Random(20)
    for index in range(40):
        count = rng.randint(1, 12)
        t = rng.randint(8, 15)
        step = (rng.randint(1, 50), rng.randint(1, 50))
        updates = [rng.randint(-32767, 32767) for _ in range(count)]
        weights = [rng.choice([0, 1, rng.randint(0, full), full]) for _ in range(count - 1)] + [rng.randint(1, full)]
        model = rng.choice([rng.randint(-(2**24), 2**24), rng.randint(INT32_MIN, INT32_MAX)])
        cases.append(_coordinate(f"random {index}", model, updates, weights, step, rng.randint(t, 24), t))
    return cases


def _widths() -> list[Json]:
    # At s - t = 6 and den = 1, num * workers * 4.19e10 * ... crosses 2^63 between these two worker counts.
    edge = next(n for n in range(1, 2**32) if not widths_fit(1000, 1, n, 20, 14))
    cases = [
        (1, 1, 64, 20, 14),
        (0, 1, 64, 20, 14),
        (1, 0, 64, 20, 14),
        (1, 1, 0, 20, 14),
        (1, 1, 64, 14, 20),
        (1, 1, 1, 14, 14),
        (1000, 1, edge - 1, 20, 14),
        (1000, 1, edge, 20, 14),
        (2**32 - 1, 1, 1, 14, 14),
        (1, 2**32 - 1, 64, 20, 14),
        (1, 2**32 - 1, 2**32 - 1, 20, 14),
        (2**32 - 1, 2**32 - 1, 2**32 - 1, 255, 0),
        (1, 1, 1, 33, 0),
        (1, 1, 1, 34, 0),
        (1, 1, 1, 77, 14),
        (1, 1, 1, 78, 14),
    ]
    keys = ("num", "den", "max_workers", "model_scale_bits", "update_scale_bits")
    return [dict(zip(keys, case, strict=True)) | {"fits": widths_fit(*case)} for case in cases]


def _quantized_update(values: Sequence[float], t: int) -> Json:
    exact = [round(Fraction(value) * 2**t) for value in values]  # Fraction rounds half to even
    clipped = [min(max(value, -32767), 32767) for value in exact]
    residual = [float(Fraction(v) - Fraction(c, 2**t)) for v, c in zip(values, clipped, strict=True)]
    num_clipped = sum(e != c for e, c in zip(exact, clipped, strict=True))
    return {
        "scale_bits": t,
        "reals": list(values),
        "expected": clipped,
        "residual": residual,
        "num_clipped": num_clipped,
    }


def _quantized_model(values: Sequence[float], s: int) -> Json:
    exact = [round(Fraction(value) * 2**s) for value in values]
    saturated = [sat32(value) for value in exact]
    num_saturated = sum(e != c for e, c in zip(exact, saturated, strict=True))
    real = [struct.unpack("<f", struct.pack("<f", value / 2**s))[0] for value in saturated]
    return {
        "scale_bits": s,
        "reals": list(values),
        "expected": saturated,
        "num_saturated": num_saturated,
        "dequantized": real,
    }


@vectors("fixed_point")
def fixed_point() -> Json:
    dividends = [0, 1, -1, 7, -7, 8, -8, 2**62, -(2**62), 2**62 + 1, -(2**62) - 1]
    divisions = [(a, b) for a in dividends for b in (1, 2, 3, 8, 2**40)]
    unit = 2.0**-14
    return {
        "mean_step": _coordinates(),
        "floor_div": [{"a": str(a), "b": str(b), "expected": str(a // b)} for a, b in divisions],
        "sat32": [
            {"value": str(v), "expected": sat32(v)}
            for v in (0, -1, INT32_MAX, INT32_MAX + 1, INT32_MIN, INT32_MIN - 1, 2**62, -(2**62))
        ],
        "check_widths": _widths(),
        "quantize_update": [
            _quantized_update(
                [0.0, -0.0, unit, -unit, 0.5 * unit, -0.5 * unit, 1.5 * unit, -1.5 * unit, 2.5 * unit], 14
            ),
            _quantized_update(
                [32767 * unit, 32767.5 * unit, 32768 * unit, -32767 * unit, -32768 * unit, 5.0, -5.0], 14
            ),
            _quantized_update([0.25, -0.25, 0.75, 1.0], 0),
        ],
        "quantize_model": [
            _quantized_model([0.0, 2.0**-21, -(2.0**-21), 3 * 2.0**-21, 1.0, -1.0, 0.1015625], 20),
            _quantized_model([2047.9998779296875, 2048.0, -2048.0, -2048.000244140625, 3.0e38, -3.0e38], 20),
        ],
    }


@vectors("mean_rule")
def mean_rule() -> Json:
    rng = random.Random(3)

    def case(name: str, num_params: int, weights: list[int], step: tuple[int, int], spread: int) -> Json:
        updates = [[rng.randint(-32767, 32767) for _ in range(num_params)] for _ in weights]
        model = [rng.choice([rng.randint(-spread, spread), INT32_MAX, INT32_MIN]) for _ in range(num_params)]
        result: Json = {"name": name, "model": model, "updates": updates, "weights": weights}
        result |= {"num": step[0], "den": step[1], "model_scale_bits": 20, "update_scale_bits": 14}
        if sum(weights) == 0:
            return result | {"void": True}
        columns = list(zip(*updates, strict=True))
        stepped = [mean_step(g, column, weights, *step, 20, 14) for g, column in zip(model, columns, strict=True)]
        return result | {"void": False, "expected": stepped}

    def clip(name: str, sums: list[int]) -> Json:
        norms = [math.isqrt(total) for total in sums]
        positive = sorted(norm for norm in norms if norm)
        median = positive[(len(positive) - 1) // 2] if positive else 0
        weights = [max(1, min(10_000, 10_000 * median // norm)) if norm else 0 for norm in norms]
        return {"name": name, "sums": [str(total) for total in sums], "expected": weights}

    return {
        "steps": [
            case("one worker", 5, [10_000], (1, 1), 2**20),
            case("three workers, one rejected", 7, [10_000, 0, 3_333], (1, 1), 2**20),
            case("a half step", 6, [1, 2, 3, 4], (1, 2), 2**20),
            case("a large step near the ends", 9, [9_999, 10_000], (1_000, 3), 2**31 - 1),
            case("every weight zero", 3, [0, 0], (1, 1), 2**20),
        ],
        "clip_weights": [
            clip("one update", [25]),
            clip("all zero", [0, 0, 0]),
            clip("an even count takes the lower median", [100**2, 200**2, 300**2, 400**2]),
            clip("zero sums are in no median", [0, 0, 0, 100**2, 300**2]),
            clip("a norm that is not a whole number", [2, 3, 99, 101, 10**9 + 7]),
            clip("a giant keeps the weight of one", [1, 1, 2**63]),
            clip("the largest sum", [2**64 - 1, 2**64 - 1, 1]),
        ],
    }


def delta(scaled_sum: int, total: int, num: int, den: int) -> int:
    return math.floor(Fraction(2 * num * scaled_sum + den * total, 2 * den * total))


def decayed(state: int, num: int, den: int) -> int:
    return math.floor(Fraction(2 * num * state + den, 2 * den))


@vectors("order_rules")
def order_rules() -> Json:
    """One coordinate under the median and the trimmed mean, plain and with momentum; S and W enter the step."""
    rng = random.Random(11)

    def case(name: str, values: list[int], trim: tuple[int, int] | None, momentum: tuple[int, int] | None) -> Json:
        ordered, drop = sorted(values), 0
        if trim is None:
            total, divisor = ordered[(len(values) - 1) // 2], 1
        else:
            drop = len(values) * trim[0] // trim[1]
            kept = ordered[drop : len(values) - drop]
            total, divisor = sum(kept), len(kept)
        model, state = rng.randint(INT32_MIN, INT32_MAX), rng.randint(-(2**26), 2**26)
        num, den = rng.choice([(1, 1), (1, 2), (7, 3)])
        moved = delta(64 * total, divisor, num, den)
        if momentum is not None:
            moved = sat32(decayed(state, *momentum) + moved)
        return {
            "name": name,
            "values": values,
            "trim": trim,
            "momentum": momentum,
            "num": num,
            "den": den,
            "model": model,
            "state": state,
            "sum": total,
            "total": divisor,
            "low": values.index(ordered[drop if trim else (len(values) - 1) // 2]),
            "high": values.index(ordered[len(values) - 1 - drop]) if trim else 0,
            "expected_state": None if momentum is None else moved,
            "expected": sat32(model + moved),
        }

    named = {
        "one value": [-7],
        "an even count": [4, 1, 3, 2],
        "ties on both sides of the cut": [5, 5, 5, 1, 5, 5, 9, 5, 5, 5],
        "all the same": [-3] * 6,
        "the ends": [32767, -32767, 32767, -32767, 0],
    }
    named |= {f"random {n}": [rng.randint(-32767, 32767) for _ in range(n)] for n in (2, 3, 7, 16, 33)}
    trims: list[tuple[int, int] | None] = [None, (0, 1), (1, 5), (49, 100)]
    momenta: list[tuple[int, int] | None] = [None, (9, 10), (1, 2), (1, 1), (0, 1)]
    return {
        "steps": [
            case(name, values, trim, momenta[i % len(momenta)])
            for i, (name, values, trim) in enumerate((n, v, t) for n, v in named.items() for t in trims)
        ]
    }


# --- server steps --------------------------------------------------------------------------------

PLAIN, MOMENTUM, NESTEROV, ADAGRAD, ADAM, YOGI = range(6)
UINT32_MAX = 2**32 - 1
CLIP = 2**20 - 1
ROOT_MAX = 2**24 - 1


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def second_moment(server: int, root: int, moved: int, keep: Fraction) -> int:
    old, new = root * root, moved * moved
    if server == ADAGRAD:
        return old + new
    if server == ADAM:
        return math.floor(keep * old + (1 - keep) * new)
    return old - ((old > new) - (old < new)) * math.floor((1 - keep) * new)


def server_step(case: Json) -> tuple[int, int, int]:
    """The next model, first and second moment of one coordinate, in fractions."""
    server, model, first, second = (case[key] for key in ("server", "model", "first", "second"))
    a, total, rate = int(case["scaledSum"]), int(case["totalWeight"]), (case["stepNum"], case["stepDen"])
    beta = (case["momentumNum"], case["momentumDen"])
    if server == PLAIN:
        return sat32(model + delta(a, total, *rate)), 0, 0
    if server in (MOMENTUM, NESTEROV):
        moved = delta(a, total, *rate)
        first = sat32(decayed(first, *beta) + moved)
        return sat32(model + (first if server == MOMENTUM else moved + decayed(first, *beta))), first, 0
    moved = 16 * clamp(delta(a, total, 1, 1), -CLIP, CLIP)
    first, second = clamp(first, -ROOT_MAX, ROOT_MAX), clamp(second, 0, ROOT_MAX)
    share, half = Fraction(*beta), Fraction(1, 2)
    first = math.floor(share * first + (1 - share) * moved + half)
    keep = Fraction(case["secondNum"], case["secondDen"] or 1)
    second = min(math.isqrt(second_moment(server, second, moved, keep)), ROOT_MAX)
    step = Fraction(*rate) * 2 ** case["modelScaleBits"] * Fraction(first, second + case["tau"])
    return sat32(model + math.floor(step + half)), first, second


_KEPT = ("modelScaleBits", "tau", "momentumNum", "momentumDen", "secondNum", "secondDen")


def server_fits(case: Json) -> bool:
    """Which parameters go together; the step and the scale bits are otherwise what `widths_fit` takes."""
    bits, tau, bn, bd, sn, sd = (int(case[name]) for name in _KEPT)
    server = case["server"]
    if server in (PLAIN, MOMENTUM, NESTEROV):
        of_momentum = bn == bd == 0 if server == PLAIN else 0 <= bn <= bd > 0 and (bn << 32) + 2 * bd < 2**63
        return of_momentum and sn == sd == tau == 0
    of_second = sn == sd == 0 if server == ADAGRAD else 0 <= sn <= sd and 0 < sd <= 2**14
    if not (0 <= bn <= bd and 0 < bd <= 2**14 and of_second and tau > 0 and bits <= 31):
        return False
    divisor = int(case["stepDen"]) * (2**24 + tau)
    return (int(case["stepNum"]) << (bits + 25)) + divisor < 2**63 and 2 * divisor < 2**63


SERVERS: list[Json] = [
    {"server": PLAIN, "momentum": (0, 0), "second": (0, 0), "tau": 0},
    {"server": MOMENTUM, "momentum": (9, 10), "second": (0, 0), "tau": 0},
    {"server": NESTEROV, "momentum": (9, 10), "second": (0, 0), "tau": 0},
    {"server": ADAGRAD, "momentum": (0, 1), "second": (0, 0), "tau": 16_777},
    {"server": ADAM, "momentum": (9, 10), "second": (99, 100), "tau": 16_777},
    {"server": YOGI, "momentum": (9, 10), "second": (99, 100), "tau": 16_777},
]
SERVER_NAMES = ("plain", "momentum", "nesterov", "adagrad", "adam", "yogi")


def _server(name: str, server: int, step: tuple[int, int] = (1, 10), bits: int = 20, **changed: Any) -> Json:
    made = SERVERS[server] | changed
    (bn, bd), (sn, sd) = made["momentum"], made["second"]
    found: Json = {"name": f"{SERVER_NAMES[server]}: {name}", "server": server, "modelScaleBits": bits}
    found |= {"stepNum": step[0], "stepDen": step[1], "momentumNum": bn, "momentumDen": bd}
    return found | {"secondNum": sn, "secondDen": sd, "tau": made["tau"]}


def _stepped(parameters: Json, a: int, total: int, model: int = 0, first: int = 0, second: int = 0) -> Json:
    assert server_fits(parameters), parameters
    assert 2 * parameters["stepNum"] * abs(a) + parameters["stepDen"] * total < 2**63, parameters
    case = parameters | {"scaledSum": str(a), "totalWeight": str(total)}
    case |= {"model": model, "first": first, "second": second}
    return case | dict(zip(("nextModel", "nextFirst", "nextSecond"), server_step(case), strict=True))


def _named_steps(server: int) -> list[Json]:
    def case(name: str, a: int, total: int = 1, *state: int, **changed: Any) -> Json:
        return _stepped(_server(name, server, **changed), a, total, *state)

    adaptive = server >= ADAGRAD
    cases = [
        case("nothing moves", 0),
        case("an update of one", 10, 1, 77),
        case("a negative half", -1, 2, 5, step=(1, 1)),
        case("a positive half", 1, 2, 5, step=(1, 1)),
        case("just below a negative half", -10_001, 20_000, 0, step=(1, 1)),
        case("the top of int32", 2**20 - 1, 1, INT32_MAX, step=(9, 1)),
        case("the bottom of int32", -(2**20 - 1), 1, INT32_MIN, step=(9, 1)),
        case("the largest sum of a round", 64 * 32_767 * 640_000, 640_000, 3),
        case("the smallest sum of a round", -64 * 32_768 * 640_000, 640_000, -3),
    ]
    if server != PLAIN:
        extremes = [(INT32_MAX, INT32_MAX), (INT32_MIN, INT32_MIN), (INT32_MIN, INT32_MAX), (INT32_MAX, INT32_MIN)]
        cases += [
            case(f"a state of {first}, {second}, a sum of {a}", a, 7, model, first, second if adaptive else 0)
            for first, second in extremes
            for a, model in ((0, 0), (7_654_321, INT32_MAX), (-7_654_321, INT32_MIN))
        ]
        cases += [
            case(f"all of the momentum, {a}", a, 3, 11, -12_345, 54_321 if adaptive else 0, momentum=(1, 1))
            for a in (0, -4_000, 4_000)
        ]
        cases.append(case("none of the momentum", -4_000, 3, 11, -12_345, 0, momentum=(0, 1)))
        cases += [
            case(f"momentum of a half, {first}", 0, 1, 0, first, 0, momentum=(1, 2), step=(1, 1))
            for first in (-3, -2, -1, 1, 2, 3)
        ]
    return cases + (_named_adaptive(server) if adaptive else [])


def _named_adaptive(server: int) -> list[Json]:
    def case(name: str, a: int, total: int = 1, *state: int, **changed: Any) -> Json:
        return _stepped(_server(name, server, **changed), a, total, *state)

    cases = [
        case(f"a delta of {sign}{name}", int(f"{sign}{a}"), 1, 0, 1_000, 2_000)
        for sign in ("", "-")
        for name, a in (
            ("one less than the clip", CLIP - 1),
            ("the clip", CLIP),
            ("one more", CLIP + 1),
            ("ten", 2**24),
        )
    ]
    cases += [
        case("the least tau, nothing moves", 0, tau=1, step=(1, 1)),
        case("the least tau, the largest step", 1, tau=1, step=(1_000, 1), momentum=(0, 1)),
        case("the least tau, the largest step down", -1, tau=1, step=(1_000, 1), momentum=(0, 1)),
        case(
            "the least tau and a state that divides by one", 0, 1, 0, ROOT_MAX, 0, tau=1, momentum=(1, 1), step=(1, 1)
        ),
        case("and down", 0, 1, 0, -ROOT_MAX, 0, tau=1, momentum=(1, 1), step=(1, 1)),
        case("the largest tau", CLIP, 1, 0, ROOT_MAX, ROOT_MAX, tau=UINT32_MAX),
        case("the root at its limit", CLIP, 1, 0, 0, ROOT_MAX),
        case("the root one below its limit", CLIP, 1, 0, 0, ROOT_MAX - 1),
        case("the root and the delta are the same", 4_096, 1, 9, 8, 65_536),
        case("the root is one more than the delta", 4_096, 1, 9, 8, 65_537),
        case("the root is one less than the delta", 4_096, 1, 9, 8, 65_535),
        case("the same, of the other sign", -4_096, 1, 9, 8, 65_536),
        case("a step of exactly minus one half", -1, 1, 0, 0, 0, bits=0, step=(1, 2), momentum=(0, 1), tau=1),
        case("no scale bits", 5, 1, -3, 7, 11, bits=0),
        case("31 scale bits", 5, 1, -3, 7, 11, bits=31, step=(1, 1)),
        case("the finest shares", -77, 1, 4, 12_345, 23_456, momentum=(16_383, 16_384), step=(7, 5)),
    ]
    if server != ADAGRAD:
        shares = [(0, 1), (1, 1), (1, 2), (16_383, 16_384), (1, 16_384), (16_384, 16_384)]
        cases += [
            case(f"second moment {sn}/{sd}, delta {a}, root {root}", a, 1, 0, 0, root, second=(sn, sd))
            for sn, sd in shares
            for a, root in ((1_000, 0), (0, 1_000), (-CLIP, ROOT_MAX), (CLIP, 1), (3, 48), (3, 49))
        ]
    return cases


def _random_steps(rng: random.Random, server: int, index: int) -> Json:
    adaptive = server >= ADAGRAD
    while True:
        changed: Json = {}
        if server != PLAIN:
            den = rng.choice([1, 2, 10, 100, rng.randint(1, 2**14)])
            changed["momentum"] = (rng.randint(0, den), den)
        if server > ADAGRAD:
            den = rng.choice([1, 2, 100, 1_000, rng.randint(1, 2**14)])
            changed["second"] = (rng.randint(0, den), den)
        if adaptive:
            changed["tau"] = rng.choice([1, 16, 16_777, rng.randint(1, 2**24), rng.randint(1, UINT32_MAX)])
        step = (rng.randint(1, 2 ** rng.randint(0, 10)), rng.randint(1, 2 ** rng.randint(0, 10)))
        parameters = _server(f"random {index}", server, step, rng.randint(0, 31), **changed)
        total = rng.choice([1, 10_000, rng.randint(1, 640_000)])
        a = total * rng.randint(-(2 ** rng.randint(0, 26)), 2 ** rng.randint(0, 26)) + rng.randint(-total, total)
        if server_fits(parameters) and 2 * step[0] * abs(a) + step[1] * total < 2**63:
            break
    wild = rng.random() < 0.2
    model = rng.choice([rng.randint(-(2**24), 2**24), rng.randint(INT32_MIN, INT32_MAX)])
    first = second = 0
    if server != PLAIN:
        first = rng.randint(INT32_MIN, INT32_MAX) if wild else rng.randint(-(2**20), 2**20)
    if adaptive:
        second = rng.randint(INT32_MIN, INT32_MAX) if wild else rng.randint(0, 2 ** rng.randint(1, 24) - 1)
    return _stepped(parameters, a, total, model, first, second)


def _parameters() -> list[Json]:
    """Parameters of a server, and whether a task may have them."""
    cases = [_server("the usual", server) for server in range(6)]
    for server in range(6):
        others: list[Json] = [{"momentum": (0, 0)}, {"momentum": (9, 10)}, {"momentum": (0, 1)}, {"momentum": (1, 1)}]
        others += [{"momentum": (11, 10)}, {"momentum": (1, 0)}, {"momentum": (16_384, 16_384)}]
        others += [{"momentum": (16_384, 16_385)}, {"momentum": (0, 16_385)}, {"momentum": (0, UINT32_MAX)}]
        others += [{"momentum": (2**31 - 1, 2**31 - 1)}, {"momentum": (2**31, 2**31)}]
        others += [{"momentum": (UINT32_MAX, UINT32_MAX)}]
        others += [{"second": (0, 0)}, {"second": (99, 100)}, {"second": (0, 1)}, {"second": (1, 1)}]
        others += [{"second": (101, 100)}, {"second": (1, 0)}, {"second": (16_384, 16_384)}]
        others += [{"second": (0, 16_385)}, {"second": (UINT32_MAX, UINT32_MAX)}]
        others += [{"tau": 0}, {"tau": 1}, {"tau": 2**24}, {"tau": UINT32_MAX}]
        others += [{"bits": 0}, {"bits": 31, "step": (1, 1)}]
        told = [(", ".join(f"{key} {value}" for key, value in other.items()), other) for other in others]
        cases += [_server(name, server, **other) for name, other in told]
    for server in (ADAGRAD, ADAM, YOGI):
        # The numerator: stepNum << 45 at 20 bits, and what the divisor adds to it.
        cases += [_server(f"a step of {num}", server, (num, 1)) for num in (2**18 - 1, 2**18, UINT32_MAX)]
        cases += [
            _server(f"{bits} bits, a step of {num}", server, (num, 1), bits) for bits in (30, 31) for num in (1, 255)
        ]
        cases += [
            _server(f"{bits} bits, a step of {num}", server, (num, 1), bits) for bits in (30, 31) for num in (127, 256)
        ]
        cases += [_server(f"{bits} bits", server, (1, 1), bits) for bits in (32, 37, 38, 39, 231, 255)]
        edge = (2**62 - 1) // (2**24 + 2**31)
        cases += [_server(f"a rate of 1/{den}", server, (1, den), tau=2**31) for den in (edge, edge + 1, UINT32_MAX)]
        cases += [
            _server(f"a rate of 1/{den}, the largest tau", server, (1, den), tau=UINT32_MAX) for den in (1, UINT32_MAX)
        ]
        den = next(d for d in range(2**20) if (2**18 - 1 << 45) + d * (2**24 + UINT32_MAX) >= 2**63)
        cases += [
            _server(f"a rate of {2**18 - 1}/{d}, the largest tau", server, (2**18 - 1, d), tau=UINT32_MAX)
            for d in (den - 1, den)
        ]
    return [case | {"fits": server_fits(case)} for case in cases]


@vectors("server_step")
def server_steps() -> Json:
    """One coordinate under each server step, and which parameters a task may have."""
    rng = random.Random(61)
    named = [case for server in range(6) for case in _named_steps(server)]
    drawn = [_random_steps(rng, server, index) for server in range(6) for index in range(40)]
    return {"steps": named + drawn, "parameters": _parameters()}


# --- trees ---------------------------------------------------------------------------------------

WIDTHS = {1: 4, 2: 4, 3: 2, 4: 8}


def _sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


class Tree:
    """A whole tree in lists: levels[height][place] = (digest, sum of squares)."""

    def __init__(self, values: Sequence[int], chunk_params: int, kind: int) -> None:
        self.chunk_params, self.kind, self.width = chunk_params, kind, WIDTHS[kind]
        wire = b"".join(value.to_bytes(self.width, "big", signed=True) for value in values)
        size = chunk_params * self.width
        self.chunks = [wire[at : at + size].ljust(size, b"\0") for at in range(0, len(wire), size)]
        squares = [value * value if kind == 3 else 0 for value in values]
        leaves = [
            (_sha(b"\0", _u64(i), chunk), sum(squares[i * chunk_params : (i + 1) * chunk_params]))
            for i, chunk in enumerate(self.chunks)
        ]
        while len(leaves) & (len(leaves) - 1):
            leaves.append((bytes(32), 0))
        self.levels = [leaves]
        while len(self.levels[-1]) > 1:
            level = self.levels[-1]
            self.levels.append([self._node(*pair) for pair in zip(level[0::2], level[1::2], strict=True)])
        top, self.sum = self.levels[-1][0]
        tail = _u64(self.sum) if kind == 3 else b""
        head = b"\3" + bytes([kind]) + _u64(len(values)) + chunk_params.to_bytes(4, "big") + bytes([self.width])
        self.root = _sha(head, top, tail)

    def _node(self, left: tuple[bytes, int], right: tuple[bytes, int]) -> tuple[bytes, int]:
        if self.kind != 3:
            return _sha(b"\1", left[0], right[0]), 0
        return _sha(b"\2", left[0], _u64(left[1]), right[0], _u64(right[1])), left[1] + right[1]

    def opening(self, index: int) -> Json:
        path = [level[index >> height ^ 1] for height, level in enumerate(self.levels[:-1])]
        return {
            "index": index,
            "chunk": _hex(self.chunks[index]),
            "path": [_hex(digest) for digest, _ in path],
            "sums": [str(total) for _, total in path] if self.kind == 3 else [],
        }


def _tree_case(name: str, kind: int, values: list[int], chunk_params: int) -> Json:
    tree = Tree(values, chunk_params, kind)
    last = len(tree.chunks) - 1
    return {
        "name": name,
        "kind": kind,
        "num_params": len(values),
        "chunk_params": chunk_params,
        "values": [str(value) for value in values],
        "root": _hex(tree.root),
        "sum": str(tree.sum),
        "openings": [tree.opening(index) for index in sorted({0, last // 2, last})],
    }


@vectors("chunk_tree")
def chunk_tree() -> Json:
    rng = random.Random(7)
    spans = {1: (INT32_MIN, INT32_MAX), 2: (INT32_MIN, INT32_MAX), 3: (-32768, 32767), 4: (-(2**63), 2**63 - 1)}
    shapes = [
        ("one value", 1, 16),
        ("one full chunk is its own root", 16, 16),
        ("a last partial chunk", 17, 16),
        ("a power of two of leaves", 64, 16),
        ("three leaves, one of padding", 48, 16),
        ("five leaves, a node of padding", 80, 16),
        ("nine leaves, a subtree of padding, a partial chunk", 133, 16),
    ]
    cases = []
    for name, num_params, chunk_params in shapes:
        for kind, (low, high) in spans.items():
            values = [rng.randint(low, high) for _ in range(num_params)]
            cases.append(_tree_case(name, kind, values, chunk_params))
    cases += [_tree_case("the default chunk", kind, [rng.randint(-9, 9) for _ in range(300)], 256) for kind in (1, 3)]
    cases.append(_tree_case("all zero", 3, [0] * 40, 16))
    cases.append(_tree_case("the ends of the range", 3, [32767, -32767] * 20, 16))
    return {"trees": cases}


# --- payloads ------------------------------------------------------------------------------------


def _safetensors(header: Json, data: bytes) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _tensor(dtype: str, shape: list[int], length: int, start: int = 0) -> Json:
    return {"data_offsets": [start, start + length], "dtype": dtype, "shape": shape}


@vectors("payload")
def payload() -> Json:
    binding: Json = {
        "task_id": 7,
        "round": 3,
        "worker": "0xAbCdEf0123456789aBcDeF0123456789ABCDEF01",
        "base_model_root": _hex(_sha(b"base")),
        "chain_id": 31337,
        "coordinator": "0x00000000000000000000000000000000000000c0",
    }
    texts = {key: str(value).lower() for key, value in binding.items()}
    texts["base_model_root"] = texts["base_model_root"].removeprefix("0x")
    labels = {"format": "chainfl-update/1"} | texts
    values = [0, 1, -1, 32767, -32767]
    data = struct.pack("<5h", *values)

    def update(data: bytes = data, labels: Json = labels, **changed: Any) -> bytes:
        return _safetensors({"__metadata__": labels, "update": _tensor("I16", [5], 10) | changed}, data)

    good = update()
    bad = {
        "empty": (b"", "PayloadTruncated"),
        "cut within the length": (good[:7], "PayloadTruncated"),
        "cut within the header": (good[:40], "PayloadTruncated"),
        "cut within the values": (good[:-1], "PayloadTruncated"),
        "a header that claims 10 GB": ((10 * 2**30).to_bytes(8, "little") + good[8:], "PayloadTooLarge"),
        "a header that claims 2^64 - 1": (b"\xff" * 8 + good[8:], "PayloadTooLarge"),
        "bytes after the values": (good + b"\0", "PayloadTooLarge"),
        "a header that is not JSON": (b"\x02" + bytes(7) + b"{]" + data, "PayloadError"),
        "a header that is a list": (b"\x02" + bytes(7) + b"[]" + data, "PayloadError"),
        "a header nested to the limit": ((4096).to_bytes(8, "little") + b"[" * 4096, "PayloadError"),
        "another tensor": (
            _safetensors({"__metadata__": labels, "model": _tensor("I16", [5], 10)}, data),
            "PayloadError",
        ),
        "offsets beyond the file": (update(data_offsets=[0, 10 * 2**30]), "PayloadError"),
        "floats": (update(dtype="F16"), "PayloadDtypeMismatch"),
        "wider integers": (update(dtype="I32"), "PayloadDtypeMismatch"),
        "one value less": (update(shape=[4]), "PayloadShapeMismatch"),
        "a shape that claims 10 GB": (update(shape=[5 * 2**30]), "PayloadShapeMismatch"),
        "two dimensions": (update(shape=[5, 1]), "PayloadShapeMismatch"),
        "a shape of floats": (update(shape=[5.0]), "PayloadShapeMismatch"),
        "no metadata": (
            _safetensors({"__metadata__": None, "update": _tensor("I16", [5], 10)}, data),
            "PayloadBindingMismatch",
        ),
        "a value of -32768": (update(struct.pack("<5h", 0, 0, -32768, 0, 0)), "ValueOutOfRange"),
    }
    for key, other in (("task_id", "8"), ("round", "2"), ("worker", "0x" + "11" * 20), ("base_model_root", "00" * 32)):
        bad[f"another {key}"] = (update(labels=labels | {key: other}), "PayloadBindingMismatch")

    model = [0, -1, INT32_MAX, INT32_MIN, 1 << 20]
    model_labels = {"format": "chainfl-model/1", "layout_hash": _sha(b"layout").hex(), "scale_bits": "20"}
    model_data = struct.pack("<5i", *model)
    floats = struct.pack("<5f", *(value / 2**20 for value in model))
    tensors = {"bias": _tensor("F32", [2], 8), "weight": _tensor("F32", [3, 1], 12, 8)}
    return {
        "update": {"metadata": binding, "values": values, "file": _hex(good)},
        "malformed_updates": [
            {"name": name, "file": _hex(data), "error": error} for name, (data, error) in bad.items()
        ],
        "model": {
            "metadata": {"layout_hash": _hex(_sha(b"layout")), "scale_bits": 20},
            "values": model,
            "file": _hex(_safetensors({"__metadata__": model_labels, "model": _tensor("I32", [5], 20)}, model_data)),
        },
        "float_model": {
            "tensors": [{"name": "bias", "shape": [2]}, {"name": "weight", "shape": [3, 1]}],
            "scale_bits": 20,
            "values": model,
            "file": _hex(_safetensors({"__metadata__": {"format": "pt"}, **tensors}, floats)),
        },
    }


def _dump(content: Json) -> str:
    """JSON with a line for each case, so that a changed vector is one changed line."""
    parts = []
    for key, value in content.items():
        lines = ",\n  ".join(map(json.dumps, value)) if isinstance(value, list) else None
        parts.append(f" {json.dumps(key)}: " + (json.dumps(value) if lines is None else f"[\n  {lines}\n ]"))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the shared test vectors.")
    parser.add_argument("names", nargs="*", choices=[[], *_MAKERS], help="files to write (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    chosen = parser.parse_args(arguments)
    stale = []
    for name in chosen.names or _MAKERS:
        path = FOLDER / f"{name}.json"
        text = _dump(_MAKERS[name]())
        if chosen.check and (not path.is_file() or path.read_text() != text):
            stale.append(path.name)
        elif not chosen.check:
            path.write_text(text)
    if stale:
        print(f"stale: {', '.join(stale)}; run python scripts/make_vectors.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
