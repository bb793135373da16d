"""Where a round stands, derived from stored facts and the time: the mirror of Phases.sol.

Windows are half-open [start, end): at `end` the next phase has begun. Times are seconds of chain time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chainfl.tasks.state import ZERO_ADDRESS, Economics, Outcome, Phase, RoundView, Windows
from chainfl.types import Address, Wei

MAX_SLOTS = 3
MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Clock:
    """Facts of a round up to its scores."""

    round: int
    commit_end: int
    reveal_end: int
    score_commit_end: int
    score_reveal_end: int
    eligible_workers: int
    eligible_validators: int
    committed: int = 0
    revealed: int = 0
    scores_committed: int = 0
    scores_revealed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Facts of a round from its tally on. A time of 0 has not come yet."""

    aggregate_start: int = 0
    posted_at: int = 0
    num_slots: int = 0
    outcome: Outcome = Outcome.PENDING
    tallied: int = 0
    settled: int = 0


@dataclass(frozen=True, slots=True)
class Docket:
    """What is disputed in a round.

    challenges, games: of the current attempt, that are not over. demands: for updates, neither answered nor closed;
    demand_end: the end of the latest clock among them.
    """

    challenges: int = 0
    games: int = 0
    demands: int = 0
    demand_end: int = 0


def open_round(windows: Windows, number: int, start: int, *, workers: int, validators: int) -> Clock:
    """The clock of a round that opens at `start`. workers, validators: how many are eligible."""
    commit_end = start + windows.commit
    reveal_end = commit_end + windows.reveal
    score_commit_end = reveal_end + windows.score_commit
    score_reveal_end = score_commit_end + windows.score_reveal
    return Clock(number, commit_end, reveal_end, score_commit_end, score_reveal_end, workers, validators)


def after_commit(clock: Clock, windows: Windows, now: int) -> Clock:
    """One more update is committed; the last one begins Reveal at once."""
    counted = replace(clock, committed=clock.committed + 1)
    if counted.committed < counted.eligible_workers:
        return counted
    return _chain_scores(replace(counted, commit_end=now, reveal_end=now + windows.reveal), windows)


def after_reveal(clock: Clock, windows: Windows, now: int) -> Clock:
    """One more update is revealed; the last one begins ScoreCommit at once."""
    counted = replace(clock, revealed=clock.revealed + 1)
    if counted.revealed < counted.committed:
        return counted
    return _chain_scores(replace(counted, reveal_end=now), windows)


def after_score_commit(clock: Clock, windows: Windows, now: int) -> Clock:
    """One more validator has committed; the last one begins ScoreReveal at once."""
    counted = replace(clock, scores_committed=clock.scores_committed + 1)
    if counted.scores_committed < counted.eligible_validators:
        return counted
    return replace(counted, score_commit_end=now, score_reveal_end=now + windows.score_reveal)


def after_score_reveal(clock: Clock, now: int) -> Clock:
    """One more validator has revealed; the last one begins Tally at once."""
    counted = replace(clock, scores_revealed=clock.scores_revealed + 1)
    return replace(counted, score_reveal_end=now) if counted.scores_revealed == counted.scores_committed else counted


def phase_at(clock: Clock, progress: Progress, docket: Docket, windows: Windows, now: int) -> tuple[Phase, int]:
    """The phase of an open round at `now`, and when it ends by itself (0: only an action ends it)."""
    if now < clock.commit_end:
        return Phase.COMMIT, clock.commit_end
    if clock.committed == 0:
        return Phase.SETTLEMENT, 0
    if now < clock.reveal_end:
        return Phase.REVEAL, clock.reveal_end
    if clock.revealed == 0:
        return Phase.SETTLEMENT, 0
    if now < clock.score_commit_end:
        return Phase.SCORE_COMMIT, clock.score_commit_end
    if clock.scores_committed > 0 and now < clock.score_reveal_end:
        return Phase.SCORE_REVEAL, clock.score_reveal_end
    return _after_scores(progress, docket, windows, now)


