"""How fast content goes into and out of the stores, and a whole round of updates through a swarm.

    python benchmarks/storage.py [--json PATH] [--mb N] [--repeats N] [--updates N] [--params N]
    python benchmarks/storage.py --large 1024 [--json PATH]

The embedded store is compared with hashing the same bytes alone, Kubo with its own command line, each in the same
run. The round: updates of 10 MB lie on three Kubo nodes; a fourth fetches them ahead, verifies and aggregates them.
With --large nothing but this: a checkpoint of so many MiB goes to Kubo and comes back, each in a fresh process, which
may hold a window of its blocks and not the file.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _report import ROOT, Row, arguments, median_ratio, report, seconds

from chainfl.agents.prefetch import FETCHES_AT_ONCE
from chainfl.encoding.chunk_tree import UpdateCommitment, update_root
from chainfl.encoding.payload import max_update_bytes, write_update
from chainfl.registry.material import TaskScope
from chainfl.registry.replay import accepted_updates, replay_round
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.kubo import KuboStore
from chainfl.tasks.cids import cid_on_chain, cid_text
from chainfl.tasks.spec import default_format
from chainfl.tasks.state import RevealedUpdate, TalliedUpdate
from chainfl.types import Address, Cid, Root, TaskId

sys.path.insert(0, str(ROOT / "tests" / "integration"))
from kubo import KuboDaemon, private_swarm  # type: ignore[import-not-found]  # the tests' real daemons

PEERS = 3
BASE_ROOT = Root(bytes(32))
PIECE_BYTES = 1 << 20
MIB = 1 << 20
LARGE_MB = 50
"""What streaming may take, whatever the size: the window of blocks, and what the HTTP client holds of each."""


# --- one file ------------------------------------------------------------------------------------


def embedded_rows(folder: Path, num_bytes: int, repeats: int) -> list[Row]:
    source, target, store = folder / "source", folder / "target", EmbeddedStore(folder / "store")
    source.write_bytes(secrets.token_bytes(num_bytes))

    def hash_alone() -> None:
        with source.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    def add() -> Cid:
        return store.put_file(source)

    cid = add()
    reference = f"hashing the same {num_bytes // MIB} MiB file alone"
    return [
        Row(
            "embedded store: add, durably",
            1 / median_ratio(add, hash_alone, repeats),
            "x its speed",
            reference,
            0.5,
            "higher",
        ),
        Row(
            "embedded store: read back into a file, verified and durable",
            1 / median_ratio(lambda: store.get_file(cid, target, max_bytes=num_bytes), hash_alone, repeats),
            "x its speed",
            reference,
            0.5,
            "higher",
        ),
    ]


def peak_of_embedded(folder: Path) -> None:
    """Prints by how much adding and reading back raise a fresh process's high-water mark, in bytes."""
    source, store = folder / "source", EmbeddedStore(folder / "peak")
    with _peak():
        cid = store.put_file(source)
        store.get_file(cid, folder / "back", max_bytes=source.stat().st_size)


def kubo_rows(folder: Path, daemon: Any, num_bytes: int, repeats: int) -> list[Row]:
    """New content each time: a daemon that has it already adds it in no time."""
    store, source = KuboStore(daemon.api), folder / "new"

    def ours() -> None:
        store.put_file(source)

    def theirs() -> None:
        daemon.ipfs("add", "--quieter", "--pin=true", str(source))

    ratios = []
    for _ in range(repeats):
        spent = []
        for add in (ours, theirs):
            source.write_bytes(secrets.token_bytes(num_bytes))
            spent.append(seconds(add))
        ratios.append(spent[0] / spent[1])
    what = f"Kubo: add {num_bytes // MIB} MiB through chainfl, its CID computed here as well"
    return [Row(what, statistics.median(ratios), "x", "`ipfs add` of as much, same daemon", 1.15)]


# --- a large file --------------------------------------------------------------------------------


def add_large(api: str, source: str) -> None:
    """In a fresh process: prints the CID, seconds, and bytes beyond the start."""
    store = KuboStore(api)
    with _peak():
        started = time.perf_counter()
        cid = store.put_file(Path(source))
        spent = time.perf_counter() - started
    print(json.dumps({"cid": cid, "seconds": spent}))


def get_large(api: str, cid: str, target: str) -> None:
    """In a fresh process: prints seconds, and bytes beyond the start."""
    store = KuboStore(api)
    with _peak():
        started = time.perf_counter()
        store.get_file(Cid(cid), Path(target), max_bytes=1 << 40)
        spent = time.perf_counter() - started
    print(json.dumps({"seconds": spent}))


def large_rows(folder: Path, mib: int) -> list[Row]:
    source, target = folder / "source", folder / "target"
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(secrets.token_bytes(MIB))
    with KuboDaemon(_binary()) as daemon:
        added = _measured("--add-large", daemon.api, str(source))
        read = _measured("--get-large", daemon.api, added["cid"], str(target))
    if not filecmp.cmp(source, target, shallow=False):
        raise SystemExit("what came back is another file")
    rows = []
    for doing, done in (("added to Kubo", added), ("read back, verified", read)):
        rows.append(Row(f"a file of {mib} MiB {doing}: peak memory", done["peak"] / 1e6, "MB", None, LARGE_MB))
        rows.append(Row("  rate", mib * MIB / 1e6 / done["seconds"], "MB/s"))
    return rows


# --- a round -------------------------------------------------------------------------------------


def scope(num_params: int) -> TaskScope:
    return TaskScope(31337, Address("0x" + "22" * 20), TaskId(1), default_format(num_params), bytes(32))


