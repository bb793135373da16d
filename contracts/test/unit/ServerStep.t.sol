// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Format, Rule, ServerKind } from "../../src/interfaces/Types.sol";
import { FixedPoint } from "../../src/libraries/FixedPoint.sol";
import { Test } from "../base/Test.sol";
import { FixedPointHarness } from "./FixedPoint.t.sol";

/// @notice Follows ServerStep.tree.
contract ServerStepTest is Test {
    int32 private constant MAX = type(int32).max;
    int32 private constant MIN = type(int32).min;
    /// @dev The largest root and, in the model's units, the largest step.
    int32 private constant TOP = (1 << 24) - 1;
    int256 private constant CLAMP = (1 << 20) - 1;
    uint32 private constant TAU = 16_777;

    FixedPointHarness private _harness = new FixedPointHarness();
    string private _vectors = vm.readFile("tests/vectors/server_step.json");

    /// @dev A step of 1 at 20 bits; of the shares only those that the server has.
    function _format(ServerKind server, uint32 num, uint32 den) private pure returns (Format memory f) {
        f = Format(100, 16, 20, 14, 1, 1, 1e12, 64, Rule.Mean, 0, 0, num, den, server, 0, 0, 0);
        if (server >= ServerKind.Adagrad) f.tau = TAU;
        if (server > ServerKind.Adagrad) (f.secondNum, f.secondDen) = (99, 100);
    }

    function _step(Format memory f, int32 model, int32 first, int32 second, int256 d)
        private
        view
        returns (FixedPoint.Coordinate memory)
    {
        return _harness.serverStep(f, FixedPoint.Coordinate(model, first, second), d, 1);
    }

    function _assert(FixedPoint.Coordinate memory found, int256 model, int256 first, int256 second) private pure {
        vm.assertEq(abi.encode(found), abi.encode(model, first, second));
    }

    function _adaptive(uint8 i) private pure returns (Format memory) {
        return _format(ServerKind(3 + i), 9, 10);
    }

    // --- the shared vectors ----------------------------------------------------------------------------------------

    function test_serverStep__sharedVectors__sameModelsAndMoments() external view {
        Format[] memory formats = _formats("steps");
        (string[] memory sums, string[] memory totals) = (_texts("scaledSum"), _texts("totalWeight"));
        FixedPoint.Coordinate[] memory before = _coordinates("model", "first", "second");
        FixedPoint.Coordinate[] memory expected = _coordinates("nextModel", "nextFirst", "nextSecond");
        vm.assertGt(formats.length, 0);
        for (uint256 i; i < formats.length; ++i) {
            FixedPoint.Coordinate memory found =
                _harness.serverStep(formats[i], before[i], vm.parseInt(sums[i]), uint256(vm.parseInt(totals[i])));
            vm.assertEq(abi.encode(found), abi.encode(expected[i]));
        }
    }

    function test_checkServer__sharedVectors__acceptsThoseThatFit() external view {
        Format[] memory formats = _formats("parameters");
        bool[] memory fits = abi.decode(_column("parameters", "fits"), (bool[]));
        vm.assertGt(formats.length, 0);
        for (uint256 i; i < formats.length; ++i) {
            vm.assertEq(_fits(formats[i]), fits[i], vm.toString(i));
        }
    }

    // --- without moments, and any server ---------------------------------------------------------------------------

    function test_serverStep__noWeight__reverts() external {
        for (uint8 kind; kind < 6; ++kind) {
            Format memory f = _format(ServerKind(kind), 9, 10);
            vm.expectRevert(FixedPoint.ZeroTotalWeight.selector);
            _harness.serverStep(f, FixedPoint.Coordinate(1, 2, 3), 4, 0);
        }
    }

    function test_plain__momentsGiven__areLeftOut() external view {
        _assert(_step(_format(ServerKind.Plain, 0, 0), 7, 100, 200, 5), 12, 0, 0);
    }

    // --- momentum --------------------------------------------------------------------------------------------------

    function test_momentum__share__movesTheModelByTheNextState() external view {
        // 0.9 · 100 + 50 = 140.
        _assert(_step(_format(ServerKind.Momentum, 9, 10), 1000, 100, 7, 50), 1140, 140, 0);
        _assert(_step(_format(ServerKind.Momentum, 0, 1), 1000, 100, 0, 50), 1050, 50, 0);
        _assert(_step(_format(ServerKind.Momentum, 1, 1), 1000, 100, 0, 50), 1150, 150, 0);
    }

    function test_momentum__halves__areRoundedUp() external view {
        int32[6] memory states = [int32(-3), -2, -1, 1, 2, 3];
        int32[6] memory halves = [int32(-1), -1, 0, 1, 1, 2];
        for (uint256 i; i < 6; ++i) {
            _assert(_step(_format(ServerKind.Momentum, 1, 2), 0, states[i], 0, 0), halves[i], halves[i], 0);
        }
    }

    function test_momentum__ends__saturate() external view {
        _assert(_step(_format(ServerKind.Momentum, 1, 1), 5, MAX, 0, 1), MAX, MAX, 0);
        _assert(_step(_format(ServerKind.Momentum, 1, 1), -5, MIN, 0, -1), MIN, MIN, 0);
    }

    // --- Nesterov --------------------------------------------------------------------------------------------------

    function test_nesterov__share__movesTheModelByTheStepAndTheNextStatesShare() external view {
        // m' = 0.9 · 100 + 50 = 140, and 50 + 0.9 · 140 = 176.
        _assert(_step(_format(ServerKind.Nesterov, 9, 10), 1000, 100, 7, 50), 1176, 140, 0);
        // 0.9 · 5 = 4.5 becomes 5; 0.9 · -5 becomes -4. The next state's share is rounded on its own.
        _assert(_step(_format(ServerKind.Nesterov, 9, 10), 0, 5, 0, 0), 5, 5, 0);
        _assert(_step(_format(ServerKind.Nesterov, 9, 10), 0, -5, 0, 0), -4, -4, 0);
    }

    function test_nesterov__noneAndAllOfTheMomentum__plainAndTwice() external view {
        _assert(_step(_format(ServerKind.Nesterov, 0, 1), 1000, 100, 0, 50), 1050, 50, 0);
        _assert(_step(_format(ServerKind.Nesterov, 1, 1), 1000, 100, 0, 50), 1200, 150, 0);
    }

    function test_nesterov__ends__saturate() external view {
        _assert(_step(_format(ServerKind.Nesterov, 1, 1), MIN, MAX, 0, 1), 0, MAX, 0);
        _assert(_step(_format(ServerKind.Nesterov, 1, 1), 0, MAX, 0, 1), MAX, MAX, 0);
        _assert(_step(_format(ServerKind.Nesterov, 1, 1), 0, MIN, 0, -1), MIN, MIN, 0);
    }

    // --- the second moments ----------------------------------------------------------------------------------------

    function _root(Format memory f, int32 root, int256 d) private view returns (int256) {
        return _step(f, 0, 0, root, d).second;
    }

    /// @dev A step of 4 is 64 of a moment's units: 48, 64 and 80 have the right squares.
    function test_adagrad__squares__addUp() external view {
        Format memory f = _format(ServerKind.Adagrad, 0, 1);
        vm.assertEq(_root(f, 0, 4), 64);
        vm.assertEq(_root(f, 48, 4), 80);
        vm.assertEq(_root(f, 48, -4), 80);
        vm.assertEq(_root(f, 80, 0), 80);
    }

    function test_adam__share__ofTheSecondMoment() external view {
        Format memory f = _format(ServerKind.Adam, 0, 1);
        (f.secondNum, f.secondDen) = (0, 1);
        vm.assertEq(_root(f, 1000, -4), 64);
        (f.secondNum, f.secondDen) = (1, 1);
        vm.assertEq(_root(f, 1000, CLAMP), 1000);
        // (2304 + 4096) / 2 = 3200, and 56² = 3136.
        (f.secondNum, f.secondDen) = (1, 2);
        vm.assertEq(_root(f, 48, 4), 56);
        // The moment itself is rounded down first: 255.98… is 15², and 256.00 is 16².
        (f.secondNum, f.secondDen) = (16_383, 16_384);
        vm.assertEq(_root(f, 16, 0), 15);
        vm.assertEq(_root(f, 16, 1), 16);
    }

    function test_yogi__stepAgainstTheMoment__upDownOrAsItIs() external view {
        Format memory f = _format(ServerKind.Yogi, 0, 1);
        (f.secondNum, f.secondDen) = (0, 1);
        // 80² - 64² = 48²; 48² + 64² = 80².
        vm.assertEq(_root(f, 80, 4), 48);
        vm.assertEq(_root(f, 48, -4), 80);
        vm.assertEq(_root(f, 64, -4), 64);
        vm.assertEq(_root(f, 80, 0), 80);
        // One more than the step is not as large: 65² - 64² = 129.
        vm.assertEq(_root(f, 65, 4), 11);
        (f.secondNum, f.secondDen) = (1, 1);
        vm.assertEq(_root(f, 80, 4), 80);
        vm.assertEq(_root(f, 48, 4), 48);
        // Down by floor(4096 / 100) = 40: 80² - 40 = 6360 is above 79².
        (f.secondNum, f.secondDen) = (99, 100);
        vm.assertEq(_root(f, 80, 4), 79);
        vm.assertEq(_root(f, 79, -4), 78);
    }

    // --- every adaptive server -------------------------------------------------------------------------------------

    function test_adaptive__noStepEver__standsStill() external view {
        for (uint8 i; i < 3; ++i) {
            Format memory f = _adaptive(i);
            _assert(_step(f, -77, 0, 0, 0), -77, 0, 0);
            f.tau = 1;
            _assert(_step(f, -77, 0, 0, 0), -77, 0, 0);
        }
    }

    /// @dev With the least tau and a root of zero the model moves by 2^s · m', and as far as it can.
    function test_adaptive__leastTau__dividesByOne() external view {
        for (uint8 i; i < 3; ++i) {
            Format memory f = _adaptive(i);
            (f.tau, f.momentumNum, f.momentumDen) = (1, 1, 1);
            _assert(_step(f, 5, 3, 0, 0), 5 + 3 * (1 << 20), 3, 0);
            _assert(_step(f, 5, TOP, 0, 0), MAX, TOP, 0);
            _assert(_step(f, 5, -TOP, 0, 0), MIN, -TOP, 0);
        }
    }

    /// @dev m' = r' and no momentum: a tenth of 1.0, whether the step is small or large.
    function test_adaptive__anyStep__movesByTheRate() external view {
        for (int256 d = 1; d < CLAMP; d *= 10) {
            Format memory f = _format(ServerKind.Adagrad, 0, 1);
            (f.stepDen, f.tau) = (10, 1);
            // 2^20 · 16d / (10 · (16d + 1)), to the nearest.
            int256 moved = (2 * (1 << 20) * 16 * d + 10 * (16 * d + 1)) / (20 * (16 * d + 1));
            _assert(_step(f, 0, 0, 0, d), moved, 16 * d, 16 * d);
            _assert(_step(f, 0, 0, 0, -d), -moved, -16 * d, 16 * d);
        }
    }

    /// @dev By hand, with round figures: D = 1600, m' = 0.9 · 500 + 0.1 · 1600 = 610.
    function test_adaptive__byHand__everyServer() external view {
        // 1200² + 1600² = 2000²; 0.99 · 1200² + 0.01 · 1600² = 1,451,200; 1200² + 0.01 · 1600² = 1,465,600.
        int256[3] memory roots = [int256(2000), 1204, 1210];
        for (uint8 i; i < 3; ++i) {
            Format memory f = _adaptive(i);
            (f.stepNum, f.stepDen, f.tau) = (1, 8, 1000);
            // 2^20 · 610 / (8 · (r' + 1000)), to the nearest.
            int256 divisor = 8 * (roots[i] + 1000);
            int256 moved = (2 * (1 << 20) * 610 + divisor) / (2 * divisor);
            _assert(_step(f, 9, 500, 1200, 100), 9 + moved, 610, roots[i]);
        }
    }

    function test_adaptive__negativeHalves__areRoundedUp() external view {
        for (uint8 i; i < 3; ++i) {
            Format memory f = _adaptive(i);
            // The mean of -1 over 2 is 0, and of -3 over 2 is -1.
            vm.assertEq(_harness.serverStep(f, FixedPoint.Coordinate(0, 0, 0), -1, 2).second, 0);
            f = _format(ServerKind(3 + i), 0, 1);
            vm.assertEq(_harness.serverStep(f, FixedPoint.Coordinate(0, 0, 0), -3, 2).first, -16);
            // Of the moment: -1/2 is 0, -3/2 is -1.
            f = _format(ServerKind(3 + i), 1, 2);
            vm.assertEq(_step(f, 0, -1, 0, 0).first, 0);
            vm.assertEq(_step(f, 0, -3, 0, 0).first, -1);
            // Of the model: -1/2, -3/2 and 1/2 at no scale bits.
            (f.momentumNum, f.momentumDen, f.modelScaleBits, f.updateScaleBits, f.tau) = (1, 1, 0, 0, 2);
            vm.assertEq(_step(f, 0, -1, 0, 0).model, 0);
            vm.assertEq(_step(f, 0, -3, 0, 0).model, -1);
            vm.assertEq(_step(f, 0, 1, 0, 0).model, 1);
        }
    }

    function test_adaptive__stepBeyondTheClamp__isAsAtTheClamp() external view {
        for (uint8 i; i < 3; ++i) {
            Format memory f = _adaptive(i);
            for (int256 sign = -1; sign < 2; sign += 2) {
                FixedPoint.Coordinate memory clamped = _step(f, 0, 3, 4, sign * CLAMP);
                vm.assertEq(abi.encode(_step(f, 0, 3, 4, sign * (CLAMP + 1))), abi.encode(clamped));
                vm.assertEq(abi.encode(_step(f, 0, 3, 4, sign * (1 << 62))), abi.encode(clamped));
                vm.assertTrue(
                    keccak256(abi.encode(_step(f, 0, 3, 4, sign * (CLAMP - 1)))) != keccak256(abi.encode(clamped))
                );
            }
        }
    }

    /// @dev 12² + 16² = 20² and 63² + 16² = 65², but 128² + 16² = 129² - 1.
    function test_adaptive__squareAndOneBelow__rootAndOneLess() external view {
        Format memory f = _format(ServerKind.Adagrad, 0, 1);
        vm.assertEq(_root(f, 128, 1), 128);
        vm.assertEq(_root(f, 12, 1), 20);
        vm.assertEq(_root(f, 63, 1), 65);
        // The largest square, and one below it.
        f = _format(ServerKind.Yogi, 0, 1);
        vm.assertEq(_root(f, TOP, 0), TOP);
        (f.secondNum, f.secondDen) = (16_127, 16_128);
        // 128² is taken away by floor(128² / 16,128) = 1.
        vm.assertEq(_root(f, TOP, 8), TOP - 1);
    }

    function test_adaptive__rootAtItsLargest__staysThere() external view {
        Format memory f = _format(ServerKind.Adagrad, 0, 1);
        vm.assertEq(_root(f, TOP, CLAMP), TOP);
        vm.assertEq(_root(f, TOP - 1, CLAMP), TOP);
        // From nothing the largest step gives 16 · (2^20 - 1), and Yogi's root stays below the step's, too.
        vm.assertEq(_root(f, 0, CLAMP), 16 * CLAMP);
        f = _format(ServerKind.Yogi, 0, 1);
        (f.secondNum, f.secondDen) = (0, 1);
        vm.assertEq(_root(f, int32(16 * CLAMP - 1), CLAMP), TOP);
    }

    function test_adaptive__modelAtItsEnds__saturates() external view {
        for (uint8 i; i < 3; ++i) {
            Format memory f = _adaptive(i);
            vm.assertEq(_step(f, MAX, 0, 0, 1000).model, MAX);
            vm.assertEq(_step(f, MIN, 0, 0, -1000).model, MIN);
        }
    }

    /// @dev Nobody checks the first state: every value of int32 is one that a proof may open.
    function test_adaptive__anyFirstState__isClamped() external view {
        int32[5] memory firsts = [MIN, -TOP - 1, TOP + 1, MAX, MIN + 1];
        int32[5] memory clampedFirsts = [-TOP, -TOP, TOP, TOP, -TOP];
        int32[5] memory roots = [MIN, -1, TOP + 1, MAX, -TOP];
        int32[5] memory clampedRoots = [int32(0), 0, TOP, TOP, 0];
        for (uint256 k; k < 75; ++k) {
            (uint256 i, uint256 j) = (k % 5, k / 5 % 5);
            Format memory f = _adaptive(uint8(k / 25));
            bytes memory expected = abi.encode(_step(f, 7, clampedFirsts[i], clampedRoots[j], -1000));
            vm.assertEq(abi.encode(_step(f, 7, firsts[i], roots[j], -1000)), expected);
        }
    }

    // --- checkServer -----------------------------------------------------------------------------------------------

    function _fits(Format memory f) private view returns (bool) {
        try _harness.checkServer(f) {
            return true;
        } catch {
            return false;
        }
    }

    function _refuses(Format memory f, bytes memory error_) private {
        vm.expectRevert(error_);
        _harness.checkServer(f);
    }

    function _refusesMomentum(ServerKind server, uint32 num, uint32 den) private {
        _refuses(_format(server, num, den), abi.encodeWithSelector(FixedPoint.InvalidMomentum.selector, num, den));
    }

    function test_checkServer__momentum__edges() external {
        _refusesMomentum(ServerKind.Plain, 0, 1);
        _refusesMomentum(ServerKind.Plain, 1, 0);
        _harness.checkServer(_format(ServerKind.Plain, 0, 0));
        for (uint8 kind = 1; kind < 6; ++kind) {
            ServerKind server = ServerKind(kind);
            _refusesMomentum(server, 0, 0);
            _refusesMomentum(server, 1, 0);
            _refusesMomentum(server, 11, 10);
            _harness.checkServer(_format(server, 0, 1));
            _harness.checkServer(_format(server, 1, 1));
            _harness.checkServer(_format(server, 1 << 14, 1 << 14));
            if (kind < 3) _harness.checkServer(_format(server, 0, (1 << 14) + 1));
            else _refusesMomentum(server, 0, (1 << 14) + 1);
        }
    }

    function test_checkServer__secondMoment__edges() external {
        for (uint8 kind; kind < 6; ++kind) {
            Format memory f = _format(ServerKind(kind), kind == 0 ? 0 : 9, kind == 0 ? 0 : 10);
            uint32[2][8] memory shares = [
                [uint32(0), 0],
                [uint32(0), 1],
                [uint32(1), 1],
                [uint32(1) << 14, 1 << 14],
                [uint32(1), 0],
                [uint32(2), 1],
                [uint32(0), (1 << 14) + 1],
                [type(uint32).max, type(uint32).max]
            ];
            for (uint256 i; i < 8; ++i) {
                (f.secondNum, f.secondDen) = (shares[i][0], shares[i][1]);
                bool fits = kind > 3 ? i > 0 && i < 4 : i == 0;
                if (fits) {
                    _harness.checkServer(f);
                } else {
                    _refuses(
                        f, abi.encodeWithSelector(FixedPoint.InvalidSecondMoment.selector, shares[i][0], shares[i][1])
                    );
                }
            }
        }
    }

    function test_checkServer__tau__isOfTheAdaptiveServers() external {
        for (uint8 kind; kind < 6; ++kind) {
            Format memory f = _format(ServerKind(kind), kind == 0 ? 0 : 9, kind == 0 ? 0 : 10);
            f.tau = kind < 3 ? 1 : 0;
            _refuses(f, abi.encodeWithSelector(FixedPoint.InvalidTau.selector, f.tau));
            f.tau = kind < 3 ? 0 : type(uint32).max;
            _harness.checkServer(f);
        }
    }

    function test_checkServer__scaleBits__atMost31UnderAnAdaptiveServer() external {
        for (uint8 i; i < 3; ++i) {
            Format memory f = _adaptive(i);
            f.modelScaleBits = 31;
            _harness.checkServer(f);
            uint8[4] memory bits = [uint8(32), 38, 231, 255];
            for (uint256 b; b < 4; ++b) {
                f.modelScaleBits = bits[b];
                _refuses(f, abi.encodeWithSelector(FixedPoint.InvalidScaleBits.selector, bits[b], 14));
            }
        }
        Format memory g = _format(ServerKind.Nesterov, 9, 10);
        g.modelScaleBits = 32;
        _harness.checkServer(g);
    }

    /// @dev (num << 45) + den · (2^24 + tau) and 2 · den · (2^24 + tau) stay below 2^63.
    function test_checkServer__widths__edges() external {
        for (uint8 i; i < 3; ++i) {
            Format memory f = _adaptive(i);
            f.stepNum = (1 << 18) - 1;
            _harness.checkServer(f);
            f.stepNum = 1 << 18;
            vm.expectPartialRevert(FixedPoint.WidthOverflow.selector);
            _harness.checkServer(f);
            // The divisor: 2 · den · 2^25 is 2^63 at den = 2^37, so that only a large tau reaches it.
            (f.stepNum, f.tau) = (1, type(uint32).max);
            f.stepDen = uint32(((uint256(1) << 62) - 1) / ((1 << 24) + uint256(f.tau)));
            _harness.checkServer(f);
            f.stepDen += 1;
            vm.expectPartialRevert(FixedPoint.WidthOverflow.selector);
            _harness.checkServer(f);
            (f.stepNum, f.stepDen, f.modelScaleBits) = (type(uint32).max, type(uint32).max, 31);
            vm.expectPartialRevert(FixedPoint.WidthOverflow.selector);
            _harness.checkServer(f);
        }
    }

    function test_checkServer__momentumWidths__edges() external {
        for (uint8 kind = 1; kind < 3; ++kind) {
            _harness.checkServer(_format(ServerKind(kind), (1 << 31) - 1, (1 << 31) - 1));
            vm.expectPartialRevert(FixedPoint.WidthOverflow.selector);
            _harness.checkServer(_format(ServerKind(kind), 1 << 31, 1 << 31));
        }
    }

    // --- reading vectors -------------------------------------------------------------------------------------------

    /// @dev A field of every case at once: each reading parses the whole file.
    function _column(string memory list, string memory field) private view returns (bytes memory) {
        return vm.parseJson(_vectors, string.concat(".", list, "[*].", field));
    }

    function _texts(string memory field) private view returns (string[] memory) {
        return abi.decode(_column("steps", field), (string[]));
    }

    function _numbers(string memory list, string memory field) private view returns (int256[] memory) {
        return abi.decode(_column(list, field), (int256[]));
    }

    function _coordinates(string memory model, string memory first, string memory second)
        private
        view
        returns (FixedPoint.Coordinate[] memory all)
    {
        int256[] memory models = _numbers("steps", model);
        (int256[] memory firsts, int256[] memory roots) = (_numbers("steps", first), _numbers("steps", second));
        all = new FixedPoint.Coordinate[](models.length);
        for (uint256 i; i < all.length; ++i) {
            all[i] = FixedPoint.Coordinate(int32(models[i]), int32(firsts[i]), int32(roots[i]));
        }
    }

    function _formats(string memory list) private view returns (Format[] memory formats) {
        int256[][9] memory columns;
        string[9] memory fields = [
            "server",
            "modelScaleBits",
            "stepNum",
            "stepDen",
            "momentumNum",
            "momentumDen",
            "secondNum",
            "secondDen",
            "tau"
        ];
        for (uint256 k; k < 9; ++k) {
            columns[k] = _numbers(list, fields[k]);
        }
        formats = new Format[](columns[0].length);
        for (uint256 i; i < formats.length; ++i) {
            Format memory f = formats[i];
            (f.server, f.modelScaleBits) = (ServerKind(uint256(columns[0][i])), uint8(_uint32(columns[1][i])));
            (f.stepNum, f.stepDen) = (_uint32(columns[2][i]), _uint32(columns[3][i]));
            (f.momentumNum, f.momentumDen) = (_uint32(columns[4][i]), _uint32(columns[5][i]));
            (f.secondNum, f.secondDen) = (_uint32(columns[6][i]), _uint32(columns[7][i]));
            f.tau = _uint32(columns[8][i]);
        }
    }

    function _uint32(int256 value) private pure returns (uint32) {
        return uint32(uint256(value));
    }
}
