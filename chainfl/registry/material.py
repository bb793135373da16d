"""Fetching what a round is made of: models and updates by CID, checked against the roots on chain. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from chainfl.encoding.arrays import Int16Array, Int32Array
from chainfl.encoding.chunk_tree import UpdateCommitment, check_model_root
from chainfl.encoding.payload import ModelMetadata, UpdateMetadata, max_model_bytes, max_update_bytes, read_model
from chainfl.storage.port import BlobStore
from chainfl.tasks.cids import cid_text
from chainfl.tasks.spec import MAX_SPEC_BYTES, TaskSpec, parse, spec_cid
from chainfl.tasks.state import CidOnChain, Format, RevealedUpdate, TaskView
from chainfl.types import Address, Root, TaskId
from chainfl.validation.checks import verify_update


@dataclass(frozen=True, slots=True)
class TaskScope:
    """What every payload of a task is bound to."""

    chain_id: int
    coordinator: Address
    task_id: TaskId
    format: Format
    layout_hash: bytes

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
    """A global model. returns: (P,) int32 that hashes to `root`. Raises StorageError or PayloadError."""
    num_params = scope.format.num_params
    data = store.get_bytes(cid_text(cid), max_bytes=max_model_bytes(num_params))
    model = read_model(data, num_params=num_params, expected=scope.model_metadata())
    check_model_root(model, scope.format.chunk_params, root)
    return model


def fetch_update(
    store: BlobStore, scope: TaskScope, round_number: int, base_root: Root, revealed: RevealedUpdate
) -> Int16Array:
    """One revealed update after every check. returns: (P,) int16. Raises StorageError or PayloadError."""
    num_params = scope.format.num_params
    return verify_update(
        store.get_bytes(cid_text(revealed.cid), max_bytes=max_update_bytes(num_params)),
        num_params=num_params,
        chunk_params=scope.format.chunk_params,
        binding=scope.update_metadata(round_number, revealed.worker, base_root),
        commitment=UpdateCommitment(revealed.root, revealed.squared_norm),
    )
