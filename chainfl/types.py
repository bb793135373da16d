"""Names for the few plain values that cross folders. No behaviour, no third-party import."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, NewType

Address = NewType("Address", str)
"""A checksummed 0x-address."""

TaskId = NewType("TaskId", int)
"""The number of a task in its coordinator, from 1."""

ModelId = NewType("ModelId", bytes)
"""32 bytes that name a model version in the registry."""

Root = NewType("Root", bytes)
"""32 bytes: the domain-separated SHA-256 root of an integer vector (docs/protocol.md, Commitments)."""

Cid = NewType("Cid", str)
"""A CIDv1 in base32 text, as IPFS shows it."""

Wei = NewType("Wei", int)
"""The smallest unit of a token or of the native currency. Money is an integer up to the last line of display."""

Seconds = NewType("Seconds", int)
"""Seconds; a point in time is chain time since the epoch."""

CompressionName = Literal["none", "deflate", "int8", "int4", "topk"]
"""As a specification's `payload.compression` has it."""


@dataclass(frozen=True, slots=True)
class Compression:
    """The form of a task's update payloads. keep: of topk, the share of an update's values that it may have."""

    name: CompressionName = "none"
    keep: Fraction = Fraction(1)


PLAIN: Final = Compression()
