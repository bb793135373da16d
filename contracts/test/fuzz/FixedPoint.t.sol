// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { FixedPoint } from "../../src/libraries/FixedPoint.sol";
import { Test } from "../base/Test.sol";
import { FixedPointHarness } from "../unit/FixedPoint.t.sol";

contract FixedPointFuzzTest is Test {
    FixedPointHarness internal harness = new FixedPointHarness();

    function testFuzz_floorDiv__anyOperands__largestMultipleNotAbove(int128 dividend, uint128 divisor) public view {
        int256 b = int256(bound(divisor, 1, type(uint128).max));
        int256 quotient = harness.floorDiv(dividend, b);
        vm.assertTrue(quotient * b <= dividend);
        vm.assertTrue(dividend < (quotient + 1) * b);
    }

    function testFuzz_sat32__anyValue__nearestInt32(int256 value) public view {
        int32 result = harness.sat32(value);
        bool inside = value >= type(int32).min && value <= type(int32).max;
        vm.assertEq(result, inside ? value : value > 0 ? type(int32).max : type(int32).min);
    }

    function testFuzz_meanStep__anyUpdates__withinHalfOfTheExactStep(
        int32 model,
        int16[8] memory updates,
        uint16[8] memory weights,
        uint16 num,
        uint16 den
    ) public view {
        FixedPointHarness.Case memory c = _case(model, updates, weights, num, den);
        (int256 sum, int256 total) = _sums(c);
        vm.assume(total > 0);
        // |2 * den * W * d - 2 * num * a| <= den * W, unless the result stands at an end of int32
        int256 result = harness.meanStep(c);
        int256 exact = 2 * int256(uint256(c.num)) * sum * 64;
        int256 half = int256(uint256(c.den)) * total;
        int256 off = 2 * half * (result - model) - exact;
        if (result == type(int32).max) vm.assertTrue(off <= half);
        else if (result == type(int32).min) vm.assertTrue(off >= -half);
        else vm.assertTrue(off <= half && off > -half);
    }

    function testFuzz_meanStep__orderOfUpdates__doesNotMatter(
        int32 model,
        int16[8] memory updates,
        uint16[8] memory weights
    ) public view {
        FixedPointHarness.Case memory forward = _case(model, updates, weights, 1, 1);
        FixedPointHarness.Case memory backward = _case(model, updates, weights, 1, 1);
        (, int256 total) = _sums(forward);
        vm.assume(total > 0);
        for (uint256 i = 0; i < 8; ++i) {
            backward.updates[i] = forward.updates[7 - i];
            backward.weights[i] = forward.weights[7 - i];
        }
        vm.assertEq(harness.meanStep(forward), harness.meanStep(backward));
    }

    function testFuzz_checkWidths__anyParameters__acceptsExactlyWhatFits(
        uint32 num,
        uint32 den,
        uint32 workers,
        uint8 s,
        uint8 t
    ) public view {
        FixedPointHarness.Widths[] memory widths = new FixedPointHarness.Widths[](1);
        widths[0] = FixedPointHarness.Widths(num, den, workers, s % 80, t % 40);
        bool fits = num != 0 && den != 0 && workers != 0 && t % 40 <= s % 80;
        if (fits) {
            uint256 total = uint256(workers) * 10_000;
            uint256 numerator = 2 * uint256(num) * total * 32_768 * 2 ** (s % 80 - t % 40) + den * total;
            fits = numerator < 2 ** 63 && 2 * uint256(den) * total < 2 ** 63;
        }
        vm.assertEq(harness.fits(widths)[0], fits);
    }

    /// @dev Where checkWidths passes, no intermediate leaves 64 bits at the extreme values.
    function testFuzz_meanStep__acceptedWidths__intermediatesFit64Bits(uint32 num, uint32 den, uint8 shift)
        public
        view
    {
        num = uint32(bound(num, 1, 1 << 20));
        den = uint32(bound(den, 1, 1 << 20));
        FixedPointHarness.Widths[] memory widths = new FixedPointHarness.Widths[](1);
        widths[0] = FixedPointHarness.Widths(num, den, 8, 14 + shift % 10, 14);
        vm.assume(harness.fits(widths)[0]);
        int256 lowest = -2 * int256(uint256(num)) * 8 * 10_000 * 32_768 * int256(2 ** uint256(shift % 10));
        vm.assertTrue(lowest >= type(int64).min);
        vm.assertTrue(int256(uint256(den)) * 80_000 - lowest <= type(int64).max);
    }

    function _case(int32 model, int16[8] memory updates, uint16[8] memory weights, uint16 num, uint16 den)
        private
        pure
        returns (FixedPointHarness.Case memory c)
    {
        (c.updates, c.weights) = (new int16[](8), new uint16[](8));
        for (uint256 i = 0; i < 8; ++i) {
            c.updates[i] = updates[i];
            c.weights[i] = weights[i] % 10_001;
        }
        (c.model, c.modelScaleBits, c.updateScaleBits) = (model, 20, 14);
        (c.num, c.den) = (uint32(num) + 1, uint32(den) + 1);
    }

    function _sums(FixedPointHarness.Case memory c) private pure returns (int256 sum, int256 total) {
        for (uint256 i = 0; i < c.updates.length; ++i) {
            sum += int256(c.updates[i]) * int256(uint256(c.weights[i]));
            total += int256(uint256(c.weights[i]));
        }
    }
}
