"""Is this what the worker committed to? What a validator or an aggregator checks of an update it fetched. No torch."""

from __future__ import annotations

from typing import BinaryIO

from chainfl.encoding.arrays import Int16Array
from chainfl.encoding.chunk_tree import UpdateCommitment, check_update_root
from chainfl.encoding.payload import UpdateMetadata, read_update
from chainfl.errors import PayloadError, ValueOutOfRange
from chainfl.types import PLAIN, Compression


def verify_update(
    payload: bytes | BinaryIO,
    *,
    num_params: int,
    chunk_params: int,
    binding: UpdateMetadata,
    commitment: UpdateCommitment,
    compression: Compression = PLAIN,
    in_range: bool = True,
    rooted: bool = True,
) -> Int16Array:
    """The values of a fetched update after every check. returns: (P,) int16.

    In this order: length, header, form, type, shape, binding (task, round, worker, base model, chain), range, and then
    the root and the sum that were revealed on chain. Integers are finite by their type. Each failure is an error of
    its own below PayloadError. in_range, rooted: False leaves the range, or the root and the sum, to the caller.
    """
    values = read_update(payload, num_params=num_params, expected=binding, in_range=in_range, compression=compression)
    if rooted:
        check_update_root(values, chunk_params, commitment)
    return values


def is_rejection(error: PayloadError) -> bool:
    """Whether a failed check is a reason to vote 0 rather than to abstain.

    Bytes that are not the committed vector count as not delivered, so a validator abstains; a value out of range is
    the worker's own doing, and a dispute can prove it.
    """
    return isinstance(error, ValueOutOfRange)
