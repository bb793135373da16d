// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Draw, DrawBy, Member, Outcome, Phase, Role, RoundView, TaskParams } from "../../src/interfaces/Types.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Follows TaskCoordinatorDraw.tree: rounds in which not everybody takes part.
contract TaskCoordinatorDrawTest is Deployed {
    uint16 private constant IDLE = type(uint16).max - 1;

    /// @dev Five workers, `perRound` a round, one validator and one aggregator.
    function _drawnTask(uint16 perRound, DrawBy by, uint16 rounds) private returns (uint256 id) {
        TaskParams memory p = _params(5, 1, 1);
        (p.draw, p.rounds) = (Draw(perRound, by), rounds);
        id = _create(p);
        _enrolAll(id, 5, 1, 1);
    }

    /// @dev Draws, and gives those who were drawn in the order of the list.
    function _drawn(uint256 id) private returns (address[] memory) {
        _mine(1);
        coordinator.drawWorkers(id);
        return _active(id);
    }

    function _active(uint256 id) private view returns (address[] memory drawn) {
        address[] memory workers = coordinator.membersOf(id, Role.Worker);
        drawn = new address[](workers.length);
        uint256 count;
        for (uint256 i; i < workers.length; ++i) {
            if (_member(id, Role.Worker, workers[i]).activeFrom == _round(id)) drawn[count++] = workers[i];
        }
        assembly ("memory-safe") {
            mstore(drawn, count)
        }
    }

    /// @dev Somebody who was not drawn.
    function _idle(uint256 id) private view returns (address) {
        address[] memory workers = coordinator.membersOf(id, Role.Worker);
        for (uint256 i; i < workers.length; ++i) {
            if (_member(id, Role.Worker, workers[i]).activeFrom == IDLE) return workers[i];
        }
        revert("everybody was drawn");
    }

    /// @dev From the draw to ScoreCommit, all of them.
    function _updatesOf(uint256 id, address[] memory drawn) private {
        for (uint256 i; i < drawn.length; ++i) {
            _commit(id, drawn[i]);
        }
        for (uint256 i; i < drawn.length; ++i) {
            _reveal(id, drawn[i]);
        }
    }

    /// @dev The rest of a round to its settlement.
    function _finish(uint256 id, uint16 weight) private {
        _scoresAlike(id, 1, _same(5, weight, weight));
        _tallyAll(id);
        if (_phase(id) == Phase.Aggregate) _finalise(id);
        _settleAll(id);
    }

    function _idleRound(uint256 id) private {
        _endPhase(id);
        _settleAll(id);
    }

    function _leave(uint256 id, address worker) private {
        vm.prank(worker);
        coordinator.leave(id, Role.Worker);
    }

    function _rejoin(uint256 id, address worker) private {
        vm.prank(worker);
        coordinator.rejoin(id, Role.Worker);
    }

    function _activeFrom(uint256 id, address worker) private view returns (uint256) {
        return _member(id, Role.Worker, worker).activeFrom;
    }

    function _reputation(uint256 id, address worker) private view returns (uint256) {
        return coordinator.workerReputationOf(id, worker);
    }

    // --- drawWorkers -------------------------------------------------------------------------------------------

    function test_drawWorkers__blockOfTheOpening__revertsSeedNotReady() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        uint256 opened = coordinator.roundOf(id).openedBlock;
        vm.assertEq(opened, vm.getBlockNumber());
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.SeedNotReady.selector, opened));
        coordinator.drawWorkers(id);
    }

    function test_drawWorkers__nextBlock__drawsWhoeverCalls() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.pool), 5);
        vm.assertEq(uint256(r.eligibleWorkers), 0);
        _mine(1);
        vm.recordLogs();
        vm.prank(stranger);
        coordinator.drawWorkers(id);
        address[] memory told = abi.decode(vm.getRecordedLogs()[0].data, (address[]));
        vm.assertEq(told.length, 3);
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(_activeFrom(id, told[i]), 1);
        }
        vm.assertEq(_active(id).length, 3);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 3);
    }

    function test_drawWorkers__twice__revertsAlreadyDrawn() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        _drawn(id);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.AlreadyDrawn.selector, id, 1));
        coordinator.drawWorkers(id);
    }

    function test_drawWorkers__everybodyTakesPart__revertsNotDrawn() external {
        uint256 id = _started(3, 1, 1);
        _mine(1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotDrawn.selector, id));
        coordinator.drawWorkers(id);
    }

    function test_drawWorkers__otherPhases__revertsUnexpectedPhase() external {
        TaskParams memory p = _params(5, 1, 1);
        p.draw = Draw(3, DrawBy.Uniform);
        uint256 id = _create(p);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Enrolment, Phase.Commit)
        );
        coordinator.drawWorkers(id);
        _enrolAll(id, 5, 1, 1);
        _endPhase(id);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Settlement, Phase.Commit)
        );
        coordinator.drawWorkers(id);
    }

    function test_drawWorkers__lastSecondOfCommit__draws() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        (, uint40 end) = coordinator.phaseOf(id);
        _mineAt(end - 1);
        coordinator.drawWorkers(id);
        vm.assertEq(_active(id).length, 3);
    }

    function test_drawWorkers__emptyPool__revertsNobodyToDraw() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 3);
        for (uint256 i; i < 5; ++i) {
            _leave(id, _worker(i));
        }
        _idleRound(id);
        vm.assertEq(uint256(coordinator.roundOf(id).pool), 0);
        _mine(1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NobodyToDraw.selector, id, 2));
        coordinator.drawWorkers(id);
        _idleRound(id);
        vm.assertEq(_round(id), 3);
    }

    function test_drawWorkers__seed256BlocksOld__draws() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        uint256 opened = vm.getBlockNumber();
        vm.roll(opened + 256);
        vm.setBlockhash(opened, "known");
        coordinator.drawWorkers(id);
        vm.assertEq(_active(id).length, 3);
    }

    function test_drawWorkers__seed257BlocksOld__rollsItAndKeepsTheClock() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        (, uint40 end) = coordinator.phaseOf(id);
        uint256 opened = vm.getBlockNumber();
        vm.roll(opened + 257);
        vm.expectEmit();
        emit ITaskCoordinator.SeedRolled(id, 1, uint40(opened + 257));
        coordinator.drawWorkers(id);
        vm.assertEq(uint256(coordinator.roundOf(id).eligibleWorkers), 0);
        vm.assertEq(uint256(coordinator.roundOf(id).openedBlock), opened);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.SeedNotReady.selector, opened + 257));
        coordinator.drawWorkers(id);
        vm.assertEq(_drawn(id).length, 3);
        (, uint40 endNow) = coordinator.phaseOf(id);
        vm.assertEq(uint256(endNow), end);
    }

    // --- a drawn round -------------------------------------------------------------------------------------------

    function test_commit__beforeTheDraw__revertsNotEligible() external {
        uint256 id = _drawnTask(5, DrawBy.Uniform, 2);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(0), 1));
        vm.prank(_worker(0));
        coordinator.commitUpdate(id, 1, "c");
        _assertPhase(id, Phase.Commit);
    }

    function test_round__nobodyDraws__endsWithoutUpdatesAndIsRefunded() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        _endPhase(id);
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.NoUpdates));
        _settleAll(id);
        vm.assertEq(vault.creditOf(requester), REWARD / 2);
        for (uint256 i; i < 5; ++i) {
            Member memory m = _member(id, Role.Worker, _worker(i));
            vm.assertEq(abi.encode(m.activeFrom, m.missed, m.stake), abi.encode(IDLE, 0, WORKER_STAKE));
        }
    }

    function test_commit__lastOfThoseDrawn__endsCommit() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        address[] memory drawn = _drawn(id);
        _commit(id, drawn[0]);
        _commit(id, drawn[1]);
        _assertPhase(id, Phase.Commit);
        _commit(id, drawn[2]);
        _assertPhase(id, Phase.Reveal);
    }

    function test_commit__notDrawn__revertsNotEligibleAndIsNoMiss() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        address[] memory drawn = _drawn(id);
        address idle = _idle(id);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, idle, 1));
        vm.prank(idle);
        coordinator.commitUpdate(id, 1, "c");
        _updatesOf(id, drawn);
        _finish(id, 10_000);
        vm.assertEq(uint256(_member(id, Role.Worker, idle).missed), 0);
        vm.assertEq(vault.creditOf(idle), 0);
    }

    function test_round__drawn__weighsPaysAndPutsBack() external {
        uint256 id = _drawnTask(3, DrawBy.Uniform, 2);
        address[] memory drawn = _drawn(id);
        _updatesOf(id, drawn);
        _finish(id, 10_000);
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(uint256(_member(id, Role.Worker, drawn[i]).weight), 10_000);
            vm.assertEq(vault.creditOf(drawn[i]), REWARD / 2 * 7 / 10 / 3);
        }
        for (uint256 i; i < 5; ++i) {
            vm.assertEq(_activeFrom(id, _worker(i)), IDLE);
        }
        vm.assertEq(_round(id), 2);
        vm.assertEq(uint256(coordinator.roundOf(id).pool), 5);
        vm.assertEq(_drawn(id).length, 3);
        _assertSolvent();
    }

    function test_missed__roundsDrawnFor__countAndNoOthers() external {
        uint256 id = _drawnTask(1, DrawBy.Uniform, 60);
        uint256[5] memory misses;
        for (uint256 left = 5; left > 0;) {
            address drawn = _drawn(id)[0];
            _idleRound(id);
            for (uint256 i; i < 5; ++i) {
                if (_worker(i) == drawn && ++misses[i] == 2) --left;
                bool gone = _member(id, Role.Worker, _worker(i)).activeUntil != type(uint16).max;
                vm.assertEq(gone, misses[i] == 2);
            }
            vm.assertEq(uint256(coordinator.roundOf(id).pool), left);
        }
    }

    function test_missed__leavesAndRejoinsInEachRound__isPutOutAllTheSame() external {
        uint256 id = _drawnTask(1, DrawBy.Uniform, 60);
        uint256[5] memory misses;
        for (bool over; !over;) {
            address drawn = _drawn(id)[0];
            for (uint256 i; i < 5; ++i) {
                _leave(id, _worker(i));
                _rejoin(id, _worker(i));
            }
            _idleRound(id);
            for (uint256 i; i < 5; ++i) {
                if (_worker(i) == drawn && ++misses[i] == 2) over = true;
                bool gone = _member(id, Role.Worker, _worker(i)).activeUntil != type(uint16).max;
                vm.assertEq(gone, misses[i] == 2);
            }
        }
        vm.assertEq(uint256(coordinator.roundOf(id).pool), 4);
    }

    function test_settle__batches__putBackWhoIsInThem() external {
        TaskParams memory p = _params(10, 1, 1);
        p.draw = Draw(9, DrawBy.Uniform);
        uint256 id = _create(p);
        _enrolAll(id, 10, 1, 1);
        _drawn(id);
        _endPhase(id);
        coordinator.settle(id, 8);
        vm.assertEq(_round(id), 1);
        for (uint256 i; i < 8; ++i) {
            vm.assertEq(_activeFrom(id, _worker(i)), IDLE);
        }
        vm.assertTrue(_activeFrom(id, _worker(8)) == 1 || _activeFrom(id, _worker(9)) == 1);
        coordinator.settle(id, 8);
        vm.assertEq(_round(id), 2);
        vm.assertEq(_active(id).length, 0);
    }

    // --- leave and rejoin ------------------------------------------------------------------------------------------

    function test_leave__beforeTheDraw__isInThisPoolAndNotInTheNext() external {
        uint256 id = _drawnTask(5, DrawBy.Uniform, 2);
        _leave(id, _worker(2));
        address[] memory drawn = _drawn(id);
        vm.assertEq(drawn.length, 5);
        _updatesOf(id, drawn);
        _finish(id, 10_000);
        vm.assertEq(uint256(coordinator.roundOf(id).pool), 4);
        _drawn(id);
        vm.assertEq(_activeFrom(id, _worker(2)), IDLE);
    }

    /// @dev The pool is what it was when the seed's block was made: nobody enters it once the seed is known.
    function test_rejoin__beforeTheDraw__isInTheNextPool() external {
        uint256 id = _drawnTask(5, DrawBy.Uniform, 3);
        _leave(id, _worker(2));
        _idleRound(id);
        vm.expectEmit();
        emit ITaskCoordinator.MemberRejoined(id, Role.Worker, _worker(2), 3);
        _rejoin(id, _worker(2));
        vm.assertEq(_drawn(id).length, 4);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(2), 2));
        vm.prank(_worker(2));
        coordinator.commitUpdate(id, 2, "c");
        _idleRound(id);
        vm.assertEq(uint256(coordinator.roundOf(id).pool), 5);
        vm.assertEq(_activeFrom(id, _worker(2)), IDLE);
        vm.assertEq(_drawn(id).length, 5);
    }

    function test_rejoin__betweenBatchesOfTheSettlement__isNeverActiveUndrawn() external {
        TaskParams memory p = _params(10, 1, 1);
        (p.draw, p.rounds) = (Draw(2, DrawBy.Uniform), 3);
        uint256 id = _create(p);
        _enrolAll(id, 10, 1, 1);
        _leave(id, _worker(0));
        _leave(id, _worker(9));
        _idleRoundInBatches(id);
        _drawn(id);
        _endPhase(id);
        coordinator.settle(id, 8);
        // The settlement has come by the one, and not yet by the other.
        _rejoin(id, _worker(0));
        _rejoin(id, _worker(9));
        coordinator.settle(id, 8);
        vm.assertEq(uint256(coordinator.roundOf(id).pool), 10);
        vm.assertEq(_activeFrom(id, _worker(0)), IDLE);
        vm.assertEq(_activeFrom(id, _worker(9)), IDLE);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotEligible.selector, id, _worker(0), 3));
        vm.prank(_worker(0));
        coordinator.commitUpdate(id, 3, "c");
    }

    function _idleRoundInBatches(uint256 id) private {
        _endPhase(id);
        coordinator.settle(id, 8);
        coordinator.settle(id, 8);
    }

    function test_rejoin__drawnAndLeft__commitsAndGoesBack() external {
        uint256 id = _drawnTask(5, DrawBy.Uniform, 3);
        address[] memory drawn = _drawn(id);
        _leave(id, _worker(1));
        _rejoin(id, _worker(1));
        _updatesOf(id, drawn);
        _finish(id, 10_000);
        vm.assertEq(_activeFrom(id, _worker(1)), IDLE);
        vm.assertEq(uint256(coordinator.roundOf(id).pool), 5);
    }

    // --- reputation ------------------------------------------------------------------------------------------------

    function test_reputation__enrolment__isTheMiddleInTasksThatDrawByItAlone() external {
        uint256 id = _drawnTask(3, DrawBy.Reputation, 2);
        vm.assertEq(_reputation(id, _worker(0)), 5000);
        vm.assertEq(_reputation(id, _validator(0)), 0);
        vm.assertEq(_reputation(_drawnTask(3, DrawBy.Stake, 2), _worker(0)), 0);
        vm.assertEq(_reputation(_started(3, 1, 1), _worker(0)), 0);
    }

    function test_reputation__weights__moveItAQuarterOfTheWay() external {
        uint256 id = _drawnTask(5, DrawBy.Reputation, 3);
        _updatesOf(id, _drawn(id));
        _scoresAlike(id, 1, _same(5, 9999, 1));
        _tallyAll(id);
        _finalise(id);
        vm.expectEmit();
        emit ITaskCoordinator.ReputationChanged(id, 1, _worker(0), 6249);
        _settleAll(id);
        // (3 * 5000 + 9999) / 4, and then without an update.
        vm.assertEq(_reputation(id, _worker(0)), 6249);
        _drawn(id);
        _idleRound(id);
        vm.assertEq(_reputation(id, _worker(0)), 4686);
    }

    function test_reputation__rejectedOrNotRevealed__countsZero() external {
        uint256 id = _drawnTask(5, DrawBy.Reputation, 2);
        _drawn(id);
        _commit(id, _worker(0));
        _commit(id, _worker(1));
        _endPhase(id);
        _reveal(id, _worker(0));
        _endPhase(id);
        _finish(id, 0);
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(_reputation(id, _worker(i)), 3750);
        }
    }

    function test_reputation__quorumMissed__stays() external {
        uint256 id = _drawnTask(3, DrawBy.Reputation, 2);
        address[] memory drawn = _drawn(id);
        _updatesOf(id, drawn);
        _endPhase(id);
        _tallyAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.QuorumMissed));
        _settleAll(id);
        vm.assertEq(_reputation(id, drawn[0]), 5000);
        vm.assertEq(_activeFrom(id, drawn[0]), IDLE);
    }

    function test_reputation__refuted__countsZero() external {
        uint256 id = _drawnTask(5, DrawBy.Reputation, 2);
        _updatesOf(id, _drawn(id));
        _fund(stranger, DEMAND_FEE);
        vm.prank(stranger);
        coordinator.demandChunk(id, 1, 2, 0);
        _mine(ANSWER);
        _finish(id, 10_000);
        vm.assertTrue(coordinator.isRefuted(id, 1, 2));
        vm.assertEq(_reputation(id, _worker(2)), 3750);
        vm.assertEq(_reputation(id, _worker(1)), 6250);
    }

    function test_reputation__notDrawn__stays() external {
        uint256 id = _drawnTask(2, DrawBy.Reputation, 2);
        _updatesOf(id, _drawn(id));
        address idle = _idle(id);
        _finish(id, 10_000);
        vm.assertEq(_reputation(id, idle), 5000);
    }

    // --- stake -------------------------------------------------------------------------------------------------------

    function test_stake__fourTimesAsMuch__isDrawnHalfOfTheTime() external {
        TaskParams memory p = _params(5, 1, 1);
        (p.draw, p.rounds) = (Draw(1, DrawBy.Stake), 100);
        uint256 id = _create(p);
        _enrol(id, Role.Worker, _worker(0), 4 * WORKER_STAKE);
        for (uint256 i = 1; i < 5; ++i) {
            _enrol(id, Role.Worker, _worker(i), WORKER_STAKE);
        }
        _enrol(id, Role.Validator, _validator(0), VALIDATOR_STAKE);
        _enrol(id, Role.Aggregator, _aggregator(0), 0);
        uint256 often;
        for (uint256 round; round < 60; ++round) {
            if (_drawn(id)[0] == _worker(0)) ++often;
            _updatesOf(id, _active(id));
            _endPhase(id);
            _tallyAll(id);
            _settleAll(id);
        }
        // Half of the rounds: 4 of 8.
        vm.assertTrue(often > 15 && often < 45);
    }
}
