// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The stake-weighted lower median of a few votes.
/// @dev Leaves its arguments as they are, so that the same stakes serve weights and scores.
library WeightedMedian {
    /// @notice The smallest value whose cumulative stake reaches half of the total stake.
    /// @param values below 2^128, in any order.
    /// @param stakes below 2^128, one for each value. An entry without stake counts for nothing.
    /// @return The median; 0 when there are no entries or no stake at all.
    /// @dev At most 16 votes a task, mostly equal or nearly so: insertion is linear on those, and needs no recursion.
    function lowerMedian(uint256[] memory values, uint256[] memory stakes) internal pure returns (uint256) {
        (uint256[] memory sorted, uint256 total) = _sort(values, stakes);
        if (total == 0) return 0;

        uint256 cumulative;
        uint256 i;
        unchecked {
            // INVARIANT: ends within the array, since the cumulative stake of all entries is the total.
            while ((cumulative += uint128(sorted[i])) * 2 < total) ++i;
        }
        return sorted[i] >> 128;
    }

    /// @dev Returns `value << 128 | stake` in ascending order, and the sum of the stakes.
    function _sort(uint256[] memory values, uint256[] memory stakes)
        private
        pure
        returns (uint256[] memory sorted, uint256 total)
    {
        uint256 length = values.length;
        sorted = new uint256[](length);
        unchecked {
            for (uint256 i; i < length; ++i) {
                uint256 stake = stakes[i];
                uint256 key = values[i] << 128 | stake;
                total += stake;
                uint256 at = i;
                for (; at > 0 && sorted[at - 1] > key; --at) {
                    sorted[at] = sorted[at - 1];
                }
                sorted[at] = key;
            }
        }
    }
}
