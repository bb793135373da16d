// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { StakeVault } from "../../src/StakeVault.sol";
import { TaskCoordinator } from "../../src/TaskCoordinator.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Phase, Role } from "../../src/interfaces/Types.sol";
import { Test } from "../base/Test.sol";
import { DisputeHandler } from "./DisputeHandler.sol";

/// @notice Follows INVARIANTS.md: the numbers in the names are those of the list.
contract DisputeInvariantTest is Test {
    DisputeHandler private _handler;
    TrainingToken private _token;
    StakeVault private _vault;
    TaskCoordinator private _coordinator;
    ModelRegistry private _registry;

    function setUp() external {
        _handler = new DisputeHandler();
        (_token, _vault, _coordinator, _registry) = _handler.contracts();
        bytes4[] memory selectors = new bytes4[](10);
        selectors[0] = DisputeHandler.create.selector;
        selectors[1] = DisputeHandler.post.selector;
        selectors[2] = DisputeHandler.uselessChallenge.selector;
        selectors[3] = DisputeHandler.uselessGame.selector;
        selectors[4] = DisputeHandler.pointSomewhere.selector;
        selectors[5] = DisputeHandler.demand.selector;
        selectors[6] = DisputeHandler.liarAnswers.selector;
        selectors[7] = DisputeHandler.settle.selector;
        selectors[8] = DisputeHandler.pass.selector;
        selectors[9] = DisputeHandler.post.selector;
        target(address(_handler), selectors);
    }

    /// @dev The handler is no use unless its actions lead everywhere.
    function test_handler__manyActions__meetEveryEvent() external {
        DisputeHandler handler = new DisputeHandler();
        for (uint256 i; i < 300; ++i) {
            if (i % 40 == 0) handler.create(uint256(keccak256(abi.encode("task", i))));
            _act(handler, uint256(keccak256(abi.encode(i))));
        }
        handler.leaveNothingBehind();
        bytes32[13] memory events = [
            bytes32("create"),
            "update refuted",
            "honest post",
            "lying post",
            "useless challenge",
            "useless game",
            "point",
            "demand",
            "answer",
            "proof",
            "proof in game",
            "silence",
            "settle"
        ];
        for (uint256 e; e < events.length; ++e) {
            vm.assertGt(handler.calls(events[e]), 0, string(abi.encodePacked(events[e])));
        }
    }

    function _act(DisputeHandler handler, uint256 seed) private {
        uint256 what = seed >> 240 & 15;
        if (what == 0) handler.create(seed);
        else if (what < 4) handler.post(seed);
        else if (what == 4) handler.uselessChallenge(seed);
        else if (what == 5) handler.uselessGame(seed);
        else if (what == 6 || what == 12) handler.pointSomewhere(seed);
        else if (what == 7) handler.demand(seed);
        else if (what < 11) handler.liarAnswers(seed);
        else if (what == 11) handler.settle(seed);
        else handler.pass(seed);
    }

    /// forge-config: default.invariant.runs = 8
    /// forge-config: default.invariant.depth = 64
    function invariant_disputes() external view {
        _D1_vaultIsSolvent();
        _D2_escrowIsConserved();
        _D3_attemptAndPhaseNeverGoBack();
        _D4_finalModelIsTheHonestOne();
        _D5_honestPosterIsNeverSlashed();
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

    function _D3_attemptAndPhaseNeverGoBack() private view {
        vm.assertFalse(_handler.wentBack());
    }

    function _D4_finalModelIsTheHonestOne() private view {
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            bytes32 root = _coordinator.roundOf(id).modelRoot;
            vm.assertTrue(root == _handler.honestRootOf(id) || root == _handler.genesisOf(id), "a wrong final model");
        }
    }

    function _D5_honestPosterIsNeverSlashed() private view {
        vm.assertFalse(_handler.honestLost());
    }

    /// @dev D6 and D7: every round ends, every bond is freed or burned by strangers, and the watcher lost nothing.
    function afterInvariant() external {
        _handler.leaveNothingBehind();
        for (uint256 id = 1; id <= _coordinator.numTasks(); ++id) {
            address[] memory parties = _handler.parties();
            for (uint256 i; i < parties.length; ++i) {
                vm.assertEq(_vault.lockOf(id, Role.Challenger, parties[i]), 0, "a challenger's lock that stays");
                vm.assertEq(_vault.lockOf(id, Role.Aggregator, parties[i]), 0, "an aggregator's bond that stays");
            }
        }
        address watcher = _handler.parties()[0];
        vm.assertGe(_vault.freeOf(watcher) + _vault.creditOf(watcher), _handler.watcherIn(), "the watcher lost");
        _D4_finalModelIsTheHonestOne();
        vm.assertFalse(_handler.wentBack());
    }
}
