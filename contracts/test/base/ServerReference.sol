// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Format, ServerKind } from "../../src/interfaces/Types.sol";

/// @notice The server's step a second time, plain and slow, from the formulas of docs/protocol.md alone: nothing of the
/// contracts is used, every intermediate has 256 bits, and roots are found a bit at a time.
library ServerReference {
    /// @return how many values the server's state has for n parameters.
    function stateLength(Format memory f, uint64 n) internal pure returns (uint64) {
        if (f.server == ServerKind.Plain) return 0;
        return isAdaptive(f) ? 2 * n : n;
    }

    function isAdaptive(Format memory f) internal pure returns (bool) {
        return f.server == ServerKind.Adagrad || f.server == ServerKind.Adam || f.server == ServerKind.Yogi;
    }

    /// @param at of one coordinate the model, the first moment and the root of the second; the next three are returned.
    /// @param a the rule's sum at the model's scale. @param total what it is divided by.
    function next(Format memory f, int256[3] memory at, int256 a, int256 total)
        internal
        pure
        returns (int256[3] memory)
    {
        if (isAdaptive(f)) return _adaptive(f, at, floor(2 * a + total, 2 * total));
        int256 d = floor(2 * _i(f.stepNum) * a + _i(f.stepDen) * total, 2 * _i(f.stepDen) * total);
        if (f.server == ServerKind.Plain) return [sat(at[0] + d), 0, 0];
        int256 m = sat(_decay(f, at[1]) + d);
        return [sat(at[0] + (f.server == ServerKind.Momentum ? m : d + _decay(f, m))), m, 0];
    }

    function _decay(Format memory f, int256 m) private pure returns (int256) {
        return floor(2 * _i(f.momentumNum) * m + _i(f.momentumDen), 2 * _i(f.momentumDen));
    }

    function _adaptive(Format memory f, int256[3] memory at, int256 mean) private pure returns (int256[3] memory) {
        int256 d = 16 * _within(mean, -1_048_575, 1_048_575);
        int256 m = _first(f, _within(at[1], -16_777_215, 16_777_215), d);
        int256 r = _within(root(_second(f, _within(at[2], 0, 16_777_215), d)), 0, 16_777_215);
        int256 num = _i(f.stepNum) * int256(2 ** f.modelScaleBits) * m;
        int256 den = _i(f.stepDen) * (r + _i(f.tau));
        return [sat(at[0] + floor(2 * num + den, 2 * den)), m, r];
    }

    function _first(Format memory f, int256 m, int256 d) private pure returns (int256) {
        (int256 bn, int256 bd) = (_i(f.momentumNum), _i(f.momentumDen));
        return floor(2 * (bn * m + (bd - bn) * d) + bd, 2 * bd);
    }

    function _second(Format memory f, int256 r, int256 d) private pure returns (int256) {
        (int256 sn, int256 sd) = (_i(f.secondNum), _i(f.secondDen));
        if (f.server == ServerKind.Adagrad) return r * r + d * d;
        if (f.server == ServerKind.Adam) return floor(sn * r * r + (sd - sn) * d * d, sd);
        int256 sign = r * r > d * d ? int256(1) : r * r < d * d ? int256(-1) : int256(0);
        return r * r - sign * floor((sd - sn) * d * d, sd);
    }

    /// @param v a second moment: below 2^49. @return x the largest number whose square is not above it.
    function root(int256 v) internal pure returns (int256 x) {
        for (int256 bit = 1 << 24; bit > 0; bit /= 2) {
            if ((x + bit) * (x + bit) <= v) x += bit;
        }
    }

    function floor(int256 a, int256 b) internal pure returns (int256) {
        return a >= 0 ? a / b : -((-a + b - 1) / b);
    }

    function sat(int256 value) internal pure returns (int256) {
        return _within(value, type(int32).min, type(int32).max);
    }

    function _within(int256 value, int256 least, int256 most) private pure returns (int256) {
        if (value > most) return most;
        return value < least ? least : value;
    }

    function _i(uint256 value) private pure returns (int256) {
        return int256(value);
    }
}
