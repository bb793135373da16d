"""Which settings of the updates' files go together. Pure: a requester is told before its task exists."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chainfl.tasks.spec import PayloadEntry


def payload_problems(payload: PayloadEntry) -> Iterator[str]:
    """Everything about the payload entry that its types alone do not catch, each as one line."""
    if payload.compression != "topk":
        if payload.keep is not None:
            yield f"payload.keep belongs to topk, not to {payload.compression}"
    elif payload.keep is None:
        yield "payload.keep is missing: the share of values that topk sends, such as 0.01"
    elif not 0 < Decimal(payload.keep) <= 1:
        yield f"payload.keep is {payload.keep}, not above 0 and at most 1"
