// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IModelRegistry } from "../../src/interfaces/IModelRegistry.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Bounds, Member, Phase, Role, RoundView, Target, TaskParams, TaskView } from "../../src/interfaces/Types.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Follows TaskCoordinatorCreate.tree: a task before its first round.
contract TaskCoordinatorCreateTest is Deployed {
    /// @dev A task for 1 to 3 workers, 1 to 2 validators and 0 to 1 aggregators.
    function _loose() private view returns (TaskParams memory p) {
        p = _params(3, 2, 1);
        (p.workers.min, p.validators.min, p.aggregators.min) = (1, 1, 0);
    }

    function _prankEnrol(uint256 id, Role role, address account, uint96 stake) private {
        vm.prank(account);
        coordinator.enrol(id, role, stake);
    }

    // --- wiring ------------------------------------------------------------------------------------------

    function test_construction__contracts__knowOneAnother() external view {
        vm.assertEq(coordinator.vault(), address(vault));
        vm.assertEq(coordinator.registry(), address(registry));
        vm.assertEq(vault.coordinator(), address(coordinator));
        vm.assertEq(coordinator.version(), "chainfl-2");
        vm.assertEq(coordinator.numTasks(), 0);
    }

    // --- createTask ----------------------------------------------------------------------------------------

    function test_createTask__good__escrowsAndOpensTheLine() external {
        TaskParams memory p = _loose();
        uint256 free = vault.freeOf(requester);
        vm.expectEmit();
        emit ITaskCoordinator.TaskCreated(1, requester, p);
        uint256 id = _create(p);

        vm.assertEq(id, 1);
        vm.assertEq(coordinator.numTasks(), 1);
        vm.assertEq(free - vault.freeOf(requester), REWARD);
        vm.assertEq(uint256(vault.escrowOf(id).balance), REWARD);
        _assertPhase(id, Phase.Enrolment);
        (, uint40 end) = coordinator.phaseOf(id);
        vm.assertEq(uint256(end), p.enrolmentEnd);
        bytes32 genesis = registry.modelIdOf(id, 0);
        vm.assertTrue(registry.exists(genesis));
        vm.assertEq(registry.modelOf(genesis).modelRoot, GENESIS);
        vm.assertEq(registry.lineOf(id).owner, requester);
        vm.assertEq(registry.lineOf(id).licence, "Apache-2.0");
    }

    function test_createTask__good__keepsEveryParameter() external {
        TaskParams memory p = _loose();
        uint256 id = _create(p);
        TaskView memory v = coordinator.taskOf(id);
        vm.assertEq(v.requester, requester);
        vm.assertEq(v.specHash, p.specHash);
        vm.assertEq(v.genesisRoot, p.genesisRoot);
        vm.assertEq(uint256(v.rounds), p.rounds);
        vm.assertEq(uint256(v.enrolmentEnd), p.enrolmentEnd);
        vm.assertEq(uint256(v.reward), p.reward);
        vm.assertEq(uint256(v.createdAt), _now());
        vm.assertEq(uint256(v.createdBlock), vm.getBlockNumber());
        vm.assertFalse(v.validatorsNamed);
        vm.assertEq(abi.encode(v.workers, v.validators), abi.encode(p.workers, p.validators));
        vm.assertEq(abi.encode(v.aggregators, v.format), abi.encode(p.aggregators, p.format));
        vm.assertEq(abi.encode(v.windows, v.economics), abi.encode(p.windows, p.economics));
    }

    function test_createTask__balanceOneWeiShort__revertsStakeTooLow() external {
        TaskParams memory p = _loose();
        p.reward = uint128(10 * uint256(REWARD) + 1);
        vm.prank(requester);
        vm.expectRevert(
            abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, requester, 10 * uint256(REWARD), p.reward)
        );
        coordinator.createTask(p);
    }

    function test_createTask__noReward__isAllowed() external {
        TaskParams memory p = _params(1, 1, 1);
        p.reward = 0;
        uint256 id = _create(p);
        _enrolAll(id, 1, 1, 1);
        _finalRound(id, 1, 1);
        _finalRound(id, 1, 1);
        _assertPhase(id, Phase.Completed);
        _assertEscrowSpent(id, 0, 0, 0);
    }

    function test_createTask__unknownParentModel__reverts() external {
        TaskParams memory p = _loose();
        p.parentModel = keccak256("nowhere");
        vm.prank(requester);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, p.parentModel));
        coordinator.createTask(p);
    }

    function test_createTask__knownParentModel__continuesItsLine() external {
        uint256 first = _create(_loose());
        TaskParams memory p = _loose();
        p.parentModel = registry.modelIdOf(first, 0);
        uint256 second = _create(p);
        vm.assertEq(registry.modelOf(registry.modelIdOf(second, 0)).parent, p.parentModel);
        (address owner, bytes32 specHash, bytes32 parent, string memory licence) = coordinator.originOf(second);
        vm.assertEq(owner, requester);
        vm.assertEq(specHash, p.specHash);
        vm.assertEq(parent, p.parentModel);
        vm.assertEq(licence, "Apache-2.0");
    }

    function test_createTask__invalidParameter__reverts() external {
        TaskParams memory p = _loose();
        p.specHash = 0;
        vm.prank(requester);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.InvalidParams.selector, bytes32("specHash")));
        coordinator.createTask(p);
    }

    function test_views__unknownTask__areEmpty() external view {
        (Phase phase, uint40 end) = coordinator.phaseOf(7);
        vm.assertEq(uint256(phase), uint256(Phase.None));
        vm.assertEq(uint256(end), 0);
        vm.assertEq(uint256(coordinator.releasableAt(7)), type(uint40).max);
        vm.assertEq(coordinator.taskOf(7).requester, address(0));
        vm.assertEq(coordinator.membersOf(7, Role.Worker).length, 0);
    }

    function test_everyCall__unknownTask__revertsUnexpectedPhase() external {
        bytes[] memory calls = new bytes[](18);
        calls[0] = abi.encodeCall(coordinator.enrol, (7, Role.Worker, 1));
        calls[1] = abi.encodeCall(coordinator.startTask, (7));
        calls[2] = abi.encodeCall(coordinator.cancelTask, (7));
        calls[3] = abi.encodeCall(coordinator.leave, (7, Role.Worker));
        calls[4] = abi.encodeCall(coordinator.rejoin, (7, Role.Worker));
        calls[5] = abi.encodeCall(coordinator.commitUpdate, (7, 0, 0));
        calls[6] = abi.encodeCall(coordinator.revealUpdate, (7, 0, 0, _floatCid(0), 0, 0, 0));
        calls[7] = abi.encodeCall(coordinator.commitScores, (7, 0, 0));
        calls[8] = abi.encodeCall(coordinator.revealScores, (7, 0, "", 0));
        calls[9] = abi.encodeCall(coordinator.tally, (7, 0));
        calls[10] = abi.encodeCall(coordinator.drawOrder, (7));
        calls[11] = abi.encodeCall(coordinator.commitAggregate, (7, 0, 0));
        calls[12] = abi.encodeCall(coordinator.settle, (7, 0));
        calls[13] = abi.encodeCall(coordinator.commitChallenge, (7, 0, 0, 0));
        calls[14] = abi.encodeCall(coordinator.proveAggregate, (7, 0, 0, "", 0));
        calls[15] = abi.encodeCall(coordinator.proveInGame, (7, 0, "", 0));
        calls[16] = abi.encodeCall(coordinator.proveUpdate, (7, 0, "", 0));
        calls[17] = abi.encodeCall(coordinator.openGame, (7, 0, 0, Target.Model, 0, new bytes32[](0), 0));
        for (uint256 i; i < calls.length; ++i) {
            (bool ok, bytes memory answer) = address(coordinator).call(calls[i]);
            vm.assertFalse(ok);
            vm.assertEq(bytes32(bytes4(answer)), bytes32(ITaskCoordinator.UnexpectedPhase.selector));
        }
    }

    // --- enrol -----------------------------------------------------------------------------------------------

    function test_enrol__worker__locksStakeAndEmits() external {
        uint256 id = _create(_loose());
        _fund(_worker(0), WORKER_STAKE + 5);
        vm.expectEmit();
        emit ITaskCoordinator.Enrolled(id, Role.Worker, _worker(0), WORKER_STAKE + 5);
        _prankEnrol(id, Role.Worker, _worker(0), WORKER_STAKE + 5);

        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(0)), WORKER_STAKE + 5);
        vm.assertEq(vault.freeOf(_worker(0)), 0);
        Member memory m = _member(id, Role.Worker, _worker(0));
        vm.assertEq(uint256(m.stake), WORKER_STAKE + 5);
        vm.assertEq(uint256(m.activeFrom), 1);
        vm.assertEq(uint256(m.activeUntil), type(uint16).max);
        vm.assertEq(coordinator.membersOf(id, Role.Worker)[0], _worker(0));
        vm.assertEq(uint256(coordinator.roundOf(id).numWorkers), 1);
    }

    function test_enrol__stakeOneWeiShort__revertsStakeBelowRequired() external {
        uint256 id = _create(_loose());
        _fund(_worker(0), WORKER_STAKE);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.StakeBelowRequired.selector, WORKER_STAKE - 1, WORKER_STAKE)
        );
        _prankEnrol(id, Role.Worker, _worker(0), WORKER_STAKE - 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.StakeBelowRequired.selector, 0, VALIDATOR_STAKE));
        _prankEnrol(id, Role.Validator, _worker(0), 0);
    }

    function test_enrol__freeBalanceShort__revertsStakeTooLow() external {
        uint256 id = _create(_loose());
        _fund(_worker(0), WORKER_STAKE - 1);
        vm.expectPartialRevert(IStakeVault.StakeTooLow.selector);
        _prankEnrol(id, Role.Worker, _worker(0), WORKER_STAKE);
        vm.expectPartialRevert(IStakeVault.StakeTooLow.selector);
        _prankEnrol(id, Role.Worker, _worker(0), type(uint96).max);
    }

    function test_enrol__aggregator__locksNothing() external {
        uint256 id = _create(_loose());
        _prankEnrol(id, Role.Aggregator, _aggregator(0), 0);
        vm.assertEq(coordinator.membersOf(id, Role.Aggregator)[0], _aggregator(0));
    }

    function test_enrol__aggregatorWithStake__reverts() external {
        uint256 id = _create(_loose());
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.StakeBelowRequired.selector, 1, 0));
        _prankEnrol(id, Role.Aggregator, _aggregator(0), 1);
    }

    function test_enrol__twice__revertsAlreadyEnrolled() external {
        uint256 id = _create(_loose());
        _enrol(id, Role.Worker, _worker(0), WORKER_STAKE);
        _fund(_worker(0), WORKER_STAKE);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.AlreadyEnrolled.selector, id, _worker(0)));
        _prankEnrol(id, Role.Worker, _worker(0), WORKER_STAKE);
    }

    /// @dev Nobody scores its own update.
    function test_enrol__workerAndValidator__revertsAlreadyEnrolled() external {
        uint256 id = _create(_loose());
        _enrol(id, Role.Worker, _worker(0), WORKER_STAKE);
        _enrol(id, Role.Validator, _validator(0), VALIDATOR_STAKE);
        _fund(_worker(0), VALIDATOR_STAKE);
        _fund(_validator(0), WORKER_STAKE);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.AlreadyEnrolled.selector, id, _worker(0)));
        _prankEnrol(id, Role.Validator, _worker(0), VALIDATOR_STAKE);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.AlreadyEnrolled.selector, id, _validator(0)));
        _prankEnrol(id, Role.Worker, _validator(0), WORKER_STAKE);
    }

    function test_enrol__workerAndAggregator__isAllowed() external {
        uint256 id = _create(_loose());
        _enrol(id, Role.Worker, _worker(0), WORKER_STAKE);
        _enrol(id, Role.Aggregator, _worker(0), 0);
        vm.assertEq(coordinator.membersOf(id, Role.Aggregator)[0], _worker(0));
    }

    function test_enrol__roleFull__reverts() external {
        uint256 id = _create(_loose());
        _enrolAll(id, 0, 2, 1);
        _fund(_validator(2), VALIDATOR_STAKE);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.RoleFull.selector, id, Role.Validator));
        _prankEnrol(id, Role.Validator, _validator(2), VALIDATOR_STAKE);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.RoleFull.selector, id, Role.Aggregator));
        _prankEnrol(id, Role.Aggregator, _aggregator(1), 0);
    }

    function test_enrol__requesterAsValidator__revertsNotAdmitted() external {
        uint256 id = _create(_loose());
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotAdmitted.selector, id, requester));
        _prankEnrol(id, Role.Validator, requester, VALIDATOR_STAKE);
    }

    function test_enrol__requesterAsWorkerAndAggregator__isAllowed() external {
        uint256 id = _create(_loose());
        _enrol(id, Role.Worker, requester, WORKER_STAKE);
        _enrol(id, Role.Aggregator, requester, 0);
        vm.assertEq(vault.lockOf(id, Role.Worker, requester), WORKER_STAKE);
    }

    function test_enrol__namedValidators__admitsOnlyThem() external {
        TaskParams memory p = _loose();
        p.namedValidators = new address[](2);
        (p.namedValidators[0], p.namedValidators[1]) = (_validator(4), requester);
        uint256 id = _create(p);
        vm.assertTrue(coordinator.taskOf(id).validatorsNamed);
        _fund(_validator(0), VALIDATOR_STAKE);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotAdmitted.selector, id, _validator(0)));
        _prankEnrol(id, Role.Validator, _validator(0), VALIDATOR_STAKE);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotAdmitted.selector, id, requester));
        _prankEnrol(id, Role.Validator, requester, VALIDATOR_STAKE);
        _enrol(id, Role.Validator, _validator(4), VALIDATOR_STAKE);
        _enrol(id, Role.Worker, _worker(0), WORKER_STAKE);
    }

    function test_enrol__namedOfAnotherTask__revertsNotAdmitted() external {
        TaskParams memory p = _loose();
        p.namedValidators = new address[](1);
        p.namedValidators[0] = _validator(0);
        _create(p);
        p.namedValidators[0] = _validator(1);
        uint256 id = _create(p);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotAdmitted.selector, id, _validator(0)));
        _prankEnrol(id, Role.Validator, _validator(0), VALIDATOR_STAKE);
    }

    function test_enrol__deadline__lastSecondAndOver() external {
        TaskParams memory p = _loose();
        uint256 id = _create(p);
        _mineAt(p.enrolmentEnd - 1);
        _enrol(id, Role.Worker, _worker(0), WORKER_STAKE);
        _mineAt(p.enrolmentEnd);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.EnrolmentOver.selector, id, p.enrolmentEnd));
        _prankEnrol(id, Role.Worker, _worker(1), WORKER_STAKE);
        _mineAt(p.enrolmentEnd + 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.EnrolmentOver.selector, id, p.enrolmentEnd));
        _prankEnrol(id, Role.Worker, _worker(1), WORKER_STAKE);
    }

    function test_enrol__lastMaximum__opensRoundOne() external {
        uint256 id = _create(_loose());
        _enrolAll(id, 2, 2, 1);
        _assertPhase(id, Phase.Enrolment);
        _fund(_worker(2), WORKER_STAKE);
        vm.expectEmit();
        emit ITaskCoordinator.RoundOpened(id, 1, GENESIS, 3, 2);
        _prankEnrol(id, Role.Worker, _worker(2), WORKER_STAKE);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.phase), uint256(Phase.Commit));
        vm.assertEq(uint256(r.phaseEnd), _now() + COMMIT);
        vm.assertEq(uint256(r.round), 1);
        vm.assertEq(uint256(r.attempt), 1);
        vm.assertEq(uint256(r.eligibleWorkers), 3);
        vm.assertEq(uint256(r.eligibleValidators), 2);
        vm.assertEq(uint256(r.numSlots), 1);
        vm.assertEq(uint256(r.openedBlock), vm.getBlockNumber());
    }

    function test_enrol__started__revertsUnexpectedPhase() external {
        uint256 id = _started(1, 1, 1);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Commit, Phase.Enrolment)
        );
        _prankEnrol(id, Role.Worker, stranger, WORKER_STAKE);
    }

    // --- startTask -----------------------------------------------------------------------------------------

    function _withMinima() private returns (uint256 id, uint40 end) {
        TaskParams memory p = _loose();
        (id, end) = (_create(p), p.enrolmentEnd);
        _enrolAll(id, 1, 1, 0);
    }

    function test_startTask__deadlineWithMinima__anybodyOpensRoundOne() external {
        (uint256 id, uint40 end) = _withMinima();
        _mineAt(end);
        vm.prank(stranger);
        coordinator.startTask(id);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.phase), uint256(Phase.Commit));
        vm.assertEq(uint256(r.phaseEnd), uint256(end) + COMMIT);
        vm.assertEq(uint256(r.numSlots), 0);
    }

    function test_startTask__oneSecondEarly__revertsMinimaNotReached() external {
        (uint256 id, uint40 end) = _withMinima();
        _mineAt(end - 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.MinimaNotReached.selector, id));
        coordinator.startTask(id);
    }

    function test_startTask__minimumOneShort__revertsMinimaNotReached() external {
        TaskParams memory p = _loose();
        uint256 id = _create(p);
        _enrolAll(id, 3, 0, 1);
        _mineAt(p.enrolmentEnd);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.MinimaNotReached.selector, id));
        coordinator.startTask(id);
    }

    function test_startTask__twice__revertsUnexpectedPhase() external {
        (uint256 id, uint40 end) = _withMinima();
        _mineAt(end + 1);
        coordinator.startTask(id);
        vm.expectPartialRevert(ITaskCoordinator.UnexpectedPhase.selector);
        coordinator.startTask(id);
    }

    // --- cancelTask ------------------------------------------------------------------------------------------

    function test_cancelTask__requesterBeforeTheEnd__refundsAndFreesStakes() external {
        (uint256 id, uint40 end) = _withMinima();
        _mineAt(end - 1);
        vm.expectEmit();
        emit ITaskCoordinator.TaskCancelled(id, REWARD);
        vm.prank(requester);
        coordinator.cancelTask(id);
        _assertPhase(id, Phase.Cancelled);
        _assertEscrowSpent(id, 0, REWARD, 0);
        vm.assertEq(vault.creditOf(requester), REWARD);
        vm.assertEq(uint256(coordinator.releasableAt(id)), 0);
        vault.unlock(id, Role.Worker, _worker(0));
        vault.unlock(id, Role.Validator, _validator(0));
        vm.assertEq(vault.freeOf(_worker(0)), WORKER_STAKE);
        _assertSolvent();
    }

    function test_cancelTask__strangerBeforeTheEnd__revertsNotRequester() external {
        (uint256 id, uint40 end) = _withMinima();
        _mineAt(end - 1);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NotRequester.selector, id, stranger));
        coordinator.cancelTask(id);
    }

    function test_cancelTask__endWithoutMinima__anybodyCancels() external {
        TaskParams memory p = _loose();
        uint256 id = _create(p);
        _enrolAll(id, 0, 2, 1);
        _mineAt(p.enrolmentEnd);
        vm.prank(stranger);
        coordinator.cancelTask(id);
        _assertEscrowSpent(id, 0, REWARD, 0);
    }

    function test_cancelTask__endWithMinima__revertsMinimaReached() external {
        (uint256 id, uint40 end) = _withMinima();
        _mineAt(end);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.MinimaReached.selector, id));
        coordinator.cancelTask(id);
        vm.prank(requester);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.MinimaReached.selector, id));
        coordinator.cancelTask(id);
    }

    function test_cancelTask__started__revertsUnexpectedPhase() external {
        uint256 id = _started(1, 1, 1);
        vm.prank(requester);
        vm.expectPartialRevert(ITaskCoordinator.UnexpectedPhase.selector);
        coordinator.cancelTask(id);
    }

    function test_cancelTask__twice__revertsUnexpectedPhase() external {
        uint256 id = _create(_loose());
        vm.startPrank(requester);
        coordinator.cancelTask(id);
        vm.expectRevert(
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, Phase.Cancelled, Phase.Enrolment)
        );
        coordinator.cancelTask(id);
    }

    function test_cancelled__enrolStartLeave__revertUnexpectedPhase() external {
        (uint256 id, uint40 end) = _withMinima();
        vm.prank(requester);
        coordinator.cancelTask(id);
        vm.expectPartialRevert(ITaskCoordinator.UnexpectedPhase.selector);
        _prankEnrol(id, Role.Worker, _worker(1), WORKER_STAKE);
        vm.prank(_worker(0));
        vm.expectPartialRevert(ITaskCoordinator.UnexpectedPhase.selector);
        coordinator.leave(id, Role.Worker);
        _mineAt(end);
        vm.expectPartialRevert(ITaskCoordinator.UnexpectedPhase.selector);
        coordinator.startTask(id);
    }
}
