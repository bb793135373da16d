"""What a selection rule is, and what is asked of its parameters."""

from __future__ import annotations

import math
from typing import Protocol

from chainfl.errors import SpecificationError
from chainfl.validation.selection.candidates import Candidates, Mixing


class SelectionRule(Protocol):
    """From candidates to weights."""

    @property
    def needs_root_update(self) -> bool:
        """Whether it looks at the validator's own data. If not, all validators with the same updates agree."""
        ...

    def weigh(self, candidates: Candidates) -> list[int]:
        """A weight from 0 to 10,000 for each of at least one candidate, in order. Nothing is modified."""
        ...


class Mixer(Protocol):
    """Makes new candidates out of the updates, for a rule to look at."""

    def mix(self, candidates: Candidates, seed: bytes) -> Mixing:
        """seed: the same for all validators, known to nobody before the round's updates were committed."""
        ...


class UpdatesOnly:
    """Rules that look at nothing but updates and models, so that validators agree bit for bit."""

    __slots__ = ()

    @property
    def needs_root_update(self) -> bool:
        """Never."""
        return False


class WithRootData:
    """Rules that compare with the validator's own update, so that each validator has weights of its own."""

    __slots__ = ()

    @property
    def needs_root_update(self) -> bool:
        """Always."""
        return True


def require_count(name: str, value: int, *, least: int) -> None:
    """Raises SpecificationError unless the parameter is an integer of at least `least`."""
    if value < least:
        raise SpecificationError(f"validation.{name} is {value}, it must be at least {least}", name=name)


def require_positive(name: str, value: float) -> None:
    """Raises SpecificationError unless the parameter is above zero and finite."""
    if not 0 < value < math.inf:
        raise SpecificationError(f"validation.{name} is {value}, it must be above zero", name=name)
