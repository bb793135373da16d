// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Outcome, Phase, Windows } from "../interfaces/Types.sol";

/// @notice Facts of a round up to its scores. Exactly one storage slot, so that a commit and a reveal write it once.
struct Clock {
    uint16 round;
    uint8 attempt;
    uint40 commitEnd;
    uint40 revealEnd;
    uint40 scoreCommitEnd;
    uint40 scoreRevealEnd;
    uint16 eligibleWorkers;
    uint16 committed;
    uint16 revealed;
    uint8 eligibleValidators;
    uint8 scoresCommitted;
    uint8 scoresRevealed;
}

/// @notice Facts of a round from its tally on. One storage slot.
struct Progress {
    uint16 tallied;
    uint16 settled;
    uint16 accepted;
    uint40 openedBlock;
    uint40 aggregateStart;
    uint40 postedAt;
    uint40 seedBlock;
    uint8 numSlots;
    bool orderDrawn;
    Outcome outcome;
    // Out of how many the round's workers are drawn; 0 in a task that draws none.
    uint16 pool;
}

/// @notice What is disputed in a round. One storage slot.
/// `challenges` and `games` are those of the current attempt that are not over; `demands` those for updates that are
/// neither answered nor closed, and `demandEnd` the end of the latest clock among them.
struct Docket {
    uint32 challenges;
    uint32 games;
    uint32 demands;
    uint40 demandEnd;
    bool anyRefuted;
    bool anySlashed;
    uint32 numGames;
}