def outcome_of(clock: Clock, progress: Progress) -> Outcome:
    """How a round in Settlement ended."""
    if progress.outcome is not Outcome.PENDING:
        return progress.outcome
    if clock.revealed == 0:
        return Outcome.NO_UPDATES
    return Outcome.FINAL if progress.posted_at > 0 else Outcome.NO_AGGREGATE


def exclusive_end(aggregate_start: int, num_slots: int, windows: Windows) -> int:
    """End of the exclusive slots; the open window of three slots follows."""
    return aggregate_start + num_slots * windows.slot


def open_end(aggregate_start: int, num_slots: int, windows: Windows) -> int:
    """End of Aggregate."""
    return exclusive_end(aggregate_start, num_slots, windows) + MAX_SLOTS * windows.slot


def slot_holder(view: RoundView, windows: Windows, now: int) -> Address | None:
    """Whose exclusive slot it is at `now`; None in the open window, and in a slot for which nobody had the bond.

    Where it is nobody's, anybody may post what it committed a block before. Only for an order that is drawn.
    """
    if now >= exclusive_end(view.aggregate_start, view.num_slots, windows):
        return None
    holder = view.order[max(0, now - view.aggregate_start) // windows.slot]
    return None if holder == ZERO_ADDRESS else holder


def open_since(view: RoundView, windows: Windows, now: int) -> int:
    """When the slot or window began in which anybody may post; only where `slot_holder` is None."""
    index = min(view.num_slots, max(0, now - view.aggregate_start) // windows.slot)
    return view.aggregate_start + index * windows.slot


def slot_start(view: RoundView, windows: Windows, account: Address) -> int | None:
    """When the account's exclusive slot begins; None if it has none."""
    holders = view.order[: view.num_slots]
    return view.aggregate_start + holders.index(account) * windows.slot if account in holders else None


def bond_of(economics: Economics, attempt: int) -> Wei:
    """What an aggregator has at stake: twice as much with every attempt."""
    return Wei(economics.aggregator_bond << (attempt - 1))


def _chain_scores(clock: Clock, windows: Windows) -> Clock:
    score_commit_end = clock.reveal_end + windows.score_commit
    return replace(clock, score_commit_end=score_commit_end, score_reveal_end=score_commit_end + windows.score_reveal)


def _after_scores(progress: Progress, docket: Docket, windows: Windows, now: int) -> tuple[Phase, int]:
    # INVARIANT: whoever vouched for what nobody delivers pays, whatever becomes of the aggregate meanwhile.
    waits = progress.aggregate_start > 0 and docket.demands > 0 and progress.settled == 0
    if progress.outcome is not Outcome.PENDING:
        return (Phase.DISPUTE if waits and progress.outcome is Outcome.REFUTED else Phase.SETTLEMENT), 0
    if progress.aggregate_start == 0:
        answers = progress.tallied == 0 and docket.demands > 0 and now < docket.demand_end
        return (Phase.ANSWER, docket.demand_end) if answers else (Phase.TALLY, 0)
    if progress.posted_at > 0:
        return _after_posting(progress, docket, windows, now)
    end = open_end(progress.aggregate_start, progress.num_slots, windows)
    if now < end:
        return Phase.AGGREGATE, end
    return (Phase.DISPUTE if waits else Phase.SETTLEMENT), 0


def _after_posting(progress: Progress, docket: Docket, windows: Windows, now: int) -> tuple[Phase, int]:
    challenge_end = progress.posted_at + windows.challenge
    if now < challenge_end:
        return Phase.CHALLENGE, challenge_end
    proof_end = challenge_end + windows.proof
    # INVARIANT: no model becomes final while somebody may still prove it wrong, or waits for what it is made of.
    if docket.challenges > 0 and now < proof_end:
        return Phase.DISPUTE, proof_end
    return (Phase.DISPUTE if docket.games or docket.demands else Phase.SETTLEMENT), 0
