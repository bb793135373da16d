// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Payouts } from "../../src/libraries/Payouts.sol";
import { Test } from "../base/Test.sol";

/// @notice Follows Payouts.tree.
contract PayoutsTest is Test {
    string internal constant VECTORS = "tests/vectors/payouts.json";

    // --- split ---------------------------------------------------------------------------------------

    function test_split__defaultShares__give70And20And10Percent() external pure {
        _assertSplit(1000 ether, 7000, 2000, 1000, 700 ether, 200 ether, 100 ether);
    }

    function test_split__doesNotDivide__roundsEachPartDown() external pure {
        _assertSplit(9, 7000, 2000, 1000, 6, 1, 0);
        _assertSplit(1, 7000, 2000, 1000, 0, 0, 0);
    }

    function test_split__zero__givesNothing() external pure {
        _assertSplit(0, 7000, 2000, 1000, 0, 0, 0);
        _assertSplit(1000, 0, 0, 0, 0, 0, 0);
    }

    function test_split__allToOneRole__givesTheBudget() external pure {
        _assertSplit(1001, 10_000, 0, 0, 1001, 0, 0);
        _assertSplit(1001, 0, 10_000, 0, 0, 1001, 0);
        _assertSplit(1001, 0, 0, 10_000, 0, 0, 1001);
    }

    function test_split__largestBudget__doesNotOverflow() external pure {
        uint256 most = type(uint256).max;
        _assertSplit(most, 5000, 5000, 0, most / 2, most / 2, 0);
        _assertSplit(most, 10_000, 0, 0, most, 0, 0);
    }

    function test_split__vectors__giveTheirParts() external view {
        string memory json = vm.readFile(VECTORS);
        uint256 i;
        for (string memory at = _at("split", i); vm.keyExistsJson(json, at); at = _at("split", ++i)) {
            _assertSplit(
                _uint(json, at, "budget"),
                _uint(json, at, "workers_bps"),
                _uint(json, at, "validators_bps"),
                _uint(json, at, "aggregator_bps"),
                _uint(json, at, "workers"),
                _uint(json, at, "validators"),
                _uint(json, at, "aggregator")
            );
        }
        vm.assertGe(i, 20);
    }

    // --- workerPay -----------------------------------------------------------------------------------

    function test_workerPay__oneWorker__getsThePot() external pure {
        vm.assertEq(Payouts.workerPay(70 ether, 3000, 100 ether, 100 ether, 10_000, 10_000), 70 ether);
    }

    function test_workerPay__equalStakes__shareBaseEvenlyAndRestByScore() external pure {
        // 30 of 100 by stake, half each; 70 of 100 by score, one to six.
        vm.assertEq(Payouts.workerPay(100, 3000, 50, 100, 1, 7), 15 + 10);
        vm.assertEq(Payouts.workerPay(100, 3000, 50, 100, 6, 7), 15 + 60);
    }

    function test_workerPay__splitsItsStake__gainsNoBase() external pure {
        uint256 whole = Payouts.workerPay(100 ether, 10_000, 200, 600, 1, 3);
        uint256 half = Payouts.workerPay(100 ether, 10_000, 100, 600, 1, 3);
        vm.assertLe(2 * half, whole);
    }

    function test_workerPay__noTotalStake__paysByScoreAlone() external pure {
        vm.assertEq(Payouts.workerPay(100, 3000, 0, 0, 1, 2), 35);
    }

    function test_workerPay__noTotalScore__paysByStakeAlone() external pure {
        vm.assertEq(Payouts.workerPay(100, 3000, 1, 2, 0, 0), 15);
        vm.assertEq(Payouts.workerPay(100, 3000, 0, 0, 0, 0), 0);
    }

    function test_workerPay__baseOfNothingOrEverything__paysOneWay() external pure {
        vm.assertEq(Payouts.workerPay(100, 0, 1, 2, 1, 4), 25);
        vm.assertEq(Payouts.workerPay(100, 10_000, 1, 2, 1, 4), 50);
    }

    function test_workerPay__potOfZero__givesNothing() external pure {
        vm.assertEq(Payouts.workerPay(0, 3000, 1, 1, 1, 1), 0);
    }

    function test_workerPay__threeEqualWorkers__leaveDust() external pure {
        // 30 / 3 and 71 / 3: two wei are left for the requester.
        uint256 each = Payouts.workerPay(101, 3000, 1, 3, 1, 3);
        vm.assertEq(each, 10 + 23);
        vm.assertEq(101 - 3 * each, 2);
    }

    function test_workerPay__vectors__giveTheirPay() external view {
        string memory json = vm.readFile(VECTORS);
        uint256 i;
        for (string memory at = _at("worker_pay", i); vm.keyExistsJson(json, at); at = _at("worker_pay", ++i)) {
            uint256 pay = Payouts.workerPay(
                _uint(json, at, "pot"),
                _uint(json, at, "base_bps"),
                _uint(json, at, "stake"),
                _uint(json, at, "total_stake"),
                _uint(json, at, "score"),
                _uint(json, at, "total_score")
            );
            vm.assertEq(pay, _uint(json, at, "pay"), at);
        }
        vm.assertGe(i, 30);
    }

    // --- proRata -------------------------------------------------------------------------------------

    function test_proRata__wholeOfZero__isZero() external pure {
        vm.assertEq(Payouts.proRata(100, 1, 0), 0);
        vm.assertEq(Payouts.proRata(type(uint256).max, type(uint256).max, 0), 0);
    }

    function test_proRata__nothingToShare__isZero() external pure {
        vm.assertEq(Payouts.proRata(100, 0, 3), 0);
        vm.assertEq(Payouts.proRata(0, 2, 3), 0);
    }

    function test_proRata__partIsTheWhole__isThePot() external pure {
        vm.assertEq(Payouts.proRata(101, 3, 3), 101);
    }

    function test_proRata__doesNotDivide__roundsDown() external pure {
        vm.assertEq(Payouts.proRata(100, 1, 3), 33);
        vm.assertEq(Payouts.proRata(100, 2, 3), 66);
    }

    function test_proRata__productBeyondUint256__isExact() external pure {
        uint256 most = type(uint256).max;
        vm.assertEq(Payouts.proRata(most, most, most), most);
        vm.assertEq(Payouts.proRata(most, most - 1, most), most - 1);
    }

    function test_proRata__vectors__giveTheirShares() external view {
        string memory json = vm.readFile(VECTORS);
        uint256 i;
        for (string memory at = _at("pro_rata", i); vm.keyExistsJson(json, at); at = _at("pro_rata", ++i)) {
            uint256 share = Payouts.proRata(_uint(json, at, "pot"), _uint(json, at, "part"), _uint(json, at, "whole"));
            vm.assertEq(share, _uint(json, at, "share"), at);
        }
        vm.assertGe(i, 20);
    }

    // --- agrees --------------------------------------------------------------------------------------

    function test_agrees__verdictsDiffer__isFalse() external pure {
        vm.assertFalse(Payouts.agrees(1, 1, 0, 0));
        vm.assertFalse(Payouts.agrees(0, 0, 1, 1));
    }

    function test_agrees__bothReject__isTrue() external pure {
        vm.assertTrue(Payouts.agrees(0, 0, 0, 0));
    }

    function test_agrees__smallMedianAt500__isTrue() external pure {
        vm.assertTrue(Payouts.agrees(1, 501, 1, 1));
        vm.assertTrue(Payouts.agrees(1, 1, 1, 501));
        vm.assertTrue(Payouts.agrees(1, 1500, 1, 2000));
    }

    function test_agrees__smallMedianAt501__isFalse() external pure {
        vm.assertFalse(Payouts.agrees(1, 502, 1, 1));
        vm.assertFalse(Payouts.agrees(1, 1, 1, 502));
        vm.assertFalse(Payouts.agrees(1, 1499, 1, 2000));
    }

    function test_agrees__largeMedianAtQuarter__isTrue() external pure {
        vm.assertTrue(Payouts.agrees(1, 7500, 1, 10_000));
        vm.assertTrue(Payouts.agrees(1, 12_500, 1, 10_000));
    }

    function test_agrees__largeMedianBeyondQuarter__isFalse() external pure {
        vm.assertFalse(Payouts.agrees(1, 7499, 1, 10_000));
        vm.assertFalse(Payouts.agrees(1, 12_501, 1, 10_000));
    }

    function test_agrees__largestScores__doNotOverflow() external pure {
        vm.assertTrue(Payouts.agrees(1, 65_535, 1, 65_535));
        vm.assertTrue(Payouts.agrees(1, 65_535, 1, 52_428));
        vm.assertFalse(Payouts.agrees(1, 65_535, 1, 52_427));
    }

    function test_agrees__weightsDifferButAccept__isTrue() external pure {
        vm.assertTrue(Payouts.agrees(1, 100, 10_000, 100));
    }

    function test_agrees__abstention__isFalse() external pure {
        vm.assertFalse(Payouts.agrees(Payouts.ABSTAIN, 0, 1, 1));
        vm.assertFalse(Payouts.agrees(Payouts.ABSTAIN, 0, 0, 0));
    }

    function test_agrees__vectors__giveTheirAnswers() external view {
        string memory json = vm.readFile(VECTORS);
        uint256 i;
        for (string memory at = _at("agrees", i); vm.keyExistsJson(json, at); at = _at("agrees", ++i)) {
            bool agreed = Payouts.agrees(
                uint16(_uint(json, at, "weight")),
                uint16(_uint(json, at, "score")),
                uint16(_uint(json, at, "median_weight")),
                uint16(_uint(json, at, "median_score"))
            );
            vm.assertTrue(agreed == vm.parseJsonBool(json, string.concat(at, ".agrees")), at);
        }
        vm.assertGe(i, 40);
    }

    // --- slashAmount ---------------------------------------------------------------------------------

    function test_slashAmount__enoughLeft__isTheShare() external pure {
        vm.assertEq(Payouts.slashAmount(100 ether, 2000, 100 ether), 20 ether);
        vm.assertEq(Payouts.slashAmount(100 ether, 10_000, 300 ether), 100 ether);
    }

    function test_slashAmount__aroundWhatIsLeft__isTheSmaller() external pure {
        vm.assertEq(Payouts.slashAmount(100, 2000, 19), 19);
        vm.assertEq(Payouts.slashAmount(100, 2000, 20), 20);
        vm.assertEq(Payouts.slashAmount(100, 2000, 21), 20);
    }

    function test_slashAmount__zero__isZero() external pure {
        vm.assertEq(Payouts.slashAmount(0, 10_000, 100), 0);
        vm.assertEq(Payouts.slashAmount(100, 0, 100), 0);
        vm.assertEq(Payouts.slashAmount(100, 10_000, 0), 0);
        vm.assertEq(Payouts.slashAmount(4, 2000, 100), 0);
    }

    function test_slashAmount__vectors__giveTheirAmounts() external view {
        string memory json = vm.readFile(VECTORS);
        uint256 i;
        for (string memory at = _at("slash_amount", i); vm.keyExistsJson(json, at); at = _at("slash_amount", ++i)) {
            uint256 amount =
                Payouts.slashAmount(_uint(json, at, "required"), _uint(json, at, "bps"), _uint(json, at, "left"));
            vm.assertEq(amount, _uint(json, at, "slash"), at);
        }
        vm.assertGe(i, 12);
    }

    // --- checks of these tests -----------------------------------------------------------------------

    function _assertSplit(
        uint256 budget,
        uint256 workersBps,
        uint256 validatorsBps,
        uint256 aggregatorBps,
        uint256 workers,
        uint256 validators,
        uint256 aggregator
    ) private pure {
        (uint256 w, uint256 v, uint256 a) = Payouts.split(budget, workersBps, validatorsBps, aggregatorBps);
        vm.assertEq(w, workers, "workers");
        vm.assertEq(v, validators, "validators");
        vm.assertEq(a, aggregator, "aggregator");
    }

    function _at(string memory section, uint256 i) private pure returns (string memory) {
        return string.concat(".", section, "[", vm.toString(i), "]");
    }

    function _uint(string memory json, string memory at, string memory field) private pure returns (uint256) {
        return vm.parseJsonUint(json, string.concat(at, ".", field));
    }
}
