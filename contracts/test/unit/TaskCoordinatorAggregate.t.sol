// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Cid, Member, Outcome, Phase, Role, RoundView, TaskParams } from "../../src/interfaces/Types.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Follows TaskCoordinatorAggregate.tree.
contract TaskCoordinatorAggregateTest is Deployed {
    /// @dev A task of one worker and one validator, whose first round is in Aggregate.
    function _inAggregate(uint16 aggregators) private returns (uint256 id) {
        id = _started(1, 1, aggregators);
        _toAggregate(id, 1, 1);
        _assertPhase(id, Phase.Aggregate);
    }

    function _withdrawAll(address account) private {
        uint256 free = vault.freeOf(account);
        vm.prank(account);
        vault.withdraw(free);
    }

    function _aggregateStart(uint256 id) private view returns (uint256) {
        return coordinator.roundOf(id).aggregateStart;
    }

    // --- drawOrder -----------------------------------------------------------------------------------

    function test_drawOrder__inTheSeedBlock__revertsSeedNotReady() external {
        uint256 id = _inAggregate(1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.SeedNotReady.selector, vm.getBlockNumber()));
        coordinator.drawOrder(id);
    }

    function test_drawOrder__oneBlockLater__drawsAndEmits() external {
        uint256 id = _inAggregate(1);
        _mine(0);
        address[3] memory order;
        order[0] = _aggregator(0);
        vm.expectEmit();
        emit ITaskCoordinator.OrderDrawn(id, 1, order, 1);
        vm.prank(stranger);
        coordinator.drawOrder(id);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertTrue(r.orderDrawn);
        vm.assertEq(r.order[0], _aggregator(0));
    }

    function test_drawOrder__again__revertsOrderAlreadyDrawn() external {
        uint256 id = _inAggregate(2);
        _draw(id);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.OrderAlreadyDrawn.selector, id));
        coordinator.drawOrder(id);
    }

    function test_drawOrder__beforeAggregate__revertsUnexpectedPhase() external {
        uint256 id = _started(1, 1, 1);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Commit, Phase.Aggregate)
        );
        coordinator.drawOrder(id);
    }

    function test_drawOrder__afterAggregate__revertsUnexpectedPhase() external {
        uint256 id = _inAggregate(1);
        _endPhase(id);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Settlement, Phase.Aggregate)
        );
        coordinator.drawOrder(id);
    }

    function test_drawOrder__sixteenCandidates__threeDifferentHolders() external {
        uint256 id = _inAggregate(16);
        address[3] memory order = _draw(id);
        vm.assertNotEq(order[0], order[1]);
        vm.assertNotEq(order[0], order[2]);
        vm.assertNotEq(order[1], order[2]);
        for (uint256 i; i < 3; ++i) {
            vm.assertTrue(_member(id, Role.Aggregator, order[i]).activeFrom == 1, "a stranger holds a slot");
        }
    }

    function test_drawOrder__otherSeeds__everyCandidateIsFirstAtTimes() external {
        uint256 id = _inAggregate(3);
        uint256[3] memory first;
        uint256 seedBlock = vm.getBlockNumber();
        vm.roll(seedBlock + 1);
        for (uint256 i; i < 60; ++i) {
            uint256 state = vm.snapshotState();
            vm.setBlockhash(seedBlock, keccak256(abi.encode("seed", i)));
            coordinator.drawOrder(id);
            address holder = coordinator.roundOf(id).order[0];
            vm.revertToState(state);
            for (uint256 a; a < 3; ++a) {
                if (holder == _aggregator(a)) ++first[a];
            }
        }
        for (uint256 a; a < 3; ++a) {
            vm.assertGe(first[a], 10, "an order that is not uniform");
        }
    }

    /// @dev Who could move the others by moving money could draw until it likes the order.
    function test_drawOrder__oneLacksTheBond__theOthersKeepTheirOrder() external {
        uint256 id = _inAggregate(5);
        uint256 state = vm.snapshotState();
        address[3] memory before = _draw(id);
        vm.revertToState(state);

        _withdrawAll(before[0]);
        address[3] memory after_ = _draw(id);
        vm.assertEq(after_[0], before[1]);
        vm.assertEq(after_[1], before[2]);
        vm.assertNotEq(after_[2], before[0]);
        vm.assertNotEq(after_[2], address(0));
    }

    function test_drawOrder__bondOneWeiShort__isSkipped() external {
        uint256 id = _inAggregate(1);
        vm.prank(_aggregator(0));
        vault.withdraw(1);
        address[3] memory order = _draw(id);
        vm.assertEq(order[0], address(0));
    }

    function test_drawOrder__holderLeftThisRound__stillHoldsItsSlot() external {
        uint256 id = _started(1, 1, 1);
        vm.prank(_aggregator(0));
        coordinator.leave(id, Role.Aggregator);
        _toAggregate(id, 1, 1);
        vm.assertEq(uint256(coordinator.roundOf(id).numSlots), 1);
        vm.assertEq(_draw(id)[0], _aggregator(0));
    }

    function test_drawOrder__leftLastRound__isNoCandidate() external {
        uint256 id = _started(1, 1, 2);
        vm.prank(_aggregator(0));
        coordinator.leave(id, Role.Aggregator);
        _finalRound(id, 1, 1);
        _toAggregate(id, 1, 1);
        address[3] memory order = _draw(id);
        vm.assertEq(uint256(coordinator.roundOf(id).numSlots), 1);
        vm.assertEq(order[0], _aggregator(1));
        vm.assertEq(order[1], address(0));
    }

    function test_drawOrder__seed256BlocksOld__draws() external {
        uint256 id = _inAggregate(1);
        uint256 seedBlock = vm.getBlockNumber();
        vm.roll(seedBlock + 256);
        vm.setBlockhash(seedBlock, keccak256("seed"));
        coordinator.drawOrder(id);
        vm.assertTrue(coordinator.roundOf(id).orderDrawn);
    }

    function test_drawOrder__seed257BlocksOld__rolls() external {
        uint256 id = _inAggregate(1);
        vm.roll(vm.getBlockNumber() + 257);
        vm.expectEmit();
        emit ITaskCoordinator.SeedRolled(id, 1, uint40(vm.getBlockNumber()));
        coordinator.drawOrder(id);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertFalse(r.orderDrawn);
        vm.assertEq(uint256(r.seedBlock), vm.getBlockNumber());

        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.SeedNotReady.selector, vm.getBlockNumber()));
        coordinator.drawOrder(id);
        vm.assertEq(_draw(id)[0], _aggregator(0));
    }

    function test_drawOrder__rolledSeed__clockGoesOn() external {
        uint256 id = _inAggregate(1);
        (, uint40 end) = coordinator.phaseOf(id);
        vm.roll(vm.getBlockNumber() + 300);
        coordinator.drawOrder(id);
        (, uint40 after_) = coordinator.phaseOf(id);
        vm.assertEq(uint256(after_), uint256(end));
    }

    /// @dev A late draw that finds nobody with the bond must not take the open window away from who committed.
    function test_drawOrder__inTheOpenWindowWithNoBonds__windowKeepsItsLength() external {
        uint256 id = _inAggregate(1);
        _withdrawAll(_aggregator(0));
        (, uint40 end) = coordinator.phaseOf(id);
        vm.assertEq(uint256(end), _aggregateStart(id) + 4 * SLOT);
        _mineAt(end - 1);
        coordinator.drawOrder(id);
        _assertPhase(id, Phase.Aggregate);
        (, uint40 after_) = coordinator.phaseOf(id);
        vm.assertEq(uint256(after_), uint256(end));
    }

    // --- postAggregate in a slot -----------------------------------------------------------------------

    function test_post__holderInItsSlot__postsLocksBondAndEmits() external {
        uint256 id = _inAggregate(1);
        _mine(1);
        uint256 free = vault.freeOf(_aggregator(0));
        vm.expectEmit();
        emit ITaskCoordinator.AggregatePosted(
            id, 1, _aggregator(0), 1, _claimOf(_modelRoot(1)), _aggregateCid(1), _floatCid(1)
        );
        _post(id, _aggregator(0));

        _assertPhase(id, Phase.Challenge);
        vm.assertEq(vault.lockOf(id, Role.Aggregator, _aggregator(0)), BOND);
        vm.assertEq(free - vault.freeOf(_aggregator(0)), BOND);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(r.aggregator, _aggregator(0));
        vm.assertEq(r.aggregateRoot, _modelRoot(1));
        vm.assertEq(r.aggregateCid.digest, _aggregateCid(1).digest);
        vm.assertEq(uint256(r.aggregateCid.codec), 0x70);
        vm.assertEq(uint256(r.aggregateFloatCid.codec), 0x55);
        vm.assertEq(uint256(r.postedAt), _now());
        vm.assertEq(r.modelRoot, GENESIS, "the model moves only when the round is final");
        (, uint40 end) = coordinator.phaseOf(id);
        vm.assertEq(uint256(end), _now() + CHALLENGE);
    }

    function test_post__inTheSeedBlock__revertsSeedNotReady() external {
        uint256 id = _inAggregate(1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.SeedNotReady.selector, vm.getBlockNumber()));
        _postRaw(id, _aggregator(0));
    }

    function test_post__seedExpired__revertsSeedExpired() external {
        uint256 id = _inAggregate(1);
        uint256 seedBlock = vm.getBlockNumber();
        vm.roll(seedBlock + 257);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.SeedExpired.selector, seedBlock));
        _postRaw(id, _aggregator(0));
    }

    function test_post__anotherInTheSlot__revertsNotYourSlot() external {
        uint256 id = _inAggregate(2);
        address[3] memory order = _draw(id);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotYourSlot.selector, order[0], order[1]));
        _postRaw(id, order[1]);
    }

    /// @dev A copy of a waiting transaction is worthless in the slot, with or without a commitment.
    function test_post__copiedInTheSlotWithCommitment__revertsNotYourSlot() external {
        uint256 id = _inAggregate(1);
        _fund(stranger, BOND);
        _commitAggregate(id, stranger, "s");
        _mine(1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotYourSlot.selector, _aggregator(0), stranger));
        _postRaw(id, stranger, "s");
    }

    function test_post__slotEdges__turnAtTheVerySecond() external {
        uint256 id = _inAggregate(3);
        address[3] memory order = _draw(id);
        uint256 start = _aggregateStart(id);
        for (uint256 k; k < 3; ++k) {
            uint256 state = vm.snapshotState();
            _mineAt(start + (k + 1) * SLOT - 1);
            _post(id, order[k]);
            _assertPhase(id, Phase.Challenge);
            vm.revertToState(state);
            if (k == 2) continue;
            _mineAt(start + (k + 1) * SLOT);
            vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotYourSlot.selector, order[k + 1], order[k]));
            _postRaw(id, order[k]);
            vm.revertToState(state);
        }
    }

    function test_post__lastSlotOver__needsACommitment() external {
        uint256 id = _inAggregate(1);
        address[3] memory order = _draw(id);
        _mineAt(_aggregateStart(id) + SLOT);
        vm.expectPartialRevert(ITaskCoordinator.CommitmentMismatch.selector);
        _postRaw(id, order[0]);
    }

    function test_post__bondGoneAfterTheDraw__revertsStakeTooLow() external {
        uint256 id = _inAggregate(1);
        _draw(id);
        vm.prank(_aggregator(0));
        vault.withdraw(1);
        vm.expectRevert(
            abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, _aggregator(0), uint256(BOND) - 1, uint256(BOND))
        );
        _postRaw(id, _aggregator(0));
    }

    function test_post__twice__revertsUnexpectedPhase() external {
        uint256 id = _inAggregate(1);
        _mine(1);
        _post(id, _aggregator(0));
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Challenge, Phase.Aggregate)
        );
        _postRaw(id, _aggregator(0));
    }

    function test_post__zeroRoot__revertsZeroRoot() external {
        uint256 id = _inAggregate(1);
        _mine(1);
        vm.prank(_aggregator(0));
        vm.expectRevert(ITaskCoordinator.ZeroRoot.selector);
        coordinator.postAggregate(id, 1, _claimOf(0), _aggregateCid(1), _floatCid(1), 0);
    }

    function test_post__badCodecs__revertInvalidCid() external {
        uint256 id = _inAggregate(1);
        _mine(1);
        vm.startPrank(_aggregator(0));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.InvalidCid.selector, 0x71));
        coordinator.postAggregate(id, 1, _claimOf(_modelRoot(1)), Cid(0, 0x71), _floatCid(1), 0);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.InvalidCid.selector, 0));
        coordinator.postAggregate(id, 1, _claimOf(_modelRoot(1)), _aggregateCid(1), Cid(0, 0), 0);
    }

    function test_post__otherRound__revertsUnexpectedRound() external {
        uint256 id = _inAggregate(1);
        _mine(1);
        vm.prank(_aggregator(0));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.UnexpectedRound.selector, id, 1, 2));
        coordinator.postAggregate(id, 2, _claimOf(_modelRoot(2)), _aggregateCid(2), _floatCid(2), 0);
    }

    function test_post__afterTheOpenWindow__revertsUnexpectedPhase() external {
        uint256 id = _inAggregate(1);
        _commitAggregate(id, _aggregator(0), "s");
        _mineAt(_aggregateStart(id) + 4 * SLOT);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Settlement, Phase.Aggregate)
        );
        _postRaw(id, _aggregator(0), "s");
    }

    // --- the open window -------------------------------------------------------------------------------

    function test_open__commitmentABlockOld__anybodyPosts() external {
        uint256 id = _inAggregate(1);
        _fund(stranger, BOND);
        vm.expectEmit();
        emit ITaskCoordinator.AggregateCommitted(id, 1, stranger, _aggregateCommitment(id, 1, stranger, "s"));
        _commitAggregate(id, stranger, "s");
        _mineAt(_aggregateStart(id) + SLOT);
        _post(id, stranger, "s");
        vm.assertEq(coordinator.roundOf(id).aggregator, stranger);
    }

    function test_open__lastSecond__posts() external {
        uint256 id = _inAggregate(1);
        _commitAggregate(id, _aggregator(0), "s");
        _mineAt(_aggregateStart(id) + 4 * SLOT - 1);
        _post(id, _aggregator(0), "s");
        _assertPhase(id, Phase.Challenge);
    }

    function test_open__commitmentInTheSameBlock__revertsCommitmentTooYoung() external {
        uint256 id = _inAggregate(1);
        _fund(stranger, BOND);
        _mineAt(_aggregateStart(id) + SLOT);
        _commitAggregate(id, stranger, "s");
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.CommitmentTooYoung.selector, vm.getBlockNumber()));
        _postRaw(id, stranger, "s");
        _mine(1);
        _post(id, stranger, "s");
    }

    /// @dev The honest root is unique: who sees it in the mempool knows all but a commitment of its own.
    function test_open__copiedFromTheMempool__reverts() external {
        uint256 id = _inAggregate(1);
        _fund(stranger, BOND);
        _commitAggregate(id, _aggregator(0), "s");
        _mineAt(_aggregateStart(id) + SLOT);
        vm.expectRevert(
            abi.encodeWithSelector(
                ITaskCoordinator.CommitmentMismatch.selector, 0, _aggregateCommitment(id, 1, stranger, "s")
            )
        );
        _postRaw(id, stranger, "s");
        // A copy of the commitment names its owner.
        bytes32 copied = _aggregateCommitment(id, 1, _aggregator(0), "s");
        vm.prank(stranger);
        coordinator.commitAggregate(id, 1, copied);
        _mine(1);
        vm.expectPartialRevert(ITaskCoordinator.CommitmentMismatch.selector);
        _postRaw(id, stranger, "s");
    }

    function test_open__otherRootThanCommitted__revertsCommitmentMismatch() external {
        uint256 id = _inAggregate(1);
        _commitAggregate(id, _aggregator(0), "s");
        _mineAt(_aggregateStart(id) + SLOT);
        vm.prank(_aggregator(0));
        vm.expectPartialRevert(ITaskCoordinator.CommitmentMismatch.selector);
        coordinator.postAggregate(id, 1, _claimOf(keccak256("another")), _aggregateCid(1), _floatCid(1), "s");
    }

    function test_open__commitmentOfTheLastRound__revertsCommitmentMismatch() external {
        uint256 id = _started(1, 1, 1);
        _toAggregate(id, 1, 1);
        _commitAggregate(id, stranger, "s");
        _finalise(id);
        _settleAll(id);
        _toAggregate(id, 1, 1);
        _fund(stranger, BOND);
        _mineAt(_aggregateStart(id) + SLOT);
        vm.prank(stranger);
        vm.expectPartialRevert(ITaskCoordinator.CommitmentMismatch.selector);
        coordinator.postAggregate(id, 2, _claimOf(_modelRoot(2)), _aggregateCid(2), _floatCid(2), "s");
    }

    function test_open__withoutTheBond__revertsStakeTooLow() external {
        uint256 id = _inAggregate(1);
        _commitAggregate(id, stranger, "s");
        _mineAt(_aggregateStart(id) + SLOT);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, stranger, 0, uint256(BOND)));
        _postRaw(id, stranger, "s");
    }

    function test_open__nobodyEnrolled__isOpenAtOnceForThreeSlots() external {
        TaskParams memory p = _params(1, 1, 1);
        p.aggregators.min = 0;
        uint256 id = _create(p);
        _enrolAll(id, 1, 1, 0);
        _mineAt(p.enrolmentEnd);
        coordinator.startTask(id);
        _toAggregate(id, 1, 1);
        vm.assertEq(uint256(coordinator.roundOf(id).numSlots), 0);
        (, uint40 end) = coordinator.phaseOf(id);
        vm.assertEq(uint256(end), _now() + 3 * SLOT);
        _fund(stranger, BOND);
        _commitAggregate(id, stranger, "s");
        _mine(1);
        _post(id, stranger, "s");
        _assertPhase(id, Phase.Challenge);
    }

    /// @dev A slot that nobody can hold is not lost time.
    function test_open__slotWithoutHolder__isOpen() external {
        uint256 id = _inAggregate(2);
        _withdrawAll(_aggregator(0));
        _fund(stranger, BOND);
        _commitAggregate(id, stranger, "s");
        vm.assertEq(_draw(id)[0], _aggregator(1));
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotYourSlot.selector, _aggregator(1), stranger));
        _postRaw(id, stranger, "s");
        _mineAt(_aggregateStart(id) + SLOT);
        _post(id, stranger, "s");
        _assertPhase(id, Phase.Challenge);
    }

    function test_commitAggregate__beforeAggregate__revertsUnexpectedPhase() external {
        uint256 id = _started(1, 1, 1);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Commit, Phase.Aggregate)
        );
        coordinator.commitAggregate(id, 1, "c");
    }

    function test_commitAggregate__otherRound__revertsUnexpectedRound() external {
        uint256 id = _inAggregate(1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.UnexpectedRound.selector, id, 1, 2));
        coordinator.commitAggregate(id, 2, "c");
    }

    function test_commitAggregate__again__replacesAndIsYoungAgain() external {
        uint256 id = _inAggregate(1);
        _commitAggregate(id, _aggregator(0), "a");
        _mineAt(_aggregateStart(id) + SLOT);
        _commitAggregate(id, _aggregator(0), "b");
        vm.expectPartialRevert(ITaskCoordinator.CommitmentTooYoung.selector);
        _postRaw(id, _aggregator(0), "b");
        _mine(1);
        _post(id, _aggregator(0), "b");
    }

    // --- missed slots ------------------------------------------------------------------------------------

    function _settleAfter(uint256 id) private {
        _endPhase(id);
        _settleAll(id);
    }

    function test_missedSlot__anotherBecameFinal__owesTheFee() external {
        uint256 id = _inAggregate(2);
        address[3] memory order = _draw(id);
        _mineAt(_aggregateStart(id) + SLOT);
        _post(id, order[1]);
        _endPhase(id);
        vm.expectEmit();
        emit ITaskCoordinator.Slashed(id, 1, order[0], Role.Aggregator, SLOT_FEE, "missed slot");
        _settleAll(id);
        vm.assertEq(vault.freeOf(order[0]), BOND - SLOT_FEE);
        vm.assertEq(vault.freeOf(order[1]), BOND, "the bond came back");
        vm.assertEq(uint256(_member(id, Role.Aggregator, order[0]).missed), 1);
        _assertSolvent();
    }

    function test_missedSlot__lastSecondOfTheSlotBefore__owesNothing() external {
        uint256 id = _inAggregate(2);
        address[3] memory order = _draw(id);
        _mineAt(_aggregateStart(id) + SLOT - 1);
        _post(id, order[0]);
        _settleAfter(id);
        vm.assertEq(vault.freeOf(order[0]), BOND);
        vm.assertEq(vault.freeOf(order[1]), BOND);
    }

    function test_missedSlot__sameHolderInTheOpenWindow__owesNothing() external {
        uint256 id = _inAggregate(1);
        _draw(id);
        _commitAggregate(id, _aggregator(0), "s");
        _mineAt(_aggregateStart(id) + SLOT);
        _post(id, _aggregator(0), "s");
        _settleAfter(id);
        vm.assertEq(vault.freeOf(_aggregator(0)), BOND);
    }

    function test_missedSlot__nobodyPosted__owesNothing() external {
        uint256 id = _inAggregate(2);
        _draw(id);
        _settleAfter(id);
        vm.assertEq(vault.freeOf(_aggregator(0)), BOND);
        vm.assertEq(vault.freeOf(_aggregator(1)), BOND);
        vm.assertEq(uint256(_member(id, Role.Aggregator, _aggregator(0)).missed), 0);
    }

    function test_missedSlot__seedRolledAfterItBegan__owesNothingForIt() external {
        uint256 id = _inAggregate(2);
        vm.roll(vm.getBlockNumber() + 257);
        vm.warp(_now() + 1);
        coordinator.drawOrder(id);
        address[3] memory order = _draw(id);
        _mineAt(_aggregateStart(id) + SLOT);
        _post(id, order[1]);
        _settleAfter(id);
        vm.assertEq(vault.freeOf(order[0]), BOND);
    }

    function test_missedSlot__withdrewItsStake__losesWhatIsThere() external {
        uint256 id = _inAggregate(2);
        address[3] memory order = _draw(id);
        vm.prank(order[0]);
        vault.withdraw(BOND - 1);
        _mineAt(_aggregateStart(id) + SLOT);
        _post(id, order[1]);
        _settleAfter(id);
        vm.assertEq(vault.freeOf(order[0]), 0);
    }

    function test_missedSlot__twoRoundsInARow__hasLeft() external {
        TaskParams memory p = _params(1, 1, 1);
        p.rounds = 3;
        uint256 id = _create(p);
        _enrolAll(id, 1, 1, 1);
        _fund(stranger, BOND);
        for (uint16 round = 1; round < 3; ++round) {
            _toAggregate(id, 1, 1);
            _draw(id);
            _commitAggregate(id, stranger, "s");
            _mineAt(_aggregateStart(id) + SLOT);
            _post(id, stranger, "s");
            _endPhase(id);
            _fund(_aggregator(0), SLOT_FEE);
            if (round == 2) {
                vm.expectEmit();
                emit ITaskCoordinator.MemberLeft(id, Role.Aggregator, _aggregator(0), 3);
            }
            _settleAll(id);
        }
        _toAggregate(id, 1, 1);
        vm.assertEq(uint256(coordinator.roundOf(id).numSlots), 0);
    }

    // --- the bond ------------------------------------------------------------------------------------------

    function test_bond__everyRound__comesBackAtOnce() external {
        uint256 id = _started(1, 1, 1);
        for (uint256 round; round < 2; ++round) {
            _toAggregate(id, 1, 1);
            _mine(1);
            _post(id, _aggregator(0));
            vm.assertEq(vault.freeOf(_aggregator(0)), 0);
            _settleAfter(id);
            vm.assertEq(vault.freeOf(_aggregator(0)), BOND);
            vm.assertEq(vault.lockOf(id, Role.Aggregator, _aggregator(0)), 0);
        }
    }

    function test_bond__aWorkerPosts__itsStakeStaysLocked() external {
        uint256 id = _inAggregate(1);
        _fund(_worker(0), BOND);
        _commitAggregate(id, _worker(0), "s");
        _mineAt(_aggregateStart(id) + SLOT);
        _post(id, _worker(0), "s");
        _settleAfter(id);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(0)), WORKER_STAKE);
        vm.assertEq(vault.freeOf(_worker(0)), BOND);
    }

    /// @dev `_post` without a call before it, for `expectRevert`.
    function _postRaw(uint256 id, address account) private {
        _postRaw(id, account, 0);
    }

    function _postRaw(uint256 id, address account, bytes32 salt) private {
        vm.prank(account);
        coordinator.postAggregate(id, 1, _claimOf(_modelRoot(1)), _aggregateCid(1), _floatCid(1), salt);
    }
}
