// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Payouts } from "../../src/libraries/Payouts.sol";
import { SymbolicTest } from "./SymbolicTest.sol";

/// @notice The parts of a pot never exceed it, for all shares, stakes and scores.
/// @dev Pots and totals are constants (primes, so that everything leaves a remainder): a solver works bit by bit, and a
/// quotient of two symbols is beyond it. contracts/test/fuzz/Payouts.t.sol has the same promises at full width.
contract PayoutsSymbolicTest is SymbolicTest {
    uint256 private constant POT = 13;
    uint256 private constant WHOLE = 11;

    /// @dev Shares that add up to all there is, as task creation requires.
    function check_split(uint16 workersBps) external pure {
        vm.assume(workersBps <= 9000);
        (uint256 workers, uint256 validators, uint256 aggregator) =
            Payouts.split(POT, workersBps, 9000 - workersBps, 1000);
        vm.assertLe(workers + validators + aggregator, POT, "parts exceed the budget");
    }

    function check_proRata(uint16 a, uint16 b) external pure {
        vm.assume(uint256(a) + b <= WHOLE);
        vm.assertLe(Payouts.proRata(POT, a, WHOLE) + Payouts.proRata(POT, b, WHOLE), POT, "parts exceed the pot");
    }

    function check_workerPay(uint16 stake, uint16 score) external pure {
        vm.assume(stake <= WHOLE && score <= WHOLE);
        uint256 paid = Payouts.workerPay(POT, 3000, stake, WHOLE, score, WHOLE)
            + Payouts.workerPay(POT, 3000, WHOLE - stake, WHOLE, WHOLE - score, WHOLE);
        vm.assertLe(paid, POT, "parts exceed the pot");
    }
}
