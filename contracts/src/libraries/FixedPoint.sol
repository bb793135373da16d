// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Math } from "@openzeppelin/contracts/utils/math/Math.sol";

import { Format, ServerKind } from "../interfaces/Types.sol";

/// @title Integer aggregation of one coordinate, bit for bit what `chainfl/aggregation` computes for all of them.
/// @notice A model value g stands for g * 2^-s (int32), an update value u for u * 2^-t (int16). See
/// docs/protocol.md, Numbers. Both sides are driven by tests/vectors/{fixed_point,mean_rule,server_step}.json.
library FixedPoint {
    /// @dev The weight with which an update counts in full; 0 rejects it.
    uint256 internal constant MAX_WEIGHT = 10_000;
    /// @dev The largest magnitude of an int16.
    uint256 internal constant UPDATE_MAGNITUDE = 32_768;
    /// @dev Python's side of the rule is int64: every intermediate stays below this.
    uint256 internal constant LIMIT = 1 << 63;
    /// @dev A larger shift leaves int64 whatever the other parameters are.
    uint256 internal constant MAX_SHIFT = 63;
    /// @dev The adaptive servers reckon in units of 2^-(modelScaleBits + MOMENT_BITS).
    uint256 internal constant MOMENT_BITS = 4;
    /// @dev The largest magnitude of a moment in those units: two squares, weighted by shares of 2^14, fit 63 bits.
    int256 internal constant MOMENT_MAGNITUDE = (1 << 24) - 1;
    /// @dev The largest magnitude of a step that enters a moment, in the model's units; it is clamped to this.
    int256 internal constant MOVE_MAGNITUDE = (1 << 20) - 1;
    /// @dev The largest denominator of a moment's share.
    uint32 internal constant MAX_SHARE_DEN = 1 << 14;
    /// @dev The finest scale of a model under an adaptive server.
    uint8 internal constant MAX_ADAPTIVE_SCALE_BITS = 31;

    /// @dev One coordinate of the model and of the server's state: the first moment, and the root of the second one.
    /// 0 where the server keeps none.
    struct Coordinate {
        int32 model;
        int32 first;
        int32 second;
    }

    error InvalidStep(uint32 num, uint32 den);
    error InvalidScaleBits(uint8 modelScaleBits, uint8 updateScaleBits);
    error NoWorkers();
    error WidthOverflow(uint256 numerator, uint256 denominator);
    error LengthMismatch(uint256 updates, uint256 weights);
    error WeightTooLarge(uint256 index, uint16 weight);
    error ZeroTotalWeight();
    error InvalidDivisor(int256 divisor);
    error InvalidMomentum(uint32 num, uint32 den);
    error InvalidSecondMoment(uint32 num, uint32 den);
    error InvalidTau(uint32 tau);
    error InvalidTrim(uint256 num, uint256 den);
    error InvalidRank(uint256 position);

    /// @notice Proves, when a task is created, that no intermediate of the mean rule can leave 64 bits.
    /// @param maxWorkers the largest number of updates of one round.
    /// @dev Reverts InvalidStep, InvalidScaleBits, NoWorkers, WidthOverflow.
    function checkWidths(uint32 num, uint32 den, uint32 maxWorkers, uint8 modelScaleBits, uint8 updateScaleBits)
        internal
        pure
    {
        if (num == 0 || den == 0) revert InvalidStep(num, den);
        if (maxWorkers == 0) revert NoWorkers();
        if (updateScaleBits > modelScaleBits) revert InvalidScaleBits(modelScaleBits, updateScaleBits);
        uint256 shift = modelScaleBits - updateScaleBits;
        // INVARIANT: bounded before it is used, so that the product below cannot leave 256 bits either.
        if (shift > MAX_SHIFT) revert InvalidScaleBits(modelScaleBits, updateScaleBits);
        uint256 totalWeight = uint256(maxWorkers) * MAX_WEIGHT;
        uint256 numerator = ((2 * uint256(num) * totalWeight * UPDATE_MAGNITUDE) << shift) + den * totalWeight;
        uint256 denominator = 2 * uint256(den) * totalWeight;
        if (numerator >= LIMIT || denominator >= LIMIT) revert WidthOverflow(numerator, denominator);
    }

    /// @notice The same for what the server does with the step, and that it has the parameters of its kind and no other.
    /// @dev The step and the scale bits are those that `checkWidths` accepted.
    /// Reverts InvalidMomentum, InvalidSecondMoment, InvalidTau, InvalidScaleBits, WidthOverflow.
    function checkServer(Format calldata f) internal pure {
        bool isAdaptive = f.server >= ServerKind.Adagrad;
        bool hasShare = f.server >= ServerKind.Adam;
        uint32 most = isAdaptive ? MAX_SHARE_DEN : type(uint32).max;
        if (!_isShare(f.momentumNum, f.momentumDen, f.server != ServerKind.Plain, most)) {
            revert InvalidMomentum(f.momentumNum, f.momentumDen);
        }
        if (!_isShare(f.secondNum, f.secondDen, hasShare, MAX_SHARE_DEN)) {
            revert InvalidSecondMoment(f.secondNum, f.secondDen);
        }
        if ((f.tau > 0) != isAdaptive) revert InvalidTau(f.tau);
        if (isAdaptive) _checkAdaptiveWidths(f);
        else _checkMomentumWidths(f.momentumNum, f.momentumDen);
    }

    /// @dev Whether num/den is a share from 0 to 1, or 0 and 0 where there is none.
    function _isShare(uint32 num, uint32 den, bool isThere, uint32 most) private pure returns (bool) {
        return isThere ? den > 0 && den <= most && num <= den : num == 0 && den == 0;
    }

    function _checkMomentumWidths(uint32 num, uint32 den) private pure {
        uint256 numerator = (uint256(num) << 32) + 2 * uint256(den);
        if (numerator >= LIMIT) revert WidthOverflow(numerator, 2 * uint256(den));
    }

    function _checkAdaptiveWidths(Format calldata f) private pure {
        // INVARIANT: bounded before it is used, so that the product below cannot leave 256 bits.
        if (f.modelScaleBits > MAX_ADAPTIVE_SCALE_BITS) revert InvalidScaleBits(f.modelScaleBits, f.updateScaleBits);
        uint256 divisor = uint256(f.stepDen) * ((1 << 24) + uint256(f.tau));
        uint256 numerator = (uint256(f.stepNum) << (f.modelScaleBits + 25)) + divisor;
        if (numerator >= LIMIT || 2 * divisor >= LIMIT) revert WidthOverflow(numerator, 2 * divisor);
    }

    /// @notice One coordinate of the next global model under the mean rule.
    /// @param model the coordinate of the previous model.
    /// @param updates the same coordinate of every update, `weights` their weights in the same order.
    /// @dev The step and the scale bits are those that `checkWidths` accepted.
    /// Reverts LengthMismatch, WeightTooLarge, ZeroTotalWeight.
    function meanStep(
        int32 model,
        int16[] memory updates,
        uint16[] memory weights,
        uint32 num,
        uint32 den,
        uint8 modelScaleBits,
        uint8 updateScaleBits
    ) internal pure returns (int32) {
        (int256 weightedSum, uint256 totalWeight) = weightedSumOf(updates, weights);
        return applyStep(model, weightedSum << (modelScaleBits - updateScaleBits), totalWeight, num, den);
    }

    /// @notice The sum of weight * update, and the sum of the weights.
    /// @dev Reverts LengthMismatch, WeightTooLarge.
    function weightedSumOf(int16[] memory updates, uint16[] memory weights)
        internal
        pure
        returns (int256 weightedSum, uint256 totalWeight)
    {
        if (updates.length != weights.length) revert LengthMismatch(updates.length, weights.length);
        // INVARIANT: an array in memory has far fewer entries than would fill 256 bits with products of 30.
        unchecked {
            for (uint256 i = 0; i < updates.length; ++i) {
                uint16 weight = weights[i];
                if (weight > MAX_WEIGHT) revert WeightTooLarge(i, weight);
                weightedSum += int256(updates[i]) * int256(uint256(weight));
                totalWeight += weight;
            }
        }
    }

    /// @notice The lower median: `values[at]`, once that is shown to be it.
    /// @dev Reverts InvalidRank if there are not enough values below it or not enough up to it.
    function medianAt(int16[] memory values, uint256 at) internal pure returns (int16) {
        checkRank(values, at, (values.length - 1) / 2);
        return values[at];
    }

    /// @notice The sum of what is left of `values` without the `trim` smallest and the `trim` largest ones.
    /// @param low position of the smallest value kept, `high` of the largest.
    /// @dev Reverts InvalidTrim, InvalidRank.
    function trimmedSum(int16[] memory values, uint256 trim, uint256 low, uint256 high)
        internal
        pure
        returns (int256 sum)
    {
        uint256 count = values.length;
        if (2 * trim >= count) revert InvalidTrim(trim, count);
        uint256 below = checkRank(values, low, trim);
        checkRank(values, high, count - 1 - trim);
        (int256 least, int256 most) = (values[low], values[high]);
        // Strictly between the two all are kept; of those equal to one of them, as many as are left.
        uint256 between;
        uint256 equalLeast;
        for (uint256 i = 0; i < count; ++i) {
            int256 value = values[i];
            if (value == least) ++equalLeast;
            else if (value > least && value < most) (sum, between) = (sum + value, between + 1);
        }
        uint256 kept = count - 2 * trim;
        if (least == most) return int256(kept) * least;
        uint256 keptLeast = below + equalLeast - trim;
        return sum + int256(keptLeast) * least + int256(kept - between - keptLeast) * most;
    }

    /// @notice Shows that `values[at]` is the one at `rank` (from 0) in ascending order. returns how many are below it.
    /// @dev Reverts InvalidRank.
    function checkRank(int16[] memory values, uint256 at, uint256 rank) internal pure returns (uint256 below) {
        if (at >= values.length) revert InvalidRank(at);
        int16 value = values[at];
        uint256 upTo;
        unchecked {
            for (uint256 i = 0; i < values.length; ++i) {
                int16 other = values[i];
                if (other < value) ++below;
                if (other <= value) ++upTo;
            }
        }
        if (below > rank || upTo <= rank) revert InvalidRank(at);
    }

    /// @notice sat32(g + d): one coordinate after the plain step.
    /// @param scaledSum a, the rule's sum at the model's scale; `totalWeight` is what it is divided by.
    /// @dev Reverts ZeroTotalWeight: such a round is void, and never divided.
    function applyStep(int32 model, int256 scaledSum, uint256 totalWeight, uint32 num, uint32 den)
        internal
        pure
        returns (int32)
    {
        return sat32(model + delta(scaledSum, totalWeight, num, den));
    }

    /// @notice d = floor((2 * num * a + den * W) / (2 * den * W)): the step num/den of the mean a / W.
    /// @dev Reverts ZeroTotalWeight.
    function delta(int256 scaledSum, uint256 totalWeight, uint32 num, uint32 den) internal pure returns (int256) {
        if (totalWeight == 0) revert ZeroTotalWeight();
        return _halfUp(int256(uint256(num)) * scaledSum, den * totalWeight);
    }

    /// @notice One coordinate after the server's step.
    /// @param at the coordinate before it. @param scaledSum a, @param totalWeight W, as in `applyStep`.
    /// @dev The format is one that `checkWidths` and `checkServer` accepted. A state may hold anything, since a stranger
    /// chose its first one. Reverts ZeroTotalWeight.
    function serverStep(Format memory f, Coordinate memory at, int256 scaledSum, uint256 totalWeight)
        internal
        pure
        returns (Coordinate memory next)
    {
        if (f.server >= ServerKind.Adagrad) return _adaptiveStep(f, at, delta(scaledSum, totalWeight, 1, 1));
        int256 move = delta(scaledSum, totalWeight, f.stepNum, f.stepDen);
        if (f.server != ServerKind.Plain) {
            next.first = momentum(at.first, move, f.momentumNum, f.momentumDen);
            move = f.server == ServerKind.Momentum
                ? int256(next.first)
                : move + decay(next.first, f.momentumNum, f.momentumDen);
        }
        next.model = sat32(at.model + move);
    }

    /// @notice m' = sat32(decay(m) + d): the server's state after a step with momentum num/den. The model follows as
    /// sat32(g + m'), or in Nesterov's form as sat32(g + d + decay(m')).
    function momentum(int32 state, int256 d, uint32 num, uint32 den) internal pure returns (int32) {
        return sat32(decay(state, num, den) + d);
    }

    /// @notice floor((2 * num * m + den) / (2 * den)): what a round keeps of a state, num/den of it.
    function decay(int256 state, uint32 num, uint32 den) internal pure returns (int256) {
        return _halfUp(int256(uint256(num)) * state, den);
    }

    /// @dev FedAdagrad, FedAdam and FedYogi: d enters both moments, and the model moves by
    /// floor((2 * num * 2^s * m' + den * q) / (2 * den * q)) with the step num/den and q = r' + tau.
    function _adaptiveStep(Format memory f, Coordinate memory at, int256 d)
        private
        pure
        returns (Coordinate memory next)
    {
        int256 move = _clamp(d, -MOVE_MAGNITUDE, MOVE_MAGNITUDE) << MOMENT_BITS;
        int256 first = _firstMoment(_clamp(at.first, -MOMENT_MAGNITUDE, MOMENT_MAGNITUDE), move, f);
        // forge-lint: disable-next-line(unsafe-typecast) clamped to what is not negative, and a square
        uint256 second = _secondMoment(uint256(_clamp(at.second, 0, MOMENT_MAGNITUDE)), uint256(move * move), f);
        int256 scaled = int256(uint256(f.stepNum)) * first << f.modelScaleBits;
        next.model = sat32(at.model + _halfUp(scaled, uint256(f.stepDen) * (second + f.tau)));
        // forge-lint: disable-next-line(unsafe-typecast) at most MOMENT_MAGNITUDE
        (next.first, next.second) = (sat32(first), int32(uint32(second)));
    }

    /// @dev floor((2 * (num * m + (den - num) * D) + den) / (2 * den)), with the momentum num/den and D = `move`.
    function _firstMoment(int256 first, int256 move, Format memory f) private pure returns (int256) {
        int256 kept = int256(uint256(f.momentumNum));
        return _halfUp(kept * first + (int256(uint256(f.momentumDen)) - kept) * move, f.momentumDen);
    }

    /// @dev The root, rounded down, of the second moment that `root` and the move's square lead to.
    function _secondMoment(uint256 root, uint256 square, Format memory f) private pure returns (uint256) {
        uint256 before = root * root;
        uint256 moment = before + square;
        if (f.server != ServerKind.Adagrad) {
            uint256 entering = uint256(f.secondDen - f.secondNum) * square;
            if (f.server == ServerKind.Adam) moment = (f.secondNum * before + entering) / f.secondDen;
            else moment = _yogi(before, square, entering / f.secondDen);
        }
        return Math.min(Math.sqrt(moment), uint256(MOMENT_MAGNITUDE));
    }

    /// @dev Toward the square by `part` of it, and past it where that is near: v - sign(v - D^2) * part.
    function _yogi(uint256 before, uint256 square, uint256 part) private pure returns (uint256) {
        if (before == square) return before;
        return before < square ? before + part : before - part;
    }

    /// @dev dividend / divisor rounded to the nearest, halves up.
    function _halfUp(int256 dividend, uint256 divisor) private pure returns (int256) {
        // forge-lint: disable-next-line(unsafe-typecast) bounded by checkWidths and checkServer
        int256 half = int256(divisor);
        return floorDiv(2 * dividend + half, 2 * half);
    }

    function _clamp(int256 value, int256 least, int256 most) private pure returns (int256) {
        if (value < least) return least;
        return value > most ? most : value;
    }

    /// @notice Division that rounds toward minus infinity, as Python's and numpy's; Solidity's truncates.
    /// @dev Reverts InvalidDivisor for a divisor that is not positive.
    function floorDiv(int256 dividend, int256 divisor) internal pure returns (int256 quotient) {
        if (divisor <= 0) revert InvalidDivisor(divisor);
        quotient = dividend / divisor;
        if (dividend < 0 && dividend % divisor != 0) --quotient;
    }

    /// @notice The nearest int32.
    function sat32(int256 value) internal pure returns (int32) {
        if (value > type(int32).max) return type(int32).max;
        if (value < type(int32).min) return type(int32).min;
        // forge-lint: disable-next-line(unsafe-typecast) checked on the two lines above
        return int32(value);
    }
}
