// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IModelRegistry } from "../../src/interfaces/IModelRegistry.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Member, Outcome, Phase, Role, RoundView, TaskParams } from "../../src/interfaces/Types.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Follows TaskCoordinatorSettle.tree: every row of the protocol's table of cases, to the wei.
contract TaskCoordinatorSettleTest is Deployed {
    uint256 private constant BUDGET = REWARD / 2;
    uint256 private constant WORKERS = BUDGET * 7 / 10;
    uint256 private constant VALIDATORS = BUDGET / 5;
    uint256 private constant AGGREGATOR = BUDGET / 10;

    function _vote(uint16 weight, uint16 score) private pure returns (bytes memory) {
        return abi.encodePacked(weight, score);
    }

    function _unexpected(uint256 id, Phase current, Phase expected) private pure returns (bytes memory) {
        return abi.encodeWithSelector(ITaskCoordinator.UnexpectedPhase.selector, id, current, expected);
    }

    /// @dev Two workers, of which the second has twice the stake; two validators, of which the second has twice the stake.
    function _uneven(uint16 rounds) private returns (uint256 id) {
        TaskParams memory p = _params(2, 2, 1);
        p.rounds = rounds;
        p.reward = uint128(BUDGET) * rounds;
        id = _create(p);
        _enrol(id, Role.Worker, _worker(0), WORKER_STAKE);
        _enrol(id, Role.Worker, _worker(1), 2 * WORKER_STAKE);
        _enrol(id, Role.Validator, _validator(0), VALIDATOR_STAKE);
        _enrol(id, Role.Validator, _validator(1), 2 * VALIDATOR_STAKE);
        _enrol(id, Role.Aggregator, _aggregator(0), 0);
    }

    function _votes(bytes memory a, bytes memory b) private pure returns (bytes[] memory votes) {
        votes = new bytes[](2);
        (votes[0], votes[1]) = (a, b);
    }

    function _scoredAlike(uint256 id, bytes memory votes) private {
        _updates(id, 2);
        _scores(id, _votes(votes, votes));
        _tallyAll(id);
    }

    function _assertCredits(uint256 w0, uint256 w1, uint256 v0, uint256 v1, uint256 a) private view {
        vm.assertEq(vault.creditOf(_worker(0)), w0, "worker 0");
        vm.assertEq(vault.creditOf(_worker(1)), w1, "worker 1");
        vm.assertEq(vault.creditOf(_validator(0)), v0, "validator 0");
        vm.assertEq(vault.creditOf(_validator(1)), v1, "validator 1");
        vm.assertEq(vault.creditOf(_aggregator(0)), a, "aggregator");
    }

    function _assertBurned(uint256 id, uint256 burned) private view {
        vm.assertEq(uint256(vault.escrowOf(id).burned), burned, "burned");
    }

    // --- Final -----------------------------------------------------------------------------------------------------

    function test_final__baseByStakeRestByScore__andTheAggregator() external {
        uint256 id = _uneven(1);
        _scoredAlike(id, bytes.concat(_vote(10_000, 3000), _vote(1, 1000)));
        _finalise(id);
        vm.expectEmit();
        emit ITaskCoordinator.RoundClosed(id, 1, Outcome.Final, _modelRoot(1), 0, 0);
        _settleAll(id);
        // Base: 105 by stake 1:2. By score: 245, 3:1. Weights do not pay.
        _assertCredits(35 ether + 183.75 ether, 70 ether + 61.25 ether, VALIDATORS / 3, VALIDATORS * 2 / 3, AGGREGATOR);
        uint256 dust = BUDGET - (WORKERS + VALIDATORS / 3 + VALIDATORS * 2 / 3 + AGGREGATOR);
        _assertEscrowSpent(id, BUDGET - dust, dust, 0);
    }

    function test_final__rejectedWorker__earnsNothing() external {
        uint256 id = _uneven(1);
        _scoredAlike(id, bytes.concat(_vote(0, 0), _vote(1, 1)));
        _finalise(id);
        _settleAll(id);
        _assertCredits(0, WORKERS, VALIDATORS / 3, VALIDATORS * 2 / 3, AGGREGATOR);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(0)), WORKER_STAKE, "rejected is not slashed");
    }

    function test_final__validators__stakeTimesAgreement() external {
        uint256 id = _uneven(1);
        _updates(id, 2);
        // The second has two thirds of the stake and is the median; the first agrees with it on one of two updates.
        _scores(
            id,
            _votes(
                bytes.concat(_vote(10_000, 4000), _vote(10_000, 4000)),
                bytes.concat(_vote(10_000, 4000), _vote(10_000, 100))
            )
        );
        _tallyAll(id);
        _finalise(id);
        _settleAll(id);
        // 1·1 : 2·2
        vm.assertEq(vault.creditOf(_validator(0)), VALIDATORS / 5);
        vm.assertEq(vault.creditOf(_validator(1)), VALIDATORS * 4 / 5);
    }

    /// @dev Within max(median / 4, 500): the edges, from below and above.
    function test_agreement__scoreEdges__toTheUnit() external {
        uint16[6] memory votes = [uint16(3000), 2999, 5000, 5001, 4500, 3500];
        bool[6] memory agrees = [true, false, true, false, true, true];
        for (uint256 i; i < 6; ++i) {
            vm.assertEq(_agreed(_vote(10_000, 4000), _vote(1, votes[i])), agrees[i], "a quarter");
        }
        vm.assertTrue(_agreed(_vote(10_000, 100), _vote(1, 600)));
        vm.assertFalse(_agreed(_vote(10_000, 100), _vote(1, 601)));
    }

    function test_agreement__rejectsWhatIsAccepted__disagrees() external {
        vm.assertFalse(_agreed(_vote(10_000, 1), _vote(0, 0)));
        vm.assertFalse(_agreed(_vote(0, 0), _vote(10_000, 1)));
        vm.assertTrue(_agreed(_vote(0, 0), _vote(0, 0)));
    }

    function test_agreement__abstention__disagrees() external {
        vm.assertFalse(_agreed(_vote(10_000, 1), _vote(ABSTAIN, 0)));
    }

    /// @dev True when the first validator, who votes `vote`, is paid beside the second, whose vote is the median. A
    /// second worker, on whom they agree, keeps the pot from being split by stake.
    function _agreed(bytes memory median, bytes memory vote) private returns (bool) {
        uint256 id = _uneven(1);
        _updates(id, 2);
        _scores(id, _votes(bytes.concat(vote, _vote(1, 1)), bytes.concat(median, _vote(1, 1))));
        _tallyAll(id);
        _finalise(id);
        uint256 before = vault.creditOf(_validator(0));
        _settleAll(id);
        uint256 paid = vault.creditOf(_validator(0)) - before;
        // 1·2 : 2·2, or 1·1 : 2·2.
        vm.assertTrue(paid == VALIDATORS / 3 || paid == VALIDATORS / 5, "neither share");
        return paid == VALIDATORS / 3;
    }

    /// @dev Zeroed by abstention: in nobody's count.
    function test_agreement__zeroedByAbstention__isInNobodysCount() external {
        uint256 id = _uneven(1);
        _updates(id, 2);
        _scores(
            id,
            _votes(
                bytes.concat(_vote(10_000, 4000), _vote(10_000, 4000)),
                bytes.concat(_vote(ABSTAIN, 0), _vote(10_000, 4000))
            )
        );
        _tallyAll(id);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(0)).weight), 0);
        _finalise(id);
        _settleAll(id);
        vm.assertEq(vault.creditOf(_validator(0)), VALIDATORS / 3);
        vm.assertEq(vault.creditOf(_validator(1)), VALIDATORS * 2 / 3);
    }

    function test_final__validatorWithoutReveal__isSlashedAndUnpaid() external {
        uint256 id = _started(1, 3, 1);
        _updates(id, 1);
        _scoresAlike(id, 2, _vote(1, 1));
        _tallyAll(id);
        _finalise(id);
        vm.expectEmit();
        emit ITaskCoordinator.Slashed(id, 1, _validator(2), Role.Validator, 30 ether, "no reveal");
        _settleAll(id);
        vm.assertEq(vault.creditOf(_validator(0)), VALIDATORS / 2);
        vm.assertEq(vault.creditOf(_validator(2)), 0);
        vm.assertEq(vault.lockOf(id, Role.Validator, _validator(2)), 270 ether);
    }

    function test_final__workerWithoutReveal__isSlashedAndAllBurned() external {
        uint256 id = _started(2, 1, 1);
        _commitAll(id, 2);
        _reveal(id, _worker(0));
        _endPhase(id);
        _scoresAlike(id, 1, _same(2, 1, 1));
        _tallyAll(id);
        _finalise(id);
        vm.expectEmit();
        emit ITaskCoordinator.Slashed(id, 1, _worker(1), Role.Worker, 20 ether, "no reveal");
        _settleAll(id);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(1)), 80 ether);
        vm.assertEq(uint256(_member(id, Role.Worker, _worker(1)).stake), 80 ether);
        (,,,, uint256 burnPending) = vault.totals();
        vm.assertEq(burnPending, 20 ether);
        vm.assertEq(vault.creditOf(_worker(0)), WORKERS);
    }

    function test_final__workerWithoutCommit__losesNothing() external {
        uint256 id = _started(2, 1, 1);
        _updates(id, 1);
        _scoresAlike(id, 1, _same(2, 1, 1));
        _tallyAll(id);
        _finalise(id);
        _settleAll(id);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(1)), WORKER_STAKE);
    }

    // --- Void after Aggregate opened ---------------------------------------------------------------------------------

    function test_noAggregate__workersAndValidatorsPaid__aggregatorsPartBurned() external {
        uint256 id = _uneven(1);
        _scoredAlike(id, bytes.concat(_vote(10_000, 3000), _vote(1, 1000)));
        _endPhase(id);
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.NoAggregate));
        vm.expectEmit();
        emit ITaskCoordinator.RoundClosed(id, 1, Outcome.NoAggregate, GENESIS, AGGREGATOR, 0);
        _settleAll(id);
        _assertCredits(35 ether + 183.75 ether, 70 ether + 61.25 ether, VALIDATORS / 3, VALIDATORS * 2 / 3, 0);
        _assertBurned(id, AGGREGATOR);
        vm.assertFalse(registry.exists(registry.modelIdOf(id, 1)));
    }

    function test_noAggregate__nextRound__startsFromTheSameModel() external {
        uint256 id = _uneven(2);
        _scoredAlike(id, _same(2, 1, 1));
        _endPhase(id);
        _settleAll(id);
        vm.assertEq(coordinator.roundOf(id).modelRoot, GENESIS);
        _scoredAlike(id, _same(2, 1, 1));
        _finalise(id);
        _settleAll(id);
        IModelRegistry.Model memory model = registry.modelOf(registry.modelIdOf(id, 2));
        vm.assertEq(model.parent, registry.modelIdOf(id, 0), "the void round is no parent");
    }

    // --- quorum missed after Reveal ------------------------------------------------------------------------------------

    function test_quorumMissed__someRevealed__paidByStakeAndAggregatorsPartBurned() external {
        uint256 id = _uneven(1);
        _updates(id, 2);
        _scores(id, _votes(_same(2, 10_000, 9), ""));
        _tallyAll(id);
        _settleAll(id);
        _assertCredits(WORKERS / 3, WORKERS * 2 / 3, VALIDATORS, 0, 0);
        _assertBurned(id, AGGREGATOR);
        vm.assertEq(vault.lockOf(id, Role.Validator, _validator(1)), 2 * VALIDATOR_STAKE - 30 ether);
    }

    function test_quorumMissed__nobodyRevealed__validatorsPartBurnedToo() external {
        uint256 id = _uneven(1);
        _updates(id, 1);
        _scores(id, _votes("", ""));
        _tallyAll(id);
        _settleAll(id);
        _assertCredits(WORKERS, 0, 0, 0, 0);
        _assertBurned(id, AGGREGATOR + VALIDATORS);
        _assertEscrowSpent(id, WORKERS, 0, AGGREGATOR + VALIDATORS);
    }

    function test_quorumMissed__onlyTheRequestersWorkerRevealed__potIsCarried() external {
        uint256 id = _create(_params(2, 1, 1));
        _enrolAll(id, 1, 1, 1);
        _enrol(id, Role.Worker, requester, WORKER_STAKE);
        _commit(id, requester);
        _endPhase(id);
        _reveal(id, requester);
        _endPhase(id);
        _tallyAll(id);
        _settleAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).carry), WORKERS);
        _assertBurned(id, AGGREGATOR + VALIDATORS);
    }

    // --- nothing accepted ------------------------------------------------------------------------------------------------

    function test_nothingAccepted__carriesTheWorkersPotIntoTheNextRound() external {
        uint256 id = _uneven(2);
        _scoredAlike(id, _same(2, 0, 0));
        vm.expectEmit();
        emit ITaskCoordinator.RoundClosed(id, 1, Outcome.NothingAccepted, GENESIS, AGGREGATOR, WORKERS);
        _settleAll(id);
        _assertCredits(0, 0, VALIDATORS / 3, VALIDATORS * 2 / 3, 0);
        vm.assertEq(uint256(coordinator.roundOf(id).carry), WORKERS);

        _scoredAlike(id, bytes.concat(_vote(1, 1), _vote(0, 0)));
        _finalise(id);
        _settleAll(id);
        vm.assertEq(vault.creditOf(_worker(0)), 2 * WORKERS, "both rounds' pots");
        _assertBurned(id, AGGREGATOR);
    }

    function test_nothingAccepted__twice__carriesBoth() external {
        uint256 id = _uneven(3);
        for (uint256 i = 1; i < 3; ++i) {
            _scoredAlike(id, _same(2, 0, 0));
            _settleAll(id);
            vm.assertEq(uint256(coordinator.roundOf(id).carry), i * WORKERS);
        }
        _scoredAlike(id, _same(2, 1, 1));
        _finalise(id);
        _settleAll(id);
        vm.assertEq(
            vault.creditOf(_worker(0)) + vault.creditOf(_worker(1)), 3 * WORKERS, "to the wei: 1:2 and 1:1 divide"
        );
    }

    function test_nothingAccepted__lastRound__burnsTheWorkersPot() external {
        uint256 id = _uneven(1);
        _scoredAlike(id, _same(2, 0, 0));
        _settleAll(id);
        _assertBurned(id, AGGREGATOR + WORKERS);
        _assertCredits(0, 0, VALIDATORS / 3, VALIDATORS * 2 / 3, 0);
        _assertPhase(id, Phase.Completed);
    }

    /// @dev Everybody was paid by stake, since nobody's count is above zero.
    function test_nothingAccepted__allAbstain__validatorsPaidByStake() external {
        uint256 id = _uneven(1);
        _scoredAlike(id, _same(2, ABSTAIN, 0));
        _settleAll(id);
        _assertCredits(0, 0, VALIDATORS / 3, VALIDATORS * 2 / 3, 0);
    }

    // --- nobody revealed ----------------------------------------------------------------------------------------------------

    function test_noUpdates__nobodyCommitted__refundsTheWholeBudget() external {
        uint256 id = _uneven(2);
        _endPhase(id);
        vm.expectEmit();
        emit ITaskCoordinator.RoundClosed(id, 1, Outcome.NoUpdates, GENESIS, 0, 0);
        _settleAll(id);
        vm.assertEq(vault.creditOf(requester), BUDGET);
        _assertCredits(0, 0, 0, 0, 0);
        vm.assertEq(uint256(coordinator.roundOf(id).round), 2);
    }

    function test_noUpdates__committedAndNotRevealed__slashesAndRefunds() external {
        uint256 id = _uneven(2);
        _commitAll(id, 2);
        _endPhase(id);
        _settleAll(id);
        vm.assertEq(vault.creditOf(requester), BUDGET);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(0)), 80 ether);
        vm.assertEq(vault.lockOf(id, Role.Worker, _worker(1)), 180 ether, "a share of the required stake");
    }

    function test_noUpdates__carry__waitsForARoundWithUpdates() external {
        uint256 id = _uneven(3);
        _scoredAlike(id, _same(2, 0, 0));
        _settleAll(id);
        _endPhase(id);
        _settleAll(id);
        vm.assertEq(uint256(coordinator.roundOf(id).carry), WORKERS);
        vm.assertEq(vault.creditOf(requester), BUDGET);
        _scoredAlike(id, _same(2, 1, 1));
        _finalise(id);
        _settleAll(id);
        vm.assertEq(vault.creditOf(_worker(0)) + vault.creditOf(_worker(1)), 2 * WORKERS);
    }

    function test_noUpdates__carryInTheLastRound__isBurned() external {
        uint256 id = _uneven(2);
        _scoredAlike(id, _same(2, 0, 0));
        _settleAll(id);
        _endPhase(id);
        _settleAll(id);
        _assertBurned(id, AGGREGATOR + WORKERS);
        vm.assertEq(uint256(vault.escrowOf(id).balance), 0);
    }

    // --- settle ------------------------------------------------------------------------------------------------------------

    function test_settle__otherPhases__revert() external {
        uint256 id = _started(1, 1, 1);
        vm.expectRevert(_unexpected(id, Phase.Commit, Phase.Settlement));
        coordinator.settle(id, 1);
        _toAggregate(id, 1, 1);
        vm.expectRevert(_unexpected(id, Phase.Aggregate, Phase.Settlement));
        coordinator.settle(id, 1);
        _post(id, _draw(id)[0]);
        (, uint40 end) = coordinator.phaseOf(id);
        _mineAt(end - 1);
        vm.expectRevert(_unexpected(id, Phase.Challenge, Phase.Settlement));
        coordinator.settle(id, 1);
        _mineAt(end);
        coordinator.settle(id, 1);
        _assertPhase(id, Phase.Commit);
    }

    /// @dev However the batches are cut, everybody is paid once.
    function test_settle__batches__payEverybodyOnce() external {
        uint16[4] memory sizes = [uint16(0), 1, 9, type(uint16).max];
        uint256 id = _started(19, 1, 1);
        _toAggregate(id, 19, 1);
        _finalise(id);
        for (uint256 s; s < 4; ++s) {
            uint256 state = vm.snapshotState();
            uint256 calls;
            while (_phase(id) == Phase.Settlement) {
                vm.prank(stranger);
                coordinator.settle(id, sizes[s]);
                ++calls;
            }
            vm.assertEq(calls, s < 2 ? 3 : s == 2 ? 2 : 1);
            for (uint256 i; i < 19; ++i) {
                vm.assertEq(vault.creditOf(_worker(i)), WORKERS * 3 / 10 / 19 + WORKERS * 7 / 10 / 19);
            }
            vm.revertToState(state);
        }
    }

    function test_settle__betweenBatches__theModelHasNotMoved() external {
        uint256 id = _started(9, 1, 1);
        _toAggregate(id, 9, 1);
        _finalise(id);
        coordinator.settle(id, 8);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.phase), uint256(Phase.Settlement));
        vm.assertEq(uint256(r.settled), 8);
        vm.assertEq(r.modelRoot, GENESIS);
        vm.assertFalse(registry.exists(registry.modelIdOf(id, 1)));
        vm.expectRevert(_unexpected(id, Phase.Settlement, Phase.Commit));
        vm.prank(_worker(0));
        coordinator.commitUpdate(id, 1, "c");
        coordinator.settle(id, 8);
        vm.assertEq(coordinator.roundOf(id).modelRoot, _modelRoot(1));
    }

    function test_settle__lateByYears__payIsTheSame() external {
        uint256 id = _uneven(1);
        _scoredAlike(id, _same(2, 1, 1));
        _finalise(id);
        _mine(1000 days);
        _settleAll(id);
        vm.assertEq(vault.creditOf(_aggregator(0)), AGGREGATOR);
    }

    function test_settle__finalRound__registersItsLineage() external {
        uint256 id = _started(2, 1, 1);
        uint256 opened = vm.getBlockNumber();
        _toAggregate(id, 2, 1);
        _finalise(id);
        _settleAll(id);
        IModelRegistry.Model memory m = registry.modelOf(registry.modelIdOf(id, 1));
        vm.assertEq(m.modelRoot, _modelRoot(1));
        vm.assertEq(m.parent, registry.modelIdOf(id, 0));
        vm.assertEq(m.aggregator, _aggregator(0));
        vm.assertEq(uint256(m.round), 1);
        vm.assertEq(uint256(m.attempt), 1);
        vm.assertEq(uint256(m.accepted), 2);
        vm.assertEq(uint256(m.openedBlock), opened);
        vm.assertEq(m.cid.digest, _aggregateCid(1).digest);
        vm.assertEq(uint256(m.floatCid.codec), 0x55);
    }

    /// @dev Nobody can make the registry take a result that is not final: there is none outside of the coordinator's call.
    function test_result__outsideOfTheCoordinatorsCall__doesNotExist() external {
        uint256 id = _started(1, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NoResult.selector, id));
        coordinator.resultOf(id);
        _toAggregate(id, 1, 1);
        _finalise(id);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NoResult.selector, id));
        registry.register(id);
        _settleAll(id);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NoResult.selector, id));
        registry.register(id);
    }

    function test_settle__nextRound__startsClean() external {
        uint256 id = _started(2, 1, 1);
        _finalRound(id, 2, 1);
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.phase), uint256(Phase.Commit));
        vm.assertEq(uint256(r.phaseEnd), _now() + COMMIT);
        vm.assertEq(uint256(r.round), 2);
        vm.assertEq(uint256(r.outcome), uint256(Outcome.Pending));
        vm.assertEq(abi.encode(r.committed, r.revealed, r.tallied, r.settled), abi.encode(0, 0, 0, 0));
        vm.assertEq(abi.encode(r.scoresCommitted, r.scoresRevealed), abi.encode(0, 0));
        vm.assertEq(abi.encode(r.totalWeight, r.accepted, r.aggregateStart), abi.encode(0, 0, 0));
        vm.assertEq(abi.encode(r.postedAt, r.seedBlock, r.orderDrawn), abi.encode(0, 0, false));
        vm.assertEq(r.order[0], address(0));
        vm.assertEq(r.aggregator, address(0));
        vm.assertEq(r.aggregateRoot, 0);
        vm.assertEq(r.modelRoot, _modelRoot(1));
    }

    function test_settle__lastRound__completesAndReleases() external {
        uint256 id = _uneven(1);
        _scoredAlike(id, _same(2, 1, 1));
        _finalise(id);
        vm.assertEq(uint256(coordinator.releasableAt(id)), type(uint40).max);
        _settleAll(id);
        vm.assertEq(uint256(coordinator.releasableAt(id)), _now());
        vm.assertEq(uint256(coordinator.roundOf(id).endedAt), _now());
        vm.assertEq(uint256(coordinator.roundOf(id).outcome), uint256(Outcome.Final));

        uint256 end = _now() + UNBONDING;
        _mineAt(end - 1);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StillBonded.selector, id, end));
        vault.unlock(id, Role.Worker, _worker(0));
        _mineAt(end);
        vault.unlock(id, Role.Worker, _worker(0));
        vault.unlock(id, Role.Worker, _worker(1));
        vault.unlock(id, Role.Validator, _validator(0));
        vault.unlock(id, Role.Validator, _validator(1));
        (, uint256 locked,,,) = vault.totals();
        vm.assertEq(locked, 0);
    }

    function test_settle__completed__reverts() external {
        uint256 id = _uneven(1);
        _endPhase(id);
        _settleAll(id);
        vm.expectRevert(_unexpected(id, Phase.Completed, Phase.Settlement));
        coordinator.settle(id, 1);
    }

    function test_settle__rewardThatDoesNotDivide__restIsTheRequesters() external {
        TaskParams memory p = _params(3, 3, 1);
        (p.rounds, p.reward) = (3, 1_000_003);
        uint256 id = _create(p);
        _enrolAll(id, 3, 3, 1);
        for (uint256 i; i < 3; ++i) {
            _finalRound(id, 3, 3);
        }
        IStakeVault.Escrow memory e = vault.escrowOf(id);
        vm.assertEq(uint256(e.paid) + e.refunded, p.reward);
        vm.assertEq(uint256(e.balance) + e.burned, 0);
        // A wei a round that does not divide, and at most eight a round that do not divide among the payees.
        vm.assertLe(uint256(e.refunded), 27);
    }

    // --- two tasks at once ---------------------------------------------------------------------------------------------

    function test_twoTasks__sameAccounts__doNotTouchOneAnother() external {
        uint256 first = _uneven(1);
        uint256 second = _uneven(1);
        _scoredAlike(first, _same(2, 1, 1));
        _commitAll(second, 2);
        _finalise(first);
        _settleAll(first);
        _assertPhase(first, Phase.Completed);
        vm.assertEq(uint256(vault.escrowOf(second).balance), BUDGET);
        vm.assertEq(vault.lockOf(second, Role.Worker, _worker(0)), WORKER_STAKE);
        vm.assertEq(coordinator.roundOf(second).modelRoot, GENESIS);
    }
}
