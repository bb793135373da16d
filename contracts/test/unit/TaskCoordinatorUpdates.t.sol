// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Cid, Member, Phase, Role, RoundView, TaskParams } from "../../src/interfaces/Types.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Follows TaskCoordinatorUpdates.tree: what a worker does every round.
contract TaskCoordinatorUpdatesTest is Deployed {
    function _commitRaw(uint256 id, address worker, uint16 round, bytes32 commitment) private {
        vm.prank(worker);
        coordinator.commitUpdate(id, round, commitment);
    }

    function _unexpected(uint256 id, Phase current, Phase expected) private pure returns (bytes memory) {
        return abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, current, expected);
    }

    /// @dev A task of two workers, of which the first has committed and Reveal has begun.
    function _inReveal() private returns (uint256 id) {
        id = _started(2, 1, 1);
        _commit(id, _worker(0));
        _endPhase(id);
        _assertPhase(id, Phase.Reveal);
    }

    // --- commitUpdate --------------------------------------------------------------------------------------

    function test_commitUpdate__eligible__storesAndEmits() external {
        uint256 id = _started(2, 1, 1);
        vm.expectEmit();
        emit ITaskCoordinator.UpdateCommitted(id, 1, _worker(0), "c");
        _commitRaw(id, _worker(0), 1, "c");
        Member memory m = _member(id, Role.Worker, _worker(0));
        vm.assertEq(m.commitment, "c");
        vm.assertEq(uint256(m.lastRound), 1);
        vm.assertFalse(m.revealed);
        vm.assertEq(uint256(coordinator.roundOf(id).committed), 1);
        _assertPhase(id, Phase.Commit);
    }

    function test_commitUpdate__lastEligible__endsCommitAndMovesTheRest() external {
        uint256 id = _started(2, 1, 1);
        _commit(id, _worker(0));
        _mine(17);
        _commit(id, _worker(1));
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.phase), uint256(Phase.Reveal));
        vm.assertEq(uint256(r.phaseEnd), _now() + REVEAL);
        uint256 end = r.phaseEnd;
        _reveal(id, _worker(0));
        _mineAt(end);
        r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.phase), uint256(Phase.ScoreCommit));
        vm.assertEq(uint256(r.phaseEnd), end + SCORE_COMMIT);
        _commitScores(id, _validator(0), _same(2, 1, 1));
        (, uint40 scoreEnd) = coordinator.phaseOf(id);
        vm.assertEq(uint256(scoreEnd), _now() + SCORE_REVEAL);
    }

    function test_commitUpdate__deadline__lastSecondAndOver() external {
        uint256 id = _started(2, 1, 1);
        _mineAt(START + COMMIT - 1);
        _commitRaw(id, _worker(0), 1, "c");
        _mineAt(START + COMMIT);
        vm.expectRevert(_unexpected(id, Phase.Reveal, Phase.Commit));
        _commitRaw(id, _worker(1), 1, "c");
        _mineAt(START + COMMIT + 1);
        vm.expectRevert(_unexpected(id, Phase.Reveal, Phase.Commit));
        _commitRaw(id, _worker(1), 1, "c");
    }

    function test_commitUpdate__again__revertsAlreadyCommitted() external {
        uint256 id = _started(2, 1, 1);
        _commitRaw(id, _worker(0), 1, "c");
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.AlreadyCommitted.selector, id, _worker(0)));
        _commitRaw(id, _worker(0), 1, "d");
    }

    function test_commitUpdate__otherRounds__revertUnexpectedRound() external {
        uint256 id = _started(2, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.UnexpectedRound.selector, id, 1, 0));
        _commitRaw(id, _worker(0), 0, "c");
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.UnexpectedRound.selector, id, 1, 2));
        _commitRaw(id, _worker(0), 2, "c");
    }

    function test_commitUpdate__notEligible__reverts() external {
        uint256 id = _started(2, 1, 1);
        address[3] memory others = [stranger, _validator(0), _aggregator(0)];
        for (uint256 i; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, others[i], 1));
            _commitRaw(id, others[i], 1, "c");
        }
    }

    function test_commitUpdate__otherPhases__revertUnexpectedPhase() external {
        uint256 id = _create(_params(1, 1, 1));
        vm.expectRevert(_unexpected(id, Phase.Enrolment, Phase.Commit));
        _commitRaw(id, _worker(0), 0, "c");
        _enrolAll(id, 1, 1, 1);
        _toAggregate(id, 1, 1);
        vm.expectRevert(_unexpected(id, Phase.Aggregate, Phase.Commit));
        _commitRaw(id, _worker(0), 1, "c");
        _finalise(id);
        vm.expectRevert(_unexpected(id, Phase.Settlement, Phase.Commit));
        _commitRaw(id, _worker(0), 1, "c");
        _settleAll(id);
        _finalRound(id, 1, 1);
        vm.expectRevert(_unexpected(id, Phase.Completed, Phase.Commit));
        _commitRaw(id, _worker(0), 2, "c");
    }

    function test_commitUpdate__secondRound__overwritesTheSlot() external {
        uint256 id = _started(1, 1, 1);
        _finalRound(id, 1, 1);
        vm.assertEq(_member(id, Role.Worker, _worker(0)).commitment, _update(_worker(0), 1).root);
        _commitRaw(id, _worker(0), 2, "c");
        Member memory m = _member(id, Role.Worker, _worker(0));
        vm.assertEq(m.commitment, "c");
        vm.assertEq(uint256(m.lastRound), 2);
        vm.assertFalse(m.revealed);
    }

    // --- revealUpdate ----------------------------------------------------------------------------------------

    function test_revealUpdate__good__storesTheRootAndEmits() external {
        uint256 id = _started(2, 1, 1);
        _commitAll(id, 2);
        Update memory u = _update(_worker(0), 1);
        vm.expectEmit();
        emit ITaskCoordinator.UpdateRevealed(id, 1, _worker(0), u.root, u.squaredNorm, u.numExamples, u.cid);
        _reveal(id, _worker(0));
        Member memory m = _member(id, Role.Worker, _worker(0));
        vm.assertEq(m.commitment, u.root);
        vm.assertEq(uint256(m.squaredNorm), u.squaredNorm);
        vm.assertTrue(m.revealed);
        vm.assertEq(uint256(coordinator.roundOf(id).revealed), 1);
        _assertPhase(id, Phase.Reveal);
    }

    function test_revealUpdate__lastCommitted__endsReveal() external {
        uint256 id = _started(2, 1, 1);
        _commitAll(id, 2);
        _mine(9);
        _revealAll(id, 2);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.phase), uint256(Phase.ScoreCommit));
        vm.assertEq(uint256(r.phaseEnd), _now() + SCORE_COMMIT);
    }

    function test_revealUpdate__deadline__lastSecondAndOver() external {
        uint256 id = _inReveal();
        (, uint40 end) = coordinator.phaseOf(id);
        uint256 state = vm.snapshotState();
        _mineAt(end - 1);
        _reveal(id, _worker(0));
        _assertPhase(id, Phase.ScoreCommit);
        vm.revertToState(state);
        for (uint256 late; late < 2; ++late) {
            _mineAt(end + late);
            vm.expectRevert(_unexpected(id, Phase.Settlement, Phase.Reveal));
            _revealUpdate(id, 1, _worker(0), _update(_worker(0), 1));
        }
    }

    function test_revealUpdate__beforeReveal__revertsUnexpectedPhase() external {
        uint256 id = _started(2, 1, 1);
        _commit(id, _worker(0));
        _mineAt(START + COMMIT - 1);
        vm.expectRevert(_unexpected(id, Phase.Commit, Phase.Reveal));
        _revealUpdate(id, 1, _worker(0), _update(_worker(0), 1));
        _mineAt(START + COMMIT);
        _reveal(id, _worker(0));
    }

    function test_revealUpdate__nothingCommitted__reverts() external {
        uint256 id = _inReveal();
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NothingCommitted.selector, id, _worker(1)));
        _revealUpdate(id, 1, _worker(1), _update(_worker(1), 1));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NothingCommitted.selector, id, stranger));
        _revealUpdate(id, 1, stranger, _update(stranger, 1));
    }

    function test_revealUpdate__twice__revertsAlreadyRevealed() external {
        uint256 id = _started(2, 1, 1);
        _commitAll(id, 2);
        _reveal(id, _worker(0));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.AlreadyRevealed.selector, id, _worker(0)));
        _revealUpdate(id, 1, _worker(0), _update(_worker(0), 1));
    }

    /// @dev Every value that is revealed is bound by the commitment.
    function test_revealUpdate__anyValueChanged__revertsCommitmentMismatch() external {
        uint256 id = _inReveal();
        for (uint256 what; what < 6; ++what) {
            Update memory u = _update(_worker(0), 1);
            if (what == 0) u.root = keccak256("other");
            if (what == 1) u.cid.digest = keccak256("other");
            if (what == 2) u.cid.codec = 0x70;
            if (what == 3) ++u.squaredNorm;
            if (what == 4) ++u.numExamples;
            if (what == 5) u.salt = keccak256("other");
            bytes32 opened = _updateCommitment(id, 1, _worker(0), u);
            bytes32 committed = _updateCommitment(id, 1, _worker(0), _update(_worker(0), 1));
            vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.CommitmentMismatch.selector, committed, opened));
            _revealUpdate(id, 1, _worker(0), u);
        }
    }

    /// @dev A commitment names its sender: a copy of it cannot be opened, not even with the salt.
    function test_revealUpdate__copiedCommitment__revertsCommitmentMismatch() external {
        uint256 id = _started(2, 1, 1);
        _commit(id, _worker(0));
        _commitRaw(id, _worker(1), 1, _updateCommitment(id, 1, _worker(0), _update(_worker(0), 1)));
        vm.expectPartialRevert(ITaskCoordinator.CommitmentMismatch.selector);
        _revealUpdate(id, 1, _worker(1), _update(_worker(0), 1));
    }

    function test_revealUpdate__commitmentForAnotherTaskOrChain__revertsCommitmentMismatch() external {
        uint256 id = _started(2, 1, 1);
        Update memory u = _update(_worker(0), 1);
        _commitRaw(id, _worker(0), 1, _updateCommitment(id + 1, 1, _worker(0), u));
        _commit(id, _worker(1));
        vm.expectPartialRevert(ITaskCoordinator.CommitmentMismatch.selector);
        _revealUpdate(id, 1, _worker(0), u);
        vm.chainId(4711);
        vm.expectPartialRevert(ITaskCoordinator.CommitmentMismatch.selector);
        _revealUpdate(id, 1, _worker(1), _update(_worker(1), 1));
    }

    function _commitAndTryReveal(Update memory u, bytes memory expected) private {
        uint256 id = _started(2, 1, 1);
        _commitRaw(id, _worker(0), 1, _updateCommitment(id, 1, _worker(0), u));
        _commit(id, _worker(1));
        vm.expectRevert(expected);
        _revealUpdate(id, 1, _worker(0), u);
    }

    function test_revealUpdate__normAtTheBound__passesAndOneAboveReverts() external {
        uint64 maximum = _format().maxSquaredNorm;
        Update memory u = _update(_worker(0), 1);
        u.squaredNorm = maximum + 1;
        _commitAndTryReveal(u, abi.encodeWithSelector(ITaskCoordinator.NormTooLarge.selector, maximum + 1, maximum));
        uint256 id = coordinator.numTasks();
        Update memory v = _update(_worker(1), 1);
        _revealUpdate(id, 1, _worker(1), v);

        u.squaredNorm = maximum;
        id = _create(_params(1, 1, 1));
        _enrolAll(id, 1, 1, 1);
        _commitRaw(id, _worker(0), 1, _updateCommitment(id, 1, _worker(0), u));
        _revealUpdate(id, 1, _worker(0), u);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(0)).squaredNorm), maximum);
    }

    function test_revealUpdate__zeroRoot__reverts() external {
        Update memory u = _update(_worker(0), 1);
        u.root = 0;
        _commitAndTryReveal(u, abi.encodeWithSelector(ITaskCoordinator.ZeroRoot.selector));
    }

    function test_revealUpdate__unknownCodec__revertsInvalidCid() external {
        Update memory u = _update(_worker(0), 1);
        u.cid.codec = 0x71;
        _commitAndTryReveal(u, abi.encodeWithSelector(ITaskCoordinator.InvalidCid.selector, 0x71));
    }

    function test_revealUpdate__otherRound__revertsUnexpectedRound() external {
        uint256 id = _inReveal();
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.UnexpectedRound.selector, id, 1, 2));
        _revealUpdate(id, 2, _worker(0), _update(_worker(0), 2));
    }

    function test_revealUpdate__dirtyWords__revert() external {
        uint256 id = _inReveal();
        Update memory u = _update(_worker(0), 1);
        bytes memory data =
            abi.encodeCall(coordinator.revealUpdate, (id, 1, u.root, u.cid, u.squaredNorm, u.numExamples, u.salt));
        // round, codec, squaredNorm and numExamples are narrower than their words.
        uint8[4] memory words = [1, 4, 5, 6];
        for (uint256 i; i < 4; ++i) {
            bytes memory dirty = bytes.concat(data);
            dirty[4 + 32 * words[i]] = 0x01;
            vm.prank(_worker(0));
            (bool ok,) = address(coordinator).call(dirty);
            vm.assertFalse(ok, "a dirty word was taken");
        }
        vm.prank(_worker(0));
        (bool good,) = address(coordinator).call(data);
        vm.assertTrue(good);
    }

    // --- who does not commit, or not reveal --------------------------------------------------------------------

    function test_nobodyCommits__commitOver__isSettlement() external {
        uint256 id = _started(2, 1, 1);
        _mineAt(START + COMMIT - 1);
        _assertPhase(id, Phase.Commit);
        _mineAt(START + COMMIT);
        _assertPhase(id, Phase.Settlement);
    }

    function test_nobodyReveals__revealOver__isSettlement() external {
        uint256 id = _inReveal();
        _mineAt(START + COMMIT + REVEAL - 1);
        _assertPhase(id, Phase.Reveal);
        _mineAt(START + COMMIT + REVEAL);
        _assertPhase(id, Phase.Settlement);
    }
}
