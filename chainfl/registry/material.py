"""Fetching what a round is made of: models and updates by CID, checked against the roots on chain. No torch."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from chainfl.encoding.arrays import Int16Array, Int32Array
from chainfl.encoding.chunk_tree import (
    UpdateCommitment,
    VectorKind,
    check_model_root,
    check_root,
    check_update_root,
    vector_root,
)
from chainfl.encoding.payload import (
    Checkpoint,
    ModelMetadata,
    UpdateMetadata,
    max_model_bytes,
    max_update_bytes,
    open_update,
    read_checkpoint,
)
from chainfl.encoding.sources import FileSource
from chainfl.scratch import scratch_folder
from chainfl.storage.port import BlobStore
from chainfl.tasks.cids import cid_text
from chainfl.tasks.spec import MAX_SPEC_BYTES, TaskSpec, parse, spec_cid
from chainfl.tasks.state import CidOnChain, Format, RevealedUpdate, TaskView
from chainfl.types import PLAIN, Address, Compression, Root, TaskId
from chainfl.validation.checks import verify_update


@dataclass(frozen=True, slots=True)
class TaskScope:
    """What every payload of a task is bound to, and the form that its updates have."""

    chain_id: int
    coordinator: Address
    task_id: TaskId
    format: Format
    layout_hash: bytes
    compression: Compression = PLAIN

    def update_metadata(self, round_number: int, worker: Address, base_root: Root) -> UpdateMetadata:
        """The binding of one worker's update of one round."""
        return UpdateMetadata(self.task_id, round_number, worker, base_root, self.chain_id, self.coordinator)

    def model_metadata(self) -> ModelMetadata:
        """The metadata of the task's models."""
        return ModelMetadata(self.layout_hash, self.format.model_scale_bits)


def fetch_spec(store: BlobStore, task: TaskView) -> TaskSpec:
    """The specification of a task, by its hash, compared with all that the chain holds.

    Raises BlobNotFound, SpecificationMismatch, SpecificationError.
    """
    spec = parse(store.get_bytes(spec_cid(task.spec_hash), max_bytes=MAX_SPEC_BYTES), task.spec_hash)
    spec.check_against(task)
    return spec


def fetch_model(store: BlobStore, scope: TaskScope, root: Root, cid: CidOnChain) -> Int32Array:
    """A global model. returns: (P,) int32 that hashes to `root`. Raises StorageError or PayloadError.

    The state that a server keeps in the same file is not looked at: see `fetch_checkpoint`.
    """
    return _fetch(store, scope, root, cid).model


def fetch_checkpoint(store: BlobStore, scope: TaskScope, root: Root, state_root: Root, cid: CidOnChain) -> Checkpoint:
    """A global model and the server's state next to it, None where it keeps none; each hashes to its root.

    state_root: zeros without a state. Raises StorageError or PayloadError.
    """
    found = _fetch(store, scope, root, cid)
    if found.state is not None:
        check_root(vector_root(found.state, scope.format.chunk_params, VectorKind.STATE), state_root)
    return found


def _fetch(store: BlobStore, scope: TaskScope, root: Root, cid: CidOnChain) -> Checkpoint:
    num_params, state_params = scope.format.num_params, scope.format.state_params
    data = store.get_bytes(cid_text(cid), max_bytes=max_model_bytes(num_params, state_params))
    found = read_checkpoint(data, num_params=num_params, state_params=state_params, expected=scope.model_metadata())
    check_model_root(found.model, scope.format.chunk_params, root)
    return found


def fetch_update(
    store: BlobStore,
    scope: TaskScope,
    round_number: int,
    base_root: Root,
    revealed: RevealedUpdate,
    *,
    in_range: bool = True,
    rooted: bool = True,
) -> Int16Array:
    """One revealed update after every check. returns: (P,) int16.

    in_range: False lets a value of -32768 pass, for whoever wants to prove it to the contract, or counts what was
    accepted with it; rooted: False also what does not hash to the revealed root, for whoever looks for the lie in its
    tree. Raises StorageError or PayloadError.
    """
    num_params = scope.format.num_params
    return verify_update(
        store.get_bytes(cid_text(revealed.cid), max_bytes=max_update_bytes(num_params, scope.compression)),
        num_params=num_params,
        compression=scope.compression,
        chunk_params=scope.format.chunk_params,
        binding=scope.update_metadata(round_number, revealed.worker, base_root),
        commitment=UpdateCommitment(revealed.root, revealed.squared_norm),
        in_range=in_range,
        rooted=rooted,
    )


def spool_update(
    store: BlobStore,
    scope: TaskScope,
    round_number: int,
    base_root: Root,
    revealed: RevealedUpdate,
    *,
    in_range: bool = True,
    rooted: bool = True,
) -> FileSource:
    """The same as a file of no name, read in blocks: nothing of it stays in memory, and it vanishes with the result."""
    num_params = scope.format.num_params
    binding = scope.update_metadata(round_number, revealed.worker, base_root)
    with ExitStack() as on_failure, scratch_folder() as folder:
        path = folder / "update"
        store.get_file(cid_text(revealed.cid), path, max_bytes=max_update_bytes(num_params, scope.compression))
        file = on_failure.enter_context(path.open("rb"))
        source = open_update(
            file, num_params=num_params, expected=binding, in_range=in_range, compression=scope.compression
        )
        if rooted:
            check_update_root(source, scope.format.chunk_params, UpdateCommitment(revealed.root, revealed.squared_norm))
        if source.file is file:
            on_failure.pop_all()
    return source
