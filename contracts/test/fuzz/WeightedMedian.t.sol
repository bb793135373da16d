// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { WeightedMedian } from "../../src/libraries/WeightedMedian.sol";
import { Test } from "../base/Test.sol";

/// @notice Properties of the weighted median, over votes of up to 16 validators.
contract WeightedMedianFuzz is Test {
    function testFuzz_lowerMedian__anyVotes__fitsTheDefinition(uint256 seed) external pure {
        (uint256[] memory values, uint256[] memory stakes) = _votes(seed, type(uint128).max);
        vm.assertEq(WeightedMedian.lowerMedian(values, stakes), _byDefinition(values, stakes));
    }

    function testFuzz_lowerMedian__fewDistinctVotes__fitsTheDefinition(uint256 seed) external pure {
        (uint256[] memory values, uint256[] memory stakes) = _votes(seed, 3);
        vm.assertEq(WeightedMedian.lowerMedian(values, stakes), _byDefinition(values, stakes));
    }

    function testFuzz_lowerMedian__anyOrder__isTheSame(uint256 seed) external pure {
        (uint256[] memory values, uint256[] memory stakes) = _votes(seed, 10_000);
        uint256 median = WeightedMedian.lowerMedian(values, stakes);
        for (uint256 i = values.length; i > 1; --i) {
            seed = _next(seed);
            uint256 j = seed % i;
            (values[i - 1], values[j]) = (values[j], values[i - 1]);
            (stakes[i - 1], stakes[j]) = (stakes[j], stakes[i - 1]);
        }
        vm.assertEq(WeightedMedian.lowerMedian(values, stakes), median);
    }

    function testFuzz_lowerMedian__anyVotes__leavesArguments(uint256 seed) external pure {
        (uint256[] memory values, uint256[] memory stakes) = _votes(seed, 10_000);
        bytes32 before = keccak256(abi.encode(values, stakes));
        WeightedMedian.lowerMedian(values, stakes);
        vm.assertEq(keccak256(abi.encode(values, stakes)), before);
    }

    /// @dev What splitting one's stake over two accounts that vote alike gains: nothing.
    function testFuzz_lowerMedian__stakeSplitInTwo__isTheSame(uint256 seed) external pure {
        (uint256[] memory values, uint256[] memory stakes) = _votes(seed, 10_000);
        uint256 length = values.length;
        (uint256[] memory more, uint256[] memory parts) = (new uint256[](length + 1), new uint256[](length + 1));
        for (uint256 i; i < length; ++i) {
            (more[i], parts[i]) = (values[i], stakes[i]);
        }
        uint256 part = bound(_next(seed), 0, stakes[0]);
        parts[0] -= part;
        (more[length], parts[length]) = (values[0], part);
        vm.assertEq(WeightedMedian.lowerMedian(more, parts), WeightedMedian.lowerMedian(values, stakes));
    }

    /// @dev With more than half of the stake honest, the median lies among the honest votes, whatever the others say.
    function testFuzz_lowerMedian__honestMajority__boundsIt(uint256 seed, uint256 low, uint256 high) external pure {
        low = bound(low, 0, 10_000);
        high = bound(high, low, 10_000);
        (uint256[] memory values, uint256[] memory stakes) = _votes(seed, type(uint16).max);
        uint256 hostile;
        for (uint256 i = 1; i < values.length; ++i) {
            hostile += stakes[i];
        }
        values[0] = bound(values[0], low, high);
        stakes[0] = hostile + 1;
        uint256 median = WeightedMedian.lowerMedian(values, stakes);
        vm.assertGe(median, low);
        vm.assertLe(median, high);
    }

    /// @dev 1 to 16 votes; some without stake.
    function _votes(uint256 seed, uint256 maximum)
        private
        pure
        returns (uint256[] memory values, uint256[] memory stakes)
    {
        uint256 length = 1 + seed % 16;
        (values, stakes) = (new uint256[](length), new uint256[](length));
        for (uint256 i; i < length; ++i) {
            seed = _next(seed);
            values[i] = bound(seed, 0, maximum);
            seed = _next(seed);
            stakes[i] = seed % 5 == 0 ? 0 : bound(seed, 1, type(uint96).max);
        }
    }

    function _byDefinition(uint256[] memory values, uint256[] memory stakes) private pure returns (uint256 median) {
        uint256 total;
        for (uint256 i; i < stakes.length; ++i) {
            total += stakes[i];
        }
        if (total == 0) return 0;
        median = type(uint256).max;
        for (uint256 i; i < values.length; ++i) {
            uint256 cumulative;
            for (uint256 j; j < values.length; ++j) {
                if (values[j] <= values[i]) cumulative += stakes[j];
            }
            if (2 * cumulative >= total && values[i] < median) median = values[i];
        }
    }

    function _next(uint256 seed) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed)));
    }
}
