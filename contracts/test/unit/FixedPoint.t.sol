// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Format } from "../../src/interfaces/Types.sol";
import { FixedPoint } from "../../src/libraries/FixedPoint.sol";
import { Test } from "../base/Test.sol";

/// @dev External doors to an internal library, one case or many at a time.
contract FixedPointHarness {
    struct Case {
        int32 model;
        int16[] updates;
        uint16[] weights;
        uint32 num;
        uint32 den;
        uint8 modelScaleBits;
        uint8 updateScaleBits;
    }

    struct Widths {
        uint32 num;
        uint32 den;
        uint32 maxWorkers;
        uint8 modelScaleBits;
        uint8 updateScaleBits;
    }

    function meanStep(Case memory c) public pure returns (int32) {
        return FixedPoint.meanStep(c.model, c.updates, c.weights, c.num, c.den, c.modelScaleBits, c.updateScaleBits);
    }

    function meanSteps(Case[] memory cases) external pure returns (int32[] memory results) {
        results = new int32[](cases.length);
        for (uint256 i = 0; i < cases.length; ++i) {
            results[i] = meanStep(cases[i]);
        }
    }

    function applyStep(int32 model, int256 scaledSum, uint256 totalWeight, uint32 num, uint32 den)
        external
        pure
        returns (int32)
    {
        return FixedPoint.applyStep(model, scaledSum, totalWeight, num, den);
    }

    function checkWidths(Widths memory w) public pure {
        FixedPoint.checkWidths(w.num, w.den, w.maxWorkers, w.modelScaleBits, w.updateScaleBits);
    }

    function fits(Widths[] memory widths) external view returns (bool[] memory results) {
        results = new bool[](widths.length);
        for (uint256 i = 0; i < widths.length; ++i) {
            try this.checkWidths(widths[i]) {
                results[i] = true;
            } catch { }
        }
    }

    function floorDiv(int256 dividend, int256 divisor) external pure returns (int256) {
        return FixedPoint.floorDiv(dividend, divisor);
    }

    function sat32(int256 value) external pure returns (int32) {
        return FixedPoint.sat32(value);
    }

    function serverStep(Format memory f, FixedPoint.Coordinate memory at, int256 scaledSum, uint256 totalWeight)
        external
        pure
        returns (FixedPoint.Coordinate memory)
    {
        return FixedPoint.serverStep(f, at, scaledSum, totalWeight);
    }

    function checkServer(Format calldata f) external pure {
        FixedPoint.checkServer(f);
    }
}