def publish_updates(folder: Path, nodes: Sequence[Any], num_params: int, count: int) -> list[dict[str, Any]]:
    """Puts each update on one of the nodes in turn. returns: what the chain would know of each."""
    stores, of_task = [KuboStore(node.api) for node in nodes], scope(num_params)
    known = []
    for at in range(count):
        worker = Address(f"0x{at + 1:040x}")
        values = np.random.default_rng(at).integers(-2000, 2000, num_params, np.int16)
        path = folder / "update"
        with path.open("wb") as file:
            write_update(file, values, of_task.update_metadata(1, worker, BASE_ROOT))
        commitment = update_root(values, of_task.format.chunk_params)
        cid = stores[at % len(stores)].put_file(path)
        known.append(
            {"worker": worker, "root": commitment.root.hex(), "sum": commitment.sum_of_squares, "cid": str(cid)}
        )
    return known


def aggregate(api: str, known: Sequence[dict[str, Any]], num_params: int) -> None:
    """An aggregator's round, in a fresh process: prints seconds, bytes beyond the start, and the root."""
    of_task, store = scope(num_params), KuboStore(api)
    commitments = [UpdateCommitment(Root(bytes.fromhex(one["root"])), one["sum"]) for one in known]
    revealed = [
        RevealedUpdate(Address(one["worker"]), c.root, cid_on_chain(Cid(one["cid"])), c.sum_of_squares, 1)
        for one, c in zip(known, commitments, strict=True)
    ]
    tallied = [TalliedUpdate(update.worker, update.root, 10_000, 1) for update in revealed]
    model = np.zeros(num_params, np.int32)
    started = time.perf_counter()
    with _peak():
        with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:  # as an agent does while it waits for Aggregate
            limit = max_update_bytes(num_params)
            list(pool.map(partial(store.prefetch, max_bytes=limit), [cid_text(update.cid) for update in revealed]))
        fetched = time.perf_counter()
        replayed = replay_round(
            model, accepted_updates(store, of_task, 1, BASE_ROOT, revealed, tallied), of_task.format
        )
    done = time.perf_counter()
    print(json.dumps({"fetch": fetched - started, "aggregate": done - fetched, "root": replayed.root.hex()}))


def round_rows(folder: Path, num_params: int, count: int) -> list[Row]:
    """Each size of round with a node of its own that has fetched nothing yet."""
    counts = sorted({max(1, count // 4), max(1, count // 2), count})
    # Without providing to a routing system nodes ask those they are connected to, as in the tests.
    with private_swarm(PEERS + len(counts)) as nodes:
        known = publish_updates(folder, nodes[:PEERS], num_params, count)
        rounds = [
            _measured("--aggregate-at", node.api, known[:some], num_params)
            for node, some in zip(nodes[PEERS:], counts, strict=True)
        ]
    of_each = f"{max_update_bytes(num_params) // 10**6} MB"
    whole, least = rounds[-1], rounds[0]
    mbps = count * 2 * num_params / 1e6 / whole["fetch"]
    growth = whole["peak"] / least["peak"]
    return [
        Row(f"a round of {count} updates of {of_each}: fetched from {PEERS} peers in parallel, verified", mbps, "MB/s"),
        Row("  the same", whole["fetch"], "s"),
        Row("  then read from the own node, verified against their roots, aggregated", whole["aggregate"], "s"),
        *[
            Row(f"  peak memory with {some} updates", one["peak"] / 1e6, "MB")
            for some, one in zip(counts, rounds, strict=True)
        ],
        Row(f"  peak with {count} updates to the peak with {counts[0]}", growth, "x", "flat in the number", 1.1),
    ]


def _measured(flag: str, *inputs: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, flag, json.dumps(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    merged: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        merged |= json.loads(line)
    return merged


# --- memory --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _peak() -> Iterator[None]:
    """Prints how far the block raises this process's high-water mark, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts from here
    before = _status_bytes("VmRSS")
    yield
    print(json.dumps({"peak": _status_bytes("VmHWM") - before}))


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def rows_of(options: Any, folder: Path) -> list[Row]:
    num_bytes = options.mb * MIB
    rows = embedded_rows(folder, num_bytes, options.repeats)
    if sys.platform == "linux":
        peak_mb = _measured("--embedded-in", str(folder))["peak"] / 1e6
        rows.append(Row("embedded store: peak memory of adding and reading back", peak_mb, "MB", None, 50))
    with KuboDaemon(_binary()) as daemon:
        rows += kubo_rows(folder, daemon, num_bytes, options.repeats)
    return rows + round_rows(folder, options.params, options.updates)


def _binary() -> Path:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "build_kubo.sh")], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.strip())


INTERNAL: dict[str, Callable[..., None]] = {
    "--add-large": add_large,
    "--get-large": get_large,
    "--aggregate-at": aggregate,
    "--embedded-in": lambda folder: peak_of_embedded(Path(folder)),
}


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in INTERNAL:  # a fresh process of this benchmark itself
        INTERNAL[sys.argv[1]](*json.loads(sys.argv[2]))
        return
    options = arguments(
        __doc__ or "",
        mb=(100, "size of the file, in MiB"),
        repeats=(5, "repeats"),
        updates=(32, "updates of the round"),
        params=(5_000_000, "parameters of an update"),
        large=(0, "MiB of a file to stream to Kubo and back, in place of all else"),
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = large_rows(Path(folder), options.large) if options.large else rows_of(options, Path(folder))
    report("storage", [replace(row, value=round(row.value, 3)) for row in rows], options.json, ["ipfshttpclient"])


if __name__ == "__main__":
    main()
