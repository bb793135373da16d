// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Member, Phase, Role, TaskParams } from "../../src/interfaces/Types.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Follows TaskCoordinatorMembers.tree: leaving, rejoining, and being taken out.
contract TaskCoordinatorMembersTest is Deployed {
    function _leave(uint256 id, Role role, address account) private {
        vm.prank(account);
        coordinator.leave(id, role);
    }

    function _rejoin(uint256 id, Role role, address account) private {
        vm.prank(account);
        coordinator.rejoin(id, role);
    }

    /// @dev Two workers, two validators, one aggregator, `rounds` rounds.
    function _task(uint16 rounds) private returns (uint256 id) {
        TaskParams memory p = _params(2, 2, 1);
        p.rounds = rounds;
        id = _create(p);
        _enrolAll(id, 2, 2, 1);
    }

    /// @dev A round in which nobody does anything.
    function _idleRound(uint256 id) private {
        _endPhase(id);
        _settleAll(id);
    }

    // --- leave -------------------------------------------------------------------------------------------------

    function test_leave__worker__countsFromTheNextRoundAndStaysLocked() external {
        uint256 id = _task(2);
        vm.expectEmit();
        emit ITaskCoordinator.MemberLeft(id, Role.Worker, _worker(1), 2);
        _leave(id, Role.Worker, _worker(1));
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 2);
        // It may still take part in the round that it left in.
        _finalRound(id, 2, 2);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 1);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(1)), WORKER_STAKE);
        vm.prank(_worker(1));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(1), 2));
        coordinator.commitUpdate(id, 2, "c");
    }

    function test_leave__validator__isInNoQuorumOfTheNextRound() external {
        uint256 id = _task(2);
        _leave(id, Role.Validator, _validator(1));
        _finalRound(id, 2, 2);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleValidators), 1);
        // One of two would miss the quorum; one of one has it.
        _toAggregate(id, 2, 1);
        _assertPhase(id, Phase.Aggregate);
    }

    function test_leave__twice__revertsNotEligible() external {
        uint256 id = _task(2);
        _leave(id, Role.Worker, _worker(1));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(1), 2));
        _leave(id, Role.Worker, _worker(1));
    }

    function test_leave__notEnrolled__reverts() external {
        uint256 id = _task(2);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEnrolled.selector, id, stranger));
        _leave(id, Role.Worker, stranger);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEnrolled.selector, id, _worker(0)));
        _leave(id, Role.Aggregator, _worker(0));
    }

    function test_leave__beforeTheStart__revertsUnexpectedPhase() external {
        uint256 id = _create(_params(2, 1, 1));
        _enrolAll(id, 1, 0, 0);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Enrolment, Phase.Commit)
        );
        _leave(id, Role.Worker, _worker(0));
        vm.expectPartialRevert(ITaskCoordinator.UnexpectedPhase.selector);
        _rejoin(id, Role.Worker, _worker(0));
    }

    function test_leave__completed__revertsUnexpectedPhase() external {
        uint256 id = _task(1);
        _idleRound(id);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Completed, Phase.Commit)
        );
        _leave(id, Role.Worker, _worker(0));
    }

    function test_leave__everybody__roundsPassWithRefunds() external {
        uint256 id = _task(2);
        _leave(id, Role.Worker, _worker(0));
        _leave(id, Role.Worker, _worker(1));
        _finalRound(id, 2, 2);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 0);
        _assertPhase(id, Phase.Commit);
        _idleRound(id);
        _assertPhase(id, Phase.Completed);
        vm.assertGe(vault.creditOf(requester), REWARD / 2);
    }

    // --- rejoin --------------------------------------------------------------------------------------------------

    function test_rejoin__sameRound__nothingIsLost() external {
        uint256 id = _task(2);
        _leave(id, Role.Worker, _worker(1));
        vm.expectEmit();
        emit ITaskCoordinator.MemberRejoined(id, Role.Worker, _worker(1), 2);
        _rejoin(id, Role.Worker, _worker(1));
        Member memory m = _member(id, Role.Worker, _worker(1));
        vm.assertEq(uint256(m.activeFrom), 1);
        _commit(id, _worker(1));
        _commit(id, _worker(0));
        _assertPhase(id, Phase.Reveal);
    }

    function test_rejoin__laterRound__countsFromTheNext() external {
        uint256 id = _task(4);
        _leave(id, Role.Worker, _worker(1));
        _finalRound(id, 2, 2);
        _rejoin(id, Role.Worker, _worker(1));
        vm.prank(_worker(1));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(1), 2));
        coordinator.commitUpdate(id, 2, "c");
        _finalRound(id, 1, 2);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 2);
        _finalRound(id, 2, 2);
    }

    function test_rejoin__active__revertsNotEligible() external {
        uint256 id = _task(2);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(1), 2));
        _rejoin(id, Role.Worker, _worker(1));
    }

    function test_rejoin__sameRound__keepsTheCountOfMissedRounds() external {
        uint256 id = _task(3);
        _idleRound(id);
        for (uint256 i; i < 2; ++i) {
            _leave(id, Role.Worker, _worker(1));
            _rejoin(id, Role.Worker, _worker(1));
        }
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(1)).missed), 1);
        _finalRound(id, 2, 2);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(1)).missed), 0);
    }

    /// @dev Worker 0 is put out by the settlement's first batch; worker 1 had left before it missed its second round.
    function test_rejoin__missedTheSecondInThisRound__revertsUntilTheNext() external {
        TaskParams memory p = _params(10, 1, 1);
        p.rounds = 4;
        uint256 id = _create(p);
        _enrolAll(id, 10, 1, 1);
        _idleRound(id);
        _leave(id, Role.Worker, _worker(1));
        _endPhase(id);
        coordinator.settle(id, 8);
        vm.assertEq(uint256(_round(id)), 2);
        for (uint256 i; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(i), 3));
            _rejoin(id, Role.Worker, _worker(i));
        }
        coordinator.settle(id, 8);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 0);
        _rejoin(id, Role.Worker, _worker(0));
        _rejoin(id, Role.Worker, _worker(1));
        _idleRound(id);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 2);
    }

    function test_rejoin__notEnrolled__reverts() external {
        uint256 id = _task(2);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEnrolled.selector, id, stranger));
        _rejoin(id, Role.Validator, stranger);
    }

    function test_leaveAndRejoin__manyTimes__countStaysRight() external {
        uint256 id = _task(4);
        for (uint256 i; i < 3; ++i) {
            _leave(id, Role.Worker, _worker(1));
            _rejoin(id, Role.Worker, _worker(1));
        }
        _leave(id, Role.Worker, _worker(1));
        _finalRound(id, 2, 2);
        // Away in round 2; comes and goes: away in round 3 as well.
        for (uint256 i; i < 3; ++i) {
            _rejoin(id, Role.Worker, _worker(1));
            _leave(id, Role.Worker, _worker(1));
        }
        _finalRound(id, 1, 2);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 1);
        _rejoin(id, Role.Worker, _worker(1));
        _finalRound(id, 1, 2);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 2);
    }

    // --- missing rounds ----------------------------------------------------------------------------------------------

    function test_missed__one__staysEligible() external {
        uint256 id = _task(3);
        _idleRound(id);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(0)).missed), 1);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 2);
    }

    function test_missed__two__hasLeftAndSaysSo() external {
        uint256 id = _task(3);
        _idleRound(id);
        _endPhase(id);
        vm.expectEmit();
        emit ITaskCoordinator.MemberLeft(id, Role.Worker, _worker(0), 3);
        vm.expectEmit();
        emit ITaskCoordinator.MemberLeft(id, Role.Worker, _worker(1), 3);
        _settleAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 0);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(0)), WORKER_STAKE, "missing is no slash");
    }

    function test_missed__oneThenTakesPart__countsFromZero() external {
        uint256 id = _task(4);
        _idleRound(id);
        _finalRound(id, 2, 2);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(0)).missed), 0);
        _idleRound(id);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 2);
    }

    function test_missed__twoThenRejoins__isEligibleAgain() external {
        uint256 id = _task(4);
        _idleRound(id);
        _idleRound(id);
        _rejoin(id, Role.Worker, _worker(0));
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(0)).missed), 0);
        _idleRound(id);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 1);
    }

    function test_missed__leavesAndRejoinsInEachRound__isPutOutAllTheSame() external {
        uint256 id = _task(3);
        for (uint256 i; i < 2; ++i) {
            _leave(id, Role.Worker, _worker(0));
            _rejoin(id, Role.Worker, _worker(0));
            _idleRound(id);
        }
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(0)).activeUntil), 3);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 0);
    }

    /// @dev Validators are settled, and put out, as the next round opens: they have no batch to rejoin after.
    function test_missed__validatorLeavesAndRejoinsInEachRound__isPutOutAllTheSame() external {
        uint256 id = _task(3);
        for (uint256 i; i < 2; ++i) {
            _leave(id, Role.Validator, _validator(1));
            _rejoin(id, Role.Validator, _validator(1));
            _updates(id, 2);
            _scoresAlike(id, 1, _same(2, 1, 1));
            _tallyAll(id);
            _settleAll(id);
        }
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleValidators), 1);
    }

    function test_missed__leftInTheSecondMissedRound__isCountedOnce() external {
        uint256 id = _task(3);
        _idleRound(id);
        _leave(id, Role.Worker, _worker(0));
        _idleRound(id);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 0);
        _rejoin(id, Role.Worker, _worker(0));
    }

    function test_missed__awayRounds__doNotCount() external {
        uint256 id = _task(4);
        _leave(id, Role.Worker, _worker(1));
        _finalRound(id, 2, 2);
        _finalRound(id, 1, 2);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(1)).missed), 0);
    }

    function test_missed__validatorInRoundWithoutUpdates__doesNotCount() external {
        uint256 id = _task(3);
        _idleRound(id);
        _idleRound(id);
        vm.assertEq(uint256(_member(id, Role.Validator, _validator(0)).missed), 0);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleValidators), 2);
        vm.assertEq(vault.lockOf(id, Role.Validator, _validator(0)), VALIDATOR_STAKE);
    }

    function test_missed__validatorTwoRounds__hasLeft() external {
        uint256 id = _task(3);
        for (uint256 i; i < 2; ++i) {
            _updates(id, 2);
            _scoresAlike(id, 1, _same(2, 1, 1));
            _tallyAll(id);
            _settleAll(id);
        }
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleValidators), 1);
        vm.assertEq(vault.lockOf(id, Role.Validator, _validator(1)), 240 ether, "slashed 10% twice");
    }

    // --- too little stake --------------------------------------------------------------------------------------------

    function _withSlash(uint16 workerSlashBps) private returns (uint256 id) {
        TaskParams memory p = _params(2, 1, 1);
        p.rounds = 4;
        p.economics.workerSlashBps = workerSlashBps;
        id = _create(p);
        _enrolAll(id, 2, 1, 1);
    }

    /// @dev Worker 1 commits and does not reveal.
    function _desert(uint256 id) private {
        _commitAll(id, 2);
        _reveal(id, _worker(0));
        _endPhase(id);
        _scoresAlike(id, 1, _same(2, 10_000, 1));
        _tallyAll(id);
        _finalise(id);
        _settleAll(id);
    }

    function test_poor__halfIsLeft__staysEligible() external {
        uint256 id = _withSlash(5000);
        _desert(id);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(1)), 50 ether);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 2);
    }

    function test_poor__lessThanHalfIsLeft__hasLeftAndCannotRejoin() external {
        uint256 id = _withSlash(5001);
        _desert(id);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(1)), 49.99 ether);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(1), 3));
        _rejoin(id, Role.Worker, _worker(1));
    }

    function test_poor__slashLargerThanWhatIsLeft__takesTheRest() external {
        uint256 id = _withSlash(5000);
        _desert(id);
        _desert(id);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(1)), 0);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(1)).stake), 0);
        _finalRound(id, 1, 1);
        _assertSolvent();
    }

    function test_poor__rejoinsBeforeItsSlash__isTakenOutBySettlement() external {
        uint256 id = _withSlash(10_000);
        _commitAll(id, 2);
        _leave(id, Role.Worker, _worker(1));
        _rejoin(id, Role.Worker, _worker(1));
        _reveal(id, _worker(0));
        _endPhase(id);
        _scoresAlike(id, 1, _same(2, 10_000, 1));
        _tallyAll(id);
        _finalise(id);
        _settleAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 1);
    }
}