/// FixedPoint
/// ├── floorDiv
/// │   ├── given a divisor of zero or below: it reverts
/// │   ├── given an exact quotient of either sign: it is that quotient
/// │   └── given a remainder: it rounds toward minus infinity
/// ├── sat32
/// │   └── at each end of int32, one inside, one outside: it is the nearest int32
/// ├── meanStep
/// │   ├── given the shared vectors: it gives their results
/// │   ├── given other numbers of updates and weights: it reverts
/// │   ├── given a weight above 10,000: it reverts and names it
/// │   └── given weights that are all zero, or none: it reverts
/// └── checkWidths
///     ├── given the shared vectors: it accepts those that fit and no other
///     ├── given a step of zero over something, or of something over zero: it reverts
///     ├── given no workers: it reverts
///     ├── given more scale bits in the update, or a shift that leaves 64 bits: it reverts
///     └── at the last number of workers that fits: it passes, and one more reverts
contract FixedPointTest is Test {
    FixedPointHarness internal harness = new FixedPointHarness();
    string internal fixedPoint = vm.readFile("tests/vectors/fixed_point.json");
    string internal meanRule = vm.readFile("tests/vectors/mean_rule.json");

    // --- floorDiv ------------------------------------------------------------------------------

    function test_floorDiv__divisorNotPositive__reverts() public {
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidDivisor.selector, int256(0)));
        harness.floorDiv(1, 0);
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidDivisor.selector, int256(-1)));
        harness.floorDiv(1, -1);
    }

    function test_floorDiv__eitherSign__roundsTowardMinusInfinity() public view {
        vm.assertEq(harness.floorDiv(7, 2), 3);
        vm.assertEq(harness.floorDiv(-7, 2), -4);
        vm.assertEq(harness.floorDiv(-8, 2), -4);
        vm.assertEq(harness.floorDiv(-1, type(int256).max), -1);
        vm.assertEq(harness.floorDiv(type(int256).min, 1), type(int256).min);
    }

    function test_floorDiv__sharedVectors__sameResults() public view {
        uint256 count = 0;
        for (; _has(fixedPoint, "floor_div", count); ++count) {
            string memory at = _at("floor_div", count);
            int256 dividend = vm.parseJsonInt(fixedPoint, _key(at, "a"));
            int256 divisor = vm.parseJsonInt(fixedPoint, _key(at, "b"));
            vm.assertEq(harness.floorDiv(dividend, divisor), vm.parseJsonInt(fixedPoint, _key(at, "expected")), at);
        }
        vm.assertGt(count, 0);
    }

    // --- sat32 ---------------------------------------------------------------------------------

    function test_sat32__atTheEnds__nearestInt32() public view {
        int256 max = type(int32).max;
        int256 min = type(int32).min;
        vm.assertEq(harness.sat32(max - 1), max - 1);
        vm.assertEq(harness.sat32(max), max);
        vm.assertEq(harness.sat32(max + 1), max);
        vm.assertEq(harness.sat32(min + 1), min + 1);
        vm.assertEq(harness.sat32(min), min);
        vm.assertEq(harness.sat32(min - 1), min);
        vm.assertEq(harness.sat32(type(int256).max), max);
        vm.assertEq(harness.sat32(type(int256).min), min);
    }

    function test_sat32__sharedVectors__sameResults() public view {
        uint256 count = 0;
        for (; _has(fixedPoint, "sat32", count); ++count) {
            string memory at = _at("sat32", count);
            int256 value = vm.parseJsonInt(fixedPoint, _key(at, "value"));
            vm.assertEq(harness.sat32(value), vm.parseJsonInt(fixedPoint, _key(at, "expected")), at);
        }
        vm.assertGt(count, 0);
    }

    // --- meanStep ------------------------------------------------------------------------------

    function test_meanStep__sharedVectors__sameResults() public view {
        uint256 count = 0;
        for (; _has(fixedPoint, "mean_step", count); ++count) {
            string memory at = _at("mean_step", count);
            FixedPointHarness.Case memory c = _parameters(fixedPoint, at);
            c.model = int32(vm.parseJsonInt(fixedPoint, _key(at, "model")));
            c.updates = _toInt16(vm.parseJsonIntArray(fixedPoint, _key(at, "updates")));
            vm.assertEq(
                harness.meanStep(c),
                vm.parseJsonInt(fixedPoint, _key(at, "expected")),
                vm.parseJsonString(fixedPoint, _key(at, "name"))
            );
        }
        vm.assertGt(count, 0);
    }

    function test_meanStep__sharedVectorsOfWholeModels__sameResultsAtEveryCoordinate() public {
        uint256 count = 0;
        for (; _has(meanRule, "steps", count); ++count) {
            _checkWholeModel(_at("steps", count));
        }
        vm.assertGt(count, 0);
    }

    function test_meanStep__lengthsDiffer__reverts() public {
        FixedPointHarness.Case memory c = _one(5, 100);
        c.weights = new uint16[](2);
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.LengthMismatch.selector, 1, 2));
        harness.meanStep(c);
    }

    function test_meanStep__weightAtAndAboveTheMaximum__onlyTheSecondReverts() public {
        vm.assertEq(harness.meanStep(_one(5, 10_000)), int256(320));
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.WeightTooLarge.selector, 0, uint16(10_001)));
        harness.meanStep(_one(5, 10_001));
    }

    function test_meanStep__zeroTotalWeight__reverts() public {
        vm.expectRevert(FixedPoint.ZeroTotalWeight.selector);
        harness.meanStep(_one(5, 0));
    }

    function test_meanStep__noUpdates__reverts() public {
        FixedPointHarness.Case memory c = _one(5, 1);
        (c.updates, c.weights) = (new int16[](0), new uint16[](0));
        vm.expectRevert(FixedPoint.ZeroTotalWeight.selector);
        harness.meanStep(c);
    }

    function test_applyStep__zeroTotalWeight__reverts() public {
        vm.expectRevert(FixedPoint.ZeroTotalWeight.selector);
        harness.applyStep(0, 0, 0, 1, 1);
    }

    // --- checkWidths ---------------------------------------------------------------------------

    function test_checkWidths__sharedVectors__acceptsThoseThatFit() public view {
        uint256 count = 0;
        while (_has(fixedPoint, "check_widths", count)) ++count;
        FixedPointHarness.Widths[] memory widths = new FixedPointHarness.Widths[](count);
        for (uint256 i = 0; i < count; ++i) {
            string memory at = _at("check_widths", i);
            widths[i] = FixedPointHarness.Widths({
                num: uint32(vm.parseJsonUint(fixedPoint, _key(at, "num"))),
                den: uint32(vm.parseJsonUint(fixedPoint, _key(at, "den"))),
                maxWorkers: uint32(vm.parseJsonUint(fixedPoint, _key(at, "max_workers"))),
                modelScaleBits: uint8(vm.parseJsonUint(fixedPoint, _key(at, "model_scale_bits"))),
                updateScaleBits: uint8(vm.parseJsonUint(fixedPoint, _key(at, "update_scale_bits")))
            });
        }
        bool[] memory fits = harness.fits(widths);
        for (uint256 i = 0; i < count; ++i) {
            string memory at = _at("check_widths", i);
            vm.assertEq(fits[i], vm.parseJsonBool(fixedPoint, _key(at, "fits")), at);
        }
        vm.assertGt(count, 0);
    }

    function test_checkWidths__stepNotPositive__reverts() public {
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidStep.selector, uint32(0), uint32(1)));
        harness.checkWidths(FixedPointHarness.Widths(0, 1, 1, 20, 14));
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidStep.selector, uint32(1), uint32(0)));
        harness.checkWidths(FixedPointHarness.Widths(1, 0, 1, 20, 14));
    }

    function test_checkWidths__noWorkers__reverts() public {
        vm.expectRevert(FixedPoint.NoWorkers.selector);
        harness.checkWidths(FixedPointHarness.Widths(1, 1, 0, 20, 14));
    }

    function test_checkWidths__scaleBits__equalPassesAndLargerUpdateReverts() public {
        harness.checkWidths(FixedPointHarness.Widths(1, 1, 1, 14, 14));
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidScaleBits.selector, uint8(14), uint8(15)));
        harness.checkWidths(FixedPointHarness.Widths(1, 1, 1, 14, 15));
    }

    function test_checkWidths__shiftBeyond64Bits__revertsForTheLargestStep() public {
        uint32 max = type(uint32).max;
        vm.expectPartialRevert(FixedPoint.WidthOverflow.selector);
        harness.checkWidths(FixedPointHarness.Widths(max, max, max, 63, 0));
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidScaleBits.selector, uint8(64), uint8(0)));
        harness.checkWidths(FixedPointHarness.Widths(max, max, max, 64, 0));
    }

    function test_checkWidths__lastNumberOfWorkers__oneMoreReverts() public {
        // 2 * 10,000 * 32,768 * 2^6 * N + 10,000 * N < 2^63
        uint32 last = uint32(((uint256(1) << 63) - 1) / (2 * 10_000 * 32_768 * 64 + 10_000));
        harness.checkWidths(FixedPointHarness.Widths(1, 1, last, 20, 14));
        vm.expectPartialRevert(FixedPoint.WidthOverflow.selector);
        harness.checkWidths(FixedPointHarness.Widths(1, 1, last + 1, 20, 14));
    }

    // --- reading vectors -----------------------------------------------------------------------

    function _checkWholeModel(string memory at) private {
        FixedPointHarness.Case memory c = _parameters(meanRule, at);
        int256[] memory model = vm.parseJsonIntArray(meanRule, _key(at, "model"));
        bool isVoid = vm.parseJsonBool(meanRule, _key(at, "void"));
        int256[] memory expected =
            isVoid ? new int256[](model.length) : vm.parseJsonIntArray(meanRule, _key(at, "expected"));
        int16[][] memory updates = new int16[][](c.weights.length);
        for (uint256 i = 0; i < updates.length; ++i) {
            updates[i] = _toInt16(vm.parseJsonIntArray(meanRule, _at(_key(at, "updates"), i)));
        }
        for (uint256 p = 0; p < model.length; ++p) {
            c.model = int32(model[p]);
            c.updates = new int16[](updates.length);
            for (uint256 i = 0; i < updates.length; ++i) {
                c.updates[i] = updates[i][p];
            }
            if (isVoid) vm.expectRevert(FixedPoint.ZeroTotalWeight.selector);
            int32 result = harness.meanStep(c);
            if (!isVoid) vm.assertEq(result, expected[p], at);
        }
    }

    function _parameters(string memory json, string memory at) private pure returns (FixedPointHarness.Case memory c) {
        uint256[] memory weights = vm.parseJsonUintArray(json, _key(at, "weights"));
        c.weights = new uint16[](weights.length);
        for (uint256 i = 0; i < weights.length; ++i) {
            c.weights[i] = uint16(weights[i]);
        }
        c.num = uint32(vm.parseJsonUint(json, _key(at, "num")));
        c.den = uint32(vm.parseJsonUint(json, _key(at, "den")));
        c.modelScaleBits = uint8(vm.parseJsonUint(json, _key(at, "model_scale_bits")));
        c.updateScaleBits = uint8(vm.parseJsonUint(json, _key(at, "update_scale_bits")));
    }

    function _one(int16 update, uint16 weight) private pure returns (FixedPointHarness.Case memory c) {
        (c.updates, c.weights) = (new int16[](1), new uint16[](1));
        (c.updates[0], c.weights[0]) = (update, weight);
        (c.num, c.den, c.modelScaleBits, c.updateScaleBits) = (1, 1, 20, 14);
    }

    function _toInt16(int256[] memory wide) private pure returns (int16[] memory narrow) {
        narrow = new int16[](wide.length);
        for (uint256 i = 0; i < wide.length; ++i) {
            narrow[i] = int16(wide[i]);
        }
    }

    function _at(string memory list, uint256 i) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(i), "]");
    }

    function _key(string memory at, string memory field) private pure returns (string memory) {
        return string.concat(".", at, ".", field);
    }

    function _has(string memory json, string memory list, uint256 i) private view returns (bool) {
        return vm.keyExistsJson(json, string.concat(".", _at(list, i)));
    }
}
