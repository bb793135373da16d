"""What a validator checks of a fetched update, each failure with its own error."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest

from chainfl.encoding.chunk_tree import UpdateCommitment, update_root
from chainfl.encoding.payload import UpdateMetadata, write_update
from chainfl.errors import (
    PayloadBindingMismatch,
    PayloadDtypeMismatch,
    PayloadError,
    PayloadShapeMismatch,
    PayloadTooLarge,
    PayloadTruncated,
    RootMismatch,
    ValueOutOfRange,
)
from chainfl.types import Address, Root, TaskId
from chainfl.validation.checks import is_rejection, verify_update

CHUNK = 16
VALUES = np.arange(-50, 50, dtype=np.int16)
BINDING = UpdateMetadata(
    task_id=TaskId(1),
    round=2,
    worker=Address("0x" + "11" * 20),
    base_model_root=Root(bytes(32)),
    chain_id=31337,
    coordinator=Address("0x" + "22" * 20),
)
COMMITMENT = update_root(VALUES, CHUNK)


def payload(values: np.ndarray = VALUES, binding: UpdateMetadata = BINDING) -> bytes:
    target = io.BytesIO()
    write_update(target, values, binding)
    return target.getvalue()


def verify(data: bytes, commitment: UpdateCommitment = COMMITMENT) -> np.ndarray:
    return verify_update(data, num_params=len(VALUES), chunk_params=CHUNK, binding=BINDING, commitment=commitment)


def with_header(**changes: object) -> bytes:
    data = payload()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["update"] |= changes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_verify_update__what_was_committed__gives_its_values():
    np.testing.assert_array_equal(verify(payload()), VALUES)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", PayloadTruncated),
        (payload()[:-1], PayloadTruncated),
        (payload() + b"\0", PayloadTooLarge),
        ((10 << 30).to_bytes(8, "little") + b"{}", PayloadTooLarge),
        (with_header(dtype="I32"), PayloadDtypeMismatch),
        (payload(VALUES[:-1]), PayloadShapeMismatch),
        (payload(binding=dataclasses.replace(BINDING, round=3)), PayloadBindingMismatch),
        (payload(binding=dataclasses.replace(BINDING, worker="0x" + "33" * 20)), PayloadBindingMismatch),
        (payload(binding=dataclasses.replace(BINDING, base_model_root=b"\1" * 32)), PayloadBindingMismatch),
        (payload(VALUES[::-1].copy()), RootMismatch),
        (payload()[: -2 * len(VALUES)] + VALUES.tobytes()[:-2] + b"\x00\x80", ValueOutOfRange),
    ],
)
def test_verify_update__something_else__has_its_own_error(data, error):
    with pytest.raises(error) as caught:
        verify(data)
    assert isinstance(caught.value, PayloadError)
    assert is_rejection(caught.value) == (error is ValueOutOfRange)


def test_verify_update__sum_that_is_not_the_updates__is_a_root_mismatch():
    with pytest.raises(RootMismatch):
        verify(payload(), dataclasses.replace(COMMITMENT, sum_of_squares=COMMITMENT.sum_of_squares + 1))
