// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Integer aggregation of one coordinate, bit for bit what `chainfl/aggregation` computes for all of them.
/// @notice A model value g stands for g * 2^-s (int32), an update value u for u * 2^-t (int16). See
/// docs/protocol.md, Numbers. Both sides are driven by tests/vectors/{fixed_point,mean_rule}.json.
library FixedPoint {
    /// @dev The weight with which an update counts in full; 0 rejects it.
    uint256 internal constant MAX_WEIGHT = 10_000;
    /// @dev The largest magnitude of an int16.
    uint256 internal constant UPDATE_MAGNITUDE = 32_768;
    /// @dev Python's side of the rule is int64: every intermediate stays below this.
    uint256 internal constant LIMIT = 1 << 63;
    /// @dev A larger shift leaves int64 whatever the other parameters are.
    uint256 internal constant MAX_SHIFT = 63;

    error InvalidStep(uint32 num, uint32 den);
    error InvalidScaleBits(uint8 modelScaleBits, uint8 updateScaleBits);
    error NoWorkers();
    error WidthOverflow(uint256 numerator, uint256 denominator);
    error LengthMismatch(uint256 updates, uint256 weights);
    error WeightTooLarge(uint256 index, uint16 weight);
    error ZeroTotalWeight();
    error InvalidDivisor(int256 divisor);
    error InvalidMomentum(uint32 num, uint32 den);
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

    /// @notice The same for the server's momentum num/den; 0 and 0 is the plain step.
    /// @dev Reverts InvalidMomentum, WidthOverflow.
    function checkMomentum(uint32 num, uint32 den) internal pure {
        if (num > den) revert InvalidMomentum(num, den);
        uint256 numerator = (uint256(num) << 32) + 2 * uint256(den);
        if (numerator >= LIMIT) revert WidthOverflow(numerator, 2 * uint256(den));
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
        // forge-lint: disable-next-line(unsafe-typecast) both factors were bounded by checkWidths
        int256 half = int256(uint256(den) * totalWeight);
        return floorDiv(2 * int256(uint256(num)) * scaledSum + half, 2 * half);
    }

    /// @notice m' = sat32(floor((2 * num * m + den) / (2 * den)) + d): the server's state after a step with momentum
    /// num/den. The model follows as sat32(g + m').
    /// @dev The momentum is one that `checkMomentum` accepted, with den > 0.
    function momentum(int32 state, int256 d, uint32 num, uint32 den) internal pure returns (int32) {
        int256 den_ = int256(uint256(den));
        return sat32(floorDiv(2 * int256(uint256(num)) * state + den_, 2 * den_) + d);
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
