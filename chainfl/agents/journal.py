"""What an agent must not lose: small files, each written whole before anything is sent that depends on it.

"Have I committed?" is the chain's to answer. The journal keeps what the chain cannot give back: the encoded update
before its upload, a salt before its commit, votes, the error-feedback residual, and what the local algorithm keeps
between its rounds. A file appears whole or not at
all (write, fsync, rename, fsync of the folder), so a process that is killed at any point finds either the state
before or the state after.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from chainfl.errors import JournalDamaged, StorageError, StoreFull, StoreReadOnly, UsageError
from chainfl.tasks.state import ZERO_ROOT, Claim
from chainfl.training.settings import NO_MEMORY, Memory
from chainfl.types import Cid, Root, TaskId

_RESIDUAL = "residual.f32"
_MEMORY = "memory.safetensors"
_BINARY = frozenset({"base_root", "root", "salt", "state_root", "votes"})


@dataclass(frozen=True, slots=True)
class PreparedUpdate:
    """A worker's update of one round, encoded and ready to be committed and revealed."""

    round: int
    opened_block: int
    base_root: Root
    root: Root
    cid: Cid
    squared_norm: int
    num_examples: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class PreparedScores:
    """A validator's votes of one round, packed as they are revealed."""

    round: int
    base_root: Root
    votes: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class PreparedAggregate:
    """An aggregator's result of one attempt. root, state_root, group_roots: what it claims.

    committed_block: of its commit in the open window, 0 before it.
    """

    round: int
    attempt: int
    base_root: Root
    root: Root
    cid: Cid
    float_cid: Cid
    salt: bytes
    committed_block: int
    state_root: Root = ZERO_ROOT
    group_roots: tuple[Root, ...] = ()

    @property
    def claim(self) -> Claim:
        """What is committed and posted."""
        return Claim(self.root, self.state_root, self.group_roots)


class Journal:
    """A folder of one agent in one task. Raises UsageError if another process uses it.

    Raises StoreFull or StoreReadOnly when it cannot be written, JournalDamaged when a file is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another process already runs this agent ({folder})", path=str(folder)) from error

    def close(self) -> None:
        """Lets another process use the folder."""
        self._lock.close()

    # --- a worker's rounds ----------------------------------------------------------------------

    def save_update(
        self, update: PreparedUpdate, payload: bytes, residual: NDArray[np.float32], kept: Memory = NO_MEMORY
    ) -> None:
        """Keeps an update. The record is written last: without it the rest does not count.

        kept: what the local algorithm needs once the round is over.
        """
        self._write(f"update-{update.round}.safetensors", payload)
        self._write(f"residual-{update.round}.f32", residual.astype("<f4", copy=False).tobytes())
        if kept:
            self._write(f"memory-{update.round}.safetensors", safetensors.numpy.save(dict(kept)))
        self._write_record(f"update-{update.round}.json", _fields(update))

    def update(self, round_number: int) -> PreparedUpdate | None:
        """The update kept for the round."""
        record = self._read_record(f"update-{round_number}.json")
        return None if record is None else _parsed(PreparedUpdate, record, self.folder)

    def update_payload(self, round_number: int) -> Path:
        """Where the bytes of that update are."""
        return self.folder / f"update-{round_number}.safetensors"

    def mark_published(self, round_number: int) -> None:
        """Remembers that the bytes are where others find them."""
        self._write(f"published-{round_number}", b"")

    def is_published(self, round_number: int) -> bool:
        """Whether they are, as far as is known."""
        return (self.folder / f"published-{round_number}").exists()

    def unresolved_updates(self, before: int) -> list[PreparedUpdate]:
        """Updates of earlier rounds whose residual waits for the round's outcome, oldest first."""
        numbers = sorted(int(path.stem.removeprefix("update-")) for path in self.folder.glob("update-*.json"))
        kept = (self.update(number) for number in numbers if number < before)
        return [update for update in kept if update is not None]

    def resolve_update(self, round_number: int, *, counted: bool, memory: Memory = NO_MEMORY) -> None:
        """Ends a round: its residual replaces the one before if the update counted, and is dropped if it did not.

        memory: replaces what the local algorithm kept, if it is given. It follows from what was saved with the update
        and from nothing current, so that a second call after a kill writes the same again.
        """
        pending = self.folder / f"residual-{round_number}.f32"
        if counted and memory:
            self._write(_MEMORY, safetensors.numpy.save(dict(memory)))
        with _translated(self.folder):
            if counted and pending.exists():
                # Before the record goes: killed in between, the next start resolves again and finds it moved.
                pending.replace(self.folder / _RESIDUAL)
            _sync(self.folder)
            marker = self.folder / f"published-{round_number}"
            record = self.folder / f"update-{round_number}.json"
            kept = self.folder / f"memory-{round_number}.safetensors"
            for leftover in (record, pending, kept, self.update_payload(round_number), marker):
                leftover.unlink(missing_ok=True)

    def memory(self, num_params: int) -> Memory:
        """What the local algorithm kept of the rounds that counted; empty before the first. Raises JournalDamaged."""
        return self._read_memory(_MEMORY, num_params)

    def kept_with(self, round_number: int, num_params: int) -> Memory:
        """What was kept with the round's update; empty if nothing was. Raises JournalDamaged."""
        return self._read_memory(f"memory-{round_number}.safetensors", num_params)

    def residual(self, num_params: int) -> NDArray[np.float32] | None:
        """What the last update that counted lost; None before the first. Raises JournalDamaged for another length."""
        data = self._read(_RESIDUAL)
        if data is None:
            return None
        if len(data) != 4 * num_params:
            raise JournalDamaged(f"{_RESIDUAL} has {len(data)} bytes", path=str(self.folder / _RESIDUAL))
        return np.frombuffer(data, "<f4").astype(np.float32)

    # --- a validator's rounds -------------------------------------------------------------------

    def save_scores(self, scores: PreparedScores) -> None:
        """Keeps a validator's votes and salt."""
        self._write_record(f"scores-{scores.round}.json", _fields(scores))

    def scores(self, round_number: int) -> PreparedScores | None:
        """The votes kept for the round."""
        record = self._read_record(f"scores-{round_number}.json")
        return None if record is None else _parsed(PreparedScores, record, self.folder)

    # --- an aggregator's rounds -----------------------------------------------------------------

    def save_aggregate(self, aggregate: PreparedAggregate) -> None:
        """Keeps an aggregate whose bytes are published already."""
        self._write_record(f"aggregate-{aggregate.round}-{aggregate.attempt}.json", _fields(aggregate))

    def aggregate(self, round_number: int, attempt: int) -> PreparedAggregate | None:
        """The aggregate kept for the attempt."""
        record = self._read_record(f"aggregate-{round_number}-{attempt}.json")
        return None if record is None else _parsed(PreparedAggregate, record, self.folder)

    # --- files ----------------------------------------------------------------------------------

    def keep(self, name: str, data: bytes) -> None:
        """A file of another module's own kind: whole, or not there."""
        self._write(name, data)

    def forget(self, name: str) -> None:
        """Takes such a file away, if it is there."""
        with _translated(self.folder):
            (self.folder / name).unlink(missing_ok=True)

    def _write_record(self, name: str, record: dict[str, Any]) -> None:
        self._write(name, json.dumps(record, sort_keys=True).encode())

    def _read_record(self, name: str) -> dict[str, Any] | None:
        data = self._read(name)
        if data is None:
            return None
        try:
            record = json.loads(data)
        except ValueError as error:
            raise JournalDamaged(f"{name} is not a record", path=str(self.folder / name)) from error
        if not isinstance(record, dict):
            raise JournalDamaged(f"{name} is not a record", path=str(self.folder / name))
        return record

    def _read_memory(self, name: str, num_params: int) -> Memory:
        data = self._read(name)
        if data is None:
            return NO_MEMORY
        try:
            vectors = safetensors.numpy.load(data)
        except SafetensorError as error:
            raise JournalDamaged(f"{name} cannot be read: {error}", path=str(self.folder / name)) from error
        for key, vector in vectors.items():
            if vector.shape != (num_params,) or vector.dtype != np.float32:
                raise JournalDamaged(f"{name}: {key} is {vector.dtype}{vector.shape}", path=str(self.folder / name))
        return vectors

    def _write(self, name: str, data: bytes) -> None:
        target, pending = self.folder / name, self.folder / f".{name}.tmp"
        with _translated(self.folder):
            with pending.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            pending.replace(target)
            _sync(self.folder)

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None


