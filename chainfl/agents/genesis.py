"""The server's state that a task starts from: zeros, whatever the requester says."""

from __future__ import annotations

from chainfl.encoding.chunk_tree import zero_state_root
from chainfl.errors import SpecificationMismatch
from chainfl.tasks.rules import deepest_of
from chainfl.tasks.spec import TaskSpec

MAX_DEPTH = 24
"""A tree of so many levels takes some seconds; nobody can make an agent hash for hours."""


def check_genesis_state(spec: TaskSpec) -> None:
    """Raises SpecificationMismatch when the task does not start from a state of zeros.

    The contract cannot check it. Of another state nobody need have the bytes, and every aggregate could be disputed.
    """
    if not spec.format.has_state:
        return
    if deepest_of(spec.format) > MAX_DEPTH:
        raise SpecificationMismatch(f"a state of {spec.format.state_params:,} values is too large to be checked")
    expected = zero_state_root(spec.format).hex()
    if spec.genesis.state_root != expected:
        raise SpecificationMismatch(
            f"genesis.state_root is {spec.genesis.state_root}, a state of zeros has {expected}",
            seen=spec.genesis.state_root,
            expected=expected,
        )
