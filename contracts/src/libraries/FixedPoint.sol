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
        for (uint256 i = 0; i < updates.length; ++i) {
            uint16 weight = weights[i];
            if (weight > MAX_WEIGHT) revert WeightTooLarge(i, weight);
            weightedSum += int256(updates[i]) * int256(uint256(weight));
            totalWeight += weight;
        }
    }

    /// @notice sat32(g + floor((2 * num * a + den * W) / (2 * den * W))): the step num/den of the mean a / W.
    /// @param scaledSum a, the weighted sum at the model's scale.
    /// @dev Reverts ZeroTotalWeight: such a round is void, and never divided.
    function applyStep(int32 model, int256 scaledSum, uint256 totalWeight, uint32 num, uint32 den)
        internal
        pure
        returns (int32)
    {
        if (totalWeight == 0) revert ZeroTotalWeight();
        // forge-lint: disable-next-line(unsafe-typecast) both factors were bounded by checkWidths
        int256 half = int256(uint256(den) * totalWeight);
        return sat32(model + floorDiv(2 * int256(uint256(num)) * scaledSum + half, 2 * half));
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