def journal_folder(state_dir: Path, *, chain_id: int, coordinator: str, task_id: int, role: str, account: str) -> Path:
    """One folder for one agent in one task of one deployment, so that no two ever share a salt."""
    folder = deployment_folder(state_dir, chain_id=chain_id, coordinator=coordinator)
    return folder / f"task-{task_id}" / f"{role}-{account.lower()}"


def deployment_folder(state_dir: Path, *, chain_id: int, coordinator: str) -> Path:
    """Where all journals of one deployment are."""
    return state_dir / f"{chain_id}-{coordinator.lower()}"


def journalled_tasks(folder: Path) -> frozenset[TaskId]:
    """The tasks that agents of this machine were in. folder: of one deployment, two above an agent's."""
    numbers = (entry.name.removeprefix("task-") for entry in folder.glob("task-*"))
    return frozenset(TaskId(int(number)) for number in numbers if number.isascii() and number.isdigit())


def _fields(record: PreparedUpdate | PreparedScores | PreparedAggregate) -> dict[str, Any]:
    return {name: _plain(getattr(record, name)) for name in record.__slots__}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _parsed(kind: Any, record: dict[str, Any], folder: Path) -> Any:
    try:
        values = {name: _value(name, record[name]) for name in kind.__slots__}
    except (KeyError, TypeError, ValueError) as error:
        raise JournalDamaged(f"a {kind.__name__} of the journal is damaged", path=str(folder)) from error
    return kind(**values)


def _value(name: str, value: Any) -> Any:
    if name == "group_roots":
        return tuple(bytes.fromhex(root) for root in value)
    return bytes.fromhex(value) if name in _BINARY else value


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no space left for the journal in {folder}", path=str(folder)) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreReadOnly(f"the journal in {folder} cannot be written", path=str(folder)) from error
        raise StorageError(f"the journal in {folder} cannot be written: {error}", path=str(folder)) from error
