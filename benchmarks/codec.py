"""How long a 10M-parameter update takes from float32 to root, CID and written payload, and back.

    python benchmarks/codec.py [--json PATH] [--params N] [--repeats N]

Each step is given as a multiple of hashing the same int16 bytes once with hashlib, measured in the same run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from _report import Row, arguments, median_ratio, median_seconds, report

from chainfl.aggregation.mean import WeightedMean
from chainfl.aggregation.server_step import ServerStep
from chainfl.encoding.arrays import Float32Array
from chainfl.encoding.chunk_tree import (
    DEFAULT_CHUNK_PARAMS,
    UpdateCommitment,
    VectorKind,
    model_root,
    open_chunk,
    update_root,
)
from chainfl.encoding.fixed_point import QuantizedUpdate, dequantize_model, quantize_model, quantize_update
from chainfl.encoding.payload import UpdateMetadata, read_update, write_update
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.unixfs import CidBuilder
from chainfl.types import Address, Cid, Root, TaskId

MODEL_SCALE_BITS, UPDATE_SCALE_BITS = 20, 14
BINDING = UpdateMetadata(
    task_id=TaskId(1),
    round=1,
    worker=Address("0x" + "11" * 20),
    base_model_root=Root(bytes(32)),
    chain_id=31337,
    coordinator=Address("0x" + "22" * 20),
)


class HashingFile:
    """A file that builds the CID of what is written to it, so that the payload is walked once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.cid = file, CidBuilder()

    def write(self, data: bytes | memoryview) -> int:
        self.cid.update(data)
        return self._file.write(data)


def encode(
    delta: Float32Array, residual: Float32Array | None, path: Path
) -> tuple[QuantizedUpdate, UpdateCommitment, Cid]:
    """The whole way of a worker's update, error feedback included, in one thread."""
    update = quantize_update(delta, UPDATE_SCALE_BITS, residual)
    commitment = update_root(update.values, DEFAULT_CHUNK_PARAMS)
    with path.open("wb") as file:
        target = HashingFile(file)
        write_update(cast(BinaryIO, target), update.values, BINDING)
    return update, commitment, target.cid.finish()


def sample(num_params: int) -> tuple[Float32Array, Float32Array]:
    """A delta of the size that training gives, and the residual of an earlier update."""
    rng = np.random.default_rng(1)
    delta = rng.standard_normal(num_params, np.float32) * np.float32(0.02)
    return delta, (rng.random(num_params, np.float32) - np.float32(0.5)) * np.float32(2.0**-UPDATE_SCALE_BITS)


def timings(num_params: int, repeats: int, folder: Path) -> list[Row]:
    delta, residual = sample(num_params)
    path = folder / "update.safetensors"
    update, _, _ = encode(delta, residual, path)
    values = update.values
    reference = f"hashing its {values.nbytes / 1e6:g} MB once"
    model = quantize_model(delta, MODEL_SCALE_BITS).values
    mean = WeightedMean(num_params, MODEL_SCALE_BITS, UPDATE_SCALE_BITS)
    mean.add(values, 10_000)
    store = EmbeddedStore(folder / "store")

    def hash_once() -> bytes:
        return hashlib.sha256(values.data).digest()

    def write() -> None:
        with path.open("wb") as file:
            write_update(file, values, BINDING)

    def read() -> None:
        with path.open("rb") as file:
            read_update(file, num_params=num_params, expected=BINDING)

    def cid() -> None:
        builder = CidBuilder()
        builder.update(values.data)
        builder.finish()

    chunk = DEFAULT_CHUNK_PARAMS
    steps: list[tuple[str, Callable[[], object], float | None]] = [
        (
            "float32 to root, CID and written payload, error feedback included",
            lambda: encode(delta, residual, path),
            12,
        ),
        ("quantize an update, with error feedback", lambda: quantize_update(delta, UPDATE_SCALE_BITS, residual), None),
        ("chunk tree of an update", lambda: update_root(values, chunk), None),
        ("CID", cid, None),
        ("write a payload", write, None),
        ("read a payload", read, None),
        ("put the payload into the embedded store, durably (fsync)", lambda: store.put_file(path), None),
        ("open one chunk of an update", lambda: open_chunk(values, 1, chunk, VectorKind.UPDATE), None),
        ("quantize a model", lambda: quantize_model(delta, MODEL_SCALE_BITS), None),
        ("dequantize a model", lambda: dequantize_model(model, MODEL_SCALE_BITS), None),
        ("chunk tree of a model", lambda: model_root(model, chunk), None),
        ("add an update to the weighted mean", lambda: mean.add(values, 10_000), None),
        ("apply the server step", lambda: mean.apply(model, ServerStep(1, 1)), None),
    ]
    rows = [Row("hash the int16 bytes once", round(median_seconds(hash_once, repeats) * 1e3, 2), "ms")]
    for what, run, target in steps:
        rows.append(Row(what, round(median_ratio(run, hash_once, repeats), 2), "x", reference, target))
    return rows


def peak_bytes(num_params: int) -> int:
    """How far `encode` raises the high-water mark of a fresh process, beyond its inputs and the residual it keeps."""
    command = [sys.executable, __file__, "--peak-of", str(num_params)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(num_params: int) -> None:
    delta, residual = sample(num_params)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update.safetensors"
        encode(delta[:100_000], residual[:100_000], path)  # what is loaded and allocated once does not count
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
        before = _status_bytes("VmRSS")
        update, _, _ = encode(delta, residual, path)
        print(_status_bytes("VmHWM") - before - update.residual.nbytes)


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    options: Any = arguments(
        __doc__ or "", params=(10_000_000, "parameters of the update"), repeats=(9, "repeats"), peak_of=(0, "internal")
    )
    if options.peak_of:
        print_peak(options.peak_of)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = timings(options.params, options.repeats, Path(folder))
    vector_mb = options.params * 4 / 1e6
    if sys.platform == "linux":
        reference = "the float32 vector"
        peak_mb = round(peak_bytes(options.params) / 1e6, 1)
        rows.append(Row("peak memory beyond input and kept residual", peak_mb, "MB", reference, vector_mb))
    report("codec, one thread", rows, options.json, ["numpy", "safetensors"])


if __name__ == "__main__":
    main()
