// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IModelRegistry } from "../../src/interfaces/IModelRegistry.sol";
import { Outcome, Phase, Role, RoundView } from "../../src/interfaces/Types.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Follows TaskCoordinatorTask.tree: a whole task, from its creation to the last claim.
contract TaskCoordinatorTaskTest is Deployed {
    function test_task__twoFinalRounds__isCompletedAndPaidToTheWei() external {
        uint256 id = _started(3, 3, 1);
        _assertPhase(id, Phase.Commit);
        _finalRound(id, 3, 3);
        vm.assertEq(_round(id), 2);
        _finalRound(id, 3, 3);
        _assertPhase(id, Phase.Completed);

        // 500 a round: 350 to three workers, 100 to three validators, 50 to the aggregator; what does not divide is dust.
        uint256 worker = 35 ether + 81_666666666666666666;
        uint256 validator = 33_333333333333333333;
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(vault.creditOf(_worker(i)), 2 * worker, "worker");
            vm.assertEq(vault.creditOf(_validator(i)), 2 * validator, "validator");
        }
        vm.assertEq(vault.creditOf(_aggregator(0)), 100 ether, "aggregator");
        uint256 dust = REWARD - 6 * worker - 6 * validator - 100 ether;
        vm.assertEq(vault.creditOf(requester), dust, "dust");
        _assertEscrowSpent(id, REWARD - dust, dust, 0);
        _assertSolvent();
    }
}
