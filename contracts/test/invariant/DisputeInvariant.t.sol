// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { StakeVault } from "../../src/StakeVault.sol";
import { TaskCoordinator } from "../../src/TaskCoordinator.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Phase, Role, RoundView } from "../../src/interfaces/Types.sol";
import { Test } from "../base/Test.sol";
import { DisputeHandler } from "./DisputeHandler.sol";

/// @notice Follows INVARIANTS.md: the numbers in the names are those of the list.
contract DisputeInvariantTest is Test {
    uint256 private constant WORKER_STAKE = 100 ether;
    uint256 private constant VALIDATOR_STAKE = 300 ether;

    DisputeHandler private _handler;
    TrainingToken private _token;
    StakeVault private _vault;
    TaskCoordinator private _coordinator;
    ModelRegistry private _registry;

    function setUp() external {
        _handler = new DisputeHandler();
        (_token, _vault, _coordinator, _registry) = _handler.contracts();
        target(address(_handler), _selectors());
    }

    /// @dev The handler is no use unless its actions lead everywhere.
    function test_handler__manyActions__meetEveryEvent() external {
        bytes32[33] memory events = [
            bytes32("create"),
            "first round",
            "later round",
            "honest post",
            "lying post",
            "next attempt",
            "model proof",
            "state proof",
            "proof of a moment",
            "group proof",
            "model game",
            "state game",
            "group game",
            "proof in game",
            "losing proof",
            "own lie refuted",
            "watcher came second",
            "replay",
            "useless game",
            "flood of games",
            "point",
            "answer",
            "poster silent",
            "challenger silent",
            "game over",
            "demand",
            "demand answered",
            "early demand unanswered",
            "late demand unanswered",
            "update refuted early",
            "update refuted late",
            "final round",
            "withheld round"
        ];
        uint256[33] memory met;
        string memory missed = "all";
        for (uint256 run; run < 3 && bytes(missed).length > 0; ++run) {
            DisputeHandler handler = _playedOut(run);
            missed = "";
            for (uint256 e; e < events.length; ++e) {
                met[e] += handler.calls(events[e]);
                if (met[e] == 0) missed = string.concat(missed, string(abi.encodePacked(events[e])), "; ");
            }
        }
        vm.assertEq(missed, "");
    }

    function _playedOut(uint256 run) private returns (DisputeHandler handler) {
        handler = new DisputeHandler();
        for (uint256 i; i < 250; ++i) {
            _act(handler, uint256(keccak256(abi.encode(run, i))));
        }
        handler.leaveNothingBehind();
    }

    /// @dev What leads on comes more often than what disturbs.
    function _selectors() private pure returns (bytes4[] memory selectors) {
        selectors = new bytes4[](20);
        selectors[0] = DisputeHandler.create.selector;
        selectors[1] = DisputeHandler.play.selector;
        selectors[2] = DisputeHandler.losingProof.selector;
        selectors[3] = DisputeHandler.refuteOwnLie.selector;
        selectors[4] = DisputeHandler.replay.selector;
        selectors[5] = DisputeHandler.uselessGame.selector;
        selectors[6] = DisputeHandler.pointSomewhere.selector;
        selectors[7] = DisputeHandler.demand.selector;
        selectors[8] = DisputeHandler.refuteUpdate.selector;
        (selectors[9], selectors[10]) = (DisputeHandler.watch.selector, DisputeHandler.watch.selector);
        (selectors[11], selectors[12]) = (DisputeHandler.liarAnswers.selector, DisputeHandler.liarAnswers.selector);
        (selectors[13], selectors[14]) = (DisputeHandler.settle.selector, DisputeHandler.settle.selector);
        (selectors[15], selectors[16]) = (DisputeHandler.pass.selector, DisputeHandler.pass.selector);
        for (uint256 i = 17; i < 20; ++i) {
            selectors[i] = DisputeHandler.post.selector;
        }
    }

    function _act(DisputeHandler handler, uint256 seed) private {
        bytes4[] memory selectors = _selectors();
        (bool ok,) = address(handler).call(abi.encodeWithSelector(selectors[(seed >> 240) % selectors.length], seed));
        vm.assertTrue(ok, "an action reverted");
    }

    /// forge-config: default.invariant.runs = 8
    /// forge-config: default.invariant.depth = 64
    function invariant_disputes() external view {
        _D1_vaultIsSolvent();
        _D2_escrowIsConserved();
        _D3_roundAttemptAndPhaseNeverGoBack();
        _D4_modelAndStateAreTheHonestOnes();
        _D5_honestPosterIsNeverRefuted();
        _D6_watcherNeverLoses();
        _D8_roundsEndInTime();
        _D11_challengersLocksAreTheOpenBonds();
        _D12_honestMembersKeepTheirStakes();
    }

    function _D1_vaultIsSolvent() private view {
        (uint256 free, uint256 locked, uint256 escrow, uint256 credit, uint256 burnPending) = _vault.totals();
        vm.assertEq(_token.balanceOf(address(_vault)), free + locked + escrow + credit + burnPending);
    }

    function _D2_escrowIsConserved() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            IStakeVault.Escrow memory e = _vault.escrowOf(id);
            vm.assertEq(uint256(e.balance) + e.paid + e.refunded + e.burned, _handler.funded(id));
            (Phase phase,) = _coordinator.phaseOf(id);
            if (phase == Phase.Completed) vm.assertEq(uint256(e.balance), 0);
        }
    }

    function _D3_roundAttemptAndPhaseNeverGoBack() private view {
        vm.assertFalse(_handler.wentBack());
    }

    function _D4_modelAndStateAreTheHonestOnes() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            RoundView memory r = _coordinator.roundOf(id);
            vm.assertEq(r.modelRoot, _handler.modelRootOf(id), "a wrong model");
            vm.assertEq(r.stateRoot, _handler.stateRootOf(id), "a wrong state");
        }
    }

    function _D5_honestPosterIsNeverRefuted() private view {
        vm.assertFalse(_handler.honestLost());
    }

    function _D6_watcherNeverLoses() private view {
        (,, address watcher) = _handler.honest();
        uint256 wealth = _vault.freeOf(watcher) + _vault.creditOf(watcher);
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            wealth += _vault.lockOf(id, Role.Challenger, watcher);
        }
        vm.assertGe(wealth, _handler.watcherIn(), "the watcher lost");
    }

    function _D8_roundsEndInTime() private view {
        vm.assertFalse(_handler.tookTooLong());
    }

    function _D11_challengersLocksAreTheOpenBonds() private view {
        address[] memory parties = _handler.parties();
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            for (uint256 i; i < 2; ++i) {
                uint256 locked = _vault.lockOf(id, Role.Challenger, parties[i]);
                vm.assertEq(locked, _handler.bondsOf(id, parties[i]), "a lock without a record");
            }
        }
    }

    function _D12_honestMembersKeepTheirStakes() private view {
        (address worker, address validator,) = _handler.honest();
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            vm.assertEq(_vault.lockOf(id, Role.Worker, worker), WORKER_STAKE, "an honest worker lost");
            vm.assertEq(_vault.lockOf(id, Role.Validator, validator), VALIDATOR_STAKE, "an honest validator lost");
        }
    }

    /// @dev D7: every round ends, and every bond is freed or burned by strangers.
    function afterInvariant() external {
        _handler.leaveNothingBehind();
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            address[] memory parties = _handler.parties();
            for (uint256 i; i < parties.length; ++i) {
                vm.assertEq(_vault.lockOf(id, Role.Challenger, parties[i]), 0, "a challenger's lock that stays");
                vm.assertEq(_vault.lockOf(id, Role.Aggregator, parties[i]), 0, "an aggregator's bond that stays");
            }
        }
        this.invariant_disputes();
    }
}
