// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Bounds, Member, Outcome, Phase, Role, RoundView, TaskParams } from "../../src/interfaces/Types.sol";
import { Vm } from "../base/Test.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Follows TaskCoordinatorScores.tree: votes, and what the tally makes of them.
contract TaskCoordinatorScoresTest is Deployed {
    uint16 private constant MAX_WEIGHT = 10_000;

    /// @dev `workers` have revealed; ScoreCommit has begun.
    function _inScoreCommit(uint16 workers, uint16 validators) private returns (uint256 id) {
        id = _started(workers, validators, 1);
        _updates(id, workers);
        _assertPhase(id, Phase.ScoreCommit);
    }

    function _vote(uint16 weight, uint16 score) private pure returns (bytes memory) {
        return abi.encodePacked(weight, score);
    }

    /// @dev One worker, validators with the given votes on it; tallied.
    function _tallied(bytes[] memory votes) private returns (uint256 id, Member memory worker) {
        id = _inScoreCommit(1, uint16(votes.length));
        _scores(id, votes);
        _tallyAll(id);
        worker = _member(id, Role.Worker, _worker(0));
    }

    function _three(bytes memory a, bytes memory b, bytes memory c) private pure returns (bytes[] memory votes) {
        votes = new bytes[](3);
        (votes[0], votes[1], votes[2]) = (a, b, c);
    }

    function _unexpected(uint256 id, Phase current, Phase expected) private pure returns (bytes memory) {
        return abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, current, expected);
    }

    // --- commitScores ------------------------------------------------------------------------------------------

    function test_commitScores__eligible__storesAndEmits() external {
        uint256 id = _inScoreCommit(1, 2);
        vm.expectEmit();
        emit ITaskCoordinator.ScoresCommitted(id, 1, _validator(0), "c");
        vm.prank(_validator(0));
        coordinator.commitScores(id, 1, "c");
        Member memory m = _member(id, Role.Validator, _validator(0));
        vm.assertEq(m.commitment, "c");
        vm.assertEq(uint256(m.lastRound), 1);
        vm.assertEq(uint256(coordinator.roundOf(id).scoresCommitted), 1);
    }

    function test_commitScores__lastEligible__endsScoreCommit() external {
        uint256 id = _inScoreCommit(1, 2);
        _mine(5);
        _commitScores(id, _validator(0), _vote(1, 1));
        _assertPhase(id, Phase.ScoreCommit);
        _commitScores(id, _validator(1), _vote(1, 1));
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.phase), uint256(Phase.ScoreReveal));
        vm.assertEq(uint256(r.phaseEnd), _now() + SCORE_REVEAL);
    }

    function test_commitScores__deadline__lastSecondAndOver() external {
        uint256 id = _inScoreCommit(1, 2);
        (, uint40 end) = coordinator.phaseOf(id);
        _mineAt(end - 1);
        _commitScores(id, _validator(0), _vote(1, 1));
        for (uint256 late; late < 2; ++late) {
            _mineAt(end + late);
            vm.prank(_validator(1));
            vm.expectRevert(_unexpected(id, Phase.ScoreReveal, Phase.ScoreCommit));
            coordinator.commitScores(id, 1, "c");
        }
    }

    function test_commitScores__beforeRevealIsOver__reverts() external {
        uint256 id = _started(2, 1, 1);
        _commitAll(id, 2);
        _reveal(id, _worker(0));
        vm.prank(_validator(0));
        vm.expectRevert(_unexpected(id, Phase.Reveal, Phase.ScoreCommit));
        coordinator.commitScores(id, 1, "c");
    }

    function test_commitScores__againOrNotEligibleOrOtherRound__reverts() external {
        uint256 id = _inScoreCommit(1, 2);
        _commitScores(id, _validator(0), _vote(1, 1));
        vm.startPrank(_validator(0));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.AlreadyCommitted.selector, id, _validator(0)));
        coordinator.commitScores(id, 1, "c");
        vm.stopPrank();
        vm.prank(_worker(0));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(0), 1));
        coordinator.commitScores(id, 1, "c");
        vm.prank(_validator(1));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.UnexpectedRound.selector, id, 1, 2));
        coordinator.commitScores(id, 2, "c");
    }

    function test_commitScores__nobody__opensTheTally() external {
        uint256 id = _inScoreCommit(1, 2);
        (, uint40 end) = coordinator.phaseOf(id);
        _mineAt(end - 1);
        _assertPhase(id, Phase.ScoreCommit);
        _mineAt(end);
        _assertPhase(id, Phase.Tally);
    }

    // --- revealScores ------------------------------------------------------------------------------------------

    function test_revealScores__good__storesTheHashAndEmits() external {
        uint256 id = _inScoreCommit(1, 2);
        _commitScores(id, _validator(0), _vote(7, 8));
        _commitScores(id, _validator(1), _vote(7, 8));
        vm.expectEmit();
        emit ITaskCoordinator.ScoresRevealed(id, 1, _validator(0), _vote(7, 8));
        _revealScores(id, _validator(0), _vote(7, 8));
        Member memory m = _member(id, Role.Validator, _validator(0));
        vm.assertTrue(m.revealed);
        vm.assertEq(m.commitment, keccak256(_vote(7, 8)));
        vm.assertEq(uint256(coordinator.roundOf(id).scoresRevealed), 1);
        _assertPhase(id, Phase.ScoreReveal);
        _revealScores(id, _validator(1), _vote(7, 8));
        _assertPhase(id, Phase.Tally);
    }

    function test_revealScores__deadline__lastSecondAndOver() external {
        uint256 id = _inScoreCommit(1, 2);
        _commitScores(id, _validator(0), _vote(7, 8));
        _commitScores(id, _validator(1), _vote(7, 8));
        (, uint40 end) = coordinator.phaseOf(id);
        _mineAt(end - 1);
        _revealScores(id, _validator(0), _vote(7, 8));
        for (uint256 late; late < 2; ++late) {
            _mineAt(end + late);
            vm.prank(_validator(1));
            vm.expectRevert(_unexpected(id, Phase.Tally, Phase.ScoreReveal));
            coordinator.revealScores(id, 1, _vote(7, 8), _scoreSalt(_validator(1), 1));
        }
    }

    function _tryReveal(uint256 id, address validator, bytes memory votes, bytes memory expected) private {
        bytes32 salt = _scoreSalt(validator, 1);
        vm.prank(validator);
        vm.expectRevert(expected);
        coordinator.revealScores(id, 1, votes, salt);
    }

    function test_revealScores__otherVotesThanCommitted__revertsCommitmentMismatch() external {
        uint256 id = _inScoreCommit(1, 1);
        _commitScores(id, _validator(0), _vote(7, 8));
        bytes32 committed = _scoresCommitment(id, 1, _validator(0), _vote(7, 8));
        bytes32 opened = _scoresCommitment(id, 1, _validator(0), _vote(7, 9));
        _tryReveal(
            id,
            _validator(0),
            _vote(7, 9),
            abi.encodeWithSelector(ITaskCoordinator.CommitmentMismatch.selector, committed, opened)
        );
    }

    /// @dev Whose votes are copied has committed to its own address.
    function test_revealScores__copiedCommitment__revertsCommitmentMismatch() external {
        uint256 id = _inScoreCommit(1, 2);
        bytes32 copied = _scoresCommitment(id, 1, _validator(0), _vote(7, 8));
        vm.prank(_validator(1));
        coordinator.commitScores(id, 1, copied);
        _commitScores(id, _validator(0), _vote(7, 8));
        bytes32 salt = _scoreSalt(_validator(0), 1);
        vm.prank(_validator(1));
        vm.expectPartialRevert(ITaskCoordinator.CommitmentMismatch.selector);
        coordinator.revealScores(id, 1, _vote(7, 8), salt);
    }

    function test_revealScores__nothingCommittedOrTwice__reverts() external {
        uint256 id = _inScoreCommit(1, 3);
        _commitScores(id, _validator(0), _vote(7, 8));
        _commitScores(id, _validator(1), _vote(7, 8));
        _endPhase(id);
        _tryReveal(
            id,
            _validator(2),
            _vote(7, 8),
            abi.encodeWithSelector(ITaskCoordinator.NothingCommitted.selector, id, _validator(2))
        );
        _revealScores(id, _validator(0), _vote(7, 8));
        _tryReveal(
            id,
            _validator(0),
            _vote(7, 8),
            abi.encodeWithSelector(ITaskCoordinator.AlreadyRevealed.selector, id, _validator(0))
        );
    }

    function _commitAndTryReveal(uint16 workers, bytes memory votes, bytes memory expected) private {
        uint256 id = _inScoreCommit(workers, 1);
        _commitScores(id, _validator(0), votes);
        _tryReveal(id, _validator(0), votes, expected);
    }

    function test_revealScores__wrongLength__revertsVotesLength() external {
        bytes4 selector = ITaskCoordinator.VotesLength.selector;
        _commitAndTryReveal(1, "", abi.encodeWithSelector(selector, 0, 4));
        _tryReveal(1, _validator(0), "abc", abi.encodePacked(_mismatch(1, "", "abc")));
    }

    function _mismatch(uint256 id, bytes memory committed, bytes memory opened) private view returns (bytes memory) {
        return abi.encodeWithSelector(
            ITaskCoordinator.CommitmentMismatch.selector,
            _scoresCommitment(id, 1, _validator(0), committed),
            _scoresCommitment(id, 1, _validator(0), opened)
        );
    }

    function test_revealScores__oneVoteTooMany__revertsVotesLength() external {
        _commitAndTryReveal(2, _same(3, 1, 1), abi.encodeWithSelector(ITaskCoordinator.VotesLength.selector, 12, 8));
    }

    function test_revealScores__weightZeroWithScore__revertsInvalidVote() external {
        _commitAndTryReveal(1, _vote(0, 1), abi.encodeWithSelector(ITaskCoordinator.InvalidVote.selector, 0, 0, 1));
    }

    function test_revealScores__weightWithoutScore__revertsInvalidVote() external {
        _commitAndTryReveal(1, _vote(1, 0), abi.encodeWithSelector(ITaskCoordinator.InvalidVote.selector, 0, 1, 0));
    }

    function test_revealScores__abstentionWithScore__revertsInvalidVote() external {
        _commitAndTryReveal(
            1, _vote(ABSTAIN, 1), abi.encodeWithSelector(ITaskCoordinator.InvalidVote.selector, 0, ABSTAIN, 1)
        );
    }

    function test_revealScores__weightAboveMaximum__revertsInvalidVote() external {
        _commitAndTryReveal(
            1, _vote(10_001, 1), abi.encodeWithSelector(ITaskCoordinator.InvalidVote.selector, 0, 10_001, 1)
        );
    }

    function test_revealScores__weightOneBelowAbstention__revertsInvalidVote() external {
        _commitAndTryReveal(
            1, _vote(65_534, 1), abi.encodeWithSelector(ITaskCoordinator.InvalidVote.selector, 0, 65_534, 1)
        );
    }

    /// @dev The vote that is wrong stands in the second storage word.
    function test_revealScores__ninthVoteInvalid__revertsWithItsIndex() external {
        bytes memory votes = bytes.concat(_same(8, 1, 1), _vote(0, 1));
        _commitAndTryReveal(9, votes, abi.encodeWithSelector(ITaskCoordinator.InvalidVote.selector, 8, 0, 1));
    }

    function test_revealScores__extremes__areTaken() external {
        uint256 id = _inScoreCommit(3, 1);
        bytes memory votes = bytes.concat(_vote(MAX_WEIGHT, type(uint16).max), _vote(0, 0), _vote(ABSTAIN, 0));
        _scoresAlike(id, 1, votes);
        _tallyAll(id);
        Member memory m = _member(id, Role.Worker, _worker(0));
        vm.assertEq(uint256(m.weight), MAX_WEIGHT);
        vm.assertEq(uint256(m.score), type(uint16).max);
    }

    // --- tally: medians ------------------------------------------------------------------------------------------

    function test_tally__threeVotes__takesBothMedians() external {
        (, Member memory m) = _tallied(_three(_vote(10, 900), _vote(30, 700), _vote(20, 800)));
        vm.assertEq(uint256(m.weight), 20);
        vm.assertEq(uint256(m.score), 800);
    }

    function test_tally__oneOfTwoRejects__lowerMedianRejects() external {
        bytes[] memory votes = new bytes[](2);
        (votes[0], votes[1]) = (_vote(0, 0), _vote(10_000, 5));
        (uint256 id, Member memory m) = _tallied(votes);
        vm.assertEq(uint256(m.weight), 0);
        vm.assertEq(uint256(m.score), 0);
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.NothingAccepted));
        _assertPhase(id, Phase.Settlement);
    }

    /// @dev One validator with more than half of the stake decides alone.
    function test_tally__stakes__weighTheVotes() external {
        TaskParams memory p = _params(1, 3, 1);
        uint256 id = _create(p);
        _enrolAll(id, 0, 2, 1);
        _enrol(id, Role.Validator, _validator(2), 2 * VALIDATOR_STAKE + 1);
        _enrol(id, Role.Worker, _worker(0), WORKER_STAKE);
        _updates(id, 1);
        _scores(id, _three(_vote(0, 0), _vote(0, 0), _vote(10_000, 5)));
        _tallyAll(id);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(0)).weight), 10_000);
    }

    function test_tally__abstentions__countForNothing() external {
        (, Member memory m) = _tallied(_three(_vote(10, 900), _vote(ABSTAIN, 0), _vote(30, 700)));
        vm.assertEq(uint256(m.weight), 10);
        vm.assertEq(uint256(m.score), 700);
    }

    /// @dev Less than two thirds of the stake could fetch it.
    function test_tally__twoOfThreeAbstain__weightZero() external {
        (uint256 id, Member memory m) = _tallied(_three(_vote(10, 900), _vote(ABSTAIN, 0), _vote(ABSTAIN, 0)));
        vm.assertEq(uint256(m.weight), 0);
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.NothingAccepted));
    }

    function test_tally__exactlyTwoThirdsReveal__isAQuorum() external {
        (uint256 id, Member memory m) = _tallied(_three(_vote(10, 900), "", _vote(30, 700)));
        vm.assertEq(uint256(m.weight), 10);
        _assertPhase(id, Phase.Aggregate);
    }

    function test_tally__oneOfThreeReveals__missesTheQuorum() external {
        (uint256 id, Member memory m) = _tallied(_three(_vote(10, 900), "", ""));
        vm.assertEq(uint256(m.weight), 0);
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.QuorumMissed));
        _assertPhase(id, Phase.Settlement);
    }

    /// @dev One wei decides between a quorum and none.
    function test_tally__quorumEdge__toTheWei() external {
        for (uint96 extra; extra < 2; ++extra) {
            uint256 id = _create(_params(1, 2, 1));
            _enrolAll(id, 1, 0, 1);
            _enrol(id, Role.Validator, _validator(0), 2 * VALIDATOR_STAKE);
            _enrol(id, Role.Validator, _validator(1), VALIDATOR_STAKE + extra);
            _updates(id, 1);
            _scoresAlike(id, 1, _vote(10, 900));
            _tallyAll(id);
            _assertPhase(id, extra == 0 ? Phase.Aggregate : Phase.Settlement);
        }
    }

    function test_tally__nobodyReveals__missesTheQuorum() external {
        (uint256 id,) = _tallied(_three("", "", ""));
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.QuorumMissed));
    }

    function test_tally__committedButNotRevealed__isNotInTheQuorum() external {
        uint256 id = _inScoreCommit(1, 2);
        _commitScores(id, _validator(0), _vote(7, 8));
        _commitScores(id, _validator(1), _vote(7, 8));
        _revealScores(id, _validator(0), _vote(7, 8));
        _endPhase(id);
        _tallyAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.QuorumMissed));
    }

    function test_tally__workerThatDidNotReveal__hasNoWeightWhateverTheVotes() external {
        uint256 id = _started(2, 1, 1);
        _updates(id, 1);
        _scoresAlike(id, 1, _same(2, 10_000, 100));
        _tallyAll(id);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(1)).weight), 0);
        vm.assertEq(uint256(coordinator.roundOf(id).totalWeight), 10_000);
        vm.assertEq(uint256(coordinator.roundOf(id).accepted), 1);
    }

    /// @dev What a validator voted a round ago must not be read again.
    function test_tally__votesOfTheLastRound__areNotRead() external {
        uint256 id = _started(1, 2, 1);
        _finalRound(id, 1, 2);
        _updates(id, 1);
        _scoresAlike(id, 1, _vote(10, 900));
        _tallyAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.QuorumMissed));
    }

    function test_tally__weightsOfTheLastRound__areNotKept() external {
        uint256 id = _started(2, 1, 1);
        _finalRound(id, 2, 1);
        _updates(id, 1);
        _scoresAlike(id, 1, _same(2, 10, 10));
        _tallyAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).totalWeight), 10);
        _finalise(id);
        uint256 credit = vault.creditOf(_worker(1));
        _settleAll(id);
        vm.assertEq(vault.creditOf(_worker(1)), credit, "paid for the last round's weight");
    }

    // --- tally: batches ------------------------------------------------------------------------------------------

    function _votesOf(uint256 n) private pure returns (bytes memory votes) {
        for (uint256 i; i < n; ++i) {
            votes = bytes.concat(votes, _vote(uint16(100 + i), uint16(1000 + i)));
        }
    }

    /// @dev Batches of any size give every worker its own vote, and are never left in the middle of a word.
    function test_tally__batches__alignToEightAndMissNobody() external {
        uint16[5] memory sizes = [uint16(0), 1, 8, 9, type(uint16).max];
        uint16[5] memory firstEnds = [uint16(8), 8, 8, 16, 19];
        uint256 id = _inScoreCommit(19, 1);
        _scoresAlike(id, 1, _votesOf(19));
        bytes32 updatesHash;
        for (uint256 s; s < 5; ++s) {
            uint256 state = vm.snapshotState();
            coordinator.tally(id, sizes[s]);
            vm.assertEq(uint256(coordinator.roundOf(id).tallied), firstEnds[s]);
            while (_phase(id) == Phase.Tally) coordinator.tally(id, sizes[s]);
            for (uint256 i; i < 19; ++i) {
                Member memory m = _member(id, Role.Worker, _worker(i));
                vm.assertEq(uint256(m.weight), 100 + i, "weight");
                vm.assertEq(uint256(m.score), 1000 + i, "score");
            }
            bytes32 got = _updatesHash(id);
            if (s > 0) vm.assertEq(got, updatesHash, "the batches change the hash");
            updatesHash = got;
            vm.revertToState(state);
        }
    }

    function _updatesHash(uint256 id) private returns (bytes32) {
        _finalise(id);
        _settleAll(id);
        return registry.modelOf(registry.modelIdOf(id, 1)).updatesHash;
    }

    function test_tally__updatesHash__chainsEveryRevealedUpdate() external {
        uint256 id = _started(3, 1, 1);
        _updates(id, 2);
        _scoresAlike(id, 1, _votesOf(3));
        bytes32 expected;
        for (uint256 i; i < 2; ++i) {
            address w = _worker(i);
            expected = keccak256(abi.encode(expected, w, _update(w, 1).root, uint16(100 + i), uint16(1000 + i)));
        }
        vm.expectEmit();
        emit ITaskCoordinator.UpdateTallied(id, 1, _worker(0), _update(_worker(0), 1).root, 100, 1000);
        vm.expectEmit();
        emit ITaskCoordinator.UpdateTallied(id, 1, _worker(1), _update(_worker(1), 1).root, 101, 1001);
        vm.expectEmit();
        emit ITaskCoordinator.AggregateOpened(id, 1, 201, 2, expected);
        _tallyAll(id);
        vm.assertEq(_updatesHash(id), expected);
    }

    function test_tally__otherPhases__revert() external {
        uint256 id = _started(1, 1, 1);
        vm.expectRevert(_unexpected(id, Phase.Commit, Phase.Tally));
        coordinator.tally(id, 1);
        _toAggregate(id, 1, 1);
        vm.expectRevert(_unexpected(id, Phase.Aggregate, Phase.Tally));
        coordinator.tally(id, 1);
    }

    function test_tally__aggregatesClock__startsWithTheLastBatch() external {
        uint256 id = _inScoreCommit(9, 1);
        _scoresAlike(id, 1, _votesOf(9));
        coordinator.tally(id, 8);
        _assertPhase(id, Phase.Tally);
        _mine(5 days);
        coordinator.tally(id, 8);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.aggregateStart), _now());
        vm.assertEq(uint256(r.seedBlock), vm.getBlockNumber());
        vm.assertEq(uint256(r.phaseEnd), _now() + 4 * SLOT);
    }

    // --- the requester's own worker --------------------------------------------------------------------------------

    function _withRequester() private returns (uint256 id) {
        id = _create(_params(2, 1, 1));
        _enrolAll(id, 1, 1, 1);
        _enrol(id, Role.Worker, requester, WORKER_STAKE);
    }

    function _requesterUpdate(uint256 id) private {
        _commit(id, requester);
        _commit(id, _worker(0));
        _reveal(id, requester);
        _reveal(id, _worker(0));
    }

    function test_requestersWorker__accepted__countsInTheModelAndInNoPay() external {
        uint256 id = _withRequester();
        _requesterUpdate(id);
        _scoresAlike(id, 1, bytes.concat(_vote(10, 100), _vote(30, 9900)));
        _tallyAll(id);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.totalWeight), 40);
        vm.assertEq(uint256(r.accepted), 2);
        _finalise(id);
        _settleAll(id);
        vm.assertEq(vault.creditOf(_worker(0)), 350 ether, "the other worker has the whole pot");
        vm.assertEq(vault.creditOf(requester), 0);
    }

    function test_requestersWorker__onlyOneAccepted__finalAndThePotIsCarried() external {
        uint256 id = _withRequester();
        _requesterUpdate(id);
        _scoresAlike(id, 1, bytes.concat(_vote(0, 0), _vote(30, 9900)));
        _tallyAll(id);
        _assertPhase(id, Phase.Aggregate);
        _finalise(id);
        _settleAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).carry), 350 ether);
        vm.assertEq(coordinator.roundOf(id).modelRoot, _modelRoot(1));
        vm.assertEq(vault.creditOf(_worker(0)) + vault.creditOf(requester), 0);
    }

    function test_requestersWorker__doesNotReveal__isSlashedLikeAnyOther() external {
        uint256 id = _withRequester();
        _commit(id, requester);
        _commit(id, _worker(0));
        _endPhase(id);
        _settleAll(id);
        vm.assertEq(vault.lockOf(id, Role.Worker, requester), 80 ether);
    }
}
