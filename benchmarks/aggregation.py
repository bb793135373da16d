"""How long it takes to aggregate 100 updates of 10M parameters, beside a plain pass over the same bytes and Flower.

    python benchmarks/aggregation.py [--json PATH] [--updates N] [--params N] [--repeats N] [--flower 0] [--folder PATH]

Updates are mapped files of int16, and for Flower the same values as float32, its own format (6 GB at the full size,
deleted at the end). chainfl's figures are a whole round's: the rule over all updates with weights of their own, and the
server step to the next model. Compiling the loops, before a process's first large round, is a row of its own. The plain
pass copies every block of every update into a buffer, in as many threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _flower import VERSION, flower
from _report import Row, arguments, report, seconds

from chainfl.aggregation.columns import LARGE, columns_for
from chainfl.aggregation.rules import WeightedSource, apply_rule, walk
from chainfl.encoding.arrays import Int16Array, Int32Array
from chainfl.encoding.sources import ArraySource
from chainfl.tasks.spec import default_format
from chainfl.tasks.state import Format, Rule
from chainfl.validation.selection.candidates import candidates_of
from chainfl.validation.selection.krum import Krum

UPDATE_SCALE_BITS = 14
PAIRS_OF = 16
"""Updates among which Flower's Krum takes distances pair by pair; with 100 it takes minutes."""
PRODUCT_SHARE = 4
"""Of so many parameters one goes into Flower's product, which holds float32 copies of everything several times."""
MAX_PEAK_MB = 0.5 * 2**30 / 1e6


# --- the updates ---------------------------------------------------------------------------------


def write_updates(folder: Path, num_updates: int, num_params: int, with_floats: bool) -> None:
    """`N.int16`, of the size that training gives at 14 scale bits, and `N.float32` with the same values."""
    for number in range(num_updates):
        rng = np.random.default_rng(number)
        values = (rng.standard_normal(num_params, np.float32) * np.float32(330)).astype(np.int16)
        values.tofile(folder / f"{number:03}.int16")
        if with_floats:
            (values * np.float32(2.0**-UPDATE_SCALE_BITS)).tofile(folder / f"{number:03}.float32")


def mapped(folder: Path) -> list[Int16Array]:
    """The integer updates, every page of them in this process's tables: what is measured later has none to fetch."""
    vectors = [np.asarray(np.memmap(path, np.int16, "r")) for path in sorted(folder.glob("*.int16"))]
    plain_pass(vectors)
    return vectors


def weights_for(count: int) -> list[int]:
    """As votes leave them: some in full, the others clipped, each by its own norm."""
    return [10_000 if number % 2 else 10_000 - 37 * number for number in range(count)]


# --- what is measured ----------------------------------------------------------------------------


def plain_pass(vectors: Sequence[Int16Array]) -> None:
    """Every block of every update into a buffer, once."""

    def copy(block: slice) -> None:
        target = np.empty(block.stop - block.start, np.int16)
        for vector in vectors:
            target[:] = vector[block]

    for _ in walk(vectors[0].size, copy):
        pass


def form_of(rule: Rule, num_params: int) -> Format:
    """Of a task with this rule; a fifth at each end where it trims, as Flower does."""
    trim = (1, 5) if rule is Rule.TRIMMED_MEAN else (0, 0)
    return replace(default_format(num_params), rule=rule, trim_num=trim[0], trim_den=trim[1])


def rounds_of(vectors: Sequence[Int16Array]) -> dict[str, Callable[[], object]]:
    """Each of chainfl's ways through a round's updates, by the name of its row."""
    model: Int32Array = np.zeros(vectors[0].size, np.int32)
    weights = weights_for(len(vectors))

    def aggregate(rule: Rule, weights: Sequence[int]) -> object:
        sources = [WeightedSource(ArraySource(v), w) for v, w in zip(vectors, weights, strict=True)]
        return apply_rule(form_of(rule, model.size), model, None, sources)

    return {
        "mean": lambda: aggregate(Rule.MEAN, weights),
        "mean, all in full": lambda: aggregate(Rule.MEAN, [10_000] * len(vectors)),
        "median": lambda: aggregate(Rule.MEDIAN, weights),
        "trimmed mean": lambda: aggregate(Rule.TRIMMED_MEAN, weights),
        "Krum": lambda: Krum(1).weigh(candidates_of(vectors, scale_bits=UPDATE_SCALE_BITS)),
    }


def fastest(run: Callable[[], object], repeats: int) -> float:
    """The least seconds of so many calls: whatever else the machine does only adds."""
    return min(seconds(run) for _ in range(repeats))


