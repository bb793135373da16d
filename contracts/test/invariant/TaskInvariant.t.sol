// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { StakeVault } from "../../src/StakeVault.sol";
import { TaskCoordinator } from "../../src/TaskCoordinator.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Member, Outcome, Phase, Role, RoundView } from "../../src/interfaces/Types.sol";
import { Test } from "../base/Test.sol";
import { TaskHandler } from "./TaskHandler.sol";

/// @notice Follows INVARIANTS.md: the numbers in the names are those of the list.
contract TaskInvariantTest is Test {
    TaskHandler private _handler;
    TrainingToken private _token;
    StakeVault private _vault;
    TaskCoordinator private _coordinator;
    ModelRegistry private _registry;

    function setUp() external {
        _handler = new TaskHandler();
        (_token, _vault, _coordinator, _registry) = _handler.contracts();
        _handler.createTask(uint256(keccak256("first")));
        for (uint256 i; i < _handler.numMembers(); ++i) {
            _handler.enrol(i << 8);
        }
        bytes4[] memory selectors = new bytes4[](16);
        selectors[0] = TaskHandler.createTask.selector;
        selectors[1] = TaskHandler.enrol.selector;
        selectors[2] = TaskHandler.startOrCancel.selector;
        selectors[3] = TaskHandler.leaveOrRejoin.selector;
        selectors[4] = TaskHandler.passBlocks.selector;
        selectors[5] = TaskHandler.moveMoney.selector;
        selectors[6] = TaskHandler.pass.selector;
        selectors[7] = TaskHandler.draw.selector;
        selectors[8] = TaskHandler.endPhase.selector;
        selectors[9] = TaskHandler.update.selector;
        selectors[10] = TaskHandler.score.selector;
        selectors[11] = TaskHandler.tally.selector;
        selectors[12] = TaskHandler.post.selector;
        selectors[13] = TaskHandler.settle.selector;
        selectors[14] = TaskHandler.advance.selector;
        selectors[15] = TaskHandler.drawWorkers.selector;
        target(address(_handler), selectors);
    }

    /// @dev The handler is no use unless its actions lead everywhere.
    function test_handler__manyActions__meetEveryOutcome() external {
        uint256[6] memory met;
        uint256 draws;
        for (uint256 run; run < 6; ++run) {
            TaskHandler handler = new TaskHandler();
            for (uint256 i; i < 120; ++i) {
                _act(handler, uint256(keccak256(abi.encode(run, i))));
            }
            handler.leaveNothingBehind();
            draws += handler.calls("draw workers");
            for (uint256 o; o < 6; ++o) {
                met[o] += handler.calls(bytes32(o));
            }
        }
        for (uint256 o = uint256(Outcome.Final); o < 6; ++o) {
            vm.assertGt(met[o], 0, vm.toString(o));
        }
        vm.assertGt(draws, 0, "nobody was drawn");
    }

    function _act(TaskHandler handler, uint256 seed) private {
        uint256 what = seed >> 240 & 15;
        if (what == 0) handler.leaveOrRejoin(seed);
        else if (what == 1) handler.endPhase(seed);
        else if (what == 2) handler.draw(seed);
        else if (what == 3) handler.startOrCancel(seed);
        else if (what == 4) handler.moveMoney(seed);
        else handler.advance(seed);
    }

    /// @dev All in one: forge would play the runs anew for every function.
    /// forge-config: default.invariant.runs = 24
    /// forge-config: default.invariant.depth = 96
    function invariant_task() external view {
        _T1_vaultBalanceCoversAllLedgers();
        _T2_escrowIsConserved();
        _T3_roundAndPhaseNeverGoBack();
        _T5_lineageIsOfFinalRoundsAlone();
        _T7_eligibleAreTheActive();
        _T8_memberStakeIsLocked();
        _T9_bondIsLockedWhileTheAggregateStands();
        _T10_activeMembersHoldHalfOfTheStake();
        _T14_drawnAreAsManyAsWanted();
        _T15_whoStaysMissedLessThanTwoRoundsInARow();
    }

    function _T1_vaultBalanceCoversAllLedgers() private view {
        (uint256 free, uint256 locked, uint256 escrow, uint256 credit, uint256 burnPending) = _vault.totals();
        vm.assertEq(_token.balanceOf(address(_vault)), free + locked + escrow + credit + burnPending);
    }

    function _T2_escrowIsConserved() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            IStakeVault.Escrow memory e = _vault.escrowOf(id);
            vm.assertEq(uint256(e.balance) + e.paid + e.refunded + e.burned, _handler.funded(id));
            (Phase phase,) = _coordinator.phaseOf(id);
            if (phase >= Phase.Completed) vm.assertEq(uint256(e.balance), 0, "escrow left behind");
            else vm.assertGe(uint256(e.balance), _coordinator.roundOf(id).carry, "the carry is not there");
        }
    }

    function _T3_roundAndPhaseNeverGoBack() private view {
        vm.assertFalse(_handler.wentBack());
    }

    function _T5_lineageIsOfFinalRoundsAlone() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            uint256 versions = 1;
            for (uint16 round = 1; round <= _coordinator.taskOf(id).rounds; ++round) {
                bool exists = _registry.exists(_registry.modelIdOf(id, round));
                vm.assertEq(exists, _handler.wasFinal(id, round));
                if (exists) ++versions;
            }
            vm.assertEq(uint256(_registry.lineOf(id).versions), versions);
        }
    }

    function _T7_eligibleAreTheActive() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            RoundView memory r = _coordinator.roundOf(id);
            if (r.round == 0) continue;
            // Whom the settlement has come by waits for the next draw.
            bool putBack = r.settled > 0 && _coordinator.taskOf(id).draw.clientsPerRound > 0;
            if (!putBack) vm.assertEq(uint256(r.eligibleWorkers), _active(id, Role.Worker, r.round), "workers");
            vm.assertEq(uint256(r.eligibleValidators), _active(id, Role.Validator, r.round), "validators");
            vm.assertEq(uint256(r.numSlots), _active(id, Role.Aggregator, r.round), "aggregators");
            vm.assertLe(uint256(r.committed), r.eligibleWorkers);
            vm.assertLe(uint256(r.revealed), r.committed);
            vm.assertLe(uint256(r.scoresCommitted), r.eligibleValidators);
            vm.assertLe(uint256(r.scoresRevealed), r.scoresCommitted);
            vm.assertLe(uint256(r.accepted), r.revealed);
        }
    }

    function _active(uint256 id, Role role, uint16 round) private view returns (uint256 count) {
        address[] memory accounts = _coordinator.membersOf(id, role);
        for (uint256 i; i < accounts.length; ++i) {
            Member memory m = _coordinator.memberOf(id, role, accounts[i]);
            if (m.activeFrom <= round && round < m.activeUntil) ++count;
        }
    }

    function _T8_memberStakeIsLocked() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            (Phase phase,) = _coordinator.phaseOf(id);
            if (phase >= Phase.Completed) continue;
            for (uint256 i; i < _handler.numMembers(); ++i) {
                (Role role, address account) = _handler.membersAt(i);
                if (role == Role.Aggregator) continue;
                Member memory m = _coordinator.memberOf(id, role, account);
                vm.assertEq(uint256(m.stake), _vault.lockOf(id, role, account));
            }
        }
    }

    function _T9_bondIsLockedWhileTheAggregateStands() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            RoundView memory r = _coordinator.roundOf(id);
            bool stands = r.postedAt > 0 && r.phase != Phase.Completed;
            for (uint256 i; i < _handler.numMembers(); ++i) {
                (Role role, address account) = _handler.membersAt(i);
                if (role != Role.Aggregator) continue;
                uint256 bond = stands && account == r.aggregator ? 200 ether : 0;
                vm.assertEq(_vault.lockOf(id, role, account), bond);
            }
        }
    }

    function _T10_activeMembersHoldHalfOfTheStake() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            RoundView memory r = _coordinator.roundOf(id);
            // Within Settlement some are slashed and the round is over for them.
            if (r.round == 0 || r.phase == Phase.Settlement || r.phase == Phase.Completed) continue;
            for (uint256 i; i < _handler.numMembers(); ++i) {
                (Role role, address account) = _handler.membersAt(i);
                Member memory m = _coordinator.memberOf(id, role, account);
                if (m.activeFrom == 0 || m.activeFrom > r.round || r.round >= m.activeUntil) continue;
                uint256 required = role == Role.Worker ? 100 ether : role == Role.Validator ? 300 ether : 0;
                vm.assertGe(2 * uint256(m.stake), required);
            }
        }
    }

    /// @dev And whoever else is enrolled waits: for the next draw, or, after a rejoin, for the next round's.
    function _T14_drawnAreAsManyAsWanted() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            RoundView memory r = _coordinator.roundOf(id);
            uint256 wanted = _coordinator.taskOf(id).draw.clientsPerRound;
            if (wanted == 0) {
                vm.assertEq(uint256(r.pool), 0);
                continue;
            }
            if (r.eligibleWorkers > 0) {
                vm.assertEq(uint256(r.eligibleWorkers), wanted < r.pool ? wanted : r.pool);
            }
            address[] memory workers = _coordinator.membersOf(id, Role.Worker);
            for (uint256 i; i < workers.length; ++i) {
                uint256 from = _coordinator.memberOf(id, Role.Worker, workers[i]).activeFrom;
                vm.assertTrue(from == type(uint16).max - 1 || from == r.round || from == uint256(r.round) + 1);
                vm.assertLe(_coordinator.workerReputationOf(id, workers[i]), 10_000);
            }
        }
    }

    function _T15_whoStaysMissedLessThanTwoRoundsInARow() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            uint256 round = _coordinator.roundOf(id).round;
            for (uint256 i; i < _handler.numMembers(); ++i) {
                (Role role, address account) = _handler.membersAt(i);
                Member memory m = _coordinator.memberOf(id, role, account);
                if (m.activeFrom > 0 && m.activeUntil > round + 1) vm.assertLt(uint256(m.missed), 2);
            }
        }
    }

    /// @dev T4 and T6, at the end of every run: a stranger ends every task, and every lock can be freed.
    function afterInvariant() external {
        _handler.leaveNothingBehind();
        (, uint256 locked, uint256 escrow,,) = _vault.totals();
        vm.assertEq(locked, 0, "a lock that cannot be freed");
        vm.assertEq(escrow, 0, "an escrow without destination");
        vm.assertFalse(_handler.wentBack());
    }
}
