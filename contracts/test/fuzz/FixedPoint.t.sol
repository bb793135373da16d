// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Format, ServerKind } from "../../src/interfaces/Types.sol";
import { FixedPoint } from "../../src/libraries/FixedPoint.sol";
import { ServerReference } from "../base/ServerReference.sol";
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

    // --- the server's step ---------------------------------------------------------------------

    struct Server {
        uint8 kind;
        uint8 modelScaleBits;
        uint32 stepNum;
        uint32 stepDen;
        uint32 momentumNum;
        uint32 momentumDen;
        uint32 secondNum;
        uint32 secondDen;
        uint32 tau;
    }

    /// @dev Any state, whatever it is the state of; a and W as large as the widths allow.
    function testFuzz_serverStep__anyStateAndParameters__isWhatTheReferenceSays(
        Server memory p,
        FixedPoint.Coordinate memory at,
        int64 sum,
        uint32 total
    ) public view {
        _assertStep(_accepted(p), at, sum, bound(total, 1, 10_240_000));
    }

    /// @dev Small numbers, where halves and equal squares are.
    function testFuzz_serverStep__smallNumbers__isWhatTheReferenceSays(Server memory p, uint256 seed) public view {
        (p.stepNum, p.stepDen, p.momentumDen, p.secondDen) = (1, 2, 2, 2);
        (p.tau, p.modelScaleBits) = (1 + p.tau % 3, p.modelScaleBits % 3);
        FixedPoint.Coordinate memory at;
        at.first = int32(uint32(seed % 9)) - 4;
        at.second = 16 * int32(uint32(seed >> 8 & 7)) + int32(uint32(seed >> 16 & 3)) - 17;
        _assertStep(_accepted(p), at, int256(seed >> 24 & 15) - 8, 1 + (seed >> 32) % 3);
    }

    function _assertStep(Format memory f, FixedPoint.Coordinate memory at, int256 sum, uint256 total) private view {
        FixedPoint.Coordinate memory found = harness.serverStep(f, at, sum, total);
        int256[3] memory expected = ServerReference.next(f, [int256(at.model), at.first, at.second], sum, int256(total));
        vm.assertEq(abi.encode(found), abi.encode(expected));
    }

    /// @dev From zeros no moment ever leaves what the widths count with, so that the clamps change no honest state.
    function testFuzz_serverStep__fromZeros__momentsStayWithinTheirBounds(Server memory p, int64[8] memory sums)
        public
        view
    {
        p.kind = 3 + p.kind % 3;
        Format memory f = _accepted(p);
        FixedPoint.Coordinate memory at;
        for (uint256 i; i < 8; ++i) {
            at = harness.serverStep(f, at, sums[i], 1);
            vm.assertTrue(at.first > -1 << 24 && at.first < 1 << 24);
            vm.assertTrue(at.second >= 0 && at.second < 1 << 24);
        }
    }

    function testFuzz_checkServer__anyParameters__acceptsExactlyWhatFits(Server memory p) public view {
        Format memory f = _format(p);
        vm.assertEq(_fits(f), _mayBe(f));
    }

    /// @dev Where checkServer passes, no intermediate of the adaptive step leaves 64 bits at the extreme moments.
    function testFuzz_checkServer__accepted__intermediatesFit64Bits(Server memory p) public view {
        p.kind = 3 + p.kind % 3;
        Format memory f = _accepted(p);
        uint256 divisor = uint256(f.stepDen) * ((1 << 24) - 1 + uint256(f.tau));
        uint256 dividend = 2 * uint256(f.stepNum) * 2 ** f.modelScaleBits * ((1 << 24) - 1);
        vm.assertLt(dividend + divisor, 1 << 63);
        vm.assertLt(2 * divisor, 1 << 63);
        uint256 square = ((1 << 24) - 1) ** 2;
        vm.assertLt(2 * uint256(f.momentumDen) * ((1 << 24) - 1) + f.momentumDen, 1 << 63);
        vm.assertLt(uint256(f.secondDen) * square, 1 << 63);
    }

    /// @dev From the specification, in other words than the contract's.
    function _mayBe(Format memory f) private pure returns (bool) {
        if (f.server == ServerKind.Plain) {
            return (f.momentumNum | f.momentumDen | f.secondNum | f.secondDen | f.tau) == 0;
        }
        if (f.momentumDen == 0 || f.momentumNum > f.momentumDen) return false;
        bool hasSecond = f.server == ServerKind.Adam || f.server == ServerKind.Yogi;
        if (!hasSecond && (f.secondNum > 0 || f.secondDen > 0)) return false;
        if (!ServerReference.isAdaptive(f)) {
            return f.tau == 0 && uint256(f.momentumNum) * 2 ** 32 + 2 * uint256(f.momentumDen) < 2 ** 63;
        }
        if (hasSecond && (f.secondDen == 0 || f.secondDen > 16_384 || f.secondNum > f.secondDen)) return false;
        if (f.momentumDen > 16_384 || f.tau == 0 || f.modelScaleBits > 31) return false;
        uint256 divisor = uint256(f.stepDen) * (2 ** 24 + uint256(f.tau));
        uint256 dividend = uint256(f.stepNum) * 2 ** (uint256(f.modelScaleBits) + 25);
        return dividend + divisor < 2 ** 63 && 2 * divisor < 2 ** 63;
    }

    function _fits(Format memory f) private view returns (bool) {
        try harness.checkServer(f) {
            return true;
        } catch {
            return false;
        }
    }

    /// @dev Of a kind and of parameters near those that it takes.
    function _format(Server memory p) private pure returns (Format memory f) {
        f.server = ServerKind(p.kind % 6);
        (f.modelScaleBits, f.stepNum, f.stepDen) = (p.modelScaleBits % 40, p.stepNum, p.stepDen);
        (f.stepNum, f.stepDen) = (f.stepNum >> p.kind % 32, f.stepDen >> p.modelScaleBits % 32);
        (f.momentumDen, f.secondDen) = (p.momentumDen % 16_400, p.secondDen % 16_400);
        (f.momentumNum, f.secondNum) = (p.momentumNum % (f.momentumDen + 2), p.secondNum % (f.secondDen + 2));
        if (p.kind & 8 == 0) (f.secondNum, f.secondDen) = (0, 0);
        if (p.kind & 16 == 0) f.tau = p.tau;
        if (p.kind & 224 == 0) (f.momentumNum, f.momentumDen) = (0, 0);
    }

    /// @dev Parameters that the contract takes.
    function _accepted(Server memory p) private view returns (Format memory f) {
        f.server = ServerKind(p.kind % 6);
        (f.modelScaleBits, f.updateScaleBits) = (p.modelScaleBits % 32, 0);
        (f.stepNum, f.stepDen) = (uint32(bound(p.stepNum, 1, 64)), uint32(bound(p.stepDen, 1, 1 << 28)));
        if (f.server != ServerKind.Plain) {
            f.momentumDen = uint32(bound(p.momentumDen, 1, 1 << 14));
            f.momentumNum = p.momentumNum % (f.momentumDen + 1);
        }
        if (f.server == ServerKind.Adam || f.server == ServerKind.Yogi) {
            f.secondDen = uint32(bound(p.secondDen, 1, 1 << 14));
            f.secondNum = p.secondNum % (f.secondDen + 1);
        }
        if (ServerReference.isAdaptive(f)) f.tau = uint32(bound(p.tau, 1, 1 << 31));
        vm.assertTrue(_fits(f));
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