def peak_bytes(folder: Path, name: str) -> int:
    """How far one of `rounds_of` raises the high-water mark of a fresh process, beyond the files that it maps."""
    command = [sys.executable, __file__, "--peak-of", json.dumps([str(folder), name])]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(folder: Path, name: str) -> None:
    vectors = mapped(folder)
    rounds_of([vector[:100_000] for vector in vectors])[name]()  # what is loaded and allocated once does not count
    run = rounds_of(vectors)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    before = _status_bytes("VmRSS")
    run()
    print(_status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


# --- the rows ------------------------------------------------------------------------------------


def flower_seconds(folder: Path, num_updates: int, num_params: int, repeats: int) -> dict[str, tuple[float, str]]:
    """Flower's seconds by the name of our row, and in words what they are of."""
    pairs_of, product_params = min(PAIRS_OF, num_updates), num_params // PRODUCT_SHARE
    files = [str(path) for path in sorted(folder.glob("*.float32"))]
    found = flower(
        "_flower_aggregation.py", files=files, pairs_of=pairs_of, product_params=product_params, repeats=repeats
    )
    pairs, share = (num_updates / pairs_of) ** 2, num_params / product_params
    by_pairs = f"aggregate_krum, {found['krum_by_pairs']:.1f} s for {pairs_of} updates, times {pairs:.3g} for the pairs"
    product = f"compute_distances, {found['distances_as_product']:.2f} s for 1/{share:.3g} of the parameters"
    return {
        "mean": (found["mean"], "aggregate"),
        "median": (found["median"], "aggregate_median"),
        "trimmed mean": (found["trimmed_mean"], "aggregate_trimmed_avg"),
        "Krum": (found["krum_by_pairs"] * pairs, by_pairs),
        "Krum's distances alone": (found["distances_as_product"] * share, product),
    }


def rows_of(folder: Path, num_updates: int, num_params: int, repeats: int, with_flower: bool) -> list[Row]:
    write_updates(folder, num_updates, num_params, with_flower)
    # First: it needs memory that the page cache of our own files may have.
    theirs = flower_seconds(folder, num_updates, num_params, repeats) if with_flower else {}
    vectors = mapped(folder)
    compiling = seconds(lambda: columns_for(LARGE))
    plain = fastest(lambda: plain_pass(vectors), repeats)
    ours = {name: fastest(run, repeats) for name, run in rounds_of(vectors).items()}
    gigabytes = f"{num_updates * num_params * 2 / 1e9:.3g} GB"
    rows = [Row(f"plain pass: copy {num_updates} updates of {num_params / 1e6:g}M, block by block", plain, "s")]
    if num_updates * num_params >= LARGE:
        rows.append(Row("compiling, at the first large round of a process", compiling, "s", "in no other row"))
    rows += [Row(f"{name}, a whole round", taken, "s") for name, taken in ours.items()]
    rows += [
        Row("mean", ours["mean"] / plain, "x", f"the plain pass over the same {gigabytes}", 1.5),
        Row("mean, all in full", ours["mean, all in full"] / plain, "x", "the same", 1.5),
    ]
    targets = {"mean": 10.0, "median": 15.0, "trimmed mean": 15.0, "Krum": 25.0}
    for name, (taken, what) in theirs.items():
        speedup = taken / ours[name.split("'")[0]]
        words = f"Flower's {what}: {taken:.2f} s"
        rows.append(Row(f"{name}: faster than Flower", speedup, "x", words, targets.get(name), "higher"))
    if sys.platform == "linux":
        for name in ("mean", "median", "trimmed mean", "Krum"):
            peak_mb = peak_bytes(folder, name) / 1e6
            rows.append(Row(f"{name}: peak memory beyond the mapped files", peak_mb, "MB", None, MAX_PEAK_MB))
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--peak-of"]:  # a fresh process of this benchmark itself
        folder, name = json.loads(sys.argv[2])
        print_peak(Path(folder), name)
        return
    options = arguments(
        __doc__ or "",
        updates=(100, "updates of the round"),
        params=(10_000_000, "parameters of an update"),
        repeats=(5, "repeats, of which the fastest counts"),
        flower=(1, "0 leaves Flower out"),
        folder=("", "where the updates are written for the time being; empty for the system's own"),
    )
    with tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
        rows = rows_of(Path(folder), options.updates, options.params, options.repeats, bool(options.flower))
    title = f"aggregation, two threads, beside Flower {VERSION}" if options.flower else "aggregation, two threads"
    rounded = [replace(row, value=float(f"{row.value:.4g}")) for row in rows]
    report(title, rounded, options.json, ["numpy", "torch"])


if __name__ == "__main__":
    main()
