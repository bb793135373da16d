// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { WeightedMedian } from "../../src/libraries/WeightedMedian.sol";
import { Test } from "../base/Test.sol";

/// @notice Follows WeightedMedian.tree.
contract WeightedMedianTest is Test {
    function test_lowerMedian__noEntries__isZero() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(new uint256[](0), new uint256[](0)), 0);
    }

    function test_lowerMedian__noStakeAtAll__isZero() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(7), _list(0)), 0);
        vm.assertEq(WeightedMedian.lowerMedian(_list(7, 8, 9), new uint256[](3)), 0);
    }

    function test_lowerMedian__oneEntry__isItsValue() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(7), _list(1)), 7);
        vm.assertEq(WeightedMedian.lowerMedian(_list(0), _list(1)), 0);
    }

    function test_lowerMedian__evenCount__isLowerMiddle() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(20, 10), _list(1, 1)), 10);
        vm.assertEq(WeightedMedian.lowerMedian(_list(40, 10, 30, 20), _list(5, 5, 5, 5)), 20);
    }

    function test_lowerMedian__oddCount__isMiddle() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(9, 1, 5), _list(2, 2, 2)), 5);
    }

    function test_lowerMedian__oneWeiBelowHalf__goesOn() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(1, 2), _list(1 ether - 1, 1 ether)), 2);
    }

    function test_lowerMedian__exactlyHalf__stops() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(1, 2), _list(1 ether, 1 ether)), 1);
    }

    function test_lowerMedian__oneWeiAboveHalf__stops() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(1, 2), _list(1 ether + 1, 1 ether)), 1);
    }

    function test_lowerMedian__oddTotal__roundsHalfUp() external pure {
        // 2 of 5 is less than half; 3 of 5 is more.
        vm.assertEq(WeightedMedian.lowerMedian(_list(1, 2, 3), _list(2, 1, 2)), 2);
    }

    function test_lowerMedian__entriesWithoutStake__areSkipped() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(0, 5, 9), _list(0, 1, 0)), 5);
        vm.assertEq(WeightedMedian.lowerMedian(_list(9, 0, 5), _list(0, 0, 1)), 5);
        vm.assertEq(WeightedMedian.lowerMedian(_list(3, 4, 7), _list(1, 0, 1)), 3);
    }

    function test_lowerMedian__equalValues__addStakes() external pure {
        vm.assertEq(WeightedMedian.lowerMedian(_list(7, 3, 7, 3), _list(1, 2, 3, 4)), 3);
        vm.assertEq(WeightedMedian.lowerMedian(_list(7, 3, 7, 3), _list(4, 2, 3, 4)), 7);
    }

    function test_lowerMedian__sixteenInAnyRotation__isTheSame() external pure {
        for (uint256 shift; shift < 16; ++shift) {
            (uint256[] memory up, uint256[] memory down, uint256[] memory stakes) = _sixteen(shift);
            vm.assertEq(WeightedMedian.lowerMedian(up, stakes), 8);
            vm.assertEq(WeightedMedian.lowerMedian(down, stakes), 8);
        }
    }

    function test_lowerMedian__largestValuesAndStakes__doNotOverflow() external pure {
        uint256 most = type(uint128).max;
        vm.assertEq(WeightedMedian.lowerMedian(_list(most, most, most), _list(most, most, most)), most);
        vm.assertEq(WeightedMedian.lowerMedian(_list(most, 0), _list(most, most)), 0);
        vm.assertEq(WeightedMedian.lowerMedian(_list(most, 0), _list(most, most - 1)), most);
    }

    function test_lowerMedian__arguments__stayAsTheyWere() external pure {
        uint256[] memory values = _list(9, 1, 5, 3);
        uint256[] memory stakes = _list(1, 2, 3, 4);
        bytes32 before = keccak256(abi.encode(values, stakes));
        WeightedMedian.lowerMedian(values, stakes);
        vm.assertEq(keccak256(abi.encode(values, stakes)), before);
    }

    function test_lowerMedian__vectors__giveTheirMedians() external view {
        string memory json = vm.readFile("tests/vectors/weighted_median.json");
        uint256 i;
        for (string memory at = _at(i); vm.keyExistsJson(json, at); at = _at(++i)) {
            uint256[] memory values = vm.parseJsonUintArray(json, string.concat(at, ".values"));
            uint256[] memory stakes = vm.parseJsonUintArray(json, string.concat(at, ".stakes"));
            uint256 median = vm.parseJsonUint(json, string.concat(at, ".median"));
            vm.assertEq(
                WeightedMedian.lowerMedian(values, stakes), median, vm.parseJsonString(json, string.concat(at, ".name"))
            );
        }
        vm.assertGe(i, 60);
    }

    function test_lowerMedian__sixteenVotes__areCheap() external view {
        (uint256[] memory up, uint256[] memory down, uint256[] memory stakes) = _sixteen(0);
        vm.assertLt(_gasOf(stakes, stakes), 15_000);
        vm.assertLt(_gasOf(up, stakes), 15_000);
        vm.assertLt(_gasOf(down, stakes), 50_000);
    }

    function _gasOf(uint256[] memory values, uint256[] memory stakes) private view returns (uint256) {
        uint256 before = gasleft();
        WeightedMedian.lowerMedian(values, stakes);
        return before - gasleft();
    }

    function _at(uint256 i) private pure returns (string memory) {
        return string.concat(".cases[", vm.toString(i), "]");
    }

    /// @dev 1 to 16 ascending and descending, rotated, and equal stakes.
    function _sixteen(uint256 shift)
        private
        pure
        returns (uint256[] memory up, uint256[] memory down, uint256[] memory stakes)
    {
        (up, down, stakes) = (new uint256[](16), new uint256[](16), new uint256[](16));
        for (uint256 i; i < 16; ++i) {
            up[i] = 1 + (i + shift) % 16;
            down[i] = 16 - (i + shift) % 16;
            stakes[i] = 300 ether;
        }
    }

    function _list(uint256 a) private pure returns (uint256[] memory list) {
        list = new uint256[](1);
        list[0] = a;
    }

    function _list(uint256 a, uint256 b) private pure returns (uint256[] memory list) {
        list = new uint256[](2);
        (list[0], list[1]) = (a, b);
    }

    function _list(uint256 a, uint256 b, uint256 c) private pure returns (uint256[] memory list) {
        list = new uint256[](3);
        (list[0], list[1], list[2]) = (a, b, c);
    }

    function _list(uint256 a, uint256 b, uint256 c, uint256 d) private pure returns (uint256[] memory list) {
        list = new uint256[](4);
        (list[0], list[1], list[2], list[3]) = (a, b, c, d);
    }
}
