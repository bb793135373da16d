"""Near-duplicates among a round's updates: copies of one another, and replays of the last global step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainfl.validation.selection.candidates import Candidates

DUPLICATE_COSINE = 0.99
"""Two updates that are closer are near-duplicates, unless a task says otherwise."""


@dataclass(frozen=True, slots=True)
class Group:
    """Updates that share one score. replays_last_step: the last global step is among them: they bring nothing new."""

    members: tuple[int, ...]
    replays_last_step: bool


def near_duplicates(candidates: Candidates, accepted: Sequence[int], duplicate_cosine: float) -> list[Group]:
    """The accepted candidates in groups of near-duplicates (transitively); most groups have one member.

    accepted: places among the candidates. duplicate_cosine: two are near when their cosine is above it.
    """
    near = candidates.cosines() > duplicate_cosine
    to_last_step = candidates.cosines_with(candidates.last_step)
    remaining, found = list(accepted), []
    while remaining:
        members = [remaining.pop(0)]
        for member in members:  # grows while it is walked
            joining = [other for other in remaining if near[member, other]]
            members += joining
            remaining = [other for other in remaining if other not in joining]
        replayed = to_last_step is not None and any(to_last_step[member] > duplicate_cosine for member in members)
        found.append(Group(tuple(members), bool(replayed)))
    return found
