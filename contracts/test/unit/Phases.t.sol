// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Outcome, Phase, Windows } from "../../src/interfaces/Types.sol";
import { Clock, Docket, Phases, Progress } from "../../src/libraries/Phases.sol";
import { Test } from "../base/Test.sol";

/// @notice Follows Phases.tree: the derivation alone, without a task around it.
contract PhasesTest is Test {
    using Phases for Clock;
    using Phases for Progress;

    uint256 private constant START = 1000;
    uint256 private constant COMMIT_END = START + 10;
    uint256 private constant REVEAL_END = COMMIT_END + 20;
    uint256 private constant SCORE_COMMIT_END = REVEAL_END + 30;
    uint256 private constant SCORE_REVEAL_END = SCORE_COMMIT_END + 40;

    Clock private _stored;

    function _windows() private pure returns (Windows memory) {
        return Windows(10, 20, 30, 40, 50, 60, 70, 80);
    }

    /// @dev A round that opened at START with three workers and two validators.
    function _clock() private pure returns (Clock memory c) {
        c = Phases.open(_windows(), 1, START);
        (c.eligibleWorkers, c.eligibleValidators) = (3, 2);
    }

    function _scored() private pure returns (Clock memory c) {
        c = _clock();
        (c.committed, c.revealed, c.scoresCommitted, c.scoresRevealed) = (3, 3, 2, 2);
    }

    function _assertAt(uint256 at, Clock memory c, Progress memory p, Phase phase, uint256 end) private {
        Docket memory d;
        _assertDisputed(at, c, p, d, phase, end);
    }

    function _assertDisputed(uint256 at, Clock memory c, Progress memory p, Docket memory d, Phase phase, uint256 end)
        private
    {
        vm.warp(at);
        (Phase got, uint40 gotEnd) = c.current(p, d, _windows());
        vm.assertEq(uint256(got), uint256(phase), "phase");
        vm.assertEq(uint256(gotEnd), end, "end");
    }

    function test_open__windows__chain() external pure {
        Clock memory c = Phases.open(_windows(), 7, START);
        vm.assertEq(uint256(c.round), 7);
        vm.assertEq(uint256(c.attempt), 1);
        vm.assertEq(uint256(c.commitEnd), COMMIT_END);
        vm.assertEq(uint256(c.revealEnd), REVEAL_END);
        vm.assertEq(uint256(c.scoreCommitEnd), SCORE_COMMIT_END);
        vm.assertEq(uint256(c.scoreRevealEnd), SCORE_REVEAL_END);
    }

    function test_current__commit__halfOpen() external {
        Progress memory p;
        Clock memory c = _clock();
        _assertAt(START, c, p, Phase.Commit, COMMIT_END);
        _assertAt(COMMIT_END - 1, c, p, Phase.Commit, COMMIT_END);
        _assertAt(COMMIT_END, c, p, Phase.Settlement, 0);
        c.committed = 1;
        _assertAt(COMMIT_END, c, p, Phase.Reveal, REVEAL_END);
    }

    function test_current__reveal__halfOpen() external {
        Progress memory p;
        Clock memory c = _clock();
        c.committed = 2;
        _assertAt(REVEAL_END - 1, c, p, Phase.Reveal, REVEAL_END);
        _assertAt(REVEAL_END, c, p, Phase.Settlement, 0);
        c.revealed = 1;
        _assertAt(REVEAL_END - 1, c, p, Phase.Reveal, REVEAL_END);
        _assertAt(REVEAL_END, c, p, Phase.ScoreCommit, SCORE_COMMIT_END);
    }

    function test_current__scores__halfOpen() external {
        Progress memory p;
        Clock memory c = _clock();
        (c.committed, c.revealed) = (3, 3);
        _assertAt(SCORE_COMMIT_END - 1, c, p, Phase.ScoreCommit, SCORE_COMMIT_END);
        _assertAt(SCORE_COMMIT_END, c, p, Phase.Tally, 0);
        c.scoresCommitted = 1;
        _assertAt(SCORE_COMMIT_END, c, p, Phase.ScoreReveal, SCORE_REVEAL_END);
        _assertAt(SCORE_REVEAL_END - 1, c, p, Phase.ScoreReveal, SCORE_REVEAL_END);
        _assertAt(SCORE_REVEAL_END, c, p, Phase.Tally, 0);
    }

    function test_current__aggregate__threeSlotsAndTheOpenWindow() external {
        Progress memory p;
        (p.aggregateStart, p.numSlots) = (2000, 3);
        Clock memory c = _scored();
        _assertAt(2000, c, p, Phase.Aggregate, 2300);
        _assertAt(2299, c, p, Phase.Aggregate, 2300);
        _assertAt(2300, c, p, Phase.Settlement, 0);
    }

    function test_current__noSlots__theOpenWindowAlone() external {
        Progress memory p;
        p.aggregateStart = 2000;
        Clock memory c = _scored();
        _assertAt(2149, c, p, Phase.Aggregate, 2150);
        _assertAt(2150, c, p, Phase.Settlement, 0);
    }

    function test_current__challenge__halfOpen() external {
        Progress memory p;
        (p.aggregateStart, p.numSlots, p.postedAt) = (2000, 1, 2010);
        Clock memory c = _scored();
        _assertAt(2010, c, p, Phase.Challenge, 2070);
        _assertAt(2069, c, p, Phase.Challenge, 2070);
        _assertAt(2070, c, p, Phase.Settlement, 0);
    }

    // --- what disputes wait for ----------------------------------------------------------------------------------

    function _posted() private pure returns (Progress memory p) {
        (p.tallied, p.aggregateStart, p.numSlots, p.postedAt) = (3, 2000, 1, 2010);
    }

    function _docket(uint256 facts) private pure returns (Docket memory d) {
        (d.challenges, d.games, d.demands) = (uint16(facts % 3), uint16((facts >> 8) % 2), uint16((facts >> 16) % 2));
        d.demandEnd = uint40(SCORE_COMMIT_END + (facts >> 24) % 200);
    }

    function test_current__earlyDemands__waitForTheLastClock() external {
        Progress memory p;
        Docket memory d;
        (d.demands, d.demandEnd) = (1, uint40(SCORE_REVEAL_END + 30));
        _assertDisputed(SCORE_REVEAL_END - 1, _scored(), p, d, Phase.ScoreReveal, SCORE_REVEAL_END);
        _assertDisputed(SCORE_REVEAL_END, _scored(), p, d, Phase.Answer, SCORE_REVEAL_END + 30);
        _assertDisputed(SCORE_REVEAL_END + 29, _scored(), p, d, Phase.Answer, SCORE_REVEAL_END + 30);
        _assertDisputed(SCORE_REVEAL_END + 30, _scored(), p, d, Phase.Tally, 0);
        d.demands = 0;
        _assertDisputed(SCORE_REVEAL_END, _scored(), p, d, Phase.Tally, 0);
    }

    function test_current__tallyBegun__demandsNoLongerWait() external {
        Progress memory p;
        p.tallied = 1;
        Docket memory d;
        (d.demands, d.demandEnd) = (1, uint40(SCORE_REVEAL_END + 30));
        _assertDisputed(SCORE_REVEAL_END, _scored(), p, d, Phase.Tally, 0);
    }

    function test_current__challenges__waitTheProofWindow() external {
        Docket memory d;
        d.challenges = 1;
        _assertDisputed(2069, _scored(), _posted(), d, Phase.Challenge, 2070);
        _assertDisputed(2070, _scored(), _posted(), d, Phase.Dispute, 2150);
        _assertDisputed(2149, _scored(), _posted(), d, Phase.Dispute, 2150);
        _assertDisputed(2150, _scored(), _posted(), d, Phase.Settlement, 0);
    }

    function test_current__gamesOrDemands__waitUntilTheyAreClosed() external {
        for (uint16 games; games < 2; ++games) {
            Docket memory d;
            (d.games, d.demands) = (games, 1 - games);
            _assertDisputed(2069, _scored(), _posted(), d, Phase.Challenge, 2070);
            _assertDisputed(2070, _scored(), _posted(), d, Phase.Dispute, 0);
            _assertDisputed(1e9, _scored(), _posted(), d, Phase.Dispute, 0);
        }
    }

    function test_current__voidWhileDisputed__isSettlement() external {
        Docket memory d = _docket(1 | 1 << 8 | 1 << 16);
        Progress memory p = _posted();
        (p.outcome, d.challenges) = (Outcome.Withheld, 1);
        _assertDisputed(2011, _scored(), p, d, Phase.Settlement, 0);
    }

    function test_current__voidByTheTally__isSettlement() external {
        Progress memory p;
        p.outcome = Outcome.QuorumMissed;
        _assertAt(SCORE_REVEAL_END, _scored(), p, Phase.Settlement, 0);
    }

    function test_outcome__everyFact__namesItsOutcome() external pure {
        Progress memory p;
        Clock memory c = _clock();
        vm.assertEq(uint256(c.outcome(p)), uint256(Outcome.NoUpdates));
        c.revealed = 1;
        vm.assertEq(uint256(c.outcome(p)), uint256(Outcome.NoAggregate));
        p.postedAt = 1;
        vm.assertEq(uint256(c.outcome(p)), uint256(Outcome.Final));
        p.outcome = Outcome.NothingAccepted;
        vm.assertEq(uint256(c.outcome(p)), uint256(Outcome.NothingAccepted));
    }

    function test_slots__ends() external pure {
        Progress memory p;
        (p.aggregateStart, p.numSlots) = (2000, 2);
        vm.assertEq(uint256(p.exclusiveEnd(_windows())), 2100);
        vm.assertEq(uint256(p.openEnd(_windows())), 2250);
    }

    // --- early ends --------------------------------------------------------------------------------------------

    function _assertEnds(uint256 commit, uint256 reveal, uint256 scoreCommit, uint256 scoreReveal) private view {
        vm.assertEq(uint256(_stored.commitEnd), commit, "commit");
        vm.assertEq(uint256(_stored.revealEnd), reveal, "reveal");
        vm.assertEq(uint256(_stored.scoreCommitEnd), scoreCommit, "score commit");
        vm.assertEq(uint256(_stored.scoreRevealEnd), scoreReveal, "score reveal");
    }

    function test_endCommit__anyMoment__movesAllThatFollows() external {
        for (uint256 early = 1; early <= 10; early += 9) {
            _stored = _clock();
            vm.warp(COMMIT_END - early);
            _stored.endCommit();
            _assertEnds(COMMIT_END - early, REVEAL_END - early, SCORE_COMMIT_END - early, SCORE_REVEAL_END - early);
        }
    }

    function test_endReveal__anyMoment__movesAllThatFollows() external {
        for (uint256 early = 1; early <= 20; early += 19) {
            _stored = _clock();
            vm.warp(REVEAL_END - early);
            _stored.endReveal();
            _assertEnds(COMMIT_END, REVEAL_END - early, SCORE_COMMIT_END - early, SCORE_REVEAL_END - early);
        }
    }

    function test_endScoreCommit__anyMoment__movesScoreReveal() external {
        for (uint256 early = 1; early <= 30; early += 29) {
            _stored = _clock();
            vm.warp(SCORE_COMMIT_END - early);
            _stored.endScoreCommit();
            _assertEnds(COMMIT_END, REVEAL_END, SCORE_COMMIT_END - early, SCORE_REVEAL_END - early);
        }
    }

    function test_endScoreReveal__now__isItsEnd() external {
        _stored = _clock();
        vm.warp(SCORE_COMMIT_END);
        _stored.endScoreReveal();
        _assertEnds(COMMIT_END, REVEAL_END, SCORE_COMMIT_END, SCORE_COMMIT_END);
    }

    /// @dev A phase that ended early is over in the very block: nobody can slip in behind the last.
    function test_earlyEnds__sameSecond__thePhaseIsOver() external {
        _stored = _clock();
        _stored.committed = 3;
        vm.warp(START);
        vm.assertTrue(_stored.inCommit());
        _stored.endCommit();
        vm.assertFalse(_stored.inCommit());
        vm.assertTrue(_stored.inReveal());
        _stored.revealed = 3;
        _stored.endReveal();
        vm.assertFalse(_stored.inReveal());
        vm.assertTrue(_stored.inScoreCommit());
        _stored.scoresCommitted = 2;
        _stored.endScoreCommit();
        vm.assertFalse(_stored.inScoreCommit());
        vm.assertTrue(_stored.inScoreReveal());
        _stored.endScoreReveal();
        vm.assertFalse(_stored.inScoreReveal());
    }

    /// @dev The cheap predicates of the hot path say what the full derivation says.
    function testFuzz_predicates__anyClock__agreeWithCurrent(
        uint256 at,
        uint8 committed,
        uint8 revealed,
        uint8 scoresCommitted
    ) external {
        Clock memory c = _clock();
        c.committed = uint16(bound(committed, 0, 3));
        c.revealed = uint16(bound(revealed, 0, c.committed));
        c.scoresCommitted = c.revealed == 0 ? 0 : uint8(bound(scoresCommitted, 0, 2));
        vm.warp(bound(at, START, SCORE_REVEAL_END + 10));
        Progress memory p;
        Docket memory d;
        (Phase phase,) = c.current(p, d, _windows());
        _stored = c;
        vm.assertEq(_stored.inCommit(), phase == Phase.Commit);
        vm.assertEq(_stored.inReveal(), phase == Phase.Reveal);
        vm.assertEq(_stored.inScoreCommit(), phase == Phase.ScoreCommit);
        vm.assertEq(_stored.inScoreReveal(), phase == Phase.ScoreReveal);
    }

    /// @dev Time alone never leads back.
    function testFuzz_current__laterTime__neverAnEarlierPhase(
        uint256 first,
        uint256 second,
        uint256 facts,
        uint256 posted
    ) external {
        Clock memory c = _clock();
        (c.committed, c.revealed) = (uint16(facts % 4), uint16((facts >> 8) % 4));
        if (c.revealed > c.committed) c.revealed = c.committed;
        if (c.revealed > 0) c.scoresCommitted = uint8((facts >> 16) % 3);
        Progress memory p;
        p.numSlots = uint8((facts >> 24) % 4);
        if ((facts >> 32) % 2 == 1 && c.revealed > 0) {
            p.aggregateStart = uint40(SCORE_REVEAL_END);
            if ((facts >> 40) % 2 == 1) p.postedAt = uint40(SCORE_REVEAL_END + posted % 100);
        }
        first = bound(first, START, SCORE_REVEAL_END + 500);
        second = bound(second, first, SCORE_REVEAL_END + 500);
        Docket memory d = _docket(facts >> 48);
        vm.warp(first);
        (Phase before,) = c.current(p, d, _windows());
        vm.warp(second);
        (Phase after_,) = c.current(p, d, _windows());
        vm.assertLe(uint256(before), uint256(after_));
    }
}
