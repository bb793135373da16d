"""A sceptic's look at one round: recomputed from public data, with what would dispute each thing found wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chainfl.agents.evidence import Evidence
from chainfl.agents.watching import Bytes, UpdateFinding
from chainfl.tasks.state import Claim, PostedAggregate, RoundView, Target


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. dispute: the transaction that would dispute it, with the proof that it takes."""

    what: str
    is_right: bool
    detail: str = ""
    dispute: str = ""
    proof: bytes | None = None


def audit_round(evidence: Evidence, view: RoundView, posted: PostedAggregate | None) -> Iterator[Check]:
    """The checks of a round, in the order of its data path. view: as the round was opened, and its numbers.

    posted: the aggregate that stands, None before there is one. Raises what fetching the round's own model raises.
    """
    evidence.enter(view)
    for found in evidence.check_updates(view):
        yield _of_update(view, found)
    if posted is None:
        return
    missing = evidence.recompute(view)
    if missing:
        names = ", ".join(str(index) for index in sorted(missing))
        yield Check("aggregate", False, f"cannot be recomputed without the updates of workers {names}")
        return
    expected = evidence.expected
    assert expected is not None, "nothing is missing"
    yield from _of_claim(expected, posted, view, evidence)


def _of_update(view: RoundView, found: UpdateFinding) -> Check:
    what = f"update of worker {found.index}"
    if found.state is Bytes.SOUND:
        return Check(what, True, "its bytes have its root, its sum of squares, and no value out of range")
    if found.proof is not None:
        call = f"proveUpdate(round {view.round}, proof of {len(found.proof):,} bytes), after commitProof"
        return Check(what, False, found.why, call, found.proof)
    call = f"demandChunk(round {view.round}, worker {found.index}, chunk {found.suspect})"
    return Check(what, False, found.why, call)


def _of_claim(expected: Claim, posted: PostedAggregate, view: RoundView, evidence: Evidence) -> Iterator[Check]:
    finding = evidence.judge(posted)
    pairs = [("model", expected.model_root, posted.claim.model_root)]
    if any(expected.state_root):
        pairs.append(("server state", expected.state_root, posted.claim.state_root))
    pairs += [
        (f"sum of group {group}", own, claimed)
        for group, (own, claimed) in enumerate(zip(expected.group_roots, posted.claim.group_roots, strict=True))
    ]
    attempt = f"round {view.round}, attempt {posted.attempt}"
    for name, own, claimed in pairs:
        if own == claimed:
            yield Check(name, True, f"root {claimed.hex()}")
            continue
        detail = f"posted {claimed.hex()}, computed {own.hex()}"
        if finding.proof is not None:
            call = f"proveAggregate({attempt}, proof of {len(finding.proof):,} bytes), after commitChallenge"
            yield Check(name, False, detail, call, finding.proof)
        elif finding.withheld is not None:
            target, group, _ = finding.withheld
            where = f"group {group}" if target is Target.GROUP else target.name.lower()
            yield Check(name, False, detail, f"openGame({attempt}, {where}, own root {own.hex()})")