/// @title Where a round stands, derived from stored facts and the time.
/// @dev Windows are half-open [start, end): at `end` the next phase has begun. What every commit and reveal calls takes
/// the clock in storage, and reads and writes only the fields that it needs; `current` takes it in memory.
library Phases {
    uint8 internal constant MAX_SLOTS = 3;

    /// @notice The deadlines of a round that opens at `start`.
    function open(Windows memory w, uint16 round, uint256 start) internal pure returns (Clock memory c) {
        c.round = round;
        c.attempt = 1;
        c.commitEnd = uint40(start) + w.commit;
        c.revealEnd = c.commitEnd + w.reveal;
        c.scoreCommitEnd = c.revealEnd + w.scoreCommit;
        c.scoreRevealEnd = c.scoreCommitEnd + w.scoreReveal;
    }

    /// @notice Everybody eligible has committed: Reveal begins now, and all that follows comes earlier by as much.
    function endCommit(Clock storage c) internal {
        // INVARIANT: called in Commit alone, so that now is before this end, and every later one after it.
        unchecked {
            uint40 early = c.commitEnd - uint40(block.timestamp);
            (c.commitEnd, c.revealEnd) = (c.commitEnd - early, c.revealEnd - early);
            (c.scoreCommitEnd, c.scoreRevealEnd) = (c.scoreCommitEnd - early, c.scoreRevealEnd - early);
        }
    }

    /// @notice Everybody who committed has revealed: ScoreCommit begins now.
    function endReveal(Clock storage c) internal {
        // INVARIANT: called in Reveal alone.
        unchecked {
            uint40 early = c.revealEnd - uint40(block.timestamp);
            c.revealEnd -= early;
            (c.scoreCommitEnd, c.scoreRevealEnd) = (c.scoreCommitEnd - early, c.scoreRevealEnd - early);
        }
    }

    /// @notice Every eligible validator has committed its scores: ScoreReveal begins now.
    function endScoreCommit(Clock storage c) internal {
        // INVARIANT: called in ScoreCommit alone.
        unchecked {
            uint40 early = c.scoreCommitEnd - uint40(block.timestamp);
            (c.scoreCommitEnd, c.scoreRevealEnd) = (c.scoreCommitEnd - early, c.scoreRevealEnd - early);
        }
    }

    /// @notice Everybody who committed scores has revealed them: Tally begins now.
    function endScoreReveal(Clock storage c) internal {
        c.scoreRevealEnd = uint40(block.timestamp);
    }

    function inCommit(Clock storage c) internal view returns (bool) {
        return block.timestamp < c.commitEnd;
    }

    function inReveal(Clock storage c) internal view returns (bool) {
        return block.timestamp >= c.commitEnd && block.timestamp < c.revealEnd && c.committed > 0;
    }

    function inScoreCommit(Clock storage c) internal view returns (bool) {
        return block.timestamp >= c.revealEnd && block.timestamp < c.scoreCommitEnd && c.revealed > 0;
    }

    function inScoreReveal(Clock storage c) internal view returns (bool) {
        return block.timestamp >= c.scoreCommitEnd && block.timestamp < c.scoreRevealEnd && c.scoresCommitted > 0;
    }

    /// @notice The phase of an open round and when it ends by itself (0: only an action ends it).
    function current(Clock memory c, Progress memory p, Docket memory d, Windows memory w)
        internal
        view
        returns (Phase, uint40)
    {
        if (block.timestamp < c.commitEnd) return (Phase.Commit, c.commitEnd);
        if (c.committed == 0) return (Phase.Settlement, 0);
        if (block.timestamp < c.revealEnd) return (Phase.Reveal, c.revealEnd);
        if (c.revealed == 0) return (Phase.Settlement, 0);
        if (block.timestamp < c.scoreCommitEnd) return (Phase.ScoreCommit, c.scoreCommitEnd);
        if (c.scoresCommitted > 0 && block.timestamp < c.scoreRevealEnd) return (Phase.ScoreReveal, c.scoreRevealEnd);
        return _afterScores(p, d, w);
    }

    /// @notice How a round in Settlement ended.
    function outcome(Clock memory c, Progress memory p) internal pure returns (Outcome) {
        if (p.outcome != Outcome.Pending) return p.outcome;
        if (c.revealed == 0) return Outcome.NoUpdates;
        return p.postedAt > 0 ? Outcome.Final : Outcome.NoAggregate;
    }

    /// @notice End of the exclusive slots; the open window of three slots follows.
    /// @dev The slots are counted when the round opens. How many find a holder does not move the clock: a late draw
    /// must not take time away from who has committed for the open window.
    function exclusiveEnd(Progress memory p, Windows memory w) internal pure returns (uint40) {
        return p.aggregateStart + uint40(p.numSlots) * w.slot;
    }

    function openEnd(Progress memory p, Windows memory w) internal pure returns (uint40) {
        return exclusiveEnd(p, w) + uint40(MAX_SLOTS) * w.slot;
    }

    function _afterScores(Progress memory p, Docket memory d, Windows memory w) private view returns (Phase, uint40) {
        // INVARIANT: whoever vouched for what nobody delivers pays, whatever becomes of the aggregate meanwhile.
        bool waits = p.aggregateStart > 0 && d.demands > 0 && p.settled == 0;
        // The tally's last batch leaves either an outcome (the round is void) or a start.
        if (p.outcome != Outcome.Pending) {
            return (waits && p.outcome == Outcome.Refuted ? Phase.Dispute : Phase.Settlement, 0);
        }
        if (p.aggregateStart == 0) {
            bool answers = p.tallied == 0 && d.demands > 0 && block.timestamp < d.demandEnd;
            return answers ? (Phase.Answer, d.demandEnd) : (Phase.Tally, uint40(0));
        }
        if (p.postedAt > 0) return _afterPosting(p, d, w);
        uint40 end = openEnd(p, w);
        if (block.timestamp < end) return (Phase.Aggregate, end);
        return (waits ? Phase.Dispute : Phase.Settlement, 0);
    }

    function _afterPosting(Progress memory p, Docket memory d, Windows memory w) private view returns (Phase, uint40) {
        uint40 challengeEnd = p.postedAt + w.challenge;
        if (block.timestamp < challengeEnd) return (Phase.Challenge, challengeEnd);
        // INVARIANT: no model becomes final while somebody may still prove it wrong, or waits for what it is made of.
        if (d.challenges > 0 && block.timestamp < challengeEnd + w.proof) {
            return (Phase.Dispute, challengeEnd + w.proof);
        }
        // What is still open has a clock of its own, after which anybody can close it.
        return d.games > 0 || d.demands > 0 ? (Phase.Dispute, uint40(0)) : (Phase.Settlement, uint40(0));
    }
}
