// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Payouts } from "../../src/libraries/Payouts.sol";
import { Test } from "../base/Test.sol";

/// @notice Nothing is paid that is not there, and what is left is dust.
contract PayoutsFuzz is Test {
    uint256 internal constant MAX_WORKERS = 64;

    function testFuzz_split__anyShares__neverExceedTheBudget(uint256 budget, uint256 w, uint256 v) external pure {
        w = bound(w, 0, 10_000);
        v = bound(v, 0, 10_000 - w);
        (uint256 workers, uint256 validators, uint256 aggregator) = Payouts.split(budget, w, v, 10_000 - w - v);
        // In this order no sum overflows, even with a budget of 2^256 - 1.
        uint256 left = budget - workers - validators - aggregator;
        vm.assertLe(left, 2, "dust below the number of parts");
    }

    function testFuzz_proRata__allParts__leaveLessThanTheirNumber(uint256 pot, uint256 seed, uint256 count)
        external
        pure
    {
        pot = bound(pot, 0, type(uint128).max);
        (uint256[] memory parts, uint256 whole) = _parts(seed, bound(count, 1, MAX_WORKERS));
        uint256 paid;
        for (uint256 i; i < parts.length; ++i) {
            paid += Payouts.proRata(pot, parts[i], whole);
        }
        vm.assertLe(paid, pot);
        if (whole > 0) vm.assertLt(pot - paid, parts.length);
    }

    function testFuzz_proRata__largerPart__isNotPaidLess(uint256 pot, uint256 a, uint256 b, uint256 whole)
        external
        pure
    {
        whole = bound(whole, 1, type(uint256).max);
        a = bound(a, 0, whole);
        b = bound(b, a, whole);
        vm.assertLe(Payouts.proRata(pot, a, whole), Payouts.proRata(pot, b, whole));
    }

    function testFuzz_workerPay__allWorkers__leaveLessThanTwiceTheirNumber(
        uint256 pot,
        uint256 baseBps,
        uint256 seed,
        uint256 count
    ) external pure {
        pot = bound(pot, 0, type(uint128).max);
        baseBps = bound(baseBps, 0, 10_000);
        count = bound(count, 1, MAX_WORKERS);
        (uint256[] memory stakes, uint256 totalStake) = _parts(seed, count);
        (uint256[] memory scores, uint256 totalScore) = _parts(~seed, count);
        uint256 paid;
        for (uint256 i; i < count; ++i) {
            paid += Payouts.workerPay(pot, baseBps, stakes[i], totalStake, scores[i], totalScore);
        }
        vm.assertLe(paid, pot);
        if (totalStake > 0 && totalScore > 0) vm.assertLt(pot - paid, 2 * count);
    }

    function testFuzz_workerPay__stakeSplitInTwo__gainsNothing(uint256 pot, uint256 stake, uint256 part, uint256 rest)
        external
        pure
    {
        pot = bound(pot, 0, type(uint128).max);
        stake = bound(stake, 1, type(uint96).max);
        part = bound(part, 0, stake);
        uint256 total = stake + bound(rest, 0, type(uint96).max);
        uint256 whole = Payouts.workerPay(pot, 3000, stake, total, 0, 1);
        uint256 halves =
            Payouts.workerPay(pot, 3000, part, total, 0, 1) + Payouts.workerPay(pot, 3000, stake - part, total, 0, 1);
        vm.assertLe(halves, whole);
    }

    function testFuzz_agrees__anyVote__fitsTheDefinition(uint16 weight, uint16 score, uint16 median, uint16 at)
        external
        pure
    {
        bool agreed = Payouts.agrees(weight, score, median, at);
        int256 distance = int256(uint256(score)) - int256(uint256(at));
        int256 tolerance = int256(uint256(at)) / 4;
        if (tolerance < 500) tolerance = 500;
        bool close = distance <= tolerance && -distance <= tolerance;
        bool alike = (weight > 0 && median > 0) || (weight == 0 && median == 0);
        vm.assertEq(agreed, alike && close && weight != type(uint16).max);
    }

    function testFuzz_agrees__withTheMedianItself__isTrue(uint16 weight, uint16 score) external pure {
        weight = uint16(bound(weight, 0, 10_000));
        vm.assertTrue(Payouts.agrees(weight, score, weight, score));
    }

    function testFuzz_slashAmount__any__exceedsNeitherShareNorRest(uint256 required, uint256 bps, uint256 left)
        external
        pure
    {
        bps = bound(bps, 0, 10_000);
        uint256 amount = Payouts.slashAmount(required, bps, left);
        vm.assertLe(amount, left);
        vm.assertLe(amount, required);
        if (bps == 10_000) vm.assertEq(amount, required < left ? required : left);
    }

    /// @dev Parts, some of them 0, and their sum.
    function _parts(uint256 seed, uint256 count) private pure returns (uint256[] memory parts, uint256 whole) {
        parts = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            uint256 word = uint256(keccak256(abi.encode(seed, i)));
            parts[i] = word % 5 == 0 ? 0 : bound(word, 1, type(uint96).max);
            whole += parts[i];
        }
    }
}
